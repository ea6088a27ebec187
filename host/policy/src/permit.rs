//! The proof that a request was checked.

use std::ops::Range;

use http::{HeaderMap, Method};
use keyward_model::{
    TenantId,
    connection::ConnectionFacts,
    manifest::{Idempotency, Placement},
    request::Body,
};
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
    /// Where the credential goes; empty where none does.
    pub placements: Vec<Placement>,
    /// The bytes of `url` as text that a part of the credential takes the place of: [`PATH_MARK`] in the segment where
    /// the template has it.
    ///
    /// [`PATH_MARK`]: keyward_model::manifest::PATH_MARK
    pub path_mark: Option<Range<usize>>,
    /// The declared path template that allowed it.
    pub path_template: String,
    /// The scopes that justified it.
    pub scopes: Vec<String>,
    /// Whether the answer's redirects are followed.
    pub redirects: bool,
    /// Whether the manifest means a private network, so that the operator's exceptions hold.
    pub private: bool,
    /// Whether the host sends it once only.
    pub once: bool,
    /// What a second call of its action does.
    pub idempotency: Idempotency,
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

    /// The body.
    pub fn body(&self) -> &Body {
        &self.parts.body
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

    /// Whether the host sends it once only.
    pub fn once(&self) -> bool {
        self.parts.once
    }

    /// What a second call of its action does.
    pub fn idempotency(&self) -> Idempotency {
        self.parts.idempotency
    }

    /// The guest's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// Where the credential goes.
    pub fn placements(&self) -> &[Placement] {
        &self.parts.placements
    }

    /// The same without a credential.
    #[must_use]
    pub fn without_credential(mut self) -> Self {
        self.parts.placements.clear();
        self
    }

    /// Uses it up.
    pub fn into_parts(self) -> PermitParts {
        self.parts
    }
}
