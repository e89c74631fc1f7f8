//! What the connectors' tests share: an output whose records can be looked at, contexts, a loop that drives a reader.
use super::sink::SinkContext;
use super::source::{ReadStatus, SourceContext, SourceReader};
use crate::data::Data;
use crate::dataflow::{Batch, Output, Signal, Stage};
use crate::error::Result;
use crate::observe::TaskMetrics;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Instant;

/// The end of a chain that keeps what arrives.
pub struct Kept<T>(pub Arc<Mutex<Vec<T>>>);

impl<T: Send> Stage<T> for Kept<T> {
    fn process(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.0.lock().unwrap().append(&mut batch.records);
        batch.clear();
        Ok(())
    }
    fn signal(&mut self, _: &mut Signal<'_>) -> Result<()> {
        Ok(())
    }
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

pub fn output<T: Data>() -> (Output<T>, Arc<Mutex<Vec<T>>>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    (Output::new(vec![Box::new(Kept(kept.clone()))]), kept)
}

pub fn source_cx(subtask: u32, parallelism: u32) -> SourceContext {
    SourceContext { operator: "in".into(), subtask, parallelism, attempt: 1, metrics: TaskMetrics::default() }
}

pub fn sink_cx(subtask: u32, parallelism: u32, attempt: u64) -> SinkContext {
    SinkContext { operator: "out".into(), subtask, parallelism, attempt, metrics: TaskMetrics::default() }
}

/// Reads until the end or for `calls` calls, jumping ahead to the time that a `Wait` names; gives the records and whether it
/// was the end.
pub fn drive<R: SourceReader>(reader: &mut R, calls: usize) -> Result<(Vec<R::Record>, bool)> {
    let (mut out, kept) = output();
    let mut now = Instant::now();
    let mut end = false;
    for _ in 0..calls {
        match reader.read(&mut out, now)? {
            ReadStatus::More => {}
            ReadStatus::Wait(at) => now = at.expect("a wait without a time would last for ever"),
            ReadStatus::End => {
                end = true;
                break;
            }
        }
    }
    out.emit();
    out.check()?;
    let records = std::mem::take(&mut *kept.lock().unwrap());
    Ok((records, end))
}

/// Deals splits out to `n` readers, one by one.
pub fn deal<S>(splits: Vec<S>, n: usize) -> Vec<Vec<S>> {
    let mut hands: Vec<Vec<S>> = (0..n).map(|_| Vec::new()).collect();
    splits.into_iter().enumerate().for_each(|(i, s)| hands[i % n].push(s));
    hands
}
