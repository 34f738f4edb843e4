//! Each node's own links: chosen among the nearest of the nodes that the partition lets it be compared with.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::lists::Lists;
use super::partition::Partition;
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
    /// The layer above, whose links are candidates too: they are longer than any to one of the nearest, and without them
    /// clusters far apart would have no link between them.
    pub(super) above: Option<&'a Lists>,
    pub(super) cancel: &'a AtomicBool,
}

impl Candidates<'_> {
    /// Fills `lists`.
    pub(super) fn choose(&self, lists: &Lists, threads: usize) -> Result<(), String> {
        let clusters = self.partition.clusters.iter().enumerate();
        let batches: Vec<(u32, usize)> =
            clusters.flat_map(|(cluster, packed)| (0..packed.nodes.len()).step_by(BATCH).map(move |first| (cluster as u32, first))).collect();
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
        let Candidates { rows, partition, keep, above, cancel } = *self.candidates;
        // A node is the nearest to itself.
        let (mut pools, mut signed) = (Pools::new(keep + 1), Signed::default());
        let mut select = Select::new();
        let (mut visits, mut which, mut list) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(batch) = claim(self.next, self.batches.len(), cancel) {
            let (home, first) = self.batches[batch];
            let nodes = &partition.clusters[home as usize].nodes[first..];
            let nodes = &nodes[..nodes.len().min(BATCH)];
            signed.load(rows, nodes.iter().copied());
            pools.start(nodes.len());
            visits.clear();
            for (row, node) in nodes.iter().enumerate() {
                partition.each_near(*node, home, |cluster| visits.push((cluster != home, cluster, row as u32)));
            }
            // Home first: there thresholds fall fastest.
            visits.sort_unstable();
            for visit in visits.chunk_by(|a, b| a.1 == b.1) {
                which.clear();
                which.extend(visit.iter().map(|(.., row)| *row));
                pools.scan(isa, &signed, &which, &partition.clusters[visit[0].1 as usize]);
            }
            for (row, node) in nodes.iter().enumerate() {
                list.clear();
                list.extend(pools.nearest(row).iter().map(|key| Near::of_key(*key)).filter(|near| near.node != *node).take(keep));
                if let Some(above) = above.filter(|above| (*node as usize) < above.nodes()) {
                    list.extend(above.read(*node));
                    list.sort_unstable_by(Near::order);
                    list.dedup_by_key(|near| near.node);
                }
                self.lists.write(*node, select.choose(isa, rows, &list, self.lists.limit()));
            }
        }
    }
}
