//! Numbers of JSON, compared exactly: the `f64` next to 2^63 is 1,024 away from it, and a bound must not be.

use std::cmp::Ordering;

/// A bound of a range, or a value compared with it. `Integer(1)` and `Float(1.0)` are equally large and not equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// One of JSON's, from -2^63 to 2^64 - 1.
    Integer(i128),
    /// A finite one.
    Float(f64),
}

impl Number {
    pub(crate) fn of(number: &serde_json::Number) -> Self {
        match integer(number) {
            Some(integer) => Self::Integer(integer),
            // Without serde_json's arbitrary precision a number is u64, i64 or f64.
            None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
        }
    }

    pub(crate) fn to_json(self) -> serde_json::Value {
        match self {
            Self::Integer(integer) => serde_json::Number::from_i128(integer).map_or(serde_json::Value::Null, serde_json::Value::Number),
            Self::Float(float) => float.into(),
        }
    }

    /// Exact order by size; `None` against NaN.
    pub fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Some(a.cmp(&b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b),
            (Self::Integer(a), Self::Float(b)) => integer_against_float(a, b),
            (Self::Float(a), Self::Integer(b)) => integer_against_float(b, a).map(Ordering::reverse),
        }
    }
}

/// The integer that a JSON number was written as; `None` for 1.0.
pub(crate) fn integer(number: &serde_json::Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

fn integer_against_float(integer: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    // The cast saturates, and integers of JSON are far from i128's ends, so it is exact where it matters.
    let whole = float.trunc();
    Some(integer.cmp(&(whole as i128)).then_with(|| whole.total_cmp(&float)))
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<f32> for Number {
    fn from(value: f32) -> Self {
        Self::Float(value.into())
    }
}

macro_rules! number_from_integers {
    ($($integer:ty),*) => {$(
        impl From<$integer> for Number {
            fn from(value: $integer) -> Self {
                Self::Integer(value.into())
            }
        }
    )*};
}
number_from_integers!(u8, i8, u16, i16, u32, i32, u64, i64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_floats_are_compared_without_rounding() {
        let large = 1u64 << 63;
        let ascending = [
            Number::from(f64::MIN),
            Number::from(i64::MIN),
            Number::from(-1.5),
            Number::from(-1),
            Number::from(-0.5),
            Number::from(0),
            Number::from(f64::MIN_POSITIVE),
            Number::from(1),
            Number::from(1.5),
            Number::from((1i64 << 53) + 1),
            Number::from(large - 1),
            Number::from(large as f64),
            Number::from(large + 1),
            Number::from(u64::MAX),
            Number::from(2f64.powi(64)),
            Number::from(f64::MAX),
        ];
        for (a, small) in ascending.iter().enumerate() {
            for (b, other) in ascending.iter().enumerate() {
                assert_eq!(small.compare(*other), Some(a.cmp(&b)), "{small:?} against {other:?}");
            }
        }
        assert_eq!(Number::from(1).compare(Number::from(1.0)), Some(Ordering::Equal));
        assert_eq!(Number::from(0).compare(Number::from(-0.0)), Some(Ordering::Equal));
        assert_eq!(Number::from(1).compare(Number::from(f64::NAN)), None);
    }
}
