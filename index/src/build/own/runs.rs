//! Clusters that hold most links of their nodes: where vectors lie so, a search compares a whole cluster, one node after the other as
//! they lie, in less time than it takes to walk through it (`segment/runs.rs`).

use super::partition::LARGEST;
use crate::build::{Layer, Node};

/// The share of links on layer 0 that stay in their cluster, at least. Among 256 Gaussian clusters in 128 dimensions it is .83, and a
/// search of the clusters takes half a walk's time. Among features of pictures it is .24: there it takes ten times a walk's.
const WITHIN: f64 = 0.6;
/// One node in so many is asked.
const ASKED: usize = 16;
/// Blocks of all middles' codes at most, half a megabyte: each search reads them all.
const MOST: usize = 8192;

/// As [`Graph::runs`](crate::build::Graph::runs). `homes` is the cluster of each node, ascending within a level but for node 0;
/// `counts` the nodes of each layer, `blocks` those of a code.
pub(super) fn runs(homes: &[u32], counts: &[usize], links: &Layer, blocks: usize) -> Vec<Vec<Node>> {
    let clusters = homes.iter().max().map_or(0, |last| *last as usize + 1);
    if clusters < 2 || clusters * blocks > MOST {
        return Vec::new();
    }
    let mut sizes = vec![0usize; clusters];
    homes.iter().for_each(|home| sizes[*home as usize] += 1);
    // Nodes of the cluster that a node is in, in the mean.
    if sizes.iter().map(|size| size * size).sum::<usize>() > LARGEST * homes.len() {
        return Vec::new();
    }
    let (mut within, mut all) = (0, 0);
    for node in (0..homes.len()).step_by(ASKED) {
        let links = links.links(node as Node);
        within += links.iter().filter(|link| homes[**link as usize] == homes[node]).count();
        all += links.len();
    }
    if (within as f64) < WITHIN * all as f64 {
        return Vec::new();
    }
    let of_layer = |(layer, end): (usize, &usize)| {
        let first = counts.get(layer + 1).copied().unwrap_or(0);
        // The entry point stays where it is, whatever its cluster, and counts among the first one's.
        let sorted = first.max(1).min(*end);
        let begin = |cluster: usize| sorted + homes[sorted..*end].partition_point(|home| (*home as usize) < cluster);
        std::iter::once(first).chain((1..=clusters).map(begin)).map(|node| node as Node).collect()
    };
    counts.iter().enumerate().map(of_layer).collect()
}
