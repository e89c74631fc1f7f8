//! Kills jobmanagers and taskmanagers of a job on this machine, and judges what it committed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use weir_tests::chaos::{Campaign, Job};

#[derive(Parser)]
#[command(about = "Runs a job as processes on this machine, kills them, and checks the committed output")]
struct Cli {
    /// SIGKILLs in all
    #[arg(long, default_value_t = 200)]
    kills: u64,
    /// Decides every step; printed on failure
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// SIGKILLs of one run at the most
    #[arg(long, default_value_t = 10)]
    kills_per_run: u64,
    /// What is run
    #[arg(long, value_enum, default_value_t = JobName::Flights)]
    job: JobName,
    /// Flights: readings of the input in one run
    #[arg(long, default_value_t = 12)]
    repeat: u64,
    /// Functions: seconds that the input of one run lasts
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// SIGKILLs and nothing else: no SIGTERM, SIGSTOP, stop with savepoint or second jobmanager
    #[arg(long)]
    only_kills: bool,
    /// Folder for the runs [default: that for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Print every step
    #[arg(long)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum JobName {
    /// The flights example
    Flights,
    /// Windows, sessions, timers, two inputs, broadcast state, asynchronous calls
    Functions,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let campaign = Campaign {
        seed: cli.seed,
        kills: cli.kills,
        kills_per_run: cli.kills_per_run,
        job: match cli.job {
            JobName::Flights => Job::Flights { repeat: cli.repeat },
            JobName::Functions => Job::Functions { seconds: cli.seconds },
        },
        only_kills: cli.only_kills,
        dir: cli.dir,
        verbose: cli.verbose,
    };
    match campaign.execute() {
        Ok(summary) => {
            println!("weir-chaos: {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("weir-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}
