//! The network: who can reach whom, how long it takes, and connections that keep their order.
//!
//! A cut holds packets back until it is healed, as retransmission does; whoever waits gives up before that or not.
//! The kernel of a host answers for a dead process: a new connection is refused, a packet to a closed one is reset.

use super::kernel::{Event, Sim, Us};
use super::redis::{ToReplica, ToServer};
use super::store::{Answer, Request};

/// A place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    Server(usize),
    Monitor(usize),
    Store,
    Api(usize),
}

/// Room for 4 servers, 2 monitors, the store and 3 API processes.
pub(super) const NODES: usize = 10;

impl Node {
    pub(super) fn index(self) -> usize {
        match self {
            Node::Server(at) => at,
            Node::Monitor(at) => 4 + at,
            Node::Store => 6,
            Node::Api(at) => 7 + at,
        }
    }
}

pub(super) type ConnId = usize;

/// The side that opened a connection, and the side that accepted it.
pub(super) const OPENER: usize = 0;
pub(super) const ACCEPTOR: usize = 1;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Probe {
        monitor: usize,
        server: usize,
    },
    Orders {
        monitor: usize,
        server: usize,
    },
    Store {
        monitor: usize,
    },
    Replication {
        replica: usize,
    },
    /// Requests of an API process, on one of its connections.
    Lane {
        api: usize,
        lane: usize,
    },
    Settle {
        api: usize,
    },
    /// Somebody else's.
    Stranger,
}

/// A connection, from the first attempt on.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) ends: [Node; 2],
    pub(super) open: [bool; 2],
    pub(super) purpose: Purpose,
    /// The fence's counter of changes at the WATCH of this connection.
    pub(super) watch: Option<u64>,
    /// No packet towards this end arrives before that.
    last: [Us; 2],
    held: [Vec<Body>; 2],
}

/// What travels over a connection.
#[derive(Debug)]
pub(super) enum Body {
    /// The process accepted and said who it is.
    Accepted(String),
    /// Nobody listens.
    Refused,
    /// The other end is closed.
    Fin,
    ToServer(ToServer),
    /// An answer to whoever asked a server.
    FromServer(super::redis::FromServer),
    ToReplica(ToReplica),
    ToStore(u64, Request),
    FromStore(u64, Answer),
}

/// How a direction between two nodes behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Local,
    /// 50 to 200 ms.
    Slow,
    /// Some packets are lost and come 200 ms later.
    Lossy,
}

pub(super) struct Net {
    pub(super) cut: [[bool; NODES]; NODES],
    pub(super) pace: [[Pace; NODES]; NODES],
    pub(super) conns: Vec<Conn>,
}

impl Net {
    pub(super) fn new() -> Self {
        Self { cut: [[false; NODES]; NODES], pace: [[Pace::Local; NODES]; NODES], conns: Vec::new() }
    }

    pub(super) fn is_cut(&self, from: Node, to: Node) -> bool {
        self.cut[from.index()][to.index()]
    }
}

impl Sim {
    pub(super) fn delay(&mut self, from: Node, to: Node) -> Us {
        let base = 60 + self.rng.u64(0..300);
        match self.net.pace[from.index()][to.index()] {
            Pace::Local => base,
            Pace::Slow => self.rng.u64(50_000..200_000),
            Pace::Lossy if self.rng.u8(0..10) < 3 => 200_000 + base,
            Pace::Lossy => base,
        }
    }

    /// Begins to open a connection; the answer is `Accepted`, `Refused`, or silence.
    pub(super) fn open(&mut self, from: Node, to: Node, purpose: Purpose) -> ConnId {
        let conn = self.net.conns.len();
        self.net.conns.push(Conn {
            ends: [from, to],
            open: [true, false],
            purpose,
            watch: None,
            last: [0; 2],
            held: [Vec::new(), Vec::new()],
        });
        let after = self.delay(from, to);
        self.schedule(after, Event::Syn(conn));
        conn
    }

    /// Sends from one end to the other, in order.
    pub(super) fn send(&mut self, conn: ConnId, from: usize, body: Body) {
        if self.net.conns[conn].open[from] {
            self.post(conn, 1 - from, 0, body);
        }
    }

    /// Sends what takes so much longer to transfer.
    pub(super) fn send_slowly(&mut self, conn: ConnId, from: usize, extra: Us, body: Body) {
        if self.net.conns[conn].open[from] {
            self.post(conn, 1 - from, extra, body);
        }
    }

    fn post(&mut self, conn: ConnId, to: usize, extra: Us, body: Body) {
        let ends = self.net.conns[conn].ends;
        let delay = self.delay(ends[1 - to], ends[to]) + extra;
        let now = self.now;
        let entry = &mut self.net.conns[conn];
        let at = entry.last[to].max(now + delay);
        entry.last[to] = at;
        self.schedule(at - now, Event::Packet { conn, end: to, body });
    }

    /// Closes one end. The other hears of it if it can.
    pub(super) fn close(&mut self, conn: ConnId, end: usize) {
        if std::mem::take(&mut self.net.conns[conn].open[end]) {
            self.post(conn, 1 - end, 0, Body::Fin);
        }
    }

    /// The opener is told that the other end is closed, although it is not: what is under way there still arrives.
    pub(super) fn reset(&mut self, conn: ConnId) {
        self.post(conn, OPENER, 0, Body::Fin);
    }

    /// The packet, if no cut holds it back.
    pub(super) fn arrives(&mut self, conn: ConnId, end: usize, body: Body) -> Option<Body> {
        let ends = self.net.conns[conn].ends;
        let cut = self.net.is_cut(ends[1 - end], ends[end]);
        let entry = &mut self.net.conns[conn];
        if cut || !entry.held[end].is_empty() {
            entry.held[end].push(body);
            return None;
        }
        // A transfer breaks off where its sender ends.
        match body {
            Body::ToReplica(ToReplica::Snapshot(..)) if !entry.open[1 - end] => Some(Body::Fin),
            body => Some(body),
        }
    }

    /// The packet, if this end is still open; a reset to the other end if it is not.
    pub(super) fn taken(&mut self, conn: ConnId, end: usize, body: Body) -> Option<Body> {
        let entry = &mut self.net.conns[conn];
        if !entry.open[end] {
            if !matches!(body, Body::Fin) {
                self.post(conn, 1 - end, 0, Body::Fin);
            }
            return None;
        }
        if matches!(body, Body::Fin | Body::Refused) {
            entry.open[end] = false;
        }
        Some(body)
    }

    pub(super) fn set_cut(&mut self, from: Node, to: Node, cut: bool) {
        if std::mem::replace(&mut self.net.cut[from.index()][to.index()], cut) == cut || cut {
            return;
        }
        for conn in 0..self.net.conns.len() {
            for end in [OPENER, ACCEPTOR] {
                let entry = &mut self.net.conns[conn];
                if entry.ends[1 - end] == from && entry.ends[end] == to && !entry.held[end].is_empty() {
                    let retransmission = self.rng.u64(0..200_000);
                    self.schedule(retransmission, Event::Release { conn, end });
                }
            }
        }
    }

    /// What was held back arrives, unless there is another cut.
    pub(super) fn release(&mut self, conn: ConnId, end: usize) {
        let ends = self.net.conns[conn].ends;
        if !self.net.is_cut(ends[1 - end], ends[end]) {
            for body in std::mem::take(&mut self.net.conns[conn].held[end]) {
                if let Some(body) = self.arrives(conn, end, body) {
                    self.dispatch(Event::Delivered { conn, end, body });
                }
            }
        }
    }
}
