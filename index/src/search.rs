//! Finding the nearest vectors: for each segment the choice between comparing with all of them and walking its graph, the
//! scan of the tail, and the merge.
//!
//! A search never returns fewer hits than an exact one would: if a walk falls short or costs more than a scan, the scan
//! takes its place.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};

use roaring::RoaringBitmap;

use crate::config::{HnswParams, VectorParams};
use crate::distance::Distance;
use crate::error::Result;
use crate::filter::Filter;
use crate::id::PointId;
use crate::kernel::{Isa, Kernel, Work};
use crate::segment::{Bits, Row, Segment, nearness};
use crate::state::{Body, Part, Space};
use crate::tail::{Owner, Tail};
use crate::truth::PointNumber;
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
    /// Candidates kept during a walk; the collection's `ef_search` if `None`.
    pub ef: Option<usize>,
    /// Compare with every vector.
    pub exact: bool,
    /// Only hits whose score is larger (Cosine, Dot) or smaller (Euclid, Manhattan) than this.
    pub score_threshold: Option<f32>,
    /// Points that are not wanted, such as the one whose vector is the query.
    pub exclude: Vec<PointId>,
    /// Only points that pass it.
    pub filter: Option<Filter>,
    pub with_payload: bool,
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
            with_payload: false,
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

/// Reads the living vectors of a range whose segment is lost.
pub(crate) type ReadLost<'a> = &'a dyn Fn(&Part) -> Result<Vec<(Owner, Vec<f32>)>>;

/// The nearest vectors among the `passing` points, nearest first, ties by id; offset, limit and threshold applied. `query`
/// is checked and scaled.
pub(crate) fn search(
    space: &Space,
    params: &VectorParams,
    hnsw: &HnswParams,
    request: &SearchRequest,
    query: &[f32],
    passing: Option<&RoaringBitmap>,
    read_lost: ReadLost<'_>,
) -> Result<Vec<Found>> {
    let exclude: HashSet<PointId> = request.exclude.iter().copied().collect();
    let wanted = request.offset.saturating_add(request.limit).min(space.live());
    let mut nearest = NearestOf::new(wanted, &exclude);
    let passing = passing.map(Passing::new);
    let exact = request.exact || space.live() <= hnsw.full_scan_threshold;
    let ef = request.ef.unwrap_or(hnsw.ef_search);
    for part in &space.segments {
        match &part.body {
            Body::Frozen(segment, live) => {
                let accept = accepted(segment, live.as_deref(), passing.as_ref());
                // Excluded points may be among the nearest of any segment.
                let wanted = wanted + exclude.len();
                let index: &dyn VectorIndex = if exact { &Flat(segment) } else { &Frozen { segment, ef } };
                for (score, row) in index.nearest(query, wanted, accept.as_ref()) {
                    nearest.offer(score, segment.owner(row));
                }
            }
            Body::Lost(_) => {
                for (owner, vector) in read_lost(part)? {
                    if passing.as_ref().is_none_or(|passing| passing.has(owner.point)) {
                        nearest.offer(params.distance.nearness(query, &vector), owner);
                    }
                }
            }
        }
    }
    Kernel::get().run(TailScan { tail: &space.tail, distance: params.distance, query, passing: passing.as_ref(), nearest: &mut nearest });
    let found = nearest
        .into_sorted()
        .into_iter()
        .skip(request.offset)
        .map(|nearest| Found { score: params.distance.score_to_nearness(nearest.nearness), owner: nearest.owner });
    Ok(match request.score_threshold {
        Some(threshold) => found.filter(|found| params.distance.passes(found.score, threshold)).collect(),
        None => found.collect(),
    })
}

/// Compares with every vector of the tail that passes.
struct TailScan<'a, 'b> {
    tail: &'a Tail,
    distance: Distance,
    query: &'a [f32],
    passing: Option<&'a Passing>,
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
    passing: Option<&RoaringBitmap>,
    score: &dyn Fn(&[f32]) -> f32,
    read_lost: ReadLost<'_>,
) -> Result<Vec<Found>> {
    let exclude: HashSet<PointId> = request.exclude.iter().copied().collect();
    let mut nearest = NearestOf::new(request.offset.saturating_add(request.limit).min(space.live()), &exclude);
    let passing = passing.map(Passing::new);
    let passes = |owner: &Owner| passing.as_ref().is_none_or(|passing| passing.has(owner.point));
    for part in &space.segments {
        match &part.body {
            Body::Frozen(segment, live) => {
                let rows = accepted(segment, live.as_deref(), passing.as_ref()).unwrap_or_else(|| Bits::all(segment.rows()));
                rows.iter().for_each(|row| nearest.offer(score(segment.vector(row)), segment.owner(row)));
            }
            Body::Lost(_) => {
                let lost = read_lost(part)?;
                lost.iter().filter(|(owner, _)| passes(owner)).for_each(|(owner, vector)| nearest.offer(score(vector), *owner));
            }
        }
    }
    space.tail.rows().filter(|(owner, _)| passes(owner)).for_each(|(owner, vector)| nearest.offer(score(vector), *owner));
    let found =
        nearest.into_sorted().into_iter().skip(request.offset).map(|nearest| Found { score: nearest.nearness, owner: nearest.owner });
    Ok(found.filter(|found| request.score_threshold.is_none_or(|threshold| found.score > threshold)).collect())
}

/// Numbers that pass a filter, as a plain set of bits: it is asked once a vector that is compared.
struct Passing {
    words: Vec<u64>,
    count: usize,
}

impl Passing {
    fn new(numbers: &RoaringBitmap) -> Self {
        let mut words = vec![0u64; numbers.max().map_or(0, |last| last as usize / 64 + 1)];
        for number in numbers {
            words[number as usize / 64] |= 1 << (number % 64);
        }
        Self { words, count: numbers.len() as usize }
    }

    /// Ascending.
    fn numbers(&self) -> impl Iterator<Item = PointNumber> + '_ {
        self.words.iter().enumerate().flat_map(|(place, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                rest &= rest.wrapping_sub(1);
                (bit < 64).then_some(place as PointNumber * 64 + bit)
            })
        })
    }

    fn has(&self, number: PointNumber) -> bool {
        self.bit(number) == 1
    }

    fn bit(&self, number: PointNumber) -> u64 {
        self.words.get(number as usize / 64).map_or(0, |word| word >> (number % 64) & 1)
    }
}

/// The rows of a segment that may be returned; `None`: all.
fn accepted(segment: &Segment, live: Option<&Bits>, passing: Option<&Passing>) -> Option<Bits> {
    let Some(passing) = passing else { return live.cloned() };
    // A look-up costs about as much as passing over so many rows.
    if passing.count.saturating_mul(LOOK_UP_COST) < segment.rows() {
        let mut accept = Bits::none(segment.rows());
        for row in passing.numbers().flat_map(|point| segment.rows_of_point(point)) {
            if live.is_none_or(|live| live.contains(row)) {
                accept.insert(row);
            }
        }
        return Some(accept);
    }
    let mut accept = Bits::of(segment.points(), |point| passing.bit(point));
    if let Some(live) = live {
        accept.intersect(live);
    }
    Some(accept)
}

/// By a walk with `ef` candidates, or by a scan where that is asked for or costs less.
pub(crate) fn nearest_of_segment(
    segment: &Segment,
    accept: Option<&Bits>,
    query: &[f32],
    wanted: usize,
    ef: Option<usize>,
) -> Vec<(f32, Row)> {
    let accepted = accept.map_or(segment.rows(), Bits::count);
    let enough = wanted.min(accepted);
    if let Some(ef) = ef.filter(|_| segment.has_graph()) {
        let ef = ef.max(wanted);
        // A walk with `ef` candidates compares with about a dozen vectors for each, and a filter that passes one in n makes it n times as many.
        let share = accepted as f64 / segment.rows().max(1) as f64;
        let estimate = (COMPARED_PER_CANDIDATE * ef as f64 / share.max(1e-9)) as usize;
        let budget = accepted.saturating_mul(COMPARED_PER_ROW);
        if estimate < budget
            && let Some(found) = segment.walk(query, ef, wanted, accept, budget)
            && found.len() >= enough
        {
            return found.into_iter().map(|scored| (scored.nearness, scored.row)).collect();
        }
    }
    segment.scan(query, wanted, accept).into_iter().map(|scored| (scored.nearness, scored.row)).collect()
}

/// Vectors that a walk compares with, for each candidate that it keeps.
const COMPARED_PER_CANDIDATE: f64 = 17.0;
/// Codes that a walk compares in the time in which a scan compares one full row.
const COMPARED_PER_ROW: usize = 2;
/// Rows passed over in the time that it takes to look one point up.
const LOOK_UP_COST: usize = 64;

/// The nearest of what is offered.
struct NearestOf<'a> {
    wanted: usize,
    exclude: &'a HashSet<PointId>,
    /// The farthest of those kept is on top.
    kept: BinaryHeap<Nearest>,
}

impl<'a> NearestOf<'a> {
    fn new(wanted: usize, exclude: &'a HashSet<PointId>) -> Self {
        Self { wanted, exclude, kept: BinaryHeap::new() }
    }

    fn offer(&mut self, nearness: f32, owner: Owner) {
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
        }
        self.kept.push(candidate);
    }

    fn into_sorted(self) -> Vec<Nearest> {
        self.kept.into_sorted_vec()
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
