//! Answers: JSON bodies, the headers of data, and the errors with their codes.

use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{Response, StatusCode};
use bytes::Bytes;

use failover::confirm::Durability;

use crate::view::View;

const PRIMARY: HeaderName = HeaderName::from_static("x-albireo-primary");
const EPOCH: HeaderName = HeaderName::from_static("x-albireo-epoch");
const DURABILITY: HeaderName = HeaderName::from_static("x-albireo-durability");
const COPIES: HeaderName = HeaderName::from_static("x-albireo-copies");

/// An answer without headers of data.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    text(status, "application/json", body)
}

/// An answer of any kind. Nothing here may be kept by a cache: a GET can write, and a read must be fresh.
pub(crate) fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Marks an answer as given by this view's primary under its epoch.
pub(crate) fn under(mut response: Response<Bytes>, view: &View, durability: Durability) -> Response<Bytes> {
    let headers = response.headers_mut();
    headers.insert(PRIMARY, view.primary_header.clone());
    if let Some(epoch) = view.epoch_header.clone() {
        headers.insert(EPOCH, epoch);
    }
    headers.insert(DURABILITY, HeaderValue::from_static(durability.as_str()));
    response
}

/// Says how many replicas are known to hold the write, besides the primary.
pub(crate) fn with_copies(mut response: Response<Bytes>, copies: usize) -> Response<Bytes> {
    response.headers_mut().insert(COPIES, HeaderValue::from(copies));
    response
}

/// What a request is refused with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 400: the request cannot be meant like this; a code and why.
    Bad(&'static str, String),
    /// 401.
    Unauthorized,
    /// 404: no such route, or no such service.
    NotFound(&'static str, String),
    /// 405, with what is allowed.
    Method(&'static str),
    /// 409: the key holds another type than a string.
    WrongType,
    /// 413, with the limit in bytes.
    TooLarge(usize),
    /// 503: nothing was written, nothing was read.
    Unavailable(String),
    /// 503: fewer replicas are in sync than a write needs; nothing was written.
    NotEnoughReplicas(String),
    /// 503: a strong read that nobody confirmed in time. A read has no effect, so it may simply be asked again.
    NotConfirmed(String),
    /// 503: too many requests at once, with the limit.
    Overloaded(usize),
    /// 504: it may have been written.
    Indeterminate(String),
}

impl Refusal {
    /// The answer.
    pub(crate) fn into_response(self) -> Response<Bytes> {
        let (status, code, message) = self.parts();
        let body = serde_json::json!({ "error": { "code": code, "message": message } });
        let mut response = json(status, body.to_string());
        let headers = response.headers_mut();
        match self {
            Refusal::Unavailable(_)
            | Refusal::NotEnoughReplicas(_)
            | Refusal::NotConfirmed(_)
            | Refusal::Overloaded(_) => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Refusal::Method(allowed) => {
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
            }
            Refusal::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Refusal::Bad(..)
            | Refusal::NotFound(..)
            | Refusal::WrongType
            | Refusal::TooLarge(_)
            | Refusal::Indeterminate(_) => {}
        }
        response
    }

    fn parts(&self) -> (StatusCode, &'static str, String) {
        match self {
            Refusal::Bad(code, why) => (StatusCode::BAD_REQUEST, code, why.clone()),
            Refusal::Unauthorized => {
                let why = "a token is needed: `Authorization: Bearer TOKEN`".to_owned();
                (StatusCode::UNAUTHORIZED, "unauthorized", why)
            }
            Refusal::NotFound(code, why) => (StatusCode::NOT_FOUND, code, why.clone()),
            Refusal::Method(allowed) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("allowed: {allowed}"))
            }
            Refusal::WrongType => {
                let why = "the key holds another type than a string".to_owned();
                (StatusCode::CONFLICT, "wrong_type", why)
            }
            Refusal::TooLarge(limit) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("a value has at most {limit} bytes"))
            }
            Refusal::Unavailable(why) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", why.clone()),
            Refusal::NotEnoughReplicas(why) => {
                (StatusCode::SERVICE_UNAVAILABLE, "not_enough_replicas", why.clone())
            }
            Refusal::NotConfirmed(why) => (StatusCode::SERVICE_UNAVAILABLE, "not_confirmed", why.clone()),
            Refusal::Overloaded(limit) => {
                let why = format!("more than {limit} requests at once");
                (StatusCode::SERVICE_UNAVAILABLE, "overloaded", why)
            }
            Refusal::Indeterminate(why) => {
                let why = format!("the write may or may not have been applied: {why}");
                (StatusCode::GATEWAY_TIMEOUT, "indeterminate", why)
            }
        }
    }
}

/// `{"key":..,"value":..}`; what is not UTF-8 comes as `key_base64` and `value_base64`, a missing value as null.
pub(crate) fn pair(key: &[u8], value: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + value.map_or(4, <[u8]>::len) + 24);
    out.push(b'{');
    member(&mut out, "key", key);
    out.push(b',');
    match value {
        Some(value) => member(&mut out, "value", value),
        None => out.extend_from_slice(b"\"value\":null"),
    }
    out.push(b'}');
    out
}

fn member(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            out.extend_from_slice(b"\":");
            // Writing to a Vec does not fail.
            let _ = serde_json::to_writer(&mut *out, text);
        }
        Err(_) => {
            out.extend_from_slice(b"_base64\":\"");
            base64(out, bytes);
            out.push(b'"');
        }
    }
}

/// RFC 4648, section 4, with padding.
fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let sign = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= chunk.len() { sign } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        type Row = (&'static [u8], Option<&'static [u8]>, &'static str);
        let rows: [Row; 6] = [
            (b"100", Some(b"user100"), r#"{"key":"100","value":"user100"}"#),
            (b"100", None, r#"{"key":"100","value":null}"#),
            (b"a\"b", Some(b"x\ny\\"), r#"{"key":"a\"b","value":"x\ny\\"}"#),
            ("\u{e9}".as_bytes(), Some(b""), "{\"key\":\"\u{e9}\",\"value\":\"\"}"),
            (b"k", Some(b"\xff\xfe\xfd\xfc"), r#"{"key":"k","value_base64":"//79/A=="}"#),
            (b"\xff", Some(b"\x00"), "{\"key_base64\":\"/w==\",\"value\":\"\\u0000\"}"),
        ];
        for (key, value, expected) in rows {
            let body = pair(key, value);
            assert_eq!(String::from_utf8_lossy(&body), expected);
            assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok(), "{expected}");
        }
    }

    #[test]
    fn the_vectors_of_rfc_4648() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = Vec::new();
            base64(&mut out, plain.as_bytes());
            assert_eq!(String::from_utf8_lossy(&out), encoded);
        }
    }

    #[test]
    fn definite_failures_say_when_to_come_back_and_indeterminate_ones_do_not() {
        let failed = Refusal::Unavailable("x".into()).into_response();
        assert_eq!((failed.status().as_u16(), failed.headers()[RETRY_AFTER].to_str().unwrap()), (503, "1"));
        let open = Refusal::Indeterminate("x".into()).into_response();
        assert_eq!(open.status().as_u16(), 504);
        assert!(!open.headers().contains_key(RETRY_AFTER));
        assert_eq!(open.headers()[CACHE_CONTROL].to_str().unwrap(), "no-store");
    }
}
