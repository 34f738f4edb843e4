//! A segment: rows that do not change any more, in one file that is searched where it is mapped.
//!
//! [`write`] makes one, [`Segment::open`] maps it. What was written is then only read: [`Segment::walk`] goes through its
//! graph by codes and compares the best again by their full rows, [`Segment::scan`] compares all. A row that dies or does
//! not pass a filter is not in the [`AcceptedRows`] a search brings along; nothing in the file says so.
//!
//! **What is checked when.** Opening checks the file's length and its header's hash against what the catalogue says, and
//! the hash of every section but codes and vectors, which searches hash when they first read them ([`Verify::OnRead`]), or of these too
//! ([`Verify::Eager`]). Beside that it checks each link, each row a node stands for, each list's bounds and each run's once, so that a
//! search need not. [`Segment::load`] hashes all codes, and [`Segment::verify`] all sections, beside searches. What a code or a row
//! holds before it was hashed does no harm: they are numbers only.
//!
//! A mapped file must not be changed by others, and must not shrink: then the system ends the process (SIGBUS). The lock on
//! the data folder is what keeps others out.

mod accepted;
mod bits;
mod compare;
mod first_reads;
mod format;
mod input;
mod links;
mod middles;
mod open;
mod pool;
mod reach;
mod refine;
mod rescore;
mod runs;
mod scan;
mod walk;
mod write;

use std::path::PathBuf;
use std::sync::OnceLock;

use memmap2::Mmap;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

pub(crate) use accepted::AcceptedRows;
pub(crate) use bits::Bits;
pub use format::FORMAT;
pub(crate) use input::{RowVectors, SegmentInput};
pub(crate) use scan::nearness;
pub(crate) use walk::more_candidates;
pub(crate) use write::write;

use self::first_reads::FirstReads;
use self::format::{Header, Kind};
use self::runs::Spread;
use crate::build::{Builder, Node};
use crate::codes::{Codes, Factors, Frame};
use crate::distance::Distance;
use crate::error::{Error, Result};
use crate::id::PointId;
use crate::kernel::{Block, Isa};
use crate::large_pages::LargePages;
use crate::tail::Owner;

/// Position of a row in a segment. Rows are in ascending order of their slots.
pub(crate) type Row = u32;

/// Ending of a file that is being written, in the place of its own.
pub(crate) const UNFINISHED_SUFFIX: &str = "building";

/// Set in a node's row: the node has further rows.
const FURTHER: u32 = 1 << 31;

/// How to make a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentParams {
    /// Links a node keeps on the upper layers; twice or three times as many on layer 0. From 2 to 127.
    pub(crate) m: usize,
    /// Candidates kept while building.
    pub(crate) ef_construction: usize,
    pub(crate) codes: Codes,
    pub(crate) builder: Builder,
    pub(crate) threads: usize,
    pub(crate) seed: u64,
}

impl Default for SegmentParams {
    fn default() -> Self {
        Self { m: 16, ef_construction: 200, codes: Codes::Int8, builder: Builder::Own, threads: 1, seed: 1 }
    }
}

/// Tells a segment's file from every other: what the catalogue keeps of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Bytes of the file.
    pub(crate) len: u64,
    /// Of its header, which holds the hashes of all else.
    pub(crate) hash: u128,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentSummary {
    pub(crate) stamp: Stamp,
    pub(crate) rows: usize,
    /// Distinct vectors in the graph.
    pub(crate) nodes: usize,
    /// Nodes that could not be reached before the graph was repaired.
    pub(crate) orphans: usize,
}

/// What of a segment is hashed, and when. Links are checked at each opening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Everything when it is opened.
    Eager,
    /// Everything before it is used: codes and full rows, nearly all of a file, when a search first reads them, and the rest when it is
    /// opened. Of segments of formats before 4, which have no hashes for that, everything when they are opened.
    #[default]
    OnRead,
}

/// Where a segment's full rows begin in its file.
#[cfg(test)]
pub(crate) fn first_row(bytes: &[u8]) -> usize {
    let header = Header::decode(bytes.first_chunk().expect("a header"), bytes.len()).expect("a segment");
    header.section(Kind::Vectors).offset
}

/// A row and how near it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scored {
    /// [`Distance::score`] turned so that larger is nearer, bit for bit.
    pub(crate) nearness: f32,
    pub(crate) row: Row,
}

/// What a segment is made of.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SegmentStats {
    pub rows: usize,
    /// Distinct vectors in the graph.
    pub nodes: usize,
    /// Nodes that could not be reached before the graph was repaired.
    pub orphans: usize,
    /// Rows that are scanned beside the graph.
    pub side: usize,
    /// Links of a node on layer 0, in the mean.
    pub mean_degree: f64,
    pub codes: Codes,
    /// Are its int8 codes in halves, of which walks read the upper ones?
    pub halves: bool,
    pub builder: Builder,
    /// Bytes by section.
    pub sections: Vec<(&'static str, usize)>,
    pub file_bytes: usize,
    /// Bytes that a search reads all over: node rows, links, codes (of those in halves the upper ones all over, the lower ones of what was
    /// found), factors, and of clusters their runs and middles. The rest is read for the rows found.
    pub walked_bytes: usize,
}

/// A segment, mapped.
pub(crate) struct Segment {
    path: PathBuf,
    map: Mmap,
    header: Header,
    frame: Frame,
    /// By layer, where its nodes begin in the section of starts.
    layer_starts: Vec<usize>,
    /// Which codes and which full rows were hashed; `None`: all.
    code_reads: Option<FirstReads>,
    row_reads: Option<FirstReads>,
    /// What was wrong with the first of them that was not as it was written.
    damage: OnceLock<(&'static str, String)>,
    /// A copy of what walks read all over, on large pages.
    resident: OnceLock<LargePages<u8>>,
    /// No other segment that this process opened has it.
    serial: u64,
    /// The node that stands for each row, once somebody asked.
    row_nodes: OnceLock<Vec<Node>>,
    /// How rows are found by their points' numbers, once somebody asked.
    by_point: OnceLock<ByPoint>,
}

/// In which order the numbers of points stand in the rows.
enum ByPoint {
    /// Each one above that of the row before: so it is with points that were written once and stayed.
    Consecutive(u32),
    Ascending,
    /// In none; the rows in the order of the numbers.
    Sorted(Vec<Row>),
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("path", &self.path).field("header", &self.header).finish_non_exhaustive()
    }
}

/// What bytes of a file may be read as.
///
/// # Safety
/// Any bytes are a value of the type, and none of its bytes are padding.
unsafe trait Plain: Copy {}

// SAFETY: a number.
unsafe impl Plain for u8 {}
// SAFETY: a number.
unsafe impl Plain for u16 {}
// SAFETY: a number.
unsafe impl Plain for u32 {}
// SAFETY: a number.
unsafe impl Plain for u64 {}
// SAFETY: a number; every pattern of bits is some f32.
unsafe impl Plain for f32 {}
// SAFETY: 64 bytes, aligned to 64.
unsafe impl Plain for Block {}
// SAFETY: two f32, laid out as in C.
unsafe impl Plain for Factors {}
// SAFETY: two f32, laid out as in C.
unsafe impl Plain for Spread {}
// SAFETY: numbers.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Bytes whose pages are asked for at a time.
const POPULATED: usize = 4 << 20;

impl Segment {
    fn section<T: Plain>(&self, kind: Kind) -> &[T] {
        let range = self.header.section(kind).range();
        let copy = self.resident.get().filter(|_| Kind::WALKED.contains(&kind));
        let bytes = match copy {
            Some(copy) => &copy[range.start - self.resident_start()..range.end - self.resident_start()],
            None => &self.map[range],
        };
        // SAFETY: `Plain` allows any bytes; `align_to` sees to the alignment.
        let (before, values, after) = unsafe { bytes.align_to::<T>() };
        debug_assert!(before.is_empty() && after.is_empty(), "sections are aligned, and of whole values");
        values
    }

    /// Where in the file the copy of what is walked begins: at a multiple of a large page, so that alignment is kept.
    fn resident_start(&self) -> usize {
        let first = self.header.section(Kind::WALKED[0]).offset;
        first - first % (2 << 20)
    }

    /// Copies what walks read all over (links, codes, and what lies between) from the file's pages to large pages, and hashes the
    /// codes, as far as opening did not. Walks are faster afterwards; until then they read the file. It may run beside searches, as may
    /// [`Self::verify`] before it.
    ///
    /// # Errors
    /// The memory cannot be had; walks go on reading the file. [`Error::DamagedSegment`], and then there is [`Self::damage`].
    pub(crate) fn load(&self) -> Result<()> {
        let (start, end) = (self.resident_start(), self.header.section(Kind::WALKED[Kind::WALKED.len() - 1]).range().end);
        if self.header.nodes() == 0 || self.resident.get().is_some() {
            return Ok(());
        }
        let mut copy = LargePages::new(end - start).map_err(|source| Error::io("get memory for", &self.path, source))?;
        let first = self.header.section(Kind::WALKED[0]).offset;
        // All pages soon: walks read the file meanwhile, and need not wait for one after the other. Not all at once: whoever
        // wants memory would wait.
        #[cfg(target_os = "linux")]
        for at in (first..end).step_by(POPULATED) {
            let _ = self.map.advise_range(memmap2::Advice::PopulateRead, at, POPULATED.min(end - at));
        }
        copy[first - start..].copy_from_slice(&self.map[first..end]);
        let span = self.header.span(Kind::Codes, self.map.len());
        if self.code_reads.is_some() && xxh3_128(&copy[span.start - start..span.end - start]) != self.header.section(Kind::Codes).hash {
            let (section, reason) = self.damage.get_or_init(|| (Kind::Codes.name(), "their hash is wrong".to_owned()));
            return Err(self.damaged(section, reason.clone()));
        }
        // Another thread may have been first.
        let _ = self.resident.set(copy);
        // Whoever sees this reads the copy.
        self.code_reads.iter().for_each(FirstReads::saw_all);
        Ok(())
    }

    pub(crate) fn rows(&self) -> usize {
        self.header.rows
    }

    pub(crate) fn distance(&self) -> Distance {
        self.header.distance
    }

    /// Dimensions.
    pub(crate) fn size(&self) -> usize {
        self.header.size
    }

    /// Can it be walked?
    pub(crate) fn has_graph(&self) -> bool {
        self.header.distance != Distance::Manhattan
    }

    /// By row, ascending.
    pub(crate) fn slots(&self) -> &[u64] {
        self.section(Kind::Slots)
    }

    pub(crate) fn row_of(&self, slot: u64) -> Option<Row> {
        self.slots().binary_search(&slot).ok().map(|row| row as Row)
    }

    /// By row.
    pub(crate) fn points(&self) -> &[u32] {
        self.section(Kind::Points)
    }

    /// The rows of a point: the one that lives, if it lives here, and those that it had before.
    pub(crate) fn rows_of_point(&self, point: u32) -> impl Iterator<Item = Row> + '_ {
        let points = self.points();
        let order = self.by_point();
        let row_at = move |place: usize| match order {
            ByPoint::Consecutive(_) | ByPoint::Ascending => place as Row,
            ByPoint::Sorted(rows) => rows[place],
        };
        let (mut from, mut to) = match order {
            ByPoint::Consecutive(first) => {
                let place = (point.saturating_sub(*first) as usize).min(points.len());
                (place, place)
            }
            ByPoint::Ascending | ByPoint::Sorted(_) => (0, points.len()),
        };
        while from < to {
            let middle = from.midpoint(to);
            if points[row_at(middle) as usize] < point { from = middle + 1 } else { to = middle }
        }
        (from..points.len()).map(row_at).take_while(move |row| points[*row as usize] == point)
    }

    fn by_point(&self) -> &ByPoint {
        self.by_point.get_or_init(|| {
            let points = self.points();
            match points.first() {
                Some(first) if points.iter().zip(u64::from(*first)..).all(|(point, next)| u64::from(*point) == next) => {
                    ByPoint::Consecutive(*first)
                }
                _ if points.is_sorted() => ByPoint::Ascending,
                _ => {
                    let mut rows: Vec<Row> = (0..points.len() as Row).collect();
                    rows.sort_by_key(|row| points[*row as usize]);
                    ByPoint::Sorted(rows)
                }
            }
        })
    }

    /// The number of the first row's point, if the points of the rows are numbered one after the other from there.
    pub(crate) fn consecutive_points(&self) -> Option<u32> {
        match self.by_point() {
            ByPoint::Consecutive(first) => Some(*first),
            ByPoint::Ascending | ByPoint::Sorted(_) => None,
        }
    }

    pub(crate) fn point(&self, row: Row) -> u32 {
        self.points()[row as usize]
    }

    pub(crate) fn id(&self, row: Row) -> PointId {
        let row = row as usize;
        if self.header.id_width == 8 {
            return PointId::Num(self.section::<u64>(Kind::Ids)[row]);
        }
        let id = self.section::<[u8; 16]>(Kind::Ids)[row];
        match self.section::<u8>(Kind::IdKinds)[row / 8] >> (row % 8) & 1 {
            1 => PointId::Uuid(Uuid::from_bytes(id)),
            _ => PointId::Num(u128::from_le_bytes(id) as u64),
        }
    }

    /// Whose vector a row is.
    pub(crate) fn owner(&self, row: Row) -> Owner {
        Owner { id: self.id(row), point: self.point(row), slot: self.slots()[row as usize] }
    }

    /// Asks for what [`Self::owner`] reads.
    #[inline(always)]
    fn prefetch_owner<I: Isa>(&self, isa: I, row: Row) {
        let (row, width) = (row as usize, self.header.id_width);
        isa.prefetch(&self.section::<u8>(Kind::Ids)[row * width..], 1);
        isa.prefetch(&self.points()[row..], 1);
        isa.prefetch(&self.slots()[row..], 1);
    }

    fn further_rows(&self, node: Node) -> &[[u32; 2]] {
        let further = self.section::<[u32; 2]>(Kind::FurtherRows);
        let from = further.partition_point(|[other, _]| *other < node);
        let count = further[from..].partition_point(|[other, _]| *other == node);
        &further[from..from + count]
    }

    pub(crate) fn stats(&self) -> SegmentStats {
        let bytes = |kind| self.header.section(kind).length;
        let nodes = self.header.nodes();
        let links = self.section::<u32>(Kind::Starts)[nodes];
        SegmentStats {
            rows: self.rows(),
            nodes,
            orphans: self.header.orphans,
            side: bytes(Kind::Side) / 4,
            mean_degree: if nodes == 0 { 0.0 } else { f64::from(links) / nodes as f64 },
            codes: self.header.codes,
            halves: self.header.halves,
            builder: self.header.builder,
            sections: Kind::ALL.into_iter().map(|kind| (kind.name(), bytes(kind))).collect(),
            file_bytes: self.map.len(),
            walked_bytes: Kind::WALKED
                .iter()
                .copied()
                .filter(|kind| !matches!(kind, Kind::FurtherRows | Kind::Side | Kind::Centre))
                .map(bytes)
                .sum(),
        }
    }
}

/// Nearest first, ties by id; then cut to `want`. A row that was found twice stays once.
fn rank(segment: &Segment, mut found: Vec<Scored>, want: usize) -> Vec<Scored> {
    found.sort_unstable_by(|a, b| {
        let by_id = || segment.id(a.row).cmp(&segment.id(b.row)).then(a.row.cmp(&b.row));
        b.nearness.total_cmp(&a.nearness).then_with(by_id)
    });
    found.dedup_by_key(|scored| scored.row);
    found.truncate(want);
    found
}

#[cfg(test)]
mod tests;
