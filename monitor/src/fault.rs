//! `ALBIREO_TEST_FAULT=stop:STEP` or `kill:STEP`: this process stops or kills itself, once, right before STEP.
//! For tests and game days; announced loudly at the start.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use failover::{Deed, Observation, Order, Role};
use tracing::warn;

/// The environment variable.
pub(crate) const VARIABLE: &str = "ALBIREO_TEST_FAULT";

static PLAN: OnceLock<Plan> = OnceLock::new();

/// A step of a failover, or of a change of the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Before a promotion is published.
    Publish,
    /// Before the old primary of a switchover is detached.
    Detach,
    /// Before the EXEC that promotes.
    Promote,
    /// Before a stamp of its own.
    Stamp,
    /// Before a replica is pointed at the primary.
    Repoint,
    /// Before the announcement.
    Announce,
    /// Before a stale primary is made a replica.
    Demote,
}

#[derive(Debug)]
struct Plan {
    signal: i32,
    step: Step,
    done: AtomicBool,
}

/// Reads the plan and arms it.
pub(crate) fn arm(text: &str) -> Result<(), String> {
    let wrong = || {
        format!(
            "{VARIABLE}={text}: expected stop:STEP or kill:STEP, STEP one of publish, detach, promote, stamp, repoint, announce, demote"
        )
    };
    let (what, step) = text.split_once(':').ok_or_else(wrong)?;
    let signal = match what {
        "stop" => libc::SIGSTOP,
        "kill" => libc::SIGKILL,
        _ => return Err(wrong()),
    };
    let step = step.parse().map_err(|()| wrong())?;
    warn!("{VARIABLE} is set: this monitor will {what} itself once, before the step {step:?}");
    PLAN.set(Plan { signal, step, done: AtomicBool::new(false) })
        .map_err(|_| format!("{VARIABLE} armed twice"))
}

/// The step that an order is.
pub(crate) fn step(order: &Order, seen: &Observation) -> Option<Step> {
    match (&order.deed, &seen.role) {
        (Deed::Promote { .. }, _) => Some(Step::Promote),
        (Deed::Stamp, _) => Some(Step::Stamp),
        (Deed::Attach, Role::Primary { .. }) => Some(Step::Demote),
        (Deed::Attach, Role::Replica { .. }) => Some(Step::Repoint),
        (Deed::Detach | Deed::Leave, _) => Some(Step::Detach),
        (Deed::Protect | Deed::Tick | Deed::Release | Deed::Pause | Deed::Unpause, _) => None,
    }
}

impl Step {
    /// Called right before the step is taken.
    pub(crate) fn reached(self) {
        let Some(plan) = PLAN.get().filter(|plan| plan.step == self) else { return };
        if !plan.done.swap(true, Ordering::SeqCst) {
            warn!("{VARIABLE}: before {self:?}, as asked");
            raise(plan.signal);
        }
    }
}

#[allow(unsafe_code)]
fn raise(signal: i32) {
    // SAFETY: raise has no preconditions; SIGSTOP and SIGKILL run no handler of ours.
    unsafe {
        libc::raise(signal);
    }
}

impl FromStr for Step {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "publish" => Self::Publish,
            "detach" => Self::Detach,
            "promote" => Self::Promote,
            "stamp" => Self::Stamp,
            "repoint" => Self::Repoint,
            "announce" => Self::Announce,
            "demote" => Self::Demote,
            _ => return Err(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        for text in ["stop", "stop:", "halt:publish", "kill:everything", ""] {
            assert!(arm(text).is_err(), "{text}");
        }
        for step in ["publish", "detach", "promote", "stamp", "repoint", "announce", "demote"] {
            assert!(step.parse::<Step>().is_ok());
        }
    }
}
