//! All that one monitor knows of one group at this moment, and the questions that are asked of it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use topology::{Endpoint, InSync, Phase, State, Topology};

use crate::cold::ColdStart;
use crate::detector::{Detector, Health};
use crate::order::Deed;
use crate::request::Asked;
use crate::{Disqualified, Time};

/// How long a replica that should vouch for a lost primary is waited for, once it was asked. An answer takes 0.2 ms
/// on a local network; a replica that needs longer must not hold up the failover.
pub const CONFIRM_WAIT: Duration = Duration::from_millis(20);

/// For how long after a loss the replicas are asked again and again; later, the regular probes do.
pub const ASK_FOR: Duration = Duration::from_millis(100);

/// The bounds of one group, from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How often each server is asked.
    pub ping_interval: Duration,
    /// Silence after which a server counts as down; at least two ping intervals.
    pub down_after: Duration,
    /// How long a refused connection must last before it counts.
    pub refused_grace: Duration,
    /// How long a member of the set may take to attach to the primary.
    pub attach_timeout: Duration,
    /// At most so many bytes behind is "lag small" (R6).
    pub max_lag_bytes: u64,
    /// With fewer in sync, writes that ask for copies are refused.
    pub min_in_sync: MinInSync,
    /// Lower goes first; 0 is never promoted; 100 where nothing is said.
    pub priority: BTreeMap<Endpoint, u32>,
    /// R7 (b): a replication credential per promotion.
    pub restart_guard: bool,
    /// Between two completed failovers.
    pub min_interval: Duration,
    /// R15: for a planned switchover until it is published.
    pub switchover_budget: Duration,
    /// How long a step that failed is left alone.
    pub retry_after: Duration,
    /// R14: who decides from which server a group starts that was restarted as a whole.
    pub cold_start: ColdStart,
    /// R14: how long all members must have answered before that.
    pub cold_wait: Duration,
}

impl Limits {
    /// Silence after which this monitor tells its peer that it cannot reach a server: one ping interval earlier than it would
    /// call the server down itself, for the peer may have had its last answer up to that much before us, and our word takes a
    /// write of ZooKeeper to arrive. A fifth of `down_after` at most, so that a stall (R13) does not pass for silence.
    pub fn opinion_after(&self) -> Duration {
        self.down_after - self.ping_interval.min(self.down_after / 5)
    }
}

/// `min_in_sync` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinInSync {
    /// 1 with two or more replicas, else 0.
    Auto,
    /// This many.
    Fixed(u32),
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_millis(100),
            down_after: Duration::from_millis(500),
            refused_grace: Duration::ZERO,
            attach_timeout: Duration::from_millis(300),
            max_lag_bytes: 1 << 20,
            min_in_sync: MinInSync::Auto,
            priority: BTreeMap::new(),
            restart_guard: true,
            min_interval: Duration::from_secs(1),
            switchover_budget: Duration::from_secs(1),
            retry_after: Duration::from_millis(50),
            cold_start: ColdStart::Best,
            cold_wait: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// The resolved `min_in_sync` for a group of this many members.
    pub fn min_in_sync(&self, members: usize) -> u32 {
        match self.min_in_sync {
            MinInSync::Auto => u32::from(members > 2),
            MinInSync::Fixed(n) => n,
        }
    }

    /// The priority of a server; 0 is never.
    pub fn priority(&self, addr: &Endpoint) -> u32 {
        self.priority.get(addr).copied().unwrap_or(100)
    }
}

/// One answer of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Which process it is.
    pub run_id: String,
    /// What it does.
    pub role: Role,
    /// Its replication id.
    pub replid: String,
    /// Bytes of that history that it holds.
    pub offset: u64,
    /// The key `albireo:fence`.
    pub fence: Fence,
    /// `ip:port` under which a primary shows it.
    pub shows_as: String,
    /// The epoch in its `masteruser`, if that is one of ours.
    pub credential: Option<u64>,
    /// `replica-read-only`.
    pub read_only: bool,
    /// The key `albireo:tick`, which every batch of writes counts up, and the leader on a busy primary.
    pub tick: Option<u64>,
    /// It holds no key at all.
    pub empty: bool,
}

/// What a server does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Primary {
        /// `ip:port` and acknowledged offset of each replica whose stream runs.
        replicas: Vec<(String, u64)>,
    },
    /// It follows another server.
    Replica {
        /// Whom; nobody when it is detached.
        source: Option<Endpoint>,
        /// The link is up and the first synchronisation done.
        link_up: bool,
        /// A full synchronisation runs.
        syncing: bool,
    },
}

impl Role {
    /// One word for status and hooks.
    pub fn word(&self) -> &'static str {
        match self {
            Role::Primary { .. } => "primary",
            Role::Replica { .. } => "replica",
        }
    }
}

/// The key `albireo:fence` as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// There is none. That is not zero: R1 asks ZooKeeper before anything is done.
    Absent,
    /// The epoch last stamped.
    At(u64),
    /// It could not be read, or is no number.
    Unreadable,
}

/// One server of the group.
#[derive(Debug, Clone)]
pub struct Backend {
    /// What is known when it does not answer.
    pub detector: Detector,
    /// The process that greeted on the present connection, and when; a server says that also while it is loading.
    pub greeted: Option<(String, Time)>,
    /// Its last answer.
    pub seen: Option<Seen>,
    /// The process that answers now was first heard then.
    pub process_since: Time,
    /// It has been primary, or replica, since then.
    pub role_since: Time,
    /// Its offset was last seen to grow then.
    pub advanced_at: Option<Time>,
    /// Since when it has been seen to lack what the primary was seen to hold, without growing; none while it keeps up.
    pub behind_since: Option<Time>,
    /// It was last taken out of the set then; it rests before it enters again, so that the set does not flap.
    pub left_at: Option<Time>,
    /// Since when it has not been attached to the recorded primary; none while it is.
    pub unattached_since: Option<Time>,
    /// The offset with which its present stream from the recorded primary was first seen; none while it is not attached.
    pub attached_at: Option<u64>,
    /// It was last told whom to follow then.
    pub attach_ordered: Option<Time>,
    /// An order to it is under way.
    pub ordered: Option<Deed>,
    /// No new order before that moment: the last one failed.
    pub hold_until: Time,
    /// Only answers to questions asked from then on count: an order was carried out, or a connection opened, just before.
    pub stale_until: Time,
    /// Answers of probes that were sent before are void: an order took effect meanwhile, perhaps after them.
    pub void_until: Time,
    /// A look at it is under way since then.
    pub asked_at: Option<Time>,
    /// R15: whether its writers are held.
    pub pause: Pause,
    /// When its tick was last counted up by this monitor, and its offset afterwards.
    pub ticked: Option<(Time, u64)>,
    /// Why the last order was not carried out; for status.
    pub refused: Option<String>,
}

/// Whether the writers of a server are held by this monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// No.
    No,
    /// It was told to, and has not answered.
    Perhaps,
    /// Since then.
    Since(Time),
}

/// An answer, and when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What it said.
    pub observation: Arc<Observation>,
    /// When the question was sent.
    pub asked: Time,
    /// When the answer came.
    pub at: Time,
}

impl Backend {
    /// A server that is looked at from now on.
    pub fn new(now: Time) -> Self {
        Self {
            detector: Detector::new(now),
            greeted: None,
            seen: None,
            process_since: now,
            role_since: now,
            advanced_at: None,
            behind_since: None,
            left_at: None,
            unattached_since: Some(now),
            attached_at: None,
            attach_ordered: None,
            ordered: None,
            hold_until: Time::ZERO,
            stale_until: Time::ZERO,
            void_until: Time::ZERO,
            asked_at: None,
            pause: Pause::No,
            ticked: None,
            refused: None,
        }
    }

    /// Whether another process than this one greeted on the present connection.
    pub fn is_another_than(&self, run_id: &str) -> bool {
        self.greeted.as_ref().is_some_and(|(greeted, _)| greeted != run_id)
    }

    /// Whether it answered a question asked since then.
    pub fn answered_since(&self, moment: Time) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.asked >= moment)
    }

    /// The last answer, if nothing of ours happened to the server since it was asked for.
    pub fn current(&self) -> Option<&Observation> {
        self.seen.as_ref().filter(|seen| seen.asked >= self.stale_until).map(|seen| &*seen.observation)
    }
}

/// What `<path>` holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    /// Not read yet.
    Unread,
    /// The znode is not there.
    Missing,
    /// Something else than a topology; the text says what is wrong.
    Broken(String),
    /// A topology.
    Is(Topology),
}

/// The second opinion on servers that are silent (R10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerOpinion {
    /// There is no live peer.
    Gone,
    /// It lives and has not said anything: it has just begun, or its ZooKeeper session is over.
    Mute,
    /// It cannot reach these.
    CannotReach(BTreeSet<Endpoint>),
}

/// Whether an operator has paused the group: nothing new begins then, and what is published is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paused {
    /// Not read yet under this reign; nothing begins before it is.
    Unread,
    /// No.
    No,
    /// Yes.
    Yes,
}

/// What is wrong with the recorded primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its connection is closed, a new one refused, and its replicas have lost it too.
    Gone,
    /// Nobody heard of it for `down_after`.
    Silent,
    /// Another process answers at its address (R7).
    Restarted,
    /// It follows another server.
    Demoted,
    /// The promotion was refused by R4, looked at again.
    Refused,
    /// Nothing: an operator asks for a failover.
    Asked,
}

/// Everything one monitor knows of one group.
#[derive(Debug, Clone)]
pub struct View {
    /// The name of this monitor, written into what it publishes.
    pub me: String,
    /// The bounds.
    pub limits: Limits,
    /// The version at which this monitor took the lead, while it leads.
    pub reign: Option<i32>,
    /// ZooKeeper does not answer: nothing can be published (R11).
    pub store_away: bool,
    /// The record and its version, as last read or published.
    pub record: Option<(State, i32)>,
    /// Whether `state` has been read at all.
    pub record_read: bool,
    /// The record was read or published under this reign: nobody else has published since.
    pub record_confirmed: bool,
    /// Something that is no record stands at that version of `state` (-1: it was deleted); the last good one is kept.
    pub record_damaged: Option<i32>,
    /// The announcement and its version.
    pub announced: (Announced, i32),
    /// Every member.
    pub backends: BTreeMap<Endpoint, Backend>,
    /// What the peer monitor thinks of the servers.
    pub peer: PeerOpinion,
    /// Many primaries are lost at once, of this and other groups ([`crate::mass`]).
    pub braked: bool,
    /// The record before the promotion that this reign carries out: R4 is looked at again under it.
    pub basis: Option<State>,
    /// R4 refused the recorded primary when it was looked at again, first at that moment.
    pub promotion_refused: Option<Time>,
    /// When the last failover was completed.
    pub last_failover: Option<Time>,
    /// When the recorded primary was last stamped under this reign.
    pub stamped: Option<Time>,
    /// Whether an operator has paused the group.
    pub paused: Paused,
    /// What an operator asked for.
    pub asked: Option<Asked>,
    /// A server that was taken out of the group and is being told so, and since when.
    pub releasing: Option<(Endpoint, Time)>,
    /// A publication is under way.
    pub publishing: bool,
    /// No new publication before that moment: the last one failed.
    pub publish_hold: Time,
}

impl View {
    /// The primary that somebody wrote into `<path>` by hand: another one than is recorded, in a version after our last write.
    /// Certain only while this monitor leads, for then nobody else writes there.
    pub fn edited(&self) -> Option<&Endpoint> {
        let (state, (announced, version)) = (self.state()?, &self.announced);
        match announced {
            Announced::Is(topology) if *version > state.path_version => {
                Some(&topology.primary).filter(|primary| **primary != state.primary.addr)
            }
            Announced::Is(_) | Announced::Unread | Announced::Missing | Announced::Broken(_) => None,
        }
    }

    /// Whether something of ours may stand in ZooKeeper that is not known here yet. Nobody is told before that it is not done.
    pub fn is_in_doubt(&self) -> bool {
        self.publishing || !self.record_confirmed
    }

    /// The record, if there is one.
    pub fn state(&self) -> Option<&State> {
        self.record.as_ref().map(|(state, _)| state)
    }

    /// Whether the record that is kept is certainly the last one that was published, although something else stands in
    /// its znode now. Where exactly one write lies between, that one was it.
    pub fn record_is_the_last(&self) -> bool {
        let follows = |version: i32| self.record.as_ref().is_some_and(|(_, at)| version == at + 1);
        self.record_confirmed || self.record_damaged.is_some_and(follows)
    }

    /// How a server does.
    pub fn health(&self, addr: &Endpoint, now: Time) -> Health {
        self.health_by(addr, now, self.limits.down_after)
    }

    /// The same with another limit of silence.
    fn health_by(&self, addr: &Endpoint, now: Time, down_after: Duration) -> Health {
        let l = &self.limits;
        match self.backends.get(addr) {
            Some(b) => b.detector.health(now, 2 * l.ping_interval, down_after, l.refused_grace),
            None => Health::Unknown,
        }
    }

    /// What a server said, if it answers and nothing of ours happened to it since.
    pub fn current(&self, addr: &Endpoint, now: Time) -> Option<&Observation> {
        let lives = matches!(self.health(addr, now), Health::Up | Health::Suspect);
        self.backends.get(addr).filter(|_| lives).and_then(Backend::current)
    }

    /// The servers of which this monitor hears nothing: its opinion for the peer (R10), told a little early
    /// ([`Limits::opinion_after`]). A refused connection is told a little later: whoever leads sees it himself, and his
    /// publication is on its way at that very moment.
    pub fn unreachable(&self, now: Time) -> BTreeSet<Endpoint> {
        let gone = |addr: &&Endpoint| match self.health_by(addr, now, self.limits.opinion_after()) {
            Health::Refused(since) => now >= since + ASK_FOR,
            Health::Silent(_) => true,
            Health::Unknown | Health::Up | Health::Suspect | Health::Troubled(_) => false,
        };
        self.backends.keys().filter(gone).cloned().collect()
    }

    /// Whether the members are known, and of each whether it can be reached. Before that [`Self::unreachable`] is no opinion:
    /// whoever is not named there passes for one that was reached.
    pub fn knows_all(&self, now: Time) -> bool {
        let known = |addr| self.health_by(addr, now, self.limits.opinion_after()) != Health::Unknown;
        !self.backends.is_empty() && self.backends.keys().all(known)
    }

    /// What is wrong with the recorded primary, and since when; nothing while anybody may still reach it (R10). The
    /// moment does not move while the fault lasts: on a slow link no answer would ever be younger than it.
    pub fn primary_fault(&self, now: Time) -> Option<(Fault, Time)> {
        let state = self.state()?;
        let addr = &state.primary.addr;
        let backend = self.backends.get(addr)?;
        match self.health(addr, now) {
            Health::Refused(since) => self.lost_by_all(state, since, now).then_some((Fault::Gone, since)),
            Health::Silent(since) => {
                let since = since.max(self.stream_silent_since(state, backend)?);
                let since = self.peer_agrees_from(addr, since)?;
                (now >= since).then_some((Fault::Silent, since))
            }
            Health::Unknown | Health::Up | Health::Suspect | Health::Troubled(_) => {
                // R7: a restarted server that is still loading answers nothing else, but says who it is.
                let greeted = backend.greeted.as_ref().filter(|(run_id, _)| *run_id != state.primary.run_id);
                if let Some((_, at)) = greeted {
                    return Some((Fault::Restarted, *at));
                }
                let seen = backend.seen.as_ref().filter(|seen| seen.asked >= backend.stale_until)?;
                if seen.observation.run_id != state.primary.run_id {
                    return Some((Fault::Restarted, backend.process_since));
                }
                let replica = matches!(seen.observation.role, Role::Replica { .. });
                match (state.phase, replica) {
                    (Phase::Serving, true) => Some((Fault::Demoted, backend.role_since)),
                    (Phase::Promoting, true) => self.promotion_refused.map(|at| (Fault::Refused, at)),
                    (Phase::Serving | Phase::Promoting, false) => None,
                }
            }
        }
    }

    /// Whether every replica that follows the primary and answers has lost it too. One that was asked and does
    /// not answer is waited for briefly.
    fn lost_by_all(&self, state: &State, since: Time, now: Time) -> bool {
        self.backends.iter().filter(|(addr, _)| **addr != state.primary.addr).all(|(addr, backend)| {
            if self.health(addr, now) != Health::Up {
                return true;
            }
            match &backend.seen {
                Some(seen) if seen.asked >= since => !follows(&seen.observation, &state.primary.addr),
                Some(_) | None => now >= since + CONFIRM_WAIT,
            }
        })
    }

    /// The moment from which the replicas' streams were silent long enough, given that a stream that moved after
    /// the primary's last byte to us shows that the primary lives. An answer of a replica is up to two intervals
    /// behind the stream that it tells of.
    fn stream_silent_since(&self, state: &State, primary: &Backend) -> Option<Time> {
        let last = primary.detector.last_byte();
        let moved = self.backends.iter().filter(|(addr, b)| {
            **addr != state.primary.addr
                && b.seen.as_ref().is_some_and(|s| follows(&s.observation, &state.primary.addr))
        });
        let moved =
            moved.filter_map(|(_, b)| b.advanced_at).filter(|at| *at > last + 2 * self.limits.ping_interval);
        Some(moved.max().unwrap_or(last) + self.limits.down_after)
    }

    /// From when on the peer does not hold it back to call that server down. One that lives and says nothing is waited
    /// for once more as long: it may be about to say something, and it may be cut off from ZooKeeper for long.
    fn peer_agrees_from(&self, addr: &Endpoint, since: Time) -> Option<Time> {
        match &self.peer {
            PeerOpinion::Gone => Some(since),
            PeerOpinion::Mute => Some(since + self.limits.down_after),
            PeerOpinion::CannotReach(servers) => servers.contains(addr).then_some(since),
        }
    }

    /// A member of the set that is proven: this very process, attached, and the stamp of its entry reached it (R6).
    pub fn proven(&self, state: &State, entry: &InSync, now: Time) -> bool {
        self.current(&entry.addr, now).is_some_and(|seen| {
            seen.run_id == entry.run_id
                && follows(seen, &state.primary.addr)
                && matches!(seen.fence, Fence::At(fence) if fence >= entry.since)
        })
    }

    /// Every member but the primary with the reason why it may not be promoted, if there is one.
    pub fn candidates(&self, now: Time) -> Vec<(Endpoint, Option<Disqualified>)> {
        let Some(state) = self.state() else { return Vec::new() };
        let others = state.members.iter().filter(|addr| **addr != state.primary.addr);
        // What was said before the loss does not count.
        let lost = self.primary_fault(now).map(|(_, since)| since);
        let late = |addr: &Endpoint| {
            let answered = |since| self.backends.get(addr).is_some_and(|b| b.answered_since(since));
            lost.is_some_and(|since| !answered(since)).then_some(Disqualified::Unheard)
        };
        let verdict = |addr| crate::candidate::disqualified(self, state, addr, now).or_else(|| late(addr));
        others.map(|addr| (addr.clone(), verdict(addr))).collect()
    }
}

/// Whether a server says that it follows this one and that the link is up.
pub fn follows(seen: &Observation, primary: &Endpoint) -> bool {
    match &seen.role {
        Role::Replica { source, link_up, syncing } => {
            *link_up && !*syncing && source.as_ref() == Some(primary)
        }
        Role::Primary { .. } => false,
    }
}
