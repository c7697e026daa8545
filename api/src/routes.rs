//! From an HTTP request to its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use failover::confirm::{Failure, classify};
use settings::Secret;
use tokio::time::Instant;
use wire::Reply;

use crate::answer::{Refusal, json, pair, text, under, with_copies};
use crate::config;
use crate::metrics::{Metrics, RouteLabel};
use crate::pool::{NotWritten, Pool};
use crate::request::{Key, Query, Route, decoded};
use crate::services::Services;

/// Everything that a request needs.
#[derive(Debug)]
pub(crate) struct Front {
    /// What the file says.
    pub(crate) api: config::Api,
    /// What is served.
    pub(crate) services: Arc<Services>,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
    in_flight: AtomicUsize,
    leaving: AtomicBool,
}

/// One request's share of `max_in_flight`.
struct Share<'a>(&'a Front);

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Front {
    /// A front without requests as yet.
    pub(crate) fn new(api: config::Api, services: Arc<Services>, metrics: Arc<Metrics>) -> Self {
        Self { api, services, metrics, in_flight: AtomicUsize::new(0), leaving: AtomicBool::new(false) }
    }

    /// From now on this process is not ready, and every answer is the last one of its connection. All else goes on.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether it is to end.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    fn share(&self) -> Result<Share<'_>, Refusal> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let share = Share(self);
        if before < self.api.max_in_flight {
            Ok(share)
        } else {
            Err(Refusal::Overloaded(self.api.max_in_flight))
        }
    }

    fn pool(&self, named: Option<&str>) -> Result<Arc<Pool>, Refusal> {
        let name = match named {
            None => self.api.service.clone(),
            Some(name) => {
                decoded(name, false).and_then(|name| String::from_utf8(name).ok()).unwrap_or_default()
            }
        };
        let missing = || Refusal::NotFound("unknown_service", format!("there is no service `{name}`"));
        self.services.named(&name).ok_or_else(missing)
    }

    fn authorized(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match &self.api.token {
            Some(token) if !carries(headers, token) => Err(Refusal::Unauthorized),
            Some(_) | None => Ok(()),
        }
    }
}

/// Answers one request, and counts it.
pub(crate) async fn answer(front: &Front, request: Request) -> Response<Bytes> {
    let begun = Instant::now();
    let uri = request.uri().clone();
    let route = Route::of(uri.path());
    let label = match route {
        Some(Route::Get(..)) => RouteLabel::get,
        Some(Route::Write(..)) => RouteLabel::write,
        Some(Route::Topology(_) | Route::Health | Route::Ready | Route::Metrics) | None => RouteLabel::other,
    };
    let result = match route {
        None => Err(Refusal::NotFound("not_found", "there is nothing at this path".to_owned())),
        Some(route) if !route.allows(request.method()) => Err(Refusal::Method(route.allowed())),
        Some(Route::Get(service, key)) => get(front, service, key, &uri, request.headers(), begun).await,
        Some(Route::Write(service, key)) => write(front, service, key, &uri, request, begun).await,
        Some(Route::Topology(service)) => topology(front, service),
        Some(Route::Health) => Ok(json(StatusCode::OK, r#"{"status":"ok"}"#)),
        Some(Route::Ready) => Ok(ready(front)),
        Some(Route::Metrics) => Ok(metrics(front)),
    };
    let response = result.unwrap_or_else(Refusal::into_response);
    front.metrics.answered(label, response.status().as_u16(), begun.elapsed());
    response
}

async fn get(
    front: &Front,
    service: Option<&str>,
    key: &str,
    uri: &axum::http::Uri,
    headers: &HeaderMap,
    begun: Instant,
) -> Result<Response<Bytes>, Refusal> {
    front.authorized(headers)?;
    let key = Key::read(key, &front.api.key_prefix)?;
    let query = Query::read(uri.query().unwrap_or_default())?;
    let pool = front.pool(service)?;
    let _share = front.share()?;
    let (stored, deadline) = (key.stored.into(), begun + front.api.deadline);
    let answer = if query.strong {
        pool.read_strong(stored, deadline).await.map_err(Refusal::NotConfirmed)?
    } else if query.secondary {
        pool.read_secondary(stored, deadline).await.map_err(Refusal::Unavailable)?
    } else {
        pool.read(stored, deadline).await.map_err(Refusal::Unavailable)?
    };
    let response = match &answer.reply {
        Reply::Bulk(value) => json(StatusCode::OK, pair(&key.shown, Some(value))),
        Reply::Nil => json(StatusCode::NOT_FOUND, pair(&key.shown, None)),
        Reply::Error(text) if classify(text) == Failure::WrongType => Refusal::WrongType.into_response(),
        Reply::Error(text) => return Err(Refusal::Unavailable(text.clone())),
        Reply::Status(_) | Reply::Int(_) | Reply::Array(_) => {
            return Err(Refusal::Unavailable("an answer that does not fit the question".to_owned()));
        }
    };
    Ok(under(response, &answer.view, answer.view.durability(front.api.durability)))
}

async fn write(
    front: &Front,
    service: Option<&str>,
    key: &str,
    uri: &axum::http::Uri,
    request: Request,
    begun: Instant,
) -> Result<Response<Bytes>, Refusal> {
    front.authorized(request.headers())?;
    let key = Key::read(key, &front.api.key_prefix)?;
    let query = Query::read(uri.query().unwrap_or_default())?;
    let pool = front.pool(service)?;
    let _share = front.share()?;
    let deadline = begun + front.api.deadline;
    let value = value(query.value, request, front.api.max_value_bytes, deadline).await?;
    let written = pool.write(key.stored.into(), value.clone(), query.ttl_ms, deadline).await;
    let acknowledged = written.map_err(|not_written| match not_written {
        NotWritten::Failed(why) => Refusal::Unavailable(why),
        NotWritten::TooFew(why) => Refusal::NotEnoughReplicas(why),
        NotWritten::Indeterminate(why) => {
            pool.metrics.indeterminate.inc();
            Refusal::Indeterminate(why)
        }
    })?;
    let response = json(StatusCode::OK, pair(&key.shown, Some(&value)));
    let response = under(response, &acknowledged.view, acknowledged.durability);
    Ok(with_copies(response, acknowledged.copies()))
}

/// The value of a write: the query's in the original's form, else the body.
async fn value(
    queried: Option<Vec<u8>>,
    request: Request,
    max_bytes: usize,
    deadline: Instant,
) -> Result<Bytes, Refusal> {
    let bad = |why: &str| Refusal::Bad("bad_value", why.to_owned());
    let is_get = request.method() == Method::GET;
    let value = match queried {
        Some(value) => {
            if !is_get && !body(request, max_bytes, deadline).await?.is_empty() {
                return Err(bad("the value stands in the query and in the body"));
            }
            Bytes::from(value)
        }
        None if is_get => return Err(bad("`value` is missing: /api/v1/write/KEY?value=VALUE")),
        None => body(request, max_bytes, deadline).await?,
    };
    if value.len() > max_bytes { Err(Refusal::TooLarge(max_bytes)) } else { Ok(value) }
}

async fn body(request: Request, max_bytes: usize, deadline: Instant) -> Result<Bytes, Refusal> {
    let announced =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > max_bytes as u64) {
        return Err(Refusal::TooLarge(max_bytes));
    }
    // One byte more tells a body that is too long from one that broke off.
    let read = to_bytes(request.into_body(), max_bytes.saturating_add(1));
    match tokio::time::timeout_at(deadline, read).await {
        Ok(Ok(bytes)) if bytes.len() > max_bytes => Err(Refusal::TooLarge(max_bytes)),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_too_long(&error) => Err(Refusal::TooLarge(max_bytes)),
        Ok(Err(error)) => Err(Refusal::Bad("bad_value", format!("the body cannot be read: {error}"))),
        Err(_) => Err(Refusal::Bad("bad_value", "the body did not come within the deadline".to_owned())),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.to_string().contains("length limit"))
}

fn topology(front: &Front, service: Option<&str>) -> Result<Response<Bytes>, Refusal> {
    let pool = front.pool(service)?;
    let view = pool.views.borrow().clone();
    let Some(view) = view else {
        return Err(Refusal::Unavailable(pool.ready().err().unwrap_or_default()));
    };
    let body = serde_json::json!({
        "service": pool.name,
        "primary": view.primary,
        "secondary": view.replicas,
        "epoch": view.epoch,
        "in_sync": view.in_sync.iter().map(|entry| &entry.addr).collect::<Vec<_>>(),
        "durability": view.durability(front.api.durability).as_str(),
        "source": view.source.as_str(),
        "age_ms": u64::try_from(front.services.age().as_millis()).unwrap_or(u64::MAX),
    });
    Ok(json(StatusCode::OK, body.to_string()))
}

/// Ready as long as the default service would serve; the others have no say, or one that is down would take all of
/// them from the load balancer.
fn ready(front: &Front) -> Response<Bytes> {
    let unready = match front.services.named(&front.api.service) {
        _ if front.is_leaving() => Some("this API is about to end".to_owned()),
        Some(pool) => pool.ready_within(front.api.deadline).err(),
        None => Some(format!("there is no service `{}` yet", front.api.service)),
    };
    match unready {
        None => json(StatusCode::OK, r#"{"ready":true,"reasons":[]}"#),
        Some(why) => {
            let body = serde_json::json!({ "ready": false, "reasons": [why] });
            json(StatusCode::SERVICE_UNAVAILABLE, body.to_string())
        }
    }
}

fn metrics(front: &Front) -> Response<Bytes> {
    let metrics = &front.metrics;
    metrics.in_flight.set(i64::try_from(front.in_flight.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
    metrics.zookeeper_connected.set(i64::from(front.services.age() == Duration::ZERO));
    for pool in front.services.all() {
        metrics.set_ready(&pool.name, pool.ready().is_ok() && pool.too_few().is_none());
    }
    text(StatusCode::OK, exposition::CONTENT_TYPE, metrics.text())
}

fn carries(headers: &HeaderMap, token: &Secret) -> bool {
    headers.get(AUTHORIZATION).is_some_and(|value| token.is_borne_by(value.as_bytes()))
}
