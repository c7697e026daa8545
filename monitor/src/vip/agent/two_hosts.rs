//! Two agents, one ZooKeeper, two kernels under virtual time: everything may be late, lost or stand still, and both hosts may
//! want the address at once, whatever the record says. Never do both have it.

use fastrand::Rng;

use super::*;

const STEP: Duration = Duration::from_millis(5);
const SESSION: Duration = Duration::from_secs(6);
const CALL: Duration = Duration::from_secs(1);

/// What is on its way to ZooKeeper or back.
#[derive(Debug, Clone)]
enum Request {
    Claim,
    Renew,
    Unclaim,
    Clear,
}

#[derive(Debug)]
struct Host {
    agent: Agent,
    wants: bool,
    asked: Time,
    /// Until then the process stands still.
    paused: Time,
    /// What it was about to do when it was stopped.
    unfinished: bool,
    /// Until then nothing passes between it and ZooKeeper.
    cut: Time,
    /// When the kernel will have removed the address, if it has it.
    address: Option<Time>,
    generation: u64,
    /// When ZooKeeper ends its session; `None`: it has.
    session: Option<Time>,
    /// Arrives there then, sent at.
    requests: Vec<(Time, Time, u64, Request)>,
    answers: Vec<(Time, Event)>,
    /// What it was last told of the claim.
    told: Option<Seen>,
}

struct World {
    rng: Rng,
    now: Time,
    hosts: [Host; 2],
    /// Who, in which session.
    claim: Option<(usize, u64)>,
    taken: usize,
    /// No new fault begins.
    calm: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let host = || Host {
            agent: Agent::new(Duration::from_millis(500)),
            wants: true,
            asked: Time::ZERO,
            paused: Time::ZERO,
            unfinished: false,
            cut: Time::ZERO,
            address: None,
            generation: 0,
            session: None,
            requests: Vec::new(),
            answers: Vec::new(),
            told: None,
        };
        let rng = Rng::with_seed(seed);
        Self { rng, now: Time::ZERO, hosts: [host(), host()], claim: None, taken: 0, calm: false }
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.rng.u32(0..one_in) == 0
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(range))
    }

    /// Up to `most` ms, and every other time the worst: none.
    fn extreme(&mut self, most: u64) -> Duration {
        if self.chance(2) { Duration::ZERO } else { self.millis(0..most) }
    }

    /// How long something is under way: some milliseconds, or seconds.
    fn way(&mut self) -> Duration {
        let late = !self.calm && self.chance(20);
        self.millis(if late { 0..3000 } else { 0..40 })
    }

    fn step(&mut self) {
        self.now += STEP;
        for at in 0..2 {
            if !self.calm {
                self.fault(at);
            }
            self.expire(at);
            self.serve(at);
            let host = &mut self.hosts[at];
            host.address.take_if(|end| *end <= self.now);
            if host.paused <= self.now {
                self.live(at);
            }
        }
        let both = self.hosts.iter().all(|host| host.address.is_some());
        assert!(!both, "both have it at {:?}: {:#?}", self.now, self.hosts);
    }

    /// The worst moments: right after a renewal has arrived, and right after a lifetime was set.
    fn worst(&mut self) -> Option<Time> {
        (!self.calm && self.chance(30)).then(|| self.now + self.millis(5000..10_000))
    }

    fn fault(&mut self, at: usize) {
        if self.chance(1000) {
            self.hosts[at].paused = self.now + self.millis(0..15_000);
        }
        if self.chance(2000) {
            self.hosts[at].cut = self.now + self.millis(0..10_000);
        }
        if self.chance(800) {
            self.hosts[at].wants ^= true;
        }
    }

    /// ZooKeeper ends a session at the earliest three quarters of it after what it was sent last, and may be late.
    fn touch(&mut self, at: usize) {
        let end = self.now + SESSION / 4 * 3 + self.extreme(3500);
        self.hosts[at].session = Some(end);
    }

    fn expire(&mut self, at: usize) {
        if self.hosts[at].session.take_if(|end| *end <= self.now).is_some() {
            let ended = (at, self.hosts[at].generation);
            self.claim.take_if(|claim| *claim == ended);
        }
    }

    /// What arrives at ZooKeeper, and what it answers.
    fn serve(&mut self, at: usize) {
        let now = self.now;
        let due = |request: &(Time, Time, u64, Request)| request.0 <= now;
        let arrived: Vec<_> = self.hosts[at].requests.extract_if(.., |request| due(request)).collect();
        for (_, sent, generation, request) in arrived {
            let host = &self.hosts[at];
            let over = host.session.is_none() || host.generation != generation;
            let lost = host.cut > now;
            let answer = match request {
                _ if lost => None,
                Request::Claim if over => Some(Event::NotClaimed("over".into())),
                Request::Renew if over => Some(Event::Lost("over".into())),
                Request::Unclaim if over => Some(Event::Unclaimed),
                Request::Clear if over => Some(Event::Cleared),
                Request::Claim if self.claim.is_some() => Some(Event::NotClaimed("taken".into())),
                Request::Claim => {
                    self.claim = Some((at, generation));
                    Some(Event::Claimed { generation, sent })
                }
                Request::Renew if self.claim == Some((at, generation)) => Some(Event::Renewed(sent)),
                Request::Renew => Some(Event::Lost("not ours".into())),
                Request::Unclaim => {
                    self.claim.take_if(|claim| *claim == (at, generation));
                    Some(Event::Unclaimed)
                }
                Request::Clear => {
                    self.claim.take_if(|(host, of)| *host == at && *of != generation);
                    Some(Event::Cleared)
                }
            };
            if answer.is_some() && !over {
                self.touch(at);
                if let Some(until) = self.worst() {
                    self.hosts[at].cut = until;
                }
            }
            // An answer that is lost shows as the end of the call; what it was about may have happened.
            let answer = answer.filter(|_| self.calm || !self.chance(10));
            let (after, event) = match (answer, request) {
                (Some(event), _) => (now + self.way(), event),
                (None, Request::Claim) => (sent + CALL, self.settled(at, generation, sent)),
                (None, Request::Renew) => (sent + CALL, Event::NotRenewed("open".into())),
                (None, Request::Unclaim) => (sent + CALL, Event::NotUnclaimed("open".into())),
                (None, Request::Clear) => (sent + CALL, Event::Cleared),
            };
            self.hosts[at].answers.push((after, event));
        }
    }

    /// A claim without an answer is looked at until it is known.
    fn settled(&self, at: usize, generation: u64, sent: Time) -> Event {
        match self.claim == Some((at, generation)) {
            true => Event::Claimed { generation, sent },
            false => Event::NotClaimed("not ours".into()),
        }
    }

    /// One turn of a process that does not stand still.
    fn live(&mut self, at: usize) {
        if std::mem::take(&mut self.hosts[at].unfinished) {
            self.carry_out(at);
        }
        let mut events = self.news(at);
        let now = self.now;
        events.extend(self.hosts[at].answers.extract_if(.., |(due, _)| *due <= now).map(|(_, event)| event));
        if self.hosts[at].agent.poll_timeout().is_some_and(|due| due <= now) {
            events.push(Event::Tick);
        }
        self.rng.shuffle(&mut events);
        let mut events = events.into_iter();
        while let Some(event) = events.next() {
            self.hosts[at].agent.handle(event, now);
            if !self.calm && self.chance(500) {
                self.hosts[at].paused = now + self.millis(0..12_000);
                self.hosts[at].unfinished = true;
                self.hosts[at].answers.extend(events.map(|event| (now, event)));
                return;
            }
            self.carry_out(at);
        }
    }

    /// What it is told without having asked: by its server, its session, and the watch on the claim.
    fn news(&mut self, at: usize) -> Vec<Event> {
        let (now, mut events) = (self.now, Vec::new());
        if now >= self.hosts[at].asked + Duration::from_millis(100) {
            let asked = std::mem::replace(&mut self.hosts[at].asked, now);
            events.push(Event::Server(Server::Primary { run_id: "r".into(), asked }));
            events.push(Event::Record(match self.hosts[at].wants {
                true => Record::Here { epoch: 1, run_id: "r".into() },
                false => Record::Not("elsewhere".into()),
            }));
        }
        if self.hosts[at].cut > now {
            return events;
        }
        if self.hosts[at].session.is_some() {
            if self.chance(100) {
                self.touch(at);
            }
        } else if self.chance(30) {
            self.hosts[at].generation += 1;
            self.touch(at);
            let session = self.hosts[at].generation;
            self.hosts[at].told = None;
            events.push(Event::Session(Lease::of(SESSION).map(|lease| (session, lease))));
        }
        let seen = match self.claim {
            None => Seen::Free,
            Some((host, generation)) if host == at && generation == self.hosts[at].generation => Seen::Own,
            Some((host, _)) if host == at => Seen::Orphan,
            Some(_) => Seen::Other("the other".into()),
        };
        if self.hosts[at].told.as_ref() != Some(&seen) && self.chance(4) {
            self.hosts[at].told = Some(seen.clone());
            events.push(Event::Claim(seen));
        }
        events
    }

    fn carry_out(&mut self, at: usize) {
        while let Some(command) = self.hosts[at].agent.poll_command() {
            let request = match command {
                Command::Claim { .. } => Request::Claim,
                Command::Renew => Request::Renew,
                Command::Unclaim => Request::Unclaim,
                Command::Clear => Request::Clear,
                Command::Add(seconds) => {
                    self.set(at, seconds);
                    self.hosts[at].agent.handle(Event::Added, self.now);
                    continue;
                }
                Command::Refresh(seconds) => {
                    let was_there = self.hosts[at].address.is_some();
                    self.set(at, seconds);
                    self.hosts[at].agent.handle(Event::Refreshed(was_there), self.now);
                    continue;
                }
                Command::Remove => {
                    let removed = self.calm || !self.chance(20);
                    let event = if removed { Event::Removed } else { Event::NotRemoved("busy".into()) };
                    if removed {
                        self.hosts[at].address = None;
                    }
                    self.hosts[at].agent.handle(event, self.now);
                    continue;
                }
                Command::Say(Line::Taken(_)) => {
                    self.taken += 1;
                    continue;
                }
                Command::Announce | Command::Say(_) | Command::End => continue,
            };
            let late = self.way();
            let generation = self.hosts[at].generation;
            self.hosts[at].requests.push((self.now + late, self.now, generation, request));
        }
    }

    /// The kernel may be a quarter of a second early and a second and a quarter late.
    fn set(&mut self, at: usize, seconds: u32) {
        let late = Duration::from_millis(1500) - self.extreme(1500);
        let end = self.now + Duration::from_secs(seconds.into()) + late;
        self.hosts[at].address = Some(end - Duration::from_millis(250));
        if let Some(until) = self.worst() {
            self.hosts[at].paused = until;
        }
    }
}

#[test]
fn never_both_and_in_the_end_the_one_that_wants_it() {
    let mut taken = 0;
    for seed in 0..300 {
        let mut world = World::new(seed);
        while world.now < Duration::from_secs(60) {
            world.step();
        }
        // Faults end; the second host wants it, the first does not.
        world.calm = true;
        (world.hosts[0].wants, world.hosts[1].wants) = (false, true);
        while world.now < Duration::from_secs(120) {
            world.step();
        }
        let has: Vec<bool> = world.hosts.iter().map(|host| host.address.is_some()).collect();
        assert_eq!(has, [false, true], "seed {seed}: {:#?}", world.hosts);
        taken += world.taken;
    }
    // Else nothing was tried.
    assert!(taken > 1500, "taken {taken} times only");
}
