//! Weir's own images, built from release binaries of this checkout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::checkout;
use crate::image::{Image, ImageSpec, REGISTRY, build_image, cargo_build};

/// Where the input of the flights example lies in its image.
pub const FLIGHTS_INPUT: &str = "/data/flights-2013.csv.zst";

/// The images of the operator and of the flights example.
#[derive(Debug, Clone)]
pub struct WeirImages {
    pub operator: Image,
    pub flights: Image,
    /// The same program as another image, to upgrade to.
    pub flights_next: Image,
}

/// Images of jobs that a flights job cannot be upgraded to.
#[derive(Debug, Clone)]
pub struct Misfits {
    /// Another job.
    pub wordcount: Image,
    /// The same job with another type in its state.
    pub flights_narrow: Image,
}

impl WeirImages {
    /// The archives of all of them.
    pub fn archives(&self) -> [&Path; 3] {
        [&self.operator.archive, &self.flights.archive, &self.flights_next.archive]
    }
}

/// Builds the binaries (release profile) and their images into `<target>/weir-images`.
pub fn build() -> Result<WeirImages> {
    let operator = &program("weir-operator")?;
    let flights = &program("flights")?;
    let dir = folder(operator)?;
    Ok(WeirImages {
        operator: build_image(&operator_spec(operator), &dir)?,
        flights: build_image(&flights_spec(flights)?, &dir)?,
        flights_next: build_image(&flights_spec(flights)?.content("/etc/version", "next"), &dir)?,
    })
}

/// The same for the jobs that do not fit.
pub fn build_misfits() -> Result<Misfits> {
    let image = |name: &str| {
        let binary = program(name)?;
        let spec = ImageSpec::new(format!("{REGISTRY}/{name}"), &binary).file(FLIGHTS_INPUT, &flights_input());
        build_image(&spec, &folder(binary.parent().context("an example lies in a folder")?)?)
    };
    Ok(Misfits { wordcount: image("wordcount")?, flights_narrow: image("flights_narrow")? })
}

/// A release build of the operator or of an example. All are built at once: together they need each crate in one variant only.
fn program(name: &str) -> Result<PathBuf> {
    static BUILT: Mutex<Option<BTreeMap<String, PathBuf>>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let programs = match &mut *built {
        Some(programs) => programs,
        none => none.insert(cargo_build(&[
            "--release",
            "--bin=weir-operator",
            "--example=flights",
            "--example=flights_narrow",
            "--example=wordcount",
        ])?),
    };
    programs.get(name).cloned().with_context(|| format!("cargo built no {name}"))
}

/// The operator's image.
pub fn operator_spec(binary: &Path) -> ImageSpec {
    ImageSpec::new(format!("{REGISTRY}/weir-operator"), binary)
}

/// The image of the flights example with its input; add a file to it for one that differs (an upgrade).
pub fn flights_spec(binary: &Path) -> Result<ImageSpec> {
    let input = flights_input();
    if !input.is_file() {
        bail!("{} is missing", input.display());
    }
    Ok(ImageSpec::new(format!("{REGISTRY}/flights"), binary).file(FLIGHTS_INPUT, &input))
}

/// The input of the flights example in this checkout.
pub fn flights_input() -> PathBuf {
    checkout().join("runtime/examples/flights/flights-2013.csv.zst")
}

/// `<target>/weir-images` of the target folder that a binary lies in.
fn folder(binary: &Path) -> Result<PathBuf> {
    let profile = binary.parent().context("a built program lies in a folder")?;
    Ok(profile.join("weir-images"))
}
