//! What is written of clusters that have runs: their middles, and how far their rows are spread around these.

use std::collections::HashSet;

use super::runs::Spread;
use super::{FURTHER, SegmentInput};
use crate::build::{Graph, Node};
use crate::codes::{Codes, Encoder, Factors, Frame};
use crate::distance::Distance;
use crate::kernel::{BLOCK, Block};

/// By cluster.
#[derive(Default)]
pub(super) struct Middles {
    pub(super) codes: Vec<Block>,
    pub(super) factors: Vec<Factors>,
    pub(super) spreads: Vec<Spread>,
}

/// What they are made of.
#[derive(Clone, Copy)]
pub(super) struct Clusters<'a> {
    pub(super) input: &'a SegmentInput,
    /// As [`Graph::runs`]; may be none.
    pub(super) runs: &'a [Vec<Node>],
    pub(super) graph: &'a Graph,
    pub(super) node_rows: &'a [u32],
    pub(super) frame: &'a Frame,
}

impl Clusters<'_> {
    pub(super) fn middles(self, codes: Codes) -> Middles {
        let Self { input, runs, frame, .. } = self;
        let clusters = runs.first().map_or(0, |of_layer| of_layer.len() - 1);
        // A row is the nearer the smaller its distance is, under Cosine too: middles are not of length one.
        let mut encoder = Encoder::new(frame, Distance::Euclid, codes);
        let blocks = codes.blocks(input.size);
        let mut middles = Middles { codes: vec![Block([0; BLOCK]); clusters * blocks], ..Middles::default() };
        let (mut nodes, mut sums, mut middle) = (Vec::new(), vec![0f64; input.size], vec![0f32; input.size]);
        for (cluster, code) in middles.codes.chunks_mut(blocks.max(1)).enumerate() {
            nodes.clear();
            // The entry point is in the first one's run wherever it lies.
            nodes.extend(runs.iter().flat_map(|of_layer| of_layer[cluster]..of_layer[cluster + 1]).filter(|node| *node != 0));
            self.mean(&nodes, &mut sums, &mut middle);
            middles.factors.push(encoder.encode(&middle, code));
            middles.spreads.push(self.spread(&nodes, &middle));
        }
        middles
    }

    fn vector(&self, node: Node) -> &[f32] {
        self.input.vector(self.node_rows[node as usize] & !FURTHER)
    }

    fn mean(&self, nodes: &[Node], sums: &mut [f64], mean: &mut [f32]) {
        sums.fill(0.0);
        for node in nodes {
            sums.iter_mut().zip(self.vector(*node)).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        mean.iter_mut().zip(sums).for_each(|(mean, sum)| *mean = (*sum / nodes.len().max(1) as f64) as f32);
    }

    /// Judged by how far the rows of a cluster are from rows outside that its own have links to.
    fn spread(&self, nodes: &[Node], middle: &[f32]) -> Spread {
        let unit = self.frame.unit.powi(2);
        let square = nodes.iter().map(|node| squared(self.vector(*node), middle)).sum::<f64>() / nodes.len().max(1) as f64;
        let inside: HashSet<Node> = nodes.iter().copied().collect();
        let few = |count: usize| nodes.iter().step_by(nodes.len().div_ceil(count).max(1));
        let mut outside: Vec<Node> =
            few(OUTSIDE).filter_map(|node| self.graph.layers[0].links(*node).iter().copied().find(|link| !inside.contains(link))).collect();
        if outside.is_empty() {
            outside.extend(few(OUTSIDE));
        }
        let (mut variance, mut count) = (0.0, 0.0);
        for other in outside {
            let other = self.vector(other);
            let from_middle = squared(other, middle);
            if from_middle > 0.0 {
                for node in few(INSIDE) {
                    variance += (squared(self.vector(*node), other) - from_middle - square).powi(2) / (4.0 * from_middle);
                    count += 1.0;
                }
            }
        }
        let shift = match self.input.distance {
            // The nearness of a row of length one is that much more than under Euclid.
            Distance::Cosine => 1.0 - self.frame.centre.iter().map(|c| f64::from(*c).powi(2)).sum::<f64>(),
            _ => 0.0,
        };
        let (addend, deviation) = (((shift - square) / unit / 2.0) as f32, (variance / f64::max(count, 1.0) / unit).sqrt() as f32);
        if addend.is_finite() && deviation.is_finite() {
            return Spread { addend, deviation };
        }
        // Rows out of any measure: the cluster is compared by every search.
        Spread { addend: f32::INFINITY, deviation: 0.0 }
    }
}

fn squared(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

/// Rows outside of a cluster, and of its own, by whose distances its spread is judged.
const OUTSIDE: usize = 16;
const INSIDE: usize = 32;
