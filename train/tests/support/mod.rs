//! Small folders of real pictures, a recipe that trains on them in seconds, and the program as it is started.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use moco_train::recipe::Recipe;
use tempfile::TempDir;

/// Classes of the pictures in `tests/data/cells`.
pub(crate) const CLASSES: [&str; 3] = ["Platelets", "RBC", "WBC"];

/// Longest that a test waits for something that takes seconds.
const PATIENCE: Duration = Duration::from_secs(300);

/// A folder with everything that a run needs: `train` and `held-out` with labels, and `tiny.toml`.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
}

impl Bench {
    /// 24 pictures of each class to train on, 4 of each held out; a recipe for 9 steps an epoch.
    pub(crate) fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        for (part, count) in [("train", 24), ("held-out", 4)] {
            for class in CLASSES {
                bench.copy_cells(&format!("{part}/{class}"), part, class, count);
            }
        }
        fs::write(bench.path("tiny.toml"), Self::recipe(&[]).to_toml()).unwrap();
        bench
    }

    /// The recipe of `tiny.toml`, with changes.
    pub(crate) fn recipe(changes: &[&str]) -> Recipe {
        let settings = [
            "name=tiny",
            "epochs=2",
            "batch=8",
            "encoder.backbone.width=4",
            "encoder.head={kind=\"linear\", dim=8}",
            "moco.queue=32",
            "moco.bn_splits=2",
            "augmentation.size=16",
            "preprocessing.resize=16",
            "preprocessing.crop=16",
            "evaluation.knn.k=5",
            "checkpoints.every_epochs=0.5",
        ];
        let settings: Vec<String> = settings.iter().chain(changes).map(ToString::to_string).collect();
        Recipe::cifar().with(&settings).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Copies cells into a folder here.
    pub(crate) fn copy_cells(&self, to: &str, part: &str, class: &str, count: usize) {
        let cells = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/cells").join(part).join(class);
        let mut names: Vec<_> = fs::read_dir(&cells).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let to = self.path(to);
        fs::create_dir_all(&to).unwrap();
        for name in &names[..count] {
            fs::copy(cells.join(name), to.join(name)).unwrap();
        }
    }

    /// The program in this folder, on the CPU.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moco-train"));
        command.current_dir(self.folder.path()).args(arguments).stdin(Stdio::null());
        command
    }

    /// `pretrain` with `tiny.toml` on `train` into `run`, with further arguments.
    pub(crate) fn pretrain(&self, arguments: &[&str]) -> Command {
        self.pretrain_on("train", "run", arguments)
    }

    /// The same on other pictures, or into another folder. One thread: on networks this small, on a machine that is busy,
    /// several spend their time waiting for each other.
    pub(crate) fn pretrain_on(&self, data: &str, run: &str, arguments: &[&str]) -> Command {
        let fixed = ["pretrain", "--config", "tiny.toml", "--data", data, "--out", run, "--device", "cpu", "--threads", "1"];
        let mut command = self.command(&fixed);
        command.args(arguments);
        command
    }

    /// Steps of the checkpoints of a run, ascending.
    pub(crate) fn checkpoints(&self, run: &str) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(self.path(run).join("checkpoints")) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut steps: Vec<u64> = names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
        steps.sort_unstable();
        steps
    }

    /// The tensors of a checkpoint, as bytes.
    pub(crate) fn state(&self, run: &str, step: u64) -> Vec<u8> {
        fs::read(self.path(run).join(format!("checkpoints/step-{step}/state.safetensors"))).unwrap()
    }

    /// The lines of a run's `metrics.jsonl` of one kind.
    pub(crate) fn metrics(&self, run: &str, kind: &str) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).filter(|line| line["kind"] == kind).collect()
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs to the end and expects success.
pub(crate) fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    output
}

/// Runs, expects this exit status, and returns the line that says why: the last, and the only one that is an error.
pub(crate) fn refusal(mut command: Command, status: i32) -> String {
    let output = command.output().unwrap();
    let printed = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{printed}");
    let errors: Vec<&str> = printed.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{printed}");
    assert_eq!(printed.lines().last(), Some(errors[0]), "{printed}");
    assert!(!printed.contains("panicked"), "{printed}");
    errors[0].to_owned()
}

/// Waits until something is the case while the program runs.
pub(crate) fn wait_until(child: &mut Child, what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("the program ended ({status}) before {what}");
        }
        assert!(began.elapsed() < PATIENCE, "{what} did not come");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal and returns the exit status that follows, or the signal by which the program died, negative.
pub(crate) fn signal(mut child: Child, signal: i32) -> i32 {
    // SAFETY: `kill` takes numbers; the process is ours and was not waited for, so its number is its own.
    let sent = unsafe { libc::kill(child.id() as i32, signal) };
    assert_eq!(sent, 0);
    let status = child.wait().unwrap();
    status.code().unwrap_or_else(|| -status.signal().unwrap())
}
