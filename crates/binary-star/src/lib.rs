//! The Binary Star pattern of the ZeroMQ guide: two programs, one works, the other stands by.
//!
//! Each side tells the other its state once per *heartbeat*. A side that has not heard its peer for two
//! heartbeats calls it *expired*, and takes over when somebody *votes* for it: in the guide a client that sends a
//! request, in a program with a better witness whoever holds the lead there ([`settled_by_lead`]).
//!
//! ```text
//!             peer BACKUP, or vote without peer          peer PRIMARY or BACKUP,
//!   PRIMARY ------------------------------------> ACTIVE <---- or vote without peer ---- PASSIVE
//!   PRIMARY, BACKUP ---------------- peer ACTIVE ---------------------------------------> PASSIVE
//! ```
//!
//! * [`fsm`]: the whole table, as a pure function;
//! * [`liveness`]: when the peer was last heard, when it expires; time is an argument;
//! * [`heartbeat`]: the frame on the wire, plain or with a MAC;
//! * `reactor` (feature `reactor`): sockets, timers and a thread around these three.
//!
//! Without default features this is `no_std` with `alloc`, and holds no clock and no I/O.
//!
//! ```
//! use binary_star::{Dialect, Event, Peer, Refusal, Role, State, step};
//!
//! let guide = |state, event, peer| step(Dialect::Guide, Role::Primary, state, event, peer);
//! assert_eq!(guide(State::Primary, Event::PeerBackup, Peer::Alive), Ok(State::Active));
//! assert_eq!(guide(State::Passive, Event::ClientRequest, Peer::Alive), Err(Refusal::NotActive));
//! assert_eq!(guide(State::Passive, Event::ClientRequest, Peer::Expired), Ok(State::Active));
//! ```
#![cfg_attr(not(feature = "reactor"), no_std)]

extern crate alloc;

pub mod fsm;
pub mod heartbeat;
pub mod liveness;
#[cfg(feature = "reactor")]
pub mod reactor;

pub use fsm::{Dialect, Event, Lead, Peer, Refusal, Role, State, settled_by_lead, step};
pub use heartbeat::{Heard, HeartbeatError, Instance, Key, KeyError, Wire, sign, verify};
pub use liveness::Liveness;
#[cfg(feature = "reactor")]
pub use reactor::{
    BinaryStar, EndError, Handle, Options, PairEvent, PeerView, Running, StartError, Votes, Why,
};
