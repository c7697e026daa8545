//! Everything known of a group -> what is to be done now, and why.
//!
//! Called again after every event. It remembers nothing, so a crash between two steps needs no recovery code: the
//! next call, in this process or in the peer's, starts from what is recorded and observed.
//!
//! Order of every change: publish the decision, act on Redis and stamp, announce (docs/protocol.md, section 3).

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use topology::{Endpoint, InSync, LAST_EPOCH, Phase, PrimaryRef, State, Topology};

use crate::detector::Health;
use crate::order::Deed;
use crate::request::{self, Asked, Declined, Done, Request};
use crate::set::{self, Outside, Unfit};
use crate::view::{ASK_FOR, Announced, CONFIRM_WAIT, Fault, Fence, Observation, Pause, Paused, Role, View};
use crate::{Disqualified, Time, Trouble};
use crate::{candidate, cold, mass, switchover};

/// How often a busy primary's tick is counted up.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// More than what the tick and some pings add to the stream: about 100 bytes, and 14 every ten seconds.
const TICK_BYTES: u64 = 200;

/// What is to be done now, in this order, and the reason that stands above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The steps; each is done once, however often it is asked for while it is under way.
    pub steps: Vec<Step>,
    /// Why.
    pub because: Reason,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Replace the record, and the announcement with it where `announce` says so.
    Publish {
        /// The next record.
        next: State,
        /// Whether `<path>` is written in the same transaction.
        announce: bool,
    },
    /// A guarded command (R1).
    Order {
        /// The server.
        backend: Endpoint,
        /// What is to be done to it.
        deed: Deed,
    },
    /// Ask this server now.
    Look(Endpoint),
    /// What an operator asked for is done, or will not be.
    Answer(Result<Done, Declined>),
}

/// Why something is done, or is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// This monitor does not lead; with what is wrong as it sees it.
    Passive(Option<Fault>),
    /// ZooKeeper has not been read yet.
    Unread,
    /// A server was just asked, or something was just done to it: its answer is awaited.
    Looking(Endpoint),
    /// ZooKeeper does not answer, so nothing can be published (R11); with what is wrong meanwhile.
    StoreAway(Option<Fault>),
    /// There is no record, and what `<path>` holds cannot become one.
    NoTopology(String),
    /// There is no record, and the named primary is away or is no primary (R0).
    BirthWaits(Endpoint, &'static str),
    /// The first record (R0).
    Birth,
    /// What stands in `state` is no record, and this monitor does not know for certain what stood there last.
    RecordDamaged,
    /// What stands in `state` is no record; the last good one is put back.
    RecordRestored,
    /// All is as recorded.
    Healthy,
    /// An operator has paused the group; with what is wrong meanwhile.
    Paused(Option<Fault>),
    /// The primary is late or answers with an error; no failover.
    PrimaryTroubled(Health),
    /// This monitor cannot reach the primary, but others can (R10); no failover.
    PrimaryUnreachable,
    /// Replicas that should vouch for the loss, or that may be promoted, have not answered yet.
    Confirming(Fault),
    /// The primary is lost and nobody may be promoted.
    NobodyEligible(Fault),
    /// The primary is lost, and so are many others at once: the other monitor is asked ([`mass`]).
    Braked(Fault),
    /// The primary is lost, too soon after the last failover.
    TooSoon(Fault),
    /// Every process was restarted, and nobody may take over yet (R14).
    ColdStartWaits(cold::Wait),
    /// Every process was restarted; this server takes over with what it holds.
    ColdStart(Endpoint),
    /// The primary is lost and this one takes over.
    Failover(Fault, Endpoint),
    /// The recorded promotion is carried out.
    Promoting,
    /// The promotion is done and is announced.
    Announcing,
    /// Members of the set are taken out of it.
    Shrinking(Vec<(Endpoint, Unfit)>),
    /// Replicas enter the set.
    Growing(Vec<Endpoint>),
    /// Servers belong to the group from now on, with what they hold (R0).
    Adopting(Vec<Endpoint>),
    /// An operator adds this member.
    Adding(Endpoint),
    /// An operator takes this member out.
    Removing(Endpoint),
    /// An operator has this one take over with what it holds.
    LossAccepted(Endpoint),
    /// An operator has this one take over from a primary that lives (R15).
    Switchover(Endpoint),
    /// The way there.
    Switching,
    /// It lacked bytes of the old primary, which goes on.
    GivenBack(Endpoint),
    /// Members of the set that no write can be confirmed without are in no state to do so, and may not leave.
    WritesWait(Vec<(Endpoint, Unfit)>),
    /// The key `albireo:fence` on the primary is no number; nobody may stamp over it.
    FenceUnreadable,
    /// `<path>` was changed by hand or destroyed; what is recorded is put back.
    AnnouncementRestored(String),
    /// The primary carries a higher epoch than the record: this monitor read an old record.
    Deposed(u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "primary gone: connection closed, a new one refused, lost by its replicas",
            Self::Silent => "primary silent for down_after_ms",
            Self::Restarted => "primary restarted: another process answers at its address",
            Self::Demoted => "primary follows another server",
            Self::Refused => "the promoted replica was not eligible any more",
            Self::Asked => "asked for by an operator",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passive(None) => f.write_str("this monitor is passive"),
            Self::Passive(Some(fault)) => write!(f, "this monitor is passive; as it sees it: {fault}"),
            Self::Unread => f.write_str("ZooKeeper has not been read yet"),
            Self::Looking(addr) => write!(f, "asking {addr}"),
            Self::StoreAway(None) => {
                f.write_str("ZooKeeper does not answer; what is published stays in force")
            }
            Self::StoreAway(Some(fault)) => {
                write!(f, "{fault}; ZooKeeper does not answer, so no failover is possible")
            }
            Self::NoTopology(why) => {
                write!(f, "there is no record yet, and the path cannot become one: {why}")
            }
            Self::BirthWaits(addr, why) => write!(f, "waiting for {addr}, named primary by the path: {why}"),
            Self::Birth => f.write_str("first record"),
            Self::RecordDamaged => f.write_str(
                "the state znode holds no record and it is not known what was published last; \
                 an operator must restore it",
            ),
            Self::RecordRestored => {
                f.write_str("the state znode held no record; the last good one is put back")
            }
            Self::Healthy => f.write_str("all is as recorded"),
            Self::Paused(None) => {
                f.write_str("paused by an operator: no failover and no re-pointing before `monitor resume`")
            }
            Self::Paused(Some(fault)) => {
                write!(f, "{fault}; paused by an operator, so nobody takes over before `monitor resume`")
            }
            Self::PrimaryTroubled(health) => {
                write!(f, "the primary answers late or with an error ({})", health.word())
            }
            Self::PrimaryUnreachable => f.write_str("the primary is unreachable from here, but not lost"),
            Self::Confirming(fault) => write!(f, "{fault}; asking the replicas"),
            Self::NobodyEligible(fault) => write!(f, "{fault}; nobody may be promoted"),
            Self::Braked(fault) => write!(
                f,
                "{fault}; so are many primaries at once (mass_failure_percent), and nobody else has seen it die"
            ),
            Self::TooSoon(fault) => write!(f, "{fault}; waiting for min_interval_ms since the last failover"),
            Self::ColdStartWaits(why) => write!(f, "no process is left that the record names; {why}"),
            Self::ColdStart(to) => write!(f, "cold start, loss possible; {to} takes over"),
            Self::Failover(fault, to) => write!(f, "{fault}; {to} takes over"),
            Self::Promoting => f.write_str("promotion under way"),
            Self::Announcing => f.write_str("promotion done"),
            Self::Shrinking(out) => {
                f.write_str("out of sync:")?;
                out.iter().try_for_each(|(addr, why)| write!(f, " {addr} ({why})"))
            }
            Self::Growing(new) => {
                f.write_str("in sync:")?;
                new.iter().try_for_each(|addr| write!(f, " {addr}"))
            }
            Self::WritesWait(members) => {
                f.write_str(
                    "writes that ask for copies wait for members that may not leave the set (min_in_sync):",
                )?;
                members.iter().try_for_each(|(addr, why)| write!(f, " {addr} ({why})"))
            }
            Self::FenceUnreadable => f.write_str(
                "the key albireo:fence on the primary is no number, and no write is accepted: delete it",
            ),
            Self::Adopting(new) => {
                f.write_str("attached for the first time:")?;
                new.iter().try_for_each(|addr| write!(f, " {addr}"))
            }
            Self::Adding(addr) => write!(f, "{addr} becomes a member, asked for by an operator"),
            Self::Removing(addr) => write!(f, "{addr} leaves the group, asked for by an operator"),
            Self::LossAccepted(to) => {
                write!(f, "loss accepted by an operator; {to} takes over with what it holds")
            }
            Self::Switchover(to) => write!(f, "switchover asked for by an operator; {to} takes over"),
            Self::Switching => f.write_str("a switchover is under way"),
            Self::GivenBack(to) => {
                write!(f, "switchover given up, for not every byte had arrived; {to} is primary again")
            }
            Self::AnnouncementRestored(what) => write!(f, "the path was changed by hand ({what}); put back"),
            Self::Deposed(fence) => {
                write!(f, "the primary carries epoch {fence}, which is newer than the record")
            }
        }
    }
}

pub(crate) fn wait(because: Reason) -> Decision {
    Decision { steps: Vec::new(), because }
}

pub(crate) fn publish(next: State, announce: bool, because: Reason) -> Decision {
    Decision { steps: vec![Step::Publish { next, announce }], because }
}

/// The next steps for one group.
pub fn decide(view: &View, now: Time) -> Decision {
    if view.reign.is_none() {
        let fault = || view.primary_fault(now).map(|(fault, _)| fault);
        return wait(if view.store_away { Reason::StoreAway(fault()) } else { Reason::Passive(fault()) });
    }
    if !view.record_read {
        return wait(Reason::Unread);
    }
    match (view.state(), view.record_damaged) {
        (None, _) | (Some(_), Some(_)) if view.store_away => wait(Reason::StoreAway(None)),
        (None, None) => birth(view, now),
        (None, Some(_)) => wait(Reason::RecordDamaged),
        // Only the last one: an older one under its old epoch would give this epoch a second meaning.
        (Some(_), Some(_)) if !view.record_is_the_last() => wait(Reason::RecordDamaged),
        (Some(state), Some(_)) => publish(state.clone(), false, Reason::RecordRestored),
        (Some(state), None) => recorded(view, state, now),
    }
}

/// The next steps under a record.
fn recorded(view: &View, state: &State, now: Time) -> Decision {
    if let Some(decision) = switchover::old_primary_first(view, state, now) {
        return decision;
    }
    match (view.primary_fault(now), state.phase) {
        // What is published is finished; nothing new begins.
        (Some((fault, _)), Phase::Serving) if view.paused == Paused::Yes => {
            let steps = refused_while_paused(view).into_iter().collect();
            Decision { steps, because: Reason::Paused(Some(fault)) }
        }
        (Some(_), Phase::Serving) if view.paused == Paused::Unread => wait(Reason::Unread),
        (None, Phase::Serving) if view.paused != Paused::No => {
            let mut decision = settle(view, state, now);
            decision.steps.extend(refused_while_paused(view));
            decision
        }
        (Some((fault, since)), _) => failover(view, state, fault, since, now),
        (None, Phase::Promoting) => finish(view, state, now),
        (None, Phase::Serving) => match &view.asked {
            Some(Asked { request: Request::Switchover { .. }, .. })
                if (view.store_away && !view.publishing) || deposed(view, state, now).is_some() =>
            {
                settle(view, state, now)
            }
            Some(asked @ Asked { request: Request::Switchover { to }, .. }) => {
                switchover::begin(view, state, asked, to.as_ref(), now)
            }
            Some(_) | None => match asked_for_failover(view) {
                Some((_, promoted, _)) if promoted != state.promoted => {
                    let steps = vec![Step::Answer(Ok(Done::FailedOver(None)))];
                    Decision { steps, because: Reason::Healthy }
                }
                // What is only asked for must not keep the group from being tended meanwhile.
                Some(_) if !view.store_away && is_too_soon(view, now) => {
                    Decision { because: Reason::TooSoon(Fault::Asked), ..settle(view, state, now) }
                }
                Some((_, _, at)) if !view.store_away && deposed(view, state, now).is_none() => {
                    failover(view, state, Fault::Asked, at, now)
                }
                Some(_) | None => settle(view, state, now),
            },
        },
    }
}

/// What an operator asked for and cannot have while the group is paused. What may have been published for him already is
/// carried out, and answered then.
fn refused_while_paused(view: &View) -> Option<Step> {
    if view.is_in_doubt() {
        return None;
    }
    match &view.asked.as_ref()?.request {
        Request::Failover { .. } | Request::Switchover { .. } if view.paused == Paused::Yes => {
            Some(Step::Answer(Err(Declined::Paused)))
        }
        Request::Failover { .. }
        | Request::Switchover { .. }
        | Request::Add { .. }
        | Request::Remove { .. } => None,
    }
}

/// Who is to take over if an operator asked for it, the last promotion before, and when it was asked.
fn asked_for_failover(view: &View) -> Option<(Option<&Endpoint>, u64, Time)> {
    let asked = view.asked.as_ref()?;
    match &asked.request {
        Request::Failover { to, .. } => Some((to.as_ref(), asked.promoted, asked.at)),
        Request::Add { .. } | Request::Remove { .. } | Request::Switchover { .. } => None,
    }
}

fn loss_is_accepted(view: &View) -> bool {
    matches!(&view.asked, Some(asked) if matches!(asked.request, Request::Failover { accept_loss: true, .. }))
}

/// The epoch of the recorded primary, if that is newer than the record.
fn deposed(view: &View, state: &State, now: Time) -> Option<u64> {
    match view.current(&state.primary.addr, now)?.fence {
        Fence::At(fence) => (fence > state.epoch).then_some(fence),
        Fence::Absent | Fence::Unreadable => None,
    }
}

/// R0: the first record, of the server that `<path>` names, if it is a primary and answers.
fn birth(view: &View, now: Time) -> Decision {
    let (topology, version) = match &view.announced {
        (Announced::Is(topology), version) => (topology, *version),
        (Announced::Unread, _) => return wait(Reason::Unread),
        (Announced::Missing, _) => {
            return wait(Reason::NoTopology("the znode is missing; run zoo-setup".into()));
        }
        (Announced::Broken(why), _) => return wait(Reason::NoTopology(why.clone())),
    };
    let addr = &topology.primary;
    let waits = |why| wait(Reason::BirthWaits(addr.clone(), why));
    let seen = match (view.health(addr, now), view.current(addr, now)) {
        (Health::Up, Some(seen)) => seen,
        (Health::Up | Health::Suspect | Health::Unknown, _) => return wait(Reason::Looking(addr.clone())),
        (Health::Troubled(Trouble::Loading), _) => return waits("it is loading its data"),
        (health, _) => return waits(health.word()),
    };
    if !matches!(seen.role, Role::Primary { .. }) {
        return waits("it is a replica; point it at nobody, or seed the path with the real primary");
    }
    if seen.fence != Fence::Absent {
        // A first record below that epoch could never act on this server, and would refuse the API's writes.
        return waits(
            "it carries the epoch of an earlier record; restore that record, \
             or delete the key albireo:fence on every server of the group",
        );
    }
    let members: Vec<Endpoint> = topology.members().cloned().collect();
    let next = State {
        epoch: 1,
        promoted: 1,
        primary: PrimaryRef { addr: addr.clone(), run_id: seen.run_id.clone(), replid: seen.replid.clone() },
        in_sync: Vec::new(),
        min_in_sync: view.limits.min_in_sync(members.len()),
        members,
        adopted: vec![addr.clone()],
        path_version: version,
        from: None,
        cold: false,
        floor: None,
        phase: Phase::Serving,
        leader: view.me.clone(),
        reason: Reason::Birth.to_string(),
    };
    publish(next, false, Reason::Birth)
}

fn is_too_soon(view: &View, now: Time) -> bool {
    view.last_failover.is_some_and(|last| now < last + view.limits.min_interval)
}

/// R5, first half: choose and publish.
fn failover(view: &View, state: &State, fault: Fault, since: Time, now: Time) -> Decision {
    if view.store_away {
        return wait(Reason::StoreAway(Some(fault)));
    }
    // A record still promoting is always finished.
    if is_too_soon(view, now) && state.phase == Phase::Serving {
        return wait(Reason::TooSoon(fault));
    }
    // An operator who asks for it knows what he sees.
    let may_begin = || asked_for_failover(view).is_some() || mass::may_begin(view, state, fault, since, now);
    if view.braked && state.phase == Phase::Serving && !may_begin() {
        let steps = others(state).cloned().map(Step::Look).filter(|_| now < since + ASK_FOR).collect();
        return Decision { steps, because: Reason::Braked(fault) };
    }
    // An offset counts only if it was asked for after the loss: before, more may still have been under way.
    let silent =
        state.in_sync.iter().map(|entry| &entry.addr).filter(|addr| view.health(addr, now) == Health::Up);
    let silent = silent.filter_map(|addr| {
        let backend = view.backends.get(addr)?;
        let from = since.max(backend.stale_until);
        (!backend.answered_since(from)).then_some((addr, from))
    });
    let silent: Vec<(&Endpoint, Time)> = silent.collect();
    // An order of before may still change the history of a member that is recorded with it. Where nothing is lost that can
    // be waited for.
    let ordered = |entry: &InSync| view.backends.get(&entry.addr).is_some_and(|b| b.ordered.is_some());
    if fault == Fault::Asked && state.in_sync.iter().any(ordered) {
        return wait(Reason::Confirming(fault));
    }
    let looks = || silent.iter().map(|(addr, _)| Step::Look((*addr).clone())).collect();
    if silent.iter().any(|(_, from)| now < *from + CONFIRM_WAIT) {
        return Decision { steps: looks(), because: Reason::Confirming(fault) };
    }
    let asked = asked_for_failover(view);
    let wanted =
        asked.and_then(|(to, ..)| to).filter(|to| candidate::is_eligible(view, state, to, since, now));
    let best = match (wanted, asked, fault) {
        (Some(to), _, _) => Some(to.clone()),
        // A loss waits for nobody's wish; a wish is all that there is otherwise.
        (None, Some((Some(_), ..)), Fault::Asked) => None,
        (None, _, _) => candidate::best(view, state, since, now),
    };
    match best.and_then(|addr| Some((state.in_sync(&addr)?, view.current(&addr, now)?))) {
        None => {
            let mut steps: Vec<Step> = looks();
            if fault == Fault::Refused {
                // It may become eligible again; its order looks at R4 each time.
                steps.push(promote(view, state));
            }
            if loss_is_accepted(view) && fault != Fault::Asked {
                return accept_loss(view, state, Reason::NobodyEligible(fault), now);
            }
            if asked.is_some() && !view.is_in_doubt() {
                steps.push(Step::Answer(Err(Declined::NobodyEligible(view.candidates(now)))));
            }
            if cold::is_cold(view, state, now) {
                return cold_start(view, state, steps, now);
            }
            Decision { steps, because: Reason::NobodyEligible(fault) }
        }
        Some((entry, seen)) => {
            let because = Reason::Failover(fault, entry.addr.clone());
            publish(promotion(view, state, entry, seen, None, &because, now), false, because)
        }
    }
}

/// R14: nobody runs any more who is recorded.
fn cold_start(view: &View, state: &State, looks: Vec<Step>, now: Time) -> Decision {
    // First of all: one that came back empty must not empty the others.
    let follows = |addr: &&Endpoint| {
        let role = view.current(addr, now).map(|seen| &seen.role);
        matches!(role, Some(Role::Replica { source: Some(_), .. }))
    };
    let detach = |addr: &Endpoint| Step::Order { backend: addr.clone(), deed: Deed::Detach };
    let steps: Vec<Step> = state.members.iter().filter(follows).map(detach).collect();
    let chosen = cold::choose(view, state, now);
    match chosen.and_then(|addr| Ok((view.current(&addr, now).ok_or(cold::Wait::Settling)?, addr))) {
        Err(why) => {
            Decision { steps: looks.into_iter().chain(steps).collect(), because: Reason::ColdStartWaits(why) }
        }
        Ok((_, addr)) if !steps.is_empty() => Decision { steps, because: Reason::ColdStart(addr) },
        Ok((seen, addr)) => {
            let reason = alloc::format!("cold start, loss possible: {}", cold::table(view, state, now));
            let next = cold_promotion(view, state, state.epoch + 1, &addr, seen, reason);
            publish(next, false, Reason::ColdStart(addr))
        }
    }
}

fn cold_promotion(
    view: &View,
    old: &State,
    epoch: u64,
    to: &Endpoint,
    seen: &Observation,
    reason: String,
) -> State {
    State {
        epoch,
        promoted: epoch,
        primary: PrimaryRef { addr: to.clone(), run_id: seen.run_id.clone(), replid: String::new() },
        in_sync: Vec::new(),
        min_in_sync: view.limits.min_in_sync(old.members.len()),
        from: None,
        cold: true,
        floor: match seen.fence {
            Fence::At(fence) => Some(fence),
            Fence::Absent | Fence::Unreadable => None,
        },
        phase: Phase::Promoting,
        leader: view.me.clone(),
        reason,
        ..old.clone()
    }
}

/// R4, the override: as a cold start, but the operator answers for the choice. Where it cannot be made, all stays as it is.
fn accept_loss(view: &View, state: &State, stays: Reason, now: Time) -> Decision {
    let to = asked_for_failover(view).and_then(|(to, ..)| to);
    let (addr, seen) = match cold::forced(view, state, to, now) {
        Ok(chosen) => chosen,
        Err(why) => {
            return Decision { steps: vec![Step::Answer(Err(why))], because: stays };
        }
    };
    let because = Reason::LossAccepted(addr.clone());
    // Whoever follows another one must not be emptied by it; whoever follows the chosen one goes on.
    let astray = |member: &&Endpoint| {
        let role = view.current(member, now).map(|seen| &seen.role);
        matches!(role, Some(Role::Replica { source: Some(source), .. }) if *source != addr)
    };
    let detach = |addr: &Endpoint| Step::Order { backend: addr.clone(), deed: Deed::Detach };
    let steps: Vec<Step> = state.members.iter().filter(astray).map(detach).collect();
    if !steps.is_empty() {
        return Decision { steps, because };
    }
    // Above every epoch that any of them carries, or they would take this monitor for a deposed one. A fence that no epoch
    // can be above is none of ours; its server is told so when it is ordered about.
    let fences = state.members.iter().filter_map(|addr| match view.current(addr, now)?.fence {
        Fence::At(fence) => Some(fence).filter(|fence| *fence < LAST_EPOCH),
        Fence::Absent | Fence::Unreadable => None,
    });
    let epoch = fences.fold(state.epoch, u64::max) + 1;
    let reason = alloc::format!("loss accepted by an operator: {}", cold::table(view, state, now));
    publish(cold_promotion(view, state, epoch, &addr, seen, reason), false, because)
}

/// The record under which one of the set takes over. `further`: a member of the new set that was none of the old one.
pub(crate) fn promotion(
    view: &View,
    old: &State,
    to: &InSync,
    seen: &Observation,
    further: Option<InSync>,
    because: &Reason,
    now: Time,
) -> State {
    let mut in_sync: Vec<InSync> = Vec::new();
    let others = || old.in_sync.iter().filter(|entry| entry.addr != to.addr);
    let eligible = |entry: &&InSync| {
        // Priority 0 keeps a server from being promoted, not from holding a copy.
        matches!(candidate::disqualified(view, old, &entry.addr, now), None | Some(Disqualified::Never))
    };
    for entry in others().filter(eligible) {
        // What was seen of it may be older than the promotions since then, and it may have gone on to any of them.
        let there = view.current(&entry.addr, now).filter(|seen| candidate::stands_at_the_last(old, seen));
        in_sync.push(match there {
            Some(seen) => InSync { replid: seen.replid.clone(), later: Vec::new(), ..entry.clone() },
            None => entry.clone().after(&old.primary.replid),
        });
    }
    in_sync.extend(further);
    let min_in_sync = view.limits.min_in_sync(old.members.len());
    if in_sync.len() < min_in_sync as usize {
        let unseen = others().filter(|entry| !in_sync.iter().any(|kept| kept.addr == entry.addr));
        in_sync.extend(unseen.map(|entry| entry.clone().after(&old.primary.replid)).collect::<Vec<_>>());
    }
    let floor = (in_sync.len() < min_in_sync as usize).then(|| old.floor());
    State {
        epoch: old.epoch + 1,
        promoted: old.epoch + 1,
        primary: PrimaryRef { addr: to.addr.clone(), run_id: seen.run_id.clone(), replid: String::new() },
        in_sync,
        min_in_sync,
        cold: false,
        floor,
        from: None,
        phase: Phase::Promoting,
        leader: view.me.clone(),
        reason: because.to_string(),
        ..old.clone()
    }
}

/// R5, second half: promote, then announce and have the others follow at the same time.
fn finish(view: &View, state: &State, now: Time) -> Decision {
    let Some(seen) = is_promoted(view, state, now) else {
        return Decision { steps: vec![promote(view, state)], because: Reason::Promoting };
    };
    let primary = PrimaryRef { replid: seen.replid.clone(), ..state.primary.clone() };
    let (floor, from, leader) = (None, None, view.me.clone());
    let next = State { primary, floor, from, phase: Phase::Serving, leader, ..state.clone() };
    let mut decision = publish(next, true, Reason::Announcing);
    decision.steps.extend(strays(view, state, now));
    decision
}

/// What the recorded primary says, if it was promoted and stamped under this record.
pub(crate) fn is_promoted<'a>(view: &'a View, state: &State, now: Time) -> Option<&'a Observation> {
    view.current(&state.primary.addr, now).filter(|seen| {
        seen.run_id == state.primary.run_id
            && matches!(seen.role, Role::Primary { .. })
            && seen.fence == Fence::At(state.epoch)
    })
}

fn promote(view: &View, state: &State) -> Step {
    let deed = Deed::Promote { basis: view.basis.clone() };
    Step::Order { backend: state.primary.addr.clone(), deed }
}

/// All is decided: stamp what is not stamped, bring back strays, keep the set true (R6), keep the announcement.
pub(crate) fn settle(view: &View, state: &State, now: Time) -> Decision {
    let addr = &state.primary.addr;
    let health = view.health(addr, now);
    let Some(primary) = view.current(addr, now).filter(|_| health == Health::Up) else {
        let steps = if health == Health::Suspect { vec![Step::Look(addr.clone())] } else { Vec::new() };
        let because = match health {
            Health::Refused(_) | Health::Silent(_) => Reason::PrimaryUnreachable,
            Health::Up => Reason::Looking(addr.clone()),
            Health::Unknown | Health::Suspect | Health::Troubled(_) => Reason::PrimaryTroubled(health),
        };
        let fresh = health.gone_since().is_some_and(|since| now < since + ASK_FOR);
        let ask = others(state).cloned().map(Step::Look).filter(|_| fresh);
        return Decision { steps: steps.into_iter().chain(ask).collect(), because };
    };
    if let Some(fence) = deposed(view, state, now) {
        return match loss_is_accepted(view) && !view.store_away {
            true => accept_loss(view, state, Reason::Deposed(fence), now),
            false => wait(Reason::Deposed(fence)),
        };
    }
    let mut decision = membership(view, state, primary, now);
    if view.backends.get(addr).is_some_and(|backend| backend.pause != Pause::No) {
        // A switchover came to nothing; nothing else gets through before.
        decision.steps.push(Step::Order { backend: addr.clone(), deed: Deed::Unpause });
    }
    if primary.fence != Fence::At(state.epoch)
        || view.stamped.is_none()
        || stamps_again(view, state, primary, now)
    {
        decision.steps.push(Step::Order { backend: addr.clone(), deed: Deed::Stamp });
    } else if tick_is_due(view, addr, primary, now) {
        decision.steps.push(Step::Order { backend: addr.clone(), deed: Deed::Tick });
    }
    // A server that is serviced is left where its operator puts it.
    let held =
        |step: &Step| matches!(step, Step::Order { deed: Deed::Attach, .. }) && view.paused != Paused::No;
    decision.steps.extend(strays(view, state, now).filter(|step| !held(step)));
    decision.steps.extend(request::release(view));
    if decision.because == Reason::Healthy && view.paused == Paused::Yes {
        decision.because = Reason::Paused(None);
    }
    decision
}

/// R14: a primary that is written to is counted up once a second, so that of two copies the later one is known. One that
/// is idle is left in peace: the tick itself and Redis' own pings do not count.
fn tick_is_due(view: &View, addr: &Endpoint, primary: &Observation, now: Time) -> bool {
    let ticked = view.backends.get(addr).and_then(|backend| backend.ticked);
    let rested = ticked.is_none_or(|(at, _)| now >= at + TICK_EVERY);
    let offset = ticked.map_or(0, |(_, offset)| offset);
    rested && (primary.tick.is_none() || primary.offset > offset + TICK_BYTES)
}

/// Stamped once more than needed: a stream without a byte shows nothing, so nobody could enter the set before Redis pings
/// its replicas, which takes ten seconds; and where replicas are kept out, their credential may have been lost (ACL LOAD).
fn stamps_again(view: &View, state: &State, primary: &Observation, now: Time) -> bool {
    let rested = view.stamped.is_some_and(|at| now >= at + view.limits.attach_timeout);
    let silent = |addr: &Endpoint| {
        let held = view.current(addr, now).map_or(0, |seen| seen.offset);
        held >= primary.offset && set::entering(view, state, addr, now) == Err(Outside::NotStreaming)
    };
    let kept_out = |addr: &Endpoint| {
        let since = view.backends.get(addr).and_then(|backend| backend.unattached_since);
        let follows = |seen: &Observation| {
            let here = matches!(&seen.role, Role::Replica { source, .. } if source.as_ref() == Some(&state.primary.addr));
            here && seen.credential == Some(state.promoted)
        };
        since.is_some_and(|since| now >= since + view.limits.down_after)
            && view.current(addr, now).is_some_and(follows)
    };
    rested && (others(state).any(silent) || others(state).any(kept_out))
}

fn others(state: &State) -> impl Iterator<Item = &Endpoint> {
    state.members.iter().filter(|addr| **addr != state.primary.addr)
}

/// Servers that do not follow the recorded primary under its credential, and replicas that take writes.
fn strays<'a>(view: &'a View, state: &'a State, now: Time) -> impl Iterator<Item = Step> + 'a {
    others(state).filter_map(move |addr| {
        let seen = view.current(addr, now)?;
        let calls_in_vain = set::calls_in_vain(view, state, addr, now);
        // R1: a member that restarted is taken out of the set before anything is done to it.
        if state.in_sync(addr).is_some_and(|entry| entry.run_id != seen.run_id) {
            return None;
        }
        let deed = match &seen.role {
            Role::Replica { source, .. } if source.as_ref() == Some(&state.primary.addr) => {
                match (seen.credential == set::credential(view, state), seen.read_only) {
                    (true, true) if calls_in_vain => Deed::Attach,
                    (true, true) => return None,
                    (true, false) => Deed::Protect,
                    (false, _) => Deed::Attach,
                }
            }
            Role::Primary { .. } | Role::Replica { .. } => Deed::Attach,
        };
        Some(Step::Order { backend: addr.clone(), deed })
    })
}

/// R6: at most one change of the set, or of the announcement, at a time.
fn membership(view: &View, state: &State, primary: &Observation, now: Time) -> Decision {
    if view.store_away {
        return wait(Reason::StoreAway(None));
    }
    let out = set::leaving(view, state, now);
    if !out.is_empty() {
        let stays = |entry: &&InSync| !out.iter().any(|(addr, _)| *addr == entry.addr);
        let in_sync = state.in_sync.iter().filter(stays).cloned().collect();
        let because = Reason::Shrinking(out);
        let next = changed(view, state, primary, in_sync, &because);
        // R16: a member that never entered the set does not count yet, and those who stay were enough for the old number.
        let min_in_sync = next.min_in_sync.min(state.min_in_sync);
        return publish(State { min_in_sync, ..next }, false, because);
    }
    if let Some(decision) = request::members(view, state, primary, now) {
        return decision;
    }
    let new: Vec<InSync> = others(state)
        .filter(|addr| state.in_sync(addr).is_none())
        .filter_map(|addr| set::entering(view, state, addr, now).ok())
        .collect();
    if !new.is_empty() {
        let because = Reason::Growing(new.iter().map(|entry| entry.addr.clone()).collect());
        let in_sync = state.in_sync.iter().cloned().chain(new).collect();
        return publish(changed(view, state, primary, in_sync, &because), false, because);
    }
    let new = newly_adopted(view, state, now);
    if !new.is_empty() {
        let adopted = state.adopted.iter().chain(&new).cloned().collect();
        return publish(State { adopted, ..state.clone() }, false, Reason::Adopting(new));
    }
    let stuck = set::unfit_members(view, state, now);
    match damage(view, state) {
        Some(what) => publish(state.clone(), true, Reason::AnnouncementRestored(what)),
        None if primary.fence == Fence::Unreadable => wait(Reason::FenceUnreadable),
        None if !stuck.is_empty() => wait(Reason::WritesWait(stuck)),
        None => wait(Reason::Healthy),
    }
}

/// Members that follow the primary for the first time. From its first synchronisation on, a server's data are ours
/// (R0), also when it dies in the middle of that.
fn newly_adopted(view: &View, state: &State, now: Time) -> Vec<Endpoint> {
    let new = others(state).filter(|addr| !state.adopted.contains(addr));
    let ours = |seen: &Observation| {
        let of_ours = matches!(&seen.role, Role::Replica { source, .. } if source.as_ref() == Some(&state.primary.addr));
        of_ours && seen.credential == set::credential(view, state)
    };
    new.filter(|addr| view.current(addr, now).is_some_and(ours)).cloned().collect()
}

pub(crate) fn changed(
    view: &View,
    old: &State,
    primary: &Observation,
    in_sync: Vec<InSync>,
    because: &Reason,
) -> State {
    let mut adopted = old.adopted.clone();
    for entry in &in_sync {
        if !adopted.contains(&entry.addr) {
            adopted.push(entry.addr.clone());
        }
    }
    State {
        epoch: old.epoch + 1,
        primary: PrimaryRef { replid: primary.replid.clone(), ..old.primary.clone() },
        min_in_sync: view.limits.min_in_sync(old.members.len()),
        in_sync,
        adopted,
        cold: false,
        floor: None,
        leader: view.me.clone(),
        reason: because.to_string(),
        ..old.clone()
    }
}

/// What is wrong with `<path>`, in words. A version that is not ours with the right content is left alone.
fn damage(view: &View, state: &State) -> Option<String> {
    let recorded: Topology = state.topology();
    match &view.announced {
        (Announced::Unread, _) => None,
        (Announced::Missing, _) => Some("the znode was deleted".into()),
        (Announced::Broken(why), _) => Some(why.clone()),
        (Announced::Is(found), _) if *found == recorded => None,
        // It asks for a switchover, and stays until that is done or refused.
        (Announced::Is(found), _) if found.primary != recorded.primary => {
            let asks = view.asked.as_ref().is_some_and(|asked| asked.number.is_none());
            // It may be an older record that it differs from.
            let unsure = view.edited().is_some() && !view.record_confirmed;
            (!asks && !unsure).then(|| alloc::format!("primary {}", found.primary))
        }
        (Announced::Is(_), _) => Some("other secondaries; use `monitor add` or `monitor remove`".into()),
    }
}
