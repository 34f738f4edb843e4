//! A snapshot: one collection in one file, taken while it is in use, and made into a new collection elsewhere.
//!
//! ```text
//! magic "MOCOSNAP" | length of the manifest (u32, little-endian) | manifest (JSON) | its xxh3-128 | the database
//! ```
//!
//! The database is a copy of the truth at one moment, without free pages: every operation up to the one that the manifest
//! names, none after it. Segments are derived and stay behind; the new collection builds its own. The manifest holds the
//! length and the xxh3-128 of the database: a file that lost or changed a byte is refused before anything is made of it.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::sync_folder;
use crate::database::{Database, FORMAT, Synchronous};
use crate::error::{Error, Result};
use crate::truth::Truth;

const MAGIC: &[u8; 8] = b"MOCOSNAP";
/// The format of the file around the database.
const SNAPSHOT_FORMAT: u32 = 1;
/// A manifest is a few lines; a longer one is not ours.
const LONGEST_MANIFEST: u32 = 1 << 16;
const BUFFER: usize = 1 << 20;
/// Endings of a snapshot that is being written, after a UUID, and further ones of the copy that it is made of.
const UNFINISHED: &str = ".unfinished-snapshot";
const COPY: &str = ".database";
const COPY_JOURNAL: &str = ".database-journal";

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SnapshotManifest {
    /// Of the file around the database.
    pub format: u32,
    /// Of the database in it.
    pub index_format: u32,
    /// The last operation it holds.
    pub operation: u64,
    pub points: u64,
    /// Length of the database, in bytes.
    pub length: u64,
    /// xxh3-128 of the database, in hexadecimal.
    pub checksum: String,
}

/// Writes the collection at `database` as it is now into a new file at `path`.
pub(crate) fn write(database: &Path, path: &Path) -> Result<SnapshotManifest> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if path.exists() {
        return Err(Error::Exists { path: path.to_owned() });
    }
    clear_what_was_left(folder);
    let partial = folder.join(format!(".{}{UNFINISHED}", Uuid::new_v4()));
    let copy = with_ending(&partial, COPY);
    let outcome = write_parts(database, &copy, &partial).and_then(|manifest| {
        fs::rename(&partial, path).map_err(|source| Error::io("name", path, source))?;
        sync_folder(folder)?;
        Ok(manifest)
    });
    clear(&partial);
    outcome
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Removes a snapshot that is not finished, its copy of the database, and what SQLite keeps beside that. Most are not there.
fn clear(partial: &Path) {
    for ending in ["", COPY, COPY_JOURNAL] {
        let _ = fs::remove_file(with_ending(partial, ending));
    }
}

/// Removes what a process left in `folder` that ended while it wrote a snapshot. Whoever writes one holds a lock on it.
fn clear_what_was_left(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let uuid = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(UNFINISHED));
        if uuid.is_some_and(|uuid| Uuid::try_parse(uuid).is_ok()) && File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            clear(&path);
        }
    }
}

fn write_parts(database: &Path, copy: &Path, partial: &Path) -> Result<SnapshotManifest> {
    let io = |source| Error::io("write", partial, source);
    let mut file = File::create_new(partial).map_err(io)?;
    file.lock().map_err(io)?;
    Database::copy(database, copy)?;
    let (operation, points) = {
        let header = Truth::reader(copy)?.header()?;
        (header.operation, header.points.rows)
    };
    let (length, checksum) = pass_on(copy, |_| Ok(()))?;
    let manifest =
        SnapshotManifest { format: SNAPSHOT_FORMAT, index_format: FORMAT, operation, points, length, checksum: format!("{checksum:032x}") };
    let text = serde_json::to_vec(&manifest).expect("a manifest has string keys");
    let mut head = MAGIC.to_vec();
    head.extend((text.len() as u32).to_le_bytes());
    head.extend(&text);
    head.extend(xxh3_128(&text).to_le_bytes());
    file.write_all(&head).map_err(io)?;
    let written = pass_on(copy, |bytes| file.write_all(bytes).map_err(io))?;
    if written != (length, checksum) {
        return Err(Error::Damaged { path: copy.to_owned(), reason: "it changed while it was read".to_owned() });
    }
    file.sync_all().map_err(io)?;
    Ok(manifest)
}

/// Reads a file through; its length and xxh3-128.
fn pass_on(path: &Path, mut to: impl FnMut(&[u8]) -> Result<()>) -> Result<(u64, u128)> {
    let io = |source| Error::io("read", path, source);
    pass(&mut File::open(path).map_err(io)?, path, &mut to)
}

fn pass(from: &mut impl Read, path: &Path, to: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<(u64, u128)> {
    let (mut hash, mut length, mut buffer) = (Xxh3::new(), 0, vec![0; BUFFER]);
    loop {
        let read = from.read(&mut buffer).map_err(|source| Error::io("read", path, source))?;
        if read == 0 {
            return Ok((length, hash.digest128()));
        }
        hash.update(&buffer[..read]);
        length += read as u64;
        to(&buffer[..read])?;
    }
}

/// Makes the database of a snapshot into `database`, a new file, and verifies every row of it.
pub(super) fn read(path: &Path, database: &Path, synchronous: Synchronous) -> Result<SnapshotManifest> {
    let mut snapshot = BufReader::new(File::open(path).map_err(|source| Error::io("open", path, source))?);
    let manifest = read_manifest(&mut snapshot, path)?;
    let io = |source| Error::io("write", database, source);
    let mut file = File::create_new(database).map_err(io)?;
    let mut room = manifest.length;
    let damaged = |reason: &str| Error::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let (length, checksum) = pass(&mut snapshot, path, &mut |bytes| {
        room = room.checked_sub(bytes.len() as u64).ok_or_else(|| damaged("it is longer than it says"))?;
        file.write_all(bytes).map_err(io)
    })?;
    if (length, format!("{checksum:032x}")) != (manifest.length, manifest.checksum.clone()) {
        return Err(damaged("the database in it is not the one that was written"));
    }
    file.sync_all().map_err(io)?;
    drop(file);
    let (truth, _) = Truth::open(database, synchronous)?;
    truth.forget_segments()?;
    truth.verify(&truth.header()?)?;
    Ok(manifest)
}

fn read_manifest(from: &mut impl Read, path: &Path) -> Result<SnapshotManifest> {
    let damaged = |reason: &str| Error::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let mut head = [0; 12];
    from.read_exact(&mut head).map_err(|_| damaged("it is not a snapshot"))?;
    let (magic, length) = head.split_at(8);
    let length = u32::from_le_bytes(length.try_into().expect("four bytes are left"));
    if magic != MAGIC || length > LONGEST_MANIFEST {
        return Err(damaged("it is not a snapshot"));
    }
    let mut text = vec![0; length as usize];
    let mut checksum = [0; 16];
    from.read_exact(&mut text).and_then(|()| from.read_exact(&mut checksum)).map_err(|_| damaged("it ends within its manifest"))?;
    if xxh3_128(&text).to_le_bytes() != checksum {
        return Err(damaged("the checksum of its manifest is wrong"));
    }
    // The numbers first: a newer manifest may have fields that this build does not know.
    #[derive(Deserialize)]
    struct Formats {
        format: u32,
        index_format: u32,
    }
    let unreadable = |error: serde_json::Error| damaged(&format!("its manifest: {error}"));
    let formats: Formats = serde_json::from_slice(&text).map_err(unreadable)?;
    for (found, supported) in [(formats.format, SNAPSHOT_FORMAT), (formats.index_format, FORMAT)] {
        if found > supported {
            return Err(Error::Format { path: path.to_owned(), found, supported });
        }
    }
    serde_json::from_slice(&text).map_err(unreadable)
}
