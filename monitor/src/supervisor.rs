//! What systemd is told (`Type=notify`, `WatchdogSec`): that the loop has begun, that it turns, that it ends. Nothing where no
//! supervisor asks.

use sd_notify::{NotifyState, notify};

/// The ports are bound and the loop begins. ZooKeeper may be away: it is waited for as long as it takes.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The loop turns; at least once a heartbeat.
pub(crate) fn alive(leads: bool) {
    let status = if leads { "leads" } else { "does not lead" };
    tell(&[NotifyState::Watchdog, NotifyState::Status(status)]);
}

/// The end was asked for.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(what: &[NotifyState<'_>]) {
    // A supervisor that does not listen is its own affair.
    _ = notify(false, what);
}
