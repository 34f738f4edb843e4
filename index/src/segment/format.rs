//! The form of a segment's file: a header of 4 KiB, then sections, one after the other, all little-endian.
//!
//! | part | what it holds |
//! |---|---|
//! | header | magic, format, the fields of [`Header`], a table of sections (kind, offset, length, hash), hash of the header |
//! | slots | `u64` a row, ascending |
//! | points | `u32` a row |
//! | ids | a row, a number of 8 bytes, or 16 bytes where some id is a UUID |
//! | id kinds | a bit a row, set for a UUID; only beside ids of 16 bytes |
//! | node rows | `u32` a node: the first row with its vector; the highest bit says that there are further ones |
//! | further rows | pairs of `u32`, node and row, ascending |
//! | side | `u32`: rows that no walk finds, to be scanned |
//! | starts | `u32` a node and layer, and one more: where its links start, counted in links |
//! | links | nodes in 2, 3 or 4 bytes (`link_width`), layer 0 first, then 4 bytes of zeros, so that each can be read as 4 bytes |
//! | centre | `f32` a dimension |
//! | runs | none, or for each layer, among its nodes that are on no higher one, where those of each cluster begin, and one more: `u32` |
//! | middles | the clusters' middles, as codes are |
//! | middle factors | as factors are |
//! | spreads | [`Spread`](super::runs::Spread): two `f32` a cluster |
//! | codes | 64-byte blocks, the same number a node; int8 codes may be [in halves](crate::codes::in_halves), which the header says |
//! | factors | scale and bias, two `f32` a node; where codes are in halves, the scale of the upper ones |
//! | whole scales | the scale of both halves, `f32` a node; only where codes are in halves |
//! | vectors | `f32`, rows × dimensions |
//! | vector hashes | of each block of vectors, XXH3, 64 bits; a block is of as many as fit into 4 KiB, but of a power of two, and of one at least |
//! | code hashes | of each block of codes, as many as fit into 512 bytes: the same |
//!
//! A node's number is its place in the order of levels, highest first: the nodes of layer l are 0 to `layers[l]`, and the
//! upper layers need no map. Links take 2 bytes each up to 65,536 nodes and 3 up to 16 million, about half of what fixed
//! slots of `u32` take. Format 1 had no runs, nor what belongs to them; there are none either where clusters do not hold
//! most links of their nodes. Before format 3 no codes were in halves, and there were no whole scales; before format 4 there were no
//! hashes of blocks. A section starts at a multiple of 64 bytes, one of 8 MiB or more at a multiple of 2 MiB. Its hash (XXH3, 128
//! bits) covers it and the padding behind it, which is zeros: **no byte of a file is without a hash.**

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_128;

use crate::build::Builder;
use crate::codes::{Codes, blocks_in_halves};
use crate::distance::Distance;

#[cfg(target_endian = "big")]
compile_error!("segments are mapped and read as they are, which needs a little-endian machine");

pub(crate) const MAGIC: [u8; 8] = *b"MOCOSEGM";
/// The format of segments that this build writes, and the newest it reads.
pub const FORMAT: u32 = 4;
/// The first, which had no runs, and the last ones that had no codes in halves and no hashes of blocks.
const WITHOUT_RUNS: u32 = 1;
const WITHOUT_HALVES: u32 = 2;
const WITHOUT_BLOCK_HASHES: u32 = 3;
pub(crate) const HEADER: usize = 4096;
/// Most layers a graph has.
pub(crate) const LAYERS: usize = 16;
/// Where sections start.
const ALIGNMENT: usize = 64;
/// From this size on, sections start where large pages do.
const BIG: usize = 8 << 20;
const BIG_ALIGNMENT: usize = 2 << 20;
/// Bytes of the header's own hash, its last.
const HASH: usize = 16;
/// Bytes of a row in the table of sections.
const ENTRY: usize = 4 + 4 + 8 + 8 + 16;
/// Where the table starts.
const TABLE: usize = 256;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Slots,
    Points,
    Ids,
    IdKinds,
    NodeRows,
    FurtherRows,
    Side,
    Starts,
    Links,
    Centre,
    Runs,
    Middles,
    MiddleFactors,
    Spreads,
    Codes,
    Factors,
    WholeScales,
    Vectors,
    VectorHashes,
    CodeHashes,
}

impl Kind {
    /// In the order of the file.
    pub(crate) const ALL: [Self; 20] = [
        Self::Slots,
        Self::Points,
        Self::Ids,
        Self::IdKinds,
        Self::NodeRows,
        Self::FurtherRows,
        Self::Side,
        Self::Starts,
        Self::Links,
        Self::Centre,
        Self::Runs,
        Self::Middles,
        Self::MiddleFactors,
        Self::Spreads,
        Self::Codes,
        Self::Factors,
        Self::WholeScales,
        Self::Vectors,
        Self::VectorHashes,
        Self::CodeHashes,
    ];

    /// What a walk reads all over, and what lies between in the file: all from the node rows on to the vectors.
    pub(crate) const WALKED: &'static [Self] = Self::ALL.split_at(Self::Vectors as usize).0.split_at(Self::NodeRows as usize).1;

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Points => "points",
            Self::Ids => "ids",
            Self::IdKinds => "id kinds",
            Self::NodeRows => "node rows",
            Self::FurtherRows => "further rows",
            Self::Side => "side",
            Self::Starts => "starts",
            Self::Links => "links",
            Self::Centre => "centre",
            Self::Runs => "runs",
            Self::Middles => "middles",
            Self::MiddleFactors => "middle factors",
            Self::Spreads => "spreads",
            Self::Codes => "codes",
            Self::Factors => "factors",
            Self::WholeScales => "whole scales",
            Self::Vectors => "vectors",
            Self::VectorHashes => "vector hashes",
            Self::CodeHashes => "code hashes",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Section {
    pub(crate) offset: usize,
    /// Without the padding behind it.
    pub(crate) length: usize,
    pub(crate) hash: u128,
}

impl Section {
    pub(crate) fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.length
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    pub(crate) distance: Distance,
    pub(crate) codes: Codes,
    /// Are int8 codes [in halves](crate::codes::in_halves)?
    pub(crate) halves: bool,
    pub(crate) builder: Builder,
    pub(crate) m: u32,
    pub(crate) ef_construction: u32,
    pub(crate) seed: u64,
    /// Dimensions.
    pub(crate) size: usize,
    pub(crate) rows: usize,
    /// By layer, its nodes; none where there is no graph.
    pub(crate) layers: Vec<u32>,
    /// Nodes that could not be reached before the graph was repaired.
    pub(crate) orphans: usize,
    /// Bytes of an id.
    pub(crate) id_width: usize,
    /// Bytes of a link.
    pub(crate) link_width: usize,
    /// Of [`crate::codes::Frame`].
    pub(crate) unit: f64,
    /// By [`Kind`], in the order of [`Kind::ALL`].
    pub(crate) sections: [Section; Kind::ALL.len()],
}

/// Bytes of vectors and of codes that have a hash of their own, as far as one of them is not longer.
const VECTORS_A_BLOCK: usize = 4 << 10;
const CODES_A_BLOCK: usize = 512;

/// Where a section of `length` bytes can start, at `offset` or after it.
pub(crate) fn aligned(offset: usize, length: usize) -> usize {
    offset.next_multiple_of(if length >= BIG { BIG_ALIGNMENT } else { ALIGNMENT })
}

/// Why a header was not taken.
#[derive(Debug, PartialEq)]
pub(crate) enum Refused {
    /// Written by a newer build.
    Newer(u32),
    Damaged(String),
}

impl Header {
    pub(crate) fn nodes(&self) -> usize {
        self.layers.first().map_or(0, |nodes| *nodes as usize)
    }

    pub(crate) fn section(&self, kind: Kind) -> &Section {
        &self.sections[kind as usize]
    }

    pub(crate) fn section_mut(&mut self, kind: Kind) -> &mut Section {
        &mut self.sections[kind as usize]
    }

    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend([
            distance_code(self.distance),
            codes_code(self.codes, self.halves),
            builder_code(self.builder),
            self.layers.len() as u8,
        ]);
        bytes.extend(self.m.to_le_bytes());
        bytes.extend(self.ef_construction.to_le_bytes());
        for number in [self.seed, self.size as u64, self.rows as u64, self.orphans as u64, self.id_width as u64, self.link_width as u64] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.unit.to_le_bytes());
        for layer in 0..LAYERS {
            bytes.extend(self.layers.get(layer).copied().unwrap_or(0).to_le_bytes());
        }
        bytes.resize(TABLE, 0);
        for (kind, section) in Kind::ALL.into_iter().zip(&self.sections) {
            bytes.extend((kind as u32).to_le_bytes());
            bytes.extend(0u32.to_le_bytes());
            bytes.extend((section.offset as u64).to_le_bytes());
            bytes.extend((section.length as u64).to_le_bytes());
            bytes.extend(section.hash.to_le_bytes());
        }
        bytes.resize(HEADER - HASH, 0);
        let hash = xxh3_128(&bytes);
        bytes.extend(hash.to_le_bytes());
        bytes.try_into().expect("the header has its size")
    }

    /// Reads the first bytes of a file of `len` bytes. Every field is within its bounds afterwards, and the sections lie in
    /// the file one behind the other, as long as the fields want them.
    pub(crate) fn decode(bytes: &[u8; HEADER], len: usize) -> Result<Self, Refused> {
        let damaged = |reason: &str| Refused::Damaged(reason.to_owned());
        if bytes[..8] != MAGIC {
            return Err(damaged("this is no segment"));
        }
        let mut reader = Reader { bytes, at: 8 };
        let format = reader.u32();
        if format > FORMAT {
            return Err(Refused::Newer(format));
        }
        if header_hash(bytes) != xxh3_128(&bytes[..HEADER - HASH]) {
            return Err(damaged("its hash is wrong"));
        }
        // From here on the bytes are what some build wrote; the checks keep a wrong build from doing harm.
        if !(WITHOUT_RUNS..=FORMAT).contains(&format) {
            return Err(Refused::Damaged(format!("there is no format {format}")));
        }
        let has = |kind| match kind {
            Kind::Runs | Kind::Middles | Kind::MiddleFactors | Kind::Spreads => format > WITHOUT_RUNS,
            Kind::WholeScales => format > WITHOUT_HALVES,
            Kind::VectorHashes | Kind::CodeHashes => format > WITHOUT_BLOCK_HASHES,
            _ => true,
        };
        let [distance, codes, builder, layer_count] = reader.take::<4>();
        let distance = *DISTANCES.get(usize::from(distance)).ok_or_else(|| damaged("unknown distance"))?;
        let known = CODES.get(usize::from(codes)).filter(|(_, halves)| !halves || format > WITHOUT_HALVES);
        let (codes, halves) = *known.ok_or_else(|| damaged("unknown codes"))?;
        let builder = *BUILDERS.get(usize::from(builder)).ok_or_else(|| damaged("unknown builder"))?;
        let (m, ef_construction, seed) = (reader.u32(), reader.u32(), reader.u64());
        let [size, rows, orphans, id_width, link_width] = [(); 5].map(|()| reader.u64());
        let unit = f64::from_le_bytes(reader.take());
        let layers: Vec<u32> = (0..LAYERS).map(|_| reader.u32()).collect();
        let layers = layers.get(..usize::from(layer_count)).ok_or_else(|| damaged("too many layers"))?.to_vec();
        let within = |value: u64, range: Range<u64>, what: &str| match range.contains(&value) {
            true => Ok(value as usize),
            false => Err(Refused::Damaged(format!("{value} is no {what}"))),
        };
        let size = within(size, 1..crate::config::MAX_SIZE as u64 + 1, "number of dimensions")?;
        let rows = within(rows, 0..1 << 31, "number of rows")?;
        let orphans = within(orphans, 0..rows as u64 + 1, "number of orphans")?;
        let id_width = within(id_width, 8..17, "size of an id")?;
        let link_width = within(link_width, 2..5, "size of a link")?;
        if layers.windows(2).any(|pair| pair[1] > pair[0]) || layers.iter().any(|nodes| *nodes == 0 || *nodes as usize > rows) {
            return Err(damaged("its layers are out of order"));
        }
        if !(unit.is_finite() && unit > 0.0 && matches!(id_width, 8 | 16)) {
            return Err(damaged("its unit or size of ids cannot be"));
        }
        reader.at = TABLE;
        let mut sections = [Section::default(); Kind::ALL.len()];
        for (place, kind) in Kind::ALL.into_iter().filter(|kind| has(*kind)).enumerate() {
            if (reader.u32(), reader.u32()) != (place as u32, 0) {
                return Err(damaged("its table of sections is out of order"));
            }
            let (offset, length) = (reader.u64(), reader.u64());
            let end = offset.checked_add(length).filter(|end| *end <= len as u64);
            end.ok_or_else(|| Refused::Damaged(format!("the {} reach past the end of the file", kind.name())))?;
            sections[kind as usize] =
                Section { offset: offset as usize, length: length as usize, hash: u128::from_le_bytes(reader.take()) };
        }
        // Those that its format lacks are empty, where the next one begins.
        for kind in Kind::ALL.into_iter().rev().filter(|kind| !has(*kind)) {
            let offset = sections.get(kind as usize + 1).map_or(len, |next| next.offset);
            sections[kind as usize] = Section { offset, length: 0, hash: xxh3_128(&[]) };
        }
        let header = Self {
            distance,
            codes,
            halves,
            builder,
            m,
            ef_construction,
            seed,
            size,
            rows,
            layers,
            orphans,
            id_width,
            link_width,
            unit,
            sections,
        };
        let mut end = HEADER;
        for (kind, section) in Kind::ALL.into_iter().zip(&header.sections) {
            if has(kind) {
                if section.offset != aligned(end, section.length) {
                    return Err(Refused::Damaged(format!("the {} are out of place", kind.name())));
                }
                end = section.offset + section.length;
            }
            header.check_length(kind, section.length).map_err(Refused::Damaged)?;
        }
        if end.next_multiple_of(ALIGNMENT) != len {
            return Err(damaged("the file does not end with its last section"));
        }
        Ok(header)
    }

    /// How many rows or nodes a section of vectors or codes is of, and bytes of each.
    pub(crate) fn items(&self, kind: Kind) -> (usize, usize) {
        match kind {
            Kind::Vectors => (self.rows, 4 * self.size),
            Kind::Codes => (self.nodes(), self.blocks() * crate::kernel::BLOCK),
            _ => (0, 0),
        }
    }

    /// Where the hashes of a section's blocks are, and how many items make a block, which is a power of two; `None` if it has none.
    pub(crate) fn blocks_of(&self, kind: Kind) -> Option<(Kind, usize)> {
        let (hashes, most) = match kind {
            Kind::Vectors => (Kind::VectorHashes, VECTORS_A_BLOCK),
            Kind::Codes => (Kind::CodeHashes, CODES_A_BLOCK),
            _ => return None,
        };
        let (_, bytes) = self.items(kind);
        (bytes > 0).then(|| (hashes, 1 << (most / bytes).max(1).ilog2()))
    }

    fn block_count(&self, kind: Kind) -> usize {
        self.blocks_of(kind).map_or(0, |(_, items)| self.items(kind).0.div_ceil(items))
    }

    /// Blocks of a node's code.
    pub(crate) fn blocks(&self) -> usize {
        if self.halves { blocks_in_halves(self.size) } else { self.codes.blocks(self.size) }
    }

    /// Can searches use runs? Under Dot the nearest are not around the nearest middles, and there are middles only of these codes.
    pub(crate) fn may_have_runs(&self) -> bool {
        matches!(self.distance, Distance::Cosine | Distance::Euclid) && matches!(self.codes, Codes::Int8 | Codes::Int4) && !self.halves
    }

    /// Clusters that have runs.
    pub(crate) fn runs(&self) -> usize {
        match self.layers.len() {
            0 => 0,
            layers => (self.section(Kind::Runs).length / (4 * layers)).saturating_sub(1),
        }
    }

    fn check_length(&self, kind: Kind, length: usize) -> Result<(), String> {
        let (rows, nodes, runs) = (self.rows, self.nodes(), self.runs());
        let lists: usize = self.layers.iter().map(|nodes| *nodes as usize).sum();
        let coded = self.codes.blocks(self.size) > 0 && nodes > 0;
        let fits = match kind {
            Kind::Slots => length == 8 * rows,
            Kind::Points => length == 4 * rows,
            Kind::Ids => length == self.id_width * rows,
            Kind::IdKinds => length == if self.id_width == 16 { rows.div_ceil(8) } else { 0 },
            Kind::NodeRows => length == 4 * nodes,
            Kind::FurtherRows => length.is_multiple_of(8) && length <= 8 * rows,
            Kind::Side => length.is_multiple_of(4) && length <= 4 * rows,
            Kind::Starts => length == 4 * (lists + 1),
            Kind::Links => length >= 4 && (length - 4).is_multiple_of(self.link_width),
            Kind::Centre => length == 4 * self.size,
            Kind::Runs if runs == 0 || !self.may_have_runs() => length == 0,
            Kind::Runs => length == 4 * self.layers.len() * (runs + 1),
            Kind::Middles => length == runs * self.codes.blocks(self.size) * crate::kernel::BLOCK,
            Kind::MiddleFactors => length == if coded { 8 * runs } else { 0 },
            Kind::Spreads => length == 8 * runs,
            Kind::Codes => length == nodes * self.blocks() * crate::kernel::BLOCK,
            Kind::Factors => length == if coded { 8 * nodes } else { 0 },
            Kind::WholeScales => length == if self.halves { 4 * nodes } else { 0 },
            Kind::Vectors => length == 4 * rows * self.size,
            // None where the format has none.
            Kind::VectorHashes => length == 0 || length == 8 * self.block_count(Kind::Vectors),
            Kind::CodeHashes => length == 0 || length == 8 * self.block_count(Kind::Codes),
        };
        if fits { Ok(()) } else { Err(format!("the {} have {length} bytes", kind.name())) }
    }

    /// A section with the padding behind it, which its hash covers too.
    pub(crate) fn span(&self, kind: Kind, len: usize) -> Range<usize> {
        let end = self.sections.get(kind as usize + 1).map_or(len, |next| next.offset);
        self.section(kind).offset..end
    }
}

/// The hash that a header says it has; with a file's length, it tells the file from all others.
pub(crate) fn header_hash(bytes: &[u8; HEADER]) -> u128 {
    let mut reader = Reader { bytes, at: HEADER - HASH };
    u128::from_le_bytes(reader.take())
}

struct Reader<'a> {
    bytes: &'a [u8; HEADER],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.bytes[self.at..self.at + N].try_into().expect("the slice has N bytes");
        self.at += N;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

const DISTANCES: [Distance; 4] = [Distance::Cosine, Distance::Dot, Distance::Euclid, Distance::Manhattan];
/// And whether they are in halves.
const CODES: [(Codes, bool); 5] =
    [(Codes::F32, false), (Codes::F16, false), (Codes::Int8, false), (Codes::Int4, false), (Codes::Int8, true)];
const BUILDERS: [Builder; 2] = [Builder::Own, Builder::HnswRs];

// These numbers are in files: they may be added to, never changed.
fn distance_code(distance: Distance) -> u8 {
    match distance {
        Distance::Cosine => 0,
        Distance::Dot => 1,
        Distance::Euclid => 2,
        Distance::Manhattan => 3,
    }
}

fn codes_code(codes: Codes, halves: bool) -> u8 {
    match codes {
        Codes::Int8 if halves => 4,
        Codes::F32 => 0,
        Codes::F16 => 1,
        Codes::Int8 => 2,
        Codes::Int4 => 3,
    }
}

fn builder_code(builder: Builder) -> u8 {
    match builder {
        Builder::Own => 0,
        Builder::HnswRs => 1,
    }
}

const _: () = assert!((CODES_A_BLOCK / crate::kernel::BLOCK).is_power_of_two(), "a batch of codes is of whole blocks");
const _: () = assert!(TABLE + ENTRY * Kind::ALL.len() <= HEADER - HASH, "the table fits the header");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_choices_are_read_as_they_were_written() {
        assert!(DISTANCES.iter().enumerate().all(|(i, distance)| usize::from(distance_code(*distance)) == i));
        assert!(CODES.iter().enumerate().all(|(i, codes)| usize::from(codes_code(codes.0, codes.1)) == i));
        assert!(BUILDERS.iter().enumerate().all(|(i, builder)| usize::from(builder_code(*builder)) == i));
        assert!(Kind::ALL.iter().enumerate().all(|(i, kind)| *kind as usize == i));
    }
}
