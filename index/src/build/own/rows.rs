//! The int8 codes of all nodes: row by row, to compare one with another, and packed in groups of sixteen, to compare many
//! with many.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{no_memory, on_threads};
use crate::build::{Node, Vectors};
use crate::codes::{Codes, Encoder, Frame};
use crate::distance::Distance;
use crate::kernel::{BLOCK, Block, Column, Columns, Isa, Kernel, LANES, Work};
use crate::large_pages::LargePages;

/// Rows encoded between two looks at the cancel flag.
const BATCH: usize = 1024;

pub(super) struct Rows {
    pub(super) blocks: usize,
    codes: LargePages<Block>,
    /// Scales, and |y|² ÷ 2.
    pub(super) factors: Vec<Column>,
    /// Of each code's numbers.
    pub(super) sums: Vec<i32>,
}

/// A part of [`Rows`] that one thread fills.
struct Part<'a> {
    first: usize,
    codes: &'a mut [Block],
    factors: &'a mut [Column],
    sums: &'a mut [i32],
}

struct Encode<'a, 'b> {
    vectors: &'a dyn Vectors,
    order: &'a [u32],
    frame: &'a Frame,
    parts: &'a Mutex<Vec<Part<'b>>>,
    cancel: &'a AtomicBool,
}

impl Work for Encode<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) {
        let mut encoder = Encoder::new(self.frame, Distance::Euclid, Codes::Int8);
        let mut vector = vec![0.0; self.vectors.size()];
        let blocks = Codes::Int8.blocks(vector.len());
        loop {
            let part = self.parts.lock().expect("no thread panics with the lock").pop();
            let Some(part) = part.filter(|_| !self.cancel.load(Ordering::Relaxed)) else { break };
            for (i, code) in part.codes.chunks_mut(blocks).enumerate() {
                self.vectors.copy(self.order[part.first + i] as usize, &mut vector);
                let factors = encoder.encode(&vector, code);
                part.factors[i] = Column { scale: factors.scale, half_square: -factors.bias };
                part.sums[i] = sum(code);
            }
        }
    }
}

impl Rows {
    pub(super) fn new(count: usize, blocks: usize) -> Result<Self, String> {
        let codes = LargePages::new(count * blocks).map_err(no_memory)?;
        Ok(Self { blocks, codes, factors: vec![Column { scale: 0.0, half_square: 0.0 }; count], sums: vec![0; count] })
    }

    pub(super) fn encode(vectors: &dyn Vectors, order: &[u32], threads: usize, cancel: &AtomicBool) -> Result<Option<Self>, String> {
        let (count, size) = (order.len(), vectors.size());
        let blocks = Codes::Int8.blocks(size);
        let frame = Frame::around(size, count, |i, out| vectors.copy(i, out));
        let mut rows = Self::new(count, blocks)?;
        let columns = rows.factors.chunks_mut(BATCH).zip(rows.sums.chunks_mut(BATCH));
        let parts = rows.codes.chunks_mut(BATCH * blocks).zip(columns).enumerate();
        let parts = parts.map(|(i, (codes, (factors, sums)))| Part { first: i * BATCH, codes, factors, sums });
        let parts = Mutex::new(parts.collect::<Vec<_>>());
        on_threads(threads, || Kernel::get().run(Encode { vectors, order, frame: &frame, parts: &parts, cancel }))?;
        Ok((!cancel.load(Ordering::Relaxed)).then_some(rows))
    }

    /// Makes row `i` the code of `y`.
    pub(super) fn set(&mut self, i: usize, y: &[f32], encoder: &mut Encoder<'_>) {
        let code = &mut self.codes[i * self.blocks..(i + 1) * self.blocks];
        let factors = encoder.encode(y, code);
        self.factors[i] = Column { scale: factors.scale, half_square: -factors.bias };
        self.sums[i] = sum(code);
    }

    /// Makes row `i` the same as `node` of others.
    pub(super) fn copy(&mut self, i: usize, others: &Self, node: Node) {
        self.codes[i * self.blocks..(i + 1) * self.blocks].copy_from_slice(others.code(node));
        self.factors[i] = others.factors[node as usize];
        self.sums[i] = others.sums[node as usize];
    }

    /// Row `order[i]` becomes row `i`.
    pub(super) fn in_order(&self, order: &[u32], threads: usize) -> Result<Self, String> {
        let mut rows = Self::new(order.len(), self.blocks)?;
        let parts = Mutex::new(rows.codes.chunks_mut(BATCH * self.blocks).zip(order.chunks(BATCH)).collect::<Vec<_>>());
        // Together: most of it is waiting for the system to give memory.
        on_threads(threads, || {
            while let Some((codes, order)) = { parts.lock().expect("no thread panics with the lock").pop() } {
                codes.chunks_mut(self.blocks).zip(order).for_each(|(code, old)| code.copy_from_slice(self.code(*old)));
            }
        })?;
        rows.factors = order.iter().map(|old| self.factors[*old as usize]).collect();
        rows.sums = order.iter().map(|old| self.sums[*old as usize]).collect();
        Ok(rows)
    }

    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    #[inline(always)]
    pub(super) fn code(&self, node: Node) -> &[Block] {
        let first = node as usize * self.blocks;
        &self.codes[first..first + self.blocks]
    }

    /// Half the squared distance. The error of the codes can make it a little less than zero.
    #[inline(always)]
    pub(super) fn pair<I: Isa>(&self, isa: I, a: Node, b: Node) -> f32 {
        let product = isa.dot_rows(self.code(a), self.code(b), self.sums[b as usize]);
        let (a, b) = (self.factors[a as usize], self.factors[b as usize]);
        (a.half_square + b.half_square) - product as f32 * (a.scale * b.scale)
    }
}

#[inline(always)]
fn sum(code: &[Block]) -> i32 {
    let of_bytes: i32 = code.iter().map(|block| block.0.iter().map(|byte| i32::from(*byte)).sum::<i32>()).sum();
    of_bytes - 128 * (code.len() * BLOCK) as i32
}

/// Rows in groups of sixteen, as [`Isa::tile`] wants its columns.
pub(super) struct Packed {
    pub(super) nodes: Vec<Node>,
    pub(super) codes: Vec<Block>,
    pub(super) columns: Vec<Columns>,
}

impl Packed {
    pub(super) fn of(rows: &Rows, nodes: Vec<Node>) -> Self {
        let mut packed = Self { nodes, codes: Vec::new(), columns: Vec::new() };
        packed.fill(rows);
        packed
    }

    /// Copies the codes of the nodes.
    pub(super) fn fill(&mut self, rows: &Rows) {
        let groups = self.nodes.len().div_ceil(LANES);
        let size = rows.blocks * LANES;
        self.codes = vec![Block([128; BLOCK]); groups * size];
        // What fills up the last group is farther than anything.
        self.columns = vec![Columns { scales: [0.0; LANES], half_squares: [f32::INFINITY; LANES] }; groups];
        for ((codes, columns), nodes) in self.codes.chunks_mut(size).zip(&mut self.columns).zip(self.nodes.chunks(LANES)) {
            for (lane, node) in nodes.iter().enumerate() {
                for (blocks, code) in codes.chunks_mut(LANES).zip(rows.code(*node)) {
                    for (block, four) in blocks.iter_mut().zip(code.0.as_chunks::<4>().0) {
                        block.0.as_chunks_mut::<4>().0[lane] = *four;
                    }
                }
                let factors = rows.factors[*node as usize];
                (columns.scales[lane], columns.half_squares[lane]) = (factors.scale, factors.half_square);
            }
        }
    }
}

/// A few rows as signed numbers, to multiply packed ones with.
#[derive(Default)]
pub(super) struct Signed {
    pub(super) numbers: Vec<Block>,
    pub(super) blocks: usize,
    pub(super) sums: Vec<i32>,
    pub(super) factors: Vec<Column>,
}

impl Signed {
    #[inline(always)]
    pub(super) fn load(&mut self, rows: &Rows, nodes: impl Iterator<Item = Node>) {
        self.blocks = rows.blocks;
        self.numbers.clear();
        self.sums.clear();
        self.factors.clear();
        for node in nodes {
            self.numbers.extend(rows.code(node).iter().map(|block| Block(block.0.map(|byte| byte ^ 0x80))));
            self.sums.push(rows.sums[node as usize]);
            self.factors.push(rows.factors[node as usize]);
        }
    }
}
