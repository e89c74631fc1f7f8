//! Folders and files that are not there or cannot be written.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use weir_tests::local::{JobSpec, LocalJob};

use crate::fixture::{endless, exceptions, in_folder, refused, says};

/// With this argument replaced.
fn with(mut spec: JobSpec, name: &str, value: &Path) -> Result<JobSpec> {
    let at = spec.arguments.iter().position(|a| a == name).with_context(|| name.to_owned())?;
    spec.arguments[at + 1] = value.display().to_string();
    Ok(spec)
}

/// A place below a file: nobody can write there, not even root.
fn below_a_file(dir: &Path) -> Result<std::path::PathBuf> {
    let file = dir.join("file");
    fs::write(&file, "a file")?;
    Ok(file.join("folder"))
}

pub fn checkpoints_that_cannot_be_written() -> Result<()> {
    in_folder(|dir| {
        let place = below_a_file(dir)?;
        let mut spec = endless(dir)?;
        spec.checkpoints = Some(place.clone());
        let text = refused(&spec, 1, None, 1)?;
        says(&text, &["cannot create the checkpoint folder", &place.display().to_string()])?;
        ensure!(!dir.join("output").exists(), "it wrote output all the same");
        Ok(())
    })
}

pub fn output_that_cannot_be_written() -> Result<()> {
    in_folder(|dir| {
        let place = below_a_file(dir)?;
        let spec = with(endless(dir)?, "--output", &place)?;
        let mut job = LocalJob::start(spec, 1, 1, 1)?;
        let text = job.wait("an exception", |job| {
            let text = exceptions(job)?;
            Ok(text.contains("output folder").then_some(text))
        })?;
        says(&text, &["cannot write to the output folder", &place.display().to_string(), "may write to"])?;
        ensure!(job.spec.log()?.completed()?.is_empty(), "a checkpoint was completed");
        Ok(())
    })
}

pub fn input_that_is_not_there() -> Result<()> {
    in_folder(|dir| {
        let missing = dir.join("no-such-file.csv");
        let spec = with(endless(dir)?, "--input", &missing)?;
        let text = refused(&spec, 1, None, 2)?;
        says(&text, &["departures", "no-such-file.csv"])?;
        let found = weir_tests::local::log::fingerprint(&dir.join("checkpoints"))?;
        ensure!(found.is_empty(), "something was written: {found:?}");
        Ok(())
    })
}

pub fn checkpoint_urls_that_are_not_understood() -> Result<()> {
    in_folder(|dir| {
        for (url, words) in [
            ("s3://bucket/checkpoints", &["s3://", "not supported", "file:///PATH"][..]),
            ("file://host/checkpoints", &["names a host", "file:///PATH"][..]),
            ("/tmp/../etc", &["contains `..`"][..]),
        ] {
            let mut spec = endless(dir)?;
            spec.checkpoints = Some(url.into());
            says(&refused(&spec, 1, None, 1)?, words)?;
        }
        Ok(())
    })
}
