//! `kill -9` in the middle of whatever the clients do, again and again over the same folder: writes, builds, merges, and the
//! snapshots that are taken beside them.
//!
//! After each kill the folder must hold what was acknowledged, and each snapshot that has its name a prefix of what each client
//! did. What the kills met is counted, by what was left and by what had been asked and not answered.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use moco_index::Store;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::model::Model;
use crate::script::{MAIN, Mix, Operation, config};
use crate::{amount, child, open, read_back, scratch, seed};

const CLIENTS: usize = 3;
const MIX: Mix = Mix::KILLS;

/// Beside the clients' operations.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Snapshots {
    Taken,
    NotTaken,
}

/// Numbers of operations, by client.
type Numbers = [u64; CLIENTS];

#[derive(Debug, Default)]
struct Tally {
    acknowledged: usize,
    unanswered_but_stored: usize,
    /// Kills in the middle of a client's upsert,
    upserts: usize,
    /// its deletion,
    deletes: usize,
    /// its compaction,
    compactions: usize,
    /// between the first byte of a segment and the removal of what it replaces,
    builds: usize,
    /// of a snapshot.
    snapshots: usize,
    /// Segments that a kill left, all kills together.
    segments: usize,
    /// Segments that take the place of several that were there at the start of the life.
    merges: usize,
    snapshots_acknowledged: usize,
    snapshots_judged: usize,
}

/// A row of the table of segments.
#[derive(Debug, PartialEq)]
struct SegmentRow {
    file: String,
    vector: String,
    slots: (i64, i64),
}

impl SegmentRow {
    fn covers(&self, other: &Self) -> bool {
        self.vector == other.vector && self.slots.0 <= other.slots.0 && other.slots.1 <= self.slots.1
    }
}

/// What a collection's file says of its segments. It is read in a copy, so that nothing is cleared up.
fn segments(collection: &Path) -> Vec<SegmentRow> {
    let copy = scratch();
    for name in ["collection.sqlite", "collection.sqlite-wal"] {
        if collection.join(name).exists() {
            std::fs::copy(collection.join(name), copy.path().join(name)).unwrap();
        }
    }
    let database = rusqlite::Connection::open(copy.path().join("collection.sqlite")).unwrap();
    let mut statement = database.prepare("SELECT file, vector, first, last FROM segment").unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok(SegmentRow { file: row.get(0)?, vector: row.get(1)?, slots: (row.get(2)?, row.get(3)?) });
    statement.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Is this a part of a segment, and not of a snapshot's database? An empty file counts as neither.
fn is_segment(unfinished: &Path) -> bool {
    let bytes = std::fs::read(unfinished).unwrap();
    !bytes.is_empty() && !bytes.starts_with(b"SQLite format 3")
}

/// What a child said until it was killed.
struct Life {
    /// By client, what was there before.
    before: Vec<Model>,
    /// What each client did first.
    firsts: Numbers,
    /// What comes next after all that was acknowledged.
    next: Numbers,
    /// By snapshot, what was next when it was asked for, and when it was answered.
    asked: Vec<Numbers>,
    answered: Vec<Numbers>,
}

impl Life {
    fn new(before: Vec<Model>, firsts: Numbers) -> Self {
        Self { before, firsts, next: firsts, asked: Vec::new(), answered: Vec::new() }
    }

    fn hear(&mut self, line: &str) {
        let (what, numbers) = line.split_once(' ').unwrap();
        if numbers == "main" {
            return;
        }
        match (what, &numbers.split(' ').map(|n| n.parse::<u64>().unwrap()).collect::<Vec<_>>()[..]) {
            ("ack", [client, number]) => {
                let next = &mut self.next[*client as usize];
                assert_eq!(number, next, "acknowledgements come in order");
                *next += 1;
            }
            ("ask", [number]) => {
                assert_eq!(*number, self.asked.len() as u64, "snapshots are asked for in order");
                self.asked.push(self.next);
            }
            ("snapshot", [number]) => {
                assert_eq!(*number, self.answered.len() as u64, "snapshots are answered in order");
                self.answered.push(self.next);
            }
            _ => panic!("{line}"),
        }
    }

    /// Judges the newest snapshot in a folder, and removes all that have their names; what is wrong with them.
    fn judge_snapshots(&self, seed: u64, folder: &Path, tally: &mut Tally) -> Result<(), String> {
        // What else there is was left by a kill, and stays: it must not be in the way of the next snapshots.
        let mut numbers: Vec<usize> = names(folder).iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        if let Some(missing) = (0..self.answered.len()).find(|number| !numbers.contains(number)) {
            return Err(format!("snapshot {missing} was acknowledged and is not there"));
        }
        if let Some(number) = numbers.last() {
            self.judge_snapshot(seed, *number, &folder.join(number.to_string())).map_err(|wrong| format!("snapshot {number}: {wrong}"))?;
            tally.snapshots_judged += 1;
        }
        numbers.iter().for_each(|number| std::fs::remove_file(folder.join(number.to_string())).unwrap());
        Ok(())
    }

    /// Of each client it holds what was done when it was asked for, and nothing that was not begun when it was answered.
    fn judge_snapshot(&self, seed: u64, number: usize, snapshot: &Path) -> Result<(), String> {
        let folder = scratch();
        let restore = |store: Store| {
            store.restore(snapshot, MAIN)?.verify()?;
            Model::read(&store)
        };
        let found = open(folder.path()).and_then(restore).map_err(|error| error.to_string())?;
        let asked = self.asked.get(number).ok_or("nobody asked for it")?;
        let answered = self.answered.get(number).unwrap_or(&self.next);
        for client in 0..CLIENTS {
            let part = found.of_client(client as u64);
            let mut expected = self.before[client].clone();
            let mut apply = |number| _ = expected.apply(&Operation::draw(seed, client as u64, number, MIX));
            (self.firsts[client]..asked[client]).for_each(&mut apply);
            // The next one was under way when the snapshot was answered.
            let is_prefix = (asked[client]..=answered[client] + 1).any(|number| {
                if part.0[MAIN] == expected.0[MAIN] {
                    return true;
                }
                expected.apply(&Operation::draw(seed, client as u64, number, MIX));
                false
            });
            if !is_prefix {
                return Err(format!("client {client}: no prefix of {} to {} operations", asked[client], answered[client] + 1));
            }
        }
        Ok(())
    }
}

/// Kills a child `kills` times, each over what the one before left; the first difference ends it.
fn kill_often(seed: u64, kills: usize, answers: &str, taking: Snapshots) -> Result<Tally, String> {
    let folder = tempfile::tempdir().unwrap();
    let [data, snapshots] = ["data", "snapshots"].map(|name| folder.path().join(name));
    std::fs::create_dir(&snapshots).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut main = Model::default();
    main.apply(&Operation::CreateCollection { name: MAIN.to_owned() });
    drop(open(&data).unwrap().create_collection(MAIN, config()).unwrap());
    let collections = data.join("collections");
    let collection = collections.join(names(&collections).pop().unwrap());
    let mut expected = vec![main; CLIENTS];
    let mut next = [0u64; CLIENTS];
    let mut tally = Tally::default();
    for kill in 0..kills {
        let segments_before = segments(&collection);
        // The log is moved into the file after each few writes, or now and then, or hardly ever.
        let checkpoint_bytes = ["2000", "100000", "10000000"][kill % 3];
        let firsts = next.map(|first| first.to_string());
        let snapshots_path = if taking == Snapshots::Taken { snapshots.to_str().unwrap() } else { "none" };
        let seed_text = seed.to_string();
        let arguments = ["script", data.to_str().unwrap(), &seed_text, checkpoint_bytes, answers, "kills", snapshots_path, "1000", "40000"];
        let mut process = child(&[&arguments[..], &firsts.each_ref().map(String::as_str)].concat()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut lines = String::new();
        // One in four is killed while it starts, the others while they work.
        if random.random_range(0..4) > 0 {
            output.read_line(&mut lines).unwrap();
        }
        std::thread::sleep(Duration::from_micros(random.random_range(0..120_000)));
        process.kill().unwrap();
        output.read_to_string(&mut lines).unwrap();
        process.wait().unwrap();
        let mut life = Life::new(expected.clone(), next);
        lines.lines().for_each(|line| life.hear(line));
        tally.count_kill(seed, &life, &collection, &segments_before);
        let place = format!("seed {seed}, kill {kill}");
        life.judge_snapshots(seed, &snapshots, &mut tally).map_err(|wrong| format!("{place}: {wrong}"))?;
        let found = read_back(&data).map_err(|error| format!("{place}: {error}"))?;
        for client in 0..CLIENTS {
            let operation = |number| Operation::draw(seed, client as u64, number, MIX);
            (next[client]..life.next[client]).for_each(|number| _ = expected[client].apply(&operation(number)));
            next[client] = life.next[client];
            // The operation under way may have reached the disk or not, but not by half.
            let part = found.of_client(client as u64);
            if part != expected[client] {
                let under_way = operation(next[client]);
                let mut with_next = expected[client].clone();
                with_next.apply(&under_way);
                let differences = part.differences(&with_next);
                if !differences.is_empty() {
                    let number = next[client];
                    return Err(format!("{place}, client {client}, operation {number}: {under_way}: {}", differences.join("; ")));
                }
                expected[client] = with_next;
                tally.unanswered_but_stored += 1;
            }
            // Whether it was seen or not: each number is used once.
            next[client] += 1;
        }
    }
    Ok(tally)
}

impl Tally {
    /// What a kill met, by what was said before it and by what it left, before anybody opens that again.
    fn count_kill(&mut self, seed: u64, life: &Life, collection: &Path, segments_before: &[SegmentRow]) {
        let Life { firsts, next, asked, answered, .. } = life;
        for client in 0..CLIENTS {
            self.acknowledged += (next[client] - firsts[client]) as usize;
            // A client that had an answer before was at its next operation.
            if next[client] > firsts[client] {
                match Operation::draw(seed, client as u64, next[client], MIX) {
                    Operation::Upsert { .. } => self.upserts += 1,
                    Operation::Delete { .. } => self.deletes += 1,
                    Operation::Compact { .. } => self.compactions += 1,
                    _ => {}
                }
            }
        }
        self.snapshots_acknowledged += answered.len();
        self.snapshots += asked.len() - answered.len();
        let rows = segments(collection);
        let is_unfinished = |name: &String| match Path::new(name).extension().and_then(OsStr::to_str) {
            Some("building") => is_segment(&collection.join(name)),
            // Not yet named by a row, or replaced and not yet removed.
            Some("segment") => !rows.iter().any(|row| row.file == *name),
            _ => false,
        };
        self.builds += usize::from(names(collection).iter().any(is_unfinished));
        self.segments += rows.len();
        let is_merged =
            |row: &&SegmentRow| !segments_before.contains(row) && segments_before.iter().filter(|before| row.covers(before)).count() >= 2;
        self.merges += rows.iter().filter(is_merged).count();
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_no_delete_undone_by_kills() {
    let (start, seed, kills) = (Instant::now(), seed(20), amount(100, 1000));
    let tally = kill_often(seed, kills, "with-sync", Snapshots::Taken).unwrap_or_else(|wrong| panic!("{wrong}"));
    println!(
        "{kills} kills from seed {seed}, {} acknowledged operations, 0 lost; {} were stored and not yet acknowledged; kills in the middle of \
         {} upserts, {} deletions, {} compactions, {} segments and {} snapshots; {:.1} segments in the mean, {} merges done; {} snapshots \
         acknowledged, 0 lost, {} restored and verified, each a prefix; {:.1} s",
        tally.acknowledged,
        tally.unanswered_but_stored,
        tally.upserts,
        tally.deletes,
        tally.compactions,
        tally.builds,
        tally.snapshots,
        tally.segments as f64 / kills as f64,
        tally.merges,
        tally.snapshots_acknowledged,
        tally.snapshots_judged,
        start.elapsed().as_secs_f64()
    );
    let Tally { acknowledged, upserts, deletes, compactions, builds, snapshots, merges, snapshots_judged, .. } = tally;
    assert!(acknowledged > kills * 3, "only {acknowledged} operations in {kills} lives: the kills came too early to show anything");
    let met = [upserts, deletes, compactions, builds, snapshots, merges, snapshots_judged];
    assert!(met.iter().all(|count| *count > 0), "something was never met: {tally:?}");
}

#[test]
fn an_acknowledgement_before_the_commit_is_caught_by_kills() {
    let seed = seed(21);
    for snapshots in [Snapshots::NotTaken, Snapshots::Taken] {
        let wrong = kill_often(seed, 60, "too-early", snapshots).err();
        println!("answers before commits, snapshots {snapshots:?}, from seed {seed}: {}", wrong.as_deref().unwrap_or("not noticed"));
        assert!(wrong.is_some());
    }
}
