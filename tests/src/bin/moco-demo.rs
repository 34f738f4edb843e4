//! `moco-demo`: learn from pictures, and search them in a browser. `make demo` builds everything and runs it.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use moco_tests::demo::{self, Settings, Stop, Until};

#[derive(Parser)]
#[command(
    version,
    about = "Trains an encoder on pictures without labels, exports it, serves it, and searches with it",
    max_term_width = 100
)]
struct Arguments {
    /// Ask through the server and end, instead of serving.
    #[arg(long)]
    exit: bool,
    /// Learn from the pictures of this folder, of any depth. Where each lies in a folder of its class, the classes score.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Where the server listens, on this machine only. A taken port is replaced by a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Where everything is written; an earlier demo there is replaced. Without it: runs/demo of the workspace.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Train by this recipe instead of the demo's own (tests/demo).
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// What all random draws of the training follow from. Another one shows how far chance carries.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Longest that training takes.
    #[arg(long, default_value_t = 4.0)]
    minutes: f64,
    /// End after the table of what was learned.
    #[arg(long, conflicts_with = "exit")]
    table_only: bool,
}

fn main() -> ExitCode {
    let Arguments { exit, images, port, out, recipe, seed, minutes, table_only } = Arguments::parse();
    let until = match (table_only, exit) {
        (true, _) => Until::Table,
        (false, true) => Until::Answers,
        (false, false) => Until::Signal,
    };
    let settings = Settings { images, out: out.unwrap_or_else(Settings::usual_out), port, recipe, seed, minutes, until };
    match demo::run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Stop>() {
            // The user knows; the children have said what they saved.
            Some(Stop::Signal(signal)) => ExitCode::from(128u8.saturating_add(u8::try_from(*signal).unwrap_or(0))),
            Some(Stop::Usage(_)) => {
                eprintln!("error: {error:#}");
                ExitCode::from(2)
            }
            None => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}
