//! Graphs to search in: the seam behind which builders stand, what every graph goes through afterwards, and its form.
//!
//! A builder gets distinct vectors and gives links ([`GraphBuilder`]). Whoever built it, a graph is then audited: a node that
//! no walk can reach on layer 0 gets a link from a reachable neighbour of its own. What even that does not reach is
//! returned as left over, to be scanned. None of the builders guarantees reachability: a node's last link to it can be
//! pruned by another.

mod hnsw_rs;
mod own;

use std::sync::atomic::AtomicBool;

pub(crate) use self::hnsw_rs::HnswRs;
pub(crate) use self::own::Own;

/// A node of a graph: the position of a distinct vector, those on more layers first.
pub(crate) type Node = u32;

/// Links a list can hold; a walk's buffers are made for it.
pub(crate) const MOST_LINKS: usize = 512;

/// Which builder makes the graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Builder {
    /// Our own, on int8 codes.
    #[default]
    Own,
    /// hnsw_rs, on f32: slower; kept to check the other against.
    HnswRs,
}

/// What a builder can be told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BuildParams {
    /// Links a node keeps on the upper layers; twice or three times as many on layer 0. From 2 to 127.
    pub(crate) m: usize,
    /// Candidates kept while building.
    pub(crate) ef_construction: usize,
    pub(crate) threads: usize,
    pub(crate) seed: u64,
}

/// Distinct vectors, near which is Euclid: where it is not (Dot), they come augmented so that it is.
pub(crate) trait Vectors: Sync {
    fn len(&self) -> usize;
    /// Dimensions.
    fn size(&self) -> usize;
    /// Writes vector `i` out.
    fn copy(&self, i: usize, out: &mut [f32]);
}

/// Makes the links of a graph.
pub(crate) trait GraphBuilder {
    /// `Ok(None)` when cancelled; an error says what went wrong in words. There is at least one vector.
    fn build(&self, vectors: &dyn Vectors, params: &BuildParams, cancel: &AtomicBool) -> Result<Option<Graph>, String>;
}

impl Builder {
    pub(crate) fn builder(self) -> &'static dyn GraphBuilder {
        match self {
            Self::Own => &Own,
            Self::HnswRs => &HnswRs,
        }
    }
}

/// Links of all nodes, and which vector each node is. A walk starts at node 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    /// By node, the vector that it is.
    pub(crate) vectors: Vec<u32>,
    /// Layer 0 first. A layer holds the nodes from 0 up to some number, which falls from layer to layer.
    pub(crate) layers: Vec<Layer>,
    /// Where the nodes of clusters begin that hold most links of theirs, if the builder found such: for each layer, among
    /// its nodes that are on no higher one, by cluster, and one more.
    pub(crate) runs: Vec<Vec<Node>>,
}

/// The links of node `i` are `links[starts[i]..starts[i + 1]]`, the nearest first.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) starts: Vec<usize>,
    pub(crate) links: Vec<Node>,
}

impl Layer {
    pub(crate) fn from_lists<L: AsRef<[Node]>>(lists: impl IntoIterator<Item = L>) -> Self {
        let mut layer = Self { starts: vec![0], links: Vec::new() };
        for list in lists {
            layer.links.extend_from_slice(list.as_ref());
            layer.starts.push(layer.links.len());
        }
        layer
    }

    pub(crate) fn nodes(&self) -> usize {
        self.starts.len() - 1
    }

    pub(crate) fn links(&self, node: Node) -> &[Node] {
        &self.links[self.starts[node as usize]..self.starts[node as usize + 1]]
    }
}

/// What the audit found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Audit {
    /// Nodes that could not be reached, before the repair.
    pub(crate) orphans: usize,
    /// Nodes that cannot be reached after it either.
    pub(crate) left: Vec<Node>,
}

impl Graph {
    /// Adds the links that make every node reachable on layer 0 from node 0, where that can be had.
    pub(crate) fn repair(&mut self) -> Audit {
        let Some(layer) = self.layers.first_mut() else { return Audit::default() };
        let nodes = layer.nodes();
        let mut seen = vec![false; nodes];
        let mut open = vec![0 as Node];
        seen[0] = true;
        visit(layer, &mut seen, &mut open);
        let mut left: Vec<Node> = (0..nodes as Node).filter(|node| !seen[*node as usize]).collect();
        let orphans = left.len();
        let mut added: Vec<(Node, Node)> = Vec::new();
        // An orphan's own links are to its nearest. One that has only orphans waits until one of those is reachable.
        loop {
            let before = left.len();
            left.retain(|orphan| {
                if seen[*orphan as usize] {
                    return false;
                }
                let room = |node: &Node| layer.links(*node).len() + added.iter().filter(|(from, _)| from == node).count() < MOST_LINKS;
                let Some(from) = layer.links(*orphan).iter().copied().find(|link| seen[*link as usize] && room(link)) else { return true };
                added.push((from, *orphan));
                seen[*orphan as usize] = true;
                open.push(*orphan);
                visit(layer, &mut seen, &mut open);
                false
            });
            if left.len() == before {
                break;
            }
        }
        if !added.is_empty() {
            added.sort_unstable();
            let mut links = Vec::with_capacity(layer.links.len() + added.len());
            let mut starts = vec![0];
            let mut added = added.into_iter().peekable();
            for node in 0..nodes as Node {
                links.extend_from_slice(layer.links(node));
                while let Some((_, orphan)) = added.next_if(|(from, _)| *from == node) {
                    links.push(orphan);
                }
                starts.push(links.len());
            }
            *layer = Layer { starts, links };
        }
        Audit { orphans, left }
    }
}

/// Marks what can be reached from `open`, and empties it.
fn visit(layer: &Layer, seen: &mut [bool], open: &mut Vec<Node>) {
    while let Some(node) = open.pop() {
        for next in layer.links(node) {
            if !std::mem::replace(&mut seen[*next as usize], true) {
                open.push(*next);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    impl Vectors for Vec<Vec<f32>> {
        fn len(&self) -> usize {
            self.len()
        }

        fn size(&self) -> usize {
            self[0].len()
        }

        fn copy(&self, i: usize, out: &mut [f32]) {
            out.copy_from_slice(&self[i]);
        }
    }

    /// Whenever it is cancelled, it says so or was done already.
    #[test]
    fn a_build_that_is_cancelled_at_any_moment_ends() {
        let vectors = clustered(31, 6000, 16);
        let params = BuildParams { m: 8, ef_construction: 40, threads: 2, seed: 1 };
        let mut cancelled = 0;
        for microseconds in (0..200).map(|i| 300 * i) {
            let cancel = AtomicBool::new(false);
            let built = std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(std::time::Duration::from_micros(microseconds));
                    cancel.store(true, std::sync::atomic::Ordering::Relaxed);
                });
                Own.build(&vectors, &params, &cancel).unwrap()
            });
            cancelled += u32::from(built.is_none());
        }
        assert!(cancelled > 20, "{cancelled} of 200 were cancelled");
    }

    /// All but one have the same code then, and k-means one middle for them.
    #[test]
    fn one_vector_far_from_all_others_does_not_end_a_build() {
        let mut vectors = clustered(32, 6000, 16);
        vectors[4321] = vec![1e30; 16];
        let params = BuildParams { m: 8, ef_construction: 40, threads: 2, seed: 1 };
        let graph = Own.build(&vectors, &params, &AtomicBool::new(false)).unwrap().unwrap();
        assert_eq!(graph.layers[0].nodes(), 6000);
    }

    /// Gaussian clusters, as images have.
    pub(crate) fn clustered(seed: u64, count: usize, size: usize) -> Vec<Vec<f32>> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = || (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0;
        let centres: Vec<Vec<f32>> = (0..32).map(|_| (0..size).map(|_| normal()).collect()).collect();
        (0..count).map(|i| centres[i * 7 % 32].iter().map(|x| x + 0.7 * normal()).collect()).collect()
    }

    fn squared(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
    }

    /// Best-first search on layer 0, as plain as can be.
    fn search(graph: &Graph, vectors: &[Vec<f32>], query: &[f32], ef: usize) -> Vec<u32> {
        let distance = |node: Node| squared(query, &vectors[graph.vectors[node as usize] as usize]);
        let mut seen = vec![false; vectors.len()];
        let mut pool = vec![(distance(0), 0, false)];
        seen[0] = true;
        while let Some(next) = pool.iter().position(|(.., expanded)| !expanded) {
            pool[next].2 = true;
            for link in graph.layers[0].links(pool[next].1) {
                if !std::mem::replace(&mut seen[*link as usize], true) {
                    pool.push((distance(*link), *link, false));
                }
            }
            pool.sort_by(|a, b| a.0.total_cmp(&b.0));
            pool.truncate(ef);
        }
        pool.iter().map(|(_, node, _)| graph.vectors[*node as usize]).collect()
    }

    const PARAMS: BuildParams = BuildParams { m: 8, ef_construction: 60, threads: 2, seed: 1 };

    fn contract(builder: &dyn GraphBuilder) {
        let vectors = clustered(1, 3000, 20);
        let mut graph = builder.build(&vectors, &PARAMS, &AtomicBool::new(false)).unwrap().unwrap();
        let mut named = graph.vectors.clone();
        named.sort_unstable();
        assert!(named.into_iter().eq(0..3000), "each vector is one node");
        for (level, layer) in graph.layers.iter().enumerate() {
            assert!(level == 0 || (1..=graph.layers[level - 1].nodes()).contains(&layer.nodes()));
            for node in 0..layer.nodes() as Node {
                let links = layer.links(node);
                assert!(links.len() <= if level == 0 { 3 * PARAMS.m } else { PARAMS.m }.max(16));
                assert!(links.iter().all(|link| (*link as usize) < layer.nodes() && *link != node));
            }
        }
        graph.repair();
        assert_eq!(graph.repair(), Audit::default(), "after the repair every node is reachable");
        let queries = clustered(1, 3100, 20).split_off(3000);
        let mut found = 0;
        for query in &queries {
            let mut nearest: Vec<u32> = (0..3000).collect();
            nearest.sort_by(|a, b| squared(query, &vectors[*a as usize]).total_cmp(&squared(query, &vectors[*b as usize])));
            let answer = search(&graph, &vectors, query, 60);
            found += nearest[..10].iter().filter(|row| answer[..10].contains(row)).count();
        }
        assert!(found > 980, "{found} of 1000 nearest were found");
        assert!(builder.build(&vectors, &PARAMS, &AtomicBool::new(true)).unwrap().is_none(), "a build can be cancelled");
        for few in 1..6 {
            let graph = builder.build(&clustered(2, few, 3), &PARAMS, &AtomicBool::new(false)).unwrap().unwrap();
            assert_eq!((graph.vectors.len(), graph.layers[0].nodes()), (few, few));
        }
    }

    #[test]
    fn our_builder_builds_graphs_that_can_be_searched() {
        contract(&Own);
    }

    #[test]
    fn hnsw_rs_builds_graphs_that_can_be_searched() {
        contract(&HnswRs);
    }

    #[test]
    fn the_same_seed_gives_the_same_graph_on_any_number_of_threads() {
        // Few enough to compare all with all, and so many that clusters are made.
        for count in [500, 3000] {
            let vectors = clustered(3, count, 10);
            let build =
                |threads, seed| Own.build(&vectors, &BuildParams { threads, seed, ..PARAMS }, &AtomicBool::new(false)).unwrap().unwrap();
            let (one, again, other) = (build(1, 1), build(3, 1), build(1, 2));
            assert_eq!((&one.vectors, &one.layers[0].links), (&again.vectors, &again.layers[0].links));
            assert_ne!(one.layers[0].links, other.layers[0].links);
        }
    }

    #[test]
    fn the_repair_links_orphans_from_their_reachable_neighbours_and_names_the_rest() {
        // A ring of ten; 10 and 11 link into it, 11 only through 10; 12 and 13 link only to one another.
        let mut lists: Vec<Vec<Node>> = (0..10).map(|i| vec![(i + 1) % 10, (i + 9) % 10]).collect();
        lists.extend([vec![3, 4], vec![10], vec![13], vec![12]]);
        let mut graph = Graph { vectors: (0..14).collect(), layers: vec![Layer::from_lists(lists)], runs: Vec::new() };
        assert_eq!(graph.repair(), Audit { orphans: 4, left: vec![12, 13] });
        assert_eq!(graph.layers[0].links(3), [4, 2, 10]);
        assert_eq!(graph.layers[0].links(10), [3, 4, 11]);
        assert_eq!(graph.layers[0].links(9), [0, 8]);
    }
}
