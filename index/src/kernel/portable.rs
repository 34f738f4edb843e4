//! The kernels in plain Rust: the oracle of the others, and what a processor without them runs.

use super::{Block, ByteQuery, Column, Columns, Isa, LANES, fold, tile_shape};
use crate::distance;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

impl Isa for Portable {
    #[inline(always)]
    fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        distance::dot(a, b)
    }

    #[inline(always)]
    fn squared_euclid(self, a: &[f32], b: &[f32]) -> f32 {
        distance::squared_euclid(a, b)
    }

    #[inline(always)]
    fn dot_f16(self, query: &[f32], row: &[u16]) -> f32 {
        let mut sums = [0.0; 16];
        for (query, row) in query.chunks(16).zip(row.chunks(16)) {
            for (lane, (x, half)) in query.iter().zip(row).enumerate() {
                sums[lane] += x * f16_to_f32(*half);
            }
        }
        fold(sums)
    }

    #[inline(always)]
    fn dot_i8(self, row: &[Block], query: &ByteQuery) -> i32 {
        let mut sum = 0;
        for (row, query) in row.iter().zip(&query.numbers) {
            for (code, number) in row.0.iter().zip(&query.0) {
                sum += i32::from(*code) * i32::from(*number as i8);
            }
        }
        sum - 128 * query.sum
    }

    #[inline(always)]
    fn dot_rows(self, a: &[Block], b: &[Block], b_sum: i32) -> i32 {
        let mut sum = 0;
        for (a, b) in a.iter().zip(b) {
            for (a, b) in a.0.iter().zip(&b.0) {
                sum += i32::from(*a) * i32::from((*b ^ 0x80) as i8);
            }
        }
        sum - 128 * b_sum
    }

    #[inline(always)]
    fn dot_i4(self, row: &[Block], query: &ByteQuery) -> i32 {
        let mut sum = 0;
        for (row, query) in row.iter().zip(query.numbers.as_chunks::<2>().0) {
            for (place, codes) in row.0.iter().enumerate() {
                sum += i32::from(codes & 15) * i32::from(query[0].0[place] as i8);
                sum += i32::from(codes >> 4) * i32::from(query[1].0[place] as i8);
            }
        }
        2 * sum - 15 * query.sum
    }

    #[inline(always)]
    fn tile(self, rows: &[&[Block]], sums: &[i32], columns: &[Block], products: &mut [[i32; LANES]]) {
        let Some((blocks, groups)) = tile_shape(rows, sums, columns, products) else { return };
        for ((row, sum), products) in rows.iter().zip(sums).zip(products.chunks_exact_mut(groups)) {
            for (group, products) in columns.chunks_exact(blocks * LANES).zip(products) {
                *products = [-128 * sum; LANES];
                let fours = row.iter().flat_map(|block| block.0.as_chunks::<4>().0);
                for (numbers, column) in fours.zip(group) {
                    for (product, codes) in products.iter_mut().zip(column.0.as_chunks::<4>().0) {
                        *product +=
                            codes.iter().zip(numbers).map(|(code, number)| i32::from(*code) * i32::from(*number as i8)).sum::<i32>();
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn nearer(self, products: &[i32; LANES], columns: &Columns, row: Column, threshold: f32, distances: &mut [f32; LANES]) -> u32 {
        nearer(products, columns, row, threshold, distances)
    }

    #[inline(always)]
    fn prefetch<T>(self, _row: &[T], _lines: usize) {}
}

/// [`Isa::nearer`] in plain Rust.
#[inline(always)]
pub(super) fn nearer(products: &[i32; LANES], columns: &Columns, row: Column, threshold: f32, distances: &mut [f32; LANES]) -> u32 {
    let mut below = 0;
    for lane in 0..LANES {
        let product = products[lane] as f32 * (row.scale * columns.scales[lane]);
        distances[lane] = (row.half_square + columns.half_squares[lane]) - product;
        below |= u32::from(distances[lane] < threshold) << lane;
    }
    below
}

/// An IEEE half float; infinities and NaN become large finite numbers, which no row holds.
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    // With exponent and fraction in place, the number is too small by the difference of the biases, 2^112. Subnormal ones
    // come right by the same multiplication.
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    f32::from_bits(sign | magnitude.to_bits())
}

/// The nearest half float, ties to even; what would overflow becomes the largest finite one.
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    let sign = ((x.to_bits() >> 16) & 0x8000) as u16;
    let magnitude = x.abs().min(65504.0);
    let half = if magnitude < f32::from_bits((127 - 14) << 23) {
        // Subnormal: multiples of 2^-24. Adding 1.5 × 2^-1 would round in f32; whole numbers round by themselves.
        (magnitude * f32::from_bits((127 + 24) << 23)).round_ties_even() as u16
    } else {
        let bits = magnitude.to_bits() - (112 << 23);
        ((bits + 0xfff + ((bits >> 13) & 1)) >> 13) as u16
    };
    sign | half.min(0x7bff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_float_survives_the_way_through_f32() {
        for half in (0..=u16::MAX).filter(|half| half & 0x7c00 != 0x7c00) {
            assert_eq!(f32_to_f16(f16_to_f32(half)), half);
        }
        assert_eq!([f16_to_f32(0x3c00), f16_to_f32(0xc000), f16_to_f32(1)], [1.0, -2.0, 2f32.powi(-24)]);
    }

    #[test]
    fn a_number_becomes_the_nearest_half_float_and_none_is_infinite() {
        for i in -2000..2000 {
            let x = (i as f32 / 300.0).exp() * if i % 2 == 0 { 1.0 } else { -1.0 };
            let back = f16_to_f32(f32_to_f16(x));
            assert!((back - x).abs() <= x.abs() / 2048.0 + 2f32.powi(-25), "{x} became {back}");
        }
        assert_eq!([65519.0, 65520.0, f32::MAX, f32::INFINITY].map(|x| f16_to_f32(f32_to_f16(x))), [65504.0; 4]);
        // Ties: 1 + 2^-11 lies midway between 1 and the next one, 1 + 3 × 2^-11 between that and the one after.
        assert_eq!([1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11)].map(f32_to_f16), [0x3c00, 0x3c02]);
    }
}
