//! Builds and runs a taskmanager's share of an attempt: channels, chains, tasks.
use super::factory::{AnyReceiver, AnyStage, BuildContext, Consumers, RecordType, WriterContext};
use super::task::{TaskBody, TaskCommand, TaskEvent, TaskId, TaskIo, Uploader};
use super::{Clock, Workers};
use crate::checkpoint::handles::{FileHandle, OperatorRestore, TaskRestore};
use crate::error::{Error, ErrorCode, Result};
use crate::exchange::{ChannelId, Channels, PeerAddress};
use crate::graph::{JobGraph, LogicalGraph, Vertex, key_group_range};
use crate::job::alignment::AlignmentGroups;
use crate::observe::TaskMetrics;
use crate::state::file::ReadAt;
use crate::state::store::Stores;
use crate::testing::Activity;
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use weir_api::config::StateConfig;
use weir_api::ids::Attempt;

/// What the jobmanager sends to each taskmanager to start an attempt. Both derive the same [`JobGraph`] from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    pub attempt: Attempt,
    pub parallelism: u32,
    pub max_parallelism: u32,
    pub buffer_timeout_ms: u64,
    /// The taskmanagers that take part, by position.
    pub taskmanagers: Vec<TaskManagerAddress>,
    /// Position (in `taskmanagers`) of the taskmanager of each slot; subtask i of every vertex runs in slot i.
    pub slots: Vec<u32>,
    /// Where keyed state lies.
    #[serde(default)]
    pub state: StateConfig,
    /// What the receiver's own tasks start from. A task that is not named starts new. Empty on the wire: messages of their own
    /// bring it.
    pub restore: Vec<(TaskId, TaskRestore)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskManagerAddress {
    pub id: String,
    /// `host:port` of its data connections.
    pub data_address: String,
}

/// What of the taskmanager an attempt runs on.
#[derive(Clone)]
pub struct Environment {
    /// Position of this taskmanager in [`Deployment::taskmanagers`].
    pub me: u32,
    /// The attempt's channels; closing them is the caller's part of a cancellation.
    pub channels: Channels,
    /// Runtimes of the tasks.
    pub data: Workers,
    /// Runtime of everything else.
    pub control: tokio::runtime::Handle,
    pub uploader: Arc<dyn Uploader>,
    /// Opens snapshot files.
    pub files: Arc<dyn FileReader>,
    pub events: mpsc::UnboundedSender<(TaskId, TaskEvent)>,
    /// For processing-time timers.
    pub clock: Clock,
    /// Watches the tasks for a test that wants to know when they have nothing to do.
    pub activity: Option<Activity>,
}

/// Opens snapshot files for a restore; a file that is missing or cut off is an error.
pub trait FileReader: Send + Sync {
    fn open(&self, file: FileHandle) -> BoxFuture<'static, Result<Arc<dyn ReadAt>>>;
}

/// A running task.
struct Running {
    id: TaskId,
    is_source: bool,
    commands: mpsc::UnboundedSender<TaskCommand>,
    handle: tokio::task::JoinHandle<()>,
    metrics: TaskMetrics,
}

/// The running tasks of one attempt on one taskmanager.
pub struct RunningAttempt {
    tasks: Vec<Running>,
    alignment: AlignmentGroups,
    uploader: Arc<dyn Uploader>,
}

impl RunningAttempt {
    /// Builds all tasks of this taskmanager and starts them. On an error nothing runs.
    ///
    /// Building restores state and opens files, so it happens on a blocking thread.
    pub async fn start(
        graph: Arc<LogicalGraph>,
        plan: Arc<JobGraph>,
        deployment: Deployment,
        env: Environment,
    ) -> Result<Self> {
        if deployment.slots.len() < plan.slots() as usize {
            let (have, need) = (deployment.slots.len(), plan.slots());
            return Err(Error::internal(format!("the deployment has {have} slots and the job needs {need}")));
        }
        let files = open_files(&deployment, &*env.files).await?;
        let timeout = Duration::from_millis(deployment.buffer_timeout_ms);
        let (builder_env, data) = (env.clone(), env.data.shared().clone());
        let alignment = AlignmentGroups::new(deployment.taskmanagers.len() > 1);
        let groups = alignment.clone();
        let built = data
            .spawn_blocking(move || {
                let build = AssertUnwindSafe(|| {
                    let (graph, plan, deployment, env) = (&*graph, &*plan, &deployment, &builder_env);
                    let stores = stores(graph, plan, deployment, env.me)?;
                    let (inputs, metrics) = (HashMap::new(), HashMap::new());
                    Builder { graph, plan, deployment, env, files, alignment: groups, stores, inputs, metrics }.build()
                });
                std::panic::catch_unwind(build).unwrap_or_else(|p| Err(panicked(&*p)))
            })
            .await
            .map_err(|e| Error::internal(format!("building the tasks was interrupted: {e}")))??;
        let start = |t: Built| {
            let (commands, receiver) = mpsc::unbounded_channel();
            let io = TaskIo {
                id: t.id,
                commands: receiver,
                events: env.events.clone(),
                uploader: env.uploader.clone(),
                control: env.control.clone(),
                buffer_timeout: timeout,
                clock: env.clock.clone(),
                metrics: t.metrics.clone(),
            };
            let (id, events, name, handle) = (t.id, env.events.clone(), t.name, env.data.of_slot(t.slot));
            let run = AssertUnwindSafe(t.body.run(io)).catch_unwind().map(move |result| {
                if let Err(e) = result.unwrap_or_else(|p| Err(panicked(&*p))) {
                    let _ = events.send((id, TaskEvent::Failed(e.at(format!("{name} ({})", id.subtask + 1)))));
                }
            });
            let handle = match &env.activity {
                None => handle.spawn(run),
                Some(activity) => handle.spawn(activity.watch(run)),
            };
            Running { id, is_source: t.is_source, commands, handle, metrics: t.metrics }
        };
        Ok(Self { tasks: built.into_iter().map(start).collect(), uploader: env.uploader.clone(), alignment })
    }

    /// Sends a command: `Trigger` to the sources, the others to every task.
    pub fn command(&self, command: &TaskCommand) {
        match command {
            TaskCommand::Trigger(_) => {}
            TaskCommand::Complete(id) => self.uploader.completed(*id),
            TaskCommand::Aborted(id) => self.uploader.aborted(*id),
        }
        let trigger = matches!(command, TaskCommand::Trigger(_));
        for t in self.tasks.iter().filter(|t| t.is_source || !trigger) {
            // a task that has ended does not listen any more, and need not
            let _ = t.commands.send(command.clone());
        }
    }

    /// Sources of the attempt that wait for each other.
    pub fn alignment(&self) -> &AlignmentGroups {
        &self.alignment
    }

    /// The counters of each task.
    pub fn metrics(&self) -> impl Iterator<Item = (TaskId, &TaskMetrics)> {
        self.tasks.iter().map(|t| (t.id, &t.metrics))
    }

    /// Ends all tasks at their next await and waits until they are gone and no upload writes; they emit no event any more.
    pub async fn cancel(self) {
        for t in &self.tasks {
            t.handle.abort();
        }
        for t in self.tasks {
            let _ = t.handle.await;
        }
        self.uploader.end().await;
    }
}

fn panicked(payload: &(dyn std::any::Any + Send)) -> Error {
    let text = payload.downcast_ref::<&str>().map(|s| s.to_string());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
    Error::user(ErrorCode::Panic, format!("the task panicked: {text}"))
}

type Files = HashMap<(TaskId, String), Vec<Vec<Arc<dyn ReadAt>>>>;

/// All files that the deployment's tasks restore from, by handle.
async fn open_files(deployment: &Deployment, reader: &dyn FileReader) -> Result<Files> {
    let mut all = Files::new();
    for (task, restore) in &deployment.restore {
        for (operator, r) in &restore.operators {
            let chains = r.keyed.iter().map(|k| try_join_all(k.files().map(|f| reader.open(f.clone()))));
            all.insert((*task, operator.clone()), try_join_all(chains).await?);
        }
    }
    Ok(all)
}

/// A task that is built and does not run yet.
struct Built {
    id: TaskId,
    name: String,
    is_source: bool,
    body: Box<dyn TaskBody>,
    metrics: TaskMetrics,
    /// Whose thread it runs on.
    slot: Option<usize>,
}

struct Builder<'a> {
    graph: &'a LogicalGraph,
    plan: &'a JobGraph,
    deployment: &'a Deployment,
    env: &'a Environment,
    files: Files,
    alignment: AlignmentGroups,
    stores: Stores,
    /// Channels into the tasks that are not built yet: by vertex, subtask and port.
    inputs: HashMap<(u32, u32, u8), Vec<AnyReceiver>>,
    /// Theirs, by vertex and subtask.
    metrics: HashMap<(u32, u32), TaskMetrics>,
}

/// Where the states of this taskmanager's tasks are kept; they share its memory.
fn stores(graph: &LogicalGraph, plan: &JobGraph, deployment: &Deployment, me: u32) -> Result<Stores> {
    let mine = |v: &Vertex| (0..v.parallelism).filter(|s| deployment.slots.get(*s as usize) == Some(&me)).count();
    let keyed = |v: &Vertex| v.nodes.iter().filter(|n| !graph.nodes[**n].states.is_empty()).count();
    Stores::new(&deployment.state, plan.vertices.iter().map(|v| mine(v) * keyed(v)).sum())
}

impl Builder<'_> {
    /// Subtasks of a vertex that run here.
    fn mine(&self, vertex: &Vertex) -> Vec<u32> {
        (0..vertex.parallelism).filter(|&s| self.is_mine(s)).collect()
    }

    fn is_mine(&self, subtask: u32) -> bool {
        self.deployment.slots.get(subtask as usize) == Some(&self.env.me)
    }

    /// Where another taskmanager's subtask takes its data; none if it runs here.
    fn peer(&self, subtask: u32) -> Result<Option<PeerAddress>> {
        let position = self.deployment.slots.get(subtask as usize).copied().unwrap_or(u32::MAX);
        if position == self.env.me {
            return Ok(None);
        }
        match self.deployment.taskmanagers.get(position as usize) {
            Some(tm) => Ok(Some(PeerAddress { taskmanager: tm.id.clone(), address: tm.data_address.clone() })),
            None => Err(Error::internal(format!("the deployment names no taskmanager for subtask {subtask}"))),
        }
    }

    fn build(mut self) -> Result<Vec<Built>> {
        let mut tasks = Vec::new();
        let plan = self.plan;
        // reading state may take long, and producers of other taskmanagers do not wait so long for their consumers
        for vertex in &plan.vertices {
            for subtask in self.mine(vertex) {
                let metrics = TaskMetrics::default();
                for port in 0..2 {
                    let receivers = self.receivers(vertex, subtask, port, &metrics)?;
                    self.inputs.insert((vertex.id, subtask, port), receivers);
                }
                self.metrics.insert((vertex.id, subtask), metrics);
            }
        }
        for vertex in &plan.vertices {
            // a vertex with a subtask in every slot loads the threads of all slots alike
            let everywhere = vertex.parallelism == self.plan.slots();
            for (slot, subtask) in self.mine(vertex).into_iter().enumerate() {
                let slot = everywhere.then_some(slot);
                // the task's own runtime is entered, so that what is built may register with it
                let _entered = self.env.data.of_slot(slot).enter();
                tasks.push(Built { slot, ..self.task(vertex, subtask)? });
            }
        }
        Ok(tasks)
    }

    /// The record type that travels along an edge.
    fn edge_type(&self, edge: &crate::graph::Edge) -> Result<&dyn RecordType> {
        let node = &self.graph.nodes[edge.from_node];
        let ty = node.type_of_output(edge.from_output).map(|t| &**t);
        ty.ok_or_else(|| Error::internal(format!("{} has no output {}", node.name, edge.from_output)))
    }

    /// The channels into one input of a subtask, once.
    fn input(&mut self, vertex: &Vertex, subtask: u32, port: u8) -> Vec<AnyReceiver> {
        self.inputs.remove(&(vertex.id, subtask, port)).unwrap_or_default()
    }

    fn task(&mut self, vertex: &Vertex, subtask: u32) -> Result<Built> {
        let id = TaskId { vertex: vertex.id, subtask };
        let metrics = self.metrics.remove(&(vertex.id, subtask)).unwrap_or_default();
        let [first, second] = [0, 1].map(|port| self.input(vertex, subtask, port));
        let mut inputs = Some((first, second));
        let restore = self.deployment.restore.iter().find(|r| r.0 == id).map(|r| &r.1);
        let mut stages: HashMap<usize, AnyStage> = HashMap::new();
        let mut body = None;
        for &node_id in vertex.nodes.iter().rev() {
            let node = &self.graph.nodes[node_id];
            let mut next = Consumers::default();
            for consumer in &vertex.nodes {
                let input = self.graph.nodes[*consumer].inputs.iter().find(|i| i.node == node_id);
                if let Some(input) = input
                    && let Some(stage) = stages.remove(consumer)
                {
                    next.push(input.output, stage);
                }
            }
            for &edge in &vertex.outputs {
                let edge = &self.plan.edges[edge as usize];
                if edge.from_node == node_id {
                    next.push(edge.from_output, self.writer(edge, subtask, &metrics)?);
                }
            }
            let cx = BuildContext {
                operator: &node.name,
                in_source: vertex.is_source,
                subtask,
                parallelism: vertex.parallelism,
                max_parallelism: self.plan.max_parallelism,
                key_groups: key_group_range(subtask, vertex.parallelism, self.plan.max_parallelism),
                attempt: self.deployment.attempt.0,
                metrics: metrics.clone(),
                clock: self.env.clock.clone(),
                alignment: self.alignment.clone(),
                stores: &self.stores,
                restore: restore.and_then(|r| r.operators.get(&node.name)),
                files: self.files.get(&(id, node.name.clone())).map_or(&[], Vec::as_slice),
            };
            check_files(&cx)?;
            if vertex.is_source && node_id == vertex.nodes[0] {
                body = Some(node.factory.source(&cx, next)?);
            } else if node.second_input_type.is_some() {
                let (first, second) = inputs.take().unwrap_or_default();
                body = Some(node.factory.two_input_task(&cx, [first, second], next)?);
            } else {
                stages.insert(node_id, node.factory.stage(&cx, next)?);
            }
        }
        let body = match body {
            Some(b) => b,
            None => self.input_task(vertex, inputs.unwrap_or_default().0, stages)?,
        };
        Ok(Built { id, name: vertex.name.clone(), is_source: vertex.is_source, body, metrics, slot: None })
    }

    fn writer(&self, edge: &crate::graph::Edge, producer: u32, metrics: &TaskMetrics) -> Result<AnyStage> {
        let ty = self.edge_type(edge)?;
        let mine = self.plan.channels(edge).filter(|c| c.producer == producer);
        let sender = |c: ChannelId| ty.sender(&self.env.channels, c, self.peer(c.consumer)?.as_ref());
        let senders = mine.map(sender).collect::<Result<_>>()?;
        let max_parallelism = self.plan.max_parallelism;
        let cx = WriterContext { partition: edge.partition, producer, max_parallelism, metrics: metrics.clone() };
        ty.writer(&cx, senders)
    }

    fn input_task(
        &self,
        vertex: &Vertex,
        receivers: Vec<AnyReceiver>,
        mut stages: HashMap<usize, AnyStage>,
    ) -> Result<Box<dyn TaskBody>> {
        let head = vertex.nodes[0];
        let node = &self.graph.nodes[head];
        match (&node.input_type, stages.remove(&head)) {
            (Some(ty), Some(stage)) => ty.input_task(receivers, stage),
            _ => Err(Error::internal(format!("{} has no input", node.name))),
        }
    }
}

impl Builder<'_> {
    /// The channels into one input of a subtask.
    fn receivers(&self, vertex: &Vertex, subtask: u32, port: u8, metrics: &TaskMetrics) -> Result<Vec<AnyReceiver>> {
        let mut receivers = Vec::new();
        for &edge in &vertex.inputs {
            let edge = &self.plan.edges[edge as usize];
            if edge.to_port != port {
                continue;
            }
            let ty = self.edge_type(edge)?;
            for c in self.plan.channels(edge).filter(|c| c.consumer == subtask) {
                receivers.push(ty.receiver(&self.env.channels, c, !self.is_mine(c.producer), metrics)?);
            }
        }
        Ok(receivers)
    }
}

/// Each restored file must have been opened: a forgotten one would be lost state.
fn check_files(cx: &BuildContext<'_>) -> Result<()> {
    let files = cx.restore.map_or(0, |r: &OperatorRestore| r.keyed.len());
    match files == cx.files.len() {
        true => Ok(()),
        false => {
            Err(Error::internal(format!("{}: {} of {files} state files were opened", cx.operator, cx.files.len())))
        }
    }
}
