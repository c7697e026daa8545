//! R1, the guarded command: whatever changes a Redis server is checked between looking at it and changing it.
//!
//! The driver, on one dedicated connection: sends [`Order::prepare`], `WATCH albireo:fence` and the questions of a
//! [`Look`]; asks [`Order::check`]; for [`Verdict::AskStore`] commits `check(leader), check(state)` in ZooKeeper; and
//! sends the commands in `MULTI ... EXEC`. A lost connection means: look again. A nil EXEC means: somebody newer acted; look again.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use topology::{Endpoint, PrimaryRef, State};

use crate::Disqualified;
use crate::candidate;
use crate::switchover::PAUSE_MS;
use crate::view::{Fence, Observation, Role};

/// What is to be done to one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Make it primary and stamp it, in one step (R5).
    Promote {
        /// The record before, under which R4 is looked at again; none when a record was found promoting.
        basis: Option<State>,
    },
    /// Stamp the recorded primary (R6).
    Stamp,
    /// Have it follow the recorded primary with the current credential; its own clients are cut off if it was a
    /// primary (R7, R15).
    Attach,
    /// Make it read-only again (R5).
    Protect,
    /// Have it follow nobody, and keep what it holds (R2).
    Detach,
    /// Count up the primary's tick (R14).
    Tick,
    /// Hold its writers (R15).
    Pause,
    /// It is the old primary of a switchover: have it take no write any more, and keep what it holds.
    Leave,
    /// Let them go on.
    Unpause,
    /// It is no member any more: have it follow nobody, and give up the credential (R16).
    Release,
}

/// One deed, at one server, under one record and one reign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The server.
    pub backend: Endpoint,
    /// What is to be done.
    pub deed: Deed,
    /// The record that asks for it.
    pub record: State,
    /// That record's version.
    pub version: i32,
    /// The version at which the lead was taken.
    pub reign: i32,
    /// R7 (b): whether the replication credential is used.
    pub restart_guard: bool,
}

/// What the server said on the connection that the deed will use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Its answer.
    pub seen: Observation,
    /// It holds a key that is not one of `albireo:*`.
    pub holds_data: bool,
    /// It knows a replication credential of ours, so that it lets in nobody else.
    pub guarded: bool,
}

/// One command for one server. The driver knows how each is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `CONFIG SET replica-read-only yes`.
    ReadOnly,
    /// The ACL user with which replicas of this promotion log in, in memory only; no other user may replicate. A replica
    /// that restarted would come back under the address of the process that it was, and seem to confirm (R3).
    CreateCredential {
        /// The epoch of the promotion.
        promoted: u64,
        /// The run id of the promoted process.
        run_id: String,
    },
    /// `masteruser` and `masterauth`.
    UseCredential {
        /// The epoch of the promotion.
        promoted: u64,
        /// The run id of the promoted process.
        run_id: String,
    },
    /// `masteruser` and `masterauth` as the `[redis]` section has them for that primary: the credential of a promotion
    /// is given up.
    UseLogin(Endpoint),
    /// Every user may replicate again: the guard was switched off.
    OpenToReplicas,
    /// `repl-backlog-ttl 0`: the replication id stays although no replica is left.
    KeepBacklog,
    /// `REPLICAOF NO ONE`.
    BecomePrimary,
    /// `REPLICAOF 127.0.0.1 0`: it follows nobody, stays read-only and keeps replication id and offset.
    Detach,
    /// `INCR albireo:tick`; where there is none, or no number, it begins anew.
    Tick {
        /// Begin at 1.
        anew: bool,
    },
    /// `REPLICAOF host port`.
    Follow(Endpoint),
    /// Sets `albireo:fence`, by a script: a SET is refused when it is queued at a read-only replica, whatever stands before
    /// it, and a replica that takes writes, if only until its promotion, takes those of a stale view too.
    Stamp(u64),
    /// `CLIENT KILL TYPE normal` and `pubsub`.
    CutClients,
    /// `CLIENT PAUSE ... WRITE`, for so many milliseconds.
    Pause(u32),
    /// `CLIENT UNPAUSE`.
    Unpause,
}

/// What is to be done after the look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Send these in one MULTI.
    Exec(Vec<Command>),
    /// The fence is missing: only if the lead and the record still stand in ZooKeeper, send these in one MULTI.
    AskStore(Vec<Command>),
    /// It is done already.
    Nothing,
    /// A newer epoch was here: this monitor is deposed.
    Deposed(u64),
    /// Not to be done.
    Refused(Refused),
}

/// Why an order is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Another process answers there than the one recorded.
    OtherProcess,
    /// Its fence cannot be read.
    FenceUnreadable,
    /// R4, looked at again.
    Candidate(Disqualified),
    /// It does not have the role that the deed needs.
    OtherRole,
    /// It is a primary that never belonged to this group and holds data (R0).
    HoldsData,
    /// It is the primary itself under another address.
    SameProcess,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherProcess => f.write_str("another process answers there than the one recorded"),
            Self::FenceUnreadable => f.write_str(
                "its key albireo:fence cannot be read: it is no number, or replica-serve-stale-data is no",
            ),
            Self::Candidate(why) => write!(f, "not eligible any more: {why}"),
            Self::OtherRole => f.write_str("it has changed its role"),
            Self::SameProcess => {
                f.write_str("it is the primary itself under another address; `monitor remove` it")
            }
            Self::HoldsData => f.write_str(
                "it is a primary with data of its own that never belonged to this group; \
                 empty it, or add it with `monitor add --overwrite`",
            ),
        }
    }
}

impl Order {
    /// What is sent before the WATCH: an EXEC that stamps is held like any other writer while somebody's switchover holds
    /// them. Whoever waits at a replica is refused then; nothing may ever be written there.
    pub fn prepare(&self) -> Option<Command> {
        matches!(self.deed, Deed::Promote { .. } | Deed::Stamp).then_some(Command::Unpause)
    }

    /// The old primary of a switchover, if this is its server.
    fn left(&self) -> Option<&PrimaryRef> {
        self.record.from.as_ref().filter(|from| from.addr == self.backend)
    }

    /// The process that must answer, where one is recorded: for the primary and for members of the set.
    pub fn expected_run_id(&self) -> Option<&str> {
        if let Some(from) = self.left().filter(|_| matches!(self.deed, Deed::Pause | Deed::Leave)) {
            return Some(&from.run_id);
        }
        if matches!(self.deed, Deed::Detach | Deed::Release) {
            return None; // R14: the processes that are recorded are gone. R16: it is not recorded any more
        }
        if self.record.primary.addr == self.backend {
            return Some(&self.record.primary.run_id);
        }
        self.record.in_sync(&self.backend).map(|entry| entry.run_id.as_str())
    }

    /// R1 and R4 between the look and the act.
    pub fn check(&self, look: &Look) -> Verdict {
        if self.expected_run_id().is_some_and(|run_id| run_id != look.seen.run_id) {
            return Verdict::Refused(Refused::OtherProcess);
        }
        let absent = match look.seen.fence {
            Fence::At(fence) if fence > self.record.epoch => return Verdict::Deposed(fence),
            Fence::Unreadable => return Verdict::Refused(Refused::FenceUnreadable),
            Fence::At(_) => false,
            Fence::Absent => true,
        };
        match self.commands(look) {
            Err(why) => Verdict::Refused(why),
            Ok(commands) if commands.is_empty() => Verdict::Nothing,
            Ok(commands) if absent => Verdict::AskStore(commands),
            Ok(commands) => Verdict::Exec(commands),
        }
    }

    fn commands(&self, look: &Look) -> Result<Vec<Command>, Refused> {
        let is_primary = matches!(look.seen.role, Role::Primary { .. });
        let here = self.record.primary.addr == self.backend;
        match &self.deed {
            Deed::Promote { .. } | Deed::Stamp if !here => Err(Refused::OtherRole),
            Deed::Promote { .. } | Deed::Stamp if is_primary => Ok(self.stamp(look)),
            Deed::Promote { basis } => self.promote(basis.as_ref(), look),
            Deed::Stamp => Err(Refused::OtherRole),
            Deed::Tick if here && is_primary => Ok(vec![Command::Tick { anew: look.seen.tick.is_none() }]),
            Deed::Tick => Err(Refused::OtherRole),
            Deed::Pause if is_primary && (here || self.left().is_some()) => {
                Ok(vec![Command::Pause(PAUSE_MS)])
            }
            Deed::Leave if is_primary && self.left().is_some() => Ok(vec![Command::Detach]),
            Deed::Pause | Deed::Leave => Err(Refused::OtherRole),
            Deed::Unpause => Ok(vec![Command::Unpause]),
            Deed::Detach | Deed::Release if is_primary => Ok(Vec::new()),
            Deed::Release if here => Err(Refused::OtherRole),
            Deed::Release => Ok(vec![Command::UseLogin(self.record.primary.addr.clone()), Command::Detach]),
            Deed::Detach => Ok(vec![Command::Detach]),
            Deed::Attach | Deed::Protect if here => Err(Refused::OtherRole),
            Deed::Attach => self.attach(is_primary, look),
            Deed::Protect if is_primary => Err(Refused::OtherRole),
            Deed::Protect => Ok(vec![Command::ReadOnly]),
        }
    }

    fn promote(&self, basis: Option<&State>, look: &Look) -> Result<Vec<Command>, Refused> {
        let seen = &look.seen;
        // After a cold start (R14) nobody is the process that the record before knew.
        let basis = basis.filter(|_| !self.record.cold);
        let entry = basis.and_then(|old| Some((old, old.in_sync(&self.backend)?)));
        if let Some(why) = entry.and_then(|(old, entry)| candidate::refusal(old, entry, seen)) {
            return Err(Refused::Candidate(why));
        }
        if matches!(seen.role, Role::Replica { syncing: true, .. }) {
            return Err(Refused::Candidate(Disqualified::Syncing));
        }
        // Also where the record before is not known: a member of any set carried a fence.
        if seen.fence == Fence::Absent && !self.record.cold {
            return Err(Refused::Candidate(Disqualified::NoFence));
        }
        let mut commands = vec![Command::BecomePrimary];
        commands.extend(self.stamp(look));
        Ok(commands)
    }

    fn stamp(&self, look: &Look) -> Vec<Command> {
        let epoch = self.record.epoch;
        let mut commands = vec![Command::Stamp(epoch), Command::KeepBacklog, Command::ReadOnly];
        if self.restart_guard {
            let (promoted, run_id) = self.credential();
            commands.push(Command::CreateCredential { promoted, run_id });
        } else if look.guarded {
            commands.push(Command::OpenToReplicas);
        }
        commands
    }

    fn attach(&self, is_primary: bool, look: &Look) -> Result<Vec<Command>, Refused> {
        if look.seen.run_id == self.record.primary.run_id {
            return Err(Refused::SameProcess);
        }
        if is_primary && look.holds_data && !self.record.adopted.contains(&self.backend) {
            return Err(Refused::HoldsData);
        }
        let mut commands = Vec::new();
        if self.restart_guard {
            let (promoted, run_id) = self.credential();
            commands.push(Command::UseCredential { promoted, run_id });
        } else if look.seen.credential.is_some() {
            // No primary knows that user any more once it was promoted without one.
            commands.push(Command::UseLogin(self.record.primary.addr.clone()));
        }
        if is_calling(&look.seen.role, &self.record.primary.addr) {
            commands.push(Command::Detach);
        }
        commands.extend([Command::Follow(self.record.primary.addr.clone()), Command::ReadOnly]);
        // One that follows nobody may have been a primary a moment ago (R15).
        if is_primary || matches!(look.seen.role, Role::Replica { source: None, .. }) {
            commands.extend([Command::CutClients, Command::Unpause]);
        }
        Ok(commands)
    }

    fn credential(&self) -> (u64, String) {
        (self.record.promoted, self.record.primary.run_id.clone())
    }
}

/// Whether it is on its way to this primary. † `REPLICAOF` to the same address does nothing then, and a handshake in which
/// the password changes waits for an answer to an AUTH that it never sent, until `repl-timeout`: it has to begin anew.
fn is_calling(role: &Role, primary: &Endpoint) -> bool {
    matches!(role, Role::Replica { source, link_up: false, .. } if source.as_ref() == Some(primary))
}
