//! What can go wrong, with the thing and the place as fields.
//!
//! Every error can be cloned: one failed commit answers each of the writes that shared it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::id::PointId;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // What the caller asked for.
    #[error("collection `{name}` already exists")]
    CollectionExists { name: String },
    #[error("collection `{name}` does not exist")]
    CollectionNotFound { name: String },
    #[error("alias `{name}` does not exist")]
    AliasNotFound { name: String },
    #[error("this collection was deleted")]
    CollectionDeleted,
    #[error("`{name}` cannot be a collection's name: {reason}")]
    CollectionName { name: String, reason: &'static str },
    #[error("{field}: {reason}")]
    Config { field: String, reason: String },
    #[error("the collection has no vector named `{name}`")]
    UnknownVector { name: String },
    #[error("vector `{name}` has {actual} dimensions, the collection holds {expected}")]
    Dimension { name: String, expected: usize, actual: usize },
    #[error("vector `{name}` is not finite at position {position}")]
    NotFinite { name: String, position: usize },
    #[error("vector `{name}` is bound to the model {expected}, not to {actual}")]
    Fingerprint { name: String, expected: String, actual: String },
    #[error("a search needs a limit of at least 1")]
    Limit,
    #[error("filter: {}{}{reason}", place, if place.is_empty() { "" } else { ": " })]
    Filter { place: String, reason: String },
    #[error("payload key `{key}`: {reason}")]
    PayloadIndex { key: String, reason: String },
    #[error("`{path}` is no path into a payload: {reason}")]
    KeyPath { path: String, reason: &'static str },
    #[error("point {id} has no vector `{name}`")]
    VectorMissing { id: PointId, name: String },
    #[error("the payload is nested more than {limit} deep at `{key}`")]
    PayloadDepth { key: String, limit: usize },
    #[error("a recommendation without examples: {reason}")]
    Examples { reason: &'static str },
    #[error("no point with id {id} found")]
    PointNotFound { id: PointId },

    // What the machine or the data folder does not allow.
    #[error("{} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("cannot write to {}: it is read-only", path.display())]
    ReadOnly { path: PathBuf },
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    #[error("{} is not a folder", path.display())]
    NotAFolder { path: PathBuf },
    #[error("no space left for {}; nothing of this request was stored", path.display())]
    DiskFull { path: PathBuf },
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("cannot use the database {}", path.display())]
    Database {
        path: PathBuf,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    #[error("a sync of {} failed earlier, so what reached the disk is unknown: read-only until restart", path.display())]
    WritesStopped { path: PathBuf },
    #[error("SQLite keeps the journal of {} in mode `{mode}`, not `wal`: is this a network file system?", path.display())]
    JournalMode { path: PathBuf, mode: String },
    #[error("{} holds as many points as there are numbers for; export it into a new collection", path.display())]
    Full { path: PathBuf },
    #[error("cannot build a segment of {}: {reason}", path.display())]
    Build { path: PathBuf, reason: String },
    #[error("cannot start a thread for {}", path.display())]
    Thread {
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },

    // What was found in the data folder.
    #[error("{} is index format {found}; this build reads up to {supported}", path.display())]
    Format { path: PathBuf, found: u32, supported: u32 },
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{} is damaged: point {id}, {place}", path.display())]
    DamagedPoint { path: PathBuf, id: PointId, place: String },
    #[error("{} is damaged: the vector in slot {slot}", path.display())]
    DamagedVector { path: PathBuf, slot: u64 },
    #[error("{} is damaged: its {section}: {reason}", path.display())]
    DamagedSegment { path: PathBuf, section: &'static str, reason: String },
    #[error("SQLite {found} can corrupt a write-ahead log; {required} or newer is needed")]
    SqliteTooOld { found: String, required: &'static str },
}

impl Error {
    /// An error of the file system, with the refusals that have a name of their own told apart.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Self::ReadOnly { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::NotADirectory => Self::NotAFolder { path },
            _ => Self::Io { action, path, source: Arc::new(source) },
        }
    }

    /// An error of SQLite on the database at `path`.
    pub(crate) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        use rusqlite::Error as Sqlite;
        if let Sqlite::InvalidColumnType(..)
        | Sqlite::FromSqlConversionFailure(..)
        | Sqlite::IntegralValueOutOfRange(..)
        | Sqlite::SqlInputError { .. }
        | Sqlite::Utf8Error(..)
        | Sqlite::QueryReturnedNoRows = source
        {
            // Our statements and types fit the tables we make: these are others.
            return Self::Damaged { path, reason: source.to_string() };
        }
        // SQLite gives this one no code of its own.
        if source.sqlite_error().is_some() && source.to_string().contains("unsupported file format") {
            return Self::Damaged { path, reason: source.to_string() };
        }
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull { path },
            Some(ErrorCode::CannotOpen) if has_no_space_beside(&path) => Self::DiskFull { path },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { path },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged { path, reason: source.to_string() },
            _ => Self::Database { path, source: Arc::new(source) },
        }
    }

    /// Does this leave open what reached the disk? A full disk does not, nor what was refused: SQLite takes the transaction back.
    pub(crate) fn is_uncertain(&self) -> bool {
        !matches!(self, Self::DiskFull { .. } | Self::WritesStopped { .. } | Self::Build { .. })
    }

    /// Did a sync fail? Then the kernel may have dropped the pages and call the next sync a success, so nothing more may be written.
    pub(crate) fn is_failed_sync(&self) -> bool {
        let Self::Database { source, .. } = self else { return false };
        matches!(source.sqlite_error().map(|error| error.extended_code), Some(ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC))
    }
}

/// SQLite says "cannot open" of a file that it cannot make for want of space, and forgets the reason: the file system is asked.
fn has_no_space_beside(path: &Path) -> bool {
    let probe = path.with_extension("probe");
    let outcome = std::fs::write(&probe, [0]);
    // If it was not made there is nothing to remove.
    let _ = std::fs::remove_file(&probe);
    outcome.is_err_and(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}
