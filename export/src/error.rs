//! What can go wrong while exporting and inspecting.

use std::path::PathBuf;

use moco_encoder::{manifest::ManifestError, weights};

use crate::parity::Parity;

/// Why a model is not written, or a file not described.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{} looks like an ONNX model; this command takes an encoder.safetensors", path.display())]
    OnnxGiven { path: PathBuf },
    #[error("{} is neither an encoder.safetensors nor an ONNX model", path.display())]
    UnknownKind { path: PathBuf },
    #[error(transparent)]
    Encoder(#[from] weights::Error),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Runtime(#[from] moco_runtime::Error),
    #[error("cannot read {}", path.display())]
    Read {
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
    #[error("{} would hold {bytes} bytes; an ONNX file ends at 2 GiB", path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{} holds no picture that can be read", folder.display())]
    NoPictures { folder: PathBuf },
    #[error("the written model carries another manifest than the encoder")]
    OtherManifest,
    #[error("ONNX Runtime and the plain evaluator disagree, so no model was written: {0}")]
    Parity(Parity),
}
