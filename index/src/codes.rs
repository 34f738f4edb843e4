//! Vectors as small numbers: what a walk compares, before the best are compared again by their full rows.
//!
//! A vector x becomes y = (x − centre) ÷ unit, so that the numbers stay fine where the data lie far from the origin, and in
//! range whatever their scale. y becomes integers v and a scale s with |y|² = s·⟨v, y⟩: the error s·v − y is then at right
//! angles to y, and shifts the product with a query little where it matters, near y (the estimator of RaBitQ,
//! <https://arxiv.org/abs/2405.12497>, on plain rounding). Nearness to a query is s·⟨v, query⟩ + bias, the order of
//! which is, up to the error, that of the distance:
//!
//! | distance | query | bias |
//! |---|---|---|
//! | Euclid | (q − centre) ÷ unit | −\|y\|² ÷ 2 |
//! | Cosine | (q − centre) ÷ unit | ⟨centre ÷ unit, y⟩ |
//! | Dot | q, at its own scale: it may be far from the data | 0 |
//!
//! Bytes of many dimensions may lie [in halves](in_halves). What the upper ones stand for has a scale s of its own, or it would be off by
//! as much near y as elsewhere.

use crate::distance::Distance;
use crate::kernel::{BLOCK, Block, ByteQuery, f32_to_f16, fold};

/// What a walk compares. Whatever it is, the best found are compared again by their full rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codes {
    /// The rows themselves: no code is stored.
    F32,
    /// Half floats, two bytes a dimension.
    F16,
    /// One byte a dimension.
    #[default]
    Int8,
    /// Half a byte a dimension.
    Int4,
}

/// Vectors looked at to find the centre and the unit; any choice is right, a good one is more precise.
const SAMPLE: usize = 10_000;
/// Coordinates are cut off here, so that squares stay finite: only rows 10^15 times as long as others reach it.
const LONGEST: f64 = 1e15;
/// Vectors looked at to judge whether upper halves suffice; the square of the sine of the angle that these may be off, in the mean and
/// in the worst tenth. On features of CIFAR-10 it is 0.07 and 0.12, and recall in the same time is that of 1.35 times as many candidates;
/// with one coordinate twice as large, 0.10 and 0.2, it is still better than that of whole codes, with one four times as large, 0.18, worse.
const JUDGED: usize = 1000;
const MEAN_OFF: f64 = 0.1;
const TENTH_OFF: f64 = 0.2;
/// Steps tried for each 4-bit row, as parts of the one that reaches its largest coordinate.
const INT4_STEPS: [f32; 8] = [1.0, 0.92, 0.84, 0.77, 0.7, 0.63, 0.56, 0.5];

/// Where the coordinates start and how large one is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frame {
    pub(crate) centre: Vec<f32>,
    /// A power of two.
    pub(crate) unit: f64,
}

impl Frame {
    /// The middle of `count` vectors, and about their distance from it. `copy` writes one of them out.
    pub(crate) fn around(size: usize, count: usize, copy: impl Fn(usize, &mut [f32])) -> Self {
        let step = count.div_ceil(SAMPLE).max(1);
        let seen = (0..count).step_by(step).len().max(1) as f64;
        let mut sums = vec![0f64; size];
        let mut vector = vec![0f32; size];
        for i in (0..count).step_by(step) {
            copy(i, &mut vector);
            sums.iter_mut().zip(&vector).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let centre: Vec<f32> = sums.iter().map(|sum| (sum / seen) as f32).collect();
        let mut squares = 0f64;
        for i in (0..count).step_by(step) {
            copy(i, &mut vector);
            squares += vector.iter().zip(&centre).map(|(x, c)| (f64::from(*x) - f64::from(*c)).powi(2)).sum::<f64>();
        }
        let typical = (squares / seen).sqrt();
        let unit = if typical > 0.0 { typical.log2().floor().exp2() } else { 1.0 };
        Self { centre, unit }
    }

    /// y = (x − centre) ÷ unit.
    #[inline(always)]
    pub(crate) fn place(&self, x: &[f32], y: &mut Vec<f32>) {
        let scale = 1.0 / self.unit;
        y.clear();
        y.extend(x.iter().zip(&self.centre).map(|(x, c)| ((f64::from(*x) - f64::from(*c)) * scale).clamp(-LONGEST, LONGEST) as f32));
    }

    /// The bias of a row at y.
    #[inline(always)]
    fn bias(&self, distance: Distance, y: &[f32]) -> f32 {
        match distance {
            Distance::Euclid | Distance::Manhattan => -0.5 * product(y, y) as f32,
            Distance::Cosine => (product(y, &self.centre) / self.unit) as f32,
            Distance::Dot => 0.0,
        }
    }
}

/// In eight running sums, for the vector instructions of whoever calls it.
#[inline(always)]
pub(crate) fn product(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0f64; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += f64::from(*a) * f64::from(*b));
    }
    sums.iter().sum()
}

/// What turns a product with a row's code into a nearness.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct Factors {
    pub(crate) scale: f32,
    pub(crate) bias: f32,
}

impl Codes {
    /// Blocks of one row's code.
    pub(crate) fn blocks(self, size: usize) -> usize {
        match self {
            Self::F32 => 0,
            Self::F16 => (2 * size).div_ceil(BLOCK),
            Self::Int8 => size.div_ceil(BLOCK),
            Self::Int4 => size.div_ceil(2 * BLOCK),
        }
    }
}

/// Turns rows into codes, one after the other.
pub(crate) struct Encoder<'a> {
    frame: &'a Frame,
    distance: Distance,
    codes: Codes,
    y: Vec<f32>,
    tried: Vec<u8>,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(frame: &'a Frame, distance: Distance, codes: Codes) -> Self {
        Self { frame, distance, codes, y: Vec::new(), tried: Vec::new() }
    }

    /// Writes the code of `vector`, [`Codes::blocks`] long.
    #[inline(always)]
    pub(crate) fn encode(&mut self, vector: &[f32], code: &mut [Block]) -> Factors {
        self.frame.place(vector, &mut self.y);
        let scale = match self.codes {
            Codes::F32 => 1.0,
            Codes::F16 => {
                code.fill(Block([0; BLOCK]));
                for (i, y) in self.y.iter().enumerate() {
                    let (block, place) = (2 * i / BLOCK, 2 * i % BLOCK);
                    code[block].0[place..place + 2].copy_from_slice(&f32_to_f16(*y).to_le_bytes());
                }
                1.0
            }
            Codes::Int8 => encode_int8(&self.y, code),
            Codes::Int4 => encode_int4(&self.y, code, &mut self.tried),
        };
        Factors { scale, bias: self.frame.bias(self.distance, &self.y) }
    }

    /// The scale of the upper halves of the int8 code that was just written.
    #[inline(always)]
    pub(crate) fn upper_scale(&self, code: &[Block]) -> f32 {
        let (upper, square) = (upper_products(&self.y, code).0, product(&self.y, &self.y) as f32);
        if upper > 0.0 { square / upper } else { 0.0 }
    }
}

#[inline(always)]
fn largest(y: &[f32]) -> f32 {
    y.iter().fold(0f32, |largest, y| largest.max(y.abs()))
}

/// Codes are v + 128, v within ±127; padding is v = 0.
#[inline(always)]
fn encode_int8(y: &[f32], code: &mut [Block]) -> f32 {
    let step = 127.0 / largest(y).max(f32::MIN_POSITIVE);
    // Sixteen running sums, for vector instructions.
    let (mut products, mut squares) = ([0f32; 16], [0f32; 16]);
    code.fill(Block([128; BLOCK]));
    for (codes, y) in code.iter_mut().flat_map(|block| block.0.as_chunks_mut::<16>().0).zip(y.chunks(16)) {
        for (lane, (code, y)) in codes.iter_mut().zip(y).enumerate() {
            let v = round(y * step).clamp(-127.0, 127.0);
            products[lane] += v * y;
            squares[lane] += y * y;
            *code = (v as i32 + 128) as u8;
        }
    }
    let (product, square) = (fold(products), fold(squares));
    if product > 0.0 { square / product } else { 0.0 }
}

/// Codes c from 0 to 15 stand for v = 2c − 15. The step with the smallest angle between v and y is taken.
fn encode_int4(y: &[f32], code: &mut [Block], tried: &mut Vec<u8>) -> f32 {
    let largest = largest(y).max(f32::MIN_POSITIVE);
    let (mut best, mut best_scale) = (-1f32, 0f32);
    let square = product(y, y) as f32;
    code.fill(Block([0; BLOCK]));
    for part in INT4_STEPS {
        let step = 7.5 / (largest * part);
        tried.clear();
        tried.extend(y.iter().map(|y| round(y * step + 7.5).clamp(0.0, 15.0) as u8));
        let (mut product, mut length) = (0f32, 0f32);
        for (c, y) in tried.iter().zip(y) {
            let v = 2.0 * f32::from(*c) - 15.0;
            product += v * y;
            length += v * v;
        }
        let cosine = product / length.sqrt();
        if cosine > best {
            (best, best_scale) = (cosine, if product > 0.0 { square / product } else { 0.0 });
            for (i, c) in tried.iter().enumerate() {
                let (block, place) = (i / (2 * BLOCK), i % BLOCK);
                let byte = &mut code[block].0[place];
                *byte = if i % (2 * BLOCK) < BLOCK { *byte & 0xf0 | c } else { *byte & 15 | c << 4 };
            }
        }
    }
    best_scale
}

/// Blocks of a row's int8 code in halves.
pub(crate) fn blocks_in_halves(size: usize) -> usize {
    2 * Codes::Int4.blocks(size)
}

/// An int8 code in halves: the upper four bits of all its bytes, in the order of an int4 code, then the lower four. The upper
/// ones alone tell most of what is far from a query, and are half as much to read; an upper half h stands for v = 16h − 120.5.
/// `halves` has [`blocks_in_halves`].
#[inline(always)]
pub(crate) fn in_halves(code: &[Block], halves: &mut [Block]) {
    let (upper, lower) = halves.split_at_mut(halves.len() / 2);
    for ((two, upper), lower) in code.chunks(2).zip(upper).zip(lower) {
        let (first, second) = (&two[0].0, two.get(1).map_or(&[128; BLOCK], |block| &block.0));
        for (((upper, lower), a), b) in upper.0.iter_mut().zip(&mut lower.0).zip(first).zip(second) {
            (*upper, *lower) = (a >> 4 | b & 0xf0, a & 15 | b << 4);
        }
    }
}

/// The products of what the upper halves of an int8 code stand for with y and with itself.
#[inline(always)]
fn upper_products(y: &[f32], code: &[Block]) -> (f32, f32) {
    let (mut products, mut squares) = ([0f32; 16], [0f32; 16]);
    for (codes, y) in code.iter().flat_map(|block| block.0.as_chunks::<16>().0).zip(y.chunks(16)) {
        for (lane, (code, y)) in codes.iter().zip(y).enumerate() {
            let v = f32::from(code & 0xf0) - 120.5;
            products[lane] += v * y;
            squares[lane] += v * v;
        }
    }
    (fold(products), fold(squares))
}

/// Do the upper halves of int8 codes stand for the vectors well enough to lead a walk? One coordinate that is much larger than the
/// others leaves them few steps. `copy` writes one of `count` vectors out.
pub(crate) fn upper_halves_suffice(frame: &Frame, count: usize, copy: impl Fn(usize, &mut [f32])) -> bool {
    let size = frame.centre.len();
    let (mut vector, mut y) = (vec![0f32; size], Vec::new());
    let mut code = vec![Block([0; BLOCK]); Codes::Int8.blocks(size)];
    let mut off = Vec::new();
    for i in (0..count).step_by(count.div_ceil(JUDGED).max(1)) {
        copy(i, &mut vector);
        frame.place(&vector, &mut y);
        encode_int8(&y, &mut code);
        let (upper, length) = upper_products(&y, &code);
        let square = product(&y, &y);
        if square > 0.0 {
            off.push(1.0 - f64::from(upper).powi(2) / (square * f64::from(length)));
        }
    }
    off.sort_unstable_by(f64::total_cmp);
    let mean = off.iter().sum::<f64>() / off.len().max(1) as f64;
    off.get(off.len() * 9 / 10).is_some_and(|tenth| *tenth <= TENTH_OFF && mean <= MEAN_OFF)
}

/// What [`Isa::dot_i8`](crate::kernel::Isa::dot_i8) gives, of what [`Isa::dot_i4`](crate::kernel::Isa::dot_i4) gives for both halves,
/// bit for bit.
#[inline(always)]
pub(crate) fn of_halves(upper: i32, lower: i32, sum: i32) -> i32 {
    8 * upper + (lower - sum) / 2
}

/// A query as a walk wants it. Kept from one search to the next.
#[derive(Debug, Default)]
pub(crate) struct Query {
    /// In the frame of the segment, for half floats.
    pub(crate) floats: Vec<f32>,
    /// The same in bytes, for codes.
    pub(crate) bytes: ByteQuery,
    /// One step of those bytes.
    pub(crate) scale: f32,
    /// A product of the vectors themselves where that of their places in the frame is 1.
    pub(crate) unit: f32,
}

/// To the nearest whole number, ties to even, within ±2^22. The baseline target has no instruction for it, and calls a
/// function for each number: a tenth of a short walk. This is two additions.
#[inline(always)]
fn round(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 × 2^23: from there on floats are whole
    (x + SHIFT) - SHIFT
}

impl Query {
    // Compiled for the instruction set of the walk that calls it.
    #[inline(always)]
    pub(crate) fn set(&mut self, query: &[f32], frame: &Frame, distance: Distance, codes: Codes) {
        match distance {
            Distance::Cosine | Distance::Euclid | Distance::Manhattan => {
                frame.place(query, &mut self.floats);
                self.unit = (frame.unit * frame.unit) as f32;
            }
            // The order is the same at any length, so each query is as fine as its codes allow.
            Distance::Dot => {
                let largest = f64::from(largest(query)).max(f64::MIN_POSITIVE);
                self.floats.clear();
                self.floats.extend(query.iter().map(|q| (f64::from(*q) / largest) as f32));
                self.unit = (frame.unit * largest) as f32;
            }
        }
        let blocks = match codes {
            Codes::F32 | Codes::F16 => return,
            // Codes in halves want as many as those of half the width.
            Codes::Int8 | Codes::Int4 => 2 * Codes::Int4.blocks(query.len()),
        };
        let largest = largest(&self.floats);
        let step = 127.0 / largest.max(f32::MIN_POSITIVE);
        self.scale = largest / 127.0;
        self.bytes.numbers.clear();
        self.bytes.numbers.resize(blocks, Block([0; BLOCK]));
        self.bytes.sum = 0;
        for (block, floats) in self.bytes.numbers.iter_mut().zip(self.floats.chunks(BLOCK)) {
            for (byte, x) in block.0.iter_mut().zip(floats) {
                let number = round(x * step).clamp(-127.0, 127.0) as i32;
                self.bytes.sum += number;
                *byte = number as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::kernel::{Isa, Kernel, Work};

    #[test]
    fn rounding_by_additions_is_rounding_to_the_nearest_ties_to_even() {
        for i in -40_000i32..=40_000 {
            let x = i as f32 / 128.0;
            assert_eq!(round(x), x.round_ties_even(), "{x}");
        }
        assert_eq!([round(4_194_303.5), round(-4_194_303.5)], [4_194_304.0, -4_194_304.0]);
    }

    struct Product<'a>(Codes, &'a [Block], &'a Query);

    impl Work for Product<'_> {
        type Output = f32;

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> f32 {
            let Self(codes, code, query) = self;
            match codes {
                Codes::F32 => 0.0,
                Codes::F16 => {
                    let halves: Vec<u16> =
                        code.iter().flat_map(|block| block.0.chunks(2).map(|x| u16::from_le_bytes([x[0], x[1]]))).collect();
                    isa.dot_f16(&query.floats, &halves[..query.floats.len()])
                }
                Codes::Int8 => isa.dot_i8(code, &query.bytes) as f32 * query.scale,
                Codes::Int4 => isa.dot_i4(code, &query.bytes) as f32 * query.scale,
            }
        }
    }

    /// The largest error of a nearness, as a part of the distance from the query that it stands for.
    fn error(codes: Codes, distance: Distance, vectors: &[Vec<f32>], query: &[f32]) -> f64 {
        let size = query.len();
        let frame = Frame::around(size, vectors.len(), |i, out| out.copy_from_slice(&vectors[i]));
        let mut encoder = Encoder::new(&frame, distance, codes);
        let mut prepared = Query::default();
        prepared.set(query, &frame, distance, codes);
        let mut code = vec![Block([0; BLOCK]); codes.blocks(size)];
        let mut pairs = Vec::new();
        for vector in vectors {
            let factors = encoder.encode(vector, &mut code);
            let nearness =
                f64::from(factors.scale) * f64::from(Kernel::get().run(Product(codes, &code, &prepared))) + f64::from(factors.bias);
            let dot: f64 = vector.iter().zip(query).map(|(x, q)| f64::from(*x) * f64::from(*q)).sum();
            let squared: f64 = vector.iter().zip(query).map(|(x, q)| (f64::from(*x) - f64::from(*q)).powi(2)).sum();
            let exact = match distance {
                Distance::Cosine => dot / frame.unit.powi(2),
                Distance::Dot => dot / frame.unit / f64::from(largest(query)),
                Distance::Euclid | Distance::Manhattan => -squared / 2.0 / frame.unit.powi(2),
            };
            pairs.push((nearness, exact));
        }
        // A nearness is right up to a constant of the query.
        let shift = pairs.iter().map(|(found, exact)| found - exact).sum::<f64>() / pairs.len() as f64;
        let spread = pairs.iter().map(|(_, exact)| exact).fold(f64::MIN, |a, b| a.max(*b))
            - pairs.iter().map(|(_, exact)| exact).fold(f64::MAX, |a, b| a.min(*b));
        pairs.iter().map(|(found, exact)| (found - shift - exact).abs() / spread).fold(0.0, f64::max)
    }

    #[test]
    fn codes_order_by_the_distance_near_and_far_from_the_origin_at_any_scale() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for (far, scale) in [(0.0, 1.0), (100.0, 1.0), (0.0, 1e-30), (5.0, 1e30)] {
            for size in [3, 100, 300] {
                let mut draw = || (0..size).map(|_| ((random.random::<f32>() - 0.5) + far) * scale).collect::<Vec<f32>>();
                let vectors: Vec<_> = (0..200).map(|_| draw()).collect();
                let query = draw();
                for (codes, tolerance) in [(Codes::F16, 0.002), (Codes::Int8, 0.02), (Codes::Int4, 0.25)] {
                    for distance in [Distance::Cosine, Distance::Dot, Distance::Euclid] {
                        // Far from the origin, the products of a dot product are almost the same; no code can tell them apart so well.
                        let tolerance = if far > 0.0 && distance == Distance::Dot { 20.0 * tolerance } else { tolerance };
                        let error = error(codes, distance, &vectors, &query);
                        assert!(error < tolerance, "{codes:?} {distance:?} {size} × {scale} at {far}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn halves_lie_as_they_always_did() {
        let code: [Block; 3] = std::array::from_fn(|block| Block(std::array::from_fn(|i| (64 * block + i) as u8)));
        let mut halves = [Block([0; BLOCK]); 4];
        in_halves(&code, &mut halves);
        // Bytes 0x05 and 0x45 share one of the first blocks, 0x85 and the padding one of the second.
        assert_eq!(halves.map(|block| block.0[5]), [0x40, 0x88, 0x55, 0x05]);
    }

    struct Halved<'a>(&'a [Block], &'a [Block], &'a Query);

    impl Work for Halved<'_> {
        type Output = [i32; 2];

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> [i32; 2] {
            let Self(code, halves, query) = self;
            let (upper, lower) = halves.split_at(halves.len() / 2);
            let [upper, lower] = [isa.dot_i4(upper, &query.bytes), isa.dot_i4(lower, &query.bytes)];
            [isa.dot_i8(code, &query.bytes), of_halves(upper, lower, query.bytes.sum)]
        }
    }

    #[test]
    fn both_halves_give_what_the_code_gives_in_every_kernel() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for size in [1, 63, 64, 65, 128, 200, 511, 512] {
            let frame = Frame { centre: vec![0.0; size], unit: 1.0 };
            for scale in [1.0, 0.0] {
                let mut draw = || (0..size).map(|_| (random.random::<f32>() - 0.5) * scale).collect::<Vec<f32>>();
                let (vector, row) = (draw(), draw());
                let mut query = Query::default();
                query.set(&row, &frame, Distance::Euclid, Codes::Int8);
                let mut code = vec![Block([0; BLOCK]); Codes::Int8.blocks(size)];
                Encoder::new(&frame, Distance::Euclid, Codes::Int8).encode(&vector, &mut code);
                let mut halves = vec![Block([0; BLOCK]); blocks_in_halves(size)];
                in_halves(&code, &mut halves);
                for kernel in Kernel::all() {
                    let [whole, found] = kernel.run(Halved(&code, &halves, &query));
                    assert_eq!(found, whole, "{} dimensions × {scale} by {}", size, kernel.name());
                }
            }
        }
    }

    #[test]
    fn one_large_coordinate_leaves_upper_halves_too_few_steps() {
        let mut random = ChaCha8Rng::seed_from_u64(8);
        let rows: Vec<Vec<f32>> = (0..300).map(|_| (0..256).map(|_| random.random::<f32>() - 0.5).collect()).collect();
        for (times, suffice) in [(1.0, true), (4.0, true), (20.0, false)] {
            let copy = |i: usize, out: &mut [f32]| {
                out.copy_from_slice(&rows[i]);
                out[7] *= times;
            };
            let frame = Frame::around(256, rows.len(), copy);
            assert_eq!(upper_halves_suffice(&frame, rows.len(), copy), suffice, "× {times}");
        }
    }

    #[test]
    fn rows_in_the_centre_and_extreme_rows_have_finite_codes() {
        for rows in [vec![vec![1.0; 5]; 3], vec![vec![f32::MAX; 5], vec![-f32::MAX; 5], vec![0.0; 5]], vec![vec![1e-45; 5], vec![3e38; 5]]]
        {
            let frame = Frame::around(5, rows.len(), |i, out| out.copy_from_slice(&rows[i]));
            for codes in [Codes::F16, Codes::Int8, Codes::Int4] {
                for distance in [Distance::Cosine, Distance::Dot, Distance::Euclid] {
                    let mut code = [Block([0; BLOCK]); 1];
                    for row in &rows {
                        let factors = Encoder::new(&frame, distance, codes).encode(row, &mut code);
                        assert!(factors.scale.is_finite() && factors.bias.is_finite(), "{codes:?} {distance:?} {row:?}: {factors:?}");
                    }
                }
            }
        }
    }
}
