//! The best by codes, again by their full rows: the last step of every search that went by codes.
//!
//! How far codes are off is seen in the first rows that are compared again. What lies so far behind that its code would have to
//! be off much more than any of these is left alone: a full row is the dearest thing a search reads.

use super::format::Kind;
use super::pool::{nearness_of, node_of};
use super::scan::nearness;
use super::{Bits, FURTHER, Row, Scored, Segment, rank};
use crate::codes::Codes;
use crate::distance::Distance;
use crate::kernel::Isa;

/// Rows asked for ahead of the one being compared, and cache lines of each.
const AHEAD: usize = 8;
const LINES: usize = 8;
/// Rows whose owners are asked for ahead: of more, the first would be gone again.
const OWNERS: usize = 32;
/// Rows asked for ahead where each may be the last.
const AHEAD_IN_DOUBT: usize = 2;
/// Rows by which is judged how far codes are off, at least.
const JUDGED: usize = 10;
/// How many times as far as the worst of these another code may be off.
const DOUBT: f32 = 2.0;

/// Nodes by their codes, the nearest first, to be compared again.
#[derive(Clone, Copy)]
pub(super) struct Pool<'a> {
    pub(super) keys: &'a [u64],
    /// [`Query::unit`](crate::codes::Query::unit).
    pub(super) unit: f32,
}

/// How many of the nodes found are compared by their full rows to answer `want`, at most. Who lets a walk keep more wants more
/// recall, which 4-bit codes cannot give without more rows.
pub(super) fn rescored(codes: Codes, want: usize, found: usize) -> usize {
    match codes {
        Codes::F32 => want,
        Codes::F16 => want + 4,
        Codes::Int8 => 2 * want,
        Codes::Int4 => (4 * want + 16).max(found / 2),
    }
}

/// What codes estimate, but for their unit and for an addend that is the query's own.
#[inline(always)]
fn estimated(distance: Distance, nearness: f32) -> f32 {
    match distance {
        Distance::Cosine | Distance::Dot => nearness,
        Distance::Euclid | Distance::Manhattan => -0.5 * nearness * nearness,
    }
}

/// By how much codes estimate too little.
pub(super) struct Errors {
    count: f32,
    sum: f32,
    least: f32,
    most: f32,
}

impl Errors {
    pub(super) const NONE: Self = Self { count: 0.0, sum: 0.0, least: f32::INFINITY, most: f32::NEG_INFINITY };

    #[inline(always)]
    pub(super) fn see(&mut self, error: f32) {
        self.count += 1.0;
        self.sum += error;
        self.least = self.least.min(error);
        self.most = self.most.max(error);
    }

    /// The most that another one may be.
    pub(super) fn bound(&self) -> f32 {
        self.sum / self.count + self.spread()
    }

    /// The most that another one may be above their mean.
    pub(super) fn spread(&self) -> f32 {
        let mean = self.sum / self.count;
        DOUBT * (self.most - mean).max(mean - self.least)
    }
}

/// The farthest of the `want` nearest; `None` if there are fewer.
fn worst_of_best(found: &[Scored], want: usize) -> Option<f32> {
    let mut best: Vec<f32> = found.iter().map(|scored| scored.nearness).collect();
    let last = want.checked_sub(1).filter(|last| *last < best.len())?;
    Some(*best.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1)
}

impl Segment {
    /// The rows of the nodes in `pool`, and those beside the graph, by their full vectors: the `want` nearest.
    #[inline(always)]
    pub(super) fn rescore<I: Isa>(&self, isa: I, query: &[f32], pool: Pool<'_>, want: usize, accept: Option<&Bits>) -> Vec<Scored> {
        let Pool { keys, unit } = pool;
        let accepted = |row: Row| accept.is_none_or(|accept| accept.contains(row));
        let node_rows = self.section::<u32>(Kind::NodeRows);
        let distance = self.header.distance;
        let mut found = Vec::with_capacity(keys.len());
        let mut errors = Errors::NONE;
        // Those that are compared in any case are asked for ahead.
        let judged = &keys[..want.max(JUDGED).min(keys.len())];
        let row_of = |key: u64| node_rows[node_of(key) as usize];
        let lines = LINES.min(self.header.size / 16);
        for key in judged.iter().take(AHEAD) {
            isa.prefetch(self.unseen_vector(row_of(*key) & !FURTHER), lines);
        }
        // Whose they are is asked of nearly all of these.
        for key in judged.iter().take(OWNERS) {
            self.prefetch_owner(isa, row_of(*key) & !FURTHER);
        }
        // Nothing is left out before the first ones were seen.
        let (mut bar, mut bound) = (f32::NEG_INFINITY, 0.0);
        for (i, key) in keys.iter().enumerate() {
            if i == judged.len() {
                bar = worst_of_best(&found, want).map_or(f32::NEG_INFINITY, |worst| estimated(distance, worst));
                bound = errors.bound();
            }
            // Where one of the numbers is none, nothing is left out.
            if unit * nearness_of(*key) + bound < bar {
                break;
            }
            let ahead = if i < judged.len() { judged.get(i + AHEAD) } else { keys.get(i + AHEAD_IN_DOUBT) };
            if let Some(ahead) = ahead {
                isa.prefetch(self.unseen_vector(row_of(*ahead) & !FURTHER), lines);
            }
            let first = row_of(*key);
            let nearness = nearness(isa, distance, query, self.vector(first & !FURTHER));
            if i < judged.len() {
                errors.see(estimated(distance, nearness) - unit * nearness_of(*key));
            }
            let further = if first & FURTHER != 0 { self.further_rows(node_of(*key)) } else { &[] };
            let rows = std::iter::once(first & !FURTHER).chain(further.iter().map(|[_, row]| *row));
            found.extend(rows.filter(|row| accepted(*row)).map(|row| Scored { nearness, row }));
        }
        // No `map`: its closure would be compiled without the instructions.
        for row in self.section::<u32>(Kind::Side) {
            if accepted(*row) {
                found.push(Scored { nearness: nearness(isa, distance, query, self.vector(*row)), row: *row });
            }
        }
        rank(self, found, want)
    }
}
