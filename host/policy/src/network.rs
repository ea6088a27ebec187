//! What the operator allows beyond public addresses and https. Never the connector's word.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

use crate::{
    error::RuleError,
    host::{Host, cut},
};

/// The operator's exceptions; the default is none.
///
/// In the configuration, with every port named:
/// ```toml
/// [network]
/// private = ["127.0.0.1/32:4001", "fd00::/8:443"]   # special-purpose addresses that may be dialled
/// http = ["127.0.0.1:4001", "intranet.example:80"]  # hosts that may be spoken to without TLS
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkExceptions {
    /// Addresses of special purpose (see [`crate::address`]) that may be dialled all the same.
    #[serde(default)]
    pub private: Vec<PrivateException>,
    /// Hosts that may be spoken to by http.
    #[serde(default)]
    pub http: Vec<HostPort>,
}

impl NetworkExceptions {
    /// Whether a special-purpose address may be dialled on this port. An exception for IPv4 does not hold for
    /// the same address embedded in IPv6.
    pub fn allows_address(&self, ip: IpAddr, port: u16) -> bool {
        self.private.iter().any(|exception| exception.port == port && exception.net.contains(&ip))
    }

    /// Whether the host may be spoken to by http on this port. `host` may be in any form that a URL takes.
    pub fn allows_http(&self, host: &str, port: u16) -> bool {
        Host::parse(host).is_ok_and(|host| self.allows_http_host(&host, port))
    }

    pub(crate) fn allows_http_host(&self, host: &Host, port: u16) -> bool {
        self.http.iter().any(|exception| {
            exception.port == port && Host::parse(&exception.host).is_ok_and(|excepted| excepted == *host)
        })
    }
}

/// Addresses and the one port on which they may be dialled; written `127.0.0.1/32:4001`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrivateException {
    /// The addresses.
    pub net: IpNet,
    /// The port.
    pub port: u16,
}

impl FromStr for PrivateException {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let wrong = || {
            RuleError::new(format!("{:?} is not a network and a port", cut(text)))
                .hint("write for example `127.0.0.1/32:4001` or `fd00::/8:443`")
        };
        let (net, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let net: IpNet = net.parse().map_err(|_| wrong())?;
        if net.trunc() != net {
            return Err(RuleError::new(format!("{:?} has bits beyond its prefix length", cut(text)))
                .hint(format!("write `{}:{port}`", net.trunc())));
        }
        Ok(Self { net, port: parse_port(port).ok_or_else(wrong)? })
    }
}

impl fmt::Display for PrivateException {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.net, self.port)
    }
}

/// A host and a port; written `127.0.0.1:4001`, `[::1]:4001` or `intranet.example:80`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name, or an address (IPv6 in square brackets).
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let wrong = || {
            RuleError::new(format!("{:?} is not a host and a port", cut(text)))
                .hint("write for example `127.0.0.1:4001` or `intranet.example:80`")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = Host::parse(host).map_err(|_| wrong())?;
        Ok(Self { host: host.to_string(), port: parse_port(port).ok_or_else(wrong)? })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A port in plain decimal digits, 1 to 65535.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    let plain = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

macro_rules! deserialize_from_str {
    ($name:ident) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(|error: RuleError| match &error.hint {
                    Some(hint) => de::Error::custom(format_args!("{error}; {hint}")),
                    None => de::Error::custom(error),
                })
            }
        }
    };
}
deserialize_from_str!(PrivateException);
deserialize_from_str!(HostPort);

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn exceptions() -> NetworkExceptions {
        NetworkExceptions {
            private: vec!["127.0.0.1/32:11434".parse().unwrap(), "fd00::/8:443".parse().unwrap()],
            http: vec!["127.0.0.1:11434".parse().unwrap(), "Intranet.Example:80".parse().unwrap()],
        }
    }

    #[test]
    fn exception_opens_its_port_and_no_other() {
        let exceptions = exceptions();
        assert!(exceptions.allows_address("127.0.0.1".parse().unwrap(), 11434));
        assert!(!exceptions.allows_address("127.0.0.1".parse().unwrap(), 6379));
        assert!(!exceptions.allows_address("127.0.0.2".parse().unwrap(), 11434));
        assert!(!exceptions.allows_address("::ffff:127.0.0.1".parse().unwrap(), 11434));
        assert!(exceptions.allows_address("fd00:ec2::254".parse().unwrap(), 443));
    }

    #[test]
    fn http_exception_holds_for_every_form_of_the_same_host() {
        let exceptions = exceptions();
        for host in ["intranet.example", "INTRANET.example."] {
            assert!(exceptions.allows_http(host, 80), "{host}");
        }
        assert!(exceptions.allows_http("127.1", 11434));
        assert!(!exceptions.allows_http("intranet.example", 8080));
        assert!(!exceptions.allows_http("a.intranet.example", 80));
        assert!(!NetworkExceptions::default().allows_http("intranet.example", 80));
    }

    #[test]
    fn what_is_no_exception_is_refused() {
        for text in ["127.0.0.1:80", "127.0.0.1/32", "127.0.0.1/33:80", "127.0.0.1/8:80", "x/32:80", "10.0.0.0/8:0"] {
            assert!(text.parse::<PrivateException>().is_err(), "{text:?} was taken");
        }
        for text in ["a", "a:", "a:0", "a:8O8O", "a:99999", "a:080", ":80", "::1:80", "[::1]", "http://a:80", "*:80"] {
            assert!(text.parse::<HostPort>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn exceptions_read_back_as_written() {
        for text in ["127.0.0.1/32:4001", "fd00::/8:443"] {
            assert_eq!(text.parse::<PrivateException>().unwrap().to_string(), text);
        }
        for text in ["127.0.0.1:4001", "[::1]:4001", "intranet.example:80"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
    }
}
