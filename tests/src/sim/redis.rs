//! A simulated Redis server: its history, its fence, replication with partial and full synchronisation, WATCH and
//! EXEC, credentials, and what is left of it after a restart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use failover::{Command, Fence, Look, Observation, Order, Role};
use topology::Endpoint;

use super::flaw::Flaw;
use super::kernel::{Event, MS, Sim, Us, say};
use super::net::{ACCEPTOR, Body, ConnId, Node, OPENER, Purpose};
use super::switchover::Writers;

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

    pub(super) fn contains(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(super) fn and(&self, other: &Bits) -> Bits {
        Bits(self.0.iter().zip(&other.0).map(|(one, other)| one & other).collect())
    }

    pub(super) fn first_in(&self, other: &Bits) -> Option<usize> {
        self.0.iter().zip(&other.0).enumerate().find_map(|(at, (one, other))| {
            let both = one & other;
            (both != 0).then(|| at * 64 + both.trailing_zeros() as usize)
        })
    }

    pub(super) fn first_not_in(&self, other: &Bits) -> Option<usize> {
        self.0.iter().enumerate().find_map(|(at, word)| {
            let missing = word & !other.0.get(at).copied().unwrap_or(0);
            (missing != 0).then(|| at * 64 + missing.trailing_zeros() as usize)
        })
    }
}

/// One step of a server's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// One run of the API's script.
    Batch(Rc<Call>),
    /// The barrier of a settling.
    Barrier,
    Stamp(u64),
    /// The fence is evicted.
    Erase,
    /// The markers are.
    EraseMarkers,
    /// FLUSHALL: nothing is left.
    Flush,
    /// `INCR albireo:tick` of a monitor.
    Tick,
}

/// A call of the API's script: writes, the connection's marker and the number that it then holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) epoch: u64,
    pub(super) marker: u32,
    pub(super) number: u64,
    /// Only if the marker holds exactly this number.
    pub(super) after: Option<u64>,
    pub(super) writes: Vec<(u8, u32)>,
    /// It counts the tick up; all but a broken client's do.
    pub(super) ticks: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ran {
    Done,
    /// It did not run.
    Refused(&'static str),
}

/// What a server holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Data {
    pub(super) log: Vec<Entry>,
    pub(super) has: Bits,
    pub(super) fence: Option<u64>,
    /// The highest epoch that was ever stamped in this history.
    pub(super) highest: u64,
    /// What the keys hold.
    pub(super) values: [Option<u32>; 4],
    markers: BTreeMap<u32, u64>,
    /// The key `albireo:tick`.
    pub(super) tick: Option<u64>,
    /// The last write that was carried out twice in this history.
    pub(super) twice: Option<u32>,
}

impl Data {
    fn count(&mut self) {
        self.tick = Some(self.tick.unwrap_or(0) + 1);
    }

    /// No key at all.
    pub(super) fn is_empty(&self) -> bool {
        let ours = (self.fence, self.tick) == (None, None) && self.markers.is_empty();
        ours && self.values == [None; 4]
    }

    fn apply(&mut self, entry: Entry) {
        match &entry {
            Entry::Batch(call) => {
                if call.ticks {
                    self.count();
                }
                self.run(call);
            }
            Entry::Tick => self.count(),
            Entry::Barrier => {}
            Entry::Stamp(epoch) => {
                self.fence = Some(*epoch);
                self.highest = self.highest.max(*epoch);
            }
            Entry::Erase => self.fence = None,
            Entry::EraseMarkers => self.markers.clear(),
            Entry::Flush => {
                (self.fence, self.tick, self.values) = (None, None, [None; 4]);
                self.markers.clear();
            }
        }
        self.log.push(entry);
    }

    fn run(&mut self, call: &Call) {
        self.markers.insert(call.marker, call.number);
        for (key, write) in &call.writes {
            let number = *write as usize;
            if self.has.contains(number) {
                self.twice = self.twice.max(Some(*write));
            }
            self.has.insert(number);
            self.values[usize::from(*key)] = Some(*write);
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
    pub(super) loading_until: Us,
    /// When this process began, and until when it, or the one before it, last answered questions.
    pub(super) risen_at: Us,
    pub(super) able_until: Us,
    /// The same of the process before.
    pub(super) able_before: Us,
    /// It was told to follow nobody (R2).
    pub(super) detached: bool,
    /// R15: whoever wants to write may have to wait.
    pub(super) writers: Writers,
    /// Its file names nobody to follow.
    alone: bool,
    /// It was told to follow nobody, for it is no member any more (R16); and was told to follow somebody all the same.
    pub(super) released: bool,
    pub(super) strayed: bool,
    /// When it began to follow whom it follows.
    pub(super) followed_at: Us,
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
    pub(super) auth: Option<(u64, String)>,
    pub(super) read_only: bool,
    pub(super) rows: BTreeMap<ConnId, Row>,
    /// How often the fence was touched; what a WATCH compares.
    touched: u64,
    /// `repl-backlog-ttl 0`: its replication id stays although it has no replica.
    backlog_kept: bool,
    alone_since: Us,
}

/// What a server is asked.
#[derive(Debug, Clone)]
pub(super) enum ToServer {
    Probe {
        asked: Us,
    },
    Look {
        prepare: Option<Command>,
        watch: bool,
    },
    Exec {
        order: Box<Order>,
        commands: Vec<Command>,
        watch: bool,
    },
    Tidy,
    Script(Rc<Call>),
    Get {
        key: u8,
    },
    Role,
    GetFence,
    /// CLIENT KILL ID.
    Kill(ConnId),
    /// The barrier, and the marker with it, in one step.
    Settle {
        epoch: u64,
        marker: u32,
    },
    /// A broken client asks for the marker alone.
    GetMarker(u32),
    /// A broken monitor writes the fence of a replica.
    ForceFence(u64),
    Psync {
        replid: u32,
        offset: usize,
        auth: Option<(u64, String)>,
    },
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
    /// It reads its data from disk, and answers nothing else.
    Loading,
    Tidied,
    Ran(Ran),
    Got(Option<u32>),
    Role {
        offset: u64,
        rows: Vec<(String, u64)>,
        master: bool,
    },
    FenceIs(Option<u64>),
    Killed,
    /// None: not under this epoch.
    Marker(Option<Option<u64>>),
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
        let addr = format!("10.0.0.1:{}", 7000 + at);
        Self {
            addr: addr.parse().expect("an address"),
            // As behind NAT: a primary sees it under another address than the configured one.
            shown: format!("172.17.0.{at}:6379"),
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
            risen_at: 0,
            able_until: 0,
            able_before: 0,
            detached: false,
            writers: Writers::default(),
            alone: false,
            released: false,
            strayed: false,
            followed_at: 0,
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
            backlog_kept: false,
            alone_since: 0,
        }
    }

    /// One that is no member in the beginning.
    pub(super) fn spare(at: usize) -> Self {
        Self { alone: true, master: true, source: None, ..Self::new(at) }
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
            tick: s.data.tick,
            empty: s.data.is_empty(),
        }
    }

    // -- the process ---------------------------------------------------------------------------------------------

    pub(super) fn server_starts(&mut self, at: usize) {
        self.schedule(0, Event::Cron { server: at, run: self.servers[at].run });
    }

    /// kill -9: connections end, nothing is written.
    pub(super) fn server_dies(&mut self, at: usize) {
        self.note_able(at);
        let s = &mut self.servers[at];
        (s.up, s.paused, s.link, s.link_up, s.syncing) = (false, false, None, false, false);
        s.run += 1;
        s.inbox.clear();
        s.rows.clear();
        s.writers = Writers::default();
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
        (new.risen_at, new.followed_at) = (self.now, self.now);
        (new.able_until, new.able_before) = (s.able_until, s.able_until);
        new.alone = s.alone;
        if new.alone || self.plan.dark.is_some_and(|dark| !dark.files) {
            (new.master, new.source) = (true, None);
        }
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
        self.note_able(at);
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
            // What waits in several connections is read in any order; within one it keeps its own.
            let mut waiting: BTreeMap<Option<ConnId>, VecDeque<Event>> = BTreeMap::new();
            for event in std::mem::take(&mut self.servers[at].inbox) {
                let conn = match &event {
                    Event::Delivered { conn, .. } => Some(*conn),
                    _ => None,
                };
                waiting.entry(conn).or_default().push_back(event);
            }
            while !waiting.is_empty() {
                let keys: Vec<Option<ConnId>> = waiting.keys().copied().collect();
                let key = keys[self.rng.usize(0..keys.len())];
                let event = waiting.get_mut(&key).and_then(VecDeque::pop_front);
                match event {
                    Some(event) => self.dispatch(event),
                    None => _ = waiting.remove(&key),
                }
            }
        }
    }

    // -- its history ---------------------------------------------------------------------------------------------

    pub(super) fn append(&mut self, at: usize, entry: Entry) {
        let s = &mut self.servers[at];
        let from = s.offset();
        if matches!(entry, Entry::Stamp(_) | Entry::Erase | Entry::Flush) {
            s.touched += 1;
        }
        s.data.apply(entry);
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
        (s.master, s.source, s.followed_at) = (false, source, self.now);
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
        self.forget_history(at);
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

    /// A primary without replicas changes its replication id some time later, unless that is switched off.
    fn forget_history(&mut self, at: usize) {
        let now = self.now;
        let s = &mut self.servers[at];
        if !s.master || s.backlog_kept || !s.rows.is_empty() {
            s.alone_since = now;
        } else if now > s.alone_since + 500 * MS {
            self.next_replid += 1;
            s.alone_since = now;
            (s.replid, s.replid2) = (self.next_replid, None);
            say!(self, "s{at} begins another history");
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
                ToServer::Tidy => self.answer(conn, FromServer::Tidied),
                _ => self.answer(conn, FromServer::Loading),
            };
        }
        let Some(request) = self.held(at, conn, request) else { return };
        match request {
            ToServer::Probe { asked } => {
                let seen = Box::new(self.observe(at));
                self.answer(conn, FromServer::Probed { asked, seen });
            }
            ToServer::Look { prepare, watch } => {
                prepare.into_iter().for_each(|command| self.execute(at, conn, command));
                self.net.conns[conn].watch = watch.then_some(self.servers[at].touched);
                let holds_data = !self.servers[at].data.has.is_empty();
                let look =
                    Look { seen: self.observe(at), holds_data, guarded: !self.servers[at].users.is_empty() };
                self.answer(conn, FromServer::Looked(Box::new(look)));
            }
            ToServer::Exec { order, commands, watch } => self.exec(at, conn, order, commands, watch),
            ToServer::Tidy => {
                self.net.conns[conn].watch = None;
                self.answer(conn, FromServer::Tidied);
            }
            ToServer::Script(call) => {
                let ran = self.script(at, &call);
                self.ambush_barrier(conn, &call);
                self.answer(conn, FromServer::Ran(ran));
                self.ask_for_acks(at);
            }
            ToServer::Get { key } => {
                let value = self.servers[at].data.values[usize::from(key)];
                self.answer(conn, FromServer::Got(value));
            }
            ToServer::Role => {
                let s = &self.servers[at];
                let online = s.rows.values().filter(|row| row.online && s.master);
                let rows = online.map(|row| (row.who.clone(), row.acknowledged)).collect();
                let offset = s.offset() as u64;
                self.answer(conn, FromServer::Role { offset, rows, master: s.master });
                self.ask_for_acks(at);
            }
            ToServer::GetFence => {
                let fence = self.servers[at].data.fence;
                self.answer(conn, FromServer::FenceIs(fence));
            }
            ToServer::Kill(lost) => {
                self.close(lost, ACCEPTOR);
                self.answer(conn, FromServer::Killed);
            }
            ToServer::Settle { epoch, marker } => {
                let s = &self.servers[at];
                let found = s.data.markers.get(&marker).copied();
                let stands = s.data.fence == Some(epoch) && (s.master || !s.read_only);
                if stands {
                    self.append(at, Entry::Barrier);
                    self.ask_for_acks(at);
                }
                self.answer(conn, FromServer::Marker(stands.then_some(found)));
            }
            ToServer::GetMarker(marker) => {
                let found = self.servers[at].data.markers.get(&marker).copied();
                self.answer(conn, FromServer::Marker(Some(found)));
            }
            ToServer::ForceFence(epoch) => {
                let s = &mut self.servers[at];
                (s.data.fence, s.touched) = (Some(epoch), s.touched + 1);
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

    fn exec(&mut self, at: usize, conn: ConnId, order: Box<Order>, mut commands: Vec<Command>, watch: bool) {
        let s = &self.servers[at];
        if watch && self.net.conns[conn].watch.take() != Some(s.touched) {
            self.counts.raced += 1;
            return self.answer(conn, FromServer::NilExec);
        }
        self.judge_exec(at, &order);
        if let (Node::Monitor(monitor), true) =
            (self.net.conns[conn].ends[OPENER], commands.contains(&Command::BecomePrimary))
        {
            self.judge_switchover(monitor, at, &order);
        }
        self.note_order(at, &order, &commands);
        say!(self, "s{at} of {} executes {commands:?}", self.servers[at].run_id);
        self.counts.executed += 1;
        let credential = commands.iter().position(|c| matches!(c, Command::UseCredential { .. }));
        if let Some(place) = credential.filter(|_| self.flaw == Some(Flaw::SplitAttach) && commands.len() > 1)
        {
            let first = commands.remove(place);
            let (after, run) = (self.rng.u64(0..60) * MS, self.servers[at].run);
            self.schedule(after, Event::RestOfExec { server: at, run, conn, order, commands });
            commands = vec![first];
        }
        for command in commands {
            self.execute(at, conn, command);
        }
        let seen = Box::new(self.observe(at));
        self.answer(conn, FromServer::Executed(seen));
    }

    /// The second step of a deed that a broken driver does in two.
    pub(super) fn rest_of_exec(
        &mut self,
        at: usize,
        conn: ConnId,
        order: Box<Order>,
        commands: Vec<Command>,
    ) {
        if self.net.conns[conn].open[ACCEPTOR] {
            self.judge_exec(at, &order);
            for command in commands {
                self.execute(at, conn, command);
            }
        }
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
        if !self.was_published(&order.record) && self.flaw != Some(Flaw::EvictsTheLast) {
            let why = format!("a command of epoch {} took effect before its publication", order.record.epoch);
            return self.broken(why);
        }
        if matches!(order.deed, failover::Deed::Promote { .. }) && s.run_id != order.record.primary.run_id {
            let why = format!("{} was promoted in place of {}", s.run_id, order.record.primary.run_id);
            self.broken(why);
        }
    }

    fn execute(&mut self, at: usize, conn: ConnId, command: Command) {
        match command {
            Command::ReadOnly => self.servers[at].read_only = true,
            Command::CreateCredential { promoted, run_id } => {
                self.servers[at].users.insert((promoted, run_id));
            }
            Command::UseCredential { promoted, run_id } => self.servers[at].auth = Some((promoted, run_id)),
            Command::UseLogin(_) => self.servers[at].auth = None,
            Command::OpenToReplicas => self.servers[at].users.clear(),
            Command::KeepBacklog => self.servers[at].backlog_kept = true,
            Command::BecomePrimary => self.become_primary(at),
            Command::Follow(to) => self.follow(at, Some(index(&to))),
            Command::Stamp(epoch) => {
                self.note_stamp(at, epoch);
                self.append(at, Entry::Stamp(epoch));
            }
            Command::Detach => {
                self.follow(at, None);
                self.servers[at].detached = true;
            }
            Command::Tick { .. } => self.append(at, Entry::Tick),
            Command::CutClients => self.cut_clients(at, conn),
            Command::Pause(millis) => self.hold_writers(at, millis),
            Command::Unpause => self.release_writers(at),
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

    /// The API's script: writes only if the fence is that of its view, and the batch before it was carried out.
    fn script(&mut self, at: usize, call: &Rc<Call>) -> Ran {
        let s = &self.servers[at];
        let fenced = s.data.fence != Some(call.epoch) && self.flaw != Some(Flaw::NoFenceInTheScript);
        let missed = call.after.is_some_and(|number| s.data.markers.get(&call.marker) != Some(&number));
        if fenced || missed {
            return Ran::Refused("FENCED");
        }
        if !s.master && s.read_only {
            return Ran::Refused("READONLY");
        }
        if !s.master {
            let why = format!("writes of epoch {} were accepted by {}, a replica", call.epoch, s.run_id);
            self.broken(why);
            return Ran::Refused("READONLY");
        }
        self.append(at, Entry::Batch(call.clone()));
        Ran::Done
    }

    fn ask_for_acks(&mut self, at: usize) {
        for conn in self.servers[at].rows.keys().copied().collect::<Vec<_>>() {
            self.send(conn, ACCEPTOR, Body::ToReplica(ToReplica::GetAck));
        }
    }

    fn psync(&mut self, at: usize, conn: ConnId, replid: u32, offset: usize, auth: Option<(u64, String)>) {
        let Node::Server(replica) = self.net.conns[conn].ends[OPENER] else { return };
        let s = &self.servers[at];
        let stranger = match auth {
            Some(user) => !s.users.contains(&user),
            None => !s.users.is_empty(),
        };
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
