//! An OpenTelemetry collector: takes OTLP over HTTP as protobuf, by the messages that OpenTelemetry publishes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Uri},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{AnyValue, KeyValue, any_value::Value},
    metrics::v1::{Metric, metric::Data},
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};

/// A collector on a free port.
#[derive(Debug)]
pub struct Collector {
    /// Its base URL.
    pub url: String,
    received: Received,
    server: JoinHandle<()>,
}

type Received = Arc<Mutex<Vec<Posted>>>;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The path.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A span as it came.
#[derive(Debug, Clone)]
pub struct Span {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: Vec<u8>,
    /// That of the span that it is a part of; empty at the top.
    pub parent: Vec<u8>,
    /// That of the trace.
    pub trace: Vec<u8>,
    /// 3 is a client's, 1 an internal one.
    pub kind: i32,
    /// 2 is an error.
    pub status: i32,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
}

/// One point of a metric.
#[derive(Debug, Clone)]
pub struct Point {
    /// The metric's name.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// How many were measured, or the sum of a counter.
    pub count: u64,
}

impl Collector {
    /// Starts it.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let received = Received::default();
        let take = async |State(received): State<Received>, uri: Uri, headers: HeaderMap, body: Bytes| {
            let posted = Posted { path: uri.path().to_owned(), headers, body };
            received.lock().unwrap_or_else(PoisonError::into_inner).push(posted);
        };
        let router = Router::new()
            .route("/v1/traces", post(take))
            .route("/v1/metrics", post(take))
            .with_state(Arc::clone(&received));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { url, received, server })
    }

    /// All that came so far.
    pub fn received(&self) -> Vec<Posted> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn of(&self, path: &str) -> Vec<Bytes> {
        self.received().into_iter().filter(|posted| posted.path == path).map(|posted| posted.body).collect()
    }

    /// Every span so far.
    pub fn spans(&self) -> Result<Vec<Span>> {
        let mut spans = Vec::new();
        for body in self.of("/v1/traces") {
            let request = ExportTraceServiceRequest::decode(body).context("no OTLP traces")?;
            let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
            spans.extend(scopes.flat_map(|scope| scope.spans).map(|span| Span {
                name: span.name,
                id: span.span_id,
                parent: span.parent_span_id,
                trace: span.trace_id,
                kind: span.kind,
                status: span.status.map_or(0, |status| status.code),
                attributes: texts(span.attributes),
            }));
        }
        Ok(spans)
    }

    /// Every point of a metric so far.
    pub fn points(&self) -> Result<Vec<Point>> {
        let mut points = Vec::new();
        for body in self.of("/v1/metrics") {
            let request = ExportMetricsServiceRequest::decode(body).context("no OTLP metrics")?;
            let scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
            points.extend(scopes.flat_map(|scope| scope.metrics).flat_map(points_of));
        }
        Ok(points)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn points_of(metric: Metric) -> Vec<Point> {
    let Metric { name, data, .. } = metric;
    let point = |labels, count| Point { name: name.clone(), labels: texts(labels), count };
    match data {
        Some(Data::Histogram(histogram)) => {
            histogram.data_points.into_iter().map(|of| point(of.attributes, of.count)).collect()
        }
        Some(Data::Sum(sum)) => {
            use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
            let value = |of: Option<Value>| match of {
                Some(Value::AsInt(value)) => u64::try_from(value).unwrap_or(0),
                _ => 0,
            };
            sum.data_points.into_iter().map(|of| point(of.attributes, value(of.value))).collect()
        }
        _ => Vec::new(),
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}
