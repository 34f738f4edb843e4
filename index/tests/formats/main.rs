//! Data folders as earlier versions wrote them still open, and hold what was put into them.
//!
//! `tests/data/format-N` was written by the version whose format N was, by `write.rs` beside this file:
//! `cargo run -p moco-index --example write_format_fixture`. When the format changes, write the present one's first. Segments have a format
//! of their own; those of the first are in `format-2` and `format-3`, later ones in `segment-N`. So have snapshots: `snapshot-N.snapshot`.

mod fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use moco_index::{Collection, Distance, Error, FORMAT, Point, PointId, SEGMENT_FORMAT, SearchRequest, Store};
use serde_json::json;

use crate::fixture::{clusters, long, points};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            let _bytes = std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn holds_what_was_written(collection: &Collection) {
    let config = collection.config();
    assert_eq!(config.vectors["image"].model.as_deref(), Some("a fingerprint"));
    assert_eq!((config.vectors[""].distance, config.hnsw.full_scan_threshold), (Distance::Euclid, 12));
    assert_eq!(config.metadata, Some(json!({"for": "a test"})));
    assert_eq!(collection.info().operation, 5);
    let expected: BTreeMap<PointId, Point> =
        points().into_iter().filter(|point| point.id != PointId::Num(4)).map(|point| (point.id, point)).collect();
    let (records, next) = collection.scroll(None, 100, true, true).unwrap();
    assert_eq!((records.len(), next, collection.count()), (19, None, 19));
    for (record, point) in records.iter().zip(expected.values()) {
        assert_eq!((record.id, record.payload.as_ref(), record.vectors.as_ref()), (point.id, Some(&point.payload), Some(&point.vectors)));
        assert_eq!(record.version, if record.id == PointId::Num(2) { 3 } else { 1 });
    }
    for point in expected.values() {
        let request = SearchRequest { vector_name: "image".to_owned(), ..SearchRequest::new(point.vectors["image"].clone(), 19) };
        let hits = collection.search(&request).unwrap();
        assert_eq!(hits.len(), 19);
    }
    // And it can be written to.
    collection.upsert(points().drain(4..5).collect()).unwrap();
    assert_eq!(collection.count(), 20);
}

#[test]
fn every_format_that_was_ever_written_opens() {
    for format in 1..=FORMAT {
        let folder = tempfile::tempdir().unwrap();
        copy(&data().join(format!("format-{format}")), folder.path());
        let store = Store::open(folder.path()).unwrap();
        let collection = store.collection("old").unwrap();
        assert_eq!(collection.info().upgraded_from, (format < FORMAT).then_some(format));
        holds_what_was_written(&collection);
        drop((collection, store));
        // Rewritten once, then as if it had been so from the start.
        let store = Store::open(folder.path()).unwrap();
        let collection = store.collection("old").unwrap();
        assert_eq!((collection.info().upgraded_from, collection.count()), (None, 20));
        collection.verify().unwrap();
    }
}

#[test]
fn snapshots_of_every_format_that_was_ever_written_are_restored() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let collection = store.restore(data().join("snapshot-1.snapshot"), "restored").unwrap();
    collection.verify().unwrap();
    holds_what_was_written(&collection);
}

#[test]
fn a_newer_snapshot_is_refused_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for (format, index_format) in [(2, 1), (1, FORMAT + 1)] {
        // A manifest with a field that this build does not know.
        let manifest = json!({"format": format, "index_format": index_format, "later": true}).to_string();
        let length = (manifest.len() as u32).to_le_bytes();
        let checksum = xxhash_rust::xxh3::xxh3_128(manifest.as_bytes()).to_le_bytes();
        let path = folder.path().join("newer");
        std::fs::write(&path, [b"MOCOSNAP", &length[..], manifest.as_bytes(), &checksum].concat()).unwrap();
        let refusal = store.restore(&path, "newer").err().unwrap();
        assert!(matches!(&refusal, Error::Format { path: named, .. } if *named == path), "{refusal}");
    }
}

/// The files below a folder that end so.
fn files(folder: &Path, ending: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.append(&mut files(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.insert(path);
        }
    }
    found
}

#[test]
fn segments_of_every_format_that_was_ever_written_are_searched_as_they_are() {
    for written in
        (2..=FORMAT).map(|format| format!("format-{format}")).chain((2..=SEGMENT_FORMAT).map(|format| format!("segment-{format}")))
    {
        let folder = tempfile::tempdir().unwrap();
        copy(&data().join(&written), folder.path());
        let before = files(folder.path(), "segment");
        assert!(!before.is_empty(), "{written} has segments");
        let store = Store::open(folder.path()).unwrap();
        for collection in store.collections().iter().map(|name| store.collection(name).unwrap()) {
            collection.wait_until_built();
            let vectors = collection.info().vectors;
            assert!(vectors.values().flat_map(|vector| &vector.segments).all(|segment| segment.damage.is_none()), "{written}: {vectors:?}");
            for record in collection.scroll(None, 30, false, true).unwrap().0 {
                for (name, vector) in record.vectors.unwrap() {
                    let request = SearchRequest { vector_name: name.clone(), ef: Some(10), ..SearchRequest::new(vector.clone(), 10) };
                    let exact = SearchRequest { exact: true, ..request.clone() };
                    assert_eq!(collection.search(&request).unwrap()[0], collection.search(&exact).unwrap()[0], "{written}: {name}");
                }
            }
        }
        assert_eq!(files(folder.path(), "segment"), before, "{written}: none was built anew");
    }
}

#[test]
fn segments_with_runs_find_by_them() {
    let built = tempfile::tempdir().unwrap();
    fixture::write_segments(built.path());
    let mut folders = vec![built];
    for format in 2..=SEGMENT_FORMAT {
        folders.push(tempfile::tempdir().unwrap());
        copy(&data().join(format!("segment-{format}")), folders[folders.len() - 1].path());
    }
    for folder in folders.iter().map(tempfile::TempDir::path) {
        let collection = Store::open(folder).unwrap().collection("clusters").unwrap();
        let segments = &collection.info().vectors[""].segments;
        let stats = segments[0].stats.as_ref().unwrap();
        assert!(segments.len() == 1 && stats.sections.iter().any(|(name, bytes)| *name == "runs" && *bytes > 0), "{stats:?}");
        for point in clusters() {
            let request = SearchRequest { ef: Some(10), ..SearchRequest::new(point.vectors[""].clone(), 1) };
            let hits = collection.search(&request).unwrap();
            assert_eq!((hits[0].score, hits.len()), (0.0, 1), "{:?}", point.id);
        }
        collection.verify().unwrap();
    }
}

#[test]
fn segments_with_codes_in_halves_find_by_them() {
    for format in 3..=SEGMENT_FORMAT {
        let folder = tempfile::tempdir().unwrap();
        copy(&data().join(format!("segment-{format}")), folder.path());
        let collection = Store::open(folder.path()).unwrap().collection("long").unwrap();
        let segments = &collection.info().vectors[""].segments;
        assert!(segments.len() == 1 && segments[0].stats.as_ref().unwrap().halves, "{segments:?}");
        for point in long() {
            // With more candidates all rows would be compared in full instead.
            let request = SearchRequest { ef: Some(6), ..SearchRequest::new(point.vectors[""].clone(), 1) };
            assert_eq!(collection.search(&request).unwrap()[0].id, point.id);
        }
        collection.verify().unwrap();
    }
}

/// The tables of every database below a folder.
fn tables(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files(folder, "sqlite") {
        let database = rusqlite::Connection::open(&path).unwrap();
        let mut statement = database.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").unwrap();
        found.extend(statement.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap));
    }
    found
}

#[test]
fn this_build_writes_the_tables_of_the_newest_fixture() {
    let (folder, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fixture::write(folder.path());
    copy(&data().join(format!("format-{FORMAT}")), old.path());
    assert!(tables(folder.path()).len() > 4);
    assert_eq!(tables(folder.path()), tables(old.path()));
    holds_what_was_written(&Store::open(folder.path()).unwrap().collection("old").unwrap());
}
