//! The parsers of the monitor, for `cargo fuzz` (tests/fuzz): a library of the same modules as the program, which is
//! empty but with the feature `fuzz`. Each function panics where the bytes break what has to hold; the tests of the program
//! replay the inputs that were kept.
#![cfg(feature = "fuzz")]
// What only the program calls, and the shape of its inputs; see main.rs. `make check` builds this, too: a module that one of
// these uses has to stand here.
#![allow(dead_code, unused_imports, clippy::large_enum_variant)]

mod admin;
mod asking;
mod backend;
mod call;
mod clock;
mod config;
mod dashboard;
mod discovery;
mod dns;
mod door;
mod driver;
mod events;
mod fault;
mod hooks;
mod identity;
mod log;
mod lookup;
mod metrics;
mod publisher;
mod quiet;
mod redis;
mod report;
mod sentinel;
mod service;
mod status;
mod supervisor;
mod verbs;
mod webhook;

/// A client of the Sentinel endpoint.
pub fn sentinel(data: &[u8]) {
    sentinel::fuzz::check(data);
}

/// A pattern of a client of the Sentinel endpoint.
pub fn glob(data: &[u8]) {
    sentinel::fuzz::check_glob(data);
}

/// A question to the DNS server.
pub fn dns(data: &[u8]) {
    dns::fuzz::check(data);
}

/// A configuration file.
pub fn config(data: &[u8]) {
    config::fuzz::check(data);
}

/// What a Redis server answers to a probe.
pub fn probe(data: &[u8]) {
    redis::fuzz::check(data);
}

/// The body of a request for a change.
pub fn asking(data: &[u8]) {
    asking::fuzz::check(data);
}

/// The query of a long poll and the address in a check.
pub fn lookup(data: &[u8]) {
    lookup::fuzz::check(data);
}
