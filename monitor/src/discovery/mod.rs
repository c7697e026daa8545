//! Who is primary, as clients may be told: one board, from which every way of asking reads ([`crate::sentinel`], ...).
//!
//! ```text
//!   driver --(what the group sees)--> facts --> board --(watch)------> who asks
//!                                                 \---> news --(broadcast)--> who has subscribed
//! ```
//!
//! The board changes the facts first and sends the news about it afterwards, so whoever hears of a new primary and asks
//! is told of it by every way. A primary is named only while the record that says so is certain: it is in phase
//! serving (its ROLE was seen to say master), it was read in a ZooKeeper session that lives, and the server itself has
//! not been seen to be something else since. Both monitors of a pair follow the same record and so answer alike.

mod board;
pub(crate) mod facts;
pub(crate) mod news;

pub(crate) use board::{Board, Reader};
pub(crate) use facts::{Facts, Fellow, Vouched, id, note, observe};
