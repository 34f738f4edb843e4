//! Regions on the globe and the places in them.

use serde_json::Value;

/// Metres, the mean radius that the IUGG recommends.
const EARTH_RADIUS: f64 = 6_371_008.8;

/// A place, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GeoPoint {
    /// From -90 to 90.
    pub lat: f64,
    /// From -180 to 180.
    pub lon: f64,
}

/// Places strictly inside the box. One whose left edge is east of its right edge crosses the antimeridian.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GeoBoundingBox {
    pub top_left: GeoPoint,
    pub bottom_right: GeoPoint,
}

/// Places nearer to the centre than `radius` metres on the great circle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GeoRadius {
    pub center: GeoPoint,
    pub radius: f64,
}

/// Places inside the exterior ring and outside the interior ones; places on an edge are outside. Edges are straight in
/// degrees and do not cross the antimeridian. A ring has at least four points, the last of which is the first.
#[derive(Clone, Debug, PartialEq)]
pub struct GeoPolygon {
    pub exterior: Vec<GeoPoint>,
    pub interiors: Vec<Vec<GeoPoint>>,
}

/// A rectangle in degrees that holds a region, its edges included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    pub(crate) south: f64,
    pub(crate) north: f64,
    pub(crate) west: f64,
    pub(crate) east: f64,
}

impl GeoPoint {
    pub fn new(lat: f64, lon: f64) -> Self {
        Self { lat, lon }
    }

    /// The place that a value of a payload names: an object with numbers `lat` and `lon`, whatever else it holds.
    pub(crate) fn of(value: &Value) -> Option<Self> {
        let fields = value.as_object()?;
        Some(Self { lat: fields.get("lat")?.as_f64()?, lon: fields.get("lon")?.as_f64()? })
    }

    pub(crate) fn is_on_the_globe(self) -> bool {
        self.lat.abs() <= 90.0 && self.lon.abs() <= 180.0
    }

    /// Metres on the great circle, by the haversine formula.
    pub fn distance(self, other: Self) -> f64 {
        let (lat, other_lat) = (self.lat.to_radians(), other.lat.to_radians());
        let across = ((other_lat - lat) / 2.0).sin().powi(2);
        let along = ((other.lon.to_radians() - self.lon.to_radians()) / 2.0).sin().powi(2);
        // Rounding may lift the sum of opposite places above 1.
        let half_chord = (across + lat.cos() * other_lat.cos() * along).min(1.0).sqrt();
        EARTH_RADIUS * 2.0 * half_chord.asin()
    }
}

impl GeoBoundingBox {
    pub(crate) fn holds(&self, place: GeoPoint) -> bool {
        let (west, east) = (self.top_left.lon, self.bottom_right.lon);
        let across = if west > east { place.lon > west || place.lon < east } else { west < place.lon && place.lon < east };
        across && self.bottom_right.lat < place.lat && place.lat < self.top_left.lat
    }

    pub(crate) fn bounds(&self) -> Vec<Bounds> {
        let (south, north) = (self.bottom_right.lat, self.top_left.lat);
        let (west, east) = (self.top_left.lon, self.bottom_right.lon);
        if west > east {
            vec![Bounds { south, north, west, east: 180.0 }, Bounds { south, north, west: -180.0, east }]
        } else {
            vec![Bounds { south, north, west, east }]
        }
    }
}

impl GeoRadius {
    pub(crate) fn holds(&self, place: GeoPoint) -> bool {
        self.center.distance(place) < self.radius
    }

    pub(crate) fn bounds(&self) -> Vec<Bounds> {
        // A hair wider than the circle, for the rounding of the formula and of this one.
        let angle = (self.radius / EARTH_RADIUS).min(std::f64::consts::PI) * (1.0 + 1e-9) + 1e-9;
        let degrees = angle.to_degrees();
        let (south, north) = (self.center.lat - degrees, self.center.lat + degrees);
        if south <= -90.0 || north >= 90.0 {
            // A pole is inside, and with it every meridian.
            return vec![Bounds { south: south.max(-90.0), north: north.min(90.0), west: -180.0, east: 180.0 }];
        }
        let reach = (angle.sin() / self.center.lat.to_radians().cos()).min(1.0).asin().to_degrees() * (1.0 + 1e-9) + 1e-9;
        let (west, east) = (self.center.lon - reach, self.center.lon + reach);
        let mut bounds = vec![Bounds { south, north, west: west.max(-180.0), east: east.min(180.0) }];
        if west < -180.0 {
            bounds.push(Bounds { south, north, west: west + 360.0, east: 180.0 });
        }
        if east > 180.0 {
            bounds.push(Bounds { south, north, west: -180.0, east: east - 360.0 });
        }
        bounds
    }
}

impl GeoPolygon {
    pub(crate) fn holds(&self, place: GeoPoint) -> bool {
        side(place, &self.exterior) == Side::Inside && self.interiors.iter().all(|ring| side(place, ring) == Side::Outside)
    }

    pub(crate) fn bounds(&self) -> Vec<Bounds> {
        let nothing = Bounds { south: f64::INFINITY, north: f64::NEG_INFINITY, west: f64::INFINITY, east: f64::NEG_INFINITY };
        // A hair wider than the ring, for the rounding of where an edge is crossed.
        const HAIR: f64 = 1e-9;
        vec![self.exterior.iter().fold(nothing, |bounds, point| Bounds {
            south: bounds.south.min(point.lat - HAIR),
            north: bounds.north.max(point.lat + HAIR),
            west: bounds.west.min(point.lon - HAIR),
            east: bounds.east.max(point.lon + HAIR),
        })]
    }
}

#[derive(PartialEq)]
enum Side {
    Inside,
    Outside,
    Edge,
}

/// Counts how often a ray from the place to the north crosses the ring.
fn side(place: GeoPoint, ring: &[GeoPoint]) -> Side {
    let mut inside = false;
    for edge in ring.windows(2) {
        let (a, b) = (edge[0], edge[1]);
        let turn = place.lon * (a.lat - b.lat) + a.lon * (b.lat - place.lat) + b.lon * (place.lat - a.lat);
        let between = (a.lat - place.lat) * (b.lat - place.lat) <= 0.0 && (a.lon - place.lon) * (b.lon - place.lon) <= 0.0;
        if turn == 0.0 && between {
            return Side::Edge;
        }
        let spans = (a.lon > place.lon) != (b.lon > place.lon);
        if spans && place.lat < (b.lat - a.lat) * (place.lon - a.lon) / (b.lon - a.lon) + a.lat {
            inside = !inside;
        }
    }
    if inside { Side::Inside } else { Side::Outside }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(low: f64, high: f64) -> Vec<GeoPoint> {
        [(low, low), (low, high), (high, high), (high, low), (low, low)].map(|(lat, lon)| GeoPoint { lat, lon }).to_vec()
    }

    #[test]
    fn distances_follow_the_great_circle() {
        let [moscow, london, berlin] = [(55.7558, 37.6173), (51.5074, -0.1278), (52.52, 13.405)].map(|(lat, lon)| GeoPoint { lat, lon });
        assert!((moscow.distance(london) - 2_500_000.0).abs() < 10_000.0, "{}", moscow.distance(london));
        assert!((moscow.distance(berlin) - 1_608_000.0).abs() < 10_000.0, "{}", moscow.distance(berlin));
        assert_eq!(moscow.distance(moscow), 0.0);
        let half = GeoPoint::new(0.0, 0.0).distance(GeoPoint::new(0.0, 180.0));
        assert!((half - EARTH_RADIUS * std::f64::consts::PI).abs() < 1.0, "{half}");
    }

    #[test]
    fn a_box_is_strict_and_may_cross_the_antimeridian() {
        let plain = GeoBoundingBox { top_left: GeoPoint::new(10.0, 0.0), bottom_right: GeoPoint::new(0.0, 10.0) };
        assert!(plain.holds(GeoPoint::new(5.0, 5.0)));
        for edge in [(10.0, 5.0), (0.0, 5.0), (5.0, 0.0), (5.0, 10.0), (5.0, 11.0), (11.0, 5.0)] {
            assert!(!plain.holds(GeoPoint::new(edge.0, edge.1)), "{edge:?}");
        }
        let crossing = GeoBoundingBox { top_left: GeoPoint::new(10.0, 170.0), bottom_right: GeoPoint::new(0.0, -170.0) };
        assert!([175.0, 180.0, -180.0, -175.0].iter().all(|lon| crossing.holds(GeoPoint::new(5.0, *lon))));
        assert!([170.0, -170.0, 0.0].iter().all(|lon| !crossing.holds(GeoPoint::new(5.0, *lon))));
        let upside_down = GeoBoundingBox { top_left: GeoPoint::new(0.0, 0.0), bottom_right: GeoPoint::new(10.0, 10.0) };
        assert!(!upside_down.holds(GeoPoint::new(5.0, 5.0)));
    }

    #[test]
    fn a_polygon_holds_neither_its_edges_nor_its_holes() {
        let polygon = GeoPolygon { exterior: square(0.0, 10.0), interiors: vec![square(4.0, 6.0)] };
        for inside in [(1.0, 1.0), (9.0, 5.0), (3.9, 5.0)] {
            assert!(polygon.holds(GeoPoint::new(inside.0, inside.1)), "{inside:?}");
        }
        for outside in [(0.0, 5.0), (10.0, 10.0), (5.0, 0.0), (5.0, 5.0), (4.0, 5.0), (11.0, 5.0), (-1.0, 5.0)] {
            assert!(!polygon.holds(GeoPoint::new(outside.0, outside.1)), "{outside:?}");
        }
    }
}
