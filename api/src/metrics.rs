//! What is counted, in the text of Prometheus.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// What a request was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "these are the words of the label")]
pub(crate) enum RouteLabel {
    /// A read of a key.
    get,
    /// A write of a key.
    write,
    /// Anything else.
    other,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: RouteLabel,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TimeLabels {
    route: RouteLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    service: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SettledLabels {
    service: String,
    outcome: &'static str,
}

/// All metrics of the process.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    /// What nearly all answers count: 200 for a read, and for a write.
    common: [OnceLock<(Counter, Histogram)>; 2],
    seconds: Family<TimeLabels, Histogram, fn() -> Histogram>,
    settled: Family<SettledLabels, Counter>,
    batch_writes: Family<ServiceLabels, Histogram, fn() -> Histogram>,
    looks: Family<ServiceLabels, Counter>,
    indeterminate: Family<ServiceLabels, Counter>,
    refused_views: Family<ServiceLabels, Counter>,
    epoch: Family<ServiceLabels, Gauge<u64, AtomicU64>>,
    ready: Family<ServiceLabels, Gauge>,
    /// Turned away, or closed to make place.
    pub(crate) connections_refused: Counter,
    logins_refused: Counter,
    /// Requests being answered.
    pub(crate) in_flight: Gauge,
    /// Whether the ZooKeeper session is connected.
    pub(crate) zookeeper_connected: Gauge,
    /// Services that could not be taken in because their name is taken.
    pub(crate) ignored_services: Counter,
}

/// The metrics of one service.
#[derive(Debug, Clone)]
pub(crate) struct ServiceMetrics {
    /// Batches found applied after their connection was lost.
    pub(crate) settled_applied: Counter,
    /// Batches found not applied, and sent again.
    pub(crate) settled_not_applied: Counter,
    /// Batches of which nothing can be said.
    pub(crate) settled_unknown: Counter,
    /// Writes in each batch.
    pub(crate) batch_writes: Histogram,
    /// Looks at the replicas, to see whether they have what was written.
    pub(crate) looks: Counter,
    /// Writes of which the client was told that nothing can be said.
    pub(crate) indeterminate: Counter,
    /// Contents of znodes that moved nothing.
    pub(crate) refused_views: Counter,
    /// The epoch of the view.
    pub(crate) epoch: Gauge<u64, AtomicU64>,
}

/// From 50 us to 1.6 s, and everything above.
fn histogram() -> Histogram {
    let bounds = [
        0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0,
        5.0,
    ];
    Histogram::new(bounds)
}

/// How many at once: from a single one to a full batch.
fn sizes() -> Histogram {
    Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0])
}

fn count((answers, seconds): &(Counter, Histogram), time: Duration) {
    answers.inc();
    seconds.observe(time.as_secs_f64());
}

impl Metrics {
    /// Nothing counted yet.
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            common: Default::default(),
            seconds: Family::new_with_constructor(histogram),
            settled: Family::default(),
            batch_writes: Family::new_with_constructor(sizes),
            looks: Family::default(),
            indeterminate: Family::default(),
            refused_views: Family::default(),
            epoch: Family::default(),
            ready: Family::default(),
            connections_refused: Counter::default(),
            logins_refused: Counter::default(),
            in_flight: Gauge::default(),
            zookeeper_connected: Gauge::default(),
            ignored_services: Counter::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let add = &mut self.registry;
        add.register("albireo_api_requests", "HTTP requests answered", self.requests.clone());
        add.register("albireo_api_request_seconds", "Time to answer a request", self.seconds.clone());
        let help = "Connections of clients that were turned away, or closed to make place for others";
        add.register("albireo_api_connections_refused", help, self.connections_refused.clone());
        add.register(
            "albireo_api_logins_refused",
            "Requests with a wrong token or none",
            self.logins_refused.clone(),
        );
        add.register("albireo_api_in_flight", "Reads and writes being answered", self.in_flight.clone());
        let help = "Batches whose answer was lost, and what became of them";
        add.register("albireo_api_settled", help, self.settled.clone());
        add.register("albireo_api_batch_writes", "Writes that went out together", self.batch_writes.clone());
        let help = "Times that the primary was asked which replicas have what was written";
        add.register("albireo_api_looks", help, self.looks.clone());
        let help = "Writes answered 504: neither acknowledged nor definitely failed";
        add.register("albireo_api_indeterminate", help, self.indeterminate.clone());
        let help = "Contents of znodes that were refused; the last good view stayed";
        add.register("albireo_api_refused_views", help, self.refused_views.clone());
        add.register("albireo_api_epoch", "Epoch of the view; 0 by path alone", self.epoch.clone());
        let help = "Whether a write would be served at once";
        add.register("albireo_api_ready", help, self.ready.clone());
        let help = "Whether the ZooKeeper session is connected";
        add.register("albireo_api_zookeeper_connected", help, self.zookeeper_connected.clone());
        let help = "Discovered services ignored because another one has their name";
        add.register("albireo_api_ignored_services", help, self.ignored_services.clone());
        self
    }

    /// Counts one answer.
    pub(crate) fn answered(&self, route: RouteLabel, code: u16, time: Duration) {
        if code == 401 {
            self.logins_refused.inc();
        }
        let common = match (route, code) {
            (RouteLabel::get, 200) => Some(&self.common[0]),
            (RouteLabel::write, 200) => Some(&self.common[1]),
            (RouteLabel::get | RouteLabel::write | RouteLabel::other, _) => None,
        };
        let new = || {
            let counter = self.requests.get_or_create_owned(&RequestLabels { route, code });
            (counter, self.seconds.get_or_create_owned(&TimeLabels { route }))
        };
        match common {
            Some(common) => count(common.get_or_init(new), time),
            None => count(&new(), time),
        }
    }

    /// The metrics of one service.
    pub(crate) fn service(&self, name: &str) -> ServiceMetrics {
        let settled =
            |outcome| self.settled.get_or_create_owned(&SettledLabels { service: name.to_owned(), outcome });
        let labels = ServiceLabels { service: name.to_owned() };
        ServiceMetrics {
            settled_applied: settled("applied"),
            settled_not_applied: settled("not_applied"),
            settled_unknown: settled("unknown"),
            batch_writes: self.batch_writes.get_or_create_owned(&labels),
            looks: self.looks.get_or_create_owned(&labels),
            indeterminate: self.indeterminate.get_or_create_owned(&labels),
            refused_views: self.refused_views.get_or_create_owned(&labels),
            epoch: self.epoch.get_or_create_owned(&labels),
        }
    }

    /// Says whether a service would serve.
    pub(crate) fn set_ready(&self, name: &str, ready: bool) {
        self.ready.get_or_create(&ServiceLabels { service: name.to_owned() }).set(i64::from(ready));
    }

    /// Forgets a service that is gone.
    pub(crate) fn forget(&self, name: &str) {
        let labels = ServiceLabels { service: name.to_owned() };
        self.batch_writes.remove(&labels);
        self.looks.remove(&labels);
        self.indeterminate.remove(&labels);
        self.refused_views.remove(&labels);
        self.epoch.remove(&labels);
        self.ready.remove(&labels);
        for outcome in ["applied", "not_applied", "unknown"] {
            self.settled.remove(&SettledLabels { service: name.to_owned(), outcome });
        }
    }

    /// Everything, as text.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut out, &self.registry);
        exposition::text(&out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text() {
        let metrics = Metrics::new();
        metrics.answered(RouteLabel::get, 404, Duration::from_millis(3));
        let service = metrics.service("posts");
        service.settled_not_applied.inc();
        service.epoch.set(7);
        service.batch_writes.observe(3.0);
        service.indeterminate.inc();
        metrics.set_ready("posts", true);
        let text = metrics.text();
        for line in [
            "# TYPE albireo_api_requests_total counter",
            "albireo_api_requests_total{route=\"get\",code=\"404\"} 1",
            "albireo_api_request_seconds_bucket{le=\"0.005\",route=\"get\"} 1",
            "albireo_api_settled_total{service=\"posts\",outcome=\"not_applied\"} 1",
            "albireo_api_epoch{service=\"posts\"} 7",
            "albireo_api_batch_writes_bucket{le=\"4.0\",service=\"posts\"} 1",
            "albireo_api_indeterminate_total{service=\"posts\"} 1",
            "albireo_api_looks_total{service=\"posts\"} 0",
            "albireo_api_ready{service=\"posts\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        metrics.forget("posts");
        assert!(!metrics.text().contains("posts"));
    }
}
