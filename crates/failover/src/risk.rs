//! What if the primary died now: who would take over, or why nobody could. For people; nothing is decided by it.
//!
//! The replicas in sync are taken as they stand, by the rules that a failover goes by ([`candidate::best`]); so what is
//! said here is what [`decide`](crate::decide()) would come to, had nothing else changed by then.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use topology::{Endpoint, Phase, State};

use crate::view::{Paused, View};
use crate::{Disqualified, Time, candidate, set};

/// What the death of a primary would come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Risk {
    /// The primary.
    pub dies: Endpoint,
    /// It is lost already.
    pub lost: bool,
    /// Who takes over, or why nobody can.
    pub then: Result<Heir, Nobody>,
}

/// Who takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heir {
    /// Which replica.
    pub addr: Endpoint,
    /// Bytes of the primary's stream that it was last seen to lack; none where they hold no common history.
    pub lag_bytes: Option<u64>,
}

/// Why nobody can take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nobody {
    /// ZooKeeper does not answer, so nothing can be published (R11).
    StoreAway,
    /// Something else than a record stands in `state`.
    RecordDamaged,
    /// An operator has paused the group.
    Paused,
    /// The primary is the only member.
    Alone,
    /// Every other member with the reason against it.
    Unfit(Vec<(Endpoint, String)>),
}

impl fmt::Display for Nobody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StoreAway => {
                f.write_str("ZooKeeper does not answer, and nothing can be published without it")
            }
            Self::RecordDamaged => f.write_str("the state znode holds no record"),
            Self::Paused => f.write_str("it is paused by an operator, until `monitor resume`"),
            Self::Alone => f.write_str("there is no other server"),
            Self::Unfit(members) => members.iter().enumerate().try_for_each(|(at, (addr, why))| {
                let comma = if at == 0 { "" } else { ", " };
                write!(f, "{comma}{addr}: {why}")
            }),
        }
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dies, lost, then } = self;
        match (lost, then) {
            (false, Ok(_)) => write!(f, "if {dies} dies now: ")?,
            (false, Err(_)) => write!(f, "if {dies} dies now, ")?,
            (true, Ok(_)) => write!(f, "{dies} is lost: ")?,
            (true, Err(_)) => write!(f, "{dies} is lost, and ")?,
        }
        match then {
            Ok(Heir { addr, lag_bytes: Some(lag) }) => write!(f, "{addr} takes over, {lag} bytes behind"),
            Ok(Heir { addr, lag_bytes: None }) => write!(f, "{addr} takes over"),
            Err(nobody) => write!(f, "NOBODY can take over, because {nobody}"),
        }
    }
}

/// What the death of the recorded primary would come to at this moment; nothing without a record.
pub fn risk(view: &View, now: Time) -> Option<Risk> {
    let state = view.state()?;
    let fault = view.primary_fault(now).map(|(_, since)| since);
    // Whoever answered at all counts, unless there is a loss already that an answer has to be younger than.
    let best = candidate::best(view, state, fault.unwrap_or(Time::ZERO), now);
    let then = match best {
        _ if view.store_away => Err(Nobody::StoreAway),
        _ if view.record_damaged.is_some() && !view.record_is_the_last() => Err(Nobody::RecordDamaged),
        _ if view.paused == Paused::Yes && state.phase == Phase::Serving => Err(Nobody::Paused),
        Some(addr) => Ok(Heir { lag_bytes: lag(view, state, &addr), addr }),
        None if state.members.len() < 2 => Err(Nobody::Alone),
        None => Err(Nobody::Unfit(unfit(view, state, now))),
    };
    Some(Risk {
        dies: state.primary.addr.clone(),
        lost: fault.is_some() && state.phase == Phase::Serving,
        then,
    })
}

/// Bytes of the recorded primary's stream that a replica of the same history lacks.
pub fn lag(view: &View, state: &State, addr: &Endpoint) -> Option<u64> {
    let primary = &view.backends.get(&state.primary.addr)?.seen.as_ref()?.observation;
    let replica = &view.backends.get(addr)?.seen.as_ref()?.observation;
    (primary.replid == replica.replid).then(|| primary.offset.saturating_sub(replica.offset))
}

fn unfit(view: &View, state: &State, now: Time) -> Vec<(Endpoint, String)> {
    let verdicts = view.candidates(now).into_iter();
    verdicts
        .filter_map(|(addr, why)| Some((words(view, state, &addr, why?, now), addr)))
        .map(|(w, a)| (a, w))
        .collect()
}

/// Why a member may not take over, in words; of one that is not in sync, why it is not.
pub fn words(view: &View, state: &State, addr: &Endpoint, why: Disqualified, now: Time) -> String {
    if why != Disqualified::NotInSync {
        return why.to_string();
    }
    // Only what the leader sees decides, but whoever looks at the passive monitor sees much the same.
    match set::entering(view, state, addr, now) {
        Ok(_) => "not in sync yet".to_string(),
        Err(outside) => alloc::format!("not in sync: {outside}"),
    }
}
