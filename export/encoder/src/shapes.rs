//! The interpreter that computes nothing: it follows the shapes and lists the parameters.

use crate::{
    architecture::Architecture,
    layers::{Conv2d, Layers, Linear, MaxPool},
};

/// What a parameter is for. Initialisation, weight decay and the momentum update ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParameterKind {
    ConvWeight,
    BatchNormWeight,
    BatchNormBias,
    RunningMean,
    RunningVar,
    LinearWeight,
    LinearBias,
}

impl ParameterKind {
    /// Whether a gradient changes it. Running statistics are buffers: batches change them.
    pub fn is_trainable(self) -> bool {
        !matches!(self, Self::RunningMean | Self::RunningVar)
    }
}

/// A named tensor of an architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// torchvision's name, `layer1.0.bn1.running_mean`.
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: ParameterKind,
}

impl Parameter {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no value; no architecture has such a parameter.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Follows the shapes of one image, C×H×W, and notes each parameter where it is met.
#[derive(Debug, Default)]
pub struct Shapes {
    pub parameters: Vec<Parameter>,
}

/// Side after a window of `kernel` moves over `side` padded pixels.
pub fn window_output(side: usize, kernel: usize, stride: usize, padding: usize, dilation: usize) -> usize {
    (side + 2 * padding).saturating_sub(dilation * (kernel - 1) + 1) / stride + 1
}

impl Shapes {
    fn note(&mut self, name: String, shape: Vec<usize>, kind: ParameterKind) {
        self.parameters.push(Parameter { name, shape, kind });
    }
}

impl Layers for Shapes {
    /// C×H×W of an image, or D of a vector.
    type Value = Vec<usize>;

    fn conv2d(&mut self, name: &str, x: &Self::Value, conv: Conv2d) -> Self::Value {
        let Conv2d { inputs, outputs, kernel, stride, padding, dilation } = conv;
        assert_eq!(x[0], inputs, "{name} is described with the channels that reach it");
        self.note(format!("{name}.weight"), vec![outputs, inputs, kernel, kernel], ParameterKind::ConvWeight);
        let side = |side| window_output(side, kernel, stride, padding, dilation);
        vec![outputs, side(x[1]), side(x[2])]
    }

    fn batch_norm(&mut self, name: &str, x: &Self::Value, channels: usize) -> Self::Value {
        assert_eq!(x[0], channels, "{name} is described with the channels that reach it");
        for (part, kind) in [
            ("weight", ParameterKind::BatchNormWeight),
            ("bias", ParameterKind::BatchNormBias),
            ("running_mean", ParameterKind::RunningMean),
            ("running_var", ParameterKind::RunningVar),
        ] {
            self.note(format!("{name}.{part}"), vec![channels], kind);
        }
        x.clone()
    }

    fn relu(&mut self, x: &Self::Value) -> Self::Value {
        x.clone()
    }

    fn max_pool(&mut self, x: &Self::Value, pool: MaxPool) -> Self::Value {
        let side = |side| window_output(side, pool.kernel, pool.stride, pool.padding, 1);
        vec![x[0], side(x[1]), side(x[2])]
    }

    fn add(&mut self, a: &Self::Value, b: &Self::Value) -> Self::Value {
        assert_eq!(a, b, "both sides of a sum have one shape");
        a.clone()
    }

    fn global_avg_pool(&mut self, x: &Self::Value) -> Self::Value {
        vec![x[0]]
    }

    fn linear(&mut self, name: &str, x: &Self::Value, linear: Linear) -> Self::Value {
        assert_eq!(x[..], [linear.inputs], "{name} is described with the length that reaches it");
        self.note(format!("{name}.weight"), vec![linear.outputs, linear.inputs], ParameterKind::LinearWeight);
        if linear.bias {
            self.note(format!("{name}.bias"), vec![linear.outputs], ParameterKind::LinearBias);
        }
        vec![linear.outputs]
    }
}

/// Every parameter of `architecture`, backbone first, in the order of the forward pass.
pub(crate) fn list_parameters(architecture: &Architecture) -> Vec<Parameter> {
    let mut shapes = Shapes::default();
    let features = architecture.features(&mut shapes, &vec![3, 224, 224]);
    architecture.project(&mut shapes, &features);
    shapes.parameters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        head::Head,
        resnet::{Depth, ResNet, Stem},
    };

    fn trainable(architecture: &Architecture) -> usize {
        architecture.parameters().iter().filter(|p| p.kind.is_trainable()).map(Parameter::len).sum()
    }

    fn backbone(depth: Depth, stem: Stem) -> Architecture {
        Architecture { backbone: ResNet::new(depth, stem), head: Head::None {} }
    }

    #[test]
    fn parameter_counts_are_torchvisions_without_the_classifier() {
        for (depth, count) in [(Depth::R18, 11_176_512), (Depth::R34, 21_284_672), (Depth::R50, 23_508_032)] {
            assert_eq!(trainable(&backbone(depth, Stem::Imagenet)), count, "{depth:?}");
        }
    }

    #[test]
    fn the_cifar_stem_is_smaller_by_its_first_convolution() {
        let difference = 64 * 3 * (7 * 7 - 3 * 3);
        for depth in [Depth::R18, Depth::R50] {
            assert_eq!(trainable(&backbone(depth, Stem::Imagenet)) - trainable(&backbone(depth, Stem::Cifar)), difference);
        }
    }

    #[test]
    fn heads_of_the_papers_have_their_published_sizes() {
        let of = |head| trainable(&Architecture { backbone: ResNet::new(Depth::R50, Stem::Imagenet), head }) - 23_508_032;
        assert_eq!(of(Head::Linear { dim: 128 }), 2048 * 128 + 128);
        assert_eq!(of(Head::Mlp { hidden: 2048, dim: 128 }), 2048 * 2048 + 2048 + 2048 * 128 + 128);
    }

    #[test]
    fn width_scales_every_layer() {
        let narrow = Architecture { backbone: ResNet::new(Depth::R18, Stem::Imagenet).with_width(4), head: Head::None {} };
        let wide = backbone(Depth::R18, Stem::Imagenet).parameters();
        assert_eq!(narrow.backbone.feature_dim(), 32);
        for (n, w) in narrow.parameters().iter().zip(&wide) {
            assert_eq!(n.name, w.name);
            let expected: Vec<usize> = w.shape.iter().enumerate().map(|(axis, s)| if axis < 2 && *s != 3 { s / 16 } else { *s }).collect();
            assert_eq!(n.shape, expected, "{}", n.name);
        }
    }

    #[test]
    fn names_are_unique_and_torchvisions() {
        let names: Vec<String> = backbone(Depth::R50, Stem::Imagenet).parameters().into_iter().map(|p| p.name).collect();
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        for expected in
            ["conv1.weight", "bn1.running_var", "layer1.0.downsample.1.bias", "layer3.5.conv3.weight", "layer4.2.bn3.running_mean"]
        {
            assert!(names.iter().any(|n| n == expected), "{expected} is missing");
        }
    }

    #[test]
    fn stages_halve_the_side_unless_they_are_dilated() {
        let sides = |net: &ResNet| net.stages(&mut Shapes::default(), &vec![3, 224, 224]).map(|map| map[1]);
        let mut net = ResNet::new(Depth::R50, Stem::Imagenet);
        assert_eq!(sides(&net), [56, 28, 14, 7]);
        net.dilate = [false, true, true];
        assert_eq!(sides(&net), [56, 28, 28, 28]);
        assert_eq!(sides(&ResNet::new(Depth::R18, Stem::Cifar)), [224, 112, 56, 28]);
        let channels = ResNet::new(Depth::R50, Stem::Imagenet).stages(&mut Shapes::default(), &vec![3, 64, 64]).map(|map| map[0]);
        assert_eq!(channels, [256, 512, 1024, 2048]);
    }
}
