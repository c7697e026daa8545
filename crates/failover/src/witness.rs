//! What each observer sees of a primary at one moment: this monitor, its peer, every replica. Kept with a decision, so
//! that people can tell later what it was made from.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use topology::Endpoint;

use crate::Time;
use crate::detector::Health;
use crate::view::{Backend, PeerOpinion, Role, View};

/// Who saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observer {
    /// The monitor of this name, which decides.
    Monitor(String),
    /// The monitor beside it.
    Peer,
    /// A replica.
    Replica(Endpoint),
}

impl fmt::Display for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Monitor(name) => write!(f, "monitor {name}"),
            Self::Peer => f.write_str("peer monitor"),
            Self::Replica(addr) => write!(f, "{addr}"),
        }
    }
}

/// What one observer saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Who.
    pub who: Observer,
    /// What, in words about the primary.
    pub saw: String,
    /// Of a replica: the bytes of the history that it holds.
    pub offset: Option<u64>,
}

/// What everybody sees of this server, as far as this monitor knows.
pub fn witnesses(view: &View, primary: &Endpoint, now: Time) -> Vec<Witness> {
    let here = Witness {
        who: Observer::Monitor(view.me.clone()),
        saw: seen_here(view, primary, now),
        offset: offset(view, primary),
    };
    let peer = Witness { who: Observer::Peer, saw: by_peer(&view.peer, primary).to_string(), offset: None };
    let others = view.backends.iter().filter(|(addr, _)| *addr != primary);
    let replicas = others.map(|(addr, backend)| Witness {
        who: Observer::Replica(addr.clone()),
        saw: by_replica(view, addr, backend, primary, now),
        offset: offset(view, addr),
    });
    [here, peer].into_iter().chain(replicas).collect()
}

fn offset(view: &View, addr: &Endpoint) -> Option<u64> {
    Some(view.backends.get(addr)?.seen.as_ref()?.observation.offset)
}

fn ago(since: Time, now: Time) -> u128 {
    now.saturating_sub(since).as_millis()
}

fn seen_here(view: &View, primary: &Endpoint, now: Time) -> String {
    let health = view.health(primary, now);
    match health {
        Health::Refused(since) => alloc::format!("refuses connections for {} ms", ago(since, now)),
        Health::Silent(_) => {
            let last = view.backends.get(primary).map(|backend| backend.detector.last_byte());
            alloc::format!("silent for {} ms", ago(last.unwrap_or(now), now))
        }
        Health::Unknown | Health::Up | Health::Suspect | Health::Troubled(_) => {
            let process = view.state().filter(|state| state.primary.addr == *primary);
            let other = |backend: &Backend| {
                process.is_some_and(|state| {
                    let run_id = &state.primary.run_id;
                    backend.is_another_than(run_id)
                        || backend.seen.as_ref().is_some_and(|seen| seen.observation.run_id != *run_id)
                })
            };
            match view.backends.get(primary) {
                Some(backend) if other(backend) => "answers, but is another process".to_string(),
                Some(_) | None => health.word().to_string(),
            }
        }
    }
}

fn by_peer(peer: &PeerOpinion, primary: &Endpoint) -> &'static str {
    match peer {
        PeerOpinion::Gone => "is not there",
        PeerOpinion::Mute => "has not said anything",
        PeerOpinion::CannotReach(servers) if servers.contains(primary) => "cannot reach it",
        PeerOpinion::CannotReach(_) => "reached it when it last said",
    }
}

fn by_replica(view: &View, addr: &Endpoint, backend: &Backend, primary: &Endpoint, now: Time) -> String {
    if let Some(since) = view.health(addr, now).gone_since() {
        return alloc::format!("does not answer itself for {} ms", ago(since, now));
    }
    let Some(seen) = &backend.seen else { return "has not answered yet".to_string() };
    let asked = ago(seen.asked, now);
    match &seen.observation.role {
        Role::Primary { .. } => "is a primary itself".to_string(),
        Role::Replica { source: Some(source), link_up, .. } if source == primary => match link_up {
            true => alloc::format!("link up, asked {asked} ms before"),
            false => alloc::format!("has lost it, asked {asked} ms before"),
        },
        Role::Replica { source: Some(other), .. } => alloc::format!("follows {other}"),
        Role::Replica { source: None, .. } => "follows nobody".to_string(),
    }
}
