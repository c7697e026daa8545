//! Admin HTTP: `/services`, `/metrics`, `/healthz`, `/readyz`, what an operator asks for ([`crate::asking`]), who is
//! primary ([`crate::lookup`]), the dashboard ([`crate::dashboard`]) and what it follows ([`crate::events`]). It asks the driver or reads its board; it keeps nothing itself. It has a thread and a
//! runtime of its own: whatever clients do there, the driver does not wait for it.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use settings::Secret;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use topology::Endpoint;

use crate::asking::{self, Desk};
use crate::door;
use crate::driver::Input;
use crate::metrics::Refused;
use crate::{dashboard, events, lookup};

/// What can be asked of the driver.
#[derive(Debug)]
pub(crate) enum Question {
    /// Everything: monitors and services, as JSON.
    Status,
    /// Why this monitor is not ready; an empty list of JSON when it is.
    Readiness,
    /// The text for Prometheus.
    Metrics,
}

type Driver = mpsc::UnboundedSender<Input>;

/// Binds the admin address.
pub(crate) async fn bind(addr: &Endpoint) -> std::io::Result<std::net::TcpListener> {
    TcpListener::bind((addr.host(), addr.port())).await?.into_std()
}

/// Serves until the process ends.
pub(crate) fn start(
    listener: std::net::TcpListener,
    driver: Driver,
    token: Option<Arc<Secret>>,
    lookup: lookup::Desk,
    events: events::Desk,
    refused: Refused,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let peers = events.clone().follow_peers();
    let pages = router(driver, token, lookup, events);
    let serve = move || {
        runtime.spawn(peers);
        runtime.block_on(door::serve(listener, pages, refused));
    };
    std::thread::Builder::new().name("admin".to_owned()).spawn(serve).map(drop)
}

fn router(driver: Driver, token: Option<Arc<Secret>>, lookup: lookup::Desk, events: events::Desk) -> Router {
    let desk = Desk { driver: driver.clone(), token };
    Router::new()
        .route("/healthz", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/readyz", get(readyz))
        .route("/services", get(services))
        .route("/services/{service}", get(service))
        .route("/metrics", get(metrics))
        .with_state(driver)
        .merge(Router::new().route("/services/{service}/{verb}", post(asking::ask)).with_state(desk))
        .merge(lookup::routes(lookup))
        .merge(events::routes(events))
        .merge(dashboard::routes())
        .fallback(|| async { error(StatusCode::NOT_FOUND, "not_found", "no such page") })
        .method_not_allowed_fallback(|| async {
            let why = "pages are read with GET, and /services/SERVICE/VERB is asked with POST";
            error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", why)
        })
}

pub(crate) async fn ask(driver: &Driver, question: Question) -> Result<String, Response> {
    let (answer, answered) = oneshot::channel();
    let gone = || error(StatusCode::SERVICE_UNAVAILABLE, "stopping", "this monitor is stopping");
    driver.send(Input::Ask(question, answer)).map_err(|_| gone())?;
    answered.await.map_err(|_| gone())
}

async fn services(State(driver): State<Driver>) -> Response {
    match ask(&driver, Question::Status).await {
        Ok(status) => ([(header::CONTENT_TYPE, "application/json")], status).into_response(),
        Err(response) => response,
    }
}

/// What the driver said.
pub(crate) fn read(said: &str) -> Value {
    serde_json::from_str(said).unwrap_or_default()
}

async fn service(State(driver): State<Driver>, name: Result<Path<String>, PathRejection>) -> Response {
    let Ok(Path(name)) = name else {
        return error(StatusCode::BAD_REQUEST, "bad_request", "the name of the service is not UTF-8");
    };
    let status = match ask(&driver, Question::Status).await {
        Ok(status) => read(&status),
        Err(response) => return response,
    };
    let found =
        status["services"].as_array().and_then(|all| all.iter().find(|s| s["service"] == name.as_str()));
    match found {
        Some(found) => Json(found.clone()).into_response(),
        None => {
            error(StatusCode::NOT_FOUND, "unknown_service", &format!("no service is called `{name}` here"))
        }
    }
}

async fn readyz(State(driver): State<Driver>) -> Response {
    match ask(&driver, Question::Readiness).await.map(|reasons| read(&reasons)) {
        Ok(Value::Array(reasons)) if reasons.is_empty() => Json(json!({"status": "ready"})).into_response(),
        Ok(reasons) => {
            let body = json!({"status": "not ready", "reasons": reasons});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
        Err(response) => response,
    }
}

async fn metrics(State(driver): State<Driver>) -> Response {
    match ask(&driver, Question::Metrics).await {
        Ok(text) => {
            let kind = exposition::CONTENT_TYPE;
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(response) => response,
    }
}

pub(crate) fn error(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({"error": {"code": code, "message": message}}))).into_response()
}
