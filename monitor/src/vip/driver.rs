//! The loop: waits for the next input, hands it in, does what the agent asks. The kernel is asked in place, for it answers in
//! microseconds; ZooKeeper, the server and the resolver are asked by tasks.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use topology::zookeeper::{Options, Session, SessionPhase, Store};
use topology::{Endpoint, Layout, Phase, State, ZnodePath};
use tracing::{info, warn};

use super::agent::{Agent, Command, Event, Line, Record, Server};
use super::arp::{self, Announcer};
use super::claim::{Claims, Outcome};
use super::kernel::{Interface, Kernel};
use super::lease::Lease;
use super::server::{Probe, Target};
use super::{Failure, Request};
use crate::clock::Clock;
use crate::config::Config;
use crate::quiet::Quiet;

/// How often this host is looked for again while the primary seems to be elsewhere: interfaces and names may come later.
const LOCATE_EVERY: Duration = Duration::from_secs(1);
/// An address that lives longer than this was not left by an agent: that would need a session of ten minutes.
const LEFT_BEHIND_AT_MOST: u32 = 300;

/// What tasks tell the loop. Claims are numbered, so that what comes late is told from what is new.
pub(crate) enum Input {
    /// For the agent.
    Event(Event),
    /// What became of a claim.
    Claimed(u64, Outcome),
    /// What became of a renewal of this claim.
    Renewed(u64, Outcome),
    /// What became of letting this claim go.
    Unclaimed(u64, Outcome),
    /// Where a name leads.
    Resolved(Endpoint, Vec<IpAddr>),
}

/// The claim that was made last.
#[derive(Clone, Copy, Default)]
struct Claim {
    number: u64,
    generation: u64,
    version: i32,
}

struct Driver<'a> {
    config: &'a Config,
    request: &'a Request,
    clock: Clock,
    inputs: mpsc::UnboundedSender<Input>,
    agent: Agent,
    kernel: Kernel,
    interface: Interface,
    announcing: Option<JoinHandle<()>>,
    claims: Claims,
    claim: Claim,
    /// The present session; 0: none.
    generation: u64,
    state: Option<State>,
    /// Where the primary can be asked, if it is here.
    place: Option<Endpoint>,
    resolved: Option<(Endpoint, Vec<IpAddr>)>,
    probe: Option<Probe>,
    quiet: Quiet,
}

/// Runs until SIGTERM or SIGINT. The address and the claim are not held any more when this returns.
pub(crate) async fn run(config: &Config, path: &ZnodePath, request: &Request) -> Result<(), Failure> {
    let _alone = alone(request)?;
    let mut kernel =
        Kernel::open().map_err(|error| Failure::Failed(format!("no netlink socket: {error}")))?;
    let interface = prepare(&mut kernel, request)?;
    let failed = |error: io::Error| Failure::Failed(error.to_string());
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let (inputs, mut inbox) = mpsc::unbounded_channel();
    let (clock, layout) = (Clock::start(), Layout::new(config.zookeeper.state_root.clone()));
    let store = Store::open(store_options(config));
    let claims = claims(&store, clock, layout.vip(request.address.ip), &request.service).map_err(failed)?;
    let (mut session, mut claim) = (store.session(), store.follow(&claims.path));
    let mut state = store.follow(&layout.state(path));
    let mut driver = Driver {
        config,
        request,
        clock,
        inputs,
        agent: Agent::new(config.detector.down_after),
        kernel,
        interface,
        announcing: None,
        claims,
        claim: Claim::default(),
        generation: 0,
        state: None,
        place: None,
        resolved: None,
        probe: None,
        quiet: Quiet::default(),
    };
    info!("the agent for {} on {} starts, service `{}`", request.address, request.interface, request.service);
    let mut locate = interval(LOCATE_EVERY);
    locate.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if driver.carry_out() {
            break;
        }
        let timeout = driver.agent.poll_timeout();
        tokio::select! {
            Some(input) = inbox.recv() => driver.take_in(input),
            Ok(()) = session.changed() => {
                let session = *session.borrow_and_update();
                driver.session(session)?;
                let seen = driver.claims.read(driver.generation, &claim.borrow_and_update().seen);
                driver.hand_in(Event::Claim(seen));
            }
            Ok(()) = claim.changed() => {
                let seen = driver.claims.read(driver.generation, &claim.borrow_and_update().seen);
                driver.hand_in(Event::Claim(seen));
            }
            Ok(()) = state.changed() => {
                let content = state.borrow_and_update().seen.there().map(|znode| znode.data.clone());
                driver.record(content.as_deref());
            }
            _ = locate.tick() => if driver.place.is_none() { driver.locate() },
            () = at(timeout.map(|time| clock.instant(time))) => driver.hand_in(Event::Tick),
            _ = terminate.recv() => driver.hand_in(Event::Stop),
            _ = interrupt.recv() => driver.hand_in(Event::Stop),
        }
    }
    drop(driver);
    store.close().await;
    info!("stopped");
    Ok(())
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// One agent per address and network namespace: as long as this lives, no other one gets it, and the kernel frees it with the
/// process. So whatever an agent left behind in this network is nobody's any more.
fn alone(request: &Request) -> Result<UnixListener, Failure> {
    let ip = request.address.ip;
    let name = UnixAddress::from_abstract_name(format!("albireo-vip/{ip}"));
    let bound = name.and_then(|name| UnixListener::bind_addr(&name));
    bound.map_err(|error| match error.raw_os_error() {
        Some(libc::EADDRINUSE) => Failure::Failed(format!("another agent for {ip} runs on this host")),
        _ => Failure::Failed(format!("cannot make sure to be the only agent for {ip} on this host: {error}")),
    })
}

/// Looks whether the host is as it has to be, and removes the address if an agent left it behind.
fn prepare(kernel: &mut Kernel, request: &Request) -> Result<Interface, Failure> {
    let (name, ip) = (&request.interface, request.address.ip);
    let interface = kernel.interface(name).map_err(|error| match error.raw_os_error() {
        Some(libc::ENODEV) => Failure::Configuration(format!("there is no interface {name} on this host")),
        _ => Failure::Failed(format!("interface {name}: {error}")),
    })?;
    let denied = |error: io::Error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Failure::Failed(format!(
            "addresses of {name} cannot be changed: run as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
        )),
        _ => Failure::Failed(format!("interface {name}: {error}")),
    };
    let mut removed = false;
    for found in kernel.addresses().map_err(denied)?.iter().filter(|found| found.ip == ip) {
        if found.seconds.is_none_or(|seconds| seconds > LEFT_BEHIND_AT_MOST) {
            let why = format!(
                "{ip} is configured on this host by somebody else; the agent must be the only one who does that"
            );
            return Err(Failure::Configuration(why));
        }
        removed |= kernel.remove(found.index, ip).map_err(denied)?;
    }
    // Also where there is nothing to be removed this tells whether we might.
    removed |= kernel.remove(interface.index, ip).map_err(denied)?;
    if removed {
        info!("{ip} was still here from an agent that has ended; removed");
    }
    let announcer = Announcer::open(&interface).map_err(denied)?;
    if announcer.is_none() {
        info!("{name} does not speak Ethernet: no neighbour will be told of {ip}");
    }
    if !interface.up {
        warn!("interface {name} is down");
    }
    Ok(interface)
}

/// A renewal without an answer is given up early enough for two more.
fn store_options(config: &Config) -> Options {
    let options = config.store_options();
    let call_timeout =
        (options.session_timeout / 6).clamp(Duration::from_millis(500), Duration::from_secs(2));
    Options { call_timeout, ..options }
}

fn claims(store: &Store, clock: Clock, path: String, service: &str) -> io::Result<Claims> {
    let instance: String = crate::draw_instance()?.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let network = network().unwrap_or_else(|| instance.clone());
    let (host, service) = (crate::host(), service.to_owned());
    Ok(Claims { store: store.clone(), clock, path, instance, host, network, service })
}

/// The running kernel and the network namespace; nothing where the system does not say.
fn network() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/net").ok()?;
    Some(format!("{}/{}", boot.trim(), namespace.to_str()?))
}

impl Driver<'_> {
    fn hand_in(&mut self, event: Event) {
        self.agent.handle(event, self.clock.now());
    }

    fn take_in(&mut self, input: Input) {
        let event = match input {
            Input::Event(event) => event,
            Input::Claimed(number, Outcome::Ours { sent, version }) => {
                self.claim.version = version;
                debug_assert_eq!(number, self.claim.number);
                Event::Claimed { generation: self.claim.generation, sent }
            }
            Input::Claimed(_, Outcome::NotOurs(why) | Outcome::Open(why)) => Event::NotClaimed(why),
            Input::Renewed(number, _) | Input::Unclaimed(number, _) if number != self.claim.number => return,
            Input::Renewed(_, Outcome::Ours { sent, version }) => {
                self.claim.version = version;
                Event::Renewed(sent)
            }
            Input::Renewed(_, Outcome::NotOurs(why)) => Event::Lost(why),
            Input::Renewed(_, Outcome::Open(why)) => Event::NotRenewed(why),
            Input::Unclaimed(_, Outcome::Open(why)) => Event::NotUnclaimed(why),
            Input::Unclaimed(_, Outcome::Ours { .. } | Outcome::NotOurs(_)) => Event::Unclaimed,
            Input::Resolved(name, found) => {
                self.resolved = Some((name, found));
                return self.locate();
            }
        };
        self.hand_in(event);
    }

    fn session(&mut self, session: Session) -> Result<(), Failure> {
        let alive = matches!(session.phase, SessionPhase::Connected | SessionPhase::Disconnected);
        let timeout = self.claims.store.session_timeout(session.generation).filter(|_| alive);
        let Some(timeout) = timeout else {
            self.generation = 0;
            self.hand_in(Event::Session(None));
            return Ok(());
        };
        let Some(lease) = Lease::of(timeout) else {
            let why = format!(
                "ZooKeeper grants sessions of {} ms; for an address at least {} are needed ([zookeeper] session_timeout_ms)",
                timeout.as_millis(),
                Lease::SMALLEST.as_millis()
            );
            return Err(Failure::Configuration(why));
        };
        self.generation = session.generation;
        self.hand_in(Event::Session(Some((session.generation, lease))));
        Ok(())
    }

    /// A record that is not there or cannot be read changes nothing.
    fn record(&mut self, content: Option<&[u8]>) {
        match content.map(State::from_json) {
            Some(Ok(state)) => {
                self.state = Some(state);
                self.locate();
            }
            Some(Err(error)) => self.warn(&format!("the last good record stays: {error}")),
            None => self.warn("there is no state record; the first monitor writes it"),
        }
    }

    /// Finds out whether the primary is on this host, and asks it if so.
    fn locate(&mut self) {
        let Some(state) = self.state.clone() else { return };
        let State { epoch, phase, primary, .. } = &state;
        let addr = &primary.addr;
        let place = match (&self.request.local, addr.host().parse::<IpAddr>()) {
            (Some(local), _) => (local == addr).then(|| addr.clone()),
            (None, Ok(ip)) => self.is_here(ip).then(|| addr.clone()),
            (None, Err(_)) => self.resolve(addr),
        };
        let record = match (&place, phase) {
            (None, _) => Record::Not(format!("{addr} is primary, epoch {epoch}")),
            (Some(_), Phase::Promoting) => Record::Not(format!("{addr} is being promoted, epoch {epoch}")),
            (Some(_), Phase::Serving) => Record::Here { epoch: *epoch, run_id: primary.run_id.clone() },
        };
        if place == self.place {
            // Whatever changed, its role may have.
            self.probe.iter().for_each(Probe::look);
            return self.hand_in(Event::Record(record));
        }
        if place.is_none() {
            self.hand_in(Event::Record(record.clone()));
        }
        // What another server answered is not to be taken for an answer of this one.
        self.hand_in(Event::Server(Server::Not("it was not asked yet".to_owned())));
        self.probe = place.as_ref().map(|place| self.start_probe(place, addr));
        self.place = place;
        self.hand_in(Event::Record(record));
    }

    fn start_probe(&self, place: &Endpoint, primary: &Endpoint) -> Probe {
        let detector = &self.config.detector;
        let target = Target {
            addr: place.clone(),
            login: self.config.login(primary),
            every: detector.ping_interval,
            connect_timeout: detector.connect_timeout,
            patience: detector.down_after,
        };
        Probe::start(target, self.clock, self.inputs.clone())
    }

    /// Whether one of this host's interfaces has this address, the virtual one apart.
    fn is_here(&mut self, ip: IpAddr) -> bool {
        if ip == self.request.address.ip {
            self.warn("the record names the virtual address itself as that of a server");
            return false;
        }
        match self.kernel.addresses() {
            Ok(all) => all.iter().any(|found| found.ip == ip),
            Err(error) => {
                self.warn(&format!("the addresses of this host cannot be read: {error}"));
                false
            }
        }
    }

    /// Where on this host the name leads. It is looked up in the background; until then it leads nowhere here.
    fn resolve(&mut self, name: &Endpoint) -> Option<Endpoint> {
        let known = self.resolved.take_if(|(resolved, _)| resolved == name);
        if let Some((_, found)) = known {
            let here = found.into_iter().find(|ip| self.is_here(*ip))?;
            self.resolved = Some((name.clone(), vec![here]));
            return Some(SocketAddr::new(here, name.port()).into());
        }
        let (name, inputs) = (name.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let found = tokio::net::lookup_host((name.host(), name.port())).await;
            let found = found.map(|found| found.map(|address| address.ip()).collect());
            if let Ok(found) = found {
                let _ = inputs.send(Input::Resolved(name, found));
            }
        });
        None
    }

    /// Does all that the agent asks for; `true`: nothing is held any more, and it wants to end.
    fn carry_out(&mut self) -> bool {
        while let Some(command) = self.agent.poll_command() {
            match command {
                Command::Claim { epoch, generation } => self.make_claim(epoch, generation),
                Command::Renew => self.renew(),
                Command::Unclaim => self.unclaim(),
                Command::Clear => self.clear(),
                Command::Add(seconds) => {
                    let event =
                        self.add(seconds).map_or_else(|e| Event::NotAdded(e.to_string()), |()| Event::Added);
                    self.hand_in(event);
                }
                Command::Refresh(seconds) => {
                    let event =
                        self.refresh(seconds).unwrap_or_else(|e| Event::Lost(format!("the kernel: {e}")));
                    self.hand_in(event);
                }
                Command::Remove => self.remove(),
                Command::Announce => self.announce(),
                Command::Say(line) => self.say(line),
                Command::End => return true,
            }
        }
        false
    }

    fn make_claim(&mut self, epoch: u64, generation: u64) {
        self.claim = Claim { number: self.claim.number + 1, generation, version: 0 };
        let (claims, number, inputs) = (self.claims.clone(), self.claim.number, self.inputs.clone());
        tokio::spawn(
            async move { inputs.send(Input::Claimed(number, claims.claim(generation, epoch).await)) },
        );
    }

    fn renew(&mut self) {
        let (claims, claim, inputs) = (self.claims.clone(), self.claim, self.inputs.clone());
        let epoch = self.state.as_ref().map_or(0, |state| state.epoch);
        tokio::spawn(async move {
            let outcome = claims.renew(claim.generation, claim.version, epoch).await;
            inputs.send(Input::Renewed(claim.number, outcome))
        });
    }

    fn unclaim(&mut self) {
        let (claims, claim, inputs) = (self.claims.clone(), self.claim, self.inputs.clone());
        tokio::spawn(async move {
            let outcome = claims.unclaim(claim.generation, claim.version).await;
            inputs.send(Input::Unclaimed(claim.number, outcome))
        });
    }

    fn clear(&mut self) {
        let (claims, generation, inputs) = (self.claims.clone(), self.generation, self.inputs.clone());
        tokio::spawn(async move {
            claims.clear(generation).await;
            inputs.send(Input::Event(Event::Cleared))
        });
    }

    fn add(&mut self, seconds: u32) -> io::Result<()> {
        // It may have been made anew meanwhile.
        self.interface = self.kernel.interface(&self.request.interface)?;
        self.kernel.add(self.interface.index, self.request.address, seconds)
    }

    fn refresh(&mut self, seconds: u32) -> io::Result<Event> {
        let (ip, index) = (IpAddr::V4(self.request.address.ip), self.interface.index);
        let was_there = self.kernel.addresses()?.iter().any(|found| found.ip == ip && found.index == index);
        self.kernel.refresh(index, self.request.address, seconds)?;
        Ok(Event::Refreshed(was_there))
    }

    fn remove(&mut self) {
        if let Some(announcing) = self.announcing.take() {
            announcing.abort();
        }
        let event = match self.kernel.remove(self.interface.index, self.request.address.ip) {
            Ok(_) => Event::Removed,
            Err(error) => Event::NotRemoved(error.to_string()),
        };
        self.hand_in(event);
    }

    /// Tells the neighbours now and some more times.
    fn announce(&mut self) {
        let ip = self.request.address.ip;
        let mut announcer = match Announcer::open(&self.interface) {
            Ok(Some(announcer)) => announcer,
            Ok(None) => return,
            Err(error) => return self.warn(&format!("the neighbours cannot be told: {error}")),
        };
        if let Err(error) = announcer.announce(ip) {
            self.warn(&format!("the neighbours cannot be told: {error}"));
        }
        let later = tokio::spawn(async move {
            let begun = Instant::now();
            for moment in arp::MOMENTS.into_iter().skip(1) {
                sleep((begun + moment).saturating_duration_since(Instant::now())).await;
                let _ = announcer.announce(ip);
            }
        });
        if let Some(earlier) = self.announcing.replace(later) {
            earlier.abort();
        }
    }

    fn say(&mut self, line: Line) {
        let Request { service, interface, address, .. } = self.request;
        match line {
            Line::Taken(epoch) => info!(service, epoch, "{address} is taken on {interface}"),
            Line::Released(epoch, why) => info!(service, epoch, "{address} is released: {why}"),
            Line::Waiting(host) => {
                info!(
                    service,
                    "the primary is here, but the agent on {host} claims {address}; waiting until that is over"
                );
            }
            Line::Trouble(what) => self.warn(&what),
        }
    }

    fn warn(&mut self, what: &str) {
        if self.quiet.is_due(what, self.clock.now()) {
            warn!(service = self.request.service, "{}: {what}", self.request.address);
        }
    }
}
