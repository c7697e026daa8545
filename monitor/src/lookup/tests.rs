use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::*;
use crate::discovery::Board;
use crate::discovery::facts::examples::{facts, replica, service};

const LIMIT: Duration = Duration::from_secs(20);

/// A board whose driver is the test, and who reads it.
fn desk() -> (Board, Desk) {
    // The driver does not turn in here.
    let board = Board::new(Facts { stale_after: LIMIT, ..facts() });
    let desk = Desk::new(board.reader(), Clock::start());
    (board, desk)
}

fn serve(desk: Desk) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, routes(desk)).await.unwrap();
        });
    });
    addr
}

/// The whole answer to one request.
fn ask(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
        .write_all(format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

fn status(said: &str) -> &str {
    said.get(9..12).unwrap_or_default()
}

fn body(said: &str) -> &str {
    said.split_once("\r\n\r\n").unwrap().1
}

/// Status and code of a refusal.
#[track_caller]
fn refusal(answer: Answer) -> (u16, &'static str) {
    match answer {
        Answer::Not(status, code, _) => (status.as_u16(), code),
        named @ (Answer::Primary { .. } | Answer::Node { .. }) => panic!("{named:?}"),
    }
}

/// Port and epoch of the primary, or why there is none.
fn found(answer: Answer) -> Result<(u16, u64), &'static str> {
    match answer {
        Answer::Primary { addr, epoch, .. } => Ok((addr.port(), epoch)),
        Answer::Not(_, code, _) => Err(code),
        node @ Answer::Node { .. } => panic!("{node:?}"),
    }
}

#[test]
fn the_answer_on_the_wire() {
    let (mut board, desk) = desk();
    let mut is = service(&[6379, 6380, 6381]);
    is.replicas[1].usable = false;
    board.service("posts", |_| is);
    let addr = serve(desk);
    let said = ask(addr, "GET /services/posts/primary");
    let json =
        r#"{"epoch":7,"primary":"10.0.0.1:6379","secondary":["10.0.0.1:6380"],"service":"posts","up":true}"#;
    assert_eq!((status(&said), body(&said)), ("200", json));
    for header in [
        "content-type: application/json\r\n",
        "cache-control: no-store\r\n",
        "x-albireo-primary: 10.0.0.1:6379\r\n",
        "x-albireo-epoch: 7\r\n",
    ] {
        assert!(said.contains(header), "{header}: {said}");
    }
    let head = ask(addr, "HEAD /services/posts/primary");
    assert!(head.contains("x-albireo-epoch: 7\r\n") && body(&head).is_empty(), "{head}");
    let node = r#"{"addr":"10.0.0.1:6380","epoch":7,"role":"replica","service":"posts"}"#;
    assert_eq!(body(&ask(addr, "GET /nodes/10.0.0.1:6380/replica")), node);
    for (page, expected) in [
        ("/services/posts/primary", "200"),
        ("/nodes/10.0.0.1:6379/primary", "200"),
        ("/nodes/10.0.0.1%3A6379/primary", "200"),
        ("/nodes/10.0.0.1:6379/replica", "503"),
        ("/nodes/10.0.0.1:6380/primary", "503"),
        ("/nodes/10.0.0.1:6381/replica", "503"),
        ("/nodes/10.0.0.1:1/primary", "404"),
        ("/nodes/%ff/primary", "400"),
        ("/nodes/nonsense/primary", "400"),
        ("/services/%ff/primary", "400"),
        ("/services/others/primary", "404"),
        ("/services/posts/primary?after_epoch=x", "400"),
        ("/services/posts/primary?after_epoch=-1", "400"),
        ("/services/posts/primary?after-epoch=1", "400"),
        ("/services/posts/primary?wait_ms=1", "400"),
        ("/services/posts/primary?after_epoch=1&after_epoch=2", "400"),
    ] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            let said = ask(addr, &format!("{method} {page}"));
            assert_eq!(status(&said), expected, "{method} {page}: {said}");
            assert!(said.contains("cache-control: no-store\r\n"), "{said}");
            assert_eq!(said.contains("retry-after: 1\r\n"), expected == "503", "{said}");
        }
    }
}

#[test]
fn nobody_is_named_without_certainty() {
    let (mut board, desk) = desk();
    let well = service(&[6379, 6380, 6381]);
    assert_eq!(found(desk.primary("posts", 0)), Ok((6379, 7)));
    assert_eq!(refusal(desk.primary("others", 0)), (404, "unknown_service"));
    let master = |change: fn(&mut Master)| {
        let mut is = well.clone();
        is.master.as_mut().map(change);
        is
    };
    for (is, code, replicas_serve) in [
        (Service { known: false, ..well.clone() }, "not_certain", false),
        (Service { serving: None, ..master(|m| m.in_progress = true) }, "promoting", true),
        (Service { serving: None, master: None, ..well.clone() }, "promoting", true),
        (master(|m| m.contradicted = true), "contradicted", true),
    ] {
        board.service("posts", |_| is);
        assert_eq!(refusal(desk.primary("posts", 0)), (503, code));
        // Also for one that is no member as far as anybody knows: it may be the one that becomes primary.
        for port in [6379, 6380, 6390] {
            let node = format!("10.0.0.1:{port}");
            assert_eq!(refusal(desk.node(Role::Primary, Some(&node))), (503, code), "{port}");
        }
        let of_replica = desk.node(Role::Replica, Some("10.0.0.1:6380"));
        assert_eq!(matches!(of_replica, Answer::Node { .. }), replicas_serve, "{code}: {of_replica:?}");
    }
    // One that is only dead is named until another one is recorded.
    board.service("posts", |_| master(|m| (m.s_down, m.o_down, m.disconnected) = (true, true, true)));
    assert!(matches!(desk.primary("posts", 0), Answer::Primary { up: false, .. }));

    let stands_still = Board::new(Facts { turned: Time::ZERO, stale_after: Duration::ZERO, ..facts() });
    let desk = Desk::new(stands_still.reader(), Clock::start());
    std::thread::sleep(Duration::from_millis(1));
    assert_eq!(refusal(desk.primary("posts", 0)), (503, "stale"));
    for (role, port) in [(Role::Primary, 6379), (Role::Replica, 6380), (Role::Primary, 6390)] {
        assert_eq!(refusal(desk.node(role, Some(&format!("10.0.0.1:{port}")))), (503, "stale"));
    }
}

#[test]
fn what_a_server_is() {
    let (mut board, desk) = desk();
    let mut other = service(&[7000, 7001]);
    other.master.as_mut().unwrap().addr = "[2001:db8::1]:7000".parse().unwrap();
    other.replicas.push(replica(6379, 7000));
    other.replicas[1].usable = false;
    board.service("others", |_| other);
    let role_of = |role, node: &str| match desk.node(role, Some(node)) {
        Answer::Node { service, .. } => service,
        Answer::Not(_, code, _) => code.to_owned(),
        primary @ Answer::Primary { .. } => panic!("{primary:?}"),
    };
    for (node, as_primary, as_replica) in [
        ("10.0.0.1:6379", "posts", "not_replica"),
        ("10.0.0.1:6380", "not_primary", "posts"),
        ("10.0.0.1:7001", "not_primary", "others"),
        ("[2001:db8::1]:7000", "others", "not_replica"),
        ("[2001:DB8:0::1]:7000", "others", "not_replica"),
        ("[2001:db8::1]:7001", "unknown_node", "unknown_node"),
        ("10.0.0.1:9", "unknown_node", "unknown_node"),
        ("2001:db8::1:7000", "bad_request", "bad_request"),
        ("10.0.0.1", "bad_request", "bad_request"),
        ("", "bad_request", "bad_request"),
    ] {
        assert_eq!(
            (role_of(Role::Primary, node).as_str(), role_of(Role::Replica, node).as_str()),
            (as_primary, as_replica),
            "{node}"
        );
    }
    // What is certain of one service says more than what is unclear of another one.
    board.service("others", |_| Service { known: false, ..service(&[7000, 7001]) });
    assert_eq!(role_of(Role::Primary, "10.0.0.1:6380"), "not_primary");
    assert_eq!(role_of(Role::Primary, "10.0.0.1:6379"), "posts");
    assert_eq!(role_of(Role::Primary, "10.0.0.1:9"), "not_certain");
    let addr = serve(desk.clone());
    board.service("others", |_| {
        let mut is = service(&[7000]);
        is.master.as_mut().unwrap().addr = "[2001:db8::1]:7000".parse().unwrap();
        is
    });
    for page in ["/nodes/[2001:db8::1]:7000/primary", "/nodes/%5B2001%3Adb8%3A%3A1%5D%3A7000/primary"] {
        assert_eq!(status(&ask(addr, &format!("GET {page}"))), "200", "{page}");
    }
}

fn under(epoch: u64, ports: &[u16]) -> Service {
    Service { epoch, serving: Some((epoch, Time::ZERO)), ..service(ports) }
}

/// A long poll that is under way, and is looked at.
struct Poll(tokio::task::JoinHandle<Answer>);

impl Poll {
    fn begin(desk: &Desk, known: u64, wait: Duration) -> Self {
        let desk = desk.clone();
        Self(tokio::spawn(async move {
            let place = desk.places.clone().try_acquire_owned().unwrap();
            desk.later_primary("posts", known, wait, place).await
        }))
    }

    /// It has had every occasion to answer and has not.
    async fn waits(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
            assert!(!self.0.is_finished(), "it was answered");
        }
    }

    async fn answer(self) -> Result<(u16, u64), &'static str> {
        found(timeout(LIMIT, self.0).await.expect("an answer in time").unwrap())
    }
}

#[tokio::test]
async fn a_long_poll_is_answered_by_a_higher_epoch_that_is_served() {
    let (mut board, desk) = desk();
    board.service("posts", |_| under(7, &[6379, 6380]));
    assert_eq!(Poll::begin(&desk, 6, WAIT_MAX).answer().await, Ok((6379, 7)), "it is there already");
    let poll = Poll::begin(&desk, 7, WAIT_MAX);
    poll.waits().await;
    for change in [
        // A probe, an outage, a promotion under way: none of them names a primary under a higher epoch.
        Service { replicas: vec![replica(6380, 1)], ..under(7, &[6379, 6380]) },
        Service { known: false, ..under(7, &[6379, 6380]) },
        under(7, &[6379, 6380]),
        Service { serving: None, master: None, ..under(8, &[6379, 6380]) },
        Service { known: false, ..under(8, &[6380, 6379]) },
    ] {
        board.service("posts", |_| change);
        poll.waits().await;
    }
    let knows_more = Poll::begin(&desk, 8, WAIT_MAX);
    board.service("posts", |_| under(8, &[6380, 6379]));
    assert_eq!(poll.answer().await, Ok((6380, 8)));
    // Epochs that went by unseen are not made up for: the answer is the present.
    knows_more.waits().await;
    board.service("posts", |_| under(9, &[6380, 6379]));
    board.service("posts", |_| under(12, &[6379, 6380]));
    assert_eq!(knows_more.answer().await, Ok((6379, 12)));
    let forgotten = Poll::begin(&desk, 12, WAIT_MAX);
    forgotten.waits().await;
    board.forget("posts");
    assert_eq!(forgotten.answer().await, Err("unknown_service"));
    assert_eq!(Poll::begin(&desk, 12, WAIT_MAX).answer().await, Err("unknown_service"));
}

#[tokio::test]
async fn a_long_poll_ends_with_what_there_is_and_never_with_an_older_one() {
    let (mut board, desk) = desk();
    let short = Duration::from_millis(20);
    board.service("posts", |_| under(7, &[6379, 6380]));
    assert_eq!(Poll::begin(&desk, 7, short).answer().await, Ok((6379, 7)));
    assert_eq!(Poll::begin(&desk, 7, Duration::ZERO).answer().await, Ok((6379, 7)));
    assert_eq!(Poll::begin(&desk, 8, short).answer().await, Err("behind"));
    assert_eq!(Poll::begin(&desk, u64::MAX, short).answer().await, Err("behind"));
    board.service("posts", |_| Service { known: false, ..under(7, &[6379, 6380]) });
    assert_eq!(Poll::begin(&desk, 7, short).answer().await, Err("not_certain"));
}

#[tokio::test]
async fn a_driver_that_turns_again_answers_who_waits() {
    let mut board = Board::new(Facts { turned: Time::ZERO, stale_after: Duration::ZERO, ..facts() });
    let desk = Desk::new(board.reader(), Clock::start());
    tokio::time::sleep(Duration::from_millis(1)).await;
    let poll = Poll::begin(&desk, 6, WAIT_MAX);
    poll.waits().await;
    board.service("posts", |_| under(8, &[6380]));
    poll.waits().await;
    board.turned(Time::from_secs(1000));
    assert_eq!(poll.answer().await, Ok((6380, 8)));
}

#[tokio::test]
async fn so_many_wait_and_no_more() {
    let (_board, desk) = desk();
    let ask = |query: &str| {
        let uri = format!("http://x/?{query}").parse().unwrap();
        primary(State(desk.clone()), Ok(Path("posts".to_owned())), Query::try_from_uri(&uri))
    };
    let most = desk.places.available_permits();
    let places = desk.places.clone().try_acquire_many_owned(u32::try_from(most).unwrap()).unwrap();
    let (status, code) = refusal(ask("after_epoch=7").await);
    assert_eq!((status, code), (503, "overloaded"));
    assert_eq!(found(ask("").await), Ok((6379, 7)), "who does not wait needs no place");
    drop(places);
    assert_eq!(found(ask("after_epoch=7&wait_ms=1").await), Ok((6379, 7)));
    assert_eq!(desk.places.available_permits(), most, "each place is given back");
    // Also by one that goes away.
    let gone = Poll::begin(&desk, 7, WAIT_MAX);
    gone.waits().await;
    assert_eq!(desk.places.available_permits(), most - 1);
    gone.0.abort();
    assert!(gone.0.await.is_err());
    assert_eq!(desk.places.available_permits(), most);
}

#[test]
fn the_longest_wait() {
    let read = |wait_ms| Wait::read(Ok(Query(Wait { after_epoch: Some(1), wait_ms })));
    assert_eq!(read(None), Ok(Some((1, WAIT))));
    assert_eq!(read(Some(250)), Ok(Some((1, Duration::from_millis(250)))));
    assert_eq!(read(Some(u64::MAX)), Ok(Some((1, WAIT_MAX))));
}
