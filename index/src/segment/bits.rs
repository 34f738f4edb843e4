//! A set of rows, one bit each.

use super::Row;

/// Rows of a segment that may be answered: those that live, or pass a filter.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bits {
    words: Vec<u64>,
    ones: usize,
}

impl Bits {
    /// None of `rows` rows.
    pub(crate) fn none(rows: usize) -> Self {
        Self { words: vec![0; rows.div_ceil(64)], ones: 0 }
    }

    /// All of `rows` rows.
    pub(crate) fn all(rows: usize) -> Self {
        let mut bits = Self { words: vec![u64::MAX; rows.div_ceil(64)], ones: rows };
        if let Some(last) = bits.words.last_mut().filter(|_| !rows.is_multiple_of(64)) {
            *last = (1 << (rows % 64)) - 1;
        }
        bits
    }

    /// Those of the rows of a column that `keep` says 1 of, 0 of the others. Without a branch for each: whether a row
    /// passes is often a toss.
    pub(crate) fn of<T: Copy>(column: &[T], keep: impl Fn(T) -> u64) -> Self {
        let word = |values: &[T]| values.iter().enumerate().fold(0, |word, (bit, value)| word | (keep(*value) & 1) << bit);
        let words: Vec<u64> = column.chunks(64).map(word).collect();
        let ones = words.iter().map(|word| word.count_ones() as usize).sum();
        Self { words, ones }
    }

    /// As many rows as `rows`: those whose bit stands in `words`, counted from bit `first` on. Behind the words all bits are 0.
    pub(crate) fn window(words: &[u64], first: usize, rows: usize) -> Self {
        let (skip, shift) = (first / 64, first % 64);
        let word = |place: usize| words.get(skip + place).copied().unwrap_or(0);
        let shifted = |place: usize| if shift == 0 { word(place) } else { word(place) >> shift | word(place + 1) << (64 - shift) };
        let mut bits = Self { words: (0..rows.div_ceil(64)).map(shifted).collect(), ones: 0 };
        if let Some(last) = bits.words.last_mut().filter(|_| !rows.is_multiple_of(64)) {
            *last &= (1 << (rows % 64)) - 1;
        }
        bits.ones = bits.words.iter().map(|word| word.count_ones() as usize).sum();
        bits
    }

    /// Keeps the rows that are in `other` too.
    pub(crate) fn intersect(&mut self, other: &Self) {
        let others = other.words.iter().copied().chain(std::iter::repeat(0));
        self.words.iter_mut().zip(others).for_each(|(word, other)| *word &= other);
        self.ones = self.words.iter().map(|word| word.count_ones() as usize).sum();
    }

    /// Rows past the end are not in the set.
    #[inline(always)]
    pub(crate) fn contains(&self, row: Row) -> bool {
        self.words.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    /// 64 rows to a word, the first in the lowest bit.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Was it new? The row must be one of those the set was made for.
    pub(crate) fn insert(&mut self, row: Row) -> bool {
        let word = &mut self.words[row as usize / 64];
        let new = *word >> (row % 64) & 1 == 0;
        *word |= 1 << (row % 64);
        self.ones += usize::from(new);
        new
    }

    /// Was it there?
    pub(crate) fn remove(&mut self, row: Row) -> bool {
        let Some(word) = self.words.get_mut(row as usize / 64) else { return false };
        let there = *word >> (row % 64) & 1 == 1;
        *word &= !(1 << (row % 64));
        self.ones -= usize::from(there);
        there
    }

    /// Rows in the set.
    pub(crate) fn count(&self) -> usize {
        self.ones
    }

    /// Ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Row> + '_ {
        self.words.iter().enumerate().flat_map(|(i, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                rest &= rest.wrapping_sub(1);
                (bit < 64).then_some(i as Row * 64 + bit)
            })
        })
    }
}

impl FromIterator<Row> for Bits {
    fn from_iter<T: IntoIterator<Item = Row>>(rows: T) -> Self {
        let mut bits = Self::default();
        for row in rows {
            if row as usize / 64 >= bits.words.len() {
                bits.words.resize(row as usize / 64 + 1, 0);
            }
            bits.insert(row);
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_rows_counts_and_lists_what_it_holds() {
        for rows in [0, 1, 63, 64, 65, 200] {
            let mut bits = Bits::all(rows);
            assert_eq!((bits.count(), bits.iter().count(), bits.contains(rows as Row)), (rows, rows, false));
            for row in (0..rows as Row).filter(|row| row % 3 == 0) {
                assert!(bits.remove(row) && !bits.remove(row));
            }
            let expected: Vec<Row> = (0..rows as Row).filter(|row| row % 3 != 0).collect();
            assert_eq!((bits.iter().collect::<Vec<_>>(), bits.count()), (expected.clone(), expected.len()));
            assert_eq!(expected.iter().copied().collect::<Bits>().iter().collect::<Vec<_>>(), expected);
            let column: Vec<Row> = (0..rows as Row).collect();
            let mut even = Bits::of(&column, |row| u64::from(row % 2 == 0));
            even.intersect(&bits);
            let both: Vec<Row> = expected.iter().copied().filter(|row| row % 2 == 0).collect();
            assert_eq!((even.iter().collect::<Vec<_>>(), even.count()), (both.clone(), both.len()));
        }
    }

    #[test]
    fn a_window_holds_the_bits_from_its_first_on() {
        let words: Vec<u64> = (0..5u64).map(|word| 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(word + 1)).collect();
        let is_set = |bit: usize| words.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1);
        for (first, rows) in [(0, 320), (0, 100), (1, 64), (63, 65), (64, 200), (130, 1), (200, 300), (319, 64), (400, 70), (0, 0)] {
            let window = Bits::window(&words, first, rows);
            let expected: Vec<Row> = (0..rows).filter(|row| is_set(first + row)).map(|row| row as Row).collect();
            assert_eq!((window.iter().collect::<Vec<_>>(), window.count()), (expected.clone(), expected.len()), "{rows} from {first}");
        }
    }
}
