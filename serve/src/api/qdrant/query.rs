//! Search: the points nearest to a vector, to an image, or to a point; or, without a query, points by id.
//!
//! Beside Qdrant's JSON, the body may be the image itself (`Content-Type: image/*`), its options in the address.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse};
use moco_index::{Collection, Hit, Payload, PayloadSelect, PointId, Record, SearchRequest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{Error, answer, blocking, read};
use super::collections::open;
use super::points::{ReadOptions, VectorSelector, check_count, no_point};
use super::vector::{Image, Input, Nearest, Node, Output};
use super::{images, refuse_given};
use crate::api::Refusal;
use crate::api::body::{Body, is_raw_image, query_options};
use crate::inference::ImageSource;
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
    with_payload: Option<PayloadSelect>,
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

/// Options of a search with a raw image, in the address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOptions {
    model: Option<String>,
    using: Option<String>,
    limit: Option<usize>,
    offset: Option<usize>,
    score_threshold: Option<f32>,
    with_payload: Option<bool>,
    with_vector: Option<bool>,
    exact: Option<bool>,
    hnsw_ef: Option<usize>,
    #[serde(rename = "consistency")]
    _consistency: Option<String>,
    #[serde(rename = "timeout")]
    _timeout: Option<u64>,
}

/// What is searched for, and how.
struct Search {
    /// Points by id, if `None`.
    nearest: Option<Nearest>,
    using: String,
    limit: usize,
    offset: usize,
    ef: Option<usize>,
    exact: bool,
    score_threshold: Option<f32>,
    with_payload: PayloadSelect,
    with_vector: VectorSelector,
}

impl Search {
    fn from_json(query: Query) -> Result<Self, Error> {
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
        Ok(Self {
            nearest: query.query.map(Nearest::from_node).transpose()?,
            using: query.using.unwrap_or_default(),
            limit: query.limit.unwrap_or(DEFAULT_LIMIT),
            offset: query.offset.unwrap_or(0),
            ef: params.hnsw_ef,
            exact: params.exact.unwrap_or(false),
            score_threshold: query.score_threshold,
            with_payload: query.with_payload.unwrap_or(PayloadSelect::None),
            with_vector: query.with_vector.unwrap_or(VectorSelector::All(false)),
        })
    }

    fn of_raw_image(image: Bytes, options: RawOptions) -> Self {
        Self {
            nearest: Some(Nearest::Vector(Input::Image(Image { image: ImageSource::Bytes(image), model: options.model }))),
            using: options.using.unwrap_or_default(),
            limit: options.limit.unwrap_or(DEFAULT_LIMIT),
            offset: options.offset.unwrap_or(0),
            ef: options.hnsw_ef,
            exact: options.exact.unwrap_or(false),
            score_threshold: options.score_threshold,
            with_payload: options.with_payload.unwrap_or(false).into(),
            with_vector: VectorSelector::All(options.with_vector.unwrap_or(false)),
        }
    }
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
        if is_raw_image(&request) {
            let options = query_options(&request)?;
            let collection = open(&service, &name).await?;
            let body = Body::read(&service, &request, payload).await?;
            return run(&service, &collection, Search::of_raw_image(body.bytes, options), &body.permit).await;
        }
        let ReadOptions { .. } = query_options(&request)?;
        let collection = open(&service, &name).await?;
        let (query, body) = read::<Query>(&service, &request, payload).await?;
        run(&service, &collection, Search::from_json(query)?, &body.permit).await
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
            found.push(run(&service, &collection, Search::from_json(query)?, &body.permit).await?);
        }
        Ok(found)
    })
    .await
}

async fn run(service: &Service, collection: &Arc<Collection>, search: Search, permit: &Arc<Permit>) -> Result<Found, Error> {
    let Search { nearest, using, limit, offset, ef, exact, score_threshold, with_payload, with_vector } = search;
    if let Some(ef) = ef.filter(|ef| *ef > LARGEST_EF) {
        return Err(Error::invalid(&format!("params.hnsw_ef: value {ef} invalid, must be at most {LARGEST_EF}")));
    }
    if limit == 0 {
        return Err(Error::invalid("limit: value 0 invalid, must be 1 or larger"));
    }
    check_count(limit.saturating_add(offset), service.limits().max_points)?;
    with_vector.check(collection)?;
    let point = |id, version, score, payload: Option<Payload>, vectors: Option<BTreeMap<String, Vec<f32>>>| ScoredPoint {
        id,
        version,
        score,
        payload,
        vector: vectors.map(|vectors| with_vector.apply(vectors)),
    };
    let vectors = with_vector.wants_any();
    let (vector, exclude) = match nearest {
        None if score_threshold.is_some() => {
            let message = "Wrong input: `score_threshold` without a query; points by id have no score";
            return Err(Error::bad("bad_query", message.into()));
        }
        None => {
            let records = by_id(collection, offset, limit, with_payload, vectors).await?;
            let scored = records.into_iter().map(|Record { id, version, payload, vectors }| point(id, version, 1.0, payload, vectors));
            return Ok(Found { points: scored.collect() });
        }
        Some(Nearest::Vector(Input::Numbers(numbers))) => (numbers, Vec::new()),
        Some(Nearest::Vector(Input::Image(image))) => {
            let embedder = service.embedder()?;
            images::check_vector(collection, embedder, &using, image.model.as_deref())?;
            let mut vectors = images::embed(embedder, vec![("the query".into(), image)], permit).await?;
            (vectors.pop().expect("one image has one embedding"), Vec::new())
        }
        Some(Nearest::Point(id)) => (vector_of(collection, id, &using).await?, vec![id]),
    };
    let request = SearchRequest {
        vector_name: using,
        vector,
        offset,
        ef,
        exact,
        score_threshold,
        exclude,
        with_payload,
        with_vectors: vectors,
        with_version: true,
        ..SearchRequest::new(Vec::new(), limit)
    };
    let collection = Arc::clone(collection);
    let hits = blocking(move || collection.search(&request)).await?;
    let scored = hits
        .into_iter()
        .map(|Hit { id, score, version, payload, vectors }| point(id, version.expect("it was asked for"), score, payload, vectors));
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
async fn by_id(
    collection: &Arc<Collection>,
    offset: usize,
    limit: usize,
    with_payload: PayloadSelect,
    vectors: bool,
) -> Result<Vec<Record>, Error> {
    let collection = Arc::clone(collection);
    blocking(move || {
        let start = match offset {
            0 => None,
            skipped => match collection.scroll(None, skipped, false, false)?.1 {
                Some(start) => Some(start),
                None => return Ok(Vec::new()),
            },
        };
        Ok::<_, moco_index::Error>(collection.scroll(start, limit, with_payload, vectors)?.0)
    })
    .await
}
