//! The cluster with Weir installed, once for all tests of a process.

use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Result, anyhow};

use super::Cluster;
use super::faults::CRASH_INJECTION;
use crate::say;
use crate::suite::CannotRun;
use crate::weir_images::{self, Misfits, WeirImages};

/// A cluster with the chart installed and the images on its nodes.
#[derive(Debug)]
pub struct Weir {
    pub cluster: Cluster,
    pub images: WeirImages,
    pub misfits: Misfits,
}

impl Weir {
    /// The chart's values: crash injection is allowed, and an operator that was lost is replaced soon.
    pub const VALUES: &[(&str, &str)] = &[CRASH_INJECTION, ("operator.leaderElection.leaseDuration", "3s")];

    /// Builds the images, brings the cluster up and installs the chart with crash injection allowed; at the first call of a
    /// process, the others get the same, or the same error.
    pub fn shared() -> Result<&'static Self> {
        static WEIR: OnceLock<Result<Weir>> = OnceLock::new();
        WEIR.get_or_init(Self::set_up).as_ref().map_err(|error| match CannotRun::reason(error) {
            Some(reason) => CannotRun(reason.to_owned()).into(),
            None => anyhow!("{error:#}"),
        })
    }

    fn set_up() -> Result<Self> {
        Cluster::can_run_jobs()?;
        let begun = Instant::now();
        let (images, misfits) = (weir_images::build()?, weir_images::build_misfits()?);
        let cluster = Cluster::up()?;
        cluster.load(&[&misfits.wordcount.archive, &misfits.flights_narrow.archive])?;
        cluster.install(&images, Self::VALUES)?;
        say(format!("Weir is on {}, after {:.0} s", cluster.describe(), begun.elapsed().as_secs_f64()));
        Ok(Self { cluster, images, misfits })
    }
}
