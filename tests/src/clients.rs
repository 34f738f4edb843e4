//! Programs of other people, in Python, that tests drive: format checkers and official client libraries.
//!
//! `make clients` installs the packages, pinned by hash, into `.native/clients-test`, without a virtual environment.
//! `MOCO_CLIENTS_PYTHON` names another interpreter that has them already.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_path_buf()
}

/// A Python that finds the client packages, about to run `tests/clients/{script}`.
///
/// # Panics
/// If the packages are not installed: a test that was asked for and cannot run has not passed.
pub fn python(script: &str) -> Command {
    let script = workspace().join("tests/clients").join(script);
    let mut command = match env::var_os("MOCO_CLIENTS_PYTHON") {
        Some(interpreter) => Command::new(interpreter),
        None => {
            let packages = workspace().join(".native/clients-test");
            assert!(packages.is_dir(), "there are no client packages in {}: run `make clients`", packages.display());
            let mut command = Command::new("python3");
            command.env("PYTHONPATH", packages);
            command
        }
    };
    command.arg("-B").arg(script);
    command
}

/// Runs the command to its end and returns what it printed.
///
/// # Panics
/// If it does not start or does not end with status 0; what it printed is in the message.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let [printed, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{command:?} ended with {}\n{printed}{errors}", output.status);
    printed.into_owned()
}
