//! The data folder that a command works on, and the collection it means.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use moco_index::{Collection, CollectionConfig, Store, StoreOptions, Verify};

use super::usage;

const CATALOGUE: &str = "catalogue.sqlite";

/// Opens a data folder that must be there: a command that only looks does not make one.
pub(crate) fn open(folder: &Path) -> Result<Store> {
    open_verifying(folder, Verify::default())
}

/// The same, where the user says what is verified first.
pub(crate) fn open_verifying(folder: &Path, verify: Verify) -> Result<Store> {
    if !folder.exists() {
        return Err(usage(format!("there is no data folder {}", folder.display())));
    }
    if folder.is_dir() && !folder.join(CATALOGUE).exists() {
        return Err(usage(format!("{} is no data folder of this program: it holds no {CATALOGUE}", folder.display())));
    }
    Ok(Store::open_with(folder, &options().verify(verify))?)
}

/// Whoever waits for a command gives it all of the machine.
fn options() -> StoreOptions {
    StoreOptions::default().build_threads(std::thread::available_parallelism().map_or(1, usize::from))
}

/// Opens a data folder, or makes one where there is nothing. A folder of something else is left alone. `bulk_load`: a compaction
/// follows what is written.
pub(crate) fn open_or_make(folder: &Path, bulk_load: bool) -> Result<Store> {
    if folder.is_dir() && !folder.join(CATALOGUE).exists() {
        let entries =
            std::fs::read_dir(folder).map_err(|source| anyhow::Error::new(source).context(format!("cannot read {}", folder.display())))?;
        // What a crash while the folder was made leaves.
        let is_ours = |name: &std::ffi::OsStr| name == "lock" || name == "collections";
        if let Some(other) = entries.filter_map(|entry| Some(entry.ok()?.file_name())).find(|name| !is_ours(name)) {
            let (folder, other) = (folder.display(), Path::new(&other).display());
            return Err(usage(format!("{folder} is no data folder of this program: it holds {other}; name a new or an empty one")));
        }
    }
    Ok(Store::open_with(folder, &options().bulk_load(bulk_load))?)
}

/// The collection of that name; without a name, the only one.
pub(crate) fn collection(store: &Store, name: Option<&str>) -> Result<(String, Arc<Collection>)> {
    let names = store.collections();
    let name = match (name, names.as_slice()) {
        (Some(name), _) => name.to_owned(),
        (None, [only]) => only.clone(),
        (None, []) => return Err(usage("the data folder holds no collection")),
        (None, several) => return Err(usage(format!("the data folder holds {}: choose one with --collection", several.join(", ")))),
    };
    let collection = store.collection(&name)?;
    Ok((name, collection))
}

/// The vector of that name; without a name, the only one, or the unnamed one.
pub(crate) fn vector_name(config: &CollectionConfig, name: Option<&str>) -> Result<String> {
    let names: Vec<&String> = config.vectors.keys().collect();
    match (name, names.as_slice()) {
        (Some(name), _) if config.vectors.contains_key(name) => Ok(name.to_owned()),
        (Some(name), _) => Err(moco_index::Error::UnknownVector { name: name.to_owned() }.into()),
        (None, [only]) => Ok((*only).clone()),
        (None, _) if config.vectors.contains_key("") => Ok(String::new()),
        (None, []) => Err(usage("the collection has no vectors")),
        (None, _) => {
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            Err(usage(format!("the collection has the vectors {}: choose one with --vector-name", names.join(", "))))
        }
    }
}

/// Bytes of all files below a folder.
pub(crate) fn bytes_on_disk(folder: &Path) -> std::io::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() { bytes_on_disk(&entry.path())? } else { metadata.len() };
    }
    Ok(total)
}
