//! Addresses: `host:port` of a server and the absolute path of a znode. Parsed once, trusted afterwards.

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::shown::shown;

/// The address of one server: an IPv4 address, an IPv6 address in brackets, or a host name, and a port.
///
/// ```
/// use topology::Endpoint;
/// let e: Endpoint = "[::1]:6379".parse().unwrap();
/// assert_eq!((e.host(), e.port()), ("::1", 6379));
/// assert_eq!(e.to_string(), "[::1]:6379");
/// assert!("127.0.0.1".parse::<Endpoint>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// An IP address in its canonical form, or a host name in lower case.
    host: Arc<str>,
    port: u16,
}

/// Why a text is no [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not host:port: {why}")]
pub struct EndpointError {
    text: String,
    why: &'static str,
}

impl Endpoint {
    /// The host without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port, 1 to 65535.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl From<core::net::SocketAddr> for Endpoint {
    fn from(addr: core::net::SocketAddr) -> Self {
        Self { host: addr.ip().to_string().into(), port: addr.port() }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let wrong = |why| EndpointError { text: shown(text), why };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?;
        let port = match port.parse::<u16>() {
            Ok(0) | Err(_) => return Err(wrong("the port is not a number from 1 to 65535")),
            Ok(_) if port.starts_with('+') => return Err(wrong("the port is not a number from 1 to 65535")),
            Ok(port) => port,
        };
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or_else(|| wrong("`[` without `]`"))?;
                let ip = inner.parse::<Ipv6Addr>().map_err(|_| wrong("no IPv6 address in the brackets"))?;
                ip.to_string()
            }
            None if host.contains(':') => return Err(wrong("an IPv6 address needs brackets")),
            None => match host.parse::<IpAddr>() {
                Ok(ip) => ip.to_string(),
                Err(_) if is_host_name(host) => host.to_ascii_lowercase(),
                Err(_) => return Err(wrong("neither an IP address nor a host name")),
            },
        };
        Ok(Self { host: host.into(), port })
    }
}

/// Letters, digits, `-`, `_` and `.`; 1 to 253 bytes; not all digits and dots, which is a mistyped IPv4 address.
fn is_host_name(host: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    host.len() <= 253
        && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
        && !host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// The absolute path of a znode, for example `/the_red/storage/posts`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ZnodePath(String);

/// Why a text is no [`ZnodePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no znode path: {why}")]
pub struct ZnodePathError {
    text: String,
    why: &'static str,
}

impl ZnodePath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part, which is the name of the service: `posts`.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// This path with another one below it: `/albireo` and `/a/b` give `/albireo/a/b`.
    #[must_use]
    pub fn below(&self, path: &ZnodePath) -> ZnodePath {
        ZnodePath(alloc::format!("{}{}", self.0, path.0))
    }

    /// The child with this name, which has no `/`: what lies deeper is no child.
    pub fn child(&self, name: &str) -> Result<ZnodePath, ZnodePathError> {
        let path = alloc::format!("{}/{name}", self.0);
        if name.contains('/') {
            return Err(ZnodePathError { text: shown(&path), why: "the name of a child has no `/`" });
        }
        path.parse()
    }

    /// Every proper ancestor but the root, from the top down.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.char_indices().skip(1).filter(|(_, c)| *c == '/').map(|(at, _)| &self.0[..at])
    }
}

impl FromStr for ZnodePath {
    type Err = ZnodePathError;

    fn from_str(text: &str) -> Result<Self, ZnodePathError> {
        let wrong = |why| ZnodePathError { text: shown(text), why };
        let rest = text.strip_prefix('/').ok_or_else(|| wrong("it does not begin with `/`"))?;
        if rest.is_empty() {
            return Err(wrong("the root cannot hold a service"));
        }
        for part in rest.split('/') {
            match part {
                "" => return Err(wrong("a part is empty")),
                "." | ".." => return Err(wrong("`.` and `..` are not allowed")),
                _ if part.chars().any(is_refused_by_zookeeper) => {
                    return Err(wrong(
                        "a character that ZooKeeper does not take: control, private-use or rare",
                    ));
                }
                _ => {}
            }
        }
        if rest == "zookeeper" || rest.starts_with("zookeeper/") {
            return Err(wrong("`/zookeeper` belongs to ZooKeeper itself"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// ZooKeeper counts in UTF-16 and refuses the halves of whatever needs two units there.
fn is_refused_by_zookeeper(c: char) -> bool {
    c.is_control() || matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

impl fmt::Display for ZnodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn endpoints_read_and_written() {
        for (text, host, port) in [
            ("127.0.0.1:6379", "127.0.0.1", 6379),
            ("[::1]:1", "::1", 1),
            ("[0:0:0:0:0:0:0:1]:65535", "::1", 65535),
            ("Redis-A.example:6379", "redis-a.example", 6379),
            ("redis_a:6379", "redis_a", 6379),
        ] {
            let e: Endpoint = text.parse().unwrap();
            assert_eq!((e.host(), e.port()), (host, port), "{text}");
            assert_eq!(e.to_string().parse(), Ok(e));
        }
    }

    #[test]
    fn endpoints_refused() {
        for text in [
            "",
            ":",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:+1",
            "a: 1",
            "::1:6379",
            "[::1",
            "[::1]",
            "[a]:1",
            "1.2.3:4",
            "256.1.1.1:1",
            "a b:1",
            "-a:1",
            "a..b:1",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        let foreign = "a\n\u{1b}[31mERROR".parse::<Endpoint>().unwrap_err().to_string();
        assert_eq!(foreign, "`a??[31mERROR` is not host:port: the port is missing");
    }

    #[test]
    fn paths() {
        let path: ZnodePath = "/the_red/storage/posts".parse().unwrap();
        assert_eq!(path.name(), "posts");
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["/the_red", "/the_red/storage"]);
        for text in ["", "/", "a", "/a/", "//a", "/a//b", "/a/../b", "/a\n", "/zookeeper", "/zookeeper/x"] {
            assert!(text.parse::<ZnodePath>().is_err(), "{text}");
        }
        assert!("/zookeepers".parse::<ZnodePath>().is_ok());
        for refused in ['\u{7f}', '\u{9f}', '\u{e000}', '\u{fff0}', '\u{ffff}', '\u{10000}', '\u{1f600}'] {
            assert!(alloc::format!("/a{refused}").parse::<ZnodePath>().is_err(), "{refused:?}");
        }
        assert!("/\u{e9}\u{d7ff}\u{f900}\u{ffef}".parse::<ZnodePath>().is_ok());
        assert_eq!(path.child("x").unwrap().as_str(), "/the_red/storage/posts/x");
        for name in ["", "a/b", "/a", "a/", ".."] {
            assert!(path.child(name).is_err(), "{name}");
        }
    }
}
