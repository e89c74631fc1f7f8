//! The `weir` command: reads checkpoint storages without a cluster.
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use weir::checkpoint::inspect;
use weir_api::ids::JobName;

#[derive(Parser)]
#[command(name = "weir", version, about = "Looks into Weir's checkpoint storages")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List or show checkpoints and savepoints
    Checkpoint {
        #[command(subcommand)]
        command: Checkpoint,
    },
}

#[derive(Subcommand)]
enum Checkpoint {
    /// The log of a job, or of every job in the storage
    List {
        /// Folder or URL of the checkpoint storage
        #[arg(long, value_name = "DIR_OR_URL")]
        storage: String,
        /// NAMESPACE/NAME of the job
        #[arg(long, value_parser = job_name)]
        job: Option<JobName>,
    },
    /// What one snapshot holds
    Show {
        /// Folder or URL of the checkpoint storage
        #[arg(long, value_name = "DIR_OR_URL")]
        storage: String,
        /// NAMESPACE/NAME of the job; may be left out where the storage has just one
        #[arg(long, value_parser = job_name)]
        job: Option<JobName>,
        /// latest, the number of a checkpoint, or a path
        #[arg(default_value = "latest")]
        which: String,
    },
}

fn job_name(text: &str) -> Result<JobName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(JobName { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err("write NAMESPACE/NAME, as in default/flights".to_owned()),
    }
}

async fn run(command: Checkpoint) -> anyhow::Result<String> {
    match command {
        Checkpoint::List { storage, job } => Ok(inspect::list(&storage, job.as_ref()).await?),
        Checkpoint::Show { storage, job, which } => {
            let job = match job {
                Some(j) => j,
                None => match &weir::checkpoint::storage::Storage::jobs(&storage)?[..] {
                    [one] => one.clone(),
                    all => {
                        let names: Vec<_> = all.iter().map(ToString::to_string).collect();
                        anyhow::bail!(
                            "{storage} holds {} jobs ({}): choose one with --job",
                            all.len(),
                            names.join(", ")
                        )
                    }
                },
            };
            Ok(inspect::show(&storage, &job, &which).await?)
        }
    }
}

fn main() -> ExitCode {
    let Command::Checkpoint { command } = Cli::parse().command;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|r| r.block_on(run(command))) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("weir: {e:#}");
            ExitCode::FAILURE
        }
    }
}
