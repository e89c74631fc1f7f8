//! Weir's own images, built from release binaries of this checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::checkout;
use crate::image::{Image, ImageSpec, REGISTRY, build_image, cargo_build};

/// Where the input of the flights example lies in its image.
pub const FLIGHTS_INPUT: &str = "/data/flights-2013.csv.zst";

/// The images that the chart, the flights example and the tests need.
#[derive(Debug, Clone)]
pub struct WeirImages {
    pub operator: Image,
    pub flights: Image,
    /// The same program as another image, to upgrade to.
    pub flights_next: Image,
    /// Another job: its state is not that of the flights.
    pub wordcount: Image,
}

impl WeirImages {
    /// The archives of all of them.
    pub fn archives(&self) -> [&Path; 4] {
        [&self.operator.archive, &self.flights.archive, &self.flights_next.archive, &self.wordcount.archive]
    }
}

/// Builds the binaries (release profile) and their images into `<target>/weir-images`.
pub fn build() -> Result<WeirImages> {
    let programs = cargo_build(&["--release", "--package", "weir-operator", "--bin", "weir-operator"])?;
    let operator = programs.get("weir-operator").context("cargo built no weir-operator")?;
    let programs =
        cargo_build(&["--release", "--package", "weir-runtime", "--example", "flights", "--example", "wordcount"])?;
    let flights = programs.get("flights").context("cargo built no example flights")?;
    let wordcount = programs.get("wordcount").context("cargo built no example wordcount")?;
    let dir = folder(operator)?;
    let wordcount = ImageSpec::new(format!("{REGISTRY}/wordcount"), wordcount).file(FLIGHTS_INPUT, &flights_input());
    Ok(WeirImages {
        operator: build_image(&operator_spec(operator), &dir)?,
        flights: build_image(&flights_spec(flights)?, &dir)?,
        flights_next: build_image(&flights_spec(flights)?.content("/etc/version", "next"), &dir)?,
        wordcount: build_image(&wordcount, &dir)?,
    })
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
