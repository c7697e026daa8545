//! A simulated Redis server: its history, its fence, replication with partial and full synchronisation, WATCH and
//! EXEC, credentials, and what is left of it after a restart.

use std::collections::{BTreeMap, BTreeSet};

use failover::{Command, Fence, Look, Observation, Order, Role};
use topology::Endpoint;

use super::kernel::{Event, MS, Sim, Us, say};
use super::net::{ACCEPTOR, Body, ConnId, Node, OPENER, Purpose};

/// A set of small numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn insert(&mut self, at: usize) {
        if self.0.len() <= at / 64 {
            self.0.resize(at / 64 + 1, 0);
        }
        self.0[at / 64] |= 1 << (at % 64);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(super) fn and(&self, other: &Bits) -> Bits {
        Bits(self.0.iter().zip(&other.0).map(|(one, other)| one & other).collect())
    }

    pub(super) fn first_not_in(&self, other: &Bits) -> Option<usize> {
        self.0.iter().enumerate().find_map(|(at, word)| {
            let missing = word & !other.0.get(at).copied().unwrap_or(0);
            (missing != 0).then(|| at * 64 + missing.trailing_zeros() as usize)
        })
    }
}

/// One step of a server's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Write(usize),
    Stamp(u64),
    /// FLUSHALL, or the eviction of the key: the fence is gone.
    Erase,
}

/// What a server holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Data {
    pub(super) log: Vec<Entry>,
    pub(super) has: Bits,
    pub(super) fence: Option<u64>,
    /// The highest epoch that was ever stamped in this history.
    pub(super) highest: u64,
}

impl Data {
    fn apply(&mut self, entry: Entry) {
        self.log.push(entry);
        match entry {
            Entry::Write(at) => self.has.insert(at),
            Entry::Stamp(epoch) => {
                self.fence = Some(epoch);
                self.highest = self.highest.max(epoch);
            }
            Entry::Erase => self.fence = None,
        }
    }
}

/// A replica as its primary sees it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) who: String,
    pub(super) acknowledged: u64,
    pub(super) online: bool,
    /// After a full synchronisation nothing is sent, from this offset on, until the replica's first acknowledgement
    /// (Redis 7.0).
    held: Option<usize>,
    heard: Us,
}

impl Row {
    /// Somebody else's replica, who acknowledges more than there is.
    pub(super) fn stranger(now: Us) -> Self {
        Self { who: "10.9.9.9:1".into(), acknowledged: u64::MAX, online: true, held: None, heard: now }
    }
}

/// What a restarted server still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeps {
    Nothing,
    Snapshot,
    All,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) addr: Endpoint,
    pub(super) shown: String,
    pub(super) up: bool,
    pub(super) paused: bool,
    pub(super) pause: u32,
    pub(super) run: u32,
    pub(super) run_id: String,
    pub(super) inbox: Vec<Event>,
    pub(super) data: Data,
    /// The last snapshot on disk, and its replication id.
    disk: Option<(Data, u32)>,
    pub(super) keeps: Keeps,
    loading_until: Us,
    pub(super) master: bool,
    pub(super) source: Option<usize>,
    link: Option<ConnId>,
    pub(super) link_up: bool,
    pub(super) syncing: bool,
    heard: Us,
    pub(super) replid: u32,
    replid2: Option<u32>,
    offset2: usize,
    users: BTreeSet<(u64, String)>,
    auth: Option<(u64, String)>,
    pub(super) read_only: bool,
    pub(super) rows: BTreeMap<ConnId, Row>,
    /// How often the fence was touched; what a WATCH compares.
    touched: u64,
}

/// What a server is asked.
#[derive(Debug)]
pub(super) enum ToServer {
    Probe { asked: Us },
    Look { prepare: bool, watch: bool },
    Exec { order: Box<Order>, commands: Vec<Command>, watch: bool },
    Tidy { read_only: bool },
    Script { epoch: u64, write: usize },
    Poll,
    Psync { replid: u32, offset: usize, auth: Option<(u64, String)> },
    Ack(usize),
}

/// What it answers.
#[derive(Debug)]
pub(super) enum FromServer {
    Probed {
        asked: Us,
        seen: Box<Observation>,
    },
    Looked(Box<Look>),
    Executed(Box<Observation>),
    NilExec,
    Rejected(&'static str),
    /// It reads its data from disk, and answers nothing else.
    Loading,
    Tidied,
    /// The script ran; the stream stands here.
    Written(u64),
    /// It did not run.
    NotWritten,
    Polled {
        rows: Vec<(String, u64)>,
        fence: Option<u64>,
        master: bool,
    },
}

/// What a primary sends to a replica.
#[derive(Debug)]
pub(super) enum ToReplica {
    Continue { replid: u32 },
    FullSync,
    Snapshot(Box<Data>, u32),
    Stream { from: usize, entries: Vec<Entry> },
    GetAck,
}

/// The number of the server at this address.
pub(super) fn index(addr: &Endpoint) -> usize {
    usize::from(addr.port()) - 7000
}

impl Server {
    pub(super) fn new(at: usize) -> Self {
        let shown = format!("10.0.0.1:{}", 7000 + at);
        Self {
            addr: shown.parse().expect("an address"),
            shown,
            up: true,
            paused: false,
            pause: 0,
            run: 0,
            run_id: format!("s{at}.0"),
            inbox: Vec::new(),
            data: Data::default(),
            disk: None,
            keeps: Keeps::Nothing,
            loading_until: 0,
            master: at == 0,
            source: (at > 0).then_some(0),
            link: None,
            link_up: false,
            syncing: false,
            heard: 0,
            replid: at as u32,
            replid2: None,
            offset2: 0,
            users: BTreeSet::new(),
            auth: None,
            read_only: true,
            rows: BTreeMap::new(),
            touched: 0,
        }
    }

    pub(super) fn offset(&self) -> usize {
        self.data.log.len()
    }

    pub(super) fn replid_text(&self) -> String {
        format!("h{}", self.replid)
    }

    pub(super) fn save(&mut self) {
        self.disk = Some((self.data.clone(), self.replid));
    }
}

impl Sim {
    pub(super) fn observe(&self, at: usize) -> Observation {
        let s = &self.servers[at];
        let role = if s.master {
            let online = s.rows.values().filter(|row| row.online);
            Role::Primary { replicas: online.map(|row| (row.who.clone(), row.acknowledged)).collect() }
        } else {
            let source = s.source.map(|source| self.servers[source].addr.clone());
            Role::Replica { source, link_up: s.link_up, syncing: s.syncing }
        };
        Observation {
            run_id: s.run_id.clone(),
            role,
            replid: s.replid_text(),
            offset: s.offset() as u64,
            fence: s.data.fence.map_or(Fence::Absent, Fence::At),
            shows_as: s.shown.clone(),
            credential: s.auth.as_ref().map(|(promoted, _)| *promoted),
            read_only: !s.master && s.read_only,
        }
    }

    // -- the process ---------------------------------------------------------------------------------------------

    pub(super) fn server_starts(&mut self, at: usize) {
        self.schedule(0, Event::Cron { server: at, run: self.servers[at].run });
    }

    /// kill -9: connections end, nothing is written.
    pub(super) fn server_dies(&mut self, at: usize) {
        let s = &mut self.servers[at];
        (s.up, s.paused, s.link, s.link_up, s.syncing) = (false, false, None, false, false);
        s.run += 1;
        s.inbox.clear();
        s.rows.clear();
        self.oracle.dirty = true;
        self.close_all(Node::Server(at));
    }

    pub(super) fn close_all(&mut self, node: Node) {
        for conn in 0..self.net.conns.len() {
            for end in [OPENER, ACCEPTOR] {
                if self.net.conns[conn].ends[end] == node && self.net.conns[conn].open[end] {
                    self.close(conn, end);
                }
            }
        }
    }

    pub(super) fn server_rises(&mut self, at: usize, run: u32) {
        if self.servers[at].up || self.servers[at].run != run {
            return;
        }
        self.next_replid += 1;
        let fresh = self.next_replid;
        let s = &mut self.servers[at];
        let (data, replid) = match (s.keeps, s.disk.clone()) {
            (Keeps::All, _) => (std::mem::take(&mut s.data), Some(s.replid)),
            (Keeps::Snapshot, Some((data, replid))) => (data, Some(replid)),
            (Keeps::Snapshot | Keeps::Nothing, _) => (Data::default(), None),
        };
        let length = data.log.len();
        let touched = s.touched + 1;
        let mut new = Server::new(at);
        (new.run, new.run_id, new.data, new.touched) = (run, format!("s{at}.{run}"), data, touched);
        (new.pause, new.replid, new.disk) = (s.pause, fresh, s.disk.take());
        match replid {
            Some(replid) if new.master => (new.replid2, new.offset2) = (Some(replid), length),
            Some(replid) => new.replid = replid,
            None => {}
        }
        *s = new;
        if length > 0 && self.rng.bool() {
            self.servers[at].loading_until = self.now + self.rng.u64(1..400) * MS;
        }
        self.oracle.dirty = true;
        say!(self, "s{at}.{run} starts with {length} entries");
        self.server_starts(at);
    }

    pub(super) fn server_pauses(&mut self, at: usize, length: Us) {
        let s = &mut self.servers[at];
        s.paused = true;
        s.pause += 1;
        let pause = s.pause;
        self.schedule(length, Event::ServerResumes { server: at, pause });
    }

    pub(super) fn server_resumes(&mut self, at: usize, pause: u32) {
        let s = &mut self.servers[at];
        if s.paused && s.pause == pause {
            s.paused = false;
            say!(self, "s{at} goes on");
            for event in std::mem::take(&mut self.servers[at].inbox) {
                self.dispatch(event);
            }
        }
    }

    // -- its history ---------------------------------------------------------------------------------------------

    pub(super) fn append(&mut self, at: usize, entry: Entry) {
        let s = &mut self.servers[at];
        let from = s.offset();
        s.data.apply(entry);
        if matches!(entry, Entry::Stamp(_) | Entry::Erase) {
            s.touched += 1;
        }
        self.oracle.dirty = true;
        self.pass_on(at, from);
    }

    fn pass_on(&mut self, at: usize, from: usize) {
        let s = &self.servers[at];
        let entries = s.data.log[from..].to_vec();
        let rows: Vec<ConnId> =
            s.rows.iter().filter(|(_, row)| row.held.is_none()).map(|(conn, _)| *conn).collect();
        for conn in rows {
            self.send(conn, ACCEPTOR, Body::ToReplica(ToReplica::Stream { from, entries: entries.clone() }));
        }
    }

    fn drop_rows(&mut self, at: usize) {
        for conn in std::mem::take(&mut self.servers[at].rows).into_keys() {
            self.close(conn, ACCEPTOR);
        }
    }

    fn unlink(&mut self, at: usize) {
        let s = &mut self.servers[at];
        (s.link_up, s.syncing) = (false, false);
        if let Some(conn) = s.link.take() {
            self.close(conn, OPENER);
        }
    }

    pub(super) fn follow(&mut self, at: usize, source: Option<usize>) {
        if source == Some(at) {
            return;
        }
        self.unlink(at);
        if self.servers[at].master {
            self.drop_rows(at);
        }
        let s = &mut self.servers[at];
        (s.master, s.source) = (false, source);
        self.connect_to_source(at);
    }

    fn become_primary(&mut self, at: usize) {
        if self.servers[at].master {
            return;
        }
        self.unlink(at);
        self.drop_rows(at);
        self.next_replid += 1;
        let fresh = self.next_replid;
        let s = &mut self.servers[at];
        (s.replid2, s.offset2, s.replid) = (Some(s.replid), s.data.log.len(), fresh);
        (s.master, s.source) = (true, None);
    }

    fn connect_to_source(&mut self, at: usize) {
        let s = &self.servers[at];
        let Some(source) = s.source.filter(|_| s.link.is_none() && !s.master) else { return };
        let purpose = Purpose::Replication { replica: at };
        let conn = self.open(Node::Server(at), Node::Server(source), purpose);
        let s = &mut self.servers[at];
        (s.link, s.heard) = (Some(conn), self.now);
    }

    /// Once per period: acknowledge, connect again, drop what is silent.
    pub(super) fn cron(&mut self, at: usize, run: u32) {
        let s = &self.servers[at];
        if !s.up || s.run != run {
            return;
        }
        let limit = self.plan.repl_timeout;
        if self.now < s.loading_until {
            return self.schedule(self.plan.cron, Event::Cron { server: at, run });
        }
        let (link, link_up, offset) = (s.link, s.link_up, s.offset());
        self.schedule(self.plan.cron, Event::Cron { server: at, run });
        if let Some(conn) = link {
            if link_up {
                self.send(conn, OPENER, Body::ToServer(ToServer::Ack(offset)));
            }
            if self.now > self.servers[at].heard + limit {
                self.unlink(at);
            }
        }
        self.connect_to_source(at);
        let late: Vec<ConnId> = self.servers[at]
            .rows
            .iter()
            .filter(|(_, row)| self.now > row.heard + limit)
            .map(|(conn, _)| *conn)
            .collect();
        for conn in late {
            self.servers[at].rows.remove(&conn);
            self.close(conn, ACCEPTOR);
        }
        for conn in self.servers[at].rows.keys().copied().collect::<Vec<_>>() {
            // Keeps the link alive; the offset does not move.
            let from = self.servers[at].offset();
            self.send(conn, ACCEPTOR, Body::ToReplica(ToReplica::Stream { from, entries: Vec::new() }));
        }
    }

    pub(super) fn replica_left(&mut self, conn: ConnId) {
        let Node::Server(at) = self.net.conns[conn].ends[ACCEPTOR] else { return };
        self.servers[at].rows.remove(&conn);
    }

    // -- a replica's side ----------------------------------------------------------------------------------------

    pub(super) fn replica_packet(&mut self, at: usize, conn: ConnId, body: Body) {
        if self.servers[at].link != Some(conn) {
            return;
        }
        self.servers[at].heard = self.now;
        match body {
            Body::Accepted(_) => {
                let s = &self.servers[at];
                let psync = ToServer::Psync { replid: s.replid, offset: s.offset(), auth: s.auth.clone() };
                self.send(conn, OPENER, Body::ToServer(psync));
            }
            Body::Refused | Body::Fin => {
                let s = &mut self.servers[at];
                (s.link, s.link_up, s.syncing) = (None, false, false);
            }
            Body::ToReplica(message) => self.hear_primary(at, conn, message),
            _ => {}
        }
    }

    fn hear_primary(&mut self, at: usize, conn: ConnId, message: ToReplica) {
        match message {
            ToReplica::Continue { replid } => {
                let s = &mut self.servers[at];
                s.link_up = true;
                if s.replid != replid {
                    (s.replid2, s.offset2, s.replid) = (Some(s.replid), s.data.log.len(), replid);
                    self.drop_rows(at);
                }
            }
            ToReplica::FullSync => self.servers[at].syncing = true,
            ToReplica::Snapshot(data, replid) => {
                self.judge_snapshot(at, &data);
                let s = &mut self.servers[at];
                s.data = *data;
                (s.replid, s.replid2, s.syncing, s.link_up) = (replid, None, false, true);
                s.touched += 1;
                self.oracle.dirty = true;
                self.drop_rows(at);
                say!(self, "s{at} is synchronised in full");
            }
            ToReplica::Stream { from, entries } => {
                if self.servers[at].link_up && !entries.is_empty() {
                    let own = self.servers[at].offset();
                    if own != from {
                        return self.broken(format!("simulation: s{at} at {own} got the stream from {from}"));
                    }
                    entries.into_iter().for_each(|entry| self.append(at, entry));
                }
            }
            ToReplica::GetAck => {
                let offset = self.servers[at].offset();
                if self.servers[at].link_up {
                    self.send(conn, OPENER, Body::ToServer(ToServer::Ack(offset)));
                }
            }
        }
    }

    // -- requests ------------------------------------------------------------------------------------------------

    pub(super) fn server_request(&mut self, conn: ConnId, request: ToServer) {
        let Node::Server(at) = self.net.conns[conn].ends[ACCEPTOR] else { return };
        if self.now < self.servers[at].loading_until {
            return match request {
                ToServer::Psync { .. } | ToServer::Ack(_) => self.close(conn, ACCEPTOR),
                ToServer::Tidy { .. } => self.answer(conn, FromServer::Tidied),
                _ => self.answer(conn, FromServer::Loading),
            };
        }
        match request {
            ToServer::Probe { asked } => {
                let seen = Box::new(self.observe(at));
                self.answer(conn, FromServer::Probed { asked, seen });
            }
            ToServer::Look { prepare, watch } => {
                if prepare {
                    self.servers[at].read_only = false;
                }
                self.net.conns[conn].watch = watch.then_some(self.servers[at].touched);
                let holds_data = !self.servers[at].data.has.is_empty();
                let look = Look { seen: self.observe(at), holds_data };
                self.answer(conn, FromServer::Looked(Box::new(look)));
            }
            ToServer::Exec { order, commands, watch } => self.exec(at, conn, &order, commands, watch),
            ToServer::Tidy { read_only } => {
                self.net.conns[conn].watch = None;
                self.servers[at].read_only |= read_only;
                self.answer(conn, FromServer::Tidied);
            }
            ToServer::Script { epoch, write } => self.script(at, conn, epoch, write),
            ToServer::Poll => {
                let s = &self.servers[at];
                let online = s.rows.values().filter(|row| row.online && s.master);
                let rows = online.map(|row| (row.who.clone(), row.acknowledged)).collect();
                self.answer(conn, FromServer::Polled { rows, fence: s.data.fence, master: s.master });
                self.ask_for_acks(at);
            }
            ToServer::Psync { replid, offset, auth } => self.psync(at, conn, replid, offset, auth),
            ToServer::Ack(offset) => {
                let now = self.now;
                let Some(row) = self.servers[at].rows.get_mut(&conn) else { return };
                (row.acknowledged, row.heard) = (row.acknowledged.max(offset as u64), now);
                if let Some(from) = row.held.take() {
                    let entries = self.servers[at].data.log[from..].to_vec();
                    self.send(conn, ACCEPTOR, Body::ToReplica(ToReplica::Stream { from, entries }));
                }
            }
        }
    }

    pub(super) fn answer(&mut self, conn: ConnId, answer: FromServer) {
        self.send(conn, ACCEPTOR, Body::FromServer(answer));
    }

    fn exec(&mut self, at: usize, conn: ConnId, order: &Order, commands: Vec<Command>, watch: bool) {
        let s = &self.servers[at];
        // SET on a read-only replica is refused when it is queued, whatever stands before it.
        if !s.master && s.read_only && commands.iter().any(|c| matches!(c, Command::Stamp(_))) {
            self.net.conns[conn].watch = None;
            return self.answer(conn, FromServer::Rejected("READONLY"));
        }
        if watch && self.net.conns[conn].watch.take() != Some(s.touched) {
            self.counts.raced += 1;
            return self.answer(conn, FromServer::NilExec);
        }
        self.judge_exec(at, order);
        say!(self, "s{at} of {} executes {commands:?}", self.servers[at].run_id);
        self.counts.executed += 1;
        for command in commands {
            self.execute(at, conn, command);
        }
        let seen = Box::new(self.observe(at));
        self.answer(conn, FromServer::Executed(seen));
    }

    /// A command of a deposed monitor must not take effect; nor may a wrong process be promoted.
    fn judge_exec(&mut self, at: usize, order: &Order) {
        let s = &self.servers[at];
        if order.record.epoch < s.data.highest {
            let why = format!(
                "a command of epoch {} took effect on {}, which was stamped with {}",
                order.record.epoch, s.run_id, s.data.highest
            );
            return self.broken(why);
        }
        if matches!(order.deed, failover::Deed::Promote { .. }) && s.run_id != order.record.primary.run_id {
            let why = format!("{} was promoted in place of {}", s.run_id, order.record.primary.run_id);
            self.broken(why);
        }
    }

    fn execute(&mut self, at: usize, conn: ConnId, command: Command) {
        match command {
            Command::ReadOnly(on) => self.servers[at].read_only = on,
            Command::CreateCredential { promoted, run_id } => {
                self.servers[at].users.insert((promoted, run_id));
            }
            Command::UseCredential { promoted, run_id } => self.servers[at].auth = Some((promoted, run_id)),
            Command::UseLogin(_) => self.servers[at].auth = None,
            Command::KeepBacklog => {}
            Command::BecomePrimary => self.become_primary(at),
            Command::Follow(to) => self.follow(at, Some(index(&to))),
            Command::Stamp(epoch) => self.append(at, Entry::Stamp(epoch)),
            Command::CutClients => self.cut_clients(at, conn),
        }
    }

    /// CLIENT KILL TYPE normal: all but the caller's connection and replicas.
    fn cut_clients(&mut self, at: usize, caller: ConnId) {
        for conn in 0..self.net.conns.len() {
            let entry = &self.net.conns[conn];
            let normal = !matches!(entry.purpose, Purpose::Replication { .. });
            if conn != caller && normal && entry.ends[ACCEPTOR] == Node::Server(at) && entry.open[ACCEPTOR] {
                self.close(conn, ACCEPTOR);
            }
        }
    }

    /// The API's script: writes only if the fence is that of the writer's view.
    fn script(&mut self, at: usize, conn: ConnId, epoch: u64, write: usize) {
        let s = &self.servers[at];
        if s.data.fence != Some(epoch) || (!s.master && s.read_only) {
            return self.answer(conn, FromServer::NotWritten);
        }
        if !s.master {
            let why = format!("write {write} of epoch {epoch} was accepted by {}, a replica", s.run_id);
            return self.broken(why);
        }
        self.append(at, Entry::Write(write));
        let offset = self.servers[at].offset() as u64;
        self.answer(conn, FromServer::Written(offset));
        self.ask_for_acks(at);
    }

    fn ask_for_acks(&mut self, at: usize) {
        for conn in self.servers[at].rows.keys().copied().collect::<Vec<_>>() {
            self.send(conn, ACCEPTOR, Body::ToReplica(ToReplica::GetAck));
        }
    }

    fn psync(&mut self, at: usize, conn: ConnId, replid: u32, offset: usize, auth: Option<(u64, String)>) {
        let Node::Server(replica) = self.net.conns[conn].ends[OPENER] else { return };
        let s = &self.servers[at];
        let stranger = auth.is_some_and(|user| !s.users.contains(&user));
        if stranger || !(s.master || s.link_up) {
            return self.close(conn, ACCEPTOR);
        }
        let who = self.servers[replica].shown.clone();
        let (heard, own) = (self.now, s.replid);
        let same = replid == s.replid && offset <= s.offset();
        let before = s.replid2 == Some(replid) && offset <= s.offset2;
        let row = |held| Row { who, acknowledged: 0, online: true, held, heard };
        if same || before {
            let entries = s.data.log[offset..].to_vec();
            self.servers[at].rows.insert(conn, row(None));
            self.send(conn, ACCEPTOR, Body::ToReplica(ToReplica::Continue { replid: own }));
            let stream = ToReplica::Stream { from: offset, entries };
            return self.send(conn, ACCEPTOR, Body::ToReplica(stream));
        }
        let (data, offset) = (Box::new(s.data.clone()), s.offset());
        self.servers[at].rows.insert(conn, row(Some(offset)));
        self.send(conn, ACCEPTOR, Body::ToReplica(ToReplica::FullSync));
        let transfer = self.rng.u64(1..150) * MS;
        let snapshot = Body::ToReplica(ToReplica::Snapshot(data, own));
        self.send_slowly(conn, ACCEPTOR, transfer, snapshot);
    }
}
