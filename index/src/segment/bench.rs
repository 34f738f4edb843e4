//! Recall against speed (by processor time) of one segment, by hand: not a test, and run only when asked.
//!
//! ```text
//! MOCO_BENCH_BASE=base.npy MOCO_BENCH_QUERIES=q.npy cargo test --release -p moco-index --lib -- --ignored --nocapture bench
//! ```
//! Without files, 100,000 × 128 in 256 Gaussian clusters (σ 0.7, length one), as in the peers' benchmark. Further
//! variables: `MOCO_BENCH_CODES` (`f32,f16,int8,int4`), `MOCO_BENCH_BUILDER` (`own,hnsw_rs`: one beside the other),
//! `MOCO_BENCH_THREADS` (`1,2`), `MOCO_BENCH_M`, `MOCO_BENCH_EF_CONSTRUCTION`, `MOCO_BENCH_SEED`, `MOCO_BENCH_PASS` (share of rows
//! that pass a random filter).
//!
//! Beside queries a second it prints how many codes a query compares at the same recall, which no other load disturbs.

use std::env;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Bits, Row, Segment, SegmentInput, SegmentParams, Verify, write};
use crate::build::Builder;
use crate::codes::Codes;
use crate::distance::Distance;
use crate::id::PointId;
use crate::kernel::Kernel;

/// Seconds this thread (or all of the process) has computed: on a busy machine the clock on the wall says little.
fn cpu_seconds(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is written to.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// A C-ordered `.npy` of little-endian f32: values, and columns.
fn npy(path: &str) -> (Vec<f32>, usize) {
    let bytes = std::fs::read(path).unwrap();
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
    assert!(header.contains("'<f4'") && header.contains("'fortran_order': False"), "{header}");
    let shape = &header[header.find('(').unwrap() + 1..header.find(')').unwrap()];
    let columns = shape.split(',').nth(1).unwrap().trim().parse().unwrap();
    (bytes[10 + length..].as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect(), columns)
}

/// 256 clusters, as in the benchmark against the peers.
fn gaussian(rows: usize, size: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let normal = |random: &mut ChaCha8Rng| {
        let (u, v): (f64, f64) = (random.random_range(1e-12..1.0), random.random());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    };
    let centres: Vec<f32> = (0..256 * size).map(|_| normal(&mut random)).collect();
    let mut vectors = Vec::with_capacity(rows * size);
    for _ in 0..rows {
        let centre = random.random_range(0..256) * size;
        let vector: Vec<f32> = (0..size).map(|i| centres[centre + i] + 0.7 * normal(&mut random)).collect();
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vectors.extend(vector.iter().map(|x| x / length));
    }
    vectors
}

/// How many codes a walk compares: the smallest budget that it keeps to.
fn compared(segment: &Segment, query: &[f32], ef: usize, accept: Option<&Bits>) -> usize {
    let (mut least, mut enough) = (0, 4 * segment.stats().nodes + 1000);
    while least < enough {
        let budget = least.midpoint(enough);
        if segment.walk(query, ef, 10, accept, budget).is_some() { enough = budget } else { least = budget + 1 }
    }
    enough
}

#[test]
#[ignore = "a benchmark"]
fn bench() {
    let (base, queries, size) = match env::var("MOCO_BENCH_BASE") {
        Ok(path) => {
            let (base, size) = npy(&path);
            (base, npy(&env::var("MOCO_BENCH_QUERIES").unwrap()).0, size)
        }
        Err(_) => {
            let mut base = gaussian(101_000, 128);
            let queries = base.split_off(100_000 * 128);
            (base, queries, 128)
        }
    };
    let rows = (base.len() / size).min(setting("MOCO_BENCH_ROWS", usize::MAX));
    let names = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let input = SegmentInput {
        distance: Distance::Cosine,
        size,
        slots: (0..rows as u64).collect(),
        points: (0..rows as u32).collect(),
        ids: (0..rows as u64).map(PointId::Num).collect(),
        vectors: base[..rows * size].to_vec(),
    };
    let params = SegmentParams {
        m: setting("MOCO_BENCH_M", 16),
        ef_construction: setting("MOCO_BENCH_EF_CONSTRUCTION", 200),
        seed: setting("MOCO_BENCH_SEED", SegmentParams::default().seed),
        ..SegmentParams::default()
    };
    println!("{rows} × {size}, kernel {}, {params:?}", Kernel::get().name());
    let folder = tempfile::tempdir().unwrap();
    let queries: Vec<&[f32]> = queries.chunks(size).collect();
    let pass: f64 = setting("MOCO_BENCH_PASS", 1.0);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let accept: Option<Bits> = (pass < 1.0).then(|| (0..rows as Row).filter(|_| random.random_bool(pass)).collect());
    let mut truth: Vec<Vec<Row>> = Vec::new();
    let builders = names("MOCO_BENCH_BUILDER", "own");
    let threads = names("MOCO_BENCH_THREADS", "1,2");
    let codes = names("MOCO_BENCH_CODES", "int8");
    let builds = builders.split(',').flat_map(|builder| threads.split(',').map(move |threads| (builder, threads)));
    for ((builder, threads), codes) in builds.flat_map(|build| codes.split(',').map(move |codes| (build, codes))) {
        let builder = match builder {
            "own" => Builder::Own,
            "hnsw_rs" => Builder::HnswRs,
            other => panic!("MOCO_BENCH_BUILDER={other}"),
        };
        let threads = threads.parse().unwrap_or_else(|_| panic!("MOCO_BENCH_THREADS={threads}"));
        let params = SegmentParams { builder, threads, ..params };
        let codes = match codes {
            "f32" => Codes::F32,
            "f16" => Codes::F16,
            "int8" => Codes::Int8,
            "int4" => Codes::Int4,
            other => panic!("MOCO_BENCH_CODES={other}"),
        };
        let path = folder.path().join("segment");
        let (start, computed) = (Instant::now(), cpu_seconds(libc::CLOCK_PROCESS_CPUTIME_ID));
        let summary = write(&path, &input, &SegmentParams { codes, ..params }, &AtomicBool::new(false)).unwrap().unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let computed = cpu_seconds(libc::CLOCK_PROCESS_CPUTIME_ID) - computed;
        let start = Instant::now();
        let segment = Segment::open(&path, &summary.stamp, Verify::LinksOnly).unwrap();
        let first = segment.walk(queries[0], 64, 10, None, usize::MAX).unwrap();
        let open = start.elapsed().as_secs_f64() * 1e3;
        let stats = segment.stats();
        println!(
            "{builder:?}, {threads} threads, {codes:?}: written at {:.0} rows/s, {:.0} a second and core; open to first answer ({}) {open:.2} ms; degree {:.1}, {} orphans; walked {:.0} B, in links {:.0} B, on disk {:.0} B a row",
            rows as f64 / seconds,
            rows as f64 / computed,
            first[0].row,
            stats.mean_degree,
            stats.orphans,
            stats.walked_bytes as f64 / rows as f64,
            stats.sections.iter().filter(|(name, _)| matches!(*name, "links" | "starts")).map(|(_, bytes)| bytes).sum::<usize>() as f64
                / rows as f64,
            stats.file_bytes as f64 / rows as f64,
        );
        if truth.is_empty() {
            let start = cpu_seconds(libc::CLOCK_THREAD_CPUTIME_ID);
            truth = queries
                .iter()
                .map(|query| segment.scan(query, 10, accept.as_ref()).into_iter().map(|scored| scored.row).collect())
                .collect();
            println!("scan: {:.1} QPS", queries.len() as f64 / (cpu_seconds(libc::CLOCK_THREAD_CPUTIME_ID) - start));
        }
        let mut points: Vec<(f64, f64, f64)> = Vec::new();
        if setting("MOCO_BENCH_LOAD", 1) == 1 {
            segment.load().unwrap();
        }
        for ef in [10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320] {
            let mut best = f64::MAX;
            let mut hits = 0;
            for _ in 0..3 {
                let start = cpu_seconds(libc::CLOCK_THREAD_CPUTIME_ID);
                let answers: Vec<_> =
                    queries.iter().map(|query| segment.walk(query, ef, 10, accept.as_ref(), usize::MAX).unwrap()).collect();
                best = best.min(cpu_seconds(libc::CLOCK_THREAD_CPUTIME_ID) - start);
                hits = answers
                    .iter()
                    .zip(&truth)
                    .map(|(answer, truth)| answer.iter().filter(|scored| truth.contains(&scored.row)).count())
                    .sum();
            }
            let (recall, qps) = (hits as f64 / (10 * queries.len()) as f64, queries.len() as f64 / best);
            let compared: usize = queries.iter().map(|query| compared(&segment, query, ef, accept.as_ref())).sum();
            points.push((recall, qps, compared as f64 / queries.len() as f64));
            print!("{ef}: {recall:.4} {qps:.0} {:.0}   ", points[points.len() - 1].2);
            if recall > 0.992 {
                break;
            }
        }
        // Log-linear between the two efs about a recall.
        for target in [0.95, 0.99] {
            let at = points.windows(2).find(|pair| pair[0].0 < target && target <= pair[1].0);
            let between = |of: fn(&(f64, f64, f64)) -> f64| {
                at.map(|pair| {
                    (of(&pair[0]).ln() + (of(&pair[1]) / of(&pair[0])).ln() * (target - pair[0].0) / (pair[1].0 - pair[0].0)).exp()
                })
            };
            let (qps, compared) = (between(|point| point.1), between(|point| point.2));
            print!("| {target}: {:.0} QPS, {:.0} codes compared ", qps.unwrap_or(f64::NAN), compared.unwrap_or(f64::NAN));
        }
        println!();
    }
}
