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
/// So many known ones stand for all of them. The first few are no sample: dead ones are known sooner than those that answer.
pub const SAMPLE: usize = 32;
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
    /// Primaries of which something is known.
    known: usize,
    /// Those that do not answer now.
    lost: usize,
    /// When each of the last ones was lost.
    lately: VecDeque<Time>,
    since: Option<Time>,
}

/// How the primary of a group stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is known of it yet, there is none, or nobody watches it any more.
    #[default]
    Unknown,
    /// It answers.
    There,
    /// It answers no more; it may be late, or gone.
    Lost,
}

impl Losses {
    /// A primary stands otherwise than before.
    pub fn changed(&mut self, was: Standing, is: Standing, now: Time) {
        let count = |which: fn(Standing) -> bool, of: usize| {
            (of + usize::from(which(is))).saturating_sub(usize::from(which(was)))
        };
        self.known = count(|standing| standing != Standing::Unknown, self.known);
        self.lost = count(|standing| standing == Standing::Lost, self.lost);
        if is == Standing::Lost && was != Standing::Lost {
            self.lately.push_back(now);
        }
    }

    /// Primaries that do not answer now.
    pub fn lost(&self) -> usize {
        self.lost
    }

    /// Primaries of which something is known.
    pub fn known(&self) -> usize {
        self.known
    }

    /// Since when there is a mass failure among so many services. One begins with many losses at once, and lasts until not as
    /// many are lost any more. A monitor that has just begun comes to know thousands one after the other, and must not take
    /// those of which it knows nothing for as many that answer.
    pub fn judge(&mut self, services: usize, percent: u32, now: Time) -> Option<Time> {
        let of = if self.known < SAMPLE { services } else { self.known };
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

/// How a group's primary stands: lost is one that is late, refuses, or is silent.
pub fn standing(view: &View, now: Time) -> Standing {
    match view.state().map_or(Health::Unknown, |state| view.health(&state.primary.addr, now)) {
        Health::Unknown => Standing::Unknown,
        Health::Up | Health::Troubled(_) => Standing::There,
        Health::Suspect | Health::Refused(_) | Health::Silent(_) => Standing::Lost,
    }
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

    /// Ten primaries that answer.
    fn ten() -> Losses {
        let mut losses = Losses::default();
        (0..10).for_each(|_| losses.changed(Standing::Unknown, Standing::There, ms(0)));
        losses
    }

    fn began(losses: &mut Losses, now: Time) {
        losses.changed(Standing::There, Standing::Lost, now);
    }

    fn ended(losses: &mut Losses, now: Time) {
        losses.changed(Standing::Lost, Standing::There, now);
    }

    #[test]
    fn it_begins_with_many_at_once_and_ends_when_they_are_few() {
        let mut losses = ten();
        for n in 0..4 {
            began(&mut losses, ms(n * 100));
            assert_eq!(losses.judge(10, 30, ms(n * 100)), (n == 3).then_some(ms(300)), "{n}");
        }
        assert_eq!(losses.judge(10, 30, ms(60_000)), Some(ms(300)), "it lasts as long as they are lost");
        ended(&mut losses, ms(60_001));
        assert_eq!((losses.lost(), losses.judge(10, 30, ms(60_001))), (3, None));
    }

    #[test]
    fn one_after_the_other_is_none() {
        let mut losses = ten();
        for n in 0..10 {
            began(&mut losses, ms(n * 600));
            assert_eq!(losses.judge(10, 30, ms(n * 600)), None, "{n}");
        }
    }

    #[test]
    fn one_that_comes_and_goes_counts_once() {
        let mut losses = ten();
        for n in 0..50 {
            began(&mut losses, ms(n));
            assert_eq!(losses.judge(10, 30, ms(n)), None);
            ended(&mut losses, ms(n));
        }
    }

    /// A monitor begins behind a cut: one after the other it finds that no primary can be reached, some in each second.
    #[test]
    fn those_of_which_nothing_is_known_yet_do_not_count() {
        let mut losses = Losses::default();
        for n in 0..1000 {
            losses.changed(Standing::Unknown, Standing::Lost, ms(n * 10));
            assert_eq!(losses.judge(1000, 30, ms(n * 10)), (n >= 31).then_some(ms(310)), "{n}");
        }
        for n in 0..1000 {
            losses.changed(Standing::Lost, Standing::Unknown, ms(20_000));
            assert_eq!((losses.known(), losses.lost()), (999 - n, 999 - n), "they are not watched any more");
        }
        assert_eq!(losses.judge(0, 30, ms(20_000)), None);
    }

    /// Of a thousand, nine are dead, and among the first that are known.
    #[test]
    fn a_few_dead_ones_that_are_known_first_are_no_mass() {
        let mut losses = Losses::default();
        for n in 0..1000 {
            let is = if n < 9 { Standing::Lost } else { Standing::There };
            losses.changed(Standing::Unknown, is, ms(n));
            assert_eq!(losses.judge(1000, 30, ms(n)), None, "{n}");
        }
    }
}
