//! The harness of Weir's whole-system tests: a real cluster, fault injectors, images, and the oracle that judges output.
//!
//! Start at [`cluster::Cluster`]; [`oracle`] says whether committed output is exact.

mod api;
pub mod chaos;
pub mod cluster;
pub mod cmd;
pub mod helm;
pub mod image;
pub mod job;
pub mod kubectl;
pub mod local;
pub mod oracle;
pub mod poll;
pub mod process;
pub mod suite;
pub mod weir_images;

use std::path::{Path, PathBuf};

/// The root of the checkout that this harness was built from: the folder of the workspace's `Cargo.toml`.
pub fn checkout() -> PathBuf {
    // Cargo sets the variable for `cargo run` and `cargo test`; a binary started by hand has the folder that it was built in.
    let tests = std::env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.join("cluster/kube/go.mod").is_file())
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    tests.parent().map(Path::to_path_buf).unwrap_or(tests)
}

/// The cache for what takes minutes to build, outside the checkout: `$XDG_CACHE_HOME/weir` or `~/.cache/weir`.
pub fn cache_dir() -> anyhow::Result<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    match (dir("XDG_CACHE_HOME"), dir("HOME")) {
        (Some(cache), _) => Ok(cache.join("weir")),
        (None, Some(home)) => Ok(home.join(".cache/weir")),
        (None, None) => {
            anyhow::bail!("no cache folder: set HOME or XDG_CACHE_HOME to an absolute path")
        }
    }
}

/// Prints one progress line to stderr.
pub fn say(message: impl AsRef<str>) {
    eprintln!("weir-cluster: {}", message.as_ref());
}
