//! Replies: what RESP2 can say, and the bounds within which we listen.

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::types::BytesFrame;

/// One reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// No value.
    Nil,
    /// A simple string such as `OK`.
    Status(Bytes),
    /// A value.
    Bulk(Bytes),
    /// A number.
    Int(i64),
    /// An error, with the server's text; it begins with a code such as `READONLY`.
    Error(String),
    /// Several replies.
    Array(Vec<Reply>),
}

impl Reply {
    /// Whether this is the status `OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Status(text) if &text[..] == b"OK")
    }

    /// The bytes of a status or a value.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Status(bytes) | Self::Bulk(bytes) => Some(bytes),
            Self::Nil | Self::Int(_) | Self::Error(_) | Self::Array(_) => None,
        }
    }

    /// The text of a status or a value.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// A number, also one that came as decimal text.
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Status(_) | Self::Bulk(_) => self.text()?.parse().ok(),
            Self::Nil | Self::Error(_) | Self::Array(_) => None,
        }
    }

    /// A number that is not negative, also one that came as decimal text.
    pub fn unsigned(&self) -> Option<u64> {
        u64::try_from(self.int()?).ok()
    }

    /// The text of an error reply.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Error(text) => Some(text),
            Self::Nil | Self::Status(_) | Self::Bulk(_) | Self::Int(_) | Self::Array(_) => None,
        }
    }

    /// The parts of an array.
    pub fn array(&self) -> Option<&[Reply]> {
        match self {
            Self::Array(parts) => Some(parts),
            Self::Nil | Self::Status(_) | Self::Bulk(_) | Self::Int(_) | Self::Error(_) => None,
        }
    }
}

impl From<BytesFrame> for Reply {
    fn from(frame: BytesFrame) -> Self {
        match frame {
            BytesFrame::SimpleString(bytes) => Self::Status(bytes),
            BytesFrame::BulkString(bytes) => Self::Bulk(bytes),
            BytesFrame::Integer(number) => Self::Int(number),
            BytesFrame::Error(text) => Self::Error(text.to_string()),
            BytesFrame::Array(parts) => Self::Array(parts.into_iter().map(Self::from).collect()),
            BytesFrame::Null => Self::Nil,
        }
    }
}

/// What was received is no reply; nothing after it can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbage;

/// Arrays in arrays: EXEC of ROLE needs four.
const MAX_DEPTH: usize = 16;

/// Takes the first whole reply off the buffer; `None` until it is whole.
///
/// The end is sought first: the library descends once per level of nesting, and builds before it knows whether the
/// reply is complete, so it is shown complete replies of bounded depth and size only.
pub fn take_reply(buffer: &mut BytesMut, max_bytes: usize) -> Result<Option<Reply>, Garbage> {
    match end_of_reply(buffer, max_bytes)? {
        None => Ok(None),
        Some(end) => {
            let mut whole = buffer.split_to(end);
            match decode_bytes_mut(&mut whole) {
                Ok(Some((frame, _, _))) => Ok(Some(frame.into())),
                Ok(None) | Err(_) => Err(Garbage),
            }
        }
    }
}

/// Where so many replies end, if all of them are there.
pub(crate) fn end_of_replies(
    buffer: &[u8],
    count: usize,
    max_bytes: usize,
) -> Result<Option<usize>, Garbage> {
    let mut at = 0;
    for _ in 0..count {
        match end_of_reply(buffer.get(at..).unwrap_or_default(), max_bytes)? {
            Some(length) => at += length,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// Where the first reply ends, if all of it is there.
fn end_of_reply(buffer: &[u8], max_bytes: usize) -> Result<Option<usize>, Garbage> {
    // How many replies are still missing, per level of nesting.
    let mut missing = [0_usize; MAX_DEPTH];
    let mut depth = 0;
    missing[0] = 1;
    let mut at = 0;
    loop {
        let Some(line) = line_at(buffer, at) else {
            return if buffer.len() > max_bytes { Err(Garbage) } else { Ok(None) };
        };
        missing[depth] -= 1;
        let next = at + line.len() + 2;
        at = match line.split_first() {
            Some((b'+' | b'-' | b':', _)) => next,
            Some((b'$', digits)) => match length(digits, max_bytes)? {
                Some(bytes) => end_of_value(buffer, next + bytes)?,
                None => next,
            },
            Some((b'*', digits)) => {
                if let Some(parts @ 1..) = length(digits, max_bytes)? {
                    depth += 1;
                    *missing.get_mut(depth).ok_or(Garbage)? = parts;
                }
                next
            }
            Some(_) | None => return Err(Garbage),
        };
        if at > max_bytes {
            return Err(Garbage);
        }
        if at > buffer.len() {
            return Ok(None);
        }
        while missing[depth] == 0 {
            if depth == 0 {
                return Ok(Some(at));
            }
            depth -= 1;
        }
    }
}

/// Behind the CR LF that has to stand here, which the library does not look at. Without it somebody else's bytes would be
/// taken for a part of this reply.
fn end_of_value(buffer: &[u8], at: usize) -> Result<usize, Garbage> {
    let is_there =
        buffer.get(at..).unwrap_or_default().iter().zip(b"\r\n").all(|(byte, expected)| byte == expected);
    if is_there { Ok(at + 2) } else { Err(Garbage) }
}

/// The line that begins here, without its CR LF.
fn line_at(buffer: &[u8], at: usize) -> Option<&[u8]> {
    let rest = buffer.get(at..)?;
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    rest.get(..end)
}

/// A length; `None` for the -1 of a missing value.
fn length(digits: &[u8], max: usize) -> Result<Option<usize>, Garbage> {
    if digits == b"-1" {
        return Ok(None);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Garbage)?;
    match text.parse::<usize>() {
        Ok(length) if length <= max => Ok(Some(length)),
        Ok(_) | Err(_) => Err(Garbage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1000;

    fn take(text: &[u8]) -> Result<Option<Reply>, Garbage> {
        take_reply(&mut BytesMut::from(text), LIMIT)
    }

    #[test]
    fn where_several_replies_end() {
        let three = b"+OK\r\n$1\r\na\r\n:5\r\n";
        for (count, end) in [(0, Some(0)), (1, Some(5)), (2, Some(12)), (3, Some(16)), (4, None)] {
            assert_eq!(end_of_replies(three, count, LIMIT), Ok(end), "{count}");
        }
        assert_eq!(end_of_replies(&three[..11], 2, LIMIT), Ok(None));
        assert_eq!(end_of_replies(b"+OK\r\nno reply\r\n", 2, LIMIT), Err(Garbage));
    }

    #[test]
    fn every_kind_of_reply() {
        let bulk = |text: &'static str| Reply::Bulk(Bytes::from_static(text.as_bytes()));
        let rows: [(&[u8], Reply); 9] = [
            (b"+OK\r\n", Reply::Status(Bytes::from_static(b"OK"))),
            (b"-READONLY You can't\r\n", Reply::Error("READONLY You can't".into())),
            (b":-12\r\n", Reply::Int(-12)),
            (b"$3\r\na\r\n\r\n", bulk("a\r\n")),
            (b"$0\r\n\r\n", bulk("")),
            (b"$-1\r\n", Reply::Nil),
            (b"*-1\r\n", Reply::Nil),
            (b"*0\r\n", Reply::Array(Vec::new())),
            (
                b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
                Reply::Array(vec![Reply::Array(vec![Reply::Int(1)]), bulk("x")]),
            ),
        ];
        for (text, reply) in rows {
            for cut in 0..text.len() {
                assert_eq!(take(&text[..cut]), Ok(None), "{text:?} up to {cut}");
            }
            let mut twice = BytesMut::from(&[text, text].concat()[..]);
            assert_eq!(take_reply(&mut twice, LIMIT), Ok(Some(reply.clone())));
            assert_eq!(take_reply(&mut twice, LIMIT), Ok(Some(reply)));
            assert!(twice.is_empty());
        }
    }

    #[test]
    fn what_is_no_reply() {
        let deep = b"*1\r\n".repeat(MAX_DEPTH);
        let long = [b"+".to_vec(), b"x".repeat(LIMIT + 1)].concat();
        let many = b"*900\r\n".iter().chain(b":1\r\n".repeat(400).iter()).copied().collect::<Vec<_>>();
        let rows: [&[u8]; 12] = [
            b"HTTP/1.1 400\r\n",
            b"$3\r\nabcde",
            b"$3\r\nabc\rd",
            b"\r\n",
            b"$-2\r\n",
            b"$x\r\n",
            b"$99999999999999999999\r\n",
            b"$1001\r\n",
            b"*-5\r\n",
            &deep,
            &long,
            &many,
        ];
        for text in rows {
            assert_eq!(take(text), Err(Garbage), "{text:?}");
        }
        assert_eq!(take(b":x\r\n"), Err(Garbage));
    }

    #[test]
    fn helpers() {
        assert_eq!(Reply::Bulk(Bytes::from_static(b"12")).unsigned(), Some(12));
        assert_eq!(Reply::Int(-1).unsigned(), None);
        assert_eq!(Reply::Error("ERR x".into()).bytes(), None);
        assert!(Reply::Status(Bytes::from_static(b"OK")).is_ok());
        assert!(!Reply::Bulk(Bytes::from_static(b"OK")).is_ok());
    }
}
