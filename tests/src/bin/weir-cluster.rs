//! The cluster command: brings a real Kubernetes up on this machine, loads images, installs Weir, takes it down.
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use weir_tests::cluster::parts::{self, Part};
use weir_tests::cluster::{self, Cluster};
use weir_tests::{say, weir_images};

/// A real Kubernetes for Weir's tests, quickstart and people.
///
/// Uses the cluster of KUBECONFIG when that is set, kind when Docker and kind are at hand, and else runs two nodes of its own
/// on this machine (as root). Each checkout has its own cluster; WEIR_CLUSTER=<id> names another.
#[derive(Parser)]
#[command(name = "weir-cluster", version)]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Bring the cluster up; one that is up already is left as it is
    Up,
    /// Take the cluster down, with all that was in it
    Down {
        /// Every built-in cluster of this machine, not only this checkout's
        #[arg(long)]
        all: bool,
    },
    /// Take down the built-in clusters that nobody needs any more: their checkout, starter or programs are gone
    Clean,
    /// Say whether the cluster is up and fit for use
    Status,
    /// Print the path of the kubeconfig: export KUBECONFIG=$(weir-cluster kubeconfig)
    Kubeconfig,
    /// Load image archives (OCI or Docker) into every node
    Load {
        #[arg(required = true, value_name = "IMAGE-ARCHIVE")]
        archives: Vec<PathBuf>,
    },
    /// Build Weir's images from this checkout; prints a line for each: reference, archive, bytes
    Images,
    /// Build the images, load them, and install or upgrade charts/weir with them
    Install {
        /// A value of the chart, as name=value
        #[arg(long = "set", value_name = "NAME=VALUE")]
        values: Vec<String>,
    },
    /// Run kubectl on the cluster
    #[command(trailing_var_arg = true)]
    Kubectl {
        #[arg(allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run kubectl, helm or kubeconform, with no cluster: weir-cluster tool helm lint charts/weir
    #[command(trailing_var_arg = true)]
    Tool {
        name: String,
        #[arg(allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run helm on the cluster
    #[command(trailing_var_arg = true)]
    Helm {
        #[arg(allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weir-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<ExitCode> {
    match action {
        Action::Up => {
            let cluster = Cluster::up()?;
            say(format!("up: {}", cluster.describe()));
            println!("export KUBECONFIG={}", cluster.kubeconfig().display());
        }
        Action::Down { all: true } => cluster::clean(true)?,
        Action::Down { all: false } => Cluster::down()?,
        Action::Clean => cluster::clean(false)?,
        Action::Status => match Cluster::attach()? {
            Some(cluster) => {
                println!("{}", cluster.describe());
                cluster.check()?;
                print!("{}", cluster.kubectl()?.run(&["get", "nodes", "-o", "wide"])?);
            }
            None => {
                println!("down");
                return Ok(ExitCode::FAILURE);
            }
        },
        Action::Kubeconfig => println!("{}", running()?.kubeconfig().display()),
        Action::Load { archives } => {
            let archives: Vec<_> = archives.iter().map(PathBuf::as_path).collect();
            running()?.load(&archives)?;
        }
        Action::Images => {
            let images = weir_images::build()?;
            for image in [&images.operator, &images.flights] {
                println!("{} {} {}", image.reference, image.archive.display(), image.size);
            }
        }
        Action::Install { values } => {
            let cluster = running()?;
            let values = values
                .iter()
                .map(|pair| pair.split_once('=').with_context(|| format!("--set {pair}: give it as name=value")))
                .collect::<Result<Vec<_>>>()?;
            let begun = Instant::now();
            let images = weir_images::build()?;
            cluster.install(&images, &values)?;
            say(format!("installed after {:.1} s", begun.elapsed().as_secs_f64()));
            println!("{}\n{}", images.operator.reference, images.flights.reference);
        }
        Action::Kubectl { args } => {
            let kubectl = running()?.kubectl()?;
            return pass_on(Command::new(kubectl.program()).arg("--kubeconfig").arg(kubectl.kubeconfig()).args(args));
        }
        Action::Tool { name, args } => {
            let part = match name.as_str() {
                "kubectl" => Part::Kube,
                "helm" | "kubeconform" => Part::Tools,
                _ => anyhow::bail!("no tool {name:?}: there are kubectl, helm and kubeconform"),
            };
            return pass_on(Command::new(parts::program(&name, part)?).args(args));
        }
        Action::Helm { args } => {
            let cluster = running()?;
            let helm = cluster.helm()?;
            return pass_on(Command::new(helm.program()).env("KUBECONFIG", cluster.kubeconfig()).args(args));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn running() -> Result<Cluster> {
    Cluster::attach()?.context("the cluster is down: bring it up with `weir-cluster up`")
}

/// Becomes the other program.
fn pass_on(command: &mut Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt as _;
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", command.get_program().display()))
}
