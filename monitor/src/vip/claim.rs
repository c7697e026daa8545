//! The claim: an ephemeral znode, so that at most one agent anywhere holds the address, and ZooKeeper lets it go when that
//! agent's session is over.
//!
//! A renewal *writes*, it does not only read: a server that was cut off from the ensemble still answers reads, and its clients
//! would believe in a session that the others have ended.

use std::time::Duration;

use failover::Time;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use topology::zookeeper::{Mode, PublishError, ReadError, Seen as Znode, Store, Versioned};

use super::agent::Seen;
use crate::clock::Clock;

/// Between two looks at what became of a request.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What stands in the znode. For other agents, and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Which agent in which session; drawn anew at every start.
    instance: String,
    /// The host, for people.
    host: String,
    /// The kernel whose address it is: a boot and a network namespace.
    network: String,
    service: String,
    epoch: u64,
}

/// Who claims, what, and where.
#[derive(Clone)]
pub(crate) struct Claims {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    /// The znode.
    pub(crate) path: String,
    /// Random.
    pub(crate) instance: String,
    pub(crate) host: String,
    pub(crate) network: String,
    pub(crate) service: String,
}

/// What became of a request, for certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The claim is ours, at this version, by a request that was sent then.
    Ours {
        /// When it was sent.
        sent: Time,
        /// The znode's version.
        version: i32,
    },
    /// It is not ours, and nothing of this will make it ours.
    NotOurs(String),
    /// Nothing is known; try again.
    Open(String),
}

impl Claims {
    /// What a look at the znode means in the session of this generation.
    pub(crate) fn read(&self, generation: u64, followed: &Znode<Versioned>) -> Seen {
        let znode = match followed {
            Znode::NotYet => return Seen::Unknown,
            Znode::Absent => return Seen::Free,
            Znode::There(znode) => znode,
        };
        let Ok(record) = serde_json::from_slice::<Record>(&znode.data) else {
            return Seen::Other("somebody who is no agent".to_owned());
        };
        if record.instance == self.instance_in(generation) {
            Seen::Own
        } else if record.network == self.network {
            // Two agents never run for one address in one network (`Alone`), so that one has ended.
            Seen::Orphan
        } else {
            Seen::Other(record.host)
        }
    }

    /// Claims the address; never [`Outcome::Open`].
    pub(crate) async fn claim(&self, generation: u64, epoch: u64) -> Outcome {
        let store = self.store.at(generation);
        if let Err(error) = store.create_parents(&self.path).await {
            return Outcome::NotOurs(error.to_string());
        }
        let sent = self.clock.now();
        match store.create(&self.path, &self.data(generation, epoch), Mode::Ephemeral).await {
            Ok(()) => Outcome::Ours { sent, version: 0 },
            Err(PublishError::Unknown(_)) => self.settle(&store, generation, sent).await,
            Err(error) => Outcome::NotOurs(error.to_string()),
        }
    }

    /// Looks until it is known what became of a claim that was not answered.
    async fn settle(&self, store: &Store, generation: u64, sent: Time) -> Outcome {
        loop {
            match self.look(store, generation).await {
                Ok(Some(version)) => return Outcome::Ours { sent, version },
                Ok(None) => return Outcome::NotOurs("somebody else claimed it first".to_owned()),
                Err(ReadError::Unreachable(_)) => sleep(LOOK_AGAIN).await,
                Err(error) => return Outcome::NotOurs(error.to_string()),
            }
        }
    }

    /// The version of our claim; `None` if it is not ours or not there.
    async fn look(&self, store: &Store, generation: u64) -> Result<Option<i32>, ReadError> {
        let found = store.get(&self.path).await?;
        let ours = found.filter(|znode| {
            let record = serde_json::from_slice::<Record>(&znode.data);
            record.is_ok_and(|record| record.instance == self.instance_in(generation))
        });
        Ok(ours.map(|znode| znode.version))
    }

    /// Renews the claim that was last seen at this version.
    pub(crate) async fn renew(&self, generation: u64, version: i32, epoch: u64) -> Outcome {
        let store = self.store.at(generation);
        let data = self.data(generation, epoch);
        let mut version = version;
        // An earlier renewal without an answer may have moved the version.
        for _ in 0..2 {
            let sent = self.clock.now();
            match store.set(&self.path, &data, version).await {
                Ok(version) => return Outcome::Ours { sent, version },
                Err(PublishError::Superseded { .. }) => match self.look(&store, generation).await {
                    Ok(Some(now)) => version = now,
                    Ok(None) => return Outcome::NotOurs("the claim was removed by somebody".to_owned()),
                    Err(error) => return Outcome::Open(error.to_string()),
                },
                Err(error @ (PublishError::Absent { .. } | PublishError::SessionOver { .. })) => {
                    return Outcome::NotOurs(error.to_string());
                }
                Err(error) => return Outcome::Open(error.to_string()),
            }
        }
        Outcome::Open("the version of the claim moves".to_owned())
    }

    /// Lets go the claim that was last seen at this version; never [`Outcome::Ours`].
    pub(crate) async fn unclaim(&self, generation: u64, version: i32) -> Outcome {
        let store = self.store.at(generation);
        let mut version = version;
        for _ in 0..2 {
            match store.delete(&self.path, version).await {
                Ok(()) => return Outcome::NotOurs("let go".to_owned()),
                Err(PublishError::Superseded { .. }) => match self.look(&store, generation).await {
                    Ok(Some(now)) => version = now,
                    Ok(None) => return Outcome::NotOurs("it was not ours any more".to_owned()),
                    Err(error) => return Outcome::Open(error.to_string()),
                },
                Err(error @ (PublishError::Absent { .. } | PublishError::SessionOver { .. })) => {
                    return Outcome::NotOurs(error.to_string());
                }
                Err(error) => return Outcome::Open(error.to_string()),
            }
        }
        Outcome::Open("the version of the claim moves".to_owned())
    }

    /// Removes the claim of an agent of this host that has ended, if that is what stands there now. Whoever was faster is
    /// welcome.
    pub(crate) async fn clear(&self, generation: u64) {
        let store = self.store.at(generation);
        let Ok(Some(znode)) = store.get(&self.path).await else { return };
        let version = znode.version;
        if self.read(generation, &Znode::There(znode)) == Seen::Orphan
            && let Err(error) = store.delete(&self.path, version).await
        {
            tracing::debug!("the claim of an earlier agent of this host: {error}");
        }
    }

    fn data(&self, generation: u64, epoch: u64) -> Vec<u8> {
        let record = Record {
            instance: self.instance_in(generation),
            host: self.host.clone(),
            network: self.network.clone(),
            service: self.service.clone(),
            epoch,
        };
        // Strings and a number always serialise.
        serde_json::to_vec(&record).unwrap_or_default()
    }

    /// An ephemeral znode belongs to a session, so an agent is another one in each.
    fn instance_in(&self, generation: u64) -> String {
        format!("{}-{generation}", self.instance)
    }
}
