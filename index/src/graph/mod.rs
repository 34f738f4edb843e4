//! An HNSW graph over the distinct vectors of some rows, immutable once built, and the walk through it.
//!
//! <https://arxiv.org/abs/1603.09320>. A builder behind [`GraphBuilder`] makes the links; they are copied out of it into
//! [`Graph`], and the builder's own structure, search and files are never used again. Rows with the same vector share a
//! node: a thousand copies would otherwise fill each other's links and cut off their neighbours. Dead points are walked
//! through but not returned; at 20 % of them a new graph is built.

mod hnsw;
mod index;
mod walk;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use crate::config::HnswParams;

pub(crate) use hnsw::HnswRs;
pub(crate) use index::Index;

/// A node: the position of a distinct vector.
pub(crate) type Node = u32;

/// How a builder is to compare vectors. Both are what a graph can be built on: every vector is its own nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Vectors of length one, compared by their dot product.
    UnitDot,
    Euclid,
}

/// Makes the links of a graph. Node `i` is `vectors[i]`; all have one length, are finite and distinct.
pub(crate) trait GraphBuilder: Send + Sync {
    /// `Ok(None)` when cancelled.
    fn build(&self, vectors: &[Vec<f32>], metric: Metric, params: &HnswParams, cancel: &AtomicBool) -> Result<Option<Graph>, String>;
}

/// The links, and where a walk starts.
pub(crate) struct Graph {
    pub(crate) entry: Node,
    /// Layer 0: the links of node `i` are `links[starts[i]..starts[i + 1]]`.
    pub(crate) starts: Vec<usize>,
    pub(crate) links: Vec<Node>,
    /// Layers 1 and up, few nodes each.
    pub(crate) upper: Vec<HashMap<Node, Box<[Node]>>>,
}

impl Graph {
    pub(crate) fn nodes(&self) -> usize {
        self.starts.len() - 1
    }

    pub(crate) fn neighbours(&self, node: Node) -> &[Node] {
        &self.links[self.starts[node as usize]..self.starts[node as usize + 1]]
    }

    /// Nodes that no walk can find: not reachable on layer 0 from the entry point, where every walk starts.
    pub(crate) fn unreachable(&self) -> Vec<Node> {
        let mut seen = vec![false; self.nodes()];
        let mut open = vec![self.entry];
        seen[self.entry as usize] = true;
        while let Some(node) = open.pop() {
            for next in self.neighbours(node) {
                if !std::mem::replace(&mut seen[*next as usize], true) {
                    open.push(*next);
                }
            }
        }
        seen.iter().enumerate().filter(|(_, seen)| !**seen).map(|(node, _)| node as Node).collect()
    }
}
