//! What a collection knows in memory: which points live, in which slots, and their vectors.
//!
//! The writer thread changes it, after the commit and before the acknowledgement; everybody else reads. Readers hold the
//! lock for a look-up or the clone of an `Arc`, never for a search.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{CollectionConfig, VectorParams};
use crate::graph::Index;
use crate::id::PointId;
use crate::rows::{Owner, Row, Rows};

/// Where a point is.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) slot: u64,
    /// Checksum of its row in the database.
    pub(crate) checksum: u64,
    /// Its row in each of [`State::spaces`], in their order; `None` where it lacks the vector.
    rows: Box<[Option<Row>]>,
}

/// The vectors of one name and, where it pays, a graph over most of them.
#[derive(Clone)]
pub(crate) struct Space {
    pub(crate) rows: Arc<Rows>,
    pub(crate) index: Option<Arc<Index>>,
    /// Why the last attempt to build a graph failed, and how many rows there were.
    pub(crate) failure: Option<(String, usize)>,
}

pub(crate) struct State {
    pub(crate) config: CollectionConfig,
    pub(crate) points: BTreeMap<PointId, Entry>,
    pub(crate) spaces: BTreeMap<String, Space>,
    /// The last operation that was committed.
    pub(crate) operation: u64,
}

impl State {
    pub(crate) fn new(config: CollectionConfig, operation: u64) -> Self {
        let space = |params: &VectorParams| Space { rows: Arc::new(Rows::new(params.size)), index: None, failure: None };
        let spaces = config.vectors.iter().map(|(name, params)| (name.clone(), space(params))).collect();
        Self { config, points: BTreeMap::new(), spaces, operation }
    }

    /// Sets the whole of a point; what it was before dies.
    pub(crate) fn put(&mut self, id: PointId, slot: u64, checksum: u64, vectors: &BTreeMap<String, Vec<f32>>) {
        self.remove(id);
        let owner = Owner { id, slot };
        let rows = self
            .spaces
            .iter_mut()
            .map(|(name, space)| vectors.get(name).map(|vector| Arc::make_mut(&mut space.rows).append(vector, owner)))
            .collect();
        self.points.insert(id, Entry { slot, checksum, rows });
    }

    pub(crate) fn remove(&mut self, id: PointId) {
        let Some(entry) = self.points.remove(&id) else { return };
        for (space, row) in self.spaces.values_mut().zip(&entry.rows) {
            if let Some(row) = row {
                Arc::make_mut(&mut space.rows).kill(*row);
            }
        }
    }
}
