//! The connection itself: opened with a greeting, used as a whole or in two halves.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tls::Tls;
use tokio::net::TcpStream;
use topology::Endpoint;

use crate::reply::{end_of_replies, take_reply};
use crate::stream::{self, ReadHalf, WriteHalf};
use crate::{Command, InfoReply, Reply, cmd};

/// The longest reply that is listened to, unless [`Receiver::limit`] says otherwise.
pub const MAX_REPLY_BYTES: usize = 64 << 20;

/// Room for one read.
const READ_BYTES: usize = 8 << 10;

/// How the server is to know us.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The ACL user; the default one if absent.
    pub username: Option<String>,
    /// Without a password no AUTH is sent.
    pub password: Option<String>,
    /// Without it nothing is encrypted.
    pub tls: Option<Tls>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let password = self.password.as_ref().map(|_| "***");
        f.debug_struct("Login")
            .field("username", &self.username)
            .field("password", &password)
            .field("tls", &self.tls)
            .finish()
    }
}

/// Why no link could be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Nobody listens there: the process is gone.
    #[error("connection refused")]
    Refused,
    /// Nothing came back in time: a silent host, or a server that is paused or busy.
    #[error("no answer in time")]
    TimedOut,
    /// The server closed the connection before it had greeted.
    #[error("closed during the greeting")]
    Closed,
    /// No way there: no route, no such host, no free descriptor of ours.
    #[error("unreachable: {0}")]
    Unreachable(io::ErrorKind),
    /// The password, or its absence, was refused, with the server's words.
    #[error("login refused: {0}")]
    Login(String),
    /// The server greeted with an error and closed, as with too many clients.
    #[error("turned away: {0}")]
    TurnedAway(String),
    /// No TLS could be agreed on, with the reason: another CA, another name, a certificate that the server does not take.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server closed the connection after the handshake of TLS.
    #[error("closed after the handshake, as by a server that wants another certificate (tls_cert)")]
    ClosedAfterHandshake,
    /// What answers there does not speak RESP.
    #[error("not a Redis server")]
    Protocol,
}

/// Why a link is of no use any more. What was sent and not answered may or may not have been executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The connection ended.
    #[error("connection closed")]
    Closed,
    /// What came is no reply, or a longer one than is listened to.
    #[error("reply not understood")]
    Protocol,
}

/// One connection to one Redis process.
#[derive(Debug)]
pub struct Link {
    peer: SocketAddr,
    run_id: Option<String>,
    greeting_error: Option<String>,
    sender: Sender,
    receiver: Receiver,
}

/// A connection over which nothing was said yet: the kernel of the other side has taken it, not the process.
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    peer: SocketAddr,
}

/// The half that writes.
#[derive(Debug)]
pub struct Sender {
    half: WriteHalf,
    buffer: BytesMut,
}

/// The half that listens.
#[derive(Debug)]
pub struct Receiver {
    half: ReadHalf,
    buffer: BytesMut,
    max_bytes: usize,
    /// What TLS said when it ended the connection.
    alert: Option<String>,
}

/// Several replies as they came.
#[derive(Debug)]
pub struct Answer {
    bytes: Vec<u8>,
    replies: usize,
}

impl Line {
    /// Connects, within `timeout`, and says nothing.
    pub async fn connect(addr: &Endpoint, timeout: Duration) -> Result<Self, OpenError> {
        tokio::time::timeout(timeout, Self::connected(addr)).await.unwrap_or(Err(OpenError::TimedOut))
    }

    async fn connected(addr: &Endpoint) -> Result<Self, OpenError> {
        let stream = TcpStream::connect((addr.host(), addr.port())).await.map_err(|e| open_error(&e))?;
        let peer = stream.peer_addr().map_err(|e| open_error(&e))?;
        stream.set_nodelay(true).map_err(|e| open_error(&e))?;
        Ok(Self { stream, peer })
    }

    /// What is left to do for a [`Link::open`]. `addr` is the one that was connected to. It takes as long as the server does.
    pub async fn greet(self, addr: &Endpoint, login: &Login, name: &str) -> Result<Link, OpenError> {
        let Self { stream, peer } = self;
        let (read, write) = match &login.tls {
            Some(tls) => stream::encrypted(stream, tls, addr.host()).await?,
            None => stream::plain(stream),
        };
        let mut link = Link {
            peer,
            run_id: None,
            greeting_error: None,
            sender: Sender { half: write, buffer: BytesMut::new() },
            receiver: Receiver {
                half: read,
                buffer: BytesMut::new(),
                max_bytes: MAX_REPLY_BYTES,
                alert: None,
            },
        };
        link.introduce(login, name).await?;
        Ok(link)
    }
}

impl Link {
    /// Connects, logs in, tells the server our name and reads which process it is; all within `timeout`.
    ///
    /// A server that is loading its data greets as usual. One that answers everything with `BUSY`, or does not allow
    /// us INFO, gives a link without a [`Link::run_id`] and with a [`Link::greeting_error`].
    pub async fn open(
        addr: &Endpoint,
        login: &Login,
        name: &str,
        timeout: Duration,
    ) -> Result<Self, OpenError> {
        let open = async { Line::connected(addr).await?.greet(addr, login, name).await };
        tokio::time::timeout(timeout, open).await.unwrap_or(Err(OpenError::TimedOut))
    }

    async fn introduce(&mut self, login: &Login, name: &str) -> Result<(), OpenError> {
        let mut pipeline = Vec::with_capacity(3);
        let auth = login.password.as_ref().map(|password| match &login.username {
            Some(username) => cmd!["AUTH", username, password],
            None => cmd!["AUTH", password],
        });
        let with_auth = auth.is_some();
        pipeline.extend(auth);
        pipeline.push(cmd!["CLIENT", "SETNAME", name]);
        pipeline.push(cmd!["INFO", "server"]);
        // A server that turns us away answers before it closes; its words matter more than the failed write.
        let _ = self.sender.send(&pipeline).await;
        for at in 0..pipeline.len() {
            let reply = match self.receiver.next().await {
                Ok(reply) => reply,
                Err(LinkError::Protocol) => return Err(OpenError::Protocol),
                // A server judges our certificate after its part of the handshake.
                Err(LinkError::Closed) if login.tls.is_some() && self.greeting_error.is_none() => {
                    let alert = self.receiver.alert.take();
                    return Err(alert.map_or(OpenError::ClosedAfterHandshake, OpenError::Tls));
                }
                Err(LinkError::Closed) => {
                    return Err(self.greeting_error.take().map_or(OpenError::Closed, OpenError::TurnedAway));
                }
            };
            match reply {
                Reply::Error(text) if (at == 0 && with_auth) || is_login_error(&text) => {
                    return Err(login_or_turned_away(text));
                }
                Reply::Error(text) => self.greeting_error = Some(text),
                Reply::Nil | Reply::Status(_) | Reply::Bulk(_) | Reply::Int(_) | Reply::Array(_) => {
                    let info = InfoReply::from_reply(&reply);
                    self.run_id = info.and_then(|info| info.field("run_id").map(str::to_owned));
                }
            }
        }
        Ok(())
    }

    /// The address that the name led to.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Which process answered; `None` if it would not say.
    pub fn run_id(&self) -> Option<&str> {
        self.run_id.as_deref()
    }

    /// The last error of the greeting, for example `BUSY` or `NOPERM`, of a server that let us in all the same.
    pub fn greeting_error(&self) -> Option<&str> {
        self.greeting_error.as_deref()
    }

    /// Sends the commands in one write and waits for all replies, which come in the same order. Without a deadline:
    /// the caller knows how long it is worth waiting. After a cancelled call the link must be dropped.
    pub async fn call(&mut self, pipeline: &[Command]) -> Result<Vec<Reply>, LinkError> {
        self.sender.send(pipeline).await?;
        let mut replies = Vec::with_capacity(pipeline.len());
        for _ in pipeline {
            replies.push(self.receiver.next().await?);
        }
        Ok(replies)
    }

    /// The two halves, to be used independently.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// The half that listens, for a wait without a question: it ends when the connection does.
    pub fn receiver(&mut self) -> &mut Receiver {
        &mut self.receiver
    }
}

impl Sender {
    /// Writes commands that are encoded already ([`Command::write_to`]), in one go.
    pub async fn send_encoded(&mut self, pipeline: &[u8]) -> Result<(), LinkError> {
        self.half.write_all(pipeline).await.map_err(|_| LinkError::Closed)
    }

    /// Writes the commands in one go. Success means that the kernel has them, no more.
    pub async fn send(&mut self, pipeline: &[Command]) -> Result<(), LinkError> {
        self.buffer.clear();
        for command in pipeline {
            command.write_to(&mut self.buffer);
        }
        self.half.write_all(&self.buffer).await.map_err(|_| LinkError::Closed)?;
        // One huge pipeline must not hold its memory for the life of the connection.
        if self.buffer.capacity() > 4 << 20 {
            self.buffer = BytesMut::new();
        }
        Ok(())
    }
}

impl Receiver {
    /// The next reply, or the end of the connection as soon as it is seen. Cancel-safe: a reply that was read in part
    /// is completed by the next call.
    pub async fn next(&mut self) -> Result<Reply, LinkError> {
        loop {
            if let Some(reply) =
                take_reply(&mut self.buffer, self.max_bytes).map_err(|_| LinkError::Protocol)?
            {
                return Ok(reply);
            }
            self.more().await?;
        }
    }

    /// Waits until so many replies are there as a whole, for whoever asks the same again and again. True if the first of them are
    /// `before` once more: then [`Receiver::skip`] passes over those. All stay; [`Receiver::buffered`] reads them. Cancel-safe as
    /// [`Receiver::next`].
    pub async fn whole(&mut self, count: usize, before: Option<&Answer>) -> Result<bool, LinkError> {
        loop {
            // The same bytes are the same replies, and end where those ended.
            let same =
                before.filter(|before| before.replies <= count && self.buffer.starts_with(&before.bytes));
            let (at, known) = same.map_or((0, 0), |same| (same.bytes.len(), same.replies));
            if self.end_of(at, count - known)?.is_some() {
                return Ok(same.is_some());
            }
            self.more().await?;
        }
    }

    /// So many replies as they came, to be known again ([`Receiver::whole`]); nothing if they are not all there. They stay.
    pub fn answer(&self, replies: usize) -> Result<Option<Answer>, LinkError> {
        let end = self.end_of(0, replies)?;
        Ok(end.map(|end| Answer { bytes: self.buffer[..end].to_vec(), replies }))
    }

    /// Passes over an answer that came once more, if it did.
    pub fn skip(&mut self, answer: &Answer) {
        if self.buffer.starts_with(&answer.bytes) {
            self.buffer.advance(answer.bytes.len());
        }
    }

    fn end_of(&self, at: usize, count: usize) -> Result<Option<usize>, LinkError> {
        end_of_replies(&self.buffer[at..], count, self.max_bytes).map_err(|_| LinkError::Protocol)
    }

    async fn more(&mut self) -> Result<(), LinkError> {
        self.buffer.reserve(READ_BYTES);
        match self.half.read_buf(&mut self.buffer).await {
            Ok(1..) => Ok(()),
            Ok(0) => Err(LinkError::Closed),
            Err(error) => {
                self.alert = (error.kind() == io::ErrorKind::InvalidData).then(|| error.to_string());
                Err(LinkError::Closed)
            }
        }
    }

    /// The next reply if all of it was received already; never waits.
    pub fn buffered(&mut self) -> Result<Option<Reply>, LinkError> {
        take_reply(&mut self.buffer, self.max_bytes).map_err(|_| LinkError::Protocol)
    }

    /// Listens to replies of up to so many bytes.
    pub fn limit(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
    }
}

fn open_error(error: &io::Error) -> OpenError {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, TimedOut};
    let kind = error.kind();
    if kind == ConnectionRefused {
        OpenError::Refused
    } else if kind == TimedOut {
        OpenError::TimedOut
    } else if kind == ConnectionReset || kind == BrokenPipe {
        OpenError::Closed
    } else {
        OpenError::Unreachable(kind)
    }
}

fn is_login_error(text: &str) -> bool {
    text.starts_with("NOAUTH") || text.starts_with("WRONGPASS")
}

/// The first reply of a server that turns everybody away is not about the password.
fn login_or_turned_away(mut text: String) -> OpenError {
    // A server without AUTH repeats what it was sent: the password.
    if let Some(at) = text.find(", with args") {
        text.truncate(at);
    }
    let turned_away = text.starts_with("DENIED") || text.contains("max number of clients");
    if turned_away { OpenError::TurnedAway(text) } else { OpenError::Login(text) }
}
