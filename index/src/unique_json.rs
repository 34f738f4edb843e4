//! JSON in which no object has a key twice.
//!
//! A [`Value`] keeps the last of them, and what the others said would be ignored: of a filter, a condition; of a payload, what
//! whoever wrote it thinks is stored.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use crate::point::Payload;

/// A value that was read so, by `serde`. Fails with a message that names the key.
#[derive(Debug)]
pub struct UniqueJson(pub Value);

/// A payload that was read so.
#[derive(Debug)]
pub struct UniquePayload(pub Payload);

impl<'de> Deserialize<'de> for UniqueJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyJson)
    }
}

impl<'de> Deserialize<'de> for UniquePayload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Object)
    }
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = UniquePayload;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<UniquePayload, A::Error> {
        let mut object = Payload::new();
        while let Some(key) = fields.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(de::Error::custom(format_args!("the key `{key}` stands there twice")));
            }
            object.insert(key, fields.next_value::<UniqueJson>()?.0);
        }
        Ok(UniquePayload(object))
    }
}

struct AnyJson;

impl<'de> Visitor<'de> for AnyJson {
    type Value = UniqueJson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<UniqueJson, E> {
        Ok(UniqueJson(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<UniqueJson, E> {
        Ok(UniqueJson(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<UniqueJson, E> {
        Ok(UniqueJson(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<UniqueJson, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom(format_args!("{value} is no number of JSON")))?;
        Ok(UniqueJson(number.into()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<UniqueJson, E> {
        Ok(UniqueJson(value.into()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<UniqueJson, E> {
        Ok(UniqueJson(value.into()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<UniqueJson, E> {
        Ok(UniqueJson(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<UniqueJson, A::Error> {
        let mut array = Vec::new();
        while let Some(UniqueJson(value)) = values.next_element()? {
            array.push(value);
        }
        Ok(UniqueJson(array.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<UniqueJson, A::Error> {
        Object.visit_map(fields).map(|UniquePayload(object)| UniqueJson(object.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_a_value_is_and_no_key_comes_twice() {
        let sound = r#"{"a": [1, -2, 0.5, 18446744073709551615, null, true, "\u00e9", {"b": {}, "c": [[]]}], "b": {"a": 1}}"#;
        let UniqueJson(value) = serde_json::from_str(sound).unwrap();
        assert_eq!(value, serde_json::from_str::<Value>(sound).unwrap());
        for twice in [r#"{"a": 1, "a": 1}"#, r#"[{"b": {"a": 1, "c": 2, "a": null}}]"#, r#"{"\u0061": 1, "a": 2}"#] {
            let error = serde_json::from_str::<UniqueJson>(twice).unwrap_err().to_string();
            assert!(error.starts_with("the key `a` stands there twice at line 1"), "{error}");
        }
    }
}
