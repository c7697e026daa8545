//! The services and how each one's view is followed.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use topology::zookeeper::{Seen, SessionPhase, Store};
use topology::{Layout, ZnodePath};

use crate::metrics::Metrics;
use crate::pool::{Options, Pool};
use crate::view::{Source, Taken, View, Views};

/// Every service that is served, by name.
#[derive(Debug)]
pub(crate) struct Services {
    store: Store,
    layout: Layout,
    options: Arc<Options>,
    metrics: Arc<Metrics>,
    markers: Arc<AtomicU64>,
    served: RwLock<BTreeMap<String, Served>>,
}

#[derive(Debug)]
struct Served {
    pool: Arc<Pool>,
    path: ZnodePath,
}

impl Services {
    /// No services yet.
    pub(crate) fn new(store: Store, layout: Layout, options: Options, metrics: Arc<Metrics>) -> Arc<Self> {
        let (options, markers, served) = (Arc::new(options), Arc::default(), RwLock::default());
        Arc::new(Self { store, layout, options, metrics, markers, served })
    }

    /// The service with this name.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Pool>> {
        let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
        served.get(name).map(|served| served.pool.clone())
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Pool>> {
        let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
        served.values().map(|served| served.pool.clone()).collect()
    }

    /// How long ago what we know was known to be the present: zero while the session is connected.
    pub(crate) fn age(&self) -> Duration {
        let session = *self.store.session().borrow();
        if session.phase == SessionPhase::Connected { Duration::ZERO } else { session.since.elapsed() }
    }

    /// Starts to serve the service at this path.
    pub(crate) fn add(&self, path: &ZnodePath) {
        let mut all = self.served.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = all.get(path.name()) {
            if other.path != *path {
                tracing::warn!(%path, "ignored: {} has the same name", other.path);
                self.metrics.ignored_services.inc();
            }
            return;
        }
        let (tx, views) = watch::channel(None);
        let name = path.name().to_owned();
        let metrics = self.metrics.service(&name);
        let pool = Pool::start(name.clone(), self.options.clone(), views, metrics, self.markers.clone());
        let task =
            tokio::spawn(follow(self.store.clone(), self.layout.clone(), path.clone(), pool.clone(), tx));
        pool.kept_by([task.abort_handle()]);
        all.insert(name, Served { pool, path: path.clone() });
    }

    fn remove(&self, path: &ZnodePath) {
        let mut all = self.served.write().unwrap_or_else(PoisonError::into_inner);
        if all.get(path.name()).is_some_and(|served| served.path == *path)
            && let Some(gone) = all.remove(path.name())
        {
            tracing::info!(service = path.name(), "the service is gone");
            gone.pool.stop();
            self.metrics.forget(path.name());
        }
    }

    /// Serves every child of `parent`, as they come and go; `kept` stay whatever happens.
    pub(crate) async fn discover(self: Arc<Self>, parent: ZnodePath, kept: Vec<ZnodePath>) {
        let mut children = self.store.follow_children(parent.as_str());
        let mut found: Vec<ZnodePath> = Vec::new();
        loop {
            let names = children.borrow_and_update().seen.there().cloned();
            if let Some(names) = names {
                let now: Vec<_> = names.iter().filter_map(|name| parent.child(name).ok()).collect();
                for gone in found.iter().filter(|path| !now.contains(path) && !kept.contains(path)) {
                    self.remove(gone);
                }
                for path in now.iter().filter(|path| !found.contains(path)) {
                    self.add(path);
                }
                found = now;
            }
            if children.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Turns what ZooKeeper shows into views, for ever.
async fn follow(
    store: Store,
    layout: Layout,
    path: ZnodePath,
    pool: Arc<Pool>,
    tx: watch::Sender<Option<Arc<View>>>,
) {
    let mut record = store.follow(&layout.state(&path));
    let mut announced = store.follow(path.as_str());
    let mut views = Views::default();
    loop {
        let taken = {
            let (record, announced) = (record.borrow_and_update(), announced.borrow_and_update());
            match (&record.seen, &announced.seen) {
                (Seen::There(content), _) => Some(views.state(&content.data)),
                (Seen::Absent, Seen::There(content)) => Some(views.path(Some(&content.data))),
                (Seen::Absent, Seen::Absent) => Some(views.path(None)),
                (Seen::NotYet, _) | (Seen::Absent, Seen::NotYet) => None,
            }
        };
        match taken {
            Some(Taken::New(view)) => publish(&pool, &tx, view),
            Some(Taken::Refused(why)) => {
                tracing::warn!(service = pool.name, %path, "the last good view stays: {why}");
                pool.metrics.refused_views.inc();
                pool.in_trouble(&path, &why);
            }
            Some(Taken::Same) | None => {}
        }
        let changed = tokio::select! {
            changed = record.changed() => changed,
            changed = announced.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

fn publish(pool: &Pool, tx: &watch::Sender<Option<Arc<View>>>, view: Arc<View>) {
    let before = tx.borrow().clone();
    let moved = before.is_none_or(|before| before.primary != view.primary || before.source != view.source);
    let (service, epoch, source) = (&pool.name, view.epoch, view.source.as_str());
    if moved {
        tracing::info!(service, epoch, source, "Primary Redis is {}", view.primary);
        if view.source == Source::Path {
            tracing::warn!(service, "no monitor has decided yet: the announcement alone is followed");
        }
    } else {
        tracing::debug!(service, epoch, source, in_sync = view.in_sync.len(), "a new view");
    }
    pool.metrics.epoch.set(epoch);
    tx.send_replace(Some(view));
}
