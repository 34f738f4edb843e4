//! `moco-index backup`: a collection as one file with a checksum.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{folder, say, table};

#[derive(Args)]
pub(crate) struct Backup {
    /// The data folder.
    folder: PathBuf,
    /// The collection. Not needed where there is only one.
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// The new file. One that is there is left alone.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &Backup) -> Result<()> {
    let store = folder::open(&arguments.folder)?;
    let (name, collection) = folder::collection(&store, arguments.collection.as_deref())?;
    let manifest = collection.backup(&arguments.out)?;
    let (points, operation, size) = (manifest.points, manifest.operation, table::bytes(manifest.length));
    say(format_args!("wrote {}: {points} points of `{name}` as of operation {operation}, {size}", arguments.out.display()))
}
