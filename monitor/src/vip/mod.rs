//! `monitor vip FILE SERVICE --interface eth0 --address 10.0.0.9/24`: an agent on each Redis host that holds a virtual IPv4
//! address exactly while the local server is the announced primary.
//!
//! * [`agent`]: every decision; no clock, no I/O. [`lease`]: the bounds in time.
//! * [`claim`]: the ephemeral znode; [`server`]: the local Redis server; [`kernel`]: addresses over rtnetlink;
//!   [`arp`]: gratuitous ARP. [`driver`]: waits, hands events in, does what the agent asks.
//!
//! # Why two hosts never hold the address at once
//!
//! **One claim.** An agent adds the address only after it has created the ephemeral znode `<state_root>/vips/<address>`, which
//! only one session can hold. It lets the claim go only after its kernel has confirmed that the address is removed. So
//! another agent gets the claim either after that, or because ZooKeeper has ended the session of the former holder.
//!
//! **A lease.** The former holder has given the address back before ZooKeeper can end its session: by its own clock once its
//! last answered renewal was sent half a session ago, and by the *kernel's* timer in any case, for the address is added with
//! a lifetime of some seconds that only a renewed claim prolongs. An agent that was killed or stopped (SIGSTOP), or is never
//! given the processor, needs to do nothing for that. [`lease`] has the sums.
//!
//! A renewal is a write, sent and answered within the session: it needs a majority of the ensemble. Time counts from the
//! moment it was sent, so an answer that was long under way grants nothing.
//!
//! **What is left.**
//! * Between its look at the clock and the system call that sets the lifetime, a process may stand still for longer than a
//!   session. The kernel knows no "until": it will set what it is told. The agent looks at the clock again as the first thing
//!   after that call, and removes the address at once.
//! * A whole host that is suspended, its clocks with it (a virtual machine that is paused or moved), finds the address still there when
//!   it wakes, for as long as its own timers had left. No lease without a fence outside of that host can do more.
//! * ZooKeeper has to keep its promise: `minSessionTimeout` not below two ticks, data that are not set back by hand.
//! * Clocks of different hosts are never compared; they only have to run at about the same speed.
//!
//! # When it is held
//!
//! All of: the record is in phase serving and names a primary at an address of this host; the server there answers that it
//! is master, as the recorded process, and did so within `down_after_ms`; the claim is ours and the lease runs. The first
//! that fails gives the address back at once. A record that cannot be read changes nothing, as everywhere.

mod agent;
mod arp;
mod claim;
mod driver;
mod kernel;
mod lease;
mod server;

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::str::FromStr;

use topology::{Endpoint, ZnodePath};
use tracing::error;

use crate::config::Config;

/// What is asked for on the command line.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) service: String,
    pub(crate) interface: String,
    pub(crate) address: Address,
    /// The local server's address in the record, where it is not an address of this host's interfaces.
    pub(crate) local: Option<Endpoint>,
}

/// The virtual address: one that a host can have, with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) ip: Ipv4Addr,
    /// 1 to 32.
    pub(crate) prefix: u8,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || "expected an IPv4 address and the length of its prefix, such as 10.0.0.9/24".to_owned();
        let (ip, prefix) = text.split_once('/').ok_or_else(expected)?;
        if ip.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err("IPv6 is not available in this version".to_owned());
        }
        let ip: Ipv4Addr = ip.parse().map_err(|_| expected())?;
        let prefix: u8 = prefix.parse().map_err(|_| expected())?;
        if !(1..=32).contains(&prefix) {
            return Err(format!("a prefix is 1 to 32 bits long, not {prefix}"));
        }
        let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let host = u32::from(ip) & host_bits;
        if prefix < 31 && (host == 0 || host == host_bits) {
            return Err(format!(
                "{ip} is the network's own address or its broadcast address, which no host can have"
            ));
        }
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() {
            return Err(format!("{ip} is no address that moves from host to host"));
        }
        Ok(Self { ip, prefix })
    }
}

/// Runs the agent until it is told to end. Exit codes: 0 ended, 1 failed, 2 usage or configuration.
pub(crate) async fn run(config: Config, request: Request) -> ExitCode {
    config.warnings.iter().for_each(|warning| tracing::debug!("{warning}"));
    let path = match path_of(&config, &request.service) {
        Ok(path) => path,
        Err(why) => return end(Failure::Configuration(why)),
    };
    match driver::run(&config, &path, &request).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => end(failure),
    }
}

/// Why the agent cannot go on.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The file, the command line, or the host as it is set up.
    Configuration(String),
    /// Rights, or another agent.
    Failed(String),
}

fn end(failure: Failure) -> ExitCode {
    let (why, code) = match failure {
        Failure::Configuration(why) => (why, 2),
        Failure::Failed(why) => (why, 1),
    };
    error!("{why}");
    ExitCode::from(code)
}

/// A service is called by the last part of its path. One that is discovered need not be there yet.
fn path_of(config: &Config, service: &str) -> Result<ZnodePath, String> {
    let zookeeper = &config.zookeeper;
    if let Some(path) = zookeeper.path.iter().find(|path| path.name() == service) {
        return Ok(path.clone());
    }
    if let Some(parent) = &zookeeper.discover {
        let path = parent.child(service).ok().filter(|path| path.name() == service);
        return path.ok_or_else(|| format!("`{service}` cannot be the name of a service"));
    }
    let known: Vec<&str> = zookeeper.path.iter().map(ZnodePath::name).collect();
    Err(format!("no service `{service}`; [zookeeper] path names {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["10.0.0.9/24", "10.0.0.0/31", "10.0.0.1/31", "192.168.1.255/32", "10.0.1.0/23"] {
            let address: Address = good.parse().unwrap();
            assert_eq!(address.to_string(), good);
        }
        for (bad, why) in [
            ("10.0.0.9", "expected an IPv4"),
            ("10.0.0/24", "expected an IPv4"),
            ("10.0.0.9/x", "expected an IPv4"),
            ("eth0", "expected an IPv4"),
            ("::1/64", "IPv6"),
            ("10.0.0.9/0", "1 to 32"),
            ("10.0.0.9/33", "1 to 32"),
            ("10.0.0.0/24", "network's own"),
            ("10.0.0.255/24", "broadcast"),
            ("127.0.0.9/8", "moves"),
            ("224.0.0.9/24", "moves"),
            ("0.0.0.0/32", "moves"),
        ] {
            let error = bad.parse::<Address>().unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn services() {
        let text = |lines: &str| {
            let text = format!("[zookeeper]\nhosts = a:1\n{lines}\n");
            Config::parse(text.as_bytes(), "f", [], &|_| Err(String::new())).unwrap()
        };
        let config = text("path = /a/posts, /b/users");
        assert_eq!(path_of(&config, "users").unwrap().as_str(), "/b/users");
        assert_eq!(path_of(&config, "x").unwrap_err(), "no service `x`; [zookeeper] path names posts, users");
        let config = text("path = /a/posts\ndiscover = /more");
        assert_eq!(path_of(&config, "x").unwrap().as_str(), "/more/x");
        assert!(path_of(&config, "a/b").is_err());
    }
}
