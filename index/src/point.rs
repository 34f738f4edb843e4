//! What goes into a collection and what comes back.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::id::PointId;

/// A point's own data: a JSON object, returned as it was given.
pub type Payload = serde_json::Map<String, serde_json::Value>;

/// How deep a payload may be nested as it is written. The reader takes 128; a payload set at the end of a path lies at most
/// 32 deeper.
pub(crate) const PAYLOAD_DEPTH: usize = 64;

/// Does it hold no more arrays and objects in one another?
pub(crate) fn is_within_depth(value: &serde_json::Value, depth: usize) -> bool {
    match value {
        serde_json::Value::Array(values) => depth > 0 && values.iter().all(|value| is_within_depth(value, depth - 1)),
        serde_json::Value::Object(fields) => depth > 0 && fields.values().all(|value| is_within_depth(value, depth - 1)),
        _ => true,
    }
}

/// Refuses a payload that could be written and not be read again.
pub(crate) fn check_payload(payload: &Payload) -> Result<()> {
    match payload.iter().find(|(_, value)| !is_within_depth(value, PAYLOAD_DEPTH - 1)) {
        Some((key, _)) => Err(Error::PayloadDepth { key: key.clone(), limit: PAYLOAD_DEPTH }),
        None => Ok(()),
    }
}

/// A point as it is written: upsert replaces the whole of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub id: PointId,
    /// By vector name; `""` is the unnamed vector. A point may lack some of the collection's vectors.
    pub vectors: BTreeMap<String, Vec<f32>>,
    pub payload: Payload,
}

/// A point as it is stored. Vectors under Cosine are the scaled ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub id: PointId,
    /// The operation that last wrote this point.
    pub version: u64,
    /// `None` when not asked for.
    pub payload: Option<Payload>,
    /// `None` when not asked for.
    pub vectors: Option<BTreeMap<String, Vec<f32>>>,
}

/// A point found by a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    pub id: PointId,
    /// As [`Distance::score`](crate::Distance::score) defines it.
    pub score: f32,
    /// The operation that last wrote this point; `None` when nothing was asked for that is read from the database.
    pub version: Option<u64>,
    /// `None` when not asked for.
    pub payload: Option<Payload>,
    /// `None` when not asked for.
    pub vectors: Option<BTreeMap<String, Vec<f32>>>,
}

impl Hit {
    pub(crate) fn new(id: PointId, score: f32) -> Self {
        Self { id, score, version: None, payload: None, vectors: None }
    }
}
