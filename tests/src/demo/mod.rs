//! The demo: from a folder of pictures without labels to their neighbours in a browser.
//!
//! It runs the programs that a user would run, in the same order, and shows each command: `moco-train pretrain`, `moco-export onnx`, `moco-serve`.
//! What it adds is the judgement: a table of what was learned, beside raw pixels and beside the same network with random weights, and
//! the same question asked through the server. Figures are printed and never asserted; only a stored picture that does not find itself is an error.
//!
//! - [`pictures`]: what is learned from, what is held out; [`view`]: how a held-out picture is seen another time.
//! - [`recipe`]: how the training is fitted to the number of pictures.
//! - [`measure`]: vectors, k-NN, recall, precision.
//! - [`programs`] and [`server`]: the children, and how the last of them is spoken to; [`collection`]: what it is told and asked.
//! - [`folder`]: where everything is written.

pub mod collection;
pub mod folder;
pub mod measure;
pub mod pictures;
pub mod programs;
pub mod recipe;
pub mod server;
pub mod view;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context as _;
use signal_hook::consts::SIGINT;

use self::{
    folder::Folder,
    measure::{Figures, Labels, Model, RANDOM_WEIGHTS, RAW_PIXELS, Seen, TRAINED, Table, prepared, raw_pixels},
    pictures::{Picture, Pictures},
    programs::{Program, Programs, Signals, say},
    recipe::Fitted,
    server::{Server, free_port},
    view::{Orientations, View},
};
use crate::clients::workspace;

/// What a user chooses.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The user's own pictures; the blood cells of `tests/data` without.
    pub images: Option<PathBuf>,
    /// Where everything is written.
    pub out: PathBuf,
    pub port: u16,
    /// The recipe, instead of the one made for these pictures.
    pub recipe: Option<PathBuf>,
    pub seed: u64,
    /// Longest that training takes.
    pub minutes: f64,
    pub until: Until,
}

/// Where the demo ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After the table.
    Table,
    /// After questions through the server.
    Answers,
    /// When the user ends it.
    Signal,
}

/// Why the demo ended before it was through, without a fault of its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    #[error("{0}")]
    Usage(String),
    #[error("ended by signal {0}")]
    Signal(i32),
}

impl Settings {
    /// The folder of a demo for which none was named.
    pub fn usual_out() -> PathBuf {
        workspace().join("runs/demo")
    }
}

/// The demo from its first to its last line.
///
/// # Errors
/// [`Stop`] for what the user asked wrongly and for signals; otherwise what failed, among it a stored picture that does not find itself.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    let start = Instant::now();
    let signals = Signals::listen()?;
    let programs = Programs::beside_this_one()?;
    let folder = Folder::claim(&settings.out)?;
    let pictures = match &settings.images {
        None => Pictures::of_split_folder(&workspace().join("tests/data/cells"))?,
        Some(images) => {
            say(format_args!("Preparing the pictures of {}", images.display()))?;
            Pictures::of_users_folder(images, &folder.join("pictures"))?
        }
    };
    signals.check()?;
    let fitted = Fitted::to(settings, &pictures)?;

    heading(&format!("1. Learn from {} pictures, without their labels, for at most {} minutes", pictures.train.len(), settings.minutes))?;
    fitted.explain()?;
    let run = folder.join("run");
    train(&programs, settings, &fitted, &pictures, &run, &signals)?;

    heading("2. Export the encoder, and check that ONNX Runtime computes the same")?;
    let model = folder.join("model.onnx");
    let mut command = programs.command("moco-export");
    command.arg("onnx").arg(run.join("encoder.safetensors")).arg("-o").arg(&model).arg("--images").arg(&pictures.held_out_folder);
    Program::start(&mut command)?.finish(&signals)?;

    heading("3. What was learned")?;
    let orientations = fitted.orientations();
    let other_views: Vec<Vec<u8>> =
        pictures.held_out.iter().map(|picture| View::of(&picture.name, orientations).png(&picture.bytes)).collect::<anyhow::Result<_>>()?;
    let mut trained = Model::open(&model)?;
    let table = compare(&folder, &mut trained, &pictures, &other_views, fitted.recipe.seed, &signals)?;
    let figures = folder.join("table.json");
    fs::write(&figures, serde_json::to_string_pretty(&table)?).with_context(|| format!("cannot write {}", figures.display()))?;
    explain(&table, &pictures, orientations)?;
    if settings.until == Until::Table {
        return say(format_args!("\nAll of it took {}.", duration(start))).map_err(Into::into);
    }

    heading("4. Serve it, and fill a collection with the pictures that were learned from")?;
    let port = free_port(settings.port)?;
    let mut server = Server::start(&programs, &model, &folder.join("data"), port, &signals)?;
    collection::fill(&server, trained.manifest.dim, &pictures, &signals)?;

    if settings.until == Until::Answers {
        heading("5. Ask through the server")?;
        collection::ask(&server, &pictures, &other_views, &table, &signals)?;
        collection::find_themselves(&server, &pictures, &signals)?;
        server.stop()?;
        return say(format_args!("\nAll of it took {}.", duration(start))).map_err(Into::into);
    }
    heading("5. Search")?;
    collection::invite(&server, &pictures)?;
    say(format_args!("\nAll of it took {}. Serving until Ctrl-C.", duration(start)))?;
    server.serve(&signals)?;
    server.stop()?;
    // Ctrl-C is how a user ends a demo that has shown everything.
    match signals.pending() {
        Some(SIGINT) | None => Ok(()),
        Some(signal) => Err(Stop::Signal(signal).into()),
    }
}

fn heading(text: &str) -> anyhow::Result<()> {
    say(format_args!("\n== {text}"))?;
    Ok(())
}

fn duration(start: Instant) -> String {
    let seconds = start.elapsed().as_secs();
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}

fn train(
    programs: &Programs,
    settings: &Settings,
    fitted: &Fitted,
    pictures: &Pictures,
    run: &Path,
    signals: &Signals,
) -> anyhow::Result<()> {
    let mut command = programs.command("moco-train");
    command.arg("pretrain").arg("--config").arg(&fitted.file);
    for assignment in &fitted.assignments {
        command.arg("--set").arg(assignment);
    }
    command.arg("--data").arg(&pictures.train_folder).arg("--out").arg(run);
    if !pictures.classes.is_empty() {
        command.arg("--held-out").arg(&pictures.held_out_folder);
    }
    command.arg("--device").arg("cpu").arg("--max-minutes").arg(settings.minutes.to_string());
    // By default threads that wait for each other spin for milliseconds; where another program shares the cores, that costs half of the steps.
    command.env("GOMP_SPINCOUNT", "2000");
    Program::start(&mut command)?.finish(signals)
}

/// Figures of raw pixels, of random weights, and of what was trained.
fn compare(
    folder: &Folder,
    trained: &mut Model,
    pictures: &Pictures,
    other_views: &[Vec<u8>],
    seed: u64,
    signals: &Signals,
) -> anyhow::Result<Table> {
    let preprocessing = trained.manifest.preprocessing.clone();
    let files = |pictures: &[Picture]| prepared(pictures.iter().map(|picture| picture.bytes.as_slice()), &preprocessing);
    let train = files(&pictures.train)?;
    let held_out = files(&pictures.held_out)?;
    let other_view = prepared(other_views.iter().map(Vec::as_slice), &preprocessing)?;
    let labels = Pictures::labels(&pictures.train).zip(Pictures::labels(&pictures.held_out));
    let labels = labels.map(|(train, held_out)| Labels { classes: pictures.classes.len(), train, held_out });

    let untrained = folder.join("untrained.onnx");
    moco_export::write_onnx(&measure::untrained(&trained.manifest, seed)?, trained.manifest.output, &untrained)?;
    let mut random = Model::open(&untrained)?;

    let mut rows = Vec::new();
    let mut row = |name: &str, seen: Seen| {
        rows.push((name.to_owned(), Figures::of(&seen, labels.as_ref())?));
        anyhow::Ok(())
    };
    row(RAW_PIXELS, Seen { train: raw_pixels(&train), held_out: raw_pixels(&held_out), other_view: raw_pixels(&other_view) })?;
    for (name, model) in [(RANDOM_WEIGHTS, &mut random), (TRAINED, trained)] {
        signals.check()?;
        let seen = Seen { train: model.embed(&train)?, held_out: model.embed(&held_out)?, other_view: model.embed(&other_view)? };
        row(name, seen)?;
    }
    Ok(Table { rows })
}

/// What the columns of the table mean, and the table.
fn explain(table: &Table, pictures: &Pictures, orientations: Orientations) -> anyhow::Result<()> {
    let (train, held_out) = (pictures.train.len(), pictures.held_out.len());
    let turned = match orientations {
        Orientations::Eight => "turned by quarters and mirrored",
        Orientations::Upright => "mirrored or not",
    };
    if pictures.classes.is_empty() {
        say("Without labels there is no accuracy.")?;
    } else {
        let (k, temperature, classes) = (measure::voting(train).k, measure::voting(train).temperature, pictures.classes.len());
        say(format_args!(
            "k-NN on features, balanced accuracy over {classes} classes (k = {k}, τ = {temperature}): {held_out} held-out pictures ask"
        ))?;
        say(format_args!("the {train} that were learned from, as they are and in another view."))?;
    }
    say(format_args!("Another view, which nobody has seen: half of the area, {turned}."))?;
    say(format_args!("recall@1: how often the nearest of the {held_out} held-out pictures to another view is the very picture."))?;
    say(format_args!("{RANDOM_WEIGHTS}: the same network before its first step, batch norm as it is initialised.\n"))?;
    say(table)?;
    Ok(())
}
