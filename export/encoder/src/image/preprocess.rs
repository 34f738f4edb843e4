//! Pixels are prepared as Pillow and torchvision prepare them, so that weights trained there are fed what they know:
//! `Resize(shorter side)` with antialiased bilinear interpolation, then `CenterCrop`.
//!
//! Each pass is fast_image_resize's convolution, in Pillow's order: from equal pixels, three values in a thousand are one
//! level from Pillow's, and none is further. The two steps of [`Preprocessing::apply`] are computed as one: only the pixels
//! of the crop are made. The result is the same (the grid of the whole resized picture is kept), the work is less, and a
//! picture of 1×16,384 does not become one of 256×4,194,304.

use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedCroppedImage, TypedImage, TypedImageRef},
    pixels::U8x3,
};
use serde::{Deserialize, Serialize};

use super::{ImageError, Limits, RgbImage, decode};

/// Largest side that a network's input may have: 4,096² × 3 bytes are 48 MiB.
const MAX_INPUT_SIDE: u32 = 4_096;

/// Most pixels that a resized picture may have.
const MAX_RESIZED_PIXELS: u64 = 1 << 28;

/// How pixels between pixels are made.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// A triangle as wide as the scale: Pillow's `BILINEAR`, torchvision's `antialias=True`.
    #[default]
    Bilinear,
}

/// What is done to a picture before the network sees it. It travels in the manifest.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Length of the shorter side after the resize.
    pub resize: u32,
    /// Side of the square cut from the middle: height and width of the network's input. At most `resize`.
    pub crop: u32,
    pub interpolation: Interpolation,
    /// What shows through where a picture is transparent, RGB.
    pub background: [u8; 3],
    /// Subtracted per channel, on the scale 0 to 1. Done inside the graph, not by [`apply`](Self::apply).
    pub mean: [f32; 3],
    /// Divided by per channel, on the scale 0 to 1. Done inside the graph, not by [`apply`](Self::apply).
    pub std: [f32; 3],
}

impl Preprocessing {
    /// The evaluation transform of ImageNet networks: 256, cut to 224, the usual mean and deviation, white background.
    pub fn imagenet() -> Self {
        Self {
            resize: 256,
            crop: 224,
            interpolation: Interpolation::Bilinear,
            background: [255; 3],
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        }
    }

    /// Checks that a picture of any size can be prepared so.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=MAX_INPUT_SIDE).contains(&self.crop) {
            return Err(format!("crop is {}; it must be 1 to {MAX_INPUT_SIDE}", self.crop));
        }
        if !(self.crop..=MAX_INPUT_SIDE).contains(&self.resize) {
            return Err(format!("resize is {}; it must be {} (the crop) to {MAX_INPUT_SIDE}", self.resize, self.crop));
        }
        if let Some(mean) = self.mean.iter().find(|mean| !mean.is_finite()) {
            return Err(format!("mean has the entry {mean}; it must be finite"));
        }
        if let Some(std) = self.std.iter().find(|std| !(std.is_finite() && **std > 0.0)) {
            return Err(format!("std has the entry {std}; it must be finite and above 0"));
        }
        Ok(())
    }

    /// Resizes the shorter side and cuts the middle: `crop × crop` RGB pixels of 8 bits.
    ///
    /// # Errors
    /// If [`validate`](Self::validate) refuses these settings, or the picture has no pixels.
    pub fn apply(&self, image: &RgbImage) -> Result<RgbImage, ImageError> {
        self.validate().map_err(ImageError::Preprocessing)?;
        let (width, height) = image.dimensions();
        let (resized_width, resized_height) = shorter_side_to(self.resize, width, height)?;
        let (left, top) = (center_offset(resized_width, self.crop), center_offset(resized_height, self.crop));
        if (resized_width, resized_height) == (u64::from(width), u64::from(height)) {
            return crop(image, left as u32, top as u32, self.crop, self.crop);
        }
        // The crop's place in the source. Its edges fall between pixels; those around it still take part, as they do
        // when the whole picture is resized first.
        let (left, wide) = map_back(left, self.crop, resized_width, width);
        let (top, high) = map_back(top, self.crop, resized_height, height);
        let Interpolation::Bilinear = self.interpolation;
        resize_exact(image, SourceBox { left, top, width: wide, height: high }, self.crop, self.crop)
    }

    /// [`decode`] on this background, then [`apply`](Self::apply).
    ///
    /// # Errors
    /// What either of them refuses.
    pub fn load(&self, bytes: &[u8], limits: &Limits) -> Result<RgbImage, ImageError> {
        self.apply(&decode(bytes, limits, self.background)?)
    }
}

/// A part of a picture in pixels; its edges may fall between pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SourceBox {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
}

impl SourceBox {
    /// The whole of a picture.
    pub fn whole(image: &RgbImage) -> Self {
        Self { left: 0.0, top: 0.0, width: f64::from(image.width()), height: f64::from(image.height()) }
    }

    fn check(self, image: &RgbImage) -> Result<Self, ImageError> {
        let Self { left, top, width, height } = self;
        let (image_width, image_height) = image.dimensions();
        let inside = left >= 0.0
            && top >= 0.0
            && width > 0.0
            && height > 0.0
            && left + width <= f64::from(image_width)
            && top + height <= f64::from(image_height);
        if inside { Ok(self) } else { Err(ImageError::CropOutside { left, top, width, height, image_width, image_height }) }
    }
}

/// Resizes so that the shorter side has `size` pixels; the longer is `⌊size · longer / shorter⌋`, as in torchvision.
///
/// # Errors
/// If the result would have no pixels or more than 2²⁸: a long thin picture grows a lot.
pub fn resize_shorter_side(image: &RgbImage, size: u32) -> Result<RgbImage, ImageError> {
    let (width, height) = shorter_side_to(size, image.width(), image.height())?;
    let side = |side| u32::try_from(side).map_err(|_| ImageError::BadSize { width, height });
    resize_exact(image, SourceBox::whole(image), side(width)?, side(height)?)
}

/// Cuts a square of `size` pixels from the middle; an offset that falls on half a pixel is rounded to even, as Python
/// and so torchvision round it.
///
/// # Errors
/// If a side of the picture is shorter than `size` (torchvision pads with black there).
pub fn center_crop(image: &RgbImage, size: u32) -> Result<RgbImage, ImageError> {
    let offset = |side: u32| center_offset(u64::from(side.max(size)), size) as u32;
    crop(image, offset(image.width()), offset(image.height()), size, size)
}

/// Cuts `width × height` pixels out of a picture.
///
/// # Errors
/// If the cut has no pixels or does not lie inside the picture.
pub fn crop(image: &RgbImage, left: u32, top: u32, width: u32, height: u32) -> Result<RgbImage, ImageError> {
    check_crop(image, left, top, width, height)?;
    if (width, height) == image.dimensions() {
        return Ok(image.clone());
    }
    let (stride, row) = (image.width() as usize * 3, width as usize * 3);
    let mut pixels = Vec::with_capacity(row * height as usize);
    for y in top..top + height {
        let start = y as usize * stride + left as usize * 3;
        pixels.extend_from_slice(&image.as_raw()[start..start + row]);
    }
    Ok(RgbImage::from_raw(width, height, pixels).expect("a row was copied for each line"))
}

/// Resizes a part of a picture to `width × height`: Pillow's `resize((width, height), BILINEAR, box=source)`. Pixels
/// beside the box still take part in its outermost results; [`resize_crop`] is the one where they do not.
///
/// # Errors
/// If the box is empty or does not lie inside the picture, or the result has no pixels or more than 2²⁸.
pub fn resize_exact(image: &RgbImage, source: SourceBox, width: u32, height: u32) -> Result<RgbImage, ImageError> {
    let source = source.check(image)?;
    check_size(u64::from(width), u64::from(height))?;
    if source == SourceBox::whole(image) && (width, height) == image.dimensions() {
        return Ok(image.clone());
    }
    Ok(convolve(image, (0, 0, image.width(), image.height()), source, width, height))
}

/// Cuts whole pixels and resizes the cut, which sees nothing of what lay around it: torchvision's `resized_crop`, and so
/// `RandomResizedCrop`. The cut is not copied.
///
/// # Errors
/// If the cut is empty or does not lie inside the picture, or the result has no pixels or more than 2²⁸.
pub fn resize_crop(
    image: &RgbImage,
    (left, top, crop_width, crop_height): (u32, u32, u32, u32),
    width: u32,
    height: u32,
) -> Result<RgbImage, ImageError> {
    check_crop(image, left, top, crop_width, crop_height)?;
    check_size(u64::from(width), u64::from(height))?;
    if (crop_width, crop_height) == (width, height) {
        return crop(image, left, top, width, height);
    }
    let source = SourceBox { left: 0.0, top: 0.0, width: f64::from(crop_width), height: f64::from(crop_height) };
    Ok(convolve(image, (left, top, crop_width, crop_height), source, width, height))
}

/// Pillow's two passes over the pixels inside `cut`, which sees nothing of what lies around it: along the rows, rounded
/// to bytes, then along the columns. fast_image_resize alone would go along the columns first, and by the rounding
/// between the passes one value in seven would come out a level higher or lower.
fn convolve(image: &RgbImage, cut: (u32, u32, u32, u32), source: SourceBox, width: u32, height: u32) -> RgbImage {
    let SourceBox { left, top, width: wide, height: high } = source;
    // Only rows that the second pass reaches: the triangle of a downscaled pixel is as wide as two of its steps.
    let reach = (high / f64::from(height)).max(1.0) + 1.0;
    let first = (top - reach).floor().max(0.0);
    let last = (top + high + reach).ceil().min(f64::from(cut.3));
    let mut rows = RgbImage::new(width, (last - first) as u32);
    pass(image, cut, SourceBox { left, top: first, width: wide, height: last - first }, &mut rows);
    let mut resized = RgbImage::new(width, height);
    let columns = SourceBox { left: 0.0, top: top - first, width: f64::from(width), height: high };
    pass(&rows, (0, 0, rows.width(), rows.height()), columns, &mut resized);
    resized
}

/// One pass: a box that differs from the result in one direction only. The types are spelled out, so that the crate's
/// code is compiled for RGB alone.
fn pass(image: &RgbImage, (left, top, width, height): (u32, u32, u32, u32), source: SourceBox, result: &mut RgbImage) {
    const ROOM: &str = "a picture has three bytes for each pixel";
    let whole: TypedImageRef<'_, U8x3> = TypedImageRef::from_buffer(image.width(), image.height(), image.as_raw()).expect(ROOM);
    let cut = TypedCroppedImage::from_ref(&whole, left, top, width, height).expect("the cut was checked to lie inside the picture");
    let (result_width, result_height) = result.dimensions();
    let mut result = TypedImage::<U8x3>::from_buffer(result_width, result_height, result).expect(ROOM);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false);
    let options = options.crop(source.left, source.top, source.width, source.height);
    Resizer::new().resize_typed(&cut, &mut result, &options).expect("the box was checked to lie inside the picture");
}

fn check_size(width: u64, height: u64) -> Result<(), ImageError> {
    if width == 0 || height == 0 || width.saturating_mul(height) > MAX_RESIZED_PIXELS {
        return Err(ImageError::BadSize { width, height });
    }
    Ok(())
}

fn check_crop(image: &RgbImage, left: u32, top: u32, width: u32, height: u32) -> Result<(), ImageError> {
    let [left, top, width, height] = [left, top, width, height].map(f64::from);
    SourceBox { left, top, width, height }.check(image).map(drop)
}

/// Sides of a picture whose shorter side becomes `size`. In 64 bits: a picture of 1×16,384 asks for millions.
fn shorter_side_to(size: u32, width: u32, height: u32) -> Result<(u64, u64), ImageError> {
    let (size, width, height) = (u64::from(size), u64::from(width), u64::from(height));
    if size == 0 || width == 0 || height == 0 {
        return Err(ImageError::BadSize { width: width.min(size), height: height.min(size) });
    }
    Ok(if width <= height { (size, size * height / width) } else { (size * width / height, size) })
}

/// `round((side − size) / 2)`, half to even.
fn center_offset(side: u64, size: u32) -> u64 {
    let spare = side - u64::from(size);
    let half = spare / 2;
    if spare % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}

/// Where `size` pixels from `start` on, of a side resized to `resized`, lie on the side of `original` pixels: start and
/// length.
fn map_back(start: u64, size: u32, resized: u64, original: u32) -> (f64, f64) {
    let scale = f64::from(original) / resized as f64;
    let from = start as f64 * scale;
    // A rounding error must not carry the far edge over the picture's.
    (from, (f64::from(size) * scale).min(f64::from(original) - from))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture without symmetry.
    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| ::image::Rgb([(x * 37 + y * 11) as u8, (x * x + 3 * y) as u8, (200 + y * y - x) as u8]))
    }

    fn largest_difference(a: &RgbImage, b: &RgbImage) -> u8 {
        assert_eq!(a.dimensions(), b.dimensions());
        a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    #[test]
    fn the_longer_side_is_rounded_down() {
        assert_eq!(shorter_side_to(256, 500, 333).unwrap(), (384, 256)); // 384.38
        assert_eq!(shorter_side_to(10, 3, 5).unwrap(), (10, 16)); // 16.67
        assert_eq!(shorter_side_to(256, 1, 16_384).unwrap(), (256, 4_194_304));
    }

    #[test]
    fn half_a_pixel_is_rounded_to_even() {
        let offsets: Vec<u64> = (24..34).map(|side| center_offset(side, 24)).collect();
        assert_eq!(offsets, [0, 0, 1, 2, 2, 2, 3, 4, 4, 4]); // Python: [round((s - 24) / 2.0) for s in range(24, 34)]
    }

    #[test]
    fn one_step_gives_what_resize_and_crop_give() {
        for (width, height) in [(48, 36), (36, 49), (101, 7), (31, 31), (7, 90), (32, 200)] {
            let image = picture(width, height);
            for (resize, crop) in [(32, 28), (24, 24), (33, 20), (64, 63)] {
                let settings = Preprocessing { resize, crop, ..Preprocessing::imagenet() };
                let in_two = center_crop(&resize_shorter_side(&image, resize).unwrap(), crop).unwrap();
                let in_one = settings.apply(&image).unwrap();
                assert!(largest_difference(&in_one, &in_two) <= 1, "{width}×{height} to {resize}/{crop}");
            }
        }
    }

    #[test]
    fn a_long_thin_picture_is_prepared_without_being_blown_up() {
        let settings = Preprocessing::imagenet();
        for (width, height) in [(1, 16_384), (16_384, 1), (1, 1)] {
            let image = RgbImage::from_fn(width, height, |x, y| ::image::Rgb([(x + y) as u8, 7, 200]));
            assert_eq!(settings.apply(&image).unwrap().dimensions(), (224, 224));
        }
        assert!(matches!(resize_shorter_side(&picture(1, 16_384), 256), Err(ImageError::BadSize { .. })));
    }

    #[test]
    fn a_picture_that_has_the_size_is_not_touched() {
        let image = picture(32, 32);
        assert_eq!(resize_shorter_side(&image, 32).unwrap(), image);
        assert_eq!(Preprocessing { resize: 32, crop: 32, ..Preprocessing::imagenet() }.apply(&image).unwrap(), image);
    }

    #[test]
    fn a_cut_does_not_see_its_surroundings_and_a_box_does() {
        // Left half black, right half white; the cut is the black half.
        let image = RgbImage::from_fn(16, 8, |x, _| ::image::Rgb([if x < 8 { 0 } else { 255 }; 3]));
        let cut = resize_crop(&image, (0, 0, 8, 8), 4, 4).unwrap();
        assert!(cut.as_raw().iter().all(|&x| x == 0));
        let boxed = resize_exact(&image, SourceBox { left: 0.0, top: 0.0, width: 8.0, height: 8.0 }, 4, 4).unwrap();
        assert!(boxed.get_pixel(3, 0)[0] > 0);
        assert_eq!(
            cut,
            resize_exact(&crop(&image, 0, 0, 8, 8).unwrap(), SourceBox { width: 8.0, ..SourceBox::whole(&image) }, 4, 4).unwrap()
        );
    }

    #[test]
    fn a_crop_outside_the_picture_is_refused() {
        let image = picture(10, 8);
        assert!(crop(&image, 0, 0, 10, 8).is_ok());
        for (left, top, width, height) in [(1, 0, 10, 8), (0, 1, 10, 8), (0, 0, 0, 1), (u32::MAX, 0, 2, 2)] {
            assert!(matches!(crop(&image, left, top, width, height), Err(ImageError::CropOutside { .. })));
            assert!(matches!(resize_crop(&image, (left, top, width, height), 4, 4), Err(ImageError::CropOutside { .. })));
        }
        let outside = SourceBox { left: f64::NAN, ..SourceBox::whole(&image) };
        assert!(matches!(resize_exact(&image, outside, 4, 4), Err(ImageError::CropOutside { .. })));
        assert!(matches!(resize_exact(&image, SourceBox::whole(&image), 0, 4), Err(ImageError::BadSize { .. })));
        assert!(matches!(center_crop(&image, 9), Err(ImageError::CropOutside { .. })));
        assert!(matches!(Preprocessing::imagenet().apply(&RgbImage::new(0, 5)), Err(ImageError::BadSize { .. })));
    }

    #[test]
    fn settings_that_cannot_be_are_refused_by_name() {
        let good = Preprocessing::imagenet();
        good.validate().unwrap();
        Preprocessing { resize: 224, ..good.clone() }.validate().unwrap();
        let refused = |settings: Preprocessing, field: &str| {
            let sentence = settings.validate().unwrap_err();
            assert!(sentence.starts_with(field), "{sentence}");
            assert!(matches!(settings.apply(&picture(4, 4)), Err(ImageError::Preprocessing(_))));
        };
        refused(Preprocessing { crop: 0, ..good.clone() }, "crop");
        refused(Preprocessing { crop: 5_000, resize: 5_000, ..good.clone() }, "crop");
        refused(Preprocessing { resize: 223, ..good.clone() }, "resize");
        refused(Preprocessing { resize: 5_000, ..good.clone() }, "resize");
        refused(Preprocessing { mean: [0.5, f32::NAN, 0.5], ..good.clone() }, "mean");
        refused(Preprocessing { std: [0.5, 0.5, 0.0], ..good }, "std");
    }

    #[test]
    fn settings_travel_as_json_and_unknown_ones_are_refused() {
        let settings = Preprocessing::imagenet();
        let json = serde_json::to_string(&settings).unwrap();
        assert!(json.contains(r#""interpolation":"bilinear""#), "{json}");
        assert_eq!(serde_json::from_str::<Preprocessing>(&json).unwrap(), settings);
        assert!(serde_json::from_str::<Preprocessing>(&json.replace("bilinear", "bicubic")).is_err());
        assert!(serde_json::from_str::<Preprocessing>(&json.replace("{\"resize\"", "{\"gamma\":1,\"resize\"")).is_err());
    }
}
