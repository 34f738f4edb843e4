//! What a search must find: the points of a plain map, compared with one by one.

use moco_index::{Collection, Distance, Hit, PointId, SearchRequest};

use crate::model::{Content, Stored, as_stored};
use crate::script::VECTORS;

/// Scores of one hit may differ by this from another order of the same additions.
const COSINE_TOLERANCE: f32 = 1e-5;

#[derive(Debug, Default)]
pub(crate) struct Recall {
    pub(crate) wanted: usize,
    pub(crate) found: usize,
}

/// Every point that passes and has the vector, nearest first, ties by id.
fn nearest(
    content: &Content,
    vector: &str,
    distance: Distance,
    query: &[f32],
    passes: &dyn Fn(PointId, &Stored) -> bool,
) -> Vec<(f32, PointId)> {
    let score = |vector: &Vec<f32>| distance.score(query, vector);
    let passing = content.points.iter().filter(|(id, stored)| passes(**id, stored));
    let mut found: Vec<(f32, PointId)> = passing.filter_map(|(id, stored)| Some((score(stored.vectors.get(vector)?), *id))).collect();
    let sign = if distance.larger_is_nearer() { -1.0 } else { 1.0 };
    found.sort_by(|a, b| (sign * a.0).total_cmp(&(sign * b.0)).then(a.1.cmp(&b.1)));
    found
}

/// Scores and ids, where only the sums of a cosine may come out in another way.
fn agree(found: &[Hit], expected: &[(f32, PointId)], distance: Distance) -> bool {
    let tolerance = if distance == Distance::Cosine { COSINE_TOLERANCE } else { 0.0 };
    found.len() <= expected.len()
        && found.iter().zip(expected).all(|(hit, (score, id))| {
            let is_close = (hit.score - score).abs() <= tolerance;
            is_close
                && (hit.id == *id || tolerance > 0.0 && expected.iter().any(|(s, id)| *id == hit.id && (hit.score - s).abs() <= tolerance))
        })
}

/// Searches exactly and by whatever way the store prefers. `passes` says of the model's points what the request's filter says of
/// the store's.
pub(crate) fn search(
    collection: &Collection,
    content: &Content,
    request: &SearchRequest,
    passes: &dyn Fn(PointId, &Stored) -> bool,
    recall: &mut Recall,
) -> Result<(), String> {
    let SearchRequest { vector_name, vector, limit, offset, .. } = request;
    let (name, _, distance) = VECTORS.into_iter().find(|(name, ..)| name == vector_name).expect("a vector of the script");
    let query = as_stored(name, vector);
    let expected: Vec<_> = nearest(content, name, distance, &query, passes).into_iter().skip(*offset).collect();
    let wanted = &expected[..(*limit).min(expected.len())];
    let exact = collection.search(&SearchRequest { exact: true, ..request.clone() }).map_err(|error| error.to_string())?;
    if exact.len() != wanted.len() || !agree(&exact, &expected, distance) {
        let found: Vec<_> = exact.iter().map(|hit| (hit.score, hit.id)).collect();
        return Err(format!("exact search by `{name}` for {vector:?}, limit {limit}, offset {offset}: {found:?}, not {wanted:?}"));
    }
    let walked = collection.search(request).map_err(|error| error.to_string())?;
    if walked.len() != wanted.len() {
        return Err(format!("search by `{name}` found {} of {}", walked.len(), wanted.len()));
    }
    for hit in &walked {
        let stored = content.points.get(&hit.id).filter(|stored| passes(hit.id, stored));
        let score = stored.and_then(|stored| Some(distance.score(&query, stored.vectors.get(name)?)));
        if !score.is_some_and(|score| (hit.score - score).abs() <= if distance == Distance::Cosine { COSINE_TOLERANCE } else { 0.0 }) {
            return Err(format!("search by `{name}` returned {} with score {}, not {score:?}", hit.id, hit.score));
        }
    }
    recall.wanted += wanted.len();
    // By score: of equally near points any will do.
    recall.found += walked.iter().zip(wanted).filter(|(hit, (score, _))| (hit.score - score).abs() <= COSINE_TOLERANCE).count();
    Ok(())
}
