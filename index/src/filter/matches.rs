//! Is a filter true of a point? The plain way: look at the payload, condition by condition.
//!
//! Payload indexes answer most filters without it (`payload::indexes`); this is what they must agree with.

use std::borrow::Cow;

use serde_json::Value;
use uuid::Uuid;

use super::number::integer;
use super::{
    Condition, Datetime, DatetimeRange, FieldCondition, Filter, GeoPoint, Match, MinShould, Number, Predicate, Range, Scalar, Values,
    ValuesCount,
};
use crate::id::PointId;
use crate::payload::{KeyPath, Tokenizer};
use crate::point::Payload;

/// What a filter sees of a point.
pub(crate) trait PointView {
    fn id(&self) -> PointId;
    fn payload(&self) -> &Payload;
    fn has_vector(&self, name: &str) -> bool;
}

/// The payload indexes that change what a condition means.
pub(crate) trait Schemas {
    /// The tokenizer of the text index on this key.
    fn tokenizer(&self, key: &KeyPath) -> Option<&Tokenizer>;
    /// Is there a uuid index on this key? Then spellings of one UUID are equal.
    fn is_uuid(&self, key: &KeyPath) -> bool;
}

/// A collection without payload indexes.
#[cfg(test)]
struct NoSchemas;

#[cfg(test)]
impl Schemas for NoSchemas {
    fn tokenizer(&self, _key: &KeyPath) -> Option<&Tokenizer> {
        None
    }

    fn is_uuid(&self, _key: &KeyPath) -> bool {
        false
    }
}

/// A payload, or an object in it, and where it is.
struct Sight<'a> {
    point: &'a dyn PointView,
    schemas: &'a dyn Schemas,
    object: &'a Payload,
    /// The way from the payload to the object; `None` at the payload itself.
    way: Option<KeyPath>,
}

impl Filter {
    /// Is it true of this point, in a collection without payload indexes?
    #[cfg(test)]
    pub(crate) fn matches(&self, point: &dyn PointView) -> bool {
        self.matches_under(&NoSchemas, point)
    }

    /// Is it true of this point, in a collection with these payload indexes?
    pub(crate) fn matches_under(&self, schemas: &dyn Schemas, point: &dyn PointView) -> bool {
        filter(self, &Sight { point, schemas, object: point.payload(), way: None })
    }
}

fn filter(filter: &Filter, sight: &Sight<'_>) -> bool {
    let is_true = |asked: &Condition| condition(asked, sight);
    filter.must.iter().all(is_true)
        && !filter.must_not.iter().any(is_true)
        && (filter.should.is_empty() || filter.should.iter().any(is_true))
        && filter.min_should.as_ref().is_none_or(|min_should| {
            let MinShould { conditions, min_count } = min_should;
            conditions.iter().filter(|asked| is_true(asked)).take(*min_count).count() == *min_count
        })
}

fn condition(condition: &Condition, sight: &Sight<'_>) -> bool {
    match condition {
        Condition::Field(asked) => field(asked, sight),
        Condition::IsEmpty(key) => is_empty(key, sight.object),
        Condition::IsNull(key) => is_null(key, sight.object),
        Condition::HasId(ids) => ids.contains(&sight.point.id()),
        Condition::HasVector(name) => sight.point.has_vector(name),
        Condition::Slice(slice) => slice.holds(sight.point.id()),
        Condition::Filter(inner) => filter(inner, sight),
        Condition::Nested { key, filter: nested } => {
            let elements = key.elements();
            let way = sight.way.as_ref().map_or_else(|| elements.clone(), |way| way.join(&elements));
            let mut inner = Sight { way: Some(way), ..*sight };
            elements.any(sight.object, &mut |element| {
                let Value::Object(object) = element else { return false };
                inner.object = object;
                filter(nested, &inner)
            })
        }
    }
}

fn is_empty(key: &KeyPath, object: &Payload) -> bool {
    !key.any(object, &mut |value| match value {
        Value::Null => false,
        Value::Array(elements) => !elements.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => true,
    })
}

fn is_null(key: &KeyPath, object: &Payload) -> bool {
    key.any(object, &mut |value| value.is_null())
}

fn field(condition: &FieldCondition, sight: &Sight<'_>) -> bool {
    let FieldCondition { key, predicate } = condition;
    let one = |accept: &dyn Fn(&Value) -> bool| key.any(sight.object, &mut |value| opened(value, accept));
    match predicate {
        Predicate::Match(Match::Value(Scalar::String(text))) => {
            let uuid = sight.is_uuid(key).then(|| Uuid::try_parse(text).ok()).flatten();
            one(&|value| is_string(value, |stored| stored == text || uuid.is_some() && Uuid::try_parse(stored).ok() == uuid))
        }
        Predicate::Match(Match::Value(wanted)) => one(&|value| equals(value, wanted)),
        Predicate::Match(Match::Any(values)) => {
            let uuids = sight.is_uuid(key).then(|| uuids(values));
            one(&|value| holds(values, value, uuids.as_deref()))
        }
        Predicate::Match(Match::Except(values)) => {
            let uuids = sight.is_uuid(key).then(|| uuids(values));
            one(&|value| !value.is_null() && !holds(values, value, uuids.as_deref()))
        }
        Predicate::Match(Match::Text(text)) => match sight.tokenizer(key) {
            Some(tokenizer) => holds_tokens(sight.object, key, tokenizer, text, Quantity::All),
            None => one(&|value| is_string(value, |stored| stored.contains(text))),
        },
        Predicate::Match(Match::TextAny(words)) => match sight.tokenizer(key) {
            Some(tokenizer) => holds_tokens(sight.object, key, tokenizer, words, Quantity::One),
            None => one(&|value| is_string(value, |stored| words.split_whitespace().any(|word| stored.contains(word)))),
        },
        Predicate::Match(Match::Phrase(phrase)) => match sight.tokenizer(key) {
            Some(tokenizer) => one(&|value| is_string(value, |stored| tokenizer.holds_phrase(stored, phrase))),
            None => one(&|value| is_string(value, |stored| stored.contains(phrase))),
        },
        Predicate::Match(Match::Prefix(prefix)) => one(&|value| is_string(value, |stored| stored.starts_with(prefix))),
        Predicate::Match(Match::Substring(part)) => one(&|value| is_string(value, |stored| stored.contains(part))),
        Predicate::Range(range) => one(&|value| matches!(value, Value::Number(number) if range.holds(Number::of(number)))),
        Predicate::DatetimeRange(range) => {
            one(&|value| is_string(value, |stored| Datetime::parse(stored).is_some_and(|instant| range.holds(instant))))
        }
        Predicate::GeoBoundingBox(bounds) => one(&|value| GeoPoint::of(value).is_some_and(|place| bounds.holds(place))),
        Predicate::GeoRadius(circle) => one(&|value| GeoPoint::of(value).is_some_and(|place| circle.holds(place))),
        Predicate::GeoPolygon(polygon) => one(&|value| GeoPoint::of(value).is_some_and(|place| polygon.holds(place))),
        Predicate::ValuesCount(count) => key.any(sight.object, &mut |value| count.holds(count_of(value))),
        Predicate::IsEmpty(wanted) => is_empty(key, sight.object) == *wanted,
        Predicate::IsNull(wanted) => is_null(key, sight.object) == *wanted,
    }
}

impl Sight<'_> {
    /// The whole path of a key in this object.
    fn whole<'k>(&self, key: &'k KeyPath) -> Cow<'k, KeyPath> {
        self.way.as_ref().map_or(Cow::Borrowed(key), |way| Cow::Owned(way.join(key)))
    }

    fn tokenizer(&self, key: &KeyPath) -> Option<&Tokenizer> {
        self.schemas.tokenizer(&self.whole(key))
    }

    fn is_uuid(&self, key: &KeyPath) -> bool {
        self.schemas.is_uuid(&self.whole(key))
    }
}

/// The elements of a list, or the one value.
pub(crate) fn opened(value: &Value, accept: &dyn Fn(&Value) -> bool) -> bool {
    match value {
        Value::Array(elements) => elements.iter().any(accept),
        one => accept(one),
    }
}

fn is_string(value: &Value, accept: impl Fn(&str) -> bool) -> bool {
    value.as_str().is_some_and(accept)
}

fn equals(value: &Value, wanted: &Scalar) -> bool {
    match (value, wanted) {
        (Value::Bool(value), Scalar::Bool(wanted)) => value == wanted,
        (Value::Number(value), Scalar::Integer(wanted)) => integer(value) == Some(*wanted),
        (Value::String(value), Scalar::String(wanted)) => value == wanted,
        _ => false,
    }
}

/// Is the value one of the set? `uuids`: those that the set's strings spell, where spelling does not count.
fn holds(values: &Values, value: &Value, uuids: Option<&[Uuid]>) -> bool {
    match value {
        Value::Bool(value) => values.bools.contains(value),
        Value::Number(value) => integer(value).is_some_and(|integer| values.integers.contains(&integer)),
        Value::String(value) => {
            values.strings.contains(value)
                || uuids.is_some_and(|uuids| Uuid::try_parse(value).is_ok_and(|uuid| uuids.binary_search(&uuid).is_ok()))
        }
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// The UUIDs among the strings, sorted.
fn uuids(values: &Values) -> Vec<Uuid> {
    let mut uuids: Vec<Uuid> = values.strings.iter().filter_map(|text| Uuid::try_parse(text).ok()).collect();
    uuids.sort_unstable();
    uuids
}

/// How many values a selected value is to `values_count`.
pub(crate) fn count_of(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        Value::Array(elements) => elements.len() as u64,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => 1,
    }
}

#[derive(Clone, Copy)]
enum Quantity {
    All,
    One,
}

/// Do the texts at the key, taken together, hold all or one of the tokens? No text holds a query without tokens.
fn holds_tokens(object: &Payload, key: &KeyPath, tokenizer: &Tokenizer, query: &str, quantity: Quantity) -> bool {
    let mut missing = tokenizer.query(query);
    let asked = missing.len();
    if asked == 0 {
        return false;
    }
    let mut is_enough = |value: &Value| {
        if let Some(text) = value.as_str() {
            tokenizer.words(text, &mut |word| missing.retain(|token| !tokenizer.meets(word, token)));
        }
        match quantity {
            Quantity::All => missing.is_empty(),
            Quantity::One => missing.len() < asked,
        }
    };
    key.any(object, &mut |value| match value {
        Value::Array(elements) => elements.iter().any(&mut is_enough),
        one => is_enough(one),
    })
}

/// Is a value within the bounds that there are?
macro_rules! within {
    ($range:expr, $compare:expr) => {
        $range.lt.is_none_or(|bound| $compare(bound).is_some_and(std::cmp::Ordering::is_lt))
            && $range.lte.is_none_or(|bound| $compare(bound).is_some_and(std::cmp::Ordering::is_le))
            && $range.gt.is_none_or(|bound| $compare(bound).is_some_and(std::cmp::Ordering::is_gt))
            && $range.gte.is_none_or(|bound| $compare(bound).is_some_and(std::cmp::Ordering::is_ge))
    };
}

impl Range {
    pub(crate) fn holds(&self, number: Number) -> bool {
        within!(self, |bound| number.compare(bound))
    }
}

impl DatetimeRange {
    pub(crate) fn holds(&self, instant: Datetime) -> bool {
        within!(self, |bound| Some(instant.cmp(&bound)))
    }
}

impl ValuesCount {
    pub(crate) fn holds(&self, count: u64) -> bool {
        within!(self, |bound| Some(count.cmp(&bound)))
    }
}
