//! The agent of the virtual address, on two Redis hosts in network namespaces: a sampler watches both all the time and fails
//! whoever lets both have it. Needs root; says so where it cannot run.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use world::group::{Group, Places};
use world::netns::{Cut, Hosts};
use world::resp::{Connection, Reply};
use world::{Host, Process, WorkDir, programs, skip, wait};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 83, 0, 200);
const LIMIT: Duration = Duration::from_secs(20);
/// A session that ends, with everything that may come before and after it on a busy machine.
const LONG: Duration = Duration::from_secs(45);
const CLAIM: &str = "/albireo/vips/10.83.0.200";

/// A primary on `r0` and a replica on `r1`, monitors on `m0` and `m1`, ZooKeeper on `zk`, clients on `c`.
struct Scene {
    agents: Vec<Process>,
    group: Group,
    sampler: Sampler,
    hosts: Hosts,
    dir: WorkDir,
}

impl Scene {
    /// Everything runs, and the host of the primary has the address.
    fn start(test: &str) -> Option<Self> {
        if let Err(why) = Hosts::available() {
            skip::skip(test, &why);
            return None;
        }
        let hosts = Hosts::new(&["zk", "r0", "r1", "m0", "m1", "c"]);
        let places = Places {
            zookeeper: hosts.host("zk"),
            redis: ["r0", "r1"].map(|name| hosts.host(name)).into(),
            monitors: ["m0", "m1"].map(|name| hosts.host(name)).into(),
            api: hosts.host("c"),
        };
        let sampler = Sampler::start(&hosts);
        let group = Group::of(1).apis(0).places(places).one_redis_port().redis_line("bind 0.0.0.0").start();
        let mut scene = Self { agents: Vec::new(), group, sampler, hosts, dir: WorkDir::new("vip") };
        for at in 0..2 {
            let agent = scene.agent(at);
            scene.agents.push(agent);
        }
        scene.moves_to(0);
        scene.write();
        Some(scene)
    }

    fn agent(&self, at: usize) -> Process {
        let (file, address) = (self.dir.join("monitor.ini"), format!("{VIP}/24"));
        // A busy machine keeps a server from answering; that is not what is tested here.
        let ini = self.group.monitor_ini(at).set("detector", "down_after_ms", 10_000);
        fs::write(&file, ini.text()).expect("a file for the agent");
        let file = file.display().to_string();
        let arguments = ["vip", &file, "posts", "--interface", "eth0", "--address", &address];
        programs::spawn(&self.host(at), &format!("vip-{at}"), "monitor", &arguments)
    }

    fn host(&self, at: usize) -> Host {
        self.hosts.host(&format!("r{at}"))
    }

    fn has(&self, at: usize) -> bool {
        self.host(at).run(has_address)
    }

    #[track_caller]
    fn moves_to(&self, at: usize) {
        wait::until(&format!("only r{at} has the address"), LONG, || {
            let has = [self.has(0), self.has(1)];
            wait::holds(has[at] && !has[1 - at], || format!("{has:?}"))
        });
    }

    #[track_caller]
    fn vanishes_from(&self, at: usize) {
        wait::until(&format!("r{at} has no address"), LIMIT, || {
            wait::holds(!self.has(at), || "it has".into())
        });
    }

    /// A client that knows nothing but the address writes, with a new connection whenever one fails.
    #[track_caller]
    fn write(&self) {
        let to = SocketAddr::new(VIP.into(), self.group.redis[0].addr().port());
        let limit = Duration::from_secs(1);
        wait::until("a write through the address", LIMIT, || {
            let mut client =
                Connection::open(&self.hosts.host("c"), to, limit).map_err(|error| error.to_string())?;
            client.set_limit(limit).map_err(|error| error.to_string())?;
            let reply = client.call(&["SET", "k", "v"]).map_err(|error| error.to_string())?;
            wait::holds(reply == Reply::Text("OK".to_owned()), || format!("{reply:?}"))
        });
    }

    /// The hardware address at which the client knows the virtual one.
    fn known_at(&self) -> String {
        word_after("lladdr", &ip(&self.hosts.host("c"), &["neighbour", "show", &VIP.to_string()]))
    }

    fn hardware_address(&self, at: usize) -> String {
        word_after("link/ether", &ip(&self.host(at), &["-oneline", "link", "show", "eth0"]))
    }

    /// Both never had it.
    #[track_caller]
    fn finish(self) {
        self.sampler.stop_and_judge();
    }
}

/// Only a local address can be bound.
fn has_address() -> bool {
    UdpSocket::bind((VIP, 0)).is_ok()
}

fn ip(host: &Host, words: &[&str]) -> String {
    let output = host.run(|| Command::new("ip").args(words).output()).expect("ip");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn word_after(word: &str, text: &str) -> String {
    let mut words = text.split_whitespace().skip_while(|found| *found != word);
    words.nth(1).unwrap_or_default().to_owned()
}

/// Looks at both hosts about a thousand times a second, each on a thread inside its namespace.
struct Sampler {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Span>>>,
}

/// From the end of the first of several looks that found the address to the beginning of the last: all the while it was there.
type Span = (Instant, Instant);

impl Sampler {
    fn start(hosts: &Hosts) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = ["r0", "r1"].map(|name| {
            let (host, stop) = (hosts.host(name), stop.clone());
            thread::spawn(move || host.run(|| sample(&stop)))
        });
        Self { stop, threads: threads.into() }
    }

    #[track_caller]
    fn stop_and_judge(self) {
        self.stop.store(true, Ordering::Relaxed);
        let spans: Vec<Vec<Span>> =
            self.threads.into_iter().map(|thread| thread.join().expect("a sampler")).collect();
        assert!(spans.iter().any(|spans| !spans.is_empty()), "nobody ever had the address");
        let both = overlap(&spans[0], &spans[1]);
        assert!(both.is_none(), "both hosts had the address for {both:?}");
    }
}

fn sample(stop: &AtomicBool) -> Vec<Span> {
    let (mut spans, mut current): (Vec<Span>, Option<Span>) = (Vec::new(), None);
    while !stop.load(Ordering::Relaxed) {
        let before = Instant::now();
        if has_address() {
            let first = current.map_or_else(Instant::now, |(first, _)| first);
            current = Some((first, before));
        } else {
            spans.extend(current.take());
        }
        thread::sleep(Duration::from_micros(500));
    }
    spans.extend(current);
    spans
}

/// The first time that both had it, if they did.
fn overlap(a: &[Span], b: &[Span]) -> Option<Duration> {
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
    pairs.filter(|(from, to)| from < to).map(|(from, to)| to - from).next()
}

#[test]
fn the_sampler_sees_an_overlap() {
    let start = Instant::now();
    let span = |from: u64, to: u64| (start + Duration::from_millis(from), start + Duration::from_millis(to));
    assert_eq!(overlap(&[span(0, 10), span(20, 30)], &[span(10, 20), span(31, 40)]), None);
    assert_eq!(overlap(&[span(0, 10), span(20, 30)], &[span(27, 40)]), Some(Duration::from_millis(3)));
    // A single look proves nothing about a time.
    assert_eq!(overlap(&[span(0, 10)], &[(start, start)]), None);
}

/// The client keeps its address; its neighbour table is corrected before it sends anything.
#[test]
fn the_address_follows_the_primary_and_the_neighbours_are_told() {
    let Some(mut scene) = Scene::start("the_address_follows_the_primary_and_the_neighbours_are_told") else {
        return;
    };
    assert_eq!(scene.known_at(), scene.hardware_address(0));
    scene.group.redis[0].kill();
    scene.moves_to(1);
    wait::until("the client knows the new host", LIMIT, || {
        let known = scene.known_at();
        wait::holds(known == scene.hardware_address(1), || known)
    });
    scene.write();
    assert_eq!(scene.group.redis[1].cmd(&["GET", "k"]), Reply::Text("v".to_owned()));
    scene.agents[0].wait_for_line("is released: the local server", LIMIT);
    scene.agents[1].wait_for_line("is taken on eth0", LIMIT);

    // And back, while both servers live.
    scene.group.redis[0].restart();
    scene.group.settled();
    let file = scene.dir.join("monitor.ini").display().to_string();
    let place = scene.hosts.host("m0");
    let (code, printed) = programs::run_on(&place, "monitor", &["failover", &file, "posts"], &[], LIMIT);
    assert_eq!(code, 0, "{printed}");
    scene.moves_to(0);
    scene.write();
    scene.finish();
}

/// A stopped agent can do nothing: the kernel takes the address away from it before ZooKeeper ends its session.
#[test]
fn a_stopped_agent_loses_the_address_before_another_host_has_it() {
    let Some(mut scene) = Scene::start("a_stopped_agent_loses_the_address_before_another_host_has_it") else {
        return;
    };
    scene.agents[0].pause();
    scene.group.redis[0].kill();
    scene.vanishes_from(0);
    scene.moves_to(1);
    scene.write();
    scene.agents[0].resume();
    scene.agents[0].wait_for_line("is released", LIMIT);
    wait::never("the old host has it again", Duration::from_secs(2), || {
        wait::holds(!scene.has(0), || "it has".to_owned())
    });
    scene.finish();
}

/// Its server lives and believes that it is master; nobody can tell it otherwise.
#[test]
fn a_host_that_is_cut_off_gives_it_back_before_another_one_has_it() {
    let Some(mut scene) = Scene::start("a_host_that_is_cut_off_gives_it_back_before_another_one_has_it")
    else {
        return;
    };
    // First from ZooKeeper, or the agent might still hear of the failover.
    scene.hosts.cut("r0", "zk", Cut::Drop);
    scene.hosts.isolate(&["r0"], Cut::Drop);
    scene.agents[0].wait_for_line("is released: ZooKeeper has not answered", LIMIT);
    scene.moves_to(1);
    scene.write();
    scene.hosts.heal();
    scene.group.settled();
    scene.moves_to(1);
    scene.finish();
}

#[test]
fn without_zookeeper_nobody_has_it_and_afterwards_the_primary_has_it_again() {
    let Some(mut scene) =
        Scene::start("without_zookeeper_nobody_has_it_and_afterwards_the_primary_has_it_again")
    else {
        return;
    };
    scene.group.zookeeper.pause();
    // Because ZooKeeper has not answered, as a rule; where a look from before the claim is what it answered last, because of that.
    scene.agents[0].wait_for_line("is released: ", LIMIT);
    scene.vanishes_from(0);
    // Longer than the session.
    wait::never("somebody has it", Duration::from_secs(7), || {
        let has = [scene.has(0), scene.has(1)];
        wait::holds(has == [false, false], || format!("{has:?}"))
    });
    scene.group.zookeeper.resume();
    let primary = scene.group.settled().primary.addr;
    scene.moves_to(scene.group.number_of(&primary));
    scene.write();
    scene.finish();
}

#[test]
fn an_agent_that_ends_lets_go_and_one_that_was_killed_is_succeeded() {
    let Some(mut scene) = Scene::start("an_agent_that_ends_lets_go_and_one_that_was_killed_is_succeeded")
    else {
        return;
    };
    let mut second = scene.agent(0);
    assert_eq!(second.wait_for_end(LIMIT).code(), Some(1), "two agents on one host: {}", second.log());
    assert!(scene.has(0));

    let ended = scene.agents[0].terminate(LIMIT);
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
    assert!(!scene.has(0), "the address is still there");
    assert_eq!(scene.group.zookeeper.get(CLAIM), None);

    scene.agents[0] = scene.agent(0);
    scene.moves_to(0);
    let before = scene.group.zookeeper.get(CLAIM).unwrap().json()["instance"].clone();
    scene.agents[0].kill();
    scene.agents[0] = scene.agent(0);
    scene.agents[0].wait_for_line("is taken on eth0", LIMIT);
    scene.moves_to(0);
    assert_ne!(scene.group.zookeeper.get(CLAIM).unwrap().json()["instance"], before);
    scene.write();

    // Nobody comes after it: the kernel cleans up.
    scene.agents[0].kill();
    scene.vanishes_from(0);
    scene.finish();
}

/// Everything is looked at before ZooKeeper is.
#[test]
fn what_cannot_work_is_one_clear_line() {
    if let Err(why) = Hosts::available() {
        return skip::skip("what_cannot_work_is_one_clear_line", &why);
    }
    let hosts = Hosts::new(&["r0"]);
    let (host, dir) = (hosts.host("r0"), WorkDir::new("vip"));
    let file = dir.join("monitor.ini");
    fs::write(&file, "[zookeeper]\nhosts = 10.83.0.9:1\npath = /a/posts\n").unwrap();
    let file = file.display().to_string();
    let good = ["vip", &file, "posts", "--interface", "eth0", "--address", "10.83.0.200/24"];
    let with = |at: usize, word: &'static str| {
        let mut words = good;
        words[at] = word;
        words
    };
    let own = format!("{}/24", host.ip());
    let mut taken = good;
    taken[6] = &own;
    for (words, code, said) in [
        (&with(4, "eth7")[..], 2, "there is no interface eth7"),
        (&with(6, "10.83.0.200")[..], 2, "such as 10.0.0.9/24"),
        (&with(6, "10.83.0.255/24")[..], 2, "broadcast"),
        (&with(2, "users")[..], 2, "no service `users`"),
        (&with(1, "/no/such/file")[..], 2, "cannot be read"),
        (&taken[..], 2, "is configured on this host by somebody else"),
        (&good[..5], 2, "needs --interface and --address"),
        (&good[..2], 2, "expected: monitor vip FILE SERVICE"),
    ] {
        let (found, printed) = programs::run_on(&host, "monitor", words, &[], LIMIT);
        assert_eq!(found, code, "{words:?}: {printed}");
        assert!(printed.contains(said), "{words:?}: {printed}");
    }
    let monitor = programs::path_of("monitor");
    let denied = host.run(|| {
        Command::new("setpriv")
            .args(["--bounding-set=-all", "--inh-caps=-all"])
            .arg(monitor)
            .args(good)
            .output()
    });
    let denied = denied.unwrap();
    let printed = String::from_utf8_lossy(&denied.stderr);
    assert_eq!(denied.status.code(), Some(1), "{printed}");
    assert!(printed.contains("run as root, or with CAP_NET_ADMIN and CAP_NET_RAW"), "{printed}");
}
