//! One supervised connection to one server of the group.
//!
//! A lane keeps its connection warm whatever the server's role is: the script is loaded and secondary reads go
//! through it. It carries traffic for the primary only from the moment at which a guarded script has run there under
//! the view's epoch. That proves that the process is the recorded one, promoted, and stamped; so nothing is ever
//! read from a replica that is still to be promoted, and a failover needs no new connection.
//!
//! There are two kinds. A *quick* lane carries what is answered at once: plain reads, and writes that are acknowledged
//! when the primary has them. A *confirming* lane carries what waits for the replicas ([`crate::round`]): WAIT blocks
//! its connection, and nothing that need not wait stands behind it. Both send in batches, one at a time per lane: the
//! next one is what came in meanwhile. Whatever is on its way when the connection ends is given up by
//! [`crate::flight`]: reads are asked again, batches are settled (R17).

use std::sync::Arc;
use std::time::Duration;

use failover::confirm::{Cause, Durability, Failure, classify};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use wire::{Command, Link, LinkError, Receiver, Reply, Sender, cmd};

use crate::flight::{Batch, Flight, Sent};
use crate::pool::{Member, Pool};
use crate::queue::{Acknowledged, Answer, Read, Write, Written};
use crate::script;
use crate::view::{Source, View};

/// Writes in one batch (R3).
pub(crate) const BATCH_WRITES: usize = 512;

/// Their keys and values together, in bytes; one larger write goes alone (R3).
pub(crate) const BATCH_BYTES: usize = 1 << 20;

/// Reads in one pipeline.
const READS: usize = 1024;

/// A server that owes us an answer for so long is given up. Well below the usual deadline of a request, and above
/// what a healthy server needs for anything we send.
const STALL: Duration = Duration::from_secs(1);

/// A connection that was not used for so long is asked for a sign of life, so that one that leads nowhere is noticed
/// before a failover needs it.
const IDLE: Duration = Duration::from_secs(5);

/// The longest reply that is listened to: Redis's own limit of a value, and a little more.
const REPLY_MAX: usize = (512 << 20) + 1024;

/// How long to wait before the server is asked again whether it takes writes: at once at first, since a promotion
/// is a matter of milliseconds; then less often, since it may be a matter of an operator.
fn pause_before_proof(tries: u32) -> Duration {
    match tries {
        0 => Duration::ZERO,
        1..=300 => Duration::from_millis(1),
        301..=600 => Duration::from_millis(5),
        _ => Duration::from_millis(20),
    }
}

/// Between two attempts at a server that refuses us, or that is not believed.
const PAUSE_WHEN_REFUSED: Duration = Duration::from_millis(250);

/// How long to wait before a connection is tried again.
fn pause_before_open(primary: bool, tries: u32) -> Duration {
    match (primary, tries) {
        (_, 0) => Duration::ZERO,
        (true, 1) => Duration::from_millis(1),
        (true, _) => Duration::from_millis(10),
        (false, 1..=20) => Duration::from_millis(50),
        (false, _) => Duration::from_millis(500),
    }
}

/// What a lane carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What the primary alone answers.
    Quick,
    /// What the replicas in sync have to confirm.
    Confirming,
}

/// Why a connection is not used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum End {
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("no answer for {} ms", STALL.as_millis())]
    Stalled,
    #[error("not the primary any more while answers were due")]
    Deposed,
    #[error("an answer that does not fit the question")]
    Unexpected,
    #[error("what was written cannot be confirmed under its epoch")]
    Unconfirmed,
}

/// Keeps one connection to `member` for ever; ended by being aborted.
pub(crate) async fn run(pool: Arc<Pool>, member: Arc<Member>, kind: Kind) {
    let mut views = pool.views.clone();
    let mut tries = 0;
    loop {
        let primary = views.borrow_and_update().as_ref().is_some_and(|view| view.primary == member.addr);
        tokio::select! {
            () = sleep(pause_before_open(primary, tries)) => {}
            // It may just have become the primary; but a stream of changes is no reason to hurry.
            _ = views.changed(), if !primary => sleep(Duration::from_millis(1)).await,
        }
        match open(&pool, &member).await {
            Ok(greeted) => {
                tries = 0;
                let mut session = Session::new(&pool, &member, kind, greeted);
                let end = session.run().await;
                drop(session);
                pool.in_trouble(&member.addr, &end);
                tracing::debug!(backend = %member.addr, "connection ended: {end}");
                // Before the next attempt there is always a pause, else a server that accepts and closes makes us spin.
                tries += 1;
            }
            Err(why) => {
                if tries == 0 {
                    tracing::debug!(backend = %member.addr, "no connection: {why}");
                }
                pool.in_trouble(&member.addr, &why);
                tries = tries.saturating_add(1);
                if why.is_lasting() {
                    sleep(PAUSE_WHEN_REFUSED).await;
                }
            }
        }
    }
}

/// A new connection that knows who it is.
struct Greeted {
    sender: Sender,
    receiver: Receiver,
    run_id: String,
    /// For CLIENT KILL, should the connection be lost; `None` if the server does not tell.
    client_id: Option<u64>,
    sha: String,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum NotOpen {
    #[error(transparent)]
    Link(#[from] wire::OpenError),
    #[error("{0}")]
    Other(String),
}

impl NotOpen {
    /// A password or certificate that was refused, or a server that is believed by nobody here: no attempt soon after this one
    /// ends otherwise, and each costs the server time.
    fn is_lasting(&self) -> bool {
        use wire::OpenError::{ClosedAfterHandshake, Login, Tls};
        matches!(self, Self::Link(Login(_) | Tls(_) | ClosedAfterHandshake))
    }
}

impl From<LinkError> for NotOpen {
    fn from(error: LinkError) -> Self {
        Self::Other(error.to_string())
    }
}

async fn open(pool: &Pool, member: &Member) -> Result<Greeted, NotOpen> {
    let limit = pool.options.connect_timeout;
    let link = Link::open(&member.addr, &(pool.options.login)(&member.addr), "albireo-api", limit).await;
    let mut link = link?;
    let Some(run_id) = link.run_id().map(str::to_owned) else {
        return Err(NotOpen::Other(
            link.greeting_error().unwrap_or("it does not tell its run_id").to_owned(),
        ));
    };
    let questions = [cmd!["CLIENT", "ID"], cmd!["SCRIPT", "LOAD", script::WRITE]];
    let replies = tokio::time::timeout(limit, link.call(&questions)).await;
    let replies = replies.map_err(|_| NotOpen::Other("no answer in time".to_owned()))??;
    let no_script = || NotOpen::Other(replies[1].error().unwrap_or("no script").to_owned());
    let sha = replies[1].text().ok_or_else(no_script)?.to_owned();
    let client_id = replies[0].unsigned();
    let (sender, mut receiver) = link.split();
    receiver.limit(REPLY_MAX);
    Ok(Greeted { sender, receiver, run_id, client_id, sha })
}

/// One connection in use.
pub(crate) struct Session<'a> {
    pub(crate) pool: &'a Pool,
    member: &'a Member,
    kind: Kind,
    sender: Sender,
    receiver: Receiver,
    run_id: Arc<str>,
    client_id: Option<u64>,
    marker: Arc<str>,
    sha: String,
    pub(crate) flight: Flight,
    /// The number of the last batch.
    number: u64,
    /// Replies to writes that are still due: of one batch, or of plain writes. Nothing more is sent meanwhile.
    writes_out: usize,
    /// The same for reads.
    reads_out: usize,
    view: Option<Arc<View>>,
    /// Whether the view names this very process.
    primary: bool,
    /// The server has shown that it is the primary of the last promotion.
    reads: bool,
    /// And that it takes writes under the present epoch, as far as is known.
    writes: bool,
    /// The same, and clients' writes go down this lane.
    usable: bool,
    /// When to ask the server to show that, if it has not.
    proof_at: Instant,
    proof_out: bool,
    proofs_failed: u32,
    script_lost: bool,
    /// When something was last answered, or asked while nothing was due.
    heard: Instant,
    /// When something was last sent.
    sent_at: Instant,
}

impl<'a> Session<'a> {
    fn new(pool: &'a Arc<Pool>, member: &'a Member, kind: Kind, greeted: Greeted) -> Self {
        let now = Instant::now();
        member.connected(&greeted.run_id);
        Self {
            pool,
            member,
            kind,
            sender: greeted.sender,
            receiver: greeted.receiver,
            run_id: greeted.run_id.into(),
            client_id: greeted.client_id,
            marker: pool.next_marker(),
            sha: greeted.sha,
            flight: Flight::new(pool.clone()),
            number: 0,
            writes_out: 0,
            reads_out: 0,
            view: None,
            primary: false,
            reads: false,
            writes: false,
            usable: false,
            proof_at: now,
            proof_out: false,
            proofs_failed: 0,
            script_lost: false,
            heard: now,
            sent_at: now,
        }
    }

    async fn run(&mut self) -> End {
        match self.serve().await {
            Ok(never) => never,
            Err(end) => end,
        }
    }

    async fn serve(&mut self) -> Result<End, End> {
        let mut views = self.pool.views.clone();
        let mut stall = interval(STALL / 4);
        stall.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (pool, member) = (self.pool, self.member);
        let view = views.borrow_and_update().clone();
        self.adopt(view)?;
        loop {
            self.send().await?;
            let proof_due = self.primary && !self.writes && !self.proof_out && self.writes_out == 0;
            let quick = self.kind == Kind::Quick;
            let room = quick && self.reads_out == 0;
            let round = !quick && self.writes && self.flight.round.is_none();
            let writes =
                self.writes && self.carries_writes() && self.writes_out == 0 && self.flight.round.is_none();
            tokio::select! {
                reply = self.receiver.next() => {
                    self.handle(reply?)?;
                    while let Some(reply) = self.receiver.buffered()? {
                        self.handle(reply)?;
                    }
                }
                changed = views.changed() => {
                    // The sender lives as long as the pool; without it nothing is left to do but to wait for the end.
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    let view = views.borrow_and_update().clone();
                    self.adopt(view)?;
                }
                // The first of many is not to go alone: whoever else has a request at hand adds it first.
                () = pool.queue.reads_there.notified(), if self.reads && room => yield_now().await,
                () = pool.queue.writes_there.notified(), if writes => yield_now().await,
                () = pool.queue.strong_there.notified(), if round => yield_now().await,
                () = member.queue.reads_there.notified(), if room => yield_now().await,
                () = sleep_until(self.proof_at), if proof_due => {}
                _ = stall.tick() => {
                    if !self.flight.is_empty() && self.heard.elapsed() > STALL {
                        return Err(End::Stalled);
                    }
                }
            }
        }
    }

    /// Takes over a new view.
    fn adopt(&mut self, view: Option<Arc<View>>) -> Result<(), End> {
        let was = self.view.take();
        let primary = view.as_ref().is_some_and(|view| view.is_primary(&self.member.addr, &self.run_id));
        let by_path = view.as_ref().is_some_and(|view| view.source == Source::Path);
        let same_reign = match (&was, &view) {
            (Some(was), Some(view)) => was.source == view.source && was.promoted == view.promoted,
            _ => false,
        };
        // A record that is born takes nothing back from the primary that was announced.
        let born = was.is_some_and(|was| was.source == Source::Path);
        let reign_over = !primary || !(same_reign || born);
        if self.primary && reign_over && !self.flight.is_empty() {
            return Err(End::Deposed);
        }
        // WAIT would wait in vain for a replica that has left the set.
        if let (Some(round), Some(view)) = (&self.flight.round, &view)
            && !round.view.set_lives_on(view)
        {
            return Err(End::Unconfirmed);
        }
        self.primary = primary;
        self.view = view;
        if by_path || !primary {
            // By path there is nothing to prove: the announcement is all there is.
            self.reads = by_path && primary;
            self.set_writes(by_path && primary);
        } else if !same_reign {
            self.reads = false;
            self.set_writes(false);
        }
        self.proofs_failed = 0;
        self.proof_at = Instant::now();
        Ok(())
    }

    fn set_writes(&mut self, writes: bool) {
        self.writes = writes;
        let usable = writes && self.carries_writes();
        if self.usable != usable {
            self.usable = usable;
            self.member.usable(usable);
            self.pool.readiness_changed();
        }
    }

    /// Whether writes go down this lane under the present view.
    fn carries_writes(&self) -> bool {
        let Some(view) = &self.view else { return false };
        match view.durability(self.pool.options.durability) {
            Durability::Async => self.kind == Kind::Quick,
            Durability::Sync => self.kind == Kind::Confirming,
        }
    }

    /// Sends whatever can be sent now.
    async fn send(&mut self) -> Result<(), End> {
        let mut out = Vec::new();
        self.collect(&mut out);
        let now = Instant::now();
        if out.is_empty() && self.flight.is_empty() && now - self.sent_at > IDLE {
            out.push(cmd!["PING"]);
            self.flight.sent.push_back(Sent::Ping);
        }
        if out.is_empty() {
            return Ok(());
        }
        self.sent_at = now;
        // A server that does not read must not keep us from seeing that it was deposed.
        let mut views = self.pool.views.clone();
        tokio::select! {
            biased;
            sent = self.sender.send(&out) => Ok(sent?),
            () = deposed(&mut views, &self.member.addr, &self.run_id), if self.primary => Err(End::Deposed),
            () = sleep(STALL) => Err(End::Stalled),
        }
    }

    fn collect(&mut self, out: &mut Vec<Command>) {
        if self.flight.is_empty() {
            self.heard = Instant::now();
        }
        let Some(view) = self.view.clone() else { return };
        if self.kind == Kind::Quick {
            self.push_reads(&view, out);
        }
        if !self.primary {
            return;
        }
        match (view.source, self.kind) {
            (Source::Path, Kind::Quick) => self.push_plain(&view, out),
            (Source::Path, Kind::Confirming) => {}
            (Source::State, _) if !self.writes => self.push_proof(&view, out),
            (Source::State, Kind::Quick) => self.push_batch(&view, out),
            (Source::State, Kind::Confirming) => self.push_round(&view, out),
        }
    }

    /// Whatever has come in since the last pipeline of reads was answered: one packet for many.
    fn push_reads(&mut self, view: &Arc<View>, out: &mut Vec<Command>) {
        if self.reads_out > 0 {
            return;
        }
        let mut reads = self.member.queue.take_reads(READS);
        if self.reads {
            reads.extend(self.pool.queue.take_reads(READS));
        }
        self.reads_out = reads.len();
        for read in reads {
            out.push(cmd!["GET", &read.key]);
            self.flight.sent.push_back(Sent::Read(read, view.clone()));
        }
    }

    fn push_plain(&mut self, view: &Arc<View>, out: &mut Vec<Command>) {
        if !self.writes || self.writes_out > 0 {
            return;
        }
        for write in self.pool.queue.take_writes(BATCH_WRITES, BATCH_BYTES) {
            out.push(script::plain_write(&write));
            self.flight.sent.push_back(Sent::Plain(write, view.clone()));
            self.writes_out += 1;
        }
    }

    fn push_batch(&mut self, view: &Arc<View>, out: &mut Vec<Command>) {
        if self.writes_out > 0 || !self.carries_writes() {
            return;
        }
        if let Some(batch) = self.next_batch(view) {
            self.writes_out = 1;
            out.push(self.script(view, &batch.writes));
            self.flight.sent.push_back(Sent::Batch(batch));
        }
    }

    /// What waits to be written, under the next number.
    pub(crate) fn next_batch(&mut self, view: &Arc<View>) -> Option<Batch> {
        let writes = self.pool.queue.take_writes(BATCH_WRITES, BATCH_BYTES);
        if writes.is_empty() {
            return None;
        }
        self.number += 1;
        self.pool.metrics.batch_writes.observe(f64::from(u32::try_from(writes.len()).unwrap_or(u32::MAX)));
        Some(Batch {
            view: view.clone(),
            run_id: self.run_id.clone(),
            client_id: self.client_id,
            marker: self.marker.clone(),
            number: self.number,
            writes,
        })
    }

    /// The conditional script with these writes, under the number of the last batch. Without writes it is a barrier.
    pub(crate) fn script(&self, view: &View, writes: &[Write]) -> Command {
        script::write(&self.sha, view.epoch, &self.marker, self.number, writes)
    }

    /// Asks the server to show that it takes writes under the view's epoch: a batch of none. The marker is written
    /// with the number of the last batch, which was answered; 0 at the beginning.
    fn push_proof(&mut self, view: &Arc<View>, out: &mut Vec<Command>) {
        if self.proof_out || self.writes_out > 0 || Instant::now() < self.proof_at {
            return;
        }
        if self.script_lost {
            out.push(cmd!["SCRIPT", "LOAD", script::WRITE]);
            self.flight.sent.push_back(Sent::Load);
            self.script_lost = false;
        }
        out.push(self.script(view, &[]));
        self.flight.sent.push_back(Sent::Proof(view.clone()));
        self.proof_out = true;
    }

    fn handle(&mut self, reply: Reply) -> Result<(), End> {
        self.heard = Instant::now();
        match self.flight.sent.pop_front() {
            Some(Sent::Read(read, view)) => {
                self.reads_out -= 1;
                self.answer_read(read, view, reply);
            }
            Some(Sent::Plain(write, view)) => {
                self.writes_out -= 1;
                self.handle_write(write, view, &reply);
            }
            Some(Sent::Batch(batch)) => return self.handle_batch(batch, &reply),
            Some(Sent::Part(part)) => return self.handle_part(part, reply),
            Some(Sent::Proof(view)) => self.handle_proof(&view, &reply),
            Some(Sent::Load | Sent::Ping) => {}
            None => return Err(End::Unexpected),
        }
        Ok(())
    }

    /// Gives a read its answer.
    pub(crate) fn answer_read(&self, read: Read, view: Arc<View>, reply: Reply) {
        if let Some(text) = reply.error()
            && let Failure::Definite(_) = classify(text)
        {
            // Dropped: the requester asks again, perhaps elsewhere.
            self.pool.in_trouble(&self.member.addr, &text);
            return;
        }
        let _ = read.done.send(Answer { view, reply });
    }

    /// One write and the answer to it alone; given back if it was applied.
    pub(crate) fn unless_refused(&self, write: Write, reply: &Reply) -> Option<Write> {
        match reply.error().map(|text| (text, classify(text))) {
            None => return Some(write),
            Some((text, Failure::Definite(_))) => {
                self.pool.in_trouble(&self.member.addr, &text);
                self.pool.queue.put_back_later(write);
            }
            Some((text, Failure::WrongType | Failure::Indeterminate)) => {
                let _ = write.done.send(Written::Indeterminate(text.to_owned()));
            }
        }
        None
    }

    fn handle_write(&mut self, write: Write, view: Arc<View>, reply: &Reply) {
        if let Some(write) = self.unless_refused(write, reply) {
            let _ = write.done.send(Written::Applied(Acknowledged::by_primary(&view)));
        }
    }

    fn handle_batch(&mut self, batch: Batch, reply: &Reply) -> Result<(), End> {
        self.writes_out = 0;
        let view = batch.view.clone();
        for write in self.applied(batch, reply)?.into_iter().flat_map(|batch| batch.writes) {
            let _ = write.done.send(Written::Applied(Acknowledged::by_primary(&view)));
        }
        Ok(())
    }

    /// What of a batch was applied, by the answer of its script: none of it after a definite failure, then it goes
    /// back to the queue. Whatever cannot be understood ends the connection, and the batch is settled.
    pub(crate) fn applied(&mut self, mut batch: Batch, reply: &Reply) -> Result<Option<Batch>, End> {
        let count = batch.writes.len();
        match reply {
            Reply::Int(applied) if usize::try_from(*applied) == Ok(count) => {
                self.proofs_failed = 0;
                return Ok(Some(batch));
            }
            Reply::Array(results) if results.len() == count => {
                let each = std::mem::take(&mut batch.writes).into_iter().zip(results);
                batch.writes =
                    each.filter_map(|(write, result)| self.unless_refused(write, result)).collect();
                return Ok(Some(batch));
            }
            Reply::Error(text) => match classify(text) {
                Failure::Definite(cause) => {
                    self.pool.queue.put_back(batch.writes);
                    self.doubt(cause, text);
                    return Ok(None);
                }
                Failure::WrongType | Failure::Indeterminate => self.pool.in_trouble(&self.member.addr, text),
            },
            Reply::Int(_) | Reply::Array(_) | Reply::Nil | Reply::Status(_) | Reply::Bulk(_) => {}
        }
        self.flight.sent.push_front(Sent::Batch(batch));
        Err(End::Unexpected)
    }

    fn handle_proof(&mut self, asked: &View, reply: &Reply) {
        self.proof_out = false;
        match reply {
            Reply::Int(0) => {
                // Under an older view it proves nothing about the present one, unless only the set has changed.
                let present = self.view.as_ref().is_some_and(|view| view.promoted == asked.promoted);
                if self.primary && present {
                    self.proofs_failed = 0;
                    self.reads = true;
                    self.set_writes(true);
                }
            }
            Reply::Error(text) => match classify(text) {
                Failure::Definite(cause) => self.doubt(cause, text),
                Failure::WrongType | Failure::Indeterminate => self.doubt(Cause::Unfit, text),
            },
            Reply::Int(_) | Reply::Array(_) | Reply::Nil | Reply::Status(_) | Reply::Bulk(_) => {
                self.doubt(Cause::Unfit, "an answer that does not fit the question");
            }
        }
    }

    /// The server does not take writes now: nothing is sent until it has shown that it does again.
    pub(crate) fn doubt(&mut self, cause: Cause, text: &str) {
        self.pool.in_trouble(&self.member.addr, &text);
        match cause {
            Cause::ReadOnly => self.reads = false,
            Cause::NoScript => self.script_lost = true,
            Cause::Fenced | Cause::Unfit | Cause::Denied => {}
        }
        self.set_writes(false);
        self.proofs_failed = self.proofs_failed.saturating_add(1);
        self.proof_at = Instant::now() + pause_before_proof(self.proofs_failed);
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.set_writes(false);
        self.member.disconnected();
    }
}

/// Ends when the view names another process as the primary.
async fn deposed(views: &mut watch::Receiver<Option<Arc<View>>>, addr: &topology::Endpoint, run_id: &str) {
    loop {
        let primary = views.borrow_and_update().as_ref().is_some_and(|view| view.is_primary(addr, run_id));
        if !primary {
            return;
        }
        if views.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
