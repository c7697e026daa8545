//! Many primaries lost at once: most likely it is this monitor's own network, not they. Safety rests on nothing in here.
//!
//! While that is so, a failover begins only where the death is certain without us (a replica answers and has lost it too,
//! and its host refuses connections, or another process answers there), or where the other monitor cannot reach the primary
//! either. Where there is nobody to ask, or he says nothing, the loss has to last [`ALONE_WAIT`]. So many real deaths are
//! served in this order: the certain ones at once, those that the other monitor sees as soon as it has said so, the rest.

use alloc::collections::VecDeque;
use core::time::Duration;

use topology::State;

use crate::view::{Fault, PeerOpinion, Role, View};
use crate::{Health, Time};

/// With fewer services none is braked: two that share a host are half of three.
pub const FEWEST: usize = 4;
/// Losses within this time are at once.
pub const AT_ONCE: Duration = Duration::from_secs(1);
/// How long a loss has to last where no other monitor says anything.
pub const ALONE_WAIT: Duration = Duration::from_secs(5);

/// Whether so many lost ones of so many primaries are a mass failure. 100 per cent never are.
pub const fn is_mass(lost: usize, of: usize, percent: u32) -> bool {
    of >= FEWEST && lost * 100 > of * percent as usize
}

/// The losses of all groups of one monitor.
#[derive(Debug, Default, Clone)]
pub struct Losses {
    /// Primaries that do not answer now.
    lost: usize,
    /// When each of the last ones was lost.
    lately: VecDeque<Time>,
    since: Option<Time>,
}

impl Losses {
    /// A primary answers no more; it may be late, or gone.
    pub fn began(&mut self, now: Time) {
        self.lost += 1;
        self.lately.push_back(now);
    }

    /// One of them answers again, was replaced, or is not watched any more.
    pub fn ended(&mut self) {
        self.lost = self.lost.saturating_sub(1);
    }

    /// Primaries that do not answer now.
    pub fn lost(&self) -> usize {
        self.lost
    }

    /// Since when there is a mass failure among so many primaries. One begins with many losses at once, and lasts until not
    /// as many are lost any more.
    pub fn judge(&mut self, of: usize, percent: u32, now: Time) -> Option<Time> {
        while self.lately.front().is_some_and(|at| now > *at + AT_ONCE) {
            self.lately.pop_front();
        }
        let at_once = self.lost.min(self.lately.len());
        match self.since {
            None if is_mass(at_once, of, percent) => self.since = Some(now),
            Some(_) if !is_mass(self.lost, of, percent) => self.since = None,
            None | Some(_) => {}
        }
        self.since
    }
}

/// Whether a group's primary counts among the lost: it is late, refuses, or is silent.
pub fn is_lost(view: &View, now: Time) -> bool {
    let health = view.state().map(|state| view.health(&state.primary.addr, now));
    matches!(health, Some(Health::Suspect | Health::Refused(_) | Health::Silent(_)))
}

/// Whether a failover may begin in the middle of a mass failure.
pub(crate) fn may_begin(view: &View, state: &State, fault: Fault, since: Time, now: Time) -> bool {
    match fault {
        Fault::Asked | Fault::Restarted | Fault::Demoted | Fault::Refused => true,
        Fault::Gone if is_witnessed(view, state, since, now) => true,
        Fault::Gone | Fault::Silent => match &view.peer {
            PeerOpinion::CannotReach(servers) => servers.contains(&state.primary.addr),
            PeerOpinion::Gone | PeerOpinion::Mute => now >= since + ALONE_WAIT,
        },
    }
}

/// Whether a replica that answers has lost the primary too.
fn is_witnessed(view: &View, state: &State, since: Time, now: Time) -> bool {
    let addr = &state.primary.addr;
    view.backends.iter().filter(|(other, _)| *other != addr).any(|(other, backend)| {
        let says = backend.seen.as_ref().filter(|seen| seen.asked >= since);
        let lost = says.is_some_and(|seen| match &seen.observation.role {
            Role::Replica { source, link_up, .. } => source.as_ref() == Some(addr) && !link_up,
            Role::Primary { .. } => false,
        });
        lost && view.health(other, now) == Health::Up
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Time {
        Duration::from_millis(n)
    }

    #[test]
    fn more_than_the_share_and_not_of_a_few() {
        let rows = [
            (0, 0, 30, false),
            (1, 1, 30, false),
            (3, 3, 30, false),
            (1, 4, 30, false),
            (2, 4, 30, true),
            (30, 100, 30, false),
            (31, 100, 30, true),
            (100, 1000, 30, false),
            (400, 1000, 30, true),
            (1000, 1000, 100, false),
            (2, 100, 1, true),
        ];
        for (lost, of, percent, is) in rows {
            assert_eq!(is_mass(lost, of, percent), is, "{lost} of {of}, {percent} %");
        }
    }

    #[test]
    fn it_begins_with_many_at_once_and_ends_when_they_are_few() {
        let mut losses = Losses::default();
        for n in 0..4 {
            losses.began(ms(n * 100));
            assert_eq!(losses.judge(10, 30, ms(n * 100)), (n == 3).then_some(ms(300)), "{n}");
        }
        assert_eq!(losses.judge(10, 30, ms(60_000)), Some(ms(300)), "it lasts as long as they are lost");
        losses.ended();
        assert_eq!((losses.lost(), losses.judge(10, 30, ms(60_001))), (3, None));
    }

    #[test]
    fn one_after_the_other_is_none() {
        let mut losses = Losses::default();
        for n in 0..10 {
            losses.began(ms(n * 600));
            assert_eq!(losses.judge(10, 30, ms(n * 600)), None, "{n}");
        }
    }

    #[test]
    fn one_that_comes_and_goes_counts_once() {
        let mut losses = Losses::default();
        for n in 0..50 {
            losses.began(ms(n));
            assert_eq!(losses.judge(10, 30, ms(n)), None);
            losses.ended();
        }
    }
}
