//! The figures of a scenario's rounds in one row.

use std::fmt::Write as _;
use std::time::Duration;

use super::Finished;

/// One scenario, all its rounds together.
#[derive(Debug, Clone)]
pub struct Row {
    name: &'static str,
    expected: &'static str,
    seed: u64,
    rounds: usize,
    requests: usize,
    acknowledged: usize,
    /// Writes that were acknowledged and are gone.
    pub lost: usize,
    non_linearizable: usize,
    failed: usize,
    unknown: usize,
    stale_plain: usize,
    failovers: usize,
    gaps: Vec<Duration>,
    converged: Duration,
    figures: Vec<String>,
    /// What was not as expected although nothing was broken, in sentences, with the logs of the round.
    pub missed: Vec<String>,
    /// What was broken, in sentences; empty if every promise held.
    pub broken: Vec<String>,
}

/// The head of the table.
pub const HEAD: &str = "\
| scenario | seed | rounds | requests | acknowledged writes | lost | non-linearizable keys | failed | indeterminate | stale plain reads | failovers | longest write gap ms (median, max) | in order ms (max) |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

impl Row {
    pub(super) fn new(name: &'static str, expected: &'static str, seed: u64) -> Self {
        Self {
            name,
            expected,
            seed,
            rounds: 0,
            requests: 0,
            acknowledged: 0,
            lost: 0,
            non_linearizable: 0,
            failed: 0,
            unknown: 0,
            stale_plain: 0,
            failovers: 0,
            gaps: Vec::new(),
            converged: Duration::ZERO,
            figures: Vec::new(),
            missed: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// Adds a round and gives what was broken in it.
    pub(super) fn add(&mut self, finished: Finished) -> Vec<String> {
        let Finished { verdict, converged, figures } = finished;
        self.rounds += 1;
        self.requests += verdict.requests;
        self.acknowledged += verdict.acknowledged;
        self.lost += verdict.lost;
        self.non_linearizable += verdict.non_linearizable;
        self.failed += verdict.failed;
        self.unknown += verdict.unknown;
        self.stale_plain += verdict.stale_plain;
        self.failovers += verdict.failovers;
        self.gaps.push(verdict.gap);
        self.converged = self.converged.max(converged);
        self.figures.extend(figures);
        verdict.violations
    }

    /// The row, and behind it what was expected, what was measured besides, and what was broken.
    pub fn text(&self) -> String {
        let mut gaps = self.gaps.clone();
        gaps.sort();
        let median = gaps.get(gaps.len() / 2).copied().unwrap_or_default().as_millis();
        let longest = gaps.last().copied().unwrap_or_default().as_millis();
        let Row { name, seed, rounds, requests, acknowledged, lost, non_linearizable, .. } = self;
        let Row { failed, unknown, stale_plain, failovers, .. } = self;
        let converged = self.converged.as_millis();
        format!(
            "| {name} | {seed} | {rounds} | {requests} | {acknowledged} | {lost} | {non_linearizable} | {failed} | \
             {unknown} | {stale_plain} | {failovers} | {median}, {longest} | {converged} |"
        )
    }

    /// What stands below the table.
    pub fn remarks(&self) -> String {
        let mut text = format!("{}: expected: {}", self.name, self.expected);
        if !self.figures.is_empty() {
            let _ = write!(text, "; measured: {}", self.figures.join(", "));
        }
        for missed in &self.missed {
            let _ = write!(text, "\n  MISSED: {missed}");
        }
        for broken in &self.broken {
            let _ = write!(text, "\n  BROKEN: {broken}");
        }
        text
    }
}
