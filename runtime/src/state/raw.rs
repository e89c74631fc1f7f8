//! Raw state: bytes that an operator writes into its checkpoints in a format of its own.
use super::frozen::{Change, EntryError, RawEntry, RestoreTarget};
use super::handles::KeyedTable;
use super::snapshot::{EntryVisitor, FrozenTable};
use crate::checkpoint::handles::{StateDescriptor, StateKind};
use crate::data::{Data, Key, Type};
use crate::error::{Error, ErrorCode, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of one entry in snapshot files.
const CHUNK: usize = 64 << 10;

/// Bytes in a format of the operator's own, for what does not fit the typed states: the image of a library's data
/// structure, the buffers of a foreign encoder. With or without keys; sources and sinks may have some, too.
///
/// It consists of *partitions*, each a stream of bytes that is never cut. At an unchanged parallelism every subtask finds its
/// partitions again, in their order; at another one they are dealt out whole, so write as many as there may be subtasks one
/// day, or more. In an operator whose data belongs to keys, write a partition for each key group instead
/// ([`Self::key_group`]): it goes where the keys go.
///
/// It holds what it held until it is written anew: restored before `open` (for a source or sink: before the first record),
/// written into each checkpoint whole, as it is behind the function's `snapshot`. It lies in the state files, not in the
/// manifest, so megabytes are fine; what large state changes little by little belongs into a keyed state.
///
/// ```
/// use std::io::Write;
/// use weir::prelude::*;
/// use weir::testing::OperatorHarness;
///
/// /// Distinct words, kept in memory in its own way.
/// struct Distinct {
///     seen: std::collections::BTreeSet<String>,
///     image: RawState,
/// }
///
/// impl ProcessFunction for Distinct {
///     type In = String;
///     type Out = String;
///     fn raw_states(&mut self) -> Vec<&mut RawState> {
///         vec![&mut self.image]
///     }
///     fn open(&mut self, _: &RuntimeContext) -> Result<()> {
///         for partition in self.image.partitions() {
///             self.seen.extend(String::from_utf8_lossy(partition).lines().map(str::to_owned));
///         }
///         Ok(())
///     }
///     fn process(&mut self, word: String, out: &mut Output<String>) -> Result<()> {
///         if self.seen.insert(word.clone()) {
///             out.push(word);
///         }
///         Ok(())
///     }
///     fn snapshot(&mut self) -> Result<()> {
///         self.image.clear();
///         let partition = self.image.add_partition(); // an io::Write
///         self.seen.iter().try_for_each(|w| writeln!(partition, "{w}")).map_err(|e| Error::internal(e.to_string()))
///     }
/// }
///
/// let mut h = OperatorHarness::new(|words: Stream<String>| {
///     words.process(|| Distinct { seen: Default::default(), image: RawState::new("image") }).name("distinct")
/// })?;
/// h.push_all(["a".into(), "b".into(), "a".into()])?;
/// assert_eq!(h.output()?, ["a", "b"]);
/// let snapshot = h.snapshot()?;
/// let mut h = h.restore(&snapshot, 1)?;
/// h.push_all(["b".into(), "c".into()])?;
/// assert_eq!(h.output()?, ["c"]);
/// # Ok::<(), weir::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RawState {
    descriptor: Arc<StateDescriptor>,
    owned: Range<u32>,
    /// Of the subtask.
    partitions: Vec<Arc<Vec<u8>>>,
    /// Of key groups.
    groups: BTreeMap<u32, Arc<Vec<u8>>>,
    /// What is being restored.
    restoring: BTreeMap<Place, Vec<u8>>,
}

/// Key group, partition and chunk: the key of an entry in snapshot files. Partition 0 is that of the key group itself.
type Place = (u32, u32, u32);

impl RawState {
    /// The name must be unique among the states of the operator.
    pub fn new(name: impl Into<String>) -> Self {
        let descriptor =
            StateDescriptor { name: name.into(), kind: StateKind::Raw, key: Place::type_of(), value: Type::Bytes };
        Self {
            descriptor: Arc::new(descriptor),
            owned: 0..0,
            partitions: Vec::new(),
            groups: BTreeMap::new(),
            restoring: BTreeMap::new(),
        }
    }
    /// The subtask's partitions, without those of key groups.
    pub fn partitions(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.partitions.iter().map(|p| p.as_slice())
    }
    /// Adds an empty partition, to be written to.
    pub fn add_partition(&mut self) -> &mut Vec<u8> {
        let at = self.partitions.len();
        self.partitions.push(Arc::default());
        Arc::make_mut(&mut self.partitions[at])
    }
    /// The key groups whose keys come to this subtask; a key's is [`key_group`](crate::graph::key_group()) of its hash.
    pub fn key_groups(&self) -> Range<u32> {
        self.owned.clone()
    }
    /// The partition of a key group, if there is one.
    pub fn get_key_group(&self, key_group: u32) -> Option<&[u8]> {
        self.groups.get(&key_group).map(|p| p.as_slice())
    }
    /// The partition of a key group, to be written to; empty if there was none.
    ///
    /// # Errors
    /// The key group belongs to another subtask.
    pub fn key_group(&mut self, key_group: u32) -> Result<&mut Vec<u8>> {
        if !self.owned.contains(&key_group) {
            let m = format!(
                "raw state {:?}: key group {key_group} is not one of this subtask, which has {} to {}",
                self.descriptor.name,
                self.owned.start,
                self.owned.end.saturating_sub(1)
            );
            return Err(Error::user(ErrorCode::UserFunction, m));
        }
        Ok(Arc::make_mut(self.groups.entry(key_group).or_default()))
    }
    /// Drops all partitions.
    pub fn clear(&mut self) {
        self.partitions.clear();
        self.groups.clear();
    }
    pub fn name(&self) -> &str {
        &self.descriptor.name
    }
}

impl<K: Key> KeyedTable<K> for RawState {
    fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }
    fn own(&mut self, key_groups: &Range<u32>) {
        self.owned = key_groups.clone();
    }
    fn freeze(&mut self) -> Box<dyn FrozenTable> {
        // dealt out over the subtask's key groups, so that a rescale deals them out over the new subtasks
        let (start, groups, n) = (self.owned.start, self.owned.len() as u64, self.partitions.len().max(1) as u64);
        let group = |i: u64| start + (i * groups / n) as u32;
        let dealt = (0u32..).zip(&self.partitions).map(|(i, p)| (group(u64::from(i)), i + 1, p.clone()));
        let mut all: Vec<_> = dealt.chain(self.groups.iter().map(|(g, p)| (*g, 0, p.clone()))).collect();
        all.sort_unstable_by_key(|p| (p.0, p.1));
        Box::new(FrozenRaw { descriptor: self.descriptor.clone(), partitions: all })
    }
    fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError> {
        let mut key = entry.key;
        let place = Place::decode(&mut key).map_err(EntryError::Key)?;
        if !key.is_empty() {
            return Err(EntryError::TooLong);
        }
        if !target.block.contains(&place.0) {
            return Err(EntryError::Group(place.0));
        }
        if !target.owned.contains(&place.0) {
            return Ok(false);
        }
        match target.change {
            Change::Removed => Ok(self.restoring.remove(&place).is_some()),
            Change::New if self.restoring.contains_key(&place) => Err(EntryError::Twice),
            Change::New | Change::Changed => {
                self.restoring.insert(place, entry.value.to_vec());
                Ok(true)
            }
        }
    }
    fn restored(&mut self) {
        let mut dealt: Vec<((u32, u32), Vec<u8>)> = Vec::new();
        for ((group, partition, _), bytes) in std::mem::take(&mut self.restoring) {
            match dealt.last_mut().filter(|p| p.0 == (group, partition)) {
                Some((_, all)) => all.extend(bytes),
                None => dealt.push(((group, partition), bytes)),
            }
        }
        for ((group, partition), bytes) in dealt {
            match partition {
                0 => _ = self.groups.insert(group, Arc::new(bytes)),
                _ => self.partitions.push(Arc::new(bytes)),
            }
        }
    }
    fn len(&self) -> usize {
        self.partitions.len() + self.groups.len()
    }
    fn clear_all(&mut self) {
        self.clear();
        self.restoring.clear();
    }
}

struct FrozenRaw {
    descriptor: Arc<StateDescriptor>,
    /// Key group, number, bytes; in the order of these.
    partitions: Vec<(u32, u32, Arc<Vec<u8>>)>,
}

/// An empty partition is one empty chunk.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let empty = bytes.is_empty().then_some(bytes);
    (0u32..).zip(empty.into_iter().chain(bytes.chunks(CHUNK)))
}

impl FrozenTable for FrozenRaw {
    fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }
    fn entries(&self) -> u64 {
        self.partitions.iter().map(|(_, _, bytes)| chunks(bytes).count() as u64).sum()
    }
    fn for_each(self: Box<Self>, _: u32, visit: &mut EntryVisitor<'_>) -> Result<()> {
        let mut key = Vec::new();
        for (group, partition, bytes) in self.partitions {
            for (chunk, value) in chunks(&bytes) {
                key.clear();
                (group, partition, chunk).encode(&mut key);
                visit(group, &key, value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
