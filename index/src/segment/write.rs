//! From rows to a segment's file: distinct vectors, their graph, their codes.
//!
//! The file is written under a temporary name, synced, renamed, and its folder synced: under its own name it is whole or
//! not there.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::format::{HEADER, Header, Kind, Section, aligned, header_hash};
use super::middles::Clusters;
use super::{FURTHER, Row, SegmentInput, SegmentParams, SegmentSummary, Stamp, UNFINISHED_SUFFIX};
use crate::background;
use crate::build::{BuildParams, Graph, MOST_LINKS, Node, Vectors};
use crate::codes::{Codes, Encoder, Factors, Frame, blocks_in_halves, in_halves, product, upper_halves_suffice};
use crate::distance::Distance;
use crate::error::{Error, Result};
use crate::id::PointId;
use crate::kernel::{BLOCK, Block, Isa, Kernel, Work};
use crate::vector::is_zero;

/// Builds a segment over `input` and writes it to `path`. `Ok(None)` when cancelled; then nothing is left behind.
pub(crate) fn write(path: &Path, input: &SegmentInput, params: &SegmentParams, cancel: &AtomicBool) -> Result<Option<SegmentSummary>> {
    input.check();
    let refuse = |reason: String| Error::Build { path: path.to_owned(), reason };
    let Groups { first_rows, mut further, mut side } = Groups::of(input);
    let mut graph = Graph::default();
    let mut orphans = 0;
    if !first_rows.is_empty() {
        let build_params = BuildParams { m: params.m, ef_construction: params.ef_construction, threads: params.threads, seed: params.seed };
        let vectors = Distinct::new(input, &first_rows);
        let Some(built) = params.builder.builder().build(&vectors, &build_params, cancel).map_err(refuse)? else { return Ok(None) };
        graph = built;
        let audit = graph.repair();
        orphans = audit.orphans;
        for node in audit.left {
            side.extend(rows_of(graph.vectors[node as usize], &first_rows, &further));
        }
        side.sort_unstable();
    }
    // From distinct vectors, in the order of rows, to nodes.
    let mut nodes = vec![0 as Node; first_rows.len()];
    graph.vectors.iter().enumerate().for_each(|(node, vector)| nodes[*vector as usize] = node as Node);
    further.iter_mut().for_each(|(vector, _)| *vector = nodes[*vector as usize]);
    further.sort_unstable();
    let mut node_rows: Vec<u32> = graph.vectors.iter().map(|vector| first_rows[*vector as usize]).collect();
    further.iter().for_each(|(node, _)| node_rows[*node as usize] |= FURTHER);
    let links = pack(&graph).map_err(refuse)?;
    let contents = Contents { input, params, graph: &graph, node_rows: &node_rows, further: &further, side: &side, links: &links, orphans };
    let temporary = path.with_extension(UNFINISHED_SUFFIX);
    let summary = contents.publish(&temporary, path);
    if summary.is_err() {
        // Whatever is left of it is of no use, and there may be no space.
        let _ = std::fs::remove_file(&temporary);
    }
    summary.map(Some)
}

/// Rows grouped by their vectors.
struct Groups {
    /// By distinct vector, its first row.
    first_rows: Vec<Row>,
    /// Distinct vector and row, ascending: the rows that are not first.
    further: Vec<(u32, Row)>,
    /// Rows that no graph can hold.
    side: Vec<Row>,
}

impl Groups {
    fn of(input: &SegmentInput) -> Self {
        let mut groups = Self { first_rows: Vec::new(), further: Vec::new(), side: Vec::new() };
        if input.distance == Distance::Manhattan {
            return groups;
        }
        let mut bytes = vec![0; 4 * input.size];
        let mut hashed: Vec<(u64, Row)> = Vec::with_capacity(input.slots.len());
        for row in 0..input.slots.len() as Row {
            let vector = input.vector(row);
            // Zero has no direction: under Cosine it is as near to everything as to nothing.
            if input.distance == Distance::Cosine && is_zero(vector) {
                groups.side.push(row);
                continue;
            }
            // -0 equals 0 and must hash alike.
            bytes.as_chunks_mut().0.iter_mut().zip(vector).for_each(|(bytes, x)| *bytes = (x + 0.0).to_le_bytes());
            hashed.push((xxh3_64(&bytes), row));
        }
        hashed.sort_unstable();
        // By row, the first row with the same vector.
        let mut first: Vec<(Row, Row)> = Vec::with_capacity(hashed.len());
        for alike in hashed.chunk_by(|a, b| a.0 == b.0) {
            let mut distinct: Vec<Row> = Vec::new();
            for (_, row) in alike {
                let same = distinct.iter().copied().find(|other| input.vector(*other) == input.vector(*row));
                first.push((*row, same.unwrap_or(*row)));
                if same.is_none() {
                    distinct.push(*row);
                }
            }
        }
        first.sort_unstable();
        for (row, same) in first {
            if row == same {
                groups.first_rows.push(row);
            } else {
                let vector = groups.first_rows.binary_search(&same).expect("the first row with a vector comes first");
                groups.further.push((vector as u32, row));
            }
        }
        groups.further.sort_unstable();
        groups
    }
}

fn rows_of(vector: u32, first_rows: &[Row], further: &[(u32, Row)]) -> impl Iterator<Item = Row> {
    let from = further.partition_point(|(other, _)| *other < vector);
    let more = further[from..].iter().take_while(move |(other, _)| *other == vector).map(|(_, row)| *row);
    std::iter::once(first_rows[vector as usize]).chain(more)
}

/// The distinct vectors as a builder can compare them.
///
/// Dot is no metric: the nearest of a short vector is some long one, and links built so lead nowhere. Each vector x gets
/// one more dimension, √(M² − |x|²) with M the longest length, and a query 0: then all have length M, and the order by
/// Euclidean distance is the order by dot product (<https://arxiv.org/abs/1405.5869>, XBOX). The walk itself compares
/// by plain dot products. Everything is divided by M where squares would leave the range of f32; the order stays.
struct Distinct<'a> {
    input: &'a SegmentInput,
    first_rows: &'a [Row],
    /// Of all vectors; `None` where they are taken as they are.
    scale: Option<f64>,
}

fn squared_length(vector: &[f32]) -> f64 {
    product(vector, vector)
}

impl<'a> Distinct<'a> {
    fn new(input: &'a SegmentInput, first_rows: &'a [Row]) -> Self {
        let longest = first_rows.iter().map(|row| squared_length(input.vector(*row))).fold(0.0, f64::max);
        let scaled = input.distance == Distance::Dot || !(1e-30..1e30).contains(&longest);
        Self { input, first_rows, scale: scaled.then(|| 1.0 / longest.sqrt().max(f64::MIN_POSITIVE)) }
    }
}

impl Vectors for Distinct<'_> {
    fn len(&self) -> usize {
        self.first_rows.len()
    }

    fn size(&self) -> usize {
        self.input.size + usize::from(self.input.distance == Distance::Dot)
    }

    fn copy(&self, i: usize, out: &mut [f32]) {
        let vector = self.input.vector(self.first_rows[i]);
        let Some(scale) = self.scale else { return out.copy_from_slice(vector) };
        out.iter_mut().zip(vector).for_each(|(out, x)| *out = (f64::from(*x) * scale) as f32);
        if self.input.distance == Distance::Dot {
            out[vector.len()] = (1.0 - squared_length(vector) * scale * scale).max(0.0).sqrt() as f32;
        }
    }
}

/// Links as they are stored.
struct Packed {
    starts: Vec<u32>,
    bytes: Vec<u8>,
    width: usize,
}

fn pack(graph: &Graph) -> Result<Packed, String> {
    let width = match graph.vectors.len() {
        0..=0x1_0000 => 2,
        0x1_0001..=0x100_0000 => 3,
        _ => 4,
    };
    let total: usize = graph.layers.iter().map(|layer| layer.links.len()).sum();
    if u32::try_from(total).is_err() {
        return Err(format!("its {total} links are too many for one segment"));
    }
    let mut packed = Packed { starts: vec![0], bytes: Vec::with_capacity(total * width + 4), width };
    for layer in &graph.layers {
        for node in 0..layer.nodes() as Node {
            let links = layer.links(node);
            if links.len() > MOST_LINKS {
                return Err(format!("a node of the graph has {} links", links.len()));
            }
            links.iter().for_each(|link| packed.bytes.extend(&link.to_le_bytes()[..width]));
            packed.starts.push((packed.bytes.len() / width) as u32);
        }
    }
    packed.bytes.extend([0; 4]);
    Ok(packed)
}

/// Everything that goes into a file.
struct Contents<'a> {
    input: &'a SegmentInput,
    params: &'a SegmentParams,
    graph: &'a Graph,
    node_rows: &'a [u32],
    further: &'a [(Node, Row)],
    side: &'a [Row],
    links: &'a Packed,
    orphans: usize,
}

impl Contents<'_> {
    fn publish(&self, temporary: &Path, path: &Path) -> Result<SegmentSummary> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::io(action, &path, source)
        };
        let file = File::create(temporary).map_err(io("create", temporary))?;
        let stamp = self.write_all(file).map_err(io("write", temporary))?;
        std::fs::rename(temporary, path).map_err(io("rename", temporary))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned);
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(io("sync", &folder))?;
        Ok(SegmentSummary { stamp, rows: self.input.slots.len(), nodes: self.node_rows.len(), orphans: self.orphans })
    }

    fn write_all(&self, file: File) -> std::io::Result<Stamp> {
        let Self { input, params, .. } = self;
        let has_uuids = input.ids.iter().any(|id| matches!(id, PointId::Uuid(_)));
        let distinct: Vec<Row> = self.node_rows.iter().map(|row| row & !FURTHER).collect();
        let vector = |i: usize, out: &mut [f32]| out.copy_from_slice(input.vector(distinct[i]));
        let frame = Frame::around(input.size, distinct.len(), vector);
        let mut header = Header {
            distance: input.distance,
            codes: params.codes,
            halves: false,
            builder: params.builder,
            m: params.m as u32,
            ef_construction: params.ef_construction as u32,
            seed: params.seed,
            size: input.size,
            rows: input.slots.len(),
            layers: self.graph.layers.iter().map(|layer| layer.nodes() as u32).collect(),
            orphans: self.orphans,
            id_width: if has_uuids { 16 } else { 8 },
            link_width: self.links.width,
            unit: frame.unit,
            sections: Default::default(),
        };
        let mut out = Sections { file: BufWriter::with_capacity(1 << 20, file), at: 0, hash: Xxh3::new() };
        out.raw(&[0; HEADER])?;

        out.numbers(&mut header, Kind::Slots, input.slots.iter().map(|slot| slot.to_le_bytes()))?;
        out.numbers(&mut header, Kind::Points, input.points.iter().map(|point| point.to_le_bytes()))?;
        if has_uuids {
            let ids = input.ids.iter().map(|id| match id {
                PointId::Num(number) => u128::from(*number).to_le_bytes(),
                PointId::Uuid(uuid) => *uuid.as_bytes(),
            });
            out.numbers(&mut header, Kind::Ids, ids)?;
            let kinds = input.ids.chunks(8).map(|ids| {
                let bits = ids.iter().enumerate().map(|(bit, id)| u8::from(matches!(id, PointId::Uuid(_))) << bit);
                [bits.sum::<u8>()]
            });
            out.numbers(&mut header, Kind::IdKinds, kinds)?;
        } else {
            let ids = input.ids.iter().map(|id| match id {
                PointId::Num(number) => number.to_le_bytes(),
                PointId::Uuid(_) => unreachable!("there are no UUIDs"),
            });
            out.numbers(&mut header, Kind::Ids, ids)?;
            out.numbers(&mut header, Kind::IdKinds, std::iter::empty::<[u8; 1]>())?;
        }
        out.numbers(&mut header, Kind::NodeRows, self.node_rows.iter().map(|row| row.to_le_bytes()))?;
        out.numbers(&mut header, Kind::FurtherRows, self.further.iter().flat_map(|(node, row)| [node.to_le_bytes(), row.to_le_bytes()]))?;
        out.numbers(&mut header, Kind::Side, self.side.iter().map(|row| row.to_le_bytes()))?;
        out.numbers(&mut header, Kind::Starts, self.links.starts.iter().map(|start| start.to_le_bytes()))?;
        out.numbers(&mut header, Kind::Links, self.links.bytes.iter().map(|byte| [*byte]))?;
        out.numbers(&mut header, Kind::Centre, frame.centre.iter().map(|x| x.to_le_bytes()))?;
        let runs: &[Vec<Node>] = if header.may_have_runs() { &self.graph.runs } else { &[] };
        let clusters = Clusters { input, runs, graph: self.graph, node_rows: self.node_rows, frame: &frame };
        let middles = clusters.middles(params.codes);
        out.numbers(&mut header, Kind::Runs, runs.iter().flatten().map(|node| node.to_le_bytes()))?;
        out.numbers(&mut header, Kind::Middles, middles.codes.iter().map(|block| block.0))?;
        out.numbers(&mut header, Kind::MiddleFactors, pairs(&middles.factors, |factors| [factors.scale, factors.bias]))?;
        out.numbers(&mut header, Kind::Spreads, pairs(&middles.spreads, |spread| [spread.addend, spread.deviation]))?;

        let (mut factors, mut whole_scales) = (Vec::new(), Vec::new());
        header.halves = params.codes == Codes::Int8
            && runs.is_empty()
            && may_be_halved(input.size)
            && upper_halves_suffice(&frame, distinct.len(), vector);
        let bytes = distinct.len() * header.blocks() * BLOCK;
        out.begin(&mut header, Kind::Codes, bytes)?;
        let encode = Encode { frame: &frame, codes: params.codes, halves: header.halves, input };
        let (mut block, mut code_hashes) = (Vec::new(), Vec::new());
        if let Some((_, nodes_a_block)) = header.blocks_of(Kind::Codes) {
            debug_assert!(BATCH.is_multiple_of(nodes_a_block));
            encode.each_batch(&distinct, params.threads, |batch| {
                factors.extend(batch.factors);
                whole_scales.extend(batch.whole_scales);
                for codes in batch.codes.chunks(nodes_a_block * header.blocks()) {
                    block.clear();
                    codes.iter().for_each(|code| block.extend_from_slice(&code.0));
                    code_hashes.push(xxh3_64(&block));
                    out.raw(&block)?;
                }
                Ok(())
            })?;
        }
        out.end(&mut header, Kind::Codes)?;
        out.numbers(&mut header, Kind::Factors, pairs(&factors, |factors| [factors.scale, factors.bias]))?;
        out.numbers(&mut header, Kind::WholeScales, whole_scales.iter().map(|scale| scale.to_le_bytes()))?;
        out.begin(&mut header, Kind::Vectors, input.slots.len() * input.size * 4)?;
        let (_, rows_a_block) = header.blocks_of(Kind::Vectors).expect("rows are not empty");
        let mut hashes = Vec::with_capacity(input.slots.len().div_ceil(rows_a_block));
        for first in (0..input.slots.len()).step_by(rows_a_block) {
            let rows = first..input.slots.len().min(first + rows_a_block);
            block.resize(4 * input.size * rows.len(), 0);
            for (row, bytes) in rows.zip(block.chunks_exact_mut(4 * input.size)) {
                bytes.as_chunks_mut().0.iter_mut().zip(input.vector(row as Row)).for_each(|(bytes, x)| *bytes = x.to_le_bytes());
            }
            hashes.push(xxh3_64(&block));
            out.raw(&block)?;
        }
        out.end(&mut header, Kind::Vectors)?;
        out.numbers(&mut header, Kind::VectorHashes, hashes.iter().map(|hash| hash.to_le_bytes()))?;
        out.numbers(&mut header, Kind::CodeHashes, code_hashes.iter().map(|hash| hash.to_le_bytes()))?;

        out.finish(&mut header)
    }
}

fn pairs<T>(values: &[T], pair: impl Fn(&T) -> [f32; 2] + Clone) -> impl Iterator<Item = [u8; 4]> + Clone {
    values.iter().flat_map(move |value| pair(value).map(f32::to_le_bytes))
}

/// Blocks from which on codes are in halves: fewer are read in the time of one.
const HALVED: usize = 4;

/// Of an odd number of blocks one more is needed; codes may not become larger by more than a twelfth.
fn may_be_halved(size: usize) -> bool {
    let blocks = Codes::Int8.blocks(size);
    blocks >= HALVED && blocks_in_halves(size) <= blocks + blocks / 12
}

/// Rows encoded at a time, and such batches of each thread that wait to be written.
const BATCH: usize = 256;
const WAITING: usize = 4;

/// Turns rows into codes.
#[derive(Clone, Copy)]
struct Encode<'a> {
    frame: &'a Frame,
    codes: Codes,
    /// As [`Header::halves`].
    halves: bool,
    input: &'a SegmentInput,
}

/// The codes of some rows.
struct Batch {
    codes: Vec<Block>,
    factors: Vec<Factors>,
    /// None where codes are not in halves.
    whole_scales: Vec<f32>,
}

impl Encode<'_> {
    /// Gives the codes of `rows` to `write`, in their order, while `threads` threads, if more than one, encode the next. Should
    /// they not be had, it takes longer.
    fn each_batch(self, rows: &[Row], threads: usize, mut write: impl FnMut(Batch) -> std::io::Result<()>) -> std::io::Result<()> {
        let encode = move |rows| {
            let mut batch = Batch { codes: Vec::new(), factors: Vec::new(), whole_scales: Vec::new() };
            Kernel::get().run(EncodeBatch { encode: self, rows, batch: &mut batch });
            batch
        };
        let threads = threads.min(rows.len().div_ceil(BATCH));
        if threads < 2 {
            return rows.chunks(BATCH).try_for_each(|rows| write(encode(rows)));
        }
        std::thread::scope(|scope| {
            let mut running = Vec::new();
            for thread in 0..threads {
                let (sender, batches) = sync_channel(WAITING);
                let ahead = move || {
                    // Nobody takes them once writing has failed.
                    let _ = rows.chunks(BATCH).skip(thread).step_by(threads).try_for_each(|rows| sender.send(encode(rows)));
                    background::give_back_arena();
                };
                if std::thread::Builder::new().name("moco-encode".to_owned()).spawn_scoped(scope, ahead).is_err() {
                    drop(running);
                    return rows.chunks(BATCH).try_for_each(|rows| write(encode(rows)));
                }
                running.push(batches);
            }
            let batches = running.iter().cycle().map_while(|batches| batches.recv().ok());
            batches.take(rows.len().div_ceil(BATCH)).try_for_each(&mut write)
        })
    }
}

/// Encodes some rows with the instructions of this machine.
struct EncodeBatch<'a, 'b> {
    encode: Encode<'a>,
    rows: &'b [Row],
    batch: &'b mut Batch,
}

impl Work for EncodeBatch<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) {
        let Encode { frame, codes, halves, input } = self.encode;
        let mut encoder = Encoder::new(frame, input.distance, codes);
        let mut whole = vec![Block([0; BLOCK]); codes.blocks(input.size)];
        let blocks = if halves { blocks_in_halves(input.size) } else { whole.len() };
        self.batch.codes = vec![Block([0; BLOCK]); self.rows.len() * blocks];
        for (i, row) in self.rows.iter().enumerate() {
            let code = &mut self.batch.codes[i * blocks..(i + 1) * blocks];
            let mut factors = encoder.encode(input.vector(*row), if halves { &mut whole } else { &mut *code });
            if halves {
                in_halves(&whole, code);
                self.batch.whole_scales.push(factors.scale);
                factors.scale = encoder.upper_scale(&whole);
            }
            self.batch.factors.push(factors);
        }
    }
}

/// Writes sections one behind the other, and notes where they lie and what they hash to.
struct Sections {
    file: BufWriter<File>,
    at: usize,
    hash: Xxh3,
}

const ZEROS: [u8; 4096] = [0; 4096];

impl Sections {
    fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.at += bytes.len();
        Ok(())
    }

    fn zeros_until(&mut self, end: usize) -> std::io::Result<()> {
        while self.at < end {
            self.raw(&ZEROS[..ZEROS.len().min(end - self.at)])?;
        }
        Ok(())
    }

    /// Pads the section before, which ends where this one of `length` bytes starts.
    fn begin(&mut self, header: &mut Header, kind: Kind, length: usize) -> std::io::Result<()> {
        self.zeros_until(aligned(self.at, length))?;
        if let Some(before) = (kind as usize).checked_sub(1) {
            header.sections[before].hash = self.hash.digest128();
        }
        self.hash.reset();
        *header.section_mut(kind) = Section { offset: self.at, length, hash: 0 };
        Ok(())
    }

    fn end(&mut self, header: &mut Header, kind: Kind) -> std::io::Result<()> {
        assert_eq!(self.at, header.section(kind).range().end, "the {} have the length that was announced", kind.name());
        Ok(())
    }

    /// A section of numbers of `N` bytes each.
    fn numbers<const N: usize>(
        &mut self,
        header: &mut Header,
        kind: Kind,
        numbers: impl Iterator<Item = [u8; N]> + Clone,
    ) -> std::io::Result<()> {
        self.begin(header, kind, numbers.clone().count() * N)?;
        let mut bytes = Vec::with_capacity(1 << 16);
        for number in numbers {
            bytes.extend(number);
            if bytes.len() + N > 1 << 16 {
                self.raw(&bytes)?;
                bytes.clear();
            }
        }
        self.raw(&bytes)?;
        self.end(header, kind)
    }

    fn finish(mut self, header: &mut Header) -> std::io::Result<Stamp> {
        self.zeros_until(aligned(self.at, 0))?;
        header.sections[Kind::ALL.len() - 1].hash = self.hash.digest128();
        let bytes = header.encode();
        let mut file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(Stamp { len: self.at as u64, hash: header_hash(&bytes) })
    }
}
