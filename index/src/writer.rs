//! The one thread that writes to a collection: group commit.
//!
//! It takes whatever waits in its queue (up to [`GROUP_WRITES`] writes), applies all of it in one transaction, makes it
//! visible, and only then answers each. One sync is shared by the group; a write that comes alone waits for nobody.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, PoisonError};

use crate::collection::Shared;
use crate::error::{Error, Result};
use crate::id::PointId;
use crate::truth::{Header, Truth};

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
    /// JSON.
    pub(crate) payload: String,
}

pub(crate) enum Write {
    Upsert(Vec<Prepared>),
    Delete(Vec<PointId>),
    BindModel { name: String, fingerprint: String },
}

impl Write {
    fn bytes(&self) -> usize {
        match self {
            Self::Upsert(points) => {
                points.iter().map(|point| 64 + point.payload.len() + point.vectors.values().map(|v| 4 * v.len()).sum::<usize>()).sum()
            }
            Self::Delete(ids) => 64 * ids.len(),
            Self::BindModel { .. } => 64,
        }
    }
}

pub(crate) struct Job {
    pub(crate) write: Write,
    pub(crate) answer: SyncSender<Result<u64>>,
}

/// A change that is in the transaction and not yet in memory.
enum Change {
    Put { id: PointId, slot: u64, checksum: u64, vectors: BTreeMap<String, Vec<f32>> },
    Remove { id: PointId },
    Bind { name: String, fingerprint: String },
}

pub(crate) struct Writer {
    pub(crate) truth: Truth,
    pub(crate) header: Header,
    pub(crate) next_slot: u64,
    pub(crate) shared: Arc<Shared>,
    /// The log is moved into the file after about so many bytes.
    pub(crate) checkpoint_bytes: usize,
    /// Bytes written since the last checkpoint.
    pub(crate) unmoved: usize,
}

impl Writer {
    /// Works until every sender is gone, then moves the log into the file.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut bytes = first.write.bytes();
            let mut group = vec![first];
            while group.len() < GROUP_WRITES && bytes < GROUP_BYTES {
                let Ok(job) = jobs.try_recv() else { break };
                bytes += job.write.bytes();
                group.push(job);
            }
            let (writes, answers): (Vec<_>, Vec<_>) = group.into_iter().map(|job| (job.write, job.answer)).unzip();
            let outcomes = self.commit(writes).unwrap_or_else(|error| vec![Err(error); answers.len()]);
            for (answer, outcome) in answers.iter().zip(outcomes) {
                // A caller that went away needs no answer.
                let _ = answer.send(outcome);
            }
            self.shared.poke_builder();
            self.unmoved += bytes;
            if self.unmoved > self.checkpoint_bytes && self.shared.stopped().is_none() {
                self.unmoved = 0;
                self.move_log();
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
        let next_slot = &mut self.next_slot;
        let shared = &self.shared;
        let committed = self.truth.transaction(|truth| {
            let mut group = Group { truth, shared, header: &mut header, next_slot, here: HashMap::new(), changes: &mut changes };
            for write in writes {
                outcomes.push(group.apply(write)?);
            }
            truth.put_header(&header)
        });
        if let Err(error) = committed {
            self.shared.stop_if_sync_failed(&error);
            return Err(error);
        }
        self.shared.publish(|state| {
            for change in changes {
                match change {
                    Change::Put { id, slot, checksum, vectors } => state.put(id, slot, checksum, &vectors),
                    Change::Remove { id } => state.remove(id),
                    Change::Bind { name, fingerprint } => {
                        state.config.vectors.get_mut(&name).expect("the name was looked up").model = Some(fingerprint);
                    }
                }
            }
            state.operation = header.operation;
        });
        self.header = header;
        Ok(outcomes)
    }
}

/// A transaction under way.
struct Group<'a> {
    truth: &'a Truth,
    shared: &'a Shared,
    header: &'a mut Header,
    next_slot: &'a mut u64,
    /// Slot and checksum of points that this transaction wrote (`None`: deleted).
    here: HashMap<PointId, Option<(u64, u64)>>,
    changes: &'a mut Vec<Change>,
}

impl Group<'_> {
    /// The outer error ends the transaction, the inner one is this write's own.
    fn apply(&mut self, write: Write) -> Result<Result<u64>> {
        match write {
            Write::Upsert(points) => {
                self.header.operation += 1;
                for point in points {
                    self.remove(point.id)?;
                    self.insert(point)?;
                }
            }
            Write::Delete(ids) => {
                self.header.operation += 1;
                for id in ids {
                    if self.remove(id)? {
                        self.here.insert(id, None);
                        self.changes.push(Change::Remove { id });
                    }
                }
            }
            Write::BindModel { name, fingerprint } => {
                let Some(params) = self.header.config.vectors.get_mut(&name) else {
                    return Ok(Err(Error::UnknownVector { name }));
                };
                match &params.model {
                    Some(bound) if *bound != fingerprint => {
                        return Ok(Err(Error::Fingerprint { name, expected: bound.clone(), actual: fingerprint }));
                    }
                    Some(_) => {}
                    None => {
                        params.model = Some(fingerprint.clone());
                        self.header.operation += 1;
                        self.changes.push(Change::Bind { name, fingerprint });
                    }
                }
            }
        }
        Ok(Ok(self.header.operation))
    }

    fn insert(&mut self, point: Prepared) -> Result<()> {
        let Prepared { id, vectors, payload } = point;
        // Not given back if the transaction fails: a slot that may have reached the log is not used again.
        let slot = *self.next_slot;
        *self.next_slot += 1;
        let checksum = self.truth.insert(slot, id, self.header.operation, &vectors, &payload)?;
        self.header.points += 1;
        self.header.digest = self.header.digest.wrapping_add(checksum);
        self.here.insert(id, Some((slot, checksum)));
        self.changes.push(Change::Put { id, slot, checksum, vectors });
        Ok(())
    }

    /// Removes the row of `id`; was there one?
    fn remove(&mut self, id: PointId) -> Result<bool> {
        let place = match self.here.get(&id) {
            Some(place) => *place,
            None => self.shared.state().points.get(&id).map(|entry| (entry.slot, entry.checksum)),
        };
        let Some((slot, checksum)) = place else { return Ok(false) };
        self.truth.delete(slot)?;
        self.header.points -= 1;
        self.header.digest = self.header.digest.wrapping_sub(checksum);
        Ok(true)
    }
}
