//! What the section `[dns]` says.

use std::net::IpAddr;
use std::str::FromStr;

use hickory_proto::rr::Name;
use topology::Endpoint;

/// How long a resolver may keep an answer, in seconds, at the most.
pub(crate) const TTL_MAX: u32 = 3600;

/// A zone is so long at the most: the names below it have to fit, and a name has 255 bytes.
const ZONE_MAX: usize = 160;

/// DNS as it is served.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// UDP and TCP.
    pub(crate) listen: Endpoint,
    pub(crate) zone: ZoneName,
    /// Seconds, at most [`TTL_MAX`].
    pub(crate) ttl: u32,
    /// Under which others reach it.
    pub(crate) host: Host,
}

/// A domain name with at least one label, of letters, digits, `-` and `_` only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ZoneName(pub(super) Name);

impl FromStr for ZoneName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.strip_suffix('.').unwrap_or(text);
        let fits = |label: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            (1..=63).contains(&label.len())
                && label.bytes().all(known)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let name = (plain.len() <= ZONE_MAX && plain.split('.').all(fits)).then(|| absolute(plain)).flatten();
        name.map(Self).ok_or(
            "expected a domain name such as albireo.internal, of at most 160 letters, digits, `-`, `_`",
        )
    }
}

/// Where something is: at an address, or at a name that others resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Ip(IpAddr),
    Name(Name),
}

impl Host {
    /// The host of a server. None: it is too long for a name, which an [`Endpoint`] never is.
    pub(crate) fn of(addr: &Endpoint) -> Option<Self> {
        match addr.host().parse() {
            Ok(ip) => Some(Self::Ip(ip)),
            Err(_) => absolute(addr.host()).map(Self::Name),
        }
    }
}

/// A name that ends at the root, in small letters.
fn absolute(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text.to_ascii_lowercase()).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones() {
        let longest = format!("{0}.{0}.{1}", "a".repeat(63), "b".repeat(32));
        assert_eq!(longest.len(), 160);
        for (text, shown) in [
            ("albireo.internal", "albireo.internal."),
            ("Redis.Example.COM.", "redis.example.com."),
            ("internal", "internal."),
            ("_x.a-b.example", "_x.a-b.example."),
            (longest.as_str(), &format!("{longest}.")),
        ] {
            assert_eq!(text.parse::<ZoneName>().unwrap().0.to_ascii(), shown, "{text}");
        }
        let too_long = format!("{longest}c");
        for text in [".", "..", "a..b", ".a", "-a.b", "a-.b", "a b", "a/b", "ü.de", "a\\.b", "*.a", &too_long]
        {
            assert!(text.parse::<ZoneName>().is_err(), "{text}");
        }
        assert!("a".repeat(64).parse::<ZoneName>().is_err());
    }

    #[test]
    fn hosts() {
        let host = |text: &str| Host::of(&text.parse().unwrap()).unwrap();
        assert_eq!(host("10.0.0.1:1"), Host::Ip("10.0.0.1".parse().unwrap()));
        assert_eq!(host("[2001:db8::1]:1"), Host::Ip("2001:db8::1".parse().unwrap()));
        for text in ["Redis_1.example:1", "redis_1.example.:1"] {
            let Host::Name(name) = host(text) else { panic!("{text}") };
            assert_eq!(name.to_ascii(), "redis_1.example.");
        }
        let longest = [63, 63, 63, 61].map(|length| "a".repeat(length)).join(".");
        assert!(matches!(host(&format!("{longest}:1")), Host::Name(_)));
    }
}
