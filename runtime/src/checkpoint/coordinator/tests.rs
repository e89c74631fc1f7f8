use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> Settings {
    Settings {
        storage: true,
        interval: SECOND,
        timeout: 10 * SECOND,
        min_pause: Duration::ZERO,
        max_concurrent: 1,
        tolerable_failed: None,
        aligned: true,
    }
}

fn at(millis: u64) -> Now {
    Now { mono: Duration::from_millis(millis), wall: 1_000_000 + millis as i64 }
}

fn task(subtask: u32) -> TaskId {
    TaskId { vertex: 0, subtask }
}

/// A coordinator whose attempt 1 with two tasks runs since `at(0)`.
fn running(settings: Settings) -> Coordinator {
    let mut c = Coordinator::new(settings, "flights");
    begin(&mut c, 1, 0);
    c
}

fn begin(c: &mut Coordinator, attempt: u64, now: u64) -> Vec<Action> {
    let tasks = BTreeSet::from([task(0), task(1)]);
    let next = CheckpointId(1);
    let begin = Event::Begin { attempt: Attempt(attempt), nonce: Nonce(0xab), next, tasks };
    let mut actions = c.on(begin, at(now));
    actions.extend(c.on(Event::AllTasksRunning, at(now)));
    actions
}

fn ack(c: &mut Coordinator, id: u64, subtask: u32, now: u64) -> Vec<Action> {
    let snapshot = TaskSnapshot::default();
    c.on(Event::Acknowledged { attempt: c.attempt, id: CheckpointId(id), task: task(subtask), snapshot }, at(now))
}

fn request(c: &mut Coordinator, id: &str, kind: SnapshotKind, now: u64) -> Vec<Action> {
    c.on(Event::Request { trigger_id: id.into(), kind, target: None }, at(now))
}

fn published(c: &mut Coordinator, id: u64, now: u64) -> Vec<Action> {
    c.on(Event::Published { id: CheckpointId(id), index: Some(id) }, at(now))
}

fn triggered(actions: &[Action]) -> Vec<(u64, SnapshotKind)> {
    let of = |a: &Action| match a {
        Action::Command(TaskCommand::Trigger(b)) => Some((b.id.0, b.kind)),
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

/// Acknowledges and publishes checkpoint `id`; the actions that follow its publication.
fn complete(c: &mut Coordinator, id: u64, now: u64) -> Vec<Action> {
    ack(c, id, 0, now);
    let actions = ack(c, id, 1, now);
    assert!(actions.iter().any(|a| matches!(a, Action::Publish(p) if p.id.0 == id)), "{actions:?}");
    published(c, id, now)
}

fn told(actions: &[Action], command: TaskCommand) -> bool {
    actions.contains(&Action::Command(command))
}

fn outcome(actions: &[Action], id: &str) -> Option<Result<Outcome, String>> {
    actions.iter().find_map(|a| match a {
        Action::Resolved { trigger_id, outcome, .. } if trigger_id == id => Some(outcome.clone()),
        _ => None,
    })
}

use SnapshotKind::{Checkpoint, Final, Rescale, Savepoint};
const STOP: SnapshotKind = SnapshotKind::Stop { drain: false };
const DRAIN: SnapshotKind = SnapshotKind::Stop { drain: true };

#[test]
fn checkpoints_come_periodically_and_only_while_all_tasks_run() {
    let mut c = Coordinator::new(settings(), "flights");
    assert_eq!((c.on(Event::Tick, at(5000)), c.next_wakeup()), (vec![], None));
    let tasks = BTreeSet::from([task(0), task(1)]);
    c.on(Event::Begin { attempt: Attempt(1), nonce: Nonce(0xab), next: CheckpointId(7), tasks }, at(5000));
    assert_eq!((c.on(Event::Tick, at(8000)), c.next_wakeup()), (vec![], None));
    c.on(Event::AllTasksRunning, at(9000));
    let first = c.next_wakeup().unwrap();
    assert!(first <= at(10_000).mono, "{first:?}");
    let actions = c.on(Event::Tick, Now { mono: first, wall: 0 });
    let [Action::Command(TaskCommand::Trigger(b))] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((b.id, b.attempt, b.kind, b.aligned), (CheckpointId(7), Attempt(1), Checkpoint, true));
    assert_eq!(b.directory, "chk-7-1-00000000000000ab");
    let begun = first.as_millis() as u64;
    complete(&mut c, 7, begun + 10);
    assert_eq!(c.next_wakeup(), Some(at(begun + 1000).mono));
    assert_eq!(triggered(&c.on(Event::Tick, at(begun + 999))), []);
    assert_eq!(triggered(&c.on(Event::Tick, at(begun + 1000))), [(8, Checkpoint)]);
}

#[test]
fn complete_means_entry_first_then_commit_then_retention() {
    let mut c = running(settings());
    c.on(Event::Tick, at(1000));
    assert_eq!(ack(&mut c, 1, 0, 1001), []);
    assert_eq!(ack(&mut c, 1, 0, 1002), [], "the same acknowledgement twice");
    let actions = ack(&mut c, 1, 1, 1003);
    let [Action::Publish(p)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((p.snapshots.len(), p.duration_ms, p.triggered_at), (2, 3, 1_001_000));
    // however long the storage takes: it cannot expire any more
    assert_eq!(c.on(Event::Tick, at(900_000)), []);
    let actions = published(&mut c, 1, 900_001);
    let id = CheckpointId(1);
    assert_eq!(actions[..2], [Action::Command(TaskCommand::Complete(id)), Action::Retain { id }]);
    assert_eq!(published(&mut c, 1, 900_002), [], "the same answer twice");
    let stats = c.stats();
    assert_eq!((stats.counts.completed, stats.counts.failed, stats.latest_completed.as_ref().unwrap().id), (1, 0, id));
}

#[test]
fn min_pause_counts_from_the_end_of_the_last_one() {
    let mut c = running(Settings { min_pause: 3 * SECOND, ..settings() });
    assert_eq!(triggered(&c.on(Event::Tick, at(1000))), [(1, Checkpoint)]);
    complete(&mut c, 1, 2000);
    assert_eq!(triggered(&c.on(Event::Tick, at(4999))), []);
    assert_eq!(triggered(&c.on(Event::Tick, at(5000))), [(2, Checkpoint)]);
}

#[test]
fn a_decline_an_expiry_and_a_failed_append_abort_and_the_job_goes_on() {
    let mut c = running(settings());
    let decline =
        |id| Event::Declined { attempt: Attempt(1), id: CheckpointId(id), task: task(1), reason: "disk".into() };
    c.on(Event::Tick, at(1000));
    let declined = c.on(decline(1), at(1500));
    c.on(Event::Tick, at(2000));
    let expired = c.on(Event::Tick, at(12_000));
    ack(&mut c, 3, 0, 12_500);
    ack(&mut c, 3, 1, 12_500);
    let refused = c.on(Event::PublishFailed { id: CheckpointId(3), reason: "full".into() }, at(12_600));
    for (id, actions) in [(1, declined), (2, expired), (3, refused)] {
        let directory = format!("chk-{id}-1-00000000000000ab");
        assert_eq!(actions[..2], [Action::Command(TaskCommand::Aborted(CheckpointId(id))), Action::Discard(directory)]);
        assert!(!actions.iter().any(|a| matches!(a, Action::FailJob { .. })));
    }
    assert_eq!(c.stats().counts.failed, 3);
    let reasons: Vec<_> = c.stats().history.iter().filter_map(|h| h.failure.clone()).collect();
    assert_eq!(reasons[0], "declined by subtask 1 of vertex 0: disk");
    assert_eq!(reasons[1], "expired after 10000 ms: 2 of 2 tasks have not acknowledged");
    // after all that the next one completes
    let actions = c.on(Event::Tick, at(14_000));
    let id = triggered(&actions)[0].0;
    assert!(told(&complete(&mut c, id, 14_100), TaskCommand::Complete(CheckpointId(id))));
}

#[test]
fn a_late_acknowledgement_has_its_files_discarded_again() {
    let mut c = running(settings());
    c.on(Event::Tick, at(1000));
    c.on(Event::Tick, at(11_000));
    assert_eq!(ack(&mut c, 1, 0, 11_500), [Action::Discard("chk-1-1-00000000000000ab".into())]);
    assert_eq!(ack(&mut c, 99, 0, 11_500), [], "an id that never was");
    let old = Event::Acknowledged {
        attempt: Attempt(0),
        id: CheckpointId(2),
        task: task(0),
        snapshot: TaskSnapshot::default(),
    };
    assert_eq!(c.on(old, at(11_500)), []);
}

#[test]
fn more_failures_in_a_row_than_tolerated_fail_the_job() {
    let mut c = running(Settings { tolerable_failed: Some(1), ..settings() });
    let fail = |c: &mut Coordinator, id, now| {
        assert_eq!(triggered(&c.on(Event::Tick, at(now))), [(id, Checkpoint)]);
        let reason = "disk".to_owned();
        c.on(Event::Declined { attempt: Attempt(1), id: CheckpointId(id), task: task(0), reason }, at(now))
    };
    let fails_job = |actions: &[Action]| actions.iter().any(|a| matches!(a, Action::FailJob { .. }));
    assert!(!fails_job(&fail(&mut c, 1, 1000)));
    c.on(Event::Tick, at(2000));
    complete(&mut c, 2, 2000);
    assert!(!fails_job(&fail(&mut c, 3, 3000)), "a completed one in between starts the count over");
    let actions = fail(&mut c, 4, 4000);
    let Some(Action::FailJob { reason }) = actions.iter().find(|a| matches!(a, Action::FailJob { .. })) else {
        panic!("{actions:?}")
    };
    assert!(reason.starts_with("2 checkpoints failed in a row, 1 are tolerated; the last: declined by"), "{reason}");
}

#[test]
fn an_intermediate_savepoint_commits_nothing() {
    let mut c = running(settings());
    assert_eq!(triggered(&request(&mut c, "s", Savepoint, 10)), [(1, Savepoint)]);
    assert_eq!(request(&mut c, "s", Savepoint, 11), [], "the same trigger id starts nothing");
    let actions = complete(&mut c, 1, 20);
    let directory = "savepoint-1-1-00000000000000ab".to_owned();
    let outcome = Outcome { id: CheckpointId(1), directory, index: Some(1) };
    assert_eq!(actions, [Action::Resolved { trigger_id: "s".into(), kind: Savepoint, outcome: Ok(outcome) }]);
}

#[test]
fn a_savepoint_may_go_elsewhere() {
    let mut c = running(settings());
    let target = Some("file:///backup/".into());
    let actions = c.on(Event::Request { trigger_id: "s".into(), kind: Savepoint, target }, at(10));
    let [Action::Command(TaskCommand::Trigger(b))] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(b.directory, "file:///backup/savepoint-flights-1-1-00000000000000ab");
}

#[test]
fn what_ends_the_job_comes_first_and_nothing_after_it() {
    let mut c = running(settings());
    c.on(Event::Tick, at(1000));
    for (id, kind) in [("s1", Savepoint), ("s2", Savepoint), ("stop", STOP)] {
        assert_eq!(request(&mut c, id, kind, 1001), []);
    }
    ack(&mut c, 1, 0, 1002);
    ack(&mut c, 1, 1, 1002);
    assert_eq!(triggered(&published(&mut c, 1, 1003)), [(2, STOP)]);
    assert_eq!(c.on(Event::Tick, at(5000)), [], "no checkpoint beside a stop");
    let actions = complete(&mut c, 2, 5001);
    assert!(outcome(&actions, "stop").unwrap().is_ok());
    assert!(told(&actions, TaskCommand::Complete(CheckpointId(2))));
    assert!(actions.iter().any(|a| matches!(a, Action::TasksEnd { kind: STOP, index: Some(2), .. })));
    for s in ["s1", "s2"] {
        assert_eq!(outcome(&actions, s), Some(Err("the job was ended by savepoint 2".into())));
    }
    assert_eq!((c.on(Event::Tick, at(60_000)), c.next_wakeup()), (vec![], None));
    assert_eq!(outcome(&request(&mut c, "late", Savepoint, 60_000), "late"), Some(Err("the job is ending".into())));
}

#[test]
fn a_stop_that_fails_lets_the_job_run_on() {
    let mut c = running(settings());
    request(&mut c, "stop", STOP, 10);
    let reason = "no space".to_owned();
    let declined = Event::Declined { attempt: Attempt(1), id: CheckpointId(1), task: task(0), reason };
    let actions = c.on(declined, at(20));
    assert!(told(&actions, TaskCommand::Aborted(CheckpointId(1))), "the sources resume");
    assert!(outcome(&actions, "stop").unwrap().unwrap_err().contains("no space"));
    assert_eq!(triggered(&c.on(Event::Tick, at(1000))), [(2, Checkpoint)]);
}

#[test]
fn the_queue_is_bounded_and_everyone_gets_an_answer() {
    let mut c = running(settings());
    let mut refused = 0;
    for i in 0..MAX_QUEUED + 5 {
        refused += usize::from(outcome(&request(&mut c, &format!("s{i}"), Savepoint, 10), &format!("s{i}")).is_some());
    }
    assert_eq!(refused, 4); // one is under way
    let actions = c.on(Event::End { reason: "a taskmanager was lost".into() }, at(20));
    let answers = actions
        .iter()
        .filter(|a| matches!(a, Action::Resolved { outcome: Err(e), .. } if e == "a taskmanager was lost"));
    assert_eq!(answers.count(), MAX_QUEUED + 1);
    let none = outcome(&request(&mut c, "x", Savepoint, 30), "x").unwrap();
    assert_eq!(none, Err("the job is not running".into()));
}

#[test]
fn what_is_on_its_way_into_the_log_when_the_attempt_ends_may_still_complete() {
    let mut c = running(settings());
    request(&mut c, "stop", STOP, 10);
    ack(&mut c, 1, 0, 11);
    ack(&mut c, 1, 1, 11);
    assert_eq!(c.on(Event::End { reason: "lost".into() }, at(12)), [], "its files must stay");
    let actions = begin(&mut c, 2, 13);
    assert_eq!(actions, []);
    assert_eq!(c.active_directories().len(), 1);
    let actions = published(&mut c, 1, 14);
    assert!(outcome(&actions, "stop").unwrap().is_ok());
    assert_eq!(actions.len(), 1, "the tasks of the new attempt know nothing of it: {actions:?}");
    // ids go on behind it
    assert_eq!(triggered(&c.on(Event::Tick, at(2000))), [(2, Checkpoint)]);
}

#[test]
fn concurrent_checkpoints_are_published_one_by_one_and_subsume_older_ones() {
    let mut c = running(Settings { max_concurrent: 3, ..settings() });
    for t in [1000, 2000, 3000, 4000] {
        c.on(Event::Tick, at(t));
    }
    assert_eq!(c.pending.len(), 3);
    for id in [3, 2] {
        ack(&mut c, id, 0, 4001);
    }
    let three = ack(&mut c, 3, 1, 4002);
    assert!(matches!(&three[..], [Action::Publish(p)] if p.id.0 == 3));
    assert_eq!(ack(&mut c, 2, 1, 4003), [], "one is being published");
    let actions = published(&mut c, 3, 4004);
    for old in [1, 2] {
        assert!(told(&actions, TaskCommand::Aborted(CheckpointId(old))));
    }
    assert!(!actions.iter().any(|a| matches!(a, Action::Publish(_))), "the older one is of no use: {actions:?}");
}

#[test]
fn without_storage_only_the_end_is_a_checkpoint() {
    let mut c = running(Settings { storage: false, ..settings() });
    assert_eq!((c.on(Event::Tick, at(60_000)), c.next_wakeup()), (vec![], None));
    assert!(
        outcome(&request(&mut c, "s", Savepoint, 60_000), "s").unwrap().unwrap_err().contains("no checkpoint storage")
    );
    assert_eq!(triggered(&request(&mut c, "", Final, 60_000)), [(1, Final)]);
    ack(&mut c, 1, 0, 60_001);
    let actions = ack(&mut c, 1, 1, 60_002);
    assert!(told(&actions, TaskCommand::Complete(CheckpointId(1))));
    assert!(actions.iter().any(|a| matches!(a, Action::TasksEnd { kind: Final, .. })));
    assert!(!actions.iter().any(|a| matches!(a, Action::Publish(_) | Action::Retain { .. })));
}

#[test]
fn a_final_checkpoint_is_tried_again() {
    let mut c = running(Settings { interval: 3600 * SECOND, ..settings() });
    c.on(Event::Tick, at(200));
    complete(&mut c, 1, 200);
    assert_eq!(triggered(&request(&mut c, "", Final, 300)), [(2, Final)]);
    c.on(Event::Tick, at(10_300));
    let next = c.next_wakeup().unwrap();
    assert_eq!(triggered(&c.on(Event::Tick, Now { mono: next, wall: 0 })), [(3, Final)]);
}

#[derive(Debug, Clone)]
enum Do {
    Wait(u64),
    Ack(u64, u32),
    Decline(u64),
    Published(bool),
    Request(SnapshotKind),
    Restart,
}

fn any_event() -> impl Strategy<Value = Do> {
    prop_oneof![
        3 => (0..4000u64).prop_map(Do::Wait),
        // relative to the newest id, so that most of them meet something
        12 => (0..4u64, 0..3u32).prop_map(|(back, t)| Do::Ack(back, t)),
        1 => (0..4u64).prop_map(Do::Decline),
        4 => prop::bool::weighted(0.8).prop_map(Do::Published),
        2 => prop::sample::select(vec![Savepoint, STOP, DRAIN, Rescale, Final]).prop_map(Do::Request),
        1 => Just(Do::Restart),
    ]
}

proptest! {
    /// Whatever comes in whatever order: nothing is committed without its entry, nothing is discarded that may have one, every
    /// request gets one answer, ids grow, bounds hold.
    #[test]
    fn promises_hold_under_any_order_of_events(
        max_concurrent in 1usize..4,
        events in prop::collection::vec(any_event(), 1..200),
    ) {
        let mut c = running(Settings { max_concurrent, ..settings() });
        let (mut now, mut attempt, mut asked) = (0u64, 1u64, 0usize);
        let mut publishing: Vec<(u64, String)> = Vec::new();
        let mut entries: BTreeSet<u64> = BTreeSet::new();
        let mut kept: BTreeSet<String> = BTreeSet::new();
        let mut answers: BTreeMap<String, usize> = BTreeMap::new();
        let (mut last_id, mut ended) = (0u64, false);
        let (mut drains, mut last_aborted) = (BTreeSet::new(), 0u64);
        for event in events {
            let newest = c.next_checkpoint().0 - 1;
            let actions = match event {
                Do::Wait(ms) => {
                    now += ms;
                    c.on(Event::Tick, at(now))
                }
                Do::Ack(back, t) => ack(&mut c, newest.saturating_sub(back), t, now),
                Do::Decline(back) => {
                    let id = CheckpointId(newest.saturating_sub(back));
                    c.on(Event::Declined { attempt: Attempt(attempt), id, task: task(0), reason: "no".into() }, at(now))
                }
                Do::Published(ok) => {
                    if publishing.is_empty() {
                        continue;
                    }
                    let (id, directory) = publishing.remove(0);
                    if ok {
                        entries.insert(id);
                        kept.insert(directory);
                        published(&mut c, id, now)
                    } else {
                        c.on(Event::PublishFailed { id: CheckpointId(id), reason: "full".into() }, at(now))
                    }
                }
                Do::Request(kind) => {
                    asked += usize::from(kind != Final);
                    request(&mut c, &format!("{asked}"), kind, now)
                }
                Do::Restart => {
                    attempt += 1;
                    ended = false;
                    begin(&mut c, attempt, now)
                }
            };
            for action in actions {
                match action {
                    Action::Command(TaskCommand::Trigger(b)) => {
                        prop_assert!(!ended && b.id.0 > last_id && b.attempt.0 == attempt);
                        last_id = b.id.0;
                        if b.kind == DRAIN {
                            drains.insert(last_id);
                        }
                    }
                    Action::Command(TaskCommand::Complete(id)) => prop_assert!(entries.contains(&id.0)),
                    Action::Command(TaskCommand::Aborted(id)) => {
                        prop_assert!(!entries.contains(&id.0));
                        last_aborted = id.0;
                    }
                    Action::Publish(p) => {
                        prop_assert_eq!(p.snapshots.len(), 2);
                        let own = format!("-{}-0000", attempt);
                        prop_assert!(publishing.iter().all(|x| !x.1.contains(&own)), "one at a time");
                        publishing.push((p.id.0, p.directory));
                    }
                    Action::Discard(d) => {
                        prop_assert!(!kept.contains(&d) && !publishing.iter().any(|p| p.1 == d), "{d} discarded");
                    }
                    Action::Resolved { trigger_id, .. } => *answers.entry(trigger_id).or_default() += 1,
                    Action::Retain { id } => prop_assert!(entries.contains(&id.0)),
                    Action::TasksEnd { id, .. } => {
                        prop_assert!(entries.contains(&id.0));
                        ended = true;
                    }
                    Action::FailJob { .. } => prop_assert!(false, "no tolerance is set"),
                    Action::Replace { .. } => prop_assert!(drains.remove(&last_aborted), "nothing was drained"),
                }
            }
            prop_assert!(c.pending.len() <= max_concurrent && c.queue.len() <= MAX_QUEUED);
            let counts = c.stats().counts;
            prop_assert_eq!(counts.total, counts.in_progress + counts.completed + counts.failed);
            prop_assert_eq!(counts.in_progress as usize, c.pending.len() + c.leftovers.len());
        }
        for (id, _) in publishing {
            for action in c.on(Event::PublishFailed { id: CheckpointId(id), reason: "end".into() }, at(now)) {
                if let Action::Resolved { trigger_id, .. } = action {
                    *answers.entry(trigger_id).or_default() += 1;
                }
            }
        }
        for action in c.on(Event::End { reason: "end".into() }, at(now)) {
            if let Action::Resolved { trigger_id, .. } = action {
                *answers.entry(trigger_id).or_default() += 1;
            }
        }
        // what was published last may have left another one on its way
        let open = c.leftovers.values().filter(|p| p.trigger_id.is_some()).count();
        prop_assert_eq!(answers.len() + open, asked);
        prop_assert!(answers.values().all(|n| *n == 1), "{answers:?}");
    }
}
