//! The input of the functions job, by index: what the job reads and what its output is judged by.

/// Key, number, event time in ms.
pub type Rec = (u64, u64, i64);
/// Key, start and end of the window, the numbers in it.
pub type Row = (u64, i64, i64, Vec<u64>);

pub const KEYS: u64 = 30;
pub const RULES: u64 = 100;
/// Every second order has a payment.
pub const fn payments(orders: u64) -> u64 {
    orders / 2
}

/// Splitmix64 of a seed and an index.
fn random(seed: u64, index: u64) -> u64 {
    let mut z = seed ^ index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Ten records a ms, most of them up to 120 ms out of order, some a second: those are late.
pub fn event(i: u64) -> Rec {
    let r = random(11, i);
    let delay = if r.is_multiple_of(50) { (r >> 8) % 1_000 } else { (r >> 8) % 120 };
    (r % KEYS, i, (i / 10) as i64 - delay as i64)
}
/// No event comes later than this, in ms, after one with a later time.
pub const EVENTS_OUT_OF_ORDER: u64 = 1_000;
/// Windows of events: size, out-of-orderness that their watermarks allow for, allowed lateness, all in ms.
pub const WINDOW: [u64; 3] = [100, 60, 150];
/// Sessions end behind a pause of so many ms.
pub const GAP: u64 = 40;

/// Ten records a ms, up to 50 ms out of order.
pub fn order(i: u64) -> Rec {
    (i % KEYS, i, (i / 10) as i64 - (random(3, i) % ORDERS_OUT_OF_ORDER) as i64)
}
pub const ORDERS_OUT_OF_ORDER: u64 = 50;

/// The payment of every second order, a little later.
pub fn payment(i: u64) -> Rec {
    let (key, number, time) = order(2 * i);
    (key, number, time + (random(4, i) % 40) as i64)
}
pub const PAYMENTS_OUT_OF_ORDER: u64 = 90;

/// Payments join orders that are at most so many ms later, or earlier.
pub const JOINED: [i64; 2] = [-5, 15];

/// How often a call of the service is pending before it answers.
pub fn patience(number: u64) -> u64 {
    random(5, number) % 20
}
