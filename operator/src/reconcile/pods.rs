//! Pure: what is wrong with a job's pods, and which of them to replace instead of waiting for the kubelet's restart back-off.
//!
//! The kubelet restarts a container in its pod at once the first time, then after 10 s, 20 s, 40 s, ... whatever the cause. A fresh pod
//! has no such history. So a pod whose container ended again, or waits in back-off, is deleted and its ReplicaSet replaces it
//! at once. Where pods keep dying young, a back-off of our own takes over.
use super::world::Problem;
use crate::build::Role;
use crate::crd::status::Millis;
use std::collections::BTreeMap;

/// A pod, reduced to what decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodObs {
    pub name: String,
    pub uid: String,
    pub generation: i64,
    pub role: Role,
    /// It is being deleted, and its grace period ends then.
    pub gone_by: Option<Millis>,
    /// Being deleted because its node is lost.
    pub node_lost: bool,
    /// Why the scheduler finds no node; empty when it did.
    pub unschedulable: String,
    /// The containers that run the job's image: one, or two where one stands by.
    pub containers: Vec<ContainerObs>,
    /// The jobmanager had it registered and lost it; the kubelet may not have noticed yet.
    pub unregistered: bool,
    /// A jobmanager that another process of its generation has fenced, and no other is left to go on with the job.
    pub fenced: bool,
}

/// A container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerObs {
    /// Since when it runs.
    pub running: Option<Millis>,
    /// Reason and message of a container that waits.
    pub waiting: Option<(String, String)>,
    /// Its end, where it is over and not started again.
    pub terminated: Option<End>,
    /// The end before the current run.
    pub last_terminated: Option<End>,
    pub restarts: u32,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub reason: String,
    pub message: String,
    pub exit_code: i32,
    pub started: Millis,
    pub finished: Millis,
}

/// A container that lives shorter than this has died young.
const YOUNG_MS: Millis = 10_000;
/// So many deaths in youth are replaced at once.
const FREE_DEATHS: u32 = 3;
const BACKOFF_FIRST_MS: Millis = 2_000;
const BACKOFF_MAX_MS: Millis = 60_000;
/// Deaths in youth in a row that are called a crash loop.
const CRASH_LOOP: u32 = 2;
/// A container that has started so recently may not have registered again.
const SETTLED_MS: Millis = 5_000;
/// How long a kill for lack of memory stays named after the last one.
const OOM_SHOWN_MS: Millis = 60_000;
/// A pod that is still there so long after its grace period is given up: its node cannot confirm, and the log's claim fences what may still run there.
const STUCK_MS: Millis = 10_000;

/// What happened to the pods of one role of one generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct History {
    young_deaths: u32,
    last_end: Option<End>,
    last_oom: Option<Millis>,
    not_before: Millis,
}

/// What happened to a job's pods since the operator started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodHistory {
    roles: BTreeMap<(i64, Role), History>,
    /// Ends already counted: pod uid and container -> time of the last one.
    counted: BTreeMap<(String, usize), Millis>,
}

/// A pod to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replace {
    pub name: String,
    pub uid: String,
    /// Without waiting for its node.
    pub force: bool,
    pub why: String,
}

/// The outcome of one look at the pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub replace: Vec<Replace>,
    pub problems: Vec<Problem>,
    /// Look again at this time.
    pub look_again: Option<Millis>,
}

const CONFIG_REASONS: [&str; 7] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

impl PodHistory {
    /// Looks at all pods of a job.
    pub fn look(&mut self, pods: &[PodObs], now: Millis) -> Verdict {
        self.counted.retain(|(uid, _), _| pods.iter().any(|p| p.uid == *uid));
        self.roles.retain(|(g, r), h| {
            pods.iter().any(|p| (p.generation, p.role) == (*g, *r))
                || h.last_end.as_ref().is_some_and(|e| now - e.finished < OOM_SHOWN_MS)
        });
        let mut v = Verdict::default();
        for pod in pods {
            for (n, c) in pod.containers.iter().enumerate() {
                self.count(pod, n, c, now);
            }
        }
        for pod in pods {
            self.judge(pod, now, &mut v);
        }
        for ((generation, role), h) in &self.roles {
            if let Some(p) = h.problem(*generation, *role, now) {
                v.problems.push(p);
            }
            if let Some(at) = h.last_oom.map(|t| t + OOM_SHOWN_MS).filter(|t| *t > now) {
                v.wake(at);
            }
        }
        v
    }

    fn count(&mut self, pod: &PodObs, n: usize, container: &ContainerObs, now: Millis) {
        let Some(end) = container.terminated.as_ref().or(container.last_terminated.as_ref()) else { return };
        let counted = self.counted.entry((pod.uid.clone(), n)).or_insert(Millis::MIN);
        if *counted >= end.finished {
            return;
        }
        *counted = end.finished;
        // it did as it was told
        if pod.gone_by.is_some() && end.exit_code == 0 {
            return;
        }
        let h = self.roles.entry((pod.generation, pod.role)).or_default();
        // one that never started has no time of its start
        if end.started == 0 || end.finished - end.started < YOUNG_MS {
            h.young_deaths += 1;
        } else {
            h.young_deaths = 0;
        }
        if end.for_lack_of_memory() {
            h.last_oom = Some(now);
        }
        let over = h.young_deaths.saturating_sub(FREE_DEATHS);
        let delay = if over == 0 { 0 } else { (BACKOFF_FIRST_MS << (over - 1).min(10)).min(BACKOFF_MAX_MS) };
        h.not_before = end.finished + delay;
        h.last_end = Some(end.clone());
    }

    fn judge(&self, pod: &PodObs, now: Millis, v: &mut Verdict) {
        if let Some(end) = pod.gone_by {
            if pod.node_lost || now - end >= STUCK_MS {
                v.replace.push(pod.replace(true, "its node does not answer"));
            } else {
                v.wake(end + STUCK_MS);
            }
            return;
        }
        if !pod.unschedulable.is_empty() {
            v.problem(pod, "Unschedulable", &pod.unschedulable);
        }
        // it never claims again by itself: the one that fenced it may still have been at work
        if pod.fenced {
            v.replace.push(pod.replace(false, "the jobmanager that fenced it is gone"));
            return;
        }
        // while one of two runs, the job does; the first end of a container is the kubelet's: it restarts it at once
        let down = !pod.containers.is_empty() && pod.containers.iter().all(ContainerObs::pays_back_off);
        let lost = pod.unregistered && pod.containers.iter().all(|c| c.is_lost(now));
        if down || lost {
            let not_before = self.roles.get(&(pod.generation, pod.role)).map_or(0, |h| h.not_before);
            if now >= not_before {
                let why = if lost { "its process is gone" } else { "its container ended" };
                v.replace.push(
                    pod.replace(false, &format!("{why}, and a fresh pod starts sooner than the kubelet restarts it")),
                );
            } else {
                v.wake(not_before);
            }
        } else if let Some((reason, message)) = pod.containers.iter().find_map(|c| c.waiting.as_ref())
            && CONFIG_REASONS.contains(&reason.as_str())
        {
            // the kubelet alternates between the try and the wait: one condition, one event
            let reason = if reason == "ErrImagePull" { "ImagePullBackOff" } else { reason };
            v.problem(pod, reason, message);
        }
    }
}

impl End {
    /// Also where it came to nothing because the limit is too low to even start the container: the runtime says that in a message only.
    fn for_lack_of_memory(&self) -> bool {
        self.reason == "OOMKilled" || self.reason == "StartError" && self.message.contains("OOM-killed")
    }
}

impl ContainerObs {
    /// It is over, and the kubelet waits (or will) before it starts it again.
    fn pays_back_off(&self) -> bool {
        self.waiting.as_ref().is_some_and(|(r, _)| r == "CrashLoopBackOff")
            || self.terminated.is_some() && self.restarts > 0
    }

    /// Its process is gone although Kubernetes does not say so yet, and its restart would be delayed.
    fn is_lost(&self, now: Millis) -> bool {
        self.pays_back_off() || self.restarts > 0 && self.running.is_some_and(|since| now - since >= SETTLED_MS)
    }
}

impl PodObs {
    pub fn is_running(&self) -> bool {
        self.containers.iter().any(|c| c.running.is_some())
    }

    /// One of its containers has run since then or longer.
    pub fn is_running_since(&self, time: Millis) -> bool {
        self.containers.iter().any(|c| c.running.is_some_and(|since| since <= time))
    }

    fn replace(&self, force: bool, why: &str) -> Replace {
        Replace { name: self.name.clone(), uid: self.uid.clone(), force, why: why.into() }
    }
}

impl Verdict {
    fn wake(&mut self, at: Millis) {
        self.look_again = Some(self.look_again.map_or(at, |t| t.min(at)));
    }
    fn problem(&mut self, pod: &PodObs, reason: &str, message: &str) {
        self.problems.push(Problem {
            generation: pod.generation,
            reason: reason.into(),
            message: format!("{} pod {}: {}", pod.role.as_str(), pod.name, message.trim()),
        });
    }
}

impl History {
    fn problem(&self, generation: i64, role: Role, now: Millis) -> Option<Problem> {
        let end = self.last_end.as_ref()?;
        if self.last_oom.is_some_and(|t| now - t < OOM_SHOWN_MS) {
            return Some(Problem {
                generation,
                reason: "OOMKilled".into(),
                message: format!(
                    "a {} was killed for lack of memory: raise spec.{}.resources.limits.memory",
                    role.as_str(),
                    if role == Role::JobManager { "jobManager" } else { "taskManager" }
                ),
            });
        }
        if self.young_deaths >= CRASH_LOOP && now - end.finished < BACKOFF_MAX_MS + YOUNG_MS {
            return Some(Problem {
                generation,
                reason: "CrashLoopBackOff".into(),
                message: format!(
                    "the {} ended {} times within {} s of its start, the last time with exit code {}{}",
                    role.as_str(),
                    self.young_deaths,
                    YOUNG_MS / 1000,
                    end.exit_code,
                    last_line(&end.message).map_or(String::new(), |l| format!(": {l}"))
                ),
            });
        }
        None
    }
}

/// The line of a log that most likely says why: the last one that speaks of an error, or else the last one; cut to a readable length.
fn last_line(log: &str) -> Option<String> {
    let lines = || log.lines().rev().map(str::trim).filter(|l| !l.is_empty());
    let speaks = |l: &&str| ["error", "ERROR", "panicked"].iter().any(|w| l.contains(w));
    let mut line = lines().find(speaks).or_else(|| lines().next())?.to_owned();
    crate::crd::conditions::truncate(&mut line, 1024);
    Some(line)
}

#[cfg(test)]
mod tests;
