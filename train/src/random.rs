//! Random numbers that belong to what they are drawn for.
//!
//! Seed, purpose, epoch and sample are the key of a ChaCha8 stream, so a draw does not depend on how many workers
//! there are, which of them is faster, or where a run was resumed.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a stream is for. Two purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The order of an epoch's samples.
    Order,
    /// The augmentation of one view of a sample: 0 is the query's, 1 the key's.
    View(u8),
    /// The order in which a batch's keys pass the key encoder.
    KeyShuffle,
}

impl Purpose {
    fn number(self) -> u64 {
        match self {
            Self::Order => 0,
            Self::KeyShuffle => 1,
            Self::View(view) => 0x100 + u64::from(view),
        }
    }
}

/// A stream of random numbers.
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of `purpose` for (`epoch`, `sample`); what has no sample, or counts in steps, names them so.
    pub fn new(seed: u64, purpose: Purpose, epoch: u64, sample: u64) -> Self {
        let mut key = [0; 32];
        for (bytes, number) in key.chunks_exact_mut(8).zip([seed, purpose.number(), epoch, sample]) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in `low..high`; `low` where both are equal.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with this probability: never for 0, always for 1.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Uniform in `0..n`, for `n ≥ 1`.
    pub fn below(&mut self, n: u64) -> u64 {
        // The high half of the product; the bias is n / 2⁶⁴.
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Every order is equally likely (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// Uniform in `0..1`, of 53 bits.
    fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A permutation of `0..n`.
pub fn permutation(seed: u64, purpose: Purpose, epoch: u64, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    Stream::new(seed, purpose, epoch, 0).shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_key_gives_another_stream_and_the_same_key_the_same() {
        let first = |seed, purpose, epoch, sample| Stream::new(seed, purpose, epoch, sample).unit().to_bits();
        let draws = [
            first(1, Purpose::View(0), 2, 3),
            first(2, Purpose::View(0), 2, 3),
            first(1, Purpose::View(1), 2, 3),
            first(1, Purpose::View(0), 3, 3),
            first(1, Purpose::View(0), 2, 4),
            first(1, Purpose::Order, 2, 3),
            first(1, Purpose::KeyShuffle, 2, 3),
        ];
        for (i, draw) in draws.iter().enumerate() {
            assert!(!draws[..i].contains(draw), "{i}");
        }
        assert_eq!(draws[0], first(1, Purpose::View(0), 2, 3));
    }

    #[test]
    fn every_order_of_four_is_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..24_000 {
            *counts.entry(permutation(5, Purpose::Order, epoch, 4)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        // 1,000 expected; five deviations of a binomial are 155.
        assert!(counts.values().all(|&count: &i32| (count - 1_000).abs() < 155), "{counts:?}");
    }

    #[test]
    fn draws_keep_to_their_range() {
        let mut stream = Stream::new(0, Purpose::Order, 0, 0);
        let mut seen = [false; 3];
        for _ in 0..100 {
            seen[stream.below(3) as usize] = true;
            assert!((2.0..3.0).contains(&stream.uniform(2.0, 3.0)));
            assert_eq!(stream.uniform(0.5, 0.5), 0.5);
            assert!(!stream.chance(0.0) && stream.chance(1.0));
        }
        assert_eq!(seen, [true; 3]);
    }
}
