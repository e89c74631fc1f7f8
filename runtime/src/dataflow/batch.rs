//! A batch of records: the unit that moves between operators and tasks.

/// Records in a full batch.
pub const BATCH_RECORDS: usize = 1024;

/// Records with the columns that travel beside them.
#[derive(Debug, Clone)]
pub struct Batch<T> {
    pub records: Vec<T>,
    /// Hash of each record's key, behind a `key_by`; empty elsewhere.
    pub hashes: Vec<u64>,
    /// Event time of each record in ms since the Unix epoch; empty where the stream has none.
    pub timestamps: Vec<i64>,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { records: Vec::new(), hashes: Vec::new(), timestamps: Vec::new() }
    }
}

impl<T> Batch<T> {
    /// An empty batch with room for a full one.
    pub fn with_room() -> Self {
        Self { records: Vec::with_capacity(BATCH_RECORDS), ..Self::default() }
    }
    /// Hands each record to `f` by value; keeps the room and the columns.
    ///
    /// As `records.drain(..)`, but no record goes through an `Option`, where one with a string (whose last byte says `None`)
    /// would be taken apart and put together again. Collecting a vector's own records, here none, allocates nothing.
    #[inline]
    pub fn take_each(&mut self, mut f: impl FnMut(T)) {
        let records = std::mem::take(&mut self.records).into_iter();
        let none = records.filter_map(|record| {
            f(record);
            None::<T>
        });
        self.records = none.collect();
    }
    pub fn len(&self) -> usize {
        self.records.len()
    }
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
    /// Drops the records and keeps the room.
    pub fn clear(&mut self) {
        self.records.clear();
        self.hashes.clear();
        self.timestamps.clear();
    }
}
