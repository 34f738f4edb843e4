//! Pre-training: pictures in, an encoder out, and a run folder that says how it went.
//!
//! [`prepare`] checks everything that can be checked before anything is written; [`Prepared::run`] trains. The loop asks
//! at each step, in this order: is an evaluation due, was a stop asked for, is a checkpoint due, is the run at its end.
//! What is due follows from the number of the step, so a run that was stopped and resumed does what it would have done.

mod checkpoint;
mod durable;
mod evaluation;
mod metrics;
mod plan;
mod progress;
mod run_folder;
mod stop;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use moco_encoder::{Encoder, Manifest, Provenance, weights};
use tch::{Device, Kind, Tensor};

use self::{
    checkpoint::{Checkpoint, Checkpoints},
    progress::{Progress, Reading, duration},
};
pub use self::{
    checkpoint::{Error as CheckpointError, Evaluated, Position},
    evaluation::{Error as EvaluationError, Evaluator, Scores},
    metrics::{Line, Metrics},
    plan::{Memory, Plan},
    run_folder::{Error as RunFolderError, RunFolder},
    stop::{Signal, Stop},
};
use crate::{
    augmentation::normalize,
    data::{self, ImageFolder, Skipped},
    device,
    loader::{self, Batch, Batches, Loader},
    moco::{Moco, NonFinite, StateError},
    network::Params,
    random::{Purpose, permutation},
    recipe::{self, Recipe},
    schedule::Place,
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

/// Why training does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Recipe(#[from] recipe::Error),
    #[error("no recipe was given: name one by --recipe or --config, or go on with a run by --resume")]
    NoRecipe,
    #[error("--max-minutes is {0}: it must be above 0")]
    MaxMinutes(f64),
    #[error("--threads is 0: at least one is needed")]
    NoThreads,
    #[error(transparent)]
    Device(#[from] device::Error),
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    #[error(transparent)]
    RunFolder(#[from] RunFolderError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("the checkpoint of step {step} does not fit its recipe")]
    State {
        step: u64,
        #[source]
        source: StateError,
    },
    #[error("{} was started with another recipe: {difference}", run.display())]
    OtherRecipe { run: PathBuf, difference: String },
    #[error("{} is not the folder that {} was started with: its names and sizes give another hash", data.display(), run.display())]
    OtherData { data: PathBuf, run: PathBuf },
    #[error("--init cannot be joined with --resume: the run has its weights already")]
    InitOfResumed,
    #[error("--init {}", path.display())]
    Init {
        path: PathBuf,
        #[source]
        source: weights::Error,
    },
    #[error("--init {} holds another network than the recipe's: {difference}", path.display())]
    InitOther { path: PathBuf, difference: String },
    #[error("{source} (step {step}); its pictures and views are in {}", kept.display())]
    NonFinite {
        step: u64,
        kept: PathBuf,
        #[source]
        source: NonFinite,
    },
    #[error("the weights cannot be saved")]
    Weights(#[from] weights::WeightsError),
    #[error(transparent)]
    Encoder(#[from] weights::Error),
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the settings are at fault, so that nothing was started.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Recipe(_)
            | Self::NoRecipe
            | Self::MaxMinutes(_)
            | Self::NoThreads
            | Self::Device(_)
            | Self::OtherRecipe { .. }
            | Self::OtherData { .. }
            | Self::InitOfResumed
            | Self::InitOther { .. } => true,
            Self::RunFolder(error) => {
                matches!(error, RunFolderError::Holds { .. } | RunFolderError::HoldsNone { .. } | RunFolderError::Recipe { .. })
            }
            Self::Data(error) => matches!(error, data::Error::FewerThanBatch { .. } | data::Error::Settings(_)),
            Self::Evaluation(error) => matches!(
                error,
                EvaluationError::Unlabelled { .. }
                    | EvaluationError::OneClass { .. }
                    | EvaluationError::FewerThanK { .. }
                    | EvaluationError::Data(data::Error::UnknownClass { .. })
            ),
            _ => false,
        }
    }
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
            None => (RunFolder::create(&self.options.run, &recipe)?, None),
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

/// Sums over the steps since the last line of `metrics.jsonl`.
#[derive(Default)]
struct Interval {
    steps: u64,
    loss: f64,
    accuracy: f64,
    learning_rate: f64,
    waiting: Duration,
    working: Duration,
}

/// A run at work.
struct Training {
    recipe: Recipe,
    data: String,
    device: Device,
    run: RunFolder,
    checkpoints: Checkpoints,
    /// The step whose state is on disk.
    saved: Option<u64>,
    metrics: Metrics,
    loader: Loader,
    /// Of the epoch that is being trained on.
    batches: Option<Batches>,
    evaluator: Option<Evaluator>,
    moco: Moco,
    position: Position,
    steps_per_epoch: u64,
    limit: Option<Duration>,
    /// Time that was spent before this process took over.
    before: Duration,
    started: Instant,
    first_step: u64,
    interval: Interval,
    progress: Progress,
}

impl Training {
    fn run(mut self, stop: &Stop) -> Result<Outcome, Error> {
        if self.first_step > 0 {
            self.saved = Some(self.first_step);
            // The program may have ended between the checkpoint and the encoder that belongs to it.
            self.encoder()?.write(&self.run.encoder())?;
        }
        loop {
            let step = self.position.step;
            let finished = self.place().fraction() >= 1.0;
            if finished || self.is_due(self.recipe.evaluation.every_epochs) {
                self.evaluate(stop)?;
            }
            if let Some(signal) = stop.requested() {
                self.save()?;
                self.progress.finish();
                return Ok(Outcome::Interrupted { signal, step });
            }
            if finished || self.is_due(self.recipe.checkpoints.every_epochs) {
                self.save()?;
            }
            if finished {
                self.conclude();
                return Ok(Outcome::Finished { step });
            }
            self.step()?;
        }
    }

    /// Time spent on the run, by this process and those before it.
    fn elapsed(&self) -> Duration {
        self.before + self.started.elapsed()
    }

    fn place(&self) -> Place {
        let time = self.limit.map_or(0.0, |limit| self.elapsed().as_secs_f64() / limit.as_secs_f64());
        Place { step: self.position.step, steps_per_epoch: self.steps_per_epoch, epochs: self.recipe.epochs, time }
    }

    fn epoch(&self) -> f64 {
        self.position.step as f64 / self.steps_per_epoch as f64
    }

    /// Whether something that happens every so many epochs happens after the step that was just done.
    fn is_due(&self, every_epochs: f64) -> bool {
        let steps = every_epochs * self.steps_per_epoch as f64;
        let times = |step: u64| (step as f64 / steps).floor();
        self.position.step > 0 && times(self.position.step) > times(self.position.step - 1)
    }

    /// Takes one step.
    fn step(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        let batch = self.next_batch()?;
        self.interval.waiting += began.elapsed();

        let learning_rate = self.recipe.schedule.at(&self.place());
        let step = self.position.step;
        let order: Vec<i64> =
            permutation(self.recipe.seed, Purpose::KeyShuffle, step, batch.ids.len()).into_iter().map(|place| place as i64).collect();
        let views = [0, 1].map(|view| {
            let view = &batch.views[view];
            let augmented = self.recipe.augmentation.photometric(&view.crops.to_device(self.device), &view.draws);
            normalize(&augmented, &self.recipe.preprocessing)
        });
        let report = match self.moco.step([&views[0], &views[1]], &order, learning_rate) {
            Ok(report) => report,
            Err(source) => {
                let kept = self.keep(&batch, &views, learning_rate, source)?;
                return Err(Error::NonFinite { step, kept, source });
            }
        };
        self.position.step += 1;
        self.position.epoch = self.position.step / self.steps_per_epoch;
        self.position.batch = self.position.step % self.steps_per_epoch;
        let interval = &mut self.interval;
        interval.steps += 1;
        interval.loss += report.loss;
        interval.accuracy += report.accuracy;
        interval.learning_rate = learning_rate;
        interval.working += began.elapsed();
        self.report()
    }

    /// The next batch of this epoch, or the first of the next one.
    fn next_batch(&mut self) -> Result<Batch, Error> {
        if self.position.batch == 0 {
            self.batches = None;
        }
        let Position { epoch, batch, .. } = self.position;
        let batches = self.batches.get_or_insert_with(|| self.loader.epoch(epoch, batch as usize));
        Ok(batches.next().expect("an epoch has as many batches as the loader says")?)
    }

    /// Shows the state of things, and writes it down about 20 times an epoch.
    fn report(&mut self) -> Result<(), Error> {
        let Interval { steps, loss, accuracy, learning_rate, waiting, working } = self.interval;
        let count = steps as f64;
        let (loss, data_wait) = (loss / count, waiting.as_secs_f64() / working.as_secs_f64());
        let pairs_per_second = count * self.recipe.batch as f64 / working.as_secs_f64();
        let place = self.place();
        let left = self.time_left(&place);
        let fraction = place.fraction();
        let (step, epoch) = (self.position.step, self.epoch());
        self.progress.show(&Reading { fraction, step, epoch, loss, pairs_per_second, data_wait, left });
        let every = (self.steps_per_epoch / 20).clamp(1, 50);
        if step.is_multiple_of(every) || fraction >= 1.0 {
            let seconds = self.elapsed().as_secs_f64();
            let pretext_accuracy = accuracy / count;
            self.write(&Line::Train { step, epoch, loss, pretext_accuracy, learning_rate, pairs_per_second, data_wait, seconds })?;
            self.interval = Interval::default();
        }
        Ok(())
    }

    /// By the steps of this process so far, evaluations included, or by the clock.
    fn time_left(&self, place: &Place) -> Duration {
        let spent = self.started.elapsed();
        let done = (place.step - self.first_step).max(1) as f64;
        let by_steps = Duration::try_from_secs_f64(spent.as_secs_f64() / done * (place.total_steps() - place.step) as f64);
        let by_steps = by_steps.unwrap_or(Duration::MAX);
        self.limit.map_or(by_steps, |limit| by_steps.min(limit.saturating_sub(self.elapsed())))
    }

    fn write(&mut self, line: &Line<'_>) -> Result<(), Error> {
        self.metrics.append(line).map_err(|source| Error::Write { path: self.metrics.path().into(), source })
    }

    /// Scores the query encoder, unless that was done at this step or a stop is asked for before it is done.
    fn evaluate(&mut self, stop: &Stop) -> Result<(), Error> {
        let step = self.position.step;
        let Some(evaluator) = self.evaluator.as_ref().filter(|_| self.position.evaluated.is_none_or(|evaluated| evaluated.step != step))
        else {
            return Ok(());
        };
        let Some(scores) = evaluator.score(&self.recipe.encoder, self.moco.query(), stop)? else { return Ok(()) };
        let crate::knn::Settings { k, temperature } = evaluator.settings();
        let (epoch, seconds, bank) = (self.epoch(), self.elapsed().as_secs_f64(), self.data.clone());
        let spaces = [("features", Some(&scores.features)), ("projection", scores.projection.as_ref())];
        for (space, report) in spaces.into_iter().filter_map(|(space, report)| Some((space, report?))) {
            let Scores { bank_images, queries, .. } = scores;
            self.write(&Line::Knn {
                step,
                epoch,
                space,
                k,
                temperature,
                bank: &bank,
                bank_images,
                queries,
                accuracy: report.accuracy,
                balanced_accuracy: report.balanced_accuracy,
                per_class: &report.per_class,
                seconds,
            })?;
        }
        let projection = scores.projection.map_or_else(String::new, |report| format!(", of the projection {}", percent(&report)));
        self.progress.say(&format!(
            "epoch {epoch:.1}, step {step}: k-NN (k = {k}, τ = {temperature}) of features {}{projection}, {} queries among {} images",
            percent(&scores.features),
            scores.queries,
            scores.bank_images
        ));
        let evaluated = Evaluated { step, accuracy: scores.features.accuracy };
        self.position.evaluated = Some(evaluated);
        if self.position.best.is_none_or(|best| evaluated.accuracy > best.accuracy) {
            self.encoder()?.write(&self.run.best_encoder())?;
            self.position.best = Some(evaluated);
        }
        Ok(())
    }

    /// Writes a checkpoint and the newest encoder, unless this step has them already.
    fn save(&mut self) -> Result<(), Error> {
        let step = self.position.step;
        if self.saved == Some(step) {
            return Ok(());
        }
        self.position.seconds = self.elapsed().as_secs_f64();
        self.metrics.sync().map_err(|source| Error::Write { path: self.metrics.path().into(), source })?;
        // Made first: it refuses weights that are not finite, and a checkpoint of those would be of no use.
        let encoder = self.encoder()?;
        self.checkpoints.write(&self.position, &self.moco.state())?;
        encoder.write(&self.run.encoder())?;
        let skipped = self.skipped();
        if !skipped.is_empty() {
            self.run.write_skipped(&skipped)?;
        }
        self.saved = Some(step);
        Ok(())
    }

    /// Files that were passed over: no pictures by their first bytes, or broken further on.
    fn skipped(&self) -> Vec<String> {
        self.loader.folder().skipped.iter().chain(&self.loader.skipped()).map(Skipped::to_string).collect()
    }

    /// The query encoder with what is known about it.
    fn encoder(&self) -> Result<Encoder, Error> {
        let Position { step, evaluated, ref data_hash, images, .. } = self.position;
        let provenance = Provenance {
            recipe: self.recipe.name.clone(),
            data: self.data.clone(),
            data_hash: data_hash.clone(),
            images,
            epochs: self.epoch(),
            knn_accuracy: evaluated.filter(|evaluated| evaluated.step == step).map(|evaluated| evaluated.accuracy),
            program: PROGRAM.into(),
        };
        let manifest = Manifest::new(self.recipe.encoder.clone(), self.recipe.preprocessing.clone(), provenance);
        Ok(Encoder::new(manifest, self.moco.query().to_tensors())?)
    }

    /// Keeps the batch on which the loss was not finite: which pictures they were, and the views as the network saw them.
    fn keep(&self, batch: &Batch, views: &[Tensor; 2], learning_rate: f64, reason: NonFinite) -> Result<PathBuf, Error> {
        let folder = self.run.non_finite_batch();
        let samples = &self.loader.folder().samples;
        let pictures: Vec<serde_json::Value> =
            batch.ids.iter().map(|id| serde_json::json!({ "id": id, "path": samples[*id as usize].path.to_string_lossy() })).collect();
        let Position { step, epoch, batch: number, seed, .. } = self.position;
        let description = serde_json::json!({
            "step": step, "epoch": epoch, "batch": number, "seed": seed, "learning_rate": learning_rate,
            "loss": reason.loss.to_string(), "pictures": pictures,
        });
        let views = BTreeMap::from([("query", &views[0]), ("key", &views[1])].map(|(name, view)| (name.to_owned(), view.shallow_clone())));
        let (description, views) = (format!("{description:#}\n"), checkpoint::to_bytes(&views));
        let files = [("batch.json", description.as_bytes()), ("views.safetensors", &views[..])];
        durable::write_folder(&folder, &files).map_err(|source| Error::Write { path: folder.clone(), source })?;
        Ok(folder)
    }

    /// Says how it went.
    fn conclude(&mut self) {
        let best = self
            .position
            .best
            .map_or_else(String::new, |best| format!("; best k-NN of features {:.2} % after step {}", 100.0 * best.accuracy, best.step));
        let skipped = match self.skipped().len() {
            0 => String::new(),
            count => format!("; {count} files were passed over, see skipped.txt"),
        };
        let elapsed = duration(self.elapsed());
        self.progress.finish();
        self.progress.say(&format!(
            "finished after step {}, {:.1} epochs, {elapsed}: {}{best}{skipped}",
            self.position.step,
            self.epoch(),
            self.run.encoder().display()
        ));
    }
}

fn percent(report: &crate::knn::Report) -> impl fmt::Display {
    format!("{:.2} % (balanced {:.2} %)", 100.0 * report.accuracy, 100.0 * report.balanced_accuracy)
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
