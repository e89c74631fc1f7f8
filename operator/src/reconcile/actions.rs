//! Pure: the record and the observation -> what to do. Level-triggered: nothing here remembers what was done before.
use super::deletion::FORCE_MS;
use super::plan::{Action, Planner};
use super::rescale;
use super::rollout::{start_key, stop_trigger};
use super::world::{GenerationObs, World};
use crate::crd::status::{DeletionStep, Deployed, RescaleStep, Rollout, RolloutKind, Step, Strategy};
use weir_api::config::RestoreConfig;
use weir_api::rest::{JobManagerPhase, OperationKind, RescaleRequest, StartRequest, WeirStatus};

/// A start that was refused is repeated after this time.
const START_RETRY_MS: i64 = 5_000;

pub(super) fn derive(p: &mut Planner<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    if let Some(d) = &p.status.deletion {
        match d.step {
            DeletionStep::Cancelling => actions = cancel(p.world),
            DeletionStep::Removing => {
                actions.extend(p.world.generations.keys().map(|g| Action::DeleteGeneration { generation: *g }));
                if p.now() - d.since >= FORCE_MS {
                    actions.push(Action::ForceDeletePods);
                }
            }
            DeletionStep::Released => actions.push(Action::RemoveFinalizer),
        }
        return actions;
    }
    // words to jobmanagers come first: they are what the job waits for
    tell(p, &mut actions);
    let keep = keep(p);
    for (generation, wanted) in &keep {
        ensure(p.world.generations.get(generation), *generation, wanted, &mut actions);
    }
    for (generation, seen) in &p.world.generations {
        let any = seen.service || seen.job_manager.is_some() || seen.task_manager.is_some();
        if !keep.iter().any(|(g, _)| g == generation) && any {
            actions.push(Action::DeleteGeneration { generation: *generation });
        }
    }
    actions
}

/// Taskmanagers that a kept generation should have.
enum TaskManagers {
    None,
    AtLeast(u32),
    Exactly(u32),
    AsTheyAre,
}

/// The generations whose children exist.
fn keep(p: &Planner<'_>) -> Vec<(i64, TaskManagers)> {
    let mut keep = Vec::new();
    let r = p.status.rollout.as_ref();
    let stopping = r.is_some_and(|r| r.step == Step::Stopping);
    if let Some(d) = p.status.deployed.as_ref().filter(|d| d.suspended.is_none() && d.ended.is_none() && !stopping) {
        keep.push((d.generation, steady(p, d)));
    }
    let Some(r) = r.filter(|r| r.kind == RolloutKind::Upgrade) else { return keep };
    match r.step {
        Step::Preparing => keep.push((r.to, TaskManagers::None)),
        Step::Warming | Step::Savepointing => {
            let slots = p.world.slots_needed(r.to, r.spec.parallelism);
            keep.push((r.to, TaskManagers::AtLeast(r.spec.task_managers(slots))));
        }
        Step::Starting => {
            // one that was taken over without a savepoint runs until the claim of the next fences it (if it can)
            let released = r.savepoint.is_some() || p.is_active(r.to) || !r.shares_log;
            if let Some(from) = r.from.filter(|from| !released && *from != r.to) {
                keep.push((from, TaskManagers::AsTheyAre));
            }
        }
        Step::Proving | Step::Stopping => {}
    }
    keep
}

fn steady(p: &Planner<'_>, d: &Deployed) -> TaskManagers {
    let pods = |parallelism| d.spec.task_managers(p.world.slots_needed(d.generation, parallelism));
    let wanted = pods(d.spec.parallelism);
    let for_rescale = p.status.rescale.as_ref().map_or(0, |r| pods(r.to));
    let running = p.world.status(d.generation).filter(|_| p.world.is_running(d.generation));
    let in_use = running.map_or(0, |s| pods(s.parallelism));
    let least = wanted.max(for_rescale).max(in_use);
    // taskmanagers are taken away only where it is known that the job does not use them
    if running.is_some() && p.status.rescale.is_none() && p.status.rollout.is_none() {
        TaskManagers::Exactly(least)
    } else {
        TaskManagers::AtLeast(least)
    }
}

fn ensure(seen: Option<&GenerationObs>, generation: i64, wanted: &TaskManagers, actions: &mut Vec<Action>) {
    if matches!(wanted, TaskManagers::AsTheyAre) {
        return;
    }
    if !seen.is_some_and(|s| s.service) {
        actions.push(Action::CreateService { generation });
    }
    if seen.is_none_or(|s| s.job_manager.is_none()) {
        actions.push(Action::CreateJobManager { generation });
    }
    let (least, most) = match wanted {
        TaskManagers::None | TaskManagers::AsTheyAre => return,
        TaskManagers::AtLeast(n) => (*n, u32::MAX),
        TaskManagers::Exactly(n) => (*n, *n),
    };
    match seen.and_then(|s| s.task_manager.as_ref()) {
        None => actions.push(Action::CreateTaskManagers { generation, replicas: least }),
        Some(d) if d.replicas < least => {
            actions.push(Action::ScaleTaskManagers { generation, replicas: least, idle_first: false });
        }
        Some(d) if d.replicas > most => {
            actions.push(Action::ScaleTaskManagers { generation, replicas: most, idle_first: true });
        }
        Some(_) => {}
    }
}

/// Words to jobmanagers.
fn tell(p: &mut Planner<'_>, actions: &mut Vec<Action>) {
    let waiting = |s: &&WeirStatus| s.phase == JobManagerPhase::Waiting;
    if let Some(r) = p.status.rollout.clone() {
        match r.step {
            Step::Savepointing => stop(p, &r, actions),
            Step::Starting if p.world.status(r.to).filter(waiting).is_some() && may_start(p, &r) => {
                match p.world.refused.get(&start_key(r.to)).map(|x| x.at + START_RETRY_MS) {
                    Some(retry_at) if retry_at > p.now() => p.wake_at(retry_at),
                    _ => actions.push(Action::Start { generation: r.to, request: start_request(&r) }),
                }
            }
            _ => {}
        }
    }
    let Some(d) = p.status.deployed.clone().filter(|d| d.suspended.is_none() && d.ended.is_none()) else { return };
    let launching = p.status.rollout.as_ref().is_some_and(|r| r.step == Step::Starting);
    // one that never had an attempt is started by its rollout alone, which knows from where
    if !launching && d.attempt.is_some() && p.world.status(d.generation).filter(waiting).is_some() {
        // its pod came back and found no claim of its own (a job without storage)
        let restore = d.spec.checkpoint.storage.as_ref().map(|_| latest(d.spec.restore.allow_non_restored_state));
        let request = StartRequest { restore, parallelism: Some(d.spec.parallelism), ..StartRequest::default() };
        actions.push(Action::Start { generation: d.generation, request });
    }
    if let Some(r) = p.status.rescale.as_ref().filter(|r| r.step == RescaleStep::Requested)
        && let Some(s) = p.world.status(d.generation).filter(|_| p.world.is_running(d.generation))
    {
        let trigger_id = rescale::trigger(p.job.uid, r);
        let asked = s.operation.as_ref().is_some_and(|o| o.trigger_id == trigger_id);
        if !asked && s.parallelism != r.to {
            let request = RescaleRequest { parallelism: r.to, trigger_id };
            actions.push(Action::SetParallelism { generation: d.generation, request });
        }
    }
}

/// Where nothing fences those before, they must be gone first: also one that an earlier rollout, since overtaken, was to replace.
fn may_start(p: &Planner<'_>, r: &Rollout) -> bool {
    r.shares_log || p.world.generations.keys().all(|g| *g == r.to || p.world.is_gone(*g))
}

fn stop(p: &Planner<'_>, r: &Rollout, actions: &mut Vec<Action>) {
    let Some(from) = r.from else { return };
    let trigger = stop_trigger(p.job.uid, r);
    let Some(s) = p.world.status(from) else { return };
    let asked = s.operation.as_ref().is_some_and(|o| o.trigger_id == trigger);
    if s.phase == JobManagerPhase::Active && !asked && s.terminal.is_none() {
        actions.push(Action::Stop { generation: from, trigger });
    }
}

fn latest(allow_non_restored_state: bool) -> RestoreConfig {
    RestoreConfig { from: Some("latest".into()), allow_non_restored_state, nonce: None }
}

fn start_request(r: &Rollout) -> StartRequest {
    let stored = r.spec.checkpoint.storage.is_some();
    StartRequest {
        restore: match r.strategy {
            Strategy::Savepoint | Strategy::LastState if stored => {
                Some(latest(r.spec.restore.allow_non_restored_state))
            }
            // a redeployment has the restore section in its configuration
            _ => None,
        },
        expect_log_index: match r.strategy {
            Strategy::Savepoint => r.savepoint.as_ref().and_then(|s| s.log_index).and_then(|i| u64::try_from(i).ok()),
            _ => None,
        },
        parallelism: Some(r.spec.parallelism),
        stateless: r.strategy == Strategy::Stateless,
    }
}

/// Whoever holds the job is told to cancel it.
pub(super) fn cancel(world: &World) -> Vec<Action> {
    let holds = |generation: &i64| {
        world.status(*generation).is_some_and(|s| {
            let asked = s.operation.as_ref().is_some_and(|o| o.kind == OperationKind::Cancel);
            s.phase == JobManagerPhase::Active && s.terminal.is_none() && !asked
        })
    };
    world.generations.keys().copied().filter(holds).map(|generation| Action::Cancel { generation }).collect()
}
