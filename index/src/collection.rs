//! One collection: the calls its users make, from any thread.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

use crate::config::{CollectionConfig, VectorParams};
use crate::error::{Error, Result};
use crate::id::PointId;
use crate::point::{Hit, Point, Record};
use crate::rebuild;
use crate::search::{self, Found, SearchRequest};
use crate::state::State;
use crate::store::FolderLock;
use crate::truth::{PointRow, Truth};
use crate::vector;
use crate::writer::{Job, Prepared, Write, Writer};

/// Writes that may wait; the next caller blocks until there is room.
const QUEUE: usize = 1024;
/// Connections kept for the next reader.
const READERS_KEPT: usize = 8;
/// How often a reader looks again when the points it looked up were replaced meanwhile, before it holds the writer up.
const LOOKS: usize = 4;

/// A durable collection of points. Get one from [`Store`](crate::Store).
///
/// When [`upsert`](Self::upsert), [`delete`](Self::delete) or [`bind_model`](Self::bind_model) returns `Ok`, the change is
/// on disk (the write-ahead log is synced), and every call that starts afterwards sees it. When it returns an error,
/// nothing of the request is visible; after [`Error::Database`] the change may still appear at the next start, if it
/// reached the disk before what failed.
pub struct Collection {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
    // Released after the threads have ended.
    _lock: Arc<FolderLock>,
}

struct Threads {
    jobs: SyncSender<Job>,
    handles: Vec<JoinHandle<()>>,
}

/// What the collection's threads share with its users.
pub(crate) struct Shared {
    path: PathBuf,
    state: RwLock<State>,
    /// Held by the writer from before a commit until memory agrees with the file.
    pub(crate) gate: Mutex<()>,
    readers: Mutex<Vec<Truth>>,
    sync_failed: AtomicBool,
    deleted: AtomicBool,
    pub(crate) closing: AtomicBool,
    /// The vector name whose graph is being built.
    pub(crate) building: Mutex<Option<String>>,
    pokes: Mutex<Option<SyncSender<()>>>,
}

/// Figures of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionInfo {
    pub points: usize,
    /// By name.
    pub vectors: BTreeMap<String, VectorInfo>,
    /// The last operation that was committed.
    pub operation: u64,
    /// A sync failed: no more writes until restart.
    pub writes_stopped: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct VectorInfo {
    /// Points that have this vector.
    pub count: usize,
    /// Of these, how many a graph answers for; the others are scanned.
    pub indexed: usize,
    /// Is a graph being built?
    pub building: bool,
    /// Why the last attempt to build a graph failed; searches scan.
    pub failure: Option<String>,
}

impl Shared {
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn publish(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn stopped(&self) -> Option<Error> {
        self.sync_failed.load(Ordering::Acquire).then(|| Error::WritesStopped { path: self.path.clone() })
    }

    pub(crate) fn stop_if_sync_failed(&self, error: &Error) {
        if error.is_failed_sync() {
            self.sync_failed.store(true, Ordering::Release);
        }
    }

    pub(crate) fn poke_builder(&self) {
        if let Some(pokes) = &*self.pokes.lock().unwrap_or_else(PoisonError::into_inner) {
            match pokes.try_send(()) {
                // Full: it will look again anyway.
                Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
            }
        }
    }

    /// Length of the write-ahead log, in bytes; 0 where it cannot be told.
    pub(crate) fn log_len(&self) -> u64 {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        std::fs::metadata(log).map_or(0, |metadata| metadata.len())
    }

    fn read<T>(&self, work: impl FnOnce(&Truth) -> Result<T>) -> Result<T> {
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let reader = match kept {
            Some(reader) => reader,
            None => Truth::reader(&self.path)?,
        };
        let outcome = reader.snapshot(work)?;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < READERS_KEPT {
            readers.push(reader);
        }
        Ok(outcome)
    }
}

impl Collection {
    /// Reads all of the open file: every checksum is verified, the vectors stay in memory, and graphs are built in the
    /// background. Until then searches scan.
    pub(crate) fn start(path: &Path, truth: Truth, checkpoint_bytes: usize, lock: Arc<FolderLock>) -> Result<Self> {
        let header = truth.header()?;
        let next_slot = truth.next_slot()?;
        let mut state = State::new(header.config.clone(), header.operation);
        let mut misfit = None;
        truth.each_point(&header, |point| {
            let PointRow { id, slot, checksum, vectors, .. } = point;
            let fits = |(name, vector): (&String, &Vec<f32>)| header.config.vectors.get(name).is_some_and(|p| p.size == vector.len());
            if vectors.iter().all(fits) && !state.points.contains_key(&id) {
                state.put(id, slot, checksum, &vectors);
            } else {
                misfit.get_or_insert(Error::DamagedPoint { path: path.to_owned(), id, slot });
            }
        })?;
        if let Some(error) = misfit {
            return Err(error);
        }
        let (jobs, queue) = mpsc::sync_channel(QUEUE);
        let (pokes, poked) = mpsc::sync_channel(1);
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            state: RwLock::new(state),
            gate: Mutex::new(()),
            readers: Mutex::default(),
            sync_failed: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            building: Mutex::default(),
            pokes: Mutex::new(Some(pokes)),
        });
        let writer = Writer { truth, header, next_slot, shared: Arc::clone(&shared), checkpoint_bytes, unmoved: 0 };
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn(work).map_err(|source| Error::Thread { path: path.to_owned(), source: Arc::new(source) })
        };
        let for_builder = Arc::clone(&shared);
        let builder = spawn("moco-builder", Box::new(move || rebuild::run(&for_builder, &poked)))?;
        let writer = spawn("moco-writer", Box::new(move || writer.run(&queue)))?;
        shared.poke_builder();
        Ok(Self { shared, threads: Mutex::new(Some(Threads { jobs, handles: vec![writer, builder] })), _lock: lock })
    }

    pub fn config(&self) -> CollectionConfig {
        self.shared.state().config.clone()
    }

    /// Number of points, exact.
    pub fn count(&self) -> usize {
        self.shared.state().points.len()
    }

    pub fn info(&self) -> CollectionInfo {
        let building = self.shared.building.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let state = self.shared.state();
        let vectors = state.spaces.iter().map(|(name, space)| {
            let info = VectorInfo {
                count: space.rows.live(),
                indexed: space.index.as_ref().map_or(0, |index| index.live_rows(&space.rows)),
                building: building.as_ref() == Some(name),
                failure: space.failure.as_ref().map(|(reason, _)| reason.clone()),
            };
            (name.clone(), info)
        });
        CollectionInfo {
            points: state.points.len(),
            vectors: vectors.collect(),
            operation: state.operation,
            writes_stopped: self.shared.stopped().is_some(),
        }
    }

    /// Writes points, each replacing the whole of what its id named before; all of them or none. Of two points with one
    /// id the later counts. Returns the operation's number, which grows with each.
    ///
    /// # Errors
    /// [`Error::UnknownVector`], [`Error::Dimension`], [`Error::NotFinite`] before anything is written;
    /// [`Error::DiskFull`], [`Error::Database`], [`Error::WritesStopped`] if it cannot be.
    pub fn upsert(&self, points: Vec<Point>) -> Result<u64> {
        let prepared = {
            let state = self.shared.state();
            let prepare = |point: Point| -> Result<Prepared> {
                let check = |(name, vector): (String, Vec<f32>)| {
                    let vector = vector::check(&name, state.config.vector(&name)?, vector)?;
                    Ok((name, vector))
                };
                let vectors = point.vectors.into_iter().map(check).collect::<Result<_>>()?;
                let payload = serde_json::to_string(&point.payload).expect("a JSON object has string keys");
                Ok(Prepared { id: point.id, vectors, payload })
            };
            points.into_iter().map(prepare).collect::<Result<Vec<_>>>()?
        };
        self.write(Write::Upsert(prepared))
    }

    /// Deletes points; ids that name none are fine. Returns the operation's number.
    pub fn delete(&self, ids: &[PointId]) -> Result<u64> {
        self.write(Write::Delete(ids.to_vec()))
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
                self.write(Write::BindModel { name: vector_name.to_owned(), fingerprint: fingerprint.to_owned() })?;
                Ok(())
            }
        }
    }

    /// The points of these ids, in their order; ids that name none are left out.
    pub fn retrieve(&self, ids: &[PointId], with_payload: bool, with_vectors: bool) -> Result<Vec<Record>> {
        self.agreeing(|| {
            let slots: Vec<u64> = {
                let state = self.shared.state();
                ids.iter().filter_map(|id| state.points.get(id)).map(|entry| entry.slot).collect()
            };
            self.records(&slots, with_payload, with_vectors)
        })
    }

    /// Points by ascending id, from `from` on (which need not exist), and the id that follows them, if any.
    pub fn scroll(
        &self,
        from: Option<PointId>,
        limit: usize,
        with_payload: bool,
        with_vectors: bool,
    ) -> Result<(Vec<Record>, Option<PointId>)> {
        self.agreeing(|| {
            let (slots, next): (Vec<u64>, Option<PointId>) = {
                let state = self.shared.state();
                let mut points = state.points.range((from.map_or(Bound::Unbounded, Bound::Included), Bound::Unbounded));
                let slots = points.by_ref().take(limit).map(|(_, entry)| entry.slot).collect();
                (slots, points.next().map(|(id, _)| *id))
            };
            Ok(self.records(&slots, with_payload, with_vectors)?.map(|records| (records, next)))
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
        let (params, hnsw) = {
            let state = self.shared.state();
            (state.config.vector(&request.vector_name)?.clone(), state.config.hnsw)
        };
        let query = vector::check(&request.vector_name, &params, request.vector.clone())?;
        self.agreeing(|| {
            let space = self.shared.state().spaces[&request.vector_name].clone();
            let found = search::search(&space, &params, &hnsw, request, &query);
            let slots: Vec<u64> = found.iter().map(|found| found.owner.slot).collect();
            let records = self.records(&slots, request.with_payload, request.with_vectors)?;
            Ok(records.map(|records| found.iter().zip(records).map(|(found, record)| hit(found, record)).collect()))
        })
    }

    /// Reads rows by slot; `None` if one is gone, because its point was replaced or deleted since its slot was looked up.
    fn records(&self, slots: &[u64], with_payload: bool, with_vectors: bool) -> Result<Option<Vec<Record>>> {
        self.check_open()?;
        self.shared.read(|truth| {
            let mut records = Vec::with_capacity(slots.len());
            for slot in slots {
                let Some(PointRow { id, version, vectors, payload, .. }) = truth.point(*slot)? else { return Ok(None) };
                let (payload, vectors) = (with_payload.then_some(payload), with_vectors.then_some(vectors));
                records.push(Record { id, version, payload, vectors });
            }
            Ok(Some(records))
        })
    }

    /// Repeats `look` until what it found in memory is still in the file; in the end with the writer held up.
    fn agreeing<T>(&self, look: impl Fn() -> Result<Option<T>>) -> Result<T> {
        self.check_open()?;
        for _ in 0..LOOKS {
            if let Some(found) = look()? {
                return Ok(found);
            }
        }
        let _gate = self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner);
        look()?.ok_or_else(|| Error::Damaged { path: self.shared.path.clone(), reason: "a point that was committed is missing".to_owned() })
    }

    fn write(&self, write: Write) -> Result<u64> {
        self.check_open()?;
        let jobs = match &*self.threads.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(threads) => threads.jobs.clone(),
            None => return Err(Error::CollectionDeleted),
        };
        let (answer, answered) = mpsc::sync_channel(1);
        let gone = || self.shared.stopped().unwrap_or_else(|| Error::WritesStopped { path: self.shared.path.clone() });
        jobs.send(Job { write, answer }).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }

    fn check_open(&self) -> Result<()> {
        if self.shared.deleted.load(Ordering::Acquire) { Err(Error::CollectionDeleted) } else { Ok(()) }
    }

    /// Refuses every later call, finishes what was accepted, and lets go of the file.
    pub(crate) fn close_for_deletion(&self) {
        self.shared.deleted.store(true, Ordering::Release);
        self.stop_threads();
        self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn stop_threads(&self) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Threads { jobs, handles }) = threads else { return };
        self.shared.closing.store(true, Ordering::Relaxed);
        // The last readers' locks would keep the writer from moving the whole log.
        self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner).clear();
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

fn hit(found: &Found, record: Record) -> Hit {
    let Record { id, version, payload, vectors } = record;
    Hit { id, score: found.score, version, payload, vectors }
}

// Every call takes `&self` and may come from any thread.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Collection>();
    shared::<Sender<Job>>();
    shared::<VectorParams>();
};
