//! Puts the guest SDK's sources into the program, so that `keyward plugin new` works with nothing beside it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    let missing = |name| io::Error::other(format!("cargo has not set {name}"));
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or_else(|| missing("CARGO_MANIFEST_DIR"))?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| missing("OUT_DIR"))?);
    let sdk = manifest.join("../../sdk-guest");

    let mut files = Vec::new();
    collect(&sdk, &sdk, &mut files)?;
    files.sort();
    let mut table = String::from("&[\n");
    for (name, path) in &files {
        table.push_str(&format!("    ({name:?}, include_bytes!({path:?})),\n"));
    }
    table.push_str("]\n");
    fs::write(out.join("sdk.rs"), table)?;
    println!("cargo::rerun-if-changed=build.rs");
    Ok(())
}

/// The files of the SDK below `directory` as (path below `root`, absolute path), with `/` between the parts.
fn collect(root: &Path, directory: &Path, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    // A directory that is watched is built again for a file that comes or goes.
    println!("cargo::rerun-if-changed={}", directory.display());
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() {
            if name != "target" && name != "tests" && !name.starts_with('.') {
                collect(root, &path, files)?;
            }
        } else if matches!(path.extension().and_then(|ending| ending.to_str()), Some("rs" | "toml" | "wit" | "md")) {
            println!("cargo::rerun-if-changed={}", path.display());
            let below = path.strip_prefix(root).map_err(io::Error::other)?;
            let parts: Vec<_> = below.iter().filter_map(|part| part.to_str()).collect();
            files.push((parts.join("/"), path.canonicalize()?));
        }
    }
    Ok(())
}
