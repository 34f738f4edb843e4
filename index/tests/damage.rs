//! Files that are not what was written: newer, foreign, cut short, flipped. Always an error that names the file or the
//! point, never a wrong answer, never a panic.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moco_index::{Collection, CollectionConfig, Distance, Error, FORMAT, Payload, Point, PointId, SearchRequest, Store};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn points() -> Vec<Point> {
    (0..200)
        .map(|id| Point {
            id: PointId::Num(id),
            vectors: BTreeMap::from([(String::new(), (0..8).map(|i| (id * 8 + i) as f32 * 0.37).collect())]),
            payload: Payload::from_iter([("n".to_owned(), id.into())]),
        })
        .collect()
}

/// A closed data folder with one collection, and the path of that collection's file.
fn filled() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let collection = store.create_collection("c", CollectionConfig::unnamed(8, Distance::Euclid)).unwrap();
    collection.upsert(points()).unwrap();
    collection.delete(&[PointId::Num(0)]).unwrap();
    drop((store, collection));
    let collections = std::fs::read_dir(folder.path().join("collections")).unwrap().next().unwrap().unwrap();
    (folder, collections.path().join("collection.sqlite"))
}

/// Opens the collection; its error must be about `file`.
fn open(folder: &Path, file: &Path) -> Result<std::sync::Arc<Collection>, Error> {
    let opened = Store::open(folder).and_then(|store| store.collection("c"));
    if let Err(error) = &opened {
        let text = error.to_string();
        assert!(text.contains(file.to_str().unwrap()), "the error names the file: {text}");
    }
    opened
}

#[test]
fn a_newer_format_is_refused_by_number() {
    let (folder, file) = filled();
    let catalogue = folder.path().join("catalogue.sqlite");
    for newer in [&file, &catalogue] {
        let database = rusqlite::Connection::open(newer).unwrap();
        database.pragma_update(None, "user_version", FORMAT + 1).unwrap();
        drop(database);
        let error = open(folder.path(), newer).err().unwrap();
        assert!(
            matches!(&error, Error::Format { path, found, supported } if path == newer && *found == FORMAT + 1 && *supported == FORMAT),
            "{error}"
        );
    }
}

#[test]
fn foreign_missing_and_empty_files_are_refused() {
    let (folder, file) = filled();
    let catalogue = folder.path().join("catalogue.sqlite");
    for damaged in [&file, &catalogue] {
        let good = std::fs::read(damaged).unwrap();
        let refused = |content: Option<&[u8]>| {
            match content {
                Some(content) => std::fs::write(damaged, content).unwrap(),
                None => std::fs::remove_file(damaged).unwrap(),
            }
            let error = open(folder.path(), damaged).err().unwrap();
            assert!(matches!(&error, Error::Damaged { path, .. } if path == damaged), "{error}");
        };
        refused(Some(b"these are not the bytes of a database, however long one looks at them".repeat(99).as_slice()));
        refused(Some(b""));
        refused(None);
        let foreign = rusqlite::Connection::open(damaged).unwrap();
        foreign.execute_batch("CREATE TABLE point (slot)").unwrap();
        drop(foreign);
        refused(Some(&std::fs::read(damaged).unwrap()));
        std::fs::write(damaged, good).unwrap();
    }
    assert_eq!(open(folder.path(), &file).unwrap().count(), 199);
}

#[test]
fn a_file_cut_short_is_refused() {
    let (folder, file) = filled();
    let good = std::fs::read(&file).unwrap();
    for length in [1, 99, 100, 512, 4096, good.len() / 3, good.len() / 2, good.len() - 4096, good.len() - 1] {
        std::fs::write(&file, &good[..length]).unwrap();
        let error = open(folder.path(), &file).err().unwrap_or_else(|| panic!("cut to {length} of {} bytes it opened", good.len()));
        assert!(matches!(error, Error::Damaged { .. } | Error::DamagedPoint { .. }), "cut to {length}: {error:?}");
    }
}

#[test]
fn a_flipped_byte_is_noticed_or_does_no_harm() {
    let (folder, file) = filled();
    let good = std::fs::read(&file).unwrap();
    let expected: Vec<Point> = points().split_off(1);
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let (mut named_a_point, mut refused, mut harmless) = (0, 0, 0);
    for _ in 0..600 {
        let mut bytes = good.clone();
        let position = random.random_range(0..bytes.len());
        bytes[position] ^= random.random_range(1..=255u8);
        std::fs::write(&file, bytes).unwrap();
        match open(folder.path(), &file) {
            Err(Error::DamagedPoint { .. }) => named_a_point += 1,
            Err(Error::Damaged { .. } | Error::Format { .. }) => refused += 1,
            Err(other) => panic!("byte {position}: {other:?}"),
            Ok(collection) => {
                harmless += 1;
                let (records, _) = collection.scroll(None, 1000, true, true).unwrap();
                assert_eq!(records.len(), expected.len(), "byte {position}");
                for (record, point) in records.iter().zip(&expected) {
                    assert_eq!(record.id, point.id, "byte {position}");
                    assert_eq!(
                        (record.vectors.as_ref(), record.payload.as_ref()),
                        (Some(&point.vectors), Some(&point.payload)),
                        "byte {position}"
                    );
                }
                let nearest = collection.search(&SearchRequest::new(expected[41].vectors[""].clone(), 1)).unwrap();
                assert_eq!((nearest[0].id, nearest[0].score), (expected[41].id, 0.0), "byte {position}");
            }
        }
    }
    println!("600 flips: {named_a_point} named a point, {refused} refused the file, {harmless} in bytes that nothing is read from");
    assert!(named_a_point > 20 && refused > 0, "{named_a_point} named, {refused} refused");
}

#[test]
fn a_row_that_is_damaged_while_the_collection_is_open_is_never_served() {
    let (folder, file) = filled();
    let store = Store::open(folder.path()).unwrap();
    let collection = store.collection("c").unwrap();
    let database = rusqlite::Connection::open(&file).unwrap();
    database.execute("UPDATE point SET payload = '{\"n\":999}' WHERE id = ?", [[0u8, 0, 0, 0, 0, 0, 0, 0, 7].as_slice()]).unwrap();
    let error = collection.retrieve(&[PointId::Num(7)], true, false).unwrap_err();
    assert!(matches!(error, Error::DamagedPoint { id: PointId::Num(7), .. }), "{error}");
    assert_eq!(collection.retrieve(&[PointId::Num(8)], true, true).unwrap().len(), 1);
}

#[test]
fn lost_rows_are_noticed_though_every_row_left_is_sound() {
    let (folder, file) = filled();
    let database = rusqlite::Connection::open(&file).unwrap();
    database.execute("DELETE FROM point WHERE slot = 10", []).unwrap();
    drop(database);
    let error = open(folder.path(), &file).err().unwrap();
    assert!(matches!(&error, Error::Damaged { .. }) && error.to_string().contains("198 points, not the 199"), "{error}");
}

#[test]
fn one_damaged_collection_leaves_the_others_usable() {
    let (folder, file) = filled();
    let store = Store::open(folder.path()).unwrap();
    store.create_collection("other", CollectionConfig::unnamed(8, Distance::Dot)).unwrap().upsert(points()).unwrap();
    drop(store);
    std::fs::write(&file, b"gone").unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert!(store.collection("c").is_err());
    assert_eq!(store.collection("other").unwrap().count(), 200);
    assert!(store.delete_collection("c").unwrap(), "and the damaged one can be deleted");
}

#[test]
fn a_path_that_is_a_file_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(Store::open(file.path()), Err(Error::NotAFolder { path }) if path == file.path()));
    assert!(matches!(Store::open(file.path().join("below")), Err(Error::NotAFolder { .. })));
}
