//! A collection under a schedule explorer: two clients write, others search, the builder puts segments in the place of
//! others, and the explorer decides at every lock, queue and thread who goes on.
//!
//! Nothing is left out: it is the store that users run, SQLite and mapped files included, with other locks (`sync.rs`). A call of
//! SQLite is one step, so that what is explored is what lies between the file and memory.
//!
//! A failure prints the schedule that shows it. `MOCO_TORTURE=1` explores 100,000 schedules in the place of 1,000, and
//! `MOCO_SEED` other ones.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};

use crate::segment;
use crate::{
    Collection, CollectionConfig, Condition, Distance, Filter, HnswParams, Payload, Point, PointId, SearchRequest, Store, StoreOptions,
};

/// A fault that a test plants, to see it found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// A segment is published without the deaths that came while it was built.
    ForgetsKills,
    /// What is read of a damaged segment's range counts as what was there when the tail was looked at, as it once did.
    BelievesWhatIsReadLater,
    /// A collection that closes installs a segment of what was read until then, as it once did.
    InstallsWhatClosingCutShort,
    /// A segment that is found damaged is taken for one of which nobody died before.
    LosesSightOfTheDead,
}

thread_local! {
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// All of a schedule runs on one thread, so that other tests do not see the fault.
pub(crate) fn is_planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}

/// Ids that the writing clients own, by client. The last of each is not there at the start.
const OWNED: [&[u64]; 2] = [&[0, 1, 2], &[3, 4, 5]];
const WRITES: u64 = 4;
/// Distance between the vectors of two points, which is more than there are versions of one.
const STEP: f32 = 100.0;

fn options() -> StoreOptions {
    StoreOptions::default().build_threads(1)
}

/// A version of a point, which its vector and its payload tell: no two versions have one score.
fn point(id: u64, version: u64) -> Point {
    let payload = Payload::from_iter([("version".to_owned(), version.into())]);
    Point { id: PointId::Num(id), vectors: BTreeMap::from([(String::new(), vec![id as f32 * STEP + version as f32])]), payload }
}

/// A closed folder of four points in a segment and one beside it.
fn lay_out(folder: &Path) {
    let store = Store::open_with(folder, &options()).unwrap();
    let hnsw = HnswParams { full_scan_threshold: 2, m: 4, ef_construction: 8, ..HnswParams::default() };
    let collection = store.create_collection("c", CollectionConfig { hnsw, ..CollectionConfig::unnamed(1, Distance::Euclid) }).unwrap();
    collection.upsert([0, 1, 3].map(|id| point(id, 0)).to_vec()).unwrap();
    collection.wait_until_built();
    collection.upsert(vec![point(4, 0)]).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::write(to, std::fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

/// What was written to each point, and when: time is a count of beginnings and ends.
struct History {
    now: u64,
    /// By id: version (`None`: deleted), when its write began and when it was acknowledged.
    writes: BTreeMap<u64, Vec<(Option<u64>, u64, u64)>>,
}

impl History {
    fn new() -> Self {
        let first = |id: u64| if [0, 1, 3, 4].contains(&id) { Some(0) } else { None };
        Self { now: 0, writes: OWNED.concat().into_iter().map(|id| (id, vec![(first(id), 0, 0)])).collect() }
    }

    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn begin(&mut self, ids: &[u64], version: Option<u64>) {
        let now = self.tick();
        ids.iter().for_each(|id| self.writes.get_mut(id).unwrap().push((version, now, u64::MAX)));
    }

    fn end(&mut self, ids: &[u64]) {
        let now = self.tick();
        ids.iter().for_each(|id| self.writes.get_mut(id).unwrap().last_mut().unwrap().2 = now);
    }

    /// May a read from `from` to `to` see this version? Not before its write began, nor after a later one was acknowledged.
    fn allows(&self, id: u64, version: Option<u64>, from: u64, to: u64) -> bool {
        let writes = &self.writes[&id];
        (0..writes.len()).any(|place| {
            let (written, began, _) = writes[place];
            written == version && began <= to && writes.get(place + 1).is_none_or(|(_, _, acknowledged)| *acknowledged > from)
        })
    }
}

type Log = Arc<Mutex<History>>;

/// Replaces, deletes and brings back what it owns, one or two points at a time.
fn write(collection: &Collection, owned: &[u64], client: u64, log: &Log) {
    for number in 1..=WRITES {
        let first = (number + client) as usize % owned.len();
        let ids: Vec<u64> = [owned[first], owned[(first + 1) % owned.len()]][..1 + number as usize % 2].to_vec();
        let version = (!(number + client).is_multiple_of(3)).then_some(number);
        log.lock().unwrap().begin(&ids, version);
        match version {
            Some(version) => collection.upsert(ids.iter().map(|id| point(*id, version)).collect()),
            None => collection.delete(&ids.iter().map(|id| PointId::Num(*id)).collect::<Vec<_>>()),
        }
        .unwrap();
        log.lock().unwrap().end(&ids);
    }
}

/// Searches for everything: by a walk, exactly, with what is stored, among those that pass a filter.
fn search(collection: &Collection, first: usize, log: &Log) {
    for kind in first..first + 4 {
        let filter = (kind % 4 >= 2).then(|| Filter::must([Condition::field("version").at_least(0)]));
        let request =
            SearchRequest { exact: kind % 4 == 1, with_payload: (kind % 2 == 1).into(), filter, ..SearchRequest::new(vec![0.0], 100) };
        let from = log.lock().unwrap().now;
        let hits = collection.search(&request).unwrap();
        let log = log.lock().unwrap();
        let mut found = BTreeMap::new();
        for hit in hits {
            let (id, version) = ((hit.score / STEP) as u64, (hit.score % STEP) as u64);
            assert_eq!(hit.id, PointId::Num(id), "a score is of the point's own vector");
            assert_eq!(found.insert(id, version), None, "point {id} was found twice");
            if let Some(payload) = hit.payload {
                assert_eq!(payload["version"], version, "vector and payload of point {id} are of one version");
            }
        }
        for id in OWNED.concat() {
            let version = found.get(&id).copied();
            assert!(log.allows(id, version, from, log.now), "search {kind}: point {id} was seen as {version:?}; {:?}", log.writes[&id]);
        }
    }
}

/// The segment that a life begins with.
#[derive(Clone, Copy, PartialEq)]
enum Segment {
    Whole,
    /// Answered from the truth until it is built anew.
    Damaged,
    /// The same, once somebody reads its rows.
    WithDamagedRows,
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let collections = std::fs::read_dir(folder.join("collections")).unwrap();
    let files = collections.flat_map(|collection| std::fs::read_dir(collection.unwrap().path()).unwrap());
    files.map(|entry| entry.unwrap().path()).filter(|file| file.extension().is_some_and(|extension| extension == "segment")).collect()
}

fn damage_segments(folder: &Path, part: Segment) {
    for file in segments(folder) {
        let mut bytes = std::fs::read(&file).unwrap();
        // Of a row the exponent: the first becomes a version that nobody wrote.
        let (place, flipped) = match part {
            Segment::Whole => return,
            Segment::Damaged => (0, 1),
            Segment::WithDamagedRows => (segment::first_row(&bytes) + 3, 0x42),
        };
        bytes[place] ^= flipped;
        std::fs::write(&file, bytes).unwrap();
    }
}

/// One life of a collection, whoever goes on at each step.
fn live(template: &Path, segment: Segment) {
    let folder = scratch();
    let folder = folder.path().join("data");
    copy(template, &folder);
    damage_segments(&folder, segment);
    let log: Log = Arc::new(Mutex::new(History::new()));
    {
        let store = Store::open_with(&folder, &options()).unwrap();
        let collection = store.collection("c").unwrap();
        let mut threads = Vec::new();
        for (client, owned) in (0..).zip(OWNED) {
            let (collection, log) = (Arc::clone(&collection), Arc::clone(&log));
            threads.push(thread::spawn(move || write(&collection, owned, client, &log)));
        }
        for first in [0, 2] {
            let (collection, log) = (Arc::clone(&collection), Arc::clone(&log));
            threads.push(thread::spawn(move || search(&collection, first, &log)));
        }
        collection.compact().unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        search(&collection, 0, &log);
        collection.verify().unwrap();
    }
    // What the file holds is what was seen.
    let store = Store::open_with(&folder, &options()).unwrap();
    let collection = store.collection("c").unwrap();
    search(&collection, 0, &log);
    collection.verify().unwrap();
}

/// A collection that closes while its builder works: what segments held before they hold afterwards.
fn close_early(template: &Path) {
    let folder = scratch();
    let folder = folder.path().join("data");
    copy(template, &folder);
    let log: Log = Arc::new(Mutex::new(History::new()));
    write(&Store::open_with(&folder, &options()).unwrap().collection("c").unwrap(), OWNED[0], 0, &log);
    // Point 3 was in one, and nobody wrote it.
    assert!(!segments(&folder).is_empty(), "the closing of {} left no segment", folder.display());
    let store = Store::open_with(&folder, &options()).unwrap();
    let collection = store.collection("c").unwrap();
    collection.wait_until_built();
    search(&collection, 0, &log);
    collection.verify().unwrap();
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn explore(scheduler: impl Scheduler + 'static, life: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    // SQLite needs more than the explorer's 32 KiB.
    config.stack_size = 1 << 20;
    Runner::new(scheduler, config).run(life);
}

/// Runs `life` once, for a test that opens a store and asks for no more than one schedule.
pub(crate) fn once(life: impl Fn(&Path) + Send + Sync + 'static) {
    explore(RandomScheduler::new_from_seed(1, 1), move || life(scratch().path()));
}

fn explore_lives(schedules: usize, seed: u64, segment: Segment) {
    explore_halves(schedules, seed, move |template| live(template, segment));
}

/// Explores, half of it with few changes of who goes on at well-chosen moments, half at random.
fn explore_halves(schedules: usize, seed: u64, life: impl Fn(&Path) + Clone + Send + Sync + 'static) {
    let folder = scratch();
    let template = Arc::new(folder.path().join("template"));
    let path = Arc::clone(&template);
    explore(RandomScheduler::new_from_seed(seed, 1), move || lay_out(&path));
    let (path, first) = (Arc::clone(&template), life.clone());
    explore(PctScheduler::new_from_seed(seed, 3, schedules.div_ceil(2)), move || first(&path));
    explore(RandomScheduler::new_from_seed(seed, schedules / 2), move || life(&template));
}

fn seed(own: u64) -> u64 {
    std::env::var("MOCO_SEED").map_or(own, |seed| own ^ seed.parse::<u64>().expect("MOCO_SEED is a number").wrapping_mul(0x9e37_79b9))
}

fn amount(short: usize, long: usize) -> usize {
    std::env::var("MOCO_TORTURE")
        .map_or(short, |part| ((long as f64 * part.parse::<f64>().expect("MOCO_TORTURE is a part of the whole")) as usize).max(short))
}

#[test]
fn under_any_schedule_a_search_sees_what_was_acknowledged_and_each_point_once() {
    let (start, seed, schedules) = (Instant::now(), seed(1), amount(1000, 100_000));
    explore_lives(schedules, seed, Segment::Whole);
    println!("{schedules} schedules from seed {seed}: 0 wrong; {:.1} s", start.elapsed().as_secs_f64());
}

/// A search read the truth a moment after it had looked at the tail: a point that was replaced in between was in neither.
#[test]
fn under_any_schedule_a_damaged_segment_is_answered_as_a_whole_one() {
    let (start, seed, schedules) = (Instant::now(), seed(3), amount(300, 20_000));
    explore_lives(schedules, seed, Segment::Damaged);
    println!("{schedules} schedules from seed {seed}: 0 wrong; {:.1} s", start.elapsed().as_secs_f64());
}

/// As above; but the damage is found by a search, beside writers and a builder that believed in the segment.
#[test]
fn under_any_schedule_a_segment_whose_rows_are_damaged_is_answered_as_a_whole_one() {
    let (start, seed, schedules) = (Instant::now(), seed(7), amount(300, 20_000));
    explore_lives(schedules, seed, Segment::WithDamagedRows);
    println!("{schedules} schedules from seed {seed}: 0 wrong; {:.1} s", start.elapsed().as_secs_f64());
}

/// A builder that was stopped while it read took what it had read for all there was: the segment was gone.
#[test]
fn under_any_schedule_a_closing_takes_no_segment_away() {
    let (start, seed, schedules) = (Instant::now(), seed(5), amount(300, 20_000));
    explore_halves(schedules, seed, close_early);
    println!("{schedules} schedules from seed {seed}: 0 wrong; {:.1} s", start.elapsed().as_secs_f64());
}

fn is_found_out(fault: Fault, explore: impl FnOnce()) {
    PLANTED.set(Some(fault));
    let outcome = catch_unwind(AssertUnwindSafe(explore));
    PLANTED.set(None);
    let panic = outcome.err().unwrap_or_else(|| panic!("no schedule showed {fault:?}"));
    println!("{fault:?}: {}", panic.downcast_ref::<String>().map_or("a panic", String::as_str));
}

#[test]
fn a_segment_that_forgets_who_died_while_it_was_built_is_found_out() {
    is_found_out(Fault::ForgetsKills, || explore_lives(3000, seed(2), Segment::Whole));
}

#[test]
fn a_damaged_segment_that_is_read_later_than_the_tail_is_found_out() {
    is_found_out(Fault::BelievesWhatIsReadLater, || explore_lives(3000, seed(4), Segment::Damaged));
}

#[test]
fn a_damaged_segment_whose_dead_are_forgotten_is_found_out() {
    is_found_out(Fault::LosesSightOfTheDead, || explore_lives(20_000, seed(8), Segment::WithDamagedRows));
}

#[test]
fn a_closing_that_installs_what_was_read_so_far_is_found_out() {
    is_found_out(Fault::InstallsWhatClosingCutShort, || explore_halves(3000, seed(6), close_early));
}
