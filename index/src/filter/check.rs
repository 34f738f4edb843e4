//! Limits of a filter and of the values in it: the same for one that was read from JSON and one that a program made.

use std::fmt;

use super::{Condition, DatetimeRange, Filter, GeoPoint, Match, Number, Predicate, Range, Scalar, Values};
use crate::error::{Error, Result};

/// The deepest that filters may stand in one another, `nested` included; the outermost counts.
pub const MAX_DEPTH: usize = 32;

/// The most conditions a filter may hold, those of the filters in it included: each is looked at for each point.
pub const MAX_CONDITIONS: usize = 4096;

/// The most values a filter may list in all, counting ids, `any`, `except` and the points of polygons.
pub const MAX_LISTED: usize = 1 << 20;

/// Where in a filter something stands; its text is made only for an error.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Root,
    Key(&'a Place<'a>, &'a str),
    Element(&'a Place<'a>, usize),
}

impl<'a> Place<'a> {
    pub(super) fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }

    pub(super) fn element(&'a self, position: usize) -> Self {
        Self::Element(self, position)
    }

    pub(super) fn refuse<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(Error::Filter { place: self.to_string(), reason: reason.into() })
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Element(parent, position) => write!(f, "{parent}[{position}]"),
        }
    }
}

/// What was counted so far.
#[derive(Default)]
struct Checker {
    conditions: usize,
    listed: usize,
}

impl Filter {
    /// Checks what its types do not: limits, and numbers that are finite and in their range. [`Filter::parse`] has done it.
    ///
    /// # Errors
    /// [`Error::Filter`] with the place and the reason.
    pub fn check(&self) -> Result<()> {
        Checker::default().filter(self, &Place::Root, 1, false)
    }
}

impl Checker {
    fn filter(&mut self, filter: &Filter, place: &Place<'_>, depth: usize, nested: bool) -> Result<()> {
        if depth > MAX_DEPTH {
            return place.refuse(format!("filters stand more than {MAX_DEPTH} deep in one another"));
        }
        for (key, conditions) in [("must", &filter.must), ("should", &filter.should), ("must_not", &filter.must_not)] {
            self.conditions(conditions, &place.key(key), depth, nested)?;
        }
        if let Some(min_should) = &filter.min_should {
            self.conditions(&min_should.conditions, &place.key("min_should").key("conditions"), depth, nested)?;
        }
        Ok(())
    }

    fn conditions(&mut self, conditions: &[Condition], place: &Place<'_>, depth: usize, nested: bool) -> Result<()> {
        self.conditions += conditions.len();
        if self.conditions > MAX_CONDITIONS {
            return place.refuse(format!("the filter has more than {MAX_CONDITIONS} conditions"));
        }
        for (position, condition) in conditions.iter().enumerate() {
            self.condition(condition, &place.element(position), depth, nested)?;
        }
        Ok(())
    }

    fn condition(&mut self, condition: &Condition, place: &Place<'_>, depth: usize, nested: bool) -> Result<()> {
        let whole_point = |key| {
            let reason = "it is about the whole point, and `nested` sees one object of it: put it beside `nested`";
            if nested { place.key(key).refuse(reason) } else { Ok(()) }
        };
        match condition {
            Condition::Field(field) => self.predicate(&field.predicate, place),
            Condition::IsEmpty(_) | Condition::IsNull(_) => Ok(()),
            Condition::HasId(ids) => {
                whole_point("has_id")?;
                self.list(ids.len(), &place.key("has_id"))
            }
            Condition::HasVector(_) => whole_point("has_vector"),
            Condition::Slice(slice) => {
                whole_point("slice")?;
                let place = &place.key("slice");
                if slice.total == 0 {
                    return place.key("total").refuse("there is at least one slice");
                }
                if slice.index >= slice.total {
                    return place.key("index").refuse(format!("{} is not below the total of {}", slice.index, slice.total));
                }
                Ok(())
            }
            Condition::Nested { filter, .. } => self.filter(filter, &place.key("nested").key("filter"), depth + 1, true),
            Condition::Filter(filter) => self.filter(filter, place, depth + 1, nested),
        }
    }

    fn predicate(&mut self, predicate: &Predicate, place: &Place<'_>) -> Result<()> {
        match predicate {
            Predicate::Match(condition) => {
                let place = &place.key("match");
                match condition {
                    Match::Value(Scalar::Integer(integer)) => check_integer(*integer, &place.key("value")),
                    Match::Any(values) => self.values(values, &place.key("any")),
                    Match::Except(values) => self.values(values, &place.key("except")),
                    Match::Value(Scalar::Bool(_) | Scalar::String(_))
                    | Match::Text(_)
                    | Match::TextAny(_)
                    | Match::Phrase(_)
                    | Match::Prefix(_)
                    | Match::Substring(_) => Ok(()),
                }
            }
            Predicate::Range(Range { lt, lte, gt, gte }) => {
                let place = &place.key("range");
                for (key, bound) in [("lt", lt), ("lte", lte), ("gt", gt), ("gte", gte)] {
                    match bound {
                        Some(Number::Integer(integer)) => check_integer(*integer, &place.key(key))?,
                        Some(Number::Float(float)) => check_finite(*float, &place.key(key))?,
                        None => {}
                    }
                }
                Ok(())
            }
            Predicate::GeoBoundingBox(bounds) => {
                let place = &place.key("geo_bounding_box");
                check_point(bounds.top_left, &place.key("top_left"))?;
                check_point(bounds.bottom_right, &place.key("bottom_right"))
            }
            Predicate::GeoRadius(circle) => {
                let place = &place.key("geo_radius");
                check_point(circle.center, &place.key("center"))?;
                check_finite(circle.radius, &place.key("radius"))?;
                if circle.radius < 0.0 {
                    return place.key("radius").refuse(format!("{} metres is below zero", circle.radius));
                }
                Ok(())
            }
            Predicate::GeoPolygon(polygon) => {
                let place = &place.key("geo_polygon");
                self.ring(&polygon.exterior, &place.key("exterior").key("points"))?;
                let place = &place.key("interiors");
                for (position, ring) in polygon.interiors.iter().enumerate() {
                    self.ring(ring, &place.element(position).key("points"))?;
                }
                Ok(())
            }
            // Without a bound it could not be told from a range of numbers in JSON.
            Predicate::DatetimeRange(DatetimeRange { lt: None, lte: None, gt: None, gte: None }) => {
                place.key("range").refuse("a range of dates has a bound")
            }
            Predicate::DatetimeRange(_) | Predicate::ValuesCount(_) | Predicate::IsEmpty(_) | Predicate::IsNull(_) => Ok(()),
        }
    }

    fn list(&mut self, values: usize, place: &Place<'_>) -> Result<()> {
        self.listed += values;
        if self.listed > MAX_LISTED {
            return place.refuse(format!("the filter lists more than {MAX_LISTED} values"));
        }
        Ok(())
    }

    fn values(&mut self, values: &Values, place: &Place<'_>) -> Result<()> {
        self.list(values.len(), place)?;
        values.integers.first().into_iter().chain(values.integers.last()).try_for_each(|integer| check_integer(*integer, place))
    }

    fn ring(&mut self, ring: &[GeoPoint], place: &Place<'_>) -> Result<()> {
        self.list(ring.len(), place)?;
        if ring.len() < 4 {
            return place.refuse(format!("a ring has at least 4 points, this one {}", ring.len()));
        }
        for (position, point) in ring.iter().enumerate() {
            check_point(*point, &place.element(position))?;
        }
        if ring.first() != ring.last() {
            return place.refuse("a ring ends where it starts, and this one does not");
        }
        Ok(())
    }
}

fn check_integer(integer: i128, place: &Place<'_>) -> Result<()> {
    if (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&integer) {
        Ok(())
    } else {
        place.refuse(format!("{integer} is not within -2^63 to 2^64 - 1"))
    }
}

fn check_finite(float: f64, place: &Place<'_>) -> Result<()> {
    if float.is_finite() { Ok(()) } else { place.refuse(format!("{float} is not finite")) }
}

fn check_point(point: GeoPoint, place: &Place<'_>) -> Result<()> {
    for (key, degrees, limit) in [("lat", point.lat, 90.0), ("lon", point.lon, 180.0)] {
        // Written so that NaN is refused.
        if !(-limit..=limit).contains(&degrees) {
            return place.key(key).refuse(format!("{degrees} degrees is not within -{limit} to {limit}"));
        }
    }
    Ok(())
}
