//! The faults of the protocol's list, one by one. Each hurts the group, waits until the hurt shows, and undoes it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use topology::State;

use super::random::{Target, random};
use super::stage::{APIS, MONITORS, REDIS};
use super::verdict::Excuse;
use super::{LIMIT, Round};
use crate::netns::Cut;
use crate::wait;

/// One fault.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name, in the table and for `ONLY=`.
    pub name: &'static str,
    /// The figure to reach.
    pub expected: &'static str,
    /// How many failovers a round may see; more are too many.
    pub failovers: usize,
    /// Whether a request may fail or stay unanswered.
    pub may_fail: bool,
    /// The host whose link it slows down.
    pub slow: Option<&'static str>,
    /// Further lines of the servers' files.
    pub redis: &'static [&'static str],
    /// Without confirmation by the replicas. Then writes are lost; that they are shows that the faults are real, and
    /// what confirmation is worth.
    pub unconfirmed: bool,
    /// What happens.
    pub act: fn(&mut Round<'_>),
}

/// Anything may fail, and be failed over, but nothing lost.
const fn scenario(name: &'static str, expected: &'static str, act: fn(&mut Round<'_>)) -> Scenario {
    let (failovers, may_fail, unconfirmed) = (usize::MAX, true, false);
    Scenario { name, expected, failovers, may_fail, slow: None, redis: &[], unconfirmed, act }
}

/// So many failovers at most.
const fn at_most(failovers: usize, scenario: Scenario) -> Scenario {
    Scenario { failovers, ..scenario }
}

/// So many failovers at most, and no client notices anything but a pause.
const fn unnoticed(failovers: usize, scenario: Scenario) -> Scenario {
    Scenario { failovers, may_fail: false, ..scenario }
}

/// All of them.
pub const ALL: &[Scenario] = &[
    unnoticed(1, scenario("primary-killed", "0 failed, gap p50 <= 15 ms, p99 <= 50 ms", primary_killed)),
    unnoticed(0, scenario("monitor-killed", "0 failed, 0 failovers", monitor_killed)),
    unnoticed(1, scenario("monitor-and-primary-killed", "0 failed, gap <= 1 s", monitor_and_primary_killed)),
    at_most(0, scenario("apis-killed", "all but one; fails what was on their connections", apis_killed)),
    at_most(1, scenario("primary-monitor-and-apis-killed", "gap <= 1 s", primary_monitor_and_apis_killed)),
    unnoticed(1, scenario("monitor-paused-in-failover", "0 failed, the peer finishes", monitor_paused)),
    unnoticed(0, scenario("replica-killed", "0 failed, 0 failovers, gap <= 50 ms", replica_killed)),
    unnoticed(
        0,
        scenario("replica-paused", "0 failed, 0 failovers, gap <= down_after_ms + 50 ms", replica_paused),
    ),
    at_most(1, scenario("primary-paused", "0.1-5 s: 0 stale strong reads", primary_paused)),
    at_most(1, scenario("primary-paused-long", "10-30 s: 0 stale strong reads", primary_paused_long)),
    at_most(1, scenario("both-monitors-paused", "one publisher", both_monitors_paused)),
    unnoticed(
        0,
        scenario("monitors-cut-from-each-other", "0 failed, 0 failovers, no takeover", monitors_cut),
    ),
    at_most(
        1,
        scenario(
            "primary-and-client-cut-off",
            "demoted <= 100 ms after the heal",
            primary_and_client_cut_off,
        ),
    ),
    Scenario {
        unconfirmed: true,
        ..scenario(
            "primary-and-client-cut-off-async",
            "loses writes: durability async",
            primary_and_client_cut_off,
        )
    },
    at_most(1, scenario("one-way-cut", "at most 1 failover per cut", one_way_cut)),
    at_most(1, scenario("30-percent-loss", "at most 1 failover", loss)),
    Scenario {
        slow: Some("r0"),
        ..at_most(0, scenario("slow-primary", "50-200 ms: no failover", slow_primary))
    },
    at_most(1, scenario("primary-restarts-empty", "all kept, a replica is promoted", primary_restarts_empty)),
    at_most(
        1,
        scenario(
            "replica-restarts-empty-then-primary-dies",
            "not promoted unless eligible",
            replica_restarts_empty,
        ),
    ),
    at_most(
        1,
        scenario(
            "replica-restarts-old-then-primary-dies",
            "not promoted unless eligible",
            replica_restarts_old,
        ),
    ),
    at_most(1, scenario("primary-dies-in-full-sync", "that replica is not promoted", dies_in_full_sync)),
    at_most(0, scenario("fence-erased", "writes wait, stamped within a probe", fence_erased)),
    at_most(0, scenario("flushall", "writes wait, stamped within a probe", flushall)),
    unnoticed(0, scenario("zookeeper-away", "0 failed, 0 failovers, readyz says so", zookeeper_away)),
    Scenario {
        redis: &["appendonly yes", "appendfsync always"],
        ..scenario("everything-restarted-aof", "the best holder serves; all was on disk", restarted_aof)
    },
    Scenario {
        // A file with another line than the usual ones: the snapshots are made by hand.
        redis: &["appendonly no"],
        ..scenario(
            "everything-restarted-rdb",
            "the best holder serves; all up to its snapshot",
            restarted_rdb,
        )
    },
    scenario("random", "in order <= 5 s after the heal", random),
];

/// The one of this name.
#[track_caller]
pub fn named(name: &str) -> &'static Scenario {
    let found = ALL.iter().find(|scenario| scenario.name == name);
    found.unwrap_or_else(|| panic!("there is no scenario {name}; there are {:?}", ALL.iter().map(|s| s.name)))
}

impl Round<'_> {
    fn kill_primary(&mut self) -> (State, usize) {
        let before = self.stage.group.state();
        let old = self.stage.group.number_of(&before.primary.addr);
        self.note(format!("kill {}, the primary", REDIS[old]));
        self.stage.group.redis[old].kill();
        (before, old)
    }

    /// Waits for a write under another primary than the one of `before`.
    fn wait_for_failover(&mut self, before: &State) {
        self.traffic.wait_for_epoch_above(before.epoch, LIMIT);
        wait::until("another primary", LIMIT, || {
            let now = self.stage.group.try_state()?;
            wait::holds(now.promoted > before.promoted, || format!("{now:?}"))
        });
        self.note("another primary serves");
    }

    fn wait_until_evicted(&mut self, replica: usize) {
        let addr = self.stage.group.redis[replica].endpoint();
        wait::until("the replica has left the set", LIMIT, || {
            let state = self.stage.group.try_state()?;
            wait::holds(state.in_sync(&addr).is_none(), || format!("{state:?}"))
        });
        self.note(format!("{} has left the set", REDIS[replica]));
    }

    fn kill_monitor(&mut self) -> usize {
        let active = self.stage.group.wait_for_active();
        self.note(format!("kill {}, the active monitor", MONITORS[active]));
        self.stage.group.monitors[active].process().kill();
        active
    }

    /// All but one; which ones.
    fn kill_apis(&mut self) -> Vec<usize> {
        let alive = self.rng.usize(0..APIS.len());
        let killed: Vec<usize> = (0..APIS.len()).filter(|at| *at != alive).collect();
        self.note(format!("kill all APIs but {}", APIS[alive]));
        killed.iter().for_each(|at| self.stage.group.apis[*at].process().kill());
        killed
    }

    fn restart_apis(&mut self, killed: &[usize]) {
        killed.iter().for_each(|at| self.stage.group.apis[*at].restart());
        self.note("the APIs are back");
    }

    fn restart_empty(&mut self, redis: usize) {
        self.stage.group.redis[redis].restart_empty();
        self.note(format!("{} is back, empty", REDIS[redis]));
    }

    fn rest(&mut self, time: Duration) {
        sleep(time);
    }
}

fn primary_killed(round: &mut Round<'_>) {
    let (before, old) = round.kill_primary();
    round.wait_for_failover(&before);
    round.restart_empty(old);
}

fn monitor_killed(round: &mut Round<'_>) {
    let active = round.kill_monitor();
    round.stage.group.wait_until_leading(1 - active);
    round.note("the other one leads");
    round.stage.group.monitors[active].restart();
    round.traffic.wait_for_writes(100, LIMIT);
}

fn monitor_and_primary_killed(round: &mut Round<'_>) {
    let active = round.kill_monitor();
    let (before, old) = round.kill_primary();
    round.wait_for_failover(&before);
    round.stage.group.monitors[active].restart();
    round.restart_empty(old);
}

fn apis_killed(round: &mut Round<'_>) {
    let killed = round.kill_apis();
    round.traffic.wait_for_writes(200, LIMIT);
    round.restart_apis(&killed);
}

fn primary_monitor_and_apis_killed(round: &mut Round<'_>) {
    let active = round.kill_monitor();
    let killed = round.kill_apis();
    let (before, old) = round.kill_primary();
    round.wait_for_failover(&before);
    round.stage.group.monitors[active].restart();
    round.restart_apis(&killed);
    round.restart_empty(old);
}

/// The active monitor stops at some moment of a failover, which takes some ten milliseconds; it goes on when its peer
/// has the lead, and must change nothing any more. (`tests/monitors.rs` stops it before each step.)
fn monitor_paused(round: &mut Round<'_>) {
    let active = round.stage.group.wait_for_active();
    let (before, old) = round.kill_primary();
    let after = round.rng.u64(0..30_000);
    round.rest(Duration::from_micros(after));
    round.note(format!("pause {}, the active monitor", MONITORS[active]));
    round.stage.group.monitors[active].process().pause();
    round.wait_for_failover(&before);
    round.stage.group.wait_until_leading(1 - active);
    round.restart_empty(old);
    round.stage.group.monitors[active].process().resume();
    round.note("it goes on");
    round.stage.group.wait_until_active(1 - active);
    let led = leader(round);
    round.traffic.wait_for_writes(200, LIMIT);
    assert_eq!(leader(round), led, "the one that was paused has taken the lead back");
}

fn leader(round: &Round<'_>) -> String {
    let znode = wait::until("the leader record", LIMIT, || {
        let read = round.stage.group.zookeeper.try_get("/albireo/leader");
        read.map_err(|e| e.to_string())
    });
    znode.map_or_else(|| "nobody".to_owned(), |znode| znode.text())
}

/// Nothing passes between the two; both reach everything else.
fn monitors_cut(round: &mut Round<'_>) {
    let led = leader(round);
    let how = if round.number.is_multiple_of(2) { Cut::Drop } else { Cut::Reset };
    round.note(format!("cut m0 from m1 ({how:?})"));
    round.stage.hosts.cut("m0", "m1", how);
    wait::never("the lead was taken", Duration::from_secs(3), || {
        let now = leader(round);
        wait::holds(now == led, || format!("{now} instead of {led}"))
    });
    round.stage.hosts.heal();
    round.note("heal");
}

fn replica_killed(round: &mut Round<'_>) {
    let replica = round.stage.some_replica(&mut round.rng);
    round.note(format!("kill {}, a replica", REDIS[replica]));
    round.stage.group.redis[replica].kill();
    round.wait_until_evicted(replica);
    round.restart_empty(replica);
}

fn replica_paused(round: &mut Round<'_>) {
    let replica = round.stage.some_replica(&mut round.rng);
    round.note(format!("pause {}, a replica", REDIS[replica]));
    round.stage.group.redis[replica].pause();
    round.wait_until_evicted(replica);
    round.rest(Duration::from_secs(1));
    round.stage.group.redis[replica].resume();
    round.note("it goes on");
}

/// The clients stay connected; below `down_after_ms` there is nothing to do.
fn primary_paused(round: &mut Round<'_>) {
    const PAUSES_MS: [u64; 8] = [100, 300, 450, 550, 700, 1000, 2000, 5000];
    pause_primary(round, &PAUSES_MS);
}

fn primary_paused_long(round: &mut Round<'_>) {
    pause_primary(round, &[10_000, 30_000, 15_000, 20_000, 30_000]);
}

fn pause_primary(round: &mut Round<'_>, pauses_ms: &[u64]) {
    let pause = pauses_ms[usize::try_from(round.number).unwrap_or(0) % pauses_ms.len()];
    let primary = round.stage.group.primary();
    round.note(format!("pause {}, the primary, for {pause} ms", REDIS[primary]));
    round.stage.group.redis[primary].pause();
    round.rest(Duration::from_millis(pause));
    round.stage.group.redis[primary].resume();
    round.note("it goes on");
    round.traffic.wait_for_writes(100, LIMIT);
}

/// What loses about half of the acknowledged writes with Redis Sentinel.
fn primary_and_client_cut_off(round: &mut Round<'_>) {
    let before = round.stage.group.state();
    let old = round.stage.group.primary();
    round.note(format!("cut {} and a0 from the rest", REDIS[old]));
    round.stage.hosts.isolate(&[REDIS[old], "a0"], Cut::Drop);
    let begin = Instant::now();
    round.wait_for_failover(&before);
    round.rest(round.lasts.min(Duration::from_secs(10)).saturating_sub(begin.elapsed()));
    round.note("heal");
    for host in round.stage.hosts.names().into_iter().filter(|host| *host != REDIS[old]) {
        round.stage.hosts.heal_towards(host);
    }
    // Its own door opens last: before that no handshake with it can be completed.
    let healed = Instant::now();
    round.stage.hosts.heal_towards(REDIS[old]);
    let redis = &round.stage.group.redis[old];
    // A connection for each look, for whoever demotes it closes all that are open.
    wait::until("the old primary demoted", LIMIT, || {
        let role = redis.try_cmd(&["ROLE"]).map_err(|e| e.to_string())?;
        let is_replica = role.list().first().is_some_and(|role| role.text() == "slave");
        wait::holds(is_replica, || format!("{role:?}"))
    });
    let took = healed.elapsed().as_millis();
    round.note(format!("demoted {took} ms after the heal"));
    round.figures.push(format!("demoted after {took} ms"));
    round.healed = Some(healed);
}

/// One direction of one link after the other.
fn one_way_cut(round: &mut Round<'_>) {
    let (primary, replica) = (round.stage.primary_host(), round.stage.some_replica(&mut round.rng));
    let active = MONITORS[round.stage.group.wait_for_active()];
    let replica = REDIS[replica];
    let cuts = [
        (primary, active),
        (active, primary),
        (primary, replica),
        (replica, primary),
        (primary, "a0"),
        ("a0", primary),
        (active, "zk"),
        ("zk", active),
        ("m0", "m1"),
        ("a1", replica),
        (active, replica),
        (replica, active),
    ];
    let (from, to) = cuts[usize::try_from(round.number).unwrap_or(0) % cuts.len()];
    round.note(format!("nothing from {from} arrives at {to} (primary {primary}, active {active})"));
    round.stage.hosts.cut_one_way(from, to, Cut::Drop);
    round.rest(Duration::from_secs(3));
    round.stage.hosts.heal();
    round.note("heal");
}

fn loss(round: &mut Round<'_>) {
    round.note("30 of 100 packets are lost everywhere");
    for host in round.stage.hosts.names() {
        round.stage.hosts.lose(host, 30);
    }
    round.rest(round.lasts.min(Duration::from_secs(10)));
    round.stage.hosts.heal();
    round.note("heal");
}

/// Only while `r0` is the primary: its link is the slow one.
fn slow_primary(round: &mut Round<'_>) {
    let primary = round.stage.primary_host();
    let Some(wire) = round.stage.wire.as_ref() else { panic!("the scenario asked for a slow link") };
    wire.set_delay(Duration::from_millis(25), Duration::from_millis(100));
    round.note(format!("packets of r0 take 50 to 200 ms there and back (primary {primary})"));
    round.rest(round.lasts.min(Duration::from_secs(10)));
    if let Some(wire) = round.stage.wire.as_ref() {
        wire.set_delay(Duration::ZERO, Duration::ZERO);
    }
    round.note("they are fast again");
}

fn primary_restarts_empty(round: &mut Round<'_>) {
    let away = away(round.number);
    let (before, old) = round.kill_primary();
    round.rest(away);
    round.restart_empty(old);
    round.wait_for_failover(&before);
}

/// For how long a primary is away that restarts empty.
pub(super) fn away(round: u64) -> Duration {
    const AWAY_MS: [u64; 3] = [15, 100, 1000];
    Duration::from_millis(AWAY_MS[usize::try_from(round).unwrap_or(0) % AWAY_MS.len()])
}

/// The other replica has everything; the restarted one may be attached, in the middle of its copy, or not yet known.
fn replica_restarts_empty(round: &mut Round<'_>) {
    let replica = round.stage.some_replica(&mut round.rng);
    round.note(format!("kill {}, a replica", REDIS[replica]));
    round.stage.group.redis[replica].kill();
    round.restart_empty(replica);
    primary_dies_soon(round);
}

/// The same with data of some seconds ago, fence included.
fn replica_restarts_old(round: &mut Round<'_>) {
    let replica = round.stage.some_replica(&mut round.rng);
    round.note(format!("SAVE on {}, a replica", REDIS[replica]));
    assert_eq!(round.stage.group.redis[replica].cmd(&["SAVE"]).text(), "OK");
    round.traffic.wait_for_writes(200, LIMIT);
    round.note("kill it");
    round.stage.group.redis[replica].restart();
    round.note("it is back with its snapshot");
    primary_dies_soon(round);
}

fn primary_dies_soon(round: &mut Round<'_>) {
    let pause = round.rng.u64(0..300);
    round.rest(Duration::from_millis(pause));
    let (before, old) = round.kill_primary();
    round.wait_for_failover(&before);
    round.restart_empty(old);
}

/// The copy is made to take a second, so that the death is in the midst of it.
fn dies_in_full_sync(round: &mut Round<'_>) {
    const BALLAST: &str = "for i = 1, 2000 do redis.call('SET', 'ballast:' .. i, i) end return 'OK'";
    let replica = round.stage.some_replica(&mut round.rng);
    let primary = &round.stage.group.redis[round.stage.group.primary()];
    assert_eq!(primary.cmd(&["EVAL", BALLAST, "0"]).text(), "OK");
    assert_eq!(primary.cmd(&["CONFIG", "SET", "rdb-key-save-delay", "500"]).text(), "OK");
    round.note(format!("kill {}, a replica", REDIS[replica]));
    round.stage.group.redis[replica].kill();
    round.restart_empty(replica);
    wait::until("a full synchronisation", LIMIT, || {
        let redis = &round.stage.group.redis[replica];
        let under_way = redis.try_info("master_sync_in_progress").map_err(|e| e.to_string())?;
        wait::holds(under_way == "1", || "none under way".to_owned())
    });
    let pause = round.rng.u64(0..500);
    round.rest(Duration::from_millis(pause));
    let (before, old) = round.kill_primary();
    round.wait_for_failover(&before);
    assert_ne!(round.stage.group.primary(), replica, "it had no more than a part of the data");
    round.restart_empty(old);
}

fn fence_erased(round: &mut Round<'_>) {
    erase(round, &["DEL", "albireo:fence"]);
}

/// What was written before is gone by order; what is acknowledged after it has to stay.
fn flushall(round: &mut Round<'_>) {
    erase(round, &["FLUSHALL"]);
    round.excuse = Some(Excuse { kept: Duration::ZERO, until: round.traffic.began().elapsed() });
    round.traffic.wait_for_writes(200, LIMIT);
}

fn erase(round: &mut Round<'_>, command: &[&str]) {
    let primary = round.stage.group.primary();
    round.note(command.join(" "));
    let redis = &round.stage.group.redis[primary];
    let mut connection = redis.connect().unwrap_or_else(|e| panic!("{}: {e}", redis.addr()));
    let erased = Instant::now();
    connection.call(command).unwrap_or_else(|e| panic!("{command:?}: {e}"));
    wait::until("a new stamp", LIMIT, || {
        let fence = connection.call(&["GET", "albireo:fence"]).map_err(|e| e.to_string())?;
        wait::holds(fence != crate::resp::Reply::Nil, || "no fence".to_owned())
    });
    let took = erased.elapsed().as_millis();
    round.note(format!("stamped after {took} ms"));
    round.figures.push(format!("stamped after {took} ms"));
    round.traffic.wait_for_writes(100, LIMIT);
}

/// Long enough for every session to be lost. The only server is dead in one round and hangs in the next.
fn zookeeper_away(round: &mut Round<'_>) {
    let hangs = round.number % 2 == 1;
    round.note(if hangs { "pause ZooKeeper" } else { "kill ZooKeeper" });
    if hangs {
        round.stage.group.zookeeper.pause();
    } else {
        round.stage.group.zookeeper.kill();
    }
    round.rest(round.lasts);
    for monitor in &round.stage.group.monitors {
        assert_eq!(monitor.get("/readyz").status, 503, "{} has no session, and must say so", monitor.name());
    }
    round.traffic.wait_for_writes(100, LIMIT);
    if hangs {
        round.stage.group.zookeeper.resume();
    } else {
        round.stage.group.zookeeper.restart();
    }
    round.note("it is back");
}

/// Every write is on the disks of those that acknowledged it, so whoever is chosen by rule has them all.
fn restarted_aof(round: &mut Round<'_>) {
    restart_everything(round);
}

/// Nothing is on a disk but a snapshot of each server, all under way; the last one has all that was acknowledged
/// before it began, so whoever is chosen by rule has that.
fn restarted_rdb(round: &mut Round<'_>) {
    let mut order: Vec<usize> = (0..REDIS.len()).collect();
    round.rng.shuffle(&mut order);
    let mut kept = Duration::ZERO;
    for at in order {
        kept = round.traffic.began().elapsed();
        round.note(format!("SAVE on {}", REDIS[at]));
        assert_eq!(round.stage.group.redis[at].cmd(&["SAVE"]).text(), "OK");
        round.traffic.wait_for_writes(50, LIMIT);
    }
    let until = restart_everything(round);
    round.excuse = Some(Excuse { kept, until });
}

/// Kills every process in a random order, then starts them in another one; when all were dead.
fn restart_everything(round: &mut Round<'_>) -> Duration {
    let before = round.stage.group.state();
    let mut all: Vec<Target> = (0..REDIS.len()).map(Target::Redis).collect();
    all.extend((0..MONITORS.len()).map(Target::Monitor));
    all.extend((0..APIS.len()).map(Target::Api));
    all.push(Target::ZooKeeper);
    round.rng.shuffle(&mut all);
    for part in &all {
        round.note(format!("kill {part:?}"));
        let group = &mut round.stage.group;
        match part {
            Target::Redis(at) => group.redis[*at].kill(),
            Target::Monitor(at) => group.monitors[*at].process().kill(),
            Target::Api(at) => group.apis[*at].process().kill(),
            Target::ZooKeeper => group.zookeeper.kill(),
            Target::Network => {}
        }
    }
    let dead = round.traffic.began().elapsed();
    round.rng.shuffle(&mut all);
    for part in &all {
        let pause = round.rng.u64(0..300);
        round.rest(Duration::from_millis(pause));
        round.note(format!("start {part:?}"));
        let group = &mut round.stage.group;
        match part {
            Target::Redis(at) => group.redis[*at].restart(),
            Target::Monitor(at) => group.monitors[*at].restart(),
            Target::Api(at) => group.apis[*at].restart(),
            Target::ZooKeeper => group.zookeeper.restart(),
            Target::Network => {}
        }
    }
    round.healed = Some(Instant::now());
    let after = round.stage.in_order();
    assert!(after.promoted > before.promoted, "no cold start: {after:?}");
    round.note(format!("cold start: {}", after.reason));
    dead
}

/// In every other round the primary dies meanwhile.
fn both_monitors_paused(round: &mut Round<'_>) {
    round.note("pause both monitors");
    round.stage.group.monitors.iter_mut().for_each(|monitor| monitor.process().pause());
    round.rest(Duration::from_secs(1));
    let killed = (round.number % 2 == 1).then(|| round.kill_primary());
    round.rest(Duration::from_secs(1));
    round.stage.group.monitors.iter_mut().for_each(|monitor| monitor.process().resume());
    round.note("they go on");
    if let Some((before, old)) = killed {
        round.wait_for_failover(&before);
        round.restart_empty(old);
    }
}
