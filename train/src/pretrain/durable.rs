//! Files and folders that appear whole or not at all: written under a temporary name, synced, then renamed.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Replaces the file at `path`; after a crash the old one stands there or the new one.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = hidden(path)?;
    let done = write_and_sync(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if done.is_err() {
        // The first error is the one to report; the leftover is ours to clear if that is still possible.
        let _ = fs::remove_file(&temporary);
    }
    done?;
    sync_folder(parent(path))
}

/// Puts a folder of files at `path`, replacing one that stands there. Until its files are on disk, the old one is untouched.
pub(super) fn write_folder(path: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    let temporary = hidden(path)?;
    remove_folder(&temporary)?;
    let written = fs::create_dir(&temporary).and_then(|()| {
        for (name, bytes) in files {
            write_and_sync(&temporary.join(name), bytes)?;
        }
        sync_folder(&temporary)?;
        // A rename does not replace a folder that holds something.
        remove_folder(path)?;
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    written?;
    sync_folder(parent(path))
}

/// Removes a folder with what it holds, if it is there.
pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Whether [`write_file`] or [`write_folder`] was interrupted while it made this one.
pub(super) fn is_leftover(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".unfinished")
}

fn write_and_sync(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the names in a folder last.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn hidden(path: &Path) -> io::Result<PathBuf> {
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or_else(|| io::Error::other("the path ends in no file name"))?);
    name.push(".unfinished");
    Ok(parent(path).join(name))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_and_folders_are_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (file, inner) = (folder.path().join("a.txt"), folder.path().join("step-1"));
        for text in ["one", "two"] {
            write_file(&file, text.as_bytes()).unwrap();
            write_folder(&inner, &[("x", text.as_bytes()), (text, b"")]).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
            assert_eq!(fs::read_to_string(inner.join("x")).unwrap(), text);
            assert_eq!(names(&inner), [text, "x"]);
        }
        assert_eq!(names(folder.path()), ["a.txt", "step-1"]);
    }

    #[test]
    fn a_failure_leaves_what_was_there_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("step-1");
        write_folder(&inner, &[("x", b"one")]).unwrap();
        // A file cannot be created in a folder that is not there.
        assert!(write_folder(&inner, &[("x", b"two"), ("nowhere/y", b"")]).is_err());
        assert_eq!(fs::read(inner.join("x")).unwrap(), b"one");
        assert!(write_file(&folder.path().join("nowhere/a.txt"), b"").is_err());
        assert_eq!(names(folder.path()), ["step-1"]);
    }

    #[test]
    fn leftovers_of_a_crash_are_known_and_do_not_disturb() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("step-1");
        let leftover = hidden(&inner).unwrap();
        fs::create_dir(&leftover).unwrap();
        fs::write(leftover.join("old"), "half").unwrap();
        assert!(is_leftover(leftover.file_name().unwrap().to_str().unwrap()));
        write_folder(&inner, &[("x", b"one")]).unwrap();
        assert_eq!(names(folder.path()), ["step-1"]);
        assert_eq!(names(&inner), ["x"]);
    }
}
