//! `encoder.safetensors`: the tensors under torchvision's names, the manifest in the header. No pickle, nothing executed.
//!
//! A value of [`Encoder`] is proof that the tensors are exactly those of the manifest's architecture, have its shapes and
//! are finite. Half-precision and double-precision files are refused rather than converted: what is stored is what runs.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::manifest::{METADATA_KEY, Manifest, ManifestError};

/// Why an encoder cannot be read or written. Every message names the file, and the tensor where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
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
    #[error("{} is not a safetensors file, or is cut short: {detail}", path.display())]
    NotSafetensors { path: PathBuf, detail: String },
    #[error("{} has no encoder manifest ({METADATA_KEY}) in its header: it is not an encoder of ours", path.display())]
    NoManifest { path: PathBuf },
    #[error("{} cannot be used", path.display())]
    Manifest {
        path: PathBuf,
        #[source]
        source: ManifestError,
    },
    #[error("{} cannot be used", path.display())]
    Weights {
        path: PathBuf,
        #[source]
        source: WeightsError,
    },
}

/// Why tensors do not fit a manifest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    #[error("tensor {name} is missing")]
    Missing { name: String },
    #[error("tensor {name} is not part of the described network")]
    Extra { name: String },
    #[error("tensor {name} has shape {actual:?}, the manifest describes {expected:?}")]
    Shape { name: String, expected: Vec<usize>, actual: Vec<usize> },
    #[error("tensor {name} holds {actual}, not F32")]
    Type { name: String, actual: String },
    #[error("tensor {name} holds {actual} values, its shape needs {expected}")]
    Length { name: String, expected: usize, actual: usize },
    #[error("tensor {name} has a value that is not finite at position {position}")]
    NotFinite { name: String, position: usize },
}

/// A dense f32 tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// A network with its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoder {
    manifest: Manifest,
    tensors: BTreeMap<String, Tensor>,
}

impl Encoder {
    /// Joins a manifest and its tensors.
    ///
    /// # Errors
    /// A [`WeightsError`] for the first tensor that is missing, of another shape or length, not finite, or too many.
    pub fn new(manifest: Manifest, tensors: BTreeMap<String, Tensor>) -> Result<Self, WeightsError> {
        manifest.validate()?;
        let parameters = manifest.architecture().parameters();
        for parameter in &parameters {
            let name = || parameter.name.clone();
            let tensor = tensors.get(&parameter.name).ok_or_else(|| WeightsError::Missing { name: name() })?;
            if tensor.shape != parameter.shape {
                return Err(WeightsError::Shape { name: name(), expected: parameter.shape.clone(), actual: tensor.shape.clone() });
            }
            if tensor.data.len() != parameter.len() {
                return Err(WeightsError::Length { name: name(), expected: parameter.len(), actual: tensor.data.len() });
            }
            if let Some(position) = tensor.data.iter().position(|x| !x.is_finite()) {
                return Err(WeightsError::NotFinite { name: name(), position });
            }
        }
        if tensors.len() != parameters.len() {
            let extra = tensors.keys().find(|name| parameters.iter().all(|p| p.name != **name)).expect("more tensors than parameters");
            return Err(WeightsError::Extra { name: extra.clone() });
        }
        Ok(Self { manifest, tensors })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Values of one tensor of the architecture.
    ///
    /// # Panics
    /// If `name` is no parameter of the architecture: a defect of the caller.
    pub fn values(&self, name: &str) -> &[f32] {
        let tensor = self.tensors.get(name).unwrap_or_else(|| panic!("{name} is a parameter of the architecture"));
        &tensor.data
    }

    /// The same weights with another manifest of the same architecture, for example another output.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn with_manifest(self, manifest: Manifest) -> Result<Self, WeightsError> {
        Self::new(manifest, self.tensors)
    }

    /// Reads `encoder.safetensors`.
    ///
    /// # Errors
    /// See [`Error`]; a file of another kind, an unknown manifest and a tensor that does not fit are told apart.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let not_safetensors = |error: safetensors::SafeTensorError| Error::NotSafetensors { path: path.into(), detail: error.to_string() };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(not_safetensors)?;
        let json = header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA_KEY));
        let json = json.ok_or_else(|| Error::NoManifest { path: path.into() })?;
        let manifest = Manifest::from_json(json).map_err(|source| Error::Manifest { path: path.into(), source })?;
        let file = SafeTensors::deserialize(&bytes).map_err(not_safetensors)?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let tensor = tensor_of(name, &view).map_err(|source| Error::Weights { path: path.into(), source })?;
            tensors.insert(name.to_owned(), tensor);
        }
        Self::new(manifest, tensors).map_err(|source| Error::Weights { path: path.into(), source })
    }

    /// Writes `encoder.safetensors`: a temporary file in the same folder, synced, then renamed, so that a reader meets
    /// the old file or the new one and never a part.
    ///
    /// # Errors
    /// [`Error::Write`]; the file that stood there is untouched then.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let bytes: Vec<(&String, &Tensor, Vec<u8>)> =
            self.tensors.iter().map(|(name, tensor)| (name, tensor, tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect())).collect();
        let views = bytes.iter().map(|(name, tensor, data)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), data).expect("an encoder's tensors fill their shapes");
            (name.as_str(), view)
        });
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), self.manifest.to_json())]);
        let file = safetensors::serialize(views, Some(metadata)).expect("an encoder's tensors have unique names");
        write_atomically(path, &file).map_err(|source| Error::Write { path: path.into(), source })
    }
}

fn tensor_of(name: &str, view: &TensorView<'_>) -> Result<Tensor, WeightsError> {
    if view.dtype() != Dtype::F32 {
        return Err(WeightsError::Type { name: name.into(), actual: format!("{:?}", view.dtype()) });
    }
    let (values, _) = view.data().as_chunks::<4>();
    Ok(Tensor { shape: view.shape().to_vec(), data: values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect() })
}

/// Replaces `path` by `bytes` so that a crash leaves the old file or the new one.
fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut name = path.file_name().ok_or_else(|| std::io::Error::other("the path ends in no file name"))?.to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = folder.join(name);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&temporary, path));
    if replaced.is_err() {
        // The first error is the one to report; the leftover is ours to clear if that is still possible.
        let _ = fs::remove_file(&temporary);
    }
    replaced?;
    File::open(folder)?.sync_all()
}
