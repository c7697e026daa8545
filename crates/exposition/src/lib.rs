//! From OpenMetrics, which `prometheus-client` writes, to the older text format that every scraper and `promtool` read.
//!
//! The two differ, as far as our metrics go, in one thing: in OpenMetrics the family of a counter is named without the
//! `_total` of its samples, in the older format with it.

use std::collections::BTreeSet;

/// The type of what [`text`] gives.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The same metrics in the text format 0.0.4.
///
/// ```
/// let openmetrics = "# HELP kills Deaths.\n# TYPE kills counter\nkills_total{of=\"a\"} 2\n# EOF\n";
/// let text = "# HELP kills_total Deaths.\n# TYPE kills_total counter\nkills_total{of=\"a\"} 2\n";
/// assert_eq!(exposition::text(openmetrics), text);
/// ```
pub fn text(openmetrics: &str) -> String {
    let counters: BTreeSet<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut out = String::with_capacity(openmetrics.len() + 64);
    for line in openmetrics.lines().filter(|line| *line != "# EOF") {
        match family(line).filter(|(_, name, _)| counters.contains(name)) {
            Some((kind, name, rest)) => out.extend([kind, name, "_total ", rest]),
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

/// What a line says of a family: its beginning, the family's name, the rest.
fn family(line: &str) -> Option<(&'static str, &str, &str)> {
    let kind = ["# HELP ", "# TYPE "].into_iter().find(|kind| line.starts_with(kind))?;
    let (name, rest) = line[kind.len()..].split_once(' ')?;
    Some((kind, name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_counters_are_renamed() {
        let rest = "# HELP up Whether it answers.\n# TYPE up gauge\nup 1\n# TYPE took histogram\ntook_bucket{le=\"1\"} 1\n";
        assert_eq!(text(&format!("{rest}# EOF\n")), rest);
        assert_eq!(
            text("# TYPE up_too counter\n# TYPE up gauge\n"),
            "# TYPE up_too_total counter\n# TYPE up gauge\n"
        );
        assert_eq!(text(""), "");
    }
}
