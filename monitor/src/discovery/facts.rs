//! What clients can be told, as one snapshot per service: who is primary and whether that is certain, the replicas, and
//! the other endpoints. Read off the core's view, in which nothing of this is decided.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use failover::view::{Announced, follows};
use failover::{Fence, Health, Role, Time, View};
use sha2::{Digest, Sha256};
use topology::{Endpoint, Phase, State};

/// Everything that clients can ask for.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// This monitor's endpoint for clients of Redis Sentinel, if it has one.
    pub(crate) own: Fellow,
    /// The others that were ever heard of.
    pub(crate) fellows: Vec<Fellow>,
    pub(crate) services: BTreeMap<String, Arc<Service>>,
    /// Every service that is to be watched stands here. Before that a name that does not may still come.
    pub(crate) listed: bool,
    pub(crate) down_after: Duration,
    /// When the driver last turned. It does so at least once a heartbeat, if this process does not stand still.
    pub(crate) turned: Time,
    /// A driver that turned longer ago than this stands still, and what it knew may be long past.
    pub(crate) stale_after: Duration,
}

impl Facts {
    /// Whether what is known was known to be the present a moment ago.
    pub(crate) fn are_fresh(&self, now: Time) -> bool {
        now.saturating_sub(self.turned) <= self.stale_after
    }
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fellow {
    /// 40 hex digits.
    pub(crate) id: String,
    /// Where clients reach it.
    pub(crate) addr: Endpoint,
    pub(crate) up: bool,
    /// When it was last known to be there.
    pub(crate) heard: Time,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// There is a record, and it is the present one as far as a live ZooKeeper session can tell. If not, clients are told
    /// that the name is not known here.
    pub(crate) known: bool,
    /// ZooKeeper answers, so that a failover could be published.
    pub(crate) store_answers: bool,
    pub(crate) epoch: u64,
    /// Whose promotion is served, and since when this monitor knows.
    pub(crate) serving: Option<(u64, Time)>,
    pub(crate) master: Option<Master>,
    /// Every member that neither is the primary nor is becoming it.
    pub(crate) replicas: Vec<Replica>,
    /// The last one that clients were told to be the primary.
    pub(crate) named: Option<Endpoint>,
    /// Since when they are told of nobody.
    pub(crate) doubted: Option<Time>,
}

/// The primary; during a promotion still the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Master {
    pub(crate) addr: Endpoint,
    pub(crate) run_id: String,
    /// It does not answer, or is not what it should be; clients leave it alone.
    pub(crate) s_down: bool,
    /// It is certain that it is lost.
    pub(crate) o_down: bool,
    pub(crate) disconnected: bool,
    /// Another one is becoming primary.
    pub(crate) in_progress: bool,
    /// It was seen to be something else than the primary that was recorded.
    pub(crate) contradicted: bool,
    pub(crate) times: Times,
}

/// A replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) addr: Endpoint,
    pub(crate) run_id: String,
    /// It answers reads.
    pub(crate) usable: bool,
    pub(crate) disconnected: bool,
    /// It says that it is a primary.
    pub(crate) is_primary: bool,
    /// Whom it follows, and whether it has a link there.
    pub(crate) source: Option<Endpoint>,
    pub(crate) link_up: bool,
    /// Since when it has none to the primary.
    pub(crate) link_down_since: Option<Time>,
    /// It follows the present primary, which is promoted.
    pub(crate) follows: bool,
    pub(crate) priority: u32,
    pub(crate) offset: u64,
    pub(crate) times: Times,
}

/// When what happened at a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Times {
    /// Its last byte came.
    pub(crate) heard: Time,
    /// It was last looked at.
    pub(crate) looked: Time,
    /// It has had its role since then.
    pub(crate) role: Time,
}

impl Service {
    /// The primary, if clients may be sent there: its record is certain and its promotion done.
    pub(crate) fn primary(&self) -> Option<&Master> {
        self.shown().filter(|master| !master.in_progress && !master.contradicted)
    }

    /// The primary and the epoch under which it is named.
    pub(crate) fn named_now(&self) -> Option<(&Endpoint, u64)> {
        self.primary().map(|master| (&master.addr, self.epoch))
    }

    /// What who waits for a primary waits for: who is named, and whether anything is known for certain.
    pub(crate) fn certain_now(&self) -> (Option<(&Endpoint, u64)>, bool) {
        (self.named_now(), self.shown().is_some())
    }

    /// What is shown with its flags, which may say that it is of no use.
    pub(crate) fn shown(&self) -> Option<&Master> {
        self.master.as_ref().filter(|_| self.known)
    }
}

/// The identity of a monitor: the same over restarts, and another one for each monitor of every installation.
pub(crate) fn id(state_root: &str, name: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(state_root);
    hash.update([0]);
    hash.update(name);
    hash.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

/// What speaks for a record being the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vouched {
    /// Nothing: it was not read since ZooKeeper answers, or since this process stood still.
    No,
    /// It was read since then. As good as ZooKeeper's session.
    Read,
    /// It was, and the peer monitor, which lives, knows the same records of all services. That holds also while ZooKeeper is
    /// away, for a primary that says itself that it is the recorded one.
    Agreed,
}

/// One part of the note by which two monitors find out whether they know the same records: of one service, to be combined
/// with XOR. Different records have different parts, but for one case in 2^64.
pub(crate) fn note(path: &str, epoch: u64) -> u64 {
    let mut hash = Sha256::new();
    hash.update(path);
    hash.update([0]);
    hash.update(epoch.to_be_bytes());
    hash.finalize().iter().take(8).fold(0, |note, byte| (note << 8) | u64::from(*byte))
}

/// What there is to know of a service at this moment.
pub(crate) fn observe(view: &View, before: Option<&Service>, vouched: Vouched, now: Time) -> Service {
    let named = before.and_then(|before| before.named.clone());
    let doubted = before.and_then(|before| before.doubted).unwrap_or(now);
    let Some(state) = view.state() else {
        return Service {
            known: false,
            store_answers: !view.store_away,
            epoch: 0,
            serving: None,
            master: None,
            replicas: Vec::new(),
            named,
            doubted: Some(doubted),
        };
    };
    let since = before.and_then(|before| before.serving).filter(|(promoted, _)| *promoted == state.promoted);
    let serving = (state.phase == Phase::Serving).then(|| since.unwrap_or((state.promoted, now)));
    let master = match serving {
        Some((_, since)) => Some(served(view, state, since, now)),
        None => replaced(view, state, named.as_ref(), now),
    };
    let is_primary =
        |addr: &&Endpoint| **addr == state.primary.addr || master.as_ref().is_some_and(|m| m.addr == **addr);
    let others = state.members.iter().filter(|addr| !is_primary(addr));
    let mut service = Service {
        known: match vouched {
            Vouched::No => false,
            Vouched::Read => !view.store_away,
            Vouched::Agreed => !view.store_away || attested(view, state, now),
        },
        store_answers: !view.store_away,
        epoch: state.epoch,
        serving,
        replicas: others.map(|addr| replica(view, state, addr, before, now)).collect(),
        master,
        named: None,
        doubted: None,
    };
    service.doubted = service.primary().is_none().then_some(doubted);
    service.named = service.primary().map(|master| master.addr.clone()).or(named);
    service
}

/// The recorded primary, whose promotion is done.
fn served(view: &View, state: &State, since: Time, now: Time) -> Master {
    let addr = &state.primary.addr;
    let (down, disconnected) = plight(view.health(addr, now));
    let contradicted = contradicted(view, state, since, now);
    Master {
        run_id: state.primary.run_id.clone(),
        // Not heard of yet by a monitor that has just begun: the record counts.
        s_down: contradicted || (down && view.health(addr, now) != Health::Unknown),
        o_down: contradicted || view.primary_fault(now).is_some(),
        disconnected: disconnected && view.health(addr, now) != Health::Unknown,
        in_progress: false,
        contradicted,
        times: times(view, addr),
        addr: addr.clone(),
    }
}

/// During a promotion: the primary that is replaced, which nobody should use. Where it is not known, nobody is shown.
fn replaced(view: &View, state: &State, named: Option<&Endpoint>, now: Time) -> Option<Master> {
    let announced = match &view.announced.0 {
        Announced::Is(topology) => Some(&topology.primary),
        Announced::Unread | Announced::Missing | Announced::Broken(_) => None,
    };
    let addr = named.or(state.from.as_ref().map(|from| &from.addr)).or(announced)?;
    let (_, disconnected) = plight(view.health(addr, now));
    Some(Master {
        run_id: seen_run_id(view, addr),
        s_down: true,
        o_down: true,
        disconnected,
        in_progress: true,
        contradicted: false,
        times: times(view, addr),
        addr: addr.clone(),
    })
}

/// Whether the recorded primary itself says so: the recorded process, a primary, stamped with the recorded epoch.
fn attested(view: &View, state: &State, now: Time) -> bool {
    let is_it = |seen: &failover::Observation| {
        seen.run_id == state.primary.run_id
            && matches!(seen.role, Role::Primary { .. })
            && seen.fence == Fence::At(state.epoch)
    };
    state.phase == Phase::Serving && view.current(&state.primary.addr, now).is_some_and(is_it)
}

/// Whether the server was seen to be another process or a replica, by something asked after its promotion was known to
/// be done.
fn contradicted(view: &View, state: &State, since: Time, now: Time) -> bool {
    let Some(backend) = view.backends.get(&state.primary.addr) else { return false };
    let another = |run_id: &str| run_id != state.primary.run_id;
    let greeted = backend.greeted.as_ref().is_some_and(|(run_id, at)| *at >= since && another(run_id));
    let asked = backend.seen.as_ref().is_some_and(|seen| seen.asked >= since);
    let seen = view.current(&state.primary.addr, now).filter(|_| asked);
    greeted || seen.is_some_and(|seen| another(&seen.run_id) || matches!(seen.role, Role::Replica { .. }))
}

fn replica(view: &View, state: &State, addr: &Endpoint, before: Option<&Service>, now: Time) -> Replica {
    let (down, disconnected) = plight(view.health(addr, now));
    let backend = view.backends.get(addr);
    let seen = backend.and_then(|backend| backend.seen.as_ref()).map(|seen| &seen.observation);
    let (is_primary, source, link_up, syncing) = match seen.map(|seen| &seen.role) {
        Some(Role::Replica { source, link_up, syncing }) => (false, source.clone(), *link_up, *syncing),
        Some(Role::Primary { .. }) => (true, None, false, false),
        None => (false, None, false, false),
    };
    let follows = seen.is_some_and(|seen| follows(seen, &state.primary.addr));
    let run_id = seen_run_id(view, addr);
    // One that has lost its primary still answers reads. One that never had one, as after a restart, holds nothing.
    let was_usable = before.is_some_and(|before| {
        before.replicas.iter().any(|was| was.addr == *addr && was.run_id == run_id && was.usable)
    });
    Replica {
        run_id,
        usable: !down && !is_primary && !syncing && (link_up || was_usable),
        disconnected,
        is_primary,
        source,
        link_up: link_up && !down,
        link_down_since: backend.and_then(|backend| backend.unattached_since),
        follows: follows && !down && state.phase == Phase::Serving,
        priority: view.limits.priority(addr),
        offset: seen.map_or(0, |seen| seen.offset),
        times: times(view, addr),
        addr: addr.clone(),
    }
}

/// Whether clients should leave a server alone, and whether it cannot even be reached.
fn plight(health: Health) -> (bool, bool) {
    match health {
        Health::Up | Health::Suspect => (false, false),
        Health::Troubled(_) => (true, false),
        Health::Unknown | Health::Refused(_) | Health::Silent(_) => (true, true),
    }
}

fn seen_run_id(view: &View, addr: &Endpoint) -> String {
    let seen = view.backends.get(addr).and_then(|backend| backend.seen.as_ref());
    seen.map(|seen| seen.observation.run_id.clone()).unwrap_or_default()
}

fn times(view: &View, addr: &Endpoint) -> Times {
    view.backends.get(addr).map_or_else(Times::default, |backend| Times {
        heard: backend.detector.last_heard(),
        looked: backend.seen.as_ref().map_or(Time::ZERO, |seen| seen.at),
        role: backend.role_since,
    })
}

#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod examples {
    //! Snapshots for the tests of what is made of them.

    use super::*;

    pub(crate) fn at(port: u16) -> Endpoint {
        format!("10.0.0.1:{port}").parse().expect("an address")
    }

    pub(crate) fn fellow(number: u16, up: bool) -> Fellow {
        let id = format!("{number:040x}");
        Fellow { id, addr: at(26000 + number), up, heard: Time::from_secs(9) }
    }

    pub(crate) fn master(port: u16) -> Master {
        Master {
            addr: at(port),
            run_id: "a".repeat(40),
            s_down: false,
            o_down: false,
            disconnected: false,
            in_progress: false,
            contradicted: false,
            times: Times {
                heard: Time::from_millis(9990),
                looked: Time::from_millis(9900),
                role: Time::from_secs(1),
            },
        }
    }

    pub(crate) fn replica(port: u16, source: u16) -> Replica {
        Replica {
            addr: at(port),
            run_id: "b".repeat(40),
            usable: true,
            disconnected: false,
            is_primary: false,
            source: Some(at(source)),
            link_up: true,
            link_down_since: None,
            follows: true,
            priority: 100,
            offset: 4711,
            times: Times {
                heard: Time::from_millis(9990),
                looked: Time::from_millis(9900),
                role: Time::from_secs(2),
            },
        }
    }

    /// The primary at the first port, the replicas at the others.
    pub(crate) fn service(ports: &[u16]) -> Service {
        Service {
            known: true,
            store_answers: true,
            epoch: 7,
            serving: Some((5, Time::from_secs(1))),
            master: Some(master(ports[0])),
            replicas: ports[1..].iter().map(|port| replica(*port, ports[0])).collect(),
            named: Some(at(ports[0])),
            doubted: None,
        }
    }

    /// The one of this name, to be changed.
    pub(crate) fn changed<'a>(facts: &'a mut Facts, name: &str) -> &'a mut Service {
        Arc::make_mut(facts.services.get_mut(name).expect("a service of this name"))
    }

    pub(crate) fn facts() -> Facts {
        Facts {
            own: fellow(1, true),
            fellows: vec![fellow(2, true)],
            services: [("posts".to_owned(), Arc::new(service(&[6379, 6380, 6381])))].into(),
            listed: true,
            down_after: Duration::from_millis(500),
            turned: Time::from_secs(10),
            stale_after: Duration::from_millis(375),
        }
    }
}

#[cfg(test)]
mod tests {
    use failover::{Event, Fence, Group, Limits, Observation, Stored};
    use topology::Topology;

    use super::*;

    const SECOND: Time = Time::from_secs(1);

    fn at(port: u16) -> Endpoint {
        format!("10.0.0.1:{port}").parse().unwrap()
    }

    fn record(primary: u16, promoted: u64, phase: &str) -> Event {
        let json = format!(
            r#"{{"epoch":{promoted},"promoted":{promoted},"primary":{{"addr":"10.0.0.1:{primary}","run_id":"r{primary}"}},
            "in_sync":[],"min_in_sync":0,"members":["10.0.0.1:1","10.0.0.1:2","10.0.0.1:3"],"path_version":0,
            "phase":"{phase}","leader":"m","reason":"test"}}"#
        );
        Event::State(
            Stored::Is(State::from_json(json.as_bytes()).unwrap()),
            2 * promoted as i32 + i32::from(phase == "serving"),
        )
    }

    fn seen(port: u16, role: Role, run_id: &str, asked: Time) -> Event {
        let observation = Observation {
            run_id: run_id.into(),
            role,
            replid: "x".into(),
            offset: 5,
            fence: Fence::Absent,
            shows_as: at(port).to_string(),
            credential: None,
            read_only: true,
            tick: None,
            empty: false,
        };
        Event::Seen(at(port), asked, observation.into())
    }

    fn following(port: u16) -> Role {
        Role::Replica { source: Some(at(port)), link_up: true, syncing: false }
    }

    /// A group whose record names the first server.
    fn group() -> Group {
        let mut group = Group::new("m".into(), Limits::default());
        group.handle(Event::Store(true), Time::ZERO);
        let topology = Topology { primary: at(1), replicas: vec![at(2), at(3)] };
        group.handle(Event::Announced(Announced::Is(topology), 0), Time::ZERO);
        group.handle(record(1, 1, "serving"), Time::ZERO);
        for port in 1..=3 {
            group.handle(Event::Opened(at(port)), Time::ZERO);
        }
        let alone = Role::Primary { replicas: Vec::new() };
        group.handle(seen(1, alone, "r1", SECOND), SECOND);
        group.handle(seen(2, following(1), "r2", SECOND), SECOND);
        group.handle(seen(3, following(1), "r3", SECOND), SECOND);
        group
    }

    fn named(service: &Service) -> Option<u16> {
        service.primary().map(|master| master.addr.port())
    }

    #[test]
    fn all_is_well() {
        let service = observe(group().view(), None, Vouched::Read, SECOND);
        assert_eq!(named(&service), Some(1));
        let master = service.shown().unwrap();
        assert!(!master.s_down && !master.o_down && !master.disconnected && !master.in_progress);
        assert_eq!(
            service.replicas.iter().map(|r| (r.addr.port(), r.usable, r.follows)).collect::<Vec<_>>(),
            [(2, true, true), (3, true, true)]
        );
    }

    #[test]
    fn nobody_is_named_without_certainty() {
        let mut group = group();
        let well = observe(group.view(), None, Vouched::Read, SECOND);
        let unread = observe(group.view(), Some(&well), Vouched::No, SECOND);
        assert_eq!((named(&unread), unread.shown()), (None, None));
        assert_eq!(unread.named, Some(at(1)), "remembered, for the news");
        group.handle(Event::Store(false), SECOND);
        assert_eq!(named(&observe(group.view(), Some(&well), Vouched::Read, SECOND)), None);
        let unborn = Group::new("m".into(), Limits::default());
        assert_eq!(named(&observe(unborn.view(), None, Vouched::Read, SECOND)), None);
    }

    /// Its word and the peer's stand in for ZooKeeper's.
    #[test]
    fn without_zookeeper_the_peer_and_the_primary_have_to_agree() {
        let named = |group: &Group, vouched, now| named(&observe(group.view(), None, vouched, now));
        let stamped = |fence, run_id| {
            let mut group = group();
            group.handle(Event::Store(false), SECOND);
            let alone = Role::Primary { replicas: Vec::new() };
            let Event::Seen(addr, asked, answer) = seen(1, alone, run_id, SECOND) else { unreachable!() };
            group.handle(
                Event::Seen(addr, asked, Observation { fence, ..Observation::clone(&answer) }.into()),
                SECOND,
            );
            group
        };
        let mut group = stamped(Fence::At(1), "r1");
        assert_eq!(named(&group, Vouched::Agreed, SECOND), Some(1));
        assert_eq!(named(&group, Vouched::Read, SECOND), None, "the peer does not agree");
        assert_eq!(named(&group, Vouched::No, SECOND), None);
        assert_eq!(named(&group, Vouched::Agreed, 10 * SECOND), None, "the primary does not answer");
        for (fence, run_id) in [(Fence::At(2), "r1"), (Fence::Absent, "r1"), (Fence::At(1), "r9")] {
            let other = stamped(fence, run_id);
            assert_eq!(named(&other, Vouched::Agreed, SECOND), None, "{fence:?} {run_id}");
        }
        group.handle(seen(1, following(2), "r1", SECOND), SECOND);
        assert_eq!(named(&group, Vouched::Agreed, SECOND), None, "it follows another one");
    }

    #[test]
    fn notes_tell_records_apart() {
        let all = [note("/a", 1), note("/a", 2), note("/b", 1), note("/a", 1 << 32)];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one) && *one != 0);
        }
        assert_eq!(note("/a", 1), note("/a", 1));
    }

    #[test]
    fn during_a_promotion_neither_of_the_two_is_named() {
        let mut group = group();
        let well = observe(group.view(), None, Vouched::Read, SECOND);
        group.handle(record(2, 2, "promoting"), SECOND);
        for before in [Some(&well), None] {
            let service = observe(group.view(), before, Vouched::Read, SECOND);
            assert_eq!(named(&service), None);
            let master = service.shown().unwrap();
            assert_eq!((master.addr.port(), master.in_progress, master.s_down), (1, true, true));
            assert_eq!(service.replicas.iter().map(|r| r.addr.port()).collect::<Vec<_>>(), [3]);
        }
        // What it was before says nothing against it: it was asked before the promotion.
        let now = SECOND + SECOND / 10;
        group.handle(record(2, 2, "serving"), now);
        let service = observe(group.view(), Some(&well), Vouched::Read, now);
        assert_eq!(named(&service), Some(2));
        assert_eq!(service.replicas.iter().map(|r| r.addr.port()).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn a_primary_that_is_seen_to_be_something_else_is_not_named() {
        for (role, run_id) in [(following(2), "r1"), (Role::Primary { replicas: Vec::new() }, "r9")] {
            let mut group = group();
            let well = observe(group.view(), None, Vouched::Read, SECOND);
            group.handle(seen(1, role, run_id, 2 * SECOND), 2 * SECOND);
            let service = observe(group.view(), Some(&well), Vouched::Read, 2 * SECOND);
            assert_eq!(named(&service), None, "{run_id}");
            let master = service.shown().unwrap();
            assert!(master.s_down && master.o_down);
        }
    }

    #[test]
    fn a_replica_that_lost_its_primary_is_of_use_and_one_that_never_had_one_is_not() {
        let mut group = group();
        let well = observe(group.view(), None, Vouched::Read, SECOND);
        let lost = || Role::Replica { source: Some(at(1)), link_up: false, syncing: false };
        group.handle(seen(2, lost(), "r2", 2 * SECOND), 2 * SECOND);
        group.handle(seen(3, lost(), "restarted", 2 * SECOND), 2 * SECOND);
        let usable = |service: &Service| service.replicas.iter().map(|r| r.usable).collect::<Vec<_>>();
        let service = observe(group.view(), Some(&well), Vouched::Read, 2 * SECOND);
        assert_eq!(usable(&service), [true, false]);
        let filled = Role::Replica { source: Some(at(1)), link_up: false, syncing: true };
        group.handle(seen(2, filled, "r2", 3 * SECOND), 3 * SECOND);
        assert_eq!(usable(&observe(group.view(), Some(&service), Vouched::Read, 3 * SECOND)), [false, false]);
    }

    #[test]
    fn a_dead_primary_is_named_with_its_flags_until_another_one_is_recorded() {
        let mut group = group();
        group.handle(Event::Closed(at(1)), SECOND);
        group.handle(Event::ConnectionRefused(at(1)), SECOND);
        let service = observe(group.view(), None, Vouched::Read, SECOND);
        assert_eq!(named(&service), Some(1));
        let master = service.shown().unwrap();
        assert!(master.s_down && master.disconnected && !master.in_progress);
    }

    #[test]
    fn an_identity_is_stable_and_belongs_to_one_monitor() {
        assert_eq!(id("/albireo", "primary"), id("/albireo", "primary"));
        assert_eq!(id("/albireo", "primary").len(), 40);
        assert_ne!(id("/albireo", "primary"), id("/albireo", "backup"));
        assert_ne!(id("/albireo", "primary"), id("/other", "primary"));
    }
}
