//! SEARCH-LAYER of the HNSW paper (algorithm 2), best first, over the layers from the top.

use std::cell::RefCell;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::{Graph, Node};

/// A node and how near the query it is; ordered by nearness.
#[derive(Clone, Copy)]
struct Candidate {
    nearness: f32,
    node: Node,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nearness.total_cmp(&other.nearness).then_with(|| other.node.cmp(&self.node))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// Which nodes this walk has met: a stamp a node, so that a new walk clears nothing.
#[derive(Default)]
struct Visited {
    stamps: Vec<u32>,
    stamp: u32,
}

impl Visited {
    fn start(&mut self, nodes: usize) {
        if self.stamps.len() < nodes {
            self.stamps.resize(nodes, 0);
        }
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            self.stamps.fill(0);
            self.stamp = 1;
        }
    }

    fn is_new(&mut self, node: Node) -> bool {
        std::mem::replace(&mut self.stamps[node as usize], self.stamp) != self.stamp
    }
}

thread_local! {
    static VISITED: RefCell<Visited> = RefCell::default();
}

impl Graph {
    /// The nearest nodes among those that `accept` lets pass, at most `ef`, in no order. `None` when more than `budget` nodes
    /// were compared: then a scan is cheaper.
    pub(crate) fn walk(
        &self,
        ef: usize,
        budget: usize,
        nearness: impl Fn(Node) -> f32,
        accept: impl Fn(Node) -> bool,
    ) -> Option<Vec<Node>> {
        let entry = Candidate { nearness: nearness(self.entry), node: self.entry };
        let mut start = entry;
        for layer in self.upper.iter().rev() {
            // Greedy: move to the nearest neighbour until none is nearer.
            loop {
                let links = layer.get(&start.node).map_or(&[][..], |links| links);
                let best = links.iter().map(|node| Candidate { nearness: nearness(*node), node: *node }).max();
                match best {
                    Some(best) if best.nearness > start.nearness => start = best,
                    _ => break,
                }
            }
        }
        VISITED.with_borrow_mut(|visited| {
            visited.start(self.nodes());
            let mut compared = 0;
            let mut open = BinaryHeap::new();
            let mut kept: BinaryHeap<Reverse<Candidate>> = BinaryHeap::new();
            // From the entry point too: the audit counts as reachable what can be reached from there.
            for first in [start, entry] {
                if visited.is_new(first.node) {
                    open.push(first);
                    if accept(first.node) {
                        kept.push(Reverse(first));
                    }
                }
            }
            while let Some(candidate) = open.pop() {
                if kept.len() >= ef && kept.peek().is_some_and(|farthest| candidate.nearness < farthest.0.nearness) {
                    break;
                }
                for node in self.neighbours(candidate.node) {
                    if !visited.is_new(*node) {
                        continue;
                    }
                    compared += 1;
                    let next = Candidate { nearness: nearness(*node), node: *node };
                    if kept.len() >= ef && kept.peek().is_some_and(|farthest| next.nearness < farthest.0.nearness) {
                        continue;
                    }
                    open.push(next);
                    if accept(*node) {
                        kept.push(Reverse(next));
                        if kept.len() > ef {
                            kept.pop();
                        }
                    }
                }
                if compared > budget {
                    return None;
                }
            }
            Some(kept.into_iter().map(|kept| kept.0.node).collect())
        })
    }
}
