//! Real faults on hosts of their own, and a verdict on what the clients saw. `make chaos` runs all scenarios; here are
//! those that no other test has, and a short random one. Needs root; says so where it cannot run.

use std::time::{Duration, Instant};

use world::chaos::scenarios::{ALL, named};
use world::chaos::table::Row;
use world::chaos::{Plan, run, sentinel, table};
use world::netns::Hosts;
use world::skip;

/// A number from the environment.
fn variable(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty());
    text.map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// One round with a seed that is always the same (`CHAOS_SEED` sets another one); how many writes it lost.
fn once(test: &str, scenario: &str, lasts: Duration) -> Option<usize> {
    if let Err(why) = Hosts::available() {
        skip::skip(test, &why);
        return None;
    }
    let row = run(named(scenario), Plan { rounds: 1, seed: variable("CHAOS_SEED", 1), lasts });
    println!("{}\n{}\n{}", table::HEAD, row.text(), row.remarks());
    assert_eq!(row.broken, Vec::<String>::new());
    Some(row.lost)
}

#[test]
fn random_faults() {
    once("random_faults", "random", Duration::from_secs(15));
}

#[test]
fn the_primary_and_a_client_are_cut_off() {
    once("the_primary_and_a_client_are_cut_off", "primary-and-client-cut-off", Duration::from_secs(4));
}

/// The fault is real, and the verdict sees what it does: without confirmation by the replicas writes are lost.
#[test]
fn the_same_without_confirmation_loses_writes() {
    let test = "the_same_without_confirmation_loses_writes";
    let lost = once(test, "primary-and-client-cut-off-async", Duration::from_secs(4));
    assert_ne!(lost, Some(0), "nothing was lost: the cut is none, or the verdict sees nothing");
}

#[test]
fn packets_are_lost() {
    once("packets_are_lost", "30-percent-loss", Duration::from_secs(4));
}

#[test]
fn a_replica_restarts_empty_then_the_primary_dies() {
    let test = "a_replica_restarts_empty_then_the_primary_dies";
    once(test, "replica-restarts-empty-then-primary-dies", Duration::ZERO);
}

/// `make chaos`: every scenario, `CHAOS_ROUNDS` times, and the table. `CHAOS_ONLY` names some of them.
#[test]
#[ignore = "minutes; `make chaos`"]
fn all_scenarios() {
    if let Err(why) = Hosts::available() {
        panic!("make chaos needs network namespaces: {why}");
    }
    let only = std::env::var("CHAOS_ONLY").unwrap_or_default();
    let wanted: Vec<&str> = only.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let rounds = variable("CHAOS_ROUNDS", 5);
    let plan = Plan {
        rounds,
        seed: variable("CHAOS_SEED", 1),
        lasts: Duration::from_secs(variable("CHAOS_SECONDS", 30)),
    };
    let names: Vec<&str> =
        ALL.iter().map(|one| one.name).chain(sentinel::ALL.iter().map(|one| one.name)).collect();
    let unknown = wanted.iter().find(|name| !names.contains(name));
    assert_eq!(unknown, None, "there are {names:?}");
    let is_wanted = |name: &str| wanted.is_empty() || wanted.contains(&name);
    let mut rows = Vec::new();
    let mut show = |began: Instant, row: Row| {
        println!("{}\n{}\n({:.0?})\n", row.text(), row.remarks(), began.elapsed());
        rows.push(row);
    };
    for scenario in ALL.iter().filter(|one| is_wanted(one.name)) {
        show(Instant::now(), run(scenario, plan));
    }
    for scenario in sentinel::ALL.iter().filter(|one| is_wanted(one.name)) {
        show(Instant::now(), sentinel::run(scenario, plan));
    }
    println!("{}", table::HEAD);
    rows.iter().for_each(|row| println!("{}", row.text()));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load of the machine at the end: {}", load.trim());
    let broken: Vec<&String> = rows.iter().flat_map(|row| &row.broken).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    let missed: Vec<&String> = rows.iter().flat_map(|row| &row.missed).collect();
    assert!(missed.is_empty(), "nothing is lost, but this was not as expected: {missed:#?}");
}
