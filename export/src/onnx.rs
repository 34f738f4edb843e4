//! The ONNX model of an encoder: pixels in, embeddings out, nothing to prepare in between and nothing to forget.
//!
//! Input `images`, uint8 N×side×side×3; output `embeddings`, f32 N×dim; N is free. The first nodes bring the pixels to
//! N×3×side×side and normalise them, the last one scales to unit length. The manifest travels in the model's metadata.
//!
//! Operator set 17 and file format 8 (ONNX 1.12): everything the graph needs is in them, and readers from 2022 on have
//! them. The same encoder gives the same bytes.

use std::path::Path;

use moco_encoder::{Encoder, Manifest, Output, Parameter, manifest::METADATA_KEY};
use onnx_protobuf::{
    ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorShapeProto, TypeProto, ValueInfoProto,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};
use protobuf::{CodedOutputStream, Message as _};

use crate::{
    error::Error,
    graph::{Graph, int, ints},
    replace::Replacement,
};

/// Version of the standard operator set that models are written in.
pub const OPSET: i64 = 17;

/// Version of the file format that goes with [`OPSET`].
pub const IR_VERSION: i64 = 8;

/// Name of the model's input.
pub const INPUT: &str = "images";

/// Name of the model's output.
pub const OUTPUT: &str = "embeddings";

/// Norms below this are taken as this, as the plain evaluator does: the zero vector stays zero.
const SMALLEST_NORM: f32 = 1e-12;

/// Longest message that protobuf's readers accept.
const MAX_BYTES: u64 = i32::MAX as u64;

/// What the file holds beside the weights: nodes, names, manifest. A graph of ours needs a hundredth of it.
const ROOM_FOR_THE_GRAPH: u64 = 4 << 20;

/// Whether the graph ends by scaling to unit length. `Left` is for comparing outputs before that hides their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    AsTheManifestSays,
    Left,
}

/// Writes `encoder` with `output` as its embedding to `path`, whole or not at all.
///
/// # Errors
/// [`Error::Manifest`] for a projection without a head, [`Error::TooLarge`], [`Error::Write`].
pub fn write_onnx(encoder: &Encoder, output: Output, path: &Path) -> Result<(), Error> {
    let manifest = encoder.manifest().clone().with_output(output)?;
    let mut file = Replacement::beside(path)?;
    write(encoder, &manifest, Length::AsTheManifestSays, &mut file)?;
    file.put_in_place()
}

/// Writes the model into a file that is not in place yet.
pub(crate) fn write(encoder: &Encoder, manifest: &Manifest, length: Length, file: &mut Replacement) -> Result<(), Error> {
    let weights: u64 = manifest.architecture().parameters().iter().map(|parameter| 4 * parameter.len() as u64).sum();
    refuse_above_limit(file.target(), weights + ROOM_FOR_THE_GRAPH)?;
    let model = model(encoder, manifest, length);
    file.write(|out| {
        let mut stream = CodedOutputStream::new(out);
        model.write_to(&mut stream)?;
        stream.flush()
    })
}

fn refuse_above_limit(path: &Path, bytes: u64) -> Result<(), Error> {
    if bytes > MAX_BYTES { Err(Error::TooLarge { path: path.into(), bytes }) } else { Ok(()) }
}

fn model(encoder: &Encoder, manifest: &Manifest, length: Length) -> ModelProto {
    let side = manifest.preprocessing.crop as i64;
    let mut net = Graph::new(encoder);
    let image = normalized_image(&mut net, manifest);
    let architecture = manifest.architecture();
    let features = architecture.features(&mut net, &image);
    let vector = match manifest.output {
        Output::Features => features,
        Output::Projection => {
            architecture.project(&mut net, &features).expect("a manifest only names the projection of an encoder with a head")
        }
    };
    if manifest.normalized && length == Length::AsTheManifestSays {
        let norm = net.node("norm", "ReduceL2", &[&vector], vec![ints("axes", &[1]), int("keepdims", 1)]);
        let smallest = net.constant("smallest_norm", &[], &[SMALLEST_NORM]);
        let norm = net.node("norm.positive", "Max", &[&norm, &smallest], vec![]);
        net.node(OUTPUT, "Div", &[&vector, &norm], vec![]);
    } else {
        net.node(OUTPUT, "Identity", &[&vector], vec![]);
    }

    let mut graph = net.finish();
    graph.name = "encoder".into();
    graph.input = vec![value(INPUT, DataType::UINT8, &[side, side, 3])];
    graph.output = vec![value(OUTPUT, DataType::FLOAT, &[manifest.dim as i64])];
    ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto { version: OPSET, ..Default::default() }],
        producer_name: env!("CARGO_PKG_NAME").into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph).into(),
        metadata_props: vec![StringStringEntryProto { key: METADATA_KEY.into(), value: manifest.to_json(), ..Default::default() }],
        ..Default::default()
    }
}

/// u8 N×H×W×3 → f32 N×3×H×W, `(x − 255 mean) / (255 std)`. Transposed first: that moves bytes, not floats, and leaves the
/// subtraction long rows of one channel.
fn normalized_image(net: &mut Graph<'_>, manifest: &Manifest) -> String {
    let scaled = |values: [f32; 3]| values.map(|value| (255.0 * f64::from(value)) as f32);
    let channels_first = net.node("images.channels_first", "Transpose", &[INPUT], vec![ints("perm", &[0, 3, 1, 2])]);
    let float = net.node("images.float", "Cast", &[&channels_first], vec![int("to", DataType::FLOAT as i64)]);
    let mean = net.constant("images.mean", &[3, 1, 1], &scaled(manifest.preprocessing.mean));
    let std = net.constant("images.std", &[3, 1, 1], &scaled(manifest.preprocessing.std));
    let centred = net.node("images.centred", "Sub", &[&float, &mean], vec![]);
    net.node("images.normalized", "Div", &[&centred, &std], vec![])
}

/// An input or output whose first side is the batch, N.
fn value(name: &str, element: DataType, sides: &[i64]) -> ValueInfoProto {
    let side = |value| Dimension { value: Some(value), ..Default::default() };
    let batch = side(dimension::Value::DimParam("N".into()));
    let dim = std::iter::once(batch).chain(sides.iter().map(|length| side(dimension::Value::DimValue(*length)))).collect();
    let tensor = type_proto::Tensor {
        elem_type: element as i32,
        shape: Some(TensorShapeProto { dim, ..Default::default() }).into(),
        ..Default::default()
    };
    let type_ = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.into(), type_: Some(type_).into(), ..Default::default() }
}

/// Values that training changes by its gradient, and all values with the batch-norm statistics.
pub fn parameter_counts(manifest: &Manifest) -> (usize, usize) {
    let parameters = manifest.architecture().parameters();
    let trainable = parameters.iter().filter(|parameter| parameter.kind.is_trainable());
    (trainable.map(Parameter::len).sum(), parameters.iter().map(Parameter::len).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_reader_could_open_is_refused() {
        refuse_above_limit(Path::new("model.onnx"), MAX_BYTES).unwrap();
        let error = refuse_above_limit(Path::new("model.onnx"), MAX_BYTES + 1).unwrap_err();
        assert_eq!(error.to_string(), "model.onnx would hold 2147483648 bytes; an ONNX file ends at 2 GiB");
    }
}
