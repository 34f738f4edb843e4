//! Opening a collection: its segments are mapped, its tail is read, its threads are started.
//!
//! Nothing that a segment answers for is read from the truth. Files of segments that no row of the catalogue names are
//! what a crash left between a build and its commit, or between a commit and the removal of what it replaced: they go.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::{Collection, Shared, Threads};
use crate::builder;
use crate::error::{Error, Result};
use crate::segment::{Segment, Stamp, UNFINISHED_SUFFIX, Verify};
use crate::state::{Body, Part, Space, State};
use crate::store::{FolderLock, StoreOptions};
use crate::sync::mpsc;
use crate::sync::{Mutex, thread};
use crate::tail::Owner;
use crate::truth::{Header, SegmentRow, Slot, Truth};
use crate::writer::Writer;

/// Writes that may wait; the next caller blocks until there is room.
const QUEUE: usize = 1024;
/// Vectors of the tail read at a time.
const CHUNK: usize = 10_000;
/// Ending of the segments' files.
pub(crate) const SEGMENT_SUFFIX: &str = "segment";

impl Collection {
    /// Starts the collection whose truth lies in `folder`.
    pub(crate) fn start(
        folder: &Path,
        truth: Truth,
        upgraded_from: Option<u32>,
        options: &StoreOptions,
        lock: Arc<FolderLock>,
    ) -> Result<Self> {
        let header = truth.header_in(folder)?;
        let (next_point, next_slot) = truth.next_numbers()?;
        let mut state = State::new(header.config.clone(), header.points.rows, header.operation);
        map_segments(folder, &truth, &header, &mut state, options.verify)?;
        read_tails(&truth, &mut state)?;
        let (pokes, poked) = mpsc::sync_channel(1);
        let path = truth.0.path.clone();
        let shared = Arc::new(Shared::new(&path, state, pokes));
        let writer = Writer {
            truth,
            header,
            next_point,
            next_slot,
            shared: Arc::clone(&shared),
            checkpoint_bytes: options.checkpoint_bytes,
            used: 0,
            moved: 0,
            commits: 0,
        };
        let (jobs, writer) = writer.start(QUEUE);
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn(work).map_err(|source| Error::Thread { path: path.clone(), source: Arc::new(source) })
        };
        let builder = builder::Thread {
            shared: Arc::clone(&shared),
            folder: folder.to_owned(),
            jobs: jobs.clone(),
            threads: options.build_threads,
            bulk_load: options.bulk_load,
        };
        let builder = spawn("moco-builder", Box::new(move || builder.run(&poked)))?;
        let writer = spawn("moco-writer", Box::new(move || writer.run()))?;
        shared.poke_builder();
        let threads = Mutex::new(Some(Threads { jobs, handles: vec![builder, writer] }));
        Ok(Self { shared, threads, upgraded_from, folder: folder.to_owned(), _lock: lock })
    }
}

fn map_segments(folder: &Path, truth: &Truth, header: &Header, state: &mut State, verify: Verify) -> Result<()> {
    let rows = truth.segments(header)?;
    remove_strangers(folder, &rows)?;
    for row in rows {
        let Some(space) = state.spaces.get_mut(&row.vector) else {
            return Err(truth.0.damaged(format!("segment {} is of a vector that the collection has not", row.file)));
        };
        if row.first > row.last || space.segments.last().is_some_and(|before| before.row.last >= row.first) {
            return Err(truth.0.damaged(format!("the slots of segment {} are those of another", row.file)));
        }
        let stamp = Stamp { len: row.length, hash: row.hash };
        let params = &header.config.vectors[&row.vector];
        let part = match Segment::open(&folder.join(&row.file), &stamp, verify) {
            Ok(segment) if segment.size() == params.size && segment.distance() == params.distance => Part::new(row, segment),
            Ok(_) => lost(truth, row, "it is of vectors of another kind".to_owned())?,
            Err(error @ (Error::Format { .. } | Error::Thread { .. })) => return Err(error),
            // Derived data: answered from the truth, and built anew.
            Err(error) => lost(truth, row, error.to_string())?,
        };
        Arc::make_mut(&mut space.segments).push(part);
    }
    for (slot, vector) in truth.tombstones(header)? {
        // One of a lost segment is of no consequence: the truth does not hold its vector either.
        if let Some(part) = state.spaces.get_mut(&vector).and_then(|space| part_of(space, slot))
            && matches!(part.body, Body::Frozen(..))
        {
            part.kill(slot);
        }
    }
    Ok(())
}

fn part_of(space: &mut Space, slot: Slot) -> Option<&mut Part> {
    Arc::make_mut(&mut space.segments).iter_mut().find(|part| (part.row.first..=part.row.last).contains(&slot))
}

fn lost(truth: &Truth, row: SegmentRow, reason: String) -> Result<Part> {
    let live = truth.count_vectors(&row.vector, row.first, row.last)?;
    Ok(Part { row: Arc::new(row), body: Body::Lost(reason), live, died: BTreeSet::new() })
}

fn remove_strangers(folder: &Path, rows: &[SegmentRow]) -> Result<()> {
    let known: BTreeSet<&str> = rows.iter().map(|row| row.file.as_str()).collect();
    let read = |source| Error::io("read the folder", folder, source);
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_ours = name
            .split_once('.')
            .is_some_and(|(stem, suffix)| Uuid::try_parse(stem).is_ok() && (suffix == SEGMENT_SUFFIX || suffix == UNFINISHED_SUFFIX));
        if is_ours && !known.contains(name) {
            let path = folder.join(name);
            std::fs::remove_file(&path).map_err(|source| Error::io("remove", &path, source))?;
        }
    }
    Ok(())
}

/// Reads what no segment answers for.
fn read_tails(truth: &Truth, state: &mut State) -> Result<()> {
    let names: Vec<String> = state.spaces.keys().cloned().collect();
    for name in names {
        let mut gaps = Vec::new();
        let mut next = 0;
        for part in state.space(&name).segments.iter() {
            if next < part.row.first {
                gaps.push((next, part.row.first - 1));
            }
            next = part.row.last + 1;
        }
        gaps.push((next, i64::MAX as Slot));
        for (mut first, last) in gaps {
            while first <= last {
                let chunk = truth.vectors_between(&name, first, last, CHUNK)?;
                for (row, id) in &chunk {
                    if row.vector.len() != state.config.vectors[&name].size {
                        return Err(Error::DamagedVector { path: truth.0.path.clone(), slot: row.slot });
                    }
                    state.put(&name, Owner { id: *id, point: row.point, slot: row.slot }, &row.vector);
                }
                match chunk.last() {
                    Some((row, _)) if chunk.len() == CHUNK => first = row.slot + 1,
                    _ => break,
                }
            }
        }
    }
    Ok(())
}
