//! Values that are equal or not, each with the set of its points.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use roaring::{MultiOps, RoaringBitmap};

use super::sorted::bitmap;

/// Ordered, so that the values with a common beginning are neighbours.
pub(super) struct Dictionary<K> {
    entries: BTreeMap<K, Posting>,
}

/// The points of a value. Most values of a long dictionary have one, and a bitmap of one is a hundred bytes.
pub(super) enum Posting {
    One(u32),
    Many(RoaringBitmap),
}

impl Posting {
    fn insert(&mut self, point: u32) {
        match self {
            Self::One(only) if *only == point => {}
            Self::One(only) => *self = Self::Many(RoaringBitmap::from_iter([*only, point])),
            Self::Many(points) => {
                points.insert(point);
            }
        }
    }

    /// How many of its points are in the set; all, without a set.
    pub(super) fn count(&self, within: Option<&RoaringBitmap>) -> u64 {
        match (self, within) {
            (Self::One(_), None) => 1,
            (Self::One(only), Some(set)) => set.contains(*only).into(),
            (Self::Many(points), None) => points.len(),
            (Self::Many(points), Some(set)) => points.intersection_len(set),
        }
    }
}

impl<K> Default for Dictionary<K> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<K: Ord> Dictionary<K> {
    pub(super) fn insert<Q: Ord + ?Sized>(&mut self, value: &Q, point: u32)
    where
        K: Borrow<Q> + for<'a> From<&'a Q>,
    {
        match self.entries.get_mut(value) {
            Some(posting) => posting.insert(point),
            None => {
                self.entries.insert(value.into(), Posting::One(point));
            }
        }
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, value: &Q, point: u32)
    where
        K: Borrow<Q>,
    {
        let is_last = match self.entries.get_mut(value) {
            None => false,
            Some(Posting::One(only)) => *only == point,
            Some(Posting::Many(points)) => {
                points.remove(point);
                points.is_empty()
            }
        };
        if is_last {
            self.entries.remove(value);
        }
    }

    pub(super) fn get<Q: Ord + ?Sized>(&self, value: &Q) -> Option<&Posting>
    where
        K: Borrow<Q>,
    {
        self.entries.get(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Posting)> {
        self.entries.iter()
    }

    /// The points of all values that are taken.
    pub(super) fn scan(&self, take: impl Fn(&K) -> bool) -> RoaringBitmap {
        union(self.entries.iter().filter(|(value, _)| take(value)).map(|(_, posting)| posting))
    }
}

impl Dictionary<Box<str>> {
    /// The points of all values that start so.
    pub(super) fn starting_with(&self, prefix: &str) -> RoaringBitmap {
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        union(self.entries.range::<str, _>(from).take_while(|(value, _)| value.starts_with(prefix)).map(|(_, posting)| posting))
    }
}

pub(super) fn union<'a>(postings: impl Iterator<Item = &'a Posting>) -> RoaringBitmap {
    let (mut singles, mut many) = (Vec::new(), Vec::new());
    for posting in postings {
        match posting {
            Posting::One(only) => singles.push(*only),
            Posting::Many(points) => many.push(points),
        }
    }
    let mut points = many.union();
    if !singles.is_empty() {
        points |= bitmap(&[&singles]);
    }
    points
}
