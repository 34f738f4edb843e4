//! Filters: conditions on a point's payload, id and vectors.
//!
//! The grammar and its meaning are Qdrant's (API 1.18 and 1.19), with `prefix`, `substring` and `slice` of 1.20. What is not
//! in the grammar is refused with its place and never ignored: an ignored condition returns points that it was to keep away.
//! Two things Qdrant accepts are refused because they say nothing or two things at once: a field with several conditions
//! (`match` beside `range`), and `has_id`, `has_vector` or `slice` inside `nested`, which would be false without a word.
//!
//! ```text
//! parse     JSON to conditions           json      conditions to JSON
//! check     values and limits            matches   is it true of this point?
//! number    exact comparison             datetime  instants        geo  regions        slice  shares of the id space
//! ```
//!
//! What the clauses mean, where it is easy to get wrong:
//! - A value is one of those that the key path selects; a selected list is opened one level, and one element is enough.
//! - A missing key makes a condition false, and so `must_not` true. `is_empty` is true of it, `values_count` is not.
//! - `true`, `1` and `1.0` are three values to `match`; `range` compares numbers exactly, beyond 2^53 too.
//! - `match.except` wants an element outside the list; null is none.
//! - `match.text` is a case-sensitive substring, and `text_any` one of its words; under a text index both, and `phrase`, go by the
//!   tokens of its tokenizer, all texts of the key being one document.

mod check;
mod datetime;
mod geo;
mod json;
mod matches;
mod number;
mod parse;
#[cfg(test)]
pub(crate) mod random;
mod slice;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub use check::{MAX_CONDITIONS, MAX_DEPTH, MAX_LISTED};
pub use datetime::Datetime;
pub(crate) use geo::Bounds;
pub use geo::{GeoBoundingBox, GeoPoint, GeoPolygon, GeoRadius};
pub(crate) use matches::{PointView, Schemas, count_of};
pub use number::Number;
pub use slice::Slice;

use crate::error::Result;
use crate::id::PointId;
use crate::payload::KeyPath;

/// A condition made of conditions. Without any, every point passes.
///
/// ```
/// use moco_index::{Condition, Filter};
///
/// let filter = Filter::must([Condition::field("city").equals("Berlin"), Condition::field("price").at_most(20)])
///     .and_must_not([Condition::is_empty("photos")]);
/// let json = serde_json::to_value(&filter).unwrap();
/// assert_eq!(Filter::parse(&json).unwrap(), filter);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// All of these are true.
    pub must: Vec<Condition>,
    /// One of these is true, if there are any.
    pub should: Vec<Condition>,
    /// None of these is true.
    pub must_not: Vec<Condition>,
    pub min_should: Option<MinShould>,
}

/// At least so many of the conditions are true.
#[derive(Clone, Debug, PartialEq)]
pub struct MinShould {
    pub conditions: Vec<Condition>,
    pub min_count: usize,
}

#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Condition {
    /// Something about the values at a key.
    Field(FieldCondition),
    /// Nothing is at the key, or only null and empty lists.
    IsEmpty(KeyPath),
    /// Null is at the key. A list that holds null is not null.
    IsNull(KeyPath),
    /// The point's id is one of these.
    HasId(BTreeSet<PointId>),
    /// The point has a vector of this name; `""` is the unnamed one.
    HasVector(String),
    /// One object of the list at the key passes the whole filter, whose keys start in that object.
    Nested {
        key: KeyPath,
        filter: Filter,
    },
    /// The point falls into this share of the id space.
    Slice(Slice),
    Filter(Filter),
}

#[derive(Clone, Debug, PartialEq)]
pub struct FieldCondition {
    pub key: KeyPath,
    pub predicate: Predicate,
}

/// What is asked of the values at a key; one value is enough.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Predicate {
    Match(Match),
    Range(Range),
    DatetimeRange(DatetimeRange),
    GeoBoundingBox(GeoBoundingBox),
    GeoRadius(GeoRadius),
    GeoPolygon(GeoPolygon),
    ValuesCount(ValuesCount),
    /// [`Condition::IsEmpty`], or its opposite.
    IsEmpty(bool),
    /// [`Condition::IsNull`], or its opposite.
    IsNull(bool),
}

#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Match {
    Value(Scalar),
    /// One of these.
    Any(Values),
    /// Anything but these and null.
    Except(Values),
    /// A text that holds this one; under a text index, a document that holds all of its tokens.
    Text(String),
    /// A text that holds one of the words between white space; under a text index, one of the tokens.
    TextAny(String),
    /// A text that holds this one; under a text index, a text that holds its tokens one after the other.
    Phrase(String),
    /// A string that starts so, byte for byte.
    Prefix(String),
    /// A string that holds this, byte for byte, whatever index there is.
    Substring(String),
}

/// A value that is equal or not. Integers are those of JSON, from -2^63 to 2^64 - 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scalar {
    Bool(bool),
    Integer(i128),
    String(String),
}

/// A set of scalars.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    pub(crate) bools: BTreeSet<bool>,
    pub(crate) integers: BTreeSet<i128>,
    pub(crate) strings: BTreeSet<String>,
}

/// Numbers between bounds; without bounds, all numbers. Neither `true` nor `"1"` is a number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Range {
    pub lt: Option<Number>,
    pub lte: Option<Number>,
    pub gt: Option<Number>,
    pub gte: Option<Number>,
}

/// Strings that are instants between bounds, of which there is at least one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatetimeRange {
    pub lt: Option<Datetime>,
    pub lte: Option<Datetime>,
    pub gt: Option<Datetime>,
    pub gte: Option<Datetime>,
}

/// How many values are at a key: a list has its length, null none, anything else is one. No count is within bounds where the
/// key is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ValuesCount {
    pub lt: Option<u64>,
    pub lte: Option<u64>,
    pub gt: Option<u64>,
    pub gte: Option<u64>,
}

impl Filter {
    pub fn must(conditions: impl IntoIterator<Item = Condition>) -> Self {
        Self::default().and_must(conditions)
    }

    pub fn should(conditions: impl IntoIterator<Item = Condition>) -> Self {
        Self { should: conditions.into_iter().collect(), ..Self::default() }
    }

    pub fn must_not(conditions: impl IntoIterator<Item = Condition>) -> Self {
        Self::default().and_must_not(conditions)
    }

    pub fn min_should(min_count: usize, conditions: impl IntoIterator<Item = Condition>) -> Self {
        Self { min_should: Some(MinShould { conditions: conditions.into_iter().collect(), min_count }), ..Self::default() }
    }

    pub fn and_must(mut self, conditions: impl IntoIterator<Item = Condition>) -> Self {
        self.must.extend(conditions);
        self
    }

    pub fn and_must_not(mut self, conditions: impl IntoIterator<Item = Condition>) -> Self {
        self.must_not.extend(conditions);
        self
    }

    /// Reads a filter from JSON. As a [`Value`](serde_json::Value) has lost keys that stood there twice, text is better read by `serde`
    /// (`serde_json::from_str::<Filter>`), which refuses them.
    ///
    /// # Errors
    /// [`Error::Filter`](crate::Error::Filter) with the place (`must[2].range.gte`) and the reason.
    pub fn parse(value: &serde_json::Value) -> Result<Self> {
        let filter = parse::filter(value)?;
        filter.check()?;
        Ok(filter)
    }

    /// Does it let every point pass because it holds no condition?
    pub fn is_empty(&self) -> bool {
        self.must.is_empty() && self.should.is_empty() && self.must_not.is_empty() && self.min_should.is_none()
    }
}

impl Condition {
    /// The start of a condition on the values at `key`.
    ///
    /// # Panics
    /// When `key` is no path: it is meant for a path that stands in a program. One from outside goes through
    /// [`KeyPath::parse`] and [`Condition::at`].
    pub fn field(key: &str) -> FieldBuilder {
        Self::at(literal(key))
    }

    /// The start of a condition on the values at `key`.
    pub fn at(key: KeyPath) -> FieldBuilder {
        FieldBuilder { key }
    }

    /// Does it ask for values between two?
    pub(crate) fn is_range(&self) -> bool {
        matches!(self, Self::Field(FieldCondition { predicate: Predicate::Range(_) | Predicate::DatetimeRange(_), .. }))
    }

    /// # Panics
    /// When `key` is no path, as [`Condition::field`].
    pub fn is_empty(key: &str) -> Self {
        Self::IsEmpty(literal(key))
    }

    /// # Panics
    /// When `key` is no path, as [`Condition::field`].
    pub fn is_null(key: &str) -> Self {
        Self::IsNull(literal(key))
    }

    /// # Panics
    /// When `key` is no path, as [`Condition::field`].
    pub fn nested(key: &str, filter: Filter) -> Self {
        Self::Nested { key: literal(key), filter }
    }

    pub fn has_id(ids: impl IntoIterator<Item = impl Into<PointId>>) -> Self {
        Self::HasId(ids.into_iter().map(Into::into).collect())
    }

    pub fn has_vector(name: impl Into<String>) -> Self {
        Self::HasVector(name.into())
    }
}

/// A path that stands in a program.
fn literal(key: &str) -> KeyPath {
    match KeyPath::parse(key) {
        Ok(key) => key,
        Err(error) => panic!("a key in the program is no path: {error}"),
    }
}

impl From<Filter> for Condition {
    fn from(filter: Filter) -> Self {
        Self::Filter(filter)
    }
}

/// A key, waiting for what is asked of its values. Made by [`Condition::field`].
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a key alone is no condition"]
pub struct FieldBuilder {
    key: KeyPath,
}

impl FieldBuilder {
    /// The condition with this predicate; the methods below are for the common ones.
    pub fn is(self, predicate: Predicate) -> Condition {
        Condition::Field(FieldCondition { key: self.key, predicate })
    }

    pub fn equals(self, value: impl Into<Scalar>) -> Condition {
        self.is(Predicate::Match(Match::Value(value.into())))
    }

    pub fn any_of(self, values: impl IntoIterator<Item = impl Into<Scalar>>) -> Condition {
        self.is(Predicate::Match(Match::Any(values.into_iter().collect())))
    }

    /// A value that is none of these; a missing key and null are no values.
    pub fn none_of(self, values: impl IntoIterator<Item = impl Into<Scalar>>) -> Condition {
        self.is(Predicate::Match(Match::Except(values.into_iter().collect())))
    }

    pub fn contains(self, text: impl Into<String>) -> Condition {
        self.is(Predicate::Match(Match::Text(text.into())))
    }

    pub fn contains_any(self, words: impl Into<String>) -> Condition {
        self.is(Predicate::Match(Match::TextAny(words.into())))
    }

    pub fn starts_with(self, prefix: impl Into<String>) -> Condition {
        self.is(Predicate::Match(Match::Prefix(prefix.into())))
    }

    pub fn less_than(self, bound: impl Into<Number>) -> Condition {
        self.in_range(Range { lt: Some(bound.into()), ..Range::default() })
    }

    pub fn at_most(self, bound: impl Into<Number>) -> Condition {
        self.in_range(Range { lte: Some(bound.into()), ..Range::default() })
    }

    pub fn more_than(self, bound: impl Into<Number>) -> Condition {
        self.in_range(Range { gt: Some(bound.into()), ..Range::default() })
    }

    pub fn at_least(self, bound: impl Into<Number>) -> Condition {
        self.in_range(Range { gte: Some(bound.into()), ..Range::default() })
    }

    pub fn in_range(self, range: Range) -> Condition {
        self.is(Predicate::Range(range))
    }

    pub fn in_datetime_range(self, range: DatetimeRange) -> Condition {
        self.is(Predicate::DatetimeRange(range))
    }

    pub fn in_box(self, top_left: GeoPoint, bottom_right: GeoPoint) -> Condition {
        self.is(Predicate::GeoBoundingBox(GeoBoundingBox { top_left, bottom_right }))
    }

    /// Nearer to `center` than `radius` metres.
    pub fn within(self, radius: f64, center: GeoPoint) -> Condition {
        self.is(Predicate::GeoRadius(GeoRadius { center, radius }))
    }

    /// Inside the ring `exterior` and outside the rings `interiors`; each ring ends where it starts.
    pub fn in_polygon(self, exterior: Vec<GeoPoint>, interiors: Vec<Vec<GeoPoint>>) -> Condition {
        self.is(Predicate::GeoPolygon(GeoPolygon { exterior, interiors }))
    }

    pub fn counts(self, count: ValuesCount) -> Condition {
        self.is(Predicate::ValuesCount(count))
    }
}

impl Values {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        self.bools.len() + self.integers.len() + self.strings.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = Scalar> + '_ {
        let bools = self.bools.iter().copied().map(Scalar::Bool);
        let integers = self.integers.iter().copied().map(Scalar::Integer);
        bools.chain(integers).chain(self.strings.iter().cloned().map(Scalar::String))
    }
}

impl<S: Into<Scalar>> FromIterator<S> for Values {
    fn from_iter<I: IntoIterator<Item = S>>(values: I) -> Self {
        let mut set = Self::default();
        for value in values {
            match value.into() {
                Scalar::Bool(value) => set.bools.insert(value),
                Scalar::Integer(value) => set.integers.insert(value),
                Scalar::String(value) => set.strings.insert(value),
            };
        }
        set
    }
}

impl From<bool> for Scalar {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Scalar {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<String> for Scalar {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

macro_rules! scalar_from_integers {
    ($($integer:ty),*) => {$(
        impl From<$integer> for Scalar {
            fn from(value: $integer) -> Self {
                Self::Integer(value.into())
            }
        }
    )*};
}
scalar_from_integers!(u8, i8, u16, i16, u32, i32, u64, i64);
