//! The payload indexes of a collection, and what they say of a filter.
//!
//! In memory, by key: derived from the payloads and kept by whoever writes those. A filter becomes a bitmap of points that
//! pass or may pass; where a key has no index nothing is known, and nothing is excluded. The oracle is
//! [`PayloadIndexes::matches`], which looks at the payload.

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringBitmap;

use super::answer::{Answer, Possible};
use super::field_index::{Direction, FieldIndex, StartFrom};
use super::key_path::KeyPath;
use super::schema::{PayloadSchema, SchemaKind};
use super::text::Tokenizer;
use crate::error::{Error, Result};
#[cfg(test)]
use crate::filter::PointView;
use crate::filter::{Condition, FieldCondition, Filter, Match, Number, Predicate, Scalar, Schemas};
use crate::id::PointId;
use crate::point::Payload;

/// The points of a collection, as far as filters ask for them beyond payloads.
pub(crate) trait Points {
    /// Every living point.
    fn all(&self) -> &RoaringBitmap;
    /// The points with a vector of this name; `None` if that is not known at hand.
    fn with_vector(&self, name: &str) -> Option<&RoaringBitmap>;
    /// The points of those of the ids that there are; `None` if that is not known at hand.
    fn with_ids(&self, ids: &BTreeSet<PointId>) -> Option<RoaringBitmap>;
}

/// What the indexes know of a filter. `certain` ⊆ those that pass ⊆ `candidates`.
pub(crate) struct Resolved {
    /// No other point passes; `None` excludes none.
    pub(crate) candidates: Option<RoaringBitmap>,
    /// Every candidate passes.
    pub(crate) exact: bool,
    /// These pass, and need no look at their payload.
    pub(crate) certain: RoaringBitmap,
}

#[derive(Default)]
pub(crate) struct PayloadIndexes {
    fields: BTreeMap<KeyPath, FieldIndex>,
}

impl PayloadIndexes {
    /// Puts an index in its place, instead of one that was on the key. It has been given every point.
    pub(crate) fn add(&mut self, index: FieldIndex) {
        self.fields.insert(index.key().clone(), index);
    }

    /// Takes the index of a key away, if there is one.
    pub(crate) fn drop(&mut self, key: &KeyPath) -> bool {
        self.fields.remove(key).is_some()
    }

    pub(crate) fn schema(&self, key: &KeyPath) -> Option<&PayloadSchema> {
        self.fields.get(key).map(FieldIndex::schema)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &FieldIndex> {
        self.fields.values()
    }

    /// Adds a point that no index holds.
    pub(crate) fn insert(&mut self, point: u32, payload: &Payload) {
        self.fields.values_mut().for_each(|index| index.insert(point, payload));
    }

    /// Takes a point away; `payload` is the one that it was inserted with.
    pub(crate) fn remove(&mut self, point: u32, payload: &Payload) {
        self.fields.values_mut().for_each(|index| index.remove(point, payload));
    }

    /// Gives a point another payload; keys whose values stay cost a comparison.
    pub(crate) fn update(&mut self, point: u32, before: &Payload, after: &Payload) {
        for index in self.fields.values_mut() {
            if index.key().select(before) != index.key().select(after) {
                index.remove(point, before);
                index.insert(point, after);
            }
        }
    }

    /// Is the filter true of the point? Text and uuid indexes change what some conditions mean, so this and not
    /// [`Filter::matches`] is asked where there are indexes.
    #[cfg(test)]
    pub(crate) fn matches(&self, filter: &Filter, point: &dyn PointView) -> bool {
        if self.fields.is_empty() { filter.matches(point) } else { filter.matches_under(self, point) }
    }

    /// The points that pass the filter, or may pass it.
    pub(crate) fn resolve(&self, filter: &Filter, points: &dyn Points) -> Resolved {
        let Answer { certain, possible } = self.filter(filter, points);
        let candidates = match possible {
            Possible::Certain => certain.clone(),
            Possible::These(possible) if possible.len() < points.all().len() => possible,
            // No point is excluded; all may be certain for all that.
            Possible::These(_) | Possible::All => {
                return Resolved { candidates: None, exact: certain.len() == points.all().len(), certain };
            }
        };
        Resolved { exact: candidates.len() == certain.len(), candidates: Some(candidates), certain }
    }

    /// Points in the order of the values at the key, each once a value, with the value; a date is microseconds since 1970.
    /// Equal values are in the order of point numbers. `start_from` is included.
    ///
    /// # Errors
    /// [`Error::PayloadIndex`] without an index on the key that has an order.
    pub(crate) fn ordered(
        &self,
        key: &KeyPath,
        direction: Direction,
        start_from: Option<StartFrom>,
    ) -> Result<Box<dyn Iterator<Item = (u32, Number)> + '_>> {
        let wanted = "is ordered by an index of type integer, float or datetime, and has none";
        self.fields.get(key).ok_or_else(|| missing(key, wanted))?.ordered(direction, start_from)
    }

    /// The `limit` most frequent values at the key, equal ones by value, each with the number of points that hold it, out of all
    /// points or those `within`. A point counts once a value.
    ///
    /// # Errors
    /// [`Error::PayloadIndex`] without an index on the key that counts values.
    pub(crate) fn facet(&self, key: &KeyPath, limit: usize, within: Option<&RoaringBitmap>) -> Result<Vec<(Scalar, u64)>> {
        let wanted = "is counted by an index of type keyword, integer, bool or uuid, and has none";
        self.fields.get(key).ok_or_else(|| missing(key, wanted))?.facet(limit, within)
    }

    fn filter(&self, filter: &Filter, points: &dyn Points) -> Answer {
        let Filter { must, should, must_not, min_should } = filter;
        let mut answer = Answer::all(points.all());
        for condition in must {
            if answer.is_none() {
                return answer;
            }
            answer = answer.and(self.condition(condition, points));
        }
        for condition in must_not {
            if answer.is_none() {
                return answer;
            }
            answer = answer.and(self.condition(condition, points).not(points.all()));
        }
        if !should.is_empty() {
            answer = answer.and(should.iter().map(|condition| self.condition(condition, points)).fold(Answer::none(), Answer::or));
        }
        if let Some(min_should) = min_should {
            let answers = min_should.conditions.iter().map(|condition| self.condition(condition, points)).collect();
            answer = answer.and(Answer::at_least(answers, min_should.min_count, points.all()));
        }
        answer
    }

    fn condition(&self, condition: &Condition, points: &dyn Points) -> Answer {
        let all = points.all();
        match condition {
            Condition::Field(FieldCondition { key, predicate }) => self.field(key, predicate, all),
            Condition::IsEmpty(key) => self.field(key, &Predicate::IsEmpty(true), all),
            Condition::IsNull(key) => self.field(key, &Predicate::IsNull(true), all),
            Condition::HasId(ids) => points.with_ids(ids).map_or_else(Answer::unknown, |found| Answer::exact(found & all)),
            Condition::HasVector(name) => points.with_vector(name).map_or_else(Answer::unknown, |found| Answer::exact(found & all)),
            Condition::Slice(_) => Answer::unknown(),
            Condition::Filter(inner) => self.filter(inner, points),
            Condition::Nested { key, filter } => self.some_object(filter, &key.elements(), all),
        }
    }

    fn field(&self, key: &KeyPath, predicate: &Predicate, all: &RoaringBitmap) -> Answer {
        self.fields.get(key).map_or_else(Answer::unknown, |index| index.answer(predicate, all))
    }

    /// The points of which some object at `way` passes the whole filter.
    ///
    /// An index knows of a key whether some object passes one condition on it. For one condition, or one of several, that is
    /// the same; for all of several it is not, since they may be true of different objects, and only bounds the answer.
    fn some_object(&self, filter: &Filter, way: &KeyPath, all: &RoaringBitmap) -> Answer {
        let Filter { must, should, must_not, min_should } = filter;
        let one = |condition: &Condition| self.some_object_of(condition, way, all);
        let mut parts: Vec<Answer> = must.iter().map(one).collect();
        if !should.is_empty() {
            parts.push(should.iter().map(one).fold(Answer::none(), Answer::or));
        }
        if let Some(min_should) = min_should {
            let answers = min_should.conditions.iter().map(one).collect();
            let answer = Answer::at_least(answers, min_should.min_count, all);
            // Of one it is the same as `should`; none is met by any object, of which there may be none.
            parts.push(if min_should.min_count == 1 { answer } else { answer.uncertain() });
        }
        let is_one = parts.len() == 1 && must_not.is_empty();
        match parts.into_iter().reduce(Answer::and) {
            Some(answer) if is_one => answer,
            Some(answer) => answer.uncertain(),
            None => Answer::unknown(),
        }
    }

    /// The points of which some object at `way` passes the condition.
    fn some_object_of(&self, condition: &Condition, way: &KeyPath, all: &RoaringBitmap) -> Answer {
        let field = |key: &KeyPath, predicate: &Predicate| self.field(&way.join(key), predicate, all);
        match condition {
            Condition::Field(FieldCondition { key, predicate }) => match predicate {
                // These say something of all values there, and so of all objects.
                Predicate::IsEmpty(true) | Predicate::IsNull(false) => Answer::unknown(),
                // The tokens may stand in different objects.
                Predicate::Match(Match::Text(_)) => field(key, predicate).uncertain(),
                Predicate::Match(_)
                | Predicate::Range(_)
                | Predicate::DatetimeRange(_)
                | Predicate::GeoBoundingBox(_)
                | Predicate::GeoRadius(_)
                | Predicate::GeoPolygon(_)
                | Predicate::ValuesCount(_)
                | Predicate::IsEmpty(false)
                | Predicate::IsNull(true) => field(key, predicate),
            },
            Condition::IsEmpty(_) => Answer::unknown(),
            Condition::IsNull(key) => field(key, &Predicate::IsNull(true)),
            Condition::Nested { key, filter } => self.some_object(filter, &way.join(&key.elements()), all),
            Condition::Filter(inner) => self.some_object(inner, way, all),
            // Refused by `Filter::check`.
            Condition::HasId(_) | Condition::HasVector(_) | Condition::Slice(_) => Answer::unknown(),
        }
    }
}

impl Schemas for PayloadIndexes {
    fn tokenizer(&self, key: &KeyPath) -> Option<&Tokenizer> {
        self.fields.get(key)?.tokenizer()
    }

    fn is_uuid(&self, key: &KeyPath) -> bool {
        self.schema(key).is_some_and(|schema| *schema.kind() == SchemaKind::Uuid)
    }
}

fn missing(key: &KeyPath, wanted: &str) -> Error {
    Error::PayloadIndex { key: key.to_string(), reason: wanted.to_owned() }
}
