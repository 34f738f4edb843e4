//! Payload indexes against the plain way: whatever is indexed, no point that passes is left out, and exact answers are.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use roaring::RoaringBitmap;
use serde_json::{Value, json};

use super::{Direction, FieldIndex, KeyPath, PayloadIndexes, PayloadSchema, Points, SchemaKind, StartFrom, Tokenizer, TokenizerKind};
use crate::filter::random::{self, KEYS, Opinion, Sample};
use crate::filter::{Datetime, Filter, Number, Scalar};
use crate::id::PointId;
use crate::point::Payload;

/// A collection as the indexes see it.
#[derive(Default)]
struct Collection {
    samples: BTreeMap<u32, Sample>,
    all: RoaringBitmap,
    image: RoaringBitmap,
    nothing: RoaringBitmap,
    knows_ids: bool,
}

impl Points for Collection {
    fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    fn with_vector(&self, name: &str) -> Option<&RoaringBitmap> {
        match name {
            "image" => Some(&self.image),
            "none" => Some(&self.nothing),
            _ => None,
        }
    }

    fn with_ids(&self, ids: &BTreeSet<PointId>) -> Option<RoaringBitmap> {
        self.knows_ids.then(|| self.samples.iter().filter(|(_, sample)| ids.contains(&sample.id)).map(|(point, _)| *point).collect())
    }
}

impl Collection {
    fn put(&mut self, point: u32, sample: Sample) {
        self.all.insert(point);
        if sample.vectors.contains(&"image") {
            self.image.insert(point)
        } else {
            self.image.remove(point)
        };
        self.samples.insert(point, sample);
    }
}

fn kinds() -> Vec<SchemaKind> {
    vec![
        SchemaKind::Keyword,
        SchemaKind::Integer { lookup: true, range: true },
        SchemaKind::Float,
        SchemaKind::Bool,
        SchemaKind::Datetime,
        SchemaKind::Uuid,
        SchemaKind::Geo,
        SchemaKind::Text(Tokenizer::default()),
        SchemaKind::Text(Tokenizer { kind: TokenizerKind::Prefix, ..Tokenizer::default() }),
    ]
}

#[test]
fn no_point_that_passes_is_left_out_and_exact_answers_are_exact() {
    let mut random = ChaCha8Rng::seed_from_u64(21);
    let (mut exact, mut bounded, mut unknown) = (0, 0, 0);
    for round in 0..60 {
        let mut collection = Collection { knows_ids: round % 2 == 0, ..Collection::default() };
        let mut indexes = PayloadIndexes::default();
        let mut schemas = BTreeMap::new();
        for key in KEYS.into_iter().chain(["n[].m[].a", "o.l[].x", "a[].x"]) {
            if random.random_range(0..3) > 0 {
                let kind = kinds().choose(&mut random).unwrap().clone();
                indexes.add(FieldIndex::new(KeyPath::parse(key).unwrap(), PayloadSchema::from(kind.clone())));
                schemas.insert(key.to_owned(), kind);
            }
        }
        for step in 0..150u32 {
            let point = random.random_range(0..60) + round * 1_000;
            match (collection.samples.remove(&point), random.random_range(0..5)) {
                (Some(old), 0) => {
                    indexes.remove(point, &old.payload);
                    collection.all.remove(point);
                    collection.image.remove(point);
                }
                (Some(mut old), _) => {
                    let mut payload = random::payload(&mut random);
                    if step % 2 == 0 {
                        payload = old.payload.clone();
                        payload.insert("a".to_owned(), random::payload(&mut random).remove("b").unwrap_or_default());
                    }
                    indexes.update(point, &old.payload, &payload);
                    old.payload = payload;
                    collection.put(point, old);
                }
                (None, _) => {
                    let sample = random::sample(&mut random, u64::from(point % 60));
                    indexes.insert(point, &sample.payload);
                    collection.put(point, sample);
                }
            }
        }
        for _ in 0..100 {
            let json = random::filter(&mut random);
            let filter = Filter::parse(&json).unwrap();
            let resolved = indexes.resolve(&filter, &collection);
            let candidates = resolved.candidates.as_ref().unwrap_or(&collection.all);
            let mut passing = RoaringBitmap::new();
            for (point, sample) in &collection.samples {
                let expected = Opinion { sample, schemas: &schemas }.passes(&json);
                let context = || format!("round {round}, {schemas:?}: {json} on {}", Value::Object(sample.payload.clone()));
                assert_eq!(indexes.matches(&filter, sample), expected, "{}", context());
                assert!(!expected || candidates.contains(*point), "left out: {}", context());
                assert!(expected || !resolved.certain.contains(*point), "wrongly certain: {}", context());
                if expected {
                    passing.insert(*point);
                }
            }
            assert!(candidates.is_subset(&collection.all) && resolved.certain.is_subset(candidates));
            if resolved.exact {
                assert_eq!(*candidates, passing);
                exact += 1;
            } else if resolved.candidates.is_some() {
                bounded += 1;
            } else {
                unknown += 1;
            }
        }
        // What was put in comes out again.
        for (point, sample) in &collection.samples {
            indexes.remove(*point, &sample.payload);
        }
        let nothing = Collection::default();
        for key in KEYS {
            let filter = Filter::parse(&json!({"must": {"key": key, "is_empty": false}})).unwrap();
            let left = indexes.resolve(&filter, &nothing);
            assert!(left.candidates.is_none_or(|left| left.is_empty()));
        }
        assert_eq!(indexes.iter().map(FieldIndex::points).sum::<u64>(), 0);
    }
    assert!(exact > 1_500 && bounded > 1_000 && unknown > 500, "{exact} exact, {bounded} bounded, {unknown} unknown");
}

#[test]
fn nested_conditions_are_of_one_object_in_indexes_too() {
    let mut random = ChaCha8Rng::seed_from_u64(23);
    let kinds = [
        ("n[].a", SchemaKind::Integer { lookup: true, range: true }),
        ("n[].b", SchemaKind::Keyword),
        ("n[].t", SchemaKind::Text(Tokenizer::default())),
        ("n[].m[].a", SchemaKind::Keyword),
    ];
    let schemas: BTreeMap<String, SchemaKind> = kinds.iter().map(|(key, kind)| ((*key).to_owned(), kind.clone())).collect();
    let mut indexes = PayloadIndexes::default();
    for (key, kind) in kinds {
        indexes.add(FieldIndex::new(KeyPath::parse(key).unwrap(), kind.into()));
    }
    let word = |random: &mut ChaCha8Rng, words: &[&str]| json!(words.choose(random));
    let mut collection = Collection::default();
    for point in 0..200 {
        let objects = (0..random.random_range(0..4)).map(|_| match random.random_range(0..8) {
            0 => json!({"a": null, "b": []}),
            1 => json!(5),
            _ => json!({
                "a": random.random_range(0..3), "b": word(&mut random, &["x", "y", "z"]), "t": word(&mut random, &["red car", "blue car", "red", ""]),
                "m": [{"a": word(&mut random, &["x", "y"])}, {"a": word(&mut random, &["x", "y"])}],
            }),
        });
        let Value::Object(payload) = json!({"n": objects.collect::<Value>()}) else { unreachable!("it is an object") };
        indexes.insert(point, &payload);
        collection.put(point, Sample { id: PointId::Num(point.into()), payload, vectors: Vec::new() });
    }
    let condition = |random: &mut ChaCha8Rng| match random.random_range(0..9) {
        0 => json!({"key": "a", "match": {"value": random.random_range(0..3)}}),
        1 => json!({"key": "a", "range": {"gte": random.random_range(0..3)}}),
        2 => json!({"key": "b", "match": {"value": word(random, &["x", "y", "z"])}}),
        3 => json!({"key": "b", "match": {"except": [word(random, &["x", "y", "z"])]}}),
        4 => {
            json!({"key": "t", "match": {word(random, &["text", "text_any", "phrase"]).as_str().unwrap(): word(random, &["red blue", "car red", "red car"])}})
        }
        5 => json!({word(random, &["is_empty", "is_null"]).as_str().unwrap(): {"key": "a"}}),
        6 => json!({"key": "b", word(random, &["is_empty", "is_null"]).as_str().unwrap(): random.random::<bool>()}),
        7 => json!({"nested": {"key": "m", "filter": {"must": {"key": "a", "match": {"value": word(random, &["x", "y"])}}}}}),
        _ => json!({"should": [{"key": "a", "match": {"value": 1}}, {"key": "b", "match": {"value": "x"}}]}),
    };
    let mut exact = 0;
    for _ in 0..2_000 {
        let list =
            |random: &mut ChaCha8Rng, longest: usize| (0..random.random_range(0..=longest)).map(|_| condition(random)).collect::<Value>();
        let mut filter = json!({"must": list(&mut random, 2), "should": list(&mut random, 2), "must_not": list(&mut random, 1)});
        if random.random_range(0..3) == 0 {
            filter["min_should"] = json!({"conditions": list(&mut random, 3), "min_count": random.random_range(0..3)});
        }
        let json = json!({"must": {"nested": {"key": "n", "filter": filter}}});
        let filter = Filter::parse(&json).unwrap();
        let resolved = indexes.resolve(&filter, &collection);
        let passing =
            collection.samples.iter().filter(|(_, sample)| Opinion { sample, schemas: &schemas }.passes(&json)).map(|(point, _)| *point);
        let passing: RoaringBitmap = passing.collect();
        assert!(passing.is_subset(resolved.candidates.as_ref().unwrap_or(&collection.all)), "left out: {json}");
        assert!(resolved.certain.is_subset(&passing), "wrongly certain: {json}");
        exact += u32::from(resolved.exact);
    }
    assert!(exact > 300, "{exact} of 2,000 were exact");
}

fn of(kind: SchemaKind, key: &str, payloads: &[Value]) -> PayloadIndexes {
    let mut indexes = PayloadIndexes::default();
    indexes.add(FieldIndex::new(KeyPath::parse(key).unwrap(), kind.into()));
    for (point, payload) in (0..).zip(payloads) {
        indexes.insert(point, payload.as_object().unwrap());
    }
    indexes
}

#[test]
fn conditions_on_indexed_keys_need_no_payload() {
    let mut random = ChaCha8Rng::seed_from_u64(22);
    let mut collection = Collection::default();
    let place = |random: &mut ChaCha8Rng| json!({"lat": random.random_range(-90.0..90.0), "lon": random.random_range(-180.0..180.0)});
    let mut indexes = PayloadIndexes::default();
    for (key, kind) in [
        ("keyword", SchemaKind::Keyword),
        ("integer", SchemaKind::Integer { lookup: true, range: true }),
        ("float", SchemaKind::Float),
        ("bool", SchemaKind::Bool),
        ("datetime", SchemaKind::Datetime),
        ("uuid", SchemaKind::Uuid),
        ("geo", SchemaKind::Geo),
        ("text", SchemaKind::Text(Tokenizer::default())),
        ("list[].keyword", SchemaKind::Keyword),
    ] {
        indexes.add(FieldIndex::new(KeyPath::parse(key).unwrap(), kind.into()));
    }
    for point in 0..500 {
        let word = |random: &mut ChaCha8Rng, words: &[&str]| words.choose(random).map(|word| json!(word));
        let payload = json!({
            "keyword": word(&mut random, &["red", "blue", "green"]), "integer": random.random_range(0..100), "float": random.random::<f64>(),
            "bool": random.random::<bool>(), "datetime": format!("2020-01-{:02}", random.random_range(1..32)), "geo": place(&mut random),
            "uuid": uuid::Uuid::from_u128(random.random_range(0..50)).to_string(), "text": word(&mut random, &["a red car", "the blue house"]),
            "list": [{"keyword": word(&mut random, &["x", "y"])}],
        });
        let Value::Object(payload) = payload else { unreachable!("it is an object") };
        indexes.insert(point, &payload);
        collection.put(point, Sample { id: PointId::Num(point.into()), payload, vectors: Vec::new() });
    }
    let conditions = [
        json!({"key": "keyword", "match": {"value": "red"}}),
        json!({"key": "keyword", "match": {"any": ["red", "blue"]}}),
        json!({"key": "keyword", "match": {"except": ["red"]}}),
        json!({"key": "keyword", "match": {"text": "re"}}),
        json!({"key": "keyword", "match": {"prefix": "gr"}}),
        json!({"key": "integer", "match": {"value": 7}}),
        json!({"key": "integer", "match": {"any": [7, 8]}}),
        json!({"key": "integer", "match": {"except": [7, 8]}}),
        json!({"key": "integer", "range": {"gte": 10, "lt": 50}}),
        json!({"key": "float", "range": {"gt": 0.25}}),
        json!({"key": "bool", "match": {"value": true}}),
        json!({"key": "datetime", "range": {"gt": "2020-01-10", "lte": "2020-01-20T00:00:00Z"}}),
        json!({"key": "uuid", "match": {"value": "0000000000000000000000000000000A"}}),
        json!({"key": "uuid", "match": {"except": ["0000000000000000000000000000000A"]}}),
        json!({"key": "geo", "geo_radius": {"center": {"lat": 10, "lon": 170}, "radius": 5e6}}),
        json!({"key": "geo", "geo_bounding_box": {"top_left": {"lat": 50, "lon": 100}, "bottom_right": {"lat": -50, "lon": -100}}}),
        json!({"key": "text", "match": {"text": "car RED"}}),
        json!({"key": "text", "match": {"text_any": "house nothing"}}),
        json!({"key": "geo", "values_count": {"gte": 1}}),
        json!({"is_empty": {"key": "geo"}}),
        json!({"is_null": {"key": "text"}}),
        json!({"nested": {"key": "list", "filter": {"must": {"key": "keyword", "match": {"value": "x"}}}}}),
        json!({"nested": {"key": "list", "filter": {"should": [{"key": "keyword", "match": {"value": "x"}}, {"key": "keyword", "match": {"value": "z"}}]}}}),
    ];
    for condition in &conditions {
        for filter in [
            json!({"must": condition}),
            json!({"must_not": condition}),
            json!({"should": [condition, conditions[0]], "must": conditions[8]}),
        ] {
            let parsed = Filter::parse(&filter).unwrap();
            let resolved = indexes.resolve(&parsed, &collection);
            assert!(resolved.exact, "{filter} is not exact");
            let passing = collection.samples.iter().filter(|(_, sample)| indexes.matches(&parsed, *sample)).map(|(point, _)| *point);
            assert_eq!(resolved.candidates.unwrap(), passing.collect(), "{filter}");
        }
    }
}

#[test]
fn points_are_ordered_by_value_once_a_value() {
    let payloads = [
        json!({"k": 3}),
        json!({"k": [1.5, 9, 1.5]}),
        json!({"k": "2"}),
        json!({}),
        json!({"k": -1}),
        json!({"k": (1i64 << 53) + 1}),
        json!({"k": 3}),
    ];
    let indexes = of(SchemaKind::Integer { lookup: true, range: true }, "k", &payloads);
    let key = KeyPath::parse("k").unwrap();
    let order = |direction, start: Option<f64>| -> Vec<(u32, Number)> {
        indexes.ordered(&key, direction, start.map(|start| StartFrom::Number(start.into()))).unwrap().collect()
    };
    let large = Number::from((1i64 << 53) + 1);
    let ascending =
        [(4, Number::from(-1)), (1, Number::from(1.5)), (0, Number::from(3)), (6, Number::from(3)), (1, Number::from(9)), (5, large)];
    assert_eq!(order(Direction::Ascending, None), ascending);
    assert_eq!(order(Direction::Ascending, Some(3.0)), ascending[2..]);
    assert_eq!(order(Direction::Ascending, Some((1u64 << 53) as f64)), ascending[5..]);
    let mut descending = ascending;
    descending.reverse();
    assert_eq!(order(Direction::Descending, None), descending);
    assert_eq!(order(Direction::Descending, Some(3.0)), descending[2..]);
    assert_eq!(order(Direction::Descending, Some(2.9)), descending[4..]);

    let dates = of(SchemaKind::Datetime, "k", &[json!({"k": "2020-01-02"}), json!({"k": ["1970-01-01T00:00:01Z", "no date"]})]);
    let all: Vec<_> = dates.ordered(&key, Direction::Descending, None).unwrap().collect();
    assert_eq!(all, [(0, Number::from(1_577_923_200_000_000i64)), (1, Number::from(1_000_000))]);
    let start = Some(StartFrom::Datetime(Datetime::parse("2020-01-01").unwrap()));
    assert_eq!(dates.ordered(&key, Direction::Ascending, start).unwrap().count(), 1);

    let refused = |indexes: &PayloadIndexes, key: &str, start| {
        let key = KeyPath::parse(key).unwrap();
        indexes.ordered(&key, Direction::Ascending, start).err().expect("it was ordered").to_string()
    };
    assert_eq!(refused(&dates, "z", None), "payload key `z`: is ordered by an index of type integer, float or datetime, and has none");
    assert!(refused(&dates, "k", Some(StartFrom::Number(1.into()))).contains("cannot be a number"));
    assert!(refused(&indexes, "k", start).contains("cannot be a date"));
    assert!(refused(&of(SchemaKind::Keyword, "k", &[]), "k", None).contains("`keyword` has no order"));
    assert!(refused(&of(SchemaKind::Integer { lookup: true, range: false }, "k", &[]), "k", None).contains("`range` is false"));
}

#[test]
fn facets_count_points_by_value_the_most_frequent_first() {
    let facet = |kind, payloads: &[Value], limit, within: Option<&[u32]>| {
        let within = within.map(|points| points.iter().copied().collect::<RoaringBitmap>());
        of(kind, "k", payloads).facet(&KeyPath::parse("k").unwrap(), limit, within.as_ref())
    };
    let words = [
        json!({"k": ["b", "a", "a"]}),
        json!({"k": "c"}),
        json!({"k": ["c", 1]}),
        json!({"k": null}),
        json!({"k": "b"}),
        json!({"k": "d"}),
    ];
    let hits = |counts: &[(&str, u64)]| counts.iter().map(|(value, count)| (Scalar::from(*value), *count)).collect::<Vec<_>>();
    assert_eq!(facet(SchemaKind::Keyword, &words, 10, None).unwrap(), hits(&[("b", 2), ("c", 2), ("a", 1), ("d", 1)]));
    assert_eq!(facet(SchemaKind::Keyword, &words, 3, None).unwrap(), hits(&[("b", 2), ("c", 2), ("a", 1)]));
    assert_eq!(facet(SchemaKind::Keyword, &words, 10, Some(&[1, 2, 4, 99])).unwrap(), hits(&[("c", 2), ("b", 1)]));
    assert_eq!(facet(SchemaKind::Keyword, &words, 0, None).unwrap(), []);
    let numbers = [json!({"k": [2, 1, 1.0, 2]}), json!({"k": 1}), json!({"k": 0.5}), json!({"k": u64::MAX}), json!({"k": "1"})];
    let integer = SchemaKind::Integer { lookup: true, range: true };
    assert_eq!(
        facet(integer.clone(), &numbers, 10, None).unwrap(),
        [(Scalar::from(1), 2), (Scalar::from(2), 1), (Scalar::from(u64::MAX), 1)]
    );
    assert_eq!(facet(integer, &numbers, 1, Some(&[3])).unwrap(), [(Scalar::from(u64::MAX), 1)]);
    let uuids = [json!({"k": "550E8400E29B41D4A716446655440000"}), json!({"k": "550e8400-e29b-41d4-a716-446655440000"}), json!({"k": "x"})];
    assert_eq!(facet(SchemaKind::Uuid, &uuids, 10, None).unwrap(), hits(&[("550e8400-e29b-41d4-a716-446655440000", 2)]));
    let bools = [json!({"k": [true, false]}), json!({"k": true}), json!({"k": 1})];
    assert_eq!(facet(SchemaKind::Bool, &bools, 10, None).unwrap(), [(Scalar::Bool(true), 2), (Scalar::Bool(false), 1)]);
    for kind in [SchemaKind::Float, SchemaKind::Integer { lookup: false, range: true }, SchemaKind::Datetime, SchemaKind::Geo] {
        let error = facet(kind, &[], 10, None).unwrap_err().to_string();
        assert!(error.starts_with("payload key `k`: an in"), "{error}");
    }
}

#[test]
fn an_index_is_replaced_and_dropped_by_key() {
    let key = KeyPath::parse("k").unwrap();
    let mut indexes = of(SchemaKind::Keyword, "k", &[json!({"k": "x"})]);
    assert_eq!(indexes.schema(&key).unwrap().data_type(), "keyword");
    let mut built = FieldIndex::new(key.clone(), SchemaKind::Bool.into());
    let payload: Payload = serde_json::from_value(json!({"k": true})).unwrap();
    built.insert(0, &payload);
    indexes.add(built);
    assert_eq!(indexes.iter().map(|index| (index.schema().data_type(), index.points())).collect::<Vec<_>>(), [("bool", 1)]);
    assert!(indexes.drop(&key) && !indexes.drop(&key) && indexes.schema(&key).is_none());
}
