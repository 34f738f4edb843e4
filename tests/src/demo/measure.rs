//! What an encoder has learned, beside what needs no learning: raw pixels, and the same network with random weights.
//!
//! Each sees every picture as a unit vector. Asked are: the class of a held-out picture by its neighbours among those that were learned from,
//! the same for another view of it, and which held-out picture the other view shows.

use std::{fmt, num::NonZero, path::Path, thread};

use anyhow::{Context as _, ensure};
use moco_encoder::{
    Encoder, Manifest,
    image::{Limits, Preprocessing, RgbImage},
    manifest::METADATA_KEY,
};
use moco_runtime::{Runtime, Session, SessionOptions};
use moco_train::knn;
use serde::Serialize;

/// Pictures that run through a model together.
const BATCH: usize = 32;

/// Neighbours that precision looks at.
pub const HITS: usize = 10;

/// Rows of the table.
pub const RAW_PIXELS: &str = "raw pixels";
pub const RANDOM_WEIGHTS: &str = "random weights";
pub const TRAINED: &str = "trained";

/// One vector of length one for each picture.
pub type Vectors = Vec<Vec<f32>>;

/// Prepares files as a server does.
pub fn prepared<'a>(files: impl IntoIterator<Item = &'a [u8]>, preprocessing: &Preprocessing) -> anyhow::Result<Vec<RgbImage>> {
    files.into_iter().map(|file| Ok(preprocessing.load(file, &Limits::default())?)).collect()
}

/// Pixels as vectors, each picture's mean removed: brightness says nothing, and neither does contrast once the length is one.
pub fn raw_pixels(pictures: &[RgbImage]) -> Vectors {
    let vector = |picture: &RgbImage| {
        let pixels = picture.as_raw();
        let mean = pixels.iter().map(|value| f64::from(*value)).sum::<f64>() / pixels.len() as f64;
        let mut vector: Vec<f32> = pixels.iter().map(|value| (f64::from(*value) - mean) as f32).collect();
        moco_encoder::plain::normalize(&mut vector);
        vector
    };
    pictures.iter().map(vector).collect()
}

/// A model in ONNX Runtime: what a server would answer.
#[derive(Debug)]
pub struct Model {
    session: Session,
    pub manifest: Manifest,
}

impl Model {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let intra_threads = thread::available_parallelism().map_or(1, NonZero::get);
        let session = Runtime::open(None)?.load(path, &SessionOptions { intra_threads, ..SessionOptions::default() })?;
        let json = session.metadata(METADATA_KEY)?.with_context(|| format!("{} has no manifest", path.display()))?;
        Ok(Self { session, manifest: Manifest::from_json(&json)? })
    }

    pub fn embed(&mut self, pictures: &[RgbImage]) -> anyhow::Result<Vectors> {
        let side = self.manifest.preprocessing.crop as usize;
        let mut vectors = Vec::with_capacity(pictures.len());
        for batch in pictures.chunks(BATCH) {
            let bytes: Vec<u8> = batch.iter().flat_map(|picture| picture.as_raw().iter().copied()).collect();
            let values = self.session.embed_u8(&bytes, [batch.len(), side, side, 3])?;
            vectors.extend(values.chunks_exact(self.manifest.dim).map(<[f32]>::to_vec));
        }
        Ok(vectors)
    }
}

/// An encoder as it was before its first step: the same architecture, weights drawn from `seed`, statistics of batch norm as they are
/// before any picture was seen (mean 0, variance 1).
pub fn untrained(manifest: &Manifest, seed: u64) -> anyhow::Result<Encoder> {
    let architecture = manifest.architecture();
    let params = moco_train::network::Params::init(&architecture, seed, tch::Kind::Float, tch::Device::Cpu);
    Ok(Encoder::new(manifest.clone(), params.to_tensors())?)
}

/// The vectors of all pictures, as one way of seeing gives them.
#[derive(Clone, Debug)]
pub struct Seen {
    pub train: Vectors,
    pub held_out: Vectors,
    /// Other views of the held-out ones.
    pub other_view: Vectors,
}

/// What the pictures are, where somebody has said so.
#[derive(Clone, Debug)]
pub struct Labels {
    pub classes: usize,
    pub train: Vec<usize>,
    pub held_out: Vec<usize>,
}

/// The figures of one way of seeing, as parts of one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Balanced accuracy of k-NN on held-out pictures.
    pub as_they_are: Option<f64>,
    pub other_view: Option<f64>,
    /// Other views whose nearest neighbour among the held-out pictures is the very picture.
    pub recall: f64,
    /// Of the [`HITS`] nearest pictures to an other view, those of its class.
    pub precision: Option<f64>,
}

/// Neighbours that vote, and how their votes fall with distance.
pub fn voting(bank: usize) -> knn::Settings {
    knn::Settings { k: bank.min(20), temperature: 0.1 }
}

impl Figures {
    pub fn of(seen: &Seen, labels: Option<&Labels>) -> anyhow::Result<Self> {
        let accuracy = |queries: &Vectors| -> anyhow::Result<Option<f64>> {
            let Some(labels) = labels else { return Ok(None) };
            let settings = voting(seen.train.len());
            let report = knn::classify(&seen.train, &labels.train, queries, &labels.held_out, labels.classes, &settings)?;
            Ok(Some(report.balanced_accuracy))
        };
        Ok(Self {
            as_they_are: accuracy(&seen.held_out)?,
            other_view: accuracy(&seen.other_view)?,
            recall: recall_at_1(&seen.held_out, &seen.other_view)?,
            precision: labels.map(|labels| precision(&seen.train, &labels.train, &seen.other_view, &labels.held_out)),
        })
    }
}

/// How many of `queries`, as a part of one, have the vector of the same place as the nearest of `gallery`.
fn recall_at_1(gallery: &Vectors, queries: &Vectors) -> anyhow::Result<f64> {
    ensure!(gallery.len() == queries.len() && !queries.is_empty(), "each picture has one other view");
    let found = queries.iter().enumerate().filter(|(place, query)| nearest(gallery, query, 1) == [*place]).count();
    Ok(found as f64 / queries.len() as f64)
}

/// Mean over `queries` of the part of the nearest [`HITS`] that are of the query's class.
fn precision(bank: &Vectors, bank_classes: &[usize], queries: &Vectors, query_classes: &[usize]) -> f64 {
    let of_class = |query: &Vec<f32>, class: &usize| {
        let hits = nearest(bank, query, HITS);
        hits.iter().filter(|hit| bank_classes[**hit] == *class).count() as f64 / hits.len() as f64
    };
    queries.iter().zip(query_classes).map(|(query, class)| of_class(query, class)).sum::<f64>() / queries.len() as f64
}

/// Places of the `count` vectors of `bank` nearest to `query`, nearest first, equal ones in their order.
fn nearest(bank: &Vectors, query: &[f32], count: usize) -> Vec<usize> {
    let score = |vector: &Vec<f32>| -> f32 { vector.iter().zip(query).map(|(a, b)| a * b).sum() };
    let scores: Vec<f32> = bank.iter().map(score).collect();
    let mut places: Vec<usize> = (0..bank.len()).collect();
    places.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    places.truncate(count);
    places
}

/// A part of one, in percent; a dash where it was not to be had.
pub fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "–".into(), |part| format!("{:.1} %", 100.0 * part))
}

/// Rows of figures, to be printed.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    pub rows: Vec<(String, Figures)>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:16}{:>14}{:>16}{:>12}", "", "as they are", "another view", "recall@1")?;
        for (name, Figures { as_they_are, other_view, recall, .. }) in &self.rows {
            write!(f, "\n{name:16}{:>14}{:>16}{:>12}", percent(*as_they_are), percent(*other_view), percent(Some(*recall)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(angle: f32) -> Vec<f32> {
        vec![angle.cos(), angle.sin()]
    }

    /// Two classes at 0 and 90 degrees; other views turn each picture by `turn` towards the other class.
    fn seen(turn: f32) -> (Seen, Labels) {
        let train: Vectors = (0..20).map(|i| unit(0.01 * i as f32)).chain((0..20).map(|i| unit(1.3 + 0.01 * i as f32))).collect();
        let angles = [0.02f32, 0.14, 1.34, 1.46];
        let towards = |angle: f32| if angle < 0.7 { angle + turn } else { angle - turn };
        let seen = Seen {
            train,
            held_out: angles.iter().map(|angle| unit(*angle)).collect(),
            other_view: angles.iter().map(|angle| unit(towards(*angle))).collect(),
        };
        (seen, Labels { classes: 2, train: [[0; 20], [1; 20]].concat(), held_out: vec![0, 0, 1, 1] })
    }

    #[test]
    fn pictures_seen_again_are_found_and_seen_as_the_other_class_are_not() {
        let (near, labels) = seen(0.01);
        let figures = Figures::of(&near, Some(&labels)).unwrap();
        assert_eq!(figures, Figures { as_they_are: Some(1.0), other_view: Some(1.0), recall: 1.0, precision: Some(1.0) });
        let (far, labels) = seen(1.3);
        let figures = Figures::of(&far, Some(&labels)).unwrap();
        assert_eq!(figures, Figures { as_they_are: Some(1.0), other_view: Some(0.0), recall: 0.0, precision: Some(0.0) });
    }

    #[test]
    fn without_labels_only_recall_is_known() {
        let figures = Figures::of(&seen(0.01).0, None).unwrap();
        assert_eq!(figures, Figures { as_they_are: None, other_view: None, recall: 1.0, precision: None });
        let table = Table { rows: vec![("trained".into(), figures)] };
        let lines: Vec<String> = table.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["trained", "–", "–", "100.0", "%"]);
    }

    #[test]
    fn raw_pixels_do_not_see_brightness_or_contrast() {
        let picture = RgbImage::from_fn(4, 4, |x, y| image::Rgb([(10 * x + 3 * y) as u8; 3]));
        let brighter = RgbImage::from_fn(4, 4, |x, y| image::Rgb([(20 * x + 6 * y + 100) as u8; 3]));
        let vectors = raw_pixels(&[picture, brighter, RgbImage::new(4, 4)]);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        assert!((dot(&vectors[0], &vectors[1]) - 1.0).abs() < 1e-6);
        assert!(vectors[2].iter().all(|value| *value == 0.0), "a picture of one grey has no direction, and is no error");
    }
}
