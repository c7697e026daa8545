//! Attacks on the listeners of real programs that may open few files: thousands who say nothing or half a request keep nobody
//! out, and a request that takes its time is cut off.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use world::group::Group;
use world::http::{self, Request};
use world::programs::{self, Ini};
use world::{Host, Process, WorkDir, wait};

const LIMIT: Duration = Duration::from_secs(20);
/// What a process may open: 40 connections at the monitor's HTTP, 200 at its Sentinel endpoint and at an API.
const FILES: usize = 400;
/// More than any of them takes in.
const IDLE: usize = 1000;

/// A program with few files.
fn start(program: &str, ini: &Ini, dir: &WorkDir) -> (Process, String) {
    let file = dir.join(&format!("{program}.ini"));
    std::fs::write(&file, ini.text()).expect("a file");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("ulimit -n {FILES}; exec \"$0\" \"$@\"")]);
    command.arg(programs::path_of(program)).arg(&file);
    (Process::of(program, command), file.display().to_string())
}

fn answer(at: SocketAddr, request: Request<'_>) -> Result<http::Answer, String> {
    http::call(&Host::local(), at, request, LIMIT).map_err(|e| e.to_string())
}

fn ready(at: SocketAddr) {
    wait::until("ready", Duration::from_secs(45), || {
        let answer = answer(at, Request::get("/readyz"))?;
        wait::holds(answer.status == 200, || answer.text())
    });
}

/// Opens one connection after the other; after each tenth part of them somebody asks.
fn flood(at: SocketAddr, half: &[u8], mut asks: impl FnMut()) -> Vec<TcpStream> {
    let mut idle = Vec::new();
    for number in 1..=IDLE {
        let mut stream = TcpStream::connect_timeout(&at, LIMIT).expect("a connection");
        if number % 2 == 0 {
            // It may have been sent away already.
            let _ = stream.write_all(half);
        }
        idle.push(stream);
        if number % (IDLE / 10) == 0 {
            asks();
        }
    }
    idle
}

fn metric(at: SocketAddr, begin: &str) -> f64 {
    let text = answer(at, Request::get("/metrics")).expect("metrics").text();
    let line = text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{begin}: {text}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

/// One line to the Sentinel endpoint, and the first bytes of its answer.
fn sentinel(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&at, LIMIT).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream.write_all(b"PING\r\n").expect("a question");
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_thousand_idle_connections_keep_nobody_out() {
    let group = Group::of(0).monitors(1).apis(0).sentinel().servers();
    group.seed();
    let dir = WorkDir::new("limits");
    let monitor = group.monitor_ini(0);
    let admin: SocketAddr =
        monitor.get("admin", "listen").and_then(|at| at.parse().ok()).expect("an address");
    let (_monitor, file) = start("monitor", &monitor, &dir);
    let api = Host::local().at(Host::local().free_port());
    let ini = Ini::new()
        .set("zookeeper", "hosts", group.zookeeper.hosts())
        .set("zookeeper", "path", group.path())
        .set("api", "listen", api);
    let (_api, _) = start("api", &ini, &dir);
    ready(admin);
    ready(api);

    let operator = || {
        let page = answer(admin, Request::get("/")).expect("the dashboard");
        assert!(page.status == 200 && page.text().contains("<html"), "{}", page.text());
        let (code, said) = programs::run("monitor", &["status", &file], LIMIT);
        assert_eq!(code, 0, "{said}");
    };
    let at_admin = flood(admin, b"GET /services HTTP/1.1\r\nhost", operator);
    let client = || {
        let written = answer(api, Request::put("/api/v1/write/key", b"value")).expect("an answer");
        assert_eq!(written.status, 200, "{}", written.text());
        let read = answer(api, Request::get("/api/v1/get/key")).expect("an answer");
        assert_eq!(read.json()["value"], "value");
    };
    let at_api = flood(api, b"PUT /api/v1/write/key HTTP/1.1\r\nhost: x\r\n", client);
    let endpoint = group.sentinel_address(0);
    let at_sentinel = flood(endpoint, b"*1\r\n$4\r\nPI", || assert_eq!(sentinel(endpoint), "+PONG\r\n"));
    // All at once, and all are counted.
    operator();
    client();
    for (at, name, places) in [
        (admin, "albireo_connections_refused_total{listener=\"admin\"}", FILES / 10),
        (admin, "albireo_connections_refused_total{listener=\"sentinel\"}", FILES / 2),
        (api, "albireo_api_connections_refused_total", FILES / 2),
    ] {
        let refused = metric(at, name);
        assert!(refused >= (IDLE - places) as f64, "{name}: {refused}");
    }
    drop((at_admin, at_api, at_sentinel));
}

#[test]
fn a_request_that_takes_its_time_is_cut_off() {
    let group = Group::of(0).monitors(1).start();
    let (admin, api) = (group.monitors[0].http(), group.apis[0].http());
    // A byte now and then; hyper reads the last one.
    let slow = [
        (admin, "GET /services HTTP/1.1\r\nhost: x\r\nx: "),
        (api, "GET /api/v1/get/key HTTP/1.1\r\nhost: x\r\nx: "),
        (api, "PATCH / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nx: "),
    ];
    let begun = Instant::now();
    let mut streams = slow.map(|(at, begin)| {
        let mut stream = TcpStream::connect_timeout(&at, LIMIT).expect("a connection");
        stream.write_all(begin.as_bytes()).expect("the begin of a request");
        (stream, false)
    });
    wait::until("the end of them", Duration::from_secs(30) + LIMIT, || {
        for (stream, ended) in &mut streams {
            *ended = *ended || stream.write_all(b"x").is_err();
        }
        std::thread::sleep(Duration::from_millis(100));
        let open = streams.iter().filter(|(_, ended)| !ended).count();
        wait::holds(open == 0, || format!("{open} are open after {:?}", begun.elapsed()))
    });
    assert!(begun.elapsed() >= Duration::from_secs(29), "cut off after {:?} already", begun.elapsed());
}
