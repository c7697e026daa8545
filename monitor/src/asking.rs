//! What changes something, over HTTP: `POST /services/{service}/switchover`, `failover`, `pause`, `resume`, `add` and
//! `remove`, with a JSON body.
//!
//! Guarded by `[admin] token`; without one, only this host may ask. A body has to be `application/json`, which no page
//! of another site can make a browser send.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use failover::request::{Declined, Done, Request};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use settings::Secret;
use tokio::sync::{mpsc, oneshot};
use topology::{Endpoint, PausedRecord, from_object};
use tracing::info;

use crate::admin::error;
use crate::driver::{Input, now_ms};
use crate::metrics::phases_ms;

#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod fuzz;

/// What came of a request; `None` if there is no such service.
pub(crate) type Answer = Option<Result<Done, Declined>>;

/// What came of pausing a service, or of resuming it.
#[derive(Debug)]
pub(crate) enum Paused {
    /// It is so; `changed`: it was not before.
    Done {
        /// Whether anything was changed.
        changed: bool,
    },
    /// This monitor does not lead.
    NotLeading,
    /// No such service.
    NoService,
    /// ZooKeeper did not do it.
    Failed(String),
    /// ZooKeeper did not say.
    Unknown(String),
}

/// What can be asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// Of the core.
    Request(Request),
    /// To be paused, or not any more.
    Pause(bool),
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    addr: SocketAddr,
    /// From this host.
    near: bool,
}

impl Caller {
    /// Who is at `addr`, connected to us at `own`.
    pub(crate) fn new(addr: SocketAddr, own: Option<SocketAddr>) -> Self {
        let own = own.is_some_and(|own| own.ip() == addr.ip());
        Self { addr, near: own || addr.ip().to_canonical().is_loopback() }
    }
}

/// Why a request never reaches the service: status, code, words.
type Refusal = (StatusCode, &'static str, String);

/// What the handler needs.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    pub(crate) driver: mpsc::UnboundedSender<Input>,
    pub(crate) token: Option<Arc<Secret>>,
}

/// The body of `switchover`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Switchover {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<Endpoint>,
}

/// The body of `failover`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Failover {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<Endpoint>,
    #[serde(default)]
    pub(crate) accept_loss: bool,
}

/// The body of `pause` and `resume`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// The body of `add` and `remove`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    pub(crate) addr: Endpoint,
    /// Of `add` only.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) overwrite: bool,
}

/// Carries out one request, and answers when it is done or declined.
pub(crate) async fn ask(
    State(desk): State<Desk>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    names: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Ok(Path((service, verb))) = names else {
        return error(StatusCode::BAD_REQUEST, "bad_request", "the name of the service is not UTF-8");
    };
    let request = match desk.admits(caller, &headers).and_then(|()| read(&verb, &headers, &body)) {
        Ok(Wish::Request(request)) => request,
        Ok(Wish::Pause(wanted)) => return desk.pause(caller, service, wanted).await,
        Err((status, code, why)) => return error(status, code, &why),
    };
    info!(service, "{} asks for {}", caller.addr, words(&request));
    let (answer, answered) = oneshot::channel();
    if desk.driver.send(Input::Request(service.clone(), request, answer)).is_err() {
        return stopping();
    }
    match answered.await {
        Ok(Some(Ok(done))) => Json(told(&done)).into_response(),
        Ok(Some(Err(declined))) => refusal(&declined),
        Ok(None) => unknown(&service),
        Err(_) => stopping(),
    }
}

fn stopping() -> Response {
    error(StatusCode::SERVICE_UNAVAILABLE, "stopping", "this monitor is stopping")
}

fn unknown(service: &str) -> Response {
    error(StatusCode::NOT_FOUND, "unknown_service", &format!("no service is called `{service}` here"))
}

impl Desk {
    async fn pause(&self, caller: Caller, service: String, pause: bool) -> Response {
        info!(service, "{} asks to {} the service", caller.addr, if pause { "pause" } else { "resume" });
        let by = Some(caller.addr.ip().to_canonical().to_string());
        let wanted = pause.then(|| PausedRecord { since_ms: Some(now_ms()), by });
        let (answer, answered) = oneshot::channel();
        if self.driver.send(Input::Pause(service.clone(), wanted, answer)).is_err() {
            return stopping();
        }
        let done = match (answered.await, pause) {
            (Ok(Paused::Done { changed: true }), true) => {
                "is paused: nobody takes over before `monitor resume`, not even if the primary dies"
            }
            (Ok(Paused::Done { changed: false }), true) => "was paused already",
            (Ok(Paused::Done { changed: true }), false) => "is not paused any more",
            (Ok(Paused::Done { changed: false }), false) => "was not paused",
            (Ok(Paused::NotLeading), _) => return refusal(&Declined::NotLeading),
            (Ok(Paused::NoService), _) => return unknown(&service),
            (Ok(Paused::Failed(why)), _) => {
                return error(StatusCode::SERVICE_UNAVAILABLE, "not_written", &why);
            }
            (Ok(Paused::Unknown(why)), _) => {
                let why = format!("it may be done or not ({why}): `monitor status` tells");
                return error(StatusCode::GATEWAY_TIMEOUT, "indeterminate", &why);
            }
            (Err(_), _) => return stopping(),
        };
        Json(json!({"done": format!("{service} {done}"), "paused": pause})).into_response()
    }

    fn admits(&self, caller: Caller, headers: &HeaderMap) -> Result<(), Refusal> {
        let authorization = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let why = match &self.token {
            Some(token) if authorization.is_some_and(|value| token.is_borne_by(value)) => return Ok(()),
            Some(_) => "a token is needed: `Authorization: Bearer TOKEN` with [admin] token",
            None if caller.near && is_of_an_address(headers) => return Ok(()),
            None if caller.near => {
                "without [admin] token no page of a site that has a name may ask for this: open the dashboard by IP address"
            }
            None => "without [admin] token only the monitor's own host may ask for this",
        };
        Err((StatusCode::UNAUTHORIZED, "unauthorized", why.to_owned()))
    }
}

/// Whether no browser asks, or the page is one of an IP address or of localhost. A name may be one that its owner made to stand
/// for this host a moment ago, so that his page passes for ours (DNS rebinding).
fn is_of_an_address(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let host = origin.as_ref().and_then(Uri::host).map(|host| host.trim_matches(['[', ']']));
    host.is_some_and(|host| host == "localhost" || host.parse::<IpAddr>().is_ok())
}

fn read(verb: &str, headers: &HeaderMap, body: &[u8]) -> Result<Wish, Refusal> {
    let bad = |why: String| (StatusCode::BAD_REQUEST, "bad_request", why);
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let why = "the body has to be JSON, with `Content-Type: application/json`";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_request", why.to_owned()));
    }
    let member =
        || from_object::<Member>(body).map_err(|e| bad(format!("expected {{\"addr\": \"HOST:PORT\"}}: {e}")));
    let request = match verb {
        "pause" | "resume" => {
            let Nothing {} = from_object(body).map_err(|e| bad(format!("expected {{}}: {e}")))?;
            return Ok(Wish::Pause(verb == "pause"));
        }
        "add" => member().map(|Member { addr, overwrite }| Request::Add { addr, overwrite }),
        "remove" => match member()? {
            Member { overwrite: true, .. } => Err(bad("`overwrite` belongs to `add`".to_owned())),
            Member { addr, .. } => Ok(Request::Remove { addr }),
        },
        "failover" => from_object(body)
            .map(|Failover { to, accept_loss }| Request::Failover { to, accept_loss })
            .map_err(|e| bad(format!("expected {{\"to\": \"HOST:PORT\", \"accept_loss\": false}}: {e}"))),
        "switchover" => from_object(body)
            .map(|Switchover { to }| Request::Switchover { to })
            .map_err(|e| bad(format!("expected {{\"to\": \"HOST:PORT\"}}: {e}"))),
        _ => {
            let why = "no such page; there are switchover, failover, pause, resume, add and remove";
            Err((StatusCode::NOT_FOUND, "not_found", why.to_owned()))
        }
    };
    request.map(Wish::Request)
}

fn words(request: &Request) -> String {
    match request {
        Request::Add { addr, overwrite: false } => format!("{addr} as a member"),
        Request::Add { addr, overwrite: true } => format!("{addr} as a member, whatever it holds"),
        Request::Remove { addr } => format!("{addr} to leave the group"),
        Request::Switchover { to } => {
            format!("a switchover{}", to.as_ref().map(|to| format!(" to {to}")).unwrap_or_default())
        }
        Request::Failover { to, accept_loss } => {
            let to = to.as_ref().map(|to| format!(" to {to}")).unwrap_or_default();
            format!("a failover{to}{}", if *accept_loss { ", accepting loss" } else { "" })
        }
    }
}

fn told(done: &Done) -> Value {
    match done {
        Done::Added(addr) => json!({"done": format!("{addr} is a member"), "member": addr}),
        Done::Removed { addr, released: true } => {
            json!({"done": format!("{addr} is no member any more, and follows nobody"), "member": addr})
        }
        Done::Removed { addr, released: false } => {
            let why = "it did not answer: stop it, or REPLICAOF NO ONE by hand when it is back";
            json!({"done": format!("{addr} is no member any more; {why}"), "member": addr})
        }
        Done::FailedOver(None) => json!({"done": "another server is primary already"}),
        Done::FailedOver(Some(timeline)) => {
            let from = timeline.from.as_ref().map(ToString::to_string);
            let done = format!(
                "{} is primary instead of {}",
                timeline.to,
                from.as_deref().unwrap_or("nobody known")
            );
            let phases = phases_ms(timeline);
            json!({"done": done, "from": from, "to": timeline.to, "epoch": timeline.epoch, "phases": phases})
        }
    }
}

fn refusal(declined: &Declined) -> Response {
    let (status, code) = match declined {
        Declined::NotLeading => (StatusCode::CONFLICT, "not_leading"),
        Declined::Busy => (StatusCode::CONFLICT, "busy"),
        Declined::NoRecord => (StatusCode::CONFLICT, "no_record"),
        Declined::NoMember(_) => (StatusCode::NOT_FOUND, "no_member"),
        Declined::TimedOut(..) => (StatusCode::GATEWAY_TIMEOUT, "timed_out"),
        Declined::AlreadyPrimary(_) => (StatusCode::CONFLICT, "already_primary"),
        Declined::Overtaken(_) => (StatusCode::CONFLICT, "overtaken"),
        Declined::Paused
        | Declined::IsPrimary(_)
        | Declined::TooFew { .. }
        | Declined::NobodyEligible(_)
        | Declined::Unfit(..)
        | Declined::NobodyFit(_)
        | Declined::Unready(_)
        | Declined::NotLevel(..)
        | Declined::GivenBack(_) => (StatusCode::CONFLICT, "refused"),
    };
    error(status, code, &declined.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn json_headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        headers
    }

    fn at(addr: &str) -> Endpoint {
        addr.parse().unwrap()
    }

    #[test]
    fn what_can_be_asked() {
        let read =
            |verb, body: &str| read(verb, &json_headers(), body.as_bytes()).map_err(|(status, ..)| status);
        let asks = |request| Ok(Wish::Request(request));
        assert_eq!(
            read("add", r#"{"addr":"a:1"}"#),
            asks(Request::Add { addr: at("a:1"), overwrite: false })
        );
        assert_eq!(read("pause", "{}"), Ok(Wish::Pause(true)));
        assert_eq!(read("resume", "{}"), Ok(Wish::Pause(false)));
        assert_eq!(read("remove", r#"{"addr":"a:1"}"#), asks(Request::Remove { addr: at("a:1") }));
        assert_eq!(read("failover", "{}"), asks(Request::Failover { to: None, accept_loss: false }));
        let all = r#"{"to":"a:1","accept_loss":true}"#;
        assert_eq!(read("failover", all), asks(Request::Failover { to: Some(at("a:1")), accept_loss: true }));
        for (verb, body) in [
            ("add", ""),
            ("add", "{}"),
            ("add", r#"{"addr":"a"}"#),
            ("remove", r#"{"addr":"a:1","overwrite":true}"#),
            ("add", r#"["a:1",true]"#),
            ("failover", ""),
            ("pause", ""),
            ("pause", "[]"),
            ("resume", r#"{"to":"a:1"}"#),
            ("failover", r#"{"accept-loss":true}"#),
            ("failover", "[null,true]"),
        ] {
            assert_eq!(read(verb, body), Err(StatusCode::BAD_REQUEST), "{verb} {body}");
        }
        assert_eq!(read("explode", "{}"), Err(StatusCode::NOT_FOUND));
        let bare = super::read("failover", &HeaderMap::new(), b"{}").map_err(|(status, ..)| status);
        assert_eq!(bare, Err(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }

    #[test]
    fn who_may_ask() {
        let (driver, _inbox) = mpsc::unbounded_channel();
        let caller = |near| Caller { addr: "10.0.0.1:5".parse().unwrap(), near };
        let admits = |token: Option<&str>, near, header: Option<&'static str>| {
            let desk =
                Desk { driver: driver.clone(), token: token.map(|token| Arc::new(Secret::new(token))) };
            let mut headers = HeaderMap::new();
            header.map(|value| headers.insert(AUTHORIZATION, HeaderValue::from_static(value)));
            desk.admits(caller(near), &headers).is_ok()
        };
        assert!(admits(None, true, None));
        assert!(!admits(None, false, None));
        assert!(!admits(None, false, Some("Bearer x")));
        assert!(admits(Some("x"), false, Some("Bearer x")));
        assert!(!admits(Some("x"), true, None), "also from this host");
        assert!(!admits(Some("x"), true, Some("Bearer y")));
    }

    #[test]
    fn a_page_of_a_name_is_not_ours() {
        for (origin, ours) in [
            ("http://127.0.0.1:8001", true),
            ("http://[::1]:8001", true),
            ("http://localhost:8001", true),
            ("http://rebound.example:8001", false),
            ("http://127.0.0.1.example:8001", false),
            ("null", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            assert_eq!(is_of_an_address(&headers), ours, "{origin}");
        }
        assert!(is_of_an_address(&HeaderMap::new()), "no browser");
    }
}
