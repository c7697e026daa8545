//! What clients are told: every service after each event that changes it, the other endpoints once a heartbeat.
//!
//! A record counts as the present one only if it was read since ZooKeeper answers and since this process last stood
//! still: what was known before may have been decided otherwise meanwhile.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use failover::{Event, Stored, Time};
use tokio::time::sleep;
use topology::zookeeper::{Queue, Seen, SessionPhase};

use super::{About, Driver};
use crate::config::Config;
use crate::discovery::{self, Board, Facts, Fellow, Vouched};
use crate::dns;
use crate::metrics::{Listener, Refused};
use crate::sentinel::{self, Desk};
use crate::service::{Service, state_event};

/// When a server was last heard stands on the board within this time, within `down_after_ms` if that is less, or within a
/// heartbeat if that is more.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// A board on which nothing stands yet.
pub(super) fn empty(config: &Config, now: Time) -> Board {
    let (heartbeat, down_after) = (config.binary_star.heartbeat, config.detector.down_after);
    let announced = config.sentinel.as_ref().map_or(&config.admin.announce, |sentinel| &sentinel.announce);
    Board::new(Facts {
        own: Fellow { id: own_id(config), addr: announced.clone(), up: true, heard: now },
        fellows: Vec::new(),
        services: BTreeMap::new(),
        listed: false,
        down_after,
        turned: now,
        // As in `notice_stall`.
        stale_after: heartbeat + heartbeat.min(down_after / 4),
    })
}

fn own_id(config: &Config) -> String {
    match config.observes() {
        true => observer_id(config, config.name()),
        false => fellow_id(config, config.name()),
    }
}

/// No monitor's name has a slash.
fn observer_id(config: &Config, name: &str) -> String {
    fellow_id(config, &format!("observers/{name}"))
}

fn fellow_id(config: &Config, name: &str) -> String {
    discovery::id(config.zookeeper.state_root.as_str(), name)
}

impl Driver {
    /// What clients are told.
    pub(crate) fn told(&self) -> discovery::Reader {
        self.board.reader()
    }

    /// Begins to serve clients of Redis Sentinel, in a thread of its own.
    pub(crate) fn serve_sentinel(&self, listener: TcpListener) -> std::io::Result<()> {
        let Some(settings) = self.around.config.sentinel.clone() else { return Ok(()) };
        let (clock, driver) = (self.around.clock, self.around.inputs.clone());
        let refused = self.not_let_in(Listener::Sentinel);
        sentinel::start(listener, Desk { board: self.told(), clock, driver, login: settings.login, refused })
    }

    /// Begins to serve DNS, in a thread of its own.
    pub(crate) fn serve_dns(&self, sockets: dns::Sockets) -> std::io::Result<()> {
        let Some(settings) = self.around.config.dns.clone() else { return Ok(()) };
        let (clock, queries) = (self.around.clock, self.metrics.dns_queries.clone());
        let refused = self.not_let_in(Listener::Dns);
        dns::start(sockets, dns::Desk { board: self.told(), clock, settings, queries, refused })
    }

    /// What is counted of whom a listener does not let in.
    pub(crate) fn not_let_in(&self, at: Listener) -> Refused {
        self.metrics.refused(at)
    }

    /// This loop turns.
    pub(super) fn tell_board_of_turn(&self) {
        self.board.turned(self.now());
    }

    /// A service may have changed.
    pub(super) fn tell_board_of(&mut self, name: &str) {
        let (now, agreed) = (self.now(), self.peer_agrees());
        self.mixed |= agreed != self.agreed;
        if let Some(service) = self.services.get(name) {
            tell(&mut self.board, service, agreed, now);
        }
    }

    /// Whether the peer is heard and knows the same records.
    fn peer_agrees(&self) -> bool {
        self.pair
            .as_ref()
            .map(binary_star::Handle::peer)
            .is_some_and(|peer| peer.alive && peer.said == Some(self.note))
    }

    /// The peer is told which records are known here.
    pub(super) fn note(&mut self, name: &str) {
        let Some(service) = self.services.get_mut(name) else { return };
        let epoch = service.group.view().state().map(|state| state.epoch);
        if service.noted.0 != epoch {
            let part = epoch.map_or(0, |epoch| discovery::note(service.path.as_str(), epoch));
            let before = std::mem::replace(&mut service.noted, (epoch, part)).1;
            self.change_note(before ^ part);
        }
    }

    /// Parts of the note come and go.
    pub(super) fn change_note(&mut self, change: u64) {
        self.note ^= change;
        if let Some(pair) = &self.pair {
            pair.say(self.note);
        }
    }

    /// What changes of the services without an event, one part of them after the other: when a server was last heard, which
    /// only clients of Redis Sentinel are told. (When it was not heard for too long is an event.) Whether the peer agrees
    /// concerns all of them: a change is told of all at once.
    pub(super) fn tell_board_in_turn(&mut self) {
        let (now, agreed) = (self.now(), self.peer_agrees());
        let within = TOLD_WITHIN.min(self.around.config.detector.down_after);
        let parts = (within.as_millis() / self.heartbeat().as_millis().max(1)).max(1) as u64;
        let all = std::mem::take(&mut self.mixed) || agreed != self.agreed;
        self.agreed = agreed;
        self.part = (self.part + 1) % parts;
        let sentinel = self.around.config.sentinel.is_some();
        for service in self.services.each() {
            if all || (sentinel && service.id.incarnation % parts == self.part) {
                tell(&mut self.board, service, agreed, now);
            }
        }
        self.tell_endpoints();
    }

    /// All of them, and the other endpoints.
    pub(super) fn tell_board(&mut self) {
        let (now, agreed) = (self.now(), self.peer_agrees());
        self.services.each().for_each(|service| tell(&mut self.board, service, agreed, now));
        self.tell_endpoints();
    }

    fn tell_endpoints(&mut self) {
        let (now, peer_alive) = (self.now(), self.peer_alive());
        let config = &self.around.config;
        let fellows = self.fellows.iter().filter_map(|(name, record)| {
            // Only the peer can be heard.
            let up = (peer_alive || self.pair.is_none()) && self.others.contains(name);
            Some((fellow_id(config, name), record.sentinel.clone()?, up))
        });
        let observers = self.observers.iter().filter_map(|(name, record)| {
            Some((observer_id(config, name), record.as_ref()?.sentinel.clone()?, true))
        });
        let all = fellows.chain(observers).map(|(id, addr, up)| Fellow { id, addr, up, heard: now });
        let fellows: Vec<Fellow> = all.collect();
        self.board.fellows(fellows);
    }

    /// No record counts until it was read once more.
    pub(super) fn vouch_anew(&mut self) {
        for name in self.services.names() {
            self.vouch(&name);
        }
    }

    /// Reads the record of a service once more.
    pub(super) fn vouch(&mut self, name: &str) {
        let answers = self.session.is_some_and(|session| session.phase == SessionPhase::Connected);
        let Some(service) = self.services.get_mut(name) else { return };
        service.vouched = (service.vouched.0 + 1, false);
        let store = self.store.queued(Queue::Usual);
        let (call, path) = (service.vouched.0, self.layout.state(&service.path));
        self.tell_board_of(name);
        if !answers {
            return; // called again when it does
        }
        self.later(name, async move {
            match store.get(&path).await {
                Ok(found) => {
                    vec![About::Vouched(call, state_event(&found.map_or(Seen::Absent, Seen::There)))]
                }
                Err(_) => {
                    sleep(Duration::from_millis(100)).await;
                    vec![About::Vouched(call, None)]
                }
            }
        });
    }

    /// The record was read, or has to be read again. Of another call than the last one it says nothing.
    pub(super) fn vouched(&mut self, name: &str, call: u64, read: Option<Event>) {
        let Some(service) = self.services.get_mut(name).filter(|service| service.vouched.0 == call) else {
            return;
        };
        let Some(read) = read else { return self.vouch(name) };
        service.vouched.1 = true;
        let view = service.group.view();
        let known = view.record_damaged.is_none()
            && view.record.as_ref().is_some_and(|(state, version)| {
                matches!(&read, Event::State(Stored::Is(is), at) if is == state && at == version)
            });
        // After a stall all of a thousand records are read again, and hardly one is another.
        match known {
            true => self.tell_board_of(name),
            false => {
                self.tell(name, &read);
                self.group(name, read);
            }
        }
    }
}

fn tell(board: &mut Board, service: &Service, peer_agrees: bool, now: Time) {
    let vouched = match service.vouched.1 {
        false => Vouched::No,
        true if peer_agrees => Vouched::Agreed,
        true => Vouched::Read,
    };
    let view = service.group.view();
    board.service(&service.id.name, |before| discovery::observe(view, before, vouched, now));
}
