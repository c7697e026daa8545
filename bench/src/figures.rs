//! Figures of alternated rounds, and how they are shown: the ratio first, then medians and spread, the load of the machine.
//!
//! Every table is also kept as one line of JSON in [`kept_in`], behind those of earlier runs.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// A round of which the host took more than this, in per cent, was disturbed.
const STOLEN_MAX: f64 = 5.0;
/// A machine that is busier than this, in per cent, before a benchmark has begun is not ours alone.
const BUSY_MAX: f64 = 20.0;
/// For how long it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// One figure in every round.
#[derive(Debug, Default, Clone)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn add(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The value below which this share of the rounds lies.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted.get(at).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn spread(&self) -> (f64, f64) {
        (self.quantile(0.0), self.quantile(1.0))
    }
}

/// What is compared: `ours` against `base`, in the same rounds.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) ours: (&'static str, Series),
    pub(crate) base: (&'static str, Series),
    /// The goal for the ratio, in words, and whether it is met.
    pub(crate) goal: (&'static str, fn(f64) -> bool),
}

/// What there is nothing to compare with.
#[derive(Debug)]
pub(crate) struct Measure {
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) figures: Series,
    /// The goal for the median, in words, and whether it is met.
    pub(crate) goal: (&'static str, fn(f64) -> bool),
}

/// All figures of one benchmark.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) rows: Vec<Comparison>,
    pub(crate) measures: Vec<Measure>,
    /// The load of the machine over the last minute when each round began; what this benchmark itself causes is in it.
    pub(crate) loads: Series,
    /// Per cent of the machine's time that its host gave to others during each round.
    pub(crate) stolen: Series,
    /// Conditions that a reader has to know.
    pub(crate) conditions: String,
}

impl Table {
    /// Prints it and keeps it; `busy` is how busy others kept the machine just before ([`busy`]).
    pub(crate) fn print(&self, busy: f64) {
        let ((low, high), (least, most)) = (self.loads.spread(), self.stolen.spread());
        println!(
            "{}; load of the machine {low:.1} to {high:.1}, {least:.0} to {most:.0} % of its time stolen by its host",
            self.conditions
        );
        for why in self.disturbances(busy) {
            println!("**Disturbed:** {why}.");
        }
        self.print_rows();
        self.print_measures();
        let line = self.json(busy).to_string();
        println!("{line}");
        keep(&line);
    }

    /// What kept the machine from being ours alone, in words.
    fn disturbances(&self, busy: f64) -> Vec<String> {
        let stolen = self.stolen.0.iter().filter(|stolen| **stolen > STOLEN_MAX).count();
        let mut why = Vec::new();
        if busy > BUSY_MAX {
            why.push(format!("others kept the machine busy for {busy:.0} % of the second before the begin"));
        }
        if stolen > 0 {
            let rounds = self.stolen.len();
            why.push(format!("more than {STOLEN_MAX:.0} % of {stolen} of {rounds} rounds was stolen"));
        }
        why
    }

    fn print_measures(&self) {
        if self.measures.is_empty() {
            return;
        }
        println!("| what | median | goal | p99 | min-max |");
        println!("|---|---|---|---|---|");
        for Measure { what, unit, figures, goal } in &self.measures {
            let (median, (low, high)) = (figures.median(), figures.spread());
            let met = verdict(goal.0, (goal.1)(median));
            let (median, p99) = (short(median), short(figures.quantile(0.99)));
            println!("| {what}, {unit} | {median} | {met} | {p99} | {}-{} |", short(low), short(high));
        }
    }

    fn print_rows(&self) {
        if self.rows.is_empty() {
            return;
        }
        println!("| what | ratio | goal | medians | p99 | min-max |");
        println!("|---|---|---|---|---|---|");
        for row in &self.rows {
            let ratio = row.ours.1.median() / row.base.1.median();
            let met = verdict(row.goal.0, (row.goal.1)(ratio));
            let both = |show: fn(&Series) -> String| {
                let side = |(name, series): &(&str, Series)| format!("{name} {}", show(series));
                format!("{}, {}", side(&row.ours), side(&row.base))
            };
            println!(
                "| {}, {} | {ratio:.2} | {met} | {} | {} | {} |",
                row.what,
                row.unit,
                both(|series| short(series.median())),
                both(|series| short(series.quantile(0.99))),
                both(|series| format!("{}-{}", short(series.spread().0), short(series.spread().1)))
            );
        }
    }

    /// One line for machines.
    fn json(&self, busy: f64) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let (ours, base) = (&row.ours, &row.base);
                json!({"what": row.what, "unit": row.unit, ours.0: ours.1.0, base.0: base.1.0})
            })
            .chain(
                self.measures.iter().map(|m| json!({"what": m.what, "unit": m.unit, "figures": m.figures.0})),
            )
            .collect();
        json!({
            "benchmark": self.name,
            "commit": commit(),
            "time": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "conditions": self.conditions,
            "busy_before": busy,
            "load": self.loads.0,
            "stolen": self.stolen.0,
            "disturbed": self.disturbances(busy),
            "rows": rows,
        })
    }
}

fn verdict(goal: &str, met: bool) -> String {
    match goal {
        "none" => "none".to_owned(),
        _ if met => format!("{goal}: met"),
        _ => format!("{goal}: NOT met"),
    }
}

/// With one digit behind the point where that says something.
fn short(figure: f64) -> String {
    if figure.abs() < 100.0 { format!("{figure:.1}") } else { format!("{figure:.0}") }
}

/// The file in which the figures of all runs stand, one table a line.
pub(crate) fn kept_in() -> PathBuf {
    world::target_dir().join("bench.jsonl")
}

fn keep(line: &str) {
    let file = kept_in();
    let added = OpenOptions::new().create(true).append(true).open(&file);
    if let Err(e) = added.and_then(|mut file| writeln!(file, "{line}")) {
        println!("The line was not kept: {}: {e}", file.display());
    }
}

/// What is measured, where git can tell; with a `+` if it was changed since. As it was at the first call.
pub(crate) fn commit() -> &'static str {
    static COMMIT: OnceLock<String> = OnceLock::new();
    let git = |arguments: &[&str]| {
        let said =
            Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
    };
    COMMIT.get_or_init(|| {
        let changed =
            git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|files| !files.is_empty());
        let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_default();
        commit + if changed { "+" } else { "" }
    })
}

/// How busy the machine is while nothing of ours runs, in per cent of all processors' time: for a second.
pub(crate) fn busy() -> f64 {
    let before = Clockwork::now();
    sleep(LOOK);
    Clockwork::now().busy_since(before)
}

/// The processors' time so far: all of it, and what the host gave to others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clockwork {
    all: u64,
    idle: u64,
    stolen: u64,
}

impl Clockwork {
    pub(crate) fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        let times: Vec<u64> =
            first.split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
        let at = |number: usize| times.get(number).copied().unwrap_or(0);
        // Waiting for a disk is no work.
        Self { all: times.iter().sum(), idle: at(3) + at(4), stolen: at(7) }
    }

    /// Per cent in use since then, whoever used it.
    fn busy_since(self, before: Self) -> f64 {
        100.0 - 100.0 * (self.idle - before.idle) as f64 / (self.all - before.all).max(1) as f64
    }

    /// Per cent stolen since then.
    pub(crate) fn stolen_since(self, before: Self) -> f64 {
        100.0 * (self.stolen - before.stolen) as f64 / (self.all - before.all).max(1) as f64
    }
}

/// The load of the machine over the last minute.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}
