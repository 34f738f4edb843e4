//! `moco-export`: an encoder as an ONNX model, and what a file of either kind holds.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use moco_encoder::{Output, manifest::ManifestError};
use moco_export::{Error, export, inspect, pictures, read_encoder};
use moco_runtime::Runtime;

#[derive(Parser)]
#[command(version, about = "Writes an encoder as ONNX and proves that it computes the same", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// ONNX Runtime's shared library. Without it: ORT_DYLIB_PATH, the program's folder, ../lib, the build's .native.
    #[arg(long, global = true, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Write a model, after checking that ONNX Runtime computes what the encoder computes.
    Onnx {
        /// The encoder.safetensors to read.
        encoder: PathBuf,
        /// Where the model goes. Nothing is left there unless the check passes.
        #[arg(short, long, value_name = "FILE")]
        out: PathBuf,
        /// Which output becomes the embedding. Choose the projection to compare with published figures of MoCo.
        #[arg(long, value_enum, default_value = "features")]
        output: OutputName,
        /// Check on the pictures of this folder (the first 64) instead of the built-in ones.
        #[arg(long, value_name = "DIR")]
        images: Option<PathBuf>,
    },
    /// Print what an encoder or a model says of itself, its shapes and its fingerprint.
    Inspect {
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum OutputName {
    Features,
    Projection,
}

impl From<OutputName> for Output {
    fn from(name: OutputName) -> Self {
        match name {
            OutputName::Features => Self::Features,
            OutputName::Projection => Self::Projection,
        }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if is_usage(&error) { 2 } else { 1 })
        }
    }
}

/// Whether the command could not mean anything: the wrong kind of file, an output that is not there, no ONNX Runtime.
fn is_usage(error: &anyhow::Error) -> bool {
    use moco_runtime::Error as Library;
    let library = |error: &Library| {
        matches!(
            error,
            Library::NotFound { .. }
                | Library::Missing { .. }
                | Library::NotALibrary { .. }
                | Library::NotOnnxRuntime { .. }
                | Library::TooOld { .. }
        )
    };
    error.chain().any(|cause| match cause.downcast_ref::<Error>() {
        Some(Error::OnnxGiven { .. } | Error::UnknownKind { .. } | Error::Manifest(ManifestError::NoHead)) => true,
        Some(Error::Runtime(error)) => library(error),
        _ => cause.downcast_ref::<Library>().is_some_and(library) || matches!(cause.downcast_ref(), Some(ManifestError::NoHead)),
    })
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let runtime = || Runtime::open(arguments.onnxruntime.as_deref());
    match arguments.command {
        Command::Onnx { encoder: path, out, output, images } => {
            let encoder = read_encoder(&path)?;
            let manifest = encoder.manifest().clone().with_output(output.into()).with_context(|| path.display().to_string())?;
            let encoder = encoder.with_manifest(manifest)?;
            let runtime = runtime()?;
            let preprocessing = &encoder.manifest().preprocessing;
            let pictures = match images {
                None => pictures::built_in(preprocessing),
                Some(folder) => {
                    let found = pictures::of_folder(&folder, preprocessing)?;
                    if found.skipped > 0 {
                        eprintln!("{} files of {} are no pictures that can be read", found.skipped, folder.display());
                    }
                    found.pictures
                }
            };
            let parity = export(runtime, &encoder, &out, &pictures).with_context(|| format!("exporting {}", path.display()))?;
            println!("ONNX Runtime against the plain evaluator: {parity}");
            if !parity.is_telling() {
                eprintln!("warning: to this encoder the pictures look alike, so their agreement says little; see --images");
            }
            println!("wrote {}, {} values a picture", out.display(), encoder.manifest().dim);
        }
        Command::Inspect { file, json } => {
            let description = inspect(&file, runtime)?;
            if json { println!("{:#}", description.to_json()) } else { println!("{}", description.to_text()) }
        }
    }
    Ok(())
}
