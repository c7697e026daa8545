//! Ten thousand random runs of monitor pair, store and servers, each with its own faults.
//!
//! `SIM_SEED=n` replays one seed with its full trace; `SIM_SEEDS=n` runs so many; `SIM_FROM=n` begins there;
//! `SIM_FLAW=NoWatch` breaks that rule in the replay;
//! `SIM_GO_ON=1` names every failing seed instead of ending at the first.

use std::time::Instant;

use world::sim::{self, Counts, End, Flaw, Weather};

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Runs a seed again with its trace, and fails with the last lines of it.
fn fail(seed: u64) -> ! {
    let run = sim::run(seed, None, true);
    let from = run.trace.len().saturating_sub(60);
    println!("{}", run.trace[from..].join("\n"));
    panic!("seed {seed}: {:?}; SIM_SEED={seed} shows the whole run", run.failure);
}

#[test]
fn random_runs_keep_every_invariant_and_converge() {
    if let Some(seed) = number("SIM_SEED") {
        let flaw = std::env::var("SIM_FLAW").ok();
        let flaw =
            Flaw::ALL.into_iter().find(|f| flaw.as_ref().is_some_and(|name| *name == format!("{f:?}")));
        let run = sim::run(seed, flaw, true);
        println!("{}\n{:?} {:?}", run.trace.join("\n"), run.end, run.counts);
        assert_eq!(run.failure, None);
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(10_000);
    let from = number("SIM_FROM").unwrap_or(0);
    let go_on = number("SIM_GO_ON").is_some();
    let (mut counts, mut left, begun) = (Counts::default(), 0, Instant::now());
    for seed in from..from + seeds {
        let run = sim::run(seed, None, false);
        match run.failure {
            Some(why) if go_on => println!("seed {seed}: {why}"),
            Some(_) => fail(seed),
            None => {}
        }
        counts.add(&run.counts);
        left += u64::from(run.end == End::NobodyLeft);
    }
    println!("{seeds} seeds in {:?}, nobody left to promote in {left}: {counts:?}", begun.elapsed());
    // A simulation in which nothing happens proves nothing.
    for (what, count, at_least) in [
        ("failovers", counts.failovers, seeds / 5),
        ("publications", counts.publications, seeds),
        ("publications refused", counts.refused, seeds / 100),
        ("EXEC answered nil", counts.raced, seeds / 20),
        ("orders of deposed monitors", counts.deposed, seeds / 1000),
        ("questions to the store before an EXEC", counts.asked_store, seeds),
        ("writes confirmed", counts.acknowledged, seeds * 20),
        ("runs that converged", seeds - left, seeds / 2),
    ] {
        assert!(seeds < 1000 || count >= at_least, "only {count} {what} in {seeds} runs");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        assert_eq!(sim::run(seed, None, true), sim::run(seed, None, true));
    }
}

/// Without a fault that calls for it there is no failover and no takeover, and the lead is taken once.
#[test]
fn nothing_happens_without_need() {
    for weather in [Weather::Calm, Weather::MonitorsApart, Weather::PrimaryHidden, Weather::ReplicaDies] {
        for seed in 0..200 {
            let run = sim::run_in(weather, seed, false);
            let quiet = run.counts.failovers == 0 && run.counts.reigns == 1;
            if !quiet || run.end != End::Converged {
                let trace = sim::run_in(weather, seed, true).trace;
                panic!("{weather:?}, seed {seed}: {:?} {:?}\n{}", run.failure, run.counts, trace.join("\n"));
            }
        }
    }
}

/// Every rule that is broken in the driver must be noticed, by the invariant that stands for it: they can fail.
#[test]
fn a_broken_rule_is_noticed() {
    let deposed = "took effect";
    let lost = "is missing at";
    let rows = [
        (Flaw::IgnoreFence, deposed),
        (Flaw::NoWatch, deposed),
        (Flaw::NilFenceIsZero, deposed),
        (Flaw::NoLeadCheck, "without the lead"),
        (Flaw::NoVersionCheck, "and is now"),
        (Flaw::AnyRunId, "in place of"),
        (Flaw::EveryFenceIsNew, lost),
        (Flaw::NoRestartGuard, "took the confirmed write"),
        (Flaw::AlwaysLeads, "passive"),
        (Flaw::OneCopyIsEnough, lost),
        (Flaw::AddressesAreCompared, "no write was confirmed"),
        (Flaw::MeasuredBeforeTheWrite, lost),
        (Flaw::NoFenceInTheScript, ""),
        (Flaw::AnyProcessServes, ""),
        (Flaw::FewAreEnough, "too few copies"),
        (Flaw::NoBarrier, "not linearizable"),
        (Flaw::ResendsUnknown, "twice"),
        (Flaw::UnknownIsFailed, "have failed"),
        (Flaw::NoKill, ""),
        (Flaw::YesIsBelieved, lost),
        (Flaw::MissingIsNo, ""),
        (Flaw::ViewsGoBack, ""),
    ];
    let mut missed = Vec::new();
    for (flaw, expected) in rows {
        let seeds = 0..number("SIM_SEEDS").unwrap_or(20_000);
        let noticed =
            |seed: &u64| sim::run(*seed, Some(flaw), false).failure.is_some_and(|why| why.contains(expected));
        match seeds.clone().find(noticed) {
            Some(seed) => println!("{flaw:?}: noticed by seed {seed}"),
            None => {
                println!("{flaw:?} was not noticed by {seeds:?}");
                missed.push(flaw);
            }
        }
    }
    assert_eq!(missed, [], "not noticed");
}
