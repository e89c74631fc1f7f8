//! A time to the minute, as the input and the output write it: `2013-01-01T10:17Z`.
use weir::prelude::*;

const MINUTE_MS: i64 = 60_000;
const DAY_MINUTES: i64 = 24 * 60;

/// Minutes since the Unix epoch, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Record)]
pub struct Minute(i64);

impl Minute {
    /// The minute of a time in ms since the Unix epoch.
    pub fn of_ms(ms: i64) -> Self {
        Self(ms.div_euclid(MINUTE_MS))
    }
    /// ms since the Unix epoch.
    pub fn ms(self) -> i64 {
        self.0 * MINUTE_MS
    }

    fn parse(text: &str) -> Option<Self> {
        let b = text.as_bytes();
        let punctuated =
            b.len() == 17 && [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b'Z')].iter().all(|&(i, c)| b[i] == c);
        if !punctuated {
            return None;
        }
        let number = |from: usize, to: usize| {
            b[from..to].iter().try_fold(0i64, |n, c| c.is_ascii_digit().then(|| n * 10 + i64::from(c - b'0')))
        };
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute) = (number(11, 13)?, number(14, 16)?);
        let days = days(year, month, day);
        // a day that does not exist comes out as another one
        let fits = (1..=12).contains(&month) && hour < 24 && minute < 60 && date(days) == (year, month, day);
        fits.then_some(Self(days * DAY_MINUTES + hour * 60 + minute))
    }
}

/// Days from 1970-01-01 to a date; years begin in March here, so that the leap day is the last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

/// Year, month and day of a number of days since 1970-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

impl std::fmt::Display for Minute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (year, month, day) = date(self.0.div_euclid(DAY_MINUTES));
        let minutes = self.0.rem_euclid(DAY_MINUTES);
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}Z", minutes / 60, minutes % 60)
    }
}

impl Serialize for Minute {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Minute {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = Str::deserialize(deserializer)?;
        let bad = || serde::de::Error::custom(format_args!("{text:?} is not a time such as 2013-01-01T10:17Z"));
        Self::parse(&text).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_as_they_were_written() {
        for text in
            ["1970-01-01T00:00Z", "2013-01-01T10:17Z", "2012-02-29T23:59Z", "2000-03-01T00:00Z", "1969-12-31T23:59Z"]
        {
            assert_eq!(Minute::parse(text).map(|m| m.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Minute::parse("2013-01-01T10:17Z").map(Minute::ms), Some(1_357_035_420_000));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2013-02-29T00:00Z",
            "2013-13-01T00:00Z",
            "2013-01-01T24:00Z",
            "2013-01-01 10:17Z",
            "2013-01-01T10:1xZ",
        ] {
            assert_eq!(Minute::parse(text), None, "{text}");
        }
    }
}
