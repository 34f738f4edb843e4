//! The nodes found by the upper halves of their codes, again by both halves: between a walk or a scan and the comparison of the best by
//! their full rows.

use super::Segment;
use super::compare::{ByHalves, Coded};
use super::format::Kind;
use super::pool::{key, nearness_of, node_of};
use super::rescore::Errors;
use crate::codes::Query;
use crate::kernel::Isa;

/// Codes asked for ahead of the one being compared.
const AHEAD: usize = 8;
/// By how many of the first it is judged how far upper halves are off, at least.
const LEAST_JUDGED: usize = 20;

/// What a query is compared with where codes are in halves.
#[inline(always)]
pub(super) fn halves<'a>(segment: &'a Segment, query: &'a Query) -> ByHalves<'a> {
    let reader = segment.code_reader();
    let (codes, factors) = (segment.section(Kind::Codes), segment.section(Kind::Factors));
    let coded = Coded { codes, blocks: segment.header.blocks(), factors, query, reader };
    ByHalves { coded, whole_scales: segment.section(Kind::WholeScales) }
}

/// Compares what was found by the upper halves of the codes again, by both. How far the upper ones are off is seen in the first; what
/// would have to be off by much more, to be among the `wanted` nearest, is left out.
#[inline(always)]
pub(super) fn refine<I: Isa>(isa: I, compare: ByHalves<'_>, wanted: usize, pool: &mut Vec<u64>) {
    for key in pool.iter().take(AHEAD) {
        compare.prefetch_all(isa, node_of(*key));
    }
    let judged = (2 * wanted).max(LEAST_JUDGED);
    let mut errors = Errors::NONE;
    let (mut bar, mut bound) = (f32::NEG_INFINITY, 0.0);
    for i in 0..pool.len() {
        let coarse = nearness_of(pool[i]);
        if i == judged {
            let mut first = pool[..judged].to_vec();
            bar = nearness_of(*first.select_nth_unstable(wanted).1);
            // The first were taken for how near they seemed: others are estimated too high by less.
            bound = errors.bound().max(errors.spread());
        }
        if coarse + bound < bar {
            pool.truncate(i);
            break;
        }
        if let Some(ahead) = pool.get(i + AHEAD) {
            compare.prefetch_all(isa, node_of(*ahead));
        }
        let node = node_of(pool[i]);
        let nearness = compare.refined(isa, node);
        errors.see(nearness - coarse);
        pool[i] = key(nearness, node);
    }
    pool.sort_unstable();
}
