//! Which subtask gets which piece of a snapshot, at any parallelism.
use crate::checkpoint::handles::{
    BROADCAST, Bytes64, ENDED, KeyedHandle, OperatorRestore, PENDING, TaskRestore, UNION,
};
use crate::checkpoint::manifest::{JobSpec, Manifest, OperatorManifest, OperatorSpec};
use crate::dataflow::task::TaskId;
use crate::graph::key_group_range;
use std::collections::BTreeMap;

/// By task. Every task of the job is there; a task without state has no operators.
pub type Assignment = BTreeMap<TaskId, TaskRestore>;

/// Splits a snapshot that [`super::check`] found to fit among the job's subtasks.
///
/// - Keyed state: each subtask gets the files that hold some of its key groups.
/// - List state: at an unchanged parallelism each subtask gets what it had; else the elements are dealt out in turn.
/// - Pending commits go to subtask 0, all of them.
/// - Of broadcast state, each subtask gets what one of the old ones had; of union lists, all elements.
/// - The end of an input counts as told if it was told in every subtask.
///
/// An operator that the snapshot does not know gets nothing: it starts empty. One that it knows gets an entry, even if an
/// empty one: it does not start new.
pub fn assign(m: &Manifest, spec: &JobSpec) -> Assignment {
    let mut tasks: Assignment = spec.tasks().into_iter().map(|t| (t, TaskRestore::default())).collect();
    for new in &spec.operators {
        let Some(old) = m.operators.iter().find(|o| o.name == new.name) else { continue };
        for (subtask, restore) in (0u32..).zip(operator(old, new, m.max_parallelism)) {
            if let Some(t) = tasks.get_mut(&TaskId { vertex: new.vertex, subtask }) {
                t.operators.insert(new.name.clone(), restore);
            }
        }
    }
    tasks
}

/// By subtask.
fn operator(old: &OperatorManifest, new: &OperatorSpec, max_parallelism: u32) -> Vec<OperatorRestore> {
    let mut parts = vec![OperatorRestore::default(); new.parallelism as usize];
    let handles: Vec<&KeyedHandle> = old.subtasks.iter().flat_map(|s| &s.keyed).filter(|k| k.entries > 0).collect();
    for (subtask, part) in (0u32..).zip(&mut parts) {
        let mine = key_group_range(subtask, new.parallelism, max_parallelism);
        let overlaps = |k: &&&KeyedHandle| k.key_groups.start < mine.end && mine.start < k.key_groups.end;
        part.keyed = handles.iter().filter(overlaps).map(|k| (*k).clone()).collect();
    }
    let mut names: Vec<&String> = old.subtasks.iter().flat_map(|s| s.lists.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let of = |i: usize| old.subtasks[i].lists.get(name).cloned().unwrap_or_default();
        let mut deal = |subtask: usize, elements: Vec<Bytes64>| {
            parts[subtask].lists.entry(name.clone()).or_default().extend(elements);
        };
        let all = 0..old.subtasks.len();
        if name == PENDING {
            all.for_each(|i| deal(0, of(i)));
        } else if name == BROADCAST {
            let subtasks = old.subtasks.len().max(1);
            (0..new.parallelism as usize).for_each(|i| deal(i, of(i % subtasks)));
        } else if name.starts_with(UNION) {
            let elements: Vec<Bytes64> = all.flat_map(of).collect();
            (0..new.parallelism as usize).for_each(|i| deal(i, elements.clone()));
        } else if old.parallelism == new.parallelism {
            all.for_each(|i| deal(i, of(i)));
        } else if name == ENDED {
            let told = |i: usize| of(i).first().and_then(|e| e.0.first().copied()).unwrap_or(0);
            let by_all = all.map(told).fold(u8::MAX, |a, b| a & b);
            (0..new.parallelism as usize).for_each(|i| deal(i, vec![Bytes64(vec![by_all])]));
        } else {
            let elements = all.flat_map(of);
            (0..).zip(elements).for_each(|(k, e)| deal(k % new.parallelism as usize, vec![e]));
        }
    }
    parts
}
