//! What an acknowledgement is worth: killed processes, recorded syncs, full disks, failed syncs, second processes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use moco_index::{CollectionConfig, Error, PointId, SearchRequest, Store};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CHILD: &str = env!("CARGO_BIN_EXE_moco-index-child");

/// The library for `LD_PRELOAD`: the one that `MOCO_RECORD_LIBRARY` names, or built here with g++.
static RECORD_LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(built) = std::env::var_os("MOCO_RECORD_LIBRARY") {
        return built.into();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/preload/record.cpp");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(folder).unwrap();
    let (library, fresh) = (folder.join("librecord.so"), folder.join(format!("librecord-{}.so", std::process::id())));
    let built = Command::new("g++").args(["-shared", "-fPIC", "-O1", "-o"]).args([&fresh, &source]).arg("-ldl").status();
    let built = built.unwrap_or_else(|error| panic!("these tests build {} with g++, which cannot be started: {error}", source.display()));
    assert!(built.success(), "g++ could not build {}", source.display());
    std::fs::rename(fresh, &library).unwrap();
    library
});

fn child(arguments: &[&str]) -> Command {
    let mut command = Command::new(CHILD);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Runs a child to its end; what it said, line by line.
fn run(mut command: Command) -> Vec<String> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn path(folder: &tempfile::TempDir) -> &str {
    folder.path().to_str().unwrap()
}

/// Operation by id, as the payloads say; checks that every vector is its operation's, by retrieval and by exact search.
fn stored(folder: &Path) -> BTreeMap<u64, u64> {
    let points = Store::open(folder).unwrap().collection("c").unwrap();
    let (records, next) = points.scroll(None, 10_000, true, true).unwrap();
    assert_eq!((records.len(), next), (points.count(), None));
    let stored: BTreeMap<u64, u64> = records
        .into_iter()
        .map(|record| {
            let PointId::Num(id) = record.id else { panic!("{} was never written", record.id) };
            let operation = record.payload.unwrap()["operation"].as_u64().unwrap();
            let vector = &record.vectors.unwrap()[""];
            assert!(vector.iter().enumerate().all(|(i, x)| *x == (id * 1000 + operation + i as u64) as f32), "point {id} is torn");
            (id, operation)
        })
        .collect();
    let found = points.search(&SearchRequest { exact: true, ..SearchRequest::new(vec![0.0; 64], 10_000) }).unwrap();
    let found: BTreeSet<PointId> = found.into_iter().map(|hit| hit.id).collect();
    assert_eq!(found, stored.keys().map(|id| PointId::Num(*id)).collect(), "search and truth hold the same points");
    stored
}

/// What `moco-index-child work` does for client `client` as operation `operation`.
fn apply(points: &mut BTreeMap<u64, u64>, client: u64, operation: u64) {
    for id in [client * 40 + operation * 7 % 40, client * 40 + operation * 11 % 40] {
        if operation % 4 == 3 {
            points.remove(&id);
        } else {
            points.insert(id, operation);
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_no_delete_undone_by_fifty_kills() {
    const CLIENTS: u64 = 3;
    const KILLS: usize = 50;
    let folder = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(20);
    let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
    let mut starts = [0u64; CLIENTS as usize];
    let (mut acknowledged, mut unanswered_but_stored) = (0, 0);
    for kill in 0..KILLS {
        // Every other child moves its log into the file after each few writes, so that kills fall into that too.
        let checkpoint_bytes = if kill % 2 == 0 { "2000" } else { "100000" };
        let mut command = child(&["work", path(&folder), checkpoint_bytes]);
        let mut process = command.args(starts.iter().map(u64::to_string)).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut lines = String::new();
        // From the first acknowledgement on, so that the kill falls into work, not into the start.
        output.read_line(&mut lines).unwrap();
        std::thread::sleep(Duration::from_micros(random.random_range(0..120_000)));
        process.kill().unwrap();
        output.read_to_string(&mut lines).unwrap();
        process.wait().unwrap();
        for line in lines.lines() {
            let [client, operation] =
                line.strip_prefix("ack ").unwrap().split(' ').map(|n| n.parse::<u64>().unwrap()).collect::<Vec<_>>()[..]
            else {
                panic!("{line}")
            };
            assert_eq!(operation, starts[client as usize], "acknowledgements come in order");
            starts[client as usize] += 1;
            apply(&mut expected, client, operation);
            acknowledged += 1;
        }
        let stored = stored(folder.path());
        for client in 0..CLIENTS {
            let of_client =
                |points: &BTreeMap<u64, u64>| points.range(client * 40..(client + 1) * 40).map(|(id, op)| (*id, *op)).collect::<Vec<_>>();
            let next = starts[client as usize];
            let mut with_next = expected.clone();
            apply(&mut with_next, client, next);
            // The operation under way may have reached the disk or not, but not by half.
            if of_client(&stored) != of_client(&expected) {
                assert_eq!(of_client(&stored), of_client(&with_next), "kill {kill}, client {client} after operation {next}");
                expected = with_next;
                unanswered_but_stored += 1;
            }
            // Whether it was seen or not: each number is used once.
            starts[client as usize] += 1;
        }
    }
    println!("{KILLS} kills, {acknowledged} acknowledged operations, 0 lost; {unanswered_but_stored} were stored and not yet acknowledged");
    assert!(acknowledged > KILLS * 3, "only {acknowledged} operations in {KILLS} lives: the kills came too early to show anything");
}

/// A recorded run judged: how many acknowledgements there were, and which left too early.
#[derive(Debug, Default)]
struct Judgement {
    acknowledgements: usize,
    logs_restarted: usize,
    violations: Vec<String>,
}

/// Reads a record of `record.cpp` of a process with one client.
fn judge(record: &str, folder: &Path) -> Judgement {
    let mut judgement = Judgement::default();
    // By path: changes since the last sync that began after them, and how many of these a sync under way covers.
    let mut unsynced: BTreeMap<&str, usize> = BTreeMap::new();
    let mut covered: BTreeMap<&str, usize> = BTreeMap::new();
    // Folders with a new entry that no sync of the folder has covered.
    let mut new_entries: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, line) in record.lines().enumerate() {
        let [op, _fd, offset, length, path] = line.splitn(5, ' ').collect::<Vec<_>>()[..] else {
            panic!("line {number} of the record: {line}")
        };
        let is_ours = path.starts_with(folder.to_str().unwrap()) && !path.ends_with("-shm") && !path.ends_with("/lock");
        let is_log = path.ends_with("-wal");
        match op {
            "ack" => {
                judgement.acknowledgements += 1;
                for (path, count) in unsynced.iter().filter(|(path, count)| path.ends_with("-wal") && **count > 0) {
                    judgement.violations.push(format!("line {number}: acknowledged before {count} writes to {path} were synced"));
                }
                for (path, count) in new_entries.iter().filter(|(_, count)| **count > 0) {
                    judgement.violations.push(format!("line {number}: acknowledged before {count} new entries of {path} were synced"));
                }
            }
            "write" | "truncate" if is_ours => {
                // A log is begun anew: what it held must be in the file, for good.
                if is_log && ((op == "write" && offset == "0") || (op == "truncate" && length == "0")) {
                    judgement.logs_restarted += 1;
                    let file = path.strip_suffix("-wal").unwrap();
                    if unsynced.get(file).is_some_and(|count| *count > 0) {
                        judgement.violations.push(format!("line {number}: {path} begun anew before {file} was synced"));
                    }
                }
                // An emptied log needs no sync: should the old one come back, the file holds all of it already.
                if !(is_log && op == "truncate") {
                    *unsynced.entry(path).or_default() += 1;
                }
            }
            "create" if is_ours => *new_entries.entry(path.rsplit_once('/').unwrap().0).or_default() += 1,
            "sync-begin" => {
                covered.insert(path, unsynced.get(path).copied().unwrap_or(0) + new_entries.get(path).copied().unwrap_or(0));
            }
            "sync-end" => {
                let covered = covered.remove(path).unwrap_or(0);
                for counts in [&mut unsynced, &mut new_entries] {
                    if let Some(count) = counts.get_mut(path) {
                        *count = count.saturating_sub(covered);
                    }
                }
            }
            _ => {}
        }
    }
    judgement
}

#[test]
fn the_judge_of_records_knows_each_violation() {
    let violations = |lines: &[&str]| {
        let record: String = lines.iter().map(|line| format!("{line}\n")).collect();
        judge(&record, Path::new("/d")).violations.len()
    };
    let (write, begin, end) = ("write 3 32 99 /d/x-wal", "sync-begin 3 0 0 /d/x-wal", "sync-end 3 0 0 /d/x-wal");
    let ack = "ack 1 -1 5 pipe:[1]";
    assert_eq!(violations(&[write, begin, end, ack]), 0);
    assert_eq!(violations(&[write, ack]), 1, "no sync");
    assert_eq!(violations(&[write, begin, ack, end]), 1, "before the sync returned");
    assert_eq!(violations(&[begin, write, end, ack]), 1, "a sync covers what was written before it began");
    assert_eq!(violations(&[write, "sync-begin 4 0 0 /d/y-wal", "sync-end 4 0 0 /d/y-wal", ack]), 1, "of another file");
    let (file, file_synced) = ("write 4 0 9 /d/x", ["sync-begin 4 0 0 /d/x", "sync-end 4 0 0 /d/x"]);
    let restart = "write 3 0 32 /d/x-wal";
    assert_eq!(violations(&[file, file_synced[0], file_synced[1], restart]), 0);
    assert_eq!(violations(&[file, restart]), 1, "the log is begun anew while the file is not synced");
    assert_eq!(violations(&[file, "truncate 3 0 0 /d/x-wal"]), 1, "or emptied");
    let (entry, folder_synced) = ("create -1 0 0 /d/x", ["sync-begin 5 0 0 /d", "sync-end 5 0 0 /d"]);
    assert_eq!(violations(&[entry, folder_synced[0], folder_synced[1], ack]), 0);
    assert_eq!(violations(&[entry, ack]), 1, "a new file without a sync of its folder");
}

fn recorded_run(sync: &str) -> Judgement {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let mut command = child(&["once", data.to_str().unwrap(), sync, "60"]);
    command.env("LD_PRELOAD", &*RECORD_LIBRARY).env("MOCO_RECORD", &record);
    assert_eq!(run(command).len(), 60);
    judge(&std::fs::read_to_string(record).unwrap(), &data)
}

#[test]
fn no_acknowledgement_leaves_before_the_sync_that_covers_it() {
    let judgement = recorded_run("with-sync");
    assert_eq!(judgement.violations, Vec::<String>::new());
    assert_eq!(judgement.acknowledgements, 60);
    assert!(judgement.logs_restarted > 10, "the log was begun anew {} times only", judgement.logs_restarted);
}

#[test]
fn an_acknowledgement_without_a_sync_is_noticed() {
    let judgement = recorded_run("without-sync");
    assert_eq!(judgement.acknowledgements, 60);
    let early = judgement.violations.iter().filter(|violation| violation.contains("acknowledged before")).count();
    assert!(early >= 60, "with synchronous=OFF every acknowledgement is early, {early} were noticed");
}

#[test]
fn clients_that_write_at_once_share_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let data = folder.path().join("data");
    let mut command = child(&["crowd", data.to_str().unwrap()]);
    command.env("LD_PRELOAD", &*RECORD_LIBRARY).env("MOCO_RECORD", &record);
    assert_eq!(run(command), ["160"]);
    let record = std::fs::read_to_string(record).unwrap();
    let syncs = record.lines().filter(|line| line.starts_with("sync-end") && line.ends_with("/collection.sqlite-wal")).count();
    assert!((20..140).contains(&syncs), "{syncs} syncs for 160 writes by 8 clients");
}

/// A child with faults under its feet; returns what it said and the data folder.
fn faulty(mode: &str, argument: &str) -> (Vec<String>, tempfile::TempDir) {
    let (folder, faults) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut command = child(&[mode, path(&folder), path(&faults), argument]);
    command.env("LD_PRELOAD", &*RECORD_LIBRARY).env("MOCO_FAULTS", faults.path()).env("MOCO_UNDER", folder.path());
    (run(command), folder)
}

fn acknowledged(lines: &[String]) -> Vec<u64> {
    lines.iter().filter_map(|line| line.strip_prefix("ack 0 ")).map(|operation| operation.parse().unwrap()).collect()
}

#[test]
fn a_full_disk_refuses_the_write_keeps_the_rest_and_is_forgotten_when_there_is_space() {
    for room in ["0", "1", "5000", "30000", "200000"] {
        let (lines, folder) = faulty("full-disk", room);
        let refused = lines.iter().filter(|line| line.starts_with("full no space left for ")).count();
        assert!(refused >= 1, "room {room}: {lines:?}");
        let last = lines.last().unwrap();
        assert!(last.starts_with("ack"), "room {room}: writes work again: {lines:?}");
        let last = *acknowledged(&lines).last().unwrap();
        assert_eq!(stored(folder.path()), (0..8).map(|id| (id, last)).collect(), "room {room}");
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_restart() {
    let (lines, folder) = faulty("failed-sync", "eio-sync");
    assert_eq!(acknowledged(&lines), [0, 1], "{lines:?}");
    assert!(lines[3].contains("read-only until restart") && lines[4].contains("read-only until restart"), "{lines:?}");
    let stored = stored(folder.path());
    assert!(stored.contains_key(&0) && stored.contains_key(&1), "{stored:?}");
}

#[test]
fn a_sync_that_fails_while_the_log_is_moved_loses_nothing_and_stops_writes() {
    let (lines, folder) = faulty("failed-sync", "eio-sync-db");
    // The log was synced each time. What failed is the move after an acknowledgement: the second's, if it was still under
    // way when syncs began to fail, or the third's.
    let acknowledged = acknowledged(&lines);
    assert!(acknowledged == [0, 1] || acknowledged == [0, 1, 2], "{lines:?}");
    assert!(lines.last().unwrap().contains("read-only until restart"), "{lines:?}");
    assert_eq!(stored(folder.path()), acknowledged.into_iter().map(|id| (id, id)).collect());
}

#[test]
fn a_collection_that_could_not_be_made_leaves_no_trace() {
    let names = |folder: &tempfile::TempDir| Store::open(folder.path()).unwrap().collections();
    let (lines, folder) = faulty("failed-catalogue", "eio-sync");
    assert!(lines[0].starts_with("cannot use the database") && lines[1].contains("read-only until restart"), "{lines:?}");
    assert_eq!(names(&folder), ["c"]);
    assert_eq!(stored(folder.path()), BTreeMap::from([(1, 1)]));
    assert_eq!(std::fs::read_dir(folder.path().join("collections")).unwrap().count(), 1);

    let (lines, folder) = faulty("failed-catalogue", "enospc");
    assert!(lines[0].starts_with("no space left for") && lines[1] == "made", "{lines:?}");
    assert_eq!(names(&folder), ["c", "e"]);
    assert_eq!(std::fs::read_dir(folder.path().join("collections")).unwrap().count(), 2);
}

#[test]
fn a_second_process_is_refused_until_the_first_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut holder = child(&["hold", path(&folder)]).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "held\n");
    let refused = Store::open(folder.path()).err().unwrap();
    assert!(matches!(&refused, Error::Locked { path } if path == folder.path()), "{refused}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert!(matches!(Store::open(folder.path()), Err(Error::Locked { .. })), "also within one process");
    let collection = store.create_collection("c", CollectionConfig::default()).unwrap();
    drop(store);
    assert!(matches!(Store::open(folder.path()), Err(Error::Locked { .. })), "and while a collection of it can still be written");
    drop(collection);
    assert_eq!(Store::open(folder.path()).unwrap().collections(), ["c"]);
}

#[test]
fn a_read_only_folder_is_refused_by_name() {
    let (folder, faults) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(faults.path().join("erofs"), "").unwrap();
    let open = |data: &Path| {
        let mut command = child(&["open", data.to_str().unwrap()]);
        command.env("LD_PRELOAD", &*RECORD_LIBRARY).env("MOCO_FAULTS", faults.path()).env("MOCO_UNDER", folder.path());
        run(command)
    };
    let (existing, new) = (folder.path().join("existing"), folder.path().join("new"));
    drop(Store::open(&existing).unwrap());
    assert_eq!(open(&existing), [format!("cannot write to {}: it is read-only", existing.display())]);
    assert_eq!(open(&new), [format!("cannot write to {}/collections: it is read-only", new.display())]);
    std::fs::remove_file(faults.path().join("erofs")).unwrap();
    assert_eq!(open(&existing), ["opened"]);
}
