//! What `record.cpp` recorded, read, and the judge of one property: no acknowledgement before the sync that covers it.
//!
//! The crash images (`disk.rs`) show the same by consequence. The judge needs no luck: one early acknowledgement is enough.

use std::collections::BTreeMap;
use std::path::Path;

/// One call, in the order in which it changed the files. Paths are absolute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// The operating system's number of the thread that called.
    pub(crate) thread: u32,
    pub(crate) path: String,
    pub(crate) change: Change,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Create,
    MakeFolder,
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    Truncate {
        length: u64,
    },
    SyncBegin,
    SyncEnd,
    SyncFailed,
    Rename {
        from: String,
    },
    Unlink,
    RemoveFolder,
    /// To standard output: an acknowledgement.
    Said {
        text: String,
    },
    Link {
        from: String,
    },
}

/// Reads a record.
///
/// # Panics
/// When it is cut short, or holds a change of a kind that cannot be recorded: then nothing can be concluded from it.
pub(crate) fn read(path: &Path) -> Vec<Event> {
    let record = std::fs::read(path).unwrap();
    let mut rest = record.as_slice();
    let mut events = Vec::new();
    while !rest.is_empty() {
        let mut take = |count: usize| {
            let (taken, left) = rest.split_at_checked(count).unwrap_or_else(|| panic!("event {} is cut short", events.len()));
            rest = left;
            taken
        };
        let op = take(1)[0];
        let mut number = |bytes: usize| take(bytes).iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        let (thread, offset, length) = (number(4) as u32, number(8), number(8));
        let lengths = [number(4), number(4), number(4)].map(|length| length as usize);
        let mut text = |length| String::from_utf8(take(length).to_vec()).expect("paths and what is said are UTF-8");
        let (path, second) = (text(lengths[0]), text(lengths[1]));
        let change = match op {
            1 => Change::Create,
            2 => Change::MakeFolder,
            3 => Change::Write { offset, data: take(lengths[2]).to_vec() },
            4 => Change::Truncate { length },
            5 => Change::SyncBegin,
            6 => Change::SyncEnd,
            7 => Change::SyncFailed,
            8 => Change::Rename { from: second },
            9 => Change::Unlink,
            10 => Change::RemoveFolder,
            11 => Change::Said { text: text(lengths[2]) },
            12 => Change::Link { from: second },
            13 => panic!("{path}: {second} cannot be recorded: nothing would be shown"),
            _ => panic!("event {} is of kind {op}", events.len()),
        };
        events.push(Event { thread, path, change });
    }
    events
}

/// A recorded run judged: how many acknowledgements there were, and which left too early.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    pub(crate) acknowledgements: usize,
    pub(crate) logs_restarted: usize,
    pub(crate) violations: Vec<String>,
}

/// Judges the record of a process with one client that says one thing an acknowledgement.
pub(crate) fn judge(events: &[Event], folder: &Path) -> Judgement {
    let mut judgement = Judgement::default();
    // By path: changes since the last sync that began after them, and how many of these a sync under way covers.
    let mut unsynced: BTreeMap<&str, usize> = BTreeMap::new();
    let mut covered: BTreeMap<(u32, &str), (usize, usize)> = BTreeMap::new();
    // Folders with a new entry that no sync of the folder has covered.
    let mut new_entries: BTreeMap<&str, usize> = BTreeMap::new();
    let folder = folder.to_str().unwrap();
    for (number, Event { thread, path, change }) in events.iter().enumerate() {
        let path = path.as_str();
        let is_said = matches!(change, Change::Said { .. });
        if !is_said && (!path.starts_with(folder) || path.ends_with("-shm") || path.ends_with("/lock")) {
            continue;
        }
        let is_log = path.ends_with("-wal");
        let log_restarts = |judgement: &mut Judgement| {
            judgement.logs_restarted += 1;
            // What the log held must be in the file, for good.
            let file = path.strip_suffix("-wal").unwrap();
            if unsynced.get(file).is_some_and(|count| *count > 0) {
                judgement.violations.push(format!("event {number}: {path} begun anew before {file} was synced"));
            }
        };
        match change {
            Change::Said { .. } => {
                judgement.acknowledgements += 1;
                for (path, count) in unsynced.iter().filter(|(path, count)| path.ends_with("-wal") && **count > 0) {
                    judgement.violations.push(format!("event {number}: acknowledged before {count} writes to {path} were synced"));
                }
                for (path, count) in new_entries.iter().filter(|(_, count)| **count > 0) {
                    judgement.violations.push(format!("event {number}: acknowledged before {count} new entries of {path} were synced"));
                }
            }
            Change::Write { offset, .. } => {
                if is_log && *offset == 0 {
                    log_restarts(&mut judgement);
                }
                *unsynced.entry(path).or_default() += 1;
            }
            // An emptied log needs no sync: should the old one come back, the file holds all of it already.
            Change::Truncate { length: 0 } if is_log => log_restarts(&mut judgement),
            Change::Truncate { .. } => *unsynced.entry(path).or_default() += 1,
            Change::Create | Change::MakeFolder | Change::Rename { .. } | Change::Link { .. } => {
                *new_entries.entry(path.rsplit_once('/').unwrap().0).or_default() += 1;
            }
            Change::SyncBegin => {
                let counts = [&unsynced, &new_entries].map(|counts| counts.get(path).copied().unwrap_or(0));
                covered.insert((*thread, path), (counts[0], counts[1]));
            }
            Change::SyncEnd => {
                let (changes, entries) = covered.remove(&(*thread, path)).unwrap_or_default();
                for (counts, covered) in [(&mut unsynced, changes), (&mut new_entries, entries)] {
                    if let Some(count) = counts.get_mut(path) {
                        *count = count.saturating_sub(covered);
                    }
                }
            }
            // What is removed and comes back harms nobody that the images would not show.
            Change::SyncFailed | Change::Unlink | Change::RemoveFolder => {}
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(path: &str, change: Change) -> Event {
        Event { thread: 1, path: path.to_owned(), change }
    }

    fn write(path: &str, offset: u64) -> Event {
        event(path, Change::Write { offset, data: vec![7; 9] })
    }

    #[test]
    fn the_judge_of_records_knows_each_violation() {
        let violations =
            |events: &[&Event]| judge(&events.iter().map(|event| (*event).clone()).collect::<Vec<_>>(), Path::new("/d")).violations.len();
        let (begin, end) = (&event("/d/x-wal", Change::SyncBegin), &event("/d/x-wal", Change::SyncEnd));
        let logged = &write("/d/x-wal", 32);
        let ack = &event("pipe", Change::Said { text: "ack".to_owned() });
        assert_eq!(violations(&[logged, begin, end, ack]), 0);
        assert_eq!(violations(&[logged, ack]), 1, "no sync");
        assert_eq!(violations(&[logged, begin, ack, end]), 1, "before the sync returned");
        assert_eq!(violations(&[begin, logged, end, ack]), 1, "a sync covers what was written before it began");
        let (other_begin, other_end) = (&event("/d/y-wal", Change::SyncBegin), &event("/d/y-wal", Change::SyncEnd));
        assert_eq!(violations(&[logged, other_begin, other_end, ack]), 1, "of another file");
        let failed = &event("/d/x-wal", Change::SyncFailed);
        assert_eq!(violations(&[logged, begin, failed, ack]), 1, "or one that failed");
        let (file, file_begin, file_end) = (&write("/d/x", 0), &event("/d/x", Change::SyncBegin), &event("/d/x", Change::SyncEnd));
        let restart = &write("/d/x-wal", 0);
        assert_eq!(violations(&[file, file_begin, file_end, restart]), 0);
        assert_eq!(violations(&[file, restart]), 1, "the log is begun anew while the file is not synced");
        assert_eq!(violations(&[file, &event("/d/x-wal", Change::Truncate { length: 0 })]), 1, "or emptied");
        let (folder_begin, folder_end) = (&event("/d", Change::SyncBegin), &event("/d", Change::SyncEnd));
        for entry in [Change::Create, Change::MakeFolder, Change::Rename { from: "/d/y".to_owned() }] {
            let entry = &event("/d/x", entry);
            assert_eq!(violations(&[entry, folder_begin, folder_end, ack]), 0);
            assert_eq!(violations(&[entry, ack]), 1, "a new entry without a sync of its folder");
        }
    }
}
