//! What Albireo publishes: who is primary, who replicates, and in which znodes that stands.
//!
//! * [`Endpoint`] and [`ZnodePath`] are parsed once and trusted afterwards.
//! * [`Topology`] is the announcement at `<path>`, exactly two keys, read by anybody.
//! * [`State`] is the decision at `<state_root><path>/state`, read by monitors and APIs only.
//! * [`Layout`] says where each record lives.
//! * `zookeeper` (feature) reads, watches and conditionally publishes them.
//!
//! Without the feature this crate has no clock and no I/O, which `no_std` enforces.
#![cfg_attr(not(feature = "zookeeper"), no_std)]

extern crate alloc;

mod announcement;
mod endpoint;
mod layout;
mod object;
mod shown;
mod state;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

/// Whether this build can speak TLS with ZooKeeper (feature `zookeeper-tls`).
pub const ZOOKEEPER_TLS: bool = cfg!(feature = "zookeeper-tls");

pub use announcement::{Topology, TopologyError};
pub use endpoint::{Endpoint, EndpointError, ZnodePath, ZnodePathError};
pub use layout::{Layout, LeaderRecord, MonitorRecord, PausedRecord};
pub use object::from_object;
pub use state::{InSync, LAST_EPOCH, LATER_MAX, Phase, PrimaryRef, State, StateError};
