//! What ZooKeeper holds, in the form of a monitor's status, for when no monitor can be asked.

use serde_json::{Value, json};
use topology::zookeeper::Store;
use topology::{Layout, MonitorRecord, PausedRecord, Phase, State, Topology, ZnodePath};

use super::paths;
use crate::config::Config;
use crate::verbs::Leader;

/// Monitors and services as far as ZooKeeper knows them.
pub(super) async fn document(
    config: &Config,
    store: &Store,
    layout: &Layout,
    leader: &Leader,
) -> Result<Value, String> {
    let mut monitors = Vec::new();
    let names = store.children(&layout.monitors()).await.map_err(|e| e.to_string())?.unwrap_or_default();
    for name in names {
        let Ok(path) = layout.monitor(&name) else { continue };
        let found = store.get(&path).await.map_err(|e| e.to_string())?;
        let record = found.and_then(|found| serde_json::from_slice::<MonitorRecord>(&found.data).ok());
        monitors.push(monitor(&name, record.as_ref(), leader));
    }
    if let Some(name) = leader.name.as_ref().filter(|_| leader.record.is_none()) {
        monitors.push(json!({
            "name": name, "role": null, "state": "NOT THERE", "active": false, "led_last": true, "version": null,
        }));
    }
    let mut services = Vec::new();
    for path in paths(config, store).await? {
        services.push(service(store, layout, &path).await?);
    }
    Ok(json!({"monitors": monitors, "services": services, "told_by": "ZooKeeper"}))
}

fn monitor(name: &str, record: Option<&MonitorRecord>, leader: &Leader) -> Value {
    json!({
        "name": name, "role": record.and_then(|r| r.role.as_ref()), "state": "NOT ASKED",
        "active": false, "led_last": leader.name.as_deref() == Some(name),
        "version": record.and_then(|r| r.version.as_ref()), "admin": record.and_then(|r| r.admin.as_ref()),
    })
}

async fn service(store: &Store, layout: &Layout, path: &ZnodePath) -> Result<Value, String> {
    let read = |error: topology::zookeeper::ReadError| error.to_string();
    let state = store.get(&layout.state(path)).await.map_err(read)?;
    let announced = store.get(path.as_str()).await.map_err(read)?;
    let announced = announced.map(|found| Topology::from_json(&found.data).map_err(|e| e.to_string()));
    let paused = store.get(&layout.paused(path)).await.map_err(read)?;
    let paused: Option<PausedRecord> =
        paused.map(|found| serde_json::from_slice(&found.data).unwrap_or_default());
    let mut held = match state.map(|found| State::from_json(&found.data)) {
        Some(Ok(state)) => recorded(path, &state, announced),
        Some(Err(why)) => unrecorded(path, &format!("the state znode holds no record: {why}"), announced),
        None => unrecorded(path, "there is no record yet", announced),
    };
    held["paused"] = json!(paused);
    Ok(held)
}

type Announced = Option<Result<Topology, String>>;

fn recorded(path: &ZnodePath, state: &State, announced: Announced) -> Value {
    let topology = state.topology();
    let phase = match state.phase {
        Phase::Promoting => "promoting",
        Phase::Serving => "serving",
    };
    let note = match &announced {
        None => "; nothing is announced".to_owned(),
        Some(Err(why)) => format!("; what is announced is no topology: {why}"),
        Some(Ok(told)) if told.primary != topology.primary => {
            format!("; announced is {}", told.primary)
        }
        Some(Ok(_)) => String::new(),
    };
    let members: Vec<Value> = state
        .members
        .iter()
        .map(|addr| {
            let primary = *addr == state.primary.addr;
            json!({
                "addr": addr, "role": if primary { "primary" } else { "replica" }, "lag_bytes": null, "up": null,
                "health": "not asked", "eligible": null, "why": null, "recorded_primary": primary,
                "in_sync": state.in_sync(addr).is_some(),
            })
        })
        .collect();
    let primary = &state.primary.addr;
    let why = "no monitor that leads could be asked";
    json!({
        "service": path.name(), "path": path.as_str(), "primary": primary, "secondary": topology.replicas,
        "epoch": state.epoch, "in_sync": state.in_sync.iter().map(|entry| &entry.addr).collect::<Vec<_>>(),
        "min_in_sync": state.min_in_sync, "durability": "sync", "source": "state", "age_ms": null,
        "leader": state.leader, "reason": state.reason, "phase": phase,
        "because": format!("last decision, by `{}`: {}{note}", state.leader, state.reason),
        "risk": {
            "dies": primary, "lost": false, "takes_over": null, "lag_bytes": null, "why": why,
            "text": format!("if {primary} dies now, perhaps NOBODY takes over: {why}"),
        },
        "members": members,
    })
}

fn unrecorded(path: &ZnodePath, why: &str, announced: Announced) -> Value {
    let (topology, because) = match announced {
        None => (None, format!("{why}, and nothing is announced: run zoo-setup")),
        Some(Err(broken)) => (None, format!("{why}, and what is announced is no topology: {broken}")),
        Some(Ok(topology)) => (Some(topology), why.to_owned()),
    };
    let members: Vec<Value> = topology
        .iter()
        .flat_map(Topology::members)
        .map(|addr| {
            json!({
                "addr": addr, "role": "unknown", "lag_bytes": null, "up": null, "health": "not asked",
                "eligible": null, "why": null, "recorded_primary": false, "in_sync": false,
            })
        })
        .collect();
    json!({
        "service": path.name(), "path": path.as_str(),
        "primary": topology.as_ref().map(|t| &t.primary),
        "secondary": topology.as_ref().map_or(&[][..], |t| &t.replicas), "epoch": 0, "in_sync": [],
        "durability": topology.as_ref().map(|_| "async"),
        "source": if topology.is_some() { "path" } else { "none" },
        "age_ms": null, "phase": "unborn", "because": because, "risk": null, "members": members,
    })
}
