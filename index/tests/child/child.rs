//! The process that the durability tests start, kill and starve: `moco-index-child MODE FOLDER …`.
//!
//! Acknowledgements leave by one `write` system call each, so that the order of writes, syncs and acknowledgements can
//! be recorded, and so that nothing that was said can be lost in a buffer when the process is killed.

#[path = "../durability/model.rs"]
#[allow(dead_code, reason = "the tests use the rest of it")]
mod model;
#[path = "../durability/script.rs"]
#[allow(dead_code, reason = "the tests use the rest of it")]
mod script;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use moco_index::{Collection, CollectionConfig, Distance, Error, HnswParams, Payload, Point, PointId, SearchRequest, Store, StoreOptions};

use model::Model;
use script::{MAIN, Mix, Operation, SUFFERERS};

const SIZE: usize = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["hold", folder] => hold(folder),
        ["open", folder] => say(&Store::open(folder).map(|_| ()).map_or_else(|error| error.to_string(), |()| "opened".to_owned())),
        ["script", folder, seed, checkpoint_bytes, sync, mix, snapshots, lives, count, ref firsts @ ..] => {
            let options = options(sync).checkpoint_bytes(number(checkpoint_bytes) as usize);
            let script = Script {
                seed: number(seed),
                mix: Mix::named(mix),
                too_early: sync == "too-early",
                lives: number(lives),
                count: number(count),
                firsts: firsts.iter().map(|first| number(first)).collect(),
                snapshots: (snapshots != "none").then(|| Path::new(snapshots)),
            };
            script.run(folder, &options);
        }
        ["suffer", folder, seed, checkpoint_bytes, mix, count, faults] => {
            let options = StoreOptions::default().checkpoint_bytes(number(checkpoint_bytes) as usize);
            suffer(folder, number(seed), &options, Mix::named(mix), number(count), Path::new(faults));
        }
        ["suffer-together", folder, seed, checkpoint_bytes, count] => {
            let options = StoreOptions::default().checkpoint_bytes(number(checkpoint_bytes) as usize);
            suffer_together(folder, number(seed), &options, number(count));
        }
        ["churn", folder, points, size, rounds] => churn(folder, number(points), number(size) as usize, number(rounds)),
        ["settle", folder] => settle(folder),
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

fn number(argument: &str) -> u64 {
    argument.parse().unwrap_or_else(|_| panic!("{argument} is not a number"))
}

fn options(sync: &str) -> StoreOptions {
    match sync {
        "with-sync" | "too-early" => StoreOptions::default(),
        "without-sync" => StoreOptions::default().without_sync(),
        _ => panic!("what is {sync}?"),
    }
}

/// What clients do together.
struct Script<'a> {
    seed: u64,
    mix: Mix,
    too_early: bool,
    /// How often the store is opened.
    lives: u64,
    /// Operations of each client.
    count: u64,
    /// Each client's first operation.
    firsts: Vec<u64>,
    /// Where snapshots go.
    snapshots: Option<&'a Path>,
}

impl Script<'_> {
    /// Client `c` says `ack c number` after each of its operations, or before it, which the tests must notice. Beside them snapshots are
    /// taken, one after the other: `ask number` before each, `snapshot number` after it.
    fn run(&self, folder: &str, options: &StoreOptions) {
        let mut snapshots = 0;
        for life in 0..self.lives {
            let store = script::open(Path::new(folder), options).unwrap();
            Operation::CreateCollection { name: MAIN.to_owned() }.perform(&store).unwrap();
            say("ack main");
            let is_over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                if let Some(to) = self.snapshots {
                    scope.spawn(|| take_snapshots(&store.collection(MAIN).unwrap(), to, &mut snapshots, &is_over));
                }
                std::thread::scope(|scope| {
                    for (client, first) in (0..).zip(&self.firsts) {
                        let store = &store;
                        let numbers = first + self.count * life / self.lives..first + self.count * (life + 1) / self.lives;
                        scope.spawn(move || numbers.for_each(|number| self.perform(store, client, number)));
                    }
                });
                is_over.store(true, Ordering::Relaxed);
            });
        }
    }

    fn perform(&self, store: &Store, client: u64, number: u64) {
        let acknowledgement = format!("ack {client} {number}");
        if self.too_early {
            say(&acknowledgement);
        }
        Operation::draw(self.seed, client, number, self.mix).perform(store).unwrap();
        if !self.too_early {
            say(&acknowledgement);
        }
    }
}

fn take_snapshots(collection: &Collection, to: &Path, number: &mut u64, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        say(&format!("ask {number}"));
        collection.backup(to.join(number.to_string())).unwrap();
        say(&format!("snapshot {number}"));
        *number += 1;
    }
}

/// One client performs operations while calls fail. It says `ack 0 number`, or `none 0 number` where there was nothing to do; `refused number` where nothing may be left of
/// the operation; `unknown number` where the next start may find it or not. After each failure everything that was
/// acknowledged must still be read; from the fourth failure on there is space again.
fn suffer(folder: &str, seed: u64, options: &StoreOptions, mix: Mix, count: u64, faults: &Path) {
    let mut failures = 0;
    let mut heal = move || {
        failures += 1;
        if failures == 4 {
            let _ = std::fs::remove_file(faults.join("enospc"));
        }
        failures
    };
    let store = loop {
        match script::open(Path::new(folder), options) {
            Ok(store) => break store,
            Err(error) => say(&format!("closed: {}", chain(&error))),
        }
        if heal() == 6 {
            return;
        }
    };
    // `main` may have been made before, without faults.
    let mut model = Model::read(&store).unwrap();
    let setup = Operation::CreateCollection { name: MAIN.to_owned() };
    let operations = std::iter::once(setup).chain((1..count).map(|number| Operation::draw(seed, 0, number, mix)));
    for (number, operation) in operations.enumerate() {
        let is_unknown = match operation.perform(&store) {
            Ok(did_something) => {
                assert_eq!(did_something, model.apply(&operation), "operation {number}, {operation}: was there anything to do?");
                say(&format!("{} 0 {number}", if did_something { "ack" } else { "none" }));
                continue;
            }
            Err(error @ (Error::DiskFull { .. } | Error::WritesStopped { .. })) => {
                say(&format!("refused {number}: {operation}: {}", chain(&error)));
                false
            }
            Err(error) => {
                say(&format!("unknown {number}: {operation}: {}", chain(&error)));
                true
            }
        };
        let found = Model::read(&store).expect("reads go on");
        let comes_or_goes = matches!(operation, Operation::CreateCollection { .. } | Operation::DeleteCollection { .. });
        if is_unknown && comes_or_goes && found != model {
            model.apply(&operation);
        }
        assert_eq!(found.differences(&model), Vec::<String>::new(), "reads after operation {number}, {operation}, failed");
        if heal() == 12 {
            return;
        }
    }
}

/// Several clients, whose writes share transactions and syncs, while calls fail. Each stops after its third failure.
fn suffer_together(folder: &str, seed: u64, options: &StoreOptions, count: u64) {
    // The failing call may be one of the opening.
    let store = script::open(Path::new(folder), options).or_else(|_| script::open(Path::new(folder), options)).unwrap();
    std::thread::scope(|scope| {
        for client in 0..SUFFERERS {
            let store = &store;
            scope.spawn(move || {
                let mut failures = 0;
                for number in 0..count {
                    let operation = Operation::draw(seed, client, number, Mix::POINTS);
                    let kind = match operation.perform(store) {
                        Ok(_) => "ack",
                        Err(Error::DiskFull { .. } | Error::WritesStopped { .. }) => "refused",
                        Err(_) => "unknown",
                    };
                    say(&format!("{kind} {client} {number}"));
                    failures += u64::from(kind != "ack");
                    if failures == 3 {
                        return;
                    }
                }
            });
        }
    });
    say(&format!("points {}", store.collection(MAIN).unwrap().count()));
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Replaces all of `points` points `rounds` times, a tenth of them deleted and written anew, then looks for what must be
/// gone and says what it costs: `deleted ids returned`, `searches`, bytes of memory.
fn churn(folder: &str, points: u64, size: usize, rounds: u64) {
    let store = Store::open(folder).unwrap();
    let hnsw = HnswParams { full_scan_threshold: 1000, ef_construction: 64, ..HnswParams::default() };
    let config = CollectionConfig { hnsw, ..CollectionConfig::unnamed(size, Distance::Euclid) };
    let collection = store.create_collection("c", config).unwrap();
    let vector = |id: u64, round: u64| {
        let mut draw = script::Draw::new(7, id, round);
        (0..size).map(|_| (draw.next() >> 40) as f32 / (1 << 24) as f32).collect::<Vec<f32>>()
    };
    // Each round has ids of its own for a tenth of the points: those of the rounds before are deleted.
    let id = |n: u64, round: u64| if n.is_multiple_of(10) { n + points * (round + 1) } else { n };
    let (mut searches, mut returned_deleted) = (0, 0);
    for round in 0..rounds {
        for first in (0..points).step_by(500) {
            let numbers = first..(first + 500).min(points);
            if round > 0 {
                let old: Vec<PointId> = numbers.clone().filter(|n| n.is_multiple_of(10)).map(|n| PointId::Num(id(n, round - 1))).collect();
                collection.delete(&old).unwrap();
            }
            let new = numbers.map(|n| {
                let payload = Payload::from_iter([("round".to_owned(), round.into())]);
                Point { id: PointId::Num(id(n, round)), vectors: BTreeMap::from([(String::new(), vector(n, round))]), payload }
            });
            collection.upsert(new.collect()).unwrap();
        }
        let is_live = |found: PointId| matches!(found, PointId::Num(found) if found < points || found >= points * (round + 1));
        for query in 0..100 {
            // Where a point was a round ago there is nothing any more.
            let request =
                SearchRequest { with_payload: true.into(), ..SearchRequest::new(vector(query * 10, round.saturating_sub(1)), 50) };
            for hit in collection.search(&request).unwrap() {
                let is_current = hit.payload.is_some_and(|payload| payload["round"] == round);
                returned_deleted += usize::from(!(is_live(hit.id) && is_current));
            }
            searches += 1;
        }
    }
    assert_eq!(collection.count() as u64, points);
    wait_for_builds(&collection);
    say(&format!("{returned_deleted} {searches} {}", resident()));
}

/// Opens a folder and waits until nothing is built any more; says bytes of memory.
fn settle(folder: &str) {
    let store = Store::open(folder).unwrap();
    for name in store.collections() {
        wait_for_builds(&store.collection(&name).unwrap());
    }
    say(&resident().to_string());
}

fn wait_for_builds(collection: &Collection) {
    let mut quiet = 0;
    while quiet < 10 {
        std::thread::sleep(std::time::Duration::from_millis(30));
        quiet = if collection.info().vectors.values().any(|vector| vector.building) { 0 } else { quiet + 1 };
    }
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    1024 * number(line.split_whitespace().nth(1).unwrap())
}

/// Some writes by one client, with a checkpoint after each, so that the record holds everything that can happen.
fn once(folder: &str, sync: &str, writes: &str) {
    let (_store, collection) = open(folder, &options(sync).checkpoint_bytes(1000));
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
