//! Finding ONNX Runtime and opening it, once a process.
//!
//! It is looked for where the caller says, then where `ORT_DYLIB_PATH` says, then beside the program, in `../lib`, and in
//! the `.native` folder of the workspace that built the program. A place that somebody *named* is the only one that is
//! tried: falling back to another library than the one asked for would be silent.

use std::{
    env,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use ort::{LoadDynamicError, environment::Environment};

use crate::error::Error;

/// File names of the library, newest convention first.
const FILE_NAMES: [&str; 2] = ["libonnxruntime.so.1", "libonnxruntime.so"];

/// Where the workspace's `make setup` unpacks the library, relative to its native folder.
const NATIVE_LIBRARY: &str = "onnxruntime/lib/libonnxruntime.so.1";

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Serialises the first opening; two environments in one process are an error of ONNX Runtime's.
static OPENING: Mutex<()> = Mutex::new(());

/// ONNX Runtime, open. There is one in a process.
#[derive(Debug)]
pub struct Runtime {
    path: PathBuf,
    pub(crate) environment: Environment,
}

impl Runtime {
    /// Opens ONNX Runtime, or returns the one that is open already.
    ///
    /// `library` is the file to open; without it the places of the [module's description](self) are searched.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Missing`], [`Error::NotALibrary`], [`Error::NotOnnxRuntime`], [`Error::TooOld`];
    /// [`Error::AlreadyOpen`] if another file than `library` is open. After an error the next call may try another file.
    pub fn open(library: Option<&Path>) -> Result<&'static Self, Error> {
        let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = RUNTIME.get() {
            return match library.map(absolute).transpose()? {
                Some(asked) if !same_file(&asked, &open.path) => Err(Error::AlreadyOpen { open: open.path.clone(), asked }),
                _ => Ok(open),
            };
        }
        let path = find(library)?;
        let builder = ort::init_from(&path).map_err(|error| refusal(&path, error))?;
        // Telemetry is on by default in builds that have it.
        let environment =
            builder.with_name("moco").with_telemetry(false).build().map_err(|error| Error::Start { detail: error.to_string() })?;
        Ok(RUNTIME.get_or_init(|| Self { path, environment }))
    }

    /// The file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version, commit and compiler of the library, as it states them.
    pub fn build_info(&self) -> &'static str {
        ort::info()
    }
}

/// The path from the root: the loader would take a bare file name as one to search for in the system's folders.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Read { path: path.into(), source })
}

/// Whether two paths lead to one file, through links as well.
fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn find(library: Option<&Path>) -> Result<PathBuf, Error> {
    let variable = env::var_os("ORT_DYLIB_PATH").filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = match (library, &variable) {
        (Some(path), _) => Some((path, "--onnxruntime")),
        (None, Some(path)) => Some((path.as_path(), "ORT_DYLIB_PATH")),
        (None, None) => None,
    };
    if let Some((path, asked_by)) = named {
        let path = absolute(path)?;
        return if path.is_file() { Ok(path) } else { Err(Error::Missing { path, asked_by }) };
    }
    let looked_for = usual_places(env::current_exe().ok().as_deref(), option_env!("MOCO_NATIVE").map(Path::new));
    match looked_for.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(Error::NotFound { looked_for }),
    }
}

/// Beside the program, in the `lib` folder next to the program's, and in the native folder known when it was built.
fn usual_places(program: Option<&Path>, native: Option<&Path>) -> Vec<PathBuf> {
    let folder = program.and_then(Path::parent);
    let beside = folder.map(Path::to_path_buf);
    let lib = folder.and_then(Path::parent).map(|parent| parent.join("lib"));
    let installed = [beside, lib].into_iter().flatten().flat_map(|folder| FILE_NAMES.map(|name| folder.join(name)));
    installed.chain(native.map(|folder| folder.join(NATIVE_LIBRARY))).collect()
}

fn refusal(path: &Path, error: LoadDynamicError) -> Error {
    let path = path.to_path_buf();
    match error {
        LoadDynamicError::Dlopen { error, .. } => Error::NotALibrary { path, detail: error.to_string() },
        LoadDynamicError::MissingApi { .. } => Error::NotOnnxRuntime { path },
        LoadDynamicError::InvalidVersionString => Error::TooOld { path, found: "unreadable".into(), needed: ort::MINOR_VERSION },
        LoadDynamicError::BadVersion { version_str, .. } => Error::TooOld { path, found: version_str, needed: ort::MINOR_VERSION },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_looked_for_beside_the_program_then_in_lib_then_in_native() {
        let places = usual_places(Some(Path::new("/opt/moco/bin/moco-serve")), Some(Path::new("/src/.native")));
        let expected = [
            "/opt/moco/bin/libonnxruntime.so.1",
            "/opt/moco/bin/libonnxruntime.so",
            "/opt/moco/lib/libonnxruntime.so.1",
            "/opt/moco/lib/libonnxruntime.so",
            "/src/.native/onnxruntime/lib/libonnxruntime.so.1",
        ];
        assert_eq!(places, expected.map(PathBuf::from));
    }
}
