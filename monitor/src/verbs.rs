//! `monitor failover|add|remove FILE SERVICE ...`: asks the monitor that leads, and says what came of it.
//!
//! Who leads, and at which address it can be asked, is read from ZooKeeper.

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use axum::http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use topology::zookeeper::Store;
use topology::{Endpoint, Layout, LeaderRecord, MonitorRecord};

use crate::call::{Call, call};
use crate::config::Config;
use crate::report;

/// How long ZooKeeper is waited for.
pub(crate) const REACH: Duration = Duration::from_secs(5);
/// Longer than the monitor itself gives it.
const ANSWER: Duration = Duration::from_secs(15);

/// What takes no longer is told of by its answer.
const QUIET_AT_FIRST: Duration = Duration::from_millis(700);
/// Between two looks at what is being done.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

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
            report::print(&format!("{}\n", answer["done"].as_str().unwrap_or("done")));
            let phases = answer["phases"].as_object().into_iter().flatten();
            let mut phases: Vec<_> = phases.map(|(phase, ms)| (ms.as_f64().unwrap_or(0.0), phase)).collect();
            phases.sort_by(|a, b| a.0.total_cmp(&b.0));
            for (millis, phase) in phases {
                report::print(&format!("  {millis:>8.2} ms  {}\n", phase.trim_end_matches("_ms")));
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
    let page = format!("/services/{}/{}", utf8_percent_encode(&verb.service, NON_ALPHANUMERIC), verb.name);
    let token = config.admin.token.as_deref();
    let asked = call(&admin, Call { page: &page, body: Some(&verb.body), token, limit: ANSWER });
    tokio::select! {
        answer = asked => answer,
        never = tell_progress(&admin, verb) => match never {},
    }
}

/// Says what the monitor is doing about the service while it has not answered, each thing once; to stderr, for it is no answer.
async fn tell_progress(admin: &Endpoint, verb: &Verb) -> Infallible {
    let page = format!("/services/{}", utf8_percent_encode(&verb.service, NON_ALPHANUMERIC));
    let (began, mut told) = (Instant::now(), String::new());
    loop {
        sleep(if told.is_empty() { QUIET_AT_FIRST } else { LOOK_AGAIN }).await;
        let seen = call(admin, Call { page: &page, body: None, token: None, limit: ANSWER }).await;
        let doing = match &seen {
            Ok((_, service)) => service["because"].as_str().unwrap_or("no such service").to_owned(),
            Err(why) => why.clone(),
        };
        if doing != told {
            eprintln!("monitor {}: {:.1} s: {doing}", verb.name, began.elapsed().as_secs_f64());
            told = doing;
        }
    }
}

/// Where the monitor that leads can be asked.
async fn active(config: &Config) -> Result<Endpoint, String> {
    let hosts = &config.zookeeper.hosts;
    let store = Store::open(config.store_options());
    let layout = Layout::new(config.zookeeper.state_root.clone());
    let found = timeout(REACH, find(&store, &layout)).await;
    store.close().await;
    found.unwrap_or_else(|_| Err(format!("ZooKeeper at {hosts} does not answer")))?.admin()
}

/// Who leads, or led last.
#[derive(Debug)]
pub(crate) struct Leader {
    /// None: the lead was given up, or nobody ever had it.
    pub(crate) name: Option<String>,
    /// What it says of itself, while it is there.
    pub(crate) record: Option<MonitorRecord>,
}

impl Leader {
    /// Where it can be asked, or why it cannot.
    pub(crate) fn admin(&self) -> Result<Endpoint, String> {
        let Some(name) = &self.name else { return Err("no monitor leads".to_owned()) };
        match self.record.as_ref().map(|record| &record.admin) {
            Some(Some(admin)) => Ok(admin.clone()),
            Some(None) => Err(format!("the monitor `{name}` leads, but names no admin address")),
            None => Err(format!("the monitor `{name}` led last and is not there")),
        }
    }
}

/// Reads who leads.
pub(crate) async fn find(store: &Store, layout: &Layout) -> Result<Leader, String> {
    let read = |error: topology::zookeeper::ReadError| error.to_string();
    let leader = store.get(&layout.leader()).await.map_err(read)?;
    let leader = leader.and_then(|found| serde_json::from_slice::<LeaderRecord>(&found.data).ok());
    let Some(leader) = leader.filter(|leader| !leader.name.is_empty()) else {
        return Ok(Leader { name: None, record: None });
    };
    let path = layout.monitor(&leader.name).map_err(|e| e.to_string())?;
    let record = store.get(&path).await.map_err(read)?;
    let record = record.and_then(|found| serde_json::from_slice::<MonitorRecord>(&found.data).ok());
    Ok(Leader { name: Some(leader.name), record })
}
