//! Recipes: everything that decides how a run goes, as one value, readable and writable as TOML.
//!
//! [`Recipe::v1`], [`Recipe::v2`] and [`Recipe::cifar`] are the settings of the published programs to the digit; what the
//! papers leave to several devices (shuffled batch norm) is done on one, by split batch norm and a shuffle in the batch.
//! The code branches on parts of a recipe and never on its name, so a new recipe is a new value.
//!
//! Every key is written out and none may be left away: a run folder's `config.toml` says all that there is to say.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use moco_encoder::{
    Architecture, Depth, Head, ResNet, Stem,
    image::{Interpolation, Preprocessing},
};
use serde::{Deserialize, Serialize};

use crate::{
    augmentation::Augmentation,
    knn, moco, optimiser,
    schedule::{Decay, Schedule, Update},
};

/// Everything that decides how a run goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the run calls itself in the manifest.
    pub name: String,
    /// All random draws follow from it: weights, queue, order of pictures, crops, shuffles.
    pub seed: u64,
    /// Passes over the pictures.
    pub epochs: u64,
    /// Pairs in a step. The learning rate goes with it.
    pub batch: usize,
    pub encoder: Architecture,
    pub moco: moco::Settings,
    pub optimiser: optimiser::Settings,
    pub schedule: Schedule,
    pub augmentation: Augmentation,
    /// How pictures are prepared outside training. Its mean and deviation are those of training, too.
    pub preprocessing: Preprocessing,
    pub evaluation: Evaluation,
    pub checkpoints: Checkpoints,
}

/// k-NN evaluation during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Epochs between two evaluations; parts of an epoch are allowed. The end of the run is always evaluated.
    pub every_epochs: f64,
    pub knn: knn::Settings,
}

/// Resumable states of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoints {
    /// Epochs between two checkpoints; parts of an epoch are allowed. The end of the run always leaves one.
    pub every_epochs: f64,
    /// How many of the newest are kept.
    pub keep: usize,
}

/// The recipes that have a name.
pub const NAMES: [&str; 3] = ["v1", "v2", "cifar"];

/// Why a recipe is refused. Nothing has been started then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("there is no recipe {name}; there are {}", NAMES.join(", "))]
    UnknownName { name: String },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not a recipe: {detail}", path.display())]
    File { path: PathBuf, detail: String },
    #[error("--set {assignment} has not the form key=value")]
    NoAssignment { assignment: String },
    #[error("--set {assignment}: the recipe has no section {section}")]
    NoSection { assignment: String, section: String },
    #[error("--set {}: {detail}", assignments.join(" --set "))]
    Set { assignments: Vec<String>, detail: String },
    #[error("--set changes a recipe, so name one by --recipe or --config (the recipe of a run that is resumed stays as it is)")]
    SetAlone,
    #[error("{0}")]
    Invalid(String),
}

impl Recipe {
    /// MoCo v1, <https://arxiv.org/abs/1911.05722>: ResNet-50, linear head, stepwise schedule.
    pub fn v1() -> Self {
        Self {
            name: "v1".into(),
            seed: 0,
            epochs: 200,
            batch: 256,
            encoder: Architecture { backbone: ResNet::new(Depth::R50, Stem::Imagenet), head: Head::Linear { dim: 128 } },
            moco: moco::Settings {
                queue: 65_536,
                key_momentum: 0.999,
                temperature: 0.07,
                // The reference trains on 8 devices of 32 pictures each.
                bn_splits: 8,
                shuffle: true,
                symmetric: false,
            },
            optimiser: optimiser::Settings { momentum: 0.9, weight_decay: 1e-4 },
            schedule: Schedule {
                learning_rate: 0.03,
                update: Update::Epoch,
                decay: Decay::Step { milestones: vec![120.0, 160.0], factor: 0.1 },
            },
            augmentation: Augmentation::v1(),
            preprocessing: Preprocessing::imagenet(),
            // The setting of the instance discrimination paper, on which MoCo's own evaluation rests.
            evaluation: Evaluation { every_epochs: 5.0, knn: knn::Settings { k: 200, temperature: 0.07 } },
            checkpoints: Checkpoints { every_epochs: 1.0, keep: 3 },
        }
    }

    /// MoCo v2, <https://arxiv.org/abs/2003.04297>: v1 with an MLP head, blur, a higher temperature and a cosine schedule.
    pub fn v2() -> Self {
        let v1 = Self::v1();
        Self {
            name: "v2".into(),
            encoder: Architecture { head: Head::Mlp { hidden: 2048, dim: 128 }, ..v1.encoder.clone() },
            moco: moco::Settings { temperature: 0.2, ..v1.moco },
            schedule: Schedule { decay: Decay::Cosine {}, ..v1.schedule.clone() },
            augmentation: Augmentation::v2(),
            ..v1
        }
    }

    /// The MoCo authors' CIFAR-10 demonstration with the cosine schedule of its published curve.
    pub fn cifar() -> Self {
        Self {
            name: "cifar".into(),
            seed: 0,
            epochs: 200,
            batch: 512,
            encoder: Architecture { backbone: ResNet::new(Depth::R18, Stem::Cifar), head: Head::Linear { dim: 128 } },
            moco: moco::Settings { queue: 4096, key_momentum: 0.99, temperature: 0.1, bn_splits: 8, shuffle: true, symmetric: false },
            optimiser: optimiser::Settings { momentum: 0.9, weight_decay: 5e-4 },
            schedule: Schedule { learning_rate: 0.06, update: Update::Epoch, decay: Decay::Cosine {} },
            augmentation: Augmentation::cifar(),
            preprocessing: Preprocessing {
                resize: 32,
                crop: 32,
                interpolation: Interpolation::Bilinear,
                background: [255; 3],
                mean: [0.4914, 0.4822, 0.4465],
                std: [0.2023, 0.1994, 0.2010],
            },
            evaluation: Evaluation { every_epochs: 1.0, knn: knn::Settings { k: 200, temperature: 0.1 } },
            checkpoints: Checkpoints { every_epochs: 1.0, keep: 3 },
        }
    }

    /// The recipe of that name.
    ///
    /// # Errors
    /// [`Error::UnknownName`], which lists those that exist.
    pub fn named(name: &str) -> Result<Self, Error> {
        match name {
            "v1" => Ok(Self::v1()),
            "v2" => Ok(Self::v2()),
            "cifar" => Ok(Self::cifar()),
            other => Err(Error::UnknownName { name: other.into() }),
        }
    }

    /// Reads a recipe from a file.
    ///
    /// # Errors
    /// If the file cannot be read, is no TOML, lacks a key, or has one that is not known; the line is named.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        toml::from_str(&text).map_err(|error| Error::File { path: path.into(), detail: sentence(&error, &text) })
    }

    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a validated recipe holds tables, strings, numbers and lists only")
    }

    /// The recipe with `key=value` assignments, keys as dotted paths and values as TOML writes them; a bare word is a
    /// string. Parts that belong together are given together: `encoder.head={kind="mlp", hidden=512, dim=128}`.
    ///
    /// # Errors
    /// If an assignment has no `=`, names a section that is not there, or the result is no recipe.
    pub fn with(&self, assignments: &[String]) -> Result<Self, Error> {
        if assignments.is_empty() {
            return Ok(self.clone());
        }
        // By way of the text: a table built from the value would hold 0.4914 as an f32 widened to f64.
        let mut table: toml::Table = toml::from_str(&self.to_toml()).expect("what was written as TOML is TOML");
        for assignment in assignments {
            assign(&mut table, assignment)?;
        }
        let text = toml::to_string(&table).expect("a table of TOML values can be written");
        toml::from_str(&text).map_err(|error| Error::Set { assignments: assignments.to_vec(), detail: error.message().to_owned() })
    }

    /// The first key in which another recipe differs, with both values; `None` if it is the same.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let table = |recipe: &Self| toml::from_str(&recipe.to_toml()).expect("what was written as TOML is TOML");
        let (ours, theirs) = (flat("", &table(self)), flat("", &table(other)));
        let keys = ours.keys().chain(theirs.keys()).find(|key| ours.get(*key) != theirs.get(*key))?;
        let value = |table: &BTreeMap<String, toml::Value>| table.get(keys).map_or_else(|| "not set".to_owned(), ToString::to_string);
        Some(format!("{keys} is {}, not {}", value(&ours), value(&theirs)))
    }

    /// Checks what the types leave open and what does not depend on the pictures.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub fn validate(&self) -> Result<(), Error> {
        self.check().map_err(Error::Invalid)
    }

    fn check(&self) -> Result<(), String> {
        let Self { seed, epochs, batch, encoder, moco, optimiser, schedule, augmentation, preprocessing, evaluation, checkpoints, .. } =
            self;
        if i64::try_from(*seed).is_err() {
            return Err(format!("seed is {seed}: it must not exceed {}", i64::MAX));
        }
        for (key, value, most) in
            [("epochs", *epochs, 1 << 32), ("batch", *batch as u64, 1 << 20), ("moco.queue", moco.queue as u64, 1 << 28)]
        {
            if value == 0 || value > most {
                return Err(format!("{key} is {value}: it must lie in 1..={most}"));
            }
        }
        encoder.validate().map_err(|fault| format!("encoder.{fault}"))?;
        if encoder.head.dim().is_none() {
            return Err("encoder.head is none: the loss is taken in the projection, so training needs a head".into());
        }
        if moco.bn_splits == 0 || !batch.is_multiple_of(moco.bn_splits) {
            return Err(format!(
                "batch is {batch} and moco.bn_splits is {}: a batch must divide into equal groups of batch norm",
                moco.bn_splits
            ));
        }
        if batch / moco.bn_splits < 2 {
            return Err(format!(
                "batch is {batch} and moco.bn_splits is {}: a group of batch norm needs at least two pictures",
                moco.bn_splits
            ));
        }
        moco.validate(*batch).map_err(|fault| format!("moco.{fault}"))?;
        optimiser.validate().map_err(|fault| format!("optimiser.{fault}"))?;
        schedule.validate()?;
        augmentation.validate().map_err(|fault| format!("augmentation.{fault}"))?;
        preprocessing.validate().map_err(|fault| format!("preprocessing.{fault}"))?;
        positive("evaluation.every_epochs", evaluation.every_epochs)?;
        if evaluation.knn.k == 0 {
            return Err("evaluation.knn.k is 0: at least one neighbour votes".into());
        }
        positive("evaluation.knn.temperature", evaluation.knn.temperature)?;
        positive("checkpoints.every_epochs", checkpoints.every_epochs)?;
        if checkpoints.keep == 0 {
            return Err("checkpoints.keep is 0: a run keeps at least one".into());
        }
        Ok(())
    }

    /// Checks the recipe against the number of pictures that it is to train on.
    ///
    /// # Errors
    /// One sentence that says what to change.
    pub fn check_against(&self, images: usize, source: &Path) -> Result<(), Error> {
        let Self { batch, moco, .. } = self;
        let source = source.display();
        if images < *batch {
            let splits = moco.bn_splits;
            let most = images / splits * splits;
            let advice = if most >= 2 * splits {
                format!("set batch to at most {most}, a multiple of moco.bn_splits (--set batch={most})")
            } else {
                "train on more pictures".into()
            };
            return Err(Error::Invalid(format!("batch is {batch}, and {source} holds {images} images: {advice}")));
        }
        if images < moco.queue {
            // Half of the pictures, so that a query meets its own picture among the negatives in few of its steps.
            let step = moco.keys_per_step(*batch);
            let half = (images / 2 / step * step).max(step);
            return Err(Error::Invalid(format!(
                "moco.queue is {}, and {source} holds {images} images: a queue longer than that holds every image's own key as a \
                 negative; set it to at most half of them (--set moco.queue={half})",
                moco.queue
            )));
        }
        Ok(())
    }

    /// What is allowed and seldom meant, a sentence for each.
    pub fn warnings(&self, images: usize) -> Vec<String> {
        let Self { batch, moco, .. } = self;
        let mut warnings = Vec::new();
        if moco.bn_splits == 1 {
            warnings.push(
                "moco.bn_splits is 1: query and key share their batch's statistics, by which a network can tell the positive without \
                 looking at it"
                    .to_owned(),
            );
        } else if !moco.shuffle {
            warnings.push(
                "moco.shuffle is off: a query and its key are normalised in groups of the same pictures, which gives them away".to_owned(),
            );
        }
        if moco.queue > images / 2 {
            warnings.push(format!(
                "moco.queue is {}, more than half of the {images} images: many negatives are keys of the query's own picture",
                moco.queue
            ));
        }
        let left_out = images % batch;
        if left_out * 10 > images {
            warnings.push(format!("{left_out} of {images} images are left out of each epoch, since {batch} do not fill another batch"));
        }
        warnings
    }
}

fn positive(key: &str, value: f64) -> Result<(), String> {
    if value.is_finite() && value > 0.0 { Ok(()) } else { Err(format!("{key} is {value}: it must be finite and above 0")) }
}

/// The values of a table and of the tables in it, by dotted paths.
fn flat(prefix: &str, table: &toml::Table) -> BTreeMap<String, toml::Value> {
    let mut values = BTreeMap::new();
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            toml::Value::Table(inner) => values.append(&mut flat(&format!("{path}."), inner)),
            other => {
                values.insert(path, other.clone());
            }
        }
    }
    values
}

/// Puts one `key=value` into the table of a recipe.
fn assign(table: &mut toml::Table, assignment: &str) -> Result<(), Error> {
    let missing = || Error::NoAssignment { assignment: assignment.into() };
    let (key, value) = assignment.split_once('=').ok_or_else(missing)?;
    let (key, value) = (key.trim(), value.trim());
    let mut sections: Vec<&str> = key.split('.').collect();
    let last = sections.pop().filter(|last| !last.is_empty()).ok_or_else(missing)?;
    let mut section = table;
    for name in &sections {
        section = match section.get_mut(*name) {
            Some(toml::Value::Table(inner)) => inner,
            _ => return Err(Error::NoSection { assignment: assignment.into(), section: sections.join(".") }),
        };
    }
    section.insert(last.to_owned(), value_of(value));
    Ok(())
}

/// A value as TOML writes it, else the text itself.
fn value_of(text: &str) -> toml::Value {
    let parsed = toml::from_str::<toml::Table>(&format!("value = {text}")).ok();
    parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value")).unwrap_or_else(|| toml::Value::String(text.into()))
}

/// The parser's message on one line, with the line of the file.
fn sentence(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    match error.span() {
        Some(span) => format!("line {}: {message}", text[..span.start].matches('\n').count() + 1),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augmentation::Operation;

    fn set(recipe: &Recipe, assignments: &[&str]) -> Result<Recipe, Error> {
        recipe.with(&assignments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn fault(assignments: &[&str]) -> String {
        set(&Recipe::cifar(), assignments).unwrap().validate().unwrap_err().to_string()
    }

    #[test]
    fn v1_is_the_published_table() {
        let recipe = Recipe::v1();
        assert_eq!(recipe.encoder.backbone, ResNet::new(Depth::R50, Stem::Imagenet));
        assert_eq!(recipe.encoder.head, Head::Linear { dim: 128 });
        assert_eq!((recipe.moco.queue, recipe.moco.key_momentum, recipe.moco.temperature), (65_536, 0.999, 0.07));
        assert_eq!((recipe.batch, recipe.epochs, recipe.moco.symmetric), (256, 200, false));
        assert_eq!((recipe.optimiser.momentum, recipe.optimiser.weight_decay), (0.9, 1e-4));
        assert_eq!((recipe.schedule.learning_rate, recipe.schedule.update), (0.03, Update::Epoch));
        assert_eq!(recipe.schedule.decay, Decay::Step { milestones: vec![120.0, 160.0], factor: 0.1 });
        assert_eq!(recipe.batch / recipe.moco.bn_splits, 32, "pictures on one of the reference's devices");
        assert_eq!((recipe.preprocessing.resize, recipe.preprocessing.crop), (256, 224));
        assert_eq!(recipe.augmentation, Augmentation::v1());
    }

    #[test]
    fn v2_differs_from_v1_in_what_its_paper_says() {
        let (v1, v2) = (Recipe::v1(), Recipe::v2());
        assert_eq!(v2.encoder.head, Head::Mlp { hidden: 2048, dim: 128 });
        assert_eq!(v2.moco.temperature, 0.2);
        assert_eq!(v2.schedule.decay, Decay::Cosine {});
        assert_eq!(v2.augmentation, Augmentation::v2());
        let back = Recipe { name: v1.name.clone(), augmentation: v1.augmentation.clone(), ..v2 };
        let back = Recipe { encoder: v1.encoder.clone(), moco: v1.moco, schedule: v1.schedule.clone(), ..back };
        assert_eq!(back, v1);
    }

    #[test]
    fn cifar_is_the_published_demonstration_with_its_cosine() {
        let recipe = Recipe::cifar();
        assert_eq!(recipe.encoder.backbone, ResNet::new(Depth::R18, Stem::Cifar));
        assert_eq!(recipe.encoder.head, Head::Linear { dim: 128 });
        assert_eq!((recipe.moco.queue, recipe.moco.key_momentum, recipe.moco.temperature), (4096, 0.99, 0.1));
        assert_eq!((recipe.moco.bn_splits, recipe.moco.shuffle, recipe.moco.symmetric), (8, true, false));
        assert_eq!((recipe.batch, recipe.epochs), (512, 200));
        assert_eq!((recipe.optimiser.momentum, recipe.optimiser.weight_decay), (0.9, 5e-4));
        assert_eq!(recipe.schedule, Schedule { learning_rate: 0.06, update: Update::Epoch, decay: Decay::Cosine {} });
        assert_eq!((recipe.evaluation.knn.k, recipe.evaluation.knn.temperature), (200, 0.1));
        assert_eq!(recipe.preprocessing.mean, [0.4914, 0.4822, 0.4465]);
        assert_eq!(recipe.preprocessing.std, [0.2023, 0.1994, 0.2010]);
        assert_eq!((recipe.preprocessing.resize, recipe.preprocessing.crop), (32, 32));
        assert_eq!(recipe.augmentation, Augmentation::cifar());
        let (size, scale, jitter) = (recipe.augmentation.size, recipe.augmentation.crop_scale, recipe.augmentation.operations[0]);
        let published = Operation::ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1, p: 0.8 };
        assert_eq!((size, scale, jitter), (32, [0.08, 1.0], published));
    }

    #[test]
    fn every_named_recipe_is_valid_and_comes_back_from_its_toml() {
        for name in NAMES {
            let recipe = Recipe::named(name).unwrap();
            assert_eq!(recipe.name, name);
            recipe.validate().unwrap();
            let text = recipe.to_toml();
            assert_eq!(toml::from_str::<Recipe>(&text).unwrap(), recipe);
            assert!(!text.contains("00000"), "a number is written with the digits that it was given:\n{text}");
        }
        assert_eq!(Recipe::named("v9").unwrap_err().to_string(), "there is no recipe v9; there are v1, v2, cifar");
    }

    #[test]
    fn assignments_reach_every_depth_and_leave_the_rest_alone() {
        let recipe = set(&Recipe::cifar(), &["batch=64", "moco.temperature = 0.2", "evaluation.knn.k=20", "name=mine"]).unwrap();
        assert_eq!((recipe.batch, recipe.moco.temperature, recipe.evaluation.knn.k, recipe.name.as_str()), (64, 0.2, 20, "mine"));
        let back = set(&recipe, &["batch=512", "moco.temperature=0.1", "evaluation.knn.k=200", "name=cifar"]).unwrap();
        assert_eq!(back, Recipe::cifar());
        let recipe = set(&recipe, &["encoder.head={kind=\"mlp\", hidden=32, dim=16}", "encoder.backbone.depth=34"]).unwrap();
        assert_eq!((recipe.encoder.head, recipe.encoder.backbone.depth), (Head::Mlp { hidden: 32, dim: 16 }, Depth::R34));
    }

    #[test]
    fn a_difference_is_named_by_its_key() {
        let other = set(&Recipe::cifar(), &["moco.temperature=0.2"]).unwrap();
        assert_eq!(Recipe::cifar().difference(&other).unwrap(), "moco.temperature is 0.1, not 0.2");
        assert_eq!(Recipe::cifar().difference(&Recipe::cifar()), None);
        let other = set(&Recipe::cifar(), &["encoder.head={kind=\"mlp\", hidden=4, dim=128}"]).unwrap();
        assert_eq!(Recipe::cifar().difference(&other).unwrap(), "encoder.head.kind is \"linear\", not \"mlp\"");
    }

    #[test]
    fn an_assignment_that_means_nothing_is_refused_by_name() {
        let refused = |assignment: &str| set(&Recipe::cifar(), &[assignment]).unwrap_err().to_string();
        assert_eq!(refused("batch"), "--set batch has not the form key=value");
        assert_eq!(refused("=3"), "--set =3 has not the form key=value");
        assert_eq!(refused("optimizer.momentum=0.8"), "--set optimizer.momentum=0.8: the recipe has no section optimizer");
        for (assignment, words) in [
            ("optimiser.lr=1", ["optimiser.lr=1", "unknown field `lr`"]),
            ("batch=many", ["batch=many", "invalid type: string \"many\""]),
            ("schedule.decay.kind=linear", ["schedule.decay.kind=linear", "unknown variant `linear`"]),
            ("encoder.backbone.depth=19", ["encoder.backbone.depth=19", "use 18, 34 or 50"]),
            ("colour=blue", ["colour=blue", "unknown field `colour`"]),
        ] {
            let sentence = refused(assignment);
            assert!(words.iter().all(|word| sentence.contains(word)) && sentence.lines().count() == 1, "{sentence}");
        }
    }

    #[test]
    fn a_file_that_is_no_recipe_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let refused = |text: &str| {
            fs::write(&path, text).unwrap();
            let sentence = Recipe::read(&path).unwrap_err().to_string();
            assert!(sentence.contains("mine.toml") && sentence.lines().count() == 1, "{sentence}");
            sentence
        };
        let good = Recipe::v2().to_toml();
        fs::write(&path, &good).unwrap();
        assert_eq!(Recipe::read(&path).unwrap(), Recipe::v2());
        let sentence = refused(&good.replacen("epochs = 200", "epochs = 200\nepoch = 3", 1));
        assert!(sentence.contains("unknown field `epoch`") && sentence.contains("line 4"), "{sentence}");
        assert!(refused(&good.replacen("epochs = 200\n", "", 1)).contains("missing field `epochs`"));
        assert!(refused("batch = = 3").contains("line 1"));
        assert!(Recipe::read(&folder.path().join("nowhere.toml")).unwrap_err().to_string().contains("nowhere.toml"));
    }

    #[test]
    fn what_cannot_be_trained_is_refused_by_key() {
        for (assignment, key) in [
            ("epochs=0", "epochs is 0"),
            ("batch=0", "batch is 0"),
            ("batch=60", "batch is 60 and moco.bn_splits is 8"),
            ("batch=8", "at least two pictures"),
            ("moco.bn_splits=0", "moco.bn_splits is 0"),
            ("moco.queue=0", "moco.queue is 0"),
            ("moco.queue=100", "moco.queue is 100: it cannot hold the 512 keys"),
            ("moco.key_momentum=1.5", "moco.key_momentum is 1.5"),
            ("moco.temperature=0.0", "moco.temperature is 0"),
            ("optimiser.momentum=1.0", "optimiser.momentum is 1"),
            ("optimiser.weight_decay=-1.0", "optimiser.weight_decay is -1"),
            ("schedule.learning_rate=nan", "schedule.learning_rate is NaN"),
            ("encoder.head={kind=\"none\"}", "training needs a head"),
            ("encoder.backbone.width=0", "encoder.backbone.width is 0"),
            ("preprocessing.crop=0", "preprocessing.crop is 0"),
            ("evaluation.knn.k=0", "evaluation.knn.k is 0"),
            ("evaluation.knn.temperature=0.0", "evaluation.knn.temperature is 0"),
            ("evaluation.every_epochs=0.0", "evaluation.every_epochs is 0"),
            ("checkpoints.every_epochs=-1.0", "checkpoints.every_epochs is -1"),
            ("checkpoints.keep=0", "checkpoints.keep is 0"),
        ] {
            let sentence = fault(&[assignment]);
            assert!(sentence.contains(key), "{assignment}: {sentence}");
        }
    }

    #[test]
    fn too_few_images_are_refused_with_a_setting_that_works() {
        let source = Path::new("pictures");
        let refused = |images| Recipe::cifar().check_against(images, source).unwrap_err().to_string();
        let sentence = refused(300);
        assert!(sentence.contains("pictures holds 300 images") && sentence.ends_with("(--set batch=296)"), "{sentence}");
        set(&Recipe::cifar(), &["batch=296", "moco.queue=300"]).unwrap().check_against(300, source).unwrap();
        assert!(refused(15).ends_with("train on more pictures"));
        let sentence = refused(4000);
        assert!(sentence.contains("moco.queue is 4096") && sentence.ends_with("(--set moco.queue=1536)"), "{sentence}");
        let mended = set(&Recipe::cifar(), &["moco.queue=1536"]).unwrap();
        mended.check_against(4000, source).unwrap();
        assert!(mended.warnings(4000).iter().all(|warning| !warning.contains("queue")));
        Recipe::cifar().check_against(50_000, source).unwrap();
    }

    #[test]
    fn what_is_seldom_meant_is_said() {
        let warning = |assignments: &[&str], images| {
            let mut warnings = set(&Recipe::cifar(), assignments).unwrap().warnings(images);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            warnings.remove(0)
        };
        assert!(warning(&["moco.bn_splits=1"], 50_000).contains("moco.bn_splits is 1"));
        assert!(warning(&["moco.shuffle=false"], 50_000).contains("moco.shuffle is off"));
        assert!(warning(&[], 5_120).contains("more than half of the 5120 images"));
        assert!(warning(&["moco.queue=512"], 1_500).contains("476 of 1500 images are left out"));
    }
}
