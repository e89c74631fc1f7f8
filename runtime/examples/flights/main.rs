//! Departures per aircraft: a keyed, stateful job on real input; on demand departures per airport and hour, in windows of
//! event time. See README.md beside this file.
mod minute;

use minute::Minute;
use std::process::ExitCode;
use std::time::Duration;
use weir::prelude::*;

/// A line of the input; the columns that the job does not use are skipped.
#[derive(Clone, Debug, Record, Serialize, Deserialize)]
struct Departure {
    /// UTC, to the minute; none when the flight was cancelled.
    departed: Option<Minute>,
    carrier: Str,
    flight: u32,
    /// Tail number of the aircraft; empty when unknown.
    tail: Str,
    /// Airport.
    origin: Str,
    dep_delay_min: Option<i32>,
}

/// What is kept per aircraft.
#[derive(Clone, Default, State)]
struct Legs {
    legs: u64,
    late: u64,
    worst_delay_min: Option<i32>,
}

/// A line of the output.
#[derive(Clone, Record, Serialize)]
struct Leg {
    tail: Str,
    /// Carrier and number.
    flight: Str,
    departed: Option<Minute>,
    /// Departures of this aircraft so far, with this one.
    legs: u64,
    /// Those that left more than 15 minutes late.
    late: u64,
    /// The largest delay so far, in minutes.
    worst_delay_min: Option<i32>,
}

/// Delay in minutes above which a departure counts as late.
const LATE: i32 = 15;

impl Departure {
    fn is_late(&self) -> bool {
        self.dep_delay_min.is_some_and(|m| m > LATE)
    }
}

impl Legs {
    fn add(&mut self, d: Departure) -> Leg {
        self.legs += 1;
        self.late += u64::from(d.is_late());
        self.worst_delay_min = self.worst_delay_min.max(d.dep_delay_min);
        Leg {
            flight: format_str!("{}{}", d.carrier, d.flight),
            tail: d.tail,
            departed: d.departed,
            legs: self.legs,
            late: self.late,
            worst_delay_min: self.worst_delay_min,
        }
    }
}

/// What is kept per airport and hour.
#[derive(Clone, Default, State)]
struct Sums {
    flights: u64,
    late: u64,
    /// Flights whose delay is known, and the sum of these delays.
    delays: u64,
    delay_min: i64,
}

/// Adds up the departures of a window.
#[derive(Clone)]
struct Departures;

impl AggregateFunction for Departures {
    type In = Departure;
    type Acc = Sums;
    type Out = Sums;
    fn create(&self) -> Sums {
        Sums::default()
    }
    fn add(&self, sums: &mut Sums, d: Departure) {
        sums.flights += 1;
        sums.late += u64::from(d.is_late());
        sums.delays += u64::from(d.dep_delay_min.is_some());
        sums.delay_min += i64::from(d.dep_delay_min.unwrap_or(0));
    }
    fn result(&self, sums: &Sums) -> Sums {
        sums.clone()
    }
    fn merge(&self, sums: &mut Sums, other: Sums) {
        sums.flights += other.flights;
        sums.late += other.late;
        sums.delays += other.delays;
        sums.delay_min += other.delay_min;
    }
}

/// A line of the windows' output: one for each firing, the last one of a window counts.
#[derive(Clone, Record, Serialize)]
struct Hour {
    origin: Str,
    window_start: Minute,
    flights: u64,
    late: u64,
    mean_delay_min: Option<f64>,
}

impl Hour {
    fn new(origin: &Str, window: &TimeWindow, sums: &Sums) -> Self {
        Self {
            origin: origin.clone(),
            window_start: Minute::of_ms(window.start),
            flights: sums.flights,
            late: sums.late,
            mean_delay_min: (sums.delays > 0).then(|| sums.delay_min as f64 / sums.delays as f64),
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);
/// Departures come so much later than others with a later time; the file is in the order of the schedule.
const OUT_OF_ORDER: Duration = Duration::from_secs(30 * 60);
/// Windows are corrected for so long.
const ALLOWED_LATENESS: Duration = Duration::from_secs(6 * 3600);
/// Departures that came later still.
const TOO_LATE: OutputTag<Departure> = OutputTag::new("too-late");

/// The job's own arguments.
#[derive(clap::Args)]
struct Arguments {
    /// CSV file with the flights, plain or compressed.
    #[arg(long)]
    input: String,
    /// Folder for the output: part-* files of JSON lines.
    #[arg(long)]
    output: String,
    /// Also count departures per airport and hour: folder for `hours/part-*`, and `late/part-*` for those that came too late.
    #[arg(long, value_name = "DIR")]
    windows: Option<String>,
    /// Read so many records per second; without it as fast as they go.
    #[arg(long)]
    rate: Option<f64>,
    /// Read the input so many times over.
    #[arg(long, default_value_t = 1)]
    repeat: u64,
    /// Leave out rows that cannot be read, instead of failing: they are counted, and logged now and then.
    #[arg(long)]
    skip_bad_records: bool,
}

fn flights(job: &mut Job, args: &Arguments) -> weir::Result<()> {
    let bad = if args.skip_bad_records { BadRecord::Skip } else { BadRecord::Fail };
    let input = FileSource::csv::<Departure>(&args.input).repeat(args.repeat).rate(args.rate).on_bad_record(bad);
    let departures = job.source("departures", input);
    departures
        .filter(|d| d.departed.is_some())
        .name("departed")
        .filter(|d| !d.tail.is_empty())
        .name("known-aircraft")
        .key_by(|d| &d.tail)
        .process("legs", |legs: &mut Legs, d, out| out.push(legs.add(d)))
        .sink("out", FileSink::json_lines(&args.output));
    if let Some(folder) = &args.windows {
        let event_time = WatermarkStrategy::bounded_out_of_orderness(OUT_OF_ORDER)
            .timestamps(|d: &Departure| d.departed.map_or(i64::MIN, Minute::ms))
            .at_multiples_of(HOUR);
        let hours = departures
            .watermarks(event_time)
            .filter(|d| d.departed.is_some())
            .key_by(|d| &d.origin)
            .window(Tumbling::of(HOUR))
            .allowed_lateness(ALLOWED_LATENESS)
            .late_output(TOO_LATE)
            .aggregate_with("hours", Departures, |origin, window, sums, out| {
                out.push(Hour::new(origin, window, &sums));
            });
        hours.side_output(TOO_LATE).sink("late", FileSink::json_lines(format!("{folder}/late")));
        hours.sink("windows", FileSink::json_lines(format!("{folder}/hours")));
    }
    Ok(())
}

fn main() -> ExitCode {
    weir::main(flights)
}

#[cfg(test)]
mod tests;
