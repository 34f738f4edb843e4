//! Places on the globe, along a Z-shaped curve that keeps neighbours together.
//!
//! The two coordinates, each cut into 2^32 steps, have their bits interleaved; a region is a handful of ranges of that
//! number, and each place found there is tested by the region itself, so that the answer is exact.

use std::ops::ControlFlow;

use roaring::RoaringBitmap;

use super::sorted::{Sorted, bitmap};
use crate::filter::{Bounds, GeoPoint};

#[derive(Default)]
pub(super) struct Places {
    sorted: Sorted<Key>,
}

/// The place on the curve, then the exact coordinates as bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    curve: u64,
    lat: u64,
    lon: u64,
}

impl Key {
    fn of(place: GeoPoint) -> Self {
        Self { curve: interleave(step(place.lon, 180.0), step(place.lat, 90.0)), lat: place.lat.to_bits(), lon: place.lon.to_bits() }
    }

    fn place(self) -> GeoPoint {
        GeoPoint { lat: f64::from_bits(self.lat), lon: f64::from_bits(self.lon) }
    }
}

impl Places {
    /// The place must be on the globe.
    pub(super) fn insert(&mut self, place: GeoPoint, point: u32) {
        self.sorted.insert(Key::of(place), point);
    }

    pub(super) fn remove(&mut self, place: GeoPoint, point: u32) {
        self.sorted.remove(Key::of(place), point);
    }

    /// The points with a place that is held. `bounds` holds the region.
    pub(super) fn within(&self, bounds: &[Bounds], holds: impl Fn(GeoPoint) -> bool) -> RoaringBitmap {
        let mut points = Vec::new();
        for bounds in bounds {
            for (first, last) in ranges(*bounds) {
                self.sorted.each(|key| key.curve < first, |key| key.curve <= last, &mut |key, point| {
                    if holds(key.place()) {
                        points.push(point);
                    }
                    ControlFlow::Continue(())
                });
            }
        }
        bitmap(&[&points])
    }
}

/// Which of 2^32 steps from `-limit` to `limit` degrees; never falls as degrees rise.
fn step(degrees: f64, limit: f64) -> u32 {
    // The cast saturates: the upper end falls into the last step.
    ((degrees + limit) / (2.0 * limit) * 4_294_967_296.0) as u32
}

/// The bits of `x` at odd positions counted from 1, those of `y` between them.
fn interleave(x: u32, y: u32) -> u64 {
    let spread = |bits: u32| {
        let mut bits = u64::from(bits);
        for (shift, mask) in [
            (16, 0x0000_ffff_0000_ffff),
            (8, 0x00ff_00ff_00ff_00ff),
            (4, 0x0f0f_0f0f_0f0f_0f0f),
            (2, 0x3333_3333_3333_3333),
            (1, 0x5555_5555_5555_5555),
        ] {
            bits = (bits | (bits << shift)) & mask;
        }
        bits
    };
    spread(x) | (spread(y) << 1)
}

/// Ranges of the curve, ends included and ascending, that together hold the rectangle: at most about a hundred.
fn ranges(bounds: Bounds) -> Vec<(u64, u64)> {
    // Written so that the empty bounds of nothing give no ranges.
    if !(bounds.south <= bounds.north && bounds.west <= bounds.east) {
        return Vec::new();
    }
    let (left, right) = (step(bounds.west, 180.0), step(bounds.east, 180.0));
    let (bottom, top) = (step(bounds.south, 90.0), step(bounds.north, 90.0));
    // Squares an eighth of the longer side: little beside the rectangle is looked at, and few squares cover it.
    let side = (right - left).max(top - bottom);
    let finest = (32 - side.leading_zeros()).saturating_sub(3);
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut open = vec![(0u32, 0u32, 32u32)];
    // Squares are taken from the end, so the one on the curve's lower end goes in last.
    while let Some((x, y, bits)) = open.pop() {
        let far = |start: u32| start | u32::MAX.checked_shr(32 - bits).unwrap_or(0);
        if x > right || far(x) < left || y > top || far(y) < bottom {
            continue;
        }
        let inside = x >= left && far(x) <= right && y >= bottom && far(y) <= top;
        if inside || bits <= finest {
            let first = interleave(x, y);
            let last = interleave(far(x), far(y));
            match found.last_mut() {
                Some(before) if before.1 + 1 == first => before.1 = last,
                _ => found.push((first, last)),
            }
            continue;
        }
        let half = 1u32 << (bits - 1);
        open.extend([(x | half, y | half), (x, y | half), (x | half, y), (x, y)].map(|(x, y)| (x, y, bits - 1)));
    }
    found
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::filter::{GeoBoundingBox, GeoPolygon, GeoRadius};

    fn anywhere(random: &mut ChaCha8Rng) -> GeoPoint {
        // Corners and edges of the map are likelier than chance has it.
        let mut degrees = |limit: f64| match random.random_range(0..12) {
            0 => limit,
            1 => -limit,
            2 => 0.0,
            3 => -0.0,
            _ => random.random_range(-limit..=limit),
        };
        GeoPoint { lat: degrees(90.0), lon: degrees(180.0) }
    }

    #[test]
    fn every_region_finds_exactly_the_places_in_it() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let places: Vec<GeoPoint> = (0..3_000).map(|_| anywhere(&mut random)).collect();
        let mut index = Places::default();
        places.iter().zip(0..).for_each(|(place, point)| index.insert(*place, point));
        let check = |bounds: &[Bounds], holds: &dyn Fn(GeoPoint) -> bool| {
            let expected: RoaringBitmap = (0..).zip(&places).filter(|(_, place)| holds(**place)).map(|(point, _)| point).collect();
            assert_eq!(index.within(bounds, holds), expected);
            expected.len()
        };
        let mut found = 0;
        for _ in 0..1_000 {
            let (a, b) = (anywhere(&mut random), anywhere(&mut random));
            let region = GeoBoundingBox { top_left: a, bottom_right: b };
            found += check(&region.bounds(), &|place| region.holds(place));
            let radius = 10f64.powf(random.random_range(0.0..7.4));
            let region = GeoRadius { center: a, radius };
            found += check(&region.bounds(), &|place| region.holds(place));
            let ring = |random: &mut ChaCha8Rng| {
                let mut ring: Vec<GeoPoint> = (0..random.random_range(3..8)).map(|_| anywhere(random)).collect();
                ring.push(ring[0]);
                ring
            };
            let region = GeoPolygon { exterior: ring(&mut random), interiors: vec![ring(&mut random)] };
            found += check(&region.bounds(), &|place| region.holds(place));
        }
        assert!(found > 100_000, "the regions hold next to nothing: {found}");
    }

    #[test]
    fn a_rectangle_is_few_ranges_of_the_curve() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        for _ in 0..2_000 {
            let (a, b) = (anywhere(&mut random), anywhere(&mut random));
            let shrink = 10f64.powf(random.random_range(-6.0..0.0));
            let (north, east) = (a.lat + (b.lat - a.lat).abs() * shrink, a.lon + (b.lon - a.lon).abs() * shrink);
            let bounds = Bounds { south: a.lat, north: north.min(90.0), west: a.lon, east: east.min(180.0) };
            let ranges = ranges(bounds);
            assert!(!ranges.is_empty() && ranges.len() <= 200, "{} ranges for {bounds:?}", ranges.len());
            assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
