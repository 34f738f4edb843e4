//! The true neighbours of queries: computed by comparing with every stored vector, or read from a file.

use std::collections::HashSet;
use std::path::Path;

use anyhow::Result;
use moco_index::{Collection, PointId};
use rayon::prelude::*;

use crate::program::{Stop, progress, usage, vector_file};

const PAGE: usize = 1_000;

pub(super) struct Truth {
    /// Of each query.
    neighbours: Vec<HashSet<PointId>>,
}

impl Truth {
    /// The `k` nearest of each query, ties by id, as the collection promises. Independent of its search: all vectors are
    /// read out and compared here.
    pub(super) fn compute(collection: &Collection, vector_name: &str, queries: &[Vec<f32>], k: usize, stop: &Stop) -> Result<Self> {
        let params = collection.config().vectors[vector_name].clone();
        if queries[0].len() != params.size {
            let name = vector_name.to_owned();
            return Err(moco_index::Error::Dimension { name, expected: params.size, actual: queries[0].len() }.into());
        }
        let distance = params.distance;
        let bar = progress::of_points(collection.count() as u64, "ground truth");
        // Nearest first.
        let mut nearest: Vec<Vec<(f32, PointId)>> = vec![Vec::new(); queries.len()];
        let mut from = None;
        loop {
            stop.check(|| "stopped before anything was measured".to_owned())?;
            let (records, next) = collection.scroll(from, PAGE, false, true)?;
            let vectors: Vec<(PointId, &Vec<f32>)> =
                records.iter().filter_map(|record| Some((record.id, record.vectors.as_ref()?.get(vector_name)?))).collect();
            nearest.par_iter_mut().zip(queries).for_each(|(nearest, query)| {
                for (id, vector) in &vectors {
                    let score = distance.score(query, vector);
                    let nearness = if distance.larger_is_nearer() { score } else { -score };
                    // Ids ascend, so an equal one that comes later stays behind.
                    let place = nearest.partition_point(|(kept, _)| *kept >= nearness);
                    if place < k {
                        nearest.insert(place, (nearness, *id));
                        nearest.truncate(k);
                    }
                }
            });
            bar.inc(records.len() as u64);
            match next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        bar.finish_and_clear();
        let ids = |nearest: Vec<(f32, PointId)>| nearest.into_iter().map(|(_, id)| id).collect();
        Ok(Self { neighbours: nearest.into_iter().map(ids).collect() })
    }

    /// The first `k` ids of each row of a file.
    pub(super) fn read(path: &Path, queries: usize, k: usize) -> Result<Self> {
        let truth = vector_file::read_integers(path)?;
        if truth.rows < queries || truth.dim < k {
            let (rows, dim) = (truth.rows, truth.dim);
            return Err(usage(format!("{} holds {rows} × {dim} ids; {queries} queries × {k} are needed", path.display())));
        }
        let row = |row: &[u64]| row[..k].iter().map(|id| PointId::Num(*id)).collect();
        Ok(Self { neighbours: truth.values.chunks_exact(truth.dim).take(queries).map(row).collect() })
    }

    /// The share of true neighbours among the answers, over all queries.
    pub(super) fn recall(&self, answers: &[Vec<PointId>]) -> f64 {
        let found = |(truth, answer): (&HashSet<PointId>, &Vec<PointId>)| answer.iter().filter(|id| truth.contains(id)).count();
        let wanted: usize = self.neighbours.iter().map(HashSet::len).sum();
        self.neighbours.iter().zip(answers).map(found).sum::<usize>() as f64 / wanted.max(1) as f64
    }
}
