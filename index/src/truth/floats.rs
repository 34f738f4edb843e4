//! The bytes of a vector in the file: its values without loss, in about five sixths of the room.
//!
//! The mantissas of real features are noise, and so are their signs; the exponents are not: of their eight bits they carry
//! about two and a half. So the planes lie apart, and the exponents are written in a Huffman code of their own vector:
//!
//! ```text
//! kind   raw     | 4 bytes a value
//! kind   coded, and in the upper half the length of the code of exponent 0
//!        first exponent (not 0) | how many from there on | the lengths of their codes, a half byte each
//!        lower 16 bits of each value | the 7 bits above them and the sign | the codes, from the lowest bit on
//! ```
//!
//! Exponent 0 (zeros, as after a rectifier, and subnormals) is far from all others and has its length to itself. What the
//! code does not make smaller is written raw. General compressors were not taken: they want more than one vector at a
//! time to be any good at it, and take several times the time.

use std::iter::once;
use std::ops::Range;

/// No code is longer: a table of so many bits decodes in one look-up.
const LONGEST: u32 = 8;
const RAW: u8 = 0;
const CODED: u8 = 1;
/// Bytes after the codes that a decoder may look at.
const AHEAD: usize = 8;

/// Appends a vector to `out`.
pub(super) fn encode(vector: &[f32], out: &mut Vec<u8>) {
    let start = out.len();
    if !encode_exponents_apart(vector, out) || out.len() - start > 4 * vector.len() {
        out.truncate(start);
        out.push(RAW);
        out.extend(bytes_of(vector));
    }
}

pub(super) fn bytes_of(vector: &[f32]) -> Vec<u8> {
    // Whole chunks: an iterator of single bytes takes ten times as long.
    let mut bytes = vec![0; 4 * vector.len()];
    bytes.as_chunks_mut().0.iter_mut().zip(vector).for_each(|(bytes, x)| *bytes = x.to_le_bytes());
    bytes
}

fn exponent(x: f32) -> u8 {
    (x.to_bits() >> 23) as u8
}

/// `false` where it is of no use.
fn encode_exponents_apart(vector: &[f32], out: &mut Vec<u8>) -> bool {
    // Two, as consecutive values have like exponents and would wait for each other's count.
    let mut counts = [[0u32; 256]; 2];
    let (pairs, rest) = vector.as_chunks::<2>();
    for [a, b] in pairs {
        counts[0][usize::from(exponent(*a))] += 1;
        counts[1][usize::from(exponent(*b))] += 1;
    }
    rest.iter().for_each(|x| counts[0][usize::from(exponent(*x))] += 1);
    let [mut counts, other] = counts;
    counts.iter_mut().zip(other).for_each(|(count, other)| *count += other);

    let lengths = code_lengths(&counts);
    let (first, last) = match (lengths[1..].iter().position(|length| *length > 0), lengths.iter().rposition(|length| *length > 0)) {
        (Some(first), Some(last)) => (first + 1, last),
        // All exponents are 0.
        _ => (1, 0),
    };
    let Some(codes) = codes(&lengths, first..last + 1) else { return false };
    let table = &lengths[first..=last.max(first - 1)];
    out.reserve(4 + table.len() + 4 * vector.len() + AHEAD);
    out.extend([CODED | (lengths[0] << 4), first as u8, table.len() as u8]);
    out.extend(table.chunks(2).map(|pair| pair[0] | (pair.get(1).unwrap_or(&0) << 4)));
    let planes = out.len();
    out.resize(planes + 3 * vector.len(), 0);
    let (lower, above) = out[planes..].split_at_mut(2 * vector.len());
    lower.as_chunks_mut().0.iter_mut().zip(vector).for_each(|(bytes, x)| *bytes = (x.to_bits() as u16).to_le_bytes());
    above.iter_mut().zip(vector).for_each(|(byte, x)| *byte = upper(x.to_bits()));
    let (mut bits, mut used) = (0u64, 0);
    for x in vector {
        let (code, length) = codes[usize::from(exponent(*x))];
        bits |= u64::from(code) << used;
        used += u32::from(length);
        // A further code still fits.
        if used >= 32 {
            out.extend((bits as u32).to_le_bytes());
            bits >>= 32;
            used -= 32;
        }
    }
    out.extend(&bits.to_le_bytes()[..used.div_ceil(8) as usize]);
    true
}

/// Bits 16 to 22, and the sign above them.
fn upper(bits: u32) -> u8 {
    ((bits >> 16) & 0x7f) as u8 | ((bits >> 24) & 0x80) as u8
}

/// A vector of `size` values; `None` if `bytes` are not what [`encode`] writes of one.
pub(super) fn decode(bytes: &[u8], size: usize) -> Option<Vec<f32>> {
    let (kind, rest) = bytes.split_first()?;
    if *kind == RAW {
        let (values, rest) = rest.as_chunks::<4>();
        return (rest.is_empty() && values.len() == size).then(|| values.iter().map(|x| f32::from_le_bytes(*x)).collect());
    }
    let ([first, len], rest) = rest.split_first_chunk::<2>()?;
    let (first, len) = (usize::from(*first), usize::from(*len));
    let (table, rest) = rest.split_at_checked(len.div_ceil(2))?;
    let (lower, rest) = rest.split_at_checked(size.checked_mul(2)?)?;
    let (upper, coded) = rest.split_at_checked(size)?;
    if kind & 0x0f != CODED || first == 0 || first + len > 256 {
        return None;
    }
    let mut lengths = [0u8; 256];
    lengths[0] = kind >> 4;
    for (index, length) in lengths[first..][..len].iter_mut().enumerate() {
        *length = (table[index / 2] >> (4 * (index % 2))) & 0x0f;
    }
    let table = decoding_table(&lengths, first..first + len)?;
    let exponents = decode_exponents(coded, size, &table)?;
    let (lower, _) = lower.as_chunks::<2>();
    let values = lower.iter().zip(upper).zip(&exponents).map(|((lower, upper), exponent)| {
        let (lower, upper) = (u32::from(u16::from_le_bytes(*lower)), u32::from(*upper));
        f32::from_bits(lower | ((upper & 0x7f) << 16) | (u32::from(*exponent) << 23) | ((upper & 0x80) << 24))
    });
    Some(values.collect())
}

fn decode_exponents(coded: &[u8], size: usize, table: &[[u8; 2]; 1 << LONGEST]) -> Option<Vec<u8>> {
    let mut padded = Vec::with_capacity(coded.len() + AHEAD);
    padded.extend_from_slice(coded);
    padded.extend([0; AHEAD]);
    let mut exponents = vec![0; size];
    let (mut at, mut shortest) = (0, u8::MAX);
    // Seven codes of at most eight bits each are in any 57.
    let (sevens, rest) = exponents.as_chunks_mut::<7>();
    for seven in sevens.iter_mut().map(<[u8; 7]>::as_mut_slice).chain([rest]) {
        let mut bits = u64::from_le_bytes(*padded.get(at / 8..)?.first_chunk()?) >> (at % 8);
        for exponent in seven {
            let [symbol, length] = table[(bits & ((1 << LONGEST) - 1)) as usize];
            *exponent = symbol;
            shortest = shortest.min(length);
            bits >>= length;
            at += usize::from(length);
        }
    }
    // A code of no bits is none.
    (shortest > 0 && at.div_ceil(8) == coded.len()).then_some(exponents)
}

/// Lengths of a Huffman code, none above [`LONGEST`]; 0 for what does not occur.
fn code_lengths(counts: &[u32; 256]) -> [u8; 256] {
    let mut lengths = [0; 256];
    let mut leaves: Vec<(u32, u8)> =
        (0..=255u8).map(|symbol| (counts[usize::from(symbol)], symbol)).filter(|(count, _)| *count > 0).collect();
    if let [(_, symbol)] = leaves[..] {
        lengths[usize::from(symbol)] = 1;
    }
    if leaves.len() < 2 {
        return lengths;
    }
    leaves.sort_unstable();
    loop {
        // The two lightest become one, again and again; those made are made in ascending weight, so that two queues do.
        let n = leaves.len();
        let mut weights: Vec<u32> = leaves.iter().map(|leaf| leaf.0).collect();
        let mut parents = vec![0; 2 * n - 1];
        let (mut leaf, mut made) = (0, n);
        while weights.len() < 2 * n - 1 {
            let parent = weights.len();
            let mut weight = 0;
            for _ in 0..2 {
                let lightest = if leaf < n && (made >= parent || weights[leaf] <= weights[made]) { &mut leaf } else { &mut made };
                weight += weights[*lightest];
                parents[*lightest] = parent;
                *lightest += 1;
            }
            weights.push(weight);
        }
        let mut depths = vec![0u8; 2 * n - 1];
        for node in (0..2 * n - 2).rev() {
            depths[node] = depths[parents[node]].saturating_add(1);
        }
        if depths[..n].iter().all(|depth| u32::from(*depth) <= LONGEST) {
            for ((_, symbol), depth) in leaves.iter().zip(depths) {
                lengths[usize::from(*symbol)] = depth;
            }
            return lengths;
        }
        // Flatter; in the end all weigh the same, and none of 256 is deeper than eight. The order stays.
        leaves.iter_mut().for_each(|leaf| leaf.0 = leaf.0 / 2 + 1);
    }
}

/// The canonical code of these lengths, each code's bits in the order in which they are read; `None` if there is no such code.
/// Symbols that are neither 0 nor in `range` have no length, and are not looked at: a vector has about a dozen.
fn codes(lengths: &[u8; 256], range: Range<usize>) -> Option<[(u16, u8); 256]> {
    let used = || once(0).chain(range.clone()).filter(|symbol| lengths[*symbol] > 0);
    // By length, one further up: how many codes have it.
    let mut next = [0u32; LONGEST as usize + 2];
    for symbol in used() {
        *next[1..].get_mut(usize::from(lengths[symbol]))? += 1;
    }
    let mut first = 0;
    for shorter in &mut next[1..] {
        first = (first + *shorter) << 1;
        *shorter = first;
    }
    let mut codes = [(0, 0); 256];
    for symbol in used() {
        let length = lengths[symbol];
        let bits = &mut next[usize::from(length)];
        if *bits >= 1 << length {
            return None;
        }
        codes[symbol] = (((*bits as u16) << (16 - u32::from(length))).reverse_bits(), length);
        *bits += 1;
    }
    Some(codes)
}

/// By the next bits: the exponent whose code they begin with, and its length; 0 where they begin with none.
fn decoding_table(lengths: &[u8; 256], range: Range<usize>) -> Option<[[u8; 2]; 1 << LONGEST]> {
    let codes = codes(lengths, range.clone())?;
    let mut table = [[0; 2]; 1 << LONGEST];
    for symbol in once(0).chain(range) {
        let (code, length) = codes[symbol];
        if length > 0 {
            table.iter_mut().skip(usize::from(code)).step_by(1 << length).for_each(|entry| *entry = [symbol as u8, length]);
        }
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn round_trip(vector: &[f32]) -> Vec<u8> {
        let mut bytes = vec![7];
        encode(vector, &mut bytes);
        assert_eq!(bytes[0], 7, "what was there stays");
        let back = decode(&bytes[1..], vector.len()).unwrap();
        assert!(vector.iter().map(|x| x.to_bits()).eq(back.iter().map(|x| x.to_bits())), "{vector:?}");
        assert!(bytes.len() - 1 <= 4 * vector.len() + 1);
        bytes.split_off(1)
    }

    /// About normal: the sum of twelve.
    fn normal(random: &mut ChaCha8Rng) -> f32 {
        (0..12).map(|_| random.random_range(-0.5f32..0.5)).sum()
    }

    #[test]
    fn every_value_comes_back_bit_for_bit() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let odd = [0.0, -0.0, f32::MIN_POSITIVE, f32::from_bits(1), -f32::from_bits(0x007f_ffff), f32::MAX, f32::MIN, 1.0, -1.0];
        for size in [1, 2, 3, 4, 5, 6, 7, 31, 32, 33, 128, 511, 512, 2048] {
            round_trip(&vec![0.0; size]);
            round_trip(&vec![-0.25; size]);
            for _ in 0..50 {
                round_trip(&(0..size).map(|_| normal(&mut random)).collect::<Vec<_>>());
                round_trip(&(0..size).map(|_| normal(&mut random).max(0.0)).collect::<Vec<_>>());
                round_trip(&(0..size).map(|_| odd[random.random_range(0..odd.len())]).collect::<Vec<_>>());
                // Any bits whatever, and exponents of which each is half as frequent as the one before: the longest codes.
                round_trip(&(0..size).map(|_| f32::from_bits(random.random())).collect::<Vec<_>>());
                round_trip(&(0..size).map(|_| 2f32.powi(-(random.random::<u64>().trailing_zeros() as i32))).collect::<Vec<_>>());
            }
        }
        round_trip(&[]);
    }

    #[test]
    fn normal_values_take_five_sixths_and_bits_at_random_what_they_are() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let features = round_trip(&(0..512).map(|_| normal(&mut random)).collect::<Vec<_>>());
        assert!(features.len() < 2048 * 84 / 100, "{} bytes", features.len());
        let noise = round_trip(&(0..512).map(|_| f32::from_bits(random.random())).collect::<Vec<_>>());
        assert_eq!((noise.len(), noise[0]), (2049, RAW));
    }

    #[test]
    fn other_bytes_are_refused_or_give_other_values_but_nothing_else() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let vector: Vec<f32> = (0..64).map(|_| normal(&mut random)).collect();
        let good = round_trip(&vector);
        for len in 0..good.len() {
            assert_eq!(decode(&good[..len], 64), None, "cut to {len}");
        }
        assert_eq!(decode(&good, 63), None);
        assert_eq!(decode(&good, usize::MAX), None);
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                let other = decode(&bad, 64).is_none_or(|back| back.iter().zip(&vector).any(|(a, b)| a.to_bits() != b.to_bits()));
                // The bits after the last code, and the half byte after the last length, say nothing.
                let unused = at + 1 == good.len() || at == 2 + usize::from(good[2]).div_ceil(2);
                assert!(other || unused, "byte {at}, bit {bit}");
            }
        }
        for _ in 0..20_000 {
            let len = random.random_range(0..300);
            let bytes: Vec<u8> = (0..len).map(|at| if at == 0 { CODED } else { random.random() }).collect();
            let _any = decode(&bytes, random.random_range(0..64));
        }
    }
}
