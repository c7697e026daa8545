//! The heartbeats of the pair, around the real table and the real liveness, as the reactor keeps them.

use std::time::Duration;

use binary_star::{Dialect, Event as PairEvent, Lead, Liveness, Peer, Role, State, settled_by_lead, step};

use super::kernel::{Event, Sim, Us, duration, say};
use super::monitor::{Timer, period};
use super::net::Node;

/// One side of the pair.
#[derive(Debug)]
pub(super) struct Pair {
    role: Role,
    pub(super) state: State,
    liveness: Liveness,
    peer: Option<Peer>,
    /// The peer is heard, and what it said last.
    pub(super) alive: bool,
    pub(super) heard: Option<State>,
    started: Option<Us>,
    next_beat: Us,
}

impl Pair {
    pub(super) fn new(at: usize, heartbeat: Duration) -> Self {
        let role = [Role::Primary, Role::Backup][at];
        Self {
            role,
            state: role.first_state(),
            liveness: Liveness::new(Dialect::Guide, heartbeat, Duration::ZERO),
            peer: None,
            alive: false,
            heard: None,
            started: None,
            next_beat: 0,
        }
    }

    fn time(&self, now: Us) -> Duration {
        duration(now - self.started.unwrap_or(now))
    }
}

impl Sim {
    pub(super) fn heartbeat(&mut self, at: usize, state: State) {
        if !self.monitors[at].up || self.net.is_cut(Node::Monitor(1 - at), Node::Monitor(at)) {
            return;
        }
        let now = self.monitors[at].pair.time(self.now);
        let pair = &mut self.monitors[at].pair;
        pair.liveness.handle_heard(now);
        (pair.alive, pair.heard) = (true, Some(state));
        pair.peer = Some(Peer::Alive);
        self.pair_happens(at, state.into());
        self.pair_told(at);
    }

    pub(super) fn pair_tick(&mut self, at: usize) {
        let heartbeat = period(self.plan.heartbeat);
        let now = self.now;
        let pair = &mut self.monitors[at].pair;
        if pair.started.is_none() {
            (pair.started, pair.next_beat) = (Some(now), now + heartbeat);
        }
        let time = pair.time(now);
        if now >= pair.next_beat {
            pair.liveness.handle_tick(time);
            pair.next_beat += heartbeat;
            if pair.next_beat <= now {
                pair.next_beat = now + heartbeat;
            }
            let (state, to) = (pair.state, 1 - at);
            let after = self.delay(Node::Monitor(at), Node::Monitor(to));
            self.schedule(after, Event::Heartbeat { to, state });
        }
        let pair = &mut self.monitors[at].pair;
        if pair.liveness.peer(time) == Peer::Expired
            && pair.peer.replace(Peer::Expired) != Some(Peer::Expired)
        {
            pair.alive = false;
            say!(self, "m{at} does not hear its peer any more");
            self.pair_happens(at, PairEvent::PeerDead);
            self.pair_told(at);
        }
        let pair = &self.monitors[at].pair;
        let expires = pair.started.unwrap_or(now) + period(pair.liveness.expires_at());
        let due = if expires > now { expires.min(pair.next_beat) } else { pair.next_beat };
        self.start(at, due - now, Timer::Pair);
    }

    fn pair_happens(&mut self, at: usize, event: PairEvent) {
        let time = self.monitors[at].pair.time(self.now);
        let pair = &mut self.monitors[at].pair;
        // What the table refuses, the lead in the store settles.
        if let Ok(state) = step(Dialect::Guide, pair.role, pair.state, event, pair.liveness.peer(time)) {
            pair.state = state;
        }
    }

    pub(super) fn vote(&mut self, at: usize, lead: Lead) {
        let pair = &mut self.monitors[at].pair;
        pair.state = settled_by_lead(pair.state, lead);
    }

    fn pair_told(&mut self, at: usize) {
        self.turn(at, |sim| sim.pass_opinion(at));
    }
}
