//! Single damaged bytes: a wrong point is never served. Each flip is refused, is noticed, or harms nothing. A segment's file is
//! never missed, whatever became of it: it is made of the rest.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use moco_index::{Error, Record, SearchRequest, Store, StoreOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::disk::{Image, read_image, write_image};
use crate::model::{Content, Model};
use crate::nearest::{self, Recall};
use crate::script::{self, Draw, MAIN, Mix, Operation, VECTORS, config};
use crate::{amount, open, read_back, report, scratch, seed};

/// Enough points for some pages of each kind.
const MIX: Mix = Mix { ids: 150, ..Mix::POINTS };
const OPERATIONS: u64 = 150;

/// The files that `OPERATIONS` operations leave, and what they hold after each of them. With a `log`, the files are those of
/// a process that was killed before it moved its log into the file.
fn filled(seed: u64, log: bool) -> (Image, Vec<Model>) {
    let folder = scratch();
    let options = StoreOptions::default().checkpoint_bytes(if log { 1 << 30 } else { 20_000 });
    let store = script::open(folder.path(), &options).unwrap();
    drop(store.create_collection(MAIN, config()).unwrap());
    let mut model = Model::default();
    model.apply(&Operation::CreateCollection { name: MAIN.to_owned() });
    let mut models = vec![model.clone()];
    for number in 0..OPERATIONS {
        let operation = Operation::draw(seed, 0, number, MIX);
        operation.perform(&store).unwrap();
        model.apply(&operation);
        models.push(model.clone());
    }
    if log {
        return (read_image(folder.path()), models);
    }
    store.collection(MAIN).unwrap().wait_until_built();
    drop(store);
    (read_image(folder.path()), models)
}

/// The file of `image` that ends so.
fn file(image: &Image, end: &str) -> PathBuf {
    let named = |path: &&PathBuf| path.to_str().unwrap().ends_with(end);
    image.keys().find(named).unwrap_or_else(|| panic!("{end} is there")).clone()
}

/// What flips led to, by name.
type Outcomes = BTreeMap<&'static str, usize>;

fn count(outcomes: &mut Outcomes, outcome: &'static str) {
    *outcomes.entry(outcome).or_default() += 1;
}

/// Flips one byte at a time in the file that ends so, and opens the folder. What opens must hold one of `possible`.
fn flip(image: &Image, end: &str, flips: usize, random: &mut ChaCha8Rng, possible: &[Model]) -> (Outcomes, Vec<String>) {
    let path = file(image, end);
    let good = image[&path].as_ref().unwrap();
    let (mut outcomes, mut faults) = (Outcomes::new(), Vec::new());
    for _ in 0..flips {
        let (position, flipped) = (random.random_range(0..good.len()), random.random_range(1..=255u8));
        let mut image = image.clone();
        image.get_mut(&path).unwrap().as_mut().unwrap()[position] ^= flipped;
        let folder = scratch();
        write_image(&image, folder.path());
        let place = || format!("byte {position} of {end}, flipped by {flipped:#x}");
        match catch_unwind(AssertUnwindSafe(|| read_back(folder.path()))) {
            Ok(Ok(found)) if possible.last() == Some(&found) => count(&mut outcomes, "harmless"),
            Ok(Ok(found)) if possible.contains(&found) => count(&mut outcomes, "cut off"),
            Ok(Ok(found)) => faults.push(format!("{}: {}", place(), found.differences(possible.last().unwrap()).join("; "))),
            Ok(Err(Error::DamagedPoint { .. } | Error::DamagedVector { .. })) => count(&mut outcomes, "row named"),
            Ok(Err(Error::Damaged { .. } | Error::Format { .. })) => count(&mut outcomes, "refused"),
            Ok(Err(error)) => faults.push(format!("{}: an error of another kind: {error:?}", place())),
            Err(panic) => faults.push(format!("{}: {}", place(), panic.downcast_ref::<String>().map_or("it panicked", String::as_str))),
        }
    }
    (outcomes, faults)
}

fn say(what: &str, outcomes: &Outcomes, faults: &[String], start: Instant) {
    let outcomes: Vec<String> = outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    println!("flipped bytes of {what}: {}, {} wrong; {:.1} s", outcomes.join(", "), faults.len(), start.elapsed().as_secs_f64());
}

#[test]
fn a_flipped_byte_of_a_collection_is_noticed_or_does_no_harm() {
    let (start, seed) = (Instant::now(), seed(6000));
    let (image, models) = filled(seed, false);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let last = &models[models.len() - 1..];
    let (outcomes, faults) = flip(&image, "/collection.sqlite", amount(400, 5000), &mut random, last);
    say("a collection", &outcomes, &faults, start);
    assert!(faults.is_empty(), "{}", report(&faults));
    assert!(outcomes.get("row named") > Some(&20) && outcomes.contains_key("refused"), "{outcomes:?}");
}

#[test]
fn a_file_of_an_unknown_schema_format_is_called_damaged() {
    let (mut image, _) = filled(1, false);
    // The last byte of the schema format number, in the header of a SQLite file.
    let path = file(&image, "/collection.sqlite");
    image.get_mut(&path).unwrap().as_mut().unwrap()[47] ^= 0x40;
    let folder = scratch();
    write_image(&image, folder.path());
    let error = read_back(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
}

/// SQLite opens such a file to read only, which was once taken for a disk that cannot be written to.
#[test]
fn a_file_of_an_unknown_version_is_called_damaged() {
    let (image, _) = filled(1, false);
    for name in ["catalogue.sqlite", "/collection.sqlite"] {
        let mut image = image.clone();
        let path = file(&image, name);
        image.get_mut(&path).unwrap().as_mut().unwrap()[18] ^= 0x70;
        let folder = scratch();
        write_image(&image, folder.path());
        let error = read_back(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    }
}

#[test]
fn a_flipped_byte_of_a_log_is_noticed_or_leaves_what_was_there_before() {
    let (start, seed) = (Instant::now(), seed(6100));
    let (image, models) = filled(seed, true);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // SQLite takes a log up to the first frame that is wrong, as after a crash: what comes later is as if it had never been.
    let (outcomes, faults) = flip(&image, "/collection.sqlite-wal", amount(150, 2000), &mut random, &models);
    say("a log", &outcomes, &faults, start);
    assert!(faults.is_empty(), "{}", report(&faults));
}

#[test]
fn a_flipped_byte_of_the_catalogue_is_noticed_or_does_no_harm() {
    let (start, seed) = (Instant::now(), seed(6200));
    let (image, models) = filled(seed, false);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let last = &models[models.len() - 1..];
    let (outcomes, faults) = flip(&image, "catalogue.sqlite", amount(1500, 10_000), &mut random, last);
    say("the catalogue", &outcomes, &faults, start);
    assert!(faults.is_empty(), "{}", report(&faults));
}

/// Is this what the model holds?
fn is_right(record: &Record, content: &Content) -> bool {
    content
        .points
        .get(&record.id)
        .is_some_and(|stored| record.vectors.as_ref() == Some(&stored.vectors) && record.payload.as_ref() == Some(&stored.payload))
}

/// Reads everything in several ways; how many reads were refused, or what was served that is wrong.
fn read_all(store: &Store, content: &Content) -> Result<usize, String> {
    let collection = store.collection(MAIN).map_err(|error| error.to_string())?;
    let mut refused = 0;
    for id in content.points.keys() {
        match collection.retrieve(&[*id], true, true) {
            Ok(records) if records.len() == 1 && is_right(&records[0], content) => {}
            // A damaged page of the index on ids can hide a point from look-ups, but not from a verification.
            Ok(records) if records.is_empty() && collection.verify().is_err() => refused += 1,
            Ok(records) => return Err(format!("{id} was read as {records:?}")),
            Err(_) => refused += 1,
        }
    }
    match collection.scroll(None, 10_000, true, true) {
        Ok((records, _)) if records.iter().all(|record| is_right(record, content)) => {
            if records.len() != content.points.len() {
                collection.verify().err().ok_or_else(|| {
                    format!("{} of {} points were read, and a verification found nothing wrong", records.len(), content.points.len())
                })?;
                refused += 1;
            }
        }
        Ok((records, _)) => return Err(format!("{} records were read, of {}, or others", records.len(), content.points.len())),
        Err(_) => refused += 1,
    }
    for (name, size, _) in VECTORS {
        let request = SearchRequest {
            vector_name: name.to_owned(),
            with_vectors: true,
            with_payload: true.into(),
            ..SearchRequest::new(vec![1.0; size], 9)
        };
        for exact in [false, true] {
            match collection.search(&SearchRequest { exact, ..request.clone() }) {
                Ok(hits) => {
                    for hit in hits {
                        let record = Record { id: hit.id, version: hit.version.unwrap(), payload: hit.payload, vectors: hit.vectors };
                        if !is_right(&record, content) {
                            return Err(format!("search by `{name}` returned {record:?}"));
                        }
                    }
                }
                Err(_) => refused += 1,
            }
        }
    }
    Ok(refused)
}

#[test]
fn a_byte_that_is_flipped_while_the_store_is_open_is_never_served() {
    let (start, seed) = (Instant::now(), seed(6300));
    let (image, models) = filled(seed, false);
    let content = &models.last().unwrap().0[MAIN];
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let path = file(&image, "/collection.sqlite");
    let len = image[&path].as_ref().unwrap().len();
    let (mut outcomes, mut faults) = (Outcomes::new(), Vec::new());
    for _ in 0..amount(60, 1000) {
        // Anew each time: the store builds and merges meanwhile, and a page that it writes may take the flipped byte along.
        let folder = scratch();
        write_image(&image, folder.path());
        let store = open(folder.path()).unwrap();
        store.collection(MAIN).unwrap();
        let (position, flipped) = (random.random_range(0..len), random.random_range(1..=255u8));
        let file = std::fs::OpenOptions::new().read(true).write(true).open(folder.path().join(Path::new(&path))).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, position as u64).unwrap();
        file.write_all_at(&[byte[0] ^ flipped], position as u64).unwrap();
        match catch_unwind(AssertUnwindSafe(|| read_all(&store, content))) {
            Ok(Ok(0)) => count(&mut outcomes, "harmless"),
            Ok(Ok(_)) => count(&mut outcomes, "refused"),
            Ok(Err(wrong)) => faults.push(format!("byte {position}, flipped by {flipped:#x}: {wrong}")),
            Err(panic) => faults.push(format!("byte {position}: {}", panic.downcast_ref::<String>().map_or("it panicked", String::as_str))),
        }
    }
    say("an open collection", &outcomes, &faults, start);
    assert!(faults.is_empty(), "{}", report(&faults));
    assert!(outcomes.contains_key("refused"), "{outcomes:?}");
}

/// Opens a folder in which a segment's file is damaged, reads and searches all of it, and waits until nothing is built any more: when
/// the damage was noticed, or what is wrong.
fn heal(folder: &Path, damaged: &Path, model: &Model, draw: &mut Draw) -> Result<&'static str, String> {
    let words = |error: Error| error.to_string();
    let store = open(folder).map_err(words)?;
    let collection = store.collection(MAIN).map_err(words)?;
    let is_known = collection.info().vectors.values().flat_map(|vector| &vector.segments).any(|segment| segment.damage.is_some());
    for (name, size, _) in VECTORS {
        for (limit, ef) in [(5, Some(5)), (20, None)] {
            let request = SearchRequest { vector_name: name.to_owned(), ef, ..SearchRequest::new(draw.vector(size), limit) };
            nearest::search(&collection, &model.0[MAIN], &request, &|_, _| true, &mut Recall::default())?;
        }
    }
    let found = Model::read(&store).map_err(words)?;
    if found != *model {
        return Err(found.differences(model).join("; "));
    }
    collection.wait_until_built();
    collection.verify().map_err(words)?;
    let is_replaced = !folder.join(damaged).exists();
    match (is_known, is_replaced) {
        (true, true) => Ok("noticed when opened"),
        (false, true) => Ok("noticed when read"),
        (false, false) => Ok("harmless"),
        (true, false) => Err("it was noticed and not built anew".to_owned()),
    }
}

/// Changes a segment's file of a closed folder again and again, and opens that.
fn damage_segments(seed: u64, times: usize, damage: impl Fn(&mut Vec<u8>, &mut ChaCha8Rng) -> String) -> (Outcomes, Vec<String>) {
    let (image, models) = filled(seed, false);
    let segments: Vec<&PathBuf> = image.keys().filter(|path| path.extension().is_some_and(|extension| extension == "segment")).collect();
    let (mut random, mut outcomes, mut faults) = (ChaCha8Rng::seed_from_u64(seed), Outcomes::new(), Vec::new());
    for time in 0..times {
        let path = segments[random.random_range(0..segments.len())];
        let mut image = image.clone();
        let what = damage(image.get_mut(path).unwrap().as_mut().unwrap(), &mut random);
        let folder = scratch();
        write_image(&image, folder.path());
        let mut draw = Draw::new(seed, 0, time as u64);
        match catch_unwind(AssertUnwindSafe(|| heal(folder.path(), path, models.last().unwrap(), &mut draw))) {
            Ok(Ok(outcome)) => count(&mut outcomes, outcome),
            Ok(Err(wrong)) => faults.push(format!("{} {what}: {wrong}", path.display())),
            Err(panic) => {
                let reason = panic.downcast_ref::<String>().map_or("it panicked", String::as_str);
                faults.push(format!("{} {what}: {reason}", path.display()));
            }
        }
    }
    (outcomes, faults)
}

#[test]
fn a_flipped_byte_of_a_segment_changes_no_answer_and_the_segment_is_built_anew() {
    let (start, seed) = (Instant::now(), seed(6400));
    let flip = |bytes: &mut Vec<u8>, random: &mut ChaCha8Rng| {
        let (position, flipped) = (random.random_range(0..bytes.len()), random.random_range(1..=255u8));
        bytes[position] ^= flipped;
        format!("with byte {position} flipped by {flipped:#x}")
    };
    let (outcomes, faults) = damage_segments(seed, amount(200, 2000), flip);
    say("segments", &outcomes, &faults, start);
    assert!(faults.is_empty(), "{}", report(&faults));
    assert!(outcomes.contains_key("noticed when opened") && outcomes.contains_key("noticed when read"), "{outcomes:?}");
}

#[test]
fn a_segment_that_is_cut_short_changes_no_answer_and_is_built_anew() {
    let (start, seed) = (Instant::now(), seed(6500));
    let cut = |bytes: &mut Vec<u8>, random: &mut ChaCha8Rng| {
        bytes.truncate(random.random_range(0..bytes.len()));
        format!("cut to {} bytes", bytes.len())
    };
    let (outcomes, faults) = damage_segments(seed, amount(100, 2000), cut);
    say("segments, and cuts", &outcomes, &faults, start);
    assert!(faults.is_empty(), "{}", report(&faults));
    assert!(!outcomes.contains_key("harmless"), "{outcomes:?}");
}
