//! How long an address may be kept after ZooKeeper last answered: three bounds, all measured from the moment at which the
//! last renewal that was answered had been *sent*.
//!
//! With a session of S (what ZooKeeper granted, 6 s by default):
//!
//! | after | what happens | here |
//! |---|---|---|
//! | S/2 | the agent gives the address back by its own clock | 3 s |
//! | 3/4 S | the kernel has removed it at the latest, also when the agent was stopped or killed | 4.5 s |
//! | 3/4 S to S | ZooKeeper may end the session, and with it the claim | 4.5 s to 8 s |
//!
//! ZooKeeper counts S from the last packet that its leader knows of. What a follower was sent it tells the leader every half
//! tick, and a session is at least two ticks (`minSessionTimeout`, unless somebody lowers it): so a quarter of S may be missing.
//! It ends sessions at whole ticks only, never sooner.
//!
//! The kernel counts lifetimes in whole seconds. It was seen to remove an address up to 0.3 s after its end; its code may take
//! 1.25 s, when somebody else's address keeps its timer busy, and may be a quarter of a second early.

use std::time::Duration;

use failover::Time;

/// By so much the kernel may remove an address after the end of its lifetime.
const KERNEL_LATE: Duration = Duration::from_millis(1250);

/// The bounds that follow from the timeout of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    session: Duration,
    /// The lifetime of the address in the kernel; set anew with every [`Lease::every`].
    pub(crate) seconds: u32,
    /// How often claim and lifetime are renewed.
    pub(crate) every: Duration,
}

impl Lease {
    /// The smallest session that leaves a whole second to the kernel.
    pub(crate) const SMALLEST: Duration = Duration::from_secs(4);

    /// The bounds for sessions of this timeout; `None` if it is too small for the kernel's seconds.
    pub(crate) fn of(session: Duration) -> Option<Self> {
        let half = u32::try_from(session.as_secs() / 2).unwrap_or(u32::MAX);
        let every = (session / 16).clamp(Duration::from_millis(250), Duration::from_secs(1));
        (session >= Self::SMALLEST).then_some(Self { session, seconds: half - 1, every })
    }

    /// When the address is given back unless another renewal was answered.
    pub(crate) fn ends(self, sent: Time) -> Time {
        sent + self.session / 2
    }

    /// Whether a lifetime that begins no later than `now` is certainly over before the session can be.
    pub(crate) fn may_set(self, sent: Time, now: Time) -> bool {
        let over = now + Duration::from_secs(u64::from(self.seconds)) + KERNEL_LATE;
        over <= sent + self.session / 4 * 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// session, lifetime, every, own end, the last moment for a lifetime to begin
    #[test]
    fn the_bounds_of_usual_sessions() {
        let ms = Duration::from_millis;
        for (session, seconds, every, ends, last) in [
            (4000, 1, 250, 2000, 750),
            (6000, 2, 375, 3000, 1250),
            (10_000, 4, 625, 5000, 2250),
            (40_000, 19, 1000, 20_000, 9750),
        ] {
            let lease = Lease::of(ms(session)).unwrap();
            assert_eq!((lease.seconds, lease.every.as_millis()), (seconds, every), "{session}");
            let sent = ms(70_000);
            assert_eq!(lease.ends(sent), sent + ms(ends), "{session}");
            assert!(
                lease.may_set(sent, sent + ms(last)) && !lease.may_set(sent, sent + ms(last + 1)),
                "{session}"
            );
        }
        assert_eq!(Lease::of(ms(3999)), None);
    }

    /// While renewals are answered within the usual time, a lifetime never ends by itself.
    #[test]
    fn lifetimes_overlap() {
        let early = Duration::from_millis(250);
        for session in 4..=600 {
            let lease = Lease::of(Duration::from_secs(session)).unwrap();
            let lives = Duration::from_secs(u64::from(lease.seconds)) - early;
            assert!(lease.every * 2 < lives, "{session} s");
            assert!(lease.may_set(Duration::ZERO, lease.every + lease.every / 2), "{session} s");
        }
    }
}
