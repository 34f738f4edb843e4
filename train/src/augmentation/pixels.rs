//! What changes values, one picture at a time on CPU threads: the same operations as in [`batch`](super::batch), each a
//! walk over the pixels.
//!
//! A tensor operation walks over the whole batch, and a colour jitter is sixty of them: on a CPU they wait for memory.
//! Here a picture stays in the cache from its first operation to its last.

use rayon::prelude::*;
use tch::Tensor;

use super::{Adjustment, Draw, Effect, LUMA, box_blur::BoxBlur};

/// Applies the draws to a batch: u8 N×3×S×S in, f32 from 0 to 1 out, both on the CPU.
pub(super) fn photometric(crops: &Tensor, draws: &[Draw]) -> Tensor {
    let shape = crops.size();
    let side = shape[3] as usize;
    let pixels: Vec<u8> = Vec::try_from(crops.permute([0, 2, 3, 1]).contiguous().view(-1)).expect("crops hold bytes");
    let values = 3 * side * side; // of a picture
    let mut results = vec![0.0f32; pixels.len()];
    results.par_chunks_mut(values).zip(pixels.par_chunks(values)).zip(draws).for_each(|((result, pixels), draw)| {
        let mut picture = Picture::new(result, pixels, side);
        for effect in draw.effects.iter().flatten() {
            picture.apply(effect);
        }
    });
    Tensor::from_slice(&results).view(shape.as_slice())
}

/// Red, green and blue apart, a square each.
struct Picture<'a> {
    planes: [&'a mut [f32]; 3],
    side: usize,
}

impl<'a> Picture<'a> {
    /// Takes pixels apart into `values`.
    fn new(values: &'a mut [f32], pixels: &[u8], side: usize) -> Self {
        let (r, rest) = values.split_at_mut(side * side);
        let (g, b) = rest.split_at_mut(side * side);
        for (((r, g), b), pixel) in r.iter_mut().zip(&mut *g).zip(&mut *b).zip(pixels.as_chunks::<3>().0) {
            [*r, *g, *b] = pixel.map(|x| f32::from(x) / 255.0);
        }
        Self { planes: [r, g, b], side }
    }

    fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::ColorJitter(adjustments) => adjustments.iter().for_each(|adjustment| self.adjust(*adjustment)),
            Effect::Grayscale => self.each_pixel(|rgb| [luma(rgb); 3]),
            Effect::GaussianBlur { sigma } => {
                let blur = BoxBlur::of_deviation(*sigma);
                self.planes.iter_mut().for_each(|plane| blur.three_times(plane, self.side));
            }
        }
    }

    fn adjust(&mut self, adjustment: Adjustment) {
        match adjustment {
            Adjustment::Brightness(f) => {
                let f = f as f32;
                self.each_pixel(|rgb| rgb.map(|x| unit(x * f)));
            }
            Adjustment::Contrast(f) => {
                let mean = self.mean_luma() * (1.0 - f) as f32;
                let f = f as f32;
                self.each_pixel(|rgb| rgb.map(|x| unit(x * f + mean)));
            }
            Adjustment::Saturation(f) => {
                let (f, rest) = (f as f32, (1.0 - f) as f32);
                self.each_pixel(|rgb| {
                    let grey = luma(rgb) * rest;
                    rgb.map(|x| unit(x * f + grey))
                });
            }
            Adjustment::Hue(turns) => {
                let sextants = (turns * 6.0) as f32;
                self.each_pixel(|rgb| turn_hue(rgb, sextants));
            }
        }
    }

    fn each_pixel(&mut self, f: impl Fn([f32; 3]) -> [f32; 3]) {
        let [r, g, b] = &mut self.planes;
        for ((r, g), b) in r.iter_mut().zip(g.iter_mut()).zip(b.iter_mut()) {
            [*r, *g, *b] = f([*r, *g, *b]);
        }
    }

    fn mean_luma(&self) -> f32 {
        let mean = |plane: &[f32]| {
            let (lanes, rest) = plane.as_chunks::<8>();
            let mut sums = [0.0f64; 8];
            for lane in lanes {
                sums.iter_mut().zip(lane).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            (sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x)).sum::<f64>()) / plane.len() as f64
        };
        self.planes.iter().zip(LUMA).map(|(plane, weight)| weight * mean(plane)).sum::<f64>() as f32
    }
}

fn luma([r, g, b]: [f32; 3]) -> f32 {
    LUMA[0] as f32 * r + LUMA[1] as f32 * g + LUMA[2] as f32 * b
}

fn unit(x: f32) -> f32 {
    x.clamp(0.0, 1.0)
}

/// One instruction, where `f32::max` takes three to answer for NaN.
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// As [`larger`].
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// To hue, saturation and value, round the circle by −3 to 3 sixths of it, and back. Written without a branch or a
/// remainder, so that several pixels go through it at once.
fn turn_hue([r, g, b]: [f32; 3], sextants: f32) -> [f32; 3] {
    let value = larger(larger(r, g), b);
    let chroma = value - smaller(smaller(r, g), b);
    // Grey has no hue; its chroma of zero makes any do.
    let divisor = larger(chroma, f32::MIN_POSITIVE);
    let of_blue = (r - g) / divisor + 4.0;
    let of_green = (b - r) / divisor + 2.0;
    let of_red = (g - b) / divisor;
    let hue = if r == value {
        of_red
    } else if g == value {
        of_green
    } else {
        of_blue
    };
    let hue = hue + sextants; // −4 to 8
    let hue = if hue < 0.0 { hue + 6.0 } else { hue };
    let hue = if hue >= 6.0 { hue - 6.0 } else { hue };
    [5.0, 3.0, 1.0].map(|offset| {
        let k = hue + offset;
        let k = if k >= 6.0 { k - 6.0 } else { k };
        // Each channel falls from the value by the chroma, as far as its distance on the circle from the hue says.
        value - chroma * unit(smaller(k, 4.0 - k))
    })
}
