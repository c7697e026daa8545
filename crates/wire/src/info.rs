//! The two reports of a server about itself: INFO and ROLE.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use crate::Reply;

/// The text of INFO: `field:value` lines below `# Section` lines. Fields are looked up in the text, since a probe
/// wants a handful of a hundred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfoReply<'a>(Cow<'a, str>);

impl<'a> InfoReply<'a> {
    /// The report in a reply; `None` if the reply is none.
    pub fn from_reply(reply: &'a Reply) -> Option<Self> {
        match reply {
            // The one looks at many bytes at once, the other, which is rarely needed, at each.
            Reply::Bulk(text) => Some(Self(match std::str::from_utf8(text) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => String::from_utf8_lossy(text),
            })),
            Reply::Nil | Reply::Status(_) | Reply::Int(_) | Reply::Error(_) | Reply::Array(_) => None,
        }
    }

    /// The value of a field; the first, if a field stands in two sections.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    }

    /// The value of a field that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }

    /// Whether a field is there and `1`.
    pub fn flag(&self, name: &str) -> bool {
        self.field(name) == Some("1")
    }

    /// The values of the fields `NAME0`, `NAME1` and so on, up to the first that is not there. One pass, whatever a server
    /// claims to have of them.
    pub fn numbered(&self, name: &str) -> impl Iterator<Item = &str> {
        let mut next = 0_usize;
        self.lines().filter_map(move |line| {
            let (number, value) = line.strip_prefix(name)?.split_once(':')?;
            let is_next = number.parse() == Ok(next);
            next += usize::from(is_next);
            is_next.then_some(value)
        })
    }

    /// The fields of one section, named as in `# Replication`, in the order of the report.
    pub fn section(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        self.lines()
            .skip_while(move |line| line.strip_prefix("# ") != Some(name))
            .skip(1)
            .take_while(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once(':'))
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.lines()
    }
}

/// What ROLE says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A server that follows nobody.
    Primary {
        /// How many bytes its stream has had.
        offset: u64,
        /// Each replica as `ip:port`, the way the primary sees it, and the offset that it has acknowledged.
        replicas: Vec<(String, u64)>,
    },
    /// A server that follows another.
    Replica {
        /// The host it is told to follow.
        host: String,
        /// And its port; 0 for a detached replica (R2).
        port: u16,
        /// How far it is.
        link: ReplicaLink,
        /// How many bytes of the stream it has; `None` before the first synchronisation.
        offset: Option<u64>,
    },
}

/// The state of a replica's link to its primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaLink {
    /// It is about to connect, or has not tried yet.
    Connect,
    /// It is connecting.
    Connecting,
    /// It is receiving the whole data set.
    Sync,
    /// It follows the stream.
    Connected,
    /// Anything else that a server may say, such as `handshake`.
    Other,
}

/// A reply that is no answer to ROLE.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// The server answered with an error.
    #[error("ROLE: {0}")]
    Refused(String),
    /// Something that ROLE never says, or the role of a sentinel.
    #[error("ROLE: not understood")]
    Malformed,
}

impl Role {
    /// Reads the reply to ROLE.
    pub fn from_reply(reply: &Reply) -> Result<Self, RoleError> {
        if let Reply::Error(text) = reply {
            return Err(RoleError::Refused(text.clone()));
        }
        let parts = reply.array().unwrap_or_default();
        match (parts.first().and_then(Reply::text), parts) {
            (Some("master"), [_, offset, replicas]) => primary(offset, replicas),
            (Some("slave"), [_, host, port, link, offset]) => replica(host, port, link, offset),
            _ => None,
        }
        .ok_or(RoleError::Malformed)
    }
}

fn primary(offset: &Reply, replicas: &Reply) -> Option<Role> {
    let one = |entry: &Reply| match entry.array()? {
        [host, port, offset] => Some((seen_as(host.text()?, port.text()?), offset.unsigned()?)),
        _ => None,
    };
    let replicas = replicas.array()?.iter().map(one).collect::<Option<Vec<_>>>()?;
    Some(Role::Primary { offset: offset.unsigned()?, replicas })
}

fn replica(host: &Reply, port: &Reply, link: &Reply, offset: &Reply) -> Option<Role> {
    let link = match link.text()? {
        "connect" => ReplicaLink::Connect,
        "connecting" => ReplicaLink::Connecting,
        "sync" => ReplicaLink::Sync,
        "connected" => ReplicaLink::Connected,
        _ => ReplicaLink::Other,
    };
    Some(Role::Replica {
        host: host.text()?.to_owned(),
        port: u16::try_from(port.unsigned()?).ok()?,
        link,
        offset: offset.unsigned(),
    })
}

/// `ip:port`, an IPv6 address in brackets.
fn seen_as(host: &str, port: &str) -> String {
    match (host.parse::<IpAddr>(), port.parse()) {
        (Ok(ip), Ok(port)) => SocketAddr::new(ip, port).to_string(),
        _ => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn bulk(text: &'static str) -> Reply {
        Reply::Bulk(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn fields_of_info() {
        let text = "# Server\r\nrun_id:abc\r\nrun_id_x:1\r\n\r\n# Replication\r\nrole:master\r\nslave0:ip=::1,port=1\r\n";
        let reply = bulk(text);
        let info = InfoReply::from_reply(&reply).unwrap();
        assert_eq!(info.field("run_id"), Some("abc"));
        assert_eq!(info.field("slave0"), Some("ip=::1,port=1"));
        assert_eq!((info.field("run"), info.number("run_id"), info.flag("run_id_x")), (None, None, true));
        assert_eq!(
            info.section("Replication").collect::<Vec<_>>(),
            [("role", "master"), ("slave0", "ip=::1,port=1")]
        );
        assert_eq!(info.section("Server").count(), 2);
        assert_eq!(info.numbered("slave").collect::<Vec<_>>(), ["ip=::1,port=1"]);
        let gap = bulk("x0:a\r\nx1:b\r\nx3:d\r\nx18446744073709551615:e\r\n");
        let gap = InfoReply::from_reply(&gap).unwrap();
        assert_eq!(gap.numbered("x").collect::<Vec<_>>(), ["a", "b"]);
        let broken = Reply::Bulk(Bytes::from_static(b"role:slave\r\nx:\xff\r\n"));
        assert_eq!(InfoReply::from_reply(&broken).unwrap().field("role"), Some("slave"));
        assert!(InfoReply::from_reply(&Reply::Error("NOPERM".into())).is_none());
    }

    #[test]
    fn roles() {
        let replica = |ip, port, offset| Reply::Array(vec![bulk(ip), bulk(port), bulk(offset)]);
        let reply = Reply::Array(vec![
            bulk("master"),
            Reply::Int(70),
            Reply::Array(vec![replica("10.0.0.2", "6379", "69"), replica("::1", "6380", "0")]),
        ]);
        let replicas = vec![("10.0.0.2:6379".to_owned(), 69), ("[::1]:6380".to_owned(), 0)];
        assert_eq!(Role::from_reply(&reply), Ok(Role::Primary { offset: 70, replicas }));

        let follows = |link, offset| {
            Reply::Array(vec![bulk("slave"), bulk("a"), Reply::Int(1), bulk(link), Reply::Int(offset)])
        };
        let expected = |link, offset| Ok(Role::Replica { host: "a".into(), port: 1, link, offset });
        assert_eq!(Role::from_reply(&follows("connected", 5)), expected(ReplicaLink::Connected, Some(5)));
        assert_eq!(Role::from_reply(&follows("connect", -1)), expected(ReplicaLink::Connect, None));
        assert_eq!(Role::from_reply(&follows("handshake", -1)), expected(ReplicaLink::Other, None));

        for no in [bulk("master"), Reply::Nil, Reply::Array(vec![bulk("sentinel"), Reply::Array(Vec::new())])]
        {
            assert_eq!(Role::from_reply(&no), Err(RoleError::Malformed));
        }
        let refused = Role::from_reply(&Reply::Error("NOPERM x".into()));
        assert_eq!(refused, Err(RoleError::Refused("NOPERM x".into())));
    }
}
