//! What must hold whatever a client sends: what is taken from its bytes here is what any reader of HTTP takes from them.

use axum::body::HttpBody;
use bytes::BytesMut;

use super::{HEAD_MAX, Read, read};

/// The bytes of a connection, all of them there.
pub(crate) fn check(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    loop {
        let before = buffer.clone();
        match read(&mut buffer) {
            Read::Whole(request) => {
                let used = before.len() - buffer.len();
                assert_eq!(before[used..], buffer[..], "the rest stays");
                is_what_was_sent(&request, &before[..used]);
            }
            Read::Part => {
                assert_eq!(before, buffer);
                return assert!(buffer.len() <= HEAD_MAX, "more is not waited for");
            }
            Read::Other => return assert_eq!(before, buffer),
        }
    }
}

fn is_what_was_sent(request: &axum::http::Request<axum::body::Body>, bytes: &[u8]) {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = head.parse(bytes) else { panic!("no whole head") };
    assert_eq!((head.method, head.version), (Some(request.method().as_str()), Some(1)));
    let target = head.path.and_then(|path| path.split('#').next());
    assert_eq!(target, Some(request.uri().to_string().as_str()));
    let named =
        |wanted: &str| head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(wanted)).count();
    for wanted in ["transfer-encoding", "expect", "upgrade"] {
        assert_eq!(named(wanted), 0, "{wanted}");
    }
    let lengths: Vec<&[u8]> = head
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("content-length"))
        .map(|header| header.value)
        .collect();
    let body = bytes.len() - length;
    match lengths[..] {
        [] => assert_eq!(body, 0),
        [one] => assert_eq!(std::str::from_utf8(one).ok().and_then(|text| text.parse().ok()), Some(body)),
        [..] => panic!("two lengths"),
    }
    assert_eq!(request.body().size_hint().exact(), u64::try_from(body).ok());
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_inputs() {
        world::fuzz::replay("http", super::check);
    }
}
