//! `monitor failover|add|remove FILE SERVICE ...`: asks the monitor that leads, and says what came of it.
//!
//! Who leads, and at which address it can be asked, is read from ZooKeeper.

use std::process::ExitCode;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{Method, Request as HttpRequest, StatusCode};
use http_body_util::BodyExt;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use topology::zookeeper::Store;
use topology::{Endpoint, Layout, LeaderRecord, MonitorRecord};

use crate::config::Config;

/// How long ZooKeeper, and a connection to the monitor, is waited for.
const REACH: Duration = Duration::from_secs(5);
/// Longer than the monitor itself gives it.
const ANSWER: Duration = Duration::from_secs(15);

/// One verb with what it needs.
#[derive(Debug)]
pub(crate) struct Verb {
    /// The last part of the page.
    pub(crate) name: &'static str,
    /// The service.
    pub(crate) service: String,
    /// The body.
    pub(crate) body: Value,
}

/// Exit codes: 0 done, 1 failed, 3 refused for safety.
pub(crate) async fn run(config: Config, verb: Verb) -> ExitCode {
    match carry_out(&config, &verb).await {
        Ok((StatusCode::OK, answer)) => {
            println!("{}", answer["done"].as_str().unwrap_or("done"));
            let phases = answer["phases"].as_object().into_iter().flatten();
            let mut phases: Vec<_> = phases.map(|(phase, ms)| (ms.as_f64().unwrap_or(0.0), phase)).collect();
            phases.sort_by(|a, b| a.0.total_cmp(&b.0));
            for (millis, phase) in phases {
                println!("  {millis:>8.2} ms  {}", phase.trim_end_matches("_ms"));
            }
            ExitCode::SUCCESS
        }
        Ok((_, answer)) => {
            let error = &answer["error"];
            eprintln!("monitor {}: {}", verb.name, error["message"].as_str().unwrap_or("no reason given"));
            ExitCode::from(if error["code"] == "refused" { 3 } else { 1 })
        }
        Err(why) => {
            eprintln!("monitor {}: {why}", verb.name);
            ExitCode::from(1)
        }
    }
}

async fn carry_out(config: &Config, verb: &Verb) -> Result<(StatusCode, Value), String> {
    let admin = active(config).await?;
    let asked = ask(config, verb, &admin);
    timeout(ANSWER, asked).await.map_err(|_| format!("the monitor at {admin} did not answer in time"))?
}

/// Where the monitor that leads can be asked.
async fn active(config: &Config) -> Result<Endpoint, String> {
    let hosts = &config.zookeeper.hosts;
    let store = Store::open(config.store_options());
    let layout = Layout::new(config.zookeeper.state_root.clone());
    let found = timeout(REACH, find(&store, &layout)).await;
    store.close().await;
    found.unwrap_or_else(|_| Err(format!("ZooKeeper at {hosts} does not answer")))
}

async fn find(store: &Store, layout: &Layout) -> Result<Endpoint, String> {
    let read = |error: topology::zookeeper::ReadError| error.to_string();
    let leader = store.get(&layout.leader()).await.map_err(read)?;
    let leader = leader.and_then(|found| serde_json::from_slice::<LeaderRecord>(&found.data).ok());
    let Some(leader) = leader.filter(|leader| !leader.name.is_empty()) else {
        return Err("no monitor leads".to_owned());
    };
    let path = layout.monitor(&leader.name).map_err(|e| e.to_string())?;
    let record = store.get(&path).await.map_err(read)?;
    let record = record.and_then(|found| serde_json::from_slice::<MonitorRecord>(&found.data).ok());
    match record.map(|record| record.admin) {
        Some(Some(admin)) => Ok(admin),
        Some(None) => Err(format!("the monitor `{}` leads, but names no admin address", leader.name)),
        None => Err(format!("the monitor `{}` led last and is not there", leader.name)),
    }
}

async fn ask(config: &Config, verb: &Verb, admin: &Endpoint) -> Result<(StatusCode, Value), String> {
    let failed = |what: &dyn std::fmt::Display| format!("the monitor at {admin}: {what}");
    let connect = timeout(REACH, TcpStream::connect((admin.host(), admin.port()))).await;
    let stream = connect.map_err(|_| failed(&"no connection in time"))?.map_err(|e| failed(&e))?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    tokio::spawn(connection);
    let mut request = HttpRequest::builder()
        .method(Method::POST)
        .uri(format!("/services/{}/{}", utf8_percent_encode(&verb.service, NON_ALPHANUMERIC), verb.name))
        .header(HOST, admin.to_string())
        .header(CONTENT_TYPE, "application/json");
    if let Some(token) = &config.admin.token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.text()));
    }
    let request = request.body(Body::from(verb.body.to_string())).map_err(|e| failed(&e))?;
    let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let status = response.status();
    let body: Bytes = response.into_body().collect().await.map_err(|e| failed(&e))?.to_bytes();
    let answer = serde_json::from_slice(&body).map_err(|_| failed(&"its answer is no JSON"))?;
    Ok((status, answer))
}
