use super::*;
use crate::checkpoint::handles::StateKind;
use crate::data::{Data, HASH_VERSION, Key, State, Str};
use crate::error::{ErrorCode, Result};
use crate::graph::{key_group, key_group_range};
use crate::state::{KeyRef, KeyedTable, ListState, MapState, ReducingState, ValueState};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Debug, Clone, Default, PartialEq, State)]
pub(super) struct Legs {
    legs: u64,
    worst: Option<i32>,
    route: Vec<Str>,
}

pub(super) struct States {
    pub legs: ValueState<Str, Legs>,
    pub log: ListState<Str, i64>,
    pub by: MapState<Str, u32, Str>,
    pub sum: ReducingState<Str, i64>,
}

impl States {
    pub fn new() -> Self {
        Self {
            legs: ValueState::new("legs"),
            log: ListState::new("log"),
            by: MapState::new("by"),
            sum: ReducingState::new("sum", |a, b| *a += b),
        }
    }
    pub fn all(&mut self) -> Vec<&mut dyn KeyedTable<Str>> {
        vec![&mut self.legs, &mut self.log, &mut self.by, &mut self.sum]
    }
    pub fn record(&mut self, key: &Str, x: i64) {
        let key = KeyRef::of(key);
        let legs = self.legs.get_mut_or_default(&key);
        legs.legs += 1;
        legs.worst = legs.worst.max(Some(x as i32));
        legs.route.push(Str::from(format!("{x}")));
        match x % 5 {
            0 => self.log.clear(&key),
            1 => _ = self.by.remove(&key, &((x % 7) as u32)),
            2 => self.log.add_all(&key, [x, -x]),
            _ => self.log.add(&key, x),
        }
        if x % 5 != 1 {
            self.by.put(&key, (x % 7) as u32, Str::from(format!("by {x}")));
        }
        self.sum.add(&key, x);
        if x % 11 == 0 {
            self.sum.clear(&key);
        }
    }
    /// All there is to know about some keys, as text.
    pub fn contents(&self, keys: &[Str]) -> BTreeMap<Str, String> {
        let mut all = BTreeMap::new();
        for k in keys {
            let key = KeyRef::of(k);
            let by: BTreeMap<_, _> = self.by.iter(&key).collect();
            let text = format!("{:?} {:?} {by:?} {:?}", self.legs.get(&key), self.log.get(&key), self.sum.get(&key));
            if text != "None [] {} None" {
                all.insert(k.clone(), text);
            }
        }
        all
    }
}

pub(super) fn meta(groups: Range<u32>, max: u32) -> SnapshotMeta {
    SnapshotMeta {
        operator: "legs".into(),
        hash_version: HASH_VERSION,
        max_parallelism: max,
        key_groups: groups,
        compression: Compression::None,
        states: Vec::new(),
        changes_only: Default::default(),
    }
}

fn collect(meta: SnapshotMeta, states: &mut States, options: &WriteOptions) -> (InMemory, Written) {
    let frozen = states.all().into_iter().map(|s| s.freeze().into()).collect();
    let mut bytes = Vec::new();
    let mut chunks = 0;
    let written = write(meta, frozen, options, &mut |chunk| {
        chunks += 1;
        bytes.extend_from_slice(chunk);
        Ok(())
    })
    .unwrap();
    assert_eq!((written.size, written.crc32c), (bytes.len() as u64, crc32c::crc32c(&bytes)));
    assert!(chunks <= 6 + bytes.len() / options.chunk);
    (InMemory { name: "chk-1/legs-0".into(), bytes: bytes.into() }, written)
}

fn read(files: &[InMemory], groups: Range<u32>, max: u32) -> Result<States> {
    let mut states = States::new();
    let files: Vec<&dyn ReadAt> = files.iter().map(|f| f as &dyn ReadAt).collect();
    let chains: Vec<&Chain<'_>> = files.chunks(1).collect();
    restore("legs", &groups, max, NotDeclared::Refuse, &chains, &mut states.all())?;
    Ok(states)
}

fn small() -> impl Strategy<Value = WriteOptions> {
    (1usize..400, 1usize..2000, any::<bool>()).prop_map(|(block, chunk, zstd)| WriteOptions {
        block,
        chunk,
        compression: if zstd { Compression::Zstd } else { Compression::None },
        level: 1,
        threads: 0,
        ..WriteOptions::default()
    })
}

fn records() -> impl Strategy<Value = Vec<(u16, u16)>> {
    prop::collection::vec((0u16..120, any::<u16>()), 0..500)
}

pub(super) fn name(k: u16) -> Str {
    Str::from(format!("key-{k}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Written at one parallelism, read at another: nothing lost, nothing double, every key where it belongs. Records
    /// that come after the freeze are in the live state only.
    #[test]
    fn rescaling_keeps_every_entry(records in records(), later in records(), max in 1u32..200, old in 1u32..6, new in 1u32..6, options in small()) {
        let (old, new) = (old.min(max), new.min(max));
        let keys: Vec<Str> = (0..120).map(name).collect();
        let mut all = States::new();
        let mut tasks: Vec<States> = (0..old).map(|_| States::new()).collect();
        let owner = |k: &Str, p: u32| (0..p).find(|&s| key_group_range(s, p, max).contains(&key_group(k.key_hash(), max))).unwrap() as usize;
        for (k, x) in &records {
            all.record(&name(*k), (*x).into());
            tasks[owner(&name(*k), old)].record(&name(*k), (*x).into());
        }
        let expected = all.contents(&keys);

        let mut files = Vec::new();
        for (s, states) in tasks.iter_mut().enumerate() {
            let meta = meta(key_group_range(s as u32, old, max), max);
            let frozen: Vec<Piece> = states.all().into_iter().map(|s| s.freeze().into()).collect();
            for (k, x) in later.iter().filter(|(k, _)| owner(&name(*k), old) == s) {
                states.record(&name(*k), (*x).into());
            }
            let mut bytes = Vec::new();
            write(meta, frozen, &options, &mut |chunk| { bytes.extend_from_slice(chunk); Ok(()) }).unwrap();
            files.push(InMemory { name: format!("chk-1/legs-{s}"), bytes: bytes.into() });
        }
        for (k, x) in &later {
            all.record(&name(*k), (*x).into());
        }
        let mut live = BTreeMap::new();
        tasks.iter().for_each(|t| live.extend(t.contents(&keys)));
        prop_assert_eq!(live, all.contents(&keys));

        let mut read_back = BTreeMap::new();
        for s in 0..new {
            let groups = key_group_range(s, new, max);
            for (k, text) in read(&files, groups.clone(), max).unwrap().contents(&keys) {
                prop_assert!(groups.contains(&key_group(k.key_hash(), max)));
                prop_assert!(read_back.insert(k, text).is_none());
            }
        }
        prop_assert_eq!(read_back, expected);
    }

    /// A file that is not as it was written is refused, or (where the bytes carry nothing) reads as before.
    #[test]
    fn damage_is_noticed(records in records(), options in small(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut states = States::new();
        records.iter().for_each(|(k, x)| states.record(&name(*k), (*x).into()));
        let keys: Vec<Str> = (0..120).map(name).collect();
        let (file, _) = collect(meta(0..128, 128), &mut states, &options);
        let at = at.index(file.bytes.len());

        let mut flipped = file.bytes.to_vec();
        flipped[at] ^= 1 << bit;
        let damaged = InMemory { bytes: flipped.into(), ..file.clone() };
        let e = read(&[damaged], 0..128, 128).map(|s| s.contents(&keys));
        prop_assert!(e.is_err(), "byte {at} of {} may change unnoticed", file.bytes.len());

        let cut = InMemory { bytes: file.bytes.slice(..at), ..file.clone() };
        let e = read(&[cut], 0..128, 128).map(|s| s.contents(&keys)).unwrap_err();
        prop_assert!(e.message.contains("cut off") && e.message.contains("chk-1/legs-0"), "{e}");
    }

    #[test]
    fn foreign_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), dress in any::<bool>()) {
        if dress {
            // right magics and checksums around nonsense
            let crc = crc32c::crc32c(&bytes);
            let mut footer = (bytes.len() as u64).to_le_bytes().to_vec();
            footer.extend_from_slice(&crc.to_le_bytes());
            let check = crc32c::crc32c_append(crc32c::crc32c(&footer), &FORMAT_VERSION.to_le_bytes());
            footer.extend_from_slice(&check.to_le_bytes());
            footer.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
            footer.extend_from_slice(&format::MAGIC);
            bytes = [&format::head()[..], &bytes, &footer].concat();
        }
        let file = InMemory { name: "x".into(), bytes: bytes.into() };
        prop_assert!(SnapshotFile::open(&file).is_err());
    }
}

fn example() -> (States, InMemory) {
    let mut states = States::new();
    for i in 0..2000 {
        states.record(&name(i % 300), i.into());
    }
    let (file, written) = collect(meta(0..128, 128), &mut states, &WriteOptions { block: 2000, ..Default::default() });
    assert!(written.entries > 800);
    (states, file)
}

/// Counts what is read.
struct Counted<'a>(&'a InMemory, std::sync::atomic::AtomicU64);
impl ReadAt for Counted<'_> {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, range: Range<u64>) -> Result<bytes::Bytes> {
        self.1.fetch_add(range.end - range.start, std::sync::atomic::Ordering::Relaxed);
        self.0.read_at(range)
    }
}

#[test]
fn a_reader_fetches_the_blocks_of_its_key_groups_only() {
    let mut states = States::new();
    (0..60_000u64).for_each(|i| states.record(&Str::from(format!("k{i}")), 3));
    let (file, _) = collect(meta(0..128, 128), &mut states, &WriteOptions { block: 4000, ..Default::default() });
    assert!(file.size() > 3_000_000);
    let counted = Counted(&file, Default::default());
    let mut mine = States::new();
    restore("legs", &(32..64), 128, NotDeclared::Refuse, &[&[&counted]], &mut mine.all()).unwrap();
    let read = counted.1.into_inner();
    assert!(read < file.size() / 3 + (256 << 10), "{} of {} bytes", read, file.size());
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_taken() {
    let (mut states, file) = example();
    let files: [&Chain<'_>; 1] = [&[&file]];

    let mut other = ValueState::<Str, u64>::new("legs");
    let e = restore("legs", &(0..128), 128, NotDeclared::Drop, &files, &mut [&mut other]).unwrap_err();
    assert_eq!(e.code, ErrorCode::Incompatible);
    for part in ["\"legs\"", "chk-1/legs-0", "Legs { legs: u64, worst: Option<i32>, route: Vec<String> }", "value u64"]
    {
        assert!(e.message.contains(part), "{part}: {e}");
    }

    let mut legs = ValueState::<Str, Legs>::new("legs");
    let e = restore("legs", &(0..128), 128, NotDeclared::Refuse, &files, &mut [&mut legs]).unwrap_err();
    assert!(e.message.contains("allowNonRestoredState") && e.message.contains("\"log\""), "{e}");
    assert!(KeyedTable::is_empty(&legs));
    let restored = restore("legs", &(0..128), 128, NotDeclared::Drop, &files, &mut [&mut legs]).unwrap();
    assert_eq!(restored.dropped.into_iter().collect::<Vec<_>>(), ["by", "log", "sum"]);
    assert_eq!(KeyedTable::len(&legs), 300);

    let e = restore("other", &(0..128), 128, NotDeclared::Drop, &files, &mut states.all()).unwrap_err();
    assert!(e.message.contains("\"legs\"") && e.message.contains("\"other\""), "{e}");
    let e = restore("legs", &(0..64), 64, NotDeclared::Drop, &files, &mut states.all()).unwrap_err();
    assert!(e.message.contains("maxParallelism 128"), "{e}");

    let e = read(&[file.clone(), file], 0..128, 128).map(|_| ()).unwrap_err();
    assert!(e.message.contains("twice"), "{e}");
}

#[test]
fn messages_name_the_file_and_the_place() {
    let (_, file) = example();
    let message = |bytes: Vec<u8>| {
        let file = InMemory { name: "s3://b/chk-7/legs-0".into(), bytes: bytes.into() };
        let e = read(&[file], 0..128, 128).map(|_| ()).unwrap_err();
        assert!(e.message.contains("s3://b/chk-7/legs-0"), "{e}");
        e.message
    };
    let mut bytes = file.bytes.to_vec();
    bytes[5000] ^= 4;
    let m = message(bytes);
    assert!(
        m.contains("state \"legs\", block 4 (bytes ") && m.contains("checksum") && m.contains("another checkpoint"),
        "{m}"
    );

    let m = message(b"PAR1 not one of ours".to_vec());
    assert!(m.contains("not a snapshot file"), "{m}");

    let mut bytes = file.bytes.to_vec();
    let end = bytes.len();
    let newer = FORMAT_VERSION + 1;
    bytes[end - 12..end - 8].copy_from_slice(&newer.to_le_bytes());
    let check = crc32c::crc32c_append(crc32c::crc32c(&bytes[end - 28..end - 16]), &newer.to_le_bytes());
    bytes[end - 16..end - 12].copy_from_slice(&check.to_le_bytes());
    let m = message(bytes);
    assert!(m.contains(&format!("format version {newer}")) && m.contains("newer"), "{m}");
}

/// A block whose checksum is right but whose contents are another type's.
#[test]
fn entries_that_cannot_be_decoded_are_an_error_of_that_entry() {
    struct Lie(crate::checkpoint::handles::StateDescriptor);
    impl crate::state::snapshot::FrozenTable for Lie {
        fn descriptor(&self) -> &crate::checkpoint::handles::StateDescriptor {
            &self.0
        }
        fn entries(&self) -> u64 {
            1
        }
        fn for_each(self: Box<Self>, max: u32, visit: &mut crate::state::snapshot::EntryVisitor<'_>) -> Result<()> {
            let mut key = Vec::new();
            name(1).encode(&mut key);
            visit(key_group(name(1).key_hash(), max), &key, &[1, 2, 3])
        }
    }
    let legs = ValueState::<Str, Legs>::new("legs");
    let lie = Lie(KeyedTable::descriptor(&legs).clone());
    assert_eq!(lie.0.kind, StateKind::Value);
    let mut bytes = Vec::new();
    write(meta(0..128, 128), vec![Piece { table: Box::new(lie), since: None }], &WriteOptions::default(), &mut |c| {
        bytes.extend(c);
        Ok(())
    })
    .unwrap();
    let file = InMemory { name: "f".into(), bytes: bytes.into() };
    let e = read(&[file], 0..128, 128).map(|_| ()).unwrap_err();
    assert!(e.message.contains("block 0") && e.message.contains("entry 0: its value cannot be decoded"), "{e}");
}

#[test]
fn an_error_of_the_receiver_ends_the_writing() {
    let (mut states, _) = example();
    let frozen = states.all().into_iter().map(|s| s.freeze().into()).collect();
    let options = WriteOptions { block: 100, chunk: 100, ..Default::default() };
    let mut calls = 0;
    let e = write(meta(0..128, 128), frozen, &options, &mut |_| {
        calls += 1;
        Err(crate::error::Error::external(ErrorCode::Storage, "the disk is full"))
    });
    assert_eq!((e.unwrap_err().message.as_str(), calls), ("the disk is full", 1));
}

/// Whoever can write a file can write its checksums: what it says of itself must not make a reader allocate without bounds.
#[test]
fn a_file_cannot_claim_more_entries_than_it_has_bytes() {
    use super::blocks::Block;
    let claims = |compression, raw_len: u64, entries: u64| {
        let bytes = [0; 100];
        let mut meta = meta(0..128, 128);
        meta.compression = compression;
        meta.states = vec![KeyedTable::<Str>::descriptor(&ValueState::<Str, Legs>::new("legs")).clone()];
        let block = |n: u64| Block {
            state: 0,
            removals: false,
            at: 16 + n * 50..66 + n * 50,
            groups: (0, 127),
            raw_len,
            entries,
            crc32c: crc32c::crc32c(&bytes[..50]),
        };
        let trailer = format::trailer(&meta, &[block(0), block(1)]).unwrap();
        InMemory { name: "forged".into(), bytes: [&format::head()[..], &bytes, &trailer].concat().into() }
    };
    let refused = |file: InMemory| SnapshotFile::open(&file).err().unwrap().message.contains("entries in");
    assert!(SnapshotFile::open(&claims(Compression::None, 50, 50)).is_ok());
    assert!(refused(claims(Compression::None, 50, 51)));
    assert!(refused(claims(Compression::None, 1 << 60, 1 << 60)));
    assert!(refused(claims(Compression::Zstd, 100, 101)));
    let file = claims(Compression::Zstd, u64::MAX >> 1, u64::MAX >> 1);
    let open = SnapshotFile::open(&file).unwrap();
    assert!(open.entries_of(0, &(0..128)) < 1000, "that much may be reserved");
    assert_eq!(open.entries(0), u64::MAX - 1);
    let e = read(&[file], 0..128, 128).map(|_| ()).unwrap_err();
    assert!(e.message.contains("cannot be decompressed"), "{e}");
}
