//! The decisions for one Redis group: who is primary, who is in sync, what is to be done next.
//!
//! A *failover* is: publish that a replica which holds everything acknowledged is primary under a higher epoch,
//! promote and stamp that replica in one step, announce it, and have the others follow it.
//!
//! The crate is pure, which `no_std` enforces: no clock, no I/O, no randomness. Time is an argument
//! ([`Time`], since any fixed moment), events go in ([`Group::handle`]), actions come out
//! ([`Group::poll_action`]) and are compared in tests. The rules are cited by their numbers in
//! docs/protocol.md. Read in this order:
//!
//! * [`mod@decide`]: everything known -> what to do and why; called again after every step, so that a crash between
//!   two steps needs no recovery code.
//! * [`cold`]: R14, from whom a group starts that was restarted as a whole.
//! * [`candidate`]: R4, who may be promoted and why the others may not.
//! * [`set`]: R6, who leaves the in-sync set, who enters it, and why the others do not.
//! * [`request`]: R16 and what else an operator asks for.
//! * [`switchover`]: R15, from a primary that lives, without losing a byte.
//! * [`order`]: R1, the guard between looking at a server and changing it.
//! * [`detector`]: R10, what is known of a server that does not answer.
//! * [`mass`]: many primaries lost at once, which is most likely this monitor's own network.
//! * [`view`]: all that is known now; [`group`]: events to view, decisions to actions, one at a time per server.
//! * [`mod@risk`]: what if the primary died now; [`witness`]: what each observer sees of it. For people.
//! * [`lead`]: R12, which of the two monitors may act; [`confirm`]: R3 and R17, what a client may be told.
#![no_std]
// Events and actions live for one call; a box would only hide what they hold.
#![allow(clippy::large_enum_variant)]

extern crate alloc;

pub mod candidate;
pub mod cold;
pub mod confirm;
pub mod decide;
pub mod detector;
pub mod group;
pub mod lead;
pub mod mass;
pub mod order;
pub mod request;
pub mod risk;
pub mod set;
pub mod switchover;
pub mod view;
pub mod witness;

pub use candidate::Disqualified;
pub use cold::ColdStart;
pub use decide::{Decision, Reason, Step, decide};
pub use detector::{Detector, Health, Trouble};
pub use group::{Action, Begun, Event, Group, Outcome, PublishOutcome, Stored, Timeline};
pub use order::{Command, Deed, Look, Order, Refused, Verdict};
pub use request::{Declined, Done, Request};
pub use risk::{Risk, risk};
pub use set::{Outside, Unfit};
pub use view::{Fence, Limits, MinInSync, Observation, Pause, PeerOpinion, Role, View};
pub use witness::{Witness, witnesses};

/// A moment on the driver's monotonic clock, as the time since a moment of the driver's choice.
pub type Time = core::time::Duration;
