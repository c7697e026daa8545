//! What must hold whatever a client asks for.

use std::fmt::Write;

use super::{KEY_MAX, Key, Query, RESERVED, Route, TTL_MAX_MS, decoded};
use crate::answer::pair;

/// The path and the query of a request, as they stand in its first line.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    if let Some(Route::Get(service, key) | Route::Write(service, key)) = Route::of(path) {
        assert!(!key.contains('/'), "a bare slash ends a key");
        assert!(service.is_none_or(|service| !service.contains('/')));
        ["k:", "", "al"].into_iter().for_each(|prefix| key_of(key, prefix));
    }
    key_of(path, "k:");
    if let Ok(query) = Query::read(query) {
        assert!(query.ttl_ms.is_none_or(|ttl_ms| (1..=TTL_MAX_MS).contains(&ttl_ms)));
        assert!(!(query.strong && query.secondary));
        assert_eq!(Query::read(&written(&query)), Ok(query));
    }
}

fn key_of(text: &str, prefix: &str) {
    let Ok(key) = Key::read(text, prefix) else { return };
    assert!((1..=KEY_MAX).contains(&key.shown.len()));
    assert!(!key.shown.iter().any(u8::is_ascii_control));
    assert!(!key.shown.starts_with(RESERVED) && !key.stored.starts_with(RESERVED));
    assert_eq!(key.stored, [prefix.as_bytes(), &key.shown].concat());
    assert_eq!(decoded(&encoded(&key.shown), false).as_ref(), Some(&key.shown));
    assert_eq!(decoded(&encoded(&key.shown), true).as_ref(), Some(&key.shown));
    let body: serde_json::Value = serde_json::from_slice(&pair(&key.shown, Some(&key.stored))).expect("JSON");
    if let Ok(shown) = std::str::from_utf8(&key.shown) {
        assert_eq!(body["key"], shown);
    }
    assert_eq!(Key::read(&encoded(&key.shown), prefix), Ok(key));
}

/// Every byte as `%XX`.
fn encoded(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "%{byte:02X}").expect("a String takes everything");
        text
    })
}

fn written(query: &Query) -> String {
    let mut parts = Vec::new();
    parts.extend(query.value.as_ref().map(|value| format!("value={}", encoded(value))));
    parts.extend(query.ttl_ms.map(|ttl_ms| format!("ttl_ms={ttl_ms}")));
    parts.extend(query.secondary.then(|| "from=secondary".to_owned()));
    parts.extend(query.strong.then(|| "consistency=strong".to_owned()));
    parts.join("&")
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_inputs() {
        world::fuzz::replay("request", super::check);
    }
}
