//! The queries as jobs. The benchmark's program is the jobs' program too: `nexmark local --query q5 ...` runs one.
use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use weir::job::{KeyedCoProcessFunction, WatermarkStrategy};
use weir::prelude::*;

use crate::events::{Auction, Bid, Event, FIRST_CATEGORY, Nexmark, Person};
use crate::rows::{Row, Rows};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Query {
    Q0,
    Q1,
    Q2,
    Q3,
    Q4,
    Q5,
    Q6,
    Q7,
    Q8,
}

impl Query {
    pub const ALL: [Self; 9] =
        [Self::Q0, Self::Q1, Self::Q2, Self::Q3, Self::Q4, Self::Q5, Self::Q6, Self::Q7, Self::Q8];

    pub fn id(self) -> &'static str {
        ["q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "q8"][self as usize]
    }
    pub fn name(self) -> &'static str {
        [
            "pass through",
            "currency conversion",
            "selection",
            "local item suggestion",
            "average price for a category",
            "hot items",
            "average selling price by seller",
            "highest bid",
            "monitor new users",
        ][self as usize]
    }
}

/// Size and slide of the windows of q5; size of those of q7 and q8; ms.
pub const HOT_ITEMS: (i64, i64) = (10_000, 2_000);
pub const PERIOD: i64 = 10_000;
/// Of sellers that q3 looks for.
pub const LOCAL: [&str; 3] = ["OR", "ID", "CA"];
/// q2 looks for auctions with multiples of this number.
pub const SELECTED: u64 = 123;
/// Euros for 1,000 dollars.
pub const EUROS: u64 = 908;
/// Sales that q6 looks at.
pub const LAST_SALES: usize = 10;
/// Parts in which q7 finds the highest bid before it compares them.
const FANOUT: u64 = 64;

#[derive(clap::Args)]
pub struct JobArguments {
    #[arg(long)]
    query: Query,
    #[arg(long)]
    events: u64,
    /// Events per second of event time
    #[arg(long)]
    rate: u64,
    #[arg(long)]
    seed: u64,
    /// Folder for what each subtask of the sink has to tell
    #[arg(long)]
    report: PathBuf,
    /// Keep the rows, to compare them
    #[arg(long)]
    verify: bool,
}

/// Becomes the process that the command line says: `local`, `jobmanager`, `taskmanager`.
pub fn main() -> ExitCode {
    weir::main(declare)
}

fn declare(job: &mut Job, args: &JobArguments) -> weir::Result<()> {
    let nexmark = Nexmark::new(args.seed, args.rate);
    let strategy = WatermarkStrategy::monotonous().timestamps(Event::date_time);
    let events = job.source("events", Generator::new(args.events, move |i| nexmark.event(i))).watermarks(strategy);
    match args.query {
        Query::Q0 => out(args, bids(&events)),
        Query::Q1 => out(args, bids(&events).map(|b| Converted { millicents: b.price * EUROS, bid: b })),
        Query::Q2 => {
            let selected = events.flat_map(|e, out| match e {
                Event::Bid(b) if b.auction.is_multiple_of(SELECTED) => out.push((b.auction, b.price)),
                _ => {}
            });
            out(args, selected);
        }
        Query::Q3 => out(args, local_items(&events)),
        Query::Q4 => {
            let average = winning_bids(&events).key_by(|w| &w.category).process(
                "average price",
                |(sum, n): &mut (u64, u64), winning: Winning, out| {
                    (*sum, *n) = (*sum + winning.price, *n + 1);
                    out.push(Average { category: winning.category, sales: *n, price: *sum / *n });
                },
            );
            out(args, average);
        }
        Query::Q5 => out(args, hot_items(&events)),
        Query::Q6 => {
            let make = || LastSales {
                waiting: ListState::new("waiting"),
                last: ValueState::new("last"),
                timers: Timers::new("timers"),
            };
            out(args, winning_bids(&events).key_by(|w| &w.seller).process_function("last sales", make));
        }
        Query::Q7 => out(args, highest_bids(&events)),
        Query::Q8 => out(args, new_users(&events)),
    }
    Ok(())
}

fn out<T: Row>(args: &JobArguments, rows: Stream<T>) {
    rows.sink("rows", Rows::new(args.report.clone(), args.verify));
}

fn ms(n: i64) -> Duration {
    Duration::from_millis(n as u64)
}

fn bids(events: &Stream<Event>) -> Stream<Bid> {
    events.flat_map(|e, out| {
        if let Event::Bid(bid) = e {
            out.push(bid);
        }
    })
}

/// A bid with its price in thousandths of a Euro cent.
#[derive(Debug, Clone, PartialEq, Record)]
pub struct Converted {
    pub bid: Bid,
    pub millicents: u64,
}

/// The bids, which are most of the events, are left out before the stream is split in two.
fn without_bids(events: &Stream<Event>) -> (Stream<Person>, Stream<Auction>) {
    let others = events.filter(|e| !matches!(e, Event::Bid(_)));
    let persons = others.flat_map(|e, out| {
        if let Event::Person(p) = e {
            out.push(*p);
        }
    });
    let auctions = others.flat_map(|e, out| {
        if let Event::Auction(a) = e {
            out.push(*a);
        }
    });
    (persons, auctions)
}

/// Who sells in one of three states, in one category: name, city, state, auction.
pub type LocalItem = (Str, Str, Str, u64);

fn local_items(events: &Stream<Event>) -> Stream<LocalItem> {
    let (persons, auctions) = without_bids(events);
    let sellers = persons.filter(|p| LOCAL.contains(&p.state.as_str())).key_by(|p| &p.id);
    let auctions = auctions.filter(|a| a.category == FIRST_CATEGORY).map(|a| (a.seller, a.id)).key_by(|a| &a.0);
    let make = || LocalItems { seller: ValueState::new("seller"), waiting: ListState::new("waiting") };
    sellers.connect(&auctions).process_function("local items", make)
}

/// An incremental join: whoever comes first waits for the other.
struct LocalItems {
    seller: ValueState<u64, (Str, Str, Str)>,
    waiting: ListState<u64, u64>,
}

impl KeyedCoProcessFunction for LocalItems {
    type Key = u64;
    type In1 = Person;
    type In2 = (u64, u64);
    type Out = LocalItem;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.seller, &mut self.waiting]
    }
    fn process1(&mut self, key: &KeyRef<'_, u64>, p: &Person, out: &mut Output<LocalItem>) -> Result<()> {
        for id in self.waiting.take(key) {
            out.push((p.name.clone(), p.city.clone(), p.state.clone(), id));
        }
        self.seller.update(key, (p.name.clone(), p.city.clone(), p.state.clone()));
        Ok(())
    }
    fn process2(&mut self, key: &KeyRef<'_, u64>, auction: &(u64, u64), out: &mut Output<LocalItem>) -> Result<()> {
        match self.seller.get(key) {
            Some((name, city, state)) => out.push((name.clone(), city.clone(), state.clone(), auction.1)),
            None => self.waiting.add(key, auction.1),
        }
        Ok(())
    }
}

/// What an auction was sold for.
#[derive(Debug, Clone, Record)]
pub struct Winning {
    pub auction: u64,
    pub seller: u64,
    pub category: u64,
    pub price: u64,
    pub expires: i64,
}

/// Auction, price, time.
type Offer = (u64, u64, i64);
const OFFERS: OutputTag<Offer> = OutputTag::new("offers");

/// Sends auctions one way and bids the other, without a copy of either.
struct Split(SideOutput<Offer>);

impl ProcessFunction for Split {
    type In = Event;
    type Out = Auction;
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        vec![&mut self.0]
    }
    fn process(&mut self, event: Event, out: &mut Output<Auction>) -> Result<()> {
        match event {
            Event::Bid(b) => out.push_to(&mut self.0, (b.auction, b.price, b.date_time)),
            Event::Auction(a) => out.push(*a),
            Event::Person(_) => {}
        }
        Ok(())
    }
}

/// The highest bid of each auction that came while it was open, when it closes.
fn winning_bids(events: &Stream<Event>) -> Stream<Winning> {
    let auctions = events.process(|| Split(SideOutput::new(OFFERS))).name("split");
    let offers = auctions.side_output(OFFERS).key_by(|o| &o.0);
    let make =
        || WinningBids { open: ValueState::new("open"), early: ListState::new("early"), timers: Timers::new("timers") };
    auctions.key_by(|a| &a.id).connect(&offers).process_function("winning bids", make)
}

#[derive(Clone, Record)]
struct Open {
    begins: i64,
    winning: Winning,
}

struct WinningBids {
    /// With a price of 0 as long as nobody has offered anything.
    open: ValueState<u64, Open>,
    /// Offers that came before their auction: price and time.
    early: ListState<u64, (u64, i64)>,
    timers: Timers<u64>,
}

impl Open {
    fn offer(&mut self, price: u64, time: i64) {
        if (self.begins..=self.winning.expires).contains(&time) {
            self.winning.price = self.winning.price.max(price);
        }
    }
}

impl KeyedCoProcessFunction for WinningBids {
    type Key = u64;
    type In1 = Auction;
    type In2 = Offer;
    type Out = Winning;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.open, &mut self.early, &mut self.timers]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.timers)
    }
    fn process1(&mut self, key: &KeyRef<'_, u64>, a: &Auction, _: &mut Output<Winning>) -> Result<()> {
        let winning = Winning { auction: a.id, seller: a.seller, category: a.category, price: 0, expires: a.expires };
        let mut open = Open { begins: a.date_time, winning };
        self.early.take(key).into_iter().for_each(|(price, time)| open.offer(price, time));
        self.open.update(key, open);
        self.timers.register_event_time(key, a.expires);
        Ok(())
    }
    fn process2(&mut self, key: &KeyRef<'_, u64>, &(_, price, time): &Offer, _: &mut Output<Winning>) -> Result<()> {
        if let Some(open) = self.open.get_mut(key) {
            open.offer(price, time);
        } else if time > self.timers.watermark() {
            // when event time is there, the auction has come if it had begun
            self.early.add(key, (price, time));
            self.timers.register_event_time(key, time);
        }
        Ok(())
    }
    fn on_timer(&mut self, key: &KeyRef<'_, u64>, timer: &Timer, out: &mut Output<Winning>) -> Result<()> {
        if self.open.get(key).is_some_and(|o| o.winning.expires <= timer.timestamp)
            && let Some(sold) = self.open.take(key)
            && sold.winning.price > 0
        {
            out.push(sold.winning);
        }
        let early = self.early.take(key).into_iter().filter(|e| e.1 > timer.timestamp).collect();
        self.early.update(key, early);
        Ok(())
    }
}

/// Average so far.
#[derive(Debug, Clone, Record)]
pub struct Average {
    pub category: u64,
    pub sales: u64,
    pub price: u64,
}

/// Average price of the last sales of each seller, in the order in which they were closed.
struct LastSales {
    /// When it closes, auction, price: sales come in any order from the subtasks before.
    waiting: ListState<u64, (i64, u64, u64)>,
    last: ValueState<u64, Vec<u64>>,
    timers: Timers<u64>,
}

impl KeyedProcessFunction for LastSales {
    type Key = u64;
    type In = Winning;
    /// Seller, average.
    type Out = (u64, u64);
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.waiting, &mut self.last, &mut self.timers]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.timers)
    }
    fn process(&mut self, key: &KeyRef<'_, u64>, sale: &Winning, _: &mut Output<(u64, u64)>) -> Result<()> {
        self.waiting.add(key, (sale.expires, sale.auction, sale.price));
        self.timers.register_event_time(key, sale.expires);
        Ok(())
    }
    fn on_timer(&mut self, key: &KeyRef<'_, u64>, timer: &Timer, out: &mut Output<(u64, u64)>) -> Result<()> {
        let mut waiting = self.waiting.take(key);
        waiting.sort_unstable();
        let closed = waiting.partition_point(|s| s.0 <= timer.timestamp);
        let mut last: VecDeque<u64> = self.last.take(key).unwrap_or_default().into();
        for (_, _, price) in waiting.drain(..closed) {
            if last.len() == LAST_SALES {
                last.pop_front();
            }
            last.push_back(price);
            out.push((*key.key, last.iter().sum::<u64>() / last.len() as u64));
        }
        self.last.update(key, last.into());
        self.waiting.update(key, waiting);
        Ok(())
    }
}

#[derive(Clone)]
struct CountAll;

impl AggregateFunction for CountAll {
    type In = u64;
    type Acc = u64;
    type Out = u64;
    fn create(&self) -> u64 {
        0
    }
    fn add(&self, count: &mut u64, _: u64) {
        *count += 1;
    }
    fn result(&self, count: &u64) -> u64 {
        *count
    }
    fn merge(&self, count: &mut u64, other: u64) {
        *count += other;
    }
}

/// Those with the highest value of all, usually one.
#[derive(Clone)]
struct Highest<T, F>(F, std::marker::PhantomData<fn() -> T>);

impl<T: Data, F: Fn(&T) -> u64 + Clone + Send + Sync + 'static> AggregateFunction for Highest<T, F> {
    type In = T;
    type Acc = Vec<T>;
    type Out = Vec<T>;
    fn create(&self) -> Vec<T> {
        Vec::new()
    }
    fn add(&self, highest: &mut Vec<T>, record: T) {
        let value = (self.0)(&record);
        let best = highest.first().map_or(0, &self.0);
        if value > best {
            highest.clear();
        }
        if value >= best {
            highest.push(record);
        }
    }
    fn result(&self, highest: &Vec<T>) -> Vec<T> {
        highest.clone()
    }
    fn merge(&self, highest: &mut Vec<T>, other: Vec<T>) {
        other.into_iter().for_each(|record| self.add(highest, record));
    }
}

/// End of the window, auction, bids.
pub type HotItem = (i64, u64, u64);

/// The auctions with the most bids in each window.
fn hot_items(events: &Stream<Event>) -> Stream<HotItem> {
    let (size, slide) = HOT_ITEMS;
    let auctions = events.flat_map(|e, out| {
        if let Event::Bid(bid) = e {
            out.push(bid.auction);
        }
    });
    auctions
        .key_by(|auction| auction)
        .window(Sliding::of(ms(size), ms(slide)))
        .aggregate_with("bids", CountAll, |auction: &u64, window, n, out| out.push((window.end, *auction, n)))
        .key_by(|item: &HotItem| &item.0)
        // results have the last ms of their window: each window has one of these to itself
        .window(Tumbling::of(ms(slide)))
        .aggregate_with("most", Highest(|item: &HotItem| item.2, std::marker::PhantomData), |_, _, items, out| {
            items.into_iter().for_each(|item| out.push(item));
        })
}

/// The bids with the highest price of each period.
fn highest_bids(events: &Stream<Event>) -> Stream<Bid> {
    let highest = Highest(|b: &Bid| b.price, std::marker::PhantomData);
    let all = |highest: Vec<Bid>, out: &mut Output<Bid>| highest.into_iter().for_each(|bid| out.push(bid));
    bids(events)
        .key_by_value(|b| b.auction % FANOUT)
        .window(Tumbling::of(ms(PERIOD)))
        .aggregate_with("highest of a part", highest.clone(), move |_, _, highest, out| all(highest, out))
        .key_by_value(|b| b.date_time.div_euclid(PERIOD))
        .window(Tumbling::of(ms(PERIOD)))
        .aggregate_with("highest", highest, move |_, _, highest, out| all(highest, out))
}

/// Person, name, reserve of an auction.
pub type NewUser = (u64, Str, u64);

/// Who came and put something up for auction within the same period.
fn new_users(events: &Stream<Event>) -> Stream<NewUser> {
    let (persons, auctions) = without_bids(events);
    let persons = persons.map(|p| (p.id, p.name)).key_by(|p| &p.0);
    let auctions = auctions.map(|a| (a.seller, a.reserve)).key_by(|a| &a.0);
    persons
        .join(&auctions)
        .window(Tumbling::of(ms(PERIOD)))
        .apply("new users", |person, auction, out| out.push((person.0, person.1.clone(), auction.1)))
}
