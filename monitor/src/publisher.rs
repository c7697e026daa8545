//! What the monitor writes to ZooKeeper: the lead, publications under it, its own znode, its opinions, the history.
//!
//! Every publication is one transaction: `check(leader)`, the record at the version read, and the announcement.

use failover::group::Publication;
use failover::{Order, PublishOutcome};
use serde_json::{Value, json};
use topology::zookeeper::{ANY_VERSION, Mode, Op, PublishError, Queue, ReadError, Store};
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
        let queue = match (publication.next.phase, publication.announce.is_some()) {
            (Phase::Promoting, _) => {
                Step::Publish.reached();
                Queue::Urgent
            }
            (Phase::Serving, true) => {
                Step::Announce.reached();
                Queue::Urgent
            }
            (Phase::Serving, false) => Queue::Usual,
        };
        let queued = Self::new(self.store.queued(queue), self.layout.clone());
        let versions = queued.transaction(path, publication).await?;
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
        // One that names a server may be what the other monitor waits for; the first ones, of every service, are many.
        let usual = first && unreachable.as_array().is_some_and(Vec::is_empty);
        let store = self.store.queued(if usual { Queue::Usual } else { Queue::Urgent });
        if first {
            match store.delete(&path, ANY_VERSION).await {
                Ok(()) | Err(PublishError::Absent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match store.set(&path, &data, ANY_VERSION).await {
            Err(PublishError::Absent { .. }) => {
                store.create_parents(&path).await?;
                store.create(&path, &data, Mode::Ephemeral).await
            }
            other => other.map(|_| ()),
        }
    }

    /// Takes back what was written.
    pub(crate) async fn no_opinion(&self, name: &str, service: &str) -> Result<(), PublishError> {
        let refused =
            |e: topology::ZnodePathError| PublishError::Refused { path: service.into(), why: e.to_string() };
        let path = self.layout.view(name, service).map_err(refused)?;
        match self.store.queued(Queue::Urgent).delete(&path, ANY_VERSION).await {
            Err(PublishError::Absent { .. }) => Ok(()),
            done => done,
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
        let store = self.store.queued(Queue::Usual);
        let found = store.get(&history).await.map_err(|e: ReadError| e.to_string())?;
        let old = found
            .as_ref()
            .and_then(|f| serde_json::from_slice::<Vec<Value>>(&f.data).ok())
            .unwrap_or_default();
        let mut record = record;
        let replaced = usize::from(counted(&mut record, old.first()));
        let old = old.into_iter().skip(replaced);
        let all: Vec<Value> = std::iter::once(record).chain(old).take(HISTORY_MAX).collect();
        let data = json!(all).to_string().into_bytes();
        let written = match found {
            Some(found) => store.set(&history, &data, found.version).await.map(|_| ()),
            None => store.create(&history, &data, Mode::Persistent).await,
        };
        written.map_err(|e| e.to_string())
    }
}

/// A record that fits: of a large group the last of what was seen and of the verdicts are left out, of a long reason the
/// end.
fn shortened(mut record: Value) -> Value {
    let excess = |record: &Value| record.to_string().len().saturating_sub(RECORD_MAX);
    if excess(&record) == 0 {
        return record;
    }
    if let Some(fields) = record.as_object_mut() {
        fields.insert("shortened".to_owned(), json!(true));
    }
    while excess(&record) > 0 {
        let length = |list: &str| record[list].as_array().map_or(0, Vec::len);
        let longer = if length("candidates") > length("saw") { "candidates" } else { "saw" };
        if record[longer].as_array_mut().and_then(Vec::pop).is_none() {
            break;
        }
    }
    let excess = excess(&record);
    if excess > 0
        && let Some(why) = record["why"].as_str()
    {
        // What is escaped takes more than one byte of the text.
        let keep = why.len().saturating_sub(excess + 3);
        let end = (0..=keep).rev().find(|at| why.is_char_boundary(*at)).unwrap_or(0);
        record["why"] = json!(format!("{}...", &why[..end]));
    }
    record
}

/// The same refusal again is one record that counts.
fn counted(record: &mut Value, last: Option<&Value>) -> bool {
    let same = |key: &str| last.is_some_and(|last| last[key] == record[key]);
    let again = record["refused"] == true && ["what", "why", "to", "epoch"].into_iter().all(same);
    if again && let (Some(last), Some(fields)) = (last, record.as_object_mut()) {
        fields.insert("times".to_owned(), json!(last["times"].as_u64().unwrap_or(1).saturating_add(1)));
        fields.insert("first_ms".to_owned(), last.get("first_ms").unwrap_or(&last["when_ms"]).clone());
    }
    again
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_fits_whatever_it_is_about() {
        let record = |members: usize, why: &str| {
            let verdict = json!({"addr": "127.0.0.1:6379", "eligible": false, "why": "does not answer"});
            let saw = json!({"who": "127.0.0.1:6379", "saw": "has lost it, asked 3 ms before", "offset": 1});
            json!({"epoch": 7, "why": why, "candidates": vec![verdict; members], "saw": vec![saw; members + 2]})
        };
        assert_eq!(shortened(record(5, "gone")), record(5, "gone"));
        for (members, why) in
            [(100, "gone".to_owned()), (3, "long ".repeat(1000)), (100, "\u{e4}\"".repeat(4000))]
        {
            let short = shortened(record(members, &why));
            assert!(short.to_string().len() <= RECORD_MAX, "{} {members}", short.to_string().len());
            assert_eq!((&short["epoch"], &short["shortened"]), (&json!(7), &json!(true)));
        }
        let large = shortened(record(100, "gone"));
        assert!(large["candidates"].as_array().is_some_and(|list| list.len() > 3), "as many as fit: {large}");
        assert_eq!(large["why"], "gone");
    }

    #[test]
    fn a_refusal_that_is_repeated_is_counted() {
        let refusal = |when: u64, why: &str| json!({"what": "failover refused", "why": why, "when_ms": when, "refused": true, "epoch": 3, "to": null});
        let mut second = refusal(20, "nobody");
        assert!(counted(&mut second, Some(&refusal(10, "nobody"))));
        let mut third = refusal(30, "nobody");
        assert!(counted(&mut third, Some(&second)));
        assert_eq!(
            (&third["times"], &third["first_ms"], &third["when_ms"]),
            (&json!(3), &json!(10), &json!(30))
        );
        assert!(!counted(&mut refusal(40, "other"), Some(&third)));
        assert!(!counted(&mut refusal(40, "nobody"), None));
        let failover = json!({"what": "failover", "why": "gone", "epoch": 3, "to": null});
        assert!(!counted(&mut failover.clone(), Some(&failover)), "each failover is one of its own");
    }
}
