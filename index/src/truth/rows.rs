//! The rows of a collection's file as values, and their checksums.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Row;
use xxhash_rust::xxh3::xxh3_64;

use super::numbers::{put_number, take_number, unzigzag, zigzag};
use crate::error::{Error, Result};
use crate::id::PointId;
use crate::point::Payload;

/// One stored vector, for as long as the collection lives.
pub(crate) type Slot = u64;
/// One point, from its first write to its deletion.
pub(crate) type PointNumber = u32;

/// A point's row, its checksum verified.
#[derive(Clone, Debug)]
pub(crate) struct PointRow {
    pub(crate) number: PointNumber,
    pub(crate) id: PointId,
    pub(crate) version: u64,
    /// By vector name.
    pub(crate) slots: BTreeMap<String, Slot>,
    /// JSON.
    pub(crate) payload: String,
}

impl PointRow {
    pub(crate) fn checksum(&self) -> u64 {
        point_checksum(self.number, &self.id.to_key(), self.version, &self.encode_slots(), &self.payload)
    }

    pub(crate) fn payload(&self, path: &Path) -> Result<Payload> {
        let damaged = |_| Error::DamagedPoint { path: path.to_owned(), id: self.id, place: "its payload".to_owned() };
        serde_json::from_str(&self.payload).map_err(damaged)
    }

    /// For each vector: length of its name (u8), name, slot - number (zigzag, LEB128).
    pub(super) fn encode_slots(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.slots.keys().map(|name| 4 + name.len()).sum());
        for (name, slot) in &self.slots {
            bytes.push(u8::try_from(name.len()).expect("names are at most 255 bytes, checked when the collection is made"));
            bytes.extend_from_slice(name.as_bytes());
            put_number(&mut bytes, zigzag((*slot as i64).wrapping_sub(i64::from(self.number))));
        }
        bytes
    }
}

fn decode_slots(number: PointNumber, mut bytes: &[u8]) -> Option<BTreeMap<String, Slot>> {
    let mut slots = BTreeMap::new();
    while let Some((name_len, rest)) = bytes.split_first() {
        let (name, mut rest) = rest.split_at_checked(usize::from(*name_len))?;
        let slot = i64::from(number).wrapping_add(unzigzag(take_number(&mut rest)?)) as Slot;
        slots.insert(std::str::from_utf8(name).ok()?.to_owned(), slot);
        bytes = rest;
    }
    Some(slots)
}

/// A point's row as it lies in the file.
pub(super) struct RawPoint {
    number: i64,
    key: Vec<u8>,
    version: u64,
    slots: Vec<u8>,
    payload: String,
    checksum: u64,
}

impl RawPoint {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            number: row.get(0)?,
            key: row.get(1)?,
            version: row.get::<_, i64>(2)? as u64,
            slots: row.get(3)?,
            payload: row.get(4)?,
            checksum: row.get::<_, i64>(5)? as u64,
        })
    }

    pub(super) fn verify(self, path: &Path) -> Result<PointRow> {
        let Self { number, key, version, slots, payload, checksum } = self;
        let damaged = || Error::Damaged { path: path.to_owned(), reason: format!("the id of point number {number} cannot be read") };
        let id = PointId::from_key(&key).ok_or_else(damaged)?;
        let damaged = || Error::DamagedPoint { path: path.to_owned(), id, place: format!("row {number}") };
        let number = PointNumber::try_from(number).map_err(|_| damaged())?;
        if point_checksum(number, &key, version, &slots, &payload) != checksum {
            return Err(damaged());
        }
        let slots = decode_slots(number, &slots).ok_or_else(damaged)?;
        Ok(PointRow { number, id, version, slots, payload })
    }
}

/// A stored vector, its checksum verified.
#[derive(Clone, Debug)]
pub(crate) struct VectorRow {
    pub(crate) slot: Slot,
    pub(crate) point: PointNumber,
    pub(crate) name: String,
    pub(crate) vector: Vec<f32>,
}

/// A segment's row: which file holds the graph over which slots of which vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentRow {
    /// Its file's name in the collection's folder.
    pub(crate) file: String,
    pub(crate) vector: String,
    /// The segment answers for every slot of its vector from here …
    pub(crate) first: Slot,
    /// … to here.
    pub(crate) last: Slot,
    /// Of its file, in bytes.
    pub(crate) length: u64,
    /// Of its file's header, which holds the hashes of all else.
    pub(crate) hash: u128,
}

impl SegmentRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            file: row.get(0)?,
            vector: row.get(1)?,
            first: row.get::<_, i64>(2)? as u64,
            last: row.get::<_, i64>(3)? as u64,
            length: row.get::<_, i64>(4)? as u64,
            hash: u128::from_le_bytes(row.get(5)?),
        })
    }

    pub(crate) fn checksum(&self) -> u64 {
        let (range, file) =
            ([self.first.to_le_bytes(), self.last.to_le_bytes(), self.length.to_le_bytes()].concat(), self.hash.to_le_bytes());
        hash([&range, &file, self.file.as_bytes(), self.vector.as_bytes(), &[]])
    }
}

fn point_checksum(number: PointNumber, key: &[u8], version: u64, slots: &[u8], payload: &str) -> u64 {
    hash([&number.to_le_bytes(), key, &version.to_le_bytes(), slots, payload.as_bytes()])
}

pub(super) fn vector_checksum(slot: Slot, point: PointNumber, name: &str, data: &[u8]) -> u64 {
    hash([&slot.to_le_bytes(), &point.to_le_bytes(), name.as_bytes(), data, &[]])
}

pub(super) fn tombstone_checksum(slot: Slot, vector: &str) -> u64 {
    hash([&slot.to_le_bytes(), vector.as_bytes(), &[], &[], &[]])
}

/// Over the parts and their lengths, so that no byte can move from one part to the next unnoticed.
pub(super) fn hash(parts: [&[u8]; 5]) -> u64 {
    // In one piece: to hash it part by part takes several times as long for a row of some dozen bytes.
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| 8 + part.len()).sum());
    for part in parts {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_and_are_two_bytes_where_they_keep_up_with_numbers() {
        let row = |number, slots: &[(&str, Slot)]| PointRow {
            number,
            id: PointId::Num(0),
            version: 1,
            slots: slots.iter().map(|(name, slot)| ((*name).to_owned(), *slot)).collect(),
            payload: String::new(),
        };
        for (number, slots) in [(1, vec![]), (70_000, vec![("", 70_000)]), (u32::MAX, vec![("", 1), ("image", i64::MAX as u64), ("z", 0)])]
        {
            let row = row(number, &slots);
            assert_eq!(decode_slots(number, &row.encode_slots()), Some(row.slots));
        }
        assert_eq!(row(70_000, &[("", 70_001)]).encode_slots().len(), 2);
    }
}
