//! Copies from and to a running Qdrant.

use std::fs;

use moco_index::PointId;
use serde_json::{Value, json};

use super::fake_qdrant::{Contents, FakeQdrant};
use super::{folder_with_collection, npy_f32, printed, refusal};

fn points(count: u64) -> Vec<Value> {
    let point = |i: u64| json!({"id": i * 3, "vector": {"x": [i as f32 + 0.1, 1.0], "y": [0.5]}, "payload": {"i": i, "half": 0.5}});
    let mut points: Vec<Value> = (0..count).map(point).collect();
    points.push(json!({"id": "550e8400-e29b-41d4-a716-446655440000", "vector": {"y": [1.0]}, "payload": {}}));
    points
}

fn holding(points: Vec<Value>) -> Contents {
    let params = json!({"vectors": {"x": {"size": 2, "distance": "Euclid", "on_disk": true}, "y": {"size": 1, "distance": "Dot"}}});
    let points = points.into_iter().map(|point| (serde_json::from_value(point["id"].clone()).unwrap(), point)).collect();
    Contents { params: Some(params), points, ..Contents::default() }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn a_qdrant_is_copied_here_and_back_and_both_sides_are_compared() {
    // More than one page, a key, and a server that is busy at first.
    let source = FakeQdrant::start(Contents { key: Some("secret"), busy: 2, ..holding(points(2_500)) });
    let folder = tempfile::tempdir().unwrap();
    let import = format!("import data --collection copy --qdrant {}/ --qdrant-collection there --api-key secret", source.url);
    let said = printed(folder.path(), &words(&import));
    assert!(said.contains("2501 points copied from `there`"), "{said}");
    assert!(said.contains("both sides are equal: 2501 ids, vectors and payloads of 1251 points (largest difference 0.0e0)"), "{said}");
    let stats: Value = serde_json::from_str(&printed(folder.path(), &["stats", "data", "--json"])).unwrap();
    assert_eq!(stats["collections"][0]["vectors"]["x"]["distance"], "Euclid");
    assert_eq!(stats["collections"][0]["vectors"]["y"]["count"], 2_501);

    let target = FakeQdrant::start(Contents::default());
    let export = format!("export data --qdrant {} --qdrant-collection there", target.url);
    let said = printed(folder.path(), &words(&export));
    assert!(said.contains("2501 points copied from `copy` to `there`") && said.contains("both sides are equal: 2501 ids"), "{said}");
    let (source, target) = (source.contents.lock().unwrap(), target.contents.lock().unwrap());
    assert_eq!(target.points, source.points);
    assert_eq!(target.params, Some(json!({"vectors": {"x": {"size": 2, "distance": "Euclid"}, "y": {"size": 1, "distance": "Dot"}}})));
    drop(target);
    // A second copy would mix with the first.
    assert!(refusal(folder.path(), &words(&export), 2).contains("is there already"));
}

#[test]
fn an_unnamed_vector_stays_unnamed_and_cosine_may_differ_by_its_rounding() {
    let folder = folder_with_collection();
    let target = FakeQdrant::start(Contents::default());
    printed(folder.path(), &words(&format!("export data --qdrant {} --qdrant-collection there", target.url)));
    let mut contents = target.contents.lock().unwrap();
    assert_eq!(contents.params, Some(json!({"vectors": {"size": 3, "distance": "Cosine"}})));
    // As a Qdrant that rounds otherwise would return it.
    for point in contents.points.values_mut() {
        let second = point["vector"][1].as_f64().unwrap() as f32;
        point["vector"][1] = json!(f32::from_bits(second.to_bits() + u32::from(second > 0.0)));
    }
    drop(contents);
    let said = printed(folder.path(), &words(&format!("import back --collection c --qdrant {} --qdrant-collection there", target.url)));
    assert!(said.contains("both sides are equal: 50 ids"), "{said}");
}

#[test]
fn a_difference_between_both_sides_is_an_error() {
    let folder = folder_with_collection();
    let target = FakeQdrant::start(Contents { forgets: Some(PointId::Num(7)), ..Contents::default() });
    let error = refusal(folder.path(), &words(&format!("export data --qdrant {} --qdrant-collection there", target.url)), 1);
    assert!(error.contains("is not equal to `arc`: the ids differ: 7 here, 8 in Qdrant"), "{error}");
}

#[test]
fn what_cannot_be_kept_here_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let dense = json!({"size": 2, "distance": "Cosine"});
    for (params, reason) in [
        (json!({"vectors": dense, "sparse_vectors": {"words": {}}}), "has the sparse vectors words"),
        (
            json!({"vectors": {"m": {"size": 2, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}}}}),
            "vector `m` of collection",
        ),
    ] {
        let source = FakeQdrant::start(Contents { params: Some(params), ..Contents::default() });
        let error =
            refusal(folder.path(), &words(&format!("import data --collection c --qdrant {} --qdrant-collection there", source.url)), 2);
        assert!(error.contains(reason) && error.contains("cannot be kept here"), "{error}");
    }
    let source =
        FakeQdrant::start(Contents { params: Some(json!({"vectors": {"size": 2, "distance": "Hamming"}})), ..Contents::default() });
    let error = refusal(folder.path(), &words(&format!("import data --collection c --qdrant {} --qdrant-collection there", source.url)), 1);
    assert!(error.contains("unknown variant `Hamming`"), "{error}");
    assert!(!folder.path().join("data").exists());
}

#[test]
fn a_server_that_refuses_or_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let source = FakeQdrant::start(Contents { key: Some("secret"), ..holding(points(1)) });
    let url = source.url.clone();
    let import = |words: String| words.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let refused = |line: String, status| refusal(folder.path(), &import(line).iter().map(String::as_str).collect::<Vec<_>>(), status);
    let error = refused(format!("import data --collection c --qdrant {url} --qdrant-collection there --api-key wrong"), 1);
    assert!(error.contains("answers 401: Must provide an API key"), "{error}");
    let error = refused(format!("import data --collection c --qdrant {url} --qdrant-collection elsewhere --api-key secret"), 2);
    assert!(error.contains(&format!("{url} has no collection `elsewhere`")), "{error}");
    let error = refused("import data --collection c --qdrant http://127.0.0.1:1 --qdrant-collection x".to_owned(), 1);
    assert!(error.contains("cannot ask http://127.0.0.1:1/collections/x"), "{error}");
    let error = refused("import data --collection c --qdrant https://example.org --qdrant-collection x".to_owned(), 2);
    assert!(error.contains("this program speaks no TLS"), "{error}");
    // A name may hold anything, and stays one part of the path.
    refused(format!("import data --collection c --qdrant {url} --qdrant-collection a/../there --api-key secret"), 2);
    assert_eq!(source.contents.lock().unwrap().seen.last().unwrap(), "GET /collections/a%2F..%2Fthere");
    assert!(!folder.path().join("data").exists());
    // What does not fit together is refused before anybody is asked.
    fs::write(folder.path().join("v.npy"), npy_f32(&[vec![1.0]])).unwrap();
    let error = refused(format!("import data --collection c --qdrant {url} --qdrant-collection there --ids v.npy"), 2);
    assert!(error.contains("leave out those options"), "{error}");
}

#[test]
fn a_server_that_fails_for_good_leaves_no_collection_here() {
    let folder = folder_with_collection();
    let source = FakeQdrant::start(holding(points(3)));
    // A point whose vector has the wrong size: it is Qdrant's word against ours.
    source.contents.lock().unwrap().points.insert(PointId::Num(1), json!({"id": 1, "vector": {"x": [1.0]}, "payload": {}}));
    let error = refusal(folder.path(), &words(&format!("import data --collection c --qdrant {} --qdrant-collection there", source.url)), 2);
    assert!(error.contains("nothing was kept of collection `c`") && error.contains("has 1 dimensions"), "{error}");
    assert!(!printed(folder.path(), &["stats", "data"]).contains("\nc "));
}
