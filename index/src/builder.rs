//! The thread that builds segments, while searches go on over those that are there and over the tail.
//!
//! Policy: below `full_scan_threshold` vectors there are no segments. Above it the tail becomes a segment whenever it
//! holds more than a scan should bear; segments of like size that lie side by side are merged, so that their number
//! stays logarithmic; one that lost a fifth of its vectors, or its file, is built anew. A range that no segment answers for
//! is taken where it lies in the tail: what was written or, at the start, read and verified. Of any other the vectors are read
//! from the truth, their checksums verified: a damaged segment cannot hand its damage on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use crate::background;
use crate::collection::{SEGMENT_SUFFIX, Shared};
use crate::config::{HnswParams, VectorParams};
use crate::error::{Error, Result};
use crate::id::PointId;
use crate::large_pages::LargePages;
#[cfg(test)]
use crate::schedules;
use crate::segment::{self, RowVectors, Segment, SegmentInput, SegmentParams, Stamp, Verify};
use crate::state::{Body, Part, Space};
use crate::sync::mpsc::Receiver;
use crate::tail::Tail;
use crate::truth::{PointNumber, SegmentRow, Slot};
use crate::writer::{Install, Jobs, Write};

/// Vectors in the tail that a search may have to scan, once there are segments. A scan of so many costs about as much as a walk.
const LONGEST_TAIL: usize = 1000;
/// The same in bytes of vectors where much is loaded and a compaction follows: what is built before is built twice.
const LONGEST_TAIL_WHILE_LOADING: usize = 1 << 30;
/// A segment is built anew when one in so many of its vectors died.
const DEAD_SHARE: usize = 5;
/// Neighbouring segments are merged when there are so many of about one size.
const MERGED: usize = 4;
/// From so many times the longest tail on, the builder takes all the processor time it can get.
const FAR_BEHIND: usize = 8;
/// Vectors read at a time. Each is a block of the heap until it lies with the others.
const CHUNK: usize = 1000;

pub(crate) struct Thread {
    pub(crate) shared: Arc<Shared>,
    pub(crate) folder: PathBuf,
    pub(crate) jobs: Jobs,
    pub(crate) threads: usize,
    /// [`StoreOptions::bulk_load`](crate::StoreOptions::bulk_load).
    pub(crate) bulk_load: bool,
}

/// A range of a vector's slots that deserves a segment.
#[derive(Debug, PartialEq)]
struct Task {
    vector: String,
    first: Slot,
    last: Slot,
}

impl Thread {
    /// Works until every sender of pokes is gone or the collection closes.
    pub(crate) fn run(self, pokes: &Receiver<()>) {
        self.load_segments();
        while pokes.recv().is_ok() {
            let (compaction, asked) = self.shared.maintain(|maintenance| (maintenance.compactions.0, maintenance.pokes));
            // The first of a compaction, for whoever waits for it: what follows may go well.
            let mut failure = None;
            let mut failed = false;
            for task in self.compaction_tasks() {
                if !self.perform(task, true) {
                    failed = true;
                    failure = failure.or_else(|| self.shared.maintain(|maintenance| maintenance.failure.clone()));
                }
            }
            while !failed && let Some(task) = self.next_task() {
                failed = !self.perform(task, false);
            }
            if self.shared.closing.load(Ordering::Relaxed) {
                return;
            }
            self.shared.maintain(|maintenance| {
                if maintenance.compactions.1 != compaction {
                    maintenance.compactions.1 = compaction;
                    maintenance.compaction_failure = failure;
                }
                // Who asked since then has asked again.
                maintenance.settled = maintenance.pokes == asked;
            });
        }
    }

    /// Those that were there when the collection was opened.
    fn load_segments(&self) {
        let parts: Vec<Part> = self.shared.state().spaces.values().flat_map(|space| space.segments.iter().cloned()).collect();
        for part in parts {
            if self.shared.closing.load(Ordering::Relaxed) {
                return;
            }
            if let Body::Frozen(segment, _) = &part.body {
                load(segment);
                if let Some(damage) = segment.damage() {
                    self.shared.lose(&part.row.vector, segment, &damage);
                }
            }
        }
    }

    /// Returns whether it is worth going on. `asked`: somebody waits for it.
    fn perform(&self, task: Task, asked: bool) -> bool {
        if self.shared.closing.load(Ordering::Relaxed) {
            return false;
        }
        let Task { vector, first, last } = &task;
        let (vector, first, last) = (vector.clone(), *first, *last);
        let (replaced, can_wait) = {
            let state = self.shared.state();
            let space = &state.spaces[&vector];
            let segments = space.segments.iter().filter(|part| part.row.first >= first && part.row.last <= last);
            let replaced = segments.filter_map(|part| match &part.body {
                Body::Frozen(segment, _) => Some(Arc::clone(segment)),
                Body::Lost(_) => None,
            });
            let is_lost = space.segments.iter().any(|part| matches!(part.body, Body::Lost(_)));
            // Without segments, with one of them lost, or with a long tail, every search waits for it.
            let is_urgent = asked || is_lost || space.segments.is_empty() || space.tail.live() > FAR_BEHIND * LONGEST_TAIL;
            (replaced.collect::<Vec<_>>(), !is_urgent)
        };
        self.shared.maintain(|maintenance| maintenance.building = Some(vector.clone()));
        let outcome = if can_wait {
            let thread = |source| Error::Thread { path: self.shared.path.clone(), source: Arc::new(source) };
            background::run("moco-builder", || self.build(task)).map_err(thread).flatten()
        } else {
            self.build(task)
        };
        if matches!(outcome, Ok(true)) {
            background::retire(replaced);
            // Each time, so that it is never much.
            background::give_back_memory();
        }
        self.shared.maintain(|maintenance| {
            maintenance.building = None;
            maintenance.failure = outcome.as_ref().err().map(ToString::to_string);
        });
        match outcome {
            Ok(done) => done,
            Err(error) => {
                self.shared.publish(|state, _| {
                    let space = state.space(&vector);
                    space.failure = Some((error.to_string(), last_slot(space).unwrap_or(last)));
                });
                false
            }
        }
    }

    /// Everything of each vector in one segment, where a compaction was asked for.
    fn compaction_tasks(&self) -> Vec<Task> {
        if self.shared.maintain(|maintenance| maintenance.compactions.0 == maintenance.compactions.1) {
            return Vec::new();
        }
        let state = self.shared.state();
        let is_compact = |space: &Space| match &space.segments[..] {
            [] => space.tail.live() == 0,
            [part] => space.tail.live() == 0 && matches!(&part.body, Body::Frozen(segment, _) if segment.rows() == part.live),
            _ => false,
        };
        let spaces = state.spaces.iter().filter(|(_, space)| !is_compact(space));
        spaces.filter_map(|(name, space)| Some(Task { vector: name.clone(), first: 0, last: last_slot(space)? })).collect()
    }

    fn next_task(&self) -> Option<Task> {
        let state = self.shared.state();
        state.spaces.iter().find_map(|(name, space)| {
            let loaded = LONGEST_TAIL_WHILE_LOADING / (4 * state.config.vectors[name].size);
            next_task(name, space, &state.config.hnsw, if self.bulk_load { loaded } else { 0 })
        })
    }

    /// Reads, builds, writes, commits. `Ok(false)` when cancelled.
    fn build(&self, task: Task) -> Result<bool> {
        let (params, hnsw) = {
            let state = self.shared.state();
            (state.config.vectors[&task.vector].clone(), state.config.hnsw)
        };
        let Some(input) = self.read(&task, &params)? else { return Ok(false) };
        let segment = if input.slots.is_empty() {
            None
        } else {
            let file = format!("{}.{SEGMENT_SUFFIX}", Uuid::new_v4());
            let path = self.folder.join(&file);
            let cancel: &AtomicBool = &self.shared.closing;
            let params = segment_params(&params, &hnsw, self.threads);
            // Whoever waits for the segment would wait for ever, were the thread to end here; searches go on without it.
            let written = catch_unwind(AssertUnwindSafe(|| segment::write(&path, &input, &params, cancel)));
            let panicked = |_| Err(Error::Build { path: path.clone(), reason: "the builder panicked".to_owned() });
            let Some(summary) = written.unwrap_or_else(panicked)? else { return Ok(false) };
            drop(input);
            // What was just written is read back: a disk that lies is found out before the file counts.
            let Stamp { len: length, hash } = summary.stamp;
            let segment = Segment::open(&path, &summary.stamp, Verify::Eager)?;
            load(&segment);
            let row = SegmentRow { file, vector: task.vector.clone(), first: task.first, last: task.last, length, hash };
            Some((row, segment))
        };
        let file = segment.as_ref().map(|(row, _)| self.folder.join(&row.file));
        let Task { vector, first, last } = task;
        let write = Write::Install(Box::new(Install { vector, first, last, segment, folder: self.folder.clone() }));
        let stopped = || Error::WritesStopped { path: self.shared.path.clone() };
        let outcome = self.jobs.perform(write).unwrap_or_else(|_| Err(stopped()));
        if outcome.as_ref().is_err_and(|error| !error.is_uncertain())
            && let Some(file) = file
        {
            // No row names it; what cannot be removed now is at the next start. After an uncertain commit a row may.
            let _ = std::fs::remove_file(file);
        }
        outcome.map(|_| true)
    }

    /// Every living vector of the task's range; `None` when cancelled.
    fn read(&self, task: &Task, params: &VectorParams) -> Result<Option<SegmentInput>> {
        let space = self.shared.state().spaces[&task.vector].clone();
        if space.segments.iter().all(|part| part.row.last < task.first || part.row.first > task.last) {
            return Ok(Some(of_tail(&space.tail, task, params)));
        }
        read_truth(&self.shared, task, params, space.live_between(task.first, task.last))
    }
}

/// The vectors of a range as they are stored, about so many; `None` when cancelled.
fn read_truth(shared: &Shared, task: &Task, params: &VectorParams, expected: usize) -> Result<Option<SegmentInput>> {
    let no_memory = |source| Error::io("get memory to read the vectors of", &shared.path, source);
    let mut vectors = LargePages::with_capacity(expected * params.size).map_err(no_memory)?;
    let (mut slots, mut points, mut ids) = columns(expected);
    let mut first = task.first;
    while first <= task.last {
        if shared.closing.load(Ordering::Relaxed) {
            #[cfg(test)]
            if schedules::is_planted(schedules::Fault::InstallsWhatClosingCutShort) {
                break;
            }
            return Ok(None);
        }
        let chunk = shared.read(|truth| truth.vectors_between(&task.vector, first, task.last, CHUNK))?;
        for (row, id) in &chunk {
            if row.vector.len() != params.size {
                return Err(Error::DamagedVector { path: shared.path.clone(), slot: row.slot });
            }
            slots.push(row.slot);
            points.push(row.point);
            ids.push(*id);
            vectors.extend_from_slice(&row.vector).map_err(no_memory)?;
        }
        match chunk.last() {
            Some((row, _)) if chunk.len() == CHUNK => first = row.slot + 1,
            _ => break,
        }
    }
    let vectors = RowVectors::Copied(vectors);
    Ok(Some(SegmentInput { distance: params.distance, size: params.size, slots, points, ids, vectors }))
}

/// The vectors of a range that no segment answers for any part of.
fn of_tail(tail: &Tail, task: &Task, params: &VectorParams) -> SegmentInput {
    let (mut slots, mut points, mut ids) = columns(tail.live_between(task.first, task.last));
    let (mut blocks, mut places) = (Vec::new(), Vec::new());
    for (vectors, rows) in tail.blocks_between(task.first, task.last) {
        for (place, owner) in rows {
            slots.push(owner.slot);
            points.push(owner.point);
            ids.push(owner.id);
            places.push((blocks.len() as u32, place as u32));
        }
        blocks.push(Arc::clone(vectors));
    }
    let vectors = RowVectors::Shared { blocks, places };
    SegmentInput { distance: params.distance, size: params.size, slots, points, ids, vectors }
}

/// Slots, points and ids, with room for so many.
fn columns(rows: usize) -> (Vec<Slot>, Vec<PointNumber>, Vec<PointId>) {
    (Vec::with_capacity(rows), Vec::with_capacity(rows), Vec::with_capacity(rows))
}

/// Brings what walks read into memory that is quick to read, its codes hashed. Without it they read the mapped file, and hash what they
/// read; whether there was damage the segment says.
fn load(segment: &Segment) {
    let _ = segment.load();
}

fn segment_params(params: &VectorParams, hnsw: &HnswParams, threads: usize) -> SegmentParams {
    SegmentParams { m: hnsw.m, ef_construction: hnsw.ef_construction, codes: params.codes, builder: hnsw.builder, threads, seed: SEED }
}

/// Of the levels that nodes draw. One seed: with one thread a build can be repeated.
const SEED: u64 = 42;

fn last_slot(space: &Space) -> Option<Slot> {
    let of_segments = space.segments.last().map(|part| part.row.last);
    of_segments.max(space.tail.last_slot())
}

/// `at_least`: vectors of the tail that are left there in any case.
fn next_task(name: &str, space: &Space, hnsw: &HnswParams, at_least: usize) -> Option<Task> {
    let task = |first, last| Some(Task { vector: name.to_owned(), first, last });
    // After a failure, wait for a collection that has changed a good deal.
    if let Some((_, at)) = &space.failure
        && last_slot(space).is_none_or(|last| last < at.saturating_add(hnsw.full_scan_threshold as Slot))
    {
        return None;
    }
    for part in space.segments.iter() {
        match &part.body {
            Body::Lost(_) => return task(part.row.first, part.row.last),
            Body::Frozen(segment, _) if (segment.rows() - part.live) * DEAD_SHARE > segment.rows() => {
                return task(part.row.first, part.row.last);
            }
            Body::Frozen(..) => {}
        }
    }
    let longest = if space.segments.is_empty() { hnsw.full_scan_threshold } else { LONGEST_TAIL.min(hnsw.full_scan_threshold) };
    if space.tail.live() > longest.max(at_least) {
        // The range around the oldest of them that no segment answers for: nearly always what follows the last segment.
        let oldest = space.tail.rows().next()?.0.slot;
        let next = space.segments.partition_point(|part| part.row.last < oldest);
        let first = if next == 0 { 0 } else { space.segments[next - 1].row.last + 1 };
        let last = match space.segments.get(next) {
            Some(part) => part.row.first - 1,
            None => space.tail.last_slot()?,
        };
        return task(first, last);
    }
    // From the newest back, as long as the next is not much larger than all that are newer.
    let mut sum = 0;
    let mut start = space.segments.len();
    while start > 0 && (sum == 0 || space.segments[start - 1].live <= (MERGED - 1) * sum) {
        start -= 1;
        sum += space.segments[start].live;
    }
    if space.segments.len() - start >= MERGED {
        return task(space.segments[start].row.first, space.segments.last()?.row.last);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distance::Distance;
    use crate::id::PointId;
    use crate::tail::Owner;

    /// A segment of ten rows.
    fn part(folder: &std::path::Path, first: Slot) -> Part {
        let slots: Vec<Slot> = (first..first + 10).collect();
        let input = SegmentInput {
            distance: Distance::Euclid,
            size: 1,
            points: slots.iter().map(|slot| *slot as u32).collect(),
            ids: slots.iter().map(|slot| PointId::Num(*slot)).collect(),
            vectors: RowVectors::Copied(LargePages::of(&slots.iter().map(|slot| *slot as f32).collect::<Vec<_>>())),
            slots,
        };
        let file = format!("{first}.segment");
        let path = folder.join(&file);
        let summary = segment::write(&path, &input, &SegmentParams::default(), &AtomicBool::new(false)).unwrap().unwrap();
        let Stamp { len: length, hash } = summary.stamp;
        let row = SegmentRow { file, vector: String::new(), first, last: first + 9, length, hash };
        Part::new(row, Segment::open(&path, &summary.stamp, Verify::Eager).unwrap())
    }

    #[test]
    fn the_tail_and_the_truth_give_the_same_of_a_range() {
        schedules::once(|folder| {
            let store = crate::Store::open(folder).unwrap();
            let collection = store.create_collection("c", crate::CollectionConfig::unnamed(3, Distance::Cosine)).unwrap();
            let id = |n: u64| if n.is_multiple_of(3) { PointId::Uuid(Uuid::from_u128(u128::from(n))) } else { PointId::Num(n) };
            let point = |n: u64, x: f32| crate::Point {
                id: id(n),
                vectors: [(String::new(), vec![n as f32, x, 1.0])].into(),
                payload: crate::Payload::new(),
            };
            collection.upsert((0..300).map(|n| point(n, 2.0)).collect()).unwrap();
            collection.upsert((100..140).map(|n| point(n, 3.0)).collect()).unwrap();
            collection.delete(&(40..130).map(id).collect::<Vec<_>>()).unwrap();
            let shared = collection.shared();
            let params = shared.state().config.vectors[""].clone();
            for (first, last) in [(0, 339), (17, 300), (50, 60), (338, 1000)] {
                let task = Task { vector: String::new(), first, last };
                let of_tail = of_tail(&shared.state().spaces[""].tail, &task, &params);
                let stored = read_truth(shared, &task, &params, 10).unwrap().unwrap();
                assert_eq!((&of_tail.slots, &of_tail.points, &of_tail.ids), (&stored.slots, &stored.points, &stored.ids));
                (0..stored.slots.len() as u32).for_each(|row| assert_eq!(of_tail.vector(row), stored.vector(row)));
            }
        });
    }

    #[test]
    fn a_segment_that_is_found_damaged_is_built_anew_whatever_failed_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut space = Space::new(&VectorParams::new(1, Distance::Euclid));
        let mut part = part(folder.path(), 20);
        part.kill(23);
        space.install(20, 29, Some(part));
        let Body::Frozen(segment, _) = space.segments[0].body.clone() else { unreachable!() };
        space.failure = Some(("no space".to_owned(), 29));
        assert_eq!(next_task("", &space, &HnswParams::default(), 0), None);
        space.lose(&segment, "a row is wrong");
        assert_eq!(next_task("", &space, &HnswParams::default(), 0), Some(Task { vector: String::new(), first: 20, last: 29 }));
        // Who died before is remembered, and who dies from now on.
        assert_eq!((space.live(), space.is_live(23), space.is_live(24)), (9, false, true));
        space.kill(24);
        space.kill(23);
        assert_eq!((space.live(), space.is_live(24)), (8, false));
    }

    /// A closing once took the first segment away and left its vectors to the tail; the task that followed had no range, for ever.
    #[test]
    fn a_tail_before_and_between_segments_becomes_segments() {
        let folder = tempfile::tempdir().unwrap();
        let mut space = Space::new(&VectorParams::new(1, Distance::Euclid));
        for slot in (3..6).chain(50..55).chain(200..207) {
            let owner = Owner { id: PointId::Num(slot), point: slot as u32, slot };
            Arc::make_mut(&mut space.tail).append(&[slot as f32], owner);
        }
        for first in [20, 80] {
            space.install(first, first + 9, Some(part(folder.path(), first)));
        }
        let hnsw = HnswParams { full_scan_threshold: 2, ..HnswParams::default() };
        for (first, last) in [(0, 19), (30, 79), (90, 206)] {
            assert_eq!(next_task("", &space, &hnsw, 0), Some(Task { vector: String::new(), first, last }));
            space.install(first, last, None);
        }
        assert_eq!((next_task("", &space, &hnsw, 0), space.tail.live()), (None, 0));
    }
}
