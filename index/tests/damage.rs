//! Files that are not what was written: newer, foreign, cut short, with rows missing (flipped bytes: `durability/flips.rs`). Always an error that names the file or the
//! point, never a wrong answer, never a panic.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moco_index::{Collection, CollectionConfig, Distance, Error, FORMAT, Payload, Point, PointId, Store};

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
fn a_row_that_is_damaged_while_the_collection_is_open_is_never_served() {
    let (folder, file) = filled();
    let store = Store::open(folder.path()).unwrap();
    let collection = store.collection("c").unwrap();
    let database = rusqlite::Connection::open(&file).unwrap();
    database.execute("UPDATE point SET payload = '{\"n\":999}' WHERE id = ?", [[1u8, 7].as_slice()]).unwrap();
    let error = collection.retrieve(&[PointId::Num(7)], true, false).unwrap_err();
    assert!(matches!(error, Error::DamagedPoint { id: PointId::Num(7), .. }), "{error}");
    assert_eq!(collection.retrieve(&[PointId::Num(8)], true, true).unwrap().len(), 1);
}

#[test]
fn a_verification_notices_lost_rows_though_every_row_left_is_sound() {
    for (loss, expected) in [
        ("DELETE FROM point; DELETE FROM block", "0 points, not the 199"),
        ("DELETE FROM block", "0 vectors, not the 199"),
        ("DELETE FROM point WHERE number = 10", "the vector in slot 10"),
        ("UPDATE block SET first = first + 1", "the vector in slot 2"),
    ] {
        let (folder, file) = filled();
        rusqlite::Connection::open(&file).unwrap().execute_batch(loss).unwrap();
        let error = open(folder.path(), &file).and_then(|collection| collection.verify()).unwrap_err();
        assert!(error.to_string().contains(expected), "{loss}: {error}");
    }
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

#[test]
fn a_snapshot_takes_away_what_a_killed_one_left_and_nothing_else() {
    let (folder, file) = filled();
    let collection = open(folder.path(), &file).unwrap();
    let out = tempfile::tempdir().unwrap();
    let name = |uuid: u128, ending: &str| out.path().join(format!(".{}.unfinished-snapshot{ending}", uuid::Uuid::from_u128(uuid)));
    let left = ["", ".database", ".database-journal"].map(|ending| name(1, ending));
    // Another process is at it, or it only looks so.
    let kept = [
        name(2, ""),
        name(2, ".database"),
        out.path().join("a.database"),
        out.path().join("a.partial"),
        out.path().join(".x.unfinished-snapshot"),
    ];
    for path in left.iter().chain(&kept) {
        std::fs::write(path, "something").unwrap();
    }
    let other = std::fs::File::open(&kept[0]).unwrap();
    other.lock().unwrap();
    collection.backup(out.path().join("a")).unwrap();
    assert!(left.iter().all(|path| !path.exists()), "what was left is gone");
    for path in &kept {
        assert_eq!(std::fs::read(path).unwrap(), b"something", "{}", path.display());
    }
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), kept.len() + 1, "nothing is left of this one");
    // What cannot be made is named, not what it would be made of.
    let nowhere = out.path().join("a").join("b");
    let refusal = collection.backup(&nowhere).err().unwrap().to_string();
    assert!(refusal.contains(out.path().to_str().unwrap()), "{refusal}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), kept.len() + 1);
}
