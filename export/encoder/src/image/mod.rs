//! From the bytes of a picture to the pixels that the network sees: the same code for training's evaluation
//! transforms, the exporter's checks and serving, so that the same file gives the same embedding everywhere.
//!
//! Two steps, each usable alone:
//! - [`decode`]: limits, header, pixels, orientation, background; any supported file becomes an 8-bit RGB picture.
//! - [`Preprocessing`]: shorter side resized, centre cut out; arithmetic is Pillow's and torchvision's.
//!
//! Subtracting the mean and dividing by the deviation is not done here: those are the first nodes of the graph.

mod container;
mod decode;
mod limits;
mod preprocess;

pub use ::image::RgbImage;

pub use self::{
    decode::{Header, decode, read_header},
    limits::{ImageError, Limits},
    preprocess::{Interpolation, Preprocessing, SourceBox, center_crop, crop, resize_crop, resize_exact, resize_shorter_side},
};
