//! `moco-index restore`: a collection from the file that a backup made, every row verified.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use super::{folder, say};

#[derive(Args)]
pub(crate) struct Restore {
    /// The file of a backup.
    file: PathBuf,
    /// The data folder; made if there is none.
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the new collection.
    #[arg(long, value_name = "NAME")]
    collection: String,
}

pub(crate) fn run(arguments: &Restore) -> Result<()> {
    // Before a data folder is made for nothing.
    std::fs::File::open(&arguments.file).with_context(|| format!("cannot read {}", arguments.file.display()))?;
    let store = folder::open_or_make(&arguments.out, false)?;
    let collection = store.restore(&arguments.file, &arguments.collection)?;
    say(format_args!("collection `{}`: {} points, every checksum right", arguments.collection, collection.count()))
}
