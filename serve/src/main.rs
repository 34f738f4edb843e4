//! `moco-serve`: embeds images and searches them over HTTP.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use moco_serve::server::ServerError;
use moco_serve::settings::{Command, CommandLine, Settings, SettingsError};
use moco_serve::{health, server};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let line = match CommandLine::read(std::env::args_os()) {
        Ok(line) => line,
        Err(SettingsError::Usage(usage)) => usage.exit(),
        Err(error) => return fail(&error.into(), 2),
    };
    match line.command {
        Some(Command::Health { url }) => match health::check(&url.unwrap_or_else(health::default_url)) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error.into(), 1),
        },
        Some(Command::Check(settings)) => {
            let checked = log(&settings).and_then(|()| server::check(&settings));
            finish(checked.map(|plan| println!("{plan}")))
        }
        None => finish(log(&line.settings).and_then(|()| server::run(&line.settings))),
    }
}

fn finish(outcome: Result<(), ServerError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let status = if error.is_usage() { 2 } else { 1 };
            fail(&error.into(), status)
        }
    }
}

fn fail(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(status)
}

/// Events go to stderr: stdout is for what was asked for.
fn log(settings: &Settings) -> Result<(), ServerError> {
    let invalid = |reason: String| SettingsError::Invalid { setting: "log", value: settings.log.clone(), reason };
    let filter = EnvFilter::builder().parse(&settings.log).map_err(|error| invalid(error.to_string()))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).init();
    Ok(())
}
