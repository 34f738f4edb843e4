//! A durable vector index: points go in, nearest neighbours come out, and what was acknowledged is still there after a crash.
//!
//! SQLite is the truth: ids, vectors and payloads live in one database file a collection, and a write returns only after
//! the transaction that holds it is on disk. Everything that makes search fast (the vectors in memory, the HNSW graph) is
//! derived from it and can be thrown away.
//!
//! ```text
//! store       a data folder: lock, catalogue of collections          truth    one collection's SQLite file
//! collection  the calls a user makes, from any thread                writer   the thread that commits, group by group
//! rows        vectors in memory, append-only                         search   planner, exact scan
//! graph       HNSW behind a builder seam; walk; audit                rebuild  the thread that builds graphs
//! ```
//!
//! Rooms that are not built yet, and where their doors are: a frozen, memory-mapped segment takes the place of
//! `graph::Index` (the seam is `graph::GraphBuilder`); filters become a bitmap that `search` hands to both of its paths,
//! where the set of excluded ids goes in today; a planner with costs replaces the choice at the top of `search::search`.
//!
//! The calls are synchronous, take `&self`, and block: an asynchronous program calls them from threads made for that.

#[allow(dead_code, reason = "the segments that use it are wired in next")]
mod build;
#[allow(dead_code, reason = "the segments that use it are wired in next")]
mod codes;
#[allow(dead_code, reason = "the segments that use it are wired in next")]
mod kernel;
#[allow(dead_code, reason = "the segments that use it are wired in next")]
mod large_pages;
#[allow(dead_code, unused_imports, reason = "the segments that use it are wired in next")]
mod segment;

mod collection;
mod config;
mod database;
mod distance;
mod error;
#[allow(dead_code, unused_imports, reason = "collections begin to call it in a later change")]
mod filter;
mod graph;
mod id;
#[allow(dead_code, unused_imports, reason = "collections begin to call it in a later change")]
mod payload;
mod point;
mod rebuild;
mod rows;
mod search;
mod state;
mod store;
mod truth;
mod vector;
mod writer;

pub use build::Builder;
pub use codes::Codes;
pub use collection::{Collection, CollectionInfo, VectorInfo};
pub use config::{CollectionConfig, HnswParams, VectorParams};
pub use database::FORMAT;
pub use distance::Distance;
pub use error::{Error, Result};
pub use filter::{
    Condition, Datetime, DatetimeRange, FieldBuilder, FieldCondition, Filter, GeoBoundingBox, GeoPoint, GeoPolygon, GeoRadius,
    MAX_CONDITIONS, MAX_DEPTH, MAX_LISTED, Match, MinShould, Number, Predicate, Range, Scalar, Slice, Values, ValuesCount,
};
pub use id::PointId;
pub use payload::{Direction, KeyPath, PayloadSchema, PayloadSelect, SchemaKind, StartFrom, Tokenizer, TokenizerKind};
pub use point::{Hit, Payload, Point, Record};
pub use search::SearchRequest;
pub use store::{Store, StoreOptions};
