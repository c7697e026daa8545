//! What hooks are told, in which order, and that nothing waits for them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use world::certificates::Certificates;
use world::group::Group;
use world::{Signal, programs, wait};

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

/// Takes POSTs by TLS, and gives each of them as it came.
fn secure_receiver(certificates: &Certificates) -> (std::net::SocketAddr, mpsc::Receiver<String>) {
    let chain = CertificateDer::pem_file_iter(certificates.file("server.pem")).expect("a file");
    let chain = chain.collect::<Result<_, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(certificates.file("server.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("TLS");
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).expect("a certificate"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (requests, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(config.clone()).expect("a connection");
            let mut stream = StreamOwned::new(connection, stream);
            let (mut request, mut part) = (Vec::new(), [0; 4096]);
            // Whoever does not believe us ends here.
            while let Ok(length @ 1..) = stream.read(&mut part) {
                request.extend_from_slice(&part[..length]);
                if request.ends_with(b"}") {
                    let _ = requests.send(String::from_utf8_lossy(&request).into_owned());
                    let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
                    let _ = stream.flush();
                    break;
                }
            }
        }
    });
    (addr, received)
}

/// Its own CA is believed, another one is not, and nobody ever sees more of the URL than scheme and host.
#[test]
fn a_webhook_by_tls_whose_url_is_a_secret() {
    const SECRET: &str = "T0KEN-0f-the-webhook";
    let certificates = Certificates::new();
    let (addr, received) = secure_receiver(&certificates);
    let mut group = Group::of(1)
        .monitors(1)
        .apis(0)
        .monitor_key("hooks", "webhook", format!("https://{addr}/{SECRET}?key={SECRET}"))
        .monitor_key("hooks", "tls_ca", certificates.text("other-ca.pem"))
        .monitor_key("log", "level", "trace")
        .start();
    let file = group.monitors[0].file().display().to_string();
    group.redis[1].kill();
    let refused = format!("the webhook https://{addr} failed");
    let line = group.monitors[0].process().wait_for_line(&refused, LIMIT);
    assert!(line.contains("TLS: invalid peer certificate: UnknownIssuer"), "{line}");
    assert!(received.try_recv().is_err());
    // Another file, another URL: told as changed, and adopted.
    let text = std::fs::read_to_string(&file).expect("the file");
    let right = certificates.text("ca.pem");
    let text = text.replace(&certificates.text("other-ca.pem"), &right).replace("?key=", "?k=");
    group.monitors[0].write_file(&text);
    group.monitors[0].process().signal(Signal::Hup);
    group.monitors[0].process().wait_for_line("reloaded [hooks]", LIMIT);
    group.redis[1].restart();
    group.settled();
    group.redis[1].kill();
    let request = loop {
        let request = received.recv_timeout(LIMIT).expect("a request");
        if request.contains("role_change") || request.contains("\"down\"") {
            break request;
        }
    };
    let begin = format!("POST /{SECRET}?k={SECRET} HTTP/1.1\r\nhost: {addr}\r\n");
    assert!(request.to_lowercase().starts_with(&begin.to_lowercase()), "{request}");
    group.monitors[0].process().wait_for_line(&format!("the webhook https://{addr} was told"), LIMIT);
    let mut seen = vec![group.monitors[0].process().log()];
    for words in [vec!["check", &file], vec!["status", &file, "--json"], vec!["history", &file, "posts"]] {
        seen.push(programs::run("monitor", &words, LIMIT).1);
    }
    for page in ["/services", "/metrics", "/readyz", "/"] {
        seen.push(group.monitors[0].get(page).text());
    }
    for words in seen {
        assert!(!words.contains(SECRET), "{words}");
    }
}
