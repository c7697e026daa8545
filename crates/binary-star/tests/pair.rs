//! Pairs on real sockets: both manners of voting, both dialects, faults and forgeries.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait for real time, and fail by panicking"
)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use binary_star::{
    BinaryStar, Dialect, EndError, Event, HeartbeatError, Key, Lead, Options, PairEvent, Refusal, Role,
    StartError, State, Votes, Why, verify,
};
use common::{Client, HEARTBEAT, Ports, Side, fresh_instance, tcp, until};

const EXPIRED: PairEvent = PairEvent::PeerExpired;

fn pair(ports: Ports) -> (Side, Side) {
    let sides = (Side::start(ports.options(Role::Primary)), Side::start(ports.options(Role::Backup)));
    sides.0.until_state(State::Active);
    sides.1.until_state(State::Passive);
    sides
}

/// A PUB socket that says whatever the test wants where `side` expects its peer.
fn impostor(context: &zmq::Context, port: u16) -> zmq::Socket {
    let socket = context.socket(zmq::PUB).unwrap();
    socket.set_linger(0).unwrap();
    until("the port is free", || socket.bind(&tcp(port)).is_ok());
    socket
}

#[test]
fn the_primary_becomes_active_and_tells_why() {
    let ports = Ports::free();
    let (primary, backup) = pair(ports);
    primary.until_saw(&PairEvent::StateChanged {
        from: State::Primary,
        to: State::Active,
        why: Why::Event(Event::PeerBackup),
    });
    backup.until_saw(&PairEvent::StateChanged {
        from: State::Backup,
        to: State::Passive,
        why: Why::Event(Event::PeerActive),
    });
    assert!(primary.saw(&PairEvent::PeerAlive));
    let peer = backup.handle().peer();
    assert!(peer.alive && peer.heard.is_some());
    assert_eq!(peer.state, Some(State::Active));
}

fn bump(count: &AtomicUsize) {
    count.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn handlers_are_called_once_per_change() {
    let ports = Ports::free();
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let (active, passive) = (Arc::clone(&counts), Arc::clone(&counts));
    let backup = BinaryStar::new(ports.options(Role::Backup))
        .on_active(move || bump(&active[0]))
        .on_passive(move || bump(&passive[1]))
        .on_request(Some);
    let backup = Side::launch(backup);
    let primary = Side::start(ports.options(Role::Primary));
    backup.until_state(State::Passive);
    let count = |n: usize| counts[n].load(Ordering::SeqCst);
    until("the passive handler", || count(1) == 1);
    primary.running.stop().unwrap();
    Client::new(&zmq::Context::new(), ports.backup_voter).until_answered("1");
    assert_eq!((count(0), count(1)), (1, 1));
}

#[test]
fn a_vote_makes_the_backup_active_once_the_primary_is_gone() {
    let ports = Ports::free();
    let (primary, backup) = pair(ports);
    let context = zmq::Context::new();
    let (at_primary, at_backup) =
        (Client::new(&context, ports.primary_voter), Client::new(&context, ports.backup_voter));
    assert_eq!(at_primary.until_answered("1"), [b"1"]);
    // While the primary lives the backup takes no client.
    assert_eq!(at_backup.ask("2", HEARTBEAT * 3), None);
    assert!(backup.saw(&PairEvent::Refused(Refusal::NotActive)));

    primary.running.stop().unwrap();
    backup.until_saw(&EXPIRED);
    assert_eq!(backup.handle().state(), State::Passive, "only a vote makes it active");
    assert_eq!(at_backup.until_answered("3"), [b"3"]);
    assert_eq!(backup.handle().state(), State::Active);
    assert!(!backup.handle().peer().alive);

    // The primary comes back, stands by, and takes over again when the backup goes.
    let primary = Side::start(ports.options(Role::Primary));
    primary.until_state(State::Passive);
    until("the backup hears it", || backup.handle().peer().alive);
    backup.running.stop().unwrap();
    assert_eq!(at_primary.until_answered("4"), [b"4"]);
}

#[test]
fn a_standby_whose_peer_restarts_becomes_active() {
    let ports = Ports::free();
    let (primary, backup) = pair(ports);
    primary.running.stop().unwrap();
    let primary = Side::start(ports.options(Role::Primary));
    backup.until_state(State::Active);
    primary.until_state(State::Passive);
}

#[test]
fn a_lone_primary_waits_for_the_expiry_and_a_lone_backup_for_ever() {
    let (here, there) = (Ports::free(), Ports::free());
    let primary = Side::start(here.options(Role::Primary));
    let backup = Side::start(there.options(Role::Backup));
    let context = zmq::Context::new();
    Client::new(&context, here.primary_voter).until_answered("1");
    assert!(primary.saw(&EXPIRED), "not before the peer is expired");
    backup.until_saw(&EXPIRED);
    assert_eq!(Client::new(&context, there.backup_voter).ask("1", HEARTBEAT * 3), None);
    assert_eq!(backup.handle().state(), State::Backup);
}

#[test]
fn the_peer_dead_dialect_needs_no_vote() {
    let ports = Ports::free();
    let options = |role| Options { dialect: Dialect::PeerDead, ..ports.options(role) };
    let primary = Side::start(options(Role::Primary));
    let backup = Side::start(options(Role::Backup));
    primary.until_state(State::Active);
    backup.until_state(State::Passive);
    primary.running.stop().unwrap();
    backup.until_state(State::Active);
    backup.until_saw(&PairEvent::StateChanged {
        from: State::Passive,
        to: State::Active,
        why: Why::Event(Event::PeerDead),
    });
    let primary = Side::start(options(Role::Primary));
    primary.until_state(State::Passive);
}

#[test]
fn dual_states_end_the_guides_reactor() {
    for (said, refusal) in [("3", Refusal::DualActive), ("4", Refusal::DualPassive)] {
        let ports = Ports::free();
        let (primary, backup) = pair(ports);
        let side = match refusal {
            Refusal::DualActive => {
                backup.running.stop().unwrap();
                primary
            }
            Refusal::DualPassive | Refusal::NotActive => {
                primary.running.stop().unwrap();
                backup
            }
        };
        let context = zmq::Context::new();
        let port = if said == "3" { ports.backup } else { ports.primary };
        let impostor = impostor(&context, port);
        let ended = PairEvent::Ended(Some(EndError::Refused(refusal)));
        until("the end", || {
            impostor.send(said, 0).unwrap();
            side.saw(&ended)
        });
        assert_eq!(side.running.wait(), Err(EndError::Refused(refusal)));
    }
}

#[test]
fn dual_states_are_settled_by_the_lead() {
    let ports = Ports::free();
    let primary = Side::start(ports.by_lead(Role::Primary));
    let backup = Side::start(ports.by_lead(Role::Backup));
    backup.until_state(State::Passive);
    backup.handle().vote(Lead::Won);
    for side in [&primary, &backup] {
        side.until_saw(&PairEvent::Refused(Refusal::DualActive));
    }
    primary.handle().vote(Lead::Lost);
    primary.until_state(State::Passive);
    backup.handle().vote(Lead::Lost);
    for side in [&primary, &backup] {
        side.until_saw(&PairEvent::Refused(Refusal::DualPassive));
    }
    primary.handle().vote(Lead::Won);
    primary.until_state(State::Active);
    primary.until_saw(&PairEvent::StateChanged {
        from: State::Passive,
        to: State::Active,
        why: Why::Lead(Lead::Won),
    });
    until("the backup hears it", || backup.handle().peer().state == Some(State::Active));
    assert_eq!(backup.handle().state(), State::Passive);
}

#[test]
fn a_lone_monitor_binds_nothing_and_the_lead_lifts_it() {
    let ports = Ports::free();
    let lone = Side::start(Options { peer: None, ..ports.by_lead(Role::Backup) });
    lone.until_saw(&EXPIRED);
    lone.handle().vote(Lead::Won);
    lone.until_state(State::Active);
    lone.let_pass(2);
    for port in [ports.backup, ports.backup_voter] {
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}

#[test]
fn the_active_monitor_answers_one_part_requests_only() {
    let ports = Ports::free();
    let primary = Side::start(ports.by_lead(Role::Primary));
    let backup = Side::start(ports.by_lead(Role::Backup));
    backup.until_state(State::Passive);
    let context = zmq::Context::new();
    let client = Client::new(&context, ports.primary_voter);
    assert_eq!(client.ask("too early", HEARTBEAT), None, "no reply was set yet");
    for side in [&primary, &backup] {
        side.handle().set_reply(*br#"{"services":[]}"#);
    }
    assert_eq!(client.until_answered("services"), [br#"{"services":[]}"#]);
    assert!(
        primary.events().iter().any(|event| {
            matches!(event, PairEvent::Request { body, envelope } if body == b"services" && !envelope.is_empty())
        }),
        "the request is told"
    );
    primary.handle().set_reply(*b"{}");
    assert_eq!(client.until_answered("services"), [b"{}"]);
    assert_eq!(Client::new(&context, ports.backup_voter).ask("services", HEARTBEAT * 3), None);
    assert_eq!(backup.handle().state(), State::Passive, "a request is no vote");

    let stranger = context.socket(zmq::DEALER).unwrap();
    stranger.set_linger(0).unwrap();
    stranger.connect(&tcp(ports.primary_voter)).unwrap();
    for malformed in [&["no delimiter"][..], &[""], &["", "two", "parts"], &["", "", ""]] {
        stranger.send_multipart(malformed, 0).unwrap();
    }
    primary.until_saw(&PairEvent::BadRequest(4));
    assert_eq!(client.until_answered("services"), [b"{}"]);
    assert_eq!(stranger.poll(zmq::POLLIN, 0).unwrap(), 0, "nothing malformed was answered");
}

#[test]
fn a_keyed_pair_hears_itself_and_signs_its_replies() {
    let ports = Ports::free();
    let primary = Side::start(ports.keyed(Role::Primary, b"secret"));
    let backup = Side::start(ports.keyed(Role::Backup, b"secret"));
    primary.until_state(State::Active);
    backup.until_state(State::Passive);
    primary.handle().set_reply(*b"{}");
    let reply = Client::new(&zmq::Context::new(), ports.primary_voter).until_answered("services");
    assert_eq!(reply.len(), 2);
    assert!(verify(&Key::new(b"secret").unwrap(), &reply[0], &reply[1]));

    // A restarted side is a new instance, and is heard by the one that stayed.
    primary.running.stop().unwrap();
    backup.until_saw(&EXPIRED);
    backup.handle().vote(Lead::Won);
    let primary = Side::start(ports.keyed(Role::Primary, b"secret"));
    primary.until_state(State::Passive);
    until("the backup hears it", || backup.handle().peer().alive);
    for side in [&primary, &backup] {
        assert!(!side.events().iter().any(|event| matches!(event, PairEvent::BadHeartbeat(..))));
    }
}

#[test]
fn a_peer_with_another_key_or_none_is_not_heard() {
    let rows = [
        (None, HeartbeatError::Plain, HeartbeatError::Keyed),
        (Some(b"other"), HeartbeatError::Forged, HeartbeatError::Forged),
    ];
    for (secret, here, there) in rows {
        let ports = Ports::free();
        let primary = Side::start(ports.keyed(Role::Primary, b"secret"));
        let key = secret.map(|secret| Key::new(secret).unwrap());
        let backup = Side::start(Options { key, ..ports.by_lead(Role::Backup) });
        primary.until_saw(&PairEvent::BadHeartbeat(here, 2));
        backup.until_saw(&PairEvent::BadHeartbeat(there, 2));
        for side in [&primary, &backup] {
            side.until_saw(&EXPIRED);
            assert!(!side.saw(&PairEvent::PeerAlive));
        }
    }
}

#[test]
fn a_recorded_peer_does_not_come_back() {
    let ports = Ports::free();
    let backup = Side::start(ports.keyed(Role::Backup, b"secret"));
    let primary = Side::start(ports.keyed(Role::Primary, b"secret"));
    let context = zmq::Context::new();
    let recorder = context.socket(zmq::SUB).unwrap();
    recorder.set_subscribe(b"").unwrap();
    recorder.connect(&tcp(ports.primary)).unwrap();
    backup.until_state(State::Passive);
    let recording: Vec<_> = (0..5).map(|_| recorder.recv_bytes(0).unwrap()).collect();
    until("the backup has heard them all", || backup.handle().peer().alive);
    backup.let_pass(3);
    primary.running.stop().unwrap();

    let impostor = impostor(&context, ports.primary);
    let replayed = |event: &PairEvent| matches!(event, PairEvent::BadHeartbeat(HeartbeatError::Replayed, _));
    until("the replay is refused while the peer expires", || {
        recording.iter().for_each(|frame| impostor.send(frame, 0).unwrap());
        backup.events().iter().any(replayed) && backup.saw(&EXPIRED)
    });
    // Cut short, prolonged, and not one frame.
    impostor.send(&recording[4][..60], 0).unwrap();
    impostor.send([&recording[4][..], b"x"].concat(), 0).unwrap();
    impostor.send_multipart([&recording[4][..], b""], 0).unwrap();
    for kind in [HeartbeatError::Truncated, HeartbeatError::Junk] {
        let told = |event: &PairEvent| matches!(event, PairEvent::BadHeartbeat(why, _) if *why == kind);
        until("the junk is told", || backup.events().iter().any(told));
    }
    assert!(!backup.handle().peer().alive);
}

#[test]
fn a_flood_of_junk_delays_no_heartbeat() {
    let ports = Ports::free();
    let primary = Side::start(ports.options(Role::Primary));
    let context = zmq::Context::new();
    let impostor = impostor(&context, ports.backup);
    let beats = || primary.events().iter().filter(|event| matches!(event, PairEvent::Beat { .. })).count();
    let junk = |event: &PairEvent| matches!(event, PairEvent::BadHeartbeat(HeartbeatError::Junk, 10_000));
    let start = beats();
    until("ten heartbeats under ten thousand frames", || {
        (0..1000).for_each(|_| impostor.send("junk", 0).unwrap());
        primary.events().iter().any(junk) && beats() >= start + 10
    });
    assert!(primary.saw(&EXPIRED), "junk is no sign of life");
    assert_eq!(primary.handle().state(), State::Primary);
}

/// A TCP connection that can be cut without either end being told: what was open when it was cut stays open and
/// silent, as after a cable was pulled; only connections opened after the healing carry anything.
struct Link {
    port: u16,
    /// Odd while cut. A connection carries bytes only while this is what it was when the connection began.
    age: Arc<AtomicU64>,
}

impl Link {
    fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let link = Link { port: listener.local_addr().unwrap().port(), age: Arc::default() };
        let age = Arc::clone(&link.age);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let born = age.load(Ordering::SeqCst);
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let age = Arc::clone(&age);
                    std::thread::spawn(move || {
                        carry(from, to, || born.is_multiple_of(2) && age.load(Ordering::SeqCst) == born)
                    });
                }
            }
        });
        link
    }

    fn toggle(&self) {
        self.age.fetch_add(1, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, open: impl Fn() -> bool) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if open() && to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    to.shutdown(std::net::Shutdown::Both).ok();
}

#[test]
fn a_cut_link_is_noticed_on_both_sides_and_heals_by_itself() {
    let ports = Ports::free();
    let (forth, back) = (Link::to(ports.primary), Link::to(ports.backup));
    let primary = Side::start(Options { peer: Some(tcp(back.port)), ..ports.by_lead(Role::Primary) });
    let backup = Side::start(Options { peer: Some(tcp(forth.port)), ..ports.by_lead(Role::Backup) });
    primary.until_state(State::Active);
    backup.until_state(State::Passive);
    for link in [&forth, &back] {
        link.toggle();
    }
    for side in [&primary, &backup] {
        until("silence", || !side.handle().peer().alive);
    }
    for link in [&forth, &back] {
        link.toggle();
    }
    for side in [&primary, &backup] {
        until("heard again", || side.handle().peer().alive);
    }
    assert_eq!((primary.handle().state(), backup.handle().state()), (State::Active, State::Passive));
}

#[test]
fn a_stall_of_our_own_does_not_expire_the_peer() {
    let ports = Ports::free();
    let heartbeat = Duration::from_millis(250);
    let stalled_once = Arc::new(AtomicUsize::new(0));
    let flag = Arc::clone(&stalled_once);
    // The handler of a change blocks the reactor's thread for eight heartbeats.
    let primary =
        BinaryStar::new(Options { heartbeat, ..ports.options(Role::Primary) }).on_active(move || {
            std::thread::sleep(heartbeat * 8);
            flag.store(1, Ordering::SeqCst);
        });
    let primary = Side::launch(primary);
    let _backup = Side::start(Options { heartbeat, ..ports.options(Role::Backup) });
    until("the stall", || stalled_once.load(Ordering::SeqCst) == 1);
    primary.until_saw(&PairEvent::Beat { stalled: true });
    primary.let_pass(2);
    let events = primary.events();
    let since = events.iter().position(|event| *event == PairEvent::PeerAlive).unwrap();
    assert!(!events[since..].contains(&EXPIRED), "{events:?}");
}

#[test]
fn what_cannot_start_says_why() {
    let ports = Ports::free();
    let _taken = TcpListener::bind(("127.0.0.1", ports.primary)).unwrap();
    let start = |options| BinaryStar::new(options).start().map(drop).map_err(|why| why.to_string());
    let taken = start(ports.options(Role::Primary));
    assert_eq!(taken, Err(format!("cannot use {}: Address already in use", tcp(ports.primary))));
    let foreign = Options { bind: "tcp://127.0.0.1".into(), ..ports.options(Role::Backup) };
    assert!(start(foreign).unwrap_err().starts_with("cannot use tcp://127.0.0.1: "));
    let idle = Options { heartbeat: Duration::ZERO, ..ports.options(Role::Backup) };
    assert!(matches!(BinaryStar::new(idle).start(), Err(StartError::Heartbeat(_))));
}

#[test]
fn a_handler_may_stop_or_break_the_reactor() {
    let ports = Ports::free();
    let options =
        Options { votes: Votes::ByLead, instance: fresh_instance(), ..ports.options(Role::Primary) };
    let broken = BinaryStar::new(options).on_active(|| panic!("on purpose")).start().unwrap();
    broken.handle().vote(Lead::Won);
    assert_eq!(broken.wait(), Err(EndError::Panicked));

    let (give, take) = std::sync::mpsc::channel::<binary_star::Running>();
    let side = BinaryStar::new(ports.options(Role::Primary))
        .on_event(move |_| {
            take.try_recv().ok();
        })
        .start()
        .unwrap();
    let handle = side.handle().clone();
    give.send(side).unwrap();
    until("the port is free again", || TcpListener::bind(("127.0.0.1", ports.primary)).is_ok());
    handle.stop();
}
