//! What became of a batch whose answer never came (R17), as `api/src/settle.rs` finds out: on a connection of its own
//! the lost one is cut, one script writes the barrier and returns the marker, and the barrier is confirmed. What that
//! means is decided by [`failover::confirm::settle`].

use std::collections::VecDeque;
use std::rc::Rc;

use failover::confirm::{Durability, Next, Settled, settle};
use topology::State;

use super::api::Timer;
use super::flaw::Flaw;
use super::history::Outcome;
use super::kernel::{MS, Sim, Us, say};
use super::lane::{Batch, verdict};
use super::net::{Body, ConnId, Node, OPENER, Purpose};
use super::redis::{FromServer, ToServer, index};

/// How long a round may take before it begins again.
const ROUND: Us = 500 * MS;

#[derive(Debug)]
pub(super) struct Settler {
    /// One after the other.
    pub(super) lost: VecDeque<Batch>,
    round: Option<Round>,
    not_before: Us,
}

/// One attempt under one view.
#[derive(Debug)]
struct Round {
    conn: ConnId,
    view: Rc<State>,
    begun: Us,
    step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Opening,
    Killing,
    /// The marker is asked for without a barrier: only by a broken client.
    Peeking,
    Asking {
        peeked: Option<Option<u64>>,
    },
    Measuring {
        marker: Option<u64>,
    },
    Confirming {
        marker: Option<u64>,
        needed: u64,
        role: Option<(Vec<(String, u64)>, bool)>,
    },
}

impl Settler {
    pub(super) fn new() -> Self {
        Self { lost: VecDeque::new(), round: None, not_before: 0 }
    }
}

impl Sim {
    /// Begins a round if something is lost and none is under way; ends one that is late or under an old view.
    pub(super) fn tend_settler(&mut self, at: usize) {
        let now = self.now;
        let Some(view) = self.apis[at].view.clone() else { return };
        let old = self.apis[at].settler.round.as_ref();
        if old.is_some_and(|round| now > round.begun + ROUND || round.view.epoch != view.epoch) {
            self.round_over(at);
        }
        while let Some(batch) = self.apis[at].settler.lost.front() {
            if batch.writes.iter().any(|number| self.pending(*number)) {
                break;
            }
            self.apis[at].settler.lost.pop_front(); // nobody waits any more
            self.round_over(at);
        }
        let settler = &self.apis[at].settler;
        if settler.lost.is_empty() || settler.round.is_some() || now < settler.not_before {
            return;
        }
        if self.too_few(&view) {
            return; // a yes would stand for too few copies
        }
        let server = index(&view.primary.addr);
        let conn = self.open(Node::Api(at), Node::Server(server), Purpose::Settle { api: at });
        let round = Round { conn, view, begun: now, step: Step::Opening };
        self.apis[at].settler.round = Some(round);
    }

    fn round_over(&mut self, at: usize) {
        let pause = self.now + self.rng.u64(0..10) * MS;
        let settler = &mut self.apis[at].settler;
        settler.not_before = pause;
        if let Some(round) = settler.round.take() {
            self.close(round.conn, OPENER);
        }
    }

    pub(super) fn settle_packet(&mut self, at: usize, conn: ConnId, body: Body) {
        let flaw = self.flaw;
        let settler = &mut self.apis[at].settler;
        let (Some(round), Some(batch)) = (&mut settler.round, settler.lost.front()) else { return };
        if round.conn != conn {
            return;
        }
        let (view, marker, lost) = (round.view.clone(), batch.marker, batch.conn);
        let (epoch, step) = (view.epoch, round.step.clone());
        match (step, body) {
            (Step::Opening, Body::Accepted(run_id)) => {
                if run_id != view.primary.run_id {
                    return self.round_over(at);
                }
                if batch.run_id == run_id && flaw != Some(Flaw::NoKill) {
                    return self.settle_asks(at, Step::Killing, [ToServer::Kill(lost)]);
                }
                self.ask_marker(at, epoch, marker);
            }
            (Step::Killing, Body::FromServer(FromServer::Killed)) => self.ask_marker(at, epoch, marker),
            (Step::Peeking, Body::FromServer(FromServer::Marker(Some(peeked)))) => {
                self.settle_asks(at, Step::Asking { peeked: Some(peeked) }, []);
                let pause = self.flawed_pause();
                let barrier = ToServer::Settle { epoch, marker };
                self.send_slowly(conn, OPENER, pause, Body::ToServer(barrier));
            }
            (Step::Asking { peeked }, Body::FromServer(FromServer::Marker(Some(found)))) => {
                self.marker_found(at, peeked.unwrap_or(found));
            }
            (Step::Measuring { marker }, Body::FromServer(FromServer::Role { offset, master, .. })) => {
                if !master {
                    return self.round_over(at);
                }
                let step = Step::Confirming { marker, needed: offset, role: None };
                self.settle_asks(at, step, [ToServer::Role, ToServer::GetFence]);
            }
            (
                Step::Confirming { marker, needed, .. },
                Body::FromServer(FromServer::Role { rows, master, .. }),
            ) => {
                let step = Step::Confirming { marker, needed, role: Some((rows, master)) };
                self.settle_asks(at, step, []);
            }
            (
                Step::Confirming { marker, needed, role: Some((rows, master)) },
                Body::FromServer(FromServer::FenceIs(fence)),
            ) => match verdict(flaw, &view, needed, &rows, master, fence) {
                Next::Acknowledge => self.settled(at, marker, true),
                Next::Settle => self.round_over(at),
                Next::WaitFor(_) => {
                    let after = self.rng.u64(1..15) * MS;
                    self.api_timer(at, after, Timer::SettlePoll { conn });
                }
            },
            (_, _) => self.round_over(at),
        }
    }

    fn settle_asks<const N: usize>(&mut self, at: usize, step: Step, requests: [ToServer; N]) {
        let Some(round) = &mut self.apis[at].settler.round else { return };
        round.step = step;
        let conn = round.conn;
        for request in requests {
            self.send(conn, OPENER, Body::ToServer(request));
        }
    }

    pub(super) fn settle_poll(&mut self, at: usize, conn: ConnId) {
        if let Some(round) = &self.apis[at].settler.round
            && round.conn == conn
            && let Step::Confirming { marker, needed, .. } = round.step
        {
            let step = Step::Confirming { marker, needed, role: None };
            self.settle_asks(at, step, [ToServer::Role, ToServer::GetFence]);
        }
    }

    fn ask_marker(&mut self, at: usize, epoch: u64, marker: u32) {
        match self.flaw {
            Some(Flaw::GetBeforeBarrier) => {
                self.settle_asks(at, Step::Peeking, [ToServer::GetMarker(marker)])
            }
            _ => self.settle_asks(at, Step::Asking { peeked: None }, [ToServer::Settle { epoch, marker }]),
        }
    }

    fn marker_found(&mut self, at: usize, marker: Option<u64>) {
        let Some(batch) = self.apis[at].settler.lost.front() else { return };
        let reached = marker.is_some_and(|number| number >= batch.number);
        match self.flaw {
            Some(Flaw::NoIsBelieved) if marker.is_some() && !reached => {
                return self.settled(at, marker, true);
            }
            Some(Flaw::YesIsBelieved) if reached => return self.settled(at, marker, true),
            Some(Flaw::MissingIsNo) if marker.is_none() => return self.settled(at, Some(0), true),
            _ => {}
        }
        match settle(marker, batch.number, self.durability(), false) {
            Settled::ConfirmFirst => self.settle_asks(at, Step::Measuring { marker }, [ToServer::Role]),
            Settled::Applied | Settled::NotApplied | Settled::Unknown => self.settled(at, marker, false),
        }
    }

    fn durability(&self) -> Durability {
        if self.plan.sync { Durability::Sync } else { Durability::Async }
    }

    fn settled(&mut self, at: usize, marker: Option<u64>, confirmed: bool) {
        let durability = self.durability();
        let settler = &mut self.apis[at].settler;
        let (Some(round), Some(batch)) = (&settler.round, settler.lost.pop_front()) else { return };
        let view = round.view.clone();
        let what = settle(marker, batch.number, durability, confirmed);
        say!(self, "a{at}: batch {} of marker {} ({marker:?}) is {what:?}", batch.number, batch.marker);
        self.round_over(at);
        match what {
            Settled::Applied => {
                self.counts.settled += 1;
                self.judge_copies(&view);
                let (epoch, server) = (view.epoch, index(&view.primary.addr));
                for number in batch.writes {
                    self.answered(number, Outcome::Written, epoch, server);
                }
            }
            Settled::NotApplied => {
                self.counts.resent += 1;
                self.put_back(at, batch.writes.into_iter());
                self.flawed_stop(at);
                if !self.apis[at].stalled {
                    self.pump(at);
                }
            }
            Settled::Unknown => {
                batch.writes.into_iter().for_each(|number| self.tell(number, Outcome::Unknown));
            }
            Settled::ConfirmFirst => self.apis[at].settler.lost.push_front(batch),
        }
        self.tend_settler(at);
    }
}
