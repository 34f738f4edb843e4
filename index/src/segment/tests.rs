//! Segments against an exact search, and against damage.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use super::format::Kind;
use super::walk::ByGraph;
use super::{AcceptedRows, Bits, Row, RowVectors, Scored, Segment, SegmentInput, SegmentParams, SegmentSummary, Stamp, Verify, write};
use crate::build::Builder;
use crate::build::tests::clustered;
use crate::codes::Codes;
use crate::distance::Distance;
use crate::error::Error;
use crate::id::PointId;
use crate::large_pages::LargePages;
use crate::passing::PassingSet;

const ALL_CODES: [Codes; 4] = [Codes::F32, Codes::F16, Codes::Int8, Codes::Int4];
const DISTANCES: [Distance; 3] = [Distance::Cosine, Distance::Dot, Distance::Euclid];

fn normalised(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
    vector
}

/// Slots are even numbers, points count down, every third id is a UUID.
pub(super) fn input(distance: Distance, vectors: &[Vec<f32>]) -> SegmentInput {
    let vectors: Vec<Vec<f32>> = match distance {
        Distance::Cosine => vectors
            .iter()
            .map(|vector| if vector.iter().all(|x| *x == 0.0) { vector.clone() } else { normalised(vector.clone()) })
            .collect(),
        _ => vectors.to_vec(),
    };
    let rows = vectors.len() as u64;
    SegmentInput {
        distance,
        size: vectors[0].len(),
        slots: (0..rows).map(|row| 2 * row).collect(),
        points: (0..rows as u32).rev().collect(),
        ids: (0..rows)
            .map(|row| if row % 3 == 2 { PointId::Uuid(Uuid::from_u128(u128::from(rows - row))) } else { PointId::Num(row * 7 % rows) })
            .collect(),
        vectors: RowVectors::Copied(LargePages::of(&vectors.concat())),
    }
}

pub(super) const PARAMS: SegmentParams =
    SegmentParams { m: 8, ef_construction: 80, codes: Codes::Int8, builder: Builder::Own, threads: 2, seed: 1 };

fn never() -> AtomicBool {
    AtomicBool::new(false)
}

pub(super) fn write_and_open(folder: &Path, input: &SegmentInput, params: &SegmentParams) -> Segment {
    let path = folder.join("segment");
    let summary = write(&path, input, params, &never()).unwrap().unwrap();
    Segment::open(&path, &summary.stamp, Verify::Eager).unwrap()
}

/// The plain answer.
fn exact(input: &SegmentInput, query: &[f32], want: usize, accept: Option<&AcceptedRows>) -> Vec<Scored> {
    let rows = (0..input.slots.len() as Row).filter(|row| accept.is_none_or(|accept| accept.contains(*row)));
    let mut all: Vec<Scored> = rows.map(|row| Scored { nearness: input.distance.nearness(query, input.vector(row)), row }).collect();
    all.sort_by(|a, b| b.nearness.total_cmp(&a.nearness).then(input.ids[a.row as usize].cmp(&input.ids[b.row as usize])));
    all.truncate(want);
    all
}

/// Of a search, and of one through the graph also where the search compares clusters whole: the lower one.
fn recall(segment: &Segment, input: &SegmentInput, queries: &[Vec<f32>], ef: usize, accept: Option<&AcceptedRows>) -> f64 {
    let through_graph = |query: &[f32]| segment.find(ByGraph { budget: usize::MAX }, query, ef, 10, accept).unwrap();
    let lower = recall_of(through_graph, input, queries, accept);
    lower.min(recall_of(|query| segment.walk(query, ef, 10, accept, usize::MAX).unwrap(), input, queries, accept))
}

fn recall_of(search: impl Fn(&[f32]) -> Vec<Scored>, input: &SegmentInput, queries: &[Vec<f32>], accept: Option<&AcceptedRows>) -> f64 {
    let (mut found, mut wanted) = (0, 0);
    for query in queries {
        let expected = exact(input, query, 10, accept);
        let answer = search(query);
        for scored in &answer {
            assert_eq!(
                scored.nearness.to_bits(),
                input.distance.nearness(query, input.vector(scored.row)).to_bits(),
                "scores are those of the full rows"
            );
            assert!(accept.is_none_or(|accept| accept.contains(scored.row)), "only accepted rows are answered");
        }
        assert!(answer.is_sorted_by(|a, b| a.nearness >= b.nearness));
        // By score, not by row: a tie is no miss.
        found += answer.iter().filter(|scored| scored.nearness >= expected[expected.len() - 1].nearness).count();
        wanted += expected.len();
    }
    found as f64 / wanted as f64
}

#[test]
fn a_walk_finds_nearly_what_an_exact_search_finds_with_all_codes_distances_and_builders() {
    let mut vectors = clustered(1, 4050, 40);
    let mut queries = vectors.split_off(4000);
    for distance in DISTANCES {
        let input = input(distance, &vectors);
        if distance == Distance::Cosine {
            queries = queries.into_iter().map(normalised).collect();
        }
        for (codes, builder) in ALL_CODES.map(|codes| (codes, Builder::Own)).into_iter().chain([(Codes::Int8, Builder::HnswRs)]) {
            let folder = tempfile::tempdir().unwrap();
            let segment = write_and_open(folder.path(), &input, &SegmentParams { codes, builder, ..PARAMS });
            let recall = recall(&segment, &input, &queries, 100, None);
            assert!(recall >= 0.97, "{distance:?} {codes:?} {builder:?}: recall@10 {recall}");
        }
    }
}

/// Well apart, of different widths and sizes.
fn apart(seed: u64, count: usize, size: usize) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = || (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0;
    let centres: Vec<Vec<f32>> = (0..8).map(|_| (0..size).map(|_| 4.0 * normal()).collect()).collect();
    let of = |i: usize| [0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 7][i % 12];
    (0..count).map(|i| centres[of(i)].iter().map(|x| x + (0.5 + 0.1 * of(i) as f32) * normal()).collect()).collect()
}

#[test]
fn clusters_that_hold_their_own_neighbours_are_compared_whole() {
    let mut vectors = apart(21, 6060, 40);
    let mut queries = vectors.split_off(6000);
    // From the middle between all of them, and from far outside.
    queries.extend([vec![0.0; 40], vec![60.0; 40]]);
    for distance in [Distance::Cosine, Distance::Euclid] {
        let input = input(distance, &vectors);
        let queries: Vec<Vec<f32>> = match distance {
            Distance::Cosine => queries.iter().map(|query| normalised(query.iter().map(|x| x + 1e-3).collect())).collect(),
            _ => queries.clone(),
        };
        for codes in ALL_CODES {
            let folder = tempfile::tempdir().unwrap();
            let segment = write_and_open(folder.path(), &input, &SegmentParams { codes, ..PARAMS });
            let runs = segment.header.runs();
            assert_eq!(runs > 1, matches!(codes, Codes::Int8 | Codes::Int4), "{distance:?} {codes:?}: {runs} runs");
            if runs == 0 {
                continue;
            }
            // 4-bit codes are coarse: with more candidates more of them are compared again.
            let (ef, enough) = if codes == Codes::Int4 { (256, 0.98) } else { (16, 0.985) };
            let by_runs = |accept: Option<AcceptedRows>| {
                let search = |query: &[f32]| segment.walk(query, ef, 10, accept.as_ref(), usize::MAX).unwrap();
                recall_of(search, &input, &queries, accept.as_ref())
            };
            let found = by_runs(None);
            assert!(found >= enough, "{distance:?} {codes:?}: recall@10 {found} at ef {ef}");
            for share in [2, 7, 60] {
                let mut accept = Bits::none(segment.rows());
                for row in (0..segment.rows() as Row).filter(|row| row * 31 % share == 0) {
                    accept.insert(row);
                }
                let found = by_runs(Some(accept.into()));
                assert!(found >= enough, "{distance:?} {codes:?}: recall@10 {found} of one in {share}");
            }
            assert_eq!(segment.walk(&queries[0], 16, 10, None, runs), None, "no cluster is within such a budget");
        }
    }
}

#[test]
fn runs_cover_every_node_once() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = apart(22, 5000, 24);
    let segment = write_and_open(folder.path(), &input(Distance::Euclid, &vectors), &PARAMS);
    let runs = super::runs::Runs::of(&segment).expect("clusters apart have runs");
    let mut met = vec![0; segment.header.nodes()];
    for starts in runs.of_layers() {
        starts.windows(2).for_each(|run| (run[0]..run[1]).for_each(|node| met[node as usize] += 1));
    }
    assert!(met.iter().all(|times| *times == 1));
}

/// Where the nearest are just across the border of a cluster, its middle is farther than they are.
#[test]
fn neighbours_across_the_borders_of_clusters_are_found() {
    let mut random = ChaCha8Rng::seed_from_u64(23);
    for size in [1, 2, 3] {
        let mut draw = |_| (0..size).map(|_| random.random::<f32>()).collect::<Vec<f32>>();
        let vectors: Vec<Vec<f32>> = (0..6000).map(&mut draw).collect();
        let queries: Vec<Vec<f32>> = (0..100).map(&mut draw).collect();
        let input = input(Distance::Euclid, &vectors);
        let folder = tempfile::tempdir().unwrap();
        let segment = write_and_open(folder.path(), &input, &PARAMS);
        let found = recall_of(|query| segment.walk(query, 32, 10, None, usize::MAX).unwrap(), &input, &queries, None);
        assert!(found >= 0.97, "{size} dimensions, {} runs: recall@10 {found}", segment.header.runs());
    }
}

#[test]
fn data_far_from_the_origin_or_of_extreme_scale_are_found_by_codes() {
    for (far, scale) in [(1000.0, 1.0), (0.0, 1e-25), (0.0, 1e25)] {
        let mut vectors: Vec<Vec<f32>> =
            clustered(2, 2030, 24).iter().map(|vector| vector.iter().map(|x| (x + far) * scale).collect()).collect();
        let queries = vectors.split_off(2000);
        let input = input(Distance::Euclid, &vectors);
        for codes in [Codes::F16, Codes::Int8, Codes::Int4] {
            let folder = tempfile::tempdir().unwrap();
            let segment = write_and_open(folder.path(), &input, &SegmentParams { codes, ..PARAMS });
            let recall = recall(&segment, &input, &queries, 100, None);
            assert!(recall >= 0.97, "{codes:?} at {far}, × {scale}: recall@10 {recall}");
        }
    }
}

/// On a plane of a few dimensions that is tilted against all axes: no clusters hold their own neighbours.
pub(super) fn tilted(seed: u64, count: usize, size: usize) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |count: usize| (0..count).map(|_| random.random::<f32>() - 0.5).collect::<Vec<f32>>();
    let axes: Vec<Vec<f32>> = (0..12).map(|_| draw(size)).collect();
    let of = |place: Vec<f32>| (0..size).map(|i| place.iter().zip(&axes).map(|(x, axis)| x * axis[i]).sum()).collect();
    (0..count).map(|_| of(draw(12))).collect()
}

/// Of many dimensions, int8 codes are in halves, and a walk goes by the upper ones.
#[test]
fn codes_in_halves_find_what_whole_codes_find() {
    let all = tilted(11, 3040, 200);
    // One coordinate that is much larger than all others is told by whole codes only.
    let mut uneven = all.clone();
    uneven.iter_mut().enumerate().for_each(|(i, vector)| vector[5] = if i % 2 == 0 { 4.0 } else { -4.0 });
    for distance in DISTANCES {
        for (vectors, halved) in [(&all, true), (&uneven, false)] {
            let (vectors, queries) = vectors.split_at(3000);
            let placed = |query: &Vec<f32>| if distance == Distance::Cosine { normalised(query.clone()) } else { query.clone() };
            let queries: Vec<Vec<f32>> = queries.iter().map(placed).collect();
            let input = input(distance, vectors);
            let folder = tempfile::tempdir().unwrap();
            let segment = write_and_open(folder.path(), &input, &PARAMS);
            assert_eq!(segment.header.halves, halved, "{distance:?}");
            for accept in [None, Some((0..3000).filter(|row| row % 3 != 0).collect::<AcceptedRows>())] {
                let recall = recall(&segment, &input, &queries, 80, accept.as_ref());
                assert!(recall >= 0.97, "{distance:?}, halves {halved}: recall@10 {recall}");
                // A graph that lost many says that codes are not to be relied on.
                assert!(segment.relies_on_codes() || !halved || distance == Distance::Dot, "{distance:?}");
                if segment.relies_on_codes() {
                    let by_scan = |query: &[f32]| segment.scan_codes(query, 10, accept.as_ref()).unwrap();
                    let recall = recall_of(by_scan, &input, &queries, accept.as_ref());
                    assert!(recall >= 0.99, "{distance:?}, halves {halved}: recall@10 {recall} by a scan");
                }
            }
            // Wanting all that was found, nothing of it is left out.
            for want in [1, 40, 80, 3000] {
                let found = segment.walk(&queries[0], 80, want, None, usize::MAX).unwrap();
                assert_eq!(found.len(), want, "{distance:?}, halves {halved}");
            }
        }
    }
    // Fewer blocks are read in no less time.
    let folder = tempfile::tempdir().unwrap();
    let short: Vec<Vec<f32>> = all.iter().map(|vector| vector[..192].to_vec()).collect();
    assert!(!write_and_open(folder.path(), &input(Distance::Euclid, &short), &PARAMS).header.halves);
}

/// Each of a few groups of rows that are almost the same: what upper halves are off by must vanish near a row.
#[test]
fn the_nearest_within_tight_groups_are_found_by_halves() {
    let (centres, places) = (tilted(31, 12, 256), tilted(32, 3030, 256));
    let row = |i: usize| -> Vec<f32> { centres[i % 12].iter().zip(&places[i]).map(|(centre, x)| centre + 0.05 * x).collect() };
    let vectors: Vec<Vec<f32>> = (0..3000).map(row).collect();
    let queries: Vec<Vec<f32>> = (3000..3030).map(row).collect();
    for (distance, builder) in [(Distance::Euclid, Builder::HnswRs), (Distance::Dot, Builder::Own)] {
        let input = input(distance, &vectors);
        let folder = tempfile::tempdir().unwrap();
        let segment = write_and_open(folder.path(), &input, &SegmentParams { builder, ..PARAMS });
        assert!(segment.header.halves, "{distance:?}");
        // By all codes: what the graph leads to is another question, which a parallel build by insertion answers differently each time.
        let by_scan = |query: &[f32]| segment.find(super::walk::All, query, segment.refined(10), 10, None).unwrap();
        let recall = recall_of(by_scan, &input, &queries, None);
        assert!(recall >= 0.97, "{distance:?}: recall@10 {recall}");
    }
}

/// What lies in a file is what this build's codes are, and stays so.
#[test]
fn codes_in_halves_lie_in_the_file_as_they_were_made() {
    use crate::codes::{Encoder, blocks_in_halves, in_halves};
    use crate::kernel::{BLOCK, Block};
    let folder = tempfile::tempdir().unwrap();
    let input = input(Distance::Euclid, &tilted(33, 60, 200));
    let segment = write_and_open(folder.path(), &input, &PARAMS);
    assert!(segment.header.halves);
    let mut encoder = Encoder::new(&segment.frame, Distance::Euclid, Codes::Int8);
    let (mut code, mut halves) = ([Block([0; BLOCK]); 4], [Block([0; BLOCK]); 4]);
    assert_eq!(blocks_in_halves(200), 4);
    let stored = segment.section::<Block>(Kind::Codes).chunks(4).zip(segment.section::<f32>(Kind::WholeScales));
    for ((stored, scale), row) in stored.zip(segment.section::<u32>(Kind::NodeRows)) {
        let factors = encoder.encode(input.vector(*row), &mut code);
        in_halves(&code, &mut halves);
        assert_eq!(
            (halves.map(|block| block.0).as_slice(), factors.scale),
            (&*stored.iter().map(|block| block.0).collect::<Vec<_>>(), *scale)
        );
    }
}

/// Where the unit in which codes estimate were another one, too much would be left out.
#[test]
fn what_is_not_compared_again_is_none_of_the_nearest() {
    for (distance, far, scale) in DISTANCES.map(|distance| (distance, 0.0, 1.0)).into_iter().chain([
        (Distance::Euclid, 30.0, 1e-6),
        (Distance::Dot, 0.3, 1e6),
        (Distance::Cosine, 2.0, 1.0),
    ]) {
        let moved = |vector: Vec<f32>| vector.into_iter().map(|x| (x + far) * scale).collect::<Vec<f32>>();
        // Of the longer ones int8 codes are in halves, and what these leave out is none of the nearest either.
        for (vectors, codes) in [
            (clustered(5, 3200, 48), Codes::F16),
            (clustered(5, 3200, 48), Codes::Int8),
            (clustered(5, 3200, 48), Codes::Int4),
            (tilted(5, 3200, 256), Codes::Int8),
        ] {
            let mut vectors: Vec<Vec<f32>> = vectors.into_iter().map(moved).collect();
            let queries = vectors.split_off(3000);
            let input = input(distance, &vectors);
            let folder = tempfile::tempdir().unwrap();
            let segment = write_and_open(folder.path(), &input, &SegmentParams { codes, ..PARAMS });
            let halves = segment.header.halves;
            assert_eq!(halves, vectors[0].len() == 256);
            let mut missed = 0;
            for query in &queries {
                let query = if distance == Distance::Cosine { normalised(query.clone()) } else { query.clone() };
                // As many candidates whatever is wanted.
                let ef = if halves { 94 } else { 60 };
                let all_again = segment.walk(&query, ef, 60, None, usize::MAX).unwrap();
                let found = segment.walk(&query, ef, 10, None, usize::MAX).unwrap();
                missed += all_again[..10].iter().filter(|scored| !found.contains(scored)).count();
            }
            let most = if codes == Codes::Int4 { 20 } else { 4 };
            assert!(missed <= most, "{distance:?} {codes:?}, halves {halves}, moved by {far}, × {scale}: {missed} of 2,000 were left out");
        }
    }
}

#[test]
fn a_filtered_walk_answers_only_what_passes_and_finds_it() {
    let mut vectors = clustered(3, 4030, 24);
    let queries = vectors.split_off(4000);
    let input = input(Distance::Euclid, &vectors);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for codes in ALL_CODES {
        let folder = tempfile::tempdir().unwrap();
        let segment = write_and_open(folder.path(), &input, &SegmentParams { codes, ..PARAMS });
        for pass in [0.9, 0.5, 0.2, 0.1] {
            let accept: AcceptedRows = (0..4000).filter(|_| random.random_bool(pass)).collect();
            let recall = recall(&segment, &input, &queries, 80, Some(&accept));
            assert!(recall >= 0.97, "{codes:?}, {pass} pass: recall@10 {recall}");
        }
        // What passes lies on one side of the space, and so do half of the queries on the other.
        for pass in [0.5, 0.2, 0.1] {
            let mut along: Vec<Row> = (0..4000).collect();
            along.sort_by(|a, b| input.vector(*a)[0].total_cmp(&input.vector(*b)[0]));
            let accept: AcceptedRows = along[..(4000.0 * pass) as usize].iter().copied().collect();
            let recall = recall(&segment, &input, &queries, 80, Some(&accept));
            // A tenth of so few is not walked for, but compared.
            let least = if pass < 0.2 { 0.88 } else { 0.95 };
            assert!(recall >= least, "{codes:?}, {pass} pass on one side: recall@10 {recall}");
        }
        assert_eq!(segment.walk(&queries[0], 50, 10, Some(&Bits::none(4000).into()), usize::MAX), Some(vec![]));
        let half: AcceptedRows = (0..4000).filter(|row| row % 2 == 0).collect();
        assert_eq!(segment.walk(&queries[0], 50, 10, Some(&half), 60), None, "it gives up past its budget");
        assert_eq!(segment.walk(&queries[0], 50, 10, None, 20), None);
    }
}

#[test]
fn a_walk_that_others_cut_off_from_what_passes_says_so() {
    // Those that pass are few and far from each other: no two are neighbours of neighbours.
    let vectors = clustered(8, 4000, 24);
    let input = input(Distance::Euclid, &vectors);
    let folder = tempfile::tempdir().unwrap();
    let segment = write_and_open(folder.path(), &input, &PARAMS);
    let accept: AcceptedRows = (0..4000).filter(|row| row % 97 == 5).collect();
    for query in &vectors[..20] {
        let found = segment.walk(query, 40, 5, Some(&accept), usize::MAX);
        let enough = found.is_none_or(|found| found.len() == 5);
        assert!(enough, "it answers with too few and does not say that there are more");
    }
}

#[test]
fn a_scan_by_codes_finds_nearly_what_an_exact_one_finds() {
    let mut vectors = clustered(9, 3030, 40);
    let queries: Vec<Vec<f32>> = vectors.split_off(3000).into_iter().map(normalised).collect();
    // Identical ones share a node, and all of them are answered.
    vectors.extend_from_within(..50);
    for distance in DISTANCES {
        let input = input(distance, &vectors);
        for codes in ALL_CODES {
            let folder = tempfile::tempdir().unwrap();
            let segment = write_and_open(folder.path(), &input, &SegmentParams { codes, ..PARAMS });
            for accept in [None, Some((0..3050).filter(|row| row % 3 != 0).collect::<AcceptedRows>()), Some((0..40).collect())] {
                let (mut found, mut wanted) = (0, 0);
                for query in &queries {
                    let Some(answer) = segment.scan_codes(query, 10, accept.as_ref()) else {
                        assert_eq!(codes, Codes::F32, "there are no codes");
                        continue;
                    };
                    let expected = exact(&input, query, 10, accept.as_ref());
                    assert!(answer.len() == 10 && answer.is_sorted_by(|a, b| a.nearness >= b.nearness));
                    for scored in &answer {
                        let nearness = input.distance.nearness(query, input.vector(scored.row));
                        assert_eq!(scored.nearness.to_bits(), nearness.to_bits(), "scores are those of the full rows");
                        assert!(accept.as_ref().is_none_or(|accept| accept.contains(scored.row)), "only accepted rows are answered");
                    }
                    found += answer.iter().filter(|scored| scored.nearness >= expected[9].nearness).count();
                    wanted += 10;
                }
                assert!(found as f64 >= 0.98 * wanted as f64, "{distance:?} {codes:?}: {found} of {wanted}");
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let segment = write_and_open(folder.path(), &input, &PARAMS);
        assert_eq!(segment.scan_codes(&queries[0], 10, Some(&Bits::none(3050).into())), Some(vec![]));
    }
}

/// Lists that kept the nearest first filled up with links into their own cluster, and walks never came to others.
#[test]
fn dense_clusters_are_not_lost_to_a_walk() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut normal = || (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0;
    let centres: Vec<Vec<f32>> = (0..40).map(|_| (0..24).map(|_| normal()).collect()).collect();
    let mut vectors: Vec<Vec<f32>> = (0..8040).map(|i| centres[i % 40].iter().map(|x| x + 0.2 * normal()).collect()).collect();
    let queries = vectors.split_off(8000);
    let input = input(Distance::Euclid, &vectors);
    let folder = tempfile::tempdir().unwrap();
    let segment = write_and_open(folder.path(), &input, &SegmentParams { m: 16, ..PARAMS });
    let recall = recall(&segment, &input, &queries, 60, None);
    assert!(recall >= 0.97, "recall@10 {recall}");
}

#[test]
fn a_scan_answers_exactly_with_ties_by_id() {
    let mut vectors = clustered(4, 520, 19);
    let queries = vectors.split_off(500);
    vectors.extend(vectors.clone());
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for distance in [Distance::Cosine, Distance::Dot, Distance::Euclid, Distance::Manhattan] {
        let input = input(distance, &vectors);
        let folder = tempfile::tempdir().unwrap();
        let segment = write_and_open(folder.path(), &input, &PARAMS);
        let accept: AcceptedRows = (0..1000).filter(|_| random.random_bool(0.3)).collect();
        for query in &queries {
            for want in [0, 1, 3, 10, 200, 2000] {
                assert_eq!(segment.scan(query, want, None), exact(&input, query, want, None));
                assert_eq!(segment.scan(query, want, Some(&accept)), exact(&input, query, want, Some(&accept)));
            }
        }
        assert_eq!(segment.walk(&queries[0], 10, 10, None, usize::MAX).is_none(), distance == Distance::Manhattan);
    }
}

#[test]
fn identical_vectors_share_a_node_and_hide_no_other() {
    let mut vectors = clustered(5, 1000, 16);
    let unique = vectors.len();
    for copies in 0..5 {
        vectors.extend(std::iter::repeat_n(vectors[copies * 100].clone(), 300));
    }
    let input = input(Distance::Euclid, &vectors);
    let folder = tempfile::tempdir().unwrap();
    let segment = write_and_open(folder.path(), &input, &PARAMS);
    assert_eq!((segment.stats().nodes, segment.rows()), (unique, 2500));
    for (row, vector) in vectors[..unique].iter().enumerate() {
        let want = if row % 100 == 0 && row < 500 { 301 } else { 1 };
        let answer = segment.walk(vector, 40, want, None, usize::MAX).unwrap();
        assert_eq!(answer, exact(&input, vector, want, None), "row {row}");
    }
    // A node lives as long as one of its rows.
    let last: AcceptedRows = [2499].into_iter().collect();
    assert_eq!(segment.walk(&vectors[400], 40, 5, Some(&last), usize::MAX).unwrap(), exact(&input, &vectors[400], 5, Some(&last)));
}

#[test]
fn zero_vectors_under_cosine_are_answered_beside_the_graph() {
    let mut vectors = clustered(6, 300, 8);
    for row in [0, 100, 299] {
        vectors[row] = vec![0.0; 8];
    }
    let input = input(Distance::Cosine, &vectors);
    let folder = tempfile::tempdir().unwrap();
    let segment = write_and_open(folder.path(), &input, &PARAMS);
    assert_eq!((segment.stats().nodes, segment.stats().side), (297, 3));
    assert_eq!(segment.walk(input.vector(1), 300, 300, None, usize::MAX).unwrap(), exact(&input, input.vector(1), 300, None));
    let zero = vec![0.0; 8];
    assert_eq!(segment.walk(&zero, 300, 300, None, usize::MAX).unwrap().len(), 300);
    let nothing_else = self::input(Distance::Cosine, &[zero.clone(), zero.clone()]);
    let segment = write_and_open(folder.path(), &nothing_else, &PARAMS);
    assert_eq!(segment.walk(&zero, 10, 10, None, usize::MAX).unwrap(), exact(&nothing_else, &zero, 10, None));
}

#[test]
fn rows_keep_their_slots_points_ids_and_vectors() {
    let vectors = clustered(7, 70, 5);
    for uuids in [true, false] {
        let mut input = input(Distance::Dot, &vectors);
        if !uuids {
            input.ids = (0..70).map(|row| PointId::Num(u64::MAX - row)).collect();
        }
        let folder = tempfile::tempdir().unwrap();
        let segment = write_and_open(folder.path(), &input, &PARAMS);
        for row in 0..70 {
            let place = row as usize;
            assert_eq!(segment.row_of(input.slots[place]), Some(row));
            assert_eq!(segment.row_of(input.slots[place] + 1), None);
            assert_eq!((segment.id(row), segment.point(row)), (input.ids[place], input.points[place]));
            assert_eq!(segment.vector(row), vectors[place]);
        }
        assert_eq!(segment.slots(), input.slots);
    }
}

#[test]
fn the_rows_of_a_point_are_found_in_whatever_order_points_lie() {
    let folder = tempfile::tempdir().unwrap();
    let vectors: Vec<Vec<f32>> = (0..300).map(|i| vec![i as f32, 1.0]).collect();
    // One after the other, in order, and as after many replacements: several rows a point, in no order.
    let numbers: [fn(u32) -> u32; 3] = [|row| row + 70, |row| 2 * row, |row| row * 37 % 101];
    for number in numbers {
        let mut input = input(Distance::Euclid, &vectors);
        (0..).zip(&mut input.points).for_each(|(row, point)| *point = number(row));
        let segment = write_and_open(folder.path(), &input, &PARAMS);
        for point in 0..700 {
            let expected: Vec<Row> = (0..300).filter(|row| number(*row) == point).collect();
            assert_eq!(segment.rows_of_point(point).collect::<Vec<_>>(), expected, "point {point}");
        }
        // And so are those of sets of points, again and again, and when fewer of them live.
        let segment = Arc::new(segment);
        for every in [1, 3, 250] {
            let passing = PassingSet::new((0..700).filter(|point| point % every == 0).collect());
            let mut live: Arc<AcceptedRows> = Arc::new(Bits::all(300).into());
            for step in 0..3 {
                for live in [None, Some(&live), Some(&live), None] {
                    let is_wanted = |row: &Row| number(*row).is_multiple_of(every) && live.is_none_or(|live| live.contains(*row));
                    let expected: Vec<Row> = (0..300).filter(is_wanted).collect();
                    let rows = passing.rows_of(&segment, live);
                    assert_eq!(
                        (rows.iter().collect::<Vec<_>>(), rows.count()),
                        (expected.clone(), expected.len()),
                        "every {every}, {step}"
                    );
                }
                Arc::make_mut(&mut live).remove(100 + step);
            }
        }
    }
}

#[test]
fn extreme_vectors_are_indexed_and_scored_finite() {
    let mut vectors = clustered(8, 200, 6);
    vectors[3] = vec![f32::MAX; 6];
    vectors[4] = vec![-f32::MAX; 6];
    vectors[5] = vec![1e-45; 6];
    for distance in [Distance::Dot, Distance::Euclid, Distance::Manhattan] {
        for codes in ALL_CODES {
            let input = input(distance, &vectors);
            let folder = tempfile::tempdir().unwrap();
            let segment = write_and_open(folder.path(), &input, &SegmentParams { codes, ..PARAMS });
            for query in &vectors[..10] {
                assert_eq!(segment.scan(query, 200, None), exact(&input, query, 200, None));
                if let Some(answer) = segment.walk(query, 200, 200, None, usize::MAX) {
                    assert_eq!(answer.len(), 200, "{distance:?} {codes:?}");
                    assert!(answer.iter().all(|scored| scored.nearness.is_finite()));
                }
            }
        }
    }
}

#[test]
fn a_cancelled_build_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let input = input(Distance::Euclid, &clustered(9, 100, 4));
    for builder in [Builder::Own, Builder::HnswRs] {
        let written = write(&folder.path().join("segment"), &input, &SegmentParams { builder, ..PARAMS }, &AtomicBool::new(true)).unwrap();
        assert_eq!((written, std::fs::read_dir(folder.path()).unwrap().count()), (None, 0));
    }
}

#[test]
fn one_seed_writes_the_same_file_on_any_number_of_threads_wherever_vectors_lie() {
    let folder = tempfile::tempdir().unwrap();
    for codes in ALL_CODES {
        let vectors = clustered(10, 1500, 12);
        let mut input = input(Distance::Cosine, &vectors);
        let bytes = |input: &SegmentInput, threads| {
            let path = folder.path().join("segment");
            write(&path, input, &SegmentParams { threads, codes, ..PARAMS }, &never()).unwrap().unwrap();
            std::fs::read(path).unwrap()
        };
        let copied = bytes(&input, 1);
        // As a tail holds them: in blocks, with places of the dead in between.
        let rows: Vec<Row> = (0..1500).collect();
        let block =
            |rows: &[Row]| Arc::new(rows.iter().flat_map(|row| [&[f32::NAN; 12], input.vector(*row)].concat()).collect::<Vec<f32>>());
        let blocks = rows.chunks(64).map(block).collect();
        let places = rows.iter().map(|row| (row / 64, 2 * (row % 64) + 1)).collect();
        assert!(copied == bytes(&input, 3), "on three threads");
        input.vectors = RowVectors::Shared { blocks, places };
        assert!(copied == bytes(&input, 2), "shared");
    }
}

fn small(folder: &Path) -> (Vec<u8>, SegmentSummary) {
    let mut vectors = clustered(11, 60, 6);
    vectors[7] = vectors[8].clone();
    vectors[9] = vec![0.0; 6];
    let path = folder.join("segment");
    let summary = write(&path, &input(Distance::Cosine, &vectors), &PARAMS, &never()).unwrap().unwrap();
    (std::fs::read(path).unwrap(), summary)
}

/// The section that opening blames.
fn blamed(path: &Path, stamp: &Stamp, verify: Verify) -> Option<&'static str> {
    match Segment::open(path, stamp, verify) {
        Ok(_) => None,
        Err(Error::DamagedSegment { section, .. }) => Some(section),
        Err(Error::Format { .. }) => Some("format"),
        Err(other) => panic!("{other}"),
    }
}

fn is_refused(path: &Path, bytes: &[u8], stamp: &Stamp) -> bool {
    std::fs::write(path, bytes).unwrap();
    blamed(path, stamp, Verify::OnRead).is_some()
}

#[test]
fn every_flipped_byte_is_noticed_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, SegmentSummary { stamp, .. }) = small(folder.path());
    let path = folder.path().join("segment");
    assert_eq!(blamed(&path, &stamp, Verify::Eager), None);
    // Never while the file is mapped.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let put = |place: usize, byte: u8| std::os::unix::fs::FileExt::write_all_at(&file, &[byte], place as u64).unwrap();
    let mut sections = std::collections::BTreeSet::new();
    for (place, byte) in bytes.iter().enumerate() {
        put(place, byte ^ (1 << (place % 8)));
        let section = blamed(&path, &stamp, Verify::Eager);
        assert!(section.is_some(), "byte {place} was flipped unnoticed");
        sections.extend(section);
        // Lazily opened, it is either refused too or found by whoever reads it; until then searches do no harm.
        match Segment::open(&path, &stamp, Verify::OnRead) {
            Ok(segment) => {
                let answer = segment.walk(&[0.5; 6], 20, 10, None, usize::MAX).unwrap();
                assert!(answer.len() <= 10 && segment.scan(&[0.5; 6], 10, None).len() == 10);
                segment.scan_codes(&[0.5; 6], 10, None).unwrap();
                // All of both was read.
                let damage = segment.damage().unwrap_or_else(|| panic!("byte {place} was flipped unnoticed"));
                assert!(matches!(section, Some("codes" | "vectors")) && damage.contains(section.unwrap()), "byte {place}: {damage}");
                assert!(matches!(segment.verify(), Err(Error::DamagedSegment { .. })), "byte {place}");
            }
            Err(Error::DamagedSegment { section: blamed, .. }) => assert_eq!(section, Some(blamed), "byte {place}"),
            Err(_) => assert_eq!(section, Some("format"), "byte {place}"),
        }
        put(place, *byte);
    }
    for section in [
        "header",
        "format",
        "slots",
        "points",
        "ids",
        "id kinds",
        "node rows",
        "further rows",
        "side",
        "starts",
        "links",
        "centre",
        "codes",
        "factors",
        "vectors",
        "vector hashes",
        "code hashes",
    ] {
        assert!(sections.contains(section), "no flip was noticed in the {section}");
    }
}

/// What is read is believed once its block was hashed, and nothing is once a block was wrong.
#[test]
fn codes_and_rows_are_hashed_when_they_are_first_read() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = clustered(26, 300, 512);
    for (codes, kind, near) in ALL_CODES.into_iter().flat_map(|codes| {
        // Two rows of 2 KiB are a block, and a code, but for two of 256 bytes.
        let vectors = (codes, Kind::Vectors, "numbers 100 to 101");
        let code = (codes, Kind::Codes, if codes == Codes::Int4 { "numbers 100 to 101" } else { "numbers 101 to 101" });
        if codes == Codes::F32 { vec![vectors] } else { vec![vectors, code] }
    }) {
        let path = folder.path().join("segment");
        let input = input(Distance::Euclid, &vectors);
        let SegmentSummary { stamp, .. } = write(&path, &input, &SegmentParams { codes, ..PARAMS }, &never()).unwrap().unwrap();
        let whole = Segment::open(&path, &stamp, Verify::OnRead).unwrap();
        let section = *whole.header.section(kind);
        let (items, bytes) = whole.header.items(kind);
        let node_rows: Vec<Row> = whole.section::<u32>(Kind::NodeRows).to_vec();
        let row = if kind == Kind::Codes { node_rows[101] } else { 101 };
        assert_eq!(
            (items, whole.walk(&vectors[row as usize], 300, 300, None, usize::MAX).unwrap().len(), whole.damage()),
            (300, 300, None)
        );
        whole.load().unwrap();
        assert!(whole.code_reader().is_none());
        drop(whole);
        let file = std::fs::File::options().write(true).read(true).open(&path).unwrap();
        let place = (section.offset + 101 * bytes + 77) as u64;
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, place).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[byte[0] ^ 4], place).unwrap();
        let segment = Segment::open(&path, &stamp, Verify::OnRead).unwrap();
        if kind == Kind::Vectors {
            for row in (0..100).chain(102..300) {
                assert_eq!(segment.vector(row), input.vector(row));
            }
        } else {
            segment.scan(&vectors[3], 300, None);
        }
        assert_eq!(segment.damage(), None, "{codes:?}, {kind:?}: other blocks are as they were");
        // Found by a walk, by a scan of codes, by a scan, by the loading; and it stays found.
        let query = &vectors[row as usize];
        type Way = fn(&Segment, &[f32]);
        let walk: Way = |segment, query| drop(segment.walk(query, 300, 10, None, usize::MAX));
        let scan_codes: Way = |segment, query| drop(segment.scan_codes(query, 10, None).unwrap());
        let scan: Way = |segment, query| drop(segment.scan(query, 1, Some(&[101].into_iter().collect())));
        let load: Way = |segment, _| assert!(matches!(segment.load(), Err(Error::DamagedSegment { section: "codes", .. })));
        let (of_codes, of_kind) = (("a scan of codes", scan_codes), if kind == Kind::Codes { ("load", load) } else { ("a scan", scan) });
        for (name, way) in [("a walk", walk), of_codes, of_kind] {
            if (name, codes) == ("a scan of codes", Codes::F32) {
                continue;
            }
            let segment = Segment::open(&path, &stamp, Verify::OnRead).unwrap();
            way(&segment, query);
            let damage = segment.damage().unwrap_or_else(|| panic!("{codes:?}, {kind:?}: unnoticed by {name}"));
            assert!(damage.contains(path.to_str().unwrap()) && damage.contains(kind.name()), "{name}: {damage}");
            assert!(name == "load" || damage.contains(near), "{codes:?}, {name}: {damage}");
            segment.scan(&vectors[3], 1, Some(&[3].into_iter().collect()));
            assert!(segment.damage().is_some());
        }
    }
}

/// Right hashes do not help a graph that leads to nobody.
#[test]
fn a_verification_notices_rows_to_which_no_link_leads() {
    use super::format::{HEADER, Header, header_hash};
    let folder = tempfile::tempdir().unwrap();
    let vectors = clustered(27, 400, 8);
    let whole = write_and_open(folder.path(), &input(Distance::Cosine, &vectors), &PARAMS);
    whole.verify().unwrap();
    let bytes = std::fs::read(folder.path().join("segment")).unwrap();
    let mut header = Header::decode(bytes.first_chunk().unwrap(), bytes.len()).unwrap();
    let section = header.section(Kind::Links).range();
    let mut damaged = bytes;
    // Links to the second half of the nodes lead to the first.
    for link in damaged[section.start..section.end - 4].as_chunks_mut::<2>().0 {
        let node = u16::from_le_bytes(*link);
        *link = if node >= 200 { node - 200 } else { node }.to_le_bytes();
    }
    header.section_mut(Kind::Links).hash = xxhash_rust::xxh3::xxh3_128(&damaged[header.span(Kind::Links, damaged.len())]);
    let encoded = header.encode();
    damaged[..HEADER].copy_from_slice(&encoded);
    let path = folder.path().join("damaged");
    std::fs::write(&path, &damaged).unwrap();
    let stamp = Stamp { len: damaged.len() as u64, hash: header_hash(&encoded) };
    let segment = Segment::open(&path, &stamp, Verify::Eager).unwrap();
    assert!(
        matches!(segment.verify(), Err(Error::DamagedSegment { section: "links", reason, .. }) if reason.contains("200 of the 400 rows"))
    );
    assert!(segment.damage().is_some(), "nothing that it finds is believed");
}

/// So much is hashed on two threads.
#[test]
fn a_flipped_byte_of_each_section_of_a_large_segment_is_noticed_and_named() {
    let of_runs = [Kind::Runs, Kind::Middles, Kind::MiddleFactors, Kind::Spreads];
    // Clusters have runs; codes are in halves where there are none.
    for (mut vectors, empty) in [(clustered(13, 4200, 512), [Kind::WholeScales].as_slice()), (tilted(13, 4200, 512), &of_runs)] {
        let folder = tempfile::tempdir().unwrap();
        vectors[4000] = vectors[7].clone();
        vectors[1] = vec![0.0; 512];
        let path = folder.path().join("segment");
        let SegmentSummary { stamp, .. } = write(&path, &input(Distance::Cosine, &vectors), &PARAMS, &never()).unwrap().unwrap();
        let sections = Segment::open(&path, &stamp, Verify::Eager).unwrap().header.sections;
        assert!(stamp.len > 9 << 20, "{} bytes are few", stamp.len);
        // Never while the file is mapped.
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        for (kind, section) in Kind::ALL.into_iter().zip(sections) {
            assert_eq!(section.length == 0, empty.contains(&kind), "{}", kind.name());
            if section.length == 0 {
                continue;
            }
            for place in [section.offset, section.offset + section.length / 2, section.offset + section.length - 1] {
                let mut byte = [0];
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, place as u64).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, &[byte[0] ^ 0x40], place as u64).unwrap();
                assert_eq!(blamed(&path, &stamp, Verify::Eager), Some(kind.name()), "byte {place}");
                let later = if matches!(kind, Kind::Vectors | Kind::Codes) { None } else { Some(kind.name()) };
                assert_eq!(blamed(&path, &stamp, Verify::OnRead), later, "byte {place}");
                std::os::unix::fs::FileExt::write_all_at(&file, &byte, place as u64).unwrap();
            }
        }
        assert_eq!(blamed(&path, &stamp, Verify::Eager), None);
    }
}

#[test]
fn truncated_extended_and_foreign_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, SegmentSummary { stamp, .. }) = small(folder.path());
    let path = folder.path().join("damaged");
    let mut random = ChaCha8Rng::seed_from_u64(3);
    // From long to short, so that each is a cut of the one before.
    let mut lengths = (0..bytes.len()).choose_multiple(&mut random, 2000);
    lengths.extend([0, 4095, 4096, bytes.len() - 1]);
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for length in lengths {
        file.set_len(length as u64).unwrap();
        assert!(blamed(&path, &stamp, Verify::OnRead).is_some(), "cut to {length}");
    }
    assert!(is_refused(&path, &[bytes.as_slice(), &[0; 64]].concat(), &stamp));
    assert!(is_refused(&path, &[0; 10_000], &stamp));
    assert!(is_refused(&path, &(0..50_000).map(|_| random.random()).collect::<Vec<u8>>(), &stamp));
    // Sound, but not the one: from another build.
    let other = write(&path, &input(Distance::Cosine, &clustered(12, 60, 6)), &PARAMS, &never()).unwrap().unwrap();
    assert_ne!(other.stamp, stamp);
    assert!(matches!(Segment::open(&path, &stamp, Verify::OnRead), Err(Error::DamagedSegment { section: "header", .. })));
}

/// Puts random bytes into `places` of a segment 2,000 times and computes the hashes anew; how often it was opened then, and
/// searched.
fn opened_with_nonsense(bytes: &[u8], places: std::ops::Range<usize>) -> usize {
    use super::format::{HEADER, Header, header_hash};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged");
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let mut opened = 0;
    for _ in 0..2000 {
        let mut damaged = bytes.to_vec();
        let mut header = Header::decode(bytes.first_chunk().unwrap(), bytes.len()).unwrap();
        for _ in 0..random.random_range(1..4) {
            damaged[random.random_range(places.clone())] = random.random();
        }
        match random.random_range(0..13) {
            0 => header.rows = random.random_range(0..100),
            1 => header.layers[0] = random.random_range(0..100),
            2 => header.size = random.random_range(0..20),
            3 => header.link_width = random.random_range(0..6),
            4 => header.sections[random.random_range(0..Kind::ALL.len())].length = random.random_range(0..5000),
            5 => header.sections[random.random_range(0..Kind::ALL.len())].offset = random.random_range(0..1 << 40),
            6 => header.codes = ALL_CODES[random.random_range(0..4)],
            7 => header.distance = DISTANCES[random.random_range(0..3)],
            8 => header.halves = !header.halves,
            _ => (),
        }
        for kind in Kind::ALL {
            let span = header.span(kind, damaged.len());
            if let Some(span) = damaged.get(span) {
                header.section_mut(kind).hash = xxhash_rust::xxh3::xxh3_128(span);
            }
        }
        let encoded = header.encode();
        damaged[..HEADER].copy_from_slice(&encoded);
        std::fs::write(&path, &damaged).unwrap();
        let stamp = Stamp { len: damaged.len() as u64, hash: header_hash(&encoded) };
        // Hashes of rows are not computed anew: those of most are wrong where the rows or their number are others.
        for verify in [Verify::Eager, Verify::OnRead] {
            let Ok(segment) = Segment::open(&path, &stamp, verify) else { continue };
            opened += usize::from(verify == Verify::Eager);
            let query = vec![0.1; segment.size()];
            segment.walk(&query, 20, 10, None, usize::MAX).unwrap();
            segment.walk(&query, 20, 10, Some(&Bits::all(segment.rows()).into()), usize::MAX).unwrap();
            segment.scan(&query, 10, None);
            segment.scan_codes(&query, 10, None);
            assert!(
                (0..segment.rows() as Row).all(|row| segment.id(row) == segment.id(row) && segment.vector(row).len() == segment.size())
            );
        }
    }
    opened
}

/// The hashes do not help against a build that wrote nonsense, or someone who computed them anew.
#[test]
fn nonsense_with_the_right_hashes_is_refused_or_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, _) = small(folder.path());
    let opened = opened_with_nonsense(&bytes, super::format::HEADER..bytes.len());
    assert!(opened > 100, "{opened} were opened and searched");
    // Of one whose codes are in halves.
    let path = folder.path().join("halves");
    let summary = write(&path, &input(Distance::Cosine, &tilted(25, 60, 200)), &PARAMS, &never()).unwrap().unwrap();
    assert!(Segment::open(&path, &summary.stamp, Verify::Eager).unwrap().header.halves);
    let halved = std::fs::read(&path).unwrap();
    let opened = opened_with_nonsense(&halved, super::format::HEADER..halved.len());
    assert!(opened > 100, "{opened} in halves were opened and searched");
    // Of a segment with runs, what belongs to these.
    let path = folder.path().join("runs");
    let params = SegmentParams { m: 4, ef_construction: 8, ..PARAMS };
    let summary = write(&path, &input(Distance::Cosine, &apart(24, 700, 6)), &params, &never()).unwrap().unwrap();
    let header = Segment::open(&path, &summary.stamp, Verify::Eager).unwrap().header.clone();
    assert!(header.runs() > 1);
    let places = header.section(Kind::Runs).offset..header.section(Kind::Codes).offset;
    let opened = opened_with_nonsense(&std::fs::read(&path).unwrap(), places);
    assert!(opened > 100, "{opened} with runs were opened and searched");
}

/// They have no hashes of blocks: all of them is hashed when they are opened.
#[test]
fn a_flipped_byte_of_an_older_format_is_noticed_at_its_opening() {
    use super::format::{HEADER, Header, header_hash};
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let copy = tempfile::tempdir().unwrap();
    let path = copy.path().join("segment");
    let mut formats = std::collections::BTreeSet::new();
    for written in ["format-3", "segment-2", "segment-3"] {
        let folders = std::fs::read_dir(data.join(written).join("collections")).unwrap();
        let files = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap()).map(|file| file.unwrap().path());
        for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "segment")) {
            let bytes = std::fs::read(file).unwrap();
            let first: &[u8; HEADER] = bytes.first_chunk().unwrap();
            let header = Header::decode(first, bytes.len()).unwrap();
            let stamp = Stamp { len: bytes.len() as u64, hash: header_hash(first) };
            formats.insert(bytes[8]);
            for kind in [Kind::Codes, Kind::Vectors] {
                let section = header.section(kind).range();
                for place in [section.start, section.end - 1] {
                    let mut damaged = bytes.clone();
                    damaged[place] ^= 8;
                    std::fs::write(&path, damaged).unwrap();
                    assert_eq!(blamed(&path, &stamp, Verify::OnRead), Some(kind.name()), "{written}, byte {place}");
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(blamed(&path, &stamp, Verify::OnRead), None);
        }
    }
    assert_eq!(formats, [1, 2, 3].into());
}

/// Nobody writes that format any more, and its sections are other ones.
#[test]
fn sections_of_the_first_format_out_of_place_are_refused() {
    use super::format::{HEADER, Header, Refused};
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/format-3/collections");
    let files = std::fs::read_dir(folder).unwrap().flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    let segment = files.map(|file| file.unwrap().path()).find(|path| path.extension().is_some_and(|e| e == "segment")).unwrap();
    let bytes = std::fs::read(segment).unwrap();
    let first: [u8; HEADER] = *bytes.first_chunk().unwrap();
    assert_eq!((first[8], Header::decode(&first, bytes.len()).unwrap().runs()), (1, 0));
    for section in 0..13 {
        // The table begins at 256, an entry has 40 bytes, its offset is the second eight.
        let place = 256 + 40 * section + 8;
        for moved in [-64i64, 64, -128] {
            let mut header = first;
            let offset = i64::from_le_bytes(header[place..place + 8].try_into().unwrap()) + moved;
            header[place..place + 8].copy_from_slice(&offset.to_le_bytes());
            let hash = xxhash_rust::xxh3::xxh3_128(&header[..HEADER - 16]);
            header[HEADER - 16..].copy_from_slice(&hash.to_le_bytes());
            assert!(matches!(Header::decode(&header, bytes.len()), Err(Refused::Damaged(_))), "section {section} moved by {moved}");
        }
    }
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let (mut bytes, SegmentSummary { stamp, .. }) = small(folder.path());
    bytes[8..12].copy_from_slice(&7u32.to_le_bytes());
    let path = folder.path().join("newer");
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(Segment::open(&path, &stamp, Verify::Eager), Err(Error::Format { found: 7, supported: super::FORMAT, .. })));
}
