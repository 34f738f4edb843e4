//! How near a node is to a query, by each width of codes and by full rows.

use super::first_reads::Reader;
use super::{FURTHER, Row, Segment};
use crate::build::Node;
use crate::codes::{Factors, Query, of_halves};
use crate::distance::Distance;
use crate::kernel::{BLOCK, Block, Isa};

/// Cache lines that are asked for of a row.
const LINES: usize = 8;

/// How near a node is to the query, by whatever the segment keeps for that.
pub(super) trait Compare: Copy {
    fn nearness<I: Isa>(self, isa: I, node: Node) -> f32;
    fn prefetch<I: Isa>(self, isa: I, node: Node);
    /// Cache lines that it asks for.
    fn lines(self) -> usize;
    /// Sees to it that what these nodes are compared by was hashed. Before they are compared, and for many at a time: in between it would
    /// cost a twentieth of a comparison.
    fn see(self, nodes: impl Iterator<Item = Node>);

    /// Nodes that take less time together than one after the other: 1 or 4.
    const TOGETHER: usize = 1;

    /// The same of four.
    #[inline(always)]
    fn nearness_of_four<I: Isa>(self, isa: I, nodes: [Node; 4]) -> [f32; 4] {
        let mut found = [0.0; 4];
        // No `map`: its closure would be compiled without the instructions.
        for (found, node) in found.iter_mut().zip(nodes) {
            *found = self.nearness(isa, node);
        }
        found
    }

    /// The same of one to [`Self::TOGETHER`] nodes; what is past them has no meaning.
    #[inline(always)]
    fn nearness_of_some<I: Isa>(self, isa: I, nodes: &[Node]) -> [f32; 4] {
        if Self::TOGETHER == 1 {
            return [self.nearness(isa, nodes[0]), 0.0, 0.0, 0.0];
        }
        if nodes.len() < 4 && !I::FOUR_IN_ONE {
            let mut found = [0.0; 4];
            for (found, node) in found.iter_mut().zip(nodes) {
                *found = self.nearness(isa, *node);
            }
            return found;
        }
        let four = match *nodes {
            [a, b, c, d, ..] => [a, b, c, d],
            [a, b, c] => [a, b, c, c],
            [a, b] => [a, b, b, b],
            [a] => [a; 4],
            [] => return [0.0; 4],
        };
        self.nearness_of_four(isa, four)
    }
}

/// Codes of all nodes, `blocks` each.
#[derive(Clone, Copy)]
pub(super) struct Coded<'a> {
    pub(super) codes: &'a [Block],
    pub(super) blocks: usize,
    pub(super) factors: &'a [Factors],
    pub(super) query: &'a Query,
    /// `None`: they were hashed.
    pub(super) reader: Option<Reader<'a>>,
}

impl Coded<'_> {
    #[inline(always)]
    fn row(&self, node: Node) -> (&[Block], Factors) {
        let node = node as usize;
        debug_assert!(node < self.factors.len());
        // SAFETY: opening checked that every link and every node of a run is below the number of nodes, and that there is a code and there are
        // factors for each node.
        unsafe { (self.codes.get_unchecked(node * self.blocks..(node + 1) * self.blocks), *self.factors.get_unchecked(node)) }
    }

    #[inline(always)]
    fn fetch<I: Isa>(&self, isa: I, node: Node) {
        self.prefetch_factors(isa, node);
        isa.prefetch(self.row(node).0, self.lines());
    }

    #[inline(always)]
    fn prefetch_factors<I: Isa>(&self, isa: I, node: Node) {
        debug_assert!((node as usize) < self.factors.len());
        // SAFETY: as in `row`.
        isa.prefetch(unsafe { self.factors.get_unchecked(node as usize..) }, 1);
    }

    #[inline(always)]
    fn lines(&self) -> usize {
        self.blocks.min(LINES)
    }

    #[inline(always)]
    fn see(&self, nodes: impl Iterator<Item = Node>) {
        if let Some(reader) = self.reader {
            reader.see(nodes);
        }
    }

    /// What a product of a row's code with the query's stands for.
    #[inline(always)]
    fn nearness(&self, product: i32, scale: f32, bias: f32) -> f32 {
        product as f32 * (scale * self.query.scale) + bias
    }

    /// The same of four.
    #[inline(always)]
    fn nearness_of_four(&self, products: [i32; 4], factors: [Factors; 4]) -> [f32; 4] {
        let mut found = [0.0; 4];
        for (found, (product, factors)) in found.iter_mut().zip(products.into_iter().zip(factors)) {
            *found = self.nearness(product, factors.scale, factors.bias);
        }
        found
    }
}

#[derive(Clone, Copy)]
pub(super) struct ByInt8<'a>(pub(super) Coded<'a>);

impl Compare for ByInt8<'_> {
    const TOGETHER: usize = 4;

    #[inline(always)]
    fn nearness<I: Isa>(self, isa: I, node: Node) -> f32 {
        let (code, factors) = self.0.row(node);
        self.0.nearness(isa.dot_i8(code, &self.0.query.bytes), factors.scale, factors.bias)
    }

    #[inline(always)]
    fn nearness_of_four<I: Isa>(self, isa: I, nodes: [Node; 4]) -> [f32; 4] {
        let rows = nodes.map(|node| self.0.row(node));
        let products = isa.dot_i8_of_four(rows.map(|(code, _)| code), &self.0.query.bytes);
        self.0.nearness_of_four(products, rows.map(|(_, factors)| factors))
    }

    #[inline(always)]
    fn prefetch<I: Isa>(self, isa: I, node: Node) {
        self.0.fetch(isa, node);
    }

    #[inline(always)]
    fn lines(self) -> usize {
        self.0.lines()
    }

    #[inline(always)]
    fn see(self, nodes: impl Iterator<Item = Node>) {
        self.0.see(nodes);
    }
}

/// By the upper halves of int8 codes; [`Self::refined`] by both.
#[derive(Clone, Copy)]
pub(super) struct ByHalves<'a> {
    pub(super) coded: Coded<'a>,
    pub(super) whole_scales: &'a [f32],
}

impl ByHalves<'_> {
    /// What [`ByInt8`] gives.
    #[inline(always)]
    pub(super) fn refined<I: Isa>(self, isa: I, node: Node) -> f32 {
        let (code, factors) = self.coded.row(node);
        let (upper, lower) = code.split_at(self.coded.blocks / 2);
        let query = self.coded.query;
        let product = of_halves(isa.dot_i4(upper, &query.bytes), isa.dot_i4(lower, &query.bytes), query.bytes.sum);
        self.coded.nearness(product, self.whole_scales[node as usize], factors.bias)
    }

    /// Asks for the lower halves too.
    #[inline(always)]
    pub(super) fn prefetch_all<I: Isa>(self, isa: I, node: Node) {
        isa.prefetch(self.coded.row(node).0, self.coded.blocks.min(2 * LINES));
    }

    #[inline(always)]
    fn upper(&self, node: Node) -> (&[Block], Factors) {
        let (code, factors) = self.coded.row(node);
        (&code[..self.coded.blocks / 2], factors)
    }
}

impl Compare for ByHalves<'_> {
    const TOGETHER: usize = 4;

    #[inline(always)]
    fn nearness<I: Isa>(self, isa: I, node: Node) -> f32 {
        let ((upper, factors), query) = (self.upper(node), self.coded.query);
        // The lower ones for what they are in the mean.
        let product = of_halves(isa.dot_i4(upper, &query.bytes), 0, query.bytes.sum);
        self.coded.nearness(product, factors.scale, factors.bias)
    }

    #[inline(always)]
    fn nearness_of_four<I: Isa>(self, isa: I, nodes: [Node; 4]) -> [f32; 4] {
        let rows = nodes.map(|node| self.upper(node));
        let query = self.coded.query;
        let products = isa.dot_i4_of_four(rows.map(|(upper, _)| upper), &query.bytes);
        let products = products.map(|product| of_halves(product, 0, query.bytes.sum));
        self.coded.nearness_of_four(products, rows.map(|(_, factors)| factors))
    }

    #[inline(always)]
    fn prefetch<I: Isa>(self, isa: I, node: Node) {
        self.coded.prefetch_factors(isa, node);
        isa.prefetch(self.coded.row(node).0, self.lines());
    }

    #[inline(always)]
    fn lines(self) -> usize {
        (self.coded.blocks / 2).min(LINES)
    }

    #[inline(always)]
    fn see(self, nodes: impl Iterator<Item = Node>) {
        self.coded.see(nodes);
    }
}

#[derive(Clone, Copy)]
pub(super) struct ByInt4<'a>(pub(super) Coded<'a>);

impl Compare for ByInt4<'_> {
    const TOGETHER: usize = 4;

    #[inline(always)]
    fn nearness<I: Isa>(self, isa: I, node: Node) -> f32 {
        let (code, factors) = self.0.row(node);
        self.0.nearness(isa.dot_i4(code, &self.0.query.bytes), factors.scale, factors.bias)
    }

    #[inline(always)]
    fn nearness_of_four<I: Isa>(self, isa: I, nodes: [Node; 4]) -> [f32; 4] {
        let rows = nodes.map(|node| self.0.row(node));
        let products = isa.dot_i4_of_four(rows.map(|(code, _)| code), &self.0.query.bytes);
        self.0.nearness_of_four(products, rows.map(|(_, factors)| factors))
    }

    #[inline(always)]
    fn prefetch<I: Isa>(self, isa: I, node: Node) {
        self.0.fetch(isa, node);
    }

    #[inline(always)]
    fn lines(self) -> usize {
        self.0.lines()
    }

    #[inline(always)]
    fn see(self, nodes: impl Iterator<Item = Node>) {
        self.0.see(nodes);
    }
}

#[derive(Clone, Copy)]
pub(super) struct ByF16<'a>(pub(super) Coded<'a>);

impl Compare for ByF16<'_> {
    #[inline(always)]
    fn nearness<I: Isa>(self, isa: I, node: Node) -> f32 {
        let (code, factors) = self.0.row(node);
        let floats = &self.0.query.floats;
        debug_assert!(2 * floats.len() <= code.len() * BLOCK);
        // SAFETY: a block may be read as half floats, and the blocks of a row hold one for each dimension of the query.
        let halves = unsafe { std::slice::from_raw_parts(code.as_ptr().cast::<u16>(), floats.len()) };
        isa.dot_f16(floats, halves) + factors.bias
    }

    #[inline(always)]
    fn prefetch<I: Isa>(self, isa: I, node: Node) {
        self.0.fetch(isa, node);
    }

    #[inline(always)]
    fn lines(self) -> usize {
        self.0.lines()
    }

    #[inline(always)]
    fn see(self, nodes: impl Iterator<Item = Node>) {
        self.0.see(nodes);
    }
}

/// By the full rows.
#[derive(Clone, Copy)]
pub(super) struct ByF32<'a> {
    pub(super) segment: &'a Segment,
    pub(super) vectors: &'a [f32],
    pub(super) node_rows: &'a [u32],
    pub(super) distance: Distance,
    pub(super) query: &'a [f32],
}

impl ByF32<'_> {
    #[inline(always)]
    fn row(&self, node: Node) -> Row {
        debug_assert!((node as usize) < self.node_rows.len());
        // SAFETY: opening checked that every link is below the number of nodes; there are no middles of these codes.
        unsafe { self.node_rows.get_unchecked(node as usize) & !FURTHER }
    }

    #[inline(always)]
    fn vector(&self, row: Row) -> &[f32] {
        let (row, size) = (row as usize, self.query.len());
        // SAFETY: opening checked that the row of every node is below the number of rows.
        unsafe { self.vectors.get_unchecked(row * size..(row + 1) * size) }
    }
}

impl Compare for ByF32<'_> {
    #[inline(always)]
    fn nearness<I: Isa>(self, isa: I, node: Node) -> f32 {
        let row = self.row(node);
        match self.distance {
            Distance::Cosine | Distance::Dot => isa.dot(self.vector(row), self.query),
            Distance::Euclid | Distance::Manhattan => -isa.squared_euclid(self.vector(row), self.query),
        }
    }

    #[inline(always)]
    fn prefetch<I: Isa>(self, isa: I, node: Node) {
        isa.prefetch(self.vector(self.row(node)), self.lines());
    }

    #[inline(always)]
    fn lines(self) -> usize {
        (4 * self.query.len()).div_ceil(BLOCK).min(LINES)
    }

    #[inline(always)]
    fn see(self, nodes: impl Iterator<Item = Node>) {
        if self.segment.reads_rows_first() {
            nodes.for_each(|node| self.segment.see(self.row(node)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SegmentParams;
    use super::super::format::Kind;
    use super::super::refine::halves;
    use super::super::tests::{PARAMS, input, tilted, write_and_open};
    use super::*;
    use crate::build::tests::clustered;
    use crate::codes::Codes;
    use crate::kernel::portable::Portable;
    use crate::kernel::{ByteQuery, Kernel, Work};

    /// How near each node is, alone and in groups of one to four.
    struct All<C> {
        compare: C,
        nodes: Node,
    }

    impl<C: Compare> Work for All<C> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> Vec<f32> {
            let Self { compare, nodes } = self;
            compare.see(0..nodes);
            let alone: Vec<f32> = (0..nodes).map(|node| compare.nearness(isa, node)).collect();
            for group in 1..=C::TOGETHER {
                let all: Vec<Node> = (0..nodes).collect();
                for some in all.chunks(group) {
                    let found = compare.nearness_of_some(isa, some);
                    some.iter().zip(found).for_each(|(node, found)| assert_eq!(found.to_bits(), alone[*node as usize].to_bits()));
                }
            }
            alone
        }
    }

    fn by_every_kernel(compare: impl Compare, nodes: Node, plain: impl Fn(usize) -> f32) {
        for kernel in Kernel::all() {
            let found = kernel.run(All { compare, nodes });
            for (node, found) in found.into_iter().enumerate() {
                assert_eq!(found.to_bits(), plain(node).to_bits(), "{}, node {node}", kernel.name());
            }
        }
    }

    /// What is read without a check is what slices and the portable kernel read.
    #[test]
    fn nodes_are_compared_by_what_lies_in_the_file_for_them() {
        let folder = tempfile::tempdir().unwrap();
        for (codes, vectors) in [
            (Codes::F32, clustered(41, 150, 37)),
            (Codes::F16, clustered(42, 150, 37)),
            (Codes::Int8, clustered(43, 150, 37)),
            (Codes::Int4, clustered(44, 150, 137)),
            (Codes::Int8, tilted(45, 150, 200)),
        ] {
            for distance in [Distance::Cosine, Distance::Dot, Distance::Euclid] {
                let segment = write_and_open(folder.path(), &input(distance, &vectors), &SegmentParams { codes, ..PARAMS });
                let nodes = segment.header.nodes() as Node;
                assert_eq!((nodes, segment.header.halves), (150, codes == Codes::Int8 && vectors[0].len() == 200));
                let vector = segment.vector(3).to_vec();
                let mut query = Query { floats: Vec::new(), bytes: ByteQuery { numbers: Vec::new(), sum: 0 }, scale: 0.0, unit: 0.0 };
                query.set(&vector, &segment.frame, distance, codes);
                let (all, factors) = (segment.section::<Block>(Kind::Codes), segment.section::<Factors>(Kind::Factors));
                let blocks = segment.header.blocks();
                let row = |node: usize| &all[node * blocks..][..blocks];
                let coded = Coded { codes: all, blocks, factors, query: &query, reader: None };
                let estimate = |product: i32, scale: f32, bias: f32| product as f32 * (scale * query.scale) + bias;
                match codes {
                    Codes::F32 => {
                        let (vectors, node_rows) = (segment.section(Kind::Vectors), segment.section::<u32>(Kind::NodeRows));
                        let compare = ByF32 { segment: &segment, vectors, node_rows, distance, query: &vector };
                        by_every_kernel(compare, nodes, |node| {
                            let row = segment.vector(node_rows[node] & !FURTHER);
                            match distance {
                                Distance::Euclid => -crate::distance::squared_euclid(row, &vector),
                                _ => crate::distance::dot(row, &vector),
                            }
                        });
                    }
                    Codes::F16 => by_every_kernel(ByF16(coded), nodes, |node| {
                        let bytes: Vec<u8> = row(node).iter().flat_map(|block| block.0).collect();
                        let halves: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|half| u16::from_le_bytes(*half)).collect();
                        Portable.dot_f16(&query.floats, &halves[..query.floats.len()]) + factors[node].bias
                    }),
                    Codes::Int4 => by_every_kernel(ByInt4(coded), nodes, |node| {
                        estimate(Portable.dot_i4(row(node), &query.bytes), factors[node].scale, factors[node].bias)
                    }),
                    Codes::Int8 if segment.header.halves => by_every_kernel(halves(&segment, &query), nodes, |node| {
                        let product = Portable.dot_i4(&row(node)[..blocks / 2], &query.bytes);
                        estimate(of_halves(product, 0, query.bytes.sum), factors[node].scale, factors[node].bias)
                    }),
                    Codes::Int8 => by_every_kernel(ByInt8(coded), nodes, |node| {
                        estimate(Portable.dot_i8(row(node), &query.bytes), factors[node].scale, factors[node].bias)
                    }),
                }
            }
        }
    }
}
