//! The webhook: where facts are posted to, by HTTP or HTTPS.
//!
//! Its URL often carries a token, so it is a secret: whatever shows a [`Webhook`] shows scheme, host and port.

use std::fmt;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{Method, Request, StatusCode, Uri};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use settings::SectionReader;
use tls::Tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Where distributions keep the CAs that everybody believes.
const SYSTEM_CAS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// `http://HOST[:PORT]/PATH` or `https://...`
#[derive(Clone)]
pub(crate) struct Webhook {
    uri: Uri,
    host: String,
    port: u16,
    /// For https.
    tls: Option<Tls>,
}

impl Webhook {
    /// `[hooks] webhook` and `tls_ca`.
    pub(crate) fn read(section: &mut SectionReader<'_, '_>) -> Option<Self> {
        let url = section.secret("webhook");
        let Some(url) = url else {
            if section.has("tls_ca") && !section.has("webhook") {
                section.refuse("tls_ca", "has no effect without webhook = https://...");
            }
            return None;
        };
        let Some((uri, host, secure)) = parse(url.text()) else {
            section.refuse(
                "webhook",
                "expected http://HOST[:PORT]/PATH or https://..., without user and password",
            );
            return None;
        };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = if secure {
            Some(believed(section, &host)?)
        } else {
            if section.has("tls_ca") {
                section.refuse("tls_ca", "has no effect without webhook = https://...");
            }
            None
        };
        Some(Self { uri, host, port, tls })
    }

    /// Posts this JSON once; in words why it was not taken, without the URL.
    pub(crate) async fn post(&self, json: String) -> Result<(), String> {
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(json))
            .map_err(|e| e.to_string())?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| e.to_string())?;
        let status = match &self.tls {
            None => exchange(stream, request).await?,
            Some(tls) => {
                let name = Tls::server_name(&self.host).ok_or("no certificate can name this host")?;
                let ended =
                    || "the connection ended during the handshake; does that port speak TLS?".to_owned();
                let stream = TlsConnector::from(tls.config()).connect(name, stream).await;
                let stream =
                    stream.map_err(|e| format!("TLS: {}", tls::refusal(&e).unwrap_or_else(ended)))?;
                exchange(stream, request).await?
            }
        };
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    }
}

/// The host without brackets, and whether it is https.
fn parse(url: &str) -> Option<(Uri, String, bool)> {
    let uri: Uri = url.parse().ok()?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return None,
    };
    // Nobody reads a user and a password from here.
    if uri.authority()?.as_str().contains('@') {
        return None;
    }
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    (!host.is_empty()).then_some((uri, host, secure))
}

/// Whose certificates are believed: those of `tls_ca`, or else of whom the system believes.
fn believed(section: &mut SectionReader<'_, '_>, host: &str) -> Option<Tls> {
    if Tls::server_name(host).is_none() {
        section.refuse("webhook", "no certificate can name this host");
        return None;
    }
    if section.has("tls_ca") {
        let made = Tls::new(section.secret_file("tls_ca")?.expose(), None);
        return made.map_err(|error| section.refuse("tls_ca", &error.to_string())).ok();
    }
    let Some(pem) = section.first_file(&SYSTEM_CAS) else {
        let why =
            format!("https needs tls_ca, or a list of CAs in {} (package ca-certificates)", SYSTEM_CAS[0]);
        section.refuse("webhook", &why);
        return None;
    };
    Tls::of_system(&pem)
        .map_err(|error| section.refuse("webhook", &format!("{}: {error}", SYSTEM_CAS[0])))
        .ok()
}

/// One request on a connection that ends with it.
async fn exchange<S>(stream: S, request: Request<Body>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Dropped with this, however it ends.
    let mut side = JoinSet::new();
    side.spawn(connection);
    Ok(sender.send_request(request).await.map_err(|e| e.to_string())?.status())
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let host = self.uri.host().unwrap_or_default();
        write!(f, "{scheme}://{host}:{}", self.port)
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scheme_and_host_are_shown() {
        let shown = |url: &str| {
            let (uri, host, _) = parse(url)?;
            let port = uri.port_u16().unwrap_or(80);
            let webhook = Webhook { uri, host, port, tls: None };
            assert_eq!(format!("{webhook:?}"), webhook.to_string());
            Some(webhook.to_string())
        };
        assert_eq!(shown("http://a.example/T0KEN?k=v").as_deref(), Some("http://a.example:80"));
        assert_eq!(shown("http://[::1]:9/x").as_deref(), Some("http://[::1]:9"));
        for url in ["", "x", "/x", "ftp://a/x", "http://u:p@a/x", "http:///x", "https://u@a/x"] {
            assert_eq!(shown(url), None, "{url}");
        }
    }
}
