//! The vectors of one name, in memory: rows are appended and declared dead, never changed and never moved.
//!
//! Rows lie in blocks behind `Arc`s. A search clones one `Arc` and reads on while the writer appends: the writer copies
//! only a block that a reader still looks at (at most [`BLOCK`] rows). A block whose rows are all dead is emptied.
//! First version: f32, resident. The frozen segment maps them from disk instead.

use std::sync::Arc;

use crate::id::PointId;

/// Rows in a block.
pub(crate) const BLOCK: usize = 1024;

/// Index of a row. Rows of dead points are counted too.
pub(crate) type Row = u32;

/// What a search wants to know of a row besides its vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Owner {
    pub(crate) id: PointId,
    pub(crate) slot: u64,
}

#[derive(Clone, Default)]
struct Block {
    vectors: Arc<Vec<f32>>,
    owners: Arc<Vec<Owner>>,
    live: [u64; BLOCK / 64],
    live_rows: usize,
}

#[derive(Clone)]
pub(crate) struct Rows {
    size: usize,
    len: usize,
    live: usize,
    blocks: Vec<Block>,
}

impl Rows {
    pub(crate) fn new(size: usize) -> Self {
        Self { size, len: 0, live: 0, blocks: Vec::new() }
    }

    /// Rows ever appended.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn append(&mut self, vector: &[f32], owner: Owner) -> Row {
        assert_eq!(vector.len(), self.size, "vectors are checked before they are written");
        let row = Row::try_from(self.len).expect("a collection holds fewer than 2^32 rows");
        let place = self.len % BLOCK;
        if place == 0 {
            self.blocks.push(Block::default());
        }
        let block = self.blocks.last_mut().expect("a block was just made");
        if block.owners.len() < place {
            // The open block was emptied: its dead rows keep their places.
            let (mut vectors, mut owners) = (vec![0.0; place * self.size], Vec::with_capacity(BLOCK));
            owners.resize(place, owner);
            vectors.reserve(self.size);
            (block.vectors, block.owners) = (Arc::new(vectors), Arc::new(owners));
        }
        Arc::make_mut(&mut block.vectors).extend_from_slice(vector);
        Arc::make_mut(&mut block.owners).push(owner);
        block.live[place / 64] |= 1 << (place % 64);
        block.live_rows += 1;
        self.len += 1;
        self.live += 1;
        row
    }

    pub(crate) fn kill(&mut self, row: Row) {
        let (index, place) = (row as usize / BLOCK, row as usize % BLOCK);
        let block = &mut self.blocks[index];
        let bit = 1 << (place % 64);
        assert!(block.live[place / 64] & bit != 0, "a row dies once");
        block.live[place / 64] &= !bit;
        block.live_rows -= 1;
        self.live -= 1;
        if block.live_rows == 0 {
            (block.vectors, block.owners) = Default::default();
        }
    }

    pub(crate) fn is_live(&self, row: Row) -> bool {
        let (index, place) = (row as usize / BLOCK, row as usize % BLOCK);
        self.blocks[index].live[place / 64] & 1 << (place % 64) != 0
    }

    /// The vector of a row that is live in these `Rows`.
    pub(crate) fn vector(&self, row: Row) -> &[f32] {
        let (index, place) = (row as usize / BLOCK, row as usize % BLOCK);
        &self.blocks[index].vectors[place * self.size..(place + 1) * self.size]
    }

    /// The owner of a row that is live in these `Rows`.
    pub(crate) fn owner(&self, row: Row) -> Owner {
        self.blocks[row as usize / BLOCK].owners[row as usize % BLOCK]
    }

    /// Live rows from `first` on, ascending.
    pub(crate) fn live_from(&self, first: Row) -> impl Iterator<Item = Row> + '_ {
        let first = first as usize;
        let blocks = self.blocks.iter().enumerate().skip(first / BLOCK).filter(|(_, block)| block.live_rows > 0);
        blocks
            .flat_map(|(index, block)| {
                block.live.iter().enumerate().flat_map(move |(word, bits)| Bits(*bits).map(move |bit| index * BLOCK + word * 64 + bit))
            })
            .skip_while(move |row| *row < first)
            .map(|row| row as Row)
    }
}

/// Positions of the set bits of a word.
struct Bits(u64);

impl Iterator for Bits {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(number: u64) -> Owner {
        Owner { id: PointId::Num(number), slot: number }
    }

    #[test]
    fn live_rows_are_listed_from_any_start_across_blocks() {
        let mut rows = Rows::new(1);
        for number in 0..3000 {
            assert_eq!(rows.append(&[number as f32], owner(number)), number as Row);
        }
        for row in (0..3000).filter(|row| row % 3 != 0) {
            rows.kill(row);
        }
        for first in [0, 1, 63, 64, 1023, 1024, 2998, 2999, 3000] {
            let expected: Vec<Row> = (first..3000).filter(|row| row % 3 == 0).collect();
            assert_eq!(rows.live_from(first).collect::<Vec<_>>(), expected, "from {first}");
        }
        assert_eq!((rows.len(), rows.live()), (3000, 1000));
        assert_eq!((rows.vector(2997), rows.owner(2997)), ([2997.0].as_slice(), owner(2997)));
    }

    #[test]
    fn a_reader_keeps_its_view_while_rows_are_added_and_die() {
        let mut rows = Rows::new(2);
        rows.append(&[1.0, 2.0], owner(1));
        let seen = rows.clone();
        rows.kill(0);
        rows.append(&[3.0, 4.0], owner(2));
        assert_eq!((seen.len(), seen.vector(0), seen.is_live(0)), (1, [1.0, 2.0].as_slice(), true));
        assert_eq!((rows.is_live(0), rows.vector(1), rows.owner(1)), (false, [3.0, 4.0].as_slice(), owner(2)));
    }
}
