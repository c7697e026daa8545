//! Every part of a group on a host of its own, and what can be done to it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use topology::State;

use super::scenarios::Scenario;
use super::traffic::{Action, ApiSeat, Record, Seat, own_keys};
use super::wire::Wire;
use crate::group::{Group, Places, SETTLE_LIMIT};
use crate::netns::Hosts;
use crate::programs::{Ini, Launch, Program};
use crate::redis::{Redis, Settings};
use crate::{target_dir, wait};

/// Clients per API, on its host.
pub(super) const CLIENTS: usize = 2;
/// The hosts of the members, of the monitors and of the APIs.
pub const REDIS: [&str; 3] = ["r0", "r1", "r2"];
/// See [`REDIS`].
pub const MONITORS: [&str; 2] = ["m0", "m1"];
/// See [`REDIS`].
pub const APIS: [&str; 3] = ["a0", "a1", "a2"];

/// A group of three servers, two monitors and three APIs, each on its own host, as ZooKeeper (`zk`) is.
#[derive(Debug)]
pub struct Stage {
    /// The parts.
    pub group: Group,
    /// Where they run.
    pub hosts: Hosts,
    /// The slow link of a host, if the scenario asked for one.
    pub wire: Option<Wire>,
    /// What the clients of the last round saw.
    pub history: Vec<Record>,
    /// Whether clients read strongly: without durability `sync` they would only wait.
    strong: bool,
    began: Instant,
    notes: Vec<(Duration, String)>,
}

impl Stage {
    /// Everything that this scenario needs, in order and ready.
    #[track_caller]
    pub fn new(scenario: &Scenario) -> Self {
        let mut names = vec!["zk"];
        names.extend(REDIS.iter().chain(&MONITORS).chain(&APIS));
        let hosts = Hosts::new(&names);
        let wire = scenario.slow.map(|name| Wire::between(&hosts, name));
        let places = Places {
            zookeeper: hosts.host("zk"),
            redis: REDIS.map(|name| hosts.host(name)).into(),
            monitors: MONITORS.map(|name| hosts.host(name)).into(),
            api: hosts.host("a0"),
        };
        // With a token an operator may ask from any host.
        let builder = Group::of(2).places(places).apis(0).monitor_key("admin", "token", "of-the-operator");
        let mut group = scenario.redis.iter().fold(builder, |builder, line| builder.redis_line(line)).start();
        if !scenario.redis.is_empty() {
            // As is wise for servers with persistence: what they come back with is the monitors' affair.
            group.redis.iter_mut().for_each(|redis| redis.change(Settings::replica_of_nobody));
        }
        for name in APIS {
            let durability = if scenario.unconfirmed { "async" } else { "sync" };
            let api = start_api(&group, &hosts, name, durability);
            group.apis.push(api);
        }
        group.ready();
        let (began, history, notes) = (Instant::now(), Vec::new(), Vec::new());
        Self { group, hosts, wire, history, strong: !scenario.unconfirmed, began, notes }
    }

    /// Where the clients are.
    pub fn seats(&self) -> Vec<Arc<dyn Seat>> {
        let apis = self.group.api_addresses();
        let seat = |at: usize| -> Arc<dyn Seat> {
            let own = at % APIS.len();
            let mut apis = apis.clone();
            apis.rotate_left(own);
            Arc::new(ApiSeat { host: self.hosts.host(APIS[own]), apis, strong: self.strong })
        };
        (0..CLIENTS * APIS.len()).map(seat).collect()
    }

    /// A new round: its notes count from here.
    pub fn begin(&mut self, at: Instant) {
        self.began = at;
        self.notes.clear();
        self.history.clear();
    }

    /// Writes down what was done.
    pub fn note(&mut self, what: impl Into<String>) {
        self.notes.push((self.began.elapsed(), what.into()));
    }

    /// The host of the recorded primary.
    #[track_caller]
    pub fn primary_host(&self) -> &'static str {
        REDIS[self.group.primary()]
    }

    /// A member that is not the primary.
    #[track_caller]
    pub fn some_replica(&self, rng: &mut fastrand::Rng) -> usize {
        (self.group.primary() + rng.usize(1..REDIS.len())) % REDIS.len()
    }

    /// Waits until all members are in order and every program is ready.
    #[track_caller]
    pub fn in_order(&mut self) -> State {
        let state = wait::until("everything in order", SETTLE_LIMIT, || {
            for program in self.group.monitors.iter_mut().chain(&mut self.group.apis) {
                if let Some(status) = program.process().poll() {
                    return Err(format!("{} has ended: {status}", program.name()));
                }
            }
            self.group.order()
        });
        self.group.ready();
        state
    }

    /// What the primary holds of the keys that only one client wrote.
    #[track_caller]
    pub fn stored(&self, history: &[Record]) -> BTreeMap<String, u64> {
        stored(&self.group.redis[self.group.primary()], history)
    }

    /// Copies all logs, the notes and the history to a folder that stays, and returns it.
    pub fn keep(&mut self, name: &str, broken: &[String]) -> PathBuf {
        let folder = target_dir().join("chaos").join(name);
        let _ = fs::remove_dir_all(&folder);
        let _ = fs::create_dir_all(&folder);
        let save = |file: &str, text: &str| {
            let _ = fs::write(folder.join(file), text);
        };
        save("broken.txt", &broken.join("\n\n"));
        let mut notes = String::new();
        for (at, what) in &self.notes {
            let _ = writeln!(notes, "{:>10.3} ms  {what}", at.as_secs_f64() * 1000.0);
        }
        save("notes.txt", &notes);
        let mut history = String::new();
        for record in &self.history {
            let _ = writeln!(history, "{}", line_of(record));
        }
        save("history.txt", &history);
        let state = self.group.try_state().map_or_else(|why| why, |state| state.to_json());
        save("state.json", &state);
        let copy = |process: &crate::Process| {
            let path = process.log_path();
            let _ = fs::copy(path, folder.join(format!("{}.log", process.name())));
        };
        copy(self.group.zookeeper.process());
        self.group.redis.iter_mut().for_each(|redis| copy(redis.process()));
        let programs = self.group.monitors.iter_mut().chain(&mut self.group.apis);
        programs.for_each(|program| copy(program.process()));
        folder
    }
}

/// What this server holds of the keys that only one client wrote.
#[track_caller]
pub fn stored(redis: &Redis, history: &[Record]) -> BTreeMap<String, u64> {
    let keys: Vec<&str> = own_keys(history).into_keys().collect();
    let mut stored = BTreeMap::new();
    for some in keys.chunks(500) {
        let names: Vec<String> = some.iter().map(|key| format!("k:{key}")).collect();
        let mut words = vec!["MGET"];
        words.extend(names.iter().map(String::as_str));
        let values = redis.cmd(&words);
        for (key, value) in some.iter().zip(values.list()) {
            if let crate::resp::Reply::Text(value) = value {
                stored.insert((*key).to_owned(), value.parse().unwrap_or(0));
            }
        }
    }
    stored
}

fn line_of(record: &Record) -> String {
    let Record { client, action, key, value, invoked, returned, outcome, given_by } = record;
    let verb = match action {
        Action::Write | Action::WriteOwn => "write",
        Action::ReadStrong => "strong read",
        Action::Read => "read",
    };
    let by = given_by.as_ref().map_or(String::new(), |(epoch, primary)| format!("epoch {epoch} {primary}"));
    let (from, to) = (invoked.as_secs_f64() * 1000.0, returned.as_secs_f64() * 1000.0);
    format!("{from:>10.3} {to:>10.3} ms  client {client} {verb} {key} {value}: {outcome:?} {by}")
}

#[track_caller]
fn start_api(group: &Group, hosts: &Hosts, name: &str, durability: &str) -> Program {
    let host = hosts.host(name);
    let listen = host.at(host.free_port());
    let ini = Ini::new()
        .set("zookeeper", "hosts", group.zookeeper.hosts())
        .set("zookeeper", "path", group.path())
        .set("api", "listen", listen)
        .set("api", "durability", durability);
    let name = format!("api-{name}");
    Program::start(&Launch { kind: "api", name: &name, host: &host, ini: &ini, env: &[], http: listen })
}
