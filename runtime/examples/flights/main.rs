//! Departures per aircraft: a keyed, stateful job on real input. See README.md beside this file.
use std::process::ExitCode;
use weir::prelude::*;

/// A line of the input; the columns that the job does not use are skipped.
#[derive(Clone, Debug, Record, Deserialize)]
struct Departure {
    /// UTC, to the minute; empty when the flight was cancelled.
    departed: Str,
    carrier: Str,
    flight: u32,
    /// Tail number of the aircraft; empty when unknown.
    tail: Str,
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
    departed: Str,
    /// Departures of this aircraft so far, with this one.
    legs: u64,
    /// Those that left more than 15 minutes late.
    late: u64,
    /// The largest delay so far, in minutes.
    worst_delay_min: Option<i32>,
}

/// Delay in minutes above which a departure counts as late.
const LATE: i32 = 15;

impl Legs {
    fn add(&mut self, d: Departure) -> Leg {
        self.legs += 1;
        self.late += u64::from(d.dep_delay_min.is_some_and(|m| m > LATE));
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

/// The job's own arguments.
#[derive(clap::Args)]
struct Arguments {
    /// CSV file with the flights, plain or compressed.
    #[arg(long)]
    input: String,
    /// Folder for the output: part-* files of JSON lines.
    #[arg(long)]
    output: String,
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
    job.source("departures", input)
        .filter(|d| !d.departed.is_empty())
        .name("departed")
        .filter(|d| !d.tail.is_empty())
        .name("known-aircraft")
        .key_by(|d| &d.tail)
        .process("legs", |legs: &mut Legs, d, out| out.push(legs.add(d)))
        .sink("out", FileSink::json_lines(&args.output));
    Ok(())
}

fn main() -> ExitCode {
    weir::main(flights)
}
