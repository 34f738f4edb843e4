//! The outer structure of a file, walked without decoding a pixel.
//!
//! The decoders are lenient where a service must not be: they fill the missing rest of a cut JPEG with grey, take a PNG
//! without its end, and look for a WebP frame's size after the canvas has been checked. A walk from marker to marker (or
//! chunk to chunk) costs a few hundred steps and finds a cut file whatever the decoder would have made of it.

use ::image::ImageFormat;

use super::ImageError;

/// Whether the file is whole and of a kind that is read, as far as its structure tells. BMP and TIFF have none that could be
/// walked: their decoders say so themselves when bytes are missing.
pub(super) fn walk(bytes: &[u8], format: ImageFormat) -> Result<(), ImageError> {
    match format {
        ImageFormat::Jpeg => walk_jpeg(bytes).map(drop),
        ImageFormat::Png => walk_png(bytes).map(drop),
        ImageFormat::WebP => walk_webp(bytes, u32::MAX, u32::MAX),
        ImageFormat::Gif => walk_gif(bytes),
        _ => Ok(()),
    }
}

/// What the walk over a JPEG has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JpegStructure {
    /// Coefficients of the whole picture are kept until the last scan (SOF2).
    pub(super) progressive: bool,
}

/// Walks the segments of a JPEG from SOI to EOI. Bytes after EOI are allowed: cameras append previews there.
pub(super) fn walk_jpeg(bytes: &[u8]) -> Result<JpegStructure, ImageError> {
    const TRUNCATED: ImageError = ImageError::Truncated { format: "JPEG" };
    let mut progressive = false;
    let mut at = 2; // behind SOI, by which the file was recognised
    loop {
        // The next marker: 0xFF and neither 0x00 (a stuffed 0xFF of the entropy-coded data) nor another 0xFF (filling).
        let marker = loop {
            let rest = bytes.get(at..).ok_or(TRUNCATED)?;
            let step = rest.iter().position(|&b| b == 0xFF).ok_or(TRUNCATED)?;
            match *rest.get(step + 1).ok_or(TRUNCATED)? {
                0x00 => at += step + 2,
                0xFF => at += step + 1,
                marker => {
                    at += step + 2;
                    break marker;
                }
            }
        };
        match marker {
            0xD9 => return Ok(JpegStructure { progressive }), // EOI
            0x01 | 0xD0..=0xD8 => continue,                   // TEM, RST0 to RST7, SOI: no length
            0xC2 => progressive = true,
            0xC3 => return Err(unsupported_jpeg("lossless coding")),
            0xC5..=0xC7 => return Err(unsupported_jpeg("hierarchical coding")),
            0xC9..=0xCB | 0xCD..=0xCF => return Err(unsupported_jpeg("arithmetic coding")),
            _ => {}
        }
        let length = bytes.get(at..at + 2).ok_or(TRUNCATED)?;
        at += usize::from(u16::from_be_bytes([length[0], length[1]]));
    }
}

fn unsupported_jpeg(feature: &str) -> ImageError {
    ImageError::UnsupportedFeature { format: "JPEG", feature: feature.to_owned() }
}

/// Walks the chunks of a PNG to IEND and returns the content of its `eXIf` chunk, which may stand behind the pixels.
pub(super) fn walk_png(bytes: &[u8]) -> Result<Option<&[u8]>, ImageError> {
    const TRUNCATED: ImageError = ImageError::Truncated { format: "PNG" };
    let mut exif = None;
    let mut at = 8; // behind the signature
    loop {
        let head: &[u8; 8] = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(TRUNCATED)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let content = bytes.get(at + 8..).and_then(|rest| rest.get(..length)).ok_or(TRUNCATED)?;
        at += 8 + length + 4; // the checksum is the decoder's to test
        if at > bytes.len() {
            return Err(TRUNCATED);
        }
        match &head[4..] {
            b"IEND" => return Ok(exif),
            b"eXIf" => exif = Some(content),
            _ => {}
        }
    }
}

/// Walks the chunks of a WebP: none may be cut, and no frame may be larger than the canvas that was checked.
pub(super) fn walk_webp(bytes: &[u8], width: u32, height: u32) -> Result<(), ImageError> {
    const TRUNCATED: ImageError = ImageError::Truncated { format: "WebP" };
    let u32_at = |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|b| u32::from_le_bytes(*b) as usize);
    let end = 8 + u32_at(4).ok_or(TRUNCATED)?;
    if end > bytes.len() {
        return Err(TRUNCATED);
    }
    walk_webp_chunks(&bytes[..end], 12, width, height)
}

fn walk_webp_chunks(bytes: &[u8], mut at: usize, width: u32, height: u32) -> Result<(), ImageError> {
    const TRUNCATED: ImageError = ImageError::Truncated { format: "WebP" };
    while at < bytes.len() {
        let head: &[u8; 8] = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(TRUNCATED)?;
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let content = bytes.get(at + 8..).and_then(|rest| rest.get(..length)).ok_or(TRUNCATED)?;
        let frame = match &head[..4] {
            // Ten bytes: a tag of three, the start code, then 14 bits a side (RFC 9649, section 2.5 and RFC 6386, 9.1).
            b"VP8 " => content.first_chunk().map(|[_, _, _, _, _, _, a, b, c, d]: &[u8; 10]| {
                (u32::from(u16::from_le_bytes([*a, *b]) & 0x3FFF), u32::from(u16::from_le_bytes([*c, *d]) & 0x3FFF))
            }),
            // A signature byte, then 14 bits a side, less one (RFC 9649, section 3.4).
            b"VP8L" => content.first_chunk().map(|[_, rest @ ..]: &[u8; 5]| {
                let bits = u32::from_le_bytes(*rest);
                ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
            }),
            b"ANMF" => {
                walk_webp_chunks(content, 16, width, height)?;
                content.get(6..12).map(|s| (u32::from_le_bytes([s[0], s[1], s[2], 0]) + 1, u32::from_le_bytes([s[3], s[4], s[5], 0]) + 1))
            }
            _ => Some((0, 0)),
        };
        let (frame_width, frame_height) = frame.ok_or(TRUNCATED)?;
        if frame_width > width || frame_height > height {
            let source = format!("a frame of {frame_width}×{frame_height} on a canvas of {width}×{height}").into();
            return Err(ImageError::Decode { format: "WebP", source });
        }
        at += 8 + length + length % 2;
    }
    Ok(())
}

/// Walks the blocks of a GIF to its trailer.
pub(super) fn walk_gif(bytes: &[u8]) -> Result<(), ImageError> {
    const TRUNCATED: ImageError = ImageError::Truncated { format: "GIF" };
    let byte = |at: usize| bytes.get(at).copied().ok_or(TRUNCATED);
    let palette = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + palette(byte(10)?); // behind signature, logical screen and its palette
    loop {
        match byte(at)? {
            0x3B => return Ok(()),                         // trailer
            0x21 => at += 2,                               // extension and its label
            0x2C => at += 10 + palette(byte(at + 9)?) + 1, // image, its palette, and the width of its first codes
            _ => return Ok(()),                            // no block that GIF knows: what follows is the decoder's to judge
        }
        loop {
            let length = byte(at)?;
            at += 1 + usize::from(length);
            if length == 0 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jpeg_without_its_end_is_cut_short() {
        let jpeg = [0xFF, 0xD8, 0xFF, 0xC2, 0, 4, 1, 2, 0xFF, 0xDA, 0, 2, 7, 0xFF, 0, 8, 0xFF, 0xD3, 9, 0xFF, 0xFF, 0xD9, 5];
        assert_eq!(walk_jpeg(&jpeg).unwrap(), JpegStructure { progressive: true });
        for end in 2..jpeg.len() - 1 {
            assert!(matches!(walk_jpeg(&jpeg[..end]), Err(ImageError::Truncated { .. })), "cut at {end}");
        }
    }

    #[test]
    fn an_end_marker_inside_a_segment_is_not_the_end() {
        let thumbnail = [0xFF, 0xD8, 0xFF, 0xE1, 0, 6, 0xFF, 0xD8, 0xFF, 0xD9];
        assert!(matches!(walk_jpeg(&thumbnail), Err(ImageError::Truncated { .. })));
    }

    #[test]
    fn codings_that_are_not_read_are_named() {
        for (marker, word) in [(0xC3, "lossless"), (0xC6, "hierarchical"), (0xC9, "arithmetic")] {
            let error = walk_jpeg(&[0xFF, 0xD8, 0xFF, marker, 0, 2, 0xFF, 0xD9]).unwrap_err();
            assert_eq!(error.to_string(), format!("this kind of JPEG image is not supported: {word} coding"));
        }
    }

    #[test]
    fn a_gif_without_its_trailer_is_cut_short() {
        // A screen with a palette of two, an extension, and an image with a palette of its own.
        let mut gif = b"GIF89a\x01\0\x01\0\x80\0\0------\x21\xF9\x04\0\0\0\0\0".to_vec();
        gif.extend_from_slice(b"\x2C\0\0\0\0\x01\0\x01\0\x81------------\x02\x02\x4C\x01\0\x3B");
        walk_gif(&gif).unwrap();
        for end in 0..gif.len() {
            assert!(matches!(walk_gif(&gif[..end]), Err(ImageError::Truncated { .. })), "cut at {end}");
        }
    }

    #[test]
    fn a_webp_frame_larger_than_its_canvas_is_refused() {
        let mut webp = b"RIFF\x12\0\0\0WEBPVP8L\x05\0\0\0\x2F\0\0\0\0\0".to_vec();
        assert!(walk_webp(&webp, 1, 1).is_ok());
        webp[21..25].copy_from_slice(&(8u32 | 4 << 14).to_le_bytes()); // 9×5
        assert!(walk_webp(&webp, 9, 5).is_ok());
        assert!(matches!(walk_webp(&webp, 8, 5), Err(ImageError::Decode { .. })));
        assert!(matches!(walk_webp(&webp, 9, 4), Err(ImageError::Decode { .. })));
    }
}
