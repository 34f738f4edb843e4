//! Power cuts: a run is recorded, and the folder is laid out as a disk may hold it after a crash at many points of the record.
//!
//! Each image must open, hold every operation that was acknowledged before its point, and nothing else: of each client the
//! operation under way may be there, whole, or not.
//!
//! Images are real folders, in memory where the system has such (`/dev/shm`), and the store that opens them is the one that
//! users run. A file system of our own within the process, below SQLite and below our files, was considered and left out: it
//! would replace the system calls whose order is in question, and laying an image out takes a twentieth of the time that opening,
//! reading and closing the store do.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use moco_index::{Error, FORMAT, Store};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::disk::{Disk, Image, read_image, write_image};
use crate::model::{Content, Model};
use crate::record::{Change, Event, read};
use crate::script::{MAIN, Mix, Operation};
use crate::{RECORD_LIBRARY, amount, child, read_back, report, run, scratch, seed};

const CLIENTS: u64 = 2;
/// Operations of each client in a recorded run.
const OPERATIONS: u64 = 40;

/// What the clients were told at some point of a record.
struct Acknowledged {
    seed: u64,
    main_exists: bool,
    models: Vec<Model>,
    /// By client: the number of the operation under way.
    next: Vec<u64>,
}

impl Acknowledged {
    fn new(seed: u64) -> Self {
        Self { seed, main_exists: false, models: vec![Model::default(); CLIENTS as usize], next: vec![0; CLIENTS as usize] }
    }

    fn operation(&self, client: usize) -> Operation {
        Operation::draw(self.seed, client as u64, self.next[client], Mix::SMALL)
    }

    fn hear(&mut self, text: &str) {
        if text == "ack main\n" {
            self.main_exists = true;
            for model in &mut self.models {
                model.0.entry(MAIN.to_owned()).or_default();
            }
            return;
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let ["ack", client, number] = words[..] else { panic!("{text:?}") };
        let client: usize = client.parse().unwrap();
        assert_eq!(number.parse(), Ok(self.next[client]), "acknowledgements come in order");
        let operation = self.operation(client);
        self.models[client].apply(&operation);
        self.next[client] += 1;
    }

    /// What is wrong with a store that holds `found`.
    fn differences(&self, found: &Model) -> Vec<String> {
        if !self.main_exists {
            let created = Model([(MAIN.to_owned(), Content::default())].into());
            return if *found == created { Vec::new() } else { found.differences(&Model::default()) };
        }
        let mut seen = Model([(MAIN.to_owned(), Content::default())].into());
        let mut differences = Vec::new();
        for (client, expected) in self.models.iter().enumerate() {
            let part = found.of_client(client as u64);
            for (name, content) in &part.0 {
                seen.0.entry(name.clone()).or_insert_with(|| Content { model: content.model.clone(), ..Content::default() });
                seen.0.get_mut(name).unwrap().points.extend(content.points.clone());
            }
            let mut with_next = expected.clone();
            with_next.apply(&self.operation(client));
            if part != *expected && part != with_next {
                differences.extend(part.differences(expected).into_iter().map(|difference| format!("client {client}: {difference}")));
            }
        }
        differences.extend(found.differences(&seen).into_iter().map(|difference| format!("of nobody: {difference}")));
        differences
    }
}

/// Lays an image out in a fresh folder and opens it; what is wrong with it.
fn judge_image(image: &Image, acknowledged: &Acknowledged) -> Vec<String> {
    let folder = scratch();
    write_image(image, folder.path());
    // Twice: what the first opening made of it must be good, too.
    for opening in ["first", "second"] {
        let found = match catch_unwind(AssertUnwindSafe(|| read_back(folder.path()))) {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return vec![format!("at its {opening} opening: {error}")],
            Err(panic) => {
                let reason = panic.downcast_ref::<String>().map_or("it panicked", String::as_str).replace('\n', " ");
                return vec![format!("at its {opening} opening: {reason}")];
            }
        };
        let differences = acknowledged.differences(&found);
        if !differences.is_empty() {
            return differences;
        }
    }
    Vec::new()
}

/// Records a run; its events, and where they happened.
fn record(seed: u64, sync: &str) -> (Vec<Event>, tempfile::TempDir) {
    let folder = scratch();
    let (data, record) = (folder.path().join("data"), folder.path().join("record"));
    let checkpoint_bytes = ["1000", "20000", "100000"][seed as usize % 3];
    let (seed, operations) = (seed.to_string(), OPERATIONS.to_string());
    std::fs::create_dir(&data).unwrap();
    let mut command =
        child(&["script", data.to_str().unwrap(), &seed, checkpoint_bytes, sync, "small", "none", "2", &operations, "0", "0"]);
    command.env("LD_PRELOAD", &*RECORD_LIBRARY).env("MOCO_RECORD", &record).env("MOCO_UNDER", &data);
    assert_eq!(run(command).len() as u64, OPERATIONS * CLIENTS + 2);
    (read(&record), folder)
}

/// Numbers of events after which the power is cut: half of them anywhere, half where something was just promised or changed.
fn cuts(events: &[Event], count: usize, random: &mut ChaCha8Rng) -> Vec<usize> {
    let is_turn = |event: &Event| !matches!(event.change, Change::Write { .. } | Change::Truncate { .. });
    let mut turns: Vec<usize> = (0..events.len()).filter(|event| is_turn(&events[*event])).map(|event| event + 1).collect();
    turns.shuffle(random);
    let mut cuts: Vec<usize> = (0..count.div_ceil(2)).map(|_| random.random_range(0..=events.len())).collect();
    cuts.extend(turns.into_iter().cycle().take(count / 2));
    cuts.sort_unstable();
    cuts
}

#[derive(Debug, Default)]
struct Tally {
    images: usize,
    /// Of these, how many were taken while something was not synced.
    unsettled: usize,
    acknowledged: usize,
    faults: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.images += other.images;
        self.unsettled += other.unsettled;
        self.acknowledged += other.acknowledged;
        self.faults.extend(other.faults);
    }
}

/// Cuts the power `images` times in one recorded run.
fn cut_power(seed: u64, sync: &str, images: usize) -> Tally {
    let (events, folder) = record(seed, sync);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut disk = Disk::new(&folder.path().join("data"), &Image::new());
    let mut acknowledged = Acknowledged::new(seed);
    let mut tally = Tally::default();
    let mut done = 0;
    for cut in cuts(&events, images, &mut random) {
        for event in &events[done..cut] {
            disk.step(event);
            if let Change::Said { text } = &event.change {
                acknowledged.hear(text);
            }
        }
        done = cut;
        // Just after an answer, nothing but what was synced is the hardest case.
        let has_just_answered = cut > 0 && matches!(events[cut - 1].change, Change::Said { .. });
        let image = if has_just_answered && random.random() { disk.barest_image(&mut random) } else { disk.image(&mut random) };
        tally.images += 1;
        tally.unsettled += usize::from(disk.pending() > 0);
        tally.acknowledged += acknowledged.next.iter().sum::<u64>() as usize;
        let faults = judge_image(&image, &acknowledged);
        if !faults.is_empty() {
            keep(&image, &format!("crash-{seed}-{cut}-{}", tally.images));
            tally.faults.push(format!("seed {seed}, cut after {cut} of {} events: {}", events.len(), faults.join("; ")));
        }
    }
    tally
}

/// Keeps an image that was found wrong where `MOCO_KEEP` names a folder, to be looked at.
fn keep(image: &Image, name: &str) {
    if let Some(folder) = std::env::var_os("MOCO_KEEP") {
        let folder = Path::new(&folder).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        write_image(image, &folder);
    }
}

/// Some runs, a few at once, each cut `per_run` times.
fn cut_many(first_seed: u64, sync: &str, images: usize, per_run: usize) -> Tally {
    let (runs, next) = (images.div_ceil(per_run), AtomicUsize::new(0));
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let work = || {
            let mut tally = Tally::default();
            loop {
                let run = next.fetch_add(1, Ordering::Relaxed);
                if run >= runs {
                    return tally;
                }
                tally.add(cut_power(first_seed + run as u64, sync, per_run));
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|thread| tally.add(thread.join().unwrap()));
    });
    tally
}

#[test]
fn after_a_power_cut_at_any_moment_all_that_was_acknowledged_is_there() {
    let (start, seed) = (Instant::now(), seed(1000));
    let tally = cut_many(seed, "with-sync", amount(200, 100_000), amount(40, 200));
    let Tally { images, unsettled, acknowledged, ref faults } = tally;
    println!(
        "{images} power cuts from seed {seed}, {unsettled} of them with unsynced changes, {:.0} acknowledged operations before each: {} wrong; \
         {:.1} s, {:.0} images/s",
        acknowledged as f64 / images as f64,
        faults.len(),
        start.elapsed().as_secs_f64(),
        images as f64 / start.elapsed().as_secs_f64()
    );
    assert!(unsettled * 4 > images, "{unsettled} of {images} images had anything to lose");
    assert!(faults.is_empty(), "{}", report(faults));
}

#[test]
fn a_store_that_does_not_sync_is_caught_by_power_cuts() {
    let seed = seed(2000);
    let tally = cut_many(seed, "without-sync", 40, 20);
    println!("{} of {} power cuts lost something without syncs, from seed {seed}", tally.faults.len(), tally.images);
    assert!(tally.faults.len() * 4 > tally.images, "{} of {} were noticed", tally.faults.len(), tally.images);
}

#[test]
fn a_power_cut_while_the_store_mends_itself_after_one_does_no_harm() {
    let (start, seed) = (Instant::now(), seed(3000));
    let (runs, per_run) = (amount(6, 60), 10);
    let (mut images, mut faults) = (0, Vec::new());
    for seed in seed..seed + runs as u64 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (events, folder) = record(seed, "with-sync");
        let mut disk = Disk::new(&folder.path().join("data"), &Image::new());
        let mut acknowledged = Acknowledged::new(seed);
        let cut = random.random_range(events.len() / 3..events.len());
        for event in &events[..cut] {
            disk.step(event);
            if let Change::Said { text } = &event.change {
                acknowledged.hear(text);
            }
        }
        let mended = scratch();
        let (data, record) = (mended.path().join("data"), mended.path().join("record"));
        std::fs::create_dir(&data).unwrap();
        write_image(&disk.image(&mut random), &data);
        let base = read_image(&data);
        let events = settle(&data, &record);
        let mut disk = Disk::new(&data, &base);
        let mut done = 0;
        for cut in cuts(&events, per_run, &mut random) {
            events[done..cut].iter().for_each(|event| disk.step(event));
            done = cut;
            images += 1;
            let wrong = judge_image(&disk.image(&mut random), &acknowledged);
            if !wrong.is_empty() {
                faults.push(format!("seed {seed}, cut after {cut} of {} events of the mending: {}", events.len(), wrong.join("; ")));
            }
        }
    }
    println!("{images} power cuts while mending, from seed {seed}: {} wrong; {:.1} s", faults.len(), start.elapsed().as_secs_f64());
    assert!(faults.is_empty(), "{}", report(&faults));
}

/// Opens a folder and lets it come to rest, in a process whose writes are recorded.
fn settle(data: &Path, record: &Path) -> Vec<Event> {
    let mut command = child(&["settle", data.to_str().unwrap()]);
    command.env("LD_PRELOAD", &*RECORD_LIBRARY).env("MOCO_RECORD", record).env("MOCO_UNDER", data);
    run(command);
    read(record)
}

/// What may be found when the power is cut at the end of a record.
pub(crate) fn images_at_the_end(events: &[Event], data: &Path, base: &Image, count: usize, seed: u64) -> BTreeSet<Image> {
    let mut disk = Disk::new(data, base);
    events.iter().for_each(|event| disk.step(event));
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| disk.image(&mut random)).collect()
}

/// Opens an image in a folder of its own.
pub(crate) fn open_image(image: &Image) -> Result<Model, Error> {
    let folder = scratch();
    write_image(image, folder.path());
    read_back(folder.path())
}

/// A folder of an older format, opened, and so rewritten, while the power is cut: it is of the older format or of this one,
/// and holds what it held.
#[test]
fn a_power_cut_while_an_older_format_is_rewritten_leaves_the_old_one_or_the_new() {
    let (start, seed) = (Instant::now(), seed(3500));
    let (mut images, mut faults, mut old) = (0, Vec::new(), 0);
    for format in 1..FORMAT {
        let mut random = ChaCha8Rng::seed_from_u64(seed + u64::from(format));
        let folder = scratch();
        let (data, record) = (folder.path().join("data"), folder.path().join("record"));
        std::fs::create_dir(&data).unwrap();
        write_image(&read_image(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/format-{format}"))), &data);
        let base = read_image(&data);
        let events = settle(&data, &record);
        let mut disk = Disk::new(&data, &base);
        let mut done = 0;
        for cut in cuts(&events, amount(60, 2000), &mut random) {
            events[done..cut].iter().for_each(|event| disk.step(event));
            done = cut;
            images += 1;
            let folder = scratch();
            write_image(&disk.image(&mut random), folder.path());
            let read = Store::open(folder.path()).and_then(|store| {
                let collection = store.collection("old")?;
                collection.verify()?;
                Ok((collection.count(), collection.info().operation, collection.info().upgraded_from))
            });
            match read {
                Ok((19, 5, from)) => old += usize::from(from.is_some()),
                other => faults.push(format!("format {format}, cut after {cut} of {} events: {other:?}", events.len())),
            }
        }
    }
    println!(
        "{images} power cuts while older formats were rewritten, from seed {seed}, {old} of them before it counted: {} wrong; {:.1} s",
        faults.len(),
        start.elapsed().as_secs_f64()
    );
    assert!(old * 10 > images && old < images, "{old} of {images} images were of the older format");
    assert!(faults.is_empty(), "{}", report(&faults));
}
