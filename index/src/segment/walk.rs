//! SEARCH-LAYER of the HNSW paper (algorithm 2), best first, from the top layer down, by codes; then the best again by
//! their full rows.
//!
//! Without a filter, a sorted pool of the `ef` nearest is both what is open and what is kept. With one, rows that do not
//! pass are walked through and not kept, so the two are apart, and the walk ends when the nearest open node is farther than
//! the farthest kept. It can cost as much as a scan; the budget ends it before.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::format::Kind;
use super::scan::nearness;
use super::{Bits, FURTHER, Row, Scored, Segment, rank};
use crate::build::{MOST_LINKS, Node};
use crate::codes::{Codes, Factors, Query};
use crate::distance::Distance;
use crate::kernel::{BLOCK, Block, Isa, Kernel, Work};

/// Rows asked for ahead of the one being compared, and cache lines of each.
const AHEAD: usize = 8;
const LINES: usize = 8;

/// What a thread keeps from one walk to the next.
struct Scratch {
    query: Query,
    /// A stamp a node: those of this walk have been met. Nothing is cleared before the stamps are used up.
    stamps: Vec<u8>,
    stamp: u8,
    pool: Vec<u64>,
    open: BinaryHeap<Reverse<u64>>,
    fresh: Vec<Node>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch {
            query: Query { floats: Vec::new(), bytes: crate::kernel::ByteQuery { numbers: Vec::new(), sum: 0 }, scale: 0.0 },
            stamps: Vec::new(),
            stamp: 0,
            pool: Vec::new(),
            open: BinaryHeap::new(),
            fresh: Vec::new(),
        })
    };
}

/// Sorts as distance, then node; the lowest bit says that the node's links were followed.
#[inline(always)]
fn key(nearness: f32, node: Node) -> u64 {
    let bits = (-nearness).to_bits();
    let ordered = bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000);
    u64::from(ordered) << 32 | u64::from(node) << 1
}

#[inline(always)]
fn node_of(key: u64) -> Node {
    key as u32 >> 1
}

/// How near a node is to the query, by whatever the segment keeps for that.
trait Compare: Copy {
    fn nearness<I: Isa>(self, isa: I, node: Node) -> f32;
    fn prefetch<I: Isa>(self, isa: I, node: Node);
}

/// Codes of all nodes, `blocks` each.
#[derive(Clone, Copy)]
struct Coded<'a> {
    codes: &'a [Block],
    blocks: usize,
    factors: &'a [Factors],
    query: &'a Query,
}

impl Coded<'_> {
    #[inline(always)]
    fn row(&self, node: Node) -> (&[Block], Factors) {
        let node = node as usize;
        debug_assert!(node < self.factors.len());
        // SAFETY: opening checked that every link is below the number of nodes, and that there is a code and there are
        // factors for each node.
        unsafe { (self.codes.get_unchecked(node * self.blocks..(node + 1) * self.blocks), *self.factors.get_unchecked(node)) }
    }

    #[inline(always)]
    fn fetch<I: Isa>(&self, isa: I, node: Node) {
        isa.prefetch(self.row(node).0, self.blocks.min(LINES));
    }
}

#[derive(Clone, Copy)]
struct ByInt8<'a>(Coded<'a>);

impl Compare for ByInt8<'_> {
    #[inline(always)]
    fn nearness<I: Isa>(self, isa: I, node: Node) -> f32 {
        let (code, factors) = self.0.row(node);
        isa.dot_i8(code, &self.0.query.bytes) as f32 * (factors.scale * self.0.query.scale) + factors.bias
    }

    #[inline(always)]
    fn prefetch<I: Isa>(self, isa: I, node: Node) {
        self.0.fetch(isa, node);
    }
}

#[derive(Clone, Copy)]
struct ByInt4<'a>(Coded<'a>);

impl Compare for ByInt4<'_> {
    #[inline(always)]
    fn nearness<I: Isa>(self, isa: I, node: Node) -> f32 {
        let (code, factors) = self.0.row(node);
        isa.dot_i4(code, &self.0.query.bytes) as f32 * (factors.scale * self.0.query.scale) + factors.bias
    }

    #[inline(always)]
    fn prefetch<I: Isa>(self, isa: I, node: Node) {
        self.0.fetch(isa, node);
    }
}

#[derive(Clone, Copy)]
struct ByF16<'a>(Coded<'a>);

impl Compare for ByF16<'_> {
    #[inline(always)]
    fn nearness<I: Isa>(self, isa: I, node: Node) -> f32 {
        let (code, factors) = self.0.row(node);
        let floats = &self.0.query.floats;
        debug_assert!(2 * floats.len() <= code.len() * BLOCK);
        // SAFETY: a block may be read as half floats, and the blocks of a row hold one for each dimension of the query.
        let halves = unsafe { std::slice::from_raw_parts(code.as_ptr().cast::<u16>(), floats.len()) };
        isa.dot_f16(floats, halves) + factors.bias
    }

    #[inline(always)]
    fn prefetch<I: Isa>(self, isa: I, node: Node) {
        self.0.fetch(isa, node);
    }
}

/// By the full rows.
#[derive(Clone, Copy)]
struct ByF32<'a> {
    vectors: &'a [f32],
    node_rows: &'a [u32],
    distance: Distance,
    query: &'a [f32],
}

impl ByF32<'_> {
    #[inline(always)]
    fn row(&self, node: Node) -> &[f32] {
        debug_assert!((node as usize) < self.node_rows.len());
        let size = self.query.len();
        // SAFETY: opening checked that every link is below the number of nodes, and the row of every node below that of rows.
        unsafe {
            let row = (self.node_rows.get_unchecked(node as usize) & !FURTHER) as usize;
            self.vectors.get_unchecked(row * size..(row + 1) * size)
        }
    }
}

impl Compare for ByF32<'_> {
    #[inline(always)]
    fn nearness<I: Isa>(self, isa: I, node: Node) -> f32 {
        match self.distance {
            Distance::Cosine | Distance::Dot => isa.dot(self.row(node), self.query),
            Distance::Euclid | Distance::Manhattan => -isa.squared_euclid(self.row(node), self.query),
        }
    }

    #[inline(always)]
    fn prefetch<I: Isa>(self, isa: I, node: Node) {
        isa.prefetch(self.row(node), (4 * self.query.len()).div_ceil(BLOCK).min(LINES));
    }
}

/// The links of all layers, as they are stored.
#[derive(Clone, Copy)]
struct Links<'a> {
    starts: &'a [u32],
    bytes: &'a [u8],
    width: usize,
    /// Keeps the bytes of one link out of four.
    mask: u32,
}

impl<'a> Links<'a> {
    fn of(segment: &'a Segment) -> Self {
        let width = segment.header.link_width;
        Self { starts: segment.section(Kind::Starts), bytes: segment.section(Kind::Links), width, mask: u32::MAX >> (32 - 8 * width) }
    }

    /// Calls `see` with each link in list `list`: a node's place in its layer, after all places of the layers before.
    #[inline(always)]
    fn each(&self, list: usize, mut see: impl FnMut(Node)) {
        debug_assert!(list + 1 < self.starts.len());
        // SAFETY: opening checked that there is a start for each node on each layer and one more, and that none is past the
        // links; behind the last link are four more bytes.
        unsafe {
            let (start, end) = (*self.starts.get_unchecked(list) as usize, *self.starts.get_unchecked(list + 1) as usize);
            for i in start..end {
                see(self.bytes.as_ptr().add(i * self.width).cast::<u32>().read_unaligned() & self.mask);
            }
        }
    }

    #[inline(always)]
    fn prefetch<I: Isa>(&self, isa: I, list: usize) {
        let start = self.starts[list] as usize * self.width;
        isa.prefetch(&self.bytes[start..], 2);
    }
}

/// Nodes found, the nearest first; or more codes were compared than the budget allows.
struct Exhausted;

impl Segment {
    /// The nearest rows among those in `accept` (all, if `None`), about as an exact search would find them; the nearest first,
    /// ties by id, at most `want`. `ef` is how many candidates the walk keeps. `None`: more than `budget` nodes were
    /// compared, or there is no graph (Manhattan); then a scan is to be preferred.
    pub(crate) fn walk(&self, query: &[f32], ef: usize, want: usize, accept: Option<&Bits>, budget: usize) -> Option<Vec<Scored>> {
        assert_eq!(query.len(), self.header.size, "dimensions are checked before a search");
        if !self.has_graph() {
            return None;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            Kernel::get().run(Walk { segment: self, query, ef: ef.max(want).max(1), want, accept, budget, scratch })
        })
    }

    #[inline(always)]
    fn accepts(&self, node_rows: &[u32], accept: &Bits, node: Node) -> bool {
        let row = node_rows[node as usize];
        accept.contains(row & !FURTHER) || (row & FURTHER != 0 && self.further_rows(node).iter().any(|[_, row]| accept.contains(*row)))
    }
}

struct Walk<'a> {
    segment: &'a Segment,
    query: &'a [f32],
    ef: usize,
    want: usize,
    accept: Option<&'a Bits>,
    budget: usize,
    scratch: &'a mut Scratch,
}

impl Work for Walk<'_> {
    type Output = Option<Vec<Scored>>;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Option<Vec<Scored>> {
        let Self { segment, query, .. } = self;
        let header = &segment.header;
        let scratch = self.scratch;
        let mut prepared = std::mem::take(&mut scratch.query);
        prepared.set(query, &segment.frame, header.distance, header.codes);
        scratch.pool.clear();
        let mut walked = Ok(());
        if header.nodes() > 0 {
            let (codes, factors) = (segment.section(Kind::Codes), segment.section(Kind::Factors));
            let coded = Coded { codes, blocks: header.codes.blocks(header.size), factors, query: &prepared };
            let steps = Steps { isa, segment, links: Links::of(segment), ef: self.ef, accept: self.accept, budget: self.budget };
            walked = match header.codes {
                Codes::Int8 => steps.walk(ByInt8(coded), scratch),
                Codes::Int4 => steps.walk(ByInt4(coded), scratch),
                Codes::F16 => steps.walk(ByF16(coded), scratch),
                Codes::F32 => {
                    let (vectors, node_rows) = (segment.section(Kind::Vectors), segment.section(Kind::NodeRows));
                    steps.walk(ByF32 { vectors, node_rows, distance: header.distance, query }, scratch)
                }
            };
        }
        scratch.query = prepared;
        walked.ok()?;
        Some(segment.rescore(isa, query, &scratch.pool, self.want, self.accept))
    }
}

impl Segment {
    /// The rows of the nearest nodes in `pool`, and those beside the graph, by their full vectors.
    #[inline(always)]
    fn rescore<I: Isa>(&self, isa: I, query: &[f32], pool: &[u64], want: usize, accept: Option<&Bits>) -> Vec<Scored> {
        let accepted = |row: Row| accept.is_none_or(|accept| accept.contains(row));
        let node_rows = self.section::<u32>(Kind::NodeRows);
        let distance = self.header.distance;
        let pool = &pool[..pool.len().min(rescored(self.header.codes, want, pool.len()))];
        let mut found = Vec::with_capacity(pool.len());
        for key in pool.iter().take(AHEAD) {
            isa.prefetch(self.vector(node_rows[node_of(*key) as usize] & !FURTHER), LINES.min(self.header.size / 16));
        }
        for (i, key) in pool.iter().enumerate() {
            if let Some(ahead) = pool.get(i + AHEAD) {
                isa.prefetch(self.vector(node_rows[node_of(*ahead) as usize] & !FURTHER), LINES.min(self.header.size / 16));
            }
            let node = node_of(*key);
            let first = node_rows[node as usize];
            let nearness = nearness(isa, distance, query, self.vector(first & !FURTHER));
            let further = if first & FURTHER != 0 { self.further_rows(node) } else { &[] };
            let rows = std::iter::once(first & !FURTHER).chain(further.iter().map(|[_, row]| *row));
            found.extend(rows.filter(|row| accepted(*row)).map(|row| Scored { nearness, row }));
        }
        let side = self.section::<u32>(Kind::Side).iter().copied().filter(|row| accepted(*row));
        found.extend(side.map(|row| Scored { nearness: nearness(isa, distance, query, self.vector(row)), row }));
        rank(self, found, want)
    }
}

/// How many of the nodes found are compared by their full rows to answer `want`. Who lets a walk keep more wants more
/// recall, which 4-bit codes cannot give without more rows.
fn rescored(codes: Codes, want: usize, found: usize) -> usize {
    match codes {
        Codes::F32 => want,
        Codes::F16 => want + 4,
        Codes::Int8 => 2 * want,
        Codes::Int4 => (4 * want + 16).max(found / 2),
    }
}

/// The walk itself; leaves the nearest nodes in the pool.
struct Steps<'a, I> {
    isa: I,
    segment: &'a Segment,
    links: Links<'a>,
    ef: usize,
    accept: Option<&'a Bits>,
    budget: usize,
}

impl<I: Isa> Steps<'_, I> {
    #[inline(always)]
    fn walk<C: Compare>(&self, compare: C, scratch: &mut Scratch) -> Result<(), Exhausted> {
        let nodes = self.segment.header.nodes();
        if scratch.stamps.len() < nodes {
            scratch.stamps.resize(nodes, 0);
        }
        if scratch.stamp == u8::MAX {
            scratch.stamps.fill(0);
            scratch.stamp = 0;
        }
        scratch.stamp += 1;
        let entry = key(compare.nearness(self.isa, 0), 0);
        let mut compared = 1;
        let start = self.descend(compare, entry, &mut compared);
        match self.accept {
            None => self.nearest(compare, start, entry, compared, scratch),
            Some(accept) => self.nearest_accepted(compare, start, entry, compared, accept, scratch),
        }
    }

    /// Through the upper layers: to the nearest neighbour until none is nearer.
    #[inline(always)]
    fn descend<C: Compare>(&self, compare: C, mut best: u64, compared: &mut usize) -> u64 {
        for layer in self.segment.layer_starts.iter().skip(1).rev() {
            loop {
                let from = best;
                self.links.each(layer + node_of(from) as usize, |node| {
                    *compared += 1;
                    best = best.min(key(compare.nearness(self.isa, node), node));
                });
                if best == from {
                    break;
                }
            }
        }
        best
    }

    /// Puts the links of `from` that this walk has not met into `fresh`.
    #[inline(always)]
    fn meet(&self, from: Node, stamps: &mut [u8], stamp: u8, fresh: &mut Vec<Node>) {
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
    }

    /// Calls `see` with the key of each node, and asks for the codes of the next ones meanwhile.
    #[inline(always)]
    fn compare_all<C: Compare>(&self, compare: C, nodes: &[Node], mut see: impl FnMut(u64)) {
        for node in nodes.iter().take(AHEAD) {
            compare.prefetch(self.isa, *node);
        }
        for (i, node) in nodes.iter().enumerate() {
            if let Some(ahead) = nodes.get(i + AHEAD) {
                compare.prefetch(self.isa, *ahead);
            }
            see(key(compare.nearness(self.isa, *node), *node));
        }
    }

    #[inline(always)]
    fn nearest<C: Compare>(&self, compare: C, start: u64, entry: u64, mut compared: usize, scratch: &mut Scratch) -> Result<(), Exhausted> {
        let Scratch { stamps, stamp, pool, fresh, .. } = scratch;
        let ef = self.ef;
        pool.reserve(ef + 1);
        // From the entry point too: the audit counts as reachable what can be reached from there.
        for first in [start, entry] {
            if stamps[node_of(first) as usize] != *stamp {
                stamps[node_of(first) as usize] = *stamp;
                pool.push(first);
            }
        }
        let mut current = 0;
        while current < pool.len() {
            let from = pool[current];
            pool[current] |= 1;
            self.meet(node_of(from), stamps, *stamp, fresh);
            compared += fresh.len();
            if compared > self.budget {
                return Err(Exhausted);
            }
            // Likely the next to be followed.
            if let Some(next) = pool.get(current + 1) {
                self.links.prefetch(self.isa, node_of(*next) as usize);
            }
            let mut lowest = current + 1;
            self.compare_all(compare, fresh, |key| {
                if pool.len() >= ef {
                    if key > pool[pool.len() - 1] {
                        return;
                    }
                    pool.pop();
                }
                let place = pool.partition_point(|other| *other < key);
                pool.insert(place, key);
                lowest = lowest.min(place);
            });
            current = lowest;
            while current < pool.len() && pool[current] & 1 == 1 {
                current += 1;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn nearest_accepted<C: Compare>(
        &self,
        compare: C,
        start: u64,
        entry: u64,
        mut compared: usize,
        accept: &Bits,
        scratch: &mut Scratch,
    ) -> Result<(), Exhausted> {
        let Scratch { stamps, stamp, pool, open, fresh, .. } = scratch;
        let node_rows = self.segment.section::<u32>(Kind::NodeRows);
        let ef = self.ef;
        open.clear();
        let keep = |pool: &mut Vec<u64>, key: u64| {
            if self.segment.accepts(node_rows, accept, node_of(key)) {
                if pool.len() >= ef {
                    pool.pop();
                }
                let place = pool.partition_point(|other| *other < key);
                pool.insert(place, key);
            }
        };
        for first in [start, entry] {
            if stamps[node_of(first) as usize] != *stamp {
                stamps[node_of(first) as usize] = *stamp;
                open.push(Reverse(first));
                keep(pool, first);
            }
        }
        while let Some(Reverse(from)) = open.pop() {
            if pool.len() >= ef && from > pool[pool.len() - 1] {
                break;
            }
            self.meet(node_of(from), stamps, *stamp, fresh);
            compared += fresh.len();
            if compared > self.budget {
                return Err(Exhausted);
            }
            self.compare_all(compare, fresh, |key| {
                if pool.len() < ef || key < pool[pool.len() - 1] {
                    open.push(Reverse(key));
                    keep(pool, key);
                }
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the plain way back from bytes; in memory that ends where the file's section does.
    #[test]
    fn links_of_every_width_are_read_as_they_were_stored() {
        for width in 2..=4 {
            let mask = u32::MAX >> (32 - 8 * width);
            let lists: [Vec<Node>; 6] = [vec![], vec![0], vec![mask], (0..64).map(|n| mask - 997 * n).collect(), vec![], vec![1, mask, 0]];
            let (mut starts, mut bytes) = (vec![0], Vec::new());
            for list in &lists {
                list.iter().for_each(|link| bytes.extend(&link.to_le_bytes()[..width]));
                starts.push((bytes.len() / width) as u32);
            }
            bytes.extend([0; 4]);
            let bytes = bytes.into_boxed_slice();
            let links = Links { starts: &starts, bytes: &bytes, width, mask };
            for (list, expected) in lists.iter().enumerate() {
                let mut found = Vec::new();
                links.each(list, |link| found.push(link));
                assert_eq!(found, *expected, "list {list} in {width} bytes a link");
            }
        }
    }
}
