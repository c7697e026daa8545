//! What the programs tell Prometheus: `promtool` finds nothing wrong with it, and every metric that the alerts and the dashboard
//! in `conf/` ask for exists.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use world::group::Group;
use world::skip;

const LIMIT: Duration = Duration::from_secs(20);

fn conf(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../conf")).join(name)
}

/// `promtool check ...` with this input: whether it is content, and what it says.
fn promtool(words: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new("promtool")
        .arg("check")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("its output");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Every word in a text that is the name of a metric of ours.
fn asked_for(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !word(c)).filter(|word| word.starts_with("albireo_"));
    words.map(str::to_owned).collect()
}

#[test]
fn promtool_finds_nothing_wrong() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return skip::skip("promtool_finds_nothing_wrong", "promtool is not installed (package prometheus)");
    }
    let mut group = Group::of(2).start();
    let before = group.settled();
    let load = group.load();
    load.wait_for_writes(100, LIMIT);
    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    load.stop().assert_clean();
    group.redis[old].restart();
    group.settled();

    let mut told = String::new();
    for program in group.monitors.iter().chain(&group.apis) {
        let answer = program.get("/metrics");
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        let text = answer.text();
        let (good, said) = promtool(&["metrics"], &text);
        assert!(good && said.is_empty(), "{}: {said}\n{text}", program.name());
        told.push_str(&text);
    }
    let told = asked_for(&told);
    for file in ["prometheus-alerts.yml", "grafana-dashboard.json"] {
        let text = std::fs::read_to_string(conf(file)).expect("a file of conf");
        let asked = asked_for(&text);
        assert!(asked.len() > 8, "{file} asks for {asked:?}");
        // Series of what has not happened yet are named by their family, which is always told.
        let missing: Vec<&String> =
            asked.iter().filter(|name| !told.contains(*name) && !is_part(name, &told)).collect();
        assert!(missing.is_empty(), "{file} asks for {missing:?}, which nobody tells");
    }
    let (good, said) = promtool(&["rules", &conf("prometheus-alerts.yml").display().to_string()], "");
    assert!(good, "{said}");
}

/// The buckets of a histogram that has counted nothing yet.
fn is_part(name: &str, told: &BTreeSet<String>) -> bool {
    ["_bucket", "_sum", "_count"]
        .iter()
        .any(|part| name.strip_suffix(part).is_some_and(|of| told.contains(of)))
}
