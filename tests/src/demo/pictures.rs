//! The pictures of a demo: those to learn from and those held out, in two folders that `moco-train` reads.
//!
//! The blood cells of `tests/data` lie ready. A user's own are prepared first: decoded once, reduced to a size that a small encoder makes use
//! of, split by a hash of their pixels, and written into the demo's folder. Photographs of 12 megapixels would otherwise be decoded
//! anew for every epoch, and training would wait for it. Labels are the names of the first folder level; they only score.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use moco_encoder::image::{Limits, decode, resize_shorter_side};
use moco_train::data::{ImageFolder, Sample, Skipped};
use rayon::prelude::{IntoParallelRefIterator as _, ParallelIterator as _};
use sha2::{Digest as _, Sha256};

use super::{Stop, programs::say, view::png};

/// Shorter side that larger pictures are reduced to.
const SHORTER_SIDE: u32 = 128;

/// No more of a user's pictures are taken.
const MOST: usize = 5_000;

/// Longest that is spent on preparing them.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fewer pictures to learn from teach nothing, and fewer held out measure nothing.
const FEWEST: (usize, usize) = (32, 4);

/// Files that are named one by one where many are left out.
const NAMED: usize = 5;

/// A picture's file.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its name for people, from the folder that holds the classes.
    pub name: String,
    pub path: PathBuf,
    pub class: Option<usize>,
    pub bytes: Vec<u8>,
}

/// Pictures to learn from, and others to ask with.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// Names of the classes; empty where there are no labels.
    pub classes: Vec<String>,
    pub train: Vec<Picture>,
    pub train_folder: PathBuf,
    pub held_out: Vec<Picture>,
    pub held_out_folder: PathBuf,
}

impl Pictures {
    /// A folder that is split already: `train/CLASS/…` and `held-out/CLASS/…`.
    pub fn of_split_folder(folder: &Path) -> anyhow::Result<Self> {
        let [train_folder, held_out_folder] = ["train", "held-out"].map(|part| folder.join(part));
        let train = ImageFolder::open(&train_folder)?;
        let held_out = ImageFolder::open(&held_out_folder)?.with_classes_of(&train)?;
        let read = |folder: &ImageFolder| {
            let picture = |sample: &Sample| {
                let path = folder.root.join(&sample.path);
                let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                Ok(Picture { name: sample.path.display().to_string(), path, class: sample.class, bytes })
            };
            folder.samples.iter().map(picture).collect::<anyhow::Result<Vec<_>>>()
        };
        Ok(Self { train: read(&train)?, held_out: read(&held_out)?, classes: train.classes, train_folder, held_out_folder })
    }

    /// A user's folder of any depth, prepared into `out`. Says what it leaves out.
    ///
    /// # Errors
    /// If the folder cannot be read or holds too few pictures.
    pub fn of_users_folder(folder: &Path, out: &Path) -> anyhow::Result<Self> {
        let ImageFolder { samples, classes, mut skipped, .. } =
            ImageFolder::open(folder).map_err(|error| Stop::Usage(format!("{:#}", anyhow::Error::from(error))))?;
        let mut samples: Vec<(PathBuf, Option<usize>)> = samples.into_iter().map(|sample| (sample.path, sample.class)).collect();
        // In the order of a hash, so that a part of them is a fair sample.
        samples.sort_by_cached_key(|(path, _)| Sha256::digest(path.as_os_str().as_encoded_bytes()));
        let found = samples.len();
        samples.truncate(MOST);
        let start = Instant::now();
        let prepared: Vec<_> =
            samples.par_iter().map(|(path, _)| (start.elapsed() < PATIENCE).then(|| Prepared::from(&folder.join(path)))).collect();

        let (mut kept, mut in_time, mut copies) = (Vec::new(), 0, 0);
        let mut seen = HashSet::new();
        for ((path, class), prepared) in samples.into_iter().zip(prepared) {
            in_time += usize::from(prepared.is_some());
            match prepared {
                None => {}
                Some(Err(error)) => skipped.push(Skipped { path, reason: format!("{error:#}") }),
                Some(Ok(prepared)) if !seen.insert(prepared.digest) => copies += 1,
                Some(Ok(prepared)) => kept.push((path, class, prepared)),
            }
        }
        say_left_out(found - in_time, &skipped, copies)?;
        kept.sort_by(|(a, ..), (b, ..)| a.cmp(b));

        let parts = parts(&kept);
        let labelled = is_labelled(&kept, &parts);
        if !labelled {
            say(
                "No labels: for scores, pictures of one class lie together in a folder of the one named, and there are at least two such folders.",
            )?;
        }
        let [train_folder, held_out_folder] = ["train", "held-out"].map(|part| out.join(part));
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for (number, ((path, class, prepared), part)) in kept.into_iter().zip(parts).enumerate() {
            let (folder, pictures) = match part {
                Part::Train => (&train_folder, &mut train),
                Part::HeldOut => (&held_out_folder, &mut held_out),
            };
            let class = class.filter(|_| labelled);
            let folder = class.map_or_else(|| folder.clone(), |class| folder.join(&classes[class]));
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            let file = folder.join(format!("{number:05}.png"));
            fs::write(&file, &prepared.file).with_context(|| format!("cannot write {}", file.display()))?;
            pictures.push(Picture { name: path.display().to_string(), path: file, class, bytes: prepared.file });
        }
        if train.len() < FEWEST.0 || held_out.len() < FEWEST.1 {
            return Err(Stop::Usage(format!(
                "{} holds {} different pictures that can be read, {} to learn from and {} held out (a fifth is, by a hash): at least {} and {} are \
                 needed",
                folder.display(),
                train.len() + held_out.len(),
                train.len(),
                held_out.len(),
                FEWEST.0,
                FEWEST.1
            ))
            .into());
        }
        Ok(Self { classes: if labelled { classes } else { Vec::new() }, train, train_folder, held_out, held_out_folder })
    }

    /// The classes of `pictures`, where all of them have one.
    pub fn labels(pictures: &[Picture]) -> Option<Vec<usize>> {
        pictures.iter().map(|picture| picture.class).collect()
    }

    /// A picture's class by name.
    pub fn class_name(&self, picture: &Picture) -> Option<&str> {
        picture.class.map(|class| self.classes[class].as_str())
    }
}

/// A picture made ready.
struct Prepared {
    file: Vec<u8>,
    /// Of its pixels: a copy of a picture under another name must not be held out from itself.
    digest: [u8; 32],
}

impl Prepared {
    /// Decodes a picture once, with its orientation, and reduces it.
    fn from(path: &Path) -> anyhow::Result<Self> {
        let mut picture = decode(&fs::read(path)?, &Limits::default(), [255; 3])?;
        if picture.width().min(picture.height()) > SHORTER_SIDE {
            picture = resize_shorter_side(&picture, SHORTER_SIDE)?;
        }
        let mut hash = Sha256::new();
        hash.update(picture.width().to_be_bytes());
        hash.update(picture.as_raw());
        Ok(Self { file: png(&picture)?, digest: hash.finalize().into() })
    }
}

type Kept = (PathBuf, Option<usize>, Prepared);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Train,
    HeldOut,
}

/// A fifth is held out, by the hash; but nothing of a class that would have no picture left to learn from.
fn parts(pictures: &[Kept]) -> Vec<Part> {
    let held_out = |prepared: &Prepared| prepared.digest[0].is_multiple_of(5);
    let taught: HashSet<_> = pictures.iter().filter(|(.., prepared)| !held_out(prepared)).map(|(_, class, _)| class).collect();
    let part = |(_, class, prepared): &Kept| if held_out(prepared) && taught.contains(class) { Part::HeldOut } else { Part::Train };
    pictures.iter().map(part).collect()
}

/// Whether all pictures have a class, and at least two classes are asked for.
fn is_labelled(pictures: &[Kept], parts: &[Part]) -> bool {
    let held_out = pictures.iter().zip(parts).filter(|(_, part)| **part == Part::HeldOut);
    let asked: HashSet<_> = held_out.map(|((_, class, _), _)| class).collect();
    pictures.iter().all(|(_, class, _)| class.is_some()) && asked.len() > 1
}

fn say_left_out(more: usize, skipped: &[Skipped], copies: usize) -> anyhow::Result<()> {
    if more > 0 {
        say(format_args!(
            "{more} pictures are left out: the demo takes {MOST} at most, and what it prepares in {} s.",
            PATIENCE.as_secs()
        ))?;
    }
    if copies > 0 {
        say(format_args!("Left out: {copies} that show exactly what another one shows."))?;
    }
    if !skipped.is_empty() {
        say(format_args!("Left out: {} that cannot be read as a picture:", skipped.len()))?;
        for skipped in skipped.iter().take(NAMED) {
            say(format_args!("  {skipped}"))?;
        }
        if skipped.len() > NAMED {
            say("  …")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures of `side` pixels, each another, as PNG files in folders of the names.
    fn folder_of(root: &Path, counts: &[(&str, u32)], side: u32) {
        for (place, (folder, count)) in counts.iter().enumerate() {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).unwrap();
            for number in 0..*count {
                let picture = image::RgbImage::from_fn(side, side + 8, |x, y| image::Rgb([(x + y) as u8, place as u8, number as u8]));
                fs::write(folder.join(format!("{number}.png")), png(&picture).unwrap()).unwrap();
            }
        }
    }

    fn refusal(images: &Path, out: &Path) -> String {
        let error = Pictures::of_users_folder(images, out).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Stop::Usage(_))), "{error:#}");
        error.to_string()
    }

    #[test]
    fn a_users_folder_is_reduced_and_split_and_its_first_level_are_the_classes() {
        let temporary = tempfile::tempdir().unwrap();
        let (images, out) = (temporary.path().join("images"), temporary.path().join("out"));
        folder_of(&images, &[("cat/deep", 40), ("dog", 40)], 150);
        fs::copy(images.join("dog/3.png"), images.join("dog/copy.png")).unwrap();
        fs::write(images.join("dog/broken.png"), "this is no picture").unwrap();
        let pictures = Pictures::of_users_folder(&images, &out).unwrap();
        assert_eq!(pictures.classes, ["cat", "dog"]);
        assert_eq!(pictures.train.len() + pictures.held_out.len(), 80, "the copy and the broken file are left out");
        assert!((5..30).contains(&pictures.held_out.len()), "{}", pictures.held_out.len());
        for picture in pictures.train.iter().chain(&pictures.held_out) {
            assert!(picture.name.starts_with(pictures.class_name(picture).unwrap()));
            assert_eq!(decode(&picture.bytes, &Limits::default(), [0; 3]).unwrap().dimensions(), (128, 134));
            assert_eq!(fs::read(&picture.path).unwrap(), picture.bytes);
        }
        // What is prepared is what moco-train reads.
        assert_eq!(ImageFolder::open(&pictures.train_folder).unwrap().samples.len(), pictures.train.len());
        let again = Pictures::of_users_folder(&images, &temporary.path().join("again")).unwrap();
        let names = |pictures: &[Picture]| pictures.iter().map(|picture| picture.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&again.held_out), names(&pictures.held_out));
    }

    #[test]
    fn pictures_without_folders_or_of_one_class_have_no_labels() {
        for names in [vec![("", 60)], vec![("cat", 60)], vec![("", 5), ("cat", 30), ("dog", 30)]] {
            let temporary = tempfile::tempdir().unwrap();
            let (images, out) = (temporary.path().join("images"), temporary.path().join("out"));
            folder_of(&images, &names, 20);
            let pictures = Pictures::of_users_folder(&images, &out).unwrap();
            assert_eq!(pictures.classes, [] as [&str; 0], "{names:?}");
            assert_eq!(Pictures::labels(&pictures.held_out), None);
        }
    }

    #[test]
    fn a_folder_that_teaches_nothing_is_refused_in_words() {
        let temporary = tempfile::tempdir().unwrap();
        let (images, out) = (temporary.path().join("images"), temporary.path().join("out"));
        assert!(refusal(&images, &out).contains("images"), "a folder that is not there");
        fs::create_dir(&images).unwrap();
        assert!(refusal(&images, &out).contains(&images.display().to_string()), "an empty folder");
        fs::write(images.join("notes.txt"), "no picture").unwrap();
        assert!(refusal(&images, &out).contains("notes.txt"), "no picture in it");
        folder_of(&images, &[("cat", 12), ("dog", 12)], 16);
        let sentence = refusal(&images, &out);
        assert!(sentence.contains("holds 24 different pictures") && sentence.contains("at least 32 and 4"), "{sentence}");
    }
}
