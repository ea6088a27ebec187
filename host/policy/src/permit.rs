//! The proof that a request was checked.

use http::{HeaderMap, Method};
use keyward_model::{TenantId, connection::ConnectionFacts, manifest::Placement, request::Body};
use url::Url;

/// A request that passed every rule of its action. It can be made by [`crate::ActionRules::authorize`]
/// alone, cannot be copied, and is used up by the vault.
#[derive(Debug)]
pub struct Permit {
    parts: PermitParts,
}

/// What a [`Permit`] holds, once it is taken apart. There is no way back.
#[derive(Debug)]
#[non_exhaustive]
pub struct PermitParts {
    /// In which tenant.
    pub tenant: TenantId,
    /// The method.
    pub method: Method,
    /// The canonical URL: what was matched is what goes on the wire.
    pub url: Url,
    /// The guest's headers, checked.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
    /// The connection whose credential goes in, as it was when the rules were checked.
    pub connection: Option<ConnectionFacts>,
    /// Where the credential goes; `None` where none does.
    pub placement: Option<Placement>,
    /// The declared path template that allowed it.
    pub path_template: String,
    /// The scopes that justified it.
    pub scopes: Vec<String>,
    /// Whether the answer's redirects are followed.
    pub redirects: bool,
}

impl Permit {
    pub(crate) fn new(parts: PermitParts) -> Self {
        Self { parts }
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.parts.method
    }

    /// The canonical URL.
    pub fn url(&self) -> &Url {
        &self.parts.url
    }

    /// The declared path template that allowed it.
    pub fn path_template(&self) -> &str {
        &self.parts.path_template
    }

    /// The scopes that justified it.
    pub fn scopes(&self) -> &[String] {
        &self.parts.scopes
    }

    /// Whether the answer's redirects are followed.
    pub fn redirects(&self) -> bool {
        self.parts.redirects
    }

    /// Where the credential goes.
    pub fn placement(&self) -> Option<&Placement> {
        self.parts.placement.as_ref()
    }

    /// The same without a credential.
    #[must_use]
    pub fn without_credential(mut self) -> Self {
        self.parts.placement = None;
        self
    }

    /// Uses it up.
    pub fn into_parts(self) -> PermitParts {
        self.parts
    }
}
