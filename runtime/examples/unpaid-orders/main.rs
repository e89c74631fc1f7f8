//! Orders that are not paid in time. See README.md beside this file.
use std::process::ExitCode;
use std::time::Duration;
use weir::prelude::*;

/// A line of the orders.
#[derive(Clone, Debug, PartialEq, Record, Deserialize)]
struct Order {
    /// ms since the Unix epoch.
    at_ms: i64,
    order: Str,
    customer: Str,
}

/// A line of the payments.
#[derive(Clone, Debug, PartialEq, Record, Serialize, Deserialize)]
struct Payment {
    /// ms since the Unix epoch.
    at_ms: i64,
    order: Str,
    cents: u64,
}

/// A line of the output.
#[derive(Clone, Debug, PartialEq, Record, Serialize)]
struct Unpaid {
    order: Str,
    customer: Str,
    placed_ms: i64,
    due_ms: i64,
}

/// Payments that come too late, or for an order that nobody placed.
const STRAY: OutputTag<Payment> = OutputTag::new("stray");
/// Records come at most so much later than others of their stream with a later time.
const OUT_OF_ORDER: Duration = Duration::from_secs(60);

/// Waits for the payment of each order. Orders and payments come in any order; nothing is decided before event time has
/// reached the moment that decides it, so the result does not depend on who came first.
struct Payments {
    term_ms: i64,
    open: ValueState<Str, Order>,
    paid: ValueState<Str, Payment>,
    timers: Timers<Str>,
    stray: SideOutput<Payment>,
}

impl Payments {
    fn new(term_ms: i64) -> Self {
        Self {
            term_ms,
            open: ValueState::new("open"),
            paid: ValueState::new("paid"),
            timers: Timers::new("timers"),
            stray: SideOutput::new(STRAY),
        }
    }
}

impl KeyedCoProcessFunction for Payments {
    type Key = Str;
    type In1 = Order;
    type In2 = Payment;
    type Out = Unpaid;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<Str>> {
        vec![&mut self.open, &mut self.paid, &mut self.timers]
    }
    fn timers(&mut self) -> Option<&mut Timers<Str>> {
        Some(&mut self.timers)
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        vec![&mut self.stray]
    }
    fn process1(&mut self, key: &KeyRef<'_, Str>, order: &Order, _: &mut Output<Unpaid>) -> Result<()> {
        self.open.update(key, order.clone());
        self.timers.register_event_time(key, order.at_ms + self.term_ms);
        Ok(())
    }
    fn process2(&mut self, key: &KeyRef<'_, Str>, payment: &Payment, _: &mut Output<Unpaid>) -> Result<()> {
        self.paid.update(key, payment.clone());
        self.timers.register_event_time(key, payment.at_ms);
        Ok(())
    }
    fn on_timer(&mut self, key: &KeyRef<'_, Str>, timer: &Timer, out: &mut Output<Unpaid>) -> Result<()> {
        // all orders and payments up to this time are here
        if let Some(payment) = self.paid.get(key)
            && payment.at_ms <= timer.timestamp
        {
            match self.open.get(key) {
                Some(order) => self.timers.delete_event_time(key, order.at_ms + self.term_ms),
                None => {
                    let payment = payment.clone();
                    out.push_to(&mut self.stray, payment);
                    false
                }
            };
            self.open.clear(key);
            self.paid.clear(key);
        } else if let Some(order) = self.open.get(key)
            && order.at_ms + self.term_ms == timer.timestamp
        {
            let (order, customer, placed_ms) = (order.order.clone(), order.customer.clone(), order.at_ms);
            out.push(Unpaid { order, customer, placed_ms, due_ms: timer.timestamp });
            self.open.clear(key);
        }
        Ok(())
    }
}

fn unpaid(orders: &Stream<Order>, payments: &Stream<Payment>, term: Duration) -> Stream<Unpaid> {
    let term_ms = term.as_millis() as i64;
    let by_time = WatermarkStrategy::bounded_out_of_orderness(OUT_OF_ORDER);
    let orders = orders.watermarks(by_time.timestamps(|o: &Order| o.at_ms)).key_by(|o| &o.order);
    let by_time = WatermarkStrategy::bounded_out_of_orderness(OUT_OF_ORDER);
    let payments = payments.watermarks(by_time.timestamps(|p: &Payment| p.at_ms)).key_by(|p| &p.order);
    orders.connect(&payments).process_function("terms", move || Payments::new(term_ms))
}

/// The job's own arguments.
#[derive(clap::Args)]
struct Arguments {
    /// CSV file with the columns at_ms, order, customer; plain or compressed.
    #[arg(long)]
    orders: String,
    /// CSV file with the columns at_ms, order, cents; plain or compressed.
    #[arg(long)]
    payments: String,
    /// Folder for the output: part-* files of JSON lines in `unpaid` and `stray`.
    #[arg(long)]
    output: String,
    /// Minutes within which an order is to be paid.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
}

fn unpaid_orders(job: &mut Job, args: &Arguments) -> weir::Result<()> {
    let orders = job.source("orders", FileSource::csv::<Order>(&args.orders));
    let payments = job.source("payments", FileSource::csv::<Payment>(&args.payments));
    let unpaid = unpaid(&orders, &payments, Duration::from_secs(60 * args.minutes));
    unpaid.side_output(STRAY).sink("stray", FileSink::json_lines(format!("{}/stray", args.output)));
    unpaid.sink("unpaid", FileSink::json_lines(format!("{}/unpaid", args.output)));
    Ok(())
}

fn main() -> ExitCode {
    weir::main(unpaid_orders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir::testing::TwoInputHarness;

    const TERM: i64 = 30 * 60_000;

    fn order(at_ms: i64, order: &str) -> Order {
        Order { at_ms, order: order.into(), customer: "ann".into() }
    }
    fn payment(at_ms: i64, order: &str) -> Payment {
        Payment { at_ms, order: order.into(), cents: 1200 }
    }
    fn harness() -> TwoInputHarness<Order, Payment, Unpaid> {
        TwoInputHarness::new(|orders: Stream<Order>, payments: Stream<Payment>| {
            let (orders, payments) = (orders.key_by(|o| &o.order), payments.key_by(|p| &p.order));
            orders.connect(&payments).process_function("terms", || Payments::new(TERM))
        })
        .unwrap()
    }
    fn names(unpaid: Vec<Unpaid>) -> Vec<Str> {
        unpaid.into_iter().map(|u| u.order).collect()
    }

    #[test]
    fn an_order_is_reported_when_its_term_is_over_and_not_before() {
        let mut h = harness();
        for (i, name) in ["paid", "just in time", "too late", "never"].into_iter().enumerate() {
            h.push1_at(order(i as i64, name), i as i64).unwrap();
        }
        for p in [payment(60_000, "paid"), payment(TERM + 1, "just in time"), payment(TERM + 3, "too late")] {
            h.push2_at(p.clone(), p.at_ms).unwrap();
        }
        h.watermark(TERM + 1).unwrap();
        assert!(h.output().unwrap().is_empty());
        h.watermark(TERM + 2).unwrap();
        let late = Unpaid { order: "too late".into(), customer: "ann".into(), placed_ms: 2, due_ms: TERM + 2 };
        assert_eq!(h.timed_output().unwrap(), [(late, Some(TERM + 2))]);
        h.finish().unwrap();
        assert_eq!(names(h.output().unwrap()), ["never"]);
        assert_eq!(h.side_output(STRAY).unwrap(), [payment(TERM + 3, "too late")]);
    }

    #[test]
    fn a_payment_may_come_before_its_order_and_nothing_is_kept_of_what_is_settled() {
        let mut h = harness();
        h.push2_at(payment(100, "a"), 100).unwrap();
        h.push2_at(payment(200, "nobody's"), 200).unwrap();
        h.watermark2(1_000).unwrap();
        h.push1_at(order(50, "a"), 50).unwrap();
        h.push1_at(order(900, "b"), 900).unwrap();
        h.watermark1(1_000).unwrap();
        assert_eq!(h.side_output(STRAY).unwrap(), [payment(200, "nobody's")]);
        // what is open survives a restart at another parallelism
        let snapshot = h.snapshot().unwrap();
        let mut h = h.restore(&snapshot, 2).unwrap();
        let open = h.state("terms", ValueState::<Str, Order>::new("open")).unwrap();
        assert_eq!((open.len(), open.get(&KeyRef::of(&"b".into())).unwrap().at_ms), (1, 900));
        h.watermark(900 + TERM).unwrap();
        assert_eq!(names(h.output().unwrap()), ["b"]);
        assert!(h.state("terms", ValueState::<Str, Order>::new("open")).unwrap().is_empty());
        assert!(h.state("terms", ValueState::<Str, Payment>::new("paid")).unwrap().is_empty());
        assert!(h.state("terms", Timers::<Str>::new("timers")).unwrap().is_empty());
    }

    #[test]
    fn each_unpaid_order_is_reported_once_whatever_was_killed() {
        use weir::connectors::{Collect, random};
        use weir::testing::{ClusterOptions, TestSource};
        let placed = |i: u64| (i * 1_000) as i64 - (random(1, i) % 50_000) as i64;
        let (orders, payments, out) = (TestSource::new(), TestSource::new(), Collect::new());
        // every third order is never paid, every fifth too late
        let feed = |range: std::ops::Range<u64>| {
            for i in range {
                let name = format!("o-{i}");
                orders.push(order(placed(i), &name));
                if !i.is_multiple_of(3) {
                    let after = if i.is_multiple_of(5) { TERM + 1 } else { 60_000 };
                    payments.push(payment(placed(i) + after, &name));
                }
            }
        };
        let (from, and, to) = (orders.clone(), payments.clone(), out.clone());
        let declare = move |job: &mut Job| {
            let (orders, payments) = (job.source("orders", from.clone()), job.source("payments", and.clone()));
            unpaid(&orders, &payments, Duration::from_millis(TERM as u64)).sink("out", to.clone());
        };
        let mut cluster = ClusterOptions::new(2).taskmanagers(2).start(declare).unwrap();
        feed(0..2_000);
        orders.wait_until_read().unwrap();
        cluster.checkpoint().unwrap();
        feed(2_000..3_000);
        cluster.kill_taskmanager(1).unwrap();
        cluster.checkpoint().unwrap();
        cluster.restart(1).unwrap();
        feed(3_000..4_000);
        orders.end();
        payments.end();
        cluster.finish().unwrap();
        let mut found: Vec<Str> = names(out.records());
        found.sort();
        let unpaid = |i: &u64| i.is_multiple_of(3) || i.is_multiple_of(5);
        let mut expected: Vec<Str> = (0..4_000).filter(unpaid).map(|i| format_str!("o-{i}")).collect();
        expected.sort();
        assert!(found == expected, "{} of {}", found.len(), expected.len());
    }
}
