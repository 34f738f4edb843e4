//! Format 1, in which a point's vectors lay in its own row, rewritten as the present one.
//!
//! One transaction: after a crash the file is either still of format 1 or wholly of the present one. Every row's
//! checksum, the number of points and the sum of their checksums are verified before anything of them is believed.

use std::collections::BTreeMap;
use std::path::Path;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::format_2::{Vectors, id_of_key};
use super::{Header, PointRow, SCHEMA, SCHEMA_OF_SEGMENTS, Slot, Truth};
use crate::config::CollectionConfig;
use crate::database::FORMAT;
use crate::error::{Error, Result};
use crate::id::PointId;

pub(super) fn upgrade(truth: &Truth) -> Result<()> {
    truth.transaction(|truth| {
        let (config, operation, points, digest) = header(truth)?;
        truth.run(|connection| {
            connection.execute_batch("ALTER TABLE point RENAME TO point_1; ALTER TABLE collection RENAME TO collection_1;")?;
            connection.execute_batch(SCHEMA)?;
            connection.execute_batch(SCHEMA_OF_SEGMENTS)
        })?;
        let mut header = Header::new(config.clone());
        let mut vectors = Vectors::new(truth, &config);
        header.operation = operation;
        let mut sum = 0u64;
        truth.each_old_point(|old| {
            sum = sum.wrapping_add(old.checksum);
            let number = header.next_point;
            header.next_point = number.checked_add(1).ok_or_else(|| truth.damaged("it holds more points than have numbers"))?;
            let mut slots = BTreeMap::new();
            for (name, vector) in old.vectors {
                let slot = header.next_slot;
                header.next_slot += 1;
                let damaged = || Error::DamagedPoint { path: truth.0.path.clone(), id: old.id, place: format!("vector `{name}`") };
                header.vectors.add(vectors.add(slot, number, &name, &vector)?.ok_or_else(damaged)?);
                slots.insert(name, slot);
            }
            let row = PointRow { number, id: old.id, version: old.version, slots, payload: old.payload };
            header.points.add(truth.insert_point(&row)?);
            Ok(())
        })?;
        if (header.points.rows, sum) != (points, digest) {
            return Err(truth.damaged(format!("it holds {} points, not the {points} that were committed, or others", header.points.rows)));
        }
        vectors.finish()?;
        truth.run(|connection| {
            connection.execute_batch("DROP TABLE point_1; DROP TABLE collection_1;")?;
            connection.pragma_update(None, "user_version", FORMAT)
        })?;
        truth.put_config(&config)?;
        truth.put_header(&header)
    })?;
    truth.0.checkpoint()
}

/// The configuration, the last operation, the number of points and the sum of their checksums.
fn header(truth: &Truth) -> Result<(CollectionConfig, u64, u64, u64)> {
    let (text, operation, points, digest, checksum) = truth.run(|connection| {
        connection.query_row("SELECT config, operation, points, digest, checksum FROM collection", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?, row.get::<_, i64>(4)?))
        })
    })?;
    if xxh3_64(format!("{operation} {points} {digest} {text}").as_bytes()) as i64 != checksum {
        return Err(truth.damaged("the checksum of the collection's own row is wrong"));
    }
    let config = serde_json::from_str(&text).map_err(|error| truth.damaged(format!("the collection's configuration: {error}")))?;
    Ok((config, operation as u64, points as u64, digest as u64))
}

struct OldPoint {
    id: PointId,
    version: u64,
    checksum: u64,
    vectors: BTreeMap<String, Vec<f32>>,
    payload: String,
}

impl Truth {
    fn each_old_point(&self, mut visit: impl FnMut(OldPoint) -> Result<()>) -> Result<()> {
        let sqlite = |source| Error::sqlite(&self.0.path, source);
        let sql = "SELECT slot, id, version, vectors, payload, checksum FROM point_1 ORDER BY slot";
        let mut statement = self.0.connection.prepare(sql).map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let slot = row.get::<_, i64>(0).map_err(sqlite)? as Slot;
            let key: Vec<u8> = row.get(1).map_err(sqlite)?;
            let version = row.get::<_, i64>(2).map_err(sqlite)? as u64;
            let vectors: Vec<u8> = row.get(3).map_err(sqlite)?;
            let payload: String = row.get(4).map_err(sqlite)?;
            let checksum = row.get::<_, i64>(5).map_err(sqlite)? as u64;
            let id = id_of_key(&key).ok_or_else(|| self.damaged(format!("the id in slot {slot} cannot be read")))?;
            let damaged = |path: &Path| Error::DamagedPoint { path: path.to_owned(), id, place: format!("slot {slot}") };
            if old_checksum(slot, &key, version, &vectors, &payload) != checksum {
                return Err(damaged(&self.0.path));
            }
            let vectors = decode_vectors(&vectors).ok_or_else(|| damaged(&self.0.path))?;
            visit(OldPoint { id, version, checksum, vectors, payload })?;
        }
        Ok(())
    }
}

fn old_checksum(slot: Slot, key: &[u8], version: u64, vectors: &[u8], payload: &str) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&slot.to_le_bytes());
    hash.update(&version.to_le_bytes());
    for part in [key, vectors, payload.as_bytes()] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.digest()
}

/// For each vector: length of its name (u8), name, dimensions (u32), values (f32); all little-endian.
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
