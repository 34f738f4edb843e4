//! Residual networks, <https://arxiv.org/abs/1512.03385>, under torchvision's parameter names.
//!
//! As in torchvision, a bottleneck's stride sits in its 3×3 convolution. The `cifar` stem is that of the MoCo authors'
//! CIFAR-10 demonstration: a 3×3 convolution of stride 1 and no pooling. No classifier: the pooled output is the feature.

use serde::{Deserialize, Serialize};

use crate::layers::{Conv2d, Layers, MaxPool};

/// Number of weighted layers of the published network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum Depth {
    R18,
    R34,
    R50,
}

impl TryFrom<u32> for Depth {
    type Error = String;

    fn try_from(depth: u32) -> Result<Self, String> {
        match depth {
            18 => Ok(Self::R18),
            34 => Ok(Self::R34),
            50 => Ok(Self::R50),
            other => Err(format!("depth {other} is not a known residual network: use 18, 34 or 50")),
        }
    }
}

impl From<Depth> for u32 {
    fn from(depth: Depth) -> Self {
        match depth {
            Depth::R18 => 18,
            Depth::R34 => 34,
            Depth::R50 => 50,
        }
    }
}

impl Depth {
    /// Blocks in each of the four stages.
    fn blocks(self) -> [usize; 4] {
        match self {
            Self::R18 => [2, 2, 2, 2],
            Self::R34 | Self::R50 => [3, 4, 6, 3],
        }
    }

    /// Output channels of a block for each of its inner channels: 4 in a bottleneck.
    fn expansion(self) -> usize {
        match self {
            Self::R18 | Self::R34 => 1,
            Self::R50 => 4,
        }
    }
}

/// What stands before the first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 7×7 convolution of stride 2 and 3×3 max pooling of stride 2: a quarter of the side.
    Imagenet,
    /// 3×3 convolution of stride 1: the side is kept. For pictures of 32 to 64 pixels.
    Cifar,
}

/// The kind of backbone, so that another family can join without a new format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    ResNet,
}

/// Width of the published networks: channels of the stem.
pub const STANDARD_WIDTH: usize = 64;

/// Widest stem that is accepted: 16 times the published one. It bounds what a manifest can make a reader allocate.
pub const MAX_WIDTH: usize = 1024;

/// The description of a residual network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNet {
    #[serde(default)]
    pub kind: Kind,
    pub depth: Depth,
    /// Channels of the stem. [`STANDARD_WIDTH`] is width multiplier 1, 4 is 1/16, 128 is 2; every layer scales with it.
    pub width: usize,
    pub stem: Stem,
    /// Whether stages 2, 3 and 4 trade their stride for dilation (torchvision's `replace_stride_with_dilation`).
    #[serde(default)]
    pub dilate: [bool; 3],
}

/// One residual block: where it stands, and what it does to channels and side.
struct Block {
    name: String,
    inputs: usize,
    channels: usize,
    stride: usize,
    dilation: usize,
}

/// Convolution and its batch normalisation; every convolution of a residual network has one.
fn conv_bn<L: Layers>(net: &mut L, conv_name: &str, bn_name: &str, x: &L::Value, conv: Conv2d) -> L::Value {
    let y = net.conv2d(conv_name, x, conv);
    net.batch_norm(bn_name, &y, conv.outputs)
}

impl ResNet {
    /// A network of standard width without dilation.
    pub fn new(depth: Depth, stem: Stem) -> Self {
        Self { kind: Kind::ResNet, depth, width: STANDARD_WIDTH, stem, dilate: [false; 3] }
    }

    /// The same network with `width` channels in its stem.
    #[must_use]
    pub fn with_width(self, width: usize) -> Self {
        Self { width, ..self }
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if self.width == 0 || self.width > MAX_WIDTH {
            return Err(format!("backbone.width is {}: it must lie in 1..={MAX_WIDTH}", self.width));
        }
        Ok(())
    }

    /// Length of the pooled output: 512 for ResNet-18 and 34, 2048 for ResNet-50, at standard width.
    pub fn feature_dim(&self) -> usize {
        8 * self.width * self.depth.expansion()
    }

    /// N×3×H×W → N×[`feature_dim`](Self::feature_dim).
    pub fn forward<L: Layers>(&self, net: &mut L, image: &L::Value) -> L::Value {
        let [.., last] = self.stages(net, image);
        net.global_avg_pool(&last)
    }

    /// The feature maps of the four stages (C2 to C5 of detection papers). With the `imagenet` stem and no dilation
    /// their sides are 1/4, 1/8, 1/16 and 1/32 of the image's.
    pub fn stages<L: Layers>(&self, net: &mut L, image: &L::Value) -> [L::Value; 4] {
        let stem = self.stem(net, image);
        let mut maps: Vec<L::Value> = Vec::with_capacity(4);
        for blocks in self.blocks() {
            let mut x: Option<L::Value> = None;
            for block in &blocks {
                let input = x.as_ref().or(maps.last()).unwrap_or(&stem);
                x = Some(self.block(net, block, input));
            }
            maps.push(x.expect("a stage has at least one block"));
        }
        maps.try_into().unwrap_or_else(|_| unreachable!("a residual network has four stages"))
    }

    fn stem<L: Layers>(&self, net: &mut L, image: &L::Value) -> L::Value {
        let (kernel, stride, padding) = match self.stem {
            Stem::Imagenet => (7, 2, 3),
            Stem::Cifar => (3, 1, 1),
        };
        let x = conv_bn(net, "conv1", "bn1", image, Conv2d { inputs: 3, outputs: self.width, kernel, stride, padding, dilation: 1 });
        let x = net.relu(&x);
        match self.stem {
            Stem::Imagenet => net.max_pool(&x, MaxPool { kernel: 3, stride: 2, padding: 1 }),
            Stem::Cifar => x,
        }
    }

    /// The blocks of the four stages. A dilated stage keeps its side; its first block still has the dilation of the
    /// stage before, as in torchvision.
    fn blocks(&self) -> Vec<Vec<Block>> {
        let expansion = self.depth.expansion();
        let mut inputs = self.width;
        let mut dilation = 1;
        let mut stages = Vec::with_capacity(4);
        for (stage, count) in self.depth.blocks().into_iter().enumerate() {
            let channels = self.width << stage;
            let mut stride = if stage == 0 { 1 } else { 2 };
            let first_dilation = dilation;
            if stage > 0 && self.dilate[stage - 1] {
                dilation *= stride;
                stride = 1;
            }
            let mut blocks = Vec::with_capacity(count);
            for index in 0..count {
                let first = index == 0;
                blocks.push(Block {
                    name: format!("layer{}.{index}", stage + 1),
                    inputs,
                    channels,
                    stride: if first { stride } else { 1 },
                    dilation: if first { first_dilation } else { dilation },
                });
                inputs = channels * expansion;
            }
            stages.push(blocks);
        }
        stages
    }

    fn block<L: Layers>(&self, net: &mut L, block: &Block, x: &L::Value) -> L::Value {
        let Block { name, inputs, channels, stride, dilation } = block;
        let (inputs, channels, stride, dilation) = (*inputs, *channels, *stride, *dilation);
        let outputs = channels * self.depth.expansion();
        let three = |inputs, outputs, stride, dilation| Conv2d { inputs, outputs, kernel: 3, stride, padding: dilation, dilation };
        let one = |inputs, outputs, stride| Conv2d { inputs, outputs, kernel: 1, stride, padding: 0, dilation: 1 };
        let named = |part: &str| format!("{name}.{part}");

        let y = match self.depth {
            Depth::R18 | Depth::R34 => {
                let y = conv_bn(net, &named("conv1"), &named("bn1"), x, three(inputs, channels, stride, dilation));
                let y = net.relu(&y);
                conv_bn(net, &named("conv2"), &named("bn2"), &y, three(channels, channels, 1, dilation))
            }
            Depth::R50 => {
                let y = conv_bn(net, &named("conv1"), &named("bn1"), x, one(inputs, channels, 1));
                let y = net.relu(&y);
                let y = conv_bn(net, &named("conv2"), &named("bn2"), &y, three(channels, channels, stride, dilation));
                let y = net.relu(&y);
                conv_bn(net, &named("conv3"), &named("bn3"), &y, one(channels, outputs, 1))
            }
        };
        let sum = if stride != 1 || inputs != outputs {
            let shortcut = conv_bn(net, &named("downsample.0"), &named("downsample.1"), x, one(inputs, outputs, stride));
            net.add(&y, &shortcut)
        } else {
            net.add(&y, x)
        };
        net.relu(&sum)
    }
}
