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
    /// The API is content with one copy.
    OneCopyIsEnough,
    /// It counts copies, as WAIT does, and does not ask whose they are.
    WaitIsBelieved,
    /// It compares configured addresses with those that ROLE shows.
    AddressesAreCompared,
    /// It asks how far the stream is before it writes.
    MeasuredBeforeTheWrite,
    /// Its script does not look at the fence.
    NoFenceInTheScript,
    /// Nor does it look at it in the end.
    NoFenceAtTheEnd,
    /// It does not ask whether the server is still a primary.
    RoleIsNotRead,
    /// It takes whoever answers at the address for the recorded process.
    AnyProcessServes,
    /// It writes although the set is smaller than `min_in_sync`.
    FewAreEnough,
    /// A strong read sends its barrier first.
    BarrierBeforeGet,
    /// A strong read does not wait for anybody.
    NoBarrier,
    /// A write of unknown outcome is sent again.
    ResendsUnknown,
    /// A write of unknown outcome is told to have failed.
    UnknownIsFailed,
    /// R17: the lost connection is not cut.
    NoKill,
    /// R17: the marker is read before the barrier.
    GetBeforeBarrier,
    /// R17: "not reached" is not confirmed.
    NoIsBelieved,
    /// R17: "reached" is not confirmed.
    YesIsBelieved,
    /// R17: a missing marker is a no.
    MissingIsNo,
    /// R17: a batch does not name the unanswered one before it.
    NoChain,
    /// R17: a process's view may go back.
    ViewsGoBack,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Self; 29] = [
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
        Self::WaitIsBelieved,
        Self::AddressesAreCompared,
        Self::MeasuredBeforeTheWrite,
        Self::NoFenceInTheScript,
        Self::NoFenceAtTheEnd,
        Self::RoleIsNotRead,
        Self::AnyProcessServes,
        Self::FewAreEnough,
        Self::BarrierBeforeGet,
        Self::NoBarrier,
        Self::ResendsUnknown,
        Self::UnknownIsFailed,
        Self::NoKill,
        Self::GetBeforeBarrier,
        Self::NoIsBelieved,
        Self::YesIsBelieved,
        Self::MissingIsNo,
        Self::NoChain,
        Self::ViewsGoBack,
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
    /// The primary and one API process are cut from everybody else.
    CutOff,
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
    /// API processes, connections of each, and clients of each.
    pub(super) apis: usize,
    pub(super) lanes: usize,
    pub(super) clients: usize,
    /// Keys that the clients share; four at most.
    pub(super) keys: u8,
    /// Between two requests of a client.
    pub(super) write_every: Us,
    /// How long a client waits.
    pub(super) deadline: Us,
    /// Batches on one connection at once.
    pub(super) overlap: usize,
    /// Sync durability (R3), else async.
    pub(super) sync: bool,
    /// One reading of the record in so many reaches an API process late.
    pub(super) late_views: u32,
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
            (2, _) | (_, Some(Flaw::BarrierBeforeGet | Flaw::NoBarrier)) => Some(Ambush::CutOff),
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
            apis: rng.usize(2..4),
            lanes: rng.usize(1..3),
            clients: rng.usize(1..4),
            keys: rng.u8(1..4),
            write_every: [25, 70, 150][rng.usize(0..3)] * MS,
            deadline: [300, 1200, 3000][rng.usize(0..3)] * MS,
            overlap: rng.usize(1..4),
            sync: rng.u8(0..12) > 0,
            late_views: [2, 10, 100][rng.usize(0..3)],
            step_fault: often([0, 0, 40, 12][rng.usize(0..4)]),
            strike: often([0, 12, 3][rng.usize(0..3)]),
            ambush: ambush.filter(|_| storm),
            weights,
        }
    }
}
