//! The lines of the log about a service: what was decided, who is primary, what is wrong; and the history.

use std::time::Duration;

use failover::{Event, Health, Order, Outcome, Reason, Time, Timeline};
use serde_json::{Value, json};
use topology::zookeeper::PublishError;
use topology::{Endpoint, Phase};
use tracing::{Level, debug, error, info, warn};

use super::Driver;
use crate::metrics::phases;
use crate::service::Service;

impl Driver {
    /// The reason changed. What is decided is told when it stands ([`tell_record`]); what is wrong is told at once,
    /// but not again and again while two reasons take turns.
    pub(super) fn say(&mut self, name: &str, reason: &Reason) {
        let now = self.now();
        let Some(service) = self.services.get_mut(name) else { return };
        let mut text = reason.to_string();
        if let Reason::NobodyEligible(_) = reason {
            text = format!("{text}: {}", words(&service.group.view().candidates(now)));
        }
        let level = loudness(reason);
        if level == Level::DEBUG || !service.quiet.is_due(reason.to_string(), now) {
            return debug!(service = name, "{text}");
        }
        match level {
            Level::ERROR => error!(service = name, "{text}"),
            Level::WARN => warn!(service = name, "{text}"),
            _ => info!(service = name, "{text}"),
        }
    }

    /// What changes of a znode or a server are worth a line.
    pub(super) fn tell(&mut self, name: &str, event: &Event) {
        let now = self.now();
        let Some(service) = self.services.get_mut(name) else { return };
        match event {
            Event::State(failover::Stored::Damaged(why), version) => {
                // One and the same content is read more than once.
                if service.damaged_at[0].replace(*version) != Some(*version) {
                    self.metrics.damaged(name);
                    if service.quiet.is_due("state damaged", now) {
                        let at = self.layout.state(&service.path);
                        warn!(
                            service = name,
                            version, "{at} holds {why}; the last good record stays in force"
                        );
                    }
                }
            }
            Event::Announced(failover::view::Announced::Broken(why), version) => {
                if service.damaged_at[1].replace(*version) != Some(*version) {
                    self.metrics.damaged(name);
                    if service.quiet.is_due("path broken", now) {
                        let at = &service.path;
                        warn!(
                            service = name,
                            version, "{at} holds no topology: {why}; the last good one stays in force"
                        );
                    }
                }
            }
            Event::Seen(addr, ..) => _ = service.words.remove(addr),
            Event::Ordered(addr, outcome) => tell_outcome(service, addr, outcome, now),
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

    pub(super) fn completed(&mut self, name: &str, timeline: &Timeline) {
        let Some(service) = self.services.get(name) else { return };
        let short = timeline.reason.split([':', ';']).next().unwrap_or_default();
        self.metrics.completed(name, short, timeline);
        let millis = |took: Duration| (took.as_secs_f64() * 1e5).round() / 1e2;
        let phases: serde_json::Map<String, Value> = phases(timeline)
            .into_iter()
            .map(|(phase, took)| (format!("{phase}_ms"), json!(millis(took))))
            .collect();
        let from = timeline.from.as_ref().map_or("an unknown primary".to_owned(), ToString::to_string);
        let begun = if timeline.begun.is_some() { "" } else { "; another monitor began it" };
        info!(
            service = name,
            epoch = timeline.epoch,
            phases = %json!(phases),
            "failover from {from} to {} is complete{begun}",
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

/// How an order ended, where that is worth a line. The same happens every few milliseconds while its cause lasts.
fn tell_outcome(service: &mut Service, addr: &Endpoint, outcome: &Outcome, now: Time) {
    let name = service.path.name().to_owned();
    let mut due = |kind: &str| service.quiet.is_due(format!("{addr} {kind}"), now);
    match outcome {
        Outcome::Done(_) => {}
        Outcome::Deposed(fence) if due("deposed") => warn!(
            service = name,
            "{addr} carries epoch {fence}, newer than this monitor's record; looking again"
        ),
        Outcome::Refused(why) if due(&format!("refused {:?}", std::mem::discriminant(why))) => {
            match why {
                // It stays so until an operator acts.
                failover::Refused::HoldsData => warn!(service = name, "{addr} was left alone: {why}"),
                failover::Refused::OtherProcess
                | failover::Refused::FenceUnreadable
                | failover::Refused::Candidate(_)
                | failover::Refused::OtherRole => info!(service = name, "{addr} was left alone: {why}"),
            }
        }
        Outcome::Rejected(why) if due(&format!("rejected {}", first_word(why))) => {
            warn!(service = name, "{addr} refused a command: {why}");
        }
        Outcome::NoCredential(why) if due("no credential") => warn!(
            service = name,
            "{addr} does not let us make the replication credential ({why}); restart_guard is off"
        ),
        Outcome::Deposed(_) | Outcome::Refused(_) | Outcome::Rejected(_) | Outcome::NoCredential(_) => {
            debug!(service = name, "{addr}: {outcome:?} again");
        }
        Outcome::Raced => debug!(service = name, "{addr}: somebody else acted; looking again"),
        Outcome::Lost => debug!(service = name, "{addr}: the connection was lost; looking again"),
    }
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// The error is told with its cause, which may last; what comes of it, the reason tells.
pub(super) fn not_published(service: &mut Service, epoch: u64, error: &PublishError, now: Time) {
    let name = service.path.name();
    if service.quiet.is_due(format!("not published {:?}", std::mem::discriminant(error)), now) {
        warn!(service = name, epoch, "not published: {error}; looking again");
    } else {
        debug!(service = name, epoch, "not published: {error}; looking again");
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
        | Reason::Adopting(_)
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
pub(super) fn tell_record(name: &str, service: &mut Service) {
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
