//! Encoders with random weights and batch-norm statistics of real pictures, made without libtorch.
//!
//! Fresh statistics (mean 0, variance 1) would prove little: a swapped mean and variance, or a wrong epsilon, hardly
//! show. So each encoder sees twenty batches of pictures in training mode first, as PyTorch's batch norm would: it
//! normalises by the batch and moves its running statistics a tenth of the way.

use std::collections::BTreeMap;

use moco_encoder::{
    Architecture, Encoder, Head, Layers, Manifest, ParameterKind, Provenance, ResNet, Tensor,
    image::{Preprocessing, RgbImage},
    layers::{BATCH_NORM_EPS, Conv2d, Linear, MaxPool},
};
use moco_export::pictures;

/// Numbers that look random and are the same everywhere (SplitMix64).
pub(crate) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between 0 and 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, count: usize) -> usize {
        (self.unit() * count as f64) as usize
    }

    /// Of mean 0 and deviation 1 (Box and Muller).
    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// Weights as at the start of training: Kaiming normal convolutions, scale near 1 and shift near 0 in batch norm.
fn weights(architecture: &Architecture, random: &mut Random) -> BTreeMap<String, Tensor> {
    let value = |kind: &ParameterKind, shape: &[usize], random: &mut Random| match kind {
        ParameterKind::ConvWeight => random.normal() * (2.0 / (shape[0] * shape[2] * shape[3]) as f64).sqrt(),
        ParameterKind::LinearWeight => random.normal() / (shape[1] as f64).sqrt(),
        ParameterKind::BatchNormWeight => 1.0 + 0.2 * random.normal(),
        ParameterKind::BatchNormBias | ParameterKind::LinearBias => 0.2 * random.normal(),
        ParameterKind::RunningMean => 0.0,
        ParameterKind::RunningVar => 1.0,
    };
    let tensor = |parameter: moco_encoder::Parameter, random: &mut Random| {
        let data = (0..parameter.len()).map(|_| value(&parameter.kind, &parameter.shape, random) as f32).collect();
        (parameter.name, Tensor { shape: parameter.shape, data })
    };
    architecture.parameters().into_iter().map(|parameter| tensor(parameter, random)).collect()
}

/// An encoder for pictures of `side` px whose statistics come from twenty batches of eight real pictures, each turned
/// and mirrored at random.
pub(crate) fn encoder(backbone: ResNet, head: Head, side: u32, seed: u64) -> Encoder {
    let architecture = Architecture { backbone, head };
    let mut random = Random(seed);
    let preprocessing = Preprocessing { resize: side, crop: side, ..Preprocessing::imagenet() };
    let mut net = TrainingPass { tensors: weights(&architecture, &mut random) };
    let cells = pictures::cells(&preprocessing);
    for _ in 0..20 {
        let batch: Vec<RgbImage> = (0..8).map(|_| turned(&cells[random.below(cells.len())], &mut random)).collect();
        let batch = net_input(&batch, &preprocessing);
        architecture.features(&mut net, &batch);
    }
    Encoder::new(Manifest::new(architecture, preprocessing, Provenance::default()), net.tensors).unwrap()
}

fn turned(picture: &RgbImage, random: &mut Random) -> RgbImage {
    let last = picture.width() - 1;
    let (turns, mirror) = (random.below(4), random.below(2) == 1);
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let x = if mirror { last - x } else { x };
        let (x, y) = [(x, y), (y, last - x), (last - x, last - y), (last - y, x)][turns];
        *picture.get_pixel(x, y)
    })
}

fn net_input(pictures: &[RgbImage], preprocessing: &Preprocessing) -> Maps {
    let side = preprocessing.crop as usize;
    let mut data = vec![0.0; pictures.len() * 3 * side * side];
    for (picture, values) in pictures.iter().zip(data.chunks_exact_mut(3 * side * side)) {
        for (position, pixel) in picture.pixels().enumerate() {
            for channel in 0..3 {
                let value = f32::from(pixel[channel]) / 255.0;
                values[channel * side * side + position] = (value - preprocessing.mean[channel]) / preprocessing.std[channel];
            }
        }
    }
    Maps { shape: [pictures.len(), 3, side, side], data }
}

/// N×C×H×W.
struct Maps {
    shape: [usize; 4],
    data: Vec<f32>,
}

/// The forward pass in training mode: batch statistics, and running ones that follow them with momentum 0.1.
struct TrainingPass {
    tensors: BTreeMap<String, Tensor>,
}

impl TrainingPass {
    fn values(&self, name: &str) -> &[f32] {
        &self.tensors[name].data
    }
}

impl Layers for TrainingPass {
    type Value = Maps;

    fn conv2d(&mut self, name: &str, x: &Maps, conv: Conv2d) -> Maps {
        let [count, channels, height, width] = x.shape;
        let Conv2d { outputs, kernel, stride, padding, dilation, .. } = conv;
        let side = |side: usize| (side + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
        let (rows, columns) = (side(height), side(width));
        let weight = self.values(&format!("{name}.weight"));
        let taps = channels * kernel * kernel;
        let mut data = Vec::with_capacity(count * outputs * rows * columns);
        for image in x.data.chunks_exact(channels * height * width) {
            let mut windows = Vec::with_capacity(taps * rows * columns);
            for tap in 0..taps {
                let (channel, ky, kx) = (tap / (kernel * kernel), tap / kernel % kernel, tap % kernel);
                for position in 0..rows * columns {
                    let y = (position / columns * stride + ky * dilation).checked_sub(padding).filter(|y| *y < height);
                    let x_at = (position % columns * stride + kx * dilation).checked_sub(padding).filter(|x| *x < width);
                    windows.push(y.zip(x_at).map_or(0.0, |(y, x_at)| image[(channel * height + y) * width + x_at]));
                }
            }
            data.extend(matrix_product(weight, &windows, outputs, taps, rows * columns));
        }
        Maps { shape: [count, outputs, rows, columns], data }
    }

    fn batch_norm(&mut self, name: &str, x: &Maps, channels: usize) -> Maps {
        let [count, _, height, width] = x.shape;
        let map = height * width;
        let mut y = Maps { shape: x.shape, data: x.data.clone() };
        for channel in 0..channels {
            let of_channel = |image: usize| (image * channels + channel) * map..(image * channels + channel + 1) * map;
            let samples = (count * map) as f64;
            let sum = |value: &dyn Fn(f64) -> f64| {
                (0..count).flat_map(|image| &x.data[of_channel(image)]).map(|v| value(f64::from(*v))).sum::<f64>()
            };
            let mean = sum(&|v| v) / samples;
            let squares = sum(&|v| (v - mean).powi(2));
            let mut follow = |part: &str, target: f64| {
                let running = &mut self.tensors.get_mut(&format!("{name}.{part}")).unwrap().data[channel];
                *running = (0.9 * f64::from(*running) + 0.1 * target) as f32;
            };
            follow("running_mean", mean);
            // The batch is normalised by its own variance; the running one estimates that of all pictures.
            follow("running_var", squares / (samples - 1.0));
            let scale = f64::from(self.values(&format!("{name}.weight"))[channel]) / (squares / samples + BATCH_NORM_EPS).sqrt();
            let shift = f64::from(self.values(&format!("{name}.bias"))[channel]) - mean * scale;
            for image in 0..count {
                y.data[of_channel(image)].iter_mut().for_each(|v| *v = (f64::from(*v) * scale + shift) as f32);
            }
        }
        y
    }

    fn relu(&mut self, x: &Maps) -> Maps {
        Maps { shape: x.shape, data: x.data.iter().map(|v| v.max(0.0)).collect() }
    }

    fn max_pool(&mut self, x: &Maps, pool: MaxPool) -> Maps {
        let [count, channels, height, width] = x.shape;
        let side = |side: usize| (side + 2 * pool.padding - pool.kernel) / pool.stride + 1;
        let (rows, columns) = (side(height), side(width));
        let reach = |out: usize, limit: usize| {
            let start = out * pool.stride;
            start.saturating_sub(pool.padding)..(start + pool.kernel - pool.padding).min(limit)
        };
        let mut data = Vec::new();
        for map in x.data.chunks_exact(height * width) {
            for position in 0..rows * columns {
                let window =
                    reach(position / columns, height).flat_map(|y| reach(position % columns, width).map(move |x| map[y * width + x]));
                data.push(window.fold(f32::NEG_INFINITY, f32::max));
            }
        }
        Maps { shape: [count, channels, rows, columns], data }
    }

    fn add(&mut self, a: &Maps, b: &Maps) -> Maps {
        Maps { shape: a.shape, data: a.data.iter().zip(&b.data).map(|(a, b)| a + b).collect() }
    }

    fn global_avg_pool(&mut self, x: &Maps) -> Maps {
        let [count, channels, height, width] = x.shape;
        let mean = |map: &[f32]| map.iter().sum::<f32>() / (height * width) as f32;
        Maps { shape: [count, channels, 1, 1], data: x.data.chunks_exact(height * width).map(mean).collect() }
    }

    fn linear(&mut self, _name: &str, _x: &Maps, _linear: Linear) -> Maps {
        unreachable!("batch-norm statistics need the backbone only")
    }
}

fn matrix_product(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
    assert_eq!((a.len(), b.len()), (m * k, k * n));
    let mut c = vec![0.0; m * n];
    // SAFETY: the assertion and the line above give each pointer all the values that its sides and strides reach.
    unsafe {
        matrixmultiply::sgemm(m, k, n, 1.0, a.as_ptr(), k as isize, 1, b.as_ptr(), n as isize, 1, 0.0, c.as_mut_ptr(), n as isize, 1);
    }
    c
}
