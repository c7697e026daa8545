//! The library itself: what it starts answers, can be hurt, comes back, and is gone afterwards.

use std::process::Command;
use std::time::{Duration, Instant};

use world::netns::{Cut, Hosts};
use world::redis::{Redis, Settings};
use world::resp::{Connection, Reply};
use world::zookeeper::ZooKeeper;
use world::{Process, skip, wait};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn redis_answers_stops_and_comes_back() {
    let mut redis = Settings::default().line("appendonly yes").start();
    assert_eq!(redis.cmd(&["SET", "a", "1"]), Reply::Text("OK".to_owned()));
    redis.kill();
    assert!(redis.try_cmd(&["PING"]).is_err());
    redis.restart();
    assert_eq!(redis.cmd(&["GET", "a"]).text(), "1");
    redis.restart_empty();
    assert_eq!(redis.cmd(&["GET", "a"]), Reply::Nil);
}

#[test]
fn a_paused_redis_is_silent_and_goes_on_later() {
    let mut redis = Redis::start();
    let mut connection = redis.connect().unwrap();
    connection.set_limit(Duration::from_millis(300)).unwrap();
    redis.pause();
    assert!(connection.call(&["PING"]).is_err());
    redis.resume();
    connection.set_limit(SOON).unwrap();
    assert_eq!(connection.receive().unwrap().text(), "PONG");
}

#[test]
fn a_replica_follows() {
    let primary = Redis::start();
    let replica = Settings::default().replica_of(primary.addr()).start();
    wait::until("the link", SOON, || replica.follows().ok_or("not up"));
    assert_eq!(replica.follows(), Some(primary.addr().to_string()));
    assert!(primary.is_primary() && !replica.is_primary());
    // One connection: WAIT covers the writes of its own only.
    let mut connection = primary.connect().unwrap();
    connection.call(&["SET", "a", "1"]).unwrap();
    assert_eq!(connection.call(&["WAIT", "1", "5000"]).unwrap().number(), 1);
    assert_eq!(replica.user_keys(), 1);
}

#[test]
fn zookeeper_keeps_its_data() {
    let mut zookeeper = ZooKeeper::start();
    zookeeper.create("/a/b", "one");
    zookeeper.set("/a/b", "two");
    assert_eq!(zookeeper.get("/a/b").map(|z| (z.text(), z.version)), Some(("two".to_owned(), 1)));
    zookeeper.kill();
    assert!(zookeeper.try_get("/a/b").is_err());
    zookeeper.restart();
    assert_eq!(zookeeper.get("/a/b").map(|z| z.text()), Some("two".to_owned()));
    assert_eq!((zookeeper.get("/a/c"), zookeeper.children("/a")), (None, vec!["b".to_owned()]));
}

#[test]
fn cuts_cut() {
    if let Err(why) = Hosts::available() {
        return skip::skip("cuts_cut", &why);
    }
    let hosts = Hosts::new(&["a", "b", "c"]);
    let redis = Settings::on(&hosts.host("b")).start();
    let open = |from: &str| Connection::open(&hosts.host(from), redis.addr(), Duration::from_millis(300));
    let mut kept = open("a").unwrap();
    kept.set_limit(Duration::from_millis(300)).unwrap();

    hosts.cut("a", "b", Cut::Drop);
    assert_eq!(open("a").unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert!(kept.call(&["PING"]).is_err());
    assert!(open("c").is_ok());
    hosts.heal();
    kept.set_limit(SOON).unwrap();
    assert_eq!(kept.receive().unwrap().text(), "PONG");

    hosts.cut_one_way("a", "b", Cut::Reset);
    assert_eq!(open("a").unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    hosts.heal();
    hosts.cut_port("a", "b", redis.addr().port(), Cut::Drop);
    assert!(open("a").is_err() && open("c").is_ok());
    hosts.heal();
    hosts.isolate(&["a", "c"], Cut::Drop);
    assert!(open("a").is_err() && open("c").is_err());
}

/// This very test binary is started once more, starts servers and then dies, in two ways.
#[test]
fn nothing_is_left_behind() {
    if let Ok(way) = std::env::var("DIE") {
        die_with_servers(&way);
    }
    for way in ["panic", "kill"] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "nothing_is_left_behind", "--nocapture"])
            .env("DIE", way)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut printed = String::new();
        std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut printed).unwrap();
        assert!(!child.wait().unwrap().success());
        let ids: Vec<u32> = printed
            .lines()
            .filter_map(|line| {
                line.split_once("children ")?.1.split(' ').map(str::parse).collect::<Result<_, _>>().ok()
            })
            .next()
            .unwrap_or_else(|| panic!("it printed {printed}"));
        assert_eq!(ids.len(), 2, "{printed}");
        wait::until("the end of its servers", SOON, || {
            let left = ids.iter().find(|id| std::path::Path::new(&format!("/proc/{id}")).exists());
            left.map_or(Ok(()), |id| Err(format!("{way}: process {id} is still there")))
        });
    }
}

/// `make test` runs such tests once more, and no others.
#[test]
fn only_what_came_too_late_is_run_again() {
    let dir = world::WorkDir::new("run-again");
    let asked = |log: &str| {
        std::fs::write(dir.join("log"), log).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/to-run-again");
        let out = Command::new(script).arg(dir.join("log")).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        (out.status.success(), text(out.stdout), text(out.stderr))
    };
    let end = "\nfailures:\n    a\n\ntest result: FAILED. 0 passed; 1 failed\n\nerror: test failed, to rerun pass `--test x`\n";
    let failed = |said: &str| {
        format!("test a ... FAILED\ntest c ... ok\n\nfailures:\n\n---- a stdout ----\n{said}\n\n{end}")
    };
    let late = failed("not within 3 s\ndisturbed: so and so");
    assert_eq!(asked(&late), (true, "a".to_owned(), String::new()));
    let wrong = failed("left: 1, right: 2").replace("a ", "b ");
    let said = "b: failed, and not for want of time";
    assert_eq!(asked(&wrong), (false, String::new(), said.to_owned()));
    assert_eq!(asked(&(late.clone() + &wrong)), (false, String::new(), said.to_owned()));
    let said = "not only tests failed";
    let crashed = late.clone() + "error: test failed, to rerun pass `--test y`\nCaused by: signal 11";
    let wrong = failed(
        "thread a panicked at x:\ny: not within 3s\ndisturbed: z\nthread a panicked at x:\nleft: 1, right: 2",
    );
    assert_eq!(asked(&wrong), (false, String::new(), "a: failed, and not for want of time".to_owned()));
    for log in [crashed.as_str(), "error: could not compile", ""] {
        assert_eq!(asked(log), (false, String::new(), said.to_owned()), "{log}");
    }
}

/// What `make test` looks for is what is said.
#[test]
fn what_comes_too_late_on_a_machine_that_stood_still_says_so() {
    if std::env::var_os("STOP").is_some() {
        stand_still_and_be_late();
    }
    let mut me = Command::new(std::env::current_exe().unwrap());
    me.args(["--exact", "what_comes_too_late_on_a_machine_that_stood_still_says_so"]).env("STOP", "1");
    let out = me.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(!out.status.success() && said.contains("\ndisturbed: within "), "{said}");
    assert!(said.matches("not within").count() == 2 && said.matches("\ndisturbed: ").count() == 1, "{said}");
}

/// Stopped for a second, as a host does it to all at once. What was late before has no excuse.
fn stand_still_and_be_late() -> ! {
    let mut stop = Command::new("sh");
    stop.args(["-c", "sleep 1; kill -STOP $PPID; sleep 1; kill -CONT $PPID; sleep 5"]);
    let _child = Process::of("stop", stop);
    let late = |limit| wait::until("a miracle", limit, || Err::<(), _>("none"));
    let before = std::thread::spawn(move || late(Duration::from_millis(400)));
    assert!(before.join().is_err());
    late(Duration::from_millis(1200));
    unreachable!("no miracle");
}

fn die_with_servers(way: &str) -> ! {
    let started = Instant::now();
    let mut redis = Redis::start();
    let mut zookeeper = ZooKeeper::start();
    println!("children {} {}", redis.process().id(), zookeeper.process().id());
    if way == "kill" {
        let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
    }
    panic!("{way} after {:?}", started.elapsed());
}
