//! Jobs exactly once, from their output, over kills at random places, checkpoints that fail and rescales between runs; seeded.
//!
//! `WEIR_SEEDS=200` runs more. With the feature `rocksdb` each campaign runs over both state backends.
mod campaign;
mod functions;
mod joins;
