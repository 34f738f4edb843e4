//! What changes values: a whole batch at once, each sample with its own parameters, on the device where the batch lies.
//!
//! - The adjustments of a colour jitter come in an order of each sample's own. Brightness, contrast and saturation are one
//!   formula, `f·x + (1 − f)·other`, where `other` is black, the mean luma or the pixel's luma. So the j-th step of all
//!   samples is one blend with coefficients of each sample's own, and only the hue is computed on those whose turn it is.
//! - A blur is two multiplications by a matrix (rows, columns) that does what Pillow's three box blurs do, edges included.
//!   For the sides that networks take this costs less than a convolution of each channel with a kernel of its own.

use moco_encoder::image::Preprocessing;
use tch::{Device, Kind, Tensor};

use super::{Adjustment, Augmentation, Draw, Effect};

/// Weights of red, green and blue in the luma (ITU-R 601-2), Pillow's `convert("L")`.
const LUMA: [f64; 3] = [0.299, 0.587, 0.114];

impl Augmentation {
    /// Applies the drawn operations to a batch: u8 N×3×S×S in, f32 N×3×S×S from 0 to 1 out, on the same device.
    ///
    /// # Panics
    /// If `draws` are not one for each sample, drawn from this augmentation.
    pub fn photometric(&self, crops: &Tensor, draws: &[Draw]) -> Tensor {
        assert_eq!(crops.size()[0], draws.len() as i64, "each sample has its draw");
        tch::no_grad(|| {
            let mut x = crops.to_kind(Kind::Float).contiguous() / 255.0;
            for operation in 0..self.operations.len() {
                let effects: Vec<Option<&Effect>> = draws.iter().map(|draw| draw.effects[operation].as_ref()).collect();
                jitter(&mut x, &effects);
                grayscale(&mut x, &effects);
                blur(&mut x, &effects);
            }
            x
        })
    }
}

/// Subtracts the mean and divides by the deviation of each channel: values 0 to 1 in, what the network takes out.
pub fn normalize(images: &Tensor, preprocessing: &Preprocessing) -> Tensor {
    let channels = |values: [f32; 3]| Tensor::from_slice(&values).view([3, 1, 1]).to_device(images.device()).to_kind(images.kind());
    (images - channels(preprocessing.mean)) / channels(preprocessing.std)
}

/// The luma of each pixel: N×1×S×S.
fn luma(x: &Tensor) -> Tensor {
    let channel = |c: usize| x.narrow(1, c as i64, 1) * LUMA[c];
    channel(0) + channel(1) + channel(2)
}

fn jitter(x: &mut Tensor, effects: &[Option<&Effect>]) {
    let adjustments: Vec<&[Adjustment]> = effects
        .iter()
        .map(|effect| match effect {
            Some(Effect::ColorJitter(adjustments)) => adjustments.as_slice(),
            _ => &[],
        })
        .collect();
    let steps = adjustments.iter().map(|a| a.len()).max().unwrap_or(0);
    for step in 0..steps {
        let of_each: Vec<Option<Adjustment>> = adjustments.iter().map(|a| a.get(step).copied()).collect();
        blend(x, &of_each);
        turn_hue(x, &of_each);
    }
}

/// Brightness, contrast and saturation of those samples whose step is one of them; the others are multiplied by one.
fn blend(x: &mut Tensor, step: &[Option<Adjustment>]) {
    // Coefficients of the pixel, its luma and the mean luma.
    let coefficients = step.iter().map(|adjustment| match *adjustment {
        Some(Adjustment::Brightness(f)) => [f, 0.0, 0.0],
        Some(Adjustment::Contrast(f)) => [f, 0.0, 1.0 - f],
        Some(Adjustment::Saturation(f)) => [f, 1.0 - f, 0.0],
        Some(Adjustment::Hue(_)) | None => [1.0, 0.0, 0.0],
    });
    let coefficients: Vec<f32> = coefficients.flatten().map(|c| c as f32).collect();
    let coefficients = Tensor::from_slice(&coefficients).to_device(x.device()).view([-1, 3, 1, 1, 1]); // N×3×1×1×1
    let needs_luma = step.iter().any(|a| matches!(a, Some(Adjustment::Contrast(_) | Adjustment::Saturation(_))));
    let other = needs_luma.then(|| {
        let luma = luma(x); // N×1×S×S
        let mean = luma.mean_dim([1i64, 2, 3].as_slice(), true, None::<Kind>); // N×1×1×1
        luma * coefficients.select(1, 1) + mean * coefficients.select(1, 2)
    });
    let _ = x.g_mul_(&coefficients.select(1, 0));
    if let Some(other) = other {
        let _ = x.g_add_(&other);
    }
    let _ = x.clamp_(0.0, 1.0);
}

/// The hue of those samples whose step it is: to hue, saturation and value, round the circle, and back.
fn turn_hue(x: &mut Tensor, step: &[Option<Adjustment>]) {
    let turned = |(i, adjustment): (usize, &Option<Adjustment>)| match *adjustment {
        Some(Adjustment::Hue(turns)) => Some((i as i64, (turns * 6.0) as f32)),
        _ => None,
    };
    let (samples, sextants): (Vec<i64>, Vec<f32>) = step.iter().enumerate().filter_map(turned).unzip();
    if samples.is_empty() {
        return;
    }
    let device = x.device();
    let samples = Tensor::from_slice(&samples).to_device(device);
    let sextants = Tensor::from_slice(&sextants).to_device(device).view([-1, 1, 1, 1]);
    let rgb = x.index_select(0, &samples); // M×3×S×S
    let (r, g, b) = (rgb.narrow(1, 0, 1), rgb.narrow(1, 1, 1), rgb.narrow(1, 2, 1));
    let value = rgb.amax([1i64].as_slice(), true);
    let chroma = &value - rgb.amin([1i64].as_slice(), true);
    // Grey has no hue; its chroma of zero makes any do.
    let divisor = chroma.clamp_min(f64::from(f32::MIN_POSITIVE));
    let hue = ((&g - &b) / &divisor)
        .where_self(&r.eq_tensor(&value), &((&b - &r) / &divisor + 2.0).where_self(&g.eq_tensor(&value), &((&r - &g) / &divisor + 4.0))); // in sextants, −1 to 5
    // Back: each channel falls from the value by the chroma, as far as its distance on the circle from the hue says.
    let offsets = Tensor::from_slice(&[5.0f32, 3.0, 1.0]).to_device(device).view([1, 3, 1, 1]);
    let k = (hue + sextants + offsets).remainder(6.0);
    let fall = k.minimum(&(4.0 - &k)).clamp(0.0, 1.0);
    let rgb = value - chroma * fall;
    let _ = x.index_copy_(0, &samples, &rgb);
}

fn grayscale(x: &mut Tensor, effects: &[Option<&Effect>]) {
    let samples: Vec<i64> = indices(effects, |effect| matches!(effect, Effect::Grayscale).then_some(())).0;
    if samples.is_empty() {
        return;
    }
    let samples = Tensor::from_slice(&samples).to_device(x.device());
    let grey = luma(&x.index_select(0, &samples)).expand([-1, 3, -1, -1], false);
    let _ = x.index_copy_(0, &samples, &grey);
}

fn blur(x: &mut Tensor, effects: &[Option<&Effect>]) {
    let (samples, sigmas) = indices(effects, |effect| match effect {
        Effect::GaussianBlur { sigma } => Some(*sigma),
        _ => None,
    });
    if samples.is_empty() {
        return;
    }
    let samples = Tensor::from_slice(&samples).to_device(x.device());
    let rgb = x.index_select(0, &samples); // M×3×S×S
    let (m, side) = (rgb.size()[0], rgb.size()[3]);
    let matrices = blur_matrices(&sigmas, side, x.device()).transpose(1, 2); // M×S×S
    // Each row times the matrix, then the same on the transposed picture.
    let mut rgb = rgb;
    for _ in 0..2 {
        rgb = rgb.reshape([m, 3 * side, side]).bmm(&matrices).view([m, 3, side, side]).transpose(2, 3);
    }
    let _ = x.index_copy_(0, &samples, &rgb);
}

/// For each deviation the S×S matrix that blurs a line of S pixels: three box blurs, beyond the edge the edge's pixel goes on.
fn blur_matrices(sigmas: &[f64], side: i64, device: Device) -> Tensor {
    let radii: Vec<f64> = sigmas.iter().map(|&sigma| box_radius(sigma)).collect();
    let reach = radii.iter().map(|radius| radius.floor() as i64 + 1).max().unwrap_or(0);
    let taps = 2 * reach + 1;
    let weights: Vec<f32> =
        radii.iter().flat_map(|&radius| (-reach..=reach).map(move |offset| box_weight(radius, offset) as f32)).collect();
    let weights = Tensor::from_slice(&weights).to_device(device).view([-1, taps]); // M×T
    // Which pixel stands at each offset from each pixel, as ones: T×S×S.
    let positions = Tensor::arange(side, (Kind::Int64, device));
    let offsets = Tensor::arange_start(-reach, reach + 1, (Kind::Int64, device)).view([-1, 1]);
    let neighbours = (&positions + offsets).clamp(0, side - 1); // T×S
    let ones = neighbours.unsqueeze(2).eq_tensor(&positions).to_kind(Kind::Float);
    let once = weights.matmul(&ones.view([taps, side * side])).view([-1, side, side]);
    once.bmm(&once).bmm(&once)
}

/// Radius, with its fraction, of the box that blurs with deviation `sigma` if applied three times: equations 11 and 14 of
/// Gwosdek et al., Theoretical Foundations of Gaussian Convolution by Extended Box Filtering, SSVM 2011.
fn box_radius(sigma: f64) -> f64 {
    let variance = sigma * sigma / 3.0;
    let whole = (((12.0 * variance + 1.0).sqrt() - 1.0) / 2.0).floor();
    let fraction = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance) / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
    whole + fraction
}

/// Weight of the pixel at `offset` in a box of this radius: whole inside, the fraction at its rim.
fn box_weight(radius: f64, offset: i64) -> f64 {
    let share = (radius + 1.0 - offset.unsigned_abs() as f64).clamp(0.0, 1.0);
    share / (2.0 * radius + 1.0)
}

/// The samples whose effect is of interest, and what is of interest about it.
fn indices<T>(effects: &[Option<&Effect>], interest: impl Fn(&Effect) -> Option<T>) -> (Vec<i64>, Vec<T>) {
    effects.iter().enumerate().filter_map(|(i, effect)| Some((i as i64, interest((*effect)?)?))).unzip()
}
