//! Windows against a naive oracle, with random input, snapshots and rescales; edge cases.
mod co_group;
mod driver;
mod edges;
mod oracle;
mod process;
mod properties;
#[cfg(feature = "rocksdb")]
mod stored;
mod triggers;
