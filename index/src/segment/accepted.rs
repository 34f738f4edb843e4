//! Which rows of a segment may be answered, and which of its nodes stand for one.
//!
//! A walk asks of every link that it comes by whether its node is accepted. By rows that is two looks, the first into a column that
//! no cache near the processor holds; a bit for each node makes it one. These bits are made once a set of rows has been walked with
//! often enough to pay for them.

use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::format::Kind;
use super::runs::Runs;
use super::{Bits, FURTHER, Row, Segment};
use crate::build::Node;

/// Rows of one segment that may be answered: those that live, or pass a filter.
#[derive(Debug, Default)]
pub(crate) struct AcceptedRows {
    rows: Bits,
    /// The same of the segment with this serial number. Made of the rows, and gone when they change.
    nodes: OnceLock<(u64, ByNode)>,
    walks: AtomicUsize,
}

#[derive(Debug)]
struct ByNode {
    /// A bit a node.
    bits: Vec<u64>,
    /// By cluster that has runs: does any of its nodes stand for an accepted row?
    clusters: Vec<bool>,
}

impl AcceptedRows {
    /// Takes a row out. Was it there?
    pub(crate) fn remove(&mut self, row: Row) -> bool {
        let there = self.rows.remove(row);
        if there {
            (self.nodes, self.walks) = Default::default();
        }
        there
    }

    /// Bytes they take.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.rows.words()) + self.nodes.get().map_or(0, |(_, nodes)| size_of_val(&*nodes.bits) + nodes.clusters.len())
    }

    /// By cluster of the segment that has runs, whether there are any in it; empty as long as that is not known.
    pub(super) fn clusters(&self, segment: &Segment) -> &[bool] {
        self.nodes.get().filter(|(serial, _)| *serial == segment.serial).map_or(&[], |(_, nodes)| &nodes.clusters)
    }

    /// As a walk through the segment asks for them.
    pub(super) fn on<'a>(&'a self, segment: &'a Segment) -> Accepted<'a> {
        let accepted = Accepted { segment, node_rows: segment.section(Kind::NodeRows), rows: &self.rows, nodes: None };
        // Only one of those that walk at the same time makes them; the others need not wait for it.
        if self.nodes.get().is_none() && self.walks.fetch_add(1, Ordering::Relaxed) == 1 + accepted.node_rows.len() / NODES_A_WALK {
            let _ = self.nodes.set((segment.serial, accepted.by_node()));
        }
        let of_segment = self.nodes.get().filter(|(serial, _)| *serial == segment.serial);
        Accepted { nodes: of_segment.map(|(_, nodes)| &*nodes.bits), ..accepted }
    }
}

impl Deref for AcceptedRows {
    type Target = Bits;

    fn deref(&self) -> &Bits {
        &self.rows
    }
}

impl From<Bits> for AcceptedRows {
    fn from(rows: Bits) -> Self {
        Self { rows, ..Self::default() }
    }
}

impl FromIterator<Row> for AcceptedRows {
    fn from_iter<T: IntoIterator<Item = Row>>(rows: T) -> Self {
        rows.into_iter().collect::<Bits>().into()
    }
}

/// The rows alone: a copy is made to be changed.
impl Clone for AcceptedRows {
    fn clone(&self) -> Self {
        self.rows.clone().into()
    }
}

/// Bits are made before the second walk through fewer nodes than so many, before the third through fewer than twice as many, and so on: making
/// them takes about as long as walks by rows take longer until then (0.8 ns a node; of 59,000 × 512 features, half of them accepted,
/// walks of 0.15 and 0.25 ms take 0.03 and 0.05 ms less).
const NODES_A_WALK: usize = 1 << 16;

/// Which nodes stand for a row that may be answered.
#[derive(Clone, Copy)]
pub(super) struct Accepted<'a> {
    segment: &'a Segment,
    node_rows: &'a [u32],
    pub(super) rows: &'a Bits,
    nodes: Option<&'a [u64]>,
}

impl Accepted<'_> {
    /// A node that is a link or in a run.
    #[inline(always)]
    pub(super) fn has(&self, node: Node) -> bool {
        debug_assert!((node as usize) < self.node_rows.len());
        // SAFETY: opening checked that every link and every node of a run is below the number of nodes, for each of which there is a row
        // and, where there are bits, one of these.
        unsafe {
            match self.nodes {
                Some(nodes) => nodes.get_unchecked(node as usize / 64) >> (node % 64) & 1 == 1,
                None => self.leads(node, *self.node_rows.get_unchecked(node as usize)),
            }
        }
    }

    /// By the first row of the node, and by the others if there are.
    #[inline(always)]
    fn leads(&self, node: Node, row: u32) -> bool {
        let first = self.rows.contains(row & !FURTHER);
        if row & FURTHER == 0 { first } else { first || self.further(node) }
    }

    #[cold]
    fn further(&self, node: Node) -> bool {
        self.segment.further_rows(node).iter().any(|[_, row]| self.rows.contains(*row))
    }

    fn by_node(&self) -> ByNode {
        let is_one = |row: u32| u64::from(self.rows.contains(row & !FURTHER));
        let word = |rows: &[u32]| rows.iter().zip(0..).fold(0, |word, (row, bit)| word | is_one(*row) << bit);
        let mut bits: Vec<u64> = self.node_rows.chunks(64).map(word).collect();
        for [node, row] in self.segment.section::<[u32; 2]>(Kind::FurtherRows) {
            bits[*node as usize / 64] |= is_one(*row) << (node % 64);
        }
        let has = |node: Node| bits[node as usize / 64] >> (node % 64) & 1 == 1;
        let clusters = Runs::of(self.segment).map_or(Vec::new(), |runs| runs.of_clusters().map(|mut nodes| nodes.any(has)).collect());
        ByNode { bits, clusters }
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::distance::Distance;
    use crate::segment::tests::{PARAMS, input, write_and_open};

    #[test]
    fn who_is_accepted_is_the_same_by_rows_and_by_nodes() {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let mut vectors: Vec<Vec<f32>> = (0..500).map(|_| (0..24).map(|_| random.random_range(-1.0..1.0)).collect()).collect();
        // Identical ones share a node, which is accepted if one of them is; zero has none.
        vectors.extend_from_within(..60);
        vectors.extend_from_within(..20);
        vectors.push(vec![0.0; 24]);
        let input = input(Distance::Cosine, &vectors);
        let folder = tempfile::tempdir().unwrap();
        let segment = write_and_open(folder.path(), &input, &PARAMS);
        let nodes = segment.section::<u32>(Kind::NodeRows).len() as Node;
        assert_eq!(nodes, 500);
        for share in [0.0, 0.02, 0.5, 1.0] {
            let mut accept: AcceptedRows = (0..581).filter(|_| random.random_bool(share)).collect();
            for _ in 0..3 {
                let first = accept.on(&segment);
                assert!(first.nodes.is_none(), "they pay with the second walk");
                let by_rows: Vec<Node> = (0..nodes).filter(|node| first.has(*node)).collect();
                let second = accept.on(&segment);
                assert!(second.nodes.is_some());
                assert_eq!((0..nodes).filter(|node| second.has(*node)).collect::<Vec<_>>(), by_rows, "{share}");
                let passes = |vector: &Vec<f32>| (0..581).any(|row| vectors[row as usize] == *vector && accept.contains(row));
                assert!((0..nodes).all(|node| by_rows.contains(&node) == passes(&vectors[first_row(&segment, node)])));
                // They are gone with the first row that is taken out, of a copy too.
                let taken = accept.iter().next();
                let mut copy = accept.clone();
                assert_eq!(taken.is_some_and(|row| copy.remove(row)), taken.is_some());
                assert!(copy.on(&segment).nodes.is_none());
                match taken {
                    Some(row) => assert!(accept.remove(row) && !accept.remove(row)),
                    None => break,
                }
            }
        }
    }

    fn first_row(segment: &Segment, node: Node) -> usize {
        (segment.section::<u32>(Kind::NodeRows)[node as usize] & !FURTHER) as usize
    }

    #[test]
    fn a_walk_answers_the_same_once_it_goes_by_nodes() {
        let mut random = ChaCha8Rng::seed_from_u64(12);
        let vectors: Vec<Vec<f32>> = (0..2000).map(|_| (0..16).map(|_| random.random_range(-1.0..1.0)).collect()).collect();
        let input = input(Distance::Euclid, &vectors);
        let folder = tempfile::tempdir().unwrap();
        let segment = write_and_open(folder.path(), &input, &PARAMS);
        for share in [0.2, 0.6] {
            let accept: AcceptedRows = (0..2000).filter(|_| random.random_bool(share)).collect();
            let found: Vec<_> = (0..4).map(|_| segment.walk(&vectors[7], 40, 10, Some(&accept), usize::MAX).unwrap()).collect();
            assert_eq!(found[0].len(), 10);
            assert!(accept.nodes.get().is_some() && found.iter().all(|others| *others == found[0]), "{share}");
            // They are of no use to another segment, even of the same file.
            let again = write_and_open(folder.path(), &input, &PARAMS);
            assert!(accept.on(&segment).nodes.is_some() && accept.on(&again).nodes.is_none());
        }
    }
}
