//! What keeps the log readable through a long outage: the same line is not given again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use failover::Time;

/// A line is not repeated within this time.
const QUIET_FOR: Duration = Duration::from_secs(30);

/// Remembers which lines were given lately.
#[derive(Debug, Default)]
pub(crate) struct Quiet(BTreeMap<String, Time>);

impl Quiet {
    /// Whether a line about `what` is due; if so, it counts as given. `what` names the occasion without what changes
    /// from one time to the next (versions, epochs), or the line would always be a new one.
    pub(crate) fn is_due(&mut self, what: impl Into<String>, now: Time) -> bool {
        self.0.retain(|_, given| now < *given + QUIET_FOR);
        let what = what.into();
        let due = !self.0.contains_key(&what);
        if due {
            self.0.insert(what, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_given_once_in_thirty_seconds_however_many_take_turns() {
        let mut quiet = Quiet::default();
        let mut given = 0;
        for ms in (0..60_000).step_by(50) {
            for what in ["a", "b"] {
                given += usize::from(quiet.is_due(what, Duration::from_millis(ms)));
            }
        }
        assert_eq!(given, 4, "two lines, at 0 s and at 30 s");
        assert!(quiet.is_due("c", Duration::from_millis(59_999)), "another one is due at once");
    }
}
