//! The parsers of the API, for `cargo fuzz` (tests/fuzz): a library of the same modules as the program, which is empty but
//! with the feature `fuzz`. Each function panics where the bytes break what has to hold; the tests of the program replay
//! the inputs that were kept.
#![cfg(feature = "fuzz")]
// What only the program calls.
#![allow(dead_code)]

mod answer;
mod config;
mod plain;
mod request;
mod view;

/// What a client sends on its connection.
pub fn http(data: &[u8]) {
    plain::fuzz::check(data);
}

/// The path and the query of a request.
pub fn request(data: &[u8]) {
    request::fuzz::check(data);
}

/// A configuration file.
pub fn config(data: &[u8]) {
    config::fuzz::check(data);
}

/// What the znodes of a service hold, one content after the other.
pub fn view(data: &[u8]) {
    view::fuzz::check(data);
}
