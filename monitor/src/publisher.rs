//! What the monitor writes to ZooKeeper: the lead, publications under it, its own znode, its opinions, the history.
//!
//! Every publication is one transaction: `check(leader)`, the record at the version read, and the announcement.

use failover::group::Publication;
use failover::{Order, PublishOutcome};
use serde_json::{Value, json};
use topology::zookeeper::{ANY_VERSION, Mode, Op, PublishError, ReadError, Store};
use topology::{Layout, LeaderRecord, MonitorRecord, PausedRecord, Phase, ZnodePath};
use tracing::{debug, info, warn};

use crate::fault::Step;
use crate::identity;

/// Decisions that are kept.
const HISTORY_MAX: usize = 100;
/// A record of the history is no longer than this.
const RECORD_MAX: usize = 2048;

/// Attempts to write one.
const HISTORY_TRIES: usize = 3;

/// Writes under one session: nothing that was decided in it is applied under a later one.
#[derive(Clone)]
pub(crate) struct Publisher {
    store: Store,
    layout: Layout,
}

/// Why a monitor's znode could not be made.
#[derive(Debug)]
pub(crate) enum NameError {
    /// Another process holds the name.
    Taken(MonitorRecord),
    /// ZooKeeper did not do it.
    Store(PublishError),
}

impl Publisher {
    pub(crate) fn new(store: Store, layout: Layout) -> Self {
        Self { store, layout }
    }

    /// Carries out a publication. After an error the outcome for the core is [`PublishOutcome::Failed`].
    pub(crate) async fn publish(
        &self,
        path: &ZnodePath,
        publication: &Publication,
    ) -> Result<PublishOutcome, PublishError> {
        match (publication.next.phase, publication.announce.is_some()) {
            (Phase::Promoting, _) => Step::Publish.reached(),
            (Phase::Serving, true) => Step::Announce.reached(),
            (Phase::Serving, false) => {}
        }
        let versions = self.transaction(path, publication).await?;
        let version = |at: usize| versions.get(at).copied();
        Ok(PublishOutcome::Done { state: version(1).unwrap_or(0), path: version(2) })
    }

    async fn transaction(
        &self,
        path: &ZnodePath,
        publication: &Publication,
    ) -> Result<Vec<i32>, PublishError> {
        let (state, record) = (self.layout.state(path), publication.next.to_json());
        let mut ops = vec![Op::check(self.layout.leader(), publication.reign)];
        ops.push(match publication.expected {
            Some(version) => Op::set(state, record, version),
            None => {
                self.store.ensure(self.layout.service(path).as_str()).await?;
                Op::create(state, record)
            }
        });
        if let Some((topology, expected)) = &publication.announce {
            ops.push(match expected {
                Some(version) => Op::set(path.as_str(), topology.to_json(), *version),
                None => {
                    self.store.create_parents(path.as_str()).await?;
                    Op::create(path.as_str(), topology.to_json())
                }
            });
        }
        self.store.multi(ops).await
    }

    /// R1: whether the lead and the record under which an order was given still stand.
    pub(crate) async fn stands(&self, path: &ZnodePath, order: &Order) -> bool {
        let checks = vec![
            Op::check(self.layout.leader(), order.reign),
            Op::check(self.layout.state(path), order.version),
        ];
        self.store.multi(checks).await.is_ok()
    }

    /// Takes the lead at this version, or creates the record. Gives the version of the reign.
    pub(crate) async fn take_lead(
        &self,
        me: &LeaderRecord,
        version: Option<i32>,
    ) -> Result<i32, PublishError> {
        let (leader, data) = (self.layout.leader(), serde_json::to_vec(me).unwrap_or_default());
        match version {
            Some(version) => self.store.set(&leader, &data, version).await,
            None => self.store.create(&leader, &data, Mode::Persistent).await.map(|()| 0),
        }
    }

    /// Gives the lead away: an empty name.
    pub(crate) async fn give_up_lead(&self, reign: i32) -> Result<i32, PublishError> {
        let nobody = LeaderRecord { name: String::new(), instance: String::new() };
        self.take_lead(&nobody, Some(reign)).await
    }

    /// Has the service be paused, or not; false if it was so already.
    pub(crate) async fn pause(
        &self,
        path: &ZnodePath,
        wanted: Option<&PausedRecord>,
    ) -> Result<bool, PublishError> {
        let znode = self.layout.paused(path);
        let written = match wanted {
            Some(record) => {
                let data = serde_json::to_vec(record).unwrap_or_default();
                self.store.create_parents(&znode).await?;
                self.store.create(&znode, &data, Mode::Persistent).await
            }
            None => self.store.delete(&znode, ANY_VERSION).await,
        };
        match written {
            Ok(()) => Ok(true),
            Err(PublishError::Exists { .. }) if wanted.is_some() => Ok(false),
            Err(PublishError::Absent { .. }) if wanted.is_none() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the ephemeral znode of this monitor, or observer.
    pub(crate) async fn register(
        &self,
        name: &str,
        me: &MonitorRecord,
        observes: bool,
    ) -> Result<(), NameError> {
        let refused = |why: String| NameError::Store(PublishError::Refused { path: name.to_owned(), why });
        let (folder, path) = match observes {
            true => (self.layout.observers(), self.layout.observer(name)),
            false => (self.layout.monitors(), self.layout.monitor(name)),
        };
        let path = path.map_err(|e| refused(e.to_string()))?;
        self.store.ensure(&folder).await.map_err(NameError::Store)?;
        let data = serde_json::to_vec(me).unwrap_or_default();
        match self.store.create(&path, &data, Mode::Ephemeral).await {
            Ok(()) => Ok(()),
            Err(PublishError::Exists { path }) => match self.store.get(&path).await {
                Ok(Some(found)) => match serde_json::from_slice::<MonitorRecord>(&found.data) {
                    // Our own, of a session before this one, or of a request whose answer was lost.
                    Ok(mine) if mine.instance == me.instance => {
                        let why = "its own znode of an earlier session is being replaced";
                        let gone = self.store.delete(&path, found.version).await;
                        let why = gone.err().map_or(why.to_owned(), |error| error.to_string());
                        Err(NameError::Store(PublishError::Unreachable(why)))
                    }
                    Ok(other) if other.process.as_deref().is_some_and(identity::is_gone) => {
                        info!("the name `{name}` was held by {}, which is gone", other.host);
                        let gone = self.store.delete(&path, found.version).await;
                        let why = gone.err().map_or("the name is being freed".to_owned(), |e| e.to_string());
                        Err(NameError::Store(PublishError::Unreachable(why)))
                    }
                    Ok(other) => Err(NameError::Taken(other)),
                    Err(error) => Err(refused(format!("it holds no monitor's record: {error}"))),
                },
                Ok(None) => {
                    Err(NameError::Store(PublishError::Unreachable("the name is being freed".into())))
                }
                Err(error) => Err(NameError::Store(PublishError::Unreachable(error.to_string()))),
            },
            Err(error) => Err(NameError::Store(error)),
        }
    }

    /// Advances the beat of this monitor (R12).
    pub(crate) async fn beat(&self, name: &str, me: &MonitorRecord) {
        let Ok(path) = self.layout.monitor(name) else { return };
        let data = serde_json::to_vec(me).unwrap_or_default();
        if let Err(error) = self.store.set(&path, &data, ANY_VERSION).await {
            debug!(%error, "the beat was not written");
        }
    }

    /// Writes which backends of a service this monitor cannot reach (R10). The `first` time in a session the znode may still
    /// be that of the session before, with which it would vanish.
    pub(crate) async fn opinion(
        &self,
        name: &str,
        service: &str,
        unreachable: &Value,
        first: bool,
    ) -> Result<(), PublishError> {
        let refused =
            |e: topology::ZnodePathError| PublishError::Refused { path: service.into(), why: e.to_string() };
        let path = self.layout.view(name, service).map_err(refused)?;
        let data = unreachable.to_string().into_bytes();
        if first {
            match self.store.delete(&path, ANY_VERSION).await {
                Ok(()) | Err(PublishError::Absent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match self.store.set(&path, &data, ANY_VERSION).await {
            Err(PublishError::Absent { .. }) => {
                self.store.create_parents(&path).await?;
                self.store.create(&path, &data, Mode::Ephemeral).await
            }
            other => other.map(|_| ()),
        }
    }

    /// Puts a decision at the head of the service's history.
    pub(crate) async fn remember(&self, path: &ZnodePath, record: Value) {
        let record = shortened(record);
        let mut written = Ok(());
        for _ in 0..HISTORY_TRIES {
            // Somebody else may write at the same time.
            written = self.append(path, record.clone()).await;
            if written.is_ok() {
                return;
            }
        }
        if let Err(error) = written {
            let record = record.to_string();
            warn!(service = path.name(), %error, record, "the history was not written");
        }
    }

    async fn append(&self, path: &ZnodePath, record: Value) -> Result<(), String> {
        let history = self.layout.history(path);
        let found = self.store.get(&history).await.map_err(|e: ReadError| e.to_string())?;
        let old = found
            .as_ref()
            .and_then(|f| serde_json::from_slice::<Vec<Value>>(&f.data).ok())
            .unwrap_or_default();
        let all: Vec<Value> = std::iter::once(record).chain(old).take(HISTORY_MAX).collect();
        let data = json!(all).to_string().into_bytes();
        let written = match found {
            Some(found) => self.store.set(&history, &data, found.version).await.map(|_| ()),
            None => self.store.create(&history, &data, Mode::Persistent).await,
        };
        written.map_err(|e| e.to_string())
    }
}

/// A record that fits: of a large group the verdicts are left out.
fn shortened(mut record: Value) -> Value {
    if record.to_string().len() > RECORD_MAX
        && let Some(fields) = record.as_object_mut()
    {
        fields.remove("candidates");
        fields.insert("candidates_left_out".to_owned(), json!(true));
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_a_large_group_is_kept_without_its_verdicts() {
        let record = |members: usize| {
            let verdict = json!({"addr": "127.0.0.1:6379", "eligible": false, "why": "does not answer"});
            json!({"epoch": 7, "candidates": vec![verdict; members]})
        };
        assert_eq!(shortened(record(3)), record(3));
        assert_eq!(shortened(record(100)), json!({"epoch": 7, "candidates_left_out": true}));
    }
}
