//! A group of three servers, a (the primary), b and c, under one monitor, and a scene in which things happen to it.
//! What the core asks for is read off as short words, so that a test shows all of it.
#![allow(dead_code, clippy::unwrap_used)]

use std::time::Duration;

use failover::view::Announced;
use failover::{
    Action, Command, Deed, Done, Event, Fence, Group, Limits, Look, Observation, Order, Outcome,
    PublishOutcome, Role, Stored, Time,
};
use topology::{Endpoint, InSync, Phase, PrimaryRef, State};

pub(crate) const fn ms(n: u64) -> Time {
    Duration::from_millis(n)
}

/// `a` is `a:1`.
pub(crate) fn at(name: &str) -> Endpoint {
    format!("{name}:1").parse().unwrap()
}

pub(crate) fn name(addr: &Endpoint) -> &str {
    addr.host()
}

/// The process at an address that was never restarted.
pub(crate) fn run(name: &str) -> String {
    format!("{name}0")
}

pub(crate) fn entry(name: &str, since: u64) -> InSync {
    InSync {
        addr: at(name),
        seen_as: format!("{name}:1"),
        run_id: run(name),
        since,
        replid: "h1".into(),
        later: Vec::new(),
    }
}

/// Epoch 3: a serves, b (since 2) and c (since 3) are in sync.
pub(crate) fn record() -> State {
    State {
        epoch: 3,
        promoted: 1,
        primary: PrimaryRef { addr: at("a"), run_id: run("a"), replid: "h1".into() },
        in_sync: vec![entry("b", 2), entry("c", 3)],
        min_in_sync: 1,
        members: vec![at("a"), at("b"), at("c")],
        adopted: vec![at("a"), at("b"), at("c")],
        path_version: 0,
        cold: false,
        floor: None,
        from: None,
        phase: Phase::Serving,
        leader: "me".into(),
        reason: "test".into(),
    }
}

/// Epoch 4: b is being promoted, c is in sync.
pub(crate) fn promoting() -> State {
    State {
        epoch: 4,
        promoted: 4,
        primary: PrimaryRef { addr: at("b"), run_id: run("b"), replid: String::new() },
        in_sync: vec![entry("c", 3)],
        phase: Phase::Promoting,
        ..record()
    }
}

/// What a primary says to which b and c are attached.
pub(crate) fn primary(name: &str, offset: u64) -> Observation {
    let others = ["a", "b", "c"].into_iter().filter(|other| *other != name);
    Observation {
        run_id: run(name),
        role: Role::Primary { replicas: others.map(|other| (format!("{other}:1"), offset)).collect() },
        replid: "h1".into(),
        offset,
        fence: Fence::At(3),
        shows_as: format!("{name}:1"),
        tick: Some(9),
        empty: false,
        credential: Some(1),
        read_only: false,
    }
}

/// What a replica says that follows this server over a link that is up, or down.
pub(crate) fn replica(name: &str, of: &str, link_up: bool, offset: u64) -> Observation {
    Observation {
        role: Role::Replica { source: Some(at(of)), link_up, syncing: false },
        read_only: true,
        ..primary(name, offset)
    }
}

/// What a replica says that was told to follow nobody.
pub(crate) fn detached(name: &str) -> Observation {
    let role = Role::Replica { source: None, link_up: false, syncing: false };
    Observation { role, ..replica(name, "a", false, 100) }
}

pub(crate) fn syncing(seen: Observation) -> Observation {
    let role = match seen.role {
        Role::Replica { source, .. } => Role::Replica { source, link_up: false, syncing: true },
        role @ Role::Primary { .. } => role,
    };
    Observation { role, ..seen }
}

/// An order of the record's reign.
pub(crate) fn order(backend: &str, deed: Deed, record: State) -> Order {
    Order { backend: at(backend), deed, record, version: 5, reign: 7, restart_guard: true }
}

pub(crate) fn look(seen: Observation) -> Look {
    Look { seen, holds_data: true, guarded: false }
}

/// Commands in short.
pub(crate) fn words(commands: &[Command]) -> String {
    let word = |command: &Command| match command {
        Command::ReadOnly => "read-only".into(),
        Command::CreateCredential { promoted, run_id } => format!("create user {promoted} {run_id}"),
        Command::UseCredential { promoted, run_id } => format!("use user {promoted} {run_id}"),
        Command::UseLogin(primary) => format!("use login of {}", primary.host()),
        Command::OpenToReplicas => "open to replicas".into(),
        Command::KeepBacklog => "keep backlog".into(),
        Command::BecomePrimary => "become primary".into(),
        Command::Follow(to) => format!("follow {}", name(to)),
        Command::Stamp(epoch) => format!("stamp {epoch}"),
        Command::CutClients => "cut clients".into(),
        Command::Detach => "detach".into(),
        Command::Pause(millis) => format!("pause {millis}"),
        Command::Unpause => "unpause".into(),
        Command::Tick { anew } => if *anew { "first tick" } else { "tick" }.into(),
    };
    commands.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// How R4 refuses an order.
pub(crate) fn refused(why: failover::Disqualified) -> Outcome {
    Outcome::Refused(failover::Refused::Candidate(why))
}

fn done_words(done: &Done) -> String {
    match done {
        Done::Added(addr) => format!("{} added", addr.host()),
        Done::Removed { addr, released } => format!("{} removed, released {released}", addr.host()),
        Done::FailedOver(timeline) => {
            format!("failed over to {}", timeline.as_ref().map_or("?", |timeline| timeline.to.host()))
        }
    }
}

pub(crate) struct Scene {
    pub(crate) group: Group,
    pub(crate) now: Time,
    /// Publications asked for, by number.
    published: Vec<(u64, State, bool)>,
}

impl Scene {
    /// A monitor that leads (reign 7) and has read the record at version 5; all servers answer and are attached.
    pub(crate) fn leading(state: State) -> Self {
        Self::leading_with(Limits::default(), state)
    }

    /// The same under other limits.
    pub(crate) fn leading_with(limits: Limits, state: State) -> Self {
        let mut scene = Self::passive_with(limits, state);
        scene.event(Event::Reign(Some(7)));
        scene.event(Event::Paused(false));
        scene.read_again();
        scene.all_answer();
        scene.did();
        scene
    }

    /// The same without the lead.
    pub(crate) fn passive(state: State) -> Self {
        Self::passive_with(Limits::default(), state)
    }

    fn passive_with(limits: Limits, state: State) -> Self {
        let mut scene = Self { group: Group::new("me".into(), limits), ..Self::empty() };
        let topology = state.topology();
        scene.event(Event::State(Stored::Is(state), 5));
        scene.event(Event::Announced(Announced::Is(topology), 0));
        for name in ["a", "b", "c"] {
            scene.event(Event::Opened(at(name)));
        }
        scene.all_answer();
        scene.did();
        scene
    }

    pub(crate) fn empty() -> Self {
        Self { group: Group::new("me".into(), Limits::default()), now: ms(1000), published: Vec::new() }
    }

    /// What is recorded is read again, as a new reign asks.
    pub(crate) fn read_again(&mut self) {
        if let Some((state, version)) = self.group.view().record.clone() {
            self.event(Event::State(Stored::Is(state), version));
        }
    }

    /// Every server says what it said last, or that it is in its recorded role.
    pub(crate) fn all_answer(&mut self) {
        self.pass(1);
        for name in ["a", "b", "c"] {
            let state = self.group.view().state().cloned().unwrap_or_else(record);
            let of = state.primary.addr.host().to_owned();
            let fence = Fence::At(state.epoch);
            let seen = if of == name { primary(name, 100) } else { replica(name, &of, true, 100) };
            self.seen(name, Observation { fence, ..seen });
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.group.handle(event, self.now);
    }

    pub(crate) fn seen(&mut self, name: &str, seen: Observation) {
        self.event(Event::Seen(at(name), self.now, seen.into()));
    }

    pub(crate) fn pass(&mut self, millis: u64) {
        self.now += ms(millis);
        self.event(Event::Tick);
    }

    /// The process is gone: its connection is closed, and a new one refused.
    pub(crate) fn kill(&mut self, name: &str) {
        self.event(Event::Closed(at(name)));
        self.event(Event::ConnectionRefused(at(name)));
    }

    pub(crate) fn ordered(&mut self, name: &str, outcome: Outcome) {
        self.event(Event::Ordered(at(name), self.now, outcome));
    }

    /// The last publication stands at that version of the record.
    pub(crate) fn stands(&mut self, version: i32) {
        let (number, _, announced) = self.published.last().cloned().unwrap();
        let path = announced.then_some(1);
        self.event(Event::Published(number, PublishOutcome::Done { state: version, path }));
    }

    /// The outcome of the last publication is not known, or it was refused.
    pub(crate) fn fails(&mut self) {
        let (number, ..) = self.published.last().cloned().unwrap();
        self.event(Event::Published(number, PublishOutcome::Failed));
    }

    /// The record that was last asked to be published.
    pub(crate) fn wanted(&self) -> State {
        self.published.last().unwrap().1.clone()
    }

    /// The record that was asked to be published since, if one was.
    pub(crate) fn published_last(&mut self) -> Option<State> {
        let before = self.published.len();
        self.did();
        (self.published.len() > before).then(|| self.wanted())
    }

    /// Everything that was asked for since.
    pub(crate) fn did(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(action) = self.group.poll_action() {
            match action {
                Action::Publish(p) => {
                    let set: Vec<&str> = p.next.in_sync.iter().map(|e| e.addr.host()).collect();
                    let phase = match p.next.phase {
                        Phase::Promoting => "promoting",
                        Phase::Serving => "serving",
                    };
                    let announce = if p.announce.is_some() { ", announce" } else { "" };
                    let (epoch, primary) = (p.next.epoch, name(&p.next.primary.addr));
                    let on = p.expected.map_or("new".into(), |version| version.to_string());
                    out.push(format!("publish on {on}: {epoch} {phase} {primary} {set:?}{announce}"));
                    self.published.push((p.number, p.next, p.announce.is_some()));
                }
                Action::Order(order) => {
                    let what = match &order.deed {
                        Deed::Promote { basis: Some(basis) } => format!("promote (R4 by {})", basis.epoch),
                        Deed::Promote { basis: None } => "promote".into(),
                        Deed::Stamp => "stamp".into(),
                        Deed::Attach => "attach".into(),
                        Deed::Protect => "protect".into(),
                        Deed::Detach => "detach".into(),
                        Deed::Tick => "tick".into(),
                        Deed::Release => "release".into(),
                        Deed::Pause => "pause".into(),
                        Deed::Leave => "leave".into(),
                        Deed::Unpause => "unpause".into(),
                    };
                    out.push(format!("{what} {} [{}]", name(&order.backend), order.record.epoch));
                }
                Action::Look(addr) => out.push(format!("look {}", name(&addr))),
                Action::Reread => out.push("reread".into()),
                Action::Say(_) => {}
                Action::Completed(timeline) => out.push(format!("completed {}", timeline.epoch)),
                Action::Answer(number, Ok(done)) => {
                    out.push(format!("answer {number}: {}", done_words(&done)))
                }
                Action::Answer(number, Err(why)) => out.push(format!("answer {number}: {why}")),
                Action::Edited(to, None) => out.push(format!("edited {}", name(&to))),
                Action::Edited(to, Some(Ok(done))) => {
                    out.push(format!("edited {}: {}", name(&to), done_words(&done)))
                }
                Action::Edited(to, Some(Err(why))) => out.push(format!("edited {}: {why}", name(&to))),
            }
        }
        out
    }

    /// The same without looks.
    pub(crate) fn acts(&mut self) -> Vec<String> {
        self.did().into_iter().filter(|what| !what.starts_with("look")).collect()
    }
}
