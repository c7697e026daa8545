//! A simulated ZooKeeper: versions, transactions with checks, sessions with ephemeral znodes, one-shot watches.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use topology::{Endpoint, LeaderRecord, State, Topology};

use super::kernel::{Event, MS, Sim, Us, say};
use super::net::{ACCEPTOR, Body, ConnId, Node};
use super::redis::Server;

/// A znode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    Leader,
    State,
    /// `<path>`.
    Announcement,
    /// There while an operator has paused the group.
    Paused,
    /// The ephemeral znode of a monitor.
    Monitor(usize),
    /// Its opinion.
    Opinion(usize),
}

/// What it holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Leader(LeaderRecord),
    State(Rc<State>),
    Announcement(Rc<Topology>),
    Monitor {
        instance: String,
        beat: u64,
    },
    Opinion(Rc<BTreeSet<Endpoint>>),
    /// Nothing that anybody can read.
    Junk,
}

#[derive(Debug)]
struct Znode {
    content: Content,
    version: i32,
    owner: Option<u64>,
}

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Check(Path, i32),
    /// -1: any version.
    Set(Path, Content, i32),
    Create(Path, Content, bool),
}

#[derive(Debug)]
pub(super) enum Request {
    Connect(Option<u64>),
    Ping,
    Get(Path),
    /// Read, and tell of the next change.
    Watch(Path),
    Multi(Vec<Op>),
    /// A clean end of the session.
    Close,
}

#[derive(Debug)]
pub(super) enum Answer {
    Session(u64),
    SessionOver,
    Pong,
    Found(Option<(Content, i32)>),
    Done(Vec<i32>),
    Failed(Failure),
    /// A watched znode changed.
    Changed(Path),
}

/// Why a transaction was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Version,
    Absent,
    /// It exists; by this very session?
    Exists {
        ours: bool,
    },
}

#[derive(Debug)]
struct Session {
    monitor: usize,
    /// Which process of it.
    who: LeaderRecord,
    conn: ConnId,
    heard: Us,
    watches: BTreeSet<Path>,
}

#[derive(Debug)]
pub(super) struct Store {
    pub(super) up: bool,
    pub(super) outage: u32,
    znodes: BTreeMap<Path, Znode>,
    sessions: BTreeMap<u64, Session>,
    last_session: u64,
    /// The next transaction's answer is lost, and the transaction itself or not.
    pub(super) lose_next: Option<bool>,
    /// The last good record, whatever stands in the znode.
    good: Option<Rc<State>>,
}

impl Store {
    /// The path is seeded; there is no record.
    pub(super) fn new(servers: &[Server]) -> Self {
        let (first, rest) = servers.split_first().expect("a server");
        let replicas = rest.iter().map(|s| s.addr.clone()).collect();
        let seed = Topology::new(first.addr.clone(), replicas).expect("distinct servers");
        let znode = Znode { content: Content::Announcement(Rc::new(seed)), version: 0, owner: None };
        Self {
            up: true,
            outage: 0,
            znodes: BTreeMap::from([(Path::Announcement, znode)]),
            sessions: BTreeMap::new(),
            last_session: 0,
            lose_next: None,
            good: None,
        }
    }

    /// The last good record.
    pub(super) fn state(&self) -> Option<Rc<State>> {
        self.good.clone()
    }

    pub(super) fn read(&self, path: Path) -> Option<(Content, i32)> {
        self.znodes.get(&path).map(|znode| (znode.content.clone(), znode.version))
    }

    /// Who holds the lead.
    pub(super) fn leader(&self) -> Option<&LeaderRecord> {
        match &self.znodes.get(&Path::Leader)?.content {
            Content::Leader(record) => Some(record),
            _ => None,
        }
    }

    fn refusal(&self, ops: &[Op], session: u64) -> Option<Failure> {
        ops.iter().find_map(|op| {
            let (path, expected) = match op {
                Op::Check(path, version) | Op::Set(path, _, version) => (path, Some(*version)),
                Op::Create(path, ..) => (path, None),
            };
            match (self.znodes.get(path), expected) {
                (None, None) => None,
                (None, Some(_)) => Some(Failure::Absent),
                (Some(znode), None) => Some(Failure::Exists { ours: znode.owner == Some(session) }),
                (Some(znode), Some(version)) if version == -1 || znode.version == version => None,
                (Some(_), Some(_)) => Some(Failure::Version),
            }
        })
    }
}

impl Sim {
    pub(super) fn store_request(&mut self, conn: ConnId, monitor: usize, call: u64, request: Request) {
        if !self.store.up {
            return;
        }
        let now = self.now;
        if let Request::Connect(session) = request {
            return self.store_connect(conn, monitor, call, session);
        }
        let found = self.store.sessions.iter_mut().find(|(_, session)| session.conn == conn);
        let Some((id, session)) = found else {
            return self.close(conn, ACCEPTOR); // the session is over, or has moved to another connection
        };
        session.heard = now;
        let id = *id;
        let answer = match request {
            Request::Connect(_) => return,
            Request::Close => return self.end_session(id),
            Request::Ping => Answer::Pong,
            Request::Get(path) => Answer::Found(self.store.read(path)),
            Request::Watch(path) => {
                session.watches.insert(path);
                Answer::Found(self.store.read(path))
            }
            Request::Multi(ops) => match self.store_multi(conn, monitor, id, &ops) {
                Some(answer) => answer,
                None => return,
            },
        };
        self.send(conn, ACCEPTOR, Body::FromStore(call, answer));
    }

    fn store_connect(&mut self, conn: ConnId, monitor: usize, call: u64, session: Option<u64>) {
        let now = self.now;
        let answer = match session {
            Some(id) => match self.store.sessions.get_mut(&id) {
                Some(session) => {
                    let before = std::mem::replace(&mut session.conn, conn);
                    session.heard = now;
                    session.watches.clear();
                    if before != conn {
                        self.close(before, ACCEPTOR);
                    }
                    Answer::Session(id)
                }
                None => Answer::SessionOver,
            },
            None => {
                self.store.last_session += 1;
                let id = self.store.last_session;
                let (who, watches) = (self.monitors[monitor].record(), BTreeSet::new());
                self.store.sessions.insert(id, Session { monitor, who, conn, heard: now, watches });
                Answer::Session(id)
            }
        };
        self.send(conn, ACCEPTOR, Body::FromStore(call, answer));
    }

    /// One transaction; none if its answer is lost with the connection.
    fn store_multi(&mut self, conn: ConnId, monitor: usize, session: u64, ops: &[Op]) -> Option<Answer> {
        let lost = self.store.lose_next.filter(|_| !matches!(ops, [Op::Check(..), Op::Check(..)]));
        if let Some(applied) = lost {
            self.store.lose_next = None;
            say!(self, "the store's answer to m{monitor} is lost, applied: {applied}");
            if applied {
                self.apply(monitor, session, ops);
            }
            self.close(conn, ACCEPTOR);
            return None;
        }
        Some(self.apply(monitor, session, ops))
    }

    fn apply(&mut self, monitor: usize, session: u64, ops: &[Op]) -> Answer {
        if let Some(why) = self.store.refusal(ops, session) {
            if ops.iter().any(|op| matches!(op, Op::Set(Path::State, ..) | Op::Create(Path::State, ..))) {
                self.counts.refused += 1;
                say!(self, "the store refuses m{monitor}'s publication: {why:?}");
            }
            return Answer::Failed(why);
        }
        let mut versions = Vec::new();
        for op in ops {
            match op {
                Op::Check(..) => versions.push(0),
                Op::Set(path, content, _) | Op::Create(path, content, _) => {
                    if let Content::State(state) = content {
                        let who = self.store.sessions.get(&session).map(|session| &session.who);
                        let by_holder = who.is_some() && self.store.leader() == who;
                        self.judge_publication(monitor, state, by_holder);
                        self.store.good = Some(state.clone());
                    }
                    if let Content::Leader(leader) = content {
                        self.counts.reigns += u64::from(!leader.name.is_empty());
                        say!(self, "the lead is held by {} {}", leader.name, leader.instance);
                    }
                    let owner = matches!(op, Op::Create(_, _, true)).then_some(session);
                    versions.push(self.write_znode(*path, content.clone(), owner));
                }
            }
        }
        Answer::Done(versions)
    }

    /// Writes, and tells who watches. Gives the new version.
    pub(super) fn write_znode(&mut self, path: Path, content: Content, owner: Option<u64>) -> i32 {
        let version = match self.store.znodes.get_mut(&path) {
            Some(znode) => {
                znode.content = content;
                znode.version += 1;
                znode.version
            }
            None => {
                self.store.znodes.insert(path, Znode { content, version: 0, owner });
                0
            }
        };
        self.changed(path);
        version
    }

    pub(super) fn delete_znode(&mut self, path: Path) {
        if self.store.znodes.remove(&path).is_some() {
            self.changed(path);
        }
    }

    fn changed(&mut self, path: Path) {
        if path == Path::State {
            for api in 0..self.apis.len() {
                let (after, life) = (200 + self.rng.u64(0..1000), self.apis[api].life);
                self.schedule(after, Event::View { api, life });
            }
        }
        let watching: Vec<ConnId> = self
            .store
            .sessions
            .values_mut()
            .filter_map(|session| session.watches.remove(&path).then_some(session.conn))
            .collect();
        for conn in watching {
            self.send(conn, ACCEPTOR, Body::FromStore(0, Answer::Changed(path)));
        }
    }

    pub(super) fn store_tick(&mut self) {
        self.schedule(100 * MS, Event::StoreTick);
        if !self.store.up {
            return;
        }
        let limit = self.plan.session;
        let over = self.store.sessions.iter().filter(|(_, session)| self.now > session.heard + limit);
        let over: Vec<u64> = over.map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.end_session(id));
    }

    pub(super) fn end_session(&mut self, id: u64) {
        let Some(session) = self.store.sessions.remove(&id) else { return };
        say!(self, "session {id} of m{} is over", session.monitor);
        let owned = self.store.znodes.iter().filter(|(_, znode)| znode.owner == Some(id));
        let owned: Vec<Path> = owned.map(|(path, _)| *path).collect();
        owned.into_iter().for_each(|path| self.delete_znode(path));
        self.close(session.conn, ACCEPTOR);
    }

    pub(super) fn some_session(&mut self) -> Option<u64> {
        let ids: Vec<u64> = self.store.sessions.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[self.rng.usize(0..ids.len())])
    }

    pub(super) fn store_falls(&mut self, length: Us) {
        self.store.up = false;
        self.store.outage += 1;
        self.close_all(Node::Store);
        self.schedule(length, Event::StoreRises(self.store.outage));
    }

    pub(super) fn store_rises(&mut self, outage: u32) {
        if !self.store.up && self.store.outage == outage {
            self.store.up = true;
            let now = self.now;
            self.store.sessions.values_mut().for_each(|session| session.heard = now);
            say!(self, "the store answers again");
        }
    }
}
