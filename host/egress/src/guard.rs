//! Which addresses may be dialled: checked after resolution, on the very addresses that are dialled.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use keyward_policy::{NetworkExceptions, address::special_purpose};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Checks addresses for one port. The HTTP client asks it to resolve every name that it dials; an address in a
/// name's place never gets there, so [`Guard::check`] is asked for those before.
///
/// The client's question has no port, but the operator's exceptions have one. Therefore each port that has an
/// exception gets a client and a guard of its own, and one guard without exceptions serves all other ports.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    network: Arc<NetworkExceptions>,
    /// The port whose exceptions hold; `None` where there are none.
    port: Option<u16>,
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
    /// A guard that knows no exceptions.
    pub(crate) fn strict(network: &Arc<NetworkExceptions>) -> Self {
        Self { network: Arc::clone(network), port: None }
    }

    /// A guard with the exceptions of `port`.
    pub(crate) fn of_port(network: &Arc<NetworkExceptions>, port: u16) -> Self {
        Self { network: Arc::clone(network), port: Some(port) }
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
            // The system's resolver: it knows the hosts file and the domains of a private network. The port is set
            // by the client.
            let found = match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(found) => found.collect(),
                Err(_) => Vec::new(),
            };
            Ok(guard.check_all(found)?)
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn network() -> Arc<NetworkExceptions> {
        Arc::new(NetworkExceptions { private: vec!["127.0.0.1/32:11434".parse().unwrap()], http: Vec::new() })
    }

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect()
    }

    #[test]
    fn all_answers_must_pass() {
        let guard = Guard::strict(&network());
        assert_eq!(guard.check_all(addresses(&["1.1.1.1", "8.8.8.8"])).unwrap().count(), 2);
        assert!(guard.check_all(addresses(&["1.1.1.1", "10.0.0.1"])).is_err());
        assert!(guard.check_all(addresses(&["fe80::1", "1.1.1.1"])).is_err());
        assert_eq!(guard.check_all(Vec::new()).err(), Some(GuardError::Unresolved));
    }

    #[test]
    fn exception_holds_for_its_port_alone() {
        assert!(Guard::of_port(&network(), 11434).check("127.0.0.1".parse().unwrap()).is_ok());
        assert!(Guard::of_port(&network(), 6379).check("127.0.0.1".parse().unwrap()).is_err());
        assert!(Guard::strict(&network()).check("127.0.0.1".parse().unwrap()).is_err());
        assert!(Guard::of_port(&network(), 11434).check("127.0.0.2".parse().unwrap()).is_err());
    }

    #[tokio::test]
    async fn name_with_a_local_address_is_refused_at_every_resolution() {
        let guard = Guard::strict(&network());
        for _ in 0..2 {
            let error = guard.resolve("localhost".parse().unwrap()).await.err().unwrap();
            assert!(matches!(error.downcast_ref(), Some(GuardError::Special { .. })), "{error}");
        }
    }
}
