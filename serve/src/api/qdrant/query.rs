//! Search: the points nearest to a vector, to an image, or to a point; or, without a query, points by id.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use moco_index::{Collection, Hit, Payload, PointId, Record, SearchRequest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{Error, answer, blocking, read};
use super::collections::open;
use super::payload::Selector;
use super::points::{ReadOptions, VectorSelector, check_count, no_point};
use super::vector::{Input, Nearest, Node, Output};
use super::{images, refuse_given};
use crate::api::Refusal;
use crate::api::body::query_options;
use crate::inference::admission::Permit;
use crate::service::Service;

const DEFAULT_LIMIT: usize = 10;
const LARGEST_EF: usize = 65_536;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    query: Option<Node>,
    using: Option<String>,
    limit: Option<usize>,
    offset: Option<usize>,
    #[serde(default)]
    params: Option<Params>,
    score_threshold: Option<f32>,
    with_payload: Option<Selector>,
    #[serde(alias = "with_vectors")]
    with_vector: Option<VectorSelector>,
    filter: Option<Value>,
    prefetch: Option<Value>,
    lookup_from: Option<Value>,
    shard_key: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    hnsw_ef: Option<usize>,
    exact: Option<bool>,
    indexed_only: Option<bool>,
    quantization: Option<Value>,
    acorn: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryBatch {
    searches: Vec<Query>,
}

#[derive(Serialize)]
struct ScoredPoint {
    id: PointId,
    version: u64,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<Output>,
}

#[derive(Serialize)]
struct Found {
    points: Vec<ScoredPoint>,
}

pub(super) async fn query(
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
    service: web::Data<Service>,
) -> HttpResponse {
    answer(async move {
        let ReadOptions { .. } = query_options(&request)?;
        let collection = open(&service, &name).await?;
        let (query, body) = read::<Query>(&service, &request, payload).await?;
        run(&service, &collection, query, &body.permit).await
    })
    .await
}

pub(super) async fn query_batch(
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
    service: web::Data<Service>,
) -> HttpResponse {
    answer(async move {
        let ReadOptions { .. } = query_options(&request)?;
        let collection = open(&service, &name).await?;
        let (batch, body) = read::<QueryBatch>(&service, &request, payload).await?;
        let wanted = batch.searches.iter().map(|query| query.limit.unwrap_or(DEFAULT_LIMIT)).fold(0, usize::saturating_add);
        check_count(wanted, service.limits().max_points)?;
        let mut found = Vec::with_capacity(batch.searches.len());
        for query in batch.searches {
            found.push(run(&service, &collection, query, &body.permit).await?);
        }
        Ok(found)
    })
    .await
}

async fn run(service: &Service, collection: &Arc<Collection>, query: Query, permit: &Arc<Permit>) -> Result<Found, Error> {
    let params = query.params.unwrap_or_default();
    refuse_given([
        ("filter", &query.filter),
        ("prefetch", &query.prefetch),
        ("lookup_from", &query.lookup_from),
        ("shard_key", &query.shard_key),
        ("params.quantization", &params.quantization),
        ("params.acorn", &params.acorn),
    ])?;
    if params.indexed_only == Some(true) {
        return Err(Refusal::not_implemented("Not implemented: `params.indexed_only`; every point is searched".into()).into());
    }
    if let Some(ef) = params.hnsw_ef.filter(|ef| *ef > LARGEST_EF) {
        return Err(Error::invalid(&format!("params.hnsw_ef: value {ef} invalid, must be at most {LARGEST_EF}")));
    }
    let (limit, offset) = (query.limit.unwrap_or(DEFAULT_LIMIT), query.offset.unwrap_or(0));
    if limit == 0 {
        return Err(Error::invalid("limit: value 0 invalid, must be 1 or larger"));
    }
    check_count(limit.saturating_add(offset), service.limits().max_points)?;
    let with_payload = query.with_payload.unwrap_or(Selector::Nothing);
    let with_vector = query.with_vector.unwrap_or(VectorSelector::All(false));
    with_vector.check(collection)?;
    let using = query.using.unwrap_or_default();
    let point = |id, version, score, payload: Option<Payload>, vectors: Option<BTreeMap<String, Vec<f32>>>| ScoredPoint {
        id,
        version,
        score,
        payload: payload.map(|payload| with_payload.apply(payload)),
        vector: vectors.map(|vectors| with_vector.apply(vectors)),
    };
    let (payloads, vectors) = (with_payload.wants_any(), with_vector.wants_any());
    let Some(node) = query.query else {
        if query.score_threshold.is_some() {
            return Err(Error::bad("bad_query", "Wrong input: `score_threshold` without a query; points by id have no score".into()));
        }
        let records = by_id(collection, offset, limit, payloads, vectors).await?;
        let scored = records.into_iter().map(|Record { id, version, payload, vectors }| point(id, version, 1.0, payload, vectors));
        return Ok(Found { points: scored.collect() });
    };
    let mut request = SearchRequest {
        vector_name: using.clone(),
        offset,
        ef: params.hnsw_ef,
        exact: params.exact.unwrap_or(false),
        score_threshold: query.score_threshold,
        with_payload: payloads,
        with_vectors: vectors,
        ..SearchRequest::new(Vec::new(), limit)
    };
    match Nearest::from_node(node)? {
        Nearest::Vector(Input::Numbers(numbers)) => request.vector = numbers,
        Nearest::Vector(Input::Image(image)) => {
            let embedder = service.embedder()?;
            images::check_vector(collection, embedder, &using, image.model.as_deref())?;
            let mut vectors = images::embed(embedder, vec![("the query".into(), image)], permit).await?;
            request.vector = vectors.pop().expect("one image has one embedding");
        }
        Nearest::Point(id) => {
            request.vector = vector_of(collection, id, &using).await?;
            request.exclude = vec![id];
        }
    }
    let collection = Arc::clone(collection);
    let hits = blocking(move || collection.search(&request)).await?;
    let scored = hits.into_iter().map(|Hit { id, score, version, payload, vectors }| point(id, version, score, payload, vectors));
    Ok(Found { points: scored.collect() })
}

/// The stored vector of a point.
async fn vector_of(collection: &Arc<Collection>, id: PointId, using: &str) -> Result<Vec<f32>, Error> {
    if !collection.config().vectors.contains_key(using) {
        return Err(moco_index::Error::UnknownVector { name: using.to_owned() }.into());
    }
    let collection = Arc::clone(collection);
    let found = blocking(move || collection.retrieve(&[id], false, true)).await?.pop().ok_or_else(|| no_point(id))?;
    let missing = || Error::bad("vector_missing", format!("Wrong input: point {id} has no vector `{using}`"));
    found.vectors.and_then(|mut vectors| vectors.remove(using)).ok_or_else(missing)
}

/// Points by ascending id.
async fn by_id(collection: &Arc<Collection>, offset: usize, limit: usize, payloads: bool, vectors: bool) -> Result<Vec<Record>, Error> {
    let collection = Arc::clone(collection);
    blocking(move || {
        let start = match offset {
            0 => None,
            skipped => match collection.scroll(None, skipped, false, false)?.1 {
                Some(start) => Some(start),
                None => return Ok(Vec::new()),
            },
        };
        Ok::<_, moco_index::Error>(collection.scroll(start, limit, payloads, vectors)?.0)
    })
    .await
}
