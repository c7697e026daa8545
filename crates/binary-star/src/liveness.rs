//! When the peer was last heard, and when it expires.
//!
//! Time is a [`Duration`] since any origin that the caller keeps; it must come from a monotonic clock. Silence only
//! proves something if we were listening: when our own tick is late by more than a heartbeat we were stalled, and
//! the silence is measured anew (SAFETY R13).

use core::time::Duration;

use crate::fsm::{Dialect, Peer};

/// The peer's silence, as one side measures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    heartbeat: Duration,
    expiry: Duration,
    /// The silence counts from here: start, last heartbeat, or the end of a stall of our own.
    silent_since: Duration,
    /// The last heartbeat that was really heard.
    heard: Option<Duration>,
    ticked: Duration,
}

impl Liveness {
    /// Begins at `now` as if the peer had just been heard, as the guide does: a side that starts waits for one expiry
    /// before it believes that nobody is there.
    pub fn new(dialect: Dialect, heartbeat: Duration, now: Duration) -> Self {
        let expiry = heartbeat.saturating_mul(dialect.expiry_beats());
        Liveness { heartbeat, expiry, silent_since: now, heard: None, ticked: now }
    }

    /// A heartbeat of the peer arrived.
    pub fn handle_heard(&mut self, now: Duration) {
        self.heard = Some(now);
        self.silent_since = now;
    }

    /// Our own tick, due once per heartbeat. Returns true if it came so late that the silence starts anew.
    pub fn handle_tick(&mut self, now: Duration) -> bool {
        let stalled = self.is_stalled(now);
        if stalled {
            self.silent_since = now;
        }
        self.ticked = now;
        stalled
    }

    /// Whether the peer's expiry has passed. While our own tick is overdue by more than a heartbeat we know nothing,
    /// and say [`Peer::Alive`].
    pub fn peer(&self, now: Duration) -> Peer {
        if now < self.expires_at() || self.is_stalled(now) { Peer::Alive } else { Peer::Expired }
    }

    /// When the peer expires if nothing is heard before.
    pub fn expires_at(&self) -> Duration {
        self.silent_since.saturating_add(self.expiry)
    }

    /// When the peer was really heard last.
    pub fn last_heard(&self) -> Option<Duration> {
        self.heard
    }

    fn is_stalled(&self, now: Duration) -> bool {
        now.saturating_sub(self.ticked) > self.heartbeat.saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Ticks on time up to and including `until`.
    fn tick(liveness: &mut Liveness, from: u64, until: u64) {
        for now in (from..=until).step_by(100) {
            assert!(!liveness.handle_tick(ms(now)));
        }
    }

    #[test]
    fn expires_after_two_or_three_heartbeats() {
        for (dialect, limit) in [(Dialect::Guide, 200), (Dialect::PeerDead, 300)] {
            let mut liveness = Liveness::new(dialect, ms(100), ms(5000));
            tick(&mut liveness, 5000, 5000 + limit);
            assert_eq!(liveness.peer(ms(5000 + limit - 1)), Peer::Alive);
            assert_eq!(liveness.peer(ms(5000 + limit)), Peer::Expired);
            assert_eq!(liveness.last_heard(), None);
            liveness.handle_heard(ms(5000 + limit));
            assert_eq!(liveness.peer(ms(5000 + limit)), Peer::Alive);
            assert_eq!(liveness.expires_at(), ms(5000 + 2 * limit));
            assert_eq!(liveness.last_heard(), Some(ms(5000 + limit)));
        }
    }

    #[test]
    fn a_stall_of_our_own_is_no_silence_of_the_peer() {
        let mut liveness = Liveness::new(Dialect::Guide, ms(100), ms(0));
        tick(&mut liveness, 0, 100);
        liveness.handle_heard(ms(100));
        // Stopped for ten seconds; whether the tick or the question comes first makes no difference.
        assert_eq!(liveness.peer(ms(10_100)), Peer::Alive);
        assert!(liveness.handle_tick(ms(10_100)));
        assert_eq!(liveness.peer(ms(10_100)), Peer::Alive);
        tick(&mut liveness, 10_200, 10_300);
        assert_eq!(liveness.peer(ms(10_299)), Peer::Alive);
        assert_eq!(liveness.peer(ms(10_300)), Peer::Expired);
        assert_eq!(liveness.last_heard(), Some(ms(100)));
    }

    #[test]
    fn a_tick_late_by_a_heartbeat_is_still_on_time() {
        let mut liveness = Liveness::new(Dialect::Guide, ms(100), ms(0));
        assert!(!liveness.handle_tick(ms(200)));
        assert_eq!(liveness.peer(ms(200)), Peer::Expired);
        assert!(liveness.handle_tick(ms(401)));
        assert_eq!(liveness.peer(ms(401)), Peer::Alive);
    }

    #[test]
    fn a_clock_that_goes_back_expires_nobody() {
        let mut liveness = Liveness::new(Dialect::Guide, ms(100), ms(1000));
        assert!(!liveness.handle_tick(ms(10)));
        assert_eq!(liveness.peer(ms(10)), Peer::Alive);
    }
}
