//! The command line of a job's program: `jobmanager | taskmanager | local | plan`, each with the job's own arguments.
mod local;
pub mod options;
pub mod plan;
mod run;
mod standby;

use crate::error::Result;
use crate::graph::{JobGraph, LogicalGraph};
use crate::job::Job;
use clap::{Args, Parser, Subcommand};
use options::{JobManagerOptions, JobOptions, TaskManagerOptions};
use std::process::ExitCode;

/// Runs the program of a job: parses the command line, builds the graph, becomes what the subcommand says.
///
/// `job` declares the graph from its own arguments. Every process of the job calls it, so it must not depend on anything but
/// the arguments.
pub fn main<A: Args>(job: impl Fn(&mut Job, &A) -> Result<()>) -> ExitCode {
    let program = std::env::args().next().unwrap_or_default();
    let program = std::path::Path::new(&program).file_stem().map_or("job".into(), |s| s.to_string_lossy().into_owned());
    let cli = Cli::<A>::parse();
    match start(&program, cli, job) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("{program}: {e}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Parser)]
#[command(version, about = None, long_about = None)]
struct Cli<A: Args> {
    #[command(subcommand)]
    command: Command<A>,
}

#[derive(Subcommand)]
enum Command<A: Args> {
    /// Run the whole job in this process
    Local {
        #[command(flatten)]
        args: A,
        #[command(flatten)]
        job: JobOptions,
    },
    /// Coordinate the job: schedule, checkpoint, serve REST
    Jobmanager {
        #[command(flatten)]
        args: A,
        #[command(flatten)]
        job: JobOptions,
        #[command(flatten)]
        addresses: JobManagerOptions,
    },
    /// Run subtasks for a jobmanager
    Taskmanager {
        #[command(flatten)]
        args: A,
        #[command(flatten)]
        options: TaskManagerOptions,
    },
    /// Print what would run
    Plan {
        #[command(flatten)]
        args: A,
        #[command(flatten)]
        job: JobOptions,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

fn build<A>(job: impl Fn(&mut Job, &A) -> Result<()>, args: &A) -> Result<LogicalGraph> {
    let mut declared = Job::default();
    job(&mut declared, args)?;
    Ok(declared.into_graph())
}

fn start<A: Args>(program: &str, cli: Cli<A>, job: impl Fn(&mut Job, &A) -> Result<()>) -> Result<ExitCode> {
    let env = options::from_environment(std::env::var(weir_api::config::CONFIG_ENV).ok().as_deref())?;
    match cli.command {
        Command::Local { args, job: options } => {
            let config = options.apply(program, None)?;
            let graph = build(job, &args)?;
            graph.validate(config.max_parallelism)?;
            run::local(config, graph)
        }
        Command::Jobmanager { args, job: options, addresses } => {
            let config = options::jobmanager(program, &addresses, &options, env)?;
            let graph = build(job, &args)?;
            graph.validate(config.job.max_parallelism)?;
            run::jobmanager(config, graph)
        }
        Command::Taskmanager { args, options } => {
            let config = options::taskmanager(&options, env)?;
            run::taskmanager(config, build(job, &args)?)
        }
        Command::Plan { args, job: options, json } => {
            let config = options.apply(program, None)?;
            let graph = build(job, &args)?;
            graph.validate(config.max_parallelism)?;
            let plan = JobGraph::new(&graph, config.parallelism, config.max_parallelism);
            println!("{}", if json { plan::json(&graph, &plan) } else { plan::text(&graph, &plan) });
            Ok(ExitCode::SUCCESS)
        }
    }
}
