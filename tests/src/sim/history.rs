//! What the clients asked for and were told, and whether some register could have told them that (R8, R9).

use std::collections::BTreeMap;

use crate::linearizable::{self, Kind};

use super::kernel::{Sim, Us, say};

/// One request of one client. A write's number is also the value that it writes, so no value is written twice but by
/// a mistake of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) client: usize,
    pub(super) key: u8,
    pub(super) write: bool,
    pub(super) invoked: Us,
    pub(super) returned: Us,
    pub(super) outcome: Outcome,
    /// It is on its way to a server, so its outcome is not in our hands.
    pub(super) sent: bool,
    /// The epoch under which it was answered.
    epoch: u64,
    /// The highest epoch that had answered, and by whom, when it was asked for.
    top: (u64, usize),
}

/// What the client was told (R9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing yet.
    Pending,
    /// The write is done.
    Written,
    /// This was read.
    Found(Option<u32>),
    /// Nothing was written, or nothing could be read.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// Everything that was asked for in a run.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) requests: Vec<Request>,
    /// When all keys may have been erased: FLUSHALL, which a failover may undo.
    pub(super) flushes: Vec<Us>,
}

impl Sim {
    /// A client asks for something, unless it still waits for an answer.
    pub(super) fn client_asks(&mut self, client: usize) {
        // After the faults a few requests show as much as many.
        let slower = if self.healed.is_some() { 4 } else { 1 };
        self.schedule(self.plan.write_every * slower, super::kernel::Event::Client(client));
        let at = client % self.apis.len();
        let idle = self.plan.idle && self.healed.is_none();
        if idle || self.clients[client].is_some() || !self.apis[at].up {
            return;
        }
        let (now, top) = (self.now, self.oracle.top);
        let request = Request {
            client,
            key: self.rng.u8(0..self.plan.keys),
            write: self.rng.u8(0..4) < self.plan.writes,
            invoked: now,
            returned: now,
            outcome: Outcome::Pending,
            sent: false,
            epoch: 0,
            top,
        };
        let number = self.oracle.history.requests.len();
        self.oracle.history.requests.push(request);
        self.clients[client] = Some(number);
        let life = self.apis[at].life;
        self.schedule(0, super::kernel::Event::Request { api: at, life, number });
        let deadline = super::kernel::Event::Deadline { api: at, life, number };
        self.schedule(self.plan.deadline, deadline);
    }

    pub(super) fn pending(&self, number: usize) -> bool {
        self.oracle.history.requests[number].outcome == Outcome::Pending
    }

    /// Tells the client, if it still waits.
    pub(super) fn tell(&mut self, number: usize, outcome: Outcome) {
        let now = self.now;
        let request = &mut self.oracle.history.requests[number];
        if request.outcome != Outcome::Pending {
            return;
        }
        (request.outcome, request.returned) = (outcome, now);
        let (client, write) = (request.client, request.write);
        self.clients[client] = None;
        match outcome {
            Outcome::Failed if write => {
                if number >= self.oracle.segment.requests {
                    self.oracle.refused.insert(number);
                }
                self.counts.failed += 1;
                self.oracle.dirty = true;
            }
            Outcome::Unknown => self.counts.unknown += 1,
            _ => {}
        }
        if outcome != Outcome::Failed {
            say!(self, "request {number} of client {client}: {outcome:?}");
        }
    }

    /// A confirmed answer under this epoch, by this server.
    pub(super) fn answered(&mut self, number: usize, outcome: Outcome, epoch: u64, server: usize) {
        if !self.pending(number) {
            return;
        }
        self.tell(number, outcome);
        self.oracle.history.requests[number].epoch = epoch;
        self.oracle.served = self.oracle.served.max(epoch);
        if !self.plan.sync {
            return;
        }
        match outcome {
            Outcome::Written => {
                self.counts.acknowledged += 1;
                // Told late, of what a cold start has given up.
                if epoch >= self.oracle.segment.epoch {
                    self.oracle.acknowledged.insert(number);
                }
            }
            _ => self.counts.reads += 1,
        }
        self.oracle.dirty = true;
        // Reads are judged in the end, with the whole history.
        let Request { top, write, .. } = self.oracle.history.requests[number];
        let over = self.oracle.void || epoch < self.oracle.segment.epoch;
        if write && !over && top.0 > epoch && top.1 != server {
            let why = format!(
                "two primaries: write {number} was answered in epoch {epoch} at s{server} and began after an \
                 answer of epoch {} at s{}",
                top.0, top.1
            );
            self.broken(why);
        }
        self.oracle.top = self.oracle.top.max((epoch, server));
    }

    /// The process is gone: its clients do not know what became of their requests.
    pub(super) fn requests_are_lost(&mut self, api: usize) {
        for client in 0..self.clients.len() {
            if client % self.apis.len() == api
                && let Some(number) = self.clients[client]
            {
                self.tell(number, Outcome::Unknown);
            }
        }
    }

    /// Could some register have told the clients what they were told, since the last cold start? What was given up by
    /// that one is not asked for: each of its registers begins with what the chosen server held.
    pub(super) fn judge_history(&mut self) {
        if !self.plan.sync || self.failure.is_some() {
            return;
        }
        let segment = &self.oracle.segment;
        let mut keys: BTreeMap<u8, Vec<linearizable::Op>> = BTreeMap::new();
        for (number, request) in self.oracle.history.requests.iter().enumerate() {
            let value = |number: usize| Some(number as u64);
            let answered = matches!(request.outcome, Outcome::Written | Outcome::Found(_));
            if answered && request.epoch < segment.epoch {
                continue;
            }
            let (kind, returned) = match (request.write, request.outcome) {
                // Carried out before; a second time, perhaps, if it was sent again.
                (true, _) if segment.has.contains(number) => (Kind::Write(value(number)), None),
                (true, Outcome::Written) => (Kind::Write(value(number)), Some(request.returned)),
                (true, Outcome::Unknown | Outcome::Pending) => (Kind::Write(value(number)), None),
                (false, Outcome::Found(found)) => {
                    (Kind::Read(found.and_then(|found| value(found as usize))), Some(request.returned))
                }
                (_, _) => continue,
            };
            let invoked = request.invoked.max(segment.begun + 1);
            let op = linearizable::Op { invoked, returned, kind };
            keys.entry(request.key).or_default().push(op);
        }
        let erased = self.oracle.history.flushes.iter().filter(|at| **at >= segment.begun);
        let erased: Vec<_> = erased
            .map(|at| linearizable::Op { invoked: *at, returned: None, kind: Kind::Write(None) })
            .collect();
        let last = self.last_values();
        for (key, mut ops) in keys {
            ops.extend(&erased);
            if segment.epoch > 0 {
                let kind = Kind::Write(segment.values[usize::from(key)].map(u64::from));
                ops.push(linearizable::Op { invoked: segment.begun, returned: Some(segment.begun), kind });
            }
            if let Some(last) = &last {
                let value = last[usize::from(key)].map(u64::from);
                ops.push(linearizable::Op {
                    invoked: self.now,
                    returned: Some(self.now),
                    kind: Kind::Read(value),
                });
            }
            if let Err(why) = linearizable::check(&ops) {
                return self.broken(format!("key {key} is not linearizable: {why}"));
            }
        }
    }

    /// What the primary holds in the end, if somebody serves.
    fn last_values(&self) -> Option<[Option<u32>; 4]> {
        let state = self.store.state()?;
        let s = &self.servers[super::redis::index(&state.primary.addr)];
        let serves = !self.oracle.void && s.up && s.master && s.run_id == state.primary.run_id;
        (serves && s.data.fence == Some(state.epoch)).then_some(s.data.values)
    }
}
