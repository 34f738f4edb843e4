//! The folder that a demo writes into: made, marked as a demo's, and locked while the demo lives.

use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::Stop;

/// Says that a folder is a demo's and may be replaced by the next.
const MARK: &str = ".moco-demo";

/// A folder of ours; nobody else's demo uses it at the same time.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Locked until it is closed.
    _mark: File,
}

impl Folder {
    /// Makes the folder, or empties the one that an earlier demo left there.
    ///
    /// # Errors
    /// If something else lies there, which is not touched, or another demo is at work in it.
    pub fn claim(path: &Path) -> anyhow::Result<Self> {
        let mark = path.join(MARK);
        match fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() && !mark.is_file() {
                    return Err(Stop::Usage(format!(
                        "{} was not made by this demo, and is not replaced: name another folder with --out",
                        path.display()
                    ))
                    .into());
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
            }
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                return Err(Stop::Usage(format!("{} is not a folder: name another with --out", path.display())).into());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
        let file = File::create(&mark).with_context(|| format!("cannot write {}", mark.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("another demo is at work in {}: end it, or name another folder with --out", path.display())
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {}", mark.display())),
        }
        let folder = Self { path: path.to_path_buf(), _mark: file };
        folder.empty().with_context(|| format!("cannot empty {}", path.display()))?;
        Ok(folder)
    }

    fn empty(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() == MARK {
                continue;
            }
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demos_folder_is_replaced_and_a_strangers_is_not() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("runs/demo");
        let folder = Folder::claim(&path).unwrap();
        fs::create_dir(folder.join("data")).unwrap();
        fs::write(folder.join("data/points"), "1").unwrap();
        fs::write(folder.join("model.onnx"), "2").unwrap();
        drop(folder);
        let folder = Folder::claim(&path).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [MARK]);

        let stranger = temporary.path().join("thesis");
        fs::create_dir(&stranger).unwrap();
        fs::write(stranger.join("chapter"), "one").unwrap();
        let refusal = Folder::claim(&stranger).unwrap_err();
        assert!(
            matches!(refusal.downcast_ref(), Some(Stop::Usage(sentence)) if sentence.contains("was not made by this demo")),
            "{refusal}"
        );
        assert_eq!(fs::read(stranger.join("chapter")).unwrap(), b"one");
        let refusal = Folder::claim(&stranger.join("chapter")).unwrap_err();
        assert!(refusal.to_string().contains("is not a folder"), "{refusal}");
    }

    #[test]
    fn two_demos_do_not_share_a_folder() {
        let temporary = tempfile::tempdir().unwrap();
        let first = Folder::claim(temporary.path()).unwrap();
        fs::write(first.join("model.onnx"), "in use").unwrap();
        let refusal = Folder::claim(temporary.path()).unwrap_err();
        assert!(refusal.to_string().contains("another demo is at work"), "{refusal}");
        assert!(first.join("model.onnx").is_file());
        drop(first);
        Folder::claim(temporary.path()).unwrap();
    }
}
