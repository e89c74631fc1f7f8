//! Pure: the observed half of the status: phase, reason, conditions, and what the jobmanager tells.
use super::diff::{Change, diff};
use super::plan::Planner;
use super::world::Problem;
use crate::build::task_manager_selector;
use crate::crd::conditions::{DEGRADED, PROGRESSING, READY, SUSPENDED, Wanted, merge, truncate};
use crate::crd::status::{EndStatus, Millis, Phase, RescaleStep, RolloutKind, Step, int};
use crate::crd::{DesiredState, StreamJobStatus};
use weir_api::ids::JobName;
use weir_api::rest::{JobManagerPhase, PreflightVerdict, WeirStatus};
use weir_api::status::JobState;

/// A jobmanager whose pod runs but which does not answer for so long is a problem.
const UNREACHABLE_MS: Millis = 8_000;
/// A job, candidate or rescale that waits so long for slots is a problem: before, its pods are on their way.
const TOO_FEW_SLOTS_MS: Millis = 15_000;
/// Longest message in the status.
const MESSAGE_MAX: usize = 2_048;

/// Fills in everything that is derived from the record and the observation.
pub(super) fn observe(p: &mut Planner<'_>, old: &StreamJobStatus) {
    let job = p.job;
    p.status.observed_generation = Some(job.generation);
    p.status.selector = task_manager_selector(job.name);
    p.status.job_id = Some(JobName { namespace: job.namespace.into(), name: job.name.into() }.job_id());
    let attempt = p.status.deployed.as_ref().and_then(|d| d.attempt);
    tell(p);
    let word = word(p, old);
    p.status.phase = word.phase;
    if let Some(at) = lacking(p).map(|l| l.since + TOO_FEW_SLOTS_MS).filter(|at| *at > p.now()) {
        p.wake_at(at);
    }
    let problem = worst(p);
    let (reason, mut message) = match (&problem, &word) {
        (Some(x), _) => (x.reason.clone(), x.message.clone()),
        (None, w) if w.phase == Phase::Running => (String::new(), String::new()),
        (None, w) => (w.reason.into(), w.message.clone()),
    };
    truncate(&mut message, MESSAGE_MAX);
    p.status.reason.clone_from(&reason);
    p.status.message.clone_from(&message);

    let wanted = conditions(p, &word, problem.as_ref());
    announce(p, old, problem.as_ref(), attempt);
    let now = p.now();
    merge(&mut p.status.conditions, &wanted, job.generation, now);
}

/// Takes over what the jobmanager of the deployed generation says.
fn tell(p: &mut Planner<'_>) {
    let Some(d) = p.status.deployed.as_ref() else { return };
    let generation = d.generation;
    if d.suspended.is_some() || d.ended.is_some() {
        p.status.parallelism = 0;
        p.status.task_managers = 0;
    }
    // until the next generation holds the claim, the old one's word is the job's
    let from = p.status.rollout.as_ref().and_then(|r| r.from).filter(|_| !p.is_active(generation));
    let Some(s) = p.world.status(generation).or_else(|| from.and_then(|g| p.world.status(g))).cloned() else { return };
    p.status.job_state = Some(s.job_state);
    // with attempt 0 it asks for its claim: what it says of an attempt is of none
    if s.phase == JobManagerPhase::Active && s.attempt > 0 {
        let attempt = int(s.attempt);
        p.status.attempt = Some(attempt);
        p.status.parallelism = i32::try_from(s.parallelism).unwrap_or(i32::MAX);
        p.status.restored_from = s.restored_from.as_ref().map(|x| x.path.clone());
        let by_plan = p.status.rescale.as_ref().is_some_and(|r| r.step == RescaleStep::Requested);
        if let Some(d) =
            p.status.deployed.as_mut().filter(|_| p.world.status(generation).is_some_and(|x| x.attempt == s.attempt))
        {
            if let Some(before) = d.attempt.filter(|_| !by_plan) {
                p.status.restarts += (attempt - before).max(0);
            }
            d.attempt = Some(attempt);
        }
    }
    p.status.task_managers = i32::try_from(s.taskmanagers).unwrap_or(i32::MAX);
    if let Some(c) = &s.last_checkpoint {
        p.status.last_checkpoint = Some(c.into());
    }
    if let Some(c) = &s.last_savepoint {
        p.status.last_savepoint = Some(c.into());
    }
}

/// The job in a word and a sentence.
struct Word {
    phase: Phase,
    reason: &'static str,
    message: String,
    /// All tasks of the wanted parallelism run.
    ready: bool,
}

fn word(p: &Planner<'_>, old: &StreamJobStatus) -> Word {
    let say = |phase, reason, message: String| Word { phase, reason, message, ready: false };
    let status = &p.status;
    if let Some(d) = &status.deletion {
        return say(Phase::Deleting, "Deleting", d.kept.clone());
    }
    let Some(d) = &status.deployed else {
        return match p.job.spec.state {
            DesiredState::Suspended if p.job.invalid.is_none() => {
                say(Phase::Suspended, "Suspended", "the job is suspended and was never started".into())
            }
            _ => say(Phase::Pending, "Pending", String::new()),
        };
    };
    if let Some(e) = &d.ended {
        let stale = diff(&d.spec, p.job.spec).change >= Change::Upgrade && e.status == EndStatus::Finished;
        let hint = if stale { "; its spec changed since: change spec.restartNonce to run it again" } else { "" };
        let reason = if e.reason.is_empty() { String::new() } else { format!(": {}", e.reason) };
        return match e.status {
            EndStatus::Finished => say(Phase::Finished, "Finished", format!("the job finished{reason}{hint}")),
            EndStatus::Canceled => say(Phase::Canceled, "Canceled", format!("the job was cancelled{reason}")),
            EndStatus::Failed => say(Phase::Failed, "JobFailed", format!("the job failed{reason}")),
            EndStatus::Stopped => say(
                Phase::Suspended,
                "Stopped",
                "the job was stopped through its REST interface; change spec.restartNonce to resume it".into(),
            ),
        };
    }
    if let Some(s) = &d.suspended {
        let from = if s.path.is_empty() { "its latest checkpoint".into() } else { format!("savepoint {}", s.path) };
        return say(Phase::Suspended, "Suspended", format!("the job is suspended and will resume from {from}"));
    }
    if let Some(r) = &status.rollout {
        let detail = match (r.kind, r.step) {
            (_, Step::Starting) => p.world.status(r.to).map(launch_detail).unwrap_or_default(),
            _ => lacking(p).map(|l| format!("; it {l}")).unwrap_or_default(),
        };
        let what = format!("generation {}: {} ({}){detail}", r.to, step_text(r.step), r.because);
        match (r.kind, r.step) {
            (_, Step::Proving) => {}
            (RolloutKind::Suspend, _) => return say(Phase::Suspending, r.step.as_str(), what),
            (RolloutKind::Upgrade, _) => return say(Phase::Upgrading, r.step.as_str(), what),
            (RolloutKind::Launch, _) => return say(Phase::Deploying, "Starting", what),
        }
    }
    if let Some(r) = &status.rescale {
        let detail = lacking(p).map(|l| format!("; parallelism {} {l}", r.to)).unwrap_or_default();
        return say(Phase::Rescaling, "Rescaling", format!("parallelism {} -> {}{detail}", r.from, r.to));
    }
    let Some(s) = p.world.status(d.generation) else {
        // an operator that has just started knows nothing yet
        let known =
            p.world.generations.get(&d.generation).and_then(|g| g.status.as_ref()).is_some_and(|s| s.last.is_some());
        if !known && old.phase == Phase::Running && p.world.not_running_for(d.generation) < UNREACHABLE_MS {
            return Word {
                phase: Phase::Running,
                reason: "Running",
                message: old.message.clone(),
                ready: p.job.invalid.is_none() && was_ready(old, p.job.generation),
            };
        }
        return say(
            Phase::Restarting,
            "JobManagerLost",
            "the jobmanager does not answer; it is being restarted".into(),
        );
    };
    if !p.world.is_running(d.generation) {
        let why = if s.reason.is_empty() { String::new() } else { format!(": {}", s.reason) };
        return say(Phase::Restarting, "Restarting", format!("the job is {}{why}", s.job_state));
    }
    let ready = p.job.invalid.is_none()
        && s.parallelism == p.job.spec.parallelism
        && matches!(diff(&d.spec, p.job.spec).change, Change::None | Change::Ignore)
        && p.job.spec.state == DesiredState::Running;
    Word {
        phase: Phase::Running,
        reason: "Running",
        message: format!("all tasks run at parallelism {}", s.parallelism),
        ready,
    }
}

fn launch_detail(s: &WeirStatus) -> String {
    if s.reason.is_empty() {
        format!("; the job is {}", s.job_state)
    } else {
        format!("; the job is {}: {}", s.job_state, s.reason)
    }
}

/// It was the job that this generation of the spec asks for.
fn was_ready(old: &StreamJobStatus, generation: i64) -> bool {
    let observed = Some(generation);
    old.conditions.iter().any(|c| c.type_ == READY && c.status == "True" && c.observed_generation == observed)
}

fn step_text(step: Step) -> &'static str {
    match step {
        Step::Preparing => "waiting until its jobmanager has built the graph and compared it with the latest snapshot",
        Step::Warming => "waiting for its taskmanagers",
        Step::Savepointing => "the running generation stops with a savepoint",
        Step::Starting => "starting",
        Step::Proving => "waiting for its first checkpoint",
        Step::Stopping => "removing the pods",
    }
}

/// The problem that is named first.
fn worst(p: &Planner<'_>) -> Option<Problem> {
    let generation = p.job.generation;
    let problem = |reason: &str, message: String| Some(Problem { generation, reason: reason.into(), message });
    let st = &p.status;
    if st.deletion.is_some() {
        return None;
    }
    let runs_on = match st.deployed.as_ref().filter(|d| p.world.is_running(d.generation)) {
        Some(d) if d.generation != generation => format!("; generation {} runs on", d.generation),
        _ => String::new(),
    };
    if let Some(why) = p.job.invalid {
        return problem("InvalidSpec", format!("{why}{runs_on}"));
    }
    if let Some(e) = st.deployed.as_ref().and_then(|d| d.ended.as_ref()) {
        let detail = if e.reason.is_empty() { String::new() } else { format!(": {}", e.reason) };
        return if e.status == EndStatus::Failed {
            problem("JobFailed", format!("the job failed{detail}"))
        } else {
            None
        };
    }
    if st.deployed.as_ref().is_some_and(|d| d.suspended.is_some()) {
        return None;
    }
    if !p.world.apply_error.is_empty() {
        return problem("ApplyFailed", format!("{}{runs_on}", p.world.apply_error));
    }
    if let Some(r) = &st.rollout {
        if let Some(s) = p.world.status(r.to).filter(|s| s.phase != JobManagerPhase::Active) {
            if s.preflight.verdict == PreflightVerdict::Incompatible {
                return problem(
                    "Incompatible",
                    format!("generation {} does not fit the job's state: {}{runs_on}", r.to, s.preflight.message),
                );
            }
            if s.phase == JobManagerPhase::Refused {
                return problem("Refused", format!("generation {} refuses to start: {}{runs_on}", r.to, s.reason));
            }
        }
        if !r.problem.is_empty() {
            let reason = if r.step == Step::Starting { "StartRefused" } else { "SavepointFailed" };
            return problem(reason, format!("{}{runs_on}", r.problem));
        }
    }
    if let Some(r) = st.rescale.as_ref().filter(|r| !r.problem.is_empty()) {
        return problem("RescaleFailed", format!("parallelism {} -> {}: {}", r.from, r.to, r.problem));
    }
    let ours = |g: i64| {
        st.deployed.as_ref().is_some_and(|d| d.generation == g) || st.rollout.as_ref().is_some_and(|r| r.to == g)
    };
    if let Some(x) = p.world.problems.iter().find(|x| ours(x.generation)) {
        let named = if runs_on.is_empty() { String::new() } else { format!("generation {}: ", x.generation) };
        return problem(&x.reason, format!("{named}{}{runs_on}", x.message));
    }
    for (g, seen) in p.world.generations.iter().filter(|(g, _)| ours(**g)) {
        let failure =
            [&seen.job_manager, &seen.task_manager].into_iter().flatten().map(|d| &d.failure).find(|f| !f.is_empty());
        if let Some(f) = failure {
            return problem("PodsNotCreated", format!("generation {g}: {f}{runs_on}"));
        }
    }
    if let Some(l) = lacking(p).filter(|l| p.now() - l.since >= TOO_FEW_SLOTS_MS) {
        let (who, rest) = match &st.rescale {
            Some(r) => (format!("parallelism {}", r.to), format!("; the job runs on at parallelism {}", r.from)),
            None if l.generation == generation && runs_on.is_empty() => ("the job".into(), runs_on),
            None => (format!("generation {}", l.generation), runs_on),
        };
        return problem("TooFewSlots", format!("{who} {l}{rest}"));
    }
    let d = st.deployed.as_ref()?;
    match p.world.status(d.generation) {
        Some(s) if s.phase == JobManagerPhase::Refused => problem("Refused", s.reason.clone()),
        Some(s) if s.phase == JobManagerPhase::Fenced => problem("Fenced", s.reason.clone()),
        Some(s) if !s.checkpoint_failure.is_empty() => problem("CheckpointFailed", s.checkpoint_failure.clone()),
        Some(s) if s.job_state == JobState::Restarting && p.world.not_running_for(d.generation) >= UNREACHABLE_MS => {
            problem(
                "NotRunning",
                format!(
                    "the job is {} for {} s: {}",
                    s.job_state,
                    p.world.not_running_for(d.generation) / 1000,
                    s.reason
                ),
            )
        }
        None if d.attempt.is_some() && p.world.not_running_for(d.generation) >= UNREACHABLE_MS => {
            problem("JobManagerLost", "the jobmanager does not answer".into())
        }
        _ => None,
    }
}

/// Something waits for slots.
struct Lacking {
    generation: i64,
    needed: u32,
    registered: u32,
    since: Millis,
}

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "needs {} slots and {} are registered", self.needed, self.registered)
    }
}

/// What waits for slots: a candidate, a rescale, or the job itself.
fn lacking(p: &Planner<'_>) -> Option<Lacking> {
    let st = &p.status;
    let d = st.deployed.as_ref().filter(|d| d.suspended.is_none() && d.ended.is_none())?;
    let (generation, parallelism, since) = match (&st.rollout, &st.rescale) {
        (Some(r), _) if r.step == Step::Warming => (r.to, r.spec.parallelism, r.since),
        (Some(r), _) if r.step < Step::Starting => return None,
        (None, Some(r)) if r.step == RescaleStep::Slots && r.retry_at.is_none() => (d.generation, r.to, r.since),
        _ if p.is_active(d.generation) && !p.world.is_running(d.generation) => {
            let parallelism = p.world.status(d.generation)?.parallelism;
            (d.generation, parallelism, p.now() - p.world.not_running_for(d.generation))
        }
        _ => return None,
    };
    let needed = p.world.slots_needed(generation, parallelism);
    let registered = p.world.status(generation)?.slots_total;
    (registered < needed).then_some(Lacking { generation, needed, registered, since })
}

fn conditions(p: &Planner<'_>, word: &Word, problem: Option<&Problem>) -> Vec<Wanted> {
    let wanted = |type_, status, reason: &str, message: &str| Wanted {
        type_,
        status,
        reason: reason.into(),
        message: message.into(),
    };
    let settled = matches!(word.phase, Phase::Suspended | Phase::Finished | Phase::Canceled | Phase::Failed);
    let ready = match problem {
        Some(x) if !word.ready => wanted(READY, false, &x.reason, &x.message),
        _ if !word.ready && word.phase == Phase::Running => {
            wanted(READY, false, "SpecChanged", "the running job is not yet what the spec asks for")
        }
        _ => wanted(READY, word.ready, word.reason, &word.message),
    };
    let progressing = if settled {
        wanted(PROGRESSING, false, word.reason, &word.message)
    } else if let Some(r) = p.status.rollout.as_ref().filter(|r| r.step == Step::Proving) {
        wanted(PROGRESSING, true, "Proving", &format!("generation {}: {}", r.to, step_text(r.step)))
    } else if word.phase == Phase::Running && word.ready {
        wanted(PROGRESSING, false, "Stable", "")
    } else {
        wanted(PROGRESSING, true, word.reason, &word.message)
    };
    let degraded = match problem {
        Some(x) => wanted(DEGRADED, true, &x.reason, &x.message),
        None => wanted(DEGRADED, false, "AsExpected", ""),
    };
    let suspended = match word.phase {
        Phase::Suspended => wanted(SUSPENDED, true, word.reason, &word.message),
        _ => wanted(SUSPENDED, false, "NotSuspended", ""),
    };
    vec![ready, progressing, degraded, suspended]
}

/// One note for each transition that no step of a rollout announces.
fn announce(p: &mut Planner<'_>, old: &StreamJobStatus, problem: Option<&Problem>, attempt: Option<i64>) {
    let before = old.conditions.iter().find(|c| c.type_ == DEGRADED && c.status == "True").map(|c| c.reason.as_str());
    if let Some(x) =
        problem.filter(|x| before != Some(x.reason.as_str()) && !p.notes.iter().any(|n| n.reason == x.reason))
    {
        p.warn(&x.reason, x.message.clone());
    }
    let now = p.status.deployed.as_ref().and_then(|d| d.attempt);
    let same = p.status.deployed.as_ref().map(|d| d.generation) == old.deployed.as_ref().map(|d| d.generation);
    let restarted = same && attempt.is_some() && now > attempt && p.status.restarts > old.restarts;
    if restarted {
        let from = p.status.restored_from.clone().unwrap_or_else(|| "nothing".into());
        p.warn("Restarted", format!("attempt {} of the job restored {from}", now.unwrap_or_default()));
    }
    if old.phase != Phase::Restarting && p.status.phase == Phase::Restarting {
        let message = p.status.message.clone();
        p.warn("Restarting", message);
    }
}
