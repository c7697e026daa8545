//! Several services on one pair of monitors: none waits for another, and many deaths at once are no reason to act in haste.

use std::time::Duration;

use topology::{Layout, Phase, State};
use world::programs::{Ini, Launch, Program};
use world::redis::{Redis, Settings};
use world::zookeeper::ZooKeeper;
use world::{Host, ports, wait};

const LIMIT: Duration = Duration::from_secs(45);
const PARENT: &str = "/many";
/// Enough for a brake: with fewer there is none.
const SERVICES: usize = 5;

struct Many {
    monitors: Vec<Program>,
    /// Primary and replica of each service, as seeded.
    redis: Vec<[Redis; 2]>,
    zookeeper: ZooKeeper,
}

impl Many {
    fn start() -> Self {
        let zookeeper = ZooKeeper::start();
        let pair = |_| {
            let primary = Redis::start();
            let replica = Settings::default().replica_of(primary.addr()).start();
            [primary, replica]
        };
        let redis: Vec<[Redis; 2]> = (0..SERVICES).map(pair).collect();
        let seed = |(number, [primary, replica]): (usize, &[Redis; 2])| {
            let json =
                format!("{{\"primary\": \"{}\", \"secondary\": [\"{}\"]}}", primary.addr(), replica.addr());
            (format!("s{number}"), json)
        };
        zookeeper.create_all(PARENT, &redis.iter().enumerate().map(seed).collect::<Vec<_>>());
        let mut many = Self { monitors: Vec::new(), redis, zookeeper };
        many.start_monitors();
        (0..SERVICES).for_each(|service| many.in_sync(service));
        many.monitors.iter_mut().for_each(|monitor| monitor.wait_until_ready(LIMIT));
        many
    }

    fn start_monitors(&mut self) {
        let host = Host::local();
        let port = || host.at(ports::free());
        let pair = [port(), port()];
        for (number, role) in ["primary", "backup"].into_iter().enumerate() {
            let http = port();
            let ini = Ini::new()
                .set("zookeeper", "hosts", self.zookeeper.hosts())
                .set("zookeeper", "discover", PARENT)
                .set("binary_star", "role", role)
                .set("binary_star", "bind", format!("tcp://{}", pair[number]))
                .set("binary_star", "peer", format!("tcp://{}", pair[1 - number]))
                .set("binary_star", "voter", format!("tcp://{}", port()))
                .set("admin", "listen", http);
            let name = format!("monitor-{number}");
            let launch = Launch { kind: "monitor", name: &name, host: &host, ini: &ini, env: &[], http };
            self.monitors.push(Program::start(&launch));
        }
    }

    fn state(&self, service: usize) -> Result<State, String> {
        let layout = Layout::new("/albireo".parse().expect("a path"));
        let path = layout.state(&format!("{PARENT}/s{service}").parse().expect("a path"));
        let znode = self.zookeeper.try_get(&path).map_err(|e| e.to_string())?.ok_or("no record")?;
        State::from_json(&znode.data).map_err(|e| e.to_string())
    }

    #[track_caller]
    fn in_sync(&self, service: usize) {
        wait::until(&format!("s{service} in sync"), LIMIT, || {
            let state = self.state(service)?;
            wait::holds(state.in_sync.len() == 1 && state.phase == Phase::Serving, || format!("{state:?}"))
        });
    }

    /// Waits until the replica of a service is its primary, announced, and takes writes.
    #[track_caller]
    fn taken_over(&self, service: usize) {
        let replica = &self.redis[service][1];
        wait::until(&format!("s{service} with its replica as primary"), LIMIT, || {
            let state = self.state(service)?;
            let served = state.primary.addr == replica.endpoint() && state.phase == Phase::Serving;
            wait::holds(served && replica.is_primary(), || format!("{state:?}"))
        });
    }

    fn active(&self) -> usize {
        let active = |monitor: &Program| monitor.metric("albireo_active") == Some(1.0);
        wait::until("an active monitor", LIMIT, || self.monitors.iter().position(active).ok_or("none"))
    }
}

/// Nobody can take over from a primary whose replica hangs as well; it is looked at again and again, which is nobody
/// else's concern.
#[test]
fn a_hung_service_delays_no_other() {
    let mut many = Many::start();
    let before = many.state(0).expect("a record");
    many.redis[0].iter_mut().for_each(Redis::pause);
    for service in 1..SERVICES {
        many.redis[service][0].kill();
        many.taken_over(service);
    }
    assert_eq!(many.state(0).expect("a record").epoch, before.epoch, "nobody could take over");
    many.redis[0].iter_mut().for_each(Redis::resume);
    many.in_sync(0);
}

/// The other monitor sees it, too: so it is not this one's network, and all are served.
#[test]
fn many_silent_primaries_are_a_mass_failure_until_the_other_monitor_has_confirmed() {
    let mut many = Many::start();
    let active = many.active();
    assert_eq!(many.monitors[active].metric("albireo_mass_failure"), Some(0.0));
    (0..SERVICES - 1).for_each(|service| many.redis[service][0].pause());
    many.monitors[active].process().wait_for_line("more than mass_failure_percent = 30", LIMIT);
    (0..SERVICES - 1).for_each(|service| many.taken_over(service));
    many.monitors[active].process().wait_for_line("the mass failure is over", LIMIT);
    wait::until("no mass failure any more", LIMIT, || {
        let metric = many.monitors[active].metric("albireo_mass_failure");
        wait::holds(metric == Some(0.0), || format!("{metric:?}"))
    });
    let shown = many.monitors[active].get("/services").json();
    assert_eq!(shown.get("mass_failure"), Some(&serde_json::Value::Null), "{shown}");
    let untouched = many.state(SERVICES - 1).expect("a record");
    assert_eq!(untouched.primary.addr, many.redis[SERVICES - 1][0].endpoint(), "it was never lost");
}

/// Dead for certain: their hosts answer, and their replicas have lost them.
#[test]
fn many_dead_primaries_are_replaced_also_without_the_other_monitor() {
    let mut many = Many::start();
    let passive = 1 - many.active();
    many.monitors[passive].process().pause();
    (0..SERVICES - 1).for_each(|service| many.redis[service][0].kill());
    (0..SERVICES - 1).for_each(|service| many.taken_over(service));
    many.monitors[passive].process().resume();
}
