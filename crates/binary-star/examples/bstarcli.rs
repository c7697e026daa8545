//! The guide's Binary Star client: one numbered request per second, and the other server after a second of silence.
//!
//! ```text
//! bstarcli [PRIMARY BACKUP]        default: tcp://localhost:5001 tcp://localhost:5002
//! ```

#![allow(clippy::disallowed_methods, reason = "a program that waits; nothing links it")]

use std::io::Write;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

/// How long a server may think.
const REQUEST_TIMEOUT_MS: i64 = 1000;
/// Before the other server is asked: its peer must have had time to expire (two heartbeats).
const SETTLE_DELAY: Duration = Duration::from_millis(2000);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let servers = match arguments.as_slice() {
        [] => ["tcp://localhost:5001".into(), "tcp://localhost:5002".into()],
        [primary, backup] => [primary.clone(), backup.clone()],
        _ => {
            eprintln!("usage: bstarcli [PRIMARY BACKUP]");
            return ExitCode::from(2);
        }
    };
    match ask(&servers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("E: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Asks until nobody reads what is printed.
fn ask(servers: &[String; 2]) -> Result<(), Box<dyn std::error::Error>> {
    let context = zmq::Context::new();
    let mut turn = servers.iter().cycle();
    let mut connect = || -> Result<zmq::Socket, Box<dyn std::error::Error>> {
        let server = turn.next().ok_or("no server")?;
        say(&format!("I: connecting to server at {server}..."))?;
        let client = context.socket(zmq::REQ)?;
        client.set_linger(0)?;
        client.connect(server)?;
        Ok(client)
    };
    let mut client = connect()?;
    for sequence in 1_u64.. {
        let request = sequence.to_string();
        client.send(&request, 0)?;
        loop {
            if client.poll(zmq::POLLIN, REQUEST_TIMEOUT_MS)? == 0 {
                say("W: no response from server, failing over")?;
                // A REQ socket that waits for a reply takes no second request: a new one, to the other server.
                drop(client);
                sleep(SETTLE_DELAY);
                client = connect()?;
                client.send(&request, 0)?;
                continue;
            }
            let reply = client.recv_bytes(0)?;
            let reply = String::from_utf8_lossy(&reply);
            if reply == request {
                say(&format!("I: server replied OK ({reply})"))?;
                sleep(Duration::from_secs(1));
                break;
            }
            say(&format!("E: bad reply from server: {reply}"))?;
        }
    }
    Ok(())
}

/// One line on stdout, at once, also when it is a file or a pipe.
fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
