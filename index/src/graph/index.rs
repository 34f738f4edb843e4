//! A graph bound to rows: which row is which node, which rows stand aside.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use xxhash_rust::xxh3::Xxh3;

use super::{Graph, GraphBuilder, Metric, Node};
use crate::config::HnswParams;
use crate::distance::Distance;
use crate::rows::{Row, Rows};
use crate::vector::is_zero;

/// A build fails if the audit finds more than one node in so many unreachable. Fewer are scanned exactly.
const MOST_ORPHANS: usize = 100;

/// A graph over the rows that lived when it was built.
pub(crate) struct Index {
    graph: Graph,
    /// The rows as they were: a node's vector is read from here, whether its rows live or not.
    rows: Arc<Rows>,
    /// By node, the first row with its vector.
    first_rows: Vec<Row>,
    /// By node, its further rows; most nodes have none.
    further_rows: HashMap<Node, Vec<Row>>,
    /// Rows that are not in the graph and are scanned: zero vectors under Cosine, and what no walk can reach.
    side: Vec<Row>,
}

impl Index {
    /// Builds over the live rows. `Ok(None)` when cancelled.
    pub(crate) fn build(
        rows: Arc<Rows>,
        distance: Distance,
        builder: &dyn GraphBuilder,
        params: &HnswParams,
        cancel: &AtomicBool,
    ) -> Result<Option<Self>, String> {
        let mut side = Vec::new();
        let (mut first_rows, mut further_rows) = (Vec::new(), HashMap::<Node, Vec<Row>>::new());
        let mut nodes_by_hash: HashMap<u64, Vec<Node>> = HashMap::new();
        for row in rows.live_from(0) {
            let vector = rows.vector(row);
            if distance == Distance::Cosine && is_zero(vector) {
                side.push(row);
                continue;
            }
            let same_hash = nodes_by_hash.entry(hash(vector)).or_default();
            match same_hash.iter().find(|node| rows.vector(first_rows[**node as usize]) == vector) {
                Some(node) => further_rows.entry(*node).or_default().push(row),
                None => {
                    same_hash.push(first_rows.len() as Node);
                    first_rows.push(row);
                }
            }
        }
        drop(nodes_by_hash);
        if first_rows.is_empty() {
            return Err("every vector is zero".to_owned());
        }
        let (vectors, metric) = vectors_for_builder(&rows, &first_rows, distance);
        let Some(graph) = builder.build(&vectors, metric, params, cancel)? else { return Ok(None) };
        drop(vectors);
        let orphans = graph.unreachable();
        if orphans.len() > first_rows.len() / MOST_ORPHANS {
            return Err(format!("{} of {} nodes of the graph cannot be reached", orphans.len(), first_rows.len()));
        }
        for node in orphans {
            side.push(first_rows[node as usize]);
            side.extend(further_rows.remove(&node).into_iter().flatten());
        }
        Ok(Some(Self { graph, rows, first_rows, further_rows, side }))
    }

    /// Rows from this one on are newer than the graph.
    pub(crate) fn covered(&self) -> Row {
        self.rows.len() as Row
    }

    /// Live rows when the graph was built.
    pub(crate) fn built_over(&self) -> usize {
        self.rows.live()
    }

    /// Rows now live that this index answers for.
    pub(crate) fn live_rows(&self, now: &Rows) -> usize {
        now.live() - now.live_from(self.covered()).count()
    }

    /// Rows beside the graph that live in `now`.
    pub(crate) fn side_rows(&self, now: &Rows) -> impl Iterator<Item = Row> {
        self.side.iter().copied().filter(|row| now.is_live(*row))
    }

    /// About `ef` rows near `query` that live in `now` and are wanted. `None`: a scan is cheaper.
    pub(crate) fn walk(&self, now: &Rows, query: &[f32], distance: Distance, ef: usize, wanted: impl Fn(Row) -> bool) -> Option<Vec<Row>> {
        let nodes = self.graph.nodes();
        if ef >= nodes / 2 {
            return None;
        }
        let nearness = |node: Node| distance.nearness(query, self.rows.vector(self.first_rows[node as usize]));
        let found = self.graph.walk(ef, nodes / 2, nearness, |node| self.rows_of(node).any(|row| now.is_live(row) && wanted(row)))?;
        Some(found.into_iter().flat_map(|node| self.rows_of(node)).filter(|row| now.is_live(*row)).collect())
    }

    fn rows_of(&self, node: Node) -> impl Iterator<Item = Row> {
        let further = self.further_rows.get(&node).map_or(&[][..], Vec::as_slice);
        std::iter::once(self.first_rows[node as usize]).chain(further.iter().copied())
    }
}

fn hash(vector: &[f32]) -> u64 {
    let mut hash = Xxh3::new();
    for x in vector {
        // -0 equals 0 and must hash alike.
        hash.update(&(x + 0.0).to_bits().to_le_bytes());
    }
    hash.digest()
}

/// The vectors as a builder can compare them.
///
/// Dot is no metric: the nearest of a short vector is some long one, and links built so lead nowhere. Each vector x gets
/// one more dimension, √(M² − |x|²) with M the longest length, and a query 0: then all have length M, and the order by
/// Euclidean distance is the order by dot product (<https://arxiv.org/abs/1405.5869>, XBOX). The walk itself compares
/// by plain dot products. Euclid and Dot are divided by M where squares would overflow f32; order does not change.
fn vectors_for_builder(rows: &Rows, first_rows: &[Row], distance: Distance) -> (Vec<Vec<f32>>, Metric) {
    let vectors = first_rows.iter().map(|row| rows.vector(*row));
    if distance == Distance::Cosine {
        return (vectors.map(<[f32]>::to_vec).collect(), Metric::UnitDot);
    }
    let squared = |vector: &[f32]| vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let longest = vectors.clone().map(squared).fold(0.0, f64::max);
    let scale = if distance == Distance::Dot || longest > 1e30 { 1.0 / longest.sqrt().max(f64::MIN_POSITIVE) } else { 1.0 };
    let scaled = vectors.map(|vector| {
        let mut scaled: Vec<f32> = vector.iter().map(|x| (f64::from(*x) * scale) as f32).collect();
        if distance == Distance::Dot {
            scaled.push((1.0 - squared(vector) * scale * scale).max(0.0).sqrt() as f32);
        }
        scaled
    });
    (scaled.collect(), Metric::Euclid)
}
