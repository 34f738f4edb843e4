//! What a segment is made of: rows, and their vectors where they lie.

use std::sync::Arc;

use super::{FURTHER, Row};
use crate::distance::Distance;
use crate::id::PointId;
use crate::large_pages::LargePages;

/// Rows to make a segment of. All columns have one length.
#[derive(Debug)]
pub(crate) struct SegmentInput {
    pub(crate) distance: Distance,
    /// Dimensions.
    pub(crate) size: usize,
    /// Ascending.
    pub(crate) slots: Vec<u64>,
    pub(crate) points: Vec<u32>,
    pub(crate) ids: Vec<PointId>,
    /// As they are stored: finite; under Cosine of length one, or zero.
    pub(crate) vectors: RowVectors,
}

/// The vectors of rows.
#[derive(Debug)]
pub(crate) enum RowVectors {
    /// One behind the other.
    Copied(LargePages<f32>),
    /// In the blocks that a tail shares. Whatever is written or dies meanwhile, these stay as they are.
    Shared {
        blocks: Vec<Arc<Vec<f32>>>,
        /// By row, its block and the row's place in it.
        places: Vec<(u32, u32)>,
    },
}

impl SegmentInput {
    pub(super) fn check(&self) {
        let rows = self.slots.len();
        let whole = match &self.vectors {
            RowVectors::Copied(values) => values.len() == rows * self.size,
            RowVectors::Shared { places, .. } => places.len() == rows,
        };
        assert!(self.points.len() == rows && self.ids.len() == rows && whole, "all columns have one length");
        assert!(self.slots.is_sorted_by(|a, b| a < b), "slots ascend");
        assert!(rows < FURTHER as usize, "a segment holds fewer than 2^31 rows");
    }

    pub(crate) fn vector(&self, row: Row) -> &[f32] {
        let (values, place) = match &self.vectors {
            RowVectors::Copied(values) => (&**values, row as usize),
            RowVectors::Shared { blocks, places } => {
                let (block, place) = places[row as usize];
                (&**blocks[block as usize], place as usize)
            }
        };
        &values[place * self.size..][..self.size]
    }
}
