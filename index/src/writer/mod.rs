//! Writing to a collection: one transaction at a time.
//!
//! Who writes, and what waits meanwhile, is told in `queue`; when the log is moved into the file in `log`; what a write
//! does to the rows in `apply`. A group of writes is committed whole or not at all, and then made visible.

mod apply;
mod install;
mod log;
mod queue;

use std::collections::BTreeMap;
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
pub(crate) use queue::Jobs;

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

impl Writer {
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
