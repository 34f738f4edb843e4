//! The network on libtorch: [`Params`], and the forward pass over the description in `moco-encoder`.
//!
//! There is no module per layer. The description calls the interpreter, the interpreter looks its weights up by name, and
//! a weight is a view into one flat tensor: what optimises, averages or saves a network handles one tensor, not a hundred.

mod batch_norm;
mod interpreter;
mod params;

use moco_encoder::Architecture;
use tch::{Tensor, no_grad};

pub use params::Params;
pub(crate) use params::normals;

use interpreter::Torch;

/// Norms below this are taken as this, so that the zero vector stays zero (`torch.nn.functional.normalize`).
const SMALLEST_NORM: f64 = 1e-12;

/// What batch normalisation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Normalises by the batch and moves the running statistics. The batch falls into `splits` groups that do not see each
    /// other's statistics, sample i into group i mod `splits`; it must be divisible by `splits`.
    Training { splits: usize },
    /// Normalises by the running statistics. No gradient is recorded.
    Evaluation,
}

/// The backbone's features, N×3×H×W → N×D. Images are normalised already, and of the parameters' kind and device.
///
/// In training mode the running statistics in `params` move.
pub fn features(architecture: &Architecture, params: &Params, mode: Mode, images: &Tensor) -> Tensor {
    let forward = || architecture.features(&mut Torch::new(params, mode), images);
    match mode {
        Mode::Training { .. } => forward(),
        Mode::Evaluation => no_grad(forward),
    }
}

/// The head's output for the backbone's features, N×D → N×dim; `None` where there is no head.
pub fn project(architecture: &Architecture, params: &Params, features: &Tensor) -> Option<Tensor> {
    // A head has no batch normalisation, so the mode has nothing to decide.
    architecture.project(&mut Torch::new(params, Mode::Evaluation), features)
}

/// Unit vectors in the space of the contrastive loss: the projection, or the features where there is no head.
pub fn embed(architecture: &Architecture, params: &Params, mode: Mode, images: &Tensor) -> Tensor {
    let mut net = Torch::new(params, mode);
    let features = architecture.features(&mut net, images);
    normalize(&architecture.project(&mut net, &features).unwrap_or(features))
}

/// Scales each row of N×D to length one; a zero row stays zero.
pub fn normalize(x: &Tensor) -> Tensor {
    let norms = x.norm_scalaropt_dim(2.0, [1].as_slice(), true); // N×1
    x / norms.clamp_min(SMALLEST_NORM)
}
