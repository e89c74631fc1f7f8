//! Pure: the deletion of a job. It always finishes, and says what was kept: `Cancelling -> Removing -> Released`.
use super::plan::Planner;
use crate::build::Role;
use crate::crd::status::{Deletion, DeletionStep, Deployed, Millis, SavepointRef};
use weir_api::config::{CheckpointConfig, Retention};
use weir_api::rest::{JobManagerPhase, TerminalInfo};

/// How long the jobmanager may take to cancel the job and apply the retention policy.
pub(super) const CANCEL_MS: Millis = 30_000;
/// How long an unreachable jobmanager is waited for.
pub(super) const UNREACHABLE_MS: Millis = 10_000;
/// After this time pods whose node does not confirm are removed by force.
pub const FORCE_MS: Millis = 45_000;
/// After this time the finalizer goes, whatever is left.
pub(super) const GIVE_UP_MS: Millis = 75_000;

pub(super) fn advance(p: &mut Planner<'_>) -> bool {
    let Some(d) = p.status.deletion.clone() else {
        p.note("Deleting", "the job is being cancelled and its pods removed");
        let since = p.now();
        p.status.deletion = Some(Deletion { since, step: DeletionStep::Cancelling, kept: String::new() });
        return true;
    };
    match d.step {
        DeletionStep::Cancelling => cancelling(p, d),
        DeletionStep::Removing => removing(p, d),
        DeletionStep::Released => false,
    }
}

fn cancelling(p: &mut Planner<'_>, mut d: Deletion) -> bool {
    let kept = match outcome(p, d.since) {
        Outcome::Wait(until) => {
            p.wake_at(until);
            return false;
        }
        Outcome::Cancelled(t) => what_is_kept(&t),
        Outcome::Over(kept) => kept,
        Outcome::NotCancelled(why) => not_cancelled(p, &why),
    };
    p.note("Removing", kept.clone());
    d.kept = kept;
    d.step = DeletionStep::Removing;
    p.status.deletion = Some(d);
    true
}

enum Outcome {
    Wait(Millis),
    Cancelled(TerminalInfo),
    /// There was nothing to cancel: what is left.
    Over(String),
    /// Nothing could be cancelled: why.
    NotCancelled(String),
}

fn outcome(p: &Planner<'_>, since: Millis) -> Outcome {
    let Some(deployed) = &p.status.deployed else { return Outcome::NotCancelled("the job was never started".into()) };
    if let Some(s) = &deployed.suspended {
        return Outcome::Over(suspended(p, deployed, s));
    }
    if let Some(e) = &deployed.ended {
        let kept =
            if e.kept.is_empty() { "no snapshot was kept".into() } else { format!("kept: {}", e.kept.join(", ")) };
        return Outcome::Over(format!("the job had ended ({:?}); {kept}", e.status));
    }
    // in an upgrade either side may hold the claim
    let candidates = [
        Some(deployed.generation),
        p.status.rollout.as_ref().and_then(|r| r.from),
        p.status.rollout.as_ref().map(|r| r.to),
    ];
    let statuses = || candidates.iter().flatten().filter_map(|g| p.world.status(*g));
    // the end of the one before is not the job's
    let held = statuses().any(|s| s.phase == JobManagerPhase::Active && s.terminal.is_none());
    if let Some(t) = statuses().find_map(|s| s.terminal.clone()).filter(|_| !held) {
        return Outcome::Cancelled(t);
    }
    // it never got as far as a claim, and is not about to
    let runs =
        p.world.generations.values().flat_map(|g| &g.pods).any(|pod| pod.role == Role::JobManager && pod.is_running());
    if deployed.attempt.is_none() && !runs {
        return Outcome::NotCancelled("the job had not started".into());
    }
    let limit = if statuses().any(|s| matches!(s.phase, JobManagerPhase::Active | JobManagerPhase::Preparing)) {
        CANCEL_MS
    } else if statuses().next().is_some() {
        0
    } else {
        UNREACHABLE_MS
    };
    if p.now() - since < limit {
        Outcome::Wait(since + limit)
    } else if limit == CANCEL_MS {
        Outcome::NotCancelled(format!("the jobmanager did not cancel the job within {} s", CANCEL_MS / 1000))
    } else if limit == 0 {
        Outcome::NotCancelled("no jobmanager held the job".into())
    } else {
        Outcome::NotCancelled("the jobmanager was not reachable".into())
    }
}

/// Nobody is left who could cancel a suspended job, and it was stopped to be resumed: what it resumes from stays under every policy.
fn suspended(p: &Planner<'_>, d: &Deployed, from: &SavepointRef) -> String {
    let Some(folder) = folder(p, &d.spec.checkpoint) else {
        return "the job was suspended; it had no checkpoint storage".into();
    };
    let what = if from.path.is_empty() { "its latest checkpoint".into() } else { format!("savepoint {}", from.path) };
    let reach = match d.spec.checkpoint.retention {
        Retention::RetainOnCancellation => String::new(),
        r => format!("; retention {r:?} does not reach a suspended job: to start new, remove {folder}"),
    };
    format!("the job was suspended; kept: {what}, from which a StreamJob of this name goes on{reach}")
}

/// The job's folder in its storage.
fn folder(p: &Planner<'_>, checkpoint: &CheckpointConfig) -> Option<String> {
    let storage = checkpoint.storage.as_ref()?;
    Some(format!("{}/{}/{}", storage.trim_end_matches('/'), p.job.namespace, p.job.name))
}

/// After the jobmanager has recorded the end.
pub(super) fn what_is_kept(t: &TerminalInfo) -> String {
    match t.kept.is_empty() {
        true => "the job was cancelled; no snapshot was kept".into(),
        false => format!("the job was cancelled; kept: {}", t.kept.join(", ")),
    }
}

fn not_cancelled(p: &Planner<'_>, why: &str) -> String {
    let checkpoint = &p.status.deployed.as_ref().map_or(p.job.spec, |d| &d.spec).checkpoint;
    let Some(folder) = folder(p, checkpoint) else { return format!("{why}; it had no checkpoint storage") };
    if p.status.deployed.is_none() {
        return why.into();
    }
    match checkpoint.retention {
        Retention::RetainOnCancellation => format!("{why}; its snapshots stay in {folder}"),
        r => format!("{why}; its snapshots stay in {folder}, although retention is {r:?}: remove them by hand"),
    }
}

fn removing(p: &mut Planner<'_>, mut d: Deletion) -> bool {
    let left = p.world.generations.keys().any(|g| !p.world.is_gone(*g));
    let waited = p.now() - d.since;
    if left && waited < GIVE_UP_MS {
        p.wake_at(d.since + if waited < FORCE_MS { FORCE_MS } else { GIVE_UP_MS });
        return false;
    }
    if left {
        p.warn("PodsLeft", "some pods could not be confirmed gone; they are fenced by the next claim of the log");
    }
    p.note("Deleted", d.kept.clone());
    d.step = DeletionStep::Released;
    p.status.deletion = Some(d);
    true
}
