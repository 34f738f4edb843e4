//! The whole path by its programs: a few steps of training, export, serving, a query. The same picture gives the same vector wherever it is
//! embedded: by libtorch as training evaluates it, by the plain evaluator that export compares with, and by the server.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use moco_encoder::{
    Encoder, PlainEvaluator,
    image::{Limits, RgbImage},
    plain::normalize,
};
use moco_tests::{
    clients::{succeed, workspace},
    demo::{
        programs::{Programs, Signals},
        server::{Point, Server},
    },
};
use moco_train::{
    network::{self, Mode, Params},
    recipe::Recipe,
};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// Sums of f32 in another order, and nothing else: the three see the same bytes of the same prepared picture.
const SAME: f64 = 0.99999;

/// The programs of the build that this test belongs to.
fn folder_of_programs() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_moco-demo")).parent().unwrap().to_path_buf()
}

/// What libtorch makes of a prepared picture, as the evaluation during training asks it.
fn by_torch(encoder: &Encoder, picture: &RgbImage) -> Vec<f32> {
    let manifest = encoder.manifest();
    let architecture = manifest.architecture();
    let params = Params::from_tensors(&architecture, encoder.tensors(), Kind::Float, Device::Cpu);
    let side = i64::from(manifest.preprocessing.crop);
    let pixels = Tensor::from_slice(picture.as_raw()).view([1, side, side, 3]).permute([0, 3, 1, 2]).to_kind(Kind::Float) / 255.0; // 1×3×H×W
    let per_channel = |values: [f32; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]);
    let normalised = (pixels - per_channel(manifest.preprocessing.mean)) / per_channel(manifest.preprocessing.std);
    let features = tch::no_grad(|| network::features(&architecture, &params, Mode::Evaluation, &normalised));
    let mut vector = Vec::<f32>::try_from(features.squeeze_dim(0)).unwrap();
    normalize(&mut vector);
    vector
}

fn by_plain_evaluator(encoder: &Encoder, picture: &RgbImage) -> Vec<f32> {
    let mut vector = PlainEvaluator::new(encoder).output(std::slice::from_ref(picture)).remove(0);
    normalize(&mut vector);
    vector
}

fn by_server(server: &Server, file: &[u8]) -> Vec<f32> {
    let url = format!("{}/v1/embeddings", server.address);
    let text = ureq::post(&url).content_type("image/jpeg").send(file).unwrap().body_mut().read_to_string().unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    answer["data"][0]["embedding"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn a_picture_has_one_vector_from_training_to_the_server() {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name);
    let cells = workspace().join("tests/data/cells");
    let tiny = ["epochs=2", "encoder.backbone.width=8", "augmentation.size=32", "preprocessing.resize=32", "preprocessing.crop=32"];
    let recipe = Recipe::read(&workspace().join("tests/demo/cells.toml")).unwrap().with(&tiny.map(str::to_owned)).unwrap();
    fs::write(at("recipe.toml"), recipe.to_toml()).unwrap();

    let programs = Programs::of(&folder_of_programs()).unwrap();
    let mut train: Command = programs.command("moco-train");
    train.args(["pretrain", "--device", "cpu", "--config"]).arg(at("recipe.toml")).arg("--data").arg(cells.join("train"));
    succeed(train.arg("--held-out").arg(cells.join("held-out")).arg("--out").arg(at("run")));
    let mut export: Command = programs.command("moco-export");
    let parity = succeed(export.arg("onnx").arg(at("run/encoder.safetensors")).arg("-o").arg(at("model.onnx")));
    assert!(parity.contains("ONNX Runtime against the plain evaluator"), "{parity}");

    let signals = Signals::listen().unwrap();
    let server = Server::start(&programs, &at("model.onnx"), &at("data"), 0, &signals).unwrap();
    let encoder = Encoder::read(&at("run/encoder.safetensors")).unwrap();
    assert!(encoder.manifest().provenance.knn_accuracy.is_some_and(|accuracy| (0.2..=1.0).contains(&accuracy)));

    // Pictures of other sizes and in colour, so that preparing them is part of what must agree.
    let pictures: Vec<Vec<u8>> = ["BloodImage_00000", "BloodImage_00099", "BloodImage_00210", "BloodImage_00371"]
        .map(|name| fs::read(workspace().join("export/src/pictures").join(name).with_extension("jpg")).unwrap())
        .into();
    let (mut lowest, mut lowest_swapped) = (1f64, 1f64);
    for file in &pictures {
        let prepared = encoder.manifest().preprocessing.load(file, &Limits::default()).unwrap();
        let served = by_server(&server, file);
        for other in [by_torch(&encoder, &prepared), by_plain_evaluator(&encoder, &prepared)] {
            lowest = lowest.min(cosine(&served, &other));
        }
        // The planted fault: blue for red.
        let swapped = RgbImage::from_fn(prepared.width(), prepared.height(), |x, y| {
            let [red, green, blue] = prepared.get_pixel(x, y).0;
            image::Rgb([blue, green, red])
        });
        lowest_swapped = lowest_swapped.min(cosine(&served, &by_torch(&encoder, &swapped)));
    }
    println!(
        "lowest cosine between the server and libtorch or the plain evaluator: {lowest:.8}; with channels swapped: {lowest_swapped:.6}"
    );
    assert!(lowest >= SAME, "{lowest}");
    assert!(lowest_swapped < SAME, "a swap of channels must not pass: {lowest_swapped}");

    // And the vector finds its picture.
    server.create_collection("cells", encoder.manifest().dim).unwrap();
    let points: Vec<Point<'_>> =
        (1..).zip(&pictures).map(|(id, file)| Point { id, file, payload: json!({"file": id.to_string(), "class": "colour"}) }).collect();
    server.upsert("cells", &points, &signals).unwrap();
    for Point { id, file, .. } in &points {
        let hits = server.query("cells", file, 4).unwrap();
        assert_eq!((hits[0].id, hits.len()), (*id, 4));
        assert!(hits[0].score >= 0.9999 && hits.is_sorted_by(|a, b| a.score >= b.score), "{hits:?}");
    }
    server.stop().unwrap();
}
