//! Bytes of pictures in, vectors out, without HTTP.
//!
//! ```text
//! admission ──► decode ──► queue ──► worker ──► answer
//! a permit      CPU        batches   one OS thread owns one session
//! ```
//!
//! A picture is decoded and prepared before it is queued, so that a bad one fails alone and never inside a batch. Whatever
//! waits is dropped when the one who asked for it has left.

pub(crate) mod admission;
mod decode;
mod embedder;
mod model;
mod plan;
mod queue;
mod reply;
mod source;
mod worker;

pub use admission::Busy;
pub use embedder::{EmbedError, Embedder, EmbedderOptions, Outcome};
pub use model::{Model, ModelError};
pub use plan::{Plan, ThreadOptions};
pub use source::ImageSource;
