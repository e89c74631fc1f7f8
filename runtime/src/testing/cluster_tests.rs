//! The cluster for tests does what it says: kills, restarts, savepoints, rescales, and clear errors.
use super::*;
use crate::connectors::{Collect, Generator};
use crate::data::Data;
use crate::job::Job;

fn sorted<T: Data + Ord>(sink: &Collect<T>) -> Vec<T> {
    let mut all = sink.records();
    all.sort();
    all
}

/// Counts the records of each of seven keys.
fn counting(input: &TestSource<u64>, out: &Collect<(u64, u64)>) -> impl Fn(&mut Job) + 'static {
    let (input, out) = (input.clone(), out.clone());
    move |job| {
        job.source("input", input.clone())
            .key_by_value(|i| i % 7)
            .process("count", |n: &mut u64, i: u64, out| {
                *n += 1;
                out.push((i % 7, *n));
            })
            .sink("out", out.clone());
    }
}

fn expected(n: u64) -> Vec<(u64, u64)> {
    (0..7).flat_map(|k| (1..=(n - k).div_ceil(7)).map(move |c| (k, c))).collect()
}

#[test]
fn a_job_survives_the_death_of_each_member_and_of_all() {
    let (input, out) = (TestSource::new(), Collect::new());
    let feed = |range: std::ops::Range<u64>| range.for_each(|i| input.push(i));
    let mut c = ClusterOptions::new(2).taskmanagers(2).start(counting(&input, &out)).unwrap();
    feed(0..100);
    input.wait_until_read().unwrap();
    let first = c.checkpoint().unwrap();
    feed(100..200);
    c.kill_taskmanager(1).unwrap();
    c.running().unwrap();
    feed(200..300);
    assert!(c.checkpoint().unwrap() > first);
    c.kill_jobmanager().unwrap();
    feed(300..400);
    c.checkpoint().unwrap();
    c.fail_task("count", 1).unwrap();
    feed(400..500);
    c.checkpoint().unwrap();
    c.rescale(3).unwrap();
    feed(500..600);
    assert_eq!(c.status().unwrap().parallelism, 3);
    c.checkpoint().unwrap();
    c.crash();
    feed(600..700);
    assert!(c.checkpoint().unwrap_err().message.contains("restart()"));
    c.restart(1).unwrap();
    assert_eq!(c.status().unwrap().parallelism, 1);
    input.end();
    c.finish().unwrap();
    assert_eq!(sorted(&out), expected(700));
}

#[test]
fn a_savepoint_is_a_place_to_go_back_to() {
    let (input, out) = (TestSource::new(), Collect::new());
    let mut c = Cluster::of(1, counting(&input, &out)).unwrap();
    (0..70).for_each(|i| input.push(i));
    input.wait_until_read().unwrap();
    let savepoint = c.savepoint().unwrap();
    (70..140).for_each(|i| input.push(i));
    input.wait_until_read().unwrap();
    c.checkpoint().unwrap();
    let stopped = c.stop(false).unwrap();
    assert_ne!(savepoint, stopped);
    assert_eq!(sorted(&out), expected(140));
    input.end();
    // another job, with a log of its own
    let other = Collect::new();
    ClusterOptions::new(2).restore(&savepoint, counting(&input, &other)).unwrap().finish().unwrap();
    let all = expected(140);
    let later: Vec<_> = all.into_iter().filter(|(_, n)| *n > 10).collect();
    let committed_there = sorted(&other);
    assert!(later.iter().all(|r| committed_there.contains(r)), "{committed_there:?}");
    let last = Collect::new();
    ClusterOptions::new(1).restore(&stopped, counting(&input, &last)).unwrap().finish().unwrap();
    assert!(last.is_empty());
}

#[test]
fn errors_say_what_happened() {
    let e = run(1, |job| {
        job.source("numbers", records([1u64, 2, 3]))
            .map(|i| if i == 3 { panic!("three is too much") } else { i })
            .sink("out", Collect::new());
    })
    .unwrap_err();
    assert!(e.message.contains("three is too much") && e.message.contains("FAILED"), "{e}");
    let e = run(1, |job| {
        let numbers = job.source("numbers", Generator::new(3, |i| i));
        numbers.sink("out", Collect::new());
        numbers.sink("out", Collect::new());
    })
    .unwrap_err();
    assert!(e.message.contains("out"), "{e}");
    let mut c = Cluster::of(1, |job| {
        job.source("numbers", Generator::unbounded(|i| i).rate(1000.0)).sink("out", Collect::new());
    })
    .unwrap();
    let e = c.fail_task("counts", 0).unwrap_err();
    assert!(e.message.contains("\"counts\"") && e.message.contains("numbers, out"), "{e}");
    assert!(c.fail_task("out", 5).unwrap_err().message.contains("subtask 5"));
    assert!(c.kill_taskmanager(3).unwrap_err().message.contains("no taskmanager 3"));
    let e = c.rescale(100).unwrap_err();
    assert!(e.message.contains("100 slots"), "{e}");
}

#[tokio::test]
async fn it_may_be_used_from_async_code() {
    let out = Collect::new();
    let to = out.clone();
    run(1, move |job| job.source("numbers", records(0..10u64)).sink("out", to.clone())).unwrap();
    assert_eq!(out.records(), (0..10).collect::<Vec<u64>>());
}
