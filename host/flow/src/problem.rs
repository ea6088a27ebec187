//! Errors of a flow: problem details (RFC 9457) with the standard types of the language.

use std::time::Duration;

use keyward_model::{InvokeError, InvokeErrorKind};
use serde_json::{Map, Value};

/// Where the standard error types live.
const ROOT: &str = "https://open-workflow-specification.org/spec/1.0.0/errors/";
/// The hosts under which flows write them; the specification itself uses several paths.
const ROOTS: [&str; 2] = ["https://open-workflow-specification.org/", "https://serverlessworkflow.io/"];

/// The standard types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standard {
    Configuration,
    Validation,
    Expression,
    Authentication,
    Authorization,
    Timeout,
    Communication,
    Runtime,
}

impl Standard {
    const ALL: [Self; 8] = [
        Self::Configuration,
        Self::Validation,
        Self::Expression,
        Self::Authentication,
        Self::Authorization,
        Self::Timeout,
        Self::Communication,
        Self::Runtime,
    ];

    fn segment(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Validation => "validation",
            Self::Expression => "expression",
            Self::Authentication => "authentication",
            Self::Authorization => "authorization",
            Self::Timeout => "timeout",
            Self::Communication => "communication",
            Self::Runtime => "runtime",
        }
    }

    /// The status where nothing better is known.
    fn status(self) -> u16 {
        match self {
            Self::Configuration | Self::Validation | Self::Expression => 400,
            Self::Authentication => 401,
            Self::Authorization => 403,
            Self::Timeout => 408,
            Self::Communication | Self::Runtime => 500,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Configuration => "Configuration Error",
            Self::Validation => "Validation Error",
            Self::Expression => "Expression Error",
            Self::Authentication => "Authentication Error",
            Self::Authorization => "Authorization Error",
            Self::Timeout => "Timeout Error",
            Self::Communication => "Communication Error",
            Self::Runtime => "Runtime Error",
        }
    }

    /// The standard type that a URI means: one of the known roots and its last path segment.
    fn of_uri(uri: &str) -> Option<Self> {
        let path = ROOTS.iter().find_map(|root| uri.strip_prefix(root))?;
        let segment = path.trim_end_matches('/').rsplit('/').next()?;
        Self::ALL.into_iter().find(|standard| standard.segment() == segment)
    }
}

/// Whether an error of type `actual` is one that a filter for `wanted` catches.
pub(crate) fn same_type(wanted: &str, actual: &str) -> bool {
    wanted == actual || Standard::of_uri(wanted).is_some_and(|wanted| Standard::of_uri(actual) == Some(wanted))
}

/// An error while it is made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem(Map<String, Value>);

impl Problem {
    /// A standard error of the component at `instance` (a JSON pointer into the flow).
    pub(crate) fn new(standard: Standard, instance: &str, detail: impl Into<String>) -> Self {
        Self::raised(format!("{ROOT}{}", standard.segment()), standard.status().into(), instance)
            .with("title", standard.title())
            .with("detail", detail.into())
    }

    /// An error of any type.
    pub(crate) fn raised(kind: String, status: i64, instance: &str) -> Self {
        Self(Map::new()).with("type", kind).with("status", status).with("instance", instance)
    }

    /// The error of an action.
    pub(crate) fn of_action(error: &InvokeError, instance: &str) -> Self {
        let (standard, status) = match &error.kind {
            InvokeErrorKind::NotFound => (Standard::Configuration, None),
            InvokeErrorKind::Validation => (Standard::Validation, None),
            InvokeErrorKind::Denied | InvokeErrorKind::InsufficientScope { .. } => (Standard::Authorization, None),
            InvokeErrorKind::Connection => (Standard::Authentication, None),
            InvokeErrorKind::RateLimited => (Standard::Communication, Some(429)),
            InvokeErrorKind::Timeout => (Standard::Timeout, None),
            InvokeErrorKind::Guest | InvokeErrorKind::Internal => (Standard::Runtime, None),
            // Whatever goes wrong during a call that is none of the above.
            _ => (Standard::Communication, None),
        };
        let mut problem = Self::new(standard, instance, error.message.clone()).with("reason", error.reason.code());
        if let Some(status) = error.status.or(status) {
            problem = problem.with("status", i64::from(status));
        }
        match &error.kind {
            InvokeErrorKind::Action { code } => problem = problem.with("code", code.clone()),
            InvokeErrorKind::InsufficientScope { missing } => problem = problem.with("missingScopes", missing.clone()),
            _ => {}
        }
        if let Some(hint) = &error.hint {
            problem = problem.with("hint", hint.clone());
        }
        if let Some(delay) = error.retry_after {
            problem = problem.with("retryAfter", delay.as_secs_f64());
        }
        if let Some(retryable) = error.retryable {
            problem = problem.with("retryable", retryable);
        }
        problem
    }

    /// The same with another property.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// The error as the journal and the flow see it.
    pub(crate) fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}

/// How long the provider wants to be left alone, where an error says so.
pub(crate) fn retry_after(error: &Value) -> Duration {
    error
        .get("retryAfter")
        .and_then(Value::as_f64)
        .map_or(Duration::ZERO, |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use keyward_model::Reason;
    use serde_json::json;

    use super::*;

    #[test]
    fn standard_types_are_matched_by_their_last_segment_under_the_known_roots() {
        let ours = format!("{ROOT}communication");
        for wanted in [
            "https://open-workflow-specification.org/spec/1.0.0/errors/communication",
            "https://open-workflow-specification.org/dsl/errors/types/communication",
            "https://serverlessworkflow.io/spec/1.0.0/errors/communication",
            "https://serverlessworkflow.io/dsl/errors/types/communication",
        ] {
            assert!(same_type(wanted, &ours), "{wanted}");
        }
        for wanted in [
            "https://open-workflow-specification.org/spec/1.0.0/errors/timeout",
            "https://example.com/errors/communication",
            "communication",
            "",
        ] {
            assert!(!same_type(wanted, &ours), "{wanted}");
        }
        assert!(same_type("https://example.com/a", "https://example.com/a"));
        assert!(!same_type("https://example.com/timeout", "https://example.org/timeout"));
    }

    #[test]
    fn an_error_of_an_action_has_the_standard_type_the_status_and_the_reason() {
        let missing = InvokeErrorKind::InsufficientScope { missing: vec!["repo".to_owned()] };
        let code = InvokeErrorKind::Action { code: "not-found".to_owned() };
        for (kind, status, kind_name, expected) in [
            (InvokeErrorKind::NotFound, None, "configuration", 400),
            (InvokeErrorKind::Validation, None, "validation", 400),
            (InvokeErrorKind::Denied, None, "authorization", 403),
            (missing, None, "authorization", 403),
            (InvokeErrorKind::Connection, None, "authentication", 401),
            (InvokeErrorKind::Communication, None, "communication", 500),
            (InvokeErrorKind::Communication, Some(503), "communication", 503),
            (InvokeErrorKind::RateLimited, None, "communication", 429),
            (InvokeErrorKind::Timeout, None, "timeout", 408),
            (InvokeErrorKind::Guest, None, "runtime", 500),
            (code, Some(404), "communication", 404),
            (InvokeErrorKind::Internal, None, "runtime", 500),
        ] {
            let mut error = InvokeError::new(kind, Reason::ActionFailed, "it failed");
            error.status = status;
            let problem = Problem::of_action(&error, "/do/0/a").into_value();
            assert_eq!(problem["type"], json!(format!("{ROOT}{kind_name}")), "{error:?}");
            assert_eq!(problem["status"], json!(expected), "{error:?}");
            assert_eq!(problem["reason"], json!("action-failed"));
            assert_eq!(problem["instance"], json!("/do/0/a"));
        }
    }
}
