//! Format 2, in which each vector had a row of its own as it is, rewritten as the present one.
//!
//! One transaction: after a crash the file is either still of format 2 or wholly of the present one. Every row's checksum
//! and the tallies are verified before anything of them is believed. Numbers and slots stay, and with them the tables of
//! segments and tombstones and the segments' files.

use std::collections::BTreeMap;

use serde::Deserialize;
use uuid::Uuid;

use super::rows::{self, PointNumber, PointRow, Slot};
use super::{CodedVector, Header, SCHEMA, Tally, Truth, vector_checksum};
use crate::config::CollectionConfig;
use crate::database::FORMAT;
use crate::error::{Error, Result};
use crate::id::PointId;

/// Vectors that are written at once.
const WRITTEN: usize = 1024;

/// The collection's own row as it was.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldHeader {
    config: CollectionConfig,
    operation: u64,
    points: OldTally,
    vectors: OldTally,
    tombstones: OldTally,
    segments: OldTally,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct OldTally {
    rows: u64,
    sum: u64,
}

impl From<OldTally> for Tally {
    fn from(OldTally { rows, sum }: OldTally) -> Self {
        Self { rows, sum }
    }
}

pub(super) fn upgrade(truth: &Truth) -> Result<()> {
    truth.transaction(|truth| {
        let old = header(truth)?;
        let mut header = Header::new(old.config.clone());
        header.operation = old.operation;
        (header.tombstones, header.segments) = (old.tombstones.into(), old.segments.into());
        (header.next_point, header.next_slot) = next_numbers(truth)?;
        truth.run(|connection| {
            connection.execute_batch(
                "ALTER TABLE point RENAME TO point_2; ALTER TABLE vector RENAME TO vector_2; ALTER TABLE collection RENAME TO collection_2;",
            )?;
            connection.execute_batch(SCHEMA)
        })?;
        let mut tally = Tally::default();
        each_point(truth, |point, checksum| {
            tally.add(checksum);
            header.points.add(truth.insert_point(&point)?);
            Ok(())
        })?;
        truth.compare("points", tally, old.points.into())?;
        let mut tally = Tally::default();
        let mut vectors = Vectors::new(truth, &old.config);
        each_vector(truth, |slot, point, name, vector, checksum| {
            tally.add(checksum);
            let damaged = || Error::DamagedVector { path: truth.0.path.clone(), slot };
            header.vectors.add(vectors.add(slot, point, name, vector)?.ok_or_else(damaged)?);
            Ok(())
        })?;
        vectors.finish()?;
        truth.compare("vectors", tally, old.vectors.into())?;
        truth.run(|connection| {
            connection.execute_batch("DROP TABLE point_2; DROP TABLE vector_2; DROP TABLE collection_2;")?;
            connection.pragma_update(None, "user_version", FORMAT)
        })?;
        truth.put_config(&header.config)?;
        truth.put_header(&header)
    })?;
    truth.0.checkpoint()
}

fn header(truth: &Truth) -> Result<OldHeader> {
    let text: String = truth.own_row("SELECT header, checksum FROM collection", String::as_bytes)?;
    serde_json::from_str(&text).map_err(|error| truth.damaged(format!("the collection's own row: {error}")))
}

/// The first number and the first slot that were never given out.
fn next_numbers(truth: &Truth) -> Result<(PointNumber, Slot)> {
    let next = |table, key| {
        let sql = format!(
            "SELECT max(ifnull((SELECT max({key}) FROM {table}), 0), ifnull((SELECT seq FROM sqlite_sequence WHERE name = '{table}'), 0))"
        );
        truth.run(|connection| connection.query_row(&sql, [], |row| row.get::<_, i64>(0)))
    };
    let number = PointNumber::try_from(next("point", "number")?).map_err(|_| truth.damaged("a point's number is out of range"))?;
    let number = number.checked_add(1).ok_or_else(|| truth.damaged("all numbers of points were given out"))?;
    let slot = Slot::try_from(next("vector", "slot")?).map_err(|_| truth.damaged("a vector's slot is out of range"))?;
    Ok((number, slot + 1))
}

/// Each point as it is now, and the checksum of its old row.
fn each_point(truth: &Truth, mut visit: impl FnMut(PointRow, u64) -> Result<()>) -> Result<()> {
    truth.each("SELECT number, id, version, slots, payload, checksum FROM point_2 ORDER BY number", |row| {
        let sqlite = |source| Error::sqlite(&truth.0.path, source);
        let number: i64 = row.get(0).map_err(sqlite)?;
        let key: Vec<u8> = row.get(1).map_err(sqlite)?;
        let version = row.get::<_, i64>(2).map_err(sqlite)? as u64;
        let slots: Vec<u8> = row.get(3).map_err(sqlite)?;
        let payload: String = row.get(4).map_err(sqlite)?;
        let checksum = row.get::<_, i64>(5).map_err(sqlite)? as u64;
        let id = id_of_key(&key).ok_or_else(|| truth.damaged(format!("the id of point number {number} cannot be read")))?;
        let damaged = || Error::DamagedPoint { path: truth.0.path.clone(), id, place: format!("row {number}") };
        let number = PointNumber::try_from(number).map_err(|_| damaged())?;
        if rows::hash([&number.to_le_bytes(), &key, &version.to_le_bytes(), &slots, payload.as_bytes()]) != checksum {
            return Err(damaged());
        }
        let slots = decode_slots(&slots).ok_or_else(damaged)?;
        visit(PointRow { number, id, version, slots, payload }, checksum)
    })
}

/// Slot, point, name, values and old checksum of each vector.
fn each_vector(truth: &Truth, mut visit: impl FnMut(Slot, PointNumber, &str, &[f32], u64) -> Result<()>) -> Result<()> {
    truth.each("SELECT slot, point, name, data, checksum FROM vector_2 ORDER BY slot", |row| {
        let sqlite = |source| Error::sqlite(&truth.0.path, source);
        let slot = row.get::<_, i64>(0).map_err(sqlite)? as Slot;
        let point: i64 = row.get(1).map_err(sqlite)?;
        let name: String = row.get(2).map_err(sqlite)?;
        let data: Vec<u8> = row.get(3).map_err(sqlite)?;
        let checksum = row.get::<_, i64>(4).map_err(sqlite)? as u64;
        let (values, rest) = data.as_chunks::<4>();
        match PointNumber::try_from(point) {
            Ok(point) if rows::vector_checksum(slot, point, &name, &data) == checksum && rest.is_empty() => {
                let vector: Vec<f32> = values.iter().map(|x| f32::from_le_bytes(*x)).collect();
                visit(slot, point, &name, &vector, checksum)
            }
            _ => Err(Error::DamagedVector { path: truth.0.path.clone(), slot }),
        }
    })
}

/// Ids as formats 1 and 2 wrote them: a kind, then the value with its highest byte first.
pub(super) fn id_of_key(key: &[u8]) -> Option<PointId> {
    match key.split_first()? {
        (0, number) => Some(PointId::Num(u64::from_be_bytes(number.try_into().ok()?))),
        (1, uuid) => Some(PointId::Uuid(Uuid::from_bytes(uuid.try_into().ok()?))),
        _ => None,
    }
}

/// For each vector: length of its name (u8), name, slot (u64, little-endian).
fn decode_slots(mut bytes: &[u8]) -> Option<BTreeMap<String, Slot>> {
    let mut slots = BTreeMap::new();
    while let Some((name_len, rest)) = bytes.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(*name_len))?;
        let (slot, rest) = rest.split_at_checked(8)?;
        slots.insert(std::str::from_utf8(name).ok()?.to_owned(), Slot::from_le_bytes(slot.try_into().ok()?));
        bytes = rest;
    }
    Some(slots)
}

/// Vectors on their way into the new table, by ascending slots.
pub(super) struct Vectors<'a> {
    truth: &'a Truth,
    config: &'a CollectionConfig,
    waiting: Vec<CodedVector<'a>>,
}

impl<'a> Vectors<'a> {
    pub(super) fn new(truth: &'a Truth, config: &'a CollectionConfig) -> Self {
        Self { truth, config, waiting: Vec::new() }
    }

    /// Returns the vector's checksum; `None` if the collection has no such vectors.
    pub(super) fn add(&mut self, slot: Slot, point: PointNumber, name: &str, vector: &[f32]) -> Result<Option<u64>> {
        let Some((name, params)) = self.config.vectors.get_key_value(name) else { return Ok(None) };
        if params.size != vector.len() {
            return Ok(None);
        }
        let checksum = vector_checksum(slot, point, name, vector);
        self.waiting.push(CodedVector::new(slot, point, name, vector, checksum));
        if self.waiting.len() == WRITTEN {
            self.truth.insert_vectors(&self.waiting)?;
            self.waiting.clear();
        }
        Ok(Some(checksum))
    }

    pub(super) fn finish(self) -> Result<()> {
        self.truth.insert_vectors(&self.waiting)
    }
}
