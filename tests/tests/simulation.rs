//! Thousands of random runs of monitor pair, store, servers, API processes and clients, each with its own faults.
//!
//! `SIM_SEED=n` replays one seed with its full trace; `SIM_SEEDS=n` runs so many; `SIM_FROM=n` begins there;
//! `SIM_FLAW=NoWatch` breaks that rule in the replay;
//! `SIM_GO_ON=1` names every failing seed instead of ending at the first.

use std::time::Instant;

use world::sim::{self, Counts, End, Flaw, Run, Weather};

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
        let flaw = std::env::var("SIM_FLAW").ok().and_then(|name| Flaw::named(&name));
        let run = sim::run(seed, flaw, true);
        println!("{}\n{:?} {:?}", run.trace.join("\n"), run.end, run.counts);
        assert_eq!(run.failure, None);
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(5_000);
    let from = number("SIM_FROM").unwrap_or(0);
    let go_on = number("SIM_GO_ON").is_some();
    let (mut counts, mut left, mut waits, begun) = (Counts::default(), 0, 0, Instant::now());
    for seed in from..from + seeds {
        let run = sim::run(seed, None, false);
        match run.failure {
            Some(why) if go_on => println!("seed {seed}: {why}"),
            Some(_) => fail(seed),
            None => {}
        }
        counts.add(&run.counts);
        left += u64::from(run.end == End::NobodyLeft);
        waits += u64::from(run.end == End::Waits);
    }
    let took = begun.elapsed();
    let speed = seeds as f64 / took.as_secs_f64();
    println!(
        "{seeds} seeds from {from} in {took:.1?} ({speed:.0}/s), nobody left to promote in {left}, \
         waiting for an operator in {waits}: {counts:?}"
    );
    // A simulation in which nothing happens proves nothing.
    for (what, count, at_least) in [
        ("failovers", counts.failovers, seeds / 5),
        ("publications", counts.publications, seeds),
        ("publications refused", counts.refused, seeds / 100),
        ("EXEC answered nil", counts.raced, seeds / 20),
        ("orders of deposed monitors", counts.deposed, seeds / 1000),
        ("questions to the store before an EXEC", counts.asked_store, seeds),
        ("writes confirmed", counts.acknowledged, seeds * 20),
        ("strong reads", counts.reads, seeds * 10),
        ("writes refused at the deadline", counts.failed, seeds),
        ("requests of unknown outcome", counts.unknown, seeds / 10),
        ("batches refused by a fence", counts.fenced, seeds / 10),
        ("lost batches that were there", counts.settled, seeds / 10),
        ("lost batches that were sent again", counts.resent, seeds / 20),
        ("runs in which a copy survived", seeds - counts.void, seeds / 2),
        ("cold starts", counts.cold, seeds / 20),
        ("cold starts whose choice was judged", counts.chosen, seeds / 30),
        ("cold starts from whole copies", counts.whole, seeds / 100),
        ("runs that wait for an operator", waits, seeds / 500),
        ("members added", counts.added, seeds / 5),
        ("members removed", counts.removed, seeds / 10),
        ("failovers that were asked for", counts.handed, seeds / 20),
        ("switchovers that held the writers", counts.held, seeds / 20),
        ("other primaries asked for in the path", counts.edited, seeds / 20),
        ("of them, those that took over", counts.obeyed, seeds / 100),
        ("promotions from a primary that was left", counts.switched, seeds / 40),
        ("runs that converged", seeds - left - waits, seeds / 2),
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
fn is_quiet(run: &Run) -> bool {
    run.counts.failovers == 0 && run.counts.reigns == 1 && run.end == End::Converged
}

#[test]
fn nothing_happens_without_need() {
    for weather in Weather::MILD {
        for seed in 0..100 {
            let run = sim::run_in(weather, seed, None, false);
            if !is_quiet(&run) {
                let trace = sim::run_in(weather, seed, None, true).trace;
                panic!("{weather:?}, seed {seed}: {:?} {:?}\n{}", run.failure, run.counts, trace.join("\n"));
            }
        }
    }
}

const DEPOSED: &str = "was stamped with";
const LOST: &str = "was confirmed and is missing";
const TWICE: &str = "was carried out twice";
const AMBIGUOUS: &str = "and is now";
const NO_ORDER: &str = "is not linearizable";
const STUCK: &str = "not converged";

/// Rules that, broken in a storm, are noticed by this.
const NOTICED: &[(Flaw, &str)] = &[
    (Flaw::IgnoreFence, DEPOSED),
    (Flaw::NoWatch, DEPOSED),
    (Flaw::NilFenceIsZero, DEPOSED),
    (Flaw::AnyRunId, "was promoted in place of"),
    (Flaw::Reconnects, DEPOSED),
    (Flaw::SplitAttach, DEPOSED),
    (Flaw::NoLeadCheck, "without the lead"),
    (Flaw::NoVersionCheck, AMBIGUOUS),
    (Flaw::ResendsPublication, AMBIGUOUS),
    (Flaw::ActsFirst, "took effect before its publication"),
    (Flaw::StampsFirst, "took effect before its publication"),
    (Flaw::NeverStamps, STUCK),
    (Flaw::StampsReplicas, LOST),
    (Flaw::EpochPerReign, "changes nothing"),
    (Flaw::PromotesAnyone, "which is not in the set"),
    (Flaw::EveryFenceIsNew, LOST),
    (Flaw::SinceRaised, "is neither kept nor new"),
    (Flaw::EvictsWhileServing, AMBIGUOUS),
    (Flaw::RereadsRunId, AMBIGUOUS),
    (Flaw::EvictsTheLast, "one of the last"),
    (Flaw::KeepsTheGone, STUCK),
    (Flaw::NoRestartGuard, "a full synchronisation took the confirmed write"),
    (Flaw::AlwaysLeads, "passive"),
    (Flaw::ColdWhileOneMayLive, "may live"),
    (Flaw::ColdWithoutAll, "a cold start without 10."),
    (Flaw::ColdWhileLoading, "a cold start without 10."),
    (Flaw::ColdAtOnce, "a cold start without waiting for"),
    (Flaw::ColdForOperator, "that an operator was to decide"),
    (Flaw::ColdWithoutProof, "has no fence or no tick"),
    (Flaw::ColdFromTooOld, "older than the set"),
    (Flaw::ColdThoughContradicted, "has a higher tick"),
    (Flaw::ColdByOffset, "would be the best"),
    (Flaw::ColdFromAnyone, "and all were whole"),
    (Flaw::ColdByFence, "would be the best"),
    (Flaw::NoDetachFirst, "follows another one"),
    (Flaw::NeverTicks, STUCK),
    (Flaw::NeverDetaches, "still takes writes"),
    (Flaw::BlindToTheEnd, "takes over with"),
    (Flaw::RemovesAtOnce, "adds [] and removes"),
    (Flaw::RemovesUnstamped, "it left the set with epoch"),
    (Flaw::RemovesTheLast, "one of the last"),
    (Flaw::GrowsWithoutEpoch, AMBIGUOUS),
    (Flaw::CountsTheAdded, AMBIGUOUS),
    (Flaw::EvictionCountsTheAdded, "one of the last"),
    (Flaw::NeverReleases, "is said to be released"),
    (Flaw::StaysAdopted, "stays adopted"),
    (Flaw::OneCopyIsEnough, LOST),
    (Flaw::WaitIsBelieved, LOST),
    (Flaw::AddressesAreCompared, STUCK),
    (Flaw::MeasuredBeforeTheWrite, LOST),
    (Flaw::FewAreEnough, "too few copies"),
    (Flaw::BarrierBeforeGet, NO_ORDER),
    (Flaw::NoBarrier, NO_ORDER),
    (Flaw::NoFenceAtTheEnd, STUCK),
    (Flaw::ResendsUnknown, TWICE),
    (Flaw::UnknownIsFailed, "was told to have failed and stands"),
    (Flaw::NoKill, TWICE),
    (Flaw::GetBeforeBarrier, TWICE),
    (Flaw::NoIsBelieved, TWICE),
    (Flaw::YesIsBelieved, LOST),
    (Flaw::MissingIsNo, TWICE),
    (Flaw::NoChain, LOST),
    (Flaw::ViewsGoBack, STUCK),
];

/// Rules without which something happens that nothing called for, in this weather.
const RESTLESS: &[(Flaw, Weather)] = &[
    (Flaw::NoSecondOpinion, Weather::PrimaryHidden),
    (Flaw::IgnoresBeats, Weather::MonitorsApart),
    (Flaw::LateIsSilent, Weather::PrimaryHidden),
];

/// Rules that may be broken alone, for another one stands behind them; which, says tests/README.md.
const COVERED: &[Flaw] = &[
    Flaw::EveryHistoryIsOurs,
    Flaw::SyncingIsFine,
    Flaw::NoRecheck,
    Flaw::SplitPromotion,
    Flaw::ForgetsHistory,
    Flaw::NotToldOfClosing,
    Flaw::KeepsClients,
    Flaw::KeepsReign,
    Flaw::NoFenceInTheScript,
    Flaw::RoleIsNotRead,
    Flaw::AnyProcessServes,
    Flaw::IgnoresStalls,
];

/// Every rule that is broken around the core must be noticed, by the invariant that stands for it: they can fail.
#[test]
fn a_broken_rule_is_noticed() {
    let mut missed = Vec::new();
    for (flaw, expected) in NOTICED {
        let seeds = 0..number("SIM_SEEDS").unwrap_or(20_000);
        let noticed = |seed: &u64| {
            sim::run(*seed, Some(*flaw), false).failure.is_some_and(|why| why.contains(expected))
        };
        match seeds.clone().find(noticed) {
            Some(seed) => {
                println!("{flaw:?}: noticed by seed {seed}");
                assert_eq!(sim::run(seed, None, false).failure, None, "also without {flaw:?}");
            }
            None => missed.push(*flaw),
        }
    }
    for (flaw, weather) in RESTLESS {
        match (0..1000).find(|seed| !is_quiet(&sim::run_in(*weather, *seed, Some(*flaw), false))) {
            Some(seed) => println!("{flaw:?}: noticed in {weather:?} by seed {seed}"),
            None => missed.push(*flaw),
        }
    }
    assert_eq!(missed, [], "not noticed");
}

/// Nothing that can be broken is forgotten, and what is said to be covered is.
#[test]
fn every_rule_is_broken_once() {
    let noticed = NOTICED.iter().map(|(flaw, _)| flaw);
    let mut rows: Vec<_> = noticed.chain(RESTLESS.iter().map(|(flaw, _)| flaw)).chain(COVERED).collect();
    rows.sort_by_key(|flaw| format!("{flaw:?}"));
    let mut all: Vec<_> = Flaw::ALL.iter().collect();
    all.sort_by_key(|flaw| format!("{flaw:?}"));
    assert_eq!(rows, all);
    let readme = include_str!("../README.md");
    for flaw in COVERED {
        assert!(readme.contains(&format!("`{flaw:?}`")), "README does not say what covers {flaw:?}");
        for seed in 0..100 {
            assert_eq!(sim::run(seed, Some(*flaw), false).failure, None, "{flaw:?}, seed {seed}");
        }
    }
    // Of this one it says that nothing is lost.
    for seed in 0..100 {
        let failure = sim::run(seed, Some(Flaw::NoFenceAtTheEnd), false).failure;
        assert!(failure.as_ref().is_none_or(|why| why.contains(STUCK)), "seed {seed}: {failure:?}");
    }
}
