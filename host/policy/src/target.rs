//! URLs: those that endpoints are declared with, those that a guest asks for, and the one that goes on the wire.
//!
//! They are cut into parts here, by RFC 3986, and not by `url::Url`, which repairs what it reads: it drops tabs and
//! line feeds, takes `\` for `/`, resolves dots and encodes. What is put together at the end must pass through
//! `url::Url` without a change, or it is refused.

use std::{fmt, ops::Range};

use keyward_model::{Reason, manifest::PATH_MARK};
use url::Url;

use crate::{
    error::{Refusal, RuleError},
    host::{Host, HostPattern, cut},
    network::{NetworkExceptions, parse_port},
    path::{CanonicalPath, Encoded},
    query::CanonicalQuery,
};

/// The longest absolute URL that a guest may name, bytes.
const MAX_URL: usize = 24 * 1024;

/// The two schemes that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Https,
    Http,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Https => "https",
            Self::Http => "http",
        })
    }
}

/// The parts of a URL as written, with scheme and port read.
struct Parts<'a> {
    scheme: Scheme,
    host: &'a str,
    port: u16,
    /// Empty, or starting with `/`.
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, Refusal> {
        let wrong = |what: &str| Refusal::new(Reason::UrlMalformed, format!("the URL {what}"));
        if text.len() > MAX_URL {
            return Err(wrong(&format!("is longer than {MAX_URL} bytes")));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("is not `https://` and a host"))?;
        let scheme = match scheme {
            _ if scheme.eq_ignore_ascii_case("https") => Scheme::Https,
            _ if scheme.eq_ignore_ascii_case("http") => Scheme::Http,
            _ => return Err(wrong("has another scheme than https")),
        };
        if rest.contains('#') {
            return Err(wrong("has a fragment").hint("a fragment is never sent; leave it out"));
        }
        let (before_query, query) = match rest.split_once('?') {
            Some((before, query)) => (before, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = before_query.split_at(before_query.find('/').unwrap_or(before_query.len()));
        if authority.contains('@') {
            return Err(wrong("has user information").hint("the host places the credential"));
        }
        // A colon within square brackets belongs to the address.
        let after_address = authority.rfind(']').unwrap_or(0);
        let (host, port) = match authority[after_address..].rfind(':') {
            Some(colon) => {
                let (host, port) = authority.split_at(after_address + colon);
                let port = &port[1..];
                (host, parse_port(port).ok_or_else(|| wrong(&format!("has {:?} for a port", cut(port))))?)
            }
            None => (authority, scheme.default_port()),
        };
        if host.is_empty() {
            return Err(wrong("has no host"));
        }
        Ok(Self { scheme, host, port, path, query })
    }
}

/// Scheme, host and port of one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin<H = Host> {
    pub(crate) scheme: Scheme,
    pub(crate) host: H,
    pub(crate) port: u16,
}

impl<H: fmt::Display> Origin<H> {
    /// `host`, or `host:port` where the port is not the scheme's own.
    pub(crate) fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl Origin {
    /// Checks the origin against the operator's exceptions: http, and an address in a name's place.
    pub(crate) fn check(&self, network: &NetworkExceptions) -> Result<(), Refusal> {
        let place = format!("{}:{}", self.host, self.port);
        if self.scheme == Scheme::Http && !network.allows_http_host(&self.host, self.port) {
            return Err(Refusal::new(Reason::SchemeNotAllowed, format!("http is not allowed for {place}"))
                .hint(format!("use https, or the operator adds `http = [\"{place}\"]` to `[network]`")));
        }
        match self.host {
            Host::Ip(ip) if !network.allows_address(ip, self.port) => {
                let net = ipnet::IpNet::from(ip);
                Err(Refusal::new(
                    Reason::AddressNotAllowed,
                    format!("the address {ip} is not allowed in a host's place"),
                )
                .hint(format!(
                    "name a host, or the operator adds `private = [\"{net}:{}\"]` to `[network]`",
                    self.port
                )))
            }
            _ => Ok(()),
        }
    }
}

/// The URL that an endpoint is declared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointUrl {
    pub(crate) origin: Origin<HostPattern>,
    /// The decoded segments of the base path; empty for `https://host` and `https://host/`.
    base: Vec<String>,
}

impl EndpointUrl {
    pub(crate) fn parse(text: &str) -> Result<Self, RuleError> {
        let parts = Parts::split(text).map_err(|refusal| match refusal.hint {
            Some(_) => RuleError::from(refusal),
            None => RuleError::from(refusal)
                .hint("write for example `https://api.example.com` or `https://api.example.com/v1`"),
        })?;
        if parts.query.is_some() {
            return Err(RuleError::new("the URL of an endpoint has a query")
                .hint("list the names of query parameters in the request rules"));
        }
        let host = HostPattern::parse(parts.host)?;
        // A person reads this URL before agreeing to it, and letters of other scripts can look like those of a known
        // host or path.
        if !text.is_ascii() {
            let hint = match parts.host.is_ascii() {
                true => "encode the path, for example `%C3%A9` for é".to_owned(),
                false => format!("write the host as it is dialled, `{host}`, if that is what you mean"),
            };
            return Err(RuleError::new("the URL of an endpoint has letters outside ASCII").hint(hint));
        }
        let base = match parts.path {
            "" | "/" => Vec::new(),
            path => CanonicalPath::parse(path.strip_suffix('/').unwrap_or(path))?.segments().to_vec(),
        };
        if base.iter().any(|segment| segment.is_empty() || segment.contains('/')) {
            return Err(RuleError::new("the base path of an endpoint has an empty segment or an encoded slash"));
        }
        Ok(Self { origin: Origin { scheme: parts.scheme, host, port: parts.port }, base })
    }

    /// The origin, where the endpoint is one host.
    pub(crate) fn exact_origin(&self) -> Option<Origin> {
        match &self.origin.host {
            HostPattern::Exact(host) => {
                Some(Origin { scheme: self.origin.scheme, host: host.clone(), port: self.origin.port })
            }
            HostPattern::Subdomains(_) => None,
        }
    }

    /// The segments of the URL's path below the base path, where the URL lies there. What would be a path with
    /// `//` at its start, were it asked for below the endpoint, does not.
    pub(crate) fn below<'a>(&self, url: &'a AbsoluteUrl<'_>) -> Option<&'a [String]> {
        let Origin { scheme, port, .. } = url.origin;
        if !self.covers_host(&url.origin) || self.origin.scheme != scheme || self.origin.port != port {
            return None;
        }
        match url.path.segments().strip_prefix(self.base.as_slice())? {
            [] => None,
            [first, _, ..] if first.is_empty() => None,
            below => Some(below),
        }
    }

    /// Whether it has the host of the origin, whatever scheme and port.
    pub(crate) fn covers_host(&self, origin: &Origin) -> bool {
        self.origin.host.matches(&origin.host)
    }

    pub(crate) fn base(&self) -> &[String] {
        &self.base
    }
}

/// An absolute URL of a guest's, read and in one form.
#[derive(Debug)]
pub(crate) struct AbsoluteUrl<'a> {
    pub(crate) origin: Origin,
    pub(crate) path: CanonicalPath,
    /// As written.
    pub(crate) query: Option<&'a str>,
}

impl<'a> AbsoluteUrl<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, (Refusal, Option<String>)> {
        let parts = Parts::split(text).map_err(|refusal| (refusal, None))?;
        let host = Host::parse(parts.host).map_err(|refusal| (refusal, None))?;
        let origin = Origin { scheme: parts.scheme, host, port: parts.port };
        let path = if parts.path.is_empty() { "/" } else { parts.path };
        match CanonicalPath::parse(path) {
            Ok(path) => Ok(Self { origin, path, query: parts.query }),
            Err(refusal) => Err((refusal, Some(origin.authority()))),
        }
    }
}

/// Puts the URL for the wire together.
pub(crate) fn assemble<'a>(
    origin: &Origin,
    segments: impl Iterator<Item = &'a String>,
    query: &CanonicalQuery,
) -> Result<Url, Refusal> {
    assemble_marked(origin, segments, query, None).map(|(url, _)| url)
}

/// Puts the URL for the wire together, and tells which of its bytes are [`PATH_MARK`] behind the fixed text in the
/// segment of that index.
pub(crate) fn assemble_marked<'a>(
    origin: &Origin,
    segments: impl Iterator<Item = &'a String>,
    query: &CanonicalQuery,
    mark: Option<(usize, &str)>,
) -> Result<(Url, Option<Range<usize>>), Refusal> {
    let mut text = format!("{}://{}", origin.scheme, origin.authority());
    let mut range = None;
    for (index, segment) in segments.enumerate() {
        text.push('/');
        if let Some((_, before)) = mark.filter(|(marked, _)| *marked == index) {
            let start = text.len() + Encoded(before).to_string().len();
            range = Some(start..start + Encoded(PATH_MARK).to_string().len());
        }
        text.push_str(&Encoded(segment).to_string());
    }
    if !query.wire().is_empty() {
        text.push('?');
        text.push_str(query.wire());
    }
    // The proof that the library which sends it reads it as it was matched.
    match Url::parse(&text) {
        Ok(url) if url.as_str() == text => Ok((url, range)),
        _ => Err(Refusal::new(Reason::UrlMalformed, "the URL has no form that every reader takes alike")),
    }
}

/// Checks a URL that a connection puts in the place of a configurable endpoint: one host, https or an operator's
/// exception, no user information, query or fragment.
///
/// ```
/// use keyward_policy::{NetworkExceptions, check_endpoint_url};
/// let none = NetworkExceptions::default();
/// assert_eq!(check_endpoint_url("https://Git.Example.com/api/", &none).unwrap().as_str(), "https://git.example.com/api");
/// assert!(check_endpoint_url("http://git.example.com", &none).is_err());
/// assert!(check_endpoint_url("https://10.0.0.1", &none).is_err());
/// ```
///
/// # Errors
/// What is wrong with it; the path of the error is empty.
pub fn check_endpoint_url(text: &str, network: &NetworkExceptions) -> Result<Url, RuleError> {
    let endpoint = EndpointUrl::parse(text)?;
    let origin = endpoint.exact_origin().ok_or_else(|| {
        RuleError::new("the URL of a connection's endpoint has a star").hint("write the one host of this connection")
    })?;
    origin.check(network)?;
    // `url::Url` writes the empty path as `/`.
    let root = [String::new()];
    let segments = if endpoint.base.is_empty() { &root } else { endpoint.base.as_slice() };
    Ok(assemble(&origin, segments.iter(), &CanonicalQuery::default())?)
}
