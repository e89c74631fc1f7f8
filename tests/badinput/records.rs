//! Bad rows in the input.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::local::{JobSpec, LocalJob, PATIENCE, code};
use weir_tests::oracle::OutputFiles;

use crate::fixture::{in_folder, metric, says};

/// 4 lines: a header, a good row, the given ones, a good row.
fn input(dir: &Path, bad: &[&str]) -> Result<PathBuf> {
    let mut text = String::from(
        "scheduled,departed,carrier,flight,tail,origin,dest,dep_delay_min,arr_delay_min,distance_mi\n\
         2013-01-01T10:15Z,2013-01-01T10:17Z,UA,1545,N14228,EWR,IAH,2,11,1400\n",
    );
    for row in bad {
        text.push_str(row);
        text.push('\n');
    }
    text.push_str("2013-01-01T10:29Z,2013-01-01T10:33Z,UA,1714,N24211,LGA,IAH,4,20,1416\n");
    let file = dir.join("input.csv");
    fs::write(&file, text)?;
    Ok(file)
}

pub fn a_bad_record_fails_the_job_and_is_named() -> Result<()> {
    in_folder(|dir| {
        let cases = [
            (
                "2013-01-01T10:40Z,2013-01-01T10:42Z,AA,eleven,N619AA,JFK,MIA,2,33,1089",
                ["input.csv", "line 3", "column \"flight\"", "eleven", "Skip"],
            ),
            ("2013-01-01T10:40Z,2013-01-01T10:42Z,AA,1141,N619AA", ["input.csv", "line 3", "5", "10", "Skip"]),
        ];
        for (n, (row, words)) in cases.into_iter().enumerate() {
            let dir = dir.join(n.to_string());
            fs::create_dir_all(&dir)?;
            let spec = JobSpec::flights(&dir, &input(&dir, &[row])?, 1)?;
            let mut job = LocalJob::start(spec, 1, 1, 1)?;
            let jm = job.jobmanager()?;
            let exit = jm.wait(PATIENCE)?;
            ensure!(code(exit) == 1, "the jobmanager ended with {exit}:\n{}", jm.tail());
            let last = jm.text();
            let last = last.lines().rfind(|line| line.contains("bad record")).context("no word on the bad record")?;
            says(last, &words)?;
            let terminal = job.spec.log()?.last()?.context("an empty log")?;
            ensure!(terminal.body["status"] == "Failed", "{terminal:?}");
            says(terminal.body["reason"].as_str().unwrap_or_default(), &words)?;
            let parts = OutputFiles::of(&dir.join("output"))?.parts;
            ensure!(parts.is_empty(), "a job that failed before its first checkpoint committed {parts:?}");
        }
        Ok(())
    })
}

pub fn bad_records_are_skipped_and_counted() -> Result<()> {
    in_folder(|dir| {
        let bad = [
            "2013-01-01T10:40Z,2013-01-01T10:42Z,AA,eleven,N619AA,JFK,MIA,2,33,1089",
            "2013-01-01T10:40Z,2013-01-01T10:42Z,AA,1141,N619AA,JFK,MIA,two,33,1089",
        ];
        // 400 readings at 100 rows a second: long enough to look at it
        let mut spec = JobSpec::flights(dir, &input(dir, &bad)?, 400)?.argument("--rate", 100);
        spec.arguments.push("--skip-bad-records".into());
        let mut job = LocalJob::start(spec, 1, 1, 1)?;
        job.wait("skipped records to be counted", |job| {
            Ok((metric(job, "weir_task_bad_records_total{")? >= 2.0).then_some(()))
        })?;
        job.wait_checkpoint()?;
        ensure!(job.status()?["restarts"] == 0, "skipping restarts nothing: {}", job.status()?);
        let text = job.taskmanagers[0].text();
        says(&text, &["skipped a bad record", "line 3", "column \"flight\"", "eleven"])?;
        // at a bounded rate
        let said = text.lines().filter(|line| line.contains("skipped a bad record")).count();
        ensure!(said <= 3, "{said} lines on skipped records within seconds");
        job.jobmanager()?.kill()?;
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    })
}
