//! The faults of the protocol's list, one by one. Each hurts the group, waits until the hurt shows, and undoes it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use topology::State;

use super::random::random;
use super::stage::{MONITORS, REDIS};
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
    /// The host whose link it slows down.
    pub slow: Option<&'static str>,
    /// Without confirmation by the replicas. Then writes are lost; that they are shows that the faults are real, and
    /// what confirmation is worth.
    pub unconfirmed: bool,
    /// What happens.
    pub act: fn(&mut Round<'_>),
}

const fn scenario(name: &'static str, expected: &'static str, act: fn(&mut Round<'_>)) -> Scenario {
    Scenario { name, expected, slow: None, unconfirmed: false, act }
}

/// All of them.
pub const ALL: &[Scenario] = &[
    scenario("primary-killed", "gap p50 <= 15 ms, p99 <= 50 ms", primary_killed),
    scenario("monitor-and-primary-killed", "gap <= 1 s", monitor_and_primary_killed),
    scenario("api-killed", "fails what was on its connections, no failover", api_killed),
    scenario("replica-killed", "0 failed, 0 failovers, gap <= 50 ms", replica_killed),
    scenario("replica-paused", "0 failed, 0 failovers, gap <= down_after_ms + 50 ms", replica_paused),
    scenario("primary-paused", "0 stale strong reads, at most 1 failover each", primary_paused),
    scenario("primary-and-client-cut-off", "demoted <= 100 ms after the heal", primary_and_client_cut_off),
    Scenario {
        unconfirmed: true,
        ..scenario(
            "primary-and-client-cut-off-async",
            "loses writes: durability async",
            primary_and_client_cut_off,
        )
    },
    scenario("one-way-cut", "at most 1 failover per cut", one_way_cut),
    scenario("30-percent-loss", "at most 1 failover", loss),
    Scenario { slow: Some("r0"), ..scenario("slow-primary", "50-200 ms: no failover", slow_primary) },
    scenario("primary-restarts-empty", "all kept, a replica is promoted", primary_restarts_empty),
    scenario(
        "replica-restarts-empty-then-primary-dies",
        "not promoted unless eligible",
        replica_then_primary,
    ),
    scenario("fence-erased", "writes wait, stamped within a probe", fence_erased),
    scenario("zookeeper-away", "traffic goes on, no failover", zookeeper_away),
    scenario("both-monitors-paused", "one publisher", both_monitors_paused),
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

fn monitor_and_primary_killed(round: &mut Round<'_>) {
    let active = round.stage.group.wait_for_active();
    round.note(format!("kill {}, the active monitor", MONITORS[active]));
    round.stage.group.monitors[active].process().kill();
    let (before, old) = round.kill_primary();
    round.wait_for_failover(&before);
    round.stage.group.monitors[active].restart();
    round.restart_empty(old);
}

fn api_killed(round: &mut Round<'_>) {
    let at = round.rng.usize(0..round.stage.group.apis.len());
    round.note(format!("kill api {at}"));
    round.stage.group.apis[at].process().kill();
    round.traffic.wait_for_writes(200, LIMIT);
    round.stage.group.apis[at].restart();
    round.note("it is back");
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
    let pause = PAUSES_MS[usize::try_from(round.number).unwrap_or(0) % PAUSES_MS.len()];
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
    const AWAY_MS: [u64; 3] = [15, 100, 1000];
    let away = AWAY_MS[usize::try_from(round.number).unwrap_or(0) % AWAY_MS.len()];
    let (before, old) = round.kill_primary();
    round.rest(Duration::from_millis(away));
    round.restart_empty(old);
    round.wait_for_failover(&before);
}

/// The other replica has everything; the restarted one may be attached, in the middle of its copy, or not yet known.
fn replica_then_primary(round: &mut Round<'_>) {
    let replica = round.stage.some_replica(&mut round.rng);
    round.note(format!("kill {}, a replica", REDIS[replica]));
    round.stage.group.redis[replica].kill();
    round.restart_empty(replica);
    let pause = round.rng.u64(0..300);
    round.rest(Duration::from_millis(pause));
    let (before, old) = round.kill_primary();
    round.wait_for_failover(&before);
    round.restart_empty(old);
}

fn fence_erased(round: &mut Round<'_>) {
    let primary = round.stage.group.primary();
    round.note("DEL albireo:fence");
    let redis = &round.stage.group.redis[primary];
    let mut connection = redis.connect().unwrap_or_else(|e| panic!("{}: {e}", redis.addr()));
    let erased = Instant::now();
    connection.call(&["DEL", "albireo:fence"]).unwrap_or_else(|e| panic!("DEL: {e}"));
    wait::until("a new stamp", LIMIT, || {
        let fence = connection.call(&["GET", "albireo:fence"]).map_err(|e| e.to_string())?;
        wait::holds(fence != crate::resp::Reply::Nil, || "no fence".to_owned())
    });
    let took = erased.elapsed().as_millis();
    round.note(format!("stamped after {took} ms"));
    round.figures.push(format!("stamped after {took} ms"));
    round.traffic.wait_for_writes(100, LIMIT);
}

/// Long enough for every session to be lost.
fn zookeeper_away(round: &mut Round<'_>) {
    round.note("kill ZooKeeper");
    round.stage.group.zookeeper.kill();
    round.rest(round.lasts.min(Duration::from_secs(10)));
    round.traffic.wait_for_writes(100, LIMIT);
    round.stage.group.zookeeper.restart();
    round.note("it is back");
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
