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

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring of `ring` nodes and an island of two that links into the ring.
    fn ring_and_island(ring: u32) -> Graph {
        let mut links: Vec<Vec<Node>> = (0..ring).map(|i| vec![(i + 1) % ring, (i + ring - 1) % ring]).collect();
        links.extend([vec![ring + 1, 0], vec![ring]]);
        let mut graph = Graph { entry: 0, starts: vec![0], links: Vec::new(), upper: Vec::new() };
        for list in links {
            graph.links.extend(list);
            graph.starts.push(graph.links.len());
        }
        graph
    }

    #[test]
    fn the_audit_lists_what_no_walk_can_reach() {
        assert_eq!(ring_and_island(10).unreachable(), [10, 11]);
    }

    #[test]
    fn a_walk_goes_through_nodes_that_it_does_not_return() {
        let graph = ring_and_island(100);
        let nearness = |node: Node| -(node as f32 - 50.0).abs();
        // Only the nodes about the target are wanted; the way there leads through others.
        let mut found = graph.walk(5, 1000, nearness, |node| (45..=60).contains(&node)).unwrap();
        found.sort_unstable();
        assert_eq!(found, [48, 49, 50, 51, 52]);
    }

    #[test]
    fn a_walk_that_costs_more_than_its_budget_gives_up() {
        let graph = ring_and_island(100);
        let wants_nothing = |budget| graph.walk(5, budget, |node| -(node as f32), |_| false);
        assert_eq!(wants_nothing(50), None);
        assert_eq!(wants_nothing(200), Some(vec![]));
    }
}
