//! Free ports that stay ours: also while the server behind one is killed and started again.
//!
//! They come from below the kernel's range for outgoing connections. A port from inside that range could be taken by
//! anybody's connection while its server is down, and a connection attempt to it could even meet itself.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

const FIRST: u16 = 10_000;
const LAST: u16 = 32_000;

/// The reservations of this process: an abstract socket per port, which the kernel frees when the process ends.
static TAKEN: Mutex<Option<HashMap<u16, UnixListener>>> = Mutex::new(None);

/// A port on loopback that nobody listens on and that no other process of this library is given.
pub fn free() -> u16 {
    let span = LAST - FIRST;
    let start = seed() % u32::from(span);
    for step in 0..u32::from(span) {
        let offset = (start + step) % u32::from(span);
        let port = FIRST + u16::try_from(offset).expect("an offset below the span");
        if let Some(reservation) = reserve(port) {
            let mut taken = TAKEN.lock().expect("no holder panics");
            taken.get_or_insert_default().insert(port, reservation);
            return port;
        }
    }
    panic!("no free port between {FIRST} and {LAST}");
}

fn reserve(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("albireo-test-port-{port}")).ok()?;
    let reservation = UnixListener::bind_addr(&name).ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    Some(reservation)
}

/// Processes that start together begin at different ports.
fn seed() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
    now ^ std::process::id().wrapping_mul(2_654_435_761)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once() {
        let ports: Vec<u16> = (0..50).map(|_| free()).collect();
        let distinct: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(distinct.len(), ports.len());
        assert!(ports.iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()));
    }
}
