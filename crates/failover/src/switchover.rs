//! R15: a planned switchover from a primary that lives, so that nothing is lost, not even what nobody waited for.
//!
//! ```text
//!   asked --> A paused --> R level --> published (`from`: A) --> A detached --> R still level --> R promoted
//!                            |                                                    |
//!                            +- not in 50 ms: A goes on, nothing changed          +- not: published back to A
//! ```
//!
//! Before the publication everything is read off the request and off A's pause; afterwards `from` in the record says
//! where any monitor has to begin. Sync safety does not rest on any of this; what writers did not wait for does.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use topology::{Endpoint, InSync, Phase, PrimaryRef, State};

use crate::Time;
use crate::candidate;
use crate::decide::{Decision, Reason, Step, is_promoted, promotion, publish, settle, wait};
use crate::detector::Health;
use crate::order::Deed;
use crate::request::{Asked, Declined, Done};
use crate::set;
use crate::view::{Fence, Observation, Pause, Role, View};

/// How long R is waited for to have the last byte of A, which takes 0.2 ms. Writers wait meanwhile.
pub const LEVEL_WAIT: Duration = Duration::from_millis(50);
/// How long the pause of A's writers lasts if nobody ends it, in milliseconds.
pub const PAUSE_MS: u32 = 5000;
/// A pause older than this is begun anew, so that it does not end at the wrong moment.
const PAUSE_COUNTS: Duration = Duration::from_secs(3);

/// (1) to (4), while all is well: whoever was asked for takes over, or the request is declined.
pub(crate) fn begin(view: &View, state: &State, asked: &Asked, to: Option<&Endpoint>, now: Time) -> Decision {
    if asked.promoted != state.promoted {
        let answer = Step::Answer(came_of(asked, to, &state.primary.addr, || Done::FailedOver(None)));
        return Decision { steps: vec![answer], because: Reason::Healthy };
    }
    let old = &state.primary.addr;
    let (paused, over) = (paused(view, old, now), now >= asked.at + view.limits.switchover_budget);
    if view.is_in_doubt() {
        // It may stand already, or soon: then it is carried out. Nobody is held meanwhile for longer than is agreed; what is
        // written then, R is found to lack (6).
        return if over && paused.is_some() { order(old, Deed::Unpause) } else { wait(Reason::Switching) };
    }
    match ready(view, state, to, asked.at, now) {
        Err((why, lasts)) if lasts || over || paused.is_some() => give_up(view, state, why, now),
        // What is missing may come: a stamp, a replica, an answer.
        Err(_) => {
            let mut decision = settle(view, state, now);
            decision.steps.extend(state.members.iter().cloned().map(Step::Look));
            Decision { because: Reason::Switching, ..decision }
        }
        Ok((to, held)) => match paused {
            _ if over => give_up(
                view,
                state,
                Declined::TimedOut(view.limits.switchover_budget, "its budget is used up".into()),
                now,
            ),
            None => order(old, Deed::Pause),
            Some(since) => match missing(view, &to.addr, held, since, now) {
                Some(0) => hand_over(view, state, &to, held, now),
                missing if now >= since + LEVEL_WAIT => {
                    give_up(view, state, Declined::NotLevel(to.addr.clone(), missing), now)
                }
                Some(_) | None => looks([&to.addr, old]),
            },
        },
    }
}

/// What came of a switchover under which somebody was promoted.
pub(crate) fn came_of(
    asked: &Asked,
    to: Option<&Endpoint>,
    primary: &Endpoint,
    done: impl FnOnce() -> Done,
) -> Result<Done, Declined> {
    match to {
        _ if *primary == asked.primary => Err(Declined::GivenBack(primary.clone())),
        Some(to) if to != primary => Err(Declined::Overtaken(primary.clone())),
        Some(_) | None => Ok(done()),
    }
}

/// (1): who takes over, and what the old primary said last; or why not, and whether that lasts.
fn ready<'a>(
    view: &'a View,
    state: &'a State,
    to: Option<&Endpoint>,
    at: Time,
    now: Time,
) -> Result<(InSync, &'a Observation), (Declined, bool)> {
    let old = &state.primary.addr;
    match to {
        Some(to) if to == old => return Err((Declined::AlreadyPrimary(to.clone()), true)),
        Some(to) if !state.members.contains(to) => return Err((Declined::NoMember(to.clone()), true)),
        Some(_) | None => {}
    }
    let held = view.current(old, now).filter(|_| view.health(old, now) == Health::Up);
    let Some(held) = held.filter(|held| held.fence == Fence::At(state.epoch) && view.stamped.is_some())
    else {
        return Err((Declined::Unready(vec![(old.clone(), "not stamped with the present epoch")]), false));
    };
    let mut unready: Vec<(Endpoint, &'static str)> = Vec::new();
    for (addr, _) in set::unfit_members(view, state, now) {
        unready.push((addr, "in the set, but unfit"));
    }
    let doubtful = |entry: &&InSync| {
        !unready.iter().any(|(addr, _)| *addr == entry.addr) && !view.proven(state, entry, now)
    };
    let doubtful: Vec<Endpoint> =
        state.in_sync.iter().filter(doubtful).map(|entry| entry.addr.clone()).collect();
    unready.extend(doubtful.into_iter().map(|addr| (addr, "in the set, but not seen to follow")));
    let best = match to {
        Some(to) => Some(to.clone()).filter(|to| candidate::is_eligible(view, state, to, at, now)),
        None => candidate::best(view, state, at, now),
    };
    let chosen = best.and_then(|addr| Some((state.in_sync(&addr)?.clone(), view.current(&addr, now)?)));
    let Some((entry, seen)) = chosen else {
        return Err((Declined::NobodyEligible(view.candidates(now)), false));
    };
    if !unready.is_empty() {
        return Err((Declined::Unready(unready), false));
    }
    let behind = held.offset.saturating_sub(seen.offset);
    if behind > view.limits.max_lag_bytes {
        return Err((Declined::NotLevel(entry.addr, Some(behind)), false));
    }
    Ok((entry, held))
}

/// (4)
fn hand_over(view: &View, state: &State, to: &InSync, held: &Observation, now: Time) -> Decision {
    let Some(seen) = view.current(&to.addr, now) else { return looks([&to.addr]) };
    let because = Reason::Switchover(to.addr.clone());
    let old = InSync {
        addr: state.primary.addr.clone(),
        seen_as: held.shows_as.clone(),
        run_id: state.primary.run_id.clone(),
        since: state.epoch,
        replid: held.replid.clone(),
        later: Vec::new(),
    };
    let from = PrimaryRef { replid: held.replid.clone(), ..state.primary.clone() };
    let next = State { from: Some(from), ..promotion(view, state, to, seen, Some(old), &because, now) };
    publish(next, false, because)
}

fn give_up(view: &View, state: &State, why: Declined, now: Time) -> Decision {
    let mut decision = settle(view, state, now);
    decision.steps.insert(0, Step::Answer(Err(why)));
    decision
}

/// (2), (3), (5) and (6), while `from` stands and R is not promoted: nothing else is done before the old primary takes no
/// write any more and what it held last is known, if it can be had. `None`: R is to be promoted, or another one if it is lost.
pub(crate) fn old_primary_first(view: &View, state: &State, now: Time) -> Option<Decision> {
    let from = state.from.as_ref().filter(|_| state.phase == Phase::Promoting)?;
    if is_promoted(view, state, now).is_some() {
        return None;
    }
    if view.publishing {
        return Some(wait(Reason::Switching)); // it may be given back
    }
    let (old, backend) = (&from.addr, view.backends.get(&from.addr)?);
    let long_troubled =
        backend.detector.troubled_since().is_some_and(|since| now >= since + view.limits.down_after);
    match view.health(old, now) {
        Health::Refused(_) | Health::Silent(_) => return None,
        Health::Troubled(_) if long_troubled => return None,
        Health::Unknown | Health::Up | Health::Suspect | Health::Troubled(_) => {}
    }
    if backend.is_another_than(&from.run_id) {
        return None;
    }
    let Some(held) = view.current(old, now) else { return Some(looks([old])) };
    if held.run_id != from.run_id {
        return None;
    }
    let to = &state.primary.addr;
    let lost = view.primary_fault(now).is_some();
    match &held.role {
        Role::Primary { .. } => Some(match paused(view, old, now) {
            None => order(old, Deed::Pause),
            // Also where R is not level: what is missing is looked for once nothing can be added any more.
            Some(since)
                if lost || now >= since + LEVEL_WAIT || missing(view, to, held, since, now) == Some(0) =>
            {
                order(old, Deed::Leave)
            }
            Some(_) => looks([to, old]),
        }),
        // Somebody else acted on it: what it holds says nothing any more.
        Role::Replica { source: Some(_), .. } => None,
        Role::Replica { .. } if held.replid != from.replid || lost => None,
        Role::Replica { source: None, .. } => {
            // What was said before this monitor led, or on an earlier connection, is old.
            let since = backend.role_since.max(backend.stale_until);
            let asked_from = view.backends.get(to).map_or(since, |new| since.max(new.stale_until));
            let cut_off = view
                .current(to, now)
                .is_some_and(|seen| matches!(seen.role, Role::Replica { link_up: false, .. }));
            match missing(view, to, held, since, now) {
                Some(0) => None,
                Some(_) if cut_off => Some(give_back(view, state, from, held, now)),
                Some(_) | None if now >= asked_from + LEVEL_WAIT => {
                    Some(give_back(view, state, from, held, now))
                }
                Some(_) | None => Some(looks([to])),
            }
        }
    }
}

/// (6), second half: R lacks something, so the old primary goes on, under an epoch of its own.
fn give_back(view: &View, state: &State, from: &PrimaryRef, held: &Observation, now: Time) -> Decision {
    let because = Reason::GivenBack(from.addr.clone());
    let Some(entry) = state.in_sync(&from.addr) else { return wait(Reason::Switching) };
    let to = &state.primary;
    let seen = view.current(&to.addr, now).filter(|seen| seen.run_id == to.run_id);
    let stays = match seen.map(|seen| (seen, seen.fence)) {
        Some((seen, Fence::At(fence))) => Some(InSync {
            addr: to.addr.clone(),
            seen_as: seen.shows_as.clone(),
            run_id: to.run_id.clone(),
            since: fence,
            replid: seen.replid.clone(),
            later: Vec::new(),
        }),
        // As it was recorded before, if that is known.
        Some((_, Fence::Absent | Fence::Unreadable)) | None => {
            view.basis.as_ref().and_then(|basis| basis.in_sync(&to.addr)).cloned()
        }
    };
    publish(promotion(view, state, entry, held, stays, &because, now), false, because)
}

/// How many bytes of what the old primary held R lacks, by an answer asked for since then; `None`: not known.
fn missing(view: &View, to: &Endpoint, held: &Observation, since: Time, now: Time) -> Option<u64> {
    let seen =
        view.current(to, now).filter(|_| view.backends.get(to).is_some_and(|b| b.answered_since(since)))?;
    Some(held.offset.abs_diff(seen.offset))
}

/// Since when the writers of a server are held.
fn paused(view: &View, addr: &Endpoint, now: Time) -> Option<Time> {
    match view.backends.get(addr)?.pause {
        Pause::Since(since) if now < since + PAUSE_COUNTS => Some(since),
        Pause::Since(_) | Pause::Perhaps | Pause::No => None,
    }
}

fn order(backend: &Endpoint, deed: Deed) -> Decision {
    let steps = vec![Step::Order { backend: backend.clone(), deed }];
    Decision { steps, because: Reason::Switching }
}

fn looks<'a>(at: impl IntoIterator<Item = &'a Endpoint>) -> Decision {
    Decision { steps: at.into_iter().cloned().map(Step::Look).collect(), because: Reason::Switching }
}
