//! Paths into a payload: `a.b`, `a[].b`, `a[0].b`, `"quoted.key"`.
//!
//! A path is a key, followed by keys, positions (`[0]`) and all elements (`[]`). A key of letters, digits, `_` and `-` stands
//! as it is, any other stands in quotes. `a.b` does not enter a list that `a` holds; `a[].b` enters each of its elements.
//! Grammar and the effects of writes are Qdrant's, whose clients send these paths.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::point::Payload;

/// The most steps a path may have: a payload that [`KeyPath::merge`] makes must stay readable, and JSON is read to a depth of 128.
const MAX_STEPS: usize = 32;

/// The way from a payload to the values at one place in it. It starts with a key and is never empty.
///
/// ```
/// let path = moco_index::KeyPath::parse("rooms[].size").unwrap();
/// let payload = serde_json::from_str(r#"{"rooms": [{"size": 1}, {"size": 2}]}"#).unwrap();
/// assert_eq!(path.select(&payload), [1, 2]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPath {
    steps: Vec<Step>,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    /// The value of an object's key.
    Key(String),
    /// One element of a list, counted from 0.
    Element(usize),
    /// Every element of a list.
    Every,
}

impl KeyPath {
    /// Reads a path.
    ///
    /// # Errors
    /// [`Error::KeyPath`] when the text is no path, or one of more than 32 steps.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |reason| Error::KeyPath { path: text.to_owned(), reason };
        let mut steps = Vec::new();
        let mut rest = text;
        loop {
            let key = match rest.strip_prefix('"') {
                Some(quoted) => {
                    let (key, after) = quoted.split_once('"').ok_or_else(|| wrong("a quote is not closed"))?;
                    if key.contains('\\') {
                        return Err(wrong("a backslash cannot stand in a key"));
                    }
                    rest = after;
                    key
                }
                None => {
                    let (key, after) = rest.split_at(rest.find(|c| !is_plain(c)).unwrap_or(rest.len()));
                    if key.is_empty() {
                        return Err(wrong("a key is missing, or holds a character that wants quotes around the key"));
                    }
                    rest = after;
                    key
                }
            };
            steps.push(Step::Key(key.to_owned()));
            while let Some(bracket) = rest.strip_prefix('[') {
                let (position, after) = bracket.split_once(']').ok_or_else(|| wrong("a bracket is not closed"))?;
                steps.push(match position {
                    "" => Step::Every,
                    digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                        Step::Element(digits.parse().map_err(|_| wrong("a position is too large"))?)
                    }
                    _ => return Err(wrong("a position is no number")),
                });
                rest = after;
            }
            if steps.len() > MAX_STEPS {
                return Err(wrong("it has more than 32 steps"));
            }
            if rest.is_empty() {
                return Ok(Self { steps });
            }
            rest = rest.strip_prefix('.').ok_or_else(|| wrong("a key is followed by what is neither a dot nor a bracket"))?;
        }
    }

    /// The values at this place, as they are: a list there is one value.
    pub fn select<'a>(&self, payload: &'a Payload) -> Vec<&'a Value> {
        let mut selected = Vec::new();
        self.any(payload, &mut |value| {
            selected.push(value);
            false
        });
        selected
    }

    /// Does `accept` take one of the values at this place? It is not asked again after a yes.
    pub(crate) fn any<'a>(&self, payload: &'a Payload, accept: &mut dyn FnMut(&'a Value) -> bool) -> bool {
        match self.steps.split_first() {
            Some((Step::Key(key), rest)) => payload.get(key).is_some_and(|value| any_below(value, rest, accept)),
            _ => false,
        }
    }

    /// Merges `values` into the object at this place, key by key; what is no object there becomes one, and missing keys on the
    /// way are made. A missing position and `[]` of what is no list change nothing below themselves, as in Qdrant.
    pub fn merge(&self, payload: &mut Payload, values: &Payload) {
        if let Some((Step::Key(key), rest)) = self.steps.split_first() {
            merge_below(payload.entry(key.as_str()).or_insert(Value::Null), rest, values);
        }
    }

    /// Takes away what is at this place; elements behind a position move up, `[]` empties the list. Absent is fine.
    pub fn delete(&self, payload: &mut Payload) {
        match &*self.steps {
            [Step::Key(key)] => {
                payload.remove(key);
            }
            [Step::Key(key), rest @ ..] => {
                if let Some(value) = payload.get_mut(key) {
                    delete_below(value, rest);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The path of the elements of the list at this place: `a` is `a[]`, `a[]` stays.
    pub(crate) fn elements(&self) -> Self {
        let mut steps = self.steps.clone();
        if steps.last() != Some(&Step::Every) {
            steps.push(Step::Every);
        }
        Self { steps }
    }

    /// The path that goes on from this one.
    pub(crate) fn join(&self, further: &Self) -> Self {
        Self { steps: [&*self.steps, &*further.steps].concat() }
    }
}

/// May a key hold this character without quotes?
fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

fn any_below<'a>(value: &'a Value, steps: &[Step], accept: &mut dyn FnMut(&'a Value) -> bool) -> bool {
    match (steps.split_first(), value) {
        (None, value) => accept(value),
        (Some((Step::Key(key), rest)), Value::Object(fields)) => fields.get(key).is_some_and(|value| any_below(value, rest, accept)),
        (Some((Step::Element(position), rest)), Value::Array(elements)) => {
            elements.get(*position).is_some_and(|value| any_below(value, rest, accept))
        }
        (Some((Step::Every, rest)), Value::Array(elements)) => elements.iter().any(|value| any_below(value, rest, accept)),
        (Some(_), _) => false,
    }
}

fn merge_below(place: &mut Value, steps: &[Step], values: &Payload) {
    let Some((step, rest)) = steps.split_first() else {
        let fields = object_at(place);
        fields.extend(values.iter().map(|(key, value)| (key.clone(), value.clone())));
        return;
    };
    match step {
        Step::Key(key) => merge_below(object_at(place).entry(key.as_str()).or_insert(Value::Null), rest, values),
        Step::Element(position) => {
            if let Some(element) = list_at(place).get_mut(*position) {
                merge_below(element, rest, values);
            }
        }
        Step::Every => list_at(place).iter_mut().for_each(|element| merge_below(element, rest, values)),
    }
}

/// The object at a place, made there if it holds something else.
fn object_at(place: &mut Value) -> &mut Payload {
    if !place.is_object() {
        *place = Value::Object(Payload::new());
    }
    place.as_object_mut().expect("the place was just made an object")
}

/// The list at a place, made there if it holds something else.
fn list_at(place: &mut Value) -> &mut Vec<Value> {
    if !place.is_array() {
        *place = Value::Array(Vec::new());
    }
    place.as_array_mut().expect("the place was just made a list")
}

fn delete_below(value: &mut Value, steps: &[Step]) {
    match (value, steps) {
        (Value::Object(fields), [Step::Key(key)]) => {
            fields.remove(key);
        }
        (Value::Object(fields), [Step::Key(key), rest @ ..]) => {
            if let Some(value) = fields.get_mut(key) {
                delete_below(value, rest);
            }
        }
        (Value::Array(elements), [Step::Every]) => elements.clear(),
        (Value::Array(elements), [Step::Every, rest @ ..]) => elements.iter_mut().for_each(|value| delete_below(value, rest)),
        (Value::Array(elements), [Step::Element(position)]) if *position < elements.len() => {
            elements.remove(*position);
        }
        (Value::Array(elements), [Step::Element(position), rest @ ..]) => {
            if let Some(value) = elements.get_mut(*position) {
                delete_below(value, rest);
            }
        }
        _ => {}
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.steps.iter().enumerate() {
            match step {
                Step::Key(key) => {
                    let dot = if position == 0 { "" } else { "." };
                    let quote = if key.is_empty() || key.contains(|c| !is_plain(c)) { "\"" } else { "" };
                    write!(f, "{dot}{quote}{key}{quote}")?;
                }
                Step::Element(element) => write!(f, "[{element}]")?,
                Step::Every => f.write_str("[]")?,
            }
        }
        Ok(())
    }
}

impl FromStr for KeyPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl Serialize for KeyPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn payload(value: Value) -> Payload {
        match value {
            Value::Object(fields) => fields,
            other => panic!("{other} is no payload"),
        }
    }

    fn path(text: &str) -> KeyPath {
        KeyPath::parse(text).unwrap()
    }

    #[test]
    fn a_path_selects_through_keys_positions_and_all_elements() {
        let payload = payload(json!({
            "a": {"b": [{"c": 1}, {"c": 2}, {"d": {"e": 3}}], "l": [[1, 2], [3]]},
            "arr": [{"a": [1, 2]}, {"a": 4}, {"b": 5}],
            "x.y": 6, "": 7, "größe-2": 8,
        }));
        let selected = |text: &str| path(text).select(&payload).into_iter().cloned().collect::<Vec<_>>();
        assert_eq!(selected("a.b[].c"), [1, 2]);
        assert_eq!(selected("a.b[1].c"), [2]);
        assert_eq!(selected("a.b[2].d"), [json!({"e": 3})]);
        assert_eq!(selected("a.l[]"), [json!([1, 2]), json!([3])]);
        assert_eq!(selected("a.l[][0]"), [1, 3]);
        assert_eq!(selected("arr[].a"), [json!([1, 2]), json!(4)]);
        assert_eq!(selected("arr[].a[]"), [1, 2]);
        assert_eq!([selected("\"x.y\""), selected("\"\""), selected("größe-2")], [[6], [7], [8]].map(|one| one.map(Value::from).to_vec()));
        for nothing in ["a.b.c", "a[]", "a[0]", "arr[9].a", "arr.a", "missing", "a.b[].c.d", "a.l[0][7]"] {
            assert!(selected(nothing).is_empty(), "`{nothing}` led somewhere");
        }
    }

    #[test]
    fn a_path_is_written_as_it_is_read() {
        for text in ["a", "a.b", "a[].b", "a[0][].b-c", "\"x.y\".z", "\"\"", "\"a b\"[3]", "größe_1"] {
            assert_eq!(path(text).to_string(), text);
        }
        assert_eq!(path("\"plain\".\"key\"").to_string(), "plain.key");
        assert_eq!(serde_json::from_value::<KeyPath>(json!("a[1]")).unwrap(), path("a[1]"));
        assert_eq!(serde_json::to_value(path("a[1]")).unwrap(), "a[1]");
    }

    #[test]
    fn what_is_no_path_is_refused_with_the_reason() {
        let too_deep = vec!["a"; 33].join(".");
        let cases = [
            ("", "missing"),
            ("a..b", "missing"),
            (".a", "missing"),
            ("a.", "missing"),
            ("[0]", "missing"),
            ("a b", "neither a dot"),
            ("a[", "not closed"),
            ("a[x]", "no number"),
            ("a[-1]", "no number"),
            ("a[+1]", "no number"),
            ("a[99999999999999999999]", "too large"),
            ("\"a", "not closed"),
            ("a\"b\"", "neither a dot"),
            ("a[0]b", "neither a dot"),
            ("\"a\\\"", "backslash"),
            (&too_deep, "32 steps"),
        ];
        for (text, part) in cases {
            let error = KeyPath::parse(text).expect_err(text).to_string();
            assert!(error.contains(part) && error.contains(text), "{error}");
        }
        assert!(KeyPath::parse(&vec!["a"; 32].join(".")).is_ok());
    }

    #[test]
    fn a_merge_makes_what_is_missing_on_its_way() {
        let merged = |before: Value, at: &str, values: Value| {
            let mut after = payload(before);
            path(at).merge(&mut after, &payload(values));
            Value::Object(after)
        };
        let values = || json!({"c": 5});
        let nested = || json!({"a": {"b": [{"c": 1}, {"d": 2}]}, "f": 3});
        assert_eq!(merged(nested(), "a", values()), json!({"a": {"b": [{"c": 1}, {"d": 2}], "c": 5}, "f": 3}));
        assert_eq!(merged(nested(), "a.b[1]", values()), json!({"a": {"b": [{"c": 1}, {"d": 2, "c": 5}]}, "f": 3}));
        assert_eq!(merged(nested(), "a.b[]", values()), json!({"a": {"b": [{"c": 5}, {"d": 2, "c": 5}]}, "f": 3}));
        assert_eq!(merged(nested(), "a.b[7]", values()), nested());
        assert_eq!(merged(nested(), "f", values()), json!({"a": nested()["a"], "f": {"c": 5}}));
        assert_eq!(merged(json!({}), "k.l", values()), json!({"k": {"l": {"c": 5}}}));
        assert_eq!(merged(json!({}), "k.l[].m", values()), json!({"k": {"l": []}}));
        assert_eq!(merged(json!({}), "k[3]", values()), json!({"k": []}));
        assert_eq!(merged(json!({"a": 10}), "a.b.c", json!({"x": null})), json!({"a": {"b": {"c": {"x": null}}}}));
    }

    #[test]
    fn a_delete_takes_away_exactly_what_its_path_names() {
        let deleted = |at: &str| {
            let mut after = payload(json!({"a": 1, "b": {"c": 2, "l": [1, 2, 3], "o": [{"j": 1, "k": 2}, {"k": 3}]}}));
            path(at).delete(&mut after);
            Value::Object(after)
        };
        assert_eq!(deleted("a"), json!({"b": {"c": 2, "l": [1, 2, 3], "o": [{"j": 1, "k": 2}, {"k": 3}]}}));
        assert_eq!(deleted("b.l[1]")["b"]["l"], json!([1, 3]));
        assert_eq!(deleted("b.l[]")["b"]["l"], json!([]));
        assert_eq!(deleted("b.o[].k")["b"]["o"], json!([{"j": 1}, {}]));
        assert_eq!(deleted("b.o[0].k")["b"]["o"], json!([{"j": 1}, {"k": 3}]));
        assert_eq!(deleted("b"), json!({"a": 1}));
        for absent in ["z", "b.z", "b.l[9]", "a.b", "b.o.k", "b[0]", "b[]"] {
            assert_eq!(deleted(absent), deleted("z"));
        }
    }
}
