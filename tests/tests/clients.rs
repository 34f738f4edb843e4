//! The official clients of OpenAI and Qdrant, curl, and the copies of `moco-index` drive a real `moco-serve`.
//!
//! What the official ones check stands in `clients/drive_*.py`; each script prints a line for a check and fails by name. The
//! model is the golden encoder of `export/encoder/tests/images`, so that what comes over HTTP can be held against the
//! embeddings that Pillow and numpy give the same files.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use moco_encoder::{Encoder, PlainEvaluator, image::Limits};
use moco_export::write_onnx;
use moco_tests::clients::{python, succeed, workspace};
use serde_json::Value;
use tempfile::TempDir;

/// Longest that the server may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server on a port of its own, with a model and an empty data folder. Dropping it ends it.
struct Server {
    process: Child,
    url: String,
    folder: TempDir,
    encoder: Encoder,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let encoder = Encoder::read(&workspace().join("export/encoder/tests/images/encoder.safetensors")).unwrap();
        let model = folder.path().join("golden.onnx");
        write_onnx(&encoder, encoder.manifest().output, &model).unwrap();
        let program = program("moco-serve");
        let mut process = Command::new(&program)
            .args(["--listen", "127.0.0.1:0", "--max-body-bytes", "4194304", "--drain-delay-s", "0"])
            .arg("--model")
            .arg(&model)
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let mut lines = BufReader::new(process.stdout.take().expect("stdout was asked for")).lines();
        let url = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned))
            .expect("the server prints where it listens before it ends");
        // A full pipe would stop the server.
        thread::spawn(move || lines.for_each(drop));
        let server = Self { process, url, folder, encoder };
        let started = Instant::now();
        while ureq::get(format!("{}/readyz", server.url)).call().is_err() {
            assert!(started.elapsed() < PATIENCE, "the server is not ready after {PATIENCE:?}");
            thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn model(&self) -> String {
        let models: Value = ureq::get(format!("{}/v1/models", self.url)).call().unwrap().body_mut().read_json().unwrap();
        models["data"][0]["id"].as_str().unwrap().to_owned()
    }

    /// What the plain evaluator makes of a file.
    fn reference(&self, file: &Path) -> Vec<f32> {
        let settings = &self.encoder.manifest().preprocessing;
        let prepared = settings.load(&fs::read(file).unwrap(), &Limits::default()).unwrap();
        PlainEvaluator::new(&self.encoder).embed(&[prepared]).remove(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A program of the same build: it lies in the folder above the tests'.
fn program(name: &str) -> PathBuf {
    let tests = env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join(name);
    assert!(program.is_file(), "there is no {}: run `cargo build -p {name}`", program.display());
    program
}

/// Eight pictures of cells, JPEG, in colour.
fn pictures() -> PathBuf {
    workspace().join("export/src/pictures")
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn checked(printed: &str, at_least: usize) {
    eprint!("{printed}");
    let count = printed.lines().filter(|line| line.starts_with("checked: ")).count();
    assert!(count >= at_least, "{count} checks were run");
}

#[test]
fn openais_client_embeds_pictures() {
    let server = Server::start();
    checked(&succeed(python("drive_openai.py").arg(&server.url).arg(pictures())), 17);
}

#[test]
fn qdrants_client_stores_and_finds_pictures() {
    let server = Server::start();
    let dim = server.encoder.manifest().dim.to_string();
    checked(&succeed(python("drive_qdrant.py").arg(&server.url).arg(pictures()).args([server.model(), dim])), 21);
}

/// What curl prints for these arguments; `None`, said in one line, where there is no curl.
fn curl(arguments: &[&str]) -> Option<Value> {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: no curl");
        return None;
    }
    let printed = succeed(Command::new("curl").args(["--silent", "--show-error"]).args(arguments));
    Some(serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}")))
}

fn embedding(answer: &Value, index: usize) -> Vec<f32> {
    let values = answer["data"][index]["embedding"].as_array().unwrap_or_else(|| panic!("{answer}"));
    values.iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

#[test]
fn curl_sends_a_file_as_it_is_or_several_as_a_form() {
    let server = Server::start();
    let url = format!("{}/v1/embeddings", server.url);
    let (first, second) = (pictures().join("BloodImage_00000.jpg"), pictures().join("BloodImage_00032.jpg"));
    let (expected_first, expected_second) = (server.reference(&first), server.reference(&second));
    assert!(cosine(&expected_first, &expected_second) < 0.9999, "the pictures are told apart");

    let Some(answer) = curl(&["--data-binary", &format!("@{}", first.display()), "-H", "Content-Type: image/jpeg", &url]) else { return };
    assert!(cosine(&embedding(&answer, 0), &expected_first) > 0.99999, "{answer}");

    let [first, second] = [&first, &second].map(|path| format!("image=@{}", path.display()));
    let answer = curl(&["-F", &first, "-F", &second, &url]).expect("curl was there a moment ago");
    assert!(cosine(&embedding(&answer, 0), &expected_first) > 0.99999, "{answer}");
    assert!(cosine(&embedding(&answer, 1), &expected_second) > 0.99999, "{answer}");

    let broken = server.folder.path().join("broken.jpg");
    fs::write(&broken, &fs::read(pictures().join("BloodImage_00000.jpg")).unwrap()[..700]).unwrap();
    let answer = curl(&["--data-binary", &format!("@{}", broken.display()), "-H", "Content-Type: image/jpeg", &url]).unwrap();
    assert!(answer["error"]["message"].as_str().unwrap().contains("cut short"), "{answer}");
}

/// The lines of a file, in order of their text: a server gives points by id, and UUIDs may be ordered otherwise there.
fn sorted_lines(file: &Path) -> Vec<String> {
    let mut lines: Vec<String> = fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_collection_goes_to_the_server_and_back_unchanged() {
    let server = Server::start();
    let at = |name: &str| server.folder.path().join(name);
    let index = |words: &str| succeed(Command::new(program("moco-index")).current_dir(server.folder.path()).args(words.split_whitespace()));
    let there = |name: &str| format!("--qdrant {} --qdrant-collection {name}", server.url);
    // More than a page of a scroll and more than one upsert; ids, payloads and numbers that lose something where they may.
    let mut lines: Vec<String> = (0..2_300u32)
        .map(|i| {
            format!(r#"{{"id":{},"vector":{{"x":[{}.1,-1e-40,3.4028235e+38],"y":[0.5]}},"payload":{{"i":{i},"half":0.5}}}}"#, i * 7, i)
        })
        .collect();
    lines.push(r#"{"id":18446744073709551615,"vector":{"y":[-0.0]},"payload":{"deep":{"list":[1,2.5,"ü",null]}}}"#.to_owned());
    lines.push(r#"{"id":"550e8400-e29b-41d4-a716-446655440000","vector":{},"payload":{}}"#.to_owned());
    fs::write(at("in.jsonl"), lines.join("\n") + "\n").unwrap();
    index("import source --collection c --jsonl in.jsonl --distance euclid");

    let said = index(&format!("export source {}", there("copy")));
    assert!(said.contains("2302 points copied from `c` to `copy`") && said.contains("both sides are equal: 2302 ids"), "{said}");
    let described: Value = ureq::get(format!("{}/collections/copy", server.url)).call().unwrap().body_mut().read_json().unwrap();
    let vectors = serde_json::json!({"x": {"size": 3, "distance": "Euclid"}, "y": {"size": 1, "distance": "Euclid"}});
    assert_eq!((&described["result"]["config"]["params"]["vectors"], &described["result"]["points_count"]), (&vectors, &2_302.into()));

    let said = index(&format!("import back --collection again {}", there("copy")));
    assert!(said.contains("2302 points copied from `copy`") && said.contains("both sides are equal: 2302 ids"), "{said}");
    index("export source --jsonl before.jsonl");
    index("export back --jsonl after.jsonl");
    assert_eq!(sorted_lines(&at("before.jsonl")), sorted_lines(&at("after.jsonl")));

    // A second copy would mix with the first, and what is not there is named.
    for (words, status, reason) in [
        (format!("export source {}", there("copy")), 2, "is there already"),
        (format!("import other --collection c {}", there("elsewhere")), 2, "has no collection `elsewhere`"),
    ] {
        let output = Command::new(program("moco-index")).current_dir(server.folder.path()).args(words.split_whitespace()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(status) && errors.contains(reason), "{words}: {:?}, {errors}", output.status);
    }
}

#[test]
fn an_unnamed_cosine_vector_goes_to_the_server_and_back() {
    let server = Server::start();
    let index = |words: &str| succeed(Command::new(program("moco-index")).current_dir(server.folder.path()).args(words.split_whitespace()));
    let there = format!("--qdrant {} --qdrant-collection copy", server.url);
    let line = |i: u32| format!(r#"{{"id":{i},"vector":[{i}.5,1.0,-2.0],"payload":{{}}}}"#);
    fs::write(server.folder.path().join("in.jsonl"), (0..50).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    index("import source --collection c --jsonl in.jsonl");
    let said = index(&format!("export source {there}"));
    assert!(said.contains("both sides are equal: 50 ids, vectors and payloads of 50 points"), "{said}");
    let said = index(&format!("import back --collection c {there}"));
    assert!(said.contains("both sides are equal: 50 ids"), "{said}");
    // It answers there as it does here: the nearest of a stored vector is its point.
    let found = index("search back --vector [7.5,1.0,-2.0] -k 1 --json");
    let found: Value = serde_json::from_str(found.trim()).unwrap();
    let query = serde_json::json!({"query": [7.5, 1.0, -2.0], "limit": 1});
    let answer = ureq::post(format!("{}/collections/copy/points/query", server.url)).send_json(&query);
    let answer: Value = answer.unwrap().body_mut().read_json().unwrap();
    assert_eq!((&found["hits"][0]["id"], &answer["result"]["points"][0]["id"]), (&7.into(), &7.into()));
}

#[test]
fn every_kind_of_picture_has_over_http_the_embedding_that_numpy_gives_it() {
    let server = Server::start();
    let images = workspace().join("export/encoder/tests/images");
    let goldens = fs::read(images.join("embeddings.safetensors")).unwrap();
    let goldens = safetensors::SafeTensors::deserialize(&goldens).unwrap();
    let mut worst: f64 = 1.0;
    for (name, view) in goldens.iter() {
        let golden: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let file = fs::read(images.join("files").join(name)).unwrap();
        let answer = ureq::post(format!("{}/v1/embeddings", server.url)).content_type("image/*").send(&file[..]);
        let answer: Value = answer.unwrap_or_else(|error| panic!("{name}: {error}")).body_mut().read_json().unwrap();
        let agreement = cosine(&embedding(&answer, 0), &golden);
        assert!(agreement >= 0.9999, "{name}: cosine {agreement}");
        worst = worst.min(agreement);
    }
    eprintln!("{} pictures over HTTP against Pillow and numpy: cosine at least {worst:.6}", goldens.len());
}
