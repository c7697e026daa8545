//! The decision at `<state_root><path>/state`: what monitors agree on and the API obeys (docs/protocol.md, section 2).

use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::shown::shown;
use crate::{Endpoint, Topology, from_object};

/// No epoch is higher. Numbers beyond it are not the same in every reader of JSON, and adding one must stay possible.
pub const LAST_EPOCH: u64 = 1 << 53;

/// One decision. The primary, the addresses in sync and `min_in_sync` are a function of `epoch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Grows by one with every change of the primary or of the set in sync, and only then.
    pub epoch: u64,
    /// The epoch of the last promotion; it names the replication credential.
    pub promoted: u64,
    /// The one server that takes writes, as a process and not only as an address.
    pub primary: PrimaryRef,
    /// The replicas that confirmed everything acknowledged in this epoch.
    pub in_sync: Vec<InSync>,
    /// With fewer in sync, writes that ask for copies are refused.
    pub min_in_sync: u32,
    /// Every server of the group, the primary included, in the order in which they were configured.
    pub members: Vec<Endpoint>,
    /// Members that were primary or in sync once: what they hold came from this group, so they may be overwritten.
    #[serde(default)]
    pub adopted: Vec<Endpoint>,
    /// The version of `<path>` after our last write to it; only a higher one is an edit by hand.
    pub path_version: i32,
    /// Only during a planned switchover: the old primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PrimaryRef>,
    /// The primary was chosen by what it was told last, after every process had been restarted (R14): it need not hold
    /// everything, and need not carry a fence.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub cold: bool,
    /// While a promotion is carried out under which nothing can be acknowledged yet (fewer in sync than `min_in_sync`): the
    /// smallest `since` of the last set under which something could (R14).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<u64>,
    /// Whether the promotion is still being carried out.
    pub phase: Phase,
    /// The monitor that published this.
    pub leader: String,
    /// Why, in words for a person.
    pub reason: String,
}

/// A primary: a process at an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryRef {
    /// Where it listens.
    pub addr: Endpoint,
    /// Which process it is; never empty.
    pub run_id: String,
    /// Its replication id; empty while its promotion has not been seen done.
    #[serde(default)]
    pub replid: String,
}

/// A replica in sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InSync {
    /// Where it listens.
    pub addr: Endpoint,
    /// `ip:port` as the primary's ROLE shows it.
    pub seen_as: String,
    /// Which process it is.
    pub run_id: String,
    /// The epoch with which it last entered the set.
    pub since: u64,
    /// The replication id that it had when it was last seen by a publication.
    pub replid: String,
    /// Those of primaries since then, which it may have followed without being seen to; at most [`LATER_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub later: Vec<String>,
}

/// A replica that nobody hears through more promotions than this stands at an earlier one of them.
pub const LATER_MAX: usize = 8;

impl InSync {
    /// Whether this is a replication id under which it may stand.
    pub fn may_stand_at(&self, replid: &str) -> bool {
        self.replid == replid || self.later.iter().any(|later| later == replid)
    }

    /// The same, after a primary with this replication id was replaced.
    #[must_use]
    pub fn after(mut self, replid: &str) -> Self {
        if !replid.is_empty() && !self.may_stand_at(replid) && self.later.len() < LATER_MAX {
            self.later.push(replid.into());
        }
        self
    }
}

/// How far the last promotion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Decided, not yet seen done.
    Promoting,
    /// The primary is promoted, stamped and announced.
    Serving,
}

/// Why the content of a znode is no [`State`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a state record: {0}")]
pub struct StateError(String);

impl State {
    /// Reads a record. Unknown keys are accepted.
    pub fn from_json(bytes: &[u8]) -> Result<Self, StateError> {
        let read: Self = from_object(bytes).map_err(|e| StateError(shown(&e.to_string())))?;
        match read.flaw() {
            Some(flaw) => Err(StateError(flaw.to_string())),
            None => Ok(read),
        }
    }

    /// What no record of ours ever says.
    fn flaw(&self) -> Option<&'static str> {
        let is_member = |addr: &Endpoint| self.members.contains(addr);
        if self.primary.run_id.is_empty() {
            return Some("primary.run_id is empty");
        }
        if self.epoch == 0 || self.epoch > LAST_EPOCH {
            return Some("epoch is 0, or too large");
        }
        if self.promoted == 0 || self.promoted > self.epoch {
            return Some("promoted is not between 1 and epoch");
        }
        if !is_member(&self.primary.addr) {
            return Some("primary is not among members");
        }
        if has_twice(self.members.iter()) {
            return Some("members names a server twice");
        }
        let wrong = |entry: &InSync| {
            entry.addr == self.primary.addr || !is_member(&entry.addr) || entry.since > self.epoch
        };
        if self.in_sync.iter().any(wrong) {
            return Some("in_sync names the primary, a server that is no member, or a later epoch");
        }
        if has_twice(self.in_sync.iter().map(|entry| &entry.addr)) {
            return Some("in_sync names a server twice");
        }
        self.floor.is_some_and(|floor| floor > self.epoch).then_some("floor is a later epoch")
    }

    /// Whether two records of one epoch differ in what is a function of the epoch: one of them is not ours.
    pub fn contradicts(&self, other: &Self) -> bool {
        let set = |state: &Self| {
            let mut set: Vec<Endpoint> = state.in_sync.iter().map(|entry| entry.addr.clone()).collect();
            set.sort();
            set
        };
        let primary =
            |state: &Self| (state.primary.addr.clone(), state.primary.run_id.clone(), state.promoted);
        self.epoch == other.epoch
            && (primary(self) != primary(other)
                || self.min_in_sync != other.min_in_sync
                || set(self) != set(other))
    }

    /// The text that is published.
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists of them always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A server whose fence is below this is certainly older than some of what was acknowledged (R14).
    pub fn floor(&self) -> u64 {
        let oldest = self.in_sync.iter().map(|entry| entry.since).min();
        match (self.phase, self.floor) {
            (Phase::Promoting, Some(floor)) if self.in_sync.len() < self.min_in_sync as usize => floor,
            // Where nobody else was in sync, what was told last is what the primary was told in this very epoch.
            (Phase::Promoting | Phase::Serving, _) => oldest.unwrap_or(self.epoch),
        }
    }

    /// The announcement that belongs to this record.
    pub fn topology(&self) -> Topology {
        Topology { primary: self.primary.addr.clone(), replicas: self.replicas().cloned().collect() }
    }

    /// Every member but the primary, in their order.
    pub fn replicas(&self) -> impl Iterator<Item = &Endpoint> {
        self.members.iter().filter(|member| **member != self.primary.addr)
    }

    /// The entry of a replica in sync.
    pub fn in_sync(&self, addr: &Endpoint) -> Option<&InSync> {
        self.in_sync.iter().find(|entry| entry.addr == *addr)
    }
}

fn has_twice<'a>(mut addrs: impl Iterator<Item = &'a Endpoint>) -> bool {
    let mut seen = BTreeSet::new();
    addrs.any(|addr| !seen.insert(addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_wire() {
        let text = br#"{"epoch":7,"promoted":5,"primary":{"addr":"a:1","run_id":"r","replid":""},
            "in_sync":[{"addr":"b:1","seen_as":"10.0.0.2:1","run_id":"s","since":3,"replid":"x"}],
            "min_in_sync":1,"members":["b:1","a:1","c:1"],"path_version":3,"phase":"promoting",
            "leader":"primary","reason":"primary down","later":true}"#;
        let state = State::from_json(text).unwrap();
        assert_eq!(State::from_json(state.to_json().as_bytes()), Ok(state.clone()));
        assert_eq!(state.topology().to_json(), r#"{"primary": "a:1", "secondary": ["b:1", "c:1"]}"#);
        assert!(state.in_sync(&"b:1".parse().unwrap()).is_some());
    }

    #[test]
    fn what_no_record_says_is_refused() {
        let good = r#"{"epoch":7,"promoted":5,"primary":{"addr":"a:1","run_id":"r","replid":""},
            "in_sync":[{"addr":"b:1","seen_as":"b:1","run_id":"s","since":3,"replid":"x"}],"min_in_sync":1,
            "members":["b:1","a:1"],"path_version":3,"phase":"serving","leader":"m","reason":""}"#;
        assert!(State::from_json(good.as_bytes()).is_ok());
        for (from, to) in [
            ("\"epoch\":7", "\"epoch\":18446744073709551615"),
            ("\"promoted\":5", "\"promoted\":0"),
            ("\"promoted\":5", "\"promoted\":8"),
            ("\"members\":[\"b:1\",\"a:1\"]", "\"members\":[]"),
            ("\"members\":[\"b:1\",\"a:1\"]", "\"members\":[\"b:1\",\"a:1\",\"b:1\"]"),
            (
                "\"replid\":\"x\"}]",
                "\"replid\":\"x\"},{\"addr\":\"b:1\",\"seen_as\":\"\",\"run_id\":\"\",\"since\":3,\"replid\":\"\"}]",
            ),
            ("\"phase\":\"serving\"", "\"phase\":\"promoting\",\"floor\":8"),
            ("\"phase\":\"serving\"", "\"phase\":\"a\\nb\""),
            ("{\"addr\":\"b:1\"", "{\"addr\":\"a:1\""),
            ("\"since\":3", "\"since\":8"),
        ] {
            let bad = good.replace(from, to);
            let error = State::from_json(bad.as_bytes()).expect_err(&bad).to_string();
            assert!(bad != good && !error.contains(char::is_control), "{bad}: {error}");
        }
    }

    #[test]
    fn a_record_without_a_process_is_refused() {
        let text = br#"{"epoch":7,"promoted":5,"primary":{"addr":"a:1","run_id":""},"in_sync":[],
            "min_in_sync":0,"members":[],"path_version":3,"phase":"serving","leader":"","reason":""}"#;
        assert!(State::from_json(text).is_err());
        assert!(State::from_json(b"").is_err());
    }
}
