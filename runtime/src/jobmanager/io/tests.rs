//! The storage side of a jobmanager against a real folder.
use super::*;
use crate::checkpoint::handles::TaskSnapshot;
use std::collections::BTreeMap;
use weir_api::config::Retention;
use weir_api::ids::{Deployment, JobName};

struct Place {
    dir: tempfile::TempDir,
    generation: i64,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), generation: 1 }
    }
    /// A process of the deployment's current generation.
    fn process(&self) -> Store {
        let mut c = JobConfig::new(JobName { namespace: "default".into(), name: "flights".into() }, 1);
        c.checkpoint.storage = Some(self.dir.path().join("chk").display().to_string());
        c.deployment = Some(Deployment { uid: "a".into(), generation: self.generation, restart_nonce: None });
        Store::new(c, Arc::new(LogicalGraph::default()), || 1000).unwrap()
    }
    fn folders(&self, prefix: &str) -> usize {
        let all = std::fs::read_dir(self.dir.path().join("chk/default/flights")).unwrap();
        all.filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().starts_with(prefix)).count()
    }
}

impl Store {
    async fn claimed(&mut self) -> Verdict<Box<Claimed>> {
        self.claim(&StartOptions::default(), None, CheckpointId(1)).await
    }
    /// `folder`: where its directory lies, with a slash; empty for the job's root.
    async fn completes(&self, id: u64, kind: SnapshotKind, folder: &str) -> String {
        let snapshots = BTreeMap::from([(TaskId { vertex: 0, subtask: 0 }, TaskSnapshot::default())]);
        let (attempt, prefix) =
            (self.writer.as_ref().unwrap().attempt, if kind.is_savepoint() { "savepoint" } else { "chk" });
        let (name, id) = (format!("{prefix}-{id}-{attempt}-0"), CheckpointId(id));
        let directory = format!("{folder}{name}");
        let p = Publish { attempt, id, kind, directory, snapshots, triggered_at: 0, duration_ms: 0, size_bytes: 0 };
        self.publish(&p).await.unwrap();
        name
    }
}

fn yes<T: std::fmt::Debug>(v: Verdict<T>) -> T {
    match v {
        Verdict::Yes(v) => v,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_log_that_vanishes_under_a_running_jobmanager_costs_no_checkpoint() {
    let place = Place::new();
    let mut s = place.process();
    yes(s.claimed().await);
    s.completes(1, SnapshotKind::Checkpoint, "").await;
    let log = place.dir.path().join("chk/default/flights/log");
    std::fs::rename(&log, log.with_extension("aside")).unwrap();
    match s.claimed().await {
        Verdict::Refused { message, .. } => assert!(message.contains("log is gone"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert!(place.folders("chk-") == 1 && !log.exists());
    // it is back
    std::fs::rename(log.with_extension("aside"), &log).unwrap();
    assert_eq!(yes(s.claimed().await).restores.map(|r| r.id), Some(CheckpointId(1)));
}

#[tokio::test]
async fn a_savepoint_in_a_folder_of_the_users_is_found_again_however_its_path_is_written() {
    let mut place = Place::new();
    let target = place.dir.path().join("backup").display().to_string();
    for logged in ["now", "by an earlier release"] {
        let mut s = place.process();
        yes(s.claimed().await);
        let folder = match logged {
            "now" => shell::check_target(s.storage().unwrap(), &format!("{target}/")).await.unwrap(),
            _ => target.clone(),
        };
        let id = place.generation as u64 * 10;
        s.completes(id, SnapshotKind::Checkpoint, "").await;
        let name = s.completes(id + 1, SnapshotKind::Stop { drain: false }, &format!("{folder}/")).await;
        place.generation += 1;
        for from in [format!("{target}/{name}"), format!("file://{target}/{name}/")] {
            let mut options = StartOptions::default();
            options.restore.from = Some(from.clone());
            let ready = yes(place.process().prepare(&options).await);
            assert!(ready.message.contains("the latest"), "{logged}, {from}: {}", ready.message);
        }
    }
}

#[tokio::test]
async fn what_a_killed_process_left_of_an_ended_job_is_deleted_by_the_next_one_that_reports_the_end() {
    let place = Place::new();
    let mut s = place.process();
    yes(s.claimed().await);
    s.completes(1, SnapshotKind::Checkpoint, "").await;
    s.completes(2, SnapshotKind::Savepoint, "").await;
    // killed between the terminal entry and the deletion
    let (_, t, delete) = {
        let w = s.writer.as_ref().unwrap();
        shell::terminate(w, Retention::NeverRetain, TerminalStatus::Finished, String::new(), 0).await.unwrap()
    };
    assert!(delete.len() == 1 && place.folders("chk-") == 1, "{t:?}");
    for _ in 0..2 {
        let verdict = place.process().prepare(&StartOptions::default()).await;
        assert!(matches!(verdict, Verdict::Ended(..)), "{verdict:?}");
        assert_eq!((place.folders("chk-"), place.folders("savepoint-")), (0, 1));
    }
}
