//! `metrics.jsonl`: one JSON object a line, in the order of the steps, for programs and for `jq`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::durable;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line<'a> {
    /// Means over the steps since the line before it.
    Train {
        step: u64,
        /// Epochs that are done, with their parts.
        epoch: f64,
        loss: f64,
        /// Fraction of queries whose positive key scored highest: of the pretext task, no measure of the features.
        pretext_accuracy: f64,
        learning_rate: f64,
        /// Images, each seen as two views, in a second.
        pairs_per_second: f64,
        /// Fraction of the time in which training waited for pictures.
        data_wait: f64,
        /// Time spent on training and evaluation since the run began.
        seconds: f64,
    },
    /// k-NN of held-out pictures.
    Knn {
        step: u64,
        epoch: f64,
        /// `features` or `projection`.
        space: &'a str,
        k: usize,
        temperature: f64,
        /// Name of the folder whose labelled pictures vote.
        bank: &'a str,
        bank_images: usize,
        queries: usize,
        accuracy: f64,
        /// Mean of the classes' accuracies.
        balanced_accuracy: f64,
        /// In the order of the classes' names; none for a class without queries.
        per_class: &'a [Option<f64>],
        seconds: f64,
    },
}

/// The open file.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file, keeping the lines up to `step`: what a run wrote after the checkpoint that it resumes from will
    /// be written again.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn open(path: &Path, step: u64) -> io::Result<Self> {
        match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(text) => {
                let kept: String = text.split_inclusive('\n').take_while(|line| line_step(line).is_some_and(|s| s <= step)).collect();
                if kept.len() != text.len() {
                    durable::write_file(path, kept.as_bytes())?;
                }
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.into(), file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line, in one write.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, line: &Line<'_>) -> io::Result<()> {
        let mut text = serde_json::to_string(line).expect("a line holds strings, numbers and lists only");
        text.push('\n');
        self.file.write_all(text.as_bytes())
    }

    /// Makes the lines last.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// The step of a whole line; `None` for one that was cut short.
fn line_step(line: &str) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_str(line.strip_suffix('\n')?).ok()?;
    value.get("step")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> Line<'static> {
        Line::Knn {
            step,
            epoch: 0.5,
            space: "features",
            k: 20,
            temperature: 0.1,
            bank: "train",
            bank_images: 3,
            queries: 2,
            accuracy: 0.5,
            balanced_accuracy: 0.25,
            per_class: &[Some(0.5), None],
            seconds: 1.5,
        }
    }

    #[test]
    fn lines_are_json_and_name_what_they_measure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        Metrics::open(&path, 0).unwrap().append(&line(3)).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\"kind\":\"knn\",\"step\":3,\"epoch\":0.5,\"space\":\"features\",\"k\":20,\"temperature\":0.1,\"bank\":\"train\",\
             \"bank_images\":3,\"queries\":2,\"accuracy\":0.5,\"balanced_accuracy\":0.25,\"per_class\":[0.5,null],\"seconds\":1.5}\n"
        );
    }

    #[test]
    fn lines_after_the_checkpoint_and_lines_cut_short_are_dropped_on_resume() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, 0).unwrap();
        for step in [1, 2, 2, 3] {
            metrics.append(&line(step)).unwrap();
        }
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}{}", &whole[..30])).unwrap();
        let steps = || fs::read_to_string(&path).unwrap().split_inclusive('\n').map(|line| line_step(line).unwrap()).collect::<Vec<_>>();
        Metrics::open(&path, 9).unwrap();
        assert_eq!(steps(), [1, 2, 2, 3]);
        Metrics::open(&path, 2).unwrap().append(&line(4)).unwrap();
        assert_eq!(steps(), [1, 2, 2, 4]);
        Metrics::open(&path, 0).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }
}
