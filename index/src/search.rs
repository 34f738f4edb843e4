//! Finding the nearest vectors: for each segment the choice between comparing with all of them and walking its graph, the
//! scan of the tail, and the merge.
//!
//! A search never returns fewer hits than an exact one would: if a walk falls short or costs more than a scan, the scan
//! takes its place.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;

use crate::config::HnswParams;
use crate::distance::Distance;
use crate::error::Result;
use crate::filter::Filter;
use crate::id::PointId;
use crate::kernel::{Isa, Kernel, Work};
use crate::passing::PassingSet;
use crate::payload::PayloadSelect;
use crate::segment::{AcceptedRows, Bits, Scored, Segment, more_candidates, nearness};
use crate::state::{Body, Part, Space};
use crate::tail::{Owner, Tail};
use crate::vector_index::{Flat, Frozen, VectorIndex};

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
    /// Candidates kept during a walk, more with a filter; the collection's `ef_search` if `None`.
    pub ef: Option<usize>,
    /// Compare with every vector.
    pub exact: bool,
    /// Only hits whose score is larger (Cosine, Dot) or smaller (Euclid, Manhattan) than this.
    pub score_threshold: Option<f32>,
    /// Points that are not wanted, such as the one whose vector is the query.
    pub exclude: Vec<PointId>,
    /// Only points that pass it.
    pub filter: Option<Filter>,
    /// The parts of the payload that a hit has.
    pub with_payload: PayloadSelect,
    pub with_vectors: bool,
    /// Ids and scores are in memory; whatever else is asked for is read from the database.
    pub with_version: bool,
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
            filter: None,
            with_payload: PayloadSelect::None,
            with_vectors: false,
            with_version: false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) score: f32,
    pub(crate) owner: Owner,
}

/// Shows the living vectors of a range whose segment is lost, or was just found damaged.
pub(crate) type ReadLost<'a> = &'a dyn Fn(&Part, &mut dyn FnMut(Owner, &[f32])) -> Result<()>;

/// The nearest vectors among the `passing` points, nearest first, ties by id; offset, limit and threshold applied. `query`
/// is checked and scaled.
pub(crate) fn search(
    space: &Space,
    distance: Distance,
    hnsw: &HnswParams,
    request: &SearchRequest,
    query: &[f32],
    passing: Option<&PassingSet>,
    read_lost: ReadLost<'_>,
) -> Result<Vec<Found>> {
    let exclude: HashSet<PointId> = request.exclude.iter().copied().collect();
    let wanted = request.offset.saturating_add(request.limit).min(space.live());
    let mut nearest = NearestOf::new(wanted, &exclude);
    let exact = request.exact || space.live() <= hnsw.full_scan_threshold;
    let ef = request.ef.unwrap_or(hnsw.ef_search);
    let all = space.live();
    for part in space.segments.iter() {
        if let Body::Frozen(segment, live) = &part.body {
            let accept = accepted(segment, live.as_ref(), passing);
            // Excluded points may be among the nearest of any segment.
            let wanted = wanted + exclude.len();
            let index: &dyn VectorIndex =
                if exact { &Flat(segment) } else { &Frozen { segment, ef: ef_of_part(ef, part.live, all, wanted) } };
            let found = index.nearest(query, wanted, accept.as_deref());
            if segment.damage().is_none() {
                nearest.offer_sorted(found.iter().map(|scored| Nearest { nearness: scored.nearness, owner: segment.owner(scored.row) }));
                continue;
            }
        }
        read_lost(part, &mut |owner, vector| {
            if passing.is_none_or(|passing| passing.has(owner.point)) {
                nearest.offer(distance.nearness(query, vector), owner);
            }
        })?;
    }
    Kernel::get().run(TailScan { tail: &space.tail, distance, query, passing, nearest: &mut nearest });
    let found = nearest
        .into_sorted()
        .into_iter()
        .skip(request.offset)
        .map(|nearest| Found { score: distance.score_to_nearness(nearest.nearness), owner: nearest.owner });
    Ok(match request.score_threshold {
        Some(threshold) => found.filter(|found| distance.passes(found.score, threshold)).collect(),
        None => found.collect(),
    })
}

/// Compares with every vector of the tail that passes.
struct TailScan<'a, 'b> {
    tail: &'a Tail,
    distance: Distance,
    query: &'a [f32],
    passing: Option<&'a PassingSet>,
    nearest: &'a mut NearestOf<'b>,
}

impl Work for TailScan<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (owner, vector) in self.tail.rows() {
            if self.passing.is_none_or(|passing| passing.has(owner.point)) {
                self.nearest.offer(nearness(isa, self.distance, self.query, vector), *owner);
            }
        }
    }
}

/// The points whose vectors `score` highest, the highest first, ties by id: every vector is looked at.
pub(crate) fn score_all(
    space: &Space,
    request: &SearchRequest,
    passing: Option<&PassingSet>,
    score: &dyn Fn(&[f32]) -> f32,
    read_lost: ReadLost<'_>,
) -> Result<Vec<Found>> {
    let exclude: HashSet<PointId> = request.exclude.iter().copied().collect();
    let mut nearest = NearestOf::new(request.offset.saturating_add(request.limit).min(space.live()), &exclude);
    let passes = |owner: &Owner| passing.is_none_or(|passing| passing.has(owner.point));
    for part in space.segments.iter() {
        if let Body::Frozen(segment, live) = &part.body {
            let rows = accepted(segment, live.as_ref(), passing).unwrap_or_else(|| Arc::new(Bits::all(segment.rows()).into()));
            rows.iter().for_each(|row| segment.see(row));
            if segment.damage().is_none() {
                rows.iter().for_each(|row| nearest.offer(score(segment.vector(row)), segment.owner(row)));
                continue;
            }
        }
        read_lost(part, &mut |owner, vector| {
            if passes(&owner) {
                nearest.offer(score(vector), owner);
            }
        })?;
    }
    space.tail.rows().filter(|(owner, _)| passes(owner)).for_each(|(owner, vector)| nearest.offer(score(vector), *owner));
    let found =
        nearest.into_sorted().into_iter().skip(request.offset).map(|nearest| Found { score: nearest.nearness, owner: nearest.owner });
    Ok(found.filter(|found| request.score_threshold.is_none_or(|threshold| found.score > threshold)).collect())
}

/// The rows of a segment that may be returned; `None`: all.
fn accepted(segment: &Arc<Segment>, live: Option<&Arc<AcceptedRows>>, passing: Option<&PassingSet>) -> Option<Arc<AcceptedRows>> {
    match passing {
        Some(passing) => Some(passing.rows_of(segment, live)),
        None => live.cloned(),
    }
}

/// Candidates to keep in one segment of several: it holds only a part of the nearest, and a small graph finds more with as many.
fn ef_of_part(ef: usize, live: usize, of: usize, wanted: usize) -> usize {
    let part = (ef as f64 * (live as f64 / of.max(1) as f64).sqrt()).ceil() as usize;
    part.max(wanted.saturating_mul(2)).min(ef)
}

/// The `wanted` nearest rows of a segment among those in `accept`; `ef`: by whichever way is estimated to cost least, or, if
/// `None`, exactly.
pub(crate) fn nearest_of_segment(
    segment: &Segment,
    accept: Option<&AcceptedRows>,
    query: &[f32],
    wanted: usize,
    ef: Option<usize>,
) -> Vec<Scored> {
    let accepted = accept.map_or(segment.rows(), |accept| accept.count());
    let enough = wanted.min(accepted);
    if let Some(ef) = ef.filter(|_| segment.has_graph()) {
        let ef = ef.max(wanted);
        let by_rows = accepted as f64 * COMPARED_PER_ROW;
        let (walk, by_codes) = match accept {
            None => (WALK * ef as f64, IN_ORDER * accepted as f64),
            Some(_) => {
                let share = accepted as f64 / segment.rows().max(1) as f64;
                let lists = (LISTS / share).min(MOST_LISTS);
                ((FILTERED_WALK + LIST * lists) * more_candidates(ef, share) as f64, accepted as f64)
            }
        };
        let by_codes = BEFORE_CODES + by_codes + segment.refined(wanted) as f64 + segment.compared_again(wanted) as f64 * COMPARED_PER_ROW;
        let scan = if segment.relies_on_codes() { by_codes.min(by_rows) } else { by_rows };
        if walk < scan
            && let Some(found) = segment.walk(query, ef, wanted, accept, scan as usize)
            && found.len() >= enough
        {
            return found;
        }
        if scan < by_rows
            && let Some(found) = segment.scan_codes(query, wanted, accept)
            && found.len() >= enough
        {
            return found;
        }
    }
    segment.scan(query, wanted, accept.map(|accept| &**accept))
}

// What things cost, in codes compared one here, one there. Fitted on 59,000 × 512 features, on a machine under load, by the
// median time of 200 searches with one way forced, at ef 160 and 256, with filters that pass 90 to 5 % at random and along one
// direction: a code took 32 ns, a walk 0.9 µs a candidate, a walk among half of the nodes 1.5 µs, a full row 0.2 µs. By these, a
// filter on so many vectors is answered by a scan of codes where it passes less than about a quarter. A walk among half of them has
// become a third faster since (`benches/peers/filters.py` tells); but a scan misses nothing. That a walk keeps more or fewer by where
// it begins is not foreseen.

/// A walk, for each candidate.
const WALK: f64 = 29.0;
/// A walk among those that pass, for each candidate of the more that it keeps,
const FILTERED_WALK: f64 = 32.0;
/// and for each list that it reads to find enough of them: so many by the share that passes, and at most about a node's links. Of a
/// million × 512 at ef 160, a walk took 1.1 ms where a tenth passes, 2.3 ms where 5 % do and 3.0 ms where 3 % do, and found
/// .95, .95 and .94; to compare the codes of 5 % and 3 % took 2.4 and 1.5 ms and found all.
const LIST: f64 = 10.0;
const LISTS: f64 = 0.75;
const MOST_LISTS: f64 = 32.0;
/// A full row.
const COMPARED_PER_ROW: f64 = 4.0;
/// What a scan by codes takes before it compares any: of sixty vectors one of full rows takes 3.2 µs and one by codes 4.2, of six
/// hundred 20 and 10.
const BEFORE_CODES: f64 = 300.0;
/// A code, where all are compared in the order in which they lie.
const IN_ORDER: f64 = 0.35;

/// Hits that memory is taken for before there are any: a limit may be far beyond what there is.
const MOST_AT_ONCE: usize = 256;

/// The nearest of what is offered.
struct NearestOf<'a> {
    wanted: usize,
    exclude: &'a HashSet<PointId>,
    /// What came first, if it came in order: of one segment there is nothing to sort.
    first: Vec<Nearest>,
    /// The farthest of those kept is on top.
    kept: BinaryHeap<Nearest>,
}

impl<'a> NearestOf<'a> {
    fn new(wanted: usize, exclude: &'a HashSet<PointId>) -> Self {
        Self { wanted, exclude, first: Vec::new(), kept: BinaryHeap::new() }
    }

    /// The nearest first.
    fn offer_sorted(&mut self, nearest: impl Iterator<Item = Nearest>) {
        if self.first.is_empty() && self.kept.is_empty() && self.exclude.is_empty() {
            self.first.extend(nearest.take(self.wanted));
        } else {
            nearest.for_each(|Nearest { nearness, owner }| self.offer(nearness, owner));
        }
    }

    fn offer(&mut self, nearness: f32, owner: Owner) {
        if !self.first.is_empty() {
            self.kept = std::mem::take(&mut self.first).into();
        }
        let candidate = Nearest { nearness, owner };
        let full = self.kept.len() >= self.wanted;
        if full && self.kept.peek().is_none_or(|farthest| candidate >= *farthest) {
            return;
        }
        if !self.exclude.is_empty() && self.exclude.contains(&owner.id) {
            return;
        }
        if full {
            self.kept.pop();
        } else if self.kept.is_empty() {
            self.kept.reserve(self.wanted.min(MOST_AT_ONCE));
        }
        self.kept.push(candidate);
    }

    fn into_sorted(self) -> Vec<Nearest> {
        if self.kept.is_empty() { self.first } else { self.kept.into_sorted_vec() }
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
