//! Points as JSON lines, one a line, in the shape that Qdrant gives and takes them:
//! `{"id": 1, "vector": [0.1, 0.2], "payload": {"kind": "cat"}}`; several vectors are `"vector": {"name": […]}`.
//!
//! serde alone would take less: a list for an object, its elements in the order of the fields, and of a key that comes twice
//! the last. A file of either was made by mistake.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Lines};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use moco_index::{Payload, Point, PointId, Record, UniquePayload};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The vectors of a point, by name; the unnamed one alone is written as a bare list.
///
/// Numbers are read as f32 at once: by way of f64 a few of them would be rounded twice.
#[derive(Debug, Default)]
pub(crate) struct Vectors(pub(crate) BTreeMap<String, Vec<f32>>);

impl<'de> Deserialize<'de> for Vectors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VectorsVisitor;

        impl<'de> Visitor<'de> for VectorsVisitor {
            type Value = Vectors;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a dense vector, or dense vectors by name")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Vectors, E> {
                Ok(Vectors::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Vectors, A::Error> {
                let vector = Vec::deserialize(de::value::SeqAccessDeserializer::new(sequence))?;
                Ok(Vectors(BTreeMap::from([(String::new(), vector)])))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vectors, A::Error> {
                let mut vectors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if vectors.contains_key(&name) {
                        return Err(de::Error::custom(format_args!("the key `{name}` stands there twice")));
                    }
                    vectors.insert(name, map.next_value()?);
                }
                Ok(Vectors(vectors))
            }
        }

        deserializer.deserialize_any(VectorsVisitor)
    }
}

impl Serialize for Vectors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.get("") {
            Some(unnamed) if self.0.len() == 1 => unnamed.serialize(serializer),
            _ => self.0.serialize(serializer),
        }
    }
}

/// A point on its line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointLine {
    id: PointId,
    #[serde(default)]
    vector: Vectors,
    #[serde(default, deserialize_with = "unique_payload")]
    payload: Option<Payload>,
}

fn unique_payload<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Payload>, D::Error> {
    Ok(Option::<UniquePayload>::deserialize(deserializer)?.map(|UniquePayload(payload)| payload))
}

impl From<PointLine> for Point {
    fn from(line: PointLine) -> Self {
        Self { id: line.id, vectors: line.vector.0, payload: line.payload.unwrap_or_default() }
    }
}

impl From<Record> for PointLine {
    fn from(record: Record) -> Self {
        Self { id: record.id, vector: Vectors(record.vectors.unwrap_or_default()), payload: record.payload }
    }
}

/// A JSON object, and no list of what its fields hold.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// The lines of a file, each an object, parsed; empty ones are left out.
pub(crate) struct JsonLines<T> {
    path: PathBuf,
    lines: Lines<BufReader<File>>,
    number: usize,
    of: PhantomData<T>,
}

impl<T> JsonLines<T> {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path: path.to_owned(), lines: BufReader::with_capacity(1 << 20, file).lines(), number: 0, of: PhantomData })
    }

    /// Of the line that was read last, from 1.
    pub(crate) fn number(&self) -> usize {
        self.number
    }
}

impl<T: de::DeserializeOwned> Iterator for JsonLines<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        loop {
            let line = match self.lines.next()? {
                Ok(line) => line,
                Err(source) => return Some(Err(source).with_context(|| format!("cannot read {}", self.path.display()))),
            };
            self.number += 1;
            if !line.trim().is_empty() {
                let at = || format!("{}, line {}", self.path.display(), self.number);
                return Some(serde_json::from_str(&line).map(|Object(value)| value).with_context(at));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_written_as_it_is_read_bit_for_bit() {
        for text in [
            r#"{"id":1,"vector":[0.1,1e-40,3.4028235e+38],"payload":{"a":1}}"#,
            r#"{"id":"550e8400-e29b-41d4-a716-446655440000","vector":{"a":[1.0],"b":[2.0,3.0]},"payload":null}"#,
            r#"{"id":2,"vector":{},"payload":{}}"#,
        ] {
            let Object(line): Object<PointLine> = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&line).unwrap(), text);
        }
        // Halfway between two f32 in f64, a hair above in decimal.
        let text = r#"{"id":1,"vector":{"":[1.00000017881393432617187501]}}"#;
        let Object(line): Object<PointLine> = serde_json::from_str(text).unwrap();
        assert_eq!(line.vector.0[""], [1.0000002f32]);
    }

    #[test]
    fn what_is_no_point_is_refused() {
        for text in [
            r#"{"vector":[1.0]}"#,
            r#"{"id":1,"vectors":[1.0]}"#,
            r#"{"id":1,"vector":[null]}"#,
            r#"{"id":1,"vector":[[1.0]]}"#,
            r#"{"id":1,"vector":{"sparse":{"indices":[1],"values":[0.5]}}}"#,
            r#"{"id":-1}"#,
            r#"{"id":1,"payload":[]}"#,
            r#"[1]"#,
            r#"[1,[1.0],{}]"#,
            r#"{"id":1,"id":1}"#,
            r#"{"id":1,"vector":[1.0],"vector":[1.0]}"#,
            r#"{"id":1,"vector":{"a":[1.0],"a":[1.0]}}"#,
            r#"{"id":1,"payload":{"a":1,"a":1}}"#,
            r#"{"id":1,"payload":{"a":[{"b":1,"b":1}]}}"#,
        ] {
            assert!(serde_json::from_str::<Object<PointLine>>(text).is_err(), "{text}");
        }
    }
}
