//! Where tensors live: the CPU, or a GPU through libtorch's CUDA half, which is opened when it is asked for.
//!
//! The program is linked against libtorch's CPU half only, so the same file runs where there is no CUDA. Opening
//! `libtorch_cuda.so` registers its kernels and hooks with the half that is loaded already; it has to happen before
//! libtorch is first asked for anything, since libtorch remembers that it found no CUDA.

use std::{
    env,
    ffi::{CStr, CString},
    fmt, fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use tch::{Cuda, Device};

const LIBRARY: &str = "libtorch_cuda.so";

/// Names the folder of `libtorch_cuda.so`; nothing else is searched then.
pub const FOLDER_VARIABLE: &str = "MOCO_TORCH_CUDA";

/// What the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// CUDA where it can be opened and sees a GPU, else the CPU; which of them it became is said.
    #[default]
    Auto,
    Cpu,
    /// A GPU by its number. Missing, it is an error.
    Cuda(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            other => other
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "a device is auto, cpu, cuda or cuda:N".to_owned()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Why a GPU cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(
        "{LIBRARY} was not found (looked in {}): get it with `make setup CUDA=1`, or name its folder in {FOLDER_VARIABLE}",
        tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NotFound { tried: Vec<PathBuf> },
    #[error("{} cannot be opened: {reason}", path.display())]
    Open { path: PathBuf, reason: String },
    #[error("{} was opened, but it finds no GPU (is the driver installed, and does CUDA_VISIBLE_DEVICES leave one?)", path.display())]
    NoGpu { path: PathBuf },
    #[error("there is no GPU {index}; this machine has {count}, numbered from 0")]
    NoSuchGpu { index: usize, count: usize },
}

/// A device that can be used.
#[derive(Clone, Debug)]
pub struct Opened {
    pub device: Device,
    /// For people: what it is and, where `auto` chose, why.
    pub description: String,
}

impl Choice {
    /// Opens the device. To be called before anything else of libtorch.
    ///
    /// # Errors
    /// If a GPU was asked for by name and cannot be used. Never falls back then.
    pub fn open(self) -> Result<Opened, Error> {
        match self {
            Self::Cpu => Ok(Opened { device: Device::Cpu, description: "cpu".into() }),
            Self::Cuda(index) => open_cuda(index),
            Self::Auto => match open_cuda(0) {
                Ok(opened) => Ok(Opened { description: format!("{} (auto)", opened.description), ..opened }),
                Err(Error::NotFound { .. }) => Ok(Opened { device: Device::Cpu, description: "cpu (auto: CUDA is not installed)".into() }),
                Err(error) => Ok(Opened { device: Device::Cpu, description: format!("cpu (auto: {error})") }),
            },
        }
    }
}

fn open_cuda(index: usize) -> Result<Opened, Error> {
    let path = open_library()?;
    let count = usize::try_from(Cuda::device_count()).unwrap_or(0);
    if count == 0 {
        return Err(Error::NoGpu { path });
    }
    if index >= count {
        return Err(Error::NoSuchGpu { index, count });
    }
    Ok(Opened { device: Device::Cuda(index), description: format!("cuda:{index}, by {}", path.display()) })
}

/// Opens libtorch's CUDA half and returns where it was found.
fn open_library() -> Result<PathBuf, Error> {
    let mut tried = Vec::new();
    for folder in folders() {
        let path = folder.join(LIBRARY);
        if path.is_file() {
            return dlopen(&path).map(|()| path.clone()).map_err(|reason| Error::Open { path, reason });
        }
        tried.push(folder);
    }
    if env::var_os(FOLDER_VARIABLE).is_none() {
        // Without a folder in front, the loader searches LD_LIBRARY_PATH and the system's list.
        if dlopen(Path::new(LIBRARY)).is_ok() {
            return Ok(LIBRARY.into());
        }
        tried.push("LD_LIBRARY_PATH".into());
    }
    Err(Error::NotFound { tried })
}

/// Folders that may hold the library, the most telling first.
fn folders() -> Vec<PathBuf> {
    if let Some(folder) = env::var_os(FOLDER_VARIABLE) {
        return vec![folder.into()];
    }
    let beside = folder_of_libtorch().into_iter();
    beside.chain([Path::new(env!("MOCO_NATIVE")).join("cuda/lib")]).collect()
}

/// The folder that the loader took libtorch from.
fn folder_of_libtorch() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    let path = &line[line.find('/')?..];
    Path::new(path).parent().map(Path::to_path_buf)
}

fn dlopen(path: &Path) -> Result<(), String> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| "its path has a zero byte".to_owned())?;
    // SAFETY: `path` ends in a zero byte. Opening runs the library's initialisers, which is what it is opened for; it is
    // never closed, so what they register stays valid.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: takes no argument; the text it returns is the loader's, valid until this thread's next call of its functions.
    let message = unsafe { libc::dlerror() };
    if message.is_null() {
        return Err("the loader gives no reason".into());
    }
    // SAFETY: not null, and ends in a zero byte.
    Err(unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for choice in [Choice::Auto, Choice::Cpu, Choice::Cuda(0), Choice::Cuda(3)] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("cuda".parse(), Ok(Choice::Cuda(0)));
        for wrong in ["gpu", "cuda:", "cuda:-1", "cuda:x", "", "CPU"] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn libtorch_is_found_where_it_was_loaded_from() {
        tch::get_num_threads(); // keeps the linker from leaving libtorch out of this test
        assert!(folder_of_libtorch().unwrap().join("libtorch_cpu.so").is_file());
    }

    #[test]
    fn a_library_that_cannot_be_opened_gives_the_loaders_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LIBRARY);
        fs::write(&path, "no library").unwrap();
        assert!(dlopen(&path).unwrap_err().contains(LIBRARY));
        assert!(dlopen(&folder.path().join("nowhere.so")).unwrap_err().contains("nowhere.so"));
    }
}
