//! Metrics, made of spans when they close. A label is a name that was installed or configured, or a code: a connector
//! cannot make a new one.

use std::{fmt, time::Instant};

use keyward_telemetry::{
    ACTION, CONNECTOR, ERROR, HOST, METHOD, OUTCOME, PROVIDER, REDACTIONS, REQUEST_BYTES, RESPONSE_BYTES, STATUS,
};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, MeterProvider},
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

/// The class of the status, as `2xx`: a server may answer with any.
const CLASS: &str = "keyward.status_class";

/// Bounds of durations, seconds: those of the semantic conventions, and finer ones below.
const SECONDS: [f64; 18] =
    [0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// Bounds of sizes, bytes.
const BYTES: [f64; 7] = [0.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e9];

/// Counts and measures spans.
pub(super) struct Measure {
    requests: Histogram<f64>,
    sent: Histogram<u64>,
    received: Histogram<u64>,
    redactions: Counter<u64>,
    calls: Histogram<f64>,
    runs: Histogram<f64>,
    refreshes: Histogram<f64>,
    commits: Histogram<f64>,
}

impl Measure {
    pub(super) fn new(provider: &SdkMeterProvider) -> Self {
        let meter = provider.meter("keyward");
        Self {
            requests: seconds(&meter, "http.client.request.duration", "Requests of connectors, denied ones included"),
            sent: bytes(&meter, "http.client.request.body.size", "Bodies of connectors' requests"),
            received: bytes(&meter, "http.client.response.body.size", "Bodies of answers, decoded"),
            redactions: meter
                .u64_counter("keyward.redactions")
                .with_description("Secrets that were taken out of answers")
                .build(),
            calls: seconds(&meter, "keyward.call.duration", "Calls of actions"),
            runs: seconds(&meter, "keyward.run.duration", "Work on runs of flows"),
            refreshes: seconds(&meter, "keyward.refresh.duration", "Exchanges of refresh tokens"),
            commits: seconds(&meter, "keyward.commit.duration", "Transactions of the store"),
        }
    }

    fn record(&self, name: &str, seen: &Seen) {
        let lasted = seen.since.elapsed().as_secs_f64();
        match name {
            "request" => {
                let place = [seen.label(CONNECTOR), seen.label(HOST), seen.label(METHOD)];
                if let Some(size) = seen.number(REQUEST_BYTES) {
                    self.sent.record(size, &place);
                }
                if let Some(size) = seen.number(RESPONSE_BYTES) {
                    self.received.record(size, &place);
                }
                if let Some(count) = seen.number(REDACTIONS) {
                    self.redactions.add(count, &[seen.label(CONNECTOR), seen.label(HOST)]);
                }
                let class = seen.number(STATUS).map_or(String::new(), |status| format!("{}xx", status / 100 % 10));
                // A status that is the failure stands in its class already.
                let reason =
                    if class.is_empty() || !seen.has_status_as_error() { seen.label(ERROR) } else { none(ERROR) };
                let [connector, host, method] = place;
                self.requests.record(lasted, &[connector, host, method, KeyValue::new(CLASS, class), reason]);
            }
            "call" => {
                self.calls.record(lasted, &[seen.label(CONNECTOR), seen.label(ACTION), seen.outcome()]);
            }
            "run" => self.runs.record(lasted, &[seen.outcome()]),
            "refresh" => self.refreshes.record(lasted, &[seen.label(PROVIDER), seen.outcome()]),
            "commit" => self.commits.record(lasted, &[seen.outcome()]),
            _ => {}
        }
    }
}

fn seconds(meter: &Meter, name: &'static str, of: &'static str) -> Histogram<f64> {
    meter.f64_histogram(name).with_unit("s").with_description(of).with_boundaries(SECONDS.into()).build()
}

fn bytes(meter: &Meter, name: &'static str, of: &'static str) -> Histogram<u64> {
    meter.u64_histogram(name).with_unit("By").with_description(of).with_boundaries(BYTES.into()).build()
}

fn none(name: &'static str) -> KeyValue {
    KeyValue::new(name, "")
}

/// What a span has told so far, of what metrics are made of.
struct Seen {
    since: Instant,
    texts: Vec<(&'static str, String)>,
    numbers: Vec<(&'static str, u64)>,
}

impl Seen {
    /// A label, empty where nothing was told: all points of one metric have the same ones.
    fn label(&self, name: &'static str) -> KeyValue {
        let told = self.texts.iter().rfind(|(known, _)| *known == name);
        KeyValue::new(name, told.map_or(String::new(), |(_, text)| text.clone()))
    }

    /// The outcome; what was dropped before it had one was cancelled.
    fn outcome(&self) -> KeyValue {
        if self.texts.iter().any(|(known, _)| *known == OUTCOME) {
            self.label(OUTCOME)
        } else {
            KeyValue::new(OUTCOME, "cancelled")
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.numbers.iter().rfind(|(known, _)| *known == name).map(|(_, number)| *number)
    }

    /// Whether the failure is the status itself.
    fn has_status_as_error(&self) -> bool {
        let error = self.texts.iter().rfind(|(known, _)| *known == ERROR);
        error.is_some_and(|(_, error)| error.parse::<u16>().is_ok())
    }
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        if [ACTION, CONNECTOR, ERROR, HOST, METHOD, OUTCOME, PROVIDER].contains(&field.name()) {
            self.texts.push((field.name(), value.to_owned()));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.numbers.push((field.name(), value));
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Measure {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let mut seen = Seen { since: Instant::now(), texts: Vec::new(), numbers: Vec::new() };
        attributes.record(&mut seen);
        span.extensions_mut().insert(seen);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id)
            && let Some(seen) = span.extensions_mut().get_mut::<Seen>()
        {
            values.record(seen);
        }
    }

    fn on_close(&self, id: span::Id, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(&id)
            && let Some(seen) = span.extensions().get::<Seen>()
        {
            self.record(span.name(), seen);
        }
    }
}
