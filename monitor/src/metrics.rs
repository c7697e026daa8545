//! What the monitor counts, in Prometheus' words (docs: README, "Metrics").

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crowd::Crowd;
use failover::{Time, Timeline};
use hickory_proto::op::ResponseCode;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};
use topology::Endpoint;

/// About one service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfService {
    service: String,
}

/// About one server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBackend {
    service: String,
    backend: String,
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

type Seconds<Of> = Family<Of, Histogram, fn() -> Histogram>;

/// About the answers of DNS with one code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCode {
    rcode: &'static str,
}

/// Every code that DNS answers with here.
const CODES: [(ResponseCode, &str); 7] = [
    (ResponseCode::NoError, "NOERROR"),
    (ResponseCode::FormErr, "FORMERR"),
    (ResponseCode::ServFail, "SERVFAIL"),
    (ResponseCode::NXDomain, "NXDOMAIN"),
    (ResponseCode::NotImp, "NOTIMP"),
    (ResponseCode::Refused, "REFUSED"),
    (ResponseCode::BADVERS, "BADVERS"),
];

/// Counts questions to DNS, in whatever thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct DnsQueries(Family<OfCode, Counter>);

impl DnsQueries {
    /// A question was answered with this code.
    pub(crate) fn count(&self, code: ResponseCode) {
        let rcode = CODES.iter().find(|(known, _)| *known == code).map_or("other", |(_, name)| name);
        self.0.get_or_create(&OfCode { rcode }).inc();
    }
}

/// Where clients come to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Listener {
    Admin,
    Sentinel,
    Dns,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfListener {
    listener: &'static str,
}

/// Who was not let in at one listener.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused {
    /// Turned away, or sent away to make place.
    pub(crate) connections: Counter,
    /// Wrong passwords and tokens.
    pub(crate) logins: Counter,
}

impl Refused {
    /// A crowd that counts whom it does not let in.
    pub(crate) fn crowd(&self, most: usize) -> Arc<Crowd> {
        let counter = self.connections.clone();
        Crowd::new(most, move || _ = counter.inc())
    }
}

/// The series that exist of one service, to be removed with it.
#[derive(Default)]
struct Known {
    backends: BTreeSet<Endpoint>,
    reasons: BTreeSet<String>,
}

/// All metrics of one monitor.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) active: Gauge,
    pub(crate) zookeeper_connected: Gauge,
    pub(crate) peer_up: Gauge,
    pub(crate) mass_failure: Gauge,
    pub(crate) ignored_services: Counter,
    pub(crate) stalls: Counter,
    pub(crate) bad_heartbeats: Gauge<u64, AtomicU64>,
    backend_up: Family<OfBackend, Gauge>,
    lag: Family<OfBackend, Gauge>,
    brown_out: Family<OfBackend, Gauge>,
    epoch: Family<OfService, Gauge>,
    in_sync: Family<OfService, Gauge>,
    paused: Family<OfService, Gauge>,
    primary_up: Family<OfService, Gauge>,
    damaged: Family<OfService, Counter>,
    probe_seconds: Seconds<OfBackend>,
    failovers: Family<OfReason, Counter>,
    failover_seconds: Seconds<OfPhase>,
    pub(crate) dns_queries: DnsQueries,
    connections_refused: Family<OfListener, Counter>,
    logins_refused: Family<OfListener, Counter>,
    known: BTreeMap<String, Known>,
}

/// The phases of a failover, in their order.
const PHASES: [&str; 5] = ["detected", "decided", "published", "promoted", "announced"];

fn probe_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 14))
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
            mass_failure: Gauge::default(),
            backend_up: Family::default(),
            lag: Family::default(),
            brown_out: Family::default(),
            epoch: Family::default(),
            in_sync: Family::default(),
            paused: Family::default(),
            primary_up: Family::default(),
            damaged: Family::default(),
            ignored_services: Counter::default(),
            stalls: Counter::default(),
            bad_heartbeats: Gauge::default(),
            probe_seconds: Seconds::new_with_constructor(probe_histogram),
            known: BTreeMap::new(),
            failovers: Family::default(),
            failover_seconds: Seconds::new_with_constructor(phase_histogram),
            dns_queries: DnsQueries::default(),
            connections_refused: Family::default(),
            logins_refused: Family::default(),
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
        r.register(
            "stalls",
            "Times that this monitor itself stood still, or was late, by more than a heartbeat or a quarter of down_after_ms",
            new.stalls.clone(),
        );
        r.register("peer_up", "1 while the peer monitor's heartbeats come, else 0", new.peer_up.clone());
        r.register(
            "mass_failure",
            "1 while so many primaries are lost at once that it seems to be this monitor's own network, else 0",
            new.mass_failure.clone(),
        );
        r.register("backend_up", "1 while the Redis server answers probes, else 0", new.backend_up.clone());
        r.register(
            "replica_lag_bytes",
            "Bytes of the primary's stream that a replica lacks",
            new.lag.clone(),
        );
        r.register(
            "backend_brown_out",
            "1 while the Redis server answers but has no room for writes (disk, memory), else 0",
            new.brown_out.clone(),
        );
        r.register("epoch", "Epoch of the state record", new.epoch.clone());
        r.register("in_sync", "Replicas in the in-sync set", new.in_sync.clone());
        r.register(
            "primary_up",
            "1 while the recorded primary answers probes, else 0",
            new.primary_up.clone(),
        );
        r.register("paused", "1 while an operator has paused the service, else 0", new.paused.clone());
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
        r.register("dns_queries", "Questions answered by DNS", new.dns_queries.0.clone());
        r.register(
            "connections_refused",
            "Connections of clients that were turned away, or closed to make place for others",
            new.connections_refused.clone(),
        );
        r.register("logins_refused", "Wrong passwords and tokens of clients", new.logins_refused.clone());
        Self { registry, ..new }
    }

    /// What is counted of whom a listener does not let in.
    pub(crate) fn refused(&self, at: Listener) -> Refused {
        let listener = match at {
            Listener::Admin => "admin",
            Listener::Sentinel => "sentinel",
            Listener::Dns => "dns",
        };
        let of = OfListener { listener };
        Refused {
            connections: self.connections_refused.get_or_create(&of).clone(),
            logins: self.logins_refused.get_or_create(&of).clone(),
        }
    }

    /// A service is watched, and this is its record, if it has one: epoch, replicas in sync, whether the primary answers.
    pub(crate) fn service(&mut self, service: &str, record: Option<(u64, usize, bool)>, paused: bool) {
        self.known(service);
        let of = OfService { service: service.to_owned() };
        let (epoch, in_sync, primary_up) = record.unwrap_or_default();
        self.primary_up.get_or_create(&of).set(i64::from(primary_up));
        _ = self.damaged.get_or_create(&of); // a series that begins with 1 would be no increase
        self.epoch.get_or_create(&of).set(i64::try_from(epoch).unwrap_or(i64::MAX));
        self.in_sync.get_or_create(&of).set(i64::try_from(in_sync).unwrap_or(i64::MAX));
        self.paused.get_or_create(&of).set(i64::from(paused));
    }

    /// How a server does; `lag` in bytes, where it is known.
    pub(crate) fn backend(
        &mut self,
        service: &str,
        addr: &Endpoint,
        up: bool,
        brown_out: bool,
        lag: Option<u64>,
    ) {
        let of = self.of_backend(service, addr);
        self.brown_out.get_or_create(&of).set(i64::from(brown_out));
        self.backend_up.get_or_create(&of).set(i64::from(up));
        match lag {
            Some(lag) => _ = self.lag.get_or_create(&of).set(i64::try_from(lag).unwrap_or(i64::MAX)),
            None => _ = self.lag.remove(&of),
        }
    }

    /// Where the seconds of a server's probes are counted, for the task that measures them.
    pub(crate) fn probe_seconds(&mut self, service: &str, addr: &Endpoint) -> Histogram {
        let of = self.of_backend(service, addr);
        self.probe_seconds.get_or_create(&of).clone()
    }

    /// A znode of the service was found to be broken.
    pub(crate) fn damaged(&mut self, service: &str) {
        self.known(service);
        self.damaged.get_or_create(&OfService { service: service.to_owned() }).inc();
    }

    /// A failover was completed.
    pub(crate) fn completed(&mut self, service: &str, reason: &str, timeline: &Timeline) {
        self.known(service).reasons.insert(reason.to_owned());
        let service = || service.to_owned();
        self.failovers.get_or_create(&OfReason { service: service(), reason: reason.to_owned() }).inc();
        for (phase, took) in phases(timeline) {
            let label = OfPhase { service: service(), phase: phase.to_owned() };
            self.failover_seconds.get_or_create(&label).observe(took.as_secs_f64());
        }
    }

    /// A service is gone; all its series go with it.
    pub(crate) fn forget(&mut self, service: &str) {
        let known = self.known.remove(service).unwrap_or_default();
        known.backends.iter().for_each(|addr| self.forget_backend(service, addr));
        let owned = || service.to_owned();
        let of = OfService { service: owned() };
        self.epoch.remove(&of);
        self.in_sync.remove(&of);
        self.paused.remove(&of);
        self.primary_up.remove(&of);
        self.damaged.remove(&of);
        for reason in known.reasons {
            self.failovers.remove(&OfReason { service: owned(), reason });
        }
        for phase in PHASES {
            self.failover_seconds.remove(&OfPhase { service: owned(), phase: phase.to_owned() });
        }
    }

    /// A server left its service.
    pub(crate) fn forget_backend(&mut self, service: &str, addr: &Endpoint) {
        if let Some(known) = self.known.get_mut(service) {
            known.backends.remove(addr);
        }
        let of = OfBackend { service: service.to_owned(), backend: addr.to_string() };
        self.backend_up.remove(&of);
        self.lag.remove(&of);
        self.brown_out.remove(&of);
        self.probe_seconds.remove(&of);
    }

    fn known(&mut self, service: &str) -> &mut Known {
        self.known.entry(service.to_owned()).or_default()
    }

    fn of_backend(&mut self, service: &str, addr: &Endpoint) -> OfBackend {
        self.known(service).backends.insert(addr.clone());
        OfBackend { service: service.to_owned(), backend: addr.to_string() }
    }

    /// The exposition text.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut out, &self.registry);
        exposition::text(&out)
    }
}

/// Each phase of a failover that was reached, with the time from the loss to its end. Where another monitor began it,
/// nobody knows these.
pub(crate) fn phases(timeline: &Timeline) -> Vec<(&'static str, Duration)> {
    let Some(begun) = timeline.begun else { return Vec::new() };
    let ends = [
        Some(begun.detected),
        Some(begun.decided),
        Some(begun.published),
        timeline.promoted,
        timeline.announced,
    ];
    let took = |end: Time| end.saturating_sub(begun.lost);
    PHASES.into_iter().zip(ends).filter_map(|(name, end)| Some((name, took(end?)))).collect()
}

/// The same in milliseconds, for people and hooks: `decided_ms` and so on.
pub(crate) fn phases_ms(timeline: &Timeline) -> Map<String, Value> {
    let one = |(phase, took): (&str, Duration)| {
        (format!("{phase}_ms"), json!((took.as_secs_f64() * 1e5).round() / 1e2))
    };
    phases(timeline).into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use failover::Begun;

    use super::*;

    /// Everything that is ever counted about a service.
    fn fill(metrics: &mut Metrics, service: &str, addr: &Endpoint) {
        let ms = Duration::from_millis;
        let timeline = Timeline {
            epoch: 2,
            reason: "primary gone".into(),
            from: Some(addr.clone()),
            to: addr.clone(),
            gap_bytes: None,
            candidates: Vec::new(),
            saw: Vec::new(),
            begun: Some(Begun { lost: ms(1), detected: ms(2), decided: ms(3), published: ms(4) }),
            promoted: Some(ms(5)),
            announced: Some(ms(6)),
        };
        metrics.service(service, Some((2, 1, true)), true);
        metrics.backend(service, addr, true, true, Some(7));
        metrics.probe_seconds(service, addr).observe(0.001);
        metrics.damaged(service);
        metrics.completed(service, "primary gone", &timeline);
        metrics.completed(service, "primary silent", &timeline);
        metrics.completed(service, "primary silent", &Timeline { begun: None, ..timeline });
    }

    #[test]
    fn every_series_of_a_service_goes_with_it() {
        let (mut metrics, addr) = (Metrics::new(), "a:1".parse().unwrap());
        let empty = metrics.text();
        fill(&mut metrics, "posts", &addr);
        for series in [
            "albireo_epoch{service=\"posts\"} 2",
            "albireo_primary_up{service=\"posts\"} 1",
            "albireo_paused{service=\"posts\"} 1",
            "albireo_backend_up{service=\"posts\",backend=\"a:1\"} 1",
            "albireo_replica_lag_bytes{service=\"posts\",backend=\"a:1\"} 7",
            "albireo_probe_seconds_count{service=\"posts\",backend=\"a:1\"} 1",
            "albireo_znode_damaged_total{service=\"posts\"} 1",
            "albireo_failovers_total{service=\"posts\",reason=\"primary silent\"} 2",
            "albireo_failover_seconds_count{service=\"posts\",phase=\"announced\"} 2",
        ] {
            assert!(metrics.text().contains(series), "{series}: {}", metrics.text());
        }
        fill(&mut metrics, "users", &addr);
        metrics.forget("posts");
        assert!(!metrics.text().contains("posts"), "{}", metrics.text());
        assert!(metrics.text().contains("users"), "another service keeps its own");
        metrics.forget("users");
        assert_eq!(metrics.text(), empty);
    }

    #[test]
    fn a_server_that_leaves_takes_its_series_along() {
        let (mut metrics, stays, leaves) = (Metrics::new(), "a:1".parse().unwrap(), "b:2".parse().unwrap());
        fill(&mut metrics, "posts", &stays);
        let before = metrics.text();
        metrics.backend("posts", &leaves, true, true, Some(7));
        metrics.probe_seconds("posts", &leaves).observe(0.0);
        metrics.forget_backend("posts", &leaves);
        assert_eq!(metrics.text(), before);
    }
}
