//! What can be done to a collection, as values.

use std::collections::BTreeMap;

use crate::filter::Filter;
use crate::id::PointId;
use crate::payload::{KeyPath, PayloadSchema};
use crate::point::{Payload, Point};

/// A change to a collection: one transaction, all of it or nothing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Operation {
    /// Writes points, each replacing the whole of what its id named before. Of two points with one id the later counts.
    Upsert {
        points: Vec<Point>,
        mode: UpsertMode,
        /// Points that exist are replaced only if they pass it.
        filter: Option<Filter>,
    },
    /// Sets the named vectors of points that exist; their other vectors and their payloads stay.
    UpdateVectors {
        points: Vec<(PointId, BTreeMap<String, Vec<f32>>)>,
        /// Only points that pass it are changed.
        filter: Option<Filter>,
    },
    /// Takes the named vectors away; the points stay.
    DeleteVectors {
        points: Selector,
        names: Vec<String>,
    },
    /// Merges into the payload, at its top or at `key`, making what is missing on the way.
    SetPayload {
        points: Selector,
        payload: Payload,
        key: Option<KeyPath>,
    },
    /// Replaces the whole payload.
    OverwritePayload {
        points: Selector,
        payload: Payload,
    },
    /// Deletes what lies at each key; absent ones are fine.
    DeletePayload {
        points: Selector,
        keys: Vec<KeyPath>,
    },
    ClearPayload {
        points: Selector,
    },
    /// Deletes points; ids that name none are fine.
    Delete {
        points: Selector,
    },
    /// Keeps what lies at a key of every payload in memory, in a form that filters, order and facets are quick by.
    CreateIndex {
        key: KeyPath,
        schema: PayloadSchema,
    },
    DropIndex {
        key: KeyPath,
    },
}

impl Operation {
    /// The filter that decides which points it concerns, if there is one.
    pub(crate) fn filter(&self) -> Option<&Filter> {
        match self {
            Self::Upsert { filter, .. } | Self::UpdateVectors { filter, .. } => filter.as_ref(),
            Self::DeleteVectors { points, .. }
            | Self::SetPayload { points, .. }
            | Self::OverwritePayload { points, .. }
            | Self::DeletePayload { points, .. }
            | Self::ClearPayload { points }
            | Self::Delete { points } => match points {
                Selector::Filter(filter) => Some(filter),
                Selector::Ids(_) => None,
            },
            Self::CreateIndex { .. } | Self::DropIndex { .. } => None,
        }
    }
}

/// Which points an operation concerns.
#[derive(Clone, Debug)]
pub enum Selector {
    /// Except for a deletion, each must exist.
    Ids(Vec<PointId>),
    /// Those that pass when the operation's turn comes.
    Filter(Filter),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpsertMode {
    #[default]
    Upsert,
    /// Leave points that exist as they are.
    InsertOnly,
    /// Leave out points that do not exist.
    UpdateOnly,
}

/// When a write returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// When it is on disk and visible.
    #[default]
    Durable,
    /// When it was checked and has its place in the queue. A crash before its turn loses it; so does what only its turn
    /// can show (a full disk, an id that names no point).
    Accepted,
}
