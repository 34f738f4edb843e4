//! hnsw_rs as a builder of graphs: vectors in, neighbour lists out.
//!
//! What it must not be trusted with, and is not: its files (a damaged one panics, ends the process or answers wrongly),
//! searching (it allocates at each step, and has no budget), duplicates, and being iterated while it is inserted into
//! (deadlock). Its parameters are checked when a collection is made, because it ends the process on bad ones.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use hnsw_rs::prelude::{Distance, Hnsw};
use rayon::prelude::*;

use super::{BuildParams, Graph, GraphBuilder, Layer, MOST_LINKS, Node, Vectors};
use crate::kernel::{Isa, Kernel, Work};

/// Layers hnsw_rs can have.
const LAYERS: usize = 16;
/// Vectors inserted between two looks at the cancel flag.
const BATCH: usize = 1000;

/// Squared Euclid with the kernels of this machine.
#[derive(Clone, Copy)]
struct Squared(Kernel);

struct Pair<'a>(&'a [f32], &'a [f32]);

impl Work for Pair<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f32 {
        isa.squared_euclid(self.0, self.1)
    }
}

impl Distance<f32> for Squared {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        // Squares of extreme vectors overflow; in a graph they are merely far.
        self.0.run(Pair(a, b)).min(f32::MAX)
    }
}

pub(crate) struct HnswRs;

impl GraphBuilder for HnswRs {
    fn build(&self, vectors: &dyn Vectors, params: &BuildParams, cancel: &AtomicBool) -> Result<Option<Graph>, String> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(params.threads)
            .thread_name(|_| "moco-graph".to_owned())
            .build()
            .map_err(|error| format!("cannot start threads to build a graph: {error}"))?;
        // A panic in there is a failed build, not a dead collection: the rows stay searchable.
        let build = || pool.install(|| build(vectors, params, cancel));
        catch_unwind(AssertUnwindSafe(build)).unwrap_or_else(|_| Err("hnsw_rs panicked".to_owned()))
    }
}

fn build(vectors: &dyn Vectors, params: &BuildParams, cancel: &AtomicBool) -> Result<Option<Graph>, String> {
    let hnsw = Hnsw::new(params.m, vectors.len(), LAYERS, params.ef_construction, Squared(Kernel::get()));
    let copy = |i: usize| {
        let mut vector = vec![0.0; vectors.size()];
        vectors.copy(i, &mut vector);
        vector
    };
    // The first one alone: threads that meet an empty graph could each take theirs for the first.
    hnsw.insert((&copy(0), 0));
    for first in (1..vectors.len()).step_by(BATCH) {
        if cancel.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = first..(first + BATCH).min(vectors.len());
        batch.into_par_iter().for_each(|i| hnsw.insert((&copy(i), i)));
    }
    extract(&hnsw, vectors.len()).map(Some)
}

/// Copies the neighbour lists out. Of a node's sixteen lists only those up to its own level are links; those above are
/// left from its insertion. A list can also name nodes that are not on its layer: dropped.
fn extract(hnsw: &Hnsw<'_, f32, Squared>, count: usize) -> Result<Graph, String> {
    let points = hnsw.get_point_indexation();
    let top = usize::from(hnsw.get_max_level_observed());
    let mut levels: Vec<Option<u8>> = vec![None; count];
    let mut lists: Vec<Vec<Vec<u32>>> = vec![Vec::new(); count];
    // The iterator of a layer yields the points whose level is that layer.
    for level in 0..=top {
        for point in points.get_layer_iterator(level) {
            let vector = point.get_origin_id();
            let place = levels.get_mut(vector).ok_or_else(|| format!("the graph has a node {vector} of {count}"))?;
            *place = Some(level as u8);
            for (layer, list) in point.get_neighborhood_id().into_iter().enumerate().take(level + 1) {
                let on_layer = list.iter().filter(|link| usize::from(link.p_id.0) >= layer && link.d_id != vector);
                let links: Vec<u32> = on_layer.take(MOST_LINKS / 2).map(|link| link.d_id as u32).collect();
                if links.iter().any(|link| *link as usize >= count) {
                    return Err(format!("node {vector} of the graph has a link to nowhere"));
                }
                lists[vector].push(links);
            }
        }
    }
    if let Some(missing) = levels.iter().position(Option::is_none) {
        return Err(format!("node {missing} is missing from the graph"));
    }
    let mut vectors: Vec<u32> = (0..count as u32).collect();
    vectors.sort_by_key(|vector| std::cmp::Reverse(levels[*vector as usize]));
    let mut nodes = vec![0 as Node; count];
    for (node, vector) in vectors.iter().enumerate() {
        nodes[*vector as usize] = node as Node;
    }
    let layers = (0..=top).map(|layer| {
        let on_layer = vectors.iter().take_while(|vector| levels[**vector as usize] >= Some(layer as u8));
        Layer::from_lists(
            on_layer.map(|vector| lists[*vector as usize][layer].iter().map(|link| nodes[*link as usize]).collect::<Vec<_>>()),
        )
    });
    let layers = layers.collect();
    Ok(Graph { vectors, layers, runs: Vec::new() })
}
