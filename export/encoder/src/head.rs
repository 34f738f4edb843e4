//! Projection heads: what stands between the features and the contrastive loss.

use serde::{Deserialize, Serialize};

use crate::layers::{Layers, Linear};

/// Largest side of a head's layers that is accepted; it bounds what a manifest can make a reader allocate.
pub const MAX_DIM: usize = 1 << 16;

/// A projection head. Parameters are named as in a `torch.nn.Sequential`: `head.0`, `head.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Head {
    /// Features only.
    None {},
    /// MoCo v1: one linear layer with bias.
    Linear { dim: usize },
    /// MoCo v2: linear, ReLU, linear, both with bias.
    Mlp { hidden: usize, dim: usize },
}

impl Head {
    /// Length of the projection; `None` without a head.
    pub fn dim(&self) -> Option<usize> {
        match self {
            Self::None {} => None,
            Self::Linear { dim } | Self::Mlp { dim, .. } => Some(*dim),
        }
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        let sides: &[(&str, usize)] = match self {
            Self::None {} => &[],
            Self::Linear { dim } => &[("dim", *dim)],
            Self::Mlp { hidden, dim } => &[("hidden", *hidden), ("dim", *dim)],
        };
        for (field, side) in sides {
            if *side == 0 || *side > MAX_DIM {
                return Err(format!("head.{field} is {side}: it must lie in 1..={MAX_DIM}"));
            }
        }
        Ok(())
    }

    /// N×inputs → N×dim; `None` without a head.
    pub fn forward<L: Layers>(&self, net: &mut L, features: &L::Value, inputs: usize) -> Option<L::Value> {
        match *self {
            Self::None {} => None,
            Self::Linear { dim } => Some(net.linear("head.0", features, Linear { inputs, outputs: dim, bias: true })),
            Self::Mlp { hidden, dim } => {
                let x = net.linear("head.0", features, Linear { inputs, outputs: hidden, bias: true });
                let x = net.relu(&x);
                Some(net.linear("head.2", &x, Linear { inputs: hidden, outputs: dim, bias: true }))
            }
        }
    }
}
