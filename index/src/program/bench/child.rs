//! The line protocol by which the comparison with other libraries (`benches/peers`) drives this program.
//!
//! A line is a command with `key=value` words; its answer is one line of JSON. Queries lie in memory before the clock
//! starts, so neither the pipe nor the harness's language is in what is timed.
//!
//! ```text
//! (at start)                                   {"open_ns", "first_answer_ns", "resident_before"}: opening, from its start to
//!                                              the first answer, at the first of `--ef`, and what was resident before
//! info                                         {"points", "indexed", "building", "resident_bytes", "walked_bytes", "disk_bytes"}
//! settle                                       {"ns"}: waits until no graph is being built
//! compact                                      {"ns"}: merges all segments into one
//! search ef=40 k=10 [threads=1] [exact=1] [first=N] [out=FILE] [latencies=FILE] [filter=JSON | filters=FILE]
//!                                              {"ns", "queries", "p50_ns", "p99_ns"}
//! quit
//! ```
//!
//! `out` gets queries × k u64 ids as .npy, `latencies` the nanoseconds of each query. `filter` is JSON without spaces for
//! all queries, `filters` a file of JSON lines, one for each.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use moco_index::{Collection, Filter, PointId, SearchRequest, UniqueJson};
use serde_json::{Value, json};

use super::{Bench, Run, quantile, requests, search_all};
use crate::program::json_lines::JsonLines;
use crate::program::output_file::OutputFile;
use crate::program::{folder, say, usage, vector_file};

/// In a row of ids, a hit that there was not.
const NONE: u64 = u64::MAX;

pub(super) fn run(arguments: &Bench, queries: &[Vec<f32>]) -> Result<()> {
    let before = resident_bytes();
    let start = Instant::now();
    let store = folder::open_verifying(&arguments.folder, arguments.verify.into())?;
    let (_, collection) = folder::collection(&store, arguments.collection.as_deref())?;
    let opened = start.elapsed();
    let vector_name = folder::vector_name(&collection.config(), arguments.vector_name.as_deref())?;
    collection.search(&requests(&queries[..1], &vector_name, arguments.k, arguments.ef.first().copied(), false)[0])?;
    say(json!({"open_ns": nanos(opened), "first_answer_ns": nanos(start.elapsed()), "resident_before": before}))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read stdin")?;
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let options = options(words)?;
        let answer = match command {
            "info" => info(arguments, &collection, &vector_name)?,
            "settle" => {
                let start = Instant::now();
                collection.wait_until_built();
                json!({"ns": nanos(start.elapsed())})
            }
            "compact" => {
                let start = Instant::now();
                collection.compact()?;
                json!({"ns": nanos(start.elapsed())})
            }
            "search" => {
                let number = |key: &str, default: usize| match options.get(key) {
                    None => Ok(default),
                    Some(text) => text.parse().map_err(|_| usage(format!("{key}={text} is no number"))),
                };
                let (k, ef) = (number("k", arguments.k)?, number("ef", 0)?);
                let queries = &queries[..number("first", queries.len())?.clamp(1, queries.len())];
                let mut requests = requests(queries, &vector_name, k, (ef > 0).then_some(ef), number("exact", 0)? > 0);
                set_filters(&mut requests, &options)?;
                let mut run = search_all(&collection, &requests, number("threads", 1)?.max(1))?;
                if let Some(path) = options.get("out") {
                    write_ids(Path::new(path), &run, k)?;
                }
                if let Some(path) = options.get("latencies") {
                    write_numbers(Path::new(path), &[run.latencies.len()], run.latencies.iter().copied().map(nanos))?;
                }
                run.latencies.sort();
                let [p50, p99] = [0.5, 0.99].map(|share| nanos(quantile(&run.latencies, share)));
                json!({"ns": nanos(run.elapsed), "queries": queries.len(), "p50_ns": p50, "p99_ns": p99})
            }
            "quit" => break,
            other => return Err(usage(format!("`{other}` is no command"))),
        };
        say(answer)?;
    }
    Ok(())
}

/// The words of a command; one that is not known is an error, so that nothing is measured that was not meant.
fn options<'a>(words: impl Iterator<Item = &'a str>) -> Result<BTreeMap<&'a str, &'a str>> {
    const KNOWN: [&str; 9] = ["ef", "k", "threads", "exact", "first", "out", "latencies", "filter", "filters"];
    let option = |word: &'a str| match word.split_once('=') {
        Some((key, value)) if KNOWN.contains(&key) => Ok((key, value)),
        _ => Err(usage(format!("`{word}` is no option"))),
    };
    words.map(option).collect()
}

/// The same filter for all, or one for each.
fn set_filters(requests: &mut [SearchRequest], options: &BTreeMap<&str, &str>) -> Result<()> {
    if let Some(text) = options.get("filter") {
        let UniqueJson(value) = serde_json::from_str(text).with_context(|| format!("filter={text}"))?;
        let filter = Filter::parse(&value)?;
        requests.iter_mut().for_each(|request| request.filter = Some(filter.clone()));
    }
    if let Some(path) = options.get("filters") {
        let mut lines = JsonLines::<UniqueJson>::open(Path::new(path))?;
        for (row, request) in requests.iter_mut().enumerate() {
            let UniqueJson(line) =
                lines.next().unwrap_or_else(|| Err(usage(format!("{path} holds {row} filters, too few for the queries"))))?;
            request.filter = Some(Filter::parse(&line)?);
        }
    }
    Ok(())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn info(arguments: &Bench, collection: &Collection, vector_name: &str) -> Result<Value> {
    let vector = &collection.info().vectors[vector_name];
    let walked: usize = vector.segments.iter().filter_map(|segment| Some(segment.stats.as_ref()?.walked_bytes)).sum();
    Ok(json!({
        "walked_bytes": walked,
        "points": collection.count(), "indexed": vector.indexed, "segments": vector.segments.len(), "building": vector.building, "failure": vector.failure,
        "resident_bytes": resident_bytes(), "disk_bytes": folder::bytes_on_disk(&arguments.folder).context("cannot read the data folder")?,
    }))
}

/// `VmRSS` of this process, and of it what is no mapped file; 0 where the system does not tell.
fn resident_bytes() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    json!({"all": field("VmRSS"), "anonymous": field("RssAnon"), "file": field("RssFile")})
}

fn write_ids(path: &Path, run: &Run, k: usize) -> Result<()> {
    let number = |id: &PointId| match id {
        PointId::Num(number) => *number,
        PointId::Uuid(_) => NONE,
    };
    let padded = run.ids.iter().flat_map(|ids| ids.iter().map(number).chain(std::iter::repeat(NONE)).take(k));
    write_numbers(path, &[run.ids.len(), k], padded)
}

fn write_numbers(path: &Path, shape: &[usize], numbers: impl Iterator<Item = u64>) -> Result<()> {
    let mut out = OutputFile::create(path)?;
    out.write(|file| {
        file.write_all(&vector_file::npy_header("<u8", shape))?;
        numbers.map(u64::to_le_bytes).try_for_each(|bytes| file.write_all(&bytes))
    })?;
    out.finish()
}
