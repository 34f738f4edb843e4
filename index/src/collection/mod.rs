//! One collection: the calls its users make, from any thread.

mod open;
mod queries;
mod shared;
mod upkeep;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::config::{CollectionConfig, VectorParams};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::id::PointId;
use crate::operation::{Ack, Operation, Selector, UpsertMode};
use crate::payload::{KeyPath, PayloadSelect};
use crate::point::{Hit, Point, Record, check_payload};
use crate::search::{self, Found, SearchRequest};
use crate::segment::SegmentStats;
use crate::sets::Stored;
use crate::state::{Body, Space};
use crate::store::FolderLock;
use crate::sync::Mutex;
use crate::sync::thread::JoinHandle;
use crate::truth::{PointRow, Truth};
use crate::vector;
use crate::writer::{Jobs, PayloadChange, Prepared, Write};
pub(crate) use open::SEGMENT_SUFFIX;
pub use queries::{Example, Group, Lookup, OrderBy, Recommend, Strategy};
use shared::Passing;
pub(crate) use shared::Shared;
pub use upkeep::{VectorReport, VerifyReport};

/// How often a reader looks again when the points it looked up were replaced meanwhile, before it holds the writer up.
const LOOKS: usize = 4;

/// A durable collection of points. Get one from [`Store`](crate::Store).
///
/// When a write returns `Ok`, the change is on disk (the write-ahead log is synced), and every call that starts
/// afterwards sees it, unless it was asked for as [`Ack::Accepted`]. When it returns an error, nothing of the request is
/// visible; after [`Error::Database`] the change may still appear at the next start, if it reached the disk before what
/// failed.
pub struct Collection {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
    /// The format the file had before it was rewritten, if it was when it was opened.
    upgraded_from: Option<u32>,
    folder: PathBuf,
    // Released after the threads have ended.
    _lock: Arc<FolderLock>,
}

struct Threads {
    jobs: Jobs,
    handles: Vec<JoinHandle<()>>,
}

/// Figures of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionInfo {
    pub points: usize,
    /// By name.
    pub vectors: BTreeMap<String, VectorInfo>,
    /// Payload indexes by key, and how many points have a value there; `None` until a filter, an order or a facet was asked for.
    pub indexes: BTreeMap<KeyPath, Option<u64>>,
    /// The last operation that was committed.
    pub operation: u64,
    /// A sync failed: no more writes until restart.
    pub writes_stopped: bool,
    /// The older format that the collection's file was rewritten from when it was opened.
    pub upgraded_from: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct VectorInfo {
    /// Points that have this vector.
    pub count: usize,
    /// Of these, how many a segment answers for; the others are scanned.
    pub indexed: usize,
    pub segments: Vec<SegmentInfo>,
    /// Is a segment being built?
    pub building: bool,
    /// Why the last attempt to build a segment failed; searches scan.
    pub failure: Option<String>,
}

/// Figures of a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentInfo {
    /// Vectors in it that live.
    pub live: usize,
    /// Vectors in it that died since it was built.
    pub dead: usize,
    /// Its file was found damaged, and why: searches read its vectors from the truth until it is rebuilt.
    pub damage: Option<String>,
    /// What it is made of; `None` if it is damaged.
    pub stats: Option<SegmentStats>,
}

impl Collection {
    pub fn config(&self) -> CollectionConfig {
        self.shared.state().config.clone()
    }

    /// Number of points, exact.
    pub fn count(&self) -> usize {
        self.shared.state().points as usize
    }

    /// Number of points that pass a filter, exact.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::DamagedPoint`] if payloads cannot be read.
    pub fn count_passing(&self, filter: &Filter) -> Result<usize> {
        self.check_open()?;
        Ok(self.shared.passing(filter, None)?.points.len())
    }

    pub fn info(&self) -> CollectionInfo {
        let (building, failure) = self.shared.maintain(|maintenance| (maintenance.building.clone(), maintenance.failure.clone()));
        let counts = self.shared.index_counts();
        let state = self.shared.state();
        let indexes = state.config.indexes.keys().map(|key| (key.clone(), counts.get(key).copied())).collect();
        let vectors = state.spaces.iter().map(|(name, space)| {
            let segments = space.segments.iter().map(|part| match &part.body {
                Body::Frozen(segment, _) => {
                    SegmentInfo { live: part.live, dead: segment.rows() - part.live, damage: None, stats: Some(segment.stats()) }
                }
                Body::Lost(reason) => SegmentInfo { live: part.live, dead: 0, damage: Some(reason.clone()), stats: None },
            });
            let info = VectorInfo {
                count: space.live(),
                indexed: space.segments.iter().filter(|part| matches!(part.body, Body::Frozen(..))).map(|part| part.live).sum(),
                segments: segments.collect(),
                building: building.as_ref() == Some(name),
                failure: space.failure.as_ref().map(|(reason, _)| reason.clone()).or_else(|| failure.clone()),
            };
            (name.clone(), info)
        });
        CollectionInfo {
            points: state.points as usize,
            vectors: vectors.collect(),
            indexes,
            operation: state.operation,
            writes_stopped: self.shared.stopped().is_some(),
            upgraded_from: self.upgraded_from,
        }
    }

    /// Performs an operation: all of it or nothing. Returns its number, which grows with each; under [`Ack::Accepted`]
    /// the number of the last operation that was committed.
    ///
    /// # Errors
    /// [`Error::UnknownVector`], [`Error::Dimension`], [`Error::NotFinite`] before anything is queued;
    /// [`Error::PointNotFound`] for an id that must exist; [`Error::DiskFull`], [`Error::Database`],
    /// [`Error::WritesStopped`] if it cannot be written.
    pub fn apply(&self, operation: Operation, ack: Ack) -> Result<u64> {
        let write = self.prepare(operation)?;
        self.write(write, ack)
    }

    /// Writes points, each replacing the whole of what its id named before; all of them or none. Of two points with one
    /// id the later counts. Returns the operation's number.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn upsert(&self, points: Vec<Point>) -> Result<u64> {
        self.apply(Operation::Upsert { points, mode: UpsertMode::Upsert, filter: None }, Ack::Durable)
    }

    /// Deletes points; ids that name none are fine. Returns the operation's number.
    pub fn delete(&self, ids: &[PointId]) -> Result<u64> {
        self.apply(Operation::Delete { points: Selector::Ids(ids.to_vec()) }, Ack::Durable)
    }

    /// Binds a vector to the model that embeds into it, by fingerprint, for good.
    ///
    /// # Errors
    /// [`Error::Fingerprint`] if it is bound to another one: vectors of two models cannot be compared.
    pub fn bind_model(&self, vector_name: &str, fingerprint: &str) -> Result<()> {
        let bound = self.shared.state().config.vector(vector_name)?.model.clone();
        match bound {
            Some(bound) if bound == fingerprint => Ok(()),
            _ => {
                let write = Write::BindModel { name: vector_name.to_owned(), fingerprint: fingerprint.to_owned() };
                self.write(write, Ack::Durable)?;
                Ok(())
            }
        }
    }

    /// The points of these ids, in their order; ids that name none are left out.
    pub fn retrieve(&self, ids: &[PointId], with_payload: impl Into<PayloadSelect>, with_vectors: bool) -> Result<Vec<Record>> {
        self.check_open()?;
        let with_payload = with_payload.into();
        self.shared.read(|truth| {
            let mut records = Vec::with_capacity(ids.len());
            for id in ids {
                if let Some(row) = truth.point_by_id(*id)? {
                    records.push(record(truth, &row, &with_payload, with_vectors)?);
                }
            }
            Ok(records)
        })
    }

    /// Points by ascending id, from `from` on (which need not exist), and the id that follows them, if any.
    pub fn scroll(
        &self,
        from: Option<PointId>,
        limit: usize,
        with_payload: impl Into<PayloadSelect>,
        with_vectors: bool,
    ) -> Result<(Vec<Record>, Option<PointId>)> {
        self.scroll_passing(None, from, limit, with_payload, with_vectors)
    }

    /// As [`scroll`](Self::scroll), of the points that pass a filter.
    pub fn scroll_passing(
        &self,
        filter: Option<&Filter>,
        from: Option<PointId>,
        limit: usize,
        with_payload: impl Into<PayloadSelect>,
        with_vectors: bool,
    ) -> Result<(Vec<Record>, Option<PointId>)> {
        self.check_open()?;
        let with_payload = with_payload.into();
        if filter.is_some() {
            // To load them takes time and the gate: not while a transaction is open.
            self.shared.with_sets(|_, _| Ok(()))?;
        }
        let schemas = self.shared.state().config.indexes.clone();
        self.shared.read(|truth| {
            // What an index can exclude is not looked at.
            let candidates = match filter {
                Some(filter) => self.shared.candidates(truth, filter)?,
                None => None,
            };
            let (mut records, mut next) = (Vec::new(), None);
            truth.points_by_id(from, |row| {
                if candidates.as_ref().is_some_and(|candidates| !candidates.contains(row.number)) {
                    return Ok(true);
                }
                if let Some(filter) = filter
                    && !filter.matches_under(&schemas, &Stored::new(&row, &truth.0.path)?)
                {
                    return Ok(true);
                }
                if records.len() == limit {
                    next = Some(row.id);
                    return Ok(false);
                }
                records.push(record(truth, &row, &with_payload, with_vectors)?);
                Ok(true)
            })?;
            Ok((records, next))
        })
    }

    /// The nearest points by one of their vectors, nearest first, ties by id.
    ///
    /// # Errors
    /// [`Error::UnknownVector`], [`Error::Dimension`], [`Error::NotFinite`], [`Error::Limit`].
    pub fn search(&self, request: &SearchRequest) -> Result<Vec<Hit>> {
        if request.limit == 0 {
            return Err(Error::Limit);
        }
        let (size, distance, hnsw) = {
            let state = self.shared.state();
            let VectorParams { size, distance, .. } = state.config.vector(&request.vector_name)?;
            (*size, *distance, state.config.hnsw)
        };
        let query = vector::check_query(&request.vector_name, size, distance, &request.vector)?;
        self.agreeing(request.filter.is_some(), || {
            let (space, passing) = self.space_for(request)?;
            let points = passing.as_ref().map(|passing| &*passing.points);
            let changed = Cell::new(false);
            let found = search::search(&space, distance, &hnsw, request, &query, points, &|part, see| self.read_lost(part, &changed, see))?;
            if changed.get() {
                return Ok(None);
            }
            let read = request.with_payload.wants_any() || request.with_vectors || request.with_version;
            if !read && !passing.is_some_and(|passing| passing.read_later) {
                return Ok(Some(found.iter().map(|found| Hit::new(found.owner.id, found.score)).collect()));
            }
            self.hits(&found, request)
        })
    }

    /// The vectors to search among, and the points that pass the request's filter at that moment.
    fn space_for(&self, request: &SearchRequest) -> Result<(Space, Option<Passing>)> {
        let Some(filter) = &request.filter else {
            return Ok((self.shared.state().spaces[&request.vector_name].clone(), None));
        };
        let mut passing = self.shared.passing(filter, Some(&request.vector_name))?;
        let space = passing.space.take().expect("it was asked for");
        Ok((space, Some(passing)))
    }

    /// Reads what is stored of the points found; `None` if one was replaced or deleted since it was found.
    fn hits(&self, found: &[Found], request: &SearchRequest) -> Result<Option<Vec<Hit>>> {
        self.shared.read(|truth| {
            let mut hits = Vec::with_capacity(found.len());
            for Found { score, owner } in found {
                let Some(row) = truth.point_by_number(owner.point)? else { return Ok(None) };
                if row.slots.get(&request.vector_name) != Some(&owner.slot) {
                    return Ok(None);
                }
                let Record { id, version, payload, vectors } = record(truth, &row, &request.with_payload, request.with_vectors)?;
                hits.push(Hit { id, score: *score, version: Some(version), payload, vectors });
            }
            Ok(Some(hits))
        })
    }

    /// Repeats `look` until what it found in memory is still in the file; in the end with the writer held up.
    fn agreeing<T>(&self, filtered: bool, look: impl Fn() -> Result<Option<T>>) -> Result<T> {
        self.check_open()?;
        for _ in 0..LOOKS {
            if let Some(found) = look()? {
                return Ok(found);
            }
        }
        loop {
            if filtered {
                // To load them takes the gate, so they are loaded before it is taken here.
                self.shared.with_sets(|_, _| Ok(()))?;
            }
            let _gate = self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner);
            if filtered && !self.shared.sets_are_loaded() {
                continue;
            }
            let gone = || Error::Damaged { path: self.shared.path.clone(), reason: "a point that was committed is missing".to_owned() };
            return look()?.ok_or_else(gone);
        }
    }

    /// Checks an operation against the configuration, and makes of it what the writer takes.
    fn prepare(&self, operation: Operation) -> Result<Write> {
        operation.filter().map_or(Ok(()), Filter::check)?;
        let state = self.shared.state();
        let config = &state.config;
        let check = |vectors: BTreeMap<String, Vec<f32>>| -> Result<BTreeMap<String, Vec<f32>>> {
            let check = |(name, vector): (String, Vec<f32>)| {
                let vector = vector::check(&name, config.vector(&name)?, vector)?;
                Ok((name, vector))
            };
            vectors.into_iter().map(check).collect()
        };
        Ok(match operation {
            Operation::Upsert { points, mode, filter } => {
                let prepare = |Point { id, vectors, payload }| {
                    check_payload(&payload)?;
                    Ok(Prepared { id, vectors: check(vectors)?, payload })
                };
                Write::Upsert { points: points.into_iter().map(prepare).collect::<Result<_>>()?, mode, filter }
            }
            Operation::UpdateVectors { points, filter } => {
                let prepare = |(id, vectors)| Ok((id, check(vectors)?));
                Write::UpdateVectors { points: points.into_iter().map(prepare).collect::<Result<_>>()?, filter }
            }
            Operation::DeleteVectors { points, names } => {
                names.iter().try_for_each(|name| config.vector(name).map(drop))?;
                Write::DeleteVectors { points, names }
            }
            Operation::SetPayload { points, payload, key } => {
                check_payload(&payload)?;
                Write::ChangePayload { points, change: PayloadChange::Set { payload, key } }
            }
            Operation::OverwritePayload { points, payload } => {
                check_payload(&payload)?;
                Write::ChangePayload { points, change: PayloadChange::Overwrite { payload } }
            }
            Operation::DeletePayload { points, keys } => Write::ChangePayload { points, change: PayloadChange::Delete { keys } },
            Operation::ClearPayload { points } => Write::ChangePayload { points, change: PayloadChange::Clear },
            Operation::Delete { points } => Write::Delete { points },
            Operation::CreateIndex { key, schema } => Write::CreateIndex { key, schema },
            Operation::DropIndex { key } => Write::DropIndex { key },
        })
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn write(&self, write: Write, ack: Ack) -> Result<u64> {
        self.check_open()?;
        let jobs = match &*self.threads.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(threads) => threads.jobs.clone(),
            None => return Err(Error::CollectionDeleted),
        };
        let gone = || self.shared.stopped().unwrap_or_else(|| Error::WritesStopped { path: self.shared.path.clone() });
        match ack {
            Ack::Durable => jobs.perform(write).map_err(|_| gone())?,
            Ack::Accepted => {
                if let Some(error) = self.shared.stopped() {
                    return Err(error);
                }
                jobs.queue(write).map_err(|_| gone())?;
                Ok(self.shared.state().operation)
            }
        }
    }

    fn check_open(&self) -> Result<()> {
        if self.shared.deleted.load(Ordering::Acquire) { Err(Error::CollectionDeleted) } else { Ok(()) }
    }

    /// Refuses every later write: the collection may be gone at the next start.
    pub(crate) fn stop_writes(&self) {
        self.shared.stop();
    }

    /// Refuses every later call, finishes what was accepted, and lets go of the file.
    pub(crate) fn close_for_deletion(&self) {
        self.shared.deleted.store(true, Ordering::Release);
        self.stop_threads();
        self.shared.close_readers();
    }

    fn stop_threads(&self) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Threads { jobs, handles }) = threads else { return };
        self.shared.closing.store(true, Ordering::Relaxed);
        // Whoever waits for the builder waits no longer.
        self.shared.maintain(|_| ());
        // The last readers' locks would keep the writer from moving the whole log.
        self.shared.close_readers();
        drop(jobs);
        drop(self.shared.pokes.lock().unwrap_or_else(PoisonError::into_inner).take());
        for handle in handles {
            // A thread that panicked has said so on stderr; what it committed is in the file.
            let _ = handle.join();
        }
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

/// What is stored of a point.
fn record(truth: &Truth, row: &PointRow, with_payload: &PayloadSelect, with_vectors: bool) -> Result<Record> {
    let payload = if with_payload.wants_any() { Some(with_payload.apply(row.payload(&truth.0.path)?)) } else { None };
    let vectors = if with_vectors { Some(truth.vectors_of(row)?) } else { None };
    Ok(Record { id: row.id, version: row.version, payload, vectors })
}

// Every call takes `&self` and may come from any thread.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Collection>();
    shared::<Jobs>();
    shared::<VectorParams>();
};
