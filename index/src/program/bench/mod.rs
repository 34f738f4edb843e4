//! `moco-index bench`: recall against queries per second over `ef`, with exact ground truth.
//!
//! Rounds are alternated: each goes through all values of `ef` once, so that a disturbance of the machine hits all of
//! them; reported are the median and the quartiles. Queries are prepared before the clock starts; what is timed is
//! [`Collection::search`] and nothing else.

mod child;
mod plot;
mod truth;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use moco_index::{Collection, PointId, SearchRequest, Verify};
use serde_json::json;

use super::output_file::OutputFile;
use super::vector_file::VectorFile;
use super::{Stop, folder, progress, say, table, usage};
use truth::Truth;

#[derive(Args)]
pub(crate) struct Bench {
    /// The data folder.
    folder: PathBuf,
    /// The collection. Not needed where there is only one.
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Which of the points' vectors. Not needed where there is only one.
    #[arg(long, value_name = "NAME")]
    vector_name: Option<String>,
    /// The queries: .npy or .fvecs, a row each.
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// The ids of the true neighbours of each query, nearest first: .npy or .ivecs. By default they are computed.
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Neighbours that are looked for.
    #[arg(short, default_value_t = 10)]
    k: usize,
    /// The values of `ef` to measure.
    #[arg(long, value_delimiter = ',', default_value = "10,20,40,80,160,320")]
    ef: Vec<usize>,
    /// Rounds over all values of `ef`.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads that search at the same time.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Use only the first queries.
    #[arg(long, value_name = "N")]
    first: Option<usize>,
    /// What of the segments is hashed, and when. Links are checked in any case.
    #[arg(long, value_enum, default_value_t = VerifyName::OnRead)]
    verify: VerifyName,
    /// Write the figures as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the curve.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Take commands line by line from stdin and answer on stdout, for a harness that measures others beside.
    #[arg(long, hide = true)]
    child: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum VerifyName {
    /// All of it when it is opened, which reads every byte.
    Eager,
    /// Codes and full rows when they are first read, the rest when it is opened.
    OnRead,
}

impl From<VerifyName> for Verify {
    fn from(name: VerifyName) -> Self {
        match name {
            VerifyName::Eager => Self::Eager,
            VerifyName::OnRead => Self::OnRead,
        }
    }
}

/// One value of `ef`.
struct Measured {
    ef: usize,
    recall: f64,
    /// Queries per second, one value a round, ascending.
    qps: Vec<f64>,
    /// Of single queries over all rounds, ascending.
    latencies: Vec<Duration>,
}

/// Recalls at which the curve is read.
const RECALLS: [f64; 2] = [0.95, 0.99];

pub(crate) fn run(arguments: &Bench) -> Result<()> {
    for (what, value) in [("-k", arguments.k), ("--rounds", arguments.rounds), ("--threads", arguments.threads)] {
        if value == 0 {
            return Err(usage(format!("{what} must be at least 1")));
        }
    }
    let queries = read_queries(&arguments.queries, arguments.first)?;
    if arguments.child {
        return child::run(arguments, &queries);
    }
    let stop = &Stop::on_signals()?;
    let store = folder::open_verifying(&arguments.folder, arguments.verify.into())?;
    let (name, collection) = folder::collection(&store, arguments.collection.as_deref())?;
    let vector_name = folder::vector_name(&collection.config(), arguments.vector_name.as_deref())?;
    let truth = match &arguments.truth {
        Some(path) => Truth::read(path, queries.len(), arguments.k)?,
        None => Truth::compute(&collection, &vector_name, &queries, arguments.k, stop)?,
    };
    super::loading::settle(&collection, stop, || "stopped before anything was measured".to_owned())?;
    let load_before = load_average();
    let bar = progress::of_points((arguments.ef.len() * (arguments.rounds + 1) * queries.len()) as u64, "searching");
    let unmeasured = |&ef| Measured { ef, recall: 0.0, qps: Vec::new(), latencies: Vec::new() };
    let mut curve: Vec<Measured> = arguments.ef.iter().map(unmeasured).collect();
    // Round 0 warms up and gives the recall.
    for round in 0..=arguments.rounds {
        for point in &mut curve {
            stop.check(|| format!("stopped in round {round} of {}", arguments.rounds))?;
            let requests = requests(&queries, &vector_name, arguments.k, Some(point.ef), false);
            let run = search_all(&collection, &requests, arguments.threads)?;
            if round == 0 {
                point.recall = truth.recall(&run.ids);
            } else {
                point.qps.push(queries.len() as f64 / run.elapsed.as_secs_f64());
                point.latencies.extend(run.latencies);
            }
            bar.inc(queries.len() as u64);
        }
    }
    bar.finish_and_clear();
    for point in &mut curve {
        point.qps.sort_by(f64::total_cmp);
        point.latencies.sort();
    }
    let indexed = collection.info().vectors[&vector_name].indexed;
    let (points, k, threads) = (collection.count(), arguments.k, arguments.threads);
    say(format_args!(
        "{name}: {points} points ({indexed} in a graph), {} queries, k {k}, {threads} thread(s), median of {} rounds, load average {load_before}",
        queries.len(),
        arguments.rounds
    ))?;
    say(as_table(&curve, arguments.k).trim_end())?;
    for recall in RECALLS {
        say(match at_recall(&curve, recall) {
            AtRecall::Between(qps) => format!("at recall {recall}: {qps:.0} queries/s"),
            AtRecall::AtLeast(qps) => format!("at recall {recall}: at least {qps:.0} queries/s, the smallest ef exceeds it"),
            AtRecall::Never => format!("at recall {recall}: not reached by these values of ef"),
        })?;
    }
    if let Some(path) = &arguments.json {
        let params = collection.config().vectors[&vector_name].clone();
        let shape = json!({
            "collection": name, "points": collection.count(), "indexed": indexed, "size": params.size, "distance": params.distance,
            "hnsw": collection.config().hnsw, "queries": queries.len(), "k": arguments.k, "threads": arguments.threads,
            "rounds": arguments.rounds, "version": env!("CARGO_PKG_VERSION"), "load_average": load_before,
            "curve": curve.iter().map(Measured::to_json).collect::<Vec<_>>(),
            "qps_at_recall": RECALLS.map(|recall| at_recall(&curve, recall).to_json(recall)),
        });
        let mut out = OutputFile::create(path)?;
        out.write(|file| std::io::Write::write_all(file, format!("{shape:#}\n").as_bytes()))?;
        out.finish()?;
    }
    if let Some(path) = &arguments.svg {
        let points: Vec<(f64, f64)> = curve.iter().map(|point| (point.recall, quantile(&point.qps, 0.5))).collect();
        let text = plot::curve(&name, arguments.k, &points)?;
        let mut out = OutputFile::create(path)?;
        out.write(|file| std::io::Write::write_all(file, text.as_bytes()))?;
        out.finish()?;
    }
    Ok(())
}

fn read_queries(path: &std::path::Path, first: Option<usize>) -> Result<Vec<Vec<f32>>> {
    let file = VectorFile::open(path)?;
    let count = file.rows().min(first.unwrap_or(usize::MAX));
    if count == 0 {
        return Err(usage("no queries"));
    }
    Ok(file.read(0, count)?.chunks_exact(file.dim()).map(<[f32]>::to_vec).collect())
}

fn requests(queries: &[Vec<f32>], vector_name: &str, k: usize, ef: Option<usize>, exact: bool) -> Vec<SearchRequest> {
    let request =
        |query: &Vec<f32>| SearchRequest { vector_name: vector_name.to_owned(), ef, exact, ..SearchRequest::new(query.clone(), k) };
    queries.iter().map(request).collect()
}

/// All requests, answered.
struct Run {
    elapsed: Duration,
    /// In the order of the requests.
    ids: Vec<Vec<PointId>>,
    latencies: Vec<Duration>,
}

/// Searches by so many threads, each with a share of the requests.
fn search_all(collection: &Collection, requests: &[SearchRequest], threads: usize) -> Result<Run> {
    let share = |requests: &[SearchRequest]| {
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let start = Instant::now();
            let hits = collection.search(request)?;
            answers.push((start.elapsed(), hits));
        }
        Ok(answers)
    };
    let start = Instant::now();
    let answers: Vec<Result<_, moco_index::Error>> = if threads == 1 {
        vec![share(requests)]
    } else {
        std::thread::scope(|scope| {
            let share = &share;
            let handles: Vec<_> = requests.chunks(requests.len().div_ceil(threads)).map(|part| scope.spawn(move || share(part))).collect();
            handles.into_iter().map(|handle| handle.join().expect("searching does not panic")).collect()
        })
    };
    let elapsed = start.elapsed();
    let mut run = Run { elapsed, ids: Vec::new(), latencies: Vec::new() };
    for answers in answers {
        for (latency, hits) in answers.context("searching")? {
            run.latencies.push(latency);
            run.ids.push(hits.into_iter().map(|hit| hit.id).collect());
        }
    }
    Ok(run)
}

impl Measured {
    fn to_json(&self) -> serde_json::Value {
        let micros = |share| quantile(&self.latencies, share).as_secs_f64() * 1e6;
        json!({
            "ef": self.ef, "recall": self.recall, "qps": quantile(&self.qps, 0.5), "qps_q1": quantile(&self.qps, 0.25),
            "qps_q3": quantile(&self.qps, 0.75), "p50_us": micros(0.5), "p99_us": micros(0.99),
        })
    }
}

/// Of ascending values, the one at that share of them.
fn quantile<T: Copy>(ascending: &[T], share: f64) -> T {
    ascending[((ascending.len() - 1) as f64 * share).round() as usize]
}

/// Queries per second at some recall.
#[derive(Clone, Copy, Debug, PartialEq)]
enum AtRecall {
    /// Log-linear between the two values of `ef` around it.
    Between(f64),
    /// The least recall of the curve is higher.
    AtLeast(f64),
    Never,
}

impl AtRecall {
    fn to_json(self, recall: f64) -> serde_json::Value {
        match self {
            Self::Between(qps) => json!({"recall": recall, "qps": qps}),
            Self::AtLeast(qps) => json!({"recall": recall, "qps": qps, "bound": "at least"}),
            Self::Never => json!({"recall": recall, "qps": null}),
        }
    }
}

fn at_recall(curve: &[Measured], recall: f64) -> AtRecall {
    let mut points: Vec<(f64, f64)> = curve.iter().map(|point| (point.recall, quantile(&point.qps, 0.5))).collect();
    // Of equal recalls the fastest counts.
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    match points.iter().position(|point| point.0 >= recall) {
        None => AtRecall::Never,
        Some(0) => AtRecall::AtLeast(points[0].1),
        Some(above) => {
            let [(r0, q0), (r1, q1)] = [points[above - 1], points[above]];
            AtRecall::Between((q0.ln() + (q1.ln() - q0.ln()) * (recall - r0) / (r1 - r0)).exp())
        }
    }
}

fn as_table(curve: &[Measured], k: usize) -> String {
    let recall = format!("recall@{k}");
    let head = ["ef", &recall, "queries/s", "quartiles", "p50 µs", "p99 µs"];
    let row = |point: &Measured| {
        let micros = |share| format!("{:.0}", quantile(&point.latencies, share).as_secs_f64() * 1e6);
        let qps = |share| format!("{:.0}", quantile(&point.qps, share));
        vec![
            point.ef.to_string(),
            format!("{:.4}", point.recall),
            qps(0.5),
            format!("{}-{}", qps(0.25), qps(0.75)),
            micros(0.5),
            micros(0.99),
        ]
    };
    table::aligned(&head, &curve.iter().map(row).collect::<Vec<_>>())
}

/// What else the machine does; `?` where the system does not tell.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").ok();
    text.and_then(|text| Some(text.split(' ').next()?.to_owned())).unwrap_or_else(|| "?".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(ef: usize, recall: f64, qps: f64) -> Measured {
        Measured { ef, recall, qps: vec![qps], latencies: vec![Duration::ZERO] }
    }

    #[test]
    fn the_curve_is_read_between_its_points_and_not_beyond() {
        let curve = [measured(10, 0.90, 1000.0), measured(20, 1.0, 10.0)];
        let between = |recall| match at_recall(&curve, recall) {
            AtRecall::Between(qps) => qps.round(),
            other => panic!("{other:?} at {recall}"),
        };
        assert_eq!([between(0.95), between(1.0)], [100.0, 10.0]);
        assert_eq!(at_recall(&curve, 0.9), AtRecall::AtLeast(1000.0));
        assert_eq!(at_recall(&curve[..1], 0.95), AtRecall::Never);
    }
}
