//! R16, and the failover that is asked for: an operator who adds, removes and has others take over, in the middle of
//! whatever else goes wrong, and what must hold of that.
//!
//! * Members change one at a time, and only in a publication that keeps the epoch; primary and set are members always.
//! * A server leaves the group only after the primary carries the epoch that took it out of the set.
//! * What an operator is told is so: somebody removed was out of the record since he asked, somebody added was in it
//!   (where the monitor leads), a failover was published. Every question is answered once at most.
//! * Who is said to be released follows nobody, until it is added again.
//!
//! A request whose monitor dies is forgotten, or asked again.
//!
//! He also writes another primary into `<path>`, which asks for a switchover, and pauses the group: who led, or took the lead,
//! while it was paused begins no promotion.

use std::collections::BTreeMap;
use std::rc::Rc;

use failover::request::{Declined, Done};
use failover::view::Paused;
use failover::{Command, Deed, Event as GroupEvent, Order, Request};
use topology::{Endpoint, Phase, State, Topology};

use super::flaw::Flaw;
use super::kernel::{Event, MS, Sim, Us, say};
use super::monitor::Timer;
use super::redis::{Keeps, index};
use super::store::{Content, Path};

/// The operator, and what is remembered of members.
#[derive(Debug)]
pub(super) struct Desk {
    rng: fastrand::Rng,
    asked: BTreeMap<u64, Inquiry>,
    numbers: u64,
    last: Option<Request>,
    /// Since when the group is paused.
    paused_since: Option<Us>,
    /// When the last answer came.
    pub(super) answered_at: Us,
    /// The epoch with which each server last left the set.
    left: BTreeMap<Endpoint, u64>,
    /// When each was last added and removed.
    added: BTreeMap<Endpoint, Us>,
    removed: BTreeMap<Endpoint, Us>,
    /// The highest epoch with which each process was stamped as a primary.
    stamped: BTreeMap<String, u64>,
    /// Processes of former members that were told to follow nobody.
    released: BTreeMap<usize, String>,
}

/// A question that is not answered yet.
#[derive(Debug)]
struct Inquiry {
    monitor: usize,
    life: u32,
    request: Request,
    at: Us,
    /// The promotion with which it is done: the next one that the monitor did not know of, or one under way.
    promotion: u64,
}

impl Desk {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed ^ 0x0b5e_55ed),
            asked: BTreeMap::new(),
            numbers: 0,
            last: None,
            paused_since: None,
            answered_at: 0,
            left: BTreeMap::new(),
            added: BTreeMap::new(),
            removed: BTreeMap::new(),
            stamped: BTreeMap::new(),
            released: BTreeMap::new(),
        }
    }

    fn one_in(&mut self, times: u32) -> bool {
        self.rng.u32(0..times) == 0
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.rng.usize(0..of.len())].clone())
    }
}

impl Sim {
    // -- the operator --------------------------------------------------------------------------------------------

    pub(super) fn operator(&mut self) {
        let Some(operator) = self.plan.operator.filter(|_| self.healed.is_none()) else { return };
        let again = self.desk.rng.u64(1..2 * operator.every);
        self.schedule(again, Event::Operator);
        if self.flaw.is_none() {
            match self.desk.rng.u8(0..12) {
                0 => return self.pause(),
                1 => return self.edit_path(),
                _ if self.desk.paused_since.is_some() && self.desk.one_in(2) => return self.resume(),
                _ => {}
            }
        }
        let Some(at) = self.whom_to_ask() else { return };
        let last = self.desk.last.clone().filter(|_| self.desk.rng.u8(0..3) == 0);
        let Some(request) = last.or_else(|| self.what_to_ask()) else { return };
        self.desk.last = Some(request.clone());
        self.start(at, 0, Timer::Asked(request));
    }

    fn pause(&mut self) {
        if self.store.up && self.store.state().is_some() && self.desk.paused_since.is_none() {
            say!(self, "the group is paused");
            self.desk.paused_since = Some(self.now);
            self.write_znode(Path::Paused, Content::Junk, None);
        }
    }

    pub(super) fn resume(&mut self) {
        if self.desk.paused_since.take().is_some() {
            say!(self, "the group is resumed");
            self.delete_znode(Path::Paused);
        }
    }

    /// Another primary is written into `<path>`; now and then one that is no member.
    fn edit_path(&mut self) {
        let Some(state) = self.store.state().filter(|_| self.store.up) else { return };
        let some: Vec<Endpoint> = match self.desk.one_in(8) {
            true => self.servers.iter().map(|s| s.addr.clone()).collect(),
            false => state.members.clone(),
        };
        let Some(primary) = self.desk.one_of(&some) else { return };
        let replicas = state.members.iter().filter(|addr| **addr != primary).cloned().collect();
        say!(self, "{primary} is written into the path by hand");
        let topology = Content::Announcement(Rc::new(Topology { primary, replicas }));
        self.write_znode(Path::Announcement, topology, None);
    }

    /// One that believes that it leads; now and then another one.
    fn whom_to_ask(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..2).filter(|at| self.monitors[*at].up).collect();
        let lead: Vec<usize> = up.iter().copied().filter(|at| self.monitors[*at].reign.is_some()).collect();
        match lead.is_empty() || self.desk.one_in(12) {
            true => self.desk.one_of(&up),
            false => self.desk.one_of(&lead),
        }
    }

    fn what_to_ask(&mut self) -> Option<Request> {
        let state = self.store.state()?;
        let all: Vec<Endpoint> = self.servers.iter().map(|s| s.addr.clone()).collect();
        let (members, strangers): (Vec<Endpoint>, Vec<Endpoint>) =
            all.iter().cloned().partition(|addr| state.members.contains(addr));
        let others: Vec<Endpoint> = members.into_iter().filter(|addr| *addr != state.primary.addr).collect();
        if self.flaw.is_some_and(Flaw::is_of_switchover) {
            return Some(Request::Switchover { to: None });
        }
        Some(match self.desk.rng.u8(0..8) {
            0..3 => {
                let some = if self.desk.one_in(8) { &all } else { &others };
                Request::Remove { addr: self.desk.one_of(some)? }
            }
            3..6 => {
                let some = if strangers.is_empty() { &all } else { &strangers };
                let addr = self.desk.one_of(some)?;
                if strangers.contains(&addr) && self.desk.one_in(4) {
                    self.kill(index(&addr), Keeps::Nothing, 20 * MS); // it comes back emptied
                }
                Request::Add { addr, overwrite: self.desk.one_in(3) }
            }
            _ => {
                let to = if self.desk.one_in(2) { None } else { self.desk.one_of(&all) };
                match self.desk.one_in(3) {
                    true => Request::Failover { to, accept_loss: false },
                    false => Request::Switchover { to },
                }
            }
        })
    }

    /// The question reaches the monitor.
    pub(super) fn asked_for(&mut self, monitor: usize, request: Request) {
        say!(self, "m{monitor} is asked: {request:?}");
        let m = &self.monitors[monitor];
        let next = |state: &State| state.promoted + u64::from(state.phase == Phase::Serving);
        let (life, promotion) = (m.life, m.group.view().state().map_or(0, next));
        self.desk.numbers += 1;
        let number = self.desk.numbers;
        let inquiry = Inquiry { monitor, life, request: request.clone(), at: self.now, promotion };
        self.desk.asked.insert(number, inquiry);
        self.counts.asked += 1;
        self.group_input(monitor, GroupEvent::Asked(number, request));
    }

    /// Whether a monitor that lives still has to answer.
    pub(super) fn is_asked(&self) -> bool {
        self.desk.asked.values().any(|inquiry| {
            let m = &self.monitors[inquiry.monitor];
            m.up && m.life == inquiry.life
        })
    }

    /// Somebody is told what came of his edit.
    pub(super) fn judge_edit(&mut self, at: usize, to: &Endpoint, outcome: Option<Result<Done, Declined>>) {
        say!(self, "m{at}: {to} was asked for in the path: {outcome:?}");
        match outcome {
            None => self.counts.edited += 1,
            Some(Ok(_)) => self.counts.obeyed += 1,
            Some(Err(_)) => {}
        }
    }

    /// A promotion that is begun by this monitor while the group is paused, as it knows or could have read.
    pub(super) fn begun_while_paused(&self, at: usize, old: &State) -> Option<String> {
        let m = &self.monitors[at];
        let since = self.desk.paused_since.filter(|_| old.phase == Phase::Serving)?;
        let knows = m.group.view().paused == Paused::Yes;
        (knows || since < m.reigned_at).then(|| format!("it has been paused since {since}"))
    }

    // -- what is judged ------------------------------------------------------------------------------------------

    pub(super) fn judge_answer(&mut self, at: usize, number: u64, outcome: Result<Done, Declined>) {
        say!(self, "m{at} answers {number}: {outcome:?}");
        self.desk.answered_at = self.now;
        let Some(inquiry) = self.desk.asked.remove(&number) else {
            return self.broken(format!("m{at} answers {number}, which nobody asked or was answered"));
        };
        let why = match outcome {
            Ok(done) => self.answer_error(&inquiry, done),
            Err(declined) => {
                self.counts.declined += 1;
                self.flawed_refusal(at, &inquiry.request, &declined);
                None
            }
        };
        if let Some(why) = why {
            self.broken(format!("m{at} was asked for {:?}: {why}", inquiry.request));
        }
    }

    fn answer_error(&mut self, inquiry: &Inquiry, done: Done) -> Option<String> {
        let state = self.store.state()?;
        let since = |when: &BTreeMap<Endpoint, Us>, addr| when.get(addr).is_some_and(|at| *at >= inquiry.at);
        match (&inquiry.request, done) {
            (Request::Add { addr, .. }, Done::Added(added)) if *addr == added => {
                self.counts.added += 1;
                let was = state.members.contains(addr) || since(&self.desk.removed, addr);
                // "Already a member" is said by the record that the monitor knows; one that lost the lead while it
                // stood still may know an old one.
                let holds = self.store.leader() == Some(&self.monitors[inquiry.monitor].record());
                (!was && holds).then(|| "it is no member".into())
            }
            (Request::Remove { addr }, Done::Removed { addr: removed, released }) if *addr == removed => {
                self.counts.removed += 1;
                if state.members.contains(addr) && !since(&self.desk.removed, addr) {
                    return Some("it is a member".into());
                }
                if released { self.release_error(&state, addr, inquiry.at) } else { None }
            }
            (Request::Failover { .. } | Request::Switchover { .. }, Done::FailedOver(_)) => {
                self.counts.handed += 1;
                (state.promoted < inquiry.promotion).then(|| "nobody was promoted".into())
            }
            (_, done) => Some(format!("it says {done:?}")),
        }
    }

    /// It is said to follow nobody from now on.
    fn release_error(&mut self, state: &State, addr: &Endpoint, asked: Us) -> Option<String> {
        let at = index(addr);
        let s = &self.servers[at];
        if state.members.contains(addr) {
            return None; // added again meanwhile
        }
        if s.master || s.released || s.strayed {
            self.desk.released.insert(at, s.run_id.clone());
            return None;
        }
        // Another process began, and its file makes it follow.
        (s.risen_at < asked)
            .then(|| format!("{} is said to be released, and follows {:?}", s.run_id, s.source))
    }

    /// An order takes effect on that server.
    pub(super) fn note_order(&mut self, at: usize, order: &Order, commands: &[Command]) {
        if order.deed == Deed::Release && commands.contains(&Command::Detach) {
            (self.servers[at].released, self.servers[at].strayed) = (true, false);
        }
        if let Deed::Attach = order.deed {
            // A monitor that stood still may carry out what it had begun under the same epoch. What follows so is in no
            // set, and nobody counts it.
            let member = self.store.state().is_some_and(|state| state.members.contains(&order.backend));
            let s = &mut self.servers[at];
            s.strayed = !member;
            self.counts.strayed += u64::from(!member);
            s.released = false;
        }
    }

    pub(super) fn note_stamp(&mut self, at: usize, epoch: u64) {
        let stamped = self.desk.stamped.entry(self.servers[at].run_id.clone()).or_default();
        *stamped = epoch.max(*stamped);
    }

    /// In the end: a server that is no member.
    pub(super) fn stranger_wrong(&self, at: usize) -> Option<String> {
        let s = &self.servers[at];
        let released = self.desk.released.get(&at).is_some_and(|run_id| *run_id == s.run_id);
        let wrong = s.up && released && !s.strayed && !s.master && s.source.is_some();
        wrong.then(|| format!("s{at} was released and follows {:?}", s.source))
    }

    /// What a publication says of members.
    pub(super) fn judge_members(&mut self, old: Option<&State>, new: &State) -> Option<String> {
        let member = |addr: &Endpoint| new.members.contains(addr);
        let named = new.in_sync.iter().map(|entry| &entry.addr).chain([&new.primary.addr]);
        let mut strangers = named.filter(|addr| !member(addr));
        if let Some(addr) = strangers.next() {
            return Some(format!("epoch {} names {addr}, which is no member", new.epoch));
        }
        let old = old?;
        for entry in old.in_sync.iter().filter(|entry| new.in_sync(&entry.addr).is_none()) {
            self.desk.left.insert(entry.addr.clone(), new.epoch);
        }
        let added: Vec<&Endpoint> = new.members.iter().filter(|addr| !old.members.contains(addr)).collect();
        let removed: Vec<&Endpoint> = old.members.iter().filter(|addr| !member(addr)).collect();
        if added.is_empty() && removed.is_empty() {
            return None;
        }
        if old.epoch != new.epoch || new.phase != Phase::Serving || added.len() + removed.len() != 1 {
            return Some(format!(
                "epoch {} follows {} and adds {added:?} and removes {removed:?}",
                new.epoch, old.epoch
            ));
        }
        for addr in added {
            self.desk.added.insert(addr.clone(), self.now);
            self.desk.released.remove(&index(addr));
        }
        for addr in removed {
            self.desk.removed.insert(addr.clone(), self.now);
            let stamped = self.desk.stamped.get(&new.primary.run_id);
            let left = self.desk.left.get(addr);
            if left > stamped {
                return Some(format!(
                    "{addr} leaves the group; it left the set with epoch {left:?}, and the primary carries {stamped:?}"
                ));
            }
            if new.adopted.contains(addr) {
                return Some(format!("{addr} leaves the group and stays adopted"));
            }
        }
        None
    }
}
