//! What the driver does for each service: events to its group, the group's actions to the world, lines to the log.

use std::time::Duration;

use failover::{Action, Event, Health, Order, Outcome, PublishOutcome, Reason, Timeline};
use serde_json::{Value, json};
use tokio::time::sleep;
use topology::zookeeper::{Seen, SessionPhase, Versioned};
use topology::{Endpoint, Phase, ZnodePath};
use tracing::{Level, debug, error, info, warn};

use super::{Driver, Input};
use crate::metrics::{OfService, phases};
use crate::publisher::Publisher;
use crate::service::{Service, path_event, state_event};

/// The same warning is not given again within this time.
const QUIET_FOR: Duration = Duration::from_secs(30);

impl Driver {
    pub(super) fn add_service(&mut self, path: ZnodePath, discovered: bool) {
        let name = path.name().to_owned();
        if let Some(known) = self.services.get(&name) {
            if known.path != path {
                warn!("service {path} is ignored: the name `{name}` belongs to {}", known.path);
                self.metrics.ignored_services.inc();
            }
            return;
        }
        let limits = self.around.config.limits();
        let mut service = Service::new(path.clone(), limits, &self.me.name, discovered);
        let (state, announced) =
            (self.store.follow(&self.layout.state(&path)), self.store.follow(path.as_str()));
        service.follow(state, announced, &self.around.inputs);
        self.services.insert(name.clone(), service);
        info!(service = name, "watching {path}");
        let answers = self.session.is_some_and(|session| session.phase == SessionPhase::Connected);
        self.group(&name, Event::Store(answers));
        self.group(&name, Event::Reign(self.reign));
        self.others.clone().iter().for_each(|monitor| self.follow_view(monitor, &name));
    }

    pub(super) fn remove_service(&mut self, name: &str) {
        let Some(service) = self.services.remove(name) else { return };
        info!(service = name, "{} is gone; not watched any more", service.path);
        self.metrics.forget(name, service.backends.keys().map(ToString::to_string));
        self.views.retain(|(_, of), task| {
            let keep = of != name;
            if !keep {
                task.abort();
            }
            keep
        });
    }

    pub(super) fn discovered(&mut self, names: &[String]) {
        let Some(parent) = self.around.config.zookeeper.discover.clone() else { return };
        let gone: Vec<String> = self
            .services
            .iter()
            .filter(|(name, service)| service.discovered && !names.contains(name))
            .map(|(name, _)| name.clone())
            .collect();
        gone.iter().for_each(|name| self.remove_service(name));
        for name in names {
            match parent.child(name) {
                Ok(path) => self.add_service(path, true),
                Err(error) => warn!("not a service: {error}"),
            }
        }
    }

    pub(super) fn group(&mut self, name: &str, event: Event) {
        let clock = self.around.clock;
        let Some(service) = self.services.get_mut(name) else { return };
        let actions = service.handle(event, clock);
        service.tend_probes(&self.around);
        for action in actions {
            self.perform(name, action);
        }
        if let Some(service) = self.services.get_mut(name) {
            tell_record(name, service);
        }
        self.write_opinion(name);
    }

    pub(super) fn perform(&mut self, name: &str, action: Action) {
        let Some(service) = self.services.get(name) else { return };
        match action {
            Action::Publish(publication) => {
                let (publisher, path) = (self.bound_publisher(), service.path.clone());
                self.later(name, async move {
                    let outcome = publisher.publish(&path, &publication).await;
                    if outcome == PublishOutcome::Failed {
                        // Not at once: ZooKeeper is away, or somebody else is faster.
                        sleep(Duration::from_millis(10)).await;
                    }
                    vec![Event::Published(publication.number, outcome)]
                });
            }
            Action::Order(order) => match service.backends.get(&order.backend) {
                Some(backend) => backend.order(order),
                None => self.later(name, async move { vec![Event::Ordered(order.backend, Outcome::Lost)] }),
            },
            Action::Look(addr) => {
                if let Some(backend) = service.backends.get(&addr) {
                    backend.look();
                }
            }
            Action::Reread => {
                let (store, path, state) =
                    (self.store.clone(), service.path.clone(), self.layout.state(&service.path));
                self.later(name, async move {
                    let (state, path) = tokio::join!(store.get(&state), store.get(path.as_str()));
                    let read = |found: Option<Versioned>| found.map_or(Seen::Absent, Seen::There);
                    let state = state.ok().and_then(|found| state_event(&read(found)));
                    let path = path.ok().and_then(|found| path_event(&read(found)));
                    state.into_iter().chain(path).collect()
                });
            }
            Action::Say(reason) => self.say(name, &reason),
            Action::Completed(timeline) => self.completed(name, &timeline),
        }
    }

    /// Runs something beside the loop and hands its events to the group when it ends.
    pub(super) fn later(&self, name: &str, work: impl Future<Output = Vec<Event>> + Send + 'static) {
        let (inputs, name) = (self.around.inputs.clone(), name.to_owned());
        tokio::spawn(async move {
            for event in work.await {
                // The driver ends after its tasks.
                let _ = inputs.send(Input::Group(name.clone(), event));
            }
        });
    }

    pub(super) fn bound_publisher(&self) -> Publisher {
        let store = match self.registered {
            Some(generation) => self.store.at(generation),
            None => self.store.clone(),
        };
        Publisher::new(store, self.layout.clone())
    }

    /// The reason changed. What is decided is told when it stands ([`tell_record`]); what is wrong is told at once,
    /// but not again and again while two reasons take turns.
    pub(super) fn say(&mut self, name: &str, reason: &Reason) {
        let now = self.now();
        let Some(service) = self.services.get_mut(name) else { return };
        let mut text = reason.to_string();
        if let Reason::NobodyEligible(_) = reason {
            text = format!("{text}: {}", words(&service.group.view().candidates(now)));
        }
        match loudness(reason) {
            Level::INFO => info!(service = name, "{text}"),
            level @ (Level::WARN | Level::ERROR) => {
                let again =
                    service.warned.as_ref().is_some_and(|(last, at)| *last == text && now < *at + QUIET_FOR);
                if again {
                    debug!(service = name, "{text}");
                    return;
                }
                match level {
                    Level::ERROR => error!(service = name, "{text}"),
                    _ => warn!(service = name, "{text}"),
                }
                service.warned = Some((text, now));
            }
            _ => debug!(service = name, "{text}"),
        }
    }

    /// What changes of a znode or a server are worth a line.
    pub(super) fn tell(&mut self, name: &str, event: &Event) {
        let Some(service) = self.services.get_mut(name) else { return };
        match event {
            Event::State(failover::Stored::Damaged(why), version) => {
                warn!(
                    service = name,
                    version, "the state znode holds {why}; the last good record stays in force"
                );
                self.metrics.damaged.get_or_create(&OfService { service: name.to_owned() }).inc();
            }
            Event::Announced(failover::view::Announced::Broken(why), version) => {
                warn!(
                    service = name,
                    version, "{} holds no topology: {why}; the last good one stays in force", service.path
                );
                self.metrics.damaged.get_or_create(&OfService { service: name.to_owned() }).inc();
            }
            Event::Seen(addr, ..) => _ = service.words.remove(addr),
            Event::Ordered(addr, Outcome::Deposed(fence)) => {
                let text =
                    format!("{addr} carries epoch {fence}, newer than this monitor's record; looking again");
                if service.warned.as_ref().is_none_or(|(last, _)| *last != text) {
                    warn!(service = name, "{text}");
                    service.warned = Some((text, self.around.clock.now()));
                }
            }
            Event::Ordered(addr, outcome) => tell_outcome(name, addr, outcome),
            Event::Reign(_)
            | Event::Store(_)
            | Event::Peer(_)
            | Event::State(..)
            | Event::Announced(..)
            | Event::Opened(_)
            | Event::Greeted(..)
            | Event::Closed(_)
            | Event::ConnectionRefused(_)
            | Event::Troubled(..)
            | Event::Published(..)
            | Event::Stalled
            | Event::Tick => {}
        }
    }

    pub(super) fn completed(&self, name: &str, timeline: &Timeline) {
        let Some(service) = self.services.get(name) else { return };
        let short = timeline.reason.split([':', ';']).next().unwrap_or_default();
        self.metrics.completed(name, short, timeline);
        let millis = |took: Duration| (took.as_secs_f64() * 1e5).round() / 1e2;
        let phases: serde_json::Map<String, Value> = phases(timeline)
            .into_iter()
            .map(|(phase, took)| (format!("{phase}_ms"), json!(millis(took))))
            .collect();
        info!(
            service = name,
            epoch = timeline.epoch,
            phases = %json!(phases),
            "failover from {} to {} is complete",
            timeline.from,
            timeline.to
        );
        let verdict = |(addr, why): &(Endpoint, Option<failover::Disqualified>)| json!({"addr": addr, "eligible": why.is_none(), "why": why.map(|why| why.to_string())});
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let record = json!({
            "epoch": timeline.epoch,
            "when_ms": since.as_millis() as u64,
            "what": "failover",
            "why": timeline.reason,
            "from": timeline.from,
            "to": timeline.to,
            "leader": self.me.name,
            "candidates": timeline.candidates.iter().map(verdict).collect::<Vec<_>>(),
            "phases": phases,
            "lost_bytes_seen": timeline.gap_bytes,
        });
        let (publisher, path) = (self.bound_publisher(), service.path.clone());
        tokio::spawn(async move { publisher.remember(&path, record).await });
    }
}

fn words(verdicts: &[(Endpoint, Option<failover::Disqualified>)]) -> String {
    let one = |(addr, why): &(Endpoint, Option<failover::Disqualified>)| match why {
        Some(why) => format!("{addr} ({why})"),
        None => format!("{addr} (eligible)"),
    };
    verdicts.iter().map(one).collect::<Vec<_>>().join(", ")
}

pub(super) fn acted(name: &str, order: &Order) {
    let primary = &order.record.primary.addr;
    match &order.deed {
        failover::Deed::Attach => info!(service = name, "set {} as replica of {primary}", order.backend),
        failover::Deed::Promote { .. } => {
            info!(service = name, epoch = order.record.epoch, "promoted {primary}")
        }
        failover::Deed::Stamp => debug!(service = name, epoch = order.record.epoch, "stamped {primary}"),
        failover::Deed::Protect => info!(service = name, "{} is read-only again", order.backend),
    }
}

fn tell_outcome(name: &str, addr: &Endpoint, outcome: &Outcome) {
    match outcome {
        Outcome::Done(_) | Outcome::Deposed(_) => {}
        Outcome::Refused(failover::Refused::HoldsData) => {
            debug!(service = name, "{addr}: {}", failover::Refused::HoldsData);
        }
        Outcome::Refused(why) => info!(service = name, "{addr} was left alone: {why}"),
        Outcome::Raced => debug!(service = name, "{addr}: somebody else acted; looking again"),
        Outcome::Lost => debug!(service = name, "{addr}: the connection was lost; looking again"),
        Outcome::Rejected(why) => warn!(service = name, "{addr} refused a command: {why}"),
        Outcome::NoCredential(why) => {
            warn!(
                service = name,
                "{addr} does not let us make the replication credential ({why}); restart_guard is off"
            );
        }
    }
}

/// Who must react to a reason.
#[allow(clippy::wildcard_enum_match_arm)] // of `Health`: only a server that answers with an error is worth a warning
fn loudness(reason: &Reason) -> Level {
    match reason {
        Reason::Failover(..) => Level::INFO,
        Reason::PrimaryTroubled(Health::Suspect | Health::Unknown | Health::Up)
        | Reason::Healthy
        | Reason::Announcing
        | Reason::Promoting
        | Reason::Passive
        | Reason::Unread
        | Reason::Looking(_)
        | Reason::Confirming(_)
        | Reason::Birth
        | Reason::Growing(_)
        | Reason::Shrinking(_) => Level::DEBUG,
        Reason::PrimaryTroubled(_)
        | Reason::PrimaryUnreachable
        | Reason::StoreAway(_)
        | Reason::NoTopology(_)
        | Reason::BirthWaits(..)
        | Reason::RecordRestored
        | Reason::TooSoon(_)
        | Reason::Deposed(_)
        | Reason::AnnouncementRestored(_) => Level::WARN,
        Reason::RecordDamaged | Reason::NobodyEligible(_) => Level::ERROR,
    }
}

/// The lines that people look for: what was decided, and who is primary, when that changes.
fn tell_record(name: &str, service: &mut Service) {
    let Some(state) = service.state() else { return };
    let (epoch, promoted) = (state.epoch, state.promoted == state.epoch);
    let primary = (state.phase == Phase::Serving).then(|| (state.primary.addr.clone(), state.promoted));
    if service.told_epoch != epoch {
        if !promoted {
            info!(service = name, epoch, leader = state.leader, "{}", state.reason);
        }
        service.told_epoch = epoch;
    }
    if let Some(primary) = primary.filter(|primary| service.told.as_ref() != Some(primary)) {
        info!(service = name, epoch, "Primary Redis is {}", primary.0);
        service.told = Some(primary);
    }
}
