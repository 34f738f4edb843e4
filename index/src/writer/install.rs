//! A built segment takes the place of the vectors it was built from, in one transaction.
//!
//! The file is complete and synced before; its row in the catalogue is what makes it exist. Vectors that died while it was
//! built get their tombstones in the same transaction, so that a crash on either side of it leaves a whole picture. The truth
//! decides who died, and a segment that holds other than all living vectors of its range is refused. The
//! files it replaces are unlinked afterwards; a crash in between leaves files that no row names, which the next start
//! removes.

use std::path::PathBuf;

use super::Change;
use super::apply::Group;
use crate::error::{Error, Result};
#[cfg(test)]
use crate::schedules;
use crate::segment::Segment;
use crate::state::{Part, Space, State};
use crate::truth::{SegmentRow, Slot};

pub(crate) struct Install {
    pub(crate) vector: String,
    /// The range it answers for.
    pub(crate) first: Slot,
    pub(crate) last: Slot,
    /// `None`: nothing in the range lives, and no segment is needed.
    pub(crate) segment: Option<(SegmentRow, Segment)>,
    /// The collection's folder.
    pub(crate) folder: PathBuf,
}

impl Group<'_> {
    pub(super) fn install(&mut self, install: Box<Install>) -> Result<()> {
        let Install { vector, first, last, segment, .. } = &*install;
        let refuse = |reason| Error::Build { path: install.folder.clone(), reason };
        let (mut dead, replaced, expected) = {
            let state = self.shared.state();
            let in_memory: usize = state.spaces.values().map(Space::live).sum();
            if in_memory as u64 != self.header.vectors.rows {
                // A segment is built of what memory knows: nothing that it has lost sight of may end with it.
                return Err(refuse(format!("memory holds {in_memory} vectors, the truth {}", self.header.vectors.rows)));
            }
            let space = &state.spaces[vector];
            let dead: Vec<Slot> =
                segment.iter().flat_map(|(_, segment)| segment.slots().iter().copied()).filter(|slot| !space.is_live(*slot)).collect();
            let replaced: Vec<_> = space.segments.iter().filter(|part| part.row.first >= *first && part.row.last <= *last).collect();
            let expected = space.live_between(*first, *last);
            (dead, replaced.into_iter().map(|part| part.row.clone()).collect::<Vec<_>>(), expected)
        };
        // What memory has lost sight of and the truth still holds did not die.
        for slot in std::mem::take(&mut dead) {
            if self.truth.vector(slot)?.is_none() {
                dead.push(slot);
            }
        }
        let holds = segment.as_ref().map_or(0, |(_, segment)| segment.rows()) - dead.len();
        // Where memory counts otherwise, the truth knows.
        let stored = if holds == expected { holds } else { self.truth.count_vectors(vector, *first, *last)? };
        let is_other = holds != stored;
        #[cfg(test)]
        let is_other = is_other && !schedules::is_planted(schedules::Fault::InstallsWhatClosingCutShort);
        #[cfg(test)]
        let is_other = is_other && !schedules::is_planted(schedules::Fault::LosesSightOfTheDead);
        if is_other {
            // Whatever made it so: what searches find now they would not find any more.
            return Err(refuse(format!("it would hold {holds} vectors, not the {stored} vectors `{vector}` in slots {first} to {last}")));
        }
        for row in &replaced {
            self.truth.delete_segment(&row.file)?;
            self.header.segments.remove(row.checksum());
        }
        for checksum in self.truth.delete_tombstones(vector, *first, *last)? {
            self.header.tombstones.remove(checksum);
        }
        for slot in &dead {
            self.header.tombstones.add(self.truth.insert_tombstone(*slot, vector)?);
        }
        if let Some((row, _)) = segment {
            self.truth.insert_segment(row)?;
            self.header.segments.add(row.checksum());
        }
        self.changes.push(Change::Install(install, dead));
        Ok(())
    }
}

impl Install {
    pub(super) fn publish(self, state: &mut State, dead: &[Slot]) {
        let Self { vector, first, last, segment, folder } = self;
        let space = state.space(&vector);
        let replaced: Vec<_> = space
            .segments
            .iter()
            .filter(|part| part.row.first >= first && part.row.last <= last)
            .map(|part| part.row.file.clone())
            .collect();
        #[cfg(test)]
        let dead = if schedules::is_planted(schedules::Fault::ForgetsKills) { &[] } else { dead };
        let part = segment.map(|(row, segment)| {
            let mut part = Part::new(row, segment);
            dead.iter().for_each(|slot| part.kill(*slot));
            part
        });
        space.install(first, last, part);
        space.failure = None;
        for file in replaced {
            // What stays is removed at the next start: no row names it.
            let _ = std::fs::remove_file(folder.join(file));
        }
    }
}
