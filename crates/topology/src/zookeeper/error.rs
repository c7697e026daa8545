//! What can go wrong at the store, sorted by what the caller has to do next.

use zookeeper_client::{Error, MultiWriteError};

use super::Op;

/// Why a change was not made, or may not have been made.
///
/// Every variant but [`PublishError::Unknown`] is definite: nothing was changed and nothing of this call will be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The znode is there at another version than expected: somebody was faster. Read again, then decide again.
    #[error("{path} is not at version {expected} any more")]
    Superseded {
        /// The znode whose version moved.
        path: String,
        /// The version that was asked for.
        expected: i32,
    },
    /// The znode to be checked, changed or deleted is not there, or the parent of the one to be created.
    #[error("{path} or its parent does not exist")]
    Absent {
        /// The znode named in the call.
        path: String,
    },
    /// The znode to be created is there already.
    #[error("{path} exists already")]
    Exists {
        /// The znode named in the call.
        path: String,
    },
    /// ZooKeeper refuses this for a reason that another try does not change (rights, size, a bad path).
    #[error("{path} is refused: {why}")]
    Refused {
        /// The znode named in the call; of several, the first.
        path: String,
        /// The reason.
        why: String,
    },
    /// The session to which the call was bound is over. Start anew from what is read.
    #[error("session {generation} is over")]
    SessionOver {
        /// The generation to which the call was bound.
        generation: u64,
    },
    /// No server was reached in time, and nothing was sent. Try again later.
    #[error("ZooKeeper is not reachable: {0}")]
    Unreachable(String),
    /// It was sent, and no answer came: it may have been applied or may still be. Read before doing anything else:
    /// a read in the same session is ordered behind it.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// Why nothing was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The session to which the call was bound is over.
    #[error("session {generation} is over")]
    SessionOver {
        /// The generation to which the call was bound.
        generation: u64,
    },
    /// No answer in time, or no server at all. Try again later.
    #[error("ZooKeeper is not reachable: {0}")]
    Unreachable(String),
    /// ZooKeeper refuses this for a reason that another try does not change (rights, a bad path).
    #[error("{path} is refused: {why}")]
    Refused {
        /// The znode named in the call.
        path: String,
        /// The reason.
        why: String,
    },
}

/// Why a request never left this process.
#[derive(Debug)]
pub(super) enum NotSent {
    SessionOver(u64),
    Unreachable(String),
}

impl From<NotSent> for PublishError {
    fn from(not_sent: NotSent) -> Self {
        match not_sent {
            NotSent::SessionOver(generation) => Self::SessionOver { generation },
            NotSent::Unreachable(why) => Self::Unreachable(why),
        }
    }
}

impl From<NotSent> for ReadError {
    fn from(not_sent: NotSent) -> Self {
        match not_sent {
            NotSent::SessionOver(generation) => Self::SessionOver { generation },
            NotSent::Unreachable(why) => Self::Unreachable(why),
        }
    }
}

/// The server looked at the request and declined: no change, and another try would end the same way.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::BadArguments(_)
            | Error::NoAuth
            | Error::NoChildrenForEphemerals
            | Error::NotEmpty
            | Error::InvalidAcl
            | Error::AuthFailed
            | Error::QuotaExceeded
            | Error::MarshallingError
            | Error::Unimplemented
            | Error::ReconfigDisabled
    )
}

/// The server declined for now, or the library failed the request before it was written.
fn was_not_applied(error: &Error) -> bool {
    matches!(error, Error::NotReadOnly | Error::Throttled | Error::SessionExpired | Error::SessionMoved)
}

/// The outcome of one change to `path`. A lost connection, a hung server (`Error::Custom`) and whatever is not
/// listed leave the outcome open.
pub(super) fn publish_error(error: Error, path: &str, expected: i32) -> PublishError {
    let path = path.to_string();
    if error == Error::BadVersion {
        PublishError::Superseded { path, expected }
    } else if error == Error::NoNode {
        PublishError::Absent { path }
    } else if error == Error::NodeExists {
        PublishError::Exists { path }
    } else if is_refusal(&error) {
        PublishError::Refused { path, why: error.to_string() }
    } else if was_not_applied(&error) {
        PublishError::Unreachable(error.to_string())
    } else {
        PublishError::Unknown(error.to_string())
    }
}

/// The outcome of several changes at once: all or none of them.
pub(super) fn multi_error(error: MultiWriteError, ops: &[Op]) -> PublishError {
    match error {
        MultiWriteError::OperationFailed { index, source } => match ops.get(index) {
            Some(op) => publish_error(source, op.path(), op.expected()),
            None => PublishError::Unknown(format!("operation {index} of {} failed: {source}", ops.len())),
        },
        MultiWriteError::RequestFailed { source } => {
            publish_error(source, ops.first().map_or("", Op::path), super::ANY_VERSION)
        }
    }
}

pub(super) fn read_error(error: Error, path: &str) -> ReadError {
    if is_refusal(&error) {
        ReadError::Refused { path: path.to_string(), why: error.to_string() }
    } else {
        ReadError::Unreachable(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_server_declined_is_definite() {
        let definite = [
            Error::BadVersion,
            Error::NoNode,
            Error::NodeExists,
            Error::NoAuth,
            Error::NotEmpty,
            Error::Throttled,
            Error::SessionExpired,
            Error::SessionMoved,
        ];
        for error in definite {
            let text = error.to_string();
            let sorted = publish_error(error, "/a", 3);
            assert!(!matches!(sorted, PublishError::Unknown(_)), "{text}: {sorted}");
        }
        let open =
            [Error::ConnectionLoss, Error::ClientClosed, Error::Timeout, Error::UnexpectedErrorCode(-1)];
        for error in open {
            let text = error.to_string();
            let sorted = publish_error(error, "/a", 3);
            assert!(matches!(sorted, PublishError::Unknown(_)), "{text}: {sorted}");
        }
    }

    #[test]
    fn the_operation_that_failed_is_named() {
        let ops = [Op::Check { path: "/leader".into(), version: 4 }, Op::set("/state", b"x".to_vec(), 9)];
        let failed = |index, source| multi_error(MultiWriteError::OperationFailed { index, source }, &ops);
        let superseded = |path: &str, expected| PublishError::Superseded { path: path.to_string(), expected };
        assert_eq!(failed(0, Error::BadVersion), superseded("/leader", 4));
        assert_eq!(failed(1, Error::BadVersion), superseded("/state", 9));
        assert_eq!(failed(1, Error::NoNode), PublishError::Absent { path: "/state".into() });
    }
}
