//! What the operator allows, on top of what manifests declare: the policy of an installation.
//!
//! ```toml
//! # policy.toml: a request goes out where its action's manifest declares it, some line of `allow` matches it (where
//! # there is any), and no line of `deny` does.
//! allow = [
//!   { connectors = ["github"], connections = ["work"] },
//!   { connectors = ["slack"], actions = ["slack.list-channels"], methods = ["GET"] },
//! ]
//! deny = [
//!   { methods = ["DELETE"] },
//!   { hosts = ["*.internal.example"] },
//! ]
//! ```
//! Within a line every key that is there must match, and of a key's list one entry. What is left out matches anything.
//!
//! | key | an entry is |
//! |---|---|
//! | `connectors` | a connector's name |
//! | `actions` | `<connector>.<action>` |
//! | `connections` | a connection's name; a call without a connection matches none |
//! | `hosts` | a host, or `*.` and a name for every name below it, as in a manifest |
//! | `methods` | an HTTP method in capitals |

use std::{collections::BTreeSet, fmt, str::FromStr};

use http::Method;
use keyward_model::{ActionName, ConnectionName, ConnectorName, Reason};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Refusal, RuleError},
    host::{Host, HostPattern, cut},
    method,
    network::NetworkExceptions,
};

/// Everything that the operator has a word in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operator {
    /// What may be dialled beyond public addresses and https.
    pub network: NetworkExceptions,
    /// Which of the declared requests may be made.
    pub policy: OperatorPolicy,
}

impl From<NetworkExceptions> for Operator {
    fn from(network: NetworkExceptions) -> Self {
        Self { network, policy: OperatorPolicy::default() }
    }
}

/// The policy; the default allows what manifests declare. See the module for its form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorPolicy {
    /// Where there is any, one of these must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<PolicyLine>,
    /// None of these may match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<PolicyLine>,
}

/// One line of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyLine {
    /// Connectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connectors: Option<Names<ConnectorName>>,
    /// Actions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actions: Option<Names<PolicyAction>>,
    /// Connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Names<ConnectionName>>,
    /// Hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Names<PolicyHost>>,
    /// Methods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Names<PolicyMethod>>,
}

/// The entries of one key: at least one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "BTreeSet<T>", bound(deserialize = "T: Ord + Deserialize<'de>"))]
pub struct Names<T>(BTreeSet<T>);

impl<T> TryFrom<BTreeSet<T>> for Names<T> {
    type Error = &'static str;
    fn try_from(names: BTreeSet<T>) -> Result<Self, Self::Error> {
        if names.is_empty() {
            return Err("an empty list matches nothing: leave the key out where it shall match anything");
        }
        Ok(Self(names))
    }
}

macro_rules! text_entry {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse().map_err(|error: RuleError| match &error.hint {
                    Some(hint) => format!("{error}; {hint}"),
                    None => error.to_string(),
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_entry! {
    /// An action: `<connector>.<action>`.
    PolicyAction
}
text_entry! {
    /// A host, or `*.` and a name.
    PolicyHost
}
text_entry! {
    /// A method.
    PolicyMethod
}

impl FromStr for PolicyAction {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let is_action = text.split_once('.').is_some_and(|(connector, action)| {
            connector.parse::<ConnectorName>().is_ok() && action.parse::<ActionName>().is_ok()
        });
        if !is_action {
            return Err(RuleError::new(format!("{:?} is no action", cut(text))).hint("write `<connector>.<action>`"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for PolicyHost {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        Ok(Self(match HostPattern::parse(text)? {
            HostPattern::Exact(host) => host.to_string(),
            HostPattern::Subdomains(parent) => format!("*.{parent}"),
        }))
    }
}

impl PolicyHost {
    /// Whether `host`, in any form that a URL takes, is one of these.
    pub fn matches(&self, host: &str) -> bool {
        Host::parse(host).is_ok_and(|host| self.has(&host))
    }

    fn has(&self, host: &Host) -> bool {
        HostPattern::parse(&self.0).is_ok_and(|own| own.matches(host))
    }
}

impl FromStr for PolicyMethod {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        Ok(Self(method::parse(text)?.to_string()))
    }
}

/// What a call is, before it makes a request.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The connector.
    pub connector: &'a ConnectorName,
    /// The action.
    pub action: &'a ActionName,
    /// The connection, where it has one.
    pub connection: Option<&'a ConnectionName>,
}

impl PolicyLine {
    fn matches_call(&self, call: Call<'_>) -> bool {
        let Call { connector, action, connection } = call;
        has(self.connectors.as_ref(), |own| own == connector)
            && has(self.actions.as_ref(), |own| own.0.split_once('.') == Some((connector.as_str(), action.as_str())))
            && has(self.connections.as_ref(), |own| connection == Some(own))
    }

    fn matches(&self, call: Call<'_>, method: &Method, host: &Host) -> bool {
        self.matches_call(call)
            && has(self.methods.as_ref(), |own| own.0 == method.as_str())
            && has(self.hosts.as_ref(), |own| own.has(host))
    }

    /// Whether it needs no request to tell.
    fn is_of_calls(&self) -> bool {
        self.methods.is_none() && self.hosts.is_none()
    }
}

fn has<T>(names: Option<&Names<T>>, is_it: impl Fn(&T) -> bool) -> bool {
    names.is_none_or(|names| names.0.iter().any(is_it))
}

/// The line as it is written in the file.
impl fmt::Display for PolicyLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut keys = Vec::new();
        push(&mut keys, "connectors", self.connectors.as_ref());
        push(&mut keys, "actions", self.actions.as_ref());
        push(&mut keys, "connections", self.connections.as_ref());
        push(&mut keys, "hosts", self.hosts.as_ref());
        push(&mut keys, "methods", self.methods.as_ref());
        if keys.is_empty() { f.write_str("{}") } else { write!(f, "{{ {} }}", keys.join(", ")) }
    }
}

fn push<T: fmt::Display>(keys: &mut Vec<String>, key: &str, names: Option<&Names<T>>) {
    if let Some(names) = names {
        let names: Vec<_> = names.0.iter().map(|name| format!("\"{name}\"")).collect();
        keys.push(format!("{key} = [{}]", names.join(", ")));
    }
}

impl OperatorPolicy {
    /// Whether a call may begin: whether it could make any request at all.
    ///
    /// # Errors
    /// [`Reason::PolicyDenied`] with the line that would allow it.
    pub fn check_call(&self, call: Call<'_>) -> Result<(), PolicyDenial> {
        if let Some(line) = self.deny.iter().find(|line| line.is_of_calls() && line.matches_call(call)) {
            return Err(denied_by(line));
        }
        if self.allow.is_empty() || self.allow.iter().any(|line| line.matches_call(call)) {
            return Ok(());
        }
        Err(allowed_by_none(&line_for(call, None)))
    }

    /// Whether a request that its manifest declares may be made.
    pub(crate) fn check(&self, call: Call<'_>, method: &Method, host: &Host) -> Result<(), Refusal> {
        let denial = if let Some(line) = self.deny.iter().find(|line| line.matches(call, method, host)) {
            denied_by(line)
        } else if self.allow.is_empty() || self.allow.iter().any(|line| line.matches(call, method, host)) {
            return Ok(());
        } else {
            allowed_by_none(&line_for(call, Some((method, host))))
        };
        Err(Refusal::new(Reason::PolicyDenied, denial.message).hint(denial.hint))
    }

    /// What differs in `new`, and whether that could allow something that this policy does not.
    pub fn difference(&self, new: &Self) -> PolicyDifference {
        let set = |lines: &[PolicyLine]| lines.iter().cloned().collect::<BTreeSet<_>>();
        let (old_allow, new_allow) = (set(&self.allow), set(&new.allow));
        let (old_deny, new_deny) = (set(&self.deny), set(&new.deny));
        let mut difference = PolicyDifference::default();
        let mut tell = |widens: bool, sign: char, key: &str, line: &PolicyLine| {
            let lines = if widens { &mut difference.widening } else { &mut difference.narrowing };
            lines.push(format!("{sign} {key}: {line}"));
        };
        let is_first = old_allow.is_empty();
        new_allow.difference(&old_allow).for_each(|line| tell(!is_first, '+', "allow", line));
        old_allow.difference(&new_allow).for_each(|line| tell(false, '-', "allow", line));
        old_deny.difference(&new_deny).for_each(|line| tell(true, '-', "deny", line));
        new_deny.difference(&old_deny).for_each(|line| tell(false, '+', "deny", line));
        if !is_first && new_allow.is_empty() {
            let everything = "without a line of `allow`, every request that a manifest declares is allowed";
            difference.widening.push(everything.to_owned());
        }
        difference
    }
}

/// What differs between two policies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PolicyDifference {
    /// What could allow more.
    pub widening: Vec<String>,
    /// What allows less, or as much.
    pub narrowing: Vec<String>,
}

impl PolicyDifference {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.widening.is_empty() && self.narrowing.is_empty()
    }
}

/// A call that the policy refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyDenial {
    /// What was wrong.
    pub message: String,
    /// The line that would allow it.
    pub hint: String,
}

fn denied_by(line: &PolicyLine) -> PolicyDenial {
    PolicyDenial {
        message: "the operator's policy denies it".to_owned(),
        hint: format!("the operator would have to change this line of `deny` in policy.toml: {line}"),
    }
}

fn allowed_by_none(line: &PolicyLine) -> PolicyDenial {
    PolicyDenial {
        message: "no line of the operator's policy allows it".to_owned(),
        hint: format!("the operator adds to `allow` in policy.toml: {line}"),
    }
}

/// The narrowest line for a call or a request.
fn line_for(call: Call<'_>, request: Option<(&Method, &Host)>) -> PolicyLine {
    fn one<T: Ord>(name: T) -> Option<Names<T>> {
        Some(Names([name].into()))
    }
    PolicyLine {
        connectors: None,
        actions: one(PolicyAction(format!("{}.{}", call.connector, call.action))),
        connections: call.connection.cloned().and_then(one),
        hosts: request.and_then(|(_, host)| one(PolicyHost(host.to_string()))),
        methods: request.and_then(|(method, _)| one(PolicyMethod(method.to_string()))),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn policy(text: &str) -> OperatorPolicy {
        toml::from_str(text).unwrap()
    }

    /// Whether the policy lets `<connector>.<action>` with a connection send a request.
    fn allows(policy: &OperatorPolicy, action: &str, connection: &str, method: &str, host: &str) -> bool {
        let (connector, action) = action.split_once('.').unwrap();
        let (connector, action) = (connector.parse().unwrap(), action.parse().unwrap());
        let connection = connection.parse().ok();
        let call = Call { connector: &connector, action: &action, connection: connection.as_ref() };
        let allowed = policy.check(call, &method.parse().unwrap(), &Host::parse(host).unwrap()).is_ok();
        // A call that may make this request may begin.
        assert!(!allowed || policy.check_call(call).is_ok());
        allowed
    }

    #[test]
    fn without_a_line_everything_that_is_declared_is_allowed() {
        assert!(allows(&policy(""), "github.star", "work", "DELETE", "api.github.com"));
        assert!(allows(&policy("allow = [{}]"), "github.star", "", "DELETE", "api.github.com"));
        assert!(!allows(&policy("deny = [{}]"), "github.star", "work", "GET", "api.github.com"));
    }

    #[test]
    fn every_key_must_match_and_of_its_list_one() {
        let policy = policy(
            r#"allow = [
                { connectors = ["github", "gitlab"], connections = ["work"], methods = ["GET", "POST"] },
                { actions = ["slack.post"], hosts = ["slack.com", "*.slack.com"] },
            ]"#,
        );
        for (action, connection, method, host, expected) in [
            ("github.star", "work", "GET", "api.github.com", true),
            ("gitlab.star", "work", "POST", "x.example", true),
            ("github.star", "work", "DELETE", "api.github.com", false),
            ("github.star", "home", "GET", "api.github.com", false),
            ("github.star", "", "GET", "api.github.com", false),
            ("slack.post", "", "PUT", "slack.com", true),
            ("slack.post", "", "PUT", "files.SLACK.com.", true),
            ("slack.post", "", "PUT", "notslack.com", false),
            ("slack.read", "work", "GET", "slack.com", false),
            ("other.post", "work", "GET", "slack.com", false),
        ] {
            assert_eq!(
                allows(&policy, action, connection, method, host),
                expected,
                "{action} {connection} {method} {host}"
            );
        }
    }

    #[test]
    fn deny_is_above_allow() {
        let policy = policy(
            r#"allow = [{ connectors = ["github"] }]
               deny = [{ methods = ["DELETE"] }, { connectors = ["github"], connections = ["boss"] }, { hosts = ["10.0.0.1"] }]"#,
        );
        assert!(allows(&policy, "github.star", "work", "GET", "api.github.com"));
        assert!(!allows(&policy, "github.star", "work", "DELETE", "api.github.com"));
        assert!(!allows(&policy, "github.star", "boss", "GET", "api.github.com"));
        assert!(!allows(&policy, "github.star", "work", "GET", "10.0.0.1"));
    }

    #[test]
    fn call_that_could_make_no_request_does_not_begin() {
        let (connector, action) = ("github".parse().unwrap(), "star".parse().unwrap());
        let call = Call { connector: &connector, action: &action, connection: None };
        let begins = |text: &str| policy(text).check_call(call).is_ok();
        assert!(begins(r#"allow = [{ connectors = ["github"], methods = ["GET"] }]"#));
        assert!(begins(r#"deny = [{ methods = ["GET"] }]"#));
        assert!(!begins(r#"deny = [{ actions = ["github.star"] }]"#));
        assert!(!begins(r#"allow = [{ connectors = ["slack"] }]"#));
    }

    #[test]
    fn line_of_the_hint_allows_it() {
        let (connector, action) = ("github".parse().unwrap(), "star".parse().unwrap());
        let connection = "work".parse().unwrap();
        let call = Call { connector: &connector, action: &action, connection: Some(&connection) };
        let host = Host::parse("api.github.com").unwrap();
        let narrow = policy(r#"allow = [{ connectors = ["slack"] }]"#);
        let refusal = narrow.check(call, &Method::PUT, &host).unwrap_err();
        assert_eq!(refusal.reason, Reason::PolicyDenied);
        let hint = refusal.hint.unwrap();
        let (_, line) = hint.split_once(": ").unwrap();
        let wider = policy(&format!("allow = [{line}]"));
        assert!(wider.check(call, &Method::PUT, &host).is_ok());
        assert!(wider.check(call, &Method::GET, &host).is_err());
        let hint = narrow.check_call(call).unwrap_err().hint;
        let wider = policy(&format!("allow = [{}]", hint.split_once(": ").unwrap().1));
        assert!(wider.check_call(call).is_ok());
    }

    #[test]
    fn what_could_allow_more_is_told_as_widening() {
        let one = r#"allow = [{ connectors = ["github"] }]"#;
        let two = r#"allow = [{ connectors = ["github"] }, { connectors = ["slack"] }]"#;
        let denied = r#"deny = [{ methods = ["DELETE"] }]"#;
        for (old, new, widens) in [
            ("", one, false),
            ("", denied, false),
            (one, two, true),
            (two, one, false),
            (one, "", true),
            (denied, "", true),
            (denied, r#"deny = [{ methods = ["DELETE", "PUT"] }]"#, true),
            (one, "# a comment\nallow = [ { connectors = [ \"github\" ] } ]", false),
        ] {
            let difference = policy(old).difference(&policy(new));
            assert_eq!(!difference.widening.is_empty(), widens, "{old} -> {new}: {difference:?}");
        }
        assert!(policy(two).difference(&policy(two)).is_empty());
        let difference = policy(one).difference(&policy(two));
        assert_eq!(difference.widening, [r#"+ allow: { connectors = ["slack"] }"#]);
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for text in [
            "allow = [{ connectors = [] }]",
            "allow = [{ connector = ['github'] }]",
            "allow = [{ connectors = ['Git Hub'] }]",
            "allow = [{ actions = ['star'] }]",
            "allow = [{ hosts = ['api.github.*'] }]",
            "allow = [{ hosts = ['https://api.github.com'] }]",
            "allow = [{ methods = ['get'] }]",
            "allow = [{ methods = ['CONNECT'] }]",
            "permit = []",
        ] {
            assert!(toml::from_str::<OperatorPolicy>(text).is_err(), "{text} was taken");
        }
    }
}
