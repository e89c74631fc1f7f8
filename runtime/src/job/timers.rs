//! Timers of a keyed function: one per key, namespace and time; part of its keyed state, fired in the order of time.
use super::function::RuntimeContext;
use crate::checkpoint::handles::StateDescriptor;
use crate::data::{Key, hash_combine};
use crate::dataflow::Clock;
use crate::state::frozen::{EntryError, RawEntry, RestoreShard, RestoreTarget};
use crate::state::snapshot::FrozenTable;
use crate::state::store::{FixedShare, StateStore};
use crate::state::{KeyRef, KeyedTable, MapState};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;

/// Which time a timer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeDomain {
    /// The watermark.
    Event,
    /// The clock of the machine.
    Processing,
}

/// A timer that fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer<N = ()> {
    pub domain: TimeDomain,
    /// The time that it was registered for; ms since the Unix epoch.
    pub timestamp: i64,
    pub namespace: N,
}

/// The timers of a function, a field of it: one of its `states`, and what its `timers` returns.
///
/// A timer is registered for the key of the record (or timer) being processed; registering it twice is the same as once. An
/// event-time timer fires when the watermark reaches its time; one that lies in the past already, with the next watermark.
/// A processing-time timer fires when the clock reaches its time; one in the past, at once. Timers registered while others
/// fire are fired in the same go if they are due, with one exception: at the end of the input (watermark `i64::MAX`) only
/// those fire that were registered before it, and later ones are dropped, so a timer that renews itself comes to an end.
pub struct Timers<K, N = ()> {
    /// Per key: domain, time, namespace. What snapshots hold, and what decides whether a timer is still there.
    table: MapState<K, (bool, i64, N), ()>,
    event: Queue<K, N>,
    processing: Queue<K, N>,
    watermark: i64,
    /// Set while the end of the input fires what was registered before it.
    last_of_all: Option<u64>,
    clock: Clock,
    /// A store keeps the function's other states: it wants to know early which timers fire. And how many it knows of.
    stored: Option<usize>,
    memory: Option<TimerMemory>,
}

/// The memory that timers take beside a store.
struct TimerMemory {
    share: FixedShare,
    /// Bytes that a key, or a namespace, has besides its own size, on average; measured when there were so many timers.
    heap: usize,
    measured: usize,
}

/// Entries by time. An entry whose timer was deleted stays until its time comes, or until they are many.
struct Queue<K, N> {
    heap: BinaryHeap<Entry<K, N>>,
    /// Timers in the table; the others in the heap are stale.
    live: usize,
    /// Counts registrations: timers of the same time fire in their order.
    sequence: u64,
}

struct Entry<K, N> {
    timestamp: i64,
    sequence: u64,
    hash: u64,
    key: K,
    namespace: N,
}

impl<K, N> Entry<K, N> {
    fn rank(&self) -> (i64, u64) {
        (self.timestamp, self.sequence)
    }
}
impl<K, N> PartialEq for Entry<K, N> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}
impl<K, N> Eq for Entry<K, N> {}
impl<K, N> PartialOrd for Entry<K, N> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<K, N> Ord for Entry<K, N> {
    /// The earliest is the greatest: the heap gives out the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.rank().cmp(&self.rank())
    }
}

/// Stale entries that a heap may hold beside as many as there are timers.
const STALE: usize = 1024;

/// Timers that are encoded to know how large they are.
const SAMPLE: usize = 64;

/// Timers whose keys a store is asked for at once.
const AHEAD: usize = 512;

impl<K: Key, N: Key> Queue<K, N> {
    fn new() -> Self {
        Self { heap: BinaryHeap::new(), live: 0, sequence: 0 }
    }

    fn push(&mut self, hash: u64, key: K, timestamp: i64, namespace: N) {
        self.live += 1;
        self.sequence += 1;
        self.heap.push(Entry { timestamp, sequence: self.sequence, hash, key, namespace });
    }

    /// Keys of some entries that are due, up to [`AHEAD`].
    fn due(&self, until: i64) -> Vec<(u64, K)> {
        let all = self.heap.as_slice();
        // an entry's children in the heap are not earlier than it
        let (mut at, mut keys) = (vec![0], Vec::new());
        let mut turn = 0;
        while let Some(&i) = at.get(turn)
            && keys.len() < AHEAD
        {
            turn += 1;
            if let Some(e) = all.get(i).filter(|e| e.timestamp <= until) {
                keys.push((e.hash, e.key.clone()));
                at.extend([2 * i + 1, 2 * i + 2]);
            }
        }
        keys
    }

    /// Throws stale entries out when they are many.
    fn tidy(&mut self, table: &MapState<K, (bool, i64, N), ()>, processing: bool) {
        if self.heap.len() <= 2 * self.live + STALE {
            return;
        }
        let mut all = std::mem::take(&mut self.heap).into_vec();
        all.retain(|e| is_there(table, processing, e));
        // a timer that was deleted and registered again is there twice; the first registration gives its place
        let of = |e: &Entry<K, N>| (e.timestamp, hash_combine(e.hash, e.namespace.key_hash()));
        all.sort_unstable_by_key(|e| (of(e), e.sequence));
        all.dedup_by(|a, b| of(a) == of(b) && a.key == b.key && a.namespace == b.namespace);
        self.heap = all.into();
    }
}

fn is_there<K: Key, N: Key>(table: &MapState<K, (bool, i64, N), ()>, processing: bool, e: &Entry<K, N>) -> bool {
    let key = KeyRef { hash: e.hash, key: &e.key };
    table.get(&key, &(processing, e.timestamp, e.namespace.clone())).is_some()
}

/// A timer that is due, with its key.
pub struct Due<K, N> {
    pub hash: u64,
    pub key: K,
    pub timer: Timer<N>,
    /// A store keeps the function's other states: the key must be made available.
    pub stored: bool,
    /// Keys of timers that are likely to fire next.
    pub next: Vec<(u64, K)>,
}

impl<K: Key, N: Key> Timers<K, N> {
    /// The name is that of a state: unique within the function.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            table: MapState::new(name),
            event: Queue::new(),
            processing: Queue::new(),
            watermark: i64::MIN,
            last_of_all: None,
            clock: Clock::system(),
            stored: None,
            memory: None,
        }
    }

    /// Event time so far (ms since the Unix epoch); `i64::MIN` before the first watermark, also after a restore.
    pub fn watermark(&self) -> i64 {
        self.watermark
    }

    /// Processing time, ms since the Unix epoch. Reads the clock.
    pub fn processing_time(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Registers a timer of this namespace. False if it was there already.
    pub fn register(&mut self, key: &KeyRef<'_, K>, domain: TimeDomain, timestamp: i64, namespace: N) -> bool {
        let processing = domain == TimeDomain::Processing;
        if self.table.put(key, (processing, timestamp, namespace.clone()), ()).is_some() {
            return false;
        }
        let queue = if processing { &mut self.processing } else { &mut self.event };
        queue.push(key.hash, key.key.clone(), timestamp, namespace);
        queue.tidy(&self.table, processing);
        true
    }

    /// Deletes a timer of this namespace. False if there is none.
    pub fn delete(&mut self, key: &KeyRef<'_, K>, domain: TimeDomain, timestamp: i64, namespace: N) -> bool {
        let processing = domain == TimeDomain::Processing;
        let removed = self.table.remove(key, &(processing, timestamp, namespace)).is_some();
        let queue = if processing { &mut self.processing } else { &mut self.event };
        queue.live -= usize::from(removed);
        removed
    }

    /// Takes over the operator's clock. Returns the name of the state.
    pub(crate) fn opened(&mut self, cx: &RuntimeContext) -> String {
        self.clock = cx.clock.clone();
        self.descriptor().name.clone()
    }

    /// Event time has come so far: [`Self::pop_event`] gives what is due then.
    pub(crate) fn advance(&mut self, watermark: i64) {
        self.watermark = self.watermark.max(watermark);
        self.last_of_all = (watermark == i64::MAX).then_some(self.event.sequence);
    }

    /// Takes the earliest event-time timer that is due.
    pub(crate) fn pop_event(&mut self) -> Option<Due<K, N>> {
        loop {
            let due = Self::pop(&mut self.event, &mut self.table, &mut self.stored, false, self.watermark)?;
            if self.last_of_all.is_none_or(|last| due.0 <= last) {
                return Some(due.1);
            }
        }
    }

    /// Takes the earliest processing-time timer that is due at `now` (ms since the Unix epoch).
    pub(crate) fn pop_processing(&mut self, now: i64) -> Option<Due<K, N>> {
        Self::pop(&mut self.processing, &mut self.table, &mut self.stored, true, now).map(|due| due.1)
    }

    /// The time of the earliest processing-time timer. It may have been deleted.
    pub(crate) fn next_processing_time(&self) -> Option<i64> {
        self.processing.heap.peek().map(|e| e.timestamp)
    }

    fn pop(
        queue: &mut Queue<K, N>,
        table: &mut MapState<K, (bool, i64, N), ()>,
        stored: &mut Option<usize>,
        processing: bool,
        until: i64,
    ) -> Option<(u64, Due<K, N>)> {
        while queue.heap.peek()?.timestamp <= until {
            let e = queue.heap.pop()?;
            let key = KeyRef { hash: e.hash, key: &e.key };
            if table.remove(&key, &(processing, e.timestamp, e.namespace.clone())).is_some() {
                queue.live -= 1;
                let domain = if processing { TimeDomain::Processing } else { TimeDomain::Event };
                let timer = Timer { domain, timestamp: e.timestamp, namespace: e.namespace };
                let mut next = Vec::new();
                if let Some(known) = stored {
                    if *known == 0 {
                        next = queue.due(until);
                    }
                    *known = known.checked_sub(1).unwrap_or(next.len());
                }
                return Some((e.sequence, Due { hash: e.hash, key: e.key, timer, stored: stored.is_some(), next }));
            }
        }
        None
    }
}

impl<K: Key, N: Key> Timers<K, N> {
    /// Says how much memory they take.
    fn account(&mut self) -> crate::error::Result<()> {
        let Self { table, event, processing, memory: Some(memory), .. } = self else { return Ok(()) };
        let entries = event.heap.len() + processing.heap.len();
        if entries > 2 * memory.measured {
            let mut bytes = Vec::new();
            let sample = event.heap.as_slice().iter().chain(processing.heap.as_slice()).take(SAMPLE);
            let n = sample.map(|e| (e.key.encode(&mut bytes), e.namespace.encode(&mut bytes))).count();
            let on_heap = std::mem::needs_drop::<(K, N)>();
            memory.heap = if on_heap { bytes.len() * 5 / 4 / n.max(1) + 16 } else { 0 };
            memory.measured = entries;
        }
        // a vector that grows by doubling; a small map for each key, half full
        let each = size_of::<Entry<K, N>>() * 3 / 2 + size_of::<(bool, i64, N)>() * 2 + 2 * memory.heap;
        let of_key = size_of::<(K, [usize; 4], u32)>() * 3 / 2 + 64 + memory.heap;
        memory.share.set(entries * each + table.len() * of_key)
    }
}

impl<K: Key> Timers<K> {
    /// Registers an event-time timer; ms since the Unix epoch. False if it was there already.
    pub fn register_event_time(&mut self, key: &KeyRef<'_, K>, timestamp: i64) -> bool {
        self.register(key, TimeDomain::Event, timestamp, ())
    }
    /// Deletes an event-time timer. False if there is none.
    pub fn delete_event_time(&mut self, key: &KeyRef<'_, K>, timestamp: i64) -> bool {
        self.delete(key, TimeDomain::Event, timestamp, ())
    }
    /// Registers a processing-time timer; ms since the Unix epoch. False if it was there already.
    pub fn register_processing_time(&mut self, key: &KeyRef<'_, K>, timestamp: i64) -> bool {
        self.register(key, TimeDomain::Processing, timestamp, ())
    }
    /// Deletes a processing-time timer. False if there is none.
    pub fn delete_processing_time(&mut self, key: &KeyRef<'_, K>, timestamp: i64) -> bool {
        self.delete(key, TimeDomain::Processing, timestamp, ())
    }
}

impl<K: Key, N: Key> KeyedTable<K> for Timers<K, N> {
    fn descriptor(&self) -> &StateDescriptor {
        self.table.descriptor()
    }
    fn freeze(&mut self) -> Box<dyn FrozenTable> {
        self.table.freeze()
    }
    fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError> {
        self.table.restore(target, entry)
    }
    fn shards(&self, groups: &Range<u32>, max_parallelism: u32, least: usize) -> Vec<Box<dyn RestoreShard>> {
        self.table.shards(groups, max_parallelism, least)
    }
    fn adopt(&mut self, shards: Vec<Box<dyn RestoreShard>>) {
        self.table.adopt(shards);
    }
    /// They stay in memory, in the order of time.
    fn attach(&mut self, store: &Arc<dyn StateStore>, _: bool) -> crate::error::Result<bool> {
        self.stored = Some(0);
        let share = FixedShare::new(&**store, format!("the timers {:?}", self.descriptor().name));
        self.memory = Some(TimerMemory { share, heap: 0, measured: 0 });
        Ok(false)
    }
    fn settle(&mut self) -> crate::error::Result<()> {
        match &self.memory {
            Some(_) => self.account(),
            None => Ok(()),
        }
    }
    fn restored(&mut self) {
        // the table has no order
        for (key, timers) in self.table.all() {
            let hash = key.key_hash();
            for ((processing, timestamp, namespace), ()) in timers.iter() {
                let queue = if *processing { &mut self.processing } else { &mut self.event };
                queue.push(hash, key.clone(), *timestamp, namespace.clone());
            }
        }
    }
    fn len(&self) -> usize {
        self.table.len()
    }
    fn clear_all(&mut self) {
        self.table.clear_all();
        self.event = Queue::new();
        self.processing = Queue::new();
    }
}

#[cfg(test)]
mod tests;
