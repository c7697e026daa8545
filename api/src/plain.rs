//! Plain HTTP/1.1: whole requests out of a buffer, answers into bytes. Pure.

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue};
use axum::http::{Method, Request, Response, Uri};
use bytes::{Buf, Bytes, BytesMut};

#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod fuzz;

/// How many headers a plain request has at most.
const HEADERS: usize = 32;

/// How long its head may be, and its body.
const HEAD_MAX: usize = 8 << 10;
const BODY_MAX: usize = 64 << 10;

/// `Sun, 06 Nov 1994 08:49:37 GMT`
pub(crate) const DATE: usize = 29;

/// What stands in a buffer.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every one is the large one, and it is never kept")]
pub(crate) enum Read {
    /// A plain request, taken from the buffer.
    Whole(Request<Body>),
    /// The begin of something; so far it may become a plain request.
    Part,
    /// Something else, left where it is.
    Other,
}

/// Takes the next request. Of its headers it keeps those that [`crate::routes`] reads.
pub(crate) fn read(buffer: &mut BytesMut) -> Read {
    if buffer.is_empty() {
        return Read::Part;
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(buffer) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => length,
        Ok(httparse::Status::Partial) if buffer.len() <= HEAD_MAX => return Read::Part,
        Ok(_) | Err(_) => return Read::Other,
    };
    let Some(found) = Found::of(&head) else { return Read::Other };
    // A body that comes later, or never, is not waited for here.
    if buffer.len() - length < found.body {
        return Read::Other;
    }
    let Some(target) = head.path.filter(|target| target.starts_with('/')) else { return Read::Other };
    let from = target.as_ptr() as usize - buffer.as_ptr() as usize;
    let target = from..from + target.len();
    let Found { method, body, authorization } = found;
    let bytes = buffer.split_to(length + body).freeze();
    let Ok(uri) = Uri::from_maybe_shared(bytes.slice(target)) else {
        // It goes to hyper after all, as it came.
        let rest = std::mem::take(buffer);
        buffer.extend_from_slice(&bytes);
        buffer.unsplit(rest);
        return Read::Other;
    };
    let body = bytes.slice(length..);
    Read::Whole(request(method, uri, authorization, body))
}

/// What a head says that matters.
struct Found {
    method: Method,
    /// Its length.
    body: usize,
    authorization: Option<HeaderValue>,
}

impl Found {
    /// Nothing if the request is not plain.
    fn of(head: &httparse::Request<'_, '_>) -> Option<Self> {
        let method = match head.method? {
            "GET" => Method::GET,
            "PUT" => Method::PUT,
            "POST" => Method::POST,
            _ => return None,
        };
        let mut found = Self { method, body: 0, authorization: None };
        let mut counted = false;
        if head.version != Some(1) {
            return None;
        }
        for httparse::Header { name, value } in head.headers.iter() {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            if is("content-length") {
                if std::mem::replace(&mut counted, true) {
                    return None;
                }
                found.body = number(value).filter(|length| *length <= BODY_MAX)?;
            } else if is("authorization") {
                // As everywhere, the first one counts.
                if found.authorization.is_none() {
                    found.authorization = Some(HeaderValue::from_bytes(value).ok()?);
                }
            } else if is("connection") {
                if !value.eq_ignore_ascii_case(b"keep-alive") {
                    return None;
                }
            } else if ["transfer-encoding", "expect", "upgrade", "te", "trailer"].into_iter().any(is) {
                return None;
            }
        }
        Some(found)
    }
}

/// Digits and nothing else.
fn number(text: &[u8]) -> Option<usize> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

fn request(method: Method, uri: Uri, authorization: Option<HeaderValue>, body: Bytes) -> Request<Body> {
    let length = body.len();
    let mut request = Request::new(if length == 0 { Body::empty() } else { Body::from(body) });
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    if let Some(value) = authorization {
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    if length > 0 {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    request
}

/// Appends an answer; after the last one the connection is closed.
pub(crate) fn write(response: &Response<Bytes>, last: bool, date: &[u8; DATE], out: &mut Vec<u8>) {
    let status = response.status();
    let body = response.body();
    out.reserve(320 + body.len());
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in response.headers() {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
    }
    if last {
        out.extend_from_slice(b"\r\nconnection: close");
    }
    out.extend_from_slice(b"\r\ncontent-length: ");
    decimal(body.len(), out);
    out.extend_from_slice(b"\r\ndate: ");
    out.extend_from_slice(date);
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body.chunk());
}

fn decimal(mut number: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;

    fn whole(buffer: &mut BytesMut) -> Request<Body> {
        match read(buffer) {
            Read::Whole(request) => request,
            other @ (Read::Part | Read::Other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_that_came_together_are_taken_one_by_one() {
        let two = "GET /a?b=c HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\nAuthorization: no\r\n\r\n\
                   PUT /d HTTP/1.1\r\ncontent-length: 3\r\n\r\nxyzGET";
        let mut buffer = BytesMut::from(two);
        let first = whole(&mut buffer);
        assert_eq!((first.method(), first.uri().to_string().as_str()), (&Method::GET, "/a?b=c"));
        assert_eq!(first.headers()[AUTHORIZATION], "Bearer t");
        let second = whole(&mut buffer);
        assert_eq!((second.method(), second.uri().path()), (&Method::PUT, "/d"));
        assert_eq!(second.headers()[CONTENT_LENGTH], "3");
        assert_eq!(&buffer[..], b"GET");
        assert!(matches!(read(&mut buffer), Read::Part));
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_waited_for() {
        let text = b"GET /api/v1/get/k HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut buffer = BytesMut::new();
        for byte in &text[..text.len() - 1] {
            buffer.extend_from_slice(&[*byte]);
            assert!(matches!(read(&mut buffer), Read::Part), "{buffer:?}");
        }
        buffer.extend_from_slice(b"\n");
        assert_eq!(whole(&mut buffer).uri().path(), "/api/v1/get/k");
        assert!(buffer.is_empty());
    }

    #[test]
    fn what_is_not_plain_is_left_as_it_is() {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "k".repeat(HEAD_MAX));
        let unended = "GET / HTTP/1.1\r\nx: ".to_owned() + &"y".repeat(HEAD_MAX);
        for text in [
            "HEAD / HTTP/1.1\r\n\r\n",
            "DELETE / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET http://x/ HTTP/1.1\r\n\r\n",
            "GET * HTTP/1.1\r\n\r\n",
            "GET /\u{7f} HTTP/1.1\r\n\r\n",
            "GET /a<b HTTP/1.1\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nxyz",
            "PUT / HTTP/1.1\r\ncontent-length: 3\r\nContent-Length: 3\r\n\r\nxyz",
            "PUT / HTTP/1.1\r\ncontent-length: +3\r\n\r\nxyz",
            "PUT / HTTP/1.1\r\ncontent-length: 3, 3\r\n\r\nxyz",
            "PUT / HTTP/1.1\r\ncontent-length: 3\r\n\r\nxy",
            "PUT / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\nxy",
            "PUT / HTTP/1.1\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\nxyz",
            "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
            "GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nx : y\r\n\r\n",
            "GET / HTTP/1.1\r\nx: y\r\n z\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &long,
            &unended,
        ] {
            let mut buffer = BytesMut::from(text);
            assert!(matches!(read(&mut buffer), Read::Other), "{text}");
            assert_eq!(&buffer[..], text.as_bytes());
        }
    }

    #[test]
    fn an_answer_in_bytes() {
        let mut response = Response::new(Bytes::from_static(b"{\"a\":1}"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
        let (mut out, date) = (Vec::new(), *b"Sun, 06 Nov 1994 08:49:37 GMT");
        write(&response, true, &date, &mut out);
        let expected = "HTTP/1.1 404 Not Found\r\ncache-control: no-store\r\nconnection: close\r\ncontent-length: 7\r\n\
                        date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n{\"a\":1}";
        assert_eq!(String::from_utf8_lossy(&out), expected);
        for number in [0, 9, 10, 1_048_576, usize::MAX] {
            let mut out = Vec::new();
            decimal(number, &mut out);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }
}
