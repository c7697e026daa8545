//! What is drawn once per seed: how many servers, how fast things happen, and which faults come how often.

use std::time::Duration;

use failover::Limits;

use super::kernel::{MS, Us};

/// A rule that the simulated driver breaks on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// A fence that is newer than the record stops nothing, and EXEC comes without WATCH.
    IgnoreFence,
    /// EXEC comes without WATCH.
    NoWatch,
    /// A missing fence is taken for an old one: the store is not asked.
    NilFenceIsZero,
    /// Publications do not check the lead.
    NoLeadCheck,
    /// Publications do not check the version of the record.
    NoVersionCheck,
    /// Whoever answers at an address is taken for the recorded process.
    AnyRunId,
    /// Every replica in the set is said to carry the stamp with which it entered.
    EveryFenceIsNew,
    /// No replication credential (R7 b).
    NoRestartGuard,
    /// A passive monitor is told that it leads.
    AlwaysLeads,
    /// Writers are content with one copy.
    OneCopyIsEnough,
    /// Writers count copies, as WAIT does, and do not ask whose they are.
    AnybodyCounts,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::IgnoreFence,
        Self::NoWatch,
        Self::NilFenceIsZero,
        Self::NoLeadCheck,
        Self::NoVersionCheck,
        Self::AnyRunId,
        Self::EveryFenceIsNew,
        Self::NoRestartGuard,
        Self::AlwaysLeads,
        Self::OneCopyIsEnough,
        Self::AnybodyCounts,
    ];
}

/// What goes wrong in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Everything, at random.
    Storm,
    /// Nothing.
    Calm,
    /// The monitors are cut from each other, and only that.
    MonitorsApart,
    /// The leading monitor is cut from the primary, and only that.
    PrimaryHidden,
    /// One replica is killed, and comes back.
    ReplicaDies,
}

/// Faults that belong together and hardly ever come together by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ambush {
    /// One replica is slow and leaves the set; the moment it enters again, its primary is gone and the others stop.
    LateStamp,
    /// The primary restarts empty within milliseconds, while no monitor looks.
    QuickRestart,
}

/// The parameters of one run.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) weather: Weather,
    pub(super) servers: usize,
    pub(super) limits: Limits,
    pub(super) heartbeat: Duration,
    pub(super) session: Us,
    pub(super) connect_timeout: Us,
    /// The period of a server's replication cron: acknowledgements, reconnections.
    pub(super) cron: Us,
    /// A replication link that was silent for so long is dropped.
    pub(super) repl_timeout: Us,
    /// Until the first fault.
    pub(super) calm: Us,
    /// From the first fault until all faults end.
    pub(super) storm: Us,
    /// The mean time between two faults.
    pub(super) fault_every: Us,
    pub(super) write_every: Us,
    /// One step of a driver in so many is followed by a stall or a crash of the monitor; 0: none.
    pub(super) step_fault: u32,
    /// One publication in so many brings some faults at once; 0: none.
    pub(super) strike: u32,
    /// What is laid in wait beside the random faults.
    pub(super) ambush: Option<Ambush>,
    /// How often each fault comes, relative to the others ([`super::faults::FAULTS`]).
    pub(super) weights: [u32; super::faults::FAULTS],
}

impl Plan {
    pub(super) fn draw(rng: &mut fastrand::Rng, flaw: Option<Flaw>, weather: Weather) -> Self {
        let servers = [2, 3, 3, 3, 3, 4, 4][rng.usize(0..7)];
        let limits = Limits {
            max_lag_bytes: [3, 1000][rng.usize(0..2)],
            restart_guard: flaw != Some(Flaw::NoRestartGuard),
            min_interval: Duration::from_millis([200, 1000][rng.usize(0..2)]),
            ..Limits::default()
        };
        // Every run has its own mixture: few kinds of faults at a time find more than all at once.
        let mut weights = super::faults::WEIGHTS;
        for weight in &mut weights {
            *weight *= [0, 0, 1, 1, 4][rng.usize(0..5)];
        }
        let ambush = match (rng.u8(0..30), flaw) {
            (0, _) | (_, Some(Flaw::EveryFenceIsNew)) => Some(Ambush::LateStamp),
            (1, _) | (_, Some(Flaw::NoRestartGuard)) => Some(Ambush::QuickRestart),
            (_, _) => None,
        };
        let storm = weather == Weather::Storm;
        if !storm {
            weights = [0; super::faults::FAULTS];
        }
        let often = |rare: u32| if storm { rare } else { 0 };
        Self {
            weather,
            servers: if weather == Weather::ReplicaDies { servers.max(3) } else { servers },
            limits,
            heartbeat: Duration::from_millis(250),
            session: 2000 * MS,
            connect_timeout: 200 * MS,
            cron: [100, 300, 1000][rng.usize(0..3)] * MS,
            repl_timeout: 3000 * MS,
            // Most runs begin with a complete set; some with a birth under fire.
            calm: if rng.u8(0..5) == 0 { rng.u64(100..700) } else { rng.u64(900..1500) } * MS,
            storm: rng.u64(500..3500) * MS,
            fault_every: [40, 100, 250, 600][rng.usize(0..4)] * MS,
            write_every: [8, 20, 50][rng.usize(0..3)] * MS,
            step_fault: often([0, 0, 40, 12][rng.usize(0..4)]),
            strike: often([0, 12, 3][rng.usize(0..3)]),
            ambush: ambush.filter(|_| storm),
            weights,
        }
    }
}
