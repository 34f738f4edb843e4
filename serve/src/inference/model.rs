//! A model file: what it says of itself, and whether ONNX Runtime agrees.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use moco_encoder::Manifest;
use moco_encoder::manifest::{METADATA_KEY, ManifestError};
use moco_runtime::{Element, Session, TensorInfo};
use sha2::{Digest as _, Sha256};

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    #[error(transparent)]
    Runtime(#[from] moco_runtime::Error),
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} has no manifest (`{METADATA_KEY}` in its metadata), so nobody knows how pictures are prepared for it: export it with \
         `moco-export onnx`; models of other programs are not served by this version",
        path.display()
    )]
    NoManifest { path: PathBuf },
    #[error("the manifest of {} is refused", path.display())]
    Manifest {
        path: PathBuf,
        #[source]
        source: ManifestError,
    },
    #[error("{} is not the model that its manifest describes: {detail}", path.display())]
    Mismatch { path: PathBuf, detail: String },
    #[error("{} does not pass its first inference: {detail}", path.display())]
    FirstInference { path: PathBuf, detail: String },
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// What is known of the model that is served.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The name by which requests may ask for it.
    pub id: String,
    /// SHA-256 of the file, in hexadecimal. Vectors of a collection are bound to it.
    pub fingerprint: String,
    pub manifest: Manifest,
}

impl Model {
    /// Describes a model that was loaded from `path`.
    pub(crate) fn describe(path: &Path, name: Option<&str>, session: &Session) -> Result<Self, ModelError> {
        let json = session.metadata(METADATA_KEY)?.ok_or_else(|| ModelError::NoManifest { path: path.into() })?;
        let manifest = Manifest::from_json(&json).map_err(|source| ModelError::Manifest { path: path.into(), source })?;
        check_tensors(&manifest, session.inputs(), session.outputs())
            .map_err(|detail| ModelError::Mismatch { path: path.into(), detail })?;
        let id = match name {
            Some(name) => name.to_owned(),
            None => path.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned()),
        };
        Ok(Self { id, fingerprint: fingerprint(path)?, manifest })
    }

    /// Whether a request that names `asked` means this model. A request that names none means it too.
    pub(crate) fn answers_to(&self, asked: &str) -> bool {
        asked.is_empty() || asked == self.id || asked == self.fingerprint
    }

    /// Length of its embeddings.
    pub fn dim(&self) -> usize {
        self.manifest.dim
    }

    /// Height and width of the pictures that it is fed.
    pub(crate) fn side(&self) -> usize {
        self.manifest.preprocessing.crop as usize
    }
}

fn check_tensors(manifest: &Manifest, inputs: &[TensorInfo], outputs: &[TensorInfo]) -> Result<(), String> {
    let side = manifest.preprocessing.crop as usize;
    let list = |tensors: &[TensorInfo]| tensors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let takes = |tensor: &TensorInfo| tensor.element == Element::U8 && tensor.shape == [None, Some(side), Some(side), Some(3)];
    if !matches!(inputs, [input] if takes(input)) {
        return Err(format!("it takes {}, not one batch uint8 [N, {side}, {side}, 3]", list(inputs)));
    }
    let gives = |tensor: &TensorInfo| {
        tensor.element == Element::F32 && matches!(tensor.shape[..], [None, dim] if dim.is_none_or(|dim| dim == manifest.dim))
    };
    if !matches!(outputs, [output] if gives(output)) {
        return Err(format!("it answers {}, not one batch float32 [N, {}]", list(outputs), manifest.dim));
    }
    Ok(())
}

fn fingerprint(path: &Path) -> Result<String, ModelError> {
    let mut hasher = Sha256::new();
    let hashed = File::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher));
    hashed.map_err(|source| ModelError::Read { path: path.into(), source })?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
