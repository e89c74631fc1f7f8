//! Keyed state: the hashmap backend's table, the handles that functions hold, snapshot files.
mod backing;
pub mod file;
pub mod frozen;
pub mod handles;
pub mod key_map;
mod namespaced;
pub mod panes;
mod raw;
#[cfg(feature = "rocksdb")]
pub mod rocks;
pub mod snapshot;
pub mod store;
pub mod table;
pub mod ttl;

pub use backing::Backed;
pub use handles::{
    AggregateFunction, AggregatingState, KeyRef, KeyedTable, ListState, MapState, ReducingState, ValueState,
};
pub use key_map::KeyMap;
pub(crate) use namespaced::AnyNamespaces;
pub use namespaced::NamespacedState;
pub use panes::{KeyGroupMark, PaneState, RestoredMarks};
pub use raw::RawState;
pub use ttl::{StateTtl, TtlUpdate, TtlVisibility};
