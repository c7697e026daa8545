//! Followers: one task per znode that keeps a `watch` channel at the znode's last known content, over all
//! sessions.
//!
//! One-shot watches, not persistent ones: a read and its watch are one request, so no change falls between
//! them; after a reconnect the server compares by transaction id and reports what was missed; and the library
//! loses persistent watches at every reconnect.

use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};
use zookeeper_client::{Client, Error, OneshotWatcher};

use super::link::{Link, LinkView};
use super::{Options, Versioned};

/// Paths watched in one session, in bytes. The library restores its watches after a reconnect in requests of
/// 128 KiB of paths and fails the connection when it needs a second one, so that many followers (from about two
/// thousand) are spread over further sessions.
const LANE_BYTES: usize = 96 * 1024;

/// Before a failed read is tried again on a connection that is up.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Before a read that was refused, which only an operator can change, is tried again.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// The content of a followed znode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen<T> {
    /// Nothing was read yet.
    NotYet,
    /// There is no such znode.
    Absent,
    /// What is there.
    There(T),
}

impl<T> Seen<T> {
    /// The content, if there is one.
    pub fn there(&self) -> Option<&T> {
        match self {
            Seen::There(content) => Some(content),
            Seen::NotYet | Seen::Absent => None,
        }
    }
}

/// The last known content of a followed znode. While the session is connected it is also the present one, up to
/// the latency of the ensemble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed<T> {
    /// What was read last.
    pub seen: Seen<T>,
    /// When that was read; it stays while nothing changes.
    pub read: Instant,
}

/// The sessions over which followers are spread; the first one is the store's own.
pub(super) struct Lanes {
    options: Options,
    lanes: Mutex<Vec<Lane>>,
    /// Reads under way.
    reads: Arc<Semaphore>,
}

/// Followers that read at the same time: thousands begin together, and again with each new session.
const AT_ONCE: usize = 128;

struct Lane {
    link: Arc<Link>,
    bytes: Arc<AtomicUsize>,
}

/// A follower's place in a lane; given back when the follower ends.
struct Place {
    link: LinkView,
    taken: usize,
    bytes: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

impl Lanes {
    pub(super) fn new(options: Options, first: Arc<Link>) -> Self {
        let lane = Lane { link: first, bytes: Arc::default() };
        Self { options, lanes: Mutex::new(vec![lane]), reads: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Every session in use.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.iter().map(|lane| lane.link.clone()).collect()
    }

    pub(super) fn follow<T: Watched>(&self, path: String) -> watch::Receiver<Followed<T>> {
        let first = Followed { seen: Seen::NotYet, read: tokio::time::Instant::now().into_std() };
        let (tx, rx) = watch::channel(first);
        let place = self.place(path.len() + self.options.chroot().len());
        tokio::spawn(follow(place, path, self.options.call_timeout, self.reads.clone(), tx));
        rx
    }

    /// The first lane with room, or a new one.
    fn place(&self, taken: usize) -> Place {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let roomy = |lane: &&Lane| lane.bytes.load(Ordering::Relaxed) + taken <= LANE_BYTES;
        let (link, bytes) = match lanes.iter().find(roomy) {
            Some(lane) => (lane.link.view(), lane.bytes.clone()),
            None => {
                let link = Arc::new(Link::open(self.options.clone()));
                let lane = Lane { link, bytes: Arc::default() };
                let place = (lane.link.view(), lane.bytes.clone());
                lanes.push(lane);
                place
            }
        };
        bytes.fetch_add(taken, Ordering::Relaxed);
        Place { link, taken, bytes }
    }
}

/// Content that can be read together with a watch for its next change.
pub(super) trait Watched: Clone + PartialEq + Send + Sync + Sized + 'static {
    fn read(
        client: &Client,
        path: &str,
    ) -> impl Future<Output = Result<(Self, OneshotWatcher), Error>> + Send;
}

impl Watched for Versioned {
    async fn read(client: &Client, path: &str) -> Result<(Self, OneshotWatcher), Error> {
        let (data, stat, watcher) = client.get_and_watch_data(path).await?;
        Ok((Versioned { data, version: stat.version }, watcher))
    }
}

impl Watched for Vec<String> {
    async fn read(client: &Client, path: &str) -> Result<(Self, OneshotWatcher), Error> {
        let (mut children, watcher) = client.list_and_watch_children(path).await?;
        children.sort_unstable();
        Ok((children, watcher))
    }
}

/// Follows one znode until nobody listens or the store is closed.
async fn follow<T: Watched>(
    place: Place,
    path: String,
    limit: Duration,
    reads: Arc<Semaphore>,
    tx: watch::Sender<Followed<T>>,
) {
    let mut synced = 0;
    loop {
        let turn = tokio::select! {
            () = tx.closed() => return,
            turn = async { place.link.connected().await; reads.acquire().await } => turn,
        };
        // The session of now: no turn is held while there is none, and no old session while there is no turn.
        let Ok(connected) = timeout(Duration::ZERO, place.link.connected()).await else { continue };
        let Some((generation, client)) = connected else { return };
        // A new session may begin at a server that lags behind what the old one has shown.
        let sync = synced != generation;
        let read = tokio::select! {
            () = tx.closed() => return,
            read = timeout(limit, read(&client, &path, sync)) => read,
        };
        // The watch does not need the client, and a client that is held would keep a closing session open.
        drop(client);
        drop(turn);
        match read {
            Ok(Ok((seen, watcher))) => {
                synced = generation;
                tell(&tx, seen);
                tokio::select! {
                    () = tx.closed() => return,
                    event = watcher.changed() => debug!(path, "watch: {}", event.event_type),
                }
            }
            Ok(Err(error)) => {
                let pause = report(&path, &error);
                tokio::select! {
                    () = tx.closed() => return,
                    () = sleep(pause) => {}
                }
            }
            Err(_) => debug!(path, "no answer to a read with a watch"),
        }
    }
}

/// What is at `path` now, and a watch for the next change of that.
async fn read<T: Watched>(
    client: &Client,
    path: &str,
    sync: bool,
) -> Result<(Seen<T>, OneshotWatcher), Error> {
    if sync {
        client.sync(path).await?;
    }
    loop {
        match T::read(client, path).await {
            Ok((content, watcher)) => return Ok((Seen::There(content), watcher)),
            Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
        if let (None, watcher) = client.check_and_watch_stat(path).await? {
            return Ok((Seen::Absent, watcher));
        }
    }
}

/// Passes on what was read. Content that is the same is no news, but the first one always is.
fn tell<T: PartialEq>(tx: &watch::Sender<Followed<T>>, seen: Seen<T>) {
    let read = tokio::time::Instant::now().into_std();
    tx.send_if_modified(|last| {
        let news = last.seen != seen;
        *last = Followed { seen, read };
        news
    });
}

/// Says why a read failed and how long to wait before the next.
fn report(path: &str, error: &Error) -> Duration {
    if matches!(error, Error::NoAuth | Error::BadArguments(_) | Error::AuthFailed) {
        warn!(path, "cannot be read: {error}");
        REFUSED_PAUSE
    } else {
        debug!(path, "cannot be read: {error}");
        RETRY_PAUSE
    }
}
