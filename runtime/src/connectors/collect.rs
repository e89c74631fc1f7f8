//! A sink for tests: an in-process vector that gets each record exactly once, when the checkpoint that holds it is complete.
use super::sink::{Committable, Sink, SinkContext, SinkWriter};
use crate::data::{Data, DecodeError};
use crate::dataflow::Batch;
use crate::error::{Error, Result};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_api::ids::CheckpointId;

/// Operator, writer, attempt, subtask, checkpoint: names one pre-committed set of records for good. Clones may serve several sinks
/// of a job, and several jobs, whose attempts and checkpoints are numbered alike.
type Id = (String, u64, (u64, u32, u64));

/// Collects committed records; clones share them. Pending records travel in the snapshot, so that recovery in the same
/// process commits exactly what a file sink would.
#[derive(Debug)]
pub struct Collect<T>(Arc<Mutex<Collected<T>>>);

#[derive(Debug)]
struct Collected<T> {
    records: Vec<T>,
    done: HashSet<Id>,
}

impl<T> Clone for Collect<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Collect<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Collected { records: Vec::new(), done: HashSet::new() })))
    }
}

impl<T: Data> Collect<T> {
    pub fn new() -> Self {
        Self::default()
    }
    /// What is committed so far, in the order of the commits.
    pub fn records(&self) -> Vec<T> {
        self.lock().records.clone()
    }
    pub fn len(&self) -> usize {
        self.lock().records.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn lock(&self) -> MutexGuard<'_, Collected<T>> {
        // a panic elsewhere cannot leave a push half done
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn commit(&self, id: Id, records: impl IntoIterator<Item = T>) {
        let mut all = self.lock();
        if all.done.insert(id) {
            all.records.extend(records);
        }
    }
}

fn decode<T: Data>(mut bytes: &[u8]) -> Result<(Id, Vec<T>), DecodeError> {
    Data::decode(&mut bytes)
}

impl<T: Data> Sink<T> for Collect<T> {
    type Writer = CollectWriter<T>;

    fn recover(&self, _: &SinkContext, pending: Vec<Committable>) -> Result<()> {
        for bytes in pending {
            let (id, records) = decode(&bytes)
                .map_err(|e| Error::internal(format!("a pending commit of the collecting sink is corrupt: {e}")))?;
            self.commit(id, records);
        }
        Ok(())
    }
    fn writer(&self, cx: &SinkContext) -> Result<CollectWriter<T>> {
        let nonce = RandomState::new().hash_one(cx.attempt);
        Ok(CollectWriter { to: self.clone(), cx: cx.clone(), nonce, open: Vec::new(), pending: Vec::new() })
    }
}

/// The writer of [`Collect`].
#[derive(Debug)]
pub struct CollectWriter<T> {
    to: Collect<T>,
    cx: SinkContext,
    /// Keeps writers apart that are of the same attempt of different runs.
    nonce: u64,
    open: Vec<T>,
    pending: Vec<(Id, Vec<T>)>,
}

impl<T: Data> SinkWriter<T> for CollectWriter<T> {
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.cx.metrics.add_records_out(batch.len() as u64);
        self.open.append(&mut batch.records);
        batch.clear();
        Ok(())
    }
    fn prepare_commit(&mut self, checkpoint: CheckpointId) -> Result<Vec<Committable>> {
        if !self.open.is_empty() {
            let SinkContext { operator, attempt, subtask, .. } = &self.cx;
            let id = (operator.clone(), self.nonce, (*attempt, *subtask, checkpoint.0));
            self.pending.push((id, std::mem::take(&mut self.open)));
        }
        let encode = |p: &(Id, Vec<T>)| {
            let mut out = Vec::new();
            p.encode(&mut out);
            out
        };
        Ok(self.pending.iter().map(encode).collect())
    }
    fn commit(&mut self, checkpoint: CheckpointId) -> Result<()> {
        for (id, records) in self.pending.extract_if(.., |(id, _)| id.2.2 <= checkpoint.0) {
            self.to.commit(id, records);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::testing::sink_cx;

    fn write(w: &mut CollectWriter<u64>, records: &[u64]) {
        w.write(&mut Batch { records: records.to_vec(), ..Batch::default() }).unwrap();
    }

    #[test]
    fn records_appear_with_their_checkpoint_and_recovery_commits_once() {
        let sink = Collect::new();
        let mut w = sink.writer(&sink_cx(0, 1, 1)).unwrap();
        write(&mut w, &[1, 2]);
        assert_eq!(w.prepare_commit(CheckpointId(1)).unwrap().len(), 1);
        write(&mut w, &[3]);
        assert!(sink.is_empty());
        w.commit(CheckpointId(1)).unwrap();
        assert_eq!(sink.records(), [1, 2]);
        // checkpoint 2 is aborted: its records go with 3, which completes, but nobody hears of it
        w.prepare_commit(CheckpointId(2)).unwrap();
        write(&mut w, &[4]);
        let pending = w.prepare_commit(CheckpointId(3)).unwrap();
        write(&mut w, &[5]);
        drop(w);
        sink.recover(&sink_cx(0, 1, 2), pending.clone()).unwrap();
        sink.recover(&sink_cx(0, 1, 3), pending).unwrap();
        assert_eq!(sink.records(), [1, 2, 3, 4]);
        assert!(sink.recover(&sink_cx(0, 1, 4), vec![vec![0xff; 3]]).unwrap_err().message.contains("corrupt"));
    }
    #[test]
    fn clones_serve_several_sinks_of_a_job_and_several_runs() {
        let sink = Collect::new();
        let other = SinkContext { operator: "other".into(), ..sink_cx(0, 1, 1) };
        // the last one is that of another run
        for (i, cx) in [sink_cx(0, 1, 1), other, sink_cx(0, 1, 1)].iter().enumerate() {
            let mut w = sink.clone().writer(cx).unwrap();
            write(&mut w, &[i as u64]);
            let pending = w.prepare_commit(CheckpointId(1)).unwrap();
            w.commit(CheckpointId(1)).unwrap();
            sink.recover(cx, pending).unwrap();
        }
        assert_eq!(sink.records(), [0, 1, 2]);
    }
}
