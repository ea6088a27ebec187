//! Whether a component fits this host, told by the names that it imports and exports.
//!
//! That is quick and needs no compiling, so it can be asked of a file before it is installed. The types
//! behind the names are checked when the component is compiled.

use semver::Version;
use wasmparser::{Encoding, Parser, Payload};

use crate::RuntimeError;

/// The package of the contract.
const PACKAGE: &str = "keyward:connector";
/// The interface that a connector exports.
const ACTIONS: &str = "actions";
/// The interfaces of the contract that a connector may import.
const IMPORTS: &[&str] = &["http", "log", "clock", "random"];
/// The WASI packages that are served to whoever imports them.
const WASI: &[&str] = &["wasi:io", "wasi:clocks", "wasi:random", "wasi:cli", "wasi:filesystem"];
/// Of `wasi:http`, the interfaces with which requests are sent.
const HTTP: &[&str] = &["types", "outgoing-handler"];
/// The WASI package that may be imported, and whose functions end the call.
const SOCKETS: &str = "wasi:sockets";
/// The lines of the contract that are served, newest first. Below 1.0 a minor version is a line of its own.
const LINES: &[(u64, u64)] = &[(0, 1)];

/// What a component wants beside the contract.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Something of WASI.
    pub(crate) wasi: bool,
    /// Sockets or name look-up.
    pub(crate) sockets: bool,
}

/// Checks that `bytes` are a component that this host can run.
///
/// Only what a component imports and exports is looked at, not the code in it: [`crate::Runtime::precompile`]
/// finds the rest.
///
/// # Errors
/// [`RuntimeError::Unsuitable`] with what is wrong and what to do about it.
pub fn check_component(bytes: &[u8]) -> Result<(), RuntimeError> {
    let malformed = |cause: wasmparser::BinaryReaderError| {
        RuntimeError::unsuitable(format!("the component is damaged: {cause}"), "build it again")
    };
    if !bytes.starts_with(b"\0asm") {
        return Err(RuntimeError::unsuitable(
            "this is no WebAssembly file",
            "give the .wasm file that `keyward plugin build` wrote",
        ));
    }
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                return Err(RuntimeError::unsuitable(
                    "this is a core module, not a component",
                    "run `keyward plugin build`, which makes a component of it",
                ));
            }
            // Modules and components within follow in the same stream, each with its own end.
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import.map_err(malformed)?.name.name);
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(malformed)?.name.name);
                }
            }
            _ => {}
        }
    }
    needs(imports, exports).map(|_| ())
}

/// What a component with these imports and exports needs, if it fits at all.
pub(crate) fn needs<'a>(
    imports: impl IntoIterator<Item = &'a str>,
    exports: impl IntoIterator<Item = &'a str>,
) -> Result<Needs, RuntimeError> {
    let mut is_connector = false;
    for name in exports.into_iter().map(Name::parse) {
        if name.package == PACKAGE && name.interface == ACTIONS {
            served(&name)?;
            is_connector = true;
        }
    }
    let mut needs = Needs::default();
    let mut unknown = Vec::new();
    for text in imports {
        let name = Name::parse(text);
        if name.package == PACKAGE && IMPORTS.contains(&name.interface) {
            served(&name)?;
        } else if is_served_wasi(&name) {
            needs.wasi = true;
        } else if name.package == SOCKETS && name.is_wasi_0_2() {
            needs.sockets = true;
        } else {
            unknown.push(text);
        }
    }
    if !is_connector {
        return Err(RuntimeError::unsuitable(
            format!("the component is no connector: it does not export {PACKAGE}/{ACTIONS}"),
            "build it for the world `connector` of wit/connector.wit, or with `keyward plugin build`",
        ));
    }
    if !unknown.is_empty() {
        let hint = if unknown.iter().any(|name| name.starts_with("wasi:")) {
            "a connector may use WASI 0.2: io, clocks, random, cli, http (outgoing), filesystem (without files) and sockets (without network)"
        } else {
            "a connector may import the interfaces of keyward:connector and some of WASI 0.2"
        };
        let message = format!("the component imports what this host does not have: {}", unknown.join(", "));
        return Err(RuntimeError::unsuitable(message, hint));
    }
    Ok(needs)
}

fn is_served_wasi(name: &Name<'_>) -> bool {
    let is_outgoing_http = name.package == "wasi:http" && HTTP.contains(&name.interface);
    (WASI.contains(&name.package) || is_outgoing_http) && name.is_wasi_0_2()
}

/// Whether the version of a name of the contract is served.
fn served(name: &Name<'_>) -> Result<(), RuntimeError> {
    let newest = LINES[0];
    let Some(version) = &name.version else {
        return Err(RuntimeError::unsuitable(
            format!("the component uses {PACKAGE} without a version"),
            format!("build it for {PACKAGE} {}.{}", newest.0, newest.1),
        ));
    };
    let line = (version.major, version.minor);
    if LINES.contains(&line) {
        return Ok(());
    }
    let lines = LINES.iter().map(|(major, minor)| format!("{major}.{minor}")).collect::<Vec<_>>().join(", ");
    let message = format!("the component is built for {PACKAGE} {version}; this version of Keyward serves {lines}");
    Err(if line > newest {
        RuntimeError::unsuitable(message, "update Keyward, or build the connector with an older SDK")
    } else {
        RuntimeError::unsuitable(message, "build the connector again with a newer SDK")
    })
}

/// `<namespace>:<package>/<interface>@<version>`
struct Name<'a> {
    package: &'a str,
    interface: &'a str,
    version: Option<Version>,
}

impl<'a> Name<'a> {
    fn parse(text: &'a str) -> Self {
        let (name, version) = text.split_once('@').map_or((text, None), |(name, version)| (name, Some(version)));
        let (package, interface) = name.split_once('/').unwrap_or((name, ""));
        Self { package, interface, version: version.and_then(|version| version.parse().ok()) }
    }

    fn is_wasi_0_2(&self) -> bool {
        self.version.as_ref().is_some_and(|version| (version.major, version.minor) == (0, 2))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const EXPORTS: [&str; 1] = ["keyward:connector/actions@0.1.0"];

    fn fault(imports: &[&str], exports: &[&str]) -> String {
        needs(imports.iter().copied(), exports.iter().copied()).unwrap_err().to_string()
    }

    #[test]
    fn component_of_the_world_fits_and_its_wasi_is_noticed() {
        let plain = ["keyward:connector/http@0.1.0", "keyward:connector/log@0.1.7"];
        assert_eq!(needs(plain, EXPORTS).unwrap(), Needs::default());
        for wasi in ["wasi:cli/stdout@0.2.9", "wasi:http/outgoing-handler@0.2.0"] {
            assert_eq!(needs([wasi], EXPORTS).unwrap(), Needs { wasi: true, sockets: false });
        }
        assert_eq!(needs(["wasi:sockets/tcp@0.2.0"], EXPORTS).unwrap(), Needs { wasi: false, sockets: true });
    }

    #[test]
    fn component_that_does_not_fit_is_refused_with_the_reason() {
        let cases: &[(&[&str], &[&str], &str)] = &[
            (&[], &["wasi:cli/run@0.2.0"], "does not export keyward:connector/actions"),
            (
                &[],
                &["keyward:connector/actions@0.2.0"],
                "built for keyward:connector 0.2.0; this version of Keyward serves 0.1",
            ),
            (&["keyward:connector/http@1.0.0"], &EXPORTS, "built for keyward:connector 1.0.0"),
            (&["keyward:connector/http"], &EXPORTS, "without a version"),
            (&["keyward:connector/secrets@0.1.0"], &EXPORTS, "does not have: keyward:connector/secrets@0.1.0"),
            (&["wasi:http/types@0.3.0"], &EXPORTS, "does not have: wasi:http/types@0.3.0"),
            (&["wasi:http/incoming-handler@0.2.0"], &EXPORTS, "does not have: wasi:http/incoming-handler@0.2.0"),
            (&["wasi:cli/stdout@0.3.0"], &EXPORTS, "does not have: wasi:cli/stdout@0.3.0"),
            (&["acme:db/query@1.0.0", "print"], &EXPORTS, "does not have: acme:db/query@1.0.0, print"),
        ];
        for (imports, exports, expected) in cases {
            let message = fault(imports, exports);
            assert!(message.contains(expected), "{message:?} does not contain {expected:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_component_are_refused_with_what_to_do() {
        let module = b"\0asm\x01\0\0\0".as_slice();
        let cut = b"\0asm\x0d\0\x01\0\x07\x10".as_slice();
        for (bytes, message, hint) in [
            (b"hello".as_slice(), "this is no WebAssembly file", "plugin build"),
            (module, "this is a core module, not a component", "plugin build"),
            (cut, "the component is damaged", "build it again"),
        ] {
            let error = check_component(bytes).unwrap_err();
            assert!(error.to_string().starts_with(message), "{error}");
            assert!(error.hint().unwrap().contains(hint));
        }
    }
}
