//! What the operations of a script leave, in plain maps, and the comparison of a store with it.

use std::collections::BTreeMap;

use moco_index::{Collection, Distance, Payload, PointId, Result, SearchRequest, Store};

use crate::script::{MODEL, Operation, VECTORS, Vectors, client_of};

/// A point as it must be read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) vectors: Vectors,
    pub(crate) payload: Payload,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Content {
    pub(crate) points: BTreeMap<PointId, Stored>,
    pub(crate) model: Option<String>,
}

/// The collections of a store, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model(pub(crate) BTreeMap<String, Content>);

impl Model {
    /// What the operation leaves; was there anything to do, as [`Operation::perform`] says?
    pub(crate) fn apply(&mut self, operation: &Operation) -> bool {
        match operation {
            Operation::CreateCollection { name } => {
                let is_new = !self.0.contains_key(name);
                self.0.entry(name.clone()).or_default();
                is_new
            }
            Operation::DeleteCollection { name } => self.0.remove(name).is_some(),
            Operation::BindModel { collection } => self.change(collection, |content| content.model = Some(MODEL.to_owned())),
            Operation::Upsert { collection, points } => self.change(collection, |content| {
                for point in points {
                    let vectors = point.vectors.iter().map(|(name, vector)| (name.clone(), as_stored(name, vector))).collect();
                    content.points.insert(point.id, Stored { vectors, payload: point.payload.clone() });
                }
            }),
            Operation::Delete { collection, ids } => self.change(collection, |content| content.points.retain(|id, _| !ids.contains(id))),
            Operation::UpdateOnly { collection, points } => self.change(collection, |content| {
                for point in points {
                    if let Some(stored) = content.points.get_mut(&point.id) {
                        let vectors = point.vectors.iter().map(|(name, vector)| (name.clone(), as_stored(name, vector))).collect();
                        *stored = Stored { vectors, payload: point.payload.clone() };
                    }
                }
            }),
            Operation::SetPayload { collection, ids, payload } => self.change(collection, |content| {
                for (_, stored) in content.points.iter_mut().filter(|(id, _)| ids.contains(id)) {
                    stored.payload.extend(payload.clone());
                }
            }),
            Operation::DeleteVector { collection, ids, name } => self.change(collection, |content| {
                for (_, stored) in content.points.iter_mut().filter(|(id, _)| ids.contains(id)) {
                    stored.vectors.remove(name);
                }
            }),
            Operation::Compact { collection } => self.0.contains_key(collection),
        }
    }

    fn change(&mut self, collection: &str, change: impl FnOnce(&mut Content)) -> bool {
        self.0.get_mut(collection).map(change).is_some()
    }

    /// What of this is `client`'s: its ids in what is shared, and what only it uses.
    pub(crate) fn of_client(&self, client: u64) -> Self {
        let owned = self.0.iter().map(|(name, content)| {
            let points = content.points.iter().filter(|(id, _)| client_of(**id) == client);
            let points = points.map(|(id, stored)| (*id, stored.clone())).collect();
            (name.clone(), Content { points, model: content.model.clone() })
        });
        let is_shared_or_own = |name: &str| match name.strip_prefix("side ") {
            Some(owner) => owner.parse() == Ok(client),
            None => true,
        };
        Self(owned.filter(|(name, _)| is_shared_or_own(name)).collect())
    }

    /// All that a store holds, read through every path there is: scroll, count, retrieve, and exact search by each vector,
    /// which must agree with one another.
    ///
    /// # Panics
    /// When they do not.
    pub(crate) fn read(store: &Store) -> Result<Self> {
        let mut model = Self::default();
        for name in store.collections() {
            let collection = store.collection(&name)?;
            model.0.insert(name.clone(), read(&collection, &name)?);
        }
        Ok(model)
    }

    /// What differs, in words short enough to read.
    pub(crate) fn differences(&self, expected: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for name in self.0.keys().chain(expected.0.keys().filter(|name| !self.0.contains_key(*name))) {
            let (Some(found), Some(expected)) = (self.0.get(name), expected.0.get(name)) else {
                differences.push(format!("{name} is {}", if self.0.contains_key(name) { "there" } else { "missing" }));
                continue;
            };
            if found.model != expected.model {
                differences.push(format!("{name} is bound to {:?}, not {:?}", found.model, expected.model));
            }
            let stamp = |stored: Option<&Stored>| stored.map_or("nothing".to_owned(), |stored| stored.payload["stamp"].to_string());
            for id in found.points.keys().chain(expected.points.keys().filter(|id| !found.points.contains_key(id))) {
                let (found, expected) = (found.points.get(id), expected.points.get(id));
                if found != expected {
                    differences.push(format!("{name}, {id}: {}, not {}", stamp(found), stamp(expected)));
                }
            }
        }
        differences
    }
}

fn read(collection: &Collection, name: &str) -> Result<Content> {
    let (records, next) = collection.scroll(None, usize::MAX >> 1, true, true)?;
    assert_eq!((records.len(), next), (collection.count(), None), "{name}: scroll and count agree");
    let points: BTreeMap<PointId, Stored> = records
        .iter()
        .map(|record| (record.id, Stored { vectors: record.vectors.clone().unwrap(), payload: record.payload.clone().unwrap() }))
        .collect();
    assert!(records.windows(2).all(|pair| pair[0].id < pair[1].id), "{name}: scroll goes by id, each id once");
    let ids: Vec<PointId> = points.keys().copied().collect();
    assert_eq!(collection.retrieve(&ids, true, true)?, records, "{name}: retrieve and scroll agree");
    for (vector, size, _) in VECTORS {
        let request =
            SearchRequest { vector_name: vector.to_owned(), exact: true, ..SearchRequest::new(vec![1.0; size], points.len() + 9) };
        let mut found: Vec<PointId> = collection.search(&request)?.iter().map(|hit| hit.id).collect();
        found.sort_unstable();
        let expected: Vec<PointId> = points.iter().filter(|(_, stored)| stored.vectors.contains_key(vector)).map(|(id, _)| *id).collect();
        assert_eq!(found, expected, "{name}: search by `{vector}` and scroll hold the same points");
    }
    let model = collection.config().vectors[""].model.clone();
    Ok(Content { points, model })
}

/// A vector as the store keeps it: as it is, but scaled to length one under Cosine.
pub(crate) fn as_stored(name: &str, vector: &[f32]) -> Vec<f32> {
    let (_, _, distance) = VECTORS.into_iter().find(|(known, ..)| *known == name).expect("a vector of the script");
    let squared: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
    if distance != Distance::Cosine || squared == 0.0 || (squared - 1.0).abs() <= 1e-6 {
        return vector.to_vec();
    }
    vector.iter().map(|x| (f64::from(*x) / squared.sqrt()) as f32).collect()
}
