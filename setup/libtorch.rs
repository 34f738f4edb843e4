//! What the build scripts of `train` and `tests` share: libtorch is looked over before anything is compiled against it,
//! and the linker is told where the programs find it when they start.
//!
//! The rpath is absolute and comes from each package that links libtorch, since a dependency's link argument does not
//! reach another package. It is no rustflag: those would be lost with the first `RUSTFLAGS` of a user.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The one libtorch whose headers this version of tch was written for.
const VERSION: &str = "2.11.0";

/// One of the headers, deep inside: an interrupted copy lacks it.
pub(crate) const HEADER: &str = "include/torch/csrc/api/include/torch/torch.h";

pub(crate) const LIBRARIES: [&str; 3] = ["lib/libtorch.so", "lib/libtorch_cpu.so", "lib/libc10.so"];

/// Prints the instructions to Cargo, or the one sentence that says what is wrong with libtorch.
pub(crate) fn link() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=../setup/libtorch.rs");
    let root = workspace();
    let given = env::var_os("LIBTORCH").map(PathBuf::from).unwrap_or_else(|| ".native/libtorch".into());
    let libtorch = root.join(given);
    println!("cargo:rerun-if-changed={}", libtorch.join("build-version").display());
    println!("cargo:rustc-env=MOCO_NATIVE={}", root.join(".native").display());
    match check(&libtorch) {
        Ok(()) => println!("cargo:rustc-link-arg=-Wl,-rpath,{}", libtorch.join("lib").display()),
        Err(sentence) => println!("cargo::error={sentence}"),
    }
}

fn workspace() -> PathBuf {
    let manifest = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    Path::new(&manifest).parent().expect("the package lies in the workspace").to_path_buf()
}

pub(crate) fn check(libtorch: &Path) -> Result<(), String> {
    let here = libtorch.display();
    if !libtorch.is_dir() {
        return Err(format!("there is no libtorch at {here}: run `make setup` (or set LIBTORCH to a libtorch {VERSION})"));
    }
    let Ok(found) = fs::read_to_string(libtorch.join("build-version")) else {
        return Err(format!("{here} does not state its version (no file build-version): run `make setup`"));
    };
    if found.trim().split('+').next() != Some(VERSION) {
        return Err(format!("{here} is libtorch {}, and {VERSION} is needed: run `make setup` with LIBTORCH unset", found.trim()));
    }
    for name in [HEADER].iter().chain(&LIBRARIES) {
        if !libtorch.join(name).is_file() {
            return Err(format!("{here} lacks {name}: run `make setup`"));
        }
    }
    Ok(())
}
