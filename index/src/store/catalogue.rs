//! The list of collections: one row each, in a database of its own.

use std::path::Path;

use uuid::Uuid;

use crate::database::{Database, Synchronous};
use crate::error::{Error, Result};

const SCHEMA: &str = "
    CREATE TABLE collection (
        folder TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        stage TEXT NOT NULL CHECK (stage IN ('creating', 'live', 'deleting'))
    ) STRICT;
    CREATE UNIQUE INDEX live_name ON collection (name) WHERE stage = 'live';";

/// Where a collection is in its life. Only a live one can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Creating,
    Live,
    Deleting,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Live => "live",
            Self::Deleting => "deleting",
        }
    }
}

pub(crate) struct Catalogue {
    database: Database,
    /// A sync failed: what reached the disk is unknown, so nothing more is written until restart.
    sync_failed: bool,
}

impl Catalogue {
    /// Opens the catalogue. In a folder without collections a missing one, or one that a crash left without its first
    /// transaction, is made.
    pub(crate) fn open(path: &Path, is_new: bool, synchronous: Synchronous) -> Result<Self> {
        if !(is_new && Database::is_blank(path)?) {
            return Ok(Self { database: Database::open(path, synchronous)?, sync_failed: false });
        }
        for suffix in ["", "-wal", "-shm"] {
            let mut file = path.as_os_str().to_owned();
            file.push(suffix);
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", Path::new(&file), error)),
                _ => {}
            }
        }
        let fill = |database: &Database| database.run(|connection| connection.execute_batch(SCHEMA));
        Ok(Self { database: Database::create(path, 4096, synchronous, fill)?, sync_failed: false })
    }

    /// Name, folder and stage of every row.
    pub(crate) fn list(&self) -> Result<Vec<(String, Uuid, Stage)>> {
        let rows = self.database.run(|connection| {
            let mut statement = connection.prepare("SELECT name, folder, stage FROM collection")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let read = |(name, folder, stage): (String, String, String)| {
            let uuid = Uuid::try_parse(&folder).map_err(|_| self.database.damaged(format!("`{folder}` is not a folder of ours")))?;
            let stage = [Stage::Creating, Stage::Live, Stage::Deleting].into_iter().find(|known| known.name() == stage);
            Ok((name, uuid, stage.ok_or_else(|| self.database.damaged(format!("the stage of `{folder}` cannot be read")))?))
        };
        rows.into_iter().map(read).collect()
    }

    /// Lists a collection as being created.
    pub(crate) fn add(&mut self, name: &str, folder: Uuid) -> Result<()> {
        self.execute("INSERT INTO collection VALUES (?1, ?2, ?3)", &[&folder.to_string(), name, Stage::Creating.name()])
    }

    pub(crate) fn set_stage(&mut self, folder: Uuid, stage: Stage) -> Result<()> {
        self.execute("UPDATE collection SET stage = ?2 WHERE folder = ?1", &[&folder.to_string(), stage.name()])
    }

    pub(crate) fn remove(&mut self, folder: Uuid) -> Result<()> {
        self.execute("DELETE FROM collection WHERE folder = ?1", &[&folder.to_string()])
    }

    fn execute(&mut self, sql: &str, values: &[&str]) -> Result<()> {
        if self.sync_failed {
            return Err(Error::WritesStopped { path: self.database.path.clone() });
        }
        let write = |database: &Database| database.run(|connection| connection.execute(sql, rusqlite::params_from_iter(values)));
        // A few pages: the log never grows long.
        let outcome = self.database.transaction(write).and_then(|_| self.database.checkpoint());
        self.sync_failed = outcome.as_ref().is_err_and(Error::is_failed_sync);
        outcome
    }
}
