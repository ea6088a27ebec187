//! What must hold in a manifest, whether it comes from a file or from a component: the policy's grammar,
//! and what is no business of the policy.

use std::collections::BTreeSet;

use keyward_model::manifest::{Idempotency, Manifest};
use keyward_policy::RuleError;

use crate::schema;

/// Something allowed that is likely not meant.
pub(crate) struct Warning {
    pub(crate) path: Vec<String>,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) hint: &'static str,
}

/// Every rule that the manifest breaks. Where several speak of the same place, the policy's is told.
pub(crate) fn check(manifest: &Manifest) -> Vec<RuleError> {
    let mut faults = keyward_policy::check_manifest(manifest);
    for fault in own(manifest) {
        if !faults.iter().any(|known| known.path == fault.path) {
            faults.push(fault);
        }
    }
    faults
}

fn own(manifest: &Manifest) -> Vec<RuleError> {
    let mut faults = Vec::new();
    let mut fault = |path: &[&str], message: String, hint: Option<&str>| {
        let path = path.iter().map(|&step| step.to_owned()).collect();
        faults.push(RuleError { path, message, hint: hint.map(str::to_owned) });
    };
    if let Err(error) = semver::Version::parse(&manifest.version) {
        let message = format!("{:?} is not a semantic version: {error}", manifest.version);
        fault(&["version"], message, Some("write three numbers, for example \"0.1.0\""));
    }
    if manifest.provider.is_some() && manifest.credential.is_empty() {
        fault(
            &["provider"],
            "a provider is named, but not where its credential goes".to_owned(),
            Some(
                "add [credential] with `in`, for example in = \"header\", name = \"Authorization\", prefix = \"Bearer \"",
            ),
        );
    }
    let mut shown = vec![(vec!["title"], &manifest.title), (vec!["description"], &manifest.description)];
    for (name, action) in &manifest.actions {
        let name = name.as_str();
        shown.push((vec!["actions", name, "title"], &action.title));
        shown.push((vec!["actions", name, "description"], &action.description));
        for (index, request) in action.requests.iter().enumerate() {
            if action.requests[..index].contains(request) {
                let path = ["actions", name, "requests", &index.to_string()];
                fault(&path, "the same request is declared twice".to_owned(), None);
            }
        }
        for (field, schema) in [("input", &action.input), ("output", &action.output)] {
            if let Err(message) = schema::check(schema) {
                let hint = message.ends_with("is not a \"regex\"").then_some(
                    "a pattern may have no look-around, no back-reference and no large repetition \
                     (instead of .{1,255} write minLength and maxLength)",
                );
                fault(&["actions", name, field], format!("this is not a usable JSON Schema: {message}"), hint);
            }
        }
    }
    for (path, text) in shown {
        if let Some(bad) = text.chars().find(|&c| !is_shown_plainly(c)) {
            let message = format!("the character U+{:04X} cannot stand in a text that people read", bad as u32);
            fault(&path, message, None);
        }
    }
    faults
}

/// Whether a character shows as itself. A person reads a manifest before agreeing to it; what moves the
/// cursor, breaks the line, hides or turns the order of letters could make it say something else than it does.
pub fn is_shown_plainly(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// What is allowed but likely not meant.
pub(crate) fn warnings(manifest: &Manifest) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut used = BTreeSet::new();
    for (name, action) in &manifest.actions {
        used.extend(action.requests.iter().map(|request| request.endpoint.as_str()));
        let reads_only = action.requests.iter().all(|request| matches!(request.method.as_str(), "GET" | "HEAD"));
        let path = vec!["actions".to_owned(), name.to_string(), "idempotency".to_owned()];
        if reads_only && !action.requests.is_empty() && action.idempotency == Idempotency::None {
            warnings.push(Warning {
                path,
                code: "idempotency-unsaid",
                message: format!("`{name}` only reads, but is not declared as safe to repeat"),
                hint: "write idempotency = \"safe\", so that a flow may try it again after a lost connection",
            });
        } else if action.idempotency == Idempotency::Safe
            && action.requests.iter().any(|request| matches!(request.method.as_str(), "PUT" | "PATCH" | "DELETE"))
        {
            warnings.push(Warning {
                path,
                code: "safe-but-writes",
                message: format!("`{name}` is declared as reading only, but may change things"),
                hint: "write \"idempotent\" where twice is as once, else \"key\" or \"none\"",
            });
        }
    }
    for endpoint in manifest.endpoints.keys().filter(|endpoint| !used.contains(endpoint.as_str())) {
        warnings.push(Warning {
            path: vec!["endpoints".to_owned(), endpoint.clone()],
            code: "unused-endpoint",
            message: format!("no action makes a request to the endpoint `{endpoint}`"),
            hint: "remove it: whoever installs the connector is asked to agree to it",
        });
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::is_shown_plainly;

    #[test]
    fn characters_that_hide_or_turn_text_do_not_pass_and_letters_of_every_script_do() {
        for c in ['\u{1b}', '\n', '\u{7f}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}', '\u{e0041}'] {
            assert!(!is_shown_plainly(c), "U+{:04X} passed", c as u32);
        }
        assert!("Ä ß é 漢字 العربية हिन्दी – „“ 🎉".chars().all(is_shown_plainly));
    }
}
