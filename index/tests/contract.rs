//! What a collection promises to whoever calls it.

use std::collections::BTreeMap;

use moco_index::{
    Ack, CollectionConfig, Condition, Direction, Distance, Error, Example, Filter, KeyPath, Number, Operation, OrderBy, Payload, Point,
    PointId, Range, Recommend, SearchRequest, Selector, Store, Strategy, UpsertMode, VectorParams,
};
use serde_json::json;
use uuid::Uuid;

fn point(id: u64, vector: &[f32]) -> Point {
    Point { id: PointId::Num(id), vectors: BTreeMap::from([(String::new(), vector.to_vec())]), payload: Payload::new() }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn ids_and_scores(hits: &[moco_index::Hit]) -> Vec<(u64, f32)> {
    hits.iter()
        .map(|hit| match hit.id {
            PointId::Num(number) => (number, hit.score),
            PointId::Uuid(uuid) => panic!("{uuid} is not a number"),
        })
        .collect()
}

#[test]
fn a_point_comes_back_as_it_was_after_a_restart() {
    let folder = folder();
    let uuid = Uuid::from_u128(7);
    // Floats whose decimal form a fast parser misses by one unit in the last place, among them.
    let odd: Vec<f64> = (1..500).map(|i| f64::from(i).sqrt().exp() / 3e9).collect();
    let payload = json!({"int": 3, "float": 3.0, "tiny": 2.2250738585072014e-308, "odd": odd, "big": u64::MAX,
                         "null": null, "list": [1, [2.5, {}]], "text": "ü\u{0}\"\\"});
    let stored = Point {
        id: PointId::Uuid(uuid),
        vectors: BTreeMap::from([(String::new(), vec![1.5, -2.0, 1e-40])]),
        payload: payload.as_object().unwrap().clone(),
    };
    let store = Store::open(folder.path()).unwrap();
    let points = store.create_collection("a/../b ü", CollectionConfig::unnamed(3, Distance::Dot)).unwrap();
    assert_eq!(points.upsert(vec![stored.clone()]).unwrap(), 1);
    drop((store, points));
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.collections(), ["a/../b ü"]);
    let record = store.collection("a/../b ü").unwrap().retrieve(&[stored.id], true, true).unwrap().remove(0);
    assert_eq!((record.id, record.version), (stored.id, 1));
    assert_eq!((record.vectors.unwrap(), record.payload.unwrap()), (stored.vectors, stored.payload));
}

#[test]
fn scores_and_their_order_are_those_of_each_distance() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let expected = [
        (Distance::Cosine, [(1, 1.0), (2, 0.6), (3, 0.0), (4, -1.0)]),
        (Distance::Dot, [(2, 6.0), (1, 2.0), (3, 0.0), (4, -2.0)]),
        (Distance::Euclid, [(1, 1.0), (3, 2.0), (4, 3.0), (2, 17f32.sqrt())]),
        (Distance::Manhattan, [(1, 1.0), (3, 2.0), (4, 3.0), (2, 5.0)]),
    ];
    for (distance, expected) in expected {
        let points = store.create_collection(&format!("{distance:?}"), CollectionConfig::unnamed(2, distance)).unwrap();
        points.upsert(vec![point(1, &[1.0, 0.0]), point(2, &[3.0, 4.0]), point(3, &[0.0, 0.0]), point(4, &[-1.0, 0.0])]).unwrap();
        let query = |request| ids_and_scores(&points.search(&request).unwrap());
        let found = query(SearchRequest::new(vec![2.0, 0.0], 10));
        assert_eq!(found.len(), 4);
        for ((id, score), (expected_id, expected_score)) in found.iter().zip(&expected) {
            assert!(id == expected_id && (score - expected_score).abs() < 1e-6, "{distance:?}: {found:?}, not {expected:?}");
        }
        assert_eq!(query(SearchRequest { offset: 1, ..SearchRequest::new(vec![2.0, 0.0], 2) }), found[1..3]);
        let nearest_two = SearchRequest { score_threshold: Some(found[2].1), ..SearchRequest::new(vec![2.0, 0.0], 10) };
        assert_eq!(query(nearest_two), found[..2]);
        let without_first = SearchRequest { exclude: vec![PointId::Num(found[0].0)], ..SearchRequest::new(vec![2.0, 0.0], 2) };
        assert_eq!(query(without_first), found[1..3]);
    }
}

#[test]
fn an_upsert_replaces_the_whole_point_and_a_delete_leaves_nothing() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let config = CollectionConfig {
        vectors: BTreeMap::from([
            ("text".to_owned(), VectorParams::new(2, Distance::Dot)),
            ("image".to_owned(), VectorParams::new(1, Distance::Dot)),
        ]),
        ..CollectionConfig::default()
    };
    let points = store.create_collection("two", config).unwrap();
    let named = |id, vectors: &[(&str, &[f32])], payload: serde_json::Value| Point {
        id: PointId::Num(id),
        vectors: vectors.iter().map(|(name, vector)| ((*name).to_owned(), vector.to_vec())).collect(),
        payload: payload.as_object().unwrap().clone(),
    };
    let both = named(1, &[("text", &[1.0, 0.0]), ("image", &[5.0])], json!({"a": 1}));
    points.upsert(vec![both, named(2, &[("image", &[4.0])], json!({}))]).unwrap();
    points.upsert(vec![named(1, &[("image", &[3.0])], json!({"b": 2}))]).unwrap();
    let text = SearchRequest { vector_name: "text".to_owned(), ..SearchRequest::new(vec![1.0, 0.0], 10) };
    let image = SearchRequest { vector_name: "image".to_owned(), ..SearchRequest::new(vec![1.0], 10) };
    assert_eq!(points.search(&text).unwrap(), []);
    assert_eq!(ids_and_scores(&points.search(&image).unwrap()), [(2, 4.0), (1, 3.0)]);
    let record = points.retrieve(&[PointId::Num(1)], true, true).unwrap().remove(0);
    assert_eq!((record.payload, record.vectors.unwrap().len()), (json!({"b": 2}).as_object().cloned(), 1));
    points.delete(&[PointId::Num(2), PointId::Num(99)]).unwrap();
    assert_eq!((points.count(), ids_and_scores(&points.search(&image).unwrap())), (1, vec![(1, 3.0)]));
    assert_eq!(points.retrieve(&[PointId::Num(2), PointId::Num(1)], false, false).unwrap().len(), 1);
}

#[test]
fn scroll_goes_by_id_numbers_first() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let points = store.create_collection("bare", CollectionConfig::default()).unwrap();
    let ids = [PointId::Num(3), PointId::Num(u64::MAX), PointId::Uuid(Uuid::from_u128(1)), PointId::Uuid(Uuid::from_u128(2))];
    points.upsert(ids.iter().rev().map(|id| Point { id: *id, vectors: BTreeMap::new(), payload: Payload::new() }).collect()).unwrap();
    let page = |from, limit| {
        let (records, next) = points.scroll(from, limit, true, true).unwrap();
        (records.iter().map(|record| record.id).collect::<Vec<_>>(), next)
    };
    assert_eq!(page(None, 2), (ids[..2].to_vec(), Some(ids[2])));
    assert_eq!(page(Some(PointId::Num(4)), 3), (ids[1..].to_vec(), None));
    assert_eq!(page(Some(PointId::Uuid(Uuid::max())), 3), (vec![], None));
}

#[test]
fn bad_vectors_are_refused_and_nothing_of_their_request_is_stored() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let points = store.create_collection("c", CollectionConfig::unnamed(2, Distance::Cosine)).unwrap();
    let wrong_name = Point { vectors: BTreeMap::from([("x".to_owned(), vec![1.0])]), ..point(9, &[]) };
    assert!(matches!(points.upsert(vec![point(1, &[1.0, 0.0]), point(2, &[1.0])]), Err(Error::Dimension { expected: 2, actual: 1, .. })));
    assert!(matches!(points.upsert(vec![point(1, &[1.0, 0.0]), point(2, &[f32::NAN, 0.0])]), Err(Error::NotFinite { position: 0, .. })));
    assert!(matches!(points.upsert(vec![point(1, &[1.0, 0.0]), wrong_name]), Err(Error::UnknownVector { name }) if name == "x"));
    assert_eq!(points.count(), 0);
    assert!(matches!(points.search(&SearchRequest::new(vec![1.0], 1)), Err(Error::Dimension { .. })));
    assert!(matches!(points.search(&SearchRequest::new(vec![1.0, f32::INFINITY], 1)), Err(Error::NotFinite { position: 1, .. })));
    assert!(matches!(points.search(&SearchRequest::new(vec![1.0, 0.0], 0)), Err(Error::Limit)));
    let unknown = SearchRequest { vector_name: "x".to_owned(), ..SearchRequest::new(vec![1.0, 0.0], 1) };
    assert!(matches!(points.search(&unknown), Err(Error::UnknownVector { .. })));
}

/// Those of programs as well as those that were read from JSON.
#[test]
fn filters_past_the_limits_are_refused_by_every_call() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let points = store.create_collection("c", CollectionConfig::unnamed(2, Distance::Cosine)).unwrap();
    points.upsert(vec![point(1, &[1.0, 0.0])]).unwrap();
    let deep = || (0..40).fold(Filter::default(), |inner, _| Filter::must([inner.into()]));
    let endless = Range { gt: Some(Number::Float(f64::NAN)), ..Range::default() };
    let no_number = || Filter::must([Condition::field("a").in_range(endless)]);
    let key = || KeyPath::parse("a").unwrap();
    for made in [&deep as &dyn Fn() -> Filter, &no_number] {
        let filter = made();
        let request = SearchRequest { filter: Some(made()), ..SearchRequest::new(vec![1.0, 0.0], 1) };
        let recommend =
            Recommend { positive: vec![Example::Vector(vec![1.0, 0.0])], strategy: Strategy::BestScore, ..Recommend::default() };
        let order = OrderBy { key: key(), direction: Direction::Ascending, start_from: None };
        let some = || Selector::Filter(made());
        let empty = Payload::new;
        let operations = [
            Operation::Upsert { points: vec![point(1, &[0.0, 1.0])], mode: UpsertMode::Upsert, filter: Some(made()) },
            Operation::UpdateVectors { points: Vec::new(), filter: Some(made()) },
            Operation::DeleteVectors { points: some(), names: vec![String::new()] },
            Operation::SetPayload { points: some(), payload: empty(), key: None },
            Operation::OverwritePayload { points: some(), payload: empty() },
            Operation::DeletePayload { points: some(), keys: vec![key()] },
            Operation::ClearPayload { points: some() },
            Operation::Delete { points: some() },
        ];
        let mut refusals = vec![
            points.search(&request).map(drop),
            points.search_batch(std::slice::from_ref(&request)).remove(0).map(drop),
            points.recommend(&recommend, &request).map(drop),
            points.count_passing(&filter).map(drop),
            points.scroll_passing(Some(&filter), None, 1, false, false).map(drop),
            points.scroll_ordered(&order, Some(&filter), 1, false, false).map(drop),
            points.facet(&key(), Some(&filter), 1).map(drop),
            points.sample(Some(&filter), 1, 1, false, false).map(drop),
        ];
        refusals.extend(operations.into_iter().map(|operation| points.apply(operation, Ack::Accepted).map(drop)));
        for (call, refusal) in refusals.into_iter().enumerate() {
            assert!(matches!(refusal, Err(Error::Filter { .. })), "call {call}: {refusal:?}");
        }
    }
    assert_eq!(ids_and_scores(&points.search(&SearchRequest::new(vec![1.0, 0.0], 9)).unwrap()), [(1, 1.0)]);
}

/// What could be written and not be read again.
#[test]
fn metadata_that_is_nested_too_deep_is_refused() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let nested = |depth| (0..depth).fold(json!(1), |inner, _| json!([inner]));
    let config = |depth| CollectionConfig { metadata: Some(nested(depth)), ..CollectionConfig::unnamed(2, Distance::Cosine) };
    for depth in [65, 200] {
        let refusal = store.create_collection("c", config(depth)).err().unwrap();
        assert!(matches!(&refusal, Error::Config { field, .. } if field == "metadata"), "{refusal}");
    }
    drop(store.create_collection("c", config(64)).unwrap());
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.collection("c").unwrap().config().metadata, Some(nested(64)));
}

#[test]
fn a_collection_is_made_once_and_gone_when_deleted() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let config = CollectionConfig::unnamed(2, Distance::Cosine);
    let points = store.create_collection("c", config.clone()).unwrap();
    points.upsert(vec![point(1, &[1.0, 0.0])]).unwrap();
    assert!(matches!(store.create_collection("c", config.clone()), Err(Error::CollectionExists { name }) if name == "c"));
    assert!(store.delete_collection("c").unwrap());
    assert!(!store.delete_collection("c").unwrap());
    assert!(matches!(store.collection("c"), Err(Error::CollectionNotFound { .. })));
    assert!(matches!(points.upsert(vec![point(2, &[1.0, 0.0])]), Err(Error::CollectionDeleted)));
    assert!(matches!(points.search(&SearchRequest::new(vec![1.0, 0.0], 1)), Err(Error::CollectionDeleted)));
    assert_eq!(std::fs::read_dir(folder.path().join("collections")).unwrap().count(), 0);
    assert_eq!(store.create_collection("c", config.clone()).unwrap().count(), 0);
    for bad in ["", "a\nb", &"x".repeat(256)] {
        assert!(matches!(store.create_collection(bad, config.clone()), Err(Error::CollectionName { .. })), "{bad:?} was taken");
    }
}

#[test]
fn parameters_out_of_range_are_refused_by_field() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let refused = |change: &dyn Fn(&mut CollectionConfig)| {
        let mut config = CollectionConfig::unnamed(2, Distance::Cosine);
        change(&mut config);
        store.create_collection("c", config).err().unwrap().to_string()
    };
    assert_eq!(refused(&|config| config.hnsw.m = 128), "hnsw.m: 128 is not within 2 to 127");
    assert_eq!(refused(&|config| config.hnsw.m = 1), "hnsw.m: 1 is not within 2 to 127");
    assert_eq!(refused(&|config| config.hnsw.ef_construction = 0), "hnsw.ef_construction: 0 is not within 1 to 65536");
    let sized = |size| refused(&|config| config.vectors.get_mut("").unwrap().size = size);
    assert_eq!(sized(0), "size of vector ``: 0 is not within 1 to 65536");
    assert_eq!(sized(65_537), "size of vector ``: 65537 is not within 1 to 65536");
    assert_eq!(store.collections(), Vec::<String>::new());
}

#[test]
fn a_vector_is_bound_to_one_model_for_good() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let points = store.create_collection("c", CollectionConfig::unnamed(2, Distance::Cosine)).unwrap();
    points.bind_model("", "aa").unwrap();
    points.bind_model("", "aa").unwrap();
    drop((store, points));
    let points = Store::open(folder.path()).unwrap().collection("c").unwrap();
    assert_eq!(points.config().vectors[""].model.as_deref(), Some("aa"));
    let refused = points.bind_model("", "bb").unwrap_err();
    assert!(matches!(&refused, Error::Fingerprint { expected, actual, .. } if expected == "aa" && actual == "bb"), "{refused}");
    assert!(matches!(points.bind_model("x", "aa"), Err(Error::UnknownVector { .. })));
}

#[test]
fn many_threads_write_and_read_at_once() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let points = store.create_collection("c", CollectionConfig::unnamed(4, Distance::Euclid)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let points = &points;
            scope.spawn(move || {
                for round in 0..50u64 {
                    let id = thread * 1000 + round;
                    points.upsert(vec![point(id, &[id as f32; 4]), point(77_777, &[thread as f32; 4])]).unwrap();
                    let hit = &points
                        .search(&SearchRequest {
                            with_vectors: true,
                            with_payload: true.into(),
                            ..SearchRequest::new(vec![id as f32; 4], 1)
                        })
                        .unwrap()[0];
                    assert_eq!(hit.score, 0.0, "what was acknowledged is found");
                    if round % 3 == 0 {
                        points.delete(&[PointId::Num(id)]).unwrap();
                        assert_eq!(points.retrieve(&[PointId::Num(id)], true, true).unwrap(), []);
                    }
                }
            });
        }
    });
    assert_eq!(points.count(), 4 * 33 + 1);
}
