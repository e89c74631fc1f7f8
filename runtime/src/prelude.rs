//! What a job's file needs: `use weir::prelude::*;`
pub use crate::connectors::{BadRecord, Blackhole, FileSink, FileSource, Generator, Print};
pub use crate::data::{Data, Str};
pub use crate::dataflow::{AnySideOutput, Output, OutputTag, SideOutput};
pub use crate::error::{Error, Result};
pub use crate::format_str;
pub use crate::job::window::{Global, ProcessWindowFunction, Session, Sliding, TimeWindow, Tumbling, WindowStates};
pub use crate::job::{
    AnyListState, AsyncOptions, BroadcastProcessFunction, BroadcastState, Job, KeyedBroadcastProcessFunction,
    KeyedCoProcessFunction, KeyedProcessFunction, KeyedStream, OperatorListState, ProcessFunction, RuntimeContext,
    Stream, Timer, Timers, WatermarkStrategy,
};
pub use crate::state::{
    AggregateFunction, AggregatingState, KeyRef, KeyedTable, ListState, MapState, NamespacedState, RawState,
    ReducingState, StateTtl, TtlUpdate, TtlVisibility, ValueState,
};
pub use serde::{Deserialize, Serialize};
pub use weir_derive::{Key, Record, State};
