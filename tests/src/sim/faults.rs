//! What goes wrong while a run is in its first phase: each fault at a random moment, for a random while.

use super::api::Api;
use super::kernel::{Event, MS, Sim, Us, say};
use super::net::{ACCEPTOR, ConnId, NODES, Node, Pace, Purpose};
use super::plan::Weather;
use super::redis::{Entry, Keeps, Row};
use super::store::{Content, Path};

/// Kinds of faults.
pub(super) const FAULTS: usize = 22;

/// The kind that saves a snapshot.
pub(super) const SAVES: usize = 13;

/// How often each kind comes, relative to the others; every run scales each of them anew.
pub(super) const WEIGHTS: [u32; FAULTS] = [5, 4, 4, 6, 5, 4, 3, 2, 2, 2, 4, 2, 2, 4, 2, 1, 1, 1, 4, 2, 1, 3];

impl Sim {
    pub(super) fn fault(&mut self) {
        if self.healed.is_some() || self.plan.weather != Weather::Storm {
            return self.the_one_fault();
        }
        let after = self.rng.u64(0..2 * self.plan.fault_every) + 1;
        self.schedule(after, Event::Fault);
        self.some_fault();
    }

    /// In other weather than a storm there is one fault at most, until the end.
    fn the_one_fault(&mut self) {
        let length = self.plan.storm;
        let primary = self.store.state().map_or(0, |state| super::redis::index(&state.primary.addr));
        let leader = (0..2).find(|at| self.monitors[*at].reign.is_some()).unwrap_or(0);
        let apart = match self.plan.weather {
            Weather::Storm | Weather::Calm => return,
            Weather::MonitorsApart => [Node::Monitor(0), Node::Monitor(1)],
            Weather::PrimaryHidden => [Node::Monitor(leader), Node::Server(primary)],
            Weather::LeaderStalls => {
                if self.monitors[1 - leader].up {
                    say!(self, "m{leader} is alone from now on");
                    self.monitor_dies(1 - leader);
                    return self.schedule(1600 * MS, Event::Fault);
                }
                say!(self, "m{leader} stands still");
                let length = self.rng.u64(300..700) * MS;
                return self.monitor_stalls(leader, length);
            }
            Weather::ReplicaDies => {
                let replica = usize::from(primary == 0);
                return self.kill(replica, Keeps::All, length / 2);
            }
        };
        say!(self, "{apart:?} are cut from each other");
        self.cut(apart[0], apart[1], length);
        self.cut(apart[1], apart[0], length);
    }

    /// Some faults at once, just after a publication.
    pub(super) fn strike(&mut self) {
        if self.healed.is_none() {
            for _ in 0..self.rng.u32(1..4) {
                self.some_fault();
            }
        }
    }

    fn some_fault(&mut self) {
        let total: u32 = self.plan.weights.iter().sum();
        if total == 0 {
            return;
        }
        let mut at = self.rng.u32(0..total);
        for kind in 0..FAULTS {
            let weight = self.plan.weights[kind];
            if at < weight {
                return self.bring(kind);
            }
            at -= weight;
        }
    }

    fn bring(&mut self, kind: usize) {
        match kind {
            0 => self.kill_server(),
            1 => self.pause_server(),
            2 => self.kill_monitor(),
            3 => self.stall_monitor(),
            4 => self.cut_two(false),
            5 => self.cut_two(true),
            6 => self.isolate(),
            7 => self.pace(Pace::Slow),
            8 => self.pace(Pace::Lossy),
            9 => {
                let length = self.length();
                if self.store.up {
                    say!(self, "the store is away");
                    self.store_falls(length);
                }
            }
            10 => self.store.lose_next = Some(self.rng.bool()),
            11 => {
                if let Some(session) = self.some_session() {
                    self.end_session(session);
                }
            }
            12 => {
                let at = self.some_server();
                if self.servers[at].up && self.servers[at].master && !self.servers[at].paused {
                    say!(self, "the fence of s{at} is erased");
                    self.append(at, Entry::Erase);
                }
            }
            SAVES => {
                let at = self.some_server();
                self.servers[at].save();
            }
            14 => self.stranger(),
            15..=17 if self.store.read(Path::State).is_none() => {} // before there is a record, an operator seeds
            15 => {
                say!(self, "the record is overwritten with junk");
                self.write_znode(Path::State, Content::Junk, None);
            }
            16 => {
                say!(self, "the path is overwritten with junk");
                self.write_znode(Path::Announcement, Content::Junk, None);
            }
            17 => {
                say!(self, "the path is deleted");
                self.delete_znode(Path::Announcement);
            }
            18 => self.stall_api(),
            19 => self.kill_api(),
            20 => self.flush(),
            _ => {
                let (at, server) = (self.rng.usize(0..self.apis.len()), self.some_server());
                self.reset_lanes(at, server);
            }
        }
    }

    /// 1 ms to 3 s; short ones as often as long ones.
    fn length(&mut self) -> Us {
        let scale = [10, 60, 300, 1000, 3000][self.rng.usize(0..5)];
        self.rng.u64(1..scale) * MS
    }

    /// Half the time the recorded primary.
    fn some_server(&mut self) -> usize {
        let any = self.rng.usize(0..self.servers.len());
        match self.store.state() {
            Some(state) if self.rng.bool() => super::redis::index(&state.primary.addr),
            _ => any,
        }
    }

    fn some_node(&mut self) -> Node {
        let nodes = self.nodes();
        nodes[self.rng.usize(0..nodes.len())]
    }

    fn kill_server(&mut self) {
        let at = self.some_server();
        let keeps = [Keeps::Nothing, Keeps::Snapshot, Keeps::All][self.rng.usize(0..3)];
        let after = if self.rng.bool() { self.rng.u64(3..60) * MS } else { self.rng.u64(60..3000) * MS };
        self.kill(at, keeps, after);
    }

    pub(super) fn kill(&mut self, at: usize, keeps: Keeps, after: Us) {
        if !self.servers[at].up {
            return;
        }
        self.servers[at].keeps = keeps;
        say!(self, "s{at} is killed, keeps {keeps:?}");
        self.server_dies(at);
        let run = self.servers[at].run;
        self.schedule(after, Event::ServerRises { server: at, run });
    }

    fn pause_server(&mut self) {
        let (at, length) = (self.some_server(), self.length());
        if self.servers[at].up && !self.servers[at].paused {
            say!(self, "s{at} is paused for {} ms", length / MS);
            self.server_pauses(at, length);
        }
    }

    fn kill_monitor(&mut self) {
        let at = self.some_monitor();
        if self.monitors[at].up {
            if self.one_in(3) && !self.monitors[at].stalled {
                say!(self, "m{at} is stopped");
                self.monitor_stops(at);
            } else {
                say!(self, "m{at} is killed");
                self.monitor_dies(at);
            }
            let (after, life) = (self.length(), self.monitors[at].life);
            self.schedule(after, Event::MonitorRises { monitor: at, life });
        }
    }

    fn stall_monitor(&mut self) {
        let (at, length) = (self.some_monitor(), self.length());
        if self.monitors[at].up && !self.monitors[at].stalled {
            say!(self, "m{at} stalls for {} ms", length / MS);
            self.monitor_stalls(at, length);
        }
    }

    fn stall_api(&mut self) {
        let (at, length) = (self.rng.usize(0..self.apis.len()), self.length());
        if self.apis[at].up && !self.apis[at].stalled {
            say!(self, "a{at} stalls for {} ms", length / MS);
            self.api_stalls(at, length);
        }
    }

    fn kill_api(&mut self) {
        let (at, length) = (self.rng.usize(0..self.apis.len()), self.length());
        if self.apis[at].up {
            say!(self, "a{at} is killed");
            self.api_dies(at);
            let life = self.apis[at].life;
            self.schedule(length, Event::ApiRises { api: at, life });
        }
    }

    /// Whatever stands between closes the connections of an API process to a server; what was sent may still arrive.
    pub(super) fn reset_lanes(&mut self, api: usize, server: usize) {
        say!(self, "connections of a{api} to s{server} are reset");
        for conn in 0..self.net.conns.len() {
            let entry = &self.net.conns[conn];
            let lane = matches!(entry.purpose, Purpose::Lane { api: of, .. } if of == api);
            if lane && entry.ends[ACCEPTOR] == Node::Server(server) && entry.open[ACCEPTOR] {
                self.reset(conn);
            }
        }
    }

    /// FLUSHALL, or only the markers are evicted.
    fn flush(&mut self) {
        let at = self.some_server();
        let s = &self.servers[at];
        if !s.up || !s.master || s.paused {
            return;
        }
        let all = self.one_in(2);
        say!(self, "s{at} loses its markers, and everything else: {all}");
        if all {
            self.oracle.history.flushes.push(self.now);
        }
        self.append(at, if all { Entry::Flush } else { Entry::EraseMarkers });
    }

    /// Mostly the one that leads.
    fn some_monitor(&mut self) -> usize {
        let any = self.rng.usize(0..2);
        let leads = (0..2).find(|at| self.monitors[*at].reign.is_some());
        leads.filter(|_| !self.one_in(3)).unwrap_or(any)
    }

    fn cut_two(&mut self, both: bool) {
        let (a, b, length) = (self.some_node(), self.some_node(), self.length());
        if a != b {
            say!(self, "{a:?} -> {b:?} is cut for {} ms, both ways: {both}", length / MS);
            self.cut(a, b, length);
            if both {
                self.cut(b, a, length);
            }
        }
    }

    pub(super) fn cut(&mut self, from: Node, to: Node, length: Us) {
        self.set_cut(from, to, true);
        self.schedule(length, Event::Mend { from, to });
    }

    /// One server, sometimes with a writer, is cut from all others.
    fn isolate(&mut self) {
        let (at, length) = (self.some_server(), self.length());
        let mut inside = vec![Node::Server(at)];
        if self.rng.bool() {
            inside.push(Node::Api(0));
        }
        self.cut_off(&inside, length);
    }

    pub(super) fn cut_off(&mut self, inside: &[Node], length: Us) {
        say!(self, "{inside:?} is cut from all others for {} ms", length / MS);
        for outside in self.nodes() {
            for node in inside {
                if !inside.contains(&outside) {
                    self.cut(*node, outside, length);
                    self.cut(outside, *node, length);
                }
            }
        }
    }

    pub(super) fn nodes(&self) -> Vec<Node> {
        let servers = (0..self.servers.len()).map(Node::Server);
        let apis = (0..self.apis.len()).map(Node::Api);
        servers.chain([Node::Monitor(0), Node::Monitor(1), Node::Store]).chain(apis).collect()
    }

    fn pace(&mut self, pace: Pace) {
        let (a, b, length) = (self.some_node(), self.some_node(), self.length());
        if a != b {
            say!(self, "{a:?} -> {b:?} is {pace:?} for {} ms", length / MS);
            self.net.pace[a.index()][b.index()] = pace;
            self.schedule(length, Event::Mend { from: a, to: b });
        }
    }

    pub(super) fn mend(&mut self, from: Node, to: Node) {
        self.net.pace[from.index()][to.index()] = Pace::Local;
        self.set_cut(from, to, false);
    }

    /// Somebody who speaks PSYNC and acknowledges everything.
    fn stranger(&mut self) {
        let at = self.some_server();
        if !self.servers[at].up || !self.servers[at].master {
            return;
        }
        self.stranger_at(at);
    }

    pub(super) fn stranger_at(&mut self, at: usize) {
        say!(self, "a stranger replicates from s{at}");
        let conn: ConnId = self.open(Node::Api(0), Node::Server(at), Purpose::Stranger);
        let row = Row::stranger(self.now);
        self.servers[at].rows.insert(conn, row);
    }

    /// All faults end. Some servers, or one monitor, stay dead.
    pub(super) fn heal(&mut self) {
        say!(self, "all faults end");
        self.healed = Some(self.now);
        self.resume();
        self.heal_network();
        self.store.lose_next = None;
        let outage = self.store.outage;
        self.store_rises(outage);
        for at in 0..self.servers.len() {
            let (pause, run) = (self.servers[at].pause, self.servers[at].run);
            self.server_resumes(at, pause);
            let rare = if self.plan.dark.is_some() { 12 } else { 4 };
            if !self.servers[at].up && !self.one_in(rare) {
                let after = self.rng.u64(0..300) * MS;
                self.schedule(after, Event::ServerRises { server: at, run });
            }
        }
        for at in 0..self.apis.len() {
            let Api { stall, life, .. } = self.apis[at];
            self.api_resumes(at, stall);
            self.schedule(0, Event::ApiRises { api: at, life });
        }
        let dead = (self.plan.weather == Weather::Storm && self.one_in(6)).then(|| self.some_monitor());
        for at in 0..2 {
            let stall = self.monitors[at].stall;
            self.monitor_resumes(at, stall);
            if dead == Some(at) {
                say!(self, "m{at} is dead for good");
                self.monitor_dies(at);
            } else {
                let life = self.monitors[at].life;
                self.schedule(0, Event::MonitorRises { monitor: at, life });
            }
        }
        self.schedule(20 * MS, Event::Look);
    }

    fn heal_network(&mut self) {
        self.net.pace = [[Pace::Local; NODES]; NODES];
        for from in self.nodes() {
            for to in self.nodes() {
                self.set_cut(from, to, false);
            }
        }
    }
}
