//! What a collection knows in memory: its configuration, and where the vectors are that a search compares with.
//!
//! The writer thread changes it, after the commit and before the acknowledgement, and whoever comes upon a damaged segment gives that up;
//! everybody else reads. Readers hold the lock for a look-up or the clone of an `Arc`, never for a search.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::{CollectionConfig, VectorParams};
#[cfg(test)]
use crate::schedules;
use crate::segment::{AcceptedRows, Bits, Segment};
use crate::tail::{Owner, Tail};
use crate::truth::{SegmentRow, Slot};

/// The vectors of one name.
#[derive(Clone)]
pub(crate) struct Space {
    /// Those that no segment answers for.
    pub(crate) tail: Arc<Tail>,
    /// By ascending slots; the ranges of no two overlap.
    pub(crate) segments: Arc<Vec<Part>>,
    /// Why the last attempt to build a segment failed, and the newest slot there was.
    pub(crate) failure: Option<(String, Slot)>,
}

/// A range of slots that a segment answers for.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) row: Arc<SegmentRow>,
    pub(crate) body: Body,
    pub(crate) live: usize,
    /// Of a part that is lost, those of its segment that died: what is built in its place meanwhile may have been read before.
    pub(crate) died: BTreeSet<Slot>,
}

#[derive(Clone)]
pub(crate) enum Body {
    /// The segment, and which of its rows live; `None`: all.
    Frozen(Arc<Segment>, Option<Arc<AcceptedRows>>),
    /// Its file was found damaged: searches read the range from the truth until it is rebuilt.
    Lost(String),
}

pub(crate) struct State {
    pub(crate) config: CollectionConfig,
    pub(crate) points: u64,
    pub(crate) spaces: BTreeMap<String, Space>,
    /// The last operation that was committed.
    pub(crate) operation: u64,
}

impl Space {
    pub(crate) fn new(params: &VectorParams) -> Self {
        Self { tail: Arc::new(Tail::new(params.size)), segments: Arc::default(), failure: None }
    }

    pub(crate) fn live(&self) -> usize {
        self.tail.live() + self.in_segments()
    }

    /// Living vectors that segments answer for.
    pub(crate) fn in_segments(&self) -> usize {
        self.segments.iter().map(|part| part.live).sum()
    }

    /// Living vectors in slots `first..=last`, which hold a segment's range wholly or not at all.
    pub(crate) fn live_between(&self, first: Slot, last: Slot) -> usize {
        let within = self.segments.iter().filter(|part| part.row.first >= first && part.row.last <= last);
        self.tail.live_between(first, last) + within.map(|part| part.live).sum::<usize>()
    }

    /// The part whose range holds a slot.
    fn part(&self, slot: Slot) -> Option<usize> {
        let index = self.segments.partition_point(|part| part.row.last < slot);
        self.segments.get(index).is_some_and(|part| part.row.first <= slot).then_some(index)
    }

    /// Does a segment answer for this slot, so that its death must be remembered?
    pub(crate) fn covers(&self, slot: Slot) -> bool {
        self.part(slot).is_some()
    }

    pub(crate) fn is_live(&self, slot: Slot) -> bool {
        let Some(part) = self.part(slot).map(|index| &self.segments[index]) else { return self.tail.has(slot) };
        match &part.body {
            Body::Frozen(segment, live) => segment.row_of(slot).is_some_and(|row| live.as_ref().is_none_or(|live| live.contains(row))),
            Body::Lost(_) => !part.died.contains(&slot),
        }
    }

    pub(crate) fn kill(&mut self, slot: Slot) {
        let Some(index) = self.part(slot) else {
            Arc::make_mut(&mut self.tail).kill(slot);
            return;
        };
        Arc::make_mut(&mut self.segments)[index].kill(slot);
    }

    /// The segment, if it is still there, was found damaged.
    pub(crate) fn lose(&mut self, damaged: &Arc<Segment>, damage: &str) {
        for part in Arc::make_mut(&mut self.segments) {
            if let Body::Frozen(segment, live) = &part.body
                && part.is_of(damaged)
            {
                // A build may be under way that read its range before they died.
                if let Some(live) = live {
                    let dead = (0..).zip(segment.slots()).filter(|(row, _)| !live.contains(*row));
                    part.died = dead.map(|(_, slot)| *slot).collect();
                }
                #[cfg(test)]
                if schedules::is_planted(schedules::Fault::LosesSightOfTheDead) {
                    part.died.clear();
                }
                part.body = Body::Lost(damage.to_owned());
                // Whatever a build failed for before, this one is worth trying.
                self.failure = None;
            }
        }
    }

    /// Puts a new part in the place of those it replaces, and takes its range from the tail.
    pub(crate) fn install(&mut self, first: Slot, last: Slot, part: Option<Part>) {
        let segments = Arc::make_mut(&mut self.segments);
        segments.retain(|old| old.row.last < first || old.row.first > last);
        if let Some(part) = part {
            let index = segments.partition_point(|old| old.row.last < first);
            segments.insert(index, part);
        }
        Arc::make_mut(&mut self.tail).release(first, last);
    }
}

impl Part {
    pub(crate) fn new(row: SegmentRow, segment: Segment) -> Self {
        let live = segment.rows();
        Self { row: Arc::new(row), body: Body::Frozen(Arc::new(segment), None), live, died: BTreeSet::new() }
    }

    pub(crate) fn is_of(&self, segment: &Arc<Segment>) -> bool {
        matches!(&self.body, Body::Frozen(own, _) if Arc::ptr_eq(own, segment))
    }

    pub(crate) fn kill(&mut self, slot: Slot) {
        let died = match &mut self.body {
            Body::Frozen(segment, live) => segment.row_of(slot).is_some_and(|row| {
                let rows = live.get_or_insert_with(|| Arc::new(Bits::all(segment.rows()).into()));
                Arc::make_mut(rows).remove(row)
            }),
            Body::Lost(_) => self.died.insert(slot),
        };
        self.live -= usize::from(died);
    }
}

impl State {
    pub(crate) fn new(config: CollectionConfig, points: u64, operation: u64) -> Self {
        let spaces = config.vectors.iter().map(|(name, params)| (name.clone(), Space::new(params))).collect();
        Self { config, points, spaces, operation }
    }

    pub(crate) fn space(&mut self, name: &str) -> &mut Space {
        self.spaces.get_mut(name).expect("a collection keeps its vectors")
    }

    pub(crate) fn put(&mut self, name: &str, owner: Owner, vector: &[f32]) {
        Arc::make_mut(&mut self.space(name).tail).append(vector, owner);
    }
}
