//! hnsw_rs as a builder of graphs: vectors in, neighbour lists out.
//!
//! What it must not be trusted with, and is not: its files (a damaged one panics, ends the process or answers wrongly),
//! searching (it allocates at each step, and has no budget), duplicates, and being iterated while it is inserted into
//! (deadlock). Its parameters are checked when a collection is made, because it ends the process on bad ones.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use hnsw_rs::prelude::{Distance, Hnsw};
use rayon::prelude::*;

use super::{Graph, GraphBuilder, Metric, Node};
use crate::config::HnswParams;
use crate::distance::{dot, squared_euclid};

/// Layers hnsw_rs can have.
const LAYERS: usize = 16;
/// Vectors inserted between two looks at the cancel flag.
const BATCH: usize = 1000;

#[derive(Clone, Copy)]
struct BuildDistance(Metric);

impl Distance<f32> for BuildDistance {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        match self.0 {
            // Rounding can bring a dot product of unit vectors above one, and hnsw_rs panics on a negative distance.
            Metric::UnitDot => (1.0 - dot(a, b)).max(0.0),
            Metric::Euclid => squared_euclid(a, b),
        }
    }
}

/// Builds on its own threads, half of the machine's.
pub(crate) struct HnswRs {
    threads: usize,
}

impl HnswRs {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads: cores.div_ceil(2) }
    }
}

impl GraphBuilder for HnswRs {
    fn build(&self, vectors: &[Vec<f32>], metric: Metric, params: &HnswParams, cancel: &AtomicBool) -> Result<Option<Graph>, String> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .thread_name(|_| "moco-graph".to_owned())
            .build()
            .map_err(|error| format!("cannot start threads to build a graph: {error}"))?;
        // A panic in there is a failed build, not a dead collection: the rows stay searchable.
        let build = || pool.install(|| build(vectors, metric, params, cancel));
        catch_unwind(AssertUnwindSafe(build)).unwrap_or_else(|_| Err("hnsw_rs panicked".to_owned()))
    }
}

fn build(vectors: &[Vec<f32>], metric: Metric, params: &HnswParams, cancel: &AtomicBool) -> Result<Option<Graph>, String> {
    let hnsw = Hnsw::new(params.m, vectors.len(), LAYERS, params.ef_construction, BuildDistance(metric));
    // The first one alone: threads that meet an empty graph could each take theirs for the first.
    let (first, others) = vectors.split_first().ok_or("there are no vectors")?;
    hnsw.insert((first, 0));
    for (batch, chunk) in others.chunks(BATCH).enumerate() {
        if cancel.load(Ordering::Relaxed) {
            return Ok(None);
        }
        chunk.par_iter().enumerate().for_each(|(i, vector)| hnsw.insert((vector, 1 + batch * BATCH + i)));
    }
    extract(&hnsw, vectors.len()).map(Some)
}

/// Copies the neighbour lists out. Of a node's sixteen lists only those up to its own level are links; those above are
/// left from its insertion. A list can also name nodes that are not on its layer: dropped.
fn extract(hnsw: &Hnsw<'_, f32, BuildDistance>, nodes: usize) -> Result<Graph, String> {
    let points = hnsw.get_point_indexation();
    let top = usize::from(hnsw.get_max_level_observed());
    let mut layer_0: Vec<Option<Vec<Node>>> = vec![None; nodes];
    let mut upper = vec![HashMap::<Node, Box<[Node]>>::new(); top];
    let mut entry = None;
    // The iterator of a layer yields the points whose level is that layer.
    for level in 0..=top {
        for point in points.get_layer_iterator(level) {
            let node = point.get_origin_id();
            for (layer, list) in point.get_neighborhood_id().into_iter().enumerate().take(level + 1) {
                let on_layer = list.iter().filter(|link| usize::from(link.p_id.0) >= layer && link.d_id != node);
                let links: Vec<Node> = on_layer.map(|link| link.d_id as Node).collect();
                if links.iter().any(|link| *link as usize >= nodes) {
                    return Err(format!("node {node} of the graph has a link to nowhere"));
                }
                match layer {
                    0 => *layer_0.get_mut(node).ok_or_else(|| format!("the graph has a node {node} of {nodes}"))? = Some(links),
                    _ => drop(upper[layer - 1].insert(node as Node, links.into())),
                }
            }
            if level == top {
                entry.get_or_insert(node as Node);
            }
        }
    }
    let entry = entry.ok_or("the graph has no entry point")?;
    let mut graph = Graph { entry, starts: vec![0], links: Vec::new(), upper };
    for (node, links) in layer_0.into_iter().enumerate() {
        graph.links.extend(links.ok_or_else(|| format!("node {node} is missing from the graph"))?);
        graph.starts.push(graph.links.len());
    }
    Ok(graph)
}
