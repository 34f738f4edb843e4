//! What moves pixels: cut, resize, turn, flip. One picture at a time, in Pillow's arithmetic.

use image::imageops;
use moco_encoder::image::{ImageError, RgbImage, resize_crop};

use super::{Augmentation, Draw};

impl Augmentation {
    /// Cuts the drawn view out of a picture: `size × size` pixels, values as they are in the picture.
    ///
    /// # Errors
    /// If the cut does not lie inside the picture: the draw was made for another.
    pub fn cut(&self, picture: &RgbImage, draw: &Draw) -> Result<RgbImage, ImageError> {
        let cut = draw.cut;
        let view = resize_crop(picture, (cut.left, cut.top, cut.width, cut.height), self.size, self.size)?;
        let mut view = match draw.quarter_turns {
            0 => view,
            1 => imageops::rotate90(&view),
            2 => imageops::rotate180(&view),
            _ => imageops::rotate270(&view),
        };
        if draw.flip {
            imageops::flip_horizontal_in_place(&mut view);
        }
        Ok(view)
    }
}
