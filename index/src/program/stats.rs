//! `moco-index stats`: what a data folder holds.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use moco_index::SegmentInfo;
use serde_json::{Value, json};

use super::{folder, say, table};

#[derive(Args)]
pub(crate) struct Stats {
    /// The data folder.
    folder: PathBuf,
    /// This collection only.
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Stats) -> Result<()> {
    let store = folder::open(&arguments.folder)?;
    let names = match &arguments.collection {
        Some(name) => vec![name.clone()],
        None => store.collections(),
    };
    let (mut shapes, mut rows) = (Vec::new(), Vec::new());
    for name in names {
        let collection = store.collection(&name)?;
        let (config, info) = (collection.config(), collection.info());
        for (vector, params) in &config.vectors {
            let counted = &info.vectors[vector];
            rows.push(vec![
                name.clone(),
                if vector.is_empty() { "(unnamed)".to_owned() } else { vector.clone() },
                format!("{:?}", params.distance),
                params.size.to_string(),
                counted.count.to_string(),
                counted.indexed.to_string(),
                counted.segments.len().to_string(),
                table::bytes(counted.segments.iter().map(file_bytes).sum()),
            ]);
        }
        if config.vectors.is_empty() {
            rows.push(vec![
                name.clone(),
                "(none)".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
                info.points.to_string(),
                "-".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
            ]);
        }
        let vectors = config.vectors.iter().map(|(vector, params)| {
            let counted = &info.vectors[vector];
            let segments: Vec<_> = counted.segments.iter().map(segment_json).collect();
            let shape = json!({
                "size": params.size, "distance": params.distance, "model": params.model, "count": counted.count,
                "indexed": counted.indexed, "building": counted.building, "failure": counted.failure,
                "codes": params.codes, "segments": segments,
            });
            (vector.clone(), shape)
        });
        let vectors: serde_json::Map<String, Value> = vectors.collect();
        shapes.push(json!({
            "name": name, "points": info.points, "operation": info.operation, "writes_stopped": info.writes_stopped,
            "hnsw": config.hnsw, "metadata": config.metadata, "vectors": vectors,
        }));
    }
    let bytes = folder::bytes_on_disk(&arguments.folder).with_context(|| format!("cannot read {}", arguments.folder.display()))?;
    if arguments.json {
        say(format_args!("{:#}", json!({"folder": arguments.folder, "bytes_on_disk": bytes, "collections": shapes})))?;
    } else {
        say(table::aligned(&["collection", "vector", "distance", "size", "points", "in segments", "segments", "bytes"], &rows).trim_end())?;
        say(format_args!("{} on disk", table::bytes(bytes)))?;
    }
    Ok(())
}

/// Length of a segment's file; 0 if it is damaged.
fn file_bytes(segment: &SegmentInfo) -> u64 {
    segment.stats.as_ref().map_or(0, |stats| stats.file_bytes as u64)
}

fn segment_json(segment: &SegmentInfo) -> Value {
    let mut json = json!({"live": segment.live, "dead": segment.dead, "bytes": file_bytes(segment), "damage": segment.damage});
    if let (Some(stats), Value::Object(fields)) = (&segment.stats, &mut json) {
        let more = json!({
            "nodes": stats.nodes, "orphans": stats.orphans, "scanned_beside_the_graph": stats.side, "mean_degree": stats.mean_degree,
            "codes": stats.codes, "halves": stats.halves, "builder": stats.builder, "walked_bytes": stats.walked_bytes,
        });
        fields.extend(more.as_object().expect("an object").clone());
    }
    json
}
