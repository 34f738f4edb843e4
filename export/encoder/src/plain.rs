//! The plain evaluator: f32 on the CPU, one image at a time, convolution as a matrix product over unfolded windows.
//!
//! It needs no libtorch and no ONNX Runtime, so it is the reference against which both are checked, anywhere. It favours
//! being obviously right over speed; images are spread over threads, and that is all.

use ::image::RgbImage;
use rayon::prelude::*;

use crate::{
    layers::{BATCH_NORM_EPS, Conv2d, Layers, Linear, MaxPool},
    manifest::Output,
    shapes::window_output,
    weights::Encoder,
};

/// Norms below this are taken as this, as `torch.nn.functional.normalize` does: the zero vector stays zero.
const SMALLEST_NORM: f32 = 1e-12;

/// Scales `vector` to length one in place; the zero vector stays as it is.
pub fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let norm = norm.max(f64::from(SMALLEST_NORM));
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
}

/// Evaluates an encoder. Images must be prepared by its [`Preprocessing`](crate::image::Preprocessing).
#[derive(Clone, Copy, Debug)]
pub struct PlainEvaluator<'a> {
    encoder: &'a Encoder,
}

impl<'a> PlainEvaluator<'a> {
    pub fn new(encoder: &'a Encoder) -> Self {
        Self { encoder }
    }

    /// The backbone's features, one vector of [`feature_dim`](crate::ResNet::feature_dim) values an image, not normalised.
    ///
    /// # Panics
    /// If an image is not crop×crop: it was not prepared for this encoder.
    pub fn features(&self, images: &[RgbImage]) -> Vec<Vec<f32>> {
        images.par_iter().map(|image| self.features_of(image)).collect()
    }

    /// The output that the manifest names, not normalised.
    ///
    /// # Panics
    /// As [`PlainEvaluator::features`].
    pub fn output(&self, images: &[RgbImage]) -> Vec<Vec<f32>> {
        let architecture = self.encoder.manifest().architecture();
        images
            .par_iter()
            .map(|image| {
                let features = self.features_of(image);
                match self.encoder.manifest().output {
                    Output::Features => features,
                    Output::Projection => {
                        let mut net = Plain { encoder: self.encoder };
                        let features = Array { shape: vec![features.len()], data: features };
                        architecture.project(&mut net, &features).expect("a projection is only described where there is a head").data
                    }
                }
            })
            .collect()
    }

    /// Embeddings as a server would answer them: [`output`](Self::output), of unit length where the manifest says so.
    ///
    /// # Panics
    /// As [`PlainEvaluator::features`].
    pub fn embed(&self, images: &[RgbImage]) -> Vec<Vec<f32>> {
        let mut vectors = self.output(images);
        if self.encoder.manifest().normalized {
            vectors.iter_mut().for_each(|vector| normalize(vector));
        }
        vectors
    }

    fn features_of(&self, image: &RgbImage) -> Vec<f32> {
        let manifest = self.encoder.manifest();
        let side = manifest.preprocessing.crop;
        assert_eq!(image.dimensions(), (side, side), "images are prepared by the encoder's own preprocessing");
        let input = normalized_input(image, manifest.preprocessing.mean, manifest.preprocessing.std);
        manifest.architecture().features(&mut Plain { encoder: self.encoder }, &input).data
    }
}

/// u8 H×W×3 → f32 3×H×W, `(x / 255 − mean) / std`.
fn normalized_input(image: &RgbImage, mean: [f32; 3], std: [f32; 3]) -> Array {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut data = vec![0.0; 3 * height * width];
    for (position, pixel) in image.pixels().enumerate() {
        for channel in 0..3 {
            data[channel * height * width + position] = (f32::from(pixel[channel]) / 255.0 - mean[channel]) / std[channel];
        }
    }
    Array { shape: vec![3, height, width], data }
}

/// C×H×W of one image, or a vector.
#[derive(Clone, Debug)]
struct Array {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Array {
    fn chw(&self) -> [usize; 3] {
        self.shape[..].try_into().expect("a map has channels, rows and columns")
    }
}

struct Plain<'a> {
    encoder: &'a Encoder,
}

/// Row-major `a` (m×k) times row-major `b` (k×n).
fn matrix_product(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
    assert_eq!((a.len(), b.len()), (m * k, k * n), "the factors have the stated sides");
    let mut c = vec![0.0; m * n];
    // SAFETY: the assertion above and the line before give each pointer as many values as its sides and strides reach,
    // `c` is not shared, and sides fit isize because the slices exist.
    unsafe {
        matrixmultiply::sgemm(m, k, n, 1.0, a.as_ptr(), k as isize, 1, b.as_ptr(), n as isize, 1, 0.0, c.as_mut_ptr(), n as isize, 1);
    }
    c
}

/// The windows of `x` as columns: (C·k·k) × (H'·W'), rows in the order of a convolution's weight.
fn unfold(x: &Array, conv: Conv2d, rows: usize, columns: usize) -> Vec<f32> {
    let [channels, height, width] = x.chw();
    let Conv2d { kernel, stride, padding, dilation, .. } = conv;
    let mut windows = vec![0.0; channels * kernel * kernel * rows * columns];
    for channel in 0..channels {
        for ky in 0..kernel {
            for kx in 0..kernel {
                let row = ((channel * kernel + ky) * kernel + kx) * rows * columns;
                for oy in 0..rows {
                    let y = oy * stride + ky * dilation;
                    if y < padding || y - padding >= height {
                        continue;
                    }
                    let source = (channel * height + y - padding) * width;
                    for ox in 0..columns {
                        let x_at = ox * stride + kx * dilation;
                        if x_at >= padding && x_at - padding < width {
                            windows[row + oy * columns + ox] = x.data[source + x_at - padding];
                        }
                    }
                }
            }
        }
    }
    windows
}

impl Layers for Plain<'_> {
    type Value = Array;

    fn conv2d(&mut self, name: &str, x: &Array, conv: Conv2d) -> Array {
        let [_, height, width] = x.chw();
        let side = |side| window_output(side, conv.kernel, conv.stride, conv.padding, conv.dilation);
        let (rows, columns) = (side(height), side(width));
        let windows = unfold(x, conv, rows, columns);
        let weight = self.encoder.values(&format!("{name}.weight"));
        let window = conv.inputs * conv.kernel * conv.kernel;
        Array { shape: vec![conv.outputs, rows, columns], data: matrix_product(weight, &windows, conv.outputs, window, rows * columns) }
    }

    fn batch_norm(&mut self, name: &str, x: &Array, channels: usize) -> Array {
        let part = |part: &str| self.encoder.values(&format!("{name}.{part}"));
        let (weight, bias, mean, var) = (part("weight"), part("bias"), part("running_mean"), part("running_var"));
        let mut y = x.clone();
        let map = y.data.len() / channels;
        for (channel, values) in y.data.chunks_exact_mut(map).enumerate() {
            let scale = f64::from(weight[channel]) / (f64::from(var[channel]) + BATCH_NORM_EPS).sqrt();
            let shift = f64::from(bias[channel]) - f64::from(mean[channel]) * scale;
            values.iter_mut().for_each(|v| *v = (f64::from(*v) * scale + shift) as f32);
        }
        y
    }

    fn relu(&mut self, x: &Array) -> Array {
        Array { shape: x.shape.clone(), data: x.data.iter().map(|v| v.max(0.0)).collect() }
    }

    fn max_pool(&mut self, x: &Array, pool: MaxPool) -> Array {
        let [channels, height, width] = x.chw();
        let side = |side| window_output(side, pool.kernel, pool.stride, pool.padding, 1);
        let (rows, columns) = (side(height), side(width));
        let span = |out: usize, limit: usize| {
            let start = out * pool.stride;
            start.saturating_sub(pool.padding)..(start + pool.kernel).saturating_sub(pool.padding).min(limit)
        };
        let mut data = Vec::with_capacity(channels * rows * columns);
        for channel in 0..channels {
            for oy in 0..rows {
                for ox in 0..columns {
                    let mut largest = f32::NEG_INFINITY;
                    for y in span(oy, height) {
                        for at in span(ox, width) {
                            largest = largest.max(x.data[(channel * height + y) * width + at]);
                        }
                    }
                    data.push(largest);
                }
            }
        }
        Array { shape: vec![channels, rows, columns], data }
    }

    fn add(&mut self, a: &Array, b: &Array) -> Array {
        Array { shape: a.shape.clone(), data: a.data.iter().zip(&b.data).map(|(a, b)| a + b).collect() }
    }

    fn global_avg_pool(&mut self, x: &Array) -> Array {
        let [channels, height, width] = x.chw();
        let mean = |map: &[f32]| (map.iter().map(|v| f64::from(*v)).sum::<f64>() / (height * width) as f64) as f32;
        Array { shape: vec![channels], data: x.data.chunks_exact(height * width).map(mean).collect() }
    }

    fn linear(&mut self, name: &str, x: &Array, linear: Linear) -> Array {
        let weight = self.encoder.values(&format!("{name}.weight"));
        let mut data = matrix_product(weight, &x.data, linear.outputs, linear.inputs, 1);
        if linear.bias {
            let bias = self.encoder.values(&format!("{name}.bias"));
            data.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        Array { shape: vec![linear.outputs], data }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        architecture::Architecture,
        head::Head,
        image::Preprocessing,
        manifest::{Manifest, Provenance},
        resnet::{Depth, ResNet, Stem},
        weights::Tensor,
    };

    /// Values that look random and are the same everywhere: a linear congruential generator, −1 to 1.
    fn noise(seed: u32, count: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from((state >> 16) as u16) / 32_768.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn encoder(stem: Stem, head: Head) -> Encoder {
        let architecture = Architecture { backbone: ResNet::new(Depth::R18, stem).with_width(4), head };
        let tensors: BTreeMap<String, Tensor> = architecture
            .parameters()
            .into_iter()
            .enumerate()
            .map(|(seed, p)| {
                let positive = p.name.ends_with("running_var") || (p.name.contains("bn") && p.name.ends_with("weight"));
                let data = noise(seed as u32, p.len()).into_iter().map(|x| if positive { x.abs() + 0.5 } else { x * 0.3 }).collect();
                (p.name, Tensor { shape: p.shape, data })
            })
            .collect();
        let preprocessing = Preprocessing { resize: 16, crop: 16, ..Preprocessing::imagenet() };
        Encoder::new(Manifest::new(architecture, preprocessing, Provenance::default()), tensors).unwrap()
    }

    fn picture(seed: u32) -> RgbImage {
        let bytes = noise(seed, 16 * 16 * 3).into_iter().map(|x| ((x + 1.0) * 127.5) as u8).collect();
        RgbImage::from_raw(16, 16, bytes).unwrap()
    }

    /// The definition of a convolution, sum by sum, as the oracle of the unfolded product.
    fn convolution(x: &Array, weight: &[f32], conv: Conv2d) -> Vec<f32> {
        let [channels, height, width] = x.chw();
        let side = |s| window_output(s, conv.kernel, conv.stride, conv.padding, conv.dilation);
        let mut out = Vec::new();
        for o in 0..conv.outputs {
            for oy in 0..side(height) {
                for ox in 0..side(width) {
                    let mut sum = 0.0f64;
                    for c in 0..channels {
                        for ky in 0..conv.kernel {
                            for kx in 0..conv.kernel {
                                let y = (oy * conv.stride + ky * conv.dilation) as isize - conv.padding as isize;
                                let x_at = (ox * conv.stride + kx * conv.dilation) as isize - conv.padding as isize;
                                if (0..height as isize).contains(&y) && (0..width as isize).contains(&x_at) {
                                    let value = x.data[(c * height + y as usize) * width + x_at as usize];
                                    sum += f64::from(value) * f64::from(weight[((o * channels + c) * conv.kernel + ky) * conv.kernel + kx]);
                                }
                            }
                        }
                    }
                    out.push(sum as f32);
                }
            }
        }
        out
    }

    #[test]
    fn the_unfolded_product_is_the_convolution() {
        for (kernel, stride, padding, dilation) in [(1, 1, 0, 1), (1, 2, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 2, 2), (7, 2, 3, 1)] {
            let conv = Conv2d { inputs: 3, outputs: 5, kernel, stride, padding, dilation };
            let x = Array { shape: vec![3, 9, 11], data: noise(1, 3 * 9 * 11) };
            let weight = noise(2, 5 * 3 * kernel * kernel);
            let side = |s| window_output(s, kernel, stride, padding, dilation);
            let windows = unfold(&x, conv, side(9), side(11));
            let fast = matrix_product(&weight, &windows, 5, 3 * kernel * kernel, side(9) * side(11));
            for (a, b) in fast.iter().zip(convolution(&x, &weight, conv)) {
                assert!((a - b).abs() < 1e-4, "{conv:?}: {a} against {b}");
            }
        }
    }

    #[test]
    fn pooling_ignores_its_padding() {
        let encoder = encoder(Stem::Imagenet, Head::None {});
        let x = Array { shape: vec![1, 3, 3], data: (1..=9).map(|v| -(v as f32)).collect() };
        let y = Plain { encoder: &encoder }.max_pool(&x, MaxPool { kernel: 3, stride: 2, padding: 1 });
        assert_eq!((y.shape, y.data), (vec![1, 2, 2], vec![-1.0, -2.0, -4.0, -5.0]));
    }

    #[test]
    fn an_image_alone_and_in_company_has_one_embedding_of_unit_length() {
        for (stem, head) in [(Stem::Imagenet, Head::None {}), (Stem::Cifar, Head::Mlp { hidden: 8, dim: 4 })] {
            let mut encoder = encoder(stem, head);
            if head != (Head::None {}) {
                let manifest = encoder.manifest().clone().with_output(Output::Projection).unwrap();
                encoder = encoder.with_manifest(manifest).unwrap();
            }
            let evaluator = PlainEvaluator::new(&encoder);
            let images: Vec<RgbImage> = (0..3).map(picture).collect();
            let together = evaluator.embed(&images);
            assert_eq!(together[1], evaluator.embed(&images[1..2])[0]);
            assert_ne!(together[0], together[1]);
            for vector in &together {
                assert_eq!(vector.len(), encoder.manifest().dim);
                assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn the_zero_vector_stays_zero() {
        let mut zero = [0.0; 4];
        normalize(&mut zero);
        assert_eq!(zero, [0.0; 4]);
    }
}
