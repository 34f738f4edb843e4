//! `moco-index verify`: is everything in a data folder whole, and does it find itself?

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use moco_index::VerifyReport;

use super::{folder, progress, say};

#[derive(Args)]
pub(crate) struct Verify {
    /// The data folder.
    folder: PathBuf,
    /// This collection only.
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
}

pub(crate) fn run(arguments: &Verify) -> Result<()> {
    let store = folder::open(&arguments.folder)?;
    let names = match &arguments.collection {
        Some(name) => vec![name.clone()],
        None => store.collections(),
    };
    let mut faults = 0;
    for name in names {
        let bar = progress::spinner("verifying");
        let outcome = store.collection(&name).and_then(|collection| collection.verify());
        bar.finish_and_clear();
        match outcome {
            Ok(report) => say(format_args!("{name}: {}", as_text(&report)))?,
            Err(error) if arguments.collection.is_some() => return Err(error.into()),
            // The other collections are worth a look all the same.
            Err(error) => {
                faults += 1;
                say(format_args!("{name}: FAULT: {:#}", anyhow::Error::from(error)))?;
            }
        }
    }
    if faults > 0 {
        bail!("{faults} of the collections in {} are not sound", arguments.folder.display());
    }
    Ok(())
}

fn as_text(report: &VerifyReport) -> String {
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
