//! What keeps a collection in shape: compaction, waiting for the builder, and verification.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Collection;
use crate::error::{Error, Result};
#[cfg(test)]
use crate::schedules;
use crate::search::SearchRequest;
use crate::segment::Row;
use crate::state::{Body, Part};
use crate::store::{SnapshotManifest, snapshot};
use crate::tail::Owner;
use crate::truth::Slot;

/// Vectors that look for themselves in a verification, at most, of each name.
const SELF_QUERIES: usize = 1000;
/// Vectors of a lost part that are in memory at a time.
const LOST_AT_ONCE: usize = 1000;

/// What [`Collection::verify`] found in order.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyReport {
    /// Rows whose checksums were verified.
    pub points: u64,
    /// By name.
    pub vectors: BTreeMap<String, VectorReport>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct VectorReport {
    /// Vectors whose checksums were verified, and that are where a search looks.
    pub vectors: usize,
    /// Segments whose every section was verified, and whose every row links lead to.
    pub segments: usize,
    /// Vectors that were searched for by themselves, and how many were among their own ten nearest.
    pub self_queries: (usize, usize),
}

impl Collection {
    /// Waits until the builder has nothing left to do.
    pub fn wait_until_built(&self) {
        self.shared.poke_builder();
        let mut maintenance = self.shared.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        while !maintenance.settled && !self.shared.closing.load(Ordering::Relaxed) {
            maintenance = self.shared.maintained.wait(maintenance).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Merges each vector's tail and segments into one segment without dead vectors, and waits for it.
    ///
    /// # Errors
    /// [`Error::Build`] if a segment cannot be built; what there was stays and is searched.
    pub fn compact(&self) -> Result<()> {
        self.check_open()?;
        let ticket = self.shared.maintain(|maintenance| {
            maintenance.compactions.0 += 1;
            maintenance.compactions.0
        });
        self.shared.poke_builder();
        let mut maintenance = self.shared.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        while maintenance.compactions.1 < ticket {
            if self.shared.closing.load(Ordering::Relaxed) {
                return Err(Error::CollectionDeleted);
            }
            maintenance = self.shared.maintained.wait(maintenance).unwrap_or_else(PoisonError::into_inner);
        }
        match &maintenance.compaction_failure {
            Some(reason) => Err(Error::Build { path: self.folder.clone(), reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Writes the collection as it is now into one new file, which [`Store::restore`](crate::Store::restore) makes a
    /// collection of: every operation acknowledged before the call, and perhaps some that ran beside it. Reads and writes go on meanwhile.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is a file at `path`; [`Error::DiskFull`], [`Error::Io`], [`Error::Database`].
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<SnapshotManifest> {
        self.check_open()?;
        snapshot::write(&self.shared.path, path.as_ref())
    }

    /// Reads everything that is stored and compares it with its checksums: every row of the truth, every section of every
    /// segment; that memory and truth hold the same vectors; that links lead to every row of a segment; and how many vectors find
    /// themselves. Writes wait while the two are compared. A segment that is damaged is out of use from then on, and built anew.
    ///
    /// # Errors
    /// The first thing that is wrong: [`Error::Damaged`], [`Error::DamagedPoint`], [`Error::DamagedVector`],
    /// [`Error::DamagedSegment`].
    pub fn verify(&self) -> Result<VerifyReport> {
        self.check_open()?;
        let (truth, spaces) = {
            let _gate = self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner);
            let truth = self.shared.read(|truth| truth.verify(&truth.header()?))?;
            (truth, self.shared.state().spaces.clone())
        };
        let mut vectors = BTreeMap::new();
        for (name, space) in &spaces {
            let mut known: Vec<Slot> = space.tail.rows().map(|(owner, _)| owner.slot).collect();
            for part in space.segments.iter() {
                match &part.body {
                    Body::Frozen(segment, live) => {
                        segment.verify().inspect_err(|error| self.shared.lose(name, segment, &error.to_string()))?;
                        let lives = |row: &Row| live.as_ref().is_none_or(|live| live.contains(*row));
                        known.extend((0..segment.rows() as Row).filter(lives).map(|row| segment.slots()[row as usize]));
                    }
                    Body::Lost(reason) => {
                        return Err(Error::Damaged { path: self.folder.join(&part.row.file), reason: reason.clone() });
                    }
                }
            }
            known.sort_unstable();
            let stored = truth.slots.get(name).map_or(&[][..], Vec::as_slice);
            if known != stored {
                let reason = format!("a search compares {} vectors `{name}`, {} are stored, or others", known.len(), stored.len());
                return Err(Error::Damaged { path: self.folder.clone(), reason });
            }
            let segments = space.segments.len();
            let self_queries = self.self_queries(name, stored)?;
            vectors.insert(name.clone(), VectorReport { vectors: known.len(), segments, self_queries });
        }
        Ok(VerifyReport { points: truth.points, vectors })
    }

    /// Shows the living vectors of a part whose segment is lost, from the truth; lost it is from now on, if it was just found damaged.
    /// `changed` is set if some of them died since the part was looked at: what replaced them is not in the tail that was looked at
    /// with it.
    pub(super) fn read_lost(&self, part: &Part, changed: &Cell<bool>, see: &mut dyn FnMut(Owner, &[f32])) -> Result<()> {
        let (name, last) = (&part.row.vector, part.row.last);
        if let Body::Frozen(segment, _) = &part.body
            && let Some(damage) = segment.damage()
        {
            self.shared.lose(name, segment, &damage);
        }
        // Of one moment, and not all in memory at once: many searches may come upon it.
        let count = self.shared.read(|truth| {
            let (mut first, mut count) = (part.row.first, 0);
            while first <= last {
                let rows = truth.vectors_between(name, first, last, LOST_AT_ONCE)?;
                rows.iter().for_each(|(row, id)| see(Owner { id: *id, point: row.point, slot: row.slot }, &row.vector));
                count += rows.len();
                match rows.last() {
                    Some((row, _)) if rows.len() == LOST_AT_ONCE => first = row.slot + 1,
                    _ => break,
                }
            }
            Ok(count)
        })?;
        // No slot is used again, so as many vectors are the same vectors.
        let has_changed = count != part.live;
        #[cfg(test)]
        let has_changed = has_changed && !schedules::is_planted(schedules::Fault::BelievesWhatIsReadLater);
        if has_changed {
            changed.set(true);
        }
        Ok(())
    }

    /// Searches for some vectors by themselves; how many were tried, and how many came back.
    fn self_queries(&self, name: &str, slots: &[Slot]) -> Result<(usize, usize)> {
        let (mut tried, mut found) = (0, 0);
        for slot in slots.iter().step_by((slots.len() / SELF_QUERIES).max(1)) {
            let Some(row) = self.shared.read(|truth| truth.vector(*slot))? else { continue };
            let request = SearchRequest { vector_name: name.to_owned(), ..SearchRequest::new(row.vector, 10) };
            let id = self.shared.read(|truth| Ok(truth.point_by_number(row.point)?.map(|point| point.id)))?;
            let hits = self.search(&request)?;
            tried += 1;
            found += usize::from(hits.iter().any(|hit| Some(hit.id) == id));
        }
        Ok((tried, found))
    }
}
