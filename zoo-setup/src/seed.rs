//! The seeding itself: look, then create or replace at the version that was seen, until one of them holds.

use serde_json::Value;
use topology::zookeeper::{Mode, PublishError, ReadError, Store, Versioned};

use crate::arguments::Plan;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seeded {
    /// Nothing, or nothing but an empty znode, was there.
    Created,
    /// The same content was there.
    Same,
    /// Other content was there, and was to be replaced.
    Replaced { old: String },
}

/// Why nothing was seeded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SeedError {
    /// Other content is there, and it was not to be replaced.
    #[error("refused, {path} holds other content (--force replaces it): {found}")]
    OtherContent { path: String, found: String },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Seeds as planned. Others may seed at the same time: one of them creates, all see the same in the end or are
/// refused. As long as ZooKeeper is away this waits; the caller has the deadline.
pub(crate) async fn seed(store: &Store, plan: &Plan) -> Result<Seeded, SeedError> {
    loop {
        match attempt(store, plan).await {
            // Somebody was faster, or the connection was lost in between: look again.
            Err(SeedError::Publish(
                PublishError::Superseded { .. }
                | PublishError::Exists { .. }
                | PublishError::Absent { .. }
                | PublishError::Unreachable(_)
                | PublishError::Unknown(_),
            ))
            | Err(SeedError::Read(ReadError::Unreachable(_))) => tokio::task::yield_now().await,
            outcome => return outcome,
        }
    }
}

async fn attempt(store: &Store, plan: &Plan) -> Result<Seeded, SeedError> {
    let path = plan.path.as_str();
    let content = plan.topology.to_json();
    store.ensure_chroot().await?;
    store.ensure(plan.state_root.as_str()).await?;
    store.create_parents(path).await?;
    let Some(found) = store.get(path).await? else {
        store.create(path, content.as_bytes(), Mode::Persistent).await?;
        return Ok(Seeded::Created);
    };
    match compare(&found, &content) {
        Found::Same => Ok(Seeded::Same),
        Found::Empty => {
            store.set(path, content.as_bytes(), found.version).await?;
            Ok(Seeded::Created)
        }
        Found::Other(old) if plan.force => {
            store.set(path, content.as_bytes(), found.version).await?;
            Ok(Seeded::Replaced { old })
        }
        Found::Other(found) => Err(SeedError::OtherContent { path: path.to_owned(), found }),
    }
}

/// What is there, beside what should be.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Same,
    /// A znode that was created but never seeded.
    Empty,
    Other(String),
}

/// Compares as JSON: spaces and the order of keys do not matter, the order of members does.
fn compare(found: &Versioned, content: &str) -> Found {
    if found.data.trim_ascii().is_empty() {
        return Found::Empty;
    }
    let wanted: Option<Value> = serde_json::from_str(content).ok();
    if wanted.is_some() && serde_json::from_slice(&found.data).ok() == wanted {
        return Found::Same;
    }
    Found::Other(String::from_utf8_lossy(&found.data).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_compared_as_json() {
        let content = r#"{"primary": "a:1", "secondary": ["b:1", "c:1"]}"#;
        let found = |data: &str| compare(&Versioned { data: data.into(), version: 0 }, content);
        assert_eq!(found(content), Found::Same);
        assert_eq!(found(r#"{"secondary":["b:1","c:1"],"primary":"a:1"}"#), Found::Same);
        assert_eq!(found(" \n"), Found::Empty);
        for other in [
            r#"{"primary":"a:1","secondary":["c:1","b:1"]}"#,
            r#"{"primary":"a:1","secondary":[]}"#,
            "not JSON",
            "{}",
        ] {
            assert_eq!(found(other), Found::Other(other.to_owned()));
        }
    }
}
