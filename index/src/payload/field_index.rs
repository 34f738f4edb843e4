//! The index of one key: which points hold which values there.
//!
//! Beside the values of its type an index knows what makes answers exact: which points have anything at the key, null, how
//! many values, and which have values of another type, of which nothing more is known.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;
use serde_json::Value;
use uuid::Uuid;

use super::answer::Answer;
use super::dictionary::{Dictionary, union};
use super::key_path::KeyPath;
use super::places::Places;
use super::schema::{PayloadSchema, SchemaKind};
use super::sorted::{Sorted, bitmap};
use super::text::Tokenizer;
use crate::error::{Error, Result};
use crate::filter::{Datetime, GeoPoint, Match, Number, Predicate, Scalar, Values, count_of};
use crate::point::Payload;

/// The index of one payload key. Built apart, it is handed to [`PayloadIndexes::add`](super::PayloadIndexes::add).
pub(crate) struct FieldIndex {
    key: KeyPath,
    schema: PayloadSchema,
    facts: Facts,
    values: Typed,
}

/// What is known of the values at the key whatever their type.
#[derive(Default)]
struct Facts {
    /// The points of which `is_empty` is false.
    nonempty: RoaringBitmap,
    /// The points of which `is_null` is true.
    null: RoaringBitmap,
    /// By number of values, as `values_count` counts them.
    counts: BTreeMap<u64, RoaringBitmap>,
    /// The points with a value, neither null nor of the index's type.
    foreign: RoaringBitmap,
}

/// The values of the index's type.
enum Typed {
    Keyword(Dictionary<Box<str>>),
    /// Integer and float indexes alike hold all numbers: an index may not hide values from `range`.
    Number(Sorted<NumberKey>),
    Bool {
        no: RoaringBitmap,
        yes: RoaringBitmap,
    },
    Datetime(Sorted<i64>),
    Uuid(Dictionary<UuidKey>),
    Geo {
        places: Places,
        points: RoaringBitmap,
        off_the_globe: RoaringBitmap,
    },
    Text(Dictionary<Box<str>>),
}

/// A value of the index's type.
enum Held<'a> {
    String(&'a str),
    Number(NumberKey),
    Bool(bool),
    Instant(i64),
    Uuid(Uuid),
    Place(GeoPoint),
}

/// A direction of [`FieldIndex::ordered`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    #[default]
    Ascending,
    Descending,
}

impl FieldIndex {
    pub(crate) fn new(key: KeyPath, schema: PayloadSchema) -> Self {
        let values = match schema.kind() {
            SchemaKind::Keyword => Typed::Keyword(Dictionary::default()),
            SchemaKind::Integer { .. } | SchemaKind::Float => Typed::Number(Sorted::default()),
            SchemaKind::Bool => Typed::Bool { no: RoaringBitmap::new(), yes: RoaringBitmap::new() },
            SchemaKind::Datetime => Typed::Datetime(Sorted::default()),
            SchemaKind::Uuid => Typed::Uuid(Dictionary::default()),
            SchemaKind::Geo => Typed::Geo { places: Places::default(), points: RoaringBitmap::new(), off_the_globe: RoaringBitmap::new() },
            SchemaKind::Text(_) => Typed::Text(Dictionary::default()),
        };
        Self { key, schema, facts: Facts::default(), values }
    }

    pub(crate) fn key(&self) -> &KeyPath {
        &self.key
    }

    pub(crate) fn schema(&self) -> &PayloadSchema {
        &self.schema
    }

    /// Points with a value at the key.
    pub(crate) fn points(&self) -> u64 {
        self.facts.nonempty.len()
    }

    pub(crate) fn tokenizer(&self) -> Option<&Tokenizer> {
        match self.schema.kind() {
            SchemaKind::Text(tokenizer) => Some(tokenizer),
            _ => None,
        }
    }

    /// Adds the point's values, of which the index has none yet.
    pub(crate) fn insert(&mut self, point: u32, payload: &Payload) {
        let Self { key, schema, facts, values } = self;
        key.any(payload, &mut |value| {
            facts.counts.entry(count_of(value)).or_default().insert(point);
            match value {
                Value::Null => {
                    facts.null.insert(point);
                }
                Value::Array(elements) => {
                    if !elements.is_empty() {
                        facts.nonempty.insert(point);
                    }
                    for element in elements {
                        if !insert_value(values, schema.kind(), element, point) {
                            facts.foreign.insert(point);
                        }
                    }
                }
                one => {
                    facts.nonempty.insert(point);
                    if !insert_value(values, schema.kind(), one, point) {
                        facts.foreign.insert(point);
                    }
                }
            }
            false
        });
    }

    /// Takes the point away; `payload` is the one that it was inserted with.
    pub(crate) fn remove(&mut self, point: u32, payload: &Payload) {
        let Self { key, schema, facts, values } = self;
        facts.nonempty.remove(point);
        facts.null.remove(point);
        facts.foreign.remove(point);
        key.any(payload, &mut |value| {
            let count = count_of(value);
            if let Some(points) = facts.counts.get_mut(&count) {
                points.remove(point);
                if points.is_empty() {
                    facts.counts.remove(&count);
                }
            }
            match value {
                Value::Array(elements) => elements.iter().for_each(|element| remove_value(values, schema.kind(), element, point)),
                one => remove_value(values, schema.kind(), one, point),
            }
            false
        });
    }

    /// The points of which the predicate is true, as far as it is known.
    pub(super) fn answer(&self, predicate: &Predicate, all: &RoaringBitmap) -> Answer {
        let Facts { nonempty, null, counts, foreign } = &self.facts;
        match predicate {
            Predicate::IsEmpty(true) => return Answer::exact(all - nonempty),
            Predicate::IsEmpty(false) => return Answer::exact(nonempty.clone()),
            Predicate::IsNull(true) => return Answer::exact(null.clone()),
            Predicate::IsNull(false) => return Answer::exact(all - null),
            Predicate::ValuesCount(bounds) => {
                let mut points = RoaringBitmap::new();
                counts.iter().filter(|(count, _)| bounds.holds(**count)).for_each(|(_, set)| points |= set);
                return Answer::exact(points);
            }
            Predicate::Match(_)
            | Predicate::Range(_)
            | Predicate::DatetimeRange(_)
            | Predicate::GeoBoundingBox(_)
            | Predicate::GeoRadius(_)
            | Predicate::GeoPolygon(_) => {}
        }
        // Of the values of other types nothing is known; of none of the index's own type is the predicate true.
        let only_foreign = || Answer::at_most(foreign.clone());
        // Nothing is known but that a value is needed.
        let some_value = || Answer::at_most(nonempty.clone());
        match (&self.values, predicate) {
            (_, Predicate::Match(Match::Except(values))) => self.except(values),
            (_, Predicate::Match(Match::Any(values))) => self.any(values),

            (Typed::Keyword(strings), Predicate::Match(asked)) => match asked {
                Match::Value(Scalar::String(text)) => Answer::exact(union(strings.get(&**text).into_iter())),
                Match::Prefix(prefix) => Answer::exact(strings.starting_with(prefix)),
                Match::Text(part) | Match::Phrase(part) | Match::Substring(part) => {
                    Answer::exact(strings.scan(|text| text.contains(&**part)))
                }
                Match::TextAny(words) => Answer::exact(strings.scan(|text| words.split_whitespace().any(|word| text.contains(word)))),
                Match::Value(Scalar::Bool(_) | Scalar::Integer(_)) | Match::Any(_) | Match::Except(_) => only_foreign(),
            },
            (Typed::Keyword(strings), Predicate::DatetimeRange(range)) => {
                Answer::exact(strings.scan(|text| Datetime::parse(text).is_some_and(|instant| range.holds(instant))))
            }
            (Typed::Keyword(_), _) => only_foreign(),

            (Typed::Number(numbers), Predicate::Match(Match::Value(Scalar::Integer(integer)))) => {
                let key = NumberKey::of(Number::Integer(*integer));
                Answer::exact(numbers.range(|held| held < key, |held| held <= key))
            }
            (Typed::Number(numbers), Predicate::Range(range)) => Answer::exact(numbers.range(
                |held| range.gt.is_some_and(|bound| !held.is(bound).is_gt()) || range.gte.is_some_and(|bound| held.is(bound).is_lt()),
                |held| range.lt.is_none_or(|bound| held.is(bound).is_lt()) && range.lte.is_none_or(|bound| !held.is(bound).is_gt()),
            )),
            (Typed::Number(_), _) => only_foreign(),

            (Typed::Bool { no, yes }, Predicate::Match(Match::Value(Scalar::Bool(wanted)))) => {
                Answer::exact(if *wanted { yes.clone() } else { no.clone() })
            }
            (Typed::Bool { .. }, _) => only_foreign(),

            (Typed::Datetime(instants), Predicate::DatetimeRange(range)) => Answer::exact(instants.range(
                |held| range.gt.is_some_and(|bound| held <= bound.micros()) || range.gte.is_some_and(|bound| held < bound.micros()),
                |held| range.lt.is_none_or(|bound| held < bound.micros()) && range.lte.is_none_or(|bound| held <= bound.micros()),
            )),
            (Typed::Datetime(_) | Typed::Uuid(_), Predicate::Match(Match::Value(Scalar::Bool(_) | Scalar::Integer(_)))) => only_foreign(),
            (Typed::Datetime(_), Predicate::Match(_)) => some_value(),
            (Typed::Datetime(_), _) => only_foreign(),

            (Typed::Uuid(uuids), Predicate::Match(Match::Value(Scalar::String(text)))) => match Uuid::try_parse(text) {
                Ok(uuid) => Answer::exact(union(uuids.get(&UuidKey(uuid)).into_iter())),
                Err(_) => only_foreign(),
            },
            (Typed::Uuid(_), Predicate::Match(_)) => some_value(),
            (Typed::Uuid(_), _) => only_foreign(),

            (Typed::Geo { places, off_the_globe, .. }, predicate) => {
                let on_the_globe = match predicate {
                    Predicate::GeoBoundingBox(region) => places.within(&region.bounds(), |place| region.holds(place)),
                    Predicate::GeoRadius(region) => places.within(&region.bounds(), |place| region.holds(place)),
                    Predicate::GeoPolygon(region) => places.within(&region.bounds(), |place| region.holds(place)),
                    _ => return only_foreign(),
                };
                let possible = &on_the_globe | off_the_globe;
                Answer::between(on_the_globe, possible)
            }

            (Typed::Text(words), Predicate::Match(asked)) => {
                let Some(tokenizer) = self.tokenizer() else { return some_value() };
                match asked {
                    Match::Text(text) => Answer::exact(with_all(words, tokenizer, &tokenizer.query(text)).unwrap_or_default()),
                    Match::Phrase(text) => Answer::at_most(with_all(words, tokenizer, &tokenizer.query(text)).unwrap_or_default()),
                    Match::TextAny(text) => {
                        let mut points = RoaringBitmap::new();
                        tokenizer.query(text).iter().for_each(|token| points |= with_token(words, tokenizer, token));
                        Answer::exact(points)
                    }
                    Match::Value(Scalar::String(text)) => {
                        let mut asked = Vec::new();
                        tokenizer.words(text, &mut |word| asked.push(word.to_owned()));
                        with_all(words, tokenizer, &asked).map_or_else(some_value, Answer::at_most)
                    }
                    Match::Value(Scalar::Bool(_) | Scalar::Integer(_)) => only_foreign(),
                    Match::Prefix(_) | Match::Substring(_) | Match::Any(_) | Match::Except(_) => some_value(),
                }
            }
            (Typed::Text(_), Predicate::DatetimeRange(_)) => some_value(),
            (Typed::Text(_), _) => only_foreign(),
        }
    }

    fn any(&self, values: &Values) -> Answer {
        let foreign = &self.facts.foreign;
        let with_foreign = |held: RoaringBitmap, possible: bool| {
            if possible {
                let possible = &held | foreign;
                Answer::between(held, possible)
            } else {
                Answer::exact(held)
            }
        };
        let others = |of_bools: bool, of_integers: bool, of_strings: bool| {
            of_bools && !values.bools.is_empty() || of_integers && !values.integers.is_empty() || of_strings && !values.strings.is_empty()
        };
        match &self.values {
            Typed::Keyword(strings) => {
                let held = union(values.strings.iter().filter_map(|text| strings.get(&**text)));
                with_foreign(held, others(true, true, false))
            }
            Typed::Number(numbers) => {
                let mut parts = Vec::new();
                for integer in &values.integers {
                    let key = NumberKey::of(Number::Integer(*integer));
                    parts.extend(numbers.points(|held| held < key, |held| held <= key));
                }
                with_foreign(bitmap(&parts), others(true, false, true))
            }
            Typed::Bool { no, yes } => {
                let mut held = RoaringBitmap::new();
                values.bools.iter().for_each(|wanted| held |= if *wanted { yes } else { no });
                with_foreign(held, others(false, true, true))
            }
            Typed::Uuid(uuids) => {
                let parsed = values.strings.iter().map(|text| Uuid::try_parse(text).ok());
                let held = union(parsed.clone().flatten().filter_map(|uuid| uuids.get(&UuidKey(uuid))));
                let some_are_none = parsed.clone().any(|uuid| uuid.is_none());
                with_foreign(held, others(true, true, false) || some_are_none)
            }
            Typed::Geo { .. } => Answer::at_most(foreign.clone()),
            Typed::Datetime(_) | Typed::Text(_) => Answer::at_most(self.facts.nonempty.clone()),
        }
    }

    /// The points with a value that is neither listed nor null.
    fn except(&self, values: &Values) -> Answer {
        let foreign = &self.facts.foreign;
        // Values of another type are outside the list for sure only if it lists none of their types.
        let with_foreign = |held: RoaringBitmap, sure: bool| {
            let possible = &held | foreign;
            if sure { Answer::exact(possible) } else { Answer::between(held, possible) }
        };
        match &self.values {
            Typed::Keyword(strings) => {
                let held = strings.scan(|text| !values.strings.contains(&**text));
                with_foreign(held, values.bools.is_empty() && values.integers.is_empty())
            }
            Typed::Number(numbers) => {
                let listed: Vec<NumberKey> = values.integers.iter().map(|integer| NumberKey::of(Number::Integer(*integer))).collect();
                // What lies before, between and behind the listed ones.
                let first = listed.first().copied();
                let mut parts: Vec<&[u32]> = numbers.points(|_| false, |key| first.is_none_or(|first| key < first)).collect();
                for (position, low) in listed.iter().enumerate() {
                    let high = listed.get(position + 1).copied();
                    parts.extend(numbers.points(|key| key <= *low, |key| high.is_none_or(|high| key < high)));
                }
                with_foreign(bitmap(&parts), values.bools.is_empty() && values.strings.is_empty())
            }
            Typed::Bool { no, yes } => {
                let mut held = RoaringBitmap::new();
                for (value, points) in [(false, no), (true, yes)] {
                    if !values.bools.contains(&value) {
                        held |= points;
                    }
                }
                with_foreign(held, values.integers.is_empty() && values.strings.is_empty())
            }
            Typed::Uuid(uuids) => {
                let listed: Vec<UuidKey> = values.strings.iter().filter_map(|text| Uuid::try_parse(text).ok()).map(UuidKey).collect();
                let all_are = listed.len() == values.strings.len();
                let listed: std::collections::BTreeSet<UuidKey> = listed.into_iter().collect();
                with_foreign(uuids.scan(|uuid| !listed.contains(uuid)), all_are && values.bools.is_empty() && values.integers.is_empty())
            }
            // A place is no scalar.
            Typed::Geo { points, .. } => with_foreign(points.clone(), values.is_empty()),
            Typed::Datetime(_) | Typed::Text(_) => Answer::at_most(self.facts.nonempty.clone()),
        }
    }

    /// Points in the order of their values, each once a value, with the value (a date as microseconds since 1970).
    ///
    /// # Errors
    /// [`Error::PayloadIndex`] unless the index is of integers with `range`, floats or dates, or if `start_from` is of the
    /// other kind.
    pub(super) fn ordered(
        &self,
        direction: Direction,
        start_from: Option<StartFrom>,
    ) -> Result<Box<dyn Iterator<Item = (u32, Number)> + '_>> {
        match (&self.values, self.schema.kind()) {
            (Typed::Number(_), SchemaKind::Integer { range: false, .. }) => {
                self.refuse("an integer index orders points unless `range` is false")
            }
            (Typed::Number(numbers), _) => {
                let start = match start_from {
                    None => None,
                    Some(StartFrom::Number(number)) => Some(number),
                    Some(StartFrom::Datetime(_)) => return self.refuse("its index holds numbers: `start_from` cannot be a date"),
                };
                let number = |(key, point): (NumberKey, u32)| (point, key.number());
                Ok(match direction {
                    Direction::Ascending => {
                        Box::new(numbers.ascending(move |key| start.is_some_and(|start| key.is(start).is_lt())).map(number))
                    }
                    Direction::Descending => {
                        Box::new(numbers.descending(move |key| start.is_none_or(|start| !key.is(start).is_gt())).map(number))
                    }
                })
            }
            (Typed::Datetime(instants), _) => {
                let start = match start_from {
                    None => None,
                    Some(StartFrom::Datetime(instant)) => Some(instant.micros()),
                    Some(StartFrom::Number(_)) => return self.refuse("its index holds dates: `start_from` cannot be a number"),
                };
                let number = |(micros, point): (i64, u32)| (point, Number::from(micros));
                Ok(match direction {
                    Direction::Ascending => {
                        Box::new(instants.ascending(move |micros| start.is_some_and(|start| micros < start)).map(number))
                    }
                    Direction::Descending => {
                        Box::new(instants.descending(move |micros| start.is_none_or(|start| micros <= start)).map(number))
                    }
                })
            }
            _ => self.refuse(&format!("an index of type `{}` has no order; integer, float and datetime have", self.schema.data_type())),
        }
    }

    /// How many of the points, of all or of those in `within`, hold each value: the `limit` most frequent, equal ones by value.
    ///
    /// # Errors
    /// [`Error::PayloadIndex`] unless the index is of keywords, integers with `lookup`, bools or UUIDs.
    pub(super) fn facet(&self, limit: usize, within: Option<&RoaringBitmap>) -> Result<Vec<(Scalar, u64)>> {
        match (&self.values, self.schema.kind()) {
            (Typed::Keyword(strings), _) => {
                Ok(most(strings.iter().map(|(text, points)| (text, points.count(within))), limit, |text| Scalar::from(&**text)))
            }
            (Typed::Uuid(uuids), _) => {
                Ok(most(uuids.iter().map(|(uuid, points)| (uuid, points.count(within))), limit, |uuid| Scalar::from(uuid.0.to_string())))
            }
            (Typed::Bool { no, yes }, _) => {
                let count = |points: &RoaringBitmap| within.map_or_else(|| points.len(), |within| points.intersection_len(within));
                Ok(most([(&false, count(no)), (&true, count(yes))].into_iter(), limit, |value| Scalar::Bool(*value)))
            }
            (Typed::Number(numbers), SchemaKind::Integer { lookup: true, .. }) => {
                let mut counts: Vec<(i128, u64)> = Vec::new();
                for (key, point) in numbers.ascending(|_| false) {
                    let Number::Integer(integer) = key.number() else { continue };
                    if within.is_some_and(|within| !within.contains(point)) {
                        continue;
                    }
                    // A float of the same size may stand between, but not between two of one integer.
                    match counts.last_mut() {
                        Some((last, count)) if *last == integer => *count += 1,
                        _ => counts.push((integer, 1)),
                    }
                }
                Ok(most(counts.iter().map(|(integer, count)| (integer, *count)), limit, |integer| Scalar::Integer(*integer)))
            }
            (Typed::Number(_), SchemaKind::Integer { .. }) => self.refuse("an integer index counts facets unless `lookup` is false"),
            _ => {
                let data_type = self.schema.data_type();
                self.refuse(&format!("an index of type `{data_type}` has no facets; keyword, integer, bool and uuid have"))
            }
        }
    }

    fn refuse<T>(&self, reason: &str) -> Result<T> {
        Err(Error::PayloadIndex { key: self.key.to_string(), reason: reason.to_owned() })
    }
}

/// Where an order starts, that value included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StartFrom {
    Number(Number),
    Datetime(Datetime),
}

/// The most frequent first, equal ones by value, without those that no point holds.
fn most<'a, K: Ord + 'a>(counts: impl Iterator<Item = (&'a K, u64)>, limit: usize, scalar: impl Fn(&K) -> Scalar) -> Vec<(Scalar, u64)> {
    let mut counts: Vec<(&K, u64)> = counts.filter(|(_, count)| *count > 0).collect();
    let order = |a: &(&K, u64), b: &(&K, u64)| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0));
    if limit > 0 && limit < counts.len() {
        counts.select_nth_unstable_by(limit - 1, order);
    }
    counts.truncate(limit);
    counts.sort_unstable_by(order);
    counts.into_iter().map(|(value, count)| (scalar(value), count)).collect()
}

/// The points of all tokens; `None` without tokens.
fn with_all(words: &Dictionary<Box<str>>, tokenizer: &Tokenizer, tokens: &[String]) -> Option<RoaringBitmap> {
    let mut tokens = tokens.iter();
    let mut points = with_token(words, tokenizer, tokens.next()?);
    for token in tokens {
        if points.is_empty() {
            break;
        }
        points &= with_token(words, tokenizer, token);
    }
    Some(points)
}

fn with_token(words: &Dictionary<Box<str>>, tokenizer: &Tokenizer, token: &str) -> RoaringBitmap {
    if tokenizer.meets_beginnings() { words.starting_with(token) } else { union(words.get(token).into_iter()) }
}

/// The value if it is of the index's type.
fn held<'a>(kind: &SchemaKind, value: &'a Value) -> Option<Held<'a>> {
    match (kind, value) {
        (SchemaKind::Keyword | SchemaKind::Text(_), Value::String(text)) => Some(Held::String(text)),
        (SchemaKind::Integer { .. } | SchemaKind::Float, Value::Number(number)) => Some(Held::Number(NumberKey::of(Number::of(number)))),
        (SchemaKind::Bool, Value::Bool(value)) => Some(Held::Bool(*value)),
        (SchemaKind::Datetime, Value::String(text)) => Datetime::parse(text).map(|instant| Held::Instant(instant.micros())),
        (SchemaKind::Uuid, Value::String(text)) => Uuid::try_parse(text).ok().map(Held::Uuid),
        (SchemaKind::Geo, Value::Object(_)) => GeoPoint::of(value).map(Held::Place),
        _ => None,
    }
}

/// Adds a value; false if it is foreign. Null is neither.
fn insert_value(values: &mut Typed, kind: &SchemaKind, value: &Value, point: u32) -> bool {
    let Some(held) = held(kind, value) else { return value.is_null() };
    match (values, held) {
        (Typed::Keyword(strings), Held::String(text)) => strings.insert(text, point),
        (Typed::Text(words), Held::String(text)) => {
            if let SchemaKind::Text(tokenizer) = kind {
                tokenizer.words(text, &mut |word| words.insert(word, point));
            }
        }
        (Typed::Number(numbers), Held::Number(key)) => numbers.insert(key, point),
        (Typed::Bool { no, yes }, Held::Bool(value)) => {
            if value { yes } else { no }.insert(point);
        }
        (Typed::Datetime(instants), Held::Instant(micros)) => instants.insert(micros, point),
        (Typed::Uuid(uuids), Held::Uuid(uuid)) => uuids.insert(&UuidKey(uuid), point),
        (Typed::Geo { places, points, off_the_globe }, Held::Place(place)) => {
            points.insert(point);
            if place.is_on_the_globe() {
                places.insert(place, point);
            } else {
                off_the_globe.insert(point);
            }
        }
        _ => unreachable!("`held` gives values of the index's own type"),
    }
    true
}

fn remove_value(values: &mut Typed, kind: &SchemaKind, value: &Value, point: u32) {
    let Some(held) = held(kind, value) else { return };
    match (values, held) {
        (Typed::Keyword(strings), Held::String(text)) => strings.remove(text, point),
        (Typed::Text(words), Held::String(text)) => {
            if let SchemaKind::Text(tokenizer) = kind {
                tokenizer.words(text, &mut |word| words.remove(word, point));
            }
        }
        (Typed::Number(numbers), Held::Number(key)) => numbers.remove(key, point),
        (Typed::Bool { no, yes }, Held::Bool(_)) => {
            yes.remove(point);
            no.remove(point);
        }
        (Typed::Datetime(instants), Held::Instant(micros)) => instants.remove(micros, point),
        (Typed::Uuid(uuids), Held::Uuid(uuid)) => uuids.remove(&UuidKey(uuid), point),
        (Typed::Geo { places, points, off_the_globe }, Held::Place(place)) => {
            points.remove(point);
            off_the_globe.remove(point);
            places.remove(place, point);
        }
        _ => unreachable!("`held` gives values of the index's own type"),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct UuidKey(Uuid);

impl From<&UuidKey> for UuidKey {
    fn from(key: &UuidKey) -> Self {
        *key
    }
}

/// A number as bytes that sort by exact size, and an integer behind the float of the same size.
///
/// Eight bytes are the nearest `f64` that is not larger, as a number that sorts as it does; two are how much larger the
/// integer is (at most 2,047 below 2^64), and the lowest bit tells integers from floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct NumberKey([u8; 10]);

impl NumberKey {
    fn of(number: Number) -> Self {
        let (below, above, tag) = match number {
            Number::Float(float) => (float, 0, 0),
            Number::Integer(integer) => {
                let nearest = integer as f64;
                let below = if nearest as i128 > integer { nearest.next_down() } else { nearest };
                (below, (integer - below as i128) as u16, 1)
            }
        };
        // Both zeros are one number.
        let bits = (below + 0.0).to_bits();
        let ascending = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
        let mut key = [0; 10];
        key[..8].copy_from_slice(&ascending.to_be_bytes());
        key[8..].copy_from_slice(&(above << 1 | tag).to_be_bytes());
        Self(key)
    }

    fn number(self) -> Number {
        let [a, b, c, d, e, f, g, h, high, low] = self.0;
        let ascending = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let below = f64::from_bits(if ascending >> 63 == 1 { ascending & !(1 << 63) } else { !ascending });
        let above = u16::from_be_bytes([high, low]);
        if above & 1 == 1 { Number::Integer(below as i128 + i128::from(above >> 1)) } else { Number::Float(below) }
    }

    /// How large it is beside a bound, which is not NaN.
    fn is(self, bound: Number) -> std::cmp::Ordering {
        self.number().compare(bound).unwrap_or(std::cmp::Ordering::Less)
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn the_bytes_of_a_number_sort_by_its_exact_size() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut numbers: Vec<Number> =
            [0.0, -0.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 2f64.powi(64), -2f64.powi(63)].map(Number::from).to_vec();
        numbers.extend([0, 1, -1, i64::MIN, i64::MAX, 1 << 53, (1 << 53) + 1].map(Number::from));
        numbers.extend([u64::MAX, u64::MAX - 1, 1 << 63].map(Number::from));
        for _ in 0..2_000 {
            let shift = random.random_range(0..64);
            numbers.push(Number::from(random.random::<i64>() >> shift));
            numbers.push(Number::from(random.random::<u64>() >> shift));
            let float = f64::from_bits(random.random());
            numbers.extend(float.is_finite().then_some(Number::from(float)));
            numbers.push(Number::from((random.random::<i64>() >> shift) as f64));
        }
        for &a in &numbers {
            let back = NumberKey::of(a).number();
            assert!(back == a || back == Number::Float(0.0), "{a:?} came back as {back:?}");
            for _ in 0..50 {
                let b = numbers[random.random_range(0..numbers.len())];
                let order = a.compare(b).unwrap().then_with(|| matches!(a, Number::Integer(_)).cmp(&matches!(b, Number::Integer(_))));
                assert_eq!(NumberKey::of(a).cmp(&NumberKey::of(b)), order, "{a:?} beside {b:?}");
            }
        }
    }
}
