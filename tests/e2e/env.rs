//! What a test gets: the cluster with Weir on it, a namespace of its own, the expected output; and what is kept of a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use weir_tests::cluster::{Cluster, Namespace, OPERATOR_NAMESPACE, Weir};
use weir_tests::job::FlightsJob;
use weir_tests::kubectl::Kubectl;
use weir_tests::oracle::Expected;
use weir_tests::suite::CannotRun;
use weir_tests::weir_images::{WeirImages, flights_input};

/// Limit of a wait for something that takes a few seconds on an idle machine.
pub const SOON: Duration = Duration::from_secs(60);
/// Limit of a wait for a job to end.
pub const LONG: Duration = Duration::from_secs(180);
/// Within this time a condition must name what is wrong.
pub const NAMED: Duration = Duration::from_secs(10);

/// Records per second of a job that lasts about half a minute.
pub const RATE: u32 = 12_000;
/// The same for about a minute.
pub const SLOW: u32 = 5_500;
/// The same for about three minutes: a job whose end is brought about by an upgrade without the brake.
pub const VERY_SLOW: u32 = 2_000;

pub struct Env {
    pub weir: &'static Weir,
    pub kubectl: Kubectl,
    pub namespace: Namespace,
    name: &'static str,
}

impl Env {
    pub fn new(weir: &'static Weir, name: &'static str) -> Result<Self> {
        // a name of Kubernetes: small letters, digits and dashes, at most 63
        let mut namespace = name.replace("::", "-").replace('_', "-");
        namespace.truncate(50);
        let namespace = weir.cluster.namespace(namespace.trim_end_matches('-'))?;
        Ok(Self { weir, kubectl: weir.cluster.kubectl()?, namespace, name })
    }

    pub fn cluster(&self) -> &'static Cluster {
        &self.weir.cluster
    }

    pub fn images(&self) -> &'static WeirImages {
        &self.weir.images
    }

    /// A flights job of parallelism 2, not yet applied.
    pub fn job(&self, rate: u32) -> Result<FlightsJob<'static>> {
        FlightsJob::new(&self.weir.cluster, &self.namespace, "flights", &self.weir.images.flights.reference, Some(rate))
    }

    /// The same, applied, ready, and with committed output.
    pub fn running(&self, rate: u32) -> Result<FlightsJob<'static>> {
        let job = self.job(rate)?;
        job.apply()?;
        job.wait_ready(SOON)?;
        job.wait_output(SOON)?;
        Ok(job)
    }

    /// Takes the brake off, waits for the end and checks the output.
    pub fn hurried(&self, job: &mut FlightsJob<'_>) -> Result<()> {
        job.set_args(None, 1, "out");
        job.apply()?;
        self.note(job.finish(self.expected()?, LONG)?.to_string());
        Ok(())
    }

    /// What the job's output must be when its input is read once.
    pub fn expected(&self) -> Result<&'static Expected> {
        static EXPECTED: OnceLock<Result<Expected, String>> = OnceLock::new();
        EXPECTED
            .get_or_init(|| Expected::from_file(&flights_input(), 1).map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("{error}"))
    }

    /// Prints a line for whoever reads the run.
    pub fn note(&self, text: impl AsRef<str>) {
        println!("  {}: {}", self.name, text.as_ref());
    }

    /// Keeps what explains a failure, before the namespace goes.
    pub fn end(&self, result: Result<()>) -> Result<()> {
        result.map_err(|error| match CannotRun::reason(&error) {
            Some(_) => error,
            None => error.context(self.keep()),
        })
    }

    fn keep(&self) -> String {
        self.try_keep().unwrap_or_else(|error| format!("nothing could be kept: {error:#}"))
    }

    fn try_keep(&self) -> Result<String> {
        let own = std::env::current_exe()?;
        let target = own.ancestors().find(|dir| dir.ends_with("debug") || dir.ends_with("release"));
        let dir = target.and_then(Path::parent).context("this program is in no target folder")?.join("e2e");
        let dir: PathBuf = dir.join(self.name.replace("::", "-"));
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let name = self.namespace.name.as_str();
        let write = |file: &str, text: Result<String>| {
            fs::write(dir.join(file), text.unwrap_or_else(|error| format!("{error:#}")))
        };
        write("streamjobs.yaml", self.kubectl.run(&["-n", name, "get", "streamjobs", "-o", "yaml"]))?;
        write("children.txt", self.kubectl.run(&["-n", name, "get", "deployments,pods,services", "-o", "wide"]))?;
        write("pods.yaml", self.kubectl.run(&["-n", name, "get", "pods", "-o", "yaml"]))?;
        write("events.txt", self.kubectl.run(&["-n", name, "get", "events", "--sort-by=.lastTimestamp"]))?;
        let files = weir_tests::cmd::Cmd::new("find").arg(&self.namespace.shared).args(["-ls"]).stdout();
        write("shared.txt", files)?;
        for (namespace, prefix) in [(name, ""), (OPERATOR_NAMESPACE, "operator-")] {
            for pod in self.kubectl.list(namespace, "pods", "")? {
                let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
                write(&format!("{prefix}{pod}.log"), self.kubectl.logs(namespace, pod, false))?;
                if let Ok(text) = self.kubectl.logs(namespace, pod, true) {
                    write(&format!("{prefix}{pod}.previous.log"), Ok(text))?;
                }
            }
        }
        Ok(format!("status, events and logs are in {}", dir.display()))
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.note(self.keep());
        }
    }
}
