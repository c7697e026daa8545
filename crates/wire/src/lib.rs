//! One connection to one Redis server: pipelines out, replies in, the close seen at once.
//!
//! A [`Link`] is opened with one round trip (password, name, run id) and is used either by [`Link::call`], which
//! sends a pipeline and waits for its replies, or in two halves ([`Link::split`]): a [`Sender`] that writes
//! commands and a [`Receiver`] that waits for the next reply *or the end of the connection*, so that a prober
//! notices a dead process without having asked it anything. A [`Line`] is the first half of opening one.
//!
//! An error reply is a [`Reply::Error`], not a failure of the link. A link never reconnects: whoever holds it must
//! look at the server again, since another process may answer at the same address (docs/protocol.md, R1 and R7).
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use wire::{Link, Login, cmd};
//! let limit = std::time::Duration::from_millis(200);
//! let mut link = Link::open(&"127.0.0.1:6379".parse()?, &Login::default(), "albireo-api", limit).await?;
//! let replies = link.call(&[cmd!["SET", "k", "v"], cmd!["GET", "k"]]).await?;
//! assert_eq!(replies[1].bytes(), Some(&b"v"[..]));
//! # Ok(()) }
//! ```

mod command;
mod info;
mod link;
mod reply;
mod stream;

pub use command::Command;
pub use info::{InfoReply, ReplicaLink, Role, RoleError};
pub use link::{Answer, Line, Link, LinkError, Login, MAX_REPLY_BYTES, OpenError, Receiver, Sender};
pub use reply::{Garbage, Reply, take_reply};
