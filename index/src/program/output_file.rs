//! A file that appears whole or not at all: written beside its target, synced, then renamed over it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A file on its way to its target. Dropped before [`finish`](Self::finish), it is removed, and the target is as it was.
pub(crate) struct OutputFile {
    target: PathBuf,
    temporary: PathBuf,
    pub(crate) file: BufWriter<File>,
}

impl OutputFile {
    pub(crate) fn create(target: &Path) -> Result<Self> {
        let opened = || {
            let name = target.file_name().ok_or_else(|| io::Error::other("the path ends in no file name"))?;
            if target.is_dir() {
                return Err(io::Error::from(io::ErrorKind::IsADirectory));
            }
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}.tmp", std::process::id()));
            let temporary = target.with_file_name(hidden);
            let file = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
            Ok(Self { target: target.to_owned(), temporary, file })
        };
        opened().with_context(|| format!("cannot write {}", target.display()))
    }

    /// Runs `write` on the file, naming the file in its error.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
        write(&mut self.file).with_context(|| format!("cannot write {}", self.target.display()))
    }

    /// Syncs the file and puts it in place.
    pub(crate) fn finish(mut self) -> Result<()> {
        let mut placed = || {
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            fs::rename(&self.temporary, &self.target)?;
            let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()
        };
        placed().with_context(|| format!("cannot write {}", self.target.display()))
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove; before it, the reason of the failure is already on its way.
        let _ = fs::remove_file(&self.temporary);
    }
}
