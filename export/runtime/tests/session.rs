//! The real ONNX Runtime: opened once, and asked to load what is no model.

use std::{fs, path::Path};

use moco_runtime::{Error, Runtime, SessionOptions};

#[test]
fn after_a_refusal_the_right_library_opens_once_and_for_all() {
    assert!(matches!(Runtime::open(Some(Path::new("/nowhere/libonnxruntime.so"))), Err(Error::Missing { .. } | Error::AlreadyOpen { .. })));
    let runtime = Runtime::open(None).unwrap();
    assert!(std::ptr::eq(runtime, Runtime::open(None).unwrap()));
    assert!(std::ptr::eq(runtime, Runtime::open(Some(runtime.path())).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("libonnxruntime.so");
    std::os::unix::fs::symlink(runtime.path(), &link).unwrap();
    assert!(std::ptr::eq(runtime, Runtime::open(Some(&link)).unwrap()), "the same file by another name");
    assert!(matches!(Runtime::open(Some(Path::new("/elsewhere/libonnxruntime.so"))), Err(Error::AlreadyOpen { .. })));
}

#[test]
fn a_file_that_is_no_model_is_refused_by_its_kind() {
    let runtime = Runtime::open(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let load = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        runtime.load(&path, &SessionOptions::default()).unwrap_err()
    };
    let header = br#"{"__metadata__":{"moco.encoder":"{}"}}"#;
    let safetensors = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    assert!(matches!(load("encoder.safetensors", &safetensors), Error::Safetensors { .. }));
    let text = load("text.onnx", b"this is a letter to a friend");
    assert!(matches!(text, Error::NotOnnx { .. }), "{text:?}");
    let empty = load("empty.onnx", b"");
    assert!(empty.to_string().contains("empty.onnx"), "{empty}");
    let missing = runtime.load(&folder.path().join("missing.onnx"), &SessionOptions::default()).unwrap_err();
    assert!(matches!(missing, Error::Read { .. }), "{missing}");
    let a_folder = runtime.load(folder.path(), &SessionOptions::default()).unwrap_err();
    assert!(a_folder.to_string().contains(&folder.path().display().to_string()), "{a_folder}");
}
