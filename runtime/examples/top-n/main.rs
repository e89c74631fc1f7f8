//! The items looked at most in the last ten minutes, every minute. See README.md beside this file.
use std::process::ExitCode;
use std::time::Duration;
use weir::prelude::*;

/// A line of the input.
#[derive(Clone, Record, Deserialize)]
struct View {
    /// ms since the Unix epoch.
    at_ms: i64,
    item: Str,
}

/// How often an item was looked at in a window.
#[derive(Clone, Record)]
struct Views {
    /// End of the window; ms since the Unix epoch.
    until_ms: i64,
    item: Str,
    views: u64,
}

/// A line of the output.
#[derive(Clone, Debug, PartialEq, Record, Serialize)]
struct Ranked {
    until_ms: i64,
    /// 1 is the first.
    rank: u64,
    item: Str,
    views: u64,
}

const SIZE: Duration = Duration::from_secs(600);
const SLIDE: Duration = Duration::from_secs(60);
/// Views come at most so much later than others with a later time.
const OUT_OF_ORDER: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Count;

impl AggregateFunction for Count {
    type In = View;
    type Acc = u64;
    type Out = u64;
    fn create(&self) -> u64 {
        0
    }
    fn add(&self, views: &mut u64, _: View) {
        *views += 1;
    }
    fn result(&self, views: &u64) -> u64 {
        *views
    }
    fn merge(&self, views: &mut u64, other: u64) {
        *views += other;
    }
}

fn top(views: &Stream<View>, n: usize) -> Stream<Ranked> {
    let counts = views
        .watermarks(WatermarkStrategy::bounded_out_of_orderness(OUT_OF_ORDER).timestamps(|v: &View| v.at_ms))
        .key_by(|v| &v.item)
        .window(Sliding::of(SIZE, SLIDE))
        .aggregate_with("counts", Count, |item, window, views, out| {
            out.push(Views { until_ms: window.end, item: item.clone(), views });
        });
    // a result has the last millisecond of its window as its time: the counts of one window meet again in a window of SLIDE
    counts.key_by(|v| &v.until_ms).window(Tumbling::of(SLIDE)).process("top", move |_, _, all: &[Views], out| {
        let mut all: Vec<&Views> = all.iter().collect();
        all.sort_by(|a, b| b.views.cmp(&a.views).then_with(|| a.item.cmp(&b.item)));
        for (rank, v) in (1..).zip(all.into_iter().take(n)) {
            out.push(Ranked { until_ms: v.until_ms, rank, item: v.item.clone(), views: v.views });
        }
    })
}

/// The job's own arguments.
#[derive(clap::Args)]
struct Arguments {
    /// CSV file with the columns at_ms, item; plain or compressed.
    #[arg(long)]
    input: String,
    /// Folder for the output: part-* files of JSON lines.
    #[arg(long)]
    output: String,
    /// How many items.
    #[arg(long, default_value_t = 3)]
    n: usize,
}

fn top_n(job: &mut Job, args: &Arguments) -> weir::Result<()> {
    let views = job.source("views", FileSource::csv::<View>(&args.input));
    top(&views, args.n).sink("out", FileSink::json_lines(&args.output));
    Ok(())
}

fn main() -> ExitCode {
    weir::main(top_n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use weir::connectors::{Collect, random};

    const COUNT: u64 = 5_000;

    fn view(i: u64) -> View {
        let r = random(7, i);
        // the product of two evenly spread numbers: some items are looked at more than others
        let item = (r & 15) * ((r >> 4) & 15);
        View { at_ms: (i * 500) as i64 - ((r >> 8) & 4095) as i64, item: format_str!("item-{item}") }
    }

    fn naive(n: usize) -> Vec<Ranked> {
        let (size, slide) = (SIZE.as_millis() as i64, SLIDE.as_millis() as i64);
        let mut windows: BTreeMap<i64, BTreeMap<Str, u64>> = BTreeMap::new();
        for v in (0..COUNT).map(view) {
            let first_end = v.at_ms.div_euclid(slide) * slide + slide;
            for until in (first_end..first_end + size).step_by(slide as usize) {
                *windows.entry(until).or_default().entry(v.item.clone()).or_default() += 1;
            }
        }
        let mut rows = Vec::new();
        for (until_ms, items) in windows {
            let mut items: Vec<(Str, u64)> = items.into_iter().collect();
            items.sort_by_key(|(item, views)| (u64::MAX - views, item.clone()));
            rows.extend((1..).zip(items.into_iter().take(n)).map(|(rank, (item, views))| Ranked {
                until_ms,
                rank,
                item,
                views,
            }));
        }
        rows
    }

    #[test]
    fn the_top_items_of_every_minute_are_those_that_a_naive_count_gives() {
        for parallelism in [1, 2] {
            let out = Collect::new();
            let to = out.clone();
            let declare = move |job: &mut Job| {
                top(&job.source("views", Generator::new(COUNT, view)), 3).sink("out", to.clone());
            };
            weir::testing::run(parallelism, declare).unwrap();
            let mut found = out.records();
            found.sort_by_key(|r| (r.until_ms, r.rank));
            assert_eq!(found, naive(3), "at parallelism {parallelism}");
        }
    }
}
