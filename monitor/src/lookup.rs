//! Who is primary, over HTTP: `GET /services/{service}/primary` for programs, also as a long poll, and
//! `/nodes/{host:port}/primary` and `/replica` for the checks of load balancers.
//!
//! Answers come from [`crate::discovery`]; the driver is never asked. A primary is named only while that is certain; if
//! not, the answer is 503 with the reason. A long poll waits for a record of a higher epoch that is served and is never
//! answered with another one, so whoever passes on the epoch that it saw last misses no change.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use crowd::files;
use failover::Time;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use topology::Endpoint;

use crate::admin::error;
use crate::clock::Clock;
use crate::discovery::Reader;
use crate::discovery::facts::{Facts, Master, Service};

#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod fuzz;

/// A long poll that does not say how long waits so long, and none waits longer than the most.
const WAIT: Duration = Duration::from_secs(30);
const WAIT_MAX: Duration = Duration::from_secs(300);
/// As many requests wait at the same time, and half as many as there may be connections.
const WAITING_MAX: usize = 1000;

/// What the handlers need.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    board: Reader,
    clock: Clock,
    /// A place for each request that may wait.
    places: Arc<Semaphore>,
}

impl Desk {
    pub(crate) fn new(board: Reader, clock: Clock) -> Self {
        Self { board, clock, places: Arc::new(Semaphore::new(files::share(20, WAITING_MAX).max(1))) }
    }
}

/// The pages. A load balancer may ask with GET, HEAD or OPTIONS and is told the same.
pub(crate) fn routes(desk: Desk) -> Router {
    let node = |role| {
        let ask = move |State(desk): State<Desk>, node: Result<Path<String>, PathRejection>| async move {
            desk.node(role, node.ok().as_deref().map(String::as_str))
        };
        get(ask).options(ask)
    };
    Router::new()
        .route("/services/{service}/primary", get(primary).options(primary))
        .route("/nodes/{node}/primary", node(Role::Primary))
        .route("/nodes/{node}/replica", node(Role::Replica))
        .with_state(desk)
}

/// The query of a long poll. A misspelt key would have its client ask without a pause, so it is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    /// The epoch that the client knows.
    after_epoch: Option<u64>,
    wait_ms: Option<u64>,
}

impl Wait {
    /// The epoch, and how long to wait for a higher one.
    fn read(query: Result<Query<Self>, QueryRejection>) -> Result<Option<(u64, Duration)>, Answer> {
        match query.map(|Query(wait)| (wait.after_epoch, wait.wait_ms)) {
            Ok((Some(epoch), wait)) => {
                Ok(Some((epoch, wait.map_or(WAIT, Duration::from_millis).min(WAIT_MAX))))
            }
            Ok((None, None)) => Ok(None),
            Ok((None, Some(_))) => Err(bad("wait_ms belongs to after_epoch=EPOCH".to_owned())),
            Err(why) => {
                Err(bad(format!("expected ?after_epoch=EPOCH&wait_ms=MILLISECONDS: {}", why.body_text())))
            }
        }
    }
}

async fn primary(
    State(desk): State<Desk>,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<Wait>, QueryRejection>,
) -> Answer {
    let Ok(Path(name)) = name else { return bad("the name of the service is not UTF-8".to_owned()) };
    match Wait::read(query) {
        Ok(None) => desk.primary(&name, 0),
        Ok(Some((known, wait))) => match desk.places.clone().try_acquire_owned() {
            Ok(place) => desk.later_primary(&name, known, wait, place).await,
            Err(_) => Answer::Not(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "as many requests as may be wait here already".to_owned(),
            ),
        },
        Err(answer) => answer,
    }
}

impl Desk {
    /// The primary under an epoch of at least `least`.
    fn primary(&self, name: &str, least: u64) -> Answer {
        let (facts, now) = (self.board.facts.borrow(), self.clock.now());
        let Some(service) = facts.services.get(name) else {
            let why = format!("no service is called `{name}` here");
            return Answer::Not(StatusCode::NOT_FOUND, "unknown_service", why);
        };
        match certain(&facts, service, now) {
            Ok(_) if service.epoch < least => Answer::unavailable(
                "behind",
                format!("the last that this monitor knows is epoch {}", service.epoch),
            ),
            Ok(master) => Answer::primary(name, service, master),
            Err(doubt) => doubt.answer(name),
        }
    }

    /// The same under a later epoch than the one that is known, or what there is when the time is over. What has
    /// changed before it waits is seen at once, for a change is counted after it can be seen.
    async fn later_primary(
        &self,
        name: &str,
        known: u64,
        wait: Duration,
        _place: OwnedSemaphorePermit,
    ) -> Answer {
        let mut changes = self.board.named.clone();
        let next = async {
            loop {
                changes.mark_unchanged();
                let answer = self.primary(name, known.saturating_add(1));
                match answer {
                    Answer::Primary { .. } | Answer::Not(StatusCode::NOT_FOUND, ..) => return answer,
                    Answer::Node { .. } | Answer::Not(..) => {}
                }
                if changes.changed().await.is_err() {
                    return answer; // the monitor ends
                }
            }
        };
        match timeout(wait, next).await {
            Ok(answer) => answer,
            Err(_) => self.primary(name, known),
        }
    }

    /// Whether a server has this role.
    fn node(&self, role: Role, node: Option<&str>) -> Answer {
        let addr: Endpoint = match node.map(str::parse) {
            Some(Ok(addr)) => addr,
            Some(Err(why)) => return bad(format!("{why}")),
            None => return bad("the address is not UTF-8".to_owned()),
        };
        let (facts, now) = (self.board.facts.borrow(), self.clock.now());
        let mut because = None;
        for (name, service) in &facts.services {
            match role.of(&addr, &facts, service, now) {
                Standing::Has => {
                    return Answer::Node { addr, role, service: name.clone(), epoch: service.epoch };
                }
                Standing::HasNot(code, why) => {
                    because = Some(Answer::unavailable(code, format!("{addr} {why} `{name}`")))
                }
                // It may belong to that one; what is certain of another one counts more.
                Standing::Unclear(doubt) => because = because.or(Some(doubt.answer(name))),
                Standing::Stranger => {}
            }
        }
        because.unwrap_or_else(|| {
            let why = format!("{addr} is no member of any service here");
            Answer::Not(StatusCode::NOT_FOUND, "unknown_node", why)
        })
    }
}

/// Why nobody is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    Stale,
    NotCertain,
    Promoting,
    Contradicted,
}

impl Doubt {
    fn answer(self, name: &str) -> Answer {
        let (code, why) = match self {
            Doubt::Stale => ("stale", "this monitor stood still, and what it knew may be past"),
            Doubt::NotCertain => {
                ("not_certain", "ZooKeeper does not answer this monitor, or holds no record")
            }
            Doubt::Promoting => ("promoting", "another server is becoming primary"),
            Doubt::Contradicted => ("contradicted", "the recorded primary was seen to be something else"),
        };
        Answer::unavailable(code, format!("`{name}`: {why}"))
    }
}

/// The primary, if it is certain.
fn certain<'a>(facts: &Facts, service: &'a Service, now: Time) -> Result<&'a Master, Doubt> {
    match service.primary() {
        _ if !facts.are_fresh(now) => Err(Doubt::Stale),
        Some(master) => Ok(master),
        None if !service.known => Err(Doubt::NotCertain),
        None if service.shown().is_some_and(|master| master.contradicted) => Err(Doubt::Contradicted),
        None => Err(Doubt::Promoting),
    }
}

/// What a load balancer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Primary,
    Replica,
}

/// How a server stands to a role in one service.
enum Standing {
    Has,
    /// A code, and the words between its address and the name of the service.
    HasNot(&'static str, &'static str),
    Unclear(Doubt),
    Stranger,
}

impl Role {
    fn of(self, addr: &Endpoint, facts: &Facts, service: &Service, now: Time) -> Standing {
        let doubt = certain(facts, service, now).err();
        let replica = service.replicas.iter().find(|replica| replica.addr == *addr);
        let is_primary = service.primary().is_some_and(|master| master.addr == *addr);
        match (self, doubt, replica) {
            (Role::Primary, None, _) if is_primary => Standing::Has,
            (Role::Primary, None, Some(_)) => Standing::HasNot("not_primary", "is not the primary of"),
            // A replica goes on answering reads while another one becomes primary.
            (Role::Replica, None | Some(Doubt::Promoting | Doubt::Contradicted), Some(replica)) => {
                match replica.usable {
                    true => Standing::Has,
                    false => Standing::HasNot("not_usable", "answers no reads as a replica of"),
                }
            }
            (Role::Replica, None, None) if is_primary => Standing::HasNot("not_replica", "is the primary of"),
            (_, None, None) => Standing::Stranger,
            (_, Some(doubt), _) => Standing::Unclear(doubt),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
        }
    }
}

/// What is answered.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Primary {
        service: String,
        addr: Endpoint,
        epoch: u64,
        secondary: Vec<Endpoint>,
        up: bool,
    },
    Node {
        addr: Endpoint,
        role: Role,
        service: String,
        epoch: u64,
    },
    /// Status, code, words.
    Not(StatusCode, &'static str, String),
}

fn bad(why: String) -> Answer {
    Answer::Not(StatusCode::BAD_REQUEST, "bad_request", why)
}

impl Answer {
    fn primary(name: &str, service: &Service, master: &Master) -> Self {
        let usable = service.replicas.iter().filter(|replica| replica.usable);
        Answer::Primary {
            service: name.to_owned(),
            addr: master.addr.clone(),
            epoch: service.epoch,
            secondary: usable.map(|replica| replica.addr.clone()).collect(),
            up: !master.s_down,
        }
    }

    fn unavailable(code: &'static str, why: String) -> Self {
        Answer::Not(StatusCode::SERVICE_UNAVAILABLE, code, why)
    }
}

const NO_STORE: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");
const PRIMARY: HeaderName = HeaderName::from_static("x-albireo-primary");
const EPOCH: HeaderName = HeaderName::from_static("x-albireo-epoch");

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Answer::Primary { service, addr, epoch, secondary, up } => {
                let headers = [(PRIMARY, addr.to_string()), (EPOCH, epoch.to_string())];
                let body = json!({
                    "service": service, "primary": addr, "epoch": epoch, "secondary": secondary, "up": up,
                });
                ([NO_STORE], headers, Json(body)).into_response()
            }
            Answer::Node { addr, role, service, epoch } => {
                let body = json!({"addr": addr, "role": role.word(), "service": service, "epoch": epoch});
                ([NO_STORE], [(EPOCH, epoch.to_string())], Json(body)).into_response()
            }
            Answer::Not(status, code, why) => {
                let later =
                    (status == StatusCode::SERVICE_UNAVAILABLE).then_some([(header::RETRY_AFTER, "1")]);
                ([NO_STORE], later, error(status, code, &why)).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests;
