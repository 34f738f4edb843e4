//! Filters into the JSON that they are read from.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{Condition, DatetimeRange, FieldCondition, Filter, GeoPoint, Match, Predicate, Range, Scalar, Values, ValuesCount};

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        filter(self).serialize(serializer)
    }
}

fn filter(filter: &Filter) -> Value {
    let mut fields = Map::new();
    for (key, list) in [("must", &filter.must), ("should", &filter.should), ("must_not", &filter.must_not)] {
        if !list.is_empty() {
            fields.insert(key.to_owned(), conditions(list));
        }
    }
    if let Some(min_should) = &filter.min_should {
        let value = json!({"conditions": conditions(&min_should.conditions), "min_count": min_should.min_count});
        fields.insert("min_should".to_owned(), value);
    }
    Value::Object(fields)
}

fn conditions(list: &[Condition]) -> Value {
    list.iter().map(condition).collect()
}

fn condition(condition: &Condition) -> Value {
    match condition {
        Condition::Field(field_condition) => field(field_condition),
        Condition::IsEmpty(key) => json!({"is_empty": {"key": key}}),
        Condition::IsNull(key) => json!({"is_null": {"key": key}}),
        Condition::HasId(ids) => json!({"has_id": ids}),
        Condition::HasVector(name) => json!({"has_vector": name}),
        Condition::Nested { key, filter: nested } => json!({"nested": {"key": key, "filter": filter(nested)}}),
        Condition::Slice(slice) => json!({"slice": {"total": slice.total, "index": slice.index}}),
        Condition::Filter(inner) => filter(inner),
    }
}

fn field(condition: &FieldCondition) -> Value {
    let (kind, value) = match &condition.predicate {
        Predicate::Match(condition) => ("match", match_of(condition)),
        Predicate::Range(Range { lt, lte, gt, gte }) => {
            ("range", bounds([lt, lte, gt, gte].map(|bound| bound.map(super::Number::to_json))))
        }
        Predicate::DatetimeRange(DatetimeRange { lt, lte, gt, gte }) => {
            ("range", bounds([lt, lte, gt, gte].map(|bound| bound.map(|instant| instant.to_string().into()))))
        }
        Predicate::GeoBoundingBox(bounds) => {
            ("geo_bounding_box", json!({"top_left": point(&bounds.top_left), "bottom_right": point(&bounds.bottom_right)}))
        }
        Predicate::GeoRadius(circle) => ("geo_radius", json!({"center": point(&circle.center), "radius": circle.radius})),
        Predicate::GeoPolygon(polygon) => {
            let mut fields = Map::from_iter([("exterior".to_owned(), ring(&polygon.exterior))]);
            if !polygon.interiors.is_empty() {
                fields.insert("interiors".to_owned(), polygon.interiors.iter().map(|points| ring(points)).collect());
            }
            ("geo_polygon", Value::Object(fields))
        }
        Predicate::ValuesCount(ValuesCount { lt, lte, gt, gte }) => {
            ("values_count", bounds([lt, lte, gt, gte].map(|bound| bound.map(Value::from))))
        }
        Predicate::IsEmpty(wanted) => ("is_empty", json!(wanted)),
        Predicate::IsNull(wanted) => ("is_null", json!(wanted)),
    };
    json!({"key": condition.key, kind: value})
}

fn match_of(condition: &Match) -> Value {
    match condition {
        Match::Value(value) => json!({"value": scalar(value)}),
        Match::Any(list) => json!({"any": values(list)}),
        Match::Except(list) => json!({"except": values(list)}),
        Match::Text(text) => json!({"text": text}),
        Match::TextAny(words) => json!({"text_any": words}),
        Match::Phrase(phrase) => json!({"phrase": phrase}),
        Match::Prefix(prefix) => json!({"prefix": prefix}),
        Match::Substring(part) => json!({"substring": part}),
    }
}

fn values(list: &Values) -> Value {
    list.iter().map(|value| scalar(&value)).collect()
}

fn scalar(value: &Scalar) -> Value {
    match value {
        Scalar::Bool(value) => json!(value),
        Scalar::Integer(value) => super::Number::Integer(*value).to_json(),
        Scalar::String(value) => json!(value),
    }
}

fn bounds(bounds: [Option<Value>; 4]) -> Value {
    let given = ["lt", "lte", "gt", "gte"].into_iter().zip(bounds).filter_map(|(key, bound)| Some((key.to_owned(), bound?)));
    Value::Object(given.collect())
}

fn point(point: &GeoPoint) -> Value {
    json!({"lat": point.lat, "lon": point.lon})
}

fn ring(points: &[GeoPoint]) -> Value {
    json!({"points": points.iter().map(point).collect::<Vec<_>>()})
}
