//! Second opinions (R10): what the other monitors cannot reach, and what this one cannot.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use failover::{Event, PeerOpinion};
use serde_json::json;
use tokio::time::sleep;
use topology::zookeeper::Seen;
use topology::{Endpoint, MonitorRecord};
use tracing::debug;

use super::{About, Driver, Input};
use crate::publisher::Publisher;
use crate::service::{Service, forward};

impl Driver {
    pub(super) fn monitors(&mut self, names: &[String]) {
        let other = |name: &&String| self.observes() || **name != self.me.name;
        let others: Vec<String> = names.iter().filter(other).cloned().collect();
        let services: Vec<String> = self.services.names();
        self.views.retain(|(monitor, _), task| {
            let keep = others.contains(monitor);
            if !keep {
                task.abort();
            }
            keep
        });
        self.opinions.retain(|(_, monitor), _| others.contains(monitor));
        for monitor in &others {
            services.iter().for_each(|service| self.follow_view(monitor, service));
        }
        self.others = others;
        // Whoever is gone is still shown by its name, until another one comes.
        if !self.others.is_empty() {
            self.fellows.retain(|name, _| self.others.contains(name));
        }
        for monitor in &self.others {
            let Ok(path) = self.layout.monitor(monitor) else { continue };
            self.read_fellow(path, monitor, Input::Fellow);
        }
        services.iter().for_each(|service| self.pass_opinion(service));
    }

    /// Observers have no opinion; they are there to be told of.
    pub(super) fn observers(&mut self, names: &[String]) {
        let others = |name: &&String| !self.observes() || **name != self.me.name;
        let names: Vec<String> = names.iter().filter(others).cloned().collect();
        self.observers.retain(|name, _| names.contains(name));
        for name in names {
            let Ok(path) = self.layout.observer(&name) else { continue };
            if !self.observers.contains_key(&name) {
                self.observers.insert(name.clone(), None);
                self.read_fellow(path, &name, Input::Observer);
            }
        }
    }

    /// Reads what another monitor says of itself, which stays while it lives.
    fn read_fellow(&self, path: String, monitor: &str, wrap: fn(String, MonitorRecord) -> Input) {
        let (store, name, inputs) = (self.store.clone(), monitor.to_owned(), self.around.inputs.clone());
        tokio::spawn(async move {
            loop {
                match store.get(&path).await {
                    Ok(Some(found)) => {
                        if let Ok(record) = serde_json::from_slice(&found.data) {
                            let _ = inputs.send(wrap(name, record));
                        }
                        return;
                    }
                    Ok(None) => return, // gone again, which is told by the list
                    Err(error) => {
                        debug!(%error, "{path} was not read");
                        sleep(Duration::from_millis(100)).await;
                    }
                }
                if inputs.is_closed() {
                    return;
                }
            }
        });
    }

    pub(super) fn follow_view(&mut self, monitor: &str, service: &str) {
        let key = (monitor.to_owned(), service.to_owned());
        let Ok(path) = self.layout.view(monitor, service) else { return };
        if self.views.contains_key(&key) {
            return;
        }
        let Some(id) = self.services.get(service).map(|service| service.id.clone()) else { return };
        let of = monitor.to_owned();
        let wrap = move |opinion| Input::Service(id.clone(), About::Opinion(of.clone(), opinion));
        let task = forward(self.store.follow(&path), self.around.inputs.clone(), wrap, |seen| match seen {
            Seen::NotYet => None,
            Seen::Absent => Some(None),
            Seen::There(found) => Some(serde_json::from_slice(&found.data).ok()),
        });
        self.views.insert(key, task);
    }

    /// The opinions of the other monitors count while the peer's heartbeats come.
    pub(super) fn pass_opinion(&mut self, service: &str) {
        let Some(name) = self.services.get(service).map(|service| service.id.name.clone()) else { return };
        let about = self.opinions.range((name.clone(), String::new())..);
        let about = about.take_while(|((about, _), _)| *about == name);
        let said: Vec<&BTreeSet<Endpoint>> = about.filter_map(|(_, opinion)| opinion.as_ref()).collect();
        let common = match said.split_first() {
            _ if !self.counted => PeerOpinion::Gone,
            None => PeerOpinion::Mute,
            // What every one of them cannot reach.
            Some((first, rest)) => {
                let all = |addr: &&Endpoint| rest.iter().all(|other| other.contains(*addr));
                PeerOpinion::CannotReach(first.iter().filter(all).cloned().collect())
            }
        };
        if self.services.get(service).is_some_and(|s| s.group.view().peer != common) {
            self.group(service, Event::Peer(common));
        }
    }

    /// Whoever does not watch a service any more has no opinion of it: the last one would pass for the present.
    pub(super) fn withdraw_opinion(&self, service: &Service) {
        let (Some(generation), Some(_)) = (self.registered, &service.opinion) else { return };
        let publisher = Publisher::new(self.store.at(generation), self.layout.clone());
        let (me, name) = (self.me.name.clone(), service.id.name.clone());
        tokio::spawn(async move {
            if let Err(error) = publisher.no_opinion(&me, &name).await {
                debug!(service = &*name, %error, "the opinion was not withdrawn; it ends with the session");
            }
        });
    }

    /// Writes the opinions that changed, of these services.
    pub(super) fn write_opinions(&mut self, of: &[Arc<str>]) {
        of.iter().for_each(|name| self.write_opinion(name));
    }

    /// The one that leads asks, and is not asked.
    pub(super) fn has_opinion(&self) -> bool {
        self.reign.is_none() && !self.observes()
    }

    /// Writes what this monitor cannot reach of a service, when that changed. Before it knows that of every server it says
    /// nothing.
    pub(super) fn write_opinion(&mut self, name: &str) {
        if !self.has_opinion() {
            return;
        }
        let now = self.now();
        let (Some(generation), Some(service)) = (self.registered, self.services.get_mut(name)) else {
            return;
        };
        let view = service.group.view();
        let unreachable: Vec<Endpoint> = view.unreachable(now).into_iter().collect();
        let speechless = service.opinion.is_none() && !view.knows_all(now);
        if service.writes_opinion || speechless || service.opinion.as_ref() == Some(&unreachable) {
            return;
        }
        let (value, first) = (json!(unreachable), service.opinion.is_none());
        (service.opinion, service.writes_opinion) = (Some(unreachable), true);
        let publisher = Publisher::new(self.store.at(generation), self.layout.clone());
        let me = self.me.name.clone();
        let service = name.to_owned();
        self.later(name, async move {
            let written = publisher.opinion(&me, &service, &value, first).await;
            if let Err(error) = &written {
                debug!(service, %error, "the opinion was not written");
                // Not at once: ZooKeeper is away, or the session is over.
                sleep(Duration::from_millis(100)).await;
            }
            vec![About::OpinionWritten(written.is_ok())]
        });
    }
}
