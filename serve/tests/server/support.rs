//! A running server, a client for it, tiny models, and real pictures.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moco_encoder::image::Preprocessing;
use moco_encoder::{
    Architecture, Depth, Encoder, Head, Manifest, Output as EncoderOutput, ParameterKind, Provenance, ResNet, Stem, Tensor,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Length of the tiny model's embeddings.
pub(crate) const DIM: usize = 32;

/// A ResNet-18 of width 4 for pictures of 32 px, weights from this seed.
pub(crate) fn write_model(path: &Path, seed: u64) {
    let architecture = Architecture { backbone: ResNet::new(Depth::R18, Stem::Cifar).with_width(4), head: Head::None {} };
    let mut state = seed;
    let mut unit = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f32 / (1u64 << 53) as f32 - 0.5
    };
    let tensors = architecture.parameters().into_iter().map(|parameter| {
        let value = |unit: &mut dyn FnMut() -> f32| match parameter.kind {
            ParameterKind::ConvWeight => unit() * (24.0 / (parameter.shape[1] * parameter.shape[2] * parameter.shape[3]) as f32).sqrt(),
            ParameterKind::LinearWeight | ParameterKind::BatchNormBias | ParameterKind::LinearBias => unit(),
            ParameterKind::BatchNormWeight => 1.0 + unit() * 0.2,
            ParameterKind::RunningMean => 0.0,
            ParameterKind::RunningVar => 1.0,
        };
        let data = (0..parameter.len()).map(|_| value(&mut unit)).collect();
        (parameter.name.clone(), Tensor { shape: parameter.shape.clone(), data })
    });
    let preprocessing = Preprocessing { resize: 32, crop: 32, ..Preprocessing::imagenet() };
    let manifest = Manifest::new(architecture.clone(), preprocessing, Provenance::default());
    let encoder = Encoder::new(manifest, tensors.collect()).unwrap();
    moco_export::write_onnx(&encoder, EncoderOutput::Features, path).unwrap();
}

fn kept_model(name: &str, seed: u64) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(folder).unwrap();
    // The same bytes each time, put in place whole: tests that run beside this one do not notice.
    let path = folder.join(name);
    write_model(&path, seed);
    path
}

pub(crate) static MODEL: LazyLock<PathBuf> = LazyLock::new(|| kept_model("tiny.onnx", 1));
/// Of the same shape, with other weights: another fingerprint.
pub(crate) static OTHER_MODEL: LazyLock<PathBuf> = LazyLock::new(|| kept_model("other.onnx", 2));

/// JPEGs of blood cells.
pub(crate) fn jpegs() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../export/src/pictures");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "jpg"));
    paths.sort();
    let jpegs: Vec<_> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert_eq!(jpegs.len(), 8);
    jpegs
}

/// A PNG of one colour, or one that only claims to be so large.
pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let picture = moco_encoder::image::RgbImage::from_pixel(1, 1, image::Rgb([200, 30, 40]));
    picture.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    if (width, height) != (1, 1) {
        // The header's chunk starts at byte 8: length, IHDR, width, height, five more bytes, checksum.
        bytes[16..20].copy_from_slice(&width.to_be_bytes());
        bytes[20..24].copy_from_slice(&height.to_be_bytes());
        let checksum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }))
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn from_base64(text: &str) -> Vec<f32> {
    STANDARD.decode(text).unwrap().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

pub(crate) fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no vector")).iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The program, not started, with nothing of the developer's settings.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moco-serve"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MOCO_")) {
        command.env_remove(name);
    }
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program with these arguments to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

/// Runs a server that must refuse to serve: its exit status and what it says.
pub(crate) fn refused(arguments: &[&str]) -> (i32, String) {
    refused_with(program().args(arguments))
}

pub(crate) fn refused_with(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let error = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("no error in: {said}")).to_owned();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code().unwrap(), error)
}

/// An answer of the server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// `result` of an answer 200 in Qdrant's envelope.
    #[track_caller]
    pub(crate) fn result(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        let json = self.json();
        assert_eq!(json["status"], "ok");
        assert!(json["time"].as_f64().unwrap() >= 0.0);
        json["result"].clone()
    }

    /// The sentence and the word of an error in Qdrant's envelope.
    #[track_caller]
    pub(crate) fn qdrant_error(&self, status: u16) -> (String, String) {
        assert_eq!(self.status, status, "{}", self.text());
        let json = self.json();
        let text = |field: &str| json["status"][field].as_str().unwrap().to_owned();
        assert!(json.get("result").is_none());
        (text("error"), text("code"))
    }

    /// The same of an error in OpenAI's shape.
    #[track_caller]
    pub(crate) fn openai_error(&self, status: u16) -> (String, String) {
        assert_eq!(self.status, status, "{}", self.text());
        let error = self.json()["error"].clone();
        assert!(error.get("type").is_some() && error.get("param").is_some());
        (error["message"].as_str().unwrap().to_owned(), error["code"].as_str().unwrap().to_owned())
    }
}

/// A server that runs until it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    agent: ureq::Agent,
    _folder: Option<TempDir>,
}

impl Server {
    /// A server with the tiny model and a data folder of its own, ready.
    pub(crate) fn ready(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mut server = Self::on(&MODEL, Some(&data), flags);
        server._folder = Some(folder);
        server
    }

    pub(crate) fn on(model: &Path, data: Option<&Path>, flags: &[&str]) -> Self {
        let mut command = program();
        command.arg("--model").arg(model).args(flags);
        if let Some(data) = data {
            command.arg("--data-dir").arg(data);
        }
        let server = Self::spawn(&mut command);
        server.wait_until_ready();
        server
    }

    /// Starts it and reads the one line that says where it listens.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.args(["--listen", "127.0.0.1:0"]).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (mut errors, shared) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = errors.read(&mut piece) {
                shared.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = match line.trim_end().strip_prefix("listening on ") {
            Some(url) => url.to_owned(),
            None => {
                let status = child.wait().unwrap();
                reader.join().unwrap();
                panic!("the server ended with {status}: {}", log.lock().unwrap());
            }
        };
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(std::time::Duration::from_secs(120)));
        Self { child, url, log, reader: Some(reader), agent: config.build().into(), _folder: None }
    }

    pub(crate) fn wait_until_ready(&self) {
        loop {
            let answer = self.get("/readyz");
            if answer.status == 200 {
                return;
            }
            assert_eq!(answer.status, 503);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        answer(self.agent.get(format!("{}{path}", self.url)).call())
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        answer(self.agent.delete(format!("{}{path}", self.url)).call())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, "application/json", &serde_json::to_vec(body).unwrap())
    }

    pub(crate) fn post_bytes(&self, path: &str, content_type: &str, body: &[u8]) -> Answer {
        answer(self.agent.post(format!("{}{path}", self.url)).header("content-type", content_type).send(body))
    }

    pub(crate) fn put(&self, path: &str, body: &Value) -> Answer {
        self.put_bytes(path, &serde_json::to_vec(body).unwrap())
    }

    pub(crate) fn put_bytes(&self, path: &str, body: &[u8]) -> Answer {
        answer(self.agent.put(format!("{}{path}", self.url)).header("content-type", "application/json").send(body))
    }

    /// The embedding of one picture, sent as it is.
    pub(crate) fn embed(&self, bytes: &[u8]) -> Vec<f32> {
        let answer = self.post_bytes("/v1/embeddings", "image/jpeg", bytes);
        assert_eq!(answer.status, 200, "{}", answer.text());
        floats(&answer.json()["data"][0]["embedding"])
    }

    /// A collection of one unnamed vector of the model's length, Cosine.
    pub(crate) fn collection(&self, name: &str) {
        let created = self.put(&format!("/collections/{name}"), &json!({"vectors": {"size": DIM, "distance": "Cosine"}}));
        assert_eq!(created.result(), true);
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        self.post(&format!("/collections/{name}/points/count"), &json!({"exact": true})).result()["count"].as_u64().unwrap()
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its id is still its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Waits for its end; its status and its whole log.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        (status, self.log())
    }

    /// Asks it to end at once, and it must do so with status 0.
    pub(crate) fn stop(self) {
        self.signal(libc::SIGINT);
        let (status, log) = self.end();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

fn answer(outcome: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut response = outcome.unwrap();
    let body = response.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
    Answer { status: response.status().as_u16(), headers: response.headers().clone(), body }
}

/// Sends raw bytes and reads the answer to its end.
pub(crate) fn exchange(mut stream: TcpStream, request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    // The server may close before it has read all that was sent.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
