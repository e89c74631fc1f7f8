//! Counts words: the smallest stateful job. `wordcount local --input FILE`
use std::process::ExitCode;
use weir::prelude::*;

#[derive(clap::Args)]
struct Arguments {
    /// Text file, plain or compressed.
    #[arg(long)]
    input: String,
}

fn word_count(job: &mut Job, args: &Arguments) -> weir::Result<()> {
    job.source("lines", FileSource::lines(&args.input))
        .flat_map(|line: Str, out| line.split_ascii_whitespace().for_each(|word| out.push((Str::from(word), 1u64))))
        .key_by(|(word, _)| word)
        .reduce("count", |total, one| total.1 += one.1)
        .map(|(word, count)| format_str!("{word} {count}"))
        .sink("out", Print::text());
    Ok(())
}

fn main() -> ExitCode {
    weir::main(word_count)
}
