//! Requests on their way to a connection: taken when a connection is free for them, so that a request is never tied
//! to one that breaks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use failover::confirm::Durability;
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;
use wire::Reply;

use crate::view::View;

/// Before a write that was refused on its own is sent again.
const LATER: Duration = Duration::from_millis(10);

/// A read that waits for its answer. Dropped unanswered it tells the requester to ask again.
#[derive(Debug)]
pub(crate) struct Read {
    /// The key as Redis knows it.
    pub(crate) key: Bytes,
    /// Where the answer goes.
    pub(crate) done: oneshot::Sender<Answer>,
}

/// What a server said, and the view under which it was asked.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The view at the moment of asking.
    pub(crate) view: Arc<View>,
    /// The words of the server.
    pub(crate) reply: Reply,
}

/// A write that waits for its outcome.
#[derive(Debug)]
pub(crate) struct Write {
    /// The key as Redis knows it.
    pub(crate) key: Bytes,
    /// What to store.
    pub(crate) value: Bytes,
    /// How long it is to live.
    pub(crate) ttl_ms: Option<u64>,
    /// Where the outcome goes.
    pub(crate) done: oneshot::Sender<Written>,
    /// Whether it may have been sent.
    pub(crate) ticket: Arc<Ticket>,
}

/// The outcome of a write that was sent. A definite failure is none: such a write goes back to the queue.
#[derive(Debug)]
pub(crate) enum Written {
    /// It is part of the history of a primary.
    Applied(Acknowledged),
    /// It may be, or not; why.
    Indeterminate(String),
}

/// What an acknowledgement says.
#[derive(Debug, Clone)]
pub(crate) struct Acknowledged {
    /// The view under which it was given.
    pub(crate) view: Arc<View>,
    /// What it promises.
    pub(crate) durability: Durability,
}

impl Acknowledged {
    /// Every replica in sync has it.
    pub(crate) fn by_all(view: &Arc<View>) -> Self {
        Self { view: view.clone(), durability: Durability::Sync }
    }

    /// The primary has it.
    pub(crate) fn by_primary(view: &Arc<View>) -> Self {
        Self { view: view.clone(), durability: Durability::Async }
    }

    /// How many replicas are known to have it, besides the primary.
    pub(crate) fn copies(&self) -> usize {
        match self.durability {
            Durability::Sync => self.view.in_sync.len(),
            Durability::Async => 0,
        }
    }
}

/// Whether a write lies in the queue or may have been sent: what its requester can be told at the deadline.
#[derive(Debug, Default)]
pub(crate) struct Ticket(AtomicU8);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Ticket {
    /// By a connection, before it sends; false if the requester has given up.
    fn take(&self) -> bool {
        self.step(WAITING, TAKEN)
    }

    /// By whoever knows that it was not applied and will not be.
    fn put_back(&self) {
        self.step(TAKEN, WAITING);
    }

    /// By the requester at its deadline; true if it will never be sent (again), and nothing was written.
    pub(crate) fn give_up(&self) -> bool {
        self.step(WAITING, GIVEN_UP)
    }

    fn step(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// The requests of one service for its primary, or for one member.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    reads: Mutex<VecDeque<Read>>,
    strong: Mutex<VecDeque<Read>>,
    writes: Mutex<VecDeque<Write>>,
    /// One permit when there is a read to take.
    pub(crate) reads_there: Notify,
    /// One permit when there is a strong read to take.
    pub(crate) strong_there: Notify,
    /// One permit when there is a write to take.
    pub(crate) writes_there: Notify,
}

impl Queue {
    /// Adds a read.
    pub(crate) fn push_read(&self, read: Read) {
        push(&self.reads, read);
        self.reads_there.notify_one();
    }

    /// Adds a read that is to be confirmed (R8).
    pub(crate) fn push_strong(&self, read: Read) {
        push(&self.strong, read);
        self.strong_there.notify_one();
    }

    /// Adds a write.
    pub(crate) fn push_write(&self, write: Write) {
        push(&self.writes, write);
        self.writes_there.notify_one();
    }

    /// Writes that were certainly not applied, in their order, before all others.
    pub(crate) fn put_back(&self, writes: Vec<Write>) {
        let mut queue = locked(&self.writes);
        for write in writes.into_iter().rev() {
            write.ticket.put_back();
            queue.push_front(write);
        }
        drop(queue);
        self.writes_there.notify_one();
    }

    /// The same for one write that was refused on its own: a little later, for the reason may last.
    pub(crate) fn put_back_later(self: &Arc<Self>, write: Write) {
        let queue = self.clone();
        tokio::spawn(async move {
            sleep(LATER).await;
            queue.put_back(vec![write]);
        });
    }

    /// Up to `most` reads that somebody still waits for.
    pub(crate) fn take_reads(&self, most: usize) -> Vec<Read> {
        take(&self.reads, most)
    }

    /// The same of those that are to be confirmed.
    pub(crate) fn take_strong(&self, most: usize) -> Vec<Read> {
        take(&self.strong, most)
    }

    /// Up to `most` writes of together `most_bytes` (or a single larger one) that somebody still waits for.
    pub(crate) fn take_writes(&self, most: usize, most_bytes: usize) -> Vec<Write> {
        let mut queue = locked(&self.writes);
        let mut taken = Vec::with_capacity(most.min(queue.len()));
        let mut bytes = 0;
        while let Some(write) = queue.front() {
            bytes += write.key.len() + write.value.len();
            if taken.len() == most || (bytes > most_bytes && !taken.is_empty()) {
                break;
            }
            if let Some(write) = queue.pop_front()
                && !write.done.is_closed()
                && write.ticket.take()
            {
                taken.push(write);
            }
        }
        taken
    }
}

/// Adds a request, and drops those at the front that nobody waits for any more: while no connection takes from the queue,
/// it holds no more than one deadline's requests.
fn push<T: Request>(queue: &Mutex<VecDeque<T>>, new: T) {
    let mut queue = locked(queue);
    while queue.front().is_some_and(Request::is_given_up) {
        queue.pop_front();
    }
    queue.push_back(new);
}

trait Request {
    /// Nobody waits for its answer.
    fn is_given_up(&self) -> bool;
}

impl Request for Read {
    fn is_given_up(&self) -> bool {
        self.done.is_closed()
    }
}

impl Request for Write {
    fn is_given_up(&self) -> bool {
        self.done.is_closed()
    }
}

fn take(queue: &Mutex<VecDeque<Read>>, most: usize) -> Vec<Read> {
    let mut queue = locked(queue);
    let mut taken = Vec::with_capacity(most.min(queue.len()));
    while taken.len() < most {
        match queue.pop_front() {
            Some(read) if read.done.is_closed() => {}
            Some(read) => taken.push(read),
            None => break,
        }
    }
    taken
}

/// A panic elsewhere leaves a queue that is still in order.
fn locked<T>(queue: &Mutex<T>) -> MutexGuard<'_, T> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(bytes: usize) -> (Write, oneshot::Receiver<Written>, Arc<Ticket>) {
        let (done, rx) = oneshot::channel();
        let ticket = Arc::new(Ticket::default());
        let value = Bytes::from(vec![0; bytes]);
        (Write { key: Bytes::new(), value, ttl_ms: None, done, ticket: ticket.clone() }, rx, ticket)
    }

    #[test]
    fn a_batch_is_bounded_in_number_and_bytes() {
        let queue = Queue::default();
        let waiting = [10, 10, 10, 100, 1, 1].map(|bytes| {
            let (write, rx, _) = write(bytes);
            queue.push_write(write);
            rx
        });
        let sizes = |taken: Vec<Write>| taken.iter().map(|w| w.value.len()).collect::<Vec<_>>();
        assert_eq!(sizes(queue.take_writes(2, 50)), [10, 10]);
        assert_eq!(sizes(queue.take_writes(512, 50)), [10]);
        assert_eq!(sizes(queue.take_writes(512, 50)), [100], "a larger one goes alone");
        assert_eq!(sizes(queue.take_writes(512, 50)), [1, 1]);
        assert_eq!(sizes(queue.take_writes(512, 50)), [0_usize; 0]);
        drop(waiting);
    }

    #[test]
    fn what_is_put_back_comes_first_and_what_nobody_waits_for_not_at_all() {
        let queue = Queue::default();
        let (first, first_rx, _) = write(1);
        let (second, second_rx, _) = write(2);
        let (third, third_rx, _) = write(3);
        queue.push_write(first);
        queue.push_write(second);
        let taken = queue.take_writes(2, 50);
        queue.push_write(third);
        queue.put_back(taken);
        drop(first_rx);
        let sizes: Vec<_> = queue.take_writes(9, 50).iter().map(|w| w.value.len()).collect();
        assert_eq!(sizes, [2, 3]);
        drop((second_rx, third_rx));
    }

    #[test]
    fn giving_up_is_possible_only_while_nothing_is_sent() {
        let queue = Queue::default();
        let (sent, _rx1, ticket) = write(1);
        queue.push_write(sent);
        let taken = queue.take_writes(9, 50);
        assert!(!ticket.give_up(), "it may have been sent");
        queue.put_back(taken);
        assert!(ticket.give_up(), "it was certainly not applied");
        assert!(queue.take_writes(9, 50).is_empty(), "and is never sent again");
    }

    /// With the primary away nobody takes anything, and requests go on coming and giving up.
    #[test]
    fn what_was_given_up_does_not_pile_up() {
        let queue = Queue::default();
        for _ in 0..100 {
            let (write, rx, _) = write(1000);
            queue.push_write(write);
            let (done, read) = oneshot::channel();
            queue.push_read(Read { key: Bytes::new(), done });
            drop((rx, read));
        }
        assert_eq!((locked(&queue.writes).len(), locked(&queue.reads).len()), (1, 1));
    }

    #[test]
    fn reads_are_taken_in_order() {
        let queue = Queue::default();
        let mut receivers = Vec::new();
        for key in ["a", "b", "c"] {
            let (done, rx) = oneshot::channel();
            queue.push_read(Read { key: key.into(), done });
            receivers.push(rx);
        }
        receivers.remove(1);
        let keys: Vec<_> = queue.take_reads(2).iter().map(|r| r.key.clone()).collect();
        assert_eq!(keys, ["a", "c"]);
    }
}
