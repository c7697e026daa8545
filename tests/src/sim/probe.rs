//! The probe of one server by one monitor, as `monitor/src/backend.rs` runs it: attempts every 50 ms while there is no
//! connection, a question every ping interval or at once, and a new connection where one is silent. Here a server that takes
//! a connection has greeted; what waits for its turn there is only the first attempt, and now and then a question.

use std::collections::BTreeSet;

use failover::{Event as GroupEvent, Trouble};

use super::flaw::Flaw;
use super::kernel::{MS, Sim, Us};
use super::monitor::{Timer, period};
use super::net::{Body, ConnId, Node, OPENER, Purpose};
use super::plan::Weather;
use super::redis::{FromServer, ToServer, index};

/// Between two attempts to connect.
const ATTEMPT_EVERY: Us = 50 * MS;

#[derive(Debug, Default)]
pub(super) struct Probe {
    /// Its server is a member.
    on: bool,
    /// Grows with every connection and every wait, so that old timers are known.
    serial: u32,
    attempts: Vec<ConnId>,
    tried: bool,
    link: Option<ConnId>,
    /// When the first attempt began of which nothing is told yet.
    begun: Option<Us>,
    /// When the question was sent that is under way.
    asked: Option<Us>,
    /// Somebody answered since the present connection was opened, here or to an order.
    pub(super) heard_on_link: bool,
    wanted: bool,
    due: Us,
}

impl Sim {
    /// Starts a probe and an executor for every member, and ends those of former ones.
    pub(super) fn tend_probes(&mut self, at: usize) {
        let members: BTreeSet<usize> = self.monitors[at].group.members().map(index).collect();
        for server in 0..self.servers.len() {
            if self.monitors[at].probes.len() <= server {
                self.monitors[at].probes.push(Probe::default());
                self.monitors[at].executors.push(super::executor::Executor::default());
            }
            match (self.probe(at, server).on, members.contains(&server)) {
                (false, true) => {
                    let probe = self.probe(at, server);
                    probe.on = true;
                    let serial = probe.serial;
                    // Of thousands of servers, some wait for their turn.
                    let wait = if self.rng.u8(0..8) == 0 { self.rng.u64(0..1500) * MS } else { 0 };
                    self.start(at, wait, Timer::Attempt { server, serial });
                    self.open_orders(at, server);
                }
                (true, false) => {
                    let serial = self.probe(at, server).serial + 1;
                    let old = std::mem::replace(self.probe(at, server), Probe { serial, ..Probe::default() });
                    old.attempts.into_iter().chain(old.link).for_each(|conn| self.close(conn, OPENER));
                    self.end_orders(at, server);
                }
                (true, true) | (false, false) => {}
            }
        }
    }

    fn probe(&mut self, at: usize, server: usize) -> &mut Probe {
        &mut self.monitors[at].probes[server]
    }

    pub(super) fn attempt(&mut self, at: usize, server: usize, serial: u32) {
        let probe = self.probe(at, server);
        if !probe.on || probe.serial != serial || probe.link.is_some() {
            return;
        }
        let conn = self.open(Node::Monitor(at), Node::Server(server), Purpose::Probe { monitor: at, server });
        let now = self.now;
        let probe = self.probe(at, server);
        probe.attempts.push(conn);
        probe.begun.get_or_insert(now);
        let timeout = self.plan.connect_timeout;
        self.start(at, timeout, Timer::AttemptOver { server, conn });
        self.start(at, ATTEMPT_EVERY, Timer::Attempt { server, serial });
    }

    pub(super) fn attempt_over(&mut self, at: usize, server: usize, conn: ConnId) {
        let probe = self.probe(at, server);
        if let Some(place) = probe.attempts.iter().position(|attempt| *attempt == conn) {
            probe.attempts.remove(place);
            self.close(conn, OPENER);
            let (now, long) = (self.now, period(self.plan.limits.down_after));
            let in_vain = self.probe(at, server).begun.take_if(|begun| now >= *begun + long).is_some();
            let life = self.monitors[at].life;
            self.failed(at, server);
            if in_vain && self.monitors[at].life == life {
                self.group_input(at, GroupEvent::Unanswered(self.servers[server].addr.clone()));
            }
        }
    }

    /// The first attempt that fails is told of.
    fn failed(&mut self, at: usize, server: usize) {
        if !std::mem::replace(&mut self.probe(at, server).tried, true) {
            self.group_input(at, GroupEvent::Tried(self.servers[server].addr.clone()));
        }
    }

    pub(super) fn probe_packet(&mut self, at: usize, server: usize, conn: ConnId, body: Body) {
        let addr = self.servers[server].addr.clone();
        let probe = self.probe(at, server);
        if let Some(place) = probe.attempts.iter().position(|attempt| *attempt == conn) {
            match body {
                Body::Accepted(run_id) => self.probe_opened(at, server, conn, run_id),
                Body::Refused => {
                    probe.attempts.remove(place);
                    let life = self.monitors[at].life;
                    self.failed(at, server);
                    // What came of it may have ended the monitor.
                    if self.monitors[at].life == life && self.flaw != Some(Flaw::NotToldOfClosing) {
                        self.group_input(at, GroupEvent::ConnectionRefused(addr));
                    }
                }
                _ => {
                    probe.attempts.remove(place);
                    self.failed(at, server);
                }
            }
            return;
        }
        if probe.link != Some(conn) {
            return;
        }
        match body {
            Body::FromServer(FromServer::Loading) => {
                let probe = self.probe(at, server);
                probe.asked = None;
                let again = probe.wanted;
                self.group_input(at, GroupEvent::Troubled(addr, Trouble::Loading));
                if again {
                    self.ask(at, server);
                }
            }
            Body::FromServer(FromServer::Probed { asked, seen }) => {
                let probe = self.probe(at, server);
                (probe.asked, probe.heard_on_link) = (None, true);
                let again = probe.wanted;
                let asked = self.monitors[at].time(asked);
                let seen = self.flawed_look(at, server, *seen);
                self.group_input(at, GroupEvent::Seen(addr, asked, seen.into()));
                if again {
                    self.ask(at, server);
                }
            }
            Body::Fin => self.probe_closed(at, server),
            _ => {}
        }
    }

    fn probe_opened(&mut self, at: usize, server: usize, conn: ConnId, run_id: String) {
        let probe = self.probe(at, server);
        let others: Vec<ConnId> =
            std::mem::take(&mut probe.attempts).into_iter().filter(|attempt| *attempt != conn).collect();
        probe.serial += 1;
        (probe.link, probe.begun, probe.asked, probe.tried) = (Some(conn), None, None, true);
        probe.heard_on_link = false;
        others.into_iter().for_each(|other| self.close(other, OPENER));
        let addr = self.servers[server].addr.clone();
        self.group_input(at, GroupEvent::Opened(addr.clone()));
        if self.flaw != Some(Flaw::AnyRunId) {
            self.group_input(at, GroupEvent::Greeted(addr, run_id));
        }
        self.ask(at, server);
        self.watch_silence(at, server);
    }

    fn probe_closed(&mut self, at: usize, server: usize) {
        let probe = self.probe(at, server);
        let Some(conn) = probe.link.take() else { return };
        probe.serial += 1;
        let serial = probe.serial;
        self.close(conn, OPENER);
        let addr = self.servers[server].addr.clone();
        self.start(at, 0, Timer::Attempt { server, serial });
        if self.flaw != Some(Flaw::NotToldOfClosing) {
            self.group_input(at, GroupEvent::Closed(addr));
        }
    }

    /// Asks, unless a question is under way.
    fn ask(&mut self, at: usize, server: usize) {
        let (now, after) = (self.now, period(self.plan.limits.ping_interval));
        let probe = self.probe(at, server);
        let Some(conn) = probe.link else { return };
        if probe.asked.is_some() {
            return;
        }
        let serial = probe.serial;
        (probe.asked, probe.wanted, probe.due) = (Some(now), false, now + after);
        self.send(conn, OPENER, Body::ToServer(ToServer::Probe { asked: now }));
        self.start(at, after, Timer::ProbeDue { server, serial });
    }

    pub(super) fn probe_due(&mut self, at: usize, server: usize, serial: u32) {
        let now = self.now;
        let probe = self.probe(at, server);
        if probe.serial != serial || now < probe.due {
            return;
        }
        let mild = self.plan.weather != Weather::Storm;
        if self.rng.u8(0..=u8::MAX) == 0 {
            // This monitor has more to do than time. In a storm it need not know.
            let known = self.flaw != Some(Flaw::LateIsSilent) && (mild || self.rng.bool());
            let wait = self.rng.u64(1..1500) * MS;
            self.start(at, wait, Timer::ProbeDue { server, serial });
            self.probe(at, server).due = now + wait;
            if known {
                self.start(at, 0, Timer::ProbeLate { server, serial, due: now + wait });
            }
            return;
        }
        self.probe(at, server).wanted = true;
        self.ask(at, server);
    }

    /// A question that is due waits, and the driver sees it.
    pub(super) fn probe_late(&mut self, at: usize, server: usize, serial: u32, due: Us) {
        let step = period(self.plan.limits.down_after) / 4;
        let now = self.now;
        let probe = self.probe(at, server);
        if probe.serial != serial || probe.due != due || now >= due {
            return;
        }
        self.start(at, step, Timer::ProbeLate { server, serial, due });
        self.group_input(at, GroupEvent::Unheard(vec![self.servers[server].addr.clone()]));
    }

    /// The core wants to know now.
    pub(super) fn look_now(&mut self, at: usize, server: usize) {
        self.probe(at, server).wanted = true;
        self.ask(at, server);
    }

    fn watch_silence(&mut self, at: usize, server: usize) {
        let long = period(self.plan.limits.down_after);
        let probe = &self.monitors[at].probes[server];
        let (serial, due) = (probe.serial, probe.asked.unwrap_or(self.now) + long);
        self.start(at, due - self.now, Timer::ProbeSilent { server, serial });
    }

    pub(super) fn probe_silent(&mut self, at: usize, server: usize, serial: u32) {
        let long = period(self.plan.limits.down_after);
        let probe = &self.monitors[at].probes[server];
        if probe.serial != serial {
            return;
        }
        if probe.asked.is_none_or(|asked| self.now < asked + long) {
            return self.watch_silence(at, server);
        }
        let life = self.monitors[at].life;
        self.group_input(at, GroupEvent::Unanswered(self.servers[server].addr.clone()));
        if self.monitors[at].life == life {
            self.probe_closed(at, server);
        }
    }
}
