//! Real servers and real programs on free ports and in temporary directories, for the tests, the demo and the
//! benchmarks. Whatever a run starts is gone when it ends, also when it panics or is killed.
//!
//! * [`Process`]: one child, stopped on drop; signals; its output in files.
//! * [`Host`]: where a child runs: loopback, or a network namespace of [`netns`].
//! * [`redis`], [`zookeeper`]: the servers. [`programs`]: `monitor`, `api`, `zoo-setup`.
//! * [`group`]: all of them together, ready for traffic. [`load`]: the traffic, and what it proves.
//! * [`rights`]: the ACL rules of README.md. [`secure`]: a group with every security option on.
//! * [`browser`]: a real Chromium, for the dashboard.
//! * [`linearizable`]: a checker of histories. [`chaos`]: real faults, and a verdict on what clients saw.
//! * [`model`]: the protocol in the small, for an exhaustive check. [`sim`]: at large, with everything that goes wrong.
//! * [`fuzz`]: what must hold whatever bytes come.
//! * [`wait`]: conditions with deadlines. [`skip`]: how a test says that it cannot run. [`machine`]: what the host took.
//!
//! What goes wrong here panics with a sentence: the caller is a test or a demo and can do nothing better.

pub mod browser;
pub mod certificates;
pub mod chaos;
pub mod fuzz;
pub mod group;
mod host;
pub mod http;
pub mod linearizable;
pub mod load;
pub mod machine;
pub mod model;
pub mod netns;
pub mod ports;
mod process;
pub mod programs;
pub mod redis;
pub mod resp;
pub mod rights;
// A simulated message is handled where it is expected; what comes elsewhere is of no concern there.
pub mod secure;
#[allow(clippy::wildcard_enum_match_arm, rustdoc::private_intra_doc_links)]
pub mod sim;
pub mod skip;
pub mod wait;
pub mod workdir;
pub mod zookeeper;

pub use host::Host;
pub use process::{Process, Signal, stop_everything};
pub use workdir::{WorkDir, target_dir};
