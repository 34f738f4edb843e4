//! What a picture may cost, and why one is refused.
//!
//! A file of a few hundred bytes can claim thousands of millions of pixels, so each limit is checked as soon as it can
//! be: the bytes before anything is read, sides and pixels and memory after the header and before any pixel.

use std::error::Error;

const MIB: u64 = 1024 * 1024;

/// What decoding one picture may cost. Each limit may be reached and not passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Length of the file in bytes. Raise it for uncompressed scans.
    pub max_bytes: usize,
    /// Width times height as the header states them. Raise it for cameras above 40 megapixels.
    pub max_pixels: u64,
    /// Longest side in pixels.
    pub max_side: u32,
    /// Memory in bytes that decoding may take: the decoder's own buffers, its output and the RGB picture made of it.
    /// The default lets any picture of 40 million pixels through, progressive JPEG and 16-bit RGBA among them, but the
    /// CMYK TIFF of 16 bits.
    pub max_alloc: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 20 * MIB as usize, max_pixels: 40_000_000, max_side: 16_384, max_alloc: 512 * MIB }
    }
}

impl Limits {
    /// Checks the length of a file, before a byte of it is read.
    pub(super) fn check_bytes(&self, bytes: &[u8]) -> Result<(), ImageError> {
        if bytes.is_empty() {
            return Err(ImageError::Empty);
        }
        if bytes.len() > self.max_bytes {
            return Err(ImageError::TooManyBytes { actual: bytes.len(), limit: self.max_bytes });
        }
        Ok(())
    }

    /// Checks what a header claims, before room is made for it.
    pub(super) fn check_sides(&self, width: u32, height: u32) -> Result<(), ImageError> {
        if width > self.max_side || height > self.max_side {
            return Err(ImageError::TooLarge { width, height, limit: self.max_side });
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(ImageError::TooManyPixels { width, height, limit: self.max_pixels });
        }
        Ok(())
    }

    /// Checks the memory that decoding is going to need.
    pub(super) fn check_alloc(&self, needed: u64) -> Result<(), ImageError> {
        if needed > self.max_alloc {
            return Err(ImageError::TooMuchMemory { needed, limit: self.max_alloc });
        }
        Ok(())
    }
}

/// Why a picture is refused. The fields are for programs, the sentence is for people, [`code`](Self::code) is for clients.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    #[error("the image is empty: 0 bytes")]
    Empty,
    #[error("the image has {actual} bytes; the limit is {limit}")]
    TooManyBytes { actual: usize, limit: usize },
    #[error("the bytes are not an image in a known format (JPEG, PNG, GIF, WebP, BMP and TIFF are read)")]
    UnknownFormat,
    #[error("{0} images are not supported (JPEG, PNG, GIF, WebP, BMP and TIFF are)")]
    UnsupportedFormat(&'static str),
    #[error("this kind of {format} image is not supported: {feature}")]
    UnsupportedFeature { format: &'static str, feature: String },
    #[error("the image is {width}×{height} pixels; no side may be longer than {limit}")]
    TooLarge { width: u32, height: u32, limit: u32 },
    #[error("the image is {width}×{height}, {} pixels; the limit is {limit}", u64::from(*width) * u64::from(*height))]
    TooManyPixels { width: u32, height: u32, limit: u64 },
    #[error("decoding the image takes {needed} bytes of memory; the limit is {limit}")]
    TooMuchMemory { needed: u64, limit: u64 },
    #[error("the {format} image is cut short")]
    Truncated { format: &'static str },
    #[error("the {format} image cannot be decoded: {source}")]
    Decode {
        format: &'static str,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A defect of the decoder, met by this file. The process goes on.
    #[error("the {format} decoder failed on this image: {message}")]
    DecoderPanicked { format: &'static str, message: String },
    /// The box of a crop or of a resize does not lie inside the picture, or is empty.
    #[error("the crop {width}×{height} at ({left}, {top}) does not fit a picture of {image_width}×{image_height}")]
    CropOutside { left: f64, top: f64, width: f64, height: f64, image_width: u32, image_height: u32 },
    /// A resize to nothing, or to more pixels than any picture may have.
    #[error("a picture cannot be resized to {width}×{height}")]
    BadSize { width: u64, height: u64 },
    #[error("the preprocessing is not valid: {0}")]
    Preprocessing(String),
}

impl ImageError {
    /// A word that stays the same from version to version, for clients to match on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "image_empty",
            Self::TooManyBytes { .. } => "image_too_many_bytes",
            Self::UnknownFormat => "image_format_unknown",
            Self::UnsupportedFormat(_) => "image_format_unsupported",
            Self::UnsupportedFeature { .. } => "image_feature_unsupported",
            Self::TooLarge { .. } => "image_too_large",
            Self::TooManyPixels { .. } => "image_too_many_pixels",
            Self::TooMuchMemory { .. } => "image_too_much_memory",
            Self::Truncated { .. } => "image_truncated",
            Self::Decode { .. } => "image_not_decodable",
            Self::DecoderPanicked { .. } => "image_decoder_failed",
            Self::CropOutside { .. } => "crop_outside_image",
            Self::BadSize { .. } => "bad_size",
            Self::Preprocessing(_) => "preprocessing_invalid",
        }
    }

    /// Whether the picture passes a limit of this installation, rather than being broken or of a foreign kind.
    pub fn is_limit(&self) -> bool {
        matches!(self, Self::TooManyBytes { .. } | Self::TooLarge { .. } | Self::TooManyPixels { .. } | Self::TooMuchMemory { .. })
    }
}
