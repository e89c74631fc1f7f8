//! Count windows: the last `size` records of a key, after each `slide` of them; panes of records shared by windows.
use super::assigner::{CountSpec, TimeWindow};
use super::function::WindowFunction;
use super::slot::set_time;
use crate::data::{Data, DecodeError, Type};
use crate::dataflow::{Batch, Output};
use crate::job::function::KeySelector;
use crate::state::{KeyRef, KeyedTable, ValueState};
use std::collections::VecDeque;

#[derive(Debug, Clone)]
struct Counted<A> {
    /// Records in the last pane.
    in_pane: u64,
    since_fired: u64,
    /// At most as many as a window has.
    panes: VecDeque<A>,
}

impl<A> Default for Counted<A> {
    fn default() -> Self {
        Self { in_pane: 0, since_fired: 0, panes: VecDeque::new() }
    }
}

impl<A: Data> Data for Counted<A> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.in_pane.encode(out);
        self.since_fired.encode(out);
        crate::data::put_len(out, self.panes.len());
        self.panes.iter().for_each(|p| p.encode(out));
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let (in_pane, since_fired) = (Data::decode(input)?, Data::decode(input)?);
        Ok(Self { in_pane, since_fired, panes: Vec::<A>::decode(input)?.into() })
    }
    fn type_of() -> Type {
        <(u64, u64, Vec<A>)>::type_of()
    }
}

pub(super) struct CountEngine<W: WindowFunction> {
    spec: CountSpec,
    state: ValueState<W::Key, Counted<W::Acc>>,
}

impl<W: WindowFunction> CountEngine<W> {
    pub fn new(state: &str, spec: CountSpec) -> Self {
        Self { spec, state: ValueState::new(state) }
    }

    pub fn state(&mut self) -> &mut dyn KeyedTable<W::Key> {
        &mut self.state
    }

    /// Adds records with these times, which are `i64::MIN` where the stream has none.
    pub fn run<S: KeySelector<W::In, Key = W::Key>>(
        &mut self,
        selector: &S,
        f: &W,
        batch: &mut Batch<W::In>,
        times: impl Iterator<Item = i64>,
        out: &mut Output<W::Out>,
    ) {
        let spec = self.spec;
        for ((record, &hash), t) in batch.records.drain(..).zip(&batch.hashes).zip(times) {
            let key = selector.with_key(&record, Clone::clone);
            let key = KeyRef { hash, key: &key };
            let counted: &mut Counted<W::Acc> = self.state.get_mut_or_default(&key);
            if counted.in_pane == 0 {
                if counted.panes.len() == spec.panes {
                    counted.panes.pop_front();
                }
                counted.panes.push_back(f.create());
            }
            if let Some(pane) = counted.panes.back_mut() {
                f.add(pane, record);
            }
            counted.in_pane = (counted.in_pane + 1) % spec.pane;
            counted.since_fired += 1;
            if counted.since_fired < spec.slide {
                continue;
            }
            counted.since_fired = 0;
            set_time(out, TimeWindow::ALL, t);
            let mut panes = counted.panes.iter();
            match (panes.next(), panes.next()) {
                (Some(only), None) => f.emit(key.key, &TimeWindow::ALL, only, out),
                (Some(first), Some(second)) => {
                    let mut acc = first.clone();
                    f.merge(&mut acc, second.clone());
                    panes.for_each(|p| f.merge(&mut acc, p.clone()));
                    f.emit(key.key, &TimeWindow::ALL, &acc, out);
                }
                (None, _) => {}
            }
            if spec.panes == 1 {
                self.state.clear(&key);
            }
        }
    }
}
