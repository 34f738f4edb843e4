//! Searching by clusters whose nodes lie one behind the other, and hold most of each other's links.
//!
//! Where the rows of a cluster are about as near to each other as any two of them, a walk that looks for the nearest comes by most
//! of the cluster, each row at a place of its own. To compare all of them in the order in which they lie takes less time. Which
//! clusters can hold one of the nearest is told by their middles and by how far their rows are spread.

use super::Segment;
use super::accepted::Accepted;
use super::compare::Compare;
use super::format::Kind;
use super::pool::{Offered, Ordered, Unordered};
use super::walk::{Compared, Effort, Exhausted, Scratch, Steps, Way};
use crate::build::Node;
use crate::kernel::Isa;

/// How far the rows of a cluster are spread around its middle, in the unit of the frame.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Spread {
    /// What turns the nearness of a middle into that of a row in its cluster, in the mean: less half the mean square of their distances
    /// from the middle, and under Cosine the addend that its nearness has over that under Euclid.
    pub(super) addend: f32,
    /// The standard deviation along a line.
    pub(super) deviation: f32,
}

impl Spread {
    /// How near the nearest row of a cluster can be, by the nearness of its middle: |q − x|² = |q − m|² + |m − x|² − 2⟨q − m, x − m⟩.
    #[inline(always)]
    fn reach(self, nearness: f32, query_square: f32) -> f32 {
        let distance = (query_square - 2.0 * nearness).max(0.0).sqrt();
        let reach = nearness + self.addend + REACH * self.deviation * distance;
        // Of what cannot be told nothing is left out.
        if reach > f32::NEG_INFINITY { reach } else { f32::INFINITY }
    }
}

/// The runs of a segment that has some.
#[derive(Clone, Copy)]
pub(super) struct Runs<'a> {
    /// For each layer, by cluster, where its nodes on no higher layer begin, and one more.
    starts: &'a [Node],
    spreads: &'a [Spread],
    /// By layer, its nodes.
    layers: &'a [u32],
}

impl<'a> Runs<'a> {
    pub(super) fn of(segment: &'a Segment) -> Option<Self> {
        let spreads = segment.section(Kind::Spreads);
        (!spreads.is_empty()).then(|| Self { starts: segment.section(Kind::Runs), spreads, layers: &segment.header.layers })
    }

    /// By layer, the starts of all clusters and the end of the last.
    pub(super) fn of_layers(self) -> impl Iterator<Item = &'a [Node]> {
        self.starts.chunks_exact(self.spreads.len() + 1)
    }

    /// By cluster, its nodes.
    pub(super) fn of_clusters(self) -> impl Iterator<Item = impl Iterator<Item = Node> + use<'a>> {
        let of_layer = move |cluster| move |starts: &'a [Node]| starts[cluster]..starts[cluster + 1];
        (0..self.spreads.len()).map(move |cluster| self.of_layers().flat_map(of_layer(cluster)))
    }

    /// Nodes of a cluster.
    fn size(self, cluster: usize) -> usize {
        self.of_layers().map(|starts| (starts[cluster + 1] - starts[cluster]) as usize).sum()
    }

    /// The cluster of a node; for the entry point, the first.
    fn cluster_of(self, node: Node) -> usize {
        // Most nodes are on layer 0 alone.
        let layer = self.layers.iter().rposition(|nodes| node < *nodes).unwrap_or(0);
        let starts = &self.starts[layer * (self.spreads.len() + 1)..][..self.spreads.len()];
        starts.partition_point(|first| *first <= node).saturating_sub(1)
    }
}

/// What a thread keeps from one search by clusters to the next.
pub(super) struct ClusterScratch {
    /// By cluster, how near its nearest can be.
    reach: Vec<f32>,
    /// By cluster, if it was compared.
    entered: Vec<bool>,
    nearness: Vec<f32>,
}

impl ClusterScratch {
    pub(super) const NEW: Self = Self { reach: Vec::new(), entered: Vec::new(), nearness: Vec::new() };
}

/// All nodes of the clusters that can hold one of the nearest, the nearest cluster first, and what links from the best lead to if
/// many are to be kept; `budget` at most.
pub(super) struct ByRuns<'a> {
    pub(super) runs: Runs<'a>,
    pub(super) budget: usize,
}

impl Way for ByRuns<'_> {
    #[inline(always)]
    fn find<I: Isa, C: Compare>(self, steps: &Steps<'_, I>, compared: Compared<'_, C>, scratch: &mut Scratch) -> Result<usize, Exhausted> {
        steps.by_runs(compared, self.runs, self.budget, scratch)
    }
}

/// Which nodes this search has met, and room for how near those of a cluster are.
struct Marks<'a> {
    stamps: &'a mut [u8],
    stamp: u8,
    nearness: &'a mut Vec<f32>,
}

impl<I: Isa> Steps<'_, I> {
    #[inline(always)]
    fn by_runs<C: Compare>(
        &self,
        Compared { nodes: compare, middles, query }: Compared<'_, C>,
        runs: Runs<'_>,
        budget: usize,
        scratch: &mut Scratch,
    ) -> Result<usize, Exhausted> {
        self.forget(scratch);
        let accepted = self.accepted();
        let ClusterScratch { reach, entered, .. } = &mut scratch.clusters;
        let clusters = runs.spreads.len();
        reach.clear();
        reach.resize(clusters, 0.0);
        self.compare_run(middles, 0, reach);
        entered.clear();
        entered.resize(clusters, false);
        // Nobody would be accepted there.
        let passed_over = self.accepted_in_clusters().iter().map(|any| !any);
        for ((reach, entered), is_none) in reach.iter_mut().zip(entered.iter_mut()).zip(passed_over) {
            *entered = is_none;
            *reach = if is_none { f32::NEG_INFINITY } else { *reach };
        }
        let mut next = largest(reach).0;
        let square = self.isa.dot(query, query);
        for ((reach, spread), entered) in reach.iter_mut().zip(runs.spreads).zip(entered.iter()) {
            *reach = if *entered { f32::NEG_INFINITY } else { spread.reach(*reach, square) };
        }
        let mut compared = clusters;
        let Scratch { pool, stamps, stamp, clusters: ClusterScratch { reach, entered, nearness }, .. } = scratch;
        let mut nearest = Unordered::of(pool, self.effort.ef);
        loop {
            compared += runs.size(next);
            if compared > budget {
                return Err(Exhausted);
            }
            entered[next] = true;
            self.enter(compare, runs, next, accepted, Marks { stamps, stamp: *stamp, nearness }, &mut nearest);
            nearest.cut();
            reach[next] = f32::NEG_INFINITY;
            let (farther, within) = largest(reach);
            if within == f32::NEG_INFINITY || within < nearest.bar() {
                break;
            }
            next = farther;
        }
        nearest.sort();
        // Who keeps many wants more recall than that can give.
        let followed = self.effort.ef / FOLLOWED;
        if followed == 0 {
            return Ok(self.effort.ef);
        }
        let steps = self.with(Effort { patience: followed - 1, ..self.effort });
        steps.nearest(compare, compared, budget, scratch, |from, scratch| {
            let cluster = runs.cluster_of(from);
            let Scratch { pool, stamps, stamp, clusters: ClusterScratch { entered, nearness, .. }, .. } = scratch;
            let (mut cost, mut nearest) = (0, Ordered { pool, ef: self.effort.ef, changed: self.effort.ef });
            if !std::mem::replace(&mut entered[cluster], true) {
                cost = runs.size(cluster);
                self.enter(compare, runs, cluster, accepted, Marks { stamps, stamp: *stamp, nearness }, &mut nearest);
            }
            let changed = nearest.changed;
            let met = match accepted {
                None => self.meet(from, scratch),
                Some(accepted) => self.meet_accepted(compare, from, accepted, scratch),
            };
            (cost + met, changed)
        })
    }

    /// Compares all nodes of a cluster, offers those that are accepted to a pool, and marks all as met.
    #[inline(always)]
    fn enter<C: Compare>(
        &self,
        compare: C,
        runs: Runs<'_>,
        cluster: usize,
        accepted: Option<Accepted<'_>>,
        Marks { stamps, stamp, nearness }: Marks<'_>,
        nearest: &mut impl Offered,
    ) {
        for starts in runs.of_layers() {
            let (start, end) = (starts[cluster], starts[cluster + 1]);
            let stamps = &mut stamps[start as usize..end as usize];
            nearness.clear();
            nearness.resize(stamps.len(), 0.0);
            self.compare_run(compare, start, nearness);
            for ((nearness, met), node) in nearness.iter().zip(&*stamps).zip(start..) {
                // Links may have led to some before.
                if *nearness >= nearest.bar() && *met != stamp && accepted.is_none_or(|accepted| accepted.has(node)) {
                    nearest.offer(*nearness, node);
                }
            }
            stamps.fill(stamp);
        }
    }

    /// How near the nodes from `first` on are, as many as `nearness` holds.
    #[inline(always)]
    fn compare_run<C: Compare>(&self, compare: C, first: Node, nearness: &mut [f32]) {
        let end = first + nearness.len() as Node;
        compare.see(first..end);
        for node in first..end.min(first + AHEAD) {
            compare.prefetch(self.isa, node);
        }
        let (fours, rest) = nearness.as_chunks_mut::<4>();
        let mut node = first;
        for four in fours {
            if node + AHEAD + 4 <= end {
                for ahead in AHEAD..AHEAD + 4 {
                    compare.prefetch(self.isa, node + ahead);
                }
            }
            *four = compare.nearness_of_four(self.isa, [node, node + 1, node + 2, node + 3]);
            node += 4;
        }
        for nearness in rest {
            *nearness = compare.nearness(self.isa, node);
            node += 1;
        }
    }
}

/// The largest number, and its place.
#[inline(always)]
fn largest(numbers: &[f32]) -> (usize, f32) {
    // In sixteen lanes, for vector instructions.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = numbers.as_chunks::<16>();
    for chunk in chunks {
        for (lane, number) in lanes.iter_mut().zip(chunk) {
            *lane = if *number > *lane { *number } else { *lane };
        }
    }
    let largest = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    (numbers.iter().position(|number| *number == largest).unwrap_or(0), largest)
}

/// Standard deviations from its middle at which a cluster can hold a row that is one of the nearest.
const REACH: f32 = 2.5;
/// Links are followed until one in so many of the candidates that are kept, one after the other, led to none of the best.
const FOLLOWED: usize = 16;
/// Rows asked for ahead of the one being compared.
const AHEAD: Node = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_out_of_any_measure_is_never_left_out() {
        for (addend, deviation) in [(f32::NEG_INFINITY, f32::INFINITY), (f32::NEG_INFINITY, 0.0), (f32::NAN, 1.0), (f32::INFINITY, 0.0)] {
            assert_eq!(Spread { addend, deviation }.reach(0.5, 2.0), f32::INFINITY);
        }
        let spread = Spread { addend: -1.0, deviation: 0.2 };
        assert_eq!(spread.reach(-3.5, 2.0), -3.0);
        assert!(spread.reach(-3.5, f32::INFINITY) > f32::MAX);
    }

    #[test]
    fn the_largest_is_found_in_its_first_place() {
        for length in [1, 15, 16, 17, 40] {
            for place in 0..length {
                let mut numbers = vec![-2.0; length];
                numbers[place] = 1.5;
                *numbers.last_mut().unwrap() = 1.5;
                assert_eq!(largest(&numbers), (place, 1.5), "{length}");
            }
        }
        assert_eq!(largest(&[f32::NAN, f32::NEG_INFINITY, 3.0]), (2, 3.0));
        assert_eq!(largest(&[f32::NEG_INFINITY; 20]).1, f32::NEG_INFINITY);
    }
}
