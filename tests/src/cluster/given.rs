//! A cluster that was given by `KUBECONFIG`: what is known of it comes from variables.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cmd::Cmd;
use crate::suite::CannotRun;

/// The shell command that brings an image archive to the nodes; the archive's path is appended.
pub fn loader() -> Result<String> {
    match std::env::var("WEIR_LOAD") {
        Ok(command) if !command.is_empty() => Ok(command),
        _ => bail!(CannotRun(
            "how images get into the cluster of KUBECONFIG is not known: set WEIR_LOAD to a command that takes the path of an \
             OCI archive, for example `minikube image load`"
                .into()
        )),
    }
}

pub fn load(archive: &Path) -> Result<()> {
    let script = format!("{} \"$1\"", loader()?);
    Cmd::new("sh").args(["-c", &script, "sh"]).arg(archive).run()
}

/// A folder that this machine and all nodes see under the same path.
pub fn shared() -> Result<PathBuf> {
    match std::env::var_os("WEIR_SHARED") {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => bail!(CannotRun(
            "the cluster of KUBECONFIG shares no folder that is known: set WEIR_SHARED to a path that this machine and all \
             nodes share"
                .into()
        )),
    }
}
