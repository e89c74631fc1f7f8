//! A job whose code does not return while a file exists: for what becomes of a process that nobody can interrupt.
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use weir::prelude::*;

#[derive(clap::Args)]
struct Arguments {
    /// While it exists, no record gets any further.
    #[arg(long)]
    hold: PathBuf,
}

fn stuck(job: &mut Job, args: &Arguments) -> weir::Result<()> {
    let hold = args.hold.clone();
    job.source("numbers", Generator::unbounded(|i| i).rate(1000.0))
        .map(move |i| {
            while hold.exists() {
                // who waits for it learns that a record has got here
                let _ = std::fs::write(hold.with_extension("entered"), "");
                std::thread::sleep(Duration::from_millis(5));
            }
            i
        })
        .sink("out", Blackhole);
    Ok(())
}

fn main() -> ExitCode {
    weir::main(stuck)
}
