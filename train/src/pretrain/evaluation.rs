//! k-NN evaluation during training: held-out pictures are classified by the labelled pictures that were trained on.
//!
//! Both outputs of the query encoder are scored, features and projection, in evaluation mode and with the preprocessing of
//! the manifest. Labels come from the folders; training itself never sees them.

use std::path::PathBuf;

use moco_encoder::{Architecture, image::Preprocessing};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::stop::Stop;
use crate::{
    augmentation::normalize as standardise,
    data::{self, ImageFolder, Skipped},
    knn,
    network::{self, Mode, Params, normalize},
};

/// Pictures that go through the network together.
const CHUNK: usize = 256;

/// Why held-out pictures cannot be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{} has no classes (pictures in folders of their own) to vote with, which --held-out needs: leave it away to train without", path.display())]
    Unlabelled { path: PathBuf },
    #[error("{} has pictures of one class only, {class}: k-NN needs two, so leave --held-out away", path.display())]
    OneClass { path: PathBuf, class: String },
    #[error("evaluation.knn.k is {k}, and {} holds {images} images to choose neighbours from: set it lower (--set evaluation.knn.k={advice})", path.display())]
    FewerThanK { path: PathBuf, images: usize, k: usize, advice: usize },
    #[error("the held-out pictures")]
    Data(#[from] data::Error),
    #[error("{} of the {all} pictures in {} cannot be read; the first of them, {first}", all - readable, path.display())]
    Unreadable { path: PathBuf, all: usize, readable: usize, first: Skipped },
    #[error(transparent)]
    Knn(#[from] knn::Error),
}

/// What one evaluation gave.
#[derive(Clone, Debug)]
pub struct Scores {
    pub features: knn::Report,
    pub projection: Option<knn::Report>,
    pub bank_images: usize,
    pub queries: usize,
}

/// Labelled pictures to vote, and labelled pictures to classify.
#[derive(Debug)]
pub struct Evaluator {
    bank: ImageFolder,
    held_out: ImageFolder,
    preprocessing: Preprocessing,
    settings: knn::Settings,
}

/// Outputs of a network for the pictures of a folder that could be read.
struct Embedded {
    features: Vec<Vec<f32>>,
    projections: Vec<Vec<f32>>,
    classes: Vec<usize>,
    first_unreadable: Option<Skipped>,
}

impl Evaluator {
    /// Checks that a vote can be held at all.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(bank: ImageFolder, held_out: ImageFolder, preprocessing: &Preprocessing, settings: &knn::Settings) -> Result<Self, Error> {
        for folder in [&bank, &held_out] {
            if folder.samples.iter().any(|sample| sample.class.is_none()) {
                return Err(Error::Unlabelled { path: folder.root.clone() });
            }
        }
        if let [class] = &bank.classes[..] {
            return Err(Error::OneClass { path: bank.root, class: class.clone() });
        }
        let (images, k) = (bank.samples.len(), settings.k);
        if images < k {
            return Err(Error::FewerThanK { path: bank.root, images, k, advice: (images / 2).clamp(1, 20) });
        }
        let held_out = held_out.with_classes_of(&bank)?;
        Ok(Self { bank, held_out, preprocessing: preprocessing.clone(), settings: *settings })
    }

    /// Number of held-out pictures.
    pub fn queries(&self) -> usize {
        self.held_out.samples.len()
    }

    pub fn settings(&self) -> knn::Settings {
        self.settings
    }

    /// Scores the network; `None` if it was asked to stop before it was done.
    ///
    /// # Errors
    /// If too few pictures can still be read.
    pub fn score(&self, architecture: &Architecture, params: &Params, stop: &Stop) -> Result<Option<Scores>, Error> {
        let Some(bank) = self.embed(&self.bank, architecture, params, stop) else { return Ok(None) };
        let Some(held_out) = self.embed(&self.held_out, architecture, params, stop) else { return Ok(None) };
        for (folder, embedded, least) in [(&self.bank, &bank, self.settings.k), (&self.held_out, &held_out, 1)] {
            let (all, readable) = (folder.samples.len(), embedded.classes.len());
            if readable < least {
                let first = embedded.first_unreadable.clone().expect("all pictures could be read otherwise");
                return Err(Error::Unreadable { path: folder.root.clone(), all, readable, first });
            }
        }
        let score = |bank_vectors: &[Vec<f32>], vectors: &[Vec<f32>]| {
            knn::classify(bank_vectors, &bank.classes, vectors, &held_out.classes, self.bank.classes.len(), &self.settings)
        };
        let features = score(&bank.features, &held_out.features)?;
        let projection = (!bank.projections.is_empty()).then(|| score(&bank.projections, &held_out.projections)).transpose()?;
        Ok(Some(Scores { features, projection, bank_images: bank.classes.len(), queries: held_out.classes.len() }))
    }

    fn embed(&self, folder: &ImageFolder, architecture: &Architecture, params: &Params, stop: &Stop) -> Option<Embedded> {
        let mut embedded = Embedded { features: Vec::new(), projections: Vec::new(), classes: Vec::new(), first_unreadable: None };
        for samples in folder.samples.chunks(CHUNK) {
            if stop.requested().is_some() {
                return None;
            }
            let prepared: Vec<Result<Vec<u8>, Skipped>> = samples
                .par_iter()
                .map(|sample| {
                    let image = folder.decode(sample, self.preprocessing.background)?;
                    let refused = |error: moco_encoder::image::ImageError| Skipped { path: sample.path.clone(), reason: error.to_string() };
                    Ok(self.preprocessing.apply(&image).map_err(refused)?.into_raw())
                })
                .collect();
            let mut pixels = Vec::new();
            for (sample, prepared) in samples.iter().zip(prepared) {
                match prepared {
                    Ok(image) => {
                        pixels.extend_from_slice(&image);
                        embedded.classes.push(sample.class.expect("folders without classes were refused"));
                    }
                    Err(skipped) => {
                        embedded.first_unreadable.get_or_insert(skipped);
                    }
                }
            }
            if pixels.is_empty() {
                continue;
            }
            let (features, projections) = forward(architecture, params, &self.preprocessing, &pixels);
            embedded.features.extend(rows(&features));
            if let Some(projections) = projections {
                embedded.projections.extend(rows(&projections));
            }
        }
        Some(embedded)
    }
}

/// Prepared pictures, N×S×S×3 bytes, to features and projections of unit length.
fn forward(architecture: &Architecture, params: &Params, preprocessing: &Preprocessing, pixels: &[u8]) -> (Tensor, Option<Tensor>) {
    let side = i64::from(preprocessing.crop);
    let images = Tensor::from_slice(pixels).view([-1, side, side, 3]).to_device(params.device());
    let images = standardise(&(images.permute([0, 3, 1, 2]).to_kind(params.kind()) / 255.0), preprocessing).contiguous(); // N×3×S×S
    let features = network::features(architecture, params, Mode::Evaluation, &images); // N×D
    let projections = tch::no_grad(|| network::project(architecture, params, &features)).map(|p| normalize(&p)); // N×dim
    (normalize(&features), projections)
}

fn rows(matrix: &Tensor) -> Vec<Vec<f32>> {
    let (_, columns) = matrix.size2().expect("outputs are one row a picture");
    let values =
        Vec::<f32>::try_from(matrix.to_kind(Kind::Float).to_device(Device::Cpu).reshape([-1])).expect("a flat tensor becomes a vector");
    values.chunks_exact(columns as usize).map(<[f32]>::to_vec).collect()
}
