//! A file that appears whole or not at all: written beside its target, synced, then renamed over it.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use crate::error::Error;

/// A file on its way to `target`. Dropped before [`put_in_place`](Self::put_in_place), it is removed and the target is
/// as it was.
#[derive(Debug)]
pub(crate) struct Replacement {
    target: PathBuf,
    temporary: PathBuf,
}

impl Replacement {
    /// Creates an empty file in the folder of `target`, with the permissions of any new file.
    pub(crate) fn beside(target: &Path) -> Result<Self, Error> {
        Self::named(target, "tmp")
    }

    /// The same under another ending, for a second file that belongs to the same target.
    pub(crate) fn named(target: &Path, ending: &str) -> Result<Self, Error> {
        let failed = |source| Error::Write { path: target.into(), source };
        let name = target.file_name().ok_or_else(|| failed(io::Error::other("the path ends in no file name")))?;
        if target.is_dir() {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.{ending}", std::process::id()));
        let temporary = folder(target).join(hidden);
        File::create(&temporary).map_err(failed)?;
        Ok(Self { target: target.into(), temporary })
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where the file lies for now.
    pub(crate) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Writes the whole content and syncs it.
    pub(crate) fn write(&mut self, content: impl FnOnce(&mut dyn io::Write) -> protobuf::Result<()>) -> Result<(), Error> {
        let written = File::create(&self.temporary).and_then(|file| {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            content(&mut out)?;
            out.flush()?;
            out.get_ref().sync_all()
        });
        written.map_err(|source| Error::Write { path: self.target.clone(), source })
    }

    /// Renames it over the target and syncs the folder.
    pub(crate) fn put_in_place(self) -> Result<(), Error> {
        let renamed = fs::rename(&self.temporary, &self.target).and_then(|()| File::open(folder(&self.target))?.sync_all());
        renamed.map_err(|source| Error::Write { path: self.target.clone(), source })
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove; before it, the reason of the failure is already on its way.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
