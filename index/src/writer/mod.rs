//! Writing to a collection: one at a time, and group commit.
//!
//! A caller that finds nobody writing and nobody waiting does the transaction itself, on its own thread, and pays for no other
//! one to wake up and to wake it. Whoever finds the writer busy queues, and so does a write that nobody waits for. The thread takes whatever waits in the queue (up to [`GROUP_WRITES`] writes), applies all of it in one
//! transaction, makes it visible, and only then answers each: one sync is shared by the group. A write that asks which
//! points pass a filter, or that changes what answers such a question, has a transaction to itself: it begins when
//! everything before it is visible.

mod apply;
mod install;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::collection::Shared;
use crate::error::Result;
use crate::filter::Filter;
use crate::id::PointId;
use crate::operation::{Selector, UpsertMode};
use crate::payload::{KeyPath, PayloadSchema};
use crate::point::Payload;
use crate::sync::Mutex;
use crate::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use crate::tail::Owner;
use crate::truth::{Header, PointNumber, Slot, Truth};
use apply::Group;
pub(crate) use install::Install;

/// Writes that share a transaction, at most.
const GROUP_WRITES: usize = 256;
/// Bytes of vectors and payloads after which a group takes no further write.
const GROUP_BYTES: usize = 16 << 20;
/// A log that readers kept from being moved waits for them above this length.
const LONGEST_LOG: u64 = 256 << 20;
/// Writes of fewer bytes find the log's file long enough for them.
const SMALL_WRITE: usize = 64 << 10;
/// Bytes that a small write may log: some pages, and more where a tree of them grows.
const ROOM_AHEAD: u64 = 64 << 10;
/// By how many bytes the log's file is made longer: doubled, within these bounds.
const EXTENSION: RangeInclusive<usize> = 64 << 10..=1 << 20;
/// After so long without a write …
const IDLE: Duration = Duration::from_secs(1);
/// … a log's file of more bytes is emptied.
const IDLE_LOG: u64 = 1 << 20;

/// A point whose vectors were checked.
pub(crate) struct Prepared {
    pub(crate) id: PointId,
    pub(crate) vectors: BTreeMap<String, Vec<f32>>,
    pub(crate) payload: Payload,
}

/// An operation whose vectors and names were checked.
pub(crate) enum Write {
    Upsert {
        points: Vec<Prepared>,
        mode: UpsertMode,
        filter: Option<Filter>,
    },
    UpdateVectors {
        points: Vec<(PointId, BTreeMap<String, Vec<f32>>)>,
        filter: Option<Filter>,
    },
    DeleteVectors {
        points: Selector,
        names: Vec<String>,
    },
    ChangePayload {
        points: Selector,
        change: PayloadChange,
    },
    Delete {
        points: Selector,
    },
    BindModel {
        name: String,
        fingerprint: String,
    },
    CreateIndex {
        key: KeyPath,
        schema: PayloadSchema,
    },
    DropIndex {
        key: KeyPath,
    },
    /// A segment that was built, in the place of others.
    Install(Box<Install>),
}

pub(crate) enum PayloadChange {
    Set { payload: Payload, key: Option<KeyPath> },
    Overwrite { payload: Payload },
    Delete { keys: Vec<KeyPath> },
    Clear,
}

impl Write {
    /// About how many bytes it writes.
    fn bytes(&self) -> usize {
        let of_vectors = |vectors: &BTreeMap<String, Vec<f32>>| 64 + vectors.values().map(|vector| 4 * vector.len()).sum::<usize>();
        let of_payload = |payload: &Payload| 64 * payload.len();
        let of_points = |points: &Selector| match points {
            Selector::Ids(ids) => 64 * ids.len(),
            Selector::Filter(_) => 64,
        };
        match self {
            Self::Upsert { points, .. } => points.iter().map(|point| of_vectors(&point.vectors) + of_payload(&point.payload)).sum(),
            Self::UpdateVectors { points, .. } => points.iter().map(|(_, vectors)| of_vectors(vectors)).sum(),
            Self::ChangePayload { points, change } => match change {
                PayloadChange::Set { payload, .. } | PayloadChange::Overwrite { payload, .. } => of_points(points) + of_payload(payload),
                PayloadChange::Delete { .. } | PayloadChange::Clear => of_points(points),
            },
            Self::DeleteVectors { points, .. } | Self::Delete { points } => of_points(points),
            Self::BindModel { .. } | Self::CreateIndex { .. } | Self::DropIndex { .. } | Self::Install(_) => 64,
        }
    }

    fn goes_alone(&self) -> bool {
        match self {
            Self::Upsert { .. } | Self::UpdateVectors { .. } | Self::BindModel { .. } => false,
            Self::DeleteVectors { points, .. } | Self::ChangePayload { points, .. } | Self::Delete { points } => {
                matches!(points, Selector::Filter(_))
            }
            Self::CreateIndex { .. } | Self::DropIndex { .. } | Self::Install(_) => true,
        }
    }
}

struct Job {
    write: Write,
    /// `None`: the caller did not wait.
    answer: Option<SyncSender<Result<u64>>>,
}

/// The way to the writer.
#[derive(Clone)]
pub(crate) struct Jobs {
    queue: SyncSender<Option<Job>>,
    line: Arc<Line>,
}

struct Line {
    /// Jobs that were sent and are not done.
    waiting: AtomicUsize,
    /// Was the thread told that the log has become long?
    watched: AtomicBool,
    writer: Mutex<Writer>,
}

/// The writer's thread is gone.
pub(crate) struct Gone;

impl Jobs {
    /// Performs a write; it is on disk when this returns.
    pub(crate) fn perform(&self, write: Write) -> std::result::Result<Result<u64>, Gone> {
        // What waits was there first: the order of one caller's writes is that of its calls.
        if self.line.waiting.load(Ordering::Acquire) == 0
            && let Ok(mut writer) = self.line.writer.try_lock()
        {
            let bytes = write.bytes();
            let outcome = writer.commit(vec![write], bytes).map(|mut outcomes| outcomes.pop().expect("one write has one outcome"));
            writer.settle();
            let is_long = writer.truth.0.log_len() > IDLE_LOG;
            drop(writer);
            if is_long && !self.line.watched.swap(true, Ordering::AcqRel) {
                // Full: the thread is awake. Gone: so is the log.
                let _ = self.queue.try_send(None);
            }
            return Ok(outcome.flatten());
        }
        let (answer, answered) = mpsc::sync_channel(1);
        self.send(Job { write, answer: Some(answer) })?;
        answered.recv().map_err(|_| Gone)
    }

    /// Queues a write, and does not wait for it.
    pub(crate) fn queue(&self, write: Write) -> std::result::Result<(), Gone> {
        self.send(Job { write, answer: None })
    }

    fn send(&self, job: Job) -> std::result::Result<(), Gone> {
        self.line.waiting.fetch_add(1, Ordering::AcqRel);
        self.queue.send(Some(job)).map_err(|_| Gone)
    }
}

/// What the writer's thread does.
pub(crate) struct WriterThread {
    line: Arc<Line>,
    queue: Receiver<Option<Job>>,
}

/// A change that is in the transaction and not yet in memory.
enum Change {
    Put {
        name: String,
        owner: Owner,
        vector: Vec<f32>,
    },
    Kill {
        name: String,
        slot: Slot,
    },
    /// What filters see of a point, before and after; `None` where there is no point. Recorded only while filters are answered from memory.
    Point {
        number: PointNumber,
        before: Option<Face>,
        after: Option<Face>,
    },
    Bind {
        name: String,
        fingerprint: String,
    },
    Install(Box<Install>, Vec<Slot>),
    CreateIndex {
        key: KeyPath,
        schema: PayloadSchema,
    },
    DropIndex {
        key: KeyPath,
    },
}

/// What filters see of a point besides its id.
pub(crate) struct Face {
    pub(crate) payload: Payload,
    pub(crate) vectors: Vec<String>,
}

pub(crate) struct Writer {
    pub(crate) truth: Truth,
    pub(crate) header: Header,
    pub(crate) next_point: PointNumber,
    pub(crate) next_slot: Slot,
    pub(crate) shared: Arc<Shared>,
    /// The log is moved into the file after about so many bytes.
    pub(crate) checkpoint_bytes: usize,
    /// Bytes of the log's file that hold what was committed since it began anew.
    pub(crate) used: u64,
    /// What that was when the log was last moved; 0 since it began anew.
    pub(crate) moved: u64,
    /// How many commits there were.
    pub(crate) commits: u64,
}

impl WriterThread {
    /// Works until every sender is gone, then moves the log into the file.
    pub(crate) fn run(self) {
        let mut next = None;
        while let Some(first) = next.take().or_else(|| self.wait()) {
            // A caller whose write panicked has said so; what it committed is in the file, and nothing follows it. Whoever
            // comes while a write is under way joins the group.
            let Ok(mut writer) = self.line.writer.lock() else { return };
            let mut bytes = first.write.bytes();
            let alone = first.write.goes_alone();
            let mut group = vec![first];
            while !alone && group.len() < GROUP_WRITES && bytes < GROUP_BYTES {
                let Ok(job) = self.queue.try_recv() else { break };
                let Some(job) = job else { continue };
                if job.write.goes_alone() {
                    next = Some(job);
                    break;
                }
                bytes += job.write.bytes();
                group.push(job);
            }
            let (writes, answers): (Vec<_>, Vec<_>) = group.into_iter().map(|job| (job.write, job.answer)).unzip();
            let outcomes = writer.commit(writes, bytes).unwrap_or_else(|error| vec![Err(error); answers.len()]);
            self.line.waiting.fetch_sub(answers.len(), Ordering::AcqRel);
            for (answer, outcome) in answers.iter().zip(outcomes) {
                if let Some(answer) = answer {
                    // A caller that went away needs no answer.
                    let _ = answer.send(outcome);
                }
            }
            writer.settle();
            drop(writer);
            self.line.watched.store(true, Ordering::Release);
        }
        if let Ok(writer) = self.line.writer.lock()
            && writer.shared.stopped().is_none()
        {
            // On failure the log stays, and the next start moves it.
            let _ = writer.truth.0.checkpoint();
        }
    }

    /// The next write. Where none is made for a while, the log gives back the room it has.
    fn wait(&self) -> Option<Job> {
        let mut commits = None;
        loop {
            if !self.line.watched.load(Ordering::Acquire) {
                match self.queue.recv().ok()? {
                    Some(job) => return Some(job),
                    None => continue,
                }
            }
            match self.queue.recv_timeout(IDLE) {
                Ok(Some(job)) => return Some(job),
                Ok(None) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    let Ok(mut writer) = self.line.writer.lock() else { return None };
                    if commits.replace(writer.commits) == Some(writer.commits) {
                        self.line.watched.store(false, Ordering::Release);
                        writer.shorten_log();
                    }
                }
            }
        }
    }
}

impl Writer {
    /// The way to this writer, and what is to run on a thread of its own. At most `waiting` writes wait; the next caller
    /// blocks until there is room.
    pub(crate) fn start(self, waiting: usize) -> (Jobs, WriterThread) {
        let (sender, queue) = mpsc::sync_channel(waiting);
        let line = Arc::new(Line { waiting: AtomicUsize::new(0), watched: AtomicBool::new(false), writer: Mutex::new(self) });
        (Jobs { queue: sender, line: Arc::clone(&line) }, WriterThread { line, queue })
    }

    /// After each commit, and after its answers where others wait for them. On failure the log stays as it is, and is tried
    /// again: nothing is lost. Only after a failed sync nothing may be written any more.
    fn settle(&mut self) {
        self.commits += 1;
        self.shared.poke_builder();
        if self.shared.stopped().is_none()
            && let Err(error) = self.tend_log()
        {
            self.shared.stop_if_sync_failed(&error);
        }
    }

    /// Moves the log into the file when it is long.
    fn tend_log(&mut self) -> Result<()> {
        let log = &self.truth.0;
        self.used = log.log_used()?;
        if self.used < self.moved {
            self.moved = 0;
        }
        if self.used - self.moved > self.checkpoint_bytes as u64 {
            self.moved = self.used;
            return if self.used > LONGEST_LOG { log.checkpoint() } else { log.checkpoint_now() };
        }
        Ok(())
    }

    /// Keeps the log's file ahead of small writes; before a commit, whose sync covers it.
    fn make_room(&self, bytes: usize) {
        let log = &self.truth.0;
        // A log that was moved begins anew with the next commit, where it has room.
        if bytes < SMALL_WRITE && self.used > self.moved && self.used + ROOM_AHEAD > log.log_len() {
            // What cannot be done now the commit does itself, or fails and says why.
            let _ = log.extend_log((self.used as usize).clamp(*EXTENSION.start(), *EXTENSION.end()));
        }
    }

    fn shorten_log(&mut self) {
        let log = &self.truth.0;
        if self.shared.stopped().is_some() || log.log_len() <= IDLE_LOG {
            return;
        }
        if let Err(error) = log.checkpoint_now().and_then(|()| log.checkpoint_unless_read()) {
            self.shared.stop_if_sync_failed(&error);
        }
        // Nothing, or that little is known of it: the next commit tells.
        self.used = 0;
    }

    /// All writes of a group, of about so many bytes, or none; the outer error is everybody's.
    fn commit(&mut self, writes: Vec<Write>, bytes: usize) -> Result<Vec<Result<u64>>> {
        if let Some(error) = self.shared.stopped() {
            return Err(error);
        }
        self.make_room(bytes);
        let mut header = self.header.clone();
        let mut changes = Vec::new();
        let mut outcomes = Vec::with_capacity(writes.len());
        // Held until memory agrees with the file again, for readers that failed to meet the two in agreement.
        let gate = Arc::clone(&self.shared);
        let _gate = gate.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let (next_point, next_slot) = (&mut self.next_point, &mut self.next_slot);
        let shared = &self.shared;
        let seen_by_filters = shared.sets_are_loaded();
        let committed = self.truth.transaction(|truth| {
            let (put, dead) = Default::default();
            let mut group =
                Group { truth, shared, header: &mut header, next_point, next_slot, changes: &mut changes, put, dead, seen_by_filters };
            for write in writes {
                outcomes.push(group.apply(write)?);
            }
            group.finish()?;
            if header.config != self.header.config {
                truth.put_config(&header.config)?;
            }
            Ok(())
        });
        if let Err(error) = committed {
            self.shared.stop_if_sync_failed(&error);
            return Err(error);
        }
        self.shared.publish(|state, sets| {
            for change in changes {
                match change {
                    Change::Put { name, owner, vector } => state.put(&name, owner, &vector),
                    Change::Kill { name, slot } => state.space(&name).kill(slot),
                    Change::Point { number, before, after } => {
                        if let Some(sets) = sets {
                            sets.change(number, before.as_ref(), after.as_ref());
                        }
                    }
                    Change::Bind { name, fingerprint } => {
                        state.config.vectors.get_mut(&name).expect("the name was looked up").model = Some(fingerprint);
                    }
                    Change::Install(install, dead) => install.publish(state, &dead),
                    // The sets are made anew, with the index, when a filter asks for them.
                    Change::CreateIndex { key, schema } => {
                        state.config.indexes.insert(key, schema);
                        *sets = None;
                    }
                    Change::DropIndex { key } => {
                        state.config.indexes.remove(&key);
                        if let Some(sets) = sets {
                            sets.drop_index(&key);
                        }
                    }
                }
            }
            state.points = header.points.rows;
            state.operation = header.operation;
        });
        self.header = header;
        Ok(outcomes)
    }
}
