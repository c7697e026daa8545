//! Faults that belong together and hardly ever come together by chance.

use super::kernel::{Event, MS, Sim, say};
use super::net::{ConnId, Node, Pace, Purpose};
use super::plan::Ambush;
use super::redis::{Call, Keeps, index};

impl Sim {
    /// See [`Ambush`]. Begins when the faults begin.
    pub(super) fn prepare_ambush(&mut self) {
        let Some(ambush) = self.plan.ambush else { return };
        let Some(state) = self.store.state() else { return };
        let primary = index(&state.primary.addr);
        say!(self, "an ambush: {ambush:?}");
        match ambush {
            Ambush::LateGet => {}
            Ambush::QuickRestart => {
                for at in 0..2 {
                    if self.monitors[at].up && !self.monitors[at].stalled {
                        self.monitor_stalls(at, 1500 * MS);
                    }
                }
                self.kill(primary, Keeps::Nothing, 10 * MS);
            }
            Ambush::CutOff => self.cut_off(&[Node::Server(primary), Node::Api(0)], 2500 * MS),
            Ambush::LateStamp => {
                let (first, last) = (Node::Server(0), Node::Server(self.servers.len() - 1));
                self.net.pace[first.index()][last.index()] = Pace::Slow;
                for (from, to) in [(first, last), (last, first)] {
                    self.set_cut(from, to, true);
                    self.schedule(900 * MS, Event::CutEnds { from, to });
                }
            }
            Ambush::Strangers => {
                for entry in &state.in_sync {
                    self.stranger_at(primary);
                    self.cut_both(Node::Server(primary), Node::Server(index(&entry.addr)), 250);
                }
                self.schedule(120 * MS, Event::Ambush);
            }
            Ambush::LateStream => {
                let servers = (0..self.servers.len()).filter(|at| *at != primary).map(Node::Server);
                for other in servers.chain([Node::Monitor(0), Node::Monitor(1)]) {
                    self.cut_both(Node::Server(primary), other, 2500);
                }
            }
            Ambush::TwoFailovers => {
                if let Some(first) = state.in_sync.first() {
                    self.cut(Node::Server(primary), Node::Server(index(&first.addr)), 2500 * MS);
                    self.schedule(60 * MS, Event::Ambush);
                }
            }
            Ambush::DeafClient => {
                let at = self.rng.usize(0..self.servers.len());
                if at != primary {
                    self.cut_both(Node::Server(primary), Node::Server(at), 450);
                }
                if self.healed.is_none() {
                    self.schedule(900 * MS, Event::PrepareAmbush);
                }
            }
            Ambush::LonelyDeath => {
                for entry in &state.in_sync {
                    self.cut_both(Node::Server(primary), Node::Server(index(&entry.addr)), 2500);
                }
                for stage in [40, 90] {
                    self.schedule(stage * MS, Event::Ambush);
                }
            }
            Ambush::MuteClient => {
                let length = self.rng.u64(1300..1560) * MS;
                self.cut(Node::Api(0), Node::Server(primary), length);
            }
        }
    }

    /// A record was just published.
    pub(super) fn ambush_publication(&mut self, promotes: bool, enters: bool) {
        let Some(ambush) = self.plan.ambush.filter(|_| self.healed.is_none() && self.now > self.plan.calm)
        else {
            return;
        };
        match ambush {
            Ambush::LateStamp if enters && self.now > self.plan.calm + 500 * MS => {
                let after = self.rng.u64(0..20_000);
                self.schedule(after, Event::Ambush);
            }
            Ambush::TwoFailovers if promotes => {
                let after = self.rng.u64(2..120) * MS;
                self.schedule(after, Event::Ambush);
            }
            Ambush::LateStream if promotes => self.schedule(0, Event::Ambush),
            Ambush::DeafClient if !promotes => self.schedule(0, Event::Ambush),
            _ => {}
        }
    }

    /// The second half.
    pub(super) fn ambush(&mut self) {
        let Some(state) = self.store.state().filter(|_| self.healed.is_none()) else { return };
        say!(self, "the ambush");
        let primary = index(&state.primary.addr);
        match self.plan.ambush {
            Some(Ambush::LateStamp) => {
                if self.one_in(3) {
                    self.kill(primary, Keeps::Nothing, 1500 * MS);
                } else {
                    self.cut_off(&[Node::Server(primary)], 2500 * MS);
                }
                for entry in state.in_sync.iter().filter(|entry| entry.since < state.epoch) {
                    self.pause_for(index(&entry.addr), 2000);
                }
            }
            Some(Ambush::Strangers) => self.kill(primary, Keeps::Nothing, 2500 * MS),
            Some(Ambush::TwoFailovers) => {
                if state.promoted == 1 {
                    let length = self.rng.u64(650..1000);
                    for entry in state.in_sync.iter().skip(1) {
                        self.pause_for(index(&entry.addr), length);
                    }
                }
                self.kill(primary, Keeps::Nothing, 3000 * MS);
            }
            Some(Ambush::LateStream) => {
                for at in 0..2 {
                    if self.monitors[at].up && !self.monitors[at].stalled {
                        let length = self.rng.u64(100..600) * MS;
                        self.monitor_stalls(at, length);
                    }
                }
                for from in (0..self.servers.len()).filter(|at| *at != primary) {
                    let after = self.rng.u64(1..60) * MS;
                    let (from, to) = (Node::Server(from), Node::Server(primary));
                    self.schedule(after, Event::CutEnds { from, to });
                }
            }
            Some(Ambush::DeafClient) => {
                for at in 0..2 {
                    if self.monitors[at].up && !self.monitors[at].stalled {
                        let length = self.rng.u64(5..60) * MS;
                        self.monitor_stalls(at, length);
                    }
                }
                self.cut(Node::Server(primary), Node::Api(0), 1500 * MS);
            }
            Some(Ambush::LonelyDeath) => {
                if self.now < self.plan.calm + 60 * MS {
                    (0..self.apis.len()).for_each(|api| self.reset_lanes(api, primary));
                } else {
                    self.kill(primary, Keeps::Nothing, 2500 * MS);
                }
            }
            Some(Ambush::LateGet) if self.sprung > 1 => self.kill(primary, Keeps::Nothing, 2500 * MS),
            Some(Ambush::LateGet) => {
                self.sprung = 2;
                for other in (0..self.servers.len()).filter(|at| *at != primary) {
                    self.cut_both(Node::Server(primary), Node::Server(other), 2500);
                }
                self.schedule(450 * MS, Event::Ambush);
            }
            Some(Ambush::QuickRestart | Ambush::CutOff | Ambush::MuteClient) | None => {}
        }
    }

    /// See [`Ambush::LateGet`]: the barrier of a strong read was just written for the first API process.
    pub(super) fn ambush_barrier(&mut self, conn: ConnId, call: &Call) {
        let first = matches!(self.net.conns[conn].purpose, Purpose::Lane { api: 0, .. });
        let barrier = first && call.number > 0 && call.writes.is_empty();
        let due = self.now > self.plan.calm + 20 * MS && self.healed.is_none();
        if self.plan.ambush == Some(Ambush::LateGet) && barrier && due && self.sprung == 0 {
            self.sprung = 1;
            self.schedule(3 * MS, Event::Ambush);
        }
    }

    fn pause_for(&mut self, at: usize, length: u64) {
        if self.servers[at].up && !self.servers[at].paused {
            say!(self, "s{at} is paused for {length} ms");
            self.server_pauses(at, length * MS);
        }
    }

    fn cut_both(&mut self, one: Node, other: Node, length: u64) {
        self.cut(one, other, length * MS);
        self.cut(other, one, length * MS);
    }
}
