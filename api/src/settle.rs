//! What became of a batch whose answer never came (R17).
//!
//! One task per service takes the lost batches, on connections of its own, so that waiting for replicas holds up
//! nobody else. In each round, under one view: the lost connections are cut if the primary is still the same
//! process; one script per batch writes the barrier and returns the marker; once every replica in sync has confirmed
//! the barrier, a batch that is not in this history is sent again, and one that is there is acknowledged (with durability
//! `async` that needs no confirmation). Whatever goes wrong, the round begins
//! again, under the next view if there is one, until nobody waits for the outcome any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use failover::confirm::{Durability, Next, Settled, settle};
use tokio::sync::{Mutex, MutexGuard, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use topology::Endpoint;
use wire::{Command, Link, LinkError, OpenError, Reply, cmd};

use crate::flight::Inquiry;
use crate::pool::{Lost, Pool};
use crate::queue::{Acknowledged, Written};
use crate::script;
use crate::view::{Source, View};

/// How long one step may take before the connection is given up and the round begins again.
const STEP: Duration = Duration::from_millis(500);

/// How often the replicas are asked before the round begins again, with what was lost meanwhile.
const LOOKS: u32 = 4;

/// Before a round is tried again.
const PAUSE: Duration = Duration::from_millis(1);

/// How often a connection that is kept is looked after.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Why a round ended early; all of it is tried again.
#[derive(Debug, thiserror::Error)]
enum Again {
    #[error("no connection: {0}")]
    Open(#[from] OpenError),
    #[error("another process answers there")]
    OtherProcess,
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("no answer in time")]
    Slow,
    #[error("{0}")]
    Refused(String),
    #[error("it is not the primary under this epoch (any more)")]
    NotHere,
    #[error("not every replica in sync has confirmed it")]
    Behind,
    #[error("too few replicas are in sync")]
    TooFew,
}

/// Settles what comes, for as long as the service lives.
pub(crate) async fn run(pool: Arc<Pool>, mut lost: mpsc::UnboundedReceiver<Lost>) {
    let mut pending: Vec<Lost> = Vec::new();
    let mut links = Links::default();
    let mut views = pool.views.clone();
    loop {
        while let Ok(next) = lost.try_recv() {
            pending.push(next);
        }
        pending.retain(|lost| lost.batch.writes.iter().any(|write| !write.done.is_closed()));
        let view = views.borrow_and_update().clone();
        if let Some(view) = &view {
            links.tend(&pool, view);
        }
        if pending.is_empty() {
            tokio::select! {
                next = lost.recv() => match next {
                    Some(next) => pending.push(next),
                    None => return,
                },
                () = another_view(&mut views) => {}
            }
            continue;
        }
        let Some(view) = view else { return };
        let ended = tokio::select! {
            ended = attempt(&pool, &view, &links, &mut pending) => ended,
            // What was on its way when the view changed would be taken for the next answer: its link is dropped.
            () = another_view(&mut views) => continue,
        };
        let Err(why) = ended else { continue };
        tracing::debug!(service = pool.name, "settling: {why}");
        pool.in_trouble(&view.primary, &why);
        // A server that is gone need not be asked so often; another view is acted on at once.
        let pause = match why {
            Again::TooFew => 50 * PAUSE,
            Again::Open(_) | Again::OtherProcess => 5 * PAUSE,
            Again::Link(_) | Again::Slow | Again::Refused(_) | Again::NotHere | Again::Behind => PAUSE,
        };
        let _ = timeout(pause, another_view(&mut views)).await;
    }
}

/// One attempt over the connection that is kept, or over a new one.
async fn attempt(
    pool: &Arc<Pool>,
    view: &Arc<View>,
    links: &Links,
    pending: &mut Vec<Lost>,
) -> Result<(), Again> {
    let mut place = links.place(&view.primary);
    let kept = place.as_mut().and_then(|place| place.take());
    let mut link = match kept.filter(|link| link.run_id() == Some(view.run_id.as_str())) {
        Some(link) => link,
        None => open(pool, &view.primary).await?,
    };
    if link.run_id() != Some(view.run_id.as_str()) {
        return Err(Again::OtherProcess);
    }
    let ended = round(pool, view, &mut link, pending).await;
    let goes_on =
        matches!(ended, Ok(()) | Err(Again::Refused(_) | Again::NotHere | Again::Behind | Again::TooFew));
    if let Some(mut place) = place.filter(|_| goes_on) {
        *place = Some(link);
    }
    ended
}

async fn open(pool: &Pool, server: &Endpoint) -> Result<Link, OpenError> {
    let login = (pool.options.login)(server);
    Link::open(server, &login, "albireo-api", pool.options.connect_timeout).await
}

/// A connection to each server that is the primary or may be the next one. They are opened beforehand, for over TLS that takes
/// milliseconds, and a server that was just promoted has others to greet.
#[derive(Default)]
struct Links(BTreeMap<Endpoint, Kept>);

struct Kept {
    link: Arc<Mutex<Option<Link>>>,
    keeper: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Links {
    /// Begins to keep those of this view, and lets go of all others.
    fn tend(&mut self, pool: &Arc<Pool>, view: &View) {
        let wanted = || view.in_sync.iter().map(|entry| &entry.addr).chain([&view.primary]);
        self.0.retain(|server, _| wanted().any(|wanted| wanted == server));
        for server in wanted().filter(|_| view.source == Source::State) {
            self.0.entry(server.clone()).or_insert_with(|| {
                let link = Arc::default();
                let keeper = tokio::spawn(keep(pool.clone(), server.clone(), Arc::clone(&link)));
                Kept { link, keeper }
            });
        }
    }

    /// Where the one to this server is, unless its keeper is looking after it just now. Whoever holds the place uses the
    /// connection, and nobody opens another one meanwhile.
    fn place(&self, server: &Endpoint) -> Option<MutexGuard<'_, Option<Link>>> {
        self.0.get(server)?.link.try_lock().ok()
    }
}

/// Keeps a connection open as long as nobody uses it, and sees to it that it leads somewhere.
async fn keep(pool: Arc<Pool>, server: Endpoint, kept: Arc<Mutex<Option<Link>>>) {
    loop {
        if let Ok(mut place) = kept.try_lock() {
            let lives = match place.take() {
                Some(mut link) => call(&mut link, &[cmd!["PING"]]).await.is_ok().then_some(link),
                None => None,
            };
            *place = match lives {
                Some(link) => Some(link),
                // Of one that does not tell which process it is nothing can be learned.
                None => open(&pool, &server).await.ok().filter(|link| link.run_id().is_some()),
            };
        }
        sleep(LOOK_AFTER).await;
    }
}

async fn another_view(views: &mut watch::Receiver<Option<Arc<View>>>) {
    if views.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Everything that is pending, under one view. What is settled leaves `pending`.
async fn round(pool: &Pool, view: &Arc<View>, link: &mut Link, pending: &mut Vec<Lost>) -> Result<(), Again> {
    cut(pool, view, link, pending).await?;
    let markers = ask(pool, view, link, pending).await?;
    if pending.is_empty() {
        return Ok(());
    }
    confirm(pool, view, link).await?;
    // The markers were read in one step with barriers that are now confirmed.
    let left = settle_all(pool, view, pending, markers, true);
    if left.is_empty() { Ok(()) } else { Err(Again::TooFew) }
}

/// Step 1: cuts the lost connections at the process that they led to, and waits for the answer. What waits in them
/// is then never executed.
async fn cut(pool: &Pool, view: &View, link: &mut Link, pending: &mut Vec<Lost>) -> Result<(), Again> {
    let here = |lost: &Lost| !lost.cut && *lost.batch.run_id == *view.run_id;
    let kill = |lost: &Lost| lost.batch.client_id.map(|id| cmd!["CLIENT", "KILL", "ID", id.to_string()]);
    let due: Vec<bool> = pending.iter().map(here).collect();
    let kills = pending.iter().zip(&due).filter(|(_, due)| **due).filter_map(|(lost, _)| kill(lost));
    let mut replies = call(link, &kills.collect::<Vec<_>>()).await?.into_iter();
    for (lost, due) in pending.iter_mut().zip(due) {
        if due && lost.batch.client_id.is_some() {
            lost.cut = replies.next().is_some_and(|reply| matches!(reply, Reply::Int(_)));
        }
    }
    // Without the right to cut it nothing can be said while that process lives.
    for at in (0..pending.len()).rev() {
        if here(&pending[at]) {
            let why = "the connection was lost and could not be cut (CLIENT KILL is not allowed)";
            give_up(pool, pending.swap_remove(at), why);
        }
    }
    Ok(())
}

/// Step 2: the barrier and the markers. Settles what can be settled at once; returns the markers of what is left.
async fn ask(
    pool: &Pool,
    view: &Arc<View>,
    link: &mut Link,
    pending: &mut Vec<Lost>,
) -> Result<Vec<Option<u64>>, Again> {
    let scripts: Vec<_> = pending.iter().map(|lost| script::settle(view.epoch, &lost.batch.marker)).collect();
    let replies = call(link, &scripts).await?;
    let markers: Vec<_> = replies.iter().map(marker).collect::<Result<_, _>>()?;
    Ok(settle_all(pool, view, pending, markers, false))
}

/// Settles what can be, by the markers, and returns the markers of what is left in `pending`.
fn settle_all(
    pool: &Pool,
    view: &Arc<View>,
    pending: &mut Vec<Lost>,
    markers: Vec<Option<u64>>,
    confirmed: bool,
) -> Vec<Option<u64>> {
    let durability = pool.options.durability;
    let mut left = Vec::new();
    for (lost, marker) in std::mem::take(pending).into_iter().zip(markers) {
        match settle(marker, lost.batch.number, durability, confirmed) {
            // With too few copies nothing is acknowledged; the set may grow before the deadline.
            Settled::Applied if durability == Durability::Sync && !view.admits() => {
                left.push(marker);
                pending.push(lost);
            }
            Settled::Applied => {
                pool.metrics.settled_applied.inc();
                for write in lost.batch.writes {
                    let acknowledged = Acknowledged { view: view.clone(), durability };
                    let _ = write.done.send(Written::Applied(acknowledged));
                }
            }
            Settled::NotApplied => {
                pool.metrics.settled_not_applied.inc();
                pool.queue.put_back(lost.batch.writes);
            }
            Settled::ConfirmFirst => {
                left.push(marker);
                pending.push(lost);
            }
            Settled::Unknown => give_up(pool, lost, "the connection was lost, and so was its marker"),
        }
    }
    left
}

fn marker(reply: &Reply) -> Result<Option<u64>, Again> {
    match reply {
        Reply::Error(text) => Err(Again::Refused(text.clone())),
        // A marker that is no number says that the batch was applied in part.
        Reply::Nil | Reply::Status(_) | Reply::Bulk(_) | Reply::Int(_) | Reply::Array(_) => {
            Ok(reply.unsigned())
        }
    }
}

/// Step 3: every replica in sync has the barrier, and the epoch is still the same.
async fn confirm(pool: &Pool, view: &Arc<View>, link: &mut Link) -> Result<(), Again> {
    let mut inquiry = Inquiry::new(view.clone());
    for _ in 0..LOOKS {
        let replies = call(link, &inquiry.questions()).await?;
        pool.metrics.looks.inc();
        match replies.into_iter().filter_map(|reply| inquiry.answered(reply)).last() {
            Some(Next::Acknowledge) => return Ok(()),
            Some(Next::WaitFor(_)) => sleep(PAUSE).await,
            Some(Next::Settle) | None => {
                return Err(inquiry.refused.take().map_or(Again::NotHere, Again::Refused));
            }
        }
    }
    Err(Again::Behind)
}

async fn call(link: &mut Link, pipeline: &[Command]) -> Result<Vec<Reply>, Again> {
    if pipeline.is_empty() {
        return Ok(Vec::new());
    }
    Ok(timeout(STEP, link.call(pipeline)).await.map_err(|_| Again::Slow)??)
}

fn give_up(pool: &Pool, lost: Lost, why: &str) {
    pool.metrics.settled_unknown.inc();
    for write in lost.batch.writes {
        let _ = write.done.send(Written::Indeterminate(why.to_owned()));
    }
}
