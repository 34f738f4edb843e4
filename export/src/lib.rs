//! From `encoder.safetensors` to `model.onnx`, and the proof that both compute the same.
//!
//! - [`onnx`]: the model and its file; `graph` is the interpreter of the network's description that yields its nodes.
//! - [`parity`]: ONNX Runtime against the plain evaluator, before a model is put in place.
//! - [`pictures`]: what they are compared on.
//! - [`inspect`]: what a file of either kind says of itself.
//!
//! ONNX files are only written here. Reading one, for the check and for `inspect`, is ONNX Runtime's business: the
//! protobuf crate can be crashed by a hostile file, and nobody then needs to trust it.

mod error;
mod graph;
pub mod inspect;
pub mod onnx;
pub mod parity;
pub mod pictures;
mod replace;

pub use error::Error;
pub use inspect::{fingerprint, inspect, read_encoder};
pub use onnx::write_onnx;
pub use parity::{Parity, check_parity, export};
