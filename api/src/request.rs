//! What a request asks for, read from its path and query: pure, and the only place where their text is taken apart.

use axum::http::Method;

use crate::answer::Refusal;

#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) mod fuzz;

/// The longest key, in bytes after decoding.
const KEY_MAX: usize = 512;

/// The monitors' own keys; nobody else may touch them.
const RESERVED: &[u8] = b"albireo:";

/// The longest life of a key: so long that Redis can still add it to its clock.
const TTL_MAX_MS: u64 = 9_000_000_000_000;

/// A route, with the parts of the path as they stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// Read a key of a service; without a name, the default one.
    Get(Option<&'a str>, &'a str),
    /// Write a key.
    Write(Option<&'a str>, &'a str),
    /// Who is primary.
    Topology(Option<&'a str>),
    /// Is the process alive.
    Health,
    /// Would it serve.
    Ready,
    /// What it counted.
    Metrics,
}

impl<'a> Route<'a> {
    /// The route of a path; `None` if there is none.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        match path {
            "/healthz" => return Some(Route::Health),
            "/readyz" => return Some(Route::Ready),
            "/metrics" => return Some(Route::Metrics),
            _ => {}
        }
        let rest = path.strip_prefix("/api/v1/")?;
        let (service, rest) = match rest.strip_prefix("services/") {
            Some(rest) => rest.split_once('/').map(|(service, rest)| (Some(service), rest))?,
            None => (None, rest),
        };
        match rest.split_once('/') {
            Some((_, key)) if key.contains('/') => None,
            Some(("get", key)) => Some(Route::Get(service, key)),
            Some(("write", key)) => Some(Route::Write(service, key)),
            None if rest == "topology" => Some(Route::Topology(service)),
            Some(_) | None => None,
        }
    }

    /// The methods that a route answers.
    pub(crate) fn allowed(self) -> &'static str {
        match self {
            Route::Write(..) => "GET, PUT, POST",
            Route::Get(..) | Route::Topology(_) | Route::Health | Route::Ready | Route::Metrics => {
                "GET, HEAD"
            }
        }
    }

    /// Whether it answers this one. HEAD is no way to write.
    pub(crate) fn allows(self, method: &Method) -> bool {
        match self {
            Route::Write(..) => [Method::GET, Method::PUT, Method::POST].contains(method),
            Route::Get(..) | Route::Topology(_) | Route::Health | Route::Ready | Route::Metrics => {
                [Method::GET, Method::HEAD].contains(method)
            }
        }
    }
}

/// A key that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// As the client knows it.
    pub(crate) shown: Vec<u8>,
    /// As Redis knows it, with the prefix.
    pub(crate) stored: Vec<u8>,
}

impl Key {
    /// Reads a key from the path.
    pub(crate) fn read(text: &str, prefix: &str) -> Result<Self, Refusal> {
        let bad = |why: &str| Refusal::Bad("bad_key", why.to_owned());
        let shown = decoded(text, false).ok_or_else(|| bad("a `%` without two hexadecimal digits"))?;
        if shown.is_empty() || shown.len() > KEY_MAX {
            return Err(bad(&format!("a key has 1 to {KEY_MAX} bytes")));
        }
        if shown.iter().any(u8::is_ascii_control) {
            return Err(bad("a key has no control characters"));
        }
        let stored = [prefix.as_bytes(), &shown].concat();
        if shown.starts_with(RESERVED) || stored.starts_with(RESERVED) {
            return Err(bad("`albireo:` is reserved"));
        }
        Ok(Self { shown, stored })
    }
}

/// The parameters that are known; others are left to whoever put them there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// `value`
    pub(crate) value: Option<Vec<u8>>,
    /// `ttl_ms`
    pub(crate) ttl_ms: Option<u64>,
    /// `from=secondary`
    pub(crate) secondary: bool,
    /// `consistency=strong`
    pub(crate) strong: bool,
}

impl Query {
    /// Reads the text behind the question mark.
    pub(crate) fn read(text: &str) -> Result<Self, Refusal> {
        let bad = |why: String| Refusal::Bad("bad_request", why);
        let mut query = Self::default();
        let mut seen = [false; 4];
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let Some(at) = ["value", "ttl_ms", "from", "consistency"].iter().position(|known| *known == name)
            else {
                continue;
            };
            if std::mem::replace(&mut seen[at], true) {
                return Err(bad(format!("`{name}` stands there twice")));
            }
            let value = decoded(value, true)
                .ok_or_else(|| bad(format!("`{name}`: a `%` without two hexadecimal digits")))?;
            match name {
                "value" => query.value = Some(value),
                "ttl_ms" => query.ttl_ms = Some(ttl_ms(&value)?),
                "from" => query.secondary = from_secondary(&value)?,
                _ => query.strong = consistency(&value)?,
            }
        }
        if query.strong && query.secondary {
            return Err(bad("a strong read is one of the primary: not with `from=secondary`".to_owned()));
        }
        Ok(query)
    }
}

fn ttl_ms(value: &[u8]) -> Result<u64, Refusal> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(ttl_ms @ 1..=TTL_MAX_MS) => Ok(ttl_ms),
        Some(_) | None => {
            Err(Refusal::Bad("bad_ttl", format!("`ttl_ms` is a number of milliseconds, 1 to {TTL_MAX_MS}")))
        }
    }
}

fn from_secondary(value: &[u8]) -> Result<bool, Refusal> {
    match value {
        b"secondary" => Ok(true),
        b"primary" => Ok(false),
        _ => Err(Refusal::Bad("bad_request", "`from` is primary or secondary".to_owned())),
    }
}

/// Whether it is strong.
fn consistency(value: &[u8]) -> Result<bool, Refusal> {
    match value {
        b"plain" => Ok(false),
        b"strong" => Ok(true),
        _ => Err(Refusal::Bad("bad_request", "`consistency` is plain or strong".to_owned())),
    }
}

/// Undoes percent-encoding, and in a query also `+`; `None` for a `%` that encodes nothing.
pub(crate) fn decoded(text: &str, plus_is_space: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    Some(out)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let rows = [
            ("/api/v1/get/100", Some(Route::Get(None, "100"))),
            ("/api/v1/get/a%2Fb", Some(Route::Get(None, "a%2Fb"))),
            ("/api/v1/get/", Some(Route::Get(None, ""))),
            ("/api/v1/get/a/b", None),
            ("/api/v1/get/a/", None),
            ("/api/v1/get", None),
            ("/api/v1/write/k", Some(Route::Write(None, "k"))),
            ("/api/v1/services/users/write/k", Some(Route::Write(Some("users"), "k"))),
            ("/api/v1/services/users/get/k", Some(Route::Get(Some("users"), "k"))),
            ("/api/v1/services/users/topology", Some(Route::Topology(Some("users")))),
            ("/api/v1/services/users", None),
            ("/api/v1/services/users/get/a/b", None),
            ("/api/v1/topology", Some(Route::Topology(None))),
            ("/api/v1/topology/", None),
            ("/api/v2/get/k", None),
            ("/healthz", Some(Route::Health)),
            ("/readyz", Some(Route::Ready)),
            ("/metrics", Some(Route::Metrics)),
            ("/", None),
            ("", None),
        ];
        for (path, route) in rows {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }

    #[test]
    fn methods() {
        let write = Route::Write(None, "k");
        for (method, get, put) in [
            (Method::GET, true, true),
            (Method::HEAD, true, false),
            (Method::PUT, false, true),
            (Method::POST, false, true),
            (Method::DELETE, false, false),
            (Method::OPTIONS, false, false),
        ] {
            assert_eq!(Route::Get(None, "k").allows(&method), get, "{method}");
            assert_eq!(write.allows(&method), put, "{method}");
        }
    }

    #[test]
    fn keys() {
        let long = "x".repeat(512);
        for (text, shown) in [
            ("100", &b"100"[..]),
            ("a%2Fb", b"a/b"),
            ("a+b", b"a+b"),
            ("%FF%fe", b"\xff\xfe"),
            ("%20", b" "),
            ("x%C3%A9", "x\u{e9}".as_bytes()),
            ("albireo", b"albireo"),
            (&long, long.as_bytes()),
        ] {
            let key = Key::read(text, "k:").unwrap();
            assert_eq!((key.shown.as_slice(), key.stored), (shown, [b"k:", shown].concat()), "{text}");
        }
        let longer = "x".repeat(513);
        for text in ["", "%", "%1", "%zz", "%00", "%7f", "a%0Ab", "albireo:fence", "%61lbireo:x", &longer] {
            assert!(matches!(Key::read(text, "k:"), Err(Refusal::Bad("bad_key", _))), "{text}");
        }
        assert!(Key::read("bireo:fence", "al").is_err(), "also with the help of the prefix");
        assert!(Key::read(&"%41".repeat(512), "").is_ok(), "512 bytes after decoding");
    }

    #[test]
    fn queries() {
        let value = |text: &[u8]| Query { value: Some(text.to_vec()), ..Query::default() };
        let rows = [
            ("", Query::default()),
            ("&&", Query::default()),
            ("value=user100", value(b"user100")),
            ("value=", value(b"")),
            ("value", value(b"")),
            ("value=a+b%2B=%26", value(b"a b+=&")),
            ("x=1&value=v&_=%zz", value(b"v")),
            ("ttl_ms=1500", Query { ttl_ms: Some(1500), ..Query::default() }),
            ("from=secondary", Query { secondary: true, ..Query::default() }),
            ("from=primary&consistency=plain", Query::default()),
            ("from=primary&consistency=strong", Query { strong: true, ..Query::default() }),
        ];
        for (text, query) in rows {
            assert_eq!(Query::read(text), Ok(query), "{text}");
        }
        for (text, code) in [
            ("value=%", "bad_request"),
            ("value=1&value=2", "bad_request"),
            ("ttl_ms=", "bad_ttl"),
            ("ttl_ms=0", "bad_ttl"),
            ("ttl_ms=-1", "bad_ttl"),
            ("ttl_ms=%2B1", "bad_ttl"),
            ("ttl_ms=1.5", "bad_ttl"),
            ("ttl_ms=9000000000001", "bad_ttl"),
            ("ttl_ms=99999999999999999999", "bad_ttl"),
            ("from=x", "bad_request"),
            ("consistency=x", "bad_request"),
            ("consistency=strong&from=secondary", "bad_request"),
        ] {
            assert!(matches!(Query::read(text), Err(Refusal::Bad(c, _)) if c == code), "{text}");
        }
    }
}
