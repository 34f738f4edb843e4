//! Checks libtorch, and tells the linker where this package's programs find it when they start.

#[path = "../setup/libtorch.rs"]
mod libtorch;

fn main() {
    libtorch::link();
}
