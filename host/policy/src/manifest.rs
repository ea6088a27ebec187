//! The grammar of a whole manifest.

use std::collections::BTreeMap;

use http::Method;
use keyward_model::{
    ActionName,
    manifest::{Action, Endpoint, LimitOverrides, Manifest, PATH_MARK, Placement, RequestRule},
};

use crate::{
    address::special_purpose,
    body,
    error::RuleError,
    host::{Host, HostPattern, cut},
    method, placement,
    query::QueryNames,
    scope::is_scope_token,
    target::EndpointUrl,
    template::PathTemplate,
};

/// Checks everything in a manifest that has a grammar of its own: titles, provider, endpoints, credential, and of
/// each action its requests, scopes and limits. Every fault is found, not the first alone.
///
/// Not checked here: the version (Semantic Versioning) and the JSON Schemas, which `registry` reads.
pub fn check_manifest(manifest: &Manifest) -> Vec<RuleError> {
    let mut errors = Vec::new();
    check_text(&manifest.title, &manifest.description, &[], &mut errors);
    if let Some(provider) = &manifest.provider
        && !is_name(provider)
    {
        errors.push(
            RuleError::new(format!("{:?} is not a provider's id", cut(provider))).hint(NAME_HINT).at(&["provider"]),
        );
    }
    let endpoints = read_endpoints(manifest, &mut errors);
    check_credential(manifest, &mut errors);
    if manifest.actions.is_empty() {
        errors.push(RuleError::new("the manifest declares no action").at(&["actions"]));
    }
    for (name, action) in &manifest.actions {
        let at = ["actions", name.as_str()];
        check_text(&action.title, &action.description, &at, &mut errors);
        read_requests(manifest, name, action, &endpoints, &mut errors);
        check_scopes(manifest, name, action, &mut errors);
        check_limits(&action.limits, name, &mut errors);
    }
    errors
}

const NAME_HINT: &str =
    "use 1 to 63 characters a-z, 0-9 and single '-', starting with a letter and not ending with '-'";

/// The grammar of ids and endpoint names, the same as of [`keyward_model::ConnectorName`].
fn is_name(text: &str) -> bool {
    text.parse::<keyward_model::ConnectorName>().is_ok()
}

fn check_text(title: &str, description: &str, at: &[&str], errors: &mut Vec<RuleError>) {
    for (key, text, least, most) in [("title", title, 1, 100), ("description", description, 0, 1000)] {
        let length = text.chars().count();
        let mut path = at.to_vec();
        path.push(key);
        if text.contains(char::is_control) {
            errors.push(RuleError::new(format!("the {key} has a control character")).at(&path));
        } else if length < least || length > most || text.trim().len() != text.len() {
            errors.push(
                RuleError::new(format!("the {key} is not {least} to {most} characters without space around them"))
                    .at(&path),
            );
        }
    }
}

/// Reads the endpoints; those with a fault are left out of the result.
pub(crate) fn read_endpoints(manifest: &Manifest, errors: &mut Vec<RuleError>) -> BTreeMap<String, EndpointUrl> {
    let mut read = BTreeMap::new();
    for (name, endpoint) in &manifest.endpoints {
        if !is_name(name) {
            let error = RuleError::new(format!("{:?} is not a name for an endpoint", cut(name)));
            errors.push(error.hint(NAME_HINT).at(&["endpoints", name]));
        }
        match EndpointUrl::parse(&endpoint.url) {
            Ok(url) => {
                if let (HostPattern::Exact(Host::Ip(ip)), false) = (&url.origin.host, endpoint.private)
                    && let Some(purpose) = special_purpose(*ip)
                {
                    let error = RuleError::new(format!("{ip} is not on the public Internet: {purpose}"));
                    let hint = "write `private = true` at the endpoint; the operator must allow the address as well";
                    errors.push(error.hint(hint).at(&["endpoints", name, "url"]));
                }
                read.insert(name.clone(), url);
            }
            Err(error) => errors.push(error.at(&["endpoints", name, "url"])),
        }
    }
    read
}

pub(crate) fn check_credential(manifest: &Manifest, errors: &mut Vec<RuleError>) {
    let placements = &manifest.credential;
    if !placements.is_empty() && manifest.provider.is_none() {
        let error = RuleError::new("a credential is placed, but no provider is named whose connections have one");
        errors.push(error.hint("add `provider = \"<id>\"`, or leave `credential` out").at(&["credential"]));
    }
    for (index, (keys, error)) in placement::check(placements) {
        let index = index.to_string();
        let keys = keys.iter().map(String::as_str);
        // A single place need not be a list.
        let index = (placements.len() != 1).then_some(&*index);
        errors.push(error.at(&["credential"].into_iter().chain(index).chain(keys).collect::<Vec<_>>()));
    }
}

/// Checks that the template has the mark where a part of the credential goes into the path, and nowhere else.
fn check_mark(manifest: &Manifest, endpoint: &Endpoint, template: &PathTemplate) -> Result<(), RuleError> {
    let is_path = |placement: &Placement| matches!(placement, Placement::Path { .. });
    let is_placed = endpoint.credential && manifest.credential.iter().any(is_path);
    match (template.has_mark(), is_placed) {
        (true, false) => Err(RuleError::new(format!("the path has {PATH_MARK}, but no credential goes there")).hint(
            "place it with in = \"path\", at an endpoint that has the credential, or name the variable otherwise",
        )),
        (false, true) => Err(RuleError::new(format!("the path has no {PATH_MARK}, and the credential goes there"))
            .hint(format!("write {PATH_MARK} where it goes, for example `/bot{PATH_MARK}/send`"))),
        _ => Ok(()),
    }
}

/// A request rule, read.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) method: Method,
    pub(crate) endpoint: String,
    pub(crate) template: PathTemplate,
    pub(crate) query: QueryNames,
    pub(crate) redirects: bool,
    pub(crate) once: bool,
}

/// Reads the request rules of one action; those with a fault are left out of the result.
pub(crate) fn read_requests(
    manifest: &Manifest,
    name: &ActionName,
    action: &Action,
    endpoints: &BTreeMap<String, EndpointUrl>,
    errors: &mut Vec<RuleError>,
) -> Vec<Rule> {
    let mut rules = Vec::with_capacity(action.requests.len());
    for (index, request) in action.requests.iter().enumerate() {
        let index = index.to_string();
        let at = ["actions", name.as_str(), "requests", &index];
        // An endpoint that is unknown or whose URL has a fault is told of elsewhere.
        let rule = read_request(manifest, request, &at, errors).filter(|rule| endpoints.contains_key(&rule.endpoint));
        rules.extend(rule);
    }
    rules
}

fn read_request(manifest: &Manifest, request: &RequestRule, at: &[&str], errors: &mut Vec<RuleError>) -> Option<Rule> {
    let mut fault = |error: RuleError, keys: &[&str]| errors.push(error.at(&[at, keys].concat()));
    let method = method::parse(&request.method).map_err(|refusal| fault(refusal.into(), &["method"])).ok();
    if !manifest.endpoints.contains_key(&request.endpoint) {
        let known: Vec<String> = manifest.endpoints.keys().map(|name| format!("{name:?}")).collect();
        let error = RuleError::new(format!("there is no endpoint {:?}", cut(&request.endpoint)));
        let hint = if known.is_empty() {
            format!("add `[endpoints.{}]` with its `url`", cut(&request.endpoint))
        } else {
            format!("the manifest declares {}", known.join(", "))
        };
        fault(error.hint(hint), &["endpoint"]);
    }
    let template = request.path.parse::<PathTemplate>().map_err(|error| fault(error, &["path"])).ok();
    if let (Some(endpoint), Some(template)) = (manifest.endpoints.get(&request.endpoint), &template) {
        check_mark(manifest, endpoint, template).unwrap_or_else(|error| fault(error, &["path"]));
    }
    if let (Some(endpoint), Some(method)) = (manifest.endpoints.get(&request.endpoint), &method)
        && endpoint.credential
    {
        body::check_method(&manifest.credential, method).unwrap_or_else(|refusal| fault(refusal.into(), &["method"]));
    }
    let query = QueryNames::parse(&request.query, &manifest.credential)
        .map_err(|(index, error)| fault(error, &["query", &index.to_string()]))
        .ok();
    Some(Rule {
        method: method?,
        endpoint: request.endpoint.clone(),
        template: template?,
        query: query?,
        redirects: request.redirects,
        once: request.once,
    })
}

pub(crate) fn check_scopes(manifest: &Manifest, name: &ActionName, action: &Action, errors: &mut Vec<RuleError>) {
    if manifest.provider.is_none() && !action.scopes.is_empty() {
        let error = RuleError::new("scopes are needed, but no provider is named that could grant them");
        errors.push(error.hint("add `provider = \"<id>\"`, or leave `scopes` out").at(&[
            "actions",
            name.as_str(),
            "scopes",
        ]));
    }
    for (index, set) in action.scopes.iter().enumerate() {
        let index = index.to_string();
        let at = ["actions", name.as_str(), "scopes", &index];
        if set.is_empty() {
            let error = RuleError::new("a set of scopes is empty, so that nothing would be needed");
            errors.push(error.hint("leave `scopes` out where none is needed").at(&at));
        }
        for (place, scope) in set.iter().enumerate() {
            if !is_scope_token(scope) {
                let error = RuleError::new(format!("{:?} is not a scope (RFC 6749 section 3.3)", cut(scope)));
                let error =
                    if scope.contains(' ') { error.hint("write each scope as a text of its own") } else { error };
                errors.push(error.at(&[&at[..], &[&place.to_string()]].concat()));
            }
        }
    }
}

fn check_limits(limits: &LimitOverrides, name: &ActionName, errors: &mut Vec<RuleError>) {
    // No requests, no bytes and no log text are a choice; no memory and no time are a mistake.
    for (key, limit) in [("memory_bytes", limits.memory_bytes), ("cpu_ms", limits.cpu_ms), ("wall_ms", limits.wall_ms)]
    {
        if limit == Some(0) {
            let error = RuleError::new(format!("the limit {key} is 0, so that nothing could run"));
            errors.push(error.at(&["actions", name.as_str(), "limits", key]));
        }
    }
}

#[cfg(test)]
mod tests;
