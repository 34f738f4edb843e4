//! The kernels on NEON, which every 64-bit ARM processor has.

#[allow(clippy::wildcard_imports, reason = "dozens of intrinsics, each with its own prefix")]
use std::arch::aarch64::*;

use super::portable::f16_to_f32;
use super::{BLOCK, Block, ByteQuery, Column, Columns, Isa, LANES, Work, tile_shape};

/// Proof that the processor has NEON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(());

impl Neon {
    pub(super) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    pub(super) fn run<W: Work>(self, work: W) -> W::Output {
        work.run(self)
    }
}

/// As [`super::fold`], on sixteen sums in four registers.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn fold_128(sums: [float32x4_t; 4]) -> f32 {
    // SAFETY: as above.
    unsafe {
        let four = vaddq_f32(vaddq_f32(sums[0], sums[2]), vaddq_f32(sums[1], sums[3]));
        let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
        vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
    }
}

macro_rules! sum_128 {
    ($a:ident, $b:ident, |$x:ident, $y:ident| $term:expr) => {{
        let length = $a.len().min($b.len());
        // SAFETY: the proof of the instructions is `self`; reads stay below `length`, the last step reads copies.
        unsafe {
            let mut sums = [vdupq_n_f32(0.0); 4];
            let mut step = |a: *const f32, b: *const f32| {
                for (i, sum) in sums.iter_mut().enumerate() {
                    let ($x, $y) = (vld1q_f32(a.add(4 * i)), vld1q_f32(b.add(4 * i)));
                    *sum = vaddq_f32(*sum, $term);
                }
            };
            let mut i = 0;
            while i + 16 <= length {
                step($a.as_ptr().add(i), $b.as_ptr().add(i));
                i += 16;
            }
            if i < length {
                let (mut a, mut b) = ([0.0; 16], [0.0; 16]);
                a[..length - i].copy_from_slice(&$a[i..length]);
                b[..length - i].copy_from_slice(&$b[i..length]);
                step(a.as_ptr(), b.as_ptr());
            }
            fold_128(sums)
        }
    }};
}

/// Adds the products of 16 pairs of signed bytes within ±127 to `sums`.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn add_products(sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: as above.
    unsafe {
        let sums = vpadalq_s16(sums, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
        vpadalq_s16(sums, vmull_high_s8(a, b))
    }
}

impl Isa for Neon {
    #[inline(always)]
    fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        sum_128!(a, b, |x, y| vmulq_f32(x, y))
    }

    #[inline(always)]
    fn squared_euclid(self, a: &[f32], b: &[f32]) -> f32 {
        sum_128!(a, b, |x, y| {
            let difference = vsubq_f32(x, y);
            vmulq_f32(difference, difference)
        })
    }

    // The intrinsics that convert half floats are not stable; the portable conversion is two integer operations and a product.
    #[inline(always)]
    fn dot_f16(self, query: &[f32], row: &[u16]) -> f32 {
        let mut sums = [0.0; 16];
        for (query, row) in query.chunks(16).zip(row.chunks(16)) {
            for (lane, (x, half)) in query.iter().zip(row).enumerate() {
                sums[lane] += x * f16_to_f32(*half);
            }
        }
        super::fold(sums)
    }

    #[inline(always)]
    fn dot_i8(self, row: &[Block], query: &ByteQuery) -> i32 {
        let quarters = 4 * row.len().min(query.numbers.len());
        // SAFETY: the proof of the instructions is `self`; a quarter of a block is 16 bytes, and below both lengths.
        unsafe {
            let turn = vdupq_n_u8(0x80);
            let mut sums = [vdupq_n_s32(0); 2];
            for i in 0..quarters {
                let codes = vreinterpretq_s8_u8(veorq_u8(turn, vld1q_u8(row.as_ptr().cast::<u8>().add(16 * i))));
                let numbers = vld1q_s8(query.numbers.as_ptr().cast::<i8>().add(16 * i));
                sums[i % 2] = add_products(sums[i % 2], codes, numbers);
            }
            vaddvq_s32(vaddq_s32(sums[0], sums[1]))
        }
    }

    #[inline(always)]
    fn dot_rows(self, a: &[Block], b: &[Block], _b_sum: i32) -> i32 {
        let quarters = 4 * a.len().min(b.len());
        // SAFETY: the proof of the instructions is `self`; a quarter of a block is 16 bytes, and below both lengths.
        unsafe {
            let turn = vdupq_n_u8(0x80);
            let mut sums = [vdupq_n_s32(0); 2];
            for i in 0..quarters {
                let a = vreinterpretq_s8_u8(veorq_u8(turn, vld1q_u8(a.as_ptr().cast::<u8>().add(16 * i))));
                let b = vreinterpretq_s8_u8(veorq_u8(turn, vld1q_u8(b.as_ptr().cast::<u8>().add(16 * i))));
                sums[i % 2] = add_products(sums[i % 2], a, b);
            }
            vaddvq_s32(vaddq_s32(sums[0], sums[1]))
        }
    }

    #[inline(always)]
    fn dot_i4(self, row: &[Block], query: &ByteQuery) -> i32 {
        let blocks = row.len().min(query.numbers.len() / 2);
        // SAFETY: the proof of the instructions is `self`; a quarter of a block is 16 bytes, and below both lengths.
        let sum = unsafe {
            let low_half = vdupq_n_u8(15);
            let mut sums = [vdupq_n_s32(0); 2];
            for i in 0..4 * blocks {
                let codes = vld1q_u8(row.as_ptr().cast::<u8>().add(16 * i));
                let numbers = query.numbers.as_ptr().cast::<i8>().add(2 * BLOCK * (i / 4) + 16 * (i % 4));
                sums[0] = add_products(sums[0], vreinterpretq_s8_u8(vandq_u8(codes, low_half)), vld1q_s8(numbers));
                sums[1] = add_products(sums[1], vreinterpretq_s8_u8(vshrq_n_u8::<4>(codes)), vld1q_s8(numbers.add(BLOCK)));
            }
            vaddvq_s32(vaddq_s32(sums[0], sums[1]))
        };
        2 * sum - 15 * query.sum
    }

    #[inline(always)]
    fn tile(self, rows: &[&[Block]], sums: &[i32], columns: &[Block], products: &mut [[i32; LANES]]) {
        let Some((blocks, groups)) = tile_shape(rows, sums, columns, products) else { return };
        for (group, columns) in columns.chunks_exact(blocks * LANES).enumerate() {
            for (i, row) in rows.iter().enumerate() {
                let products = &mut products[i * groups + group];
                // SAFETY: the proof of the instructions is `self`; 4 bytes of the row and a block of the group are read for
                // each of its 16 × `blocks` steps, as many as both have; a quarter of a block is 16 bytes, four columns.
                unsafe {
                    let turn = vdupq_n_u8(0x80);
                    // Of each column the sums of two products each, side by side.
                    let mut pairs = [vdupq_n_s32(0); 8];
                    let (numbers, columns) = (row.as_ptr().cast::<i32>(), columns.as_ptr().cast::<u8>());
                    for k in 0..blocks * LANES {
                        let numbers = vreinterpretq_s8_s32(vdupq_n_s32(numbers.add(k).read()));
                        for quarter in 0..4 {
                            let codes = veorq_u8(turn, vld1q_u8(columns.add(BLOCK * k + 16 * quarter)));
                            let codes = vreinterpretq_s8_u8(codes);
                            let low = vmull_s8(vget_low_s8(codes), vget_low_s8(numbers));
                            pairs[2 * quarter] = vpadalq_s16(pairs[2 * quarter], low);
                            pairs[2 * quarter + 1] = vpadalq_s16(pairs[2 * quarter + 1], vmull_high_s8(codes, numbers));
                        }
                    }
                    for quarter in 0..4 {
                        let four = vpaddq_s32(pairs[2 * quarter], pairs[2 * quarter + 1]);
                        vst1q_s32(products.as_mut_ptr().add(4 * quarter), four);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn nearer(self, products: &[i32; LANES], columns: &Columns, row: Column, threshold: f32, distances: &mut [f32; LANES]) -> u32 {
        super::portable::nearer(products, columns, row, threshold, distances)
    }

    // The intrinsic is not stable.
    #[inline(always)]
    fn prefetch<T>(self, _row: &[T], _lines: usize) {}
}
