//! Weir's runtime: stateful stream jobs with exactly-once state.
//!
//! A job is a program. It declares a graph of sources, operators and sinks; the same binary is then the jobmanager, a
//! taskmanager, a whole cluster in one process, or the plan printer, by its subcommand.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use weir::prelude::*;
//!
//! #[derive(clap::Args)]
//! struct Arguments {
//!     /// Text file, plain or compressed.
//!     #[arg(long)]
//!     input: String,
//! }
//!
//! fn word_count(job: &mut Job, args: &Arguments) -> weir::Result<()> {
//!     job.source("lines", FileSource::lines(&args.input))
//!         .flat_map(|line: Str, out| line.split_ascii_whitespace().for_each(|word| out.push((Str::from(word), 1u64))))
//!         .key_by(|(word, _)| word)
//!         .reduce("count", |total, one| total.1 += one.1)
//!         .map(|(word, count)| format_str!("{word} {count}"))
//!         .sink("out", Print::text());
//!     Ok(())
//! }
//!
//! fn main() -> ExitCode {
//!     weir::main(word_count)
//! }
//! ```
//!
//! `wordcount local --input book.txt --parallelism 2` runs it here; `examples/flights` shows a keyed job with state, an
//! exactly-once sink and its Kubernetes manifest.
//!
//! # Where to find what
//! Each of these has an example that runs:
//!
//! | to | see |
//! |---|---|
//! | keep state per key, and set timers | [`KeyedProcessFunction`](job::KeyedProcessFunction); short forms: [`KeyedStream::process`](job::KeyedStream::process), [`reduce`](job::KeyedStream::reduce) |
//! | let state expire | [`StateTtl`](state::StateTtl) |
//! | clear state of many keys at once | [`NamespacedState`](state::NamespacedState) |
//! | write state in a format of one's own | [`RawState`](state::RawState) |
//! | say what event time is | [`WatermarkStrategy`](job::WatermarkStrategy) |
//! | count by windows, with late records | [`job::window`] |
//! | keep state per window | [`ProcessWindowFunction`](job::window::ProcessWindowFunction) |
//! | bring two streams together | [`KeyedCoProcessFunction`](job::KeyedCoProcessFunction), [`interval_join`](job::KeyedStream::interval_join), [`job::window`] |
//! | give rules to all subtasks | [`KeyedBroadcastProcessFunction`](job::KeyedBroadcastProcessFunction), without keys [`BroadcastProcessFunction`](job::BroadcastProcessFunction) |
//! | ask other systems | [`Stream::async_io`](job::Stream::async_io) |
//! | test all of it | [`testing`] |
//!
//! `examples/` has whole jobs: word count, sessionization, top N, unpaid orders, broadcast rules, asynchronous enrichment, a
//! state machine, and flights.
//!
//! # The life of a record
//! 1. A [reader](connectors::source::SourceReader) fills a [`Batch`](dataflow::Batch) of about 1,024 records; the source's
//!    [task](dataflow::source_task) asks it for the next one when the chain behind is ready.
//! 2. The batch runs through the chain: each operator is a [`Stage`](dataflow::Stage), one dynamic call per batch, the loop
//!    inside is monomorphized user code. `key_by` writes the hash of each key into a column beside the records: no key is
//!    hashed twice in a process.
//! 3. At the end of the chain an [exchange writer](dataflow::writer) spreads the batch over the channels of its edge, by
//!    key group where the stream is keyed. Within a process a [channel](exchange::local) moves the batch and gives empty
//!    ones back; between processes it becomes one [frame](exchange::frame) with credit, laid out [field by
//!    field](data::column).
//! 4. The consumer's [task](dataflow::input_task) takes it from its [gate](dataflow::gate). A keyed operator finds the
//!    key's value in a [table of segments](state::table) by the hash that came along and changes it in place.
//! 5. A [sink](connectors::sink) writes it where nobody sees it yet.
//!
//! # The life of a barrier
//! 1. The [coordinator](checkpoint::coordinator) (pure) decides that it is time; the jobmanager tells the sources.
//! 2. Each source notes its position and sends the barrier behind the records that belong to it.
//! 3. A task whose inputs have all delivered it (see the [aligner](dataflow::aligner)) passes it on, and each of its
//!    operators freezes its state: segments become shared, in microseconds. Sinks pre-commit.
//! 4. An uploader writes the frozen state to [snapshot files](state::file) while the task goes on, then acknowledges.
//! 5. When all have, the jobmanager writes the [manifest](checkpoint::manifest), then appends `Completed` to the
//!    [log](checkpoint::log): that one conditional put is the moment at which the checkpoint exists.
//! 6. Every task hears of it, and sinks make what they pre-committed visible.
//!
//! # The life of a watermark
//! 1. [`Stream::watermarks`](job::Stream::watermarks) gives each record its event time, a column of the batch that every
//!    operator hands on, and says behind each batch how far event time has come: of several splits that a source reads side by
//!    side, the slowest counts; what is silent for longer than the strategy's idleness does not.
//! 2. It travels in order with the batches. An exchange sends it behind the next batch of each channel, or with the next flush.
//! 3. The consumer's task [merges](dataflow::valve) those of its inputs: the least counts, idle ones are left out, and none goes
//!    back.
//! 4. Keyed operators hear of it before it is handed on: due [timers](job::Timers) fire, windows close. What they emit carries
//!    the time that it belongs to.
//! 5. `i64::MAX` ends event time when the input has ended or the job is drained; then functions hear of the
//!    [end](job::ProcessFunction::end_of_input), those with two inputs of the end of
//!    [each](job::KeyedCoProcessFunction::end_of_input1). Watermarks are not part of snapshots: after a restore event time
//!    begins anew with the first records.
//!
//! # The life of a key
//! Its 64-bit hash never changes. The top bits choose one of `max_parallelism` [key groups](mod@graph::key_group); a range of
//! groups belongs to each subtask. State lies in the order of the hash, in memory and in files, so a rescale hands out
//! ranges, and each new subtask reads just its own. With the feature `rocksdb`, state may lie on disk in the same order, and
//! the table is the cache in front of it (`docs/rocksdb.md`).
extern crate self as weir; // the derive macros write `::weir::` paths, here too

pub mod checkpoint;
pub mod cli;
pub mod connectors;
pub mod control;
pub mod data;
pub mod dataflow;
pub mod error;
pub mod exchange;
pub mod graph;
pub mod job;
pub mod jobmanager;
pub mod observe;
pub mod prelude;
pub mod state;
pub mod taskmanager;
pub mod testing;

pub use cli::main;
pub use error::{Error, Result};

/// `format!` that makes a [`data::Str`]: no allocation up to 24 bytes.
#[macro_export]
macro_rules! format_str {
    ($($arg:tt)*) => { $crate::__compact_str::format_compact!($($arg)*) };
}
#[doc(hidden)]
pub use compact_str as __compact_str;

/// The job in the README is compiled like any other.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
