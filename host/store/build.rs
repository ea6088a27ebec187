//! Compiles the crate again where a migration was added; a changed one is noticed without this.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
