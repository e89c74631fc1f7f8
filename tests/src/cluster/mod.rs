//! One real Kubernetes for tests, the quickstart and people: given by `KUBECONFIG`, run by kind, or built in.
//!
//! - `KUBECONFIG` is set: that cluster is used as it is (one of this harness's own is recognised and can do all).
//! - Docker runs and kind is installed: a kind cluster of two workers.
//! - Else: [`builtin`], two nodes on this machine.
//!
//! Each checkout has a cluster of its own, by its id; `WEIR_CLUSTER` names another, and `WEIR_PROVIDER` (`kind` or `built-in`)
//! chooses between the last two.

pub mod builtin;
pub mod faults;
mod given;
mod kind;
pub mod parts;
mod setup;
mod share;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use self::builtin::BuiltIn;
use self::builtin::state::{Names, valid_id};
use self::kind::Kind;
use self::parts::Part;
pub use self::setup::Weir;
pub use self::share::{Namespace, Shared};
use crate::cmd::Cmd;
use crate::helm::Helm;
use crate::image::Image;
use crate::kubectl::Kubectl;
use crate::suite::CannotRun;
use crate::weir_images::WeirImages;
use crate::{checkout, say};

/// The namespace and release of the operator that [`Cluster::install`] installs.
pub const OPERATOR_NAMESPACE: &str = "weir-system";
pub const RELEASE: &str = "weir";

/// A cluster that is up.
#[derive(Debug)]
pub struct Cluster {
    provider: Provider,
    kubeconfig: PathBuf,
}

#[derive(Debug)]
enum Provider {
    Given,
    Kind(Kind),
    BuiltIn(Box<BuiltIn>),
}

/// Which cluster the environment asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Given(PathBuf),
    Kind(String),
    BuiltIn(String),
}

/// The id of this checkout's cluster: `WEIR_CLUSTER`, else made of the checkout's path.
pub fn cluster_id() -> Result<String> {
    match std::env::var("WEIR_CLUSTER") {
        Ok(id) if valid_id(&id) => Ok(id),
        Ok(id) => bail!("WEIR_CLUSTER={id:?}: an id is 1 to 20 of a-z, 0-9 and -, and does not start with -"),
        Err(_) => {
            let path = checkout();
            let path = path.canonicalize().unwrap_or(path);
            Ok(parts::hex(&Sha256::digest(path.as_os_str().as_encoded_bytes())[..4]))
        }
    }
}

fn wanted() -> Result<Wanted> {
    if let Some(kubeconfig) = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()) {
        let kubeconfig = PathBuf::from(kubeconfig);
        return Ok(match Names::of_kubeconfig(&kubeconfig) {
            Some(names) => Wanted::BuiltIn(names.id),
            None => Wanted::Given(kubeconfig),
        });
    }
    let id = cluster_id()?;
    match std::env::var("WEIR_PROVIDER").as_deref() {
        Ok("kind") => Ok(Wanted::Kind(id)),
        Ok("built-in") => Ok(Wanted::BuiltIn(id)),
        Ok(other) => bail!("WEIR_PROVIDER={other:?}: it is kind or built-in"),
        Err(_) if Kind::available() => Ok(Wanted::Kind(id)),
        Err(_) => Ok(Wanted::BuiltIn(id)),
    }
}

impl Cluster {
    /// The cluster that the environment asks for, brought up when it does not run yet.
    pub fn up() -> Result<Self> {
        match wanted()? {
            Wanted::Given(kubeconfig) => Self::given(kubeconfig),
            Wanted::Kind(id) => Kind::up(&id).map(Self::kind),
            Wanted::BuiltIn(id) => BuiltIn::up(&id).map(Self::built_in),
        }
    }

    /// The same, only if it runs already.
    pub fn attach() -> Result<Option<Self>> {
        match wanted()? {
            Wanted::Given(kubeconfig) => Self::given(kubeconfig).map(Some),
            Wanted::Kind(id) => Ok(Kind::attach(&id)?.map(Self::kind)),
            Wanted::BuiltIn(id) => Ok(BuiltIn::attach(&id)?.map(Self::built_in)),
        }
    }

    /// An error, [`CannotRun`], where the cluster that the environment asks for cannot run the images of this checkout.
    pub fn can_run_jobs() -> Result<()> {
        match wanted()? {
            Wanted::Given(_) => given::loader().and(given::shared()).map(drop),
            Wanted::BuiltIn(_) if !rustix::process::geteuid().is_root() => {
                bail!(CannotRun(
                    "the built-in cluster needs root; there is neither KUBECONFIG nor Docker with kind".into()
                ))
            }
            Wanted::Kind(_) | Wanted::BuiltIn(_) => Ok(()),
        }
    }

    /// Takes it down. A cluster that was given is not ours to take down.
    pub fn down() -> Result<()> {
        match wanted()? {
            Wanted::Given(kubeconfig) => {
                bail!("the cluster of {} was not started by this harness: unset KUBECONFIG", kubeconfig.display())
            }
            Wanted::Kind(id) => Kind::down(&id),
            Wanted::BuiltIn(id) => BuiltIn::down(&id),
        }
    }

    fn given(kubeconfig: PathBuf) -> Result<Self> {
        let cluster = Self { provider: Provider::Given, kubeconfig };
        cluster.kubectl()?.raw("/readyz").context("the cluster of KUBECONFIG does not answer")?;
        Ok(cluster)
    }

    fn kind(kind: Kind) -> Self {
        Self { kubeconfig: kind.kubeconfig(), provider: Provider::Kind(kind) }
    }

    fn built_in(cluster: BuiltIn) -> Self {
        Self { kubeconfig: cluster.names.kubeconfig(), provider: Provider::BuiltIn(Box::new(cluster)) }
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Words for people: which cluster this is.
    pub fn describe(&self) -> String {
        match &self.provider {
            Provider::Given => format!("the cluster of KUBECONFIG={}", self.kubeconfig.display()),
            Provider::Kind(kind) => format!("kind cluster {}", kind.name()),
            Provider::BuiltIn(cluster) => format!(
                "built-in cluster {}, API server on 127.0.0.1:{}, files in {}",
                cluster.names.id,
                cluster.state.port,
                cluster.names.dir().display()
            ),
        }
    }

    /// An error that says what is wrong when the cluster is not fit for use.
    pub fn check(&self) -> Result<()> {
        match &self.provider {
            Provider::BuiltIn(cluster) => cluster.check(),
            _ => self.kubectl()?.raw("/readyz").map(drop),
        }
    }

    pub fn kubectl(&self) -> Result<Kubectl> {
        match &self.provider {
            Provider::BuiltIn(cluster) => Ok(cluster.kubectl()),
            _ => Ok(Kubectl::new(parts::program("kubectl", Part::Kube)?, self.kubeconfig.clone())),
        }
    }

    pub fn helm(&self) -> Result<Helm> {
        Ok(Helm::new(parts::program("helm", Part::Tools)?, self.kubeconfig.clone()))
    }

    /// The names of the nodes that run pods.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let nodes = self.kubectl()?.list("default", "nodes", "!node-role.kubernetes.io/control-plane")?;
        Ok(nodes.iter().filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    /// Loads image archives into every node.
    pub fn load(&self, archives: &[&Path]) -> Result<()> {
        for archive in archives {
            match &self.provider {
                Provider::Given => given::load(archive)?,
                Provider::Kind(kind) => kind.load(archive)?,
                Provider::BuiltIn(cluster) => cluster.load(archive)?,
            }
        }
        Ok(())
    }

    /// Loads the images and installs (or upgrades) the chart with them; returns when the operator is ready.
    pub fn install(&self, images: &WeirImages, values: &[(&str, &str)]) -> Result<()> {
        self.load(&images.archives())?;
        self.install_chart(&images.operator, values)
    }

    /// Installs (or upgrades) the chart with an operator image that the nodes have.
    pub fn install_chart(&self, operator: &Image, values: &[(&str, &str)]) -> Result<()> {
        let (repository, tag) = operator.split();
        let strings = [
            ("operator.image.repository", repository),
            ("operator.image.tag", tag),
            ("operator.image.pullPolicy", "IfNotPresent"),
        ];
        say(format!("installing the chart with {}", operator.reference));
        self.helm()?.upgrade_install(OPERATOR_NAMESPACE, RELEASE, &checkout().join("charts/weir"), &strings, values)
    }
}

/// Takes down every built-in cluster that nobody needs any more; `all`: every one of this machine.
pub fn clean(all: bool) -> Result<()> {
    if !all {
        builtin::cleanup::sweep(&Names::new(&cluster_id()?));
        return Ok(());
    }
    for names in Names::all() {
        say(format!("taking down cluster {}", names.id));
        BuiltIn::down(&names.id)?;
    }
    Ok(())
}

/// Whether a program runs and ends with success.
fn works(program: &str, args: &[&str]) -> bool {
    Cmd::new(program).args(args).succeeds()
}
