//! The bytes below a link: a TCP connection as it is, or TLS on top of it.

use std::io;

use bytes::BytesMut;
use tls::Tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::OpenError;

/// What is read from.
#[derive(Debug)]
pub(crate) enum ReadHalf {
    Plain(OwnedReadHalf),
    Encrypted(tokio::io::ReadHalf<TlsStream<TcpStream>>),
}

/// What is written to.
#[derive(Debug)]
pub(crate) enum WriteHalf {
    Plain(OwnedWriteHalf),
    Encrypted(tokio::io::WriteHalf<TlsStream<TcpStream>>),
}

/// As it is.
pub(crate) fn plain(stream: TcpStream) -> (ReadHalf, WriteHalf) {
    let (read, write) = stream.into_split();
    (ReadHalf::Plain(read), WriteHalf::Plain(write))
}

/// After a handshake with a server that proves to be this host.
pub(crate) async fn encrypted(
    stream: TcpStream,
    tls: &Tls,
    host: &str,
) -> Result<(ReadHalf, WriteHalf), OpenError> {
    let name =
        Tls::server_name(host).ok_or_else(|| OpenError::Tls(format!("no certificate can name {host}")))?;
    let stream =
        TlsConnector::from(tls.config()).connect(name, stream).await.map_err(|e| handshake_error(&e))?;
    let (read, write) = tokio::io::split(stream);
    Ok((ReadHalf::Encrypted(read), WriteHalf::Encrypted(write)))
}

fn handshake_error(error: &io::Error) -> OpenError {
    tls::refusal(error).map_or(OpenError::Closed, OpenError::Tls)
}

impl ReadHalf {
    /// Reads once; 0 is the end. Cancel-safe.
    pub(crate) async fn read_buf(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(half) => half.read_buf(buffer).await,
            Self::Encrypted(half) => half.read_buf(buffer).await,
        }
    }
}

impl WriteHalf {
    /// Hands all of it to the kernel.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(half) => half.write_all(bytes).await,
            Self::Encrypted(half) => {
                half.write_all(bytes).await?;
                half.flush().await
            }
        }
    }
}
