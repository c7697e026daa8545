//! What an operator asks of the monitor that leads: a member more, a member less (R16), or a failover.
//!
//! One at a time for each group, and in memory only. How far it is, the record and the servers say; so one whose monitor
//! dies on the way is asked again, and goes on from there.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use topology::{Endpoint, InSync, State};

use crate::decide::{Decision, Reason, Step, changed, publish, wait};
use crate::group::Timeline;
use crate::order::Deed;
use crate::view::{Fence, Observation, View};
use crate::{Disqualified, Time};

/// What is not done by then is given up.
pub const LIMIT: Duration = Duration::from_secs(10);
/// How long a server that is no member any more is told so.
pub const RELEASE_WAIT: Duration = Duration::from_secs(2);

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A server becomes a member of the group, and with that a replica.
    Add {
        /// Which.
        addr: Endpoint,
        /// Also if it is a primary with data of its own, which is gone then (R0).
        overwrite: bool,
    },
    /// A replica leaves the group.
    Remove {
        /// Which.
        addr: Endpoint,
    },
    /// A replica takes over now.
    Failover {
        /// Which; else the best one.
        to: Option<Endpoint>,
        /// Also one that may lack acknowledged writes, if the primary is lost and nobody else can.
        accept_loss: bool,
    },
    /// A replica takes over from a primary that lives, without any loss (R15).
    Switchover {
        /// Which; else the best one.
        to: Option<Endpoint>,
    },
}

/// A request under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// For the answer; none of what somebody asked for by writing another primary into `<path>`.
    pub number: Option<u64>,
    /// What is asked for.
    pub request: Request,
    /// When.
    pub at: Time,
    /// The last promotion when it was asked.
    pub promoted: u64,
    /// The primary then.
    pub primary: Endpoint,
}

impl Asked {
    pub(crate) fn new(number: Option<u64>, request: Request, state: &State, at: Time) -> Self {
        Self { number, request, at, promoted: state.promoted, primary: state.primary.addr.clone() }
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// It is a member.
    Added(Endpoint),
    /// It is no member any more.
    Removed {
        /// Which.
        addr: Endpoint,
        /// It was told to follow nobody; else it did not answer, and may still follow the primary.
        released: bool,
    },
    /// Another server is primary; with what is known of the way there.
    FailedOver(Option<Timeline>),
}

/// Why it is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declined {
    /// This monitor does not lead.
    NotLeading,
    /// Another request is under way.
    Busy,
    /// The group has no record yet.
    NoRecord,
    /// It is no member.
    NoMember(Endpoint),
    /// The group is paused.
    Paused,
    /// It is the primary.
    IsPrimary(Endpoint),
    /// Too few proven replicas would stay in sync.
    TooFew {
        /// So many would stay.
        stay: usize,
        /// So many are needed.
        needed: u32,
    },
    /// Nobody may be promoted; every member with the reason.
    NobodyEligible(Vec<(Endpoint, Option<Disqualified>)>),
    /// It cannot even be promoted with a loss.
    Unfit(Endpoint, &'static str),
    /// Nobody can be promoted even with a loss; every member with the reason.
    NobodyFit(Vec<(Endpoint, &'static str)>),
    /// It is the primary already.
    AlreadyPrimary(Endpoint),
    /// These are in no state for a switchover.
    Unready(Vec<(Endpoint, &'static str)>),
    /// It did not get the last bytes of the primary in time; so many were missing, if that is known.
    NotLevel(Endpoint, Option<u64>),
    /// Not every byte had arrived, so the old primary goes on.
    GivenBack(Endpoint),
    /// This one is primary meanwhile.
    Overtaken(Endpoint),
    /// Not done within this time; the words say what it waited for.
    TimedOut(Duration, String),
}

impl Declined {
    /// Whether it is refused for the sake of the data; if not, it may be tried again as it is.
    pub fn is_for_safety(&self) -> bool {
        match self {
            Self::Paused
            | Self::IsPrimary(_)
            | Self::TooFew { .. }
            | Self::NobodyEligible(_)
            | Self::Unfit(..)
            | Self::NobodyFit(_)
            | Self::Unready(_)
            | Self::NotLevel(..)
            | Self::GivenBack(_) => true,
            Self::NotLeading
            | Self::Busy
            | Self::NoRecord
            | Self::NoMember(_)
            | Self::AlreadyPrimary(_)
            | Self::Overtaken(_)
            | Self::TimedOut(..) => false,
        }
    }
}

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeading => f.write_str("this monitor does not lead"),
            Self::Busy => f.write_str("another request for this service is under way"),
            Self::NoRecord => f.write_str("the service has no record yet"),
            Self::NoMember(addr) => write!(f, "{addr} is no member"),
            Self::Paused => f.write_str("the service is paused; `monitor resume` ends that"),
            Self::IsPrimary(addr) => write!(f, "{addr} is the primary; let another one take over first"),
            Self::TooFew { stay, needed } => write!(
                f,
                "only {stay} proven replicas would stay in sync, and {needed} have to: \
                 bring another one into sync first"
            ),
            Self::NobodyEligible(verdicts) => {
                f.write_str("nobody may be promoted without losing acknowledged writes:")?;
                verdicts.iter().try_for_each(|(addr, why)| match why {
                    Some(why) => write!(f, " {addr} ({why})"),
                    None => write!(f, " {addr} (eligible)"),
                })
            }
            Self::Unfit(addr, why) => write!(f, "{addr} cannot take over: {why}"),
            Self::NobodyFit(verdicts) => {
                f.write_str("no member can take over, not even with a loss:")?;
                verdicts.iter().try_for_each(|(addr, why)| write!(f, " {addr} ({why})"))
            }
            Self::AlreadyPrimary(addr) => write!(f, "{addr} is the primary already"),
            Self::Unready(verdicts) => {
                f.write_str("nothing was changed; not in a state for a switchover:")?;
                verdicts.iter().try_for_each(|(addr, why)| write!(f, " {addr} ({why})"))
            }
            Self::NotLevel(addr, Some(bytes)) => {
                write!(f, "nothing was changed: {addr} lacks {bytes} bytes and did not catch up in time")
            }
            Self::NotLevel(addr, None) => {
                write!(f, "nothing was changed: {addr} did not say in time what it holds")
            }
            Self::GivenBack(addr) => {
                write!(
                    f,
                    "not every byte had arrived at the new primary; {addr} is primary again, and nothing is lost"
                )
            }
            Self::Overtaken(addr) => write!(f, "{addr} became primary meanwhile"),
            Self::TimedOut(limit, why) => write!(f, "not done within {} ms: {why}", limit.as_millis()),
        }
    }
}

/// R16, while all is well and nobody has to leave the set: the next step of what is asked for, if it is about members.
pub(crate) fn members(view: &View, state: &State, primary: &Observation, now: Time) -> Option<Decision> {
    match &view.asked.as_ref()?.request {
        Request::Add { addr, overwrite } => Some(add(state, addr, *overwrite)),
        Request::Remove { addr } => remove(view, state, primary, addr, now),
        Request::Failover { .. } | Request::Switchover { .. } => None,
    }
}

fn answer(outcome: Result<Done, Declined>) -> Decision {
    Decision { steps: alloc::vec![Step::Answer(outcome)], because: Reason::Healthy }
}

/// No new epoch: it is as yet like one that was never heard of. It enters the set as everybody does (R6).
fn add(state: &State, addr: &Endpoint, overwrite: bool) -> Decision {
    let (member, adopted) = (state.members.contains(addr), state.adopted.contains(addr));
    if member && (adopted || !overwrite) {
        return answer(Ok(Done::Added(addr.clone())));
    }
    let mut next = state.clone();
    if !member {
        next.members.push(addr.clone());
    }
    if overwrite && !adopted {
        next.adopted.push(addr.clone());
    }
    publish(next, !member, Reason::Adding(addr.clone()))
}

/// Out of the set first, under a new epoch; then, once the primary is stamped with that, out of the group.
fn remove(view: &View, state: &State, primary: &Observation, addr: &Endpoint, now: Time) -> Option<Decision> {
    if *addr == state.primary.addr {
        return Some(answer(Err(Declined::IsPrimary(addr.clone()))));
    }
    if !state.members.contains(addr) {
        // Where it is being released, that comes first.
        return view.releasing.is_none().then(|| answer(Err(Declined::NoMember(addr.clone()))));
    }
    let because = Reason::Removing(addr.clone());
    let needed = view.limits.min_in_sync(state.members.len() - 1);
    if state.in_sync(addr).is_some() || needed != state.min_in_sync {
        let stays = |entry: &&InSync| entry.addr != *addr;
        let proven = state.in_sync.iter().filter(stays).filter(|entry| view.proven(state, entry, now));
        let stay = proven.count();
        // Also where no number is set: whoever stays behind must not be one that may not take over.
        let leaves_the_set = state.in_sync(addr).is_some() && state.members.len() > 2;
        let needed_now = needed.max(u32::from(leaves_the_set));
        if stay < needed_now as usize {
            return Some(answer(Err(Declined::TooFew { stay, needed: needed_now })));
        }
        let in_sync = state.in_sync.iter().filter(stays).cloned().collect();
        let next = State { min_in_sync: needed, ..changed(view, state, primary, in_sync, &because) };
        return Some(publish(next, false, because));
    }
    if view.stamped.is_none() || primary.fence != Fence::At(state.epoch) {
        return Some(wait(because));
    }
    let without = |list: &[Endpoint]| list.iter().filter(|other| *other != addr).cloned().collect();
    // Should it come back, it is a stranger like any other.
    let (members, adopted) = (without(&state.members), without(&state.adopted));
    Some(publish(State { members, adopted, ..state.clone() }, true, because))
}

/// A server that is no member any more follows nobody, and gives up the credential.
pub(crate) fn release(view: &View) -> Option<Step> {
    let (addr, _) = view.releasing.as_ref()?;
    Some(Step::Order { backend: addr.clone(), deed: Deed::Release })
}
