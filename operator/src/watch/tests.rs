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

#[test]
fn another_checkpoint_is_minor_and_another_state_is_not() {
    let seen = Mutex::new(StatusObs { last: None, reachable: false, since: 0, lost: BTreeSet::new() });
    assert_eq!(take(&seen, status(), 10), (true, true));
    let mut s = status();
    (s.version, s.log_head) = (2, Some(4));
    assert_eq!(take(&seen, s.clone(), 20), (false, true));
    assert_eq!(take(&seen, s.clone(), 30), (false, false));
    s.all_tasks_running = false;
    assert_eq!(take(&seen, s.clone(), 40), (true, true));
    assert_eq!(seen.lock().unwrap().since, 40);
    s.job_state = weir_api::status::JobState::Restarting;
    take(&seen, s.clone(), 50);
    assert_eq!(seen.lock().unwrap().since, 50);
    assert!(lose(&seen, 60) && !lose(&seen, 70));
    assert_eq!(take(&seen, s, 80), (true, false));
    assert_eq!(seen.lock().unwrap().since, 80);
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
