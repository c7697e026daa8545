//! Every part that is ours is replaced under load, one after the other, as docs/production.md says: nobody notices.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use world::group::Group;
use world::load::{Load, Options};
use world::skip::skip;
use world::{Host, Process, WorkDir, ports, wait};

const LIMIT: Duration = Duration::from_secs(20);

/// How often everything is replaced.
const ROUNDS: usize = 3;

/// HAProxy with the file of `conf/`, in front of two APIs.
struct Front {
    process: Process,
    addr: SocketAddr,
}

impl Front {
    #[track_caller]
    fn start(group: &Group) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/haproxy-api.cfg");
        let mut text = fs::read_to_string(&source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
        let addr = Host::local().at(ports::free());
        let shown = ["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7002"];
        let moved = [addr].into_iter().chain(group.api_addresses());
        for (from, to) in shown.into_iter().zip(moved) {
            assert_eq!(text.matches(from).count(), 1, "{} has {from} once", source.display());
            text = text.replace(from, &to.to_string());
        }
        let dir = WorkDir::new("haproxy-api");
        let file = dir.join("haproxy.cfg");
        fs::write(&file, text).expect("a file");
        let mut command = Command::new("haproxy");
        command.arg("-f").arg(&file);
        Self { process: Process::within("haproxy", command, &dir), addr }
    }

    /// What it has said of a server being taken out, or taken in again.
    fn told(&self, what: &str) -> usize {
        // It says everything twice: to its log, and as a warning.
        self.process.log().lines().filter(|line| line.starts_with(what)).count()
    }
}

fn has_haproxy() -> bool {
    let mut haproxy = Command::new("haproxy");
    haproxy.arg("-v").stdout(Stdio::null()).stderr(Stdio::null());
    haproxy.status().is_ok_and(|status| status.success())
}

/// SIGTERM, the end, a new start, ready.
#[track_caller]
fn replace_monitor(group: &mut Group, number: usize) {
    let ended = group.monitors[number].process().terminate(LIMIT);
    assert!(ended.is_some_and(|status| status.success()), "monitor {number}: {ended:?}");
    group.monitors[number].restart();
    group.monitors[number].wait_until_ready(LIMIT);
}

/// The same for an API; HAProxy takes it out and in again by its own checks.
#[track_caller]
fn replace_api(group: &mut Group, number: usize, front: &Front, load: &Load) {
    let name = format!("Server apis/api-{}", number + 1);
    let (down, up) = (format!("{name} is DOWN"), format!("{name} is UP"));
    let before = (front.told(&down), front.told(&up));
    let ended = group.apis[number].process().terminate(LIMIT);
    assert!(ended.is_some_and(|status| status.success()), "{name}: {ended:?}");
    assert_eq!(front.told(&down), before.0 + 1, "taken out before it ended: {}", front.process.log());
    group.apis[number].restart();
    group.apis[number].wait_until_ready(LIMIT);
    wait::until(&format!("HAProxy uses {name} again"), LIMIT, || {
        wait::holds(front.told(&up) == before.1 + 1, || front.process.log())
    });
    let served =
        |group: &Group| group.apis[number].metric("albireo_api_requests_total{route=\"write\",code=\"200\"}");
    wait::until(&format!("{name} serves"), LIMIT, || {
        wait::holds(served(group).is_some_and(|writes| writes > 10.0), || format!("{:?}", served(group)))
    });
    load.wait_for_writes(50, LIMIT);
}

#[test]
fn monitors_and_apis_are_replaced_under_load() {
    let name = "monitors_and_apis_are_replaced_under_load";
    if !has_haproxy() {
        return skip(name, "haproxy is not installed");
    }
    let mut group = Group::of(2).apis(2).start();
    let before = group.settled();
    let decisions = group.history().len();
    let front = Front::start(&group);
    let load = Options::new(&Host::local(), vec![front.addr]);
    wait::until("HAProxy listens", LIMIT, || Host::local().connect(front.addr, LIMIT).map(drop));
    let load = Options { workers: 8, ..load }.start();
    load.wait_for_writes(100, LIMIT);

    let mut leaders = BTreeSet::new();
    for round in 1..=ROUNDS {
        let active = group.wait_for_active();
        leaders.insert(active);
        replace_monitor(&mut group, 1 - active);
        group.wait_until_active(active);
        replace_monitor(&mut group, active);
        group.wait_until_active(1 - active);
        for number in 0..2 {
            replace_api(&mut group, number, &front, &load);
        }
        let now = group.settled();
        assert_eq!((now.promoted, &now.primary), (before.promoted, &before.primary), "round {round}");
        println!("round {round}: {} writes acknowledged", load.acknowledged());
    }
    assert_eq!(leaders.len(), 2, "each monitor has led");
    assert_eq!(group.history().len(), decisions, "{:?}", group.history());
    let report = load.stop();
    println!("{} requests", report.samples.len());
    report.assert_clean();
}
