//! Momentum Contrast on libtorch: an image encoder learns from pictures without labels.
//!
//! - [`data`]: where pictures come from; [`augmentation`]: what one becomes before the network sees it; [`loader`]:
//!   batches of pairs, made on threads.
//! - [`network`]: weights in flat buffers, and the forward pass over the description in `moco-encoder`.
//! - [`moco`]: the method, one step at a time.
//! - [`optimiser`]: what a gradient does to the weights.
//! - [`recipe`]: everything that decides a run, as a value; [`schedule`]: its learning rate.
//! - [`pretrain`]: the loop, and the run folder that it leaves; [`device`]: the CPU, or a GPU.
//! - [`knn`]: how good an encoder is, told by labels it never saw.
//! - [`random`]: numbers that belong to what they are drawn for.

pub mod augmentation;
pub mod data;
pub mod device;
pub mod knn;
pub mod loader;
pub mod moco;
pub mod network;
pub mod optimiser;
pub mod pretrain;
pub mod random;
pub mod recipe;
pub mod schedule;
