//! Pure: a change of parallelism through a savepoint, by the same jobmanager: `Slots -> Requested -> done`.
//!
//! Level-triggered: whenever the running parallelism is not the wanted one (also after a jobmanager came back with the parallelism that it was launched with).
use super::plan::Planner;
use crate::crd::DesiredState;
use crate::crd::status::{Deployed, Millis, Rescale, RescaleStep, int};
use weir_api::rest::{OperationState, WeirStatus};

/// A job that does not run for so long cannot take a savepoint: a new generation takes over instead.
const STUCK_MS: Millis = 15_000;
/// How long taskmanagers that were told to go are waited for.
const LEAVING_MS: Millis = 15_000;
const RETRY_FIRST_MS: Millis = 5_000;
const RETRY_MAX_MS: Millis = 120_000;

/// Id of the request: the same after a crash of the operator.
pub fn trigger(uid: &str, r: &Rescale) -> String {
    format!("rescale-{uid}-{}-{}-{}", r.generation, r.to, r.tries)
}

/// The jobmanager has been told: its outcome is waited for.
pub(super) fn is_requested(p: &Planner<'_>) -> bool {
    p.status.rescale.as_ref().is_some_and(|r| r.step == RescaleStep::Requested)
        && p.status.deployed.as_ref().is_some_and(|d| p.world.not_running_for(d.generation) < STUCK_MS)
}

/// The job does not run, so it cannot be rescaled by a savepoint (too few slots, say): the new parallelism needs a takeover.
pub(super) fn is_stuck(p: &mut Planner<'_>, d: &Deployed) -> bool {
    if p.world.is_running(d.generation) {
        return false;
    }
    let for_ms = p.world.not_running_for(d.generation);
    if for_ms < STUCK_MS {
        p.wake_at(p.now() + STUCK_MS - for_ms);
    }
    for_ms >= STUCK_MS
}

pub(super) fn advance(p: &mut Planner<'_>) -> bool {
    let Some(d) = p.status.deployed.clone().filter(|d| d.ended.is_none() && d.suspended.is_none()) else {
        return false;
    };
    let wanted = if p.job.invalid.is_none() && p.job.spec.state == DesiredState::Running {
        p.job.spec.parallelism
    } else {
        d.spec.parallelism
    };
    let Some(s) = p.world.status(d.generation).cloned().filter(|_| p.world.is_running(d.generation)) else {
        return false;
    };
    match p.status.rescale.clone() {
        None if s.parallelism == wanted => set_deployed(p, wanted),
        None => {
            p.note("Rescaling", format!("parallelism {} -> {wanted}", s.parallelism));
            let since = p.now();
            let generation = p.job.generation;
            p.status.rescale = Some(Rescale {
                from: s.parallelism,
                to: wanted,
                step: RescaleStep::Slots,
                since,
                generation,
                tries: 0,
                retry_at: None,
                problem: String::new(),
            });
            true
        }
        Some(r) if r.step == RescaleStep::Slots => slots(p, r, &s, wanted),
        Some(r) => requested(p, r, &s),
    }
}

fn set_deployed(p: &mut Planner<'_>, parallelism: u32) -> bool {
    match &mut p.status.deployed {
        Some(d) if d.spec.parallelism != parallelism => {
            d.spec.parallelism = parallelism;
            true
        }
        _ => false,
    }
}

fn slots(p: &mut Planner<'_>, mut r: Rescale, s: &WeirStatus, wanted: u32) -> bool {
    if wanted == s.parallelism {
        p.status.rescale = None;
        return true;
    }
    if wanted != r.to {
        r.to = wanted;
        r.generation = p.job.generation;
        (r.tries, r.retry_at) = (0, None);
        r.problem.clear();
        p.status.rescale = Some(r);
        return true;
    }
    if let Some(at) = r.retry_at
        && at > p.now()
    {
        p.wake_at(at);
        return false;
    }
    let generation = p.status.deployed.as_ref().map_or(0, |d| d.generation);
    if s.slots_total < p.world.slots_needed(generation, r.to) {
        return false;
    }
    // until they have heard it they offer their slots, and whoever takes them loses his tasks with them
    if p.now() - r.since < LEAVING_MS && p.world.leaves(generation) {
        p.wake_at(r.since + LEAVING_MS);
        return false;
    }
    r.tries += 1;
    r.retry_at = None;
    r.problem.clear();
    r.step = RescaleStep::Requested;
    r.since = p.now();
    p.status.rescale = Some(r);
    true
}

fn requested(p: &mut Planner<'_>, mut r: Rescale, s: &WeirStatus) -> bool {
    let trigger = trigger(p.job.uid, &r);
    let operation = s.operation.as_ref().filter(|o| o.trigger_id == trigger);
    if s.parallelism == r.to {
        p.note("Rescaled", format!("the job runs at parallelism {}", r.to));
        p.status.rescale = None;
        set_deployed(p, r.to);
        // the attempt that the rescale began is no restart
        if let Some(d) = &mut p.status.deployed {
            d.attempt = Some(int(s.attempt));
        }
        return true;
    }
    let failure = match operation {
        Some(o) if o.state == OperationState::Failed => Some(o.message.clone()),
        _ => p.world.refused.get(&trigger).map(|x| x.why.clone()),
    };
    let Some(why) = failure else { return false };
    let delay = (RETRY_FIRST_MS << r.tries.saturating_sub(1).min(10)).min(RETRY_MAX_MS);
    p.warn(
        "RescaleFailed",
        format!("parallelism {} -> {}: {why}; the job runs on, next try in {} s", r.from, r.to, delay / 1000),
    );
    r.problem = why;
    r.step = RescaleStep::Slots;
    r.since = p.now();
    r.retry_at = Some(p.now() + delay);
    p.status.rescale = Some(r);
    true
}
