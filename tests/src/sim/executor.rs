//! Orders carried out at one server by one monitor, as `monitor/src/backend.rs` does: one at a time, on one
//! connection from look to act (R1). Every message is an event of its own.

use std::collections::VecDeque;

use failover::{Command, Deed, Event as GroupEvent, Look, Order, Outcome, Refused, Time, Verdict};

use super::client::Call;
use super::flaw::Flaw;
use super::kernel::{Sim, Us, say};
use super::monitor::{Timer, period};
use super::net::{Body, ConnId, Node, OPENER, Purpose};
use super::redis::{FromServer, ToServer};
use super::store::{Op, Path, Request};

#[derive(Debug, Default)]
pub(super) struct Executor {
    serial: u32,
    queue: VecDeque<Order>,
    running: Option<Running>,
    opening: Option<ConnId>,
    link: Option<(ConnId, String)>,
    /// What a broken driver sends on its next connection.
    resend: Option<(Box<Order>, Vec<Command>)>,
}

impl Executor {
    pub(super) fn connection(&self) -> Option<ConnId> {
        self.link.as_ref().map(|(conn, _)| *conn)
    }

    fn asked(&mut self, now: Time) {
        if let Some(running) = &mut self.running {
            running.asked = now;
        }
    }
}

#[derive(Debug)]
struct Running {
    order: Order,
    /// What is to be sent in MULTI.
    commands: Vec<Command>,
    /// What is told once all is tidied up.
    outcome: Option<Outcome>,
    /// When its last question was sent.
    asked: Time,
}

impl Sim {
    fn executor(&mut self, at: usize, server: usize) -> &mut Executor {
        &mut self.monitors[at].executors[server]
    }

    pub(super) fn open_orders(&mut self, at: usize, server: usize) {
        let conn =
            self.open(Node::Monitor(at), Node::Server(server), Purpose::Orders { monitor: at, server });
        let limit = self.plan.connect_timeout;
        let executor = self.executor(at, server);
        executor.serial += 1;
        executor.opening = Some(conn);
        let serial = executor.serial;
        self.start(at, limit, Timer::OrderOver { server, serial });
    }

    /// Its server is no member any more: what was under way is given up, and nobody is told.
    pub(super) fn end_orders(&mut self, at: usize, server: usize) {
        let executor = self.executor(at, server);
        let serial = executor.serial + 1;
        let old = std::mem::replace(executor, Executor { serial, ..Executor::default() });
        let conns = [old.opening, old.link.map(|(conn, _)| conn)];
        conns.into_iter().flatten().for_each(|conn| self.close(conn, OPENER));
    }

    pub(super) fn take_order(&mut self, at: usize, order: Order) {
        let server = super::redis::index(&order.backend);
        self.executor(at, server).queue.push_back(order);
        self.next_order(at, server);
    }

    fn next_order(&mut self, at: usize, server: usize) {
        let executor = self.executor(at, server);
        if executor.running.is_some() || executor.opening.is_some() {
            return;
        }
        let Some(order) = executor.queue.pop_front() else { return };
        executor.running = Some(Running { order, commands: Vec::new(), outcome: None, asked: Time::ZERO });
        if executor.link.is_none() {
            self.open_orders(at, server);
        } else {
            self.begin_order(at, server);
        }
    }

    fn begin_order(&mut self, at: usize, server: usize) {
        let limit: Us = period(self.plan.limits.down_after).max(self.plan.connect_timeout);
        let (flaw, asked) = (self.flaw, self.monitors[at].time(self.now));
        let executor = self.executor(at, server);
        let (Some(running), Some((conn, run_id))) = (&executor.running, &executor.link) else { return };
        let conn = *conn;
        let other = running.order.expected_run_id().is_some_and(|expected| expected != run_id);
        if other && flaw != Some(Flaw::AnyRunId) {
            return self.order_ends(at, server, Outcome::Refused(Refused::OtherProcess));
        }
        let prepare = running.order.prepare();
        executor.serial += 1;
        executor.asked(asked);
        let serial = executor.serial;
        self.start(at, limit, Timer::OrderOver { server, serial });
        let watch = !matches!(flaw, Some(Flaw::NoWatch | Flaw::IgnoreFence));
        self.send(conn, OPENER, Body::ToServer(ToServer::Look { prepare, watch }));
    }

    /// No answer in time, or no connection.
    pub(super) fn order_over(&mut self, at: usize, server: usize, serial: u32) {
        if self.executor(at, server).serial == serial {
            self.orders_lost(at, server);
        }
    }

    fn orders_lost(&mut self, at: usize, server: usize) {
        let executor = self.executor(at, server);
        let conns = [executor.opening.take(), executor.link.take().map(|(conn, _)| conn)];
        conns.into_iter().flatten().for_each(|conn| self.close(conn, OPENER));
        if self.executor(at, server).running.is_some() {
            self.order_ends(at, server, Outcome::Lost);
        } else {
            self.next_order(at, server);
        }
    }

    pub(super) fn order_packet(&mut self, at: usize, server: usize, conn: ConnId, body: Body) {
        let executor = self.executor(at, server);
        if executor.opening == Some(conn) {
            executor.opening = None;
            executor.serial += 1;
            match body {
                Body::Accepted(run_id) => {
                    executor.link = Some((conn, run_id));
                    if executor.running.is_some() {
                        self.begin_order(at, server);
                    } else {
                        self.next_order(at, server);
                    }
                }
                _ => self.orders_lost(at, server),
            }
            return;
        }
        if executor.link.as_ref().is_none_or(|(link, _)| *link != conn) {
            return;
        }
        match body {
            Body::Accepted(_) => {
                if let Some((order, commands)) = executor.resend.take() {
                    let exec = ToServer::Exec { order, commands, watch: false };
                    self.send(conn, OPENER, Body::ToServer(exec));
                }
            }
            Body::Fin | Body::Refused => self.orders_lost(at, server),
            Body::FromServer(answer) => self.order_answer(at, server, answer),
            _ => {}
        }
    }

    fn order_answer(&mut self, at: usize, server: usize, answer: FromServer) {
        match answer {
            FromServer::Looked(look) => self.looked(at, server, *look),
            FromServer::Executed(seen) => {
                let seen = self.flawed_look(at, server, *seen);
                self.order_ends(at, server, Outcome::Done(Some(seen)));
            }
            FromServer::Loading => self.tidy(at, server, Outcome::Rejected("LOADING".into())),
            FromServer::NilExec => self.tidy(at, server, Outcome::Raced),
            FromServer::Tidied => {
                let outcome = self.executor(at, server).running.as_mut().and_then(|r| r.outcome.take());
                if let Some(outcome) = outcome {
                    self.order_ends(at, server, outcome);
                }
            }
            _ => {}
        }
    }

    fn looked(&mut self, at: usize, server: usize, look: Look) {
        let look = Look { seen: self.flawed_look(at, server, look.seen), ..look };
        let Some(running) = &self.executor(at, server).running else { return };
        let order = running.order.clone();
        let checked = self.flawed_order_check(&order);
        let executor = self.executor(at, server);
        let Some(running) = &mut executor.running else { return };
        let verdict = checked.check(&look);
        let serial = executor.serial;
        match verdict {
            Verdict::Nothing => self.tidy(at, server, Outcome::Done(Some(look.seen))),
            Verdict::Deposed(fence) => {
                self.counts.deposed += 1;
                self.tidy(at, server, Outcome::Deposed(fence));
            }
            Verdict::Refused(why) => self.tidy(at, server, Outcome::Refused(why)),
            Verdict::Exec(commands) => {
                running.commands = commands;
                if self.step(at, "executes") {
                    return;
                }
                self.start(at, 0, Timer::Act { server, serial });
            }
            Verdict::AskStore(commands) => {
                running.commands = commands;
                let (reign, version) = (running.order.reign, running.order.version);
                self.counts.asked_store += 1;
                if self.flaw == Some(Flaw::NilFenceIsZero) {
                    return self.start(at, 0, Timer::Act { server, serial });
                }
                let ops = vec![Op::Check(Path::Leader, reign), Op::Check(Path::State, version)];
                let generation = self.monitors[at].client.registered;
                self.call(at, generation, Request::Multi(ops), Call::Stands { server, serial });
            }
        }
    }

    pub(super) fn store_stands(&mut self, at: usize, server: usize, serial: u32, stands: bool) {
        let executor = self.executor(at, server);
        if executor.serial != serial || executor.running.is_none() {
            return;
        }
        if stands {
            if self.step(at, "executes what the store allowed") {
                return;
            }
            self.start(at, 0, Timer::Act { server, serial });
        } else {
            self.tidy(at, server, Outcome::Raced);
        }
    }

    pub(super) fn act(&mut self, at: usize, server: usize, serial: u32) {
        let watch = !matches!(self.flaw, Some(Flaw::NoWatch | Flaw::IgnoreFence));
        let asked = self.monitors[at].time(self.now);
        let executor = self.executor(at, server);
        if executor.serial != serial {
            return;
        }
        executor.asked(asked);
        let (Some(running), Some((conn, _))) = (&executor.running, &executor.link) else { return };
        let (conn, commands) = (*conn, running.commands.clone());
        let order = Box::new(running.order.clone());
        let mut commands = self.flawed_commands(commands);
        if self.breaks(Flaw::NeverReleases) && order.deed == Deed::Release {
            commands.clear();
        }
        if self.breaks(Flaw::Reconnects) {
            return self.reconnect(at, server, order, commands);
        }
        self.send(conn, OPENER, Body::ToServer(ToServer::Exec { order, commands, watch }));
    }

    /// A broken driver opens a new connection for the act.
    fn reconnect(&mut self, at: usize, server: usize, order: Box<Order>, commands: Vec<Command>) {
        let purpose = Purpose::Orders { monitor: at, server };
        let conn = self.open(Node::Monitor(at), Node::Server(server), purpose);
        let executor = self.executor(at, server);
        let run_id = executor.link.as_ref().map_or(String::new(), |(_, run_id)| run_id.clone());
        if let Some((old, _)) = executor.link.replace((conn, run_id)) {
            self.close(old, OPENER);
        }
        self.executor(at, server).resend = Some((order, commands));
    }

    /// UNWATCH.
    fn tidy(&mut self, at: usize, server: usize, outcome: Outcome) {
        let executor = self.executor(at, server);
        let (Some(running), Some((conn, _))) = (&mut executor.running, &executor.link) else { return };
        running.outcome = Some(outcome);
        let conn = *conn;
        self.send(conn, OPENER, Body::ToServer(ToServer::Tidy));
    }

    fn order_ends(&mut self, at: usize, server: usize, outcome: Outcome) {
        let executor = self.executor(at, server);
        executor.serial += 1;
        let Some(running) = executor.running.take() else { return };
        if matches!(outcome, Outcome::Done(Some(_))) {
            self.monitors[at].probes[server].heard_on_link = true;
        }
        say!(self, "m{at}'s order at s{server} ended: {}", word(&running.order.deed, &outcome));
        self.group_input(at, GroupEvent::Ordered(running.order.backend, running.asked, outcome));
        self.next_order(at, server);
    }
}

fn word(deed: &Deed, outcome: &Outcome) -> String {
    let deed = match deed {
        Deed::Promote { .. } => "promote",
        Deed::Stamp => "stamp",
        Deed::Attach => "attach",
        Deed::Protect => "protect",
        Deed::Detach => "detach",
        Deed::Release => "release",
        Deed::Tick => "tick",
        Deed::Pause => "pause",
        Deed::Leave => "leave",
        Deed::Unpause => "unpause",
    };
    match outcome {
        Outcome::Done(_) => format!("{deed} done"),
        other => format!("{deed} {other:?}"),
    }
}
