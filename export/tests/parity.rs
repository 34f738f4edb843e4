//! ONNX Runtime computes what the plain evaluator computes, and a planted fault shows.

mod support;

use std::path::Path;

use moco_encoder::{Depth, Encoder, Head, Output, ResNet, Stem, resnet::STANDARD_WIDTH};
use moco_export::{
    Error, Parity, check_parity, export,
    parity::{MIN_COSINE, TELLING_COSINE},
    pictures, write_onnx,
};
use moco_runtime::{Runtime, SessionOptions};

const MLP: Head = Head::Mlp { hidden: 64, dim: 32 };

fn with_output(encoder: Encoder, output: Output) -> Encoder {
    let manifest = encoder.manifest().clone().with_output(output).unwrap();
    encoder.with_manifest(manifest).unwrap()
}

fn exported(encoder: &Encoder, path: &Path) -> Parity {
    let runtime = Runtime::open(None).unwrap();
    export(runtime, encoder, path, &pictures::built_in(&encoder.manifest().preprocessing)).unwrap()
}

/// Exports features and projection of one encoder, checks both and prints the figures of the README's table.
fn agree(depth: Depth, stem: Stem, width: usize, side: u32) {
    let folder = tempfile::tempdir().unwrap();
    let encoder = support::encoder(ResNet::new(depth, stem).with_width(width), MLP, side, 1);
    for output in [Output::Features, Output::Projection] {
        let encoder = with_output(encoder.clone(), output);
        let parity = exported(&encoder, &folder.path().join("model.onnx"));
        eprintln!("ResNet-{} {stem:?} width {width}, {side} px, {output:?}: {parity}", u32::from(depth));
        assert!(parity.is_telling(), "the embeddings of different pictures must differ: {parity}");
        assert_eq!(parity.pictures, 16);
    }
}

#[test]
fn resnet_18_with_the_cifar_stem_at_full_width() {
    agree(Depth::R18, Stem::Cifar, STANDARD_WIDTH, 32);
}

#[test]
fn resnet_18_with_the_imagenet_stem() {
    agree(Depth::R18, Stem::Imagenet, 16, 96);
}

#[test]
fn resnet_50_with_the_imagenet_stem_at_full_width() {
    agree(Depth::R50, Stem::Imagenet, STANDARD_WIDTH, 64);
}

#[test]
fn resnet_50_with_the_cifar_stem() {
    agree(Depth::R50, Stem::Cifar, 8, 32);
}

/// Compares the model of `faulty` with `encoder`, as if the exporter had written it for that one.
fn parity_with_fault(encoder: &Encoder, fault: impl FnOnce(Encoder) -> Encoder) -> Parity {
    let folder = tempfile::tempdir().unwrap();
    let faulty = fault(encoder.clone());
    let rows = |encoder: &Encoder, normalized: bool| {
        let mut manifest = encoder.manifest().clone();
        manifest.normalized = normalized;
        let encoder = encoder.clone().with_manifest(manifest).unwrap();
        let path = folder.path().join("model.onnx");
        write_onnx(&encoder, Output::Features, &path).unwrap();
        // Prepared for the sound encoder: only the model has the fault.
        let pictures = pictures::built_in(&encoder.manifest().preprocessing);
        let side = encoder.manifest().preprocessing.crop as usize;
        let mut session = Runtime::open(None).unwrap().load(&path, &SessionOptions::default()).unwrap();
        let bytes: Vec<u8> = pictures.iter().flat_map(|picture| picture.as_raw().clone()).collect();
        let values = session.embed_u8(&bytes, [pictures.len(), side, side, 3]).unwrap();
        values.chunks_exact(encoder.manifest().dim).map(<[f32]>::to_vec).collect::<Vec<_>>()
    };
    let (raw, embeddings) = (rows(&faulty, false), rows(&faulty, true));
    let evaluator = moco_encoder::PlainEvaluator::new(encoder);
    let pictures = pictures::built_in(&encoder.manifest().preprocessing);
    Parity::of(&raw, &evaluator.output(&pictures), &embeddings, &evaluator.embed(&pictures), true)
}

/// `encoder` with one tensor changed.
fn edited(encoder: &Encoder, name: &str, edit: impl FnOnce(&mut Vec<f32>)) -> Encoder {
    let mut tensors = encoder.tensors().clone();
    edit(&mut tensors.get_mut(name).unwrap().data);
    Encoder::new(encoder.manifest().clone(), tensors).unwrap()
}

#[test]
fn planted_faults_break_parity() {
    for (depth, stem, side) in [(Depth::R18, Stem::Cifar, 32), (Depth::R50, Stem::Imagenet, 64)] {
        let encoder = support::encoder(ResNet::new(depth, stem).with_width(16), Head::None {}, side, 2);
        let sound = parity_with_fault(&encoder, |encoder| encoder);
        assert!(sound.holds(), "{sound}");

        let swapped = parity_with_fault(&encoder, |encoder| {
            let window = encoder.tensors()["conv1.weight"].shape[2].pow(2);
            edited(&encoder, "conv1.weight", |values| {
                for filter in values.chunks_exact_mut(3 * window) {
                    let (red, rest) = filter.split_at_mut(window);
                    red.swap_with_slice(&mut rest[window..]);
                }
            })
        });
        let no_mean = parity_with_fault(&encoder, |encoder| {
            let mut manifest = encoder.manifest().clone();
            manifest.preprocessing.mean = [0.0; 3];
            encoder.with_manifest(manifest).unwrap()
        });
        // The variance and its epsilon are only ever added: more of one is more of the other.
        let epsilon = parity_with_fault(&encoder, |encoder| {
            edited(&encoder, "layer4.1.bn2.running_var", |values| values.iter_mut().for_each(|var| *var += 1e-3 - 1e-5))
        });
        for (fault, parity) in
            [("none", sound), ("channels swapped", swapped), ("mean not subtracted", no_mean), ("one epsilon 1e-3", epsilon)]
        {
            eprintln!("ResNet-{} {stem:?}, fault {fault}: {parity}", u32::from(depth));
            assert_eq!(parity.holds(), fault == "none", "{fault}: {parity}");
        }
    }
}

#[test]
fn a_batch_of_one_and_a_batch_of_seven_give_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    for (depth, stem) in [(Depth::R18, Stem::Cifar), (Depth::R50, Stem::Imagenet)] {
        let encoder = support::encoder(ResNet::new(depth, stem).with_width(16), MLP, 32, 3);
        for output in [Output::Features, Output::Projection] {
            write_onnx(&encoder, output, &path).unwrap();
            let mut session = Runtime::open(None).unwrap().load(&path, &SessionOptions::default()).unwrap();
            let bytes: Vec<u8> =
                pictures::built_in(&encoder.manifest().preprocessing)[..7].iter().flat_map(|p| p.as_raw().clone()).collect();
            let together = session.embed_u8(&bytes, [7, 32, 32, 3]).unwrap();
            let alone: Vec<f32> =
                bytes.chunks_exact(32 * 32 * 3).flat_map(|picture| session.embed_u8(picture, [1, 32, 32, 3]).unwrap()).collect();
            assert_eq!(together.len(), alone.len());
            let largest = together.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            eprintln!("ResNet-{} {stem:?} {output:?}: batch 7 and 1 differ by at most {largest:e}", u32::from(depth));
            assert!(largest <= 1e-6, "{largest:e}");
        }
    }
}

#[test]
fn a_model_that_computes_something_else_is_not_put_in_place() {
    // The check itself sees the fault: the model on disk is that of other weights under the same manifest.
    let folder = tempfile::tempdir().unwrap();
    let encoder = support::encoder(ResNet::new(Depth::R18, Stem::Cifar).with_width(8), Head::None {}, 32, 4);
    let other = support::encoder(ResNet::new(Depth::R18, Stem::Cifar).with_width(8), Head::None {}, 32, 5);
    let path = folder.path().join("model.onnx");
    write_onnx(&other, Output::Features, &path).unwrap();
    let runtime = Runtime::open(None).unwrap();
    let pictures = pictures::built_in(&encoder.manifest().preprocessing);
    let parity = check_parity(runtime, &encoder, &path, &path, &pictures).unwrap();
    assert!(!parity.holds() && parity.min_cosine < MIN_COSINE, "{parity}");

    let mut manifest = encoder.manifest().clone();
    manifest.provenance.recipe = "another".into();
    let renamed = encoder.with_manifest(manifest).unwrap();
    assert!(matches!(check_parity(runtime, &renamed, &path, &path, &pictures), Err(Error::OtherManifest)));
}

#[test]
fn an_encoder_that_answers_nothing_gives_zeros_and_not_nan() {
    let encoder = support::encoder(ResNet::new(Depth::R18, Stem::Cifar).with_width(4), Head::None {}, 32, 6);
    // The last batch norms shift everything below zero, and the ReLU after them leaves nothing.
    let dead = edited(&encoder, "layer4.1.bn2.bias", |values| values.fill(-1e6));
    let folder = tempfile::tempdir().unwrap();
    let parity = exported(&dead, &folder.path().join("model.onnx"));
    assert!(parity.holds() && !parity.is_telling(), "{parity}");
    assert!(parity.between.unwrap() > TELLING_COSINE);
}
