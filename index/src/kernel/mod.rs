//! Inner products, as fast as the processor at hand allows.
//!
//! Which instructions are used is chosen once, at run time ([`Kernel::get`]). A whole search or build is compiled once for
//! each instruction set ([`Work`]), so that the products are inlined into its loops: a call through a pointer for each
//! product would cost as much as a short product. Compiling for the machine at hand (`target-cpu=native`) gained nothing
//! over this when it was measured.
//!
//! **Every kernel gives the same bits.** Products of codes are integers. Products of floats keep sixteen running sums in
//! one fixed order and never fuse a multiplication with an addition, on every instruction set: a search answers the same on
//! every machine, and a score here equals [`Distance::score`](crate::Distance::score) bit for bit.
//!
//! `MOCO_INDEX_KERNEL=avx512|avx2|neon|portable` forces one, for tests and benchmarks. One that this machine lacks, or an
//! unknown word, is a panic: a benchmark must not quietly measure something else.

#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

use crate::large_pages::Zero;

pub(crate) use portable::f32_to_f16;

/// Bytes of a [`Block`]; rows of codes are padded to whole blocks.
pub(crate) const BLOCK: usize = 64;

/// One cache line, what all kernels on codes work in.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Block(pub(crate) [u8; BLOCK]);

// SAFETY: 64 bytes.
unsafe impl Zero for Block {}

/// A row of bytes as signed numbers, to multiply rows of codes with.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByteQuery {
    /// Two's complement, within ±127, padded with 0.
    pub(crate) numbers: Vec<Block>,
    /// Of all numbers.
    pub(crate) sum: i32,
}

/// The inner loops on one instruction set. A value of such a type proves that this processor has the instructions.
///
/// Where two slices are given, both have the same length.
pub(crate) trait Isa: Copy + Send + Sync {
    /// Σ a·b, bit for bit as [`crate::distance::dot`].
    fn dot(self, a: &[f32], b: &[f32]) -> f32;

    /// Σ (a−b)², bit for bit as [`crate::distance::squared_euclid`].
    fn squared_euclid(self, a: &[f32], b: &[f32]) -> f32;

    /// Σ a·b where `row` holds IEEE half floats.
    fn dot_f16(self, query: &[f32], row: &[u16]) -> f32;

    /// Does the product of four rows take less time than those of three, one after the other?
    const FOUR_IN_ONE: bool = false;

    /// Σ (row−128)·query, for row bytes from 1 to 255.
    fn dot_i8(self, row: &[Block], query: &ByteQuery) -> i32;

    /// [`Self::dot_i8`] of four rows of one length.
    #[inline(always)]
    fn dot_i8_of_four(self, rows: [&[Block]; 4], query: &ByteQuery) -> [i32; 4] {
        let mut products = [0; 4];
        for (product, row) in products.iter_mut().zip(rows) {
            *product = self.dot_i8(row, query);
        }
        products
    }

    /// Σ (a−128)·(b−128), for bytes from 1 to 255; `b_sum` is Σ (b−128).
    fn dot_rows(self, a: &[Block], b: &[Block], b_sum: i32) -> i32;

    /// Σ (2c−15)·query over the 4-bit codes c. A block of the row holds 128 of them: the low halves of its bytes belong to
    /// one block of the query, the high halves to the next.
    fn dot_i4(self, row: &[Block], query: &ByteQuery) -> i32;

    /// [`Self::dot_i4`] of four rows of one length.
    #[inline(always)]
    fn dot_i4_of_four(self, rows: [&[Block]; 4], query: &ByteQuery) -> [i32; 4] {
        let mut products = [0; 4];
        for (product, row) in products.iter_mut().zip(rows) {
            *product = self.dot_i4(row, query);
        }
        products
    }

    /// Products of all `rows` with all `columns`: sixteen codes to a group, `rows[0].len()` × 16 blocks each, where block k
    /// holds the k-th four bytes of each of the sixteen. `products[r × groups + g]` becomes Σ row·(column−128), for rows of
    /// numbers within ±127 (`sums` are the sums of theirs) and columns of bytes from 1 to 255.
    fn tile(self, rows: &[&[Block]], sums: &[i32], columns: &[Block], products: &mut [[i32; LANES]]);

    /// From products of one row with the codes of one group to half their squared distances,
    /// (`row.half_square` + half square) − product × (`row.scale` × scale), and a bit for each that is below `threshold`.
    fn nearer(self, products: &[i32; LANES], columns: &Columns, row: Column, threshold: f32, distances: &mut [f32; LANES]) -> u32;

    /// Asks for the first `lines` cache lines of `row` to be brought near.
    fn prefetch<T>(self, row: &[T], lines: usize);
}

/// Codes that are multiplied at once by [`Isa::tile`].
pub(crate) const LANES: usize = 16;

/// What [`Isa::tile`] was given: blocks of a row, and groups of columns. `None` without rows.
///
/// # Panics
/// If rows, sums or products are not as many as they must be.
#[inline(always)]
fn tile_shape(rows: &[&[Block]], sums: &[i32], columns: &[Block], products: &[[i32; LANES]]) -> Option<(usize, usize)> {
    let blocks = rows.first()?.len();
    let groups = columns.len() / (blocks * LANES);
    assert!(rows.len() == sums.len() && rows.iter().all(|row| row.len() == blocks) && products.len() >= rows.len() * groups);
    Some((blocks, groups))
}

/// What turns a product with a code into a distance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) scale: f32,
    pub(crate) half_square: f32,
}

/// The same of a group of codes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Columns {
    pub(crate) scales: [f32; LANES],
    pub(crate) half_squares: [f32; LANES],
}

/// Something to run with the kernels of whichever instruction set was chosen.
pub(crate) trait Work {
    type Output;

    /// Must be `#[inline(always)]`, and so must what it calls in its loops: only what is inlined into the function that
    /// enables the instructions is compiled with them.
    fn run<I: Isa>(self, isa: I) -> Self::Output;
}

/// The instruction sets there are kernels for, each with the proof that it may be used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
    Portable(portable::Portable),
}

impl Kernel {
    /// The best for this machine, or the one that `MOCO_INDEX_KERNEL` names.
    pub(crate) fn get() -> Self {
        static CHOSEN: OnceLock<Kernel> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let all = Self::all();
            match std::env::var("MOCO_INDEX_KERNEL") {
                Ok(name) => *all.iter().find(|kernel| kernel.name() == name).unwrap_or_else(|| {
                    let names: Vec<_> = all.iter().map(|kernel| kernel.name()).collect();
                    panic!("MOCO_INDEX_KERNEL is {name}, but this machine has {}", names.join(", "))
                }),
                Err(_) => all[0],
            }
        })
    }

    /// Those that this machine can run, the fastest first.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(x86::Avx512::detect().map(Self::Avx512));
            all.extend(x86::Avx2::detect().map(Self::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(neon::Neon::detect().map(Self::Neon));
        all.push(Self::Portable(portable::Portable));
        all
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
            Self::Portable(_) => "portable",
        }
    }

    pub(crate) fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(isa) => isa.run(work),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(isa) => isa.run(work),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(isa) => isa.run(work),
            Self::Portable(isa) => work.run(isa),
        }
    }
}

/// Sixteen sums to one, in the order in which halving a vector register adds them.
#[inline(always)]
pub(crate) fn fold(mut sums: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distance::{dot, squared_euclid};

    /// Numbers within ±1 that look random.
    fn floats(seed: u64, length: usize) -> Vec<f32> {
        bytes(seed, 4 * length).chunks(4).map(|x| u32::from_le_bytes([x[0], x[1], x[2], x[3]]) as f32 / (1u64 << 31) as f32 - 1.0).collect()
    }

    fn bytes(seed: u64, length: usize) -> Vec<u8> {
        (0..length).map(|i| (xxhash_rust::xxh3::xxh3_64_with_seed(&i.to_le_bytes(), seed) >> 20) as u8).collect()
    }

    fn blocks(bytes: &[u8]) -> Vec<Block> {
        assert_eq!(bytes.len() % BLOCK, 0);
        bytes.chunks(BLOCK).map(|block| Block(block.try_into().unwrap())).collect()
    }

    /// Codes from 1 to 255, as they are stored.
    fn codes(seed: u64, length: usize) -> Vec<u8> {
        bytes(seed, length).into_iter().map(|code| code.max(1)).collect()
    }

    fn query(codes: &[u8]) -> ByteQuery {
        let numbers: Vec<u8> = codes.iter().map(|code| code ^ 0x80).collect();
        ByteQuery { sum: numbers.iter().map(|number| i32::from(*number as i8)).sum(), numbers: blocks(&numbers) }
    }

    struct Floats<'a>(&'a [f32], &'a [f32], &'a [u16]);

    impl Work for Floats<'_> {
        type Output = [f32; 3];

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> [f32; 3] {
            [isa.dot(self.0, self.1), isa.squared_euclid(self.0, self.1), isa.dot_f16(self.0, self.2)]
        }
    }

    #[test]
    fn every_kernel_sums_floats_to_the_same_bits_at_every_length_and_alignment() {
        for length in (0..70).chain([127, 128, 129, 511, 512, 513, 2048]) {
            let (a, b) = (floats(1, length + 1), floats(2, length));
            let halves: Vec<u16> = bytes(3, 2 * length).chunks(2).map(|x| (u16::from_le_bytes([x[0], x[1]]) & 0x83ff) | 0x3800).collect();
            let a = &a[1..];
            let expected = Kernel::Portable(portable::Portable).run(Floats(a, &b, &halves));
            assert_eq!(expected[..2], [dot(a, &b), squared_euclid(a, &b)]);
            let in_f64: f64 = a.iter().zip(&halves).map(|(a, half)| f64::from(*a) * f64::from(portable::f16_to_f32(*half))).sum();
            assert!((f64::from(expected[2]) - in_f64).abs() < 1e-5 * (1.0 + length as f64), "{length}: {} against {in_f64}", expected[2]);
            for kernel in Kernel::all() {
                let found = kernel.run(Floats(a, &b, &halves));
                assert_eq!(found.map(f32::to_bits), expected.map(f32::to_bits), "{} on {length} numbers", kernel.name());
            }
        }
    }

    /// Memory that ends where no page follows: one byte further, and the process ends.
    struct LastPage {
        map: memmap2::MmapMut,
        page: usize,
    }

    impl LastPage {
        fn new() -> Self {
            // SAFETY: a question to the system.
            let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
            let map = memmap2::MmapMut::map_anon(2 * page).unwrap();
            // SAFETY: the second page is the map's own, and nobody looks at it.
            assert_eq!(unsafe { libc::mprotect(map.as_ptr().add(page).cast_mut().cast(), page, libc::PROT_NONE) }, 0);
            Self { map, page }
        }

        /// The values at the very end of the first page.
        fn put<T: Copy>(&mut self, values: &[T]) -> &[T] {
            let from = self.page - size_of_val(values);
            assert_eq!(from % align_of::<T>(), 0);
            // SAFETY: the place is within the first page and aligned; the values are copied there before they are looked at, and
            // the borrow keeps others away.
            unsafe {
                let place = self.map.as_mut_ptr().add(from).cast::<T>();
                place.copy_from_nonoverlapping(values.as_ptr(), values.len());
                std::slice::from_raw_parts(place, values.len())
            }
        }
    }

    /// A sanitiser does not see every masked load; the end of the last page does.
    #[test]
    fn no_kernel_reads_past_the_end_of_a_row() {
        let (mut left, mut right, mut third) = (LastPage::new(), LastPage::new(), LastPage::new());
        for length in 0..130 {
            let (a, b) = (floats(11, length), floats(12, length));
            let halves: Vec<u16> = bytes(13, 2 * length).chunks(2).map(|x| (u16::from_le_bytes([x[0], x[1]]) & 0x83ff) | 0x3800).collect();
            let expected = Kernel::Portable(portable::Portable).run(Floats(&a, &b, &halves));
            let (a, b, halves) = (left.put(&a), right.put(&b), third.put(&halves));
            for kernel in Kernel::all() {
                let found = kernel.run(Floats(a, b, halves));
                assert_eq!(found.map(f32::to_bits), expected.map(f32::to_bits), "{} on {length} numbers", kernel.name());
            }
        }
        for length in 0..20 {
            let (row, numbers) = (codes(14, length * BLOCK), query(&codes(15, 2 * length * BLOCK)));
            let (row, of_row) = (blocks(&row), query(&row));
            let run = |kernel: Kernel, a: &[Block], b: &[Block]| (kernel.run(Codes(a, b, &of_row)), kernel.run(Nibbles(a, &numbers)));
            let expected = run(Kernel::Portable(portable::Portable), &row, &row);
            let (a, b) = (left.put(&row), right.put(&row));
            for kernel in Kernel::all() {
                assert_eq!(run(kernel, a, b), expected, "{} on {length} blocks", kernel.name());
            }
        }
    }

    struct Codes<'a>(&'a [Block], &'a [Block], &'a ByteQuery);

    impl Work for Codes<'_> {
        type Output = [i32; 2];

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> [i32; 2] {
            let Self(a, b, numbers) = self;
            let (of_a, of_b) = (isa.dot_i8(a, numbers), isa.dot_i8(b, numbers));
            for rows in 0..16 {
                let is_a: [bool; 4] = std::array::from_fn(|i| rows >> i & 1 == 1);
                let found = isa.dot_i8_of_four(is_a.map(|is_a| if is_a { a } else { b }), numbers);
                assert_eq!(found, is_a.map(|is_a| if is_a { of_a } else { of_b }), "four at once are four one after the other");
            }
            [of_a, isa.dot_rows(a, b, numbers.sum)]
        }
    }

    struct Tile<'a>(&'a [&'a [Block]], &'a [i32], &'a [Block], usize);

    impl Work for Tile<'_> {
        type Output = Vec<[i32; LANES]>;

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> Self::Output {
            let mut products = vec![[0; LANES]; self.3];
            isa.tile(self.0, self.1, self.2, &mut products);
            products
        }
    }

    #[test]
    fn every_kernel_multiplies_tiles_exactly_extremes_included() {
        for (length, rows, groups) in [(1, 1, 1), (1, 4, 4), (2, 7, 5), (8, 3, 9), (3, 13, 2), (2, 0, 3)] {
            let codes_of = |i: usize, seed| match i {
                0 => vec![1; length * BLOCK],
                1 => vec![255; length * BLOCK],
                _ => codes(seed + i as u64, length * BLOCK),
            };
            let queries: Vec<ByteQuery> = (0..rows).map(|i| query(&codes_of(i, 100))).collect();
            let columns: Vec<Vec<u8>> = (0..groups * LANES).map(|i| codes_of(i, 900)).collect();
            let mut packed = Vec::new();
            for group in columns.chunks(LANES) {
                for k in 0..length * LANES {
                    packed.extend(group.iter().flat_map(|column| &column[4 * k..4 * k + 4]));
                }
            }
            let packed = blocks(&packed);
            let rows: Vec<&[Block]> = queries.iter().map(|query| &query.numbers[..]).collect();
            let sums: Vec<i32> = queries.iter().map(|query| query.sum).collect();
            for kernel in Kernel::all() {
                let found = kernel.run(Tile(&rows, &sums, &packed, rows.len() * groups));
                for (r, row) in queries.iter().enumerate() {
                    for (c, column) in columns.iter().enumerate() {
                        let numbers = row.numbers.iter().flat_map(|block| block.0);
                        let plain: i32 = numbers.zip(column).map(|(a, b)| i32::from(a as i8) * (i32::from(*b) - 128)).sum();
                        assert_eq!(found[r * groups + c / LANES][c % LANES], plain, "{} row {r} column {c}", kernel.name());
                    }
                }
            }
        }
    }

    struct Nearer<'a>(&'a [i32; LANES], &'a Columns, Column, f32);

    impl Work for Nearer<'_> {
        type Output = ([u32; LANES], u32);

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> Self::Output {
            let mut distances = [0.0; LANES];
            let mask = isa.nearer(self.0, self.1, self.2, self.3, &mut distances);
            (distances.map(f32::to_bits), mask)
        }
    }

    #[test]
    fn every_kernel_finds_the_same_distances_below_a_threshold() {
        for seed in 0..50 {
            let numbers = floats(seed, 2 * LANES);
            let mut columns = Columns { scales: [0.0; LANES], half_squares: [0.0; LANES] };
            columns.scales.copy_from_slice(&numbers[..LANES]);
            columns.half_squares.copy_from_slice(&numbers[LANES..]);
            columns.half_squares[3] = f32::INFINITY;
            let products = std::array::from_fn(|i| (numbers[i] * 1e5) as i32);
            let row = Column { scale: 1e-5, half_square: 0.3 };
            for threshold in [0.5, f32::INFINITY, -1.0] {
                let expected = Kernel::Portable(portable::Portable).run(Nearer(&products, &columns, row, threshold));
                assert!(expected.1 & 8 == 0, "nothing is as far as infinity");
                for kernel in Kernel::all() {
                    assert_eq!(kernel.run(Nearer(&products, &columns, row, threshold)), expected, "{}", kernel.name());
                }
            }
        }
    }

    struct Nibbles<'a>(&'a [Block], &'a ByteQuery);

    impl Work for Nibbles<'_> {
        type Output = i32;

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> i32 {
            let Self(row, query) = self;
            // As a row of four too, in each place beside another row.
            let one = isa.dot_i4(row, query);
            let other = vec![Block([0x5a; BLOCK]); row.len()];
            let of_other = isa.dot_i4(&other, query);
            for place in 0..4 {
                let is_row: [bool; 4] = std::array::from_fn(|i| i == place);
                let found = isa.dot_i4_of_four(is_row.map(|is_row| if is_row { row } else { &other }), query);
                assert_eq!(found, is_row.map(|is_row| if is_row { one } else { of_other }), "row {place} of four");
            }
            one
        }
    }

    #[test]
    fn every_kernel_multiplies_codes_exactly_extremes_included() {
        for length in 1..20 {
            let extreme = |even: u8, odd: u8| (0..length * BLOCK).map(|i| if i % 2 == 0 { even } else { odd }).collect::<Vec<u8>>();
            let mut rows: Vec<Vec<u8>> = (0..4).map(|seed| codes(seed, length * BLOCK)).collect();
            rows.extend([extreme(1, 1), extreme(255, 255), extreme(1, 255), extreme(255, 1)]);
            for (a, b) in rows.iter().flat_map(|a| rows.iter().map(move |b| (a, b))) {
                let plain: i64 = a.iter().zip(b).map(|(a, b)| (i64::from(*a) - 128) * (i64::from(*b) - 128)).sum();
                for kernel in Kernel::all() {
                    let found = kernel.run(Codes(&blocks(a), &blocks(b), &query(b)));
                    assert_eq!(found.map(i64::from), [plain; 2], "{} on {length} blocks", kernel.name());
                }
            }
        }
    }

    #[test]
    fn every_kernel_multiplies_4_bit_codes_exactly() {
        for length in 1..10 {
            let (row, numbers) = (bytes(5, length * BLOCK), codes(6, 2 * length * BLOCK));
            for row in [row, vec![0; length * BLOCK], vec![0xff; length * BLOCK]] {
                let mut plain = 0;
                for (i, byte) in row.iter().enumerate() {
                    let (block, place) = (i / BLOCK, i % BLOCK);
                    for (half, code) in [byte & 15, byte >> 4].into_iter().enumerate() {
                        plain += (2 * i32::from(code) - 15) * (i32::from(numbers[(2 * block + half) * BLOCK + place]) - 128);
                    }
                }
                for kernel in Kernel::all() {
                    assert_eq!(kernel.run(Nibbles(&blocks(&row), &query(&numbers))), plain, "{} on {length} blocks", kernel.name());
                }
            }
        }
    }

    #[test]
    fn half_floats_of_every_bit_pattern_are_read_as_the_processor_reads_them() {
        for kernel in Kernel::all() {
            for half in (0..=u16::MAX).filter(|half| half & 0x7c00 != 0x7c00) {
                let [.., found] = kernel.run(Floats(&[1.0], &[0.0], &[half]));
                // A sum never ends at -0.
                assert_eq!(found.to_bits(), (portable::f16_to_f32(half) + 0.0).to_bits(), "{half:#x} by {}", kernel.name());
            }
        }
    }
}
