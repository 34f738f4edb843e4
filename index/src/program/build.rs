//! `moco-index build`: a collection from a file of vectors.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};
use moco_index::{
    Builder, Codes, CollectionConfig, Distance, Error, HnswParams, KeyPath, Payload, PayloadSchema, Point, PointId, Store, UniquePayload,
    VectorParams,
};
use serde_json::json;

use super::folder;
use super::json_lines::JsonLines;
use super::loading::Target;
use super::vector_file::VectorFile;
use super::{Stop, id_file, say, usage};

#[derive(Args)]
pub(crate) struct Build {
    /// The vectors: .npy (f16, f32 or f64; rows × dimensions) or .fvecs.
    vectors: PathBuf,
    /// The data folder; made if there is none.
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the new collection. By default that of the file.
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    #[command(flatten)]
    points: PointFiles,
    #[command(flatten)]
    kind: Kind,
    /// Leave the segments as writing made them, instead of merging them into one.
    #[arg(long)]
    keep_segments: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

/// What belongs to the rows of a file of vectors.
#[derive(Args)]
pub(crate) struct PointFiles {
    /// The ids of the rows: .npy of integers, or text with a number or UUID a line. By default the rows' numbers, from 0.
    #[arg(long, value_name = "FILE")]
    pub(crate) ids: Option<PathBuf>,
    /// The payloads of the rows: a JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) payloads: Option<PathBuf>,
}

/// What a new collection is made of.
#[derive(Args)]
pub(crate) struct Kind {
    /// How near two vectors are. By default cosine.
    #[arg(long, value_enum)]
    pub(crate) distance: Option<DistanceName>,
    /// Name of the vector within a point. By default the vector has none.
    #[arg(long, value_name = "NAME")]
    pub(crate) vector_name: Option<String>,
    /// Links a point keeps in the graph. Raise it for recall, lower it for memory. [default: 16]
    #[arg(short, long, value_name = "N")]
    pub(crate) m: Option<usize>,
    /// Candidates kept while building. Raise it for recall, lower it for faster builds. [default: 200]
    #[arg(long, value_name = "N")]
    pub(crate) ef_construction: Option<usize>,
    /// What a walk through the graph compares; the best are compared again by their full vectors. [default: int8]
    #[arg(long, value_enum)]
    pub(crate) codes: Option<CodesName>,
    /// Who makes the graph. `hnsw-rs` is slower, and there to check the other against. [default: own]
    #[arg(long, value_enum)]
    pub(crate) builder: Option<BuilderName>,
    /// Index a key of the payloads, so that filters by it are answered from memory; the type is keyword, integer, float,
    /// bool, datetime, uuid, geo or text. May be given several times.
    #[arg(long, value_name = "KEY=TYPE")]
    pub(crate) payload_index: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum CodesName {
    F32,
    F16,
    Int8,
    Int4,
}

impl From<CodesName> for Codes {
    fn from(name: CodesName) -> Self {
        match name {
            CodesName::F32 => Self::F32,
            CodesName::F16 => Self::F16,
            CodesName::Int8 => Self::Int8,
            CodesName::Int4 => Self::Int4,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum BuilderName {
    Own,
    HnswRs,
}

impl From<BuilderName> for Builder {
    fn from(name: BuilderName) -> Self {
        match name {
            BuilderName::Own => Self::Own,
            BuilderName::HnswRs => Self::HnswRs,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DistanceName {
    Cosine,
    Dot,
    Euclid,
    Manhattan,
}

impl From<DistanceName> for Distance {
    fn from(name: DistanceName) -> Self {
        match name {
            DistanceName::Cosine => Self::Cosine,
            DistanceName::Dot => Self::Dot,
            DistanceName::Euclid => Self::Euclid,
            DistanceName::Manhattan => Self::Manhattan,
        }
    }
}

impl Kind {
    /// The configuration of a new collection of one vector.
    pub(crate) fn config(&self, dim: usize) -> Result<CollectionConfig> {
        let params = self.vector(dim);
        let name = self.vector_name.clone().unwrap_or_default();
        self.config_of([(name, params)].into())
    }

    /// The same of any vectors.
    pub(crate) fn config_of(&self, vectors: BTreeMap<String, VectorParams>) -> Result<CollectionConfig> {
        let index = |text: &String| {
            let Some((key, kind)) = text.split_once('=') else {
                return Err(usage(format!("--payload-index `{text}`: KEY=TYPE is wanted, such as price=float")));
            };
            Ok((KeyPath::parse(key)?, PayloadSchema::parse(&kind.into())?))
        };
        let indexes = self.payload_index.iter().map(index).collect::<Result<_>>()?;
        Ok(CollectionConfig { vectors, hnsw: self.hnsw(), indexes, ..CollectionConfig::default() })
    }

    /// A vector of that many dimensions.
    pub(crate) fn vector(&self, dim: usize) -> VectorParams {
        self.with_codes(VectorParams::new(dim, self.distance()))
    }

    fn distance(&self) -> Distance {
        self.distance.unwrap_or(DistanceName::Cosine).into()
    }

    pub(crate) fn with_codes(&self, params: VectorParams) -> VectorParams {
        VectorParams { codes: self.codes.map_or(params.codes, Codes::from), ..params }
    }

    /// Does it say anything that an existing collection has settled?
    pub(crate) fn is_fixed(&self) -> bool {
        self.distance.is_some()
            || self.m.is_some()
            || self.ef_construction.is_some()
            || self.codes.is_some()
            || self.builder.is_some()
            || !self.payload_index.is_empty()
    }

    fn hnsw(&self) -> HnswParams {
        let default = HnswParams::default();
        HnswParams {
            m: self.m.unwrap_or(default.m),
            ef_construction: self.ef_construction.unwrap_or(default.ef_construction),
            builder: self.builder.map_or(default.builder, Builder::from),
            ..default
        }
    }
}

/// Points read from a file of vectors and the files that belong to it.
pub(crate) struct RowPoints {
    vectors: VectorFile,
    vector_name: String,
    ids: Option<Vec<PointId>>,
    payloads: Option<JsonLines<UniquePayload>>,
}

/// Rows read at a time.
const BLOCK: usize = 1_024;

impl RowPoints {
    pub(crate) fn open(vectors: VectorFile, vector_name: &str, files: &PointFiles) -> Result<Self> {
        let ids = files.ids.as_deref().map(id_file::read).transpose()?;
        if let Some(ids) = &ids
            && ids.len() != vectors.rows()
        {
            return Err(usage(format!("there are {} ids for {} vectors", ids.len(), vectors.rows())));
        }
        let payloads = files.payloads.as_deref().map(JsonLines::open).transpose()?;
        Ok(Self { vectors, vector_name: vector_name.to_owned(), ids, payloads })
    }

    pub(crate) fn len(&self) -> usize {
        self.vectors.rows()
    }

    /// Every row as a point, in order.
    pub(crate) fn points(mut self) -> impl Iterator<Item = Result<Point>> {
        let (rows, dim) = (self.vectors.rows(), self.vectors.dim());
        let mut block = Vec::new();
        let mut row = 0;
        std::iter::from_fn(move || {
            if row == rows {
                // Not one payload too many.
                return self
                    .payloads
                    .take()?
                    .next()
                    .map(|extra| extra.and_then(|_| Err(usage(format!("there are more payloads than the {rows} vectors")))));
            }
            let mut point = || -> Result<Point> {
                if row % BLOCK == 0 {
                    block = self.vectors.read(row, BLOCK.min(rows - row))?;
                }
                let vector = block[row % BLOCK * dim..][..dim].to_vec();
                let id = self.ids.as_ref().map_or(PointId::Num(row as u64), |ids| ids[row]);
                // The store would refuse it too, without knowing which row it is.
                if let Some(position) = vector.iter().position(|x| !x.is_finite()) {
                    let place = format!("{}, row {row}, point {id}", self.vectors.path().display());
                    return Err(anyhow!(Error::NotFinite { name: self.vector_name.clone(), position }).context(place));
                }
                let payload = match &mut self.payloads {
                    None => Payload::new(),
                    Some(payloads) => {
                        let few = || Err(usage(format!("there are {row} payloads for {rows} vectors")));
                        payloads.next().unwrap_or_else(few)?.0
                    }
                };
                Ok(Point { id, vectors: [(self.vector_name.clone(), vector)].into(), payload })
            };
            let point = point();
            row += 1;
            Some(point)
        })
    }
}

pub(crate) fn run(arguments: &Build, stop: &Stop) -> Result<()> {
    let vectors = VectorFile::open(&arguments.vectors)?;
    let config = arguments.kind.config(vectors.dim())?;
    let (dim, distance) = (vectors.dim(), arguments.kind.distance());
    let points = RowPoints::open(vectors, arguments.kind.vector_name.as_deref().unwrap_or_default(), &arguments.points)?;
    let name = match &arguments.collection {
        Some(name) => name.clone(),
        None => arguments.vectors.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
    };
    let store: Store = folder::open_or_make(&arguments.out, !arguments.keep_segments)?;
    let target = Target::create(&store, &name, config)?;
    let start = Instant::now();
    let total = points.len() as u64;
    let written = target.fill(|target| target.write(points.points(), Some(total), stop))?;
    let write_seconds = start.elapsed().as_secs_f64();
    if arguments.keep_segments {
        target.settle(stop)?;
    } else {
        target.compact(stop)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let info = target.collection.info();
    let indexed: usize = info.vectors.values().map(|vector| vector.indexed).sum();
    if arguments.json {
        let figures = json!({
            "collection": name, "points": info.points, "dim": dim, "indexed": indexed,
            "write_seconds": write_seconds, "seconds": seconds,
        });
        say(figures)?;
    } else {
        let how = match distance {
            Distance::Cosine | Distance::Dot | Distance::Euclid => "in a graph",
            Distance::Manhattan => "in segments, all of them scanned",
        };
        say(format_args!("collection `{name}`: {} points of {dim} dimensions, {indexed} {how}", info.points))?;
        say(format_args!("written in {write_seconds:.1} s ({:.0} points/s), all done in {seconds:.1} s", written as f64 / write_seconds))?;
    }
    if info.points as u64 != written {
        eprintln!("warning: {} rows have an id that another row has too; the last of each counts", written - info.points as u64);
    }
    for (name, vector) in &info.vectors {
        if let Some(failure) = &vector.failure {
            eprintln!("warning: vector `{name}` has no graph and is scanned: {failure}");
        }
    }
    Ok(())
}
