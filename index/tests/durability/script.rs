//! The operations that the durability tests perform, drawn from a seed: the one place to add a new one.
//!
//! An [`Operation`] is a call of the public interface. [`Operation::draw`] makes the one that a client performs as its
//! `number`-th: it follows from seed, client and number alone, so that the process that is killed and the test that judges
//! it agree without speaking. [`Operation::perform`] makes the call; `Model::apply` in `model.rs` says what must hold
//! afterwards. A new operation is a variant and a line in each of these three.
//!
//! Clients share the collection [`MAIN`] by ids of their own, and each has a side collection that comes and goes. Vectors
//! are small whole numbers: sums of their products are exact in whatever order they are added, and equal scores are common.
//!
//! This file is part of the tests and of the process that they start, so it uses what both have.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use moco_index::{
    Ack, CollectionConfig, Condition, Distance, Error, Filter, HnswParams, Payload, Point, PointId, Result, Selector, Store, StoreOptions,
    UpsertMode, VectorParams,
};

/// The collection that all clients share.
pub(crate) const MAIN: &str = "main";
/// Distance between the ids of two clients.
const STRIDE: u64 = 1_000_000;
/// Clients whose writes meet a fault together.
pub(crate) const SUFFERERS: u64 = 4;
/// What a side collection is bound to.
pub(crate) const MODEL: &str = "5eed";

/// The named vectors of every collection here. A point may lack any of them.
pub(crate) const VECTORS: [(&str, usize, Distance); 4] =
    [("", 12, Distance::Euclid), ("cosine", 6, Distance::Cosine), ("dot", 4, Distance::Dot), ("manhattan", 3, Distance::Manhattan)];

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation {
    CreateCollection {
        name: String,
    },
    DeleteCollection {
        name: String,
    },
    BindModel {
        collection: String,
    },
    Upsert {
        collection: String,
        points: Vec<Point>,
    },
    Delete {
        collection: String,
        ids: Vec<PointId>,
    },
    /// Replaces those of the points that exist.
    UpdateOnly {
        collection: String,
        points: Vec<Point>,
    },
    /// Merges into the payloads of those of the points that exist.
    SetPayload {
        collection: String,
        ids: Vec<PointId>,
        payload: Payload,
    },
    /// Takes a vector from those of the points that exist.
    DeleteVector {
        collection: String,
        ids: Vec<PointId>,
        name: String,
    },
    Compact {
        collection: String,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ids: &mut dyn Iterator<Item = PointId>| ids.map(|id| id.to_string()).collect::<Vec<_>>().join(" ");
        match self {
            Self::CreateCollection { name } => write!(f, "create {name}"),
            Self::DeleteCollection { name } => write!(f, "drop {name}"),
            Self::BindModel { collection } => write!(f, "bind {collection}"),
            Self::Upsert { collection, points } => write!(f, "upsert {collection}: {}", list(&mut points.iter().map(|point| point.id))),
            Self::Delete { collection, ids } => write!(f, "delete {collection}: {}", list(&mut ids.iter().copied())),
            Self::UpdateOnly { collection, points } => {
                write!(f, "update {collection}: {}", list(&mut points.iter().map(|point| point.id)))
            }
            Self::SetPayload { collection, ids, .. } => write!(f, "set payload {collection}: {}", list(&mut ids.iter().copied())),
            Self::DeleteVector { collection, ids, name } => {
                write!(f, "delete vector `{name}` {collection}: {}", list(&mut ids.iter().copied()))
            }
            Self::Compact { collection } => write!(f, "compact {collection}"),
        }
    }
}

/// How often each kind of operation is drawn (the sum need not be 100), and over how many ids.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// Ids of a client, of each kind.
    pub(crate) ids: u64,
    pub(crate) upsert: u64,
    pub(crate) delete: u64,
    /// Creating, dropping, binding and filling the client's side collection.
    pub(crate) side: u64,
    /// An upsert of 30 points.
    pub(crate) bulk: u64,
    /// Changes to points that may exist: to the whole, to the payload, to a vector.
    pub(crate) change: u64,
    pub(crate) compact: u64,
}

impl Mix {
    /// For short lives: points are replaced and deleted soon, collections come and go.
    pub(crate) const SMALL: Self = Self { ids: 24, upsert: 54, delete: 18, side: 26, bulk: 2, change: 20, compact: 2 };
    /// The same in one collection.
    pub(crate) const POINTS: Self = Self { side: 0, ..Self::SMALL };

    /// For kills: so many points, and so many at a time, that segments are built and merged all the time.
    pub(crate) const KILLS: Self = Self { ids: 100, delete: 24, bulk: 16, compact: 6, ..Self::SMALL };

    /// By the name under which a test hands it to the process that it starts.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "small" => Self::SMALL,
            "points" => Self::POINTS,
            "kills" => Self::KILLS,
            _ => panic!("what is {name}?"),
        }
    }
}

impl Operation {
    /// What `client` does as its `number`-th operation under `seed`.
    pub(crate) fn draw(seed: u64, client: u64, number: u64, mix: Mix) -> Self {
        let mut draw = Draw::new(seed, client, number);
        let side = side_of(client);
        let mut stamp = Stamp { client, number, next: 0 };
        let main = || MAIN.to_owned();
        let mut roll = draw.below(mix.upsert + mix.delete + mix.side + mix.bulk + mix.change + mix.compact);
        let mut falls_within = |share: u64| {
            let within = roll < share;
            roll = roll.wrapping_sub(share);
            within
        };
        if falls_within(mix.upsert) {
            let count = 1 + draw.below(5);
            return Self::Upsert { collection: main(), points: (0..count).map(|_| stamp.point(&mut draw, mix)).collect() };
        }
        if falls_within(mix.delete) {
            let count = 1 + draw.below(4);
            return Self::Delete { collection: main(), ids: (0..count).map(|_| draw.id(client, mix)).collect() };
        }
        if falls_within(mix.bulk) {
            return Self::Upsert { collection: main(), points: (0..30).map(|_| stamp.point(&mut draw, mix)).collect() };
        }
        if falls_within(mix.change) {
            let ids = |draw: &mut Draw| (0..3).map(|_| draw.id(client, mix)).collect::<Vec<_>>();
            return match draw.below(3) {
                0 => Self::UpdateOnly { collection: main(), points: (0..3).map(|_| stamp.point(&mut draw, mix)).collect() },
                1 => {
                    let payload = Payload::from_iter([("note".to_owned(), format!("{client} {number}").into())]);
                    Self::SetPayload { collection: main(), ids: ids(&mut draw), payload }
                }
                _ => {
                    let (name, ..) = VECTORS[draw.below(VECTORS.len() as u64) as usize];
                    Self::DeleteVector { collection: main(), ids: ids(&mut draw), name: name.to_owned() }
                }
            };
        }
        if falls_within(mix.compact) {
            return Self::Compact { collection: main() };
        }
        match draw.below(10) {
            0..3 => Self::CreateCollection { name: side },
            3..5 => Self::DeleteCollection { name: side },
            5 => Self::BindModel { collection: side },
            6..9 => {
                let count = 1 + draw.below(3);
                Self::Upsert { collection: side, points: (0..count).map(|_| stamp.point(&mut draw, mix)).collect() }
            }
            _ => Self::Delete { collection: side, ids: vec![draw.id(client, mix), draw.id(client, mix)] },
        }
    }

    /// Makes the call; was there anything to do? On a collection that is not there there is not, nor in creating one that is.
    pub(crate) fn perform(&self, store: &Store) -> Result<bool> {
        let collection = |name: &str| match store.collection(name) {
            Err(Error::CollectionNotFound { .. }) => Ok(None),
            found => found.map(Some),
        };
        match self {
            Self::CreateCollection { name } => match store.create_collection(name, config()) {
                Err(Error::CollectionExists { .. }) => Ok(false),
                made => made.map(|_| true),
            },
            Self::DeleteCollection { name } => store.delete_collection(name),
            Self::BindModel { collection: name } => {
                let Some(collection) = collection(name)? else { return Ok(false) };
                collection.bind_model("", MODEL).map(|()| true)
            }
            Self::Upsert { collection: name, points } => {
                let Some(collection) = collection(name)? else { return Ok(false) };
                collection.upsert(points.clone()).map(|_| true)
            }
            Self::Delete { collection: name, ids } => {
                let Some(collection) = collection(name)? else { return Ok(false) };
                collection.delete(ids).map(|_| true)
            }
            Self::UpdateOnly { collection: name, points } => {
                let operation = moco_index::Operation::Upsert { points: points.clone(), mode: UpsertMode::UpdateOnly, filter: None };
                let Some(collection) = collection(name)? else { return Ok(false) };
                collection.apply(operation, Ack::Durable).map(|_| true)
            }
            Self::SetPayload { collection: name, ids, payload } => {
                let operation = moco_index::Operation::SetPayload { points: those_of(ids), payload: payload.clone(), key: None };
                let Some(collection) = collection(name)? else { return Ok(false) };
                collection.apply(operation, Ack::Durable).map(|_| true)
            }
            Self::DeleteVector { collection: name, ids, name: vector } => {
                let operation = moco_index::Operation::DeleteVectors { points: those_of(ids), names: vec![vector.clone()] };
                let Some(collection) = collection(name)? else { return Ok(false) };
                collection.apply(operation, Ack::Durable).map(|_| true)
            }
            Self::Compact { collection: name } => {
                let Some(collection) = collection(name)? else { return Ok(false) };
                // It changes nothing that can be read, whether it succeeds or a fault stops it.
                let _ = collection.compact();
                Ok(true)
            }
        }
    }
}

/// By filter: ids that name no point are fine.
fn those_of(ids: &[PointId]) -> Selector {
    Selector::Filter(Filter::must([Condition::has_id(ids.iter().copied())]))
}

/// The configuration of every collection here: graphs from 30 vectors on, so that small collections have them too.
pub(crate) fn config() -> CollectionConfig {
    let vectors = VECTORS.iter().map(|(name, size, distance)| ((*name).to_owned(), VectorParams::new(*size, *distance))).collect();
    let hnsw = HnswParams { m: 8, ef_construction: 64, full_scan_threshold: 30, ..HnswParams::default() };
    CollectionConfig { vectors, hnsw, ..CollectionConfig::default() }
}

/// Opens a store. A process that another test starts at this moment holds, until it becomes another program, a copy of what
/// is open in this one, the lock of a store that was just closed among it: such a lock is waited for.
pub(crate) fn open(folder: &Path, options: &StoreOptions) -> Result<Store> {
    let start = Instant::now();
    loop {
        match Store::open_with(folder, options) {
            Err(Error::Locked { .. }) if start.elapsed() < Duration::from_secs(5) => std::thread::sleep(Duration::from_millis(1)),
            outcome => return outcome,
        }
    }
}

pub(crate) fn side_of(client: u64) -> String {
    format!("side {client}")
}

/// Whose id this is.
pub(crate) fn client_of(id: PointId) -> u64 {
    match id {
        PointId::Num(number) => number / STRIDE,
        PointId::Uuid(uuid) => uuid.as_u128() as u64 / STRIDE,
    }
}

/// Numbers the points that an operation writes, so that each was written once, and can be told from all others.
struct Stamp {
    client: u64,
    number: u64,
    next: u64,
}

impl Stamp {
    fn point(&mut self, draw: &mut Draw, mix: Mix) -> Point {
        let stamp = format!("{}.{}.{}", self.client, self.number, self.next);
        self.next += 1;
        let id = draw.id(self.client, mix);
        let vectors = VECTORS.iter().filter(|_| draw.below(8) > 0).copied().collect::<Vec<_>>();
        let vectors = vectors.into_iter().map(|(name, size, _)| (name.to_owned(), draw.vector(size))).collect();
        // Mostly short, at times several pages of a file.
        let filler = if draw.below(20) == 0 { draw.below(9000) } else { draw.below(60) };
        let mut payload = Payload::from_iter([("stamp".to_owned(), stamp.into())]);
        if filler > 0 {
            payload.insert("filler".to_owned(), "é~".repeat(filler as usize / 3 + 1).into());
        }
        Point { id, vectors, payload }
    }
}

/// A small generator (splitmix64): the process that is killed has no other.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64, client: u64, number: u64) -> Self {
        let mut draw = Self(seed);
        for part in [client, number] {
            draw.0 = draw.next() ^ part;
        }
        draw
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number under `bound`; the bias of the remainder does not matter here.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One of the client's ids, a number or a UUID.
    pub(crate) fn id(&mut self, client: u64, mix: Mix) -> PointId {
        let number = client * STRIDE + self.below(mix.ids);
        if self.below(4) == 0 { PointId::Uuid(uuid::Uuid::from_u128(number.into())) } else { PointId::Num(number) }
    }

    /// Whole numbers from -4 to 4; at times all zero.
    pub(crate) fn vector(&mut self, size: usize) -> Vec<f32> {
        if self.below(30) == 0 {
            return vec![0.0; size];
        }
        (0..size).map(|_| self.below(9) as f32 - 4.0).collect()
    }
}

/// By vector name, as points hold them.
pub(crate) type Vectors = BTreeMap<String, Vec<f32>>;
