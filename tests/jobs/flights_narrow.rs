//! The flights job with another type in its state: what the example wrote does not fit it, so an upgrade to it must be refused.
use std::process::ExitCode;
use weir::prelude::*;

#[derive(Clone, Debug, Record, Deserialize)]
struct Departure {
    departed: Str,
    tail: Str,
    dep_delay_min: Option<i32>,
}

/// As in the example, but for one field.
#[derive(Clone, Default, State)]
struct Legs {
    legs: u64,
    /// A `u64` there.
    late: u32,
    worst_delay_min: Option<i32>,
}

#[derive(Clone, Record, Serialize)]
struct Leg {
    tail: Str,
    departed: Str,
    legs: u64,
    late: u32,
    worst_delay_min: Option<i32>,
}

/// The example's arguments that a `StreamJob` of the tests gives.
#[derive(clap::Args)]
struct Arguments {
    #[arg(long)]
    input: String,
    #[arg(long)]
    output: String,
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 1)]
    repeat: u64,
}

fn flights(job: &mut Job, args: &Arguments) -> weir::Result<()> {
    job.source("departures", FileSource::csv::<Departure>(&args.input).repeat(args.repeat).rate(args.rate))
        .filter(|d| !d.departed.is_empty() && !d.tail.is_empty())
        .key_by(|d| &d.tail)
        .process("legs", |state: &mut Legs, d, out| {
            state.legs += 1;
            state.late += u32::from(d.dep_delay_min > Some(15));
            state.worst_delay_min = state.worst_delay_min.max(d.dep_delay_min);
            out.push(Leg {
                tail: d.tail,
                departed: d.departed,
                legs: state.legs,
                late: state.late,
                worst_delay_min: state.worst_delay_min,
            });
        })
        .sink("out", FileSink::json_lines(&args.output));
    Ok(())
}

fn main() -> ExitCode {
    weir::main(flights)
}
