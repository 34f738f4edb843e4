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
pub(crate) mod snapshot;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use uuid::Uuid;

use crate::collection::Collection;
use crate::config::CollectionConfig;
use crate::database::{Synchronous, check_sqlite};
use crate::error::{Error, Result};
use crate::segment::Verify;
use crate::sync::{Mutex, MutexGuard};
use crate::truth::Truth;
use catalogue::{Catalogue, Entry, Stage};
pub(crate) use lock::FolderLock;
pub use snapshot::SnapshotManifest;

const CATALOGUE: &str = "catalogue.sqlite";
const COLLECTION_FILE: &str = "collection.sqlite";

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub(crate) checkpoint_bytes: usize,
    synchronous: Synchronous,
    pub(crate) build_threads: usize,
    pub(crate) verify: Verify,
    pub(crate) bulk_load: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            checkpoint_bytes: 16 << 20,
            synchronous: Synchronous::Full,
            build_threads: cores.div_ceil(2),
            verify: Verify::default(),
            bulk_load: false,
        }
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

    /// Threads that build a segment; half of the machine's cores unless set.
    #[must_use]
    pub fn build_threads(mut self, threads: usize) -> Self {
        self.build_threads = threads.max(1);
        self
    }

    /// Much is written now, and then [`compact`](crate::Collection::compact)ed: no segment is built before a gibibyte of vectors waits
    /// for one. Searches compare with all that waits.
    #[must_use]
    pub fn bulk_load(mut self, bulk_load: bool) -> Self {
        self.bulk_load = bulk_load;
        self
    }

    /// When a segment is verified, all of which is before it is used.
    #[must_use]
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
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

impl Inner {
    fn aliases(&self) -> &BTreeMap<String, Uuid> {
        &self.catalogue.content().aliases
    }

    fn is_taken(&self, name: &str) -> bool {
        self.collections.contains_key(name) || self.aliases().contains_key(name)
    }
}

/// A change to the further names of collections. An alias works wherever a collection's name does, except to delete it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AliasAction {
    /// Moves the alias if it exists.
    Create {
        alias: String,
        collection: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Delete {
        alias: String,
    },
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
    /// Where glibc allocates, the process gives back its free memory after each build (`malloc_trim`), and from the first one on
    /// maps blocks of 8 MiB one by one and keeps at most 16 MiB at the end of an arena, unless the environment sets one of
    /// `GLIBC_TUNABLES`, `MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_` and `MALLOC_TOP_PAD_`.
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
        let mut catalogue = Catalogue::open(&folder.join(CATALOGUE), is_new, options.synchronous)?;
        sync_folder(folder)?;
        let mut listed = BTreeMap::new();
        let mut gone = Vec::new();
        for (uuid, Entry { name, stage }) in &catalogue.content().collections {
            match stage {
                Stage::Live => {
                    if listed.insert(name.clone(), Listed::new(*uuid, Door::Closed)).is_some() {
                        return Err(Error::Damaged { path: folder.join(CATALOGUE), reason: format!("it lists `{name}` twice") });
                    }
                }
                // Never acknowledged, or acknowledged as gone.
                Stage::Creating | Stage::Deleting => gone.push(*uuid),
            }
        }
        for uuid in &gone {
            remove_folder(&collections.join(uuid.to_string()))?;
        }
        if !gone.is_empty() {
            catalogue.change(|content| content.forget(&gone))?;
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
        if inner.is_taken(name) {
            return Err(Error::CollectionExists { name: name.to_owned() });
        }
        self.list_new(&mut inner, name, |folder| Truth::create(&folder.join(COLLECTION_FILE), config, self.options.synchronous).map(drop))
    }

    /// A new collection of what a snapshot holds, every row of it verified. It exists on disk when this returns.
    ///
    /// # Errors
    /// [`Error::CollectionExists`], [`Error::CollectionName`]; [`Error::Damaged`], [`Error::Format`] of the snapshot.
    pub fn restore(&self, snapshot: impl AsRef<Path>, name: &str) -> Result<Arc<Collection>> {
        check_name(name)?;
        let mut inner = self.inner();
        if inner.is_taken(name) {
            return Err(Error::CollectionExists { name: name.to_owned() });
        }
        let read = |folder: &Path| snapshot::read(snapshot.as_ref(), &folder.join(COLLECTION_FILE), self.options.synchronous).map(drop);
        self.list_new(&mut inner, name, read)
    }

    /// Lists a collection whose file `make` puts into its folder.
    fn list_new(&self, inner: &mut Inner, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<Arc<Collection>> {
        let uuid = Uuid::new_v4();
        let folder = self.collection_folder(uuid);
        let entry = |stage| Entry { name: name.to_owned(), stage };
        inner.catalogue.change(|content| drop(content.collections.insert(uuid, entry(Stage::Creating))))?;
        // What cannot be cleared now is cleared at the next start; the first failure is the one to report.
        let clear = |catalogue: &mut Catalogue| {
            let _ = remove_folder(&folder).and_then(|()| catalogue.change(|content| content.forget(&[uuid])));
        };
        let collection = match self.make_collection(&folder, make) {
            Ok(collection) => Arc::new(collection),
            Err(error) => {
                clear(&mut inner.catalogue);
                return Err(error);
            }
        };
        match inner.catalogue.change(|content| drop(content.collections.insert(uuid, entry(Stage::Live)))) {
            Ok(()) => {
                inner.collections.insert(name.to_owned(), Listed::new(uuid, Door::Open(Arc::clone(&collection))));
                Ok(collection)
            }
            Err(error) => {
                // If the disk may have it as live, its folder must stay.
                if !error.is_uncertain() {
                    drop(collection);
                    clear(&mut inner.catalogue);
                }
                Err(error)
            }
        }
    }

    fn make_collection(&self, folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<Collection> {
        fs::create_dir(folder).map_err(|source| Error::io("make the folder", folder, source))?;
        make(folder)?;
        sync_folder(folder)?;
        sync_folder(&self.folder.join("collections"))?;
        let (truth, _) = Truth::open(&folder.join(COLLECTION_FILE), self.options.synchronous)?;
        Collection::start(folder, truth, None, &self.options, Arc::clone(&self.lock))
    }

    /// The collection of that name or alias. Its first use maps its segments and reads what no segment holds.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`]; [`Error::Damaged`], [`Error::DamagedPoint`], [`Error::Format`] of this collection only.
    pub fn collection(&self, name: &str) -> Result<Arc<Collection>> {
        let not_found = || Error::CollectionNotFound { name: name.to_owned() };
        let (folder, door) = {
            let inner = self.inner();
            let aliased = || {
                let folder = inner.aliases().get(name)?;
                inner.collections.values().find(|listed| listed.folder == *folder)
            };
            let listed = inner.collections.get(name).or_else(aliased).ok_or_else(not_found)?;
            (listed.folder, Arc::clone(&listed.door))
        };
        let mut door = door.lock().unwrap_or_else(PoisonError::into_inner);
        match &*door {
            Door::Open(collection) => Ok(Arc::clone(collection)),
            Door::Deleted => Err(not_found()),
            Door::Closed => {
                let folder = self.collection_folder(folder);
                let (truth, upgraded_from) = Truth::open(&folder.join(COLLECTION_FILE), self.options.synchronous)?;
                let collection = Arc::new(Collection::start(&folder, truth, upgraded_from, &self.options, Arc::clone(&self.lock))?);
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
        let marked = inner.catalogue.change(|content| {
            content.collections.insert(uuid, Entry { name: name.to_owned(), stage: Stage::Deleting });
            content.aliases.retain(|_, folder| *folder != uuid);
        });
        if let Err(error) = marked {
            // The disk may have it as deleted: nothing may be acknowledged that would go with it.
            if error.is_uncertain()
                && let Door::Open(collection) = &*door.lock().unwrap_or_else(PoisonError::into_inner)
            {
                collection.stop_writes();
            }
            return Err(error);
        }
        inner.collections.remove(name);
        let door = std::mem::replace(&mut *door.lock().unwrap_or_else(PoisonError::into_inner), Door::Deleted);
        if let Door::Open(collection) = door {
            collection.close_for_deletion();
        }
        // It is gone for good; what cannot be cleared now is cleared at the next start.
        let _ = remove_folder(&self.collection_folder(uuid)).and_then(|()| inner.catalogue.change(|content| content.forget(&[uuid])));
        Ok(true)
    }

    /// Every alias, by name, and the collection it stands for.
    pub fn aliases(&self) -> BTreeMap<String, String> {
        let inner = self.inner();
        let name_of = |folder: &Uuid| inner.collections.iter().find(|(_, listed)| listed.folder == *folder).map(|(name, _)| name.clone());
        inner.aliases().iter().filter_map(|(alias, folder)| Some((alias.clone(), name_of(folder)?))).collect()
    }

    /// Performs the actions in their order: all of them, at once, or none.
    ///
    /// # Errors
    /// [`Error::CollectionNotFound`], [`Error::AliasNotFound`], [`Error::CollectionExists`] where an alias would hide a
    /// collection, [`Error::CollectionName`].
    pub fn change_aliases(&self, actions: &[AliasAction]) -> Result<()> {
        let mut inner = self.inner();
        let mut aliases = inner.aliases().clone();
        let put = |aliases: &mut BTreeMap<String, Uuid>, alias: &String, folder| {
            check_name(alias)?;
            if inner.collections.contains_key(alias) {
                return Err(Error::CollectionExists { name: alias.clone() });
            }
            aliases.insert(alias.clone(), folder);
            Ok(())
        };
        for action in actions {
            match action {
                AliasAction::Create { alias, collection } => {
                    let listed = inner.collections.get(collection);
                    let folder = listed.ok_or_else(|| Error::CollectionNotFound { name: collection.clone() })?.folder;
                    put(&mut aliases, alias, folder)?;
                }
                AliasAction::Rename { from, to } => {
                    let folder = aliases.remove(from).ok_or_else(|| Error::AliasNotFound { name: from.clone() })?;
                    put(&mut aliases, to, folder)?;
                }
                AliasAction::Delete { alias } => {
                    aliases.remove(alias).ok_or_else(|| Error::AliasNotFound { name: alias.clone() })?;
                }
            }
        }
        inner.catalogue.change(|content| content.aliases = aliases)
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
