//! The connections of a listener: so many at a time, and who has nothing to ask makes place for who comes.
//!
//! A connection is *idle* while nothing is being answered on it: it may have said nothing yet, half a request, or nothing
//! more. When all places are taken, one that is idle is asked to leave, first those that were never answered or not for long, and
//! the newcomer stays; only when everybody is being answered is the newcomer turned away. So however many connections
//! somebody holds open, who has a question is heard.
//!
//! An answer costs two steps on a number of the connection's own; all else is paid for when somebody comes.

pub mod files;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// All connections of one listener.
pub struct Crowd {
    most: usize,
    inside: Mutex<Inside>,
    refused: Box<dyn Fn() + Send + Sync>,
}

#[derive(Debug, Default)]
struct Inside {
    number: usize,
    /// Everybody, and some who are gone. Who stands in front is looked at first.
    queue: VecDeque<Arc<Seat>>,
}

#[derive(Debug, Default)]
struct Seat {
    /// How many things are being answered, or [`GONE`].
    answering: AtomicUsize,
    /// Something was answered since it was last looked at.
    answered: AtomicBool,
    leave: Notify,
}

/// It has left, or was asked to.
const GONE: usize = usize::MAX;

/// One connection, which counts while this lives or until it is asked to leave.
#[derive(Debug)]
pub struct Guest {
    crowd: Arc<Crowd>,
    seat: Arc<Seat>,
}

/// The connection is being answered while this lives.
#[derive(Debug)]
pub struct Busy(Arc<Seat>);

impl Crowd {
    /// Nobody is there, and so many may be; at least one. `refused` counts connections that were turned away, or asked to
    /// leave to make place.
    pub fn new(most: usize, refused: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), inside: Mutex::default(), refused: Box::new(refused) })
    }

    /// Takes in a connection, which is idle at first; `None`: everybody who is here is being answered.
    pub fn enter(self: &Arc<Self>) -> Option<Guest> {
        let mut inside = self.inside();
        if inside.number >= self.most {
            (self.refused)();
            inside.make_place()?;
        }
        inside.number += 1;
        let seat = Arc::new(Seat::default());
        inside.queue.push_back(seat.clone());
        if inside.queue.len() > 2 * self.most + 64 {
            inside.queue.retain(|seat| !seat.is_gone());
        }
        Some(Guest { crowd: self.clone(), seat })
    }

    /// How many are here.
    pub fn number(&self) -> usize {
        self.inside().number
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crowd")
            .field("most", &self.most)
            .field("inside", &self.inside)
            .finish_non_exhaustive()
    }
}

impl Inside {
    /// Asks one who is idle to leave. Who was answered since it was last looked at is passed over once.
    fn make_place(&mut self) -> Option<()> {
        for _ in 0..2 * self.queue.len() {
            let seat = self.queue.pop_front()?;
            if seat.is_gone() {
                continue;
            }
            if !seat.answered.swap(false, Ordering::Relaxed) && seat.empties() {
                self.number -= 1;
                seat.leave.notify_one();
                return Some(());
            }
            self.queue.push_back(seat);
        }
        None
    }
}

impl Seat {
    fn is_gone(&self) -> bool {
        self.answering.load(Ordering::Relaxed) == GONE
    }

    /// Whether nothing was being answered; then it is gone.
    fn empties(&self) -> bool {
        self.answering.compare_exchange(0, GONE, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Guest {
    /// Ends when somebody else needs the place.
    pub async fn asked_to_leave(&self) {
        self.seat.leave.notified().await;
    }

    /// Something is being answered from now on, unless the place is somebody else's already.
    pub fn busy(&self) -> Busy {
        let more = |answering: usize| (answering != GONE).then(|| answering + 1);
        // An error means that it is gone, and stays so.
        let _ = self.seat.answering.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        Busy(self.seat.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.answered.store(true, Ordering::Relaxed);
        let less = |answering: usize| (answering != GONE).then(|| answering - 1);
        let _ = self.0.answering.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut inside = self.crowd.inside();
        let counts = self.seat.answering.swap(GONE, Ordering::Relaxed) != GONE;
        inside.number -= usize::from(counts);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_asked(guest: &Guest) -> bool {
        let leaves = pin!(guest.asked_to_leave());
        leaves.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn crowd(most: usize) -> (Arc<Crowd>, Arc<AtomicUsize>) {
        let refused = Arc::new(AtomicUsize::new(0));
        let counter = refused.clone();
        (Crowd::new(most, move || _ = counter.fetch_add(1, Ordering::Relaxed)), refused)
    }

    #[test]
    fn who_is_idle_makes_place() {
        let (crowd, refused) = crowd(2);
        let (first, second) = (crowd.enter().unwrap(), crowd.enter().unwrap());
        drop(first.busy());
        let third = crowd.enter().unwrap();
        assert!(is_asked(&second) && !is_asked(&first) && !is_asked(&third));
        assert_eq!((crowd.number(), refused.load(Ordering::Relaxed)), (2, 1));
        drop(second);
        assert_eq!(crowd.number(), 2, "its place is taken");
        drop((first, third));
        assert_eq!(crowd.number(), 0);
    }

    #[test]
    fn who_is_being_answered_stays() {
        let (crowd, refused) = crowd(2);
        let (first, second) = (crowd.enter().unwrap(), crowd.enter().unwrap());
        let answers = (first.busy(), first.busy(), second.busy());
        assert!(crowd.enter().is_none());
        drop(answers.0);
        assert!(crowd.enter().is_none(), "there is another answer");
        drop(answers.1);
        let third = crowd.enter().unwrap();
        assert!(is_asked(&first) && !is_asked(&second));
        assert_eq!((crowd.number(), refused.load(Ordering::Relaxed)), (2, 3));
        // Whoever was asked has no place any more, whatever becomes of it.
        let late = first.busy();
        assert_eq!(crowd.number(), 2);
        drop((late, first, third, answers.2, second));
        assert_eq!(crowd.number(), 0);
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let (crowd, refused) = crowd(3);
        for _ in 0..1000 {
            drop(crowd.enter().unwrap());
        }
        assert!(crowd.number() == 0 && crowd.inside().queue.len() <= 70);
        assert_eq!(refused.load(Ordering::Relaxed), 0);
    }
}
