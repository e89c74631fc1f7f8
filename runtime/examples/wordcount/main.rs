//! Counts words: the smallest stateful job. `wordcount local --input FILE`
use std::process::ExitCode;
use weir::prelude::*;

#[derive(clap::Args)]
struct Arguments {
    /// Text file, plain or compressed.
    #[arg(long)]
    input: String,
}

fn counts(lines: &Stream<Str>) -> Stream<(Str, u64)> {
    lines
        .flat_map(|line: Str, out| line.split_ascii_whitespace().for_each(|word| out.push((Str::from(word), 1u64))))
        .key_by(|(word, _)| word)
        .reduce("count", |total, one| total.1 += one.1)
}

fn word_count(job: &mut Job, args: &Arguments) -> weir::Result<()> {
    counts(&job.source("lines", FileSource::lines(&args.input)))
        .map(|(word, count)| format_str!("{word} {count}"))
        .sink("out", Print::text());
    Ok(())
}

fn main() -> ExitCode {
    weir::main(word_count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir::testing::OperatorHarness;

    #[test]
    fn each_word_comes_with_its_number_so_far_and_the_counts_survive_a_restart() {
        let mut h = OperatorHarness::new(|lines: Stream<Str>| counts(&lines)).unwrap();
        h.push("to be or  not".into()).unwrap();
        h.push("to be".into()).unwrap();
        let words = [("to", 1), ("be", 1), ("or", 1), ("not", 1), ("to", 2), ("be", 2)];
        assert_eq!(h.output().unwrap(), words.map(|(word, n)| (Str::from(word), n)));
        let snapshot = h.snapshot().unwrap();
        let mut h = h.restore(&snapshot, 3).unwrap();
        h.push("to".into()).unwrap();
        assert_eq!(h.output().unwrap(), [("to".into(), 3)]);
    }
}
