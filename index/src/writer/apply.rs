//! What each write does to the truth, inside a transaction.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Face, PayloadChange, Prepared, Write};
use crate::collection::Shared;
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::id::PointId;
use crate::operation::{Selector, UpsertMode};
use crate::payload::KeyPath;
use crate::point::Payload;
use crate::sets::Stored;
use crate::tail::Owner;
use crate::truth::{CodedVector, Header, PointNumber, PointRow, Slot, Truth, vector_checksum};

/// A vector that is to be written.
pub(super) struct Put {
    /// Where among the changes it is.
    change: usize,
    checksum: u64,
}

/// A transaction under way.
pub(super) struct Group<'a> {
    pub(super) truth: &'a Truth,
    pub(super) shared: &'a Shared,
    pub(super) header: &'a mut Header,
    pub(super) next_point: &'a mut PointNumber,
    pub(super) next_slot: &'a mut Slot,
    pub(super) changes: &'a mut Vec<Change>,
    /// The vectors that this transaction has put and that still live, by slot. They are written together at its end, as many
    /// a row as fit.
    pub(super) put: BTreeMap<Slot, Put>,
    /// Stored vectors that die by it: those that share a row are cut out of it at once.
    pub(super) dead: BTreeSet<Slot>,
    pub(super) seen_by_filters: bool,
}

impl Group<'_> {
    /// The outer error ends the transaction, the inner one is this write's own: it has changed nothing.
    pub(super) fn apply(&mut self, write: Write) -> Result<Result<u64>> {
        let operation = self.header.operation + 1;
        let outcome = match write {
            Write::Upsert { points, mode, filter } => self.upsert(points, mode, filter.as_ref()).map(Ok),
            Write::UpdateVectors { points, filter } => self.update_vectors(points, filter.as_ref()),
            Write::DeleteVectors { points, names } => self.each_selected(&points, |group, before| group.delete_vectors(before, &names)),
            Write::ChangePayload { points, change } => self.each_selected(&points, |group, before| group.change_payload(before, &change)),
            Write::Delete { points } => self.delete(&points).map(Ok),
            Write::BindModel { name, fingerprint } => return Ok(self.bind(name, fingerprint).map(|()| self.header.operation)),
            Write::CreateIndex { key, schema } => {
                self.header.config.indexes.insert(key.clone(), schema.clone());
                self.changes.push(Change::CreateIndex { key, schema });
                Ok(Ok(()))
            }
            Write::DropIndex { key } => {
                self.header.config.indexes.remove(&key);
                self.changes.push(Change::DropIndex { key });
                Ok(Ok(()))
            }
            // Not an operation of a user: numbers do not move.
            Write::Install(install) => return self.install(install).map(|()| Ok(self.header.operation)),
        };
        Ok(outcome?.map(|()| {
            self.header.operation = operation;
            operation
        }))
    }

    /// The operation under way.
    fn version(&self) -> u64 {
        self.header.operation + 1
    }

    fn upsert(&mut self, points: Vec<Prepared>, mode: UpsertMode, filter: Option<&Filter>) -> Result<()> {
        for point in points {
            match self.truth.point_by_id(point.id)? {
                Some(_) if mode == UpsertMode::InsertOnly => {}
                None if mode == UpsertMode::UpdateOnly => {}
                Some(before) => {
                    if self.passes(&before, filter)? {
                        self.replace(&before, point)?;
                    }
                }
                None => self.insert(point)?,
            }
        }
        Ok(())
    }

    fn insert(&mut self, point: Prepared) -> Result<()> {
        let Prepared { id, vectors, payload } = point;
        // Not given back if the transaction fails: a number that may have reached the log is not used again.
        let number = *self.next_point;
        *self.next_point = number.checked_add(1).ok_or_else(|| Error::Full { path: self.truth.0.path.clone() })?;
        let slots = self.put_vectors(number, id, vectors)?;
        let row = PointRow { number, id, version: self.version(), slots, payload: to_json(&payload) };
        self.header.points.add(self.truth.insert_point(&row)?);
        self.see(number, None, Some(&row), Some(payload))
    }

    fn replace(&mut self, before: &PointRow, point: Prepared) -> Result<()> {
        let Prepared { id, mut vectors, payload } = point;
        let mut slots = BTreeMap::new();
        for (name, slot) in &before.slots {
            // A vector that comes again as it was keeps its slot, and its place in a segment.
            let stays = match vectors.get(name) {
                Some(vector) => self.holds(*slot, vector)?,
                None => false,
            };
            if stays {
                vectors.remove(name);
                slots.insert(name.clone(), *slot);
            } else {
                self.kill(name, *slot)?;
            }
        }
        slots.append(&mut self.put_vectors(before.number, id, vectors)?);
        let row = PointRow { version: self.version(), slots, payload: to_json(&payload), ..before.clone() };
        self.update(before, &row, Some(payload))
    }

    fn update_vectors(&mut self, points: Vec<(PointId, BTreeMap<String, Vec<f32>>)>, filter: Option<&Filter>) -> Result<Result<()>> {
        for (id, _) in &points {
            if self.truth.point_by_id(*id)?.is_none() {
                return Ok(Err(Error::PointNotFound { id: *id }));
            }
        }
        for (id, vectors) in points {
            let before = self.truth.point_by_id(id)?.ok_or_else(|| self.truth.0.damaged(format!("point {id} is gone")))?;
            if !self.passes(&before, filter)? {
                continue;
            }
            let mut slots = before.slots.clone();
            for name in vectors.keys() {
                if let Some(slot) = slots.remove(name) {
                    self.kill(name, slot)?;
                }
            }
            slots.append(&mut self.put_vectors(before.number, id, vectors)?);
            let row = PointRow { version: self.version(), slots, ..before.clone() };
            self.update(&before, &row, None)?;
        }
        Ok(Ok(()))
    }

    fn delete_vectors(&mut self, before: &PointRow, names: &[String]) -> Result<()> {
        let mut slots = before.slots.clone();
        for name in names {
            if let Some(slot) = slots.remove(name) {
                self.kill(name, slot)?;
            }
        }
        if slots.len() == before.slots.len() {
            return Ok(());
        }
        let row = PointRow { version: self.version(), slots, ..before.clone() };
        self.update(before, &row, None)
    }

    fn change_payload(&mut self, before: &PointRow, change: &PayloadChange) -> Result<()> {
        let mut payload = before.payload(&self.truth.0.path)?;
        match change {
            PayloadChange::Set { payload: new, key: None } => payload.extend(new.clone()),
            PayloadChange::Set { payload: new, key: Some(key) } => key.merge(&mut payload, new),
            PayloadChange::Overwrite { payload: new } => payload.clone_from(new),
            PayloadChange::Delete { keys } => keys.iter().for_each(|key: &KeyPath| key.delete(&mut payload)),
            PayloadChange::Clear => payload.clear(),
        }
        let row = PointRow { version: self.version(), payload: to_json(&payload), ..before.clone() };
        self.update(before, &row, Some(payload))
    }

    fn delete(&mut self, points: &Selector) -> Result<()> {
        let ids = match points {
            Selector::Ids(ids) => ids.clone(),
            Selector::Filter(filter) => self.shared.passing_ids(self.truth, filter)?,
        };
        for id in ids {
            let Some(before) = self.truth.point_by_id(id)? else { continue };
            for (name, slot) in &before.slots {
                self.kill(name, *slot)?;
            }
            self.truth.delete_point(&before)?;
            self.header.points.remove(before.checksum());
            self.see(before.number, Some(&before), None, None)?;
        }
        Ok(())
    }

    /// Does `change` to each selected point. Ids that name none are refused before anything is changed.
    fn each_selected(&mut self, points: &Selector, mut change: impl FnMut(&mut Self, &PointRow) -> Result<()>) -> Result<Result<()>> {
        let ids = match points {
            Selector::Ids(ids) => ids.iter().copied().collect::<BTreeSet<_>>(),
            Selector::Filter(filter) => self.shared.passing_ids(self.truth, filter)?.into_iter().collect(),
        };
        for id in &ids {
            if self.truth.point_by_id(*id)?.is_none() {
                return Ok(Err(Error::PointNotFound { id: *id }));
            }
        }
        for id in ids {
            let before = self.truth.point_by_id(id)?.ok_or_else(|| self.truth.0.damaged(format!("point {id} is gone")))?;
            change(self, &before)?;
        }
        Ok(Ok(()))
    }

    fn bind(&mut self, name: String, fingerprint: String) -> Result<()> {
        let Some(params) = self.header.config.vectors.get_mut(&name) else { return Err(Error::UnknownVector { name }) };
        match &params.model {
            Some(bound) if *bound != fingerprint => return Err(Error::Fingerprint { name, expected: bound.clone(), actual: fingerprint }),
            Some(_) => {}
            None => {
                params.model = Some(fingerprint.clone());
                self.header.operation += 1;
                self.changes.push(Change::Bind { name, fingerprint });
            }
        }
        Ok(())
    }

    fn put_vectors(&mut self, number: PointNumber, id: PointId, vectors: BTreeMap<String, Vec<f32>>) -> Result<BTreeMap<String, Slot>> {
        let mut slots = BTreeMap::new();
        for (name, vector) in vectors {
            let slot = *self.next_slot;
            *self.next_slot += 1;
            let checksum = vector_checksum(slot, number, &name, &vector);
            self.header.vectors.add(checksum);
            slots.insert(name.clone(), slot);
            self.put.insert(slot, Put { change: self.changes.len(), checksum });
            self.changes.push(Change::Put { name, owner: Owner { id, point: number, slot }, vector });
        }
        Ok(slots)
    }

    /// Is this what lies in a slot?
    fn holds(&self, slot: Slot, vector: &[f32]) -> Result<bool> {
        if let Some(Change::Put { vector: put, .. }) = self.put.get(&slot).map(|put| &self.changes[put.change]) {
            return Ok(bits_equal(put, vector));
        }
        Ok(self.truth.vector(slot)?.is_some_and(|row| bits_equal(&row.vector, vector)))
    }

    fn kill(&mut self, name: &str, slot: Slot) -> Result<()> {
        match self.put.remove(&slot) {
            Some(put) => self.header.vectors.remove(put.checksum),
            None => drop(self.dead.insert(slot)),
        }
        // Segments change only by a write that goes alone, so that memory knows who answers for the slot.
        if self.shared.state().spaces.get(name).is_some_and(|space| space.covers(slot)) {
            self.header.tombstones.add(self.truth.insert_tombstone(slot, name)?);
        }
        self.changes.push(Change::Kill { name: name.to_owned(), slot });
        Ok(())
    }

    /// Writes what was kept for the end of the transaction.
    pub(super) fn finish(self) -> Result<()> {
        let vectors = &mut self.header.vectors;
        self.truth.delete_vectors(&self.dead, |checksum| vectors.remove(checksum))?;
        let coded = self.put.values().filter_map(|put| match &self.changes[put.change] {
            Change::Put { name, owner, vector } => Some(CodedVector::new(owner.slot, owner.point, name, vector, put.checksum)),
            _ => None,
        });
        self.truth.insert_vectors(&coded.collect::<Vec<_>>())?;
        (self.header.next_point, self.header.next_slot) = (*self.next_point, *self.next_slot);
        self.truth.put_header(self.header)
    }

    fn update(&mut self, before: &PointRow, after: &PointRow, payload: Option<Payload>) -> Result<()> {
        self.truth.update_point(after)?;
        self.header.points.remove(before.checksum());
        self.header.points.add(after.checksum());
        self.see(after.number, Some(before), Some(after), payload)
    }

    fn see(&mut self, number: PointNumber, before: Option<&PointRow>, after: Option<&PointRow>, payload: Option<Payload>) -> Result<()> {
        if !self.seen_by_filters {
            return Ok(());
        }
        let face = |row: &PointRow, payload: Option<Payload>| -> Result<Face> {
            let payload = payload.map_or_else(|| row.payload(&self.truth.0.path), Ok)?;
            Ok(Face { payload, vectors: row.slots.keys().cloned().collect() })
        };
        let before = before.map(|row| face(row, None)).transpose()?;
        let after = after.map(|row| face(row, payload)).transpose()?;
        self.changes.push(Change::Point { number, before, after });
        Ok(())
    }

    fn passes(&self, row: &PointRow, filter: Option<&Filter>) -> Result<bool> {
        let Some(filter) = filter else { return Ok(true) };
        Ok(filter.matches_under(&self.header.config.indexes, &Stored::new(row, &self.truth.0.path)?))
    }
}

fn to_json(payload: &Payload) -> String {
    serde_json::to_string(payload).expect("a JSON object has string keys")
}

fn bits_equal(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}
