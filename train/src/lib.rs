//! Momentum Contrast on libtorch: an image encoder learns from pictures without labels.
//!
//! - [`network`]: weights in flat buffers, and the forward pass over the description in `moco-encoder`.
//! - [`moco`]: the method, one step at a time.
//! - [`optimiser`]: what a gradient does to the weights.

pub mod moco;
pub mod network;
pub mod optimiser;
