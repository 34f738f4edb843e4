//! Writes `tests/data/format-N` in the format of this build: `cargo run -p moco-index --example write_format_fixture`.

use std::path::Path;

mod fixture;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/format-{}", moco_index::FORMAT));
    assert!(!folder.exists(), "{} is there already: a format that was released does not change", folder.display());
    fixture::write(&folder);
    println!("{}", folder.display());
}
