//! The parts of a permit are not made outside of the rules, and a permit's URL is not changed.
use http::{HeaderMap, Method};
use keyward_model::{Body, TenantId};
use keyward_policy::{Permit, PermitParts};
use url::Url;

fn make(url: Url) -> PermitParts {
    PermitParts {
        tenant: TenantId::default(),
        method: Method::GET,
        url,
        headers: HeaderMap::new(),
        body: Body::Empty,
        connection: None,
        placements: Vec::new(),
        path_template: String::new(),
        scopes: Vec::new(),
    }
}

fn redirect(permit: &mut Permit, url: Url) {
    *permit.url() = url;
}

fn main() {}
