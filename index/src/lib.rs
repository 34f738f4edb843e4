//! A durable vector index: points go in, nearest neighbours come out, and what was acknowledged is still there after a crash.
//!
//! SQLite is the truth: ids, vectors and payloads live in one database file a collection, and a write returns only after
//! the transaction that holds it is on disk. Everything that makes search fast (the vectors in memory, the HNSW graph) is
//! derived from it and can be thrown away.
//!
//! ```text
//! store       a data folder: lock, catalogue of collections          truth    one collection's SQLite file
//! collection  the calls a user makes, from any thread                writer   the thread that commits, group by group
//! operation   what can be written, as values                         builder  the thread that builds segments
//! tail        vectors no segment holds yet, flat, in memory          segment  frozen, mapped files: a graph and its vectors
//! search      planner, merge                                         build    who makes the links of a graph
//! filter      which points are wanted; key paths                     kernel   distances, by instruction set
//! payload     indexes over payloads                                  sets     what filters are answered from
//! ```
//!
//! The calls are synchronous, take `&self`, and block: an asynchronous program calls them from threads made for that.

mod background;
mod build;
mod builder;
mod codes;
mod collection;
mod config;
mod database;
mod distance;
mod error;
mod filter;
mod id;
mod kernel;
mod large_pages;
#[cfg(feature = "measure")]
#[doc(hidden)]
pub mod measure;
mod operation;
mod passing;
mod payload;
mod plain_bits;
mod point;
#[cfg(test)]
mod schedules;
mod search;
mod segment;
mod sets;
mod state;
mod store;
mod sync;
mod tail;
mod truth;
mod unique_json;
mod vector;
mod vector_index;
mod writer;

pub use build::Builder;
pub use codes::Codes;
pub use collection::{
    Collection, CollectionInfo, Example, Group, Lookup, OrderBy, Recommend, SegmentInfo, Strategy, VectorInfo, VectorReport, VerifyReport,
};
pub use config::{CollectionConfig, HnswParams, VectorParams};
pub use database::FORMAT;
pub use distance::Distance;
pub use error::{Error, Result};
pub use filter::{
    Condition, Datetime, DatetimeRange, FieldBuilder, FieldCondition, Filter, GeoBoundingBox, GeoPoint, GeoPolygon, GeoRadius,
    MAX_CONDITIONS, MAX_DEPTH, MAX_LISTED, Match, MinShould, Number, Predicate, Range, Scalar, Slice, Values, ValuesCount,
};
pub use id::PointId;
pub use operation::{Ack, Operation, Selector, UpsertMode};
pub use payload::{Direction, KeyPath, PayloadSchema, PayloadSelect, SchemaKind, StartFrom, Tokenizer, TokenizerKind};
pub use point::{Hit, Payload, Point, Record};
pub use search::SearchRequest;
pub use segment::{FORMAT as SEGMENT_FORMAT, SegmentStats, Verify};
pub use store::{AliasAction, SnapshotManifest, Store, StoreOptions};
pub use unique_json::{UniqueJson, UniquePayload};
