//! The link on a real redis-server: one of our own per test, on a free port, stopped again whatever happens.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use topology::Endpoint;
use wire::{InfoReply, Link, LinkError, Login, OpenError, Reply, Role, cmd};

const LIMIT: Duration = Duration::from_secs(5);

struct Server {
    child: Child,
    addr: Endpoint,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Starts a server with these further options and waits until it answers. That somebody listens is not enough: a child that
    /// another test forks meanwhile holds the socket of [`free_port`] until its exec. So a server may find its port taken, too.
    async fn start(options: &[&str]) -> Self {
        for _ in 0..5 {
            let mut server = Self::begin(options);
            for _ in 0..100 {
                if server.child.try_wait().unwrap().is_some() {
                    break;
                }
                match Link::open(&server.addr, &Login::default(), "albireo-test", LIMIT / 20).await {
                    Ok(_) | Err(OpenError::Login(_) | OpenError::TurnedAway(_)) => return server,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        }
        panic!("no redis-server answers");
    }

    fn begin(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let program = std::env::var("TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        let child = Process::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(dir.path())
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Self { child, addr: at(port), _dir: dir }
    }

    async fn link(&self) -> Link {
        Link::open(&self.addr, &Login::default(), "albireo-test", LIMIT).await.unwrap()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Process::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn at(port: u16) -> Endpoint {
    format!("127.0.0.1:{port}").parse().unwrap()
}

#[tokio::test]
async fn a_pipeline_and_who_answers() {
    let server = Server::start(&[]).await;
    let mut link = server.link().await;
    assert_eq!(link.peer().to_string(), server.addr.to_string());
    assert_eq!(link.greeting_error(), None);
    let value = vec![b'x'; 3 << 20];
    let pipeline = [
        cmd!["SET", "k", &value],
        cmd!["GET", "k"],
        cmd!["INCR", "k"],
        cmd!["INFO", "server"],
        cmd!["ROLE"],
        cmd!["CLIENT", "GETNAME"],
        cmd!["GET", "none"],
    ];
    let replies = link.call(&pipeline).await.unwrap();
    assert!(replies[0].is_ok());
    assert_eq!(replies[1].bytes(), Some(&value[..]));
    assert!(replies[2].error().is_some_and(|text| text.starts_with("ERR")));
    let info = InfoReply::from_reply(&replies[3]).unwrap();
    assert_eq!(info.field("run_id"), link.run_id());
    assert!(link.run_id().is_some_and(|id| id.len() == 40));
    assert!(matches!(Role::from_reply(&replies[4]), Ok(Role::Primary { .. })));
    assert_eq!(replies[5].text(), Some("albireo-test"));
    assert_eq!(replies[6], Reply::Nil);
}

#[tokio::test]
async fn roles_of_a_pair() {
    let primary = Server::start(&["--repl-diskless-sync-delay", "0"]).await;
    let port = primary.addr.port().to_string();
    let replica = Server::start(&["--replicaof", "127.0.0.1", &port]).await;
    let mut link = primary.link().await;
    let attached = async {
        loop {
            let replies = link.call(&[cmd!["SET", "k", "v"], cmd!["ROLE"]]).await.unwrap();
            match Role::from_reply(&replies[1]) {
                Ok(Role::Primary { replicas, .. }) if !replicas.is_empty() => return replicas,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let replicas = tokio::time::timeout(LIMIT * 4, attached).await.unwrap();
    assert_eq!(replicas[0].0, replica.addr.to_string());
    let replies = replica.link().await.call(&[cmd!["ROLE"]]).await.unwrap();
    let Ok(Role::Replica { host, port, .. }) = Role::from_reply(&replies[0]) else { panic!("{replies:?}") };
    assert_eq!((host.as_str(), port), ("127.0.0.1", primary.addr.port()));
}

#[tokio::test]
async fn the_death_of_an_idle_server_is_seen() {
    let mut server = Server::start(&[]).await;
    let (_sender, mut receiver) = server.link().await.split();
    let idle = tokio::time::timeout(Duration::from_millis(50), receiver.next()).await;
    assert!(idle.is_err(), "nothing was asked, nothing comes");
    server.child.kill().unwrap();
    let end = tokio::time::timeout(LIMIT, receiver.next()).await.unwrap();
    assert_eq!(end, Err(LinkError::Closed));
    server.child.wait().unwrap();
    let gone = Link::open(&server.addr, &Login::default(), "x", LIMIT).await;
    assert_eq!(gone.err(), Some(OpenError::Refused));
}

#[tokio::test]
async fn a_reply_survives_a_cancelled_wait() {
    let server = Server::start(&[]).await;
    let (mut sender, mut receiver) = server.link().await.split();
    let large = vec![b'y'; 8 << 20];
    sender.send(&[cmd!["SET", "k", &large], cmd!["GET", "k"]]).await.unwrap();
    let mut replies = Vec::new();
    while replies.len() < 2 {
        tokio::select! {
            biased;
            reply = receiver.next() => replies.push(reply.unwrap()),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(replies[1].bytes(), Some(&large[..]));
    receiver.limit(1 << 20);
    sender.send(&[cmd!["GET", "k"]]).await.unwrap();
    assert_eq!(receiver.next().await, Err(LinkError::Protocol));
}

#[tokio::test]
async fn the_same_answer_is_known_again() {
    let server = Server::start(&[]).await;
    let (mut sender, mut receiver) = server.link().await.split();
    let questions = [cmd!["GET", "key"], cmd!["CONFIG", "GET", "maxmemory"]];
    let more = [cmd!["ECHO", "more"]];
    let text = |reply: Option<Reply>| reply.and_then(|reply| reply.text().map(str::to_owned));

    sender.send(&questions).await.unwrap();
    assert_eq!(receiver.whole(2, None).await, Ok(false));
    let answer = receiver.answer(2).unwrap().unwrap();
    assert!(receiver.answer(3).unwrap().is_none(), "it was not asked for");
    receiver.skip(&answer);
    assert_eq!(receiver.buffered(), Ok(None));

    // The same, and one more behind it.
    sender.send(&[&questions[..], &more].concat()).await.unwrap();
    assert_eq!(receiver.whole(3, Some(&answer)).await, Ok(true));
    receiver.skip(&answer);
    assert_eq!(text(receiver.buffered().unwrap()).as_deref(), Some("more"));

    // Another one, longer than that; it can be read.
    sender.send(&[&[cmd!["SET", "key", "value"]][..], &questions, &more].concat()).await.unwrap();
    assert!(receiver.next().await.unwrap().is_ok());
    assert_eq!(receiver.whole(3, Some(&answer)).await, Ok(false));
    assert_eq!(text(receiver.buffered().unwrap()).as_deref(), Some("value"));
    assert_eq!(receiver.buffered().unwrap().unwrap().array().map(<[Reply]>::len), Some(2));
    assert_eq!(text(receiver.buffered().unwrap()).as_deref(), Some("more"));

    // One reply of the same is waited for in vain, and what was read of it is not lost.
    sender.send(&[cmd!["DEL", "key"]]).await.unwrap();
    assert_eq!(receiver.next().await.unwrap().int(), Some(1));
    sender.send(&questions[..1]).await.unwrap();
    let half = tokio::time::timeout(Duration::from_millis(50), receiver.whole(2, Some(&answer))).await;
    assert!(half.is_err(), "{half:?}");
    sender.send(&questions[1..]).await.unwrap();
    assert_eq!(receiver.whole(2, Some(&answer)).await, Ok(true));
}

/// A server that says what it is told to, byte by byte.
#[tokio::test]
async fn answers_that_come_in_pieces() {
    const GREETING: &str = "+OK\r\n$0\r\n\r\n";
    const ANSWER: &str = "$1\r\na\r\n*2\r\n+b\r\n:1\r\n";
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = at(listener.local_addr().unwrap().port());
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel::<String>();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        while let Some(text) = said.recv().await {
            for byte in text.bytes() {
                stream.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    say.send(GREETING.into()).unwrap();
    let link = Link::open(&addr, &Login::default(), "x", LIMIT).await.unwrap();
    let (_sender, mut receiver) = link.split();
    say.send(ANSWER.into()).unwrap();
    assert_eq!(receiver.whole(2, None).await, Ok(false));
    let answer = receiver.answer(2).unwrap().unwrap();
    receiver.skip(&answer);
    // With others behind it, once in pieces of their own.
    for behind in ["", "$4\r\nmore\r\n", "*1\r\n*1\r\n$-1\r\n"] {
        say.send(format!("{ANSWER}{behind}")).unwrap();
        assert_eq!(receiver.whole(2 + usize::from(!behind.is_empty()), Some(&answer)).await, Ok(true));
        receiver.skip(&answer);
        assert_eq!(receiver.buffered().unwrap().is_some(), !behind.is_empty());
    }
    // The first reply is the same, the second is not; nothing is passed over.
    say.send(ANSWER.replace("+b", "+c")).unwrap();
    assert_eq!(receiver.whole(2, Some(&answer)).await, Ok(false));
    receiver.skip(&answer);
    assert_eq!(receiver.next().await.unwrap().text(), Some("a"));
    assert!(receiver.next().await.unwrap().array().is_some());
    // Fewer are expected than it has.
    say.send(ANSWER.into()).unwrap();
    assert_eq!(receiver.whole(1, Some(&answer)).await, Ok(false));
    assert_eq!(receiver.whole(2, Some(&answer)).await, Ok(true));
    receiver.skip(&answer);
    // What stands behind it is no reply.
    say.send(format!("{ANSWER}HTTP/1.1\r\n")).unwrap();
    assert_eq!(receiver.whole(3, Some(&answer)).await, Err(LinkError::Protocol));
}

#[tokio::test]
async fn a_paused_server_is_silent_not_gone() {
    let server = Server::start(&[]).await;
    server.signal("-STOP");
    let opened = Link::open(&server.addr, &Login::default(), "x", Duration::from_millis(100)).await;
    server.signal("-CONT");
    assert_eq!(opened.err(), Some(OpenError::TimedOut));
    assert!(server.link().await.run_id().is_some());
}

#[tokio::test]
async fn passwords() {
    let server = Server::start(&["--requirepass", "right"]).await;
    let open = |username: Option<&str>, password: Option<&str>| {
        let login =
            Login { username: username.map(str::to_owned), password: password.map(str::to_owned), tls: None };
        assert!(!format!("{login:?}").contains("right"));
        let addr = server.addr.clone();
        async move { Link::open(&addr, &login, "x", LIMIT).await }
    };
    assert!(open(None, Some("right")).await.unwrap().run_id().is_some());
    assert!(open(Some("default"), Some("right")).await.is_ok());
    for (user, password) in [(None, None), (None, Some("wrong")), (Some("nobody"), Some("right"))] {
        let refused = open(user, password).await.err();
        assert!(matches!(refused, Some(OpenError::Login(_))), "{user:?} {password:?}: {refused:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_busy_or_says_little() {
    let server = Server::start(&["--busy-reply-threshold", "20"]).await;
    let mut link = server.link().await;
    let user = cmd!["ACL", "SETUSER", "mute", "on", ">pw", "+@all", "-info", "~*"];
    assert!(link.call(&[user]).await.unwrap()[0].is_ok());
    let login = Login { username: Some("mute".into()), password: Some("pw".into()), tls: None };
    let mute = Link::open(&server.addr, &login, "x", LIMIT).await.unwrap();
    assert!(mute.run_id().is_none());
    assert!(mute.greeting_error().is_some_and(|text| text.starts_with("NOPERM")));

    let (mut sender, _receiver) = link.split();
    sender.send(&[cmd!["EVAL", "while true do end", "0"]]).await.unwrap();
    let busy = async {
        loop {
            let link = server.link().await;
            if link.greeting_error().is_some_and(|text| text.starts_with("BUSY")) {
                return link;
            }
        }
    };
    let mut link = tokio::time::timeout(LIMIT, busy).await.unwrap();
    assert!(link.run_id().is_none());
    assert!(link.call(&[cmd!["SCRIPT", "KILL"]]).await.unwrap()[0].is_ok());
}

#[tokio::test]
async fn turned_away_and_not_redis() {
    let server = Server::start(&["--maxclients", "1"]).await;
    // The connection that found the server answering may still be on its way out.
    let login = Login::default();
    let open = || Link::open(&server.addr, &login, "x", LIMIT);
    let only = async {
        loop {
            if let Ok(link) = open().await {
                return link;
            }
        }
    };
    let _only = tokio::time::timeout(LIMIT, only).await.unwrap();
    let second = open().await;
    assert!(matches!(second.err(), Some(OpenError::TurnedAway(text)) if text.contains("max number")));

    let web = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = web.local_addr().unwrap().port();
    let answer = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = web.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let opened = Link::open(&at(port), &Login::default(), "x", LIMIT).await;
    assert_eq!(opened.err(), Some(OpenError::Protocol));
    answer.join().unwrap();

    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let closer = std::thread::spawn(move || drop(silent.accept().unwrap()));
    let opened = Link::open(&at(port), &Login::default(), "x", LIMIT).await;
    assert_eq!(opened.err(), Some(OpenError::Closed));
    closer.join().unwrap();

    let nowhere = "no-such-host.invalid:1".parse().unwrap();
    let opened = Link::open(&nowhere, &Login::default(), "x", LIMIT).await;
    assert!(matches!(opened.err(), Some(OpenError::Unreachable(_) | OpenError::TimedOut)));
}
