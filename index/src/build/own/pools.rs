//! The nearest of many columns to each of a few rows: all products by tiles, and of those what is near enough.
//!
//! A pool takes whatever is nearer than its threshold, and is cut back to the nearest, with a new threshold, when it holds
//! twice as many as are wanted. What is in it at the end does not depend on the order in which columns came.

use super::Near;
use super::rows::{Packed, Signed};
use crate::kernel::{Block, Isa, LANES};

/// The nearest columns of each of a few rows, whatever the order in which they come.
pub(super) struct Pools {
    keep: usize,
    keys: Vec<Vec<u64>>,
    /// What is not nearer than that is not among the nearest.
    thresholds: Vec<f32>,
    products: Vec<[i32; LANES]>,
}

/// Rows and groups of columns in one tile: the columns stay in the nearest cache.
const HEIGHT: usize = 32;
const WIDTH: usize = 4;

impl Pools {
    pub(super) fn new(keep: usize) -> Self {
        Self { keep, keys: Vec::new(), thresholds: Vec::new(), products: vec![[0; LANES]; HEIGHT * WIDTH] }
    }

    /// Empties the pools of `count` rows.
    pub(super) fn start(&mut self, count: usize) {
        self.keys.resize_with(self.keys.len().max(count), Vec::new);
        self.keys.iter_mut().for_each(Vec::clear);
        self.thresholds.clear();
        self.thresholds.resize(count, f32::INFINITY);
    }

    /// Looks for nearer columns of those of `rows` that `which` names.
    #[inline(always)]
    pub(super) fn scan<I: Isa>(&mut self, isa: I, rows: &Signed, which: &[u32], columns: &Packed, nodes: usize) {
        let blocks = rows.blocks;
        let empty: &[Block] = &[];
        for (first, codes) in columns.codes[..nodes.div_ceil(LANES) * LANES * blocks].chunks(WIDTH * LANES * blocks).enumerate() {
            let factors = &columns.columns[first * WIDTH..];
            let groups = codes.len() / (LANES * blocks);
            for which in which.chunks(HEIGHT) {
                let (mut codes_of, mut sums) = ([empty; HEIGHT], [0; HEIGHT]);
                for (i, row) in which.iter().enumerate() {
                    let row = *row as usize;
                    (codes_of[i], sums[i]) = (&rows.numbers[row * blocks..(row + 1) * blocks], rows.sums[row]);
                }
                isa.tile(&codes_of[..which.len()], &sums[..which.len()], codes, &mut self.products);
                for (row, products) in which.iter().zip(self.products.chunks(groups)) {
                    let row = *row as usize;
                    for (group, products) in products.iter().enumerate() {
                        let mut distances = [0.0; LANES];
                        let mut below = isa.nearer(products, &factors[group], rows.factors[row], self.thresholds[row], &mut distances);
                        while below != 0 {
                            let lane = below.trailing_zeros() as usize;
                            below &= below - 1;
                            let column = (first * WIDTH + group) * LANES + lane;
                            self.keys[row].push(Near { distance: distances[lane], node: columns.nodes[column] }.key());
                        }
                        if self.keys[row].len() >= 2 * self.keep + LANES {
                            cut(&mut self.keys[row], self.keep, &mut self.thresholds[row]);
                        }
                    }
                }
            }
        }
    }

    /// The nearest columns of a row, the nearest first.
    pub(super) fn nearest(&mut self, row: usize) -> &[u64] {
        cut(&mut self.keys[row], self.keep, &mut self.thresholds[row]);
        self.keys[row].sort_unstable();
        &self.keys[row]
    }
}

/// Keeps the nearest only.
#[inline(never)]
fn cut(keys: &mut Vec<u64>, keep: usize, threshold: &mut f32) {
    if keys.len() > keep {
        let (_, last, _) = keys.select_nth_unstable(keep - 1);
        // Equal distances are ordered by node, so what is as far must still be looked at.
        *threshold = Near::of_key(*last).distance.next_up();
        keys.truncate(keep);
    }
}
