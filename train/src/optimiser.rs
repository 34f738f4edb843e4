//! Stochastic gradient descent on a flat buffer.
//!
//! The arithmetic is that of `torch.optim.SGD` without dampening or Nesterov's step: weight decay is added to the gradient,
//! the momentum buffer follows the sum, and parameters move against the buffer. Every parameter decays, batch normalisation
//! and biases as well, as in the reference. libtorch's own optimisers work tensor by tensor and keep their state to
//! themselves; this one is a few operations whatever the network, and its state can be saved.

use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

/// What stays the same from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How much of the momentum buffer survives a step, 0 to below 1. The papers use 0.9.
    pub momentum: f64,
    /// Pull of every parameter towards zero, added to its gradient.
    pub weight_decay: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { momentum: 0.9, weight_decay: 1e-4 }
    }
}

impl Settings {
    /// Checks what the types leave open.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        let Self { momentum, weight_decay } = *self;
        if !(0.0..1.0).contains(&momentum) {
            return Err(format!("momentum is {momentum}: it must be at least 0 and less than 1"));
        }
        if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
            return Err(format!("weight_decay is {weight_decay}: it must be a number of at least 0"));
        }
        Ok(())
    }
}

/// The optimiser with its momentum buffer.
#[derive(Debug)]
pub struct Sgd {
    settings: Settings,
    momentum: Tensor,
}

impl Sgd {
    /// An optimiser for parameters like these, its momentum buffer empty.
    pub fn new(settings: Settings, parameters: &Tensor) -> Self {
        Self { settings, momentum: parameters.detach().zeros_like() }
    }

    /// The running sum of gradients, laid out like the parameters.
    pub fn momentum_buffer(&self) -> &Tensor {
        &self.momentum
    }

    /// Moves `parameters` in place.
    pub fn step(&mut self, parameters: &Tensor, gradient: &Tensor, learning_rate: f64) {
        let Settings { momentum, weight_decay } = self.settings;
        no_grad(|| {
            let mut parameters = parameters.detach();
            let decayed = gradient + &parameters * weight_decay;
            // The buffer starts at zero, so that the first step takes the gradient alone, as torch.optim.SGD does.
            self.momentum *= momentum;
            self.momentum += decayed;
            parameters -= &self.momentum * learning_rate;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_that_of_the_formula() {
        let parameters = Tensor::from_slice(&[1.0f64, -2.0]);
        let mut sgd = Sgd::new(Settings { momentum: 0.5, weight_decay: 0.1 }, &parameters);
        let (mut w, mut v) = ([1.0, -2.0], [0.0, 0.0]);
        for gradient in [[3.0, 1.0], [-1.0, 0.5], [0.0, 0.0]] {
            sgd.step(&parameters, &Tensor::from_slice(&gradient), 0.01);
            for i in 0..2 {
                v[i] = 0.5 * v[i] + (gradient[i] + 0.1 * w[i]);
                w[i] -= 0.01 * v[i];
            }
            let moved = Vec::<f64>::try_from(&parameters).unwrap();
            assert!(moved.iter().zip(w).all(|(a, b): (&f64, f64)| (a - b).abs() < 1e-15), "{moved:?} {w:?}");
        }
    }

    #[test]
    fn parameters_that_record_a_gradient_are_moved_in_place() {
        let parameters = Tensor::from_slice(&[1.0f32]).set_requires_grad(true);
        let mut sgd = Sgd::new(Settings { momentum: 0.0, weight_decay: 0.0 }, &parameters);
        let gradient = Tensor::run_backward(&[&parameters * &parameters], &[&parameters], false, false);
        sgd.step(&parameters, &gradient[0], 0.25);
        assert_eq!(parameters.double_value(&[0]), 0.5);
        assert!(parameters.requires_grad() && !sgd.momentum_buffer().requires_grad());
    }

    #[test]
    fn settings_without_meaning_are_refused_by_name() {
        let sound = Settings::default();
        assert_eq!(sound.validate(), Ok(()));
        for (settings, field) in [
            (Settings { momentum: 1.0, ..sound }, "momentum is 1"),
            (Settings { momentum: f64::NAN, ..sound }, "momentum is NaN"),
            (Settings { weight_decay: -1e-4, ..sound }, "weight_decay is -0.0001"),
            (Settings { weight_decay: f64::INFINITY, ..sound }, "weight_decay is inf"),
        ] {
            let sentence = settings.validate().unwrap_err();
            assert!(sentence.starts_with(field), "{sentence}");
        }
    }
}
