//! Every operation there is, one small case each: what it changes, what it leaves, what it refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use moco_index::{
    Ack, AliasAction, Collection, CollectionConfig, Condition, Direction, Distance, Error, Example, Filter, Hit, KeyPath, Lookup,
    Operation, OrderBy, Payload, PayloadSchema, PayloadSelect, Point, PointId, Recommend, Record, Scalar, SearchRequest, Selector, Store,
    Strategy, UpsertMode, VectorParams,
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};

fn id(number: u64) -> PointId {
    PointId::Num(number)
}

fn payload(value: Value) -> Payload {
    match value {
        Value::Object(payload) => payload,
        other => panic!("{other} is no payload"),
    }
}

fn point(number: u64, image: [f32; 2], payload_value: Value) -> Point {
    Point { id: id(number), vectors: BTreeMap::from([("image".to_owned(), image.to_vec())]), payload: payload(payload_value) }
}

/// Two named vectors, five points that have only the first.
fn filled() -> (tempfile::TempDir, Store, Arc<Collection>) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vectors = [("image", VectorParams::new(2, Distance::Dot)), ("text", VectorParams::new(3, Distance::Euclid))];
    let config =
        CollectionConfig { vectors: vectors.map(|(name, params)| (name.to_owned(), params)).into(), ..CollectionConfig::default() };
    let collection = store.create_collection("c", config).unwrap();
    collection
        .upsert(vec![
            point(1, [1.0, 0.0], json!({"city": "Berlin", "n": 1, "tags": ["a", "b"]})),
            point(2, [2.0, 0.0], json!({"city": "Paris", "n": 2, "tags": ["b"]})),
            point(3, [3.0, 0.0], json!({"city": "Berlin", "n": 3})),
            point(4, [4.0, 0.0], json!({"n": 4.5, "nested": {"deep": [1]}})),
            point(5, [5.0, 0.0], json!({})),
        ])
        .unwrap();
    (folder, store, collection)
}

fn apply(collection: &Collection, operation: Operation) -> Result<u64, Error> {
    collection.apply(operation, Ack::Durable)
}

fn ids(numbers: &[u64]) -> Selector {
    Selector::Ids(numbers.iter().map(|number| id(*number)).collect())
}

fn in_berlin() -> Filter {
    Filter::must([Condition::field("city").equals("Berlin")])
}

fn payload_of(collection: &Collection, number: u64) -> Value {
    Value::Object(collection.retrieve(&[id(number)], true, false).unwrap().remove(0).payload.unwrap())
}

fn vectors_of(collection: &Collection, number: u64) -> BTreeMap<String, Vec<f32>> {
    collection.retrieve(&[id(number)], false, true).unwrap().remove(0).vectors.unwrap()
}

fn image(limit: usize) -> SearchRequest {
    SearchRequest { vector_name: "image".to_owned(), ..SearchRequest::new(vec![1.0, 0.0], limit) }
}

fn numbers(hits: &[Hit]) -> Vec<u64> {
    let number = |hit: &Hit| match hit.id {
        PointId::Num(number) => number,
        PointId::Uuid(uuid) => panic!("{uuid}"),
    };
    hits.iter().map(number).collect()
}

#[test]
fn payloads_are_set_overwritten_deleted_and_cleared_and_vectors_stay() {
    let (_folder, _store, collection) = filled();
    let before = vectors_of(&collection, 1);
    apply(&collection, Operation::SetPayload { points: ids(&[1]), payload: payload(json!({"n": 7, "new": null})), key: None }).unwrap();
    assert_eq!(payload_of(&collection, 1), json!({"city": "Berlin", "n": 7, "tags": ["a", "b"], "new": null}));
    let key = Some(KeyPath::parse("nested.further").unwrap());
    apply(&collection, Operation::SetPayload { points: ids(&[4]), payload: payload(json!({"x": 1})), key }).unwrap();
    assert_eq!(payload_of(&collection, 4), json!({"n": 4.5, "nested": {"deep": [1], "further": {"x": 1}}}));
    let keys = ["tags", "absent", "city"].map(|key| KeyPath::parse(key).unwrap()).to_vec();
    apply(&collection, Operation::DeletePayload { points: ids(&[1]), keys }).unwrap();
    assert_eq!(payload_of(&collection, 1), json!({"n": 7, "new": null}));
    apply(&collection, Operation::OverwritePayload { points: ids(&[1]), payload: payload(json!({"only": true})) }).unwrap();
    assert_eq!(payload_of(&collection, 1), json!({"only": true}));
    apply(&collection, Operation::ClearPayload { points: Selector::Filter(in_berlin()) }).unwrap();
    assert_eq!((payload_of(&collection, 3), payload_of(&collection, 2)["city"].clone()), (json!({}), json!("Paris")));
    assert_eq!(vectors_of(&collection, 1), before);
    assert_eq!(numbers(&collection.search(&image(9)).unwrap()), [5, 4, 3, 2, 1]);
    collection.verify().unwrap();
}

#[test]
fn an_operation_on_an_id_that_is_not_there_changes_nothing_and_a_deletion_does_not_mind() {
    let (_folder, _store, collection) = filled();
    let operations = [
        Operation::SetPayload { points: ids(&[1, 99]), payload: payload(json!({"n": 0})), key: None },
        Operation::OverwritePayload { points: ids(&[1, 99]), payload: Payload::new() },
        Operation::ClearPayload { points: ids(&[1, 99]) },
        Operation::DeleteVectors { points: ids(&[1, 99]), names: vec!["image".to_owned()] },
        Operation::UpdateVectors {
            points: [1, 99].map(|n| (id(n), BTreeMap::from([("image".to_owned(), vec![0.0, 0.0])]))).to_vec(),
            filter: None,
        },
    ];
    for operation in operations {
        let error = apply(&collection, operation.clone()).unwrap_err();
        assert!(matches!(error, Error::PointNotFound { id: PointId::Num(99) }), "{operation:?}: {error}");
    }
    assert_eq!((payload_of(&collection, 1)["n"].clone(), vectors_of(&collection, 1)["image"].clone()), (json!(1), vec![1.0, 0.0]));
    apply(&collection, Operation::Delete { points: ids(&[1, 99]) }).unwrap();
    assert_eq!(collection.count(), 4);
}

#[test]
fn a_payload_that_could_not_be_read_again_is_not_written() {
    let (_folder, _store, collection) = filled();
    let nested = |depth: usize| (1..depth).fold(json!({"end": 1}), |value, _| json!({ "a": value }));
    let path = KeyPath::parse(&["b"; 32].join(".")).unwrap();
    let set = |depth: usize, key: Option<KeyPath>| Operation::SetPayload { points: ids(&[1]), payload: payload(nested(depth)), key };
    for key in [None, Some(path)] {
        let error = apply(&collection, set(65, key.clone())).unwrap_err();
        assert_eq!(error.to_string(), "the payload is nested more than 64 deep at `a`");
        apply(&collection, set(64, key)).unwrap();
        assert_eq!(collection.retrieve(&[id(1)], true, false).unwrap().len(), 1);
    }
    let deep = Point { id: id(9), vectors: BTreeMap::new(), payload: payload(nested(65)) };
    assert!(matches!(collection.upsert(vec![deep]), Err(Error::PayloadDepth { .. })));
}

#[test]
fn vectors_are_updated_and_deleted_one_by_one() {
    let (_folder, _store, collection) = filled();
    let text = |number: u64, vector: [f32; 3]| (id(number), BTreeMap::from([("text".to_owned(), vector.to_vec())]));
    apply(&collection, Operation::UpdateVectors { points: vec![text(1, [1.0, 1.0, 1.0]), text(2, [2.0, 2.0, 2.0])], filter: None })
        .unwrap();
    assert_eq!(vectors_of(&collection, 1).into_keys().collect::<Vec<_>>(), ["image", "text"]);
    let by_text = SearchRequest { vector_name: "text".to_owned(), ..SearchRequest::new(vec![2.0; 3], 9) };
    assert_eq!(numbers(&collection.search(&by_text).unwrap()), [2, 1], "points without the vector are not found by it");
    // Only where the filter passes.
    let update = Operation::UpdateVectors { points: vec![text(1, [9.0; 3]), text(2, [9.0; 3])], filter: Some(in_berlin()) };
    apply(&collection, update).unwrap();
    assert_eq!((vectors_of(&collection, 1)["text"][0], vectors_of(&collection, 2)["text"][0]), (9.0, 2.0));
    apply(&collection, Operation::DeleteVectors { points: ids(&[1, 3]), names: vec!["text".to_owned(), "image".to_owned()] }).unwrap();
    assert_eq!((vectors_of(&collection, 1).len(), collection.count()), (0, 5));
    assert_eq!(numbers(&collection.search(&image(9)).unwrap()), [5, 4, 2]);
    let unknown = Operation::DeleteVectors { points: ids(&[2]), names: vec!["sound".to_owned()] };
    assert!(matches!(apply(&collection, unknown), Err(Error::UnknownVector { name }) if name == "sound"));
    collection.verify().unwrap();
}

#[test]
fn upserts_can_be_limited_to_new_points_to_old_ones_and_to_those_that_pass() {
    let (_folder, _store, collection) = filled();
    let upsert = |mode, filter, points: &[u64]| {
        let points = points.iter().map(|number| point(*number, [0.0, 1.0], json!({"mode": format!("{mode:?}")}))).collect();
        apply(&collection, Operation::Upsert { points, mode, filter }).unwrap();
    };
    upsert(UpsertMode::InsertOnly, None, &[1, 6]);
    assert_eq!((payload_of(&collection, 1)["n"].clone(), payload_of(&collection, 6)), (json!(1), json!({"mode": "InsertOnly"})));
    upsert(UpsertMode::UpdateOnly, None, &[2, 7]);
    assert_eq!((payload_of(&collection, 2), collection.count()), (json!({"mode": "UpdateOnly"}), 6));
    // New points always go in; old ones only if they pass.
    upsert(UpsertMode::Upsert, Some(in_berlin()), &[1, 4, 8]);
    assert_eq!(payload_of(&collection, 1), json!({"mode": "Upsert"}));
    assert_eq!((payload_of(&collection, 4)["n"].clone(), payload_of(&collection, 8)), (json!(4.5), json!({"mode": "Upsert"})));
}

#[test]
fn operations_by_filter_see_what_was_written_just_before() {
    let (_folder, _store, collection) = filled();
    // Several clients' writes share a transaction; those by filter must not.
    std::thread::scope(|scope| {
        for client in 0..4u64 {
            let collection = &collection;
            scope.spawn(move || {
                for round in 0..20u64 {
                    let number = 100 + client;
                    collection.upsert(vec![point(number, [1.0, 1.0], json!({"client": client, "round": round}))]).unwrap();
                    let mine =
                        Filter::must([Condition::field("client").equals(client as i64), Condition::field("round").equals(round as i64)]);
                    assert_eq!(collection.count_passing(&mine).unwrap(), 1);
                    apply(collection, Operation::Delete { points: Selector::Filter(mine.clone()) }).unwrap();
                    assert_eq!(collection.count_passing(&mine).unwrap(), 0);
                }
            });
        }
    });
    assert_eq!(collection.count(), 5);
    collection.verify().unwrap();
}

#[test]
fn filters_limit_search_count_and_scroll_with_and_without_an_index() {
    let (_folder, _store, collection) = filled();
    for round in 0..2 {
        let hits = collection.search(&SearchRequest { filter: Some(in_berlin()), ..image(9) }).unwrap();
        assert_eq!((numbers(&hits), collection.count_passing(&in_berlin()).unwrap()), (vec![3, 1], 2), "round {round}");
        let (records, next) = collection.scroll_passing(Some(&in_berlin()), None, 1, true, false).unwrap();
        assert_eq!((records[0].id, next), (id(1), Some(id(3))), "round {round}");
        let (records, next) = collection.scroll_passing(Some(&in_berlin()), Some(id(2)), 9, true, false).unwrap();
        assert_eq!((records.len(), records[0].id, next), (1, id(3), None), "round {round}");
        let has = Filter::must([Condition::has_id([1, 4, 77])]);
        assert_eq!(collection.count_passing(&has).unwrap(), 2, "round {round}");
        let schema = PayloadSchema::parse(&json!("keyword")).unwrap();
        apply(&collection, Operation::CreateIndex { key: KeyPath::parse("city").unwrap(), schema }).unwrap();
    }
    // The index follows writes, and is there after a restart.
    apply(&collection, Operation::SetPayload { points: ids(&[5]), payload: payload(json!({"city": "Berlin"})), key: None }).unwrap();
    apply(&collection, Operation::Delete { points: ids(&[1]) }).unwrap();
    assert_eq!(numbers(&collection.search(&SearchRequest { filter: Some(in_berlin()), ..image(9) }).unwrap()), [5, 3]);
    drop(collection);
    let store = {
        drop(_store);
        Store::open(_folder.path()).unwrap()
    };
    let collection = store.collection("c").unwrap();
    assert_eq!(collection.config().indexes.keys().map(ToString::to_string).collect::<Vec<_>>(), ["city"]);
    assert_eq!(
        collection.facet(&KeyPath::parse("city").unwrap(), None, 9).unwrap(),
        [(Scalar::String("Berlin".to_owned()), 2), (Scalar::String("Paris".to_owned()), 1)]
    );
    apply(&collection, Operation::DropIndex { key: KeyPath::parse("city").unwrap() }).unwrap();
    assert!(matches!(collection.facet(&KeyPath::parse("city").unwrap(), None, 9), Err(Error::PayloadIndex { .. })));
    assert_eq!(collection.count_passing(&in_berlin()).unwrap(), 2);
}

/// Ranges are kept one by one as well as the filters they are part of; a collection without indexes reads every payload.
#[test]
fn filters_of_several_ranges_pass_the_same_points_with_and_without_indexes() {
    let mut random = ChaCha8Rng::seed_from_u64(21);
    let (_folder, _store, plain) = filled();
    let (_other_folder, _other_store, indexed) = filled();
    for (key, kind) in [("n", "integer"), ("weight", "float"), ("city", "keyword"), ("day", "datetime")] {
        let schema = PayloadSchema::parse(&json!(kind)).unwrap();
        apply(&indexed, Operation::CreateIndex { key: KeyPath::parse(key).unwrap(), schema }).unwrap();
    }
    let cities = ["Berlin", "Paris", "Rome"];
    let write = |numbers: std::ops::Range<u64>, random: &mut ChaCha8Rng| {
        let points: Vec<Point> = numbers
            .map(|number| {
                let mut n = || random.random_range(0..20);
                let several = json!([n(), n()]);
                let payload = match random.random_range(0..5) {
                    0 => json!({}),
                    1 => json!({"n": several, "city": cities[random.random_range(0..3)]}),
                    2 => json!({"n": "seven", "weight": random.random_range(0.0..1.0)}),
                    _ => json!({
                        "n": random.random_range(0..20),
                        "weight": random.random_range(0.0..1.0),
                        "city": cities[random.random_range(0..3)],
                        "day": format!("2026-0{}-01", random.random_range(1..10)),
                    }),
                };
                point(number, [1.0, 1.0], payload)
            })
            .collect();
        plain.upsert(points.clone()).unwrap();
        indexed.upsert(points).unwrap();
    };
    write(0..300, &mut random);
    let mut compared = 0;
    for round in 0..200u64 {
        if round % 20 == 19 {
            write(round..round + 3, &mut random);
        }
        let mut range = || match random.random_range(0..3) {
            0 => {
                let from = random.random_range(0..20);
                json!({"key": "n", "range": {"gte": from, "lt": from + random.random_range(0..12)}})
            }
            1 => json!({"key": "weight", "range": {"lt": f64::from(random.random_range(0..5)) / 4.0}}),
            _ => json!({"key": "day", "range": {"gt": format!("2026-0{}-01T00:00:00Z", random.random_range(1..10))}}),
        };
        let mut filter = json!({"must": [range(), range()]});
        if round % 2 == 0 {
            filter["must"].as_array_mut().unwrap().push(json!({"key": "city", "match": {"value": "Paris"}}));
        }
        if round % 3 == 0 {
            filter["must_not"] = json!([range()]);
        }
        if round % 5 == 0 {
            filter["should"] = json!([range(), {"is_empty": {"key": "city"}}]);
        }
        if round % 7 == 0 {
            filter["must"].as_array_mut().unwrap().push(json!({"has_id": [3, 7, 11, 90, 150, 299]}));
        }
        let request = SearchRequest { filter: Some(Filter::parse(&filter).unwrap()), ..image(1000) };
        let expected = numbers(&plain.search(&request).unwrap());
        // As it is found, and as it was kept.
        for _ in 0..2 {
            assert_eq!(numbers(&indexed.search(&request).unwrap()), expected, "{filter}");
        }
        compared += expected.len();
    }
    assert!(compared > 2000, "{compared}");
}

#[test]
fn points_come_in_the_order_of_an_indexed_key() {
    let (_folder, _store, collection) = filled();
    let order = |direction, start_from| OrderBy { key: KeyPath::parse("n").unwrap(), direction, start_from };
    let refused = collection.scroll_ordered(&order(Direction::Ascending, None), None, 9, false, false);
    assert!(matches!(refused, Err(Error::PayloadIndex { .. })));
    let schema = PayloadSchema::parse(&json!("float")).unwrap();
    apply(&collection, Operation::CreateIndex { key: KeyPath::parse("n").unwrap(), schema }).unwrap();
    let ids_in = |order: &OrderBy, filter: Option<&Filter>| {
        let found = collection.scroll_ordered(order, filter, 9, false, false).unwrap();
        found.iter().map(|(record, _)| record.id).collect::<Vec<_>>()
    };
    assert_eq!(ids_in(&order(Direction::Ascending, None), None), [1, 2, 3, 4].map(id));
    assert_eq!(ids_in(&order(Direction::Descending, None), Some(&in_berlin())), [3, 1].map(id));
    let from_3 = moco_index::StartFrom::Number(moco_index::Number::from(3i64));
    assert_eq!(ids_in(&order(Direction::Ascending, Some(from_3)), None), [3, 4].map(id));
}

#[test]
fn recommendations_follow_each_strategy_by_its_formula() {
    let (_folder, _store, collection) = filled();
    let ids_of = |recommend: &Recommend| numbers(&collection.recommend(recommend, &image(9)).unwrap());
    let positive = |positive: Vec<Example>, negative: Vec<Example>, strategy| Recommend { positive, negative, strategy, lookup: None };
    // The mean of 1 and 2 is (1.5, 0): the others by their dot product; the examples are left out.
    assert_eq!(ids_of(&positive(vec![Example::Id(id(1)), Example::Id(id(2))], vec![], Strategy::AverageVector)), [5, 4, 3]);
    // (1, 0) + (1, 0) - (5, 0) points the other way.
    assert_eq!(ids_of(&positive(vec![Example::Id(id(1))], vec![Example::Id(id(5))], Strategy::AverageVector)), [2, 3, 4]);
    let sums = positive(
        vec![Example::Vector(vec![1.0, 0.0]), Example::Vector(vec![1.0, 0.0])],
        vec![Example::Vector(vec![0.5, 0.0])],
        Strategy::SumScores,
    );
    let hits = collection.recommend(&sums, &image(9)).unwrap();
    assert_eq!((numbers(&hits), hits[0].score), (vec![5, 4, 3, 2, 1], 7.5));
    let best = positive(vec![Example::Vector(vec![1.0, 0.0])], vec![Example::Vector(vec![0.0, 1.0])], Strategy::BestScore);
    let hits = collection.recommend(&best, &image(2)).unwrap();
    assert_eq!(numbers(&hits), [5, 4]);
    assert!((hits[0].score - 0.5 * (5.0 / 6.0 + 1.0)).abs() < 1e-6, "{}", hits[0].score);
    for (recommend, expected) in [
        (positive(vec![], vec![Example::Id(id(1))], Strategy::AverageVector), "the average needs a positive one"),
        (positive(vec![], vec![], Strategy::BestScore), "there are none"),
        (positive(vec![Example::Id(id(99))], vec![], Strategy::SumScores), "no point with id 99 found"),
        (positive(vec![Example::Vector(vec![1.0])], vec![], Strategy::SumScores), "has 1 dimensions"),
    ] {
        let error = collection.recommend(&recommend, &image(9)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Three points in a collection of this distance, and what a strategy makes of them: numbers, and scores to within rounding.
fn scored_by(distance: Distance, points: [[f32; 2]; 3], recommend: &Recommend) -> Vec<(u64, f32)> {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vectors = BTreeMap::from([("image".to_owned(), VectorParams::new(2, distance))]);
    let collection = store.create_collection("c", CollectionConfig { vectors, ..CollectionConfig::default() }).unwrap();
    collection.upsert((1..).zip(points).map(|(number, image)| point(number, image, json!({}))).collect()).unwrap();
    let hits = collection.recommend(recommend, &image(9)).unwrap();
    numbers(&hits).into_iter().zip(hits.iter().map(|hit| hit.score)).collect()
}

fn assert_scores(found: &[(u64, f32)], expected: &[(u64, f32)]) {
    let agree = found.iter().zip(expected).all(|((a, x), (b, y))| a == b && (x - y).abs() < 1e-6);
    assert!(found.len() == expected.len() && agree, "{found:?}, not {expected:?}");
}

/// A similarity squeezed into 0 to 1: 0 is a half, -5 a twelfth, -10 a twenty-second.
#[test]
fn where_smaller_is_nearer_examples_score_by_negated_distances() {
    let (near, far) = (Example::Vector(vec![0.0, 0.0]), Example::Vector(vec![6.0, 8.0]));
    // By Euclid 0, 5 and 10 from the one and 10, 5 and 0 from the other; by Manhattan as many times 7/5.
    let points = [[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]];
    let score = |distance, positive: &[&Example], negative: &[&Example], strategy| {
        let [positive, negative] = [positive, negative].map(|examples| examples.iter().map(|example| (*example).clone()).collect());
        scored_by(distance, points, &Recommend { positive, negative, strategy, lookup: None })
    };
    let euclid = |positive: &[&Example], negative: &[&Example], strategy| score(Distance::Euclid, positive, negative, strategy);
    assert_scores(&euclid(&[&near], &[&far], Strategy::SumScores), &[(1, 10.0), (2, 0.0), (3, -10.0)]);
    assert_scores(&euclid(&[&near, &near], &[], Strategy::SumScores), &[(1, 0.0), (2, -10.0), (3, -20.0)]);
    // Of the second point neither is nearer: the negative one counts.
    assert_scores(&euclid(&[&near], &[&far], Strategy::BestScore), &[(1, 0.5), (2, -1.0 / 12.0), (3, -0.5)]);
    assert_scores(&euclid(&[&near, &far], &[], Strategy::BestScore), &[(1, 0.5), (3, 0.5), (2, 1.0 / 12.0)]);
    assert_scores(&euclid(&[], &[&near], Strategy::BestScore), &[(3, -1.0 / 22.0), (2, -1.0 / 12.0), (1, -0.5)]);
    // Nearest to (0, 0) + (0, 0) - (6, 8): a search, whose scores are distances.
    assert_scores(&euclid(&[&near], &[&far], Strategy::AverageVector), &[(1, 10.0), (2, 15.0), (3, 20.0)]);
    assert_scores(&score(Distance::Manhattan, &[&near], &[&far], Strategy::SumScores), &[(1, 14.0), (2, 0.0), (3, -14.0)]);
    assert_scores(&score(Distance::Manhattan, &[&near], &[&far], Strategy::BestScore), &[(1, 0.5), (2, -1.0 / 16.0), (3, -0.5)]);
}

#[test]
fn under_cosine_examples_score_by_the_angle_to_what_is_stored() {
    // As stored: (1, 0), (0.6, 0.8), (0, 1).
    let points = [[5.0, 0.0], [3.0, 4.0], [0.0, 2.0]];
    let score = |positive: Example, negative: Example, strategy| {
        scored_by(Distance::Cosine, points, &Recommend { positive: vec![positive], negative: vec![negative], strategy, lookup: None })
    };
    let (right, up) = (Example::Vector(vec![1.0, 0.0]), Example::Vector(vec![0.0, 1.0]));
    assert_scores(&score(right.clone(), up.clone(), Strategy::SumScores), &[(1, 1.0), (2, -0.2), (3, -1.0)]);
    // 1 squeezed is 3/4; of the second point 0.8 to the negative one is 13/18.
    assert_scores(&score(right, up, Strategy::BestScore), &[(1, 0.75), (2, -13.0 / 18.0), (3, -0.75)]);
    // Of whatever length they are given.
    let (right, up) = (Example::Vector(vec![7.0, 0.0]), Example::Vector(vec![0.0, 0.25]));
    assert_scores(&score(right.clone(), up.clone(), Strategy::SumScores), &[(1, 1.0), (2, -0.2), (3, -1.0)]);
    assert_scores(&score(right, up, Strategy::BestScore), &[(1, 0.75), (2, -13.0 / 18.0), (3, -0.75)]);
    assert_scores(&score(Example::Id(id(3)), Example::Id(id(1)), Strategy::SumScores), &[(2, 0.2)]);
    assert_scores(&score(Example::Id(id(3)), Example::Id(id(1)), Strategy::BestScore), &[(2, 13.0 / 18.0)]);
    // (0, 2) - (1, 0), at length one.
    assert_scores(&score(Example::Id(id(3)), Example::Id(id(1)), Strategy::AverageVector), &[(2, 1.0 / 5f32.sqrt())]);
}

/// The formulas once more, over every point, by the distances that a search reports.
#[test]
fn recommendations_among_many_points_agree_with_the_formulas_over_every_point() {
    let mut random = ChaCha8Rng::seed_from_u64(22);
    for distance in [Distance::Euclid, Distance::Cosine, Distance::Dot, Distance::Manhattan] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let collection = store.create_collection("c", CollectionConfig::unnamed(8, distance)).unwrap();
        let mut vector = || (0..8).map(|_| random.random_range(-1.0..1.0)).collect::<Vec<f32>>();
        let point = |number| Point { id: id(number), vectors: BTreeMap::from([(String::new(), vector())]), payload: Payload::new() };
        collection.upsert((0..300).map(point).collect()).unwrap();
        let mut length_one = vector();
        let length = length_one.iter().map(|x| x * x).sum::<f32>().sqrt();
        length_one.iter_mut().for_each(|x| *x /= length);
        let stored = |number: u64| collection.vector_of(id(number), "").unwrap();
        let examples = ([stored(3), stored(7), length_one.clone()], [stored(11), stored(20)]);
        for strategy in [Strategy::BestScore, Strategy::SumScores] {
            let positive = vec![Example::Id(id(3)), Example::Id(id(7)), Example::Vector(length_one.clone())];
            let recommend = Recommend { positive, negative: [11, 20].map(|n| Example::Id(id(n))).to_vec(), strategy, lookup: None };
            let sign = if distance.larger_is_nearer() { 1.0 } else { -1.0 };
            let score = |vector: &[f32]| {
                let similarities = |examples: &[Vec<f32>]| examples.iter().map(|x| sign * distance.score(x, vector)).collect::<Vec<f32>>();
                let (positive, negative) = (similarities(&examples.0), similarities(&examples.1));
                let best = |similarities: &[f32]| similarities.iter().copied().reduce(f32::max).unwrap();
                let squeeze = |x: f32| 0.5 * (x / (1.0 + x.abs()) + 1.0);
                match strategy {
                    Strategy::SumScores => positive.iter().sum::<f32>() - negative.iter().sum::<f32>(),
                    _ if best(&positive) > best(&negative) => squeeze(best(&positive)),
                    _ => -squeeze(best(&negative)),
                }
            };
            let mut expected: Vec<(u64, f32)> =
                (0..300).filter(|n| ![3, 7, 11, 20].contains(n)).map(|number| (number, score(&stored(number)))).collect();
            expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let request = SearchRequest { offset: 5, ..SearchRequest::new(vec![0.0; 8], 40) };
            let hits = collection.recommend(&recommend, &request).unwrap();
            let found: Vec<(u64, f32)> = numbers(&hits).into_iter().zip(hits.iter().map(|hit| hit.score)).collect();
            assert_scores(&found, &expected[5..45]);
        }
    }
}

#[test]
fn examples_can_be_points_of_another_collection_and_then_none_is_left_out() {
    let (_folder, store, collection) = filled();
    let vectors = [("small", VectorParams::new(2, Distance::Cosine)), ("large", VectorParams::new(3, Distance::Dot))];
    let config =
        CollectionConfig { vectors: vectors.map(|(name, params)| (name.to_owned(), params)).into(), ..CollectionConfig::default() };
    let other = store.create_collection("d", config).unwrap();
    let point = |number, name: &str, vector: &[f32]| Point {
        id: id(number),
        vectors: BTreeMap::from([(name.to_owned(), vector.to_vec())]),
        payload: Payload::new(),
    };
    other.upsert(vec![point(1, "small", &[3.0, 4.0]), point(2, "small", &[-2.0, 0.0]), point(77, "large", &[1.0; 3])]).unwrap();
    let recommend = |positive: &[u64], negative: &[u64], strategy, name: &str| {
        let [positive, negative] = [positive, negative].map(|numbers| numbers.iter().map(|n| Example::Id(id(*n))).collect());
        let lookup = Some(Lookup { collection: Arc::clone(&other), vector_name: name.to_owned() });
        let hits = collection.recommend(&Recommend { positive, negative, strategy, lookup }, &image(3))?;
        Ok::<_, Error>(numbers(&hits).into_iter().zip(hits.iter().map(|hit| hit.score)).collect::<Vec<_>>())
    };
    // As stored there (0.6, 0.8) and (-1, 0); here (1, 0), (2, 0) and so on.
    assert_scores(&recommend(&[1], &[], Strategy::AverageVector, "small").unwrap(), &[(5, 3.0), (4, 2.4), (3, 1.8)]);
    assert_scores(&recommend(&[2], &[], Strategy::AverageVector, "small").unwrap(), &[(1, -1.0), (2, -2.0), (3, -3.0)]);
    assert_scores(&recommend(&[1], &[2], Strategy::AverageVector, "small").unwrap(), &[(5, 11.0), (4, 8.8), (3, 6.6)]);
    assert_scores(&recommend(&[1], &[2], Strategy::SumScores, "small").unwrap(), &[(5, 8.0), (4, 6.4), (3, 4.8)]);
    // 3 squeezed is 7/8, 2.4 29/34, 1.8 23/28.
    assert_scores(&recommend(&[1], &[2], Strategy::BestScore, "small").unwrap(), &[(5, 0.875), (4, 29.0 / 34.0), (3, 23.0 / 28.0)]);
    // Looked up here, it is another vector, and left out.
    let here = Recommend { positive: vec![Example::Id(id(5))], ..Recommend::default() };
    assert_eq!(numbers(&collection.recommend(&here, &image(3)).unwrap()), [4, 3, 2]);
    let refused = |number, name| recommend(&[number], &[], Strategy::SumScores, name).unwrap_err();
    assert!(matches!(refused(3, "small"), Error::PointNotFound { id: PointId::Num(3) }), "it is here, not there");
    assert!(matches!(refused(77, "small"), Error::VectorMissing { id: PointId::Num(77), name } if name == "small"));
    assert!(matches!(refused(1, "image"), Error::UnknownVector { name } if name == "image"));
    assert!(matches!(refused(77, "large"), Error::Dimension { .. }));
}

#[test]
fn a_batch_answers_each_request_in_its_place_and_one_that_is_refused_spoils_no_other() {
    let (_folder, _store, collection) = filled();
    let requests = [
        image(2),
        image(0),
        SearchRequest { filter: Some(in_berlin()), ..image(9) },
        SearchRequest { vector_name: "sound".to_owned(), ..image(1) },
        SearchRequest { vector_name: "text".to_owned(), ..SearchRequest::new(vec![0.0; 3], 9) },
        SearchRequest { offset: 1, exclude: vec![id(4)], ..image(2) },
    ];
    let mut answers = collection.search_batch(&requests).into_iter();
    let mut next = || answers.next().unwrap();
    assert_eq!(numbers(&next().unwrap()), [5, 4]);
    assert!(matches!(next(), Err(Error::Limit)));
    assert_eq!(numbers(&next().unwrap()), [3, 1]);
    assert!(matches!(next(), Err(Error::UnknownVector { name }) if name == "sound"));
    assert!(next().unwrap().is_empty(), "no point has such a vector");
    assert_eq!(numbers(&next().unwrap()), [3, 2]);
    assert!(answers.next().is_none() && collection.search_batch(&[]).is_empty());
}

#[test]
fn groups_hold_the_nearest_of_each_value_and_points_of_several_values_are_in_several() {
    let (_folder, _store, collection) = filled();
    let groups = collection.search_groups(&image(1), &KeyPath::parse("tags").unwrap(), 1, 5).unwrap();
    let found: Vec<_> = groups.iter().map(|group| (group.value.clone(), numbers(&group.hits))).collect();
    assert_eq!(found, [(json!("b"), vec![2]), (json!("a"), vec![1])]);
    let groups =
        collection.search_groups(&SearchRequest { with_payload: true.into(), ..image(1) }, &KeyPath::parse("city").unwrap(), 2, 1).unwrap();
    assert_eq!((groups.len(), groups[0].value.clone(), numbers(&groups[0].hits)), (1, json!("Berlin"), vec![3, 1]));
    assert_eq!(groups[0].hits[0].payload.as_ref().unwrap()["city"], "Berlin");
    assert!(matches!(collection.search_groups(&image(1), &KeyPath::parse("city").unwrap(), 0, 1), Err(Error::Limit)));
}

#[test]
fn every_answer_that_has_payloads_has_the_parts_that_were_selected() {
    let (_folder, _store, collection) = filled();
    let (city, n) = (KeyPath::parse("city").unwrap(), KeyPath::parse("n").unwrap());
    let schema = PayloadSchema::parse(&json!("float")).unwrap();
    apply(&collection, Operation::CreateIndex { key: n.clone(), schema }).unwrap();
    let order = OrderBy { key: n.clone(), direction: Direction::Ascending, start_from: None };
    let recommend = |strategy| Recommend { positive: vec![Example::Id(id(1))], negative: vec![], strategy, lookup: None };
    let (without_1, all_but_n) = (Filter { must_not: vec![Condition::has_id([1])], ..Filter::default() }, PayloadSelect::Exclude(vec![n]));
    for (select, keys) in [
        (PayloadSelect::All, Some(vec!["city", "n", "tags"])),
        (PayloadSelect::None, None),
        (PayloadSelect::Include(vec![city.clone()]), Some(vec!["city"])),
        (all_but_n, Some(vec!["city", "tags"])),
    ] {
        let of_2 = |points: Vec<(PointId, Option<Payload>)>| {
            let (_, payload) = points.into_iter().find(|(point, _)| *point == id(2)).expect("2 is among them");
            payload.map(|payload| payload.keys().cloned().collect::<Vec<_>>())
        };
        let of_records = |records: Vec<Record>| of_2(records.into_iter().map(|record| (record.id, record.payload)).collect());
        let of_hits = |hits: Vec<Hit>| of_2(hits.into_iter().map(|hit| (hit.id, hit.payload)).collect());
        let request = SearchRequest { with_payload: select.clone(), ..image(9) };
        let groups = collection.search_groups(&request, &city, 9, 9).unwrap();
        let ordered = collection.scroll_ordered(&order, None, 9, select.clone(), false).unwrap();
        let found = [
            of_hits(collection.search(&request).unwrap()),
            of_hits(collection.recommend(&recommend(Strategy::AverageVector), &request).unwrap()),
            of_hits(collection.recommend(&recommend(Strategy::SumScores), &request).unwrap()),
            of_hits(groups.into_iter().flat_map(|group| group.hits).collect()),
            of_records(ordered.into_iter().map(|(record, _)| record).collect()),
            of_records(collection.retrieve(&[id(2)], select.clone(), false).unwrap()),
            of_records(collection.scroll(None, 9, select.clone(), false).unwrap().0),
            of_records(collection.scroll_passing(Some(&without_1), None, 9, select.clone(), false).unwrap().0),
            of_records(collection.sample(None, 9, 1, select.clone(), false).unwrap()),
        ];
        for keys_found in found {
            assert_eq!(keys_found.as_ref().map(|keys| keys.iter().map(String::as_str).collect::<Vec<_>>()), keys, "{select:?}");
        }
    }
}

#[test]
fn a_sample_is_of_distinct_points_and_repeats_with_its_seed() {
    let (_folder, _store, collection) = filled();
    let drawn = |seed, limit| {
        let records = collection.sample(None, limit, seed, false, false).unwrap();
        records.iter().map(|record| record.id).collect::<Vec<_>>()
    };
    assert_eq!(drawn(1, 3), drawn(1, 3));
    let mut all = drawn(7, 99);
    all.sort();
    assert_eq!(all, [1, 2, 3, 4, 5].map(id));
    let mut firsts: Vec<_> = (0..200).map(|seed| drawn(seed, 1)[0]).collect();
    firsts.sort();
    firsts.dedup();
    assert_eq!(firsts.len(), 5, "every point is drawn by some seed");
    let berlin = collection.sample(Some(&in_berlin()), 9, 3, false, false).unwrap();
    assert_eq!(berlin.len(), 2);
}

#[test]
fn an_accepted_write_is_done_in_its_turn() {
    let (_folder, _store, collection) = filled();
    for number in 10..60 {
        let operation = Operation::Upsert { points: vec![point(number, [0.0, 0.0], json!({}))], mode: UpsertMode::Upsert, filter: None };
        collection.apply(operation, Ack::Accepted).unwrap();
    }
    // A durable write waits for those before it.
    collection.upsert(vec![point(60, [0.0, 0.0], json!({}))]).unwrap();
    assert_eq!(collection.count(), 56);
    let bad = Operation::Upsert { points: vec![point(61, [f32::NAN, 0.0], json!({}))], mode: UpsertMode::Upsert, filter: None };
    assert!(matches!(collection.apply(bad, Ack::Accepted), Err(Error::NotFinite { .. })), "what can be checked is checked at once");
}

#[test]
fn aliases_stand_for_collections_and_switch_all_at_once() {
    let (folder, store, collection) = filled();
    let other = store.create_collection("d", CollectionConfig::unnamed(2, Distance::Dot)).unwrap();
    let create = |alias: &str, collection: &str| AliasAction::Create { alias: alias.to_owned(), collection: collection.to_owned() };
    store.change_aliases(&[create("live", "c"), create("next", "d")]).unwrap();
    assert!(Arc::ptr_eq(&store.collection("live").unwrap(), &collection));
    // Both or neither: the second action fails, the first is not kept.
    let missing = AliasAction::Delete { alias: "absent".to_owned() };
    assert!(matches!(store.change_aliases(&[create("live", "d"), missing]), Err(Error::AliasNotFound { name }) if name == "absent"));
    assert!(Arc::ptr_eq(&store.collection("live").unwrap(), &collection));
    let switch = [create("live", "d"), AliasAction::Rename { from: "next".to_owned(), to: "old".to_owned() }, create("old", "c")];
    store.change_aliases(&switch).unwrap();
    assert!(Arc::ptr_eq(&store.collection("live").unwrap(), &other));
    assert!(matches!(store.change_aliases(&[create("c", "d")]), Err(Error::CollectionExists { .. })), "an alias hides no collection");
    assert!(matches!(store.create_collection("live", CollectionConfig::default()), Err(Error::CollectionExists { .. })));
    assert!(!store.delete_collection("live").unwrap(), "an alias is no name to delete by");
    drop((collection, other, store));
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.aliases(), BTreeMap::from([("live", "d"), ("old", "c")].map(|(alias, name)| (alias.to_owned(), name.to_owned()))));
    store.delete_collection("d").unwrap();
    assert_eq!(store.aliases().len(), 1, "a collection's aliases go with it");
}

#[test]
fn a_replaced_point_with_the_same_vector_keeps_its_place() {
    let (_folder, _store, collection) = filled();
    let before = collection.info();
    collection.upsert(vec![point(3, [3.0, 0.0], json!({"changed": true}))]).unwrap();
    assert_eq!(payload_of(&collection, 3), json!({"changed": true}));
    assert_eq!(collection.info().vectors["image"], before.vectors["image"]);
    assert_eq!(numbers(&collection.search(&image(9)).unwrap()), [5, 4, 3, 2, 1]);
}
