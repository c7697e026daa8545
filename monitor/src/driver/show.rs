//! What is shown: `/services`, `/readyz`, `/metrics` and the voter's answer.

use binary_star::{Handle, State as PairState};
use failover::Health;
use serde_json::{Value, json};
use topology::zookeeper::SessionPhase;

use super::Driver;
use crate::admin::Question;
use crate::metrics::{OfBackend, OfService};
use crate::status;

impl Driver {
    pub(super) fn answer(&self, question: &Question) -> Value {
        match question {
            Question::Status => self.status(),
            Question::Readiness => json!(self.unready()),
            Question::Metrics => {
                self.measure();
                Value::String(self.metrics.text())
            }
        }
    }

    pub(super) fn status(&self) -> Value {
        let now = self.now();
        let state = self.pair.as_ref().map_or("ALONE", |pair| word(pair.state()));
        let mut monitors = vec![json!({
            "name": self.me.name, "role": self.around.config.role_word(), "state": state,
            "active": self.reign.is_some(), "version": env!("CARGO_PKG_VERSION"),
            "zookeeper": self.session.is_some_and(|s| s.phase == SessionPhase::Connected),
        })];
        if let Some(pair) = &self.pair {
            let peer = pair.peer();
            let state = peer.state.filter(|_| peer.alive).map_or("SILENT", word);
            let leads = self.lead.holder();
            monitors.push(json!({
                "name": leads.or(self.others.first().map(String::as_str)), "role": "peer", "state": state, "active": leads.is_some(), "version": null,
            }));
        }
        let services: Vec<Value> =
            self.services.values().map(|service| status::service(service, now)).collect();
        json!({"monitors": monitors, "services": services})
    }

    pub(super) fn unready(&self) -> Vec<String> {
        let now = self.now();
        let mut reasons = Vec::new();
        if self.session.is_none_or(|session| session.phase != SessionPhase::Connected) {
            reasons.push("ZooKeeper does not answer".to_owned());
        } else if self.registered.is_none() {
            reasons.push("this monitor's name is not registered yet".to_owned());
        }
        if self.lead.deleted() {
            reasons
                .push(format!("{} was deleted; stop both monitors, then start them", self.layout.leader()));
        }
        let state = self.pair.as_ref().map(Handle::state);
        match state {
            Some(state @ (PairState::Primary | PairState::Backup)) => {
                reasons.push(format!("neither active nor passive yet ({})", word(state)));
            }
            Some(PairState::Active) | None if self.reign.is_none() && !self.lead.held_by_other() => {
                reasons.push("the lead is not taken yet".to_owned());
            }
            Some(PairState::Active | PairState::Passive) | None => {}
        }
        reasons.extend(self.services.values().filter_map(|service| status::unready(service, now)));
        reasons
    }

    /// Gauges are read off when somebody asks.
    pub(super) fn measure(&self) {
        let now = self.now();
        let metrics = &self.metrics;
        metrics.active.set(i64::from(self.reign.is_some()));
        metrics.peer_up.set(i64::from(self.peer_alive()));
        metrics.bad_heartbeats.set(self.bad_heartbeats);
        for (name, service) in &self.services {
            let view = service.group.view();
            let of = OfService { service: name.clone() };
            let (epoch, in_sync) = view.state().map_or((0, 0), |s| (s.epoch, s.in_sync.len()));
            metrics.epoch.get_or_create(&of).set(i64::try_from(epoch).unwrap_or(i64::MAX));
            metrics.in_sync.get_or_create(&of).set(i64::try_from(in_sync).unwrap_or(i64::MAX));
            for addr in view.backends.keys() {
                let of = OfBackend { service: name.clone(), backend: addr.to_string() };
                let up = matches!(view.health(addr, now), Health::Up | Health::Suspect);
                metrics.backend_up.get_or_create(&of).set(i64::from(up));
                match status::lag(view, addr) {
                    Some(lag) => {
                        metrics.lag.get_or_create(&of).set(i64::try_from(lag).unwrap_or(i64::MAX));
                    }
                    None => _ = metrics.lag.remove(&of),
                }
            }
        }
    }

    /// The voter answers with what `/services` shows.
    pub(super) fn show(&self) {
        if let Some(pair) = &self.pair
            && self.reign.is_some()
        {
            pair.set_reply(self.status().to_string().into_bytes());
        }
    }
}

fn word(state: PairState) -> &'static str {
    match state {
        PairState::Primary => "PRIMARY",
        PairState::Backup => "BACKUP",
        PairState::Active => "ACTIVE",
        PairState::Passive => "PASSIVE",
    }
}
