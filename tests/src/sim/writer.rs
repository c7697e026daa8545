//! A client as an API process is: it follows the record, uses a connection only if the recorded process answers there,
//! writes by a conditional script, and calls a write confirmed when [`failover::confirm`] does (R3).

use std::rc::Rc;

use failover::confirm::{Confirmation, confirmed};
use topology::State;

use super::kernel::{Event, MS, Sim, Us, say};
use super::net::{Body, ConnId, Node, OPENER, Purpose};
use super::plan::Flaw;
use super::redis::{FromServer, ToServer, index};
use super::store::{Content, Path};

/// How long a write may wait for its copies.
const DEADLINE: Us = 600 * MS;

#[derive(Debug)]
pub(super) struct Writer {
    view: Option<(Rc<State>, i32)>,
    link: Option<(ConnId, Rc<State>, Step)>,
    operation: u32,
    /// The highest epoch that had answered, and by whom, when the operation began.
    top: (u64, usize),
    write: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Opening,
    Ready,
    Writing,
    Confirming { needed: u64 },
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { view: None, link: None, operation: 0, top: (0, 0), write: 0 }
    }
}

impl Sim {
    /// The record reached the writer, unless it is cut off; then it keeps what it has.
    pub(super) fn read_view(&mut self, at: usize) {
        if !self.store.up
            || self.net.is_cut(Node::Store, Node::Writer(at))
            || self.net.is_cut(Node::Writer(at), Node::Store)
        {
            return self.schedule(100 * MS, Event::View { writer: at });
        }
        if let Some((Content::State(state), version)) = self.store.read(Path::State)
            && self.writers[at].view.as_ref().is_none_or(|(_, known)| *known < version)
        {
            self.writers[at].view = Some((state, version));
        }
    }

    /// Begins a write, if none is under way.
    pub(super) fn write(&mut self, at: usize) {
        self.schedule(self.plan.write_every, Event::Write(at));
        let Some((view, _)) = self.writers[at].view.clone() else { return };
        let top = self.oracle.top;
        let writer = &mut self.writers[at];
        match &writer.link {
            Some((_, of, _)) if of.primary.run_id != view.primary.run_id => self.hang_up(at),
            Some((conn, _, Step::Ready)) => {
                // Refused before it is sent: too few copies.
                if view.in_sync.len() < view.min_in_sync as usize {
                    return;
                }
                let conn = *conn;
                self.oracle.writes += 1;
                let write = self.oracle.writes;
                let epoch = view.epoch;
                let writer = &mut self.writers[at];
                (writer.write, writer.top) = (write, top);
                writer.operation += 1;
                let operation = writer.operation;
                writer.link = Some((conn, view, Step::Writing));
                self.send(conn, OPENER, Body::ToServer(ToServer::Script { epoch, write }));
                self.schedule(DEADLINE, Event::WriteOver { writer: at, operation });
            }
            Some(_) => {}
            None => {
                let server = index(&view.primary.addr);
                let conn = self.open(Node::Writer(at), Node::Server(server), Purpose::Writes { writer: at });
                let writer = &mut self.writers[at];
                writer.operation += 1;
                let operation = writer.operation;
                writer.link = Some((conn, view, Step::Opening));
                self.schedule(200 * MS, Event::WriteOver { writer: at, operation });
            }
        }
    }

    fn hang_up(&mut self, at: usize) {
        let writer = &mut self.writers[at];
        writer.operation += 1;
        if let Some((conn, ..)) = writer.link.take() {
            self.close(conn, OPENER);
        }
    }

    /// Not confirmed in time: indeterminate.
    pub(super) fn write_over(&mut self, at: usize, operation: u32) {
        if self.writers[at].operation == operation {
            self.hang_up(at);
        }
    }

    pub(super) fn writer_packet(&mut self, at: usize, conn: ConnId, body: Body) {
        let Some((link, view, step)) = self.writers[at].link.clone() else { return };
        if link != conn {
            return;
        }
        match (step, body) {
            (Step::Opening, Body::Accepted(run_id)) => {
                if run_id == view.primary.run_id {
                    self.ready(at, conn, view);
                } else {
                    self.hang_up(at);
                }
            }
            (Step::Writing, Body::FromServer(FromServer::Written(needed))) => {
                let step = Step::Confirming { needed };
                self.writers[at].link = Some((conn, view, step));
                self.send(conn, OPENER, Body::ToServer(ToServer::Poll));
            }
            (Step::Writing, Body::FromServer(FromServer::NotWritten | FromServer::Loading)) => {
                self.ready(at, conn, view)
            }
            (Step::Confirming { needed }, Body::FromServer(FromServer::Polled { rows, fence, master })) => {
                self.polled(at, conn, view, needed, &rows, fence, master);
            }
            (_, Body::Fin | Body::Refused) => self.hang_up(at),
            (_, _) => {}
        }
    }

    fn ready(&mut self, at: usize, conn: ConnId, view: Rc<State>) {
        let writer = &mut self.writers[at];
        writer.operation += 1;
        writer.link = Some((conn, view, Step::Ready));
    }

    #[allow(clippy::too_many_arguments)]
    fn polled(
        &mut self,
        at: usize,
        conn: ConnId,
        view: Rc<State>,
        needed: u64,
        rows: &[(String, u64)],
        fence: Option<u64>,
        master: bool,
    ) {
        let copies = rows.iter().filter(|(_, offset)| *offset >= needed).count();
        let verdict = match self.flaw {
            Some(Flaw::OneCopyIsEnough) => Confirmation::Confirmed,
            _ if !master => Confirmation::Fenced,
            Some(Flaw::AnybodyCounts) if copies >= view.in_sync.len() => Confirmation::Confirmed,
            _ => confirmed(&view.in_sync, needed, rows, fence, view.epoch),
        };
        match verdict {
            Confirmation::Confirmed => {
                self.acknowledged(at, &view);
                self.ready(at, conn, view);
            }
            Confirmation::Fenced => self.ready(at, conn, view),
            Confirmation::Behind(_) => {
                let wait = self.rng.u64(2..30) * MS;
                self.send_slowly(conn, OPENER, wait, Body::ToServer(ToServer::Poll));
            }
        }
    }

    fn acknowledged(&mut self, at: usize, view: &State) {
        let writer = &self.writers[at];
        let (write, top, server) = (writer.write, writer.top, index(&view.primary.addr));
        self.counts.acknowledged += 1;
        self.oracle.acknowledged.insert(write);
        self.oracle.dirty = true;
        say!(self, "w{at}: write {write} is confirmed in epoch {}", view.epoch);
        if top.0 > view.epoch && top.1 != server {
            let why = format!(
                "two primaries: write {write} in epoch {} at s{server} began after an answer of epoch {} at s{}",
                view.epoch, top.0, top.1
            );
            self.broken(why);
        }
        self.oracle.top = self.oracle.top.max((view.epoch, server));
    }
}
