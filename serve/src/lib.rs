//! Serves a model over HTTP: images become embeddings, and are searched.
//!
//! ```text
//! settings   flags, variables, TOML              server      bound, loaded, drained
//! inference  bytes in, vectors out, no HTTP      service     what the handlers share
//! api        routes and shapes of each family    page        the page at /ui
//! ```
//!
//! Two doors for an application that embeds this: [`Embedder`], which needs no HTTP, and [`configure`], which mounts the
//! whole API in another actix application. Vectors are kept by `moco-index`, pictures are prepared by `moco-encoder`, the
//! model is run by `moco-runtime`; what is here is the way between them.
//!
//! Rooms that are not built yet: roles and remote vector engines stand behind [`Service`]'s store; KServe's routes are a
//! module beside `api::openai`; a text tower is a second model in [`inference`].

mod api;
pub mod health;
pub mod inference;
pub mod page;
pub mod server;
mod service;
pub mod settings;

pub use api::configure;
pub use inference::{EmbedError, Embedder, EmbedderOptions, ImageSource};
pub use service::{RequestLimits, Service};
