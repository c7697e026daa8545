//! What is shown: `/services`, `/readyz`, `/metrics` and the voter's answer.

use std::time::Duration;

use binary_star::{Handle, State as PairState};
use failover::{Health, Time};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use topology::zookeeper::SessionPhase;

use super::Driver;
use super::roster::Roster;
use crate::admin::Question;
use crate::status;

/// A stall of this monitor is shown for so long.
const STOOD_STILL_SHOWN: Duration = Duration::from_secs(60);
/// At most one part in so many of this process' time goes into answers of the voter, whether somebody asks or not.
const SHOW_SHARE: u32 = 200;

/// So many services `/readyz` names.
const REASONS_SHOWN: usize = 20;

/// The document of `/services`.
#[derive(Serialize)]
struct Status<'a> {
    me: &'a str,
    leader: Option<&'a str>,
    monitors: Vec<Value>,
    mass_failure: Value,
    services: ServicesShown<'a>,
}

/// All services, each written as it is read.
struct ServicesShown<'a> {
    services: &'a Roster,
    age: Option<Duration>,
    now: Time,
}

impl Serialize for ServicesShown<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.services.iter().map(|service| status::service(service, self.age, self.now)))
    }
}

impl Driver {
    /// JSON, or the text of Prometheus.
    pub(super) fn answer(&mut self, question: &Question) -> String {
        match question {
            Question::Status => self.status(),
            Question::Readiness => json!(self.unready()).to_string(),
            Question::Metrics => {
                self.measure();
                self.metrics.text()
            }
        }
    }

    /// The document of `/services`.
    pub(super) fn status(&self) -> String {
        let status = Status {
            me: &self.me.name,
            leader: if self.reign.is_some() { Some(&self.me.name) } else { self.lead.holder() },
            monitors: self.monitors_shown(),
            services: ServicesShown { services: &self.services, age: self.age(), now: self.now() },
            mass_failure: self.mass_failure(),
        };
        // Strings, numbers and maps with names for keys: there is nothing that JSON could not say.
        serde_json::to_string(&status).unwrap_or_default()
    }

    fn monitors_shown(&self) -> Vec<Value> {
        let now = self.now();
        let alone = if self.observes() { "OBSERVER" } else { "ALONE" };
        let state = self.pair.as_ref().map_or(alone, |pair| word(pair.state()));
        let mut monitors = vec![json!({
            "name": self.me.name, "role": self.around.config.role_word(), "state": state,
            "active": self.reign.is_some(), "version": env!("CARGO_PKG_VERSION"),
            "zookeeper": self.session.is_some_and(|s| s.phase == SessionPhase::Connected),
            "admin": self.around.config.admin.announce, "stood_still": self.stood_still(now),
        })];
        if let Some(pair) = &self.pair {
            let peer = pair.peer();
            let state = peer.state.filter(|_| peer.alive).map_or("SILENT", word);
            let leads = self.lead.holder();
            let name = leads.or(self.others.first().or(self.fellows.keys().next()).map(String::as_str));
            // What nobody said is null: it has not been there since this monitor started.
            let says = name.and_then(|name| self.fellows.get(name));
            let (role, version) = (says.map(|r| &r.role), says.map(|r| &r.version));
            let admin = says.and_then(|r| r.admin.as_ref());
            monitors.push(json!({
                "name": name, "role": role, "state": state, "active": leads.is_some(), "version": version,
                "admin": admin,
            }));
        }
        if self.observes() {
            monitors.extend(self.fellows.iter().filter(|(name, _)| self.others.contains(name)).map(|(name, says)| {
                let active = self.lead.holder() == Some(name.as_str());
                json!({
                    "name": name, "role": says.role, "state": null, "active": active, "version": says.version,
                    "admin": says.admin,
                })
            }));
        }
        let observers = self.observers.iter().map(|(name, says)| {
            let version = says.as_ref().and_then(|says| says.version.as_ref());
            let admin = says.as_ref().and_then(|says| says.admin.as_ref());
            json!({
                "name": name, "role": "observer", "state": "OBSERVER", "active": false, "version": version,
                "admin": admin,
            })
        });
        monitors.extend(observers);
        monitors
    }

    /// That this monitor itself stood still a short while ago: what it says of silence since then is young.
    fn stood_still(&self, now: Time) -> Value {
        let recent = self.stood_still.filter(|(_, at, _)| now.saturating_sub(*at) < STOOD_STILL_SHOWN);
        recent.map_or(
            Value::Null,
            |(late, _, when_ms)| json!({"ms": late.as_millis() as u64, "when_ms": when_ms}),
        )
    }

    /// How long ago what is known of the services was known to be the present: zero while ZooKeeper answers, none if it
    /// never did.
    fn age(&self) -> Option<Duration> {
        let answers = self.session.is_some_and(|session| session.phase == SessionPhase::Connected);
        if answers { Some(Duration::ZERO) } else { Some(self.now().saturating_sub(self.store_lost?)) }
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
            None if self.observes() => {}
            Some(PairState::Active) | None if self.reign.is_none() && !self.lead.held_by_other() => {
                reasons.push("the lead is not taken yet".to_owned());
            }
            Some(PairState::Active | PairState::Passive) | None => {}
        }
        // Whoever asks again and again while thousands of services begin must not keep this loop from them.
        let mut services = self.services.iter().filter_map(|service| status::unready(service, now));
        reasons.extend(services.by_ref().take(REASONS_SHOWN));
        if services.next().is_some() {
            reasons.push("other services, too".to_owned());
        }
        reasons
    }

    /// Gauges are read off when somebody asks.
    pub(super) fn measure(&mut self) {
        let (now, peer_up) = (self.now(), self.peer_alive());
        let metrics = &mut self.metrics;
        metrics.active.set(i64::from(self.reign.is_some()));
        metrics.peer_up.set(i64::from(peer_up));
        metrics.bad_heartbeats.set(self.bad_heartbeats);
        for service in self.services.iter() {
            let name = &*service.id.name;
            let view = service.group.view();
            let answers = |addr| matches!(view.health(addr, now), Health::Up | Health::Suspect);
            let record = view.state().map(|s| (s.epoch, s.in_sync.len(), answers(&s.primary.addr)));
            metrics.service(name, record, service.paused.is_some());
            for addr in view.backends.keys() {
                let up = matches!(view.health(addr, now), Health::Up | Health::Suspect);
                metrics.backend(
                    name,
                    addr,
                    up,
                    up && service.brown_outs.contains_key(addr),
                    status::lag(view, addr),
                );
            }
        }
    }

    /// The voter answers with what `/services` shows: as of the last heartbeat, or, where there are so many services that
    /// this takes long, as of the last decision and some seconds at most.
    pub(super) fn show(&mut self) {
        let begun = self.now();
        if let Some(pair) = &self.pair
            && self.reign.is_some()
            && begun >= self.next_show
        {
            pair.set_reply(self.status().into_bytes());
            let now = self.now();
            self.next_show = now + SHOW_SHARE * (now - begun);
        }
    }
}

pub(super) fn word(state: PairState) -> &'static str {
    match state {
        PairState::Primary => "PRIMARY",
        PairState::Backup => "BACKUP",
        PairState::Active => "ACTIVE",
        PairState::Passive => "PASSIVE",
    }
}
