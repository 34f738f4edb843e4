//! Files of vectors: NumPy's `.npy` and the `.fvecs` and `.ivecs` of the TEXMEX sets (SIFT, GIST).
//!
//! Rows are read in blocks at their place in the file, so a file may be larger than memory. The header of an `.npy`
//! (format 1 to 3 of <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>) is one line in Python's
//! notation with three known keys; the crates that read it bring a parser generator for the whole notation, so it is read
//! here, and what is not exactly that line is refused.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"\x93NUMPY";
/// A header longer than this is none of a plain array.
const LONGEST_HEADER: usize = 64 << 10;
/// As many dimensions as a collection's vectors may have.
const MAX_DIM: usize = 65_536;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no file of vectors: it must be .npy, .fvecs or .ivecs", path.display())]
    UnknownKind { path: PathBuf },
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
    #[error("{} is cut short: it holds {actual} bytes of {expected}", path.display())]
    Cut { path: PathBuf, expected: u64, actual: u64 },
}

impl Error {
    /// Was the wrong file named, rather than a file that cannot be read?
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::UnknownKind { .. } | Self::Unusable { .. } => true,
            Self::Read { .. } | Self::Cut { .. } => false,
        }
    }
}

type Result<T> = std::result::Result<T, Error>;

/// How a number is stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    F16,
    F32,
    F64,
    I32,
    U32,
    I64,
    U64,
}

impl Number {
    fn of_npy(descr: &str) -> Option<Self> {
        let known =
            [("<f2", Self::F16), ("<f4", Self::F32), ("<f8", Self::F64), ("<i4", Self::I32), ("<u4", Self::U32), ("<i8", Self::I64)];
        known.into_iter().chain([("<u8", Self::U64)]).find(|(name, _)| *name == descr).map(|(_, number)| number)
    }

    fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64)
    }
}

/// A file of rows, opened and looked over; its numbers are read by the block.
#[derive(Debug)]
struct Rows {
    path: PathBuf,
    file: File,
    number: Number,
    /// Where the first row starts.
    start: u64,
    /// Bytes before each row's numbers: the row's own length in `.fvecs`.
    prefix: usize,
    rows: usize,
    dim: usize,
}

impl Rows {
    fn open(path: &Path) -> Result<Self> {
        if is_npy(path)? {
            return Self::open_npy(path);
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("fvecs") => Self::open_texmex(path, Number::F32),
            Some("ivecs") => Self::open_texmex(path, Number::I32),
            _ => Err(Error::UnknownKind { path: path.to_owned() }),
        }
    }

    fn open_npy(path: &Path) -> Result<Self> {
        let unusable = |reason: String| Error::Unusable { path: path.to_owned(), reason };
        let mut file = open(path)?;
        let mut lead = [0; 8];
        let read = |file: &mut File, into: &mut [u8]| {
            file.read_exact(into).map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => unusable("its .npy header is cut short".to_owned()),
                _ => Error::Read { path: path.to_owned(), source },
            })
        };
        read(&mut file, &mut lead)?;
        let length = match lead[6] {
            1 => {
                let mut length = [0; 2];
                read(&mut file, &mut length)?;
                (10, usize::from(u16::from_le_bytes(length)))
            }
            2 | 3 => {
                let mut length = [0; 4];
                read(&mut file, &mut length)?;
                (12, u32::from_le_bytes(length) as usize)
            }
            version => return Err(unusable(format!("it is .npy of version {version}; versions 1 to 3 are read"))),
        };
        let (lead, length) = length;
        if length > LONGEST_HEADER {
            return Err(unusable(format!("its .npy header has {length} bytes")));
        }
        let mut header = vec![0; length];
        read(&mut file, &mut header)?;
        let header = String::from_utf8(header).ok().and_then(|text| NpyHeader::parse(&text));
        let header = header.ok_or_else(|| unusable("its .npy header is not that of a plain array".to_owned()))?;
        let number = Number::of_npy(&header.descr)
            .ok_or_else(|| unusable(format!("its numbers are `{}`; f16, f32 and f64, little-endian, are vectors", header.descr)))?;
        if header.fortran_order && header.shape.len() > 1 {
            return Err(unusable("its columns come first (Fortran order): save numpy.ascontiguousarray(…)".to_owned()));
        }
        let (rows, dim) = match header.shape[..] {
            [rows, dim] => (rows, dim),
            [rows] if !number.is_float() => (rows, 1),
            ref shape => return Err(unusable(format!("its shape is {shape:?}; rows × dimensions is wanted"))),
        };
        Self { path: path.to_owned(), file, number, start: (lead + length) as u64, prefix: 0, rows, dim }.checked()
    }

    fn open_texmex(path: &Path, number: Number) -> Result<Self> {
        let file = open(path)?;
        let length = len(&file, path)?;
        let mut first = [0; 4];
        if length < 4 {
            return Err(Error::Unusable { path: path.to_owned(), reason: "it is empty".to_owned() });
        }
        file.read_exact_at(&mut first, 0).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let dim = i32::from_le_bytes(first);
        let rows = match usize::try_from(dim) {
            Ok(dim @ 1..=MAX_DIM) => length / (4 + 4 * dim as u64),
            _ => return Err(Error::Unusable { path: path.to_owned(), reason: format!("its first row says that it has {dim} dimensions") }),
        };
        // Rounded up, so that a torn last row is noticed.
        let rows = rows + u64::from(length % (4 + 4 * dim as u64) != 0);
        Self { path: path.to_owned(), file, number, start: 0, prefix: 4, rows: rows as usize, dim: dim as usize }.checked()
    }

    /// The file is as long as its header says.
    fn checked(self) -> Result<Self> {
        let unusable = |reason: String| Error::Unusable { path: self.path.clone(), reason };
        if self.rows == 0 {
            return Err(unusable("it holds no rows".to_owned()));
        }
        if !(1..=MAX_DIM).contains(&self.dim) {
            return Err(unusable(format!("its rows have {} dimensions; 1 to {MAX_DIM} are possible", self.dim)));
        }
        let expected = (self.rows as u64).checked_mul(self.row_bytes() as u64).and_then(|bytes| bytes.checked_add(self.start));
        let expected = expected.ok_or_else(|| unusable(format!("its header claims {} rows", self.rows)))?;
        let actual = len(&self.file, &self.path)?;
        if actual < expected {
            return Err(Error::Cut { path: self.path, expected, actual });
        }
        if actual > expected {
            return Err(unusable(format!("{} bytes follow its last row", actual - expected)));
        }
        Ok(self)
    }

    fn row_bytes(&self) -> usize {
        self.prefix + self.dim * self.number.bytes()
    }

    /// The bytes of `count` rows from `first` on, without what stands before each.
    fn bytes(&self, first: usize, count: usize) -> Result<Vec<u8>> {
        let size = self.row_bytes();
        let mut bytes = vec![0; count * size];
        let place = self.start + (first as u64) * (size as u64);
        self.file.read_exact_at(&mut bytes, place).map_err(|source| Error::Read { path: self.path.clone(), source })?;
        if self.prefix == 0 {
            return Ok(bytes);
        }
        let mut packed = Vec::with_capacity(count * (size - self.prefix));
        for (row, bytes) in bytes.chunks_exact(size).enumerate() {
            let (dim, numbers) = bytes.split_at(self.prefix);
            if dim != (self.dim as u32).to_le_bytes() {
                let reason = format!("row {} has another number of dimensions than the first, {}", first + row, self.dim);
                return Err(Error::Unusable { path: self.path.clone(), reason });
            }
            packed.extend_from_slice(numbers);
        }
        Ok(packed)
    }
}

/// Vectors in a file, read row block by row block.
#[derive(Debug)]
pub(crate) struct VectorFile(Rows);

impl VectorFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let rows = Rows::open(path)?;
        if !rows.number.is_float() {
            let reason = "it holds integers; vectors are f16, f32 or f64".to_owned();
            return Err(Error::Unusable { path: rows.path, reason });
        }
        Ok(Self(rows))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    pub(crate) fn rows(&self) -> usize {
        self.0.rows
    }

    pub(crate) fn dim(&self) -> usize {
        self.0.dim
    }

    /// `count` rows from `first` on, one after the other: count × dim. An f64 is rounded to the nearest f32.
    pub(crate) fn read(&self, first: usize, count: usize) -> Result<Vec<f32>> {
        let bytes = self.0.bytes(first, count)?;
        Ok(match self.0.number {
            Number::F16 => bytes.as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect(),
            Number::F64 => bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
            // Vectors are floats: checked when the file was opened.
            _ => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        })
    }
}

/// Rows of whole numbers: ids, or the true neighbours of queries.
#[derive(Debug)]
pub(crate) struct Integers {
    /// rows × dim.
    pub(crate) values: Vec<u64>,
    pub(crate) rows: usize,
    pub(crate) dim: usize,
}

/// All of an `.npy` (one or two dimensions) or `.ivecs` of integers.
pub(crate) fn read_integers(path: &Path) -> Result<Integers> {
    let rows = Rows::open(path)?;
    let negative = |value: i64| {
        u64::try_from(value).map_err(|_| Error::Unusable { path: path.to_owned(), reason: format!("{value} is negative, which no id is") })
    };
    let bytes = rows.bytes(0, rows.rows)?;
    let values = match rows.number {
        Number::U32 => bytes.as_chunks().0.iter().map(|bytes| u64::from(u32::from_le_bytes(*bytes))).collect(),
        Number::U64 => bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect(),
        Number::I32 => bytes.as_chunks().0.iter().map(|bytes| negative(i64::from(i32::from_le_bytes(*bytes)))).collect::<Result<_>>()?,
        Number::I64 => bytes.as_chunks().0.iter().map(|bytes| negative(i64::from_le_bytes(*bytes))).collect::<Result<_>>()?,
        Number::F16 | Number::F32 | Number::F64 => {
            return Err(Error::Unusable { path: path.to_owned(), reason: "whole numbers are wanted, it holds floats".to_owned() });
        }
    };
    Ok(Integers { values, rows: rows.rows, dim: rows.dim })
}

/// Does the file begin as an `.npy` does?
pub(crate) fn is_npy(path: &Path) -> Result<bool> {
    let mut lead = Vec::new();
    open(path)?.take(MAGIC.len() as u64).read_to_end(&mut lead).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(lead == MAGIC)
}

fn open(path: &Path) -> Result<File> {
    let opened =
        File::open(path).and_then(|file| if file.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(file) });
    opened.map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn len(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(|source| Error::Read { path: path.to_owned(), source })?.len())
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, keys in any order.
#[derive(Debug, PartialEq)]
struct NpyHeader {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl NpyHeader {
    fn parse(text: &str) -> Option<Self> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
        while !rest.is_empty() {
            let (key, after) = quoted(rest)?;
            rest = after.trim_start().strip_prefix(':')?.trim_start();
            rest = match key {
                "descr" => {
                    let (value, after) = quoted(rest)?;
                    descr = Some(value.to_owned());
                    after
                }
                "fortran_order" => {
                    let (value, after) = ["True", "False"].into_iter().find_map(|word| Some((word, rest.strip_prefix(word)?)))?;
                    fortran_order = Some(value == "True");
                    after
                }
                "shape" => {
                    let (inside, after) = rest.strip_prefix('(')?.split_once(')')?;
                    let numbers = inside.split(',').map(str::trim).filter(|number| !number.is_empty());
                    shape = Some(numbers.map(|number| number.parse().ok()).collect::<Option<Vec<usize>>>()?);
                    after
                }
                _ => return None,
            };
            rest = rest.trim_start();
            rest = match rest.strip_prefix(',') {
                Some(after) => after.trim_start(),
                None if rest.is_empty() => rest,
                None => return None,
            };
        }
        Some(Self { descr: descr?, fortran_order: fortran_order?, shape: shape? })
    }
}

/// A quoted word at the start, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| ['\'', '"'].contains(quote))?;
    text[1..].split_once(quote)
}

/// The bytes before the numbers of an `.npy` in C order, padded as NumPy pads.
pub(crate) fn npy_header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let numbers: Vec<String> = shape.iter().map(usize::to_string).collect();
    let shape = if let [only] = &numbers[..] { format!("({only},)") } else { format!("({})", numbers.join(", ")) };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let lead = MAGIC.len() + 4;
    text += &" ".repeat((lead + text.len() + 1).next_multiple_of(64) - lead - text.len() - 1);
    text.push('\n');
    let length = u16::try_from(text.len()).expect("two numbers are short");
    [MAGIC, &[1, 0], &length.to_le_bytes(), text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn npy(descr: &str, shape: &[usize], numbers: &[u8]) -> Vec<u8> {
        [npy_header(descr, shape), numbers.to_vec()].concat()
    }

    fn refusal(name: &str, bytes: &[u8]) -> String {
        let (_folder, path) = file(name, bytes);
        let error = VectorFile::open(&path).unwrap_err().to_string();
        error.replace(&path.display().to_string(), name)
    }

    #[test]
    fn every_float_is_read_as_f32() {
        let rows = [1.5f32, -2.0, 0.25, 65504.0, -0.0, 6.1e-5];
        let halves: Vec<u8> = rows.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
        let singles: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
        let doubles: Vec<u8> = rows.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect();
        for (descr, numbers) in [("<f2", halves), ("<f4", singles.clone()), ("<f8", doubles)] {
            let (_folder, path) = file("x.npy", &npy(descr, &[3, 2], &numbers));
            let vectors = VectorFile::open(&path).unwrap();
            assert_eq!((vectors.rows(), vectors.dim()), (3, 2));
            let read = vectors.read(1, 2).unwrap();
            assert_eq!(read[..3], rows[2..5], "{descr}");
            assert!((read[3] - rows[5]).abs() < 1e-7, "{descr}: {}", read[3]);
        }
        let texmex: Vec<u8> = singles.chunks(8).flat_map(|row| [&2i32.to_le_bytes(), row].concat()).collect();
        let (_folder, path) = file("x.fvecs", &texmex);
        assert_eq!(VectorFile::open(&path).unwrap().read(0, 3).unwrap(), rows);
    }

    #[test]
    fn a_header_is_one_known_line_and_nothing_else() {
        let header = |text: &str| NpyHeader::parse(text).map(|header| (header.descr, header.fortran_order, header.shape));
        let expected = Some(("<f4".to_owned(), false, vec![3, 4]));
        for text in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n",
            "{\"shape\":(3,4),\"fortran_order\":False,\"descr\":\"<f4\"}",
        ] {
            assert_eq!(header(text), expected, "{text}");
        }
        for text in [
            "",
            "{}",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (3, 4)}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (3, 4)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, -4)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 99999999999999999999)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), 'more': 1}",
            "{'descr': '<f4' 'fortran_order': False, 'shape': (3, 4)}",
            "{'é",
        ] {
            assert_eq!(header(text), None, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_vectors_is_refused_with_the_reason() {
        let eight = [0; 8];
        for (bytes, reason) in [
            (npy("<i4", &[1, 2], &eight), "x.npy cannot be used: it holds integers; vectors are f16, f32 or f64"),
            (npy(">f4", &[1, 2], &eight), "x.npy cannot be used: its numbers are `>f4`; f16, f32 and f64, little-endian, are vectors"),
            (npy("<f4", &[2], &eight), "x.npy cannot be used: its shape is [2]; rows × dimensions is wanted"),
            (npy("<f4", &[1, 2, 1], &eight), "x.npy cannot be used: its shape is [1, 2, 1]; rows × dimensions is wanted"),
            (npy("<f4", &[0, 2], &[]), "x.npy cannot be used: it holds no rows"),
            (npy("<f4", &[2, 0], &[]), "x.npy cannot be used: its rows have 0 dimensions; 1 to 65536 are possible"),
            (npy("<f4", &[usize::MAX, 4], &eight), "x.npy cannot be used: its header claims 18446744073709551615 rows"),
            (npy("<f4", &[1, 1], &eight), "x.npy cannot be used: 4 bytes follow its last row"),
            (b"\x93NUMPY\x07\0\0\0".to_vec(), "x.npy cannot be used: it is .npy of version 7; versions 1 to 3 are read"),
            (b"\x93NUMPY\x01\0\xff\0{".to_vec(), "x.npy cannot be used: its .npy header is cut short"),
            (b"PK\x03\x04".to_vec(), "x.npy is no file of vectors: it must be .npy, .fvecs or .ivecs"),
        ] {
            assert_eq!(refusal("x.npy", &bytes), reason);
        }
        assert!(refusal("x.npy", &npy("<f4", &[2, 2], &eight)).starts_with("x.npy is cut short: it holds 136 bytes of 144"));
        let fortran = String::from_utf8(npy_header("<f4", &[1, 2])[6..].to_vec()).unwrap().replace("False", "True ");
        assert!(refusal("x.npy", &[MAGIC, fortran.as_bytes(), &eight].concat()).contains("Fortran order"));
        assert!(refusal("x.fvecs", &[(-1i32).to_le_bytes(), [0; 4]].concat()).contains("says that it has -1 dimensions"));
        assert!(refusal("x.fvecs", &[2i32.to_le_bytes(), [0; 4]].concat()).contains("is cut short"));
        let (_folder, path) = file("x.fvecs", &[[1, 0, 0, 0], [0; 4], [2, 0, 0, 0], [0; 4]].concat());
        assert!(VectorFile::open(&path).unwrap().read(0, 2).unwrap_err().to_string().contains("row 1 has another number of dimensions"));
    }

    #[test]
    fn integers_are_ids_unless_negative() {
        let (_folder, path) = file("x.npy", &npy("<i8", &[2], &[1i64.to_le_bytes(), i64::MAX.to_le_bytes()].concat()));
        assert_eq!(read_integers(&path).unwrap().values, [1, i64::MAX as u64]);
        let (_folder, path) = file("x.ivecs", &[2i32, 7, 9, 2, 8, 0].map(i32::to_le_bytes).concat());
        let read = read_integers(&path).unwrap();
        assert_eq!((read.rows, read.dim, read.values), (2, 2, vec![7, 9, 8, 0]));
        let (_folder, path) = file("x.npy", &npy("<i4", &[1], &(-1i32).to_le_bytes()));
        assert!(read_integers(&path).unwrap_err().to_string().contains("-1 is negative"));
    }
}
