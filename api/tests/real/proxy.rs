//! A proxy in front of one server that can hold requests, swallow replies, and cut connections, each at a chosen
//! moment: between a request and its reply.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use world::wait;

#[derive(Default)]
struct Switches {
    hold_requests: AtomicBool,
    swallow_replies: AtomicBool,
    pairs: Mutex<Vec<Pair>>,
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// What the client sent and the server has not been given.
    kept: Arc<Mutex<Vec<u8>>>,
}

/// The proxy; its threads end with the process.
pub(crate) struct Proxy {
    addr: SocketAddr,
    switches: Arc<Switches>,
}

impl Proxy {
    pub(crate) fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let switches = Arc::new(Switches::default());
        let shared = switches.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A server that is gone is one that refuses.
                if let Ok(server) = TcpStream::connect(server) {
                    join(&shared, client, server);
                }
            }
        });
        Self { addr, switches }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on what clients send is kept here.
    pub(crate) fn hold_requests(&self) {
        self.switches.hold_requests.store(true, Ordering::SeqCst);
    }

    /// Waits until something is kept here that contains this text.
    pub(crate) fn wait_held(&self, text: &str) {
        let there = |pair: &Pair| {
            let kept = pair.kept.lock().unwrap();
            kept.windows(text.len()).any(|window| window == text.as_bytes())
        };
        wait::until("a held request", Duration::from_secs(20), || {
            let pairs = self.switches.pairs.lock().unwrap();
            wait::holds(pairs.iter().any(there), || "nothing yet".to_owned())
        });
    }

    /// What is kept of the connection on which this text is.
    pub(crate) fn held(&self, text: &str) -> String {
        let pairs = self.switches.pairs.lock().unwrap();
        let kept = pairs.iter().map(|pair| String::from_utf8_lossy(&pair.kept.lock().unwrap()).into_owned());
        kept.into_iter().find(|kept| kept.contains(text)).unwrap_or_default()
    }

    /// From now on what the server answers is lost.
    pub(crate) fn swallow_replies(&self) {
        self.switches.swallow_replies.store(true, Ordering::SeqCst);
    }

    /// Lets everything pass again, on new connections.
    pub(crate) fn pass(&self) {
        self.switches.hold_requests.store(false, Ordering::SeqCst);
        self.switches.swallow_replies.store(false, Ordering::SeqCst);
    }

    /// Cuts every connection on both sides; what is held is lost.
    pub(crate) fn cut(&self) {
        for pair in self.switches.pairs.lock().unwrap().drain(..) {
            let _ = pair.client.shutdown(Shutdown::Both);
            let _ = pair.server.shutdown(Shutdown::Both);
        }
    }

    /// Cuts every client off and leaves the connections to the server open. What is held can still arrive there.
    pub(crate) fn cut_clients(&self) -> HeldBack {
        let pairs = std::mem::take(&mut *self.switches.pairs.lock().unwrap());
        for pair in &pairs {
            let _ = pair.client.shutdown(Shutdown::Both);
        }
        HeldBack(pairs)
    }
}

/// Requests whose clients are gone.
pub(crate) struct HeldBack(Vec<Pair>);

impl HeldBack {
    /// Sends them to the server after all.
    pub(crate) fn arrive(&mut self) {
        for pair in &mut self.0 {
            let kept = std::mem::take(&mut *pair.kept.lock().unwrap());
            // A killed connection may refuse them, which is as good.
            let _ = pair.server.write_all(&kept);
            let _ = pair.server.flush();
        }
    }
}

fn join(switches: &Arc<Switches>, client: TcpStream, server: TcpStream) {
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    switches.pairs.lock().unwrap().push(Pair { client, server, kept: kept.clone() });
    let shared = switches.clone();
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(read @ 1..) = from_client.read(&mut buffer) {
            if shared.hold_requests.load(Ordering::SeqCst) {
                kept.lock().unwrap().extend_from_slice(&buffer[..read]);
            } else if to_server.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        // With something held back the server is not to notice that the client is gone.
        if kept.lock().unwrap().is_empty() {
            let _ = to_server.shutdown(Shutdown::Both);
        }
    });
    let shared = switches.clone();
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(read @ 1..) = from_server.read(&mut buffer) {
            if !shared.swallow_replies.load(Ordering::SeqCst) && to_client.write_all(&buffer[..read]).is_err()
            {
                break;
            }
        }
        let _ = to_client.shutdown(Shutdown::Both);
    });
}
