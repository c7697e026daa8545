//! The API on real servers: a ZooKeeper for all tests, Redis servers for each, and the test in the monitor's part.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod failover;
mod http;
mod proxy;
mod settle;
mod stage;
mod strong;
mod sync;
