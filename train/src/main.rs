//! `moco-train`: an image encoder from pictures without labels.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use moco_train::{
    device,
    pretrain::{self, Options, Outcome, Stop, prepare},
    recipe::{self, Recipe},
};

#[derive(Parser)]
#[command(version, about = "Trains an image encoder without labels", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train an encoder on the pictures of a folder.
    Pretrain(Box<Pretrain>),
    /// Print a recipe as TOML: v1, v2 or cifar.
    Recipe {
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Args)]
struct Settings {
    /// Change a setting of the recipe, `moco.temperature=0.2`. May be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args)]
struct Pretrain {
    /// A recipe by its name: v1, v2 or cifar.
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    recipe: Option<String>,
    /// A recipe from a file; `moco-train recipe NAME` prints one to start from.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the pictures, at any depth. Its first level names the classes where there are labels; training ignores them.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The run folder: metrics, checkpoints and the encoder.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Labelled pictures that are classified now and then by their nearest neighbours in --data.
    #[arg(long, value_name = "DIR")]
    held_out: Option<PathBuf>,
    /// Start from the weights of this encoder.safetensors.
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// auto, cpu, cuda or cuda:N. A GPU that is asked for and missing is an error.
    #[arg(long, default_value = "auto")]
    device: device::Choice,
    /// Threads of libtorch. By default one for each CPU, or as many as the resumed run had.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Go on with the run in --out.
    #[arg(long)]
    resume: bool,
    /// Print what would be done, and stop.
    #[arg(long)]
    dry_run: bool,
    /// End after so many minutes of training and evaluation, the learning rate at the end of its schedule.
    #[arg(long, value_name = "M")]
    max_minutes: Option<f64>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if is_configuration(&error) { 2 } else { 1 })
        }
    }
}

/// Whether the settings are at fault, so that nothing was started.
fn is_configuration(error: &anyhow::Error) -> bool {
    let pretraining = error.downcast_ref::<pretrain::Error>().is_some_and(pretrain::Error::is_configuration);
    pretraining || error.downcast_ref::<recipe::Error>().is_some()
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Recipe { name, settings } => {
            let recipe = Recipe::named(&name)?.with(&settings.set)?;
            recipe.validate()?;
            print!("{}", recipe.to_toml());
            Ok(ExitCode::SUCCESS)
        }
        Command::Pretrain(arguments) => pretrain(*arguments),
    }
}

fn pretrain(arguments: Pretrain) -> anyhow::Result<ExitCode> {
    let Pretrain { recipe, config, data, out, held_out, init, settings, device, threads, resume, dry_run, max_minutes } = arguments;
    let recipe = match (recipe, config) {
        (Some(name), _) => Some(Recipe::named(&name)?),
        (None, Some(path)) => Some(Recipe::read(&path)?),
        (None, None) => None,
    };
    let recipe = match recipe {
        None if !settings.set.is_empty() => return Err(recipe::Error::SetAlone.into()),
        recipe => recipe.map(|recipe| recipe.with(&settings.set)).transpose()?,
    };
    let stop = Stop::on_signals().context("cannot listen for signals")?;
    let prepared = prepare(Options { recipe, data, held_out, run: out, init, device, threads, resume, max_minutes })?;
    if dry_run {
        print!("{}", prepared.plan());
        return Ok(ExitCode::SUCCESS);
    }
    eprint!("{}", prepared.plan());
    match prepared.run(&stop)? {
        Outcome::Finished { .. } => Ok(ExitCode::SUCCESS),
        Outcome::Interrupted { signal, step } => {
            eprintln!("stopped after step {step}, state saved; --resume goes on from there");
            Ok(ExitCode::from(signal.exit_status()))
        }
    }
}
