//! Which changes of a status wake a reconciliation.
use super::*;
use serde_json::json;

fn status() -> WeirStatus {
    serde_json::from_value(json!({
        "version": 1, "instance": "i", "deployment": null, "jobId": "x", "phase": "Active", "jobState": "RUNNING", "reason": "",
        "attempt": 1, "restarts": 0, "parallelism": 2, "maxParallelism": 128, "taskmanagers": 2, "slotsTotal": 2,
        "allTasksRunning": true, "logHead": 3, "lastCheckpoint": null, "lastSavepoint": null, "restoredFrom": null,
        "failedCheckpoints": 0, "checkpointFailure": "", "preflight": {"verdict": "Compatible", "message": "", "restores": null},
        "terminal": null, "operation": null,
    }))
    .unwrap()
}

fn checkpoint(id: u64) -> Option<weir_api::rest::SnapshotInfo> {
    let path = format!("chk-{id}");
    serde_json::from_value(json!({
        "id": id, "path": path, "logIndex": id, "isSavepoint": false, "isStop": false, "completedAt": 0, "sizeBytes": 0, "durationMs": 0,
    }))
    .unwrap()
}

#[test]
fn another_checkpoint_is_minor_and_another_state_is_not() {
    let seen = Mutex::new(StatusObs { last: None, reachable: false, since: 0, lost: BTreeSet::new() });
    assert_eq!(take(&seen, status(), 10), News::Decisive);
    let mut s = status();
    (s.version, s.log_head) = (2, Some(4));
    assert_eq!(take(&seen, s.clone(), 20), News::Minor);
    assert_eq!(take(&seen, s.clone(), 30), News::Nothing);
    s.last_checkpoint = checkpoint(1);
    assert_eq!(take(&seen, s.clone(), 35), News::Checkpoint);
    s.all_tasks_running = false;
    assert_eq!(take(&seen, s.clone(), 40), News::Decisive);
    assert_eq!(seen.lock().unwrap().since, 40);
    s.job_state = weir_api::status::JobState::Restarting;
    take(&seen, s.clone(), 50);
    assert_eq!(seen.lock().unwrap().since, 50);
    assert!(lose(&seen, 60) && !lose(&seen, 70));
    assert_eq!(take(&seen, s, 80), News::Decisive);
    assert_eq!(seen.lock().unwrap().since, 80);
}

/// The times at which a reconciliation is woken by a checkpoint every `interval`, after a decisive change at 0.
fn woken(interval: Millis, until: Millis) -> Vec<Millis> {
    let mut pace = Pace::default();
    assert!(pace.wakes(News::Decisive, 0));
    let mut times = Vec::new();
    for now in (100..=until).step_by(100) {
        let news = if now % interval == 0 { News::Checkpoint } else { News::Nothing };
        if pace.wakes(news, now) {
            times.push(now);
        }
    }
    times
}

#[test]
fn the_first_checkpoint_is_told_soon_and_the_others_now_and_then() {
    assert_eq!(woken(200, 65_000), [2_000, 32_000, 62_000]);
    assert_eq!(woken(10_000, 95_000), [10_000, 40_000, 70_000]);
    assert_eq!(woken(50_000, 210_000), [50_000, 100_000, 150_000, 200_000]);
}

#[test]
fn a_decisive_change_is_told_at_once_and_brings_the_next_checkpoint_soon() {
    let mut p = Pace::default();
    assert!(p.wakes(News::Decisive, 0) && !p.wakes(News::Checkpoint, 100) && p.wakes(News::Nothing, 2_000));
    assert!(!p.wakes(News::Checkpoint, 5_000) && p.due == Some(32_000));
    assert!(p.wakes(News::Decisive, 6_000) && p.due.is_none());
    assert!(!p.wakes(News::Minor, 6_100) && p.due == Some(8_000));
    assert!(p.wakes(News::Minor, 8_000) && p.wakes(News::Checkpoint, 10_000), "a failed one is not what is waited for");
    assert!(!p.wakes(News::Checkpoint, 12_000));
}

#[test]
fn only_taskmanagers_that_this_process_had_registered_count_as_lost() {
    let ids = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
    let mut c = Crew::default();
    let mut s = status();
    assert!(c.changed(&s));
    c.note(&s, ids(&["a", "b"]));
    assert!(!c.changed(&s) && c.lost.is_empty());
    s.taskmanagers = 1;
    assert!(c.changed(&s));
    c.note(&s, ids(&["b"]));
    assert_eq!(c.lost, ids(&["a"]));
    (s.instance, s.taskmanagers) = ("j".into(), 0);
    c.note(&s, ids(&[]));
    assert!(c.lost.is_empty());
}
