//! Another view of a picture: what a second photograph of the same thing might show.
//!
//! A part of the picture is cut out, turned and mirrored, and becomes a file of its own, as a client would send it. Where it is cut and how
//! it is turned follows from the picture's name alone, so that every row of a table and every run asks the same questions.

use std::io::Cursor;

use anyhow::Context as _;
use image::{ImageFormat, imageops};
use moco_encoder::image::{Limits, RgbImage, crop, decode};
use sha2::{Digest as _, Sha256};

/// Share of the picture's area that is cut out.
const AREA: f64 = 0.5;

/// How a picture is seen a second time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Where the cut lies between left and right, top and bottom, 0 to 1.
    place: (f64, f64),
    /// Quarter turns to the right, 0 to 3.
    turns: u8,
    mirrored: bool,
}

/// Which orientations a picture may be seen in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientations {
    /// Four quarter turns, mirrored or not: a microscope has no upside.
    Eight,
    /// Mirrored or not.
    Upright,
}

impl View {
    /// The other view of the picture of this name.
    pub fn of(name: &str, orientations: Orientations) -> Self {
        let draws = Sha256::digest(format!("another view of {name}"));
        let part = |at: usize| f64::from(u16::from_be_bytes([draws[at], draws[at + 1]])) / f64::from(u16::MAX);
        let turns = match orientations {
            Orientations::Eight => draws[4] % 4,
            Orientations::Upright => 0,
        };
        Self { place: (part(0), part(2)), turns, mirrored: draws[5] % 2 == 1 }
    }

    pub fn apply(&self, picture: &RgbImage) -> anyhow::Result<RgbImage> {
        let (width, height) = picture.dimensions();
        let cut = |side: u32| ((f64::from(side) * AREA.sqrt()).round() as u32).clamp(1, side);
        let start = |side: u32, place: f64| (f64::from(side - cut(side)) * place).round() as u32;
        let mut view = crop(picture, start(width, self.place.0), start(height, self.place.1), cut(width), cut(height))?;
        view = match self.turns {
            0 => view,
            1 => imageops::rotate90(&view),
            2 => imageops::rotate180(&view),
            _ => imageops::rotate270(&view),
        };
        Ok(if self.mirrored { imageops::flip_horizontal(&view) } else { view })
    }

    /// The view as a PNG file of the picture in `file`.
    pub fn png(&self, file: &[u8]) -> anyhow::Result<Vec<u8>> {
        png(&self.apply(&decode(file, &Limits::default(), [255; 3])?)?)
    }
}

/// A picture as a PNG file.
pub fn png(picture: &RgbImage) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).context("writing a picture as PNG")?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// A picture whose every pixel is another.
    fn picture() -> RgbImage {
        RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8, y as u8, 7]))
    }

    #[test]
    fn a_view_follows_from_the_name_and_shows_a_part_of_the_picture() {
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let view = View::of(name, Orientations::Eight);
            assert_eq!(view, View::of(name, Orientations::Eight));
            let seen = view.apply(&picture()).unwrap();
            let (width, height) = seen.dimensions();
            assert!([(28, 21), (21, 28)].contains(&(width, height)), "{width}×{height}");
            let pixels: HashSet<_> = seen.pixels().collect();
            assert_eq!(pixels.len(), 28 * 21, "each pixel is one of the picture's, and none comes twice");
        }
    }

    #[test]
    fn all_eight_orientations_occur_and_upright_ones_only_mirror() {
        let seen = |orientations| {
            let views = (0..200).map(|name| View::of(&name.to_string(), orientations));
            views.map(|view| (view.turns, view.mirrored)).collect::<HashSet<_>>()
        };
        assert_eq!(seen(Orientations::Eight).len(), 8);
        assert_eq!(seen(Orientations::Upright), HashSet::from([(0, false), (0, true)]));
    }

    #[test]
    fn a_picture_of_one_pixel_has_a_view() {
        let view = View::of("dot", Orientations::Eight).apply(&RgbImage::new(1, 1)).unwrap();
        assert_eq!(view.dimensions(), (1, 1));
    }

    #[test]
    fn a_view_travels_as_a_file() {
        let view = View::of("a", Orientations::Upright);
        let file = view.png(&png(&picture()).unwrap()).unwrap();
        assert_eq!(decode(&file, &Limits::default(), [0; 3]).unwrap(), view.apply(&picture()).unwrap());
    }
}
