//! What is done to an image before the network sees it: two draws of it are the two views of a pair.
//!
//! Semantics are torchvision's, tested operation by operation against it. The work is split where the cost is: what moves
//! pixels (crop, flip, turn) is done on the loader's threads, in Pillow's arithmetic; what changes their values is done
//! where the network is, on a GPU to the whole batch by tensor operations, on a CPU to one picture after the other. Flips
//! and turns commute with every photometric operation, so it does not matter that a recipe states them last.
//!
//! One difference is deliberate: Pillow rounds to 8 bits after each operation, here values stay real numbers.

mod batch;
mod box_blur;
mod draw;
mod geometry;
mod pixels;

use std::fmt::Display;

use moco_encoder::image::Preprocessing;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

pub use self::draw::{Adjustment, Cut, Draw, Effect};

/// Largest side of a view, as of a network's input.
const MAX_SIZE: u32 = 4_096;

/// Weights of red, green and blue in the luma (ITU-R 601-2), Pillow's `convert("L")`.
const LUMA: [f64; 3] = [0.299, 0.587, 0.114];

/// A random view, as a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Side of the square view in pixels.
    pub size: u32,
    /// Share of the picture's area that is cut out, from and to.
    pub crop_scale: [f64; 2],
    /// Width over height of the cut, from and to, uniform in its logarithm.
    pub crop_ratio: [f64; 2],
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// Whether the view is turned by a random multiple of 90 degrees. For pictures without an up, such as microscopy's.
    #[serde(default)]
    pub quarter_turns: bool,
    /// What is done to the values, in this order.
    #[serde(default)]
    pub operations: Vec<Operation>,
}

/// A change of values. `p` is the probability with which a sample undergoes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Operation {
    /// Brightness, contrast, saturation and hue in random order. The first three are scaled by a factor from
    /// `max(0, 1 − v)` to `1 + v`, the hue is turned by `−hue` to `hue` of a circle. What is 0 does not take part.
    ColorJitter { brightness: f64, contrast: f64, saturation: f64, hue: f64, p: f64 },
    /// Three channels of the luma.
    Grayscale { p: f64 },
    /// Pillow's `GaussianBlur`: three box blurs that together have the deviation `sigma` in pixels, uniform from and to.
    GaussianBlur { sigma: [f64; 2], p: f64 },
}

impl Augmentation {
    /// MoCo v1, <https://arxiv.org/abs/1911.05722>.
    pub fn v1() -> Self {
        Self {
            size: 224,
            crop_scale: [0.2, 1.0],
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            flip: 0.5,
            quarter_turns: false,
            operations: vec![
                Operation::Grayscale { p: 0.2 },
                Operation::ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.4, p: 1.0 },
            ],
        }
    }

    /// MoCo v2, <https://arxiv.org/abs/2003.04297>: SimCLR's, with blur and a weaker turn of the hue.
    pub fn v2() -> Self {
        Self {
            operations: vec![
                Operation::ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1, p: 0.8 },
                Operation::Grayscale { p: 0.2 },
                Operation::GaussianBlur { sigma: [0.1, 2.0], p: 0.5 },
            ],
            ..Self::v1()
        }
    }

    /// The CIFAR-10 demonstration beside MoCo: 32 pixels, no blur.
    pub fn cifar() -> Self {
        Self {
            size: 32,
            crop_scale: [0.08, 1.0],
            operations: vec![
                Operation::ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1, p: 0.8 },
                Operation::Grayscale { p: 0.2 },
            ],
            ..Self::v1()
        }
    }

    /// Makes the drawn effects of a batch in the way that suits its device: u8 N×3×S×S in, f32 from 0 to 1 out.
    ///
    /// # Panics
    /// If `draws` are not one for each sample, drawn from this augmentation.
    pub fn photometric(&self, crops: &Tensor, draws: &[Draw]) -> Tensor {
        assert!(draws.iter().all(|draw| draw.effects.len() == self.operations.len()), "the draws are of this augmentation");
        Photometry::on(crops.device()).apply(crops, draws)
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=MAX_SIZE).contains(&self.size) {
            return Err(format!("size is {}; it must be 1 to {MAX_SIZE}", self.size));
        }
        let [low, high] = self.crop_scale;
        check("crop_scale", format_args!("[{low}, {high}]"), low > 0.0 && low <= high && high <= 1.0, "0 < from ≤ to ≤ 1")?;
        let [low, high] = self.crop_ratio;
        check("crop_ratio", format_args!("[{low}, {high}]"), low >= 1e-3 && low <= high && high <= 1e3, "0.001 ≤ from ≤ to ≤ 1000")?;
        probability("flip", self.flip)?;
        self.operations.iter().enumerate().try_for_each(|(i, operation)| operation.validate(&format!("operations[{i}]")))
    }
}

/// Which of the two ways changes values. They give the same within rounding, and a test holds them to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Photometry {
    /// Tensor operations on the whole batch, on any device.
    Batch,
    /// One picture after the other, on CPU threads.
    Pixels,
}

impl Photometry {
    /// The faster one.
    pub fn on(device: Device) -> Self {
        if device == Device::Cpu { Self::Pixels } else { Self::Batch }
    }

    /// Makes the drawn effects of each sample: u8 N×3×S×S in, f32 N×3×S×S from 0 to 1 out, on the same device.
    ///
    /// # Panics
    /// If `draws` are not one for each sample and all of one augmentation, or pixels lie on another device than the CPU.
    pub fn apply(self, crops: &Tensor, draws: &[Draw]) -> Tensor {
        assert_eq!(crops.size()[0], draws.len() as i64, "each sample has its draw");
        tch::no_grad(|| match self {
            Self::Batch => batch::photometric(crops, draws),
            Self::Pixels => pixels::photometric(crops, draws),
        })
    }
}

/// Subtracts the mean and divides by the deviation of each channel: values 0 to 1 in, what the network takes out.
pub fn normalize(images: &Tensor, preprocessing: &Preprocessing) -> Tensor {
    let channels = |values: [f32; 3]| Tensor::from_slice(&values).view([3, 1, 1]).to_device(images.device()).to_kind(images.kind());
    (images - channels(preprocessing.mean)) / channels(preprocessing.std)
}

impl Operation {
    fn validate(&self, name: &str) -> Result<(), String> {
        match *self {
            Self::ColorJitter { brightness, contrast, saturation, hue, p } => {
                for (field, v) in [("brightness", brightness), ("contrast", contrast), ("saturation", saturation)] {
                    check(&format!("{name}.{field}"), v, (0.0..=100.0).contains(&v), "0 to 100")?;
                }
                check(&format!("{name}.hue"), hue, (0.0..=0.5).contains(&hue), "0 to 0.5")?;
                probability(&format!("{name}.p"), p)
            }
            Self::Grayscale { p } => probability(&format!("{name}.p"), p),
            Self::GaussianBlur { sigma: [low, high], p } => {
                let fits = low >= 0.0 && low <= high && high <= 100.0;
                check(&format!("{name}.sigma"), format_args!("[{low}, {high}]"), fits, "0 ≤ from ≤ to ≤ 100")?;
                probability(&format!("{name}.p"), p)
            }
        }
    }
}

fn probability(name: &str, p: f64) -> Result<(), String> {
    check(name, p, (0.0..=1.0).contains(&p), "0 to 1")
}

fn check(name: &str, value: impl Display, fits: bool, range: &str) -> Result<(), String> {
    if fits { Ok(()) } else { Err(format!("{name} is {value}; it must be {range}")) }
}
