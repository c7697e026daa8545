//! The dashboard at `/`: one page with its style, its script and its icon, all from this program. It loads nothing from
//! anywhere else, and the browser is told to refuse if it tried.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;

/// No script, style, picture or connection but from here, no frame around it, and no way from a text to the markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
     trusted-types 'none'";

/// The files: page, kind, content.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("dashboard/page.html")),
    ("/dashboard.css", "text/css; charset=utf-8", include_str!("dashboard/page.css")),
    ("/dashboard.js", "text/javascript; charset=utf-8", include_str!("dashboard/page.js")),
    ("/dashboard.svg", "image/svg+xml", include_str!("dashboard/icon.svg")),
];

/// The pages.
pub(crate) fn routes() -> Router {
    FILES.into_iter().fold(Router::new(), |router, (page, kind, content)| {
        router.route(page, get(move || async move { file(kind, content) }))
    })
}

fn file(kind: &'static str, content: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // Another version may answer here tomorrow.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, content)
}
