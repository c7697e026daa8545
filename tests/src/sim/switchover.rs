//! R15: writers that are held at a server, and what must be true when a replica takes over from a primary that lives.
//!
//! * Whoever is promoted, while the record says so, has every byte that the old primary has, which takes no write any more; unless the monitor that
//!   promotes does not hear the old primary, or it is another process or another history by then.
//!
//! That protects those who did not wait for copies; the rest is protected by the rules for every promotion.

use std::collections::BTreeMap;

use failover::{Command, Order, Role};

use super::flaw::Flaw;
use super::kernel::{Event, MS, Sim, Us, say};
use super::net::{ACCEPTOR, ConnId};
use super::redis::{ToServer, index};

/// The writers of one server process.
#[derive(Debug, Default)]
pub(super) struct Writers {
    /// They are held until then.
    until: Us,
    waiting: Vec<(ConnId, ToServer)>,
}

/// Whether a command waits while writers are held.
fn writes(request: &ToServer) -> bool {
    match request {
        ToServer::Script(_) | ToServer::Settle { .. } => true,
        ToServer::Exec { commands, .. } => {
            commands.iter().any(|c| matches!(c, Command::Stamp(_) | Command::Tick { .. }))
        }
        ToServer::Probe { .. }
        | ToServer::Look { .. }
        | ToServer::Tidy
        | ToServer::Get { .. }
        | ToServer::Role
        | ToServer::GetFence
        | ToServer::Kill(_)
        | ToServer::GetMarker(_)
        | ToServer::ForceFence(_)
        | ToServer::Psync { .. }
        | ToServer::Ack(_) => false,
    }
}

impl Sim {
    /// What has to wait is kept; what came after it on the same connection waits with it.
    pub(super) fn held(&mut self, at: usize, conn: ConnId, request: ToServer) -> Option<ToServer> {
        let now = self.now;
        let writers = &mut self.servers[at].writers;
        let waits = writers.waiting.iter().any(|(of, _)| *of == conn);
        if waits || now < writers.until && writes(&request) {
            writers.waiting.push((conn, request));
            return None;
        }
        Some(request)
    }

    pub(super) fn hold_writers(&mut self, at: usize, millis: u32) {
        if self.breaks(Flaw::BlindToTheEnd) {
            return; // else there is hardly ever anything to be seen
        }
        let s = &mut self.servers[at];
        s.writers.until = self.now + u64::from(millis) * MS;
        let run = s.run;
        self.counts.held += 1;
        say!(self, "s{at} holds its writers");
        self.schedule(u64::from(millis) * MS, Event::WritersGoOn { server: at, run });
    }

    pub(super) fn release_writers(&mut self, at: usize) {
        if self.servers[at].writers.until > self.now {
            self.servers[at].writers.until = self.now;
            self.schedule(0, Event::WritersGoOn { server: at, run: self.servers[at].run });
        }
    }

    /// Their time is over. What waits in several connections goes on in any order; within one it keeps its own.
    pub(super) fn writers_go_on(&mut self, at: usize) {
        if self.now < self.servers[at].writers.until {
            return;
        }
        let mut waiting: BTreeMap<ConnId, Vec<ToServer>> = BTreeMap::new();
        for (conn, request) in std::mem::take(&mut self.servers[at].writers.waiting) {
            waiting.entry(conn).or_default().push(request);
        }
        let mut order: Vec<ConnId> = waiting.keys().copied().collect();
        self.rng.shuffle(&mut order);
        for conn in order {
            for request in waiting.remove(&conn).unwrap_or_default() {
                if self.net.conns[conn].open[ACCEPTOR] {
                    self.server_request(conn, request);
                }
            }
        }
    }

    /// A promotion is carried out under a record that names an old primary.
    pub(super) fn judge_switchover(&mut self, monitor: usize, at: usize, order: &Order) {
        let Some(from) = order.record.from.clone() else { return };
        self.counts.switched += 1;
        if self.store.state().is_none_or(|state| state.epoch != order.record.epoch) {
            return; // of a deposed monitor: given back meanwhile, and the one that it promotes is demoted on sight
        }
        let now = self.monitors[monitor].time(self.now);
        let heard = self.monitors[monitor].group.view().current(&from.addr, now).cloned();
        let Some(heard) = heard.filter(|seen| seen.run_id == from.run_id && seen.replid == from.replid)
        else {
            return;
        };
        if matches!(heard.role, Role::Replica { source: Some(_), .. }) {
            return; // somebody else acted on it
        }
        let (old, new) = (&self.servers[index(&from.addr)], &self.servers[at]);
        if !old.up || old.run_id != from.run_id {
            return; // it died a moment ago
        }
        if old.master {
            let why = format!("{} takes over while {} still takes writes", new.run_id, old.run_id);
            return self.broken(why);
        }
        if old.source.is_none() && old.offset() != new.offset() {
            let (has, holds) = (new.offset(), old.offset());
            let why = format!("{} takes over with {has} bytes, and {} holds {holds}", new.run_id, old.run_id);
            self.broken(why);
        }
    }

    /// What a broken driver shows of the old primary, and does to it.
    pub(super) fn flawed_end(&self, monitor: usize, server: usize, seen: &mut failover::Observation) {
        let view = self.monitors[monitor].group.view();
        let Some(state) = view.state() else { return };
        let left = state.from.as_ref().is_some_and(|from| from.addr == self.servers[server].addr);
        let detached = Role::Replica { source: None, link_up: false, syncing: false };
        if !left {
            return;
        }
        match self.flaw {
            Some(Flaw::NeverDetaches) => seen.role = detached,
            Some(Flaw::BlindToTheEnd) if seen.role == detached => {
                let new = view.backends.get(&state.primary.addr).and_then(|b| b.seen.as_ref());
                seen.offset = new.map_or(seen.offset, |new| new.observation.offset);
            }
            _ => {}
        }
    }
}
