//! Each node's own links: chosen among the nearest of the nodes that the partition lets it be compared with.
//!
//! Were these the nearest of all nodes alone, clusters far apart would have no link between them, and a walk that ends in the
//! wrong one would stay there. Insertion has longer links from the time when there were few nodes. Here the nearest
//! among an eighth and a sixty-fourth of the nodes ([`SCALES`]) are candidates too: most are dropped as seen from nearer
//! links, and those stay that lead from the rim of a cluster to another.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::lists::Lists;
use super::partition::{Partition, SCALES};
use super::pools::Pools;
use super::rows::{Rows, Signed};
use super::select::Select;
use super::{Near, claim, on_threads};
use crate::kernel::{Isa, Kernel, Work};

/// Nodes of one cluster that one thread takes at a time.
const BATCH: usize = 128;

/// What the lists of a layer are chosen from.
pub(super) struct Candidates<'a> {
    pub(super) rows: &'a Rows,
    pub(super) partition: &'a Partition,
    /// How many of the nearest are candidates of a node.
    pub(super) keep: usize,
    pub(super) cancel: &'a AtomicBool,
}

impl Candidates<'_> {
    /// Fills `lists`.
    pub(super) fn choose(&self, lists: &Lists, threads: usize) -> Result<(), String> {
        let mut batches: Vec<(u32, usize)> = Vec::new();
        for (home, cluster) in self.partition.clusters.iter().enumerate() {
            batches.extend((0..cluster.packed.nodes.len()).step_by(BATCH).map(|first| (home as u32, first)));
        }
        let next = AtomicUsize::new(0);
        on_threads(threads, || Kernel::get().run(Choose { candidates: self, lists, batches: &batches, next: &next }))
    }
}

struct Choose<'a> {
    candidates: &'a Candidates<'a>,
    lists: &'a Lists,
    /// Cluster, and the place of the first node in it.
    batches: &'a [(u32, usize)],
    next: &'a AtomicUsize,
}

impl Work for Choose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Candidates { rows, partition, keep, cancel } = *self.candidates;
        let limit = self.lists.limit();
        // A node is the nearest to itself.
        let mut pools: [Pools; SCALES.len()] = SCALES.map(|scale| Pools::new(1 + if scale == 1 { keep } else { limit }));
        let (mut signed, mut select) = (Signed::default(), Select::default());
        let (mut visits, mut which, mut keys, mut list) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        while let Some(batch) = claim(self.next, self.batches.len(), cancel) {
            let (home, first) = self.batches[batch];
            let nodes = &partition.clusters[home as usize].packed.nodes[first..];
            let nodes = &nodes[..nodes.len().min(BATCH)];
            signed.load(rows, nodes.iter().copied());
            for pools in &mut pools {
                pools.start(nodes.len());
            }
            visits.clear();
            for (row, node) in nodes.iter().enumerate() {
                partition.each_near(*node, home, |cluster| visits.push((cluster != home, cluster, row as u32)));
            }
            // Home first: there thresholds fall fastest.
            visits.sort_unstable();
            for visit in visits.chunk_by(|a, b| a.1 == b.1) {
                which.clear();
                which.extend(visit.iter().map(|(.., row)| *row));
                let cluster = &partition.clusters[visit[0].1 as usize];
                for (pools, columns) in pools.iter_mut().zip(cluster.scales) {
                    pools.scan(isa, &signed, &which, &cluster.packed, columns);
                }
            }
            for (row, node) in nodes.iter().enumerate() {
                keys.clear();
                for pools in &mut pools {
                    keys.extend_from_slice(pools.nearest(row));
                }
                // Sorted runs, which a stable sort merges.
                keys.sort();
                keys.dedup();
                list.clear();
                list.extend(keys.iter().map(|key| Near::of_key(*key)).filter(|near| near.node != *node));
                self.lists.write(*node, select.choose(isa, rows, &list, limit));
            }
        }
    }
}
