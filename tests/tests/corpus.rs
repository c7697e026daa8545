//! Every input that `make fuzz` kept, through the same checks. Those of the parsers that only the monitor and the API can
//! see are replayed there.

use std::collections::BTreeSet;
use std::fs::read_dir;

use world::fuzz;

#[test]
fn address() {
    fuzz::replay("address", fuzz::address);
}

#[test]
fn heartbeat() {
    fuzz::replay("heartbeat", fuzz::heartbeat);
}

#[test]
fn ini() {
    fuzz::replay("ini", fuzz::ini);
}

#[test]
fn records() {
    fuzz::replay("records", fuzz::records);
}

#[test]
fn reply() {
    fuzz::replay("reply", fuzz::reply);
}

/// A target without kept inputs, or inputs of no target, would be a check that nobody runs.
#[test]
fn every_target_keeps_inputs() {
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = read_dir(format!("{}/fuzz/{folder}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let name = |path: std::path::PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        entries.map(|entry| name(entry.unwrap().path())).collect()
    };
    assert_eq!(names("targets"), names("corpus"));
    assert!(names("targets").len() >= 15);
}

#[test]
#[should_panic(expected = "nothing is kept")]
fn a_target_without_inputs_fails() {
    fuzz::replay("nobody", |_| {});
}

#[test]
#[should_panic(expected = "breaks the check")]
fn an_input_that_breaks_a_check_fails() {
    fuzz::replay("reply", |_| panic!("broken on purpose"));
}
