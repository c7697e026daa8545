//! R14, the cold start: no process that the record knows runs any more, so what was acknowledged stands on disks only.
//!
//! No rule can prove then which server holds everything. Either the one that comes first by what it was told last takes
//! over, marked "loss possible", or the group waits and says for which servers, and an operator decides.

use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;

use topology::{Endpoint, LAST_EPOCH, State};

use crate::Time;
use crate::detector::{Health, Trouble};
use crate::request::Declined;
use crate::view::{Backend, Fence, Observation, Role, View};

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColdStart {
    /// An operator.
    Operator,
    /// After `cold_wait`, the best by (fence, tick), if nothing speaks against it.
    Best,
}

/// Why a cold start waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// These were primary or in sync and have not answered: one of them may live and hold everything.
    MayLive(Vec<Endpoint>),
    /// These other members have not answered.
    Missing(Vec<Endpoint>),
    /// These read their data from disk.
    Loading(Vec<Endpoint>),
    /// Everybody has answered, for less than `cold_wait`.
    Settling,
    /// `cold_start = operator`.
    Operator,
    /// The best holds no fence, or no tick, so nothing tells how old its data are.
    NoProof(Endpoint),
    /// The best was stamped last before the oldest member of the set entered it.
    TooOld(Endpoint),
    /// The first has the higher fence, the second the higher tick.
    Contradiction(Endpoint, Endpoint),
}

fn list(f: &mut fmt::Formatter<'_>, servers: &[Endpoint]) -> fmt::Result {
    servers.iter().try_for_each(|addr| write!(f, " {addr}"))
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MayLive(servers) => {
                f.write_str("waiting for")?;
                list(f, servers)?;
                f.write_str(", which may hold what the others lack: start them, or choose a server by hand")
            }
            Self::Missing(servers) => {
                f.write_str("waiting for")?;
                list(f, servers)?;
                f.write_str(": start them, or choose a server by hand")
            }
            Self::Loading(servers) => {
                f.write_str("loading:")?;
                list(f, servers)
            }
            Self::Settling => f.write_str("all have answered; waiting for cold_wait_ms"),
            Self::Operator => f.write_str("cold_start = operator: choose a server by hand"),
            Self::NoProof(addr) => {
                write!(f, "{addr} would be the best, but has no fence or no tick: choose a server by hand")
            }
            Self::TooOld(addr) => write!(
                f,
                "{addr} would be the best, but its data are older than the set in sync: choose a server by hand"
            ),
            Self::Contradiction(one, other) => {
                write!(f, "{one} has the higher fence and {other} the higher tick: choose a server by hand")
            }
        }
    }
}

/// What every member said after the restart.
struct Answers<'a> {
    view: &'a View,
    state: &'a State,
    now: Time,
}

/// Whether no process is known to run that the record names, and one of them is known to be another one now.
pub fn is_cold(view: &View, state: &State, now: Time) -> bool {
    let all = Answers { view, state, now };
    let (primary, set) = (&state.primary, &state.in_sync);
    let runs = all.runs_as(&primary.addr, &primary.run_id)
        || set.iter().any(|entry| all.runs_as(&entry.addr, &entry.run_id));
    let restarted = all.is_new(&primary.addr) || set.iter().any(|entry| all.is_new(&entry.addr));
    !runs && restarted
}

/// The one to start from, or why not.
pub fn choose(view: &View, state: &State, now: Time) -> Result<Endpoint, Wait> {
    let all = Answers { view, state, now };
    let known = core::iter::once(&state.primary.addr).chain(state.in_sync.iter().map(|entry| &entry.addr));
    let select = |servers: Vec<&Endpoint>, wait: fn(Vec<Endpoint>) -> Wait| match servers.is_empty() {
        true => Ok(()),
        false => Err(wait(servers.into_iter().cloned().collect())),
    };
    select(known.filter(|addr| !all.is_new(addr)).collect(), Wait::MayLive)?;
    let loading = |addr: &&Endpoint| view.health(addr, now) == Health::Troubled(Trouble::Loading);
    select(state.members.iter().filter(loading).collect(), Wait::Loading)?;
    select(state.members.iter().filter(|addr| all.said(addr).is_none()).collect(), Wait::Missing)?;
    if view.limits.cold_start == ColdStart::Operator {
        return Err(Wait::Operator);
    }
    let since = state.members.iter().filter_map(|addr| Some(view.backends.get(addr)?.process_since)).max();
    if since.is_none_or(|since| now < since + view.limits.cold_wait) {
        return Err(Wait::Settling);
    }
    best(&all)
}

/// The one that an operator lets take over although acknowledged writes may be lost: the one that he names, else the one
/// that was told last. With what it said.
pub fn forced<'a>(
    view: &'a View,
    state: &State,
    to: Option<&Endpoint>,
    now: Time,
) -> Result<(Endpoint, &'a Observation), Declined> {
    let fit = |addr: &Endpoint| match (view.health(addr, now), view.current(addr, now)) {
        (Health::Up, Some(Observation { fence: Fence::At(LAST_EPOCH..), .. })) => {
            Err("its key albireo:fence is above every epoch: delete it there first")
        }
        (Health::Up, Some(seen)) => match seen.role {
            Role::Replica { syncing: true, .. } => Err("in the middle of a full synchronisation"),
            Role::Replica { .. } | Role::Primary { .. } => Ok((addr.clone(), seen)),
        },
        (Health::Troubled(Trouble::Loading), _) => Err("it is loading its data"),
        (Health::Up, None)
        | (
            Health::Unknown | Health::Suspect | Health::Troubled(_) | Health::Refused(_) | Health::Silent(_),
            _,
        ) => Err("it does not answer"),
    };
    if let Some(to) = to {
        return match state.members.contains(to) {
            true => fit(to).map_err(|why| Declined::Unfit(to.clone(), why)),
            false => Err(Declined::NoMember(to.clone())),
        };
    }
    let (mut can, mut cannot) = (Vec::new(), Vec::new());
    for addr in &state.members {
        match fit(addr) {
            Ok(chosen) => can.push(chosen),
            Err(why) => cannot.push((addr.clone(), why)),
        }
    }
    can.into_iter()
        .min_by_key(|(addr, seen)| (Reverse(rank(seen)), *addr != state.primary.addr, addr.clone()))
        .ok_or(Declined::NobodyFit(cannot))
}

/// When [`choose`] may say something else although nothing happens.
pub fn deadline(view: &View, state: &State) -> Option<Time> {
    let since = state.members.iter().filter_map(|addr| Some(view.backends.get(addr)?.process_since)).max();
    since.map(|since| since + view.limits.cold_wait)
}

fn best(all: &Answers<'_>) -> Result<Endpoint, Wait> {
    let said: Vec<(&Endpoint, &Observation)> =
        all.state.members.iter().filter_map(|addr| Some((addr, all.said(addr)?))).collect();
    if said.iter().all(|(_, seen)| seen.empty) {
        return Ok(all.state.primary.addr.clone()); // nothing is left to lose
    }
    // Not offset, replication id or number of keys: a restart from an append-only file begins the first two anew.
    let recorded = &all.state.primary.addr;
    let first =
        said.iter().min_by_key(|(addr, seen)| (Reverse(rank(seen)), *addr != recorded, (*addr).clone()));
    let Some((addr, seen)) = first else { return Err(Wait::Missing(all.state.members.clone())) };
    let (Some(fence), Some(tick)) = rank(seen) else { return Err(Wait::NoProof((*addr).clone())) };
    let later = said.iter().find(|(_, other)| rank(other).1.is_some_and(|other| other > tick));
    if let Some((other, _)) = later {
        return Err(Wait::Contradiction((*addr).clone(), (*other).clone()));
    }
    match fence < all.state.floor() {
        true => Err(Wait::TooOld((*addr).clone())),
        false => Ok((*addr).clone()),
    }
}

/// What a server was told last: the epoch, then the count within it.
fn rank(seen: &Observation) -> (Option<u64>, Option<u64>) {
    let fence = match seen.fence {
        Fence::At(fence) => Some(fence),
        Fence::Absent | Fence::Unreadable => None,
    };
    (fence, seen.tick)
}

impl Answers<'_> {
    fn backend(&self, addr: &Endpoint) -> Option<&Backend> {
        self.view.backends.get(addr)
    }

    /// What the process that answers there now said.
    fn said(&self, addr: &Endpoint) -> Option<&Observation> {
        let seen = self.view.current(addr, self.now)?;
        (!self.backend(addr)?.is_another_than(&seen.run_id)).then_some(seen)
    }

    fn runs_as(&self, addr: &Endpoint, run_id: &str) -> bool {
        self.said(addr).is_some_and(|seen| seen.run_id == run_id)
    }

    /// Another process than the recorded one lives there.
    fn is_new(&self, addr: &Endpoint) -> bool {
        let recorded = match self.state.in_sync(addr) {
            Some(entry) => &entry.run_id,
            None => &self.state.primary.run_id,
        };
        let greeted = self.backend(addr).is_some_and(|backend| backend.is_another_than(recorded));
        let lives =
            matches!(self.view.health(addr, self.now), Health::Up | Health::Suspect | Health::Troubled(_));
        lives && (greeted || self.said(addr).is_some_and(|seen| seen.run_id != *recorded))
    }
}

/// The table of candidates, for the record's reason.
pub fn table(view: &View, state: &State, now: Time) -> String {
    let all = Answers { view, state, now };
    let one = |addr: &Endpoint| {
        let Some(seen) = all.said(addr) else { return alloc::format!("{addr} (no answer)") };
        let word = |number: Option<u64>| number.map_or("none".into(), |n| alloc::format!("{n}"));
        let (fence, tick) = rank(seen);
        alloc::format!("{addr} (fence {}, tick {})", word(fence), word(tick))
    };
    let rows: Vec<String> = state.members.iter().map(one).collect();
    rows.join(", ")
}
