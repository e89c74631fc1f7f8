//! Whether tasks have something to do: each is watched, and is busy from the moment it was woken until it was polled.
use futures::task::AtomicWaker;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Counts the busy ones of the tasks that it watches; clones share it.
#[derive(Clone, Default)]
pub struct Activity(Arc<Shared>);

#[derive(Default)]
struct Shared {
    busy: AtomicUsize,
    tasks: Mutex<Vec<Arc<Task>>>,
}

/// The waker of a watched task.
struct Task {
    shared: Arc<Shared>,
    woken: AtomicBool,
    ended: AtomicBool,
    outer: AtomicWaker,
}

impl Activity {
    /// No task was woken since it was polled last.
    pub fn is_idle(&self) -> bool {
        self.0.busy.load(SeqCst) == 0
    }

    /// Wakes all tasks: something has changed that no waker tells of.
    pub fn wake_all(&self) {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|t| !t.ended.load(SeqCst));
        tasks.iter().for_each(Task::wake_up);
    }

    /// Watches a task; it counts as busy until it is polled for the first time.
    pub fn watch<F: Future + Send>(&self, inner: F) -> Watched<F> {
        let task = Arc::new(Task {
            shared: self.0.clone(),
            woken: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            outer: AtomicWaker::new(),
        });
        self.0.busy.fetch_add(1, SeqCst);
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task.clone());
        Watched { inner: Box::pin(inner), waker: task.clone().into(), task }
    }
}

impl Task {
    fn wake_up(self: &Arc<Self>) {
        if !self.ended.load(SeqCst) && !self.woken.swap(true, SeqCst) {
            self.shared.busy.fetch_add(1, SeqCst);
        }
        self.outer.wake();
    }
    fn polled(&self) {
        if self.woken.swap(false, SeqCst) {
            self.shared.busy.fetch_sub(1, SeqCst);
        }
    }
    fn end(&self) {
        self.ended.store(true, SeqCst);
        self.polled();
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_up();
    }
}

/// A task that is watched.
pub struct Watched<F> {
    inner: Pin<Box<F>>,
    waker: Waker,
    task: Arc<Task>,
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.task.outer.register(cx.waker());
        self.task.polled();
        let this = &mut *self;
        let polled = this.inner.as_mut().poll(&mut Context::from_waker(&this.waker));
        if polled.is_ready() {
            this.task.end();
        }
        polled
    }
}

impl<F> Drop for Watched<F> {
    fn drop(&mut self) {
        self.task.end();
    }
}
