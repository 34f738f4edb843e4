//! The seam between a search and what it looks in: a segment compared row by row, or walked through.
//!
//! Both keep one contract, which `tests.rs` runs over them and over whole searches (tails, several segments, dead rows).

use crate::search::nearest_of_segment;
use crate::segment::{AcceptedRows, Scored, Segment};

/// Rows that can be asked which of them are nearest.
pub(crate) trait VectorIndex {
    /// The `wanted` nearest rows among those in `accept` (all, if `None`), with their nearness: larger is nearer, bit for bit
    /// that of the full rows. The nearest first, ties by id, never fewer than there are. It means nothing if there is
    /// [`Segment::damage`] afterwards.
    fn nearest(&self, query: &[f32], wanted: usize, accept: Option<&AcceptedRows>) -> Vec<Scored>;
}

/// Compares with every accepted row: exact.
pub(crate) struct Flat<'a>(pub(crate) &'a Segment);

impl VectorIndex for Flat<'_> {
    fn nearest(&self, query: &[f32], wanted: usize, accept: Option<&AcceptedRows>) -> Vec<Scored> {
        nearest_of_segment(self.0, accept, query, wanted, None)
    }
}

/// Walks through the graph with `ef` candidates; where that would cost more than a scan, or falls short, it scans.
pub(crate) struct Frozen<'a> {
    pub(crate) segment: &'a Segment,
    pub(crate) ef: usize,
}

impl VectorIndex for Frozen<'_> {
    fn nearest(&self, query: &[f32], wanted: usize, accept: Option<&AcceptedRows>) -> Vec<Scored> {
        nearest_of_segment(self.segment, accept, query, wanted, Some(self.ef))
    }
}

#[cfg(test)]
mod tests;
