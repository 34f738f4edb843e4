//! Where a command writes to. A file appears whole or not at all: written beside its target, synced, then renamed over it.
//!
//! A link is followed, and the file that it leads to is replaced. What is there and is no regular file (a device, a pipe) is
//! written to as it is: to rename over it would take it away from everybody else. So is our own stdout, whatever it is: it may
//! hold what was written before us.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::OutputClosed;

/// An output on its way to its target. Of a file, dropped before [`finish`](Self::finish), nothing stays, and the target is as it
/// was.
pub(crate) struct OutputFile {
    /// As the user named it.
    target: PathBuf,
    way: Way,
    file: BufWriter<File>,
}

enum Way {
    Beside(Temporary),
    Directly,
    ToStdout,
}

/// A file that is to replace another, and is removed unless it did.
struct Temporary {
    path: PathBuf,
    replaced: PathBuf,
}

impl OutputFile {
    pub(crate) fn create(target: &Path) -> Result<Self> {
        let opened = || {
            let (way, file) = match fs::metadata(target) {
                Ok(metadata) if metadata.is_dir() => return Err(io::Error::from(io::ErrorKind::IsADirectory)),
                Ok(metadata) => match stdout_if_it_is(&metadata)? {
                    Some(stdout) => (Way::ToStdout, stdout),
                    None if metadata.is_file() => beside(target)?,
                    None => (Way::Directly, OpenOptions::new().write(true).open(target)?),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => beside(target)?,
                Err(error) => return Err(error),
            };
            Ok(Self { target: target.to_owned(), way, file: BufWriter::with_capacity(1 << 20, file) })
        };
        opened().with_context(|| format!("cannot write {}", target.display()))
    }

    /// Is it this program's stdout? Then nothing else should be said there.
    pub(crate) fn is_stdout(&self) -> bool {
        matches!(self.way, Way::ToStdout)
    }

    /// Runs `write` on the file, naming the file in its error.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
        let written = write(&mut self.file);
        self.outcome(written)
    }

    /// Writes what is left; a file is synced and put in place.
    pub(crate) fn finish(mut self) -> Result<()> {
        let placed = self.place();
        self.outcome(placed)
    }

    fn place(&mut self) -> io::Result<()> {
        self.file.flush()?;
        match &self.way {
            Way::Directly | Way::ToStdout => Ok(()),
            Way::Beside(Temporary { path, replaced }) => {
                self.file.get_ref().sync_all()?;
                fs::rename(path, replaced)?;
                let folder = replaced.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                File::open(folder)?.sync_all()
            }
        }
    }

    fn outcome(&self, outcome: io::Result<()>) -> Result<()> {
        match outcome {
            Err(error) if self.is_stdout() && error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
            outcome => outcome.with_context(|| format!("cannot write {}", self.target.display())),
        }
    }
}

/// Our stdout, with the place in it that we have reached, if this is what `metadata` is of.
fn stdout_if_it_is(metadata: &fs::Metadata) -> io::Result<Option<File>> {
    // Closed, it is nobody's.
    let Ok(stdout) = io::stdout().as_fd().try_clone_to_owned() else { return Ok(None) };
    let stdout = File::from(stdout);
    let own = stdout.metadata()?;
    Ok(((own.dev(), own.ino()) == (metadata.dev(), metadata.ino())).then_some(stdout))
}

fn beside(target: &Path) -> io::Result<(Way, File)> {
    let mut replaced = target.to_owned();
    // It ends: of links in a circle there is no metadata.
    while let Ok(next) = fs::read_link(&replaced) {
        replaced = replaced.parent().unwrap_or(Path::new("")).join(next);
    }
    let name = replaced.file_name().ok_or_else(|| io::Error::other("the path ends in no file name"))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", std::process::id()));
    let path = replaced.with_file_name(hidden);
    let file = File::create(&path)?;
    Ok((Way::Beside(Temporary { path, replaced }), file))
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the rename there is nothing left to remove; before it, the reason of the failure is already on its way.
        let _ = fs::remove_file(&self.path);
    }
}
