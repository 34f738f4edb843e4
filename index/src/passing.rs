//! The points that pass a filter, as searches ask for them.
//!
//! To resolve a filter and to find the rows of a segment that pass it can cost more than the walk it is for, and the same
//! filter is often asked again: a tenant, a kind. So what was found is kept until a point changes ([`Recent`] lies beside
//! the indexes it was found by), and with the set of points the rows of each segment it was asked for.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use roaring::RoaringBitmap;

use crate::filter::Filter;
use crate::plain_bits::plain_bits;
use crate::segment::{AcceptedRows, Bits, Segment};
use crate::truth::PointNumber;

/// Numbers of points.
pub(crate) struct PassingSet {
    numbers: RoaringBitmap,
    count: usize,
    /// The same as plain bits, once somebody asks point by point.
    words: OnceLock<Vec<u64>>,
    rows: Mutex<Vec<Rows>>,
}

/// The rows of a segment that pass and live.
struct Rows {
    segment: Weak<Segment>,
    live: Option<Weak<AcceptedRows>>,
    accepted: Arc<AcceptedRows>,
}

impl Rows {
    fn are_of(&self, segment: &Arc<Segment>, live: Option<&Arc<AcceptedRows>>) -> bool {
        // An address counts only as long as what was there is alive: a weak reference keeps it from being given away.
        let same_live = match (&self.live, live) {
            (None, None) => true,
            (Some(kept), Some(live)) => std::ptr::eq(kept.as_ptr(), Arc::as_ptr(live)),
            _ => false,
        };
        same_live && std::ptr::eq(self.segment.as_ptr(), Arc::as_ptr(segment))
    }
}

impl PassingSet {
    pub(crate) fn new(numbers: RoaringBitmap) -> Self {
        Self { count: numbers.len() as usize, numbers, words: OnceLock::new(), rows: Mutex::default() }
    }

    pub(crate) fn numbers(&self) -> &RoaringBitmap {
        &self.numbers
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn words(&self) -> &[u64] {
        self.words.get_or_init(|| plain_bits(&self.numbers))
    }

    pub(crate) fn has(&self, number: PointNumber) -> bool {
        bit(self.words(), number) == 1
    }

    /// The rows of a segment that are in the set and, where `live` is given, in that one.
    pub(crate) fn rows_of(&self, segment: &Arc<Segment>, live: Option<&Arc<AcceptedRows>>) -> Arc<AcceptedRows> {
        let mut kept = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rows) = kept.iter().find(|rows| rows.are_of(segment, live)) {
            return Arc::clone(&rows.accepted);
        }
        // Two threads that find the same at the same time do no harm; one that waits for the other would.
        drop(kept);
        let accepted = Arc::new(AcceptedRows::from(self.find_rows(segment, live.map(|live| &***live))));
        kept = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of a segment that was replaced, or of rows that lived before, are of no use any more.
        kept.retain(|rows| rows.segment.strong_count() > 0 && !std::ptr::eq(rows.segment.as_ptr(), Arc::as_ptr(segment)));
        kept.push(Rows { segment: Arc::downgrade(segment), live: live.map(Arc::downgrade), accepted: Arc::clone(&accepted) });
        accepted
    }

    fn find_rows(&self, segment: &Segment, live: Option<&Bits>) -> Bits {
        if let Some(first) = segment.consecutive_points() {
            let mut accepted = Bits::window(self.words(), first as usize, segment.rows());
            live.into_iter().for_each(|live| accepted.intersect(live));
            return accepted;
        }
        // A look-up costs about as much as passing over so many rows.
        if self.count.saturating_mul(LOOK_UP_COST) < segment.rows() {
            let mut accepted = Bits::none(segment.rows());
            for row in self.numbers.iter().flat_map(|point| segment.rows_of_point(point)) {
                if live.is_none_or(|live| live.contains(row)) {
                    accepted.insert(row);
                }
            }
            return accepted;
        }
        let words = self.words();
        let mut accepted = Bits::of(segment.points(), |point| bit(words, point));
        live.into_iter().for_each(|live| accepted.intersect(live));
        accepted
    }

    /// About how many bytes it takes with all it keeps by now.
    fn bytes(&self) -> usize {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let of_segments: usize = rows.iter().map(|rows| rows.accepted.bytes()).sum();
        2 * (self.numbers.max().unwrap_or(0) as usize / 8) + of_segments
    }
}

fn bit(words: &[u64], number: PointNumber) -> u64 {
    words.get(number as usize / 64).map_or(0, |word| word >> (number % 64) & 1)
}

/// Rows passed over in the time that it takes to look one point up.
const LOOK_UP_COST: usize = 64;

/// The filters asked last, the latest first, with the points that pass each.
#[derive(Default)]
pub(crate) struct Recent {
    filters: Vec<(Filter, Arc<PassingSet>)>,
}

impl Recent {
    /// Filters kept, at most: to look through them costs less than to resolve one.
    const MOST: usize = 32;
    /// Bytes kept, about; the latest filter is kept in any case.
    const MOST_BYTES: usize = 16 << 20;

    pub(crate) fn get(&mut self, filter: &Filter) -> Option<Arc<PassingSet>> {
        let place = self.filters.iter().position(|(other, _)| other == filter)?;
        self.filters[..=place].rotate_right(1);
        Some(Arc::clone(&self.filters[0].1))
    }

    pub(crate) fn put(&mut self, filter: Filter, passing: Arc<PassingSet>) {
        self.filters.insert(0, (filter, passing));
        let mut bytes = 0;
        let fits = |(_, passing): &&(Filter, Arc<PassingSet>)| {
            bytes += passing.bytes();
            bytes <= Self::MOST_BYTES
        };
        let kept = self.filters.iter().take(Self::MOST).take_while(fits).count();
        self.filters.truncate(kept.max(1));
    }

    pub(crate) fn forget(&mut self) {
        self.filters.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Condition;

    fn filter(number: u64) -> Filter {
        Filter::must([Condition::has_id([number])])
    }

    fn set(numbers: impl IntoIterator<Item = u32>) -> Arc<PassingSet> {
        Arc::new(PassingSet::new(numbers.into_iter().collect()))
    }

    #[test]
    fn a_set_is_asked_point_by_point_as_it_is_counted() {
        for numbers in [vec![], vec![0], vec![63, 64, 65], (0..1000).filter(|number| number % 7 == 3).collect()] {
            let passing = set(numbers.iter().copied());
            assert_eq!(passing.len(), numbers.len());
            (0..1100).for_each(|number| assert_eq!(passing.has(number), numbers.contains(&number), "{number}"));
        }
    }

    #[test]
    fn the_filters_asked_last_are_kept_and_large_sets_push_others_out() {
        let mut recent = Recent::default();
        for number in 0..2 * Recent::MOST as u64 {
            recent.put(filter(number), set([number as u32]));
            // Asked again and again, it stays.
            assert_eq!(recent.get(&filter(0)).map(|passing| passing.len()), Some(1), "after {number}");
        }
        assert_eq!(recent.filters.len(), Recent::MOST);
        assert!(recent.get(&filter(1)).is_none() && recent.get(&filter(2 * Recent::MOST as u64 - 1)).is_some());
        for _ in 0..3 {
            recent.put(filter(99), set([8 * Recent::MOST_BYTES as u32]));
            assert_eq!(recent.filters.len(), 1);
        }
        recent.forget();
        assert!(recent.get(&filter(99)).is_none());
    }
}
