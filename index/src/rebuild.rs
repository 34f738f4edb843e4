//! The thread that builds a collection's graphs, while searches go on over the old graph and the rows beside it.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};

use crate::collection::Shared;
use crate::config::HnswParams;
use crate::distance::Distance;
use crate::graph::{HnswRs, Index};
use crate::state::Space;

/// A graph is built anew when this share of its rows died, or when rows beside it reach this share of it.
const REBUILD_SHARE: usize = 5;

/// Works until every sender of pokes is gone or the collection closes.
pub(crate) fn run(shared: &Arc<Shared>, pokes: &Receiver<()>) {
    let builder = HnswRs::new();
    while pokes.recv().is_ok() {
        while let Some((name, space, distance, hnsw)) = next(shared) {
            if shared.closing.load(Ordering::Relaxed) {
                return;
            }
            *shared.building.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.clone());
            let len = space.rows.len();
            let outcome = Index::build(Arc::clone(&space.rows), distance, &builder, &hnsw, &shared.closing);
            drop(space);
            shared.publish(|state| {
                let space = state.spaces.get_mut(&name).expect("a collection keeps its vectors");
                match outcome {
                    Ok(Some(index)) => (space.index, space.failure) = (Some(Arc::new(index)), None),
                    Ok(None) => {}
                    Err(reason) => space.failure = Some((reason, len)),
                }
            });
            *shared.building.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        if shared.closing.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// The next vectors that deserve a graph.
fn next(shared: &Shared) -> Option<(String, Space, Distance, HnswParams)> {
    let state = shared.state();
    let hnsw = state.config.hnsw;
    state.spaces.iter().find_map(|(name, space)| {
        let distance = state.config.vectors[name].distance;
        is_due(space, distance, &hnsw).then(|| (name.clone(), space.clone(), distance, hnsw))
    })
}

fn is_due(space: &Space, distance: Distance, hnsw: &HnswParams) -> bool {
    let rows = &space.rows;
    if distance == Distance::Manhattan || rows.live() <= hnsw.full_scan_threshold {
        return false;
    }
    // After a failure, wait for a collection that has changed a good deal.
    if space.failure.as_ref().is_some_and(|(_, len)| rows.len() < 2 * len) {
        return false;
    }
    let Some(index) = &space.index else { return true };
    let built_over = index.built_over();
    let indexed = index.live_rows(rows);
    let tail = rows.live() - indexed;
    (built_over - indexed) * REBUILD_SHARE > built_over || tail > hnsw.full_scan_threshold.max(built_over / REBUILD_SHARE)
}
