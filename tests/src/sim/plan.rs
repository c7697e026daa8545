//! What is drawn once per seed: how many servers, how fast things happen, and which faults come how often.

use std::time::Duration;

use failover::{ColdStart, Limits};

use super::flaw::Flaw;
use super::kernel::{MS, Us};

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
    /// The leading monitor is alone, and stands still for a while.
    LeaderStalls,
}

impl Weather {
    /// All but the storm: at most one fault, and none that calls for a failover.
    pub const MILD: [Self; 5] =
        [Self::Calm, Self::MonitorsApart, Self::PrimaryHidden, Self::ReplicaDies, Self::LeaderStalls];
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
    /// Strangers replicate from the primary, its replicas are cut off, and it dies.
    Strangers,
    /// The primary is cut from all servers and monitors; while a promotion waits, its stream arrives after all.
    LateStream,
    /// One replica lacks the last writes and is promoted, the others stop for a while; then it dies.
    TwoFailovers,
    /// Replicas leave and enter; the primary's answers to one API process are held back at that moment, and the stamp
    /// comes late.
    DeafClient,
    /// Right after the barrier of a strong read the primary loses its replicas, over half-open links, and some time later
    /// it dies.
    LateGet,
    /// The primary does not reach its replicas, loses its clients, and dies.
    LonelyDeath,
    /// What one API process sends to the primary is held back, for longer than that waits for an answer.
    MuteClient,
}

/// All servers die at about the same time, and come back (R14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dark {
    /// The servers' files make all but the first follow the first when they start; else everybody starts as a primary.
    pub(super) files: bool,
    /// The mean time between two blackouts.
    pub(super) every: Us,
}

impl Dark {
    /// In one run in six.
    fn draw(rng: &mut fastrand::Rng) -> Option<Self> {
        (rng.u8(0..6) == 0).then(|| Self::some(rng))
    }

    fn some(rng: &mut fastrand::Rng) -> Self {
        Self { files: rng.u8(0..3) == 0, every: [800, 2000][rng.usize(0..2)] * MS }
    }
}

/// An operator who asks for this and that while all else goes wrong (R16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operator {
    /// There is a server more, which is no member in the beginning.
    pub(super) spare: bool,
    /// The mean time between two requests.
    pub(super) every: Us,
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
    /// Of four requests so many are writes.
    pub(super) writes: u8,
    /// Between two requests of a client.
    pub(super) write_every: Us,
    /// Clients ask for nothing until the faults have ended.
    pub(super) idle: bool,
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
    /// Everything dies, again and again, and the best one is to take over.
    pub(super) dark: Option<Dark>,
    /// Somebody asks for something.
    pub(super) operator: Option<Operator>,
    /// How often each fault comes, relative to the others ([`super::faults::FAULTS`]).
    pub(super) weights: [u32; super::faults::FAULTS],
}

impl Plan {
    pub(super) fn draw(rng: &mut fastrand::Rng, flaw: Option<Flaw>, weather: Weather) -> Self {
        // Apart, so that the other runs are what they are without it.
        let mut apart = fastrand::Rng::with_seed(rng.clone().u64(..));
        let mut desk = fastrand::Rng::with_seed(!rng.clone().u64(..));
        let servers = [2, 3, 3, 3, 3, 4, 4][rng.usize(0..7)];
        let limits = Limits {
            max_lag_bytes: [3, 1000][rng.usize(0..2)],
            restart_guard: flaw != Some(Flaw::NoRestartGuard),
            min_interval: Duration::from_millis([200, 1000][rng.usize(0..2)]),
            // Unless everything is to die again and again.
            cold_start: ColdStart::Operator,
            ..Limits::default()
        };
        // Every run has its own mixture: few kinds of faults at a time find more than all at once.
        let mut weights = super::faults::WEIGHTS;
        for weight in &mut weights {
            *weight *= [0, 0, 1, 1, 4][rng.usize(0..5)];
        }
        let ambushes = [
            Ambush::LateStamp,
            Ambush::QuickRestart,
            Ambush::CutOff,
            Ambush::Strangers,
            Ambush::LateStream,
            Ambush::TwoFailovers,
            Ambush::DeafClient,
            Ambush::LateGet,
            Ambush::LonelyDeath,
            Ambush::MuteClient,
        ];
        let ambush = ambushes.get(rng.usize(0..50)).copied();
        let storm = weather == Weather::Storm;
        if !storm {
            weights = [0; super::faults::FAULTS];
        }
        let often = |rare: u32| if storm { rare } else { 0 };
        let mut plan = Self {
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
            storm: if weather == Weather::LeaderStalls { 4000 } else { rng.u64(500..3500) } * MS,
            fault_every: [40, 100, 250, 600][rng.usize(0..4)] * MS,
            apis: rng.usize(2..4),
            lanes: rng.usize(1..3),
            clients: rng.usize(1..4),
            keys: rng.u8(1..4),
            writes: [3, 3, 1][rng.usize(0..3)],
            write_every: [25, 70, 150][rng.usize(0..3)] * MS,
            deadline: [300, 1200, 3000][rng.usize(0..3)] * MS,
            overlap: rng.usize(1..4),
            sync: rng.u8(0..12) > 0,
            late_views: [2, 10, 100][rng.usize(0..3)],
            step_fault: often([0, 0, 40, 12][rng.usize(0..4)]),
            strike: often([0, 12, 3][rng.usize(0..3)]),
            ambush: ambush.filter(|_| storm),
            weights,
            idle: weather == Weather::PrimaryHidden && rng.bool(),
            dark: None,
            operator: None,
        };
        if let Some(dark) = Dark::draw(&mut apart).or_else(|| flaw?.is_cold().then(|| Dark::some(&mut apart)))
            && storm
        {
            plan.darken(dark, &mut apart);
        }
        if let Some(flaw) = flaw.filter(|_| storm) {
            flaw.suits(&mut plan);
        }
        // In one run in four.
        if storm && (desk.u8(0..4) == 0 || flaw.is_some_and(Flaw::is_of_members)) {
            let spare = plan.servers < 4 && desk.bool();
            plan.operator = Some(Operator { spare, every: [100, 300, 800][desk.usize(0..3)] * MS });
        }
        plan
    }

    fn darken(&mut self, dark: Dark, rng: &mut fastrand::Rng) {
        self.dark = Some(dark);
        self.limits.cold_start = ColdStart::Best;
        self.limits.cold_wait = Duration::from_millis([100, 300, 1000][rng.usize(0..3)]);
        self.storm = rng.u64(1500..4500) * MS;
        self.fault_every = [100, 250, 600, 1500][rng.usize(0..4)] * MS;
        self.ambush = None;
        // Snapshots of any age.
        self.weights[super::faults::SAVES] = self.weights[super::faults::SAVES].max(8);
    }
}
