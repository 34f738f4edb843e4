//! What chance decides for one view of one picture. Distributions are those of torchvision's `RandomResizedCrop`,
//! `ColorJitter`, `RandomGrayscale`, `RandomHorizontalFlip` and of Pillow's blur as MoCo v2 draws it.

use super::{Augmentation, Operation};
use crate::random::Stream;

/// Attempts to find a cut of the drawn area and ratio that fits, before the largest centred one is taken.
const ATTEMPTS: u32 = 10;

/// One draw of an [`Augmentation`].
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    pub cut: Cut,
    pub flip: bool,
    /// Clockwise, 0 to 3; before the flip.
    pub quarter_turns: u8,
    /// One for each of the augmentation's operations; none where the sample is spared.
    pub effects: Vec<Option<Effect>>,
}

/// Whole pixels of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

/// An [`Operation`] with its parameters drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// In the order in which they are made.
    ColorJitter(Vec<Adjustment>),
    Grayscale,
    GaussianBlur {
        sigma: f64,
    },
}

/// A part of a colour jitter; 1 leaves the first three as they are, 0 the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Adjustment {
    /// Blends with black.
    Brightness(f64),
    /// Blends with the mean luma of the picture.
    Contrast(f64),
    /// Blends with the luma of the pixel.
    Saturation(f64),
    /// Turns of the colour circle.
    Hue(f64),
}

impl Augmentation {
    /// Draws a view of a picture of this size.
    pub fn draw(&self, width: u32, height: u32, random: &mut Stream) -> Draw {
        Draw {
            cut: self.draw_cut(width, height, random),
            flip: random.chance(self.flip),
            quarter_turns: if self.quarter_turns { random.below(4) as u8 } else { 0 },
            effects: self.operations.iter().map(|operation| operation.draw(random)).collect(),
        }
    }

    fn draw_cut(&self, width: u32, height: u32, random: &mut Stream) -> Cut {
        let [scale_from, scale_to] = self.crop_scale;
        let [ratio_from, ratio_to] = self.crop_ratio;
        let area = f64::from(width) * f64::from(height);
        for _ in 0..ATTEMPTS {
            let area = area * random.uniform(scale_from, scale_to);
            let ratio = random.uniform(ratio_from.ln(), ratio_to.ln()).exp();
            // Python rounds half to even.
            let cut_width = (area * ratio).sqrt().round_ties_even() as u32;
            let cut_height = (area / ratio).sqrt().round_ties_even() as u32;
            if (1..=width).contains(&cut_width) && (1..=height).contains(&cut_height) {
                let top = random.below(u64::from(height - cut_height) + 1) as u32;
                let left = random.below(u64::from(width - cut_width) + 1) as u32;
                return Cut { left, top, width: cut_width, height: cut_height };
            }
        }
        let (w, h) = (f64::from(width), f64::from(height));
        let (cut_width, cut_height) = if w / h < ratio_from {
            (width, ((w / ratio_from).round_ties_even() as u32).clamp(1, height))
        } else if w / h > ratio_to {
            (((h * ratio_to).round_ties_even() as u32).clamp(1, width), height)
        } else {
            (width, height)
        };
        Cut { left: (width - cut_width) / 2, top: (height - cut_height) / 2, width: cut_width, height: cut_height }
    }
}

impl Operation {
    fn draw(&self, random: &mut Stream) -> Option<Effect> {
        let (Self::ColorJitter { p, .. } | Self::Grayscale { p } | Self::GaussianBlur { p, .. }) = *self;
        if !random.chance(p) {
            return None;
        }
        Some(match *self {
            Self::ColorJitter { brightness, contrast, saturation, hue, .. } => {
                let mut adjustments = Vec::with_capacity(4);
                let mut factor = |v: f64, adjustment: fn(f64) -> Adjustment| {
                    if v > 0.0 {
                        adjustments.push(adjustment(random.uniform((1.0 - v).max(0.0), 1.0 + v)));
                    }
                };
                factor(brightness, Adjustment::Brightness);
                factor(contrast, Adjustment::Contrast);
                factor(saturation, Adjustment::Saturation);
                if hue > 0.0 {
                    adjustments.push(Adjustment::Hue(random.uniform(-hue, hue)));
                }
                random.shuffle(&mut adjustments);
                Effect::ColorJitter(adjustments)
            }
            Self::Grayscale { .. } => Effect::Grayscale,
            Self::GaussianBlur { sigma: [low, high], .. } => Effect::GaussianBlur { sigma: random.uniform(low, high) },
        })
    }
}
