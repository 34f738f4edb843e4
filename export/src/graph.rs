//! The fourth interpreter of [`Layers`]: a value is the name of a tensor, an operation adds a node of an ONNX graph.
//!
//! Batch normalisation stays a node of its own with its epsilon: ONNX Runtime folds it into the convolution before it when
//! a model is loaded, and a file whose weights are still the encoder's can be compared with it.

use moco_encoder::{
    Encoder,
    layers::{BATCH_NORM_EPS, Conv2d, Layers, Linear, MaxPool},
};
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType, tensor_proto::DataType};

/// A graph under construction. Names of nodes, their outputs and the weights are those of the encoder's layers.
pub(crate) struct Graph<'a> {
    encoder: &'a Encoder,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
}

pub(crate) fn ints(name: &str, values: &[usize]) -> AttributeProto {
    let ints = values.iter().map(|value| *value as i64).collect();
    AttributeProto { name: name.into(), type_: AttributeType::INTS.into(), ints, ..Default::default() }
}

pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::INT.into(), i: value, ..Default::default() }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::FLOAT.into(), f: value, ..Default::default() }
}

impl<'a> Graph<'a> {
    pub(crate) fn new(encoder: &'a Encoder) -> Self {
        Self { encoder, nodes: Vec::new(), initializers: Vec::new() }
    }

    /// Adds a node with one output, which gets the node's name and is returned.
    pub(crate) fn node(&mut self, name: &str, operator: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.nodes.push(NodeProto {
            name: name.into(),
            op_type: operator.into(),
            input: inputs.iter().map(|input| (*input).into()).collect(),
            output: vec![name.into()],
            attribute: attributes,
            ..Default::default()
        });
        name.into()
    }

    /// Adds a constant f32 tensor and returns its name.
    pub(crate) fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        self.initializers.push(TensorProto {
            name: name.into(),
            data_type: DataType::FLOAT as i32,
            dims: shape.iter().map(|side| *side as i64).collect(),
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..Default::default()
        });
        name.into()
    }

    /// The nodes and constants as a graph without inputs and outputs.
    pub(crate) fn finish(self) -> GraphProto {
        GraphProto { node: self.nodes, initializer: self.initializers, ..Default::default() }
    }

    fn parameter(&mut self, name: &str) -> String {
        let encoder = self.encoder;
        let tensor = encoder.tensors().get(name).expect("an encoder holds every parameter of its architecture");
        self.constant(name, &tensor.shape, &tensor.data)
    }

    /// A name for a node without parameters: what it does, and its position in the graph.
    fn unnamed(&self, operation: &str) -> String {
        format!("{operation}.{}", self.nodes.len())
    }
}

impl Layers for Graph<'_> {
    type Value = String;

    fn conv2d(&mut self, name: &str, x: &String, conv: Conv2d) -> String {
        let weight = self.parameter(&format!("{name}.weight"));
        let attributes = vec![
            ints("dilations", &[conv.dilation; 2]),
            int("group", 1),
            ints("kernel_shape", &[conv.kernel; 2]),
            ints("pads", &[conv.padding; 4]),
            ints("strides", &[conv.stride; 2]),
        ];
        self.node(name, "Conv", &[x, &weight], attributes)
    }

    fn batch_norm(&mut self, name: &str, x: &String, _channels: usize) -> String {
        let [weight, bias, mean, var] =
            ["weight", "bias", "running_mean", "running_var"].map(|part| self.parameter(&format!("{name}.{part}")));
        self.node(name, "BatchNormalization", &[x, &weight, &bias, &mean, &var], vec![float("epsilon", BATCH_NORM_EPS as f32)])
    }

    fn relu(&mut self, x: &String) -> String {
        self.node(&self.unnamed("relu"), "Relu", &[x], vec![])
    }

    fn max_pool(&mut self, x: &String, pool: MaxPool) -> String {
        let attributes =
            vec![ints("kernel_shape", &[pool.kernel; 2]), ints("pads", &[pool.padding; 4]), ints("strides", &[pool.stride; 2])];
        self.node(&self.unnamed("max_pool"), "MaxPool", &[x], attributes)
    }

    fn add(&mut self, a: &String, b: &String) -> String {
        self.node(&self.unnamed("add"), "Add", &[a, b], vec![])
    }

    fn global_avg_pool(&mut self, x: &String) -> String {
        let pooled = self.node(&self.unnamed("average"), "GlobalAveragePool", &[x], vec![]);
        self.node(&self.unnamed("flatten"), "Flatten", &[&pooled], vec![int("axis", 1)])
    }

    fn linear(&mut self, name: &str, x: &String, linear: Linear) -> String {
        let weight = self.parameter(&format!("{name}.weight"));
        let bias = linear.bias.then(|| self.parameter(&format!("{name}.bias")));
        let inputs: Vec<&str> = [Some(x.as_str()), Some(&weight), bias.as_deref()].into_iter().flatten().collect();
        self.node(name, "Gemm", &inputs, vec![int("transB", 1)])
    }
}
