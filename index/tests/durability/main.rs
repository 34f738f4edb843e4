//! What an acknowledgement is worth: killed processes, power cuts, full disks, failed syncs, second processes, and a long
//! life of random operations.
//!
//! ```text
//! script           the operations, drawn from a seed            model    what they must leave, in plain maps
//! acknowledgement  order of syncs and answers; small faults     record   what a preload library saw, read and judged
//! crash            power cuts: images of the folder             disk     what a disk may hold after a power cut
//! faults           the n-th sync fails; the disk fills up       kill     `kill -9`, a thousand times
//! random           random operations and restarts               churn    replaced again and again: what it costs
//! backup           snapshots taken under load                   nearest  what a search must find
//! flips            single damaged bytes and cuts, at rest and under the feet of an open store
//! ```
//!
//! `cargo test` runs short versions. `MOCO_TORTURE=1` runs the long ones (`make torture`), `MOCO_TORTURE=0.1` a tenth of them.
//! `MOCO_SEED` changes every seed; each test prints its own.

mod acknowledgement;
mod backup;
mod churn;
mod crash;
mod disk;
mod faults;
mod flips;
mod kill;
mod model;
mod nearest;
mod random;
mod record;
mod script;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use moco_index::{Error, Store, StoreOptions};

use model::Model;

/// The process that the tests start.
fn child(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moco-index-child"));
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

/// How much of a test to do: `short` of it, or in `MOCO_TORTURE` the given part of `long`.
fn amount(short: usize, long: usize) -> usize {
    match std::env::var("MOCO_TORTURE") {
        Err(_) => short,
        Ok(part) => {
            let part: f64 = part.parse().unwrap_or_else(|_| panic!("MOCO_TORTURE={part} is not a part of the whole, such as 1 or 0.1"));
            ((long as f64 * part) as usize).max(short)
        }
    }
}

/// The test's own seed, or another one for the sake of variety.
fn seed(own: u64) -> u64 {
    std::env::var("MOCO_SEED").map_or(own, |seed| own ^ seed.parse::<u64>().expect("MOCO_SEED is a number").wrapping_mul(0x9e37_79b9))
}

/// A folder in memory where there is such a thing: for tests of the order of calls, which wait for no disk.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Says what was found wrong, the first of it in full.
fn report(faults: &[String]) -> String {
    let shown: String = faults
        .iter()
        .take(std::env::var("MOCO_SHOW").map_or(8, |n| n.parse().unwrap()))
        .map(|fault| format!("\n- {}", fault.chars().take(700).collect::<String>()))
        .collect();
    format!("{} wrong:{shown}", faults.len())
}

/// Opens a folder with the usual settings.
fn open(folder: &Path) -> Result<Store, Error> {
    script::open(folder, &StoreOptions::default())
}

/// Opens a folder as the process after a crash does, and reads all of it.
fn read_back(folder: &Path) -> Result<Model, Error> {
    let store = open(folder)?;
    // Whatever is wrong with what is stored is found by a verification, if not when a collection is opened.
    for name in store.collections() {
        store.collection(&name)?.verify()?;
    }
    Model::read(&store)
}
