//! Sessions of the visitors of a web site. See README.md beside this file.
use std::process::ExitCode;
use std::time::Duration;
use weir::prelude::*;

/// A line of the input.
#[derive(Clone, Record, Deserialize)]
struct Click {
    /// ms since the Unix epoch.
    at_ms: i64,
    visitor: Str,
    page: Str,
}

/// A line of the output.
#[derive(Clone, Debug, PartialEq, Record, Serialize)]
struct Visit {
    visitor: Str,
    /// The first click; ms since the Unix epoch.
    from_ms: i64,
    /// The last click; ms since the Unix epoch.
    to_ms: i64,
    clicks: u64,
    /// Page of the first click.
    entry: Str,
    /// Page of the last click.
    exit: Str,
}

/// A visitor who does nothing for so long has left.
const GAP: Duration = Duration::from_secs(30 * 60);
/// Clicks come at most so much later than others with a later time.
const OUT_OF_ORDER: Duration = Duration::from_secs(60);

/// A click as a visit of its own, merged with others of its session by [`join`].
fn visit(c: Click) -> Visit {
    Visit { visitor: c.visitor, from_ms: c.at_ms, to_ms: c.at_ms, clicks: 1, entry: c.page.clone(), exit: c.page }
}

fn join(visit: &mut Visit, other: Visit) {
    if other.from_ms < visit.from_ms {
        (visit.from_ms, visit.entry) = (other.from_ms, other.entry);
    }
    if other.to_ms >= visit.to_ms {
        (visit.to_ms, visit.exit) = (other.to_ms, other.exit);
    }
    visit.clicks += other.clicks;
}

fn visits(clicks: &Stream<Click>) -> Stream<Visit> {
    clicks
        .watermarks(WatermarkStrategy::bounded_out_of_orderness(OUT_OF_ORDER).timestamps(|c: &Click| c.at_ms))
        .map(visit)
        .key_by(|v| &v.visitor)
        .window(Session::with_gap(GAP))
        .reduce("visits", join)
}

/// The job's own arguments.
#[derive(clap::Args)]
struct Arguments {
    /// CSV file with the columns at_ms, visitor, page; plain or compressed.
    #[arg(long)]
    input: String,
    /// Folder for the output: part-* files of JSON lines.
    #[arg(long)]
    output: String,
}

fn sessionization(job: &mut Job, args: &Arguments) -> weir::Result<()> {
    let clicks = job.source("clicks", FileSource::csv::<Click>(&args.input));
    visits(&clicks).sink("out", FileSink::json_lines(&args.output));
    Ok(())
}

fn main() -> ExitCode {
    weir::main(sessionization)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir::testing::OperatorHarness;

    const MINUTE: i64 = 60_000;

    #[test]
    fn clicks_half_an_hour_apart_are_in_two_visits() {
        // minute, visitor, page; the third line bridges what were two visits so far
        let lines = [(10, "ann", "/"), (65, "ann", "/buy"), (36, "ann", "/shoes"), (66, "bob", "/"), (96, "ann", "/")];
        let click = |(minute, visitor, page): (i64, &str, &str)| Click {
            at_ms: minute * MINUTE,
            visitor: visitor.into(),
            page: page.into(),
        };
        let mut h = OperatorHarness::new(|clicks: Stream<Click>| visits(&clicks)).unwrap();
        h.push_all(lines.map(click)).unwrap();
        // event time is a minute behind the last click, which began a second visit 31 minutes after the first
        let mut found = h.output().unwrap();
        assert_eq!(found.len(), 1);
        h.finish().unwrap();
        found.extend(h.output().unwrap());
        found.sort_by_key(|v| (v.visitor.clone(), v.from_ms));
        let visit = |visitor: &str, from: i64, to: i64, clicks, entry: &str, exit: &str| Visit {
            visitor: visitor.into(),
            from_ms: from * MINUTE,
            to_ms: to * MINUTE,
            clicks,
            entry: entry.into(),
            exit: exit.into(),
        };
        let expected = [
            visit("ann", 10, 65, 3, "/", "/buy"),
            visit("ann", 96, 96, 1, "/", "/"),
            visit("bob", 66, 66, 1, "/", "/"),
        ];
        assert_eq!(found, expected);
    }
}
