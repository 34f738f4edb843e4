//! Payloads: the paths that lead into them, and what is done at the end of a path.

mod key_path;
mod select;
mod text;

pub use key_path::KeyPath;
pub use select::PayloadSelect;
pub use text::{Tokenizer, TokenizerKind};
