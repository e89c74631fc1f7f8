//! What is measured: one line per workload. New ones are added here.
use crate::measure::{Deploy, Run};

/// How Weir's figure is divided by the limit's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ratio {
    /// Results per second of the clock.
    Clock,
    /// Results per second of processor time.
    Core,
    /// The limit is the same job without checkpoints: what checkpoints cost, in percent of the clock.
    Loss,
}

/// The other side of a comparison.
#[derive(Debug, Clone)]
pub enum Limit {
    /// `engine limit ARGUMENTS`
    Loop(Vec<String>),
    /// The same job without checkpoints.
    Unchecked,
}

pub struct Workload {
    /// Row of the work order.
    pub row: &'static str,
    pub name: &'static str,
    pub limit: Limit,
    pub run: Run,
    pub ratio: Ratio,
    pub must: f64,
    pub goal: f64,
    /// Million results per second of Flink 2.3 (quiet series, hashmap backend, object reuse, checkpoints off unless the row
    /// is about them) and of timely 0.31 on this kind of machine, measured 2026-11-21; per core-second for `Ratio::Core`.
    pub flink: Option<f64>,
    pub timely: Option<f64>,
}

/// How large the workloads are.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Records of a workload are divided by this.
    pub divide: u64,
    /// Size of the word count's text.
    pub megabytes: u64,
    /// Time between two checkpoints in the rows about them.
    pub checkpoints: &'static str,
    /// Keys of the large state.
    pub state_keys: u64,
}

pub const FULL: Scale = Scale { divide: 1, megabytes: 1024, checkpoints: "1s", state_keys: 10 * M };
/// For correctness: too short for figures, and short enough for a debug build.
pub const SHORT: Scale = Scale { divide: 500, megabytes: 4, checkpoints: "50ms", state_keys: 100_000 };

const M: u64 = 1_000_000;

pub fn all(scale: Scale) -> Vec<Workload> {
    let mut all = Vec::new();
    let n = |millions: u64| millions * M / scale.divide;
    let reduce = |job: &'static str, records: u64, keys: u64, deploy: Deploy| Run::reduce(job, records, keys, deploy);
    let a_loop =
        |name: &str, records: u64, keys: u64| Limit::Loop(vec![name.to_owned(), records.to_string(), keys.to_string()]);
    let (one, two) = (Deploy::Local(1), Deploy::Local(2));
    for (row, name, limit, deploy, keys, records, must, goal, flink, timely) in [
        ("1", "reduce, 2 string keys, p=1", "str", one, 2, n(100), 0.5, 0.8, 7.41, 20.6),
        ("1", "reduce, 1,000 string keys, p=1", "str", one, 1_000, n(100), 0.5, 0.8, 5.89, 19.4),
        ("1", "reduce, 2 string keys, p=2", "str2", two, 2, n(100), 0.5, 0.8, 9.99, 20.5),
        ("1", "reduce, 1,000 string keys, p=2", "str2", two, 1_000, n(100), 0.5, 0.8, 7.65, 22.5),
        ("2", "reduce, 1M string keys, p=1", "str", one, M, n(30), 1.0, 1.5, 1.20, 2.0),
        ("2", "reduce, 1M string keys, p=2", "str2", two, M, n(30), 1.0, 1.5, 0.97, 3.3),
    ] {
        let (limit, run) = (a_loop(limit, records, keys), reduce("reduce-str", records, keys, deploy));
        let (flink, timely) = (Some(flink), Some(timely));
        all.push(Workload { row, name, limit, run, ratio: Ratio::Clock, must, goal, flink, timely });
    }
    all.push(Workload {
        row: "3",
        name: "reduce, 1,000 u64 keys, p=1",
        limit: a_loop("int", n(200), 1_000),
        run: reduce("reduce-int", n(200), 1_000, one),
        ratio: Ratio::Clock,
        must: 0.4,
        goal: 0.6,
        flink: None,
        timely: Some(83.0),
    });
    all.push(Workload {
        row: "4",
        name: "reduce, 1,000 string keys, 2 processes over TCP, per core",
        limit: a_loop("ser", n(100), 1_000),
        run: reduce("reduce-str", n(100), 1_000, Deploy::Processes(2)),
        ratio: Ratio::Core,
        must: 0.6,
        goal: 0.8,
        flink: Some(3.99),
        timely: None,
    });
    for (name, deploy, keys, records, flink) in [
        ("1 s checkpoints: 1,000 string keys, p=1", one, 1_000, n(300), 6.57),
        ("1 s checkpoints: 1,000 string keys, p=2", two, 1_000, n(300), 7.56),
        ("1 s checkpoints: 1M string keys, p=1", one, M, n(60), 0.57),
        ("1 s checkpoints: 1M string keys, p=2", two, M, n(60), 0.72),
        ("1 s checkpoints: 1,000 string keys, 2 processes", Deploy::Processes(2), 1_000, n(200), f64::NAN),
    ] {
        let run = reduce("reduce-str", records, keys, deploy).with_checkpoints(scale.checkpoints);
        let flink = Some(flink).filter(|f| f.is_finite());
        let (limit, ratio) = (Limit::Unchecked, Ratio::Loss);
        all.push(Workload { row: "5", name, limit, run, ratio, must: 2.0, goal: 1.0, flink, timely: None });
    }
    for (name, p, flink, timely) in [("word count, p=1", 1, 2.99, 9.0), ("word count, p=2", 2, 4.09, 10.5)] {
        all.push(Workload {
            row: "6",
            name,
            limit: Limit::Loop(vec!["wc".into(), scale.megabytes.to_string(), p.to_string()]),
            run: Run::words(scale.megabytes, Deploy::Local(p)),
            ratio: Ratio::Clock,
            must: 0.6,
            goal: 0.8,
            flink: Some(flink),
            timely: Some(timely),
        });
    }
    for (name, deploy, flink) in [
        ("windows of 10 s, 100,000 u64 keys, p=1, per core", one, 1.21),
        ("windows of 10 s, 100,000 u64 keys, p=2, per core", two, 1.52),
    ] {
        let (records, keys) = (n(50), 100_000);
        all.push(Workload {
            row: "7",
            name,
            limit: a_loop("window", records, keys),
            run: Run::windows(records, keys, deploy),
            ratio: Ratio::Core,
            must: 0.5,
            goal: 0.7,
            flink: Some(flink),
            timely: None,
        });
    }
    all
}
