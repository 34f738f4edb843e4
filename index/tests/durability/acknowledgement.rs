//! One property at a time: what was synced when an answer left, and what small faults do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;

use moco_index::{CollectionConfig, Error, PointId, SearchRequest, Store};

use crate::record::{Change, Event, Judgement, judge, read};
use crate::{RECORD_LIBRARY, child, path, run};

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

/// Runs a child whose calls are recorded; what it said, and the record.
fn recorded(mode: &str, arguments: &[&str]) -> (Vec<String>, Vec<Event>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (record, data) = (folder.path().join("record"), folder.path().join("data"));
    std::fs::create_dir(&data).unwrap();
    let mut command = child(&[&[mode, data.to_str().unwrap()], arguments].concat());
    command.env("LD_PRELOAD", &*RECORD_LIBRARY).env("MOCO_RECORD", &record).env("MOCO_UNDER", &data);
    (run(command), read(&record), folder)
}

fn recorded_run(sync: &str) -> Judgement {
    let (said, events, folder) = recorded("once", &[sync, "60"]);
    assert_eq!(said.len(), 60);
    judge(&events, &folder.path().join("data"))
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
    let (said, events, _folder) = recorded("crowd", &[]);
    assert_eq!(said, ["160"]);
    let is_log_sync = |event: &&Event| event.change == Change::SyncEnd && event.path.ends_with("/collection.sqlite-wal");
    let syncs = events.iter().filter(is_log_sync).count();
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

#[test]
fn a_database_that_could_not_be_set_to_wal_is_not_used() {
    for sync in 1..=4 {
        let folder = tempfile::tempdir().unwrap();
        let mut command = child(&["open", path(&folder)]);
        command.env("LD_PRELOAD", &*RECORD_LIBRARY).env("MOCO_UNDER", folder.path()).env("MOCO_FAIL_SYNC", sync.to_string());
        if run(command) == ["opened"] {
            // Bytes 18 and 19 of a SQLite file: 1 is a rollback journal, 2 a log. With a rollback journal and
            // `synchronous=FULL` a power cut may undo the last commit.
            let header = std::fs::read(folder.path().join("catalogue.sqlite")).unwrap();
            assert_eq!(header[18..20], [2, 2], "sync {sync} failed, and the catalogue keeps a rollback journal");
        }
    }
}

#[test]
fn a_store_that_was_closed_can_be_opened_while_the_process_starts_another() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    // SAFETY: the new process makes two system calls and ends, so that it needs no lock that another thread holds.
    let started = unsafe {
        let process = libc::fork();
        if process == 0 {
            libc::usleep(2_000_000);
            libc::_exit(0);
        }
        process
    };
    drop(store);
    let again = Store::open(folder.path()).map(drop);
    // SAFETY: the process is our own child, and nobody else waits for it.
    unsafe {
        libc::kill(started, libc::SIGKILL);
        libc::waitpid(started, std::ptr::null_mut(), 0);
    }
    again.unwrap();
}
