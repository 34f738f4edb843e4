//! Lets a program know the folder in which `make setup` put ONNX Runtime, as the last place it looks.

use std::{env, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let manifest = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let root = Path::new(&manifest).ancestors().nth(2).expect("the package lies two folders deep in the workspace");
    println!("cargo:rustc-env=MOCO_NATIVE={}", root.join(".native").display());
}
