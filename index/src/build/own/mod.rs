//! HNSW's graph (<https://arxiv.org/abs/1603.09320>) built for a set that is known beforehand, without a single walk.
//!
//! Inserting one node after the other by walks spends most of its time waiting for rows at random places. Here the nearest of
//! each node come from products of many rows with many ([`pools`]), which the processor does some ten times faster: of all
//! with all in a small set, of each with the clusters nearest to it in a larger one ([`partition`]). Links are then chosen by
//! HNSW's heuristic among the nearest ([`candidates`]), and chosen anew among the links in both directions ([`select`]).
//!
//! `ef_construction` is how far a node looks: half as many of the nearest are candidates for its links, found among
//! [`COMPARED`] times as many nodes.
//!
//! Vectors are compared as int8 codes, which costs no recall that could be measured. The same seed gives the same graph on
//! any number of threads.

mod candidates;
mod lists;
mod partition;
mod pools;
mod rows;
mod runs;
mod select;

use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use self::candidates::Candidates;
use self::lists::Lists;
use self::partition::Partition;
use self::rows::Rows;
use self::runs::runs;
use super::{BuildParams, Graph, GraphBuilder, Node, Vectors};
use crate::background;
use crate::large_pages::Zero;

/// Layers at most; with m = 2, the least, the sixteenth holds one node of 2^15.
const LAYERS: usize = 16;

/// Nodes that a node is compared with, for each of `ef_construction`.
const COMPARED: usize = 28;

pub(crate) struct Own;

impl GraphBuilder for Own {
    fn build(&self, vectors: &dyn Vectors, params: &BuildParams, cancel: &AtomicBool) -> Result<Option<Graph>, String> {
        let BuildParams { m, ef_construction, threads, seed: _ } = *params;
        let mut levels = Levels::draw(vectors.len(), params);
        let Some(rows) = Rows::encode(vectors, &levels.vectors, threads, cancel)? else { return Ok(None) };
        let compared = COMPARED * ef_construction;
        let whole = Partition::of(&rows, rows.len(), compared, threads, cancel)?;
        // Neighbours lie next to one another, in memory as in the segment.
        let homes = whole.homes();
        let order = levels.order_by(&homes);
        let homes: Vec<u32> = order.iter().map(|node| whole.middle_of(homes[*node as usize])).collect();
        let (rows, mut whole) = (rows.in_order(&order, threads)?, Some(whole.in_order(&order)));
        let mut layers = Vec::with_capacity(levels.counts.len());
        for (layer, nodes) in levels.counts.iter().enumerate() {
            let partition = match whole.take() {
                Some(whole) => whole,
                None => Partition::of(&rows, *nodes, compared, threads, cancel)?,
            };
            let lists = Lists::new(*nodes, limit(layer, m, rows.blocks))?;
            let keep = (ef_construction / 2).max(lists.limit());
            Candidates { rows: &rows, partition: &partition, keep, cancel }.choose(&lists, threads)?;
            drop(partition);
            layers.push(select::refine(&rows, &lists, threads, cancel)?);
        }
        if cancel.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let runs = runs(&homes, &levels.counts, &layers[0], rows.blocks);
        Ok(Some(Graph { vectors: levels.vectors, layers, runs }))
    }
}

/// Codes of so many blocks are short.
const SHORT: usize = 4;

/// Links kept on a layer, where codes take so many blocks. Where they are short a walk spends more time on going from one
/// list to the next than on comparing, and fewer and longer lists find as much in less: at 128 dimensions 20 to 30 % more
/// queries a second at recall@10 .95 and .99. At 512 dimensions 3m links gave 1 % and 5 to 10 %, for a fifth of the build's speed.
fn limit(layer: usize, m: usize, blocks: usize) -> usize {
    match layer {
        0 if blocks <= SHORT => 3 * m,
        0 => 2 * m,
        _ => m,
    }
}

fn no_memory(error: impl std::fmt::Display) -> String {
    format!("cannot get memory to build a graph: {error}")
}

/// Runs `work` on `threads` threads.
fn on_threads(threads: usize, work: impl Fn() + Sync) -> Result<(), String> {
    let work = &work;
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for _ in 0..threads.max(1) {
            let work = || {
                work();
                // Each time: it is by chance who gets this thread's arena next.
                background::give_back_arena();
            };
            match std::thread::Builder::new().name("moco-graph".to_owned()).spawn_scoped(scope, work) {
                Ok(thread) => running.push(thread),
                // With fewer it takes longer.
                Err(_) if !running.is_empty() => break,
                Err(error) => return Err(format!("cannot start threads to build a graph: {error}")),
            }
        }
        running.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread that built a graph panicked".to_owned()))
    })
}

/// The next of `count` pieces of work that threads share; `None` after the last, and when cancelled.
fn claim(next: &AtomicUsize, count: usize, cancel: &AtomicBool) -> Option<usize> {
    let claimed = next.fetch_add(1, Ordering::Relaxed);
    (claimed < count && !cancel.load(Ordering::Relaxed)).then_some(claimed)
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

    /// Sorts the nodes of each level by `place`; gives the order of what they were before.
    fn order_by(&mut self, place: &[u32]) -> Vec<u32> {
        let mut order: Vec<u32> = (0..place.len() as u32).collect();
        let mut first = 0;
        for end in self.counts.iter().rev() {
            // The entry point stays.
            order[first.max(1).min(*end)..*end].sort_by_key(|node| place[*node as usize]);
            first = *end;
        }
        self.vectors = order.iter().map(|node| self.vectors[*node as usize]).collect();
        order
    }
}

/// A node, and half its squared distance.
#[derive(Clone, Copy, Debug)]
struct Near {
    distance: f32,
    node: Node,
}

// SAFETY: two numbers.
unsafe impl Zero for Near {}

impl Near {
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.distance.total_cmp(&other.distance).then(self.node.cmp(&other.node))
    }

    /// Sorts as [`Self::order`].
    #[inline(always)]
    fn key(self) -> u64 {
        let bits = self.distance.to_bits();
        let ordered = bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000);
        u64::from(ordered) << 32 | u64::from(self.node)
    }

    #[inline(always)]
    fn of_key(key: u64) -> Self {
        let ordered = (key >> 32) as u32;
        let bits = ordered ^ (!((ordered as i32 >> 31) as u32) | 0x8000_0000);
        Self { distance: f32::from_bits(bits), node: key as u32 }
    }
}
