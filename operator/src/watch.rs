//! Follows each jobmanager's status by long poll, in a task of its own, and wakes the job's reconciliation when something changed.
use crate::clock;
use crate::crd::status::Millis;
use crate::job_client::{ClientError, JobClient, Target};
use crate::reconcile::world::StatusObs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use weir_api::rest::WeirStatus;

/// A request is held open for at most so long: a node that vanished is noticed after it.
const POLL: Duration = Duration::from_secs(5);
/// What decides nothing (another checkpoint) wakes a reconciliation, and so a write of the status, at most so often,
const CALM: Millis = 30_000;
/// but sooner until a checkpoint has completed after the last change that does decide: an upgrade waits for that one.
const EXPECTANT: Millis = 2_000;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Called with the job whose status changed.
pub type Wake = Arc<dyn Fn(&Target) + Send + Sync>;

/// All watch tasks.
pub struct Watchers {
    client: JobClient,
    wake: Wake,
    running: Mutex<BTreeMap<Target, Watch>>,
}

struct Watch {
    seen: Arc<Mutex<StatusObs>>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watchers {
    pub fn new(client: JobClient, wake: Wake) -> Self {
        Self { client, wake, running: Mutex::default() }
    }

    /// Watches exactly these generations of the job.
    pub fn set(&self, namespace: &str, job: &str, generations: &BTreeSet<i64>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let of_job =
            running.range(first(namespace, job)..).take_while(|(t, _)| t.namespace == namespace && t.job == job);
        let unwanted: Vec<Target> =
            of_job.map(|(t, _)| t).filter(|t| !generations.contains(&t.generation)).cloned().collect();
        for t in unwanted {
            running.remove(&t);
        }
        for g in generations {
            let target = Target { namespace: namespace.into(), job: job.into(), generation: *g };
            running.entry(target).or_insert_with_key(|t| self.spawn(t.clone()));
        }
    }

    /// What is known of the job's jobmanagers, by generation.
    pub fn all(&self, namespace: &str, job: &str) -> Vec<(i64, StatusObs)> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let of_job =
            running.range(first(namespace, job)..).take_while(|(t, _)| t.namespace == namespace && t.job == job);
        of_job.map(|(t, w)| (t.generation, w.seen.lock().unwrap_or_else(PoisonError::into_inner).clone())).collect()
    }

    fn spawn(&self, target: Target) -> Watch {
        let seen = Arc::new(Mutex::new(StatusObs {
            last: None,
            reachable: false,
            since: clock::now(),
            lost: BTreeSet::new(),
        }));
        let task = tokio::spawn(follow(self.client.clone(), target, seen.clone(), self.wake.clone()));
        Watch { seen, task }
    }
}

fn first(namespace: &str, job: &str) -> Target {
    Target { namespace: namespace.into(), job: job.into(), generation: i64::MIN }
}

async fn follow(client: JobClient, target: Target, seen: Arc<Mutex<StatusObs>>, wake: Wake) {
    let (mut after, mut failures) = (None, 0u32);
    let mut pace = Pace::default();
    let mut crew = Crew::default();
    loop {
        let due = pace.due.map(|at| Duration::from_millis(u64::try_from(at - clock::now()).unwrap_or(0)));
        match client.status(&target, after, due.map_or(POLL, |wait| wait.min(POLL))).await {
            Ok(status) => {
                failures = 0;
                after = Some(status.version);
                if crew.changed(&status) {
                    match client.task_managers(&target).await {
                        Ok(list) => crew.note(&status, list.into_iter().map(|t| t.id).collect()),
                        Err(e) => tracing::debug!(error = %e, "taskmanagers not read"),
                    }
                    seen.lock().unwrap_or_else(PoisonError::into_inner).lost.clone_from(&crew.lost);
                }
                let now = clock::now();
                if pace.wakes(take(&seen, status, now), now) {
                    wake(&target);
                }
            }
            Err(e) => {
                after = None;
                failures += 1;
                // a connection that was closed while idle fails once
                if failures >= 2 && lose(&seen, clock::now()) {
                    tracing::info!(namespace = target.namespace, job = target.job, generation = target.generation, error = %e, "jobmanager lost");
                    wake(&target);
                }
                if let ClientError::Malformed(_) | ClientError::Refused { .. } = &e
                    && failures.is_power_of_two()
                {
                    tracing::warn!(namespace = target.namespace, job = target.job, generation = target.generation, error = %e, "status not read");
                }
                tokio::time::sleep((RETRY_FIRST * failures.min(64)).min(RETRY_MAX)).await;
            }
        }
    }
}

/// What a status brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Nothing,
    /// Something that no plan depends on.
    Minor,
    /// The same, with another checkpoint.
    Checkpoint,
    /// A plan may depend on it.
    Decisive,
}

/// When a reconciliation is woken.
#[derive(Debug, Default)]
struct Pace {
    woken: Millis,
    /// When news that can wait are told.
    due: Option<Millis>,
    /// A checkpoint has completed since the last decisive change.
    calm: bool,
}

impl Pace {
    fn wakes(&mut self, news: News, now: Millis) -> bool {
        if news == News::Decisive {
            *self = Self { woken: now, due: None, calm: false };
            return true;
        }
        if news != News::Nothing {
            let at = self.woken + if self.calm { CALM } else { EXPECTANT };
            self.due = Some(self.due.map_or(at, |due| due.min(at)));
            self.calm |= news == News::Checkpoint;
        }
        let wakes = self.due.is_some_and(|at| at <= now);
        if wakes {
            (self.woken, self.due) = (now, None);
        }
        wakes
    }
}

/// The taskmanagers of one jobmanager process.
#[derive(Default)]
struct Crew {
    instance: String,
    count: u32,
    ever: BTreeSet<String>,
    lost: BTreeSet<String>,
}

impl Crew {
    fn changed(&self, s: &WeirStatus) -> bool {
        (self.instance.as_str(), self.count) != (s.instance.as_str(), s.taskmanagers)
    }

    fn note(&mut self, s: &WeirStatus, registered: BTreeSet<String>) {
        if self.instance != s.instance {
            // a new process has lost nobody yet: they are on their way
            self.ever.clear();
            self.instance.clone_from(&s.instance);
        }
        self.count = s.taskmanagers;
        self.ever.extend(registered.iter().cloned());
        self.lost = &self.ever - &registered;
    }
}

/// Stores a status; tells what is new in it.
fn take(seen: &Mutex<StatusObs>, status: WeirStatus, now: Millis) -> News {
    let mut s = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let news = match s.last.as_ref().filter(|_| s.reachable) {
        Some(last) if *last == status => News::Nothing,
        Some(last) if decisive(last) != decisive(&status) => News::Decisive,
        Some(last) if last.last_checkpoint != status.last_checkpoint => News::Checkpoint,
        Some(_) => News::Minor,
        None => News::Decisive,
    };
    let state = |s: &WeirStatus| (s.phase, s.job_state, s.all_tasks_running);
    let same_state = s.reachable && s.last.as_ref().is_some_and(|l| state(l) == state(&status));
    if !same_state {
        s.since = now;
    }
    s.reachable = true;
    s.last = Some(status);
    news
}

fn lose(seen: &Mutex<StatusObs>, now: Millis) -> bool {
    let mut s = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let lost = s.reachable;
    if lost {
        s.reachable = false;
        s.since = now;
    }
    lost
}

/// A status without what changes all the time and decides nothing.
fn decisive(s: &WeirStatus) -> WeirStatus {
    let mut s = s.clone();
    s.version = 0;
    s.log_head = None;
    s.last_checkpoint = None;
    s.failed_checkpoints = 0;
    s
}

#[cfg(test)]
mod tests;
