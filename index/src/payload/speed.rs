//! What payload indexes of a million points cost. Not a test of anything; it prints a table. Memory is the growth of the
//! process, and understates where what an earlier index freed is used again.
//!
//! ```text
//! cargo test -p moco-index --lib payload::speed -- --ignored --nocapture
//! ```

use std::collections::BTreeSet;
use std::time::Instant;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use roaring::RoaringBitmap;
use serde_json::{Value, json};

use super::{Direction, FieldIndex, KeyPath, PayloadIndexes, Points, SchemaKind, Tokenizer};
use crate::filter::Filter;
use crate::id::PointId;
use crate::point::Payload;

const POINTS: u32 = 1_000_000;

struct All(RoaringBitmap);

impl Points for All {
    fn all(&self) -> &RoaringBitmap {
        &self.0
    }

    fn with_vector(&self, _name: &str) -> Option<&RoaringBitmap> {
        None
    }

    fn with_ids(&self, _ids: &BTreeSet<PointId>) -> Option<RoaringBitmap> {
        None
    }
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|line| line.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

fn measure(name: &str, kind: SchemaKind, value: impl Fn(&mut ChaCha8Rng, u32) -> Value, conditions: &[Value]) {
    let mut random = ChaCha8Rng::seed_from_u64(31);
    let all = All((0..POINTS).collect());
    let payloads: Vec<Payload> = (0..POINTS).map(|point| Payload::from_iter([("k".to_owned(), value(&mut random, point))])).collect();
    let (before, start) = (resident_bytes(), Instant::now());
    let mut index = FieldIndex::new(KeyPath::parse("k").unwrap(), kind.into());
    payloads.iter().zip(0..).for_each(|(payload, point)| index.insert(point, payload));
    let (built, bytes) = (start.elapsed(), resident_bytes().saturating_sub(before));
    println!(
        "{name}: {} points a second; the process grew by {} bytes a point",
        (f64::from(POINTS) / built.as_secs_f64()) as u64,
        bytes / POINTS as usize
    );
    let mut indexes = PayloadIndexes::default();
    indexes.add(index);
    for condition in conditions {
        let filter = Filter::parse(&json!({"must": condition})).unwrap();
        let (median, passing) = median_ms(|| indexes.resolve(&filter, &all).candidates.map_or(u64::from(POINTS), |points| points.len()));
        println!("    {median:>8.3} ms for {passing} points: {condition}");
    }
    let key = KeyPath::parse("k").unwrap();
    if let (median, Ok(facet)) = median_ms(|| indexes.facet(&key, 10, None)) {
        println!("    {median:>8.3} ms for a facet of {} values", facet.len());
    }
    // A sum, since counting would not have to walk.
    let walk = || indexes.ordered(&key, Direction::Descending, None).map(|ordered| ordered.map(|(point, _)| u64::from(point)).sum::<u64>());
    if let (median, Ok(_)) = median_ms(walk) {
        println!("    {median:>8.3} ms for all points in order");
    }
}

/// The median of nine runs, and the result of the last.
fn median_ms<T>(mut run: impl FnMut() -> T) -> (f64, T) {
    let mut timed = || {
        let start = Instant::now();
        let result = run();
        (start.elapsed().as_secs_f64() * 1e3, result)
    };
    let mut times: Vec<f64> = (0..8).map(|_| timed().0).collect();
    let (last, result) = timed();
    times.push(last);
    times.sort_unstable_by(f64::total_cmp);
    (times[4], result)
}

#[test]
#[ignore = "a measurement"]
fn a_million_points() {
    let range = |from: f64| json!({"key": "k", "range": {"gte": from}});
    let integer = SchemaKind::Integer { lookup: true, range: true };
    measure(
        "integer, up to a million",
        integer,
        |random, _| random.random_range(0..1_000_000).into(),
        &[range(500_000.0), range(999_000.0), json!({"key": "k", "match": {"value": 77}})],
    );
    measure("float", SchemaKind::Float, |random, _| random.random::<f64>().into(), &[range(0.01), range(0.5), range(0.999)]);
    let day = |random: &mut ChaCha8Rng| {
        format!("20{:02}-{:02}-{:02}", random.random_range(0..30), random.random_range(1..13), random.random_range(1..29))
    };
    measure("datetime", SchemaKind::Datetime, |random, _| day(random).into(), &[json!({"key": "k", "range": {"gte": "2015-01-01"}})]);
    let word = |word: &str| json!({"key": "k", "match": {"value": word}});
    let except = json!({"key": "k", "match": {"except": ["word77"]}});
    measure(
        "keyword, a thousand",
        SchemaKind::Keyword,
        |random, _| format!("word{}", random.random_range(0..1000)).into(),
        &[word("word77"), except],
    );
    measure(
        "keyword, each its own",
        SchemaKind::Keyword,
        |_, point| format!("word{point}").into(),
        &[word("word77"), json!({"key": "k", "match": {"text": "ord77"}})],
    );
    let circle = |radius: f64| json!({"key": "k", "geo_radius": {"center": {"lat": 40, "lon": 10}, "radius": radius}});
    let half = json!({"key": "k", "geo_bounding_box": {"top_left": {"lat": 90, "lon": -180}, "bottom_right": {"lat": 0, "lon": 180}}});
    let place = |random: &mut ChaCha8Rng| json!({"lat": random.random_range(-90.0..90.0), "lon": random.random_range(-180.0..180.0)});
    measure("geo", SchemaKind::Geo, |random, _| place(random), &[circle(1e5), circle(1e6), half]);
    let sentence = |random: &mut ChaCha8Rng| {
        let words = (0..10).map(|_| format!("w{}", (random.random::<f64>().powi(3) * 50_000.0) as u32));
        words.collect::<Vec<_>>().join(" ")
    };
    let text = |text: &str| json!({"key": "k", "match": {"text": text}});
    measure(
        "text, ten words of 50,000",
        SchemaKind::Text(Tokenizer::default()),
        |random, _| sentence(random).into(),
        &[text("w3 w17"), text("w0")],
    );
}
