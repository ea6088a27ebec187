//! How a request is checked.

use std::{borrow::Cow, collections::BTreeMap};

use keyward_model::{
    ActionName, ConnectionFacts, ConnectionState, ConnectorName, GuestRequest, Reason, Target, TenantId,
    manifest::{self, Idempotency, Manifest, PATH_MARK, Placement},
};

use crate::{
    body,
    denial::{Denial, printable_method},
    error::{Refusal, RuleError},
    headers,
    host::cut,
    manifest::{Rule, check_credential, check_scopes, read_endpoints, read_requests},
    method,
    operator::{Call, Operator},
    path::{CanonicalPath, Encoded},
    permit::{Permit, PermitParts},
    query::{CanonicalQuery, is_credential},
    scope,
    target::{AbsoluteUrl, EndpointUrl, Origin, assemble_marked},
};

/// The rules of one action, read from its manifest.
#[derive(Debug)]
pub struct ActionRules {
    connector: ConnectorName,
    action: ActionName,
    provider: Option<String>,
    placements: Vec<Placement>,
    endpoints: BTreeMap<String, Endpoint>,
    rules: Vec<Rule>,
    scopes: Vec<Vec<String>>,
    idempotency: Idempotency,
    operator: Operator,
}

#[derive(Debug)]
struct Endpoint {
    url: EndpointUrl,
    configurable: bool,
    credential: bool,
    private: bool,
}

/// What a denial tells of a request beside its reason.
#[derive(Default)]
struct Seen {
    host: Option<String>,
    missing_scopes: Vec<String>,
}

/// Where a request could go: an endpoint, and the decoded segments below its base path.
struct Candidate<'a> {
    endpoint: &'a str,
    base: Vec<String>,
    below: Vec<String>,
}

impl ActionRules {
    /// Reads the rules of `action`.
    ///
    /// # Errors
    /// Every fault in what concerns this action: the endpoints, the credential's place, its requests and scopes.
    pub fn compile(manifest: &Manifest, action: &ActionName, operator: &Operator) -> Result<Self, Vec<RuleError>> {
        let Some(declared) = manifest.actions.get(action) else {
            let error = RuleError::new(format!("the manifest declares no action {action:?}", action = action.as_str()));
            return Err(vec![error.at(&["actions", action.as_str()])]);
        };
        let mut errors = Vec::new();
        let mut urls = read_endpoints(manifest, &mut errors);
        check_credential(manifest, &mut errors);
        let rules = read_requests(manifest, action, declared, &urls, &mut errors);
        check_scopes(manifest, action, declared, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let endpoints = manifest.endpoints.iter().filter_map(|(name, endpoint)| {
            let url = urls.remove(name)?;
            let manifest::Endpoint { configurable, credential, private, .. } = *endpoint;
            Some((name.clone(), Endpoint { url, configurable, credential, private }))
        });
        Ok(Self {
            connector: manifest.name.clone(),
            action: action.clone(),
            provider: manifest.provider.clone(),
            placements: manifest.credential.clone(),
            endpoints: endpoints.collect(),
            rules,
            scopes: declared.scopes.clone(),
            idempotency: declared.idempotency,
            operator: operator.clone(),
        })
    }

    /// Checks a request, in this order; the first that fails is the denial:
    /// 1. The action declares requests.
    /// 2. The call has the connection that the connector needs: of this tenant and of its provider.
    /// 3. The target is read into one form: a path below a declared endpoint, or an absolute URL that lies below
    ///    one by scheme, host, port and base path. A connection's own URL stands in a configurable endpoint's place.
    /// 4. The method is one that a guest may use, and the headers are none of the host's.
    /// 5. A declared request has this method, a template that matches the path by whole segments, and the name of
    ///    every query parameter, those within an absolute URL as well. Where a part of the credential goes into the
    ///    path, the guest's has `{credential}` exactly where the template has it; where one goes into the body, that can
    ///    be read in one way and leaves the place free.
    /// 6. The operator allows http, or an address in a host's place, where the endpoint has it; and the operator's
    ///    policy allows the request.
    /// 7. The connection works, and its scopes hold one whole set of the action's.
    ///
    /// # Errors
    /// The denial, with a hint that names the line which would allow the request.
    #[expect(clippy::result_large_err, reason = "the permit in the other variant is larger still")]
    pub fn authorize(
        &self,
        tenant: &TenantId,
        connection: Option<&ConnectionFacts>,
        request: GuestRequest,
    ) -> Result<Permit, Denial> {
        let method = printable_method(&request.method);
        let mut seen = Seen::default();
        self.check(tenant, connection, request, &mut seen).map_err(|refusal| Denial {
            reason: refusal.reason,
            message: refusal.message,
            hint: refusal.hint,
            missing_scopes: seen.missing_scopes,
            method,
            host: seen.host,
        })
    }

    fn check(
        &self,
        tenant: &TenantId,
        connection: Option<&ConnectionFacts>,
        request: GuestRequest,
        seen: &mut Seen,
    ) -> Result<Permit, Refusal> {
        self.check_declared()?;
        let connection = self.check_connection(tenant, connection)?;
        let (origin, candidates, query) = self.read_target(&request.target, &request.query, connection, seen)?;
        let method = method::parse(&request.method)?;
        let placements = self.placements_for(&candidates);
        let headers = headers::check(request.headers, placements)?;
        let (rule, candidate) = self.find_rule(&method, &candidates, placements, &query)?;
        let placements = if self.carries(candidate) { placements } else { &[] };
        body::check(placements, &method, &headers, &request.body)?;
        origin.check(&self.operator.network)?;
        let connection_name = connection.map(|connection| &connection.name);
        let call = Call { connector: &self.connector, action: &self.action, connection: connection_name };
        self.operator.policy.check(call, &method, &origin.host)?;
        let scopes = self.check_grant(connection, seen)?;
        let mark = rule.template.mark(candidate.below.len()).map(|(at, before)| (candidate.base.len() + at, before));
        let (url, path_mark) = assemble_marked(&origin, candidate.base.iter().chain(&candidate.below), &query, mark)?;
        Ok(Permit::new(PermitParts {
            tenant: tenant.clone(),
            method,
            url,
            headers,
            body: request.body,
            connection: connection.cloned(),
            placements: placements.to_vec(),
            path_mark,
            path_template: rule.template.to_string(),
            scopes,
            redirects: rule.redirects,
            private: self.endpoints.get(candidate.endpoint).is_some_and(|endpoint| endpoint.private),
            once: rule.once,
            idempotency: self.idempotency,
        }))
    }

    /// The longest body of which a rule may need all, bytes; none where each may be streamed. A longer one is refused
    /// where it is needed.
    pub fn whole_body(&self) -> Option<usize> {
        body::whole(&self.placements)
    }

    /// Where the credential would go in a request to one of `candidates`.
    fn placements_for(&self, candidates: &[Candidate<'_>]) -> &[Placement] {
        if candidates.iter().any(|candidate| self.carries(candidate)) { &self.placements } else { &[] }
    }

    fn carries(&self, candidate: &Candidate<'_>) -> bool {
        self.endpoints.get(candidate.endpoint).is_none_or(|endpoint| endpoint.credential)
    }

    /// Step 1.
    fn check_declared(&self) -> Result<(), Refusal> {
        if self.rules.is_empty() {
            return Err(Refusal::new(
                Reason::ActionUnknown,
                format!("the action {} declares no requests", self.action),
            )
            .hint(format!("add `requests` to [actions.{}]", self.action)));
        }
        Ok(())
    }

    /// Step 2. A connector that names no provider goes without a connection, whatever the call has.
    fn check_connection<'a>(
        &self,
        tenant: &TenantId,
        connection: Option<&'a ConnectionFacts>,
    ) -> Result<Option<&'a ConnectionFacts>, Refusal> {
        let Some(provider) = &self.provider else { return Ok(None) };
        let Some(connection) = connection else {
            return Err(Refusal::new(
                Reason::ConnectionMissing,
                format!("the action needs a connection to {provider}"),
            ));
        };
        if connection.tenant != *tenant {
            return Err(Refusal::new(Reason::ConnectionUnknown, "there is no such connection"));
        }
        if connection.provider != *provider {
            return Err(Refusal::new(
                Reason::ConnectionWrongProvider,
                format!(
                    "the connection {} is to {}, but the connector is for {provider}",
                    connection.name, connection.provider
                ),
            )
            .hint(format!("choose a connection to {provider}")));
        }
        Ok(Some(connection))
    }

    /// Step 3.
    fn read_target(
        &self,
        target: &Target,
        query: &[(String, String)],
        connection: Option<&ConnectionFacts>,
        seen: &mut Seen,
    ) -> Result<(Origin, Vec<Candidate<'_>>, CanonicalQuery), Refusal> {
        match target {
            Target::Endpoint { endpoint, path } => {
                let (name, declared) = self.endpoints.get_key_value(endpoint).ok_or_else(|| {
                    let names: Vec<&str> = self.endpoints.keys().map(String::as_str).collect();
                    Refusal::new(Reason::EndpointUnknown, format!("there is no endpoint {:?}", cut(endpoint)))
                        .hint(format!("the manifest declares {}", names.join(", ")))
                })?;
                let url = declared.effective(name, connection)?;
                seen.host = Some(url.origin.authority());
                let origin = url.exact_origin().ok_or_else(|| {
                    Refusal::new(Reason::HostNotAllowed, format!("the endpoint {name} stands for many hosts"))
                        .hint("send to the absolute URL that the API returned")
                })?;
                let below = CanonicalPath::parse(path)?.segments().to_vec();
                let candidate = Candidate { endpoint: name, base: url.base().to_vec(), below };
                Ok((origin, vec![candidate], CanonicalQuery::new(None, query)?))
            }
            Target::Url(text) => {
                let url = AbsoluteUrl::parse(text).map_err(|(refusal, authority)| {
                    seen.host = authority;
                    refusal
                })?;
                seen.host = Some(url.origin.authority());
                let mut candidates = Vec::new();
                let mut same_host = None;
                for (name, declared) in &self.endpoints {
                    let endpoint = declared.effective(name, connection)?;
                    if let Some(below) = endpoint.below(&url) {
                        let base = endpoint.base().to_vec();
                        candidates.push(Candidate { endpoint: name, base, below: below.to_vec() });
                    } else if endpoint.covers_host(&url.origin) {
                        same_host = Some(endpoint.origin.scheme);
                    }
                }
                if candidates.is_empty() {
                    return Err(self.not_below_an_endpoint(&url, same_host));
                }
                Ok((url.origin, candidates, CanonicalQuery::new(url.query, query)?))
            }
        }
    }

    fn not_below_an_endpoint(&self, url: &AbsoluteUrl<'_>, same_host: Option<crate::target::Scheme>) -> Refusal {
        let Origin { scheme, .. } = url.origin;
        let authority = url.origin.authority();
        match same_host {
            Some(declared) if declared != scheme => Refusal::new(
                Reason::SchemeNotAllowed,
                format!("the endpoint at {authority} is declared with {declared}, not {scheme}"),
            )
            .hint(format!("send to `{declared}://`")),
            _ => {
                Refusal::new(Reason::HostNotAllowed, format!("the URL at {authority} lies below no declared endpoint"))
                    .hint(format!("add to the manifest: `[endpoints.<name>]` with `url = \"{scheme}://{authority}\"`"))
            }
        }
    }

    /// Step 5.
    fn find_rule<'a>(
        &self,
        method: &http::Method,
        candidates: &'a [Candidate<'a>],
        placements: &[Placement],
        query: &CanonicalQuery,
    ) -> Result<(&Rule, &'a Candidate<'a>), Refusal> {
        if let Some(name) = query.names().iter().find(|name| is_credential(name, placements)) {
            return Err(Refusal::new(
                Reason::QueryNotAllowed,
                format!("the query parameter {:?} is where the host places the credential", cut(name)),
            )
            .hint("leave the parameter out"));
        }
        let mut lacks_query = None;
        for candidate in candidates {
            for rule in self.rules.iter().filter(|rule| {
                rule.endpoint == candidate.endpoint
                    && rule.method == *method
                    && rule.template.matches_segments(&candidate.below)
            }) {
                match query.names().iter().find(|name| !rule.query.allows(name)) {
                    None => return Ok((rule, candidate)),
                    Some(name) => lacks_query = lacks_query.or(Some((rule, name))),
                }
            }
        }
        Err(match (lacks_query, candidates) {
            (Some((rule, name)), _) => {
                let mut names: Vec<&str> = rule.query.written().collect();
                names.extend(query.names().iter().map(String::as_str).filter(|name| !rule.query.allows(name)));
                Refusal::new(Reason::QueryNotAllowed, format!("the query parameter {:?} is not declared", cut(name)))
                    .hint(self.line(rule.method.as_str(), &rule.endpoint, &rule.template.to_string(), &names))
            }
            (None, candidates) if candidates.iter().any(|c| c.below.iter().any(|segment| segment.contains('/'))) => {
                Refusal::new(Reason::PathMalformed, "the path has an encoded slash")
                    .hint("a variable `{name%2F}` in the declared path allows encoded slashes")
            }
            (None, candidates) => {
                let error = Refusal::new(
                    Reason::PathNotAllowed,
                    format!("no declared request of the action {} has this method ({method}) and path", self.action),
                );
                let in_path = placements.iter().any(|placement| matches!(placement, Placement::Path { .. }));
                match candidates.first() {
                    Some(candidate)
                        if in_path && !candidate.below.iter().any(|segment| segment.contains(PATH_MARK)) =>
                    {
                        error.hint(format!("write {PATH_MARK} in the path where the host places the credential"))
                    }
                    Some(candidate) => {
                        let names: Vec<&str> = query.names().iter().map(String::as_str).collect();
                        let path = self.generalise(candidate);
                        error.hint(self.line(method.as_str(), candidate.endpoint, &path, &names))
                    }
                    None => error,
                }
            }
        })
    }

    /// Step 7.
    fn check_grant(&self, connection: Option<&ConnectionFacts>, seen: &mut Seen) -> Result<Vec<String>, Refusal> {
        let Some(connection) = connection else { return Ok(Vec::new()) };
        let why = match &connection.state {
            // The token at hand outlives a refused client, and the vault asks again with it before it gives up.
            ConnectionState::Active | ConnectionState::ClientRefused(_) => None,
            ConnectionState::NeedsReconnect(why) => Some(why.as_str()),
            ConnectionState::Revoked => Some("it was revoked"),
        };
        if let Some(why) = why {
            return Err(Refusal::new(
                Reason::ReconnectRequired,
                format!("the connection {} no longer works: {why}", connection.name),
            )
            .hint(format!("its owner runs `{}`", connect_again(connection))));
        }
        match scope::satisfied(&self.scopes, &connection.granted_scopes) {
            Ok(scopes) => Ok(scopes.to_vec()),
            Err(lacking) => {
                let refusal = Refusal::new(
                    Reason::InsufficientScope,
                    format!("the connection {} lacks the scope {}", connection.name, lacking.join(" ")),
                )
                .hint(format!(
                    "its owner runs `{} --scope {}`",
                    connect_again(connection),
                    lacking.join(" --scope ")
                ));
                seen.missing_scopes = lacking;
                Err(refusal)
            }
        }
    }

    /// The manifest's line that would allow a request.
    fn line(&self, method: &str, endpoint: &str, path: &str, query: &[&str]) -> String {
        let mut names: Vec<&str> = Vec::new();
        for name in query {
            if !names.contains(name) {
                names.push(name);
            }
        }
        let query = if names.is_empty() { String::new() } else { format!(", query = {names:?}") };
        format!(
            "add to [actions.{}] requests: {{ method = \"{method}\", endpoint = \"{endpoint}\", path = \"{path}\"{query} }}",
            self.action
        )
    }

    /// A template for a path that no rule has: as far as one of the action's templates goes with it, in its
    /// words; after that a segment with a digit becomes a variable.
    fn generalise(&self, candidate: &Candidate<'_>) -> String {
        let known = self.rules.iter().filter(|rule| rule.endpoint == candidate.endpoint).map(|rule| &rule.template);
        let full = known.clone().find(|template| template.matches_segments(&candidate.below));
        if let Some(template) = full {
            return template.to_string();
        }
        let start =
            known.map(|template| template.common_start(&candidate.below)).max_by_key(Vec::len).unwrap_or_default();
        let mut path: String = start.iter().map(|segment| format!("/{segment}")).collect();
        let mut variables = 0;
        for segment in &candidate.below[start.len()..] {
            path.push('/');
            let marked = self.placements.iter().any(|placement| matches!(placement, Placement::Path { .. }));
            if let Some((before, after)) = segment.split_once(PATH_MARK).filter(|_| marked) {
                path.push_str(&format!("{}{PATH_MARK}{}", Encoded(before), Encoded(after)));
            } else if segment.contains(|c: char| c.is_ascii_digit()) {
                variables += 1;
                path.push_str(&if variables == 1 { "{id}".to_owned() } else { format!("{{id{variables}}}") });
            } else {
                path.push_str(&Encoded(segment).to_string());
            }
        }
        path
    }
}

/// The command that gives a connection another credential.
fn connect_again(connection: &ConnectionFacts) -> String {
    format!("keyward connect {} --reconnect --name {}", connection.provider, connection.name)
}

impl Endpoint {
    /// The URL that holds for this connection.
    fn effective(&self, name: &str, connection: Option<&ConnectionFacts>) -> Result<Cow<'_, EndpointUrl>, Refusal> {
        let own = connection.filter(|_| self.configurable).and_then(|connection| connection.endpoints.get(name));
        let Some(own) = own else { return Ok(Cow::Borrowed(&self.url)) };
        let wrong = |message: String| {
            Refusal::new(
                Reason::UrlMalformed,
                format!("the connection's URL for the endpoint {name} is not usable: {message}"),
            )
        };
        let url = EndpointUrl::parse(own).map_err(|error| wrong(error.message))?;
        if url.exact_origin().is_none() {
            return Err(wrong("it has a star".to_owned()));
        }
        Ok(Cow::Owned(url))
    }
}

#[cfg(test)]
mod tests;
