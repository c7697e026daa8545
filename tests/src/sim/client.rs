//! A monitor's session with the store, as `topology::zookeeper` keeps it: reconnects by itself, gives every call one
//! of three outcomes, follows znodes over all sessions.

use std::collections::{BTreeMap, BTreeSet};

use failover::{Event as GroupEvent, PublishOutcome};

use super::kernel::{MS, Sim, Us, say};
use super::monitor::{Timer, announcement_event, leader, state_event};
use super::net::{Body, ConnId, Node, OPENER, Purpose};
use super::store::{Answer, Content, Failure, Path, Request};

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Connected,
    Disconnected,
    Expired,
}

/// What a call is for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Call {
    Nothing,
    Connect,
    Follow(Path),
    Publish(u64),
    /// R1: do the lead and the record still stand?
    Stands {
        server: usize,
        serial: u32,
    },
    Reread(Path),
    TakeLead,
    ReadLeader,
    Register(u64),
    WriteOpinion,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) phase: Phase,
    pub(super) generation: u64,
    /// Our name is registered under that session.
    pub(super) registered: Option<u64>,
    session: Option<u64>,
    conn: Option<ConnId>,
    opened: Us,
    heard: Us,
    pinged: Us,
    last_call: u64,
    sent: BTreeMap<u64, (Call, Us)>,
    waiting: Vec<(Option<u64>, Request, Call, Us)>,
    /// What is followed, and what was last read there.
    follows: BTreeMap<Path, Option<Option<(Content, i32)>>>,
    /// Znodes without a watch at the moment.
    blind: BTreeSet<Path>,
    /// Znodes that changed: what is read there next is told, even if it is what was told before.
    news: BTreeSet<Path>,
}

const CALL_TIMEOUT: Us = 2000 * MS;
const TICK: Us = 100 * MS;

impl Client {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Connecting,
            generation: 0,
            registered: None,
            session: None,
            conn: None,
            opened: 0,
            heard: 0,
            pinged: 0,
            last_call: 0,
            sent: BTreeMap::new(),
            waiting: Vec::new(),
            follows: BTreeMap::new(),
            blind: BTreeSet::new(),
            news: BTreeSet::new(),
        }
    }
}

impl Sim {
    /// Looks after the connection.
    pub(super) fn client_tick(&mut self, at: usize) {
        self.start(at, TICK, Timer::Store);
        if self.monitors[at].client.follows.is_empty() {
            let peer = 1 - at;
            let shared = [Path::Leader, Path::State, Path::Announcement, Path::Paused];
            for path in shared.into_iter().chain([Path::Monitor(peer), Path::Opinion(peer)]) {
                self.monitors[at].client.follows.insert(path, None);
            }
        }
        let (now, session) = (self.now, self.plan.session);
        let client = &mut self.monitors[at].client;
        match client.phase {
            Phase::Connected if now > client.heard + session * 2 / 5 => self.client_lost(at),
            Phase::Connected => {
                self.refollow(at);
                let client = &mut self.monitors[at].client;
                if now > client.pinged + session / 5 {
                    client.pinged = now;
                    self.call(at, None, Request::Ping, Call::Nothing);
                }
            }
            Phase::Disconnected if now > client.heard + session * 7 / 5 => {
                self.client_expired(at);
            }
            Phase::Disconnected | Phase::Connecting | Phase::Expired => self.client_connects(at),
        }
        self.fail_late_calls(at);
    }

    fn client_connects(&mut self, at: usize) {
        let client = &mut self.monitors[at].client;
        if client.conn.is_some() && self.now < client.opened + 500 * MS {
            return;
        }
        if let Some(conn) = client.conn.take() {
            self.close(conn, OPENER);
        }
        let conn = self.open(Node::Monitor(at), Node::Store, Purpose::Store { monitor: at });
        let client = &mut self.monitors[at].client;
        (client.conn, client.opened) = (Some(conn), self.now);
    }

    /// The connection is gone: what was sent has an unknown outcome, the session may live on.
    fn client_lost(&mut self, at: usize) {
        let client = &mut self.monitors[at].client;
        if let Some(conn) = client.conn.take() {
            self.close(conn, OPENER);
        }
        let client = &mut self.monitors[at].client;
        let failed = std::mem::take(&mut client.sent);
        if client.phase == Phase::Connected {
            client.phase = Phase::Disconnected;
            self.turn(at, |sim| sim.session_changed(at));
        }
        for (call, _) in failed.into_values() {
            self.returned(at, call, None);
        }
    }

    fn client_expired(&mut self, at: usize) {
        let client = &mut self.monitors[at].client;
        if let Some(conn) = client.conn.take() {
            self.close(conn, OPENER);
        }
        let client = &mut self.monitors[at].client;
        (client.phase, client.session) = (Phase::Expired, None);
        self.turn(at, |sim| sim.session_changed(at));
    }

    fn fail_late_calls(&mut self, at: usize) {
        let now = self.now;
        let client = &mut self.monitors[at].client;
        let late: Vec<u64> = client
            .sent
            .iter()
            .filter(|(_, (_, since))| now > since + CALL_TIMEOUT)
            .map(|(number, _)| *number)
            .collect();
        let mut failed: Vec<Call> =
            late.iter().filter_map(|number| client.sent.remove(number)).map(|(call, _)| call).collect();
        let (phase, generation) = (client.phase, client.generation);
        let over = |bound: &Option<u64>, since: Us| {
            let session_over = bound.is_some_and(|bound| {
                bound != generation || !matches!(phase, Phase::Connected | Phase::Disconnected)
            });
            session_over || now > since + CALL_TIMEOUT
        };
        let (out, kept) = std::mem::take(&mut client.waiting)
            .into_iter()
            .partition(|(bound, _, _, since)| over(bound, *since));
        client.waiting = kept;
        let out: Vec<(Option<u64>, Request, Call, Us)> = out;
        failed.extend(out.into_iter().map(|(_, _, call, _)| call));
        failed.into_iter().for_each(|call| self.returned(at, call, None));
    }

    /// Sends a request, bound to one session or not; waits for a connection if there is none.
    pub(super) fn call(&mut self, at: usize, bound: Option<u64>, request: Request, call: Call) {
        let now = self.now;
        let client = &mut self.monitors[at].client;
        let alive = matches!(client.phase, Phase::Connected | Phase::Disconnected);
        if bound.is_some_and(|bound| bound != client.generation || !alive) {
            return self.start_failure(at, call);
        }
        match (client.phase, client.conn) {
            (Phase::Connected, Some(conn)) => {
                client.last_call += 1;
                let number = client.last_call;
                client.sent.insert(number, (call, now));
                self.send(conn, OPENER, Body::ToStore(number, request));
            }
            _ => client.waiting.push((bound, request, call, now)),
        }
    }

    fn start_failure(&mut self, at: usize, call: Call) {
        self.start(at, 0, Timer::CallFailed(call));
    }

    /// Follows one more znode.
    pub(super) fn watch(&mut self, at: usize, path: Path) {
        let client = &mut self.monitors[at].client;
        // A follower that begins anew tells what it reads first.
        client.follows.insert(path, None);
        client.blind.insert(path);
        self.refollow(at);
    }

    fn refollow(&mut self, at: usize) {
        if self.monitors[at].client.phase == Phase::Connected {
            for path in std::mem::take(&mut self.monitors[at].client.blind) {
                self.call(at, None, Request::Watch(path), Call::Follow(path));
            }
        }
    }

    pub(super) fn store_packet(&mut self, at: usize, conn: ConnId, body: Body) {
        if self.monitors[at].client.conn != Some(conn) {
            return;
        }
        let now = self.now;
        match body {
            Body::Accepted(_) => {
                let client = &mut self.monitors[at].client;
                client.last_call += 1;
                let (number, session) = (client.last_call, client.session);
                client.sent.insert(number, (Call::Connect, now));
                self.send(conn, OPENER, Body::ToStore(number, Request::Connect(session)));
            }
            Body::Refused => self.monitors[at].client.conn = None,
            Body::Fin => self.client_lost(at),
            Body::FromStore(_, Answer::Changed(path)) => {
                let client = &mut self.monitors[at].client;
                client.heard = now;
                client.blind.insert(path);
                client.news.insert(path);
                self.refollow(at);
            }
            Body::FromStore(number, answer) => {
                let client = &mut self.monitors[at].client;
                client.heard = now;
                if let Some((call, _)) = client.sent.remove(&number) {
                    self.returned(at, call, Some(answer));
                }
            }
            _ => {}
        }
    }

    fn connected(&mut self, at: usize, session: u64) {
        let client = &mut self.monitors[at].client;
        if client.session != Some(session) {
            client.session = Some(session);
            client.generation += 1;
        }
        client.phase = Phase::Connected;
        client.blind = client.follows.keys().copied().collect();
        let waiting = std::mem::take(&mut client.waiting);
        self.turn(at, |sim| sim.session_changed(at));
        self.refollow(at);
        for (bound, request, call, _) in waiting {
            self.call(at, bound, request, call);
        }
    }

    /// A call ended; without an answer its outcome is unknown, or it was never sent.
    pub(super) fn returned(&mut self, at: usize, call: Call, answer: Option<Answer>) {
        if !self.monitors[at].up {
            return;
        }
        match call {
            Call::Nothing => {}
            Call::Connect => match answer {
                Some(Answer::Session(session)) => self.connected(at, session),
                Some(Answer::SessionOver) => self.client_expired(at),
                _ => {}
            },
            Call::Follow(path) => match answer {
                Some(Answer::Found(found)) => self.follower_read(at, path, found),
                _ => _ = self.monitors[at].client.blind.insert(path),
            },
            Call::Publish(number) => self.published(at, number, answer),
            Call::Stands { server, serial } => {
                let stands = matches!(answer, Some(Answer::Done(_)));
                self.store_stands(at, server, serial, stands);
            }
            Call::Reread(path) => {
                if let Some(content) = found(answer) {
                    let event = match path {
                        Path::Announcement => announcement_event(content),
                        Path::Paused => GroupEvent::Paused(content.is_some()),
                        _ => self.flawed_event(state_event(content)),
                    };
                    self.group_input(at, event);
                }
            }
            Call::TakeLead => self.turn(at, |sim| sim.lead_taken(at, answer)),
            Call::ReadLeader => match found(answer) {
                Some(record) => {
                    let record = leader(record);
                    self.turn(at, |sim| sim.monitors[at].lead.record(record));
                }
                None => self.start(at, 100 * MS, Timer::ReadLeader),
            },
            Call::Register(generation) => self.turn(at, |sim| sim.registered(at, generation, answer)),
            Call::WriteOpinion => self.opinion_written(at, answer),
        }
    }

    fn follower_read(&mut self, at: usize, path: Path, found: Option<(Content, i32)>) {
        let client = &mut self.monitors[at].client;
        let changed = client.news.remove(&path);
        let Some(last) = client.follows.get_mut(&path) else { return };
        if changed || last.as_ref() != Some(&found) {
            *last = Some(found.clone());
            self.turn(at, |sim| sim.followed(at, path, found));
        }
    }

    fn published(&mut self, at: usize, number: u64, answer: Option<Answer>) {
        match answer {
            Some(Answer::Done(versions)) => {
                // A broken driver leaves out the check, and with it its place in the answer.
                let skip = usize::from(self.flaw != Some(super::Flaw::NoLeadCheck));
                let version = |at: usize| versions.get(skip + at).copied();
                let outcome = PublishOutcome::Done { state: version(0).unwrap_or(0), path: version(1) };
                self.group_input(at, GroupEvent::Published(number, outcome));
            }
            answer => {
                let why = match answer {
                    Some(Answer::Failed(Failure::Version | Failure::Absent | Failure::Exists { .. })) => {
                        "refused"
                    }
                    _ => "unknown",
                };
                say!(self, "m{at}'s publication {number}: {why}");
                if why == "unknown" {
                    self.flawed_resend(at);
                }
                self.start(at, 10 * MS, Timer::PublicationFailed(number));
            }
        }
    }
}

fn found(answer: Option<Answer>) -> Option<Option<(Content, i32)>> {
    match answer {
        Some(Answer::Found(found)) => Some(found),
        _ => None,
    }
}
