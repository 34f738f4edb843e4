//! ONNX Runtime that is missing, is something else, or is too old: one sentence each.
//!
//! No test here opens the real one: a process has one ONNX Runtime, and these are about getting none.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use moco_runtime::{Error, Runtime};

/// Compiles `source` to a shared library with the linker driver that rustc needs anyway.
fn shared_library(folder: &Path, name: &str, source: &str) -> PathBuf {
    let c = folder.join(format!("{name}.c"));
    let library = folder.join(format!("{name}.so"));
    fs::write(&c, source).unwrap();
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&c).status().expect("cc is installed");
    assert!(status.success());
    library
}

fn refusal(path: &Path) -> Error {
    Runtime::open(Some(path)).unwrap_err()
}

#[test]
fn a_missing_file_is_named_with_who_asked_for_it() {
    let error = refusal(Path::new("/nowhere/libonnxruntime.so"));
    assert_eq!(error.to_string(), "there is no ONNX Runtime at /nowhere/libonnxruntime.so, which --onnxruntime names");
}

#[test]
fn a_file_that_is_no_library_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libonnxruntime.so");
    fs::write(&path, "not a library").unwrap();
    let error = refusal(&path);
    assert!(matches!(error, Error::NotALibrary { .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("{} cannot be opened as a shared library", path.display())), "{error}");
}

#[test]
fn another_library_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = shared_library(folder.path(), "other", "int answer(void) { return 42; }");
    assert_eq!(refusal(&path).to_string(), format!("{} is a shared library, but not ONNX Runtime", path.display()));
}

#[test]
fn an_old_version_is_refused_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let source = r#"
        typedef struct { const void *(*get_api)(unsigned); const char *(*get_version)(void); } Base;
        static const void *get_api(unsigned version) { return 0; }
        static const char *get_version(void) { return "1.20.0"; }
        static const Base base = { get_api, get_version };
        const Base *OrtGetApiBase(void) { return &base; }
    "#;
    let path = shared_library(folder.path(), "old", source);
    assert_eq!(refusal(&path).to_string(), format!("ONNX Runtime at {} is version 1.20.0; 1.24 or newer is needed", path.display()));
}
