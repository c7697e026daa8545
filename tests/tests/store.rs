//! `topology::zookeeper` against a real server: what is read, what is refused, what stays unknown, and what a
//! follower sees when connections, sessions and servers come and go.

use std::fmt::Debug;
use std::future::Future;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use topology::zookeeper::{
    ANY_VERSION, Followed, Mode, Op, Options, PublishError, ReadError, Seen, SessionPhase, Store, Versioned,
};
use world::zookeeper::ZooKeeper;

/// Longer than anything here should take, shorter than anybody's patience.
const LIMIT: Duration = Duration::from_secs(30);
/// The shortest session that a server with the usual tick grants.
const SHORT: Duration = Duration::from_secs(4);

/// A machine with other work to do may take longer for a write than the default `call_timeout`.
fn options(server: &ZooKeeper) -> Options {
    Options { session_timeout: SHORT, call_timeout: Duration::from_secs(10), ..Options::new(server.hosts()) }
}

fn open(server: &ZooKeeper) -> Store {
    Store::open(options(server))
}

fn there(data: &[u8], version: i32) -> Option<Versioned> {
    Some(Versioned { data: data.to_vec(), version })
}

fn superseded(path: &str, expected: i32) -> PublishError {
    PublishError::Superseded { path: path.to_owned(), expected }
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

/// Waits until a followed value is as wanted.
async fn until<T: Clone + Debug>(what: &str, rx: &mut watch::Receiver<T>, wanted: impl Fn(&T) -> bool) -> T {
    let seen =
        timeout(LIMIT, rx.wait_for(|value| wanted(value))).await.map(|seen| seen.map(|seen| seen.clone()));
    match seen {
        Ok(Ok(seen)) => seen,
        Ok(Err(_)) => panic!("{what}: the follower has ended at {:?}", rx.borrow()),
        Err(_) => panic!("{what}: not within {LIMIT:?}, still {:?}", rx.borrow()),
    }
}

async fn until_data(rx: &mut watch::Receiver<Followed<Versioned>>, data: &[u8]) -> Versioned {
    let what = String::from_utf8_lossy(data).into_owned();
    let seen =
        until(&what, rx, |followed| followed.seen.there().is_some_and(|there| there.data == data)).await;
    seen.seen.there().cloned().expect("it was there")
}

async fn until_absent(rx: &mut watch::Receiver<Followed<Versioned>>) {
    until("absent", rx, |followed| followed.seen == Seen::Absent).await;
}

async fn until_phase(store: &Store, phase: SessionPhase) -> u64 {
    let mut session = store.session();
    until(&format!("{phase:?}"), &mut session, |session| session.phase == phase).await.generation
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_and_what_is_changed() {
    let server = ZooKeeper::start();
    let store = open(&server);
    assert_eq!(store.get("/a").await, Ok(None));
    assert_eq!(store.children("/a").await, Ok(None));
    assert_eq!(
        store.create("/a/b", b"", Mode::Persistent).await,
        Err(PublishError::Absent { path: "/a/b".into() })
    );
    assert_eq!(store.create("/a", b"", Mode::Persistent).await, Ok(()));
    assert_eq!(store.get("/a").await, Ok(there(b"", 0)));
    assert_eq!(store.children("/a").await, Ok(Some(Vec::new())));
    assert_eq!(
        store.create("/a", b"", Mode::Persistent).await,
        Err(PublishError::Exists { path: "/a".into() })
    );

    assert_eq!(store.set("/a", b"one", 0).await, Ok(1));
    assert_eq!(store.set("/a", b"two", 0).await, Err(superseded("/a", 0)));
    assert_eq!(store.set("/a", b"two", ANY_VERSION).await, Ok(2));
    assert_eq!(store.get("/a").await, Ok(there(b"two", 2)));
    assert_eq!(store.set("/none", b"", 0).await, Err(PublishError::Absent { path: "/none".into() }));

    for name in ["/a/z", "/a/y"] {
        assert_eq!(store.create(name, b"x", Mode::Persistent).await, Ok(()));
    }
    assert_eq!(store.children("/a").await, Ok(Some(vec!["y".to_owned(), "z".to_owned()])));
    assert!(
        matches!(store.delete("/a", ANY_VERSION).await, Err(PublishError::Refused { .. })),
        "it has children"
    );
    assert_eq!(store.delete("/a/z", 5).await, Err(superseded("/a/z", 5)));
    assert_eq!(store.delete("/a/z", 0).await, Ok(()));

    assert!(matches!(store.get("no path").await, Err(ReadError::Refused { .. })));
    assert!(matches!(store.create("/a//b", b"", Mode::Persistent).await, Err(PublishError::Refused { .. })));
    let large = vec![b'x'; 2_000_000];
    assert!(matches!(store.set("/a", &large, ANY_VERSION).await, Err(PublishError::Refused { .. })));
    assert_eq!(store.get("/a").await, Ok(there(b"two", 2)), "a refused write leaves the session alone");
    assert_eq!(store.session().borrow().generation, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_is_conditional_and_whole() {
    let server = ZooKeeper::start();
    let store = open(&server);
    for path in ["/leader", "/state", "/path"] {
        store.create(path, b"old", Mode::Persistent).await.unwrap();
    }
    let publish = |leader, state, path| {
        store.multi(vec![
            Op::check("/leader", leader),
            Op::set("/state", *b"new", state),
            Op::set("/path", *b"new", path),
        ])
    };
    assert_eq!(publish(0, 0, 0).await, Ok(vec![-1, 1, 1]));
    // The first operation that does not hold is named, and none takes effect.
    assert_eq!(publish(7, 1, 1).await, Err(superseded("/leader", 7)));
    assert_eq!(publish(0, 0, 1).await, Err(superseded("/state", 0)));
    assert_eq!(publish(0, 1, 0).await, Err(superseded("/path", 0)));
    for path in ["/state", "/path"] {
        assert_eq!(store.get(path).await, Ok(there(b"new", 1)), "{path}");
    }
    // Checks alone, as R1 asks for.
    assert_eq!(store.multi(vec![Op::check("/leader", 0), Op::check("/state", 1)]).await, Ok(vec![-1, -1]));
    store.delete("/leader", ANY_VERSION).await.unwrap();
    assert_eq!(publish(0, 1, 1).await, Err(PublishError::Absent { path: "/leader".into() }));
    // Creation and deletion take part in it.
    let birth = |state: &'static str| store.multi(vec![Op::create("/born", *b"1"), Op::check(state, 1)]);
    assert_eq!(birth("/nothing").await, Err(PublishError::Absent { path: "/nothing".into() }));
    assert_eq!(store.get("/born").await, Ok(None));
    assert_eq!(birth("/state").await, Ok(vec![0, -1]));
    assert_eq!(birth("/state").await, Err(PublishError::Exists { path: "/born".into() }));
    let gone = Op::Delete { path: "/born".into(), version: 0 };
    assert_eq!(store.multi(vec![gone]).await, Ok(vec![-1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_flight_at_a_hung_server_is_unknown_and_never_sent_is_definite() {
    let mut server = ZooKeeper::start();
    let call_timeout = Duration::from_millis(300);
    let store = Store::open(Options { call_timeout, ..Options::new(server.hosts()) });
    // What must succeed has more time: a busy machine may need longer than this timeout.
    let patient = open(&server);
    patient.create("/a", b"", Mode::Persistent).await.unwrap();
    until_phase(&store, SessionPhase::Connected).await;
    server.pause();
    let began = Instant::now();
    let publish = store.multi(vec![Op::set("/a", *b"in flight", 0)]);
    let outcome = in_time("a call at a hung server", publish).await;
    assert!(matches!(outcome, Err(PublishError::Unknown(_))), "{outcome:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let read = in_time("a read at a hung server", store.get("/a")).await;
    assert!(matches!(read, Err(ReadError::Unreachable(_))), "{read:?}");

    // Once the loss is noticed, nothing is sent any more.
    until_phase(&store, SessionPhase::Disconnected).await;
    let refused = in_time("a call without a server", store.set("/a", b"never", ANY_VERSION)).await;
    assert!(matches!(refused, Err(PublishError::Unreachable(_))), "{refused:?}");
    server.resume();
    until_phase(&store, SessionPhase::Connected).await;
    let read = in_time("a read afterwards", async {
        loop {
            match patient.get("/a").await {
                Ok(read) => break read,
                Err(ReadError::Unreachable(_)) => sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let after = read.await.expect("it was created");
    assert!(after.data == b"in flight" || after.data.is_empty(), "{after:?}");
    assert_eq!(store.session().borrow().generation, 1, "the session has survived");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_is_noticed_and_its_calls_are_refused_while_followers_go_on() {
    let mut server = ZooKeeper::start();
    let store = open(&server);
    let old = until_phase(&store, SessionPhase::Connected).await;
    assert_eq!(old, 1);
    let bound = store.at(old);
    bound.create("/mine", b"", Mode::Ephemeral).await.unwrap();
    store.create("/a", b"0", Mode::Persistent).await.unwrap();
    let mut followed = store.follow("/a");
    let mut mine = store.follow("/mine");
    until_data(&mut followed, b"0").await;
    until_data(&mut mine, b"").await;

    server.pause();
    let mut session = store.session();
    until("the end of the session", &mut session, |session| !session.phase.is_alive()).await;
    let refused = in_time("a bound call", bound.set("/a", b"stale", ANY_VERSION)).await;
    assert_eq!(refused, Err(PublishError::SessionOver { generation: old }));
    server.resume();
    until("a new session", &mut session, |session| session.generation == old + 1).await;

    for outcome in [
        bound.set("/a", b"stale", ANY_VERSION).await.map(drop),
        bound.create("/b", b"", Mode::Ephemeral).await,
        bound.multi(vec![Op::set("/a", *b"stale", ANY_VERSION)]).await.map(drop),
    ] {
        assert_eq!(outcome, Err(PublishError::SessionOver { generation: old }));
    }
    assert_eq!(bound.get("/a").await, Err(ReadError::SessionOver { generation: old }));
    // The store itself goes on, and so do the followers.
    until_absent(&mut mine).await;
    assert_eq!(in_time("a call in the new session", store.set("/a", b"1", 0)).await, Ok(1));
    assert_eq!(until_data(&mut followed, b"1").await.version, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_creation_change_deletion_and_a_restart() {
    let mut server = ZooKeeper::start();
    let (store, other) = (open(&server), open(&server));
    let mut node = store.follow("/dir/a");
    let mut names = store.follow_children("/dir");
    until_absent(&mut node).await;
    until("no folder", &mut names, |names| names.seen == Seen::Absent).await;
    other.ensure("/dir").await.unwrap();
    until("an empty folder", &mut names, |names| names.seen == Seen::There(Vec::new())).await;
    for round in 0..3 {
        other.create("/dir/a", b"first", Mode::Persistent).await.unwrap();
        assert_eq!(until_data(&mut node, b"first").await.version, 0, "round {round}");
        other.set("/dir/a", b"second", 0).await.unwrap();
        assert_eq!(until_data(&mut node, b"second").await.version, 1, "round {round}");
        until("its name", &mut names, |names| names.seen == Seen::There(vec!["a".to_owned()])).await;
        other.delete("/dir/a", ANY_VERSION).await.unwrap();
        until_absent(&mut node).await;
        until("no name", &mut names, |names| names.seen == Seen::There(Vec::new())).await;
    }
    other.create("/dir/a", b"before", Mode::Persistent).await.unwrap();
    until_data(&mut node, b"before").await;
    server.kill();
    until_phase(&store, SessionPhase::Disconnected).await;
    assert_eq!(
        node.borrow().seen.there().map(|there| there.data.clone()),
        Some(b"before".to_vec()),
        "it stays known"
    );
    server.restart();
    in_time("a call after the restart", async {
        while other.set("/dir/a", b"after", ANY_VERSION).await.is_err() {}
    })
    .await;
    until_data(&mut node, b"after").await;
    assert_eq!(
        store.session().borrow().generation,
        1,
        "a restart within the session timeout costs no session"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost_between_two_watches() {
    let mut server = ZooKeeper::start();
    let (store, other) = (open(&server), open(&server));
    other.create("/a", b"0", Mode::Persistent).await.unwrap();
    let number = |followed: &Followed<Versioned>| {
        let data = followed.seen.there().map(|there| String::from_utf8_lossy(&there.data).into_owned());
        data.and_then(|data| data.parse::<u32>().ok()).unwrap_or(0)
    };
    let mut rx = store.follow("/a");
    let watcher = tokio::spawn(async move {
        let (mut last, mut sightings) = (0, 0);
        while last < 2000 {
            rx.changed().await.unwrap();
            let now = number(&rx.borrow_and_update());
            assert!(now >= last, "{last}, then {now}");
            last = now;
            sightings += 1;
        }
        sightings
    });
    for i in 1..=2000_u32 {
        if i == 1000 {
            server.restart();
        }
        // An unknown outcome is written again: the number is what counts.
        in_time("a write", async {
            while other.set("/a", i.to_string().as_bytes(), ANY_VERSION).await.is_err() {}
        })
        .await;
    }
    let sightings = in_time("the last update", watcher).await.unwrap();
    println!("{sightings} of 2000 updates seen one by one");
    assert!(sightings > 100, "{sightings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_reaches_a_follower_at_once_and_an_idle_follower_asks_nothing() {
    let server = ZooKeeper::start();
    let (store, other) = (open(&server), open(&server));
    other.create("/a", b"", Mode::Persistent).await.unwrap();
    let (mut node, mut absent) = (store.follow("/a"), store.follow("/none"));
    until_data(&mut node, b"").await;
    until_absent(&mut absent).await;

    let received = || {
        let answer = server.word("srvr").unwrap();
        let line = answer.lines().find_map(|line| line.strip_prefix("Received: ")).map(str::to_owned);
        line.and_then(|count| count.parse::<u64>().ok()).expect("a number of packets")
    };
    let before = received();
    sleep(Duration::from_secs(1)).await;
    // Two sessions ping about every 375 ms.
    let asked = received() - before;
    assert!(asked < 20, "{asked} packets within an idle second");

    let mut took = Vec::new();
    for i in 0..200_u32 {
        let data = i.to_string().into_bytes();
        let began = Instant::now();
        let mut follower = node.clone();
        let seen = tokio::spawn(async move { until_data(&mut follower, &data).await });
        other.set("/a", i.to_string().as_bytes(), ANY_VERSION).await.unwrap();
        let answered = began.elapsed();
        seen.await.unwrap();
        took.push((began.elapsed(), answered));
    }
    took.sort();
    let (seen, answered) = took[took.len() / 2];
    println!("median: seen {seen:?} after the write was sent, which was answered after {answered:?}");
    assert!(seen < Duration::from_millis(100), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_followers_survive_a_restart() {
    const COUNT: usize = 3000;
    let mut server = ZooKeeper::start();
    let (store, other) = (open(&server), open(&server));
    let path = |i: usize| format!("/services/a-service-with-a-rather-long-name-{i:05}/and-a-last-part");
    other.ensure("/services").await.unwrap();
    for chunk in (0..COUNT).collect::<Vec<_>>().chunks(100) {
        let mut ops = Vec::new();
        for i in chunk {
            let path = path(*i);
            let parent = path.rsplit_once('/').expect("a parent").0.to_owned();
            ops.extend([Op::create(parent, *b""), Op::create(path, *b"before")]);
        }
        other.multi(ops).await.unwrap();
    }
    let mut followers: Vec<_> = (0..COUNT).map(|i| store.follow(&path(i))).collect();
    for rx in &mut followers {
        until_data(rx, b"before").await;
    }
    server.restart();
    let mut session = store.session();
    until("a connection", &mut session, |session| session.phase == SessionPhase::Connected).await;
    let set_all = async {
        for i in 0..COUNT {
            while other.set(&path(i), b"after", ANY_VERSION).await.is_err() {}
        }
    };
    in_time("all changes", set_all).await;
    for rx in &mut followers {
        until_data(rx, b"after").await;
    }
    assert_eq!(store.session().borrow().generation, 1, "no session was lost");
    in_time("closing", store.close()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_znode_goes_with_its_session() {
    let server = ZooKeeper::start();
    let watching = open(&server);
    // Closed: at once, long before the session timeout.
    let long = Store::open(Options { session_timeout: Duration::from_secs(30), ..options(&server) });
    long.create("/closed", b"", Mode::Ephemeral).await.unwrap();
    let mut closed = watching.follow("/closed");
    until_data(&mut closed, b"").await;
    let mut followed = long.follow("/closed");
    until_data(&mut followed, b"").await;
    let began = Instant::now();
    long.close().await;
    until_absent(&mut closed).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(long.session().borrow().phase, SessionPhase::Closed);
    let refused = long.create("/closed", b"", Mode::Ephemeral).await;
    assert!(matches!(refused, Err(PublishError::Unreachable(_))), "{refused:?}");
    in_time("the end of a follower", async { while followed.changed().await.is_ok() {} }).await;

    // Dropped: in the background, at once as well.
    let dropped = Store::open(Options { session_timeout: Duration::from_secs(30), ..options(&server) });
    dropped.create("/dropped", b"", Mode::Ephemeral).await.unwrap();
    let mut gone = watching.follow("/dropped");
    until_data(&mut gone, b"").await;
    let began = Instant::now();
    drop(dropped);
    until_absent(&mut gone).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    // Killed: the connection breaks without a word, and the server waits out the session.
    let (hosts, killed) = (server.hosts(), std::sync::mpsc::channel());
    let process = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(Options { session_timeout: SHORT, ..Options::new(hosts) });
            store.create("/killed", b"", Mode::Ephemeral).await.unwrap();
            killed.0.send(()).unwrap();
            std::mem::forget(store);
        });
    });
    process.join().unwrap();
    killed.1.recv().unwrap();
    let mut killed = watching.follow("/killed");
    until_data(&mut killed, b"").await;
    until_absent(&mut killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_are_created_by_many_at_once() {
    let server = ZooKeeper::start();
    let store = Store::open(Options { hosts: format!("{}/some/root", server.hosts()), ..options(&server) });
    let mut tasks = Vec::new();
    for i in 0..32 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            store.ensure_chroot().await?;
            store.create_parents("/a/b/c/d").await?;
            store.ensure(&format!("/a/b/c/{}", i % 4)).await
        }));
    }
    for task in tasks {
        assert_eq!(in_time("ensure", task).await.unwrap(), Ok(()));
    }
    let names = ["0", "1", "2", "3"].map(str::to_owned).to_vec();
    assert_eq!(store.children("/a/b/c").await, Ok(Some(names.clone())));
    assert_eq!(open(&server).children("/some/root/a/b/c").await, Ok(Some(names)));
    assert_eq!(store.create_parents("/top").await, Ok(()));
    assert_eq!(store.get("/top").await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_do_not_answer_hold_nothing_up() {
    // Nobody listens there, then somebody who accepts and says nothing, then the server.
    let dead = format!("127.0.0.1:{}", world::ports::free());
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = ZooKeeper::start();
    let hosts = format!("{dead},{},{}", mute.local_addr().unwrap(), server.hosts());
    let store = Store::open(Options { hosts, call_timeout: Duration::from_millis(200), ..options(&server) });
    let began = Instant::now();
    until_phase(&store, SessionPhase::Connected).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    // Opened before there is a server: it waits, calls say so in time, and it connects when there is one.
    server.stop();
    let early = Store::open(Options { call_timeout: Duration::from_millis(200), ..options(&server) });
    let began = Instant::now();
    let read = early.get("/").await;
    assert!(matches!(read, Err(ReadError::Unreachable(_))), "{read:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(early.session().borrow().generation, 0);
    server.restart();
    assert_eq!(until_phase(&early, SessionPhase::Connected).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_auth_others_may_read_but_not_write() {
    let server = ZooKeeper::start();
    let auth = |password: &str| Options { auth: Some(("bob".into(), password.into())), ..options(&server) };
    let (owner, stranger) = (Store::open(auth("right")), Store::open(auth("wrong")));
    owner.ensure("/a").await.unwrap();
    assert_eq!(owner.set("/a", b"1", 0).await, Ok(1));
    for other in [&stranger, &open(&server)] {
        assert_eq!(other.get("/a").await, Ok(there(b"1", 1)));
        let refused = other.set("/a", b"2", ANY_VERSION).await;
        assert!(matches!(refused, Err(PublishError::Refused { .. })), "{refused:?}");
        let refused = other.multi(vec![Op::set("/a", *b"2", 1)]).await;
        assert!(matches!(refused, Err(PublishError::Refused { .. })), "{refused:?}");
    }
    assert_eq!(owner.get("/a").await, Ok(there(b"1", 1)));
}
