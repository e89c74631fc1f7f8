//! The cluster with Weir installed, once for all tests of a process.

use std::sync::OnceLock;

use anyhow::{Result, anyhow};

use super::Cluster;
use super::faults::CRASH_INJECTION;
use crate::weir_images::{self, WeirImages};

/// A cluster with the chart installed and the images on its nodes.
#[derive(Debug)]
pub struct Weir {
    pub cluster: Cluster,
    pub images: WeirImages,
}

impl Weir {
    /// The chart's values: crash injection is allowed, and an operator that was lost is replaced soon.
    pub const VALUES: &[(&str, &str)] = &[CRASH_INJECTION, ("operator.leaderElection.leaseDuration", "3s")];

    /// Builds the images, brings the cluster up and installs the chart with crash injection allowed; at the first call of a
    /// process, the others get the same, or the same error.
    pub fn shared() -> Result<&'static Self> {
        static WEIR: OnceLock<Result<Weir, String>> = OnceLock::new();
        WEIR.get_or_init(|| Self::set_up().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("{error}"))
    }

    fn set_up() -> Result<Self> {
        let images = weir_images::build()?;
        let cluster = Cluster::up()?;
        cluster.install(&images, Self::VALUES)?;
        Ok(Self { cluster, images })
    }
}
