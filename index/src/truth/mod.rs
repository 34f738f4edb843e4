//! One collection's SQLite file: the truth from which everything else can be made again.
//!
//! ```text
//! point        number, id, version, slots, payload, checksum       a row a point; a number is never given twice
//! block        first, data, checksum                               some vectors a row; a slot is never given twice
//! tombstone    slot, vector                                        vectors that died and that a segment still holds
//! segment      file, vector, first, last, length, hash, checksum   the graphs' files: a row here is what makes one exist
//! collection   one row: configuration, checksum
//! tally        one row: what every write changes (operation, next number and slot, rows and sums), checksum
//! ```
//!
//! Points and vectors lie apart, so that a payload changes without its vectors, and so that a vector keeps its slot, which
//! is all that a segment knows of it. A replaced or deleted vector goes in the transaction that replaces it.
//!
//! One new point changes four pages or five: the last ones of the points, of their index and of the vectors, the tally, and
//! the file's first where it grows. Each goes into the log whole, so pages are small, and whatever would touch a further
//! one is in the tally's row: it has the next number and the next slot, which SQLite's AUTOINCREMENT keeps in a table of
//! its own, and not the configuration, which hardly ever changes.
//!
//! SQLite keeps no checksum of its pages, so we do: every row has one over everything in it, and the tally has the number of
//! points, vectors, tombstones and segments and the sum of their checksums, so that a page that lost its rows is noticed
//! too. All of it changes in the one transaction of a write. A row's checksum is verified whenever the row is read, the sums
//! by [`Truth::verify`]; those of tombstones and segments, of which a search relies, each time the file is opened.

mod blocks;
mod floats;
mod format_1;
mod format_2;
mod numbers;
mod rows;
mod verify;

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::config::CollectionConfig;
use crate::database::{Database, FORMAT, Synchronous};
use crate::error::{Error, Result};
use crate::id::PointId;
use blocks::Entry;
pub(crate) use blocks::{CodedVector, checksum as vector_checksum};
pub(crate) use rows::{PointNumber, PointRow, SegmentRow, Slot, VectorRow};

/// Each page that a write changes goes into the log whole. On pages of 16 KiB an upsert of one point of 512 dimensions wrote
/// 87 KB; on these, which hold two such vectors or a hundred points, it writes 43 KB, half of them to make the log longer.
const PAGE_SIZE: u32 = 4096;

const SCHEMA: &str = "
    CREATE TABLE point (
        number INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        version INTEGER NOT NULL,
        slots BLOB NOT NULL,
        payload TEXT NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE block (first INTEGER PRIMARY KEY, data BLOB NOT NULL, checksum INTEGER NOT NULL) STRICT;
    CREATE TABLE collection (
        row INTEGER PRIMARY KEY CHECK (row = 1),
        config TEXT NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE tally (
        row INTEGER PRIMARY KEY CHECK (row = 1),
        counts BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;";

/// As it was in format 2 already.
const SCHEMA_OF_SEGMENTS: &str = "
    CREATE TABLE tombstone (slot INTEGER PRIMARY KEY, vector TEXT NOT NULL) STRICT;
    CREATE TABLE segment (
        file TEXT PRIMARY KEY,
        vector TEXT NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        length INTEGER NOT NULL,
        hash BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;";

/// How many rows a table has, and the sum of their checksums modulo 2^64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// What a collection's file says of all of it.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) config: CollectionConfig,
    /// The folder that the file lies in, from the first write on. Every write writes it, so that another collection's file, or
    /// another's log put beside this one's file, is not taken for this collection's.
    pub(crate) folder: Option<Uuid>,
    /// The last operation that was committed.
    pub(crate) operation: u64,
    /// The first number and the first slot that were never given out.
    pub(crate) next_point: PointNumber,
    pub(crate) next_slot: Slot,
    pub(crate) points: Tally,
    pub(crate) vectors: Tally,
    pub(crate) tombstones: Tally,
    pub(crate) segments: Tally,
}

impl Header {
    pub(crate) fn new(config: CollectionConfig) -> Self {
        let none = Tally::default();
        Self {
            config,
            folder: None,
            operation: 0,
            next_point: 1,
            next_slot: 1,
            points: none,
            vectors: none,
            tombstones: none,
            segments: none,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let (folder, rest) = self.folder.unwrap_or_default().as_u64_pair();
        let mut counts = vec![folder, rest, self.operation, u64::from(self.next_point), self.next_slot];
        counts.extend([self.points, self.vectors, self.tombstones, self.segments].iter().flat_map(|tally| [tally.rows, tally.sum]));
        counts.iter().flat_map(|count| count.to_le_bytes()).collect()
    }

    fn decode(config: CollectionConfig, counts: &[u8]) -> Option<Self> {
        let (counts, rest) = counts.as_chunks::<8>();
        let counts: Vec<u64> = counts.iter().map(|count| u64::from_le_bytes(*count)).collect();
        let [folder, folder_rest, operation, next_point, next_slot, ref tallies @ ..] = counts[..] else { return None };
        let folder = Some(Uuid::from_u64_pair(folder, folder_rest)).filter(|folder| !folder.is_nil());
        let (tallies, more) = tallies.as_chunks::<2>();
        let [points, vectors, tombstones, segments] = tallies.first_chunk::<4>()?.map(|[rows, sum]| Tally { rows, sum });
        let whole = tallies.len() == 4 && more.is_empty() && rest.is_empty();
        let next_point = PointNumber::try_from(next_point).ok()?;
        whole.then_some(Self { config, folder, operation, next_point, next_slot, points, vectors, tombstones, segments })
    }
}

/// A connection to one collection's file.
pub(crate) struct Truth(pub(crate) Database);

impl Truth {
    /// Makes a new file that holds `config` and no points.
    pub(crate) fn create(path: &Path, config: CollectionConfig, synchronous: Synchronous) -> Result<Self> {
        let header = Header::new(config);
        Database::create(path, PAGE_SIZE, synchronous, |database| {
            database.run(|connection| connection.execute_batch(SCHEMA).and_then(|()| connection.execute_batch(SCHEMA_OF_SEGMENTS)))?;
            put_config(database, &header.config)?;
            put_header(database, &header)
        })
        .map(Self)
    }

    /// Opens a file for writing. One of an older format is rewritten first, in one transaction; returns which it was.
    pub(crate) fn open(path: &Path, synchronous: Synchronous) -> Result<(Self, Option<u32>)> {
        let (database, format) = Database::open(path, synchronous)?;
        let truth = Self(database);
        match format {
            FORMAT => return Ok((truth, None)),
            1 => format_1::upgrade(&truth)?,
            _ => format_2::upgrade(&truth)?,
        }
        // The new rows lie on the old pages, among those that the old rows left empty.
        truth.0.rewrite(PAGE_SIZE, synchronous)?;
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
        let text: String = self.own_row("SELECT config, checksum FROM collection", String::as_bytes)?;
        let counts: Vec<u8> = self.own_row("SELECT counts, checksum FROM tally", Vec::as_slice)?;
        let config = serde_json::from_str(&text).map_err(|error| self.damaged(format!("the collection's configuration: {error}")))?;
        Header::decode(config, &counts).ok_or_else(|| self.damaged("the collection's tally cannot be read"))
    }

    /// The content of a table's only row.
    fn own_row<T: rusqlite::types::FromSql>(&self, sql: &str, bytes: impl Fn(&T) -> &[u8]) -> Result<T> {
        let row =
            self.run(|connection| connection.query_row(sql, [], |row| Ok((row.get::<_, T>(0)?, row.get::<_, i64>(1)?))).optional())?;
        let Some((content, checksum)) = row else {
            return Err(self.damaged("the collection's own row is missing"));
        };
        if xxh3_64(bytes(&content)) as i64 != checksum {
            return Err(self.damaged("the checksum of the collection's own row is wrong"));
        }
        Ok(content)
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

    /// Writes all of a header but the configuration.
    pub(crate) fn put_header(&self, header: &Header) -> Result<()> {
        put_header(&self.0, header)
    }

    pub(crate) fn put_config(&self, config: &CollectionConfig) -> Result<()> {
        put_config(&self.0, config)
    }

    /// The first number and the first slot that were never given out.
    pub(crate) fn next_numbers(&self) -> Result<(PointNumber, Slot)> {
        let header = self.header()?;
        Ok((header.next_point, header.next_slot))
    }

    /// Writes a point; returns its row's checksum.
    pub(crate) fn insert_point(&self, point: &PointRow) -> Result<u64> {
        let checksum = point.checksum();
        self.run(|connection| {
            connection.prepare_cached("INSERT INTO point VALUES (?, ?, ?, ?, ?, ?)")?.execute(params![
                point.number,
                point.id.to_key(),
                point.version as i64,
                point.encode_slots(),
                point.payload,
                checksum as i64
            ])
        })?;
        Ok(checksum)
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
        let mut found = Vec::new();
        self.blocks(first, last, |block| {
            let wanted = block.entries.iter().filter(|entry| (first..=last).contains(&entry.slot) && block.name(entry) == name);
            let wanted: Vec<&Entry> = wanted.take(limit - found.len()).collect();
            let owners = self.points_numbered(wanted.iter().map(|entry| entry.point))?;
            for entry in wanted {
                let owner = owners.binary_search_by_key(&entry.point, |owner| owner.number).ok().map(|index| &owners[index]);
                match owner {
                    Some(owner) if owner.slots.get(name) == Some(&entry.slot) => found.push((block.vector(self, entry)?, owner.id)),
                    _ => return Err(Error::DamagedVector { path: self.0.path.clone(), slot: entry.slot }),
                }
            }
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }

    /// The points of these numbers, as far as there are any, by number.
    fn points_numbered(&self, numbers: impl Iterator<Item = PointNumber> + Clone) -> Result<Vec<PointRow>> {
        let mut points = Vec::new();
        let (Some(first), Some(last)) = (numbers.clone().min(), numbers.clone().max()) else { return Ok(points) };
        // Those of a row are mostly neighbours: one pass is quicker than a look-up each.
        if (last - first) as usize <= 4 * numbers.clone().count() {
            let sql = "SELECT number, id, version, slots, payload, checksum FROM point WHERE number BETWEEN ? AND ? ORDER BY number";
            self.visit_points(sql, [first, last], |point| {
                points.push(point);
                Ok(true)
            })?;
        } else {
            for number in numbers {
                points.extend(self.point_by_number(number)?);
            }
            points.sort_unstable_by_key(|point| point.number);
        }
        Ok(points)
    }

    /// How many vectors of one name lie in slots `first..=last`.
    pub(crate) fn count_vectors(&self, name: &str, first: Slot, last: Slot) -> Result<usize> {
        let mut count = 0;
        self.blocks(first, last, |block| {
            count += block.entries.iter().filter(|entry| (first..=last).contains(&entry.slot) && block.name(entry) == name).count();
            Ok(true)
        })?;
        Ok(count)
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

fn put_header(database: &Database, header: &Header) -> Result<()> {
    let counts = header.encode();
    let checksum = xxh3_64(&counts) as i64;
    database.run(|connection| {
        connection.prepare_cached("INSERT OR REPLACE INTO tally VALUES (1, ?, ?)")?.execute(params![counts, checksum]).map(drop)
    })
}

fn put_config(database: &Database, config: &CollectionConfig) -> Result<()> {
    let text = serde_json::to_string(config).expect("a configuration has string keys");
    let checksum = xxh3_64(text.as_bytes()) as i64;
    database.run(|connection| connection.execute("INSERT OR REPLACE INTO collection VALUES (1, ?, ?)", params![text, checksum]).map(drop))
}
