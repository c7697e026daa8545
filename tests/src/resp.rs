//! A small blocking Redis client: one command, one reply. It never retries and never reconnects.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

use crate::Host;

/// How long a reply may take.
const REPLY_LIMIT: Duration = Duration::from_secs(10);

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`, and bulk strings.
    Text(String),
    /// `-ERR ...`
    Error(String),
    /// `:1`
    Number(i64),
    /// Nothing there.
    Nil,
    /// Several.
    List(Vec<Reply>),
}

impl Reply {
    /// The text, or a panic with what came instead.
    #[track_caller]
    pub fn text(&self) -> &str {
        let Reply::Text(text) = self else { panic!("expected a text, got {self:?}") };
        text
    }

    /// The number (also one that came as text), or a panic with what came instead.
    #[track_caller]
    pub fn number(&self) -> i64 {
        let number = match self {
            Reply::Number(number) => Some(*number),
            Reply::Text(text) => text.parse().ok(),
            Reply::Error(_) | Reply::Nil | Reply::List(_) => None,
        };
        number.unwrap_or_else(|| panic!("expected a number, got {self:?}"))
    }

    /// The list, or a panic with what came instead.
    #[track_caller]
    pub fn list(&self) -> &[Reply] {
        let Reply::List(list) = self else { panic!("expected a list, got {self:?}") };
        list
    }

    /// Whether it is an error that begins with this word.
    pub fn is_error(&self, word: &str) -> bool {
        matches!(self, Reply::Error(text) if text.starts_with(word))
    }
}

impl From<OwnedFrame> for Reply {
    fn from(frame: OwnedFrame) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        match frame {
            OwnedFrame::SimpleString(bytes) | OwnedFrame::BulkString(bytes) => Reply::Text(text(bytes)),
            OwnedFrame::Error(why) => Reply::Error(why),
            OwnedFrame::Integer(number) => Reply::Number(number),
            OwnedFrame::Array(list) => Reply::List(list.into_iter().map(Reply::from).collect()),
            OwnedFrame::Null => Reply::Nil,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects from `host`.
    pub fn open(host: &Host, to: SocketAddr, limit: Duration) -> io::Result<Self> {
        let stream = host.connect(to, limit)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_LIMIT))?;
        stream.set_write_timeout(Some(REPLY_LIMIT))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// How long a reply may take from now on.
    pub fn set_limit(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(limit))
    }

    /// One command, one reply.
    pub fn call(&mut self, words: &[&str]) -> io::Result<Reply> {
        self.send(words)?;
        self.receive()
    }

    /// Sends a command without waiting for its reply.
    pub fn send(&mut self, words: &[&str]) -> io::Result<()> {
        self.send_bytes(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
    }

    /// The same with words that are no text.
    pub fn send_bytes(&mut self, words: &[&[u8]]) -> io::Result<()> {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&out)
    }

    /// The next reply.
    pub fn receive(&mut self) -> io::Result<Reply> {
        loop {
            let decoded = decode(&self.buffer)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            if let Some((frame, length)) = decoded {
                self.buffer.drain(..length);
                return Ok(frame.into());
            }
            let mut chunk = [0; 16 * 1024];
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }
}
