//! Segments come, are merged, are rebuilt, are damaged: what is stored and what is found stays the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moco_index::{
    Ack, Collection, CollectionConfig, Condition, Distance, Example, Filter, Hit, HnswParams, KeyPath, Operation, Payload, PayloadSchema,
    Point, PointId, Range, Recommend, SearchRequest, Selector, Store, StoreOptions, Strategy, VectorParams,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SIZE: usize = 16;

fn vector(number: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(number);
    (0..SIZE).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn point(number: u64) -> Point {
    let payload = Payload::from_iter([("even".to_owned(), (number.is_multiple_of(2)).into()), ("n".to_owned(), number.into())]);
    Point { id: PointId::Num(number), vectors: BTreeMap::from([(String::new(), vector(number))]), payload }
}

fn config(distance: Distance) -> CollectionConfig {
    CollectionConfig {
        vectors: BTreeMap::from([(String::new(), VectorParams::new(SIZE, distance))]),
        hnsw: HnswParams { full_scan_threshold: 200, ..HnswParams::default() },
        ..CollectionConfig::default()
    }
}

fn open(folder: &Path) -> (Store, Arc<Collection>) {
    let store = Store::open(folder).unwrap();
    let collection = match store.collection("c") {
        Ok(collection) => collection,
        Err(_) => store.create_collection("c", config(Distance::Cosine)).unwrap(),
    };
    (store, collection)
}

fn segment_files(folder: &Path) -> Vec<PathBuf> {
    let collection = std::fs::read_dir(folder.join("collections")).unwrap().next().unwrap().unwrap().path();
    let files = std::fs::read_dir(collection).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).collect()
}

/// What exact search finds, for some queries, and how much of it the default search finds.
fn compare(collection: &Collection, filter: Option<&Filter>) -> (Vec<Vec<PointId>>, f64) {
    let (mut exact_ids, mut same, mut all) = (Vec::new(), 0, 0);
    for query in 0..40 {
        let request = SearchRequest { filter: filter.cloned(), ..SearchRequest::new(vector(1_000_000 + query), 10) };
        let exact = collection.search(&SearchRequest { exact: true, ..request.clone() }).unwrap();
        let found = collection.search(&request).unwrap();
        assert_eq!(found.len(), exact.len(), "never fewer than there are");
        let ids: Vec<PointId> = exact.iter().map(|hit| hit.id).collect();
        same += found.iter().filter(|hit| ids.contains(&hit.id)).count();
        all += ids.len();
        exact_ids.push(ids);
    }
    (exact_ids, same as f64 / all.max(1) as f64)
}

#[test]
fn a_collection_that_grows_and_shrinks_is_searched_as_if_it_were_flat() {
    let folder = tempfile::tempdir().unwrap();
    let (store, collection) = open(folder.path());
    let mut living: BTreeMap<u64, ()> = BTreeMap::new();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for round in 0..12u64 {
        let new: Vec<u64> = (round * 300..round * 300 + 300).collect();
        collection.upsert(new.iter().map(|number| point(*number)).collect()).unwrap();
        living.extend(new.iter().map(|number| (*number, ())));
        let dead: Vec<u64> = living.keys().copied().filter(|_| random.random_range(0..10) < 2).collect();
        collection.delete(&dead.iter().map(|number| PointId::Num(*number)).collect::<Vec<_>>()).unwrap();
        living.retain(|number, ()| !dead.contains(number));
        if round % 3 == 2 {
            collection.wait_until_built();
        }
        let expected = |query: u64| {
            let query = vector(1_000_000 + query);
            let score = |number: u64| {
                let vector = vector(number);
                let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
                vector.iter().zip(&query).map(|(x, y)| x * y).sum::<f32>() / length
            };
            living.keys().copied().max_by(|a, b| score(*a).total_cmp(&score(*b))).map(PointId::Num)
        };
        let (exact, recall) = compare(&collection, None);
        for (query, ids) in exact.iter().enumerate().take(5) {
            assert_eq!(ids.first().copied(), expected(query as u64), "round {round}, query {query}");
        }
        assert!(recall >= 0.95, "round {round}: recall {recall}");
        assert_eq!(collection.count(), living.len());
    }
    collection.wait_until_built();
    let info = collection.info().vectors[""].clone();
    assert!(!info.segments.is_empty() && info.segments.len() < 8, "{info:?}");
    assert!(info.segments.iter().all(|segment| segment.dead * 5 <= segment.dead + segment.live), "{info:?}");
    collection.verify().unwrap();
    let (before, _) = compare(&collection, None);
    drop((store, collection));
    let (_store, collection) = open(folder.path());
    assert_eq!(collection.info().vectors[""].segments, info.segments, "segments are mapped again, not built again");
    assert_eq!(compare(&collection, None).0, before);
    collection.compact().unwrap();
    let info = collection.info().vectors[""].clone();
    assert_eq!((info.segments.len(), info.indexed, info.segments[0].dead), (1, living.len(), 0));
    assert_eq!(compare(&collection, None).0, before);
    assert_eq!(segment_files(folder.path()).len(), 1, "what was replaced is gone");
    let report = collection.verify().unwrap();
    let (tried, found) = report.vectors[""].self_queries;
    assert!(found * 1000 >= tried * 999, "{found} of {tried} vectors find themselves");
}

#[test]
fn filtered_searches_find_what_an_exact_one_finds_at_every_pass_rate() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, collection) = open(folder.path());
    collection.upsert((0..5000).map(point).collect()).unwrap();
    collection.delete(&(0..5000).step_by(9).map(PointId::Num).collect::<Vec<_>>()).unwrap();
    collection.wait_until_built();
    assert!(collection.info().vectors[""].indexed > 4000);
    for below in [1u64, 5, 50, 500, 2500, 4999] {
        let filter = Filter::must([Condition::field("n").less_than(below as i64 + 1)]);
        let (exact, recall) = compare(&collection, Some(&filter));
        let passing = collection.count_passing(&filter).unwrap();
        assert!(exact.iter().all(|ids| ids.len() == passing.min(10)));
        assert!(exact.iter().flatten().all(|id| matches!(id, PointId::Num(n) if *n <= below && n % 9 != 0)), "below {below}");
        assert!(recall >= 0.99, "below {below}: recall {recall}");
    }
}

#[test]
fn a_filter_that_is_asked_again_follows_what_was_written_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, collection) = open(folder.path());
    let index = |key: &str| {
        let schema = PayloadSchema::parse(&"bool".into()).unwrap();
        Operation::CreateIndex { key: KeyPath::parse(key).unwrap(), schema }
    };
    collection.apply(index("even"), Ack::Durable).unwrap();
    // By id: whether it passes, and which vector it has.
    let mut plain: BTreeMap<u64, (bool, u64)> = (0..1000).map(|number| (number, (number % 2 == 0, number))).collect();
    collection.upsert((0..1000).map(point).collect()).unwrap();
    collection.wait_until_built();
    let even = Filter::must([Condition::field("even").equals(true)]);
    let mut random = ChaCha8Rng::seed_from_u64(12);
    for round in 0..60u64 {
        let number = random.random_range(0..1000);
        match round % 6 {
            0 => {
                collection.delete(&[PointId::Num(number)]).unwrap();
                plain.remove(&number);
            }
            1 => {
                let moved = 50_000 + round;
                collection.upsert(vec![Point { vectors: point(moved).vectors, ..point(number) }]).unwrap();
                plain.insert(number, (number % 2 == 0, moved));
            }
            2 => {
                let payload = Payload::from_iter([("even".to_owned(), true.into())]);
                let points = Selector::Ids(vec![PointId::Num(number)]);
                let written = collection.apply(Operation::OverwritePayload { points, payload }, Ack::Durable);
                assert_eq!(written.is_ok(), plain.contains_key(&number));
                plain.entry(number).and_modify(|(passes, _)| *passes = true);
            }
            3 => {
                collection.apply(Operation::DropIndex { key: KeyPath::parse("even").unwrap() }, Ack::Durable).unwrap();
            }
            4 => {
                collection.apply(index("even"), Ack::Durable).unwrap();
            }
            _ if round == 29 => collection.compact().unwrap(),
            _ => {}
        }
        // Asked twice: found anew, and as it was kept.
        for query in [1_000_000 + round, number, 1_000_000 + round] {
            let query = vector(query);
            let score = |of: u64| {
                let vector = vector(of);
                let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
                vector.iter().zip(&query).map(|(x, y)| x * y).sum::<f32>() / length
            };
            let passing = plain.iter().filter(|(_, (passes, _))| *passes);
            let (expected, _) = passing.clone().max_by(|a, b| score(a.1.1).total_cmp(&score(b.1.1))).unwrap();
            for exact in [false, true] {
                let request = SearchRequest { filter: Some(even.clone()), exact, ..SearchRequest::new(query.clone(), 1) };
                assert_eq!(collection.search(&request).unwrap()[0].id, PointId::Num(*expected), "round {round}");
            }
            assert_eq!(collection.count_passing(&even).unwrap(), passing.count(), "round {round}");
        }
    }
}

#[test]
fn a_damaged_or_missing_segment_is_answered_from_the_truth_and_built_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (store, collection) = open(folder.path());
    collection.upsert((0..1000).map(point).collect()).unwrap();
    collection.compact().unwrap();
    collection.delete(&[PointId::Num(3)]).unwrap();
    let (expected, _) = compare(&collection, None);
    drop((store, collection));
    let file = segment_files(folder.path()).remove(0);
    let good = std::fs::read(&file).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(11);
    for round in 0..6 {
        let file = segment_files(folder.path()).remove(0);
        match round {
            0 => std::fs::remove_file(&file).unwrap(),
            1 => std::fs::write(&file, b"").unwrap(),
            2 => std::fs::write(&file, &std::fs::read(&file).unwrap()[..good.len() / 2]).unwrap(),
            // Another generation: whole in itself, and not the one that the catalogue names.
            3 => std::fs::write(&file, &good).unwrap(),
            _ => {
                let mut bytes = std::fs::read(&file).unwrap();
                let position = random.random_range(0..bytes.len());
                bytes[position] ^= 0x40;
                std::fs::write(&file, bytes).unwrap();
            }
        }
        let (store, collection) = open(folder.path());
        assert_eq!(compare(&collection, None).0, expected, "round {round}, before it is rebuilt or while it is");
        collection.wait_until_built();
        let info = collection.info().vectors[""].clone();
        assert_eq!((info.segments.len(), info.segments[0].damage.clone(), info.indexed), (1, None, 999), "round {round}");
        let (exact, recall) = compare(&collection, None);
        assert!(exact == expected && recall > 0.95, "round {round}: recall {recall}");
        collection.verify().unwrap();
        drop((store, collection));
    }
}

/// Opening does not read the rows; the first search that reads a damaged one finds out, and answers as if it were whole.
#[test]
fn a_row_that_is_damaged_is_found_by_whoever_reads_it_and_the_segment_is_built_anew() {
    type Ask = fn(&Collection) -> moco_index::Result<Vec<Hit>>;
    let asks: [(&str, Ask); 5] = [
        ("a walk", |collection| collection.search(&SearchRequest::new(vector(77), 10))),
        ("an exact search", |collection| collection.search(&SearchRequest { exact: true, ..SearchRequest::new(vector(77), 10) })),
        ("a filter", |collection| {
            let around = Range { gte: Some(70.into()), lte: Some(80.into()), ..Range::default() };
            let filter = Some(Filter::must([Condition::field("n").in_range(around)]));
            collection.search(&SearchRequest { filter, ..SearchRequest::new(vector(5), 20) })
        }),
        ("a recommendation", |collection| {
            let positive = vec![Example::Id(PointId::Num(77))];
            let recommend = Recommend { positive, strategy: Strategy::BestScore, ..Recommend::default() };
            collection.recommend(&recommend, &SearchRequest::new(Vec::new(), 1000))
        }),
        ("a verification", |collection| match collection.verify() {
            Ok(_) | Err(moco_index::Error::DamagedSegment { .. }) => Ok(Vec::new()),
            Err(other) => Err(other),
        }),
    ];
    for (what, ask) in asks {
        let folder = tempfile::tempdir().unwrap();
        let (store, collection) = open(folder.path());
        collection.upsert((0..1000).map(point).collect()).unwrap();
        collection.compact().unwrap();
        collection.delete(&[PointId::Num(3)]).unwrap();
        let (expected, _) = compare(&collection, None);
        let answer = ask(&collection).unwrap();
        drop((store, collection));
        let file = segment_files(folder.path()).remove(0);
        let mut bytes = std::fs::read(&file).unwrap();
        // Of length one, as it is stored.
        let length = vector(77).iter().map(|x| x * x).sum::<f32>().sqrt();
        let row: Vec<u8> = vector(77).iter().flat_map(|x| (x / length).to_le_bytes()).collect();
        let places: Vec<usize> = (0..bytes.len() - 64).step_by(4).filter(|place| near(&bytes[*place..place + 64], &row)).collect();
        assert_eq!(places.len(), 1, "the row lies in one place");
        bytes[places[0] + 7] ^= 0x20;
        std::fs::write(&file, &bytes).unwrap();

        let (store, collection) = open(folder.path());
        assert_eq!(collection.info().vectors[""].segments[0].damage, None, "nobody read it yet");
        assert_eq!(ask(&collection).unwrap(), answer, "{what}");
        collection.wait_until_built();
        let info = collection.info().vectors[""].clone();
        assert_eq!((info.segments.len(), info.segments[0].damage.clone(), info.indexed), (1, None, 999), "after {what}");
        assert_ne!(segment_files(folder.path()), [file], "after {what}");
        let (exact, recall) = compare(&collection, None);
        assert!(exact == expected && recall > 0.95, "after {what}: recall {recall}");
        collection.verify().unwrap();
        drop((store, collection));
    }
}

/// Are these the same numbers, but for their last bits?
fn near(bytes: &[u8], others: &[u8]) -> bool {
    let numbers = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<_>>();
    numbers(bytes).iter().zip(numbers(others)).all(|(a, b)| (a - b).abs() < 1e-5)
}

#[test]
fn files_that_no_row_names_are_removed_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (store, collection) = open(folder.path());
    collection.upsert((0..500).map(point).collect()).unwrap();
    collection.wait_until_built();
    drop((store, collection));
    let file = segment_files(folder.path()).remove(0);
    let strangers = ["00000000-0000-0000-0000-000000000001.segment", "00000000-0000-0000-0000-000000000002.building", "notes.segment"]
        .map(|name| file.with_file_name(name));
    for stranger in &strangers {
        std::fs::copy(&file, stranger).unwrap();
    }
    let (_store, collection) = open(folder.path());
    let there: Vec<bool> = strangers.iter().map(|path| path.exists()).collect();
    assert_eq!((there, file.exists()), (vec![false, false, true], true), "only what is ours goes");
    assert_eq!(compare(&collection, None).0.len(), 40);
}

#[test]
fn vectors_that_die_while_their_segment_is_built_stay_dead() {
    let folder = tempfile::tempdir().unwrap();
    let (store, collection) = open(folder.path());
    collection.upsert((0..3000).map(point).collect()).unwrap();
    // The builder is at work; every third dies under its hands, and comes again elsewhere, some of them.
    for number in (0..3000).step_by(3) {
        collection.delete(&[PointId::Num(number)]).unwrap();
        if number.is_multiple_of(2) {
            collection.upsert(vec![Point { vectors: point(number + 100_000).vectors, ..point(number) }]).unwrap();
        }
    }
    collection.wait_until_built();
    let check = |collection: &Collection| {
        assert_eq!(collection.count(), 2500);
        for number in (0..3000).step_by(30) {
            let nearest = |vector: Vec<f32>| collection.search(&SearchRequest::new(vector, 1)).unwrap()[0].clone();
            let old = nearest(vector(number));
            assert!(old.id != PointId::Num(number), "{number} is found where it was");
            let new = nearest(vector(number + 100_000));
            assert!(new.id == PointId::Num(number) && new.score > 0.999, "{number} is not found where it is");
        }
        collection.verify().unwrap();
    };
    check(&collection);
    drop((store, collection));
    let (_store, collection) = open(folder.path());
    check(&collection);
}

#[test]
fn a_snapshot_taken_under_load_holds_a_prefix_of_the_acknowledged_writes() {
    let folder = tempfile::tempdir().unwrap();
    let (store, collection) = open(folder.path());
    let rounds = 10;
    let snapshot = |round: usize| folder.path().join(format!("snapshot-{round}"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let bounds = std::thread::scope(|scope| {
        let (collection, stop) = (&collection, &stop);
        let writer = scope.spawn(move || {
            let mut number = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                collection.upsert(vec![point(number)]).unwrap();
                number += 1;
            }
            number
        });
        let bounds: Vec<(u64, u64, u64)> = (0..rounds)
            .map(|round| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                let before = collection.info().operation;
                let manifest = collection.backup(snapshot(round)).unwrap();
                (before, manifest.operation, collection.info().operation + 1)
            })
            .collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0);
        bounds
    });
    for (round, (before, operation, after)) in bounds.into_iter().enumerate() {
        assert!((before..=after).contains(&operation), "round {round}: operation {operation}, between {before} and {after}");
        let restored = store.restore(snapshot(round), &format!("restored {round}")).unwrap();
        // Operation n wrote point n - 1.
        let (records, _) = restored.scroll(None, usize::MAX >> 1, true, false).unwrap();
        let ids: Vec<PointId> = records.iter().map(|record| record.id).collect();
        assert_eq!(ids, (0..operation).map(PointId::Num).collect::<Vec<_>>(), "round {round}");
        assert_eq!(restored.info().operation, operation);
        restored.verify().unwrap();
    }
    assert!(matches!(collection.backup(snapshot(0)), Err(moco_index::Error::Exists { .. })));
    // Any damage is found before anything is made of it.
    let good = std::fs::read(snapshot(0)).unwrap();
    let bad = folder.path().join("bad");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for round in 0..60 {
        let mut bytes = good.clone();
        match round % 3 {
            0 => bytes.truncate(random.random_range(0..good.len())),
            1 => bytes.push(0),
            _ => bytes[random.random_range(0..good.len())] ^= 1 << random.random_range(0..8),
        }
        std::fs::write(&bad, bytes).unwrap();
        let error = store.restore(&bad, "bad").err().unwrap_or_else(|| panic!("round {round} was restored"));
        assert!(error.to_string().contains(bad.to_str().unwrap()), "{error}");
        assert!(store.collection("bad").is_err());
    }
}

#[test]
fn what_is_loaded_in_bulk_is_built_once_by_the_compaction() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_with(folder.path(), &StoreOptions::default().bulk_load(true)).unwrap();
    let collection = store.create_collection("c", config(Distance::Cosine)).unwrap();
    for first in (0..3000).step_by(500) {
        collection.upsert((first..first + 500).map(point).collect()).unwrap();
    }
    collection.wait_until_built();
    assert_eq!(collection.info().vectors[""].segments.len(), 0);
    assert_eq!(compare(&collection, None).1, 1.0, "without a graph every vector is compared");
    collection.compact().unwrap();
    assert_eq!(collection.info().vectors[""].segments.len(), 1);
    assert!(compare(&collection, None).1 > 0.95);
}
