//! The nearest nodes that a search has found so far, as keys that sort by distance.

use crate::build::Node;

/// Sorts as distance, then node; the lowest bit says that the node's links were followed.
#[inline(always)]
pub(super) fn key(nearness: f32, node: Node) -> u64 {
    let bits = (-nearness).to_bits();
    let ordered = bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000);
    u64::from(ordered) << 32 | u64::from(node) << 1
}

#[inline(always)]
pub(super) fn node_of(key: u64) -> Node {
    key as u32 >> 1
}

#[inline(always)]
pub(super) fn nearness_of(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    -f32::from_bits(ordered ^ (!((ordered as i32 >> 31) as u32) | 0x8000_0000))
}

/// Puts a node into a pool of the `ef` nearest, the nearest first. Where it is now; `None` if it is too far.
#[inline(always)]
pub(super) fn keep(pool: &mut Vec<u64>, ef: usize, key: u64) -> Option<usize> {
    if pool.len() >= ef {
        if pool.last().is_some_and(|last| key > *last) {
            return None;
        }
        pool.pop();
    }
    let place = pool.partition_point(|other| *other < key);
    pool.insert(place, key);
    Some(place)
}

/// What is offered to a pool of the `ef` nearest.
pub(super) trait Offered {
    /// What is less near is too far.
    fn bar(&self) -> f32;
    fn offer(&mut self, nearness: f32, node: Node);
}

/// A pool in order. What a walk followed is marked in it.
pub(super) struct Ordered<'a> {
    pub(super) pool: &'a mut Vec<u64>,
    pub(super) ef: usize,
    /// The first place that changed, or `ef`.
    pub(super) changed: usize,
}

impl Offered for Ordered<'_> {
    #[inline(always)]
    fn bar(&self) -> f32 {
        self.pool.last().filter(|_| self.pool.len() >= self.ef).map_or(f32::NEG_INFINITY, |last| nearness_of(*last))
    }

    #[inline(always)]
    fn offer(&mut self, nearness: f32, node: Node) {
        if let Some(place) = keep(self.pool, self.ef, key(nearness, node)) {
            self.changed = self.changed.min(place);
        }
    }
}

/// A pool out of order, as long as nobody asks for it: to keep it would take longer than to compare.
pub(super) struct Unordered<'a> {
    pool: &'a mut Vec<u64>,
    ef: usize,
    bar: f32,
}

impl<'a> Unordered<'a> {
    /// An empty pool of the `ef` nearest, at least one.
    pub(super) fn of(pool: &'a mut Vec<u64>, ef: usize) -> Self {
        pool.clear();
        Self { pool, ef, bar: f32::NEG_INFINITY }
    }

    /// Leaves no more than the `ef` nearest, so that the bar is that of the farthest of them.
    pub(super) fn cut(&mut self) {
        if self.pool.len() >= self.ef {
            self.bar = nearness_of(*self.pool.select_nth_unstable(self.ef - 1).1);
            self.pool.truncate(self.ef);
        }
    }

    pub(super) fn sort(mut self) {
        self.cut();
        self.pool.sort_unstable();
    }
}

impl Offered for Unordered<'_> {
    #[inline(always)]
    fn bar(&self) -> f32 {
        self.bar
    }

    #[inline(always)]
    fn offer(&mut self, nearness: f32, node: Node) {
        // As far as the bar, it may come before another by its node.
        if nearness >= self.bar {
            self.pool.push(key(nearness, node));
            if self.pool.len() >= 2 * self.ef {
                self.cut();
            }
        }
    }
}
