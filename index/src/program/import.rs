//! `moco-index import`: points of another form into a collection.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use moco_index::{CollectionConfig, Point, Store, VectorParams};

use super::build::{Kind, PointFiles, RowPoints};
use super::json_lines::{JsonLines, PointLine};
use super::loading::Target;
use super::qdrant::{Description, QdrantArguments, QdrantCollection};
use super::vector_file::VectorFile;
use super::{Stop, folder, progress, say, usage, was_stopped};

#[derive(Args)]
pub(crate) struct Import {
    /// The data folder; made if there is none.
    folder: PathBuf,
    /// The collection: a new one, or, except from Qdrant, one that is there; its points of the same ids are replaced.
    #[arg(long, value_name = "NAME")]
    collection: String,
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    points: PointFiles,
    #[command(flatten)]
    qdrant: QdrantArguments,
    #[command(flatten)]
    kind: Kind,
}

#[derive(Args)]
#[group(required = true, multiple = false, args = ["npy", "jsonl", "qdrant"])]
struct From {
    /// Vectors: .npy or .fvecs.
    #[arg(long, value_name = "FILE")]
    npy: Option<PathBuf>,
    /// Points, a JSON object a line: `{"id": 1, "vector": [0.1, 0.2], "payload": {}}`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ids", "payloads", "vector_name"])]
    jsonl: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Import, stop: &Stop) -> Result<()> {
    if let Some(qdrant) = arguments.qdrant.collection()? {
        return from_qdrant(arguments, &qdrant, stop);
    }
    if let Some(path) = &arguments.from.npy {
        let vectors = VectorFile::open(path)?;
        let kind = &arguments.kind;
        let config = kind.config(vectors.dim())?;
        let points = RowPoints::open(vectors, kind.vector_name.as_deref().unwrap_or_default(), &arguments.points)?;
        let total = Some(points.len() as u64);
        return into_collection(arguments, config, points.points(), total, stop);
    }
    let path = arguments.from.jsonl.as_deref().expect("clap wants one of the three");
    let Shapes { dims, points: total } = Shapes::of(path, stop)?;
    let config = arguments.kind.config_of(dims.into_iter().map(|(name, dim)| (name, arguments.kind.vector(dim))).collect())?;
    let points = JsonLines::<PointLine>::open(path)?.map(|line| line.map(Point::from));
    into_collection(arguments, config, points, Some(total), stop)
}

/// What the points of a file of JSON lines are like. Any point may lack any vector, so all of them are asked.
struct Shapes {
    /// Dimensions by name.
    dims: BTreeMap<String, usize>,
    points: u64,
}

impl Shapes {
    fn of(path: &Path, stop: &Stop) -> Result<Self> {
        // By name, the dimensions and the line that has them first.
        let mut shapes: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let mut points = 0;
        // The second time a pipe would give nothing, and that without an error.
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Err(usage(format!("{} is no regular file: points are read twice, first for their shapes", path.display())));
        }
        let mut lines = JsonLines::<PointLine>::open(path)?;
        let bar = progress::spinner("reading");
        while let Some(line) = lines.next() {
            stop.check(|| "stopped before anything was written".to_owned())?;
            for (name, vector) in Point::from(line?).vectors {
                let (dim, number) = (vector.len(), lines.number());
                match shapes.get(&name) {
                    None => drop(shapes.insert(name, (dim, number))),
                    Some((first, _)) if *first == dim => {}
                    Some((first, at)) => {
                        let place = format!("{}, line {number}", path.display());
                        return Err(usage(format!("{place}: vector `{name}` has {dim} dimensions, on line {at} it has {first}")));
                    }
                }
            }
            points += 1;
        }
        bar.finish_and_clear();
        if points == 0 {
            return Err(usage(format!("{} holds no points", path.display())));
        }
        Ok(Self { dims: shapes.into_iter().map(|(name, (dim, _))| (name, dim)).collect(), points })
    }
}

/// Writes into the named collection, which is made as `config` says unless it is there.
fn into_collection(
    arguments: &Import,
    config: CollectionConfig,
    points: impl Iterator<Item = Result<Point>> + Send,
    total: Option<u64>,
    stop: &Stop,
) -> Result<()> {
    let store: Store = folder::open_or_make(&arguments.folder, false)?;
    let name = &arguments.collection;
    let target = if store.collections().contains(name) {
        if arguments.kind.is_fixed() {
            return Err(usage(format!("collection `{name}` is there already: its distance and its graph's parameters stay as they are")));
        }
        Target::existing(&store, name)?
    } else {
        Target::create(&store, name, config)?
    };
    let written = target.fill(|target| target.write(points, total, stop))?;
    target.settle(stop)?;
    say(format_args!("collection `{name}`: {written} points read, {} there now", target.collection.count()))?;
    Ok(())
}

fn from_qdrant(arguments: &Import, qdrant: &QdrantCollection, stop: &Stop) -> Result<()> {
    let PointFiles { ids, payloads } = &arguments.points;
    if ids.is_some() || payloads.is_some() || arguments.kind.distance.is_some() || arguments.kind.vector_name.is_some() {
        return Err(usage("a Qdrant has its own ids, payloads, names and distances: leave out those options"));
    }
    let Some(Description { vectors: shapes, points: count }) = qdrant.describe()? else {
        return Err(usage(format!("{} has no collection `{}`", qdrant.host(), qdrant.name)));
    };
    let params =
        shapes.iter().map(|(name, shape)| (name.clone(), arguments.kind.with_codes(VectorParams::new(shape.size, shape.distance))));
    let config = arguments.kind.config_of(params.collect())?;
    let numbers: usize = shapes.values().map(|shape| shape.size).sum();
    let store: Store = folder::open_or_make(&arguments.folder, false)?;
    let target = Target::create(&store, &arguments.collection, config)?;
    let written = target.fill(|target| target.write(qdrant.points(numbers), count, stop))?;
    let (name, place) = (&arguments.collection, format!("`{}` of {}", qdrant.name, qdrant.host()));
    say(format_args!("collection `{name}`: {written} points copied from {place}"))?;
    match qdrant.compare(&target.collection, stop) {
        Ok(equality) => say(equality)?,
        Err(error) if was_stopped(&error) => return Err(error),
        // What was copied stays: the other side may have been written to meanwhile.
        Err(error) => bail!(error.context(format!("collection `{name}` is not equal to {place}"))),
    }
    target.settle(stop)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        import: Import,
    }

    #[test]
    fn there_is_one_source() {
        let parse = |words: &str| Line::try_parse_from(format!("import DIR --collection c {words}").split_whitespace()).is_ok();
        for words in ["--npy a", "--jsonl a", "--qdrant http://a --qdrant-collection b", "--npy a --ids b --payloads c"] {
            assert!(parse(words), "{words}");
        }
        for words in [
            "",
            "--npy a --jsonl b",
            "--npy a --qdrant http://a --qdrant-collection b",
            "--qdrant a",
            "--jsonl a --ids b",
            "--jsonl a --vector-name b",
        ] {
            assert!(!parse(words), "{words}");
        }
    }
}
