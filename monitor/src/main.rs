//! `monitor FILE` runs one monitor in the foreground; `monitor check FILE` validates a configuration, also against
//! the live servers; the other verbs ask the monitor that leads.
//!
//! Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused for safety.
// Inputs and reports live for one turn of the loop; a box would only hide what they hold.
#![allow(clippy::large_enum_variant)]

mod admin;
mod asking;
mod backend;
mod call;
mod check;
mod clock;
mod config;
mod dashboard;
mod discovery;
mod dns;
mod door;
mod driver;
mod events;
mod fault;
mod hooks;
mod identity;
mod log;
mod lookup;
mod metrics;
mod publisher;
mod quiet;
mod redis;
mod report;
mod sentinel;
mod service;
mod status;
mod supervisor;
mod verbs;
mod vip;
mod webhook;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use binary_star::{BinaryStar, Dialect, Instance, Options, Running, Votes};
use clap::Parser;
use crowd::files;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use topology::zookeeper::Store;
use topology::{Endpoint, MonitorRecord};
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::config::Config;
use crate::driver::{Driver, End, Input};
use crate::metrics::Listener;
use crate::verbs::Verb;

const USAGE: &str = "\
monitor FILE
       monitor check FILE
       monitor status FILE [--json]
       monitor history FILE SERVICE [--json]
       monitor add FILE SERVICE HOST:PORT [--overwrite]
       monitor remove FILE SERVICE HOST:PORT
       monitor switchover FILE SERVICE [--to HOST:PORT]
       monitor failover FILE SERVICE [--to HOST:PORT] [--accept-loss]
       monitor pause FILE SERVICE
       monitor resume FILE SERVICE
       monitor vip FILE SERVICE --interface NAME --address IP/PREFIX [--local HOST:PORT]";

/// Watches groups of Redis servers, promotes a replica when the primary is gone, and publishes who is primary.
#[derive(Parser)]
#[command(name = "monitor", version, override_usage = USAGE)]
struct Arguments {
    /// FILE runs a monitor with this configuration. `check` validates it, also against the live servers. `status` shows
    /// who is primary and what is at risk, `history` what was decided and why. `add` and
    /// `remove` change the members of a group; `switchover` moves the primary without losing anything; `failover` has a
    /// replica take over at once; `pause` keeps everybody from taking over before `resume`; `vip` holds a virtual
    /// address while the server on this host is the primary
    #[arg(required = true, num_args = 1..=4, value_name = "VERB FILE SERVICE HOST:PORT")]
    words: Vec<String>,
    /// `add`: also a server that holds data of its own, which is gone then
    #[arg(long)]
    overwrite: bool,
    /// `switchover`, `failover`: to this replica, not to the best one
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<Endpoint>,
    /// `failover`: if the primary is lost and nobody is known to hold every acknowledged write, go on without what is gone
    #[arg(long)]
    accept_loss: bool,
    /// `status`, `history`: for programs
    #[arg(long)]
    json: bool,
    /// `vip`: the interface that is to have the address
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// `vip`: the virtual address, such as 10.0.0.9/24
    #[arg(long, value_name = "IP/PREFIX")]
    address: Option<vip::Address>,
    /// `vip`: this host's server as the record names it, if that is no address of an interface here
    #[arg(long, value_name = "HOST:PORT")]
    local: Option<Endpoint>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // --help and --version are no errors; the rest is usage, which clap ends with 2 as we do.
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
    match words[..] {
        ["check"] => usage("`monitor check` needs a FILE"),
        _ => match parse(&words, &arguments) {
            Ok(Task::Run(file)) => with_config(file, false, run),
            Ok(Task::Check(file)) => with_config(file, true, |config| in_runtime(check::run(config))),
            Ok(Task::Vip(file, request)) => with_config(file, false, |config| {
                log::start(config.log);
                in_runtime(vip::run(config, request))
            }),
            Ok(Task::Status(file)) => {
                with_config(file, false, |config| in_runtime(report::status(config, arguments.json)))
            }
            Ok(Task::History(file, service)) => with_config(file, false, |config| {
                in_runtime(report::history(config, service.to_owned(), arguments.json))
            }),
            Ok(Task::Ask(file, verb)) => {
                with_config(file, false, |config| in_runtime(verbs::run(config, verb)))
            }
            Err(why) => usage(&why),
        },
    }
}

/// What is to be done, with which file.
enum Task<'a> {
    Run(&'a str),
    Check(&'a str),
    Status(&'a str),
    History(&'a str, &'a str),
    Vip(&'a str, vip::Request),
    Ask(&'a str, Verb),
}

fn parse<'a>(words: &[&'a str], arguments: &Arguments) -> Result<Task<'a>, String> {
    let Arguments { overwrite, to, accept_loss, .. } = arguments;
    let only = |verb: &str, option: &str, given: bool| match given && words[0] != verb {
        true => Err(format!("{option} belongs to `monitor {verb}`")),
        false => Ok(()),
    };
    only("add", "--overwrite", *overwrite)?;
    if to.is_some() && !["switchover", "failover"].contains(&words[0]) {
        return Err("--to belongs to `monitor switchover` and `monitor failover`".to_owned());
    }
    only("failover", "--accept-loss", *accept_loss)?;
    if arguments.json && !["status", "history"].contains(&words[0]) {
        return Err("--json belongs to `monitor status` and `monitor history`".to_owned());
    }
    only("vip", "--interface", arguments.interface.is_some())?;
    only("vip", "--address", arguments.address.is_some())?;
    only("vip", "--local", arguments.local.is_some())?;
    let member = |name: &'static str, service: &str, addr: &str| {
        let addr: Endpoint = addr.parse().map_err(|e| format!("{addr}: {e}"))?;
        let body = serde_json::json!(asking::Member { addr, overwrite: *overwrite });
        Ok::<_, String>(Verb { name, service: service.to_owned(), body })
    };
    match *words {
        ["add", file, service, addr] => Ok(Task::Ask(file, member("add", service, addr)?)),
        ["remove", file, service, addr] => Ok(Task::Ask(file, member("remove", service, addr)?)),
        ["switchover", file, service] => {
            let body = serde_json::json!(asking::Switchover { to: to.clone() });
            Ok(Task::Ask(file, Verb { name: "switchover", service: service.to_owned(), body }))
        }
        ["failover", file, service] => {
            let body = serde_json::json!(asking::Failover { to: to.clone(), accept_loss: *accept_loss });
            Ok(Task::Ask(file, Verb { name: "failover", service: service.to_owned(), body }))
        }
        ["pause" | "resume", file, service] => {
            let name = if words[0] == "pause" { "pause" } else { "resume" };
            let body = serde_json::json!(asking::Nothing {});
            Ok(Task::Ask(file, Verb { name, service: service.to_owned(), body }))
        }
        ["vip", file, service] => {
            let (Some(interface), Some(address)) = (arguments.interface.clone(), arguments.address) else {
                return Err("`monitor vip` needs --interface and --address".to_owned());
            };
            let (service, local) = (service.to_owned(), arguments.local.clone());
            Ok(Task::Vip(file, vip::Request { service, interface, address, local }))
        }
        ["vip", ..] => {
            Err("expected: monitor vip FILE SERVICE --interface NAME --address IP/PREFIX".to_owned())
        }
        [verb @ ("add" | "remove"), ..] => Err(format!("expected: monitor {verb} FILE SERVICE HOST:PORT")),
        [verb @ ("pause" | "resume"), ..] => Err(format!("expected: monitor {verb} FILE SERVICE")),
        ["switchover", ..] => Err("expected: monitor switchover FILE SERVICE [--to HOST:PORT]".to_owned()),
        ["failover", ..] => {
            Err("expected: monitor failover FILE SERVICE [--to HOST:PORT] [--accept-loss]".to_owned())
        }
        ["status", file] => Ok(Task::Status(file)),
        ["history", file, service] => Ok(Task::History(file, service)),
        ["status", ..] => Err("expected: monitor status FILE [--json]".to_owned()),
        ["history", ..] => Err("expected: monitor history FILE SERVICE [--json]".to_owned()),
        ["check", file] => Ok(Task::Check(file)),
        [file] => Ok(Task::Run(file)),
        [verb, ..] => Err(format!("`{verb}` is no verb of monitor; `monitor --help` names them")),
        [] => Err("expected: monitor FILE".to_owned()),
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("monitor: {why}");
    ExitCode::from(2)
}

/// `check` tells every mistake, a start only the first.
fn with_config(file: &str, all: bool, then: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match Config::load(Path::new(file)) {
        Ok(config) => then(config),
        Err(problems) => {
            match all {
                true => eprintln!("{problems}"),
                false => eprintln!("{}", problems.first()),
            }
            ExitCode::from(2)
        }
    }
}

fn in_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            eprintln!("monitor: no runtime: {error}");
            ExitCode::from(1)
        }
    }
}

fn run(config: Config) -> ExitCode {
    log::start(config.log);
    if let Ok(plan) = std::env::var(fault::VARIABLE)
        && let Err(why) = fault::arm(&plan)
    {
        return usage(&why);
    }
    in_runtime(lead(Arc::new(config)))
}

async fn lead(config: Arc<Config>) -> ExitCode {
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    let may_open = files::raise();
    tracing::debug!(may_open, "files");
    let clock = Clock::start();
    let instance = match draw_instance() {
        Ok(instance) => instance,
        Err(error) => return failed(&format!("no random number from the system: {error}")),
    };
    let listener = match admin::bind(&config.admin.listen).await {
        Ok(listener) => listener,
        Err(error) => return failed(&format!("[admin] listen = {}: {error}", config.admin.listen)),
    };
    let sentinel = match &config.sentinel {
        None => None,
        Some(settings) => match sentinel::bind(&settings.listen).await {
            Ok(listener) => Some(listener),
            Err(error) => return failed(&format!("[sentinel] listen = {}: {error}", settings.listen)),
        },
    };
    let dns = match &config.dns {
        None => None,
        Some(settings) => match dns::bind(&settings.listen).await {
            Ok(sockets) => Some(sockets),
            Err(error) => return failed(&format!("[dns] listen = {}: {error}", settings.listen)),
        },
    };
    let (inputs, inbox) = mpsc::unbounded_channel();
    let pair = match start_pair(&config, instance, &inputs) {
        Ok(pair) => pair,
        Err(error) => return failed(&format!("[binary_star]: {error}")),
    };
    if let Err(error) = forward_signals(&inputs, config.file.clone()) {
        return failed(&format!("no signal handler: {error}"));
    }
    let record = MonitorRecord {
        instance: instance.0.iter().map(|byte| format!("{byte:02x}")).collect(),
        host: host(),
        admin: Some(config.admin.announce.clone()),
        role: Some(config.role_word().to_owned()),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        process: identity::own(),
        sentinel: config.sentinel.as_ref().map(|sentinel| sentinel.announce.clone()),
        beat: 0,
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        "monitor `{}` starts; admin on {}",
        config.name(),
        config.admin.listen
    );
    let store = Store::open(config.store_options());
    let handle = pair.as_ref().map(|pair| pair.handle().clone());
    let driver = Driver::new(config.clone(), clock, store.clone(), inputs.clone(), handle, record);
    let lookup = lookup::Desk::new(driver.told(), clock);
    let refused = driver.not_let_in(Listener::Admin);
    let events = events::Desk::new(inputs.clone(), driver.feed(), config.clone(), store);
    if let Err(error) = admin::start(listener, inputs, config.admin.token.clone(), lookup, events, refused) {
        return failed(&format!("[admin]: {error}"));
    }
    if let Some(listener) = sentinel {
        let started = driver.serve_sentinel(listener);
        if let Err(error) = started {
            return failed(&format!("[sentinel]: {error}"));
        }
    }
    if let Some(sockets) = dns
        && let Err(error) = driver.serve_dns(sockets)
    {
        return failed(&format!("[dns]: {error}"));
    }
    let end = driver.run(inbox).await;
    if let Some(Err(error)) = pair.map(Running::stop) {
        warn!("Binary Star did not end well: {error}");
    }
    match end {
        End::Stopped => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        End::NameTaken(by) => {
            let (name, host) = (&config.binary_star.name, by.host);
            error!(
                "the name `{name}` is held by another monitor, on {host}; give this one another [binary_star] name or role"
            );
            ExitCode::from(2)
        }
    }
}

fn failed(why: &str) -> ExitCode {
    error!("{why}");
    ExitCode::from(1)
}

fn draw_instance() -> std::io::Result<Instance> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Instance(bytes))
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} (process {})", name.trim(), std::process::id())
}

fn start_pair(
    config: &Config,
    instance: Instance,
    inputs: &mpsc::UnboundedSender<Input>,
) -> Result<Option<Running>, binary_star::StartError> {
    let pair = &config.binary_star;
    let Some(role) = pair.role else {
        info!("this monitor observes: it never leads, and tells who is primary");
        return Ok(None);
    };
    let Some(peer) = pair.peer.clone() else {
        warn!("no [binary_star] peer is configured: this monitor is alone, and nobody takes over from it");
        return Ok(None);
    };
    let options = Options {
        dialect: Dialect::Guide,
        role,
        votes: Votes::ByLead,
        bind: pair.bind.clone(),
        peer: Some(peer),
        voter: Some(pair.voter.clone()),
        heartbeat: pair.heartbeat,
        key: pair.key.clone(),
        instance,
    };
    let inputs = inputs.clone();
    // The driver outlives the pair; what is sent after its end is of no use to anybody.
    BinaryStar::new(options).on_event(move |event| drop(inputs.send(Input::Pair(event)))).start().map(Some)
}

fn forward_signals(inputs: &mpsc::UnboundedSender<Input>, file: PathBuf) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let inputs = inputs.clone();
    tokio::spawn(async move {
        loop {
            let input = tokio::select! {
                _ = terminate.recv() => Input::Stop,
                _ = interrupt.recv() => Input::Stop,
                _ = hangup.recv() => {
                    let file = file.clone();
                    // A file that is slow to read keeps nobody waiting.
                    match spawn_blocking(move || Config::load(file)).await {
                        Ok(read) => Input::Reload(read.map(Box::new)),
                        Err(_) => continue,
                    }
                }
            };
            if inputs.send(input).is_err() {
                return;
            }
        }
    });
    Ok(())
}
