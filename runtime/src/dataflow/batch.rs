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
