//! What must hold whatever answers a probe in the place of a Redis server.

use bytes::BytesMut;
use failover::Role;

use super::{data_questions, holds_data, is_guarded, memory_limit, observation, questions, users};

/// Replies, as they come over the wire; those that are missing are nil.
pub(crate) fn check(data: &[u8]) {
    let (mut buffer, mut replies) = (BytesMut::from(data), Vec::new());
    while let Ok(Some(reply)) = wire::take_reply(&mut buffer, data.len()) {
        replies.push(reply);
    }
    replies.resize(questions().len().max(replies.len()), wire::Reply::Nil);
    let peer = "10.0.0.1:6379".parse().expect("an address");
    if let Ok(seen) = observation(&replies[..questions().len()], "r", peer) {
        let lines = data.split(|byte| *byte == b'\n').count();
        match seen.role {
            Role::Primary { replicas } => assert!(replicas.len() <= lines && !seen.read_only),
            Role::Replica { source, .. } => assert!(source.is_none_or(|source| source.port() != 0)),
        }
        assert!(seen.tick.is_none_or(|tick| tick < i64::MAX as u64), "it can be counted up");
    }
    let _ = holds_data(&replies[..data_questions().len()]);
    let _ = is_guarded(&users(replies.first()));
    for limit in replies.iter().filter_map(memory_limit) {
        assert!(limit.parse::<u64>().is_ok());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_inputs() {
        world::fuzz::replay("probe", super::check);
    }
}
