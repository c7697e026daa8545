//! What a client sees over HTTP, and what the program does as a process.

use std::fs;
use std::io::{Read, Write};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::json;
use world::http::{Connection, Request};
use world::programs::Ini;
use world::{WorkDir, wait};

use crate::stage::{Api, LONG, Names, Stage, connect, pair, zookeeper};

#[test]
fn reads_and_writes() {
    let stage = Stage::new(2);
    let api = stage.api();
    let addr = stage.addr(0).to_string();

    let written = api.get("/api/v1/write/100?value=user100");
    assert_eq!((written.status, written.text().as_str()), (200, r#"{"key":"100","value":"user100"}"#));
    assert_eq!(pair(&written), (addr.clone(), 1));
    assert_eq!(written.header("x-albireo-durability"), Some("sync"));
    assert_eq!(written.header("x-albireo-copies"), Some("1"));
    assert_eq!(written.header("cache-control"), Some("no-store"));
    assert_eq!(stage.stored(0, "100").as_deref(), Some("user100"));

    let read = api.get("/api/v1/get/100");
    assert_eq!((read.status, read.text().as_str()), (200, r#"{"key":"100","value":"user100"}"#));
    assert_eq!((pair(&read), read.header("x-albireo-copies")), ((addr.clone(), 1), None));
    let missing = api.get("/api/v1/get/none");
    assert_eq!((missing.status, missing.text().as_str()), (404, r#"{"key":"none","value":null}"#));
    assert_eq!((pair(&missing), missing.header("cache-control")), ((addr, 1), Some("no-store")));

    for method in ["PUT", "POST"] {
        let request = Request { method, path: "/api/v1/write/a%2Fb", headers: &[], body: b"x y+z" };
        assert_eq!(api.call(request).json(), json!({ "key": "a/b", "value": "x y+z" }), "{method}");
    }
    assert_eq!(api.get("/api/v1/get/a%2Fb").json()["value"], "x y+z");
    assert_eq!(api.get("/api/v1/write/q?value=x+y%2Bz").json()["value"], "x y+z");
    assert_eq!(api.call(Request::post("/api/v1/write/p?value=v", b"")).json()["value"], "v");
    assert_eq!(api.call(Request::put("/api/v1/write/empty", b"")).json()["value"], "");
    assert_eq!(api.get("/api/v1/get/empty").json()["value"], "");

    let bytes = api.call(Request::put("/api/v1/write/bin", b"\xff\x00\xfe"));
    assert_eq!((bytes.status, bytes.json()["value_base64"].as_str()), (200, Some("/wD+")));
    assert_eq!(api.get("/api/v1/get/bin").json(), json!({ "key": "bin", "value_base64": "/wD+" }));

    let mut raw = std::net::TcpStream::connect(api.0.http()).unwrap();
    raw.write_all(b"HEAD /api/v1/get/100 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut head = String::new();
    raw.read_to_string(&mut head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn a_key_with_an_end() {
    let stage = Stage::new(1);
    let answer = stage.api().call(Request::put("/api/v1/write/t?ttl_ms=60000", b"v"));
    assert_eq!(answer.status, 200);
    let left = stage.redis[0].cmd(&["PTTL", "k:t"]).number();
    assert!((1..=60_000).contains(&left), "{left}");
    assert_eq!(stage.api().get("/api/v1/write/t?value=v&ttl_ms=50").status, 200);
    wait::until("the key ends", LONG, || {
        let answer = stage.api().get("/api/v1/get/t");
        wait::holds(answer.status == 404, || format!("{answer:?}"))
    });
    assert_eq!(stage.api().put("t", "for ever").status, 200);
    assert_eq!(stage.redis[0].cmd(&["PTTL", "k:t"]).number(), -1);
}

#[test]
fn every_refusal() {
    let stage = Stage::with(1, |ini| ini.set("api", "max_value_bytes", 1000));
    let api = stage.api();
    let long = "x".repeat(513);
    let large = vec![b'x'; 1001];
    let long_key = format!("/api/v1/get/{long}");
    let large_query = format!("/api/v1/write/k?value={}", "x".repeat(1001));
    let rows: [(&str, &str, &[u8], u16, &str); 25] = [
        ("GET", "/", b"", 404, "not_found"),
        ("GET", "/api/v1/get/a/b", b"", 404, "not_found"),
        ("GET", "/api/v1/nothing/a", b"", 404, "not_found"),
        ("GET", "/api/v1/services/none/get/a", b"", 404, "unknown_service"),
        ("GET", "/api/v1/services/none/topology", b"", 404, "unknown_service"),
        ("DELETE", "/api/v1/get/a", b"", 405, "method_not_allowed"),
        ("PUT", "/api/v1/get/a", b"x", 405, "method_not_allowed"),
        ("DELETE", "/api/v1/write/a", b"", 405, "method_not_allowed"),
        ("POST", "/metrics", b"", 405, "method_not_allowed"),
        ("GET", "/api/v1/get/", b"", 400, "bad_key"),
        ("GET", "/api/v1/get/%00", b"", 400, "bad_key"),
        ("GET", "/api/v1/get/%zz", b"", 400, "bad_key"),
        ("GET", "/api/v1/get/albireo:fence", b"", 400, "bad_key"),
        ("GET", &long_key, b"", 400, "bad_key"),
        ("GET", "/api/v1/write/albireo%3Afence?value=9", b"", 400, "bad_key"),
        ("GET", "/api/v1/write/k", b"", 400, "bad_value"),
        ("PUT", "/api/v1/write/k?value=a", b"b", 400, "bad_value"),
        ("GET", "/api/v1/write/k?value=a&value=b", b"", 400, "bad_request"),
        ("GET", "/api/v1/write/k?value=a&ttl_ms=0", b"", 400, "bad_ttl"),
        ("PUT", "/api/v1/write/k?ttl_ms=x", b"v", 400, "bad_ttl"),
        ("GET", "/api/v1/get/k?from=nowhere", b"", 400, "bad_request"),
        ("GET", "/api/v1/get/k?consistency=strong&from=secondary", b"", 400, "bad_request"),
        ("GET", "/api/v1/get/k?consistency=x", b"", 400, "bad_request"),
        ("PUT", "/api/v1/write/k", &large, 413, "too_large"),
        ("GET", &large_query, b"", 413, "too_large"),
    ];
    for (method, path, body, status, code) in rows {
        let answer = api.call(Request { method, path, headers: &[], body });
        assert_eq!(
            (answer.status, answer.json()["error"]["code"].as_str()),
            (status, Some(code)),
            "{method} {path}"
        );
        assert!(answer.json()["error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{method} {path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{method} {path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    assert_eq!(api.call(Request::put("/api/v1/get/a", b"")).header("allow"), Some("GET, HEAD"));
    assert_eq!(stage.redis[0].cmd(&["GET", "albireo:fence"]).text(), "1");
    assert_eq!(stage.stored(0, "k"), None, "nothing was written");

    stage.redis[0].cmd(&["LPUSH", "k:list", "x"]);
    let wrong_type = api.get("/api/v1/get/list");
    assert_eq!((wrong_type.status, wrong_type.json()["error"]["code"].as_str()), (409, Some("wrong_type")));
    assert_eq!(pair(&wrong_type).1, 1);

    let text = api.get("/metrics").text();
    for line in [
        "albireo_api_requests_total{route=\"get\",code=\"409\"} 1",
        "# TYPE albireo_api_request_seconds histogram",
        "albireo_api_epoch{service=\"posts\"} 1",
        "albireo_api_ready{service=\"posts\"} 1",
        "albireo_api_zookeeper_connected 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    assert!(samples.clone().count() > 10);
    for sample in samples {
        let name = sample.split(['{', ' ']).next().unwrap();
        let name = ["_bucket", "_count", "_sum"].iter().fold(name, |n, end| n.strip_suffix(end).unwrap_or(n));
        for word in ["HELP", "TYPE"] {
            assert!(text.contains(&format!("# {word} {name} ")), "{word} {name}");
        }
    }
}

#[test]
fn tokens_guard_keys_and_nothing_else() {
    let stage = Stage::with(1, |ini| ini.set("api", "token", "s3cret"));
    let api = stage.api();
    for path in ["/api/v1/get/a", "/api/v1/write/a?value=1", "/api/v1/services/posts/get/a"] {
        for headers in [&[][..], &[("authorization", "Bearer wrong")], &[("authorization", "Basic s3cret")]] {
            let answer = api.call(Request { method: "GET", path, headers, body: b"" });
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        }
    }
    assert_eq!(stage.stored(0, "a"), None);
    let headers = &[("authorization", "Bearer s3cret")];
    let path = "/api/v1/write/a?value=1";
    assert_eq!(api.call(Request { method: "GET", path, headers, body: b"" }).status, 200);
    for path in ["/api/v1/topology", "/healthz", "/readyz", "/metrics"] {
        assert_eq!(api.get(path).status, 200, "{path}");
    }
}

#[test]
fn from_the_announcement_to_the_record_and_never_back() {
    let mut stage = Stage::without_api(2);
    stage.start_api(|ini| ini);
    let by_path = stage.api().get("/api/v1/topology").json();
    let expected = json!({
        "service": "posts", "primary": stage.addr(0), "secondary": [stage.addr(1)], "epoch": 0, "in_sync": [],
        "durability": "async", "source": "path", "age_ms": 0,
    });
    assert_eq!(by_path, expected);
    // By path another primary may be named tomorrow, and an epoch comes with one: so there is none.
    for (answer, status) in [
        (stage.api().put("a", "1"), 200),
        (stage.api().get("/api/v1/get/a"), 200),
        (stage.api().get("/api/v1/get/none"), 404),
    ] {
        let header = |name| answer.header(name).map(str::to_owned);
        assert_eq!((answer.status, header("x-albireo-epoch")), (status, None), "{answer:?}");
        assert_eq!(header("x-albireo-primary"), Some(stage.addr(0).to_string()));
        assert_eq!(header("x-albireo-durability"), Some("async".to_owned()));
    }
    assert_eq!(stage.api().get("/api/v1/get/a").json()["value"], "1");
    assert_eq!(stage.redis[0].cmd(&["KEYS", "albireo:*"]).list().len(), 0, "no markers without a record");

    // Nonsense does not move traffic, a proper change does.
    for text in ["", "x", "{}", r#"{"primary":"nowhere","secondary":[]}"#] {
        zookeeper().set(&stage.names.path, text);
    }
    stage.api().0.wait_for_refused(1.0);
    assert_eq!(stage.api().put("a", "2").status, 200);
    zookeeper().set(&stage.names.path, &stage.announcement());

    stage.stamp(0);
    stage.publish("serving");
    wait::until("the record is seen", LONG, || {
        let topology = stage.api().get("/api/v1/topology").json();
        wait::holds(topology["source"] == "state" && topology["epoch"] == 1, || topology.to_string())
    });
    assert_eq!(pair(&stage.api().put("a", "3")), (stage.addr(0).to_string(), 1));
    assert_eq!(stage.api().get("/api/v1/topology").json()["in_sync"], json!([stage.addr(1)]));

    // From now on neither the announcement nor a broken, older or missing record moves anything.
    let refused = stage.api().metric("albireo_api_refused_views_total");
    stage.primary = 1;
    zookeeper().set(&stage.names.path, &stage.announcement());
    zookeeper().set(&stage.names.state(), "nonsense");
    stage.api().0.wait_for_refused(refused + 1.0);
    stage.epoch = 0;
    zookeeper().set(&stage.names.state(), &stage.record("serving").to_string());
    stage.api().0.wait_for_refused(refused + 2.0);
    stage.epoch = 1;
    zookeeper().set(&stage.names.state(), &stage.record("serving").to_string());
    stage.api().0.wait_for_refused(refused + 3.0);
    zookeeper().delete(&stage.names.state());
    stage.api().0.wait_for_refused(refused + 4.0);
    assert_eq!(pair(&stage.api().put("a", "4")), (stage.addr(0).to_string(), 1));
}

trait Refused {
    fn wait_for_refused(&self, count: f64);
}

impl Refused for world::programs::Program {
    fn wait_for_refused(&self, count: f64) {
        wait::until("a refused content is counted", LONG, || {
            let refused = self.metric("albireo_api_refused_views_total").unwrap_or(0.0);
            wait::holds(refused >= count, || format!("{refused} of {count}"))
        });
    }
}

#[test]
fn a_record_that_is_broken_from_the_beginning_is_no_reason_to_follow_the_announcement() {
    let stage = Stage::without_api(1);
    zookeeper().create(&stage.names.state(), "{}");
    let api = Api::start(stage.names.ini().set("api", "deadline_ms", 300));
    api.wait_until_healthy();
    api.0.wait_for_refused(1.0);
    let answer = api.put("a", "1");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    assert_eq!(api.get("/api/v1/topology").status, 503);
    assert_eq!(api.get("/readyz").status, 503);
}

#[test]
fn it_waits_for_zookeeper_and_for_the_service() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let names = Names::new();
    let api = Api::start(names.ini().set("zookeeper", "hosts", nobody).set("api", "deadline_ms", 200));
    api.wait_until_healthy();
    assert_eq!(api.get("/healthz").status, 200);
    let ready = api.get("/readyz");
    assert_eq!((ready.status, ready.json()["ready"].as_bool()), (503, Some(false)));
    assert!(!ready.json()["reasons"][0].as_str().unwrap().is_empty());
    assert_eq!(api.get("/api/v1/get/a").status, 503);
    assert_eq!(api.metric("albireo_api_zookeeper_connected"), 0.0);

    // A service that is not seeded yet is waited for too; a request that waits gets its answer.
    let mut stage = Stage::without_api(1);
    zookeeper().delete(&stage.names.path);
    let api = Api::start(stage.names.ini().set("api", "deadline_ms", 20_000));
    api.wait_until_healthy();
    let http = api.0.http();
    let answer = thread::scope(|scope| {
        let put = scope.spawn(|| connect(http).call(Request::put("/api/v1/write/a", b"1")).unwrap());
        api.0.wait_for_refused(1.0);
        stage.stamp(0);
        stage.publish("serving");
        put.join().unwrap()
    });
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn no_more_than_max_in_flight() {
    let mut stage =
        Stage::with(1, |ini| ini.set("api", "max_in_flight", 3).set("api", "deadline_ms", 10_000));
    stage.redis[0].pause();
    let http = stage.api().0.http();
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| connect(http).call(Request::get("/api/v1/get/a")).unwrap()))
            .collect();
        wait::until("three wait", LONG, || {
            let waiting = stage.api().metric("albireo_api_in_flight");
            wait::holds(waiting == 3.0, || waiting.to_string())
        });
        let answer = stage.api().get("/api/v1/get/a");
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("overloaded")));
        assert_eq!(answer.header("retry-after"), Some("1"));
        stage.redis[0].resume();
        for answer in waiting {
            assert_eq!(answer.join().unwrap().status, 404);
        }
    });
    assert_eq!(stage.api().get("/api/v1/get/a").status, 404);
}

#[test]
fn several_services_and_those_that_come_and_go() {
    let first = Stage::without_api(1);
    let second = Stage::without_api(1);
    let parent = format!("{}x", first.names.state_root.replace("albireo", "found"));
    zookeeper().create(&format!("{parent}/users"), &second.announcement());
    let api =
        Api::start(first.names.ini().set("zookeeper", "discover", &parent).set("api", "service", "posts"));
    api.wait_until_healthy();
    let get = |path: &str, status: u16| {
        wait::until(path, LONG, || {
            let answer = api.get(path);
            wait::holds(answer.status == status, || format!("{answer:?}"))
        });
    };
    get("/readyz", 200);
    get("/api/v1/services/users/topology", 200);
    assert_eq!(api.call(Request::put("/api/v1/services/users/write/a", b"2")).status, 200);
    assert_eq!(api.put("a", "1").status, 200);
    assert_eq!((first.stored(0, "a").as_deref(), second.stored(0, "a").as_deref()), (Some("1"), Some("2")));
    assert_eq!(api.get("/api/v1/services/posts/get/a").json()["value"], "1");

    // The name of the configured one is taken.
    zookeeper().create(&format!("{parent}/posts"), &second.announcement());
    get("/api/v1/services/late/get/a", 404);
    zookeeper().create(&format!("{parent}/late"), &second.announcement());
    get("/api/v1/services/late/topology", 200);
    assert_eq!(api.get("/api/v1/services/late/get/a").json()["value"], "2");
    assert_eq!(api.get("/api/v1/get/a").json()["value"], "1");
    assert_eq!(api.metric("albireo_api_ignored_services_total"), 1.0);
    zookeeper().delete(&format!("{parent}/late"));
    get("/api/v1/services/late/topology", 404);
    let log = api.0.metric("albireo_api_epoch{service=\"late\"}");
    assert_eq!(log, None, "a service that is gone leaves no metrics");
}

#[test]
fn redis_with_a_password() {
    let mut stage = Stage::new(1);
    stage.redis[0].cmd(&["ACL", "SETUSER", "api", "on", ">pw", "~k:*", "~albireo:*", "+@all"]);
    stage.start_api(|ini| ini.set("redis", "username", "api").set("redis", "password", "pw"));
    assert_eq!(stage.api().put("a", "1").status, 200);
    let names = stage.redis[0].cmd(&["CLIENT", "LIST"]);
    assert!(names.text().contains("name=albireo-api"), "{}", names.text());
    let ini = stage.names.ini().set("redis", "username", "api").set("redis", "password", "wrong");
    let api = Api::start(ini.set("api", "deadline_ms", 500));
    api.wait_until_healthy();
    wait::until("it says why", LONG, || {
        let answer = api.put("a", "2");
        wait::holds(answer.status == 503 && answer.text().contains("WRONGPASS"), || answer.text())
    });
}

/// Runs the program to its end.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_api")).args(arguments).output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn exit_codes() {
    let dir = WorkDir::new("exit-codes");
    let file = |name: &str, ini: &Ini| {
        let path = dir.join(name);
        fs::write(&path, ini.text()).unwrap();
        path.display().to_string()
    };
    let good = file("good.ini", &Names::new().ini());
    let bad = Names::new().ini().set("api", "durability", "most").set("log", "level", "loud");
    let bad = file("bad.ini", &bad);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();

    let (code, text) = run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("--listen") && text.contains("api.ini"), "{text}");
    let (code, text) = run(&["--version"]);
    assert_eq!((code, text.trim()), (Some(0), concat!("api ", env!("CARGO_PKG_VERSION"))));
    for arguments in [&["--nonsense"][..], &["a", "b"], &[&good, "--listen", "nowhere"]] {
        assert_eq!(run(arguments).0, Some(2), "{arguments:?}");
    }
    let (code, text) = run(&[&bad]);
    assert_eq!(code, Some(2));
    // Of two mistakes the first, in one line.
    let lines: Vec<_> = text.lines().collect();
    assert!(
        matches!(lines[..], [line] if line.contains("bad.ini:") && line.contains("[api] durability = most: ")),
        "{text}"
    );
    assert_eq!(run(&["/no/such/file.ini"]).0, Some(2));
    let (code, text) = run(&[&good, "--listen", &taken]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&taken), "{text}");
}

#[test]
fn a_signal_ends_it_after_the_requests_under_way() {
    let mut stage = Stage::with(1, |ini| ini.set("log", "format", "json"));
    let http = stage.api().0.http();
    stage.redis[0].pause();
    let (answer, status) = thread::scope(|scope| {
        let put = scope.spawn(|| connect(http).call(Request::put("/api/v1/write/a", b"1")).unwrap());
        let idle = connect(http);
        wait::until("the request waits", LONG, || {
            let waiting = stage.api().metric("albireo_api_in_flight");
            wait::holds(waiting == 1.0, || waiting.to_string())
        });
        stage.program().process().signal(world::Signal::Term);
        stage.program().process().wait_for_line("not ready any more", LONG);
        stage.program().process().signal(world::Signal::Term);
        stage.program().process().wait_for_line("\"stopping\"", LONG);
        thread::sleep(Duration::from_millis(50));
        stage.redis[0].resume();
        let answer = put.join().unwrap();
        let status = stage.program().process().wait_for_end(LONG);
        drop(idle);
        (answer, status)
    });
    assert_eq!((answer.status, status.code()), (200, Some(0)));
    let log = stage.program().process().log();
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
}

/// A load balancer sees that it is not ready and goes elsewhere in its own time; until then nothing breaks.
#[test]
fn an_api_that_is_to_end_says_so_and_goes_on_for_a_while() {
    let mut stage = Stage::with(1, |ini| ini.set("api", "drain_ms", 600_000));
    let http = stage.api().0.http();
    let (mut kept, mut large, mut idle) = (connect(http), connect(http), connect(http));
    let ready = |connection: &mut Connection| connection.call(Request::get("/readyz")).unwrap();
    for connection in [&mut kept, &mut large, &mut idle] {
        let answer = ready(connection);
        assert_eq!((answer.status, answer.header("connection")), (200, None));
    }
    stage.program().process().signal(world::Signal::Term);
    stage.program().process().wait_for_line("not ready any more", LONG);

    // A connection that stands, one that is new, and a request that is not a plain one.
    let answer = kept.call(Request::put("/api/v1/write/a", b"1")).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{}", answer.text());
    assert!(kept.call(Request::get("/api/v1/get/a")).is_err(), "it was the last answer of its connection");
    let answer = ready(&mut connect(http));
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    assert!(answer.text().contains("about to end"), "{}", answer.text());
    let value = vec![b'v'; 200_000];
    let answer = large.call(Request::put("/api/v1/write/b", &value)).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(large.call(Request::get("/api/v1/get/b")).is_err(), "it was the last answer of its connection");

    // Nobody waits for connections that are not used, and a second signal ends the waiting.
    stage.program().process().signal(world::Signal::Int);
    let status = stage.program().process().wait_for_end(LONG);
    assert_eq!(status.code(), Some(0));
    assert!(idle.call(Request::get("/readyz")).is_err());
}
