//! Instants, to the microsecond, in the spellings that Qdrant reads.
//!
//! `YYYY-MM-DD`, then `T` or a space and `HH:MM`, `HH:MM:SS` or `HH:MM:SS.f`, then `Z`, `+HH:MM`, `+HHMM` or `+HH`; without an
//! offset it is UTC, and without a time it is midnight. Digits beyond microseconds are cut off.

use std::fmt;
use std::str::FromStr;

const SECONDS_A_DAY: i64 = 86_400;
const MICROS_A_SECOND: i64 = 1_000_000;

/// An instant of the years 0 to 9999, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Datetime {
    micros: i64,
}

impl Datetime {
    /// `None` outside the years 0 to 9999.
    pub fn from_micros(micros: i64) -> Option<Self> {
        let first = days_from_civil(0, 1, 1) * SECONDS_A_DAY * MICROS_A_SECOND;
        let end = days_from_civil(10_000, 1, 1) * SECONDS_A_DAY * MICROS_A_SECOND;
        (first..end).contains(&micros).then_some(Self { micros })
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub fn micros(self) -> i64 {
        self.micros
    }

    /// `None` if the text is no instant, or one of no calendar.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = Rest(text.as_bytes());
        let year = rest.digits(4)?;
        rest.byte(b'-')?;
        let month = rest.digits(2)?;
        rest.byte(b'-')?;
        let day = rest.digits(2)?;
        if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
            return None;
        }
        let mut seconds = days_from_civil(year, month, day) * SECONDS_A_DAY;
        let mut micros = 0;
        if !rest.0.is_empty() {
            if !rest.one_of(b"Tt ") {
                return None;
            }
            let hour = rest.digits(2)?;
            rest.byte(b':')?;
            let minute = rest.digits(2)?;
            let mut second = 0;
            if rest.one_of(b":") {
                second = rest.digits(2)?;
                if rest.one_of(b".") {
                    micros = rest.fraction()?;
                }
            }
            // 60 is a leap second, which RFC 3339 allows; it is taken for the second after it.
            if hour > 23 || minute > 59 || second > 60 {
                return None;
            }
            seconds += hour * 3600 + minute * 60 + second - rest.offset()?;
        }
        if !rest.0.is_empty() {
            return None;
        }
        Self::from_micros(seconds * MICROS_A_SECOND + micros)
    }
}

/// What of a text is not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn one_of(&mut self, bytes: &[u8]) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if bytes.contains(first) => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        self.one_of(&[byte]).then_some(())
    }

    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        digits.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
    }

    /// Microseconds of the digits behind the dot, of which there is at least one.
    fn fraction(&mut self) -> Option<i64> {
        let count = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        let micros = (0..6).fold(0, |micros, place| micros * 10 + digits.get(place).map_or(0, |byte| i64::from(byte - b'0')));
        (count > 0).then_some(micros)
    }

    /// Seconds east of UTC.
    fn offset(&mut self) -> Option<i64> {
        if self.0.is_empty() || self.one_of(b"Zz") {
            return Some(0);
        }
        let sign = if self.one_of(b"+") {
            1
        } else if self.one_of(b"-") {
            -1
        } else {
            return None;
        };
        let hours = self.digits(2)?;
        let minutes = if self.0.is_empty() {
            0
        } else {
            self.one_of(b":");
            self.digits(2)?
        };
        (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to this day of the Gregorian calendar, extended backwards.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // The leap days of all years before this one, counted from year 0, which is itself one.
    let before = year - 1;
    let leap_days = before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
    let day_of_year = (1..month).map(|month| days_in(year, month)).sum::<i64>() + day;
    before * 365 + leap_days + day_of_year - 719_163
}

/// The year, month and day that are so many days from 1970-01-01.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    // By the mean length of a year, from above, and then down to the year that holds the day.
    let mut year = 1970 + (days * 400).div_euclid(146_097) + 2;
    while days_from_civil(year, 1, 1) > days {
        year -= 1;
    }
    let mut day = days - days_from_civil(year, 1, 1) + 1;
    let mut month = 1;
    while day > days_in(year, month) {
        day -= days_in(year, month);
        month += 1;
    }
    (year, month, day)
}

impl fmt::Display for Datetime {
    /// RFC 3339 in UTC, with a fraction only where there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.micros.div_euclid(MICROS_A_SECOND), self.micros.rem_euclid(MICROS_A_SECOND));
        let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_A_DAY));
        let second = seconds.rem_euclid(SECONDS_A_DAY);
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)?;
        if micros != 0 {
            write!(f, ".{micros:06}")?;
        }
        f.write_str("Z")
    }
}

impl FromStr for Datetime {
    type Err = crate::error::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
            .ok_or_else(|| crate::error::Error::Filter { place: String::new(), reason: format!("`{text}` is no date and time") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> Option<i64> {
        Datetime::parse(text).map(Datetime::micros)
    }

    /// The expected values are those of Python's `datetime`.
    #[test]
    fn every_spelling_of_an_instant_is_the_same_instant() {
        let noon = Some(1_582_977_600_000_000);
        for text in [
            "2020-02-29T12:00:00Z",
            "2020-02-29t12:00:00z",
            "2020-02-29T12:00:00",
            "2020-02-29 12:00:00",
            "2020-02-29 12:00",
            "2020-02-29T12:00",
            "2020-02-29T12:00:00.0",
            "2020-02-29 12:00:00.000000000",
            "2020-02-29T14:00:00+02:00",
            "2020-02-29 14:30:00+0230",
            "2020-02-29T04:00:00.000-08",
            "2020-03-01T00:00:00+12:00",
        ] {
            assert_eq!(micros(text), noon, "{text}");
        }
        assert_eq!(micros("2020-02-29"), Some(1_582_934_400_000_000));
        assert_eq!(micros("2020-02-29T12:00:00.123456789Z"), Some(1_582_977_600_123_456));
        assert_eq!(micros("2020-02-29T12:00:00.5"), Some(1_582_977_600_500_000));
        assert_eq!(micros("1969-12-31T23:59:59.999999Z"), Some(-1));
        assert_eq!(micros("0001-01-01"), Some(-62_135_596_800_000_000));
        assert_eq!(micros("9999-12-31T23:59:59Z"), Some(253_402_300_799_000_000));
    }

    #[test]
    fn what_is_no_instant_is_none() {
        for text in [
            "",
            "2020",
            "2020-1-1",
            "2020-02-30",
            "2021-02-29",
            "2020-13-01",
            "2020-00-01",
            "2020-01-00",
            "2020-01-01T",
            "2020-01-01T24:00:00",
            "2020-01-01T10",
            "2020-01-01T10:60:00",
            "2020-01-01T10:00:61",
            "2020-01-01T10:00:00.",
            "2020-01-01T10:00:00+",
            "2020-01-01T10:00:00+1",
            "2020-01-01T10:00:00+24:00",
            "2020-01-01T10:00:00Zx",
            "2020-01-01x10:00:00",
            "2020-01-01Z",
            "20200101",
            "2020-01-01T10:00:00+01:0",
            "9999-12-31T23:59:59-01:00",
            "0000-01-01T00:00:00+01:00",
            "٢٠٢٠-01-01",
            " 2020-01-01",
        ] {
            assert_eq!(Datetime::parse(text), None, "`{text}` was read");
        }
    }

    #[test]
    fn an_instant_is_written_as_it_is_read_on_every_day() {
        for days in (days_from_civil(0, 1, 1)..days_from_civil(10_000, 1, 1)).step_by(13) {
            let instant = Datetime::from_micros((days * SECONDS_A_DAY + 86_399) * MICROS_A_SECOND + 7).unwrap();
            assert_eq!(Datetime::parse(&instant.to_string()), Some(instant));
        }
        assert_eq!(Datetime::parse("1970-01-01").unwrap().to_string(), "1970-01-01T00:00:00Z");
    }
}
