//! Host names in their one form, and patterns of them.

use std::{fmt, net::IpAddr};

use keyward_model::Reason;

use crate::error::{Refusal, RuleError};

/// A host in its one form: a name in lower-case ASCII without the trailing dot, or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Host {
    Name(String),
    Ip(IpAddr),
}

impl Host {
    /// Reads a host as it stands in a URL, by the rules of the WHATWG URL Standard (section 3.5): letter case and
    /// one trailing dot are folded, other scripts become Punycode (UTS 46), and every way of writing an IPv4
    /// address (`127.1`, `0x7f000001`, `2130706433`) becomes that address. Percent-encoding is refused.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let wrong = |why: &str| Refusal::new(Reason::UrlMalformed, format!("the host {:?} {why}", cut(text)));
        if text.contains('%') {
            return Err(wrong("is percent-encoded or has a zone"));
        }
        let name = match url::Host::parse(text) {
            Ok(url::Host::Ipv4(ip)) => return Ok(Self::Ip(ip.into())),
            Ok(url::Host::Ipv6(ip)) => return Ok(Self::Ip(ip.into())),
            Ok(url::Host::Domain(name)) => name,
            Err(_) => return Err(wrong("is not a valid name or address")),
        };
        let name = name.strip_suffix('.').unwrap_or(&name);
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err(wrong("is not a valid name or address"));
        }
        Ok(Self::Name(name.to_owned()))
    }
}

/// Letters, digits, hyphen and underscore, 1 to 63: the URL Standard takes more, but no name on the network has it.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// The hosts that an endpoint stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostPattern {
    /// This one.
    Exact(Host),
    /// Every name that ends in a dot and this one, at any depth, but not this one itself.
    Subdomains(String),
}

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, RuleError> {
        let Some(parent) = text.strip_prefix("*.") else {
            if text.contains('*') {
                return Err(RuleError::new(format!("the host pattern {:?} has its star in a wrong place", cut(text)))
                    .hint("write a whole name, or `*.` and a name for its sub-domains"));
            }
            let host = Host::parse(text)?;
            return match &host {
                Host::Ip(_) if host.to_string() != text => {
                    Err(RuleError::new(format!("the address {:?} is not in its usual form", cut(text)))
                        .hint(format!("write `{host}`")))
                }
                _ => Ok(Self::Exact(host)),
            };
        };
        match Host::parse(parent) {
            Ok(Host::Name(name)) if name.contains('.') => Ok(Self::Subdomains(name)),
            Ok(Host::Name(_)) => Err(RuleError::new(format!("the host pattern {:?} covers too much", cut(text)))
                .hint("name at least two labels after `*.`, for example `*.example.com`")),
            Ok(Host::Ip(_)) => Err(RuleError::new(format!("the host pattern {:?} has an address", cut(text)))),
            Err(_) => Err(RuleError::new(format!("the host pattern {:?} is not `*.` and a valid name", cut(text)))
                .hint("write for example `*.example.com`")),
        }
    }

    pub(crate) fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Exact(exact), host) => exact == host,
            (Self::Subdomains(parent), Host::Name(name)) => name
                .strip_suffix(parent.as_str())
                .and_then(|labels| labels.strip_suffix('.'))
                .is_some_and(|labels| !labels.is_empty()),
            (Self::Subdomains(_), Host::Ip(_)) => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::Subdomains(parent) => write!(f, "*.{parent}"),
        }
    }
}

/// A text of others as it may stand in a message: not longer than 80 characters.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_host_gives_one_form() {
        for (text, canonical) in [
            ("API.GitHub.com", "api.github.com"),
            ("api.github.com.", "api.github.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("api。github。com", "api.github.com"),
            ("127.1", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("0177.0.0.1", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0x7f000001", "127.0.0.1"),
            ("１２７.0.0.1", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("[::ffff:127.0.0.1]", "[::ffff:127.0.0.1]"),
            ("127.0.0.1.evil.com", "127.0.0.1.evil.com"),
            ("a_b.example", "a_b.example"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(Host::parse(text).unwrap().to_string(), canonical, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long = "a".repeat(64);
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a b",
            "a\tb",
            "a/b",
            "a\\b",
            "a?b",
            "a@b",
            "a#b",
            "[::1",
            "::1",
            "[::1]x",
            "[::1%25eth0]",
            "%31%32%37.0.0.1",
            "a%2eb",
            "256.0.0.1",
            "1.2.3.4.5",
            "0x.1.2.3.4",
            "a|b",
            "a!b",
            "a,b",
            "a\u{0}b",
            "xn--a",
            "[]",
            "*",
            &long,
        ] {
            assert!(Host::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn pattern_with_a_star_covers_sub_domains_alone() {
        let pattern = HostPattern::parse("*.Example.com").unwrap();
        for name in ["a.example.com", "a.b.example.com", "A.EXAMPLE.COM", "a.example.com."] {
            assert!(pattern.matches(&Host::parse(name).unwrap()), "{name}");
        }
        for name in ["example.com", "myexample.com", "example.com.evil.com", "a.example.org", "127.0.0.1"] {
            assert!(!pattern.matches(&Host::parse(name).unwrap()), "{name}");
        }
    }

    #[test]
    fn pattern_with_a_star_elsewhere_is_refused() {
        for text in [
            "*example.com",
            "foo.*.com",
            "*.",
            "*",
            "api.github.*",
            "*.*.com",
            "**.example.com",
            "*.com",
            "*.1.2.3.4",
            "a*.example.com",
            "*.a..b",
            "*.exa mple.com",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn address_stands_in_its_usual_form_in_a_pattern() {
        assert!(HostPattern::parse("127.0.0.1").is_ok());
        assert!(HostPattern::parse("[::1]").is_ok());
        for text in ["127.1", "0x7f000001", "[0::1]", "2130706433"] {
            assert!(HostPattern::parse(text).is_err(), "{text:?} was taken");
        }
    }
}
