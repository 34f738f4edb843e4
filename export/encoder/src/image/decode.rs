//! A file becomes an 8-bit RGB picture, upright and opaque.
//!
//! - The format is told by content; a name or a `Content-Type` is never believed.
//! - Of several pictures (GIF, animated WebP, APNG, TIFF pages) the first is taken.
//! - EXIF orientation is applied (JPEG, PNG, WebP, TIFF); an orientation written only in XMP is not looked for.
//! - Samples of 16 bits are scaled, `round(x / 257)`. Pillow clips or drops the low byte, depending on the mode, and
//!   clipping makes most 16-bit pictures white; ours is deliberate.
//! - Grey becomes three equal channels. CMYK and YCCK in JPEG are taken as Adobe's (inverted), as Pillow does.
//! - Alpha is composited on a background in 8 bits, `round((s·α + b·(255 − α)) / 255)` per channel, which equals Pillow's
//!   `Image.alpha_composite` over an opaque picture.
//! - ICC profiles and gAMA are ignored, as in Pillow: numbers are taken as sRGB.
//!
//! Everything that a client sends passes here, so a defect of a decoder ends as an error and not as a lost thread.

use std::{
    any::Any,
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

use ::image::{
    ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage,
    error::{ImageError as CodecError, LimitErrorKind},
    metadata::Orientation,
};

use super::{
    ImageError, Limits,
    container::{walk, walk_gif, walk_jpeg, walk_png, walk_webp},
};

/// What a file says of itself, before a pixel is decoded and before its orientation is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `JPEG`, `PNG`, `GIF`, `WebP`, `BMP` or `TIFF`.
    pub format: &'static str,
    pub width: u32,
    pub height: u32,
}

/// Reads the header only, and refuses a picture that passes a limit.
///
/// # Errors
/// Every [`ImageError`] that a file can give before its pixels are decoded; a cut or broken body is found by [`decode`].
pub fn read_header(bytes: &[u8], limits: &Limits) -> Result<Header, ImageError> {
    limits.check_bytes(bytes)?;
    let format = recognise(bytes)?;
    without_panic(name(format), || open(bytes, format, limits).map(|(_, header)| header)).map_err(|error| explain(error, bytes, format))
}

/// Decodes a picture to 8-bit RGB: upright, composited on `background`, sides as its orientation has them.
///
/// # Errors
/// The first limit it passes, an unknown or unsupported format, or what is wrong with the file. Never panics on input.
pub fn decode(bytes: &[u8], limits: &Limits, background: [u8; 3]) -> Result<RgbImage, ImageError> {
    limits.check_bytes(bytes)?;
    let format = recognise(bytes)?;
    without_panic(name(format), || {
        let (decoder, header) = open(bytes, format, limits)?;
        let (picture, orientation) = read_pixels(decoder, bytes, format, header, limits)?;
        let mut picture = DynamicImage::ImageRgb8(into_rgb(picture, header.format, background)?);
        picture.apply_orientation(orientation);
        Ok(picture.into_rgb8())
    })
    .map_err(|error| explain(error, bytes, format))
}

/// A decoder that meets the end of a file too early says so in words of its own, or finds fault with what it did get.
fn explain(error: ImageError, bytes: &[u8], format: ImageFormat) -> ImageError {
    match error {
        ImageError::Decode { .. } => walk(bytes, format).err().unwrap_or(error),
        other => other,
    }
}

/// Runs a decoder. A panic in it is a defect of the decoder that this file has found, not one of the program.
fn without_panic<T>(format: &'static str, f: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    // Whatever the closure had half-built is dropped with it; it borrows only bytes and limits, which it cannot change.
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| Err(ImageError::DecoderPanicked { format, message: panic_message(&*panic) }))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it panicked without a message").to_owned()
}

/// Opens the decoder of a file and checks what the header claims.
fn open<'a>(bytes: &'a [u8], format: ImageFormat, limits: &Limits) -> Result<(impl ImageDecoder + 'a, Header), ImageError> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // Sides are checked below, where the error can name them; here it is the memory for headers and profiles.
    let mut codec_limits = ::image::Limits::no_limits();
    codec_limits.max_alloc = Some(limits.max_alloc);
    reader.limits(codec_limits);
    let decoder = reader.into_decoder().map_err(|error| codec_error(error, name(format), limits))?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(ImageError::Decode { format: name(format), source: format!("its header claims {width}×{height} pixels").into() });
    }
    limits.check_sides(width, height)?;
    if matches!(decoder.color_type(), ColorType::Rgb32F | ColorType::Rgba32F) {
        return Err(ImageError::UnsupportedFeature { format: name(format), feature: "samples are floating-point numbers".to_owned() });
    }
    Ok((decoder, Header { format: name(format), width, height }))
}

/// Checks that the file is whole and that memory suffices, then decodes its pixels.
fn read_pixels(
    mut decoder: impl ImageDecoder,
    bytes: &[u8],
    format: ImageFormat,
    header: Header,
    limits: &Limits,
) -> Result<(DynamicImage, Orientation), ImageError> {
    let failed = |error| codec_error(error, header.format, limits);
    let pixels = u64::from(header.width) * u64::from(header.height);
    let mut needed = decoder.total_bytes();
    if decoder.color_type() != ColorType::Rgb8 {
        needed = needed.saturating_add(3 * pixels);
    }
    let orientation = match format {
        ImageFormat::Jpeg => {
            if walk_jpeg(bytes)?.progressive {
                needed = needed.saturating_add(decoder.total_bytes().saturating_mul(2)); // an i16 for each sample
            }
            exif_orientation(decoder.exif_metadata().map_err(failed)?.as_deref())
        }
        ImageFormat::Png => exif_orientation(walk_png(bytes)?),
        ImageFormat::WebP => {
            walk_webp(bytes, header.width, header.height)?;
            exif_orientation(decoder.exif_metadata().map_err(failed)?.as_deref())
        }
        ImageFormat::Gif => {
            walk_gif(bytes)?;
            Orientation::NoTransforms
        }
        ImageFormat::Tiff => decoder.orientation().map_err(failed)?,
        _ => Orientation::NoTransforms,
    };
    limits.check_alloc(needed)?;
    // What is left is for buffers that only the decoder knows of, such as a GIF's frame larger than its canvas.
    let mut codec_limits = ::image::Limits::no_limits();
    codec_limits.max_alloc = Some(limits.max_alloc - needed + decoder.total_bytes());
    decoder.set_limits(codec_limits).map_err(failed)?;
    Ok((DynamicImage::from_decoder(decoder).map_err(failed)?, orientation))
}

/// Orientation in an EXIF block; upright where there is none. Some writers put JPEG's prefix before it in WebP and PNG.
fn exif_orientation(exif: Option<&[u8]>) -> Orientation {
    exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))
        .and_then(Orientation::from_exif_chunk)
        .unwrap_or(Orientation::NoTransforms)
}

/// To 8-bit RGB: grey tripled, 16 bits scaled, alpha composited.
fn into_rgb(picture: DynamicImage, format: &'static str, background: [u8; 3]) -> Result<RgbImage, ImageError> {
    let (width, height) = (picture.width(), picture.height());
    let rgb: Vec<u8> = match picture {
        DynamicImage::ImageRgb8(rgb) => return Ok(rgb),
        DynamicImage::ImageLuma8(grey) => grey.as_raw().iter().flat_map(|&y| [y; 3]).collect(),
        DynamicImage::ImageLuma16(grey) => grey.as_raw().iter().flat_map(|&y| [to_8_bits(y); 3]).collect(),
        DynamicImage::ImageRgb16(rgb) => rgb.as_raw().iter().map(|&x| to_8_bits(x)).collect(),
        DynamicImage::ImageLumaA8(grey) => grey.pixels().flat_map(|p| over([p[0]; 3], p[1], background)).collect(),
        DynamicImage::ImageLumaA16(grey) => grey.pixels().flat_map(|p| over([to_8_bits(p[0]); 3], to_8_bits(p[1]), background)).collect(),
        DynamicImage::ImageRgba8(rgba) => rgba.pixels().flat_map(|p| over([p[0], p[1], p[2]], p[3], background)).collect(),
        DynamicImage::ImageRgba16(rgba) => {
            rgba.pixels().flat_map(|p| over([to_8_bits(p[0]), to_8_bits(p[1]), to_8_bits(p[2])], to_8_bits(p[3]), background)).collect()
        }
        other => return Err(ImageError::UnsupportedFeature { format, feature: format!("samples are {:?}", other.color()) }),
    };
    Ok(RgbImage::from_raw(width, height, rgb).expect("three samples were made of each pixel"))
}

/// `round(x / 257)`: 0 stays 0 and 65,535 becomes 255.
fn to_8_bits(x: u16) -> u8 {
    ((u32::from(x) + 128) / 257) as u8
}

/// A pixel of opacity `alpha` over an opaque background: `round((s·α + b·(255 − α)) / 255)`; there are no ties.
fn over(pixel: [u8; 3], alpha: u8, background: [u8; 3]) -> [u8; 3] {
    let alpha = u32::from(alpha);
    std::array::from_fn(|c| ((u32::from(pixel[c]) * alpha + u32::from(background[c]) * (255 - alpha) + 127) / 255) as u8)
}

fn codec_error(error: CodecError, format: &'static str, limits: &Limits) -> ImageError {
    match error {
        CodecError::Limits(limit) if limit.kind() == LimitErrorKind::InsufficientMemory => {
            // The decoder says only that it wanted more than it was given.
            ImageError::TooMuchMemory { needed: limits.max_alloc.saturating_add(1), limit: limits.max_alloc }
        }
        CodecError::Unsupported(what) => ImageError::UnsupportedFeature { format, feature: what.to_string() },
        CodecError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => ImageError::Truncated { format },
        other => ImageError::Decode { format, source: Box::new(other) },
    }
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::Gif => "GIF",
        ImageFormat::WebP => "WebP",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Tiff => "TIFF",
        _ => "image", // `recognise` lets no other through
    }
}

/// Tells the format by the first bytes: one of the six that are read, or a name for the refusal.
fn recognise(bytes: &[u8]) -> Result<ImageFormat, ImageError> {
    const READ: [(&[u8], ImageFormat); 8] = [
        (b"\xFF\xD8\xFF", ImageFormat::Jpeg),
        (b"\x89PNG\r\n\x1A\n", ImageFormat::Png),
        (b"GIF87a", ImageFormat::Gif),
        (b"GIF89a", ImageFormat::Gif),
        (b"II*\0", ImageFormat::Tiff),
        (b"MM\0*", ImageFormat::Tiff),
        (b"II+\0", ImageFormat::Tiff), // BigTIFF
        (b"MM\0+", ImageFormat::Tiff),
    ];
    const NAMED: [(&[u8], &str); 15] = [
        (b"\x00\x00\x01\x00", "ICO"),
        (b"\x00\x00\x00\x0CjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xFF\x4F\xFF\x51", "JPEG 2000"),
        (b"\x00\x00\x00\x0CJXL \r\n\x87\n", "JPEG XL"),
        (b"\xFF\x0A", "JPEG XL"),
        (b"8BPS", "Photoshop"),
        (b"qoif", "QOI"),
        (b"DDS ", "DDS"),
        (b"\x76\x2F\x31\x01", "OpenEXR"),
        (b"#?RADIANCE", "Radiance HDR"),
        (b"%PDF", "PDF"),
        (b"<svg", "SVG"),
        (b"P5", "PNM"),
        (b"P6", "PNM"),
        (b"farbfeld", "farbfeld"),
    ];
    if let Some((_, format)) = READ.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Ok(*format);
    }
    // BMP's two letters alone would claim too much: its third field is the reserved zero.
    if bytes.starts_with(b"BM") && bytes.get(6..10) == Some(&[0; 4]) {
        return Ok(ImageFormat::Bmp);
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Ok(ImageFormat::WebP);
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        return match bytes.get(8..12) {
            Some(b"avif" | b"avis") => Err(ImageError::UnsupportedFormat("AVIF")),
            Some(b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"mif1" | b"msf1") => {
                Err(ImageError::UnsupportedFormat("HEIC"))
            }
            _ => Err(ImageError::UnknownFormat),
        };
    }
    match NAMED.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        Some((_, name)) => Err(ImageError::UnsupportedFormat(name)),
        None => Err(ImageError::UnknownFormat),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_are_scaled_to_the_nearest_of_eight() {
        for x in 0..=u16::MAX {
            assert_eq!(to_8_bits(x), (f64::from(x) / 257.0).round() as u8, "{x}");
        }
    }

    #[test]
    fn alpha_is_composited_to_the_nearest_level() {
        for alpha in 0..=255u8 {
            for s in 0..=255u8 {
                for b in [0u8, 1, 100, 254, 255] {
                    let exact = (f64::from(s) * f64::from(alpha) + f64::from(b) * (255.0 - f64::from(alpha))) / 255.0;
                    assert_eq!(over([s; 3], alpha, [b; 3]), [exact.round() as u8; 3], "{s} at {alpha} over {b}");
                }
            }
        }
    }

    #[test]
    fn a_panic_of_a_decoder_becomes_an_error() {
        let refused = without_panic::<()>("PNG", || panic!("row {} of 2", 7));
        assert_eq!(refused.unwrap_err().to_string(), "the PNG decoder failed on this image: row 7 of 2");
    }

    #[test]
    fn an_orientation_is_found_with_and_without_the_prefix_of_jpeg() {
        let block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let prefixed = [b"Exif\0\0".as_slice(), block].concat();
        assert_eq!(exif_orientation(Some(block)), Orientation::Rotate90);
        assert_eq!(exif_orientation(Some(&prefixed)), Orientation::Rotate90);
        assert_eq!(exif_orientation(Some(b"Exif\0\0broken")), Orientation::NoTransforms);
    }
}
