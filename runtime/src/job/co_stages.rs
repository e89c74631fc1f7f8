//! Stages of keyed operators with two inputs: shared state, watermarks of both, restore and snapshot.
use super::ended::{self, Ended};
use super::function::RuntimeContext;
use super::keyed_stages::TtlClock;
use super::list_state::{self, AnyListState};
use super::stages::{
    check_sides, connect_sides, drain_sides, next_timer, output, poll_sides, runtime_context, signal_sides,
};
use super::stored::{open_states, settle};
use crate::data::{Data, Key};
use crate::dataflow::factory::{AnyReceiver, AnyStage, BuildContext, Consumers, NodeFactory, two_input_task};
use crate::dataflow::inlet::TwoInputStage;
use crate::dataflow::task::TaskBody;
use crate::dataflow::{AnySideOutput, Batch, Output, Signal};
use crate::error::{Error, Result};
use crate::state::KeyedTable;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::task::{Context, Poll, ready};

/// A keyed operator with two inputs; works on whole batches, as [`KeyedOperator`](super::keyed_stages::KeyedOperator).
pub trait CoOperator<A, B>: Send + 'static {
    type Key: Key;
    type Out: Data;
    /// It implements [`Self::prepare1`] and [`Self::prepare2`], and prepares its timers: a store may keep its states.
    const PREPARES: bool = false;
    /// It is told of the ends of its inputs once each, restores included; what it emits then must not come again.
    const TOLD_ONCE: bool = false;
    /// The keys of a batch of the first input are about to be used.
    fn prepare1(&mut self, _batch: &Batch<A>) -> Result<()> {
        Ok(())
    }
    /// The keys of a batch of the second input are about to be used.
    fn prepare2(&mut self, _batch: &Batch<B>) -> Result<()> {
        Ok(())
    }
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<Self::Key>>;
    /// A snapshot is taken.
    fn snapshot(&mut self) -> Result<()> {
        Ok(())
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        Vec::new()
    }
    fn open(&mut self, _cx: &RuntimeContext) -> Result<()> {
        Ok(())
    }
    /// Takes all records of the first input.
    fn run1(&mut self, batch: &mut Batch<A>, out: &mut Output<Self::Out>) -> Result<()>;
    /// Takes all records of the second input.
    fn run2(&mut self, batch: &mut Batch<B>, out: &mut Output<Self::Out>) -> Result<()>;
    /// Event time of both inputs together has reached this.
    fn on_watermark(&mut self, _watermark: i64, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    /// It has not done all that a watermark or the clock means, as the results might not fit into memory: [`Self::go_on`] is called
    /// until it has, whenever there is room behind it, and before anything else is asked of it.
    fn is_busy(&self) -> bool {
        false
    }
    /// Does more of it.
    fn go_on(&mut self, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    fn next_processing_time(&mut self) -> Option<i64> {
        None
    }
    fn on_processing_time(&mut self, _now: i64, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    /// Operator list states, a broadcast state among them.
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        Vec::new()
    }
    fn end_of_input1(&mut self, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    fn end_of_input2(&mut self, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    /// Both have ended.
    fn end_of_input(&mut self, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

struct CoStage<A, B, O: CoOperator<A, B>> {
    name: String,
    operator: O,
    ttl: TtlClock,
    ended: Ended,
    out: Output<O::Out>,
    /// A store keeps the states.
    stored: bool,
    /// To be handed on when the operator has done what it means.
    held: Option<i64>,
    /// The operator has more to do.
    busy: bool,
    /// It has gone on since the last flush: results of its may lie around while the task waits.
    unflushed: bool,
    inputs: PhantomData<fn(A, B)>,
}

impl<A: Data, B: Data, O: CoOperator<A, B>> CoStage<A, B, O> {
    fn tell_time(&mut self) {
        if self.ttl.is_wanted() {
            self.ttl.tell(self.operator.states());
        }
    }
    /// Has the operator do the rest of what it has begun, room or not.
    #[cold]
    fn finish(&mut self) -> Result<()> {
        while self.operator.is_busy() {
            self.operator.go_on(&mut self.out)?;
        }
        self.finished()
    }
    fn finished(&mut self) -> Result<()> {
        self.busy = false;
        match self.held.take() {
            Some(watermark) => self.pass(&mut Signal::Watermark(watermark)),
            None => Ok(()),
        }
    }
    fn pass(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        signal_sides(self.operator.side_outputs(), signal)?;
        self.out.signal(signal)
    }
    fn check(&mut self) -> Result<()> {
        if self.stored {
            settle(self.operator.states())?;
        }
        check_sides(self.operator.side_outputs())?;
        self.out.check()
    }
}

impl<A: Data, B: Data, O: CoOperator<A, B>> TwoInputStage<A, B> for CoStage<A, B, O> {
    fn process1(&mut self, batch: &mut Batch<A>) -> Result<()> {
        if self.busy {
            self.finish()?;
        }
        self.ended.records(ended::FIRST);
        self.out.begin(!batch.timestamps.is_empty());
        self.tell_time();
        if self.stored {
            self.operator.prepare1(batch)?;
        }
        self.operator.run1(batch, &mut self.out)?;
        batch.clear();
        self.check()
    }
    fn process2(&mut self, batch: &mut Batch<B>) -> Result<()> {
        if self.busy {
            self.finish()?;
        }
        self.ended.records(ended::SECOND);
        self.out.begin(!batch.timestamps.is_empty());
        self.tell_time();
        if self.stored {
            self.operator.prepare2(batch)?;
        }
        self.operator.run2(batch, &mut self.out)?;
        batch.clear();
        self.check()
    }
    fn ended1(&mut self) -> Result<()> {
        if self.busy {
            self.finish()?;
        }
        if self.ended.tell(O::TOLD_ONCE, ended::FIRST) {
            self.tell_time();
            self.operator.end_of_input1(&mut self.out)?;
        }
        self.check()
    }
    fn ended2(&mut self) -> Result<()> {
        if self.busy {
            self.finish()?;
        }
        if self.ended.tell(O::TOLD_ONCE, ended::SECOND) {
            self.tell_time();
            self.operator.end_of_input2(&mut self.out)?;
        }
        self.check()
    }
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        // these have no place among records and watermarks
        if self.busy && !matches!(signal, Signal::Flush | Signal::Complete(_) | Signal::Aborted(_)) {
            self.finish()?;
        }
        if self.ttl.precedes(signal) {
            self.tell_time();
        }
        match signal {
            Signal::Watermark(w) => {
                self.operator.on_watermark(*w, &mut self.out)?;
                self.busy = self.operator.is_busy();
                if self.busy {
                    self.held = Some(*w);
                    return Ok(());
                }
            }
            Signal::ProcessingTime(now) => {
                self.out.erase_timestamp();
                self.operator.on_processing_time(*now, &mut self.out)?;
                self.busy = self.operator.is_busy();
            }
            Signal::EndOfInput if self.ended.tell(O::TOLD_ONCE, ended::BOTH) => {
                self.operator.end_of_input(&mut self.out)?;
            }
            Signal::Flush => self.unflushed = false,
            Signal::Close => self.operator.close()?,
            Signal::Barrier { parts, .. } => {
                self.operator.snapshot()?;
                let frozen = self.operator.states().into_iter().map(|s| s.freeze()).collect();
                parts.keyed.insert(self.name.clone(), frozen);
                let mut lists = BTreeMap::new();
                list_state::snapshot(self.operator.list_states(), &mut lists);
                self.ended.snapshot(O::TOLD_ONCE, &mut lists);
                if !lists.is_empty() {
                    parts.lists.entry(self.name.clone()).or_default().extend(lists);
                }
            }
            _ => {}
        }
        self.pass(signal)
    }
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(poll_sides(self.operator.side_outputs(), cx))?;
        if self.busy {
            ready!(self.out.poll_ready(cx))?;
            self.tell_time();
            self.operator.go_on(&mut self.out)?;
            self.unflushed = true;
            check_sides(self.operator.side_outputs())?;
            self.out.check()?;
            if self.operator.is_busy() {
                // the task looks for commands between
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.finished()?;
            // the watermark that was held may give those behind side outputs more to do
            ready!(poll_sides(self.operator.side_outputs(), cx))?;
        }
        self.out.poll_ready(cx)
    }
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(drain_sides(self.operator.side_outputs(), cx))?;
        self.out.poll_drained(cx)
    }
    fn next_timer(&mut self) -> Option<i64> {
        if self.busy {
            // the clock would have it do the rest at once
            return None;
        }
        let flush = self.unflushed.then_some(i64::MIN);
        let own = flush.into_iter().chain(self.operator.next_processing_time()).min();
        next_timer(self.operator.side_outputs(), own, &mut self.out)
    }
}

/// Makes the task of an operator with two inputs and restores its states.
pub(super) struct CoFactory<A, B, M> {
    pub make: M,
    pub inputs: PhantomData<fn(A, B)>,
}

impl<A: Data, B: Data, O: CoOperator<A, B>, M: Fn() -> O + Send + Sync> NodeFactory for CoFactory<A, B, M> {
    fn stage(&self, cx: &BuildContext<'_>, _next: Consumers) -> Result<AnyStage> {
        Err(Error::internal(format!("{} has two inputs", cx.operator)))
    }
    fn two_input_task(
        &self,
        cx: &BuildContext<'_>,
        inputs: [Vec<AnyReceiver>; 2],
        mut next: Consumers,
    ) -> Result<Box<dyn TaskBody>> {
        let mut operator = (self.make)();
        let stored = open_states(cx, O::PREPARES, usize::MAX, &mut operator.states())?;
        if cx.restore.is_some() {
            list_state::restore(cx.operator, operator.list_states(), cx.restore)?;
        }
        let ttl = TtlClock::start(&cx.clock, operator.states());
        operator.open(&runtime_context(cx)).map_err(|e| e.at(cx.operator))?;
        connect_sides(operator.side_outputs(), &mut next)?;
        let (name, out) = (cx.operator.to_owned(), output(next.main())?);
        let ended = Ended::restored(O::TOLD_ONCE, cx.restore);
        let (held, busy, unflushed) = (None, false, false);
        let types = PhantomData::<fn(A, B)>;
        let stage = CoStage { name, operator, ttl, ended, out, stored, held, busy, unflushed, inputs: types };
        two_input_task::<A, B>(inputs, stage)
    }
}
