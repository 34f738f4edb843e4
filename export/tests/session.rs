//! What a session of ONNX Runtime says of a model of ours, and which batches it refuses.

mod support;

use std::path::Path;

use moco_encoder::{Depth, Head, Manifest, Output, ResNet, Stem, manifest::METADATA_KEY};
use moco_export::write_onnx;
use moco_runtime::{Device, Element, Error, Runtime, Session, SessionOptions, TensorInfo};

fn runtime() -> &'static Runtime {
    Runtime::open(None).unwrap()
}

fn session(folder: &Path) -> (Session, Manifest) {
    let encoder = support::encoder(ResNet::new(Depth::R18, Stem::Cifar).with_width(4), Head::None {}, 24, 9);
    let path = folder.join("model.onnx");
    write_onnx(&encoder, Output::Features, &path).unwrap();
    (runtime().load(&path, &SessionOptions::default()).unwrap(), encoder.manifest().clone())
}

#[test]
fn a_model_states_its_input_its_output_and_its_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let (session, manifest) = session(folder.path());
    let input = TensorInfo { name: "images".into(), element: Element::U8, shape: vec![None, Some(24), Some(24), Some(3)] };
    let output = TensorInfo { name: "embeddings".into(), element: Element::F32, shape: vec![None, Some(32)] };
    assert_eq!((session.inputs(), session.outputs()), (&[input][..], &[output][..]));
    let json = session.metadata(METADATA_KEY).unwrap().unwrap();
    assert_eq!(Manifest::from_json(&json).unwrap(), manifest);
    assert_eq!(session.metadata("another.key").unwrap(), None);
    assert_eq!(session.opset(), Some(17));
}

#[test]
fn a_batch_of_another_size_or_type_is_refused_before_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, _) = session(folder.path());
    let one = [24, 24, 3].iter().product();
    let short = session.embed_u8(&vec![0; one - 1], [1, 24, 24, 3]).unwrap_err();
    assert!(matches!(short, Error::Length { .. }), "{short}");
    let larger = session.embed_u8(&vec![0; 25 * 25 * 3], [1, 25, 25, 3]).unwrap_err();
    assert_eq!(larger.to_string(), "the model takes images uint8 [N, 24, 24, 3], not one input uint8 [1, 25, 25, 3]");
    let floats = session.embed_f32(&vec![0.0; one], [1, 24, 24, 3]).unwrap_err();
    assert!(matches!(floats, Error::Input { .. }), "{floats}");
    let overflowing = session.embed_u8(&[], [usize::MAX, 24, 24, 3]).unwrap_err();
    assert!(matches!(overflowing, Error::Length { .. }), "{overflowing}");
    assert_eq!(session.embed_u8(&[], [0, 24, 24, 3]).unwrap(), [0.0; 0]);
    assert_eq!(session.embed_u8(&vec![0; 2 * one], [2, 24, 24, 3]).unwrap().len(), 64, "the session is still good");
}

#[test]
fn a_foreign_model_takes_prepared_floats() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/foreign.onnx");
    let mut session = runtime().load(&model, &SessionOptions::default()).unwrap();
    let picture: Vec<f32> = (0..3).flat_map(|channel| [channel as f32 + 0.5; 16]).collect();
    assert_eq!(session.embed_f32(&picture, [1, 3, 4, 4]).unwrap(), [0.5, 1.5, 2.5]);
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_and_not_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    drop(session(folder.path()));
    let options = SessionOptions { device: Device::Cuda(63), ..SessionOptions::default() };
    let error = runtime().load(&folder.path().join("model.onnx"), &options).unwrap_err();
    assert!(matches!(error, Error::Device { device: Device::Cuda(63), .. }), "{error}");
    assert!(error.to_string().starts_with("CUDA device 63 was asked for and does not run "), "{error}");
}

#[test]
fn sessions_move_to_the_threads_that_own_them() {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, _) = session(folder.path());
    let mut second = runtime().load(&folder.path().join("model.onnx"), &SessionOptions::default()).unwrap();
    let picture: Vec<u8> = (0..24 * 24 * 3).map(|value| (value % 251) as u8).collect();
    let here = first.embed_u8(&picture, [1, 24, 24, 3]).unwrap();
    let there = std::thread::spawn(move || second.embed_u8(&picture, [1, 24, 24, 3]).unwrap()).join().unwrap();
    assert_eq!(here, there);
}
