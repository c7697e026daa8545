//! `monitor check FILE`: is the configuration good, and do the servers that it names answer as Albireo needs them?

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::Duration;

use topology::zookeeper::{self, Store};
use topology::{Endpoint, Layout, State, Topology, ZnodePath};
use wire::{InfoReply, Link, OpenError, Reply, cmd};

use crate::config::Config;
use crate::dns;
use crate::redis::CLIENT_NAME;
use crate::report;

/// The oldest Redis that Albireo works with: `REPLICAOF` inside MULTI and ACL users exist since then.
const OLDEST: (u32, u32) = (6, 2);

/// Checks what the file names. The file itself was read without a mistake.
pub(crate) async fn run(config: Config) -> ExitCode {
    report::print("configuration: ok\n");
    config.warnings.iter().for_each(|warning| report::print(&format!("configuration: note: {warning}\n")));
    // Verbs give up on ZooKeeper after 5 s.
    let options = zookeeper::Options { call_timeout: Duration::from_secs(5), ..config.store_options() };
    let store = Store::open(options);
    let mut report = Report::default();
    services(&config, &store, &mut report).await;
    dns_port(&config, &mut report).await;
    store.close().await;
    if report.failed { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

#[derive(Default)]
struct Report {
    failed: bool,
}

impl Report {
    fn good(&mut self, what: &str) {
        report::print(&format!("{what}: ok\n"));
    }

    fn note(&mut self, what: &str, why: &str) {
        report::print(&format!("{what}: note: {why}\n"));
    }

    fn bad(&mut self, what: &str, why: &str) {
        report::print(&format!("{what}: FAILED: {why}\n"));
        self.failed = true;
    }
}

/// Whether DNS can be served. A monitor that runs already holds its port, as it should.
async fn dns_port(config: &Config, report: &mut Report) {
    let Some(settings) = &config.dns else { return };
    let what = format!("DNS {}", settings.listen);
    match dns::bind(&settings.listen).await {
        Ok(_) => report.good(&what),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            report.note(&what, &format!("{error}; that is as it should be if this monitor runs"));
        }
        Err(error) => report.bad(&what, &error.to_string()),
    }
}

async fn services(config: &Config, store: &Store, report: &mut Report) {
    let hosts = &config.zookeeper.hosts;
    let what = format!("ZooKeeper {hosts}");
    match store.children("/").await {
        Ok(_) => report.good(&what),
        Err(error) => return report.bad(&what, &error.to_string()),
    }
    let mut paths = config.zookeeper.path.clone();
    if let Some(parent) = &config.zookeeper.discover {
        match store.children(parent.as_str()).await {
            Ok(Some(names)) => paths.extend(names.iter().filter_map(|name| parent.child(name).ok())),
            Ok(None) => report.note(parent.as_str(), "the parent of discovered services does not exist yet"),
            Err(error) => report.bad(parent.as_str(), &error.to_string()),
        }
    }
    let mut servers = 0;
    for path in paths {
        servers += service(config, store, &path, report).await;
    }
    files(servers, crowd::files::raise(), report);
}

/// Files that a monitor opens besides connections to Redis servers: clients, ZooKeeper, its log.
const OWN_FILES: usize = 200;

/// Whether so many servers can be watched by a process that may open so many files.
fn files(servers: usize, may_open: usize, report: &mut Report) {
    let need = OWN_FILES + 2 * servers;
    if need > may_open {
        report.bad(
            "files",
            &format!(
                "{servers} servers may take {need} open files, and the hard limit for a process is {may_open} (ulimit -Hn)"
            ),
        );
    }
}

/// Gives the number of its servers.
async fn service(config: &Config, store: &Store, path: &ZnodePath, report: &mut Report) -> usize {
    let layout = Layout::new(config.zookeeper.state_root.clone());
    let topology = match store.get(path.as_str()).await {
        Ok(Some(found)) => Topology::from_json(&found.data).map_err(|e| e.to_string()),
        Ok(None) => Err("the znode does not exist; run zoo-setup".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let state = match store.get(&layout.state(path)).await {
        Ok(Some(found)) => match State::from_json(&found.data) {
            Ok(state) => Some(state),
            Err(error) => {
                report.bad(&layout.state(path), &error.to_string());
                return 0;
            }
        },
        Ok(None) => None,
        Err(error) => {
            report.bad(&layout.state(path), &error.to_string());
            return 0;
        }
    };
    let topology = match topology {
        Ok(topology) => topology,
        Err(why) => {
            report.bad(path.as_str(), &why);
            return 0;
        }
    };
    report.good(&format!("{path} (primary {}, {} others)", topology.primary, topology.replicas.len()));
    match &state {
        None => report.note(path.as_str(), "no state record yet; the first monitor writes it"),
        Some(state) if state.topology() != topology => {
            report.note(
                path.as_str(),
                "the announcement differs from the state record; the active monitor puts it back",
            );
        }
        Some(_) => {}
    }
    let members: Vec<Endpoint> = match state {
        Some(state) => state.members,
        None => topology.members().cloned().collect(),
    };
    for addr in &members {
        server(config, addr, report).await;
    }
    members.len()
}

async fn server(config: &Config, addr: &Endpoint, report: &mut Report) {
    let what = format!("Redis {addr}");
    let timeout = config.detector.connect_timeout.max(Duration::from_millis(500));
    let mut link = match Link::open(addr, &config.login(addr), CLIENT_NAME, timeout).await {
        Ok(link) => link,
        Err(error @ OpenError::Login(_)) => {
            return report.bad(&what, &format!("{error} ([redis] username, password)"));
        }
        Err(error @ OpenError::TimedOut) if config.login(addr).tls.is_some() => {
            return report.bad(&what, &format!("{error} (does that port speak TLS?)"));
        }
        Err(error) => return report.bad(&what, &error.to_string()),
    };
    let questions = [
        cmd!["INFO", "server"],
        cmd!["INFO", "persistence"],
        cmd!["CONFIG", "GET", "replica-serve-stale-data"],
        cmd!["CONFIG", "GET", "repl-diskless-sync-delay"],
        cmd!["ACL", "WHOAMI"],
        cmd!["CONFIG", "GET", "lua-time-limit"],
    ];
    let answers = match tokio::time::timeout(timeout, link.call(&questions)).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => return report.bad(&what, &error.to_string()),
        Err(_) => return report.bad(&what, "no answer in time"),
    };
    judge(&what, &answers, config.detector.down_after, report);
}

fn judge(what: &str, answers: &[Reply], down_after: Duration, report: &mut Report) {
    let [server, persistence, stale, delay, acl, script] = answers else {
        return report.bad(what, "an answer is missing");
    };
    let field = |reply: &Reply, name: &str| InfoReply::from_reply(reply)?.field(name).map(str::to_owned);
    let setting = |reply: &Reply| Some(reply.array()?.get(1)?.text()?.to_owned());
    let version = field(server, "redis_version").unwrap_or_default();
    if !is_new_enough(&version) {
        return report
            .bad(what, &format!("version `{version}`; {}.{} or newer is needed", OLDEST.0, OLDEST.1));
    }
    if field(persistence, "loading").is_some_and(|loading| loading != "0") {
        report.note(what, "it is loading its data set");
    }
    if setting(stale).is_some_and(|value| value != "yes") {
        report.bad(
            what,
            "replica-serve-stale-data is off: a replica without its primary could not be asked for its fence",
        );
    }
    if setting(delay).is_some_and(|value| value != "0") {
        report.note(
            what,
            "repl-diskless-sync-delay is not 0: a full synchronisation starts that many seconds late",
        );
    }
    // Until then a server that runs a script is as silent as a dead one; 0 and less is for ever.
    let told_after = setting(script).and_then(|value| value.parse::<i64>().ok());
    if told_after
        .is_some_and(|ms| u128::try_from(ms).map_or(true, |ms| ms == 0 || ms >= down_after.as_millis()))
    {
        report.note(
            what,
            &format!(
                "lua-time-limit (busy-reply-threshold) is not below down_after_ms = {}: \
                 a primary that runs a script for so long counts as silent",
                down_after.as_millis()
            ),
        );
    }
    if let Some(error) = acl.error() {
        report.note(what, &format!("ACL is refused ({error}): the replication credential cannot be made"));
    }
    report.good(&format!("{what} ({version})"));
}

fn is_new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_servers_than_files_are_refused() {
        for (servers, may_open, fails) in
            [(1, 1024, false), (412, 1024, false), (413, 1024, true), (6000, 20_000, false)]
        {
            let mut report = Report::default();
            files(servers, may_open, &mut report);
            assert_eq!(report.failed, fails, "{servers} {may_open}");
        }
    }

    #[test]
    fn versions() {
        for (version, good) in [
            ("6.2.0", true),
            ("7.0.15", true),
            ("10.0.0", true),
            ("6.0.16", false),
            ("5.0", false),
            ("", false),
        ] {
            assert_eq!(is_new_enough(version), good, "{version}");
        }
    }
}
