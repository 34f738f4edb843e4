//! The weights of one network: two flat tensors, and named views into them.
//!
//! What a gradient changes lies in one tensor and the running statistics in another, so that an optimiser step or the
//! average of two encoders is an operation on one tensor. Each parameter starts at a multiple of 64 bytes.
//!
//! The flat tensor itself is the leaf of the gradient, and a forward pass cuts it with a single `split_with_sizes`: its
//! backward is one concatenation, and the gradient arrives flat, laid out like the parameters. Cut by one `narrow` for each
//! parameter, it would be the sum of as many zero-filled tensors of full length; were each view a leaf of its own, the
//! gradients would have to be gathered and cleared by hand after every step.

use std::{collections::BTreeMap, sync::Arc};

use moco_encoder::{Architecture, Parameter, ParameterKind};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor, no_grad};

/// Where each parameter starts is a multiple of this many bytes.
const ALIGNMENT: usize = 64;

/// Parameters that lie one after the other in a flat tensor.
#[derive(Debug)]
struct Section {
    parameters: Vec<Parameter>,
    /// Values of each parameter and of the gap behind it, alternating: what the flat tensor is split into.
    pieces: Vec<i64>,
}

impl Section {
    fn new(parameters: Vec<Parameter>, kind: Kind) -> Self {
        let step = ALIGNMENT / kind.elt_size_in_bytes();
        let gap = |len: usize| len.next_multiple_of(step) - len;
        let pieces = parameters.iter().flat_map(|parameter| [parameter.len() as i64, gap(parameter.len()) as i64]).collect();
        Self { parameters, pieces }
    }

    fn len(&self) -> i64 {
        self.pieces.iter().sum()
    }

    /// Every parameter with its part of `flat`, in its shape.
    fn views(&self, flat: &Tensor) -> impl Iterator<Item = (&Parameter, Tensor)> {
        let pieces = flat.split_with_sizes(&self.pieces, 0).into_iter().step_by(2);
        self.parameters.iter().zip(pieces).map(|(parameter, piece)| {
            let shape: Vec<i64> = parameter.shape.iter().map(|side| *side as i64).collect();
            (parameter, piece.view(shape.as_slice()))
        })
    }
}

#[derive(Debug)]
struct Layout {
    trainable: Section,
    buffers: Section,
}

/// The parameters of one network, and the running statistics of its batch normalisations.
#[derive(Debug)]
pub struct Params {
    layout: Arc<Layout>,
    trainable: Tensor,
    buffers: Tensor,
}

impl Params {
    /// Weights as at the start of training: batch normalisation with scale 1 and shift 0, convolutions Kaiming normal by
    /// their outputs, linear layers as `torch.nn.Linear`. The same seed gives the same weights on every device.
    pub fn init(architecture: &Architecture, seed: u64, kind: Kind, device: Device) -> Self {
        let params = Self::zeros(architecture, kind, device);
        let listed = architecture.parameters();
        let values: Vec<Vec<f64>> = (0..listed.len()).into_par_iter().map(|index| initial_values(&listed, index, seed)).collect();
        let by_name: BTreeMap<&str, Vec<f64>> = listed.iter().map(|p| p.name.as_str()).zip(values).collect();
        params.fill(|name| Tensor::from_slice(&by_name[name]));
        params
    }

    /// Weights that lie in memory already, for example those of an [`Encoder`](moco_encoder::Encoder).
    ///
    /// # Panics
    /// If a tensor of the architecture is missing or has another length: an `Encoder` is proof that none is.
    pub fn from_tensors(architecture: &Architecture, tensors: &BTreeMap<String, moco_encoder::Tensor>, kind: Kind, device: Device) -> Self {
        let params = Self::zeros(architecture, kind, device);
        params.fill(|name| {
            let tensor = tensors.get(name).unwrap_or_else(|| panic!("there is a tensor for {name}"));
            Tensor::from_slice(&tensor.data)
        });
        params
    }

    fn zeros(architecture: &Architecture, kind: Kind, device: Device) -> Self {
        let (trainable, buffers) = architecture.parameters().into_iter().partition(|parameter| parameter.kind.is_trainable());
        let layout = Layout { trainable: Section::new(trainable, kind), buffers: Section::new(buffers, kind) };
        let [trainable, buffers] = [&layout.trainable, &layout.buffers].map(|section| Tensor::zeros([section.len()], (kind, device)));
        Self { layout: Arc::new(layout), trainable, buffers }
    }

    fn fill(&self, values: impl Fn(&str) -> Tensor) {
        for (name, mut view) in self.named() {
            let shape = view.size();
            view.copy_(&values(&name).view(shape.as_slice()));
        }
    }

    /// f32 copies in memory, buffers included, by torchvision's names.
    pub fn to_tensors(&self) -> BTreeMap<String, moco_encoder::Tensor> {
        let copy = |(name, view): (String, Tensor)| {
            let shape = view.size().into_iter().map(|side| side as usize).collect();
            let data = Vec::<f32>::try_from(view.reshape([-1])).expect("a flat tensor of numbers becomes a vector");
            (name, moco_encoder::Tensor { shape, data })
        };
        let on_cpu = Self {
            layout: self.layout.clone(),
            trainable: self.trainable.to_device(Device::Cpu),
            buffers: self.buffers.to_device(Device::Cpu),
        };
        on_cpu.named().into_iter().map(copy).collect()
    }

    /// A copy that shares nothing with this one and records no gradient.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { layout: self.layout.clone(), trainable: self.trainable.detach().copy(), buffers: self.buffers.copy() }
    }

    /// Has libtorch record what is computed from the trainable parameters, so that [`trainable`](Self::trainable) has a
    /// gradient.
    #[must_use]
    pub fn with_gradient(self) -> Self {
        Self { trainable: self.trainable.set_requires_grad(true), ..self }
    }

    /// Everything that a gradient changes, flat.
    pub fn trainable(&self) -> &Tensor {
        &self.trainable
    }

    /// The running statistics, flat.
    pub fn buffers(&self) -> &Tensor {
        &self.buffers
    }

    pub fn kind(&self) -> Kind {
        self.trainable.kind()
    }

    pub fn device(&self) -> Device {
        self.trainable.device()
    }

    /// A view of each parameter and buffer by name. What is written into a view is written into the network.
    pub fn named(&self) -> BTreeMap<String, Tensor> {
        let buffers = self.layout.buffers.views(&self.buffers).map(|(parameter, view)| (parameter.name.clone(), view));
        self.named_parts_of(&self.trainable).into_iter().chain(buffers).collect()
    }

    /// A view of each parameter's part of `flat`, which is laid out like [`trainable`](Self::trainable): a gradient, or a
    /// momentum buffer.
    ///
    /// # Panics
    /// If `flat` has another length.
    pub fn named_parts_of(&self, flat: &Tensor) -> BTreeMap<String, Tensor> {
        let section = &self.layout.trainable;
        no_grad(|| section.views(&flat.detach()).map(|(parameter, view)| (parameter.name.clone(), view)).collect())
    }

    /// What each parameter is for, by name, buffers included.
    pub fn kinds(&self) -> impl Iterator<Item = (&str, ParameterKind)> {
        let Layout { trainable, buffers } = &*self.layout;
        trainable.parameters.iter().chain(&buffers.parameters).map(|parameter| (parameter.name.as_str(), parameter.kind))
    }

    /// Views through which the gradient of [`trainable`](Self::trainable) flows, and the buffers.
    pub(super) fn differentiable_views(&self) -> impl Iterator<Item = (&str, Tensor)> {
        let Layout { trainable, buffers } = &*self.layout;
        trainable.views(&self.trainable).chain(buffers.views(&self.buffers)).map(|(parameter, view)| (parameter.name.as_str(), view))
    }

    /// A network of the same layout with other values.
    pub(crate) fn with_values(&self, trainable: Tensor, buffers: Tensor) -> Self {
        assert_eq!([trainable.size(), buffers.size()], [self.trainable.size(), self.buffers.size()], "both have the layout's length");
        Self { layout: self.layout.clone(), trainable, buffers }
    }
}

/// Values of one parameter. Each has a stream of the generator to itself, so that they can be drawn in any order.
fn initial_values(listed: &[Parameter], index: usize, seed: u64) -> Vec<f64> {
    let parameter = &listed[index];
    let len = parameter.len();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(index as u64);
    match parameter.kind {
        ParameterKind::BatchNormWeight | ParameterKind::RunningVar => vec![1.0; len],
        ParameterKind::BatchNormBias | ParameterKind::RunningMean => vec![0.0; len],
        ParameterKind::ConvWeight => {
            let fan_out = len / parameter.shape[1];
            let deviation = (2.0 / fan_out as f64).sqrt();
            normals(random).take(len).map(|x| deviation * x).collect()
        }
        ParameterKind::LinearWeight | ParameterKind::LinearBias => {
            // A bias comes right after its weight, and has the weight's bound.
            let weight = listed[..=index].iter().rfind(|p| p.kind == ParameterKind::LinearWeight).expect("a linear layer has a weight");
            let bound = 1.0 / (weight.shape[1] as f64).sqrt();
            (0..len).map(|_| random.random_range(-bound..bound)).collect()
        }
    }
}

/// Draws of mean 0 and deviation 1 (Box and Muller).
pub(crate) fn normals(mut random: ChaCha8Rng) -> impl Iterator<Item = f64> {
    std::iter::repeat_with(move || {
        let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * random.random::<f64>()).sin_cos();
        [radius * cos, radius * sin]
    })
    .flatten()
}
