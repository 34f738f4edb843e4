//! Which candidates become links (SELECT-NEIGHBORS-HEURISTIC of the HNSW paper, algorithm 4), and the second round, in which
//! each list is chosen anew among its links in both directions.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::lists::Lists;
use super::rows::Rows;
use super::{Near, no_memory, on_threads};
use crate::build::{Layer, Node};
use crate::kernel::{Isa, Kernel, Work};
use crate::large_pages::LargePages;

/// A link is dropped if its end is nearer to that of a nearer link than to the node; where a list has room left, only if it is
/// nearer by this factor. From the start with this factor, lists in dense clusters fill up with short links alone, and
/// whole clusters are lost to a walk.
const ALPHA: f32 = 1.1;
/// Nodes between two looks at the cancel flag.
const BATCH: usize = 1024;

/// Rows asked for ahead of the one being compared, and cache lines of each.
const AHEAD: usize = 4;
const LINES: usize = 8;

/// Memory for one choice after the other.
#[derive(Default)]
pub(super) struct Select {
    kept: Vec<Near>,
}

impl Select {
    /// Of `candidates`, the nearest first, those that are nearer to the node than to any nearer one kept already. Where room
    /// is left, those too that are farther only by [`ALPHA`].
    #[inline(always)]
    pub(super) fn choose<I: Isa>(&mut self, isa: I, rows: &Rows, candidates: &[Near], limit: usize) -> &[Near] {
        let kept = &mut self.kept;
        kept.clear();
        // Distances are squared.
        for alpha in [1.0, ALPHA * ALPHA] {
            let first_pass = kept.len();
            // Those that fill the room are nearly always among the first, and the rest is dear to look through.
            let looked_at = if first_pass == 0 { candidates.len() } else { candidates.len().min(2 * limit) };
            'candidates: for (i, candidate) in candidates[..looked_at].iter().enumerate() {
                if let Some(ahead) = candidates.get(i + AHEAD).filter(|_| first_pass == 0) {
                    isa.prefetch(rows.code(ahead.node), rows.blocks.min(LINES));
                }
                if kept.len() == limit {
                    break;
                }
                // What the first pass kept is not a candidate of the second.
                for other in kept.iter() {
                    if other.distance > candidate.distance {
                        continue;
                    }
                    if other.node == candidate.node || rows.pair(isa, candidate.node, other.node) * alpha < candidate.distance {
                        continue 'candidates;
                    }
                }
                kept.push(*candidate);
            }
            if first_pass > 0 {
                kept.sort_unstable_by(Near::order);
            }
        }
        kept
    }
}

/// Chooses each list anew, among its links in both directions.
pub(super) fn refine(rows: &Rows, lists: &Lists, threads: usize, cancel: &AtomicBool) -> Result<Layer, String> {
    let nodes = lists.nodes();
    // Links to each node, as in a `Layer`.
    let mut starts = vec![0usize; nodes + 1];
    for near in (0..nodes as Node).flat_map(|node| lists.read(node)) {
        starts[near.node as usize + 1] += 1;
    }
    for node in 0..nodes {
        starts[node + 1] += starts[node];
    }
    let mut filled = starts.clone();
    let mut incoming = LargePages::<Near>::new(starts[nodes]).map_err(no_memory)?;
    for node in 0..nodes as Node {
        for near in lists.read(node) {
            let place = &mut filled[near.node as usize];
            incoming[*place] = Near { node, ..near };
            *place += 1;
        }
    }
    let limit = lists.limit();
    let (mut links, mut degrees) = (LargePages::<Node>::new(nodes * limit).map_err(no_memory)?, vec![0usize; nodes]);
    let parts = links.chunks_mut(BATCH * limit).zip(degrees.chunks_mut(BATCH)).enumerate();
    let parts = Mutex::new(parts.map(|(i, (links, degrees))| Part { first: i * BATCH, links, degrees }).collect());
    on_threads(threads, || {
        Kernel::get().run(Refine { rows, lists, starts: &starts, incoming: &incoming, parts: &parts, cancel });
    })?;
    Ok(Layer::from_lists(degrees.iter().enumerate().map(|(node, degree)| &links[node * limit..node * limit + degree])))
}

/// Nodes whose lists one thread chooses.
struct Part<'a> {
    first: usize,
    links: &'a mut [Node],
    degrees: &'a mut [usize],
}

struct Refine<'a> {
    rows: &'a Rows,
    lists: &'a Lists,
    starts: &'a [usize],
    incoming: &'a [Near],
    parts: &'a Mutex<Vec<Part<'a>>>,
    cancel: &'a AtomicBool,
}

impl Work for Refine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (mut list, mut select) = (Vec::new(), Select::default());
        let limit = self.lists.limit();
        loop {
            let part = self.parts.lock().expect("no thread panics with the lock").pop();
            let Some(part) = part.filter(|_| !self.cancel.load(Ordering::Relaxed)) else { break };
            for i in 0..part.degrees.len() {
                let node = part.first + i;
                list.clear();
                list.extend(self.lists.read(node as Node));
                list.extend_from_slice(&self.incoming[self.starts[node]..self.starts[node + 1]]);
                list.sort_unstable_by(Near::order);
                list.dedup_by_key(|near| near.node);
                let kept = select.choose(isa, self.rows, &list, limit);
                part.degrees[i] = kept.len();
                part.links[i * limit..].iter_mut().zip(kept).for_each(|(link, near)| *link = near.node);
            }
        }
    }
}
