//! Strangers on the ports, and ports that others have.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir::exchange::frame::VERSION;
use weir_tests::local::{self, JobSpec, LocalJob, Proc, code, http};

use crate::fixture::{endless, in_folder, refused, says};

/// How long a stranger is suffered.
const SHORT: Duration = Duration::from_secs(15);

/// A running job at parallelism 2 whose first taskmanager takes data connections on a known address.
fn running(spec: JobSpec) -> Result<(LocalJob, SocketAddr)> {
    let mut job = LocalJob::new(spec, 2)?;
    job.start_jobmanager(None)?;
    let data = local::free_address()?;
    for (n, address) in [(0, data), (1, local::free_address()?)] {
        let mut command = job.spec.taskmanager(job.rpc, &format!("tm-{n}"), 1);
        command.args(["--data-address", &address.to_string()]);
        let log = job.spec.logs.join(format!("tm-{n}.log"));
        job.taskmanagers.push(Proc::spawn(&format!("tm-{n}"), &mut command, &log)?);
    }
    job.wait_running()?;
    Ok((job, data))
}

/// The same processes run the same attempt, and go on completing checkpoints.
fn lives_on(job: &mut LocalJob) -> Result<()> {
    let status = job.wait_checkpoint()?;
    ensure!(status["restarts"] == 0 && status["attempt"] == 1, "the job was restarted: {status}");
    for tm in &mut job.taskmanagers {
        ensure!(tm.is_running(), "{} ended:\n{}", tm.name, tm.tail());
        ensure!(!tm.text().contains("panicked"), "{}", tm.tail());
    }
    let jm = job.jobmanager()?;
    ensure!(!jm.text().contains("panicked"), "{}", jm.tail());
    Ok(())
}

fn memory(proc: &Proc) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proc.pid()))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? << 10)
}

fn framed(length: u32, body: &[u8]) -> Vec<u8> {
    [b"WEIRCTL\x01".as_slice(), &length.to_be_bytes(), body].concat()
}

pub fn strangers_on_the_control_port() -> Result<()> {
    in_folder(|dir| {
        let (mut job, _) = running(endless(dir)?)?;
        let rpc = job.rpc;
        let before = memory(job.jobmanager()?)?;
        let hello = br#"{"Hello":{"id":"x","slots":1,"data_address":"127.0.0.1:1","fingerprint":"0","pid":1}}"#;
        let cases: [(Vec<u8>, &str); 8] = [
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "does not speak Weir's control protocol"),
            (vec![0xff; 100_000], "does not speak Weir's control protocol"),
            (b"WEIRCTL\x07".to_vec(), "version 7 of the control protocol"),
            (framed(u32::MAX, b""), "4294967295 bytes is longer than the limit"),
            (framed(9, b"\xff\xfe\x00\x01 junk"), "does not hold the expected message"),
            (framed(2, b"{}"), "does not hold the expected message"),
            (framed(11, b"\"Heartbeat\""), "does not hold the expected message"),
            (framed(u32::try_from(hello.len())?, hello), "runs another program"),
        ];
        for (bytes, words) in &cases {
            http::throw(rpc, bytes, SHORT)?;
            let name = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            job.wait(&format!("a word on {name:?}: {words}"), |job| {
                let log = job.jobmanager.as_ref().map(Proc::text).unwrap_or_default();
                Ok(log.contains(words).then_some(()))
            })?;
        }
        let grown = memory(job.jobmanager()?)?.saturating_sub(before);
        ensure!(grown < 32 << 20, "the jobmanager grew by {grown} bytes");
        lives_on(&mut job)
    })
}

pub fn strangers_on_the_data_port() -> Result<()> {
    in_folder(|dir| {
        let (mut job, data) = running(endless(dir)?)?;
        let before = memory(&job.taskmanagers[0])?;
        let mut oversized = b"WEIR".to_vec();
        oversized.extend([VERSION, 4, 0, 0]);
        oversized.extend([0; 20]);
        oversized.extend(u32::MAX.to_le_bytes());
        oversized.extend([0; 12]);
        let mut checksum = b"WEIR".to_vec();
        checksum.extend([VERSION, 1, 0, 0]);
        checksum.extend([0; 36]);
        for (bytes, words) in [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "no taskmanager"),
            (vec![0; 100_000], "no taskmanager"),
            (b"WEIR\x09".iter().copied().chain([0; 43]).collect(), "format version 9"),
            (oversized, "claims a body of 4294967295 bytes"),
            (checksum, "checksum"),
        ] {
            let answer = http::throw(data, &bytes, SHORT)?;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let log = job.taskmanagers[0].text();
            ensure!(answer.contains(words) || log.contains(words), "no word on {words:?}: {answer:?}\n{log}");
        }
        let grown = memory(&job.taskmanagers[0])?.saturating_sub(before);
        ensure!(grown < 64 << 20, "the taskmanager grew by {grown} bytes");
        lives_on(&mut job)
    })
}

pub fn ports_in_use() -> Result<()> {
    in_folder(|dir| {
        let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = taken.local_addr()?.to_string();
        let spec = endless(dir)?;
        // the last one given counts
        for option in ["--rest-address", "--rpc-address"] {
            let (rest, rpc) = (local::free_address()?, local::free_address()?);
            let taken = taken.local_addr()?;
            let (rest, rpc) = if option == "--rest-address" { (taken, rpc) } else { (rest, taken) };
            let log = spec.logs.join(format!("jobmanager{option}.log"));
            let mut jm = Proc::spawn("jobmanager", &mut spec.jobmanager(rest, rpc, 1, None), &log)?;
            let exit = jm.wait(local::PATIENCE)?;
            ensure!(code(exit) != 0, "it ended with {exit}");
            says(&jm.text(), &["cannot listen", &address, "in use", "choose another address"])?;
        }
        let mut command = spec.taskmanager(local::free_address()?, "tm", 1);
        command.args(["--data-address", &address]);
        let mut tm = Proc::spawn("taskmanager", &mut command, &spec.logs.join("taskmanager.log"))?;
        let exit = tm.wait(local::PATIENCE)?;
        ensure!(code(exit) != 0, "it ended with {exit}");
        says(&tm.text(), &[&address, "in use"])?;
        let found = weir_tests::local::log::fingerprint(&dir.join("checkpoints"))?;
        ensure!(found.is_empty(), "something was written: {found:?}");
        // and an address that is none
        let text = refused(&spec.option("--checkpoint-interval", "1s"), 0, None, 1)?;
        says(&text, &["parallelism 0", "between 1 and"])
    })
}

/// The same program with another graph: here wordcount's place is taken by a greeting that it would send.
pub fn a_taskmanager_of_another_job_is_refused() -> Result<()> {
    in_folder(|dir| {
        let (mut job, _) = running(endless(dir)?)?;
        let hello =
            br#"{"Hello":{"id":"stranger","slots":4,"data_address":"127.0.0.1:1","fingerprint":"feed","pid":1}}"#;
        let answer = http::throw(job.rpc, &framed(u32::try_from(hello.len())?, hello), SHORT)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        says(&answer, &["Refused", "stranger", "feed", "same"])?;
        ensure!(job.status()?["taskmanagers"] == 2, "it was counted: {}", job.status()?);
        lives_on(&mut job)
    })
}
