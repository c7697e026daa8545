//! What must hold whatever stands in the body of a request for a change.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use failover::request::Request;
use serde_json::Value;

use super::{Failover, Member, Switchover, Wish, read, words};

const VERBS: [&str; 7] = ["add", "remove", "failover", "switchover", "other", "pause", "resume"];

/// The first byte chooses the verb.
pub(crate) fn check(data: &[u8]) {
    let Some((first, body)) = data.split_first() else { return };
    let verb = VERBS[usize::from(*first) % VERBS.len()];
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    assert!(read(verb, &HeaderMap::new(), body).is_err(), "a browser may be made to send this");
    let request = match read(verb, &headers, body) {
        Ok(Wish::Request(request)) => request,
        Ok(Wish::Pause(pause)) => {
            assert!(body.trim_ascii().starts_with(b"{"));
            return assert_eq!(verb, if pause { "pause" } else { "resume" });
        }
        Err((status, ..)) => return assert!(status.is_client_error()),
    };
    // Carried out is what the words of the log say, and what a verb of ours would send.
    assert!(!words(&request).contains(char::is_control));
    let (sent_as, sent) = match request.clone() {
        Request::Add { addr, overwrite } => ("add", serde_json::to_vec(&Member { addr, overwrite })),
        Request::Remove { addr } => ("remove", serde_json::to_vec(&Member { addr, overwrite: false })),
        Request::Switchover { to } => ("switchover", serde_json::to_vec(&Switchover { to })),
        Request::Failover { to, accept_loss } => {
            ("failover", serde_json::to_vec(&Failover { to, accept_loss }))
        }
    };
    assert_eq!(sent_as, verb);
    assert_eq!(read(verb, &headers, &sent.expect("it serialises")), Ok(Wish::Request(request.clone())));
    // What could give data away has to stand there in so many words.
    if let Request::Add { overwrite: true, .. } | Request::Failover { accept_loss: true, .. } = request {
        let body: Value = serde_json::from_slice(body).expect("it was read");
        assert!([body.get("overwrite"), body.get("accept_loss")].contains(&Some(&Value::Bool(true))));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_inputs() {
        world::fuzz::replay("asking", super::check);
    }
}
