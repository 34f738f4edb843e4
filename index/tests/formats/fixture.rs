//! What is put into a data folder of each format.

use std::collections::BTreeMap;
use std::path::Path;

use moco_index::{CollectionConfig, Distance, HnswParams, Payload, Point, PointId, Store, VectorParams};
use serde_json::json;
use uuid::Uuid;

/// Twenty points of two vectors; every third lacks one.
pub(crate) fn points() -> Vec<Point> {
    (0..20u32)
        .map(|n| {
            let vector = |scale: f32| (0..4).map(|i| (n * 4 + i) as f32 * scale - 3.0).collect::<Vec<f32>>();
            let mut vectors = BTreeMap::from([("image".to_owned(), vector(0.25))]);
            if n % 3 != 0 {
                vectors.insert(String::new(), vector(0.5));
            }
            let id = if n % 2 == 0 { PointId::Num(u64::from(n)) } else { PointId::Uuid(Uuid::from_u128(u128::from(n))) };
            let payload = json!({"n": n, "nested": {"tags": ["ü", null, 1.5]}});
            Point { id, vectors, payload: payload.as_object().unwrap().clone() }
        })
        .collect()
}

fn config() -> CollectionConfig {
    let vectors = [("image", Distance::Dot), ("", Distance::Euclid)];
    CollectionConfig {
        vectors: vectors.map(|(name, distance)| (name.to_owned(), VectorParams::new(4, distance))).into(),
        hnsw: HnswParams { full_scan_threshold: 12, ..HnswParams::default() },
        metadata: Some(json!({"for": "a test"})),
        ..CollectionConfig::default()
    }
}

/// Seven hundred points in ten clusters far apart, which segments from format 2 on have runs of.
pub(crate) fn clusters() -> Vec<Point> {
    let coordinate = |n: u32, i: u32| {
        let (cluster, place) = (n % 10, n / 10);
        let spread = f32::from((place * (7 + 4 * i) % 71) as u8) / 71.0;
        f32::from((cluster * (3 + 2 * i) % 10) as u8) * 10.0 + spread
    };
    let vector = |n: u32| (0..6).map(|i| coordinate(n, i)).collect();
    let point =
        |n: u32| Point { id: PointId::Num(n.into()), vectors: BTreeMap::from([(String::new(), vector(n))]), payload: Payload::new() };
    (0..700).map(point).collect()
}

/// Sixty points of as many dimensions as segments from format 3 on have codes in halves of.
pub(crate) fn long() -> Vec<Point> {
    let coordinate = |n: u32, i: u32| f32::from((n * (3 + i % 11) + i * i % 89) as u8) / 256.0;
    let vector = |n: u32| (0..200).map(|i| coordinate(n, i)).collect();
    let point =
        |n: u32| Point { id: PointId::Num(n.into()), vectors: BTreeMap::from([(String::new(), vector(n))]), payload: Payload::new() };
    (0..60).map(point).collect()
}

/// Makes a data folder with one segment of [`clusters`] and one of [`long`] vectors, in the format of this build.
pub(crate) fn write_segments(folder: &Path) {
    let store = Store::open(folder).unwrap();
    let hnsw = HnswParams { m: 4, ef_construction: 8, full_scan_threshold: 12, ..HnswParams::default() };
    let config = CollectionConfig { hnsw, ..CollectionConfig::unnamed(6, Distance::Euclid) };
    let collection = store.create_collection("clusters", config).unwrap();
    collection.upsert(clusters()).unwrap();
    collection.compact().unwrap();
    let config = CollectionConfig { hnsw, ..CollectionConfig::unnamed(200, Distance::Cosine) };
    let collection = store.create_collection("long", config).unwrap();
    collection.upsert(long()).unwrap();
    collection.compact().unwrap();
}

/// Makes the data folder, in the format of this build.
pub(crate) fn write(folder: &Path) {
    let store = Store::open(folder).unwrap();
    let collection = store.create_collection("old", config()).unwrap();
    collection.upsert(points()).unwrap();
    collection.upsert(vec![Point { id: PointId::Num(2), vectors: BTreeMap::new(), payload: Payload::new() }]).unwrap();
    collection.upsert(points().drain(2..3).collect()).unwrap();
    collection.delete(&[PointId::Num(4)]).unwrap();
    collection.bind_model("image", "a fingerprint").unwrap();
    collection.wait_until_built();
}
