//! The guest SDK's sources, as they were when the program was built.

/// Each file's path below the SDK's directory, with `/` between its parts, and its bytes.
pub(crate) const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

#[cfg(test)]
mod tests {
    use super::FILES;

    #[test]
    fn the_sdk_is_whole_and_nothing_else_is_in_it() {
        for needed in ["Cargo.toml", "src/lib.rs", "macros/Cargo.toml", "macros/src/lib.rs", "wit/connector.wit"] {
            assert!(FILES.iter().any(|(path, _)| *path == needed), "{needed} is missing");
        }
        for (path, _) in FILES {
            assert!(!path.contains("target") && !path.starts_with('/') && !path.contains(".."), "{path}");
        }
    }
}
