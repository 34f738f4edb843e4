//! Values in order, each with its point: ranges become bitmaps, and a walk in either direction is an order.
//!
//! The pairs lie sorted in blocks of at most a thousand, so an insertion moves little and a range is a few whole blocks and
//! two parts. A range over half of a million points is a scan of half a million `u32` that sets bits; bitmaps kept per
//! block would save less than that costs, and would have to be kept.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use roaring::RoaringBitmap;

/// Pairs a block holds before it is cut in two.
const BLOCK: usize = 1024;

/// A sorted set of pairs of value and point.
pub(super) struct Sorted<K> {
    /// None is empty.
    blocks: Vec<Block<K>>,
    len: usize,
}

struct Block<K> {
    keys: Vec<K>,
    points: Vec<u32>,
}

/// A place between two pairs: block, and position in it.
type Cut = (usize, usize);

impl<K> Default for Sorted<K> {
    fn default() -> Self {
        Self { blocks: Vec::new(), len: 0 }
    }
}

impl<K: Copy + Ord> Block<K> {
    /// Where the pair stands, or would stand.
    fn find(&self, key: K, point: u32) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.keys.len());
        while low < high {
            let middle = low.midpoint(high);
            match (self.keys[middle], self.points[middle]).cmp(&(key, point)) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    fn last(&self) -> (K, u32) {
        let last = self.keys.len() - 1;
        (self.keys[last], self.points[last])
    }
}

impl<K: Copy + Ord> Sorted<K> {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds the pair unless it is there.
    pub(super) fn insert(&mut self, key: K, point: u32) {
        // The last block takes what is behind all.
        let place = self.blocks.partition_point(|block| block.last() < (key, point)).min(self.blocks.len().saturating_sub(1));
        let Some(block) = self.blocks.get_mut(place) else {
            self.blocks.push(Block { keys: vec![key], points: vec![point] });
            self.len = 1;
            return;
        };
        let Err(position) = block.find(key, point) else { return };
        block.keys.insert(position, key);
        block.points.insert(position, point);
        self.len += 1;
        if block.keys.len() > BLOCK {
            // Values that arrive in order would leave halves behind; they leave full blocks when cut at the end.
            let cut = if position == BLOCK { BLOCK } else { BLOCK / 2 };
            let upper = Block { keys: block.keys.split_off(cut), points: block.points.split_off(cut) };
            block.keys.shrink_to(BLOCK);
            block.points.shrink_to(BLOCK);
            self.blocks.insert(place + 1, upper);
        }
    }

    /// Takes the pair away if it is there.
    pub(super) fn remove(&mut self, key: K, point: u32) {
        let place = self.blocks.partition_point(|block| block.last() < (key, point));
        let Some(block) = self.blocks.get_mut(place) else { return };
        let Ok(position) = block.find(key, point) else { return };
        block.keys.remove(position);
        block.points.remove(position);
        self.len -= 1;
        if block.keys.is_empty() {
            self.blocks.remove(place);
        }
    }

    /// The first place whose value is not `before`, which is true of a beginning of the order and false of the rest.
    fn cut(&self, before: impl Fn(K) -> bool) -> Cut {
        let place = self.blocks.partition_point(|block| before(block.last().0));
        (place, self.blocks.get(place).map_or(0, |block| block.keys.partition_point(|key| before(*key))))
    }

    /// The parts of blocks that lie between two places.
    fn parts(&self, from: Cut, to: Cut) -> impl Iterator<Item = (&[K], &[u32])> {
        let last = if to.1 == 0 { to.0 } else { to.0 + 1 };
        (from.0..last.max(from.0)).map(move |place| {
            let block = &self.blocks[place];
            let start = if place == from.0 { from.1 } else { 0 };
            let end = if place == to.0 { to.1 } else { block.keys.len() };
            let end = end.max(start);
            (&block.keys[start..end], &block.points[start..end])
        })
    }

    /// The points of the values that are neither `before` the range nor behind it (not `until`).
    pub(super) fn range(&self, before: impl Fn(K) -> bool, until: impl Fn(K) -> bool) -> RoaringBitmap {
        bitmap(&self.points(before, until).collect::<Vec<_>>())
    }

    /// The same as lists, for [`bitmap`] to put together with others.
    pub(super) fn points(&self, before: impl Fn(K) -> bool, until: impl Fn(K) -> bool) -> impl Iterator<Item = &[u32]> {
        self.parts(self.cut(before), self.cut(until)).map(|(_, points)| points)
    }

    /// Calls `each` with the pairs of a range, in order, until it breaks.
    pub(super) fn each(&self, before: impl Fn(K) -> bool, until: impl Fn(K) -> bool, each: &mut dyn FnMut(K, u32) -> ControlFlow<()>) {
        for (keys, points) in self.parts(self.cut(before), self.cut(until)) {
            for (key, point) in keys.iter().zip(points) {
                if each(*key, *point).is_break() {
                    return;
                }
            }
        }
    }

    /// All pairs that are not `before`, upwards.
    pub(super) fn ascending(&self, before: impl Fn(K) -> bool) -> impl Iterator<Item = (K, u32)> {
        self.parts(self.cut(before), (self.blocks.len(), 0)).flat_map(|(keys, points)| keys.iter().copied().zip(points.iter().copied()))
    }

    /// All pairs that are `until`, downwards.
    pub(super) fn descending(&self, until: impl Fn(K) -> bool) -> impl Iterator<Item = (K, u32)> {
        let (last, part) = self.cut(until);
        let whole = self.blocks[..last].iter().map(|block| (&block.keys[..], &block.points[..]));
        let part = self.blocks.get(last).map(|block| (&block.keys[..part], &block.points[..part]));
        whole.chain(part).rev().flat_map(|(keys, points)| keys.iter().copied().zip(points.iter().copied()).rev())
    }
}

/// The set of the points in some lists, which are in no order.
pub(super) fn bitmap(parts: &[&[u32]]) -> RoaringBitmap {
    let all = || parts.iter().flat_map(|part| part.iter().copied());
    let count: usize = parts.iter().map(|part| part.len()).sum();
    if count == 0 {
        return RoaringBitmap::new();
    }
    // Part by part and without an option to look into, which takes a fraction of the time.
    let (mut low, mut high) = (u32::MAX, 0);
    for part in parts {
        (low, high) = part.iter().fold((low, high), |(low, high), point| (low.min(*point), high.max(*point)));
    }
    // Setting bits and reading them in order beats sorting as long as the bits are not much longer than the list.
    let base = low & !63;
    let words = ((high - base) / 64) as usize + 1;
    if words <= 2 * count {
        let mut bits = vec![0u64; words];
        for part in parts {
            for point in *part {
                let bit = point - base;
                bits[(bit / 64) as usize] |= 1 << (bit % 64);
            }
        }
        let mut bytes = vec![0; 8 * words];
        bytes.as_chunks_mut().0.iter_mut().zip(bits).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
        return RoaringBitmap::from_lsb0_bytes(base, &bytes);
    }
    let mut points: Vec<u32> = all().collect();
    points.sort_unstable();
    points.dedup();
    points.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::Rng;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn pairs_come_and_go_as_in_a_plain_set() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for values in [3, 500, 1u64 << 40] {
            let (mut sorted, mut plain) = (Sorted::default(), BTreeSet::new());
            for step in 0..20_000u32 {
                let (key, point) = (random.random_range(0..values), random.random_range(0..4_000));
                // Grows first, shrinks later.
                if random.random_range(0..20_000) > step / 2 {
                    sorted.insert(key, point);
                    plain.insert((key, point));
                } else if let Some(&(key, point)) = plain.range((key, point)..).next() {
                    sorted.remove(key, point);
                    plain.remove(&(key, point));
                }
            }
            assert_eq!(sorted.len(), plain.len());
            assert!(sorted.ascending(|_| false).eq(plain.iter().copied()));
            assert!(sorted.descending(|_| true).eq(plain.iter().rev().copied()));
            for _ in 0..200 {
                let (low, high) = (random.random_range(0..values), random.random_range(0..=values));
                let expected: RoaringBitmap = plain.iter().filter(|(key, _)| (low..high).contains(key)).map(|(_, point)| *point).collect();
                assert_eq!(sorted.range(|key| key < low, |key| key < high), expected);
                assert!(sorted.ascending(|key| key < low).eq(plain.range((low, 0)..).copied()));
                assert!(sorted.descending(|key| key < high).eq(plain.range(..(high, 0)).rev().copied()));
            }
            for (key, point) in plain {
                sorted.remove(key, point);
                sorted.remove(key, point);
            }
            assert_eq!((sorted.len(), sorted.blocks.len()), (0, 0));
        }
    }

    #[test]
    fn values_that_arrive_in_order_fill_their_blocks() {
        let mut sorted = Sorted::default();
        (0..10 * BLOCK as u32).for_each(|point| sorted.insert(point, point));
        assert!(sorted.blocks.len() <= 11, "{} blocks", sorted.blocks.len());
    }

    #[test]
    fn a_bitmap_is_the_same_by_bits_and_by_sorting() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        for (count, span) in [(1, 1), (100, 50), (1_000, 100_000), (1_000, u32::MAX), (100_000, 1_000_000), (3, u32::MAX)] {
            let base = random.random_range(0..=u32::MAX - span);
            let points: Vec<u32> = (0..count).map(|_| base + random.random_range(0..=span)).collect();
            let (a, b) = points.split_at(count / 3);
            assert_eq!(bitmap(&[a, &[], b]), points.iter().copied().collect());
        }
        assert!(bitmap(&[]).is_empty());
        assert_eq!(bitmap(&[&[u32::MAX, 0]]).iter().collect::<Vec<_>>(), [0, u32::MAX]);
    }
}
