//! TLS with ZooKeeper, as the client library wants to be told of it, and what it keeps to itself: why there is no connection.

use std::io;
use std::str;
use std::sync::Once;

use tls::Tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zookeeper_client::{Client, Connector, Error, TlsOptions};

use super::Options;

/// One round over all hosts, each by TLS.
pub(super) async fn connect(connector: Connector, tls: &Tls, hosts: &str) -> Result<Client, Error> {
    connector.with_tls(options(tls)?).secure_connect(hosts).await
}

/// From what the configuration has checked already. The name of the host is always verified.
fn options(tls: &Tls) -> Result<TlsOptions, Error> {
    // The library takes the process's default, and two implementations are linked.
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error means that there is a default already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let text = |pem| str::from_utf8(pem).map_err(|_| Error::BadArguments(&"a PEM file is not UTF-8"));
    let (ca, identity) = tls.pem();
    let made = TlsOptions::new().with_pem_ca(text(ca)?)?;
    match identity {
        Some(identity) => made.with_pem_identity(text(identity.certificate)?, text(identity.key)?),
        None => Ok(made),
    }
}

/// What TLS says of each server that speaks it badly, is not to be believed, or does not believe us; `None` if that is not
/// why there is no session.
pub(super) async fn refusals(options: &Options) -> Option<String> {
    let tls = options.tls.as_ref()?;
    let hosts = options.hosts.split('/').next().unwrap_or_default();
    let mut asked = JoinSet::new();
    for host in hosts.split(',') {
        let (tls, host, limit) = (tls.clone(), host.to_owned(), options.host_timeout());
        asked.spawn(async move {
            let why = timeout(limit, refusal(&tls, &host)).await.ok()??;
            Some(format!("{host}: TLS: {why}"))
        });
    }
    let mut all: Vec<String> = asked.join_all().await.into_iter().flatten().collect();
    all.sort();
    (!all.is_empty()).then(|| all.join("; "))
}

async fn refusal(tls: &Tls, address: &str) -> Option<String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let Some(name) = Tls::server_name(host) else {
        return Some("no certificate can name this host".to_owned());
    };
    let stream = TcpStream::connect(address).await.ok()?;
    let ended = || "the connection ended during the handshake; does that port speak TLS?".to_owned();
    match TlsConnector::from(tls.config()).connect(name, stream).await {
        Err(error) => Some(tls::refusal(&error).unwrap_or_else(ended)),
        Ok(stream) => afterwards(stream).await.err().and_then(|error| tls::refusal(&error)),
    }
}

/// In TLS 1.3 a server looks at our certificate after the handshake, and says what it thinks of it in answer to the first bytes.
async fn afterwards(mut stream: tokio_rustls::client::TlsStream<TcpStream>) -> io::Result<()> {
    stream.write_all(b"ruok").await?;
    stream.flush().await?;
    stream.read_u8().await.map(drop)
}
