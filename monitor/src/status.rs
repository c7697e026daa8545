//! What this monitor shows of itself: `/services`, the voter's answer, the reasons of `/readyz`.

use std::time::Duration;

use failover::view::{Announced, View};
use failover::{Health, Time};
use serde_json::{Value, json};
use topology::{Endpoint, Phase};

use crate::service::Service;

/// One service, as in the API's `/api/v1/topology`, with the phase and a line per member.
///
/// `durability` is the strongest that can be had under what is published: `sync` under a record, `async` by the path
/// alone. `age` is how long ago all this was known to be the present.
pub(crate) fn service(service: &Service, age: Option<Duration>, now: Time) -> Value {
    let view = service.group.view();
    let members: Vec<Value> = view.backends.keys().map(|addr| member(service, view, addr, now)).collect();
    let because = service.because().to_string();
    let age_ms = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    match (view.state(), &view.announced) {
        (Some(state), _) => {
            let topology = state.topology();
            json!({
                "service": service.path.name(), "path": service.path.as_str(),
                "primary": topology.primary, "secondary": topology.replicas,
                "epoch": state.epoch,
                "in_sync": state.in_sync.iter().map(|entry| &entry.addr).collect::<Vec<_>>(),
                "min_in_sync": state.min_in_sync,
                "durability": "sync", "source": "state", "age_ms": age_ms, "leader": state.leader, "reason": state.reason,
                "phase": match state.phase { Phase::Promoting => "promoting", Phase::Serving => "serving" },
                "restart_guard": view.limits.restart_guard,
                "because": because, "paused": service.paused, "risk": risk(view, now), "members": members,
            })
        }
        (None, (Announced::Is(topology), _)) => json!({
            "service": service.path.name(), "path": service.path.as_str(),
            "primary": topology.primary, "secondary": topology.replicas,
            "epoch": 0, "in_sync": [], "durability": "async", "source": "path", "age_ms": age_ms, "phase": "unborn",
            "because": because, "paused": service.paused, "risk": null, "members": members,
        }),
        (None, (Announced::Unread | Announced::Missing | Announced::Broken(_), _)) => json!({
            "service": service.path.name(), "path": service.path.as_str(),
            "primary": null, "secondary": [], "epoch": 0, "in_sync": [],
            "durability": null, "source": "none", "age_ms": age_ms, "phase": "unborn",
            "because": because, "paused": service.paused, "risk": null, "members": members,
        }),
    }
}

fn member(service: &Service, view: &View, addr: &Endpoint, now: Time) -> Value {
    let health = view.health(addr, now);
    let seen = view.backends.get(addr).and_then(|backend| backend.seen.as_ref());
    // What one that is gone was when it answered last says nothing.
    let there = seen.filter(|_| health.gone_since().is_none());
    let role = there.map_or("unknown", |seen| seen.observation.role.word());
    let recorded = view.state().is_some_and(|state| state.primary.addr == *addr);
    let refusal = view.state().and_then(|state| failover::candidate::disqualified(view, state, addr, now));
    let words = service.words.get(addr).filter(|_| matches!(health, Health::Troubled(_)));
    let refused = view.backends.get(addr).and_then(|backend| backend.refused.as_ref());
    let away = view.state().filter(|_| !recorded && refusal.is_none()).and_then(|state| {
        let seen = view.current(addr, now)?;
        (!failover::view::follows(seen, &state.primary.addr))
            .then(|| format!("may take over, but does not follow {} at the moment", state.primary.addr))
    });
    let why = match (recorded, refusal, view.state()) {
        (false, Some(refusal), Some(state)) => Some(failover::risk::words(view, state, addr, refusal, now)),
        (_, _, _) => None,
    };
    let up = matches!(health, Health::Up | Health::Suspect);
    let brown_out = service.brown_outs.get(addr).filter(|_| up);
    json!({
        "addr": addr,
        "role": role,
        "lag_bytes": lag(view, addr),
        "up": up,
        "health": brown_out.map_or(health.word(), |brown_out| brown_out.kind),
        "eligible": !recorded && view.state().is_some() && refusal.is_none(),
        "why": words.or(refused).or(brown_out.map(|brown_out| &brown_out.words)).cloned().or(why).or(away),
        "recorded_primary": recorded,
        "in_sync": view.state().is_some_and(|state| state.in_sync(addr).is_some()),
    })
}

/// What if the primary died now, for programs and as a sentence.
fn risk(view: &View, now: Time) -> Value {
    let Some(risk) = failover::risk(view, now) else { return Value::Null };
    let heir = risk.then.as_ref().ok();
    json!({
        "dies": risk.dies, "lost": risk.lost,
        "takes_over": heir.map(|heir| &heir.addr), "lag_bytes": heir.and_then(|heir| heir.lag_bytes),
        "why": risk.then.as_ref().err().map(ToString::to_string),
        "text": risk.to_string(),
    })
}

/// Bytes of the recorded primary's stream that a replica of the same history lacks.
pub(crate) fn lag(view: &View, addr: &Endpoint) -> Option<u64> {
    let state = view.state().filter(|state| state.primary.addr != *addr)?;
    failover::risk::lag(view, state, addr)
}

/// Why a service does not yet make this monitor ready: a server was never heard of, up or down.
pub(crate) fn unready(service: &Service, now: Time) -> Option<String> {
    let view = service.group.view();
    let unknown: Vec<String> = view
        .backends
        .keys()
        .filter(|addr| view.health(addr, now) == Health::Unknown)
        .map(ToString::to_string)
        .collect();
    let name = service.path.name();
    if !view.record_read || view.announced.0 == Announced::Unread {
        return Some(format!("{name}: its znodes have not been read yet"));
    }
    (!unknown.is_empty()).then(|| format!("{name}: not probed yet: {}", unknown.join(" ")))
}
