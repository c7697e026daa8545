//! `make bench`: everything that is measured, side by side in one run, ratios first. bench/README.md says how to read it.
//!
//! Arguments name the benchmarks to run; without any, all of them.

mod alarms;
mod announcement;
mod durabilities;
mod durability;
mod failover;
mod figures;
mod security;
mod sentinel;
mod services;
mod stub;
mod switchover;
mod throughput;

use std::process::ExitCode;

type Benchmark = fn() -> figures::Table;

const ALL: &[(&str, Benchmark)] = &[
    ("failover", failover::run),
    ("throughput", throughput::run),
    ("announcement", announcement::run),
    ("durability", durability::run),
    ("services", services::run),
    ("switchover", switchover::run),
    ("security", security::run),
    ("alarms", alarms::run),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.first().is_some_and(|word| word == stub::WORD) {
        stub::run(&wanted[1..]); // started by `services`
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = wanted.iter().find(|name| ALL.iter().all(|(known, _)| known != name)) {
        let known: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        eprintln!("there is no benchmark `{unknown}`; there are: {}", known.join(", "));
        return ExitCode::from(2);
    }
    if std::env::var_os("TEST_WORK_DIR").is_some() {
        eprintln!(
            "TEST_WORK_DIR is for tests: measured is below the target directory, on its disk; unset it"
        );
        return ExitCode::from(2);
    }
    println!("At {}.", figures::commit()); // now: somebody may go on editing
    for (name, run) in ALL.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name)) {
        println!("== {name}");
        let busy = figures::busy();
        run().print(busy);
    }
    println!("All figures: {}", figures::kept_in().display());
    ExitCode::SUCCESS
}
