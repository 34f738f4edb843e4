//! `RUN/`, the folder that holds everything of one run. One process at a time works in it.
//!
//! ```text
//! config.toml                 the recipe, whole
//! metrics.jsonl               losses and k-NN figures
//! skipped.txt                 files that were no pictures, and why
//! checkpoints/step-N/         resumable states
//! encoder.safetensors         the newest weights; encoder-best.safetensors those of the best k-NN
//! non-finite-batch/           the batch on which the loss was not finite
//! ```

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use super::durable;
use crate::recipe::{self, Recipe};

/// Why a folder cannot be used for a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{} holds a run already: go on with it by --resume, or choose another folder", path.display())]
    Holds { path: PathBuf },
    #[error("{} holds no run to resume (no config.toml)", path.display())]
    HoldsNone { path: PathBuf },
    #[error("{} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("cannot make the run folder {}", path.display())]
    Make {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the run {} cannot be resumed", path.display())]
    Recipe {
        path: PathBuf,
        #[source]
        source: recipe::Error,
    },
}

/// A run folder that this process has to itself.
#[derive(Debug)]
pub struct RunFolder {
    root: PathBuf,
    _lock: File,
}

/// Whether a run was ever started in this folder.
pub(super) fn holds_run(root: &Path) -> bool {
    ["config.toml", "metrics.jsonl", "checkpoints"].iter().any(|name| root.join(name).exists())
}

impl RunFolder {
    /// Makes the folder for a new run. It holds one, and can be resumed, once [`begin`](Self::begin) was called.
    ///
    /// # Errors
    /// [`Error::Holds`] if there is a run in it; others if it cannot be made.
    pub fn create(root: &Path) -> Result<Self, Error> {
        if holds_run(root) {
            return Err(Error::Holds { path: root.into() });
        }
        fs::create_dir_all(root).map_err(|source| Error::Make { path: root.into(), source })?;
        Self::lock(root)
    }

    /// Writes the recipe. Everything that a resumed run needs must be there by then.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(&self, recipe: &Recipe) -> Result<(), Error> {
        let path = self.config();
        durable::write_file(&path, recipe.to_toml().as_bytes()).map_err(|source| Error::Write { path, source })
    }

    /// Opens the folder of a run that was started, with its recipe.
    ///
    /// # Errors
    /// [`Error::HoldsNone`] if none was, [`Error::Locked`] if it still works.
    pub fn open(root: &Path) -> Result<(Self, Recipe), Error> {
        if !root.join("config.toml").is_file() {
            return Err(Error::HoldsNone { path: root.into() });
        }
        let folder = Self::lock(root)?;
        let recipe = Recipe::read(&folder.config()).and_then(|recipe| recipe.validate().map(|()| recipe));
        Ok((folder, recipe.map_err(|source| Error::Recipe { path: root.into(), source })?))
    }

    fn lock(root: &Path) -> Result<Self, Error> {
        let path = root.join(".lock");
        let lock = File::create(&path).map_err(|source| Error::Make { path: root.into(), source })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: root.into(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path: root.into() }),
            Err(TryLockError::Error(source)) => Err(Error::Make { path: root.into(), source }),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The newest weights.
    pub fn encoder(&self) -> PathBuf {
        self.root.join("encoder.safetensors")
    }

    /// The weights of the best k-NN evaluation.
    pub fn best_encoder(&self) -> PathBuf {
        self.root.join("encoder-best.safetensors")
    }

    pub fn non_finite_batch(&self) -> PathBuf {
        self.root.join("non-finite-batch")
    }

    /// Writes the list of files that were no pictures.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_skipped(&self, lines: &[String]) -> Result<(), Error> {
        let path = self.root.join("skipped.txt");
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        durable::write_file(&path, text.as_bytes()).map_err(|source| Error::Write { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(root: &Path, recipe: &Recipe) -> RunFolder {
        let folder = RunFolder::create(root).unwrap();
        folder.begin(recipe).unwrap();
        folder
    }

    #[test]
    fn a_run_is_started_once_and_resumed_with_its_recipe() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("runs/one");
        assert!(matches!(RunFolder::open(&root), Err(Error::HoldsNone { .. })));
        drop(begun(&root, &Recipe::cifar()));
        let sentence = RunFolder::create(&root).unwrap_err().to_string();
        assert!(sentence.contains("runs/one holds a run already"), "{sentence}");
        assert_eq!(RunFolder::open(&root).unwrap().1, Recipe::cifar());
    }

    #[test]
    fn two_cannot_work_in_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = begun(folder.path(), &Recipe::cifar());
        assert!(matches!(RunFolder::open(folder.path()), Err(Error::Locked { .. })));
        drop(first);
        RunFolder::open(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_with_other_files_is_not_a_run() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("notes.txt"), "").unwrap();
        assert!(!holds_run(folder.path()));
        begun(folder.path(), &Recipe::v2());
        assert!(holds_run(folder.path()));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let sentence = RunFolder::create(&folder.path().join("file/run")).unwrap_err().to_string();
        assert!(sentence.starts_with("cannot make the run folder") && sentence.contains("file/run"), "{sentence}");
    }

    #[test]
    fn a_run_whose_recipe_is_damaged_says_so() {
        let folder = tempfile::tempdir().unwrap();
        drop(begun(folder.path(), &Recipe::v2()));
        let impossible = Recipe::v2().to_toml().replacen("batch = 256", "batch = 255", 1);
        for text in ["epochs = 3\n", &impossible] {
            fs::write(folder.path().join("config.toml"), text).unwrap();
            assert!(matches!(RunFolder::open(folder.path()), Err(Error::Recipe { .. })));
        }
    }
}
