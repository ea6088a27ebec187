//! Who watches: spans go to an OpenTelemetry collector, metrics to the same and to whoever reads them here.
//!
//! What is told stands in [`keyward_telemetry`]; here is only where it goes. Most commands end within a second, which is
//! too short for anybody to come and read metrics, so they are sent to the collector as well, as what was added since
//! the last time (delta temporality): the collector sums up over processes.
//!
//! Nothing is told to the servers that requests go to: no `traceparent` is sent.

mod measure;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use bytes::Bytes;
use http::{Request, Response};
use keyward_egress::Collector;
use keyward_telemetry::TARGET;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    metrics::{MeterProviderBuilder, PeriodicReader, SdkMeterProvider, Temporality},
    trace::SdkTracerProvider,
};
use tokio::runtime::Handle;
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use self::measure::Measure;
use crate::config::TelemetryTable;

/// How long the end of a command waits for the collector.
const AT_END: Duration = Duration::from_secs(1);
/// How long the collector has for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is told of, for as long as the command runs.
#[derive(Default)]
pub(crate) struct Telemetry {
    tracer: Option<SdkTracerProvider>,
    meter: Option<SdkMeterProvider>,
    collector: Option<String>,
    /// What of it does not work, for the log.
    pub(crate) faults: Vec<String>,
}

impl Telemetry {
    /// Sets up what the configuration asks for. What cannot be set up is left out, and no command fails for it: a
    /// second process, say, finds the address of the metrics in use.
    pub(crate) fn start(wanted: &TelemetryTable, runtime: &Handle) -> Self {
        let mut telemetry = Self::default();
        let mut meter = None;
        if let Some(url) = &wanted.otlp {
            let sender = Sender { collector: Arc::new(Collector::new(TIMEOUT)), runtime: runtime.clone() };
            let spans = SpanExporter::builder().with_http().with_http_client(sender.clone());
            let metrics = MetricExporter::builder().with_http().with_http_client(sender);
            let spans = spans.with_endpoint(url.signal("v1/traces")).with_timeout(TIMEOUT).build();
            let metrics = metrics.with_endpoint(url.signal("v1/metrics")).with_timeout(TIMEOUT);
            match (spans, metrics.with_temporality(Temporality::Delta).build()) {
                (Ok(spans), Ok(metrics)) => {
                    let tracer = SdkTracerProvider::builder().with_resource(resource());
                    telemetry.tracer = Some(tracer.with_batch_exporter(spans).build());
                    meter = Some(meters().with_reader(PeriodicReader::builder(metrics).build()));
                    telemetry.collector = Some(url.to_string());
                }
                (Err(error), _) | (_, Err(error)) => {
                    telemetry.faults.push(format!("nothing is sent to the collector {url}: {error}"));
                }
            }
        }
        if let Some(address) = wanted.prometheus {
            let registry = prometheus::Registry::new();
            let reader = opentelemetry_prometheus::exporter().with_registry(registry.clone()).scope_info_enabled(false);
            match reader.build().map_err(|error| error.to_string()).and_then(|reader| {
                serve(address, registry, runtime).map_err(|error| error.to_string()).map(|()| reader)
            }) {
                Ok(reader) => meter = Some(meter.unwrap_or_else(meters).with_reader(reader)),
                Err(error) => telemetry.faults.push(format!("metrics cannot be read at {address}: {error}")),
            }
        }
        telemetry.meter = meter.map(MeterProviderBuilder::build);
        telemetry
    }

    /// What listens to the spans; none where nobody watches.
    pub(crate) fn layers<S>(&self) -> Option<Vec<Box<dyn Layer<S> + Send + Sync>>>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let ours = |level: LevelFilter| Targets::new().with_target(TARGET, level);
        let mut layers: Vec<Box<dyn Layer<S> + Send + Sync>> = Vec::new();
        if let Some(tracer) = &self.tracer {
            let spans = tracing_opentelemetry::layer()
                .with_tracer(tracer.tracer("keyward"))
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_level(false)
                .with_target(false);
            layers.push(spans.with_filter(ours(LevelFilter::INFO)).boxed());
        }
        if let Some(meter) = &self.meter {
            layers.push(Measure::new(meter).with_filter(ours(LevelFilter::DEBUG)).boxed());
        }
        (!layers.is_empty()).then_some(layers)
    }

    /// Sends what is left. A collector that does not answer costs a second and one warning.
    pub(crate) fn flush(self) {
        let Self { tracer, meter, collector: Some(collector), .. } = self else { return };
        let (done, told) = mpsc::channel();
        thread::spawn(move || {
            let spans = tracer.map_or(Ok(()), |tracer| tracer.shutdown_with_timeout(AT_END));
            let metrics = meter.map_or(Ok(()), |meter| meter.shutdown());
            // Nobody listens any more where it took too long.
            let _ = done.send(spans.and(metrics));
        });
        match told.recv_timeout(AT_END) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%collector, %error, "the collector did not take all telemetry"),
            Err(_) => tracing::warn!(%collector, "the collector did not take all telemetry within a second"),
        }
    }
}

/// Who tells it.
fn resource() -> Resource {
    Resource::builder_empty()
        .with_service_name("keyward")
        .with_attributes([
            opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            opentelemetry::KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
        ])
        .build()
}

fn meters() -> MeterProviderBuilder {
    SdkMeterProvider::builder().with_resource(resource())
}

/// Lets metrics be read at `address` for as long as the process lives.
fn serve(address: SocketAddr, registry: prometheus::Registry, runtime: &Handle) -> io::Result<()> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let _entered = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let text = move || {
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather());
        async move { ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text.unwrap_or_default()).into_response() }
    };
    let router = Router::new().route("/metrics", get(text));
    runtime.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::warn!(%error, "metrics can no longer be read");
        }
    });
    Ok(())
}

/// Takes what the exporters' own threads send to the threads where input and output are done.
#[derive(Debug, Clone)]
struct Sender {
    collector: Arc<Collector>,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let collector = self.collector.clone();
        Ok(self.runtime.spawn(async move { collector.post(request).await }).await??)
    }
}
