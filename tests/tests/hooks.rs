//! What hooks are told, in which order, and that nothing waits for them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use world::group::Group;
use world::wait;

const LIMIT: Duration = Duration::from_secs(20);

/// Takes POSTs: refuses the first with 500, so that it has to come again.
fn receiver() -> (std::net::SocketAddr, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (bodies, received) = mpsc::channel();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.expect("a connection");
            let mut request = Vec::new();
            let body = loop {
                let mut part = [0; 4096];
                let length = stream.read(&mut part).expect("a request");
                request.extend_from_slice(&part[..length]);
                let text = String::from_utf8_lossy(&request);
                if let Some((_, body)) = text.split_once("\r\n\r\n")
                    && let Ok(body) = serde_json::from_str::<Value>(body)
                {
                    break body;
                }
                assert!(length > 0, "the request ends early: {text}");
            };
            let status = if number == 0 { "500 No" } else { "200 OK" };
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            if number > 0 && bodies.send(body).is_err() {
                return;
            }
        }
    });
    (addr, received)
}

#[test]
fn hooks_are_told_of_a_failover_and_delay_nothing() {
    let (addr, received) = receiver();
    let folder = world::workdir::WorkDir::new("hooks");
    let told = folder.path().join("told");
    let command =
        format!("sleep 2; echo \"$ALBIREO_SERVICE $ALBIREO_FROM $ALBIREO_TO\" >> {}", told.display());
    let mut group = Group::of(2)
        .monitor_key("hooks", "on_failover", command)
        .monitor_key("hooks", "webhook", format!("http://{addr}/albireo"))
        .start();
    let before = group.settled();
    let load = group.load();
    let old = group.primary();
    group.redis[old].kill();
    load.wait_for_epoch_above(before.epoch, LIMIT);
    load.wait_for_writes(50, LIMIT);
    let after = group.state();
    let line = format!("posts {} {}\n", before.primary.addr, after.primary.addr);
    wait::until("the command was run", LIMIT, || {
        let text = std::fs::read_to_string(&told).map_err(|e| e.to_string())?;
        wait::holds(text == line, || text.clone())
    });
    let mut events = Vec::new();
    while !["failover", "down", "role_change"]
        .iter()
        .all(|word| events.iter().any(|e: &Value| e["event"] == *word))
    {
        events.push(received.recv_timeout(LIMIT).unwrap_or_else(|e| panic!("{e}: {events:?}")));
    }
    let of = |word: &str| events.iter().find(|event| event["event"] == word).expect("looked for above");
    assert_eq!(of("failover")["to"], after.primary.addr.to_string());
    assert_eq!(of("failover")["epoch"], after.promoted);
    assert_eq!(of("down")["addr"], before.primary.addr.to_string());
    assert_eq!(
        (&of("role_change")["was"], &of("role_change")["role"]),
        (&"replica".into(), &"primary".into())
    );
    let report = load.stop();
    report.assert_clean();
    group.redis[old].restart();
    group.settled();
}
