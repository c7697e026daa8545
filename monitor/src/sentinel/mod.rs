//! The endpoint for clients of Redis Sentinel: they ask where the primary and the replicas of a name are, connect there
//! themselves, and come back when that connection breaks or an announcement tells them to.
//!
//! ```text
//!   facts --(watch)----> answers --\
//!                                   connection --> protocol --> client
//!   news --(broadcast)------------/
//! ```
//!
//! The facts and the news are those of [`crate::discovery`]. The server has a thread and a runtime of its own: whatever
//! clients do there, the driver does not wait for it.

mod answers;
mod connection;
#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod fuzz;
mod glob;
mod protocol;
mod server;

pub(crate) use connection::Login;
pub(crate) use server::{Desk, bind, start};
