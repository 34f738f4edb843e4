//! What the build scripts say of a libtorch that is not there, another version, or half copied.

#[path = "../../setup/libtorch.rs"]
#[allow(dead_code)] // `link` speaks to Cargo, from a build script.
mod libtorch;

use std::{fs, path::Path};

/// A folder that has the files the check asks for, all empty, and a version.
fn libtorch_of_version(version: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in [libtorch::HEADER].iter().chain(&libtorch::LIBRARIES) {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).unwrap();
        fs::write(path, "").unwrap();
    }
    fs::write(folder.path().join("build-version"), version).unwrap();
    folder
}

fn refusal(folder: &Path) -> String {
    libtorch::check(folder).unwrap_err()
}

#[test]
fn the_right_version_passes_whatever_it_was_built_for() {
    for version in ["2.11.0+cpu\n", "2.11.0+cu130\n", "2.11.0"] {
        libtorch::check(libtorch_of_version(version).path()).unwrap();
    }
}

#[test]
fn what_is_wrong_is_one_sentence_that_says_what_to_do() {
    let folder = libtorch_of_version("2.11.0+cpu\n");
    let here = folder.path().display();
    let absent = folder.path().join("absent");
    assert_eq!(refusal(&absent), format!("there is no libtorch at {here}/absent: run `make setup` (or set LIBTORCH to a libtorch 2.11.0)"));

    fs::write(folder.path().join("build-version"), "2.9.1+cpu\n").unwrap();
    assert_eq!(refusal(folder.path()), format!("{here} is libtorch 2.9.1+cpu, and 2.11.0 is needed: run `make setup` with LIBTORCH unset"));
    fs::remove_file(folder.path().join("build-version")).unwrap();
    assert_eq!(refusal(folder.path()), format!("{here} does not state its version (no file build-version): run `make setup`"));

    for file in [libtorch::HEADER].iter().chain(&libtorch::LIBRARIES) {
        let folder = libtorch_of_version("2.11.0+cpu\n");
        fs::remove_file(folder.path().join(file)).unwrap();
        assert_eq!(refusal(folder.path()), format!("{} lacks {file}: run `make setup`", folder.path().display()));
    }
}
