//! The flat tail: vectors of one name that no segment holds yet, in memory, compared one by one.
//!
//! Rows come in ascending order of their slots, are appended and declared dead, never changed and never moved. They lie in
//! blocks behind `Arc`s: a search clones one `Arc` and reads on while the writer appends, and the writer copies only a
//! block that a reader still looks at (at most [`BLOCK`] rows; it does so while searches wait). A block whose rows are all
//! dead is emptied, and the oldest blocks go once they are empty.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::id::PointId;
use crate::truth::{PointNumber, Slot};

/// Rows in a block.
pub(crate) const BLOCK: usize = 64;

/// What a search wants to know of a vector besides its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Owner {
    pub(crate) id: PointId,
    pub(crate) point: PointNumber,
    pub(crate) slot: Slot,
}

#[derive(Clone, Default)]
struct Block {
    vectors: Arc<Vec<f32>>,
    owners: Arc<Vec<Owner>>,
    /// The last slot ever appended to it; stays when it is emptied.
    last: Slot,
    live: [u64; BLOCK / 64],
    live_rows: usize,
}

#[derive(Clone)]
pub(crate) struct Tail {
    size: usize,
    /// Rows ever appended.
    len: usize,
    live: usize,
    blocks: VecDeque<Block>,
}

impl Tail {
    pub(crate) fn new(size: usize) -> Self {
        Self { size, len: 0, live: 0, blocks: VecDeque::new() }
    }

    /// Living rows.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn append(&mut self, vector: &[f32], owner: Owner) {
        assert_eq!(vector.len(), self.size, "vectors are checked before they are written");
        let place = self.len % BLOCK;
        if place == 0 {
            self.blocks.push_back(Block::default());
        }
        let block = self.blocks.back_mut().expect("a block was just made, or is open");
        if block.owners.len() < place {
            // The open block was emptied: its dead rows keep their places. Their slots stay below the new one's.
            let (mut vectors, mut owners) = (vec![0.0; place * self.size], Vec::with_capacity(BLOCK));
            owners.resize(place, Owner { slot: 0, ..owner });
            vectors.reserve(self.size);
            (block.vectors, block.owners) = (Arc::new(vectors), Arc::new(owners));
        }
        Arc::make_mut(&mut block.vectors).extend_from_slice(vector);
        Arc::make_mut(&mut block.owners).push(owner);
        block.last = owner.slot;
        block.live[place / 64] |= 1 << (place % 64);
        block.live_rows += 1;
        self.len += 1;
        self.live += 1;
    }

    /// Declares the row of a slot dead; was there a living one?
    pub(crate) fn kill(&mut self, slot: Slot) -> bool {
        let Some((index, place)) = self.find(slot) else { return false };
        self.kill_row(index, place);
        self.drop_empty_front();
        true
    }

    /// Declares every row of these slots dead: a segment holds them now.
    pub(crate) fn release(&mut self, first: Slot, last: Slot) {
        for index in 0..self.blocks.len() {
            let block = &self.blocks[index];
            let places: Vec<usize> = block.live_places().filter(|place| (first..=last).contains(&block.owners[*place].slot)).collect();
            places.into_iter().for_each(|place| self.kill_row(index, place));
        }
        self.drop_empty_front();
    }

    fn kill_row(&mut self, index: usize, place: usize) {
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

    fn drop_empty_front(&mut self) {
        while self.blocks.len() > 1 && self.blocks[0].live_rows == 0 {
            self.blocks.pop_front();
        }
    }

    /// Block and place of the living row of a slot.
    fn find(&self, slot: Slot) -> Option<(usize, usize)> {
        let index = self.blocks.partition_point(|block| block.last < slot);
        let block = self.blocks.get(index)?;
        let place = block.owners.partition_point(|owner| owner.slot < slot);
        let found = block.owners.get(place)?.slot == slot && block.live[place / 64] & 1 << (place % 64) != 0;
        found.then_some((index, place))
    }

    /// Does a row of this slot live?
    pub(crate) fn has(&self, slot: Slot) -> bool {
        self.find(slot).is_some()
    }

    /// How many rows of these slots live.
    pub(crate) fn live_between(&self, first: Slot, last: Slot) -> usize {
        let blocks = self.blocks.iter().filter(|block| block.live_rows > 0);
        blocks.map(|block| block.live_places().filter(|place| (first..=last).contains(&block.owners[*place].slot)).count()).sum()
    }

    /// Living rows in order of their slots.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&Owner, &[f32])> + '_ {
        self.blocks.iter().flat_map(move |block| {
            block.live_places().map(move |place| (&block.owners[place], &block.vectors[place * self.size..(place + 1) * self.size]))
        })
    }

    /// By block, its vectors and the living rows of slots `first..=last` with their places in it.
    pub(crate) fn blocks_between(&self, first: Slot, last: Slot) -> impl Iterator<Item = (&Arc<Vec<f32>>, Vec<(usize, &Owner)>)> {
        let blocks = self.blocks.iter().map(move |block| {
            let rows = block.live_places().map(|place| (place, &block.owners[place]));
            (&block.vectors, rows.filter(|(_, owner)| (first..=last).contains(&owner.slot)).collect::<Vec<_>>())
        });
        blocks.filter(|(_, rows)| !rows.is_empty())
    }

    /// The slot of the newest living row.
    pub(crate) fn last_slot(&self) -> Option<Slot> {
        let block = self.blocks.iter().rev().find(|block| block.live_rows > 0)?;
        block.live_places().last().map(|place| block.owners[place].slot)
    }
}

impl Block {
    fn live_places(&self) -> impl Iterator<Item = usize> + '_ {
        self.live.iter().enumerate().flat_map(|(word, bits)| Bits(*bits).map(move |bit| word * 64 + bit))
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

    fn owner(slot: Slot) -> Owner {
        Owner { id: PointId::Num(slot), point: slot as PointNumber, slot }
    }

    fn slots(tail: &Tail) -> Vec<Slot> {
        tail.rows().map(|(owner, _)| owner.slot).collect()
    }

    #[test]
    fn rows_are_found_by_their_slots_across_blocks_and_gaps() {
        let mut tail = Tail::new(1);
        for slot in (10..9010).step_by(3) {
            tail.append(&[slot as f32], owner(slot));
        }
        for slot in 0..9020 {
            let lives = (10..9010).contains(&slot) && (slot - 10) % 3 == 0;
            assert_eq!(tail.find(slot).is_some(), lives, "slot {slot}");
        }
        for slot in (10..9010).step_by(3).filter(|slot| slot % 2 == 0) {
            assert!(tail.kill(slot) && !tail.kill(slot), "slot {slot} dies once");
        }
        assert_eq!(slots(&tail), (10..9010).step_by(3).filter(|slot| slot % 2 == 1).collect::<Vec<Slot>>());
        assert!(tail.rows().all(|(owner, vector)| vector == [owner.slot as f32]));
        assert_eq!((tail.live(), tail.last_slot()), (1500, Some(9007)));
    }

    #[test]
    fn what_a_builder_takes_of_a_range_lives_and_stays_as_it_is() {
        let mut tail = Tail::new(1);
        (0..500).for_each(|slot| tail.append(&[slot as f32], owner(slot)));
        (0..500).filter(|slot| slot % 3 == 0 || (128..192).contains(slot)).for_each(|slot| assert!(tail.kill(slot)));
        let expected: Vec<Slot> = (70..=400).filter(|slot| slot % 3 != 0 && !(128..192).contains(slot)).collect();
        let mut taken = Vec::new();
        for (vectors, rows) in tail.blocks_between(70, 400) {
            taken.extend(rows.into_iter().map(|(place, owner)| (Arc::clone(vectors), place, owner.slot)));
        }
        tail.release(0, 500);
        tail.append(&[7.0], owner(600));
        assert_eq!(taken.iter().map(|(.., slot)| *slot).collect::<Vec<Slot>>(), expected);
        assert!(taken.iter().all(|(vectors, place, slot)| vectors[*place] == *slot as f32));
    }

    #[test]
    fn released_rows_leave_and_later_ones_stay() {
        let mut tail = Tail::new(2);
        (0..5000).for_each(|slot| tail.append(&[slot as f32, 0.0], owner(slot)));
        tail.release(0, 3999);
        assert_eq!((tail.live(), tail.blocks.len()), (1000, 4999 / BLOCK - 4000 / BLOCK + 1));
        tail.release(0, 4999);
        assert_eq!((tail.live(), tail.last_slot(), tail.find(4999)), (0, None, None));
        // In the emptied, still open block.
        tail.append(&[7.0, 8.0], owner(6000));
        assert_eq!(slots(&tail), [6000]);
        assert!(!tail.kill(4999) && tail.kill(6000));
        (6001..9000).for_each(|slot| tail.append(&[0.0, 0.0], owner(slot)));
        assert_eq!((tail.live(), tail.last_slot()), (2999, Some(8999)));
    }

    #[test]
    fn a_reader_keeps_its_view_while_rows_are_added_and_die() {
        let mut tail = Tail::new(2);
        tail.append(&[1.0, 2.0], owner(1));
        let seen = tail.clone();
        tail.kill(1);
        tail.append(&[3.0, 4.0], owner(2));
        assert_eq!(seen.rows().collect::<Vec<_>>(), [(&owner(1), [1.0, 2.0].as_slice())]);
        assert_eq!(tail.rows().collect::<Vec<_>>(), [(&owner(2), [3.0, 4.0].as_slice())]);
    }
}
