//! The vectors of a collection's file: some a row, so that a page is filled and the row's own cost is shared.
//!
//! ```text
//! how many kinds | each: length of the name (u8), name, dimensions
//! how many vectors | each: slot - the one before - 1, point - the one before, kind where there are several, bytes of its body
//! each vector's checksum (u64) | their bodies
//! ```
//!
//! Numbers are LEB128, differences with a sign zigzag, all else little-endian. Slots ascend, within a row and from row to
//! row. A vector of 512 dimensions takes 1.7 KiB: a page of 4 KiB holds two and wastes a sixth, a row of sixteen in a
//! chain of overflow pages wastes nearly nothing. A write of one vector makes a row of one, which costs the log one page.
//! A vector that dies is cut out of its row in the transaction that kills it.
//!
//! The row has a checksum over its bytes, and each vector one over what its bytes say: a row is verified whenever it is
//! read, a vector whenever it is decoded.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rusqlite::{OptionalExtension, Row, params};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::numbers::{put_number, take, take_number, unzigzag, zigzag};
use super::rows::{PointNumber, Slot, VectorRow, vector_checksum};
use super::{PAGE_SIZE, Truth, floats};
use crate::error::{Error, Result};

/// Bytes of a row's vectors, at most, unless a single one has more.
const LONGEST_ROW: usize = 28 << 10;

/// A vector as it is written.
pub(crate) struct CodedVector<'a> {
    slot: Slot,
    point: PointNumber,
    name: &'a str,
    size: usize,
    checksum: u64,
    body: Vec<u8>,
}

impl<'a> CodedVector<'a> {
    /// With the vector's [`checksum`].
    pub(crate) fn new(slot: Slot, point: PointNumber, name: &'a str, vector: &[f32], checksum: u64) -> Self {
        let mut body = Vec::new();
        floats::encode(vector, &mut body);
        Self { slot, point, name, size: vector.len(), checksum, body }
    }
}

/// Of a vector, over what it is and not how it is written.
pub(crate) fn checksum(slot: Slot, point: PointNumber, name: &str, vector: &[f32]) -> u64 {
    vector_checksum(slot, point, name, &floats::bytes_of(vector))
}

/// A row, its own checksum verified.
pub(super) struct Block {
    first: Slot,
    kinds: Vec<(String, usize)>,
    pub(super) entries: Vec<Entry>,
    data: Vec<u8>,
}

pub(super) struct Entry {
    pub(super) slot: Slot,
    pub(super) point: PointNumber,
    kind: usize,
    pub(super) checksum: u64,
    body: Range<usize>,
}

impl Block {
    fn read(row: &Row<'_>) -> rusqlite::Result<(i64, Vec<u8>, i64)> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    }

    fn verify(truth: &Truth, (first, data, checksum): (i64, Vec<u8>, i64)) -> Result<Self> {
        let first = first as Slot;
        let damaged = || Error::DamagedVector { path: truth.0.path.clone(), slot: first };
        if row_checksum(first, &data) as i64 != checksum {
            return Err(damaged());
        }
        Self::parse(first, data).ok_or_else(damaged)
    }

    fn parse(first: Slot, data: Vec<u8>) -> Option<Self> {
        let mut rest = &data[..];
        let mut kinds = Vec::new();
        for _ in 0..take_number(&mut rest)? {
            let name = take(&mut rest, 1).and_then(|len| take(&mut rest, usize::from(len[0])))?;
            kinds.push((std::str::from_utf8(name).ok()?.to_owned(), usize::try_from(take_number(&mut rest)?).ok()?));
        }
        let len = usize::try_from(take_number(&mut rest)?).ok()?;
        let mut entries: Vec<Entry> = Vec::with_capacity(len.min(data.len()));
        let (mut next, mut point, mut end) = (first, 0i64, 0usize);
        for _ in 0..len {
            let slot = next.checked_add(take_number(&mut rest)?)?;
            next = slot.checked_add(1)?;
            point = point.checked_add(unzigzag(take_number(&mut rest)?))?;
            let kind = if kinds.len() > 1 { usize::try_from(take_number(&mut rest)?).ok()? } else { 0 };
            let start = end;
            end = end.checked_add(usize::try_from(take_number(&mut rest)?).ok()?)?;
            kinds.get(kind)?;
            entries.push(Entry { slot, point: PointNumber::try_from(point).ok()?, kind, checksum: 0, body: start..end });
        }
        let (checksums, _) = take(&mut rest, len.checked_mul(8)?)?.as_chunks::<8>();
        if rest.len() != end || entries.is_empty() {
            return None;
        }
        let bodies = data.len() - end;
        for (entry, checksum) in entries.iter_mut().zip(checksums) {
            entry.checksum = u64::from_le_bytes(*checksum);
            entry.body = bodies + entry.body.start..bodies + entry.body.end;
        }
        Some(Self { first, kinds, entries, data })
    }

    pub(super) fn name(&self, entry: &Entry) -> &str {
        &self.kinds[entry.kind].0
    }

    fn find(&self, slot: Slot) -> Option<&Entry> {
        self.entries.binary_search_by_key(&slot, |entry| entry.slot).ok().map(|index| &self.entries[index])
    }

    /// Decodes a vector and verifies what it says.
    pub(super) fn vector(&self, truth: &Truth, entry: &Entry) -> Result<VectorRow> {
        let Entry { slot, point, .. } = *entry;
        let (name, size) = &self.kinds[entry.kind];
        match floats::decode(&self.data[entry.body.clone()], *size) {
            Some(vector) if checksum(slot, point, name, &vector) == entry.checksum => {
                Ok(VectorRow { slot, point, name: name.clone(), vector })
            }
            _ => Err(Error::DamagedVector { path: truth.0.path.clone(), slot }),
        }
    }

    fn without(&self, dead: &BTreeSet<Slot>) -> Vec<CodedVector<'_>> {
        let living = self.entries.iter().filter(|entry| !dead.contains(&entry.slot));
        let coded = living.map(|entry| {
            let (name, size) = &self.kinds[entry.kind];
            let Entry { slot, point, checksum, .. } = *entry;
            CodedVector { slot, point, name, size: *size, checksum, body: self.data[entry.body.clone()].to_vec() }
        });
        coded.collect()
    }
}

impl Truth {
    /// Writes vectors of ascending slots, all above those that are stored.
    pub(crate) fn insert_vectors(&self, mut vectors: &[CodedVector<'_>]) -> Result<()> {
        while let Some(first) = vectors.first() {
            let (row, rest) = vectors.split_at(row_len(vectors));
            let (slot, data) = (first.slot, encode(first.slot, row));
            let checksum = row_checksum(slot, &data);
            self.run(|connection| {
                connection.prepare_cached("INSERT INTO block VALUES (?, ?, ?)")?.execute(params![slot as i64, data, checksum as i64])
            })?;
            vectors = rest;
        }
        Ok(())
    }

    /// Cuts vectors out of their rows; each one's checksum is given to `each`.
    pub(crate) fn delete_vectors(&self, dead: &BTreeSet<Slot>, mut each: impl FnMut(u64)) -> Result<()> {
        let mut next = dead.first().copied();
        while let Some(slot) = next {
            let missing = |slot| self.damaged(format!("the vector in slot {slot} is missing"));
            let block = self.block_of(slot)?.ok_or_else(|| missing(slot))?;
            let last = block.entries.last().map_or(slot, |entry| entry.slot).max(slot);
            for slot in dead.range(slot..=last) {
                each(block.find(*slot).ok_or_else(|| missing(*slot))?.checksum);
            }
            let living = block.without(dead);
            let changed = self.run(|connection| {
                let first = block.first as i64;
                if living.is_empty() {
                    return connection.prepare_cached("DELETE FROM block WHERE first = ?")?.execute([first]);
                }
                let data = encode(block.first, &living);
                let checksum = row_checksum(block.first, &data) as i64;
                connection
                    .prepare_cached("UPDATE block SET data = ?2, checksum = ?3 WHERE first = ?1")?
                    .execute(params![first, data, checksum])
            })?;
            self.expect_one(changed, || format!("the row of the vectors from slot {} on is missing", block.first))?;
            next = last.checked_add(1).and_then(|from| dead.range(from..).next().copied());
        }
        Ok(())
    }

    /// The row that holds a slot, if there is one.
    pub(super) fn block_of(&self, slot: Slot) -> Result<Option<Block>> {
        let sql = "SELECT first, data, checksum FROM block WHERE first <= ? ORDER BY first DESC LIMIT 1";
        let row = self.run(|connection| connection.prepare_cached(sql)?.query_row([slot as i64], Block::read).optional())?;
        row.map(|row| Block::verify(self, row)).transpose()
    }

    /// The vector in a slot; `None` if it was replaced or deleted since the slot was looked up.
    pub(crate) fn vector(&self, slot: Slot) -> Result<Option<VectorRow>> {
        let Some(block) = self.block_of(slot)? else { return Ok(None) };
        block.find(slot).map(|entry| block.vector(self, entry)).transpose()
    }

    /// Rows that may hold slots `first..=last`, ascending, as long as `visit` wants more.
    pub(super) fn blocks(&self, first: Slot, last: Slot, mut visit: impl FnMut(&Block) -> Result<bool>) -> Result<()> {
        let sqlite = |source| Error::sqlite(&self.0.path, source);
        let sql = "SELECT first, data, checksum FROM block
                   WHERE first BETWEEN ifnull((SELECT max(first) FROM block WHERE first <= ?1), ?1) AND ?2 ORDER BY first";
        let mut statement = self.0.connection.prepare_cached(sql).map_err(sqlite)?;
        let mut rows = statement.query(params![first as i64, last as i64]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            if !visit(&Block::verify(self, Block::read(row).map_err(sqlite)?)?)? {
                break;
            }
        }
        Ok(())
    }
}

fn row_checksum(first: Slot, data: &[u8]) -> u64 {
    xxh3_64_with_seed(data, first)
}

fn encode(first: Slot, vectors: &[CodedVector<'_>]) -> Vec<u8> {
    let mut kinds: BTreeMap<(&str, usize), usize> = vectors.iter().map(|vector| ((vector.name, vector.size), 0)).collect();
    kinds.values_mut().enumerate().for_each(|(number, kind)| *kind = number);
    let mut data = Vec::with_capacity(vectors.iter().map(|vector| vector.body.len() + 32).sum::<usize>() + 64);
    put_number(&mut data, kinds.len() as u64);
    for (name, size) in kinds.keys() {
        data.push(u8::try_from(name.len()).expect("names are at most 255 bytes, checked when the collection is made"));
        data.extend_from_slice(name.as_bytes());
        put_number(&mut data, *size as u64);
    }
    put_number(&mut data, vectors.len() as u64);
    let (mut next, mut point) = (first, 0);
    for vector in vectors {
        put_number(&mut data, vector.slot - next);
        put_number(&mut data, zigzag(i64::from(vector.point) - point));
        if kinds.len() > 1 {
            put_number(&mut data, kinds[&(vector.name, vector.size)] as u64);
        }
        put_number(&mut data, vector.body.len() as u64);
        (next, point) = (vector.slot + 1, i64::from(vector.point));
    }
    vectors.iter().for_each(|vector| data.extend(vector.checksum.to_le_bytes()));
    vectors.iter().for_each(|vector| data.extend_from_slice(&vector.body));
    data
}

/// How many of `vectors` the next row takes: of all numbers that make a row of some length, the one that wastes least.
fn row_len(vectors: &[CodedVector<'_>]) -> usize {
    let mut best = (f64::INFINITY, 1);
    let mut bytes = 8;
    for (index, vector) in vectors.iter().enumerate() {
        bytes += vector.body.len() + 13;
        if index > 0 && bytes > LONGEST_ROW {
            break;
        }
        let share = waste(bytes) as f64 / bytes as f64;
        if bytes < LONGEST_ROW / 2 || share <= best.0 {
            best = (share, index + 1);
        }
    }
    best.1
}

/// About how many bytes of its pages a row leaves empty, as SQLite shares it out between a leaf and a chain of overflow pages.
fn waste(data: usize) -> usize {
    let page = PAGE_SIZE as usize;
    // With its own header, and the row's other columns.
    let (row, in_leaf) = (data + 17, page - 35);
    let leaf = |local: usize| {
        let (cell, room) = (local + 11, page - 8);
        room / (room / cell).max(1) - cell.min(room)
    };
    if row <= in_leaf {
        return leaf(row);
    }
    let least = (page - 12) * 32 / 255 - 23;
    let last = (row - least) % (page - 4);
    // What the last page of the chain would hold lies in the leaf, if it can.
    if least + last <= in_leaf { leaf(least + last) } else { leaf(least) + page - 4 - last }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(count: u64) -> Vec<(Slot, PointNumber, &'static str, Vec<f32>)> {
        let name = |n: u64| if n.is_multiple_of(3) { "image" } else { "" };
        let values = |n: u64| (0..if n.is_multiple_of(3) { 7 } else { 40 }).map(|i| ((n * 31 + i) % 17) as f32 * 0.37).collect();
        (0..count).map(|n| (1000 + n * n % 3 + n * 4, (500 - n) as PointNumber, name(n), values(n))).collect()
    }

    fn coded<'a>(vectors: &'a [(Slot, PointNumber, &'static str, Vec<f32>)]) -> Vec<CodedVector<'a>> {
        vectors
            .iter()
            .map(|(slot, point, name, vector)| CodedVector::new(*slot, *point, name, vector, checksum(*slot, *point, name, vector)))
            .collect()
    }

    #[test]
    fn a_row_says_what_was_put_into_it() {
        for count in [1, 2, 3, 50] {
            let vectors = vectors(count);
            let coded = coded(&vectors);
            let block = Block::parse(1000, encode(1000, &coded)).unwrap();
            assert_eq!(block.entries.len(), vectors.len());
            for ((slot, point, name, vector), entry) in vectors.iter().zip(&block.entries) {
                assert_eq!((entry.slot, entry.point, block.name(entry)), (*slot, *point, *name));
                assert_eq!(entry.checksum, checksum(*slot, *point, name, vector));
                assert_eq!(floats::decode(&block.data[entry.body.clone()], vector.len()).as_ref(), Some(vector));
            }
            let dead: BTreeSet<Slot> = vectors.iter().map(|vector| vector.0).filter(|slot| slot % 2 == 0).collect();
            let living: Vec<Slot> = block.without(&dead).iter().map(|vector| vector.slot).collect();
            assert!(living.iter().all(|slot| slot % 2 == 1) && living.len() + dead.len() == vectors.len());
        }
    }

    #[test]
    fn a_row_cut_short_or_of_other_bytes_is_refused_or_says_something_else_and_no_more() {
        let vectors = vectors(9);
        let good = encode(1000, &coded(&vectors));
        for len in 0..good.len() {
            assert!(Block::parse(1000, good[..len].to_vec()).is_none(), "cut to {len}");
        }
        for at in 0..good.len() {
            for value in 0..=255 {
                let mut bad = good.clone();
                bad[at] = value;
                if let Some(block) = Block::parse(u64::MAX - 3, bad) {
                    block.entries.iter().for_each(|entry| drop(floats::decode(&block.data[entry.body.clone()], block.kinds[entry.kind].1)));
                }
            }
        }
    }

    #[test]
    fn rows_are_as_long_as_wastes_least() {
        for size in [128usize, 384, 512, 768, 2048, 5000] {
            // Noise: raw, of a known length.
            let vector: Vec<f32> = (0..size as u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9) & 0xbfff_ffff)).collect();
            let vectors: Vec<_> = (0..400).map(|n| (n + 1, n as PointNumber, "", vector.clone())).collect();
            let coded: Vec<CodedVector<'_>> = vectors
                .iter()
                .map(|(slot, point, name, vector)| CodedVector::new(*slot, *point, name, vector, checksum(*slot, *point, name, vector)))
                .collect();
            let row = encode(1, &coded[..row_len(&coded)]);
            assert!(row.len() <= LONGEST_ROW.max(4 * size + 64), "{size}: {}", row.len());
            assert!(waste(row.len()) * 100 < 6 * row.len(), "{size}: {} of {}", waste(row.len()), row.len());
        }
    }
}
