//! Files of different moments put together, as a careless restore or a half-copied folder leaves them: what is opened is one
//! moment, whole, or is refused; a vector that was never the point's is never served.
//!
//! A store lives three lives. After each its files are kept: closed, or, of the second, as a killed process leaves them, with
//! the log. Then every combination of a collection's file, a log, and segments is put together and judged.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use moco_index::{Collection, CollectionConfig, Distance, Error, HnswParams, Payload, Point, PointId, SearchRequest, Store, StoreOptions};

const SIZE: usize = 6;

/// The vector of a point's version in a collection: no two are alike.
fn vector(collection: &str, id: u64, version: u64) -> Vec<f32> {
    let of_collection = if collection == "c" { 0.0 } else { 500.0 };
    (0..SIZE as u64).map(|i| of_collection + ((id * 7919 + version * 104_729 + i * 1013) % 997) as f32 / 10.0).collect()
}

fn point(collection: &str, id: u64, version: u64) -> Point {
    let payload = Payload::from_iter([("version".to_owned(), version.into())]);
    Point { id: PointId::Num(id), vectors: BTreeMap::from([(String::new(), vector(collection, id, version))]), payload }
}

/// Version by id.
type Content = BTreeMap<u64, u64>;

/// Changes a collection as its `life`-th life does, and what it holds.
fn live(collection: &Collection, name: &str, life: u64, content: &mut Content) {
    let new: Vec<u64> =
        if life == 0 { (0..300).collect() } else { (life * 40..life * 40 + 80).chain(300 + life * 20..320 + life * 20).collect() };
    collection.upsert(new.iter().map(|id| point(name, *id, life)).collect()).unwrap();
    content.extend(new.into_iter().map(|id| (id, life)));
    let dead: Vec<u64> = content.keys().copied().filter(|id| id % 11 == life).collect();
    collection.delete(&dead.iter().map(|id| PointId::Num(*id)).collect::<Vec<_>>()).unwrap();
    content.retain(|id, _| !dead.contains(id));
    collection.compact().unwrap();
    // What no segment holds, and what died since one was built.
    let late: Vec<u64> = (life * 13..life * 13 + 9).collect();
    collection.upsert(late.iter().map(|id| point(name, *id, life + 10)).collect()).unwrap();
    content.extend(late.into_iter().map(|id| (id, life + 10)));
}

/// Bytes by path, relative to the data folder.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn read_files(folder: &Path) -> Files {
    let (mut files, mut folders) = (Files::new(), vec![PathBuf::new()]);
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(folder.join(&at)).unwrap().map(Result::unwrap) {
            let path = at.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if !path.to_str().unwrap().ends_with("-shm") && path != Path::new("lock") {
                files.insert(path, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}

fn write_files(files: &Files) -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    std::fs::create_dir(folder.path().join("collections")).unwrap();
    for (path, bytes) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    folder
}

/// The files of one moment, and what the collection `c` holds then.
struct Moment {
    files: Files,
    content: Content,
}

struct Lives {
    moments: Vec<Moment>,
    /// Folders of the collections, relative to the data folder.
    c: PathBuf,
    d: PathBuf,
}

fn lives() -> Lives {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let hnsw = HnswParams { full_scan_threshold: 100, m: 8, ef_construction: 40, ..HnswParams::default() };
    let config = CollectionConfig { hnsw, ..CollectionConfig::unnamed(SIZE, Distance::Euclid) };
    let mut contents = [Content::new(), Content::new()];
    let (mut moments, mut folders) = (Vec::new(), Vec::new());
    for life in 0..3 {
        let store = Store::open_with(folder.path(), &StoreOptions::default().checkpoint_bytes(1 << 30)).unwrap();
        let mut open = Vec::new();
        for (name, content) in ["c", "d"].into_iter().zip(&mut contents) {
            let collection = if life == 0 { store.create_collection(name, config.clone()) } else { store.collection(name) }.unwrap();
            if life == 0 {
                let known: BTreeSet<PathBuf> = folders.iter().cloned().collect();
                let all = std::fs::read_dir(folder.path().join("collections")).unwrap();
                let all = all.map(|entry| Path::new("collections").join(entry.unwrap().file_name()));
                folders.extend(all.filter(|path| !known.contains(path)).collect::<Vec<_>>());
            }
            live(&collection, name, life, content);
            open.push(collection);
        }
        // As if the process were killed; in the other lives the log is moved into the file.
        if life == 1 {
            moments.push(Moment { files: read_files(folder.path()), content: contents[0].clone() });
        }
        drop((open, store));
        if life != 1 {
            moments.push(Moment { files: read_files(folder.path()), content: contents[0].clone() });
        }
    }
    let [c, d] = folders.try_into().expect("two collections");
    Lives { moments, c, d }
}

/// What an answer must be, `None` where it may be an error.
struct Judge<'a> {
    moments: &'a [Moment],
    /// The moment that the truth is of, if its files are of one.
    whole: Option<usize>,
}

impl Judge<'_> {
    /// `Ok(true)`: answered; `Ok(false)`: refused.
    fn judge(&self, files: &Files) -> Result<bool, String> {
        let folder = write_files(files);
        for opening in 0..2 {
            match catch_unwind(AssertUnwindSafe(|| self.read(folder.path()))) {
                Err(_) => return Err(format!("it panicked at opening {opening}")),
                Ok(Err(wrong)) => return Err(format!("opening {opening}: {wrong}")),
                Ok(Ok(Err(error))) if self.whole.is_some() => return Err(format!("opening {opening} refused a whole truth: {error}")),
                Ok(Ok(Err(error))) if !error.to_string().contains(folder.path().to_str().unwrap()) => {
                    return Err(format!("an error that names no file: {error}"));
                }
                Ok(Ok(Err(_))) => return Ok(false),
                Ok(Ok(Ok(()))) => {}
            }
        }
        Ok(true)
    }

    /// The inner error is the store's, the outer one says what was served wrongly.
    fn read(&self, folder: &Path) -> Result<Result<(), Error>, String> {
        let open = || -> Result<_, Error> {
            let store = Store::open(folder)?;
            let collection = store.collection("c")?;
            Ok((store, collection))
        };
        let (_store, collection) = match open() {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        // Before anything was verified: each answer is a vector that the point had at some time.
        let served = match self.searches(&collection, None) {
            Ok(Ok(served)) => served,
            Ok(Err(error)) => return Ok(Err(error)),
            Err(wrong) => return Err(wrong),
        };
        let scrolled = collection.verify().and_then(|_| collection.scroll(None, usize::MAX >> 1, true, true));
        let records = match scrolled {
            Ok((records, _)) => records,
            Err(Error::Damaged { path, .. }) if path.extension().is_some_and(|extension| extension == "segment") => {
                // Known as lost, and answered from the truth until it is built anew.
                collection.wait_until_built();
                match collection.verify().and_then(|_| collection.scroll(None, usize::MAX >> 1, true, true)) {
                    Ok((records, _)) => records,
                    Err(error) => return Ok(Err(error)),
                }
            }
            Err(error) => return Ok(Err(error)),
        };
        let content: Content = records
            .iter()
            .map(|record| match (record.id, &record.payload.as_ref().unwrap()["version"]) {
                (PointId::Num(id), version) => (id, version.as_u64().unwrap()),
                (id, _) => panic!("{id} was never written"),
            })
            .collect();
        let is_possible = match self.whole {
            Some(whole) => content == self.moments[whole].content,
            None => self.moments.iter().any(|moment| moment.content == content),
        };
        if !is_possible {
            return Err(format!("{} points are of no moment there was", content.len()));
        }
        if served != self.expected(&content) {
            return Err("an exact search missed something, or found what is not there".to_owned());
        }
        collection.wait_until_built();
        match self.searches(&collection, Some(&content)) {
            Ok(Ok(served)) if served == self.expected(&content) => Ok(Ok(())),
            Ok(Ok(_)) => Err("an exact search over what was built anew missed something".to_owned()),
            Ok(Err(error)) => Ok(Err(error)),
            Err(wrong) => Err(wrong),
        }
    }

    fn queries() -> impl Iterator<Item = Vec<f32>> {
        (0..8).map(|n| vector("c", n * 37, n % 3))
    }

    fn expected(&self, content: &Content) -> Vec<Vec<u64>> {
        let nearest = |query: Vec<f32>| {
            let mut all: Vec<(f32, u64)> =
                content.iter().map(|(id, version)| (Distance::Euclid.score(&query, &vector("c", *id, *version)), *id)).collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            all.into_iter().take(10).map(|(_, id)| id).collect()
        };
        Self::queries().map(nearest).collect()
    }

    /// Ids that exact searches find; each hit of these, and of walks, is looked at.
    fn searches(&self, collection: &Collection, content: Option<&Content>) -> Result<Result<Vec<Vec<u64>>, Error>, String> {
        let (mut found, mut walked, mut agreed) = (Vec::new(), 0, 0);
        for query in Self::queries() {
            let request = SearchRequest { with_vectors: true, with_payload: true.into(), ..SearchRequest::new(query.clone(), 10) };
            let hits = collection
                .search(&SearchRequest { exact: true, ..request.clone() })
                .and_then(|exact| Ok((exact, collection.search(&request)?, collection.search(&SearchRequest::new(query.clone(), 10))?)));
            let (exact, walk, bare) = match hits {
                Ok(hits) => hits,
                Err(error) => return Ok(Err(error)),
            };
            for hit in exact.iter().chain(&walk) {
                let PointId::Num(id) = hit.id else { return Err(format!("{} was never written", hit.id)) };
                let version = hit.payload.as_ref().unwrap()["version"].as_u64().unwrap();
                let genuine = vector("c", id, version);
                let was_written = self.moments.iter().any(|moment| moment.content.get(&id) == Some(&version));
                if !was_written || hit.vectors.as_ref().unwrap()[""] != genuine || hit.score != Distance::Euclid.score(&query, &genuine) {
                    return Err(format!("{id} was served as it never was: {hit:?}"));
                }
                if content.is_some_and(|content| content.get(&id) != Some(&version)) {
                    return Err(format!("{id} was served as it is no more: {hit:?}"));
                }
            }
            for hit in bare {
                let PointId::Num(id) = hit.id else { return Err(format!("{} was never written", hit.id)) };
                let is_score = |moment: &Moment| {
                    moment.content.get(&id).is_some_and(|version| Distance::Euclid.score(&query, &vector("c", id, *version)) == hit.score)
                };
                if !self.moments.iter().any(is_score) {
                    return Err(format!("{id} was served with the score {}, which it never had", hit.score));
                }
            }
            let ids: Vec<u64> = exact.iter().map(|hit| if let PointId::Num(id) = hit.id { id } else { u64::MAX }).collect();
            walked += walk.len();
            agreed += walk.iter().filter(|hit| exact.iter().any(|other| other.id == hit.id)).count();
            found.push(ids);
        }
        if content.is_some() && agreed * 10 < walked * 9 {
            return Err(format!("walks found {agreed} of {walked}"));
        }
        Ok(Ok(found))
    }
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "segment")
}

/// Which segments lie in the folder.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Segments {
    /// Those of a moment, under their own names.
    Of(usize),
    /// Those of a moment under the names that the truth of the other one knows.
    Renamed(usize),
    /// The other collection's under the names that the truth knows.
    OfAnother,
    Missing,
}

#[test]
fn files_of_different_moments_are_answered_as_one_moment_or_refused() {
    let Lives { moments, c, d } = lives();
    let (file, log) = (c.join("collection.sqlite"), c.join("collection.sqlite-wal"));
    assert!(moments[1].files.contains_key(&log), "the second life's log is there");
    let segments_of = |moment: usize, folder: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let files = moments[moment].files.iter().filter(|(path, _)| path.starts_with(folder) && is_segment(path));
        files.map(|(path, bytes)| (path.clone(), bytes.clone())).collect()
    };
    let kinds = (0..3).map(Segments::Of).chain((0..3).map(Segments::Renamed)).chain([Segments::OfAnother, Segments::Missing]);
    let kinds: Vec<Segments> = kinds.collect();
    let (mut answered, mut refused, mut wrong) = (0, 0, Vec::new());
    for file_of in 0..3 {
        for log_of in ["none", "its own", "another's"] {
            for kind in &kinds {
                let mut files = moments[2].files.clone();
                files.retain(|path, _| !path.starts_with(&c));
                files.insert(file.clone(), moments[file_of].files[&file].clone());
                match log_of {
                    "its own" => drop(files.insert(log.clone(), moments[1].files[&log].clone())),
                    "another's" => drop(files.insert(log.clone(), moments[1].files[&d.join("collection.sqlite-wal")].clone())),
                    _ => {}
                }
                // The file of the second moment, without its log, holds what the first life left.
                let whole = match (file_of, log_of) {
                    (0, "none") => Some(0),
                    (1, "its own") => Some(1),
                    (2, "none") => Some(2),
                    _ => None,
                };
                let known = segments_of(whole.unwrap_or(1), &c);
                let rename = |segments: Vec<(PathBuf, Vec<u8>)>| {
                    known.iter().map(|(path, _)| path.clone()).zip(segments.into_iter().map(|(_, bytes)| bytes)).collect::<Vec<_>>()
                };
                files.extend(match *kind {
                    Segments::Of(moment) => segments_of(moment, &c),
                    Segments::Renamed(moment) => rename(segments_of(moment, &c)),
                    Segments::OfAnother => rename(segments_of(1, &d)),
                    Segments::Missing => Vec::new(),
                });
                match (Judge { moments: &moments, whole }).judge(&files) {
                    Ok(true) => answered += 1,
                    Ok(false) => refused += 1,
                    Err(reason) => wrong.push(format!("file of {file_of}, log {log_of}, segments {kind:?}: {reason}")),
                }
            }
        }
    }
    println!("{} combinations: {answered} answered, {refused} refused, {} wrong", answered + refused + wrong.len(), wrong.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(answered >= 3 * kinds.len(), "{answered} were answered: at least those whose truth is whole");
}

/// It once served the other's vectors: a row's checksum does not say whose it is.
#[test]
fn a_collections_whole_folder_under_anothers_name_is_refused() {
    let Lives { moments, c, d } = lives();
    let mut files = moments[2].files.clone();
    files.retain(|path, _| !path.starts_with(&c));
    for (path, bytes) in &moments[2].files {
        if let Ok(rest) = path.strip_prefix(&d) {
            files.insert(c.join(rest), bytes.clone());
        }
    }
    assert_eq!((Judge { moments: &moments, whole: None }).judge(&files), Ok(false));
}

#[test]
fn a_catalogue_older_or_newer_than_the_folder_lists_what_it_knows_and_serves_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let keep = || read_files(folder.path());
    let config = || CollectionConfig::unnamed(SIZE, Distance::Euclid);
    let store = Store::open(folder.path()).unwrap();
    store.create_collection("c", config()).unwrap().upsert((0..20).map(|id| point("c", id, 0)).collect()).unwrap();
    drop(store);
    let old = keep();
    let store = Store::open(folder.path()).unwrap();
    store.create_collection("d", config()).unwrap().upsert((0..20).map(|id| point("d", id, 0)).collect()).unwrap();
    assert!(store.delete_collection("c").unwrap());
    store.create_collection("c", config()).unwrap().upsert((0..5).map(|id| point("c", id, 1)).collect()).unwrap();
    drop(store);
    let new = keep();
    let catalogue = Path::new("catalogue.sqlite").to_owned();
    let with = |files: &Files, of: &Files| {
        let mut files = files.clone();
        files.insert(catalogue.clone(), of[&catalogue].clone());
        write_files(&files)
    };
    let count = |store: &Store, name: &str| store.collection(name).map(|collection| collection.verify().map(|_| collection.count()));
    // The old catalogue knows one collection, whose folder is gone: an error, and not the new one of its name.
    let older = with(&new, &old);
    let store = Store::open(older.path()).unwrap();
    assert_eq!(store.collections(), ["c"]);
    let error = count(&store, "c").expect_err("its folder is gone");
    assert!(error.to_string().contains(older.path().to_str().unwrap()), "{error}");
    assert!(matches!(store.collection("d"), Err(Error::CollectionNotFound { .. })));
    drop(store);
    // The new one knows two, neither of which is there.
    let newer = with(&old, &new);
    let store = Store::open(newer.path()).unwrap();
    assert_eq!(store.collections(), ["c", "d"]);
    for name in ["c", "d"] {
        let error = count(&store, name).expect_err("its folder is not there");
        assert!(error.to_string().contains(newer.path().to_str().unwrap()), "{error}");
    }
    // What is unknown is left alone, so that the right catalogue finds it again.
    let bytes = |path: &Path| std::fs::read(path).unwrap();
    for (path, content) in old.iter().filter(|(path, _)| **path != catalogue) {
        assert_eq!(bytes(&newer.path().join(path)), *content, "{}", path.display());
    }
    drop(store);
    for (files, c, d) in [(&old, 20, None), (&new, 5, Some(20))] {
        let folder = write_files(files);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(count(&store, "c").unwrap().unwrap(), c);
        assert_eq!(count(&store, "d").ok().map(Result::unwrap), d);
    }
}

#[test]
fn a_snapshot_is_no_collection_file_and_a_collection_file_no_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("data")).unwrap();
    let collection = store.create_collection("c", CollectionConfig::unnamed(SIZE, Distance::Euclid)).unwrap();
    let mut contents = Vec::new();
    for life in 0..2 {
        collection.upsert((life * 5..life * 5 + 10).map(|id| point("c", id, life)).collect()).unwrap();
        collection.backup(folder.path().join(format!("snapshot-{life}"))).unwrap();
        contents.push(collection.scroll(None, 100, true, true).unwrap().0);
    }
    drop((collection, store));
    let files = read_files(&folder.path().join("data"));
    let file = files.keys().find(|path| path.ends_with("collection.sqlite")).unwrap().clone();
    // An older snapshot beside newer data is what it was.
    let store = Store::open(folder.path().join("data")).unwrap();
    for (life, content) in contents.iter().enumerate() {
        let restored = store.restore(folder.path().join(format!("snapshot-{life}")), &format!("restored {life}")).unwrap();
        assert_eq!(restored.scroll(None, 100, true, true).unwrap().0, *content);
    }
    let as_snapshot = folder.path().join("as-snapshot");
    std::fs::write(&as_snapshot, &files[&file]).unwrap();
    let error = store.restore(&as_snapshot, "x").err().expect("a collection's file is no snapshot");
    assert!(error.to_string().contains(as_snapshot.to_str().unwrap()), "{error}");
    let mut mixed = files;
    mixed.insert(file, std::fs::read(folder.path().join("snapshot-1")).unwrap());
    let mixed = write_files(&mixed);
    let store = Store::open(mixed.path()).unwrap();
    let error = store.collection("c").err().expect("a snapshot is no collection's file");
    assert!(error.to_string().contains(mixed.path().to_str().unwrap()), "{error}");
}
