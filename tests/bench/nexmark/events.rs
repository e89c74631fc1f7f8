//! The events of an online auction, as Nexmark defines them: of 50 events one is a new person, three are auctions, 46 bids.
//!
//! An event follows from the seed and its number alone, so any number of subtasks make the same stream together. Hot sellers,
//! auctions and bidders, prices, lengths of auctions and sizes of events are those of Nexmark's generator.
use std::array;
use std::sync::OnceLock;

use weir::connectors::random;
use weir::prelude::*;

const PERSONS: u64 = 1;
const AUCTIONS: u64 = 3;
/// Events after which the pattern begins again: 1 person, 3 auctions, 46 bids.
const ROUND: u64 = 50;

const FIRST_PERSON: u64 = 1000;
const FIRST_AUCTION: u64 = 1000;
pub const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;

/// One in so many sellers, auctions and bidders is a hot one.
const HOT: u64 = 100;
/// People that sell and bid at any time; auctions that are open.
const ACTIVE_PEOPLE: u64 = 1000;
const OPEN_AUCTIONS: u64 = 100;
/// Sellers and auctions may be so far ahead of those that exist: they come a little later.
const LEAD: u64 = 10;

const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
/// Channels that are not hot.
const COLD_CHANNELS: usize = 10_000;

/// Bytes of an event on average.
const PERSON_SIZE: usize = 200;
const AUCTION_SIZE: usize = 500;
const BID_SIZE: usize = 100;

#[derive(Debug, Clone, PartialEq, Record)]
pub struct Person {
    pub id: u64,
    pub name: Str,
    pub email: Str,
    pub credit_card: Str,
    pub city: Str,
    pub state: Str,
    pub date_time: i64,
    pub extra: Str,
}

#[derive(Debug, Clone, PartialEq, Record)]
pub struct Auction {
    pub id: u64,
    pub item_name: Str,
    pub description: Str,
    pub initial_bid: u64,
    pub reserve: u64,
    pub date_time: i64,
    pub expires: i64,
    pub seller: u64,
    pub category: u64,
    pub extra: Str,
}

#[derive(Debug, Clone, PartialEq, Record)]
pub struct Bid {
    pub auction: u64,
    pub bidder: u64,
    /// Cents.
    pub price: u64,
    pub channel: Str,
    pub url: Str,
    pub date_time: i64,
    pub extra: Str,
}

#[derive(Debug, Clone, PartialEq, Record)]
pub enum Event {
    Person(Box<Person>),
    Auction(Box<Auction>),
    Bid(Bid),
}

impl Event {
    /// Event time in ms since the Unix epoch.
    pub fn date_time(&self) -> i64 {
        match self {
            Self::Person(p) => p.date_time,
            Self::Auction(a) => a.date_time,
            Self::Bid(b) => b.date_time,
        }
    }
}

/// Random numbers of one event.
struct Dice(u64, u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.1 += 1;
        random(self.0, self.1)
    }
    /// `0..n`
    fn below(&mut self, n: u64) -> u64 {
        ((self.roll() >> 32) * n) >> 32
    }
    fn one_of<T: Copy, const N: usize>(&mut self, all: &[T; N]) -> T {
        all[self.below(N as u64) as usize]
    }
}

/// What all events are made of; made once, never given back: texts are parts of it.
struct Stock {
    text: &'static str,
    /// 10^(6 * i / 2^10), ^(.. / 2^20), ^(.. / 2^30): a random power is the product of three.
    powers: [[f64; 1024]; 3],
    /// Name and address.
    channels: Vec<(Str, Str)>,
    hot_channels: [(Str, Str); 4],
}

impl Stock {
    fn new() -> Self {
        let mut dice = Dice(0x5eed, 0);
        let text: String = (0..1 << 20)
            .map(|_| match dice.below(13) {
                0 => ' ',
                _ => char::from(b'a' + dice.below(26) as u8),
            })
            .collect();
        let text: &'static str = Box::leak(text.into_boxed_str());
        let keep = |url: String| Str::const_new(Box::leak(url.into_boxed_str()));
        let mut part = || {
            let at = dice.below(1 << 19) as usize;
            text[at..at + 4].replace(' ', "_")
        };
        let mut url = || format!("https://www.nexmark.com/{}/{}/{}/item.htm?query=1", part(), part(), part());
        let hot_channels = CHANNELS.map(|name| (Str::const_new(name), keep(url())));
        let cold = |i: usize| {
            (format_str!("channel-{i}"), keep(format!("{}&channel_id={}", url(), (i as u32).reverse_bits() >> 1)))
        };
        let channels = (0..COLD_CHANNELS).map(cold).collect();
        let powers = array::from_fn(|digit| {
            let part = 1024f64.powi(digit as i32 + 1);
            array::from_fn(|i| 10f64.powf(6.0 * i as f64 / part))
        });
        Self { text, powers, channels, hot_channels }
    }

    /// A text of this length, where `at` is random.
    fn text(&self, at: u64, length: usize) -> Str {
        let at = (at & 0x7_ffff) as usize;
        Str::const_new(&self.text[at..at + length])
    }
    fn string(&self, dice: &mut Dice, longest: u64) -> Str {
        let length = 3 + dice.below(longest - 3);
        self.text(dice.roll(), length as usize)
    }
    /// Brings the event to a size that is `wanted` on average, give or take a fifth of it.
    fn extra(&self, dice: &mut Dice, size: usize, wanted: usize) -> Str {
        let missing = wanted.saturating_sub(size);
        let delta = missing / 5;
        let roll = dice.roll();
        let more = (roll >> 32) as usize % (2 * delta).max(1);
        self.text(roll, missing - delta + more)
    }
    /// Cents: a million dollars is as likely as one.
    fn price(&self, dice: &mut Dice) -> u64 {
        let roll = dice.roll();
        let digit = |i: usize| self.powers[i][(roll >> (54 - 10 * i)) as usize & 1023];
        (digit(0) * digit(1) * digit(2) * 100.0).round() as u64
    }
}

/// The stream of events.
#[derive(Clone, Copy)]
pub struct Nexmark {
    seed: u64,
    /// Events per second of event time.
    rate: u64,
    stock: &'static Stock,
}

fn last_person(number: u64) -> u64 {
    number / ROUND
}

/// Number of the auction that came last, from 0; before the first one, 0.
fn last_auction(number: u64) -> u64 {
    let (round, at) = (number / ROUND, number % ROUND);
    match at.checked_sub(PERSONS) {
        None => (round * AUCTIONS).saturating_sub(1),
        Some(at) => round * AUCTIONS + at.min(AUCTIONS - 1),
    }
}

fn some_person(number: u64, dice: &mut Dice) -> u64 {
    let people = last_person(number) + 1;
    let active = people.min(ACTIVE_PEOPLE);
    people - active + dice.below(active + LEAD)
}

fn some_auction(number: u64, dice: &mut Dice) -> u64 {
    let last = last_auction(number);
    let first = last.saturating_sub(OPEN_AUCTIONS);
    first + dice.below(last - first + 1 + LEAD)
}

impl Nexmark {
    /// `rate` in events per second of event time.
    pub fn new(seed: u64, rate: u64) -> Self {
        static STOCK: OnceLock<Stock> = OnceLock::new();
        Self { seed, rate: rate.max(1), stock: STOCK.get_or_init(Stock::new) }
    }

    fn time(&self, number: u64) -> i64 {
        (u128::from(number) * 1000 / u128::from(self.rate)) as i64
    }

    /// Event `number` of the stream; times go up with the numbers.
    pub fn event(&self, number: u64) -> Event {
        let time = (number.wrapping_mul(1000) / self.rate) as i64;
        let mut dice = Dice(self.seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93), 0);
        match number % ROUND {
            at if at < PERSONS => Event::Person(Box::new(self.person(number, time, &mut dice))),
            at if at < PERSONS + AUCTIONS => Event::Auction(Box::new(self.auction(number, time, &mut dice))),
            _ => Event::Bid(self.bid(number, time, &mut dice)),
        }
    }

    fn person(&self, number: u64, date_time: i64, dice: &mut Dice) -> Person {
        let name = format_str!("{} {}", dice.one_of(&FIRST_NAMES), dice.one_of(&LAST_NAMES));
        let (user, host) = (self.stock.string(dice, 7), self.stock.string(dice, 5));
        let email = format_str!("{}@{}.com", user.trim(), host.trim());
        let mut four = || dice.below(10_000);
        let credit_card = format_str!("{:04} {:04} {:04} {:04}", four(), four(), four(), four());
        let (city, state) = (Str::const_new(dice.one_of(&CITIES)), Str::const_new(dice.one_of(&STATES)));
        let size = 8 + name.len() + email.len() + credit_card.len() + city.len() + state.len();
        let extra = self.stock.extra(dice, size, PERSON_SIZE);
        Person { id: FIRST_PERSON + last_person(number), name, email, credit_card, city, state, date_time, extra }
    }

    fn auction(&self, number: u64, date_time: i64, dice: &mut Dice) -> Auction {
        let seller = match dice.below(4) {
            0 => some_person(number, dice),
            _ => last_person(number) / HOT * HOT,
        };
        let category = FIRST_CATEGORY + dice.below(CATEGORIES);
        let initial_bid = self.stock.price(dice);
        // on average until as many auctions as are open have come
        let horizon = self.time(number + OPEN_AUCTIONS * ROUND / AUCTIONS) - date_time;
        let expires = date_time + 1 + dice.below((2 * horizon).max(1) as u64) as i64;
        let (item_name, description) = (self.stock.string(dice, 20), self.stock.string(dice, 100));
        let reserve = initial_bid + self.stock.price(dice);
        let size = 8 + item_name.len() + description.len() + 5 * 8;
        let extra = self.stock.extra(dice, size, AUCTION_SIZE);
        Auction {
            id: FIRST_AUCTION + last_auction(number),
            item_name,
            description,
            initial_bid,
            reserve,
            date_time,
            expires,
            seller: FIRST_PERSON + seller,
            category,
            extra,
        }
    }

    fn bid(&self, number: u64, date_time: i64, dice: &mut Dice) -> Bid {
        let auction = match dice.below(2) {
            0 => some_auction(number, dice),
            _ => last_auction(number) / HOT * HOT,
        };
        let bidder = match dice.below(4) {
            0 => some_person(number, dice),
            // another one than the hot seller
            _ => last_person(number) / HOT * HOT + 1,
        };
        let price = self.stock.price(dice);
        let (channel, url) = match dice.below(2) {
            0 => self.stock.channels[dice.below(COLD_CHANNELS as u64) as usize].clone(),
            _ => self.stock.hot_channels[dice.below(4) as usize].clone(),
        };
        let extra = self.stock.extra(dice, 4 * 8, BID_SIZE);
        Bid { auction: FIRST_AUCTION + auction, bidder: FIRST_PERSON + bidder, price, channel, url, date_time, extra }
    }
}

/// What the stream must be like, whatever its seed; complains of the first thing that is not.
pub fn check(seed: u64) -> anyhow::Result<()> {
    let (nexmark, n) = (Nexmark::new(seed, 10_000), 50_000);
    let (mut persons, mut auctions, mut bids, mut hot, mut time, mut bytes) = (0, 0, 0, 0, 0, 0);
    for number in 0..n {
        let event = nexmark.event(number);
        anyhow::ensure!(event == nexmark.event(number), "event {number} is not the same twice");
        anyhow::ensure!(event.date_time() >= time, "event {number} is before the one before");
        time = event.date_time();
        match event {
            Event::Person(p) => {
                anyhow::ensure!(p.id == FIRST_PERSON + persons, "person {} is not number {persons}", p.id);
                persons += 1;
            }
            Event::Auction(a) => {
                anyhow::ensure!(a.id == FIRST_AUCTION + auctions, "auction {} is not number {auctions}", a.id);
                anyhow::ensure!(a.expires > a.date_time && a.reserve > a.initial_bid, "auction {}: {a:?}", a.id);
                auctions += 1;
            }
            Event::Bid(b) => {
                anyhow::ensure!((100..=100_000_000).contains(&b.price), "a price of {}", b.price);
                anyhow::ensure!(b.auction < FIRST_AUCTION + auctions + LEAD, "a bid for auction {}", b.auction);
                bids += 1;
                hot += u64::from(b.auction % HOT == 0);
                bytes += 4 * 8 + b.extra.len() as u64;
            }
        }
    }
    anyhow::ensure!((persons, auctions, bids) == (n / 50, n / 50 * 3, n / 50 * 46), "not 1 : 3 : 46");
    anyhow::ensure!((45..60).contains(&(hot * 100 / bids)), "{hot} of {bids} bids are for hot auctions");
    anyhow::ensure!((90..110).contains(&(bytes / bids)), "bids have {} bytes", bytes / bids);
    Ok(())
}
