//! The decisions about the address: what is known comes in, what is to be done goes out. No clock, no I/O.
//!
//! ```text
//!          wanted, nobody claims it          claim made            address added
//!   Idle ---------------------> Claiming ---------> Claimed (away) ------------> Claimed (here)
//!    ^                             | taken, failed     | doubt                       | doubt
//!    |<----------------------------+                   v                             v
//!    +-------------------------------------------- Unclaiming <-- it is removed -- Removing
//! ```
//!
//! A doubt is anything that [`Agent::doubt`] names. The claim is let go only after the kernel has confirmed that the address
//! is gone, and nothing renews it meanwhile.

use std::collections::VecDeque;
use std::time::Duration;

use failover::Time;

use super::lease::Lease;

/// Before something that failed at ZooKeeper or in the kernel is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// Before the address is claimed again which could not be added.
const ADD_AGAIN: Duration = Duration::from_secs(1);

/// The kernel may take so long to do what it is asked; after that it counts as too late.
const KERNEL_SLACK: Duration = Duration::from_millis(100);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// What the state record says about this host.
    Record(Record),
    /// What the local server answered.
    Server(Server),
    /// The session of this generation, with the bounds that follow from its timeout; `None`: it is over.
    Session(Option<(u64, Lease)>),
    /// What the claim's znode holds.
    Claim(Seen),
    /// The claim is made, by a request sent then.
    Claimed {
        /// The generation of the session that made it.
        generation: u64,
        /// When the request was sent.
        sent: Time,
    },
    /// It is not, for this reason.
    NotClaimed(String),
    /// The claim was renewed, by a request sent then.
    Renewed(Time),
    /// It was not; it may still be ours.
    NotRenewed(String),
    /// It is certainly not ours any more.
    Lost(String),
    /// It is certainly not there any more.
    Unclaimed,
    /// It may be there.
    NotUnclaimed(String),
    /// The claim of an agent that has ended was removed, or could not be.
    Cleared,
    /// The kernel has added the address.
    Added,
    /// It has not.
    NotAdded(String),
    /// The kernel has given it a new lifetime. `false`: it was not there, and is again.
    Refreshed(bool),
    /// The address is certainly not there.
    Removed,
    /// It may be there.
    NotRemoved(String),
    /// The agent is to end.
    Stop,
    /// Time went by.
    Tick,
}

/// The state record, as seen from this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// This host's server is the primary, as this process, and serves.
    Here {
        /// The record's epoch.
        epoch: u64,
        /// The process.
        run_id: String,
    },
    /// It is not, and why.
    Not(String),
}

/// The local server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Server {
    /// It says that it is master.
    Primary {
        /// The process.
        run_id: String,
        /// When it was asked.
        asked: Time,
    },
    /// It is too busy to say more than that; it is what it was.
    Busy {
        /// When it was asked.
        asked: Time,
    },
    /// It does not, or gives no answer.
    Not(String),
}

/// The claim's znode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing was read yet.
    Unknown,
    /// Nobody claims the address.
    Free,
    /// This agent does, in its present session.
    Own,
    /// Another one does.
    Other(String),
    /// An agent of this host that has ended, or this one in an earlier session. Its address is not here any more.
    Orphan,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Claim the address under this epoch in the session of this generation.
    Claim {
        /// The epoch, for people.
        epoch: u64,
        /// The session.
        generation: u64,
    },
    /// Renew the claim.
    Renew,
    /// Let it go.
    Unclaim,
    /// Remove the claim of an agent of this host that has ended.
    Clear,
    /// Add the address for so many seconds.
    Add(u32),
    /// Let it live so many seconds from now.
    Refresh(u32),
    /// Remove it.
    Remove,
    /// Tell the neighbours.
    Announce,
    /// Tell the log.
    Say(Line),
    /// Nothing is held any more: end.
    End,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// The address is here.
    Taken(u64),
    /// It was given back, and why.
    Released(u64, String),
    /// It would be taken if this other agent did not claim it.
    Waiting(String),
    /// What somebody should look at.
    Trouble(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hold {
    /// Neither the claim nor the address; nothing is tried before that time, if there is one.
    Idle(Option<Time>),
    Claiming,
    Claimed(Claimed),
    /// The address is being removed; asked again at that time, if the answer came and was no.
    Removing {
        again: Option<Time>,
        epoch: u64,
        why: String,
    },
    /// The claim is being let go.
    Unclaiming {
        again: Option<Time>,
        idle_until: Time,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Claimed {
    generation: u64,
    epoch: u64,
    lease: Lease,
    /// When the last renewal was sent that was answered.
    sent: Time,
    renewing: bool,
    renew_at: Time,
    address: Address,
    lost: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Address {
    Away,
    /// The kernel was asked to add it.
    Asked,
    /// Its lifetime began no later than `since`.
    Here {
        since: Time,
        refresh_at: Time,
    },
}

/// The agent.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    /// The server counts as silent so long after it was asked.
    patience: Duration,
    record: Record,
    server: Server,
    session: Option<(u64, Lease)>,
    seen: Seen,
    clearing: bool,
    waiting_for: Option<String>,
    stopping: bool,
    hold: Hold,
    commands: VecDeque<Command>,
}

impl Agent {
    /// An agent that knows nothing. A server that has not answered for `patience` counts as gone.
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            record: Record::Not("no record was read yet".to_owned()),
            server: Server::Not("not asked yet".to_owned()),
            session: None,
            seen: Seen::Unknown,
            clearing: false,
            waiting_for: None,
            stopping: false,
            hold: Hold::Idle(None),
            commands: VecDeque::new(),
        }
    }

    /// Takes in what happened.
    pub(crate) fn handle(&mut self, event: Event, now: Time) {
        self.learn(event, now);
        match self.hold {
            Hold::Idle(_) => self.idle(now),
            // Without an address there is nothing to wait for: the session ends, and the claim with it.
            Hold::Claiming => self.end_if_stopping(),
            Hold::Claimed(_) => self.claimed(now),
            Hold::Removing { ref mut again, .. } => {
                if again.take_if(|at| *at <= now).is_some() {
                    self.commands.push_back(Command::Remove);
                }
            }
            Hold::Unclaiming { ref mut again, .. } => {
                if again.take_if(|at| *at <= now).is_some() {
                    self.commands.push_back(Command::Unclaim);
                }
            }
        }
    }

    /// What is to be done next.
    pub(crate) fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When to come back with [`Event::Tick`], if nothing else happens before.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        match &self.hold {
            Hold::Idle(from) => *from,
            Hold::Claiming => None,
            Hold::Removing { again, .. } | Hold::Unclaiming { again, .. } => *again,
            Hold::Claimed(claimed) => {
                let renew = (!claimed.renewing).then_some(claimed.renew_at);
                let refresh = match claimed.address {
                    Address::Here { refresh_at, .. } => Some(refresh_at),
                    Address::Away | Address::Asked => None,
                };
                let silent = match &self.server {
                    Server::Primary { asked, .. } => Some(*asked + self.patience),
                    Server::Busy { .. } | Server::Not(_) => None,
                };
                let ends = Some(claimed.lease.ends(claimed.sent));
                [renew, refresh, silent, ends].into_iter().flatten().min()
            }
        }
    }

    fn learn(&mut self, event: Event, now: Time) {
        match event {
            Event::Record(record) => self.record = record,
            Event::Server(server) => self.heard(server),
            Event::Session(session) => self.session = session,
            Event::Claim(seen) => self.claim_seen(seen),
            Event::Claimed { generation, sent } => self.claim_made(generation, sent),
            Event::NotClaimed(why) => {
                tracing::debug!("not claimed: {why}");
                self.hold = Hold::Idle(Some(now + RETRY));
            }
            Event::Renewed(sent) => self.renewed(Some(sent), now),
            Event::NotRenewed(why) => {
                self.trouble(format!("the claim could not be renewed: {why}"));
                self.renewed(None, now);
            }
            Event::Lost(why) => self.lost(why),
            Event::Unclaimed => self.unclaimed(),
            Event::NotUnclaimed(why) => self.not_unclaimed(why, now),
            Event::Cleared => {
                self.clearing = false;
                if let Hold::Idle(from) = &mut self.hold {
                    *from = Some(now + RETRY);
                }
            }
            Event::Added => self.added(now),
            Event::NotAdded(why) => {
                self.trouble(format!("the address cannot be added: {why}"));
                self.unclaim(now + ADD_AGAIN);
            }
            Event::Refreshed(was_there) => self.refreshed(was_there, now),
            Event::Removed => self.removed(now),
            Event::NotRemoved(why) => self.not_removed(why, now),
            Event::Stop => self.stopping = true,
            Event::Tick => {}
        }
    }

    fn heard(&mut self, server: Server) {
        match (&mut self.server, server) {
            (Server::Primary { asked, .. }, Server::Busy { asked: later }) => *asked = later,
            // Busy before it ever said what it is.
            (Server::Busy { .. } | Server::Not(_), Server::Busy { .. }) => {}
            (known, told) => *known = told,
        }
    }

    fn claim_seen(&mut self, seen: Seen) {
        let why = match &seen {
            Seen::Unknown | Seen::Own => None,
            Seen::Free | Seen::Orphan => Some("the claim was removed by somebody".to_owned()),
            Seen::Other(host) => Some(format!("{host} claims it")),
        };
        self.seen = seen;
        if let Some(why) = why {
            self.lost(why);
        }
    }

    fn lost(&mut self, why: String) {
        if let Hold::Claimed(claimed) = &mut self.hold {
            claimed.lost.get_or_insert(why);
        }
    }

    fn claim_made(&mut self, generation: u64, sent: Time) {
        let epoch = match &self.record {
            Record::Here { epoch, .. } => *epoch,
            Record::Not(_) => 0,
        };
        let Some((_, lease)) = self.session.filter(|(at, _)| *at == generation) else {
            // It vanished with its session.
            self.hold = Hold::Idle(None);
            return;
        };
        let renew_at = sent + lease.every;
        let (renewing, address, lost) = (false, Address::Away, None);
        self.hold =
            Hold::Claimed(Claimed { generation, epoch, lease, sent, renewing, renew_at, address, lost });
    }

    fn renewed(&mut self, sent: Option<Time>, now: Time) {
        let Hold::Claimed(claimed) = &mut self.hold else { return };
        claimed.renewing = false;
        claimed.renew_at = now + RETRY;
        if let Some(sent) = sent {
            claimed.sent = claimed.sent.max(sent);
            claimed.renew_at = sent + claimed.lease.every;
            // What had to wait for this renewal need not wait any longer.
            if let Address::Here { since, refresh_at } = &mut claimed.address {
                *refresh_at = (*refresh_at).min(*since + claimed.lease.every);
            }
        }
    }

    fn added(&mut self, now: Time) {
        let Hold::Claimed(claimed) = &mut self.hold else { return };
        claimed.address = Address::Here { since: now, refresh_at: now + claimed.lease.every };
        let epoch = claimed.epoch;
        self.commands.extend([Command::Announce, Command::Say(Line::Taken(epoch))]);
    }

    fn refreshed(&mut self, was_there: bool, now: Time) {
        let Hold::Claimed(claimed) = &mut self.hold else { return };
        claimed.address = Address::Here { since: now, refresh_at: now + claimed.lease.every };
        if !was_there {
            self.trouble(
                "the address was removed by somebody, or lived too short; it is added again".to_owned(),
            );
            self.commands.push_back(Command::Announce);
        }
    }

    fn removed(&mut self, now: Time) {
        let Hold::Removing { epoch, why, .. } = &self.hold else { return };
        self.commands.push_back(Command::Say(Line::Released(*epoch, why.clone())));
        self.unclaim(now);
    }

    fn not_removed(&mut self, why: String, now: Time) {
        self.trouble(format!("the address cannot be removed: {why}"));
        if let Hold::Removing { again, .. } = &mut self.hold {
            *again = Some(now + RETRY);
        }
    }

    fn unclaim(&mut self, idle_until: Time) {
        self.hold = Hold::Unclaiming { again: None, idle_until };
        self.commands.push_back(Command::Unclaim);
    }

    fn unclaimed(&mut self) {
        if let Hold::Unclaiming { idle_until, .. } = self.hold {
            self.hold = Hold::Idle(Some(idle_until));
        }
    }

    /// The address is gone, so whoever stops need not wait: the claim goes with the session.
    fn not_unclaimed(&mut self, why: String, now: Time) {
        self.trouble(format!("the claim could not be let go yet: {why}"));
        self.end_if_stopping();
        if let Hold::Unclaiming { again, .. } = &mut self.hold {
            *again = Some(now + RETRY);
        }
    }

    fn idle(&mut self, now: Time) {
        self.end_if_stopping();
        if let Hold::Idle(from) = &mut self.hold {
            from.take_if(|at| *at <= now);
        }
        let ready = self.hold == Hold::Idle(None) && !self.stopping;
        let Some((generation, _)) = self.session.filter(|_| ready) else { return };
        if self.seen == Seen::Orphan {
            if !std::mem::replace(&mut self.clearing, true) {
                self.commands.push_back(Command::Clear);
            }
            return;
        }
        let (Ok(epoch), false) = (self.wanted(now), self.clearing) else { return };
        match &self.seen {
            Seen::Free => {
                self.waiting_for = None;
                self.hold = Hold::Claiming;
                self.commands.push_back(Command::Claim { epoch, generation });
            }
            Seen::Other(host) => {
                let host = host.clone();
                if self.waiting_for.replace(host.clone()) != Some(host.clone()) {
                    self.commands.push_back(Command::Say(Line::Waiting(host)));
                }
            }
            // An own one that is being let go is seen as free before long.
            Seen::Unknown | Seen::Own | Seen::Orphan => {}
        }
    }

    fn claimed(&mut self, now: Time) {
        if let Some(why) = self.doubt(now) {
            return self.release(why, now);
        }
        let Hold::Claimed(claimed) = &mut self.hold else { return };
        if !claimed.renewing && now >= claimed.renew_at {
            claimed.renewing = true;
            self.commands.push_back(Command::Renew);
        }
        let (seconds, may_set) =
            (claimed.lease.seconds, claimed.lease.may_set(claimed.sent, now + KERNEL_SLACK));
        match &mut claimed.address {
            Address::Away if may_set => {
                claimed.address = Address::Asked;
                self.commands.push_back(Command::Add(seconds));
            }
            Address::Here { refresh_at, .. } if now >= *refresh_at => {
                *refresh_at = now + claimed.lease.every;
                if may_set {
                    self.commands.push_back(Command::Refresh(seconds));
                }
            }
            Address::Away | Address::Asked | Address::Here { .. } => {}
        }
    }

    fn release(&mut self, why: String, now: Time) {
        let Hold::Claimed(claimed) = &self.hold else { return };
        if claimed.address == Address::Away {
            return self.unclaim(now);
        }
        self.hold = Hold::Removing { again: None, epoch: claimed.epoch, why };
        self.commands.push_back(Command::Remove);
    }

    /// Why the address must not be held. Whatever came late, came after this process stood still, or was overtaken is
    /// judged by the present time only.
    fn doubt(&self, now: Time) -> Option<String> {
        let Hold::Claimed(claimed) = &self.hold else { return None };
        if self.stopping {
            return Some("the agent ends".to_owned());
        }
        if let Some(why) = &claimed.lost {
            return Some(why.clone());
        }
        if self.session.is_none_or(|(generation, _)| generation != claimed.generation) {
            return Some("the ZooKeeper session is over".to_owned());
        }
        if now >= claimed.lease.ends(claimed.sent) {
            let silence = (now - claimed.sent).as_secs_f64();
            return Some(format!("ZooKeeper has not answered for {silence:.1} s"));
        }
        if let Address::Here { since, .. } = claimed.address
            && !claimed.lease.may_set(claimed.sent, since)
        {
            return Some("this process stood still while it set the lifetime of the address".to_owned());
        }
        self.wanted(now).err()
    }

    /// The epoch under which this host is to hold the address, or why it is not to.
    fn wanted(&self, now: Time) -> Result<u64, String> {
        let (epoch, recorded) = match &self.record {
            Record::Here { epoch, run_id } => (*epoch, run_id),
            Record::Not(why) => return Err(why.clone()),
        };
        match &self.server {
            Server::Primary { run_id, .. } if run_id != recorded => {
                Err("the local server is another process than the recorded primary".to_owned())
            }
            Server::Primary { asked, .. } if now >= *asked + self.patience => {
                Err(format!("the local server has not answered for {} ms", (now - *asked).as_millis()))
            }
            Server::Primary { .. } => Ok(epoch),
            Server::Busy { .. } => Err("the local server is busy".to_owned()),
            Server::Not(why) => Err(format!("the local server: {why}")),
        }
    }

    fn end_if_stopping(&mut self) {
        if self.stopping {
            self.commands.push_back(Command::End);
        }
    }

    fn trouble(&mut self, what: String) {
        self.commands.push_back(Command::Say(Line::Trouble(what)));
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod two_hosts;
