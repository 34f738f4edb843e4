//! Pre-training: pictures in, an encoder out, and a run folder that says how it went.
//!
//! [`prepare`] checks everything that can be checked before anything is written; [`Prepared::run`] trains. The loop itself is
//! in `training.rs`, and what it leaves behind in `run_folder.rs` and `checkpoint.rs`.

mod checkpoint;
mod durable;
mod error;
mod evaluation;
mod metrics;
mod plan;
mod progress;
mod run_folder;
mod stop;
mod training;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use moco_encoder::Encoder;
use tch::{Device, Kind};

use self::{
    checkpoint::{Checkpoint, Checkpoints},
    progress::Progress,
    training::{Interval, Training},
};
pub use self::{
    checkpoint::{Error as CheckpointError, Evaluated, Position},
    error::Error,
    evaluation::{Error as EvaluationError, Evaluator, Scores},
    metrics::{Line, Metrics},
    plan::{Memory, Plan},
    run_folder::{Error as RunFolderError, RunFolder},
    stop::{Signal, Stop},
};
use crate::{
    data::ImageFolder,
    device,
    loader::{self, Loader},
    moco::Moco,
    network::Params,
    recipe::Recipe,
};

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The recipe; when resuming it may be left away, and must be the run's own otherwise.
    pub recipe: Option<Recipe>,
    /// Folder of the pictures to train on.
    pub data: PathBuf,
    /// Labelled pictures to score by k-NN.
    pub held_out: Option<PathBuf>,
    /// The run folder.
    pub run: PathBuf,
    /// An `encoder.safetensors` to start from.
    pub init: Option<PathBuf>,
    pub device: device::Choice,
    /// Threads of libtorch; one for each CPU unless stated, or as many as the run that is resumed had.
    pub threads: Option<usize>,
    pub resume: bool,
    /// Ends the run after this time, with the schedule at its end.
    pub max_minutes: Option<f64>,
}

/// How a run ended without an error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    Finished {
        step: u64,
    },
    /// A checkpoint was written at this step.
    Interrupted {
        signal: Signal,
        step: u64,
    },
}

/// A run that was checked and can start.
pub struct Prepared {
    plan: Plan,
    options: Options,
    folder: ImageFolder,
    evaluator: Option<Evaluator>,
    device: Device,
    init: Option<Encoder>,
    /// What is locked and read already when a run is resumed.
    resumed: Option<Resumed>,
}

struct Resumed {
    run: RunFolder,
    checkpoint: Option<Checkpoint>,
}

/// Checks everything that can be checked without writing.
///
/// # Errors
/// One sentence that says what is wrong; nothing has been changed then.
pub fn prepare(options: Options) -> Result<Prepared, Error> {
    if let Some(minutes) = options.max_minutes
        && !(minutes.is_finite() && minutes > 0.0)
    {
        return Err(Error::MaxMinutes(minutes));
    }
    if options.threads == Some(0) {
        return Err(Error::NoThreads);
    }
    if let Some(recipe) = &options.recipe {
        recipe.validate()?;
    }
    let (recipe, resumed) = if options.resume { resume(&options)? } else { (options.recipe.clone().ok_or(Error::NoRecipe)?, None) };
    if !options.resume && run_folder::holds_run(&options.run) {
        return Err(RunFolderError::Holds { path: options.run.clone() }.into());
    }
    let init = options.init.as_ref().map(|path| read_init(path, &recipe)).transpose()?;
    let opened = options.device.open()?;

    let position = resumed.as_ref().and_then(|resumed| resumed.checkpoint.as_ref()).map(|(position, _)| position);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.or(position.map(|position| position.threads)).unwrap_or(cpus);

    let folder = ImageFolder::open(&options.data)?;
    if let Some(position) = position
        && position.data_hash != folder.hash()
    {
        return Err(Error::OtherData { data: options.data, run: options.run });
    }
    recipe.check_against(folder.samples.len(), &folder.root)?;
    let evaluator = match &options.held_out {
        None => None,
        Some(held_out) => {
            let held_out = ImageFolder::open(held_out)?;
            Some(Evaluator::new(folder.clone(), held_out, &recipe.preprocessing, &recipe.evaluation.knn)?)
        }
    };
    let plan = Plan {
        data: data_name(&options.data),
        images: folder.samples.len(),
        skipped: folder.skipped.len(),
        held_out: evaluator.as_ref().map(Evaluator::queries),
        device: opened.description,
        threads,
        // Workers sleep while they are ahead, so that they may share the CPUs with libtorch.
        workers: cpus,
        max_minutes: options.max_minutes,
        recipe,
    };
    Ok(Prepared { plan, options, folder, evaluator, device: opened.device, init, resumed })
}

/// The run to go on with: its recipe, and its newest checkpoint.
fn resume(options: &Options) -> Result<(Recipe, Option<Resumed>), Error> {
    if options.init.is_some() {
        return Err(Error::InitOfResumed);
    }
    let (run, recipe) = RunFolder::open(&options.run)?;
    if let Some(given) = &options.recipe
        && let Some(difference) = recipe.difference(given)
    {
        return Err(Error::OtherRecipe { run: options.run.clone(), difference });
    }
    let checkpoint = Checkpoints::open(&run.checkpoints(), recipe.checkpoints.keep)?.read_newest()?;
    Ok((recipe, Some(Resumed { run, checkpoint })))
}

fn read_init(path: &Path, recipe: &Recipe) -> Result<Encoder, Error> {
    let encoder = Encoder::read(path).map_err(|source| Error::Init { path: path.into(), source })?;
    let (theirs, ours) = (encoder.manifest().architecture(), &recipe.encoder);
    if theirs != *ours {
        let difference = if theirs.backbone == ours.backbone {
            format!("its head is {:?}, the recipe's {:?}", theirs.head, ours.head)
        } else {
            format!("its backbone is {:?}, the recipe's {:?}", theirs.backbone, ours.backbone)
        };
        return Err(Error::InitOther { path: path.into(), difference });
    }
    Ok(encoder)
}

/// What a data set is called: the name of its folder, with that above it where this one only says which part it is.
fn data_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.into());
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    match (name(&path), path.parent().and_then(name)) {
        (Some(part), Some(whole)) if ["train", "training"].contains(&part.as_str()) => format!("{whole}/{part}"),
        (Some(part), _) => part,
        (None, _) => "/".into(),
    }
}

const PROGRAM: &str = concat!("moco-train ", env!("CARGO_PKG_VERSION"));

impl Prepared {
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Trains until the recipe's epochs or the time limit are over, or a stop is asked for.
    ///
    /// # Errors
    /// See [`Error`]. Whatever happens, the checkpoints that were written are intact.
    pub fn run(self, stop: &Stop) -> Result<Outcome, Error> {
        let recipe = self.plan.recipe.clone();
        let threads = i32::try_from(self.plan.threads).unwrap_or(i32::MAX);
        tch::set_num_threads(threads);

        let (run, checkpoint) = match self.resumed {
            Some(Resumed { run, checkpoint }) => (run, checkpoint),
            None => (RunFolder::create(&self.options.run)?, None),
        };
        let checkpoints = Checkpoints::open(&run.checkpoints(), recipe.checkpoints.keep)?;
        let mut moco = match &self.init {
            None => Moco::new(&recipe.encoder, &recipe.moco, &recipe.optimiser, recipe.seed, self.device),
            Some(encoder) => {
                let weights = Params::from_tensors(&recipe.encoder, encoder.tensors(), Kind::Float, self.device);
                Moco::starting_from(&recipe.encoder, &weights, &recipe.moco, &recipe.optimiser, recipe.seed)
            }
        };
        let mut progress = Progress::new();
        let position = match checkpoint {
            Some((position, state)) => {
                moco.load_state(&state).map_err(|source| Error::State { step: position.step, source })?;
                progress.say(&format!("resuming after step {}", position.step));
                if position.threads != self.plan.threads || position.device != device_name(self.device) {
                    progress.say(&format!(
                        "the run was on {} with {} threads and goes on on {} with {}: it will not be equal bit by bit",
                        position.device,
                        position.threads,
                        device_name(self.device),
                        self.plan.threads
                    ));
                }
                Position { threads: self.plan.threads, device: device_name(self.device), ..position }
            }
            None => {
                if self.options.resume {
                    progress.say("there is no checkpoint yet: starting from the first step");
                }
                Position {
                    step: 0,
                    epoch: 0,
                    batch: 0,
                    seed: recipe.seed,
                    threads: self.plan.threads,
                    device: device_name(self.device),
                    seconds: 0.0,
                    evaluated: None,
                    best: None,
                    data_hash: self.folder.hash(),
                    images: self.folder.samples.len() as u64,
                    program: PROGRAM.into(),
                }
            }
        };
        if !self.options.resume {
            if self.init.is_some() {
                // The weights come from outside, so they must be here before the run can be resumed.
                checkpoints.write(&position, &moco.state())?;
            }
            run.begin(&recipe)?;
        }
        let metrics = Metrics::open(&run.metrics(), position.step).map_err(|source| Error::Write { path: run.metrics(), source })?;
        let settings = loader::Settings {
            workers: self.plan.workers,
            background: recipe.preprocessing.background,
            ..loader::Settings::new(recipe.seed, recipe.batch)
        };
        let loader = Loader::new(self.folder, recipe.augmentation.clone(), settings)?;
        let training = Training {
            steps_per_epoch: loader.batches() as u64,
            limit: self.plan.max_minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes)),
            recipe,
            data: self.plan.data,
            device: self.device,
            run,
            checkpoints,
            saved: None,
            metrics,
            loader,
            batches: None,
            evaluator: self.evaluator,
            moco,
            before: Duration::from_secs_f64(position.seconds),
            started: Instant::now(),
            first_step: position.step,
            position,
            interval: Interval::default(),
            progress,
        };
        training.run(stop)
    }
}

fn device_name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".into(),
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Mps => "mps".into(),
        Device::Vulkan => "vulkan".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_set_is_named_by_its_folder_and_not_by_its_part() {
        let folder = tempfile::tempdir().unwrap();
        let train = folder.path().join("flowers/train");
        std::fs::create_dir_all(&train).unwrap();
        assert_eq!(data_name(&train), "flowers/train");
        assert_eq!(data_name(train.parent().unwrap()), "flowers");
    }
}
