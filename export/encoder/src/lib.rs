//! What an image encoder *is*: the one definition that training, export and serving share.
//!
//! - [`layers`], [`resnet`], [`head`], [`architecture`]: a network, described once over the [`layers::Layers`] trait.
//! - [`shapes`]: the interpreter of that description that lists parameters.

pub mod architecture;
pub mod head;
pub mod layers;
pub mod resnet;
pub mod shapes;

pub use architecture::Architecture;
pub use head::Head;
pub use layers::Layers;
pub use resnet::{Depth, ResNet, Stem};
pub use shapes::{Parameter, ParameterKind};
