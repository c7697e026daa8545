//! Everything that protects at once: TLS with client certificates and ACL users at Redis, ACLs at ZooKeeper, and TLS there
//! where the programs have that, keyed heartbeats, tokens, a Sentinel password. The kill test passes as without, and nobody
//! gets in who does not know the secrets.

use std::time::Duration;

use world::group::Group;
use world::http::Request;
use world::resp::{Connection, Reply};
use world::secure::{ADMIN_TOKEN, API_TOKEN, SENTINEL_PASSWORD, SENTINEL_USER, Secure};
use world::zookeeper::Error;
use world::{Host, programs, wait};

const LIMIT: Duration = Duration::from_secs(20);

fn sentinel(group: &Group) -> Connection {
    Connection::open(&Host::local(), group.sentinel_address(0), LIMIT).expect("a connection")
}

/// Each door is shut to those who bring nothing or the wrong thing, and opens to the secret.
fn doors(group: &mut Group) {
    let active = group.wait_for_active();
    let monitor = &group.monitors[active];
    let ask = |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        monitor.call(Request { headers: &headers, ..Request::post("/services/posts/pause", b"{}") })
    };
    assert_eq!(ask("wrong").expect("an answer").status, 401);
    assert_eq!(ask(ADMIN_TOKEN).expect("an answer").status, 200);
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let resumed =
        monitor.call(Request { headers: &headers, ..Request::post("/services/posts/resume", b"{}") });
    assert_eq!(resumed.expect("an answer").status, 200);

    let api = &group.apis[0];
    let get = |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        api.call(Request { headers: &headers, ..Request::get("/api/v1/get/nothing") })
    };
    assert_eq!(api.get("/api/v1/get/nothing").status, 401);
    assert_eq!(get("wrong").expect("an answer").status, 401);
    assert_eq!(get(API_TOKEN).expect("an answer").status, 404);

    let mut client = sentinel(group);
    let masters = ["SENTINEL", "masters"];
    assert!(client.call(&masters).expect("a reply").is_error("NOAUTH"));
    assert!(client.call(&["AUTH", SENTINEL_USER, "wrong"]).expect("a reply").is_error("WRONGPASS"));
    let reply = client.call(&["AUTH", SENTINEL_USER, SENTINEL_PASSWORD]).expect("a reply");
    assert_eq!(reply, Reply::Text("OK".to_owned()));
    assert_eq!(client.call(&masters).expect("a reply").list().len(), 1);

    for redis in &group.redis {
        let mut plain = Connection::open(&Host::local(), redis.addr(), LIMIT).expect("a connection");
        assert!(plain.call(&["GET", "k:x"]).expect("a reply").is_error("NOAUTH"));
        let list = redis.cmd(&["CLIENT", "LIST"]);
        let of_ours = |line: &&str| line.contains("name=albireo");
        let tls = format!("laddr={}", redis.known_as());
        let ours: Vec<&str> = list.text().lines().filter(of_ours).collect();
        assert!(
            !ours.is_empty() && ours.iter().all(|line| line.contains(&tls) && line.contains("user=albireo-")),
            "{ours:#?}"
        );
    }
    let auth = world::secure::ZOOKEEPER_AUTH;
    group.zookeeper.log_in(None);
    let read = group.zookeeper.try_get(&group.layout().state(&group.path()));
    assert!(matches!(read, Err(Error::NoAuth)), "{read:?}");
    group.zookeeper.log_in(Some(auth));
    // Heartbeats carry a MAC, and the monitors understand each other.
    for monitor in &group.monitors {
        assert_eq!(monitor.metric("albireo_peer_up"), Some(1.0));
        assert_eq!(monitor.metric("albireo_heartbeats_refused"), Some(0.0));
    }
}

#[test]
fn the_kill_test_passes_with_everything_on() {
    let secure = Secure::new();
    let mut group = secure.group_with_all(2).start();
    doors(&mut group);
    let load = group.load();
    for _ in 0..3 {
        let before = group.settled();
        let old = group.primary();
        group.redis[old].kill();
        load.wait_for_epoch_above(before.epoch, LIMIT);
        group.redis[old].restart_empty();
        let after = group.settled();
        assert_ne!(after.primary.addr, before.primary.addr);
        load.wait_for_writes(100, LIMIT);
    }
    let file = group.monitors[0].file().display().to_string();
    wait::until("a switchover", LIMIT, || {
        let (code, said) = programs::run("monitor", &["switchover", &file, "posts"], LIMIT);
        wait::holds(code == 0, || said)
    });
    group.settled();
    load.wait_for_writes(100, LIMIT);
    let history = group.history();
    let failovers = history.iter().filter(|entry| entry["what"] == "failover").count();
    assert_eq!(failovers, 3, "{history:#?}");
    let report = load.stop();
    println!("{} requests", report.samples.len());
    report.assert_clean();
    doors(&mut group);
}
