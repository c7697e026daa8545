//! The endpoint for clients of Redis Sentinel: they ask where the primary and the replicas of a name are, connect there
//! themselves, and come back when that connection breaks or an announcement tells them to.
//!
//! ```text
//!   driver --(what the group sees)--> facts --> board --(watch)--------> answers --\
//!                                                 |                                 connection --> protocol --> client
//!                                                 \---> news --(broadcast)--------/
//! ```
//!
//! The board changes the facts first and sends the news about it afterwards, so whoever hears of a new primary and asks
//! is told of it by every connection. A primary is named only while the record that says so is certain: it is in phase
//! serving (its ROLE was seen to say master), it was read in a ZooKeeper session that lives, and the server itself has
//! not been seen to be something else since. Both monitors of a pair follow the same record and so answer alike.
//!
//! The server has a thread and a runtime of its own. Whatever clients do there, the driver does not wait for it.

mod answers;
mod board;
mod connection;
mod facts;
mod glob;
mod news;
mod protocol;
mod server;

pub(crate) use board::Board;
pub(crate) use connection::Login;
pub(crate) use facts::{Facts, Fellow, id, observe};
pub(crate) use server::{Desk, bind, start};
