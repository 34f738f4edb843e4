//! What an image encoder *is*: the one definition that training, export and serving share.
//!
//! - [`layers`], [`resnet`], [`head`], [`architecture`]: a network, described once over the [`layers::Layers`] trait.
//! - [`shapes`] and [`plain`]: two of its four interpreters, the one that lists parameters and the reference evaluator.
//!   The other two live where their engines are: libtorch in `train`, ONNX nodes in `export`.
//! - [`manifest`] and [`weights`]: what an encoder says of itself, and the file that holds it.
//! - [`image`]: from the bytes of a picture to the pixels that the network sees.

pub mod architecture;
pub mod head;
pub mod image;
pub mod layers;
pub mod manifest;
pub mod plain;
pub mod resnet;
pub mod shapes;
pub mod weights;

pub use architecture::Architecture;
pub use head::Head;
pub use layers::Layers;
pub use manifest::{Manifest, Output, Provenance};
pub use plain::PlainEvaluator;
pub use resnet::{Depth, ResNet, Stem};
pub use shapes::{Parameter, ParameterKind};
pub use weights::{Encoder, Tensor};
