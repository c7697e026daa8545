//! One side of the guide's Binary Star pair: an echo service that a second one can take over.
//!
//! ```text
//! bstarsrv -p        heartbeats on tcp://127.0.0.1:5003, hears 5004, clients on 5001
//! bstarsrv -b        heartbeats on tcp://127.0.0.1:5004, hears 5003, clients on 5002
//! ```
//! `--bind E`, `--peer E`, `--voter E` and `--heartbeat-ms N` replace these.

use std::process::ExitCode;
use std::time::Duration;

use binary_star::{
    BinaryStar, Dialect, EndError, Event, Instance, Options, PairEvent, Role, State, Votes, Why,
};

const USAGE: &str =
    "usage: bstarsrv { -p | -b } [--bind ENDPOINT] [--peer ENDPOINT] [--voter ENDPOINT] [--heartbeat-ms N]";

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match options.role {
        Role::Primary => eprintln!("I: Primary active, waiting for backup (passive)"),
        Role::Backup => eprintln!("I: Backup passive, waiting for primary (active)"),
    }
    match serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("E: {why}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    BinaryStar::new(options).on_request(Some).on_event(|event| report(&event)).start()?.wait()?;
    Ok(())
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let role = match arguments.next().as_deref() {
        Some("-p") => Role::Primary,
        Some("-b") => Role::Backup,
        Some(other) => return Err(format!("{other}: the first argument is -p or -b")),
        None => return Err("which side?".into()),
    };
    let mut options = guide(role);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name}: its value is missing"))?;
        match name.as_str() {
            "--bind" => options.bind = value,
            "--peer" => options.peer = Some(value),
            "--voter" => options.voter = Some(value),
            "--heartbeat-ms" => {
                let ms = value.parse().map_err(|_| format!("{name} {value}: not a number"))?;
                options.heartbeat = Duration::from_millis(ms);
            }
            _ => return Err(format!("{name}: unknown")),
        }
    }
    Ok(options)
}

/// The guide's ports and pace.
fn guide(role: Role) -> Options {
    let (bind, peer, voter) = match role {
        Role::Primary => (5003, 5004, 5001),
        Role::Backup => (5004, 5003, 5002),
    };
    Options {
        dialect: Dialect::Guide,
        role,
        votes: Votes::ByClients,
        bind: format!("tcp://127.0.0.1:{bind}"),
        peer: Some(format!("tcp://localhost:{peer}")),
        voter: Some(format!("tcp://127.0.0.1:{voter}")),
        heartbeat: Duration::from_millis(1000),
        key: None,
        // Only keyed heartbeats name it.
        instance: Instance([0; 16]),
    }
}

/// The guide's words for each change; stderr is not buffered.
fn report(event: &PairEvent) {
    match event {
        PairEvent::StateChanged { from, to, why: Why::Event(event) } => {
            eprintln!("{}", words(*from, *to, *event))
        }
        PairEvent::Ended(Some(EndError::Refused(refusal))) => {
            eprintln!("E: fatal error - {refusal}, aborting")
        }
        PairEvent::BadHeartbeat(why, total) => eprintln!("W: heartbeat dropped: {why} ({total} so far)"),
        PairEvent::StateChanged { .. }
        | PairEvent::PeerAlive
        | PairEvent::PeerExpired
        | PairEvent::Refused(_)
        | PairEvent::Beat { .. }
        | PairEvent::Request { .. }
        | PairEvent::BadRequest(_)
        | PairEvent::Ended(_) => {}
    }
}

fn words(from: State, to: State, event: Event) -> String {
    match (from, event) {
        (State::Primary, Event::PeerBackup) => "I: connected to backup (passive), ready as active".into(),
        (State::Primary, Event::PeerActive) => "I: connected to backup (active), ready as passive".into(),
        (State::Primary, Event::ClientRequest) => "I: request from client, ready as active".into(),
        (State::Backup, Event::PeerActive) => "I: connected to primary (active), ready as passive".into(),
        (State::Passive, Event::PeerPrimary) => "I: primary (passive) is restarting, ready as active".into(),
        (State::Passive, Event::PeerBackup) => "I: backup (passive) is restarting, ready as active".into(),
        (State::Passive, Event::ClientRequest) => "I: failover successful, ready as active".into(),
        _ => format!("I: {from} is now {to} ({event:?})"),
    }
}
