//! The method's own hyper-parameters.

use serde::{Deserialize, Serialize};

/// Hyper-parameters of the method. The defaults are the first paper's, its eight GPUs' batch normalisation as eight groups.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Keys in the queue, K. More negatives make the task harder; with few images, keep it well below their number.
    pub queue: usize,
    /// How much of the key encoder survives a step, m. Use 0.99 for short runs and small data, 0.999 for long ones.
    pub key_momentum: f64,
    /// What similarities are divided by, τ.
    pub temperature: f64,
    /// Groups into which batch normalisation splits a batch. One group leaks the positive through its statistics.
    pub bn_splits: usize,
    /// Whether keys are normalised in other groups than their queries.
    pub shuffle: bool,
    /// Whether each view is query and key in turn, with the sum of both losses: twice the work, for a better encoder.
    pub symmetric: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { queue: 65_536, key_momentum: 0.999, temperature: 0.07, bn_splits: 8, shuffle: true, symmetric: false }
    }
}

impl Settings {
    /// Keys that a step on `batch` images adds to the queue.
    pub fn keys_per_step(&self, batch: usize) -> usize {
        if self.symmetric { 2 * batch } else { batch }
    }

    /// Checks what the types leave open, for steps on `batch` images.
    ///
    /// # Errors
    /// One sentence that names the field.
    pub fn validate(&self, batch: usize) -> Result<(), String> {
        let Self { queue, key_momentum, temperature, bn_splits, .. } = *self;
        if !(0.0..=1.0).contains(&key_momentum) {
            return Err(format!("key_momentum is {key_momentum}: it must lie between 0 and 1"));
        }
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(format!("temperature is {temperature}: it must be a number above 0"));
        }
        if bn_splits == 0 {
            return Err("bn_splits is 0: use 1 for batch normalisation over the whole batch".to_owned());
        }
        if !batch.is_multiple_of(bn_splits) {
            return Err(format!("a batch of {batch} is not divisible into bn_splits = {bn_splits} equal groups: change one of them"));
        }
        if batch / bn_splits < 2 {
            return Err(format!(
                "a batch of {batch} in bn_splits = {bn_splits} groups leaves {} images to each, and batch normalisation needs two",
                batch / bn_splits
            ));
        }
        let keys = self.keys_per_step(batch);
        if queue < keys {
            return Err(format!("queue is {queue}: it cannot hold the {keys} keys that one step on a batch of {batch} adds"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_without_meaning_are_refused_by_name() {
        let sound = Settings { queue: 64, bn_splits: 4, ..Settings::default() };
        assert_eq!(sound.validate(64), Ok(()));
        assert_eq!(sound.validate(8), Ok(()));
        for (settings, batch, words) in [
            (Settings { key_momentum: 1.1, ..sound }, 64, "key_momentum is 1.1"),
            (Settings { key_momentum: f64::NAN, ..sound }, 64, "key_momentum is NaN"),
            (Settings { temperature: 0.0, ..sound }, 64, "temperature is 0"),
            (Settings { temperature: f64::INFINITY, ..sound }, 64, "temperature is inf"),
            (Settings { bn_splits: 0, ..sound }, 64, "bn_splits is 0"),
            (sound, 62, "a batch of 62 is not divisible into bn_splits = 4"),
            (sound, 4, "leaves 1 images to each"),
            (sound, 0, "leaves 0 images to each"),
            (sound, 68, "queue is 64: it cannot hold the 68 keys"),
            (Settings { symmetric: true, ..sound }, 36, "queue is 64: it cannot hold the 72 keys"),
            (Settings { queue: 0, ..sound }, 8, "queue is 0"),
        ] {
            let sentence = settings.validate(batch).unwrap_err();
            assert!(sentence.contains(words), "{sentence}");
        }
    }
}
