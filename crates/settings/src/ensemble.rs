//! `host:port,host:port/chroot`: how ZooKeeper's clients name an ensemble.

use std::fmt;
use std::str::FromStr;

use topology::{Endpoint, ZnodePath};

/// The servers of a ZooKeeper ensemble, and the folder in it that is taken for the root.
///
/// ```
/// let ensemble: settings::Ensemble = "10.0.0.1, [::1]:2182/prod".parse().unwrap();
/// assert_eq!(ensemble.to_string(), "10.0.0.1:2181,[::1]:2182/prod");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ensemble {
    hosts: Vec<Endpoint>,
    chroot: Option<ZnodePath>,
}

/// Why a text names no ensemble.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
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
            return Err(wrong(&"host:port without a scheme; TLS comes with a later version"));
        }
        let (hosts, chroot) = match text.find('/') {
            Some(at) => (&text[..at], Some(&text[at..])),
            None => (text, None),
        };
        let hosts: Result<Vec<Endpoint>, _> = hosts.split(',').map(host).collect();
        let hosts = hosts.map_err(|e| wrong(&e))?;
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

/// One server; ZooKeeper's port, 2181, may be left out.
fn host(text: &str) -> Result<Endpoint, topology::EndpointError> {
    let text = text.trim();
    match text.parse() {
        Ok(endpoint) => Ok(endpoint),
        Err(error) => format!("{text}:2181").parse().map_err(|_| error),
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
            ("localhost", "localhost:2181"),
            ("a:1,b:2 , c:3", "a:1,b:2,c:3"),
            ("a:1,b:2/x/y", "a:1,b:2/x/y"),
            ("a:1/", "a:1"),
            ("[::1]", "[::1]:2181"),
        ] {
            assert_eq!(text.parse::<Ensemble>().map(|e| e.to_string()), Ok(shown.to_string()), "{text}");
        }
        for text in ["", ",", "a:1,", "a:0", "a:x", "a b", "a:1/x,b:2", "a:1/x/", "a:1//", "tcp://a:1", "::1"]
        {
            assert!(text.parse::<Ensemble>().is_err(), "{text}");
        }
    }
}
