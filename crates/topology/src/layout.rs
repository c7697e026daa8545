//! Where each record lives in ZooKeeper, and the two small records that are shared by all services.

use alloc::string::{String, ToString};

use serde::{Deserialize, Serialize};

use crate::{Endpoint, ZnodePath, ZnodePathError};

/// The znodes below the state root.
///
/// ```
/// let layout = topology::Layout::new("/albireo".parse().unwrap());
/// let path = "/the_red/storage/posts".parse().unwrap();
/// assert_eq!(layout.state(&path), "/albireo/the_red/storage/posts/state");
/// assert_eq!(layout.leader(), "/albireo/leader");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: ZnodePath,
}

impl Layout {
    /// The layout below this root.
    pub fn new(root: ZnodePath) -> Self {
        Self { root }
    }

    /// The state root itself.
    pub fn root(&self) -> &ZnodePath {
        &self.root
    }

    /// The folder of one service's records.
    pub fn service(&self, path: &ZnodePath) -> ZnodePath {
        self.root.below(path)
    }

    /// The decision of one service: a [`crate::State`].
    pub fn state(&self, path: &ZnodePath) -> String {
        alloc::format!("{}{path}/state", self.root)
    }

    /// The last 100 decisions of one service, newest first.
    pub fn history(&self, path: &ZnodePath) -> String {
        alloc::format!("{}{path}/history", self.root)
    }

    /// A [`PausedRecord`], exactly while an operator has paused one service.
    pub fn paused(&self, path: &ZnodePath) -> String {
        alloc::format!("{}{path}/paused", self.root)
    }

    /// Who leads: a [`LeaderRecord`]; persistent, never deleted.
    pub fn leader(&self) -> String {
        alloc::format!("{}/leader", self.root)
    }

    /// The folder of the monitors.
    pub fn monitors(&self) -> String {
        alloc::format!("{}/monitors", self.root)
    }

    /// The ephemeral [`MonitorRecord`] of one monitor.
    pub fn monitor(&self, name: &str) -> Result<String, ZnodePathError> {
        Ok(self.root.child("monitors")?.child(name)?.to_string())
    }

    /// The folder of the observers.
    pub fn observers(&self) -> String {
        alloc::format!("{}/observers", self.root)
    }

    /// The ephemeral [`MonitorRecord`] of one observer. Not among the monitors: nobody may ever ask it for its opinion, or
    /// take it for one that could lead.
    pub fn observer(&self, name: &str) -> Result<String, ZnodePathError> {
        Ok(self.root.child("observers")?.child(name)?.to_string())
    }

    /// Who holds a virtual address: ephemeral. Below the root and not below a service, so that two services never give
    /// the same address to two hosts.
    pub fn vip(&self, address: core::net::Ipv4Addr) -> String {
        alloc::format!("{}/vips/{address}", self.root)
    }

    /// What one monitor thinks of one service's backends (second opinions).
    pub fn view(&self, name: &str, service: &str) -> Result<String, ZnodePathError> {
        Ok(self.root.child("views")?.child(name)?.child(service)?.to_string())
    }
}

/// Who leads. An empty name is a lead that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRecord {
    /// The monitor's name.
    pub name: String,
    /// Which process of that name it was.
    pub instance: String,
}

/// One live monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorRecord {
    /// Which process of that name it is; drawn anew at every start.
    pub instance: String,
    /// The host it runs on, for the message when a name is taken.
    pub host: String,
    /// Where its admin HTTP answers.
    pub admin: Option<Endpoint>,
    /// Its role in the pair: `primary`, `backup` or `observer`; none in the record of an older version.
    #[serde(default)]
    pub role: Option<String>,
    /// Its version; none in the record of an older one.
    #[serde(default)]
    pub version: Option<String>,
    /// The process, for a successor on the same machine; none where the system does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Where clients of Redis Sentinel reach it, if it serves them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<Endpoint>,
    /// Advanced by the active monitor every heartbeat.
    pub beat: u64,
}

/// Since when a service is paused, and who asked for it. What counts is that the znode is there, whatever it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausedRecord {
    /// Milliseconds since 1970, by the clock of the monitor that wrote it; for people only.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Where it was asked for.
    #[serde(default)]
    pub by: Option<String>,
}
