//! `moco-index search`: the nearest points of one or many queries.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use moco_index::{Filter, Hit, Payload, PointId, SearchRequest, UniqueJson};
use serde::Serialize;

use super::json_lines::Vectors;
use super::vector_file::VectorFile;
use super::{folder, id_file, say, table, usage};

#[derive(Args)]
pub(crate) struct Search {
    /// The data folder.
    folder: PathBuf,
    /// The collection. Not needed where there is only one.
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Which of the points' vectors. Not needed where there is only one.
    #[arg(long, value_name = "NAME")]
    vector_name: Option<String>,
    #[command(flatten)]
    query: Query,
    /// Most hits a query.
    #[arg(short = 'k', long, default_value_t = 10)]
    limit: usize,
    /// Nearest hits to leave out first.
    #[arg(long, default_value_t = 0)]
    offset: usize,
    /// Candidates kept during a walk. Raise it for recall, lower it for speed. By default what the collection says.
    #[arg(long)]
    ef: Option<usize>,
    /// Compare with every vector.
    #[arg(long)]
    exact: bool,
    /// Only hits whose score is better than this.
    #[arg(long, allow_negative_numbers = true)]
    score_threshold: Option<f32>,
    /// Only points that pass this filter, in Qdrant's grammar: `{"must": [{"key": "kind", "match": {"value": "cat"}}]}`.
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// Print payloads too.
    #[arg(long)]
    payload: bool,
    /// Print a JSON object a query, with its vectors if --vectors is given.
    #[arg(long)]
    json: bool,
    /// Print the vectors of the hits too; needs --json.
    #[arg(long, requires = "json")]
    vectors: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Query {
    /// A file of queries: .npy or .fvecs, a row each.
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,
    /// One query, a JSON list of numbers.
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    vector: Option<String>,
    /// The vector of a point, which is not among its own hits.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

/// Rows of queries read at a time.
const BLOCK: usize = 256;

pub(crate) fn run(arguments: &Search) -> Result<()> {
    if arguments.limit == 0 {
        return Err(moco_index::Error::Limit.into());
    }
    let store = folder::open(&arguments.folder)?;
    let (_, collection) = folder::collection(&store, arguments.collection.as_deref())?;
    let config = collection.config();
    let vector_name = folder::vector_name(&config, arguments.vector_name.as_deref())?;
    let filter = match &arguments.filter {
        None => None,
        Some(text) => {
            let UniqueJson(value) = serde_json::from_str(text).map_err(|error| usage(format!("--filter `{text}` is no JSON: {error}")))?;
            Some(Filter::parse(&value)?)
        }
    };
    let answer = |number: usize, vector: Vec<f32>, exclude: Vec<PointId>| -> Result<()> {
        let request = SearchRequest {
            vector_name: vector_name.clone(),
            vector,
            offset: arguments.offset,
            ef: arguments.ef,
            exact: arguments.exact,
            score_threshold: arguments.score_threshold,
            exclude,
            filter: filter.clone(),
            with_payload: arguments.payload.into(),
            with_vectors: arguments.vectors,
            ..SearchRequest::new(Vec::new(), arguments.limit)
        };
        let hits = collection.search(&request).with_context(|| format!("query {number}"))?;
        if arguments.json { print_json(number, hits) } else { print_table(number, &hits) }
    };
    let query = &arguments.query;
    if let Some(path) = &query.queries {
        let queries = VectorFile::open(path)?;
        for first in (0..queries.rows()).step_by(BLOCK) {
            let block = queries.read(first, BLOCK.min(queries.rows() - first))?;
            for (row, vector) in block.chunks_exact(queries.dim()).enumerate() {
                answer(first + row, vector.to_vec(), Vec::new())?;
            }
        }
        return Ok(());
    }
    if let Some(text) = &query.vector {
        let Ok(vector) = serde_json::from_str(text) else {
            return Err(usage(format!("--vector `{text}` is no JSON list of numbers")));
        };
        return answer(0, vector, Vec::new());
    }
    let text = query.id.as_deref().expect("clap wants one of the three");
    let id = id_file::parse(text).ok_or_else(|| usage(format!("`{text}` is no id: a number or a UUID")))?;
    let record = collection.retrieve(&[id], false, true)?.pop().ok_or_else(|| usage(format!("there is no point {id}")))?;
    let vector = record.vectors.and_then(|mut vectors| vectors.remove(&vector_name));
    answer(0, vector.ok_or_else(|| usage(format!("point {id} has no vector `{vector_name}`")))?, vec![id])
}

/// The hits of a query on their line. A struct and no `json!`, which would print an f32 with the digits of an f64.
#[derive(Serialize)]
struct QueryLine {
    query: usize,
    hits: Vec<HitLine>,
}

#[derive(Serialize)]
struct HitLine {
    id: PointId,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<Vectors>,
}

fn print_json(query: usize, hits: Vec<Hit>) -> Result<()> {
    let line = |Hit { id, score, payload, vectors, .. }| HitLine { id, score, payload, vector: vectors.map(Vectors) };
    let line = QueryLine { query, hits: hits.into_iter().map(line).collect() };
    say(serde_json::to_string(&line).expect("hits have string keys"))
}

fn print_table(number: usize, hits: &[Hit]) -> Result<()> {
    let with_payload = hits.iter().any(|hit| hit.payload.is_some());
    let head = ["query", "rank", "id", "score", "payload"];
    let row = |(rank, hit): (usize, &Hit)| {
        let mut cells = vec![number.to_string(), (rank + 1).to_string(), hit.id.to_string(), format!("{:.6}", hit.score)];
        if let Some(payload) = &hit.payload {
            cells.push(serde_json::to_string(payload).expect("a JSON object has string keys"));
        }
        cells
    };
    let rows: Vec<Vec<String>> = hits.iter().enumerate().map(row).collect();
    say(table::aligned(&head[..if with_payload { 5 } else { 4 }], &rows).trim_end())
}
