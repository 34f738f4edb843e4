//! What a file says of itself: an encoder or a model.
//!
//! A file's kind is told by its first bytes, never by its name.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use moco_encoder::{Encoder, Manifest, manifest::METADATA_KEY};
use moco_runtime::{Runtime, SessionOptions, TensorInfo};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{error::Error, onnx::parameter_counts};

/// The kinds of files that the two programs exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Safetensors,
    /// ONNX has no magic number: this says that the file starts as every ONNX file does, not that it is one.
    Onnx,
    Unknown,
}

/// Looks at the first bytes of a file.
///
/// # Errors
/// [`Error::Read`].
pub fn file_kind(path: &Path) -> Result<FileKind, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    let mut start = Vec::with_capacity(9);
    File::open(path).and_then(|file| file.take(9).read_to_end(&mut start)).map_err(failed)?;
    Ok(match start[..] {
        // The length of the header, below the format's limit of 100 MB, and its opening brace.
        [_, _, _, _, 0, 0, 0, 0, b'{'] => FileKind::Safetensors,
        // Field 1, a small number: ir_version, which exporters write first.
        [0x08, 1..=64, ..] => FileKind::Onnx,
        _ => FileKind::Unknown,
    })
}

/// Reads an encoder, and says so when the file is of another kind.
///
/// # Errors
/// [`Error::OnnxGiven`] and those of [`Encoder::read`].
pub fn read_encoder(path: &Path) -> Result<Encoder, Error> {
    match file_kind(path)? {
        FileKind::Onnx => Err(Error::OnnxGiven { path: path.into() }),
        FileKind::Safetensors | FileKind::Unknown => Ok(Encoder::read(path)?),
    }
}

/// SHA-256 of a file, in hexadecimal: the fingerprint to which a collection's vectors are bound.
///
/// # Errors
/// [`Error::Read`].
pub fn fingerprint(path: &Path) -> Result<String, Error> {
    let mut hasher = Sha256::new();
    let hashed = File::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher));
    hashed.map_err(|source| Error::Read { path: path.into(), source })?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What [`inspect`] found.
#[derive(Debug)]
pub enum Description {
    Encoder {
        fingerprint: String,
        manifest: Box<Manifest>,
        /// Name and shape of each tensor, in the order of the forward pass.
        tensors: Vec<(String, Vec<usize>)>,
    },
    Model {
        fingerprint: String,
        /// `None` for a model that we did not write.
        manifest: Option<Box<Manifest>>,
        opset: Option<u32>,
        producer: Option<String>,
        inputs: Vec<TensorInfo>,
        outputs: Vec<TensorInfo>,
    },
}

/// Reads a file of either kind. ONNX Runtime is opened by `runtime` only for a model.
///
/// # Errors
/// [`Error::UnknownKind`], and what reading the file can say.
pub fn inspect(path: &Path, runtime: impl FnOnce() -> Result<&'static Runtime, moco_runtime::Error>) -> Result<Description, Error> {
    match file_kind(path)? {
        FileKind::Safetensors => {
            let encoder = Encoder::read(path)?;
            let manifest = encoder.manifest().clone();
            let tensors = manifest.architecture().parameters().into_iter().map(|p| (p.name, p.shape)).collect();
            Ok(Description::Encoder { fingerprint: fingerprint(path)?, manifest: Box::new(manifest), tensors })
        }
        FileKind::Onnx => {
            let session = runtime()?.load(path, &SessionOptions::default())?;
            let manifest = session.metadata(METADATA_KEY)?.map(|json| Manifest::from_json(&json)).transpose()?;
            Ok(Description::Model {
                fingerprint: fingerprint(path)?,
                manifest: manifest.map(Box::new),
                opset: session.opset(),
                producer: session.producer()?,
                inputs: session.inputs().to_vec(),
                outputs: session.outputs().to_vec(),
            })
        }
        FileKind::Unknown => Err(Error::UnknownKind { path: path.into() }),
    }
}

impl Description {
    /// The description for programs.
    pub fn to_json(&self) -> serde_json::Value {
        let tensor = |info: &TensorInfo| json!({"name": info.name, "type": info.element.to_string(), "shape": info.shape});
        let list = |infos: &[TensorInfo]| infos.iter().map(tensor).collect::<Vec<_>>();
        let (kind, fingerprint, manifest) = match self {
            Self::Encoder { fingerprint, manifest, .. } => ("encoder", fingerprint, Some(manifest)),
            Self::Model { fingerprint, manifest, .. } => ("model", fingerprint, manifest.as_ref()),
        };
        let mut value = json!({"kind": kind, "fingerprint": fingerprint, "manifest": manifest});
        if let Some(manifest) = manifest {
            let (trainable, all) = parameter_counts(manifest);
            value["parameters"] = json!({"trainable": trainable, "all": all});
        }
        match self {
            Self::Encoder { tensors, .. } => {
                value["tensors"] = tensors.iter().map(|(name, shape)| json!({"name": name, "shape": shape})).collect();
            }
            Self::Model { opset, producer, inputs, outputs, .. } => {
                value["opset"] = json!(opset);
                value["producer"] = json!(producer);
                value["inputs"] = json!(list(inputs));
                value["outputs"] = json!(list(outputs));
            }
        }
        value
    }

    /// The description for people, line by line.
    pub fn to_text(&self) -> String {
        let mut lines = Vec::new();
        let mut line = |name: &str, value: String| lines.push(format!("{:<15}{value}", format!("{name}:")));
        let manifest_lines = |manifest: &Manifest, line: &mut dyn FnMut(&str, String)| {
            let (trainable, all) = parameter_counts(manifest);
            let json =
                |value: serde_json::Result<serde_json::Value>| value.map_or_else(|error| error.to_string(), |value| value.to_string());
            line("format", manifest.format.to_string());
            line("backbone", json(serde_json::to_value(&manifest.backbone)));
            line("head", json(serde_json::to_value(manifest.head)));
            line(
                "embedding",
                json(serde_json::to_value(manifest.output)).replace('"', "")
                    + &format!(", {} values{}", manifest.dim, if manifest.normalized { ", unit length" } else { "" }),
            );
            line("preprocessing", json(serde_json::to_value(&manifest.preprocessing)));
            line("provenance", json(serde_json::to_value(&manifest.provenance)));
            line("parameters", format!("{trainable} trained, {} batch-norm statistics", all - trainable));
        };
        match self {
            Self::Encoder { fingerprint, manifest, tensors } => {
                line("kind", "encoder (safetensors)".into());
                line("fingerprint", fingerprint.clone());
                manifest_lines(manifest, &mut line);
                line("tensors", tensors.len().to_string());
                lines.extend(tensors.iter().map(|(name, shape)| format!("  {name:<32} {shape:?}")));
            }
            Self::Model { fingerprint, manifest, opset, producer, inputs, outputs } => {
                line("kind", "model (ONNX)".into());
                line("fingerprint", fingerprint.clone());
                line("written by", producer.clone().unwrap_or_else(|| "not stated".into()));
                line("opset", opset.map_or_else(|| "not stated".into(), |opset| opset.to_string()));
                inputs.iter().for_each(|info| line("input", info.to_string()));
                outputs.iter().for_each(|info| line("output", info.to_string()));
                match manifest {
                    Some(manifest) => manifest_lines(manifest, &mut line),
                    None => line("manifest", format!("none ({METADATA_KEY}): a model that moco-export did not write")),
                }
            }
        }
        lines.join("\n")
    }
}
