//! Images to vectors in your own program, without HTTP.
//!
//!     cargo run -p moco-serve --example embed -- model.onnx a.jpg b.png
//!
//! Prints each file's first values and how near the files are to the first.

use std::path::Path;

use anyhow::Context as _;
use moco_serve::{Embedder, EmbedderOptions};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().context("usage: embed MODEL.onnx IMAGE…")?;
    let embedder = Embedder::open(Path::new(&model), &EmbedderOptions::default())?;
    let mut first = None;
    for path in arguments {
        let bytes = std::fs::read(&path).with_context(|| format!("reading {path}"))?;
        // In an asynchronous program: `embedder.embed(bytes).await`, or `embed_all` for many at once.
        let vector = embedder.embed_blocking(bytes).with_context(|| path.clone())?;
        let first = first.get_or_insert_with(|| vector.clone());
        let cosine: f32 = first.iter().zip(&vector).map(|(a, b)| a * b).sum();
        println!("{path}: {:?} … {} values, cosine to the first {cosine:.4}", &vector[..vector.len().min(4)], vector.len());
    }
    Ok(())
}
