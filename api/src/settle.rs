//! What became of a batch whose answer never came (R17).
//!
//! One task per service takes the lost batches, on a connection of its own, so that waiting for replicas holds up
//! nobody else. In each round, under one view: the lost connections are cut if the primary is still the same
//! process; one script per batch writes the barrier and returns the marker; once every replica in sync has confirmed
//! the barrier, a batch that is not in this history is sent again, and one that is there is acknowledged (with durability
//! `async` that needs no confirmation). Whatever goes wrong, the round begins
//! again, under the next view if there is one, until nobody waits for the outcome any more.

use std::sync::Arc;
use std::time::Duration;

use failover::confirm::{Durability, Next, Settled, settle};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use wire::{Command, Link, LinkError, Reply, cmd};

use crate::flight::Inquiry;
use crate::pool::{Lost, Pool};
use crate::queue::{Acknowledged, Written};
use crate::script;
use crate::view::View;

/// How long one step may take before the connection is given up and the round begins again.
const STEP: Duration = Duration::from_millis(500);

/// How often the replicas are asked before the round begins again, with what was lost meanwhile.
const LOOKS: u32 = 4;

/// Before a round is tried again.
const PAUSE: Duration = Duration::from_millis(1);

/// How long the connection is kept when there is nothing to settle.
const IDLE: Duration = Duration::from_secs(5);

/// Why a round ended early; all of it is tried again.
#[derive(Debug, thiserror::Error)]
enum Again {
    #[error("no connection: {0}")]
    Open(#[from] wire::OpenError),
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
    let mut link: Option<Link> = None;
    let mut views = pool.views.clone();
    loop {
        while let Ok(next) = lost.try_recv() {
            pending.push(next);
        }
        pending.retain(|lost| lost.batch.writes.iter().any(|write| !write.done.is_closed()));
        if pending.is_empty() {
            match timeout(IDLE, lost.recv()).await {
                Ok(Some(next)) => pending.push(next),
                Ok(None) => return,
                Err(_) => link = None,
            }
            continue;
        }
        let view = views.borrow_and_update().clone();
        let Some(view) = view else { return };
        let round = round(&pool, &view, &mut link, &mut pending);
        let ended = tokio::select! {
            ended = round => Some(ended),
            () = another_view(&mut views) => None,
        };
        match ended {
            Some(Ok(())) => {}
            // What was on its way on the link when the view changed would be taken for the next answer.
            None => link = None,
            Some(Err(why)) => {
                tracing::debug!(service = pool.name, "settling: {why}");
                pool.in_trouble(&view.primary, &why);
                if !matches!(why, Again::Refused(_) | Again::NotHere | Again::Behind | Again::TooFew) {
                    link = None;
                }
                // A server that is gone need not be asked so often; another view is acted on at once.
                let pause = match why {
                    Again::TooFew => 50 * PAUSE,
                    Again::Open(_) => 5 * PAUSE,
                    Again::OtherProcess
                    | Again::Link(_)
                    | Again::Slow
                    | Again::Refused(_)
                    | Again::NotHere
                    | Again::Behind => PAUSE,
                };
                let _ = timeout(pause, another_view(&mut views)).await;
            }
        }
    }
}

async fn another_view(views: &mut watch::Receiver<Option<Arc<View>>>) {
    if views.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// One attempt at everything that is pending, under one view. What is settled leaves `pending`.
async fn round(
    pool: &Pool,
    view: &Arc<View>,
    link: &mut Option<Link>,
    pending: &mut Vec<Lost>,
) -> Result<(), Again> {
    if link.as_ref().is_none_or(|link| link.run_id() != Some(view.run_id.as_str())) {
        *link = None;
        let limit = pool.options.connect_timeout;
        let login = (pool.options.login)(&view.primary);
        let fresh = Link::open(&view.primary, &login, "albireo-api", limit).await?;
        if fresh.run_id() != Some(view.run_id.as_str()) {
            return Err(Again::OtherProcess);
        }
        *link = Some(fresh);
    }
    let Some(link) = link else { return Err(Again::OtherProcess) };
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
