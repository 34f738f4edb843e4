//! Which nodes can be near which: nodes in clusters, and the clusters that each node is to be compared with.
//!
//! k-means on a sample finds the middles. A node's home is the cluster whose middle is nearest; it is compared with the nodes
//! whose homes are the clusters nearest to itself, as many as hold the number of nodes asked for. So a node costs the same however many
//! there are, but for finding its clusters: that is one comparison for each [`CLUSTER`] nodes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::pools::Pools;
use super::rows::{Packed, Rows, Signed};
use super::{Near, claim, on_threads};
use crate::build::Node;
use crate::codes::{Codes, Encoder, Frame};
use crate::distance::Distance;
use crate::kernel::{BLOCK, Column, Isa, Kernel, Work};

/// Nodes of a cluster, in the mean.
const CLUSTER: usize = 256;
/// A cluster with more is cut into pieces that are clusters by themselves.
pub(super) const LARGEST: usize = 4 * CLUSTER;
/// Nodes of a sample for each cluster, and rounds of k-means on it.
const SAMPLE: usize = 32;
const ROUNDS: usize = 4;
/// Rounds after the last one that moves middles ([`moves`]), and how many times the sum of squares of one cluster must be that of
/// another to be given its middle.
const SETTLING: usize = 2;
const MOVED: f32 = 4.0;
/// Clusters with less than one part in so many of the mean are given up: in many dimensions, of two middles in one cluster one
/// takes nearly all.
const TINY: usize = 8;
/// Nodes that one thread takes at a time.
const BATCH: usize = 128;

/// The nearest are looked for among all nodes, and among the first of them: one in so many. Nodes are in random order within
/// their level when they are parted.
pub(super) const SCALES: [usize; 3] = [1, 8, 64];

pub(super) struct Cluster {
    pub(super) packed: Packed,
    /// By scale, how many of the nodes are among the first.
    pub(super) scales: [usize; SCALES.len()],
}

impl Cluster {
    /// The codes are yet to be copied.
    fn new(nodes: Vec<Node>, all: usize) -> Self {
        let scales = SCALES.map(|scale| nodes.partition_point(|node| (*node as usize) < all.div_ceil(scale)));
        Self { packed: Packed { nodes, codes: Vec::new(), columns: Vec::new() }, scales }
    }
}

pub(super) struct Partition {
    pub(super) clusters: Vec<Cluster>,
    /// By middle, where its clusters begin, and one more.
    pieces: Vec<u32>,
    /// By node, the middles nearest to it, `probes` for each.
    near: Vec<u32>,
    probes: usize,
    compared: usize,
}

impl Partition {
    /// Of the first `nodes` nodes; each is to be compared with about `compared` others.
    pub(super) fn of(rows: &Rows, nodes: usize, compared: usize, threads: usize, cancel: &AtomicBool) -> Result<Self, String> {
        if nodes <= compared {
            let mut clusters = vec![Cluster::new((0..nodes as Node).collect(), nodes)];
            clusters[0].packed.fill(rows);
            return Ok(Self { clusters, pieces: vec![0, 1], near: vec![0; nodes], probes: 1, compared });
        }
        let middles = middles(rows, nodes, threads, cancel)?;
        let probes = (compared / CLUSTER * 3 / 2).max(2).min(middles.nodes.len());
        let all: Vec<Node> = (0..nodes as Node).collect();
        let near = nearest(rows, &all, &middles, probes, threads, cancel)?;
        let mut homes: Vec<Vec<Node>> = vec![Vec::new(); middles.nodes.len()];
        near.chunks(probes).enumerate().for_each(|(node, near)| homes[near[0] as usize].push(node as Node));
        let (mut clusters, mut pieces) = (Vec::new(), vec![0]);
        for home in &homes {
            let pieces_of_home = home.len().div_ceil(LARGEST).max(1);
            clusters.extend(
                home.chunks(home.len().div_ceil(pieces_of_home).max(1)).map(|piece| Mutex::new(Cluster::new(piece.to_vec(), nodes))),
            );
            pieces.push(clusters.len() as u32);
        }
        let next = AtomicUsize::new(0);
        on_threads(threads, || {
            while let Some(cluster) = claim(&next, clusters.len(), cancel) {
                clusters[cluster].lock().expect("no thread panics with the lock").packed.fill(rows);
            }
        })?;
        let clusters = clusters.into_iter().map(|cluster| cluster.into_inner().expect("no thread panics with the lock")).collect();
        Ok(Self { clusters, pieces, near, probes, compared })
    }

    /// Calls `see` with the clusters that `node`, which lives in `home`, is to be compared with.
    pub(super) fn each_near(&self, node: Node, home: u32, mut see: impl FnMut(u32)) {
        see(home);
        let mut compared = self.clusters[home as usize].packed.nodes.len();
        let near = &self.near[node as usize * self.probes..][..self.probes];
        for cluster in near.iter().flat_map(|middle| self.pieces[*middle as usize]..self.pieces[*middle as usize + 1]) {
            if compared >= self.compared {
                break;
            }
            if cluster != home {
                see(cluster);
                compared += self.clusters[cluster as usize].packed.nodes.len();
            }
        }
    }

    /// By node, the cluster that it lives in.
    pub(super) fn homes(&self) -> Vec<u32> {
        let mut homes = vec![0; self.near.len() / self.probes];
        for (i, cluster) in self.clusters.iter().enumerate() {
            cluster.packed.nodes.iter().for_each(|node| homes[*node as usize] = i as u32);
        }
        homes
    }

    /// Of which middle a cluster is a piece.
    pub(super) fn middle_of(&self, cluster: u32) -> u32 {
        self.pieces.partition_point(|first| *first <= cluster) as u32 - 1
    }

    /// The same partition after node `order[i]` has become node `i`.
    pub(super) fn in_order(mut self, order: &[u32]) -> Self {
        let mut new = vec![0 as Node; order.len()];
        order.iter().enumerate().for_each(|(i, old)| new[*old as usize] = i as Node);
        self.clusters.iter_mut().flat_map(|cluster| &mut cluster.packed.nodes).for_each(|node| *node = new[*node as usize]);
        self.near = order.iter().flat_map(|old| &self.near[*old as usize * self.probes..][..self.probes]).copied().collect();
        self
    }
}

/// k-means on a sample of the nodes.
fn middles(rows: &Rows, nodes: usize, threads: usize, cancel: &AtomicBool) -> Result<Packed, String> {
    let count = nodes.div_ceil(CLUSTER);
    let wanted = (SAMPLE * count).min(nodes);
    let sample: Vec<Node> = (0..wanted).map(|i| (i * nodes / wanted) as Node).collect();
    let size = rows.blocks * BLOCK;
    let frame = Frame { centre: vec![0.0; size], unit: 1.0 };
    let mut encoder = Encoder::new(&frame, Distance::Euclid, Codes::Int8);
    let first: Vec<Node> = (0..count).map(|i| sample[i * wanted / count]).collect();
    let mut middles = rows.in_order(&first, 1)?;
    let all = || (0..count as Node).collect();
    let mut kept: Vec<Node> = all();
    for round in 0..ROUNDS {
        let homes = nearest(rows, &sample, &Packed::of(&middles, all()), 1, threads, cancel)?;
        let (mut sums, mut members, mut squares) = (vec![0f32; count * size], vec![0f32; count], vec![0f32; count]);
        for (node, home) in sample.iter().zip(&homes) {
            let Column { scale, half_square } = rows.factors[*node as usize];
            let home = *home as usize;
            for (sums, block) in sums[home * size..][..size].chunks_mut(BLOCK).zip(rows.code(*node)) {
                sums.iter_mut().zip(&block.0).for_each(|(sum, byte)| *sum += scale * (f32::from(*byte) - 128.0));
            }
            members[home] += 1.0;
            squares[home] += 2.0 * half_square;
        }
        for (middle, sums) in sums.chunks_mut(size).enumerate().filter(|(middle, _)| members[*middle] > 0.0) {
            sums.iter_mut().for_each(|sum| *sum /= members[middle]);
            squares[middle] -= members[middle] * sums.iter().map(|x| x * x).sum::<f32>();
            middles.set(middle, sums, &mut encoder);
        }
        if round + 1 == ROUNDS {
            kept.retain(|middle| members[*middle as usize] * TINY as f32 >= (wanted / count) as f32);
        }
        if round + SETTLING < ROUNDS {
            for (from, to) in moves(&squares) {
                let member = homes.iter().position(|home| *home == to).expect("what has squares has members");
                middles.copy(from as usize, rows, sample[member]);
            }
        }
    }
    Ok(Packed::of(&middles.in_order(&kept, 1)?, (0..kept.len() as Node).collect()))
}

/// Which middles are better elsewhere, and in whose cluster: one that shares a cluster with another, in a middle's between two clusters.
/// `squares` is, by middle, the sum of the squares of its members' distances from it.
fn moves(squares: &[f32]) -> Vec<(u32, u32)> {
    let mut order: Vec<u32> = (0..squares.len() as u32).collect();
    order.sort_unstable_by(|a, b| squares[*a as usize].total_cmp(&squares[*b as usize]).then(a.cmp(b)));
    let pairs = order.iter().zip(order.iter().rev()).take(squares.len() / 2);
    pairs
        .take_while(|(from, to)| squares[**to as usize] > MOVED * squares[**from as usize].max(0.0))
        .map(|(from, to)| (*from, *to))
        .collect()
}

/// Of each of `nodes` the nearest `keep` columns, the nearest first.
fn nearest(rows: &Rows, nodes: &[Node], columns: &Packed, keep: usize, threads: usize, cancel: &AtomicBool) -> Result<Vec<u32>, String> {
    let mut found = vec![0; nodes.len() * keep];
    let parts = Mutex::new(nodes.chunks(BATCH).zip(found.chunks_mut(BATCH * keep)).collect());
    on_threads(threads, || Kernel::get().run(Nearest { rows, columns, keep, cancel, parts: &parts }))?;
    Ok(found)
}

struct Nearest<'a, 'b> {
    rows: &'a Rows,
    columns: &'a Packed,
    keep: usize,
    cancel: &'a AtomicBool,
    parts: &'a Mutex<Vec<(&'b [Node], &'b mut [u32])>>,
}

impl Work for Nearest<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (mut pools, mut signed) = (Pools::new(self.keep), Signed::default());
        loop {
            let part = self.parts.lock().expect("no thread panics with the lock").pop();
            let Some((nodes, found)) = part.filter(|_| !self.cancel.load(Ordering::Relaxed)) else { break };
            signed.load(self.rows, nodes.iter().copied());
            pools.start(nodes.len());
            let which: Vec<u32> = (0..nodes.len() as u32).collect();
            pools.scan(isa, &signed, &which, self.columns, self.columns.nodes.len());
            for (row, found) in found.chunks_mut(self.keep).enumerate() {
                found.iter_mut().zip(pools.nearest(row)).for_each(|(found, key)| *found = Near::of_key(*key).node);
            }
        }
    }
}
