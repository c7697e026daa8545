//! What must hold whatever somebody asks for who looks for a primary over HTTP.

use axum::extract::Query;
use axum::http::Uri;

use super::{WAIT_MAX, Wait};

/// The bytes as the query of a long poll.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(uri) = Uri::try_from(format!("/services/posts/primary?{text}")) else { return };
    let Some(query) = uri.query() else { return };
    match Wait::read(Query::try_from_uri(&uri)) {
        Ok(Some((epoch, wait))) => {
            assert!(wait <= WAIT_MAX, "{wait:?}");
            let again = Uri::try_from(format!("/?after_epoch={epoch}&wait_ms={}", wait.as_millis()));
            let again = Wait::read(Query::try_from_uri(&again.expect("a URI")));
            assert!(matches!(again, Ok(Some(again)) if again == (epoch, wait)));
        }
        // A misspelt key would have its client ask without a pause.
        Ok(None) => assert!(query.split('&').all(str::is_empty), "{query}"),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_inputs() {
        world::fuzz::replay("lookup", super::check);
    }
}
