//! What a collection is made of, fixed when it is created (except the models, which are bound once).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::build::Builder;
use crate::codes::Codes;
use crate::distance::Distance;
use crate::error::{Error, Result};
use crate::payload::{KeyPath, PayloadSchema};
use crate::point::{PAYLOAD_DEPTH, is_within_depth};

/// The most dimensions a vector may have.
pub(crate) const MAX_SIZE: usize = 65_536;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectionConfig {
    /// By name; `""` is the unnamed vector. May be empty: a collection of payloads.
    pub vectors: BTreeMap<String, VectorParams>,
    #[serde(default)]
    pub hnsw: HnswParams,
    /// By key: what of every payload is kept in memory for filters, order and facets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub indexes: BTreeMap<KeyPath, PayloadSchema>,
    /// Anything the user wants to remember about the collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorParams {
    /// Dimensions, from 1 to 65,536.
    pub size: usize,
    pub distance: Distance,
    /// Fingerprint (SHA-256 of the file, in hexadecimal) of the model that embeds into this vector; `None` until
    /// [`Collection::bind_model`](crate::Collection::bind_model) sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What a walk compares with; the nearest it finds are compared again in full.
    #[serde(default)]
    pub codes: Codes,
}

/// The HNSW paper's parameters, and when to use a graph at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HnswParams {
    /// Links a point keeps in the upper layers; layer 0 keeps twice as many, three times where
    /// vectors have at most 256 dimensions (255 under Dot) and our own builder makes the graph. More is better recall, slower builds, more memory.
    pub m: usize,
    /// Candidates kept while building.
    pub ef_construction: usize,
    /// Candidates kept while searching, unless the request says otherwise. Raise it for recall, lower it for speed.
    pub ef_search: usize,
    /// Up to this many vectors a search compares with all of them: exact, and fast enough.
    pub full_scan_threshold: usize,
    /// Who makes the links.
    pub builder: Builder,
}

impl Default for HnswParams {
    fn default() -> Self {
        Self { m: 16, ef_construction: 200, ef_search: 128, full_scan_threshold: 10_000, builder: Builder::default() }
    }
}

impl VectorParams {
    pub fn new(size: usize, distance: Distance) -> Self {
        Self { size, distance, model: None, codes: Codes::default() }
    }
}

impl CollectionConfig {
    /// A collection of one unnamed vector.
    pub fn unnamed(size: usize, distance: Distance) -> Self {
        Self { vectors: BTreeMap::from([(String::new(), VectorParams::new(size, distance))]), ..Self::default() }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |field: String, reason: &str| Err(Error::Config { field, reason: reason.to_owned() });
        for (name, params) in &self.vectors {
            if !(1..=MAX_SIZE).contains(&params.size) {
                return refuse(format!("size of vector `{name}`"), &format!("{} is not within 1 to {MAX_SIZE}", params.size));
            }
            if name.len() > usize::from(u8::MAX) {
                return refuse(format!("name of vector `{name}`"), "longer than 255 bytes");
            }
        }
        if self.metadata.as_ref().is_some_and(|metadata| !is_within_depth(metadata, PAYLOAD_DEPTH)) {
            return refuse("metadata".to_owned(), &format!("it is nested more than {PAYLOAD_DEPTH} deep"));
        }
        // hnsw_rs counts links in a u8, doubled on layer 0, and ends the process above 256; below 2 its level scale is infinite.
        if !(2..=127).contains(&self.hnsw.m) {
            return refuse("hnsw.m".to_owned(), &format!("{} is not within 2 to 127", self.hnsw.m));
        }
        for (field, value) in [("hnsw.ef_construction", self.hnsw.ef_construction), ("hnsw.ef_search", self.hnsw.ef_search)] {
            if !(1..=65_536).contains(&value) {
                return refuse(field.to_owned(), &format!("{value} is not within 1 to 65536"));
            }
        }
        Ok(())
    }

    pub(crate) fn vector(&self, name: &str) -> Result<&VectorParams> {
        self.vectors.get(name).ok_or_else(|| Error::UnknownVector { name: name.to_owned() })
    }
}
