//! Weighted k-NN, the label-aware thermometer of training without labels: instance discrimination's protocol
//! (<https://arxiv.org/abs/1805.01978>, section 3.4), as MoCo's CIFAR-10 demonstration has it.
//!
//! The `k` nearest of a bank of embeddings with known classes vote for the class of a query, each with exp(cos/τ).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Queries whose cosines to the bank are one product of matrices: the bank is read from memory once for all of them.
const BLOCK: usize = 64;

/// How neighbours vote.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Neighbours that vote. Lower it for small banks: 200 of 50,000 are the usual, 20 of 1,000.
    pub k: usize,
    /// τ: the lower, the more the nearest decide.
    pub temperature: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { k: 200, temperature: 0.1 }
    }
}

/// How many queries were given their own class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Of all queries, 0 to 1.
    pub accuracy: f64,
    /// Mean over the classes that have queries: a large class counts no more than a small one.
    pub balanced_accuracy: f64,
    /// Of the queries of each class; none for a class without queries.
    pub per_class: Vec<Option<f64>>,
}

/// Why a bank cannot vote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("k-NN evaluation has no queries: the held-out set is empty")]
    NoQueries,
    #[error("k is {k}, but the bank holds {bank} embeddings: choose a k of 1 to {bank}")]
    K { k: usize, bank: usize },
    #[error("all {bank} embeddings of the bank have one class: k-NN evaluation needs two")]
    OneClass { bank: usize },
    #[error("the temperature of the k-NN vote must be above 0")]
    Temperature,
    #[error("the {side} has {embeddings} embeddings and {classes} classes of them")]
    Lengths { side: &'static str, embeddings: usize, classes: usize },
    #[error("embedding {index} of the {side} has class {class}; there are {classes}")]
    Class { side: &'static str, index: usize, class: usize, classes: usize },
    #[error("the embeddings have no values")]
    NoValues,
    #[error("embedding {index} of the {side} has {actual} values, the first of the bank has {expected}")]
    Dimension { side: &'static str, index: usize, actual: usize, expected: usize },
    #[error("embedding {index} of the {side} has a value that is not finite")]
    NotFinite { side: &'static str, index: usize },
}

/// Classifies `queries` by the `bank`, both of unit vectors, and counts how often that is right.
///
/// # Errors
/// One sentence on what does not fit together.
pub fn classify(
    bank: &[Vec<f32>],
    bank_classes: &[usize],
    queries: &[Vec<f32>],
    query_classes: &[usize],
    classes: usize,
    settings: &Settings,
) -> Result<Report, Error> {
    if queries.is_empty() {
        return Err(Error::NoQueries);
    }
    if !(1..=bank.len()).contains(&settings.k) {
        return Err(Error::K { k: settings.k, bank: bank.len() });
    }
    if !(settings.temperature.is_finite() && settings.temperature > 0.0) {
        return Err(Error::Temperature);
    }
    if bank[0].is_empty() {
        return Err(Error::NoValues);
    }
    check("bank", bank, bank_classes, classes, bank[0].len())?;
    check("held-out set", queries, query_classes, classes, bank[0].len())?;
    if bank_classes.iter().all(|&class| class == bank_classes[0]) {
        return Err(Error::OneClass { bank: bank.len() });
    }
    let bank = bank.concat();
    let of_block = |block: &[Vec<f32>]| -> Vec<usize> {
        let cosines = cosines(&block.concat(), &bank, queries[0].len());
        cosines.chunks_exact(bank_classes.len()).map(|cosines| vote(cosines, bank_classes, classes, settings)).collect()
    };
    let predicted: Vec<usize> = queries.par_chunks(BLOCK).flat_map_iter(of_block).collect();
    let mut of_class = vec![(0usize, 0usize); classes]; // right, all
    for (&predicted, &class) in predicted.iter().zip(query_classes) {
        of_class[class].0 += usize::from(predicted == class);
        of_class[class].1 += 1;
    }
    let per_class: Vec<Option<f64>> = of_class.iter().map(|&(right, all)| (all > 0).then(|| right as f64 / all as f64)).collect();
    let with_queries = per_class.iter().flatten().count();
    Ok(Report {
        accuracy: of_class.iter().map(|(right, _)| right).sum::<usize>() as f64 / queries.len() as f64,
        balanced_accuracy: per_class.iter().flatten().sum::<f64>() / with_queries as f64,
        per_class,
    })
}

fn check(side: &'static str, vectors: &[Vec<f32>], labels: &[usize], classes: usize, expected: usize) -> Result<(), Error> {
    if vectors.len() != labels.len() {
        return Err(Error::Lengths { side, embeddings: vectors.len(), classes: labels.len() });
    }
    for (index, (vector, &class)) in vectors.iter().zip(labels).enumerate() {
        if class >= classes {
            return Err(Error::Class { side, index, class, classes });
        }
        if vector.len() != expected {
            return Err(Error::Dimension { side, index, actual: vector.len(), expected });
        }
        if !vector.iter().all(|x| x.is_finite()) {
            return Err(Error::NotFinite { side, index });
        }
    }
    Ok(())
}

/// The class with the most votes; of equals the first. Of neighbours that are equally near, those that stand first vote.
fn vote(cosines: &[f32], bank_classes: &[usize], classes: usize, settings: &Settings) -> usize {
    let mut ranked = cosines.to_vec();
    let (_, &mut last, _) = ranked.select_nth_unstable_by(settings.k - 1, |a, b| b.total_cmp(a));
    let mut neighbours: Vec<usize> = (0..cosines.len()).filter(|&i| cosines[i].total_cmp(&last).is_ge()).collect();
    neighbours.sort_by(|&a, &b| cosines[b].total_cmp(&cosines[a])); // equals stay in their order
    neighbours.truncate(settings.k);
    let nearest = f64::from(cosines[neighbours[0]]);
    let mut votes = vec![0.0; classes];
    for i in neighbours {
        // Relative to the nearest: the quotients are those of exp(cos/τ), and a low τ does not overflow.
        votes[bank_classes[i]] += ((f64::from(cosines[i]) - nearest) / settings.temperature).exp();
    }
    let more = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0));
    votes.into_iter().enumerate().max_by(more).map_or(0, |(class, _)| class)
}

/// Products of each query with each of the bank's vectors, one row a query; both are rows of `dim` values.
fn cosines(queries: &[f32], bank: &[f32], dim: usize) -> Vec<f32> {
    let (m, n) = (queries.len() / dim, bank.len() / dim);
    assert_eq!((queries.len(), bank.len()), (m * dim, n * dim), "rows are whole");
    let mut products = vec![0.0; m * n];
    // SAFETY: the assertion and the line before give each pointer as many values as its sides and strides reach (the bank
    // is read as its transpose), `products` is not shared, and sides fit isize because the slices exist.
    unsafe {
        let products = products.as_mut_ptr();
        matrixmultiply::sgemm(
            m,
            dim,
            n,
            1.0,
            queries.as_ptr(),
            dim as isize,
            1,
            bank.as_ptr(),
            1,
            dim as isize,
            0.0,
            products,
            n as isize,
            1,
        );
    }
    products
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Stream};

    fn unit(vector: Vec<f32>) -> Vec<f32> {
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.into_iter().map(|x| x / norm).collect()
    }

    /// Clouds around a direction for each class, wide enough to overlap.
    fn clouds(n: usize, dim: usize, classes: usize, seed: u64) -> (Vec<Vec<f32>>, Vec<usize>) {
        let vectors = (0..n).map(|i| {
            let mut random = Stream::new(seed, Purpose::Order, 0, i as u64);
            let mut vector: Vec<f32> = (0..dim).map(|_| random.uniform(-1.0, 1.0) as f32).collect();
            vector[i % classes] += 0.6;
            unit(vector)
        });
        (vectors.collect(), (0..n).map(|i| i % classes).collect())
    }

    /// The definition: sort the whole bank, let the first k vote with exp(cos/τ).
    fn naive(bank: &[Vec<f32>], bank_classes: &[usize], query: &[f32], classes: usize, settings: &Settings) -> usize {
        let cosine = |vector: &[f32]| vector.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let mut neighbours: Vec<(f64, usize)> = bank.iter().zip(bank_classes).map(|(vector, &class)| (cosine(vector), class)).collect();
        neighbours.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut votes = vec![0.0; classes];
        for (cosine, class) in &neighbours[..settings.k] {
            votes[*class] += (cosine / settings.temperature).exp();
        }
        (0..classes).max_by(|&a, &b| votes[a].total_cmp(&votes[b])).unwrap()
    }

    #[test]
    fn votes_are_those_of_the_definition() {
        let classes = 5;
        for (dim, k, temperature) in [(16, 1, 0.1), (19, 20, 0.1), (19, 20, 0.07), (7, 300, 1.0), (33, 50, 0.02)] {
            let (bank, bank_classes) = clouds(300, dim, classes, 1);
            let (queries, _) = clouds(200, dim, classes, 2);
            let settings = Settings { k, temperature };
            // Asked whether the oracle's answers are right, all of them are.
            let oracle: Vec<usize> = queries.iter().map(|query| naive(&bank, &bank_classes, query, classes, &settings)).collect();
            let report = classify(&bank, &bank_classes, &queries, &oracle, classes, &settings).unwrap();
            assert_eq!(report.accuracy, 1.0, "dim {dim}, k {k}, τ {temperature}");
            assert!(oracle.iter().enumerate().any(|(i, &class)| class != i % classes), "the clouds do not overlap");
        }
    }

    #[test]
    fn a_large_class_counts_no_more_than_a_small_one_in_the_balanced_accuracy() {
        let bank = [vec![1.0, 0.0], vec![0.0, 1.0]];
        let queries = [vec![1.0, 0.0], vec![1.0, 0.0], vec![1.0, 0.0], vec![1.0, 0.0]];
        let report = classify(&bank, &[0, 2], &queries, &[0, 0, 0, 2], 3, &Settings { k: 1, temperature: 0.1 }).unwrap();
        assert_eq!(report, Report { accuracy: 0.75, balanced_accuracy: 0.5, per_class: vec![Some(1.0), None, Some(0.0)] });
    }

    #[test]
    fn of_equally_near_neighbours_the_first_vote() {
        let bank = [vec![0.0, 1.0], vec![1.0, 0.0], vec![1.0, 0.0], vec![1.0, 0.0]];
        let accuracy = |labels: &[usize; 4], class| {
            classify(&bank, labels, &[vec![1.0, 0.0]], &[class], 2, &Settings { k: 2, temperature: 0.1 }).unwrap().accuracy
        };
        assert_eq!(accuracy(&[0, 1, 1, 0], 1), 1.0);
        assert_eq!(accuracy(&[0, 1, 0, 1], 0), 1.0); // one vote each: the first class
    }

    #[test]
    fn near_neighbours_outvote_many_far_ones_at_a_low_temperature_only() {
        let bank = [unit(vec![1.0, 0.05]), unit(vec![1.0, 0.6]), unit(vec![1.0, -0.6])];
        let accuracy =
            |temperature| classify(&bank, &[0, 1, 1], &[vec![1.0, 0.0]], &[0], 2, &Settings { k: 3, temperature }).unwrap().accuracy;
        assert_eq!((accuracy(0.1), accuracy(1.0)), (1.0, 0.0));
        assert_eq!(accuracy(1e-6), 1.0); // exp(cos/τ) itself would be infinite
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let bank = vec![vec![1.0, 0.0], vec![0.0, 1.0]];
        let settings = Settings { k: 1, temperature: 0.1 };
        let refusal = |bank: &[Vec<f32>], labels: &[usize], queries: &[Vec<f32>], settings: Settings| {
            classify(bank, labels, queries, &vec![0; queries.len()], 2, &settings).unwrap_err()
        };
        let query = [vec![1.0, 0.0]];
        assert_eq!(refusal(&bank, &[0, 1], &[], settings), Error::NoQueries);
        assert_eq!(refusal(&bank, &[0, 1], &query, Settings { k: 3, ..settings }), Error::K { k: 3, bank: 2 });
        assert_eq!(refusal(&bank, &[0, 1], &query, Settings { k: 0, ..settings }), Error::K { k: 0, bank: 2 });
        assert_eq!(refusal(&[], &[], &query, settings), Error::K { k: 1, bank: 0 });
        assert_eq!(refusal(&[vec![], vec![]], &[0, 1], &[vec![]], settings), Error::NoValues);
        assert_eq!(refusal(&bank, &[1, 1], &query, settings), Error::OneClass { bank: 2 });
        assert_eq!(refusal(&bank, &[0, 1], &query, Settings { temperature: 0.0, ..settings }), Error::Temperature);
        assert_eq!(refusal(&bank, &[0, 1], &query, Settings { temperature: f64::NAN, ..settings }), Error::Temperature);
        assert!(matches!(refusal(&bank, &[0], &query, settings), Error::Lengths { side: "bank", .. }));
        assert!(matches!(refusal(&bank, &[0, 2], &query, settings), Error::Class { index: 1, class: 2, .. }));
        assert!(matches!(refusal(&bank, &[0, 1], &[vec![1.0]], settings), Error::Dimension { side: "held-out set", .. }));
        assert!(matches!(refusal(&bank, &[0, 1], &[vec![f32::NAN, 0.0]], settings), Error::NotFinite { index: 0, .. }));
        let sentence = refusal(&bank, &[0, 1], &query, Settings { k: 200, ..settings }).to_string();
        assert_eq!(sentence, "k is 200, but the bank holds 2 embeddings: choose a k of 1 to 2");
    }
}
