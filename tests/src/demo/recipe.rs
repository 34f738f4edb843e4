//! The training recipe of a demo, fitted to the number of pictures.

use std::path::PathBuf;

use anyhow::Context as _;
use moco_train::recipe::Recipe;

use super::{Settings, Stop, pictures::Pictures, programs::say, view::Orientations};
use crate::clients::workspace;

/// A recipe file and what is set beside it.
#[derive(Clone, Debug)]
pub struct Fitted {
    pub file: PathBuf,
    /// `key=value`, as `moco-train --set` takes them.
    pub assignments: Vec<String>,
    /// The two together.
    pub recipe: Recipe,
    /// What was fitted, for people.
    sentence: Option<String>,
}

impl Fitted {
    pub fn to(settings: &Settings, pictures: &Pictures) -> anyhow::Result<Self> {
        let file = match (&settings.recipe, &settings.images) {
            (Some(file), _) => file.clone(),
            (None, None) => workspace().join("tests/demo/cells.toml"),
            (None, Some(_)) => workspace().join("tests/demo/pictures.toml"),
        };
        let recipe = Recipe::read(&file).map_err(|error| Stop::Usage(format!("{:#}", anyhow::Error::from(error))))?;
        let mut assignments = Vec::new();
        if settings.seed != recipe.seed {
            assignments.push(format!("seed={}", settings.seed));
        }
        let images = pictures.train.len();
        let sizes = Sizes::of(&recipe).fitted_to(images);
        let fitted = sizes.assignments(&Sizes::of(&recipe));
        let sentence = (!fitted.is_empty()).then(|| {
            let Sizes { batch, queue, bn_splits } = sizes;
            format!("{images} pictures are few: a batch holds {batch} in {bn_splits} groups of batch norm, the queue {queue} keys.")
        });
        assignments.extend(fitted);
        let recipe = recipe.with(&assignments).with_context(|| format!("fitting {} to {images} pictures", file.display()))?;
        Ok(Self { file, assignments, recipe, sentence })
    }

    /// Says what was changed for want of pictures.
    pub fn explain(&self) -> anyhow::Result<()> {
        self.sentence.as_ref().map_or(Ok(()), say)?;
        Ok(())
    }

    /// How pictures are seen another time: as the encoder was shown that they may be.
    pub fn orientations(&self) -> Orientations {
        if self.recipe.augmentation.quarter_turns { Orientations::Eight } else { Orientations::Upright }
    }
}

/// What must go with the number of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    batch: usize,
    queue: usize,
    bn_splits: usize,
}

impl Sizes {
    fn of(recipe: &Recipe) -> Self {
        Self { batch: recipe.batch, queue: recipe.moco.queue, bn_splits: recipe.moco.bn_splits }
    }

    /// At least four steps an epoch, and a queue of half the pictures at most: in a longer one a query meets too many keys of its own picture.
    fn fitted_to(self, images: usize) -> Self {
        let batch = if self.batch * 4 <= images { self.batch } else { power_of_two_up_to(images / 4) };
        let bn_splits = if self.bn_splits * 4 <= batch || batch == self.batch { self.bn_splits } else { power_of_two_up_to(batch / 4) };
        let queue = if self.queue * 2 <= images { self.queue } else { (images / 2 / batch * batch).max(batch) };
        Self { batch, queue, bn_splits }
    }

    fn assignments(&self, before: &Self) -> Vec<String> {
        let keys = [
            ("batch", before.batch, self.batch),
            ("moco.queue", before.queue, self.queue),
            ("moco.bn_splits", before.bn_splits, self.bn_splits),
        ];
        keys.into_iter().filter(|(_, before, after)| before != after).map(|(key, _, after)| format!("{key}={after}")).collect()
    }
}

/// The largest power of two that is not larger; 1 for 0.
fn power_of_two_up_to(n: usize) -> usize {
    1 << n.max(1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pictures_get_a_smaller_batch_and_queue() {
        let sizes = Sizes { batch: 64, queue: 512, bn_splits: 8 };
        assert_eq!(sizes.fitted_to(5_000), sizes);
        assert_eq!(sizes.fitted_to(1_024), sizes);
        assert_eq!(sizes.fitted_to(1_023), Sizes { queue: 448, ..sizes });
        assert_eq!(sizes.fitted_to(200), Sizes { batch: 32, queue: 96, bn_splits: 8 });
        assert_eq!(sizes.fitted_to(32), Sizes { batch: 8, queue: 16, bn_splits: 2 });
        for images in 32..600 {
            let Sizes { batch, queue, bn_splits } = sizes.fitted_to(images);
            assert!(batch * 4 <= images && queue * 2 <= images && queue.is_multiple_of(batch), "{images}");
            assert!(batch.is_multiple_of(bn_splits) && batch / bn_splits >= 2, "{images}");
        }
        assert_eq!(sizes.fitted_to(200).assignments(&sizes), ["batch=32", "moco.queue=96"]);
    }
}
