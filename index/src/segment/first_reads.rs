//! Codes and full rows, hashed when they are first read.
//!
//! They are nearly all of a file, and a search reads little of them: the codes of the nodes it comes by, the rows of the nearest. Opening
//! leaves them to the searches, which hash a block of them before they use any of it for the first time. A walk does not stop in the
//! middle: whoever searched looks at [`Segment::damage`] afterwards, and throws away what was found if there is any.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use super::format::{Header, Kind};
use super::{Row, Segment};
use crate::build::Node;

/// Which blocks of a section were hashed.
pub(super) struct FirstReads {
    kind: Kind,
    /// Codes or rows, and bytes of each.
    items: usize,
    bytes: usize,
    /// A block has two to the power of so many.
    shift: u32,
    /// A bit a block: its hash was right.
    seen: Vec<AtomicU64>,
    /// The section was hashed as a whole.
    whole: AtomicBool,
}

impl FirstReads {
    /// Of codes or vectors that nobody read yet; `None` if the segment has no hashes of their blocks.
    pub(super) fn of(header: &Header, kind: Kind) -> Option<Self> {
        let (hashes, items_a_block) = header.blocks_of(kind)?;
        if header.section(hashes).length == 0 {
            return None;
        }
        let (items, bytes) = header.items(kind);
        let words = items.div_ceil(items_a_block).div_ceil(64);
        let seen = (0..words).map(|_| AtomicU64::new(0)).collect();
        Some(Self { kind, items, bytes, shift: items_a_block.ilog2(), seen, whole: AtomicBool::new(false) })
    }

    pub(super) fn saw_all(&self) {
        self.whole.store(true, Ordering::Release);
    }

    fn has_seen_all(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    #[inline(always)]
    fn see(&self, segment: &Segment, item: usize) {
        let block = item >> self.shift;
        if self.seen[block / 64].load(Ordering::Relaxed) >> (block % 64) & 1 == 0 {
            self.hash(segment, block);
        }
    }

    #[cold]
    #[inline(never)]
    fn hash(&self, segment: &Segment, block: usize) {
        let items = block << self.shift..((block + 1) << self.shift).min(self.items);
        let bytes = &segment.section::<u8>(self.kind)[items.start * self.bytes..items.end * self.bytes];
        let hashes = segment.header.blocks_of(self.kind).map_or(&[][..], |(hashes, _)| segment.section::<u64>(hashes));
        if hashes.get(block) == Some(&xxh3_64(bytes)) {
            self.seen[block / 64].fetch_or(1 << (block % 64), Ordering::Relaxed);
        } else {
            segment.damage.get_or_init(|| (self.kind.name(), format!("the hash of numbers {} to {} is wrong", items.start, items.end - 1)));
        }
    }
}

/// Whom to tell which codes are read.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    segment: &'a Segment,
    reads: &'a FirstReads,
}

impl Reader<'_> {
    /// Sees to it that the codes of some nodes were hashed.
    #[inline(never)]
    pub(super) fn see(self, nodes: impl Iterator<Item = Node>) {
        nodes.for_each(|node| self.reads.see(self.segment, node as usize));
    }
}

impl Segment {
    /// `None`: all codes that [`Self::section`] gives from now on were hashed.
    pub(super) fn code_reader(&self) -> Option<Reader<'_>> {
        let reads = self.code_reads.as_ref().filter(|reads| !reads.has_seen_all())?;
        Some(Reader { segment: self, reads })
    }

    /// A full row. What it holds means nothing if there is [`Self::damage`] afterwards.
    #[inline(always)]
    pub(crate) fn vector(&self, row: Row) -> &[f32] {
        self.see(row);
        self.unseen_vector(row)
    }

    /// A full row that may not be as it was written, to ask for its memory.
    #[inline(always)]
    pub(super) fn unseen_vector(&self, row: Row) -> &[f32] {
        &self.section::<f32>(Kind::Vectors)[row as usize * self.header.size..][..self.header.size]
    }

    /// May there be full rows that were not hashed?
    pub(super) fn reads_rows_first(&self) -> bool {
        self.row_reads.as_ref().is_some_and(|reads| !reads.has_seen_all())
    }

    /// Sees to it that a full row was hashed.
    #[inline(always)]
    pub(crate) fn see(&self, row: Row) {
        if let Some(reads) = &self.row_reads {
            reads.see(self, row as usize);
        }
    }

    /// What is wrong with a code or a row that was read: nothing that was found may be believed.
    pub(crate) fn damage(&self) -> Option<String> {
        let (section, reason) = self.damage.get()?;
        Some(self.damaged(section, reason.clone()).to_string())
    }
}
