//! The graph against exact search, and what graphs are known to get wrong: duplicates, deletions, what is newer than they.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use moco_index::{Collection, CollectionConfig, Distance, Hit, HnswParams, Payload, Point, PointId, SearchRequest, Store, VectorInfo};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A collection that uses a graph from 100 vectors on.
fn collection(store: &Store, size: usize, distance: Distance) -> Arc<Collection> {
    let hnsw = HnswParams { full_scan_threshold: 100, ef_construction: 100, ..HnswParams::default() };
    store.create_collection(&format!("{distance:?}"), CollectionConfig { hnsw, ..CollectionConfig::unnamed(size, distance) }).unwrap()
}

fn points(vectors: &[Vec<f32>], first_id: u64) -> Vec<Point> {
    let point = |(id, vector): (u64, &Vec<f32>)| Point {
        id: PointId::Num(id),
        vectors: BTreeMap::from([(String::new(), vector.clone())]),
        payload: Payload::new(),
    };
    (first_id..).zip(vectors).map(point).collect()
}

/// Values from about -1 to 1, in clusters, so that there are near and far neighbours; lengths differ by up to 3 times.
fn vectors(seed: u64, count: usize, size: usize) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut centres = ChaCha8Rng::seed_from_u64(99);
    let centres: Vec<Vec<f32>> = (0..50).map(|_| (0..size).map(|_| centres.random_range(-1.0..1.0)).collect()).collect();
    (0..count)
        .map(|_| {
            let centre = &centres[random.random_range(0..centres.len())];
            let scale = random.random_range(0.5..1.5);
            centre.iter().map(|x| scale * (x + random.random_range(-0.8..0.8f32))).collect()
        })
        .collect()
}

/// Waits until a graph answers for `indexed` vectors and none is being built.
fn wait_for_graph(points: &Collection, indexed: usize) {
    let info = wait(points, |info| info.indexed == indexed || info.failure.is_some());
    assert_eq!(info.failure, None);
}

fn wait(points: &Collection, until: impl Fn(&VectorInfo) -> bool) -> VectorInfo {
    let start = Instant::now();
    loop {
        let info = points.info().vectors[""].clone();
        if until(&info) && !info.building {
            return info;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "{info:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ids(hits: &[Hit]) -> BTreeSet<PointId> {
    hits.iter().map(|hit| hit.id).collect()
}

/// Mean share of the exact `limit` nearest that the search with `ef` finds.
fn recall(points: &Collection, queries: &[Vec<f32>], limit: usize, ef: usize) -> f64 {
    let found: usize = queries
        .iter()
        .map(|query| {
            let exact = points.search(&SearchRequest { exact: true, ..SearchRequest::new(query.clone(), limit) }).unwrap();
            let walked = points.search(&SearchRequest { ef: Some(ef), ..SearchRequest::new(query.clone(), limit) }).unwrap();
            assert_eq!((exact.len(), walked.len()), (limit, limit));
            assert!(
                walked.windows(2).all(|pair| points.config().vectors[""].distance.larger_is_nearer() == (pair[0].score >= pair[1].score)
                    || pair[0].score == pair[1].score)
            );
            ids(&exact).intersection(&ids(&walked)).count()
        })
        .sum();
    found as f64 / (queries.len() * limit) as f64
}

#[test]
fn the_graph_finds_ten_nearest_of_ten_thousand_under_each_distance() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (vectors, queries) = (vectors(1, 10_000, 32), vectors(2, 200, 32));
    for distance in [Distance::Cosine, Distance::Dot, Distance::Euclid] {
        let collection = collection(&store, 32, distance);
        collection.upsert(points(&vectors, 0)).unwrap();
        wait_for_graph(&collection, 10_000);
        let (at_128, at_1) = (recall(&collection, &queries, 10, 128), recall(&collection, &queries, 1, 1));
        println!("{distance:?}: recall@10 {at_128:.4} with ef 128, recall@1 {at_1:.3} with ef 1");
        assert!(at_128 >= 0.95, "{distance:?}: recall@10 {at_128}");
        // A walk is what was measured: keeping one candidate, it must miss some. Not so where clusters are compared whole.
        let segments = collection.info().vectors[""].segments.clone();
        let stats = segments.iter().filter_map(|segment| segment.stats.as_ref());
        let has_runs = stats.flat_map(|stats| &stats.sections).any(|(name, bytes)| *name == "runs" && *bytes > 0);
        assert_eq!(has_runs, distance != Distance::Dot, "{distance:?}");
        assert!(at_1 < 1.0 || has_runs, "{distance:?}: a walk that keeps one candidate found everything");
    }
}

#[test]
fn a_thousand_copies_do_not_hide_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let points_ = collection(&store, 16, Distance::Cosine);
    let unique = vectors(3, 3000, 16);
    let copies: Vec<Vec<f32>> = (0..5).flat_map(|copy| std::iter::repeat_n(unique[copy * 100].clone(), 1000)).collect();
    points_.upsert(points(&unique, 0)).unwrap();
    points_.upsert(points(&copies, 10_000)).unwrap();
    points_.upsert(points(&[vec![0.0; 16], vec![0.0; 16]], 20_000)).unwrap();
    wait_for_graph(&points_, 8002);
    let lost = unique
        .iter()
        .zip(0u64..)
        .filter(|(vector, id)| {
            let hits = points_.search(&SearchRequest { ef: Some(40), ..SearchRequest::new((*vector).clone(), 3) }).unwrap();
            let is_copied = id % 100 == 0 && *id < 500;
            if is_copied {
                assert!((hits[2].score - 1.0).abs() < 1e-6, "copies are found with their original");
            }
            !is_copied && hits[0].id != PointId::Num(*id)
        })
        .count();
    // Without deduplication hnsw_rs loses about 1 % here, other builders up to 45 %.
    assert!(lost <= 3, "{lost} of 3000 do not find themselves");
    let all_copies = points_.search(&SearchRequest::new(unique[0].clone(), 1001)).unwrap();
    assert!((all_copies[1000].score - 1.0).abs() < 1e-6, "all copies of one vector are found");
    // Zero vectors stand beside the graph and score 0.
    let opposite = points_.search(&SearchRequest { exact: true, ..SearchRequest::new(unique[0].clone(), 8002) }).unwrap();
    let zero = opposite.iter().find(|hit| hit.id == PointId::Num(20_001)).unwrap();
    assert_eq!(zero.score, 0.0);
}

#[test]
fn deleted_points_are_never_returned_and_enough_of_them_bring_a_new_graph() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let collection = collection(&store, 16, Distance::Euclid);
    let (vectors, queries) = (vectors(4, 4000, 16), vectors(5, 100, 16));
    collection.upsert(points(&vectors, 0)).unwrap();
    wait_for_graph(&collection, 4000);
    let delete = |range: std::ops::Range<u64>| collection.delete(&range.map(PointId::Num).collect::<Vec<_>>()).unwrap();
    delete(0..600);
    assert_eq!(collection.info().vectors[""].indexed, 3400, "15 % dead: the graph stays");
    let check = |first_live: u64| {
        assert!(recall(&collection, &queries, 10, 128) >= 0.95);
        for query in &queries {
            let hits = collection.search(&SearchRequest::new(query.clone(), 100)).unwrap();
            assert_eq!(hits.len(), 100);
            assert!(hits.iter().all(|hit| hit.id >= PointId::Num(first_live)), "a deleted point was returned");
        }
    };
    check(600);
    delete(600..1000);
    wait_for_graph(&collection, 3000);
    check(1000);
    // Upserts are found at once, and replaced vectors are not.
    let moved: Vec<Vec<f32>> = vectors[1000..1400].iter().map(|vector| vector.iter().map(|x| x + 100.0).collect()).collect();
    collection.upsert(points(&moved, 1000)).unwrap();
    for (vector, id) in moved.iter().zip(1000u64..) {
        let hit = &collection.search(&SearchRequest::new(vector.clone(), 1)).unwrap()[0];
        assert_eq!((hit.id, hit.score), (PointId::Num(id), 0.0));
    }
    let indexed = collection.info().vectors[""].indexed;
    assert!((2600..=3000).contains(&indexed), "the 400 new ones are scanned, until they have a segment too: {indexed}");
    check(1000);
    assert_eq!(collection.count(), 3000);
}

#[test]
fn a_search_for_more_than_there_is_returns_everything() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let collection = collection(&store, 8, Distance::Dot);
    let vectors = vectors(6, 500, 8);
    collection.upsert(points(&vectors, 0)).unwrap();
    wait_for_graph(&collection, 500);
    let hits = collection.search(&SearchRequest { ef: Some(1), ..SearchRequest::new(vectors[0].clone(), usize::MAX) }).unwrap();
    assert_eq!(ids(&hits).len(), 500);
    let past_the_end = SearchRequest { offset: 500, ..SearchRequest::new(vectors[0].clone(), 10) };
    assert_eq!(collection.search(&past_the_end).unwrap(), []);
    let none_left = SearchRequest { exclude: (0..500).map(PointId::Num).collect(), ..SearchRequest::new(vectors[0].clone(), 10) };
    assert_eq!(collection.search(&none_left).unwrap(), []);
}

#[test]
fn vectors_of_every_magnitude_find_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for distance in [Distance::Cosine, Distance::Dot, Distance::Euclid] {
        let collection = collection(&store, 8, distance);
        let mut vectors = vectors(7, 600, 8);
        for (i, vector) in vectors.iter_mut().enumerate() {
            let scale = [1e-38f32, 1.0, 1e15, 1e37][i % 4];
            vector.iter_mut().for_each(|x| *x *= scale);
        }
        collection.upsert(points(&vectors, 0)).unwrap();
        // Euclid and Dot cannot tell the tiny ones apart in the units of the huge ones: then the audit refuses the graph,
        // and searches scan.
        let info = wait(&collection, |info| info.indexed == 600 || info.failure.is_some());
        assert!(distance != Distance::Cosine || info.indexed == 600, "{info:?}");
        let exact = |vector: &[f32]| SearchRequest { exact: true, ..SearchRequest::new(vector.to_vec(), 1) };
        let as_near = vectors.iter().filter(|vector| {
            let nearest = collection.search(&exact(vector)).unwrap()[0].score;
            let hits = collection.search(&SearchRequest::new((*vector).clone(), 5)).unwrap();
            assert!(hits.len() == 5 && hits.iter().all(|hit| hit.score.is_finite()), "{distance:?}");
            hits[0].score == nearest
        });
        let as_near = as_near.count();
        println!("{distance:?}: {as_near} of 600 found their nearest, {info:?}");
        assert!(as_near >= 590, "{distance:?}: {as_near} of 600 found their nearest, {info:?}");
    }
}
