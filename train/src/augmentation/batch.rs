//! What changes values, a whole batch at once by tensor operations: on a GPU.
//!
//! - The adjustments of a colour jitter come in an order of each sample's own. Brightness, contrast and saturation are one
//!   formula, `f·x + (1 − f)·other`, where `other` is black, the mean luma or the pixel's luma. So the j-th step of all
//!   samples is one blend with coefficients of each sample's own, and only the hue is computed on those whose turn it is.
//! - A blur is two multiplications by a matrix (rows, columns) that does what the three box blurs do, edges included. For
//!   the sides that networks take this costs less than a convolution of each channel with a kernel of its own.

use tch::{Device, Kind, Tensor};

use super::{Adjustment, Draw, Effect, LUMA, box_blur::BoxBlur};

/// Applies the draws to a batch: u8 N×3×S×S in, f32 from 0 to 1 out, on the same device.
pub(super) fn photometric(crops: &Tensor, draws: &[Draw]) -> Tensor {
    let mut x = crops.to_kind(Kind::Float).contiguous() / 255.0;
    let operations = draws.iter().map(|draw| draw.effects.len()).max().unwrap_or(0);
    for operation in 0..operations {
        let effects: Vec<Option<&Effect>> = draws.iter().map(|draw| draw.effects[operation].as_ref()).collect();
        jitter(&mut x, &effects);
        grayscale(&mut x, &effects);
        blur(&mut x, &effects);
    }
    x
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

/// For each deviation the S×S matrix that blurs a line of S pixels.
fn blur_matrices(sigmas: &[f64], side: i64, device: Device) -> Tensor {
    let boxes: Vec<BoxBlur> = sigmas.iter().map(|&sigma| BoxBlur::of_deviation(sigma)).collect();
    let reach = boxes.iter().map(|b| b.reach()).max().unwrap_or(0);
    let taps = 2 * reach + 1;
    let weights: Vec<f32> = boxes.iter().flat_map(|b| (0..taps).map(|i| b.weight(i.abs_diff(reach)))).collect();
    let (reach, taps) = (reach as i64, taps as i64);
    let weights = Tensor::from_slice(&weights).to_device(device).view([-1, taps]); // M×T
    // Which pixel stands at each offset from each pixel, as ones: T×S×S.
    let positions = Tensor::arange(side, (Kind::Int64, device));
    let offsets = Tensor::arange_start(-reach, reach + 1, (Kind::Int64, device)).view([-1, 1]);
    let neighbours = (&positions + offsets).clamp(0, side - 1); // T×S
    let ones = neighbours.unsqueeze(2).eq_tensor(&positions).to_kind(Kind::Float);
    let once = weights.matmul(&ones.view([taps, side * side])).view([-1, side, side]);
    once.bmm(&once).bmm(&once)
}

/// The samples whose effect is of interest, and what is of interest about it.
fn indices<T>(effects: &[Option<&Effect>], interest: impl Fn(&Effect) -> Option<T>) -> (Vec<i64>, Vec<T>) {
    effects.iter().enumerate().filter_map(|(i, effect)| Some((i as i64, interest((*effect)?)?))).unzip()
}
