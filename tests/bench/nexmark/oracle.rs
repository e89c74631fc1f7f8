//! What each query must give: plain loops over all events in the order of their time, without any of the engine.
use std::collections::{BTreeMap, BTreeSet};

use crate::events::{Auction, Bid, Event, FIRST_CATEGORY, Nexmark, Person};
use crate::queries::{Converted, EUROS, HOT_ITEMS, LAST_SALES, LOCAL, PERIOD, Query, SELECTED};
use crate::rows::Row as _;

pub struct Oracle {
    persons: Vec<Person>,
    auctions: Vec<Auction>,
    bids: Vec<Bid>,
}

impl Oracle {
    pub fn new(nexmark: Nexmark, events: u64) -> Self {
        let mut all = Self { persons: Vec::new(), auctions: Vec::new(), bids: Vec::new() };
        for event in (0..events).map(|i| nexmark.event(i)) {
            match event {
                Event::Person(p) => all.persons.push(*p),
                Event::Auction(a) => all.auctions.push(*a),
                Event::Bid(b) => all.bids.push(b),
            }
        }
        all
    }

    /// The rows, sorted. Of q4, whose averages depend on the order in which auctions that close at the same time are looked
    /// at, the last one of each category.
    pub fn rows(&self, query: Query) -> Vec<String> {
        let mut rows: Vec<String> = match query {
            Query::Q0 => self.bids.iter().map(Bid::line).collect(),
            Query::Q1 => {
                let convert = |b: &Bid| Converted { bid: b.clone(), millicents: b.price * EUROS }.line();
                self.bids.iter().map(convert).collect()
            }
            Query::Q2 => {
                let selected = self.bids.iter().filter(|b| b.auction % SELECTED == 0);
                selected.map(|b| (b.auction, b.price).line()).collect()
            }
            Query::Q3 => self.local_items(),
            Query::Q4 => self.averages(),
            Query::Q5 => self.hot_items(),
            Query::Q6 => self.last_sales(),
            Query::Q7 => self.highest_bids(),
            Query::Q8 => self.new_users(),
        };
        rows.sort_unstable();
        rows
    }

    fn local_items(&self) -> Vec<String> {
        let mut rows = Vec::new();
        let persons: BTreeMap<u64, &Person> = self.persons.iter().map(|p| (p.id, p)).collect();
        for auction in self.auctions.iter().filter(|a| a.category == FIRST_CATEGORY) {
            if let Some(p) = persons.get(&auction.seller)
                && LOCAL.contains(&p.state.as_str())
            {
                rows.push((p.name.clone(), p.city.clone(), p.state.clone(), auction.id).line());
            }
        }
        rows
    }

    /// The auctions that were sold, with their prices, in the order in which they closed.
    fn sales(&self) -> Vec<(&Auction, u64)> {
        let mut bids: BTreeMap<u64, Vec<&Bid>> = BTreeMap::new();
        self.bids.iter().for_each(|b| bids.entry(b.auction).or_default().push(b));
        let mut sales = Vec::new();
        for auction in &self.auctions {
            let open = auction.date_time..=auction.expires;
            let offers = bids.get(&auction.id).into_iter().flatten().filter(|b| open.contains(&b.date_time));
            if let Some(price) = offers.map(|b| b.price).max() {
                sales.push((auction, price));
            }
        }
        sales.sort_by_key(|(a, _)| (a.expires, a.id));
        sales
    }

    fn averages(&self) -> Vec<String> {
        let mut prices: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        self.sales().into_iter().for_each(|(a, price)| prices.entry(a.category).or_default().push(price));
        let average = |(category, prices): (u64, Vec<u64>)| {
            let n = prices.len() as u64;
            format!("{category} {n} {}", prices.iter().sum::<u64>() / n)
        };
        prices.into_iter().map(average).collect()
    }

    fn last_sales(&self) -> Vec<String> {
        let mut rows = Vec::new();
        let mut sold: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (auction, price) in self.sales() {
            let prices = sold.entry(auction.seller).or_default();
            prices.push(price);
            let last = &prices[prices.len().saturating_sub(LAST_SALES)..];
            rows.push((auction.seller, last.iter().sum::<u64>() / last.len() as u64).line());
        }
        rows
    }

    fn hot_items(&self) -> Vec<String> {
        let (size, slide) = HOT_ITEMS;
        let mut rows = Vec::new();
        let last = self.bids.last().map_or(0, |b| b.date_time);
        for end in (1..).map(|i| i * slide).take_while(|end| end - size <= last) {
            let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
            for bid in self.bids.iter().filter(|b| (end - size..end).contains(&b.date_time)) {
                *counts.entry(bid.auction).or_default() += 1;
            }
            let most = counts.values().copied().max();
            let hottest = counts.into_iter().filter(|(_, n)| Some(*n) == most);
            rows.extend(hottest.map(|(auction, n)| (end, auction, n).line()));
        }
        rows
    }

    fn highest_bids(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for bids in self.bids.chunk_by(|a, b| a.date_time / PERIOD == b.date_time / PERIOD) {
            let highest = bids.iter().map(|b| b.price).max();
            rows.extend(bids.iter().filter(|b| Some(b.price) == highest).map(Bid::line));
        }
        rows
    }

    fn new_users(&self) -> Vec<String> {
        let period = |time: i64| time / PERIOD;
        let came: BTreeSet<(i64, u64)> = self.persons.iter().map(|p| (period(p.date_time), p.id)).collect();
        let names: BTreeMap<u64, &Person> = self.persons.iter().map(|p| (p.id, p)).collect();
        let new = self.auctions.iter().filter(|a| came.contains(&(period(a.date_time), a.seller)));
        new.map(|a| (a.seller, names[&a.seller].name.clone(), a.reserve).line()).collect()
    }
}

/// Of the running averages of q4, the last one of each category.
pub fn last_averages(lines: &[String]) -> Vec<String> {
    let mut last: BTreeMap<&str, (u64, &String)> = BTreeMap::new();
    for line in lines {
        let mut words = line.split(' ');
        let (category, sales) = (words.next().unwrap_or_default(), words.next().and_then(|n| n.parse().ok()));
        let before = last.entry(category).or_insert((0, line));
        *before = (*before).max((sales.unwrap_or(0), line));
    }
    let mut lines: Vec<String> = last.into_values().map(|(_, line)| line.clone()).collect();
    lines.sort_unstable();
    lines
}
