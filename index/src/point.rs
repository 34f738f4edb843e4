//! What goes into a collection and what comes back.

use std::collections::BTreeMap;

use crate::id::PointId;

/// A point's own data: a JSON object, returned as it was given.
pub type Payload = serde_json::Map<String, serde_json::Value>;

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
    /// The operation that last wrote this point.
    pub version: u64,
    /// `None` when not asked for.
    pub payload: Option<Payload>,
    /// `None` when not asked for.
    pub vectors: Option<BTreeMap<String, Vec<f32>>>,
}
