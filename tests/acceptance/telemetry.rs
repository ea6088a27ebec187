//! What those who watch are told: what was done and how it ended, and nothing that a connector, a caller or a server
//! wrote.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use keyward_harness::{
    Collector, EchoServer, Keyward,
    collector::{Posted, Span},
    keyward::{CANARY, hostile},
};
use prometheus_parse::{Scrape, Value};
use serde_json::json;

use crate::spine::contains;

/// What a span may tell.
const ATTRIBUTES: &[&str] = &[
    "error.type",
    "http.request.body.size",
    "http.request.method",
    "http.request.resend_count",
    "http.response.body.size",
    "http.response.status_code",
    "keyward.action",
    "keyward.attempt",
    "keyward.call",
    "keyward.connector",
    "keyward.connector.version",
    "keyward.flow",
    "keyward.outcome",
    "keyward.provider",
    "keyward.redactions",
    "keyward.run",
    "keyward.step",
    "server.address",
    "server.port",
    "url.template",
];

/// Adds to the configuration who watches.
fn watch(keyward: &Keyward, lines: &str) -> Result<()> {
    let config = keyward.data_dir().join("config.toml");
    let mut config = std::fs::OpenOptions::new().append(true).open(config)?;
    Ok(write!(config, "\n[telemetry]\n{lines}\n")?)
}

fn parent<'a>(spans: &'a [Span], of: &Span) -> Option<&'a Span> {
    spans.iter().find(|span| span.id == of.parent && span.trace == of.trace)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_tells_what_was_done_and_nothing_that_anybody_wrote() -> Result<()> {
    let (echo, collector) = (EchoServer::start().await?, Collector::start().await?);
    let mut keyward = hostile(&echo.url)?;
    watch(&keyward, &format!("otlp = {:?}", collector.url))?;
    // The environment does not say where it goes.
    for name in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "HTTP_PROXY", "http_proxy"] {
        keyward.set(name, "http://127.0.0.1:9");
    }
    keyward.set("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=watchers");
    let flow = keyward.folder().join("watched.yaml");
    std::fs::write(&flow, FLOW)?;
    keyward.run(["run", &flow.display().to_string()])?.success();
    // What a connector asks for and is denied, and what it says.
    for input in [
        json!({"path": "/canary-path/x"}),
        json!({"method": "CANARY-METHOD", "path": "/echo/hex"}),
        json!({"url": "http://canary-host.example/echo/hex"}),
        json!({"path": "/echo/hex", "query": [["canary-name", "canary-query"]]}),
        json!({"path": "/echo/verbatim", "query": [["q", "canary-query"]], "panic": true}),
    ] {
        keyward.run(["call", "hostile.any-request", "--input", &input.to_string()])?;
    }

    let spans = collector.spans()?;
    let one = |name: &str| spans.iter().find(|span| span.name == name).with_context(|| format!("no {name}: {spans:?}"));
    let request = one("POST /echo/**")?;
    let call = parent(&spans, request).context("a request without a call")?;
    let step = parent(&spans, call).context("a call without a step")?;
    let run = parent(&spans, step).context("a step without a run")?;
    assert_eq!([&*call.name, &step.name, &run.name], ["call", "step", "run"]);
    assert!(run.parent.is_empty());
    let told = |span: &Span, name: &str| span.attributes.get(name).cloned().unwrap_or_default();
    let port = echo.authority().split_once(':').unwrap().1.to_owned();
    for (name, value) in [
        ("http.request.method", "POST"),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
        ("url.template", "/echo/**"),
        ("http.response.status_code", "200"),
        ("http.request.body.size", "11"),
        ("keyward.connector", "hostile"),
        ("keyward.action", "any-request"),
        ("keyward.redactions", "1"),
        ("error.type", ""),
    ] {
        assert_eq!(told(request, name), value, "{name} of {request:?}");
    }
    assert!(told(request, "http.response.body.size").parse::<u64>()? > 100);
    assert_eq!((request.kind, told(call, "keyward.outcome").as_str()), (3, "ok"));
    assert_eq!((told(step, "keyward.attempt"), told(run, "keyward.flow")), ("1".into(), "tests/watched:0.1.0".into()));

    let denied: Vec<&Span> = spans.iter().filter(|span| !told(span, "error.type").is_empty()).collect();
    let reasons: BTreeSet<String> = denied.iter().map(|span| told(span, "error.type")).collect();
    let expected = ["host-not-allowed", "path-not-allowed", "query-not-allowed"];
    assert_eq!(reasons, expected.map(str::to_owned).into());
    for span in denied {
        assert_eq!((span.status, told(span, "server.address"), told(span, "url.template")), (2, "".into(), "".into()));
    }
    assert!(spans.iter().any(|span| span.name == "_OTHER"));
    assert!(spans.iter().any(|span| told(span, "keyward.outcome") == "guest-trap"));

    for span in &spans {
        let others: Vec<_> = span.attributes.keys().filter(|name| !ATTRIBUTES.contains(&name.as_str())).collect();
        assert!(others.is_empty(), "{}: {others:?}", span.name);
    }
    for Posted { path, headers, body } in collector.received() {
        assert_eq!(headers["x-tenant"], "watchers");
        for word in [CANARY, "canary-query", "canary-name", "canary-body", "canary-path", "canary-host", "CANARY"] {
            assert!(!contains(&body, word.as_bytes()), "{word} was sent to {path}");
        }
    }
    for request in echo.received() {
        for (name, _) in &request.headers {
            assert!(!["traceparent", "tracestate", "baggage"].contains(&name.as_str()), "{name} was sent to the API");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_of_short_commands_reach_the_collector_and_a_connector_makes_no_label() -> Result<()> {
    let (echo, collector) = (EchoServer::start().await?, Collector::start().await?);
    let keyward = hostile(&echo.url)?;
    watch(&keyward, &format!("otlp = {:?}", collector.url))?;
    for number in 0..4 {
        let input = json!({"method": format!("M{number}"), "url": format!("http://h{number}.example/echo/hex")});
        keyward.run(["call", "hostile.any-request", "--input", &input.to_string()])?.success();
    }
    let input = json!({"path": "/echo/verbatim"}).to_string();
    keyward.run(["call", "hostile.any-request", "--input", &input])?.success();

    let points = collector.points()?;
    let requests: Vec<_> = points.iter().filter(|point| point.name == "http.client.request.duration").collect();
    let distinct: BTreeSet<&BTreeMap<String, String>> = requests.iter().map(|point| &point.labels).collect();
    assert_eq!((requests.iter().map(|point| point.count).sum::<u64>(), distinct.len()), (5, 2), "{requests:?}");
    for (name, count) in [("keyward.call.duration", 5), ("keyward.redactions", 1)] {
        let all = points.iter().filter(|point| point.name == name).map(|point| point.count);
        assert_eq!(all.sum::<u64>(), count, "{name}");
    }
    assert!(points.iter().any(|point| point.name == "keyward.commit.duration"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_gone_or_silent_costs_a_second_and_one_warning() -> Result<()> {
    let echo = EchoServer::start().await?;
    let (gone, silent) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    let addresses = [gone.local_addr()?, silent.local_addr()?];
    drop(gone);
    let input = json!({"path": "/echo/verbatim"}).to_string();
    let call = ["call", "hostile.any-request", "--input", &input];
    for address in addresses {
        let keyward = hostile(&echo.url)?;
        keyward.run(call)?.success();
        let start = Instant::now();
        keyward.run(call)?.success();
        let alone = start.elapsed();
        watch(&keyward, &format!("otlp = \"http://{address}\""))?;
        let start = Instant::now();
        let outcome = keyward.run(call)?.success();
        assert!(start.elapsed() < alone + Duration::from_millis(2500), "{:?}", start.elapsed());
        let warnings: Vec<_> = outcome.stderr.lines().filter(|line| line.contains("WARN")).collect();
        assert!(warnings.len() == 1 && warnings[0].contains("the collector did not take"), "{}", outcome.stderr);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_can_be_read_while_a_command_runs_and_a_second_one_goes_on_without() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    watch(&keyward, &format!("prometheus = \"{address}\""))?;
    let flow = keyward.folder().join("slow.yaml");
    std::fs::write(&flow, SLOW)?;
    let running = keyward.spawn(["run", &flow.display().to_string()])?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let until = Instant::now() + Duration::from_secs(30);
    let text = loop {
        assert!(Instant::now() < until, "no request was measured");
        if let Ok(answer) = client.get(format!("http://{address}/metrics")).send().await {
            let text = answer.text().await?;
            if text.contains("http_client_request_duration_seconds_count") {
                break text;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let second = keyward.run(["call", "hostile.no-request", "--input", "{}"])?.success();
    assert!(second.stderr.contains("metrics cannot be read at"), "{}", second.stderr);

    assert!(!text.contains(CANARY) && !text.contains("canary"), "{text}");
    let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned())))?;
    let sample = scrape.samples.iter().find(|sample| sample.metric == "http_client_request_duration_seconds");
    let sample = sample.context("no such metric")?;
    let label = |name: &str| sample.labels.get(name).unwrap_or_default().to_owned();
    assert_eq!(
        ["http_request_method", "server_address", "keyward_connector", "keyward_status_class", "error_type"].map(label),
        ["GET", "127.0.0.1", "hostile", "2xx", ""]
    );
    assert!(matches!(&sample.value, Value::Histogram(buckets) if buckets.last().unwrap().count >= 1.0), "{text}");
    assert!(scrape.samples.iter().any(|sample| sample.metric == "keyward_commit_duration_seconds"), "{text}");
    running.wait()?.success();
    Ok(())
}

const FLOW: &str = "
document: {dsl: '1.0.3', namespace: tests, name: watched, version: '0.1.0'}
do:
  - ask:
      call: hostile.any-request
      with: {method: POST, path: /echo/verbatim, body: canary-body}
  - again:
      call: hostile.any-request
      with: {path: /echo/verbatim, query: [[q, canary-query]]}
";

const SLOW: &str = "
document: {dsl: '1.0.3', namespace: tests, name: slow, version: '0.1.0'}
do:
  - ask:
      call: hostile.any-request
      with: {path: /echo/verbatim, query: [[q, canary-query]]}
  - all:
      for: {each: number, in: '[1, 2, 3, 4, 5]'}
      do:
        - wait:
            call: hostile.wait
            with: {ms: 500}
";
