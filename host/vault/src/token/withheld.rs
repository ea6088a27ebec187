//! What was sent to a provider, to be taken out of what it says.

use std::{borrow::Cow, str};

use zeroize::Zeroizing;

use crate::{
    place::Placed,
    redact::{REDACTED, RedactionCount, Redactor, SHORTEST},
};

/// The secrets of one request, in every form that they have in it. Words of a provider are shown, stored and logged
/// through this only, as it may quote what it was sent, in the encoding of its choice.
pub(crate) struct Withheld {
    redactor: Redactor,
    /// Those that the redactor leaves out: they are looked for as they are.
    short: Placed,
}

/// Nothing was sent.
impl Default for Withheld {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl Withheld {
    pub(crate) fn of(secrets: Placed) -> Self {
        let redactor = Redactor::new(&secrets, RedactionCount::default());
        let short = secrets.into_iter().filter(|secret| !secret.is_empty() && secret.len() < SHORTEST).collect();
        Self { redactor, short }
    }

    /// At most 200 printable characters of a provider's text, without the secrets.
    pub(crate) fn printable(&self, text: &str) -> String {
        // The text is cut behind the search, because the beginning of a secret would not be found. Control characters
        // that an encoding knows may be what tells it, and any of them may stand in the middle of a secret.
        let unfolded = self.without_control(text, &['\t', '\n', '\r']);
        let mut clean = (*self.without_control(&unfolded, &[])).clone();
        for secret in self.short.iter().filter_map(|secret| str::from_utf8(secret).ok()) {
            clean = clean.replace(secret, &String::from_utf8_lossy(REDACTED));
        }
        clean.chars().take(200).collect()
    }

    /// The text without control characters, save `kept`, and then without the secrets.
    fn without_control(&self, text: &str, kept: &[char]) -> Zeroizing<String> {
        let mut plain = Zeroizing::new(String::with_capacity(text.len()));
        plain.extend(text.chars().filter(|c| !c.is_control() || kept.contains(c)));
        Zeroizing::new(String::from_utf8_lossy(&self.redactor.bytes(plain.as_bytes())).into_owned())
    }

    /// Whether a word holds one of the secrets that are too long to be there by chance.
    pub(crate) fn is_in(&self, word: &str) -> bool {
        matches!(self.redactor.bytes(word.as_bytes()), Cow::Owned(_))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn withheld(secrets: &[&str]) -> Withheld {
        Withheld::of(secrets.iter().map(|secret| Arc::new(Zeroizing::new(secret.as_bytes().to_vec()))).collect())
    }

    #[test]
    fn secret_is_found_in_every_encoding_and_between_control_characters() {
        let withheld = withheld(&["s3cr%t/+x-canary"]);
        for quoted in [
            "s3cr%t/+x-canary",
            "s3cr%25t%2F%2Bx-canary",
            "czNjciV0Lyt4LWNhbmFyeQ",
            "733363722574 2f2b782d63616e617279",
            "s3cr\\u0025t\\/+x-canary",
            "s3cr%t\u{1b}/+x\n-canary",
            "s3cr%t/\n    +x-canary",
            "s3cr%t/\r\n\t +x-\u{1b}canary",
            &"s3cr%t/+x-canary".bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join("\n"),
        ] {
            assert_eq!(withheld.printable(&format!("unknown: {quoted}.")), "unknown: [redacted].", "{quoted:?}");
        }
    }

    #[test]
    fn short_secret_is_looked_for_as_it_is() {
        assert_eq!(withheld(&["", "s3cr"]).printable("not s3cr but s3c"), "not [redacted] but s3c");
    }

    #[test]
    fn text_is_cut_behind_a_secret_and_not_within() {
        let long = format!("{}test-canary-secret", "x".repeat(190));
        let printable = withheld(&["test-canary-secret"]).printable(&long);
        assert_eq!(printable, format!("{}[redacted]", "x".repeat(190)));
    }
}
