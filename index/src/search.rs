//! Finding the nearest rows: the choice between comparing with all of them and walking a graph, and the merge of both.
//!
//! A search that walks a graph also scans, exactly, what the graph does not hold: rows newer than it, zero vectors, and
//! nodes that its audit found unreachable. It never returns fewer hits than an exact scan would: if the walk falls short
//! or costs too much, the scan takes over.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};

use crate::config::{HnswParams, VectorParams};
use crate::id::PointId;
use crate::rows::{Owner, Row, Rows};
use crate::state::Space;

/// What to look for. Start from [`SearchRequest::new`].
#[derive(Clone, Debug)]
pub struct SearchRequest {
    /// Which of the collection's vectors; `""` is the unnamed one.
    pub vector_name: String,
    /// The query, of the named vector's size. Under Cosine it is scaled to length one.
    pub vector: Vec<f32>,
    /// Most hits to return, at least 1.
    pub limit: usize,
    /// Nearest hits to leave out first.
    pub offset: usize,
    /// Candidates kept during a walk; the collection's `ef_search` if `None`.
    pub ef: Option<usize>,
    /// Compare with every vector.
    pub exact: bool,
    /// Only hits whose score is larger (Cosine, Dot) or smaller (Euclid, Manhattan) than this.
    pub score_threshold: Option<f32>,
    /// Points that are not wanted, such as the one whose vector is the query.
    pub exclude: Vec<PointId>,
    pub with_payload: bool,
    pub with_vectors: bool,
}

impl SearchRequest {
    /// The `limit` nearest points by their unnamed vector.
    pub fn new(vector: Vec<f32>, limit: usize) -> Self {
        Self {
            vector_name: String::new(),
            vector,
            limit,
            offset: 0,
            ef: None,
            exact: false,
            score_threshold: None,
            exclude: Vec::new(),
            with_payload: false,
            with_vectors: false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) score: f32,
    pub(crate) owner: Owner,
}

/// The nearest live rows, nearest first, ties by id; offset, limit and threshold applied. `query` is checked and scaled.
pub(crate) fn search(space: &Space, params: &VectorParams, hnsw: &HnswParams, request: &SearchRequest, query: &[f32]) -> Vec<Found> {
    let exclude: HashSet<PointId> = request.exclude.iter().copied().collect();
    let rows = &*space.rows;
    let wanted = request.offset.saturating_add(request.limit).min(rows.live());
    let scan = Scan { rows, params, query, exclude: &exclude };
    let walked = match &space.index {
        Some(index) if !request.exact && rows.live() > hnsw.full_scan_threshold => {
            let ef = request.ef.unwrap_or(hnsw.ef_search).max(wanted);
            let candidates = index.walk(rows, query, params.distance, ef, |row| scan.is_wanted(row));
            candidates
                .map(|found| scan.nearest(found.into_iter().chain(index.side_rows(rows)).chain(rows.live_from(index.covered())), wanted))
        }
        _ => None,
    };
    let enough = wanted.min(rows.live().saturating_sub(exclude.len()));
    let nearest = match walked {
        Some(nearest) if nearest.len() >= enough => nearest,
        _ => scan.nearest(rows.live_from(0), wanted),
    };
    let found = nearest
        .into_iter()
        .skip(request.offset)
        .map(|nearest| Found { score: params.distance.score_to_nearness(nearest.nearness), owner: nearest.owner });
    match request.score_threshold {
        Some(threshold) => found.filter(|found| params.distance.passes(found.score, threshold)).collect(),
        None => found.collect(),
    }
}

struct Scan<'a> {
    rows: &'a Rows,
    params: &'a VectorParams,
    query: &'a [f32],
    exclude: &'a HashSet<PointId>,
}

impl Scan<'_> {
    fn is_wanted(&self, row: Row) -> bool {
        self.exclude.is_empty() || !self.exclude.contains(&self.rows.owner(row).id)
    }

    /// The `wanted` nearest of the given live rows, nearest first.
    fn nearest(&self, among: impl Iterator<Item = Row>, wanted: usize) -> Vec<Nearest> {
        // The farthest of those kept is on top.
        let mut kept: BinaryHeap<Nearest> = BinaryHeap::new();
        if wanted == 0 {
            return Vec::new();
        }
        for row in among {
            let nearness = self.params.distance.nearness(self.query, self.rows.vector(row));
            if kept.len() == wanted && kept.peek().is_some_and(|farthest| nearness < farthest.nearness) {
                continue;
            }
            let candidate = Nearest { nearness, owner: self.rows.owner(row) };
            if !self.exclude.is_empty() && self.exclude.contains(&candidate.owner.id) {
                continue;
            }
            if kept.len() < wanted {
                kept.push(candidate);
            } else if let Some(mut farthest) = kept.peek_mut()
                && candidate < *farthest
            {
                *farthest = candidate;
            }
        }
        kept.into_sorted_vec()
    }
}

/// Orders by nearness, nearest first, then by id, so that equal scores have one order.
#[derive(Clone, Copy)]
struct Nearest {
    nearness: f32,
    owner: Owner,
}

impl Ord for Nearest {
    fn cmp(&self, other: &Self) -> Ordering {
        other.nearness.total_cmp(&self.nearness).then_with(|| self.owner.id.cmp(&other.owner.id))
    }
}

impl PartialOrd for Nearest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Nearest {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Nearest {}
