//! Owns the running attempt of this taskmanager: carries out deploy, cancel and commands one after the other, and follows
//! the highest attempt only. What takes long (restoring, ending tasks) happens on the data runtime.
use super::upload::{StorageFiles, StorageUploader};
use crate::checkpoint::handles::TaskRestore;
use crate::checkpoint::storage::Storage;
use crate::control::{Heartbeat, TaskCounters, ToJobManager};
use crate::dataflow::Workers;
use crate::dataflow::deploy::{Deployment, Environment, RunningAttempt};
use crate::dataflow::task::{TaskCommand, TaskEvent, TaskId};
use crate::error::{Error, Result};
use crate::exchange::{Channels, Exchange};
use crate::graph::{JobGraph, LogicalGraph};
use crate::job::alignment::{AlignmentGroups, Slowest};
use crate::observe::TaskMetrics;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};
use weir_api::ids::Attempt;

/// What the session asks for.
pub enum Order {
    /// What a task of the attempt that is about to be deployed starts from.
    Restore {
        attempt: Attempt,
        task: TaskId,
        restore: TaskRestore,
    },
    Deploy {
        me: u32,
        deployment: Box<Deployment>,
        /// Where the job's checkpoints lie; none: it has none.
        storage: Option<Storage>,
    },
    Cancel {
        attempt: Attempt,
    },
    Command {
        attempt: Attempt,
        command: TaskCommand,
    },
    /// End whatever runs, without a word to the jobmanager.
    Stop {
        done: oneshot::Sender<()>,
    },
}

/// What came ahead of a deployment.
#[derive(Default)]
struct Restores {
    attempt: Attempt,
    tasks: Vec<(TaskId, TaskRestore)>,
}

impl Restores {
    fn add(&mut self, attempt: Attempt, task: TaskId, restore: TaskRestore) {
        if self.attempt != attempt {
            *self = Self { attempt, tasks: Vec::new() };
        }
        self.tasks.push((task, restore));
    }
    /// What belongs to this attempt; the rest belongs to one that never came.
    fn take(&mut self, attempt: Attempt) -> Vec<(TaskId, TaskRestore)> {
        let all = std::mem::take(self);
        if all.attempt == attempt { all.tasks } else { Vec::new() }
    }
}

/// Counters of the running tasks, shared with the heartbeat.
#[derive(Clone, Default)]
pub struct Running {
    tasks: Arc<Mutex<(Attempt, Vec<(TaskId, TaskMetrics)>, AlignmentGroups)>>,
    highest: Arc<AtomicU64>,
    /// Since when the tasks are waited for to end.
    ending: Arc<Mutex<Option<Instant>>>,
}

impl Running {
    pub fn heartbeat(&self) -> Heartbeat {
        let running = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = running.1.iter().map(|(id, m)| (*id, TaskCounters::from(m))).collect();
        let (attempt, alignment) = (running.0, running.2.slowest());
        Heartbeat { attempt, tasks, alignment, resident_bytes: crate::observe::resident_bytes() }
    }
    /// Takes what the jobmanager says about the sources on the other taskmanagers.
    pub fn align(&self, attempt: Attempt, others: Slowest) {
        let running = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if running.0 == attempt {
            running.2.set_others(others);
        }
    }
    fn set(&self, attempt: Attempt, tasks: Vec<(TaskId, TaskMetrics)>, alignment: AlignmentGroups) {
        *self.tasks.lock().unwrap_or_else(PoisonError::into_inner) = (attempt, tasks, alignment);
    }
    /// The highest attempt that was deployed or cancelled here.
    pub fn highest(&self) -> Attempt {
        Attempt(self.highest.load(Ordering::Relaxed))
    }
    /// Since when tasks are waited for to end; none while they need not.
    pub fn ending(&self) -> Option<Instant> {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn set_ending(&self, since: Option<Instant>) {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
    fn follow(&self, attempt: Attempt) {
        self.highest.fetch_max(attempt.0, Ordering::Relaxed);
    }
}

/// The actor; it ends with its last order sender.
pub struct Attempts {
    pub graph: Arc<LogicalGraph>,
    /// None: the whole job runs in this process.
    pub exchange: Option<Arc<Exchange>>,
    pub data: Workers,
    pub control: tokio::runtime::Handle,
    pub out: mpsc::UnboundedSender<ToJobManager>,
    pub running: Running,
}

impl Attempts {
    pub async fn run(self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut current: Option<(Attempt, RunningAttempt)> = None;
        let mut highest = Attempt(0);
        let mut waiting: VecDeque<Order> = VecDeque::new();
        let mut restores = Restores::default();
        loop {
            let order = match waiting.pop_front() {
                Some(o) => o,
                None => match orders.recv().await {
                    Some(o) => o,
                    None => break,
                },
            };
            match order {
                Order::Deploy { deployment, .. } if deployment.attempt <= highest => {
                    tracing::info!(attempt = %deployment.attempt, %highest, "ignores the deployment of an old attempt");
                }
                Order::Restore { attempt, .. } if attempt <= highest => {}
                Order::Restore { attempt, task, restore } => restores.add(attempt, task, restore),
                Order::Deploy { me, mut deployment, storage } => {
                    deployment.restore.extend(restores.take(deployment.attempt));
                    // tasks of the old attempt are gone before those of the new one start
                    self.end(&mut current).await;
                    let attempt = deployment.attempt;
                    highest = attempt;
                    self.running.follow(attempt);
                    current =
                        self.start(me, *deployment, storage, &mut orders, &mut waiting).await.map(|r| (attempt, r));
                }
                Order::Cancel { attempt } => {
                    highest = highest.max(attempt);
                    self.running.follow(attempt);
                    if current.as_ref().is_some_and(|c| c.0 <= attempt) {
                        self.end(&mut current).await;
                    }
                    let _ = self.out.send(ToJobManager::Gone { attempt });
                }
                Order::Command { attempt, command } => match &current {
                    Some((a, running)) if *a == attempt => running.command(&command),
                    _ => tracing::debug!(%attempt, ?command, "drops a command for an attempt that does not run"),
                },
                Order::Stop { done } => {
                    // the next connection's jobmanager may count its attempts anew
                    restores = Restores::default();
                    self.end(&mut current).await;
                    let _ = done.send(());
                }
            }
        }
        self.end(&mut current).await;
    }

    async fn end(&self, current: &mut Option<(Attempt, RunningAttempt)>) {
        if let Some((attempt, running)) = current.take() {
            self.running.set_ending(Some(Instant::now()));
            running.cancel().await;
            self.running.set_ending(None);
            self.close(attempt);
            // the last word on the counters
            let _ = self.out.send(ToJobManager::Heartbeat(self.running.heartbeat()));
            self.running.set(attempt, Vec::new(), AlignmentGroups::default());
            tracing::info!(%attempt, "all tasks of the attempt are gone");
        }
    }

    /// No connection of the attempt stays open or is taken.
    fn close(&self, attempt: Attempt) {
        if let Some(e) = &self.exchange {
            e.end(attempt);
        }
    }

    /// Starts the attempt; orders that arrive meanwhile wait, except those that make it void.
    async fn start(
        &self,
        me: u32,
        deployment: Deployment,
        storage: Option<Storage>,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        waiting: &mut VecDeque<Order>,
    ) -> Option<RunningAttempt> {
        let attempt = deployment.attempt;
        let channels = match &self.exchange {
            Some(e) => e.begin(attempt),
            None => Ok(Channels::in_process(attempt)),
        };
        let channels = match channels {
            Ok(c) => c,
            Err(error) => {
                let _ = self.out.send(ToJobManager::DeployFailed { attempt, error });
                return None;
            }
        };
        let (events, mut forward) = mpsc::unbounded_channel::<(TaskId, TaskEvent)>();
        let out = self.out.clone();
        let plan = Arc::new(JobGraph::new(&self.graph, deployment.parallelism, deployment.max_parallelism));
        self.control.spawn(async move {
            while let Some((task, event)) = forward.recv().await {
                let _ = out.send(ToJobManager::Task { attempt, task, event });
            }
        });
        let env = Environment {
            clock: crate::dataflow::Clock::system(),
            activity: None,
            me,
            channels,
            data: self.data.clone(),
            control: self.control.clone(),
            uploader: Arc::new(StorageUploader::new(storage.clone(), plan.clone(), &deployment.restore)),
            files: Arc::new(StorageFiles(storage)),
            events,
        };
        let graph = self.graph.clone();
        let mut starting = self.data.shared().spawn(RunningAttempt::start(graph, plan, deployment, env));
        let (mut closed, mut void) = (false, false);
        // what is being built is never abandoned half-way: it may hold files that the next attempt wants
        let started: Result<RunningAttempt> = loop {
            tokio::select! {
                r = &mut starting => break r.unwrap_or_else(|e| Err(Error::internal(format!("starting the tasks failed: {e}")))),
                o = orders.recv(), if !closed => match o {
                    None => closed = true,
                    Some(o) => {
                        void |= match &o {
                            Order::Deploy { deployment: d, .. } => d.attempt > attempt,
                            Order::Cancel { attempt: a } => *a >= attempt,
                            Order::Command { .. } | Order::Restore { .. } => false,
                            Order::Stop { .. } => true,
                        };
                        waiting.push_back(o);
                    }
                },
            }
        };
        if void {
            if let Ok(running) = started {
                running.cancel().await;
            }
            self.close(attempt);
            return None;
        }
        match started {
            Ok(running) => {
                let tasks = running.metrics().map(|(id, m)| (id, m.clone())).collect();
                self.running.set(attempt, tasks, running.alignment().clone());
                Some(running)
            }
            Err(error) => {
                self.close(attempt);
                tracing::warn!(%attempt, %error, "the attempt did not start here");
                let _ = self.out.send(ToJobManager::DeployFailed { attempt, error });
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tasks_start_from_is_kept_for_the_attempt_that_it_came_for() {
        let mut r = Restores::default();
        let task = |subtask| TaskId { vertex: 0, subtask };
        r.add(Attempt(2), task(0), TaskRestore::default());
        // attempt 2 was never deployed
        r.add(Attempt(3), task(0), TaskRestore::default());
        r.add(Attempt(3), task(1), TaskRestore::default());
        let tasks: Vec<_> = r.take(Attempt(3)).into_iter().map(|t| t.0).collect();
        assert_eq!(tasks, [task(0), task(1)]);
        r.add(Attempt(4), task(0), TaskRestore::default());
        assert!(r.take(Attempt(5)).is_empty() && r.take(Attempt(4)).is_empty());
    }
}
