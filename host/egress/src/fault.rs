//! What the HTTP client's errors mean. Their own text holds the URL with its query, so none of it is passed on.

use std::{error::Error, io, iter, time::Duration};

use keyward_model::{Reason, SendError, Sent};
use keyward_vault::WireError;
use rustix::io::Errno;

use crate::guard::GuardError;

/// The place that a request goes to, as messages name it: host and port, never path or query.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// As in the URL; IPv6 in square brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Whether the request may go to a private network at all.
    pub(crate) private: bool,
}

impl Place {
    pub(crate) fn error(&self, reason: Reason, message: String, sent: Sent) -> WireError {
        WireError { reason, message, hint: None, sent, limit: None }
    }

    /// http without an exception.
    pub(crate) fn no_http(&self) -> WireError {
        let Self { host, port, .. } = self;
        let error = self.error(Reason::SchemeNotAllowed, format!("http is not allowed for {host}:{port}"), Sent::No);
        hinted(error, format!("use https, or the operator adds `http = [\"{host}:{port}\"]` to `[network]`"))
    }

    /// Nothing is dialled. The address stands in the hint alone: it is the operator's business, not the guest's.
    pub(crate) fn not_dialled(&self, error: &GuardError) -> WireError {
        let Self { host, port, .. } = self;
        match error {
            GuardError::Unresolved => {
                let error = self.error(Reason::NameUnresolved, format!("the name {host} does not resolve"), Sent::No);
                hinted(error, "check the name, and the resolver of this machine".to_owned())
            }
            GuardError::Special { ip, purpose } => {
                let message = format!("{host} is at an address that is not on the public Internet");
                let length = if ip.is_ipv4() { 32 } else { 128 };
                let manifest = self.in_the_manifest();
                let hint = format!(
                    "{ip} is {purpose}; where that is meant, {manifest}the operator adds `private = [\"{ip}/{length}:{port}\"]` to `[network]`"
                );
                hinted(self.error(Reason::AddressNotAllowed, message, Sent::No), hint)
            }
        }
    }

    /// What its author does first, so that the operator's word counts.
    fn in_the_manifest(&self) -> &'static str {
        if self.private { "" } else { "the connector's manifest says `private = true` at the endpoint, and " }
    }

    /// No answer in time.
    pub(crate) fn late(&self, timeout: Duration, what: &str, sent: Sent) -> WireError {
        let message = format!("{} sent no {what} within {} s", self.host, timeout.as_secs_f32());
        self.error(Reason::Timeout, message, sent)
    }

    /// Reads an error from before the head of the answer.
    pub(crate) fn failed(&self, error: &reqwest::Error) -> WireError {
        let host = &self.host;
        if let Some(guard) = cause::<GuardError>(error) {
            return self.not_dialled(guard);
        }
        // The guest's own body broke off; its reason is the truth.
        if let Some(body) = cause::<SendError>(error) {
            let broken = self.error(body.reason, body.message.clone(), Sent::Maybe);
            return WireError { hint: body.hint.clone(), ..broken };
        }
        if cause::<io::Error>(error).is_some_and(no_more_files) {
            return hinted(
                self.error(
                    Reason::Internal,
                    "this machine has no file descriptor left to dial with".to_owned(),
                    Sent::No,
                ),
                "the operator raises the limit of open files of the process: `ulimit -n`".to_owned(),
            );
        }
        if error.is_builder() {
            return self.error(Reason::UrlMalformed, "the request cannot be put on the wire".to_owned(), Sent::No);
        }
        // Until the connection stands nothing of the request is written.
        let sent = if error.is_connect() { Sent::No } else { Sent::Maybe };
        if let Some(tls) = cause::<rustls::Error>(error) {
            let error = self.error(Reason::TlsFailed, format!("no trusted connection to {host}: {tls}"), sent);
            return match tls {
                rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => hinted(
                    error,
                    format!(
                        "where its authority is to be trusted, {}the operator adds it to `authorities` in `[network]` with this host",
                        self.in_the_manifest()
                    ),
                ),
                _ => error,
            };
        }
        if error.is_timeout() {
            return self.error(Reason::Timeout, format!("no connection to {host} in time"), sent);
        }
        if error.is_connect() {
            let why = cause::<io::Error>(error).map_or(String::new(), |io| format!(": {}", io.kind()));
            return self.error(Reason::Unreachable, format!("{host} cannot be reached{why}"), sent);
        }
        if cause::<hyper::Error>(error).is_some_and(hyper::Error::is_parse) {
            let message = format!("the answer of {host} is not HTTP, or its head is too large");
            return self.error(Reason::ResponseMalformed, message, Sent::Yes);
        }
        self.error(Reason::Unreachable, format!("{host} closed the connection without an answer"), sent)
    }

    /// Reads an error from within the answer's body.
    pub(crate) fn broke_off(&self) -> WireError {
        let message = format!("{} closed the connection within its answer", self.host);
        self.error(Reason::Unreachable, message, Sent::Yes)
    }
}

/// Whether the process, or the whole machine, has as many files open as it may.
pub(crate) fn no_more_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

fn hinted(error: WireError, hint: String) -> WireError {
    WireError { hint: Some(hint), ..error }
}

/// The first cause of this type.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(<dyn Error>::downcast_ref)
}

/// The cause of all others.
pub(crate) fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

/// The error and what caused it. `io::Error` hides what it wraps from `source`, so it is asked for it.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    })
}
