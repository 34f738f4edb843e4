//! Which parts of a payload are returned: all, none, or those that paths include or exclude.
//!
//! Including keeps the structure around what is named: `n.k` of `{"n": {"k": 1, "l": 2}}` is `{"n": {"k": 1}}`. As in Qdrant,
//! a value that ends on the way is kept (`a.b` of `{"a": 1}` is `{"a": 1}`), and an element of an entered list stays as an
//! empty object when nothing in it was named, so that positions mean the same before and after.

use serde::de::{self, Deserialize, Deserializer};
use serde_json::Value;

use super::key_path::{KeyPath, Step};
use crate::point::Payload;

/// The parts of a payload that an answer holds.
///
/// In JSON: `true`, `false`, a list of paths to include, `{"include": […]}` or `{"exclude": […]}`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum PayloadSelect {
    #[default]
    All,
    None,
    Include(Vec<KeyPath>),
    Exclude(Vec<KeyPath>),
}

impl PayloadSelect {
    /// Does the payload have to be read at all?
    pub fn wants_any(&self) -> bool {
        *self != Self::None
    }

    pub fn apply(&self, payload: Payload) -> Payload {
        match self {
            Self::All => payload,
            Self::None => Payload::new(),
            Self::Include(paths) => {
                let paths: Vec<&[Step]> = paths.iter().map(KeyPath::steps).collect();
                include_fields(payload, &paths)
            }
            Self::Exclude(paths) => {
                let paths: Vec<&[Step]> = paths.iter().map(KeyPath::steps).collect();
                exclude_fields(payload, &paths)
            }
        }
    }
}

/// The paths that a step leads into, without that step.
fn behind<'a>(paths: &[&'a [Step]], through: impl Fn(&Step) -> bool) -> Vec<&'a [Step]> {
    paths.iter().filter_map(|path| path.split_first().filter(|(step, _)| through(step)).map(|(_, rest)| rest)).collect()
}

fn is_key(step: &Step, key: &str) -> bool {
    matches!(step, Step::Key(named) if named == key)
}

fn is_element(step: &Step, position: usize) -> bool {
    match step {
        Step::Every => true,
        Step::Element(named) => *named == position,
        Step::Key(_) => false,
    }
}

fn include_fields(fields: Payload, paths: &[&[Step]]) -> Payload {
    let kept = fields.into_iter().filter_map(|(key, value)| {
        let rest = behind(paths, |step| is_key(step, &key));
        if rest.is_empty() { None } else { Some((key, include(value, &rest))) }
    });
    kept.collect()
}

/// What is kept of a value that at least one path leads to or into.
fn include(value: Value, paths: &[&[Step]]) -> Value {
    if paths.iter().any(|path| path.is_empty()) {
        return value;
    }
    match value {
        Value::Object(fields) => Value::Object(include_fields(fields, paths)),
        Value::Array(elements) => {
            let kept = elements.into_iter().enumerate().filter_map(|(position, element)| {
                let rest = behind(paths, |step| is_element(step, position));
                if rest.is_empty() { None } else { Some(include(element, &rest)) }
            });
            Value::Array(kept.collect())
        }
        other => other,
    }
}

fn exclude_fields(fields: Payload, paths: &[&[Step]]) -> Payload {
    let kept =
        fields.into_iter().filter_map(|(key, value)| Some((key.clone(), exclude(value, &behind(paths, |step| is_key(step, &key)))?)));
    kept.collect()
}

/// What is left of a value; `None` where a path ends.
fn exclude(value: Value, paths: &[&[Step]]) -> Option<Value> {
    if paths.is_empty() {
        return Some(value);
    }
    if paths.iter().any(|path| path.is_empty()) {
        return None;
    }
    Some(match value {
        Value::Object(fields) => Value::Object(exclude_fields(fields, paths)),
        Value::Array(elements) => {
            let kept = elements
                .into_iter()
                .enumerate()
                .filter_map(|(position, element)| exclude(element, &behind(paths, |step| is_element(step, position))));
            Value::Array(kept.collect())
        }
        other => other,
    })
}

/// All of the payload, or nothing of it.
impl From<bool> for PayloadSelect {
    fn from(all: bool) -> Self {
        if all { Self::All } else { Self::None }
    }
}

impl<'de> Deserialize<'de> for PayloadSelect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let paths = |value: Value| serde_json::from_value::<Vec<KeyPath>>(value).map_err(de::Error::custom);
        match Value::deserialize(deserializer)? {
            Value::Bool(all) => Ok(all.into()),
            list @ Value::Array(_) => Ok(Self::Include(paths(list)?)),
            Value::Object(fields) if fields.len() == 1 => match fields.into_iter().next() {
                Some((key, list)) if key == "include" => Ok(Self::Include(paths(list)?)),
                Some((key, list)) if key == "exclude" => Ok(Self::Exclude(paths(list)?)),
                _ => Err(de::Error::custom("`with_payload` has `include` or `exclude`")),
            },
            Value::Object(_) => Err(de::Error::custom("`with_payload` has either `include` or `exclude`")),
            _ => Err(de::Error::custom("`with_payload` is true, false, a list of paths, or an object with `include` or `exclude`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn select(selector: Value) -> Value {
        let payload = json!({"a": 1, "n": {"k": 2, "l": [1, 2]}, "list": [{"x": 1, "y": 2}, {"x": 3}, {"y": 4}], "d.t": null});
        let selector: PayloadSelect = serde_json::from_value(selector).unwrap();
        let Value::Object(payload) = payload else { unreachable!("it is an object") };
        Value::Object(selector.apply(payload))
    }

    #[test]
    fn include_keeps_the_structure_around_what_it_names() {
        assert_eq!(select(json!(["a"])), json!({"a": 1}));
        assert_eq!(select(json!({"include": ["n.k", "missing"]})), json!({"n": {"k": 2}}));
        assert_eq!(select(json!(["list[].x"])), json!({"list": [{"x": 1}, {"x": 3}, {}]}));
        assert_eq!(select(json!(["list[1].x"])), json!({"list": [{"x": 3}]}));
        assert_eq!(select(json!(["list.x"])), json!({"list": []}));
        assert_eq!(select(json!(["a.b"])), json!({"a": 1}));
        assert_eq!(select(json!(["n.missing"])), json!({"n": {}}));
        assert_eq!(select(json!(["\"d.t\""])), json!({"d.t": null}));
        assert_eq!(select(json!(["n", "n.k"])), json!({"n": {"k": 2, "l": [1, 2]}}));
        assert_eq!(select(json!([])), json!({}));
    }

    #[test]
    fn exclude_drops_what_it_names() {
        let all = select(json!(true));
        assert_eq!(select(json!({"exclude": ["missing", "list.x", "a.b"]})), all);
        assert_eq!(select(json!({"exclude": ["n", "list", "\"d.t\""]})), json!({"a": 1}));
        assert_eq!(
            select(json!({"exclude": ["n.l[0]", "list[].y", "a", "\"d.t\""]})),
            json!({"n": {"k": 2, "l": [2]}, "list": [{"x": 1}, {"x": 3}, {}]})
        );
        assert_eq!(select(json!({"exclude": ["n.l[0]", "n.l[1]"]}))["n"], json!({"k": 2, "l": []}));
        assert_eq!(select(json!(false)), json!({}));
    }

    #[test]
    fn what_selects_nothing_known_is_refused() {
        for bad in [json!(1), json!({"include": [], "exclude": []}), json!({}), json!([1]), json!({"only": []}), json!(["a["]), json!(null)]
        {
            assert!(serde_json::from_value::<PayloadSelect>(bad.clone()).is_err(), "{bad} was taken");
        }
    }
}
