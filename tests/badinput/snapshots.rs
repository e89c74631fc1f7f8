//! Snapshots that are damaged, of another version, of another job, or that do not fit.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weir_tests::image::cargo_build;
use weir_tests::local::log::fingerprint;
use weir_tests::local::{JobSpec, LocalJob};

use crate::fixture::{Left, endless, exceptions, in_folder, left_behind, refused, says};

const MANIFEST: &str = "_metadata.json";

/// A snapshot that the jobmanager itself finds unfit: it ends with code 2, and not a byte is changed.
fn refused_untouched(left: &Left, restore: Option<&str>, words: &[&str]) -> Result<()> {
    let dir = left.spec.logs.parent().context("a folder")?;
    let look = |what: &str| fingerprint(&dir.join(what));
    let before = (look("checkpoints")?, look("output")?);
    let text = refused(&left.spec, 2, restore, 2)?;
    says(&text, words)?;
    ensure!((look("checkpoints")?, look("output")?) == before, "something was changed:\n{text}");
    Ok(())
}

/// A state file that tasks find unfit: the job says so, and neither commits nor completes anything.
fn never_runs(dir: &Path, spoil: impl FnOnce(&Path) -> Result<()>, words: &[&str]) -> Result<()> {
    let left = left_behind(dir)?;
    let file = state_file(&left.checkpoint)?;
    spoil(&file)?;
    let output = fingerprint(&dir.join("output"))?;
    let completed: Vec<u64> = left.spec.log()?.completed()?.iter().map(|e| e.index).collect();
    let mut job = LocalJob::new(left.spec, 2)?;
    job.start_all(2, 1, Some("latest"))?;
    let text = job.wait("an exception", |job| {
        let text = exceptions(job)?;
        Ok((text.contains("snapshot") || text.contains("state file")).then_some(text))
    })?;
    says(&text, words)?;
    let name = file.file_name().context("a file")?.to_string_lossy().into_owned();
    says(&text, &[&name])?;
    let now: Vec<u64> = job.spec.log()?.completed()?.iter().map(|e| e.index).collect();
    ensure!(completed == now, "completed checkpoints were {completed:?}, are {now:?}");
    let visible = |files: Vec<(PathBuf, u64)>| -> Vec<(PathBuf, u64)> {
        let hidden = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        files.into_iter().filter(|(path, _)| !hidden(path)).collect()
    };
    let now = visible(fingerprint(&dir.join("output"))?);
    // what the checkpoint held is committed at the restore: nothing else is
    let lost = visible(output).into_iter().find(|file| !now.contains(file));
    ensure!(lost.is_none(), "committed output was changed: {lost:?}");
    Ok(())
}

/// The largest state file that a checkpoint refers to; it lies in the folder that checkpoints share.
fn state_file(snapshot: &Path) -> Result<PathBuf> {
    let manifest = snapshot.join(MANIFEST);
    let manifest = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    let shared = snapshot.with_file_name("shared");
    let mut files = Vec::new();
    for entry in fs::read_dir(&shared).with_context(|| shared.display().to_string())? {
        let entry = entry?;
        if manifest.contains(&*entry.file_name().to_string_lossy()) {
            files.push((entry.metadata()?.len(), entry.path()));
        }
    }
    files.sort();
    files.pop().map(|f| f.1).with_context(|| format!("{} refers to no state file", snapshot.display()))
}

fn flip_a_byte(file: &Path) -> Result<()> {
    let mut bytes = fs::read(file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    Ok(fs::write(file, bytes)?)
}

fn cut(file: &Path) -> Result<()> {
    let bytes = fs::read(file)?;
    Ok(fs::write(file, &bytes[..bytes.len() / 2])?)
}

pub fn corrupt_state_file() -> Result<()> {
    in_folder(|dir| {
        never_runs(dir, flip_a_byte, &["checksum does not match", "is damaged", "restore from another checkpoint"])
    })
}

pub fn truncated_state_file() -> Result<()> {
    in_folder(|dir| never_runs(dir, cut, &["is truncated", "bytes", "restore an older snapshot"]))
}

pub fn missing_state_file() -> Result<()> {
    in_folder(|dir| never_runs(dir, |file| Ok(fs::remove_file(file)?), &["is missing", "restore an older snapshot"]))
}

pub fn corrupt_manifest() -> Result<()> {
    in_folder(|dir| {
        let left = left_behind(dir)?;
        let file = left.checkpoint.join(MANIFEST);
        // within the body: the outer JSON still parses
        let text = fs::read_to_string(&file)?.replacen("\"legs\"", "\"lags\"", 1);
        fs::write(&file, text)?;
        refused_untouched(&left, Some("latest"), &[&name(&file), "is corrupt", "checksum"])
    })
}

pub fn truncated_manifest() -> Result<()> {
    in_folder(|dir| {
        let left = left_behind(dir)?;
        let file = left.checkpoint.join(MANIFEST);
        cut(&file)?;
        refused_untouched(&left, Some("latest"), &[&name(&file), "is truncated after"])
    })
}

pub fn manifest_of_another_version() -> Result<()> {
    in_folder(|dir| {
        let left = left_behind(dir)?;
        let file = left.checkpoint.join(MANIFEST);
        let text = fs::read_to_string(&file)?.replacen("\"version\":1", "\"version\":7", 1);
        fs::write(&file, text)?;
        let words = [&name(&file), "format version 7", "reads version 1", "use the Weir that wrote it"];
        refused_untouched(&left, Some("latest"), &words)
    })
}

pub fn corrupt_log_entry() -> Result<()> {
    in_folder(|dir| {
        let left = left_behind(dir)?;
        let log = left.spec.log()?;
        let file = log.file(log.head()?.context("an empty log")?);
        cut(&file)?;
        let name = file.file_name().context("a file")?.to_string_lossy().into_owned();
        refused_untouched(&left, Some("latest"), &[&name, "is truncated"])
    })
}

fn name(file: &Path) -> String {
    let of = |p: Option<&std::ffi::OsStr>| p.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{}/{}", of(file.parent().and_then(Path::file_name)), of(file.file_name()))
}

pub fn savepoint_of_another_job() -> Result<()> {
    in_folder(|dir| {
        let left = left_behind(dir)?;
        let mut args = vec!["--example", "wordcount"];
        if !cfg!(debug_assertions) {
            args.push("--release");
        }
        let program = cargo_build(&args)?.remove("wordcount").context("cargo built no example wordcount")?;
        let text = dir.join("words.txt");
        fs::write(&text, "a weir is a barrier across a stream\n")?;
        let mut spec = JobSpec { program, ..left.spec.clone() }.option("--name", "wordcount");
        spec.arguments = vec!["--input".into(), text.display().to_string()];
        let other = Left { spec, ..left };
        let savepoint = other.savepoint.display().to_string();
        let words = [
            "savepoint",
            "of the job default/flights",
            "does not fit this job",
            "nothing was changed",
            "operator \"legs\"",
            "allowNonRestoredState",
        ];
        refused_untouched(&other, Some(&savepoint), &words)?;
        let storage = other.spec.checkpoints.as_ref().context("a storage")?;
        let found: Vec<_> = fingerprint(&storage.join("default/wordcount"))?;
        ensure!(found.is_empty(), "the other job's folder holds {found:?}");
        Ok(())
    })
}

/// The job's own code cannot change here, so the snapshot does: it was written by a job whose state has another type.
pub fn state_of_another_type() -> Result<()> {
    in_folder(|dir| {
        let left = left_behind(dir)?;
        let file = left.checkpoint.join(MANIFEST);
        let mut sealed: Value = serde_json::from_slice(&fs::read(&file)?)?;
        let operators = sealed["body"]["operators"].as_array_mut().context("operators")?;
        let legs = operators.iter_mut().find(|o| o["name"] == "legs").context("operator legs")?;
        let fields = find_fields(&mut legs["states"]).context("a state of a struct type")?;
        let late = fields.iter_mut().find(|f| f["name"] == "late").context("field late")?;
        ensure!(late["type"] == "u64", "{late}");
        late["type"] = "u32".into();
        let body = serde_json::to_string(&sealed["body"])?;
        let crc = crc32c::crc32c(body.as_bytes());
        fs::write(&file, format!("{{\"version\":1,\"crc32c\":\"{crc:08x}\",\"body\":{body}}}\n"))?;
        let words = [
            "does not fit this job",
            "nothing was changed",
            "operator \"legs\"",
            "state \"",
            "late: u32",
            "late: u64",
            "field late: u32 and u64",
        ];
        refused_untouched(&left, Some("latest"), &words)
    })
}

fn find_fields(value: &mut Value) -> Option<&mut Vec<Value>> {
    match value {
        Value::Object(object) => {
            if object.get("fields").is_some_and(Value::is_array) {
                return object.get_mut("fields")?.as_array_mut();
            }
            object.values_mut().find_map(find_fields)
        }
        Value::Array(all) => all.iter_mut().find_map(find_fields),
        _ => None,
    }
}

pub fn another_max_parallelism() -> Result<()> {
    in_folder(|dir| {
        let mut left = left_behind(dir)?;
        left.spec = left.spec.option("--max-parallelism", 64);
        let words = ["maxParallelism is 128", "the job's is 64", "set it to 128", "nothing was changed"];
        refused_untouched(&left, Some("latest"), &words)
    })
}

pub fn folder_that_holds_checkpoints() -> Result<()> {
    in_folder(|dir| {
        let left = left_behind(dir)?;
        let number = format!("checkpoint {}", left.id);
        let words =
            ["already holds", &number, "`--restore latest`", "`--restore PATH`", "another folder with `--checkpoints`"];
        refused_untouched(&left, None, &words)
    })
}

pub fn going_back_behind_what_was_committed() -> Result<()> {
    in_folder(|dir| {
        let left = left_behind(dir)?;
        let savepoint = left.savepoint.display().to_string();
        let words = ["would go back behind", "already committed", "restore `latest`", "restore.nonce"];
        refused_untouched(&left, Some(&savepoint), &words)
    })
}

pub fn no_snapshot_at_the_path() -> Result<()> {
    in_folder(|dir| {
        let left = left_behind(dir)?;
        for (path, words) in [
            ("/no/such/savepoint-1", &["/no/such/savepoint-1", "there is no snapshot"][..]),
            ("file://host/chk-1", &["names a host", "file:///"][..]),
            ("s3://bucket/chk-1", &["s3://bucket/chk-1", "file:///"][..]),
            ("../chk-1", &["../chk-1"][..]),
        ] {
            let mut spec = left.spec.clone();
            spec.options.extend(["--restore-nonce".into(), "1".into()]);
            let left = Left { spec, savepoint: left.savepoint.clone(), checkpoint: left.checkpoint.clone(), ..left };
            refused_untouched(&left, Some(path), words)?;
        }
        Ok(())
    })
}

pub fn latest_where_none_was_completed() -> Result<()> {
    in_folder(|dir| {
        let mut job = LocalJob::new(endless(dir)?, 1)?;
        job.start_all(1, 1, Some("latest"))?;
        job.wait_running()?;
        let text = job.jobmanager()?.text();
        says(&text, &["starts new", "no checkpoint was completed before"])?;
        let status = job.wait_checkpoint()?;
        if !status["restoredFrom"].is_null() {
            bail!("it restored something: {status}");
        }
        Ok(())
    })
}
