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

/// Restarts, losses, replays, forgeries and frames of the dead in any order; whoever lives is heard in the end.
#[test]
fn heartbeats_of_random_pairs() {
    for seed in 0..20_000 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let deeds: Vec<u8> = (0..dice.usize(1..400)).map(|_| dice.u8(..)).collect();
        let outcome = std::panic::catch_unwind(|| fuzz::heartbeat(&deeds));
        assert!(outcome.is_ok(), "seed {seed}");
    }
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
