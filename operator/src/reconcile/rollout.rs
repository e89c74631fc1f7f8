//! Pure: the steps of a launch, an upgrade and a suspension.
//!
//! `Preparing -> Warming -> Savepointing(trigger) -> Starting(savepoint) -> Proving -> done`; a suspension goes `Preparing -> Savepointing -> Stopping -> done`,
//! a launch begins at `Starting`, an upgrade that takes no savepoint goes from `Warming` to `Starting`.
use super::diff::{Change, diff, diff_before_start};
use super::plan::{Planner, strategy_of};
use crate::crd::DesiredState;
use crate::crd::status::{Deployed, Millis, Rollout, RolloutKind, SavepointRef, Step, Strategy, int};
use weir_api::rest::{JobManagerPhase, OperationState, PreflightVerdict, WeirStatus};
use weir_api::status::TerminalStatus;

/// When the taskmanagers of the next generation are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WarmUp {
    /// Before the savepoint: the pause does not contain the start of pods, for a moment there are two sets of them.
    BeforeSavepoint,
    /// Together with the savepoint.
    WithSavepoint,
}

/// The choice in force.
pub const WARM_UP: WarmUp = WarmUp::BeforeSavepoint;
/// How long the slots of the next generation are waited for while the old one runs: where both do not fit, the old one has to go first.
const WARM_UP_MS: Millis = 10_000;
/// How long a job must not have been running before it is given up to take a savepoint.
const NOT_RUNNING_MS: Millis = 15_000;
/// The same after the savepoint was asked for.
const SAVEPOINT_LOST_MS: Millis = 60_000;
const RETRY_FIRST_MS: Millis = 2_000;
const RETRY_MAX_MS: Millis = 300_000;

/// Id of the stop that the operator asks for: the same after a crash of the operator, another one for the next try.
pub fn stop_trigger(uid: &str, r: &Rollout) -> String {
    format!("stop-{uid}-{}-{}", r.to, r.tries)
}

/// One transition of the rollout under way.
pub(super) fn advance(p: &mut Planner<'_>) -> bool {
    let Some(r) = p.status.rollout.clone() else { return false };
    match r.step {
        Step::Preparing => preparing(p, r),
        Step::Warming => warming(p, r),
        Step::Savepointing => savepointing(p, r),
        Step::Starting => starting(p, r),
        Step::Proving => proving(p, r),
        Step::Stopping => stopping(p, &r),
    }
}

fn go(p: &mut Planner<'_>, mut r: Rollout, step: Step) -> bool {
    r.step = step;
    r.since = p.now();
    p.status.rollout = Some(r);
    true
}

/// What a newer, valid spec asks for that the rollout does not do.
fn other_wish(p: &Planner<'_>, r: &Rollout) -> Option<Change> {
    let spec = p.job.spec;
    if p.job.invalid.is_some() || p.job.generation == r.to {
        return None;
    }
    let suspends = r.kind == RolloutKind::Suspend;
    if (spec.state == DesiredState::Suspended) != suspends {
        return Some(Change::Upgrade);
    }
    if suspends {
        return None;
    }
    let started = p.status.deployed.as_ref().is_some_and(|d| d.generation == r.to && d.attempt.is_some());
    let wish = if started { diff(&r.spec, spec) } else { diff_before_start(&r.spec, spec) };
    (wish.change >= Change::Rescale).then_some(wish.change)
}

/// While the old generation still runs, the owner may change his mind: the candidate is given up or adjusted.
fn reconsider(p: &mut Planner<'_>, r: &Rollout) -> Option<bool> {
    let newer = p.job.invalid.is_none() && p.job.generation != r.to;
    // the parallelism is told with the start
    if other_wish(p, r).is_some_and(|c| c > Change::Rescale) {
        p.note("UpgradeReplaced", format!("generation {} is given up for generation {}", r.to, p.job.generation));
        p.status.rollout = None;
        return Some(true);
    }
    if newer && r.spec != *p.job.spec {
        let mut r = r.clone();
        r.spec = p.job.spec.clone();
        if r.strategy != Strategy::Redeploy && r.shares_log {
            r.strategy = strategy_of(r.spec.upgrade_mode);
        }
        p.status.rollout = Some(r);
        return Some(true);
    }
    None
}

/// The old generation ended by itself: nothing to stop. A finished job is done, whatever was about to replace it.
fn old_ended(p: &mut Planner<'_>, r: &Rollout) -> Option<bool> {
    let t = p.world.status(r.from?)?.terminal.clone()?;
    if t.status == TerminalStatus::Finished || r.kind == RolloutKind::Suspend && t.status != TerminalStatus::Stopped {
        p.end(&t);
        return Some(true);
    }
    let mut r = r.clone();
    if t.status == TerminalStatus::Stopped {
        let s = p.world.status(r.from?).and_then(|s| s.last_savepoint.as_ref());
        let mut savepoint = s.map(SavepointRef::from).unwrap_or_default();
        savepoint.log_index = savepoint.log_index.filter(|_| s.is_some_and(|s| s.is_stop));
        r.savepoint = Some(savepoint);
    } else if r.strategy == Strategy::Savepoint {
        r.strategy = Strategy::LastState;
    }
    Some(old_is_stopped(p, r))
}

/// From here on the new generation is the job.
fn old_is_stopped(p: &mut Planner<'_>, r: Rollout) -> bool {
    if r.kind == RolloutKind::Suspend {
        return go(p, r, Step::Stopping);
    }
    p.status.deployed = Some(Deployed {
        generation: r.to,
        spec: r.spec.clone(),
        launch_parallelism: r.spec.parallelism,
        attempt: None,
        redeploys: r.strategy == Strategy::Redeploy,
        suspended: None,
        ended: None,
    });
    go(p, r, Step::Starting)
}

fn preparing(p: &mut Planner<'_>, mut r: Rollout) -> bool {
    if let Some(done) = reconsider(p, &r) {
        return done;
    }
    if r.kind == RolloutKind::Suspend {
        if let Some(done) = old_ended(p, &r) {
            return done;
        }
        return match r.strategy {
            Strategy::Savepoint => ask_for_savepoint(p, r),
            _ => go(p, r, Step::Stopping),
        };
    }
    if let Some(at) = r.retry_at
        && at > p.now()
    {
        p.wake_at(at);
        return false;
    }
    // the old one finished meanwhile: known also where the new one does not fit, which may have read it in the log
    let ends = [r.from, Some(r.to)].into_iter().flatten().filter_map(|g| p.world.status(g)?.terminal.clone());
    if let Some(t) = ends.into_iter().find(|t| t.status == TerminalStatus::Finished) {
        p.end(&t);
        return true;
    }
    if !fits(p, &r) {
        return false;
    }
    r.retry_at = None;
    go(p, r, Step::Warming)
}

/// The candidate says that it can go on from where the job is.
fn fits(p: &Planner<'_>, r: &Rollout) -> bool {
    p.world.status(r.to).is_some_and(|s| {
        s.phase == JobManagerPhase::Active
            || s.phase == JobManagerPhase::Waiting && s.preflight.verdict == PreflightVerdict::Compatible
    })
}

fn warming(p: &mut Planner<'_>, r: Rollout) -> bool {
    if let Some(done) = reconsider(p, &r) {
        return done;
    }
    if let Some(done) = old_ended(p, &r) {
        return done;
    }
    let lacks = p.world.status(r.to).map_or(0, |s| s.slots_total) < p.world.slots_needed(r.to, r.spec.parallelism);
    let waited = p.now() - r.since;
    let waits = WARM_UP == WarmUp::BeforeSavepoint && lacks && waited < WARM_UP_MS;
    // a job that does not run has nothing to lose by being replaced at once
    let old_runs = r.from.is_some_and(|g| p.world.is_running(g));
    // what runs is not stopped for a candidate that is gone again, or has changed its mind
    if old_runs && !fits(p, &r) {
        return go(p, r, Step::Preparing);
    }
    let troubled = p.world.problems.iter().any(|x| x.generation == r.to) || !p.world.apply_error.is_empty();
    if old_runs && lacks && (troubled || waited >= WARM_UP_MS) && !may_fit_later(p, &r) {
        return false;
    }
    if waits && old_runs {
        p.wake_at(r.since + WARM_UP_MS);
        return false;
    }
    match r.strategy {
        Strategy::Savepoint => ask_for_savepoint(p, r),
        Strategy::LastState | Strategy::Stateless | Strategy::Redeploy => old_is_stopped(p, r),
    }
}

/// Whether the new taskmanagers only lack room, and have it as soon as the old ones are gone. Anything else (an image, a template, a crash, a
/// request that no node can meet) would still be wrong then: the old generation runs on.
fn may_fit_later(p: &Planner<'_>, r: &Rollout) -> bool {
    let created = p.world.generations.get(&r.to).is_some_and(|g| g.task_manager.is_some());
    let broken = p.world.problems.iter().any(|x| x.generation == r.to && x.reason != "Unschedulable");
    let no_larger = p.status.deployed.as_ref().is_some_and(|d| {
        d.spec.task_manager == r.spec.task_manager
            && d.spec.task_slots == r.spec.task_slots
            && p.world.slots_needed(r.to, r.spec.parallelism) <= p.world.slots_needed(d.generation, d.spec.parallelism)
    });
    created && !broken && no_larger
}

/// Asks for the savepoint, or finds that none can be taken.
fn ask_for_savepoint(p: &mut Planner<'_>, mut r: Rollout) -> bool {
    if let Some(at) = r.retry_at
        && at > p.now()
    {
        p.wake_at(at);
        return false;
    }
    let Some(from) = r.from else { return old_is_stopped(p, r) };
    if p.world.is_running(from) {
        r.tries += 1;
        r.retry_at = None;
        r.problem.clear();
        r.baseline = restores_index(p.world.status(r.to));
        p.note("SavepointTriggered", format!("stopping generation {from} with a savepoint"));
        return go(p, r, Step::Savepointing);
    }
    let never_ran = p.status.deployed.as_ref().is_some_and(|d| d.generation == from && d.attempt.is_none());
    let for_ms = p.world.not_running_for(from);
    if never_ran || for_ms >= NOT_RUNNING_MS {
        return without_savepoint(p, r);
    }
    p.wake_at(p.now() + NOT_RUNNING_MS - for_ms);
    false
}

fn without_savepoint(p: &mut Planner<'_>, mut r: Rollout) -> bool {
    let from = r.from.unwrap_or_default();
    r.strategy = Strategy::LastState;
    r.problem.clear();
    p.warn(
        "SavepointImpossible",
        format!(
            "generation {from} does not run, so it can take no savepoint: going on from the latest snapshot in its log"
        ),
    );
    old_is_stopped(p, r)
}

fn restores_index(s: Option<&WeirStatus>) -> Option<i64> {
    s.and_then(|s| s.preflight.restores.as_ref()).and_then(|s| s.log_index).map(int)
}

fn savepointing(p: &mut Planner<'_>, mut r: Rollout) -> bool {
    let Some(from) = r.from else { return old_is_stopped(p, r) };
    let trigger = stop_trigger(p.job.uid, &r);
    let operation = p.world.status(from).and_then(|s| s.operation.as_ref()).filter(|o| o.trigger_id == trigger);
    if let Some(o) = operation {
        match o.state {
            OperationState::Completed => {
                r.savepoint = Some(SavepointRef { path: o.message.clone(), log_index: o.log_index.map(int) });
                p.note("SavepointCompleted", format!("generation {from} stopped with savepoint {}", o.message));
                return old_is_stopped(p, r);
            }
            OperationState::Failed => {
                let why = o.message.clone();
                return savepoint_failed(p, r, &why);
            }
            OperationState::InProgress => {}
        }
    }
    if let Some(done) = old_ended(p, &r) {
        return done;
    }
    // the old jobmanager died after the entry was written: the new one reads it in the log
    if let Some(s) = p.world.status(r.to).and_then(|s| s.preflight.restores.as_ref())
        && s.is_stop
        && s.log_index.map(int) > r.baseline
    {
        r.savepoint = Some(s.into());
        p.note("SavepointCompleted", format!("the log says that generation {from} stopped with savepoint {}", s.path));
        return old_is_stopped(p, r);
    }
    if let Some(why) = p.world.refused.get(&trigger).map(|x| x.why.clone()) {
        return savepoint_failed(p, r, &why);
    }
    let for_ms = p.world.not_running_for(from);
    if for_ms >= SAVEPOINT_LOST_MS {
        return without_savepoint(p, r);
    }
    if for_ms > 0 {
        p.wake_at(p.now() + SAVEPOINT_LOST_MS - for_ms);
    }
    false
}

/// The old generation runs on; the savepoint is asked for again later.
fn savepoint_failed(p: &mut Planner<'_>, mut r: Rollout, why: &str) -> bool {
    let delay = (RETRY_FIRST_MS << r.tries.saturating_sub(1).min(10)).min(RETRY_MAX_MS);
    r.problem = format!("the savepoint failed: {why}");
    r.retry_at = Some(p.now() + delay);
    p.warn(
        "SavepointFailed",
        format!("{}; generation {} runs on, next try in {} s", r.problem, r.from.unwrap_or_default(), delay / 1000),
    );
    go(p, r, Step::Preparing)
}

/// A finished rollout, or one that is overtaken by a newer wish.
fn starting(p: &mut Planner<'_>, mut r: Rollout) -> bool {
    if let Some(t) = p.world.status(r.to).and_then(|s| s.terminal.clone()) {
        p.end(&t);
        return true;
    }
    // who shares the log reads of it there; in another one nobody does
    let before = r.from.filter(|_| !r.shares_log && !p.is_active(r.to)).and_then(|g| p.world.status(g));
    if let Some(t) = before.and_then(|s| s.terminal.clone()).filter(|t| t.status == TerminalStatus::Finished) {
        p.end(&t);
        return true;
    }
    match other_wish(p, &r) {
        // told with the start
        Some(Change::Rescale) if p.world.status(r.to).is_some_and(|s| s.phase == JobManagerPhase::Waiting) => {
            r.spec.parallelism = p.job.spec.parallelism;
            if let Some(d) = &mut p.status.deployed {
                d.spec.parallelism = r.spec.parallelism;
            }
            p.status.rollout = Some(r);
            return true;
        }
        // the job can be rescaled once it runs; one that does not get there is replaced
        Some(Change::Rescale) if p.now() - r.since < NOT_RUNNING_MS => p.wake_at(r.since + NOT_RUNNING_MS),
        Some(_) => {
            p.status.rollout = None;
            return true;
        }
        None => {}
    }
    if let Some(why) = p.world.refused.get(&start_key(r.to)).map(|x| &x.why)
        && r.problem != *why
    {
        r.problem.clone_from(why);
        p.warn("StartRefused", format!("generation {} does not start: {why}", r.to));
        p.status.rollout = Some(r);
        return true;
    }
    if !p.world.is_running(r.to) {
        return false;
    }
    r.baseline = last_checkpoint_index(p, r.to);
    r.problem.clear();
    let from = p.world.status(r.to).and_then(|s| s.restored_from.as_ref()).map(|s| s.path.clone());
    let started = match &from {
        Some(path) => format!("generation {} runs, restored from {path}", r.to),
        None => format!("generation {} runs, started new", r.to),
    };
    p.note("Started", started);
    go(p, r, Step::Proving)
}

/// Key of a refused start among the refusals.
pub fn start_key(generation: i64) -> String {
    format!("start-{generation}")
}

fn last_checkpoint_index(p: &Planner<'_>, generation: i64) -> Option<i64> {
    p.world.status(generation).and_then(|s| s.last_checkpoint.as_ref()).and_then(|c| c.log_index).map(int)
}

fn proving(p: &mut Planner<'_>, r: Rollout) -> bool {
    if let Some(t) = p.world.status(r.to).and_then(|s| s.terminal.clone()) {
        p.end(&t);
        return true;
    }
    let overtaken = other_wish(p, &r).is_some();
    let proven =
        r.spec.checkpoint.storage.is_none() && p.world.is_running(r.to) || last_checkpoint_index(p, r.to) > r.baseline;
    if proven && r.kind == RolloutKind::Upgrade {
        let proof = if r.spec.checkpoint.storage.is_some() { "completed its first checkpoint" } else { "runs" };
        p.note("UpgradeDone", format!("generation {} {proof}", r.to));
    }
    if proven || overtaken {
        p.status.rollout = None;
    }
    proven || overtaken
}

fn stopping(p: &mut Planner<'_>, r: &Rollout) -> bool {
    if r.from.is_some_and(|g| !p.world.is_gone(g)) {
        return false;
    }
    let savepoint = r.savepoint.clone().unwrap_or_default();
    let from = if savepoint.path.is_empty() {
        "its latest checkpoint".into()
    } else {
        format!("savepoint {}", savepoint.path)
    };
    p.note("Suspended", format!("the job is suspended and will resume from {from}"));
    if let Some(d) = &mut p.status.deployed {
        d.suspended = Some(savepoint);
    }
    p.status.rollout = None;
    true
}
