//! The contract of [`VectorIndex`], run over everything that answers a search: the two implementations, and whole searches over
//! a tail, and over segments and a tail with dead rows among them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use super::{Flat, Frozen, VectorIndex};
use crate::build::Builder;
use crate::build::tests::clustered;
use crate::codes::Codes;
use crate::config::{HnswParams, VectorParams};
use crate::distance::Distance;
use crate::id::PointId;
use crate::large_pages::LargePages;
use crate::passing::PassingSet;
use crate::search::{self, SearchRequest};
use crate::segment::{AcceptedRows, Bits, Row, RowVectors, Scored, Segment, SegmentInput, SegmentParams, Verify, write};
use crate::state::{Part, Space};
use crate::tail::Owner;
use crate::truth::SegmentRow;
use crate::vector;

const DISTANCES: [Distance; 4] = [Distance::Cosine, Distance::Dot, Distance::Euclid, Distance::Manhattan];
const CODES: [Codes; 4] = [Codes::F32, Codes::F16, Codes::Int8, Codes::Int4];
/// Odd, so that every kernel has a remainder.
const SIZE: usize = 19;
/// Candidates of a walk.
const EF: usize = 64;
/// Of the ten nearest, that a walk with so many candidates must find.
const RECALL: f64 = 0.95;

/// What is searched, and by whose answers the others are judged. A row's slot and point have its number, its id has not.
struct Rows {
    distance: Distance,
    ids: Vec<PointId>,
    vectors: Vec<Vec<f32>>,
}

impl Rows {
    fn new(distance: Distance, vectors: Vec<Vec<f32>>) -> Self {
        let rows = vectors.len() as u64;
        // 7 divides no number of rows here, so that each id comes once.
        let id = |row| if row % 3 == 0 { PointId::Uuid(Uuid::from_u128(u128::from(rows - row))) } else { PointId::Num(row * 7 % rows) };
        let params = VectorParams::new(vectors[0].len(), distance);
        let stored = |vector| vector::check("", &params, vector).expect("a vector that may be stored");
        Self { distance, ids: (0..rows).map(id).collect(), vectors: vectors.into_iter().map(stored).collect() }
    }

    fn size(&self) -> usize {
        self.vectors[0].len()
    }

    /// Some of the rows, as a segment takes them.
    fn input(&self, rows: std::ops::Range<usize>) -> SegmentInput {
        SegmentInput {
            distance: self.distance,
            size: self.size(),
            slots: rows.clone().map(|row| row as u64).collect(),
            points: rows.clone().map(|row| row as u32).collect(),
            ids: self.ids[rows.clone()].to_vec(),
            vectors: RowVectors::Copied(LargePages::of(&self.vectors[rows].concat())),
        }
    }

    fn segment(&self, folder: &Path, rows: std::ops::Range<usize>, codes: Codes) -> (SegmentRow, Segment) {
        let (first, last) = (rows.start as u64, rows.end as u64 - 1);
        let file = format!("{first}.segment");
        let params = SegmentParams { m: 12, ef_construction: 100, codes, builder: Builder::Own, threads: 1, seed: 5 };
        let summary = write(&folder.join(&file), &self.input(rows), &params, &AtomicBool::new(false)).unwrap().unwrap();
        let segment = Segment::open(&folder.join(&file), &summary.stamp, Verify::Eager).unwrap();
        let row = SegmentRow { file, vector: String::new(), first, last, length: summary.stamp.len, hash: summary.stamp.hash };
        (row, segment)
    }

    /// The plain answer.
    fn nearest(&self, query: &[f32], wanted: usize, accept: Option<&AcceptedRows>) -> Vec<(f32, Row)> {
        let rows = (0..self.vectors.len() as Row).filter(|row| accept.is_none_or(|accept| accept.contains(*row)));
        let mut all: Vec<(f32, Row)> = rows.map(|row| (self.distance.nearness(query, &self.vectors[row as usize]), row)).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| self.ids[a.1 as usize].cmp(&self.ids[b.1 as usize])));
        all.truncate(wanted);
        all
    }

    fn some(&self, share: f64, seed: u64) -> AcceptedRows {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut bits = Bits::none(self.vectors.len());
        (0..self.vectors.len() as Row).filter(|_| random.random_bool(share)).for_each(|row| assert!(bits.insert(row)));
        bits.into()
    }
}

/// A whole search, asked as an index is: it does what [`search::search`] does for a collection.
struct Whole {
    space: Space,
    params: VectorParams,
    exact: bool,
}

impl VectorIndex for Whole {
    fn nearest(&self, query: &[f32], wanted: usize, accept: Option<&AcceptedRows>) -> Vec<Scored> {
        let hnsw = HnswParams { full_scan_threshold: 0, ef_search: EF, ..HnswParams::default() };
        let request = SearchRequest { exact: self.exact, ..SearchRequest::new(query.to_vec(), wanted) };
        let passing = accept.map(|accept| PassingSet::new(accept.iter().collect()));
        let found = search::search(&self.space, self.params.distance, &hnsw, &request, query, passing.as_ref(), &|_, _| {
            unreachable!("no part is lost")
        });
        let nearness = |score| self.params.distance.score_to_nearness(score);
        found.unwrap().into_iter().map(|found| Scored { nearness: nearness(found.score), row: found.owner.slot as Row }).collect()
    }
}

/// Makes an index of each kind over `rows`, and hands it to `check`.
type Make = fn(&Rows, Codes, &mut dyn FnMut(&dyn VectorIndex));

fn flat(rows: &Rows, codes: Codes, check: &mut dyn FnMut(&dyn VectorIndex)) {
    let folder = tempfile::tempdir().unwrap();
    check(&Flat(&rows.segment(folder.path(), 0..rows.vectors.len(), codes).1));
}

fn frozen(rows: &Rows, codes: Codes, check: &mut dyn FnMut(&dyn VectorIndex)) {
    let folder = tempfile::tempdir().unwrap();
    check(&Frozen { segment: &rows.segment(folder.path(), 0..rows.vectors.len(), codes).1, ef: EF });
}

fn put(space: &mut Space, owner: Owner, vector: &[f32]) {
    Arc::make_mut(&mut space.tail).append(vector, owner);
}

fn tail(rows: &Rows, _: Codes, check: &mut dyn FnMut(&dyn VectorIndex)) {
    let params = VectorParams::new(rows.size(), rows.distance);
    let mut space = Space::new(&params);
    for (row, (id, vector)) in rows.ids.iter().zip(&rows.vectors).enumerate() {
        put(&mut space, Owner { id: *id, point: row as u32, slot: row as u64 }, vector);
    }
    check(&Whole { space, params, exact: false });
}

/// Two segments and a tail; in each, rows behind the others that died, of vectors that would be found first.
fn pieces(rows: &Rows, codes: Codes, exact: bool, check: &mut dyn FnMut(&dyn VectorIndex)) {
    let folder = tempfile::tempdir().unwrap();
    let params = VectorParams { codes, ..VectorParams::new(rows.size(), rows.distance) };
    let mut space = Space::new(&params);
    let all = rows.vectors.len();
    let dead = Rows {
        distance: rows.distance,
        ids: rows.ids.iter().copied().chain((0..30).map(|n| PointId::Num(1_000_000 + n))).collect(),
        vectors: rows.vectors.iter().cloned().chain(rows.vectors.iter().cycle().take(30).cloned()).collect(),
    };
    for part in [0..all / 2, all / 2..all * 3 / 4] {
        let (row, segment) = rows.segment(folder.path(), part, codes);
        Arc::make_mut(&mut space.segments).push(Part::new(row, segment));
    }
    for row in all * 3 / 4..all {
        put(&mut space, Owner { id: rows.ids[row], point: row as u32, slot: row as u64 }, &rows.vectors[row]);
    }
    for row in all..all + 10 {
        put(&mut space, Owner { id: dead.ids[row], point: row as u32, slot: row as u64 }, &dead.vectors[row]);
    }
    let (row, segment) = dead.segment(folder.path(), all + 10..all + 30, codes);
    Arc::make_mut(&mut space.segments).push(Part::new(row, segment));
    (all..all + 30).for_each(|slot| space.kill(slot as u64));
    check(&Whole { space, params, exact });
}

fn pieces_exactly(rows: &Rows, codes: Codes, check: &mut dyn FnMut(&dyn VectorIndex)) {
    pieces(rows, codes, true, check);
}

fn pieces_by_walks(rows: &Rows, codes: Codes, check: &mut dyn FnMut(&dyn VectorIndex)) {
    pieces(rows, codes, false, check);
}

fn rows_and_queries(distance: Distance, rows: usize) -> (Rows, Vec<Vec<f32>>) {
    let mut vectors = clustered(21, rows + 20, SIZE);
    let queries = vectors.split_off(rows);
    (Rows::new(distance, vectors), Rows::new(distance, queries).vectors)
}

fn pairs(answer: Vec<Scored>) -> Vec<(f32, Row)> {
    answer.into_iter().map(|scored| (scored.nearness, scored.row)).collect()
}

/// What every answer must be, whatever its recall; returns how many of the expected rows it has, by nearness: of rows as near
/// as each other any will do.
fn judge(rows: &Rows, index: &dyn VectorIndex, query: &[f32], wanted: usize, accept: Option<&AcceptedRows>, recall: f64) -> (usize, usize) {
    let expected = rows.nearest(query, wanted, accept);
    let answer = pairs(index.nearest(query, wanted, accept));
    if recall == 1.0 {
        assert_eq!(answer, expected, "{wanted} wanted");
    }
    assert_eq!(answer.len(), expected.len(), "never fewer than there are, nor more than are wanted: {wanted}");
    for (nearness, row) in &answer {
        assert!(accept.is_none_or(|accept| accept.contains(*row)), "row {row} was not to be answered");
        let expected = rows.distance.nearness(query, &rows.vectors[*row as usize]);
        assert_eq!(nearness.to_bits(), expected.to_bits(), "row {row} is compared in full");
    }
    let id = |row: Row| rows.ids[row as usize];
    let in_order = |a: &(f32, Row), b: &(f32, Row)| b.0.total_cmp(&a.0).then_with(|| id(a.1).cmp(&id(b.1))).is_lt();
    assert!(answer.is_sorted_by(in_order), "nearest first, ties by id, no row twice");
    let found = expected.last().map_or(0, |last| answer.iter().filter(|(nearness, _)| *nearness >= last.0).count());
    (found, expected.len())
}

fn nearest_are_found(make: Make, recall: f64) {
    for distance in DISTANCES {
        let (rows, queries) = rows_and_queries(distance, 1500);
        for codes in CODES {
            make(&rows, codes, &mut |index| {
                for share in [None, Some(0.5), Some(0.1), Some(0.004), Some(0.0)] {
                    let accept = share.map(|share| rows.some(share, 3));
                    let (mut found, mut wanted) = (0, 0);
                    for query in &queries {
                        let (more, of) = judge(&rows, index, query, 10, accept.as_ref(), recall);
                        (found, wanted) = (found + more, wanted + of);
                    }
                    let is_enough = found as f64 >= recall * wanted as f64;
                    assert!(is_enough, "{distance:?}, {codes:?}, {share:?} pass: {found} of {wanted} were found");
                }
            });
        }
    }
}

fn any_number_may_be_wanted(make: Make, recall: f64) {
    for distance in DISTANCES {
        let (rows, queries) = rows_and_queries(distance, 202);
        let accept = rows.some(0.3, 4);
        make(&rows, Codes::Int8, &mut |index| {
            for wanted in [0, 1, accept.count(), 201, 202, 203, 100_000] {
                for accept in [None, Some(&accept), Some(&Bits::none(202).into())] {
                    let _found = judge(&rows, index, &queries[0], wanted, accept, recall);
                }
            }
        });
    }
}

fn copies_come_by_id_and_hide_no_other(make: Make, recall: f64) {
    for distance in DISTANCES {
        let (Rows { vectors, .. }, _) = rows_and_queries(distance, 200);
        let copied = vectors[17].clone();
        let rows = Rows::new(distance, vectors.into_iter().chain(std::iter::repeat_n(copied.clone(), 100)).collect());
        make(&rows, Codes::Int8, &mut |index| {
            let accept = rows.some(0.5, 5);
            for wanted in [1, 50, 101, 300] {
                for accept in [None, Some(&accept)] {
                    let (found, of) = judge(&rows, index, &copied, wanted, accept, recall);
                    // By Dot a longer vector may be nearer than the query itself.
                    assert!(distance == Distance::Dot || wanted > 101 || found == of, "{distance:?}: {found} of {of} copies were found");
                }
            }
        });
    }
}

fn zero_vectors_are_rows_like_others(make: Make, recall: f64) {
    for distance in DISTANCES {
        let (Rows { mut vectors, .. }, queries) = rows_and_queries(distance, 202);
        for row in [0, 60, 130, 160, 201] {
            vectors[row] = vec![0.0; SIZE];
        }
        let rows = Rows::new(distance, vectors);
        make(&rows, Codes::Int8, &mut |index| {
            for query in [&queries[1], &vec![0.0; SIZE]] {
                for wanted in [5, 202] {
                    let _found = judge(&rows, index, query, wanted, None, recall);
                }
            }
        });
        let nothing_else = Rows::new(distance, vec![vec![0.0; SIZE]; 8]);
        make(&nothing_else, Codes::Int8, &mut |index| {
            let _found = judge(&nothing_else, index, &[0.0; SIZE], 5, None, 1.0);
        });
    }
}

macro_rules! index_contract {
    ($name:ident, $make:expr, recall: $recall:expr) => {
        mod $name {
            #[test]
            fn the_nearest_are_found_by_each_distance_and_code_at_each_pass_rate() {
                super::nearest_are_found($make, $recall);
            }

            #[test]
            fn any_number_may_be_wanted() {
                super::any_number_may_be_wanted($make, $recall);
            }

            #[test]
            fn copies_come_by_id_and_hide_no_other() {
                super::copies_come_by_id_and_hide_no_other($make, $recall);
            }

            #[test]
            fn zero_vectors_are_rows_like_others() {
                super::zero_vectors_are_rows_like_others($make, $recall);
            }
        }
    };
}

index_contract!(flat_segment, super::flat, recall: 1.0);
index_contract!(frozen_segment, super::frozen, recall: super::RECALL);
index_contract!(flat_tail, super::tail, recall: 1.0);
index_contract!(segments_and_tail_exactly, super::pieces_exactly, recall: 1.0);
index_contract!(segments_and_tail_by_walks, super::pieces_by_walks, recall: super::RECALL);

/// The suite would be idle over walks if all of them ended in a scan.
#[test]
fn the_walks_of_the_contract_are_walks() {
    let (rows, queries) = rows_and_queries(Distance::Euclid, 1500);
    let folder = tempfile::tempdir().unwrap();
    let (_, segment) = rows.segment(folder.path(), 0..1500, Codes::Int4);
    let by_walk = segment.walk(&queries[0], EF, 10, None, 2 * 1500).expect("a walk within the cost of a scan");
    assert_eq!(by_walk.len(), 10);
    let missed = queries
        .iter()
        .filter(|query| pairs(Frozen { segment: &segment, ef: 10 }.nearest(query, 10, None)) != rows.nearest(query, 10, None));
    assert!(missed.count() > 0, "a walk with few candidates and coarse codes is no scan");
}
