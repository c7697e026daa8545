//! The one monotonic clock of this process (R13): the core counts time from its start.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use failover::Time;

/// A clock that began at the start of the program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Begins to count.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Since the start.
    pub(crate) fn now(self) -> Time {
        self.0.elapsed()
    }

    /// The clock on the wall, from which nothing is measured: two monitors agree by it when within an interval to ask.
    /// Since 1970; zero before.
    pub(crate) fn on_the_wall(self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// The core's time as the runtime's.
    pub(crate) fn instant(self, time: Time) -> tokio::time::Instant {
        (self.0 + time).into()
    }
}
