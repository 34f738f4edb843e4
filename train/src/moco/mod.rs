//! Momentum Contrast (<https://arxiv.org/abs/1911.05722>): the two encoders, the queue and one training step.
//!
//! Each part is public and does one thing, and [`Moco::step`] composes them on one screen: a test, or another method, can
//! compose them otherwise.

mod loss;
mod queue;
mod settings;
mod shuffle;
mod state;

use moco_encoder::Architecture;
use tch::{Device, Kind, Tensor, no_grad};

pub use loss::{info_nce, logits, pretext_accuracy};
pub use queue::KeyQueue;
pub use settings::Settings;
pub use shuffle::Permutation;
pub use state::StateError;

use crate::{
    network::{Mode, Params, embed},
    optimiser::{self, Sgd},
};

/// θ_k ← m θ_k + (1 − m) θ_q, eq. 2 of the paper, as a new network.
///
/// Of parameters only: the key encoder's running statistics come from its own batches, as in the reference.
pub fn momentum_update(key: &Params, query: &Params, key_momentum: f64) -> Params {
    // As θ_k + (1 − m)(θ_q − θ_k), so that equal encoders stay equal to the last bit.
    let parameters = no_grad(|| key.trainable().lerp(&query.trainable().detach(), 1.0 - key_momentum));
    key.with_values(parameters, key.buffers().copy())
}

/// What a step reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// InfoNCE; of a symmetric step the sum of both.
    pub loss: f64,
    /// How often the positive key had the largest logit. No measure of what the encoder is good for: near 1 from the start,
    /// it says that batch normalisation gives the positive away.
    pub accuracy: f64,
}

/// What a step computed on its way.
#[derive(Debug)]
pub struct Trace {
    pub report: StepReport,
    /// N×(1+K); of a symmetric step two of them.
    pub logits: Vec<Tensor>,
    /// Of the loss, laid out like the query encoder's trainable parameters. Weight decay is not in it.
    pub gradient: Tensor,
}

/// The loss, or its gradient, was infinite or not a number.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{} is not a finite number (loss {loss}); the step was not taken", if loss.is_finite() { "the gradient" } else { "the loss" })]
pub struct NonFinite {
    pub loss: f64,
}

/// A training run's method: both encoders, the queue and the optimiser.
#[derive(Debug)]
pub struct Moco {
    architecture: Architecture,
    settings: Settings,
    query: Params,
    key: Params,
    queue: KeyQueue,
    optimiser: Sgd,
}

impl Moco {
    /// Fresh weights and a queue of random keys. The same seed gives the same on every device.
    pub fn new(architecture: &Architecture, settings: &Settings, optimiser: &optimiser::Settings, seed: u64, device: Device) -> Self {
        let query = Params::init(architecture, seed, Kind::Float, device);
        Self::starting_from(architecture, &query, settings, optimiser, seed)
    }

    /// Starts from a copy of given weights, in their kind and on their device; the seed is that of the queue.
    pub fn starting_from(
        architecture: &Architecture,
        weights: &Params,
        settings: &Settings,
        optimiser: &optimiser::Settings,
        seed: u64,
    ) -> Self {
        let dim = architecture.head.dim().unwrap_or_else(|| architecture.backbone.feature_dim());
        Self {
            architecture: architecture.clone(),
            settings: *settings,
            query: weights.copy().with_gradient(),
            key: weights.copy(),
            queue: KeyQueue::random(settings.queue, dim, seed, weights.kind(), weights.device()),
            optimiser: Sgd::new(*optimiser, weights.trainable()),
        }
    }

    /// One step of both encoders on N images in two views, N×3×H×W each and normalised; `views[0]` is the query's.
    ///
    /// `permutation` is the order in which the N keys are shuffled: place i gets image `permutation[i]`. Both halves of a
    /// symmetric step are shuffled by it.
    ///
    /// # Errors
    /// [`NonFinite`]; encoders, queue and optimiser are then as they were.
    pub fn step(&mut self, views: [&Tensor; 2], permutation: &[i64], learning_rate: f64) -> Result<StepReport, NonFinite> {
        self.traced_step(views, permutation, learning_rate).map(|trace| trace.report)
    }

    /// [`step`](Self::step), and what it computed on its way.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn traced_step(&mut self, views: [&Tensor; 2], permutation: &[i64], learning_rate: f64) -> Result<Trace, NonFinite> {
        let Settings { key_momentum, temperature, shuffle, symmetric, .. } = self.settings;
        let mode = Mode::Training { splits: self.settings.bn_splits };
        let [first, second] = views;
        let halves = if symmetric { vec![(first, second), (second, first)] } else { vec![(first, second)] };
        let permutation = shuffle.then(|| Permutation::new(permutation, first.device()));

        let statistics = self.query.buffers().copy();
        let key = momentum_update(&self.key, &self.query, key_momentum);
        let (mut all_logits, mut all_keys) = (Vec::new(), Vec::new());
        for (x_q, x_k) in halves {
            let q = embed(&self.architecture, &self.query, mode, x_q); // N×dim
            let k = no_grad(|| match &permutation {
                Some(permutation) => permutation.unshuffle(&embed(&self.architecture, &key, mode, &permutation.shuffle(x_k))),
                None => embed(&self.architecture, &key, mode, x_k),
            }); // N×dim
            all_logits.push(logits(&q, &k, self.queue.keys(), temperature)); // N×(1+K)
            all_keys.push(k);
        }
        let loss: Tensor = all_logits.iter().map(info_nce).sum();

        let value = loss.double_value(&[]);
        let [gradient] =
            Tensor::run_backward(&[loss], &[self.query.trainable()], false, false).try_into().expect("one gradient of the one flat tensor");
        if !(value.is_finite() && gradient.isfinite().all().int64_value(&[]) == 1) {
            // Only the query's running statistics have moved by then.
            self.query.buffers().shallow_clone().copy_(&statistics);
            return Err(NonFinite { loss: value });
        }
        self.optimiser.step(self.query.trainable(), &gradient, learning_rate);
        self.key = key;
        // After the logits: a batch is not among its own negatives.
        self.queue.enqueue(&Tensor::cat(&all_keys, 0));

        let accuracy = all_logits.iter().map(|logits| pretext_accuracy(logits).double_value(&[])).sum::<f64>() / all_logits.len() as f64;
        let logits = all_logits.iter().map(Tensor::detach).collect();
        Ok(Trace { report: StepReport { loss: value, accuracy }, logits, gradient })
    }

    /// The encoder that is trained, and that is kept in the end.
    pub fn query(&self) -> &Params {
        &self.query
    }

    /// The moving average of the query encoder.
    pub fn key(&self) -> &Params {
        &self.key
    }

    pub fn queue(&self) -> &KeyQueue {
        &self.queue
    }

    pub fn optimiser(&self) -> &Sgd {
        &self.optimiser
    }
}
