//! The ZooKeeper session: a name registered under it, a reign that ends with it (R11).

use std::time::Duration;

use failover::Event;
use tokio::time::sleep;
use topology::zookeeper::{PublishError, ReadError, Seen, Session, SessionPhase};
use tracing::{debug, info, warn};

use super::{Driver, Input, leader_event};
use crate::publisher::{NameError, Publisher};

impl Driver {
    /// ZooKeeper ends a session at the next tick (2 s) after its timeout; what is left is for the last attempt, which
    /// otherwise begins some milliseconds before that.
    pub(super) fn name_wait(&self) -> Duration {
        self.around.config.zookeeper.session_timeout + Duration::from_millis(2500)
    }

    pub(super) fn session_changed(&mut self, session: Session) {
        let before = self.session.replace(session);
        match session.phase {
            SessionPhase::Connected if before.is_none_or(|b| b.phase != SessionPhase::Connected) => {
                info!(session = session.generation, "ZooKeeper answers");
            }
            SessionPhase::Disconnected => {
                warn!(
                    "ZooKeeper does not answer; traffic goes on as published, and no failover is possible meanwhile"
                );
            }
            // Told by the store.
            SessionPhase::Expired => debug!("the ZooKeeper session is over; starting anew"),
            SessionPhase::Connected
            | SessionPhase::Connecting
            | SessionPhase::Closing
            | SessionPhase::Closed => {}
        }
        let answers = session.phase == SessionPhase::Connected;
        let answered = before.is_some_and(|before| before.phase == SessionPhase::Connected);
        self.store_lost = match self.store_lost {
            _ if answers => None,
            None if answered => Some(self.now()),
            lost => lost,
        };
        if !answers {
            // A store that was away gives every session its whole time again, also our predecessor's.
            self.name_taken = None;
        }
        self.metrics.zookeeper_connected.set(i64::from(answers));
        if before.is_none_or(|before| (before.phase == SessionPhase::Connected) != answers) {
            self.all_groups(&Event::Store(answers));
            if answers {
                // What was read before may have been decided otherwise while it was away.
                self.vouch_anew();
            }
        }
        if !session.phase.is_alive()
            || self.registered.is_some_and(|generation| generation != session.generation)
        {
            self.registered = None;
            self.name_taken = None;
            self.lead.session(false);
        }
        let generation = session.generation;
        if session.phase == SessionPhase::Connected && self.begins_to_register(generation) {
            self.register(generation);
        }
    }

    /// Once per session; the task goes on until it has the name or the session is over.
    pub(super) fn begins_to_register(&mut self, generation: u64) -> bool {
        self.registering.replace(generation) != Some(generation)
    }

    pub(super) fn register(&self, generation: u64) {
        let publisher = Publisher::new(self.store.at(generation), self.layout.clone());
        let (name, record, inputs) = (self.me.name.clone(), self.record.clone(), self.around.inputs.clone());
        let observes = self.observes();
        tokio::spawn(async move {
            loop {
                let input = match publisher.register(&name, &record, observes).await {
                    Ok(()) => Input::Registered(generation),
                    // Our own predecessor of an expired session goes by itself; it is waited for like any other.
                    Err(NameError::Taken(by)) => Input::NameTaken(by),
                    Err(NameError::Store(PublishError::SessionOver { .. })) => return,
                    Err(NameError::Store(error)) => {
                        debug!(%error, "not registered yet");
                        sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let done = matches!(input, Input::Registered(_));
                if inputs.send(input).is_err() || done {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
    }

    pub(super) fn now_registered(&mut self, generation: u64) {
        if self.session.is_none_or(|session| session.generation != generation || !session.phase.is_alive()) {
            return;
        }
        self.name_taken = None;
        self.registered = Some(generation);
        self.lead.session(true);
        let (store, leader, inputs) =
            (self.store.at(generation), self.layout.leader(), self.around.inputs.clone());
        tokio::spawn(async move {
            loop {
                match store.get(&leader).await {
                    Ok(found) => {
                        let seen = found.map_or(Seen::Absent, Seen::There);
                        if let Some(record) = leader_event(&seen) {
                            let _ = inputs.send(Input::Leader(record));
                        }
                        return;
                    }
                    Err(ReadError::SessionOver { .. }) => return,
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        });
        self.services.each().for_each(|service| service.opinion = None);
    }
}
