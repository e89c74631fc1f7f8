//! The functions job without its outputs: what it does with windows, sessions, timers, two inputs, an interval join, broadcast
//! state, list state and asynchronous calls.
use super::input::{self, Rec, event, order, payment};
use std::time::Duration;
use weir::job::{
    AnyListState, AsyncOptions, BroadcastState, KeyedBroadcastProcessFunction, KeyedCoProcessFunction,
    OperatorListState,
};
use weir::prelude::*;

/// Behind the event time of every record.
const CLOSING: i64 = 1 << 40;
const LATE: OutputTag<Rec> = OutputTag::new("late");
const PAID: OutputTag<u64> = OutputTag::new("paid");
/// An order that is not paid for so many ms counts as unpaid.
const TERM: i64 = 60;
/// The service answers long before.
const LONG: Duration = Duration::from_secs(600);

fn row(key: &u64, window: &TimeWindow, records: &[Rec]) -> input::Row {
    let mut numbers: Vec<u64> = records.iter().map(|r| r.1).collect();
    numbers.sort_unstable();
    (*key, window.start, window.end, numbers)
}

/// Orders that are not paid in time; those that are leave by the side, with the payment.
struct Payments {
    open: MapState<u64, u64, i64>,
    early: MapState<u64, u64, ()>,
    timers: Timers<u64>,
    paid: SideOutput<u64>,
}

impl KeyedCoProcessFunction for Payments {
    type Key = u64;
    type In1 = Rec;
    type In2 = Rec;
    type Out = (u64, i64);
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.open, &mut self.early, &mut self.timers]
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        vec![&mut self.paid]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.timers)
    }
    fn process1(&mut self, key: &KeyRef<'_, u64>, order: &Rec, out: &mut Output<Self::Out>) -> Result<()> {
        if self.early.remove(key, &order.1).is_some() {
            out.push_to(&mut self.paid, order.1);
        } else {
            self.open.put(key, order.1, order.2);
            self.timers.register_event_time(key, order.2 + TERM);
        }
        Ok(())
    }
    fn process2(&mut self, key: &KeyRef<'_, u64>, payment: &Rec, out: &mut Output<Self::Out>) -> Result<()> {
        if self.open.remove(key, &payment.1).is_some() {
            out.push_to(&mut self.paid, payment.1);
        } else {
            self.early.put(key, payment.1, ());
        }
        Ok(())
    }
    fn on_timer(&mut self, key: &KeyRef<'_, u64>, timer: &Timer, out: &mut Output<Self::Out>) -> Result<()> {
        let due = |(number, time): (&u64, &i64)| (*time + TERM <= timer.timestamp).then_some((*number, *time));
        let late: Vec<_> = self.open.iter(key).filter_map(due).collect();
        for (number, time) in late {
            self.open.remove(key, &number);
            out.push((number, time));
        }
        Ok(())
    }
}

/// Holds the orders back until event time has ended, then emits each with the number of rules that came.
struct Ruled {
    orders: ListState<u64, u64>,
    timers: Timers<u64>,
}

impl KeyedBroadcastProcessFunction for Ruled {
    type Key = u64;
    type In = Rec;
    type Broadcast = u64;
    type Out = (u64, u64);
    type BroadcastKey = u64;
    type BroadcastValue = u64;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.orders, &mut self.timers]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.timers)
    }
    fn process(
        &mut self,
        key: &KeyRef<'_, u64>,
        order: &Rec,
        _: &BroadcastState<u64, u64>,
        _: &mut Output<Self::Out>,
    ) -> Result<()> {
        self.orders.add(key, order.1);
        self.timers.register_event_time(key, CLOSING);
        Ok(())
    }
    fn process_broadcast(
        &mut self,
        rule: &u64,
        rules: &mut BroadcastState<u64, u64>,
        _: &mut Output<Self::Out>,
    ) -> Result<()> {
        // one that came twice would show
        let times = rules.get(rule).copied().unwrap_or_default();
        rules.put(*rule, times + 1);
        Ok(())
    }
    fn on_timer(
        &mut self,
        key: &KeyRef<'_, u64>,
        _: &Timer,
        rules: &BroadcastState<u64, u64>,
        out: &mut Output<Self::Out>,
    ) -> Result<()> {
        let sum = rules.iter().map(|(_, times)| times).sum();
        self.orders.take(key).into_iter().for_each(|number| out.push((number, sum)));
        Ok(())
    }
}

/// Holds records back, some for several checkpoints, the last ones until the end.
struct Hold(OperatorListState<u64>);

impl ProcessFunction for Hold {
    type In = u64;
    type Out = u64;
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        vec![&mut self.0]
    }
    fn process(&mut self, record: u64, out: &mut Output<u64>) -> Result<()> {
        self.0.add(record);
        if self.0.get().len() >= 700 {
            self.0.take().into_iter().for_each(|r| out.push(r));
        }
        Ok(())
    }
    fn end_of_input(&mut self, out: &mut Output<u64>) -> Result<()> {
        self.0.take().into_iter().for_each(|r| out.push(r));
        Ok(())
    }
}

/// Answers after a while, in another order than asked.
async fn call(order: Rec) -> anyhow::Result<Vec<u64>> {
    for _ in 0..input::patience(order.1) {
        tokio::task::yield_now().await;
    }
    Ok(vec![order.1])
}

/// Where each kind of result leaves the job.
pub struct Results {
    pub windows: Stream<input::Row>,
    pub late: Stream<Rec>,
    pub sessions: Stream<input::Row>,
    pub paid: Stream<u64>,
    pub unpaid: Stream<(u64, i64)>,
    pub joined: Stream<(u64, u64)>,
    pub called: Stream<u64>,
    pub ruled: Stream<(u64, u64)>,
    pub held: Stream<u64>,
}

/// Reads so many orders, `rate` of them per second, as many events, half as many payments and a few rules.
pub fn declare(job: &mut Job, records: u64, rate: f64) -> Results {
    let ms = Duration::from_millis;
    let by = |bound| WatermarkStrategy::bounded_out_of_orderness(ms(bound)).timestamps(|r: &Rec| r.2);

    let events = job.source("events", Generator::new(records, event).rate(rate));
    let [size, out_of_order, lateness] = input::WINDOW;
    let windows = events
        .watermarks(by(out_of_order))
        .key_by(|r| &r.0)
        .window(Tumbling::of(ms(size)))
        .allowed_lateness(ms(lateness))
        .late_output(LATE)
        .process("windows", |key, window, records: &[Rec], out| out.push(row(key, window, records)));
    let sessions = events
        .watermarks(by(input::EVENTS_OUT_OF_ORDER + 100))
        .key_by(|r| &r.0)
        .window(Session::with_gap(ms(input::GAP)))
        .process("sessions", |key, window, records: &[Rec], out| out.push(row(key, window, records)));

    let orders = job.source("orders", Generator::new(records, order).rate(rate));
    let payments = Generator::new(input::payments(records), payment).rate(rate / 2.0);
    let orders = orders.watermarks(by(input::ORDERS_OUT_OF_ORDER + 10));
    let payments = job.source("payments", payments).watermarks(by(input::PAYMENTS_OUT_OF_ORDER + 20));
    let seconds = records as f64 / rate;
    let rules = Generator::new(input::RULES, |i| i).rate(input::RULES as f64 / seconds);
    let rules = job.source("rules", rules).parallelism(1);
    let (by_order, by_payment) = (orders.key_by(|r| &r.0), payments.key_by(|r| &r.0));
    let make = || Payments {
        open: MapState::new("open"),
        early: MapState::new("early"),
        timers: Timers::new("timers"),
        paid: SideOutput::new(PAID),
    };
    let unpaid = by_order.connect(&by_payment).process_function("payments of orders", make);
    let [from, until] = input::JOINED;
    let joined = by_order
        .interval_join(&by_payment, from, until)
        .process("join", |order, payment, out| out.push((order.1, payment.1)));
    let make = || Ruled { orders: ListState::new("orders"), timers: Timers::new("timers") };
    Results {
        late: windows.side_output(LATE),
        windows,
        sessions,
        paid: unpaid.side_output(PAID),
        unpaid,
        joined,
        called: orders.async_io("calls", AsyncOptions::unordered(200, LONG), call),
        ruled: by_order.connect_broadcast(&rules).process_function("ruled", make),
        held: orders.map(|r| r.1).rebalance().process(|| Hold(OperatorListState::split("held"))).name("hold"),
    }
}
