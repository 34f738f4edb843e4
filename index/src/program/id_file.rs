//! Files of point ids: a one-dimensional `.npy` of integers, or text with one id a line (numbers or UUIDs).

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use moco_index::PointId;
use uuid::Uuid;

use super::output_file::OutputFile;
use super::{usage, vector_file};

/// The ids of a file, in its order.
pub(crate) fn read(path: &Path) -> Result<Vec<PointId>> {
    if vector_file::is_npy(path)? {
        return Ok(vector_file::read_integers(path)?.values.into_iter().map(PointId::Num).collect());
    }
    let cannot = || format!("cannot read {}", path.display());
    let mut ids = Vec::new();
    for (number, line) in BufReader::new(File::open(path).with_context(cannot)?).lines().enumerate() {
        let line = line.with_context(cannot)?;
        let id = parse(line.trim())
            .ok_or_else(|| usage(format!("{}, line {}: `{line}` is no id: a number or a UUID", path.display(), number + 1)))?;
        ids.push(id);
    }
    Ok(ids)
}

/// An id as it is written on a command line or in a text file.
pub(crate) fn parse(text: &str) -> Option<PointId> {
    text.parse().map(PointId::Num).ok().or_else(|| Uuid::try_parse(text).ok().map(PointId::Uuid))
}

/// Writes ids: as `.npy` of u64 if the name ends so, as text otherwise.
pub(crate) fn write(path: &Path, ids: &[PointId]) -> Result<()> {
    let mut out = OutputFile::create(path)?;
    if path.extension().is_some_and(|extension| extension == "npy") {
        let number = |id: &PointId| match id {
            PointId::Num(number) => Ok(*number),
            PointId::Uuid(uuid) => {
                Err(usage(format!("{uuid} does not fit into .npy: give the file of ids another ending, and it becomes text")))
            }
        };
        let numbers = ids.iter().map(number).collect::<Result<Vec<u64>>>()?;
        out.write(|file| {
            file.write_all(&vector_file::npy_header("<u8", &[numbers.len()]))?;
            numbers.iter().try_for_each(|number| file.write_all(&number.to_le_bytes()))
        })?;
    } else {
        out.write(|file| ids.iter().try_for_each(|id| writeln!(file, "{id}")))?;
    }
    out.finish()
}
