//! Tells the linker where this package's programs find libtorch when they start.

use std::{env, path::Path};

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let manifest = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let root = Path::new(&manifest).parent().expect("the package lies in the workspace").to_path_buf();
    let libtorch = env::var("LIBTORCH").unwrap_or_else(|_| ".native/libtorch".into());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", root.join(libtorch).join("lib").display());
}
