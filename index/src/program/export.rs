//! `moco-index export`: a collection as files that others read, or into a running Qdrant.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use moco_index::{Collection, Record};

use super::json_lines::PointLine;
use super::output_file::OutputFile;
use super::qdrant::{QdrantArguments, QdrantCollection, VectorShape, page_size};
use super::{Stop, folder, id_file, progress, say, usage, vector_file, was_stopped};

#[derive(Args)]
pub(crate) struct Export {
    /// The data folder.
    folder: PathBuf,
    /// The collection. Not needed where there is only one.
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    #[command(flatten)]
    to: To,
    /// With --npy: which of the points' vectors. Not needed where there is only one.
    #[arg(long, value_name = "NAME", requires = "npy")]
    vector_name: Option<String>,
    /// With --npy: the ids of its rows, .npy if the name ends so, else text.
    #[arg(long, value_name = "FILE", requires = "npy")]
    ids: Option<PathBuf>,
    /// With --npy: the payloads of its rows, a JSON object a line.
    #[arg(long, value_name = "FILE", requires = "npy")]
    payloads: Option<PathBuf>,
    #[command(flatten)]
    qdrant: QdrantArguments,
}

#[derive(Args)]
#[group(required = true, multiple = false, args = ["npy", "jsonl", "qdrant"])]
struct To {
    /// One vector of every point that has it, as .npy: points × dimensions, f32, by ascending id.
    #[arg(long, value_name = "FILE")]
    npy: Option<PathBuf>,
    /// Whole points, a JSON object a line, as `import --jsonl` reads them.
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
}

const PAGE: usize = 1_000;

pub(crate) fn run(arguments: &Export, stop: &Stop) -> Result<()> {
    let qdrant = arguments.qdrant.collection()?;
    let store = folder::open(&arguments.folder)?;
    let (name, collection) = folder::collection(&store, arguments.collection.as_deref())?;
    match (&arguments.to.npy, &arguments.to.jsonl, qdrant) {
        (Some(path), _, _) => to_npy(arguments, &collection, path, stop),
        (_, Some(path), _) => to_json_lines(&collection, path, stop),
        (_, _, Some(qdrant)) => to_qdrant(&name, &collection, &qdrant, stop),
        (None, None, None) => unreachable!("clap wants one of the three"),
    }
}

/// Every point, page by page, by ascending id.
fn each_page(collection: &Collection, page: usize, stop: &Stop, mut work: impl FnMut(Vec<Record>) -> Result<()>) -> Result<()> {
    let bar = progress::of_points(collection.count() as u64, "exporting");
    let mut from = None;
    loop {
        stop.check(|| "stopped before all points were exported".to_owned())?;
        let (records, next) = collection.scroll(from, page, true, true)?;
        bar.inc(records.len() as u64);
        work(records)?;
        match next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn to_npy(arguments: &Export, collection: &Collection, path: &Path, stop: &Stop) -> Result<()> {
    let config = collection.config();
    let vector_name = folder::vector_name(&config, arguments.vector_name.as_deref())?;
    let dim = config.vectors[&vector_name].size;
    let expected = collection.info().vectors[&vector_name].count;
    let header = vector_file::npy_header("<f4", &[expected, dim]);
    let mut vectors = OutputFile::create(path)?;
    let mut payloads = arguments.payloads.as_deref().map(OutputFile::create).transpose()?;
    vectors.write(|file| file.write_all(&header))?;
    let mut ids = Vec::new();
    each_page(collection, PAGE, stop, |records| {
        for record in records {
            let Some(vector) = record.vectors.as_ref().and_then(|vectors| vectors.get(&vector_name)) else { continue };
            vectors.write(|file| vector.iter().try_for_each(|number| file.write_all(&number.to_le_bytes())))?;
            if let Some(payloads) = &mut payloads {
                let payload = serde_json::to_string(&record.payload.unwrap_or_default()).expect("a JSON object has string keys");
                payloads.write(|file| writeln!(file, "{payload}"))?;
            }
            ids.push(record.id);
        }
        Ok(())
    })?;
    if ids.len() != expected {
        return Err(anyhow!("{} vectors were read, {expected} are counted", ids.len()));
    }
    if let Some(path) = &arguments.ids {
        id_file::write(path, &ids)?;
    }
    if let Some(payloads) = payloads {
        payloads.finish()?;
    }
    let is_stdout = vectors.is_stdout();
    vectors.finish()?;
    if !is_stdout {
        say(format_args!("wrote {}: {expected} × {dim}", path.display()))?;
    }
    let missing = collection.count() - expected;
    if missing > 0 {
        eprintln!("warning: {missing} points have no vector `{vector_name}` and are left out");
    }
    Ok(())
}

fn to_json_lines(collection: &Collection, path: &Path, stop: &Stop) -> Result<()> {
    let mut out = OutputFile::create(path)?;
    let mut count = 0;
    each_page(collection, PAGE, stop, |records| {
        for record in records {
            let line = serde_json::to_string(&PointLine::from(record)).expect("a point has string keys");
            out.write(|file| writeln!(file, "{line}"))?;
            count += 1;
        }
        Ok(())
    })?;
    let is_stdout = out.is_stdout();
    out.finish()?;
    if !is_stdout {
        say(format_args!("wrote {}: {count} points", path.display()))?;
    }
    Ok(())
}

fn to_qdrant(name: &str, collection: &Collection, qdrant: &QdrantCollection, stop: &Stop) -> Result<()> {
    let place = format!("`{}` of {}", qdrant.name, qdrant.host());
    if qdrant.describe()?.is_some() {
        return Err(usage(format!("collection {place} is there already; a copy makes a new one")));
    }
    let config = collection.config();
    let shape = |params: &moco_index::VectorParams| VectorShape { size: params.size, distance: params.distance };
    let shapes: BTreeMap<String, VectorShape> = config.vectors.iter().map(|(name, params)| (name.clone(), shape(params))).collect();
    qdrant.create(&shapes)?;
    let numbers = shapes.values().map(|shape| shape.size).sum();
    let mut count = 0;
    let copied = each_page(collection, page_size(numbers), stop, |records| {
        count += records.len();
        if records.is_empty() { Ok(()) } else { qdrant.upsert(&records.into_iter().map(PointLine::from).collect::<Vec<_>>()) }
    });
    copied.map_err(|error| error.context(format!("collection {place} is incomplete")))?;
    say(format_args!("{count} points copied from `{name}` to {place}"))?;
    match qdrant.compare(collection, stop) {
        Ok(equality) => say(equality)?,
        Err(error) if was_stopped(&error) => return Err(error),
        Err(error) => bail!(error.context(format!("collection {place} is not equal to `{name}`"))),
    }
    Ok(())
}
