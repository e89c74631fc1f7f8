//! The least that a handwritten loop must do for the same jobs: what the engine's numbers are divided by.
//!
//! The generator ([`mix`], [`pick`]) is part of the definition of the jobs: loops and jobs use the same one, so that their
//! counts and sums can be compared.
use std::collections::VecDeque;
use std::fs::File;
use std::hash::BuildHasher as _;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::mpsc::{self, TrySendError};
use std::time::Instant;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::outcome::Outcome;

/// Splitmix64 of a sequence number.
#[inline(always)]
pub fn mix(i: u64) -> u64 {
    let mut z = i.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x0123_4567);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// One of `keys` by a mixed number.
#[inline(always)]
pub fn pick(mixed: u64, keys: u64) -> u64 {
    ((mixed >> 32) * keys) >> 32
}

/// 1 to 64.
#[inline(always)]
pub fn money(mixed: u64) -> i64 {
    (mixed & 63) as i64 + 1
}

pub fn titles(keys: u64) -> Vec<String> {
    (0..keys).map(|i| format!("video-{i}")).collect()
}

/// Counts the running sums handed to the sink after each record, and folds them.
#[derive(Default)]
struct Sink {
    count: u64,
    acc: i64,
}

impl Sink {
    #[inline(always)]
    fn take(&mut self, sum: i64) {
        self.count += 1;
        self.acc ^= sum;
    }
    fn outcome(self, started: Instant) -> Outcome {
        Outcome::new(self.count, started.elapsed()).acc(self.acc)
    }
}

/// String keys, one thread.
pub fn reduce_str(n: u64, keys: u64) -> Outcome {
    let titles = titles(keys);
    let started = Instant::now();
    let mut sums: HashMap<&str, i64, RandomState> = HashMap::default();
    let mut sink = Sink::default();
    for i in 0..n {
        let mixed = mix(i);
        let sum = sums.entry(titles[pick(mixed, keys) as usize].as_str()).or_insert(0);
        *sum += money(mixed);
        sink.take(*sum);
    }
    sink.outcome(started)
}

/// Integer keys, one thread.
pub fn reduce_int(n: u64, keys: u64) -> Outcome {
    let started = Instant::now();
    let mut sums: HashMap<u64, i64, RandomState> = HashMap::default();
    let mut sink = Sink::default();
    for i in 0..n {
        let mixed = mix(i);
        let sum = sums.entry(pick(mixed, keys)).or_insert(0);
        *sum += money(mixed);
        sink.take(*sum);
    }
    sink.outcome(started)
}

/// Encodes into buffers of 32 KiB (length, bytes, money), decodes in the same thread, then reduces.
pub fn reduce_ser(n: u64, keys: u64) -> Outcome {
    const BUFFER: usize = 32 << 10;
    let titles = titles(keys);
    let started = Instant::now();
    let mut sums: HashMap<Box<str>, i64, RandomState> = HashMap::default();
    let mut sink = Sink::default();
    let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER + 1024);
    let mut i = 0;
    while i < n {
        buffer.clear();
        while i < n && buffer.len() < BUFFER {
            let mixed = mix(i);
            i += 1;
            let title = titles[pick(mixed, keys) as usize].as_bytes();
            buffer.push(title.len() as u8);
            buffer.extend_from_slice(title);
            buffer.extend_from_slice(&money(mixed).to_le_bytes());
        }
        let mut rest = &buffer[..];
        while let Some((&len, tail)) = rest.split_first() {
            let (title, tail) = tail.split_at(usize::from(len));
            let Some((money, tail)) = tail.split_first_chunk() else { break };
            rest = tail;
            let (title, money) = (std::str::from_utf8(title).unwrap_or_default(), i64::from_le_bytes(*money));
            let sum = match sums.get_mut(title) {
                Some(sum) => {
                    *sum += money;
                    *sum
                }
                None => {
                    sums.insert(title.into(), money);
                    money
                }
            };
            sink.take(sum);
        }
    }
    sink.outcome(started)
}

#[derive(Clone, Copy)]
struct Order<'a> {
    title: &'a str,
    money: i64,
}

/// One of the two threads of [`reduce_str_2`].
struct Half<'a> {
    sums: HashMap<&'a str, i64, RandomState>,
    sink: Sink,
}

impl<'a> Half<'a> {
    #[inline(always)]
    fn take(&mut self, order: Order<'a>) {
        let sum = self.sums.entry(order.title).or_insert(0);
        *sum += order.money;
        self.sink.take(*sum);
    }
    fn take_waiting(&mut self, receiver: &mpsc::Receiver<Vec<Order<'a>>>) {
        while let Ok(batch) = receiver.try_recv() {
            batch.into_iter().for_each(|order| self.take(order));
        }
    }
}

/// The work of one of two threads; its results.
fn half_of<'a>(
    n: u64,
    keys: u64,
    me: u64,
    titles: &'a [String],
    hasher: &RandomState,
    sender: mpsc::SyncSender<Vec<Order<'a>>>,
    receiver: mpsc::Receiver<Vec<Order<'a>>>,
) -> u64 {
    const BATCH: usize = 1024;
    let mut half = Half { sums: HashMap::with_hasher(hasher.clone()), sink: Sink::default() };
    let mut out = Vec::with_capacity(BATCH);
    let (from, to) = if me == 0 { (0, n / 2) } else { (n / 2, n) };
    for i in from..to {
        let mixed = mix(i);
        let order = Order { title: titles[pick(mixed, keys) as usize].as_str(), money: money(mixed) };
        if (hasher.hash_one(order.title) >> 40) & 1 == me {
            half.take(order);
            continue;
        }
        out.push(order);
        if out.len() == BATCH {
            let mut full = std::mem::replace(&mut out, Vec::with_capacity(BATCH));
            while let Err(TrySendError::Full(back)) = sender.try_send(full) {
                full = back;
                half.take_waiting(&receiver);
                std::thread::yield_now();
            }
            half.take_waiting(&receiver);
        }
    }
    let _ = sender.send(out);
    drop(sender);
    while let Ok(batch) = receiver.recv() {
        batch.into_iter().for_each(|order| half.take(order));
    }
    half.sink.count
}

/// String keys, two threads: each generates half of the records, keeps those of its keys and ships the others in batches.
pub fn reduce_str_2(n: u64, keys: u64) -> Outcome {
    let titles = titles(keys);
    let hasher = RandomState::default();
    let started = Instant::now();
    let (to_first, first) = mpsc::sync_channel::<Vec<Order<'_>>>(64);
    let (to_second, second) = mpsc::sync_channel::<Vec<Order<'_>>>(64);
    let half = |me: u64, sender, receiver| half_of(n, keys, me, &titles, &hasher, sender, receiver);
    let count = std::thread::scope(|scope| {
        let half = &half;
        let threads = [scope.spawn(move || half(0, to_second, first)), scope.spawn(move || half(1, to_first, second))];
        threads.into_iter().map(|t| t.join().unwrap_or(0)).sum()
    });
    Outcome::new(count, started.elapsed())
}

/// Counts of the words of a part of a text.
#[derive(Default)]
struct Words {
    counts: HashMap<Box<[u8]>, u64, RandomState>,
    total: u64,
}

impl Words {
    fn add(&mut self, word: &[u8]) {
        if word.is_empty() {
            return;
        }
        self.total += 1;
        match self.counts.get_mut(word) {
            Some(count) => *count += 1,
            None => {
                self.counts.insert(word.into(), 1);
            }
        }
    }
    fn feed(&mut self, text: &[u8]) {
        let mut start = 0;
        for (at, &byte) in text.iter().enumerate() {
            if byte == b' ' || byte == b'\n' {
                self.add(&text[start..at]);
                start = at + 1;
            }
        }
        self.add(&text[start..]);
    }
}

/// Words of the lines that begin in `from..to` of the file.
fn words_of(path: &Path, from: u64, to: u64) -> io::Result<Words> {
    let mut file = File::open(path)?;
    let mut words = Words::default();
    // a line belongs to the part that its first byte lies in: skip the one that began before
    let (mut at, mut skip) = (from.saturating_sub(1), from > 0);
    file.seek(SeekFrom::Start(at))?;
    let mut buffer = vec![0; 1 << 20];
    let mut have = 0;
    loop {
        let read = file.read(&mut buffer[have..])?;
        let len = have + read;
        if len == 0 {
            return Ok(words);
        }
        let text = &buffer[..len];
        let mut start = 0;
        if skip {
            match memchr::memchr(b'\n', text) {
                Some(newline) => (start, skip) = (newline + 1, false),
                None if read == 0 => return Ok(words),
                None => {
                    (at, have) = (at + len as u64, 0);
                    continue;
                }
            }
        }
        let mut end = match memchr::memrchr(b'\n', text) {
            Some(newline) if read > 0 => newline + 1,
            None if read > 0 => {
                have = len;
                continue;
            }
            _ => len,
        };
        let mut last = read == 0;
        let stop = (to - 1).saturating_sub(at) as usize;
        if stop < end
            && let Some(newline) = memchr::memchr(b'\n', &text[stop..end])
        {
            (end, last) = (stop + newline + 1, true);
        }
        words.feed(&text[start.min(end)..end]);
        if last {
            return Ok(words);
        }
        buffer.copy_within(end..len, 0);
        (at, have) = (at + end as u64, len - end);
    }
}

/// Word count: reads of 1 MiB, split at spaces and newlines, running count per word; several threads split the file.
pub fn word_count(path: &Path, threads: u64) -> io::Result<Outcome> {
    let size = std::fs::metadata(path)?.len();
    let started = Instant::now();
    let bound = |i: u64| if i == threads { size } else { size / threads * i };
    let parts: Vec<io::Result<Words>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads).map(|i| scope.spawn(move || words_of(path, bound(i), bound(i + 1)))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))).collect()
    });
    let (mut total, mut all) = (0, HashMap::<Box<[u8]>, u64, RandomState>::default());
    for part in parts {
        let part = part?;
        total += part.total;
        for (word, count) in part.counts {
            *all.entry(word).or_insert(0) += count;
        }
    }
    Ok(Outcome::new(total, started.elapsed()).distinct(all.len() as u64))
}

/// Records of the windows' job per second of event time.
pub const PER_SECOND: u64 = 100_000;

/// Event time of a record of the windows' job, in ms: up to 2,047 ms out of order.
#[inline(always)]
pub fn event_time(i: u64, mixed: u64) -> i64 {
    10_000 + (i * 1000 / PER_SECOND) as i64 - (mixed & 2047) as i64
}

/// Tumbling event-time windows of 10 s, out-of-orderness 2.5 s, count per key: one table per open window.
pub fn windows(n: u64, keys: u64) -> Outcome {
    const SIZE: i64 = 10_000;
    let started = Instant::now();
    let mut open: VecDeque<(i64, HashMap<u64, u64, RandomState>)> = VecDeque::new();
    let (mut newest, mut watermark) = (i64::MIN, i64::MIN);
    let (mut fired, mut counted, mut late) = (0, 0, 0u64);
    let mut fire = |counts: HashMap<u64, u64, RandomState>| {
        for (_, count) in counts {
            fired += 1;
            counted += count;
        }
    };
    for i in 0..n {
        let mixed = mix(i);
        let time = event_time(i, mixed);
        newest = newest.max(time);
        let start = time - time.rem_euclid(SIZE);
        if start + SIZE - 1 <= watermark {
            late += 1;
        } else {
            let at = open.iter().position(|w| w.0 == start).unwrap_or_else(|| {
                open.push_back((start, HashMap::default()));
                open.len() - 1
            });
            *open[at].1.entry(pick(mixed, keys)).or_insert(0) += 1;
        }
        if i & 255 == 0 {
            watermark = newest - 2500 - 1;
            while let Some(at) = open.iter().position(|w| w.0 + SIZE - 1 <= watermark) {
                open.remove(at).into_iter().for_each(|w| fire(w.1));
            }
        }
    }
    open.into_iter().for_each(|w| fire(w.1));
    Outcome::new(counted + late, started.elapsed()).distinct(fired)
}
