//! What this monitor shows of itself: `/services`, the voter's answer, the reasons of `/readyz`.

use std::borrow::Cow;
use std::time::Duration;

use failover::view::{Announced, View};
use failover::{Health, Time};
use serde::Serialize;
use topology::{Endpoint, PausedRecord, Phase};

use crate::service::Service;

/// One service, as in the API's `/api/v1/topology`, with the phase and a line per member. It is written as it is read: a tree
/// of values in between would hold up the driver, with a thousand services for as long as several probes take.
#[derive(Debug, Serialize)]
pub(crate) struct ServiceStatus<'a> {
    service: &'a str,
    path: &'a str,
    primary: Option<&'a Endpoint>,
    secondary: Vec<&'a Endpoint>,
    epoch: u64,
    in_sync: Vec<&'a Endpoint>,
    /// The strongest that can be had under what is published: `sync` under a record, `async` by the path alone.
    durability: Option<&'static str>,
    source: &'static str,
    /// How long ago all this was known to be the present.
    age_ms: Option<u64>,
    phase: &'static str,
    #[serde(flatten)]
    record: Option<RecordStatus<'a>>,
    because: String,
    paused: Option<&'a PausedRecord>,
    risk: Option<RiskStatus>,
    members: Vec<MemberStatus<'a>>,
}

/// What only a record tells.
#[derive(Debug, Serialize)]
struct RecordStatus<'a> {
    min_in_sync: u32,
    leader: &'a str,
    reason: &'a str,
    restart_guard: bool,
}

/// One member.
#[derive(Debug, Serialize)]
struct MemberStatus<'a> {
    addr: &'a Endpoint,
    role: &'static str,
    lag_bytes: Option<u64>,
    up: bool,
    health: &'static str,
    eligible: bool,
    why: Option<Cow<'a, str>>,
    recorded_primary: bool,
    in_sync: bool,
}

/// What if the primary died now, for programs and as a sentence.
#[derive(Debug, Serialize)]
struct RiskStatus {
    text: String,
    dies: Endpoint,
    lost: bool,
    takes_over: Option<Endpoint>,
    lag_bytes: Option<u64>,
    why: Option<String>,
}

/// One service. `age` is how long ago all this was known to be the present.
pub(crate) fn service(service: &Service, age: Option<Duration>, now: Time) -> ServiceStatus<'_> {
    let view = service.group.view();
    let unborn = ServiceStatus {
        service: service.path.name(),
        path: service.path.as_str(),
        primary: None,
        secondary: Vec::new(),
        epoch: 0,
        in_sync: Vec::new(),
        durability: None,
        source: "none",
        age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        phase: "unborn",
        record: None,
        because: service.because().to_string(),
        paused: service.paused.as_ref(),
        risk: None,
        members: view.backends.keys().map(|addr| member(service, view, addr, now)).collect(),
    };
    match (view.state(), &view.announced.0) {
        (Some(state), _) => ServiceStatus {
            primary: Some(&state.primary.addr),
            secondary: state.replicas().collect(),
            epoch: state.epoch,
            in_sync: state.in_sync.iter().map(|entry| &entry.addr).collect(),
            durability: Some("sync"),
            source: "state",
            phase: match state.phase {
                Phase::Promoting => "promoting",
                Phase::Serving => "serving",
            },
            record: Some(RecordStatus {
                min_in_sync: state.min_in_sync,
                leader: &state.leader,
                reason: &state.reason,
                restart_guard: view.limits.restart_guard,
            }),
            risk: risk(view, now),
            ..unborn
        },
        (None, Announced::Is(topology)) => ServiceStatus {
            primary: Some(&topology.primary),
            secondary: topology.replicas.iter().collect(),
            durability: Some("async"),
            source: "path",
            ..unborn
        },
        (None, Announced::Unread | Announced::Missing | Announced::Broken(_)) => unborn,
    }
}

fn member<'a>(service: &'a Service, view: &'a View, addr: &'a Endpoint, now: Time) -> MemberStatus<'a> {
    let health = view.health(addr, now);
    let seen = view.backends.get(addr).and_then(|backend| backend.seen.as_ref());
    // What one that is gone was when it answered last says nothing.
    let there = seen.filter(|_| health.gone_since().is_none());
    let recorded = view.state().is_some_and(|state| state.primary.addr == *addr);
    let refusal = view.state().and_then(|state| failover::candidate::disqualified(view, state, addr, now));
    let up = matches!(health, Health::Up | Health::Suspect);
    let brown_out = service.brown_outs.get(addr).filter(|_| up);
    let eligible = !recorded && view.state().is_some() && refusal.is_none();

    let words = service.words.get(addr).filter(|_| matches!(health, Health::Troubled(_)));
    let refused = view.backends.get(addr).and_then(|backend| backend.refused.as_ref());
    let said = words.or(refused).or(brown_out.map(|brown_out| &brown_out.words));
    let why = match (said, view.state().filter(|_| !recorded), refusal) {
        (Some(said), _, _) => Some(Cow::Borrowed(said.as_str())),
        (None, Some(state), Some(refusal)) => {
            Some(failover::risk::words(view, state, addr, refusal, now).into())
        }
        (None, Some(state), None) => {
            view.current(addr, now).filter(|seen| !failover::view::follows(seen, &state.primary.addr)).map(
                |_| format!("may take over, but does not follow {} at the moment", state.primary.addr).into(),
            )
        }
        (None, None, _) => None,
    };
    MemberStatus {
        addr,
        role: there.map_or("unknown", |seen| seen.observation.role.word()),
        lag_bytes: lag(view, addr),
        up,
        health: brown_out.map_or(health.word(), |brown_out| brown_out.kind),
        eligible,
        why,
        recorded_primary: recorded,
        in_sync: view.state().is_some_and(|state| state.in_sync(addr).is_some()),
    }
}

fn risk(view: &View, now: Time) -> Option<RiskStatus> {
    let risk = failover::risk(view, now)?;
    let text = risk.to_string();
    let (heir, why) = match risk.then {
        Ok(heir) => (Some(heir), None),
        Err(why) => (None, Some(why.to_string())),
    };
    let lag_bytes = heir.as_ref().and_then(|heir| heir.lag_bytes);
    let takes_over = heir.map(|heir| heir.addr);
    Some(RiskStatus { text, dies: risk.dies, lost: risk.lost, takes_over, lag_bytes, why })
}

/// Bytes of the recorded primary's stream that a replica of the same history lacks.
pub(crate) fn lag(view: &View, addr: &Endpoint) -> Option<u64> {
    let state = view.state().filter(|state| state.primary.addr != *addr)?;
    failover::risk::lag(view, state, addr)
}

/// Why a service does not yet make this monitor ready: a server was never heard of, up or down.
pub(crate) fn unready(service: &Service, now: Time) -> Option<String> {
    let view = service.group.view();
    let name = service.path.name();
    if !view.record_read || view.announced.0 == Announced::Unread {
        return Some(format!("{name}: its znodes have not been read yet"));
    }
    let unknown: Vec<String> = view
        .backends
        .keys()
        .filter(|addr| view.health(addr, now) == Health::Unknown)
        .map(ToString::to_string)
        .collect();
    (!unknown.is_empty()).then(|| format!("{name}: not probed yet: {}", unknown.join(" ")))
}
