//! `moco-index`: collections of vectors on the command line.

mod program;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use program::{OutputClosed, Stop, backup, bench, build, compact, exit_status, export, import, restore, search, stats, verify};

#[derive(Parser)]
#[command(version, about = "Builds, searches, checks and moves collections of vectors", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a collection from a file of vectors.
    Build(build::Build),
    /// Find the nearest points of one or many queries.
    Search(search::Search),
    /// Print what a data folder holds.
    Stats(stats::Stats),
    /// Read everything again and check it.
    Verify(verify::Verify),
    /// Merge a collection's segments into one.
    Compact(compact::Compact),
    /// Write a collection into one file.
    Backup(backup::Backup),
    /// Make a collection of a backup.
    Restore(restore::Restore),
    /// Write points of a file, or of a running Qdrant, into a collection.
    Import(import::Import),
    /// Write a collection to files, or into a running Qdrant.
    Export(export::Export),
    /// Measure recall against queries per second, with exact ground truth.
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit_status(&error))
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Build(arguments) => build::run(&arguments, &Stop::on_signals()?),
        Command::Search(arguments) => search::run(&arguments),
        Command::Stats(arguments) => stats::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Compact(arguments) => compact::run(&arguments, &Stop::on_signals()?),
        Command::Backup(arguments) => backup::run(&arguments),
        Command::Restore(arguments) => restore::run(&arguments),
        Command::Import(arguments) => import::run(&arguments, &Stop::on_signals()?),
        Command::Export(arguments) => export::run(&arguments, &Stop::on_signals()?),
        Command::Bench(arguments) => bench::run(&arguments),
    }
}
