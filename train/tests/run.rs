//! What a run leaves behind, and that it goes on as if it had never stopped.

mod support;

use std::{fs, process::Stdio};

use moco_encoder::{Encoder, Output};
use moco_train::recipe::Recipe;
use support::{Bench, refusal, signal, succeed, text, wait_until};

#[test]
fn a_run_leaves_an_encoder_with_its_origin_and_figures() {
    let bench = Bench::new();
    let output = succeed(bench.pretrain(&["--held-out", "held-out"]));
    let printed = text(&output.stderr);
    assert!(printed.contains("device           cpu, ") && printed.contains("finished after step 18, 2.0 epochs"), "{printed}");
    assert_eq!(text(&output.stdout), "");

    let encoder = Encoder::read(&bench.path("run/encoder.safetensors")).unwrap();
    let manifest = encoder.manifest();
    assert_eq!((manifest.output, manifest.dim, manifest.preprocessing.crop), (Output::Features, 32, 16));
    let provenance = &manifest.provenance;
    assert_eq!((provenance.recipe.as_str(), provenance.images, provenance.epochs), ("tiny", 72, 2.0));
    assert!(provenance.data.ends_with("/train") && provenance.data_hash.len() == 64, "{provenance:?}");
    assert!(provenance.program.starts_with("moco-train "));

    let knn = bench.metrics("run", "knn");
    let spaces: Vec<(&str, u64)> = knn.iter().map(|line| (line["space"].as_str().unwrap(), line["step"].as_u64().unwrap())).collect();
    assert_eq!(spaces, [("features", 9), ("projection", 9), ("features", 18), ("projection", 18)]);
    for line in &knn {
        assert_eq!((&line["k"], &line["temperature"]), (&5.into(), &0.1.into()));
        assert_eq!((&line["bank_images"], &line["queries"]), (&72.into(), &12.into()));
        assert!(line["bank"].as_str().unwrap().ends_with("/train"));
    }
    assert_eq!(provenance.knn_accuracy, knn[2]["accuracy"].as_f64());
    let best = Encoder::read(&bench.path("run/encoder-best.safetensors")).unwrap();
    let accuracies = [&knn[0], &knn[2]].map(|line| line["accuracy"].as_f64().unwrap());
    assert_eq!(best.manifest().provenance.knn_accuracy, Some(accuracies[0].max(accuracies[1])));

    let train = bench.metrics("run", "train");
    assert_eq!(train.len(), 18);
    assert!(train.iter().all(|line| line["loss"].as_f64().unwrap() > 0.0 && line["pairs_per_second"].as_f64().unwrap() > 0.0));
    assert_eq!((&train[0]["learning_rate"], &train[17]["learning_rate"]), (&0.06.into(), &0.03.into()));
    assert_eq!(bench.checkpoints("run"), [9, 14, 18], "every half epoch, the last three of them");
    assert_eq!(Recipe::read(&bench.path("run/config.toml")).unwrap(), Bench::recipe(&[]));
}

#[test]
fn training_needs_no_labels() {
    let bench = Bench::new();
    bench.copy_cells("flat", "train", "WBC", 40);
    succeed(bench.command(&[
        "pretrain",
        "--config",
        "tiny.toml",
        "--data",
        "flat",
        "--out",
        "run",
        "--device",
        "cpu",
        "--set",
        "epochs=1",
    ]));
    assert!(bench.metrics("run", "knn").is_empty());
    let encoder = Encoder::read(&bench.path("run/encoder.safetensors")).unwrap();
    assert_eq!(encoder.manifest().provenance.knn_accuracy, None);
    assert!(!bench.path("run/encoder-best.safetensors").exists());
}

/// Long enough to be stopped somewhere, with a checkpoint every ten steps.
const LONG: [&str; 6] = ["--set", "epochs=100000", "--set", "checkpoints.every_epochs=1.1111111", "--set", "checkpoints.keep=1000"];

#[test]
fn a_run_stopped_twice_is_bit_by_bit_the_run_that_was_not() {
    let bench = Bench::new();
    let start = |run: &str, more: &[&str]| {
        let mut command = bench.pretrain_on("train", run, &["--held-out", "held-out"]);
        command.args(LONG).args(more).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let reached = |run: &str, step: u64| bench.checkpoints(run).last().is_some_and(|last| *last >= step);

    let mut straight = start("straight", &[]);
    wait_until(&mut straight, "step 120", || reached("straight", 120));
    assert_eq!(signal(straight, libc::SIGKILL), -libc::SIGKILL);

    let mut stopped = start("stopped", &[]);
    wait_until(&mut stopped, "step 10", || reached("stopped", 10));
    assert_eq!(signal(stopped, libc::SIGINT), 130);
    let first = *bench.checkpoints("stopped").last().unwrap();
    let mut stopped = start("stopped", &["--resume"]);
    wait_until(&mut stopped, "20 steps more", || reached("stopped", first + 20));
    assert_eq!(signal(stopped, libc::SIGTERM), 143);
    let second = *bench.checkpoints("stopped").last().unwrap();
    assert!(second < 120, "the run went to step {second} before it was stopped");
    // A crash loses what came after the last checkpoint, and the run does it again.
    let mut killed = start("stopped", &["--resume"]);
    wait_until(&mut killed, "ten steps more", || reached("stopped", second + 10));
    assert_eq!(signal(killed, libc::SIGKILL), -libc::SIGKILL);
    let mut last = start("stopped", &["--resume"]);
    wait_until(&mut last, "step 120", || reached("stopped", 120));
    assert_eq!(signal(last, libc::SIGINT), 130);

    assert_ne!(bench.state("straight", 110), bench.state("straight", 120));
    for step in [10, 60, 120] {
        assert!(bench.state("stopped", step) == bench.state("straight", step), "step {step}, stopped at {first} and {second}");
    }
    // The lines of the metrics agree as well, but for times and for sums that a stop cut in two.
    let accuracies = |run: &str| {
        let lines = bench.metrics(run, "knn").into_iter().filter(|line| line["step"].as_u64().unwrap() <= 117);
        lines.map(|line| (line["step"].clone(), line["space"].clone(), line["accuracy"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(accuracies("stopped").len(), 2 * 13);
    assert_eq!(accuracies("stopped"), accuracies("straight"));
}

#[test]
fn a_finished_run_is_resumed_to_nothing() {
    let bench = Bench::new();
    succeed(bench.pretrain(&[]));
    let before = fs::read(bench.path("run/encoder.safetensors")).unwrap();
    let state = bench.state("run", 18);
    let output = succeed(bench.pretrain(&["--resume"]));
    assert!(text(&output.stderr).contains("resuming after step 18"), "{}", text(&output.stderr));
    assert!(fs::read(bench.path("run/encoder.safetensors")).unwrap() == before && bench.state("run", 18) == state);
}

#[test]
fn a_run_killed_before_its_first_checkpoint_is_resumed_from_the_start() {
    let bench = Bench::new();
    succeed(bench.pretrain(&[]));
    let state = bench.state("run", 18);
    fs::remove_dir_all(bench.path("run/checkpoints")).unwrap();
    let output = succeed(bench.pretrain(&["--resume"]));
    assert!(text(&output.stderr).contains("there is no checkpoint yet"), "{}", text(&output.stderr));
    assert!(bench.state("run", 18) == state);
    assert_eq!(bench.metrics("run", "train").len(), 18);
}

#[test]
fn a_time_limit_ends_a_run_at_the_end_of_its_schedule() {
    let bench = Bench::new();
    let output = succeed(bench.pretrain(&["--max-minutes", "0.05", "--set", "epochs=100000", "--held-out", "held-out"]));
    assert!(text(&output.stderr).contains("or as many as 0.05 minutes allow"), "{}", text(&output.stderr));
    // The rate of a step is that of a moment between the end of the step before it and its own.
    let train = bench.metrics("run", "train");
    let cosine = |seconds: f64| 0.03 * (1.0 + (std::f64::consts::PI * (seconds / 3.0).min(1.0)).cos());
    let mut before = 0.0;
    for line in &train {
        let [rate, after] = ["learning_rate", "seconds"].map(|key| line[key].as_f64().unwrap());
        assert!((cosine(after) - 1e-9..=cosine(before) + 1e-9).contains(&rate), "{rate} between {before} s and {after} s");
        before = after;
    }
    assert!(before >= 3.0, "the limit was reached");
    let knn = bench.metrics("run", "knn");
    assert_eq!(knn.last().unwrap()["step"], train.last().unwrap()["step"], "the end is evaluated");
    assert!(bench.path("run/encoder.safetensors").exists());
}

#[test]
fn the_same_seed_gives_the_same_encoder_and_another_gives_another() {
    let bench = Bench::new();
    let train = |run: &str, seed: &str| {
        succeed(bench.pretrain_on("train", run, &["--set", &format!("seed={seed}"), "--set", "epochs=1"]));
        fs::read(bench.path(run).join("encoder.safetensors")).unwrap()
    };
    let first = train("a", "3");
    assert!(first == train("b", "3"));
    assert!(first != train("c", "4"));
}

#[test]
fn a_run_starts_from_the_weights_it_is_given() {
    let bench = Bench::new();
    succeed(bench.pretrain(&["--set", "epochs=1"]));
    // With a rate this small the weights stay where they were.
    let init = ["--init", "run/encoder.safetensors", "--set", "schedule.learning_rate=1e-30", "--set", "epochs=1"];
    succeed(
        bench.command(
            &[&["pretrain", "--config", "tiny.toml", "--data", "train", "--out", "second", "--device", "cpu"][..], &init].concat(),
        ),
    );
    let [first, second] = ["run", "second"].map(|run| Encoder::read(&bench.path(run).join("encoder.safetensors")).unwrap());
    assert_eq!(first.values("layer1.0.conv1.weight"), second.values("layer1.0.conv1.weight"));
    assert_ne!(first.values("bn1.running_mean"), second.values("bn1.running_mean"), "statistics follow the batches");

    // A run that is killed at once is not resumed from other weights.
    let mut child = bench.pretrain_on("train", "killed", &[&init[..4], &LONG].concat()).stderr(Stdio::null()).spawn().unwrap();
    wait_until(&mut child, "its beginning", || bench.path("killed/config.toml").exists());
    assert_eq!(signal(child, libc::SIGKILL), -libc::SIGKILL);
    assert_eq!(bench.checkpoints("killed")[0], 0);
    let state = bench.state("killed", 0);
    let state = safetensors::SafeTensors::deserialize(&state).unwrap();
    let values: Vec<u8> = first.values("layer1.0.conv1.weight").iter().flat_map(|value| value.to_le_bytes()).collect();
    for encoder in ["query", "key"] {
        assert!(state.tensor(&format!("{encoder}.layer1.0.conv1.weight")).unwrap().data() == values, "{encoder}");
    }

    let other = ["--init", "run/encoder.safetensors", "--set", "encoder.backbone.width=8"];
    let error = refusal(bench.pretrain_on("train", "third", &other), 2);
    assert!(error.contains("run/encoder.safetensors holds another network than the recipe's: its backbone is"), "{error}");
    assert!(!bench.path("third").exists());
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let bench = Bench::new();
    let output = succeed(bench.pretrain(&["--dry-run", "--held-out", "held-out", "--set", "moco.queue=48"]));
    let printed = text(&output.stdout);
    for words in [
        "18 in 2 epochs of 9",
        "memory           about ",
        "effective batch  8 pairs",
        "learning rate    cosine",
        "of 12 held-out images",
        "warning          moco.queue is 48, more than half of the 72 images",
    ] {
        assert!(printed.contains(words), "{words} in {printed}");
    }
    assert!(!bench.path("run").exists());
}

#[test]
fn a_printed_recipe_can_be_read_back() {
    let bench = Bench::new();
    for name in ["v1", "v2", "cifar"] {
        let output = succeed(bench.command(&["recipe", name, "--set", "seed=5"]));
        fs::write(bench.path("printed.toml"), &output.stdout).unwrap();
        assert_eq!(Recipe::read(&bench.path("printed.toml")).unwrap(), Recipe { seed: 5, ..Recipe::named(name).unwrap() });
    }
    assert_eq!(refusal(bench.command(&["recipe", "v9"]), 2), "error: there is no recipe v9; there are v1, v2, cifar");
}
