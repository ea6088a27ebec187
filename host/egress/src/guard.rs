//! Which addresses may be dialled: checked after resolution, on the very addresses that are dialled.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use keyward_policy::{NetworkExceptions, address::special_purpose};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::fault::no_more_files;

/// Checks addresses for one port. The HTTP client asks it to resolve every name that it dials; an address in a
/// name's place never gets there, so [`Guard::check`] is asked for those before.
///
/// The client's question has no port, but the operator's exceptions have one. Therefore each port that has an
/// exception gets a client and a guard of its own, and one guard without exceptions serves all other ports.
#[derive(Clone)]
pub(crate) struct Guard {
    network: Arc<NetworkExceptions>,
    /// The port whose exceptions hold; `None` where there are none.
    port: Option<u16>,
    lookup: Lookup,
}

/// Finds the addresses of a name. The port is set by the client.
pub(crate) type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// The system's resolver: it knows the hosts file and the domains of a private network.
pub(crate) fn system() -> Lookup {
    Arc::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) }))
}

/// Why nothing is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GuardError {
    /// The name has no address.
    Unresolved,
    /// An address is of special purpose and the operator made no exception.
    Special { ip: IpAddr, purpose: &'static str },
}

impl fmt::Display for GuardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved => f.write_str("the name does not resolve"),
            Self::Special { purpose, .. } => write!(f, "the address is special: {purpose}"),
        }
    }
}

impl std::error::Error for GuardError {}

impl Guard {
    /// A guard that knows no exceptions, where `port` is `None`, or those of this port.
    pub(crate) fn new(network: &Arc<NetworkExceptions>, port: Option<u16>, lookup: &Lookup) -> Self {
        Self { network: Arc::clone(network), port, lookup: Arc::clone(lookup) }
    }

    pub(crate) fn check(&self, ip: IpAddr) -> Result<(), GuardError> {
        match special_purpose(ip) {
            Some(purpose) if !self.port.is_some_and(|port| self.network.allows_address(ip, port)) => {
                Err(GuardError::Special { ip, purpose })
            }
            _ => Ok(()),
        }
    }

    /// All answers must pass: which one is dialled is the client's choice, and a name that has a public and a
    /// private address is an attempt to get at the private one.
    fn check_all(&self, addresses: Vec<SocketAddr>) -> Result<Addrs, GuardError> {
        if addresses.is_empty() {
            return Err(GuardError::Unresolved);
        }
        addresses.iter().try_for_each(|address| self.check(address.ip()))?;
        Ok(Box::new(addresses.into_iter()))
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = match (guard.lookup)(name.as_str().to_owned()).await {
                Err(error) if no_more_files(&error) => return Err(error.into()),
                found => found.unwrap_or_default(),
            };
            Ok(guard.check_all(found)?)
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn network() -> Arc<NetworkExceptions> {
        Arc::new(NetworkExceptions { private: vec!["127.0.0.1/32:11434".parse().unwrap()], http: Vec::new() })
    }

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect()
    }

    #[test]
    fn all_answers_must_pass() {
        let guard = Guard::new(&network(), None, &system());
        assert_eq!(guard.check_all(addresses(&["1.1.1.1", "8.8.8.8"])).unwrap().count(), 2);
        assert!(guard.check_all(addresses(&["1.1.1.1", "10.0.0.1"])).is_err());
        assert!(guard.check_all(addresses(&["fe80::1", "1.1.1.1"])).is_err());
        assert_eq!(guard.check_all(Vec::new()).err(), Some(GuardError::Unresolved));
    }

    #[test]
    fn exception_holds_for_its_port_alone() {
        assert!(Guard::new(&network(), Some(11434), &system()).check("127.0.0.1".parse().unwrap()).is_ok());
        assert!(Guard::new(&network(), Some(6379), &system()).check("127.0.0.1".parse().unwrap()).is_err());
        assert!(Guard::new(&network(), None, &system()).check("127.0.0.1".parse().unwrap()).is_err());
        assert!(Guard::new(&network(), Some(11434), &system()).check("127.0.0.2".parse().unwrap()).is_err());
    }

    /// As a server of names does that wants to get past a check: a public address first, a local one after it.
    #[tokio::test]
    async fn every_resolution_is_checked_anew() {
        let asked = AtomicUsize::new(0);
        let lookup: Lookup = Arc::new(move |_| {
            let local = asked.fetch_add(1, Ordering::SeqCst) > 0;
            let found = addresses(&[if local { "127.0.0.1" } else { "1.1.1.1" }]);
            Box::pin(async { Ok(found) })
        });
        let guard = Guard::new(&network(), None, &lookup);
        let resolve = || guard.resolve("rebinding.example".parse().unwrap());
        assert_eq!(resolve().await.ok().unwrap().collect::<Vec<_>>(), addresses(&["1.1.1.1"]));
        let error = resolve().await.err().unwrap();
        assert!(matches!(error.downcast_ref(), Some(GuardError::Special { .. })), "{error}");
    }

    #[tokio::test]
    async fn name_that_cannot_be_looked_up_does_not_resolve() {
        let lookup: Lookup = Arc::new(|_| Box::pin(async { Err(io::Error::other("no such host")) }));
        let guard = Guard::new(&network(), None, &lookup);
        let error = guard.resolve("nowhere.example".parse().unwrap()).await.err().unwrap();
        assert_eq!(error.downcast_ref(), Some(&GuardError::Unresolved));
    }
}
