//! What filters are answered from: which points live, which have which vector, and the payload indexes.
//!
//! Sets of point numbers in memory, made at the first filtered call from the truth and kept up by the writer from then
//! on. A collection that is never asked for a filter pays nothing for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use roaring::RoaringBitmap;

use crate::config::CollectionConfig;
use crate::error::Result;
use crate::filter::{Condition, Filter, PointView, Schemas};
use crate::id::PointId;
use crate::passing::{PassingSet, Recent};
use crate::payload::{FieldIndex, KeyPath, PayloadIndexes, PayloadSchema, Points, Resolved, SchemaKind, Tokenizer};
use crate::point::Payload;
use crate::truth::{PointNumber, PointRow, Truth};
use crate::writer::Face;

pub(crate) struct Sets {
    /// The points that live.
    all: RoaringBitmap,
    /// Of these, by vector name, those that have it.
    with_vector: BTreeMap<String, RoaringBitmap>,
    pub(crate) indexes: PayloadIndexes,
    recent: Mutex<Recent>,
    /// Of filters of several conditions, the ranges.
    recent_ranges: Mutex<Recent>,
}

impl Sets {
    pub(crate) fn read(truth: &Truth, config: &CollectionConfig) -> Result<Self> {
        let mut indexes = PayloadIndexes::default();
        for (key, schema) in &config.indexes {
            indexes.add(FieldIndex::new(key.clone(), schema.clone()));
        }
        let with_vector = config.vectors.keys().map(|name| (name.clone(), RoaringBitmap::new())).collect();
        let mut sets = Self { all: RoaringBitmap::new(), with_vector, indexes, recent: Mutex::default(), recent_ranges: Mutex::default() };
        truth.points_by_number(|row| {
            // Nothing looks at payloads if nothing is indexed.
            let payload = if config.indexes.is_empty() { Payload::new() } else { row.payload(&truth.0.path)? };
            let face = Face { payload, vectors: row.slots.into_keys().collect() };
            sets.change(row.number, None, Some(&face));
            Ok(true)
        })?;
        Ok(sets)
    }

    pub(crate) fn change(&mut self, number: PointNumber, before: Option<&Face>, after: Option<&Face>) {
        self.forget();
        for name in before.iter().flat_map(|face| &face.vectors) {
            self.with_vector.entry(name.clone()).or_default().remove(number);
        }
        for name in after.iter().flat_map(|face| &face.vectors) {
            self.with_vector.entry(name.clone()).or_default().insert(number);
        }
        match (before, after) {
            (None, None) => {}
            (None, Some(after)) => {
                self.all.insert(number);
                self.indexes.insert(number, &after.payload);
            }
            (Some(before), None) => {
                self.all.remove(number);
                self.indexes.remove(number, &before.payload);
            }
            (Some(before), Some(after)) => self.indexes.update(number, &before.payload, &after.payload),
        }
    }

    pub(crate) fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    /// Takes the index of a key away: what its conditions mean may change with it.
    pub(crate) fn drop_index(&mut self, key: &KeyPath) {
        self.forget();
        self.indexes.drop(key);
    }

    fn forget(&mut self) {
        for recent in [&mut self.recent, &mut self.recent_ranges] {
            recent.get_mut().unwrap_or_else(PoisonError::into_inner).forget();
        }
    }

    /// The points that pass, if the sets alone can tell.
    pub(crate) fn passing(&self, filter: &Filter) -> Option<Arc<PassingSet>> {
        kept(&self.recent, filter, || self.in_all_of(filter).or_else(|| self.exactly(filter)))
    }

    fn exactly(&self, filter: &Filter) -> Option<RoaringBitmap> {
        let resolved = self.indexes.resolve(filter, &Known { sets: self, truth: None });
        resolved.exact.then(|| resolved.candidates.unwrap_or_else(|| self.all.clone()))
    }

    /// The points that pass several conditions, found range by range: what lies in a range is put together value by value, which costs
    /// more than all else, and one range of several is often asked for again with others. `None`: it is another kind of filter, or the
    /// sets alone cannot tell.
    fn in_all_of(&self, filter: &Filter) -> Option<RoaringBitmap> {
        if !filter.must.iter().any(Condition::is_range) {
            return None;
        }
        let (ranges, others): (Vec<_>, Vec<_>) = filter.must.iter().cloned().partition(Condition::is_range);
        let rest = Filter {
            must: others,
            should: filter.should.clone(),
            must_not: filter.must_not.clone(),
            min_should: filter.min_should.clone(),
        };
        let mut found = if rest == Filter::default() { None } else { Some(self.exactly(&rest)?) };
        if found.is_none() && ranges.len() == 1 {
            return None;
        }
        for range in ranges {
            let range = Filter::must([range]);
            let part = kept(&self.recent_ranges, &range, || self.exactly(&range))?;
            let both = found.map_or_else(|| part.numbers().clone(), |found| found & part.numbers());
            if both.is_empty() {
                return Some(both);
            }
            found = Some(both);
        }
        found
    }

    /// What is known of the points that pass. Ids are looked up in `truth`.
    pub(crate) fn resolve(&self, filter: &Filter, truth: &Truth) -> Resolved {
        self.indexes.resolve(filter, &Known { sets: self, truth: Some(truth) })
    }
}

/// What passes the filter, as it was found before, or as it is found now.
fn kept(recent: &Mutex<Recent>, filter: &Filter, find: impl FnOnce() -> Option<RoaringBitmap>) -> Option<Arc<PassingSet>> {
    let recent = || recent.lock().unwrap_or_else(PoisonError::into_inner);
    let passing = recent().get(filter);
    if passing.is_some() {
        return passing;
    }
    let passing = Arc::new(PassingSet::new(find()?));
    recent().put(filter.clone(), Arc::clone(&passing));
    Some(passing)
}

/// What the sets and the truth know together.
struct Known<'a> {
    sets: &'a Sets,
    /// `None`: ids are not looked up.
    truth: Option<&'a Truth>,
}

impl Points for Known<'_> {
    fn all(&self) -> &RoaringBitmap {
        &self.sets.all
    }

    fn with_vector(&self, name: &str) -> Option<&RoaringBitmap> {
        self.sets.with_vector.get(name)
    }

    fn with_ids(&self, ids: &BTreeSet<PointId>) -> Option<RoaringBitmap> {
        let truth = self.truth?;
        let mut numbers = RoaringBitmap::new();
        for id in ids {
            // Where the truth cannot be read the filter is not answered from here, and the reading of rows reports why.
            numbers.extend(truth.point_by_id(*id).ok()?.map(|row| row.number));
        }
        Some(numbers)
    }
}

impl Schemas for BTreeMap<KeyPath, PayloadSchema> {
    fn tokenizer(&self, key: &KeyPath) -> Option<&Tokenizer> {
        match self.get(key)?.kind() {
            SchemaKind::Text(tokenizer) => Some(tokenizer),
            _ => None,
        }
    }

    fn is_uuid(&self, key: &KeyPath) -> bool {
        self.get(key).is_some_and(|schema| *schema.kind() == SchemaKind::Uuid)
    }
}

/// A point as filters see it.
pub(crate) struct Stored<'a> {
    row: &'a PointRow,
    payload: Payload,
}

impl<'a> Stored<'a> {
    pub(crate) fn new(row: &'a PointRow, path: &Path) -> Result<Self> {
        Ok(Self { row, payload: row.payload(path)? })
    }
}

impl PointView for Stored<'_> {
    fn id(&self) -> PointId {
        self.row.id
    }

    fn payload(&self) -> &Payload {
        &self.payload
    }

    fn has_vector(&self, name: &str) -> bool {
        self.row.slots.contains_key(name)
    }
}
