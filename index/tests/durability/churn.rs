//! A collection whose every point is replaced again and again, beside one that was written once: what it returns and costs.

use std::path::Path;
use std::time::Instant;

use crate::{amount, child, path, run};

const ROUNDS: usize = 30;
/// Disk and memory after [`ROUNDS`] full replacements, by what a fresh build of the same points takes.
const MOST_DISK: f64 = 1.5;
/// In the process that did it, and in one that has just opened the folder.
const MOST_MEMORY: f64 = 1.3;

/// Bytes of all files below a folder, the log's among them.
fn size_of(folder: &Path) -> u64 {
    let size = |entry: std::fs::DirEntry| {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() { size_of(&entry.path()) } else { metadata.len() }
    };
    std::fs::read_dir(folder).unwrap().map(|entry| size(entry.unwrap())).sum()
}

struct Cost {
    returned_deleted: u64,
    searches: u64,
    /// Bytes, before the process ended and after the next has opened the folder.
    memory: u64,
    memory_reopened: u64,
    disk: u64,
}

fn churned(points: usize, size: usize, rounds: usize) -> Cost {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [points, size, rounds].map(|number| number.to_string());
    let said = run(child(&["churn", path(&folder), &arguments[0], &arguments[1], &arguments[2]]));
    let numbers: Vec<u64> = said[0].split(' ').map(|number| number.parse().unwrap()).collect();
    let memory_reopened = run(child(&["settle", path(&folder)]))[0].parse().unwrap();
    Cost { returned_deleted: numbers[0], searches: numbers[1], memory: numbers[2], memory_reopened, disk: size_of(folder.path()) }
}

#[test]
fn thirty_full_replacements_return_nothing_deleted_and_cost_little_more_than_a_fresh_build() {
    let (start, points, size) = (Instant::now(), amount(20_000, 50_000), 64);
    // So many that a megabyte more or less at the ends of some arenas does not count. What a process and an empty collection take:
    let bare = churned(1, size, 1).memory;
    let fresh = churned(points, size, 1);
    let churned = churned(points, size, ROUNDS);
    let ratio = |value: u64, of: u64| value as f64 / of as f64;
    let disk = ratio(churned.disk, fresh.disk);
    let memory = ratio(churned.memory.saturating_sub(bare), fresh.memory.saturating_sub(bare));
    let reopened = ratio(churned.memory_reopened.saturating_sub(bare), fresh.memory_reopened.saturating_sub(bare));
    println!(
        "{ROUNDS} replacements of {points} points of {size} dimensions: {} deleted or replaced points in {} searches; disk {:.1} MB, {disk:.2} \
         of a fresh build's; memory {:.1} MB, {memory:.2} of it, {reopened:.2} reopened; {:.1} s",
        churned.returned_deleted,
        churned.searches,
        churned.disk as f64 / 1e6,
        (churned.memory - bare) as f64 / 1e6,
        start.elapsed().as_secs_f64()
    );
    assert_eq!(churned.returned_deleted, 0);
    assert!(disk <= MOST_DISK, "disk: {disk:.2} of a fresh build's");
    assert!(reopened <= MOST_MEMORY, "memory after the next start: {reopened:.2} of a fresh build's");
    assert!(memory <= MOST_MEMORY, "memory: {memory:.2} of a fresh build's");
}
