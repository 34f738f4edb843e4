//! Reads that are more than a search by one vector: recommendation, groups, order by a payload key, facets, samples.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use roaring::RoaringBitmap;
use serde_json::Value;

use super::{Collection, record};
use crate::config::VectorParams;
use crate::error::{Error, Result};
use crate::filter::{Filter, Number, Scalar};
use crate::id::PointId;
use crate::payload::{Direction, KeyPath, PayloadSelect, StartFrom};
use crate::point::{Hit, Record};
use crate::search::{self, SearchRequest};
use crate::vector;

/// Points to be like, and points to be unlike.
#[derive(Clone, Default)]
pub struct Recommend {
    pub positive: Vec<Example>,
    pub negative: Vec<Example>,
    pub strategy: Strategy,
    /// Where the vectors of ids are looked up; this collection, by the searched vector, if `None`.
    pub lookup: Option<Lookup>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// A point, which is left out of the results unless it was looked up elsewhere.
    Id(PointId),
    Vector(Vec<f32>),
}

/// How examples become scores. Similarity is the score of the distance, negated where smaller is nearer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Nearest to the mean of the positives, moved away from the mean of the negatives by their difference.
    #[default]
    AverageVector,
    /// By the most similar example: the larger of the two similarities, squeezed into 0 to 1, negative if it is a negative's.
    /// Compares with every vector.
    BestScore,
    /// Sum of the similarities to positives less those to negatives. Compares with every vector.
    SumScores,
}

#[derive(Clone)]
pub struct Lookup {
    pub collection: Arc<Collection>,
    pub vector_name: String,
}

/// Hits that share a value of a payload key.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// A string or an integer.
    pub value: Value,
    /// Nearest first.
    pub hits: Vec<Hit>,
}

/// Scrolling by the values of an indexed payload key.
#[derive(Clone, Debug)]
pub struct OrderBy {
    pub key: KeyPath,
    pub direction: Direction,
    /// The first value wanted.
    pub start_from: Option<StartFrom>,
}

impl Collection {
    /// The results of several searches, in their order.
    pub fn search_batch(&self, requests: &[SearchRequest]) -> Vec<Result<Vec<Hit>>> {
        requests.iter().map(|request| self.search(request)).collect()
    }

    /// Points like the positive examples and unlike the negative ones. Whatever `request` says holds, but for its vector.
    /// Under [`Strategy::BestScore`] and [`Strategy::SumScores`] scores are larger where nearer, whatever the distance.
    ///
    /// # Errors
    /// [`Error::Examples`] without examples, or under [`Strategy::AverageVector`] without positives;
    /// [`Error::PointNotFound`], [`Error::VectorMissing`] for an id; and as [`search`](Self::search).
    pub fn recommend(&self, recommend: &Recommend, request: &SearchRequest) -> Result<Vec<Hit>> {
        let is_average = recommend.strategy == Strategy::AverageVector;
        if recommend.positive.is_empty() && (is_average || recommend.negative.is_empty()) {
            return Err(Error::Examples { reason: if is_average { "the average needs a positive one" } else { "there are none" } });
        }
        let positive = self.example_vectors(&recommend.positive, recommend, request)?;
        let negative = self.example_vectors(&recommend.negative, recommend, request)?;
        let mut request = request.clone();
        if recommend.lookup.is_none() {
            let ids = recommend.positive.iter().chain(&recommend.negative).filter_map(|example| match example {
                Example::Id(id) => Some(*id),
                Example::Vector(_) => None,
            });
            request.exclude.extend(ids);
        }
        if is_average {
            let (toward, away) = (mean(&positive), mean(&negative));
            request.vector = match away {
                Some(away) => toward.iter().flatten().zip(&away).map(|(p, n)| p + p - n).collect(),
                None => toward.unwrap_or_default(),
            };
            return self.search(&request);
        }
        if request.limit == 0 {
            return Err(Error::Limit);
        }
        let VectorParams { size, distance, .. } = self.shared.state().config.vector(&request.vector_name)?.clone();
        // Each is a query: under Cosine of length one, as what it is compared with.
        let scaled = |examples: Vec<Vec<f32>>| -> Result<Vec<Vec<f32>>> {
            let scale = |example: Vec<f32>| Ok(vector::check_query(&request.vector_name, size, distance, &example)?.into_owned());
            examples.into_iter().map(scale).collect()
        };
        let (positive, negative) = (scaled(positive)?, scaled(negative)?);
        let score = |vector: &[f32]| {
            let similarities =
                |examples: &[Vec<f32>]| examples.iter().map(|example| distance.nearness(example, vector)).collect::<Vec<_>>();
            let (positive, negative) = (similarities(&positive), similarities(&negative));
            match recommend.strategy {
                Strategy::SumScores => positive.iter().sum::<f32>() - negative.iter().sum::<f32>(),
                Strategy::BestScore | Strategy::AverageVector => {
                    let best = |similarities: &[f32]| similarities.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let (best_positive, best_negative) = (best(&positive), best(&negative));
                    if best_positive > best_negative { squeeze(best_positive) } else { -squeeze(best_negative) }
                }
            }
        };
        self.agreeing(request.filter.is_some(), || {
            let (space, passing) = self.space_for(&request)?;
            let (changed, points) = (Cell::new(false), passing.as_ref().map(|passing| &*passing.points));
            let found = search::score_all(&space, &request, points, &score, &|part, see| self.read_lost(part, &changed, see))?;
            if changed.get() { Ok(None) } else { self.hits(&found, &request) }
        })
    }

    /// The vectors of examples, checked, those given as they are: the mean is not one of lengths.
    fn example_vectors(&self, examples: &[Example], recommend: &Recommend, request: &SearchRequest) -> Result<Vec<Vec<f32>>> {
        let (from, name) = match &recommend.lookup {
            Some(lookup) => (&*lookup.collection, &lookup.vector_name),
            None => (self, &request.vector_name),
        };
        let size = self.shared.state().config.vector(&request.vector_name)?.size;
        let read = |example: &Example| {
            let vector = match example {
                Example::Vector(vector) => vector.clone(),
                Example::Id(id) => from.vector_of(*id, name)?,
            };
            vector::check_numbers(&request.vector_name, size, &vector)?;
            Ok(vector)
        };
        examples.iter().map(read).collect()
    }

    /// The stored vector of a point.
    ///
    /// # Errors
    /// [`Error::UnknownVector`], [`Error::PointNotFound`], [`Error::VectorMissing`].
    pub fn vector_of(&self, id: PointId, vector_name: &str) -> Result<Vec<f32>> {
        self.check_open()?;
        self.shared.state().config.vector(vector_name)?;
        self.shared.read(|truth| {
            let row = truth.point_by_id(id)?.ok_or(Error::PointNotFound { id })?;
            let missing = || Error::VectorMissing { id, name: vector_name.to_owned() };
            truth.vectors_of(&row)?.remove(vector_name).ok_or_else(missing)
        })
    }

    /// The nearest points in groups by the value at a payload key, a string or an integer: at most `limit` groups of at most
    /// `group_size`, the group of the nearest point first. A point of several values is in several groups, one without a
    /// value in none. The request's limit and offset are not looked at.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn search_groups(&self, request: &SearchRequest, group_by: &KeyPath, group_size: usize, limit: usize) -> Result<Vec<Group>> {
        if group_size == 0 || limit == 0 {
            return Err(Error::Limit);
        }
        let points = self.count().max(1);
        let mut wanted = limit.saturating_mul(group_size).saturating_mul(2).min(points);
        loop {
            let hits = self.search(&SearchRequest { limit: wanted, offset: 0, with_payload: PayloadSelect::All, ..request.clone() })?;
            let all = hits.len() < wanted || wanted >= points;
            let mut groups: Vec<Group> = Vec::new();
            for hit in &hits {
                for value in group_values(hit, group_by) {
                    let place = groups.iter().position(|group| group.value == value);
                    let group = match place {
                        Some(place) => &mut groups[place],
                        None if groups.len() < limit => {
                            groups.push(Group { value, hits: Vec::new() });
                            groups.last_mut().expect("it was just pushed")
                        }
                        None => continue,
                    };
                    if group.hits.len() < group_size {
                        let payload = hit.payload.clone().filter(|_| request.with_payload.wants_any());
                        let payload = payload.map(|payload| request.with_payload.apply(payload));
                        group.hits.push(Hit { payload, ..hit.clone() });
                    }
                }
            }
            let full = groups.len() == limit && groups.iter().all(|group| group.hits.len() == group_size);
            if full || all {
                return Ok(groups);
            }
            wanted = wanted.saturating_mul(4).min(points);
        }
    }

    /// Points in the order of the values at an indexed key, each with the value, a date as microseconds since 1970; a point
    /// of several values comes once for each.
    ///
    /// # Errors
    /// [`Error::PayloadIndex`] if the key has no index that has an order.
    pub fn scroll_ordered(
        &self,
        order: &OrderBy,
        filter: Option<&Filter>,
        limit: usize,
        with_payload: impl Into<PayloadSelect>,
        with_vectors: bool,
    ) -> Result<Vec<(Record, Number)>> {
        self.check_open()?;
        let with_payload = with_payload.into();
        let passing = filter.map(|filter| self.shared.passing(filter, None)).transpose()?;
        let found: Vec<(u32, Number)> = self.shared.with_sets(|sets, _| {
            let ordered = sets.indexes.ordered(&order.key, order.direction, order.start_from)?;
            let passes = |number: u32| passing.as_ref().is_none_or(|passing| passing.points.numbers().contains(number));
            Ok(ordered.filter(|(number, _)| passes(*number)).take(limit).collect())
        })?;
        self.shared.read(|truth| {
            let mut records = Vec::with_capacity(found.len());
            for (number, value) in &found {
                // One that was deleted meanwhile is left out.
                if let Some(row) = truth.point_by_number(*number)? {
                    records.push((record(truth, &row, &with_payload, with_vectors)?, *value));
                }
            }
            Ok(records)
        })
    }

    /// The most frequent values at an indexed key, equally frequent ones by value, each with the number of points that
    /// hold it.
    ///
    /// # Errors
    /// [`Error::PayloadIndex`] if the key has no index that counts.
    pub fn facet(&self, key: &KeyPath, filter: Option<&Filter>, limit: usize) -> Result<Vec<(Scalar, u64)>> {
        self.check_open()?;
        let passing = filter.map(|filter| self.shared.passing(filter, None)).transpose()?;
        self.shared.with_sets(|sets, _| sets.indexes.facet(key, limit, passing.as_ref().map(|passing| passing.points.numbers())))
    }

    /// Some points, drawn without preference. One seed draws the same from the same points.
    pub fn sample(
        &self,
        filter: Option<&Filter>,
        limit: usize,
        seed: u64,
        with_payload: impl Into<PayloadSelect>,
        with_vectors: bool,
    ) -> Result<Vec<Record>> {
        self.check_open()?;
        let with_payload = with_payload.into();
        let numbers: RoaringBitmap = match filter {
            Some(filter) => self.shared.passing(filter, None)?.points.numbers().clone(),
            None => self.shared.with_sets(|sets, _| Ok(sets.all().clone()))?,
        };
        let (count, mut drawn, mut state) = (numbers.len(), Vec::new(), seed);
        // Floyd's sampling: `limit` distinct places of `count`, whatever the ratio.
        let mut places = BTreeSet::new();
        for top in count - count.min(limit as u64)..count {
            let place = below(&mut state, top + 1);
            let place = if places.insert(place) { place } else { top };
            places.insert(place);
            drawn.push(place);
        }
        self.shared.read(|truth| {
            let mut records = Vec::with_capacity(drawn.len());
            for place in &drawn {
                let number = numbers.select(*place as u32).expect("a place below the count");
                if let Some(row) = truth.point_by_number(number)? {
                    records.push(record(truth, &row, &with_payload, with_vectors)?);
                }
            }
            Ok(records)
        })
    }
}

fn mean(vectors: &[Vec<f32>]) -> Option<Vec<f32>> {
    let mut sum = vectors.first()?.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    for vector in &vectors[1..] {
        sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    Some(sum.iter().map(|sum| (sum / vectors.len() as f64) as f32).collect())
}

/// Any number into 0 to 1, in its order.
fn squeeze(x: f32) -> f32 {
    0.5 * (x / (1.0 + x.abs()) + 1.0)
}

fn group_values(hit: &Hit, group_by: &KeyPath) -> Vec<Value> {
    let Some(payload) = &hit.payload else { return Vec::new() };
    let opened = group_by.select(payload).into_iter().flat_map(|value| match value {
        Value::Array(values) => values.iter().collect(),
        other => vec![other],
    });
    let mut values: Vec<Value> = Vec::new();
    for value in opened {
        let groups = value.is_string() || value.is_i64() || value.is_u64();
        if groups && !values.contains(value) {
            values.push(value.clone());
        }
    }
    values
}

/// A number below `bound`, by SplitMix64 (<https://doi.org/10.1145/2714064.2660195>).
fn below(state: &mut u64, bound: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // The high half of the product: without a visible preference for any bound that occurs here.
    ((u128::from(z ^ (z >> 31)) * u128::from(bound)) >> 64) as u64
}
