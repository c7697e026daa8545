//! What the monitor counts, in Prometheus' words (docs: README, "Metrics").

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use failover::Timeline;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// About one service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfService {
    pub(crate) service: String,
}

/// About one server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfBackend {
    pub(crate) service: String,
    pub(crate) backend: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    service: String,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPhase {
    service: String,
    phase: String,
}

type Seconds = Family<OfPhase, Histogram, fn() -> Histogram>;

/// All metrics of one monitor.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) active: Gauge,
    pub(crate) zookeeper_connected: Gauge,
    pub(crate) peer_up: Gauge,
    pub(crate) backend_up: Family<OfBackend, Gauge>,
    pub(crate) lag: Family<OfBackend, Gauge>,
    pub(crate) epoch: Family<OfService, Gauge>,
    pub(crate) in_sync: Family<OfService, Gauge>,
    pub(crate) damaged: Family<OfService, Counter>,
    pub(crate) ignored_services: Counter,
    pub(crate) bad_heartbeats: Gauge<u64, AtomicU64>,
    pub(crate) probe_seconds: Histogram,
    failovers: Family<OfReason, Counter>,
    failover_seconds: Seconds,
}

fn phase_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 14))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("albireo");
        let new = Self {
            active: Gauge::default(),
            zookeeper_connected: Gauge::default(),
            peer_up: Gauge::default(),
            backend_up: Family::default(),
            lag: Family::default(),
            epoch: Family::default(),
            in_sync: Family::default(),
            damaged: Family::default(),
            ignored_services: Counter::default(),
            bad_heartbeats: Gauge::default(),
            probe_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 14)),
            failovers: Family::default(),
            failover_seconds: Seconds::new_with_constructor(phase_histogram),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register(
            "active",
            "1 on the monitor that is ACTIVE and holds the lead, else 0",
            new.active.clone(),
        );
        r.register(
            "zookeeper_connected",
            "1 while a ZooKeeper server answers, else 0",
            new.zookeeper_connected.clone(),
        );
        r.register("peer_up", "1 while the peer monitor's heartbeats come, else 0", new.peer_up.clone());
        r.register("backend_up", "1 while the Redis server answers probes, else 0", new.backend_up.clone());
        r.register(
            "replica_lag_bytes",
            "Bytes of the primary's stream that a replica lacks",
            new.lag.clone(),
        );
        r.register("epoch", "Epoch of the state record", new.epoch.clone());
        r.register("in_sync", "Replicas in the in-sync set", new.in_sync.clone());
        r.register(
            "znode_damaged",
            "Broken or foreign content found in a znode of the service",
            new.damaged.clone(),
        );
        r.register(
            "services_ignored",
            "Discovered services ignored because their name was taken",
            new.ignored_services.clone(),
        );
        r.register(
            "heartbeats_refused",
            "Heartbeat frames dropped since the start",
            new.bad_heartbeats.clone(),
        );
        r.register("probe_seconds", "Time from a probe to its answer", new.probe_seconds.clone());
        r.register("failovers", "Completed failovers", new.failovers.clone());
        r.register(
            "failover_seconds",
            "Time from the loss of the primary to the end of each phase",
            new.failover_seconds.clone(),
        );
        Self { registry, ..new }
    }

    /// A failover was completed.
    pub(crate) fn completed(&self, service: &str, reason: &str, timeline: &Timeline) {
        let service = || service.to_owned();
        self.failovers.get_or_create(&OfReason { service: service(), reason: reason.to_owned() }).inc();
        for (phase, took) in phases(timeline) {
            let label = OfPhase { service: service(), phase: phase.to_owned() };
            self.failover_seconds.get_or_create(&label).observe(took.as_secs_f64());
        }
    }

    /// A service is gone; its series go with it.
    pub(crate) fn forget(&self, service: &str, backends: impl Iterator<Item = String>) {
        self.epoch.remove(&OfService { service: service.to_owned() });
        self.in_sync.remove(&OfService { service: service.to_owned() });
        for backend in backends {
            let label = OfBackend { service: service.to_owned(), backend };
            self.backend_up.remove(&label);
            self.lag.remove(&label);
        }
    }

    /// The exposition text.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut out, &self.registry);
        out
    }
}

/// Each phase of a failover that was reached, with the time from the loss to its end.
pub(crate) fn phases(timeline: &Timeline) -> Vec<(&'static str, Duration)> {
    let ends = [
        ("detected", Some(timeline.detected)),
        ("decided", Some(timeline.decided)),
        ("published", Some(timeline.published)),
        ("promoted", timeline.promoted),
        ("announced", timeline.announced),
    ];
    ends.into_iter().filter_map(|(name, end)| Some((name, end?.saturating_sub(timeline.lost)))).collect()
}
