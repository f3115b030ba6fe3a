//! Counts for Prometheus.

use std::sync::{Arc, atomic::AtomicI64};

use axum::{Router, http::header, routing::get};
use cbbootstrap_function::{log::RequestRecord, problem::Problem};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// The histogram's buckets in seconds, from a read in memory to the deadline of a request.
const BUCKETS: [f64; 10] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0, 5.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
    status: u16,
}

/// Counters of requests and connections; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<Labels, Counter>,
    seconds: Histogram,
    pub connections: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("cbbootstrap");
        let (requests, connections) = (Family::default(), Gauge::default());
        let seconds = Histogram::new(BUCKETS);
        registry.register("requests", "Requests that were answered", requests.clone());
        registry.register("request_duration_seconds", "How long the answers took", seconds.clone());
        registry.register("connections", "Connections that are open", connections.clone());
        Self { registry: Arc::new(registry), requests, seconds, connections }
    }
}

impl Metrics {
    pub fn count(&self, record: &RequestRecord<'_>) {
        let (outcome, status) = (record.outcome, record.status);
        self.requests.get_or_create(&Labels { outcome, status }).inc();
        self.seconds.observe(record.milliseconds / 1e3);
    }

    /// `GET /metrics`.
    pub fn route(&self) -> Router {
        const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let registry = Arc::clone(&self.registry);
        let show = async move || {
            let mut text = String::new();
            // Writing to a string does not fail.
            let _ = encode(&mut text, &registry);
            ([(header::CONTENT_TYPE, TYPE)], text)
        };
        Router::new().route("/metrics", get(show).fallback(async || Problem::MethodNotAllowed))
    }
}
