//! One collection's SQLite file: the truth from which everything else can be made again.
//!
//! ```text
//! point        number, id, version, slots, payload, checksum       a row a point; a number is never given twice
//! vector       slot, point, name, data, checksum                   a row a vector; a slot is never given twice
//! tombstone    slot, vector                                        vectors that died and that a segment still holds
//! segment      file, vector, first, last, length, hash, checksum   the graphs' files: a row here is what makes one exist
//! collection   one row: header, checksum
//! ```
//!
//! Points and vectors lie apart, so that a payload changes without its vectors, and so that a vector keeps its slot, which
//! is all that a segment knows of it. A replaced or deleted vector's row goes in the transaction that replaces it.
//!
//! SQLite keeps no checksum of its pages, so we do: every row has one over everything in it, and the collection's header
//! has the number of rows of each table and the sum of their checksums, so that a page that lost its rows is noticed too.
//! All of it changes in the one transaction of a write. A row's checksum is verified whenever the row is read, the sums
//! by [`Truth::verify`]; those of tombstones and segments, of which a search relies, each time the file is opened.

mod format_1;
mod rows;
mod verify;

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::config::CollectionConfig;
use crate::database::{Database, FORMAT, Synchronous};
use crate::error::{Error, Result};
use crate::id::PointId;
pub(crate) use rows::{PointNumber, PointRow, SegmentRow, Slot, VectorRow};

const SCHEMA: &str = "
    CREATE TABLE point (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id BLOB NOT NULL UNIQUE,
        version INTEGER NOT NULL,
        slots BLOB NOT NULL,
        payload TEXT NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE vector (
        slot INTEGER PRIMARY KEY AUTOINCREMENT,
        point INTEGER NOT NULL,
        name TEXT NOT NULL,
        data BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE tombstone (slot INTEGER PRIMARY KEY, vector TEXT NOT NULL) STRICT;
    CREATE TABLE segment (
        file TEXT PRIMARY KEY,
        vector TEXT NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        length INTEGER NOT NULL,
        hash BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE collection (
        row INTEGER PRIMARY KEY CHECK (row = 1),
        header TEXT NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;";

/// How many rows a table has, and the sum of their checksums modulo 2^64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tally {
    pub(crate) rows: u64,
    pub(crate) sum: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, checksum: u64) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(checksum);
    }

    /// Takes a row away that was added before; a damaged header cannot make it panic.
    pub(crate) fn remove(&mut self, checksum: u64) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(checksum);
    }
}

/// The collection's own row.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) config: CollectionConfig,
    /// The folder that the file lies in, from the first write on. Every write writes it, so that another collection's file, or
    /// another's log put beside this one's file, is not taken for this collection's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) folder: Option<Uuid>,
    /// The last operation that was committed.
    pub(crate) operation: u64,
    pub(crate) points: Tally,
    pub(crate) vectors: Tally,
    pub(crate) tombstones: Tally,
    pub(crate) segments: Tally,
}

impl Header {
    pub(crate) fn new(config: CollectionConfig) -> Self {
        let none = Tally::default();
        Self { config, folder: None, operation: 0, points: none, vectors: none, tombstones: none, segments: none }
    }
}

/// A connection to one collection's file.
pub(crate) struct Truth(pub(crate) Database);

impl Truth {
    /// Makes a new file that holds `config` and no points.
    pub(crate) fn create(path: &Path, config: CollectionConfig, synchronous: Synchronous) -> Result<Self> {
        let page_size = page_size(&config);
        let header = Header::new(config);
        Database::create(path, page_size, synchronous, |database| {
            database.run(|connection| connection.execute_batch(SCHEMA))?;
            put_header(database, &header)
        })
        .map(Self)
    }

    /// Opens a file for writing. One of an older format is rewritten first, in one transaction; returns which it was.
    pub(crate) fn open(path: &Path, synchronous: Synchronous) -> Result<(Self, Option<u32>)> {
        let (database, format) = Database::open(path, synchronous)?;
        let truth = Self(database);
        if format == FORMAT {
            return Ok((truth, None));
        }
        format_1::upgrade(&truth)?;
        Ok((truth, Some(format)))
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
                .query_row("SELECT header, checksum FROM collection", [], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
                .optional()
        })?;
        let Some((text, checksum)) = row else {
            return Err(self.damaged("the collection's own row is missing"));
        };
        if xxh3_64(text.as_bytes()) as i64 != checksum {
            return Err(self.damaged("the checksum of the collection's own row is wrong"));
        }
        serde_json::from_str(&text).map_err(|error| self.damaged(format!("the collection's own row: {error}")))
    }

    /// The header, which must be of the collection in `folder`; one that was never written to becomes so.
    pub(crate) fn header_in(&self, folder: &Path) -> Result<Header> {
        let mut header = self.header()?;
        let own = folder.file_name().and_then(|name| name.to_str()).and_then(|name| Uuid::try_parse(name).ok());
        if let Some(other) = header.folder.filter(|other| Some(*other) != own) {
            return Err(self.damaged(format!("it, or its log, is of collection {other}")));
        }
        header.folder = own;
        Ok(header)
    }

    pub(crate) fn put_header(&self, header: &Header) -> Result<()> {
        put_header(&self.0, header)
    }

    /// The first number and the first slot that were never given out.
    pub(crate) fn next_numbers(&self) -> Result<(PointNumber, Slot)> {
        let next = |table, key| {
            let sql = format!(
                "SELECT max(ifnull((SELECT max({key}) FROM {table}), 0), ifnull((SELECT seq FROM sqlite_sequence WHERE name = '{table}'), 0))"
            );
            self.run(|connection| connection.query_row(&sql, [], |row| row.get::<_, i64>(0)))
        };
        let number = PointNumber::try_from(next("point", "number")?).map_err(|_| self.damaged("a point's number is out of range"))?;
        Ok((
            number.checked_add(1).ok_or_else(|| self.damaged("all numbers of points were given out"))?,
            next("vector", "slot")? as Slot + 1,
        ))
    }

    pub(crate) fn insert_point(&self, point: &PointRow) -> Result<()> {
        self.run(|connection| {
            connection.prepare_cached("INSERT INTO point VALUES (?, ?, ?, ?, ?, ?)")?.execute(params![
                point.number,
                point.id.to_key(),
                point.version as i64,
                point.encode_slots(),
                point.payload,
                point.checksum() as i64
            ])
        })?;
        Ok(())
    }

    /// Writes what a point has now over what it had.
    pub(crate) fn update_point(&self, point: &PointRow) -> Result<()> {
        let updated = self.run(|connection| {
            connection
                .prepare_cached("UPDATE point SET version = ?2, slots = ?3, payload = ?4, checksum = ?5 WHERE number = ?1")?
                .execute(params![point.number, point.version as i64, point.encode_slots(), point.payload, point.checksum() as i64])
        })?;
        self.expect_one(updated, || format!("the row of point {} is missing", point.id))
    }

    pub(crate) fn delete_point(&self, point: &PointRow) -> Result<()> {
        let deleted =
            self.run(|connection| connection.prepare_cached("DELETE FROM point WHERE number = ?")?.execute([i64::from(point.number)]))?;
        self.expect_one(deleted, || format!("the row of point {} is missing", point.id))
    }

    /// Writes a vector; returns its row's checksum.
    pub(crate) fn insert_vector(&self, slot: Slot, point: PointNumber, name: &str, vector: &[f32]) -> Result<u64> {
        let data: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        let checksum = rows::vector_checksum(slot, point, name, &data);
        self.run(|connection| {
            let mut insert = connection.prepare_cached("INSERT INTO vector VALUES (?, ?, ?, ?, ?)")?;
            insert.execute(params![slot as i64, point, name, data, checksum as i64])
        })?;
        Ok(checksum)
    }

    /// Deletes a vector; returns its row's checksum.
    pub(crate) fn delete_vector(&self, slot: Slot) -> Result<u64> {
        let checksum = self.run(|connection| {
            let mut delete = connection.prepare_cached("DELETE FROM vector WHERE slot = ? RETURNING checksum")?;
            delete.query_row([slot as i64], |row| row.get::<_, i64>(0)).optional()
        })?;
        checksum.map(|checksum| checksum as u64).ok_or_else(|| self.damaged(format!("the vector in slot {slot} is missing")))
    }

    pub(crate) fn point_by_id(&self, id: PointId) -> Result<Option<PointRow>> {
        let sql = "SELECT number, id, version, slots, payload, checksum FROM point WHERE id = ?";
        match self.one_point(sql, id.to_key())? {
            // The index on ids led to another row.
            Some(row) if row.id != id => {
                Err(Error::DamagedPoint { path: self.0.path.clone(), id, place: "its place in the index on ids".to_owned() })
            }
            found => Ok(found),
        }
    }

    pub(crate) fn point_by_number(&self, number: PointNumber) -> Result<Option<PointRow>> {
        self.one_point("SELECT number, id, version, slots, payload, checksum FROM point WHERE number = ?", number)
    }

    fn one_point(&self, sql: &str, key: impl rusqlite::ToSql) -> Result<Option<PointRow>> {
        let raw = self.run(|connection| connection.prepare_cached(sql)?.query_row([key], rows::RawPoint::read).optional())?;
        raw.map(|raw| raw.verify(&self.0.path)).transpose()
    }

    /// Points by ascending id, from `from` on, as long as `visit` wants more.
    pub(crate) fn points_by_id(&self, from: Option<PointId>, visit: impl FnMut(PointRow) -> Result<bool>) -> Result<()> {
        let key = from.map(PointId::to_key).unwrap_or_default();
        self.visit_points("SELECT number, id, version, slots, payload, checksum FROM point WHERE id >= ? ORDER BY id", [key], visit)
    }

    /// Points by ascending number, as long as `visit` wants more.
    pub(crate) fn points_by_number(&self, visit: impl FnMut(PointRow) -> Result<bool>) -> Result<()> {
        self.visit_points("SELECT number, id, version, slots, payload, checksum FROM point ORDER BY number", [], visit)
    }

    fn visit_points<P: rusqlite::Params>(&self, sql: &str, key: P, mut visit: impl FnMut(PointRow) -> Result<bool>) -> Result<()> {
        let sqlite = |source| Error::sqlite(&self.0.path, source);
        let mut statement = self.0.connection.prepare_cached(sql).map_err(sqlite)?;
        let mut rows = statement.query(key).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            if !visit(rows::RawPoint::read(row).map_err(sqlite)?.verify(&self.0.path)?)? {
                break;
            }
        }
        Ok(())
    }

    /// The vector in a slot; `None` if it was replaced or deleted since the slot was looked up.
    pub(crate) fn vector(&self, slot: Slot) -> Result<Option<VectorRow>> {
        let sql = "SELECT slot, point, name, data, checksum FROM vector WHERE slot = ?";
        let raw = self.run(|connection| connection.prepare_cached(sql)?.query_row([slot as i64], rows::RawVector::read).optional())?;
        raw.map(|raw| raw.verify(&self.0.path)).transpose()
    }

    /// The vectors of a point, by name.
    pub(crate) fn vectors_of(&self, point: &PointRow) -> Result<BTreeMap<String, Vec<f32>>> {
        let read = |(name, slot): (&String, &Slot)| match self.vector(*slot)? {
            Some(row) if row.point == point.number && row.name == *name => Ok((name.clone(), row.vector)),
            _ => Err(Error::DamagedPoint { path: self.0.path.clone(), id: point.id, place: format!("slot {slot}") }),
        };
        point.slots.iter().map(read).collect()
    }

    /// At most `limit` vectors of one name in slots `first..=last`, ascending, each with its point's id.
    pub(crate) fn vectors_between(&self, name: &str, first: Slot, last: Slot, limit: usize) -> Result<Vec<(VectorRow, PointId)>> {
        let sql = "SELECT v.slot, v.point, v.name, v.data, v.checksum, p.number, p.id, p.version, p.slots, p.payload, p.checksum
                   FROM vector v JOIN point p ON p.number = v.point
                   WHERE v.slot BETWEEN ? AND ? AND v.name = ? ORDER BY v.slot LIMIT ?";
        let raw = self.run(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![first as i64, last as i64, name, limit as i64], |row| {
                Ok((rows::RawVector::read(row)?, rows::RawPoint::read_from(row, 5)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let verify = |(vector, point): (rows::RawVector, rows::RawPoint)| {
            let (vector, point) = (vector.verify(&self.0.path)?, point.verify(&self.0.path)?);
            if point.slots.get(name) != Some(&vector.slot) {
                return Err(Error::DamagedVector { path: self.0.path.clone(), slot: vector.slot });
            }
            Ok((vector, point.id))
        };
        raw.into_iter().map(verify).collect()
    }

    /// How many vectors of one name lie in slots `first..=last`.
    pub(crate) fn count_vectors(&self, name: &str, first: Slot, last: Slot) -> Result<usize> {
        let sql = "SELECT count(*) FROM vector WHERE slot BETWEEN ? AND ? AND name = ?";
        let count: i64 =
            self.run(|connection| connection.prepare_cached(sql)?.query_row(params![first as i64, last as i64, name], |row| row.get(0)))?;
        Ok(count as usize)
    }

    /// Remembers that a vector died that a segment holds; returns its row's checksum.
    pub(crate) fn insert_tombstone(&self, slot: Slot, vector: &str) -> Result<u64> {
        self.run(|connection| connection.prepare_cached("INSERT INTO tombstone VALUES (?, ?)")?.execute(params![slot as i64, vector]))?;
        Ok(rows::tombstone_checksum(slot, vector))
    }

    /// Forgets the tombstones of a vector's slots `first..=last`; returns their checksums.
    pub(crate) fn delete_tombstones(&self, vector: &str, first: Slot, last: Slot) -> Result<Vec<u64>> {
        self.run(|connection| {
            let mut statement =
                connection.prepare_cached("DELETE FROM tombstone WHERE vector = ? AND slot BETWEEN ? AND ? RETURNING slot")?;
            let rows = statement.query_map(params![vector, first as i64, last as i64], |row| row.get::<_, i64>(0))?;
            rows.map(|slot| Ok(rows::tombstone_checksum(slot? as Slot, vector))).collect()
        })
    }

    /// Slots of dead vectors that a segment holds, each with its vector's name, ascending, their tally verified.
    pub(crate) fn tombstones(&self, header: &Header) -> Result<Vec<(Slot, String)>> {
        let tombstones = self.run(|connection| {
            let mut statement = connection.prepare("SELECT slot, vector FROM tombstone ORDER BY slot")?;
            let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)? as Slot, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<(Slot, String)>>>()
        })?;
        let mut tally = Tally::default();
        tombstones.iter().for_each(|(slot, vector)| tally.add(rows::tombstone_checksum(*slot, vector)));
        if tally != header.tombstones {
            let (found, committed) = (tally.rows, header.tombstones.rows);
            return Err(self.damaged(format!("it lists {found} deleted vectors, not the {committed} that were committed, or others")));
        }
        Ok(tombstones)
    }

    pub(crate) fn insert_segment(&self, segment: &SegmentRow) -> Result<()> {
        self.run(|connection| {
            connection.prepare_cached("INSERT INTO segment VALUES (?, ?, ?, ?, ?, ?, ?)")?.execute(params![
                segment.file,
                segment.vector,
                segment.first as i64,
                segment.last as i64,
                segment.length as i64,
                segment.hash.to_le_bytes(),
                segment.checksum() as i64
            ])
        })?;
        Ok(())
    }

    pub(crate) fn delete_segment(&self, file: &str) -> Result<()> {
        let deleted = self.run(|connection| connection.prepare_cached("DELETE FROM segment WHERE file = ?")?.execute([file]))?;
        self.expect_one(deleted, || format!("the row of segment {file} is missing"))
    }

    /// Every segment by name and slots, each verified, and their tally.
    pub(crate) fn segments(&self, header: &Header) -> Result<Vec<SegmentRow>> {
        let rows = self.run(|connection| {
            let mut statement =
                connection.prepare("SELECT file, vector, first, last, length, hash, checksum FROM segment ORDER BY vector, first")?;
            let rows = statement.query_map([], |row| Ok((SegmentRow::read(row)?, row.get::<_, i64>(6)? as u64)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let mut tally = Tally::default();
        for (row, checksum) in &rows {
            if row.checksum() != *checksum {
                return Err(self.damaged(format!("the checksum of the row of segment {} is wrong", row.file)));
            }
            tally.add(*checksum);
        }
        if tally != header.segments {
            return Err(
                self.damaged(format!("it lists {} segments, not the {} that were committed, or others", tally.rows, header.segments.rows))
            );
        }
        Ok(rows.into_iter().map(|(row, _)| row).collect())
    }

    /// Makes of the file one that has no segments, and so no tombstones, and that lies nowhere yet.
    pub(crate) fn forget_segments(&self) -> Result<()> {
        self.transaction(|truth| {
            let mut header = truth.header()?;
            truth.run(|connection| connection.execute_batch("DELETE FROM segment; DELETE FROM tombstone;"))?;
            (header.segments, header.tombstones, header.folder) = Default::default();
            truth.put_header(&header)
        })?;
        self.0.checkpoint()
    }

    fn expect_one(&self, rows: usize, missing: impl FnOnce() -> String) -> Result<()> {
        if rows == 1 { Ok(()) } else { Err(self.damaged(missing())) }
    }
}

/// A vector should fit its page about eight times, or fill a few pages without much waste.
fn page_size(config: &CollectionConfig) -> u32 {
    match config.vector_bytes() {
        0..=512 => 8192,
        513..=4096 => 16_384,
        4097..=12_288 => 32_768,
        _ => 65_536,
    }
}

fn put_header(database: &Database, header: &Header) -> Result<()> {
    let text = serde_json::to_string(header).expect("a header has string keys");
    let checksum = xxh3_64(text.as_bytes()) as i64;
    database.run(|connection| {
        connection.prepare_cached("INSERT OR REPLACE INTO collection VALUES (1, ?, ?)")?.execute(params![text, checksum])
    })?;
    Ok(())
}
