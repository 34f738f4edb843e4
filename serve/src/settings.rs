//! The server's settings: each is a flag, a `MOCO_*` variable and a key of a TOML file, in that order of precedence.
//!
//! The file's values are handed to the command line's parser as defaults, so that there is one definition of each setting,
//! one check of its value, and one list of names that exist.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use moco_encoder::image::Limits;
use moco_runtime::Device;

use crate::inference::{EmbedderOptions, ThreadOptions};

#[derive(Debug, Parser)]
#[command(
    name = "moco-serve",
    version,
    about = "Embeds images and searches them over HTTP",
    long_about = "Embeds images and searches them over HTTP.\n\nEvery setting is a flag, a MOCO_* variable and a key of the --config file (batch_size = 8), in that order of precedence.",
    args_conflicts_with_subcommands = true,
    max_term_width = 110
)]
pub struct CommandLine {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate configuration and model, print the effective plan, exit.
    Check(Box<Settings>),
    /// Ask a running server whether it is ready; exit with 0 or 1. For a container's health check.
    Health {
        /// Address to ask: http://HOST:PORT[/PATH]. Without it, /readyz on the port of MOCO_LISTEN, or on 8080.
        url: Option<String>,
    },
}

/// How a server runs.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// The model.onnx to serve, as `moco-export onnx` writes it.
    #[arg(long, env = "MOCO_MODEL", value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Name by which requests may ask for the model. The file's name without its ending unless set.
    #[arg(long, env = "MOCO_MODEL_NAME", value_name = "NAME")]
    pub model_name: Option<String>,

    /// Folder of the collections; made if it is not there. Without it, images are embedded and nothing is stored.
    #[arg(long, env = "MOCO_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Address and port to listen on; port 0 takes a free one. Set 0.0.0.0:8080 to be reached from other machines.
    #[arg(long, env = "MOCO_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// A TOML file of settings.
    #[arg(long, env = "MOCO_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// ONNX Runtime's shared library. Without it: ORT_DYLIB_PATH, the program's folder, ../lib, the build's .native.
    #[arg(long, env = "MOCO_ONNXRUNTIME", value_name = "PATH")]
    pub onnxruntime: Option<PathBuf>,

    /// Where the model runs: cpu, cuda, or cuda:N. A device that does not take the whole model is an error.
    #[arg(long, env = "MOCO_DEVICE", default_value = "cpu", value_parser = parse_device)]
    pub device: Device,

    /// ONNX Runtime sessions. Unless set, cores / intra-threads on a CPU, 2 on a GPU. Lower it to save memory.
    #[arg(long, env = "MOCO_SESSIONS", value_name = "N")]
    pub sessions: Option<NonZero<usize>>,

    /// Threads of one session. Unless set, cores / sessions, and 1 if neither is set. Raise it (and so lower sessions) to answer single images sooner.
    #[arg(long, env = "MOCO_INTRA_THREADS", value_name = "N")]
    pub intra_threads: Option<NonZero<usize>>,

    /// Threads that decode images. Unless set, half of the cores, on a GPU all. Raise it where images are large.
    #[arg(long, env = "MOCO_DECODE_THREADS", value_name = "N")]
    pub decode_threads: Option<NonZero<usize>>,

    /// Threads that speak HTTP. Unless set, one for each core, at most 4.
    #[arg(long, env = "MOCO_HTTP_THREADS", value_name = "N")]
    pub http_threads: Option<NonZero<usize>>,

    /// Most images that run together. Raise it on a GPU.
    #[arg(long, env = "MOCO_BATCH_SIZE", value_name = "N", default_value = "16")]
    pub batch_size: NonZero<usize>,

    /// Longest an image waits for others that are still being decoded, in milliseconds. Raise it for throughput on a GPU, lower it for
    /// latency.
    #[arg(long, env = "MOCO_BATCH_DELAY_MS", value_name = "MS", default_value_t = 5)]
    pub batch_delay_ms: u64,

    /// Most images inside at a time; more are answered with 429. Also the most of one request. Raise it for large uploads.
    #[arg(long, env = "MOCO_QUEUE_IMAGES", value_name = "N", default_value = "256")]
    pub queue_images: NonZero<usize>,

    /// Most bytes of request bodies inside at a time; more are answered with 429.
    #[arg(long, env = "MOCO_QUEUE_BYTES", value_name = "BYTES", default_value_t = 256 << 20)]
    pub queue_bytes: usize,

    /// Longest body of a request, in bytes; a longer one is answered with 413.
    #[arg(long, env = "MOCO_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = 32 << 20)]
    pub max_body_bytes: usize,

    /// Most points a request may write, name or ask for.
    #[arg(long, env = "MOCO_MAX_POINTS", value_name = "N", default_value = "10000")]
    pub max_points: NonZero<usize>,

    /// Longest file of an image, in bytes. Raise it for uncompressed scans.
    #[arg(long, env = "MOCO_MAX_IMAGE_BYTES", value_name = "BYTES", default_value_t = Limits::default().max_bytes)]
    pub max_image_bytes: usize,

    /// Most pixels of an image, width times height. Raise it for cameras above 40 megapixels.
    #[arg(long, env = "MOCO_MAX_IMAGE_PIXELS", value_name = "N", default_value_t = Limits::default().max_pixels)]
    pub max_image_pixels: u64,

    /// Longest side of an image in pixels.
    #[arg(long, env = "MOCO_MAX_IMAGE_SIDE", value_name = "N", default_value_t = Limits::default().max_side)]
    pub max_image_side: u32,

    /// Most memory that decoding one image may take, in bytes.
    #[arg(long, env = "MOCO_MAX_IMAGE_MEMORY", value_name = "BYTES", default_value_t = Limits::default().max_alloc)]
    pub max_image_memory: u64,

    /// How long to go on serving after SIGTERM while /readyz says no, in seconds, so that load balancers notice. Ctrl-C skips it.
    #[arg(long, env = "MOCO_DRAIN_DELAY_S", value_name = "S", default_value_t = 2)]
    pub drain_delay_s: u64,

    /// How long accepted requests may take to finish when the server stops, in seconds.
    #[arg(long, env = "MOCO_DRAIN_TIMEOUT_S", value_name = "S", default_value_t = 30)]
    pub drain_timeout_s: u64,

    /// What is logged to stderr: error, warn, info, debug (each request), trace, or a filter as in moco_serve=debug.
    #[arg(long, env = "MOCO_LOG", value_name = "FILTER", default_value = "info,actix_server=warn")]
    pub log: String,
}

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not TOML: {reason}", path.display())]
    NotToml { path: PathBuf, reason: String },
    #[error("{}: there is no setting `{key}`", path.display())]
    UnknownKey { path: PathBuf, key: String },
    #[error("{}: {key} is {value}: {reason}", path.display())]
    Value { path: PathBuf, key: String, value: String, reason: String },
    #[error("no model is named: set --model FILE, MOCO_MODEL, or `model` in the configuration file")]
    NoModel,
    #[error("{setting} is {value}: {reason}")]
    Invalid { setting: &'static str, value: String, reason: String },
    /// Wrong usage, or a request for help: clap's own text.
    #[error(transparent)]
    Usage(#[from] clap::Error),
}

impl CommandLine {
    /// Reads flags, variables and the file that they name.
    ///
    /// # Errors
    /// [`SettingsError`]; `--help` and `--version` are [`SettingsError::Usage`] too.
    pub fn read(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, SettingsError> {
        let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        let line = Self::try_parse_from(&arguments)?;
        let settings = match &line.command {
            Some(Command::Check(settings)) => settings,
            Some(Command::Health { .. }) => return Ok(line),
            None => &line.settings,
        };
        let Some(path) = settings.config.clone() else { return Ok(line) };
        let mut command = Self::command();
        for (key, value) in read_file(&path)? {
            let refuse = |reason: String| SettingsError::Value { path: path.clone(), key: key.clone(), value: value.clone(), reason };
            let known = command.get_arguments().any(|argument| argument.get_id() == key.as_str());
            if !known || matches!(key.as_str(), "config" | "help" | "version") {
                return Err(SettingsError::UnknownKey { path, key });
            }
            // The parser keeps defaults for as long as the program runs, and so there they stay.
            let kept: &'static str = value.clone().leak();
            let set = |argument: clap::Arg| argument.default_value(kept);
            command = command.mut_arg(&key, set).mut_subcommand("check", |check| check.mut_arg(&key, set));
            // The flags were fine without this value, so whatever is wrong is wrong with it. Nothing else is looked at, or a
            // flag that overrules the value would hide that.
            let alone = Self::command().mut_arg(&key, set).no_binary_name(true).try_get_matches_from(Vec::<OsString>::new());
            if let Err(error) = alone {
                let reason = error.to_string();
                let reason = reason.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
                return Err(refuse(reason));
            }
        }
        Ok(Self::from_arg_matches(&command.try_get_matches_from(arguments)?)?)
    }
}

/// Keys and values, as the command line would have them.
fn read_file(path: &Path) -> Result<Vec<(String, String)>, SettingsError> {
    let text = fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.into(), source })?;
    let not_toml = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        SettingsError::NotToml { path: path.into(), reason: format!("{} in line {line}", error.message()) }
    };
    let table: toml::Table = text.parse().map_err(not_toml)?;
    let pair = |(key, value): (String, toml::Value)| match value {
        toml::Value::String(text) => Ok((key, text)),
        toml::Value::Integer(number) => Ok((key, number.to_string())),
        other => {
            let reason = format!("a {} is no value of a setting", other.type_str());
            Err(SettingsError::Value { path: path.into(), key, value: other.to_string(), reason })
        }
    };
    table.into_iter().map(pair).collect()
}

fn parse_device(text: &str) -> Result<Device, String> {
    match text.split_once(':') {
        None if text == "cpu" => Ok(Device::Cpu),
        None if text == "cuda" => Ok(Device::Cuda(0)),
        Some(("cuda", number)) => number.parse().map(Device::Cuda).map_err(|_| format!("`{number}` is no number of a device")),
        _ => Err("it must be cpu, cuda or cuda:N".into()),
    }
}

impl Settings {
    /// Checks what the types leave open; the path of the model.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn validate(&self) -> Result<PathBuf, SettingsError> {
        let invalid = |setting, value: String, reason: &str| Err(SettingsError::Invalid { setting, value, reason: reason.into() });
        if self.max_body_bytes == 0 || self.max_body_bytes > self.queue_bytes {
            let reason = format!("it must be 1 to {} (queue_bytes), or the largest body would never be let in", self.queue_bytes);
            return invalid("max_body_bytes", self.max_body_bytes.to_string(), &reason);
        }
        if self.model_name.as_ref().is_some_and(String::is_empty) {
            return invalid("model_name", "empty".into(), "requests could not name it");
        }
        let threads = [("sessions", self.sessions), ("intra_threads", self.intra_threads), ("decode_threads", self.decode_threads)];
        for (setting, threads) in threads.into_iter().chain([("http_threads", self.http_threads)]) {
            if let Some(threads) = threads.filter(|threads| threads.get() > 1024) {
                return invalid(setting, threads.to_string(), "more than 1024 threads");
            }
        }
        if self.batch_size.get() > 4096 {
            return invalid("batch_size", self.batch_size.to_string(), "more than 4096 images");
        }
        self.model.clone().filter(|path| !path.as_os_str().is_empty()).ok_or(SettingsError::NoModel)
    }

    /// What the embedder is to do.
    pub fn embedder_options(&self) -> EmbedderOptions {
        let count = |setting: Option<NonZero<usize>>| setting.map(NonZero::get);
        EmbedderOptions {
            onnxruntime: self.onnxruntime.clone(),
            name: self.model_name.clone(),
            device: self.device,
            threads: ThreadOptions {
                sessions: count(self.sessions),
                intra_threads: count(self.intra_threads),
                decode_threads: count(self.decode_threads),
            },
            batch_size: self.batch_size.get(),
            batch_delay: Duration::from_millis(self.batch_delay_ms),
            queue_images: self.queue_images.get(),
            queue_bytes: self.queue_bytes,
            limits: Limits {
                max_bytes: self.max_image_bytes,
                max_pixels: self.max_image_pixels,
                max_side: self.max_image_side,
                max_alloc: self.max_image_memory,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, flags: &[&str]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serve.toml");
        fs::write(&path, file).unwrap();
        let line = ["moco-serve", "--config", path.to_str().unwrap()].into_iter().chain(flags.iter().copied()).map(OsString::from);
        CommandLine::read(line).map(|line| line.settings).map_err(|error| error.to_string())
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let settings = read("batch_size = 7\nlisten = \"127.0.0.1:9\"\nmodel = \"a.onnx\"", &["--batch-size", "3"]).unwrap();
        assert_eq!(settings.batch_size.get(), 3);
        assert_eq!(settings.listen.port(), 9);
        assert_eq!(settings.validate().unwrap(), Path::new("a.onnx"));
        assert_eq!(settings.batch_delay_ms, 5);
    }

    #[test]
    fn a_file_s_faults_are_named_with_the_file_and_the_key() {
        for (file, flags, expected) in [
            ("batchsize = 7", &[][..], "there is no setting `batchsize`"),
            ("config = \"x\"", &[], "there is no setting `config`"),
            ("batch_size = 0", &[], "batch_size is 0"),
            ("batch_size = 0", &["--batch-size", "3"], "batch_size is 0"),
            ("device = \"gpu\"", &[], "it must be cpu, cuda or cuda:N"),
            ("sessions = 1.5", &[], "a float is no value of a setting"),
            ("batch_size = ", &[], "in line 1"),
            ("\n\nbatch_size = 1\nbatch_size = 2", &[], "in line 4"),
        ] {
            let error = read(file, flags).unwrap_err();
            assert!(error.contains("serve.toml") && error.contains(expected), "{file}: {error}");
        }
    }

    #[test]
    fn a_largest_body_that_could_never_be_let_in_is_refused() {
        let error = read("model = \"m\"\nqueue_bytes = 10\nmax_body_bytes = 11", &[]).unwrap().validate().unwrap_err();
        assert!(error.to_string().starts_with("max_body_bytes is 11"), "{error}");
        assert!(read("", &[]).unwrap().validate().unwrap_err().to_string().starts_with("no model is named"));
    }

    #[test]
    fn every_setting_has_a_variable_of_its_name() {
        for argument in CommandLine::command().get_arguments().filter(|a| !matches!(a.get_id().as_str(), "help" | "version")) {
            let id = argument.get_id().as_str();
            let variable = argument.get_env().unwrap_or_else(|| panic!("{id} has no variable"));
            assert_eq!(variable.to_str().unwrap(), format!("MOCO_{}", id.to_uppercase()));
            assert_eq!(argument.get_long().unwrap(), id.replace('_', "-"));
        }
    }
}
