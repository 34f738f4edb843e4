//! The interpreter of [`Layers`] whose values are libtorch tensors.

use std::collections::HashMap;

use moco_encoder::layers::{Conv2d, Layers, Linear, MaxPool};
use tch::Tensor;

use super::{Mode, batch_norm::batch_norm, params::Params};

/// One forward pass: views into the parameters, by name, and what batch normalisation does.
pub(super) struct Torch<'a> {
    parameters: HashMap<&'a str, Tensor>,
    mode: Mode,
}

impl<'a> Torch<'a> {
    pub(super) fn new(params: &'a Params, mode: Mode) -> Self {
        Self { parameters: params.differentiable_views().collect(), mode }
    }

    fn parameter(&self, layer: &str, part: &str) -> &Tensor {
        let name = format!("{layer}.{part}");
        self.parameters.get(name.as_str()).unwrap_or_else(|| panic!("{name} is a parameter of the architecture that runs"))
    }
}

/// Height and width of a window alike.
fn square(side: usize) -> [i64; 2] {
    [side as i64; 2]
}

impl Layers for Torch<'_> {
    type Value = Tensor;

    fn conv2d(&mut self, name: &str, x: &Tensor, conv: Conv2d) -> Tensor {
        let weight = self.parameter(name, "weight");
        x.conv2d(weight, None::<&Tensor>, square(conv.stride), square(conv.padding), square(conv.dilation), 1)
    }

    fn batch_norm(&mut self, name: &str, x: &Tensor, _channels: usize) -> Tensor {
        let [weight, bias, mean, var] = ["weight", "bias", "running_mean", "running_var"].map(|part| self.parameter(name, part));
        batch_norm(x, [weight, bias], [mean, var], self.mode)
    }

    fn relu(&mut self, x: &Tensor) -> Tensor {
        x.relu()
    }

    fn max_pool(&mut self, x: &Tensor, pool: MaxPool) -> Tensor {
        x.max_pool2d(square(pool.kernel), square(pool.stride), square(pool.padding), square(1), false)
    }

    fn add(&mut self, a: &Tensor, b: &Tensor) -> Tensor {
        a + b
    }

    fn global_avg_pool(&mut self, x: &Tensor) -> Tensor {
        x.mean_dim([2, 3].as_slice(), false, None)
    }

    fn linear(&mut self, name: &str, x: &Tensor, linear: Linear) -> Tensor {
        let bias = linear.bias.then(|| self.parameter(name, "bias"));
        x.linear(self.parameter(name, "weight"), bias)
    }
}
