//! Where a task's records come in: one input or two of different types, with the chain behind.
use super::aligner::Aligner;
use super::gate::InputGate;
use super::{Batch, Signal, Stage};
use crate::checkpoint::handles::Barrier;
use crate::data::Data;
use crate::error::Result;
use crate::exchange::Element;
use std::task::{Context, Poll};

/// What a channel carries besides batches.
#[derive(Debug)]
pub enum Control {
    Watermark(i64),
    Idle(i64),
    Barrier(Barrier),
    EndOfInput,
}

/// What became of an element.
#[derive(Debug)]
pub enum Taken {
    /// So many records went through the chain.
    Records(u64),
    Control(Control),
}

/// The inputs of a task and the chain behind them. Channels are numbered over all inputs.
pub trait Inlet: Send + 'static {
    type Element: Send;
    fn channels(&self) -> usize;
    /// The next element of a channel that the aligner does not block.
    fn poll_next(&mut self, cx: &mut Context<'_>, aligner: &Aligner) -> Poll<Result<(usize, Self::Element)>>;
    /// Runs a batch through the chain; what is no batch is given back.
    fn take(&mut self, channel: usize, element: Self::Element) -> Result<Taken>;
    /// A channel has ended; called once for each. True when all have.
    fn ended(&mut self, channel: usize) -> Result<bool>;
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()>;
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;
    /// As [`Stage::poll_drained`].
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;
    fn next_timer(&mut self) -> Option<i64>;
}

fn batch_or_control<T>(element: Element<T>) -> Result<Batch<T>, Control> {
    match element {
        Element::Batch(batch) => Ok(batch),
        Element::Watermark(w) => Err(Control::Watermark(w)),
        Element::Idle(w) => Err(Control::Idle(w)),
        Element::Barrier(b) => Err(Control::Barrier(b)),
        Element::EndOfInput => Err(Control::EndOfInput),
    }
}

/// One input.
pub struct One<T> {
    pub gate: InputGate<T>,
    pub head: Box<dyn Stage<T>>,
    /// Channels that have not ended.
    pub open: usize,
}

impl<T: Data> One<T> {
    pub fn new(gate: InputGate<T>, head: Box<dyn Stage<T>>) -> Self {
        Self { open: gate.len(), gate, head }
    }
}

impl<T: Data> Inlet for One<T> {
    type Element = Element<T>;
    fn channels(&self) -> usize {
        self.gate.len()
    }
    fn poll_next(&mut self, cx: &mut Context<'_>, aligner: &Aligner) -> Poll<Result<(usize, Element<T>)>> {
        self.gate.poll_next(cx, aligner)
    }
    fn take(&mut self, channel: usize, element: Element<T>) -> Result<Taken> {
        match batch_or_control(element) {
            Ok(mut batch) => {
                let records = batch.len() as u64;
                self.head.process(&mut batch)?;
                self.gate.recycle(channel, batch);
                Ok(Taken::Records(records))
            }
            Err(control) => Ok(Taken::Control(control)),
        }
    }
    fn ended(&mut self, _: usize) -> Result<bool> {
        self.open -= 1;
        Ok(self.open == 0)
    }
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        self.head.signal(signal)
    }
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.head.poll_ready(cx)
    }
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.head.poll_drained(cx)
    }
    fn next_timer(&mut self) -> Option<i64> {
        self.head.next_timer()
    }
}

/// An operator with two inputs, at the head of its chain.
pub trait TwoInputStage<A, B>: Send {
    fn process1(&mut self, batch: &mut Batch<A>) -> Result<()>;
    fn process2(&mut self, batch: &mut Batch<B>) -> Result<()>;
    /// The first input has ended; [`Signal::EndOfInput`] follows when both have.
    fn ended1(&mut self) -> Result<()>;
    /// The second input has ended.
    fn ended2(&mut self) -> Result<()>;
    /// As [`Stage::signal`]; watermarks are those of both inputs together.
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()>;
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;
    /// As [`Stage::poll_drained`].
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;
    fn next_timer(&mut self) -> Option<i64>;
}

/// Two inputs.
pub struct Two<A, B, S> {
    pub first: InputGate<A>,
    pub second: InputGate<B>,
    pub stage: S,
    /// The second is asked first.
    pub turn: bool,
    /// Channels of each that have not ended.
    pub open: [usize; 2],
}

impl<A: Data, B: Data, S> Two<A, B, S> {
    pub fn new(first: InputGate<A>, second: InputGate<B>, stage: S) -> Self {
        Self { open: [first.len(), second.len()], first, second, stage, turn: false }
    }
}

/// An element of one of two inputs.
pub enum Either<A, B> {
    First(Element<A>),
    Second(Element<B>),
}

impl<A: Data, B: Data, S: TwoInputStage<A, B> + 'static> Inlet for Two<A, B, S> {
    type Element = Either<A, B>;
    fn channels(&self) -> usize {
        self.first.len() + self.second.len()
    }
    fn poll_next(&mut self, cx: &mut Context<'_>, aligner: &Aligner) -> Poll<Result<(usize, Either<A, B>)>> {
        for _ in 0..2 {
            let second = self.turn;
            self.turn = !second;
            let polled = match second {
                false => self.first.poll_next(cx, aligner).map_ok(|(i, e)| (i, Either::First(e))),
                true => self.second.poll_next(cx, aligner).map_ok(|(i, e)| (i, Either::Second(e))),
            };
            if polled.is_ready() {
                return polled;
            }
        }
        Poll::Pending
    }
    fn take(&mut self, channel: usize, element: Either<A, B>) -> Result<Taken> {
        let control = match element {
            Either::First(e) => match batch_or_control(e) {
                Ok(mut batch) => {
                    let records = batch.len() as u64;
                    self.stage.process1(&mut batch)?;
                    self.first.recycle(channel, batch);
                    return Ok(Taken::Records(records));
                }
                Err(control) => control,
            },
            Either::Second(e) => match batch_or_control(e) {
                Ok(mut batch) => {
                    let records = batch.len() as u64;
                    self.stage.process2(&mut batch)?;
                    self.second.recycle(channel, batch);
                    return Ok(Taken::Records(records));
                }
                Err(control) => control,
            },
        };
        Ok(Taken::Control(control))
    }
    fn ended(&mut self, channel: usize) -> Result<bool> {
        let second = usize::from(channel >= self.first.len());
        self.open[second] -= 1;
        match (self.open[second], second) {
            (0, 0) => self.stage.ended1()?,
            (0, _) => self.stage.ended2()?,
            _ => {}
        }
        Ok(self.open == [0, 0])
    }
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        self.stage.signal(signal)
    }
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.stage.poll_ready(cx)
    }
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.stage.poll_drained(cx)
    }
    fn next_timer(&mut self) -> Option<i64> {
        self.stage.next_timer()
    }
}
