//! A thin wrapper of the helm program.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cmd::Cmd;

/// helm with one kubeconfig.
#[derive(Debug, Clone)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Helm {
    pub fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// helm with the given arguments, not yet run.
    pub fn cmd<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        Cmd::new(&self.program).args(args).env("KUBECONFIG", &self.kubeconfig)
    }

    /// Installs or upgrades a release and waits until it is ready. `strings` are taken as they are (a tag of digits stays a
    /// string), `values` as helm reads them.
    pub fn upgrade_install(
        &self,
        namespace: &str,
        release: &str,
        chart: &Path,
        strings: &[(&str, &str)],
        values: &[(&str, &str)],
    ) -> Result<()> {
        let mut cmd = self
            .cmd(["upgrade", "--install", release])
            .arg(chart)
            .args(["--namespace", namespace, "--create-namespace"])
            .args(["--wait", "--timeout", "90s"]);
        for (flag, pairs) in [("--set-string", strings), ("--set", values)] {
            for (name, value) in pairs {
                cmd = cmd.arg(flag).arg(format!("{name}={value}"));
            }
        }
        cmd.run()
    }

    /// Removes a release and waits until its objects are gone; none there is fine.
    pub fn uninstall(&self, namespace: &str, release: &str) -> Result<()> {
        self.cmd(["uninstall", release, "--namespace", namespace, "--ignore-not-found", "--wait"]).run()
    }
}
