//! SEARCH-LAYER of the HNSW paper (algorithm 2), best first, from the top layer down, by codes, or by their upper halves and then
//! again by both (`refine`); the best are then compared again by their full rows (`rescore`).
//!
//! A sorted pool of the `ef` nearest is both what is open and what is kept. With a filter, or where rows died, the walk goes
//! among the accepted nodes only, as if the others were not there; where a node has too few accepted neighbours, those of
//! its other neighbours take their place (ACORN, <https://arxiv.org/abs/2403.04871>). So it costs not much more than without a
//! filter, wherever the accepted nodes lie, as long as they are not few. It can miss those that others cut off, and it can
//! cost as much as a scan: the budget ends it before, and who asked compares how many it found with how many there are.

use std::cell::RefCell;

use super::accepted::{Accepted, AcceptedRows};
use super::compare::{ByF16, ByF32, ByInt4, ByInt8, Coded, Compare};
use super::format::Kind;
use super::links::Links;
use super::pool::{Offered, Unordered, keep, key, node_of};
use super::refine::{halves, refine};
use super::rescore::{Pool, rescored};
use super::runs::{ByRuns, ClusterScratch, Runs};
use super::{FURTHER, Scored, Segment};
use crate::build::{MOST_LINKS, Node};
use crate::codes::{Codes, Query};
use crate::kernel::{Isa, Kernel, Work};

/// Cache lines of rows asked for ahead of the one being compared, and how many rows at most.
const LINES_AHEAD: usize = 128;
const MOST_AHEAD: usize = 48;

/// What a thread keeps from one walk to the next.
pub(super) struct Scratch {
    query: Query,
    /// A stamp a node: those of this walk have been met. Nothing is cleared before the stamps are used up.
    pub(super) stamps: Vec<u8>,
    pub(super) stamp: u8,
    pub(super) pool: Vec<u64>,
    fresh: Vec<Node>,
    /// Nodes that are not accepted, and lead to others that may be.
    bridges: Vec<Node>,
    pub(super) clusters: ClusterScratch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch {
            query: Query { floats: Vec::new(), bytes: crate::kernel::ByteQuery { numbers: Vec::new(), sum: 0 }, scale: 0.0, unit: 0.0 },
            stamps: Vec::new(),
            stamp: 0,
            pool: Vec::new(),
            fresh: Vec::new(),
            bridges: Vec::new(),
            clusters: ClusterScratch::NEW,
        })
    };
}

/// More codes were compared than the budget allows.
pub(super) struct Exhausted;

impl Segment {
    /// The nearest rows among those in `accept` (all, if `None`), about as an exact search would find them; the nearest first,
    /// ties by id, at most `want`. `ef` is how many candidates the walk keeps, more with a filter where it goes through the graph (`effort_among`). `None`: more than
    /// `budget` nodes were compared, or the walk came to an end though there must be more, or there is no graph (Manhattan); then
    /// a scan is to be preferred.
    pub(crate) fn walk(&self, query: &[f32], ef: usize, want: usize, accept: Option<&AcceptedRows>, budget: usize) -> Option<Vec<Scored>> {
        if !self.has_graph() {
            return None;
        }
        match Runs::of(self) {
            None => self.find(ByGraph { budget }, query, ef, want, accept),
            Some(runs) => self.find(ByRuns { runs, budget }, query, ef, want, accept),
        }
    }

    pub(super) fn find(&self, way: impl Way, query: &[f32], ef: usize, want: usize, accept: Option<&AcceptedRows>) -> Option<Vec<Scored>> {
        assert_eq!(query.len(), self.header.size, "dimensions are checked before a search");
        // The upper halves of codes do not tell the last of them from the next.
        let least = if self.header.halves { want + want / 2 + 4 } else { want };
        let ef = ef.max(least).max(1);
        SCRATCH.with_borrow_mut(|scratch| Kernel::get().run(Walk { segment: self, query, ef, want, accept, way, scratch }))
    }

    /// As [`Self::walk`], without its graph: the codes of all nodes that stand for a row in `accept` are compared, and the best
    /// compared again. Where there are few it takes less time than a walk, and it misses less. `None`: there are no codes, or none
    /// to rely on.
    pub(crate) fn scan_codes(&self, query: &[f32], want: usize, accept: Option<&AcceptedRows>) -> Option<Vec<Scored>> {
        if !self.relies_on_codes() {
            return None;
        }
        self.find(All, query, self.compared_again(want).max(self.refined(want)), want, accept)
    }

    /// Are there codes that tell the vectors apart? Where the graph lost many they do not: data of many magnitudes have only a
    /// few different ones.
    pub(crate) fn relies_on_codes(&self) -> bool {
        self.has_graph() && self.header.codes != Codes::F32 && self.header.orphans * ORPHANS <= self.header.nodes()
    }

    /// How many nodes a scan by codes compares by their full rows too.
    pub(crate) fn compared_again(&self, want: usize) -> usize {
        match self.header.codes {
            // Nothing but their codes chooses them, and those are coarse.
            Codes::Int4 => 2 * rescored(Codes::Int4, want, 0),
            codes => rescored(codes, want, 0),
        }
    }

    /// How many a scan by the upper halves of codes compares by both.
    pub(crate) fn refined(&self, want: usize) -> usize {
        if self.header.halves { 4 * want + 192 } else { 0 }
    }

    /// The node that stands for a row, by row; `NO_NODE` for those beside the graph.
    fn row_nodes(&self) -> &[Node] {
        self.row_nodes.get_or_init(|| {
            let mut nodes = vec![NO_NODE; self.rows()];
            for (row, node) in self.section::<u32>(Kind::NodeRows).iter().zip(0..) {
                nodes[(row & !FURTHER) as usize] = node;
            }
            for [node, row] in self.section::<[u32; 2]>(Kind::FurtherRows) {
                nodes[*row as usize] = *node;
            }
            nodes
        })
    }
}

const NO_NODE: Node = Node::MAX;
/// Codes are relied on alone where the graph lost fewer than one in so many nodes.
const ORPHANS: usize = 20;

/// Which nodes are compared. Each way is compiled by itself: what two of them shared could not use the instructions of either.
pub(super) trait Way {
    /// All that is found is compared again by full rows, if it was not refined.
    const ALL_AGAIN: bool = false;

    /// Leaves the nearest nodes in the pool; how many candidates it kept, at most.
    fn find<I: Isa, C: Compare>(self, steps: &Steps<'_, I>, compared: Compared<'_, C>, scratch: &mut Scratch) -> Result<usize, Exhausted>;
}

/// What a query is compared with, and the query in the segment's frame.
#[derive(Clone, Copy)]
pub(super) struct Compared<'a, C> {
    pub(super) nodes: C,
    pub(super) middles: C,
    pub(super) query: &'a [f32],
}

/// Those that a walk comes by, `budget` at most.
pub(super) struct ByGraph {
    pub(super) budget: usize,
}

impl Way for ByGraph {
    #[inline(always)]
    fn find<I: Isa, C: Compare>(self, steps: &Steps<'_, I>, compared: Compared<'_, C>, scratch: &mut Scratch) -> Result<usize, Exhausted> {
        steps.walk(compared.nodes, self.budget, scratch)
    }
}

pub(super) struct All;

impl Way for All {
    const ALL_AGAIN: bool = true;

    #[inline(always)]
    fn find<I: Isa, C: Compare>(self, steps: &Steps<'_, I>, compared: Compared<'_, C>, scratch: &mut Scratch) -> Result<usize, Exhausted> {
        steps.all(compared.nodes, scratch);
        Ok(steps.effort.ef)
    }
}

struct Walk<'a, W> {
    segment: &'a Segment,
    query: &'a [f32],
    ef: usize,
    want: usize,
    accept: Option<&'a AcceptedRows>,
    way: W,
    scratch: &'a mut Scratch,
}

impl<W: Way> Work for Walk<'_, W> {
    type Output = Option<Vec<Scored>>;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Option<Vec<Scored>> {
        let Self { segment, query, ef, want, accept, way, scratch } = self;
        let header = &segment.header;
        let mut prepared = std::mem::take(&mut scratch.query);
        prepared.set(query, &segment.frame, header.distance, header.codes);
        scratch.pool.clear();
        let mut walked = Ok(ef);
        if header.nodes() > 0 {
            // Before the codes: where there is no reader, they are those that were hashed.
            let reader = segment.code_reader();
            let (codes, factors) = (segment.section(Kind::Codes), segment.section(Kind::Factors));
            let coded = Coded { codes, blocks: header.blocks(), factors, query: &prepared, reader };
            let middles = segment.section(Kind::Middles);
            let middles = Coded { codes: middles, factors: segment.section(Kind::MiddleFactors), reader: None, ..coded };
            let effort = Effort { ef, patience: usize::MAX, most: usize::MAX };
            // By the upper halves the best are not yet told from the next.
            let best = rescored(header.codes, want, ef) * if header.halves { 2 } else { 1 };
            let steps = Steps { isa, segment, links: Links::of(segment), effort, best, accept };
            let placed = &*prepared.floats;
            walked = match header.codes {
                Codes::Int8 if header.halves => {
                    let nodes = halves(segment, &prepared);
                    way.find(&steps, Compared { nodes, middles: nodes, query: placed }, scratch)
                }
                Codes::Int8 => way.find(&steps, Compared { nodes: ByInt8(coded), middles: ByInt8(middles), query: placed }, scratch),
                Codes::Int4 => way.find(&steps, Compared { nodes: ByInt4(coded), middles: ByInt4(middles), query: placed }, scratch),
                Codes::F16 => way.find(&steps, Compared { nodes: ByF16(coded), middles: ByF16(middles), query: placed }, scratch),
                Codes::F32 => {
                    let (vectors, node_rows) = (segment.section(Kind::Vectors), segment.section(Kind::NodeRows));
                    let nodes = ByF32 { segment, vectors, node_rows, distance: header.distance, query };
                    way.find(&steps, Compared { nodes, middles: nodes, query: placed }, scratch)
                }
            };
        }
        scratch.query = prepared;
        let kept = walked.ok()?;
        let found = scratch.pool.len();
        // Fewer than there are: others cut the rest off, or patience ended too early.
        if let Some(accept) = accept
            && !W::ALL_AGAIN
            && found < kept.min(accept.count() * header.nodes() / header.rows.max(1) / 2)
        {
            return None;
        }
        if header.halves && found > 0 {
            refine(isa, halves(segment, &scratch.query), rescored(header.codes, want, found), &mut scratch.pool);
        }
        let found = scratch.pool.len();
        let again = if W::ALL_AGAIN && !header.halves { found } else { rescored(header.codes, want, found).min(found) };
        Some(segment.rescore(
            isa,
            query,
            Pool { keys: &scratch.pool[..again], unit: scratch.query.unit },
            want,
            accept.map(|accept| &**accept),
        ))
    }
}

/// How long a walk goes on.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// Candidates it keeps.
    pub(super) ef: usize,
    /// Nodes it follows, one after the other, without any of them leading to one of the best.
    pub(super) patience: usize,
    /// Nodes it compares.
    pub(super) most: usize,
}

/// The walk itself; leaves the nearest nodes in the pool.
#[derive(Clone, Copy)]
pub(super) struct Steps<'a, I> {
    pub(super) isa: I,
    segment: &'a Segment,
    links: Links<'a>,
    pub(super) effort: Effort,
    /// Nodes that are compared again in the end, at least.
    best: usize,
    accept: Option<&'a AcceptedRows>,
}

impl<I: Isa> Steps<'_, I> {
    /// No node has been met.
    #[inline(always)]
    pub(super) fn forget(&self, scratch: &mut Scratch) {
        let nodes = self.segment.header.nodes();
        if scratch.stamps.len() < nodes {
            scratch.stamps.resize(nodes, 0);
        }
        if scratch.stamp == u8::MAX {
            scratch.stamps.fill(0);
            scratch.stamp = 0;
        }
        scratch.stamp += 1;
    }

    #[inline(always)]
    fn all<C: Compare>(&self, compare: C, scratch: &mut Scratch) {
        self.forget(scratch);
        let Scratch { pool, fresh, stamps, stamp, .. } = scratch;
        let mut best = Unordered::of(pool, self.effort.ef);
        let Some(accept) = self.accept else {
            compare.see(0..self.segment.header.nodes() as Node);
            // In the order in which they lie, so that the processor reads ahead by itself.
            (0..self.segment.header.nodes() as Node).for_each(|node| best.offer(compare.nearness(self.isa, node), node));
            return best.sort();
        };
        let row_nodes = self.segment.row_nodes();
        let mut rows = accept.iter().take_while(|row| (*row as usize) < row_nodes.len());
        loop {
            fresh.clear();
            let mut looked_at = 0;
            for row in rows.by_ref().take(TOGETHER) {
                looked_at += 1;
                let node = row_nodes[row as usize];
                // Rows with one vector have one node.
                if node != NO_NODE {
                    greet(node, stamps, *stamp, fresh);
                }
            }
            self.compare_all(compare, fresh, |nearness, node| best.offer(nearness, node));
            if looked_at < TOGETHER {
                return best.sort();
            }
        }
    }

    /// How many candidates it kept, at most.
    #[inline(always)]
    fn walk<C: Compare>(&self, compare: C, budget: usize, scratch: &mut Scratch) -> Result<usize, Exhausted> {
        self.forget(scratch);
        compare.see(std::iter::once(0));
        let entry = key(compare.nearness(self.isa, 0), 0);
        let mut compared = 1;
        let start = self.descend(compare, entry, &mut compared);
        let stamp = scratch.stamp;
        match self.accepted() {
            None => {
                // From the entry point too: the audit counts as reachable what can be reached from there.
                for first in [start, entry] {
                    if scratch.stamps[node_of(first) as usize] != stamp {
                        scratch.stamps[node_of(first) as usize] = stamp;
                        scratch.pool.push(first);
                    }
                }
                self.nearest(compare, compared, budget, scratch, |from, scratch| (self.meet(from, scratch), self.effort.ef))
            }
            Some(accepted) => {
                let steps = self.with(self.effort_among(accepted, node_of(start)));
                compared += steps.begin_accepted(compare, node_of(start), accepted, scratch);
                steps.nearest(compare, compared, budget, scratch, |from, scratch| {
                    (steps.meet_accepted(compare, from, accepted, scratch), steps.effort.ef)
                })
            }
        }
    }

    /// The same with another effort.
    pub(super) fn with(&self, effort: Effort) -> Self {
        Self { effort, ..*self }
    }

    pub(super) fn accepted(&self) -> Option<Accepted<'_>> {
        self.accept.map(|rows| rows.on(self.segment))
    }

    /// By cluster, whether any node in it is accepted; empty if that is not known.
    pub(super) fn accepted_in_clusters(&self) -> &[bool] {
        self.accept.map_or(&[], |rows| rows.clusters(self.segment))
    }

    /// How long a walk among those that pass goes on, by how many of those around its beginning do.
    fn effort_among(&self, accepted: Accepted<'_>, start: Node) -> Effort {
        // Its own neighbours are too few to tell: of a twentieth that passes, none may be among them by chance.
        let mut asked = [start; AROUND];
        let mut count = 1;
        for neighbour in self.links.of_list(start as usize).take(AROUND - 1) {
            self.links.prefetch(self.isa, neighbour as usize);
            asked[count] = neighbour;
            count += 1;
        }
        let (mut links, mut passing) = (0u32, 0u32);
        for node in &asked[..count] {
            for node in self.links.of_list(*node as usize) {
                links += 1;
                passing += u32::from(accepted.has(node));
            }
        }
        let of_all = accepted.rows.count() as f64 / self.segment.rows().max(1) as f64;
        let around = f64::from(passing) / f64::from(links.max(1));
        let Effort { ef, .. } = self.effort;
        let more = more_candidates(ef, of_all.max(around));
        if 2.0 * around >= of_all {
            return Effort { ef: more, ..self.effort };
        }
        // The query lies where few pass: the fewer, the more.
        let apart = 1.0 - 2.0 * around / of_all;
        let more = more as f64 * (1.0 + (MORE_WHERE_APART - 1.0) * apart.sqrt());
        Effort { ef: more as usize, patience: (PATIENCE_WHERE_APART * ef as f64) as usize, most: MOST_WHERE_APART * ef }
    }

    /// Through the upper layers: to the nearest neighbour until none is nearer.
    #[inline(always)]
    fn descend<C: Compare>(&self, compare: C, mut best: u64, compared: &mut usize) -> u64 {
        for layer in self.segment.layer_starts.iter().skip(1).rev() {
            loop {
                let from = best;
                let links = || self.links.of_list(layer + node_of(from) as usize);
                for node in links() {
                    compare.prefetch(self.isa, node);
                }
                compare.see(links());
                for node in links() {
                    *compared += 1;
                    best = best.min(key(compare.nearness(self.isa, node), node));
                }
                if best == from {
                    break;
                }
            }
        }
        best
    }

    /// Puts the links of `from` that this walk has not met into `fresh`. Returns how many these are.
    #[inline(always)]
    pub(super) fn meet(&self, from: Node, scratch: &mut Scratch) -> usize {
        let Scratch { stamps, stamp, fresh, .. } = scratch;
        // Where they lie would be read again with each link.
        let (stamps, stamp) = (stamps.as_mut_slice(), *stamp);
        fresh.clear();
        fresh.reserve(MOST_LINKS);
        let mut count = 0;
        let places = fresh.as_mut_ptr();
        self.links.each(from as usize, |node| {
            debug_assert!((node as usize) < stamps.len() && count < MOST_LINKS);
            // SAFETY: opening checked that links are below the number of nodes, for each of which there is a stamp, and that
            // no list is longer than what was reserved.
            unsafe {
                let met = stamps.get_unchecked_mut(node as usize);
                *places.add(count) = node;
                count += usize::from(*met != stamp);
                *met = stamp;
            }
        });
        // SAFETY: so many were written.
        unsafe { fresh.set_len(count) };
        count
    }

    /// Calls `see` with each node and how near it is, and asks for the codes of the next ones meanwhile.
    #[inline(always)]
    fn compare_all<C: Compare>(&self, compare: C, nodes: &[Node], mut see: impl FnMut(f32, Node)) {
        compare.see(nodes.iter().copied());
        let ahead = rows_ahead(compare);
        for node in nodes.iter().take(ahead) {
            compare.prefetch(self.isa, *node);
        }
        // One place that calls `see`: called at two, it would not be compiled as part of this.
        for (i, some) in nodes.chunks(C::TOGETHER).enumerate() {
            for node in nodes.iter().skip(C::TOGETHER * i + ahead).take(C::TOGETHER) {
                compare.prefetch(self.isa, *node);
            }
            for (node, nearness) in some.iter().zip(compare.nearness_of_some(self.isa, some)) {
                see(nearness, *node);
            }
        }
    }

    /// As [`Self::meet`], but only nodes that are accepted: those that `from` leads to, and where too few of those are, what
    /// the others lead to. Returns what it cost, in nodes compared.
    #[inline(always)]
    pub(super) fn meet_accepted<C: Compare>(&self, compare: C, from: Node, accepted: Accepted<'_>, scratch: &mut Scratch) -> usize {
        let Scratch { stamps, stamp, fresh, bridges, .. } = scratch;
        let stamp = *stamp;
        fresh.clear();
        bridges.clear();
        bridges.reserve(MOST_LINKS);
        let (mut links, mut crossable) = (0, 0);
        let places = bridges.as_mut_ptr();
        let mut found = self.sift(from, accepted, stamps, stamp, fresh, |node, bridge| {
            debug_assert!(links < MOST_LINKS);
            // SAFETY: no list is longer than what was reserved; `crossable` is at most `links`.
            unsafe { *places.add(crossable) = node };
            crossable += usize::from(bridge);
            links += 1;
        });
        // SAFETY: so many were written.
        unsafe { bridges.set_len(crossable) };
        // All of them would cost a third more time, and find no more than a larger `ef` finds in that time.
        let wanted = (3 * links) / 4;
        if found < wanted
            && let Some(first) = bridges.first()
        {
            self.links.prefetch(self.isa, *first as usize);
        }
        // Under way while the bridges are crossed.
        fresh.iter().take(rows_ahead(compare)).for_each(|node| compare.prefetch(self.isa, *node));
        let mut crossed = 0;
        for (i, bridge) in bridges.iter().enumerate() {
            if found >= wanted {
                break;
            }
            if let Some(next) = bridges.get(i + 1) {
                self.links.prefetch(self.isa, *next as usize);
            }
            crossed += 1;
            // What it leads to is met now, by whichever node comes to it first.
            stamps[*bridge as usize] = stamp;
            found += self.sift(*bridge, accepted, stamps, stamp, fresh, |_, _| ());
        }
        fresh.len() + crossed
    }

    /// Puts the links in list `list` that are accepted and new into `fresh`; tells of each link whether it is neither accepted nor
    /// met. Returns how many are accepted. No branch depends on who is: with half of them it would be guessed wrong half of the time.
    #[inline(always)]
    fn sift(
        &self,
        list: Node,
        accepted: Accepted<'_>,
        stamps: &mut [u8],
        stamp: u8,
        fresh: &mut Vec<Node>,
        mut see: impl FnMut(Node, bool),
    ) -> usize {
        fresh.reserve(MOST_LINKS);
        let (mut found, mut count, places) = (0, fresh.len(), fresh.spare_capacity_mut().as_mut_ptr());
        let before = count;
        self.links.each(list as usize, |node| {
            debug_assert!((node as usize) < stamps.len() && count - before < MOST_LINKS);
            let passes = accepted.has(node);
            // SAFETY: opening checked that links are below the number of nodes, for each of which there is a stamp, and that
            // no list is longer than what was reserved.
            unsafe {
                let met = stamps.get_unchecked_mut(node as usize);
                let new = *met != stamp;
                (*places.add(count - before)).write(node);
                count += usize::from(passes & new);
                *met = if passes { stamp } else { *met };
                see(node, !passes & new);
            }
            found += usize::from(passes);
        });
        // SAFETY: so many were written.
        unsafe { fresh.set_len(count) };
        found
    }

    /// Puts into the pool what a walk among accepted nodes begins with: those around `start`, which the accepted ones may be
    /// far from, and some from all over. Returns what it cost, in nodes compared.
    #[inline(always)]
    fn begin_accepted<C: Compare>(&self, compare: C, start: Node, accepted: Accepted<'_>, scratch: &mut Scratch) -> usize {
        let stamp = scratch.stamp;
        scratch.stamps[start as usize] = stamp;
        let cost = self.meet_accepted(compare, start, accepted, scratch);
        let Scratch { stamps, fresh, pool, .. } = scratch;
        if accepted.has(start) {
            fresh.push(start);
        }
        let nodes = self.segment.header.nodes();
        let step = (nodes / SAMPLED).max(1);
        let mut sampled = 0;
        for node in (0..nodes).step_by(step) {
            if sampled == SAMPLES {
                break;
            }
            if stamps[node] != stamp && accepted.has(node as Node) {
                stamps[node] = stamp;
                fresh.push(node as Node);
                sampled += 1;
            }
        }
        let ef = self.effort.ef;
        self.compare_all(compare, fresh, |nearness, node| {
            keep(pool, ef, key(nearness, node));
        });
        cost + sampled + 1
    }

    /// Follows the links of the nearest node that was not followed, until there is none among the `ef` nearest, or patience
    /// or effort ends. `meet` puts the nodes that a node leads to, and that are new, into `fresh`; it says what that cost, in nodes
    /// compared, and the first place in the pool that it changed, or `ef`.
    #[inline(always)]
    pub(super) fn nearest<C: Compare>(
        &self,
        compare: C,
        mut compared: usize,
        budget: usize,
        scratch: &mut Scratch,
        meet: impl Fn(Node, &mut Scratch) -> (usize, usize),
    ) -> Result<usize, Exhausted> {
        let Effort { ef, patience, most } = self.effort;
        scratch.pool.reserve(ef + 1);
        let (mut current, mut in_vain) = (0, 0);
        while current < scratch.pool.len() && in_vain <= patience && compared <= most {
            in_vain += 1;
            let from = scratch.pool[current];
            scratch.pool[current] |= 1;
            let (cost, changed) = meet(node_of(from), scratch);
            compared += cost;
            if changed < self.best.min(ef) {
                in_vain = 0;
            }
            if compared > budget {
                return Err(Exhausted);
            }
            let Scratch { pool, fresh, .. } = &mut *scratch;
            let mut lowest = changed.min(current + 1);
            // Likely the next to be followed.
            if let Some(next) = pool.get(current + 1) {
                self.links.prefetch(self.isa, node_of(*next) as usize);
            }
            self.compare_all(compare, fresh, |nearness, node| {
                let Some(place) = keep(pool, ef, key(nearness, node)) else { return };
                if place < self.best {
                    in_vain = 0;
                }
                if place < lowest {
                    lowest = place;
                    self.links.prefetch(self.isa, node as usize);
                }
            });
            current = lowest;
            while current < pool.len() && pool[current] & 1 == 1 {
                current += 1;
            }
        }
        Ok(ef)
    }
}

/// How many candidates a walk keeps where only a share of the vectors passes: they have fewer links among themselves.
pub(crate) fn more_candidates(ef: usize, share: f64) -> usize {
    (ef as f64 * (1.0 + MORE_CANDIDATES * (1.0 - share))) as usize
}

/// Rows asked for ahead of the one being compared.
#[inline(always)]
fn rows_ahead<C: Compare>(compare: C) -> usize {
    (LINES_AHEAD / compare.lines().max(1)).min(MOST_AHEAD)
}

/// Puts a node that was not met before into `fresh`.
#[inline(always)]
fn greet(node: Node, stamps: &mut [u8], stamp: u8, fresh: &mut Vec<Node>) {
    if stamps[node as usize] != stamp {
        stamps[node as usize] = stamp;
        fresh.push(node);
    }
}

/// Among half of the vectors, recall@10 at ef 160 was .987 with as many candidates and .993 with so many (1.4 times).
const MORE_CANDIDATES: f64 = 0.8;
/// Nodes around the beginning of a walk whose links tell how many pass there.
const AROUND: usize = 9;
/// Where the nearest that pass are far from the query, many are about as far, and more of them have to be kept to hold the right
/// ones: on 59,000 × 512 features at ef 160, recall@10 of the half that is far from the query was .984 with as many, and is .990
/// with up to twice as many and the ends below. Where none pass around the query it is twice as many, and the more pass, up to half as
/// many as everywhere, the fewer more: with twice as many for all of them the slowest hundredth took 1.04 times what it may where
/// half passes near the query, and takes .86 times (`benches/peers/filters.py`).
const MORE_WHERE_APART: f64 = 2.0;
/// Nodes followed in vain there, and nodes compared, for each candidate asked for. Most of these walks have found what they will
/// find long before they come to their end, and a few would go on for long. To follow 2 for each in vain took a fifth more time and
/// found as much (.9910, .9909).
const PATIENCE_WHERE_APART: f64 = 1.2;
const MOST_WHERE_APART: usize = 45;
/// Rows of a scan whose nodes are looked up at a time.
const TOGETHER: usize = 256;
/// Nodes looked at, evenly over the graph, for some that are accepted, and how many of these a filtered walk begins with.
const SAMPLED: usize = 1024;
const SAMPLES: usize = 8;

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::build::tests::clustered;
    use crate::distance::Distance;
    use crate::segment::tests::{PARAMS, input, write_and_open};

    /// What a walk meets from each of some nodes, one after the other.
    struct Meetings<'a> {
        segment: &'a Segment,
        accept: Option<&'a AcceptedRows>,
        from: &'a [Node],
    }

    impl Work for Meetings<'_> {
        type Output = Vec<(usize, Vec<Node>)>;

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> Self::Output {
            let Self { segment, accept, from } = self;
            let query = vec![0.5; segment.header.size];
            let mut prepared =
                Query { floats: Vec::new(), bytes: crate::kernel::ByteQuery { numbers: Vec::new(), sum: 0 }, scale: 0.0, unit: 0.0 };
            prepared.set(&query, &segment.frame, segment.header.distance, segment.header.codes);
            let (codes, factors) = (segment.section(Kind::Codes), segment.section(Kind::Factors));
            let compare = ByInt8(Coded { codes, blocks: segment.header.blocks(), factors, query: &prepared, reader: None });
            let effort = Effort { ef: 10, patience: 10, most: 1000 };
            let steps = Steps { isa, segment, links: Links::of(segment), effort, best: 10, accept };
            SCRATCH.with_borrow_mut(|scratch| {
                steps.forget(scratch);
                let accepted = steps.accepted();
                let meet = |from: &Node| {
                    let cost = match accepted {
                        None => steps.meet(*from, scratch),
                        Some(accepted) => steps.meet_accepted(compare, *from, accepted, scratch),
                    };
                    (cost, scratch.fresh.clone())
                };
                from.iter().map(meet).collect()
            })
        }
    }

    /// The same without a pointer.
    fn plainly(segment: &Segment, accept: Option<&AcceptedRows>, from: &[Node]) -> Vec<(usize, Vec<Node>)> {
        let node_rows = segment.section::<u32>(Kind::NodeRows);
        let rows = |node: Node| {
            let further = segment.section::<[u32; 2]>(Kind::FurtherRows).iter().filter(move |[other, _]| *other == node);
            std::iter::once(node_rows[node as usize] & !FURTHER).chain(further.map(|[_, row]| *row))
        };
        let passes = |node: Node| accept.is_none_or(|accept| rows(node).any(|row| accept.contains(row)));
        let (starts, links) = (segment.section::<u32>(Kind::Starts), segment.section::<u8>(Kind::Links));
        let list = |node: Node| -> Vec<Node> {
            let link = |i: u32| u16::from_le_bytes([links[2 * i as usize], links[2 * i as usize + 1]]).into();
            (starts[node as usize]..starts[node as usize + 1]).map(link).collect()
        };
        let mut met = vec![false; node_rows.len()];
        let mut meetings = Vec::new();
        for node in from {
            let direct = list(*node);
            let mut fresh = Vec::new();
            let mut found = 0;
            let mut bridges = Vec::new();
            let mut sift = |list: &[Node], met: &mut Vec<bool>, bridges: &mut Vec<Node>| {
                for link in list {
                    let is_new = !met[*link as usize];
                    if passes(*link) {
                        found += 1;
                        met[*link as usize] = true;
                        if is_new {
                            fresh.push(*link);
                        }
                    } else if is_new {
                        bridges.push(*link);
                    }
                }
                found
            };
            let mut found = sift(&direct, &mut met, &mut bridges);
            let mut crossed = 0;
            for bridge in if accept.is_some() { bridges } else { Vec::new() } {
                if found >= 3 * direct.len() / 4 {
                    break;
                }
                crossed += 1;
                met[bridge as usize] = true;
                found = sift(&list(bridge), &mut met, &mut Vec::new());
            }
            meetings.push((fresh.len() + crossed, fresh));
        }
        meetings
    }

    #[test]
    fn a_walk_meets_the_nodes_that_plain_reading_meets() {
        let folder = tempfile::tempdir().unwrap();
        let mut vectors = clustered(31, 700, 20);
        vectors.extend_from_within(..90);
        let segment = write_and_open(folder.path(), &input(Distance::Cosine, &vectors), &PARAMS);
        assert_eq!(segment.header.link_width, 2);
        let mut random = ChaCha8Rng::seed_from_u64(32);
        for share in [None, Some(0.0), Some(0.05), Some(0.3), Some(0.7), Some(1.0)] {
            let accept: Option<AcceptedRows> = share.map(|share| (0..vectors.len() as u32).filter(|_| random.random_bool(share)).collect());
            let from: Vec<Node> = (0..60).map(|_| random.random_range(0..segment.header.nodes() as Node)).collect();
            let expected = plainly(&segment, accept.as_ref(), &from);
            // Some go by rows, later ones by nodes.
            for kernel in Kernel::all() {
                let found = kernel.run(Meetings { segment: &segment, accept: accept.as_ref(), from: &from });
                assert_eq!(found, expected, "{} at {share:?}", kernel.name());
            }
        }
    }
}
