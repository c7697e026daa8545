//! Many faults at once, by a seed: which, where, for how long. In the end everything is undone. Meanwhile an operator asks for
//! switchovers and failovers, as if nothing were wrong.
//!
//! One thing is left out: the death of the last copy. A server is killed only while another one is seen to hold
//! everything acknowledged (the recorded process, in sync, with the stamp of its entry), for without a copy nothing is
//! promised.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use topology::{Phase, State};

use super::Round;
use super::stage::{APIS, MONITORS, REDIS};
use crate::netns::Cut;
use crate::process::Process;
use crate::programs;
use crate::redis::Redis;
use crate::resp::Reply;

/// How many faults there may be at once.
const AT_ONCE: usize = 3;
/// Between two servers' deaths, so that the record that was looked at is not older than the last one.
const BETWEEN_DEATHS: Duration = Duration::from_millis(500);

/// What a fault is done to; one fault at a time each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Redis(usize),
    Monitor(usize),
    Api(usize),
    ZooKeeper,
    Network,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Dead,
    Paused,
    Rules,
}

/// A fault that has not been undone.
struct Fault {
    target: Target,
    harm: Harm,
    rules: Vec<Rule>,
    until: Instant,
}

/// What happens to packets that arrive somewhere.
#[derive(Debug, Clone, Copy)]
struct Rule {
    to: &'static str,
    from: Option<&'static str>,
    how: Cut,
}

/// What the operator may wait for an answer; longer than the verb itself waits.
const OPERATOR_WAITS: Duration = Duration::from_secs(30);

/// Hurts whatever the seed says, for as long as the round says; then undoes everything.
pub fn random(round: &mut Round<'_>) {
    let (end, mut faults, mut died) = (Instant::now() + round.lasts, Vec::<Fault>::new(), Instant::now());
    let mut operator = Operator::default();
    while Instant::now() < end {
        operator.tend(round);
        let late = Instant::now();
        while let Some(at) = faults.iter().position(|fault| fault.until <= late) {
            let fault = faults.remove(at);
            undo(round, &fault, &faults);
        }
        if faults.len() < AT_ONCE
            && let Some(fault) = begin(round, &faults, &mut died)
        {
            faults.push(fault);
        }
        sleep(Duration::from_millis(round.rng.u64(20..400)));
    }
    round.note("the faults end");
    round.stage.hosts.heal();
    while let Some(fault) = faults.pop() {
        undo(round, &fault, &[]);
    }
    round.note("everything is undone");
    operator.end(round);
}

/// Somebody who moves the primary now and then, from any monitor's host.
#[derive(Default)]
struct Operator {
    asks: Option<Process>,
    /// How often it was asked, and how often it was done.
    asked: usize,
    done: usize,
}

impl Operator {
    /// Takes in the last answer, and perhaps asks anew.
    fn tend(&mut self, round: &mut Round<'_>) {
        if let Some(mut verb) = self.asks.take() {
            match verb.poll() {
                Some(status) => self.answered(round, &verb, status.code()),
                None => self.asks = Some(verb),
            }
        } else if round.rng.u8(0..6) == 0 {
            let monitor = &round.stage.group.monitors[round.rng.usize(0..MONITORS.len())];
            let (host, file) = (monitor.host().clone(), monitor.file().display().to_string());
            let verb = if round.rng.u8(0..4) == 0 { "failover" } else { "switchover" };
            self.asks = Some(programs::spawn(&host, verb, "monitor", &[verb, &file, "posts"]));
            self.asked += 1;
            round.note(format!("{verb} is asked for"));
        }
    }

    fn answered(&mut self, round: &mut Round<'_>, verb: &Process, code: Option<i32>) {
        self.done += usize::from(code == Some(0));
        let log = verb.log();
        let words = log.lines().next().unwrap_or_default();
        round.note(format!("{}: {code:?}: {words}", verb.name()));
    }

    fn end(&mut self, round: &mut Round<'_>) {
        if let Some(mut verb) = self.asks.take() {
            let status = verb.wait_for_end(OPERATOR_WAITS);
            self.answered(round, &verb, status.code());
        }
        round.figures.push(format!("{} of {} moves asked for were done", self.done, self.asked));
    }
}

fn begin(round: &mut Round<'_>, faults: &[Fault], died: &mut Instant) -> Option<Fault> {
    // Most are over before or soon after they are noticed, so that traffic flows in between.
    let lasts = if round.rng.u8(0..4) == 0 { 500..3000 } else { 20..800 };
    let until = Instant::now() + Duration::from_millis(round.rng.u64(lasts));
    let busy: BTreeSet<&Target> = faults.iter().map(|fault| &fault.target).collect();
    let (target, harm, rules) = match round.rng.u8(0..20) {
        0..4 => (Target::Redis(round.rng.usize(0..REDIS.len())), Harm::Dead, Vec::new()),
        4..7 => (Target::Redis(round.rng.usize(0..REDIS.len())), Harm::Paused, Vec::new()),
        7 => (Target::Monitor(round.rng.usize(0..MONITORS.len())), Harm::Dead, Vec::new()),
        8..10 => (Target::Monitor(round.rng.usize(0..MONITORS.len())), Harm::Paused, Vec::new()),
        10 => (Target::Api(round.rng.usize(0..APIS.len())), Harm::Dead, Vec::new()),
        11 => (Target::Api(round.rng.usize(0..APIS.len())), Harm::Paused, Vec::new()),
        12 => (Target::ZooKeeper, Harm::Paused, Vec::new()),
        13 => (Target::ZooKeeper, Harm::Dead, Vec::new()),
        14..17 => (Target::Network, Harm::Rules, one_way(&mut round.rng)),
        17..19 => (Target::Network, Harm::Rules, island(&mut round.rng)),
        _ => {
            erase_fence(round, &busy);
            return None;
        }
    };
    if target != Target::Network && busy.contains(&target) {
        return None;
    }
    if let (Target::Redis(victim), Harm::Dead) = (&target, harm) {
        if died.elapsed() < BETWEEN_DEATHS || !another_copy(round, *victim, &busy) {
            return None;
        }
        *died = Instant::now();
    }
    hurt(round, &target, harm, &rules);
    Some(Fault { target, harm, rules, until })
}

fn hurt(round: &mut Round<'_>, target: &Target, harm: Harm, rules: &[Rule]) {
    round.note(match harm {
        Harm::Dead => format!("kill {target:?}"),
        Harm::Paused => format!("pause {target:?}"),
        Harm::Rules => format!("packets are refused: {}", shown(rules)),
    });
    let group = &mut round.stage.group;
    match (target, harm) {
        (Target::Redis(at), Harm::Dead) => group.redis[*at].kill(),
        (Target::Redis(at), _) => group.redis[*at].pause(),
        (Target::Monitor(at), Harm::Dead) => group.monitors[*at].process().kill(),
        (Target::Monitor(at), _) => group.monitors[*at].process().pause(),
        (Target::Api(at), Harm::Dead) => group.apis[*at].process().kill(),
        (Target::Api(at), _) => group.apis[*at].process().pause(),
        (Target::ZooKeeper, Harm::Dead) => group.zookeeper.kill(),
        (Target::ZooKeeper, _) => group.zookeeper.pause(),
        (Target::Network, _) => rules.iter().for_each(|rule| apply(round, rule)),
    }
}

fn undo(round: &mut Round<'_>, fault: &Fault, others: &[Fault]) {
    let group = &mut round.stage.group;
    match (&fault.target, fault.harm) {
        (Target::Redis(at), Harm::Dead) => group.redis[*at].restart_empty(),
        (Target::Redis(at), _) => group.redis[*at].resume(),
        (Target::Monitor(at), Harm::Dead) => group.monitors[*at].restart(),
        (Target::Monitor(at), _) => group.monitors[*at].process().resume(),
        (Target::Api(at), Harm::Dead) => group.apis[*at].restart(),
        (Target::Api(at), _) => group.apis[*at].process().resume(),
        (Target::ZooKeeper, Harm::Dead) => group.zookeeper.restart(),
        (Target::ZooKeeper, _) => group.zookeeper.resume(),
        (Target::Network, _) => heal(round, fault, others),
    }
    round.note(match fault.harm {
        Harm::Dead => format!("{:?} is back", fault.target),
        Harm::Paused => format!("{:?} goes on", fault.target),
        Harm::Rules => format!("packets pass: {}", shown(&fault.rules)),
    });
}

/// Only a whole host can be healed: what else is refused there is put back.
fn heal(round: &mut Round<'_>, fault: &Fault, others: &[Fault]) {
    let ends: BTreeSet<&str> = fault.rules.iter().map(|rule| rule.to).collect();
    for to in ends {
        round.stage.hosts.heal_towards(to);
        let stay = others.iter().flat_map(|other| &other.rules).filter(|rule| rule.to == to);
        stay.for_each(|rule| apply(round, rule));
    }
}

fn apply(round: &Round<'_>, rule: &Rule) {
    match rule.from {
        Some(from) => round.stage.hosts.cut_one_way(from, rule.to, rule.how),
        None => round.stage.hosts.lose(rule.to, 30),
    }
}

fn shown(rules: &[Rule]) -> String {
    let one = |rule: &Rule| match rule.from {
        Some(from) => format!("{from} to {} ({:?})", rule.to, rule.how),
        None => format!("30 of 100 to {}", rule.to),
    };
    rules.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn hosts() -> Vec<&'static str> {
    let all = REDIS.iter().chain(&MONITORS).chain(&APIS).chain(&["zk"]);
    all.copied().collect()
}

/// One direction of one link, or a host that loses packets.
fn one_way(rng: &mut fastrand::Rng) -> Vec<Rule> {
    let mut all = hosts();
    rng.shuffle(&mut all);
    let from = (rng.u8(0..4) > 0).then_some(all[1]);
    let how = if rng.bool() { Cut::Drop } else { Cut::Reset };
    vec![Rule { to: all[0], from, how }]
}

/// One or two hosts are cut from all others.
fn island(rng: &mut fastrand::Rng) -> Vec<Rule> {
    let mut all = hosts();
    rng.shuffle(&mut all);
    let (inside, outside) = all.split_at(rng.usize(1..3));
    let both = |a: &'static str, b: &'static str| {
        [(a, b), (b, a)].map(|(from, to)| Rule { to, from: Some(from), how: Cut::Drop })
    };
    inside.iter().flat_map(|a| outside.iter().flat_map(move |b| both(a, b))).collect()
}

/// Whether another server than the victim surely holds everything that was acknowledged.
fn another_copy(round: &Round<'_>, victim: usize, busy: &BTreeSet<&Target>) -> bool {
    if busy.contains(&Target::ZooKeeper) {
        return false;
    }
    let Ok(state) = round.stage.group.try_state() else { return false };
    let holds = |(at, redis): (usize, &Redis)| {
        let addr = redis.endpoint();
        if at == victim || busy.contains(&Target::Redis(at)) {
            return false;
        }
        if addr == state.primary.addr {
            return serves(redis, &state);
        }
        let Some(entry) = state.in_sync(&addr) else { return false };
        // Nothing, or an error, is no number.
        let fence = redis.try_cmd(&["GET", "albireo:fence"]).map(|fence| match fence {
            Reply::Text(text) => text.parse::<u64>().ok(),
            Reply::Nil | Reply::Error(_) | Reply::Number(_) | Reply::List(_) => None,
        });
        runs(redis, &entry.run_id) && fence.is_ok_and(|fence| fence >= Some(entry.since))
    };
    round.stage.group.redis.iter().enumerate().any(holds)
}

fn runs(redis: &Redis, run_id: &str) -> bool {
    redis.try_info("run_id").is_ok_and(|own| own == run_id)
}

/// Whether this is the primary of the record, the very process, and its promotion is done.
fn serves(redis: &Redis, state: &State) -> bool {
    state.phase == Phase::Serving
        && redis.endpoint() == state.primary.addr
        && redis.is_primary()
        && runs(redis, &state.primary.run_id)
}

/// At one that says that it is primary, replaced or not, as long as the recorded one serves. Where it does not, the last copy of
/// everything may be attached to one that was replaced: without a fence it proves nothing, and only an operator could choose it.
fn erase_fence(round: &mut Round<'_>, busy: &BTreeSet<&Target>) {
    if busy.contains(&Target::ZooKeeper) {
        return;
    }
    let Ok(state) = round.stage.group.try_state() else { return };
    let redis = &round.stage.group.redis;
    let free = |at: &usize| !busy.contains(&Target::Redis(*at));
    if !(0..REDIS.len()).filter(free).any(|at| serves(&redis[at], &state)) {
        return;
    }
    let primaries: Vec<usize> = (0..REDIS.len()).filter(free).filter(|at| redis[*at].is_primary()).collect();
    if let Some(primary) = round.rng.choice(primaries) {
        round.note(format!("DEL albireo:fence on {}", REDIS[primary]));
        let _ = round.stage.group.redis[primary].try_cmd(&["DEL", "albireo:fence"]);
    }
}
