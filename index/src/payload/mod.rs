//! Payloads: the paths that lead into them, what is done at the end of a path, and the indexes of what stands there.
//!
//! ```text
//! key_path   `a[].b`: select, merge, delete        select       the parts of a payload that an answer holds
//! indexes    the indexes of a collection           field_index  the index of one key
//! schema     what an index is made for             answer       what indexes know of a condition
//! sorted     values in order                       dictionary   values that are equal or not
//! places     a curve through the globe             text         tokens
//! ```

mod answer;
mod dictionary;
mod field_index;
mod indexes;
mod key_path;
mod places;
mod schema;
mod select;
mod sorted;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use field_index::FieldIndex;
pub use field_index::{Direction, StartFrom};
pub(crate) use indexes::{PayloadIndexes, Points, Resolved};
pub use key_path::KeyPath;
pub use schema::{PayloadSchema, SchemaKind};
pub use select::PayloadSelect;
pub use text::{Tokenizer, TokenizerKind};
