//! Exact search: every row that may be answered is compared.

use super::format::Kind;
use super::{Bits, Row, Scored, Segment, rank};
use crate::distance::Distance;
use crate::kernel::{Isa, Kernel, Work};

/// Rows asked for ahead of the one being compared, and cache lines of each: the processor itself goes on from there.
const AHEAD: usize = 4;
const LINES: usize = 4;

/// How near two vectors are, as [`Distance::nearness`], bit for bit.
#[inline(always)]
pub(crate) fn nearness<I: Isa>(isa: I, distance: Distance, a: &[f32], b: &[f32]) -> f32 {
    let nearness = match distance {
        Distance::Cosine | Distance::Dot => isa.dot(a, b),
        Distance::Euclid => -isa.squared_euclid(a, b).sqrt(),
        Distance::Manhattan => return distance.nearness(a, b),
    };
    // Where f32 overflows, f64 does not.
    if nearness.is_finite() { nearness } else { distance.nearness(a, b) }
}

impl Segment {
    /// The `want` nearest rows among those in `accept` (all, if `None`), the nearest first, ties by id. Exact.
    pub(crate) fn scan(&self, query: &[f32], want: usize, accept: Option<&Bits>) -> Vec<Scored> {
        match accept {
            None => self.scan_rows(query, want, 0..self.rows() as Row),
            Some(bits) => self.scan_rows(query, want, bits.iter().take_while(|row| (*row as usize) < self.rows())),
        }
    }

    fn scan_rows(&self, query: &[f32], want: usize, rows: impl Iterator<Item = Row>) -> Vec<Scored> {
        Kernel::get().run(Scan { segment: self, query, want, rows })
    }
}

struct Scan<'a, R> {
    segment: &'a Segment,
    query: &'a [f32],
    want: usize,
    rows: R,
}

impl<R: Iterator<Item = Row>> Work for Scan<'_, R> {
    type Output = Vec<Scored>;

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) -> Vec<Scored> {
        let Self { segment, query, want, .. } = self;
        let (distance, size) = (segment.header.distance, segment.header.size);
        let vectors = segment.section::<f32>(Kind::Vectors);
        let vector = |row: Row| &vectors[row as usize * size..][..size];
        let mut found: Vec<Scored> = Vec::with_capacity(2 * want.min(segment.rows()));
        // Rows farther than this are not among the nearest; those as near may win by their id.
        let mut bar = f32::NEG_INFINITY;
        let lines = LINES.min((4 * size).div_ceil(crate::kernel::BLOCK));
        let mut ahead = [0 as Row; AHEAD];
        let mut waiting = 0;
        for place in &mut ahead {
            let Some(row) = self.rows.next() else { break };
            *place = row;
            waiting += 1;
        }
        let mut at = 0;
        while waiting > 0 {
            let row = ahead[at];
            match self.rows.next() {
                Some(next) => {
                    isa.prefetch(vector(next), lines);
                    ahead[at] = next;
                }
                None => waiting -= 1,
            }
            at = (at + 1) % AHEAD;
            segment.see(row);
            let nearness = nearness(isa, distance, query, vector(row));
            if nearness < bar {
                continue;
            }
            found.push(Scored { nearness, row });
            if found.len() >= 2 * want.max(16) {
                found = rank(segment, found, want);
                bar = found.last().map_or(f32::INFINITY, |last| last.nearness);
            }
        }
        rank(segment, found, want)
    }
}
