//! What a connector asks for, and what a new version of it asks for beyond the old one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use keyward_model::{
    ActionName, ConnectorId,
    manifest::{Action, Claim, Hmac, Idempotency, Jwt, KeyEncoding, Manifest, PATH_MARK, Part, Placement},
};
use serde::Serialize;

use crate::rules::is_shown_plainly;

/// What changes when a proposal is accepted, in lines for the person who is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What is installed now.
    pub from: ConnectorId,
    /// What is asked for in addition.
    pub added: Vec<String>,
    /// What is no longer asked for.
    pub removed: Vec<String>,
    /// What is asked for in another way, with the old and the new.
    pub changed: Vec<String>,
    /// Whether the connector could do anything that was not agreed to before.
    pub widens: bool,
}

/// Everything that a connector asks for, one line each, in the order in which a person should read it.
pub fn requirements(manifest: &Manifest) -> Vec<String> {
    asks(manifest).iter().filter(|(_, ask)| ask.is_shown()).map(|(key, ask)| line(key, &ask.to_string())).collect()
}

impl Difference {
    /// What changes for whoever has `from` with the manifest `old` and gets `to` with the manifest `new`.
    pub(crate) fn between(from: &ConnectorId, old: &Manifest, to: &ConnectorId, new: &Manifest) -> Self {
        let (old, new) = (asks(old), asks(new));
        let mut difference =
            Self { from: from.clone(), added: Vec::new(), removed: Vec::new(), changed: Vec::new(), widens: false };
        if from.version != to.version {
            difference.changed.push(format!("version {} → {}", from.version, to.version));
        } else if from.digest != to.digest {
            difference.changed.push(format!("version {} stays, its content changes", from.version));
        }
        for (key, ask) in &new {
            match old.get(key) {
                None if ask.is_shown() => {
                    difference.added.push(line(key, &ask.to_string()));
                    difference.widens |= ask.is_right();
                }
                Some(before) if before != ask => {
                    difference.changed.push(line(key, &format!("{before} → {ask}")));
                    difference.widens |= ask.widens(before);
                }
                _ => {}
            }
        }
        for (key, ask) in old.iter().filter(|(key, ask)| ask.is_shown() && !new.contains_key(key)) {
            difference.removed.push(line(key, &ask.to_string()));
        }
        difference
    }
}

/// One thing that a manifest asks for.
#[derive(PartialEq)]
enum Ask {
    /// Granted as it stands: another value is another right.
    Exactly(String),
    /// A limit of a call.
    UpTo { amount: u64, default: u64 },
    /// The query parameters of a request.
    Query(BTreeSet<String>),
    /// Sets of scopes, one of which must be granted.
    Scopes(BTreeSet<BTreeSet<String>>),
    /// Told, but no right.
    Note(String),
}

/// Where an ask belongs: its rank in the reading order, the action where it is one's, and its name.
type Key = (Option<ActionName>, u8, String);

impl Ask {
    /// Whether a person is told of it where it is new. The ask of scopes exists also where it is empty and
    /// that of a limit also where it is the default, so that a change from or to that is seen.
    fn is_shown(&self) -> bool {
        match self {
            Self::Scopes(sets) => !sets.is_empty(),
            Self::UpTo { amount, default } => amount != default,
            Self::Exactly(_) | Self::Query(_) | Self::Note(_) => true,
        }
    }

    /// Whether this, as something new, is more than nothing.
    fn is_right(&self) -> bool {
        match self {
            Self::Note(_) => false,
            Self::UpTo { amount, default } => amount > default,
            Self::Exactly(_) | Self::Query(_) | Self::Scopes(_) => true,
        }
    }

    /// Whether `self` allows anything that `old` did not.
    fn widens(&self, old: &Self) -> bool {
        match (self, old) {
            (Self::Note(_), Self::Note(_)) => false,
            (Self::UpTo { amount, .. }, Self::UpTo { amount: old, .. }) => amount > old,
            (Self::Query(new), Self::Query(old)) => !old.contains("*") && !new.is_subset(old),
            (Self::Scopes(new), Self::Scopes(old)) => {
                let asked: BTreeSet<_> = old.iter().flatten().collect();
                // More is asked of the account, or the action runs on accounts that it could not use before.
                // No sets at all take every account.
                let takes = |set: &BTreeSet<String>| old.is_empty() || old.iter().any(|old| old.is_subset(set));
                let takes_more = if new.is_empty() { !old.is_empty() } else { !new.iter().all(takes) };
                takes_more || new.iter().flatten().any(|scope| !asked.contains(scope))
            }
            _ => true,
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(text) | Self::Note(text) => f.write_str(text),
            Self::UpTo { amount, .. } => amount.fmt(f),
            Self::Query(names) if names.is_empty() => f.write_str("without query"),
            Self::Query(names) if names.contains("*") => f.write_str("with any query"),
            Self::Query(names) => write!(f, "with query {}", join(names, ", ")),
            Self::Scopes(sets) if sets.is_empty() => f.write_str("none"),
            Self::Scopes(sets) => {
                f.write_str(&sets.iter().map(|set| join(set, " + ")).collect::<Vec<_>>().join(" or "))
            }
        }
    }
}

fn join(names: &BTreeSet<String>, between: &str) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(between)
}

/// One line; what would not show as it is, for example in the name of a query parameter, is written out.
fn line((action, _, name): &Key, text: &str) -> String {
    let line = match action {
        Some(action) => format!("{action}: {name} {text}"),
        None => format!("{name} {text}"),
    };
    line.chars().fold(String::with_capacity(line.len()), |mut plain, c| {
        if is_shown_plainly(c) {
            plain.push(c)
        } else {
            plain.extend(c.escape_unicode())
        }
        plain
    })
}

fn asks(manifest: &Manifest) -> BTreeMap<Key, Ask> {
    let mut asks = BTreeMap::new();
    let mut whole = |rank, name: String, ask| asks.insert((None, rank, name), ask);
    if let Some(provider) = &manifest.provider {
        whole(0, "connections of".to_owned(), Ask::Exactly(provider.clone()));
    }
    if !manifest.credential.is_empty() {
        let places: Vec<_> = manifest.credential.iter().map(placement_text).collect();
        whole(1, "credential".to_owned(), Ask::Exactly(places.join(", ")));
    }
    for (name, endpoint) in &manifest.endpoints {
        let own = if endpoint.configurable { ", or the server that the connection names" } else { "" };
        let bare = if endpoint.credential { "" } else { ", without the credential" };
        let private = if endpoint.private { ", also in a private network" } else { "" };
        whole(2, format!("endpoint {name}"), Ask::Exactly(format!("{}{own}{bare}{private}", endpoint.url)));
    }
    for (name, action) in &manifest.actions {
        asks.extend(of_action(action).into_iter().map(|(rank, what, ask)| ((Some(name.clone()), rank, what), ask)));
    }
    asks
}

fn of_action(action: &Action) -> Vec<(u8, String, Ask)> {
    let mut asks = vec![
        (0, "action".to_owned(), Ask::Note(format!("\"{}\"", action.title))),
        (3, "repeated call".to_owned(), Ask::Note(idempotency_text(action.idempotency).to_owned())),
    ];

    // Rules for the same request in two lines allow what both allow together.
    let mut requests: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for request in &action.requests {
        let what = format!("{} {} of {}", request.method, request.path, request.endpoint);
        if request.redirects {
            asks.push((1, format!("redirects of {what}"), Ask::Exactly("followed".to_owned())));
        }
        requests.entry(what).or_default().extend(request.query.iter().cloned());
    }
    asks.extend(requests.into_iter().map(|(what, query)| (1, what, Ask::Query(query))));

    let scopes = action.scopes.iter().map(|set| set.iter().cloned().collect()).collect();
    asks.push((2, "scopes".to_owned(), Ask::Scopes(scopes)));

    for (name, amount, default) in action.limits.by_name() {
        asks.push((4, format!("limit {name}"), Ask::UpTo { amount: amount.unwrap_or(default), default }));
    }
    asks
}

fn placement_text(placement: &Placement) -> String {
    let of = |part: &Part, place: String| match part {
        Part::Token => place,
        part => format!("{} {place}", part_text(part)),
    };
    match placement {
        Placement::Header { name, prefix, part } if prefix.is_empty() => of(part, format!("in the header {name}")),
        Placement::Header { name, prefix, part } => of(part, format!("in the header {name} after {prefix:?}")),
        Placement::Query { name, part } => of(part, format!("in the query as {name}")),
        Placement::Basic => "as HTTP Basic".to_owned(),
        Placement::Cookie { name, part } => of(part, format!("in the cookie {name}")),
        Placement::Path { part } => of(part, format!("in the path as {PATH_MARK}")),
        Placement::Form { name, part } => of(part, format!("in the form as {name}")),
        Placement::Json { name, part } => of(part, format!("in the JSON body as {name}")),
        Placement::AwsSigv4 { region, service } => format!("as an AWS signature for {service} in {region}"),
        Placement::Hmac(hmac) => hmac_text(hmac),
        Placement::Jwt(jwt) => jwt_text(jwt),
        Placement::Digest { weak: false } => "as HTTP Digest".to_owned(),
        Placement::Digest { weak: true } => "as HTTP Digest, with MD5 too".to_owned(),
    }
}

/// All of it: another message, or another place of a part, is another right.
fn hmac_text(hmac: &Hmac) -> String {
    let key = key_text(&hmac.part, hmac.key_encoding);
    let values = hmac.headers.iter().map(|pair| ("header", pair)).chain(hmac.query.iter().map(|pair| ("query", pair)));
    let places: Vec<_> = values.map(|(kind, (name, value))| format!("{kind} {name} {value:?}")).collect();
    format!(
        "as an HMAC ({}, {}, with {key}) of {:?} in {}",
        hmac.hash.as_str(),
        hmac.encoding.as_str(),
        hmac.message,
        places.join(" and ")
    )
}

fn jwt_text(jwt: &Jwt) -> String {
    let key = match jwt.algorithm.is_symmetric() {
        true => key_text(&jwt.part, jwt.key_encoding),
        false => "the signing key".to_owned(),
    };
    let mut text = format!("as a JWT ({} with {key}) in the header {}", jwt.algorithm.as_str(), jwt.name);
    if !jwt.prefix.is_empty() {
        text += &format!(" after {:?}", jwt.prefix);
    }
    text += &format!(" for {} s", jwt.lifetime_seconds);
    if jwt.backdate_seconds > 0 {
        text += &format!(" from {} s ago", jwt.backdate_seconds);
    }
    if jwt.not_before {
        text += " and not before";
    }
    if let Some(key_id) = &jwt.key_id {
        text += &format!(" with key id {key_id:?}");
    }
    let claims: Vec<_> = jwt
        .claims
        .iter()
        .map(|(name, claim)| match claim {
            Claim::Text(text) => format!("{name:?} {text:?}"),
            Claim::Number(number) => format!("{name:?} {number}"),
            Claim::Flag(flag) => format!("{name:?} {flag}"),
            Claim::Texts(texts) => format!("{name:?} {texts:?}"),
        })
        .collect();
    if !claims.is_empty() {
        text += &format!(" with claims {}", claims.join(" and "));
    }
    text
}

fn key_text(part: &Part, encoding: KeyEncoding) -> String {
    match encoding {
        KeyEncoding::Text => part_text(part),
        _ => format!("{} as {}", part_text(part), encoding.as_str()),
    }
}

fn part_text(part: &Part) -> String {
    match part {
        Part::Token => "the token".to_owned(),
        Part::Username => "the user name".to_owned(),
        Part::Password => "the password".to_owned(),
        Part::Field(name) => format!("the field {name}"),
    }
}

fn idempotency_text(idempotency: Idempotency) -> &'static str {
    match idempotency {
        Idempotency::Safe => "reads only",
        Idempotency::Idempotent => "twice is as once",
        Idempotency::Key => "twice is as once, by a key",
        Idempotency::None => "twice does it twice",
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use keyward_model::Digest;

    use super::*;

    const OLD: &str = r#"
        name = "shop"
        version = "1.0.0"
        title = "Shop"
        provider = "shop"
        endpoints.api.url = "https://api.shop.example"
        credential = { in = "header", name = "Authorization", prefix = "Bearer " }

        [actions.list]
        title = "List"
        requests = [{ method = "GET", endpoint = "api", path = "/items", query = ["page", "sort"] }]
        scopes = [["read"], ["admin"]]
        idempotency = "safe"
        limits = { wall_ms = 1000 }
    "#;

    fn id(version: &str, content: u8) -> ConnectorId {
        ConnectorId {
            name: "shop".parse().unwrap(),
            version: version.to_owned(),
            digest: Digest::from_sha256([content; 32]),
        }
    }

    /// What changes when `from` stands in place of `to` in the manifest.
    fn change(from: &str, to: &str) -> Difference {
        assert!(OLD.contains(from), "{from:?} is not in the manifest");
        let parse = |source: &str| crate::parse_manifest(source).unwrap_or_else(|faults| panic!("{faults:#?}"));
        Difference::between(&id("1.0.0", 1), &parse(OLD), &id("1.1.0", 2), &parse(&OLD.replace(from, to)))
    }

    #[test]
    fn what_could_do_more_than_was_agreed_to_widens() {
        let delete = r#"query = ["page", "sort"] }, { method = "DELETE", endpoint = "api", path = "/items/{id}" }]"#;
        for (from, to) in [
            (r#"query = ["page", "sort"] }]"#, delete),
            (r#"["page", "sort"]"#, r#"["page", "sort", "all"]"#),
            (r#"["page", "sort"]"#, r#"["*"]"#),
            (r#""/items""#, r#""/{anything}""#),
            (r#""GET""#, r#""POST""#),
            ("https://api.shop.example", "https://api.shop.example.net"),
            ("endpoints.api.url = ", "endpoints.api.private = true\n        endpoints.api.url = "),
            ("endpoints.api.url = ", "endpoints.api.configurable = true\n        endpoints.api.url = "),
            (r#""Bearer ""#, r#""Token ""#),
            (r#"in = "header", name = "Authorization", prefix = "Bearer ""#, r#"in = "query", name = "key""#),
            (
                r#"{ in = "header", name = "Authorization", prefix = "Bearer " }"#,
                r#"[{ in = "header", name = "Authorization", prefix = "Bearer " }, { in = "cookie", name = "id", part = "client-id" }]"#,
            ),
            (r#"prefix = "Bearer ""#, r#"prefix = "Bearer ", part = "password""#),
            (
                r#"in = "header", name = "Authorization", prefix = "Bearer ""#,
                r#"in = "aws-sigv4", region = "eu-central-1", service = "s3""#,
            ),
            (
                r#"in = "header", name = "Authorization", prefix = "Bearer ""#,
                r#"in = "hmac", hash = "sha256", message = "{body}", headers = { x-sign = "{signature}" }"#,
            ),
            (
                r#"in = "header", name = "Authorization", prefix = "Bearer ""#,
                r#"in = "jwt", name = "Authorization", prefix = "Bearer ", algorithm = "ES256", lifetime_seconds = 60"#,
            ),
            (r#"in = "header", name = "Authorization", prefix = "Bearer ""#, r#"in = "digest", weak = true"#),
            (r#"provider = "shop""#, r#"provider = "bank""#),
            (r#"["read"], ["admin"]"#, r#"["read"], ["admin"], ["write"]"#),
            (r#"["read"], ["admin"]"#, r#"["read", "write"]"#),
            (r#"scopes = [["read"], ["admin"]]"#, ""),
            ("wall_ms = 1000", "wall_ms = 1001"),
            (r#""sort"] }]"#, r#""sort"], redirects = true }]"#),
            ("limits = { wall_ms = 1000 }", ""),
            ("wall_ms = 1000", "wall_ms = 1000, memory_bytes = 100000000"),
        ] {
            let difference = change(from, to);
            assert!(difference.widens, "{from} -> {to}: {difference:#?}");
            assert!(difference.added.len() + difference.changed.len() > 1, "{from} -> {to} is not told");
        }
    }

    #[test]
    fn what_does_no_more_than_was_agreed_to_does_not_widen() {
        for (from, to) in [
            ("List\"", "List items\""),
            (r#"["page", "sort"]"#, r#"["sort"]"#),
            (r#"["page", "sort"]"#, r#"["sort", "page"]"#),
            (r#"["read"], ["admin"]"#, r#"["admin"], ["read"]"#),
            (r#"["read"], ["admin"]"#, r#"["admin"]"#),
            (r#"["read"], ["admin"]"#, r#"["read", "admin"]"#),
            ("wall_ms = 1000", "wall_ms = 10"),
            ("wall_ms = 1000", "wall_ms = 1000, log_bytes = 1"),
            (r#""safe""#, r#""none""#),
        ] {
            let difference = change(from, to);
            assert!(!difference.widens, "{from} -> {to}: {difference:#?}");
        }
        let other_order = change(r#"["read"], ["admin"]"#, r#"["admin"], ["read"]"#);
        assert_eq!(other_order.changed, ["version 1.0.0 → 1.1.0"], "the order of sets means nothing");
    }

    #[test]
    fn other_content_under_the_same_version_is_told() {
        let manifest = crate::parse_manifest(OLD).unwrap();
        let difference = Difference::between(&id("1.0.0", 1), &manifest, &id("1.0.0", 2), &manifest);
        assert_eq!(difference.changed, ["version 1.0.0 stays, its content changes"]);
        assert!(!difference.widens);
    }

    #[test]
    fn lines_read_in_the_order_of_importance() {
        insta::assert_snapshot!(requirements(&crate::parse_manifest(OLD).unwrap()).join("\n"), @r#"
        connections of shop
        credential in the header Authorization after "Bearer "
        endpoint api https://api.shop.example
        list: action "List"
        list: GET /items of api with query page, sort
        list: scopes admin or read
        list: repeated call reads only
        list: limit wall_ms 1000
        "#);
        let difference = change(
            "limits = { wall_ms = 1000 }",
            "limits = { wall_ms = 2000 }\n[actions.delete]\ntitle = 'Delete'\nrequests = [{ method = 'DELETE', endpoint = 'api', path = '/items/{id}' }]\nscopes = [['write']]",
        );
        insta::assert_json_snapshot!(difference, @r#"
        {
          "from": {
            "name": "shop",
            "version": "1.0.0",
            "digest": "sha256:0101010101010101010101010101010101010101010101010101010101010101"
          },
          "added": [
            "delete: action \"Delete\"",
            "delete: DELETE /items/{id} of api without query",
            "delete: scopes write",
            "delete: repeated call twice does it twice"
          ],
          "removed": [],
          "changed": [
            "version 1.0.0 → 1.1.0",
            "list: limit wall_ms 1000 → 2000"
          ],
          "widens": true
        }
        "#);
    }

    #[test]
    fn every_place_of_the_credential_is_told() {
        let places = r#"[
            { in = "header", name = "Authorization", prefix = "Bearer " },
            { in = "header", name = "Client-Id", part = "client-id" },
            { in = "cookie", name = "session", part = "password" },
            { in = "form", name = "secret" },
            { in = "query", name = "user", part = "username" },
        ]"#;
        let one = r#"{ in = "header", name = "Authorization", prefix = "Bearer " }"#;
        let manifest = crate::parse_manifest(&OLD.replace(one, places).replace("GET", "POST")).unwrap();
        insta::assert_snapshot!(requirements(&manifest)[1], @r#"credential in the header Authorization after "Bearer ", the field client-id in the header Client-Id, the password in the cookie session, in the form as secret, the user name in the query as user"#);
    }

    #[test]
    fn what_would_not_show_as_it_is_is_written_out() {
        let hidden = change(r#"["page", "sort"]"#, "[\"page\u{202e}\"]");
        assert!(hidden.changed.iter().any(|line| line.contains("page\\u{202e}")), "{hidden:#?}");
    }
}
