//! One number for each key group: what an operator knows that is not about a key.
use crate::checkpoint::handles::{StateDescriptor, StateKind};
use crate::data::{Data, Key, Type};
use crate::error::Result;
use crate::graph::key_group;
use crate::state::file::BlockWriter;
use crate::state::frozen::{Change, EntryError, RawEntry, RestoreTarget};
use crate::state::handles::KeyedTable;
use crate::state::snapshot::{EntryVisitor, FrozenRun, FrozenTable};
use crate::state::table::History;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// One number for each key group of a subtask: what an operator knows that is not about a key but must be there again after
/// a restore at any parallelism, such as how far time had come. While the operator runs all key groups have the same.
pub struct KeyGroupMark {
    descriptor: Arc<StateDescriptor>,
    owned: Range<u32>,
    mark: Option<i64>,
    /// From before the restore.
    restored: BTreeMap<u32, i64>,
    history: History,
    /// The mark at the last freeze, and the epoch in which it became that.
    frozen: Option<(Option<i64>, u32)>,
}

impl KeyGroupMark {
    pub fn new(name: impl Into<String>) -> Self {
        let descriptor =
            StateDescriptor { name: name.into(), kind: StateKind::KeyGroup, key: Type::U32, value: Type::I64 };
        Self {
            descriptor: Arc::new(descriptor),
            owned: 0..0,
            mark: None,
            restored: BTreeMap::new(),
            history: History::default(),
            frozen: None,
        }
    }
    /// Says which key groups the subtask owns; returns what was restored for them. Until it is set again, the mark is the
    /// least of these.
    pub fn own(&mut self, key_groups: Range<u32>, max_parallelism: u32) -> RestoredMarks {
        let by_group = self.restored.clone();
        let mut all = key_groups.clone().map(|g| by_group.get(&g).copied().unwrap_or(i64::MIN));
        let first = all.next().unwrap_or(i64::MIN);
        let (least, most) = all.fold((first, first), |(a, b), m| (a.min(m), b.max(m)));
        self.mark = Some(least).filter(|&m| m > i64::MIN);
        self.owned = key_groups;
        RestoredMarks { least, most, max_parallelism, by_group }
    }
    pub fn get(&self) -> Option<i64> {
        self.mark
    }
    /// None: there is none any more for any key group, whatever was restored.
    pub fn set(&mut self, mark: Option<i64>) {
        if mark.is_none() && !self.restored.is_empty() {
            self.restored.clear();
            // there may have been none before, either, because some key groups had none; the next changes tell of the others
            self.frozen = None;
        }
        self.mark = mark;
    }
}

/// The marks that the key groups of a subtask had in the subtasks before; `i64::MIN` where there was none.
#[derive(Debug, Clone)]
pub struct RestoredMarks {
    pub least: i64,
    pub most: i64,
    max_parallelism: u32,
    by_group: BTreeMap<u32, i64>,
}

impl Default for RestoredMarks {
    fn default() -> Self {
        Self { least: i64::MIN, most: i64::MIN, max_parallelism: 1, by_group: BTreeMap::new() }
    }
}

impl RestoredMarks {
    /// The mark of the key group of a key with this hash.
    pub fn of(&self, hash: u64) -> i64 {
        self.by_group.get(&key_group(hash, self.max_parallelism)).copied().unwrap_or(i64::MIN)
    }
    /// Some key group was further than `now` before the restore.
    #[inline]
    pub fn is_ahead(&self, now: i64) -> bool {
        now < self.most
    }
    /// How far time has come for a key with this hash, where it has come to `now` in the subtask: what fired for the key before
    /// the restore has fired.
    #[inline]
    pub fn now_of(&self, hash: u64, now: i64) -> i64 {
        if self.is_ahead(now) { now.max(self.of(hash)) } else { now }
    }
}

impl<K: Key> KeyedTable<K> for KeyGroupMark {
    fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }
    fn freeze(&mut self) -> Box<dyn FrozenTable> {
        // one that was ahead before a restore stays ahead until the others have come as far, also where some had none and so
        // the subtask has none yet
        let of = |group| self.mark.max(self.restored.get(&group).copied());
        let marks = self.owned.clone().filter_map(|group| Some((group, of(group)?))).collect();
        let (descriptor, history) = (self.descriptor.clone(), self.history.clone());
        self.history.epoch += 1;
        let since = self.frozen.filter(|f| f.0 == self.mark).map_or(history.epoch, |f| f.1);
        self.frozen = Some((self.mark, since));
        let marks = FrozenMarks { descriptor, marks, history, since, owned: self.owned.clone() };
        Box::new(Unwritten(marks, false))
    }
    fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError> {
        let (mut key, mut value) = (entry.key, entry.value);
        let group = u32::decode(&mut key).map_err(EntryError::Key)?;
        if !target.block.contains(&group) {
            return Err(EntryError::Group(group));
        }
        if !target.owned.contains(&group) {
            return Ok(false);
        }
        let mark = match target.change {
            Change::Removed => None,
            Change::New | Change::Changed => Some(i64::decode(&mut value).map_err(EntryError::Value)?),
        };
        if !key.is_empty() || !value.is_empty() {
            return Err(EntryError::TooLong);
        }
        let before = match mark {
            Some(mark) => self.restored.insert(group, mark),
            None => self.restored.remove(&group),
        };
        if before.is_some() && target.change == Change::New { Err(EntryError::Twice) } else { Ok(true) }
    }
    fn len(&self) -> usize {
        if self.mark.is_some() { self.owned.len() } else { 0 }
    }
    fn clear_all(&mut self) {
        self.mark = None;
        self.restored.clear();
    }
}

struct FrozenMarks {
    descriptor: Arc<StateDescriptor>,
    /// Of all key groups of the subtask; after a restore, until it is set, of those that had one.
    marks: Vec<(u32, i64)>,
    history: History,
    /// They are so since this epoch.
    since: u32,
    owned: Range<u32>,
}

/// [`FrozenMarks`], which are one run.
struct Unwritten(FrozenMarks, bool);

impl FrozenTable for Unwritten {
    fn descriptor(&self) -> &StateDescriptor {
        &self.0.descriptor
    }
    fn entries(&self) -> u64 {
        self.0.marks.len() as u64
    }
    fn for_each(self: Box<Self>, _max_parallelism: u32, visit: &mut EntryVisitor<'_>) -> Result<()> {
        self.0.marks.iter().try_for_each(|(group, mark)| visit(*group, &group.to_le_bytes(), &mark.to_le_bytes()))
    }
    fn history(&self) -> Option<&History> {
        Some(&self.0.history)
    }
    fn take_run(&mut self, _entries: usize) -> Option<Box<dyn FrozenRun>> {
        if std::mem::replace(&mut self.1, true) {
            return None;
        }
        let FrozenMarks { marks, since, owned, .. } = &mut self.0;
        Some(Box::new(MarkRun { marks: std::mem::take(marks), since: *since, owned: owned.clone() }))
    }
}

struct MarkRun {
    marks: Vec<(u32, i64)>,
    since: u32,
    owned: Range<u32>,
}

impl FrozenRun for MarkRun {
    fn encode(self: Box<Self>, _max_parallelism: u32, since: Option<u32>, out: &mut BlockWriter<'_>) -> Result<()> {
        if since.is_some_and(|s| self.since <= s) {
            return Ok(());
        }
        let mut marks = self.marks.iter().peekable();
        for group in self.owned {
            match marks.next_if(|m| m.0 == group) {
                Some((_, mark)) => out.entry(group, &group, mark)?,
                None if since.is_some() => out.removed(group, &group),
                None => {}
            }
        }
        out.end_run()
    }
}
