//! In place of `secure.rs` where the feature `zookeeper-tls` is off: whoever asks for TLS gets no connection at all.

use tls::Tls;
use zookeeper_client::{Client, Connector, Error};

use super::Options;

pub(super) async fn connect(_: Connector, _: &Tls, _: &str) -> Result<Client, Error> {
    std::future::ready(Err(Error::BadArguments(&"this build has no TLS with ZooKeeper"))).await
}

/// Nobody refused anything.
pub(super) async fn refusals(_: &Options) -> Option<String> {
    std::future::ready(None).await
}
