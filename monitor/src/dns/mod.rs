//! DNS: `primary.SERVICE.ZONE` and `replica.SERVICE.ZONE`, for whatever can do no more than look up a name.
//!
//! ```text
//!   client --(UDP, TCP)--> server --> message --> zone <--(watch)-- facts
//! ```
//!
//! The facts are those of [`crate::discovery`]: a primary is named only while that is certain, and SERVFAIL says that it
//! is not, so that who asks goes on to the other monitor. The server has a thread and a runtime of its own: whatever
//! clients do there, the driver does not wait for it. Of the library only the messages are used; its server bounds
//! neither the connections nor the log.

#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod fuzz;
mod message;
mod server;
mod settings;
mod zone;

pub(crate) use server::{Desk, Sockets, bind, start};
pub(crate) use settings::{Host, Settings, TTL_MAX, ZoneName};
