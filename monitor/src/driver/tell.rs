//! The lines of the log about a service: what was decided, who is primary, what is wrong.

use std::sync::Arc;

use failover::cold::Wait;
use failover::{Declined, Done, Event, Health, Order, Outcome, Reason, Time};
use topology::zookeeper::PublishError;
use topology::{Endpoint, Phase};
use tracing::{Level, debug, error, info, trace, warn};

use super::Driver;
use crate::redis::BrownOut;
use crate::service::Service;

impl Driver {
    /// The reason changed. What is decided is told when it stands ([`tell_record`]); what is wrong is told at once, or,
    /// where it may be the first sight of a failover, when it lasts.
    pub(super) fn say(&mut self, name: &str, reason: &Reason) {
        let now = self.now();
        let Some(service) = self.services.get_mut(name) else { return };
        // The first sight of a failover, or of a cold start: most of these are over within milliseconds.
        let first_sight = matches!(
            reason,
            Reason::PrimaryUnreachable
                | Reason::NobodyEligible(_)
                | Reason::ColdStartWaits(_)
                | Reason::Braked(_)
                | Reason::WritesWait(_)
        );
        service.untold = first_sight.then(|| (reason.clone(), now));
        match service.untold {
            Some(_) => debug!(service = name, "{reason}"),
            None => {
                tell_reason(service, reason, now);
                self.refused(name, reason);
            }
        }
    }

    /// Looked at once a heartbeat: faults that last, servers that are down, servers that are back.
    pub(super) fn tell_what_lasts(&mut self, of: &[Arc<str>]) {
        let (now, heartbeat) = (self.now(), self.heartbeat());
        let mut last = Vec::new();
        for name in of {
            let Some(service) = self.services.get_mut(name) else { continue };
            tell_health(service, now);
            if let Some((reason, _)) = service.untold.take_if(|(_, since)| now >= *since + heartbeat) {
                tell_reason(service, &reason, now);
                last.push((name, reason));
            }
        }
        for (name, reason) in last {
            self.refused(name, &reason);
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
                        warn!(service = name, version, "{at}: {why}; the last good record stays in force");
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
            Event::Ordered(addr, _, outcome) => tell_outcome(service, addr, outcome, now),
            Event::Reign(_)
            | Event::Store(_)
            | Event::Peer(_)
            | Event::State(..)
            | Event::Announced(..)
            | Event::Tried(_)
            | Event::Opened(_)
            | Event::Greeted(..)
            | Event::Closed(_)
            | Event::ConnectionRefused(_)
            | Event::Troubled(..)
            | Event::Published(..)
            | Event::Asked(..)
            | Event::Paused(_)
            | Event::Limits(_)
            | Event::Brake(_)
            | Event::Stalled
            | Event::Unheard(_)
            | Event::Unanswered(_)
            | Event::Tick => {}
        }
    }

    /// Somebody wrote another primary into `<path>` by hand.
    pub(super) fn edited(&self, name: &str, to: &Endpoint, outcome: Option<&Result<Done, Declined>>) {
        match outcome {
            None => warn!(
                service = name,
                "the path was edited by hand: primary {to} asked for, a switchover begins"
            ),
            Some(Ok(_)) => info!(service = name, "the switchover to {to}, asked for in the path, is done"),
            Some(Err(why)) => {
                warn!(service = name, "primary {to}, asked for in the path, is put back: {why}");
                let why = format!("asked for in the path, which is put back: {why}");
                self.remember_refusal(name, "switchover refused", &why, Some(to));
            }
        }
    }
}

#[allow(clippy::wildcard_enum_match_arm)] // which reasons are decisions is all that counts here
fn tell_reason(service: &mut Service, reason: &Reason, now: Time) {
    let name = service.path.name();
    let mut text = reason.to_string();
    if matches!(reason, Reason::NobodyEligible(_)) {
        let verdicts = words(&service.group.view().candidates(now));
        let verdicts = if verdicts.is_empty() { "there is no other server".into() } else { verdicts };
        text = format!("{text}: {verdicts} (docs/operations.md says what can be done)");
    }
    if matches!(reason, Reason::ColdStartWaits(_)) && loudness(reason) == Level::ERROR {
        text += " (docs/operations.md says how)";
    }
    if *reason == Reason::PrimaryUnreachable {
        text += ": its replicas or the other monitor still hear it; look at the network from here";
    }
    let level = loudness(reason);
    // Each failover is an occasion of its own, however much it is like the one before.
    let epoch = match reason {
        Reason::Failover(..) | Reason::ColdStart(_) | Reason::Switchover(_) => {
            service.group.view().state().map_or(0, |state| state.epoch)
        }
        _ => 0,
    };
    if level == Level::DEBUG || !service.quiet.is_due(format!("{reason} {epoch}"), now) {
        return debug!(service = name, "{text}");
    }
    match level {
        Level::ERROR => error!(service = name, "{text}"),
        Level::WARN => warn!(service = name, "{text}"),
        _ => info!(service = name, "{text}"),
    }
}

/// What is told is what was told last, so that after a time of ups and downs the last line is true again.
fn tell_health(service: &mut Service, now: Time) {
    let (name, view) = (service.path.name(), service.group.view());
    for addr in view.backends.keys() {
        let told = service.told_health.get(addr).copied().unwrap_or_default();
        let health = view.health(addr, now);
        match health {
            // The words of one that is troubled are told by themselves.
            Health::Unknown | Health::Suspect | Health::Troubled(_) => {}
            Health::Up if told.is_empty() => {}
            Health::Up => {
                info!(service = name, "{addr} answers again");
                service.told_health.remove(addr);
            }
            Health::Refused(_) | Health::Silent(_) if told == health.word() => {}
            Health::Refused(_) | Health::Silent(_) => {
                if service.quiet.is_due(format!("{addr} down"), now) {
                    let refused = matches!(health, Health::Refused(_));
                    let why = if refused { "connections are refused" } else { "no answer for down_after_ms" };
                    warn!(service = name, "{addr} is down: {why}");
                    service.told_health.insert(addr.clone(), health.word());
                }
            }
        }
    }
}

/// A server answers with an error: what it says, and where that can be mended by us.
pub(super) fn tell_words(service: &mut Service, addr: &Endpoint, words: &str, now: Time) {
    let name = service.path.name();
    let hint = match first_word(words) {
        "NOAUTH" | "WRONGPASS" => " (see [redis] username, password)",
        "NOPERM" => " (the user of [redis] needs more rights)",
        _ => "",
    };
    if service.quiet.is_due(format!("{addr} says {words}"), now) {
        warn!(service = name, "{addr} answers: {words}{hint}");
        service.told_health.insert(addr.clone(), "troubled");
    } else {
        debug!(service = name, "{addr} answers: {words}");
    }
}

/// A server has no room for writes, or has some again.
pub(super) fn tell_brown_out(service: &mut Service, addr: &Endpoint, now: Option<BrownOut>) {
    if !service.backends.contains_key(addr) {
        return; // it left
    }
    let name = service.path.name();
    let before = service.brown_outs.get(addr).map(|before| before.kind);
    match &now {
        Some(now) if before != Some(now.kind) => warn!(service = name, "{addr}: {}", now.words),
        None if before.is_some() => info!(service = name, "{addr} has room for writes again"),
        Some(_) | None => {}
    }
    match now {
        Some(now) => _ = service.brown_outs.insert(addr.clone(), now),
        None => _ = service.brown_outs.remove(addr),
    }
}

fn words(verdicts: &[(Endpoint, Option<failover::Disqualified>)]) -> String {
    let one = |(addr, why): &(Endpoint, Option<failover::Disqualified>)| match why {
        Some(why) => format!("{addr} ({why})"),
        None => format!("{addr} (eligible)"),
    };
    verdicts.iter().map(one).collect::<Vec<_>>().join(", ")
}

pub(super) fn acted(service: &mut Service, order: &Order, now: Time) {
    let name = service.path.name();
    let primary = &order.record.primary.addr;
    match &order.deed {
        failover::Deed::Attach => {
            // One that calls in vain is told again and again under the same record.
            match service.quiet.is_due(format!("attach {} {}", order.backend, order.version), now) {
                true => info!(service = name, "set {} as replica of {primary}", order.backend),
                false => debug!(service = name, "set {} as replica of {primary} again", order.backend),
            }
        }
        failover::Deed::Promote { .. } => {
            info!(service = name, epoch = order.record.epoch, "promoted {primary}")
        }
        failover::Deed::Stamp => debug!(service = name, epoch = order.record.epoch, "stamped {primary}"),
        failover::Deed::Leave => {
            info!(service = name, "{} takes no write any more: {primary} takes over", order.backend)
        }
        failover::Deed::Detach => {
            info!(service = name, "{} follows nobody now, and keeps what it holds", order.backend)
        }
        failover::Deed::Release => {
            info!(service = name, "{} is no member any more, and follows nobody", order.backend)
        }
        failover::Deed::Pause => debug!(service = name, "holds the writers of {}", order.backend),
        failover::Deed::Unpause => debug!(service = name, "the writers of {} go on", order.backend),
        failover::Deed::Tick => trace!(service = name, "counted up the tick of {primary}"),
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
                failover::Refused::HoldsData | failover::Refused::SameProcess => {
                    warn!(service = name, "{addr} was left alone: {why}")
                }
                failover::Refused::OtherProcess
                | failover::Refused::FenceUnreadable
                | failover::Refused::Candidate(_)
                | failover::Refused::OtherRole => info!(service = name, "{addr} was left alone: {why}"),
            }
        }
        Outcome::Rejected(why) if due(&format!("rejected {why}")) => {
            warn!(service = name, "{addr} refused {why}");
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

/// Who must react to a reason. That ZooKeeper is away is told once, not for every service.
#[allow(clippy::wildcard_enum_match_arm)] // of `Health`: only a server that answers with an error is worth a warning
fn loudness(reason: &Reason) -> Level {
    match reason {
        Reason::Failover(..) | Reason::Switchover(_) => Level::INFO,
        Reason::PrimaryTroubled(Health::Suspect | Health::Unknown | Health::Up)
        | Reason::Healthy
        | Reason::Paused(None)
        | Reason::StoreAway(None)
        | Reason::Announcing
        | Reason::Promoting
        | Reason::Passive(_)
        | Reason::Unread
        | Reason::Looking(_)
        | Reason::Confirming(_)
        | Reason::Birth
        | Reason::Growing(_)
        | Reason::Adopting(_)
        | Reason::Adding(_)
        | Reason::Switching
        | Reason::Removing(_)
        | Reason::Shrinking(_) => Level::DEBUG,
        Reason::PrimaryTroubled(_)
        | Reason::PrimaryUnreachable
        | Reason::WritesWait(_)
        | Reason::FenceUnreadable
        | Reason::StoreAway(Some(_))
        | Reason::NoTopology(_)
        | Reason::BirthWaits(..)
        | Reason::RecordRestored
        | Reason::TooSoon(_)
        | Reason::Braked(_)
        | Reason::Deposed(_)
        | Reason::ColdStart(_)
        | Reason::LossAccepted(_)
        | Reason::GivenBack(_)
        | Reason::ColdStartWaits(Wait::Loading(_) | Wait::Settling)
        | Reason::AnnouncementRestored(_) => Level::WARN,
        Reason::RecordDamaged
        | Reason::NobodyEligible(_)
        | Reason::Paused(Some(_))
        | Reason::ColdStartWaits(_) => Level::ERROR,
    }
}

/// The lines that people look for: what was decided, and who is primary, when that changes.
pub(super) fn tell_record(name: &str, service: &mut Service) {
    let me = &service.group.view().me;
    let Some(state) = service.group.view().state() else { return };
    let (epoch, promoted, in_sync) = (state.epoch, state.promoted == state.epoch, state.in_sync.len());
    let primary = (state.phase == Phase::Serving).then(|| (state.primary.addr.clone(), state.promoted));
    if service.told_epoch != epoch {
        let (leader, reason) = (&state.leader, &state.reason);
        let fewer = in_sync < service.told_in_sync;
        match service.told_epoch {
            0 => debug!(service = name, epoch, leader, "last decision: {reason}"),
            // The one that decides it tells it before.
            _ if promoted && leader == me => {}
            _ if fewer && !promoted => warn!(service = name, epoch, leader, "{reason}"),
            _ => info!(service = name, epoch, leader, "{reason}"),
        }
        if fewer && in_sync == 0 {
            warn!(service = name, epoch, "no replica is in sync: if the primary dies now, nobody takes over");
        }
        (service.told_epoch, service.told_in_sync) = (epoch, in_sync);
    }
    if let Some(primary) = primary.filter(|primary| service.told.as_ref() != Some(primary)) {
        info!(service = name, epoch, "Primary Redis is {}", primary.0);
        service.told = Some(primary);
    }
}
