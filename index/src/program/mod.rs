//! What the program `moco-index` does, one file a subcommand; the rest is what several of them use.
//!
//! It is written on the library's public calls alone, so it shows what they are good for, and an error of the library
//! reaches the user as it is.

use std::fmt;
use std::io::Write as _;

use anyhow::Context as _;

pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod compact;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod restore;
pub(crate) mod search;
pub(crate) mod stats;
pub(crate) mod verify;

mod folder;
mod id_file;
mod json_lines;
mod loading;
mod output_file;
mod progress;
mod qdrant;
mod stop;
mod table;
mod vector_file;

pub(crate) use stop::Stop;

/// Wrong usage: the command could not mean anything, and nothing was started. Exit status 2.
#[derive(Debug)]
pub(crate) struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Usage {}

/// An error of wrong usage, from its sentence.
fn usage(sentence: impl Into<String>) -> anyhow::Error {
    Usage(sentence.into()).into()
}

/// Stopped by a signal; the sentence says what is there.
#[derive(Debug)]
pub(crate) struct Interrupted {
    pub(crate) exit_status: u8,
    said: String,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.said.fmt(f)
    }
}

impl std::error::Error for Interrupted {}

/// Did a signal end it?
fn was_stopped(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<Interrupted>().is_some())
}

/// Whoever read our stdout has closed it, as `head` does: there is nothing more to do and nothing to complain about.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub(crate) struct OutputClosed;

/// Prints a line to stdout.
fn say(line: impl fmt::Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        outcome => outcome.context("cannot write to stdout"),
    }
}

/// The exit status that an error stands for: 2 wrong usage, 130 or 143 after a signal, 1 everything else.
pub(crate) fn exit_status(error: &anyhow::Error) -> u8 {
    use moco_index::Error as Library;
    for cause in error.chain() {
        if let Some(interrupted) = cause.downcast_ref::<Interrupted>() {
            return interrupted.exit_status;
        }
        let is_usage = cause.is::<Usage>()
            || cause.downcast_ref::<vector_file::Error>().is_some_and(vector_file::Error::is_usage)
            || matches!(
                cause.downcast_ref(),
                Some(
                    Library::CollectionExists { .. }
                        | Library::CollectionNotFound { .. }
                        | Library::CollectionName { .. }
                        | Library::Config { .. }
                        | Library::UnknownVector { .. }
                        | Library::Dimension { .. }
                        | Library::Limit
                        | Library::Filter { .. }
                        | Library::KeyPath { .. }
                        | Library::Exists { .. }
                        | Library::NotAFolder { .. }
                )
            );
        if is_usage {
            return 2;
        }
    }
    1
}
