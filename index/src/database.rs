//! A SQLite file of ours: how it is made, recognised, opened, written and synced. The truth and the catalogue are such files.
//!
//! Settings, each with its reason:
//! - WAL with `synchronous=FULL`: a commit returns after the log is synced; NORMAL may lose the last commits at a power cut.
//! - The log's sync is `fdatasync` (`HAVE_FDATASYNC`, which `.cargo/config.toml` gives the bundled SQLite; without it the sync
//!   is `fsync`, as safe and slower): `fsync` also waits for the journal of the file system to take the file's new times.
//! - The log's file is kept long enough for the next writes ([`Database::extend_log`]) and begins anew instead of being
//!   truncated while writes come: a file that grows has its new length to put into that journal at each sync.
//! - `mmap_size=0`: a stray write into mapped memory would reach the file.
//! - automatic checkpoints off: SQLite ignores their failure, and a sync that failed once can "succeed" when repeated
//!   although the pages are lost. [`Database::checkpoint`] reports it, and the log is kept.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags};

use crate::error::{Error, Result};

/// The format of the data folder that this build writes, and the newest it reads.
pub const FORMAT: u32 = 3;

/// "moco" in ASCII, in SQLite's `application_id`: tells our files from other databases.
const APPLICATION_ID: u32 = 0x6d6f_636f;

/// Does a commit wait for the disk? `Off` exists so that a test can see its own detector fire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Synchronous {
    #[default]
    Full,
    Off,
}

/// Refuses a SQLite that has the WAL-reset bug, which can corrupt a database under concurrent checkpoints.
pub(crate) fn check_sqlite() -> Result<()> {
    if rusqlite::version_number() < 3_051_003 {
        return Err(Error::SqliteTooOld { found: rusqlite::version().to_owned(), required: "3.51.3" });
    }
    Ok(())
}

/// How long a checkpoint waits for readers, and a writer for another.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the header of a database has the version of the file format that writing takes, and the newest that there is.
const WRITE_VERSION: u64 = 18;
const NEWEST_WRITE_VERSION: u8 = 2;
/// Of a write-ahead log, and of each page in it.
const LOG_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;

pub(crate) struct Database {
    pub(crate) connection: Connection,
    pub(crate) path: PathBuf,
}

impl Database {
    /// Makes a new file; `fill` makes its tables and first rows, in one transaction.
    pub(crate) fn create(path: &Path, page_size: u32, synchronous: Synchronous, fill: impl FnOnce(&Self) -> Result<()>) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Self::connect(path, flags)?;
        database.run(|connection| connection.pragma_update(None, "page_size", page_size))?;
        database.set_up_writer(synchronous)?;
        database.transaction(|database| {
            database.run(|connection| {
                connection.pragma_update(None, "application_id", APPLICATION_ID)?;
                connection.pragma_update(None, "user_version", FORMAT)
            })?;
            fill(database)
        })?;
        database.checkpoint()?;
        Ok(database)
    }

    /// Opens an existing file for writing, mends it from its log, and checks that it is ours and not newer than us.
    /// Returns its format too, which may be older.
    pub(crate) fn open(path: &Path, synchronous: Synchronous) -> Result<(Self, u32)> {
        if !path.exists() {
            return Err(Error::Damaged { path: path.to_owned(), reason: "the file is missing".to_owned() });
        }
        let database = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        let pragma = |name| database.run(|connection| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)));
        let (application_id, format) = (pragma("application_id")?, pragma("user_version")?);
        if application_id != i64::from(APPLICATION_ID) || format <= 0 {
            return Err(database.damaged("it is not a database of this program"));
        }
        if format > i64::from(FORMAT) {
            return Err(Error::Format { path: path.to_owned(), found: format as u32, supported: FORMAT });
        }
        if database.run(|connection| connection.is_readonly("main"))? {
            // SQLite does not write to a file of a version that it does not know either.
            let version = database.write_version()?;
            if version > NEWEST_WRITE_VERSION {
                return Err(database.damaged(format!("its header asks for version {version} of SQLite's file format to write to it")));
            }
            return Err(Error::ReadOnly { path: path.to_owned() });
        }
        database.set_up_writer(synchronous)?;
        // Whatever the log holds goes into the file now: the process before this one may have seen a sync fail.
        database.checkpoint()?;
        database.check_length()?;
        Ok((database, format as u32))
    }

    /// The version of the file format that a program must know to write to it: 1, or 2 for a write-ahead log.
    fn write_version(&self) -> Result<u8> {
        let io = |source| Error::io("read", &self.path, source);
        let mut version = [0];
        std::fs::File::open(&self.path).map_err(io)?.read_exact_at(&mut version, WRITE_VERSION).map_err(io)?;
        Ok(version[0])
    }

    /// A file that lost its end is refused at once, not when somebody asks for what lay there.
    fn check_length(&self) -> Result<()> {
        let pragma = |name| self.run(|connection| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)));
        let expected = pragma("page_count")?.saturating_mul(pragma("page_size")?);
        let length = std::fs::metadata(&self.path).map_err(|source| Error::io("read", &self.path, source))?.len();
        if i64::try_from(length) != Ok(expected) {
            return Err(self.damaged(format!("it is {length} bytes long, not {expected}")));
        }
        Ok(())
    }

    /// Is there nothing at `path`, or what a crash within [`create`](Self::create) leaves?
    pub(crate) fn is_blank(path: &Path) -> Result<bool> {
        if !path.exists() {
            return Ok(true);
        }
        let database = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        database.run(|connection| {
            let application_id: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
            let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
            Ok(application_id == 0 && tables == 0)
        })
    }

    /// Copies the file as it is at this moment, its log included, into a new one without free pages. The copy is not synced.
    pub(crate) fn copy(path: &Path, to: &Path) -> Result<()> {
        let database = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        // As bytes: SQLite opens what it is given, and a path need not be UTF-8.
        let name = ToSqlOutput::Borrowed(ValueRef::Text(to.as_os_str().as_encoded_bytes()));
        database.run(|connection| connection.execute("VACUUM INTO ?", [&name]).map(drop)).map_err(|error| match error {
            // Where it is written, not where it is read.
            Error::DiskFull { .. } => Error::DiskFull { path: to.to_owned() },
            Error::ReadOnly { .. } => Error::ReadOnly { path: to.to_owned() },
            other => other,
        })
    }

    /// A second connection to an open file, which only reads.
    pub(crate) fn reader(path: &Path) -> Result<Self> {
        let database = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        database.run(|connection| connection.pragma_update(None, "query_only", true))?;
        Ok(database)
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Self> {
        let connection = Connection::open_with_flags(path, flags).map_err(|source| Error::sqlite(path, source))?;
        let database = Self { connection, path: path.to_owned() };
        database.run(|connection| {
            connection.busy_timeout(PATIENCE)?;
            connection.pragma_update(None, "mmap_size", 0)?;
            connection.pragma_update(None, "trusted_schema", false)?;
            connection.pragma_update(None, "cell_size_check", true)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        })?;
        Ok(database)
    }

    fn set_up_writer(&self, synchronous: Synchronous) -> Result<()> {
        let mode: String = self.run(|connection| {
            // To its end: the first row says `wal` before the change has been committed, and the commit can fail.
            let mut statement = connection.prepare("PRAGMA journal_mode = WAL")?;
            let mut rows = statement.query([])?;
            let mut mode = String::new();
            while let Some(row) = rows.next()? {
                mode = row.get(0)?;
            }
            let synchronous = match synchronous {
                Synchronous::Full => "FULL",
                Synchronous::Off => "OFF",
            };
            connection.pragma_update(None, "synchronous", synchronous)?;
            connection.pragma_update(None, "wal_autocheckpoint", 0)?;
            Ok(mode)
        })?;
        if mode != "wal" {
            return Err(Error::JournalMode { path: self.path.clone(), mode });
        }
        Ok(())
    }

    pub(crate) fn run<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        work(&self.connection).map_err(|source| Error::sqlite(&self.path, source))
    }

    pub(crate) fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::Damaged { path: self.path.clone(), reason: reason.into() }
    }

    /// Runs `work` in one transaction: all of it is on disk when this returns `Ok`, none of it otherwise.
    pub(crate) fn transaction<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.run(|connection| connection.execute_batch("BEGIN IMMEDIATE"))?;
        let outcome = work(self).and_then(|value| self.run(|connection| connection.execute_batch("COMMIT")).map(|()| value));
        if outcome.is_err() && !self.connection.is_autocommit() {
            // Some failures end the transaction by themselves; where this one did not, its own failure is the news, not the rollback's.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        outcome
    }

    /// Runs `work` on one state of the file, whatever is committed meanwhile.
    pub(crate) fn snapshot<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.run(|connection| connection.execute_batch("BEGIN"))?;
        let outcome = work(self);
        self.run(|connection| connection.execute_batch("COMMIT"))?;
        outcome
    }

    /// Moves the whole log into the file and empties it; waits for readers, at most some seconds.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.run(|connection| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
    }

    /// Moves into the file as much of the log as no reader still needs, without waiting. The next write begins the log
    /// anew if that was all of it.
    pub(crate) fn checkpoint_now(&self) -> Result<()> {
        self.run(|connection| connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())))
    }

    /// As [`checkpoint`](Self::checkpoint), and without waiting: while a reader needs the log, it stays.
    pub(crate) fn checkpoint_unless_read(&self) -> Result<()> {
        let patience = |waits: Duration| self.run(|connection| connection.busy_timeout(waits));
        patience(Duration::ZERO)?;
        let outcome = self.checkpoint();
        patience(PATIENCE)?;
        outcome
    }

    /// Bytes of the log that writes have filled since it began anew.
    pub(crate) fn log_used(&self) -> Result<u64> {
        self.run(|connection| {
            let frames: i64 = connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?.query_row([], |row| row.get(1))?;
            let page: i64 = connection.prepare_cached("PRAGMA page_size")?.query_row([], |row| row.get(0))?;
            Ok(LOG_HEADER + u64::try_from(frames).unwrap_or(0) * (u64::try_from(page).unwrap_or(0) + FRAME_HEADER))
        })
    }

    /// Length of the log's file; 0 if there is none.
    pub(crate) fn log_len(&self) -> u64 {
        std::fs::metadata(self.log_path()).map_or(0, |metadata| metadata.len())
    }

    /// Makes the log's file longer ahead of the writes that will fill it: a sync of bytes that a file has already need not
    /// wait for its new length to get into the file system's journal. The next commit's sync covers it.
    ///
    /// Only for a log that holds a commit: until then the header of the log before it may still be on the disk, whose
    /// frames these zeros must not cut short.
    pub(crate) fn extend_log(&self, bytes: usize) -> Result<()> {
        let path = self.log_path();
        let io = |source| Error::io("write", &path, source);
        // The advisory locks, which closing another handle of a file would release, are on the database and not on its log.
        let log = OpenOptions::new().write(true).open(&path).map_err(io)?;
        let len = log.metadata().map_err(io)?.len();
        log.write_all_at(&vec![0; bytes], len).map_err(io)
    }

    fn log_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push("-wal");
        path.into()
    }

    /// Writes the whole file anew on pages of another size, in their order and none of them empty. Where there is no space
    /// for a second copy the file stays as it is, which is as good a one.
    pub(crate) fn rewrite(&self, page_size: u32, synchronous: Synchronous) -> Result<()> {
        // SQLite changes the size of pages only outside of WAL. A crash leaves the old file or the new one, in either mode.
        let outcome = self.run(|connection| {
            connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
            connection.pragma_update(None, "page_size", page_size)?;
            connection.execute_batch("VACUUM")
        });
        self.set_up_writer(synchronous)?;
        match outcome {
            Err(Error::DiskFull { .. }) => Ok(()),
            outcome => outcome,
        }
    }
}
