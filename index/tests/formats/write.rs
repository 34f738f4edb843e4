//! Writes `tests/data/format-N`, `tests/data/segment-N` and `tests/data/snapshot-N.snapshot`, whichever is not there yet, in the formats of this build:
//! `cargo run -p moco-index --example write_format_fixture`.

use std::path::Path;

mod fixture;

fn main() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let of_collections = data.join(format!("format-{}", moco_index::FORMAT));
    let of_segments = data.join(format!("segment-{}", moco_index::SEGMENT_FORMAT));
    let of_snapshots = data.join("snapshot-1.snapshot");
    let missing = |path: &Path| !path.exists();
    let is_any_missing = [&of_collections, &of_segments, &of_snapshots].into_iter().any(|path| missing(path));
    assert!(is_any_missing, "all are there already: a format that was released does not change");
    if missing(&of_collections) {
        fixture::write(&of_collections);
        tidy(&of_collections);
        println!("{}", of_collections.display());
    }
    if missing(&of_segments) {
        fixture::write_segments(&of_segments);
        tidy(&of_segments);
        println!("{}", of_segments.display());
    }
    if missing(&of_snapshots) {
        let folder = tempfile::tempdir().unwrap();
        fixture::write(folder.path());
        let collection = moco_index::Store::open(folder.path()).unwrap().collection("old").unwrap();
        let manifest = collection.backup(&of_snapshots).unwrap();
        assert_eq!(manifest.format, 1, "the file has the number of its format");
        println!("{}", of_snapshots.display());
    }
}

/// Takes away what only an open store needs.
fn tidy(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            tidy(&path);
        } else if name == "lock" || name.ends_with("-shm") {
            std::fs::remove_file(path).unwrap();
        } else if name.ends_with("-wal") {
            assert_eq!(path.metadata().unwrap().len(), 0, "{} was moved into its file when the store was closed", path.display());
            std::fs::remove_file(path).unwrap();
        }
    }
}
