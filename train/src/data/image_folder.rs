//! A folder of images, any depth. Where it is labelled, the class is the first folder level.
//!
//! Opening looks at each file's first bytes and no further: a million pictures are listed in minutes, not hours. What
//! shows only in the pixels (a cut file) is found by the loader. Every file that is not a picture is listed with the
//! reason; nothing is left out silently. Names are bytes to us, as they are to the system: a name that is no UTF-8 is
//! read like any other and only shown with replacement characters.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use moco_encoder::image::{self, ImageError, Limits, RgbImage};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use super::Error;

/// Bytes of a file that are looked at when a folder is opened: one page.
const PREFIX: usize = 4_096;

/// A picture of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its place in [`ImageFolder::samples`]: the same for the same files, whatever order the system lists them in.
    pub id: u64,
    /// Relative to the root.
    pub path: PathBuf,
    /// Index into [`ImageFolder::classes`]; none for files that lie in the root itself.
    pub class: Option<usize>,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// A file that is not trained on, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Relative to the root.
    pub path: PathBuf,
    pub reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// The pictures of a folder, sorted by their relative paths.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    pub root: PathBuf,
    pub samples: Vec<Sample>,
    /// Names of the classes that have samples, sorted.
    pub classes: Vec<String>,
    /// Everything else that was found below the root, sorted.
    pub skipped: Vec<Skipped>,
}

impl ImageFolder {
    /// Lists a folder. Links are followed; one that leads back to a folder above it is skipped.
    ///
    /// # Errors
    /// If the folder cannot be read, has no files, or none that is a picture: the files are decoded in their order until
    /// one proves readable.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let read_error = |source| Error::Read { path: root.to_owned(), source };
        if !fs::metadata(root).map_err(read_error)?.is_dir() {
            return Err(Error::NotAFolder { path: root.to_owned() });
        }
        fs::read_dir(root).map_err(read_error)?;
        let (mut files, mut skipped) = list(root);
        // By bytes and not by components: the order of `LC_ALL=C sort`.
        files.sort_unstable_by(|(a, _), (b, _)| a.as_os_str().cmp(b.as_os_str()));
        let looked_at: Vec<Option<String>> = files.par_iter().map(|(path, bytes)| look_at(&root.join(path), *bytes).err()).collect();
        let mut pictures = Vec::with_capacity(files.len());
        for ((path, bytes), reason) in files.into_iter().zip(looked_at) {
            match reason {
                None => pictures.push((path, bytes)),
                Some(reason) => skipped.push(Skipped { path, reason }),
            }
        }
        let unreadable = pictures.iter().map_while(|(path, _)| read(&root.join(path), [0; 3]).err()).collect::<Vec<_>>();
        let broken = pictures.drain(..unreadable.len()).zip(unreadable).map(|((path, _), reason)| Skipped { path, reason });
        skipped.extend(broken);
        skipped.sort_unstable_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        if pictures.is_empty() {
            let path = root.to_owned();
            return Err(match skipped.first().cloned() {
                None => Error::Empty { path },
                Some(first) => Error::NoImages { path, skipped: skipped.len(), first },
            });
        }
        let (samples, classes) = label(pictures);
        Ok(Self { root: root.to_owned(), samples, classes, skipped })
    }

    /// Whether every picture has a class and there are at least two.
    pub fn is_labelled(&self) -> bool {
        self.classes.len() > 1 && self.samples.iter().all(|sample| sample.class.is_some())
    }

    /// SHA-256, in hexadecimal, over the sorted relative names and the sizes of the pictures: what
    /// [`Provenance::data_hash`](moco_encoder::Provenance::data_hash) holds.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for sample in &self.samples {
            hash.update(sample.path.as_os_str().as_bytes());
            hash.update([0]); // no name holds it
            hash.update(sample.bytes.to_le_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The same pictures with classes numbered as in `reference`, so that a held-out folder can be scored against the
    /// one that was trained on.
    ///
    /// # Errors
    /// [`Error::UnknownClass`] for a class that `reference` does not have.
    pub fn with_classes_of(mut self, reference: &Self) -> Result<Self, Error> {
        let number = |class: &String| {
            reference.classes.iter().position(|known| known == class).ok_or_else(|| Error::UnknownClass {
                path: self.root.clone(),
                class: class.clone(),
                reference: reference.root.clone(),
            })
        };
        let numbers: Vec<usize> = self.classes.iter().map(number).collect::<Result<_, _>>()?;
        for sample in &mut self.samples {
            sample.class = sample.class.map(|class| numbers[class]);
        }
        self.classes.clone_from(&reference.classes);
        Ok(self)
    }

    /// Reads and decodes a picture on this background.
    ///
    /// # Errors
    /// The file with what is wrong with it.
    pub fn decode(&self, sample: &Sample, background: [u8; 3]) -> Result<RgbImage, Skipped> {
        read(&self.root.join(&sample.path), background).map_err(|reason| Skipped { path: sample.path.clone(), reason })
    }
}

/// Every file below `root` with its size, paths relative to it, and what is no file.
fn list(root: &Path) -> (Vec<(PathBuf, u64)>, Vec<Skipped>) {
    let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
    let (mut files, mut skipped) = (Vec::new(), Vec::new());
    let mut entries = WalkDir::new(root).min_depth(1).follow_links(true).into_iter();
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let path = error.path().map_or_else(|| root.to_owned(), relative);
                let reason = match (error.loop_ancestor(), error.io_error()) {
                    (Some(ancestor), _) => format!("a link that leads back to {}", ancestor.display()),
                    (None, Some(error)) if error.kind() == io::ErrorKind::NotFound => "a link that leads nowhere".to_owned(),
                    (None, Some(error)) => error.to_string(),
                    (None, None) => error.to_string(),
                };
                skipped.push(Skipped { path, reason });
                continue;
            }
        };
        let mut skip = |reason: &str| skipped.push(Skipped { path: relative(entry.path()), reason: reason.to_owned() });
        let kind = entry.file_type();
        if entry.file_name().as_bytes().starts_with(b".") {
            skip("its name starts with a dot");
            if kind.is_dir() {
                entries.skip_current_dir();
            }
        } else if kind.is_file() {
            match entry.metadata() {
                Ok(metadata) => files.push((relative(entry.path()), metadata.len())),
                Err(error) => skip(&error.to_string()),
            }
        } else if !kind.is_dir() {
            skip("neither a file nor a folder"); // to open a pipe would wait for its other end
        }
    }
    (files, skipped)
}

/// Whether a file looks like a picture by its first bytes.
fn look_at(path: &Path, bytes: u64) -> Result<(), String> {
    let limits = Limits::default();
    if bytes == 0 {
        return Err(ImageError::Empty.to_string());
    }
    if bytes > limits.max_bytes as u64 {
        return Err(ImageError::TooManyBytes { actual: bytes as usize, limit: limits.max_bytes }.to_string());
    }
    let mut prefix = Vec::with_capacity(PREFIX.min(bytes as usize));
    File::open(path).and_then(|file| file.take(PREFIX as u64).read_to_end(&mut prefix)).map_err(|error| error.to_string())?;
    use ImageError::{TooLarge, TooManyPixels, UnknownFormat, UnsupportedFeature, UnsupportedFormat};
    match image::read_header(&prefix, &limits) {
        Ok(_) => Ok(()),
        Err(error @ (UnknownFormat | UnsupportedFormat(_) | UnsupportedFeature { .. } | TooLarge { .. } | TooManyPixels { .. })) => {
            Err(error.to_string())
        }
        // A header that goes on behind the prefix reads as a broken one.
        Err(_) if (prefix.len() as u64) < bytes => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads and decodes a file; the reason if that fails.
fn read(path: &Path, background: [u8; 3]) -> Result<RgbImage, String> {
    let limits = Limits::default();
    let mut bytes = Vec::new();
    // One byte past the limit is enough to refuse a file that has grown since it was listed.
    let most = limits.max_bytes as u64 + 1;
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(|error| error.to_string())?;
    image::decode(&bytes, &limits, background).map_err(|error| error.to_string())
}

/// Numbers pictures and classes.
fn label(pictures: Vec<(PathBuf, u64)>) -> (Vec<Sample>, Vec<String>) {
    let first_level = |path: &Path| -> Option<OsString> {
        let mut components = path.components();
        let first = components.next()?;
        components.next().map(|_| first.as_os_str().to_owned())
    };
    let mut folders: Vec<OsString> = pictures.iter().filter_map(|(path, _)| first_level(path)).collect();
    folders.sort_unstable();
    folders.dedup();
    let samples = pictures.into_iter().enumerate().map(|(id, (path, bytes))| {
        let class = first_level(&path).map(|folder| folders.binary_search(&folder).expect("the folder of a picture was listed"));
        Sample { id: id as u64, path, class, bytes }
    });
    (samples.collect(), folders.iter().map(|folder| folder.to_string_lossy().into_owned()).collect())
}
