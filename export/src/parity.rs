//! Does the model compute what the encoder computes? ONNX Runtime against the plain evaluator, picture by picture.
//!
//! Unit vectors hide a wrong scale, so outputs are compared before normalisation as well: the same graph is written a
//! second time without its last step, and only for this. And the cosine of *different* pictures is part of the answer:
//! where an encoder maps everything to one vector, any two programs agree.

use std::{fmt, num::NonZero, path::Path, thread};

use moco_encoder::{Encoder, PlainEvaluator, image::RgbImage, manifest::METADATA_KEY};
use moco_runtime::{Runtime, SessionOptions};

use crate::{
    error::Error,
    onnx::{self, Length},
    replace::Replacement,
};

/// Largest ‖a − b‖ / ‖b‖ before normalisation. Sums of f32 in another order differ by some 1e-6 after fifty layers.
pub const MAX_RELATIVE_L2: f64 = 1e-4;

/// The cosine after normalisation lies above this.
pub const MIN_COSINE: f64 = 0.99999;

/// Largest | ‖a‖ − 1 | of an embedding that is of unit length by its manifest.
pub const MAX_LENGTH_ERROR: f64 = 1e-5;

/// Above this mean cosine between different pictures, agreement says little.
pub const TELLING_COSINE: f64 = 0.9;

/// Pictures that run together; it also tries a batch that is larger than one.
const BATCH: usize = 4;

/// How far two programs agree on the same pictures. Each figure is the worst of all pictures, except the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parity {
    pub pictures: usize,
    /// ‖a − b‖ / ‖b‖ before normalisation.
    pub relative_l2: f64,
    /// Cosine of embedding and reference.
    pub min_cosine: f64,
    /// | ‖a‖ − 1 | where embeddings have unit length, otherwise 0.
    pub length_error: f64,
    /// Mean cosine of the references of two different pictures; `None` below two pictures.
    pub between: Option<f64>,
}

impl Parity {
    /// Compares rows: `raw` with `raw_reference` before normalisation, `embeddings` with `reference` after.
    ///
    /// # Panics
    /// If the four do not hold as many rows, or two rows to compare are not of one length: a defect of the caller.
    pub fn of(raw: &[Vec<f32>], raw_reference: &[Vec<f32>], embeddings: &[Vec<f32>], reference: &[Vec<f32>], unit: bool) -> Self {
        let rows = reference.len();
        assert_eq!([raw.len(), raw_reference.len(), embeddings.len()], [rows; 3], "one row for each picture");
        let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, nan_wins_max);
        let mut between = Vec::new();
        for (index, a) in reference.iter().enumerate() {
            between.extend(reference[..index].iter().map(|b| cosine(a, b)));
        }
        Self {
            pictures: rows,
            relative_l2: largest(&mut raw.iter().zip(raw_reference).map(|(a, b)| relative_l2(a, b))),
            // 1 − cosine, so that one fold serves both.
            min_cosine: 1.0 - largest(&mut embeddings.iter().zip(reference).map(|(a, b)| 1.0 - cosine(a, b))),
            length_error: largest(&mut embeddings.iter().zip(reference).filter(|_| unit).map(|(a, b)| (norm(a) - norm(b).round()).abs())),
            between: (!between.is_empty()).then(|| between.iter().sum::<f64>() / between.len() as f64),
        }
    }

    /// Whether every figure is within its limit. Not finite is not within.
    pub fn holds(&self) -> bool {
        self.relative_l2 <= MAX_RELATIVE_L2 && self.min_cosine > MIN_COSINE && self.length_error <= MAX_LENGTH_ERROR
    }

    /// Whether the pictures tell enough: their embeddings differ.
    pub fn is_telling(&self) -> bool {
        self.between.is_some_and(|between| between < TELLING_COSINE)
    }
}

impl fmt::Display for Parity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pictures, relative_l2, min_cosine, length_error, between } = self;
        write!(
            f,
            "{pictures} pictures, relative L2 error {relative_l2:.1e} (limit {MAX_RELATIVE_L2:.0e}), cosine at least {min_cosine:.8} \
             (limit {MIN_COSINE}), length off by {length_error:.1e} (limit {MAX_LENGTH_ERROR:.0e})"
        )?;
        match between {
            Some(between) => write!(f, ", mean cosine between different pictures {between:.3}"),
            None => Ok(()),
        }
    }
}

/// The larger one, and not-a-number if either is: a comparison with it must fail, not vanish.
fn nan_wins_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "vectors of one length are compared");
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn norm(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}

/// ‖a − b‖ / ‖b‖; 0 for two zero vectors.
fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "vectors of one length are compared");
    let difference = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt();
    if difference == 0.0 { 0.0 } else { difference / norm(b) }
}

/// Cosine; 1 for two zero vectors, 0 for one.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let lengths = norm(a) * norm(b);
    if lengths == 0.0 { f64::from(u8::from(norm(a) == norm(b))) } else { dot(a, b) / lengths }
}

/// Runs `pictures` through the model at `model` and through the plain evaluator, and compares.
///
/// `unnormalized` is the same model without its last step; `pictures` are prepared for the encoder.
///
/// # Errors
/// [`Error::Runtime`] if the model does not load or run, [`Error::OtherManifest`].
pub fn check_parity(
    runtime: &'static Runtime,
    encoder: &Encoder,
    model: &Path,
    unnormalized: &Path,
    pictures: &[RgbImage],
) -> Result<Parity, Error> {
    let raw = embed(runtime, encoder, unnormalized, pictures)?;
    let embeddings = embed(runtime, encoder, model, pictures)?;
    let evaluator = PlainEvaluator::new(encoder);
    let raw_reference = evaluator.output(pictures);
    let mut reference = raw_reference.clone();
    let unit = encoder.manifest().normalized;
    if unit {
        reference.iter_mut().for_each(|row| moco_encoder::plain::normalize(row));
    }
    Ok(Parity::of(&raw, &raw_reference, &embeddings, &reference, unit))
}

/// What ONNX Runtime answers for prepared pictures.
fn embed(runtime: &'static Runtime, encoder: &Encoder, model: &Path, pictures: &[RgbImage]) -> Result<Vec<Vec<f32>>, Error> {
    let intra_threads = thread::available_parallelism().map_or(1, NonZero::get);
    let mut session = runtime.load(model, &SessionOptions { intra_threads, ..SessionOptions::default() })?;
    if session.metadata(METADATA_KEY)? != Some(encoder.manifest().to_json()) {
        return Err(Error::OtherManifest);
    }
    let side = encoder.manifest().preprocessing.crop as usize;
    let mut rows = Vec::with_capacity(pictures.len());
    for batch in pictures.chunks(BATCH) {
        let bytes: Vec<u8> = batch.iter().flat_map(|picture| picture.as_raw().iter().copied()).collect();
        let values = session.embed_u8(&bytes, [batch.len(), side, side, 3])?;
        rows.extend(values.chunks_exact(encoder.manifest().dim).map(<[f32]>::to_vec));
    }
    Ok(rows)
}

/// Writes the model of `encoder`, checks it on `pictures`, and only then puts it at `path`.
///
/// # Errors
/// [`Error::Parity`] beyond the limits of this module, and whatever writing and running can say. The file that stood at
/// `path` is untouched then.
pub fn export(runtime: &'static Runtime, encoder: &Encoder, path: &Path, pictures: &[RgbImage]) -> Result<Parity, Error> {
    let mut model = Replacement::beside(path)?;
    let mut unnormalized = Replacement::named(path, "unnormalized.tmp")?;
    onnx::write(encoder, encoder.manifest(), Length::AsTheManifestSays, &mut model)?;
    onnx::write(encoder, encoder.manifest(), Length::Left, &mut unnormalized)?;
    let parity = check_parity(runtime, encoder, model.path(), unnormalized.path(), pictures)?;
    if !parity.holds() {
        return Err(Error::Parity(parity));
    }
    model.put_in_place()?;
    Ok(parity)
}
