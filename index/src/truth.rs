//! One collection's SQLite file: the truth from which everything else can be made again.
//!
//! ```text
//! point        slot, id, version, vectors, payload, checksum       a row a point; a slot is never given twice
//! collection   one row: config, operation, points, digest, checksum
//! ```
//!
//! SQLite keeps no checksum of its pages, so we do: each point has one over everything in its row, and the collection's
//! row has the number of points and the sum of their checksums, so that a page that lost its rows is noticed too. All of
//! it changes in the one transaction of a write. A replaced or deleted point's row goes in that transaction as well;
//! what outlives it is only that its slot is never used again, which is all that a graph built earlier relies on.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::config::CollectionConfig;
use crate::database::{Database, Synchronous};
use crate::error::{Error, Result};
use crate::id::PointId;
use crate::point::Payload;

const SCHEMA: &str = "
    CREATE TABLE point (
        slot INTEGER PRIMARY KEY AUTOINCREMENT,
        id BLOB NOT NULL UNIQUE,
        version INTEGER NOT NULL,
        vectors BLOB NOT NULL,
        payload TEXT NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE collection (
        row INTEGER PRIMARY KEY CHECK (row = 1),
        config TEXT NOT NULL,
        operation INTEGER NOT NULL,
        points INTEGER NOT NULL,
        digest INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;";

/// The collection's own row.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) config: CollectionConfig,
    pub(crate) operation: u64,
    pub(crate) points: u64,
    /// Sum of the points' checksums, modulo 2^64.
    pub(crate) digest: u64,
}

/// A point's row, its checksum verified.
pub(crate) struct PointRow {
    pub(crate) id: PointId,
    pub(crate) slot: u64,
    pub(crate) version: u64,
    pub(crate) checksum: u64,
    pub(crate) vectors: BTreeMap<String, Vec<f32>>,
    pub(crate) payload: Payload,
}

/// A connection to one collection's file.
pub(crate) struct Truth(pub(crate) Database);

impl Truth {
    /// Makes a new file that holds `config` and no points.
    pub(crate) fn create(path: &Path, config: CollectionConfig, synchronous: Synchronous) -> Result<Self> {
        // A row should fit its page about eight times, or fill a few pages without much waste.
        let page_size = match config.vector_bytes() {
            0..=512 => 8192,
            513..=4096 => 16_384,
            4097..=12_288 => 32_768,
            _ => 65_536,
        };
        let header = Header { config, operation: 0, points: 0, digest: 0 };
        Database::create(path, page_size, synchronous, |database| {
            database.run(|connection| connection.execute_batch(SCHEMA))?;
            put_header(database, &header)
        })
        .map(Self)
    }

    pub(crate) fn open(path: &Path, synchronous: Synchronous) -> Result<Self> {
        Database::open(path, synchronous).map(Self)
    }

    /// A second connection to an open file, which only reads.
    pub(crate) fn reader(path: &Path) -> Result<Self> {
        Database::reader(path).map(Self)
    }

    /// Runs `work` in one transaction: all of it is on disk when this returns `Ok`, none of it otherwise.
    pub(crate) fn transaction<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.0.transaction(|_| work(self))
    }

    /// Runs `work` on one state of the file, whatever is committed meanwhile.
    pub(crate) fn snapshot<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.0.snapshot(|_| work(self))
    }

    fn run<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.0.run(work)
    }

    fn damaged(&self, reason: impl Into<String>) -> Error {
        self.0.damaged(reason)
    }

    pub(crate) fn header(&self) -> Result<Header> {
        let row = self.run(|connection| {
            connection
                .query_row("SELECT config, operation, points, digest, checksum FROM collection", [], |row| {
                    Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get::<_, i64>(4)?))
                })
                .optional()
        })?;
        let Some((text, operation, points, digest, checksum)) = row else {
            return Err(self.damaged("the collection's own row is missing"));
        };
        if header_checksum(&text, operation, points, digest) != checksum {
            return Err(self.damaged("the checksum of the collection's own row is wrong"));
        }
        let config = serde_json::from_str(&text).map_err(|error| self.damaged(format!("the collection's configuration: {error}")))?;
        Ok(Header { config, operation: operation as u64, points: points as u64, digest: digest as u64 })
    }

    pub(crate) fn put_header(&self, header: &Header) -> Result<()> {
        put_header(&self.0, header)
    }

    /// The first slot that was never given out.
    pub(crate) fn next_slot(&self) -> Result<u64> {
        let last: Option<i64> = self.run(|connection| {
            connection.query_row("SELECT max((SELECT max(slot) FROM point), (SELECT max(seq) FROM sqlite_sequence))", [], |row| row.get(0))
        })?;
        Ok(last.unwrap_or(0) as u64 + 1)
    }

    /// Writes a point; returns its checksum.
    pub(crate) fn insert(&self, slot: u64, id: PointId, version: u64, vectors: &BTreeMap<String, Vec<f32>>, payload: &str) -> Result<u64> {
        let (key, vectors) = (id.to_key(), encode_vectors(vectors));
        let checksum = point_checksum(slot, &key, version, &vectors, payload);
        self.run(|connection| {
            connection.prepare_cached("INSERT INTO point VALUES (?, ?, ?, ?, ?, ?)")?.execute(params![
                slot as i64,
                key,
                version as i64,
                vectors,
                payload,
                checksum as i64
            ])
        })?;
        Ok(checksum)
    }

    pub(crate) fn delete(&self, slot: u64) -> Result<()> {
        let deleted = self.run(|connection| connection.prepare_cached("DELETE FROM point WHERE slot = ?")?.execute([slot as i64]))?;
        if deleted != 1 {
            return Err(self.damaged(format!("slot {slot} is missing")));
        }
        Ok(())
    }

    /// The point in `slot`; `None` if it was replaced or deleted since the slot was looked up.
    pub(crate) fn point(&self, slot: u64) -> Result<Option<PointRow>> {
        let raw = self.run(|connection| {
            connection
                .prepare_cached("SELECT slot, id, version, vectors, payload, checksum FROM point WHERE slot = ?")?
                .query_row([slot as i64], RawPoint::read)
                .optional()
        })?;
        raw.map(|raw| raw.verify(&self.0.path)).transpose()
    }

    /// Every point in order of slots, each verified, then their number and digest against the collection's row.
    pub(crate) fn each_point(&self, header: &Header, mut visit: impl FnMut(PointRow)) -> Result<()> {
        let sqlite = |source| Error::sqlite(&self.0.path, source);
        let mut statement =
            self.0.connection.prepare("SELECT slot, id, version, vectors, payload, checksum FROM point ORDER BY slot").map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        let (mut points, mut digest) = (0u64, 0u64);
        while let Some(row) = rows.next().map_err(sqlite)? {
            let point = RawPoint::read(row).map_err(sqlite)?.verify(&self.0.path)?;
            points += 1;
            digest = digest.wrapping_add(point.checksum);
            visit(point);
        }
        if (points, digest) != (header.points, header.digest) {
            return Err(self.damaged(format!("it holds {points} points, not the {} that were committed, or others", header.points)));
        }
        Ok(())
    }
}

fn put_header(database: &Database, header: &Header) -> Result<()> {
    let text = serde_json::to_string(&header.config).expect("a configuration has string keys");
    let (operation, points, digest) = (header.operation as i64, header.points as i64, header.digest as i64);
    let checksum = header_checksum(&text, operation, points, digest);
    database.run(|connection| {
        connection
            .prepare_cached("INSERT OR REPLACE INTO collection VALUES (1, ?, ?, ?, ?, ?)")?
            .execute(params![text, operation, points, digest, checksum])
    })?;
    Ok(())
}

/// A point's row as it lies in the file.
struct RawPoint {
    slot: u64,
    key: Vec<u8>,
    version: u64,
    vectors: Vec<u8>,
    payload: String,
    checksum: u64,
}

impl RawPoint {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            slot: row.get::<_, i64>(0)? as u64,
            key: row.get(1)?,
            version: row.get::<_, i64>(2)? as u64,
            vectors: row.get(3)?,
            payload: row.get(4)?,
            checksum: row.get::<_, i64>(5)? as u64,
        })
    }

    fn verify(self, path: &Path) -> Result<PointRow> {
        let Self { slot, key, version, vectors, payload, checksum } = self;
        let damaged = || Error::Damaged { path: path.to_owned(), reason: format!("the id in slot {slot} cannot be read") };
        let id = PointId::from_key(&key).ok_or_else(damaged)?;
        let damaged = || Error::DamagedPoint { path: path.to_owned(), id, slot };
        if point_checksum(slot, &key, version, &vectors, &payload) != checksum {
            return Err(damaged());
        }
        let vectors = decode_vectors(&vectors).ok_or_else(damaged)?;
        let payload = serde_json::from_str(&payload).map_err(|_| damaged())?;
        Ok(PointRow { id, slot, version, checksum, vectors, payload })
    }
}

fn point_checksum(slot: u64, key: &[u8], version: u64, vectors: &[u8], payload: &str) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&slot.to_le_bytes());
    hash.update(&version.to_le_bytes());
    for part in [key, vectors, payload.as_bytes()] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.digest()
}

fn header_checksum(config: &str, operation: i64, points: i64, digest: i64) -> i64 {
    xxh3_64(format!("{operation} {points} {digest} {config}").as_bytes()) as i64
}

/// For each vector: length of its name (u8), name, dimensions (u32), values (f32); all little-endian.
fn encode_vectors(vectors: &BTreeMap<String, Vec<f32>>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(vectors.iter().map(|(name, vector)| 5 + name.len() + 4 * vector.len()).sum());
    for (name, vector) in vectors {
        bytes.push(u8::try_from(name.len()).expect("names are at most 255 bytes, checked when the collection is made"));
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&u32::try_from(vector.len()).expect("at most 65,536 dimensions").to_le_bytes());
        bytes.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes
}

fn decode_vectors(mut bytes: &[u8]) -> Option<BTreeMap<String, Vec<f32>>> {
    let mut vectors = BTreeMap::new();
    while let Some((name_len, rest)) = bytes.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(*name_len))?;
        let (size, rest) = rest.split_at_checked(4)?;
        let size = u32::from_le_bytes(size.try_into().ok()?) as usize;
        let (values, rest) = rest.split_at_checked(size.checked_mul(4)?)?;
        let vector = values.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
        vectors.insert(std::str::from_utf8(name).ok()?.to_owned(), vector);
        bytes = rest;
    }
    Some(vectors)
}
