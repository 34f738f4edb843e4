//! What payload indexes cost: making one over a million points, its memory, and what is answered by it.
//!
//! `cargo bench -p moco-index --bench payload [-- --points 100000]`. The baseline is the same filter without an index, which reads
//! every payload. Memory is the growth of the process, and understates
//! where what an earlier index freed is used again. Filters are resolved afresh in each round: none is asked for twice.

use std::time::Instant;

use moco_index::{Ack, Collection, CollectionConfig, Direction, Filter, KeyPath, Operation, OrderBy, PayloadSchema, Point, PointId, Store};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};

/// Points of an upsert.
const BATCH: u64 = 10_000;
const ROUNDS: u32 = 9;

fn payload(random: &mut ChaCha8Rng, number: u64) -> Value {
    let words: Vec<String> = (0..10).map(|_| format!("w{}", (random.random::<f64>().powi(3) * 50_000.0) as u32)).collect();
    json!({
        "integer": random.random_range(0..1_000_000),
        "float": random.random::<f64>(),
        "date": format!("20{:02}-{:02}-{:02}", random.random_range(0..30), random.random_range(1..13), random.random_range(1..29)),
        "kind": format!("word{}", random.random_range(0..1000)),
        "name": format!("word{number}"),
        "place": {"lat": random.random_range(-90.0..90.0), "lon": random.random_range(-180.0..180.0)},
        "text": words.join(" "),
    })
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// The median of some rounds, and the result of the last.
fn median_ms<T>(mut run: impl FnMut(u32) -> T) -> (f64, T) {
    let mut timed = |round| {
        let start = Instant::now();
        let result = run(round);
        (start.elapsed().as_secs_f64() * 1e3, result)
    };
    let mut times: Vec<f64> = (1..ROUNDS).map(|round| timed(round).0).collect();
    let (last, result) = timed(ROUNDS);
    times.push(last);
    times.sort_unstable_by(f64::total_cmp);
    (times[times.len() / 2], result)
}

/// One key: its index is made, asked, and dropped. Conditions are of a round's number.
fn measure(collection: &Collection, key: &str, schema: &Value, conditions: &[&dyn Fn(u32) -> Value]) {
    let path = KeyPath::parse(key).unwrap();
    let count = |condition: &Value| collection.count_passing(&Filter::parse(&json!({"must": condition})).unwrap()).unwrap();
    // The first filter of all reads more than payloads; this is the second.
    count(&conditions[0](ROUNDS + 1));
    let start = Instant::now();
    count(&conditions[0](ROUNDS + 2));
    println!("{key}: {:.0} ms without an index", start.elapsed().as_secs_f64() * 1e3);
    let (before, start) = (resident_bytes(), Instant::now());
    let schema = PayloadSchema::parse(schema).unwrap();
    collection.apply(Operation::CreateIndex { key: path.clone(), schema }, Ack::Durable).unwrap();
    // The first filter reads the points.
    count(&conditions[0](0));
    let (seconds, points) = (start.elapsed().as_secs_f64(), collection.count() as f64);
    let bytes = resident_bytes().saturating_sub(before);
    println!("    made in {seconds:.2} s; the process grew by {:.0} bytes a point", bytes as f64 / points);
    for condition in conditions {
        let (median, passing) = median_ms(|round| count(&condition(round)));
        println!("    {median:>8.3} ms for {passing} points: {}", condition(ROUNDS));
    }
    if let (median, Ok(facet)) = median_ms(|_| collection.facet(&path, None, 10)) {
        println!("    {median:>8.3} ms for a facet of {} values", facet.len());
    }
    let order = OrderBy { key: path.clone(), direction: Direction::Descending, start_from: None };
    if let (median, Ok(page)) = median_ms(|_| collection.scroll_ordered(&order, None, 100, false, false)) {
        println!("    {median:>8.3} ms for the first {} points in order", page.len());
    }
    collection.apply(Operation::DropIndex { key: path }, Ack::Durable).unwrap();
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let points: u64 = match &arguments[..] {
        [] => 1_000_000,
        [flag, points] if flag == "--points" => points.parse().expect("--points takes a number"),
        other => panic!("what is {other:?}? there is --points N"),
    };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let collection = store.create_collection("c", CollectionConfig::default()).unwrap();
    let (start, mut random) = (Instant::now(), ChaCha8Rng::seed_from_u64(31));
    for first in (0..points).step_by(BATCH as usize) {
        let point = |number| Point {
            id: PointId::Num(number),
            payload: payload(&mut random, number).as_object().unwrap().clone(),
            vectors: std::collections::BTreeMap::new(),
        };
        collection.upsert((first..(first + BATCH).min(points)).map(point).collect()).unwrap();
    }
    println!("{points} points without vectors written in {:.1} s", start.elapsed().as_secs_f64());

    let of = |key: &'static str, clause: &'static str, value: Value| json!({"key": key, clause: value});
    let share = |round: u32| f64::from(round) * 1e-5;
    measure(
        &collection,
        "integer",
        &json!("integer"),
        &[
            &|round| of("integer", "range", json!({"gte": 500_000 + round})),
            &|round| of("integer", "range", json!({"gte": 999_000 + round})),
            &|round| of("integer", "match", json!({"value": 77 + round})),
        ],
    );
    measure(
        &collection,
        "float",
        &json!("float"),
        &[
            &|round| of("float", "range", json!({"gte": 0.01 + share(round)})),
            &|round| of("float", "range", json!({"gte": 0.5 + share(round)})),
            &|round| of("float", "range", json!({"gte": 0.999 + share(round)})),
        ],
    );
    measure(&collection, "date", &json!("datetime"), &[&|round| of("date", "range", json!({"gte": format!("2015-01-{:02}", round + 1)}))]);
    measure(
        &collection,
        "kind",
        &json!("keyword"),
        &[&|round| of("kind", "match", json!({"value": format!("word{}", 77 + round)})), &|round| {
            of("kind", "match", json!({"except": [format!("word{}", 77 + round)]}))
        }],
    );
    measure(
        &collection,
        "name",
        &json!("keyword"),
        &[&|round| of("name", "match", json!({"value": format!("word{}", 77 + round)})), &|round| {
            of("name", "match", json!({"text": format!("ord{}", 77 + round)}))
        }],
    );
    let circle = |round: u32, radius: f64| {
        of("place", "geo_radius", json!({"center": {"lat": 40.0 + f64::from(round), "lon": 10}, "radius": radius}))
    };
    measure(
        &collection,
        "place",
        &json!("geo"),
        &[&|round| circle(round, 1e5), &|round| circle(round, 1e6), &|round| {
            let (top_left, bottom_right) = (json!({"lat": 90, "lon": -180}), json!({"lat": share(round), "lon": 180}));
            of("place", "geo_bounding_box", json!({"top_left": top_left, "bottom_right": bottom_right}))
        }],
    );
    measure(
        &collection,
        "text",
        &json!("text"),
        &[&|round| of("text", "match", json!({"text": format!("w{} w17", round + 2)})), &|round| {
            of("text", "match", json!({"text": format!("w{round}")}))
        }],
    );
}
