#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use keyward::{SendError, SendErrorKind, Sent, testing::FakeHost};

use super::*;

/// An issue as GitHub sends it, in the fields that matter and some that do not.
fn issue(number: u64) -> Value {
    json!({
        "id": 1000 + number, "number": number, "title": format!("Issue {number}"), "body": null, "state": "open",
        "state_reason": null, "locked": false, "comments": 2,
        "labels": [{"id": 1, "name": "bug", "color": "ededed", "default": false}, "old"],
        "user": {"login": "ada", "id": 3, "type": "User"},
        "assignee": {"login": "bob"}, "assignees": [{"login": "bob", "id": 4}],
        "html_url": format!("https://github.test/ada/engine/issues/{number}"),
        "url": format!("https://api.github.com/repos/ada/engine/issues/{number}"),
        "created_at": "2026-11-22T14:11:04Z", "updated_at": "2026-11-22T14:12:04Z", "closed_at": null,
    })
}

fn numbers(output: &Value) -> Vec<u64> {
    output["issues"].as_array().unwrap().iter().map(|issue| issue["number"].as_u64().unwrap()).collect()
}

fn failure(outcome: Result<Value>) -> Failure {
    match outcome {
        Err(Error::Failed(failure)) => failure,
        other => panic!("no failure: {other:?}"),
    }
}

#[test]
fn issue_is_told_in_the_connectors_own_words() {
    let host = FakeHost::new();
    host.on("GET", "/repos/ada/engine/issues/7").respond(200, issue(7));
    let output = host.call::<get_issue>(json!({"owner": "ada", "repository": "engine", "number": 7})).unwrap();
    assert_eq!(
        output,
        json!({
            "number": 7, "title": "Issue 7", "body": "", "state": "open", "state_reason": null,
            "labels": ["bug", "old"], "assignees": ["bob"], "author": "ada", "comments": 2,
            "url": "https://github.test/ada/engine/issues/7",
            "created_at": "2026-11-22T14:11:04Z", "updated_at": "2026-11-22T14:12:04Z", "closed_at": null,
        })
    );
}

#[test]
fn issue_of_a_deleted_account_has_no_author() {
    let host = FakeHost::new();
    let mut raw = issue(7);
    raw["user"] = Value::Null;
    host.on("GET", "/repos/ada/engine/issues/7").respond(200, raw);
    let output = host.call::<get_issue>(json!({"owner": "ada", "repository": "engine", "number": 7})).unwrap();
    assert_eq!(output["author"], Value::Null);
}

const SECOND: &str = "https://api.github.com/repositories/42/issues?state=all&per_page=2&after=Y3Vyc29y&page=2";

#[test]
fn list_follows_links_and_leaves_pull_requests_out() {
    let host = FakeHost::new();
    let link = format!(r#"<{SECOND}>; rel="next""#);
    host.on("GET", "/repos/ada/engine/issues")
        .query("state", "all")
        .query("labels", "bug,ui")
        .query("per_page", "2")
        .respond_with(200, &[("link", &link)], json!([issue(3), pull_request(2)]));
    host.on("GET", SECOND).respond(200, json!([issue(1)]));
    let input = json!({"owner": "ada", "repository": "engine", "state": "all", "labels": ["bug", "ui"], "per_page": 2});
    let output = host.call::<list_issues>(input).unwrap();
    assert_eq!((numbers(&output), &output["more"]), (vec![3, 1], &json!(false)));
}

fn pull_request(number: u64) -> Value {
    let mut raw = issue(number);
    raw["pull_request"] = json!({"url": format!("https://api.github.com/repos/ada/engine/pulls/{number}")});
    raw
}

#[test]
fn issue_behind_a_page_of_pull_requests_takes_two_requests() {
    let host = FakeHost::new();
    let link = format!(r#"<{SECOND}>; rel="next""#);
    let pull_requests: Vec<_> = (2..102).map(pull_request).collect();
    host.on("GET", "/repos/ada/engine/issues").query("per_page", "100").respond_with(
        200,
        &[("link", &link)],
        json!(pull_requests),
    );
    host.on("GET", SECOND).respond(200, json!([issue(1)]));
    let output = host.call::<list_issues>(json!({"owner": "ada", "repository": "engine", "limit": 1})).unwrap();
    assert_eq!((numbers(&output), &output["more"]), (vec![1], &json!(false)));
    assert_eq!(host.requests().len(), 2);
}

#[test]
fn list_that_the_call_cannot_finish_is_told_as_far_as_it_came() {
    let link = format!(r#"<{SECOND}>; rel="next""#);
    let limit = || {
        SendError::new(SendErrorKind::RateLimited { retry_after: None }, "request-limit", "the call may not make more")
    };
    let large = || SendError::new(SendErrorKind::TooLarge { limit: 5 }, "too-large", "too large").sent(Sent::Yes);
    let timeout = || SendError::new(SendErrorKind::Timeout, "timeout", "no answer");
    let input = || json!({"owner": "ada", "repository": "engine"});
    for (first, error, found) in [
        (issue(2), limit(), Some(vec![2])),
        (issue(2), large(), Some(vec![2])),
        (issue(2), timeout(), None),
        (pull_request(2), limit(), None),
    ] {
        let host = FakeHost::new();
        host.on("GET", "/repos/ada/engine/issues").respond_with(200, &[("link", &link)], json!([first]));
        host.on("GET", SECOND).fail(error.clone());
        match (host.call::<list_issues>(input()), found) {
            (Ok(output), Some(found)) => assert_eq!((numbers(&output), &output["more"]), (found, &json!(true))),
            (outcome, _) => assert_eq!(outcome, Err(Error::Http(error))),
        }
    }
}

#[test]
fn list_ends_at_the_limit_and_tells_that_there_is_more() {
    let link = format!(r#"<{SECOND}>; rel="next""#);
    for (limit, headers, more) in [(1, vec![], true), (2, vec![], false), (2, vec![("link", link.as_str())], true)] {
        let host = FakeHost::new();
        host.on("GET", "/repos/ada/engine/issues").respond_with(200, &headers, json!([issue(2), issue(1)]));
        let output = host.call::<list_issues>(json!({"owner": "ada", "repository": "engine", "limit": limit})).unwrap();
        assert_eq!((numbers(&output).len(), &output["more"]), (limit, &json!(more)), "{limit} {headers:?}");
    }
}

#[test]
fn list_holds_no_more_than_an_output_may() {
    let host = FakeHost::new();
    for page in 0..7 {
        let mut issues: Vec<Value> = (0..100).map(|number| issue(page * 100 + number)).collect();
        for issue in &mut issues {
            issue["body"] = json!("x".repeat(6000));
        }
        let url = |page: u64| match page {
            0 => "/repos/ada/engine/issues".to_owned(),
            _ => format!("https://api.github.com/repositories/42/issues?page={page}"),
        };
        let link = format!(r#"<{}>; rel="next""#, url(page + 1));
        let answer = host.on("GET", &url(page));
        let answer = if page == 0 { answer.query("per_page", "100") } else { answer };
        answer.respond_with(200, &[("link", &link)], json!(issues));
    }
    let output = host.call::<list_issues>(json!({"owner": "ada", "repository": "engine", "limit": 1000})).unwrap();
    let found = numbers(&output).len();
    assert!((600..650).contains(&found), "{found}");
    assert_eq!(output["more"], json!(true));
    assert!(output.to_string().len() <= 4 << 20);
}

#[test]
fn list_asks_for_open_issues_and_full_pages_by_default() {
    let host = FakeHost::new();
    host.on("GET", "/repos/ada/engine/issues").respond(200, json!([]));
    host.call::<list_issues>(json!({"owner": "ada", "repository": "engine"})).unwrap();
    let query = host.requests()[0].head.query.clone();
    assert_eq!(query, [("state".to_owned(), "open".to_owned()), ("per_page".to_owned(), "100".to_owned())]);
}

#[test]
fn created_issue_is_sent_whole() {
    let host = FakeHost::new();
    host.on("POST", "/repos/ada/engine/issues").respond(201, issue(8));
    let input = json!({"owner": "ada", "repository": "engine", "title": "T", "body": "B", "labels": ["bug"]});
    let output = host.call::<create_issue>(input).unwrap();
    assert_eq!(output["number"], json!(8));
    let sent = host.requests()[0].json();
    assert_eq!(sent, json!({"title": "T", "body": "B", "labels": ["bug"], "assignees": []}));
}

#[test]
fn comment_is_sent_and_told() {
    let host = FakeHost::new();
    host.on("POST", "/repos/ada/engine/issues/7/comments").respond(
        201,
        json!({
            "id": 99, "body": "hi", "user": {"login": "ada"}, "created_at": "2026-11-22T14:11:04Z",
            "html_url": "https://github.test/ada/engine/issues/7#issuecomment-99",
        }),
    );
    let input = json!({"owner": "ada", "repository": "engine", "number": 7, "body": "hi"});
    let output = host.call::<comment_issue>(input).unwrap();
    assert_eq!(output["id"], json!(99));
    assert_eq!(output["author"], json!("ada"));
    assert_eq!(host.requests()[0].json(), json!({"body": "hi"}));
}

#[test]
fn closing_tells_the_reason() {
    for (reason, sent) in [(None, "completed"), (Some("not-planned"), "not_planned")] {
        let host = FakeHost::new();
        host.on("PATCH", "/repos/ada/engine/issues/7").respond(200, issue(7));
        let mut input = json!({"owner": "ada", "repository": "engine", "number": 7});
        if let Some(reason) = reason {
            input["reason"] = json!(reason);
        }
        host.call::<close_issue>(input).unwrap();
        assert_eq!(host.requests()[0].json(), json!({"state": "closed", "state_reason": sent}));
    }
}

#[test]
fn names_cannot_leave_their_place_in_the_path() {
    let host = FakeHost::new();
    for owner in ["..", ".", ""] {
        let outcome = host.call::<get_issue>(json!({"owner": owner, "repository": "engine", "number": 7}));
        assert!(matches!(outcome, Err(Error::InvalidInput(_))), "{owner:?}: {outcome:?}");
    }
    host.on("GET", "/repos/ada%2F..%2Fbob/x%3Fy/issues/7").respond(404, ());
    let input = json!({"owner": "ada/../bob", "repository": "x?y", "number": 7});
    failure(host.call::<get_issue>(input));
}

#[test]
fn errors_have_codes_to_branch_on() {
    for (status, headers, body, code, message, delay) in [
        (401, vec![], json!({"message": "Bad credentials"}), "unauthorized", "Bad credentials", None),
        (403, vec![], json!({"message": "Resource not accessible"}), "forbidden", "Resource not accessible", None),
        (
            403,
            vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1030")],
            json!({"message": "API rate limit exceeded"}),
            "rate-limited",
            "API rate limit exceeded",
            Some(31),
        ),
        (
            403,
            vec![("retry-after", "5"), ("x-ratelimit-remaining", "10")],
            json!({"message": "You have exceeded a secondary rate limit"}),
            "rate-limited",
            "secondary rate limit",
            Some(5),
        ),
        (
            403,
            vec![],
            json!({"message": "You have exceeded a secondary rate limit"}),
            "rate-limited",
            "secondary rate limit",
            Some(60),
        ),
        (429, vec![("retry-after", "7")], json!({}), "rate-limited", "429", Some(7)),
        (429, vec![], json!({}), "rate-limited", "429", Some(60)),
        (429, vec![("x-ratelimit-remaining", "0")], json!({}), "rate-limited", "429", Some(60)),
        (404, vec![], json!({"message": "Not Found"}), "not-found", "may not see it", None),
        (410, vec![], json!({"message": "Issues are disabled"}), "gone", "Issues are disabled", None),
        (
            422,
            vec![],
            json!({
                "message": "Validation Failed",
                "errors": [
                    {"resource": "Issue", "field": "title", "code": "missing_field"},
                    {"message": "body is too long"},
                    {"resource": "Issue", "code": "custom"},
                    "assignees are not valid",
                ],
            }),
            "unprocessable",
            "Validation Failed; title: missing_field; body is too long; custom; assignees are not valid",
            None,
        ),
    ] {
        let host = FakeHost::new();
        host.set_wall_clock(Duration::from_secs(1000));
        host.on("GET", "/repos/ada/engine/issues/7").respond_with(status, &headers, body);
        let failure = failure(host.call::<get_issue>(json!({"owner": "ada", "repository": "engine", "number": 7})));
        assert_eq!(failure.code, code, "{failure:?}");
        assert!(failure.message.contains(message), "{failure:?}");
        assert_eq!(failure.status, Some(status));
        assert_eq!((failure.retryable, failure.retry_after), (delay.is_some(), delay.map(Duration::from_secs)));
    }
    let host = FakeHost::new();
    host.on("GET", "/repos/ada/engine/issues").respond(503, ());
    assert!(failure(host.call::<list_issues>(json!({"owner": "ada", "repository": "engine"}))).retryable);
}

#[test]
fn answer_that_is_no_issue_is_unexpected() {
    let host = FakeHost::new();
    host.on("GET", "/repos/ada/engine/issues/7").respond(200, json!({"number": "seven"}));
    let outcome = host.call::<get_issue>(json!({"owner": "ada", "repository": "engine", "number": 7}));
    assert_eq!(failure(outcome).code, "unexpected-response");
}
