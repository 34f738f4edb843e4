//! The vocabulary a network is written in.
//!
//! A network is described once, as a function over [`Layers`]. Who runs it decides what a value is: a bare shape
//! ([`crate::shapes`]), a plain f32 array ([`crate::plain`]), a libtorch tensor (training) or a node of a graph (export).
//! A new operation is a new method without a default, so that it does not compile until every interpreter has it.
//!
//! Methods do not fail: shapes are settled by the description, and weights are checked against it before a run starts.

/// Added to the variance before its square root, in every batch normalisation (torchvision's value).
pub const BATCH_NORM_EPS: f64 = 1e-5;

/// A two-dimensional convolution without bias (a batch normalisation follows each one), square kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    pub dilation: usize,
}

/// Max pooling over square windows; padding counts as minus infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

/// A fully connected layer, `y = x Wᵀ + b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    pub inputs: usize,
    pub outputs: usize,
    pub bias: bool,
}

/// The operations of a network. Images are N×C×H×W, vectors N×D. `name` is the prefix of the layer's parameters,
/// as torchvision spells it (`layer1.0.conv1`).
pub trait Layers {
    /// What flows between the layers.
    type Value;

    /// N×inputs×H×W → N×outputs×H'×W'. Parameter `{name}.weight`, outputs×inputs×kernel×kernel.
    fn conv2d(&mut self, name: &str, x: &Self::Value, conv: Conv2d) -> Self::Value;

    /// Batch normalisation over N, H and W with [`BATCH_NORM_EPS`].
    /// Parameters `{name}.weight`, `.bias`, `.running_mean`, `.running_var`, each of `channels` values.
    fn batch_norm(&mut self, name: &str, x: &Self::Value, channels: usize) -> Self::Value;

    fn relu(&mut self, x: &Self::Value) -> Self::Value;

    fn max_pool(&mut self, x: &Self::Value, pool: MaxPool) -> Self::Value;

    /// The sum of two values of one shape.
    fn add(&mut self, a: &Self::Value, b: &Self::Value) -> Self::Value;

    /// The mean over H and W: N×C×H×W → N×C.
    fn global_avg_pool(&mut self, x: &Self::Value) -> Self::Value;

    /// N×inputs → N×outputs. Parameters `{name}.weight`, outputs×inputs, and `{name}.bias` where there is one.
    fn linear(&mut self, name: &str, x: &Self::Value, linear: Linear) -> Self::Value;
}
