//! What a collection's threads share with its users.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use roaring::RoaringBitmap;

use crate::error::{Error, Result};
use crate::filter::{Filter, Schemas};
use crate::id::PointId;
use crate::passing::PassingSet;
use crate::payload::KeyPath;
use crate::segment::Segment;
use crate::sets::{Sets, Stored};
use crate::state::{Space, State};
use crate::sync::mpsc::{SyncSender, TrySendError};
use crate::sync::{Condvar, Mutex, RwLock, RwLockReadGuard};
use crate::truth::{PointNumber, PointRow, Truth};

/// Connections kept for the next reader.
const READERS_KEPT: usize = 8;

pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    state: RwLock<State>,
    /// `None` until a filter is asked for. Locked before `state` where both are.
    sets: RwLock<Option<Sets>>,
    /// Held by the writer from before a commit until memory agrees with the file.
    pub(crate) gate: Mutex<()>,
    readers: Mutex<Vec<Truth>>,
    sync_failed: AtomicBool,
    pub(crate) deleted: AtomicBool,
    pub(crate) closing: AtomicBool,
    pub(crate) maintenance: Mutex<Maintenance>,
    /// Told whenever `maintenance` changes.
    pub(crate) maintained: Condvar,
    pub(crate) pokes: Mutex<Option<SyncSender<()>>>,
}

/// What the builder thread is doing, and was asked to do.
#[derive(Default)]
pub(crate) struct Maintenance {
    /// The vector whose segment is being built.
    pub(crate) building: Option<String>,
    /// Nothing is left to build.
    pub(crate) settled: bool,
    /// How often the builder was told that there may be something.
    pub(crate) pokes: u64,
    /// Compactions asked for, and done.
    pub(crate) compactions: (u64, u64),
    /// Why the last build failed.
    pub(crate) failure: Option<String>,
    /// Why a build of the last compaction failed.
    pub(crate) compaction_failure: Option<String>,
}

/// The points that pass a filter, and the vectors they were looked up among.
pub(crate) struct Passing {
    pub(crate) points: Arc<PassingSet>,
    pub(crate) space: Option<Space>,
    /// Payloads were read, after the vectors were looked up: the hits must be compared with what is stored.
    pub(crate) read_later: bool,
}

impl Shared {
    pub(crate) fn new(path: &Path, state: State, pokes: SyncSender<()>) -> Self {
        Self {
            path: path.to_owned(),
            state: RwLock::new(state),
            sets: RwLock::new(None),
            gate: Mutex::new(()),
            readers: Mutex::default(),
            sync_failed: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            maintenance: Mutex::default(),
            maintained: Condvar::new(),
            pokes: Mutex::new(Some(pokes)),
        }
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what searches and filters see, both at once.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut State, &mut Option<Sets>)) {
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut state, &mut sets);
    }

    /// A segment of the vectors `name` was found damaged: its range is read from the truth until it is built anew, which is soon.
    pub(crate) fn lose(&self, name: &str, segment: &Arc<Segment>, damage: &str) {
        // Of many searches that come upon it only one.
        let is_there = self.state().spaces[name].segments.iter().any(|part| part.is_of(segment));
        if is_there {
            self.publish(|state, _| state.space(name).lose(segment, damage));
            self.poke_builder();
        }
    }

    pub(crate) fn sets_are_loaded(&self) -> bool {
        self.sets.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Points with a value at each indexed key, as far as the indexes are loaded.
    pub(crate) fn index_counts(&self) -> BTreeMap<KeyPath, u64> {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        sets.iter().flat_map(|sets| sets.indexes.iter()).map(|index| (index.key().clone(), index.points())).collect()
    }

    /// Runs `work` on the sets, with the state they belong to.
    pub(crate) fn with_sets<T>(&self, work: impl FnOnce(&Sets, &State) -> Result<T>) -> Result<T> {
        if !self.sets_are_loaded() {
            // No commit may fall between the reading and the keeping.
            let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.sets_are_loaded() {
                let config = self.state().config.clone();
                let sets = self.read(|truth| Sets::read(truth, &config))?;
                *self.sets.write().unwrap_or_else(PoisonError::into_inner) = Some(sets);
            }
        }
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        match &*sets {
            Some(sets) => work(sets, &self.state()),
            // An index was made or dropped in between.
            None => {
                drop(sets);
                self.with_sets(work)
            }
        }
    }

    /// The points that pass `filter`, which is checked; with `vector_name`, the vectors of that moment.
    pub(crate) fn passing(&self, filter: &Filter, vector_name: Option<&str>) -> Result<Passing> {
        filter.check()?;
        let space = |state: &State| vector_name.map(|name| state.spaces[name].clone());
        let known = self.with_sets(|sets, state| Ok(sets.passing(filter).map(|points| (points, space(state)))))?;
        if let Some((points, space)) = known {
            return Ok(Passing { points, space, read_later: false });
        }
        self.read(|truth| {
            let (resolved, space, schemas) = self.with_sets(|sets, state| {
                let resolved = sets.resolve(filter, truth);
                let candidates = resolved.candidates.unwrap_or_else(|| sets.all().clone());
                Ok(((candidates, resolved.exact, resolved.certain), space(state), state.config.indexes.clone()))
            })?;
            let (candidates, exact, certain) = resolved;
            if exact {
                return Ok(Passing { points: Arc::new(PassingSet::new(candidates)), space, read_later: false });
            }
            let numbers = passing_among(truth, filter, &schemas, &(candidates - &certain))? | certain;
            Ok(Passing { points: Arc::new(PassingSet::new(numbers)), space, read_later: true })
        })
    }

    /// Points that no other can pass but these; `None` excludes none. The filter is checked.
    pub(crate) fn candidates(&self, truth: &Truth, filter: &Filter) -> Result<Option<RoaringBitmap>> {
        filter.check()?;
        self.with_sets(|sets, _| Ok(sets.resolve(filter, truth).candidates))
    }

    /// For the writer, before it changes anything: the ids of the points that pass, by number.
    pub(crate) fn passing_ids(&self, truth: &Truth, filter: &Filter) -> Result<Vec<PointId>> {
        let candidates = {
            // Not loaded here: that takes the gate, which the writer holds.
            let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
            sets.as_ref().and_then(|sets| sets.resolve(filter, truth).candidates)
        };
        let schemas = self.state().config.indexes.clone();
        let mut ids = Vec::new();
        let mut visit = |row: PointRow| {
            if filter.matches_under(&schemas, &Stored::new(&row, &self.path)?) {
                ids.push(row.id);
            }
            Ok(true)
        };
        match candidates {
            Some(candidates) => {
                for number in &candidates {
                    if let Some(row) = truth.point_by_number(number)? {
                        visit(row)?;
                    }
                }
            }
            None => truth.points_by_number(visit)?,
        }
        Ok(ids)
    }

    pub(crate) fn stopped(&self) -> Option<Error> {
        self.sync_failed.load(Ordering::Acquire).then(|| Error::WritesStopped { path: self.path.clone() })
    }

    pub(crate) fn stop(&self) {
        self.sync_failed.store(true, Ordering::Release);
    }

    pub(crate) fn stop_if_sync_failed(&self, error: &Error) {
        if error.is_failed_sync() {
            self.stop();
        }
    }

    pub(crate) fn poke_builder(&self) {
        {
            let mut maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
            maintenance.settled = false;
            maintenance.pokes += 1;
        }
        if let Some(pokes) = &*self.pokes.lock().unwrap_or_else(PoisonError::into_inner) {
            match pokes.try_send(()) {
                // Full: it will look again anyway.
                Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
            }
        }
    }

    pub(crate) fn maintain<T>(&self, change: impl FnOnce(&mut Maintenance) -> T) -> T {
        let changed = change(&mut self.maintenance.lock().unwrap_or_else(PoisonError::into_inner));
        self.maintained.notify_all();
        changed
    }

    /// Runs `work` on one state of the file.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Truth) -> Result<T>) -> Result<T> {
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

    pub(crate) fn close_readers(&self) {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn passing_among(truth: &Truth, filter: &Filter, schemas: &dyn Schemas, candidates: &RoaringBitmap) -> Result<RoaringBitmap> {
    let mut passing = RoaringBitmap::new();
    let mut test = |number: PointNumber, row: &PointRow| -> Result<()> {
        if filter.matches_under(schemas, &Stored::new(row, &truth.0.path)?) {
            passing.insert(number);
        }
        Ok(())
    };
    // Most of the table in one pass is quicker than row by row.
    if candidates.len() > 1000 {
        truth.points_by_number(|row| {
            if candidates.contains(row.number) {
                test(row.number, &row)?;
            }
            Ok(true)
        })?;
    } else {
        for number in candidates {
            if let Some(row) = truth.point_by_number(number)? {
                test(number, &row)?;
            }
        }
    }
    Ok(passing)
}
