//! Collections: made, described, listed, deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use moco_index::{Collection, CollectionConfig, Distance, HnswParams, Store, VectorParams};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::answer::{Error, answer, blocking, read};
use super::refuse_given;
use crate::api::Refusal;
use crate::api::body::query_options;
use crate::service::Service;

/// A collection that requests name.
pub(super) async fn open(service: &Service, name: &str) -> Result<Arc<Collection>, Error> {
    let (store, name) = (Arc::clone(service.store()?), name.to_owned());
    blocking(move || store.collection(&name)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateOptions {
    #[serde(rename = "timeout")]
    _timeout: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    #[serde(default)]
    vectors: Option<Value>,
    hnsw_config: Option<Hnsw>,
    // Of no consequence for what is answered.
    optimizers_config: Option<Value>,
    wal_config: Option<Value>,
    on_disk_payload: Option<bool>,
    metadata: Option<Value>,
    // Of consequence, and not done.
    sparse_vectors: Option<Value>,
    quantization_config: Option<Value>,
    strict_mode_config: Option<Value>,
    sharding_method: Option<Value>,
    init_from: Option<Value>,
    shard_number: Option<u64>,
    replication_factor: Option<u64>,
    write_consistency_factor: Option<u64>,
}

#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Hnsw {
    #[serde(skip_serializing_if = "Option::is_none")]
    m: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ef_construct: Option<usize>,
    /// In KiB of vectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    full_scan_threshold: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_indexing_threads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_disk: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_m: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inline_storage: Option<bool>,
}

/// One of the collection's vectors, as it is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    size: usize,
    distance: Distance,
    #[serde(default, rename = "on_disk")]
    _on_disk: Option<bool>,
    datatype: Option<String>,
    hnsw_config: Option<Value>,
    quantization_config: Option<Value>,
    multivector_config: Option<Value>,
}

/// What was asked for when a collection was made, to be told as it was. Kept in the index as the collection's metadata.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct AsCreated {
    vectors: Value,
    hnsw_config: Hnsw,
    optimizers_config: Option<Value>,
    wal_config: Option<Value>,
    on_disk_payload: Option<bool>,
    metadata: Option<Value>,
}

pub(super) async fn create(
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
    service: web::Data<Service>,
) -> HttpResponse {
    answer(async move {
        let CreateOptions { .. } = query_options(&request)?;
        let store = Arc::clone(service.store()?);
        let (create, _body) = read::<Create>(&service, &request, payload).await?;
        let config = configuration(create)?;
        blocking(move || store.create_collection(&name, config).map(|_| true)).await
    })
    .await
}

fn configuration(create: Create) -> Result<CollectionConfig, Error> {
    refuse_given([
        ("sparse_vectors", &create.sparse_vectors),
        ("quantization_config", &create.quantization_config),
        ("strict_mode_config", &create.strict_mode_config),
        ("sharding_method", &create.sharding_method),
        ("init_from", &create.init_from),
    ])?;
    let one = [
        ("shard_number", create.shard_number),
        ("replication_factor", create.replication_factor),
        ("write_consistency_factor", create.write_consistency_factor),
    ];
    if let Some((name, _)) = one.into_iter().find(|(_, count)| count.is_some_and(|count| count != 1)) {
        return Err(Refusal::not_implemented(format!("Not implemented: `{name}` other than 1; a collection lives in one process")).into());
    }
    let asked = without_nulls(create.vectors.unwrap_or_else(|| json!({})));
    let vectors = vectors(&asked)?;
    let hnsw = create.hnsw_config.unwrap_or_default();
    let params = hnsw_params(&hnsw, &vectors);
    let created = AsCreated {
        vectors: asked,
        hnsw_config: hnsw,
        optimizers_config: create.optimizers_config.map(without_nulls),
        wal_config: create.wal_config.map(without_nulls),
        on_disk_payload: create.on_disk_payload,
        metadata: create.metadata,
    };
    let metadata = serde_json::to_value(created).expect("what was JSON is JSON");
    Ok(CollectionConfig { vectors, hnsw: params, metadata: Some(metadata), ..CollectionConfig::default() })
}

/// One unnamed vector, or vectors by name.
fn vectors(asked: &Value) -> Result<BTreeMap<String, VectorParams>, Error> {
    let Value::Object(fields) = asked else {
        return Err(Error::bad(
            "bad_json",
            "Format error in JSON body: `vectors` is neither a vector's parameters nor a map of them".into(),
        ));
    };
    if fields.contains_key("size") || fields.contains_key("distance") {
        return Ok(BTreeMap::from([(String::new(), vector("", asked)?)]));
    }
    fields.iter().map(|(name, params)| Ok((name.clone(), vector(name, params)?))).collect()
}

fn vector(name: &str, params: &Value) -> Result<VectorParams, Error> {
    let vector: Vector = serde_json::from_value(params.clone())
        .map_err(|error| Error::bad("bad_json", format!("Format error in JSON body: vectors: `{name}`: {error}")))?;
    refuse_given([
        ("vectors.hnsw_config", &vector.hnsw_config),
        ("vectors.quantization_config", &vector.quantization_config),
        ("vectors.multivector_config", &vector.multivector_config),
    ])?;
    if let Some(datatype) = vector.datatype.filter(|datatype| datatype != "float32") {
        return Err(Refusal::not_implemented(format!("Not implemented: `datatype` {datatype}; vectors are float32")).into());
    }
    if vector.size == 0 {
        return Err(Error::invalid("vectors.size: value 0 invalid, must be 1 or larger"));
    }
    Ok(VectorParams::new(vector.size, vector.distance))
}

fn hnsw_params(asked: &Hnsw, vectors: &BTreeMap<String, VectorParams>) -> HnswParams {
    let defaults = HnswParams::default();
    // Qdrant counts the vectors' memory, the index the vectors. `m` 0 asks for no graph.
    let threshold = asked.full_scan_threshold.map_or(defaults.full_scan_threshold, |kib| kib.saturating_mul(1024) / largest(vectors));
    HnswParams {
        m: asked.m.filter(|m| *m > 0).unwrap_or(defaults.m),
        ef_construction: asked.ef_construct.unwrap_or(defaults.ef_construction),
        full_scan_threshold: if asked.m == Some(0) { usize::MAX } else { threshold },
        ..defaults
    }
}

/// Bytes of the largest vector.
fn largest(vectors: &BTreeMap<String, VectorParams>) -> usize {
    vectors.values().map(|params| params.size * 4).max().unwrap_or(4)
}

/// Clients compare what they sent with what they get, and forbid what they do not know, null included.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, without_nulls(value))).collect(),
        ),
        other => other,
    }
}

pub(super) async fn describe(name: web::Path<String>, service: web::Data<Service>) -> HttpResponse {
    answer(async move {
        let collection = open(&service, &name).await?;
        Ok(description(&collection))
    })
    .await
}

fn description(collection: &Collection) -> Value {
    let (config, info) = (collection.config(), collection.info());
    let created: AsCreated = config.metadata.and_then(|metadata| serde_json::from_value(metadata).ok()).unwrap_or_default();
    let vectors = if created.vectors.is_null() { params(&config.vectors) } else { created.vectors };
    let building = info.vectors.values().any(|vector| vector.building);
    let status = if info.writes_stopped {
        "red"
    } else if building {
        "yellow"
    } else {
        "green"
    };
    let optimizer_status = if info.writes_stopped { json!({"error": "a sync failed: read-only until restart"}) } else { json!("ok") };
    let indexed: usize = info.vectors.values().map(|vector| vector.indexed).sum();
    let models: Map<String, Value> =
        config.vectors.iter().filter_map(|(name, params)| Some((name.clone(), params.model.clone()?.into()))).collect();
    let full_scan_kib = config.hnsw.full_scan_threshold.saturating_mul(largest(&config.vectors)) / 1024;
    let mut hnsw = json!({"m": config.hnsw.m, "ef_construct": config.hnsw.ef_construction, "full_scan_threshold": full_scan_kib});
    merge(&mut hnsw, serde_json::to_value(created.hnsw_config).ok());
    let mut optimizer =
        json!({"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0, "flush_interval_sec": 5});
    merge(&mut optimizer, created.optimizers_config);
    let mut wal = json!({"wal_capacity_mb": 32, "wal_segments_ahead": 0});
    merge(&mut wal, created.wal_config);
    let mut described = json!({
        "status": status,
        "optimizer_status": optimizer_status,
        "points_count": info.points,
        "indexed_vectors_count": indexed,
        "segments_count": info.vectors.values().map(|vector| vector.segments.len()).sum::<usize>().max(1),
        "config": {
            "params": {
                "vectors": vectors,
                "shard_number": 1,
                "replication_factor": 1,
                "write_consistency_factor": 1,
                "on_disk_payload": created.on_disk_payload.unwrap_or(true),
            },
            "hnsw_config": hnsw,
            "optimizer_config": optimizer,
            "wal_config": wal,
        },
        "payload_schema": {},
        "models": models,
    });
    if let Some(metadata) = created.metadata {
        described["config"]["metadata"] = metadata;
    }
    described
}

/// The vectors of a collection that was made by another program, in Qdrant's shape.
fn params(vectors: &BTreeMap<String, VectorParams>) -> Value {
    let one = |params: &VectorParams| json!({"size": params.size, "distance": params.distance});
    match vectors.get("") {
        Some(params) if vectors.len() == 1 => one(params),
        _ => vectors.iter().map(|(name, params)| (name.clone(), one(params))).collect::<Map<_, _>>().into(),
    }
}

fn merge(into: &mut Value, other: Option<Value>) {
    if let (Value::Object(into), Some(Value::Object(other))) = (into, other) {
        into.extend(other);
    }
}

pub(super) async fn list(service: web::Data<Service>) -> HttpResponse {
    answer(async move {
        let store = Arc::clone(service.store()?);
        let names = blocking(move || Ok::<_, Error>(store.collections())).await?;
        let collections: Vec<Value> = names.into_iter().map(|name| json!({"name": name})).collect();
        Ok(json!({"collections": collections}))
    })
    .await
}

pub(super) async fn exists(name: web::Path<String>, service: web::Data<Service>) -> HttpResponse {
    answer(async move {
        let store = Arc::clone(service.store()?);
        let exists = blocking(move || Ok::<_, Error>(store.collections().contains(&name))).await?;
        Ok(json!({"exists": exists}))
    })
    .await
}

pub(super) async fn delete(request: HttpRequest, name: web::Path<String>, service: web::Data<Service>) -> HttpResponse {
    answer(async move {
        let CreateOptions { .. } = query_options(&request)?;
        let store: Arc<Store> = Arc::clone(service.store()?);
        blocking(move || store.delete_collection(&name)).await
    })
    .await
}
