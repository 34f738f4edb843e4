//! Points: written, fetched, counted, deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use moco_index::{Collection, Payload, PayloadSelect, Point, PointId, Record};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::{Error, answer, blocking, read};
use super::collections::open;
use super::vector::{Image, Input, Node, Output};
use super::{images, refuse_given};
use crate::api::Refusal;
use crate::api::body::query_options;
use crate::inference::admission::Permit;
use crate::service::Service;

/// Options of a write, in the address. A write is on disk and visible when it is answered, whatever they say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteOptions {
    #[serde(default)]
    wait: bool,
    #[serde(rename = "ordering")]
    _ordering: Option<Ordering>,
    #[serde(rename = "timeout")]
    _timeout: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ordering {
    Weak,
    Medium,
    Strong,
}

/// Options of a read, in the address. There is one copy, so every read is as consistent as can be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadOptions {
    #[serde(rename = "consistency")]
    _consistency: Option<String>,
    #[serde(rename = "timeout")]
    _timeout: Option<u64>,
}

#[derive(Serialize)]
struct UpdateResult {
    operation_id: u64,
    status: &'static str,
}

impl UpdateResult {
    fn new(operation_id: u64, options: &WriteOptions) -> Self {
        Self { operation_id, status: if options.wait { "completed" } else { "acknowledged" } }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Upsert {
    points: Option<Vec<PointStruct>>,
    batch: Option<Batch>,
    shard_key: Option<Value>,
    update_filter: Option<Value>,
    update_mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PointStruct {
    id: PointId,
    vector: Node,
    payload: Option<Payload>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    ids: Vec<PointId>,
    vectors: BatchVectors,
    payloads: Option<Vec<Option<Payload>>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a list of vectors, or lists of vectors by name")]
enum BatchVectors {
    Unnamed(Vec<Node>),
    Named(BTreeMap<String, Vec<Node>>),
}

/// A point as it came, its images not embedded yet.
struct Draft {
    id: PointId,
    vectors: BTreeMap<String, Input>,
    payload: Payload,
}

pub(super) async fn upsert(
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
    service: web::Data<Service>,
) -> HttpResponse {
    answer(async move {
        let options: WriteOptions = query_options(&request)?;
        let collection = open(&service, &name).await?;
        let (body, bytes) = read::<Upsert>(&service, &request, payload).await?;
        let drafts = drafts(body, service.limits().max_points)?;
        let (points, bound) = embed(&service, &collection, drafts, &bytes.permit).await?;
        let operation = blocking(move || {
            if let Some((names, fingerprint)) = bound {
                images::bind(&collection, &names, &fingerprint)?;
            }
            collection.upsert(points)
        });
        Ok(UpdateResult::new(operation.await?, &options))
    })
    .await
}

fn drafts(body: Upsert, max_points: usize) -> Result<Vec<Draft>, Error> {
    refuse_given([("shard_key", &body.shard_key), ("update_filter", &body.update_filter)])?;
    if let Some(mode) = body.update_mode.filter(|mode| mode != "upsert") {
        return Err(Refusal::not_implemented(format!("Not implemented: `update_mode` {mode}; points are replaced or added")).into());
    }
    let points = match (body.points, body.batch) {
        (Some(points), None) => points,
        (None, Some(batch)) => unroll(batch)?,
        _ => return Err(Error::bad("bad_json", "Format error in JSON body: it has either `points` or `batch`".into())),
    };
    check_count(points.len(), max_points)?;
    let draft = |(position, point): (usize, PointStruct)| {
        let place = format!("the vector of point {} (number {position})", point.id);
        Ok(Draft { id: point.id, vectors: Input::all_from_node(point.vector, &place)?, payload: point.payload.unwrap_or_default() })
    };
    points.into_iter().enumerate().map(draft).collect()
}

/// Columns to rows.
fn unroll(batch: Batch) -> Result<Vec<PointStruct>, Error> {
    let count = batch.ids.len();
    let fits = |what: &str, length: usize| match length == count {
        true => Ok(()),
        false => Err(Error::bad("bad_batch", format!("Wrong input: the batch has {count} ids and {length} {what}"))),
    };
    let mut vectors: Vec<Node> = match batch.vectors {
        BatchVectors::Unnamed(vectors) => vectors,
        BatchVectors::Named(named) => {
            let mut rows = vec![BTreeMap::new(); count];
            for (name, vectors) in named {
                fits(&format!("vectors `{name}`"), vectors.len())?;
                for (row, vector) in rows.iter_mut().zip(vectors).filter(|(_, vector)| *vector != Node::Other("null")) {
                    row.insert(name.clone(), vector);
                }
            }
            rows.into_iter().map(Node::Fields).collect()
        }
    };
    fits("vectors", vectors.len())?;
    let mut payloads = batch.payloads.unwrap_or_else(|| vec![None; count]);
    fits("payloads", payloads.len())?;
    let rows = batch.ids.into_iter().zip(vectors.drain(..)).zip(payloads.drain(..));
    Ok(rows.map(|((id, vector), payload)| PointStruct { id, vector, payload }).collect())
}

pub(super) fn check_count(count: usize, max_points: usize) -> Result<(), Error> {
    if count <= max_points {
        return Ok(());
    }
    let message = format!("Wrong input: the request concerns {count} points; at most {max_points} are taken at a time");
    Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_points", message).into())
}

/// Vector names, and the fingerprint to which they are to be bound.
type Binding = (BTreeSet<String>, String);

/// Embeds the images of points; which vectors they went to, by name, and of which model they are.
async fn embed(
    service: &Service,
    collection: &Arc<Collection>,
    drafts: Vec<Draft>,
    permit: &Arc<Permit>,
) -> Result<(Vec<Point>, Option<Binding>), Error> {
    let mut points = Vec::with_capacity(drafts.len());
    let mut images: Vec<(String, Image)> = Vec::new();
    let mut targets: Vec<(usize, String)> = Vec::new();
    let config = collection.config();
    for (position, Draft { id, vectors, payload }) in drafts.into_iter().enumerate() {
        let mut point = Point { id, vectors: BTreeMap::new(), payload };
        for (name, input) in vectors {
            match input {
                Input::Numbers(numbers) => {
                    // Before any image is looked at: what is wrong already need not be embedded first.
                    let params = config.vectors.get(&name).ok_or_else(|| moco_index::Error::UnknownVector { name: name.clone() })?;
                    if params.size != numbers.len() {
                        return Err(moco_index::Error::Dimension { name, expected: params.size, actual: numbers.len() }.into());
                    }
                    point.vectors.insert(name, numbers);
                }
                Input::Image(image) => {
                    images::check_vector(collection, service.embedder()?, &name, image.model.as_deref())?;
                    images.push((format!("the image of point {id} (number {position})"), image));
                    targets.push((position, name));
                }
            }
        }
        points.push(point);
    }
    if images.is_empty() {
        return Ok((points, None));
    }
    let embedder = service.embedder()?;
    let names = targets.iter().map(|(_, name)| name.clone()).collect();
    for ((position, name), vector) in targets.into_iter().zip(images::embed(embedder, images, permit).await?) {
        points[position].vectors.insert(name, vector);
    }
    Ok((points, Some((names, embedder.model().fingerprint.clone()))))
}

/// Which vectors are answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "true, false, or a list of names")]
pub(super) enum VectorSelector {
    All(bool),
    Names(Vec<String>),
}

impl VectorSelector {
    pub(super) fn wants_any(&self) -> bool {
        match self {
            Self::All(all) => *all,
            Self::Names(names) => !names.is_empty(),
        }
    }

    pub(super) fn check(&self, collection: &Collection) -> Result<(), Error> {
        let Self::Names(names) = self else { return Ok(()) };
        let config = collection.config();
        match names.iter().find(|name| !config.vectors.contains_key(*name)) {
            None => Ok(()),
            Some(unknown) => Err(moco_index::Error::UnknownVector { name: unknown.clone() }.into()),
        }
    }

    pub(super) fn apply(&self, mut vectors: BTreeMap<String, Vec<f32>>) -> Output {
        if let Self::Names(names) = self {
            vectors.retain(|name, _| names.contains(name));
        }
        Output(vectors)
    }
}

#[derive(Serialize)]
struct RecordOut {
    id: PointId,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<Output>,
}

fn record_out(record: Record, with_vector: &VectorSelector) -> RecordOut {
    RecordOut { id: record.id, payload: record.payload, vector: record.vectors.map(|vectors| with_vector.apply(vectors)) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retrieve {
    ids: Vec<PointId>,
    with_payload: Option<PayloadSelect>,
    #[serde(alias = "with_vectors")]
    with_vector: Option<VectorSelector>,
    shard_key: Option<Value>,
}

pub(super) async fn retrieve(
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
    service: web::Data<Service>,
) -> HttpResponse {
    answer(async move {
        let ReadOptions { .. } = query_options(&request)?;
        let collection = open(&service, &name).await?;
        let (body, _bytes) = read::<Retrieve>(&service, &request, payload).await?;
        refuse_given([("shard_key", &body.shard_key)])?;
        check_count(body.ids.len(), service.limits().max_points)?;
        let with_payload = body.with_payload.unwrap_or_default();
        let with_vector = body.with_vector.unwrap_or(VectorSelector::All(false));
        with_vector.check(&collection)?;
        let vectors = with_vector.wants_any();
        let records = blocking(move || collection.retrieve(&body.ids, with_payload, vectors)).await?;
        Ok(records.into_iter().map(|record| record_out(record, &with_vector)).collect::<Vec<_>>())
    })
    .await
}

pub(super) async fn one(request: HttpRequest, path: web::Path<(String, String)>, service: web::Data<Service>) -> HttpResponse {
    answer(async move {
        let ReadOptions { .. } = query_options(&request)?;
        let (name, id) = path.into_inner();
        let parsed = id.parse().map(PointId::Num).or_else(|_| serde_json::from_value(Value::String(id.clone())));
        let id: PointId =
            parsed.map_err(|_| Error::bad("bad_id", format!("Wrong input: `{id}` is no point id: an unsigned integer or a UUID")))?;
        let collection = open(&service, &name).await?;
        let found = blocking(move || collection.retrieve(&[id], true, true)).await?.pop().ok_or_else(|| no_point(id))?;
        Ok(record_out(found, &VectorSelector::All(true)))
    })
    .await
}

pub(super) fn no_point(id: PointId) -> Error {
    Refusal::new(StatusCode::NOT_FOUND, "point_not_found", format!("Not found: No point with id {id} found")).into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scroll {
    offset: Option<PointId>,
    limit: Option<usize>,
    with_payload: Option<PayloadSelect>,
    #[serde(alias = "with_vectors")]
    with_vector: Option<VectorSelector>,
    filter: Option<Value>,
    order_by: Option<Value>,
    shard_key: Option<Value>,
}

#[derive(Serialize)]
struct Page {
    points: Vec<RecordOut>,
    next_page_offset: Option<PointId>,
}

pub(super) async fn scroll(
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
    service: web::Data<Service>,
) -> HttpResponse {
    answer(async move {
        let ReadOptions { .. } = query_options(&request)?;
        let collection = open(&service, &name).await?;
        let (body, _bytes) = read::<Scroll>(&service, &request, payload).await?;
        refuse_given([("filter", &body.filter), ("order_by", &body.order_by), ("shard_key", &body.shard_key)])?;
        let limit = body.limit.unwrap_or(10);
        if limit == 0 {
            return Err(Error::invalid("limit: value 0 invalid, must be 1 or larger"));
        }
        check_count(limit, service.limits().max_points)?;
        let with_payload = body.with_payload.unwrap_or_default();
        let with_vector = body.with_vector.unwrap_or(VectorSelector::All(false));
        with_vector.check(&collection)?;
        let vectors = with_vector.wants_any();
        let (records, next_page_offset) = blocking(move || collection.scroll(body.offset, limit, with_payload, vectors)).await?;
        let points = records.into_iter().map(|record| record_out(record, &with_vector)).collect();
        Ok(Page { points, next_page_offset })
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    filter: Option<Value>,
    shard_key: Option<Value>,
    /// Counts are always exact.
    #[serde(rename = "exact")]
    _exact: Option<bool>,
}

pub(super) async fn count(
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
    service: web::Data<Service>,
) -> HttpResponse {
    answer(async move {
        let ReadOptions { .. } = query_options(&request)?;
        let collection = open(&service, &name).await?;
        let (body, _bytes) = read::<Count>(&service, &request, payload).await?;
        refuse_given([("filter", &body.filter), ("shard_key", &body.shard_key)])?;
        Ok(json!({"count": collection.count()}))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    points: Option<Vec<PointId>>,
    filter: Option<Value>,
    shard_key: Option<Value>,
}

pub(super) async fn delete(
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
    service: web::Data<Service>,
) -> HttpResponse {
    answer(async move {
        let options: WriteOptions = query_options(&request)?;
        let collection = open(&service, &name).await?;
        let (body, _bytes) = read::<Delete>(&service, &request, payload).await?;
        // An empty filter means every point, so it is not nothing here.
        if body.filter.is_some() {
            return Err(Refusal::not_implemented("Not implemented: this version deletes by ids, not by `filter`".into()).into());
        }
        refuse_given([("shard_key", &body.shard_key)])?;
        let ids = body.points.ok_or_else(|| Error::bad("bad_json", "Format error in JSON body: `points` is missing".into()))?;
        check_count(ids.len(), service.limits().max_points)?;
        let operation = blocking(move || collection.delete(&ids)).await?;
        Ok(UpdateResult::new(operation, &options))
    })
    .await
}
