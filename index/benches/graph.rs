//! Recall against speed of one graph, by processor time, without the store around it.
//!
//! `cargo bench -p moco-index --features measure --bench graph [-- FLAGS]`; `--help` lists them. Without files, 100,000 × 128
//! in 256 Gaussian clusters (σ 0.7, length one), as in the peers' benchmark. Lists (`--codes int8,f16`) are measured one
//! beside the other. Beside queries a second it prints how many codes a query compares at the same recall, which no other
//! load disturbs.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use moco_index::measure::{Accepted, Graph, GraphParams, Rows, kernel};
use moco_index::{Builder, Codes, Distance};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const NEAREST: usize = 10;
const ROUNDS: usize = 3;

#[derive(Parser)]
struct Flags {
    /// Vectors of length one: `.npy`, f32, C order
    #[arg(long, requires = "queries")]
    base: Option<PathBuf>,
    /// Queries, in the same form
    #[arg(long, requires = "base")]
    queries: Option<PathBuf>,
    /// The first so many vectors only
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    rows: usize,
    /// f32, f16, int8, int4
    #[arg(long, value_delimiter = ',', default_value = "int8", value_parser = named::<Codes>)]
    codes: Vec<Codes>,
    /// own, hnsw_rs
    #[arg(long, value_delimiter = ',', default_value = "own", value_parser = named::<Builder>)]
    builder: Vec<Builder>,
    /// Threads that build
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    #[arg(long, default_value_t = 16)]
    m: usize,
    #[arg(long, default_value_t = 200)]
    ef_construction: usize,
    /// Of the levels that nodes draw
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Share of the rows that pass a random filter
    #[arg(long, default_value_t = 1.0)]
    pass: f64,
    /// Walk in the mapped file, not in a copy on large pages
    #[arg(long)]
    mapped: bool,
    /// What Cargo gives a benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A value by its name in configurations.
fn named<T: serde::de::DeserializeOwned>(name: &str) -> Result<T, serde_json::Error> {
    serde_json::from_value(name.into())
}

/// Seconds this thread (or all of the process) has computed: on a busy machine the clock on the wall says little.
fn cpu_seconds(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is written to.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A C-ordered `.npy` of little-endian f32: values, and columns.
fn npy(path: &Path) -> (Vec<f32>, usize) {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
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

/// One `ef`.
struct Measured {
    recall: f64,
    qps: f64,
    /// Codes a query compares.
    compared: f64,
}

struct Searches<'a> {
    queries: Vec<&'a [f32]>,
    accepted: Option<Accepted>,
    /// The nearest of each query.
    truth: Vec<Vec<u32>>,
}

impl Searches<'_> {
    fn measure(&self, graph: &Graph, ef: usize) -> Measured {
        let (mut best, mut hits) = (f64::MAX, 0);
        let walk = |query, budget| graph.walk(query, ef, NEAREST, self.accepted.as_ref(), budget);
        for _ in 0..ROUNDS {
            let start = cpu_seconds(libc::CLOCK_THREAD_CPUTIME_ID);
            let answers: Vec<Vec<u32>> = self.queries.iter().map(|query| walk(query, usize::MAX).unwrap()).collect();
            best = best.min(cpu_seconds(libc::CLOCK_THREAD_CPUTIME_ID) - start);
            let found = |(answer, truth): (&Vec<u32>, &Vec<u32>)| answer.iter().filter(|row| truth.contains(row)).count();
            hits = answers.iter().zip(&self.truth).map(found).sum();
        }
        // The smallest budget that a walk keeps to.
        let compared = |query| {
            let (mut least, mut enough) = (0, 4 * graph.stats().nodes + 1000);
            while least < enough {
                let budget = least.midpoint(enough);
                if walk(query, budget).is_some() { enough = budget } else { least = budget + 1 }
            }
            enough
        };
        let queries = self.queries.len() as f64;
        Measured {
            recall: hits as f64 / (NEAREST as f64 * queries),
            qps: queries / best,
            compared: self.queries.iter().map(|query| compared(query)).sum::<usize>() as f64 / queries,
        }
    }
}

/// Log-linear between the two measurements about a recall.
fn at(recall: f64, points: &[Measured], of: fn(&Measured) -> f64) -> f64 {
    let about = points.windows(2).find(|pair| pair[0].recall < recall && recall <= pair[1].recall);
    about.map_or(f64::NAN, |pair| {
        let share = (recall - pair[0].recall) / (pair[1].recall - pair[0].recall);
        of(&pair[0]).powf(1.0 - share) * of(&pair[1]).powf(share)
    })
}

fn main() {
    let flags = Flags::parse();
    let (base, queries, size) = match (&flags.base, &flags.queries) {
        (Some(base), Some(queries)) => {
            let (base, size) = npy(base);
            (base, npy(queries).0, size)
        }
        _ => {
            let mut base = gaussian(101_000, 128);
            let queries = base.split_off(100_000 * 128);
            (base, queries, 128)
        }
    };
    let rows = (base.len() / size).min(flags.rows);
    let base = Rows::new(Distance::Cosine, size, &base[..rows * size]);
    println!("{rows} × {size}, kernel {}, m {}, ef_construction {}", kernel(), flags.m, flags.ef_construction);
    let folder = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let passing: Option<Vec<u32>> = (flags.pass < 1.0).then(|| (0..rows as u32).filter(|_| random.random_bool(flags.pass)).collect());
    let mut searches = Searches { queries: queries.chunks(size).collect(), accepted: None, truth: Vec::new() };
    for builder in flags.builder {
        for &threads in &flags.threads {
            for &codes in &flags.codes {
                let params = GraphParams { builder, codes, threads, m: flags.m, ef_construction: flags.ef_construction, seed: flags.seed };
                let graph = build(&folder.path().join("segment"), &base, rows as f64, &params, searches.queries[0]);
                // Of each graph its own: what a walk keeps with them is for one.
                searches.accepted = passing.as_ref().map(|rows| rows.iter().copied().collect());
                if searches.truth.is_empty() {
                    let start = cpu_seconds(libc::CLOCK_THREAD_CPUTIME_ID);
                    searches.truth = searches.queries.iter().map(|query| graph.scan(query, NEAREST, searches.accepted.as_ref())).collect();
                    println!("scan: {:.1} QPS", searches.queries.len() as f64 / (cpu_seconds(libc::CLOCK_THREAD_CPUTIME_ID) - start));
                }
                if !flags.mapped {
                    graph.load().unwrap();
                }
                let mut points: Vec<Measured> = Vec::new();
                for ef in [10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320] {
                    let point = searches.measure(&graph, ef);
                    print!("{ef}: {:.4} {:.0} {:.0}   ", point.recall, point.qps, point.compared);
                    points.push(point);
                    if points[points.len() - 1].recall > 0.992 {
                        break;
                    }
                }
                for recall in [0.95, 0.99] {
                    let (qps, compared) = (at(recall, &points, |point| point.qps), at(recall, &points, |point| point.compared));
                    print!("| {recall}: {qps:.0} QPS, {compared:.0} codes compared ");
                }
                println!();
            }
        }
    }
}

fn build(path: &Path, base: &Rows, rows: f64, params: &GraphParams, query: &[f32]) -> Graph {
    let (start, computed) = (Instant::now(), cpu_seconds(libc::CLOCK_PROCESS_CPUTIME_ID));
    let written = Graph::write(path, base, params).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let computed = cpu_seconds(libc::CLOCK_PROCESS_CPUTIME_ID) - computed;
    let start = Instant::now();
    let graph = Graph::open(path, &written).unwrap();
    let first = graph.walk(query, 64, NEAREST, None, usize::MAX).unwrap();
    let open = start.elapsed().as_secs_f64() * 1e3;
    let stats = graph.stats();
    let in_links = stats.sections.iter().filter(|(name, _)| matches!(*name, "links" | "starts")).map(|(_, bytes)| *bytes).sum::<usize>();
    println!(
        "{:?}, {} threads, {:?}: written at {:.0} rows/s, {:.0} a second and core; open to first answer ({}) {open:.2} ms; degree {:.1}, \
         {} orphans; walked {:.0} B, in links {:.0} B, on disk {:.0} B a row",
        params.builder,
        params.threads,
        params.codes,
        rows / seconds,
        rows / computed,
        first[0],
        stats.mean_degree,
        stats.orphans,
        stats.walked_bytes as f64 / rows,
        in_links as f64 / rows,
        stats.file_bytes as f64 / rows,
    );
    graph
}
