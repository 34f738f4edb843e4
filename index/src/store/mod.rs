//! A data folder: the collections of one process.
//!
//! ```text
//! lock                               held while the store is open
//! catalogue.sqlite                   name, folder, state of each collection
//! collections/UUID/collection.sqlite a collection's truth
//! ```
//!
//! A user's name is never part of a path. A collection comes and goes by one row of the catalogue: it is listed as
//! `creating` before its folder is made and as `deleting` before its folder is removed, so that whatever a crash left
//! behind is known by name and cleared at the next start, and nothing else ever is.

mod catalogue;
mod lock;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::collection::Collection;
use crate::config::CollectionConfig;
use crate::database::{Synchronous, check_sqlite};
use crate::error::{Error, Result};
use crate::truth::Truth;
use catalogue::{Catalogue, Stage};
pub(crate) use lock::FolderLock;

const COLLECTION_FILE: &str = "collection.sqlite";

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    checkpoint_bytes: usize,
    synchronous: Synchronous,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { checkpoint_bytes: 16 << 20, synchronous: Synchronous::Full }
    }
}

impl StoreOptions {
    /// A collection's write-ahead log is moved into its file after about so many bytes, 16 MiB unless set. Fewer: a
    /// shorter log and a faster start after a crash, for more writing.
    #[must_use]
    pub fn checkpoint_bytes(mut self, bytes: usize) -> Self {
        self.checkpoint_bytes = bytes;
        self
    }

    /// Acknowledges before the disk has it. For the test that shows that such a thing would be noticed.
    #[doc(hidden)]
    #[must_use]
    pub fn without_sync(mut self) -> Self {
        self.synchronous = Synchronous::Off;
        self
    }
}

/// An open data folder. One process at a time, by a lock that is released when the store and the last handle of a
/// collection are dropped, and by the process's end, however it ends.
pub struct Store {
    folder: PathBuf,
    options: StoreOptions,
    inner: Mutex<Inner>,
    /// Each open collection holds it too: the folder is free when the last of them is closed.
    lock: Arc<FolderLock>,
}

struct Inner {
    catalogue: Catalogue,
    collections: BTreeMap<String, Listed>,
}

/// A listed collection.
struct Listed {
    folder: Uuid,
    /// Locked while it is opened, so that a long opening holds up this collection only.
    door: Arc<Mutex<Door>>,
}

enum Door {
    /// Not used yet.
    Closed,
    Open(Arc<Collection>),
    Deleted,
}

impl Listed {
    fn new(folder: Uuid, door: Door) -> Self {
        Self { folder, door: Arc::new(Mutex::new(door)) }
    }
}

impl Store {
    /// Opens a data folder, making it if there is none. Collections are opened at their first use.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::ReadOnly`], [`Error::NotAFolder`], [`Error::Format`], [`Error::Damaged`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(folder, &StoreOptions::default())
    }

    pub fn open_with(folder: impl AsRef<Path>, options: &StoreOptions) -> Result<Self> {
        check_sqlite()?;
        let folder = folder.as_ref();
        if folder.exists() && !folder.is_dir() {
            return Err(Error::NotAFolder { path: folder.to_owned() });
        }
        let collections = folder.join("collections");
        if !collections.is_dir() {
            fs::create_dir_all(&collections).map_err(|source| Error::io("make the folder", &collections, source))?;
        }
        let lock = Arc::new(FolderLock::take(folder)?);
        let is_new = fs::read_dir(&collections).map_err(|source| Error::io("read the folder", &collections, source))?.next().is_none();
        let mut catalogue = Catalogue::open(&folder.join("catalogue.sqlite"), is_new, options.synchronous)?;
        sync_folder(folder)?;
        let mut listed = BTreeMap::new();
        for (name, uuid, stage) in catalogue.list()? {
            match stage {
                Stage::Live => drop(listed.insert(name, Listed::new(uuid, Door::Closed))),
                // Never acknowledged, or acknowledged as gone.
                Stage::Creating | Stage::Deleting => {
                    remove_folder(&collections.join(uuid.to_string()))?;
                    catalogue.remove(uuid)?;
                }
            }
        }
        let inner = Mutex::new(Inner { catalogue, collections: listed });
        Ok(Self { folder: folder.to_owned(), options: options.clone(), inner, lock })
    }

    /// Names of the collections, ascending.
    pub fn collections(&self) -> Vec<String> {
        self.inner().collections.keys().cloned().collect()
    }

    /// A new, empty collection; it exists on disk when this returns.
    ///
    /// # Errors
    /// [`Error::CollectionExists`], [`Error::CollectionName`], [`Error::Config`].
    pub fn create_collection(&self, name: &str, config: CollectionConfig) -> Result<Arc<Collection>> {
        check_name(name)?;
        config.check()?;
        let mut inner = self.inner();
        if inner.collections.contains_key(name) {
            return Err(Error::CollectionExists { name: name.to_owned() });
        }
        let uuid = Uuid::new_v4();
        inner.catalogue.add(name, uuid)?;
        let folder = self.collection_folder(uuid);
        let made = self.make_collection(&folder, config).and_then(|collection| {
            inner.catalogue.set_stage(uuid, Stage::Live)?;
            Ok(Arc::new(collection))
        });
        match made {
            Ok(collection) => {
                inner.collections.insert(name.to_owned(), Listed::new(uuid, Door::Open(Arc::clone(&collection))));
                Ok(collection)
            }
            Err(error) => {
                // What cannot be cleared now is cleared at the next start; the first failure is the one to report.
                let _ = remove_folder(&folder).and_then(|()| inner.catalogue.remove(uuid));
                Err(error)
            }
        }
    }

    fn make_collection(&self, folder: &Path, config: CollectionConfig) -> Result<Collection> {
        fs::create_dir(folder).map_err(|source| Error::io("make the folder", folder, source))?;
        let path = folder.join(COLLECTION_FILE);
        let truth = Truth::create(&path, config, self.options.synchronous)?;
        sync_folder(folder)?;
        sync_folder(&self.folder.join("collections"))?;
        Collection::start(&path, truth, self.options.checkpoint_bytes, Arc::clone(&self.lock))
    }

    /// The collection of that name. Its first use reads and verifies all of it from disk.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`]; [`Error::Damaged`], [`Error::DamagedPoint`], [`Error::Format`] of this collection only.
    pub fn collection(&self, name: &str) -> Result<Arc<Collection>> {
        let not_found = || Error::CollectionNotFound { name: name.to_owned() };
        let (folder, door) = {
            let inner = self.inner();
            let listed = inner.collections.get(name).ok_or_else(not_found)?;
            (listed.folder, Arc::clone(&listed.door))
        };
        let mut door = door.lock().unwrap_or_else(PoisonError::into_inner);
        match &*door {
            Door::Open(collection) => Ok(Arc::clone(collection)),
            Door::Deleted => Err(not_found()),
            Door::Closed => {
                let path = self.collection_folder(folder).join(COLLECTION_FILE);
                let truth = Truth::open(&path, self.options.synchronous)?;
                let collection = Arc::new(Collection::start(&path, truth, self.options.checkpoint_bytes, Arc::clone(&self.lock))?);
                *door = Door::Open(Arc::clone(&collection));
                Ok(collection)
            }
        }
    }

    /// Deletes a collection with all its points; `false` if there is none of that name. Calls on a handle that somebody
    /// still holds return [`Error::CollectionDeleted`].
    pub fn delete_collection(&self, name: &str) -> Result<bool> {
        let mut inner = self.inner();
        let Some(listed) = inner.collections.get(name) else { return Ok(false) };
        let (uuid, door) = (listed.folder, Arc::clone(&listed.door));
        inner.catalogue.set_stage(uuid, Stage::Deleting)?;
        inner.collections.remove(name);
        let door = std::mem::replace(&mut *door.lock().unwrap_or_else(PoisonError::into_inner), Door::Deleted);
        if let Door::Open(collection) = door {
            collection.close_for_deletion();
        }
        remove_folder(&self.collection_folder(uuid))?;
        inner.catalogue.remove(uuid)?;
        Ok(true)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collection_folder(&self, uuid: Uuid) -> PathBuf {
        self.folder.join("collections").join(uuid.to_string())
    }
}

fn check_name(name: &str) -> Result<()> {
    let refuse = |reason| Err(Error::CollectionName { name: name.to_owned(), reason });
    match name.len() {
        0 => refuse("it is empty"),
        256.. => refuse("it is longer than 255 bytes"),
        _ if name.chars().any(char::is_control) => refuse("it has control characters"),
        _ => Ok(()),
    }
}

/// Makes the entries of a folder durable.
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| Error::io("sync the folder", folder, source))
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove the folder", folder, error)),
        _ => Ok(()),
    }
}
