//! Figures of alternated rounds, and how they are shown: the ratio first, then medians and spread, the load of the machine.

use serde_json::{Value, json};

/// One figure in every round.
#[derive(Debug, Default, Clone)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn add(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The value below which this share of the rounds lies.
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted.get(at).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
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
    pub(crate) fn print(&self) {
        let ((low, high), (least, most)) = (self.loads.spread(), self.stolen.spread());
        println!(
            "{}; load of the machine {low:.1} to {high:.1}, {least:.0} to {most:.0} % of its time stolen by its host",
            self.conditions
        );
        if most > 5.0 {
            println!("**Disturbed:** more than 5 % of a round was stolen.");
        }
        self.print_rows();
        self.print_measures();
        println!("{}", self.json());
    }

    fn print_measures(&self) {
        if self.measures.is_empty() {
            return;
        }
        println!("| what | median | goal | min-max |");
        println!("|---|---|---|---|");
        for Measure { what, unit, figures, goal } in &self.measures {
            let (median, (low, high)) = (figures.median(), figures.spread());
            let met = if (goal.1)(median) { "met" } else { "NOT met" };
            println!("| {what}, {unit} | {median:.1} | {}: {met} | {low:.1}-{high:.1} |", goal.0);
        }
    }

    fn print_rows(&self) {
        if self.rows.is_empty() {
            return;
        }
        println!("| what | ratio | goal | medians | min-max |");
        println!("|---|---|---|---|---|");
        for row in &self.rows {
            let ratio = row.ours.1.median() / row.base.1.median();
            let met = if (row.goal.1)(ratio) { "met" } else { "NOT met" };
            let side = |(name, series): &(&str, Series)| format!("{name} {:.0}", series.median());
            let range = |(name, series): &(&str, Series)| {
                let (low, high) = series.spread();
                format!("{name} {low:.0}-{high:.0}")
            };
            println!(
                "| {}, {} | {ratio:.2} | {}: {met} | {}, {} | {}, {} |",
                row.what,
                row.unit,
                row.goal.0,
                side(&row.ours),
                side(&row.base),
                range(&row.ours),
                range(&row.base)
            );
        }
    }

    /// One line for machines.
    fn json(&self) -> Value {
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
        json!({"benchmark": self.name, "conditions": self.conditions, "load": self.loads.0, "stolen": self.stolen.0, "rows": rows})
    }
}

/// The processors' time so far: all of it, and what the host gave to others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clockwork {
    all: u64,
    stolen: u64,
}

impl Clockwork {
    pub(crate) fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        let times: Vec<u64> =
            first.split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
        Self { all: times.iter().sum(), stolen: times.get(7).copied().unwrap_or(0) }
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
