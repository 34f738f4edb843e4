//! HNSW (<https://arxiv.org/abs/1603.09320>) built for a set that is known beforehand.
//!
//! All levels are drawn first, so that every list has its place before the first insertion: flat arrays, nothing
//! allocated in between, a lock of one byte a node. Vectors are compared as int8 codes, which costs no recall that could be
//! measured and is several times as fast. A list keeps its distances, and grows past its limit by [`SLACK`] before it is
//! pruned, so that the price of pruning is paid once for several links. At the end each list of layer 0 is chosen anew among
//! its links in both directions.
//!
//! With one thread the same seed gives the same graph; with several the order of insertions decides.

use std::cmp::Reverse;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::{BuildParams, Graph, GraphBuilder, Layer, Node, Vectors};
use crate::codes::{Codes, Encoder, Frame};
use crate::distance::Distance;
use crate::kernel::{BLOCK, Block, ByteQuery, Isa, Kernel, Work};
use crate::large_pages::LargePages;

/// Layers at most; with m = 2, the least, the sixteenth holds one node of 2^15.
const LAYERS: usize = 16;
/// How far a list may grow past its limit, as a part of it.
const SLACK: usize = 2;
/// A link is dropped if its end is nearer to that of a nearer link than to the node; where a list has room left, only if it is
/// nearer by this factor. From the start with this factor, lists in dense clusters fill up with short links alone, and
/// whole clusters are lost to a walk.
const ALPHA: f32 = 1.1;
/// Nodes inserted by one thread before the others start: they would find nothing to link to.
const ALONE: usize = 256;
/// Nodes encoded between two looks at the cancel flag.
const BATCH: usize = 1024;

pub(crate) struct Own;

impl GraphBuilder for Own {
    fn build(&self, vectors: &dyn Vectors, params: &BuildParams, cancel: &AtomicBool) -> Result<Option<Graph>, String> {
        let levels = Levels::draw(vectors.len(), params);
        let Some(rows) = Rows::encode(vectors, &levels.vectors, params.threads, cancel)? else { return Ok(None) };
        let layers: Vec<Lists> =
            levels.counts.iter().enumerate().map(|(layer, nodes)| Lists::new(*nodes, limit(layer, params.m))).collect();
        let locks: Vec<AtomicBool> = (0..vectors.len()).map(|_| AtomicBool::new(false)).collect();
        let shared = Shared { rows: &rows, layers: &layers, locks: &locks, counts: &levels.counts, params, cancel };
        let next = AtomicUsize::new(1);
        on_threads(1, || Kernel::get().run(Insert { shared: &shared, next: &next, end: ALONE }))?;
        on_threads(params.threads, || Kernel::get().run(Insert { shared: &shared, next: &next, end: usize::MAX }))?;
        if cancel.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut frozen = Vec::with_capacity(layers.len());
        for (layer, lists) in layers.iter().enumerate() {
            frozen.push(if layer == 0 {
                refine(&shared, lists)?
            } else {
                Layer::from_lists((0..lists.nodes()).map(|node| lists.sorted(node as Node)))
            });
        }
        Ok(Some(Graph { vectors: levels.vectors, layers: frozen }))
    }
}

/// Links kept on a layer.
fn limit(layer: usize, m: usize) -> usize {
    if layer == 0 { 2 * m } else { m }
}

/// Runs `work` on `threads` threads.
fn on_threads(threads: usize, work: impl Fn() + Sync) -> Result<(), String> {
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for _ in 0..threads.max(1) {
            match std::thread::Builder::new().name("moco-graph".to_owned()).spawn_scoped(scope, &work) {
                Ok(thread) => running.push(thread),
                // With fewer it takes longer.
                Err(_) if !running.is_empty() => break,
                Err(error) => return Err(format!("cannot start threads to build a graph: {error}")),
            }
        }
        running.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread that built a graph panicked".to_owned()))
    })
}

/// SplitMix64, <https://prng.di.unimi.it/splitmix64.c>.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

struct Levels {
    /// By node, its vector. Shuffled within a level: data that come sorted would grow a worse graph.
    vectors: Vec<u32>,
    /// By layer, its nodes.
    counts: Vec<usize>,
}

impl Levels {
    fn draw(count: usize, params: &BuildParams) -> Self {
        let mut state = params.seed;
        let scale = 1.0 / (params.m.max(2) as f64).ln();
        let mut drawn: Vec<(Reverse<usize>, u64, u32)> = (0..count as u32)
            .map(|vector| {
                let uniform = ((next_random(&mut state) >> 11) + 1) as f64 / (1u64 << 53) as f64;
                (Reverse(((-uniform.ln() * scale) as usize).min(LAYERS - 1)), next_random(&mut state), vector)
            })
            .collect();
        drawn.sort_unstable();
        let counts = (0..=drawn[0].0.0).map(|layer| drawn.partition_point(|(level, ..)| level.0 >= layer)).collect();
        Self { vectors: drawn.into_iter().map(|(.., vector)| vector).collect(), counts }
    }
}

/// The int8 codes of all nodes.
struct Rows {
    blocks: usize,
    /// Blocks, on large pages.
    codes: LargePages,
    scales: Vec<f32>,
    /// |y|² ÷ 2.
    half_squares: Vec<f32>,
    /// Of each code's numbers.
    sums: Vec<i32>,
}

/// A part of [`Rows`] that one thread fills.
struct RowsPart<'a> {
    first: usize,
    codes: &'a mut [Block],
    scales: &'a mut [f32],
    half_squares: &'a mut [f32],
    sums: &'a mut [i32],
}

impl Rows {
    fn encode(vectors: &dyn Vectors, order: &[u32], threads: usize, cancel: &AtomicBool) -> Result<Option<Self>, String> {
        let (count, size) = (order.len(), vectors.size());
        let blocks = Codes::Int8.blocks(size);
        let frame = Frame::around(size, count, |i, out| vectors.copy(i, out));
        let mut rows = Self {
            blocks,
            codes: LargePages::new(count * blocks * BLOCK).map_err(|error| format!("cannot get memory to build a graph: {error}"))?,
            scales: vec![0.0; count],
            half_squares: vec![0.0; count],
            sums: vec![0; count],
        };
        let mut parts = Vec::new();
        let columns = rows.scales.chunks_mut(BATCH).zip(rows.half_squares.chunks_mut(BATCH)).zip(rows.sums.chunks_mut(BATCH));
        for (i, (codes, ((scales, half_squares), sums))) in
            Block::of_bytes_mut(&mut rows.codes).chunks_mut(BATCH * blocks).zip(columns).enumerate()
        {
            parts.push(RowsPart { first: i * BATCH, codes, scales, half_squares, sums });
        }
        let parts = Mutex::new(parts);
        on_threads(threads, || {
            let mut encoder = Encoder::new(&frame, Distance::Euclid, Codes::Int8);
            let mut vector = vec![0.0; size];
            loop {
                let part = parts.lock().expect("no thread panics with the lock").pop();
                let Some(part) = part.filter(|_| !cancel.load(Ordering::Relaxed)) else { break };
                for (i, code) in part.codes.chunks_mut(blocks).enumerate() {
                    vectors.copy(order[part.first + i] as usize, &mut vector);
                    let factors = encoder.encode(&vector, code);
                    part.scales[i] = factors.scale;
                    part.half_squares[i] = -factors.bias;
                    part.sums[i] = code.iter().flat_map(|block| block.0).map(|byte| i32::from(byte) - 128).sum();
                }
            }
        })?;
        Ok((!cancel.load(Ordering::Relaxed)).then_some(rows))
    }

    #[inline(always)]
    fn code(&self, node: Node) -> &[Block] {
        let first = node as usize * self.blocks;
        &Block::of_bytes(&self.codes)[first..first + self.blocks]
    }

    fn load(&self, node: Node, query: &mut ByteQuery) {
        query.numbers.clear();
        query.numbers.extend(self.code(node).iter().map(|block| Block(block.0.map(|byte| byte ^ 0x80))));
        query.sum = self.sums[node as usize];
    }

    /// Half the squared distance. The error of the codes can make it a little less than zero.
    #[inline(always)]
    fn distance<I: Isa>(&self, isa: I, query: &ByteQuery, a: Node, b: Node) -> f32 {
        self.of_product(isa.dot_i8(self.code(b), query), a, b)
    }

    #[inline(always)]
    fn pair<I: Isa>(&self, isa: I, a: Node, b: Node) -> f32 {
        self.of_product(isa.dot_rows(self.code(a), self.code(b), self.sums[b as usize]), a, b)
    }

    #[inline(always)]
    fn of_product(&self, product: i32, a: Node, b: Node) -> f32 {
        let (a, b) = (a as usize, b as usize);
        self.half_squares[a] + self.half_squares[b] - product as f32 * (self.scales[a] * self.scales[b])
    }
}

/// The lists of a layer while it grows. A list is changed only under its node's lock, and read without: a reader may meet
/// a list half rewritten, which for building is a list as good as another.
struct Lists {
    limit: usize,
    width: usize,
    degrees: Vec<AtomicU32>,
    links: Vec<AtomicU32>,
    /// As bits of f32.
    distances: Vec<AtomicU32>,
}

fn zeros(count: usize) -> Vec<AtomicU32> {
    let mut zeros = Vec::with_capacity(count);
    zeros.resize_with(count, || AtomicU32::new(0));
    zeros
}

impl Lists {
    fn new(nodes: usize, limit: usize) -> Self {
        let width = limit + limit / SLACK;
        Self { limit, width, degrees: zeros(nodes), links: zeros(nodes * width), distances: zeros(nodes * width) }
    }

    fn nodes(&self) -> usize {
        self.degrees.len()
    }

    #[inline(always)]
    fn links(&self, node: Node) -> &[AtomicU32] {
        let degree = self.degrees[node as usize].load(Ordering::Acquire) as usize;
        &self.links[node as usize * self.width..][..degree]
    }

    /// Under the lock of `node`, or after the last insertion.
    fn read(&self, node: Node, list: &mut Vec<Near>) {
        let first = node as usize * self.width;
        let degree = self.degrees[node as usize].load(Ordering::Acquire) as usize;
        let places = first..first + degree;
        list.extend(places.map(|i| Near {
            distance: f32::from_bits(self.distances[i].load(Ordering::Relaxed)),
            node: self.links[i].load(Ordering::Relaxed),
        }));
    }

    /// Under the lock of `node`.
    fn write(&self, node: Node, list: &[Near]) {
        let first = node as usize * self.width;
        for (i, near) in list.iter().enumerate() {
            self.links[first + i].store(near.node, Ordering::Relaxed);
            self.distances[first + i].store(near.distance.to_bits(), Ordering::Relaxed);
        }
        self.degrees[node as usize].store(list.len() as u32, Ordering::Release);
    }

    /// The links of `node`, the nearest first, at most as many as the limit.
    fn sorted(&self, node: Node) -> Vec<Node> {
        let mut list = Vec::new();
        self.read(node, &mut list);
        list.sort_unstable_by(Near::order);
        list.truncate(self.limit);
        list.into_iter().map(|near| near.node).collect()
    }
}

#[derive(Clone, Copy, Debug)]
struct Near {
    distance: f32,
    node: Node,
}

impl Near {
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.distance.total_cmp(&other.distance).then(self.node.cmp(&other.node))
    }
}

struct Shared<'a> {
    rows: &'a Rows,
    layers: &'a [Lists],
    locks: &'a [AtomicBool],
    counts: &'a [usize],
    params: &'a BuildParams,
    cancel: &'a AtomicBool,
}

/// Held while a node's list is changed.
struct Locked<'a>(&'a AtomicBool);

impl<'a> Locked<'a> {
    fn new(lock: &'a AtomicBool) -> Self {
        while lock.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        Self(lock)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Which nodes this search has met: a stamp a node, so that a new search clears nothing.
struct Visited {
    stamps: Vec<u16>,
    stamp: u16,
}

impl Visited {
    fn start(&mut self) {
        if self.stamp == u16::MAX {
            self.stamps.fill(0);
            self.stamp = 0;
        }
        self.stamp += 1;
    }

    #[inline(always)]
    fn is_new(&mut self, node: Node) -> bool {
        std::mem::replace(&mut self.stamps[node as usize], self.stamp) != self.stamp
    }
}

/// What one inserting thread needs.
struct Scratch {
    query: ByteQuery,
    visited: Visited,
    /// The nearest so far, sorted: by distance, then node; the lowest bit says that its links were followed.
    pool: Vec<u64>,
    found: Vec<Near>,
    fresh: Vec<Node>,
    list: Vec<Near>,
    kept: Vec<Near>,
}

/// An order-preserving map of f32 to u32, and a node, and room for a flag.
#[inline(always)]
fn key(distance: f32, node: Node) -> u64 {
    let bits = distance.to_bits();
    let ordered = bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000);
    u64::from(ordered) << 32 | u64::from(node) << 1
}

fn near(key: u64) -> Near {
    let ordered = (key >> 32) as u32;
    let bits = ordered ^ (!((ordered as i32 >> 31) as u32) | 0x8000_0000);
    Near { distance: f32::from_bits(bits), node: key as u32 >> 1 }
}

/// Inserts nodes until `end`.
struct Insert<'a> {
    shared: &'a Shared<'a>,
    next: &'a AtomicUsize,
    end: usize,
}

impl Work for Insert<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let nodes = self.shared.counts[0];
        let mut scratch = Scratch {
            query: ByteQuery::default(),
            visited: Visited { stamps: vec![0; nodes], stamp: 0 },
            pool: Vec::new(),
            found: Vec::new(),
            fresh: Vec::new(),
            list: Vec::new(),
            kept: Vec::new(),
        };
        while !self.shared.cancel.load(Ordering::Relaxed) {
            // Not a fetch_add: whoever stops at `end` must not take a node with it.
            let end = self.end.min(nodes);
            let Ok(node) = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| (next < end).then_some(next + 1)) else {
                break;
            };
            self.shared.insert(isa, node as Node, &mut scratch);
        }
    }
}

impl Shared<'_> {
    #[inline(always)]
    fn insert<I: Isa>(&self, isa: I, node: Node, scratch: &mut Scratch) {
        self.rows.load(node, &mut scratch.query);
        let level = self.counts.partition_point(|count| *count > node as usize) - 1;
        let mut entry = Near { distance: self.rows.distance(isa, &scratch.query, node, 0), node: 0 };
        for layer in (level + 1..self.layers.len()).rev() {
            entry = self.descend(isa, node, entry, layer, scratch);
        }
        // Found on all layers before the node can be met on one: who comes by it must find its links below as well.
        scratch.found.clear();
        let mut ends = [0; LAYERS];
        for layer in (0..=level).rev() {
            self.search(isa, node, entry, layer, scratch);
            entry = near(scratch.pool[0]);
            scratch.list.clear();
            scratch.list.extend(scratch.pool.iter().map(|key| near(*key)));
            self.select(isa, &scratch.list, limit(layer, self.params.m), &mut scratch.kept);
            scratch.found.extend_from_slice(&scratch.kept);
            ends[layer] = scratch.found.len();
        }
        for layer in 0..=level {
            let first = if layer == level { 0 } else { ends[layer + 1] };
            let links = first..ends[layer];
            {
                let _locked = Locked::new(&self.locks[node as usize]);
                self.layers[layer].write(node, &scratch.found[links.clone()]);
            }
            for i in links {
                let link = scratch.found[i];
                self.link_back(isa, layer, link.node, Near { node, ..link }, scratch);
            }
        }
    }

    /// Moves to the nearest neighbour until none is nearer.
    #[inline(always)]
    fn descend<I: Isa>(&self, isa: I, node: Node, mut best: Near, layer: usize, scratch: &Scratch) -> Near {
        loop {
            let start = best.node;
            for link in self.layers[layer].links(start) {
                let link = link.load(Ordering::Relaxed);
                let distance = self.rows.distance(isa, &scratch.query, node, link);
                if distance < best.distance {
                    best = Near { distance, node: link };
                }
            }
            if best.node == start {
                return best;
            }
        }
    }

    /// SEARCH-LAYER (algorithm 2): fills the pool with the `ef_construction` nearest.
    #[inline(always)]
    fn search<I: Isa>(&self, isa: I, node: Node, entry: Near, layer: usize, scratch: &mut Scratch) {
        let ef = self.params.ef_construction;
        let Scratch { query, visited, pool, fresh, .. } = scratch;
        visited.start();
        visited.is_new(node);
        visited.is_new(entry.node);
        pool.clear();
        pool.push(key(entry.distance, entry.node));
        let mut current = 0;
        while current < pool.len() {
            let from = near(pool[current]).node;
            pool[current] |= 1;
            fresh.clear();
            for link in self.layers[layer].links(from) {
                let link = link.load(Ordering::Relaxed);
                if visited.is_new(link) {
                    fresh.push(link);
                }
            }
            for node in fresh.iter().take(AHEAD) {
                isa.prefetch(self.rows.code(*node), self.rows.blocks.min(LINES));
            }
            let mut lowest = current + 1;
            for i in 0..fresh.len() {
                if let Some(ahead) = fresh.get(i + AHEAD) {
                    isa.prefetch(self.rows.code(*ahead), self.rows.blocks.min(LINES));
                }
                let key = key(self.rows.distance(isa, query, node, fresh[i]), fresh[i]);
                if pool.len() >= ef {
                    if key > pool[ef - 1] {
                        continue;
                    }
                    pool.pop();
                }
                let place = pool.partition_point(|other| *other < key);
                pool.insert(place, key);
                lowest = lowest.min(place);
            }
            current = lowest;
            while current < pool.len() && pool[current] & 1 == 1 {
                current += 1;
            }
        }
    }

    /// SELECT-NEIGHBORS-HEURISTIC (algorithm 4): of `candidates`, the nearest first, those that are nearer to the node than to
    /// any nearer one kept already. Where room is left, those too that are farther only by [`ALPHA`].
    #[inline(always)]
    fn select<I: Isa>(&self, isa: I, candidates: &[Near], limit: usize, kept: &mut Vec<Near>) {
        kept.clear();
        // Distances are squared.
        for alpha in [1.0, ALPHA * ALPHA] {
            let first_pass = kept.len();
            // Those that fill the room are nearly always among the first, and the rest is dear to look through.
            let looked_at = if first_pass == 0 { candidates.len() } else { candidates.len().min(2 * limit) };
            'candidates: for candidate in &candidates[..looked_at] {
                if kept.len() == limit {
                    break;
                }
                // What the first pass kept is not a candidate of the second.
                for other in kept.iter() {
                    if other.distance > candidate.distance {
                        continue;
                    }
                    if other.node == candidate.node || self.rows.pair(isa, candidate.node, other.node) * alpha < candidate.distance {
                        continue 'candidates;
                    }
                }
                kept.push(*candidate);
            }
            if first_pass > 0 {
                kept.sort_unstable_by(Near::order);
            }
        }
    }

    #[inline(always)]
    fn link_back<I: Isa>(&self, isa: I, layer: usize, to: Node, link: Near, scratch: &mut Scratch) {
        let lists = &self.layers[layer];
        let _locked = Locked::new(&self.locks[to as usize]);
        scratch.list.clear();
        lists.read(to, &mut scratch.list);
        if scratch.list.iter().any(|other| other.node == link.node) {
            return;
        }
        scratch.list.push(link);
        if scratch.list.len() <= lists.width {
            lists.write(to, &scratch.list);
            return;
        }
        scratch.list.sort_unstable_by(Near::order);
        self.select(isa, &scratch.list, lists.limit, &mut scratch.kept);
        lists.write(to, &scratch.kept);
    }
}

/// Rows asked for ahead of the one being compared, and cache lines of each.
const AHEAD: usize = 4;
const LINES: usize = 8;

/// Chooses each list of layer 0 anew, among its links in both directions.
fn refine(shared: &Shared<'_>, lists: &Lists) -> Result<Layer, String> {
    let nodes = lists.nodes();
    // Links to each node, as in a `Layer`.
    let mut starts = vec![0usize; nodes + 1];
    let mut list = Vec::new();
    for node in 0..nodes as Node {
        for link in lists.links(node) {
            starts[link.load(Ordering::Relaxed) as usize + 1] += 1;
        }
    }
    for node in 0..nodes {
        starts[node + 1] += starts[node];
    }
    let mut filled = starts.clone();
    let mut incoming = vec![Near { distance: 0.0, node: 0 }; starts[nodes]];
    for node in 0..nodes as Node {
        list.clear();
        lists.read(node, &mut list);
        for link in &list {
            let place = &mut filled[link.node as usize];
            incoming[*place] = Near { node, ..*link };
            *place += 1;
        }
    }
    let limit = lists.limit;
    let (mut links, mut degrees) = (vec![0 as Node; nodes * limit], vec![0usize; nodes]);
    let parts = links.chunks_mut(BATCH * limit).zip(degrees.chunks_mut(BATCH)).enumerate();
    let parts = Mutex::new(parts.map(|(i, (links, degrees))| RefinePart { first: i * BATCH, links, degrees }).collect());
    on_threads(shared.params.threads, || {
        Kernel::get().run(Refine { shared, lists, starts: &starts, incoming: &incoming, parts: &parts });
    })?;
    Ok(Layer::from_lists(degrees.iter().enumerate().map(|(node, degree)| &links[node * limit..node * limit + degree])))
}

/// Nodes whose lists one thread chooses.
struct RefinePart<'a> {
    first: usize,
    links: &'a mut [Node],
    degrees: &'a mut [usize],
}

struct Refine<'a> {
    shared: &'a Shared<'a>,
    lists: &'a Lists,
    starts: &'a [usize],
    incoming: &'a [Near],
    parts: &'a Mutex<Vec<RefinePart<'a>>>,
}

impl Work for Refine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (mut list, mut kept) = (Vec::new(), Vec::new());
        let limit = self.lists.limit;
        loop {
            let part = self.parts.lock().expect("no thread panics with the lock").pop();
            let Some(part) = part.filter(|_| !self.shared.cancel.load(Ordering::Relaxed)) else { break };
            for i in 0..part.degrees.len() {
                let node = part.first + i;
                list.clear();
                self.lists.read(node as Node, &mut list);
                list.extend_from_slice(&self.incoming[self.starts[node]..self.starts[node + 1]]);
                list.sort_unstable_by(Near::order);
                list.dedup_by_key(|near| near.node);
                self.shared.select(isa, &list, limit, &mut kept);
                part.degrees[i] = kept.len();
                part.links[i * limit..].iter_mut().zip(&kept).for_each(|(link, near)| *link = near.node);
            }
        }
    }
}
