//! One question to a monitor over its admin HTTP: for the verbs, and for what one monitor shows of another.

use std::fmt::Display;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use settings::Secret;
use tokio::net::TcpStream;
use tokio::time::timeout;
use topology::Endpoint;

/// How long a connection is waited for.
const REACH: Duration = Duration::from_secs(5);
/// An answer is no longer than this: the status of some ten thousand services.
const ANSWER_MAX: usize = 64 << 20;

/// What is asked.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// A page, percent-encoded.
    pub(crate) page: &'a str,
    /// Posted as JSON; none is a GET.
    pub(crate) body: Option<&'a Value>,
    /// `[admin] token`.
    pub(crate) token: Option<&'a Secret>,
    /// For all of it.
    pub(crate) limit: Duration,
}

/// Asks the monitor at this address. Its answer has to be JSON.
pub(crate) async fn call(admin: &Endpoint, call: Call<'_>) -> Result<(StatusCode, Value), String> {
    let limit = call.limit;
    let asked = timeout(limit, ask(admin, call)).await;
    asked.map_err(|_| format!("the monitor at {admin} did not answer in time"))?
}

async fn ask(admin: &Endpoint, call: Call<'_>) -> Result<(StatusCode, Value), String> {
    let failed = |what: &dyn Display| format!("the monitor at {admin}: {what}");
    let connect = timeout(REACH, TcpStream::connect((admin.host(), admin.port()))).await;
    let stream = connect.map_err(|_| failed(&"no connection in time"))?.map_err(|e| failed(&e))?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    tokio::spawn(connection);
    let method = if call.body.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::builder().method(method).uri(call.page).header(HOST, admin.to_string());
    if call.body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    if let Some(token) = call.token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.text()));
    }
    let body = call.body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let request = request.body(body).map_err(|e| failed(&e))?;
    let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let body: Bytes = body.map_err(|e| failed(&e))?.to_bytes();
    let answer = serde_json::from_slice(&body).map_err(|_| failed(&"its answer is no JSON"))?;
    Ok((status, answer))
}
