//! The ONNX project's own checker accepts what we write.

use std::{collections::BTreeMap, fs, path::Path};

use moco_encoder::{Architecture, Depth, Encoder, Head, Manifest, Output, Provenance, ResNet, Stem, Tensor, image::Preprocessing};
use moco_export::write_onnx;
use moco_tests::clients;

/// An encoder whose weights are all one: the checker looks at the graph, not at what it computes.
fn encoder(depth: Depth, stem: Stem, dilate: [bool; 3]) -> Encoder {
    let backbone = ResNet { dilate, ..ResNet::new(depth, stem).with_width(4) };
    let architecture = Architecture { backbone, head: Head::Mlp { hidden: 8, dim: 4 } };
    let ones = |shape: &[usize]| Tensor { shape: shape.to_vec(), data: vec![1.0; shape.iter().product()] };
    let tensors: BTreeMap<String, Tensor> = architecture.parameters().into_iter().map(|p| (p.name, ones(&p.shape))).collect();
    Encoder::new(Manifest::new(architecture, Preprocessing::imagenet(), Provenance::default()), tensors).unwrap()
}

#[test]
fn the_checker_accepts_every_kind_of_model() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = clients::python("check_onnx.py");
    let mut models = 0;
    for depth in [Depth::R18, Depth::R34, Depth::R50] {
        for (stem, dilate) in [(Stem::Cifar, [false; 3]), (Stem::Imagenet, [false; 3]), (Stem::Imagenet, [false, true, true])] {
            for output in [Output::Features, Output::Projection] {
                let path = folder.path().join(format!("{models}.onnx"));
                write_onnx(&encoder(depth, stem, dilate), output, &path).unwrap();
                command.arg(path);
                models += 1;
            }
        }
    }
    let printed = clients::succeed(&mut command);
    eprint!("{printed}");
    assert_eq!(printed.matches("checked: opset 17, file format 8").count(), models);
}

/// Replaces the one place where `from` stands in the file; both have one length, so that the rest stays sound.
fn patch(path: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(path).unwrap();
    let places: Vec<usize> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    let [place] = places[..] else { panic!("{} places", places.len()) };
    bytes[place..place + to.len()].copy_from_slice(to);
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_checker_refuses_an_operator_that_does_not_exist() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    write_onnx(&encoder(Depth::R18, Stem::Cifar, [false; 3]), Output::Features, &path).unwrap();
    patch(&path, b"GlobalAveragePool", b"GlobalAveragePoll");
    let output = clients::python("check_onnx.py").arg(&path).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("GlobalAveragePoll"));
}
