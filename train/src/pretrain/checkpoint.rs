//! Checkpoints: everything from which a run goes on as if it had never stopped.
//!
//! `checkpoints/step-N/` holds `state.safetensors` (both encoders, queue and pointer, the optimiser's buffer) and
//! `state.json` (where the run is, and of which pictures and recipe). A checkpoint appears whole or not at all, and its
//! tensors carry a hash: a damaged one is refused and never trained on.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tch::{Device, Kind, Tensor};

use super::durable;

/// Format number this build writes, and the only one that it reads.
const FORMAT: u32 = 1;

const POSITION: &str = "state.json";
const TENSORS: &str = "state.safetensors";

/// Why a checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot write the checkpoint {} (those before it are intact)", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the checkpoint {} is damaged ({detail}): remove it to resume from the one before it", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("the checkpoint {} has format {found}; this build reads {FORMAT}", path.display())]
    Format { path: PathBuf, found: u64 },
}

/// Where a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Steps that are done.
    pub step: u64,
    /// The epoch that the next step belongs to, from 0.
    pub epoch: u64,
    /// The next step's batch within its epoch, from 0.
    pub batch: u64,
    pub seed: u64,
    /// libtorch's threads. A resumed run is equal bit by bit with the same number on the same kind of processor.
    pub threads: usize,
    pub device: String,
    /// Time spent on training and evaluation, which a time limit counts.
    pub seconds: f64,
    /// The step after which k-NN was last evaluated, with what it gave on features.
    pub evaluated: Option<Evaluated>,
    /// The best of the evaluations on features.
    pub best: Option<Evaluated>,
    /// SHA-256 over the names and sizes of the pictures: their order follows from it.
    pub data_hash: String,
    pub images: u64,
    /// What wrote it.
    pub program: String,
}

/// A k-NN evaluation on features.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluated {
    pub step: u64,
    pub accuracy: f64,
}

/// What stands in `state.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    /// SHA-256 of `state.safetensors`, in hexadecimal.
    tensors_sha256: String,
    position: Position,
}

/// A resumable state: where the run is, and its tensors.
pub(super) type Checkpoint = (Position, BTreeMap<String, Tensor>);

/// The `checkpoints` folder of a run.
#[derive(Debug)]
pub(super) struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// The folder, made if it is not there. Leftovers of an interrupted write are removed.
    ///
    /// # Errors
    /// [`Error::Write`] if it cannot be made or cleaned.
    pub(super) fn open(folder: &Path, keep: usize) -> Result<Self, Error> {
        let failed = |source| Error::Write { path: folder.into(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_str().is_some_and(durable::is_leftover) {
                durable::remove_folder(&entry.path()).map_err(failed)?;
            }
        }
        Ok(Self { folder: folder.into(), keep })
    }

    /// Where the checkpoint of a step lies.
    pub(super) fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step}"))
    }

    /// Steps of the checkpoints that are there, ascending.
    ///
    /// # Errors
    /// [`Error::Read`] if the folder cannot be listed.
    pub(super) fn steps(&self) -> Result<Vec<u64>, Error> {
        let failed = |source| Error::Read { path: self.folder.clone(), source };
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            steps.extend(name.to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Writes a checkpoint, then removes the oldest ones above the number to keep.
    ///
    /// # Errors
    /// [`Error::Write`]; the checkpoints before it are intact then.
    pub(super) fn write(&self, position: &Position, state: &BTreeMap<String, Tensor>) -> Result<(), Error> {
        let path = self.path(position.step);
        let failed = |source| Error::Write { path: path.clone(), source };
        let tensors = to_bytes(state);
        let header = Header { format: FORMAT, tensors_sha256: sha256(&tensors), position: position.clone() };
        let header = serde_json::to_vec_pretty(&header).expect("a position holds strings and numbers only");
        durable::write_folder(&path, &[(TENSORS, &tensors), (POSITION, &header)]).map_err(failed)?;
        let steps = self.steps()?;
        for step in &steps[..steps.len().saturating_sub(self.keep)] {
            durable::remove_folder(&self.path(*step)).map_err(failed)?;
        }
        Ok(())
    }

    /// Reads the newest checkpoint; `None` if there is none.
    ///
    /// # Errors
    /// If it is damaged, of another format, or cannot be read.
    pub(super) fn read_newest(&self) -> Result<Option<Checkpoint>, Error> {
        let Some(step) = self.steps()?.last().copied() else { return Ok(None) };
        let path = self.path(step);
        let damaged = |detail: String| Error::Damaged { path: path.clone(), detail };
        let read = |name: &str| {
            let file = path.join(name);
            match fs::read(&file) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(damaged(format!("{name} is missing"))),
                Err(source) => Err(Error::Read { path: file, source }),
                Ok(bytes) => Ok(bytes),
            }
        };
        let header: serde_json::Value =
            serde_json::from_slice(&read(POSITION)?).map_err(|error| damaged(format!("{POSITION}: {error}")))?;
        match header.get("format").and_then(serde_json::Value::as_u64) {
            Some(found) if found != u64::from(FORMAT) => return Err(Error::Format { path, found }),
            _ => {}
        }
        let header: Header = serde_json::from_value(header).map_err(|error| damaged(format!("{POSITION}: {error}")))?;
        let tensors = read(TENSORS)?;
        if sha256(&tensors) != header.tensors_sha256 {
            return Err(damaged(format!("{TENSORS} is not what was written")));
        }
        let state = from_bytes(&tensors).map_err(damaged)?;
        Ok(Some((header.position, state)))
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Kinds of tensors that a state is made of, with their names in the file.
const KINDS: [(Kind, Dtype); 4] =
    [(Kind::Float, Dtype::F32), (Kind::Double, Dtype::F64), (Kind::Int64, Dtype::I64), (Kind::Uint8, Dtype::U8)];

/// A tensor on its way to a file; its bytes exist while they are written.
struct Entry<'a>(&'a Tensor, Vec<usize>);

impl View for Entry<'_> {
    fn dtype(&self) -> Dtype {
        let kind = self.0.kind();
        KINDS.iter().find(|(known, _)| *known == kind).map_or_else(|| panic!("a state holds no {kind:?}"), |(_, dtype)| *dtype)
    }

    fn shape(&self) -> &[usize] {
        &self.1
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = self.0.detach().to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; self.data_len()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.0.numel() * self.0.kind().elt_size_in_bytes()
    }
}

/// Tensors as the bytes of a safetensors file.
pub(super) fn to_bytes(tensors: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let entries = tensors.iter().map(|(name, tensor)| (name, Entry(tensor, tensor.size().iter().map(|side| *side as usize).collect())));
    safetensors::serialize(entries, None).expect("a state's tensors have unique names")
}

/// The tensors of a safetensors file.
fn from_bytes(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    file.iter()
        .map(|(name, view)| {
            let kind = KINDS.iter().find(|(_, dtype)| *dtype == view.dtype()).map(|(kind, _)| *kind);
            let kind = kind.ok_or_else(|| format!("tensor {name} holds {:?}", view.dtype()))?;
            let shape: Vec<i64> = view.shape().iter().map(|side| *side as i64).collect();
            Ok((name.to_owned(), Tensor::from_data_size(view.data(), &shape, kind)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(step: u64) -> Position {
        Position {
            step,
            epoch: step / 10,
            batch: step % 10,
            seed: 7,
            threads: 2,
            device: "cpu".into(),
            seconds: 1.25,
            evaluated: Some(Evaluated { step: 10, accuracy: 0.1 + 0.2 }),
            best: None,
            data_hash: "ab".into(),
            images: 100,
            program: "moco-train 0.1.0".into(),
        }
    }

    fn state(value: f32) -> BTreeMap<String, Tensor> {
        BTreeMap::from([
            ("query.conv1".to_owned(), Tensor::from_slice(&[value, -0.0, f32::MIN_POSITIVE, 1e-45]).view([2, 2])),
            ("momentum".to_owned(), Tensor::from_slice(&[0.1f64, value.into()])),
            ("queue.pointer".to_owned(), Tensor::from(42i64)),
        ])
    }

    fn checkpoints(keep: usize) -> (tempfile::TempDir, Checkpoints) {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(&folder.path().join("checkpoints"), keep).unwrap();
        (folder, checkpoints)
    }

    fn refusal(checkpoints: &Checkpoints) -> String {
        checkpoints.read_newest().unwrap_err().to_string()
    }

    #[test]
    fn a_state_comes_back_bit_by_bit() {
        let (_folder, checkpoints) = checkpoints(3);
        assert!(checkpoints.read_newest().unwrap().is_none());
        checkpoints.write(&position(9), &state(1.5)).unwrap();
        checkpoints.write(&position(12), &state(2.5)).unwrap();
        let (read, tensors) = checkpoints.read_newest().unwrap().unwrap();
        assert_eq!(read, position(12));
        assert_eq!(to_bytes(&tensors), to_bytes(&state(2.5)));
        assert_ne!(to_bytes(&tensors), to_bytes(&state(1.5)));
        assert_eq!(tensors["query.conv1"].size(), [2, 2]);
    }

    #[test]
    fn only_the_newest_are_kept_and_leftovers_go() {
        let (_folder, checkpoints) = checkpoints(2);
        for step in [3, 100, 20] {
            checkpoints.write(&position(step), &state(0.0)).unwrap();
        }
        assert_eq!(checkpoints.steps().unwrap(), [20, 100]);
        let leftover = checkpoints.folder.join(".step-7.unfinished");
        fs::create_dir(&leftover).unwrap();
        assert_eq!(Checkpoints::open(&checkpoints.folder, 2).unwrap().steps().unwrap(), [20, 100]);
        assert!(!leftover.exists());
    }

    #[test]
    fn a_checkpoint_that_is_not_as_it_was_written_is_refused_by_name() {
        let (_folder, checkpoints) = checkpoints(3);
        checkpoints.write(&position(5), &state(1.5)).unwrap();
        let (header, tensors) = (checkpoints.path(5).join(POSITION), checkpoints.path(5).join(TENSORS));
        let (good_header, good_tensors) = (fs::read_to_string(&header).unwrap(), fs::read(&tensors).unwrap());

        let mut flipped = good_tensors.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for bytes in [&flipped[..], &good_tensors[..good_tensors.len() - 1], &[]] {
            fs::write(&tensors, bytes).unwrap();
            let sentence = refusal(&checkpoints);
            assert!(sentence.contains("step-5 is damaged (state.safetensors is not what was written)"), "{sentence}");
        }
        fs::remove_file(&tensors).unwrap();
        assert!(refusal(&checkpoints).contains("state.safetensors is missing"));
        fs::write(&tensors, &good_tensors).unwrap();

        fs::write(&header, &good_header[..40]).unwrap();
        assert!(refusal(&checkpoints).contains("step-5 is damaged (state.json: "));
        fs::write(&header, good_header.replace("\"format\": 1", "\"format\": 2")).unwrap();
        assert!(refusal(&checkpoints).contains("has format 2; this build reads 1"));
        fs::write(&header, good_header.replace("\"step\": 5", "\"steps\": 5")).unwrap();
        assert!(refusal(&checkpoints).contains("unknown field `steps`"));
        fs::write(&header, &good_header).unwrap();
        assert!(checkpoints.read_newest().unwrap().is_some());
    }
}
