//! One connection of an API process to the primary, as `api/src/lane.rs` keeps it. It carries requests once a guarded
//! script has run there. Requests travel in batches: the GETs of strong reads, one conditional script for all writes
//! that is also the barrier of those reads, ROLE, and then ROLE and GET fence until [`failover::confirm`] has an
//! opinion (R3, R8). Every message is an event of its own.

use std::collections::VecDeque;
use std::rc::Rc;

use failover::confirm::{Failure, Look, Next, admits, classify, judge};
use topology::State;

use super::api::Timer;
use super::flaw::Flaw;
use super::history::Outcome;
use super::kernel::{MS, Sim, Us, say};
use super::net::{Body, ConnId, Node, OPENER, Purpose};
use super::redis::{Call, FromServer, Ran, ToServer, index};

/// A server that owes an answer for so long is given up.
const STALL: Us = 1000 * MS;

/// Requests in one batch.
const BATCH: usize = 3;

#[derive(Debug)]
pub(super) struct Lane {
    conn: Option<ConnId>,
    /// The view under which it was opened, and the process that answered.
    opened: Option<Rc<State>>,
    run_id: Option<String>,
    /// The key that holds the number of the last batch (R17), and that number.
    marker: u32,
    number: u64,
    /// A guarded script ran here under this epoch.
    proven: bool,
    proof_at: Us,
    open_at: Us,
    sent: VecDeque<Sent>,
    batches: VecDeque<Batch>,
    /// What ROLE said in the poll under way, and the last batch that it covers.
    polled: Option<(Vec<(String, u64)>, bool)>,
    polling: bool,
    heard: Us,
}

/// An answer that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Proof {
        epoch: u64,
    },
    Get {
        batch: u64,
        request: usize,
    },
    Script {
        batch: u64,
    },
    /// ROLE, right behind the script: how far the replicas must be.
    Measure {
        batch: u64,
    },
    Role,
    Fence,
    /// A GET that comes after its barrier was confirmed: only from a broken client.
    LateGet {
        request: usize,
        epoch: u64,
        server: usize,
    },
}

/// Requests that went out together, and what is needed to learn later what became of them.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    /// Under which it was sent.
    pub(super) view: Rc<State>,
    pub(super) run_id: String,
    pub(super) conn: ConnId,
    pub(super) marker: u32,
    pub(super) number: u64,
    pub(super) writes: Vec<usize>,
    /// And what was found.
    reads: Vec<(usize, Option<Option<u32>>)>,
    needed: Option<u64>,
    applied: bool,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self {
            conn: None,
            opened: None,
            run_id: None,
            marker: 0,
            number: 0,
            proven: false,
            proof_at: 0,
            open_at: 0,
            sent: VecDeque::new(),
            batches: VecDeque::new(),
            polled: None,
            polling: false,
            heard: 0,
        }
    }

    fn batch(&mut self, number: u64) -> Option<&mut Batch> {
        self.batches.iter_mut().find(|batch| batch.number == number)
    }
}

impl Sim {
    fn lane(&mut self, at: usize, lane: usize) -> &mut Lane {
        &mut self.apis[at].lanes[lane]
    }

    /// Opens what is closed, closes what leads to another process than the view's primary, asks for proof.
    pub(super) fn tend_lane(&mut self, at: usize, lane: usize) {
        let Some(view) = self.apis[at].view.clone() else { return };
        let now = self.now;
        let l = self.lane(at, lane);
        let elsewhere = l.opened.as_ref().is_some_and(|of| {
            of.primary.addr != view.primary.addr || of.primary.run_id != view.primary.run_id
        });
        let silent = !l.sent.is_empty() && now > l.heard + STALL;
        let unopened = l.conn.is_some() && l.run_id.is_none() && now > l.heard + 200 * MS;
        if l.conn.is_some() && (elsewhere || silent || unopened) {
            self.lane_lost(at, lane);
        }
        let l = self.lane(at, lane);
        if l.conn.is_none() {
            if now >= l.open_at {
                self.open_lane(at, lane, view);
            }
            return;
        }
        if l.run_id.is_some() && !l.proven {
            self.prove(at, lane, &view);
        } else {
            self.pump_lane(at, lane);
        }
    }

    fn open_lane(&mut self, at: usize, lane: usize, view: Rc<State>) {
        let server = index(&view.primary.addr);
        let conn = self.open(Node::Api(at), Node::Server(server), Purpose::Lane { api: at, lane });
        self.markers += 1;
        let (marker, now) = (self.markers, self.now);
        let l = self.lane(at, lane);
        *l = Lane { conn: Some(conn), opened: Some(view), marker, heard: now, ..Lane::new() };
    }

    /// Sets the marker and shows that the server takes writes under the view's epoch: a batch of none.
    fn prove(&mut self, at: usize, lane: usize, view: &Rc<State>) {
        let (now, ticks) = (self.now, self.flaw != Some(Flaw::NeverTicks));
        let l = self.lane(at, lane);
        let (Some(conn), true) = (l.conn, now >= l.proof_at) else { return };
        if l.sent.iter().any(|sent| matches!(sent, Sent::Proof { .. } | Sent::Script { .. })) {
            return;
        }
        let epoch = view.epoch;
        let (marker, number) = (l.marker, l.number);
        let call = Call { epoch, marker, number, after: None, writes: Vec::new(), ticks };
        l.sent.push_back(Sent::Proof { epoch });
        self.ask_lane(at, lane, conn, ToServer::Script(Rc::new(call)));
    }

    fn ask_lane(&mut self, at: usize, lane: usize, conn: ConnId, request: ToServer) {
        let now = self.now;
        let l = self.lane(at, lane);
        if l.sent.len() <= 1 {
            l.heard = now;
        }
        self.send(conn, OPENER, Body::ToServer(request));
    }

    /// Sends what waits, if this connection may carry it.
    pub(super) fn pump_lane(&mut self, at: usize, lane: usize) {
        let Some(view) = self.apis[at].view.clone() else { return };
        if self.too_few(&view) {
            return;
        }
        let most = self.plan.overlap;
        let l = self.lane(at, lane);
        let fits = l.opened.as_ref().is_some_and(|of| of.primary.run_id == view.primary.run_id);
        if !l.proven || !fits || l.batches.len() >= most {
            return;
        }
        let taken = self.take_requests(at, BATCH);
        if !taken.is_empty() {
            self.send_batch(at, lane, view, taken);
        }
    }

    /// Sync writes are refused before they are sent: there would be too few copies.
    pub(super) fn too_few(&self, view: &State) -> bool {
        !admits(&view.in_sync, view.min_in_sync) && self.plan.sync && self.flaw != Some(Flaw::FewAreEnough)
    }

    fn send_batch(&mut self, at: usize, lane: usize, view: Rc<State>, taken: Vec<usize>) {
        let is_write = |number: &usize| self.oracle.history.requests[*number].write;
        let (writes, reads): (Vec<usize>, Vec<usize>) = taken.into_iter().partition(is_write);
        let puts = writes.iter().map(|number| (self.oracle.history.requests[*number].key, *number as u32));
        let puts: Vec<(u8, u32)> = puts.collect();
        let keys = reads.iter().map(|number| (self.oracle.history.requests[*number].key, *number));
        let keys: Vec<(u8, usize)> = keys.collect();
        let (flaw, sync) = (self.flaw, self.plan.sync);
        let l = self.lane(at, lane);
        let (Some(conn), Some(run_id)) = (l.conn, l.run_id.clone()) else { return };
        // Behind an unanswered batch: only if that one was carried out.
        let after = l.batches.iter().rev().find(|batch| !batch.applied).map(|batch| batch.number);
        let after = after.filter(|_| flaw != Some(Flaw::NoChain));
        l.number += 1;
        let (number, marker) = (l.number, l.marker);
        let script = Call {
            epoch: view.epoch,
            marker,
            number,
            after,
            writes: puts,
            ticks: flaw != Some(Flaw::NeverTicks),
        };
        l.batches.push_back(Batch {
            view,
            run_id,
            conn,
            marker,
            number,
            writes,
            reads: reads.iter().map(|number| (*number, None)).collect(),
            needed: None,
            applied: false,
        });
        let gets = keys
            .into_iter()
            .map(|(key, request)| (Sent::Get { batch: number, request }, ToServer::Get { key }));
        let script = (Sent::Script { batch: number }, ToServer::Script(Rc::new(script)));
        let measure = (Sent::Measure { batch: number }, ToServer::Role);
        let mut pipeline: Vec<(Sent, ToServer)> = gets.collect();
        if flaw == Some(Flaw::BarrierBeforeGet) {
            pipeline.clear(); // see `get_late`
        }
        pipeline.push(script);
        match flaw {
            _ if !sync => {}
            Some(Flaw::MeasuredBeforeTheWrite) => pipeline.insert(0, measure),
            _ => pipeline.push(measure),
        }
        for (sent, request) in pipeline {
            self.lane(at, lane).sent.push_back(sent);
            self.ask_lane(at, lane, conn, request);
        }
    }

    /// The connection is given up. What was on it is settled; reads are simply asked again.
    fn lane_lost(&mut self, at: usize, lane: usize) {
        let (now, pause) = (self.now, self.rng.u64(1..20) * MS);
        let old = std::mem::replace(self.lane(at, lane), Lane::new());
        self.lane(at, lane).open_at = now + pause;
        if let Some(conn) = old.conn {
            self.close(conn, OPENER);
        }
        for batch in old.batches.into_iter().rev() {
            self.put_back(at, batch.reads.iter().map(|(number, _)| *number));
            if batch.writes.iter().any(|number| self.pending(*number)) {
                self.batch_lost(at, batch);
            }
        }
    }

    fn batch_lost(&mut self, at: usize, batch: Batch) {
        match self.flaw {
            Some(Flaw::ResendsUnknown) => self.put_back(at, batch.writes.into_iter()),
            Some(Flaw::UnknownIsFailed) => {
                batch.writes.into_iter().for_each(|number| self.tell(number, Outcome::Failed));
            }
            _ => self.apis[at].settler.lost.push_back(batch),
        }
    }

    pub(super) fn lane_packet(&mut self, at: usize, lane: usize, conn: ConnId, body: Body) {
        let now = self.now;
        let flaw = self.flaw;
        let l = self.lane(at, lane);
        if l.conn != Some(conn) {
            return;
        }
        l.heard = now;
        match body {
            Body::Accepted(run_id) => {
                let recorded = l.opened.as_ref().is_some_and(|of| of.primary.run_id == run_id);
                if !recorded && flaw != Some(Flaw::AnyProcessServes) {
                    return self.lane_lost(at, lane);
                }
                l.run_id = Some(run_id);
                self.tend_lane(at, lane);
            }
            Body::FromServer(answer) => match l.sent.pop_front() {
                Some(sent) => self.lane_answer(at, lane, conn, sent, answer),
                None => self.lane_lost(at, lane),
            },
            Body::Fin | Body::Refused => self.lane_lost(at, lane),
            _ => {}
        }
    }

    fn lane_answer(&mut self, at: usize, lane: usize, conn: ConnId, sent: Sent, answer: FromServer) {
        match (sent, answer) {
            (Sent::Proof { epoch }, FromServer::Ran(Ran::Done)) => {
                let present = self.apis[at].view.as_ref().is_some_and(|view| view.epoch == epoch);
                if present {
                    self.lane(at, lane).proven = true;
                }
                self.tend_lane(at, lane);
            }
            (Sent::Proof { .. }, _) => self.doubt(at, lane),
            (Sent::LateGet { request, epoch, server }, FromServer::Got(value)) => {
                self.answered(request, Outcome::Found(value), epoch, server);
            }
            (Sent::Get { batch, request }, FromServer::Got(value)) => {
                let batch = self.lane(at, lane).batch(batch);
                if let Some((_, found)) =
                    batch.and_then(|batch| batch.reads.iter_mut().find(|(number, _)| *number == request))
                {
                    *found = Some(value);
                }
            }
            (Sent::Script { batch }, FromServer::Ran(Ran::Done)) => self.batch_applied(at, lane, conn, batch),
            (Sent::Script { batch }, FromServer::Ran(Ran::Refused(why))) => {
                self.batch_refused(at, lane, batch, why);
            }
            (Sent::Script { batch }, FromServer::Loading) => self.batch_refused(at, lane, batch, "LOADING"),
            (Sent::Measure { batch }, FromServer::Role { offset, .. }) => {
                if let Some(batch) = self.lane(at, lane).batch(batch) {
                    batch.needed = Some(offset);
                    self.begin_poll(at, lane, conn);
                }
            }
            (Sent::Role, FromServer::Role { rows, master, .. }) => {
                self.lane(at, lane).polled = Some((rows, master));
            }
            (Sent::Fence, FromServer::FenceIs(fence)) => self.polled(at, lane, conn, fence),
            (Sent::Get { .. } | Sent::Measure { .. } | Sent::Role | Sent::Fence, FromServer::Loading) => {}
            (_, _) => self.lane_lost(at, lane),
        }
    }

    fn get_late(&mut self, at: usize, lane: usize, request: usize, epoch: u64, server: usize) {
        let key = self.oracle.history.requests[request].key;
        let pause = self.flawed_pause();
        let l = self.lane(at, lane);
        l.sent.push_back(Sent::LateGet { request, epoch, server });
        if let Some(conn) = l.conn {
            self.send_slowly(conn, OPENER, pause, Body::ToServer(ToServer::Get { key }));
        }
    }

    /// The server does not take writes now: nothing is sent until it has shown that it does again.
    fn doubt(&mut self, at: usize, lane: usize) {
        let pause = self.rng.u64(1..15) * MS;
        let now = self.now;
        let l = self.lane(at, lane);
        (l.proven, l.proof_at) = (false, now + pause);
    }

    /// A definite failure: sent again under the next view.
    fn batch_refused(&mut self, at: usize, lane: usize, number: u64, why: &str) {
        if !matches!(classify(why), Failure::Definite(_)) {
            return self.lane_lost(at, lane);
        }
        let l = self.lane(at, lane);
        if let Some(place) = l.batches.iter().position(|batch| batch.number == number)
            && let Some(batch) = l.batches.remove(place)
        {
            self.counts.fenced += 1;
            let reads = batch.reads.into_iter().map(|(number, _)| number);
            self.put_back(at, reads);
            self.put_back(at, batch.writes.into_iter());
        }
        self.doubt(at, lane);
    }

    fn batch_applied(&mut self, at: usize, lane: usize, conn: ConnId, number: u64) {
        let sync = self.plan.sync;
        let few = [Some(Flaw::OneCopyIsEnough), Some(Flaw::NoBarrier)].contains(&self.flaw);
        let Some(batch) = self.lane(at, lane).batch(number) else { return };
        batch.applied = true;
        let only_reads = batch.writes.is_empty();
        if !sync || (few && (self.flaw == Some(Flaw::OneCopyIsEnough) || only_reads)) {
            return self.batch_done(at, lane, number);
        }
        self.begin_poll(at, lane, conn);
    }

    fn begin_poll(&mut self, at: usize, lane: usize, conn: ConnId) {
        let l = self.lane(at, lane);
        let due = l.batches.iter().any(|batch| batch.applied && batch.needed.is_some());
        if l.polling || !due {
            return;
        }
        l.polling = true;
        self.poll_lane(at, lane, conn);
    }

    pub(super) fn poll_lane(&mut self, at: usize, lane: usize, conn: ConnId) {
        let l = self.lane(at, lane);
        if l.conn != Some(conn) {
            return;
        }
        l.sent.extend([Sent::Role, Sent::Fence]);
        self.ask_lane(at, lane, conn, ToServer::Role);
        self.ask_lane(at, lane, conn, ToServer::GetFence);
    }

    /// ROLE and the fence were answered: who is confirmed?
    fn polled(&mut self, at: usize, lane: usize, conn: ConnId, fence: Option<u64>) {
        let Some((rows, master)) = self.lane(at, lane).polled.take() else {
            return self.lane_lost(at, lane);
        };
        let flaw = self.flaw;
        let mut again = false;
        for batch in self.lane(at, lane).batches.clone() {
            let Some(needed) = batch.needed.filter(|_| batch.applied) else { continue };
            match verdict(flaw, &batch.view, needed, &rows, master, fence) {
                Next::Acknowledge => self.batch_done(at, lane, batch.number),
                Next::Settle => {
                    say!(
                        self,
                        "a{at}: the epoch of batch {} of marker {} is over",
                        batch.number,
                        batch.marker
                    );
                    return self.lane_lost(at, lane);
                }
                Next::WaitFor(_) => again = true,
            }
        }
        if again {
            let after = self.rng.u64(1..15) * MS;
            return self.api_timer(at, after, Timer::Poll { lane, conn });
        }
        self.lane(at, lane).polling = false;
        self.begin_poll(at, lane, conn);
        self.pump_lane(at, lane);
    }

    fn batch_done(&mut self, at: usize, lane: usize, number: u64) {
        let l = self.lane(at, lane);
        let Some(place) = l.batches.iter().position(|batch| batch.number == number) else { return };
        let Some(batch) = l.batches.remove(place) else { return };
        self.judge_copies(&batch.view);
        let (epoch, server) = (batch.view.epoch, index(&batch.view.primary.addr));
        for number in batch.writes {
            self.answered(number, Outcome::Written, epoch, server);
        }
        for (number, found) in batch.reads {
            match found {
                Some(found) => self.answered(number, Outcome::Found(found), epoch, server),
                None if self.breaks(Flaw::BarrierBeforeGet) => self.get_late(at, lane, number, epoch, server),
                None => self.put_back(at, std::iter::once(number)),
            }
        }
        self.pump_lane(at, lane);
    }
}

/// The rule of R3, or what a broken client makes of it.
pub(super) fn verdict(
    flaw: Option<Flaw>,
    view: &State,
    needed: u64,
    rows: &[(String, u64)],
    master: bool,
    fence: Option<u64>,
) -> Next {
    let copies = rows.iter().filter(|(_, offset)| *offset >= needed).count();
    let believed = copies >= view.in_sync.len() && master && fence == Some(view.epoch);
    if flaw == Some(Flaw::WaitIsBelieved) && believed {
        return Next::Acknowledge;
    }
    let mut in_sync = view.in_sync.clone();
    if flaw == Some(Flaw::AddressesAreCompared) {
        in_sync.iter_mut().for_each(|entry| entry.seen_as = entry.addr.to_string());
    }
    let master = master || flaw == Some(Flaw::RoleIsNotRead);
    let fence = if flaw == Some(Flaw::NoFenceAtTheEnd) { Some(view.epoch) } else { fence };
    let look =
        Look { offset: master.then_some(needed), waited: true, replicas: master.then_some(rows), fence };
    judge(&in_sync, view.epoch, needed, &look)
}
