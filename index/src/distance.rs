//! Distances between vectors, and the one order of scores that search works in.
//!
//! The loops keep sixteen running sums, which the compiler turns into vector instructions of the baseline target. They are
//! the oracle of the kernels chosen at run time (`kernel`), which give the same bits.

use serde::{Deserialize, Serialize};

use crate::kernel::fold;

/// How near two vectors are. The names are Qdrant's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Distance {
    /// Dot product of vectors that are scaled to length one when they are stored. Larger is nearer.
    Cosine,
    /// Dot product of the vectors as they are. Larger is nearer.
    Dot,
    /// Length of the difference. Smaller is nearer.
    Euclid,
    /// Sum of absolute differences. Smaller is nearer. Always searched exactly.
    Manhattan,
}

impl Distance {
    /// Are larger scores nearer?
    pub fn larger_is_nearer(self) -> bool {
        matches!(self, Self::Cosine | Self::Dot)
    }

    /// What a search reports: the dot product (Cosine, Dot) or the distance itself (Euclid, Manhattan). Always finite:
    /// where f32 overflows, the result is computed in f64 and clamped.
    pub fn score(self, a: &[f32], b: &[f32]) -> f32 {
        let score = match self {
            Self::Cosine | Self::Dot => dot(a, b),
            Self::Euclid => squared_euclid(a, b).sqrt(),
            Self::Manhattan => manhattan(a, b),
        };
        if score.is_finite() { score } else { self.score_in_f64(a, b) }
    }

    /// The score turned so that larger is always nearer.
    pub(crate) fn nearness(self, a: &[f32], b: &[f32]) -> f32 {
        self.score_to_nearness(self.score(a, b))
    }

    /// From a score to a nearness and back: it is its own inverse.
    pub(crate) fn score_to_nearness(self, score: f32) -> f32 {
        if self.larger_is_nearer() { score } else { -score }
    }

    /// Does `score` pass `threshold`? Strictly, as in Qdrant's server.
    pub(crate) fn passes(self, score: f32, threshold: f32) -> bool {
        if self.larger_is_nearer() { score > threshold } else { score < threshold }
    }

    #[cold]
    fn score_in_f64(self, a: &[f32], b: &[f32]) -> f32 {
        let pairs = a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y)));
        let score = match self {
            Self::Cosine | Self::Dot => pairs.map(|(x, y)| x * y).sum::<f64>(),
            Self::Euclid => pairs.map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt(),
            Self::Manhattan => pairs.map(|(x, y)| (x - y).abs()).sum::<f64>(),
        };
        score.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
    }
}

const LANES: usize = 16;

/// The rest of a vector goes to the first lanes, and the sums are folded in halves: what vector registers do, so that the
/// kernels give the same bits.
#[inline(always)]
fn sum_of(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] += term(x[lane], y[lane]);
        }
    }
    for (lane, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += term(*x, *y);
    }
    fold(sums)
}

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_of(a, b, |x, y| x * y)
}

pub(crate) fn squared_euclid(a: &[f32], b: &[f32]) -> f32 {
    sum_of(a, b, |x, y| (x - y) * (x - y))
}

fn manhattan(a: &[f32], b: &[f32]) -> f32 {
    sum_of(a, b, |x, y| (x - y).abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Distance; 4] = [Distance::Cosine, Distance::Dot, Distance::Euclid, Distance::Manhattan];

    #[test]
    fn every_length_agrees_with_the_plain_sum_in_f64() {
        for length in (0..70).chain([511, 512, 513, 2048]) {
            let a: Vec<f32> = (0..length).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
            let b: Vec<f32> = (0..length).map(|i| ((i * 53 % 97) as f32 - 40.0) / 13.0).collect();
            for distance in ALL {
                let (fast, plain) = (distance.score(&a, &b), distance.score_in_f64(&a, &b));
                let scale: f32 = a.iter().zip(&b).map(|(x, y)| x.abs() * y.abs() + x.abs() + y.abs()).sum();
                assert!((fast - plain).abs() <= 1e-6 * scale, "{distance:?} on {length} dimensions: {fast} against {plain}");
            }
        }
    }

    #[test]
    fn huge_vectors_score_finite() {
        let (a, b) = ([3e38f32, -3e38, 1.0], [3e38f32, 3e38, 1.0]);
        for distance in ALL {
            assert!(distance.score(&a, &b).is_finite(), "{distance:?}");
            assert!(distance.score(&a, &a).is_finite(), "{distance:?}");
        }
        // In f32 this is infinity minus infinity.
        assert_eq!(Distance::Dot.score(&a, &b), 1.0);
    }

    #[test]
    fn distances_are_named_as_in_qdrant() {
        assert_eq!(serde_json::to_string(&ALL).unwrap(), r#"["Cosine","Dot","Euclid","Manhattan"]"#);
    }
}
