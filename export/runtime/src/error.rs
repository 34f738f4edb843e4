//! What can go wrong between us and ONNX Runtime, each said in one sentence.

use std::path::PathBuf;

use crate::session::Device;

/// Why ONNX Runtime, or a model in it, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(
        "ONNX Runtime was not found: run `make setup`, or name libonnxruntime.so with --onnxruntime or ORT_DYLIB_PATH (looked for {})",
        list(looked_for)
    )]
    NotFound { looked_for: Vec<PathBuf> },
    #[error("there is no ONNX Runtime at {}, which {asked_by} names", path.display())]
    Missing { path: PathBuf, asked_by: &'static str },
    #[error("{} cannot be opened as a shared library: {detail}", path.display())]
    NotALibrary { path: PathBuf, detail: String },
    #[error("{} is a shared library, but not ONNX Runtime", path.display())]
    NotOnnxRuntime { path: PathBuf },
    #[error("ONNX Runtime at {} is version {found}; 1.{needed} or newer is needed", path.display())]
    TooOld { path: PathBuf, found: String, needed: u32 },
    #[error("ONNX Runtime is already open from {}; one process cannot open a second one, {}", open.display(), asked.display())]
    AlreadyOpen { open: PathBuf, asked: PathBuf },
    #[error("ONNX Runtime could not start: {detail}")]
    Start { detail: String },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is a safetensors file, not an ONNX model: `moco-export onnx` makes one from an encoder", path.display())]
    Safetensors { path: PathBuf },
    #[error("{} is not an ONNX model, or is cut short: {detail}", path.display())]
    NotOnnx { path: PathBuf, detail: String },
    #[error("ONNX Runtime refuses {}: {detail}", path.display())]
    Refused { path: PathBuf, detail: String },
    #[error("{device} was asked for and does not run {}: {detail}", path.display())]
    Device { path: PathBuf, device: Device, detail: String },
    #[error("the model takes {expected}, not {actual}")]
    Input { expected: String, actual: String },
    #[error("{given} bytes or values were given for a batch of shape {shape:?}")]
    Length { given: usize, shape: [usize; 4] },
    #[error("the model answers {actual}, not one row of numbers for each of the {images} pictures")]
    Output { images: usize, actual: String },
    #[error("ONNX Runtime failed while running the model: {detail}")]
    Run { detail: String },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
