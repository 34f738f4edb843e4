//! Image folders and the loader that reads them: what a user's disk can hold, and that batches depend on nothing but the
//! seed.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use image::{ImageFormat, Rgb};
use moco_encoder::image::RgbImage;
use moco_train::{
    augmentation::{Augmentation, Operation},
    data::{Error, ImageFolder},
    loader::{Batch, Loader, Settings},
};
use sha2::{Digest, Sha256};
use tch::Kind;
use tempfile::TempDir;

/// A picture that is told from the others by its number.
fn picture(number: u8) -> RgbImage {
    RgbImage::from_fn(20, 16, |x, y| Rgb([number, (x * 12) as u8, (y * 15) as u8]))
}

fn write(root: &Path, name: impl AsRef<Path>, number: u8) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    picture(number).save_with_format(path, ImageFormat::Png).unwrap();
}

/// A folder of `n` pictures, `00.png` on.
fn folder(n: u8) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for number in 0..n {
        write(root.path(), format!("{number:02}.png"), number);
    }
    root
}

/// Crops of eight pixels that keep the red channel as it is.
fn augmentation() -> Augmentation {
    Augmentation { size: 8, quarter_turns: true, operations: vec![Operation::Grayscale { p: 0.2 }], ..Augmentation::cifar() }
}

fn settings(batch: usize) -> Settings {
    Settings { workers: 3, ..Settings::new(1, batch) }
}

fn loader(root: &Path, settings: Settings) -> Loader {
    Loader::new(ImageFolder::open(root).unwrap(), augmentation(), settings).unwrap()
}

fn batches(loader: &Loader, epoch: u64, first: usize) -> Vec<Batch> {
    loader.epoch(epoch, first).collect::<Result<_, _>>().unwrap()
}

/// All that can be seen of a batch: its ids, and of each view pixels and draws.
type Contents = (Vec<u64>, Vec<(Vec<u8>, String)>);

fn contents(batch: &Batch) -> Contents {
    let views = batch.views.iter().map(|view| {
        let pixels: Vec<u8> = Vec::try_from(view.crops.contiguous().view(-1)).unwrap();
        (pixels, format!("{:?}", view.draws))
    });
    (batch.ids.clone(), views.collect())
}

fn contents_of(batches: &[Batch]) -> Vec<Contents> {
    batches.iter().map(contents).collect()
}

/// Number of each picture in a batch as its pixels have it.
fn numbers(batch: &Batch, view: usize) -> Vec<u8> {
    Vec::try_from(batch.views[view].crops.select(1, 0).select(1, 4).select(1, 4).contiguous()).unwrap()
}

fn reasons(folder: &ImageFolder) -> Vec<String> {
    folder.skipped.iter().map(ToString::to_string).collect()
}

#[test]
fn a_class_is_the_first_folder_level_and_pictures_are_found_at_any_depth() {
    let root = tempfile::tempdir().unwrap();
    for (number, name) in ["dog/b.png", "dog/2021/may/a.png", "cat/a.png", "cat-b/z.png", "loose.png"].iter().enumerate() {
        write(root.path(), name, number as u8);
    }
    fs::create_dir(root.path().join("no-pictures")).unwrap();
    let folder = ImageFolder::open(root.path()).unwrap();
    let found: Vec<(u64, &str, Option<usize>)> = folder.samples.iter().map(|s| (s.id, s.path.to_str().unwrap(), s.class)).collect();
    assert_eq!(
        found,
        [
            (0, "cat-b/z.png", Some(1)),
            (1, "cat/a.png", Some(0)),
            (2, "dog/2021/may/a.png", Some(2)),
            (3, "dog/b.png", Some(2)),
            (4, "loose.png", None)
        ]
    );
    assert_eq!(folder.classes, ["cat", "cat-b", "dog"]);
    assert!(folder.skipped.is_empty());
    assert!(!folder.is_labelled(), "one picture has no class");
    fs::remove_file(root.path().join("loose.png")).unwrap();
    assert!(ImageFolder::open(root.path()).unwrap().is_labelled());
}

#[test]
fn the_hash_knows_names_and_sizes() {
    let root = folder(3);
    let hash = || ImageFolder::open(root.path()).unwrap().hash();
    let first = hash();
    let size = |name: &str| fs::metadata(root.path().join(name)).unwrap().len().to_le_bytes();
    let message = ["00.png", "01.png", "02.png"].map(|name| [name.as_bytes(), &[0], &size(name)].concat()).concat();
    assert_eq!(first, format!("{:x}", Sha256::digest(message)));
    fs::rename(root.path().join("02.png"), root.path().join("03.png")).unwrap();
    let renamed = hash();
    fs::write(root.path().join("notes.txt"), "no picture").unwrap();
    assert_eq!(renamed, hash(), "a file that is skipped does not count");
    let mut bytes = fs::read(root.path().join("03.png")).unwrap();
    bytes.push(0);
    fs::write(root.path().join("03.png"), bytes).unwrap();
    let grown = hash();
    assert!(first != renamed && renamed != grown && first != grown);
}

#[test]
fn what_is_no_picture_is_listed_with_the_reason() {
    let root = folder(2);
    let path = |name: &str| root.path().join(name);
    fs::write(path("empty.png"), b"").unwrap();
    fs::write(path("notes.txt"), b"no picture").unwrap();
    fs::write(path("drawing.svg"), b"<svg xmlns='http://www.w3.org/2000/svg'/>").unwrap();
    fs::write(path(".hidden.png"), fs::read(path("00.png")).unwrap()).unwrap();
    fs::create_dir(path(".thumbnails")).unwrap();
    fs::write(path(".thumbnails/a.png"), fs::read(path("00.png")).unwrap()).unwrap();
    symlink("nowhere.png", path("dangling.png")).unwrap();
    // A PNG whose header claims 60,000×60,000 pixels.
    let mut huge = fs::read(path("00.png")).unwrap();
    huge[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    fs::write(path("huge.png"), huge).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(path("pipe.png")).status();
    assert!(pipe.unwrap().success());
    let folder = ImageFolder::open(root.path()).unwrap();
    assert_eq!(folder.samples.len(), 2);
    let reasons = reasons(&folder);
    let starts = [
        ".hidden.png: its name starts with a dot",
        ".thumbnails: its name starts with a dot",
        "dangling.png: a link that leads nowhere",
        "drawing.svg: SVG images are not supported",
        "empty.png: the image is empty: 0 bytes",
        "huge.png: the ",
        "notes.txt: the bytes are not an image in a known format",
        "pipe.png: neither a file nor a folder",
    ];
    assert_eq!(reasons.len(), starts.len(), "{reasons:?}");
    for (reason, start) in reasons.iter().zip(starts) {
        assert!(reason.starts_with(start), "{reason:?} does not start with {start:?}");
    }
}

#[test]
fn links_are_followed_and_loops_survived() {
    let (root, elsewhere) = (folder(1), folder(2));
    fs::create_dir_all(root.path().join("a/b")).unwrap();
    symlink("../..", root.path().join("a/b/up")).unwrap();
    symlink("itself", root.path().join("itself")).unwrap();
    symlink(elsewhere.path(), root.path().join("linked")).unwrap();
    let folder = ImageFolder::open(root.path()).unwrap();
    let names: Vec<&str> = folder.samples.iter().map(|sample| sample.path.to_str().unwrap()).collect();
    assert_eq!(names, ["00.png", "linked/00.png", "linked/01.png"]);
    let reasons = reasons(&folder);
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].starts_with("a/b/up: a link that leads back to "), "{reasons:?}");
    assert!(reasons[1].starts_with("itself: "), "{reasons:?}");
}

#[test]
fn names_that_are_no_utf_8_are_read_like_any_other() {
    let root = folder(1);
    let class = PathBuf::from(OsStr::from_bytes(b"caf\xE9"));
    let name = class.join(OsStr::from_bytes(b"\xFF\xFE.png"));
    write(root.path(), &name, 7);
    fs::write(root.path().join(class.join(OsStr::from_bytes(b"\xFF.txt"))), "no picture").unwrap();
    let folder = ImageFolder::open(root.path()).unwrap();
    assert_eq!(folder.samples[1].path, name);
    assert_eq!(folder.classes, ["caf\u{FFFD}"]);
    assert!(reasons(&folder)[0].starts_with("caf\u{FFFD}/\u{FFFD}.txt: "));
    let loader = Loader::new(folder, augmentation(), settings(2)).unwrap();
    let mut seen = numbers(&batches(&loader, 0, 0)[0], 0);
    seen.sort_unstable();
    assert_eq!(seen, [0, 7]);
}

#[test]
fn a_folder_without_pictures_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let refusal = || ImageFolder::open(root.path()).unwrap_err().to_string();
    let name = root.path().display();
    assert_eq!(refusal(), format!("the folder {name} holds no files"));
    fs::create_dir_all(root.path().join("deeper/still")).unwrap();
    assert_eq!(refusal(), format!("the folder {name} holds no files"));
    // One is cut in its pixels, which only decoding finds; one is none at all.
    write(root.path(), "a.png", 1);
    let bytes = fs::read(root.path().join("a.png")).unwrap();
    fs::write(root.path().join("a.png"), &bytes[..bytes.len() - 20]).unwrap();
    fs::write(root.path().join("b.jpg"), "no picture").unwrap();
    let start = format!(
        "none of the 2 files in the folder {name} is an image that can be read; the first of them, a.png: the PNG image is cut short"
    );
    assert_eq!(refusal(), start);
    let missing = root.path().join("missing");
    assert!(matches!(ImageFolder::open(&missing), Err(Error::Read { path, .. }) if path == missing));
    assert_eq!(
        ImageFolder::open(&root.path().join("b.jpg")).unwrap_err().to_string(),
        format!("{} is not a folder", root.path().join("b.jpg").display())
    );
}

#[test]
fn a_held_out_folder_is_numbered_as_the_one_it_is_scored_against() {
    let (train, held_out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["a/1.png", "b/1.png", "c/1.png"] {
        write(train.path(), name, 0);
    }
    for name in ["b/2.png", "c/2.png"] {
        write(held_out.path(), name, 0);
    }
    let train = ImageFolder::open(train.path()).unwrap();
    let open = || ImageFolder::open(held_out.path()).unwrap();
    assert_eq!(open().samples.iter().map(|sample| sample.class).collect::<Vec<_>>(), [Some(0), Some(1)]);
    let numbered = open().with_classes_of(&train).unwrap();
    assert_eq!(numbered.samples.iter().map(|sample| sample.class).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert_eq!(numbered.classes, train.classes);
    write(held_out.path(), "d/2.png", 0);
    let refusal = open().with_classes_of(&train).unwrap_err().to_string();
    assert!(refusal.contains(r#"the class "d""#) && refusal.contains(&*train.root.to_string_lossy()), "{refusal}");
}

#[test]
fn an_epoch_holds_each_picture_once_seen_twice_and_drops_the_rest() {
    let root = folder(23);
    let loader = loader(root.path(), settings(5));
    assert_eq!(loader.batches(), 4);
    let epochs = [0, 1].map(|epoch| batches(&loader, epoch, 0));
    for epoch in &epochs {
        assert_eq!(epoch.len(), 4);
        let mut seen = Vec::new();
        for batch in epoch {
            for view in &batch.views {
                assert_eq!((view.crops.size(), view.crops.kind()), (vec![5, 3, 8, 8], Kind::Uint8));
                assert_eq!(view.draws.len(), 5);
            }
            let ids: Vec<u8> = batch.ids.iter().map(|&id| id as u8).collect();
            assert_eq!((numbers(batch, 0), numbers(batch, 1)), (ids.clone(), ids.clone()));
            assert_ne!(contents(batch).1[0], contents(batch).1[1], "the views are two draws");
            seen.extend(ids);
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 20);
    }
    assert_ne!(contents_of(&epochs[0]), contents_of(&epochs[1]));
}

#[test]
fn batches_depend_on_the_seed_and_not_on_workers_memory_or_where_one_resumes() {
    let root = folder(41);
    let reference = contents_of(&batches(&loader(root.path(), Settings { workers: 1, ..settings(10) }), 3, 0));
    for workers in [2, 7] {
        for cache_bytes in [0, 5_000, 1 << 20] {
            let loader = loader(root.path(), Settings { workers, cache_bytes, ..settings(10) });
            assert_eq!(contents_of(&batches(&loader, 3, 0)), reference, "{workers} workers, {cache_bytes} bytes");
            assert_eq!(contents_of(&batches(&loader, 3, 2)), reference[2..]);
            assert!(batches(&loader, 3, 4).is_empty() && batches(&loader, 3, 9).is_empty());
        }
    }
    assert_ne!(contents_of(&batches(&loader(root.path(), Settings { seed: 2, ..settings(10) }), 3, 0)), reference);
}

#[test]
fn pictures_that_break_while_training_are_replaced_and_listed() {
    let root = folder(23);
    let open = |workers| loader(root.path(), Settings { workers, cache_bytes: 0, ..settings(5) });
    let loaders = [1, 4].map(open);
    let whole = batches(&loaders[0], 0, 0);
    fs::remove_file(root.path().join("03.png")).unwrap();
    fs::write(root.path().join("11.png"), b"").unwrap();
    let bytes = fs::read(root.path().join("20.png")).unwrap();
    fs::write(root.path().join("20.png"), &bytes[..bytes.len() / 2]).unwrap();
    let [one, four] = loaders.each_ref().map(|loader| batches(loader, 0, 0));
    assert_eq!(contents_of(&one), contents_of(&four));
    for (broken, whole) in one.iter().zip(&whole) {
        assert_eq!(broken.ids.len(), 5);
        let mut distinct = broken.ids.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 5);
        for (id, before) in broken.ids.iter().zip(&whole.ids) {
            assert!(![3, 11, 20].contains(id));
            assert!(id == before || [3, 11, 20].contains(before), "only what broke is replaced");
        }
    }
    // Those that the epoch drops may never be tried, so a second one follows.
    batches(&loaders[0], 1, 0);
    batches(&loaders[0], 2, 0);
    let skipped: Vec<String> = loaders[0].skipped().iter().map(ToString::to_string).collect();
    assert_eq!(skipped.len(), 3, "{skipped:?}");
    assert!(skipped[0].starts_with("03.png: No such file"), "{skipped:?}");
    assert_eq!(skipped[1], "11.png: the image is empty: 0 bytes");
    assert_eq!(skipped[2], "20.png: the PNG image is cut short");
}

#[test]
fn a_folder_that_vanishes_while_training_ends_the_epoch_with_its_name() {
    let root = folder(12);
    let loader = loader(root.path(), Settings { cache_bytes: 0, ..settings(4) });
    for number in 0..12 {
        fs::remove_file(root.path().join(format!("{number:02}.png"))).unwrap();
    }
    let results: Vec<_> = loader.epoch(0, 0).collect();
    assert_eq!(results.len(), 1, "an epoch ends with its error");
    let sentence = results[0].as_ref().unwrap_err().to_string();
    assert!(sentence.starts_with(&format!("no image in the folder {} can be read any more", root.path().display())), "{sentence}");
    assert_eq!(loader.skipped().len(), 12);
}

#[test]
fn with_memory_for_them_pictures_are_read_once() {
    let root = folder(12);
    let loader = loader(root.path(), settings(4));
    let first = contents_of(&batches(&loader, 0, 0));
    for number in 0..12 {
        fs::remove_file(root.path().join(format!("{number:02}.png"))).unwrap();
    }
    assert_eq!(contents_of(&batches(&loader, 0, 0)), first);
    assert!(loader.skipped().is_empty());
}

#[test]
fn decoded_pictures_are_kept_up_to_the_bytes_allowed() {
    let root = folder(12);
    let five = 5 * u64::from(20u32 * 16 * 3) + 100;
    let loader = loader(root.path(), Settings { cache_bytes: five, ..settings(4) });
    batches(&loader, 0, 0);
    fs::remove_dir_all(root.path()).unwrap();
    batches(&loader, 1, 0);
    assert_eq!(loader.skipped().len(), 12 - 5);
}

#[test]
fn no_more_is_read_ahead_than_two_batches() {
    let root = folder(40);
    let loader = loader(root.path(), Settings { cache_bytes: 0, ..settings(2) });
    let mut epoch = loader.epoch(0, 0);
    epoch.next().unwrap().unwrap();
    // Long enough to read all of them.
    thread::sleep(Duration::from_millis(500));
    fs::remove_dir_all(root.path()).unwrap();
    assert!(epoch.take_while(Result::is_ok).count() <= 2);
}

#[test]
fn an_epoch_that_is_left_early_ends_its_threads() {
    let root = folder(40);
    let loader = loader(root.path(), settings(2));
    for _ in 0..20 {
        let mut epoch = loader.epoch(0, 0);
        epoch.next().unwrap().unwrap();
        drop(epoch); // joins them; a thread that waits for ever would hang here
    }
    drop(loader.epoch(1, 0));
    assert_eq!(batches(&loader, 0, 0).len(), 20);
}

#[test]
fn fewer_pictures_than_a_batch_are_refused_by_name() {
    let root = folder(3);
    let folder = ImageFolder::open(root.path()).unwrap();
    let refusal = |batch, workers| Loader::new(folder.clone(), augmentation(), Settings { workers, ..settings(batch) }).err().unwrap();
    assert_eq!(refusal(4, 1).to_string(), format!("the folder {} holds 3 images, fewer than the batch of 4", root.path().display()));
    assert_eq!(refusal(0, 1).to_string(), "batch is 0; it must be at least 1");
    assert_eq!(refusal(3, 0).to_string(), "workers is 0; it must be at least 1");
    let augmentation = Augmentation { size: 0, ..augmentation() };
    let refusal = Loader::new(folder.clone(), augmentation, settings(3)).err().unwrap().to_string();
    assert_eq!(refusal, "augmentation.size is 0; it must be 1 to 4096");
}

#[test]
fn a_batch_as_large_as_the_folder_stays_full_when_a_picture_breaks() {
    let root = folder(4);
    let loader = loader(root.path(), Settings { cache_bytes: 0, ..settings(4) });
    fs::remove_file(root.path().join("02.png")).unwrap();
    let batch = &batches(&loader, 0, 0)[0];
    assert_eq!(batch.ids.len(), 4);
    assert!(!batch.ids.contains(&2));
}
