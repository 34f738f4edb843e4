//! The program as it is started: what it prints, what it leaves behind, and its exit status.

mod support;

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use moco_encoder::{Depth, Encoder, Head, ResNet, Stem};
use moco_export::{fingerprint, pictures, write_onnx};
use tempfile::TempDir;

/// A folder with a small encoder in it, `encoder.safetensors`.
fn folder_with_encoder(head: Head) -> (TempDir, Encoder) {
    let folder = tempfile::tempdir().unwrap();
    let encoder = support::encoder(ResNet::new(Depth::R18, Stem::Cifar).with_width(4), head, 24, 7);
    encoder.write(&folder.path().join("encoder.safetensors")).unwrap();
    (folder, encoder)
}

const MLP: Head = Head::Mlp { hidden: 8, dim: 6 };

fn start(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moco-export")).current_dir(folder).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Starts the program, expects `status`, and returns its one line of error.
fn refusal(folder: &Path, arguments: &[&str], status: i32) -> String {
    let output = start(folder, arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(!error.contains("panicked"), "{error}");
    error.trim_end().to_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn onnx_writes_a_checked_model_and_prints_the_figures() {
    let (folder, _) = folder_with_encoder(MLP);
    let output = start(folder.path(), &["onnx", "encoder.safetensors", "-o", "model.onnx"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(printed.starts_with("ONNX Runtime against the plain evaluator: 16 pictures, relative L2 error "), "{printed}");
    assert!(printed.contains("mean cosine between different pictures") && printed.contains("wrote model.onnx, 32 values"), "{printed}");
    assert_eq!(names(folder.path()), ["encoder.safetensors", "model.onnx"]);

    let output = start(folder.path(), &["onnx", "encoder.safetensors", "-o", "projection.onnx", "--output", "projection"]);
    assert!(text(&output.stdout).contains("wrote projection.onnx, 6 values"), "{}", text(&output.stdout));
}

#[test]
fn the_same_encoder_gives_the_same_bytes() {
    let (folder, encoder) = folder_with_encoder(MLP);
    let [a, b] = ["a.onnx", "b.onnx"].map(|name| folder.path().join(name));
    for path in [&a, &b] {
        write_onnx(&encoder, moco_encoder::Output::Features, path).unwrap();
    }
    assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap());
}

#[test]
fn pictures_of_a_folder_are_used_and_what_is_none_is_counted() {
    let (folder, encoder) = folder_with_encoder(Head::None {});
    let images = folder.path().join("images/deeper");
    fs::create_dir_all(&images).unwrap();
    for (index, picture) in pictures::built_in(&encoder.manifest().preprocessing)[..3].iter().enumerate() {
        picture.save(images.join(format!("{index}.png"))).unwrap();
    }
    fs::write(images.join("notes.txt"), "no picture").unwrap();
    std::os::unix::fs::symlink(folder.path().join("images"), images.join("loop")).unwrap();
    let output = start(folder.path(), &["onnx", "encoder.safetensors", "-o", "model.onnx", "--images", "images"]);
    assert!(text(&output.stdout).contains(": 3 pictures, "), "{} {}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stderr).starts_with("1 files of images are no pictures"), "{}", text(&output.stderr));

    fs::create_dir(folder.path().join("empty")).unwrap();
    let error = refusal(folder.path(), &["onnx", "encoder.safetensors", "-o", "other.onnx", "--images", "empty"], 1);
    assert_eq!(error, "error: empty holds no picture that can be read");
    let error = refusal(folder.path(), &["onnx", "encoder.safetensors", "-o", "other.onnx", "--images", "nowhere"], 1);
    assert!(error.starts_with("error: cannot read nowhere"), "{error}");
    assert!(!folder.path().join("other.onnx").exists());
}

#[test]
fn names_need_not_be_utf_8() {
    let (folder, encoder) = folder_with_encoder(Head::None {});
    let named = |bytes: &[u8]| folder.path().join(OsStr::from_bytes(bytes));
    let (source, model, images) = (named(b"r\xe9seau.safetensors"), named(b"mod\xe8le.onnx"), named(b"\xff"));
    fs::rename(folder.path().join("encoder.safetensors"), &source).unwrap();
    fs::create_dir(&images).unwrap();
    pictures::built_in(&encoder.manifest().preprocessing)[0].save(images.join("0.png")).unwrap();
    fs::rename(images.join("0.png"), images.join(OsStr::from_bytes(b"caf\xe9.png"))).unwrap();
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let program = || Command::new(env!("CARGO_BIN_EXE_moco-export"));
    let said = run(program().arg("onnx").arg(&source).arg("-o").arg(&model).arg("--images").arg(&images));
    assert!(said.contains(": 1 pictures, ") && said.contains("wrote "), "{said}");
    for (file, kind) in [(&source, "encoder"), (&model, "model")] {
        let about: serde_json::Value = serde_json::from_str(&run(program().arg("inspect").arg(file).arg("--json"))).unwrap();
        assert_eq!((about["kind"].as_str().unwrap(), about["fingerprint"].clone()), (kind, fingerprint(file).unwrap().into()));
    }
}

#[test]
fn inspect_describes_both_kinds_and_gives_the_fingerprint_of_the_file() {
    let (folder, _) = folder_with_encoder(MLP);
    assert!(start(folder.path(), &["onnx", "encoder.safetensors", "-o", "model.onnx"]).status.success());
    for (file, kind) in [("encoder.safetensors", "encoder"), ("model.onnx", "model")] {
        let output = start(folder.path(), &["inspect", file, "--json"]);
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["kind"], kind);
        assert_eq!(value["fingerprint"], fingerprint(&folder.path().join(file)).unwrap());
        assert_eq!(value["manifest"]["backbone"]["depth"], 18);
        let plain = text(&start(folder.path(), &["inspect", file]).stdout);
        assert!(plain.contains("fingerprint:") && plain.contains("features, 32 values, unit length"), "{plain}");
        match kind {
            "encoder" => assert_eq!(value["tensors"][0], serde_json::json!({"name": "conv1.weight", "shape": [4, 3, 3, 3]})),
            _ => {
                assert_eq!(value["opset"], 17);
                assert_eq!(value["producer"], "moco-export");
                assert_eq!(value["inputs"], serde_json::json!([{"name": "images", "type": "uint8", "shape": [null, 24, 24, 3]}]));
                assert_eq!(value["outputs"], serde_json::json!([{"name": "embeddings", "type": "float32", "shape": [null, 32]}]));
            }
        }
    }
}

#[test]
fn a_foreign_model_is_described_without_a_manifest() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/foreign.onnx");
    let output = start(Path::new("."), &["inspect", model.to_str().unwrap()]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(printed.contains("manifest:      none (moco.encoder)"), "{printed}");
    assert!(printed.contains("input:         pixel_values float32 [N, 3, 4, 4]"), "{printed}");
    assert!(printed.contains("output:        pooled float32 [N, 3]"), "{printed}");
}

#[test]
fn the_wrong_kind_of_file_is_named() {
    let (folder, encoder) = folder_with_encoder(Head::None {});
    write_onnx(&encoder, moco_encoder::Output::Features, &folder.path().join("model.onnx")).unwrap();
    fs::write(folder.path().join("picture.jpg"), include_bytes!("../src/pictures/BloodImage_00065.jpg")).unwrap();
    fs::write(folder.path().join("empty"), "").unwrap();

    let error = refusal(folder.path(), &["onnx", "model.onnx", "-o", "other.onnx"], 2);
    assert_eq!(error, "error: model.onnx looks like an ONNX model; this command takes an encoder.safetensors");
    for file in ["picture.jpg", "empty"] {
        let error = refusal(folder.path(), &["inspect", file], 2);
        assert_eq!(error, format!("error: {file} is neither an encoder.safetensors nor an ONNX model"));
        let error = refusal(folder.path(), &["onnx", file, "-o", "other.onnx"], 1);
        assert!(error.starts_with(&format!("error: {file} is not a safetensors file, or is cut short")), "{error}");
    }
    assert!(refusal(folder.path(), &["onnx", "nowhere.safetensors", "-o", "other.onnx"], 1).contains("nowhere.safetensors"));
    assert!(refusal(folder.path(), &["inspect", "."], 1).starts_with("error: cannot read ."), "a folder");
    assert!(!folder.path().join("other.onnx").exists());
}

#[test]
fn a_file_cut_short_is_refused_wherever_the_cut_is() {
    let (folder, encoder) = folder_with_encoder(Head::None {});
    let model = folder.path().join("model.onnx");
    write_onnx(&encoder, moco_encoder::Output::Features, &model).unwrap();
    let cut = |file: &str, keep: usize| -> PathBuf {
        let bytes = fs::read(folder.path().join(file)).unwrap();
        let path = folder.path().join(format!("cut-{keep}-{file}"));
        fs::write(&path, &bytes[..keep]).unwrap();
        path
    };
    for file in ["model.onnx", "encoder.safetensors"] {
        let length = fs::metadata(folder.path().join(file)).unwrap().len() as usize;
        for keep in [20, 1000, length / 2, length - 1] {
            let path = cut(file, keep);
            let error = refusal(folder.path(), &["inspect", path.to_str().unwrap()], 1);
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }
    let path = cut("encoder.safetensors", 1000);
    let error = refusal(folder.path(), &["onnx", path.to_str().unwrap(), "-o", "other.onnx"], 1);
    assert!(error.contains("is not a safetensors file, or is cut short"), "{error}");
    assert!(!folder.path().join("other.onnx").exists());
}

#[test]
fn a_projection_without_a_head_is_wrong_usage() {
    let (folder, _) = folder_with_encoder(Head::None {});
    let error = refusal(folder.path(), &["onnx", "encoder.safetensors", "-o", "model.onnx", "--output", "projection"], 2);
    assert_eq!(error, "error: encoder.safetensors: the encoder has no projection head; its output can only be features");
    assert_eq!(start(folder.path(), &["onnx", "encoder.safetensors"]).status.code(), Some(2), "no -o");
    assert_eq!(start(folder.path(), &["paint"]).status.code(), Some(2));
}

#[test]
fn without_onnx_runtime_nothing_is_written() {
    let (folder, _) = folder_with_encoder(Head::None {});
    let export = ["onnx", "encoder.safetensors", "-o", "model.onnx", "--onnxruntime", "/nowhere/libonnxruntime.so"];
    let error = refusal(folder.path(), &export, 2);
    assert_eq!(error, "error: there is no ONNX Runtime at /nowhere/libonnxruntime.so, which --onnxruntime names");
    fs::write(folder.path().join("lib.so"), "no library").unwrap();
    let export = ["onnx", "encoder.safetensors", "-o", "model.onnx", "--onnxruntime", "lib.so"];
    let error = refusal(folder.path(), &export, 2);
    assert!(error.contains("lib.so cannot be opened as a shared library"), "{error}");
    assert_eq!(names(folder.path()), ["encoder.safetensors", "lib.so"]);
    // An encoder is described without it.
    let described = start(folder.path(), &["inspect", "encoder.safetensors", "--onnxruntime", "/nowhere/libonnxruntime.so"]);
    assert!(described.status.success());
}

#[test]
fn an_existing_model_survives_an_export_that_fails() {
    let (folder, _) = folder_with_encoder(Head::None {});
    fs::write(folder.path().join("model.onnx"), "the old one").unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    refusal(folder.path(), &["onnx", "encoder.safetensors", "-o", "model.onnx", "--images", "empty"], 1);
    assert_eq!(fs::read(folder.path().join("model.onnx")).unwrap(), b"the old one");
    let error = refusal(folder.path(), &["onnx", "encoder.safetensors", "-o", "nowhere/model.onnx"], 1);
    assert!(error.contains("cannot write nowhere/model.onnx"), "{error}");
    let error = refusal(folder.path(), &["onnx", "encoder.safetensors", "-o", "empty"], 1);
    assert!(error.contains("cannot write empty"), "{error}");
    assert_eq!(names(folder.path()), ["empty", "encoder.safetensors", "model.onnx"]);
}

#[test]
fn a_model_that_fails_the_check_is_not_left_at_the_target() {
    let (folder, encoder) = folder_with_encoder(Head::None {});
    // Finite weights whose outputs overflow: nothing that is not a number may count as agreement.
    let mut tensors = encoder.tensors().clone();
    tensors.get_mut("layer4.1.bn2.weight").unwrap().data.fill(f32::MAX);
    let encoder = Encoder::new(encoder.manifest().clone(), tensors).unwrap();
    encoder.write(&folder.path().join("encoder.safetensors")).unwrap();
    let error = refusal(folder.path(), &["onnx", "encoder.safetensors", "-o", "model.onnx"], 1);
    assert!(error.contains("ONNX Runtime and the plain evaluator disagree, so no model was written: 16 pictures"), "{error}");
    assert_eq!(names(folder.path()), ["encoder.safetensors"]);
}
