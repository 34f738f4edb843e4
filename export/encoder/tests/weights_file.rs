//! `encoder.safetensors` comes back as it was written, and every way in which it can be wrong has its own sentence.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use moco_encoder::{
    Architecture, Depth, Encoder, Head, Manifest, Provenance, ResNet, Stem, Tensor,
    image::Preprocessing,
    manifest::METADATA_KEY,
    weights::{Error, WeightsError},
};
use safetensors::{Dtype, tensor::TensorView};
use tempfile::TempDir;

fn manifest() -> Manifest {
    let architecture = Architecture { backbone: ResNet::new(Depth::R18, Stem::Cifar).with_width(4), head: Head::Linear { dim: 8 } };
    Manifest::new(architecture, Preprocessing::imagenet(), Provenance { recipe: "cifar".into(), images: 3, ..Provenance::default() })
}

fn tensors() -> BTreeMap<String, Tensor> {
    let parameters = manifest().architecture().parameters();
    parameters
        .into_iter()
        .map(|p| {
            let data = (0..p.len()).map(|i| i as f32 * 0.5 - 1.0).collect();
            (p.name, Tensor { shape: p.shape, data })
        })
        .collect()
}

/// Writes tensors under a header of the test's choice, past every check of the writer.
fn write_raw(path: &Path, metadata: Option<HashMap<String, String>>, tensors: &BTreeMap<String, Tensor>, dtype: Dtype) {
    let bytes: Vec<(&String, &Tensor, Vec<u8>)> = tensors
        .iter()
        .map(|(name, t)| {
            let data = match dtype {
                Dtype::F32 => t.data.iter().flat_map(|x| x.to_le_bytes()).collect(),
                Dtype::F64 => t.data.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect(),
                other => panic!("the tests write no {other:?}"),
            };
            (name, t, data)
        })
        .collect();
    let views = bytes.iter().map(|(name, t, data)| (name.as_str(), TensorView::new(dtype, t.shape.clone(), data).unwrap()));
    fs::write(path, safetensors::serialize(views, metadata).unwrap()).unwrap();
}

fn header(json: String) -> Option<HashMap<String, String>> {
    Some(HashMap::from([(METADATA_KEY.to_owned(), json)]))
}

struct Room {
    folder: TempDir,
}

impl Room {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("encoder.safetensors")
    }

    /// The error of reading a file whose tensors were edited, with its sentence checked to name the file.
    fn refusal(&self, edit: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> WeightsError {
        let mut edited = tensors();
        edit(&mut edited);
        write_raw(&self.path(), header(manifest().to_json()), &edited, Dtype::F32);
        let error = Encoder::read(&self.path()).unwrap_err();
        assert!(error.to_string().contains("encoder.safetensors"), "{error}");
        match error {
            Error::Weights { source, .. } => source,
            other => panic!("{other}"),
        }
    }
}

#[test]
fn an_encoder_comes_back_as_it_was_written() {
    let room = Room::new();
    let encoder = Encoder::new(manifest(), tensors()).unwrap();
    encoder.write(&room.path()).unwrap();
    assert_eq!(Encoder::read(&room.path()).unwrap(), encoder);
    assert_eq!(fs::read_dir(room.folder.path()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn the_same_encoder_is_written_as_the_same_bytes() {
    let room = Room::new();
    let encoder = Encoder::new(manifest(), tensors()).unwrap();
    encoder.write(&room.path()).unwrap();
    let first = fs::read(room.path()).unwrap();
    encoder.write(&room.path()).unwrap();
    assert_eq!(first, fs::read(room.path()).unwrap());
}

#[test]
fn a_write_that_fails_names_the_file_and_leaves_the_old_one() {
    let room = Room::new();
    let encoder = Encoder::new(manifest(), tensors()).unwrap();
    let missing = room.folder.path().join("no/such/folder/encoder.safetensors");
    assert!(encoder.write(&missing).unwrap_err().to_string().contains("no/such/folder"));
    // A folder cannot be replaced by a file: the rename fails after the bytes were written.
    fs::create_dir(room.path()).unwrap();
    assert!(matches!(encoder.write(&room.path()), Err(Error::Write { .. })));
    assert_eq!(fs::read_dir(room.folder.path()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn a_missing_file_is_named() {
    let error = Encoder::read(Path::new("/nowhere/encoder.safetensors")).unwrap_err();
    assert!(matches!(error, Error::Read { .. }) && error.to_string().contains("/nowhere/encoder.safetensors"));
}

#[test]
fn what_is_not_safetensors_is_refused() {
    let room = Room::new();
    for bytes in [&b""[..], b"\x80\x02}q\x00.", b"\x89PNG\r\n\x1a\n and so on", &[0xff; 64]] {
        fs::write(room.path(), bytes).unwrap();
        assert!(matches!(Encoder::read(&room.path()), Err(Error::NotSafetensors { .. })), "{bytes:?}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let room = Room::new();
    Encoder::new(manifest(), tensors()).unwrap().write(&room.path()).unwrap();
    let whole = fs::read(room.path()).unwrap();
    for length in [1, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(room.path(), &whole[..length]).unwrap();
        assert!(matches!(Encoder::read(&room.path()), Err(Error::NotSafetensors { .. })), "{length} bytes");
    }
}

#[test]
fn a_file_without_our_manifest_is_refused() {
    let room = Room::new();
    for metadata in [None, Some(HashMap::from([("format".to_owned(), "pt".to_owned())]))] {
        write_raw(&room.path(), metadata, &tensors(), Dtype::F32);
        assert!(matches!(Encoder::read(&room.path()), Err(Error::NoManifest { .. })));
    }
}

#[test]
fn a_manifest_that_is_newer_or_has_an_unknown_field_is_refused_by_the_reader() {
    let room = Room::new();
    for (edit, word) in [(r#""format":2,"#, "newer"), (r#""format":1,"tower":"text","#, "tower")] {
        write_raw(&room.path(), header(manifest().to_json().replacen(r#""format":1,"#, edit, 1)), &tensors(), Dtype::F32);
        let error = Encoder::read(&room.path()).unwrap_err();
        let Error::Manifest { source, .. } = &error else { panic!("{error}") };
        assert!(source.to_string().contains(word), "{source}");
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let error = Room::new().refusal(|t| drop(t.remove("layer3.0.downsample.1.running_var")));
    assert!(matches!(error, WeightsError::Missing { name } if name == "layer3.0.downsample.1.running_var"));
}

#[test]
fn an_extra_tensor_is_named() {
    let error = Room::new().refusal(|t| drop(t.insert("fc.weight".into(), Tensor { shape: vec![1], data: vec![0.0] })));
    assert!(matches!(error, WeightsError::Extra { name } if name == "fc.weight"));
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let error = Room::new().refusal(|t| drop(t.insert("head.0.weight".into(), Tensor { shape: vec![32, 8], data: vec![0.0; 256] })));
    assert!(
        matches!(error, WeightsError::Shape { name, expected, actual } if name == "head.0.weight" && expected == [8, 32] && actual == [32, 8])
    );
}

#[test]
fn values_that_do_not_fill_their_shape_are_refused_with_both_numbers() {
    let mut short = tensors();
    short.get_mut("bn1.weight").unwrap().data.pop();
    let error = Encoder::new(manifest(), short).unwrap_err();
    assert!(matches!(error, WeightsError::Length { name, expected: 4, actual: 3 } if name == "bn1.weight"));
}

#[test]
fn a_value_that_is_not_finite_is_named_with_its_place() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = Room::new().refusal(|t| t.get_mut("bn1.bias").unwrap().data[2] = value);
        assert!(matches!(error, WeightsError::NotFinite { name, position: 2 } if name == "bn1.bias"));
    }
}

#[test]
fn double_precision_is_refused() {
    let room = Room::new();
    write_raw(&room.path(), header(manifest().to_json()), &tensors(), Dtype::F64);
    assert!(matches!(Encoder::read(&room.path()), Err(Error::Weights { source: WeightsError::Type { .. }, .. })));
}
