//! The content of znodes: what is taken for one of our records is one that we could have written.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use topology::{
    Endpoint, LAST_EPOCH, LeaderRecord, MonitorRecord, PausedRecord, State, Topology, TopologyError,
};

use super::address::is_endpoint;

/// The bytes as the content of each kind of znode.
pub fn check(data: &[u8]) {
    match Topology::from_json(data) {
        Ok(topology) => {
            assert!(data.trim_ascii().starts_with(b"{"), "serde takes an array for a struct, too");
            topology.members().for_each(is_endpoint);
            assert_eq!(Topology::from_json(topology.to_json().as_bytes()), Ok(topology));
        }
        Err(TopologyError::Empty) => assert!(data.iter().all(u8::is_ascii_whitespace)),
        Err(why) => assert_is_a_line(&why.to_string()),
    }
    match State::from_json(data) {
        Ok(state) => {
            assert!(data.trim_ascii().starts_with(b"{"));
            is_record(&state);
        }
        Err(why) => assert_is_a_line(&why.to_string()),
    }
    survives::<LeaderRecord>(data);
    survives::<MonitorRecord>(data);
    survives::<PausedRecord>(data);
    survives::<BTreeSet<Endpoint>>(data);
}

fn is_record(state: &State) {
    assert_eq!(State::from_json(state.to_json().as_bytes()).as_ref(), Ok(state));
    assert!(!state.contradicts(state));
    assert!((1..=LAST_EPOCH).contains(&state.epoch) && (1..=state.epoch).contains(&state.promoted));
    assert!(state.floor() <= state.epoch, "no fence is that high");
    state.members.iter().for_each(is_endpoint);
    // What is announced with it can be read again, and names every member once.
    let topology = state.topology();
    assert_eq!(Topology::from_json(topology.to_json().as_bytes()), Ok(topology.clone()));
    assert_eq!(topology.members().collect::<BTreeSet<_>>(), state.members.iter().collect());
    let in_sync: BTreeSet<_> = state.in_sync.iter().map(|entry| &entry.addr).collect();
    assert_eq!(in_sync.len(), state.in_sync.len(), "a server is in sync once");
    assert!(!in_sync.contains(&state.primary.addr));
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<T>(data) {
        let text = serde_json::to_vec(&record).expect("it serialises");
        assert_eq!(serde_json::from_slice::<T>(&text).expect("it is read again"), record);
    }
}

/// What is said of a foreign value goes into the log: it must not look like several lines, or move the cursor.
pub(super) fn assert_is_a_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
