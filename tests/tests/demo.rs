//! The demo as a program: what it prints, what it leaves, how it ends. Its training is a few steps of a tiny network, the rest is the real thing.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use moco_tests::clients::workspace;
use moco_train::recipe::Recipe;
use serde_json::Value;

/// Far more than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The cells' recipe made tiny, with `assignments` beside.
fn recipe(folder: &Path, assignments: &[&str]) -> PathBuf {
    let tiny = ["epochs=1", "encoder.backbone.width=4", "augmentation.size=16"];
    let assignments: Vec<String> = tiny.iter().chain(assignments).map(|text| (*text).to_owned()).collect();
    let recipe = Recipe::read(&workspace().join("tests/demo/cells.toml")).unwrap().with(&assignments).unwrap();
    let path = folder.join("tiny.toml");
    fs::write(&path, recipe.to_toml()).unwrap();
    path
}

/// Some of the cells, by class.
fn some_cells(folder: &Path, of_each_class: usize) -> PathBuf {
    let images = folder.join("images");
    for class in ["Platelets", "RBC", "WBC"] {
        fs::create_dir_all(images.join(class)).unwrap();
        let mut files: Vec<_> =
            fs::read_dir(workspace().join("tests/data/cells/train").join(class)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in &files[..of_each_class] {
            fs::copy(file, images.join(class).join(file.file_name().unwrap())).unwrap();
        }
    }
    images
}

fn demo(out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moco-demo"));
    command.arg("--out").arg(out).args(["--port", "0"]).stdin(Stdio::null());
    command
}

fn printed(output: &Output) -> (String, String) {
    (String::from_utf8(output.stdout.clone()).unwrap(), String::from_utf8(output.stderr.clone()).unwrap())
}

/// A demo whose lines are read while it runs.
struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        Self { child, lines, seen: Vec::new() }
    }

    /// Reads until a line that contains `words`.
    fn until(&mut self, words: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(_) => panic!("no line contains {words:?}; there were\n{}", self.seen.join("\n")),
            }
        }
    }

    fn interrupt(mut self) -> Option<i32> {
        let process = i32::try_from(self.child.id()).unwrap();
        // SAFETY: kill takes plain numbers, and the child was not waited for.
        unsafe { libc::kill(process, libc::SIGINT) };
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_demo_learns_exports_compares_and_answers_through_the_server() {
    let temporary = tempfile::tempdir().unwrap();
    let out = temporary.path().join("demo");
    let output = demo(&out).arg("--exit").arg("--recipe").arg(recipe(temporary.path(), &[])).output().unwrap();
    let (text, errors) = printed(&output);
    assert!(output.status.success(), "{}\n{text}{errors}", output.status);

    for program in ["moco-train pretrain", "moco-export onnx", "moco-serve --model"] {
        assert!(text.lines().any(|line| line.starts_with("$ ") && line.contains(program)), "{program} is shown\n{text}");
    }
    assert!(text.contains("ONNX Runtime against the plain evaluator: "), "{text}");
    // Computed once with numpy and Pillow from the same pictures and views: mean removed, k = 20, τ = 0.1. Pillow rounds some cuts otherwise.
    let row = text.lines().find(|line| line.starts_with("raw pixels")).unwrap();
    let figures: Vec<f64> = row.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(figures.len() == 3 && figures.iter().zip([76.5, 57.3, 4.3]).all(|(figure, numpy)| (figure - numpy).abs() < 1.0), "{row}");
    let is_row = |line: &&str| (line.starts_with("random weights") || line.starts_with("trained")) && line.matches('%').count() == 3;
    assert_eq!(text.lines().filter(is_row).count(), 2, "{text}");
    let is_hits = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.len() == 20 && words.chunks(2).all(|hit| ["Platelets", "RBC", "WBC"].contains(&hit[0]) && hit[1].parse::<f64>().is_ok())
    };
    assert_eq!(text.lines().filter(is_hits).count(), 10, "ten queries with the class and score of ten hits\n{text}");
    assert!(text.contains("precision@10 over all 210"), "{text}");
    assert!(text.contains("300 stored pictures sent again: each is its own first hit"), "{text}");

    let table: Value = serde_json::from_slice(&fs::read(out.join("table.json")).unwrap()).unwrap();
    let precision = table["rows"][2][1]["precision"].as_f64().unwrap();
    let line = text.lines().find(|line| line.starts_with("precision@10")).unwrap();
    let served: f64 = line.split_once(" % through the server").unwrap().0.rsplit(' ').next().unwrap().parse().unwrap();
    // A few of the 2,100 hits are so near to the eleventh that the size of a batch decides, in the last digit of a sum.
    assert!((served - 100.0 * precision).abs() < 0.5, "what is served is what was measured: {precision}, {line}");
    // Where `make page-check` looks.
    assert!(out.join("model.onnx").is_file() && out.join("data").is_dir());
}

#[test]
fn the_demo_on_own_pictures_serves_beside_a_taken_port_until_interrupted() {
    let temporary = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let images = some_cells(temporary.path(), 30);
    fs::write(images.join("notes.txt"), "not a picture").unwrap();
    let recipe = recipe(temporary.path(), &[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_moco-demo"));
    command.args(["--port", &port.to_string()]).arg("--out").arg(temporary.path().join("demo"));
    let mut running = Running::start(command.arg("--images").arg(&images).arg("--recipe").arg(recipe).stdin(Stdio::null()));
    running.until("notes.txt: ");
    running.until("pictures are few: a batch holds 16");
    running.until(&format!("Port {port} is taken; the system chooses a free one."));
    let page = running.until("The page: ");
    running.until("Serving until Ctrl-C");

    let address = page.split_once("http://").unwrap().1.strip_suffix("/ui").unwrap().to_owned();
    let html = ureq::get(format!("http://{address}/ui")).call().unwrap().body_mut().read_to_string().unwrap();
    assert!(html.contains("<html"), "{html}");
    let lines: Vec<&String> = running.seen.iter().filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(lines.len(), 3);
    if Command::new("curl").arg("--version").output().is_ok() {
        let answers: Vec<Value> = lines
            .iter()
            .map(|line| {
                let output = Command::new("sh").args(["-c", line]).current_dir("/").output().unwrap();
                serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}\n{error}: {output:?}"))
            })
            .collect();
        assert_eq!(answers[0]["data"][0]["embedding"].as_array().unwrap().len(), 32);
        for answer in &answers[1..] {
            let points = answer["result"]["points"].as_array().unwrap_or_else(|| panic!("{answer}"));
            assert_eq!(points.len(), 5);
            assert!(
                points.iter().all(|point| point["payload"]["class"].is_string() && point["payload"].get("thumbnail").is_none()),
                "{answer}"
            );
        }
    } else {
        println!("skipped: no curl to try the printed lines with");
    }

    assert_eq!(running.interrupt(), Some(0));
    assert!(TcpStream::connect(&address).is_err(), "the server ends with the demo");
}

#[test]
fn an_interrupted_training_ends_the_demo_with_130() {
    let temporary = tempfile::tempdir().unwrap();
    let out = temporary.path().join("demo");
    let mut running = Running::start(demo(&out).arg("--recipe").arg(recipe(temporary.path(), &["epochs=100000"])));
    running.until("moco-train pretrain");
    // Until it is at work.
    while !out.join("run/metrics.jsonl").is_file() {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(running.interrupt(), Some(130));
}

#[test]
fn what_cannot_be_is_refused_in_one_sentence_before_anything_starts() {
    let temporary = tempfile::tempdir().unwrap();
    let [empty, out, thesis] = ["empty", "demo", "thesis"].map(|name| temporary.path().join(name));
    fs::create_dir(&empty).unwrap();
    fs::create_dir(&thesis).unwrap();
    fs::write(thesis.join("chapter"), "one").unwrap();
    fs::write(temporary.path().join("no.toml"), "batch = = 3").unwrap();
    let refused = |command: &mut Command, words: &[&str]| {
        let output = command.output().unwrap();
        let (text, errors) = printed(&output);
        assert_eq!(output.status.code(), Some(2), "{text}{errors}");
        assert!(errors.starts_with("error: ") && errors.lines().count() == 1, "{errors}");
        assert!(words.iter().all(|words| errors.contains(words)), "{errors}");
        assert!(!text.contains("$ "), "nothing was started\n{text}");
    };
    refused(demo(&out).arg("--images").arg(&empty), &["empty"]);
    refused(demo(&out).arg("--images").arg(temporary.path().join("nowhere")), &["nowhere"]);
    refused(demo(&out).arg("--images").arg(some_cells(temporary.path(), 8)), &["24 different pictures", "at least 32 and 4"]);
    refused(&mut demo(&thesis), &["thesis", "was not made by this demo"]);
    assert_eq!(fs::read(thesis.join("chapter")).unwrap(), b"one");
    refused(demo(&out).arg("--recipe").arg(temporary.path().join("no.toml")), &["no.toml", "line 1"]);
}
