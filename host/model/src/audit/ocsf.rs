//! An audit record as an event of the Open Cybersecurity Schema Framework, version 1.6.0 (schema.ocsf.io), so that
//! tools for security events read it.
//!
//! | event | class |
//! |---|---|
//! | `request-permitted`, `request-sent`, `request-denied` | HTTP Activity (4002) |
//! | `call-refused`, `limit-reached`, `requests-refused`, `secret-redacted` | API Activity (6003) |
//! | `connection`, `consent`, `policy`, `vault` | Entity Management (3004) |
//!
//! What has no attribute there stands under `unmapped`, by the names of [`AuditRecord`]. The path of a URL is the
//! declared template: a record has no other.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{AuditEvent, AuditRecord};
use crate::{error::Sent, ids::PrincipalKind};

/// The version of the schema.
const VERSION: &str = "1.6.0";

/// The class of requests.
const HTTP_ACTIVITY: u32 = 4002;

/// What the class and the outcome of an event are.
struct Mapped {
    class: (u32, &'static str),
    category: (u32, &'static str),
    activity: (u32, String),
    /// 0 is not known yet, 1 success, 2 failure.
    status: u32,
    attributes: Value,
}

/// The event of a record, which is the record `number` of its tenant's trail.
pub fn event(record: &AuditRecord, number: u64) -> Value {
    let Mapped { class, category, activity, status, attributes } = map(record);
    let is_refusal = record.event.is_refusal();
    let user_type = match record.principal.kind {
        PrincipalKind::User => (1, "User"),
        PrincipalKind::LocalAdministrator => (2, "Admin"),
        PrincipalKind::Client => (3, "System"),
    };
    let mut event = json!({
        "metadata": {
            "version": VERSION,
            "product": {"name": "Keyward", "vendor_name": "Keyward", "version": env!("CARGO_PKG_VERSION")},
            // `host` brings the actor, which the class of requests has not by itself.
            "profiles": if class.0 == HTTP_ACTIVITY { json!(["security_control", "host"]) } else { json!(["security_control"]) },
            "log_name": "audit",
            "uid": record.id,
            "sequence": number,
            "tenant_uid": record.tenant,
        },
        "time": i64::try_from(record.at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX),
        "class_uid": class.0,
        "class_name": class.1,
        "category_uid": category.0,
        "category_name": category.1,
        "activity_id": activity.0,
        "activity_name": activity.1,
        "type_uid": class.0 * 100 + activity.0,
        "severity_id": if is_refusal { 3 } else { 1 },
        "severity": if is_refusal { "Medium" } else { "Informational" },
        "action_id": if is_refusal { 2 } else { 1 },
        "action": if is_refusal { "Denied" } else { "Allowed" },
        "disposition_id": if is_refusal { 2 } else { 1 },
        "disposition": if is_refusal { "Blocked" } else { "Allowed" },
        "status_id": status,
        "actor": {"user": {"uid": record.principal.id, "type_id": user_type.0, "type": user_type.1}},
        "unmapped": unmapped(record),
    });
    for (name, value) in attributes.as_object().into_iter().flatten() {
        event[name] = value.clone();
    }
    if let Some(reason) = record.reason {
        event["status_detail"] = json!(reason.code());
    }
    event
}

fn map(record: &AuditRecord) -> Mapped {
    match &record.event {
        AuditEvent::RequestPermitted { method, host, path_template, .. } => {
            http(method, Some(host), Some(path_template), 0, json!({}))
        }
        AuditEvent::RequestSent { method, host, path_template, status, sent, duration_ms, .. } => {
            let status_id = if *sent == Sent::Yes && record.reason.is_none() { 1 } else { 2 };
            let mut attributes = json!({"duration": duration_ms});
            if let Some(code) = status {
                attributes["http_response"] = json!({"code": code});
                attributes["status_code"] = json!(code.to_string());
            }
            http(method, Some(host), Some(path_template), status_id, attributes)
        }
        AuditEvent::RequestDenied { method, host, path_template } => {
            http(method, host.as_deref(), path_template.as_deref(), 2, json!({}))
        }
        AuditEvent::CallRefused { action, .. } => api(record, "Call Refused", &action.to_string(), 2),
        AuditEvent::LimitReached => api(record, "Limit Reached", &operation(record), 2),
        AuditEvent::RequestsRefused { count } => {
            let mut mapped = api(record, "Requests Refused", &operation(record), 2);
            mapped.attributes["count"] = json!(count);
            mapped
        }
        AuditEvent::SecretRedacted { .. } => api(record, "Secret Redacted", &operation(record), 1),
        AuditEvent::Connection { change } => entity(change, json!({"type": "connection", "uid": record.connection})),
        AuditEvent::Consent { change } => {
            let name = record.connector.as_ref().map(|connector| connector.name.as_str());
            entity(change, json!({"type": "connector", "name": name, "uid": name}))
        }
        AuditEvent::Policy { change } => entity(change, json!({"type": "policy", "uid": "operator"})),
        AuditEvent::Vault { change } => entity(change, json!({"type": "vault", "uid": record.tenant})),
    }
}

/// A request; `host` may have a port.
fn http(method: &str, host: Option<&str>, path: Option<&str>, status: u32, mut attributes: Value) -> Mapped {
    let activity = match method {
        "CONNECT" => (1, "Connect"),
        "DELETE" => (2, "Delete"),
        "GET" => (3, "Get"),
        "HEAD" => (4, "Head"),
        "OPTIONS" => (5, "Options"),
        "POST" => (6, "Post"),
        "PUT" => (7, "Put"),
        "TRACE" => (8, "Trace"),
        "PATCH" => (9, "Patch"),
        other => (99, other),
    };
    attributes["http_request"] = json!({"http_method": method});
    // A URL has at least a path or the whole text, and a record has no other text.
    if let Some(path) = path {
        let mut url = host.map(endpoint).unwrap_or_default();
        // An address has no attribute there.
        url.remove("ip");
        url.insert("path".to_owned(), json!(path));
        attributes["http_request"]["url"] = Value::Object(url);
    }
    let unknown = || Map::from_iter([("name".to_owned(), json!("unknown"))]);
    attributes["dst_endpoint"] = Value::Object(host.map_or_else(unknown, endpoint));
    Mapped {
        class: (HTTP_ACTIVITY, "HTTP Activity"),
        category: (4, "Network Activity"),
        activity: (activity.0, activity.1.to_owned()),
        status,
        attributes,
    }
}

/// A host, which may have a port.
fn endpoint(host: &str) -> Map<String, Value> {
    let (name, port) = match host.rsplit_once(':') {
        // Not within the brackets of an IPv6 address.
        Some((name, port)) if !port.contains(']') => (name, port.parse::<u16>().ok()),
        _ => (host, None),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let attribute = if name.parse::<IpAddr>().is_ok() { "ip" } else { "hostname" };
    let mut endpoint = Map::from_iter([(attribute.to_owned(), json!(name))]);
    port.map(|port| endpoint.insert("port".to_owned(), json!(port)));
    endpoint
}

fn api(record: &AuditRecord, activity: &str, operation: &str, status: u32) -> Mapped {
    let caller = record.flow.as_deref().unwrap_or("keyward");
    Mapped {
        class: (6003, "API Activity"),
        category: (6, "Application Activity"),
        activity: (99, activity.to_owned()),
        status,
        attributes: json!({"api": {"operation": operation}, "src_endpoint": {"name": caller}}),
    }
}

fn operation(record: &AuditRecord) -> String {
    let connector = record.connector.as_ref().map_or("unknown", |connector| connector.name.as_str());
    let action = record.action.as_ref().map_or("unknown", |action| action.as_str());
    format!("{connector}.{action}")
}

fn entity(change: &str, entity: Value) -> Mapped {
    let activity = match change {
        "created" | "added" | "initialised" => (1, "Create"),
        "deleted" | "removed" => (4, "Delete"),
        _ => (3, "Update"),
    };
    Mapped {
        class: (3004, "Entity Management"),
        category: (3, "Identity & Access Management"),
        activity: (activity.0, activity.1.to_owned()),
        status: if change.ends_with("-failed") { 2 } else { 1 },
        attributes: json!({"entity": entity, "comment": change}),
    }
}

/// What the schema has no attribute for. What is `None` is left out.
fn unmapped(record: &AuditRecord) -> Value {
    let mut left = json!({
        "event": record.event,
        "on_behalf_of": record.on_behalf_of,
        "flow": record.flow,
        "run": record.run,
        "step": record.step,
        "call": record.call,
        "connector": record.connector,
        "action": record.action,
        "connection": record.connection,
        "principal_kind": record.principal.kind,
    });
    if let Some(left) = left.as_object_mut() {
        left.retain(|_, value| !value.is_null());
    }
    left
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use time::macros::datetime;

    use super::{super::EchoedBy, *};
    use crate::{ConnectionId, ConnectorId, Principal, Reason, TenantId};

    fn record(event: AuditEvent, reason: Option<Reason>) -> AuditRecord {
        let at = datetime!(2026-11-22 12:00:00.123456 UTC);
        let record = AuditRecord::new(at, &TenantId::default(), &Principal::local_administrator(), event);
        AuditRecord { reason, ..record }
    }

    fn sent(method: &str, status: Option<u16>) -> AuditEvent {
        AuditEvent::RequestSent {
            method: method.to_owned(),
            host: "api.example.com:8443".to_owned(),
            path_template: "/items/{id}".to_owned(),
            scopes: vec!["read".to_owned()],
            status,
            sent: if status.is_some() { Sent::Yes } else { Sent::Maybe },
            sends: 1,
            duration_ms: 17,
        }
    }

    #[test]
    fn request_is_http_activity() {
        let event = event(&record(sent("GET", Some(404)), None), 7);
        assert_eq!(event["time"], 1_795_348_800_123_u64);
        assert_eq!((&event["class_uid"], &event["type_uid"]), (&json!(4002), &json!(400_203)));
        assert_eq!(event["dst_endpoint"], json!({"hostname": "api.example.com", "port": 8443}));
        assert_eq!(event["http_request"]["url"]["path"], "/items/{id}");
        assert_eq!((&event["http_response"]["code"], &event["duration"]), (&json!(404), &json!(17)));
        assert_eq!((&event["action_id"], &event["status_id"]), (&json!(1), &json!(1)));
        assert_eq!(event["metadata"]["sequence"], 7);
        assert_eq!(event["unmapped"]["event"]["scopes"], json!(["read"]));
    }

    #[test]
    fn refusal_is_denied_and_tells_its_reason() {
        let denied = AuditEvent::RequestDenied {
            method: "PATCH".to_owned(),
            host: Some("[::1]".to_owned()),
            path_template: None,
        };
        let event = event(&record(denied, Some(Reason::HostNotAllowed)), 1);
        assert_eq!(
            (&event["action_id"], &event["disposition_id"], &event["status_id"]),
            (&json!(2), &json!(2), &json!(2))
        );
        assert_eq!((&event["activity_id"], &event["activity_name"]), (&json!(9), &json!("Patch")));
        assert_eq!(event["dst_endpoint"], json!({"ip": "::1"}));
        assert_eq!(event["http_request"], json!({"http_method": "PATCH"}));
        assert_eq!(event["status_detail"], "host-not-allowed");
    }

    /// What the schema says: of each class, its number, what it requires and what it has beside that; of each object in
    /// it, the attributes that it may have and those of which it has at least one.
    const CLASSES: &[(u32, &[&str], &[&str])] = &[
        (4002, &["dst_endpoint", "http_request"], &["http_response", "status_code", "duration"]),
        (6003, &["actor", "api", "src_endpoint"], &[]),
        (3004, &["actor", "entity"], &["comment"]),
    ];
    const OF_ALL: &[&str] = &[
        "metadata",
        "time",
        "class_uid",
        "class_name",
        "category_uid",
        "category_name",
        "activity_id",
        "activity_name",
        "type_uid",
        "severity_id",
        "severity",
        "status_id",
        "unmapped",
    ];
    const OBJECTS: &[(&str, &[&str], &[&str])] = &[
        ("/http_request", &["http_method", "url"], &["http_method"]),
        ("/http_request/url", &["hostname", "port", "path"], &["path"]),
        ("/dst_endpoint", &["hostname", "ip", "name", "port"], &["hostname", "ip", "name"]),
        ("/src_endpoint", &["name"], &["name"]),
        ("/http_response", &["code"], &["code"]),
        ("/actor", &["user"], &["user"]),
        ("/actor/user", &["uid", "type_id", "type"], &["uid"]),
        ("/api", &["operation"], &["operation"]),
        ("/entity", &["type", "uid", "name"], &["uid", "name"]),
    ];
    /// What a profile brings to every class that names it.
    const PROFILES: &[(&str, &[&str])] =
        &[("security_control", &["action_id", "action", "disposition_id", "disposition"]), ("host", &["actor"])];

    fn assert_valid(event: &Value) {
        let (_, required, others) = CLASSES.iter().find(|(class, ..)| event["class_uid"] == *class).unwrap();
        let has = |name: &str| !event[name].is_null();
        for name in OF_ALL.iter().chain(*required) {
            assert!(has(name), "{name} is missing: {event}");
        }
        let profiles = event["metadata"]["profiles"].as_array().unwrap();
        let of_profiles = PROFILES.iter().filter(|(profile, _)| profiles.contains(&json!(profile)));
        let of_profiles: Vec<&str> = of_profiles.flat_map(|(_, names)| *names).copied().collect();
        for name in event.as_object().unwrap().keys().map(String::as_str) {
            let known =
                OF_ALL.iter().chain(*required).chain(*others).chain(&of_profiles).chain(&["status_detail", "count"]);
            assert!(known.copied().any(|known| known == name), "{name} is not of the class: {event}");
        }
        for (path, may, least) in OBJECTS {
            let Some(object) = event.pointer(path) else { continue };
            let object = object.as_object().unwrap();
            assert!(object.keys().all(|name| may.contains(&name.as_str())), "{path}: {event}");
            assert!(
                least.iter().any(|name| object.get(*name).is_some_and(|value| !value.is_null())),
                "{path}: {event}"
            );
        }
        if let Some(name) = event.pointer("/dst_endpoint/hostname") {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            assert!(name.as_str().unwrap().chars().all(plain), "{name} is no hostname_t");
        }
    }

    #[test]
    fn every_event_is_one_of_its_class() {
        let change = |change: &str| change.to_owned();
        let host = "api.example.com:8443".to_owned();
        let path_template = "/items/{id}".to_owned();
        let denied = |host: Option<&str>, path: Option<&str>| AuditEvent::RequestDenied {
            method: "GET".to_owned(),
            host: host.map(str::to_owned),
            path_template: path.map(str::to_owned),
        };
        for (what, class) in [
            (AuditEvent::RequestPermitted { method: "PUT".to_owned(), host, path_template, scopes: Vec::new() }, 4002),
            (sent("GET", Some(200)), 4002),
            (sent("POST", None), 4002),
            (sent("TRACE", None), 4002),
            (denied(None, None), 4002),
            (denied(Some("[::1]"), None), 4002),
            (denied(Some("[::1]:8443"), Some("/items")), 4002),
            (denied(Some("127.0.0.1:80"), Some("/items")), 4002),
            (denied(Some("api.example.com"), None), 4002),
            (AuditEvent::LimitReached, 6003),
            (AuditEvent::RequestsRefused { count: 7 }, 6003),
            (AuditEvent::SecretRedacted { count: 2, by: EchoedBy::Guest }, 6003),
            (AuditEvent::CallRefused { action: "a.b".parse().unwrap(), connection: None }, 6003),
            (AuditEvent::Connection { change: change("created") }, 3004),
            (AuditEvent::Consent { change: change("upgraded") }, 3004),
            (AuditEvent::Policy { change: change("replaced") }, 3004),
            (AuditEvent::Vault { change: change("rotated") }, 3004),
        ] {
            let mut record = record(what, Some(Reason::HostNotAllowed));
            record.connection = Some(ConnectionId::new());
            record.connector = Some(ConnectorId {
                name: "github".parse().unwrap(),
                version: "1.0.0".to_owned(),
                digest: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
            });
            let event = event(&record, 1);
            assert_eq!(event["class_uid"], class);
            assert_valid(&event);
        }
    }

    #[test]
    fn every_method_of_the_schema_has_its_activity() {
        for (method, activity) in [("CONNECT", 1), ("TRACE", 8), ("PATCH", 9), ("PROPFIND", 99)] {
            assert_eq!(event(&record(sent(method, None), None), 1)["activity_id"], activity, "{method}");
        }
    }
}
