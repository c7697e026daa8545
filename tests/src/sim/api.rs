//! An API process as `api/src` is: it follows the record with a watch of its own, keeps connections to the primary
//! ([`super::lane`]), and learns what became of writes whose answer was lost ([`super::settle`]).

use std::collections::VecDeque;
use std::rc::Rc;

use topology::State;

use super::flaw::Flaw;
use super::history::Outcome;
use super::kernel::{Event, MS, Sim, Us, say};
use super::lane::Lane;
use super::net::{Body, ConnId, Node};
use super::settle::Settler;
use super::store::{Content, Path};

/// Between two looks after connections.
const TEND_EVERY: Us = 20 * MS;

#[derive(Debug)]
pub(super) struct Api {
    pub(super) up: bool,
    pub(super) life: u32,
    pub(super) stalled: bool,
    pub(super) stall: u32,
    pub(super) inbox: Vec<Event>,
    pub(super) view: Option<Rc<State>>,
    /// Requests that are not on their way.
    pub(super) queue: VecDeque<usize>,
    pub(super) lanes: Vec<Lane>,
    pub(super) settler: Settler,
}

/// What an API process waits for.
#[derive(Debug)]
pub(super) enum Timer {
    Tend,
    /// The connection's replicas are looked at again.
    Poll {
        lane: usize,
        conn: ConnId,
    },
    SettlePoll {
        conn: ConnId,
    },
    /// What was read of the record arrives.
    Record(Rc<State>),
}

impl Api {
    pub(super) fn new(lanes: usize) -> Self {
        Self {
            up: false,
            life: 0,
            stalled: false,
            stall: 0,
            inbox: Vec::new(),
            view: None,
            queue: VecDeque::new(),
            lanes: (0..lanes).map(|_| Lane::new()).collect(),
            settler: Settler::new(),
        }
    }
}

impl Sim {
    // -- the process ---------------------------------------------------------------------------------------------

    pub(super) fn api_rises(&mut self, at: usize, life: u32) {
        let old = &self.apis[at];
        if old.up || old.life != life {
            return;
        }
        let stall = old.stall;
        self.apis[at] = Api { up: true, life, stall, ..Api::new(self.plan.lanes) };
        say!(self, "a{at} starts");
        self.api_timer(at, 0, Timer::Tend);
        self.schedule(0, Event::View { api: at, life });
    }

    pub(super) fn api_dies(&mut self, at: usize) {
        let api = &mut self.apis[at];
        (api.up, api.stalled) = (false, false);
        api.life += 1;
        api.inbox.clear();
        self.close_all(Node::Api(at));
        self.requests_are_lost(at);
    }

    pub(super) fn api_stalls(&mut self, at: usize, length: Us) {
        let api = &mut self.apis[at];
        api.stalled = true;
        api.stall += 1;
        let stall = api.stall;
        self.schedule(length, Event::ApiResumes { api: at, stall });
    }

    /// A place at which an API process may stop for a while: before anything that reaches it.
    pub(super) fn api_stops(&mut self, at: usize) -> bool {
        let rare = 30 * self.plan.step_fault;
        if rare == 0 || self.healed.is_some() || !self.apis[at].up || !self.one_in(rare) {
            return false;
        }
        let length = self.rng.u64(1..1200) * MS;
        say!(self, "a{at} stalls for {} ms", length / MS);
        self.api_stalls(at, length);
        true
    }

    pub(super) fn api_resumes(&mut self, at: usize, stall: u32) {
        let api = &mut self.apis[at];
        if api.stalled && api.stall == stall {
            api.stalled = false;
            for event in std::mem::take(&mut self.apis[at].inbox) {
                self.dispatch(event);
            }
        }
    }

    pub(super) fn api_timer(&mut self, at: usize, after: Us, timer: Timer) {
        let life = self.apis[at].life;
        self.schedule(after, Event::ApiTimer { api: at, life, timer });
    }

    pub(super) fn api_time(&mut self, at: usize, timer: Timer) {
        match timer {
            Timer::Tend => {
                self.api_timer(at, TEND_EVERY, Timer::Tend);
                self.tend_api(at);
            }
            Timer::Poll { lane, conn } => self.poll_lane(at, lane, conn),
            Timer::SettlePoll { conn } => self.settle_poll(at, conn),
            Timer::Record(state) => self.api_reads(at, state),
        }
    }

    fn tend_api(&mut self, at: usize) {
        for lane in 0..self.apis[at].lanes.len() {
            self.tend_lane(at, lane);
        }
        self.tend_settler(at);
    }

    pub(super) fn api_packet(&mut self, at: usize, lane: Option<usize>, conn: ConnId, body: Body) {
        match lane {
            Some(lane) => self.lane_packet(at, lane, conn, body),
            None => self.settle_packet(at, conn, body),
        }
    }

    // -- its view ------------------------------------------------------------------------------------------------

    /// The watch fires: the record is read, and arrives some time later. What is cut off keeps what it has.
    pub(super) fn read_view(&mut self, at: usize, life: u32) {
        if !self.apis[at].up || self.apis[at].life != life {
            return;
        }
        let (store, api) = (Node::Store, Node::Api(at));
        if !self.store.up || self.net.is_cut(store, api) || self.net.is_cut(api, store) {
            return self.schedule(100 * MS, Event::View { api: at, life });
        }
        if let Some((Content::State(state), _)) = self.store.read(Path::State) {
            let slow = self.healed.is_none() && self.one_in(self.plan.late_views);
            let after = if slow { self.rng.u64(1..700) * MS } else { self.delay(store, api) };
            self.api_timer(at, after, Timer::Record(state));
        }
    }

    /// A process's view never goes back.
    fn api_reads(&mut self, at: usize, state: Rc<State>) {
        let known = self.apis[at].view.as_ref().map(|view| (view.epoch, view.promoted));
        let back = known.is_some_and(|known| (state.epoch, state.promoted) < known);
        if back && self.flaw != Some(Flaw::ViewsGoBack) {
            return;
        }
        let api = &mut self.apis[at];
        if api.view.as_ref() == Some(&state) {
            return;
        }
        api.view = Some(state);
        self.tend_api(at);
    }

    // -- requests ------------------------------------------------------------------------------------------------

    pub(super) fn request(&mut self, at: usize, number: usize) {
        self.apis[at].queue.push_back(number);
        self.pump(at);
    }

    /// Its deadline is over: a definite failure while it waits, since then it will never be sent.
    pub(super) fn deadline(&mut self, number: usize) {
        let request = &self.oracle.history.requests[number];
        let outcome = if request.sent && request.write { Outcome::Unknown } else { Outcome::Failed };
        self.tell(number, outcome);
    }

    /// Requests that were certainly not carried out: before all others, under the next view.
    pub(super) fn put_back(&mut self, at: usize, numbers: impl DoubleEndedIterator<Item = usize>) {
        for number in numbers.rev() {
            if self.pending(number) {
                self.oracle.history.requests[number].sent = false;
                self.apis[at].queue.push_front(number);
            }
        }
    }

    /// Up to so many requests that somebody still waits for.
    pub(super) fn take_requests(&mut self, at: usize, most: usize) -> Vec<usize> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(number) = self.apis[at].queue.pop_front()
        {
            if self.pending(number) {
                self.oracle.history.requests[number].sent = true;
                taken.push(number);
            }
        }
        taken
    }

    pub(super) fn pump(&mut self, at: usize) {
        for lane in 0..self.apis[at].lanes.len() {
            self.pump_lane(at, lane);
        }
    }
}
