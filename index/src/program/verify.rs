//! `moco-index verify`: is everything in a data folder whole, and does it find itself?
//!
//! A segment that is not is no loss: it is built anew of the truth while the data folder is open, so what found it waits for
//! that, and says so. It was a fault all the same, of the disk or of ours.

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use moco_index::{Collection, Error, VerifyReport};
use serde_json::{Value, json};

use super::{folder, progress, say};

#[derive(Args)]
pub(crate) struct Verify {
    /// The data folder.
    folder: PathBuf,
    /// This collection only.
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

struct Fault {
    what: String,
    /// Of a segment: whether it was built anew, or why not.
    built_anew: Option<Result<(), String>>,
}

impl Fault {
    fn of(error: Error) -> Self {
        Self { what: format!("{:#}", anyhow::Error::from(error)), built_anew: None }
    }
}

pub(crate) fn run(arguments: &Verify) -> Result<()> {
    let store = folder::open(&arguments.folder)?;
    let names = match &arguments.collection {
        Some(name) => vec![name.clone()],
        None => store.collections(),
    };
    let mut faults = 0;
    let mut shapes = Vec::new();
    for name in names {
        let outcome = match store.collection(&name) {
            Ok(collection) => verified(&collection),
            Err(error) if arguments.collection.is_some() => return Err(error.into()),
            Err(error) => Err(Fault::of(error)),
        };
        // The other collections are worth a look all the same.
        faults += usize::from(outcome.is_err());
        if arguments.json {
            shapes.push(as_json(&name, &outcome));
        } else {
            say(format_args!("{name}: {}", as_text(&outcome)))?;
        }
    }
    if arguments.json {
        say(format_args!("{:#}", json!({"folder": arguments.folder, "collections": shapes})))?;
    }
    if faults > 0 {
        bail!("{faults} of the collections in {} are not sound", arguments.folder.display());
    }
    Ok(())
}

fn verified(collection: &Collection) -> Result<VerifyReport, Fault> {
    // What was found when it was opened is being built anew already: the verification may come too late to see it.
    let damage_before = damage(collection);
    let bar = progress::spinner("verifying");
    let outcome = collection.verify();
    bar.finish_and_clear();
    let what = match (outcome, damage_before) {
        (Ok(report), None) => return Ok(report),
        (Err(error), _) if !is_of_a_segment(&error) => return Err(Fault::of(error)),
        (_, Some(damage)) => damage,
        (Err(error), None) => error.to_string(),
    };
    let bar = progress::spinner("building the segment anew");
    collection.wait_until_built();
    bar.finish_and_clear();
    let failure = || collection.info().vectors.into_values().find_map(|vector| vector.failure);
    let built_anew = match damage(collection) {
        None => Ok(()),
        Some(damage) => Err(failure().unwrap_or(damage)),
    };
    Err(Fault { what, built_anew: Some(built_anew) })
}

/// What is wrong with a segment that is known to be damaged.
fn damage(collection: &Collection) -> Option<String> {
    collection.info().vectors.into_values().flat_map(|vector| vector.segments).find_map(|segment| segment.damage)
}

fn is_of_a_segment(error: &Error) -> bool {
    match error {
        Error::DamagedSegment { .. } => true,
        // Known to be damaged before.
        Error::Damaged { path, .. } => path.extension() == Some(OsStr::new("segment")),
        _ => false,
    }
}

fn as_text(outcome: &Result<VerifyReport, Fault>) -> String {
    let report = match outcome {
        Ok(report) => report,
        Err(Fault { what, built_anew }) => {
            return match built_anew {
                None => format!("FAULT: {what}"),
                Some(Ok(())) => format!("FAULT: {what}; its segment was built anew of the truth: verify again"),
                Some(Err(reason)) => format!("FAULT: {what}; its segment could not be built anew of the truth: {reason}"),
            };
        }
    };
    let mut text = format!("{} points, every checksum right", report.points);
    for (name, vector) in &report.vectors {
        let (asked, found) = vector.self_queries;
        let name = if name.is_empty() { "unnamed vector".to_owned() } else { format!("vector `{name}`") };
        text += &format!(
            "; {name}: {} in their places, {} segments whole and every row of them reachable, {found} of {asked} found by themselves",
            vector.vectors, vector.segments
        );
    }
    text
}

fn as_json(name: &str, outcome: &Result<VerifyReport, Fault>) -> Value {
    match outcome {
        Ok(report) => {
            let vectors = report.vectors.iter().map(|(name, vector)| {
                let (asked, found) = vector.self_queries;
                let shape = json!({"vectors": vector.vectors, "segments": vector.segments, "asked": asked, "found": found});
                (name.clone(), shape)
            });
            let vectors: serde_json::Map<String, Value> = vectors.collect();
            json!({"name": name, "fault": null, "points": report.points, "vectors": vectors})
        }
        Err(Fault { what, built_anew }) => {
            let failure = built_anew.as_ref().and_then(|built| built.as_ref().err());
            json!({"name": name, "fault": what, "segment_built_anew": built_anew.as_ref().map(Result::is_ok), "failure": failure})
        }
    }
}
