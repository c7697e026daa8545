//! R6: the in-sync set. Who leaves it and why, who enters it, and why the others do not yet.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use topology::{Endpoint, InSync, State};

use crate::Time;
use crate::detector::Health;
use crate::view::{Observation, Role, View, follows};

/// How long a replica may call the primary in vain before it is told anew how to.
pub const CALL_AGAIN: Duration = Duration::from_secs(3);

/// Why a member of the set is taken out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// Another process answers there.
    Restarted,
    /// The primary shows it under another address than recorded.
    Renamed,
    /// It is gone.
    Gone,
    /// It does not attach to the primary.
    Unattached,
    /// It answers, but its stream stands still while the primary's moves.
    Stuck,
    /// It answers with nothing but errors while the primary's stream moves.
    Troubled,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restarted => "restarted",
            Self::Renamed => "seen under another address",
            Self::Gone => "gone",
            Self::Unattached => "not attached to the primary",
            Self::Stuck => "its stream stands still",
            Self::Troubled => "it answers with errors only",
        })
    }
}

/// Why a member of the group does not enter the set yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    /// It does not answer as it should.
    Unheard,
    /// The primary does not.
    PrimaryUnheard,
    /// It does not follow the primary.
    NotFollowing,
    /// It follows the primary, but its link is not up.
    NoLink,
    /// It does not log in at the primary with the current credential (R7 b).
    OtherCredential,
    /// Its replication id is not the primary's.
    OtherHistory,
    /// The primary does not list it under the address by which it is known here.
    NotListed(String),
    /// The primary has not begun to send it the stream.
    NotStreaming,
    /// It lacks so many bytes, which is more than `max_lag_bytes`, or it does not catch up.
    Behind(u64),
    /// It left the set just now.
    Resting,
    /// The same process is in the set under another address.
    Double(Endpoint),
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unheard => f.write_str("does not answer"),
            Self::PrimaryUnheard => f.write_str("the primary does not answer"),
            Self::NotFollowing => f.write_str("not attached to the primary yet"),
            Self::NoLink => f.write_str("its link to the primary is not up; the logs of both say why"),
            Self::OtherCredential => f.write_str("does not use the current replication credential yet"),
            Self::OtherHistory => f.write_str("holds another history than the primary"),
            Self::NotListed(shown) => write!(
                f,
                "attached, but the primary does not list it as {shown}: \
                 set replica-announce-ip and replica-announce-port on it"
            ),
            Self::NotStreaming => f.write_str("the primary has not begun to send it the stream"),
            Self::Behind(bytes) => write!(f, "{bytes} bytes behind"),
            Self::Resting => f.write_str("it left the set just now"),
            Self::Double(other) => {
                write!(f, "it is the same process as {other}; `monitor remove` one of them")
            }
        }
    }
}

/// R7 (b): the credential under which a replica follows the recorded primary; none where the guard is off.
pub fn credential(view: &View, state: &State) -> Option<u64> {
    view.limits.restart_guard.then_some(state.promoted)
}

/// Who leaves now. A restarted process leaves at once; the others only while enough proven ones stay.
pub fn leaving(view: &View, state: &State, now: Time) -> Vec<(Endpoint, Unfit)> {
    let unfit: Vec<(&InSync, Unfit)> =
        state.in_sync.iter().filter_map(|entry| Some((entry, unfit(view, state, entry, now)?))).collect();
    let bad: BTreeSet<&Endpoint> = unfit.iter().map(|(entry, _)| &entry.addr).collect();
    let stays = |entry: &&InSync| !bad.contains(&entry.addr) && view.proven(state, entry, now);
    let proven = state.in_sync.iter().filter(stays).count();
    let enough = proven >= state.min_in_sync as usize;
    let leaves = unfit.into_iter().filter(|(_, why)| enough || *why == Unfit::Restarted);
    leaves.map(|(entry, why)| (entry.addr.clone(), why)).collect()
}

/// Members of the set that are in no state to confirm, whether they may leave or not.
pub fn unfit_members(view: &View, state: &State, now: Time) -> Vec<(Endpoint, Unfit)> {
    let unfit = |entry: &InSync| Some((entry.addr.clone(), unfit(view, state, entry, now)?));
    state.in_sync.iter().filter_map(unfit).collect()
}

fn unfit(view: &View, state: &State, entry: &InSync, now: Time) -> Option<Unfit> {
    let backend = view.backends.get(&entry.addr)?;
    if backend.is_another_than(&entry.run_id) {
        return Some(Unfit::Restarted);
    }
    if let Some(seen) = view.current(&entry.addr, now) {
        if seen.run_id != entry.run_id {
            return Some(Unfit::Restarted);
        }
        if seen.shows_as != entry.seen_as {
            return Some(Unfit::Renamed);
        }
        let stuck = backend.behind_since.is_some_and(|since| now >= since + view.limits.down_after);
        if follows(seen, &state.primary.addr) && stuck {
            return Some(Unfit::Stuck);
        }
    }
    let health = view.health(&entry.addr, now);
    if health.gone_since().is_some() {
        return Some(Unfit::Gone);
    }
    // While the primary's stream stands still, nobody waits for it.
    let moved = view.backends.get(&state.primary.addr).and_then(|primary| primary.advanced_at);
    let late = |since: Time| now >= since + view.limits.down_after && moved.is_some_and(|at| at > since);
    if backend.detector.troubled_since().is_some_and(late) {
        return Some(Unfit::Troubled);
    }
    let late = backend.unattached_since.is_some_and(|since| now >= since + view.limits.attach_timeout);
    // Of whom nothing is known yet nobody knows whether he is attached.
    (late && health != Health::Unknown).then_some(Unfit::Unattached)
}

/// The entry of a replica that has caught up, or why it has none yet.
pub fn entering(view: &View, state: &State, addr: &Endpoint, now: Time) -> Result<InSync, Outside> {
    let up = |addr| view.current(addr, now).filter(|_| view.health(addr, now) == Health::Up);
    let backend = view.backends.get(addr).ok_or(Outside::Unheard)?;
    let seen = up(addr).ok_or(Outside::Unheard)?;
    let primary = up(&state.primary.addr).ok_or(Outside::PrimaryUnheard)?;
    if let Some(other) = state.in_sync.iter().find(|other| other.run_id == seen.run_id) {
        return Err(Outside::Double(other.addr.clone()));
    }
    if !follows(seen, &state.primary.addr) {
        let here = matches!(&seen.role, Role::Replica { source, .. } if source.as_ref() == Some(&state.primary.addr));
        return Err(if here { Outside::NoLink } else { Outside::NotFollowing });
    }
    if seen.credential != credential(view, state) {
        return Err(Outside::OtherCredential);
    }
    if seen.replid != primary.replid {
        return Err(Outside::OtherHistory);
    }
    let acknowledged = acknowledged(primary, seen).ok_or(Outside::NotListed(seen.shows_as.clone()))?;
    // A link can be up before the stream runs: after a full synchronisation Redis 7.0 may wait up to a second for an
    // acknowledgement, and sends nothing until then, not even the stamp. Only what came since shows that it runs.
    if backend.attached_at.is_none_or(|offset| seen.offset <= offset) {
        return Err(Outside::NotStreaming);
    }
    let lag = primary.offset.saturating_sub(acknowledged.max(seen.offset));
    if lag > view.limits.max_lag_bytes || backend.behind_since.is_some() {
        return Err(Outside::Behind(lag));
    }
    if backend.left_at.is_some_and(|left| now < left + view.limits.attach_timeout) {
        return Err(Outside::Resting);
    }
    Ok(InSync {
        addr: addr.clone(),
        seen_as: seen.shows_as.clone(),
        run_id: seen.run_id.clone(),
        since: state.epoch + 1,
        replid: seen.replid.clone(),
        later: Vec::new(),
    })
}

/// Whether it has been calling the primary in vain for so long that it is to be told anew how to: somebody may have
/// changed its password behind our back.
pub fn calls_in_vain(view: &View, state: &State, addr: &Endpoint, now: Time) -> bool {
    let Some(backend) = view.backends.get(addr) else { return false };
    let calling = view.current(addr, now).is_some_and(|seen| {
        let Role::Replica { source, link_up: false, syncing: false } = &seen.role else { return false };
        source.as_ref() == Some(&state.primary.addr)
    });
    let long = |since: Option<Time>| since.is_none_or(|since| now >= since + CALL_AGAIN);
    calling
        && backend.unattached_since.is_some()
        && long(backend.unattached_since)
        && long(backend.attach_ordered)
}

/// The offset that the primary has from this replica, if it lists it.
fn acknowledged(primary: &Observation, seen: &Observation) -> Option<u64> {
    let Role::Primary { replicas } = &primary.role else { return None };
    replicas.iter().find(|(shown, _)| *shown == seen.shows_as).map(|(_, offset)| *offset)
}
