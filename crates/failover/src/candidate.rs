//! R4: who may be promoted, who is, and why the others are not.

use core::cmp::Reverse;
use core::fmt;

use topology::{Endpoint, InSync, State};

use crate::Time;
use crate::view::{Fence, Observation, Role, View};

/// Why a replica may not be promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disqualified {
    /// It is not in the set, so it need not hold what was acknowledged.
    NotInSync,
    /// It does not answer, or did not since the primary was lost.
    Unheard,
    /// It is another process than the one recorded; a restarted server forgot things.
    Restarted,
    /// It is a primary itself.
    IsPrimary,
    /// A full synchronisation runs.
    Syncing,
    /// It carries no fence, so nothing proves what it holds.
    NoFence,
    /// The stamp with which it entered the set has not reached it.
    FenceTooOld {
        /// The epoch that it carries.
        fence: u64,
        /// The epoch with which it entered.
        since: u64,
    },
    /// Its replication id is neither the primary's nor one of its own entry.
    OtherHistory,
    /// Its priority is 0.
    Never,
}

impl fmt::Display for Disqualified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInSync => f.write_str("not in sync"),
            Self::Unheard => f.write_str("does not answer"),
            Self::Restarted => f.write_str("restarted since it was recorded"),
            Self::IsPrimary => f.write_str("is a primary itself"),
            Self::Syncing => f.write_str("in the middle of a full synchronisation"),
            Self::NoFence => f.write_str("carries no fence"),
            Self::FenceTooOld { fence, since } => {
                write!(f, "its fence {fence} is older than its entry {since}")
            }
            Self::OtherHistory => f.write_str("holds another history"),
            Self::Never => f.write_str("priority 0"),
        }
    }
}

/// R4 on what one server said: may it be promoted from this record?
pub fn refusal(state: &State, entry: &InSync, seen: &Observation) -> Option<Disqualified> {
    if seen.run_id != entry.run_id {
        return Some(Disqualified::Restarted);
    }
    match seen.role {
        Role::Primary { .. } => return Some(Disqualified::IsPrimary),
        Role::Replica { syncing: true, .. } => return Some(Disqualified::Syncing),
        Role::Replica { .. } => {}
    }
    match seen.fence {
        Fence::At(fence) if fence >= entry.since => {}
        Fence::At(fence) => return Some(Disqualified::FenceTooOld { fence, since: entry.since }),
        Fence::Absent | Fence::Unreadable => return Some(Disqualified::NoFence),
    }
    let known = !seen.replid.is_empty() && entry.may_stand_at(&seen.replid);
    (!known && !stands_at_the_last(state, seen)).then_some(Disqualified::OtherHistory)
}

/// Whether what was seen is the history of the recorded primary, so that it went on from wherever it stood before.
pub(crate) fn stands_at_the_last(state: &State, seen: &Observation) -> bool {
    match state.primary.replid.as_str() {
        // Not recorded yet: the stamp of the promotion proves as much.
        "" => matches!(seen.fence, Fence::At(fence) if fence >= state.promoted),
        recorded => seen.replid == recorded,
    }
}

/// R4 on all that is known of a member now.
pub fn disqualified(view: &View, state: &State, addr: &Endpoint, now: Time) -> Option<Disqualified> {
    let Some(entry) = state.in_sync(addr) else { return Some(Disqualified::NotInSync) };
    match view.current(addr, now) {
        None => Some(Disqualified::Unheard),
        Some(seen) => {
            let never = (view.limits.priority(addr) == 0).then_some(Disqualified::Never);
            refusal(state, entry, seen).or(never)
        }
    }
}

/// Whether this one may be promoted, and has said so since the primary was lost.
pub fn is_eligible(view: &View, state: &State, addr: &Endpoint, lost: Time, now: Time) -> bool {
    let answered = view.backends.get(addr).is_some_and(|b| b.answered_since(lost));
    answered && disqualified(view, state, addr, now).is_none()
}

/// The one to promote: highest offset, then priority, then address; among those that answered since the primary
/// was lost, for only then is the offset its last one.
pub fn best(view: &View, state: &State, lost: Time, now: Time) -> Option<Endpoint> {
    let eligible = state.in_sync.iter().filter(|entry| is_eligible(view, state, &entry.addr, lost, now));
    let rank = |entry: &&InSync| {
        let offset = view.current(&entry.addr, now).map_or(0, |seen| seen.offset);
        (Reverse(offset), view.limits.priority(&entry.addr), entry.addr.clone())
    };
    eligible.min_by_key(rank).map(|entry| entry.addr.clone())
}
