//! The process that the durability tests start, kill and starve: `moco-index-child MODE FOLDER …`.
//!
//! Acknowledgements leave by one `write` system call each, so that the order of writes, syncs and acknowledgements can
//! be recorded, and so that nothing that was said can be lost in a buffer when the process is killed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moco_index::{Collection, CollectionConfig, Distance, Error, Point, PointId, SearchRequest, Store, StoreOptions};

/// Ids each client of `work` uses.
const IDS: u64 = 40;
const SIZE: usize = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["hold", folder] => hold(folder),
        ["open", folder] => say(&Store::open(folder).map(|_| ()).map_or_else(|error| error.to_string(), |()| "opened".to_owned())),
        ["work", folder, checkpoint_bytes, ref starts @ ..] => work(folder, checkpoint_bytes, starts),
        ["once", folder, sync, writes] => once(folder, sync, writes),
        ["crowd", folder] => crowd(folder),
        ["full-disk", folder, faults, room] => full_disk(folder, Path::new(faults), room),
        ["failed-catalogue", folder, faults, fault] => failed_catalogue(folder, Path::new(faults), fault),
        ["failed-sync", folder, faults, fault] => failed_sync(folder, Path::new(faults), fault),
        _ => panic!("what is {arguments:?}?"),
    }
}

/// One line to standard output. Its buffer passes whole lines on at once, so this is one system call.
fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).expect("the parent reads");
}

fn open(folder: &str, options: &StoreOptions) -> (Store, Arc<Collection>) {
    let store = Store::open_with(folder, options).unwrap();
    let collection = match store.collection("c") {
        Err(Error::CollectionNotFound { .. }) => store.create_collection("c", CollectionConfig::unnamed(SIZE, Distance::Euclid)),
        found => found,
    };
    (store, collection.unwrap())
}

fn point(id: u64, operation: u64) -> Point {
    let vector = (0..SIZE).map(|i| (id * 1000 + operation + i as u64) as f32).collect();
    let payload = [("operation".to_owned(), operation.into())].into_iter().collect();
    Point { id: PointId::Num(id), vectors: BTreeMap::from([(String::new(), vector)]), payload }
}

fn hold(folder: &str) {
    let _store = Store::open(folder).unwrap();
    say("held");
    loop {
        std::thread::park();
    }
}

/// One client a start: client `c` performs operations `start`, `start + 1`, … on its own ids until it is killed, and says
/// `ack c operation` after each. What an operation is follows from its number; `tests/durability.rs` knows the same rule.
fn work(folder: &str, checkpoint_bytes: &str, starts: &[&str]) {
    let options = StoreOptions::default().checkpoint_bytes(checkpoint_bytes.parse().unwrap());
    let (_store, collection) = open(folder, &options);
    std::thread::scope(|scope| {
        for (client, start) in starts.iter().enumerate() {
            let collection = &collection;
            let start: u64 = start.parse().unwrap();
            scope.spawn(move || {
                for operation in start.. {
                    let first = client as u64 * IDS + operation * 7 % IDS;
                    let ids = [first, client as u64 * IDS + operation * 11 % IDS];
                    if operation % 4 == 3 {
                        collection.delete(&ids.map(PointId::Num)).unwrap();
                    } else {
                        collection.upsert(ids.iter().map(|id| point(*id, operation)).collect()).unwrap();
                    }
                    say(&format!("ack {client} {operation}"));
                }
            });
        }
    });
}

/// Some writes by one client, with a checkpoint after each, so that the record holds everything that can happen.
fn once(folder: &str, sync: &str, writes: &str) {
    let options = StoreOptions::default().checkpoint_bytes(1000);
    let options = if sync == "without-sync" { options.without_sync() } else { options };
    let (_store, collection) = open(folder, &options);
    for operation in 0..writes.parse().unwrap() {
        collection.upsert(vec![point(operation % 10, operation)]).unwrap();
        say(&format!("ack 0 {operation}"));
    }
}

/// Eight clients write twenty points each, at once.
fn crowd(folder: &str) {
    let (_store, collection) = open(folder, &StoreOptions::default());
    std::thread::scope(|scope| {
        for client in 0..8 {
            let collection = &collection;
            scope.spawn(move || (0..20).for_each(|n| assert!(collection.upsert(vec![point(client * 20 + n, n)]).unwrap() > 0)));
        }
    });
    say(&collection.count().to_string());
}

/// Writes, fills the disk after `room` further bytes, writes until it fails, reads, frees the disk, writes again.
fn full_disk(folder: &str, faults: &Path, room: &str) {
    let (_store, collection) = open(folder, &StoreOptions::default().checkpoint_bytes(4000));
    let mut operation = 0;
    let mut write = |expect_failure: bool| {
        let outcome = collection.upsert((0..8).map(|id| point(id, operation)).collect());
        let outcome = match outcome {
            Ok(_) => format!("ack 0 {operation}"),
            Err(error @ Error::DiskFull { .. }) => format!("full {error}"),
            Err(other) => panic!("{other:?}"),
        };
        assert!(expect_failure || outcome.starts_with("ack"), "{outcome}");
        operation += 1;
        say(&outcome);
        outcome.starts_with("ack")
    };
    write(false);
    let fault = faults.join("enospc");
    std::fs::write(&fault, room).unwrap();
    while write(true) {}
    // Once more: the first failure must not be a state that a second write slips through.
    assert!(!write(true) || room != "0");
    let hits = collection.search(&SearchRequest { with_vectors: true, ..SearchRequest::new(vec![0.0; SIZE], 8) }).unwrap();
    assert_eq!(hits.len(), 8, "reads go on");
    std::fs::remove_file(&fault).unwrap();
    write(false);
    write(false);
}

/// Writes, lets syncs fail, writes, heals them, writes: only what came first is acknowledged.
fn failed_sync(folder: &str, faults: &Path, fault: &str) {
    let (_store, collection) = open(folder, &StoreOptions::default().checkpoint_bytes(1));
    let mut operation = 0;
    let mut write = || {
        let outcome = collection.upsert(vec![point(operation, operation)]);
        say(&match outcome {
            Ok(_) => format!("ack 0 {operation}"),
            Err(error) => format!("refused {operation}: {error}"),
        });
        operation += 1;
    };
    write();
    write();
    let fault: PathBuf = faults.join(fault);
    std::fs::write(&fault, "").unwrap();
    write();
    write();
    std::fs::remove_file(&fault).unwrap();
    write();
    assert!(collection.info().writes_stopped);
    assert!(collection.search(&SearchRequest::new(vec![0.0; SIZE], 9)).unwrap().len() >= 2, "reads go on");
}

/// Makes a collection, fails to make another one, heals the disk, tries again.
fn failed_catalogue(folder: &str, faults: &Path, fault: &str) {
    let (store, collection) = open(folder, &StoreOptions::default());
    collection.upsert(vec![point(1, 1)]).unwrap();
    let fault = faults.join(fault);
    std::fs::write(&fault, "0").unwrap();
    let make =
        |name| store.create_collection(name, CollectionConfig::default()).map_or_else(|error| error.to_string(), |_| "made".to_owned());
    say(&make("d"));
    std::fs::remove_file(&fault).unwrap();
    say(&make("e"));
}
