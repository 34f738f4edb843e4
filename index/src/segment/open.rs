//! Mapping a segment, and believing none of it before it is checked.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use memmap2::Mmap;
use xxhash_rust::xxh3::xxh3_128;

use super::first_reads::FirstReads;
use super::format::{FORMAT, HEADER, Header, Kind, Refused, header_hash};
use super::runs::Runs;
use super::{FURTHER, Segment, Stamp, Verify};
use crate::build::MOST_LINKS;
use crate::codes::Frame;
use crate::error::{Error, Result};
use crate::kernel::{Isa, Kernel, Work};

/// From so many bytes on a second thread is worth its start.
const MUCH: usize = 8 << 20;

/// Of the next segment that is opened.
static SERIAL: AtomicU64 = AtomicU64::new(0);

impl Segment {
    /// Maps the segment at `path`, which must be the one that `stamp` was made of. Fails with [`Error::DamagedSegment`] on
    /// whatever is not as it was written, as far as it is looked at now, and with [`Error::Format`] on what a newer build wrote.
    pub(crate) fn open(path: &Path, stamp: &Stamp, verify: Verify) -> Result<Self> {
        let damaged = |section: &'static str, reason: String| Error::DamagedSegment { path: path.to_owned(), section, reason };
        let io = |action| move |source| Error::io(action, path, source);
        let file = File::open(path).map_err(io("open"))?;
        let len = file.metadata().map_err(io("read"))?.len();
        if len < HEADER as u64 {
            return Err(damaged("header", format!("the file has only {len} bytes")));
        }
        // SAFETY: nobody changes a segment once it has its name, and the folder is locked against other processes.
        let map = unsafe { Mmap::map(&file) }.map_err(io("map"))?;
        let bytes: &[u8; HEADER] = map.first_chunk().ok_or_else(|| damaged("header", "the file has shrunk".to_owned()))?;
        let header = Header::decode(bytes, map.len()).map_err(|refused| match refused {
            Refused::Newer(found) => Error::Format { path: path.to_owned(), found, supported: FORMAT },
            Refused::Damaged(reason) => damaged("header", reason),
        })?;
        if (Stamp { len, hash: header_hash(bytes) }) != *stamp {
            return Err(damaged("header", "this is another segment than the catalogue names".to_owned()));
        }
        let mut layer_starts = Vec::new();
        let mut lists = 0;
        for nodes in &header.layers {
            layer_starts.push(lists);
            lists += *nodes as usize;
        }
        let frame = Frame { centre: Vec::new(), unit: header.unit };
        let reads = |kind| (verify == Verify::OnRead).then(|| FirstReads::of(&header, kind)).flatten();
        let (code_reads, row_reads) = (reads(Kind::Codes), reads(Kind::Vectors));
        let now = |kind: &Kind| match kind {
            Kind::Codes => code_reads.is_none(),
            Kind::Vectors => row_reads.is_none(),
            _ => true,
        };
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(now).collect();
        let mut segment = Self {
            path: path.to_owned(),
            map,
            header,
            frame,
            layer_starts,
            code_reads,
            row_reads,
            damage: OnceLock::new(),
            resident: OnceLock::new(),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            row_nodes: OnceLock::new(),
            by_point: OnceLock::new(),
        };
        segment.verify_and_check(&kinds)?;
        segment.frame.centre = segment.section::<f32>(Kind::Centre).to_vec();
        Ok(segment)
    }

    /// Hashes every section, and sees whether searches can come by every row. It may run beside searches, which believe nothing any more
    /// once it found damage.
    pub(crate) fn verify(&self) -> Result<()> {
        self.verify_all().inspect_err(|error| {
            if let Error::DamagedSegment { section, reason, .. } = error {
                self.damage.get_or_init(|| (section, reason.clone()));
            }
        })
    }

    fn verify_all(&self) -> Result<()> {
        let bytes = self.map.first_chunk().expect("a segment has a header");
        if header_hash(bytes) != xxh3_128(&bytes[..HEADER - 16]) {
            return Err(self.damaged("header", "its hash is wrong".to_owned()));
        }
        Kind::ALL.into_iter().try_for_each(|kind| self.verify_section(kind))?;
        self.code_reads.iter().chain(&self.row_reads).for_each(FirstReads::saw_all);
        self.check_reach().map_err(|(kind, reason)| self.damaged(kind.name(), reason))
    }

    /// Hashes these sections and checks the structure; where there is much to read on two threads, also if builds have one.
    fn verify_and_check(&self, kinds: &[Kind]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let hash = || -> Result<(), (usize, Error)> {
            loop {
                let claimed = next.fetch_add(1, Ordering::Relaxed);
                let Some(kind) = kinds.get(claimed) else { return Ok(()) };
                self.verify_section(*kind).map_err(|error| (claimed, error))?;
            }
        };
        let check = || self.check_structure().map_err(|(kind, reason)| self.damaged(kind.name(), reason));
        let bytes: usize = kinds.iter().map(|kind| self.header.section(*kind).length).sum();
        let (hashed, also, checked) = std::thread::scope(|scope| {
            let helper = || std::thread::Builder::new().name("moco-verify".to_owned()).spawn_scoped(scope, hash);
            // Should there be no thread, this one does all.
            let helper = (bytes >= MUCH).then(helper).and_then(Result::ok);
            let checked = check();
            let hashed = hash();
            (hashed, helper.map_or(Ok(()), |helper| helper.join().unwrap_or_else(|panic| resume_unwind(panic))), checked)
        });
        // What a hash tells is the cause of what looks wrong.
        match (hashed, also) {
            (Err((_, error)), Ok(())) | (Ok(()), Err((_, error))) => Err(error),
            (Err((a, error)), Err((b, other))) => Err(if a < b { error } else { other }),
            (Ok(()), Ok(())) => checked,
        }
    }

    fn verify_section(&self, kind: Kind) -> Result<()> {
        if xxh3_128(&self.map[self.header.span(kind, self.map.len())]) == self.header.section(kind).hash {
            return Ok(());
        }
        Err(self.damaged(kind.name(), "its hash is wrong".to_owned()))
    }

    pub(super) fn damaged(&self, section: &'static str, reason: String) -> Error {
        Error::DamagedSegment { path: self.path.clone(), section, reason }
    }

    /// What a search relies on without looking: bounds of lists, links, rows. The hashes say that this is what was written,
    /// these checks that it can be used.
    fn check_structure(&self) -> Result<(), (Kind, String)> {
        let (rows, nodes) = (self.header.rows, self.header.nodes());
        let starts = self.section::<u32>(Kind::Starts);
        let links = self.section::<u8>(Kind::Links);
        let width = self.header.link_width;
        let total = (links.len() - 4) / width;
        if starts[0] != 0 || starts[starts.len() - 1] as usize != total {
            return Err((Kind::Starts, format!("they do not cover the {total} links")));
        }
        if let Some(node) = starts.windows(2).position(|pair| pair[1] < pair[0] || (pair[1] - pair[0]) as usize > MOST_LINKS) {
            return Err((Kind::Starts, format!("list {node} ends before it starts, or is too long")));
        }
        for (layer, (first, nodes)) in self.layer_starts.iter().zip(&self.header.layers).enumerate() {
            let list = |i: usize| starts[first + i] as usize * width;
            let links = &links[list(0)..list(*nodes as usize)];
            let largest = Kernel::get().run(Largest { links, width });
            if let Some(link) = largest.filter(|link| link >= nodes) {
                return Err((Kind::Links, format!("layer {layer} has {nodes} nodes and a link to node {link}")));
            }
        }
        if let Some(row) = self.section::<u32>(Kind::NodeRows).iter().find(|row| (**row & !FURTHER) as usize >= rows) {
            return Err((Kind::NodeRows, format!("there is no row {}", row & !FURTHER)));
        }
        if let Some(runs) = Runs::of(self) {
            for (layer, (starts, end)) in runs.of_layers().zip(&self.header.layers).enumerate() {
                let first = self.header.layers.get(layer + 1).copied().unwrap_or(0);
                if !starts.is_sorted() || starts.first() != Some(&first) || starts.last() != Some(end) {
                    return Err((Kind::Runs, format!("they do not cover the nodes on layer {layer}")));
                }
            }
        }
        let further = self.section::<[u32; 2]>(Kind::FurtherRows);
        if !further.is_sorted() || further.iter().any(|[node, row]| *node as usize >= nodes || *row as usize >= rows) {
            return Err((Kind::FurtherRows, "they are out of order or name rows that are not there".to_owned()));
        }
        if let Some(row) = self.section::<u32>(Kind::Side).iter().find(|row| **row as usize >= rows) {
            return Err((Kind::Side, format!("there is no row {row}")));
        }
        if !self.slots().is_sorted_by(|a, b| a < b) {
            return Err((Kind::Slots, "they do not ascend".to_owned()));
        }
        // Behind what is hashed block by block.
        for kind in [Kind::Codes, Kind::Vectors] {
            let (section, span) = (self.header.section(kind).range(), self.header.span(kind, self.map.len()));
            if self.map[section.end..span.end].iter().any(|byte| *byte != 0) {
                return Err((kind, "what lies behind them is not zero".to_owned()));
            }
        }
        Ok(())
    }
}

/// The largest of some links of `width` bytes each, by the widest instructions there are: of a million vectors they take a hundred
/// megabytes.
struct Largest<'a> {
    links: &'a [u8],
    width: usize,
}

impl Work for Largest<'_> {
    type Output = Option<u32>;

    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) -> Option<u32> {
        let Self { links, width } = self;
        let mut largest = 0;
        // No iterator's `max`: its closure would be compiled without the instructions.
        match width {
            2 => {
                for link in links.as_chunks::<2>().0 {
                    largest = largest.max(u32::from(u16::from_le_bytes(*link)));
                }
            }
            3 => {
                for [a, b, c] in links.as_chunks::<3>().0 {
                    largest = largest.max(u32::from(*a) | u32::from(*b) << 8 | u32::from(*c) << 16);
                }
            }
            _ => {
                for link in links.as_chunks::<4>().0 {
                    largest = largest.max(u32::from_le_bytes(*link));
                }
            }
        }
        (!links.is_empty()).then_some(largest)
    }
}
