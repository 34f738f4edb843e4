//! What a pair costs before the network sees it: reading and cutting on the loader's threads, photometric operations.
//!
//!     cargo bench --workspace --bench pairs -- /FOLDER [v1|v2|cifar] [BATCH] [WORKERS]
//!
//! Prints pairs/s as the clock has them, and CPU time a pair, which other programs on the machine disturb less.

use std::{env, fs, path::Path, time::Instant};

use anyhow::{Context, bail};
use moco_train::{
    augmentation::{Augmentation, Draw, Photometry},
    data::ImageFolder,
    loader::{Batch, Loader, Settings},
};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [folder, rest @ ..] = arguments.as_slice() else { bail!("usage: /FOLDER [v1|v2|cifar] [BATCH] [WORKERS]") };
    let augmentation = match rest.first().map_or("cifar", String::as_str) {
        "v1" => Augmentation::v1(),
        "v2" => Augmentation::v2(),
        "cifar" => Augmentation::cifar(),
        other => bail!("{other} is no preset: v1, v2 or cifar"),
    };
    let number = |i: usize, default: usize| rest.get(i).map_or(Ok(default), |text| text.parse()).context("BATCH and WORKERS are numbers");
    let mut settings = Settings::new(0, number(1, 64)?);
    settings.workers = number(2, settings.workers)?;
    println!(
        "{} workers, batch {}, {} px, {} threads of libtorch",
        settings.workers,
        settings.batch,
        augmentation.size,
        tch::get_num_threads()
    );

    let images = measure("open the folder", || {
        let folder = ImageFolder::open(Path::new(folder))?;
        let images = folder.samples.len();
        anyhow::Ok((folder, images))
    })?;
    let loader = Loader::new(images, augmentation.clone(), settings.clone())?;
    let pass = |epoch| {
        let batches: Vec<Batch> = loader.epoch(epoch, 0).take(100).collect::<Result<_, _>>()?;
        let pairs = batches.len() * settings.batch;
        anyhow::Ok((batches, pairs))
    };
    measure("read, decode, cut", || pass(0))?;
    measure("again, from memory where there is room", || pass(0))?;

    let batches: Vec<Batch> = loader.epoch(0, 0).take(20).collect::<Result<_, _>>()?;
    let photometric = |way: Photometry, keep: &dyn Fn(&Draw) -> Draw| {
        for view in batches.iter().flat_map(|batch| &batch.views) {
            let draws: Vec<Draw> = view.draws.iter().map(keep).collect();
            let _ = way.apply(&view.crops, &draws);
        }
        anyhow::Ok(((), batches.len() * settings.batch))
    };
    for way in [Photometry::Pixels, Photometry::Batch] {
        measure(&format!("{way:?}: photometric operations"), || photometric(way, &Draw::clone))?;
        for (i, operation) in augmentation.operations.iter().enumerate() {
            let keep = |draw: &Draw| Draw { effects: vec![draw.effects[i].clone()], ..draw.clone() };
            measure(&format!("{way:?}: {operation:?}"), || photometric(way, &keep))?;
        }
    }
    Ok(())
}

/// Runs `work`, which says how many items it was, and prints a line.
fn measure<T>(what: &str, work: impl FnOnce() -> anyhow::Result<(T, usize)>) -> anyhow::Result<T> {
    let (clock, cpu) = (Instant::now(), cpu_seconds()?);
    let (result, items) = work()?;
    let (clock, cpu) = (clock.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    println!("{:>10.0} /s  {:>9.1} µs of CPU each  {what} ({items})", items as f64 / clock, 1e6 * cpu / items as f64);
    Ok(result)
}

/// CPU time of all threads of this process.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Fields 14 and 15, in hundredths of a second; the second field is a name in brackets.
    let fields: Vec<&str> = stat.rsplit(')').next().context("/proc/self/stat has a name")?.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
