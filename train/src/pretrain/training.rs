//! The loop.
//!
//! It asks at each step, in this order: is an evaluation due, was a stop asked for, is a checkpoint due, is the run at its
//! end. What is due follows from the number of the step, so a run that was stopped and resumed does what it would have done.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use moco_encoder::{Encoder, Manifest, Provenance};
use tch::{Device, Tensor};

use super::{
    Error, Evaluated, Evaluator, Line, Metrics, Outcome, PROGRAM, Position, RunFolder, Scores, Stop,
    checkpoint::{self, Checkpoints},
    durable,
    progress::{Progress, Reading, duration},
};
use crate::{
    augmentation::normalize,
    data::Skipped,
    knn,
    loader::{Batch, Batches, Loader},
    moco::{Moco, NonFinite},
    random::{Purpose, permutation},
    recipe::Recipe,
    schedule::Place,
};

/// Sums over the steps since the last line of `metrics.jsonl`.
#[derive(Default)]
pub(super) struct Interval {
    steps: u64,
    loss: f64,
    accuracy: f64,
    learning_rate: f64,
    waiting: Duration,
    working: Duration,
}

/// A run at work.
pub(super) struct Training {
    pub(super) recipe: Recipe,
    pub(super) data: String,
    pub(super) device: Device,
    pub(super) run: RunFolder,
    pub(super) checkpoints: Checkpoints,
    /// The step whose state is on disk.
    pub(super) saved: Option<u64>,
    pub(super) metrics: Metrics,
    pub(super) loader: Loader,
    /// Of the epoch that is being trained on.
    pub(super) batches: Option<Batches>,
    pub(super) evaluator: Option<Evaluator>,
    pub(super) moco: Moco,
    pub(super) position: Position,
    pub(super) steps_per_epoch: u64,
    pub(super) limit: Option<Duration>,
    /// Time that was spent before this process took over.
    pub(super) before: Duration,
    pub(super) started: Instant,
    pub(super) first_step: u64,
    pub(super) interval: Interval,
    pub(super) progress: Progress,
}

impl Training {
    pub(super) fn run(mut self, stop: &Stop) -> Result<Outcome, Error> {
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
        let knn::Settings { k, temperature } = evaluator.settings();
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
        if self.saved == Some(step) {
            // The run was stopped before these weights were scored; their manifest is to say how well they did.
            self.encoder()?.write(&self.run.encoder())?;
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

fn percent(report: &knn::Report) -> String {
    format!("{:.2} % (balanced {:.2} %)", 100.0 * report.accuracy, 100.0 * report.balanced_accuracy)
}
