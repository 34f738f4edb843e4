//! The n-th sync fails, for every n; the disk fills up, after any number of bytes.
//!
//! One client performs the script's operations under a fault and says how each ended. What it finds after each failure is
//! judged by itself (`suffer` in `child.rs`); what the next start finds is judged here, from the folder as it is and, as a
//! failed sync leaves its writes to chance, from what a disk may hold after a power cut on top of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use moco_index::Error;

use crate::crash::{images_at_the_end, open_image};
use crate::disk::{Image, read_image};
use crate::model::Model;
use crate::record::{Change, Event, read};
use crate::script::{MAIN, Mix, Operation, SUFFERERS, config};
use crate::{RECORD_LIBRARY, amount, child, open, read_back, report, run, scratch, seed};

/// A run under a fault.
struct Run {
    seed: u64,
    mix: Mix,
    /// What the folder held before.
    base: Image,
    said: Vec<String>,
    events: Vec<Event>,
    folder: tempfile::TempDir,
}

/// Which operation ended how.
#[derive(Debug, Default)]
struct Outcomes {
    acknowledged: BTreeSet<u64>,
    refused: BTreeMap<u64, String>,
    unknown: BTreeMap<u64, String>,
    closed: Vec<String>,
}

impl Run {
    /// With the mix `points` the collection is there before the fault; with `small` all of the store's life is under it.
    fn start(seed: u64, mix: &str, operations: u64, set_up: impl FnOnce(&mut std::process::Command, &Path)) -> Self {
        let folder = scratch();
        let [data, record, faults] = ["data", "record", "faults"].map(|name| folder.path().join(name));
        std::fs::create_dir(&data).unwrap();
        std::fs::create_dir(&faults).unwrap();
        if mix == "points" {
            drop(open(&data).unwrap().create_collection(MAIN, config()).unwrap());
        }
        let base = read_image(&data);
        let checkpoint_bytes = ["1", "1000", "30000"][seed as usize % 3];
        let arguments =
            [data.to_str().unwrap(), &seed.to_string(), checkpoint_bytes, mix, &operations.to_string(), faults.to_str().unwrap()];
        let mut command = child(&[&["suffer"], &arguments[..]].concat());
        command.env("LD_PRELOAD", &*RECORD_LIBRARY).env("MOCO_UNDER", &data).env("MOCO_FAULTS", &faults).env("MOCO_RECORD", &record);
        set_up(&mut command, &faults);
        Self { seed, mix: Mix::named(mix), base, said: run(command), events: read(&record), folder }
    }

    fn outcomes(&self) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for line in &self.said {
            let (kind, rest) = line.split_once(' ').unwrap();
            let number = || rest.split([':', ' ']).next().unwrap().parse().unwrap();
            match kind {
                "none" => {}
                "ack" => drop(outcomes.acknowledged.insert(rest.strip_prefix("0 ").unwrap().parse().unwrap())),
                "refused" => drop(outcomes.refused.insert(number(), rest.to_owned())),
                "unknown" => drop(outcomes.unknown.insert(number(), rest.to_owned())),
                "closed:" => outcomes.closed.push(rest.to_owned()),
                _ => panic!("{line}"),
            }
        }
        outcomes
    }

    /// What was acknowledged, with each choice of what is unknown that leaves to each acknowledged operation what it worked on.
    fn possible(&self, outcomes: &Outcomes) -> Vec<Model> {
        let unknown: Vec<u64> = outcomes.unknown.keys().copied().collect();
        assert!(unknown.len() <= 8, "{:?}: more than a fault explains", outcomes.unknown);
        let chosen = |choice: usize| {
            let mut model = Model::default();
            if !self.base.is_empty() {
                model.apply(&Operation::CreateCollection { name: MAIN.to_owned() });
            }
            let taken: BTreeSet<u64> = (0..unknown.len()).filter(|bit| choice >> bit & 1 == 1).map(|bit| unknown[bit]).collect();
            let fits = outcomes.acknowledged.union(&taken).all(|number| {
                let operation = match number {
                    0 => Operation::CreateCollection { name: MAIN.to_owned() },
                    _ => Operation::draw(self.seed, 0, *number, self.mix),
                };
                model.apply(&operation) || !outcomes.acknowledged.contains(number)
            });
            fits.then_some(model)
        };
        let possible: Vec<Model> = (0..1 << unknown.len()).filter_map(chosen).collect();
        assert!(!possible.is_empty(), "{outcomes:?}");
        possible
    }

    /// What is wrong with the folder that the run left, and with power cuts at its end.
    fn judge(&self, power_cuts: usize) -> Vec<String> {
        let data = self.folder.path().join("data");
        let outcomes = self.outcomes();
        let possible = self.possible(&outcomes);
        let explain = |where_: &str, what: &str| {
            let failed: Vec<&String> = outcomes.refused.values().chain(outcomes.unknown.values()).chain(&outcomes.closed).take(4).collect();
            let syncs = self.events.iter().filter(|event| event.change == Change::SyncFailed).map(|event| event.path.as_str());
            let syncs: Vec<&str> = syncs.map(|path| path.rsplit('/').next().unwrap()).take(3).collect();
            format!("seed {}, {where_}: {what}; syncs of {syncs:?}, operations: {failed:?}", self.seed)
        };
        let mut faults = Vec::new();
        let mut judge = |where_: &str, found: Result<Model, Error>| match found {
            Ok(found) if possible.contains(&found) => {}
            Ok(found) => faults.push(explain(where_, &found.differences(&possible[0]).join("; "))),
            Err(error) => faults.push(explain(where_, &format!("it does not open: {error}"))),
        };
        for image in images_at_the_end(&self.events, &data, &self.base, power_cuts, self.seed) {
            judge("after a power cut", open_image(&image));
        }
        judge("at the next start", read_back(&data));
        faults
    }
}

/// Syncs 1 to `last`, each in a run in which it fails once, and one in which every later one fails, too.
fn fail_each_sync(last: usize, mix: &str) -> (usize, Vec<String>) {
    let (mut refused, mut faults) = (0, Vec::new());
    for sync in 1..=last {
        for for_good in [false, true] {
            let seed = seed(4000) + sync as u64;
            let fault = format!("{sync}{}", if for_good { "+" } else { "" });
            let run = Run::start(seed, mix, 240, |command, _| {
                command.env("MOCO_FAIL_SYNC", &fault);
            });
            assert!(run.events.iter().any(|event| event.change == Change::SyncFailed), "sync {sync} was never reached: {:?}", run.said);
            let outcomes = run.outcomes();
            refused += outcomes.refused.len() + outcomes.unknown.len() + outcomes.closed.len();
            faults.extend(run.judge(6).into_iter().map(|wrong| format!("sync {fault} failed, {wrong}")));
        }
    }
    (refused, faults)
}

#[track_caller]
fn whichever_sync_fails(mix: &str, last: usize) {
    let start = Instant::now();
    let (refused, faults) = fail_each_sync(last, mix);
    println!(
        "syncs 1 to {last} failed, once and for good, with 6 power cuts each: {refused} refusals, {} wrong; {:.1} s",
        faults.len(),
        start.elapsed().as_secs_f64()
    );
    assert!(refused >= last, "{refused} refusals in {} runs", 2 * last);
    assert!(faults.is_empty(), "{}", report(&faults));
}

#[test]
fn whichever_sync_fails_no_acknowledged_write_to_a_collection_is_lost() {
    whichever_sync_fails("points", 200);
}

#[test]
fn whichever_sync_fails_no_acknowledged_write_is_lost_while_collections_come_and_go() {
    whichever_sync_fails("small", 200);
}

/// What is wrong with what the clients of a run find who wrote together when sync `sync` failed; how many refusals there were.
fn fail_together(seed: u64, sync: usize) -> (usize, Vec<String>) {
    let folder = scratch();
    let [data, record] = ["data", "record"].map(|name| folder.path().join(name));
    std::fs::create_dir(&data).unwrap();
    drop(open(&data).unwrap().create_collection(MAIN, config()).unwrap());
    let base = read_image(&data);
    let checkpoint_bytes = ["1", "3000", "30000"][sync % 3];
    let mut command = child(&["suffer-together", data.to_str().unwrap(), &seed.to_string(), checkpoint_bytes, "400"]);
    command.env("LD_PRELOAD", &*RECORD_LIBRARY).env("MOCO_UNDER", &data).env("MOCO_RECORD", &record);
    command.env("MOCO_FAIL_SYNC", sync.to_string());
    let said = run(command);
    let mut possible: Vec<Vec<Model>> = Vec::new();
    let mut refusals = 0;
    for client in 0..SUFFERERS {
        let mut model = Model::default();
        model.apply(&Operation::CreateCollection { name: MAIN.to_owned() });
        let mut of_client = vec![model];
        for line in &said {
            let words: Vec<&str> = line.split(' ').collect();
            let [kind @ ("ack" | "refused" | "unknown"), of, number] = words[..] else { continue };
            if of.parse() != Ok(client) {
                continue;
            }
            refusals += usize::from(kind != "ack");
            let operation = Operation::draw(seed, client, number.parse().unwrap(), Mix::POINTS);
            if kind == "unknown" {
                of_client.extend(of_client.clone());
            }
            // Where it is unknown, half of the possibilities have it.
            let untouched = if kind == "unknown" { of_client.len() / 2 } else { 0 };
            if kind != "refused" {
                for model in &mut of_client[untouched..] {
                    model.apply(&operation);
                }
            }
        }
        possible.push(of_client);
    }
    let mut faults = Vec::new();
    let mut judge = |moment: &str, found: Result<Model, Error>| match found {
        Ok(found) => {
            for (client, possible) in (0..).zip(&possible) {
                let part = found.of_client(client);
                if !possible.contains(&part) {
                    let differences = part.differences(&possible[0]).join("; ");
                    faults.push(format!("sync {sync} failed, seed {seed}, {moment}, client {client}: {differences}"));
                }
            }
        }
        Err(error) => faults.push(format!("sync {sync} failed, seed {seed}, {moment}: {error}")),
    };
    for image in images_at_the_end(&read(&record), &data, &base, 3, seed) {
        judge("after a power cut", open_image(&image));
    }
    judge("at the next start", read_back(&data));
    (refusals, faults)
}

#[test]
fn writes_that_shared_a_failed_sync_are_refused_together_and_nothing_else_is_lost() {
    let (start, runs) = (Instant::now(), amount(60, 400));
    let (mut refusals, mut faults) = (0, Vec::new());
    for sync in 1..=runs {
        let (refused, wrong) = fail_together(seed(7000) + sync as u64, 1 + sync % 200);
        refusals += refused;
        faults.extend(wrong);
    }
    println!(
        "{SUFFERERS} clients at once when a sync failed, {runs} times: {refusals} refusals, {} wrong; {:.1} s",
        faults.len(),
        start.elapsed().as_secs_f64()
    );
    assert!(refusals > runs, "{refusals} refusals");
    assert!(faults.is_empty(), "{}", report(&faults));
}

/// Fills the disk in each run after another number of bytes.
#[track_caller]
fn wherever_the_disk_is_full(mix: &str, runs: usize) {
    let start = Instant::now();
    let (mut refused, mut acknowledged, mut faults) = (0, 0, Vec::new());
    for run in 0..runs as u64 {
        let seed = seed(5000) + run;
        let room = match run {
            0..20 => run * 100,
            _ => (seed * 7919) % 400_000,
        };
        let run = Run::start(seed, mix, 60, |_, faults| std::fs::write(faults.join("enospc"), room.to_string()).unwrap());
        let outcomes = run.outcomes();
        refused += outcomes.refused.len() + outcomes.closed.len();
        acknowledged += outcomes.acknowledged.len();
        let mut wrong = run.judge(1);
        wrong.extend(outcomes.unknown.values().map(|error| format!("seed {seed}: not refused by name: {error}")));
        // There is space again from the fourth failure on.
        if outcomes.refused.len() + outcomes.unknown.len() + outcomes.closed.len() > 4 {
            wrong.push(format!("seed {seed}: an operation failed though there was space: {:?}", outcomes.refused.values().last()));
        }
        faults.extend(wrong.into_iter().map(|wrong| format!("room for {room} bytes, {wrong}")));
    }
    println!(
        "{runs} disks full after 0 to 400,000 bytes: {refused} refusals, {acknowledged} acknowledged operations, {} wrong; {:.1} s",
        faults.len(),
        start.elapsed().as_secs_f64()
    );
    assert!(refused > 2 * runs, "{refused} refusals");
    assert!(faults.is_empty(), "{}", report(&faults));
}

#[test]
fn wherever_the_disk_is_full_no_write_to_a_collection_is_lost_and_writes_go_on_with_space() {
    wherever_the_disk_is_full("points", amount(100, 1000));
}

#[test]
fn wherever_the_disk_is_full_nothing_is_lost_while_collections_come_and_go() {
    wherever_the_disk_is_full("small", amount(100, 1000));
}
