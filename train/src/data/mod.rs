//! Where pictures come from, and what is wrong with them.

mod image_folder;

use std::path::PathBuf;

pub use self::image_folder::{ImageFolder, Sample, Skipped};

/// Why pictures cannot be had. What is wrong with a single file is no error: it is [`Skipped`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot read the folder {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not a folder", path.display())]
    NotAFolder { path: PathBuf },
    #[error("the folder {} holds no files", path.display())]
    Empty { path: PathBuf },
    #[error("none of the {} files in the folder {} is an image that can be read; the first of them, {first}", skipped, path.display())]
    NoImages { path: PathBuf, skipped: usize, first: Skipped },
    #[error("the folder {} holds {images} images, fewer than the batch of {batch}", path.display())]
    FewerThanBatch { path: PathBuf, images: usize, batch: usize },
    #[error("no image in the folder {} can be read any more; the last that was tried, {last}", path.display())]
    AllUnreadable { path: PathBuf, last: Skipped },
    #[error("the class {class:?} of the folder {} does not occur in {}", path.display(), reference.display())]
    UnknownClass { path: PathBuf, class: String, reference: PathBuf },
    #[error("{0}")]
    Settings(String),
}
