//! Hands the frozen parts of a barrier to the uploader; the acknowledgement goes out when the files are written.
use super::task::{TaskEvent, TaskIo};
use crate::checkpoint::handles::Barrier;
use crate::state::snapshot::SnapshotParts;
use std::time::{Duration, Instant};

/// Starts the asynchronous part of a task's snapshot; the task goes on at once.
pub fn send(io: &TaskIo, barrier: Barrier, parts: SnapshotParts, alignment: Duration, sync: Duration) {
    let (id, checkpoint, events) = (io.id, barrier.id, io.events.clone());
    let upload = io.uploader.upload(id, barrier, parts);
    let started = Instant::now();
    io.control.spawn(async move {
        let event = match upload.await {
            Ok(mut snapshot) => {
                snapshot.stats.alignment_us = alignment.as_micros() as u64;
                snapshot.stats.sync_us = sync.as_micros() as u64;
                snapshot.stats.async_us = started.elapsed().as_micros() as u64;
                TaskEvent::Snapshot { checkpoint, snapshot }
            }
            Err(reason) => TaskEvent::Declined { checkpoint, reason },
        };
        let _ = events.send((id, event));
    });
}
