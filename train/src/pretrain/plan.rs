//! What a run is going to do and cost, as `--dry-run` prints it.

use std::fmt;

use moco_encoder::{
    Architecture, Layers,
    layers::{Conv2d, Linear, MaxPool},
    shapes::window_output,
};

use crate::{
    recipe::Recipe,
    schedule::{Decay, Place, Update},
};

/// Values that the backward pass keeps for one picture: what goes into a convolution, a normalisation or a linear layer,
/// and what comes out of a ReLU. Counted by walking through the description.
#[derive(Debug, Default)]
struct Activations {
    values: u64,
}

impl Activations {
    fn keep(&mut self, shape: Vec<usize>) -> Vec<usize> {
        self.values += shape.iter().product::<usize>() as u64;
        shape
    }
}

impl Layers for Activations {
    /// C×H×W of a map, or D of a vector.
    type Value = Vec<usize>;

    fn conv2d(&mut self, _: &str, x: &Self::Value, conv: Conv2d) -> Self::Value {
        let side = |side| window_output(side, conv.kernel, conv.stride, conv.padding, conv.dilation);
        self.keep(vec![conv.outputs, side(x[1]), side(x[2])])
    }

    fn batch_norm(&mut self, _: &str, x: &Self::Value, _: usize) -> Self::Value {
        x.clone()
    }

    fn relu(&mut self, x: &Self::Value) -> Self::Value {
        self.keep(x.clone())
    }

    fn max_pool(&mut self, x: &Self::Value, pool: MaxPool) -> Self::Value {
        let side = |side| window_output(side, pool.kernel, pool.stride, pool.padding, 1);
        let shape = vec![x[0], side(x[1]), side(x[2])];
        // The place of each maximum, as 64 bits.
        self.values += 2 * shape.iter().product::<usize>() as u64;
        self.keep(shape)
    }

    fn add(&mut self, a: &Self::Value, _: &Self::Value) -> Self::Value {
        a.clone()
    }

    fn global_avg_pool(&mut self, x: &Self::Value) -> Self::Value {
        self.keep(vec![x[0]])
    }

    fn linear(&mut self, _: &str, _: &Self::Value, linear: Linear) -> Self::Value {
        self.keep(vec![linear.outputs])
    }
}

/// Bytes that training needs on its device, about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Both encoders, the gradient and the optimiser's buffer.
    pub weights: u64,
    pub queue: u64,
    /// What the backward pass keeps of a batch, and the batch itself.
    pub activations: u64,
    /// The program with its libraries, whatever it trains.
    pub program: u64,
}

/// What a process takes that trains next to nothing, measured.
const PROGRAM: u64 = 150 << 20;

const VALUE: u64 = size_of::<f32>() as u64;

impl Memory {
    /// An estimate for steps of this recipe.
    pub fn of(recipe: &Recipe) -> Self {
        let Recipe { encoder, moco, batch, augmentation, .. } = recipe;
        let (batch, side) = (*batch as u64, augmentation.size as usize);
        let parameters = parameters(encoder);
        let mut activations = Activations::default();
        let features = encoder.features(&mut activations, &vec![3, side, side]);
        encoder.project(&mut activations, &features);
        let image = 3 * (side * side) as u64;
        let dim = encoder.head.dim().unwrap_or(0) as u64;
        let halves = if moco.symmetric { 2 } else { 1 };
        // Each view exists as bytes, as augmented and as normalised values, with one more copy while it is worked on.
        let images = 2 * batch * (3 * image * VALUE + image);
        // Logits, their exponentials and their gradient.
        let logits = halves * 3 * batch * (1 + moco.queue as u64) * VALUE;
        Self {
            weights: 4 * parameters * VALUE,
            queue: moco.queue as u64 * dim * VALUE,
            // Three quarters more: what kernels work with, gradients on their way, and what the allocator holds back. On a CPU
            // this comes within a sixth of the measured peak for ResNet-18 of widths 16 to 64.
            activations: (halves * batch * activations.values * VALUE + images + logits) * 7 / 4,
            program: PROGRAM,
        }
    }

    pub fn total(&self) -> u64 {
        self.weights + self.queue + self.activations + self.program
    }
}

/// Values that a gradient changes.
fn parameters(encoder: &Architecture) -> u64 {
    encoder.parameters().iter().filter(|p| p.kind.is_trainable()).map(|p| p.len() as u64).sum()
}

/// A run before it starts.
#[derive(Clone, Debug)]
pub struct Plan {
    pub recipe: Recipe,
    /// Name of the folder.
    pub data: String,
    pub images: usize,
    /// Files that are no pictures.
    pub skipped: usize,
    /// Held-out pictures, where there are any.
    pub held_out: Option<usize>,
    pub device: String,
    pub threads: usize,
    pub workers: usize,
    pub max_minutes: Option<f64>,
}

impl Plan {
    /// Batches of an epoch; pictures that do not fill another one are left out of it.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.images / self.recipe.batch) as u64
    }

    fn learning_rates(&self) -> String {
        let schedule = &self.recipe.schedule;
        let steps_per_epoch = self.steps_per_epoch();
        let total = steps_per_epoch * self.recipe.epochs;
        let at = |tenth: u64| {
            let place = Place { step: (total * tenth / 10).min(total - 1), steps_per_epoch, epochs: self.recipe.epochs, time: 0.0 };
            format!("{:.3e} at {} %", schedule.at(&place), 10 * tenth)
        };
        (0..=10).map(at).collect::<Vec<_>>().join(", ")
    }
}

fn gigabytes(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 1000.0 { format!("{mebibytes:.0} MiB") } else { format!("{:.1} GiB", mebibytes / 1024.0) }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { recipe, images, .. } = self;
        let Recipe { batch, moco, encoder, schedule, evaluation, .. } = recipe;
        let mut line = |name: &str, text: String| writeln!(f, "{name:<17}{text}");
        line("recipe", format!("{}, seed {}", recipe.name, recipe.seed))?;
        line("device", format!("{}, {} threads, {} loader workers", self.device, self.threads, self.workers))?;
        line("data", format!("{images} images of {}, {} other files passed over", self.data, self.skipped))?;
        let steps = self.steps_per_epoch();
        line("steps", format!("{} in {} epochs of {steps}", steps * recipe.epochs, recipe.epochs))?;
        if let Some(minutes) = self.max_minutes {
            line("", format!("or as many as {minutes} minutes allow; the schedule then follows the clock"))?;
        }
        let left_out = images % batch;
        if left_out > 0 {
            line("", format!("{left_out} images, other ones each time, are left out of an epoch"))?;
        }
        let gradients = if moco.symmetric { "each view is query and key" } else { "one view is query, the other key" };
        line("effective batch", format!("{batch} pairs, {gradients}; batch norm in groups of {}", batch / moco.bn_splits))?;
        line("negatives", format!("{} keys, the last {:.1} steps", moco.queue, moco.queue as f64 / moco.keys_per_step(*batch) as f64))?;
        let features = encoder.backbone.feature_dim();
        let projection = encoder.head.dim().unwrap_or(0);
        let parameters = parameters(encoder) as f64 / 1e6;
        line(
            "encoder",
            format!(
                "ResNet-{} of width {}, {parameters:.2} million parameters, {features} features, projection {projection}",
                u32::from(encoder.backbone.depth),
                encoder.backbone.width
            ),
        )?;
        let memory = Memory::of(recipe);
        line(
            "memory",
            format!(
                "about {}: {} for weights, {} for the queue, {} for a batch; and up to 1 GiB of decoded pictures",
                gigabytes(memory.total()),
                gigabytes(memory.weights),
                gigabytes(memory.queue),
                gigabytes(memory.activations)
            ),
        )?;
        let update = match schedule.update {
            Update::Epoch => "once an epoch",
            Update::Step => "every step",
        };
        let decay = match &schedule.decay {
            Decay::Cosine {} => "cosine".to_owned(),
            Decay::Step { milestones, factor } => format!("times {factor} at epochs {milestones:?}"),
        };
        line("learning rate", format!("{decay}, set {update}: {}", self.learning_rates()))?;
        match self.held_out {
            Some(held_out) => line(
                "k-NN",
                format!(
                    "of {held_out} held-out images every {} epochs, k = {}, τ = {}",
                    evaluation.every_epochs, evaluation.knn.k, evaluation.knn.temperature
                ),
            )?,
            None => line("k-NN", "none, since there is no --held-out".into())?,
        }
        for warning in recipe.warnings(*images) {
            line("warning", warning)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            recipe: Recipe::cifar(),
            data: "cifar10/train".into(),
            images: 50_000,
            skipped: 3,
            held_out: Some(10_000),
            device: "cpu".into(),
            threads: 2,
            workers: 2,
            max_minutes: None,
        }
    }

    #[test]
    fn the_plan_says_what_the_run_is_going_to_do() {
        let text = plan().to_string();
        for words in [
            "recipe           cifar, seed 0\n",
            "50000 images of cifar10/train, 3 other files passed over",
            "19400 in 200 epochs of 97\n",
            "336 images, other ones each time, are left out",
            "512 pairs, one view is query, the other key; batch norm in groups of 64\n",
            "4096 keys, the last 8.0 steps",
            "ResNet-18 of width 64, 11.23 million parameters, 512 features, projection 128",
            "cosine, set once an epoch: 6.000e-2 at 0 %",
            "3.000e-2 at 50 %",
            "of 10000 held-out images every 1 epochs, k = 200, τ = 0.1",
        ] {
            assert!(text.contains(words), "{words} in:\n{text}");
        }
        assert!(!text.contains("warning") && !text.contains("minutes"), "{text}");
        let text = Plan { images: 5_000, held_out: None, max_minutes: Some(4.0), ..plan() }.to_string();
        assert!(text.contains("as many as 4 minutes allow") && text.contains("no --held-out") && text.contains("warning"), "{text}");
    }

    #[test]
    fn memory_grows_with_what_it_is_for() {
        let memory = |assignments: &[&str]| {
            Memory::of(&Recipe::cifar().with(&assignments.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap())
        };
        let plain = memory(&[]);
        // 11,168,832 of the backbone (its 9,600 + … running statistics are not trained) and 65,664 of the head, four times.
        assert_eq!(plain.weights, 4 * 4 * (11_168_832 + 65_664));
        assert_eq!(plain.queue, 4096 * 128 * 4);
        assert!(memory(&["batch=256"]).activations < plain.activations * 6 / 10);
        assert!(memory(&["augmentation.size=64"]).activations > plain.activations * 3);
        assert!(memory(&["moco.symmetric=true"]).activations > plain.activations * 18 / 10);
        assert_eq!(memory(&["moco.queue=8192"]).queue, 2 * plain.queue);
    }
}
