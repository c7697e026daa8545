//! `host:port,host:port/chroot`: how ZooKeeper's clients name an ensemble.

use std::fmt;
use std::str::FromStr;

use topology::{Endpoint, ZnodePath};

/// The servers of a ZooKeeper ensemble, and the folder in it that is taken for the root.
///
/// ```
/// let ensemble: settings::Ensemble = "10.0.0.1:2181, [::1]:2182/prod".parse().unwrap();
/// assert_eq!(ensemble.to_string(), "10.0.0.1:2181,[::1]:2182/prod");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ensemble {
    hosts: Vec<Endpoint>,
    chroot: Option<ZnodePath>,
}

/// Why a text names no ensemble.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected host:port,host:port,... and perhaps a /chroot; {0}")]
pub struct EnsembleError(String);

impl Ensemble {
    /// The servers, at least one.
    pub fn hosts(&self) -> &[Endpoint] {
        &self.hosts
    }

    /// The folder that is taken for the root.
    pub fn chroot(&self) -> Option<&ZnodePath> {
        self.chroot.as_ref()
    }
}

impl FromStr for Ensemble {
    type Err = EnsembleError;

    fn from_str(text: &str) -> Result<Self, EnsembleError> {
        let wrong = |why: &dyn fmt::Display| EnsembleError(why.to_string());
        if text.contains("://") {
            return Err(wrong(&"no scheme goes before it (TLS: the key `tls`)"));
        }
        let (hosts, chroot) = match text.find('/') {
            Some(at) => (&text[..at], Some(&text[at..])),
            None => (text, None),
        };
        let hosts: Result<Vec<Endpoint>, EnsembleError> = hosts.split(',').map(host).collect();
        let hosts = hosts?;
        let chroot = match chroot {
            None | Some("/") => None,
            Some(_) if text.contains(",") && text.find('/') < text.rfind(',') => {
                return Err(wrong(&"the chroot stands once, behind the last server"));
            }
            Some(chroot) => Some(chroot.trim_end().parse().map_err(|e| wrong(&e))?),
        };
        Ok(Self { hosts, chroot })
    }
}

/// One server. A port that is left out is refused rather than guessed: `hosts = zk1, zk2` in a file is more often a
/// slip than a wish for 2181.
fn host(text: &str) -> Result<Endpoint, EnsembleError> {
    match text.trim() {
        "" => Err(EnsembleError("a server is missing before or behind a comma".to_owned())),
        text => text.parse().map_err(|e: topology::EndpointError| EnsembleError(e.to_string())),
    }
}

impl fmt::Display for Ensemble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if at == 0 { "" } else { "," })?;
        }
        match &self.chroot {
            Some(chroot) => write!(f, "{chroot}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ensembles() {
        for (text, shown) in [
            ("127.0.0.1:2181", "127.0.0.1:2181"),
            ("localhost:2181", "localhost:2181"),
            ("a:1,b:2 , c:65535", "a:1,b:2,c:65535"),
            ("a:1,b:2/x/y", "a:1,b:2/x/y"),
            ("a:1/", "a:1"),
            ("[::1]:2181,[2001:db8::2]:1/prod", "[::1]:2181,[2001:db8::2]:1/prod"),
        ] {
            assert_eq!(text.parse::<Ensemble>().map(|e| e.to_string()), Ok(shown.to_string()), "{text}");
        }
    }

    #[test]
    fn no_ensembles() {
        const PORT: &str = "the port is not a number from 1 to 65535";
        const COMMA: &str = "a server is missing before or behind a comma";
        for (text, why) in [
            ("", COMMA),
            (",", COMMA),
            ("a:1,", COMMA),
            ("a:1,,b:2", COMMA),
            ("/x", COMMA),
            ("nowhere", "`nowhere` is not host:port: the port is missing"),
            ("a:1,nowhere/x", "`nowhere` is not host:port: the port is missing"),
            ("[::1]", PORT),
            ("a:0", PORT),
            ("a:70000", PORT),
            ("a:-1", PORT),
            ("a:x", PORT),
            ("a:", PORT),
            (":2181", "neither an IP address nor a host name"),
            ("a b:1", "neither an IP address nor a host name"),
            ("1.2.3:1", "neither an IP address nor a host name"),
            ("::1:2181", "an IPv6 address needs brackets"),
            ("[::1:2181", "`[` without `]`"),
            ("[a]:2181", "no IPv6 address in the brackets"),
            ("a:1/x,b:2", "the chroot stands once, behind the last server"),
            ("a:1/x,b:2/x", "the chroot stands once, behind the last server"),
            ("a:1/x/", ""),
            ("a:1//", ""),
            ("tcp://a:1", "no scheme goes before it"),
        ] {
            let error = text.parse::<Ensemble>().expect_err(text).to_string();
            assert!(error.starts_with("expected host:port,host:port,... and perhaps a /chroot; "), "{error}");
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
