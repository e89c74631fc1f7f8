//! The program and the input of the local tests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};

use crate::image::cargo_build;
use crate::weir_images::flights_input;

/// Environment variable that names a built flights example to use instead of building one.
pub const PROGRAM_ENV: &str = "WEIR_FLIGHTS";

/// The flights example, built in the profile of this program unless [`PROGRAM_ENV`] names one.
pub fn flights() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(PROGRAM_ENV).map(PathBuf::from) {
        ensure!(given.is_file(), "{PROGRAM_ENV}={} is no file", given.display());
        return Ok(given);
    }
    example("flights")
}

/// The job whose code does not return while a file exists (`--hold`).
pub fn stuck() -> Result<PathBuf> {
    example("stuck")
}

/// The job with windows, sessions, timers, two inputs, broadcast state and asynchronous calls.
pub fn functions() -> Result<PathBuf> {
    example("functions")
}

fn example(name: &str) -> Result<PathBuf> {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(path) = built.get(name) {
        return Ok(path.clone());
    }
    let mut args = vec!["--example", name];
    if !cfg!(debug_assertions) {
        args.push("--release");
    }
    let path = cargo_build(&args)?.remove(name).with_context(|| format!("cargo built no example {name}"))?;
    built.insert(name.to_owned(), path.clone());
    Ok(path)
}

/// The input of the flights example.
pub fn input() -> Result<PathBuf> {
    let input = flights_input();
    ensure!(input.is_file(), "{} is missing", input.display());
    Ok(input)
}
