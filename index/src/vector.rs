//! What a vector must be before anything of its point is stored.

use std::borrow::Cow;

use crate::config::VectorParams;
use crate::distance::Distance;
use crate::error::{Error, Result};

/// Checks size and finiteness and, under [`Distance::Cosine`], scales to length one.
///
/// A vector whose squared length is within 1e-6 of one stays bit for bit as it is, and so does the zero vector, which
/// has no direction: it is kept, scores 0 against everything, and never enters a graph.
pub(crate) fn check(name: &str, params: &VectorParams, mut vector: Vec<f32>) -> Result<Vec<f32>> {
    if let Cow::Owned(scaled) = check_query(name, params.size, params.distance, &vector)? {
        vector = scaled;
    }
    Ok(vector)
}

/// As [`check`], without a copy of what may stay as it is.
pub(crate) fn check_query<'a>(name: &str, size: usize, distance: Distance, vector: &'a [f32]) -> Result<Cow<'a, [f32]>> {
    check_numbers(name, size, vector)?;
    if distance != Distance::Cosine || is_surely_of_length_one(vector) {
        return Ok(Cow::Borrowed(vector));
    }
    // In f64: the square of a finite f32 overflows f32 above 1e19 and vanishes below 1e-23.
    let squared: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
    if squared == 0.0 || (squared - 1.0).abs() <= 1e-6 {
        return Ok(Cow::Borrowed(vector));
    }
    let length = squared.sqrt();
    Ok(Cow::Owned(vector.iter().map(|x| (f64::from(*x) / length) as f32).collect()))
}

/// Would the sum in its proper order say so too? Eight sums side by side take a fraction of its time, and differ from it by
/// far less than the margin left here.
fn is_surely_of_length_one(vector: &[f32]) -> bool {
    let mut sums = [0f64; 8];
    let (eights, rest) = vector.as_chunks::<8>();
    for eight in eights {
        sums.iter_mut().zip(eight).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
    }
    let squared = sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    (squared - 1.0).abs() <= 0.99e-6
}

/// Checks size and finiteness.
pub(crate) fn check_numbers(name: &str, size: usize, vector: &[f32]) -> Result<()> {
    if vector.len() != size {
        return Err(Error::Dimension { name: name.to_owned(), expected: size, actual: vector.len() });
    }
    // Without an end in the middle it takes a fraction of the time.
    if vector.iter().fold(true, |finite, x| finite & x.is_finite()) {
        return Ok(());
    }
    match vector.iter().position(|x| !x.is_finite()) {
        Some(position) => Err(Error::NotFinite { name: name.to_owned(), position }),
        None => Ok(()),
    }
}

pub(crate) fn is_zero(vector: &[f32]) -> bool {
    vector.iter().all(|x| *x == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(distance: Distance) -> VectorParams {
        VectorParams::new(3, distance)
    }

    #[test]
    fn cosine_scales_to_length_one_at_any_magnitude() {
        for scale in [1e-40f32, 1e-20, 1.0, 1e20, 1e38] {
            let unit = check("", &params(Distance::Cosine), vec![scale, -scale, scale]).unwrap();
            let length: f64 = unit.iter().map(|x| f64::from(*x).powi(2)).sum();
            assert!((length - 1.0).abs() < 1e-6, "scale {scale:e}: squared length {length}");
        }
    }

    #[test]
    fn a_vector_of_about_length_one_and_the_zero_vector_stay_as_they_are() {
        for kept in [vec![0.6, 0.8, 0.0004], vec![0.0; 3], vec![0.0, 1.0, 0.0]] {
            assert_eq!(check("", &params(Distance::Cosine), kept.clone()).unwrap(), kept);
        }
        assert_eq!(check("", &params(Distance::Dot), vec![3.0, 4.0, 5.0]).unwrap(), [3.0, 4.0, 5.0]);
    }

    #[test]
    fn whether_a_vector_is_of_length_one_is_decided_by_one_sum() {
        for size in [1, 7, 8, 9, 100, 512] {
            for millionths in [0.0, 0.5, 0.98, 0.995, 0.9999, 1.0001, 1.1, 2.0] {
                for sign in [1.0, -1.0] {
                    let x = ((1.0 + sign * millionths * 1e-6) / size as f64).sqrt() as f32;
                    let vector: Vec<f32> = (0..size).map(|i| if i % 3 == 0 { -x } else { x }).collect();
                    let squared: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
                    let kept = check("", &VectorParams::new(size, Distance::Cosine), vector.clone()).unwrap() == vector;
                    assert_eq!(kept, (squared - 1.0).abs() <= 1e-6, "{size} numbers of squared length {squared}");
                }
            }
        }
    }

    #[test]
    fn wrong_sizes_and_values_that_are_not_finite_are_refused_by_name_and_place() {
        let refused = |vector| check("image", &params(Distance::Euclid), vector).unwrap_err().to_string();
        assert_eq!(refused(vec![1.0; 4]), "vector `image` has 4 dimensions, the collection holds 3");
        assert_eq!(refused(vec![]), "vector `image` has 0 dimensions, the collection holds 3");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(refused(vec![0.0, bad, bad]), "vector `image` is not finite at position 1");
        }
    }
}
