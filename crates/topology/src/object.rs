//! JSON objects, and nothing that is only taken for one.

use serde::de::{DeserializeOwned, Error};

/// Reads an object. An array is refused, which serde takes for a struct as well, its fields by their position: that is
/// nothing that one of ours ever wrote, or that anybody who writes it by hand would mean.
pub fn from_object<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    match json.trim_ascii_start().first() {
        Some(b'[') => Err(Error::custom("an array, where an object was expected")),
        Some(_) | None => serde_json::from_slice(json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LeaderRecord;

    #[test]
    fn an_object_and_no_array() {
        let read = |json: &str| from_object::<LeaderRecord>(json.as_bytes());
        assert!(read(r#" {"name":"a","instance":"b"}"#).is_ok());
        assert!(serde_json::from_slice::<LeaderRecord>(br#"["a","b"]"#).is_ok());
        for json in [r#"["a","b"]"#, "\n[\"a\",\"b\"]", "", "{}", "1"] {
            assert!(read(json).is_err(), "{json}");
        }
    }
}
