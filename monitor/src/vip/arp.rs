//! Gratuitous ARP: neighbours that know the address elsewhere learn at once where it is now.

use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::kernel::Interface;

/// When the address is announced, counted from the moment it was taken: a neighbour may be busy, a switch may be learning.
pub(crate) const MOMENTS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

const EVERYBODY: [u8; 6] = [0xff; 6];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// A socket for whole frames on one interface.
pub(crate) struct Announcer {
    socket: File,
    mac: [u8; 6],
}

impl Announcer {
    /// `None` on an interface that does not speak Ethernet, where there is nobody to tell. Needs CAP_NET_RAW.
    pub(crate) fn open(interface: &Interface) -> io::Result<Option<Self>> {
        let Some(mac) = interface.mac else { return Ok(None) };
        let socket = packet_socket(interface.index)?;
        Ok(Some(Self { socket: File::from(socket), mac }))
    }

    /// Tells everybody on the link: as a question, which most systems learn from, and as an answer, for the others.
    pub(crate) fn announce(&mut self, ip: Ipv4Addr) -> io::Result<()> {
        for operation in [REQUEST, REPLY] {
            self.socket.write_all(&frame(operation, self.mac, ip))?;
        }
        Ok(())
    }
}

/// A frame to everybody: `ip` is at `mac`, says `ip` to itself.
fn frame(operation: u16, mac: [u8; 6], ip: Ipv4Addr) -> Vec<u8> {
    // In a question the hardware address that is asked for is unknown.
    let target = if operation == REPLY { EVERYBODY } else { [0; 6] };
    let mut frame = Vec::with_capacity(42);
    frame.extend(EVERYBODY);
    frame.extend(mac);
    frame.extend(0x0806_u16.to_be_bytes()); // ARP
    frame.extend(1_u16.to_be_bytes()); // over Ethernet
    frame.extend(0x0800_u16.to_be_bytes()); // for IPv4
    frame.extend([6, 4]); // the lengths of their addresses
    frame.extend(operation.to_be_bytes());
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend(target);
    frame.extend(ip.octets());
    frame
}

/// A socket that sends frames through one interface and receives none (protocol 0).
#[allow(unsafe_code)]
fn packet_socket(index: u32) -> io::Result<OwnedFd> {
    // SAFETY: a system call on numbers; a descriptor that is not negative is a new one, and ours.
    let socket = unsafe {
        let descriptor = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    // SAFETY: zeroes are a valid `sockaddr_ll`, which is plain data.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_ifindex = i32::try_from(index).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
    // SAFETY: the pointer is that of a live `sockaddr_ll`, and the length is its size.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_frame() {
        let mac = [2, 0, 0, 0, 0, 7];
        let ip = Ipv4Addr::new(10, 0, 0, 9);
        let request = [
            255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7,
            10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0, 9,
        ];
        assert_eq!(frame(REQUEST, mac, ip), request);
        let reply = frame(REPLY, mac, ip);
        assert_eq!((reply[21], &reply[32..38], reply.len()), (2, &EVERYBODY[..], 42));
    }

    #[test]
    fn loopback_has_no_neighbours() {
        let lo = Interface { index: 1, up: true, mac: None };
        assert!(Announcer::open(&lo).unwrap().is_none());
    }
}
