//! A store beside plain maps, through random operations and restarts.

use std::collections::BTreeSet;
use std::time::Instant;

use moco_index::{Collection, Condition, Filter, PointId, SearchRequest, StoreOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::model::{Content, Model, Stored};
use crate::nearest::{self, Recall};
use crate::script::{self, Draw, MAIN, Mix, Operation, VECTORS};
use crate::{amount, read_back, scratch, seed};

/// Enough points that graphs are built, few enough that they are replaced and deleted all the time.
const MIX: Mix = Mix { ids: 150, upsert: 60, delete: 25, side: 12, bulk: 3, change: 25, compact: 1 };
/// How likely a restart is before an operation.
const RESTART: f64 = 0.001;

/// A search by one vector.
fn request(draw: &mut Draw) -> SearchRequest {
    let (name, size, _) = VECTORS[draw.below(4) as usize];
    let query = draw.vector(size);
    let (limit, offset) = (1 + draw.below(20) as usize, if draw.below(4) == 0 { draw.below(30) as usize } else { 0 });
    SearchRequest { vector_name: name.to_owned(), offset, ..SearchRequest::new(query, limit) }
}

/// Reads some points by id and a page of them.
fn look_up(collection: &Collection, content: &Content, draw: &mut Draw) -> Result<(), String> {
    let ids: Vec<PointId> = (0..5).map(|_| draw.id(0, MIX)).collect();
    let records = collection.retrieve(&ids, true, true).map_err(|error| error.to_string())?;
    let found: Vec<_> =
        records.iter().map(|record| (record.id, record.vectors.as_ref().unwrap(), record.payload.as_ref().unwrap())).collect();
    let expected: Vec<_> =
        ids.iter().filter_map(|id| content.points.get(id).map(|stored| (*id, &stored.vectors, &stored.payload))).collect();
    if found != expected {
        return Err(format!("retrieve: {found:?}, not {expected:?}"));
    }
    let (from, limit) = (draw.id(0, MIX), draw.below(50) as usize + 1);
    let (records, next) = collection.scroll(Some(from), limit, false, false).map_err(|error| error.to_string())?;
    let mut expected = content.points.range(from..).map(|(id, _)| *id);
    let page: Vec<PointId> = expected.by_ref().take(limit).collect();
    if records.iter().map(|record| record.id).collect::<Vec<_>>() != page || next != expected.next() {
        return Err(format!("scroll from {from}, limit {limit}: {records:?}, next {next:?}"));
    }
    Ok(())
}

/// What a condition or a filter says, by hand.
type Passes = Box<dyn Fn(PointId, &Stored) -> bool>;

/// A condition on what the script writes: ids, vectors, and texts that some payloads have.
fn condition(draw: &mut Draw) -> (Condition, Passes) {
    let digit = draw.below(10);
    let text = |stored: &Stored, key: &str| stored.payload.get(key).and_then(Value::as_str).map(str::to_owned);
    match draw.below(6) {
        0 => {
            let ids: BTreeSet<PointId> = (0..100).map(|_| draw.id(0, MIX)).collect();
            (Condition::has_id(ids.iter().copied()), Box::new(move |id, _| ids.contains(&id)))
        }
        1 => {
            let (name, ..) = VECTORS[draw.below(4) as usize];
            (Condition::has_vector(name), Box::new(move |_, stored| stored.vectors.contains_key(name)))
        }
        2 => (Condition::is_empty("filler"), Box::new(move |_, stored| text(stored, "filler").is_none())),
        3 => {
            let start = format!("0 {digit}");
            let condition = Condition::field("note").starts_with(start.as_str());
            (condition, Box::new(move |_, stored| text(stored, "note").is_some_and(|note| note.starts_with(&start))))
        }
        4 => {
            let end = format!(".{}", digit % 5);
            let condition = Condition::field("stamp").contains(end.as_str());
            (condition, Box::new(move |_, stored| text(stored, "stamp").is_some_and(|stamp| stamp.contains(&end))))
        }
        _ => {
            let start = format!("0.{digit}");
            let condition = Condition::field("stamp").starts_with(start.as_str());
            (condition, Box::new(move |_, stored| text(stored, "stamp").is_some_and(|stamp| stamp.starts_with(&start))))
        }
    }
}

/// Counts, searches and reads by pages the points that pass a filter of two conditions; how many pass.
fn look_filtered(collection: &Collection, content: &Content, draw: &mut Draw, recall: &mut Recall) -> Result<usize, String> {
    let ((a, is_a), (b, is_b)) = (condition(draw), condition(draw));
    let (filter, passes): (Filter, Passes) = match draw.below(4) {
        0 => (Filter::must([a, b]), Box::new(move |id, stored| is_a(id, stored) && is_b(id, stored))),
        1 => (Filter::should([a, b]), Box::new(move |id, stored| is_a(id, stored) || is_b(id, stored))),
        2 => (Filter::must_not([a, b]), Box::new(move |id, stored| !is_a(id, stored) && !is_b(id, stored))),
        _ => (Filter::must([a]).and_must_not([b]), Box::new(move |id, stored| is_a(id, stored) && !is_b(id, stored))),
    };
    let in_words = |difference: String| format!("{difference}, where {}", serde_json::to_string(&filter).expect("a filter is JSON"));
    let passing = content.points.iter().filter(|(id, stored)| passes(**id, stored)).map(|(id, _)| *id).collect::<Vec<_>>();
    let count = collection.count_passing(&filter).map_err(|error| error.to_string())?;
    if count != passing.len() {
        return Err(in_words(format!("{count} points pass, not {}", passing.len())));
    }
    let (from, limit) = (draw.id(0, MIX), draw.below(50) as usize + 1);
    let (records, next) = collection.scroll_passing(Some(&filter), Some(from), limit, false, false).map_err(|error| error.to_string())?;
    let mut expected = passing.iter().copied().filter(|id| *id >= from);
    let page: Vec<PointId> = expected.by_ref().take(limit).collect();
    if records.iter().map(|record| record.id).collect::<Vec<_>>() != page || next != expected.next() {
        return Err(in_words(format!("scroll from {from}, limit {limit}: {records:?}, next {next:?}, not {page:?}")));
    }
    let request = SearchRequest { filter: Some(filter.clone()), ..request(draw) };
    nearest::search(collection, content, &request, &passes, recall).map_err(in_words)?;
    Ok(passing.len())
}

#[test]
fn random_operations_and_restarts_leave_what_plain_maps_hold() {
    let (start, seed, operations) = (Instant::now(), seed(11), amount(20_000, 200_000) as u64);
    let folder = scratch();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let options = |random: &mut ChaCha8Rng| StoreOptions::default().checkpoint_bytes([2000, 200_000, 16 << 20][random.random_range(0..3)]);
    let mut store = script::open(folder.path(), &options(&mut random)).unwrap();
    let (mut model, mut recall, mut restarts, mut indexed) = (Model::default(), Recall::default(), 0, 0);
    let (mut filtered, mut passing) = (0, 0);
    let setup = Operation::CreateCollection { name: MAIN.to_owned() };
    setup.perform(&store).unwrap();
    model.apply(&setup);
    for number in 0..operations {
        if random.random_bool(RESTART) {
            drop(store);
            store = script::open(folder.path(), &options(&mut random)).unwrap();
            restarts += 1;
        }
        let operation = Operation::draw(seed, 0, number, MIX);
        let context = format!("seed {seed}, operation {number}, {operation}");
        let did_something = operation.perform(&store).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!(did_something, model.apply(&operation), "{context}: was there anything to do?");
        let mut draw = Draw::new(seed, 1, number);
        for name in store.collections() {
            let content = model.0.get(&name).unwrap_or_else(|| panic!("{context}: {name} is there"));
            assert_eq!(store.collection(&name).unwrap().count(), content.points.len(), "{context}: count of {name}");
        }
        assert_eq!(store.collections().len(), model.0.len(), "{context}: collections");
        let (main, content) = (store.collection(MAIN).unwrap(), &model.0[MAIN]);
        let outcome = match draw.below(3) {
            0 => nearest::search(&main, content, &request(&mut draw), &|_, _| true, &mut recall),
            1 => look_up(&main, content, &mut draw),
            _ => look_filtered(&main, content, &mut draw, &mut recall).map(|count| {
                filtered += 1;
                passing += count;
            }),
        };
        outcome.unwrap_or_else(|difference| panic!("{context}: {difference}"));
        if number % 500 == 0 {
            indexed += main.info().vectors.values().map(|vector| vector.indexed).sum::<usize>();
            let differences = Model::read(&store).unwrap().differences(&model);
            assert!(differences.is_empty(), "{context}: {differences:?}");
        }
    }
    drop(store);
    let differences = read_back(folder.path()).unwrap().differences(&model);
    assert!(differences.is_empty(), "seed {seed}, at the end: {differences:?}");
    let recall = recall.found as f64 / recall.wanted as f64;
    println!(
        "{operations} random operations from seed {seed}, {restarts} restarts: 0 differences, {filtered} looks by filters among them, which \
         {:.0} points passed in the mean; {} points at the end, recall {recall:.4} where a graph answered; {:.1} s",
        passing as f64 / filtered as f64,
        model.0[MAIN].points.len(),
        start.elapsed().as_secs_f64()
    );
    assert!(indexed > 0, "no graph was ever built");
    assert!(recall >= 0.99 && restarts >= 5, "recall {recall}, {restarts} restarts");
}
