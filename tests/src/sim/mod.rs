//! The decision core under a seeded scheduler with virtual time.
//!
//! Two monitors, each with the real [`failover::Group`], [`failover::lead::Lead`] and Binary Star table, drive
//! simulated Redis servers over a simulated network, and publish to a simulated ZooKeeper; API processes acknowledge,
//! refuse and settle with the real [`failover::confirm`]. Only what surrounds the core is imitated. No clock, no
//! thread, one random generator: a seed replays exactly.
//!
//! A run has two phases. First faults come down on everything, and after every event the invariants of
//! docs/protocol.md are checked ([`oracle`]). Then all faults end, and the group must converge within a bound, unless
//! nobody is left who may be promoted. In the end the clients' history must be linearizable, key by key
//! ([`crate::linearizable`]).
//!
//! * [`kernel`]: time, the queue of events, random numbers, the trace. [`net`]: nodes, connections, cuts, delays.
//! * [`redis`], [`store`]: the servers. [`monitor`], [`pair`], [`client`], [`probe`], [`executor`]: the driver of a
//!   monitor, one message at a time, so that it may stall or die between any two.
//! * [`api`], [`lane`], [`settle`]: the API processes. [`history`]: their clients, and what they were told.
//! * [`faults`], [`ambush`], [`cold`]: what goes wrong. [`operator`]: what is asked for. [`heal`]: how it has to end.
//!
//! A [`Flaw`] breaks one rule around the core ([`flaw`]); a test shows that the invariants notice.

mod ambush;
mod api;
mod client;
mod cold;
mod executor;
mod faults;
mod flaw;
mod heal;
mod history;
mod kernel;
mod lane;
mod monitor;
mod net;
mod operator;
mod oracle;
mod pair;
mod plan;
mod probe;
mod redis;
mod settle;
mod store;
mod switchover;

pub use flaw::Flaw;
use kernel::Sim;
pub use plan::Weather;

/// What came of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// The invariant that was broken, or why the group did not converge.
    pub failure: Option<String>,
    /// How it ended.
    pub end: End,
    /// How often things happened; a run in which nothing happens proves nothing.
    pub counts: Counts,
    /// Everything that happened, where it was asked for.
    pub trace: Vec<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// An invariant was broken.
    Broken,
    /// All live members serve as recorded.
    Converged,
    /// Nobody may be promoted, and that is right (R4), or an operator decides by configuration (R14).
    NobodyLeft,
    /// Everything was restarted, and R14 waits for a server or for an operator, which is right.
    Waits,
}

/// How often things happened in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events handled.
    pub events: u64,
    /// Records published.
    pub publications: u64,
    /// Failovers decided.
    pub failovers: u64,
    /// Takeovers of the lead.
    pub reigns: u64,
    /// Commands carried out on servers.
    pub executed: u64,
    /// EXEC answered nil.
    pub raced: u64,
    /// Orders given up because the fence was newer.
    pub deposed: u64,
    /// Orders for which the store was asked, since the fence was missing.
    pub asked_store: u64,
    /// Publications that the store refused.
    pub refused: u64,
    /// Writes confirmed.
    pub acknowledged: u64,
    /// Strong reads answered.
    pub reads: u64,
    /// Writes refused at the deadline: nothing was written.
    pub failed: u64,
    /// Requests of unknown outcome.
    pub unknown: u64,
    /// Batches that a server refused.
    pub fenced: u64,
    /// Batches whose lost answer was found to be yes.
    pub settled: u64,
    /// Batches whose lost answer was found to be no, and that were sent again.
    pub resent: u64,
    /// Runs in which no copy survived and nobody took over, after which nothing is promised.
    pub void: u64,
    /// Cold starts (R14).
    pub cold: u64,
    /// Those of them whose choice could be judged: nothing had changed since the answers.
    pub chosen: u64,
    /// Those of them before which nobody had lost anything.
    pub whole: u64,
    /// Servers that were emptied because their own file made them follow an empty one, before anybody could act.
    pub emptied: u64,
    /// What an operator asked for, what of it was done, and what was declined.
    pub asked: u64,
    /// Members added.
    pub added: u64,
    /// Members removed.
    pub removed: u64,
    /// Failovers that were asked for.
    pub handed: u64,
    /// Other primaries in the path that were taken for a request, and those that became primary.
    pub edited: u64,
    /// See there.
    pub obeyed: u64,
    /// Times that writers were held for a switchover.
    pub held: u64,
    /// Promotions under a record that names a primary that is left.
    pub switched: u64,
    /// Requests declined.
    pub declined: u64,
    /// Servers attached by a monitor that had stood still, after they had been removed.
    pub strayed: u64,
    /// Milliseconds of virtual time after the end of the faults until everything was as recorded.
    pub healing_ms: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Counts) {
        self.events += other.events;
        self.publications += other.publications;
        self.failovers += other.failovers;
        self.reigns += other.reigns;
        self.executed += other.executed;
        self.raced += other.raced;
        self.deposed += other.deposed;
        self.asked_store += other.asked_store;
        self.refused += other.refused;
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.fenced += other.fenced;
        self.settled += other.settled;
        self.resent += other.resent;
        self.void += other.void;
        self.cold += other.cold;
        self.chosen += other.chosen;
        self.whole += other.whole;
        self.emptied += other.emptied;
        self.asked += other.asked;
        self.added += other.added;
        self.removed += other.removed;
        self.handed += other.handed;
        self.edited += other.edited;
        self.obeyed += other.obeyed;
        self.held += other.held;
        self.switched += other.switched;
        self.declined += other.declined;
        self.strayed += other.strayed;
        self.healing_ms = self.healing_ms.max(other.healing_ms);
    }
}

/// Runs one seed, with one rule broken in the driver if so wanted.
pub fn run(seed: u64, flaw: Option<Flaw>, tracing: bool) -> Run {
    Sim::new(seed, flaw, Weather::Storm, tracing).run()
}

/// Runs one seed in other weather than a storm, with one rule broken if so wanted.
pub fn run_in(weather: Weather, seed: u64, flaw: Option<Flaw>, tracing: bool) -> Run {
    Sim::new(seed, flaw, weather, tracing).run()
}
