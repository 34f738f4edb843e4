//! Everything that a user can get wrong or that can go wrong: one sentence, the right exit status, nothing lost.

mod support;

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink, process::CommandExt as _},
    process::{Command, Stdio},
};

use support::{Bench, refusal, signal, succeed, text, wait_until};

/// `pretrain` on another folder than `train`.
fn on(bench: &Bench, data: &str, more: &[&str]) -> Command {
    bench.pretrain_on(data, "run", more)
}

/// Refused as a matter of settings: status 2, and nothing was begun.
fn misconfigured(bench: &Bench, command: Command) -> String {
    let error = refusal(command, 2);
    assert!(!bench.path("run").exists(), "{error}");
    error
}

#[test]
fn folders_without_pictures_are_refused_by_name() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("empty/inside")).unwrap();
    assert_eq!(refusal(on(&bench, "empty", &[]), 1), "error: the folder empty holds no files");
    assert!(refusal(on(&bench, "nowhere", &[]), 1).contains("cannot read the folder nowhere"));
    assert!(refusal(on(&bench, "tiny.toml", &[]), 1).contains("tiny.toml is not a folder"));

    let picture = fs::read(first_picture(&bench)).unwrap();
    fs::create_dir_all(bench.path("broken/a")).unwrap();
    fs::write(bench.path("broken/a/cut.png"), &picture[..picture.len() / 2]).unwrap();
    fs::write(bench.path("broken/a/empty.png"), "").unwrap();
    fs::write(bench.path("broken/a/text.jpg"), "no picture").unwrap();
    let error = refusal(on(&bench, "broken", &[]), 1);
    assert!(error.contains("none of the 3 files in the folder broken is an image that can be read"), "{error}");
    let error = refusal(bench.pretrain(&["--held-out", "empty"]), 1);
    assert!(error.contains("the folder empty holds no files"), "{error}");
    assert!(!bench.path("run").exists());
}

fn first_picture(bench: &Bench) -> std::path::PathBuf {
    let mut pictures: Vec<_> = fs::read_dir(bench.path("train/RBC")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pictures.sort();
    pictures.swap_remove(0)
}

#[test]
fn fewer_images_than_the_batch_the_queue_or_k_are_refused_with_advice() {
    let bench = Bench::new();
    let error = misconfigured(&bench, bench.pretrain(&["--set", "batch=100", "--set", "moco.queue=100"]));
    assert_eq!(
        error,
        "error: batch is 100, and train holds 72 images: set batch to at most 72, a multiple of moco.bn_splits (--set batch=72)"
    );
    let error = misconfigured(&bench, bench.pretrain(&["--set", "moco.queue=80"]));
    assert!(error.starts_with("error: moco.queue is 80, and train holds 72 images") && error.ends_with("(--set moco.queue=32)"), "{error}");
    let error = misconfigured(&bench, bench.pretrain(&["--set", "evaluation.knn.k=73", "--held-out", "held-out"]));
    assert!(
        error.starts_with("error: evaluation.knn.k is 73, and train holds 72 images") && error.ends_with("(--set evaluation.knn.k=20)"),
        "{error}"
    );
    // What the sentences advise works.
    succeed(bench.pretrain(&["--set", "moco.queue=32", "--set", "evaluation.knn.k=20", "--held-out", "held-out", "--dry-run"]));
}

#[test]
fn a_batch_that_does_not_divide_into_groups_is_refused() {
    let bench = Bench::new();
    let error = misconfigured(&bench, bench.pretrain(&["--set", "batch=10", "--set", "moco.bn_splits=4"]));
    assert_eq!(error, "error: batch is 10 and moco.bn_splits is 4: a batch must divide into equal groups of batch norm");
    let error = misconfigured(&bench, bench.pretrain(&["--set", "moco.bn_splits=8"]));
    assert!(error.ends_with("a group of batch norm needs at least two pictures"), "{error}");
}

#[test]
fn labels_that_cannot_be_scored_are_refused() {
    let bench = Bench::new();
    bench.copy_cells("single/WBC", "train", "WBC", 40);
    bench.copy_cells("flat", "train", "WBC", 40);
    bench.copy_cells("other/Yeast", "held-out", "RBC", 3);
    let error = misconfigured(&bench, on(&bench, "single", &["--held-out", "held-out"]));
    assert_eq!(error, "error: single has pictures of one class only, WBC: k-NN needs two, so leave --held-out away");
    let error = misconfigured(&bench, on(&bench, "flat", &["--held-out", "held-out"]));
    assert!(error.starts_with("error: flat has no classes (pictures in folders of their own)"), "{error}");
    let error = misconfigured(&bench, bench.pretrain(&["--held-out", "flat"]));
    assert!(error.starts_with("error: flat has no classes"), "{error}");
    let error = misconfigured(&bench, bench.pretrain(&["--held-out", "other"]));
    assert!(error.contains("\"Yeast\" of the folder other does not occur in train"), "{error}");
    // One class is no hindrance where nothing is scored.
    succeed(on(&bench, "single", &["--set", "epochs=1"]));
}

#[test]
fn strange_names_loops_and_empty_files_are_passed_over_and_listed() {
    let bench = Bench::new();
    let picture = first_picture(&bench);
    let folder = bench.path("train/RBC");
    fs::copy(&picture, folder.join(OsStr::from_bytes(b"caf\xe9.png"))).unwrap();
    fs::create_dir(bench.path("train/RBC/deeper")).unwrap();
    symlink(bench.path("train"), folder.join("deeper/loop")).unwrap();
    symlink(bench.path("nowhere"), folder.join("dangling.png")).unwrap();
    fs::write(folder.join("zero.png"), "").unwrap();
    fs::write(folder.join("notes.txt"), "no picture").unwrap();
    let bytes = fs::read(&picture).unwrap();
    fs::write(folder.join("cut.png"), &bytes[..bytes.len() - 20]).unwrap();

    let output = succeed(bench.pretrain(&["--held-out", "held-out"]));
    let printed = text(&output.stderr);
    assert!(printed.contains("74 images of ") && printed.contains("4 other files passed over"), "{printed}");
    assert!(printed.contains("5 files were passed over, see skipped.txt"), "{printed}");
    let skipped = fs::read_to_string(bench.path("run/skipped.txt")).unwrap();
    for words in [
        "RBC/deeper/loop: a link that leads back",
        "RBC/dangling.png: a link that leads nowhere",
        "RBC/zero.png: ",
        "RBC/notes.txt: ",
        "RBC/cut.png: ",
    ] {
        assert!(skipped.lines().any(|line| line.starts_with(words)), "{words} in {skipped}");
    }
    assert_eq!(skipped.lines().count(), 5, "{skipped}");
    // The strange name is a picture like any other, and votes; the one that is cut does not.
    assert_eq!(bench.metrics("run", "knn")[0]["bank_images"], 73);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch() {
    let bench = Bench::new();
    let error = refusal(bench.pretrain(&["--set", "schedule.learning_rate=1e30", "--set", "checkpoints.every_epochs=10.0"]), 1);
    assert!(error.starts_with("error: the loss is not a finite number (loss NaN)"), "{error}");
    assert!(error.contains("(step 1); its pictures and views are in run/non-finite-batch"), "{error}");

    let kept = bench.path("run/non-finite-batch");
    let batch: serde_json::Value = serde_json::from_slice(&fs::read(kept.join("batch.json")).unwrap()).unwrap();
    assert_eq!((&batch["step"], &batch["batch"], &batch["loss"]), (&1.into(), &1.into(), &"NaN".into()));
    let pictures = batch["pictures"].as_array().unwrap();
    assert_eq!(pictures.len(), 8);
    for picture in pictures {
        assert!(bench.path("train").join(picture["path"].as_str().unwrap()).is_file(), "{picture}");
    }
    let bytes = fs::read(kept.join("views.safetensors")).unwrap();
    let views = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(views.tensor("query").unwrap().shape(), [8, 3, 16, 16]);
    assert_ne!(views.tensor("query").unwrap().data(), views.tensor("key").unwrap().data());
    assert!(bench.checkpoints("run").is_empty() && !bench.path("run/encoder.safetensors").exists(), "nothing of it is passed on");
}

#[test]
fn weights_that_are_not_finite_are_not_saved() {
    let bench = Bench::new();
    let error = refusal(bench.pretrain(&["--set", "schedule.learning_rate=1e40", "--set", "checkpoints.every_epochs=0.1"]), 1);
    assert!(error.starts_with("error: the weights cannot be saved: tensor ") && error.contains("not finite"), "{error}");
    assert!(bench.checkpoints("run").is_empty());
}

#[test]
fn a_stop_before_the_first_step_still_saves() {
    let bench = Bench::new();
    let mut child = bench.pretrain(&["--set", "epochs=100000"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until(&mut child, "the run folder", || bench.path("run/config.toml").exists());
    assert_eq!(signal(child, libc::SIGTERM), 143);
    assert_eq!(bench.checkpoints("run").len(), 1);
    let output = succeed(bench.pretrain(&["--resume", "--max-minutes", "0.0001", "--set", "epochs=100000"]));
    assert!(text(&output.stderr).contains("resuming after step"), "{}", text(&output.stderr));
}

#[test]
fn a_run_folder_in_use_or_used_is_refused() {
    let bench = Bench::new();
    let mut child = bench.pretrain(&["--set", "epochs=100000"]).stderr(Stdio::null()).spawn().unwrap();
    wait_until(&mut child, "a first line", || fs::metadata(bench.path("run/metrics.jsonl")).is_ok_and(|file| file.len() > 0));
    assert_eq!(refusal(bench.pretrain(&["--resume", "--set", "epochs=100000"]), 1), "error: run is in use by another process");
    assert_eq!(signal(child, libc::SIGINT), 130);

    let metrics = fs::read(bench.path("run/metrics.jsonl")).unwrap();
    let error = refusal(bench.pretrain(&[]), 2);
    assert_eq!(error, "error: run holds a run already: go on with it by --resume, or choose another folder");
    assert_eq!(fs::read(bench.path("run/metrics.jsonl")).unwrap(), metrics);
}

#[test]
fn a_resume_that_would_be_another_run_is_refused() {
    let bench = Bench::new();
    assert_eq!(misconfigured(&bench, bench.pretrain(&["--resume"])), "error: run holds no run to resume (no config.toml)");
    succeed(bench.pretrain(&["--set", "epochs=1"]));
    let resume = |more: &[&str]| bench.pretrain(&[&["--resume", "--set", "epochs=1"][..], more].concat());
    let error = refusal(resume(&["--set", "moco.temperature=0.3"]), 2);
    assert_eq!(error, "error: run was started with another recipe: moco.temperature is 0.1, not 0.3");
    assert!(refusal(resume(&["--init", "run/encoder.safetensors"]), 2).contains("--init cannot be joined with --resume"));
    // Without a recipe, the run's own holds.
    succeed(bench.command(&["pretrain", "--data", "train", "--out", "run", "--device", "cpu", "--resume"]));
    bench.copy_cells("train/RBC", "held-out", "RBC", 1);
    let error = refusal(resume(&[]), 2);
    assert!(error.starts_with("error: train is not the folder that run was started with"), "{error}");
}

#[test]
fn a_damaged_checkpoint_is_refused_and_the_one_before_it_still_works() {
    let bench = Bench::new();
    succeed(bench.pretrain(&[]));
    let newest = bench.path("run/checkpoints/step-18/state.safetensors");
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).unwrap();
    let error = refusal(bench.pretrain(&["--resume"]), 1);
    assert!(
        error.contains("run/checkpoints/step-18 is damaged") && error.ends_with("remove it to resume from the one before it"),
        "{error}"
    );
    fs::remove_dir_all(bench.path("run/checkpoints/step-18")).unwrap();
    assert!(text(&succeed(bench.pretrain(&["--resume"])).stderr).contains("resuming after step 14"));
    assert_eq!(bench.checkpoints("run"), [9, 14, 18]);
}

#[test]
fn a_full_disk_leaves_the_checkpoints_before_it_intact() {
    let bench = Bench::new();
    succeed(bench.pretrain(&[]));
    fs::remove_dir_all(bench.path("run/checkpoints/step-18")).unwrap();
    let (before, state) = (bench.checkpoints("run"), bench.state("run", 14));
    let most = state.len() as u64 / 2;

    let mut command = bench.pretrain(&["--resume"]);
    // SAFETY: between fork and exec only two system calls are made, on values of this closure's own.
    unsafe {
        command.pre_exec(move || {
            // A file that would grow past the limit gives an error instead of a signal, as it does on a full disk.
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
            if libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
    let error = refusal(command, 1);
    assert!(error.starts_with("error: cannot write the checkpoint run/checkpoints/step-18 (those before it are intact): "), "{error}");
    assert_eq!(bench.checkpoints("run"), before);
    assert!(bench.state("run", 14) == state);
    let names: Vec<_> = fs::read_dir(bench.path("run/checkpoints")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), before.len(), "nothing half-written is left: {names:?}");
    succeed(bench.pretrain(&["--resume"]));
    assert_eq!(bench.checkpoints("run"), [9, 14, 18]);
}

#[test]
fn settings_that_mean_nothing_are_refused_by_name() {
    let bench = Bench::new();
    let good = fs::read_to_string(bench.path("tiny.toml")).unwrap();
    fs::write(bench.path("typo.toml"), good.replacen("temperature", "temprature", 1)).unwrap();
    fs::write(bench.path("text.toml"), "no recipe").unwrap();
    let with = |more: &[&str]| bench.command(&[&["pretrain", "--data", "train", "--out", "run", "--device", "cpu"][..], more].concat());
    for (more, words) in [
        (&["--config", "typo.toml"][..], "typo.toml is not a recipe: line"),
        (&["--config", "typo.toml"], "unknown field `temprature`"),
        (&["--config", "text.toml"], "text.toml is not a recipe: line 1"),
        (&["--config", "nowhere.toml"], "cannot read nowhere.toml"),
        (&["--recipe", "v7"], "there is no recipe v7; there are v1, v2, cifar"),
        (&[], "no recipe was given"),
        (&["--set", "batch=8"], "--set changes a recipe"),
        (&["--config", "tiny.toml", "--set", "batch"], "--set batch has not the form key=value"),
        (&["--config", "tiny.toml", "--set", "moco.tau=1"], "unknown field `tau`"),
        (&["--config", "tiny.toml", "--set", "optimizer.momentum=0.5"], "no section optimizer"),
        (&["--config", "tiny.toml", "--max-minutes", "0"], "--max-minutes is 0"),
        (&["--config", "tiny.toml", "--threads", "0"], "--threads is 0"),
    ] {
        let error = misconfigured(&bench, with(more));
        assert!(error.contains(words), "{more:?}: {error}");
    }
    for wrong in [&["--device", "gpu"][..], &["--recipe", "v2", "--config", "tiny.toml"], &["--epochs", "3"]] {
        assert_eq!(
            bench.command(&[&["pretrain", "--data", "train", "--out", "run"][..], wrong].concat()).output().unwrap().status.code(),
            Some(2)
        );
    }
}

#[test]
fn a_gpu_that_is_missing_is_an_error_and_never_the_cpu() {
    let bench = Bench::new();
    fs::create_dir(bench.path("no-cuda")).unwrap();
    let cuda = |device: &str| {
        let mut command = bench.command(&["pretrain", "--config", "tiny.toml", "--data", "train", "--out", "run", "--device", device]);
        command.env("MOCO_TORCH_CUDA", "no-cuda");
        command
    };
    let error = misconfigured(&bench, cuda("cuda"));
    assert!(error.starts_with("error: libtorch_cuda.so was not found (looked in no-cuda): get it with `make setup CUDA=1`"), "{error}");
    fs::write(bench.path("no-cuda/libtorch_cuda.so"), "no library").unwrap();
    let error = misconfigured(&bench, cuda("cuda:1"));
    assert!(error.starts_with("error: no-cuda/libtorch_cuda.so cannot be opened: "), "{error}");
    // Where nothing certain was asked for, it is said what was chosen and why.
    let mut auto = cuda("auto");
    let printed = text(&auto.arg("--dry-run").output().unwrap().stdout);
    assert!(printed.contains("device           cpu (auto: no-cuda/libtorch_cuda.so cannot be opened"), "{printed}");
}

#[test]
fn an_encoder_to_start_from_that_is_none_is_refused() {
    let bench = Bench::new();
    let error = refusal(bench.pretrain(&["--init", "tiny.toml"]), 1);
    assert!(error.starts_with("error: --init tiny.toml: tiny.toml is not a safetensors file"), "{error}");
    assert!(!bench.path("run").exists());
}

#[test]
fn a_run_folder_that_cannot_be_made_is_named() {
    let bench = Bench::new();
    let error = refusal(bench.pretrain_on("train", "tiny.toml/run", &[]), 1);
    assert!(error.starts_with("error: cannot make the run folder tiny.toml/run: "), "{error}");
}
