//! The kernels on AVX-512 (with VNNI) and on AVX2.
//!
//! Everything that holds an intrinsic is `#[inline(always)]`: it is compiled inside [`Avx512::run`] or [`Avx2::run`], which
//! enable the instructions. A function with `#[target_feature]` of its own would not be inlined into generic code.

use std::arch::is_x86_feature_detected;
#[allow(clippy::wildcard_imports, reason = "dozens of intrinsics, each with its own prefix")]
use std::arch::x86_64::*;

use super::{BLOCK, Block, ByteQuery, Column, Columns, Isa, LANES, Work, tile_shape};

/// Proof that the processor has AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        (has && Avx2::detect().is_some()).then_some(Self(()))
    }

    pub(super) fn run<W: Work>(self, work: W) -> W::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,popcnt,bmi1,bmi2")]
        fn enabled<W: Work>(isa: Avx512, work: W) -> W::Output {
            work.run(isa)
        }
        // SAFETY: `self` exists, so `detect` found these; popcnt and bmi came to processors long before AVX-512.
        unsafe { enabled(self, work) }
    }
}

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2");
        has.then_some(Self(()))
    }

    pub(super) fn run<W: Work>(self, work: W) -> W::Output {
        #[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1,bmi2")]
        fn enabled<W: Work>(isa: Avx2, work: W) -> W::Output {
            work.run(isa)
        }
        // SAFETY: `self` exists, so `detect` found these.
        unsafe { enabled(self, work) }
    }
}

/// As [`super::fold`]: the upper half is added to the lower one until one number is left.
///
/// # Safety
/// The processor has AVX.
#[inline(always)]
unsafe fn fold_256(sums: __m256) -> f32 {
    // SAFETY: as above.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// # Safety
/// The processor has AVX-512 F and DQ.
#[inline(always)]
unsafe fn fold_512(sums: __m512) -> f32 {
    // SAFETY: as above.
    unsafe { fold_256(_mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps::<1>(sums))) }
}

/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn sum_256(sums: __m256i) -> i32 {
    // SAFETY: as above.
    unsafe {
        let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
    }
}

/// The sums of four.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn sums_of_four([a, b, c, d]: [__m512i; 4]) -> __m128i {
    // SAFETY: as above.
    unsafe {
        // Turned, so that what is of one row comes to lie in one place of four: first in pairs, then the pairs.
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        let four = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        let two = _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64::<1>(four));
        _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256::<1>(two))
    }
}

/// # Safety
/// The processor has SSE; any address may be prefetched.
#[inline(always)]
unsafe fn prefetch_lines<T>(row: &[T], lines: usize) {
    for line in 0..lines {
        // SAFETY: as above; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().cast::<i8>().wrapping_add(line * BLOCK)) };
    }
}

/// The sixteen lanes of a loop over two slices; `$term` is one step for them, masked at the end.
macro_rules! sum_512 {
    ($a:ident, $b:ident, |$x:ident, $y:ident| $term:expr) => {{
        let length = $a.len().min($b.len());
        // SAFETY: the proof of the instructions is `self`; reads stay below `length`, masked in the last step.
        unsafe {
            let mut sums = _mm512_setzero_ps();
            let mut i = 0;
            while i + 16 <= length {
                let $x = _mm512_loadu_ps($a.as_ptr().add(i));
                let $y = _mm512_loadu_ps($b.as_ptr().add(i));
                sums = _mm512_add_ps(sums, $term);
                i += 16;
            }
            if i < length {
                let mask = (1u16 << (length - i)) - 1;
                let $x = _mm512_maskz_loadu_ps(mask, $a.as_ptr().add(i));
                let $y = _mm512_maskz_loadu_ps(mask, $b.as_ptr().add(i));
                sums = _mm512_add_ps(sums, $term);
            }
            fold_512(sums)
        }
    }};
}

/// Products of `HEIGHT` rows with `WIDTH` groups of columns, all in registers until they are done.
///
/// # Safety
/// The processor has AVX-512 F and VNNI. `rows` and `sums` are `HEIGHT` long, rows `blocks` blocks; behind `columns` are
/// `WIDTH` × 16 × `blocks` blocks, and from `products` on there is room for `WIDTH` times 16 products at each `HEIGHT`
/// multiples of `stride` times 16.
#[inline(always)]
unsafe fn tile_512<const HEIGHT: usize, const WIDTH: usize>(
    rows: &[&[Block]],
    sums: &[i32],
    columns: *const __m512i,
    blocks: usize,
    products: *mut __m512i,
    stride: usize,
) {
    // SAFETY: as above; reading four bytes of a row at a multiple of four is aligned.
    unsafe {
        let fours = blocks * LANES;
        // Loops and not `from_fn`, whose closure would be compiled without the instructions.
        let mut starts = [std::ptr::null::<i32>(); HEIGHT];
        let mut products_of = [[_mm512_setzero_si512(); WIDTH]; HEIGHT];
        for r in 0..HEIGHT {
            starts[r] = rows.get_unchecked(r).as_ptr().cast();
            products_of[r] = [_mm512_set1_epi32(sums.get_unchecked(r).wrapping_mul(-128)); WIDTH];
        }
        for k in 0..fours {
            let mut codes = [_mm512_setzero_si512(); WIDTH];
            for (g, codes) in codes.iter_mut().enumerate() {
                *codes = _mm512_load_si512(columns.add(g * fours + k));
            }
            for r in 0..HEIGHT {
                let numbers = _mm512_set1_epi32(starts[r].add(k).read());
                for g in 0..WIDTH {
                    products_of[r][g] = _mm512_dpbusd_epi32(products_of[r][g], codes[g], numbers);
                }
            }
        }
        for (r, of_row) in products_of.iter().enumerate() {
            for (g, of_group) in of_row.iter().enumerate() {
                _mm512_storeu_si512(products.add(r * stride + g), *of_group);
            }
        }
    }
}

impl Isa for Avx512 {
    const FOUR_IN_ONE: bool = true;

    #[inline(always)]
    fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        sum_512!(a, b, |x, y| _mm512_mul_ps(x, y))
    }

    #[inline(always)]
    fn squared_euclid(self, a: &[f32], b: &[f32]) -> f32 {
        sum_512!(a, b, |x, y| {
            let difference = _mm512_sub_ps(x, y);
            _mm512_mul_ps(difference, difference)
        })
    }

    #[inline(always)]
    fn dot_f16(self, query: &[f32], row: &[u16]) -> f32 {
        let length = query.len().min(row.len());
        // SAFETY: the proof of the instructions is `self`; reads stay below `length`, masked in the last step.
        unsafe {
            let mut sums = _mm512_setzero_ps();
            let mut i = 0;
            while i + 16 <= length {
                let y = _mm512_cvtph_ps(_mm256_loadu_si256(row.as_ptr().add(i).cast()));
                sums = _mm512_add_ps(sums, _mm512_mul_ps(_mm512_loadu_ps(query.as_ptr().add(i)), y));
                i += 16;
            }
            if i < length {
                let mask = (1u16 << (length - i)) - 1;
                let y = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row.as_ptr().add(i).cast()));
                sums = _mm512_add_ps(sums, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, query.as_ptr().add(i)), y));
            }
            fold_512(sums)
        }
    }

    #[inline(always)]
    fn dot_i8(self, row: &[Block], query: &ByteQuery) -> i32 {
        let blocks = row.len().min(query.numbers.len());
        // SAFETY: the proof of the instructions is `self`; blocks are 64 bytes, aligned to 64, and below both lengths.
        unsafe {
            let (mut even, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            let (row, query) = (row.as_ptr().cast::<__m512i>(), query.numbers.as_ptr().cast::<__m512i>());
            let mut i = 0;
            while i + 2 <= blocks {
                even = _mm512_dpbusd_epi32(even, _mm512_load_si512(row.add(i)), _mm512_load_si512(query.add(i)));
                odd = _mm512_dpbusd_epi32(odd, _mm512_load_si512(row.add(i + 1)), _mm512_load_si512(query.add(i + 1)));
                i += 2;
            }
            if i < blocks {
                even = _mm512_dpbusd_epi32(even, _mm512_load_si512(row.add(i)), _mm512_load_si512(query.add(i)));
            }
            _mm512_reduce_add_epi32(_mm512_add_epi32(even, odd))
        }
        .wrapping_sub(query.sum.wrapping_mul(128))
    }

    #[inline(always)]
    fn dot_i8_of_four(self, rows: [&[Block]; 4], query: &ByteQuery) -> [i32; 4] {
        let blocks = rows.iter().fold(query.numbers.len(), |blocks, row| blocks.min(row.len()));
        let (mut sums, query_sum) = ([0; 4], query.sum);
        // SAFETY: the proof of the instructions is `self`; blocks are 64 bytes, aligned to 64, and below all lengths.
        unsafe {
            let mut products = [_mm512_set1_epi32(0); 4];
            let query = query.numbers.as_ptr().cast::<__m512i>();
            for i in 0..blocks {
                let numbers = _mm512_load_si512(query.add(i));
                for r in 0..4 {
                    products[r] = _mm512_dpbusd_epi32(products[r], _mm512_load_si512(rows[r].as_ptr().cast::<__m512i>().add(i)), numbers);
                }
            }
            let found = _mm_sub_epi32(sums_of_four(products), _mm_set1_epi32(query_sum.wrapping_mul(128)));
            _mm_storeu_si128(sums.as_mut_ptr().cast(), found);
        }
        sums
    }

    #[inline(always)]
    fn dot_rows(self, a: &[Block], b: &[Block], b_sum: i32) -> i32 {
        let blocks = a.len().min(b.len());
        // SAFETY: the proof of the instructions is `self`; blocks are 64 bytes, aligned to 64, and below both lengths.
        unsafe {
            let turn = _mm512_set1_epi8(-128);
            let (mut even, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            let (a, b) = (a.as_ptr().cast::<__m512i>(), b.as_ptr().cast::<__m512i>());
            let mut i = 0;
            while i + 2 <= blocks {
                let turned = _mm512_xor_si512(turn, _mm512_load_si512(b.add(i)));
                even = _mm512_dpbusd_epi32(even, _mm512_load_si512(a.add(i)), turned);
                let turned = _mm512_xor_si512(turn, _mm512_load_si512(b.add(i + 1)));
                odd = _mm512_dpbusd_epi32(odd, _mm512_load_si512(a.add(i + 1)), turned);
                i += 2;
            }
            if i < blocks {
                let turned = _mm512_xor_si512(turn, _mm512_load_si512(b.add(i)));
                even = _mm512_dpbusd_epi32(even, _mm512_load_si512(a.add(i)), turned);
            }
            _mm512_reduce_add_epi32(_mm512_add_epi32(even, odd))
        }
        .wrapping_sub(b_sum.wrapping_mul(128))
    }

    #[inline(always)]
    fn dot_i4(self, row: &[Block], query: &ByteQuery) -> i32 {
        let blocks = row.len().min(query.numbers.len() / 2);
        // SAFETY: the proof of the instructions is `self`; blocks are 64 bytes, aligned to 64, and below both lengths.
        let sum = unsafe {
            let low_half = _mm512_set1_epi8(15);
            let (mut low, mut high) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            let query = query.numbers.as_ptr().cast::<__m512i>();
            for i in 0..blocks {
                let codes = _mm512_load_si512(row.as_ptr().add(i).cast());
                low = _mm512_dpbusd_epi32(low, _mm512_and_si512(codes, low_half), _mm512_load_si512(query.add(2 * i)));
                let codes = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), low_half);
                high = _mm512_dpbusd_epi32(high, codes, _mm512_load_si512(query.add(2 * i + 1)));
            }
            _mm512_reduce_add_epi32(_mm512_add_epi32(low, high))
        };
        2 * sum - 15 * query.sum
    }

    #[inline(always)]
    fn dot_i4_of_four(self, rows: [&[Block]; 4], query: &ByteQuery) -> [i32; 4] {
        let blocks = rows.iter().fold(query.numbers.len() / 2, |blocks, row| blocks.min(row.len()));
        let (mut sums, query_sum) = ([0; 4], query.sum);
        // SAFETY: the proof of the instructions is `self`; blocks are 64 bytes, aligned to 64, and below all lengths.
        unsafe {
            let low_half = _mm512_set1_epi8(15);
            let mut products = [_mm512_set1_epi32(0); 4];
            let query = query.numbers.as_ptr().cast::<__m512i>();
            for i in 0..blocks {
                let (first, second) = (_mm512_load_si512(query.add(2 * i)), _mm512_load_si512(query.add(2 * i + 1)));
                for r in 0..4 {
                    let codes = _mm512_load_si512(rows[r].as_ptr().cast::<__m512i>().add(i));
                    products[r] = _mm512_dpbusd_epi32(products[r], _mm512_and_si512(codes, low_half), first);
                    let codes = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), low_half);
                    products[r] = _mm512_dpbusd_epi32(products[r], codes, second);
                }
            }
            let sum = sums_of_four(products);
            let found = _mm_sub_epi32(_mm_add_epi32(sum, sum), _mm_set1_epi32(query_sum.wrapping_mul(15)));
            _mm_storeu_si128(sums.as_mut_ptr().cast(), found);
        }
        sums
    }

    #[inline(always)]
    fn tile(self, rows: &[&[Block]], sums: &[i32], columns: &[Block], products: &mut [[i32; LANES]]) {
        let Some((blocks, groups)) = tile_shape(rows, sums, columns, products) else { return };
        // SAFETY: the proof of the instructions is `self`; each step reads 16 × `blocks` blocks of each of its groups and
        // `blocks` of each of its rows, and writes the products of the two, all of which the line above found to be there.
        unsafe {
            let mut group = 0;
            while group < groups {
                let width = if groups - group >= 4 { 4 } else { 1 };
                let columns = columns.as_ptr().add(group * blocks * LANES).cast();
                let mut row = 0;
                while row < rows.len() {
                    let height = if rows.len() - row >= 4 { 4 } else { 1 };
                    let products = products.as_mut_ptr().add(row * groups + group).cast();
                    let (rows, sums) = (&rows[row..row + height], &sums[row..row + height]);
                    match (height, width) {
                        (4, 4) => tile_512::<4, 4>(rows, sums, columns, blocks, products, groups),
                        (4, _) => tile_512::<4, 1>(rows, sums, columns, blocks, products, groups),
                        (_, 4) => tile_512::<1, 4>(rows, sums, columns, blocks, products, groups),
                        _ => tile_512::<1, 1>(rows, sums, columns, blocks, products, groups),
                    }
                    row += height;
                }
                group += width;
            }
        }
    }

    #[inline(always)]
    fn nearer(self, products: &[i32; LANES], columns: &Columns, row: Column, threshold: f32, distances: &mut [f32; LANES]) -> u32 {
        // SAFETY: the proof of the instructions is `self`; sixteen numbers are read and written of each array of sixteen.
        unsafe {
            let scales = _mm512_mul_ps(_mm512_set1_ps(row.scale), _mm512_load_ps(columns.scales.as_ptr()));
            let products = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(products.as_ptr().cast())), scales);
            let squares = _mm512_add_ps(_mm512_set1_ps(row.half_square), _mm512_load_ps(columns.half_squares.as_ptr()));
            let found = _mm512_sub_ps(squares, products);
            _mm512_storeu_ps(distances.as_mut_ptr(), found);
            u32::from(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(found, _mm512_set1_ps(threshold)))
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, row: &[T], lines: usize) {
        // SAFETY: every x86-64 processor has SSE.
        unsafe { prefetch_lines(row, lines) }
    }
}

/// As [`sum_512`], in two registers of eight lanes.
macro_rules! sum_256 {
    ($a:ident, $b:ident, |$x:ident, $y:ident| $term:expr) => {{
        let length = $a.len().min($b.len());
        // SAFETY: the proof of the instructions is `self`; reads stay below `length`, the last step reads copies.
        unsafe {
            let (mut low, mut high) = (_mm256_setzero_ps(), _mm256_setzero_ps());
            let (mut last_a, mut last_b) = ([0.0; 16], [0.0; 16]);
            let mut i = 0;
            // One loop and no closure for what both ends share: a closure would be compiled without the instructions.
            while i < length {
                let (a, b) = if i + 16 <= length {
                    ($a.as_ptr().add(i), $b.as_ptr().add(i))
                } else {
                    last_a[..length - i].copy_from_slice(&$a[i..length]);
                    last_b[..length - i].copy_from_slice(&$b[i..length]);
                    (last_a.as_ptr(), last_b.as_ptr())
                };
                let ($x, $y) = (_mm256_loadu_ps(a), _mm256_loadu_ps(b));
                low = _mm256_add_ps(low, $term);
                let ($x, $y) = (_mm256_loadu_ps(a.add(8)), _mm256_loadu_ps(b.add(8)));
                high = _mm256_add_ps(high, $term);
                i += 16;
            }
            fold_256(_mm256_add_ps(low, high))
        }
    }};
}

/// Σ of the products of 32 pairs of signed bytes within ±127, in eight lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn products_256(a: __m256i, b: __m256i) -> __m256i {
    // The instruction wants one side unsigned: |a| and b with the sign of a. Two products are at most 2 × 127², which fits i16.
    // SAFETY: as above.
    unsafe { _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a)), _mm256_set1_epi16(1)) }
}

impl Isa for Avx2 {
    #[inline(always)]
    fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        sum_256!(a, b, |x, y| _mm256_mul_ps(x, y))
    }

    #[inline(always)]
    fn squared_euclid(self, a: &[f32], b: &[f32]) -> f32 {
        sum_256!(a, b, |x, y| {
            let difference = _mm256_sub_ps(x, y);
            _mm256_mul_ps(difference, difference)
        })
    }

    #[inline(always)]
    fn dot_f16(self, query: &[f32], row: &[u16]) -> f32 {
        let length = query.len().min(row.len());
        // SAFETY: the proof of the instructions is `self`; reads stay below `length`, the last step reads copies.
        unsafe {
            let (mut low, mut high) = (_mm256_setzero_ps(), _mm256_setzero_ps());
            let (mut last_numbers, mut last_halves) = ([0.0; 16], [0; 16]);
            let mut i = 0;
            while i < length {
                let (numbers, halves) = if i + 16 <= length {
                    (query.as_ptr().add(i), row.as_ptr().add(i))
                } else {
                    last_numbers[..length - i].copy_from_slice(&query[i..length]);
                    last_halves[..length - i].copy_from_slice(&row[i..length]);
                    (last_numbers.as_ptr(), last_halves.as_ptr())
                };
                let floats = _mm256_cvtph_ps(_mm_loadu_si128(halves.cast()));
                low = _mm256_add_ps(low, _mm256_mul_ps(_mm256_loadu_ps(numbers), floats));
                let floats = _mm256_cvtph_ps(_mm_loadu_si128(halves.add(8).cast()));
                high = _mm256_add_ps(high, _mm256_mul_ps(_mm256_loadu_ps(numbers.add(8)), floats));
                i += 16;
            }
            fold_256(_mm256_add_ps(low, high))
        }
    }

    #[inline(always)]
    fn dot_i8(self, row: &[Block], query: &ByteQuery) -> i32 {
        let halves = 2 * row.len().min(query.numbers.len());
        // SAFETY: the proof of the instructions is `self`; half a block is 32 bytes, aligned, and below both lengths.
        unsafe {
            let turn = _mm256_set1_epi8(-128);
            let mut sums = _mm256_setzero_si256();
            for i in 0..halves {
                let codes = _mm256_xor_si256(turn, _mm256_load_si256(row.as_ptr().cast::<__m256i>().add(i)));
                let numbers = _mm256_load_si256(query.numbers.as_ptr().cast::<__m256i>().add(i));
                sums = _mm256_add_epi32(sums, products_256(codes, numbers));
            }
            sum_256(sums)
        }
    }

    #[inline(always)]
    fn dot_rows(self, a: &[Block], b: &[Block], _b_sum: i32) -> i32 {
        let halves = 2 * a.len().min(b.len());
        // SAFETY: the proof of the instructions is `self`; half a block is 32 bytes, aligned, and below both lengths.
        unsafe {
            let turn = _mm256_set1_epi8(-128);
            let mut sums = _mm256_setzero_si256();
            for i in 0..halves {
                let a = _mm256_xor_si256(turn, _mm256_load_si256(a.as_ptr().cast::<__m256i>().add(i)));
                let b = _mm256_xor_si256(turn, _mm256_load_si256(b.as_ptr().cast::<__m256i>().add(i)));
                sums = _mm256_add_epi32(sums, products_256(a, b));
            }
            sum_256(sums)
        }
    }

    #[inline(always)]
    fn dot_i4(self, row: &[Block], query: &ByteQuery) -> i32 {
        let blocks = row.len().min(query.numbers.len() / 2);
        // SAFETY: the proof of the instructions is `self`; half a block is 32 bytes, aligned, and below both lengths. A code is
        // at most 15, so two products fit i16.
        let sum = unsafe {
            let (low_half, one) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
            let mut sums = _mm256_setzero_si256();
            let query = query.numbers.as_ptr().cast::<__m256i>();
            for i in 0..2 * blocks {
                let codes = _mm256_load_si256(row.as_ptr().cast::<__m256i>().add(i));
                let place = 4 * (i / 2) + i % 2;
                let low = _mm256_maddubs_epi16(_mm256_and_si256(codes, low_half), _mm256_load_si256(query.add(place)));
                let codes = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low_half);
                let high = _mm256_maddubs_epi16(codes, _mm256_load_si256(query.add(place + 2)));
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_add_epi16(low, high), one));
            }
            sum_256(sums)
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
                // each of its 16 × `blocks` steps, as many as both have; a block is two aligned halves, as the products are.
                unsafe {
                    let turn = _mm256_set1_epi8(-128);
                    let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
                    let (numbers, columns) = (row.as_ptr().cast::<i32>(), columns.as_ptr().cast::<__m256i>());
                    for k in 0..blocks * LANES {
                        let numbers = _mm256_set1_epi32(numbers.add(k).read());
                        low = _mm256_add_epi32(low, products_256(_mm256_xor_si256(turn, _mm256_load_si256(columns.add(2 * k))), numbers));
                        let codes = _mm256_xor_si256(turn, _mm256_load_si256(columns.add(2 * k + 1)));
                        high = _mm256_add_epi32(high, products_256(codes, numbers));
                    }
                    _mm256_storeu_si256(products.as_mut_ptr().cast(), low);
                    _mm256_storeu_si256(products.as_mut_ptr().add(8).cast(), high);
                }
            }
        }
    }

    #[inline(always)]
    fn nearer(self, products: &[i32; LANES], columns: &Columns, row: Column, threshold: f32, distances: &mut [f32; LANES]) -> u32 {
        super::portable::nearer(products, columns, row, threshold, distances)
    }

    #[inline(always)]
    fn prefetch<T>(self, row: &[T], lines: usize) {
        // SAFETY: every x86-64 processor has SSE.
        unsafe { prefetch_lines(row, lines) }
    }
}
