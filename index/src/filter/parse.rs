//! Filters out of JSON. Every error says where; every key is known or refused; null is an absent key.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::check::{MAX_DEPTH, Place};
use super::number::integer;
use super::{
    Condition, Datetime, DatetimeRange, FieldCondition, Filter, GeoBoundingBox, GeoPoint, GeoPolygon, GeoRadius, Match, MinShould, Number,
    Predicate, Range, Scalar, Slice, Values, ValuesCount,
};
use crate::error::{Error, Result};
use crate::id::PointId;
use crate::payload::KeyPath;
use crate::unique_json::UniqueJson;

/// What a condition is told apart by.
const FILTER_KEYS: [&str; 4] = ["must", "should", "must_not", "min_should"];
const POINT_KEYS: [&str; 6] = ["is_empty", "is_null", "has_id", "has_vector", "nested", "slice"];
const PREDICATES: [&str; 8] = ["match", "range", "geo_bounding_box", "geo_radius", "geo_polygon", "values_count", "is_empty", "is_null"];
const MATCHES: [&str; 8] = ["value", "any", "except", "text", "text_any", "phrase", "prefix", "substring"];
const BOUNDS: [&str; 4] = ["lt", "lte", "gt", "gte"];

pub(super) fn filter(value: &Value) -> Result<Filter> {
    read_filter(value, &Place::Root, 1)
}

fn read_filter(value: &Value, place: &Place<'_>, depth: usize) -> Result<Filter> {
    // Checked here as well as for filters that programs make: this function's own calls must not outgrow the stack.
    if depth > MAX_DEPTH {
        return place.refuse(format!("filters stand more than {MAX_DEPTH} deep in one another"));
    }
    let fields = object(value, place, "a filter", &FILTER_KEYS)?;
    let clause = |key| given(fields, key).map_or_else(|| Ok(Vec::new()), |value| clause(value, &place.key(key), depth));
    let min_should = match given(fields, "min_should") {
        None => None,
        Some(value) => {
            let place = &place.key("min_should");
            let fields = object(value, place, "`min_should`", &["conditions", "min_count"])?;
            let conditions =
                clause_list(list(required(fields, "conditions", place)?, &place.key("conditions"))?, &place.key("conditions"), depth)?;
            let min_count = count(required(fields, "min_count", place)?, &place.key("min_count"))?;
            // A count that no list can reach stays unreachable where usize is shorter.
            Some(MinShould { conditions, min_count: usize::try_from(min_count).unwrap_or(usize::MAX) })
        }
    };
    Ok(Filter { must: clause("must")?, should: clause("should")?, must_not: clause("must_not")?, min_should })
}

/// A list of conditions, or one condition without the list.
fn clause(value: &Value, place: &Place<'_>, depth: usize) -> Result<Vec<Condition>> {
    match value {
        Value::Array(conditions) => clause_list(conditions, place, depth),
        one => Ok(vec![condition(one, place, depth)?]),
    }
}

fn clause_list(conditions: &[Value], place: &Place<'_>, depth: usize) -> Result<Vec<Condition>> {
    conditions.iter().enumerate().map(|(position, value)| condition(value, &place.element(position), depth)).collect()
}

fn condition(value: &Value, place: &Place<'_>, depth: usize) -> Result<Condition> {
    let Value::Object(fields) = value else {
        return place.refuse(format!("a condition is an object, not {}", name_of(value)));
    };
    if given(fields, "key").is_some() {
        return field(fields, place).map(Condition::Field);
    }
    let Some(kind) = POINT_KEYS.into_iter().find(|key| given(fields, key).is_some()) else {
        if let Some(predicate) = PREDICATES.into_iter().find(|predicate| given(fields, predicate).is_some()) {
            return place.refuse(format!("`{predicate}` wants a `key` beside it"));
        }
        if let Some(unknown) = fields.keys().find(|key| !FILTER_KEYS.contains(&key.as_str()) && !POINT_KEYS.contains(&key.as_str())) {
            let known = [&["key"], &POINT_KEYS[..], &FILTER_KEYS].concat().join("`, `");
            return place.refuse(format!("there is no condition `{unknown}`; there are `{known}`"));
        }
        return Ok(Condition::Filter(read_filter(value, place, depth + 1)?));
    };
    known(fields, place, &format!("`{kind}`"), &[kind])?;
    let (value, place) = (&fields[kind], &place.key(kind));
    Ok(match kind {
        "is_empty" => Condition::IsEmpty(payload_field(value, place)?),
        "is_null" => Condition::IsNull(payload_field(value, place)?),
        "has_id" => {
            let ids = list(value, place)?.iter().enumerate().map(|(position, id)| point_id(id, &place.element(position)));
            Condition::HasId(ids.collect::<Result<BTreeSet<_>>>()?)
        }
        "has_vector" => Condition::HasVector(string(value, place)?.to_owned()),
        "nested" => {
            let fields = object(value, place, "`nested`", &["key", "filter"])?;
            let key = key_path(required(fields, "key", place)?, &place.key("key"))?;
            let filter = read_filter(required(fields, "filter", place)?, &place.key("filter"), depth + 1)?;
            Condition::Nested { key, filter }
        }
        _ => {
            let fields = object(value, place, "`slice`", &["total", "index"])?;
            let total = count(required(fields, "total", place)?, &place.key("total"))?;
            let index = count(required(fields, "index", place)?, &place.key("index"))?;
            Condition::Slice(Slice { total, index })
        }
    })
}

/// `{"key": …}` and exactly one predicate.
fn field(fields: &Map<String, Value>, place: &Place<'_>) -> Result<FieldCondition> {
    known(fields, place, "a condition on a `key`", &[&["key"], &PREDICATES[..]].concat())?;
    let key = key_path(&fields["key"], &place.key("key"))?;
    let mut asked = PREDICATES.into_iter().filter(|predicate| given(fields, predicate).is_some());
    let Some(kind) = asked.next() else {
        return place.refuse(format!("a `key` wants one of `{}` beside it", PREDICATES.join("`, `")));
    };
    if let Some(second) = asked.next() {
        return place.refuse(format!("`{kind}` and `{second}` stand in one condition: write two"));
    }
    let (value, place) = (&fields[kind], &place.key(kind));
    let predicate = match kind {
        "match" => Predicate::Match(read_match(value, place)?),
        "range" => range(value, place)?,
        "geo_bounding_box" => {
            let fields = object(value, place, "a box", &["top_left", "bottom_right"])?;
            let corner = |key| geo_point(required(fields, key, place)?, &place.key(key));
            Predicate::GeoBoundingBox(GeoBoundingBox { top_left: corner("top_left")?, bottom_right: corner("bottom_right")? })
        }
        "geo_radius" => {
            let fields = object(value, place, "a circle", &["center", "radius"])?;
            let center = geo_point(required(fields, "center", place)?, &place.key("center"))?;
            let radius = float(required(fields, "radius", place)?, &place.key("radius"))?;
            Predicate::GeoRadius(GeoRadius { center, radius })
        }
        "geo_polygon" => {
            let fields = object(value, place, "a polygon", &["exterior", "interiors"])?;
            let exterior = ring(required(fields, "exterior", place)?, &place.key("exterior"))?;
            let interiors = match given(fields, "interiors") {
                None => Vec::new(),
                Some(rings) => {
                    let place = &place.key("interiors");
                    let rings = list(rings, place)?.iter().enumerate();
                    rings.map(|(position, value)| ring(value, &place.element(position))).collect::<Result<_>>()?
                }
            };
            Predicate::GeoPolygon(GeoPolygon { exterior, interiors })
        }
        "values_count" => {
            let fields = object(value, place, "a count", &BOUNDS)?;
            let bound = |key| given(fields, key).map(|value| count(value, &place.key(key))).transpose();
            Predicate::ValuesCount(ValuesCount { lt: bound("lt")?, lte: bound("lte")?, gt: bound("gt")?, gte: bound("gte")? })
        }
        "is_empty" => Predicate::IsEmpty(boolean(value, place)?),
        _ => Predicate::IsNull(boolean(value, place)?),
    };
    Ok(FieldCondition { key, predicate })
}

fn read_match(value: &Value, place: &Place<'_>) -> Result<Match> {
    let fields = object(value, place, "`match`", &MATCHES)?;
    let mut asked = MATCHES.into_iter().filter(|kind| given(fields, kind).is_some());
    let Some(kind) = asked.next() else {
        return place.refuse(format!("`match` wants one of `{}`", MATCHES.join("`, `")));
    };
    if let Some(second) = asked.next() {
        return place.refuse(format!("`{kind}` and `{second}` stand in one `match`: write two conditions"));
    }
    let (value, place) = (&fields[kind], &place.key(kind));
    let text = || string(value, place).map(str::to_owned);
    Ok(match kind {
        "value" => Match::Value(scalar(value, place)?),
        "any" => Match::Any(scalars(value, place)?),
        "except" => Match::Except(scalars(value, place)?),
        "text" => Match::Text(text()?),
        "text_any" => Match::TextAny(text()?),
        "phrase" => Match::Phrase(text()?),
        "prefix" => Match::Prefix(text()?),
        _ => Match::Substring(text()?),
    })
}

/// Bounds that are numbers, or bounds that are instants.
fn range(value: &Value, place: &Place<'_>) -> Result<Predicate> {
    let fields = object(value, place, "`range`", &BOUNDS)?;
    if BOUNDS.iter().any(|key| given(fields, key).is_some_and(Value::is_string)) {
        let bound = |key| {
            given(fields, key)
                .map(|value| {
                    let place = &place.key(key);
                    let Value::String(text) = value else {
                        return place.refuse(format!("a range is between dates or between numbers, and here is {}", name_of(value)));
                    };
                    Datetime::parse(text).map_or_else(|| place.refuse(format!("`{text}` is no date and time")), Ok)
                })
                .transpose()
        };
        return Ok(Predicate::DatetimeRange(DatetimeRange { lt: bound("lt")?, lte: bound("lte")?, gt: bound("gt")?, gte: bound("gte")? }));
    }
    let bound = |key| {
        given(fields, key)
            .map(|value| match value {
                Value::Number(number) => Ok(Number::of(number)),
                other => place.key(key).refuse(format!("a bound is a number or a date and time, not {}", name_of(other))),
            })
            .transpose()
    };
    Ok(Predicate::Range(Range { lt: bound("lt")?, lte: bound("lte")?, gt: bound("gt")?, gte: bound("gte")? }))
}

/// `{"points": […]}`
fn ring(value: &Value, place: &Place<'_>) -> Result<Vec<GeoPoint>> {
    let fields = object(value, place, "a ring", &["points"])?;
    let points = required(fields, "points", place)?;
    let place = &place.key("points");
    list(points, place)?.iter().enumerate().map(|(position, point)| geo_point(point, &place.element(position))).collect()
}

fn geo_point(value: &Value, place: &Place<'_>) -> Result<GeoPoint> {
    let fields = object(value, place, "a place", &["lat", "lon"])?;
    let degrees = |key| float(required(fields, key, place)?, &place.key(key));
    Ok(GeoPoint { lat: degrees("lat")?, lon: degrees("lon")? })
}

fn payload_field(value: &Value, place: &Place<'_>) -> Result<KeyPath> {
    let fields = object(value, place, "a field", &["key"])?;
    key_path(required(fields, "key", place)?, &place.key("key"))
}

fn key_path(value: &Value, place: &Place<'_>) -> Result<KeyPath> {
    KeyPath::parse(string(value, place)?).or_else(|error| place.refuse(error.to_string()))
}

fn point_id(value: &Value, place: &Place<'_>) -> Result<PointId> {
    serde_json::from_value(value.clone()).or_else(|error| place.refuse(error.to_string()))
}

fn scalar(value: &Value, place: &Place<'_>) -> Result<Scalar> {
    match value {
        Value::Bool(value) => Ok(Scalar::Bool(*value)),
        Value::String(value) => Ok(Scalar::String(value.clone())),
        Value::Number(number) => match integer(number) {
            Some(integer) => Ok(Scalar::Integer(integer)),
            None => place.refuse(format!("{number} is no integer; `range` compares floats")),
        },
        other => place.refuse(format!("a string, an integer or a bool is matched, not {}", name_of(other))),
    }
}

fn scalars(value: &Value, place: &Place<'_>) -> Result<Values> {
    let values = list(value, place)?.iter().enumerate().map(|(position, value)| scalar(value, &place.element(position)));
    values.collect::<Result<Values>>()
}

/// The fields of an object that has no others than these.
fn object<'a>(value: &'a Value, place: &Place<'_>, what: &str, keys: &[&str]) -> Result<&'a Map<String, Value>> {
    let Value::Object(fields) = value else {
        return place.refuse(format!("{what} is an object, not {}", name_of(value)));
    };
    known(fields, place, what, keys)?;
    Ok(fields)
}

fn known(fields: &Map<String, Value>, place: &Place<'_>, what: &str, keys: &[&str]) -> Result<()> {
    match fields.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(unknown) => place.refuse(format!("{what} has no `{unknown}`; it may have `{}`", keys.join("`, `"))),
        None => Ok(()),
    }
}

fn given<'a>(fields: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    fields.get(key).filter(|value| !value.is_null())
}

fn required<'a>(fields: &'a Map<String, Value>, key: &str, place: &Place<'_>) -> Result<&'a Value> {
    given(fields, key).map_or_else(|| place.refuse(format!("`{key}` is missing")), Ok)
}

fn list<'a>(value: &'a Value, place: &Place<'_>) -> Result<&'a [Value]> {
    match value {
        Value::Array(elements) => Ok(elements),
        other => place.refuse(format!("a list is wanted, not {}", name_of(other))),
    }
}

fn string<'a>(value: &'a Value, place: &Place<'_>) -> Result<&'a str> {
    value.as_str().map_or_else(|| place.refuse(format!("a string is wanted, not {}", name_of(value))), Ok)
}

fn boolean(value: &Value, place: &Place<'_>) -> Result<bool> {
    value.as_bool().map_or_else(|| place.refuse(format!("true or false is wanted, not {}", name_of(value))), Ok)
}

fn float(value: &Value, place: &Place<'_>) -> Result<f64> {
    value.as_f64().map_or_else(|| place.refuse(format!("a number is wanted, not {}", name_of(value))), Ok)
}

fn count(value: &Value, place: &Place<'_>) -> Result<u64> {
    value.as_u64().map_or_else(|| place.refuse(format!("an integer from 0 is wanted, not {}", name_of(value))), Ok)
}

/// What a value is called in an error: short values as they are, long ones by their kind.
fn name_of(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) if text.len() <= 40 => format!("`{text}`"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

impl<'de> serde::Deserialize<'de> for Filter {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Self::parse(&UniqueJson::deserialize(deserializer)?.0).map_err(|error: Error| serde::de::Error::custom(error))
    }
}
