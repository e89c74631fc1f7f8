//! A job with every kind of function, each with an output of its own: its processes are killed, and what it committed must be
//! exact.
mod input;
mod job;

use std::path::PathBuf;
use std::process::ExitCode;
use weir::prelude::*;

#[derive(clap::Args)]
struct Arguments {
    /// Folder for the outputs, each in a folder of its own
    #[arg(long)]
    output: PathBuf,
    /// Orders, and as many events; there are half as many payments
    #[arg(long)]
    records: u64,
    /// Orders per second
    #[arg(long)]
    rate: f64,
}

fn functions(job: &mut Job, args: &Arguments) -> Result<()> {
    let to = |name: &str| FileSink::json_lines(args.output.join(name));
    let results = job::declare(job, args.records, args.rate);
    results.windows.sink("windows-out", to("windows"));
    results.late.sink("late-out", to("late"));
    results.sessions.sink("sessions-out", to("sessions"));
    results.paid.sink("paid-out", to("paid"));
    results.unpaid.sink("unpaid-out", to("unpaid"));
    results.joined.sink("joined-out", to("joined"));
    results.called.sink("called-out", to("called"));
    results.ruled.sink("ruled-out", to("ruled"));
    results.held.sink("held-out", to("held"));
    Ok(())
}

fn main() -> ExitCode {
    weir::main(functions)
}
