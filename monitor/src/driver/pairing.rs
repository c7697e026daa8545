//! The pair and the lead: heartbeats and the leader record in, bids, votes and beats out (R12).

use std::time::Duration;

use binary_star::{PairEvent, State as PairState};
use failover::Event;
use failover::Time;
use failover::lead::{Bid, Peer};
use tokio::time::sleep;
use topology::zookeeper::{PublishError, Seen};
use topology::{LeaderRecord, MonitorRecord};
use tracing::{debug, error, info, warn};

use super::{Driver, Input, leader_event};
use crate::service::forward;

impl Driver {
    pub(super) fn pair_event(&mut self, event: PairEvent) {
        match event {
            PairEvent::StateChanged { .. } => self.tell_pair(),
            PairEvent::PeerAlive => info!("the peer monitor is heard"),
            PairEvent::PeerExpired => {
                warn!("the peer monitor is silent for two heartbeats");
                // While ZooKeeper is away that may have been all that spoke for the records.
                self.tell_board();
            }
            PairEvent::Refused(refusal) => debug!("Binary Star: {refusal}; the lead in ZooKeeper settles it"),
            PairEvent::BadHeartbeat(why, total) => {
                if total.is_power_of_two() {
                    warn!(total, "a heartbeat was dropped: {why}");
                }
                self.bad_heartbeats = total;
            }
            PairEvent::BadRequest(total) => debug!(total, "a request at the voter was dropped"),
            PairEvent::Beat { .. } | PairEvent::Request { .. } => {}
            PairEvent::Ended(None) => debug!("Binary Star ended"),
            PairEvent::Ended(Some(why)) => {
                error!("Binary Star ended: {why}; this monitor is deaf to its peer")
            }
        }
        self.pass_opinions();
    }

    /// The other monitors' opinions count while the peer's heartbeats come: all are passed on when that changes.
    pub(super) fn pass_opinions(&mut self) {
        let counts = self.peer_alive();
        if std::mem::replace(&mut self.counted, counts) != counts {
            let names: Vec<String> = self.services.names();
            names.iter().for_each(|name| self.pass_opinion(name));
        }
    }

    /// Tells the state of the pair when it changed. Without ZooKeeper it may turn with every heartbeat: ACTIVE because
    /// the peer is not, then PASSIVE because nobody may lead. Only what it comes to is worth a line.
    pub(super) fn tell_pair(&mut self) {
        let (Some(pair), Some(_)) = (&self.pair, self.registered) else { return };
        let state = pair.state();
        if self.told_pair != Some(state) {
            info!("Binary Star: this monitor is {}", super::show::word(state));
            self.told_pair = Some(state);
        }
    }

    pub(super) fn peer(&self) -> Peer {
        let Some(pair) = &self.pair else { return Peer::None };
        let peer = pair.peer();
        match (peer.alive, peer.state) {
            (true, Some(PairState::Active)) => Peer::Active,
            (true, _) => Peer::NotActive,
            // Not heard yet: whoever is there has two heartbeats to say so.
            (false, _) if peer.heard.is_none() && self.now() < 2 * self.heartbeat() => Peer::Active,
            (false, _) => Peer::Expired,
        }
    }

    pub(super) fn peer_alive(&self) -> bool {
        self.pair.as_ref().is_some_and(|pair| pair.peer().alive)
    }

    pub(super) fn tend_lead(&mut self, now: Time) {
        if self.observes() {
            return self.follow_holder();
        }
        let active = self.pair.as_ref().is_none_or(|pair| pair.state() == PairState::Active);
        self.lead.pair(self.peer(), active);
        self.follow_holder();
        if let Bid::Take(version) = self.lead.bid(now) {
            self.lead.trying(now);
            let (publisher, me, inputs) =
                (self.bound_publisher(), self.me.clone(), self.around.inputs.clone());
            tokio::spawn(async move {
                let result = publisher.take_lead(&me, version).await;
                let _ = inputs.send(Input::LeadTaken(result));
            });
        }
        self.settle_pair(active);
        let reign = self.lead.reign();
        if reign != self.reign {
            self.reign = reign;
            match reign {
                Some(reign) => info!(reign, "this monitor leads"),
                None => warn!("this monitor does not lead any more"),
            }
            self.all_groups(&Event::Reign(reign));
        }
    }

    /// The lead in ZooKeeper decides who is ACTIVE; no process aborts over two of a kind.
    pub(super) fn settle_pair(&self, active: bool) {
        let Some(pair) = &self.pair else { return };
        if self.lead.reign().is_some() && !active {
            pair.vote(binary_star::Lead::Won);
        } else if active
            && (self.lead.held_by_other() || self.registered.is_none())
            && self.lead.reign().is_none()
        {
            pair.vote(binary_star::Lead::Lost);
        }
    }

    pub(super) fn follow_holder(&mut self) {
        let holder = self.lead.holder().map(str::to_owned);
        if holder.as_deref() == self.holder.as_ref().map(|(name, _)| name.as_str()) {
            return;
        }
        if let Some((_, task)) = self.holder.take() {
            task.abort();
        }
        let Some(name) = holder else { return };
        info!("the monitor `{name}` leads");
        let Ok(path) = self.layout.monitor(&name) else { return };
        let of = name.clone();
        let wrap = move |beat| Input::Beat(of.clone(), beat);
        let task = forward(self.store.follow(&path), self.around.inputs.clone(), wrap, |seen| match seen {
            Seen::NotYet => None,
            Seen::Absent => Some(None),
            Seen::There(found) => {
                let record: Option<MonitorRecord> = serde_json::from_slice(&found.data).ok();
                Some(record.map(|record| (record.instance, record.beat)))
            }
        });
        self.holder = Some((name, task));
    }

    /// Reads the leader record once more: it seemed to be missing.
    pub(super) fn check_leader(&self) {
        let (store, leader, inputs) = (self.store.clone(), self.layout.leader(), self.around.inputs.clone());
        tokio::spawn(async move {
            while !inputs.is_closed() {
                // A read that fails says nothing, and the follower does not tell of the same absence again.
                let Ok(found) = store.get(&leader).await else {
                    sleep(Duration::from_millis(100)).await;
                    continue;
                };
                if let Some(record) = leader_event(&found.map_or(Seen::Absent, Seen::There)) {
                    let _ = inputs.send(Input::LeaderChecked(record));
                }
                return;
            }
        });
    }

    /// The leader record was read, or is gone for good.
    pub(super) fn leader_read(&mut self, record: Option<(LeaderRecord, i32)>) {
        let known = self.lead.deleted();
        self.lead.record(record);
        if self.lead.deleted() && !known {
            let leader = self.layout.leader();
            error!("{leader} was deleted: this monitor leads no more; stop both monitors, then start them");
        }
    }

    pub(super) fn lead_taken(&mut self, result: Result<i32, PublishError>) {
        match result {
            Ok(version) => self.lead.record(Some((self.me.clone(), version))),
            Err(error) => {
                debug!(%error, "the lead was not taken");
                let now = self.now();
                self.lead.failed(now);
                let (store, leader, inputs) =
                    (self.store.clone(), self.layout.leader(), self.around.inputs.clone());
                tokio::spawn(async move {
                    if let Ok(found) = store.get(&leader).await
                        && let Some(record) = leader_event(&found.map_or(Seen::Absent, Seen::There))
                    {
                        let _ = inputs.send(Input::Leader(record));
                    }
                });
            }
        }
    }

    pub(super) fn beat(&mut self) {
        if self.reign.is_none() {
            return;
        }
        self.record.beat += 1;
        let (publisher, name, record) = (self.bound_publisher(), self.me.name.clone(), self.record.clone());
        tokio::spawn(async move { publisher.beat(&name, &record).await });
    }
}
