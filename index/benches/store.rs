//! What a store costs around its searches: a durable write against the disk's own sync, two searching threads against
//! one, searches while points come in, opening.
//!
//! `cargo bench -p moco-index --bench store [-- --points 20000]`. The peer of the writes is the disk itself, in the same
//! folder and the same run: one 4 KiB `pwrite` and `fdatasync`. Each figure is the median of rounds that alternate.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use moco_index::{Collection, CollectionConfig, Distance, Payload, Point, PointId, SearchRequest, Store};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SIZE: usize = 512;
const CLUSTERS: u64 = 64;

/// A vector of one of some clusters.
fn vector(number: u64) -> Vec<f32> {
    let mut centre = ChaCha8Rng::seed_from_u64(number % CLUSTERS);
    let mut noise = ChaCha8Rng::seed_from_u64(1_000_000 + number);
    (0..SIZE).map(|_| centre.random_range(-1.0f32..1.0) + noise.random_range(-0.6f32..0.6)).collect()
}

fn point(number: u64) -> Point {
    let payload = Payload::from_iter([("name".to_owned(), format!("picture {number}").into())]);
    Point { id: PointId::Num(number), vectors: BTreeMap::from([(String::new(), vector(number))]), payload }
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

fn quantile(values: &mut [Duration], q: f64) -> Duration {
    values.sort_unstable();
    values[((values.len() - 1) as f64 * q) as usize]
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed()
}

fn writes(folder: &Path) {
    let store = Store::open(folder.join("writes")).unwrap();
    let collection = store.create_collection("c", CollectionConfig::unnamed(SIZE, Distance::Cosine)).unwrap();
    let file: File = OpenOptions::new().create(true).truncate(true).write(true).open(folder.join("raw")).unwrap();
    file.write_all_at(&vec![0; 4096 * 4096], 0).unwrap();
    file.sync_all().unwrap();
    let (mut raw, mut single, mut batch) = (Vec::new(), Vec::new(), Vec::new());
    let mut number = 0;
    for round in 0..400u64 {
        let block = [round as u8; 4096];
        raw.push(timed(|| {
            file.write_all_at(&block, 4096 * (round * 7919 % 4096)).unwrap();
            file.sync_data().unwrap();
        }));
        let one = vec![point(number)];
        single.push(timed(|| collection.upsert(one).unwrap()));
        number += 1;
    }
    for _ in 0..10 {
        let many: Vec<Point> = (number..number + 1000).map(point).collect();
        batch.push(timed(|| collection.upsert(many).unwrap()));
        number += 1000;
    }
    let (raw, single, batch) = (median(raw), median(single), median(batch));
    println!("4 KiB pwrite + fdatasync          {raw:>10.1?}");
    println!("durable upsert of one point       {single:>10.1?}   {:.2} x", single.as_secs_f64() / raw.as_secs_f64());
    println!("durable upsert of 1,000 points    {batch:>10.1?}   {:.0} points/s", 1000.0 / batch.as_secs_f64());
}

fn query(collection: &Collection, number: u64) -> Duration {
    let request = SearchRequest::new(vector(10_000_000 + number), 10);
    timed(|| collection.search(&request).unwrap())
}

/// Searches a second by `threads` threads, over about a second.
fn rate(collection: &Arc<Collection>, threads: u64, queries: &Arc<Vec<SearchRequest>>) -> f64 {
    let start = Instant::now();
    let counts: Vec<usize> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut count = 0;
                    while start.elapsed() < Duration::from_secs(1) {
                        std::hint::black_box(collection.search(&queries[(thread as usize * 500 + count) % queries.len()]).unwrap());
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    counts.iter().sum::<usize>() as f64 / start.elapsed().as_secs_f64()
}

fn searches(folder: &Path, points: u64) {
    let store = Store::open(folder.join("searches")).unwrap();
    let collection = store.create_collection("c", CollectionConfig::unnamed(SIZE, Distance::Cosine)).unwrap();
    for first in (0..points).step_by(1000) {
        collection.upsert((first..(first + 1000).min(points)).map(point).collect()).unwrap();
    }
    let building = timed(|| collection.wait_until_built());
    println!("{points} points in; the builder was {building:.1?} behind; {} segments", collection.info().vectors[""].segments.len());
    collection.compact().unwrap();
    let queries: Arc<Vec<SearchRequest>> = Arc::new((0..1000).map(|number| SearchRequest::new(vector(10_000_000 + number), 10)).collect());
    let rounds: Vec<(f64, f64)> = (0..5).map(|_| (rate(&collection, 1, &queries), rate(&collection, 2, &queries))).collect();
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (one, two) = (middle(rounds.iter().map(|round| round.0).collect()), middle(rounds.iter().map(|round| round.1).collect()));
    println!("searches a second, 1 thread       {one:>10.0}\nsearches a second, 2 threads      {two:>10.0}   {:.2} x", two / one);

    // Long enough for the tail to become segments, and for those to be merged, under the searches.
    let for_a_while = || {
        let (start, mut times) = (Instant::now(), Vec::new());
        while start.elapsed() < Duration::from_secs(10) {
            times.push(query(&collection, times.len() as u64 % 3000));
        }
        times
    };
    let mut idle = for_a_while();
    let stop = AtomicBool::new(false);
    let (mut busy, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = points;
            while !stop.load(Ordering::Relaxed) {
                collection.upsert((number..number + 20).map(point).collect()).unwrap();
                number += 20;
                // 400 points a second: more than a small encoder embeds on two cores.
                std::thread::sleep(Duration::from_millis(50));
            }
            number - points
        });
        let busy = for_a_while();
        stop.store(true, Ordering::Relaxed);
        (busy, writer.join().unwrap())
    });
    collection.wait_until_built();
    let left = collection.info().vectors[""].clone();
    // As many segments and as long a tail as the searches under ingest had, and nothing else to do.
    let mut idle_after = for_a_while();
    for (what, times) in [("idle, compacted", &mut idle), ("under ingest", &mut busy), ("idle after it", &mut idle_after)] {
        println!("search {what:<16} p50 {:>8.1?}   p99 {:>8.1?}", quantile(times, 0.5), quantile(times, 0.99));
    }
    println!(
        "ingest: {written} points came in, and left {} segments and {} vectors in the tail",
        left.segments.len(),
        left.count - left.indexed
    );
    let busy = quantile(&mut busy, 0.99).as_secs_f64();
    for (what, times) in [("compacted", &mut idle), ("in the state it leaves", &mut idle_after)] {
        println!("p99 under ingest / idle, {what:<23} {:.2} x", busy / quantile(times, 0.99).as_secs_f64());
    }
    drop((collection, store));
    let openings = (0..7).map(|_| {
        timed(|| {
            let store = Store::open(folder.join("searches")).unwrap();
            store.collection("c").unwrap().search(&queries[0]).unwrap()
        })
    });
    println!("open to first answer, cache warm  {:>10.1?}", median(openings.collect()));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let points = match &arguments[..] {
        [] => 20_000,
        [flag, points] if flag == "--points" => points.parse().expect("--points takes a number"),
        other => panic!("what is {other:?}? there is --points N"),
    };
    let folder = tempfile::tempdir().unwrap();
    println!("load average {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    writes(folder.path());
    searches(folder.path(), points);
}
