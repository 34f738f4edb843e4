//! The list of collections and their aliases: one small document in a database of its own, written anew with each change.
//!
//! One row with one checksum: no byte of it can change unnoticed, and what it says, it says all at once.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::OptionalExtension;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::database::{Database, FORMAT, Synchronous};
use crate::error::{Error, Result};

const SCHEMA: &str = "
    CREATE TABLE catalogue (
        row INTEGER PRIMARY KEY CHECK (row = 1),
        content TEXT NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;";

/// Where a collection is in its life. Only a live one can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    Creating,
    Live,
    Deleting,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) stage: Stage,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Content {
    /// By folder.
    pub(crate) collections: BTreeMap<Uuid, Entry>,
    /// The folder that a further name stands for.
    pub(crate) aliases: BTreeMap<String, Uuid>,
}

impl Content {
    /// Takes folders off the list that are no more.
    pub(crate) fn forget(&mut self, folders: &[Uuid]) {
        self.collections.retain(|folder, _| !folders.contains(folder));
        self.aliases.retain(|_, folder| !folders.contains(folder));
    }
}

pub(crate) struct Catalogue {
    database: Database,
    content: Content,
    /// A write failed in a way that leaves open what reached the disk: nothing more is written until restart.
    uncertain: bool,
}

impl Catalogue {
    /// Opens the catalogue. In a folder without collections a missing one, or one that a crash left without its first
    /// transaction, is made.
    pub(crate) fn open(path: &Path, is_new: bool, synchronous: Synchronous) -> Result<Self> {
        if !(is_new && Database::is_blank(path)?) {
            let (database, format) = Database::open(path, synchronous)?;
            if format < FORMAT {
                upgrade(&database, format)?;
            }
            let content = read(&database)?;
            return Ok(Self { database, content, uncertain: false });
        }
        for suffix in ["", "-wal", "-shm"] {
            let mut file = path.as_os_str().to_owned();
            file.push(suffix);
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", Path::new(&file), error)),
                _ => {}
            }
        }
        let content = Content::default();
        let fill = |database: &Database| {
            database.run(|connection| connection.execute_batch(SCHEMA))?;
            write(database, &content)
        };
        let database = Database::create(path, 4096, synchronous, fill)?;
        Ok(Self { database, content, uncertain: false })
    }

    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    /// Changes the list. On [`Error::DiskFull`] and [`Error::WritesStopped`] it is as it was; after any other error only
    /// the next start can tell.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Content)) -> Result<()> {
        if self.uncertain {
            return Err(Error::WritesStopped { path: self.database.path.clone() });
        }
        let mut content = self.content.clone();
        change(&mut content);
        let outcome = self.database.transaction(|database| write(database, &content));
        self.uncertain = outcome.as_ref().is_err_and(Error::is_uncertain);
        outcome?;
        self.content = content;
        // It is in the log, synced. A few pages: the log never grows long, and can wait.
        self.uncertain = self.database.checkpoint().is_err_and(|error| error.is_failed_sync());
        Ok(())
    }
}

fn write(database: &Database, content: &Content) -> Result<()> {
    let text = serde_json::to_string(content).expect("a catalogue has string keys");
    let checksum = xxh3_64(text.as_bytes()) as i64;
    database.run(|connection| {
        connection.execute("INSERT OR REPLACE INTO catalogue VALUES (1, ?, ?)", rusqlite::params![text, checksum]).map(drop)
    })
}

fn read(database: &Database) -> Result<Content> {
    let row = database.run(|connection| {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
        connection.query_row("SELECT content, checksum FROM catalogue", [], read).optional()
    })?;
    let Some((text, checksum)) = row else { return Err(database.damaged("its row is missing")) };
    if xxh3_64(text.as_bytes()) as i64 != checksum {
        return Err(database.damaged("its checksum is wrong"));
    }
    serde_json::from_str(&text).map_err(|error| database.damaged(error.to_string()))
}

/// Format 2 is the present one but for its number; format 1 had a row a collection and no aliases.
fn upgrade(database: &Database, format: u32) -> Result<()> {
    if format == 2 {
        database.transaction(|database| database.run(|connection| connection.pragma_update(None, "user_version", FORMAT)))?;
        return database.checkpoint();
    }
    database.transaction(|database| {
        let rows = database.run(|connection| {
            let mut statement = connection.prepare("SELECT folder, name, stage FROM collection")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, String, String)>>>()
        })?;
        let mut content = Content::default();
        for (folder, name, stage) in rows {
            let uuid = Uuid::try_parse(&folder).map_err(|_| database.damaged(format!("`{folder}` is not a folder of ours")))?;
            let stage = match stage.as_str() {
                "creating" => Stage::Creating,
                "live" => Stage::Live,
                "deleting" => Stage::Deleting,
                _ => return Err(database.damaged(format!("the stage of `{folder}` cannot be read"))),
            };
            content.collections.insert(uuid, Entry { name, stage });
        }
        database.run(|connection| {
            connection.execute_batch("DROP TABLE collection;")?;
            connection.execute_batch(SCHEMA)?;
            connection.pragma_update(None, "user_version", FORMAT)
        })?;
        write(database, &content)
    })?;
    database.checkpoint()
}
