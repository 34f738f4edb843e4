//! Backbone and head together: what is trained, stored and exported.

use serde::{Deserialize, Serialize};

use crate::{
    head::Head,
    layers::Layers,
    resnet::ResNet,
    shapes::{Parameter, list_parameters},
};

/// The network without its weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    pub backbone: ResNet,
    pub head: Head,
}

impl Architecture {
    /// N×3×H×W → N×D, D = [`ResNet::feature_dim`].
    pub fn features<L: Layers>(&self, net: &mut L, image: &L::Value) -> L::Value {
        self.backbone.forward(net, image)
    }

    /// Features → projection, N×dim; `None` where there is no head.
    pub fn project<L: Layers>(&self, net: &mut L, features: &L::Value) -> Option<L::Value> {
        self.head.forward(net, features, self.backbone.feature_dim())
    }

    /// Every parameter and buffer, in the order in which the forward pass meets them.
    pub fn parameters(&self) -> Vec<Parameter> {
        list_parameters(self)
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        self.backbone.validate()?;
        self.head.validate()
    }
}
