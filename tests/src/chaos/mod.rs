//! Real faults: a whole group on hosts of its own, clients that write and read, something that goes wrong, and a
//! verdict on all that the clients saw.
//!
//! * [`stage`]: the hosts, the group, and what can be done to it.
//! * [`traffic`]: the clients and their history. [`verdict`]: what it proves.
//! * [`scenarios`]: the faults one by one. [`random`]: many at once, by a seed. [`wire`]: a slow link.
//! * [`sentinel`]: Redis Sentinel under some of the same faults, to compare with.
//! * [`table`]: the figures of many rounds in one row.
//!
//! A round is one fault under one traffic; a violation leaves the logs and the history of its round behind.

pub mod random;
pub mod scenarios;
pub mod sentinel;
pub mod stage;
pub mod table;
pub mod traffic;
pub mod verdict;
pub mod wire;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use scenarios::Scenario;
use stage::Stage;
use table::Row;
use traffic::Traffic;
use verdict::{Excuse, Verdict, judge};

/// How long a single step of a scenario may take.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Longer than the default of `min_interval_ms`, so that no failover has to wait for the round before.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(1200);

/// One fault under way.
#[derive(Debug)]
pub struct Round<'a> {
    /// What is hurt.
    pub stage: &'a mut Stage,
    /// Who would notice.
    pub traffic: &'a Traffic,
    /// Which round of its scenario, from 0.
    pub number: u64,
    /// For what is left to chance.
    pub rng: fastrand::Rng,
    /// For how long the random faults go on.
    pub lasts: Duration,
    /// When the last fault was undone, if that is not when the scenario returns.
    pub healed: Option<Instant>,
    /// What the fault itself takes away, if it does.
    pub excuse: Option<Excuse>,
    /// Figures of the scenario's own.
    pub figures: Vec<String>,
}

impl Round<'_> {
    /// Writes down what was done, with the time since the traffic began.
    pub fn note(&mut self, what: impl Into<String>) {
        self.stage.note(what);
    }
}

/// One finished round.
#[derive(Debug)]
pub struct Finished {
    /// What the history proves.
    pub verdict: Verdict,
    /// From the end of the faults until everything was in order.
    pub converged: Duration,
    /// What the scenario measured besides.
    pub figures: Vec<String>,
}

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many rounds of each scenario.
    pub rounds: u64,
    /// What all chances come from; a round adds its number.
    pub seed: u64,
    /// For how long the random faults go on.
    pub lasts: Duration,
}

/// Runs all rounds of a scenario on a group of its own. A round that panicked (something took too long) or broke a
/// promise is the last one; the row says so and where its logs are.
pub fn run(scenario: &Scenario, plan: Plan) -> Row {
    let mut row = Row::new(scenario.name, scenario.expected, plan.seed);
    let mut stage = match catch_unwind(|| Stage::new(scenario)) {
        Ok(stage) => stage,
        Err(panic) => {
            row.broken.push(format!("no group: {}", message(panic.as_ref())));
            return row;
        }
    };
    for number in 0..plan.rounds {
        let plan = Plan { seed: plan.seed.wrapping_add(number), ..plan };
        let done = catch_unwind(AssertUnwindSafe(|| one_round(scenario, plan, number, &mut stage)));
        let broken = match done {
            Ok(finished) => {
                println!("{}, round {number}: {}", scenario.name, finished.verdict);
                if !finished.verdict.missed.is_empty() && !scenario.unconfirmed {
                    let missed = &finished.verdict.missed;
                    let kept = stage.keep(&format!("{}-{}", scenario.name, plan.seed), missed);
                    row.missed.push(format!("round {number}: {} ({})", missed.join(", "), kept.display()));
                }
                let broken = row.add(finished);
                if scenario.unconfirmed { Vec::new() } else { broken }
            }
            Err(panic) => vec![message(panic.as_ref())],
        };
        if !broken.is_empty() {
            let kept = stage.keep(&format!("{}-{}", scenario.name, plan.seed), &broken);
            row.broken.extend(broken.into_iter().take(3));
            row.broken.push(format!(
                "seed {}, round {number}; logs and history: {}",
                plan.seed,
                kept.display()
            ));
            return row;
        }
    }
    if std::env::var_os("CHAOS_KEEP").is_some() {
        stage.keep(&format!("{}-{}", scenario.name, plan.seed), &[]);
    }
    row
}

fn one_round(scenario: &Scenario, plan: Plan, number: u64, stage: &mut Stage) -> Finished {
    stage.in_order();
    if number > 0 {
        std::thread::sleep(BETWEEN_ROUNDS);
    }
    let name = format!("{}-{number}", scenario.name);
    let traffic = Traffic::start(&name, &stage.seats(), plan.seed);
    stage.begin(traffic.began());
    traffic.wait_for_writes(100, LIMIT);
    let rng = fastrand::Rng::with_seed(plan.seed);
    let (figures, lasts) = (Vec::new(), plan.lasts);
    let mut round =
        Round { stage, traffic: &traffic, number, rng, lasts, healed: None, excuse: None, figures };
    (scenario.act)(&mut round);
    let (healed, excuse, figures) = (round.healed.unwrap_or_else(Instant::now), round.excuse, round.figures);
    stage.in_order();
    let converged = healed.elapsed();
    stage.note("in order");
    traffic.wait_for_writes(50, LIMIT);
    let history = traffic.stop();
    let mut verdict = judge(&history, &stage.stored(&history), excuse);
    verdict.hold_against(scenario.failovers, scenario.may_fail);
    stage.history = history;
    Finished { verdict, converged, figures }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}
