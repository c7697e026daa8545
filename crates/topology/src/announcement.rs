//! The announcement at `<path>`: `{"primary": "...", "secondary": ["..."]}`, spaces included.

use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::shown::shown;
use crate::{Endpoint, from_object};

/// Who is primary and every other member, usable or not, in the order in which they were configured.
///
/// ```
/// use topology::Topology;
/// let text = r#"{"primary": "127.0.0.1:6379", "secondary": ["127.0.0.1:6380"]}"#;
/// let t = Topology::from_json(text.as_bytes()).unwrap();
/// assert_eq!(t.to_json(), text);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The server that takes writes.
    pub primary: Endpoint,
    /// The others; `secondary` is the name on the wire only.
    #[serde(rename = "secondary")]
    pub replicas: Vec<Endpoint>,
}

/// Why the content of a znode is no [`Topology`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// Nothing is there: the znode was created but never seeded.
    #[error("empty; expected {{\"primary\": \"host:port\", \"secondary\": [\"host:port\", ...]}}")]
    Empty,
    /// Not JSON, or other keys or types.
    #[error("{0}; expected {{\"primary\": \"host:port\", \"secondary\": [\"host:port\", ...]}}")]
    Malformed(String),
    /// A server stands there twice.
    #[error("{0} is named twice")]
    Repeated(Endpoint),
}

impl Topology {
    /// A topology in which every server stands once.
    pub fn new(primary: Endpoint, replicas: Vec<Endpoint>) -> Result<Self, TopologyError> {
        let mut seen = BTreeSet::from([&primary]);
        if let Some(twice) = replicas.iter().find(|replica| !seen.insert(replica)) {
            return Err(TopologyError::Repeated(twice.clone()));
        }
        Ok(Self { primary, replicas })
    }

    /// Reads what a znode holds. Unknown keys are accepted.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TopologyError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(TopologyError::Empty);
        }
        let read: Self = from_object(bytes).map_err(|e| TopologyError::Malformed(shown(&e.to_string())))?;
        Self::new(read.primary, read.replicas)
    }

    /// The exact text that is published: the spaces are those of the first implementation, which others parse.
    pub fn to_json(&self) -> String {
        let mut out = alloc::format!("{{\"primary\": \"{}\", \"secondary\": [", self.primary);
        for (at, replica) in self.replicas.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            out += &alloc::format!("{comma}\"{replica}\"");
        }
        out + "]}"
    }

    /// All members, the primary first.
    pub fn members(&self) -> impl Iterator<Item = &Endpoint> {
        core::iter::once(&self.primary).chain(&self.replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn the_exact_text() {
        let none = Topology::new(at("a:1"), Vec::new()).unwrap();
        assert_eq!(none.to_json(), r#"{"primary": "a:1", "secondary": []}"#);
        let two = Topology::new(at("a:1"), [at("b:2"), at("[::1]:3")].into()).unwrap();
        assert_eq!(two.to_json(), r#"{"primary": "a:1", "secondary": ["b:2", "[::1]:3"]}"#);
        assert_eq!(Topology::from_json(two.to_json().as_bytes()), Ok(two));
    }

    #[test]
    fn what_is_read_and_what_is_refused() {
        assert!(Topology::from_json(br#"{"secondary":[],"primary":"a:1","more":1}"#).is_ok());
        assert_eq!(Topology::from_json(b" \n"), Err(TopologyError::Empty));
        for text in [
            "x",
            "{}",
            "[]",
            r#"["a:1",[]]"#,
            r#"{"primary":"a:1"}"#,
            r#"{"primary":"a","secondary":[]}"#,
            "\u{0}",
        ] {
            let read = Topology::from_json(text.as_bytes());
            assert!(matches!(read, Err(TopologyError::Malformed(_))), "{text}: {read:?}");
        }
        let twice = Topology::from_json(br#"{"primary":"a:1","secondary":["b:1","a:1"]}"#);
        assert_eq!(twice, Err(TopologyError::Repeated(at("a:1"))));
    }
}
