//! `moco-index compact`: each vector's segments merged into one, without what was deleted.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use super::{Stop, folder, loading, say};

#[derive(Args)]
pub(crate) struct Compact {
    /// The data folder.
    folder: PathBuf,
    /// This collection only.
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
}

pub(crate) fn run(arguments: &Compact, stop: &Stop) -> Result<()> {
    let store = folder::open(&arguments.folder)?;
    let names = match &arguments.collection {
        Some(name) => vec![name.clone()],
        None => store.collections(),
    };
    for name in names {
        let collection = store.collection(&name)?;
        let before: usize = collection.info().vectors.values().map(|vector| vector.segments.len()).sum();
        let start = Instant::now();
        loading::compact(&collection, stop, || format!("stopped: collection `{name}` is as it was"))?;
        let after: usize = collection.info().vectors.values().map(|vector| vector.segments.len()).sum();
        say(format_args!("{name}: {before} segments became {after} in {:.1} s", start.elapsed().as_secs_f64()))?;
    }
    Ok(())
}
