//! The pictures that a model is checked on: eight of blood cells and eight computed ones, or a folder of the user's.
//!
//! They are in colour and unlike each other, because a check on grey pictures would not see swapped channels, and one on
//! alike pictures would not see a network that answers everything with one vector.

use std::{
    fs,
    path::{Path, PathBuf},
};

use moco_encoder::image::{Limits, Preprocessing, RgbImage};

use crate::error::Error;

/// Windows of BCCD pictures (MIT, `pictures/LICENSE`), cut by `pictures/cut_pictures.py`.
const CELLS: [&[u8]; 8] = [
    include_bytes!("pictures/BloodImage_00000.jpg"),
    include_bytes!("pictures/BloodImage_00032.jpg"),
    include_bytes!("pictures/BloodImage_00065.jpg"),
    include_bytes!("pictures/BloodImage_00099.jpg"),
    include_bytes!("pictures/BloodImage_00140.jpg"),
    include_bytes!("pictures/BloodImage_00210.jpg"),
    include_bytes!("pictures/BloodImage_00272.jpg"),
    include_bytes!("pictures/BloodImage_00371.jpg"),
];

/// Side of the computed pictures before they are prepared.
const SIDE: u32 = 128;

/// Most pictures of a folder that are looked at: each runs through the plain evaluator as well, which is not made for speed.
pub const MAX_PICTURES: usize = 64;

/// The eight pictures of cells, prepared.
pub fn cells(preprocessing: &Preprocessing) -> Vec<RgbImage> {
    CELLS.map(|bytes| preprocessing.load(bytes, &Limits::default()).expect("the built-in pictures are sound")).into()
}

/// All sixteen built-in pictures, prepared.
pub fn built_in(preprocessing: &Preprocessing) -> Vec<RgbImage> {
    let computed = PATTERNS.iter().map(|pattern| RgbImage::from_fn(SIDE, SIDE, |x, y| image::Rgb(pattern(x, y))));
    let prepared = computed.map(|picture| preprocessing.apply(&picture).expect("the computed pictures have pixels"));
    cells(preprocessing).into_iter().chain(prepared).collect()
}

/// Stripes, rings, squares, slopes and noise, each with its own colours.
const PATTERNS: [fn(u32, u32) -> [u8; 3]; 8] = [
    |x, _| if x / 8 % 2 == 0 { [220, 30, 40] } else { [20, 60, 200] },
    |_, y| if y / 3 % 2 == 0 { [250, 240, 90] } else { [10, 90, 30] },
    |x, y| if (x / 16 + y / 16) % 2 == 0 { [255; 3] } else { [0; 3] },
    |x, y| [(2 * x) as u8, (2 * y) as u8, 128],
    |x, y| {
        let squared = x.abs_diff(SIDE / 2).pow(2) + y.abs_diff(SIDE / 2).pow(2);
        if squared.isqrt() / 6 % 2 == 0 { [0, 200, 180] } else { [120, 0, 90] }
    },
    |x, y| noise(x, y),
    |x, y| noise(x / 12, y / 12),
    |x, y| if x + y < SIDE { [5, 5, 60] } else { [255, 150, 0] },
];

/// Bits of the position, mixed (the finalizer of MurmurHash3), so that neighbours have nothing in common.
fn noise(x: u32, y: u32) -> [u8; 3] {
    let mut bits = y * 4096 + x + 1;
    for factor in [0x85eb_ca6b, 0xc2b2_ae35_u32] {
        bits = (bits ^ (bits >> 15)).wrapping_mul(factor);
    }
    let [r, g, b, _] = (bits ^ (bits >> 16)).to_le_bytes();
    [r, g, b]
}

/// Pictures of a folder, of any depth.
#[derive(Debug)]
pub struct FolderPictures {
    /// Prepared, in the order of their paths, at most [`MAX_PICTURES`].
    pub pictures: Vec<RgbImage>,
    /// Files before the last taken one that are no pictures.
    pub skipped: usize,
}

/// Reads and prepares the pictures of a folder.
///
/// # Errors
/// [`Error::Read`] for the folder or a file that cannot be read, [`Error::NoPictures`] if no file is a picture.
pub fn of_folder(folder: &Path, preprocessing: &Preprocessing) -> Result<FolderPictures, Error> {
    let mut pictures = Vec::new();
    let mut skipped = 0;
    for path in files(folder)? {
        if pictures.len() == MAX_PICTURES {
            break;
        }
        let bytes = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        match preprocessing.load(&bytes, &Limits::default()) {
            Ok(picture) => pictures.push(picture),
            Err(_) => skipped += 1,
        }
    }
    if pictures.is_empty() {
        return Err(Error::NoPictures { folder: folder.into() });
    }
    Ok(FolderPictures { pictures, skipped })
}

/// Every file below `folder`, sorted; symbolic links to folders are not followed, so a loop of them ends.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = |path: &Path| {
        let failed = |source| Error::Read { path: path.into(), source };
        fs::read_dir(path).map_err(failed)?.map(|entry| entry.map_err(failed)).collect::<Result<Vec<_>, _>>()
    };
    let mut open = vec![folder.to_path_buf()];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in read(&folder)? {
            let kind = entry.file_type().map_err(|source| Error::Read { path: entry.path(), source })?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if entry.path().is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}
