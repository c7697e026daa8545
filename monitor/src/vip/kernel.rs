//! The addresses of this host, over rtnetlink. Every call waits for the kernel's answer, which takes microseconds.
// The kernel's vocabulary is large, and grows; two words of it are of interest here.
#![allow(clippy::wildcard_enum_match_arm)]

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, CacheInfo};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Route};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::Address;

/// The kernel's "for good".
const FOR_GOOD: u32 = u32::MAX;

/// An interface of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    /// Whether it is switched on.
    pub(crate) up: bool,
    /// Its hardware address, if it speaks Ethernet.
    pub(crate) mac: Option<[u8; 6]>,
}

/// An address of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Configured {
    pub(crate) ip: IpAddr,
    /// The interface that has it.
    pub(crate) index: u32,
    /// For how many more seconds; `None`: for good.
    pub(crate) seconds: Option<u32>,
}

/// A conversation with the kernel.
pub(crate) struct Kernel {
    socket: Socket,
    sequence: u32,
}

impl Kernel {
    /// Opens it.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The interface of this name.
    pub(crate) fn interface(&mut self, name: &str) -> io::Result<Interface> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers = self.ask(Route::GetLink(question), 0)?;
        let link = answers.into_iter().find_map(|answer| match answer {
            Route::NewLink(link) => Some(link),
            _ => None,
        });
        let link = link.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        let ethernet = link.header.link_layer_type == LinkLayerType::Ether;
        let mac = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) if ethernet => bytes.as_slice().try_into().ok(),
            _ => None,
        });
        Ok(Interface { index: link.header.index, up: link.header.flags.contains(LinkFlags::Up), mac })
    }

    /// All addresses of all interfaces.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<Configured>> {
        let answers = self.ask(Route::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
        let all = answers.into_iter().filter_map(|answer| match answer {
            Route::NewAddress(address) => configured(&address),
            _ => None,
        });
        Ok(all.collect())
    }

    /// Adds the address, which must not be there, for so many seconds.
    pub(crate) fn add(&mut self, index: u32, address: Address, seconds: u32) -> io::Result<()> {
        self.set(index, address, seconds, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Lets the address live for so many seconds from now. It is added if it is not there: the kernel knows no other way.
    pub(crate) fn refresh(&mut self, index: u32, address: Address, seconds: u32) -> io::Result<()> {
        self.set(index, address, seconds, NLM_F_REPLACE)
    }

    fn set(&mut self, index: u32, address: Address, seconds: u32, how: u16) -> io::Result<()> {
        let mut lifetime = CacheInfo::default();
        (lifetime.ifa_valid, lifetime.ifa_preferred) = (seconds, seconds);
        let mut message = message(index, address.ip);
        message.header.prefix_len = address.prefix;
        message.attributes.push(AddressAttribute::Address(address.ip.into()));
        message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        self.ask(Route::NewAddress(message), NLM_F_ACK | how).map(drop)
    }

    /// Removes the address; `false` if it (or the interface) is not there.
    pub(crate) fn remove(&mut self, index: u32, ip: Ipv4Addr) -> io::Result<bool> {
        match self.ask(Route::DelAddress(message(index, ip)), NLM_F_ACK) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// One request and all that is answered to it.
    fn ask(&mut self, request: Route, flags: u16) -> io::Result<Vec<Route>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            if self.read(&datagram, flags, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Reads one datagram; `true` once the answer is whole.
    fn read(&self, datagram: &[u8], flags: u16, answers: &mut Vec<Route>) -> io::Result<bool> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let malformed = |why: &dyn std::fmt::Display| io::Error::other(format!("netlink: {why}"));
            let message = NetlinkMessage::<Route>::deserialize(rest).map_err(|e| malformed(&e))?;
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
            rest = rest.get(length.max(16)..).unwrap_or_default();
            // What belongs to an earlier request that was given up.
            if message.header.sequence_number != self.sequence {
                continue;
            }
            match message.payload {
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                _ => return Err(malformed(&"an unexpected message")),
            }
        }
        // A question about one thing is answered by one message, without an end.
        Ok(!answers.is_empty() && flags & (NLM_F_DUMP | NLM_F_ACK) == 0)
    }
}

fn message(index: u32, ip: Ipv4Addr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = index;
    message.header.prefix_len = 32;
    message.attributes.push(AddressAttribute::Local(ip.into()));
    message
}

/// An IPv4 address stands in `Local`, its peer in `Address`; an IPv6 address in `Address`.
fn configured(message: &AddressMessage) -> Option<Configured> {
    let (mut local, mut address, mut seconds) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::CacheInfo(info) => {
                seconds = Some(info.ifa_valid).filter(|valid| *valid != FOR_GOOD)
            }
            _ => {}
        }
    }
    Some(Configured { ip: local.or(address)?, index: message.header.index, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_loopback() {
        let mut kernel = Kernel::open().unwrap();
        let lo = kernel.interface("lo").unwrap();
        assert!(lo.mac.is_none(), "{lo:?}");
        let all = kernel.addresses().unwrap();
        let localhost = Configured { ip: Ipv4Addr::LOCALHOST.into(), index: lo.index, seconds: None };
        assert!(!lo.up || all.contains(&localhost), "{all:?}");
    }

    #[test]
    fn what_is_not_there() {
        let mut kernel = Kernel::open().unwrap();
        assert_eq!(kernel.interface("no-such-one").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        // Root may remove, and there is nothing to be removed; nobody else may even try.
        let removed = kernel.remove(1, Ipv4Addr::new(192, 0, 2, 77));
        let refused = |error: &io::Error| error.raw_os_error() == Some(libc::EPERM);
        assert!(
            removed.as_ref().is_ok_and(|was| !was) || removed.as_ref().is_err_and(refused),
            "{removed:?}"
        );
    }
}
