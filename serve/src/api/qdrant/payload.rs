//! Which parts of a payload are answered: all, none, or those that paths include or exclude.
//!
//! A path is `a.b`, `a[].b` or `a[0].b`; parts that hold dots or brackets stand in quotes. `a.b` does not enter a list
//! that `a` holds, `a[].b` enters each of its elements.

use moco_index::Payload;
use serde::Deserialize;
use serde::de::{self, Deserializer};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Selector {
    All,
    Nothing,
    Include(Vec<Path>),
    Exclude(Vec<Path>),
}

/// The steps from a payload to one of its values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Every,
    Element(usize),
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Lists {
            include: Option<Vec<String>>,
            exclude: Option<Vec<String>>,
        }
        let paths =
            |paths: Vec<String>| paths.iter().map(|path| Path::parse(path)).collect::<Result<Vec<_>, _>>().map_err(de::Error::custom);
        match Value::deserialize(deserializer)? {
            Value::Bool(true) => Ok(Self::All),
            Value::Bool(false) => Ok(Self::Nothing),
            list @ Value::Array(_) => Ok(Self::Include(paths(serde_json::from_value(list).map_err(de::Error::custom)?)?)),
            object @ Value::Object(_) => match serde_json::from_value(object).map_err(de::Error::custom)? {
                Lists { include: Some(include), exclude: None } => Ok(Self::Include(paths(include)?)),
                Lists { include: None, exclude: Some(exclude) } => Ok(Self::Exclude(paths(exclude)?)),
                Lists { .. } => Err(de::Error::custom("with_payload has either `include` or `exclude`")),
            },
            _ => Err(de::Error::custom("with_payload is true, false, a list of paths, or an object with `include` or `exclude`")),
        }
    }
}

impl Selector {
    /// Whether the payload has to be read at all.
    pub(super) fn wants_any(&self) -> bool {
        *self != Self::Nothing
    }

    pub(super) fn apply(&self, payload: Payload) -> Payload {
        match self {
            Self::All => payload,
            Self::Nothing => Payload::new(),
            Self::Include(paths) => {
                let paths: Vec<&[Step]> = paths.iter().map(|path| &*path.0).collect();
                match include(&Value::Object(payload), &paths) {
                    Some(Value::Object(kept)) => kept,
                    _ => Payload::new(),
                }
            }
            Self::Exclude(paths) => {
                let mut payload = Value::Object(payload);
                paths.iter().for_each(|path| exclude(&mut payload, &path.0));
                match payload {
                    Value::Object(kept) => kept,
                    _ => Payload::new(),
                }
            }
        }
    }
}

/// What the paths lead to, in the structure around it; `None` if they lead nowhere. An empty path leads to all.
fn include(value: &Value, paths: &[&[Step]]) -> Option<Value> {
    if paths.iter().any(|path| path.is_empty()) {
        return Some(value.clone());
    }
    match value {
        Value::Object(fields) => {
            let kept: Payload = fields
                .iter()
                .filter_map(|(name, value)| {
                    let through = |path: &&[Step]| matches!(&path[0], Step::Field(field) if field == name);
                    let rest: Vec<&[Step]> = paths.iter().copied().filter(through).map(|path| &path[1..]).collect();
                    if rest.is_empty() { None } else { Some((name.clone(), include(value, &rest)?)) }
                })
                .collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(elements) => {
            let kept: Vec<Value> = elements
                .iter()
                .enumerate()
                .filter_map(|(position, value)| {
                    let through = |path: &&[Step]| match &path[0] {
                        Step::Every => true,
                        Step::Element(element) => *element == position,
                        Step::Field(_) => false,
                    };
                    let rest: Vec<&[Step]> = paths.iter().copied().filter(through).map(|path| &path[1..]).collect();
                    if rest.is_empty() { None } else { include(value, &rest) }
                })
                .collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        _ => None,
    }
}

fn exclude(value: &mut Value, path: &[Step]) {
    match (value, path) {
        (Value::Object(fields), [Step::Field(name)]) => {
            fields.remove(name);
        }
        (Value::Object(fields), [Step::Field(name), rest @ ..]) => {
            if let Some(value) = fields.get_mut(name) {
                exclude(value, rest);
            }
        }
        (Value::Array(elements), [Step::Every]) => elements.clear(),
        (Value::Array(elements), [Step::Every, rest @ ..]) => elements.iter_mut().for_each(|value| exclude(value, rest)),
        (Value::Array(elements), [Step::Element(position)]) if *position < elements.len() => {
            elements.remove(*position);
        }
        (Value::Array(elements), [Step::Element(position), rest @ ..]) => {
            if let Some(value) = elements.get_mut(*position) {
                exclude(value, rest);
            }
        }
        _ => {}
    }
}

impl Path {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |reason: &str| format!("`{text}` is no path into a payload: {reason}");
        let mut steps = Vec::new();
        let mut rest = text;
        loop {
            let (field, after) = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').ok_or_else(|| wrong("a quote is not closed"))?,
                None => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
            };
            if field.is_empty() {
                return Err(wrong("a part is empty"));
            }
            steps.push(Step::Field(field.to_owned()));
            rest = after;
            while let Some(bracket) = rest.strip_prefix('[') {
                let (position, after) = bracket.split_once(']').ok_or_else(|| wrong("a bracket is not closed"))?;
                steps.push(match position {
                    "" => Step::Every,
                    number => Step::Element(number.parse().map_err(|_| wrong("a position is no number"))?),
                });
                rest = after;
            }
            if rest.is_empty() {
                return Ok(Self(steps));
            }
            rest = rest.strip_prefix('.').ok_or_else(|| wrong("a part is followed by neither a dot nor a bracket"))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn select(selector: Value) -> Value {
        let payload = json!({"a": 1, "n": {"k": 2, "l": [1, 2]}, "list": [{"x": 1, "y": 2}, {"x": 3}], "d.t": null});
        let selector: Selector = serde_json::from_value(selector).unwrap();
        let Value::Object(payload) = payload else { unreachable!() };
        Value::Object(selector.apply(payload))
    }

    #[test]
    fn include_keeps_the_structure_around_what_it_names() {
        assert_eq!(select(json!(["a"])), json!({"a": 1}));
        assert_eq!(select(json!({"include": ["n.k", "missing", "a.b"]})), json!({"n": {"k": 2}}));
        assert_eq!(select(json!(["list[].x"])), json!({"list": [{"x": 1}, {"x": 3}]}));
        assert_eq!(select(json!(["list[1].x"])), json!({"list": [{"x": 3}]}));
        assert_eq!(select(json!(["list.x"])), json!({}));
        assert_eq!(select(json!(["\"d.t\""])), json!({"d.t": null}));
        assert_eq!(select(json!(["n", "n.k"])), json!({"n": {"k": 2, "l": [1, 2]}}));
    }

    #[test]
    fn exclude_drops_what_it_names() {
        let all = select(json!(true));
        assert_eq!(select(json!({"exclude": ["missing", "list.x"]})), all);
        assert_eq!(select(json!({"exclude": ["n", "list", "\"d.t\""]})), json!({"a": 1}));
        assert_eq!(
            select(json!({"exclude": ["n.l[0]", "list[].y", "a", "\"d.t\""]})),
            json!({"n": {"k": 2, "l": [2]}, "list": [{"x": 1}, {"x": 3}]})
        );
        assert_eq!(select(json!(false)), json!({}));
    }

    #[test]
    fn a_bad_path_or_selector_is_refused() {
        for bad in ["", "a..b", "a.", ".a", "a[", "a[x]", "\"a", "a[0]b"] {
            assert!(Path::parse(bad).is_err(), "`{bad}` was taken");
        }
        for bad in [json!(1), json!({"include": [], "exclude": []}), json!({}), json!([1]), json!({"only": []})] {
            assert!(serde_json::from_value::<Selector>(bad.clone()).is_err(), "{bad} was taken");
        }
    }
}
