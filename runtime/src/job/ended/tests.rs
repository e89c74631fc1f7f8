//! Functions are told of the end of each of their inputs, in its place among records, once over restores and rescales.
use crate::checkpoint::handles::SnapshotKind;
use crate::checkpoint::storage::Storage;
use crate::connectors::Collect;
use crate::dataflow::Output;
use crate::dataflow::harness::{Harness, Setup, job};
use crate::error::Result;
use crate::graph::LogicalGraph;
use crate::job::*;
use crate::state::{KeyRef, KeyedTable, ValueState};
use crate::testing::{TestSource, TwoInputHarness};

/// Writes down what it is told, with the watermark.
struct Log {
    seen: ValueState<u64, u64>,
    timers: Timers<u64>,
}

impl Log {
    fn new() -> Self {
        Self { seen: ValueState::new("seen"), timers: Timers::new("timers") }
    }
    fn say(&self, what: &str, out: &mut Output<String>) {
        out.push(format!("{what} at {}", self.timers.watermark()));
    }
}

impl KeyedCoProcessFunction for Log {
    type Key = u64;
    type In1 = u64;
    type In2 = u64;
    type Out = String;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.seen, &mut self.timers]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.timers)
    }
    fn process1(&mut self, key: &KeyRef<'_, u64>, _: &u64, _: &mut Output<String>) -> Result<()> {
        *self.seen.get_mut_or_default(key) += 1;
        Ok(())
    }
    fn process2(&mut self, key: &KeyRef<'_, u64>, r: &u64, out: &mut Output<String>) -> Result<()> {
        out.push(format!("{r} seen {}", self.seen.get(key).copied().unwrap_or_default()));
        Ok(())
    }
    fn end_of_input1(&mut self, out: &mut Output<String>) -> Result<()> {
        self.say(&format!("end 1 with {} keys", self.seen.len()), out);
        Ok(())
    }
    fn end_of_input2(&mut self, out: &mut Output<String>) -> Result<()> {
        self.say("end 2", out);
        Ok(())
    }
    fn end_of_input(&mut self, out: &mut Output<String>) -> Result<()> {
        self.say("end", out);
        Ok(())
    }
}

fn log(parallelism: u32) -> TwoInputHarness<u64, u64, String> {
    TwoInputHarness::with_parallelism(parallelism, |first: Stream<u64>, second: Stream<u64>| {
        first.key_by(|r| r).connect(&second.key_by(|r| r)).process_function("log", Log::new)
    })
    .unwrap()
}

const LAST: i64 = i64::MAX;

#[test]
fn each_input_ends_by_itself_behind_its_last_record_and_watermark() {
    let mut h = log(1);
    h.push1(7).unwrap();
    h.watermark2(5).unwrap();
    h.push1(8).unwrap();
    h.end1().unwrap();
    assert_eq!(h.output().unwrap(), ["end 1 with 2 keys at 5"], "event time is that of the other input");
    h.push2(7).unwrap();
    h.watermark2(9).unwrap();
    assert_eq!((h.output().unwrap(), h.watermark_out()), (vec!["7 seen 1".to_owned()], Some(9)));
    h.finish().unwrap();
    assert_eq!(h.output().unwrap(), [format!("end 2 at {LAST}"), format!("end at {LAST}")]);
}

#[test]
fn an_end_before_the_snapshot_is_not_told_again_and_one_after_it_is() {
    for (from, to) in [(1, 1), (2, 2), (2, 3), (3, 1)] {
        let mut h = log(from);
        (0..50).for_each(|i| h.push1(i).unwrap());
        let open = h.snapshot().unwrap();
        h.end1().unwrap();
        let told = h.output().unwrap();
        assert!(told.len() == from as usize && told.iter().all(|t| t.starts_with("end 1")), "{told:?}");
        let ended = h.snapshot().unwrap();

        let mut h = h.restore(&ended, to).unwrap();
        h.end1().unwrap();
        h.push2(3).unwrap();
        assert_eq!(h.output().unwrap(), ["3 seen 1"], "from {from} to {to}");
        h.finish().unwrap();
        let mut rest = h.output().unwrap();
        rest.sort();
        let all = |what: &str| vec![format!("{what} at {LAST}"); to as usize];
        assert_eq!(rest, [all("end 2"), all("end")].concat(), "from {from} to {to}");

        // one that was taken before is the beginning of another life
        let mut h = log(from).restore(&open, to);
        if let Ok(h) = &mut h {
            h.end1().unwrap();
            assert_eq!(h.output().unwrap().len(), to as usize);
        }
    }
}

/// Says when each side ends, and what the rules are then.
struct Sides;
impl KeyedBroadcastProcessFunction for Sides {
    type Key = u64;
    type In = u64;
    type Broadcast = u64;
    type Out = String;
    type BroadcastKey = u64;
    type BroadcastValue = ();
    fn process(
        &mut self,
        _: &KeyRef<'_, u64>,
        _: &u64,
        _: &BroadcastState<u64, ()>,
        _: &mut Output<String>,
    ) -> Result<()> {
        Ok(())
    }
    fn process_broadcast(
        &mut self,
        rule: &u64,
        rules: &mut BroadcastState<u64, ()>,
        _: &mut Output<String>,
    ) -> Result<()> {
        rules.put(*rule, ());
        Ok(())
    }
    fn end_of_main_input(&mut self, rules: &BroadcastState<u64, ()>, out: &mut Output<String>) -> Result<()> {
        out.push(format!("main, {} rules", rules.len()));
        Ok(())
    }
    fn end_of_broadcast(&mut self, rules: &mut BroadcastState<u64, ()>, out: &mut Output<String>) -> Result<()> {
        out.push(format!("broadcast, {} rules", rules.len()));
        rules.clear();
        Ok(())
    }
}

/// As [`Sides`], without keys.
struct PlainSides;
impl BroadcastProcessFunction for PlainSides {
    type In = u64;
    type Broadcast = u64;
    type Out = String;
    type BroadcastKey = u64;
    type BroadcastValue = ();
    fn process(&mut self, _: u64, _: &BroadcastState<u64, ()>, _: &mut Output<String>) -> Result<()> {
        Ok(())
    }
    fn process_broadcast(
        &mut self,
        rule: &u64,
        rules: &mut BroadcastState<u64, ()>,
        _: &mut Output<String>,
    ) -> Result<()> {
        rules.put(*rule, ());
        Ok(())
    }
    fn end_of_main_input(&mut self, rules: &BroadcastState<u64, ()>, out: &mut Output<String>) -> Result<()> {
        out.push(format!("main, {} rules", rules.len()));
        Ok(())
    }
    fn end_of_broadcast(&mut self, rules: &mut BroadcastState<u64, ()>, out: &mut Output<String>) -> Result<()> {
        out.push(format!("broadcast, {} rules", rules.len()));
        rules.clear();
        Ok(())
    }
}

#[test]
fn functions_with_a_broadcast_side_hear_of_both_ends() {
    type Declare = fn(Stream<u64>, Stream<u64>) -> Stream<String>;
    let keyed: Declare = |s, rules| s.key_by(|r| r).connect_broadcast(&rules).process_function("sides", || Sides);
    let plain: Declare = |s, rules| s.connect_broadcast(&rules).process_function("sides", || PlainSides);
    for declare in [keyed, plain] {
        let mut h = TwoInputHarness::new(declare).unwrap();
        h.push2(1).unwrap();
        h.push2(2).unwrap();
        h.end2().unwrap();
        assert_eq!(h.output().unwrap(), ["broadcast, 2 rules"]);
        let snapshot = h.snapshot().unwrap();
        let mut h = h.restore(&snapshot, 2).unwrap();
        h.end1().unwrap();
        h.end2().unwrap();
        assert_eq!(h.output().unwrap(), ["main, 0 rules"; 2]);
    }
}

/// Emits their number at the end.
struct Count(OperatorListState<u64>);
impl ProcessFunction for Count {
    type In = u64;
    type Out = u64;
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        vec![&mut self.0]
    }
    fn process(&mut self, record: u64, _: &mut Output<u64>) -> Result<()> {
        self.0.add(record);
        Ok(())
    }
    fn end_of_input(&mut self, out: &mut Output<u64>) -> Result<()> {
        out.push(self.0.get().len() as u64);
        Ok(())
    }
}

#[test]
fn a_function_with_one_input_is_told_while_other_sources_go_on() {
    let declare = |first: Stream<u64>, second: Stream<u64>| {
        // in the chain of the source, and in a task of its own
        let chained = first.process(|| Count(OperatorListState::split("seen"))).name("chained");
        let apart = first.rebalance().process(|| Count(OperatorListState::split("seen"))).name("apart");
        chained.union(&apart).union(&second).process(|| Count(OperatorListState::split("seen"))).name("all")
    };
    let mut h = TwoInputHarness::new(declare).unwrap();
    (0..3).for_each(|i| h.push1(i).unwrap());
    h.end1().unwrap();
    assert_eq!(h.list_state("all", OperatorListState::<u64>::split("seen")).unwrap(), [3, 3]);
    let snapshot = h.snapshot().unwrap();
    let mut h = h.restore(&snapshot, 1).unwrap();
    h.end1().unwrap();
    h.push2(9).unwrap();
    assert_eq!(h.list_state("all", OperatorListState::<u64>::split("seen")).unwrap(), [3, 3, 9], "told once");
    assert!(h.output().unwrap().is_empty());
    h.finish().unwrap();
    assert_eq!(h.output().unwrap(), [3]);
}

#[test]
fn a_job_that_was_drained_and_goes_on_is_told_of_the_real_end_where_records_came() {
    let (inputs, counts, log) = ([TestSource::new(), TestSource::new()], Collect::new(), Collect::new());
    let declare = || -> LogicalGraph {
        let mut job = Job::default();
        let [first, second] = [0, 1].map(|i| job.source(format!("in{i}"), inputs[i].clone()).parallelism(1));
        let count = first.process(|| Count(OperatorListState::split("seen"))).name("count");
        count.sink("counts", counts.clone());
        let both = first.key_by(|r| r).connect(&second.key_by(|r| r)).process_function("log", Log::new);
        both.sink("out", log.clone());
        job.into_graph()
    };
    let storage = Storage::open("memory:drained", &job()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let setup = Setup { storage: Some(storage), ..Setup::new(1) };
        let mut first = Harness::start_with(declare(), setup).await.unwrap();
        let drained = first.snapshot(SnapshotKind::Stop { drain: true }).await.unwrap();
        first.complete(drained.0);
        inputs[0].push(1);
        inputs.iter().for_each(TestSource::end);
        first.restore(&drained, declare(), 1).await.unwrap().finish().await.unwrap();
    });
    assert_eq!(counts.records(), [0, 1]);
    let mut log = log.records();
    log.sort();
    let [one, two, both] = ["end 1", "end 2", "end at"].map(|e| log.iter().filter(|l| l.starts_with(e)).count());
    assert_eq!([one, two, both], [2, 1, 2], "{log:?}");
}
