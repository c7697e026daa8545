//! Hosts in network namespaces: one bridge, one address each, and cuts between them that a real network could have.
//!
//! Needs root. Names carry the process id, so that what a killed run left behind is removed by the next one.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, OnceLock};

use crate::{Host, process};

const PREFIX: &str = "albireo";
const FOLDER: &str = "/run/netns";
/// The rules of one host; what is cut is refused where it arrives.
const TABLE: &str = "table inet albireo { chain input { type filter hook input priority 0; }; }";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Several hosts on one bridge. All traffic between them passes until something is cut.
#[derive(Debug)]
pub struct Hosts {
    /// The namespaces, the bridge's first.
    namespaces: Vec<String>,
    hosts: BTreeMap<String, (Host, String)>,
}

/// How a cut shows at the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Packets vanish.
    Drop,
    /// TCP is answered with RST, as by a host whose process is gone.
    Reset,
}

impl Hosts {
    /// Why namespaces cannot be used here, if they cannot.
    pub fn available() -> Result<(), String> {
        static AVAILABLE: OnceLock<Result<(), String>> = OnceLock::new();
        AVAILABLE.get_or_init(Self::probe).clone()
    }

    fn probe() -> Result<(), String> {
        let name = format!("{PREFIX}{}-probe", std::process::id());
        let tried = || -> Result<(), String> {
            ip(&["netns", "add", &name])?;
            nft(&name, TABLE)?;
            nft(&name, "add rule inet albireo input ip saddr 10.0.0.1 ip protocol tcp reject with tcp reset")
        };
        let result = tried();
        let _ = ip(&["netns", "del", &name]);
        result
    }

    /// Hosts of these names, up and connected. At most 200.
    #[track_caller]
    pub fn new(names: &[&str]) -> Self {
        match Self::try_new(names) {
            Ok(hosts) => hosts,
            Err(why) => panic!("network namespaces: {why}"),
        }
    }

    fn try_new(names: &[&str]) -> Result<Self, String> {
        static CLEAN: Once = Once::new();
        CLEAN.call_once(remove_leftovers);
        let run = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bridge = format!("{run}-bridge");
        let mut all = Self { namespaces: Vec::new(), hosts: BTreeMap::new() };
        all.add_namespace(&bridge)?;
        ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &bridge, "link", "set", "br0", "up"])?;
        for (at, name) in (1..=200_u8).zip(names) {
            let space = format!("{run}-{name}");
            all.add_namespace(&space)?;
            let (port, address) = (format!("port{at}"), Ipv4Addr::new(10, 83, 0, at));
            ip(&[
                "-n", &space, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &bridge,
            ])?;
            ip(&["-n", &bridge, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &space, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
            nft(&space, TABLE)?;
            let file = process::open(&format!("{FOLDER}/{space}")).map_err(|e| e.to_string())?;
            let host = Host::in_namespace(name, IpAddr::V4(address), file);
            all.hosts.insert((*name).to_owned(), (host, space));
        }
        Ok(all)
    }

    fn add_namespace(&mut self, name: &str) -> Result<(), String> {
        ip(&["netns", "add", name])?;
        self.namespaces.push(name.to_owned());
        ip(&["-n", name, "link", "set", "lo", "up"])
    }

    /// The host of this name.
    #[track_caller]
    pub fn host(&self, name: &str) -> Host {
        self.entry(name).0.clone()
    }

    /// Nothing arrives at `to` any more that `from` sends; the other direction goes on.
    #[track_caller]
    pub fn cut_one_way(&self, from: &str, to: &str, how: Cut) {
        self.rule(from, to, "", how);
    }

    /// Nothing passes between `a` and `b`.
    #[track_caller]
    pub fn cut(&self, a: &str, b: &str, how: Cut) {
        self.cut_one_way(a, b, how);
        self.cut_one_way(b, a, how);
    }

    /// Every host of `island` is cut from every host that is not in it.
    #[track_caller]
    pub fn isolate(&self, island: &[&str], how: Cut) {
        let inside = |name: &String| island.contains(&name.as_str());
        for a in self.hosts.keys().filter(|name| inside(name)) {
            for b in self.hosts.keys().filter(|name| !inside(name)) {
                self.cut(a, b, how);
            }
        }
    }

    /// Only connections of `from` to this port of `to` are cut, both directions of them.
    #[track_caller]
    pub fn cut_port(&self, from: &str, to: &str, port: u16, how: Cut) {
        self.rule(from, to, &format!("tcp dport {port}"), how);
        self.rule(to, from, &format!("tcp sport {port}"), how);
    }

    /// So many of a hundred packets that arrive at `to` are lost, whoever sent them.
    #[track_caller]
    pub fn lose(&self, to: &str, percent: u8) {
        let space = &self.entry(to).1;
        let rule = format!("add rule inet albireo input iif eth0 numgen random mod 100 < {percent} drop");
        nft(space, &rule).unwrap_or_else(|why| panic!("loss at {to}: {why}"));
    }

    /// The names of all hosts.
    pub fn names(&self) -> Vec<&str> {
        self.hosts.keys().map(String::as_str).collect()
    }

    /// The namespaces of the bridge and of a host, for whoever puts something else between them.
    #[track_caller]
    pub(crate) fn spaces(&self, name: &str) -> (&str, &str) {
        (&self.namespaces[0], &self.entry(name).1)
    }

    /// Everything passes again.
    #[track_caller]
    pub fn heal(&self) {
        for (_, space) in self.hosts.values() {
            nft(space, "flush chain inet albireo input").unwrap_or_else(|why| panic!("heal: {why}"));
        }
    }

    /// Everything that arrives at `host` passes again.
    #[track_caller]
    pub fn heal_towards(&self, host: &str) {
        let (_, space) = self.entry(host);
        nft(space, "flush chain inet albireo input").unwrap_or_else(|why| panic!("heal: {why}"));
    }

    #[track_caller]
    fn rule(&self, from: &str, to: &str, only: &str, how: Cut) {
        let source = self.entry(from).0.ip();
        let space = &self.entry(to).1;
        let verdict = match how {
            Cut::Drop => "drop",
            Cut::Reset => "ip protocol tcp reject with tcp reset",
        };
        let rule = format!("add rule inet albireo input ip saddr {source} {only} {verdict}");
        nft(space, &rule).unwrap_or_else(|why| panic!("cut {from} from {to}: {why}"));
    }

    #[track_caller]
    fn entry(&self, name: &str) -> &(Host, String) {
        self.hosts.get(name).unwrap_or_else(|| panic!("there is no host {name}"))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.namespaces {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

/// Removes every namespace of this process; for an exit that runs no destructors.
pub(crate) fn remove_own() {
    remove_where(|pid| pid == std::process::id());
}

fn remove_leftovers() {
    remove_where(|pid| !Path::new(&format!("/proc/{pid}")).exists());
}

fn remove_where(matches: impl Fn(u32) -> bool) {
    for entry in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        if pid.is_some_and(&matches) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

fn ip(words: &[&str]) -> Result<(), String> {
    finish(Command::new("ip").args(words), &format!("ip {}", words.join(" ")))
}

fn nft(namespace: &str, rule: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "nft", rule]);
    finish(&mut command, &format!("nft {rule}"))
}

fn finish(command: &mut Command, what: &str) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{what}: {e}"))?;
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{what}: {why}")) }
}
