//! PLACEHOLDER until the branch `images` lands: on a conflict take the version of `images` whole.
pub use ::image::RgbImage;
use serde::{Deserialize, Serialize};
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    Bilinear,
}
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    pub resize: u32,
    pub crop: u32,
    pub interpolation: Interpolation,
    pub background: [u8; 3],
    pub mean: [f32; 3],
    pub std: [f32; 3],
}
impl Preprocessing {
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
    pub fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}
