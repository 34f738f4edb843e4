//! Random payloads, random filters, and a second opinion on what passes, for the oracles of filters and payload indexes.
//!
//! The second opinion reads the filter's JSON itself and shares nothing with the code it judges but the parsers of dates and
//! UUIDs: the slow and obvious way, one clause after the other.

use std::collections::BTreeMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Datetime, Filter, PointView};
use crate::id::PointId;
use crate::payload::{SchemaKind, TokenizerKind};
use crate::point::Payload;

pub(crate) struct Sample {
    pub(crate) id: PointId,
    pub(crate) payload: Payload,
    pub(crate) vectors: Vec<&'static str>,
}

impl PointView for Sample {
    fn id(&self) -> PointId {
        self.id
    }

    fn payload(&self) -> &Payload {
        &self.payload
    }

    fn has_vector(&self, name: &str) -> bool {
        self.vectors.contains(&name)
    }
}

const STRINGS: [&str; 16] = [
    "red",
    "Red car",
    "blue house, red roof",
    "redo",
    "",
    "a b c",
    "1",
    "true",
    "2020-02-29",
    "2020-02-29T14:00:00+02:00",
    "2021-01-01 10:00",
    "2021-01-01T10:00:00.5Z",
    "550e8400-e29b-41d4-a716-446655440000",
    "550E8400E29B41D4A716446655440000",
    "67e55044-10b1-426f-9247-bb680e5fe0c8",
    "2020-13-01",
];
const INTEGERS: [i64; 8] = [0, 1, 2, -1, 7, 1 << 53, (1 << 53) + 1, i64::MIN];
const FLOATS: [f64; 8] = [0.0, -0.0, 1.0, 0.5, -1.5, 9_007_199_254_740_992.0, 1e300, 2.0];
pub(crate) const KEYS: [&str; 15] =
    ["a", "b", "c", "a[]", "a[0]", "o.x", "o.l", "o.l[]", "n[].a", "n[].b", "n[1].a", "n.a", "n[].m[].a", "missing", "n[]"];

fn one<T: Copy>(random: &mut ChaCha8Rng, from: &[T]) -> T {
    from[random.random_range(0..from.len())]
}

fn place(random: &mut ChaCha8Rng) -> Value {
    match random.random_range(0..8) {
        0 => json!({"lat": 10, "lon": 20}),
        1 => json!({"lat": 100.0, "lon": 0.0}),
        2 => json!({"lat": 10.0}),
        3 => json!({"lat": "10", "lon": 20}),
        _ => json!({"lat": random.random_range(-90.0..90.0), "lon": random.random_range(-180.0..180.0), "name": "x"}),
    }
}

fn leaf(random: &mut ChaCha8Rng) -> Value {
    match random.random_range(0..14) {
        0 => Value::Null,
        1 => random.random::<bool>().into(),
        2..5 => one(random, &INTEGERS).into(),
        5 => u64::MAX.into(),
        6 | 7 => one(random, &FLOATS).into(),
        8 => place(random),
        _ => one(random, &STRINGS).into(),
    }
}

fn value(random: &mut ChaCha8Rng, depth: usize) -> Value {
    match random.random_range(0..10) {
        0..6 => leaf(random),
        6..9 => (0..random.random_range(0..4)).map(|_| if depth > 0 { value(random, depth - 1) } else { leaf(random) }).collect(),
        _ => json!({"x": leaf(random)}),
    }
}

pub(crate) fn payload(random: &mut ChaCha8Rng) -> Payload {
    let mut fields = Map::new();
    let put = |random: &mut ChaCha8Rng, fields: &mut Map<String, Value>, key: &str, value: &dyn Fn(&mut ChaCha8Rng) -> Value| {
        if random.random_range(0..4) > 0 {
            fields.insert(key.to_owned(), value(random));
        }
    };
    for key in ["a", "b", "c"] {
        put(random, &mut fields, key, &|random| value(random, 1));
    }
    put(random, &mut fields, "o", &|random| json!({"x": value(random, 0), "l": value(random, 1)}));
    let object = |random: &mut ChaCha8Rng| match random.random_range(0..6) {
        0 => leaf(random),
        1 => json!([{"a": leaf(random)}]),
        2 => json!({"a": leaf(random)}),
        3 => json!({"b": value(random, 0), "m": [{"a": leaf(random)}, leaf(random)]}),
        _ => json!({"a": leaf(random), "b": leaf(random)}),
    };
    put(random, &mut fields, "n", &|random| (0..random.random_range(0..4)).map(|_| object(random)).collect());
    fields
}

pub(crate) fn sample(random: &mut ChaCha8Rng, id: u64) -> Sample {
    let vectors = ["", "image"].into_iter().filter(|_| random.random()).collect();
    let id = if id.is_multiple_of(3) { PointId::Uuid(Uuid::from_u128(id.into())) } else { PointId::Num(id) };
    Sample { id, payload: payload(random), vectors }
}

fn scalars(random: &mut ChaCha8Rng) -> Value {
    let mixed = random.random_range(0..4) == 0;
    let strings: bool = random.random();
    let scalar = |random: &mut ChaCha8Rng| match (mixed, random.random_range(0..3)) {
        (true, 0) => json!(random.random::<bool>()),
        (true, 1) => one(random, &INTEGERS).into(),
        (true, _) => one(random, &STRINGS).into(),
        (false, _) if strings => one(random, &STRINGS).into(),
        (false, _) => one(random, &INTEGERS).into(),
    };
    (0..random.random_range(0..4)).map(|_| scalar(random)).collect()
}

fn bounds(random: &mut ChaCha8Rng, bound: &dyn Fn(&mut ChaCha8Rng) -> Value) -> Value {
    let mut fields = Map::new();
    for key in ["lt", "lte", "gt", "gte"] {
        if random.random_range(0..3) == 0 {
            fields.insert(key.to_owned(), bound(random));
        }
    }
    Value::Object(fields)
}

fn geo(random: &mut ChaCha8Rng) -> (&'static str, Value) {
    let point = |random: &mut ChaCha8Rng| json!({"lat": random.random_range(-90..=90), "lon": random.random_range(-180..=180)});
    let ring = |random: &mut ChaCha8Rng| {
        let mut points: Vec<Value> = (0..random.random_range(3..6)).map(|_| point(random)).collect();
        points.push(points[0].clone());
        json!({"points": points})
    };
    match random.random_range(0..3) {
        0 => ("geo_bounding_box", json!({"top_left": point(random), "bottom_right": point(random)})),
        1 => ("geo_radius", json!({"center": point(random), "radius": random.random_range(0.0..2e7)})),
        _ => ("geo_polygon", json!({"exterior": ring(random), "interiors": [ring(random)]})),
    }
}

fn condition(random: &mut ChaCha8Rng, keys: &[&str], depth: usize, nested: bool) -> Value {
    let key = one(random, keys);
    let words = ["red", "Red", "car red", "ed c", "", "house roof", "re", "b", "x, a"];
    match random.random_range(0..if depth > 0 { 26 } else { 22 }) {
        0..3 => json!({"key": key, "match": {"value": one(random, &STRINGS)}}),
        3 => json!({"key": key, "match": {"value": one(random, &INTEGERS)}}),
        4 => json!({"key": key, "match": {"value": random.random::<bool>()}}),
        5 | 6 => json!({"key": key, "match": {"any": scalars(random)}}),
        7 | 8 => json!({"key": key, "match": {"except": scalars(random)}}),
        9 | 10 => json!({"key": key, "match": {one(random, &["text", "text_any", "phrase", "prefix", "substring"]): one(random, &words)}}),
        11..14 => {
            let number =
                |random: &mut ChaCha8Rng| if random.random() { one(random, &INTEGERS).into() } else { one(random, &FLOATS).into() };
            json!({"key": key, "range": bounds(random, &number)})
        }
        14 => {
            let range =
                bounds(random, &|random| one(random, &["2020-02-29", "2020-02-29T12:00:00Z", "2021-01-01 10:00", "1970-01-01"]).into());
            json!({"key": key, "range": range})
        }
        15 => {
            let (kind, region) = geo(random);
            json!({"key": key, kind: region})
        }
        16 => json!({"key": key, "values_count": bounds(random, &|random| random.random_range(0..4).into())}),
        17 => json!({"is_empty": {"key": key}}),
        18 => json!({"is_null": {"key": key}}),
        19 => json!({"key": key, one(random, &["is_empty", "is_null"]): random.random::<bool>()}),
        20 if !nested => json!({"has_id": (0..20).map(|_| random.random_range(0..60)).collect::<Vec<u64>>()}),
        21 if !nested => json!({"has_vector": one(random, &["", "image", "none"])}),
        22 | 23 => {
            let (list, inner): (&str, &[&str]) =
                one(random, &[("n", &["a", "b", "m[].a", "z"][..]), ("n[]", &["a", "b"]), ("o.l", &["x"]), ("a", &["x"])]);
            json!({"nested": {"key": list, "filter": filter_of(random, inner, depth - 1, true)}})
        }
        24 if depth > 0 => {
            json!({"nested": {"key": "n", "filter": {"must": {"nested": {"key": "m", "filter": filter_of(random, &["a"], 0, true)}}}}})
        }
        _ if depth > 0 => filter_of(random, keys, depth - 1, nested),
        _ => json!({"is_empty": {"key": key}}),
    }
}

fn filter_of(random: &mut ChaCha8Rng, keys: &[&str], depth: usize, nested: bool) -> Value {
    let mut fields = Map::new();
    for clause in ["must", "should", "must_not"] {
        match random.random_range(0..6) {
            0 => {
                fields.insert(clause.to_owned(), condition(random, keys, depth, nested));
            }
            1 | 2 => {
                let list = (0..random.random_range(0..3)).map(|_| condition(random, keys, depth, nested)).collect();
                fields.insert(clause.to_owned(), list);
            }
            _ => {}
        }
    }
    if random.random_range(0..5) == 0 {
        let list: Value = (0..random.random_range(0..4)).map(|_| condition(random, keys, depth, nested)).collect();
        fields.insert("min_should".to_owned(), json!({"conditions": list, "min_count": random.random_range(0..4)}));
    }
    Value::Object(fields)
}

pub(crate) fn filter(random: &mut ChaCha8Rng) -> Value {
    filter_of(random, &KEYS, 2, false)
}

/// The second opinion, for the payload indexes of `schemas`, by whole key.
pub(crate) struct Opinion<'a> {
    pub(crate) sample: &'a Sample,
    pub(crate) schemas: &'a BTreeMap<String, SchemaKind>,
}

impl Opinion<'_> {
    pub(crate) fn passes(&self, filter: &Value) -> bool {
        self.filter(filter, &Value::Object(self.sample.payload.clone()), "")
    }

    fn filter(&self, filter: &Value, at: &Value, way: &str) -> bool {
        let list = |clause: &str| match &filter[clause] {
            Value::Null => Vec::new(),
            Value::Array(list) => list.clone(),
            one => vec![one.clone()],
        };
        let count = |list: &[Value]| list.iter().filter(|condition| self.condition(condition, at, way)).count() as u64;
        let (must, should, must_not) = (list("must"), list("should"), list("must_not"));
        if count(&must) < must.len() as u64 || count(&must_not) > 0 || !should.is_empty() && count(&should) == 0 {
            return false;
        }
        match filter["min_should"]["conditions"].as_array() {
            Some(list) => count(list) >= filter["min_should"]["min_count"].as_u64().unwrap(),
            None => true,
        }
    }

    fn condition(&self, condition: &Value, at: &Value, way: &str) -> bool {
        if let Some(ids) = condition["has_id"].as_array() {
            return ids.contains(&serde_json::to_value(self.sample.id).unwrap());
        }
        if let Some(name) = condition["has_vector"].as_str() {
            return self.sample.vectors.contains(&name);
        }
        if let Some(key) = condition["is_empty"]["key"].as_str() {
            return is_empty(&select(at, key));
        }
        if let Some(key) = condition["is_null"]["key"].as_str() {
            return select(at, key).contains(&Value::Null);
        }
        if let Some(key) = condition["nested"]["key"].as_str() {
            let list = if key.ends_with("[]") { key.to_owned() } else { format!("{key}[]") };
            let way = format!("{way}{list}.");
            return select(at, &list).iter().any(|value| value.is_object() && self.filter(&condition["nested"]["filter"], value, &way));
        }
        let Some(key) = condition["key"].as_str() else { return self.filter(condition, at, way) };
        let selected = select(at, key);
        if let Some(wanted) = condition["is_empty"].as_bool() {
            return is_empty(&selected) == wanted;
        }
        if let Some(wanted) = condition["is_null"].as_bool() {
            return selected.contains(&Value::Null) == wanted;
        }
        if let Some(range) = condition["values_count"].as_object() {
            let count = |value: &Value| match value {
                Value::Null => 0,
                Value::Array(list) => list.len() as u64,
                _ => 1,
            };
            return selected.iter().any(|value| range.iter().all(|(key, bound)| meets(key, count(value).cmp(&bound.as_u64().unwrap()))));
        }
        let mut elements = Vec::new();
        for value in &selected {
            match value {
                Value::Array(list) => elements.extend(list.clone()),
                one => elements.push(one.clone()),
            }
        }
        let schema = self.schemas.get(&format!("{way}{key}"));
        if let Some(asked) = condition["match"].as_object() {
            let (kind, wanted) = asked.iter().next().unwrap();
            if let Some(SchemaKind::Text(tokenizer)) = schema
                && (kind == "text" || kind == "text_any" || kind == "phrase")
            {
                let tokens = |text: &str| -> Vec<String> {
                    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
                };
                let meets = |word: &str, token: &str| match tokenizer.kind {
                    TokenizerKind::Prefix => word.starts_with(token),
                    _ => word == token,
                };
                let texts: Vec<Vec<String>> = elements.iter().filter_map(Value::as_str).map(tokens).collect();
                let tokens = tokens(wanted.as_str().unwrap());
                let is_held = |token: &String| texts.iter().flatten().any(|word| meets(word, token));
                return !tokens.is_empty()
                    && match kind.as_str() {
                        "text" => tokens.iter().all(is_held),
                        "text_any" => tokens.iter().any(is_held),
                        _ => texts.iter().any(|text| {
                            (0..text.len()).any(|start| {
                                tokens.iter().enumerate().all(|(i, token)| text.get(start + i).is_some_and(|word| meets(word, token)))
                            })
                        }),
                    };
            }
            let equal = |a: &Value, b: &Value| {
                let uuid = |value: &Value| value.as_str().and_then(|text| Uuid::try_parse(text).ok());
                a == b || schema == Some(&SchemaKind::Uuid) && uuid(a).is_some() && uuid(a) == uuid(b)
            };
            return elements.iter().any(|value| {
                let text = value.as_str();
                match kind.as_str() {
                    "value" => equal(value, wanted),
                    "any" => wanted.as_array().unwrap().iter().any(|wanted| equal(value, wanted)),
                    "except" => !value.is_null() && !wanted.as_array().unwrap().iter().any(|wanted| equal(value, wanted)),
                    "prefix" => text.is_some_and(|text| text.starts_with(wanted.as_str().unwrap())),
                    "text_any" => text.is_some_and(|text| wanted.as_str().unwrap().split_whitespace().any(|word| text.contains(word))),
                    _ => text.is_some_and(|text| text.contains(wanted.as_str().unwrap())),
                }
            });
        }
        if let Some(range) = condition["range"].as_object() {
            return elements.iter().any(|value| {
                range.iter().all(|(key, bound)| match (value, bound) {
                    (Value::Number(a), Value::Number(b)) => meets(key, exact(a).cmp(&exact(b))),
                    (Value::String(a), Value::String(b)) => {
                        Datetime::parse(a).is_some_and(|a| meets(key, a.cmp(&Datetime::parse(b).unwrap())))
                    }
                    _ => false,
                }) && (value.is_number() || !range.is_empty())
            });
        }
        // Regions have examples of their own; here each place is asked for alone, at a key of its own.
        let mut alone = condition.clone();
        alone["key"] = "v".into();
        let alone = Filter::parse(&json!({"must": alone})).unwrap();
        elements.into_iter().filter(|value| value["lat"].is_number() && value["lon"].is_number()).any(|value| {
            let payload = Map::from_iter([("v".to_owned(), value)]);
            alone.matches(&Sample { id: self.sample.id, payload, vectors: Vec::new() })
        })
    }
}

/// A sample's number, doubled so that halves are whole, behind whether it is the one that is too large for that.
fn exact(number: &serde_json::Number) -> (bool, i128) {
    match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(integer), _, _) => (false, 2 * i128::from(integer)),
        (None, Some(integer), _) => (false, 2 * i128::from(integer)),
        (None, None, Some(float)) if float > 1e200 => (true, 0),
        (None, None, float) => (false, (float.unwrap() * 2.0) as i128),
    }
}

fn meets(key: &str, order: std::cmp::Ordering) -> bool {
    match key {
        "lt" => order.is_lt(),
        "lte" => order.is_le(),
        "gt" => order.is_gt(),
        _ => order.is_ge(),
    }
}

fn is_empty(selected: &[Value]) -> bool {
    selected.iter().all(|value| value.is_null() || value == &json!([]))
}

/// The values at a path whose keys want no quotes.
fn select(at: &Value, path: &str) -> Vec<Value> {
    let mut values = vec![at.clone()];
    for part in path.replace('[', ".[").split('.').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        for value in values {
            if part == "[]" {
                next.extend(value.as_array().cloned().unwrap_or_default());
            } else if let Some(position) = part.strip_prefix('[') {
                let position: usize = position.trim_end_matches(']').parse().unwrap();
                next.extend(value.as_array().and_then(|list| list.get(position)).cloned());
            } else {
                next.extend(value.as_object().and_then(|fields| fields.get(part)).cloned());
            }
        }
        values = next;
    }
    values
}
