//! The HTTP front of a Redis group: follows who is primary, and routes reads and writes there.
//!
//! Read in this order: `view` (what is believed, and that it never goes back), `lane` (one connection: what may be
//! sent on it, and when), `round` (what waits for the replicas), `flight` (what is on its way, and the question who has
//! it), `script` (the steps that Redis takes as one), `settle` (what became of an answer that
//! never came), `pool` (all of a service together), `request`, `routes` and `answer` (what is asked
//! for, and what is answered), `serve` and `plain` (HTTP in bytes).

mod answer;
mod config;
mod flight;
mod lane;
mod metrics;
mod plain;
mod pool;
mod queue;
mod request;
mod round;
mod routes;
mod script;
mod serve;
mod services;
mod settle;
mod view;

use std::hash::{BuildHasher, RandomState};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use sd_notify::NotifyState;
use settings::{LogFormat, LogSettings};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use topology::zookeeper::{Session, SessionPhase, Store};
use topology::{Endpoint, Layout};

use config::Config;
use metrics::Metrics;
use pool::Options;
use routes::Front;
use services::Services;

/// How long a connection to Redis may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// HTTP front of a Redis group that Albireo keeps writable.
#[derive(Debug, Parser)]
#[command(name = "api", version)]
struct Arguments {
    /// The configuration.
    #[arg(default_value = "./api.ini", value_name = "FILE")]
    file: PathBuf,
    /// Where to listen, in place of the file's `[api] listen`.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<Endpoint>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut config = match Config::load(&arguments.file) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{}", problems.first());
            return ExitCode::from(2);
        }
    };
    if let Some(listen) = arguments.listen {
        config.api.listen = listen;
    }
    start_log(config.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!("{why}");
            ExitCode::FAILURE
        }
    };
    // Nothing is left to wait for; a name that is still being resolved must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

fn start_log(settings: LogSettings) {
    let level = settings.level.as_str();
    // The library reports every reconnect on its own; what matters of that is said here.
    let filter = tracing_subscriber::EnvFilter::new(format!(
        "{level},zookeeper_client=error,topology::zookeeper=warn"
    ));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Serves until a signal comes.
async fn run(config: Config) -> Result<(), String> {
    let listen = config.api.listen.clone();
    let refused = |e: std::io::Error| format!("cannot listen on {listen}: {e}");
    let listener = TcpListener::bind((listen.host(), listen.port())).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    let mut stops = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);

    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(
        service = config.api.service,
        durability = config.api.durability.as_str(),
        "api {} listens on {bound}; ZooKeeper at {}",
        env!("CARGO_PKG_VERSION"),
        config.zookeeper.hosts
    );
    let store = Store::open(config.store_options());
    tokio::spawn(tell_of(store.session()));
    tokio::spawn(tell_supervisor());
    let (deadline, drain) = (config.api.deadline, config.api.drain);
    let front = Arc::new(serve_from(config, store.clone()));
    let (stop, stopped) = watch::channel(false);
    let mut server = tokio::spawn(serve::run(listener, front.clone(), stopped));
    let asked = tokio::select! {
        ended = &mut server => return Err(format!("the server ended: {ended:?}")),
        asked = any(&mut stops) => asked,
    };
    _ = sd_notify::notify(false, &[NotifyState::Stopping]);
    front.leave();
    // Who chooses among several APIs has to see that before this one is gone; a person at a terminal does not.
    if asked == SignalKind::terminate() && !drain.is_zero() {
        tracing::info!("not ready any more; stopping in {} ms", drain.as_millis());
        let _ = tokio::time::timeout(drain, any(&mut stops)).await;
    }
    tracing::info!("stopping");
    let _ = stop.send(true);
    // Every request ends by its deadline; a client that does not read its answer is not waited for.
    let _ = tokio::time::timeout(deadline + Duration::from_secs(1), server).await;
    store.close().await;
    Ok(())
}

/// Tells systemd, if that is who asks, that the port is bound, and then that the runtime still turns.
async fn tell_supervisor() {
    let mut what = NotifyState::Ready;
    while std::env::var_os("NOTIFY_SOCKET").is_some() {
        // A supervisor that does not listen is its own affair.
        _ = sd_notify::notify(false, &[what]);
        what = NotifyState::Watchdog;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// One line when ZooKeeper goes away, and one when it is back.
async fn tell_of(mut session: watch::Receiver<Session>) {
    let mut answered = false;
    loop {
        let phase = session.borrow_and_update().phase;
        match (answered, phase) {
            (_, SessionPhase::Closing | SessionPhase::Closed) => return,
            (false, SessionPhase::Connected) => tracing::info!("ZooKeeper answers"),
            (true, SessionPhase::Disconnected | SessionPhase::Expired | SessionPhase::Connecting) => {
                tracing::warn!(
                    "ZooKeeper does not answer; requests go to the last known primary, no change is seen meanwhile"
                );
            }
            (true, SessionPhase::Connected)
            | (false, SessionPhase::Disconnected | SessionPhase::Expired | SessionPhase::Connecting) => {}
        }
        answered = phase == SessionPhase::Connected;
        if session.changed().await.is_err() {
            return;
        }
    }
}

fn serve_from(config: Config, store: Store) -> Front {
    let metrics = Arc::new(Metrics::new());
    let layout = Layout::new(config.zookeeper.state_root.clone());
    let logins = config.clone();
    let options = Options {
        durability: config.api.durability,
        process: format!("{:016x}", RandomState::new().hash_one(std::process::id())),
        connect_timeout: CONNECT_TIMEOUT,
        login: Box::new(move |addr| logins.login(addr)),
    };
    let services = Services::new(store, layout, options, metrics.clone());
    let mut kept = config.zookeeper.path.clone();
    kept.push(config.api.service_path.clone());
    for path in &kept {
        services.add(path);
    }
    if let Some(parent) = config.zookeeper.discover.clone() {
        tokio::spawn(services.clone().discover(parent, kept));
    }
    Front::new(config.api, services, metrics)
}

/// Ends with the first signal: which it was.
async fn any(signals: &mut [std::io::Result<tokio::signal::unix::Signal>; 2]) -> SignalKind {
    let [terminate, interrupt] = signals;
    tokio::select! {
        () = one(terminate) => SignalKind::terminate(),
        () = one(interrupt) => SignalKind::interrupt(),
    }
}

async fn one(signal: &mut std::io::Result<tokio::signal::unix::Signal>) {
    match signal {
        Ok(signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}
