//! One graph without the store around it, for `benches/graph.rs`. Compiled with the feature `measure` only, and no part of
//! the interface: it may change with any version.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::build::Builder;
use crate::codes::Codes;
use crate::distance::Distance;
use crate::error::Result;
use crate::id::PointId;
use crate::kernel::Kernel;
use crate::large_pages::LargePages;
use crate::segment::{self, AcceptedRows, Row, RowVectors, Scored, Segment, SegmentInput, SegmentParams, SegmentStats, Stamp, Verify};

/// The kernel that compares: `avx512`, `avx2`, `neon` or `portable`.
#[must_use]
pub fn kernel() -> &'static str {
    Kernel::get().name()
}

/// Vectors to build graphs over.
#[derive(Debug)]
pub struct Rows(SegmentInput);

impl Rows {
    /// `vectors`: rows × `size` dimensions, finite; under Cosine of length one.
    #[must_use]
    pub fn new(distance: Distance, size: usize, vectors: &[f32]) -> Self {
        let rows = (vectors.len() / size) as u32;
        Self(SegmentInput {
            distance,
            size,
            slots: (0..u64::from(rows)).collect(),
            points: (0..rows).collect(),
            ids: (0..u64::from(rows)).map(PointId::Num).collect(),
            vectors: RowVectors::Copied(LargePages::of(vectors)),
        })
    }
}

/// How a graph is built.
#[derive(Clone, Copy, Debug)]
pub struct GraphParams {
    /// Who makes the links.
    pub builder: Builder,
    /// What a walk compares.
    pub codes: Codes,
    /// Links of a node on the upper layers.
    pub m: usize,
    /// Candidates kept while building.
    pub ef_construction: usize,
    /// Threads that build.
    pub threads: usize,
    /// Of the levels that nodes draw.
    pub seed: u64,
}

/// A segment's file, written.
#[derive(Debug)]
pub struct Written(Stamp);

/// Rows that may be answered.
#[derive(Debug)]
pub struct Accepted(AcceptedRows);

impl FromIterator<u32> for Accepted {
    fn from_iter<T: IntoIterator<Item = u32>>(rows: T) -> Self {
        Self(rows.into_iter().collect())
    }
}

/// A segment, open.
#[derive(Debug)]
pub struct Graph(Segment);

impl Graph {
    /// Builds a graph over `rows` and writes it to `path`.
    ///
    /// # Errors
    /// If it cannot be built or written.
    pub fn write(path: &Path, rows: &Rows, params: &GraphParams) -> Result<Written> {
        let GraphParams { builder, codes, m, ef_construction, threads, seed } = *params;
        let params = SegmentParams { m, ef_construction, codes, builder, threads, seed };
        let summary = segment::write(path, &rows.0, &params, &AtomicBool::new(false))?;
        Ok(Written(summary.expect("nobody cancels it").stamp))
    }

    /// Maps what was written, checking its links and the hashes of all but rows and codes.
    ///
    /// # Errors
    /// If it cannot be read, or is not what was written.
    pub fn open(path: &Path, written: &Written) -> Result<Self> {
        Segment::open(path, &written.0, Verify::Eager).map(Self)
    }

    /// Copies what walks read to large pages.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn load(&self) -> Result<()> {
        self.0.load()
    }

    /// Sizes of it.
    #[must_use]
    pub fn stats(&self) -> SegmentStats {
        self.0.stats()
    }

    /// The `want` nearest of `query` that a walk with `ef` finds, nearest first; `budget`: codes it may compare. `None` if that
    /// was not enough.
    #[must_use]
    pub fn walk(&self, query: &[f32], ef: usize, want: usize, accepted: Option<&Accepted>, budget: usize) -> Option<Vec<u32>> {
        self.0.walk(query, ef, want, accepted.map(|accepted| &accepted.0), budget).map(rows)
    }

    /// The `want` nearest of `query`, nearest first.
    #[must_use]
    pub fn scan(&self, query: &[f32], want: usize, accepted: Option<&Accepted>) -> Vec<u32> {
        rows(self.0.scan(query, want, accepted.map(|accepted| &*accepted.0)))
    }
}

fn rows(found: Vec<Scored>) -> Vec<Row> {
    found.into_iter().map(|scored| scored.row).collect()
}
