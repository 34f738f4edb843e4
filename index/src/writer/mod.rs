//! The one thread that writes to a collection: group commit.
//!
//! It takes whatever waits in its queue (up to [`GROUP_WRITES`] writes), applies all of it in one transaction, makes it
//! visible, and only then answers each. One sync is shared by the group; a write that comes alone waits for nobody. A
//! write that asks which points pass a filter, or that changes what answers such a question, has a transaction to itself:
//! it begins when everything before it is visible.

mod apply;
mod install;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, PoisonError};

use crate::collection::Shared;
use crate::error::Result;
use crate::filter::Filter;
use crate::id::PointId;
use crate::operation::{Selector, UpsertMode};
use crate::payload::{KeyPath, PayloadSchema};
use crate::point::Payload;
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

pub(crate) struct Job {
    pub(crate) write: Write,
    /// `None`: the caller did not wait.
    pub(crate) answer: Option<SyncSender<Result<u64>>>,
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
    /// Bytes written since the last checkpoint.
    pub(crate) unmoved: usize,
}

impl Writer {
    /// Works until every sender is gone, then moves the log into the file.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        let mut next = jobs.recv().ok();
        while let Some(first) = next.take() {
            let mut bytes = first.write.bytes();
            let alone = first.write.goes_alone();
            let mut group = vec![first];
            while !alone && group.len() < GROUP_WRITES && bytes < GROUP_BYTES {
                let Ok(job) = jobs.try_recv() else { break };
                if job.write.goes_alone() {
                    next = Some(job);
                    break;
                }
                bytes += job.write.bytes();
                group.push(job);
            }
            let (writes, answers): (Vec<_>, Vec<_>) = group.into_iter().map(|job| (job.write, job.answer)).unzip();
            let outcomes = self.commit(writes).unwrap_or_else(|error| vec![Err(error); answers.len()]);
            for (answer, outcome) in answers.iter().zip(outcomes) {
                if let Some(answer) = answer {
                    // A caller that went away needs no answer.
                    let _ = answer.send(outcome);
                }
            }
            self.shared.poke_builder();
            self.unmoved += bytes;
            if self.unmoved > self.checkpoint_bytes && self.shared.stopped().is_none() {
                self.unmoved = 0;
                self.move_log();
            }
            if next.is_none() {
                next = jobs.recv().ok();
            }
        }
        if self.shared.stopped().is_none() {
            // On failure the log stays, and the next start moves it.
            let _ = self.truth.0.checkpoint();
        }
    }

    /// A failure loses nothing: the log is kept and tried again. Only after a failed sync nothing may be written any more.
    fn move_log(&mut self) {
        let long = self.shared.log_len() > LONGEST_LOG;
        let outcome = if long { self.truth.0.checkpoint() } else { self.truth.0.checkpoint_now() };
        if let Err(error) = outcome {
            self.shared.stop_if_sync_failed(&error);
        }
    }

    /// All writes of a group, or none; the outer error is everybody's.
    fn commit(&mut self, writes: Vec<Write>) -> Result<Vec<Result<u64>>> {
        if let Some(error) = self.shared.stopped() {
            return Err(error);
        }
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
            let mut group = Group { truth, shared, header: &mut header, next_point, next_slot, changes: &mut changes, seen_by_filters };
            for write in writes {
                outcomes.push(group.apply(write)?);
            }
            truth.put_header(&header)
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
